"""Weights of examples: how high they may be, and how many unweighted examples the weighted ones are worth."""

import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError

__all__ = ["COLLAPSED", "EffectiveShare", "check_block", "check_clip", "warn_of_collapse"]

COLLAPSED = 0.1
"""Below this share of the positives, the loss's noise is ten times what it was, or more."""


class EffectiveShare(keras.metrics.Metric):
    """The share of the positives that is left where weights differ: `ESS(w v) / ESS(v)`, with `ESS(x) = (sum x)^2 / sum x^2`.

    1 where all weights are alike; near 0 where a few rows have all the weight, and the loss has the noise of a few rows;
    above 1 where the weights even out what the rows are worth. 1 where there was no positive.

    Source:
        Kish, "Survey sampling", Wiley 1965.

    Example:
        >>> metric = EffectiveShare()
        >>> metric.update_state(tf.constant([3.0, 1.0]), None)
        >>> round(float(metric.result()), 4)
        0.8
    """

    def __init__(self, name: str = "effective_share", **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs}, name=name)
        names = ("weighted", "weighted_squares", "values", "squares")
        self._sums = [self.add_weight(shape=(), initializer="zeros", name=it) for it in names]

    def update_state(self, weights: tf.Tensor, worth: tf.Tensor | None) -> None:
        """Take the rows of a batch.

        Args:
            weights: w, [batch].
            worth: v, what each row is worth as a positive, [batch]; alike if None.
        """
        values = tf.ones_like(weights) if worth is None else tf.cast(worth, tf.float32)
        weighted = weights * values
        for total, terms in zip(self._sums, (weighted, weighted**2, values, values**2), strict=True):
            total.assign_add(tf.reduce_sum(terms))

    def result(self) -> tf.Tensor:
        """Return the share, a scalar."""
        weighted, weighted_squares, values, squares = (tf.convert_to_tensor(it) for it in self._sums)
        # quotients first: the fourth powers of large sums are beyond float32
        share = tf.math.divide_no_nan(weighted, values) ** 2 * tf.math.divide_no_nan(squares, weighted_squares)
        return tf.where(weighted > 0, share, 1.0)


def warn_of_collapse(term: keras.layers.Layer, metric: EffectiveShare, logs: Mapping[str, Any]) -> bool:
    """Warn where an epoch's share is below `COLLAPSED`, and tell whether it is.

    Args:
        term: Whose weights they are.
        metric: Its share.
        logs: What Keras found in the epoch.
    """
    share = logs.get(metric.name)
    if share is None or float(share) >= COLLAPSED:
        return False
    warnings.warn(
        f"{type(term).__name__}: the weighted positives are worth {float(share):.1%} of as many unweighted ones, so the loss"
        " is that of a few rows and may be worse than without debiasing; lower clip, or train on more rows",
        UserWarning,
        stacklevel=2,
    )
    return True


def check_clip(clip: Any) -> float:
    """Return the highest weight.

    Raises:
        ConfigError: It is no number of at least 1.
    """
    if not isinstance(clip, Real) or isinstance(clip, bool) or not 1 <= float(clip) < float("inf"):
        raise ConfigError(f"clip is {clip!r}; expected a number of at least 1")
    return float(clip)


def check_block(block: Any) -> keras.layers.Layer | None:
    """Return a block, or None.

    Raises:
        ConfigError: It is no layer.
    """
    if block is not None and not isinstance(block, keras.layers.Layer):
        raise ConfigError(f"block is {block!r}; expected a Keras layer, such as MLPBlock([64])")
    return block
