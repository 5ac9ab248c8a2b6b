"""Vectors of ids, and how those of a list become one."""

from abc import abstractmethod
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.layers.lists import rows_of

__all__ = ["COMBINERS", "Table"]

COMBINERS = ("mean", "sum", "sqrtn", "max")
"""Ways to make one vector of the rows of a list: their sum divided by n, by 1, by sqrt(n); or the largest of each."""


class Table(keras.layers.Layer):
    """What ids are looked up in. A subclass keeps the rows; lists of them are combined here, alike for all.

    Attributes:
        rows: How many there are.
        dim: Width of a row.
        padding: Whether row 0 takes no part in lists.
    """

    rows: int
    dim: int
    padding: bool

    def call(
        self,
        ids: tf.Tensor | tf.RaggedTensor,
        combiner: str = "mean",
        weights: tf.RaggedTensor | None = None,
        jit: bool = False,
    ) -> tf.Tensor:
        """Return the vectors of ids.

        Args:
            ids: [batch] int, or lists: [batch, None] int, ragged or dense.
            combiner: For lists; one of mean, sum, sqrtn, max.
            weights: One for each id of ragged lists, [batch, None] float32; not with max.
            jit: Keep to operations that XLA compiles; without it, lists are summed in a third of the time.

        Returns:
            [batch, dim] in the layer's compute dtype.

        Raises:
            ConfigError: There is no such combiner, or it takes no weights.
        """
        return tf.cast(self._combined(ids, combiner, weights, jit), self.compute_dtype)

    @abstractmethod
    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the rows of ids, [..., dim] in the table's dtype."""

    @abstractmethod
    def put(self, rows: Any, values: tf.Tensor) -> None:
        """Give rows [n] values, [n, dim]."""

    @abstractmethod
    def parts(self) -> tuple[Any, ...]:
        """Return the embedding tables that keep its rows."""

    def _combined(
        self, ids: tf.Tensor | tf.RaggedTensor, combiner: str, weights: tf.RaggedTensor | None, jit: bool
    ) -> tf.Tensor:
        """Return the vectors of ids [batch], or of lists of them, [batch, dim] in the table's dtype."""
        if not isinstance(ids, tf.RaggedTensor) and len(ids.shape) == 1:
            return self.lookup(ids)
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        if combiner not in COMBINERS:
            raise ConfigError(
                f'unknown combiner "{combiner}"{suggest(combiner, COMBINERS)} (known: {", ".join(COMBINERS)})'
            )
        if combiner == "max" and weights is not None:
            raise ConfigError("the combiner max takes no weights; use mean, sum or sqrtn")
        values, row, rows = ids.values, rows_of(ids), ids.nrows()  # [n], [n], scalar
        share = None if weights is None else weights.values  # [n]
        if self.padding and jit:
            row = tf.where(tf.equal(values, 0), tf.constant(-1, row.dtype), row)  # sums leave negative rows out
        elif self.padding:  # is left out here, among whole numbers: a pass over [n, dim] costs as much as the lookup
            kept = tf.where(tf.not_equal(values, 0))[:, 0]  # [m]; n below is this m
            values, row = tf.gather(values, kept), tf.gather(row, kept)
            share = None if share is None else tf.gather(share, kept)
        vectors = self.lookup(values)  # [n, dim]
        ones = tf.ones_like(values, vectors.dtype)  # [n]
        if combiner == "max":
            present = tf.math.unsorted_segment_sum(ones, row, rows)[:, tf.newaxis] > 0  # [batch, 1]
            return tf.where(present, tf.math.unsorted_segment_max(vectors, row, rows), 0.0)
        if share is None:
            share = ones
        else:
            share = tf.cast(share, vectors.dtype)
            vectors = share[:, tf.newaxis] * vectors
        total = _summed(vectors, row, rows, jit)  # [batch, dim]
        if combiner == "sum":
            return total
        norm = tf.math.unsorted_segment_sum(share if combiner == "mean" else share**2, row, rows)[:, tf.newaxis]
        return tf.math.divide_no_nan(total, norm if combiner == "mean" else tf.sqrt(norm))  # by [batch, 1]


def _summed(vectors: tf.Tensor, row: tf.Tensor, rows: tf.Tensor, jit: bool) -> tf.Tensor:
    """Return the sums of the vectors [n, dim] of each row, [rows, dim]; `row` [n] is sorted, but with jit."""
    if jit:
        return tf.math.unsorted_segment_sum(vectors, row, rows)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def sums(vectors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        total = tf.math.segment_sum(vectors, row)  # [up to the last list that is not empty, dim]
        total = tf.pad(total, [[0, tf.cast(rows, tf.int32) - tf.shape(total)[0]], [0, 0]])
        return total, lambda upstream: tf.gather(upstream, row)

    return sums(vectors)
