"""Raw columns to what a model reads: rows of embedding tables and normalised numbers, as NumPy arrays."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column, missing_value
from schemaflow.schema.faults import Fault, beyond, faults_of, without_log1p
from schemaflow.schema.feature import DAY, MISSING, Feature
from schemaflow.schema.numbers import normalized, numbers_of
from schemaflow.schema.rows import rows_in
from schemaflow.schema.schema import Schema
from schemaflow.schema.tags import Tags

__all__ = [
    "Array",
    "Columns",
    "Lists",
    "Span",
    "concatenate",
    "empty",
    "encode",
    "encoded_dtype",
    "first_rows",
    "rows_of",
    "take",
    "whole",
]

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
        import pyarrow.compute as pc

        # a list is moved as one string of bytes: quicker than each of its values by its place
        size = self.values.itemsize
        edges = np.multiply(self.splits, size, out=empty(self.splits.shape, np.dtype(np.int64)))
        memory = [None, pa.py_buffer(edges), pa.py_buffer(self.values)]
        strings = pa.Array.from_buffers(pa.large_binary(), len(self), memory)
        _, moved, values = pc.take(strings, pa.array(rows), boundscheck=False).buffers()
        splits = empty((len(rows) + 1,), np.dtype(np.int64))
        np.floor_divide(np.frombuffer(moved, np.int64, len(splits)), size, out=splits)
        return Lists(np.frombuffer(values, self.values.dtype, splits[-1]), splits)


Columns = Mapping[str, Array | Lists]
"""Encoded features by their own name: one value a row, or lists."""


def take(columns: Columns, rows: Array) -> dict[str, Array | Lists]:
    """Return some rows of every column, in their order."""
    return {
        name: column.take(rows) if isinstance(column, Lists) else _taken(column, rows)
        for name, column in columns.items()
    }


def first_rows(columns: Columns, rows: int) -> dict[str, Array | Lists]:
    """Return the first rows of every column, in the same memory."""
    return {
        name: Lists(it.values[: it.splits[rows]], it.splits[: rows + 1]) if isinstance(it, Lists) else it[:rows]
        for name, it in columns.items()
    }


def rows_of(columns: Columns) -> int:
    """Return how many rows columns have."""
    return len(next(iter(columns.values())))


class Span(NamedTuple):
    """Some rows of columns that follow each other: from `start` to before `stop`."""

    columns: Columns
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.stop - self.start


def concatenate(spans: Sequence[Span]) -> dict[str, Array | Lists]:
    """Return the rows of all spans, one after the other; there is at least one."""
    return {name: _join(name, spans) for name in spans[0].columns}


def whole(parts: Iterable[Columns]) -> dict[str, Array | Lists]:
    """Return the rows of all parts, one after the other; there is at least one."""
    return concatenate([Span(part, 0, rows_of(part)) for part in parts])


def _join(name: str, spans: Sequence[Span]) -> Array | Lists:
    columns: list[Any] = [span.columns[name] for span in spans]
    if not isinstance(columns[0], Lists):
        return _end_to_end([it[span.start : span.stop] for it, span in zip(columns, spans, strict=True)])
    bounds = [(it.splits[span.start], it.splits[span.stop]) for it, span in zip(columns, spans, strict=True)]
    values = _end_to_end([it.values[start:stop] for it, (start, stop) in zip(columns, bounds, strict=True)])
    splits = _end_to_end(
        [
            np.zeros(1, np.int64),
            *(it.splits[span.start + 1 : span.stop + 1] for it, span in zip(columns, spans, strict=True)),
        ]
    )
    starts, stops = np.array(bounds).T
    first = np.cumsum(stops - starts) - stops  # how far each span's values are moved
    splits[1:] += np.repeat(first, [span.rows for span in spans])
    return Lists(values, splits)


def _end_to_end(arrays: Sequence[Array]) -> Array:
    """Return arrays one after the other."""
    shape, dtype = (sum(map(len, arrays)), *arrays[0].shape[1:]), np.result_type(*arrays)
    return np.concatenate(arrays) if dtype.hasobject else np.concatenate(arrays, out=empty(shape, dtype))


def _taken(column: Array, rows: Array) -> Array:
    if column.dtype.hasobject:
        return column[rows]
    return column.take(rows, axis=0, out=empty((len(rows), *column.shape[1:]), column.dtype), mode="clip")


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array in Arrow's memory: aligned, so that TensorFlow takes it without a copy, and used again soon.

    What NumPy frees in one thread goes back to the system, and its pages are to be had anew.
    """
    memory = pa.allocate_buffer(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


def _as(values: Array, dtype: np.dtype[Any]) -> Array:
    if values.dtype == dtype or dtype.hasobject:
        return values.astype(dtype, copy=False)
    cast = empty(values.shape, dtype)
    np.copyto(cast, values, casting="unsafe")
    return cast


def encoded_dtype(schema: Schema, feature: Feature) -> np.dtype[Any]:
    """Return the NumPy dtype of a feature's encoded values: rows int32 (int64 for tables beyond that), numbers float32."""
    if feature.kind == "categorical":
        return np.dtype(np.int32 if schema.rows(feature.table) < 1 << 31 else np.int64)
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
    values = _as(read(schema, feature, column), encoded_dtype(schema, feature))
    return values if column.splits is None else Lists(values, column.splits)


def _rows(schema: Schema, feature: Feature, column: Column) -> Array:
    domain = schema.domains[feature.table]
    if domain.encoding == "buckets":
        return _in_buckets(schema, feature, column)
    if domain.encoding == "calendar":
        return np.where(
            column.missing, MISSING, domain.reserved + _part_of(feature, column.values.fill_null(0).to_numpy())
        )
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


def _values(_: Schema, feature: Feature, column: Column) -> Array:
    """Return targets, moments, positions and weights as they stand; in place of a missing position, what stands for it."""
    values = column.values
    if values.null_count and feature.has(Tags.POSITION):
        values = values.fill_null(missing_value(feature.dtype))
    return values.to_numpy(zero_copy_only=False)


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
