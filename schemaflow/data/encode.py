"""Raw columns to what a model reads: rows of embedding tables and normalised numbers, as NumPy arrays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column
from schemaflow.schema.faults import Fault, beyond, faults_of, without_log1p
from schemaflow.schema.feature import DAY, MISSING, Feature
from schemaflow.schema.numbers import normalized, numbers_of
from schemaflow.schema.rows import rows_in
from schemaflow.schema.schema import Schema

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
    if feature.kind in ("continuous", "vector", "weights"):
        return np.dtype(np.float32)
    return np.dtype(object if feature.dtype == "string" else feature.dtype)


def encode(schema: Schema, feature: Feature, column: Column) -> Array | Lists:
    """Return a feature's encoded values: [rows], lists, or of a dense vector [rows, dim].

    Categorical: rows of the table; a null is row 1, a value the vocabulary does not hold is row 2 or one of those after.
    Continuous: normalised in float64, then float32. Targets, moments and weights: as they stand.

    Raises:
        DataError: An integer id is outside the table, or a number is missing where it may not be, infinite, or below what
            it can be; it names the first such row.
    """
    ranged = feature.kind == "categorical" and schema.domains[feature.table].encoding == "range"
    rows = schema.rows(feature.table) if ranged else None
    _refuse(faults_of(feature, column, rows, schema.takes_missing(feature)))
    if feature.kind == "vector":
        return _vectors(feature, column).astype(np.float32)
    read = _rows if feature.kind == "categorical" else _continuous if feature.kind == "continuous" else _values
    values = read(schema, feature, column).astype(encoded_dtype(schema, feature), copy=False)
    return values if column.splits is None else Lists(values, column.splits)


def _rows(schema: Schema, feature: Feature, column: Column) -> Array:
    domain = schema.domains[feature.table]
    if domain.encoding == "buckets":
        return _in_buckets(schema, feature, column)
    if domain.encoding == "calendar":
        missing = column.values.is_null().to_numpy(zero_copy_only=False)
        return np.where(missing, MISSING, domain.reserved + _part_of(feature, column.values.fill_null(0).to_numpy()))
    return rows_in(domain, schema.vocabulary(feature.table), column.values)


def _in_buckets(schema: Schema, feature: Feature, column: Column) -> Array:
    numbers = numbers_of(feature, schema.fitted.statistics.get(feature.name), column)
    rows = np.searchsorted(schema.edges(feature), numbers, side="right") + schema.domains[feature.table].reserved
    return np.where(np.isnan(numbers), MISSING, rows)


def _part_of(feature: Feature, moments: Array) -> Array:
    """Return the hour of the day or the day of the week, in UTC; 1970 began on a Thursday, which is day 3."""
    assert feature.time is not None, "only moments have parts"
    day = DAY[feature.time.unit]
    return moments // (day // 24) % 24 if feature.time.take == "hour" else (moments // day + 3) % 7


def _continuous(schema: Schema, feature: Feature, column: Column) -> Array:
    statistics = schema.fitted.statistics.get(feature.name)
    numbers = numbers_of(feature, statistics, column)
    _refuse(without_log1p(feature, column, numbers))
    values = normalized(feature, statistics, numbers)
    _refuse(beyond(feature, column, values, "float32"))
    return values


def _values(_: Schema, __: Feature, column: Column) -> Array:
    """Return targets, moments and weights as they stand."""
    return column.values.to_numpy(zero_copy_only=False)


def _vectors(feature: Feature, column: Column) -> Array:
    """Return dense vectors, [rows, dim] float64."""
    assert column.splits is not None, "vectors are read as lists"
    assert feature.embedding is not None, "a dense vector has a width"
    dim, lengths = int(feature.embedding.dim or 0), np.diff(column.splits)
    vectors = np.full((len(lengths), dim), np.nan if feature.stand_in is None else float(feature.stand_in))
    vectors[lengths > 0] = column.values.to_numpy().reshape(-1, dim)
    return vectors


def _refuse(faults: Iterator[Fault]) -> None:
    """Raise on the first fault."""
    for fault in faults:
        raise DataError(str(fault))
