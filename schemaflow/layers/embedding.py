"""An embedding table that several features may share."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.registry import register

__all__ = ["COMBINERS", "EmbeddingTable"]

COMBINERS = ("mean", "sum", "sqrtn", "max")
"""Ways to make one vector of the rows of a list: their sum divided by n, by 1, by sqrt(n); or the largest of each."""


@register("layer", "embedding-table")
@keras.saving.register_keras_serializable("schemaflow")
class EmbeddingTable(keras.layers.Layer):
    """A table of vectors: `e(i) = E[i]`, and for a list `sum_i E[i] / n^a` with a = 1 (mean), 0 (sum), 1/2 (sqrtn).

    Padding takes no part, and a list that is empty or all padding is a zero vector.

    Args:
        rows: Rows of the table.
        dim: Width of a row.
        initializer: Of the table: a Keras initializer, its name or config. Truncated normal, deviation 0.05, if None.
        padding: Row 0 is padding, as it is in tables with a vocabulary.
        **kwargs: Of `keras.layers.Layer`.

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
        self.embeddings = self.add_weight(
            name="embeddings", shape=(rows, dim), initializer=self.initializer, autocast=False
        )  # autocast would copy the whole table to half precision at each step
        self.built = True

    def call(self, ids: tf.Tensor | tf.RaggedTensor, combiner: str = "mean") -> tf.Tensor:
        """Return the vectors of ids.

        Args:
            ids: [batch] int, or lists: [batch, None] int, ragged or dense.
            combiner: For lists; one of mean, sum, sqrtn, max.

        Returns:
            [batch, dim] in the layer's compute dtype.

        Raises:
            ConfigError: There is no such combiner.
        """
        if not isinstance(ids, tf.RaggedTensor) and len(ids.shape) == 1:
            return tf.cast(tf.nn.embedding_lookup(self.embeddings.value, ids), self.compute_dtype)
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        return tf.cast(self._combine(ids, combiner), self.compute_dtype)

    def _combine(self, ids: tf.RaggedTensor, combiner: str) -> tf.Tensor:
        if combiner not in COMBINERS:
            raise ConfigError(
                f'unknown combiner "{combiner}"{suggest(combiner, COMBINERS)} (known: {", ".join(COMBINERS)})'
            )
        vectors = tf.nn.embedding_lookup(self.embeddings.value, ids.values)  # [n, dim]
        row, rows = ids.value_rowids(), ids.nrows()  # [n], scalar
        counts = tf.not_equal(ids.values, 0) if self.padding else tf.ones_like(ids.values, tf.bool)  # [n]
        number = tf.math.unsorted_segment_sum(tf.cast(counts, vectors.dtype), row, rows)[:, tf.newaxis]  # [batch, 1]
        if combiner == "max":
            lowest = tf.where(counts[:, tf.newaxis], vectors, vectors.dtype.min)
            return tf.where(number > 0, tf.math.unsorted_segment_max(lowest, row, rows), 0.0)
        total = tf.math.unsorted_segment_sum(tf.where(counts[:, tf.newaxis], vectors, 0.0), row, rows)  # [batch, dim]
        if combiner == "sum":
            return total
        return tf.math.divide_no_nan(total, number if combiner == "mean" else tf.sqrt(number))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "rows": self.rows,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "padding": self.padding,
        }
