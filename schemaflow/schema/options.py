"""The keys of a feature that hold keys of their own."""

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic import Tag as Branch

from schemaflow.errors import SchemaError
from schemaflow.schema.document import Document, as_number, as_tuple

__all__ = [
    "COMBINERS",
    "Buckets",
    "Combiner",
    "Compress",
    "EmbeddingSpec",
    "Fill",
    "ListOptions",
    "Missing",
    "Pretrained",
    "Quantiles",
    "Rows",
    "TextOptions",
    "TimeOptions",
    "Value",
    "Vocabulary",
    "VocabularyFile",
]

Combiner = Literal["mean", "sum", "sqrtn", "max"]
COMBINERS = get_args(Combiner)
"""How the vectors of a list become one: their sum divided by n, by 1, by sqrt(n); or the largest of each component."""

Count = Annotated[StrictInt, Field(ge=1)]
Rows = Annotated[StrictInt, Field(ge=1, lt=2**31)]
"""Rows of a table; more are more than a machine holds."""

Number = Annotated[
    float,
    BeforeValidator(as_number),
    Field(allow_inf_nan=False),
    WithJsonSchema({"type": ["number", "string"], "pattern": r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"}),
]


Value = Number
"""What a label of 1 is worth; below 0 for what users regret."""


def _shape(value: Any) -> str:
    """Tell which form of a key was written; the names of branches begin with @, which messages leave out."""
    if isinstance(value, (dict, Document)):
        return "@mapping"
    return "@list" if isinstance(value, (list, tuple)) else "@word"


def _one_value(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if number or isinstance(value, str):
        return value
    raise SchemaError(f'"value": expected a string or a number, received {value!r}')


class ListOptions(Document):
    """A feature with any number of values in a row.

    Args:
        max_length: The most values that a row may hold; a longer row is an error.
        weights: The feature that holds a weight for each value; tagged weight, and a list too.
        aligned_with: The sequence whose events it says something of, event by event: what was done (action), how long
            ago it was. It is on the same side and has the same `max_length`, and a row has a value for each event.
    """

    max_length: Count | None = None
    weights: StrictStr | None = None
    aligned_with: StrictStr | None = None


class Pretrained(Document):
    """Vectors from elsewhere that an embedding table begins with.

    Args:
        file: The Parquet file, beside the schema file or the data.
        key: Its column of values (ids, words, …), as they stand in the feature's column.
        vector: Its column of vectors: lists of numbers, all of one length.
    """

    file: StrictStr
    key: StrictStr
    vector: StrictStr


class Compress(Document):
    """A table of which far fewer rows are kept: each is made of a row for its quotient and one for its remainder.

    Args:
        remainders: How many remainders there are, m: `m + values / m` rows are kept. About an eighth of the values keeps
            an eighth of the rows.
        operation: How the two rows become one, number by number.
    """

    remainders: Rows
    operation: Literal["product", "sum"] = "product"


class EmbeddingSpec(Document):
    """The embedding table of a feature, where it differs from the model's `EmbeddingOptions`; or a dense vector's width.

    Args:
        dim: Width of a row; of a pretrained table, that of its vectors.
        combiner: How the rows of a list become one vector.
        initializer: How the table begins: the name of a Keras initializer.
        pretrained: Vectors that the rows begin with. Rows without one begin with the mean of all vectors.
        trainable: Whether training changes the table.
        compress: Keep far fewer rows than there are values.
    """

    dim: Count | None = None
    combiner: Combiner | None = None
    initializer: (
        Literal[
            "zeros", "ones", "random_uniform", "random_normal", "truncated_normal", "glorot_uniform", "glorot_normal",
            "he_uniform", "he_normal", "lecun_uniform", "lecun_normal", "orthogonal",
        ]
        | None
    ) = None  # fmt: skip
    pretrained: Pretrained | None = None
    trainable: StrictBool | None = None
    compress: Compress | None = None


class VocabularyFile(Document):
    """A vocabulary kept in a file.

    Args:
        file: Text with a value on each line, or Parquet; beside the schema file or the data.
        column: Of a Parquet file: the column of values, where it has several.
    """

    file: StrictStr
    column: StrictStr | None = None


class Quantiles(Document):
    """Buckets that hold about as many values each, learned by `Schema.fit`.

    Args:
        quantiles: How many buckets.
    """

    quantiles: Annotated[StrictInt, Field(ge=2)]


class Fill(Document):
    """A value that stands in for a missing one.

    Args:
        value: That value.
    """

    value: Annotated[Any, PlainValidator(_one_value), WithJsonSchema({"type": ["string", "number"]})]


class TextOptions(Document):
    """How a text becomes tokens, which are then combined as the values of a list are.

    Args:
        standardize: `lower` and `strip_punctuation`, one of them or none.
        split: Into words at whitespace, or into characters.
    """

    standardize: Literal["lower_and_strip_punctuation", "lower", "strip_punctuation", "none"] = (
        "lower_and_strip_punctuation"
    )
    split: Literal["whitespace", "character"] = "whitespace"


class TimeOptions(Document):
    """A moment as a number of units since 1970-01-01 00:00 UTC.

    Args:
        unit: Of the numbers; Arrow timestamps and dates are read in it.
        take: What enters the model: the hour of the day (0 to 23) or the day of the week (0 is Monday), both of UTC,
            through a table; or the age in days before the newest moment that `Schema.fit` saw, as a number.
    """

    unit: Literal["s", "ms", "us", "ns"] = "s"
    take: Literal["hour", "weekday", "age"] | None = None


def _values(value: Any) -> Any:
    """Take a list of strings or integers."""
    values = as_tuple(value)
    if all(isinstance(it, (int, str)) and not isinstance(it, bool) for it in values):
        return values
    raise SchemaError(
        f'"vocabulary": expected learned, a list of strings or integers, or a file, received {list(values)!r};'
        " YAML reads yes, no, on and off as booleans: put such words in quotes"
    )


def _edges(edges: tuple[float, ...]) -> tuple[float, ...]:
    """Take edges that rise."""
    if not edges or list(edges) != sorted(set(edges)):
        raise SchemaError(f'"buckets": expected edges that rise, such as [18, 25, 35], received {list(edges)}')
    return edges


def _forms(expected: str) -> Discriminator:
    return Discriminator(_shape, custom_error_type="form", custom_error_message=f"Input should be {expected}")


Vocabulary = Annotated[
    Annotated[Literal["learned"], Branch("@word")]
    | Annotated[
        Any,
        PlainValidator(_values),
        WithJsonSchema({"type": "array", "items": {"type": ["string", "integer"]}}),
        Branch("@list"),
    ]
    | Annotated[VocabularyFile, Branch("@mapping")],
    _forms("learned, a list of values or a file"),
]
"""`learned`, a tuple of values, or a file of them."""

Buckets = Annotated[
    Annotated[tuple[Number, ...], BeforeValidator(as_tuple), AfterValidator(_edges), Branch("@list")]
    | Annotated[Quantiles, Branch("@mapping")],
    _forms("a list of edges, or {quantiles: <how many>}"),
]
"""The edges between buckets, where x is in bucket i when i edges are at or below it; or quantiles to learn."""

Missing = Annotated[
    Annotated[Literal["error", "mean"], Branch("@word")] | Annotated[Fill, Branch("@mapping")],
    _forms("error, mean or {value: <what stands in>}"),
]
"""What a missing value is: an error, the mean that `Schema.fit` learned, or a value that stands in."""
