"""How likely each item is to be in a batch, learned from the batches as they come."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError, DataError
from schemaflow.registry import register

__all__ = ["StreamingFrequency"]

GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: its multiples, modulo 2^64, are far from each other."""


@register("frequency", "streaming")
@keras.saving.register_keras_serializable("schemaflow")
class StreamingFrequency(keras.layers.Layer):
    """The probability of an item's being in a batch at all, from the steps between the batches that held it: `1 / gap`.

    Each hash function h has an array of buckets. In step t, a bucket that the batch hits for the n-th time, and that was
    last hit in step s (0 if never), goes from its average gap g to

        g + max(alpha, 1/n) (t - s - g)

    and an item's gap is the largest of its buckets': items that share a bucket can only shorten its gaps, so the largest
    has suffered least. The first hash is `id mod buckets`: tables of up to `buckets` rows meet no collisions. An item
    that some bucket shows was never counted is taken to come in the next step, so its gap is t + 1 and its probability
    `1 / (t + 1)`. The probability is above 0 and at most 1.

    Args:
        buckets: Of each hash. Each takes 20 bytes. A step costs by the ids, however many buckets there are; but XLA on a
            CPU copies them all, which shows from a million on.
        hashes: How many hash functions. More help where ids are many more than buckets, or are hashes themselves.
        alpha: Weight of the newest gap, in (0, 1], once a bucket has 1 / alpha hits. Large values follow a changing
            stream faster, small ones are less noisy: the relative variance of a gap is about alpha / 2.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is not a number in its range.

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019,
        algorithms 2 and 3. Three things differ. The rate is alpha from the start there, so the first value of a bucket
        is forgotten after some 1 / alpha hits alone, which items of the tail never get; with 1/n the estimate is the
        plain mean of the gaps until then. A bucket is updated once a step: each repetition of an item in a batch would
        be a gap of 0. And what is estimated is the probability of being in the batch at all, so it corrects one column
        per distinct item (`InBatchSampler`); it stops at 1 for the head of the catalogue, whose columns would not.

    Example:
        >>> frequency = StreamingFrequency(buckets=10)
        >>> frequency(tf.constant([7, 5, 7]), training=True).numpy().tolist()
        [1.0, 1.0, 1.0]
        >>> frequency(tf.constant([7]), training=True).numpy().tolist()
        [1.0]
        >>> frequency(tf.constant([5, 5]), training=True).numpy().tolist()  # seen in steps 1 and 3: every 1.5 steps
        [0.6666666865348816, 0.6666666865348816]
        >>> frequency(tf.constant([7, 4])).numpy().tolist()
        [1.0, 0.25]
    """

    def __init__(self, buckets: int, hashes: int = 1, alpha: float = 0.01, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        for name, value in (("buckets", buckets), ("hashes", hashes)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"StreamingFrequency: {name} is {value!r}; expected a whole number above 0")
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha <= 1:
            raise ConfigError(f"StreamingFrequency: alpha is {alpha!r}; expected a number above 0 and at most 1")
        self.buckets = buckets
        self.hashes = hashes
        self.alpha = alpha
        # one row of buckets after the other: XLA gathers from the first axis of a variable alone
        length = hashes * buckets
        self.step = self._state("step", (), "int64")
        self.gaps = self._state("gaps", (length,), "float32")
        self.last_seen = self._state("last_seen", (length,), "int64")
        self.hits = self._state("hits", (length,), "int64")
        self.built = True

    def _state(self, name: str, shape: tuple[int, ...], dtype: str) -> Any:
        return self.add_weight(
            name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
        )

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the probability of each item's being in a batch, [n] float32 in (0, 1].

        Args:
            ids: [n] int. Repetitions do not matter.
            training: Count the ids first, as the batch of a new step.

        Raises:
            DataError: The ids are not whole numbers in one list.
        """
        ids = tf.convert_to_tensor(ids)
        if not ids.dtype.is_integer or ids.shape.rank != 1:
            raise DataError(f"expected ids of shape [n], int; received {ids.dtype.name} of shape {ids.shape}")
        places = self._places(tf.cast(ids, tf.int64))  # [hashes, n]
        if training:
            self._count(places)
        # sparse_read of the variable, and not a gather of its value: reading that would copy all buckets at each step
        counted = self.hits.value.sparse_read(places) > 0
        gaps = tf.where(counted, self.gaps.value.sparse_read(places), tf.cast(self.step.value + 1, tf.float32))
        return 1.0 / tf.reduce_max(gaps, axis=0)  # [n]

    def _places(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the places of each id's buckets, [hashes, n] int64."""
        number = np.arange(self.hashes)[:, np.newaxis]  # [hashes, 1]
        # NumPy's own multiplication, which wraps: in a graph, tf.constant takes a list of large ints through float64
        salts = np.uint64(GOLDEN) * number[1:].astype(np.uint64)  # [hashes - 1, 1]
        mixed = _mix(tf.bitcast(ids, tf.uint64) + salts) % np.uint64(self.buckets)  # [hashes - 1, n]
        buckets = tf.concat([ids[tf.newaxis] % self.buckets, tf.bitcast(mixed, tf.int64)], axis=0)  # [hashes, n]
        return buckets + number * self.buckets

    def _count(self, places: tf.Tensor) -> None:
        """Take the next step, with a hit of the bucket at each of the places, [hashes, n].

        A bucket that stands there several times is given one and the same new value several times: one update.
        """
        step = self.step.value.assign_add(1)
        hits = self.hits.value.sparse_read(places) + 1  # [hashes, n]
        gaps = self.gaps.value.sparse_read(places)
        newest = tf.cast(step - self.last_seen.value.sparse_read(places), tf.float32)
        rate = tf.maximum(self.alpha, 1.0 / tf.cast(hits, tf.float32))
        # no gap is below 1; steps beyond 2^24 are rounded, and could say otherwise
        gaps = tf.maximum(gaps + rate * (newest - gaps), 1.0)
        for state, values in ((self.gaps, gaps), (self.hits, hits), (self.last_seen, tf.fill(tf.shape(hits), step))):
            state.value.scatter_update(tf.IndexedSlices(values, places))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"buckets": self.buckets, "hashes": self.hashes, "alpha": self.alpha}


def _mix(words: tf.Tensor) -> tf.Tensor:
    """Return each 64-bit word scrambled, [...] uint64: a change of one bit changes half of the others.

    Source:
        Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: the finalizer of
        SplitMix64.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ tf.bitwise.right_shift(words, np.uint64(shift))) * np.uint64(factor)
    return words ^ tf.bitwise.right_shift(words, np.uint64(31))
