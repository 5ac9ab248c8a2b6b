"""Lengths and directions of vectors, whose squares may be beyond float32."""

import tensorflow as tf

__all__ = ["directions", "lengths"]


def lengths(vectors: tf.Tensor) -> tf.Tensor:
    """Return `|v|`, [n].

    Args:
        vectors: [n, dim] float32.

    Example:
        >>> [f"{it:.3g}" for it in lengths(tf.constant([[3e20, 4e20], [3e-25, 4e-25], [0.0, 0.0]])).numpy()]
        ['5e+20', '5e-25', '0']
    """
    largest = _largest(vectors)
    return largest[:, 0] * tf.norm(tf.math.divide_no_nan(vectors, largest), axis=1)


def directions(vectors: tf.Tensor) -> tf.Tensor:
    """Return `v / |v|`, [n, dim]; zeros where v is zero.

    Args:
        vectors: [n, dim] float32.

    Example:
        >>> directions(tf.constant([[3e20, -4e20], [0.0, 0.0]])).numpy().astype(str).tolist()
        [['0.6', '-0.8'], ['0.0', '0.0']]
    """
    return tf.math.l2_normalize(tf.math.divide_no_nan(vectors, _largest(vectors)), axis=1)


def _largest(vectors: tf.Tensor) -> tf.Tensor:
    """Return the largest number of each vector without its sign, [n, 1]: a vector divided by it squares safely."""
    return tf.reduce_max(tf.abs(vectors), axis=1, keepdims=True)
