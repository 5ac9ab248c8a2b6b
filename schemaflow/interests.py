"""Queries of several vectors, one for each of a user's interests: an item's score is that of the nearest, `max_k q_k . c`.

Functions of tensors. Queries of one vector each go through as ever.
"""

from typing import Any

import tensorflow as tf

__all__ = ["nearest_interest", "scores_of", "vectors_each"]


def vectors_each(queries: Any) -> int:
    """Return how many vectors a query has: K of [q, K, dim], 1 of [q, dim]."""
    return int(queries.shape[1]) if len(queries.shape) == 3 else 1


def scores_of(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Return every candidate's score for every query, `max_k q_k . c`, [q, n].

    Args:
        queries: [q, dim] or [q, K, dim].
        candidates: [n, dim].

    Example:
        >>> scores_of(tf.constant([[[1.0, 0.0], [0.0, 2.0]]]), tf.constant([[3.0, 1.0], [1.0, 1.0]])).numpy().tolist()
        [[3.0, 2.0]]
    """
    if queries.shape.rank == 2:
        return tf.matmul(queries, candidates, transpose_b=True)
    flat = tf.reshape(queries, [-1, tf.shape(queries)[2]])  # [q K, dim]
    each = tf.matmul(flat, candidates, transpose_b=True)  # [q K, n]
    return tf.reduce_max(tf.reshape(each, [-1, vectors_each(queries), tf.shape(candidates)[0]]), axis=1)


def nearest_interest(queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
    """Return of each query the vector that its own item is nearest to, `q_k` of the largest `q_k . c`, [q, dim].

    Gradients reach that vector alone: which one it is has none.

    Args:
        queries: [q, dim] or [q, K, dim].
        items: One for each query, [q, dim].

    Source:
        Cen et al., "Controllable multi-interest framework for recommendation" (ComiRec), KDD 2020.

    Example:
        >>> nearest_interest(tf.constant([[[1.0, 0.0], [0.0, 2.0]]]), tf.constant([[1.0, 1.0]])).numpy().tolist()
        [[0.0, 2.0]]
    """
    if queries.shape.rank == 2:
        return queries
    scores = tf.reduce_sum(queries * items[:, tf.newaxis, :], axis=-1)  # [q, K]
    return tf.gather(queries, tf.argmax(scores, axis=1), batch_dims=1)
