"""Losses of retrieval: logits and the positive's column in, one loss a row out."""

from collections.abc import Callable
from numbers import Real

import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.registry import register

__all__ = ["Loss", "categorical_crossentropy", "check_loss_weight", "weighted_mean"]

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(logits [q, c], positive column [q]) -> [q]."""


@register("loss", "categorical_crossentropy")
def categorical_crossentropy(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `-log softmax(logits)[positive]` for each row, [q] float32.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Example:
        >>> loss = categorical_crossentropy(tf.constant([[0.0, 0.0, float("-inf")]]), tf.constant([1]))
        >>> round(float(loss[0]), 4)
        0.6931
    """
    own = tf.gather(logits, positives, axis=1, batch_dims=1)  # [q]
    return tf.reduce_logsumexp(logits, axis=1) - own


def weighted_mean(losses: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Return `sum w l / sum w`, a scalar; 0 where all weights are 0.

    Args:
        losses: [q].
        weights: [q], or None for equal ones.

    Example:
        >>> float(weighted_mean(tf.constant([1.0, 4.0]), tf.constant([3.0, 1.0])))
        1.75
    """
    if weights is None:
        return tf.reduce_mean(losses)
    weights = tf.cast(weights, losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))


def check_loss_weight(weight: float) -> float:
    """Return the weight of a loss.

    Raises:
        ConfigError: It is no number above 0.
    """
    if not isinstance(weight, Real) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise ConfigError(f"loss_weight is {weight!r}; expected a number above 0 (without a loss, leave the task out)")
    return float(weight)
