"""Raw columns to what a model reads: rows of embedding tables and normalised numbers, as NumPy arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column, rows_in
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.tags import Tags

__all__ = ["Array", "Columns", "Lists", "concatenate", "encode", "encoded_dtype", "take"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Lists:
    """Lists of several lengths, end to end.

    Args:
        values: The elements of all lists, [n].
        splits: Where each list begins, and the end, [rows + 1] int64.
    """

    values: Array
    splits: Array

    def __len__(self) -> int:
        return len(self.splits) - 1

    def take(self, rows: Array) -> "Lists":
        """Return the lists of some rows, in their order."""
        lengths = np.diff(self.splits)[rows]
        splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # element j of new row i is old element start_of_row + j
        positions = np.arange(splits[-1]) + np.repeat(self.splits[:-1][rows] - splits[:-1], lengths)
        return Lists(self.values[positions], splits)


Columns = Mapping[str, Array | Lists]
"""Encoded features by their own name: one value a row, or lists."""


def take(columns: Columns, rows: Array) -> dict[str, Array | Lists]:
    """Return some rows of every column, in their order."""
    return {name: column.take(rows) if isinstance(column, Lists) else column[rows] for name, column in columns.items()}


def concatenate(parts: Sequence[Columns]) -> dict[str, Array | Lists]:
    """Return the rows of all parts, one after the other."""
    return {name: _join([part[name] for part in parts]) for name in parts[0]} if len(parts) > 1 else dict(parts[0])


def _join(columns: list[Any]) -> Array | Lists:
    if not isinstance(columns[0], Lists):
        return np.concatenate(columns)
    lengths = np.concatenate([np.diff(column.splits) for column in columns])
    return Lists(
        np.concatenate([column.values for column in columns]),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def encoded_dtype(schema: Schema, feature: Feature) -> np.dtype[Any]:
    """Return the NumPy dtype of a feature's encoded values: rows int32 (int64 for tables beyond that), numbers float32."""
    if feature.kind == "categorical":
        return np.dtype(np.int32 if schema.rows(feature.table) <= np.iinfo(np.int32).max else np.int64)
    if feature.kind == "continuous":
        return np.dtype(np.float32)
    return np.dtype(object if feature.dtype == "string" else feature.dtype)


def encode(schema: Schema, feature: Feature, column: Column) -> Array | Lists:
    """Return a feature's encoded values.

    Categorical: rows of the table; a null is row 1, a value the vocabulary does not hold is row 2. Continuous:
    normalised in float64, then float32. Targets, times and weights: as they stand.

    Raises:
        DataError: An integer id is outside the table, or a number is missing or infinite; it names the first such row.
    """
    read = _rows if feature.kind == "categorical" else _numbers
    values = read(schema, feature, column).astype(encoded_dtype(schema, feature), copy=False)
    return values if column.splits is None else Lists(values, column.splits)


def _rows(schema: Schema, feature: Feature, column: Column) -> Array:
    vocabulary = schema.vocabulary(feature.table)
    if feature.has(Tags.ITEM_ID) and column.splits is None:
        _refuse(
            feature,
            column,
            pc.is_null(column.values),
            "is missing; an item without an id cannot be learned: fill it in or remove the row",
        )
    if vocabulary is None:
        limit = schema.rows(feature.table)
        _refuse(
            feature,
            column,
            pc.is_null(column.values),
            'is missing; ids that are rows themselves cannot be: say "vocabulary: learned", or fill it in',
        )
        ids = column.values.to_numpy()
        _refuse(
            feature,
            column,
            (ids < 0) | (ids >= limit),
            f"is outside 0 <= id < {limit}, its cardinality; raise the cardinality or correct the data",
        )
        return ids
    return rows_in(vocabulary, column.values)


def _numbers(schema: Schema, feature: Feature, column: Column) -> Array:
    _refuse(
        feature,
        column,
        pc.is_null(column.values),
        "is missing; fill it in, or tag the feature categorical, where missing has its own row",
    )
    values = column.values.to_numpy(zero_copy_only=False)
    if feature.dtype.startswith("float"):
        with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
            beyond = np.isinf(values.astype(encoded_dtype(schema, feature)))
        _refuse(feature, column, beyond, "is infinite or beyond what its dtype holds; expected a finite number")
    if feature.normalize is not None:
        statistics = schema.fitted.statistics[feature.name]
        values = (values.astype(np.float64) - statistics.mean) / statistics.std
    return values


def _refuse(feature: Feature, column: Column, wrong: Any, reason: str) -> None:
    """Raise on the first value that is wrong."""
    mask = wrong.to_numpy(zero_copy_only=False) if isinstance(wrong, (pa.Array, pa.ChunkedArray)) else wrong
    if mask.any():
        first = int(np.argmax(mask))
        shown = column.values[first].as_py()
        raise DataError(
            f'{column.place_of(first)}: feature "{feature.name}"{"" if shown is None else f" is {shown!r}, which"} {reason}'
            f" ({int(mask.sum())} of {len(mask)} values)"
        )
