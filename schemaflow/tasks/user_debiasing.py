"""Some users click whatever they see; what of a row's worth is due to that."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import SchemaError
from schemaflow.layers.mlp import MLPBlock
from schemaflow.registry import register
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.tasks.example_weights import EffectiveShare, check_block, check_clip, warn_of_collapse
from schemaflow.tasks.terms import Debiasing, Step

__all__ = ["UserDebiasing"]


@register("debiasing", "user")
@keras.saving.register_keras_serializable("schemaflow")
class UserDebiasing(Debiasing):
    """Weighs a row by how little its user gives on average: `w = min(1 / r(q), clip)`, with `E[v | q] = m r(q)`.

    v is what a row is worth, `max(0, sum_t value_t label_t)`, and m its mean over the training so far. In a log of
    impressions heavy users give many clicks, in one of ratings generous users give high ones, and the loss is theirs before
    it is the others'. With these weights what a user gives an impression has the same mean for all:

        r(q) = softplus(z(q)) / log 2,  z(q) = w . block(q) + b,  w and b beginning at 0
        loss = mean (r - v / m log r)

    The loss is the Poisson deviance, whose best r is the ratio of means whatever v is distributed by; squared errors have the
    same best, but of rare clicks next to no gradient. Softplus keeps r above 0 and a gradient at every z, where a clamp
    would have none.

    q is the query tower's vector (the mean of several), without a gradient to the tower; and no gradient of the model's loss reaches r. A vector
    that says nothing of how much a user gives, such as that of shared features alone, tells heavy users by what they share.
    Nothing of it is exported.

    Its metrics are `user/loss` and `user/effective_share`, as those of `PositionDebiasing`; below a tenth it warns, once.

    Args:
        block: What q is read through, any Keras layer [batch, dim] -> [batch, width];
            `MLPBlock([64], final_activation="relu")` if None.
        clip: No weight is above it.
        name: The head of the metrics' names.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none that can be.

    Example:
        >>> UserDebiasing(clip=5.0).clip
        5.0
    """

    def __init__(
        self, block: keras.layers.Layer | None = None, clip: float = 10.0, name: str = "user", **kwargs: Any
    ) -> None:
        super().__init__(name=name, autocast=False, **kwargs)  # small means do not fit half precision
        self.block, self.clip = check_block(block), check_clip(clip)
        self._loss = keras.metrics.Mean(name=f"{name}/loss")
        self._share = EffectiveShare(name=f"{name}/effective_share")
        self._warned = False

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Return no feature: what rows are worth is known.

        Raises:
            SchemaError: All rows are worth the same.
        """
        if not sides.valued:
            raise SchemaError(
                "UserDebiasing expects a target with a value, which says what a row is worth; found none: add"
                " click: {dtype: int8, tags: [target, binary], value: 1}, in a log that holds impressions without a click too"
            )
        return ()

    def begin(self, dim: int) -> None:
        """Make the weights for vectors [batch, dim]."""
        self._body = MLPBlock([64], final_activation="relu", dtype="float32") if self.block is None else self.block
        self._last = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32")
        self._last(self._body(tf.zeros((2, dim))))
        self._rows, self._worth = (
            self.add_weight(
                name=name, shape=(), dtype="float32", trainable=False, initializer="zeros", aggregation="mean"
            )
            for name in ("rows", "worth")
        )
        self.built = True

    def debias(self, step: Step) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the rows' weights, [batch], and the loss that they are learned by, a scalar; and update the metrics."""
        assert step.worth is not None, "a target has a value"
        worth = tf.cast(step.worth, tf.float32)  # that of the row times its weight
        rows = tf.ones_like(worth) if step.weights is None else tf.cast(step.weights, tf.float32)
        if step.training:
            self._rows.assign_add(tf.reduce_sum(rows))
            self._worth.assign_add(tf.reduce_sum(worth))
        mean = tf.math.divide_no_nan(self._worth.value, self._rows.value)
        # of several vectors the nearest to the item would tell of the item too
        query = step.query if step.interests is None else tf.reduce_mean(step.interests, axis=1)
        rate = self.rate(query, step.training)
        losses = rows * rate - tf.math.divide_no_nan(worth, mean) * tf.math.log(rate)  # [batch]
        loss = tf.math.divide_no_nan(tf.reduce_sum(losses), tf.reduce_sum(rows))
        self._loss.update_state(loss, tf.reduce_sum(rows))
        weights = tf.stop_gradient(tf.minimum(1.0 / rate, self.clip))
        self._share.update_state(weights, worth)
        return weights, loss

    def rate(self, queries: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return how many times the mean a row of each query is worth, [batch] float32.

        Args:
            queries: The query tower's vectors, [batch, dim].
            training: Reaches the block.
        """
        vectors = tf.cast(tf.stop_gradient(queries), tf.float32)
        z = tf.squeeze(self._last(self._body(vectors, training=training)), axis=-1)
        return (tf.nn.softplus(z) + 1e-6) / tf.math.log(2.0)  # softplus itself is 0 in float32 below -104

    def settle(self, logs: Mapping[str, Any]) -> None:
        """Warn, once, where the weights leave too little of the positives."""
        self._warned = self._warned or warn_of_collapse(self, self._share, logs)

    def get_build_config(self) -> None:
        """Return nothing: the model that binds it makes its weights."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        block = None if self.block is None else keras.saving.serialize_keras_object(self.block)
        return super().get_config() | {"block": block, "clip": self.clip}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "UserDebiasing":
        """Make the term of `get_config`."""
        block = config["block"]
        return cls(**config | {"block": None if block is None else keras.saving.deserialize_keras_object(block)})
