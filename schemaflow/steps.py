"""What the terms of a model read of a batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from schemaflow.features.kinds import Tensors
from schemaflow.features.known import KnownPositives, user_id
from schemaflow.inputs import Inputs
from schemaflow.interests import nearest_interest
from schemaflow.items import AllItems
from schemaflow.negatives import Negatives
from schemaflow.sampling import Candidates
from schemaflow.schema.feature import Feature
from schemaflow.tasks import Ranker, RetrievalTask, Step
from schemaflow.towers import Tower

__all__ = ["QUERY_INPUTS", "Steps"]

QUERY_INPUTS = "query_inputs"
"""The key of what the query tower's block is given, among what a model that has use for it returns when it is called."""


@dataclass(frozen=True)
class Steps:
    """What a model's terms read of its batches, from the parts of the model.

    Args:
        inputs: Knows the columns beside the towers' features.
        query_tower: Of the model.
        item_tower: Likewise.
        negatives: Brings the candidates of the retrieval loss.
        embed: Gives the vectors of items at positions of the catalogue, [n] -> [n, dim], in training or not.
        items: All items, where a term needs them.
        known_in: The list feature whose items are no negatives of their row, if any.
        known_positives: What each user is known to have chosen, if that is known.
        retrieval: The retrieval task, if any.
        ranker: The second stage, if any.
    """

    inputs: Inputs
    query_tower: Tower
    item_tower: Tower
    negatives: Negatives
    embed: Callable[[tf.Tensor, bool], tf.Tensor]
    items: AllItems | None
    known_in: Feature | None
    known_positives: KnownPositives | None
    retrieval: RetrievalTask | None
    ranker: Ranker | None

    def of(
        self, x: Tensors, outputs: Mapping[str, tf.Tensor], sample_weight: Any, training: bool, compact: bool
    ) -> Step:
        """Return what terms read of a batch.

        Args:
            x: The batch's features, raw or encoded.
            outputs: What the model made of it.
            sample_weight: What Keras was given for weights, [batch], or None.
            training: Whether this is training.
            compact: Leave out candidates that are no negatives, so that their number is known when the graph runs.
        """
        query, candidate = outputs["query"], outputs["candidate"]
        item_id = self.inputs.sides.item_id
        ids = tf.cast(self.item_tower.encoder.rows(item_id.name, x), tf.int64)  # [batch]
        weights = self.inputs.weights(x, sample_weight)
        # the retrieval task, which alone learns it, asks itself
        divisor = 1.0 if self.retrieval is None else tf.stop_gradient(self.retrieval.divisor())

        def sampled() -> Candidates:
            return self.negatives.of(candidate, ids, lambda at: self.embed(at, training), training, compact)

        return Step(
            inputs=x,
            query=nearest_interest(query, candidate),
            interests=query if self.query_tower.interests is not None else None,
            query_inputs=outputs.get(QUERY_INPUTS),
            candidate=candidate,
            ids=ids,
            weights=weights,
            worth=self.inputs.worth(x, weights),
            training=training,
            column=partial(self.inputs.column, x=x),
            sampled=sampled,
            known=partial(self._known, x),
            items=None if self.items is None else self.items.seen(training),
            temperature=divisor,
            encoded_queries=partial(self.query_tower.encoder.encoded, x),
            encoded_items=partial(self.item_tower.encoder.encoded, x),
            ranker=self.ranker,
        )

    def _known(self, x: Tensors) -> tf.RaggedTensor | None:
        """Return the items that are no negatives of a row, [batch, None] int64."""
        rows = self.query_tower.encoder.rows
        if self.known_in is not None:
            lists = tf.cast(rows(self.known_in.name, x), tf.int64)
            reserved = self.inputs.schema.domains[self.known_in.table].reserved  # rows of no one item
            return tf.ragged.boolean_mask(lists, lists >= reserved)
        if self.known_positives is None:
            return None
        return self.known_positives(rows(user_id(self.inputs.sides).name, x))
