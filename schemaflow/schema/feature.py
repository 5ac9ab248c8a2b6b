"""One feature: what a column holds, and how it enters the model."""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, field_validator, model_validator

from schemaflow.errors import SchemaError
from schemaflow.schema.document import Document
from schemaflow.schema.tags import Tags, atoms, parse_tag

__all__ = [
    "COMBINERS",
    "MISSING",
    "OUT_OF_VOCABULARY",
    "PADDING",
    "RESERVED_ROWS",
    "Feature",
    "ListOptions",
    "encoded_name",
]

PADDING, MISSING, OUT_OF_VOCABULARY = 0, 1, 2
RESERVED_ROWS = 3
"""Rows at the head of a table with a vocabulary: padding, missing, out of vocabulary (NVTabular's order since 23.06)."""

DType = Literal[
    "string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32", "float64"
]  # uint64 is left out: TensorFlow's lookups hold signed 64-bit keys

Combiner = Literal["mean", "sum", "sqrtn", "max"]
COMBINERS = get_args(Combiner)
"""How the vectors of a list become one: their sum divided by n, by 1, by sqrt(n); or the largest of each component."""

RESERVED_NAMES = frozenset(
    {"k", "exclude", "allow", "where", "identifiers", "scores", "count", "query", "candidate", "score"}
)
"""Words that the exported signatures use for themselves."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Problems = list[str]  # `list` is a key of Feature, so the class cannot say it inside

_SIDES = frozenset({Tags.USER, Tags.ITEM, Tags.CONTEXT})
_UNSUPPORTED = frozenset({Tags.TEXT, Tags.TOKENIZED, Tags.EMBEDDING})
_VALUES = frozenset(
    {Tags.TARGET, Tags.TIME, Tags.WEIGHT, Tags.POSITION, Tags.BIAS, Tags.TEACHER, Tags.ACTION, Tags.EXPLICIT_NEGATIVE}
)


def encoded_name(name: str) -> str:
    """Return the key of a feature's encoded values, which no raw input can have: a feature's name holds no slash.

    Example:
        >>> encoded_name("user_id")
        'user_id/encoded'
    """
    return f"{name}/encoded"


class ListOptions(Document):
    """A feature with any number of values in a row.

    Args:
        max_length: The most values that a row may hold; a longer row is an error.
    """

    max_length: Annotated[StrictInt, Field(ge=1)] | None = None


class EmbeddingSpec(Document):
    """The embedding of a categorical feature, where it differs from the model's `EmbeddingOptions`.

    Args:
        dim: The width of a row.
        combiner: How the rows of a list become one vector.
    """

    dim: Annotated[StrictInt, Field(ge=1)] | None = None
    combiner: Combiner | None = None


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Feature(Document):
    """One feature of a schema.

    Args:
        name: Letters, digits and underscores, beginning with a letter: it becomes an input of the exported signatures.
        dtype: The type of one value.
        tags: Its side (user, item, context), its kind (id, categorical, continuous, sequence) and its role.
        column: The Parquet column, where its name differs.
        cardinality: The rows of its embedding table, reserved ones included. An upper bound with a learned vocabulary.
        vocabulary: `learned` by `Schema.fit`, or the values themselves. Integers without one are rows already.
        domain: The name of the table; features with the same domain share it. The feature's own name if not given.
        list: The feature holds any number of values in a row.
        embedding: Its width and combiner, where they differ from the model's.
        normalize: `standard` subtracts the mean and divides by the standard deviation, learned by `Schema.fit`.

    Raises:
        pydantic.ValidationError: A key contradicts another one. From YAML: a `SchemaError` with one line for each mistake.

    Example:
        >>> Feature(name="genres", dtype="string", tags=["item", "categorical"], cardinality=22, list={}).kind
        'categorical'
    """

    name: str = Field(exclude=True)
    dtype: DType
    tags: Annotated[
        tuple[Annotated[Tags, BeforeValidator(lambda word: parse_tag(word) if isinstance(word, str) else word)], ...],
        BeforeValidator(_tuple),
    ] = ()
    column: StrictStr | None = None
    cardinality: Annotated[StrictInt, Field(ge=1)] | None = None
    vocabulary: Annotated[Literal["learned"] | tuple[StrictInt | StrictStr, ...], BeforeValidator(_tuple)] | None = None
    domain: StrictStr | None = None
    list: ListOptions | None = None
    embedding: EmbeddingSpec | None = None
    normalize: Literal["standard"] | None = None

    @field_validator("tags")
    @classmethod
    def _take_compounds_apart(cls, tags: tuple[Tags, ...]) -> tuple[Tags, ...]:
        return atoms(tags)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if problems := [f'feature "{self.name}" {problem}' for problem in self._problems()]:
            raise SchemaError(*problems)
        return self

    def _problems(self) -> Problems:
        problems = self._name_problems() + self._tag_problems()
        if problems:
            return problems
        categorical, number = self.kind == "categorical", self.dtype != "string"
        if categorical and self.dtype.startswith("float"):
            problems.append(
                f"is categorical but has dtype {self.dtype}; use an integer or string dtype, or tag it continuous"
            )
        if self.kind == "continuous" and not number:
            problems.append("is continuous but has dtype string; give it a number's dtype, or tag it categorical")
        if self.list is not None and not categorical:
            problems.append('is a list but not categorical; only categorical features can be lists: remove "list"')
        if Tags.SEQUENCE in self.tags and self.list is None:
            problems.append('is a sequence but not a list; add "list: {max_length: …}"')
        if Tags.ID in self.tags and self.list is not None and Tags.SEQUENCE not in self.tags:
            problems.append("is an id and a list; an id is one value a row: tag it categorical or sequence")
        for key in ("cardinality", "vocabulary", "domain", "embedding"):
            if getattr(self, key) is not None and not categorical:
                problems.append(f'has "{key}" but is not categorical; tag it categorical or remove the key')
        if self.normalize is not None and self.kind != "continuous":
            problems.append('has "normalize" but is not continuous; tag it continuous or remove the key')
        if self.embedding is not None and self.embedding.combiner is not None and self.list is None:
            problems.append('has a combiner but is not a list; add "list: {}" or remove the combiner')
        return problems + self._vocabulary_problems()

    def _name_problems(self) -> Problems:
        if not _NAME.fullmatch(self.name):
            return [
                'has a name that is not letters, digits and underscores beginning with a letter; rename it and say "column: <the Parquet name>"'
            ]
        if self.name in RESERVED_NAMES or self.name.startswith("where_"):
            return [
                'has a name that the exported signatures use themselves; rename it and say "column: <the Parquet name>"'
            ]
        return []

    def _tag_problems(self) -> Problems:
        tags = frozenset(self.tags)
        if Tags.CONTINUOUS in tags and (others := tags & {Tags.CATEGORICAL, Tags.ID, Tags.SEQUENCE}):
            return [f"is tagged both continuous and {min(others)}; keep one"]
        if others := tags & _UNSUPPORTED:
            return [f"is tagged {min(others)}, which no encoder supports yet; tag it categorical or continuous"]
        if tags & _SIDES and self.kind == "value" and not tags & _VALUES:
            return [f"has dtype {self.dtype} and may be a number or a code; tag it continuous or categorical"]
        return []

    def _vocabulary_problems(self) -> Problems:
        problems = []
        if isinstance(self.vocabulary, tuple):
            expected = str if self.dtype == "string" else int
            wrong = [value for value in self.vocabulary if not isinstance(value, expected)]
            if wrong:
                problems.append(
                    f"has dtype {self.dtype} but {wrong[0]!r} in its vocabulary; write its values as {expected.__name__}"
                )
            repeated = [value for value in self.vocabulary if self.vocabulary.count(value) > 1]
            if repeated:
                problems.append(f"has {repeated[0]!r} twice in its vocabulary; remove one")
            if self.cardinality is not None and self.cardinality < len(self.vocabulary) + RESERVED_ROWS:
                rows = len(self.vocabulary) + RESERVED_ROWS
                problems.append(
                    f"has cardinality {self.cardinality}, but its vocabulary and the {RESERVED_ROWS} reserved rows need {rows}"
                )
        elif self.encoding == "vocabulary" and self.cardinality is not None and self.cardinality <= RESERVED_ROWS:
            problems.append(
                f"has cardinality {self.cardinality}, which leaves no row beside the {RESERVED_ROWS} reserved ones"
            )
        return problems

    @property
    def kind(self) -> Literal["categorical", "continuous", "value"]:
        """How it enters the model: through a table, as a number, or (targets, times, weights) not at all."""
        tags = frozenset(self.tags)
        if tags & {Tags.CATEGORICAL, Tags.ID, Tags.SEQUENCE}:
            return "categorical"
        if Tags.CONTINUOUS in tags:
            return "continuous"
        if tags & _VALUES or not tags & _SIDES:
            return "value"
        return {"s": "categorical", "f": "continuous"}.get(self.dtype[0], "value")  # type: ignore[return-value]

    @property
    def encoding(self) -> Literal["vocabulary", "range"]:
        """Whether a value is looked up in a vocabulary, or is a row itself."""
        return "vocabulary" if self.dtype == "string" or self.vocabulary is not None else "range"

    @property
    def source(self) -> str:
        """The name of its Parquet column."""
        return self.column if self.column is not None else self.name

    @property
    def table(self) -> str:
        """The name of its embedding table: the domain, or the feature itself."""
        return self.domain if self.domain is not None else self.name

    def has(self, tag: Tags | str) -> bool:
        """Tell whether it has a tag, with every atom of a compound one."""
        return frozenset(atoms([tag])) <= frozenset(self.tags)
