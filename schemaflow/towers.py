"""A tower: features in, one vector out."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.features.encoders import FeatureEncoder, build_tables, options_config, options_from_config
from schemaflow.features.kinds import Tensors
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.seeds import reseeded
from schemaflow.registry import register
from schemaflow.schema.schema import Schema

__all__ = ["Tower", "fresh_copy"]


@register("layer", "tower")
@keras.saving.register_keras_serializable("schemaflow")
class Tower(keras.layers.Layer):
    """The features of one side, encoded side by side, through a block: `post(block([e_1(x_1), …, e_n(x_n)]))`.

    Args:
        schema: Knows the features, their vocabularies and statistics.
        features: The names of the features of this side, in the order of their vectors.
        block: Any Keras layer [batch, width] -> [batch, dim].
        options: For the tables' widths, combiners and l2.
        post: Layers that follow.
        tables: Embedding tables by domain, to share with another tower; the tower's own if None.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: int64, tags: [user, id], cardinality: 9}
        ... '''})
        >>> Tower(schema, ["user_id"], keras.layers.Dense(8))({"user_id": tf.constant([4, 8])}).shape.as_list()
        [2, 8]
    """

    def __init__(
        self,
        schema: Schema,
        features: Sequence[str],
        block: keras.layers.Layer,
        options: EmbeddingOptions = EmbeddingOptions(),
        post: Sequence[keras.layers.Layer] = (),
        tables: Mapping[str, EmbeddingTable] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # ids and raw numbers must not pass through half precision
        self.schema = schema
        self.options = options
        self.features = tuple(schema[name] for name in features)
        inputs = schema.select_by_name(features)
        inputs.require_fitted()
        if tables is None:
            tables = build_tables(inputs, options)
        self.encoder = FeatureEncoder(schema, self.features, tables, options, name="features", dtype=self.dtype_policy)
        self.block = block
        self.post = list(post)
        # a block of the user's may make its weights only when called, so it is called once
        self.dim = int(self._body(tf.zeros((2, self.encoder.width), self.compute_dtype)).shape[-1])
        self.supports_jit = self.encoder.supports_jit
        self.built = True

    def call(self, inputs: Tensors | tf.Tensor) -> tf.Tensor:
        """Return [batch, dim].

        Args:
            inputs: The features, raw or encoded, where those of other sides are left alone; or the raw values alone of
                a tower with one feature.
        """
        if not isinstance(inputs, Mapping) and len(self.features) == 1:
            inputs = {self.features[0].name: inputs}
        return self._body(self.encoder(inputs))

    def assume_encoded(self) -> None:
        """Let XLA compile the tower: what it cannot compile is the encoding of raw values."""
        for layer in (self, self.encoder, *self.encoder.encoders.values()):
            layer.supports_jit = True

    def _body(self, vectors: tf.Tensor) -> tf.Tensor:
        for layer in (self.block, *self.post):
            vectors = layer(vectors)
        return vectors

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; tables that are shared become the tower's own."""
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "schema": self.schema.get_config(),
            "features": [feature.name for feature in self.features],
            "block": serialize(self.block),
            "options": options_config(self.options),
            "post": [serialize(layer) for layer in self.post],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tower":
        """Make the tower of `get_config`."""
        made = keras.saving.deserialize_keras_object
        return cls(
            **{
                **config,
                "schema": Schema.from_config(config["schema"]),
                "block": made(config["block"]),
                "options": options_from_config(config["options"]),
                "post": [made(layer) for layer in config["post"]],
            }
        )


def fresh_copy(block: keras.layers.Layer) -> keras.layers.Layer:
    """Return a block of the same architecture with weights of its own.

    It is rebuilt from its config; seeds that are fixed there move by one, or the copy would start as a twin.

    Raises:
        ConfigError: The block has no config.
    """
    try:
        return block.__class__.from_config(reseeded(block.get_config(), 1))
    except NotImplementedError:
        raise ConfigError(
            f"{type(block).__name__} has no get_config, so no copy can be made of it; give it one, or pass an item_tower"
        ) from None
