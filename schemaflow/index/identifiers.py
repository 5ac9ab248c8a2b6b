"""Which candidate has an id, in the graph: with stock operations and nothing but variables to save."""

from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError

__all__ = ["Identifiers", "ids_of", "padding_identifier"]


def padding_identifier(dtype: tf.DType) -> Any:
    """Return the id that fills a row with fewer than k candidates: the empty string, or the least integer."""
    return "" if dtype == tf.string else dtype.min


def ids_of(identifiers: Any) -> tf.Tensor:
    """Return ids as strings or int64.

    Raises:
        ConfigError: They are neither strings nor integers, or beyond int64.
    """
    try:
        ids = tf.convert_to_tensor(identifiers)
    except (TypeError, ValueError) as reason:  # such as objects of several types, or lists of several lengths
        raise ConfigError(
            f"identifiers are {type(identifiers).__name__}, of which TensorFlow makes no tensor ({reason});"
            " expected strings or integers, all rows of one length"
        ) from None
    if not (ids.dtype == tf.string or ids.dtype.is_integer):
        raise ConfigError(f"identifiers are {ids.dtype.name}; expected strings or integers")
    if ids.dtype == tf.uint64 and (not tf.executing_eagerly() or tf.reduce_any(ids > tf.int64.max)):
        raise ConfigError(f"identifiers are uint64, and may be beyond {tf.int64.max}; pass int64 or strings")
    return ids if ids.dtype == tf.string else tf.cast(ids, tf.int64)


class Identifiers(tf.Module):
    """The ids of candidates, and the position of each: a search among fingerprints in order.

    Args:
        ids: [n] string or int64, n >= 1.

    Raises:
        ConfigError: An id stands twice.

    Example:
        >>> Identifiers(tf.constant(["a", "b"])).positions(tf.constant([["b", "?"]])).numpy().tolist()
        [[1, -1]]
    """

    def __init__(self, ids: tf.Tensor) -> None:
        super().__init__()
        self._dtype = ids.dtype
        values, keys, order = _in_order(ids)
        # of open shape, since the catalogue may grow under a graph that reads it
        self.ids = tf.Variable(values, trainable=False, shape=[None], name="identifiers")
        self._keys = tf.Variable(keys, trainable=False, shape=[None], name="keys")
        self._order = tf.Variable(order, trainable=False, shape=[None], name="order")

    @property
    def dtype(self) -> tf.DType:
        """String or int64."""
        return self._dtype

    def assign(self, ids: tf.Tensor) -> None:
        """Take other ids of the same dtype, in place of those before.

        Raises:
            ConfigError: As at construction, and nothing is changed.
        """
        for variable, value in zip((self.ids, self._keys, self._order), _in_order(ids), strict=True):
            variable.assign(value)

    def positions(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the position of each id, int32 of the same shape; -1 where no candidate has it."""
        keys = tf.reshape(_keys(ids), [-1])
        place = tf.minimum(tf.searchsorted(self._keys, keys), tf.size(self._keys) - 1)
        found = tf.gather(self._order, place)
        return tf.reshape(tf.where(tf.gather(self.ids, found) == tf.reshape(ids, [-1]), found, -1), tf.shape(ids))


def _keys(ids: tf.Tensor) -> tf.Tensor:
    """Return an int64 for each id: itself, or a string's fingerprint."""
    return tf.strings.to_hash_bucket_fast(ids, tf.int64.max) if ids.dtype == tf.string else ids


def _in_order(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return ids, their keys in order, int64, and the position of each of the keys, int32."""
    keys = _keys(ids).numpy()
    order = np.argsort(keys, kind="stable")
    _refuse_repeated(ids.numpy()[order], keys[order])
    return ids, tf.constant(keys[order], tf.int64), tf.constant(order, tf.int32)


def _refuse_repeated(ids: Any, keys: Any) -> None:
    """Refuse an id that stands twice, and two strings of one fingerprint."""
    repeated = np.flatnonzero(keys[1:] == keys[:-1])
    if not len(repeated):
        return
    first, second = ids[repeated[0] : repeated[0] + 2].tolist()  # as Python shows them
    if first != second:
        raise ConfigError(f"the identifiers {first!r} and {second!r} have one fingerprint; pass integers")
    raise ConfigError(
        f"{len(np.unique(keys[1:][repeated]))} of the candidates' identifiers stand more than once, {first!r} the first of them;"
        " expected each candidate once: remove the others"
    )
