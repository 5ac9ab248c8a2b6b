"""What a task asks of its tensors."""

from typing import Any

import tensorflow as tf

from schemaflow.errors import ConfigError

__all__ = ["require", "require_shape"]


def require(tensor: tf.Tensor, holds: tf.Tensor, message: str) -> tf.Tensor:
    """Return a tensor, or raise the message where something does not hold: at once where it is known, else when the graph runs."""
    known = tf.get_static_value(holds)
    if known is None:
        with tf.control_dependencies([tf.debugging.Assert(holds, [message])]):
            return tf.identity(tensor)
    if not known:
        raise ConfigError(message)
    return tensor


def require_shape(argument: str, tensor: Any, *shapes: list[int | None]) -> None:
    """Refuse a shape that would fit by broadcasting alone."""
    if tensor is None:
        return
    found = tf.convert_to_tensor(tensor).shape
    if not any(found.is_compatible_with(shape) for shape in shapes):
        expected = " or ".join(str(shape) for shape in shapes)
        raise ConfigError(f"{argument} has the shape {found}; expected {expected}")
