"""The candidates of the retrieval loss: samplers, their log-Q, and what must be nobody's negative."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.registry import lookup
from schemaflow.sampling import Batch, Candidates, InBatchSampler, Sampler, StreamingFrequency, sample
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides

__all__ = ["CORRECTIONS", "Negatives", "correction_of", "samplers_of"]

CORRECTIONS = ("log_q", "exclude_positive")
"""What is corrected for an item's probability of being sampled: the whole row's logits, or those of the negatives."""


class Negatives(keras.layers.Layer):
    """The columns that a batch's queries are scored against.

    Args:
        schema: Has counted the items' interactions, or the streaming estimator counts them.
        sides: The towers' features.
        samplers: Where candidates come from.
        correction: One of `CORRECTIONS`, a `StreamingFrequency` for log-Q by that estimator, or None.
        catalogue: All items, where a sampler draws from them.
        dim: Of the vectors.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(
        self,
        schema: Schema,
        sides: Sides,
        samplers: Sequence[Sampler],
        correction: str | StreamingFrequency | None,
        catalogue: ItemCatalogue | None,
        dim: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.samplers = list(samplers)
        self.catalogue = catalogue
        if catalogue is not None and catalogue.holds_lists and any(sampler.needs_catalogue for sampler in samplers):
            self.supports_jit = False  # XLA cannot gather lists
        self.corrected = correction is not None
        self.excludes_positive = correction == "exclude_positive"
        self.frequency: StreamingFrequency | None = None
        self._shares: tf.Tensor | None = None
        counts = schema.counts(sides.item_id)
        if counts is None and any(sampler.needs_ranks for sampler in samplers):
            raise ConfigError(
                "the popularity sampler ranks the items by the schema's item counts, and it has none; call Schema.fit with"
                " interactions"
            )
        if self.corrected and any(sampler.needs_shares for sampler in samplers):
            if isinstance(correction, StreamingFrequency):
                self.frequency = correction
            elif counts is None:
                self.frequency = StreamingFrequency(buckets=schema.rows(sides.item_id.table))
            else:  # a row never seen counts as seen once
                self._shares = tf.constant(np.maximum(counts, 1) / counts.sum(), tf.float32)
        self._counted_rows = self.add_weight(
            name="counted_rows", dtype="float32", initializer="zeros", trainable=False, autocast=False
        )
        for sampler in self.samplers:
            if not sampler.built:
                sampler.build((None, dim))
            elif sampler.weights:
                raise ConfigError(
                    f'the sampler "{sampler.name}" keeps vectors of another model, which are no negatives of this one;'
                    f" pass a {type(sampler).__name__} of its own to each model"
                )
        self.built = True

    def of(
        self,
        embeddings: tf.Tensor,
        ids: tf.Tensor,
        embed: Callable[[tf.Tensor], tf.Tensor],
        training: bool = False,
        compact: bool = True,
    ) -> Candidates:
        """Return the candidates, with their probabilities where the logits are to be corrected.

        Args:
            embeddings: Of the rows' positives, [b, dim].
            ids: Of the rows' positives, [b] int64.
            embed: Gives the vectors of items at positions of the catalogue.
            training: Samplers and the estimator take up the batch.
            compact: Leave out what is no negative, so that their number is known when the graph runs.
        """
        rows = tf.shape(ids)[0]
        if self.frequency is not None and training:
            self.frequency(ids, training=True)
            self._see(rows)
        draws = rows - 1 if self.excludes_positive else rows
        candidates = sample(
            self.samplers,
            Batch(embeddings, ids, draws, self.catalogue, embed),
            None if self.frequency is None and self._shares is None else lambda of: self._shares_of(of, rows),
            self.corrected,
            training,
        )
        if self.excludes_positive:  # it is there for certain
            candidates = replace(candidates, own_probability=None)
        return candidates.compacted() if compact else candidates

    def _see(self, rows: tf.Tensor) -> None:
        """Move the mean size of the batches that the estimator counted, at the rate that it moves with."""
        assert self.frequency is not None, "shares are estimated"
        mean, steps = self._counted_rows.value, tf.cast(self.frequency.step.value, tf.float32)
        rate = tf.where(mean == 0.0, 1.0, tf.maximum(self.frequency.alpha, 1.0 / steps))
        self._counted_rows.assign_add(rate * (tf.cast(rows, tf.float32) - mean))

    def _shares_of(self, ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the shares of interactions that items have, [m] float32."""
        known = tf.maximum(ids, 0)  # -1 stands for no item
        if self._shares is not None:
            return tf.gather(self._shares, known)
        assert self.frequency is not None, "shares are counted or estimated"
        # of n draws the item is among with probability p, it has the share 1 - (1 - p)^(1/n); n is the size of the batches
        # that were counted, and not of this one, which may be an epoch's short last one or an evaluation's
        counted = self._counted_rows.value
        counted = tf.where(counted == 0.0, tf.cast(rows, tf.float32), counted)
        return -tf.math.expm1(tf.math.log1p(-self.frequency(known)) / counted)


def samplers_of(given: Any) -> list[Sampler]:
    """Return the samplers of a model: those given, by name or as they are, or the in-batch one.

    Raises:
        ConfigError: One is none, cannot be made from its name alone, or is of the same kind as another.
    """
    every = list(given) if isinstance(given, (list, tuple)) else [given]
    made = [_named(it) if isinstance(it, str) else it for it in every]
    if wrong := [it for it in made if not isinstance(it, Sampler)]:
        raise ConfigError(f"samplers holds {wrong[0]!r}; expected samplers, such as [InBatchSampler()]")
    kinds = [type(it).__name__ for it in made]
    if twins := [kind for kind in kinds if kinds.count(kind) > 1]:
        raise ConfigError(
            f"samplers holds {kinds.count(twins[0])} of {twins[0]}, which would bring the same items, while their"
            " probabilities are composed as those of independent sources; pass one of each kind"
        )
    return made or [InBatchSampler()]


def _named(name: str) -> Any:
    sampler = lookup("sampler", name)
    try:
        return sampler()
    except TypeError:
        raise ConfigError(
            f'samplers names "{name}", which does not go without arguments; pass a {sampler.__name__}(…)'
        ) from None


def correction_of(given: Any) -> str | StreamingFrequency | None:
    """Return the correction, checked.

    Raises:
        ConfigError: There is none of that name.
    """
    if given is None or isinstance(given, StreamingFrequency) or (isinstance(given, str) and given in CORRECTIONS):
        return given
    hint = suggest(given, CORRECTIONS) if isinstance(given, str) else ""
    raise ConfigError(
        f'correction is {given!r}{hint}; expected "log_q", "exclude_positive", a StreamingFrequency or None'
    )
