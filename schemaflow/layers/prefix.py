"""The first numbers of vectors, which hold a coarser answer where a model was trained so."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.registry import register

__all__ = ["Prefix"]


@register("block", "prefix")
@keras.saving.register_keras_serializable("schemaflow")
class Prefix(keras.layers.Layer):
    """The first `dim` numbers of each vector: what `TwoTowerModel.truncated` ends its towers in.

    Args:
        dim: How many.
        of: A layer whose outputs are the vectors; None where the inputs are.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: `dim` is no integer above 0, or the vectors are not so wide.

    Example:
        >>> Prefix(2)(tf.constant([[4.0, 3.0, 2.0]])).numpy().tolist()
        [[4.0, 3.0]]
    """

    def __init__(self, dim: int, of: keras.layers.Layer | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if type(dim) is not int or dim < 1:
            raise ConfigError(f"dim is {dim!r}; expected an integer of at least 1")
        self.dim = dim
        self.of = of

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return [..., dim] of vectors [..., width]."""
        vectors = inputs if self.of is None else self.of(inputs)
        if vectors.shape[-1] < self.dim:
            raise ConfigError(f"the first {self.dim} of vectors of width {vectors.shape[-1]} are asked for; lower dim")
        return vectors[..., : self.dim]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        of = None if self.of is None else keras.saving.serialize_keras_object(self.of)
        return super().get_config() | {"dim": self.dim, "of": of}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Prefix":
        """Make the layer of `get_config`."""
        return cls(**{**config, "of": keras.saving.deserialize_keras_object(config["of"])})
