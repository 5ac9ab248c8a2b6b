"""One feature: what a column holds, and how it enters the model."""

import keyword
import re
from collections import Counter
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, PlainValidator, StrictInt, StrictStr, field_validator, model_validator

from schemaflow.errors import SchemaError
from schemaflow.schema.document import Document, as_tuple
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
    {"self", "k", "exclude", "allow", "where", "identifiers", "scores", "count", "query", "candidate", "score"}
)
"""Words that the exported signatures use for themselves."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
Problems = list[str]  # `list` is a key of Feature, so the class cannot say it inside

_SIDES = frozenset({Tags.USER, Tags.ITEM, Tags.CONTEXT})
_VALUES = frozenset({Tags.TARGET, Tags.TIME})
_UNSUPPORTED = frozenset(
    {Tags.TEXT, Tags.TOKENIZED, Tags.EMBEDDING, Tags.POSITION, Tags.BIAS, Tags.WEIGHT, Tags.FILTER, Tags.TEACHER}
    | {Tags.ACTION, Tags.EXPLICIT_NEGATIVE}
)
"""Tags that have a name but that nothing reads yet: refused, not ignored."""


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


def _fits(value: Any, dtype: str) -> bool:
    """Tell whether an integer is within a dtype."""
    bits = int(dtype.lstrip("uint"))
    return 0 <= value < 2**bits if dtype.startswith("u") else -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def _vocabulary(value: Any) -> Any:
    """Take "learned", or a list of strings or integers."""
    values = as_tuple(value)
    if value is None or value == "learned":
        return value
    if isinstance(values, tuple) and all(isinstance(it, (int, str)) and not isinstance(it, bool) for it in values):
        return values
    hint = "; YAML reads yes, no, on and off as booleans: put such words in quotes" if isinstance(values, tuple) else ""
    raise SchemaError(f'"vocabulary": expected learned or a list of strings or integers, received {value!r}{hint}')


def _tag(word: Any) -> Tags:
    """Take a tag or its name."""
    if not isinstance(word, str):
        raise SchemaError(f"unknown tag {word!r}; a tag is a word, such as {Tags.USER}")
    return parse_tag(word)


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
        tuple[Annotated[Tags, BeforeValidator(_tag)], ...],
        BeforeValidator(as_tuple),
    ] = ()
    column: StrictStr | None = None
    cardinality: Annotated[StrictInt, Field(ge=1)] | None = None
    vocabulary: Annotated[Any, PlainValidator(_vocabulary)] = None
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
        if self.domain is not None and not _NAME.fullmatch(self.domain):
            problems.append(
                f'has the domain "{self.domain}"; name it in letters, digits and underscores, beginning with a letter'
            )
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
        if self.name in RESERVED_NAMES or self.name.startswith("where_") or keyword.iskeyword(self.name):
            return [
                'has a name that the exported signatures use themselves; rename it and say "column: <the Parquet name>"'
            ]
        return []

    def _tag_problems(self) -> Problems:
        tags = frozenset(self.tags)
        if Tags.CONTINUOUS in tags and (others := tags & {Tags.CATEGORICAL, Tags.ID, Tags.SEQUENCE}):
            return [f"is tagged both continuous and {min(others)}; keep one"]
        if others := tags & _UNSUPPORTED:
            return [f"is tagged {min(others)}, which nothing reads yet; remove the tag"]
        if tags & _SIDES and self.kind == "value" and not tags & _VALUES:
            return [f"has dtype {self.dtype} and may be a number or a code; tag it continuous or categorical"]
        return []

    def _vocabulary_problems(self) -> Problems:
        if not isinstance(self.vocabulary, tuple):
            if self.encoding == "vocabulary" and self.cardinality is not None and self.cardinality <= RESERVED_ROWS:
                return [
                    f"has cardinality {self.cardinality}, which leaves no row beside the {RESERVED_ROWS} reserved ones"
                ]
            return []
        problems = []
        if not self.vocabulary:
            problems.append('has an empty vocabulary; list its values, or say "vocabulary: learned"')
        expected = str if self.dtype == "string" else int
        if wrong := [value for value in self.vocabulary if not isinstance(value, expected)]:
            problems.append(
                f"has dtype {self.dtype} but {wrong[0]!r} in its vocabulary; write its values as {expected.__name__}"
            )
        elif expected is int and (beyond := [value for value in self.vocabulary if not _fits(value, self.dtype)]):
            problems.append(
                f"has dtype {self.dtype} but {beyond[0]} in its vocabulary, which does not fit; widen the dtype"
            )
        if repeated := [value for value, times in Counter(self.vocabulary).items() if times > 1]:
            problems.append(f"has {repeated[0]!r} twice in its vocabulary; remove one")
        rows = len(self.vocabulary) + RESERVED_ROWS
        if self.cardinality is not None and self.cardinality < rows:
            problems.append(
                f"has cardinality {self.cardinality}, but its vocabulary and the {RESERVED_ROWS} reserved rows need {rows}"
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
    def tensor_dtype(self) -> str:
        """The dtype of its raw tensors: unsigned ones are int64, where there is room for what stands for missing."""
        return "int64" if self.dtype.startswith("u") else self.dtype

    @property
    def table(self) -> str:
        """The name of its embedding table: the domain, or the feature itself."""
        return self.domain if self.domain is not None else self.name

    def has(self, tag: Tags | str) -> bool:
        """Tell whether it has a tag, with every atom of a compound one."""
        return frozenset(atoms([tag])) <= frozenset(self.tags)
