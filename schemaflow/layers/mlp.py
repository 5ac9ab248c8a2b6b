"""A stack of dense layers: the body of a tower."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.layers.seeds import fresh_initializer, reseeded
from schemaflow.registry import register

__all__ = ["MLPBlock"]


@register("block", "mlp")
@keras.saving.register_keras_serializable("schemaflow")
class MLPBlock(keras.layers.Layer):
    """Dense layers, of which the last is linear unless asked otherwise: `x <- dropout(norm(activation(x W + b)))`.

    A rectified last layer would leave both towers in one corner of the space, where no dot product is negative.

    Args:
        dimensions: The width of each layer. None at all leaves the input as it is: the embeddings are the vectors.
        activation: Of the hidden layers; or a list with one for each layer, the last included.
        final_activation: Of the last layer.
        dropout: The share of each hidden layer's outputs that is left out in training.
        normalization: After each hidden layer: "batch_norm", "layer_norm", or a Keras layer, of which each gets a copy.
        use_bias: Add b.
        kernel_initializer: Of W; each layer gets its own copy, with a seed of its own.
        kernel_regularizer: Of W.
        residual: Add each hidden layer's input to its output, through a linear map where the widths differ.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: A width is below 1, or there are not as many activations as layers.

    Example:
        >>> MLPBlock([16, 8])(tf.ones((2, 4))).shape.as_list()
        [2, 8]
    """

    def __init__(
        self,
        dimensions: Sequence[int],
        activation: Any = "relu",
        final_activation: Any = None,
        dropout: float | None = None,
        normalization: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(dimensions, int) or not all(isinstance(it, Integral) and it >= 1 for it in dimensions):
            raise ConfigError(
                f"MLPBlock dimensions are {dimensions!r}; expected a list of widths, integers of at least 1"
            )
        self.dimensions = [int(width) for width in dimensions]
        if dropout is not None and not 0 <= dropout < 1:
            raise ConfigError(f"MLPBlock dropout is {dropout}; expected 0 <= dropout < 1")
        self.activation = activation
        self.final_activation = final_activation
        self.dropout = dropout
        self.normalization = normalization
        self.use_bias = use_bias
        self.kernel_initializer = fresh_initializer(kernel_initializer, 0)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.residual = residual
        last = len(self.dimensions) - 1
        self.steps = [
            _Step(
                keras.layers.Dense(
                    width,
                    activation=_own_activation(activation),
                    use_bias=use_bias,
                    kernel_initializer=fresh_initializer(kernel_initializer, place),
                    kernel_regularizer=kernel_regularizer,
                    dtype=self.dtype_policy,
                ),
                normalization=None if place == last else _normalization(normalization, place, self.dtype_policy),
                dropout=None if place == last else dropout,
                residual=residual and place != last,
                kernel_initializer=fresh_initializer(kernel_initializer, len(self.dimensions) + place),
                dtype=self.dtype_policy,
            )
            for place, (width, activation) in enumerate(zip(self.dimensions, self._activations(), strict=True))
        ]

    def _activations(self) -> list[Any]:
        layers = len(self.dimensions)
        for named in (self.activation, self.final_activation):
            if isinstance(named, str):
                _own_activation(named)  # a name that no layer happens to use is a mistake all the same
        if not isinstance(self.activation, (list, tuple)):
            return [self.activation] * (layers - 1) + [self.final_activation] if layers else []
        if len(self.activation) != layers:
            raise ConfigError(
                f"MLPBlock has {layers} layers but {len(self.activation)} activations; give one for each layer"
            )
        if self.final_activation is not None:
            raise ConfigError(
                "MLPBlock got a list of activations and a final_activation; the list's last is the final one: give one of them"
            )
        return list(self.activation)

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs [batch, width]."""
        for step in self.steps:
            step.build(input_shape)
            input_shape = (*input_shape[:-1], step.dense.units)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return [batch, dimensions[-1]]."""
        for step in self.steps:
            inputs = step(inputs, training=training)
        return inputs

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return (…, dimensions[-1])."""
        return (*input_shape[:-1], self.dimensions[-1]) if self.dimensions else input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "dimensions": self.dimensions,
            "activation": _serialized(self.activation, keras.activations.serialize),
            "final_activation": _serialized(self.final_activation, keras.activations.serialize),
            "dropout": self.dropout,
            "normalization": _serialized(self.normalization, keras.saving.serialize_keras_object),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "residual": self.residual,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "MLPBlock":
        """Make the block of `get_config`."""
        config = dict(config)
        if isinstance(config.get("normalization"), dict):
            config["normalization"] = keras.saving.deserialize_keras_object(config["normalization"])
        return cls(**config)


class _Step(keras.layers.Layer):
    """One dense layer and what follows it."""

    def __init__(
        self,
        dense: keras.layers.Dense,
        normalization: keras.layers.Layer | None,
        dropout: float | None,
        residual: bool,
        kernel_initializer: keras.initializers.Initializer,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dense = dense
        self.normalization = normalization
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy) if dropout else None
        self.residual = residual
        self.shortcut: keras.layers.Dense | None = None
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)
        shape = (*input_shape[:-1], self.dense.units)
        if self.normalization is not None:
            self.normalization.build(shape)
        if self.residual and input_shape[-1] != self.dense.units:
            self.shortcut = keras.layers.Dense(
                self.dense.units, use_bias=False, kernel_initializer=self.kernel_initializer, dtype=self.dtype_policy
            )
            self.shortcut.build(input_shape)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        outputs = self.dense(inputs)
        if self.normalization is not None:
            outputs = self.normalization(outputs, training=training)
        if self.dropout is not None:
            outputs = self.dropout(outputs, training=training)
        if self.residual:
            outputs += self.shortcut(inputs) if self.shortcut is not None else inputs
        return outputs


def _normalization(wanted: Any, place: int, dtype: Any) -> keras.layers.Layer | None:
    """Return a layer of one's own."""
    if wanted is None:
        return None
    if isinstance(wanted, str):
        known = {"batch_norm": keras.layers.BatchNormalization, "layer_norm": keras.layers.LayerNormalization}
        if wanted not in known:
            raise ConfigError(f'unknown normalization "{wanted}" (known: {", ".join(known)}, or a Keras layer)')
        return known[wanted](dtype=dtype)
    config = {key: value for key, value in wanted.get_config().items() if key != "name"}
    return wanted.__class__.from_config(reseeded(config, place))


def _own_activation(activation: Any) -> Any:
    """Return the activation; a layer with weights, such as PReLU, as a copy of one's own."""
    if isinstance(activation, keras.layers.Layer):
        return activation.__class__.from_config(activation.get_config())
    try:
        return keras.activations.get(activation)
    except ValueError:
        raise ConfigError(f"{activation!r} is no Keras activation; expected one or its name") from None


def _serialized(value: Any, serialize: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_serialized(item, serialize) for item in value]
    return value if value is None or isinstance(value, str) else serialize(value)
