"""Features to vectors inside the graph: their encoders side by side, tables shared by domain.

Raw values and encoded ones are told apart by their key: `user_id` is raw, `user_id/encoded` is a row.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.features.histories import Histories, events_of
from schemaflow.features.kinds import ENCODERS, CategoricalEncoder, Tensors, raw_shape
from schemaflow.features.tables import EmbeddingOptions, TableSpec, initializer_of, table_specs
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.history import UserHistoryEncoder
from schemaflow.layers.quotient_remainder import QuotientRemainderTable
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.layers.table import Table
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.schema import Schema

__all__ = ["FeatureEncoder", "build_tables", "options_config", "options_from_config", "raw_signature"]


def build_tables(schema: Schema, options: EmbeddingOptions) -> dict[str, Table]:
    """Return the embedding tables that a schema needs, by domain, each with a seed of its own."""
    tables = {
        spec.domain: _table(spec, initializer_of(options, spec), place)
        for place, spec in enumerate(table_specs(schema, options).values())
    }
    for name, table in tables.items():
        if (vectors := schema.vectors(name)) is not None and isinstance(table, EmbeddingTable):
            table.embeddings.assign(_whole_table(vectors, schema.domains[name].reserved, table.rows))
    return tables


def _table(spec: TableSpec, wanted: Any, place: int) -> Table:
    initializer = None if wanted is None else fresh_initializer(wanted, place)
    said: dict[str, Any] = {"initializer": initializer, "name": f"{spec.domain}_table", "trainable": spec.trainable}
    if spec.compress is None:
        return EmbeddingTable(spec.rows, spec.dim, padding=spec.padding, **said)
    how = (spec.compress.remainders, spec.compress.operation, spec.reserved)
    return QuotientRemainderTable(spec.rows, spec.dim, *how, **said)


def _whole_table(vectors: Any, reserved: int, rows: int) -> Any:
    """Return pretrained vectors as a table, [rows, dim]: the rows that hold no value of theirs are the mean of them."""
    table = np.tile(vectors.mean(axis=0), (rows, 1))
    table[reserved : reserved + len(vectors)] = vectors
    return table


def options_config(options: EmbeddingOptions) -> dict[str, Any]:
    """Return embedding options as JSON values."""
    config = options.get_config()
    wanted = config["embeddings_initializers"]
    config["embeddings_initializers"] = (
        wanted if isinstance(wanted, str) else keras.saving.serialize_keras_object(wanted)
    )
    config["embedding_dims"] = None if options.embedding_dims is None else dict(options.embedding_dims)
    return config


def options_from_config(config: Mapping[str, Any]) -> EmbeddingOptions:
    """Read what `options_config` gave."""
    wanted = config["embeddings_initializers"]
    made = wanted if isinstance(wanted, str) else keras.saving.deserialize_keras_object(wanted)
    return EmbeddingOptions(**{**config, "embeddings_initializers": made})


def raw_signature(features: Sequence[Feature]) -> dict[str, tf.TensorSpec]:
    """Return the raw inputs of some features for an exported signature.

    [batch]; [batch, None] padded for a list; [batch, dim] for a dense vector.
    """
    return {feature.name: tf.TensorSpec(raw_shape(feature), feature.tensor_dtype, feature.name) for feature in features}


class FeatureEncoder(keras.layers.Layer):
    """Features side by side as one vector, `[e_1(x_1), …, e_n(x_n)]`; or as several, where histories give several.

    Args:
        schema: Knows the features' vocabularies and statistics.
        features: The features, in the order of their vectors.
        tables: Embedding tables by domain; those of other encoders may be the same.
        options: For combiners and l2.
        history: What encodes sequences, with all that is aligned with them; their combiners do if None.
    """

    def __init__(
        self,
        schema: Schema,
        features: Sequence[Feature],
        tables: Mapping[str, Table],
        options: EmbeddingOptions,
        history: UserHistoryEncoder | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.features = tuple(features)
        self.encoders = {
            it.name: CategoricalEncoder(schema, it, tables[it.table], options, name=it.name, dtype=self.dtype_policy)
            if it.kind == "categorical"
            else ENCODERS[str(it.kind)](schema, it, name=it.name, dtype=self.dtype_policy)
            for it in features
        }
        widths = {name: encoder.width for name, encoder in self.encoders.items()}
        self._histories = None if history is None else Histories(history, features, widths)
        self.interests = 1 if history is None else history.interests
        self.mask_target = history is not None and history.mask_target
        self.histories = {} if self._histories is None else self._histories.encoders  # where Keras finds them
        for name, encoder in self.histories.items():
            widths[name] = encoder.width * encoder.poolings
        entering = widths.keys() - (self._histories.aligned if self._histories is not None else set())
        self.width = sum(widths[name] for name in entering)
        self.shape = (self.width,) if self.interests == 1 else (self.interests, self.width)  # of a row
        self.supports_jit = all(encoder.supports_jit for encoder in self.encoders.values())
        self.built = True

    def encoded(self, inputs: Tensors) -> dict[str, Any]:
        """Return the features' encoded values, [batch], ragged [batch, None] or [batch, dim], by `encoded_name`.

        Raises:
            ConfigError: A feature is not among the inputs, raw or encoded.
        """
        return {encoded_name(name): encoder.encoded(inputs) for name, encoder in self.encoders.items()}

    def rows(self, name: str, inputs: Tensors) -> tf.Tensor:
        """Return the table rows of one categorical feature, [batch] int."""
        return self.encoders[name].encoded(inputs)

    def call(self, inputs: Tensors, chosen: Mapping[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Return [batch, width] in the compute dtype, or [batch, interests, width] where there are several interests.

        Args:
            inputs: The features, raw or encoded; more are left alone.
            chosen: By table, each row's own item, [batch] int: it is taken out of the row's histories.
        """
        encoded = self.encoded(inputs)
        vectors = []
        for feature in self.features:
            values = encoded[encoded_name(feature.name)]
            if feature.name in self.histories:
                vectors.append(self._summary(feature, encoded, chosen or {}))
            elif self._histories is not None and feature.name in self._histories.aligned:
                continue
            elif feature.weighted_by is not None:
                weights = encoded[encoded_name(feature.weighted_by)]
                vectors.append(self.encoders[feature.name](values, weights=_matched(feature, values, weights)))
            elif feature.kind != "weights":
                vectors.append(self.encoders[feature.name](values))
        if self.interests > 1:  # what is known beside the histories is the same for each interest
            vectors = [
                it if it.shape.rank == 3 else tf.repeat(it[:, tf.newaxis], self.interests, axis=1) for it in vectors
            ]
        return tf.concat(vectors, axis=-1)

    def _summary(self, feature: Feature, encoded: Tensors, chosen: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Return what a sequence's encoder makes of its events, [batch, (interests,) width]."""
        assert self._histories is not None, "asked for sequences that have an encoder"
        sides = self._histories.sides[feature.name]
        padded = self.encoders[feature.name].table.padding
        lists = events_of(feature, sides, encoded, padded, chosen.get(feature.table))
        events = [
            it.with_values(self.encoders[part.name](it.values))  # [batch, None, dim]
            for part, it in zip((feature, *sides), lists, strict=True)
        ]
        return tf.cast(self.histories[feature.name](events), self.compute_dtype)


def _matched(feature: Feature, values: tf.RaggedTensor, weights: tf.RaggedTensor) -> tf.RaggedTensor:
    """Return the weights, checked to be one for each value."""
    message = f'feature "{feature.name}" and its weights "{feature.weighted_by}" differ in length in a row'
    same = tf.debugging.assert_equal(values.row_lengths(), weights.row_lengths(), message)
    with tf.control_dependencies([same] if same is not None else []):
        return weights.with_values(tf.identity(weights.values))
