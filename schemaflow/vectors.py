"""Vectors of whole tables, by a model's towers as they are, and the index of a table's items."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.data.dataset import data_errors, read_parquet
from schemaflow.data.encode import Array
from schemaflow.data.join import as_side_table, read_ids, refuse_repeated
from schemaflow.errors import DataError
from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.features.kinds import Tensors
from schemaflow.index import BruteForce, Index
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import Source
from schemaflow.schema.tags import Tags
from schemaflow.towers import Tower

__all__ = ["EMBED_ROWS", "Vectors"]

EMBED_ROWS = 4096
"""Rows that become vectors at a time."""


class Vectors:
    """What towers make of tables; what gives vectors is traced once for each side.

    Args:
        schema: Knows the features.
        sides: Those of the towers.
        query_tower: Gives the vectors of queries.
        item_tower: Gives the vectors of items.
    """

    def __init__(self, schema: Schema, sides: Sides, query_tower: Tower, item_tower: Tower) -> None:
        self._schema, self._sides = schema, sides
        # as Keras traces its steps; AutoGraph's parsing, besides, fails beside that of a traceback in a reader's thread
        traced = partial(tf.function, reduce_retracing=True, autograph=False)
        # partial: TensorFlow warns of code that is traced for the fifth time, be it by the first use of a fifth model
        self._query, self._item, self._inputs = (
            traced(partial(_single, it)) for it in (query_tower, item_tower, query_tower.inputs_of)
        )

    def queries(self, x: Any, batch_size: int, tables: str | Path | None) -> Array:
        """Return the vectors of queries, [n, dim] float32, or [n, K, dim]; `x` is a table or a dataset."""
        return self._of(self._query, self._sides.query, x, batch_size, tables)

    def query_inputs(self, x: Any, batch_size: int, tables: str | Path | None) -> Array:
        """Return what the query tower's block is given of queries, [n, width] float32."""
        return self._of(self._inputs, self._sides.query, x, batch_size, tables)

    def items(self, x: Any, batch_size: int, tables: str | Path | None) -> Array:
        """Return the vectors of items, [n, dim] float32."""
        return self._of(self._item, self._sides.item, x, batch_size, tables)

    def of_catalogue(self, catalogue: ItemCatalogue) -> tf.Tensor:
        """Return the vectors of a catalogue's items, [size, dim] float32."""
        starts = range(0, catalogue.size, EMBED_ROWS)
        positions = (np.arange(it, min(it + EMBED_ROWS, catalogue.size)) for it in starts)
        return tf.concat([self._item(catalogue.features(tf.constant(it))) for it in positions], axis=0)

    def _of(
        self, encode: Any, features: Sequence[Feature], x: Any, batch_size: int, tables: str | Path | None
    ) -> Array:
        if not isinstance(x, tf.data.Dataset):
            names = [feature.name for feature in features]
            for key in (it for it in features if it.has(Tags.ID)):
                x = as_side_table(x, self._schema, key)
            x = read_parquet(x, self._schema, batch_size=batch_size, tables=tables, features=names)
        with data_errors():
            return np.concatenate([encode(batch).numpy() for batch in x])

    def indexed(self, source: Source, index: Index | None, k: int | None, tables: str | Path | None) -> Index:
        """Return an index of a table's items, which takes vectors.

        Args:
            source: The items.
            index: What to search by, without candidates yet; a `BruteForce` if None.
            k: How many it returns; the index's own if None.
            tables: The folder of the side tables, where it is not that of `source`.

        Raises:
            DataError: An item stands twice or lacks its id, or a vector is not finite.
        """
        ids = read_ids(source, self._sides.item_id)
        refuse_repeated(ids, self._sides.item_id, source)
        vectors = self.items(source, EMBED_ROWS, tables)
        if not np.isfinite(vectors).all():
            raise DataError(
                "the items' vectors are not finite: the training diverged; lower the learning rate and train again"
            )
        index = BruteForce() if index is None else index
        index.k = index.k if k is None else k
        return index.index(vectors, ids.to_numpy(zero_copy_only=False))


def _single(encode: Callable[[Tensors], tf.Tensor], batch: Tensors) -> tf.Tensor:
    return tf.cast(encode(batch), tf.float32)
