"""Towers: features in, one vector out, or one for each interest."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, SchemaFlowError
from schemaflow.features.encoders import FeatureEncoder, build_tables, options_config, options_from_config
from schemaflow.features.kinds import Tensors
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.layers.copies import fresh_copy, unbuilt
from schemaflow.layers.history import UserHistoryEncoder
from schemaflow.layers.table import Table
from schemaflow.registry import register
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides

__all__ = ["Tower", "fresh_copy", "two_towers"]

BOLD = re.compile(r"\x1b\[1m(.*?)\x1b\[0m", re.DOTALL)
"""What went wrong in a layer, which Keras sets in bold between lines on where."""


@register("layer", "tower")
@keras.saving.register_keras_serializable("schemaflow")
class Tower(keras.layers.Layer):
    """The features of one side, encoded side by side, through a block: `post(block([e_1(x_1), …, e_n(x_n)]))`.

    Args:
        schema: Knows the features, their vocabularies and statistics.
        features: The names of the features of this side, in the order of their vectors.
        block: Any Keras layer [batch, width] -> [batch, dim], or -> [batch, K, dim] for K interests of a row.
        options: For the tables' widths, combiners and l2.
        post: Layers that follow.
        tables: Embedding tables by domain, to share with another tower; the tower's own if None.
        history: What encodes its sequences, where their combiners are not to.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: The block cannot take the features' vectors, or gives no vector for each row.

    Attributes:
        dim: Width of a vector.
        interests: K, where the block gives K vectors for each row; None where it gives one.

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
        tables: Mapping[str, Table] | None = None,
        history: UserHistoryEncoder | None = None,
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
        self.history = history
        self.encoder = FeatureEncoder(
            schema, self.features, tables, options, history, name="features", dtype=self.dtype_policy
        )
        self.block = block
        self.post = list(post)
        *several, self.dim = self._shape_of_vectors()
        self.interests: int | None = several[0] if several else None
        self.supports_jit = self.encoder.supports_jit
        self.built = True

    def call(self, inputs: Tensors | tf.Tensor) -> tf.Tensor:
        """Return [batch, dim], or [batch, K, dim].

        Args:
            inputs: The features, raw or encoded, where those of other sides are left alone; or the raw values alone of
                a tower with one feature.

        Raises:
            ConfigError: A feature is not among the inputs, or they are no dict where the tower has several.
        """
        return self.body(self.inputs_of(inputs))

    def inputs_of(self, inputs: Tensors | tf.Tensor, chosen: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Return the features' vectors side by side, what the block is given, [batch, width].

        Args:
            inputs: As in `call`.
            chosen: By table, each row's own item, [batch] int, which is taken out of the row's histories.

        Raises:
            ConfigError: As in `call`.
        """
        if not isinstance(inputs, Mapping):
            if len(self.features) > 1:
                names = ", ".join(feature.name for feature in self.features)
                raise ConfigError(f"{self.name}: the inputs are no dict of features; expected one of {names}")
            inputs = {self.features[0].name: inputs}
        return self.encoder(inputs, chosen=chosen)

    def assume_encoded(self) -> None:
        """Let XLA compile the tower: what it cannot compile is the encoding of raw values."""
        for layer in (self, self.encoder, *self.encoder.encoders.values()):
            layer.supports_jit = True

    def body(self, vectors: tf.Tensor) -> tf.Tensor:
        """Return what the block and the layers after it make of the features' vectors, [batch, width] -> as `call` does."""
        for layer in (self.block, *self.post):
            vectors = layer(vectors)
        return vectors

    def _shape_of_vectors(self) -> list[int]:
        """Return the shape of what the block gives for a row; called once, a block of the user's has made all its weights."""
        name, width = type(self.block).__name__, self.encoder.width
        try:
            vectors = self.body(tf.zeros((2, *self.encoder.shape), self.compute_dtype))
        except SchemaFlowError:
            raise
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            reason = BOLD.search(str(error))
            raise ConfigError(
                f"{self.name}: {name} fails on the vectors of its features, [batch, {width}]:"
                f" {reason.group(1) if reason else error}; a layer that was built for another width, or an Input that"
                " states it, fits only one side: leave the Input out, or pass a layer of its own for each side"
            ) from error
        if not tf.is_tensor(vectors) or vectors.shape.rank not in (2, 3) or vectors.shape[0] != 2:
            shape = list(vectors.shape) if tf.is_tensor(vectors) else type(vectors).__name__
            raise ConfigError(
                f"{self.name}: of vectors [2, {width}] {name} makes {shape}; expected a tensor [2, dim], a vector for each row,"
                " or [2, K, dim], several for each"
            )
        return list(vectors.shape[1:])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; tables that are shared become the tower's own."""
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "schema": self.schema.get_config(),
            "features": [feature.name for feature in self.features],
            "block": serialize(self.block),
            "options": options_config(self.options),
            "post": [serialize(layer) for layer in self.post],
            "history": None if self.history is None else serialize(self.history),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Tower":
        """Make the tower of `get_config`."""
        made = keras.saving.deserialize_keras_object
        return cls(
            **{
                **config,
                "schema": Schema.from_config(config["schema"]),
                "block": made(unbuilt(config["block"])),
                "options": options_from_config(config["options"]),
                "post": [made(unbuilt(layer)) for layer in config["post"]],
                "history": made(unbuilt(config["history"])),
            }
        )


def two_towers(
    schema: Schema,
    sides: Sides,
    blocks: tuple[keras.layers.Layer, keras.layers.Layer],
    tables: Mapping[str, Table],
    history: UserHistoryEncoder | None = None,
    **shared: Any,
) -> tuple[Tower, Tower]:
    """Return the towers of queries and items, which share tables, and whose vectors are of one space.

    Args:
        schema: Knows the features.
        sides: Those of each tower.
        blocks: Of queries and of items.
        tables: Embedding tables by domain.
        history: Encodes the sequences of the query.
        **shared: Of both `Tower`.

    Raises:
        ConfigError: An item has several vectors, or the widths differ.
    """
    query, item = (
        Tower(schema, [it.name for it in features], block, tables=tables, name=name, history=encoder, **shared)
        for features, block, name, encoder in (
            (sides.query, blocks[0], "query_tower", history),
            (sides.item, blocks[1], "item_tower", None),
        )
    )
    if item.interests is not None:
        raise ConfigError(
            f"the item tower gives {item.interests} vectors for each item; only queries may have several: pass"
            " an item_tower of its own, which ends in [batch, dim]"
        )
    if query.dim != item.dim:
        raise ConfigError(
            f"the query tower gives vectors of width {query.dim}, the item tower of width {item.dim};"
            " end both in the same width (without item_tower, end the query tower in a layer of fixed width)"
        )
    return query, item
