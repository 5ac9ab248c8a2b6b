"""What a request in Python is, as the tensors that the signatures take."""

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.features.raw import raw_value
from schemaflow.index import padding_identifier
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema

__all__ = ["checked_ids", "checked_number", "features_of", "lists_of_ids", "padded"]


def checked_number(argument: str, number: int) -> tf.Tensor:
    """Return how many are asked for, [] int32.

    Raises:
        ConfigError: It is no integer of at least 1.
    """
    if not (isinstance(number, Integral) and 1 <= number < 2**31):
        raise ConfigError(f"{argument} is {number!r}; expected an integer of at least 1")
    return tf.constant(number, tf.int32)


def features_of(schema: Schema, features: Sequence[Feature], given: Mapping[str, Any]) -> dict[str, tf.Tensor]:
    """Return raw features, all of the same number of rows.

    Raises:
        ConfigError: They are no dict, or one is missing, unknown, of another type or length than the rest, or beyond its
            range.
    """
    names = [feature.name for feature in features]
    if not hasattr(given, "keys"):
        raise ConfigError(
            f"the features are {type(given).__name__}; expected a dict with a list of values for each name"
        )
    problems = [
        f'unknown feature "{name}"{suggest(name, names)} (expected {", ".join(names)})'
        for name in given
        if name not in names
    ]
    problems += [f'feature "{name}" is missing; expected {", ".join(names)}' for name in names if name not in given]
    if problems:
        raise ConfigError(*problems)
    tensors = {feature.name: _tensor(schema, feature, given[feature.name]) for feature in features}
    lengths = {name: len(tensor) for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        raise ConfigError(
            f"the features have different numbers of rows: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
        )
    return tensors


def lists_of_ids(argument: str, given: Any, rows: int, dtype: tf.DType) -> list[list[Any] | None]:
    """Return a list of item ids for each row, or None for a row that has none; one list for all rows stays one in memory.

    Args:
        argument: Its name, for messages.
        given: One list for all rows, or a list (or None) for each; None for none.
        rows: How many there are.
        dtype: Of the ids, string or int64.

    Raises:
        ConfigError: It is no list, has a list too many or too few, or holds what is no id.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, (Iterable, type(None))):
        raise ConfigError(f"{argument} is {given!r}; expected a list of item ids, or a list for each row")
    if given is None:
        return [None] * rows
    whole = list(given)
    if not any(isinstance(it, (list, tuple, np.ndarray, set, frozenset, type(None))) for it in whole):
        return [checked_ids(argument, whole, dtype)] * rows
    if len(whole) != rows:
        raise ConfigError(
            f"{argument} holds {len(whole)} lists for {rows} rows; give one for each row, or one list of ids for all"
        )
    if wrong := [it for it in whole if isinstance(it, (str, bytes)) or not isinstance(it, (Iterable, type(None)))]:
        raise ConfigError(f"{argument} holds {wrong[0]!r} beside lists; give a list for each row, or ids alone")
    if whole and all(it is whole[0] for it in whole):
        return [None if whole[0] is None else checked_ids(argument, list(whole[0]), dtype)] * rows
    return [None if it is None else checked_ids(argument, list(it), dtype) for it in whole]


def checked_ids(argument: str, ids: list[Any], dtype: tf.DType) -> list[Any]:
    """Return item ids.

    Raises:
        ConfigError: One is of another type than the items' ids.
    """
    kind: Any = str if dtype == tf.string else Integral
    expected = "strings" if dtype == tf.string else "integers"
    if wrong := [it for it in ids if not isinstance(it, kind) or isinstance(it, bool)]:
        raise ConfigError(f"{argument} holds {wrong[0]!r}; expected item ids, {expected}")
    if broken := [it for it in ids if isinstance(it, str) and not _is_text(it)]:
        raise ConfigError(f"{argument} holds {broken[0]!r}, which is no Unicode text; expected item ids")
    if beyond := [it for it in ids if dtype == tf.int64 and not -(2**63) <= it < 2**63]:
        raise ConfigError(f"{argument} holds {beyond[0]}, which is beyond int64; expected item ids")
    return ids


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def padded(lists: Sequence[list[Any]], dtype: tf.DType, least: int = 0) -> tf.Tensor:
    """Return lists of ids as [rows, longest], filled with an id that no item has.

    Args:
        lists: One for each row.
        dtype: Of the ids.
        least: How wide it is at least.
    """
    width, fill = max(map(len, lists), default=0), padding_identifier(dtype)
    width = max(width, least)
    return tf.constant([[*row, *[fill] * (width - len(row))] for row in lists], dtype, [len(lists), width])


def _tensor(schema: Schema, feature: Feature, values: Any) -> tf.Tensor:
    """Return a request's values of one feature as a tensor; None becomes what stands for missing.

    Raises:
        ConfigError: It is no list, or holds a value that the feature does not.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigError(f'feature "{feature.name}": expected a list with one value a row, received {values!r}')
    missing, rows = missing_value(feature.dtype), list(values)
    limit = (
        schema.rows(feature.table)
        if feature.kind == "categorical" and schema.domains[feature.table].encoding == "range"
        else None
    )
    try:
        if not feature.many:
            checked = [_value(schema, feature, value, missing, limit) for value in rows]
            return tf.constant(checked, feature.tensor_dtype, [len(rows)])
        if feature.kind == "vector":
            return _vectors(schema, feature, rows)
        if wrong := [row for row in rows if isinstance(row, (str, bytes, Mapping))]:
            raise TypeError(f"{wrong[0]!r} is one value, not a list of them")
        # what is missing in a list takes no part, as in training; a weight, or an action, could not say whose it is then
        whole = feature.paired_with is not None or feature.kind == "weights"
        if whole and any(it is None for row in rows for it in row or ()):
            raise ValueError("a weighted or aligned list must be whole")
        lists = [[_value(schema, feature, it, missing, limit) for it in row or () if it is not None] for row in rows]
        width = max(map(len, lists), default=0)
        longest = feature.list.max_length if feature.list is not None else None
        if longest is not None and width > longest:
            raise ValueError(f"{width} values are more than its max_length of {longest}")
        padded = [row + [missing] * (width - len(row)) for row in lists]
        return tf.constant(padded, feature.tensor_dtype, [len(rows), width])
    except (TypeError, ValueError, OverflowError) as reason:
        raise ConfigError(
            f'feature "{feature.name}": expected {feature.dtype}, received {_short(values)} ({reason})'
        ) from None


def _vectors(schema: Schema, feature: Feature, rows: list[Any]) -> tf.Tensor:
    """Return dense vectors, [rows, dim]; a missing one as a row of NaN, for what the schema puts in its place."""
    dim = int(feature.embedding.dim or 0) if feature.embedding is not None else 0
    whole = [[float(it) for it in row] if row is not None else [math.nan] * dim for row in rows]
    for given, row in zip(rows, whole, strict=True):
        if given is None and not schema.takes_missing(feature):
            raise ValueError("a missing vector has nothing in its place")
        if len(row) != dim or (given is not None and not all(map(math.isfinite, row))):
            raise ValueError(f"expected {dim} finite numbers in each row")
    return tf.constant(whole, feature.tensor_dtype, [len(rows), dim])


def _value(schema: Schema, feature: Feature, value: Any, missing: Any, limit: int | None) -> Any:
    """Return one value, checked.

    Args:
        schema: Says what a missing value is.
        feature: What it is of.
        value: As given.
        missing: What stands for a missing one.
        limit: The rows of the table, where values are rows themselves.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if schema.takes_missing(feature):
            return missing
        raise ValueError("a missing value has no row of its own here, and the schema names nothing in its place")
    value = raw_value(feature, value)
    if limit is not None and not 0 <= value < limit:
        raise ValueError(f"{value} is outside 0 <= id < {limit}")
    return value


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:57]}..."
