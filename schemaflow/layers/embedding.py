"""An embedding table that several features may share."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.layers.table import Table
from schemaflow.registry import register

__all__ = ["EmbeddingTable"]

CHUNK = 2**22
"""Numbers that are drawn at a time: a table of more begins in chunks of rows, each with a seed of its own."""

ROW_BY_ROW = tuple(
    getattr(keras.initializers, name) for name in ("Ones", "RandomNormal", "RandomUniform", "TruncatedNormal", "Zeros")
)
"""Initializers that draw a row alike however many there are; others see the whole table, as `GlorotUniform` must, and
`Constant`, which may hold one."""

APART = 2_654_435_761
"""By how much the seeds of chunks differ: multiples of 2^32 over the golden ratio stay apart from each other modulo 2^32,
and from the small steps between the seeds of tables."""


@register("layer", "embedding-table")
@keras.saving.register_keras_serializable("schemaflow")
class EmbeddingTable(Table):
    """A table of vectors: `e(i) = E[i]`, and for a list `sum_i E[i] / n^a` with a = 1 (mean), 0 (sum), 1/2 (sqrtn).

    With weights w, a list is `sum_i w_i E[i] / d` with `d = sum_i w_i` (mean), 1 (sum), `sqrt(sum_i w_i^2)` (sqrtn).
    Padding takes no part, and a list that is empty, all padding or all of weight 0 is a zero vector.

    Args:
        rows: Rows of the table.
        dim: Width of a row.
        initializer: Of the table: a Keras initializer, its name or config. Truncated normal, deviation 0.05, if None.
        padding: Row 0 is padding, as it is in tables with a vocabulary.
        **kwargs: Of `keras.layers.Layer`; `trainable=False` leaves the table as it is.

    Raises:
        ConfigError: `rows` or `dim` is below 1.

    Example:
        >>> table = EmbeddingTable(3, 2, initializer="ones")
        >>> table(tf.ragged.constant([[1, 2], []]), combiner="sum").numpy().tolist()
        [[2.0, 2.0], [0.0, 0.0]]
    """

    def __init__(self, rows: int, dim: int, initializer: Any = None, padding: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rows < 1 or dim < 1:
            raise ConfigError(f"an embedding table of {rows} rows x {dim} was asked for; expected at least 1 x 1")
        self.rows = rows
        self.dim = dim
        self.padding = padding
        default = keras.initializers.TruncatedNormal(stddev=0.05)
        self.initializer = fresh_initializer(default if initializer is None else initializer, 0)
        chunked = rows * dim > CHUNK and type(self.initializer) in ROW_BY_ROW
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(rows, dim),
            initializer="zeros" if chunked else self.initializer,
            autocast=False,  # autocast would copy the whole table to half precision at each step
        )
        if chunked:
            self._begin_in_chunks()
        self.built = True

    def _begin_in_chunks(self) -> None:
        """Give the table its first values without others of its size: Keras's initializers take three times its memory."""
        size = CHUNK // self.dim or 1
        with tf.init_scope():
            for place, start in enumerate(range(0, self.rows, size)):
                rows = tf.range(start, min(start + size, self.rows))
                draw = fresh_initializer(self.initializer, place * APART)
                values = draw((len(rows), self.dim), dtype=self.embeddings.dtype)
                self.embeddings.value.scatter_update(tf.IndexedSlices(values, rows))

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the rows of ids, [..., dim] in the table's dtype."""
        return tf.nn.embedding_lookup(self.embeddings.value, ids)

    def put(self, rows: Any, values: tf.Tensor) -> None:
        """Give rows [n] values, [n, dim]."""
        self.embeddings.value.scatter_update(tf.IndexedSlices(values, rows))

    def parts(self) -> tuple["EmbeddingTable", ...]:
        """Return the tables that keep its rows: itself."""
        return (self,)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "rows": self.rows,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "padding": self.padding,
        }
