"""The items that a query is compared on: those it finds nearest, and some drawn at random."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.tasks.terms import Items

__all__ = ["Shortlist", "check_sizes", "nearest_scores", "seed_in", "shortlist"]

EVALUATION = 0
"""The seed of draws in evaluation, which are the same each time, and leave those of training what they would have been."""


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
        """Return the scores of the items by the item tower as it is, [b, m] float32.

        Args:
            queries: [b, dim]; or [b, K, dim], where the score is that of the nearest.
            items: All items.
        """
        return self.scores(queries, items.vectors)

    def scores(self, queries: tf.Tensor, embed: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Return the scores of the items by the vectors that `embed` gives of positions, as `logits` does."""
        return nearest_scores(tf.cast(queries, tf.float32), self.vectors(embed))

    def vectors(self, embed: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """Return the vectors of the items, [b, m, dim] float32.

        Args:
            embed: Gives those of positions, [n] -> [n, dim]; it is asked for each item once, however often it stands there.
        """
        distinct, place = tf.unique(tf.reshape(self.positions, [-1]))
        return tf.gather(tf.cast(embed(distinct), tf.float32), tf.reshape(place, tf.shape(self.positions)))


def nearest_scores(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Return the scores of each query's own candidates, [b, m]: the dot product, or the largest of a query's several vectors.

    Args:
        queries: [b, dim] or [b, K, dim].
        candidates: [b, m, dim].

    Example:
        >>> nearest_scores(tf.constant([[[1.0, 0.0], [0.0, 2.0]]]), tf.constant([[[3.0, 1.0], [1.0, 1.0]]])).numpy().tolist()
        [[3.0, 2.0]]
    """
    if queries.shape.rank == 2:
        return tf.linalg.matvec(candidates, queries)
    return tf.reduce_max(tf.matmul(candidates, queries, transpose_b=True), axis=2)


def shortlist(
    items: Items, queries: tf.Tensor, hard: int, random: int, seed: keras.random.SeedGenerator | int
) -> Shortlist:
    """Return the `hard` items nearest to each query, as `Items.nearest` finds them, and `random` of all, each as likely.

    Args:
        items: All items.
        queries: [b, dim] or [b, K, dim].
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


def seed_in(training: bool, seed: keras.random.SeedGenerator) -> keras.random.SeedGenerator | int:
    """Return what draws are made by: a task's own generator in training, `EVALUATION` else."""
    return seed if training else EVALUATION


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
