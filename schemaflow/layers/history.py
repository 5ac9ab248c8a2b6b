"""What a user did, one event after the other, as a vector or several."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import check_count, is_count
from schemaflow.errors import ConfigError, suggest
from schemaflow.layers.lists import rows_of
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.registry import register

__all__ = ["POOLINGS", "UserHistoryEncoder"]

POOLINGS = ("mean", "attention", "last")
"""How events become one vector: their mean, a mean by learned weights, or the newest as the others have changed it."""

FAR = -1e30
"""The logit of what takes no part: a softmax gives it exactly 0, and stays finite where nothing else is there."""


@register("layer", "user-history-encoder")
@keras.saving.register_keras_serializable("schemaflow")
class UserHistoryEncoder(keras.layers.Layer):
    """Self-attention over the events of a history, and their pooling: `pool(norm(blocks(fuse(item, sides) + position)))`.

    An event is its item's vector, taken as it is where it has the encoder's width, plus a linear map of what is known of
    the event beside (its action, how long ago it was), plus a learned vector for its place, counted from the newest. Each
    of `depth` blocks is

        x <- x + attention(norm(x)),   x <- x + W2 activation(W1 norm(x))

    over the events that are there: padding takes no part in anything. With depth 0 there are no positions, and the events
    are pooled as they are. A history without events is a learned vector, which begins at zero.

    In `TwoTowerModel(history=…)` it takes the place of the combiner for features tagged `sequence`, with the lists that are
    aligned with them, and shares the table of the items' domain. In `fit` and `evaluate`, events with the row's own item
    are taken out of its history, so that histories of whole users, which hold the item that is to be found, do not give it
    away. Where histories end before the interaction, and people choose a thing again, that would hide what is known: pass
    `mask_target=False`. `schemaflow.evaluate` hides nothing, since a query has many items to find; it counts how many are
    given away, and warns where most are.

    Args:
        pooling: "mean", "attention", "last", or a list of them, whose vectors stand side by side.
        depth: How many blocks.
        heads: Of attention in each block, which share its width.
        dim: The width of an event; that of the item's vector if None.
        feed_forward_dim: The width within a block, of W1; that of an event if None.
        dropout: The share of the events' components, and of what each half of a block adds, that is left out in training.
        activation: Within a block.
        interests: How many vectors to give. Of several, each has attention weights of its own, so "attention" must be
            among the poolings; what the others give is the same for each.
        max_length: The most events; that of the schema's feature, or of the dense inputs it is built for, if None.
        mask_target: Take a row's own item out of its history in training and in the model's own `evaluate`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none that can be, or a history is longer than `max_length`.

    Example:
        >>> encoder = UserHistoryEncoder("mean", depth=0)
        >>> events = tf.constant([[[1.0, 2.0], [3.0, 6.0]], [[1.0, 1.0], [9.0, 9.0]]])  # the second row's newest is padding
        >>> encoder(events, present=tf.constant([[True, True], [True, False]])).numpy().tolist()
        [[2.0, 4.0], [1.0, 1.0]]

    Source:
        Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018 (blocks over events);
        Cen et al., "Controllable multi-interest framework for recommendation", KDD 2020 (`interests`). Unlike the former,
        every event sees every other, since only the whole history is asked for; and norms come first.
    """

    def __init__(
        self,
        pooling: str | Sequence[str] = "attention",
        depth: int = 2,
        heads: int = 2,
        dim: int | None = None,
        feed_forward_dim: int | None = None,
        dropout: float = 0.1,
        activation: Any = "relu",
        interests: int = 1,
        max_length: int | None = None,
        mask_target: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pooling = [pooling] if isinstance(pooling, str) else list(pooling)
        counts = {"heads": heads, "interests": interests} | {
            name: value
            for name, value in (("dim", dim), ("feed_forward_dim", feed_forward_dim), ("max_length", max_length))
            if value is not None
        }
        _check(self.pooling, counts, depth, dropout, mask_target)
        self.depth = int(depth)
        self.heads = int(heads)
        self.dim = dim
        self.feed_forward_dim = feed_forward_dim
        self.dropout = float(dropout)
        self.activation = keras.activations.get(activation)
        self.interests = int(interests)
        self.max_length = max_length
        self.mask_target = mask_target
        self.supports_jit = False  # lists of any length

    @property
    def poolings(self) -> int:
        """How many poolings stand side by side."""
        return len(self.pooling)

    def build(self, events_shape: Any, present_shape: Any = None) -> None:
        """Make the weights.

        Args:
            events_shape: Of events, (batch, length, width), or a list of these.
            present_shape: Has no weights.
        """
        shapes = [events_shape] if _is_one(events_shape) else list(events_shape)
        width = int(shapes[0][-1])
        self.width = width if self.dim is None else int(self.dim)
        self.length = shapes[0][1] if self.max_length is None else int(self.max_length)
        if self.length is None:
            raise ConfigError(f"{self.name}: a history of any length has no positions; pass max_length=…")
        if self.width % self.heads:
            raise ConfigError(
                f"{self.name}: events are {self.width} wide, which {self.heads} heads do not share evenly; pass other"
                " heads=…, or dim=…"
            )
        dtype = self.dtype_policy
        self.item_map = None if width == self.width else _dense(self.width, 0, dtype, use_bias=False)
        self.side_map = _dense(self.width, 1, dtype, use_bias=False) if len(shapes) > 1 else None
        if self.item_map is not None:
            self.item_map.build((None, width))
        if self.side_map is not None:
            self.side_map.build((None, sum(int(shape[-1]) for shape in shapes[1:])))
        begin = keras.initializers.RandomNormal(stddev=0.02)
        if self.depth:
            self.positions = self.add_weight(
                name="positions", shape=(self.length, self.width), initializer=fresh_initializer(begin, 0)
            )
        hidden = self.width if self.feed_forward_dim is None else int(self.feed_forward_dim)
        self.blocks = [
            _Block(self.width, self.heads, hidden, self.activation, self.dropout, place, dtype=dtype)
            for place in range(self.depth)
        ]
        for block in self.blocks:
            block.build((None, None, self.width))
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype) if self.depth else None
        if self.norm is not None:
            self.norm.build((None, None, self.width))
        self.left_out = keras.layers.Dropout(self.dropout, dtype=dtype) if self.dropout else None
        if "attention" in self.pooling:
            self.attention = [
                _dense(self.width, 2, dtype, activation="tanh"),
                _dense(self.interests, 3, dtype, use_bias=False),
            ]
            for layer in self.attention:
                layer.build((None, None, self.width))
        self.empty = self.add_weight(name="empty", shape=(self.width * self.poolings,), initializer="zeros")
        self.built = True

    def call(self, events: Any, present: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Return [batch, width * poolings], or [batch, interests, width * poolings] where there are several interests.

        Args:
            events: The vectors of the items, the oldest event first: a RaggedTensor [batch, None, width] or a tensor
                [batch, length, width]. Or a list that begins with them, and goes on with what else is known of the same
                events, each of a width of its own.
            present: Of tensors: which events are there, [batch, length] bool; all if None.
            training: Whether to drop out.
        """
        parts = list(events) if isinstance(events, (list, tuple)) else [events]
        lists = [_ragged(it, present) for it in parts]
        length = tf.reduce_max(lists[0].row_lengths(), keepdims=True)  # [1]
        message = f"{self.name}: a history is longer than {self.length}, the most events that it was made for"
        fits = tf.debugging.assert_less_equal(length, tf.constant(self.length, length.dtype), message)
        with tf.control_dependencies([fits] if fits is not None else []):
            x = self._fused([tf.cast(it.values, self.compute_dtype) for it in lists])  # [n, width]
        x, there = _newest_first(lists[0], x)  # [batch, longest, width], [batch, longest]
        if self.depth:
            x += tf.cast(self.positions[: tf.shape(x)[1]], x.dtype)
        if self.left_out is not None:
            x = self.left_out(x, training=training)
        for place, block in enumerate(self.blocks):
            # where the newest event alone is asked for, the last block need not compute the others
            newest = place == self.depth - 1 and self.pooling == ["last"]
            x = block(x, there, newest=newest, training=training)
        if self.norm is not None:
            x = self.norm(x)
        return self._pooled(x, there)

    def _fused(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return each event as one vector, [n, width]."""
        x = parts[0] if self.item_map is None else self.item_map(parts[0])
        return x if self.side_map is None else x + self.side_map(tf.concat(parts[1:], axis=-1))

    def _pooled(self, x: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
        """Return what stands for the events, [batch, (interests,) width * poolings]; `x` is [batch, longest, width]."""
        several = self.interests > 1
        found = []
        for pooling in self.pooling:
            if pooling == "attention":
                logits = tf.cast(self.attention[1](self.attention[0](x)), tf.float32)  # [batch, longest, interests]
                logits = tf.where(there[:, :, tf.newaxis], logits, FAR)
                share = tf.cast(tf.nn.softmax(logits, axis=1), x.dtype)
                vectors = tf.matmul(share, x, transpose_a=True)  # [batch, interests, width]
                found.append(vectors if several else vectors[:, 0])
                continue
            vectors = x[:, 0] if pooling == "last" else _mean(x, there)  # [batch, width]
            found.append(tf.repeat(vectors[:, tf.newaxis], self.interests, axis=1) if several else vectors)
        summary = tf.concat(found, axis=-1)
        known = tf.reduce_any(there, axis=1)  # [batch]
        known = known[:, tf.newaxis, tf.newaxis] if several else known[:, tf.newaxis]
        return tf.where(known, summary, tf.cast(self.empty, summary.dtype))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "pooling": self.pooling,
            "depth": self.depth,
            "heads": self.heads,
            "dim": self.dim,
            "feed_forward_dim": self.feed_forward_dim,
            "dropout": self.dropout,
            "activation": keras.activations.serialize(self.activation),
            "interests": self.interests,
            "max_length": self.max_length,
            "mask_target": self.mask_target,
        }


class _Block(keras.layers.Layer):
    """Self-attention, then a feed-forward layer, each of the normalised events and added to them."""

    def __init__(
        self, width: int, heads: int, hidden: int, activation: Any, dropout: float, place: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width, self.heads = width, heads
        seeds, dtype = 10 * (place + 1), self.dtype_policy
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype) for _ in range(2)]
        self.query = _dense(width, seeds, dtype)
        self.key = _dense(width, seeds + 1, dtype, use_bias=False)  # the same for all events, it changes no softmax
        self.value = _dense(width, seeds + 2, dtype)
        self.output_map = _dense(width, seeds + 3, dtype)
        self.inner = _dense(hidden, seeds + 4, dtype, activation=activation)
        self.outer = _dense(width, seeds + 5, dtype)
        self.left_out = keras.layers.Dropout(dropout, dtype=dtype) if dropout else None

    def build(self, input_shape: Any) -> None:
        for layer in (*self.norms, self.query, self.key, self.value, self.output_map, self.inner):
            layer.build(input_shape)
        self.outer.build((*input_shape[:-1], self.inner.units))
        self.built = True

    def call(self, x: tf.Tensor, there: tf.Tensor, newest: bool = False, training: bool = False) -> tf.Tensor:
        """Return the events [batch, longest, width]; the first of them alone, [batch, 1, width], if `newest`."""
        normed = self.norms[0](x)
        asked, x = (normed[:, :1], x[:, :1]) if newest else (normed, x)
        query, key, value = (
            self._apart(self.query(asked)),
            self._apart(self.key(normed)),
            self._apart(self.value(normed)),
        )
        query *= (self.width // self.heads) ** -0.5
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)  # [batch, heads, asked, longest]
        logits = tf.where(there[:, tf.newaxis, tf.newaxis, :], logits, FAR)
        mixed = tf.matmul(tf.cast(tf.nn.softmax(logits), value.dtype), value)  # [batch, heads, asked, width / heads]
        mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), tf.shape(x))
        x += self._thinned(self.output_map(mixed), training)
        return x + self._thinned(self.outer(self.inner(self.norms[1](x))), training)

    def _apart(self, x: tf.Tensor) -> tf.Tensor:
        """Return the heads' parts of vectors, [batch, heads, n, width / heads]."""
        shape = tf.shape(x)
        return tf.transpose(tf.reshape(x, [shape[0], shape[1], self.heads, self.width // self.heads]), [0, 2, 1, 3])

    def _thinned(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        return x if self.left_out is None else self.left_out(x, training=training)


def _check(pooling: Sequence[Any], counts: dict[str, Any], depth: Any, dropout: Any, mask_target: Any) -> None:
    """Raise `ConfigError` on the first argument that cannot be."""
    for it in pooling or [None]:
        if it not in POOLINGS:
            raise ConfigError(
                f"unknown pooling {it!r}{suggest(str(it), POOLINGS)} (known: {', '.join(POOLINGS)}, or a list of them)"
            )
    if len(set(pooling)) < len(pooling):
        raise ConfigError(f"UserHistoryEncoder pooling is {list(pooling)!r}; name each once")
    for name, value in counts.items():
        check_count(f"UserHistoryEncoder {name}", value)
    if not (is_count(depth) or (type(depth) is int and depth == 0)):
        raise ConfigError(f"UserHistoryEncoder depth is {depth!r}; expected an integer of at least 0")
    if not (isinstance(dropout, (int, float)) and 0 <= dropout < 1):
        raise ConfigError(f"UserHistoryEncoder dropout is {dropout!r}; expected 0 <= dropout < 1")
    if not isinstance(mask_target, bool):
        raise ConfigError(f"UserHistoryEncoder mask_target is {mask_target!r}; expected True or False")
    if counts["interests"] > 1 and "attention" not in pooling:
        raise ConfigError(
            f"UserHistoryEncoder gives {counts['interests']} interests by {' and '.join(pooling)}, which are the same for"
            ' each; put "attention" among the poolings'
        )


def _is_one(shape: Any) -> bool:
    """Tell whether this is one shape, and no list of them."""
    return isinstance(shape[-1], int)


def _dense(units: int, place: int, dtype: Any, **kwargs: Any) -> keras.layers.Dense:
    return keras.layers.Dense(
        units, kernel_initializer=fresh_initializer("glorot_uniform", place), dtype=dtype, **kwargs
    )


def _ragged(events: Any, present: tf.Tensor | None) -> tf.RaggedTensor:
    """Return events that are there as lists, [batch, None, width]."""
    if isinstance(events, tf.RaggedTensor):
        return events
    return tf.RaggedTensor.from_tensor(events) if present is None else tf.ragged.boolean_mask(events, present)


def _newest_first(lists: tf.RaggedTensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return events in the order of their places, and which of these are taken: [batch, longest, width], [batch, longest].

    Args:
        lists: Of any values, the oldest event first.
        x: The events end to end, [n, width].
    """
    row = rows_of(lists)  # [n]
    place = tf.gather(lists.row_splits[1:], row) - 1 - tf.range(tf.size(row, row.dtype))  # [n]
    lengths = lists.row_lengths()  # [batch]
    longest = tf.maximum(tf.reduce_max(lengths), 1)  # a batch of empty histories has one place, which no event takes
    shape = tf.stack([lists.nrows(), longest, tf.constant(x.shape[-1], longest.dtype)])
    there = tf.range(longest)[tf.newaxis, :] < lengths[:, tf.newaxis]
    return tf.scatter_nd(tf.stack([row, place], axis=1), x, shape), there


def _mean(x: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Return the mean of the events that are there, [batch, width]; zero of none."""
    kept = tf.where(there[:, :, tf.newaxis], tf.cast(x, tf.float32), 0.0)
    count = tf.reduce_sum(tf.cast(there, tf.float32), axis=1, keepdims=True)  # [batch, 1]
    return tf.cast(tf.math.divide_no_nan(tf.reduce_sum(kept, axis=1), count), x.dtype)
