"""Samplers together: the items that a batch's queries are scored against, and how likely each was to be there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import tensorflow as tf

from schemaflow.logits import first_occurrences
from schemaflow.sampling.samplers import Batch, Drawn, Sampler

__all__ = ["Candidates", "sample"]


@dataclass(frozen=True)
class Candidates:
    """The items that a batch's queries are scored against, beside their own positives.

    Args:
        embeddings: [c, dim].
        ids: [c] int64.
        negative: True where the column is a negative of the rows whose positive it is not, [c] bool: an id that stands
            in several columns is a negative once. None where all are.
        row_ids: Of the rows' positives, [b] int64.
        own: The column that is a row's own positive, or would be its negative, [b] int32; None where the rows' positives
            are no candidates.
        probability: Of each candidate's being among the negatives at all, [c] float32 above 0, or None if not asked for.
        own_probability: The same of each row's positive, [b] float32.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    negative: tf.Tensor | None
    row_ids: tf.Tensor
    own: tf.Tensor | None
    probability: tf.Tensor | None
    own_probability: tf.Tensor | None

    def compacted(self) -> "Candidates":
        """Return the negatives alone, each id once. XLA must do without: their number is known when the graph runs."""
        if self.negative is None:
            return self
        kept = tf.where(self.negative)[:, 0]
        column = tf.cumsum(tf.cast(self.negative, tf.int32), exclusive=True)  # [c]
        return replace(
            self,
            embeddings=tf.gather(self.embeddings, kept),
            ids=tf.gather(self.ids, kept),
            negative=None,
            own=None if self.own is None else tf.gather(column, self.own),
            probability=None if self.probability is None else tf.gather(self.probability, kept),
        )


def sample(
    samplers: Sequence[Sampler],
    batch: Batch,
    shares_of: Callable[[tf.Tensor], tf.Tensor] | None,
    corrected: bool,
    training: bool,
) -> Candidates:
    """Return what the samplers bring; of several columns with one id the first is the negative, the batch's own before others.

    An item that several samplers may bring is there with the probability `1 - prod_s (1 - p_s)`.

    Args:
        samplers: At least one.
        batch: The rows' positives.
        shares_of: Gives the shares of all interactions that ids [m] have, [m] float32; None where no sampler needs them.
        corrected: Whether to give the probabilities.
        training: Whether the samplers take up the batch.
    """
    brought = [sampler.draw(batch, training) for sampler in samplers]
    in_batch = any(sampler.in_batch for sampler in samplers)
    if in_batch:
        brought.insert(0, Drawn(batch.embeddings, batch.ids))
    ids = tf.concat([it.ids for it in brought], axis=0)  # [c]
    first = first_occurrences(ids)

    def probability_of(ids: tf.Tensor) -> tf.Tensor:
        shares = None if shares_of is None else shares_of(ids)
        absence = tf.add_n([sampler.log_absence(ids, shares, batch) for sampler in samplers])
        # any above 0 will do where nothing is or can be, as with an empty cache
        return tf.where((ids == -1) | (absence == 0.0), 1.0, -tf.math.expm1(absence))

    probability = probability_of(ids) if corrected else None
    rows = tf.size(batch.ids)
    own_probability = None
    if probability is not None:
        own_probability = probability[:rows] if in_batch else probability_of(batch.ids)
    if training:
        for sampler in samplers:
            sampler.remember(batch)
    return Candidates(
        tf.concat([it.embeddings for it in brought], axis=0),
        ids,
        (first == tf.range(tf.size(ids))) & (ids != -1),
        batch.ids,
        first[:rows] if in_batch else None,
        probability,
        own_probability,
    )
