"""Histories out of logs: what a user did before each interaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemaflow.data.encode import Columns
from schemaflow.data.positives import are_positives, telling
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.schema.columns import read_column
from schemaflow.schema.feature import DAY, Feature
from schemaflow.schema.schema import SchemaLike, as_schema
from schemaflow.schema.sides import Sides, sides_of
from schemaflow.schema.sources import Piece, Source, TableLike, open_source
from schemaflow.schema.tags import Tags

__all__ = ["REMAINING", "expand_sequences", "histories"]

Array = npt.NDArray[Any]

REMAINING = "remaining"
"""The column of `expand_sequences` that counts the events which follow."""


def histories(
    interactions: TableLike,
    schema: SchemaLike,
    log: TableLike | None = None,
    *,
    aligned: Mapping[str, str] | None = None,
) -> pa.Table:
    """Return interactions with a column for each history: what the same user chose before, the oldest first.

    An event is before an interaction where its time is strictly earlier: those of one moment know nothing of each other,
    in whatever order they stand. The newest `max_length` events are kept. Rows of the log that are no positives (explicit
    negatives, rows without value) enter no history; interactions with users whom the log does not hold have an empty one.

    Args:
        interactions: With the columns of the user id, of the item id and of the one feature tagged `time`; the schema's
            features of those tags are meant.
        schema: With one sequence of the query in the items' domain, and what is aligned with it.
        log: The events that histories are made of, such as the training interactions where the rows are a test's; the
            interactions themselves if None.
        aligned: For each feature that is aligned with the sequence, the column of the log that it holds of each event.
            Where that is the column of the time, the feature holds how long before the interaction the event was, in days.

    Raises:
        SchemaError: There is not exactly one user id, item sequence or time.
        ConfigError: `aligned` names not just the features that are aligned.
        DataError: A column is missing, or a user, an item or a time is.

    Example:
        >>> from schemaflow.schema import Schema
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   history: {dtype: string, tags: [user, sequence], domain: item, list: {max_length: 2}}
        ...   item: {dtype: string, tags: [item, id], vocabulary: learned, domain: item}
        ...   when: {dtype: int64, tags: [time]}
        ... '''})
        >>> log = {"user": ["ann", "ann", "bob", "ann", "ann"], "item": list("abcde"), "when": [1, 2, 2, 3, 4]}
        >>> histories(log, schema)["history"].to_pylist()
        [[], ['a'], [], ['a', 'b'], ['b', 'd']]
    """
    schema = as_schema(schema)
    roles = _Roles(sides_of(schema))
    time = _one("time", [it for it in schema if it.has(Tags.TIME)])
    columns = dict(aligned or {})
    if columns.keys() != {it.name for it in roles.aligned}:
        expected = ", ".join(it.name for it in roles.aligned) or "none"
        raise ConfigError(
            f'aligned names {", ".join(columns) or "none"}; expected the features that are aligned with "{roles.history.name}"'
            f" ({expected}), each with a column of the log"
        )
    source = open_source(interactions)
    past = source if log is None else open_source(log)
    asked, known = _Events(source, roles, time), _Events(past, roles, time)
    events = np.flatnonzero(known.are_positives(roles.sides))
    order, first, last = _before(asked, known, events)
    places, splits = _ranges(np.maximum(first, last - roles.max_length), last)
    chosen = events[order[places]]  # of each event of all histories, its row in the log
    table = _extended(_whole(source), roles.history, known.items, chosen, splits)
    for it in roles.aligned:
        column = columns[it.name]
        if column == time.source:
            unit = DAY["s" if time.time is None else time.time.unit]
            days = (np.repeat(asked.times, np.diff(splits)) - known.times[chosen]) / unit
            table = _extended(table, it, pa.array(days.astype(it.dtype)), np.arange(len(days)), splits)
        else:
            past.require(column, f'feature "{it.name}"')
            table = _extended(table, it, _whole(past, [column])[column], chosen, splits)
    return table


def expand_sequences(sequences: TableLike, schema: SchemaLike) -> pa.Table:
    """Return a row for each event of whole users' sequences, with what came before it as its history.

    The columns are the user id's, the item id's, the sequence's, those of what is aligned with it, and `remaining`: how
    many events follow. So the rows with 0 are each user's last (the test of leave-one-out), those with 1 the last but one.

    Args:
        sequences: A row for each user, with the columns of the user id, of the one sequence in the items' domain, the
            oldest event first and as many as there are, and of what is aligned with it.
        schema: Knows these features; `max_length` says how many of the newest events a history keeps.

    Raises:
        SchemaError: There is not exactly one user id or item sequence.
        DataError: A column is missing, or its lists differ in length from those of the sequence.

    Example:
        >>> from schemaflow.schema import Schema
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   items: {dtype: string, tags: [user, sequence], domain: item, list: {max_length: 2}}
        ...   item: {dtype: string, tags: [item, id], vocabulary: learned, domain: item}
        ... '''})
        >>> rows = expand_sequences({"user": ["ann"], "items": [["a", "b", "c", "d"]]}, schema)
        >>> list(zip(rows["items"].to_pylist(), rows["item"].to_pylist(), rows["remaining"].to_pylist()))
        [([], 'a', 3), (['a'], 'b', 2), (['a', 'b'], 'c', 1), (['b', 'c'], 'd', 0)]
    """
    schema = as_schema(schema)
    roles, source = _Roles(sides_of(schema)), open_source(sequences)
    parts = (roles.history, *roles.aligned)
    for it in (roles.user, *parts):
        source.require(it.source, f'feature "{it.name}"')
    piece = Piece(_whole(source, [roles.user.source, *(it.source for it in parts)]), source.name)
    users, lists = _present(roles.user, piece), [read_column(_unbounded(it), piece) for it in parts]
    ends = lists[0].splits
    assert ends is not None, "sequences are lists"
    for it, found in zip(parts[1:], lists[1:], strict=True):
        if found.splits is None or not np.array_equal(found.splits, ends):
            raise DataError(f'{source.name}: feature "{it.name}" and {it.pair} differ in length in a row')
    number, lengths = np.arange(ends[-1]), np.diff(ends)
    places, splits = _ranges(np.maximum(np.repeat(ends[:-1], lengths), number - roles.max_length), number)
    table = pa.table({
        roles.user.source: users.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        roles.item.source: lists[0].values,
        REMAINING: np.repeat(ends[1:], lengths) - 1 - number,
    })  # fmt: skip
    for it, found in zip(parts, lists, strict=True):
        table = _extended(table, it, found.values, places, splits)
    return table


class _Roles:
    """The features that histories are made by.

    Raises:
        SchemaError: There is not one of each, or the sequence may be of any length.
    """

    def __init__(self, sides: Sides) -> None:
        self.sides, self.item = sides, sides.item_id
        self.user = _one("user id", [it for it in sides.query if it.has(Tags.ID) and not it.many])
        sequences = [it for it in sides.query if it.is_history and it.table == self.item.table]
        self.history = _one(f'sequence of the domain "{self.item.table}"', sequences)
        self.aligned = tuple(it for it in sides.query if it.aligned_with == self.history.name)
        limit = None if self.history.list is None else self.history.list.max_length
        if limit is None:
            raise SchemaError(f'feature "{self.history.name}" has no "max_length", where a history is to end; add it')
        self.max_length = limit


def _one(what: str, found: Sequence[Feature]) -> Feature:
    if len(found) != 1:
        names = " and ".join(f'"{it.name}"' for it in found) or "none"
        raise SchemaError(f"histories are made by the schema's one {what}; found {names}")
    return found[0]


class _Events:
    """Interactions in memory: the user, the item and the time of each."""

    def __init__(self, source: Source, roles: _Roles, time: Feature) -> None:
        for it in (roles.user, roles.item, time):
            source.require(it.source, f'feature "{it.name}"')
        self.source = source
        needed = [roles.user.source, roles.item.source, time.source]
        piece = Piece(_whole(source, list(dict.fromkeys(needed))), source.name)
        self.users, self.items = _present(roles.user, piece), _present(roles.item, piece)
        self.times = _present(time, piece).to_numpy()

    def are_positives(self, sides: Sides) -> npt.NDArray[np.bool_]:
        """Return which of them are positives, as far as the table tells, [rows] bool."""
        marks = telling(sides, self.source.columns)
        if not marks:
            return np.ones(len(self.times), bool)
        piece = Piece(_whole(self.source, [it.source for it in marks]), self.source.name)
        columns: Columns = {it.name: _present(it, piece).to_numpy() for it in marks}
        return are_positives(sides, columns, len(self.times))


def _present(feature: Feature, piece: Piece) -> pa.Array:
    """Return a column's values, none of which is missing."""
    column = read_column(feature, piece)
    if column.values.null_count:
        first = int(np.argmax(column.missing))
        raise DataError(
            f'{column.place_of(first)}: feature "{feature.name}" is missing; histories need it: fill it in or remove the row'
        )
    return column.values


def _unbounded(feature: Feature) -> Feature:
    """Return a list feature that may be of any length: `max_length` is of the histories that come out."""
    assert feature.list is not None, "sequences are lists"
    return feature.model_copy(update={"list": feature.list.model_copy(update={"max_length": None})})


def _before(asked: _Events, log: _Events, events: Array) -> tuple[Array, Array, Array]:
    """Return the order of events by user and time, [e], and which stretch of it comes before each row, two of [rows].

    Args:
        asked: The rows.
        log: Holds the events.
        events: Their rows in the log, [e].
    """
    rows = len(asked.times)
    users = pa.chunked_array([asked.users, log.users.take(pa.array(events))]).combine_chunks()
    user = pc.dictionary_encode(users).indices.to_numpy().astype(np.int64)
    moments, moment = np.unique(np.concatenate([asked.times, log.times[events]]), return_inverse=True)
    key = user * len(moments) + moment  # in the order of users, then of time
    order = np.argsort(key[rows:], kind="stable")  # events of one moment stay in the order in which they stand
    ordered = key[rows:][order]
    first = np.searchsorted(ordered, user[:rows] * len(moments))
    return order, first, np.searchsorted(ordered, key[:rows])


def _ranges(first: Array, last: Array) -> tuple[Array, Array]:
    """Return the numbers from `first` to before `last` of each row, end to end, and where each row's begin and end."""
    splits = np.zeros(len(first) + 1, np.int64)
    np.cumsum(last - first, out=splits[1:])
    return np.arange(splits[-1]) + np.repeat(first - splits[:-1], last - first), splits


def _extended(table: pa.Table, feature: Feature, values: Any, chosen: Array, splits: Array) -> pa.Table:
    """Return a table with a column of lists, of the values chosen; strings as codes, for each stands in many histories.

    Raises:
        DataError: The table has the column.
    """
    if feature.source in table.column_names:
        raise DataError(
            f'the table has a column "{feature.source}" already, where feature "{feature.name}" is to be; drop it first'
        )
    array = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.dictionary_encode(array)
    lists = pa.LargeListArray.from_arrays(pa.array(splits), array.take(pa.array(chosen)))
    return table.append_column(feature.source, lists)


def _whole(source: Source, columns: Sequence[str] | None = None) -> pa.Table:
    """Return columns of a source in memory, all if None; its files may differ in the width of their integers."""
    pieces = source.pieces(list(source.columns) if columns is None else columns)
    return pa.concat_tables([it.table for it in pieces], promote_options="permissive")
