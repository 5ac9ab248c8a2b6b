"""Exact search."""

import keras
import tensorflow as tf

from schemaflow.index.base import NONE, Index, Search
from schemaflow.registry import register

__all__ = ["BruteForce", "exact"]

BLOCK_SCORES = 1 << 23
"""The most scores that are held at a time, 32 MB of them, where that is a block of candidates at least."""

BLOCK_CANDIDATES = 1 << 14
"""The fewest candidates of a block."""


@register("index", "brute-force")
@keras.saving.register_keras_serializable("schemaflow")
class BruteForce(Index):
    """Exact search: score every candidate, `q . c`, a block at a time, and return the k highest.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: k is below 1.

    Example:
        >>> index = BruteForce(k=2).index(tf.constant([[1.0], [3.0], [2.0]]), tf.constant(["a", "b", "c"]))
        >>> scores, identifiers = index(tf.constant([[1.0]]))
        >>> scores.numpy().tolist(), identifiers.numpy().tolist()
        ([[3.0, 2.0]], [[b'b', b'c']])
        >>> _, identifiers = index.query_with_exclusions(tf.constant([[1.0]]), tf.constant([["b"]]), k=1)
        >>> identifiers.numpy().tolist()
        [[b'c']]
    """

    def _nearest(self, asked: Search) -> tuple[tf.Tensor, tf.Tensor]:
        return exact(asked.vectors, tf.convert_to_tensor(self.candidates), asked.k, asked.eligible, asked.scale)


def exact(
    vectors: tf.Tensor, candidates: tf.Tensor, k: tf.Tensor, eligible: tf.Tensor | None, scale: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (scores, positions) of the k candidates of highest score, best first, each [batch, min(k, n)].

    Args:
        vectors: [batch, dim] float32.
        candidates: [n, dim] float32.
        k: How many.
        eligible: [n] bool; what is not has the score -inf.
        scale: What each candidate's score is multiplied by, [n] float32.
    """
    rows, count = tf.shape(vectors)[0], tf.shape(candidates)[0]
    width = tf.minimum(tf.maximum(BLOCK_SCORES // tf.maximum(rows, 1), BLOCK_CANDIDATES), count)

    def visit(start: tf.Tensor, best: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        stop = tf.minimum(start + width, count)
        scores = tf.matmul(vectors, candidates[start:stop], transpose_b=True)  # [batch, width]
        if scale is not None:
            scores *= scale[start:stop]
        if eligible is not None:
            scores = tf.where(eligible[start:stop], scores, NONE)
        found, place = tf.math.top_k(scores, tf.minimum(k, stop - start))
        # those of before come first, so that of equal scores the first candidate stays the first
        both, where = tf.concat([best, found], axis=1), tf.concat([positions, place + start], axis=1)
        best, place = tf.math.top_k(both, tf.minimum(k, tf.shape(both)[1]))
        return stop, best, tf.gather(where, place, batch_dims=1)

    _, best, positions = tf.while_loop(
        lambda start, *_: start < count,
        visit,
        (tf.constant(0), tf.zeros([rows, 0]), tf.zeros([rows, 0], tf.int32)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])),
        parallel_iterations=1,
    )
    return best, positions
