"""Raw columns to what a model reads: rows of embedding tables and normalised numbers, as NumPy arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column, place_of
from schemaflow.schema.feature import DAY, MISSING, Feature
from schemaflow.schema.rows import rows_in
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
    if feature.has(Tags.ITEM_ID) and column.splits is None:
        reason = "is missing; an item without an id cannot be learned: fill it in or remove the row"
        _refuse(feature, column, pc.is_null(column.values), reason)
    if feature.kind == "vector":
        return _vectors(feature, column).astype(np.float32)
    if not feature.takes_missing:
        hint = {
            "continuous": 'say "missing: mean" or "missing: {value: …}", or fill it in',
            "categorical": 'ids that are rows themselves cannot be: say "vocabulary: learned", or fill it in'
            if feature.encoding == "range"
            else 'the schema says "missing: error": fill it in',
        }.get(str(feature.kind), "fill it in, or remove the row")
        _refuse(feature, column, pc.is_null(column.values), f"is missing; {hint}")
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
    rows = rows_in(domain, schema.vocabulary(feature.table), column.values)
    if domain.encoding == "range":
        limit = schema.rows(feature.table)
        _refuse(
            feature,
            column,
            (rows < 0) | (rows >= limit),
            f"is outside 0 <= id < {limit}, its cardinality; raise the cardinality or correct the data",
        )
    return rows


def _in_buckets(schema: Schema, feature: Feature, column: Column) -> Array:
    numbers = _numbers(schema, feature, column)
    rows = np.searchsorted(schema.edges(feature), numbers, side="right") + schema.domains[feature.table].reserved
    return np.where(np.isnan(numbers), MISSING, rows)


def _part_of(feature: Feature, moments: Array) -> Array:
    """Return the hour of the day or the day of the week, in UTC; 1970 began on a Thursday, which is day 3."""
    assert feature.time is not None, "only moments have parts"
    day = DAY[feature.time.unit]
    return moments // (day // 24) % 24 if feature.time.take == "hour" else (moments // day + 3) % 7


def _continuous(schema: Schema, feature: Feature, column: Column) -> Array:
    values = _numbers(schema, feature, column)
    if feature.normalize == "log1p":
        _refuse(feature, column, values <= -1, "is not above -1, so it has no log(1 + x); normalize it another way")
        values = np.log1p(values)
    elif feature.normalize is not None:
        it = schema.fitted.statistics[feature.name]
        shift, scale = (it.mean, it.std) if feature.normalize == "standard" else (it.minimum, it.maximum - it.minimum)
        values = (values - shift) / scale
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused
        beyond = np.isinf(values.astype(np.float32))
    _refuse(feature, column, beyond, "is infinite or beyond what float32 holds; expected a finite number")
    return values


def _numbers(schema: Schema, feature: Feature, column: Column) -> Array:
    """Return the numbers that enter the model, [n] float64, before they are normalised; NaN where missing."""
    missing = column.values.is_null().to_numpy(zero_copy_only=False)
    if feature.time is not None and feature.time.take == "age":
        moments = column.values.fill_null(0).to_numpy()
        values = (schema.fitted.statistics[feature.name].newest - moments) / DAY[feature.time.unit]
    else:
        values = column.values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(
        missing, schema.fitted.statistics[feature.name].mean if feature.missing == "mean" else np.nan, values
    )


def _values(schema: Schema, feature: Feature, column: Column) -> Array:
    """Return targets, moments and weights as they stand."""
    values = column.values.to_numpy(zero_copy_only=False)
    if feature.dtype.startswith("float") or feature.has(Tags.WEIGHT):
        with np.errstate(over="ignore"):
            beyond = np.isinf(values.astype(encoded_dtype(schema, feature)))
        _refuse(feature, column, beyond, "is infinite or beyond what its dtype holds; expected a finite number")
    if feature.has(Tags.WEIGHT):
        _refuse(feature, column, values < 0, "is below 0; a weight is 0 or more")
    return values


def _vectors(feature: Feature, column: Column) -> Array:
    """Return dense vectors, [rows, dim] float64."""
    assert column.splits is not None, "vectors are read as lists"
    assert feature.embedding is not None, "a dense vector has a width"
    dim = feature.embedding.dim
    lengths = np.diff(column.splits)
    missing = lengths == 0
    wrong = (lengths != dim) & ~(missing & feature.takes_missing)
    if wrong.any():
        first = int(np.argmax(wrong))
        held = f"has {lengths[first]} numbers" if lengths[first] else "is missing"
        raise DataError(
            f'{place_of(column.piece, first)}: feature "{feature.name}" {held}, expected {dim}, its width'
            f' ({int(wrong.sum())} of {len(wrong)} rows); correct "dim", fill it in, or say "missing: {{value: 0}}"'
        )
    _refuse(feature, column, ~np.isfinite(column.values.to_numpy()), "is not finite; expected finite numbers")
    stand_in = np.nan if feature.stand_in is None else float(feature.stand_in)
    vectors = np.full((len(lengths), int(dim or 0)), stand_in)
    vectors[~missing] = column.values.to_numpy().reshape(-1, int(dim or 0))
    return vectors


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
