"""What items are filtered by: a request's conditions, and the items that fulfil them, in the graph."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError, DataError, suggest
from schemaflow.features.raw import raw_value
from schemaflow.index.identifiers import Identifiers
from schemaflow.schema.columns import missing_value, place_of, read_column
from schemaflow.schema.feature import Feature
from schemaflow.schema.sources import Piece

__all__ = ["Filters", "conditions", "filter_signature"]

OPERATORS = (">", ">=", "<", "<=")


class Filters(tf.Module):
    """The columns that items are filtered by.

    Strings are compared by codes, numbers as int64 or as the floats of their dtype. An item without a value fulfils no
    condition on it, whatever `missing` puts in its place; of a list, one value that does is enough. Each column is an inverted index, so that a condition costs
    what it finds.

    Args:
        features: The filters.
        items: The rows of all items, in the index's order.

    Raises:
        DataError: A column is missing, does not fit its feature, or holds infinity.

    Example:
        >>> import pyarrow as pa
        >>> year = Feature(name="year", dtype="int32", tags=["item", "filter"])
        >>> filters = Filters([year], Piece(pa.table({"year": [1989, None, 1995]}), "items.parquet"))
        >>> filters.mask(conditions([year], {"year": {">=": 1990}})).numpy().tolist()
        [False, False, True]
    """

    def __init__(self, features: Sequence[Feature], items: Piece) -> None:
        super().__init__()
        self.features = tuple(features)
        self.count = tf.Variable(len(items.table), trainable=False, name="count")
        self.columns = [_Column(feature, items) for feature in features]

    def restricts(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return whether any condition was given, a bool; the inputs are those of `filter_signature`."""
        return tf.reduce_any([column.restricts(inputs) for column in self.columns])

    def mask(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return the items that fulfil every condition, [n] bool."""
        count = tf.convert_to_tensor(self.count)
        eligible = tf.ones([count], tf.bool)
        for column in self.columns:
            eligible = tf.cond(
                column.restricts(inputs),
                lambda column=column, before=eligible: before & column.fulfilled(inputs, count),
                lambda before=eligible: before,
            )
        return eligible


class _Column(tf.Module):
    """One of them: its values in order, and whose they are, so that what costs is what is found, not what there is."""

    def __init__(self, feature: Feature, items: Piece) -> None:
        super().__init__()
        self.feature = feature
        if feature.source not in items.table.column_names:
            raise DataError(
                f'{items.where}: the column "{feature.source}" of the filter "{feature.name}" is missing; add it'
            )
        # what stands in for a missing value is for the model: nobody knows that the item has it
        column = read_column(feature.model_copy(update={"missing": None}), items)
        splits = np.arange(len(items.table) + 1) if column.splits is None else column.splits
        rows = np.repeat(np.arange(len(items.table), dtype=np.int32), np.diff(splits))[~column.missing]  # of each value
        there = column.values.drop_null()
        self.words: Identifiers | None = None
        if feature.dtype == "string":
            coded = there.dictionary_encode()
            # the empty string, which no item has, so that there is a word where no item has any
            self.words = Identifiers(tf.constant(["", *coded.dictionary.to_pylist()], tf.string))
            values = coded.indices.to_numpy() + 1
        else:
            with np.errstate(over="ignore"):  # what does not fit becomes infinite
                values = there.to_numpy().astype(_width(feature))
            if len(beyond := np.flatnonzero(np.isinf(values))):
                raise DataError(
                    f'{place_of(items, int(rows[beyond[0]]))}: feature "{feature.name}" is infinite, and items are'
                    " filtered by it; correct it"
                )
        order = np.argsort(values, kind="stable")
        self.values, self.rows = (
            tf.Variable(it[order], trainable=False, shape=[None], name=f"{feature.name}_{name}")
            for it, name in ((values, "values"), (rows, "rows"))
        )

    def restricts(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return whether a condition on it was given, a bool."""
        asked = tf.size(inputs[f"where_{self.feature.name}"]) > 0
        if self.words is not None:
            return asked
        least, most = (inputs[f"where_{self.feature.name}_{end}"] for end in ("min", "max"))
        open_least, open_most = _open_ends(self.feature)
        return asked | (least != open_least) | (most != open_most)

    def fulfilled(self, inputs: Mapping[str, tf.Tensor], count: tf.Tensor) -> tf.Tensor:
        """Return which items fulfil what is asked, [n] bool; n is the count."""
        values, wanted = tf.convert_to_tensor(self.values), inputs[f"where_{self.feature.name}"]
        if self.words is not None:
            wanted = tf.cast(self.words.positions(wanted), values.dtype)
        starts, ends = _places(values, wanted, wanted)
        if self.words is None:
            least, most = (inputs[f"where_{self.feature.name}_{end}"] for end in ("min", "max"))
            first, last = _places(values, least[tf.newaxis], most[tf.newaxis])  # [1], of all between
            starts, ends = tf.cond(
                tf.size(wanted) > 0,
                lambda: (tf.maximum(starts, first), tf.minimum(ends, last)),
                lambda: (first, last),
            )
        found = tf.gather(self.rows, tf.ragged.range(starts, tf.maximum(starts, ends)).values)
        return tf.tensor_scatter_nd_update(
            tf.zeros([count], tf.bool), found[:, tf.newaxis], tf.ones([tf.size(found)], tf.bool)
        )


def _places(values: tf.Tensor, least: tf.Tensor, most: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return where values [v] in order begin to be at least, and cease to be at most, some number, both [m] int32."""
    least, most = tf.cast(least, values.dtype), tf.cast(most, values.dtype)
    ends = tf.searchsorted(values, most, side="right")
    if values.dtype.is_floating:  # nothing is NaN, but a search for it ends where everything does
        ends = tf.where(tf.math.is_nan(most) | tf.math.is_nan(least), 0, ends)
    return tf.searchsorted(values, least), ends


def _width(feature: Feature) -> np.dtype[Any]:
    """Return the dtype that a number is compared in: int64, or the floats of its dtype."""
    return np.dtype(feature.dtype if feature.dtype.startswith("float") else np.int64)


def _open_ends(feature: Feature) -> tuple[Any, Any]:
    """Return the bounds of a number that restrict nothing."""
    dtype = np.dtype(feature.tensor_dtype)
    return (-np.inf, np.inf) if dtype.kind == "f" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def filter_signature(features: Iterable[Feature]) -> dict[str, tf.TensorSpec]:
    """Return the inputs by which an exported signature filters.

    `where_<name>` [m]: any of these values, anything where m = 0; of numbers `where_<name>_min` and `where_<name>_max` [],
    both inclusive, where the least and the largest of the dtype (infinity for floats) restrict nothing.
    """
    shapes = {
        f"where_{it.name}{end}": ([None] if not end else [], it.tensor_dtype)
        for it in features
        for end in (("",) if it.dtype == "string" else ("", "_min", "_max"))
    }
    return {name: tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in shapes.items()}


def conditions(features: Sequence[Feature], where: Mapping[str, Any] | None) -> dict[str, tf.Tensor]:
    """Return the inputs of `filter_signature` that say what Python says.

    Args:
        features: The filters.
        where: For each feature that restricts: a value, a list of values, any of which will do, or of numbers bounds such
            as `{">=": 1990, "<": 2000}`. None restricts nothing.

    Raises:
        ConfigError: A feature, an operator or a value is not one that items are filtered by.

    Example:
        >>> year = Feature(name="year", dtype="int32", tags=["item", "filter"])
        >>> given = conditions([year], {"year": {">=": 1990, "<": 2000}})
        >>> {name: tensor.numpy().tolist() for name, tensor in given.items()}
        {'where_year': [], 'where_year_min': 1990, 'where_year_max': 1999}
    """
    if not isinstance(where, (Mapping, type(None))):
        raise ConfigError(f'where is {where!r}; expected a dict by feature, such as {{"genres": "Comedy"}}')
    names = [feature.name for feature in features]
    possible = f"items are filtered by {', '.join(names)}" if names else "the schema tags no item feature filter"
    problems = [
        f'where: there is no filter "{name}"{suggest(str(name), names)} ({possible})'
        for name in where or {}
        if name not in names
    ]
    given: dict[str, Any] = {}
    for feature in features:
        name = f"where_{feature.name}"
        any_of: list[Any] = []
        bounds = _open_ends(feature) if feature.dtype != "string" else ()
        if feature.name in (where or {}):
            try:
                any_of, bounds = _condition(feature, (where or {})[feature.name], bounds)
            except (TypeError, ValueError) as reason:
                problems.append(f'where: feature "{feature.name}": {reason}')
        given |= {name: any_of, **dict(zip((f"{name}_min", f"{name}_max"), bounds, strict=False))}
    if problems:
        raise ConfigError(*problems)
    return {name: tf.constant(given[name], it.dtype) for name, it in filter_signature(features).items()}


def _condition(feature: Feature, asked: Any, bounds: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...]]:
    """Return any of which values one asks for, and between which bounds."""
    if isinstance(asked, Mapping):
        return [], _between(feature, asked)
    several = isinstance(asked, (list, tuple, set, frozenset, np.ndarray))
    values = [_known(feature, it) for it in (asked if several else [asked])]
    if not values:
        raise ValueError(
            "the list of values is empty, which no item could fulfil; leave the feature out, or name a value"
        )
    return values, bounds


def _between(feature: Feature, asked: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the least and the largest value that are asked for."""
    if feature.dtype == "string":
        raise ValueError("a string has no bounds; expected a value, or a list of values")
    if not asked or any(it not in OPERATORS for it in asked):
        wrong = next((repr(it) for it in asked if it not in OPERATORS), "no operator")
        raise ValueError(f"received {wrong}; expected bounds by {', '.join(OPERATORS)}, a value, or a list of values")
    dtype = np.dtype(feature.tensor_dtype)
    values = {it: _known(feature, value) for it, value in asked.items()}
    if dtype.kind == "f":
        # the next number there is, of the dtype that the items' numbers have
        lows = [_next(it, np.inf, dtype) if by == ">" else it for by, it in values.items() if by[0] == ">"]
        highs = [_next(it, -np.inf, dtype) if by == "<" else it for by, it in values.items() if by[0] == "<"]
        return max(lows, default=-np.inf), min(highs, default=np.inf)
    limits = np.iinfo(dtype)
    least = max([int(limits.min) + 1, *(it + (by == ">") for by, it in values.items() if by[0] == ">")])
    most = min([int(limits.max), *(it - (by == "<") for by, it in values.items() if by[0] == "<")])
    return (least, most) if least <= most else (1, 0)  # which nothing is between


def _next(value: Any, towards: float, dtype: np.dtype[Any]) -> Any:
    """Return the next number after one, of those that TensorFlow tells from 0: it takes the smallest for 0."""
    found, tiny = np.nextafter(value, towards, dtype=dtype), np.finfo(dtype).tiny
    if found == 0 or abs(found) >= tiny:
        return found
    return np.copysign(tiny if found * towards > 0 else 0, found)


def _known(feature: Feature, value: Any) -> Any:
    """Return a value to filter by, as the feature's dtype holds it."""
    expected = f"expected {feature.dtype}"
    if value is None:
        raise ValueError(f"{expected}, received None; an item without a value cannot be asked for")
    try:
        value = raw_value(feature, value)
    except (TypeError, ValueError) as reason:
        raise ValueError(f"{expected}, received {value!r} ({reason})") from None
    if feature.dtype.startswith("float"):
        with np.errstate(over="ignore"):
            value = np.dtype(feature.dtype).type(value)
        if not np.isfinite(value):
            raise ValueError(f"{expected}, received {value}; expected a finite number")
    elif value in (missing_value(feature.dtype), b""):
        raise ValueError(f"{expected}, received {value!r}, which stands for a missing value")
    return value
