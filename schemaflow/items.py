"""All items of a model, for terms that reach beyond the batch."""

from collections.abc import Callable
from copy import copy

import tensorflow as tf

from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.features.kinds import Tensors
from schemaflow.index.base import merged
from schemaflow.index.brute_force import exact
from schemaflow.interests import vectors_each

__all__ = ["AllItems"]


class AllItems:
    """The catalogue with the item tower: what `schemaflow.tasks.terms.Items` asks for.

    Args:
        catalogue: All items.
        embed: Gives the vectors of items at positions, [n] -> [n, dim], by the item tower as it is, in training or not.
        dim: Of the vectors.
    """

    def __init__(self, catalogue: ItemCatalogue, embed: Callable[[tf.Tensor, bool], tf.Tensor], dim: int) -> None:
        self._catalogue, self._embed = catalogue, embed
        self.size = catalogue.size
        self.taken = False
        self._training = False
        # no weight: what was saved would be encoded anew before it is read
        self._encoded = tf.Variable(tf.zeros((self.size, dim)), trainable=False, name="items")

    def seen(self, training: bool) -> "AllItems":
        """Return the same items, with vectors as the tower gives them in training or not: there it drops out, and counts."""
        items = copy(self)
        items._training = training
        return items

    def features(self, positions: tf.Tensor) -> Tensors:
        """Return the encoded features of the items at positions [n]."""
        return self._catalogue.features(positions)

    def ids(self, positions: tf.Tensor) -> tf.Tensor:
        """Return their ids, [n] int64."""
        return self._catalogue.ids(positions)

    def vectors(self, positions: tf.Tensor) -> tf.Tensor:
        """Return their vectors, [n, dim], by the item tower as it is."""
        return self._embed(positions, self._training)

    def take(self, vectors: tf.Tensor) -> None:
        """Keep the vectors of all items, [size, dim], for `nearest`."""
        self._encoded.assign(vectors)
        self.taken = True

    def nearest(self, queries: tf.Tensor, k: int) -> tf.Tensor:
        """Return the positions of the items nearest to queries [b, dim] or [b, K, dim] by the vectors kept, [b, min(k, size)] int64."""
        vectors = tf.stop_gradient(tf.cast(queries, tf.float32))
        flat = tf.reshape(vectors, [-1, tf.shape(vectors)[-1]])  # [b K, dim]
        found = exact(flat, self._encoded.read_value(), tf.constant(min(k, self.size)), None, None)
        _, positions = found if vectors.shape.rank == 2 else merged(*found, vectors_each(vectors))
        return tf.ensure_shape(tf.cast(positions, tf.int64), [None, min(k, self.size)])
