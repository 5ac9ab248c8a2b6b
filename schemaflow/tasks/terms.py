"""What a model's training is made of: terms, and what they read of a batch.

A term declares the features that it needs, and gives a loss (`Task`) or a weight for each example with the loss that the
weight is learned by (`Debiasing`). Whatever trains a model is one of these, in one list.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import tensorflow as tf

from schemaflow.features.encoders import FeatureEncoder
from schemaflow.features.kinds import Tensors
from schemaflow.sampling import Candidates
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides

__all__ = ["Debiasing", "Items", "SecondStage", "Step", "Task"]


class Items(Protocol):
    """All items, as a term reaches for those beyond the batch."""

    size: int

    def features(self, positions: tf.Tensor) -> Tensors:
        """Return the encoded features of the items at positions [n]."""

    def ids(self, positions: tf.Tensor) -> tf.Tensor:
        """Return their ids, [n] int64: rows of the item id's table, as `Step.ids` has them."""

    def vectors(self, positions: tf.Tensor) -> tf.Tensor:
        """Return their vectors, [n, dim], by the item tower as it is: gradients reach it."""

    def nearest(self, queries: tf.Tensor, k: int) -> tf.Tensor:
        """Return the positions of the items nearest to queries [b, dim] or [b, K, dim], [b, min(k, size)] int64, best first.

        By the items' vectors as they were when the epoch began.
        """


class SecondStage(Protocol):
    """A head that ranks what was retrieved, as other terms see it."""

    targets: list[str] | None

    def logits(
        self, query_inputs: tf.Tensor, query: tf.Tensor, candidates: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the log odds of each target, [b, m, T] float32, of queries' inputs [b, width] and vectors with candidates [b, m, dim]."""


@dataclass(frozen=True)
class Step:
    """What terms read of a batch.

    Args:
        inputs: The batch's features, raw or encoded.
        query: The query tower's vectors, [b, dim]; where it gives several for a row, the one that the row's own item is
            nearest to.
        query_inputs: What the query tower's block was given, [b, width]; None unless a term `reads_inputs`.
        candidate: The item tower's vectors of the rows' own items, [b, dim].
        ids: Of the same items, rows of the item id's table, [b] int64.
        weights: Of the rows, [b]; None where all count alike.
        worth: How much each row counts as a positive, [b]: weights, net value and debiasing in one, 0 for explicit
            negatives; None where all count alike.
        training: Whether this is training.
        column: Gives the values of a feature that is kept out of the towers, [b].
        sampled: Gives the negatives that samplers bring.
        known: Gives the items that are no negatives of a row, [b, None] int64, or None.
        items: All items; None unless a term `needs_items`.
        temperature: What the retrieval loss divides scores by, a scalar; 1 where there is none. No gradient passes: where it
            is learned, the retrieval task alone moves it.
        encoded_queries: Gives the query tower's features, encoded, by `encoded_name`.
        encoded_items: Gives the item tower's features, of the rows' own items.
        ranker: The second stage, where the model has one.
        interests: All vectors of a query tower that gives several, [b, K, dim]; else None.
    """

    inputs: Tensors
    query: tf.Tensor
    query_inputs: tf.Tensor | None
    candidate: tf.Tensor
    ids: tf.Tensor
    weights: tf.Tensor | None
    worth: tf.Tensor | None
    training: bool
    column: Callable[[Feature], tf.Tensor]
    sampled: Callable[[], Candidates]
    known: Callable[[], tf.RaggedTensor | None]
    items: Items | None
    temperature: float | tf.Tensor
    encoded_queries: Callable[[], Tensors]
    encoded_items: Callable[[], Tensors]
    ranker: SecondStage | None = None
    interests: tf.Tensor | None = None

    @property
    def queries(self) -> tf.Tensor:
        """What items are compared with: all vectors of each query, [b, dim] or [b, K, dim]."""
        return self.query if self.interests is None else self.interests


class _Term(keras.layers.Layer):
    """What tasks and debiasing have in common.

    Attributes:
        needs_items: Whether it reads `Step.items`.
        reads_inputs: Whether it reads `Step.query_inputs`.
        target: The feature that it alone predicts.
        encoder: Of the features that it alone reads through tables, if any.
        taken: Whether a model holds it. No second one takes it once it has weights, which the two would share.
    """

    needs_items = False
    reads_inputs = False
    target: str | None = None
    encoder: FeatureEncoder | None = None
    taken = False

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Take from a schema what the term is to read, and return the features beside the towers' that it does.

        Raises:
            SchemaError: One is missing or cannot be used; the message names the feature to add.
        """
        raise NotImplementedError

    def continue_from(self, old: Any) -> None:
        """Take what no config holds, such as a function of the user's, from the same term of the model that this one's grew from."""
        return


class Task(_Term):
    """A loss: what a model is trained for.

    Attributes:
        loss_weight: The loss counts this many times in the model's.
        towers: Frozen towers that it holds, for queries and for items, if any.
        calls_python: Whether it asks a function of NumPy arrays, which XLA cannot compile.
    """

    loss_weight: float
    towers: Sequence[Any] = ()
    calls_python = False

    def begin(self, query_tower: Any, item_tower: Any, tasks: Sequence[Any]) -> None:
        """See the model that holds the task when it is made: let it begin with weights that the task brings, if it brings any.

        Args:
            query_tower: The model's.
            item_tower: The model's.
            tasks: All of the model's.

        Raises:
            ConfigError: The task needs another that is not there.
        """
        return

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss of a batch, a scalar float32, and update the task's metrics."""
        raise NotImplementedError

    def added(self) -> list[tf.Tensor]:
        """Return what its layers add to the loss: all regularization but that of frozen towers which it holds."""
        frozen = [it for tower in self.towers for it in tower.losses]
        return [tf.cast(it, tf.float32) for it in self.losses if all(it is not other for other in frozen)]

    def predictions(
        self, query: tf.Tensor, candidate: tf.Tensor, query_inputs: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Return what `predict` tells of pairs, by name, [b] each; nothing where there is nothing to tell.

        Args:
            query: [b, dim].
            candidate: [b, dim].
            query_inputs: As in `Step`.
        """
        return {}


class Debiasing(_Term):
    """A weight for each example: what of its worth is due to the item, and not to where or to whom it was shown."""

    def begin(self, dim: int) -> None:
        """Make the weights for vectors [batch, dim], once bound.

        Not Keras's `build`, which would be called again where a saved term is read, before it is bound.
        """

    def debias(self, step: Step) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the rows' weights, [b] float32 above 0 and without a gradient, and the loss that they are learned by, a scalar.

        Args:
            step: Its `worth` is before any debiasing.
        """
        raise NotImplementedError

    def settle(self, logs: Mapping[str, Any]) -> None:
        """Say what an epoch's end gives cause to say.

        Args:
            logs: What Keras found in the epoch, by the metrics' names.
        """
