"""The items that a query is compared on: those it finds nearest, and some drawn at random."""

from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.tasks.terms import Items

__all__ = ["Shortlist", "check_sizes", "shortlist"]


@dataclass(frozen=True)
class Shortlist:
    """Some items for each query.

    Args:
        positions: Of the items, [b, m] int64; the nearest come first.
        first: Whether an item has not stood in its row before, [b, m] bool; one that has takes no part.
    """

    positions: tf.Tensor
    first: tf.Tensor

    def logits(self, queries: tf.Tensor, items: Items) -> tf.Tensor:
        """Return the dot products of queries [b, dim] with their items by the item tower as it is, [b, m] float32.

        The tower sees each item once, however many queries it is compared with.
        """
        return self.products(queries, items.vectors)

    def products(self, queries: tf.Tensor, embed: Any) -> tf.Tensor:
        """Return the dot products of queries [b, dim] with the vectors that `embed` gives of positions, [b, m] float32."""
        distinct, place = tf.unique(tf.reshape(self.positions, [-1]))
        vectors = tf.gather(tf.cast(embed(distinct), tf.float32), tf.reshape(place, tf.shape(self.positions)))
        return tf.einsum("bd,bmd->bm", tf.cast(queries, tf.float32), vectors)


def shortlist(items: Items, queries: tf.Tensor, hard: int, random: int, seed: keras.random.SeedGenerator) -> Shortlist:
    """Return the `hard` items nearest to each query, as `Items.nearest` finds them, and `random` of all, each as likely.

    Args:
        items: All items.
        queries: [b, dim].
        hard: How many nearest; all where there are fewer.
        random: How many are drawn; one that stands in the row already takes no part.
        seed: Of the draws.
    """
    parts = []
    if hard:
        parts.append(items.nearest(queries, hard))
    if random:
        shape = (tf.shape(queries)[0], random)
        parts.append(keras.random.randint(shape, 0, items.size, dtype="int64", seed=seed))
    positions = tf.concat(parts, axis=1)
    return Shortlist(positions, _first_in_row(positions))


def check_sizes(hard: int, random: int) -> None:
    """Raise `ConfigError` where a shortlist would compare nothing."""
    for name, size in (("hard", hard), ("random", random)):
        if type(size) is not int or size < 0:
            raise ConfigError(f"{name} is {size!r}; expected how many candidates, 0 or more")
    if hard + random < 2:
        raise ConfigError(f"hard + random is {hard + random}; expected two candidates at least, to be compared")


def _first_in_row(positions: tf.Tensor) -> tf.Tensor:
    """Return where a position does not stand further left in its row, [b, m] bool."""
    order = tf.argsort(positions, axis=1, stable=True)
    ordered = tf.gather(positions, order, batch_dims=1)
    again = tf.pad(ordered[:, 1:] == ordered[:, :-1], [[0, 0], [1, 0]])  # [b, m]
    return ~tf.gather(again, tf.argsort(order, axis=1), batch_dims=1)
