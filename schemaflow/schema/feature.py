"""One feature: what a column holds, and how it enters the model."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictStr, WithJsonSchema, field_validator, model_validator

from schemaflow.errors import SchemaError
from schemaflow.schema.document import Document, as_tuple
from schemaflow.schema.options import (
    Buckets,
    EmbeddingSpec,
    Fill,
    ListOptions,
    Missing,
    Rows,
    TextOptions,
    TimeOptions,
    Value,
    Vocabulary,
)
from schemaflow.schema.rules import TAG_SCHEMA, contradictions
from schemaflow.schema.tags import TARGET_KINDS, Tags, atoms, is_side, parse_tag

__all__ = [
    "CALENDAR",
    "DAY",
    "MISSING",
    "OUT_OF_VOCABULARY",
    "PADDING",
    "Encoding",
    "Feature",
    "Kind",
    "encoded_name",
]

PADDING, MISSING, OUT_OF_VOCABULARY = 0, 1, 2
"""Rows at the head of a table whose values are looked up (NVTabular's order since 23.06); the values follow."""

CALENDAR = {"hour": 24, "weekday": 7}
"""How many values a part of a moment has."""

DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
"""Units of time in a day."""

Kind = Literal["categorical", "continuous", "vector", "weights", "value"]
Encoding = Literal["vocabulary", "hash", "range", "buckets", "calendar"]

DType = Literal[
    "string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float32", "float64"
]  # uint64 is left out: TensorFlow's lookups hold signed 64-bit keys

_VALUES = frozenset({Tags.TARGET, Tags.TIME, Tags.POSITION, Tags.EXPLICIT_NEGATIVE, Tags.TEACHER}) | TARGET_KINDS
_CATEGORICAL = frozenset({Tags.CATEGORICAL, Tags.ID, Tags.SEQUENCE, Tags.TEXT, Tags.ACTION})


def encoded_name(name: str) -> str:
    """Return the key of a feature's encoded values, which no raw input can have: a feature's name holds no slash.

    Example:
        >>> encoded_name("user_id")
        'user_id/encoded'
    """
    return f"{name}/encoded"


def _tag(word: Any) -> Tags | str:
    """Take a tag or its name."""
    if not isinstance(word, str):
        raise SchemaError(f"unknown tag {word!r}; a tag is a word, such as {Tags.USER}")
    return parse_tag(word)


class Feature(Document):
    """One feature of a schema.

    Args:
        name: Letters, digits and underscores, beginning with a letter: it becomes an input of the exported signatures.
        dtype: The type of one value.
        tags: Its side (user, item, context, session, or one of your own, `x-seed`), its kind (id, categorical,
            continuous, sequence, text, embedding) and its role (target, time, weight, position, explicit_negative, teacher,
            filter; action, of what was done in each event of a sequence; bias, of what debiasing alone reads, of no side).
            With `filter`, requests can ask for items by it; it enters the model too if it is tagged with its kind.
        column: The Parquet column, where its name differs.
        cardinality: The rows of its embedding table, reserved ones included. An upper bound with a learned vocabulary. Of
            a position, one more than the last that is told apart, which stands for all beyond.
        vocabulary: `learned` by `Schema.fit`, the values themselves, or a file of them. Integers without one are rows
            already.
        hash: Values are hashed into this many rows, in place of a vocabulary.
        oov: The rows that values out of the vocabulary are hashed into; 1 if not given.
        domain: The name of the table; features with the same domain share it. The feature's own name if not given.
        list: The feature holds any number of values in a row.
        text: How a text is split into tokens.
        embedding: Its table, where it differs from the model's options; of a dense vector, its width.
        normalize: With what `Schema.fit` learned: `standard` is `(x - mean) / deviation`, `min-max` is
            `(x - min) / (max - min)`; or `log1p`, which is `log(1 + x)`.
        buckets: The number enters through a table with a row for each bucket.
        time: The values are moments, and what of them enters the model.
        missing: What a missing value is. If not given: a row of its own in a table, an error for a number.
        value: Of a target: what a row whose label is 1 is worth. With it, a row counts as a positive by its net value, the
            sum over the targets of value times label, where that is above 0.

    Raises:
        pydantic.ValidationError: A key contradicts another one. From YAML: a `SchemaError` with one line for each mistake.

    Example:
        >>> Feature(name="genres", dtype="string", tags=["item", "categorical"], cardinality=22, list={}).kind
        'categorical'
    """

    name: str = Field(exclude=True)
    dtype: DType
    tags: Annotated[
        tuple[Annotated[Tags | str, BeforeValidator(_tag), WithJsonSchema(TAG_SCHEMA)], ...],
        BeforeValidator(as_tuple),
    ] = ()
    column: StrictStr | None = None
    cardinality: Rows | None = None
    vocabulary: Vocabulary | None = None
    hash: Rows | None = None
    oov: Rows | None = None
    domain: StrictStr | None = None
    list: ListOptions | None = None
    text: TextOptions | None = None
    embedding: EmbeddingSpec | None = None
    normalize: Literal["standard", "min-max", "log1p"] | None = None
    buckets: Buckets | None = None
    time: TimeOptions | None = None
    missing: Missing | None = None
    value: Value | None = None

    @field_validator("tags")
    @classmethod
    def _take_compounds_apart(cls, tags: tuple[Tags | str, ...]) -> tuple[Tags | str, ...]:
        return atoms(tags)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if problems := [f'feature "{self.name}" {problem}' for problem in contradictions(self)]:
            raise SchemaError(*problems)
        return self

    # -- how it enters the model ----------------------------------------------------------------------------------

    @property
    def kind(self) -> Kind | None:
        """How it enters the model; None where that cannot be told.

        Through a table (categorical), as a number (continuous), as numbers (vector), by weighing the values of a list
        (weights), or (targets, moments, positions, weights of examples, explicit negatives, a teacher's scores, ids of sessions, what items
        are only filtered by) not at all (value).
        """
        tags, part = frozenset(self.tags), None if self.time is None else self.time.take
        if Tags.WEIGHT in tags:
            return "value" if self.list is None else "weights"
        if tags & _VALUES or {Tags.SESSION, Tags.ID} <= tags:
            return "value"
        if Tags.EMBEDDING in tags:
            return "vector"
        if tags & _CATEGORICAL or part in CALENDAR or self.buckets is not None or self.hash is not None:
            return "categorical"
        if Tags.CONTINUOUS in tags or self.is_age:
            return "continuous"
        of_dtype: dict[str, Kind] = {"s": "categorical", "f": "continuous"}
        enters = (any(map(is_side, tags)) and Tags.FILTER not in tags) or Tags.BIAS in tags
        return of_dtype.get(self.dtype[0]) if enters else "value"

    @property
    def encoding(self) -> Encoding:
        """How a categorical feature's values become rows.

        They are looked up in a vocabulary, hashed, rows themselves (range), put into buckets, or parts of a moment.
        """
        if self.buckets is not None:
            return "buckets"
        if self.time is not None and self.time.take in CALENDAR:
            return "calendar"
        if self.hash is not None:
            return "hash"
        return "vocabulary" if self.dtype == "string" or self.vocabulary is not None else "range"

    @property
    def is_age(self) -> bool:
        """Whether its values are moments, of which the age enters the model."""
        return self.time is not None and self.time.take == "age"

    @property
    def says_rows(self) -> bool:
        """Whether it says itself how its values become rows; else it goes by the others of its domain."""
        keys = (self.cardinality, self.vocabulary, self.hash, self.buckets)
        return any(it is not None for it in keys) or self.encoding == "calendar"

    @property
    def text_like(self) -> bool:
        """Whether its values are texts, to be split into tokens."""
        return Tags.TEXT in self.tags

    @property
    def many(self) -> bool:
        """Whether a row holds several raw values: a list, or the numbers of a dense vector."""
        return self.list is not None or self.kind == "vector"

    @property
    def ragged(self) -> bool:
        """Whether a row's encoded values are a list of any length."""
        return self.list is not None or self.text_like

    @property
    def weighted_by(self) -> str | None:
        """The feature that holds a weight for each of its values."""
        return None if self.list is None else self.list.weights

    @property
    def aligned_with(self) -> str | None:
        """The sequence whose events it says something of, one value for each."""
        return None if self.list is None else self.list.aligned_with

    @property
    def paired_with(self) -> str | None:
        """The list that has a value for each of its values: its weights, or the sequence it is aligned with."""
        return self.weighted_by if self.weighted_by is not None else self.aligned_with

    @property
    def pair(self) -> str:
        """What that list is to it, for messages: `its weights "counts"`."""
        return (
            f'its weights "{self.weighted_by}"'
            if self.weighted_by is not None
            else f'its sequence "{self.aligned_with}"'
        )

    @property
    def is_history(self) -> bool:
        """Whether it holds events in the order of time, oldest first: a sequence that is aligned with no other."""
        return Tags.SEQUENCE in self.tags and self.aligned_with is None

    @property
    def learns_statistics(self) -> bool:
        """Whether `Schema.fit` learns its mean, deviation, range or quantiles."""
        return self.kind in ("categorical", "continuous") and (
            self.normalize in ("standard", "min-max")
            or self.missing == "mean"
            or (self.buckets is not None and not isinstance(self.buckets, tuple))
            or self.is_age
        )

    @property
    def stand_in(self) -> str | int | float | None:
        """The value that the schema puts in place of a missing one; of an age, in days."""
        return self.missing.value if isinstance(self.missing, Fill) else None

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
