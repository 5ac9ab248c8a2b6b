"""Vectors of length one."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.registry import register

__all__ = ["L2Norm"]


@register("block", "l2-norm")
@keras.saving.register_keras_serializable("schemaflow")
class L2Norm(keras.layers.Layer):
    """Divide each vector by its length: `x / sqrt(max(sum x^2, 1e-12))`, so that a dot product is a cosine.

    Example:
        >>> L2Norm()(tf.constant([[0.0, 4.0]])).numpy().tolist()
        [[0.0, 1.0]]
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the vectors, [..., dim], in the inputs' dtype; the length is taken in float32, where squares fit."""
        return tf.cast(tf.math.l2_normalize(tf.cast(inputs, tf.float32), axis=-1), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the inputs' shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; without this method, Keras refuses a dtype that was given as a policy."""
        return super().get_config()
