"""The retrieval task: pick the positive among the candidates."""

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.interests import nearest_interest
from schemaflow.logits import Columns, blockwise_loss, columns_of
from schemaflow.losses import Loss, as_loss, check_loss_weight, compared, gradients_of, shares_of
from schemaflow.registry import register
from schemaflow.sampling import Candidates
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.tasks.checks import require, require_shape
from schemaflow.tasks.factorized_top_k import FactorizedTopK
from schemaflow.tasks.terms import Step, Task

__all__ = ["RetrievalTask"]

DROPPED = tf.float32.min / 2
"""What batch metrics see of a dropped candidate: the lowest logit whose distance to any other is finite."""


@register("task", "retrieval")
@keras.saving.register_keras_serializable("schemaflow")
class RetrievalTask(Task):
    """A loss on query and candidate vectors: `mean_i loss(q_i . c_j / temperature - log p_j)`, the positive of row i in column i.

    In this order: scores; temperature; log-Q, where candidates come with a sampling probability; accidental hits (row
    i's own positive in another column), dropped where ids are given; the score mask; hard negatives; the loss; metrics.

    Args:
        loss: The name of a registered loss, `categorical_crossentropy` if None; or a callable of the same form, such as
            `losses.CategoricalCrossentropy(label_smoothing=0.1)`; Keras's `CategoricalCrossentropy(from_logits=True)` is
            taken for ours.
        metrics: A `FactorizedTopK`, or a list of them: the positive's rank among the whole catalogue.
        batch_metrics: A Keras metric, or a list of them, which gets the one-hot labels and the logits that the loss gets,
            dropped candidates at the lowest finite logit: the positive's place among the batch.
        temperature: The scores are divided by it; 1 if None; "learned" for a weight, `exp(log_temperature)`.
        num_hard_negatives: Only so many negatives of each row, those with the highest logits, enter the loss; all do if
            None, not positive or beyond the batch.
        name: Of the layer.
        matryoshka_dims: Train the first so many numbers of the vectors too, such as (16, 32) of 64: the loss is the mean of
            those of each prefix and of the whole, so that a prefix alone finds nearly as well
            (`TwoTowerModel.truncated`). In a model with `l2_normalize` each prefix is of length one, as it will be then.
        loss_weight: What a model multiplies this loss with, beside other tasks; the task's own call does not.
        metrics_in_training: Whether a model computes `metrics` in training too; a task alone goes by `compute_metrics`.
        initial_temperature: Where a learned temperature begins.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: There is no such loss, a temperature is not above 0, a metric is of another kind, two have one name, or
            the matryoshka_dims do not rise from 1 or more to less than the vectors' width.

    Strings cannot be compiled by XLA: a model that passes them as ids is to be compiled with `jit_compile=False`, unless
    one of its own layers says so already.

    Source:
        The arguments are those of TensorFlow Recommenders' Retrieval task; the loss here is a mean, not a sum.
        Kusupati et al., "Matryoshka representation learning", NeurIPS 2022 (matryoshka_dims).

    Example:
        >>> task = RetrievalTask(num_hard_negatives=1)
        >>> round(float(task(tf.zeros((3, 4)), tf.zeros((3, 4)))), 4)
        0.6931
    """

    def __init__(
        self,
        loss: Any = None,
        metrics: FactorizedTopK | Sequence[FactorizedTopK] | None = None,
        batch_metrics: keras.metrics.Metric | Sequence[keras.metrics.Metric] | None = None,
        temperature: float | str | None = None,
        num_hard_negatives: int | None = None,
        name: str | None = None,
        *,
        matryoshka_dims: Sequence[int] = (),
        loss_weight: float = 1.0,
        metrics_in_training: bool = False,
        initial_temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, name=name, **kwargs)  # small probabilities do not fit half precision
        learned = isinstance(temperature, str) and temperature == "learned"
        if not (learned or temperature is None or _is_positive(temperature)):
            raise ConfigError(f'the temperature is {temperature!r}; expected a number above 0, or "learned"')
        if not _is_positive(initial_temperature):
            raise ConfigError(f"initial_temperature is {initial_temperature!r}; expected a number above 0")
        if not learned and initial_temperature != 1.0:
            raise ConfigError('initial_temperature is where a learned one begins; pass temperature="learned" with it')
        if not (num_hard_negatives is None or type(num_hard_negatives) is int):
            raise ConfigError(f"num_hard_negatives is {num_hard_negatives!r}; expected an integer or None")
        self.loss = loss if isinstance(loss, str) else None if loss is None else as_loss(loss)
        self._loss: Loss = as_loss(loss)
        self._factorized_metrics = _metrics("metrics", metrics, FactorizedTopK)
        self.batch_metrics = _metrics("batch_metrics", batch_metrics, keras.metrics.Metric)
        _refuse_twins([*self._factorized_metrics, *self.batch_metrics])
        self.temperature = temperature if learned or temperature is None else float(temperature)
        self.num_hard_negatives = num_hard_negatives
        self.matryoshka_dims = tuple(matryoshka_dims)
        self._check_matryoshka_dims(None)
        self._unit_length = False
        self.loss_weight = check_loss_weight(loss_weight)
        self.metrics_in_training = metrics_in_training
        self.initial_temperature = initial_temperature
        # the logarithm, so that no step of the optimizer makes a temperature of 0 or below
        self.log_temperature = (
            self.add_weight(
                shape=(),
                initializer=keras.initializers.Constant(math.log(initial_temperature)),
                dtype="float32",
                autocast=False,
                name="log_temperature",
            )
            if learned
            else None
        )
        self.built = True

    def expect(self, dim: int, unit_length: bool) -> None:
        """Take what vectors a model gives.

        Args:
            dim: Their width.
            unit_length: Whether they are of length one; then so are the prefixes that are compared.

        Raises:
            ConfigError: A prefix is not shorter than the vectors.
        """
        self._check_matryoshka_dims(dim)
        self._unit_length = unit_length

    def _check_matryoshka_dims(self, width: int | None) -> None:
        dims = self.matryoshka_dims
        integers = all(type(it) is int and it >= 1 for it in dims)
        if not integers or list(dims) != sorted(set(dims)) or (width is not None and dims and dims[-1] >= width):
            below = "" if width is None else f", each below {width}, the vectors' width"
            raise ConfigError(f"matryoshka_dims is {dims!r}; expected integers of at least 1 that rise{below}")

    @property
    def factorized_metrics(self) -> list[FactorizedTopK]:
        """The metrics over the whole catalogue, a list; one metric, a list or None can be assigned."""
        return self._factorized_metrics

    @factorized_metrics.setter
    def factorized_metrics(self, metrics: FactorizedTopK | Sequence[FactorizedTopK] | None) -> None:
        given = _metrics("factorized_metrics", metrics, FactorizedTopK)
        _refuse_twins([*given, *self.batch_metrics])
        self._factorized_metrics.clear()  # in place: Keras tracks, and so reports, what this very list holds
        self._factorized_metrics.extend(given)

    @property
    def encoded_metrics(self) -> list[FactorizedTopK]:
        """Those of them that a model encodes its items for."""
        return [it for it in self.factorized_metrics if it.needs_encoding]

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        candidate_sampling_probability: tf.Tensor | None = None,
        candidate_ids: tf.Tensor | None = None,
        compute_metrics: bool = True,
        score_mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the loss, a scalar float32, and update the metrics.

        Args:
            query_embeddings: [q, dim]; or [q, K, dim], of which the loss is that of the vector nearest to the positive.
            candidate_embeddings: [c, dim], c >= q; row i is query i's positive, the rows beyond q are negatives of all.
            sample_weight: [q]; the loss is `sum w l / sum w`.
            candidate_sampling_probability: [c] or [q, c], above 0.
            candidate_ids: [c], integers or strings.
            compute_metrics: Whether to update `metrics`; batch metrics always are.
            score_mask: True where a candidate takes part, [c], [1, c], [q, 1] or [q, c] bool; a positive always does.

        Raises:
            ConfigError: A shape, or the dtype of the ids or the mask does not fit, there are fewer candidates than queries, or a probability is not above 0.
                Inside a `tf.function` what only running tells is TensorFlow's InvalidArgumentError.
        """
        queries, candidates = tf.shape(query_embeddings)[0], tf.shape(candidate_embeddings)[0]
        q, c = query_embeddings.shape[0], candidate_embeddings.shape[0]
        require_shape("query_embeddings", query_embeddings, [q, None], [q, None, None])
        require_shape("candidate_embeddings", candidate_embeddings, [c, query_embeddings.shape[-1]])
        candidate_embeddings = require(
            candidate_embeddings,
            candidates >= queries,
            "there are fewer candidates than queries; expected query i's positive in row i, and c >= q",
        )
        require_shape("candidate_sampling_probability", candidate_sampling_probability, [c], [q, c])
        require_shape("candidate_ids", candidate_ids, [c])
        log_q = own_log_q = None
        if candidate_sampling_probability is not None:
            probability = tf.cast(candidate_sampling_probability, tf.float32)
            probability = require(
                probability,
                tf.reduce_all(probability > 0),
                "a candidate_sampling_probability is not above 0; expected each candidate's probability of being sampled",
            )
            log_q = tf.math.log(probability)
            own_log_q = log_q[:queries] if log_q.shape.rank == 1 else tf.linalg.diag_part(log_q[:, :queries])
        ids = None if candidate_ids is None else tf.convert_to_tensor(candidate_ids)
        if ids is not None and not (ids.dtype.is_integer or ids.dtype == tf.string):
            raise ConfigError(
                f"candidate_ids are {ids.dtype.name}, which tells no large ids apart; expected integers or strings"
            )
        mask = None
        if score_mask is not None:
            mask = tf.convert_to_tensor(score_mask)
            if mask.dtype != tf.bool:
                raise ConfigError(f"score_mask is {mask.dtype.name}; expected True where a candidate takes part")
            require_shape("score_mask", mask, [c], [1, c], [q, 1], [q, c])
            mask = mask if mask.shape.rank == 2 else mask[tf.newaxis, :]
            if mask.shape[0] is None:  # of one row, or of all: running tells
                mask = tf.broadcast_to(mask, [queries, candidates])
        positives = candidate_embeddings[:queries]
        row_ids = None if ids is None else ids[:queries]
        columns = Columns(tf.cast(candidate_embeddings, tf.float32), log_q, tf.range(queries), ids, row_ids, mask)
        return self._loss_of(query_embeddings, positives, own_log_q, columns, sample_weight, row_ids, compute_metrics)

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Return no feature: the towers' are enough."""
        return ()

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss against what samplers bring, each row by its worth, a scalar float32."""
        return self.compare(
            step.query if step.interests is None else step.interests,  # metrics rank by the nearest of all
            step.candidate,
            step.sampled(),
            known=step.known(),
            sample_weight=step.worth,
            compute_metrics=not step.training or self.metrics_in_training,
        )

    def compare(
        self,
        query_embeddings: tf.Tensor,
        positive_embeddings: tf.Tensor,
        candidates: Candidates,
        *,
        known: tf.RaggedTensor | None = None,
        sample_weight: tf.Tensor | None = None,
        compute_metrics: bool = True,
    ) -> tf.Tensor:
        """Return the loss against sampled candidates, as `call` does.

        Args:
            query_embeddings: As in `call`.
            positive_embeddings: Of each row's own positive, [q, dim].
            candidates: What samplers brought.
            known: Items that are no negatives of a row, [q, None] int64.
            sample_weight: [q].
            compute_metrics: Whether to update `metrics`.
        """
        log_q, own_log_q = (
            None if it is None else tf.math.log(it) for it in (candidates.probability, candidates.own_probability)
        )
        hits = {"ids": candidates.ids, "row_ids": candidates.row_ids} if candidates.own is None else {}
        columns = Columns(
            tf.cast(candidates.embeddings, tf.float32),
            log_q,
            candidates.own,
            **hits,
            mask=None if candidates.negative is None else candidates.negative[tf.newaxis, :],
            dropped=None if known is None else columns_of(known, candidates.ids),
        )
        return self._loss_of(
            query_embeddings,
            positive_embeddings,
            own_log_q,
            columns,
            sample_weight,
            candidates.row_ids,
            compute_metrics,
        )

    def _loss_of(
        self,
        query_embeddings: tf.Tensor,
        positive_embeddings: tf.Tensor,
        own_log_q: tf.Tensor | None,
        columns: Columns,
        sample_weight: tf.Tensor | None,
        ids: tf.Tensor | None,
        compute_metrics: bool,
    ) -> tf.Tensor:
        require_shape("sample_weight", sample_weight, [query_embeddings.shape[0]])
        # products of half precision overflow where their factors do not
        whole, positives = (tf.cast(it, tf.float32) for it in (query_embeddings, positive_embeddings))
        self._check_matryoshka_dims(positives.shape[1])
        weights = shares_of(sample_weight, tf.shape(whole)[0])
        gradients, losses = gradients_of(self._loss, self.num_hard_negatives), []
        for dim in (*self.matryoshka_dims, None):
            positive = self._first(positives, dim)
            queries = nearest_interest(self._first(whole, dim), positive) / self.divisor()  # [q, dim]
            own = tf.reduce_sum(queries * positive, axis=1)  # [q]
            if own_log_q is not None:
                own -= own_log_q
            seen = replace(columns, embeddings=self._first(columns.embeddings, dim))
            losses.append(blockwise_loss(gradients, queries, own, seen, weights))
        loss = tf.add_n(losses) / len(losses)
        if compute_metrics:
            for metric in self.factorized_metrics:
                metric.update_state(query_embeddings, positive_embeddings, ids, sample_weight)
        if self.batch_metrics:
            self._update_batch_metrics(queries, own, columns, sample_weight)
        return loss

    def _first(self, vectors: tf.Tensor, dim: int | None) -> tf.Tensor:
        """Return the first numbers of vectors, [..., dim], of length one where the vectors are; all of them if None."""
        if dim is None:
            return vectors
        return tf.math.l2_normalize(vectors[..., :dim], axis=-1) if self._unit_length else vectors[..., :dim]

    def _update_batch_metrics(
        self, queries: tf.Tensor, own: tf.Tensor, columns: Columns, sample_weight: tf.Tensor | None
    ) -> None:
        """Show the metrics the logits of all rows at once, [q, c], which the loss does without."""
        rows = tf.range(tf.shape(queries)[0])
        negatives = columns.negatives(tf.matmul(*columns.factors(queries), transpose_b=True), rows)  # [q, c]
        logits, positives = compared(own, negatives, columns.own, self.num_hard_negatives)
        seen = tf.stop_gradient(tf.where(logits == float("-inf"), tf.constant(DROPPED, tf.float32), logits))
        labels = tf.one_hot(positives, tf.shape(logits)[1])
        for metric in self.batch_metrics:
            metric.update_state(labels, seen, sample_weight)

    def divisor(self) -> float | tf.Tensor:
        """Return the temperature as it is, a scalar: scores are divided by it."""
        if self.log_temperature is not None:
            return tf.exp(tf.convert_to_tensor(self.log_temperature))
        return 1.0 if self.temperature is None else self.temperature

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "loss": self.loss if self.loss is None or isinstance(self.loss, str) else serialize(self.loss),
            "metrics": [serialize(it) for it in self.factorized_metrics],
            "batch_metrics": [serialize(it) for it in self.batch_metrics],
            "temperature": self.temperature,
            "num_hard_negatives": self.num_hard_negatives,
            "matryoshka_dims": list(self.matryoshka_dims),
            "loss_weight": self.loss_weight,
            "metrics_in_training": self.metrics_in_training,
            "initial_temperature": self.initial_temperature,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RetrievalTask":
        """Make the task of `get_config`."""
        made = keras.saving.deserialize_keras_object
        parts = {key: [made(it) for it in config[key]] for key in ("metrics", "batch_metrics")}
        loss = config["loss"] if isinstance(config["loss"], str) else made(config["loss"])
        return cls(**{**config, **parts, "loss": loss})


def _is_positive(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and 0 < float(number) < math.inf


def _metrics(argument: str, given: Any, kind: type[Any]) -> list[Any]:
    metrics = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
    if wrong := [it for it in metrics if not isinstance(it, kind)]:
        raise ConfigError(
            f"{argument} holds {wrong[0]!r}; expected a {kind.__name__}, or a list of them"
            + (" (metrics over the batch go into batch_metrics)" if isinstance(wrong[0], keras.metrics.Metric) else "")
        )
    return metrics


def _refuse_twins(metrics: Sequence[keras.metrics.Metric]) -> None:
    """Refuse metrics of one name, of which Keras would report the last alone."""
    names = ["loss", *(metric.name for metric in metrics)]
    if twins := [name for name in names if names.count(name) > 1]:
        raise ConfigError(
            f'two metrics of the RetrievalTask are called "{twins[0]}", or one as the loss is; give each a name of its own: name="…"'
        )
