"""Encoded tables as `tf.data`: batches of feature dicts, shuffled, lists ragged."""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Columns, Lists, concatenate, encoded_dtype, take
from schemaflow.data.join import Joined, join
from schemaflow.errors import ConfigError, DataError, SchemaFlowError
from schemaflow.schema.feature import encoded_name
from schemaflow.schema.schema import Schema, SchemaLike, as_schema
from schemaflow.schema.sources import Place, TableLike

__all__ = ["data_errors", "read_parquet"]

_raised: list[SchemaFlowError] = []
"""What the generators raised: TensorFlow passes on only a text, inside an error of its own."""

NAMED = re.compile(r'\b(feature|task) "[^\n\]]+')
"""What a check in the graph says, in the text of TensorFlow's error."""

SHUFFLE_ROWS = 1_000_000
"""Row groups are read in random order and mixed until this many rows are in memory."""


def read_parquet(
    path: TableLike,
    schema: SchemaLike,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int | Callable[[], int] | None = None,
    drop_remainder: bool = False,
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
        shuffle: Give the rows in another order each time the dataset is iterated: row groups in random order, mixed by
            the million rows.
        seed: Of the shuffle. The same seed gives the same order of rows in the same iteration. A function is asked for a
            seed before each iteration.
        drop_remainder: Leave out the last rows where they do not fill a batch.
        tables: The folder of the side tables; that of `path` if not given.
        features: The names of the features to read; all if None.

    Raises:
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
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size!r}; expected an integer of at least 1")
    if features is not None and not features:
        raise ConfigError("features is empty; name at least one, or leave it out for all")
    schema = as_schema(schema)
    joined = join(path, schema, tables, features)
    next_seed = seed if callable(seed) else partial(random.Random(seed).getrandbits, 64)
    rows = joined.source.rows
    steps = rows // batch_size if drop_remainder else -(-rows // batch_size)

    def batches() -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng(next_seed()) if shuffle else None
        try:
            for batch in _batches(joined, batch_size, generator):
                if not drop_remainder or len(next(iter(batch.values()))) == batch_size:
                    yield {encoded_name(name): _flat(column) for name, column in batch.items()}
        except SchemaFlowError as reason:
            _raised.append(reason)
            raise

    signature = {encoded_name(feature.name): _signature(schema, feature) for feature in joined.features}
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.map(_assemble, num_parallel_calls=1)
    return dataset.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


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


def _batches(joined: Joined, size: int, generator: np.random.Generator | None) -> Iterator[Columns]:
    """Yield every row once, `size` at a time; the last batch may be shorter."""
    rest: Columns | None = None
    for columns in _blocks(joined, generator):
        whole = concatenate([rest, columns]) if rest is not None else columns
        rows = len(next(iter(whole.values())))
        for start in range(0, rows - size + 1, size):
            yield take(whole, np.arange(start, start + size))
        rest = take(whole, np.arange(rows - rows % size, rows)) if rows % size else None
    if rest is not None:
        yield rest


def _blocks(joined: Joined, generator: np.random.Generator | None) -> Iterator[Columns]:
    """Yield the table piece by piece; shuffled, several row groups at a time."""
    places: list[Place] = joined.source.places()
    if generator is None:
        yield from (joined.read(place) for place in places)
        return
    held: list[Columns] = []
    held_rows = 0
    for last, index in enumerate(generator.permutation(len(places)), start=1):
        held.append(joined.read(places[index]))
        held_rows += len(next(iter(held[-1].values())))
        if held_rows >= SHUFFLE_ROWS or last == len(places):
            yield take(concatenate(held), generator.permutation(held_rows))
            held, held_rows = [], 0


def _flat(column: Any) -> Any:
    return {"values": column.values, "splits": column.splits} if isinstance(column, Lists) else column


def _signature(schema: Schema, feature: Any) -> Any:
    dtype = tf.as_dtype(encoded_dtype(schema, feature))
    if feature.kind == "vector":
        return tf.TensorSpec([None, feature.embedding.dim], dtype)
    flat = tf.TensorSpec([None], dtype)
    return {"values": flat, "splits": tf.TensorSpec([None], tf.int64)} if feature.ragged else flat


def _assemble(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tf.RaggedTensor.from_row_splits(it["values"], it["splits"], validate=False)
        if isinstance(it, dict)
        else it
        for name, it in batch.items()
    }
