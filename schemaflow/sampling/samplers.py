"""Where the negatives of a batch come from, and how likely each was to come."""

from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from schemaflow.logits import first_occurrences, inclusion_probability
from schemaflow.registry import register

__all__ = ["Candidates", "InBatchSampler", "Sampler"]


@dataclass(frozen=True)
class Candidates:
    """The candidates that a batch's queries are scored against; column i holds row i's positive.

    Args:
        embeddings: [c, dim].
        ids: [c] int.
        probability: Of each candidate's being among them, [c] float32, or None where it is not known.
        repeated: True where the column repeats an earlier one and is nobody's negative, [c] bool.
    """

    embeddings: tf.Tensor
    ids: tf.Tensor
    probability: tf.Tensor | None
    repeated: tf.Tensor


class Sampler(Protocol):
    """A source of candidates."""

    def sample(self, embeddings: tf.Tensor, ids: tf.Tensor, share: tf.Tensor | None) -> Candidates:
        """Return the candidates of a batch.

        Args:
            embeddings: Of the batch's positives, [batch, dim].
            ids: Of the batch's positives, [batch] int.
            share: Each positive's share of all interactions, [batch] float32, or None where it is not known.
        """

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""


@register("sampler", "in-batch")
@keras.saving.register_keras_serializable("schemaflow")
class InBatchSampler:
    """The other rows' positives as negatives, each distinct item once.

    An item that several rows of the batch hold is one candidate, drawn with the probability of being in the batch at
    all, `1 - (1 - share)^batch`. As many columns as rows hold it would overstate the head of the catalogue: its number
    of columns grows with the batch, while that probability stops at 1.

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019. The
        paper keeps one column for each row.

    Example:
        >>> batch = InBatchSampler().sample(tf.eye(3), tf.constant([7, 5, 7]), tf.constant([0.5, 0.25, 0.5]))
        >>> batch.repeated.numpy().tolist(), batch.probability.numpy().tolist()
        ([False, False, True], [0.875, 0.578125, 0.875])
    """

    def sample(self, embeddings: tf.Tensor, ids: tf.Tensor, share: tf.Tensor | None) -> Candidates:
        """Return the batch's positives as candidates."""
        probability = None if share is None else inclusion_probability(share, tf.shape(ids)[0])
        return Candidates(embeddings, ids, probability, ~first_occurrences(ids))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments: there are none."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InBatchSampler":
        """Make the sampler of `get_config`."""
        return cls(**config)
