"""Features to vectors inside the graph: one encoder for each kind of feature, tables shared by domain.

Raw values and encoded ones are told apart by their key: `user_id` is raw, `user_id/encoded` is a row. Raw lookups live
here and in `data.encode`; a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.features.tables import EmbeddingOptions, combiner_of, initializer_of, table_specs
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import MISSING, OUT_OF_VOCABULARY, RESERVED_ROWS, Feature, encoded_name
from schemaflow.schema.schema import Schema

__all__ = ["FeatureEncoder", "Tensors", "build_tables", "options_config", "options_from_config", "raw_signature"]

Tensors = Mapping[str, Any]
"""Features by key: tf.Tensor [batch] or, for lists, tf.RaggedTensor [batch, None] or tf.Tensor [batch, length]."""


def build_tables(schema: Schema, options: EmbeddingOptions) -> dict[str, EmbeddingTable]:
    """Return the embedding tables that a schema needs, by domain, each with a seed of its own."""
    return {
        spec.domain: EmbeddingTable(
            spec.rows,
            spec.dim,
            initializer=None if (wanted := initializer_of(options, spec)) is None else fresh_initializer(wanted, place),
            padding=spec.padding,
            name=f"{spec.domain}_table",
        )
        for place, spec in enumerate(table_specs(schema, options).values())
    }


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
    """Return the raw inputs of some features for an exported signature: [batch], or [batch, None] padded for a list."""
    return {
        feature.name: tf.TensorSpec(
            [None] if feature.list is None else [None, None], feature.tensor_dtype, name=feature.name
        )
        for feature in features
    }


class FeatureEncoder(keras.layers.Layer):
    """Features side by side as one vector: `[e_1(x_1), …, e_n(x_n)]`.

    Args:
        schema: Knows the features' vocabularies and statistics.
        features: The features, in the order of their vectors.
        tables: Embedding tables by domain; those of other encoders may be the same.
        options: For combiners and l2.
    """

    def __init__(
        self,
        schema: Schema,
        features: Sequence[Feature],
        tables: Mapping[str, EmbeddingTable],
        options: EmbeddingOptions,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.features = tuple(features)
        self.encoders = [
            _Categorical(schema, it, tables[it.table], options, name=it.name, dtype=self.dtype_policy)
            if it.kind == "categorical"
            else _Continuous(schema, it, name=it.name, dtype=self.dtype_policy)
            for it in features
        ]
        self.width = sum(encoder.width for encoder in self.encoders)
        self.supports_jit = all(encoder.supports_jit for encoder in self.encoders)
        self.built = True

    def encoded(self, inputs: Tensors) -> dict[str, Any]:
        """Return the features' encoded values, [batch] or ragged [batch, None], by `encoded_name`.

        Raises:
            ConfigError: A feature is not among the inputs, raw or encoded.
        """
        return {encoded_name(encoder.feature.name): encoder.encoded(inputs) for encoder in self.encoders}

    def rows(self, name: str, inputs: Tensors) -> tf.Tensor:
        """Return the table rows of one categorical feature, [batch] int."""
        return next(encoder for encoder in self.encoders if encoder.feature.name == name).encoded(inputs)

    def call(self, inputs: Tensors) -> tf.Tensor:
        """Return [batch, width] in the compute dtype.

        Args:
            inputs: The features, raw or encoded; more are left alone.
        """
        return tf.concat([encoder(encoder.encoded(inputs)) for encoder in self.encoders], axis=-1)


class _Encoder(keras.layers.Layer):
    """What the kinds have in common: the raw value or the encoded one, whichever is there."""

    def __init__(self, feature: Feature, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # ids and unnormalised numbers must not pass through half precision
        self.feature = feature

    def encoded(self, inputs: Tensors) -> Any:
        name = self.feature.name
        if encoded_name(name) in inputs:
            return inputs[encoded_name(name)]
        if name in inputs:
            return self._encode(_typed(self.feature, inputs[name]))
        raise ConfigError(
            f'feature "{name}" is missing from the inputs; expected the key "{name}" (received {", ".join(inputs) or "none"})'
        )

    def _encode(self, raw: Any) -> Any:
        raise NotImplementedError


class _Categorical(_Encoder):
    """A raw value to its row, and the row to its vector."""

    def __init__(
        self, schema: Schema, feature: Feature, table: EmbeddingTable, options: EmbeddingOptions, **kwargs: Any
    ) -> None:
        super().__init__(feature, **kwargs)
        self.table = table
        self.width = table.dim
        self.combiner = combiner_of(feature, options)
        self.l2 = options.embeddings_l2_reg
        self.supports_jit = feature.dtype != "string"
        vocabulary = schema.vocabulary(feature.table)
        self.lookup = None
        if vocabulary is not None:
            keys = tf.constant(
                vocabulary.to_numpy(zero_copy_only=False), tf.string if feature.dtype == "string" else tf.int64
            )
            values = tf.range(RESERVED_ROWS, RESERVED_ROWS + len(vocabulary), dtype=tf.int64)
            self.lookup = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, values), OUT_OF_VOCABULARY
            )
            self.supports_jit = False

    def _encode(self, raw: Any) -> Any:
        if self.feature.list is None:
            return self._rows(raw)
        missing = tf.constant(missing_value(self.feature.dtype), raw.dtype)
        if isinstance(raw, tf.RaggedTensor):
            lists = tf.ragged.boolean_mask(raw, raw.with_values(raw.values != missing))
        else:  # [batch, length], filled up with what stands for missing
            lists = tf.ragged.boolean_mask(raw, raw != missing)
        lists = lists.with_values(self._rows(lists.values))
        limit = self.feature.list.max_length
        if limit is None:
            return lists
        message = f'feature "{self.feature.name}" has more values in a row than its max_length of {limit}'
        fits = tf.debugging.assert_less_equal(lists.row_lengths(), tf.constant(limit, tf.int64), message)
        with tf.control_dependencies([fits] if fits is not None else []):
            return lists.with_values(tf.identity(lists.values))

    def _rows(self, raw: tf.Tensor) -> tf.Tensor:
        """Return the rows of raw values, both [n]."""
        if self.lookup is not None:
            is_missing = raw == tf.constant(missing_value(self.feature.dtype), raw.dtype)
            return tf.where(is_missing, tf.constant(MISSING, tf.int64), self.lookup.lookup(raw))
        limit = tf.constant(self.table.rows, tf.int64)
        message = f'feature "{self.feature.name}" holds an id outside 0 <= id < {self.table.rows}, its cardinality'
        inside = [tf.debugging.assert_non_negative(raw, message), tf.debugging.assert_less(raw, limit, message)]
        with tf.control_dependencies([it for it in inside if it is not None]):
            return tf.identity(raw)

    def call(self, rows: Any) -> tf.Tensor:
        vectors = self.table(rows, combiner=self.combiner)  # [batch, dim]
        if self.l2:
            squares = tf.reduce_sum(tf.square(tf.cast(vectors, tf.float32)), axis=-1)  # [batch]
            self.add_loss(self.l2 * tf.reduce_mean(squares))
        return tf.cast(vectors, self.compute_dtype)


class _Continuous(_Encoder):
    """A raw number, normalised."""

    def __init__(self, schema: Schema, feature: Feature, **kwargs: Any) -> None:
        super().__init__(feature, **kwargs)
        self.width = 1
        self.statistics = None if feature.normalize is None else schema.fitted.statistics[feature.name]

    def _encode(self, raw: tf.Tensor) -> tf.Tensor:
        missing = tf.constant(missing_value(self.feature.dtype), raw.dtype)
        values = tf.where(raw == missing, tf.constant(float("nan"), tf.float64), tf.cast(raw, tf.float64))
        values = tf.debugging.check_numerics(values, f'feature "{self.feature.name}" is missing or infinite')
        if self.statistics is not None:
            values = (values - self.statistics.mean) / self.statistics.std
        return tf.cast(values, tf.float32)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return tf.cast(values, self.compute_dtype)[:, tf.newaxis]  # [batch, 1]


def _typed(feature: Feature, raw: Any) -> Any:
    """Return a raw input as a tensor of its kind: strings, int64 or its float dtype, so that no id is cut short.

    Raises:
        ConfigError: It is of another type or rank.
    """
    value = raw if isinstance(raw, tf.RaggedTensor) else tf.convert_to_tensor(raw)
    expected = tf.as_dtype(feature.dtype)
    if not (
        value.dtype == expected
        or (value.dtype.is_integer and expected.is_integer)
        or (value.dtype.is_floating and expected.is_floating)
    ):
        raise ConfigError(f'feature "{feature.name}": expected {feature.dtype}, received {value.dtype.name}')
    rank = 1 if feature.list is None else 2
    if value.shape.rank not in (None, rank):
        shape = "[batch]" if rank == 1 else "[batch, length]"
        raise ConfigError(f'feature "{feature.name}": expected the shape {shape}, received {value.shape}')
    return tf.cast(value, tf.int64) if expected.is_integer else value
