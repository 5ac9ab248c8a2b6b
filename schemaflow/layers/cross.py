"""Explicit products of features: the cross layers of DCN-v2."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.layers.arguments import as_regularizer
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.registry import register

__all__ = ["CrossBlock"]


@register("block", "cross")
@keras.saving.register_keras_serializable("schemaflow")
class CrossBlock(keras.layers.Layer):
    """Cross layers: `x_{l+1} = x_0 * (x_l W_l + b_l) + x_l`, so that l of them hold the products of l + 1 features.

    The vectors keep their width: end the tower in an `MLPBlock` where the other one has another width.

    Args:
        depth: How many layers.
        low_rank_dim: The rank of each W, which is then a product U V of [width, rank] and [rank, width]; full if None.
        use_bias: Add b.
        kernel_initializer: Of W, or of U and V; each gets its own copy, with a seed of its own.
        bias_initializer: Of b, likewise.
        kernel_regularizer: Of W, or of U and V.
        bias_regularizer: Of b.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: `depth` or `low_rank_dim` is no integer of at least 1.

    Example:
        >>> CrossBlock(kernel_initializer="identity")(tf.constant([[1.0, 2.0]])).numpy().tolist()
        [[2.0, 6.0]]

    Source:
        Wang et al., "DCN V2: Improved deep & cross network", WWW 2021. https://arxiv.org/abs/2008.13535
    """

    def __init__(
        self,
        depth: int = 1,
        low_rank_dim: int | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "truncated_normal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_count("CrossBlock depth", depth)
        if low_rank_dim is not None:
            check_count("CrossBlock low_rank_dim", low_rank_dim)
        self.depth = int(depth)
        self.low_rank_dim = None if low_rank_dim is None else int(low_rank_dim)
        self.use_bias = use_bias
        self.kernel_initializer = fresh_initializer(kernel_initializer, 0)
        self.bias_initializer = fresh_initializer(bias_initializer, 0)
        self.kernel_regularizer = as_regularizer(kernel_regularizer)
        self.bias_regularizer = as_regularizer(bias_regularizer)

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs [batch, width]."""
        width, rank = input_shape[-1], self.low_rank_dim
        shapes = [(width, width)] if rank is None else [(width, rank), (rank, width)]
        # flat lists: a SavedModel does not find variables in lists of lists
        self.kernels = [self._kernel(shape, place) for place, shape in enumerate(shapes * self.depth)]
        self.biases = [self._bias(width, layer) for layer in range(self.depth)] if self.use_bias else []
        self.built = True

    def _kernel(self, shape: tuple[int, int], place: int) -> keras.Variable:
        initializer = fresh_initializer(self.kernel_initializer, place)
        return self.add_weight(
            name=f"kernel_{place}", shape=shape, initializer=initializer, regularizer=self.kernel_regularizer
        )

    def _bias(self, width: int, place: int) -> keras.Variable:
        initializer = fresh_initializer(self.bias_initializer, place)
        return self.add_weight(
            name=f"bias_{place}", shape=(width,), initializer=initializer, regularizer=self.bias_regularizer
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return [batch, width], of the width of the inputs."""
        vectors, parts = inputs, len(self.kernels) // self.depth
        for layer in range(self.depth):
            mixed = vectors
            for kernel in self.kernels[layer * parts : (layer + 1) * parts]:
                mixed = tf.matmul(mixed, kernel)  # [batch, rank], then [batch, width]
            if self.use_bias:
                mixed += self.biases[layer]
            vectors += inputs * mixed
        return vectors

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the inputs' shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "depth": self.depth,
            "low_rank_dim": self.low_rank_dim,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
        }
