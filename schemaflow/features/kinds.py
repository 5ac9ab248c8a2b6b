"""One encoder for each kind of feature: what a raw value becomes inside the graph, and its vector.

`data.encode` says the same for the input pipeline; a test holds the two together.
"""

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.features.tables import EmbeddingOptions, combiner_of, is_dropped
from schemaflow.layers.table import Table
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import DAY, MISSING, OUT_OF_VOCABULARY, Feature, encoded_name
from schemaflow.schema.options import TextOptions
from schemaflow.schema.schema import Schema
from schemaflow.schema.text import BLANKS, PUNCTUATION

__all__ = ["ENCODERS", "CategoricalEncoder", "Tensors", "raw_shape"]

Tensors = Mapping[str, Any]
"""Features by key: tf.Tensor [batch] or, for lists, tf.RaggedTensor [batch, None] or tf.Tensor [batch, length]."""


def raw_shape(feature: Feature) -> list[int | None]:
    """Return the shape of a feature's raw tensor: [batch], [batch, None] for a list, [batch, dim] for a dense vector."""
    if feature.kind == "vector" and feature.embedding is not None:
        return [None, feature.embedding.dim]
    return [None] if not feature.many else [None, None]


class _Encoder(keras.layers.Layer):
    """What the kinds have in common: the raw value or the encoded one, whichever is there."""

    def __init__(self, schema: Schema, feature: Feature, width: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # ids and unnormalised numbers must not pass through half precision
        self.feature = feature
        self.width = width
        self.takes_missing = schema.takes_missing(feature)

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

    def _filled(self, raw: tf.Tensor) -> tf.Tensor:
        """Return raw values of one a row with what stands in for a missing one, [batch]."""
        missing = _is_missing(self.feature, raw)
        if self.feature.stand_in is not None and not self.feature.is_age:  # an age's is in days
            return tf.where(missing, tf.constant(self.feature.stand_in, raw.dtype), raw)
        if self.takes_missing:
            return raw
        message = f'feature "{self.feature.name}" is missing or infinite, and the schema names nothing in its place'
        present = tf.debugging.assert_equal(tf.reduce_any(missing), False, message)
        with tf.control_dependencies([present] if present is not None else []):
            return tf.identity(raw)

    def _narrowed(self, values: tf.Tensor) -> tf.Tensor:
        """Return numbers in the compute dtype; float16 ends at 65,504."""
        narrow = tf.cast(values, self.compute_dtype)
        if self.compute_dtype != "float16":
            return narrow
        message = f'feature "{self.feature.name}" is beyond what float16 holds, 65504; normalize it in the schema, or use mixed_bfloat16'
        return tf.debugging.check_numerics(narrow, message)


class _Numeric(_Encoder):
    """A raw number or moment as the number that enters the model, before it is normalised."""

    def __init__(self, schema: Schema, feature: Feature, width: int = 1, **kwargs: Any) -> None:
        super().__init__(schema, feature, width, **kwargs)
        self.statistics = schema.fitted.statistics.get(feature.name)

    def _numbers(self, raw: tf.Tensor) -> tf.Tensor:
        """Return [batch] float64; NaN where missing."""
        filled = self._filled(raw)
        missing = _is_missing(self.feature, filled)
        if self.feature.time is not None and self.statistics is not None:
            age = tf.constant(self.statistics.newest, tf.int64) - filled
            # by a constant, a graph multiplies by its reciprocal: then an age that is an edge may fall beside it
            day = tf.compat.v1.placeholder_with_default(tf.constant(DAY[self.feature.time.unit], tf.float64), [])
            values = tf.cast(age, tf.float64) / day
        else:
            values = tf.cast(filled, tf.float64)
        fill = float("nan") if self.feature.stand_in is None else float(self.feature.stand_in)
        if self.feature.missing == "mean" and self.statistics is not None:
            fill = self.statistics.mean
        return tf.where(missing, tf.constant(fill, tf.float64), values)


class CategoricalEncoder(_Numeric):
    """A raw value to its row, and the row to its vector."""

    def __init__(
        self, schema: Schema, feature: Feature, table: Table, options: EmbeddingOptions, **kwargs: Any
    ) -> None:
        super().__init__(schema, feature, table.dim, **kwargs)
        self.table = table
        self.combiner = combiner_of(feature, options)
        self.l2 = options.embeddings_l2_reg if table.trainable else 0.0
        self.domain = schema.domains[feature.table]
        self.id_dropout = options.id_dropout if is_dropped(schema, feature) else 0.0
        if self.id_dropout:
            self.generator = keras.random.SeedGenerator()
        self.edges = schema.edges(feature) if self.domain.encoding == "buckets" else ()
        vocabulary = schema.vocabulary(feature.table)
        # lists could be compiled, but anew for each number of values that a batch happens to hold
        self.supports_jit = not feature.ragged and self.domain.encoding in ("range", "buckets", "calendar")
        self.lookup = None
        if vocabulary is not None:
            keys = tf.constant(
                vocabulary.to_numpy(zero_copy_only=False), tf.string if feature.dtype == "string" else tf.int64
            )
            values = tf.range(self.domain.reserved, self.domain.reserved + len(vocabulary), dtype=tf.int64)
            self.lookup = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(keys, values), OUT_OF_VOCABULARY
            )

    def _encode(self, raw: Any) -> Any:
        if self.feature.text_like:
            tokens = _tokens(self.feature.text or TextOptions(), raw)
            return tokens.with_values(self._rows(tokens.values))
        if self.feature.list is None:
            return self._rows(raw)
        lists = _without_missing(self.feature, raw)
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
        values = self._filled(raw)
        if self.domain.encoding == "range":
            return self._inside(values)
        missing = _is_missing(self.feature, values)
        if self.domain.encoding == "buckets":
            numbers = self._numbers(raw)
            missing = tf.math.is_nan(numbers)
            rows = tf.searchsorted(tf.constant(self.edges, tf.float64), numbers, side="right", out_type=tf.int64)
            rows += self.domain.reserved
        elif self.domain.encoding == "calendar":
            rows = self.domain.reserved + self._part_of(values)
        elif self.lookup is None:
            rows = self.domain.reserved + _hashed(values, self.domain.buckets)
        else:
            rows = self.lookup.lookup(values)
            if self.domain.oov_rows > 1:
                unknown = OUT_OF_VOCABULARY + _hashed(values, self.domain.oov_rows)
                rows = tf.where(rows == OUT_OF_VOCABULARY, unknown, rows)
        return tf.where(missing, tf.constant(MISSING, tf.int64), rows)

    def _inside(self, ids: tf.Tensor) -> tf.Tensor:
        limit = tf.constant(self.table.rows, tf.int64)
        message = f'feature "{self.feature.name}" holds an id outside 0 <= id < {self.table.rows}, its cardinality'
        inside = [tf.debugging.assert_non_negative(ids, message), tf.debugging.assert_less(ids, limit, message)]
        with tf.control_dependencies([it for it in inside if it is not None]):
            return tf.identity(ids)

    def _part_of(self, moments: tf.Tensor) -> tf.Tensor:
        """Return the hour of the day or the day of the week, in UTC; 1970 began on a Thursday, which is day 3."""
        assert self.feature.time is not None, "only moments have parts"
        day = DAY[self.feature.time.unit]
        return moments // (day // 24) % 24 if self.feature.time.take == "hour" else (moments // day + 3) % 7

    def call(self, rows: Any, weights: tf.RaggedTensor | None = None, training: bool = False) -> tf.Tensor:
        """Return the vectors of rows, [batch, dim]; those of a list are combined, by their weights if given."""
        if training and self.id_dropout:
            share = (
                keras.random.uniform(tf.shape(rows), seed=self.generator) / self.id_dropout
            )  # [batch], below 1: dropped
            unknown = OUT_OF_VOCABULARY + tf.cast(share * self.domain.oov_rows, rows.dtype)
            rows = tf.where(share < 1, unknown, rows)
        vectors = self.table(rows, combiner=self.combiner, weights=weights, jit=self.supports_jit)  # [batch, dim]
        if self.l2:
            squares = tf.reduce_sum(tf.square(tf.cast(vectors, tf.float32)), axis=-1)  # [batch]
            # of the events of a batch's histories there may be none
            self.add_loss(
                self.l2 * tf.math.divide_no_nan(tf.reduce_sum(squares), tf.cast(tf.size(squares), tf.float32))
            )
        return tf.cast(vectors, self.compute_dtype)


class ContinuousEncoder(_Numeric):
    """A raw number, normalised."""

    def _encode(self, raw: tf.Tensor) -> tf.Tensor:
        values, it = self._numbers(raw), self.statistics
        if self.feature.normalize == "log1p":
            values = tf.math.log1p(values)
        elif self.feature.normalize is not None and it is not None:
            standard = self.feature.normalize == "standard"
            shift, scale = (it.mean, it.std) if standard else (it.minimum, it.maximum - it.minimum)
            values = (values - shift) / scale
        message = f'feature "{self.feature.name}" is missing or infinite, or has no log(1 + x)'
        return tf.debugging.check_numerics(tf.cast(values, tf.float32), message)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return self._narrowed(values)[:, tf.newaxis]  # [batch, 1]


class VectorEncoder(_Encoder):
    """A dense vector as it stands."""

    def __init__(self, schema: Schema, feature: Feature, **kwargs: Any) -> None:
        assert feature.embedding is not None, "a dense vector has a width"
        super().__init__(schema, feature, int(feature.embedding.dim or 0), **kwargs)

    def _encode(self, raw: tf.Tensor) -> tf.Tensor:
        if self.feature.stand_in is not None:  # [batch, dim], a row of NaN where it is missing
            gone = tf.reduce_all(tf.math.is_nan(raw), axis=1, keepdims=True)
            raw = tf.where(gone, tf.constant(self.feature.stand_in, raw.dtype), raw)
        message = f'feature "{self.feature.name}" holds a number that is missing or infinite'
        return tf.debugging.check_numerics(tf.cast(raw, tf.float32), message)

    def call(self, values: tf.Tensor) -> tf.Tensor:
        return self._narrowed(values)


class WeightsEncoder(_Encoder):
    """The weights of a list's values: no vector of their own."""

    def __init__(self, schema: Schema, feature: Feature, **kwargs: Any) -> None:
        super().__init__(schema, feature, 0, **kwargs)

    def _encode(self, raw: Any) -> tf.RaggedTensor:
        lists = _without_missing(self.feature, raw)
        weights, message = tf.cast(lists.values, tf.float32), f'feature "{self.feature.name}" holds a weight below 0'
        positive = tf.debugging.assert_non_negative(weights, message)
        with tf.control_dependencies([positive] if positive is not None else []):
            return lists.with_values(tf.debugging.check_numerics(weights, f'feature "{self.feature.name}" is infinite'))


ENCODERS: dict[str, Any] = {"continuous": ContinuousEncoder, "vector": VectorEncoder, "weights": WeightsEncoder}


def _is_missing(feature: Feature, raw: tf.Tensor) -> tf.Tensor:
    """Tell which raw values stand for a missing one, of the same shape."""
    if feature.dtype.startswith("float"):
        return tf.math.is_nan(raw)
    return raw == tf.constant(missing_value(feature.dtype), raw.dtype)


def _without_missing(feature: Feature, raw: Any) -> tf.RaggedTensor:
    """Return lists without what is missing in them: ragged ones, or [batch, length] filled up with it."""
    lists = raw if isinstance(raw, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(raw)
    return tf.ragged.boolean_mask(lists, lists.with_values(~_is_missing(feature, lists.values)))


def _hashed(values: tf.Tensor, buckets: int) -> tf.Tensor:
    """Return the bucket of each value, [n] int64; `schema.hashing` computes the same."""
    texts = values if values.dtype == tf.string else tf.strings.as_string(values)
    return tf.strings.to_hash_bucket_fast(texts, buckets)


def _tokens(options: TextOptions, texts: tf.Tensor) -> tf.RaggedTensor:
    """Return the tokens of texts, [batch, None] string; `schema.text` computes the same."""
    if "lower" in options.standardize:
        # tf.strings.lower goes by the language of the process, in which I may become a dotless one
        for upper, lower in (("I", "i"), ("\u0130", "i\u0307")):
            texts = tf.strings.regex_replace(texts, upper, lower)
        texts = tf.strings.lower(texts, encoding="utf-8")
    if "strip_punctuation" in options.standardize:
        texts = tf.strings.regex_replace(texts, PUNCTUATION, "")
    if options.split == "whitespace":
        tokens = tf.strings.split(tf.strings.regex_replace(texts, BLANKS, " "), " ")
    else:
        tokens = tf.strings.unicode_split(tf.strings.regex_replace(texts, BLANKS, ""), "UTF-8")
    return tf.ragged.boolean_mask(tokens, tokens != "")


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
    shape = raw_shape(feature)
    if not value.shape.is_compatible_with(shape):
        expected_shape = ["batch", *("length" if width is None else width for width in shape[1:])]
        raise ConfigError(
            f'feature "{feature.name}": expected the shape [{", ".join(map(str, expected_shape))}], received {value.shape}'
        )
    return (
        tf.cast(value, tf.int64) if expected.is_integer else tf.cast(value, expected) if expected.is_floating else value
    )
