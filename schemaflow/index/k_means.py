"""Lists of candidates that point the same way."""

import numpy as np
import tensorflow as tf

from schemaflow.index.directions import directions

__all__ = ["assigned", "k_means"]

ROUNDS = 10

SAMPLE = 64
"""Vectors of a list that its centre is learned from, on average."""

BLOCK = 1 << 13
"""Vectors that are compared with the centres at a time."""


def k_means(vectors: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Return centres of length 1, by which vectors of equal direction come together: spherical k-means.

        centre_j = normalised sum of v / |v| over the v with argmax_i centre_i . v = j

    Only directions count: by distance, long candidates would be alone in lists far from every query.

    Args:
        vectors: [n, dim] float32; a sample of 64 a list is looked at.
        count: How many centres, at most n.
        seed: Of the sample and of the centres at the start.

    Source: Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.

    Example:
        >>> centres = k_means(tf.constant([[2.0, 0.0], [0.0, 5.0]]), 2, seed=0)
        >>> len(set(assigned(tf.constant([[2.0, 0.1], [9.0, 0.0], [0.0, 1.0]]), centres).numpy().tolist()))
        2
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(vectors), min(len(vectors), SAMPLE * count), replace=False)
    sample = directions(tf.gather(vectors, chosen))  # [s, dim]
    centres = sample[:count]
    for _ in range(ROUNDS):
        lists = assigned(sample, centres)
        sums = tf.math.unsorted_segment_sum(sample, lists, count)  # [count, dim]
        empty = tf.math.unsorted_segment_sum(tf.ones_like(lists), lists, count) == 0
        # an empty list starts again at any vector: it takes a part of the list that this one is in
        again = tf.gather(sample, rng.integers(0, len(sample), count))
        centres = tf.math.l2_normalize(tf.where(empty[:, tf.newaxis], again, sums), axis=1)
    return centres


def assigned(vectors: tf.Tensor, centres: tf.Tensor) -> tf.Tensor:
    """Return the centre that each vector has the highest product with, [n] int32.

    Args:
        vectors: [n, dim] float32.
        centres: [count, dim] float32.
    """
    blocks = (vectors[start : start + BLOCK] for start in range(0, len(vectors), BLOCK))
    return tf.concat(
        [tf.argmax(tf.matmul(it, centres, transpose_b=True), axis=1, output_type=tf.int32) for it in blocks], axis=0
    )
