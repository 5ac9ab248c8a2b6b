"""All items inside the model: their encoded features, kept with the weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Array, Columns, Lists, encoded_dtype, take
from schemaflow.data.join import as_side_table, read_ids, read_table, refuse_repeated
from schemaflow.errors import ConfigError
from schemaflow.registry import register
from schemaflow.schema.feature import encoded_name
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import TableLike

__all__ = ["ItemCatalogue", "read_catalogue"]


@register("layer", "item-catalogue")
@keras.saving.register_keras_serializable("schemaflow")
class ItemCatalogue(keras.layers.Layer):
    """The encoded features of all items, for what looks beyond the batch: samplers and metrics.

    An item's id is here the row of its id's table. Items stand in the order of these.

    Args:
        sizes: For each feature the shape of its values and their dtype, and for lists how many values there are.
        reserved: The rows below this one are of no item alone.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> columns = {"item_id": np.array([4, 3]), "price": np.array([9.5, 1.0], np.float32)}
        >>> items = ItemCatalogue.of(columns, rows=np.array([4, 3]), counts=np.array([0, 0, 0, 1, 7]), reserved=3)
        >>> items.ids(tf.constant([0, 1])).numpy().tolist(), items.ranks(tf.constant([3, 4], tf.int64)).numpy().tolist()
        ([3, 4], [1, 0])
        >>> items.features(tf.constant([1]))["price/encoded"].numpy().tolist()
        [9.5]
    """

    def __init__(self, sizes: Mapping[str, Mapping[str, Any]], reserved: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.sizes = {name: dict(size) for name, size in sizes.items()}
        self.reserved = reserved
        self.size = int(next(iter(self.sizes.values()))["shape"][0])
        self._values: dict[str, Any] = {}
        self._splits: dict[str, Any] = {}
        for name, size in self.sizes.items():
            shape = (size["values"],) if "values" in size else tuple(size["shape"])
            self._values[name] = self._kept(f"{name}_values", shape, size["dtype"])
            if "values" in size:
                self._splits[name] = self._kept(f"{name}_splits", (self.size + 1,), "int64")
        self.supports_jit = not self._splits  # XLA gathers no lists
        self._rows, self._rank, self._at_rank = (
            self._kept(name, (self.size,), "int64") for name in ("rows", "rank", "at_rank")
        )
        self.built = True

    def _kept(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
        )

    @classmethod
    def of(cls, columns: Columns, rows: Array, counts: Array | None, reserved: int) -> "ItemCatalogue":
        """Return the catalogue of encoded columns.

        Args:
            columns: The items' features by name.
            rows: The row of each item's id, [n] int.
            counts: The interactions of each row, [rows] int; without them all items are as popular.
            reserved: The rows below this one are of no item alone.
        """
        order = np.argsort(rows, kind="stable")
        columns, rows = take(columns, order), rows[order]
        sizes: dict[str, dict[str, Any]] = {}
        for name, column in columns.items():
            values = column.values if isinstance(column, Lists) else column
            sizes[name] = {"shape": [len(column), *values.shape[1:]], "dtype": values.dtype.name}
            if isinstance(column, Lists):
                sizes[name]["values"] = len(values)
        made = cls(sizes, reserved)
        for name, column in columns.items():
            made._values[name].assign(column.values if isinstance(column, Lists) else column)
            if isinstance(column, Lists):
                made._splits[name].assign(column.splits)
        seen = np.zeros(len(rows), np.int64) if counts is None else counts[rows]
        # stable, so that items of one row, which are seen as often, follow each other
        at_rank = np.argsort(-seen, kind="stable")
        made._rows.assign(rows)
        made._at_rank.assign(at_rank)
        made._rank.assign(np.argsort(at_rank))
        return made

    @property
    def holds_lists(self) -> bool:
        """Whether a feature is a list."""
        return bool(self._splits)

    @property
    def identifiers(self) -> Array:
        """A number for each item that no other has, [n] int64: its row, or one below 0 where the row is not its alone."""
        rows = self._rows.numpy()
        _, at, times = np.unique(rows, return_inverse=True, return_counts=True)
        return np.where((rows >= self.reserved) & (times[at] == 1), rows, -1 - np.arange(self.size))

    def ids(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the ids at positions, [n] int64."""
        return tf.gather(self._rows.value, positions)

    def ranks(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the ranks of ids in popularity, [m] int64 from 0: of several items with one id, which follow each other,
        the first; the last one for an id that is not there.
        """
        rows = self._rows.value
        positions = tf.minimum(tf.searchsorted(rows, ids, out_type=tf.int64), self.size - 1)
        there = tf.gather(rows, positions) == ids
        return tf.where(there, tf.gather(self._rank.value, positions), self.size - 1)

    def times(self, ids: tf.Tensor) -> tf.Tensor:
        """Return how many items have each id, [m] int64; 1 for an id that is not there."""
        rows = self._rows.value
        first, after = (tf.searchsorted(rows, ids, side=side, out_type=tf.int64) for side in ("left", "right"))
        return tf.maximum(after - first, 1)

    def at_rank(self, ranks: tf.Tensor) -> tf.Tensor:
        """Return the positions of ranks, [n] int64."""
        return tf.gather(self._at_rank.value, ranks)

    def features(self, positions: tf.Tensor) -> dict[str, Any]:
        """Return the encoded features of the items at positions, by `encoded_name`: [n], [n, dim], or ragged [n, None]."""
        return {
            encoded_name(name): tf.gather(
                tf.RaggedTensor.from_row_splits(values.value, self._splits[name].value, validate=False)
                if name in self._splits
                else values.value,
                positions,
            )
            for name, values in self._values.items()
        }

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the features themselves are weights."""
        return super().get_config() | {"sizes": self.sizes, "reserved": self.reserved}


def read_catalogue(
    table: TableLike | None, schema: Schema, sides: Sides, folder: str | Path | None = None
) -> ItemCatalogue:
    """Return the catalogue of a table of items; without one that of the schema's vocabulary of ids.

    Raises:
        DataError: An item lacks its id or stands twice.
        ConfigError: There is no table, and an item is more than its id or the ids are not known.
    """
    key, names = sides.item_id, [feature.name for feature in sides.item]
    domain, counts = schema.domains[key.table], schema.counts(key)
    if table is not None:
        source = as_side_table(table, schema, key)
        refuse_repeated(read_ids(source, key), key, source)
        columns = read_table(source, schema, folder, names)
        return ItemCatalogue.of(columns, np.asarray(columns[key.name]), counts, domain.reserved)
    if names != [key.name] or domain.encoding == "hash":
        why = "their ids are hashed" if names == [key.name] else f"an item is more than its id ({', '.join(names)})"
        raise ConfigError(f"the items are not known, since {why}; pass the table of them: candidates=")
    vocabulary = schema.vocabulary(key.table)
    rows = domain.reserved + np.arange(schema.rows(key.table) if vocabulary is None else len(vocabulary))
    return ItemCatalogue.of({key.name: rows.astype(encoded_dtype(schema, key))}, rows, counts, domain.reserved)
