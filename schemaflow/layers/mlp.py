"""A stack of dense layers: the body of a tower."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import is_count
from schemaflow.errors import ConfigError
from schemaflow.layers.arguments import as_regularizer
from schemaflow.layers.copies import fresh_copy
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.registry import register

__all__ = ["MLPBlock"]


@register("block", "mlp")
@keras.saving.register_keras_serializable("schemaflow")
class MLPBlock(keras.layers.Layer):
    """Dense layers, of which the last is linear unless asked otherwise: `x <- dropout(norm(activation(x W + b)))`.

    A rectified last layer would leave both towers in one corner of the space, where no dot product is negative.

    Args:
        dimensions: The width of each layer. None at all leaves the input as it is: the embeddings are the vectors.
        activation: Of the hidden layers; or a list with one for each layer, the last included. A layer such as
            `keras.layers.PReLU()` is copied for each.
        final_activation: Of the last layer.
        dropout: The share of each hidden layer's outputs that is left out in training; after a SELU by alpha dropout,
            which keeps its mean and variance.
        normalization: After each hidden layer: "batch_norm", "layer_norm", or a Keras layer, of which each gets a copy.
        use_bias: Add b.
        kernel_initializer: Of W; each layer gets its own copy, with a seed of its own.
        kernel_regularizer: Of W, and of the linear maps of `residual`.
        residual: Add each hidden layer's input to its output, through a linear map where the widths differ.
        bias_initializer: Of b, like that of W.
        bias_regularizer: Of b.
        activity_regularizer: Of each layer's activations, as a mean over the batch.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: A width is below 1, there are not as many activations as layers, or an argument is none of Keras's.

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
        bias_initializer: Any = "zeros",
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(dimensions, Iterable) or not all(is_count(it) for it in dimensions):
            raise ConfigError(
                f"MLPBlock dimensions are {dimensions!r}; expected a list of widths, integers of at least 1"
            )
        self.dimensions = [int(width) for width in dimensions]
        if dropout is not None and not (isinstance(dropout, Real) and 0 <= dropout < 1):
            raise ConfigError(f"MLPBlock dropout is {dropout!r}; expected 0 <= dropout < 1")
        # as the config says them: a layer that is kept here would count as one of the block's own
        self.activation = _serialized(activation, keras.activations.serialize)
        self.final_activation = _serialized(final_activation, keras.activations.serialize)
        self.normalization = _serialized(normalization, keras.saving.serialize_keras_object)
        self.dropout = dropout
        self.use_bias = use_bias
        self.kernel_initializer = fresh_initializer(kernel_initializer, 0)
        self.kernel_regularizer = as_regularizer(kernel_regularizer)
        self.residual = residual
        self.bias_initializer = fresh_initializer(bias_initializer, 0)
        self.bias_regularizer = as_regularizer(bias_regularizer)
        # under Keras's own name it would count for the block's output too, the last layer's activations again
        self.layer_activity_regularizer = as_regularizer(activity_regularizer)
        last = len(self.dimensions) - 1
        activations = self._activations(activation, final_activation)
        self.steps = [
            _Step(
                keras.layers.Dense(
                    width,
                    activation=_own_activation(activation, place),
                    use_bias=use_bias,
                    kernel_initializer=fresh_initializer(kernel_initializer, place),
                    bias_initializer=fresh_initializer(bias_initializer, place),
                    kernel_regularizer=self.kernel_regularizer,
                    bias_regularizer=self.bias_regularizer,
                    activity_regularizer=self.layer_activity_regularizer,
                    dtype=self.dtype_policy,
                ),
                normalization=None if place == last else _normalization(normalization, place, self.dtype_policy),
                dropout=None if place == last else dropout,
                residual=residual and place != last,
                kernel_initializer=fresh_initializer(kernel_initializer, len(self.dimensions) + place),
                dtype=self.dtype_policy,
            )
            for place, (width, activation) in enumerate(zip(self.dimensions, activations, strict=True))
        ]

    def _activations(self, activation: Any, final: Any) -> list[Any]:
        layers = len(self.dimensions)
        for named in (activation, final):
            if isinstance(named, str):
                _own_activation(named, 0)  # a name that no layer happens to use is a mistake all the same
        if not isinstance(activation, (list, tuple)):
            return [activation] * (layers - 1) + [final] if layers else []
        if len(activation) != layers:
            raise ConfigError(
                f"MLPBlock has {layers} layers but {len(activation)} activations; give one for each layer"
            )
        if final is not None:
            raise ConfigError(
                "MLPBlock got a list of activations and a final_activation; the list's last is the final one: give one of them"
            )
        return list(activation)

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs [batch, width]."""
        for step in self.steps:
            step.build(input_shape)
            input_shape = (*input_shape[:-1], step.dense.units)
            if not self.trainable:
                step.trainable = False  # Keras passes it on when it changes only, and here it came before the layers
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
            "activation": self.activation,
            "final_activation": self.final_activation,
            "dropout": self.dropout,
            "normalization": self.normalization,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "residual": self.residual,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "activity_regularizer": keras.regularizers.serialize(self.layer_activity_regularizer),
        }


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
        kind = keras.layers.AlphaDropout if dense.activation is keras.activations.selu else keras.layers.Dropout
        self.dropout = kind(dropout, dtype=self.dtype_policy) if dropout else None
        self.residual = residual
        self.shortcut: keras.layers.Dense | None = None
        self.kernel_initializer = kernel_initializer

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)
        shape = (*input_shape[:-1], self.dense.units)
        if isinstance(self.dense.activation, keras.layers.Layer):
            self.dense.activation.build(shape)
        if self.normalization is not None:
            self.normalization.build(shape)
        if self.residual and input_shape[-1] != self.dense.units:
            self.shortcut = keras.layers.Dense(
                self.dense.units,
                use_bias=False,
                kernel_initializer=self.kernel_initializer,
                kernel_regularizer=self.dense.kernel_regularizer,
                dtype=self.dtype_policy,
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
    known = {"batch_norm": keras.layers.BatchNormalization, "layer_norm": keras.layers.LayerNormalization}
    if isinstance(wanted, str) and wanted in known:
        return known[wanted](dtype=dtype)
    layer = keras.saving.deserialize_keras_object(wanted) if isinstance(wanted, dict) else wanted
    if not isinstance(layer, keras.layers.Layer):
        raise ConfigError(f"unknown normalization {wanted!r} (known: {', '.join(known)}, or a Keras layer)")
    return fresh_copy(layer, place)


def _own_activation(activation: Any, place: int) -> Any:
    """Return the activation; a layer with weights, such as PReLU, as a copy of one's own."""
    try:
        made = keras.activations.get(activation)
    except (TypeError, ValueError):
        raise ConfigError(f"{activation!r} is no Keras activation; expected one or its name") from None
    return fresh_copy(made, place) if isinstance(made, keras.layers.Layer) else made


def _serialized(value: Any, serialize: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_serialized(item, serialize) for item in value]
    return serialize(value) if callable(value) else value
