"""Encoded tables as `tf.data`: batches of feature dicts, shuffled, lists ragged."""

import atexit
import random
import re
import time
from _thread import LockType
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from numbers import Integral
from pathlib import Path
from threading import Event, Lock
from typing import Any
from weakref import WeakSet

import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.data.encode import Columns, Lists, encoded_dtype
from schemaflow.data.join import join
from schemaflow.data.order import in_order, shuffled
from schemaflow.errors import ConfigError, DataError, SchemaFlowError
from schemaflow.schema.feature import encoded_name
from schemaflow.schema.schema import Schema, SchemaLike, as_schema
from schemaflow.schema.sources import TableLike

__all__ = ["data_errors", "read_parquet"]

_raised: list[SchemaFlowError] = []
"""What the generators raised: TensorFlow passes on only a text, inside an error of its own."""

GRACE = 0.2
"""Seconds for threads of TensorFlow to leave Python, once what they read has ended."""

_ending, _readers = Event(), WeakSet[LockType]()
"""Whether the interpreter ends, and what each iterator holds while it reads."""

NAMED = re.compile(r'\b(feature|task) "[^\n\]]+')
"""What a check in the graph says, in the text of TensorFlow's error."""


def read_parquet(
    path: TableLike,
    schema: SchemaLike,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int | Callable[[], int] | None = None,
    drop_remainder: bool = False,
    shard: tuple[int, int] | None = None,
    tables: str | Path | None = None,
    features: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """Return batches of encoded features, read piece by piece.

    Each element is a dict from `encoded_name(feature)` to a tensor [batch] (a `tf.RaggedTensor` [batch, None] for a
    list or a text, [batch, dim] for a dense vector): rows of embedding tables int32, numbers float32, targets and times in their own dtype. Users' and items'
    features are joined by id from the side tables that the schema declares.

    Args:
        path: A Parquet file, a folder of them, or a table in memory.
        schema: The features, with their vocabularies learned.
        batch_size: Rows an element.
        shuffle: Give the rows in another order each time the dataset is iterated. Row groups come in random order, 16 of
            them by turns; what some turns bring, 131,072 rows, is mixed before it is cut into batches.
        seed: Of the shuffle. The same seed gives the same order of rows in the same iteration, whatever the machine. A
            function is asked for a seed before each iteration.
        drop_remainder: Leave out the last rows where they do not fill a batch. All shards then have the same number of
            batches, which `tf.distribute` needs.
        shard: `(index, count)`: read one of `count` parts of the rows, each row in one of them. Parts differ by one row at
            most, and so by one batch at most. A shuffle shares out all rows anew in each iteration, by a seed that all
            shards are given alike; the row groups of the other shards are not read.
        tables: The folder of the side tables; that of `path` if not given.
        features: The names of the features to read; all if None.

    Raises:
        ConfigError: `batch_size`, `features` or `shard` is none that can be, or shards are shuffled without a seed.
        DataError: A column is missing. A row that does not fit its feature is found when it is read: the model's methods
            raise a `DataError` then, and iterating by hand a TensorFlow error with the same text.
        SchemaError: The schema still lacks a vocabulary.

    Example:
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: int64, tags: [user, id], cardinality: 9}
        ...   genres: {dtype: string, tags: [item, categorical], vocabulary: [jazz, folk], list: {}}
        ... '''})
        >>> table = {"user_id": [4, 8], "genres": [["folk", "jazz"], []]}
        >>> batch = next(iter(read_parquet(table, schema, batch_size=2)))
        >>> batch["user_id/encoded"].numpy().tolist(), batch["genres/encoded"].to_list()
        ([4, 8], [[4, 3], []])
    """
    check_count("batch_size", batch_size)
    if features is not None and not features:
        raise ConfigError("features is empty; name at least one, or leave it out for all")
    schema = as_schema(schema)
    joined = join(path, schema, tables, features)
    rows = _rows_of(shard, joined.source.rows)
    if shard is not None and shard[1] > 1 and shuffle and seed is None:
        raise ConfigError(
            f"shard is {shard!r} and shuffle has no seed; give all shards the same one, or their rows overlap"
        )
    if not callable(seed) and seed is not None and not (isinstance(seed, Integral) and seed >= 0):
        raise ConfigError(f"seed is {seed!r}; expected an integer of at least 0, or a function that gives one")
    batch_size, seed = int(batch_size), int(seed) if isinstance(seed, Integral) else seed
    next_seed = seed if callable(seed) else partial(random.Random(seed).getrandbits, 64)
    # of the shortest shard, so that all have as many
    steps = (
        joined.source.rows // (1 if shard is None else shard[1]) // batch_size
        if drop_remainder
        else -(-len(rows) // batch_size)
    )

    def blocks() -> Iterator[dict[str, Any]]:
        reading = Lock()
        _readers.add(reading)
        try:
            found = shuffled(joined, rows, batch_size, next_seed()) if shuffle else in_order(joined, rows, batch_size)
            while (block := _next_of(found, reading)) is not None:
                yield {encoded_name(name): _flat(column) for name, column in block.items()}
        except SchemaFlowError as reason:
            _raised[:] = [reason]
            raise

    signature = {encoded_name(feature.name): _signature(schema, feature) for feature in joined.features}
    dataset = tf.data.Dataset.from_generator(blocks, output_signature=signature)
    dataset = dataset.map(tf.autograph.experimental.do_not_convert(partial(_batches, batch_size))).unbatch().take(steps)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def _next_of(blocks: Iterator[Columns], reading: LockType) -> Columns | None:
    """Return the next block; None after the last, and once the interpreter ends."""
    with reading:
        return None if _ending.is_set() else next(blocks, None)


@atexit.register
def _end() -> None:
    """Let readers come to an end: TensorFlow waits for them, and they would wait for an interpreter that is no more."""
    _ending.set()
    for reading in list(_readers):
        with reading:
            pass
    if len(_readers):
        time.sleep(GRACE)


@contextmanager
def data_errors() -> Iterator[None]:
    """Raise a dataset's own error where TensorFlow raises one about it.

    Raises:
        DataError: A row that was read inside does not fit its feature, or a check in the graph says so.
    """
    _raised.clear()
    try:
        yield
    except tf.errors.OpError as error:
        if _raised:
            raise _raised[-1] from None
        if named := NAMED.search(error.message.replace("\\", "")):
            raise DataError(named[0]) from None
        raise


def _flat(column: Any) -> Any:
    return {"values": column.values, "splits": column.splits} if isinstance(column, Lists) else column


def _signature(schema: Schema, feature: Any) -> Any:
    dtype = tf.as_dtype(encoded_dtype(schema, feature))
    if feature.kind == "vector":
        return tf.TensorSpec([None, feature.embedding.dim], dtype)
    flat = tf.TensorSpec([None], dtype)
    return {"values": flat, "splits": tf.TensorSpec([None], tf.int64)} if feature.ragged else flat


def _batches(size: int, block: dict[str, Any]) -> dict[str, Any]:
    """Return the batches of a block, [batches, batch, ...]."""
    return {name: _stacked(it, size) for name, it in block.items()}


def _stacked(column: Any, size: int) -> Any:
    if not isinstance(column, dict):
        rows = tf.shape(column)[0]
        return tf.reshape(column, tf.concat([[-1, tf.minimum(rows, size)], tf.shape(column)[1:]], axis=0))
    lists = tf.RaggedTensor.from_row_splits(column["values"], column["splits"], validate=False)
    rows = lists.nrows()
    return tf.RaggedTensor.from_row_splits(lists, tf.range(0, rows + 1, tf.minimum(rows, size)), validate=False)


def _rows_of(shard: tuple[int, int] | None, rows: int) -> range:
    """Return the rows of a shard, of the order that all shards have."""
    if shard is None:
        return range(rows)
    whole = isinstance(shard, (tuple, list)) and len(shard) == 2 and all(type(it) is int for it in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise ConfigError(f"shard is {shard!r}; expected (index, count), with 0 <= index < count")
    index, count = shard
    if rows < count:
        raise ConfigError(
            f"shard is {shard!r}, but the table has {rows} rows, fewer than shards; use at most {rows} shards"
        )
    return range(rows * index // count, rows * (index + 1) // count)
