"""Samplers together: the columns that a batch's queries are scored against, and how likely each was to be there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from schemaflow.logits import first_occurrences
from schemaflow.sampling.samplers import Batch, Sampler

__all__ = ["Candidates", "sample"]


@dataclass(frozen=True)
class Candidates:
    """The candidates that a batch's queries are scored against; column i holds row i's positive.

    Args:
        embeddings: [c, dim].
        ids: [c] int64.
        negative: True where the column is a negative of the rows whose positive it is not, [c] bool: an id that stands
            in several columns is a negative once.
        probability: Of each candidate's being among the negatives at all, [c] float32 above 0, or None if not asked for.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    negative: tf.Tensor
    probability: tf.Tensor | None


def sample(
    samplers: Sequence[Sampler],
    batch: Batch,
    shares_of: Callable[[tf.Tensor], tf.Tensor] | None,
    corrected: bool,
    training: bool,
) -> Candidates:
    """Return the batch's positives, and what the samplers add to them.

    An item that several samplers may bring is there with the probability `1 - prod_s (1 - p_s)`.

    Args:
        samplers: At least one.
        batch: The rows' positives.
        shares_of: Gives the shares of all interactions that ids [m] have, [m] float32; None where no sampler needs them.
        corrected: Whether to give the probabilities.
        training: Whether the samplers take up the batch.
    """
    drawn = [sampler.draw(batch, training) for sampler in samplers]
    embeddings = tf.concat([batch.embeddings, *(it.embeddings for it in drawn)], axis=0)  # [c, dim]
    ids = tf.concat([batch.ids, *(it.ids for it in drawn)], axis=0)  # [c]
    rows = tf.shape(batch.ids)[0]
    if any(sampler.in_batch for sampler in samplers):
        first = first_occurrences(ids)
    else:  # the rows' positives are nobody else's negatives, and hide none
        first = tf.concat([tf.zeros([rows], tf.bool), first_occurrences(ids[rows:])], axis=0)
    negative = first & (ids != -1)
    probability = None
    if corrected:
        shares = None if shares_of is None else shares_of(ids)
        absence = tf.add_n([sampler.log_absence(ids, shares, batch) for sampler in samplers])
        # any above 0 will do where there is nothing, and for a positive beside which nothing can be, as with an empty cache
        nothing = (ids == -1) | (~negative & (absence == 0.0))
        probability = tf.where(nothing, 1.0, -tf.math.expm1(absence))
    if training:
        for sampler in samplers:
            sampler.remember(batch)
    return Candidates(embeddings, ids, negative, probability)
