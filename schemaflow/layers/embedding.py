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
        self.embeddings = self.add_weight(
            name="embeddings", shape=(rows, dim), initializer=self.initializer, autocast=False
        )  # autocast would copy the whole table to half precision at each step
        self.built = True

    def call(
        self, ids: tf.Tensor | tf.RaggedTensor, combiner: str = "mean", weights: tf.RaggedTensor | None = None
    ) -> tf.Tensor:
        """Return the vectors of ids.

        Args:
            ids: [batch] int, or lists: [batch, None] int, ragged or dense.
            combiner: For lists; one of mean, sum, sqrtn, max.
            weights: One for each id of ragged lists, [batch, None] float32; not with max.

        Returns:
            [batch, dim] in the layer's compute dtype.

        Raises:
            ConfigError: There is no such combiner, or it takes no weights.
        """
        if not isinstance(ids, tf.RaggedTensor) and len(ids.shape) == 1:
            return tf.cast(tf.nn.embedding_lookup(self.embeddings.value, ids), self.compute_dtype)
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        return tf.cast(self._combine(ids, combiner, weights), self.compute_dtype)

    def _combine(self, ids: tf.RaggedTensor, combiner: str, weights: tf.RaggedTensor | None) -> tf.Tensor:
        if combiner not in COMBINERS:
            raise ConfigError(
                f'unknown combiner "{combiner}"{suggest(combiner, COMBINERS)} (known: {", ".join(COMBINERS)})'
            )
        if combiner == "max" and weights is not None:
            raise ConfigError("the combiner max takes no weights; use mean, sum or sqrtn")
        vectors = tf.nn.embedding_lookup(self.embeddings.value, ids.values)  # [n, dim]
        row, rows = ids.value_rowids(), ids.nrows()  # [n], scalar
        counts = tf.not_equal(ids.values, 0) if self.padding else tf.ones_like(ids.values, tf.bool)  # [n]
        if combiner == "max":
            lowest = tf.where(counts[:, tf.newaxis], vectors, vectors.dtype.min)
            present = (
                tf.math.unsorted_segment_max(tf.cast(counts, tf.int32), row, rows)[:, tf.newaxis] > 0
            )  # [batch, 1]
            return tf.where(present, tf.math.unsorted_segment_max(lowest, row, rows), 0.0)
        share = tf.ones_like(vectors[:, 0]) if weights is None else tf.cast(weights.values, vectors.dtype)  # [n]
        share = tf.where(counts, share, 0.0)[:, tf.newaxis]  # [n, 1]
        total = tf.math.unsorted_segment_sum(share * vectors, row, rows)  # [batch, dim]
        if combiner == "sum":
            return total
        norm = tf.math.unsorted_segment_sum(share if combiner == "mean" else share**2, row, rows)  # [batch, 1]
        return tf.math.divide_no_nan(total, norm if combiner == "mean" else tf.sqrt(norm))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "rows": self.rows,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "padding": self.padding,
        }
