"""The sources of negatives: other rows, earlier batches, the catalogue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.registry import register

__all__ = [
    "Batch",
    "CachedCrossBatchSampler",
    "Catalogue",
    "Drawn",
    "InBatchSampler",
    "PopularityBasedSampler",
    "Sampler",
    "UniformSampler",
]


class Catalogue(Protocol):
    """All items, for samplers that draw beyond the batch. A position is a place in it; a rank counts from the most popular."""

    size: int

    def ids(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the ids at positions, [n] int64."""

    def at_rank(self, ranks: tf.Tensor) -> tf.Tensor:
        """Return the positions of ranks, [n] int64."""

    def ranks(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the ranks of ids, [m] int64: of several items with one id, which follow each other, the first; the last
        one for an id that is not there.
        """

    def times(self, ids: tf.Tensor) -> tf.Tensor:
        """Return how many items have each id, [m] int64, since hashing can give several the same; 1 for one not there."""


@dataclass(frozen=True)
class Batch:
    """What samplers are told of a batch.

    Args:
        embeddings: Of the rows' positives, [b, dim].
        ids: Of the rows' positives, [b] int64, none below 0.
        draws: How many of the rows are draws from the interactions, as seen by one row: all, or all but itself. A scalar.
        catalogue: All items, where the model has them.
        embed: Gives the vectors of the items at positions of the catalogue, [n, dim].
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    draws: tf.Tensor
    catalogue: Catalogue | None = None
    embed: Callable[[tf.Tensor], tf.Tensor] | None = None


@dataclass(frozen=True)
class Drawn:
    """What a sampler adds to the batch's own positives.

    Args:
        embeddings: [n, dim].
        ids: [n] int64; -1 where there is nothing.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor


class Sampler(keras.layers.Layer):
    """A source of negatives, beside each row's own positive: implement `draw` and `log_absence`.

    Several are composed by their probabilities: an item is absent if it is absent from each.

    Attributes:
        in_batch: The rows' positives are negatives of the other rows.
        needs_shares: `log_absence` asks for the items' shares of the interactions.
        needs_catalogue: `draw` asks for the catalogue.
        needs_ranks: And for its items' ranks in popularity.
    """

    in_batch = False
    needs_shares = False
    needs_catalogue = False
    needs_ranks = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # small probabilities do not fit half precision

    def draw(self, batch: Batch, training: bool) -> Drawn:
        """Return the candidates beside the batch's own positives."""
        raise NotImplementedError

    def log_absence(self, ids: tf.Tensor, shares: tf.Tensor | None, batch: Batch) -> tf.Tensor:
        """Return `log(1 - p)` for the probability p that this sampler brings an item at all, [m] float32.

        Args:
            ids: Items, [m] int64: any, not only those that were drawn.
            shares: Their shares of all interactions, [m] float32, where `needs_shares`.
            batch: The batch of `draw`.
        """
        raise NotImplementedError

    def remember(self, batch: Batch) -> None:
        """Take up a batch that was trained on; most have nothing to keep."""
        return


@register("sampler", "in-batch")
@keras.saving.register_keras_serializable("schemaflow")
class InBatchSampler(Sampler):
    """The other rows' positives as negatives, each distinct item once.

    An item that several rows of the batch hold is one candidate, drawn with the probability of being in the batch at
    all, `1 - (1 - share)^batch`. As many columns as rows hold it would overstate the head of the catalogue: its number
    of columns grows with the batch, while that probability stops at 1.

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019. The
        paper keeps one column for each row.

    Example:
        >>> ids = tf.constant([7, 5, 7], tf.int64)
        >>> batch = Batch(tf.eye(3), ids, draws=tf.constant(3))
        >>> absence = InBatchSampler().log_absence(ids, tf.constant([0.5, 0.25, 0.5]), batch)
        >>> (1 - tf.exp(absence)).numpy().tolist()
        [0.875, 0.578125, 0.875]
    """

    in_batch = True
    needs_shares = True

    def draw(self, batch: Batch, training: bool) -> Drawn:
        """Return nothing beside the batch's own positives."""
        return Drawn(tf.stop_gradient(batch.embeddings[:0]), batch.ids[:0])  # XLA knows no gradient of nothing

    def log_absence(self, ids: tf.Tensor, shares: tf.Tensor | None, batch: Batch) -> tf.Tensor:
        """Return `draws * log(1 - share)`."""
        assert shares is not None, "in-batch negatives are drawn by their shares"
        # no draw brings nothing, not even an item that every draw would be
        return tf.math.multiply_no_nan(tf.math.log1p(-shares), tf.cast(batch.draws, tf.float32))


@register("sampler", "cross-batch")
@keras.saving.register_keras_serializable("schemaflow")
class CachedCrossBatchSampler(Sampler):
    """The positives of the last batches as negatives: their vectors as they were then, without a gradient.

    First in, first out. The candidates of a batch join after its own loss.

    Args:
        capacity: How many rows are kept.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: The capacity is below 1.

    Source:
        Wang et al., "Cross-batch negative sampling for training two-tower recommenders", SIGIR 2021.

    Example:
        >>> sampler = CachedCrossBatchSampler(capacity=2)
        >>> batch = Batch(tf.eye(3), tf.constant([7, 5, 9], tf.int64), draws=tf.constant(3))
        >>> sampler.build((None, 3))
        >>> sampler.remember(batch)
        >>> sampler.draw(batch, training=True).ids.numpy().tolist()
        [9, 5]
    """

    needs_shares = True

    def __init__(self, capacity: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("capacity", capacity)
        self.capacity = int(capacity)

    def build(self, input_shape: Any) -> None:
        """Make room for vectors [batch, dim]."""
        kept: dict[str, Any] = {"trainable": False, "autocast": False}
        shape = (self.capacity, input_shape[-1])
        self.embeddings = self.add_weight(name="embeddings", shape=shape, dtype="float32", initializer="zeros", **kept)
        self.ids = self.add_weight(
            name="ids", shape=(self.capacity,), dtype="int64", initializer=keras.initializers.Constant(-1), **kept
        )
        self.built = True

    def draw(self, batch: Batch, training: bool) -> Drawn:
        """Return what is kept, the newest first."""
        return Drawn(tf.cast(self.embeddings.value, batch.embeddings.dtype), tf.identity(self.ids.value))

    def log_absence(self, ids: tf.Tensor, shares: tf.Tensor | None, batch: Batch) -> tf.Tensor:
        """Return `rows kept * log(1 - share)`."""
        assert shares is not None, "earlier batches were drawn by their shares"
        kept = tf.reduce_sum(tf.cast(self.ids.value >= 0, tf.float32))
        return tf.math.multiply_no_nan(tf.math.log1p(-shares), kept)

    def remember(self, batch: Batch) -> None:
        """Put the batch's positives before what is kept, and let the oldest go."""
        newest = tf.stop_gradient(tf.cast(batch.embeddings[::-1], tf.float32))
        self.embeddings.assign(tf.concat([newest, self.embeddings.value], axis=0)[: self.capacity])
        self.ids.assign(tf.concat([batch.ids[::-1], self.ids.value], axis=0)[: self.capacity])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"capacity": self.capacity}


class _CatalogueSampler(Sampler):
    """Independent draws from the catalogue, of which a repeated one counts once: `p = 1 - (1 - p_draw)^num_sampled`."""

    needs_catalogue = True
    _salt: int  # two samplers of one seed must not draw the same numbers

    def __init__(self, num_sampled: int = 100, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_count("num_sampled", num_sampled)
        self.num_sampled = int(num_sampled)
        if not (seed is None or type(seed) is int):
            raise ConfigError(f"seed is {seed!r}; expected an integer, or None for a random one")
        self.seed = seed
        self._generator = keras.random.SeedGenerator(None if seed is None else seed + self._salt)
        self.built = True

    def _uniform(self, training: bool) -> tf.Tensor:
        """Return numbers in [0, 1), [num_sampled] float64: float32 tells too few of them apart to reach a last item.

        Outside of training they are the same each time: losses of evaluations compare, and a fit is not changed by them.
        """
        seed = self._generator if training else self._salt
        return keras.random.uniform((self.num_sampled,), dtype="float64", seed=seed)

    def draw(self, batch: Batch, training: bool) -> Drawn:
        """Return items of the catalogue."""
        catalogue = _catalogue_of(batch)
        assert batch.embed is not None, "a catalogue comes with something to make vectors of it"
        positions = self._positions(self._uniform(training), catalogue)
        return Drawn(batch.embed(positions), catalogue.ids(positions))

    def _positions(self, numbers: tf.Tensor, catalogue: Catalogue) -> tf.Tensor:
        """Return positions drawn by numbers in [0, 1), [num_sampled] int64."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"num_sampled": self.num_sampled, "seed": self.seed}


@register("sampler", "uniform")
@keras.saving.register_keras_serializable("schemaflow")
class UniformSampler(_CatalogueSampler):
    """Items of the whole catalogue, each as likely as the others: so that those nobody chose are negatives too.

    Together with `InBatchSampler` this is mixed negative sampling. The item tower sees what is drawn as a batch of its own,
    which matters where it normalizes by batches.

    Args:
        num_sampled: How many are drawn for a batch; one drawn twice is one candidate.
        seed: Of the draws; a random one if None.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: `num_sampled` is below 1.

    Source:
        Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW 2020.

    Example:
        >>> UniformSampler(num_sampled=512).get_config()["num_sampled"]
        512
    """

    _salt = 0

    def _positions(self, numbers: tf.Tensor, catalogue: Catalogue) -> tf.Tensor:
        return tf.cast(numbers * catalogue.size, tf.int64)

    def log_absence(self, ids: tf.Tensor, shares: tf.Tensor | None, batch: Batch) -> tf.Tensor:
        """Return `num_sampled * log(1 - items with the id / items)` for each id."""
        catalogue = _catalogue_of(batch)
        drawn = tf.cast(catalogue.times(ids), tf.float64) / catalogue.size
        return tf.cast(self.num_sampled * tf.math.log1p(-drawn), tf.float32)


@register("sampler", "popularity")
@keras.saving.register_keras_serializable("schemaflow")
class PopularityBasedSampler(_CatalogueSampler):
    """Items of the whole catalogue, log-uniform by their rank in popularity: `p(rank) = log((rank + 2) / (rank + 1)) / log(items + 1)`.

    The ranks are those of the schema's item counts, from 0 to the last item.

    Args:
        num_sampled: How many are drawn for a batch; one drawn twice is one candidate.
        seed: Of the draws; a random one if None.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: `num_sampled` is below 1.

    Source:
        The distribution is that of `tf.random.log_uniform_candidate_sampler`.

    Example:
        >>> PopularityBasedSampler(num_sampled=512).get_config()["num_sampled"]
        512
    """

    needs_ranks = True
    _salt = 7919

    def _positions(self, numbers: tf.Tensor, catalogue: Catalogue) -> tf.Tensor:
        # log(rank + 1) is uniform below log(items + 1); rounding must not lead beyond the last rank
        ranks = tf.cast(tf.exp(numbers * _log(catalogue.size + 1)), tf.int64) - 1
        return catalogue.at_rank(tf.clip_by_value(ranks, 0, catalogue.size - 1))

    def log_absence(self, ids: tf.Tensor, shares: tf.Tensor | None, batch: Batch) -> tf.Tensor:
        """Return `num_sampled * log(1 - p)`, p the sum of `p(rank)` over the items with the id."""
        catalogue = _catalogue_of(batch)
        ranks, times = (tf.cast(of(ids), tf.float64) for of in (catalogue.ranks, catalogue.times))
        # their ranks follow each other, so the sum telescopes to log((rank + 1 + times) / (rank + 1))
        drawn = tf.math.log1p(times / (ranks + 1.0)) / _log(catalogue.size + 1)
        return tf.cast(self.num_sampled * tf.math.log1p(-drawn), tf.float32)


def _catalogue_of(batch: Batch) -> Catalogue:
    assert batch.catalogue is not None, "what is drawn from the catalogue needs one"
    return batch.catalogue


def _log(number: int) -> tf.Tensor:
    return tf.math.log(tf.constant(number, tf.float64))
