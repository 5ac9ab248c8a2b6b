"""Losses that compare scores with those of a teacher on each row's candidates. Functions of tensors, no state.

All take scores [b, m] of any size, never probabilities, and which of them take part, [b, m] bool. Each gives a loss a row, [b],
0 where fewer take part than are to be compared; no gradient comes from what takes no part, or reaches the teacher's.
"""

from typing import Any

import tensorflow as tf

__all__ = ["binary", "divergence", "margins", "squares"]


def divergence(teacher: tf.Tensor, scores: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    """Return `KL(softmax(teacher) || softmax(scores))` over the candidates compared, [b] float32.

    The gradient is `softmax(scores) - softmax(teacher)`, written out: where both scores are the same bit for bit it is 0, and
    not what rounding leaves of automatic differentiation, which Adam would make whole steps of.

    Args:
        teacher: [b, m].
        scores: [b, m].
        compared: [b, m] bool.

    Example:
        >>> yes = tf.constant([[True, True]])  # 3/4 ln(3/2) + 1/4 ln(1/2)
        >>> round(float(divergence(tf.math.log([[3.0, 1.0]]), tf.zeros((1, 2)), yes)[0]), 4)
        0.1308
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def of_scores(scores: tf.Tensor) -> Any:
        log_p, log_s = (_log_softmax(it, compared) for it in (teacher, scores))
        p, s = tf.exp(log_p), tf.exp(log_s)
        loss = tf.reduce_sum(tf.where(compared, p * (log_p - log_s), 0.0), axis=1)
        return loss, lambda upstream: upstream[:, tf.newaxis] * tf.where(compared, s - p, 0.0)

    loss: tf.Tensor = of_scores(scores)
    return loss


def margins(teacher: tf.Tensor, scores: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    """Return the mean over pairs i and j of `((s_i - s_j) - (t_i - t_j))^2`, [b] float32.

    It is computed in one pass, as twice the variance of `s - t`.

    Args:
        teacher: [b, m].
        scores: [b, m].
        compared: [b, m] bool.

    Source:
        Hofstätter et al., "Improving efficient neural ranking models with cross-architecture knowledge distillation", 2020.

    Example:
        >>> yes = tf.constant([[True, True, True]])  # pairs differ by 1, 3 and 2: (1 + 9 + 4) / 3
        >>> round(float(margins(tf.constant([[1.0, 2.0, 4.0]]), tf.zeros((1, 3)), yes)[0]), 4)
        4.6667
    """
    taking = tf.cast(compared, tf.float32)
    count = tf.reduce_sum(taking, axis=1, keepdims=True)  # [b, 1]
    off = tf.where(compared, scores - tf.stop_gradient(teacher), 0.0)
    off = tf.where(compared, off - tf.math.divide_no_nan(tf.reduce_sum(off, axis=1, keepdims=True), count), 0.0)
    return 2.0 * tf.math.divide_no_nan(tf.reduce_sum(off**2, axis=1), tf.nn.relu(count[:, 0] - 1.0))


def binary(probabilities: tf.Tensor, scores: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    """Return the mean of `-p log sigmoid(s) - (1 - p) log sigmoid(-s)`, [b] float32.

    Args:
        probabilities: The teacher's, [b, m] from 0 to 1.
        scores: [b, m].
        compared: [b, m] bool.

    Example:
        >>> round(float(binary(tf.constant([[0.25]]), tf.zeros((1, 1)), tf.constant([[True]]))[0]), 4)
        0.6931
    """
    labels = tf.stop_gradient(probabilities)
    return _mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=scores), compared)


def squares(teacher: tf.Tensor, scores: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    """Return the mean of `(s - t)^2`, [b] float32.

    Args:
        teacher: [b, m].
        scores: [b, m].
        compared: [b, m] bool.

    Example:
        >>> float(squares(tf.constant([[1.0, 9.0]]), tf.constant([[3.0, 0.0]]), tf.constant([[True, False]]))[0])
        4.0
    """
    return _mean((scores - tf.stop_gradient(teacher)) ** 2, compared)


def _log_softmax(scores: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    """Return the log of the softmax over what is compared, [b, m]; of a row with nothing, over all of it."""
    nothing = ~tf.reduce_any(compared, axis=1, keepdims=True)
    return tf.nn.log_softmax(tf.where(compared | nothing, scores, float("-inf")))


def _mean(values: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.where(compared, values, 0.0), axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(compared, tf.float32), axis=1))
