"""Tasks that predict a target of the pair from both towers' vectors: its rating, whether it is clicked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, SchemaError, suggest
from schemaflow.layers.mlp import MLPBlock
from schemaflow.losses import check_loss_weight, weighted_mean
from schemaflow.registry import register
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.tags import Tags
from schemaflow.tasks.terms import Step, Task

__all__ = ["BinaryClassificationTask", "RegressionTask", "TargetTask"]

RESERVED = ("query", "candidate", "score", "loss", "retrieval")
"""What `predict` and `fit` call their own."""


@dataclass(frozen=True)
class _Kind:
    """What tells the tasks apart.

    Args:
        name: Of a task that is not told otherwise.
        tag: Of the features that it may predict.
        losses: Those that have a name; each takes labels and logits.
        metrics: The usual ones, by short name; each takes labels and predictions.
        prior: The best constant for the logits, from the number of labels and their mean.
        prediction: What is predicted, from the logits.
        label: Whether a number can be a label.
        wrong: What it is if it cannot.
    """

    name: str
    tag: Tags
    losses: Mapping[str, Callable[[], keras.losses.Loss]]
    metrics: Mapping[str, type[keras.metrics.Metric]]
    prior: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    prediction: Callable[[tf.Tensor], tf.Tensor]
    label: Callable[[tf.Tensor], tf.Tensor]
    wrong: str


_REGRESSION = _Kind(
    "regression",
    Tags.REGRESSION,
    {"mse": keras.losses.MeanSquaredError, "mae": keras.losses.MeanAbsoluteError, "huber": keras.losses.Huber},
    {"rmse": keras.metrics.RootMeanSquaredError},
    prior=lambda _, mean: mean,
    prediction=lambda logits: logits,
    label=tf.math.is_finite,
    wrong="is missing or infinite",
)
_BINARY = _Kind(
    "binary_classification",
    Tags.BINARY,
    {"binary_crossentropy": lambda: keras.losses.BinaryCrossentropy(from_logits=True)},
    {"auc": keras.metrics.AUC, "accuracy": keras.metrics.BinaryAccuracy},
    # as if half a label of either kind had been seen before (Jeffreys' prior), so that it is finite
    prior=lambda seen, mean: tf.math.log((seen * mean + 0.5) / (seen * (1.0 - mean) + 0.5)),
    prediction=tf.sigmoid,
    label=lambda labels: (labels == 0) | (labels == 1),
    wrong="is neither 0 nor 1",
)


class TargetTask(Task):
    """A target predicted from a query's vector and a candidate's: `z = w . block([q, c, q * c]) + b + prior`.

    The product lets the block begin from the score, which dense layers on `[q, c]` would have to learn to compute. The
    last layer is the task's own and float32; w begins near 0, and the prior is what the labels seen in training so far say
    of every pair alike: the head begins as the constant predictor. Otherwise its first steps would move the towers, which
    other tasks share, to make up for the mean.
    """

    def __init__(
        self,
        kind: _Kind,
        target: str | None,
        block: keras.layers.Layer | None,
        loss: str | keras.losses.Loss,
        metrics: Sequence[keras.metrics.Metric] | None,
        loss_weight: float,
        name: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, autocast=False, **kwargs)  # labels and targets keep their precision
        if block is not None and not isinstance(block, keras.layers.Layer):
            raise ConfigError(f"block is {block!r}; expected a Keras layer, such as MLPBlock([64])")
        if metrics is not None and not all(isinstance(it, keras.metrics.Metric) for it in metrics):
            raise ConfigError(f"metrics are {metrics!r}; expected a list of Keras metrics")
        if not (target is None or isinstance(target, str)):
            raise ConfigError(f"target is {target!r}; expected the name of a feature")
        names = ["loss", *(it.name for it in metrics or ())]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"metrics are named {', '.join(names[1:])}; expected a name for each, and none named loss"
            )
        self.kind = kind
        self.target = target
        self.block = block
        self.loss = loss
        self.loss_weight = check_loss_weight(loss_weight)
        self._own_name = name
        self._own_metrics = None if metrics is None else [keras.metrics.serialize(it) for it in metrics]
        self._loss = _loss_of(kind, loss)
        self._mean = keras.metrics.Mean()
        if metrics is None:
            self._scores = {short: made() for short, made in kind.metrics.items()}
        else:  # copies, since a metric belongs to one task
            self._scores = {it.name: it.__class__.from_config(it.get_config()) for it in metrics}
        self._body = MLPBlock([64], final_activation="relu", dtype=self.dtype_policy) if block is None else block
        self._last = keras.layers.Dense(
            1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.01), dtype="float32"
        )
        self._rename()

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Take the target from a schema, and the name where none was given; return the feature, as `target_of` does.

        Raises:
            SchemaError: There is no such feature, there are several, or it cannot be a target.
            ConfigError: The task's name is one that `predict` uses itself.
        """
        self.feature = self.target_of(schema)
        self.target = self.feature.name
        self._rename()
        return (self.feature,)

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss of a batch's labels, a scalar float32, and update the metrics."""
        labels = step.column(self.feature)
        return self.compute(labels, step.query, step.candidate, step.weights, step.training)

    def predictions(
        self, query: tf.Tensor, candidate: tf.Tensor, query_inputs: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Return the prediction by the task's name."""
        return {self.name: self(query, candidate)}

    def target_of(self, schema: Schema) -> Feature:
        """Return the feature that the task predicts: the one named `target`, else the one that is tagged for the task.

        Raises:
            SchemaError: There is no such feature, there are several, or it cannot be a target.
        """
        task = type(self).__name__
        if self.target is None:
            found = [feature for feature in schema if feature.kind == "value" and feature.has(self.kind.tag)]
            if len(found) != 1:
                names = " and ".join(f'"{it.name}"' for it in found) if found else "none"
                hint = "name one of them" if found else f"tag one [target, {self.kind.tag}], or name a target"
                raise SchemaError(
                    f'{task} expects one feature tagged target and {self.kind.tag}, found {names}; {hint}: {task}(target="…")'
                )
            feature = found[0]
        else:
            feature = schema[self.target]
        if feature.kind != "value" or feature.dtype == "string":
            raise SchemaError(
                f'{task}: feature "{feature.name}" is {feature.kind} of dtype {feature.dtype}; expected one number a row that is kept out of the towers:'
                f" tag it [target, {self.kind.tag}]"
            )
        return feature

    def build(self, query_shape: Any, candidate_shape: Any) -> None:
        """Make the weights for vectors [batch, dim]."""
        width = 2 * query_shape[-1] + candidate_shape[-1]
        # a block of the user's may make its weights only when called, so it is called once
        self._last.build(self._body(tf.zeros((2, width), self.compute_dtype)).shape)
        self._seen, self._average = (
            self.add_weight(
                name=name, dtype="float32", trainable=False, initializer="zeros", autocast=False, aggregation="mean"
            )
            for name in ("seen", "average")
        )
        self.built = True

    def logits(self, query: tf.Tensor, candidate: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return what the loss takes, [batch] float32: the value, or the log of the odds.

        Args:
            query: [batch, dim].
            candidate: [batch, dim].
            training: Reaches the block.
        """
        if not self.built:
            self.build(query.shape, candidate.shape)
        pair = tf.concat([query, candidate, query * candidate], axis=-1)  # [batch, 3 dim]
        return tf.squeeze(self._last(self._body(pair, training=training)), axis=-1) + self._prior()

    def call(self, query: tf.Tensor, candidate: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the prediction, [batch] float32: the value, or the probability.

        Args:
            query: [batch, dim].
            candidate: [batch, dim].
            training: Reaches the block.
        """
        return self.kind.prediction(self.logits(query, candidate, training))

    def compute(
        self,
        labels: tf.Tensor,
        query: tf.Tensor,
        candidate: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Return the loss, `sum w l / sum w`, a scalar float32; and update the metrics.

        Args:
            labels: [batch], of any numeric dtype.
            query: [batch, dim].
            candidate: [batch, dim].
            sample_weight: [batch].
            training: Reaches the block.

        Raises:
            ValueError: The shapes do not fit.
            tensorflow.errors.InvalidArgumentError: A label is not finite, or neither 0 nor 1 in a binary task.
        """
        shapes = [(labels, ("batch",)), (query, ("batch", "dim")), (candidate, ("batch", "dim"))]
        tf.debugging.assert_shapes(shapes, message=f'task "{self.name}": expected a label for each pair of vectors')
        labels = tf.cast(labels, tf.float32)
        wrong = tf.boolean_mask(labels, ~self.kind.label(labels))
        message = f'task "{self.name}": a label {self.kind.wrong}; correct the data, or remove the row'
        right = tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong])
        if not self.built:
            self.build(query.shape, candidate.shape)
        with tf.control_dependencies([right] if right is not None else []):  # before anything is learned of them
            labels = tf.identity(labels)
            if training:
                self._see(labels, sample_weight)
        logits = self.logits(query, candidate, training)
        # Keras averages over the last axis, so it gets one of width 1: [batch, 1]
        losses = self._loss.call(labels[:, tf.newaxis], logits[:, tf.newaxis])  # [batch]
        self._mean.update_state(losses, sample_weight)
        predictions = self.kind.prediction(logits)
        for metric in self._scores.values():
            metric.update_state(labels[:, tf.newaxis], predictions[:, tf.newaxis], sample_weight)
        return weighted_mean(losses, sample_weight)

    def _see(self, labels: tf.Tensor, weights: tf.Tensor | None) -> None:
        """Move the average of all labels of the training, which a batch enters before it is predicted."""
        weights = tf.ones_like(labels) if weights is None else tf.cast(weights, tf.float32)
        self._seen.assign_add(tf.reduce_sum(weights))
        self._average.assign_add(
            tf.math.divide_no_nan(tf.reduce_sum(weights * (labels - self._average)), self._seen.value)
        )

    def _prior(self) -> tf.Tensor:
        """Return what the labels seen so far say of any pair, a scalar: their mean, or the log of their odds."""
        return self.kind.prior(self._seen.value, self._average.value)

    def _rename(self) -> None:
        self.name = next(it for it in (self._own_name, self.target, self.kind.name) if it is not None)
        if self.name in RESERVED:
            raise ConfigError(
                f'a task cannot be named "{self.name}": predict and fit use that themselves; pass name="…" to {type(self).__name__}'
            )
        for short, metric in {"loss": self._mean, **self._scores}.items():
            metric.name = f"{self.name}/{short}"

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the target that a schema gave."""
        block, loss = self.block, self.loss
        return super().get_config() | {
            "name": self._own_name,
            "target": self.target,
            "block": None if block is None else keras.saving.serialize_keras_object(block),
            "loss": loss if isinstance(loss, str) else keras.losses.serialize(loss),
            "metrics": self._own_metrics,
            "loss_weight": self.loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "TargetTask":
        """Make the task of `get_config`."""
        block, loss, metrics = config["block"], config["loss"], config["metrics"]
        rebuilt = {
            "block": None if block is None else keras.saving.deserialize_keras_object(block),
            "loss": loss if isinstance(loss, str) else keras.losses.deserialize(loss),
            "metrics": None if metrics is None else [keras.metrics.deserialize(it) for it in metrics],
        }
        return cls(**config | rebuilt)


@register("task", "regression")
@keras.saving.register_keras_serializable("schemaflow")
class RegressionTask(TargetTask):
    """A number predicted for a pair of query and candidate: `z = w . block([q, c, q * c]) + b + prior`.

    The loss is by default `mean (z - y)^2`; the prior is the mean of the labels seen in training, so that z begins there.

    Used alone, it takes vectors and labels; in a model's `prediction_tasks` it reads the target from the data.

    Args:
        target: The feature to predict; the one tagged target and regression if None.
        block: Any Keras layer [batch, 3 dim] -> [batch, width]; `MLPBlock([64], final_activation="relu")` if None.
        loss: "mse", "mae", "huber" or a Keras loss, whose own reduction is not used: the loss is a weighted mean.
        metrics: Of Keras, given labels and predictions; the root of the mean squared error, `<name>/rmse`, if None.
            `<name>/loss` is always there.
        loss_weight: The loss counts this many times in the model's.
        name: The key of the prediction and the head of the metrics' names; the target's if None.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these, or the name is one that `predict` uses itself.

    Source:
        Jointly trained with retrieval: the multi-task tutorial of TensorFlow Recommenders, which has no product.

    Example:
        >>> task = RegressionTask("rating")
        >>> task(tf.zeros((3, 4)), tf.zeros((3, 4))).numpy().tolist()
        [0.0, 0.0, 0.0]
        >>> float(task.compute(tf.constant([1.0, 2.0, 3.0]), tf.zeros((3, 4)), tf.zeros((3, 4)), tf.constant([0.0, 1.0, 1.0])))
        6.5
    """

    def __init__(
        self,
        target: str | None = None,
        block: keras.layers.Layer | None = None,
        loss: str | keras.losses.Loss = "mse",
        metrics: Sequence[keras.metrics.Metric] | None = None,
        loss_weight: float = 1.0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(_REGRESSION, target, block, loss, metrics, loss_weight, name, **kwargs)


@register("task", "binary-classification")
@keras.saving.register_keras_serializable("schemaflow")
class BinaryClassificationTask(TargetTask):
    """A probability predicted for a pair of query and candidate: `p = sigmoid(w . block([q, c, q * c]) + b + prior)`.

    The loss, `-y log p - (1 - y) log(1 - p)`, is taken from the logits, so that its gradient does not vanish where p is 0
    or 1; the prior is the log of the odds of the labels seen in training, so that p begins at their share. Used alone, it
    takes vectors and labels; in a model's `prediction_tasks` it reads the target from the data.

    Args:
        target: The feature to predict, which holds 0 and 1; the one tagged target and binary if None.
        block: Any Keras layer [batch, 3 dim] -> [batch, width]; `MLPBlock([64], final_activation="relu")` if None.
        loss: "binary_crossentropy", or a Keras loss made with `from_logits=True`, whose own reduction is not used.
        metrics: Of Keras, given labels and probabilities; `<name>/auc` and `<name>/accuracy` if None. `<name>/loss` is
            always there.
        loss_weight: The loss counts this many times in the model's.
        name: The key of the prediction and the head of the metrics' names; the target's if None.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these, or the name is one that `predict` uses itself.

    Example:
        >>> task = BinaryClassificationTask("click")
        >>> task(tf.zeros((3, 4)), tf.zeros((3, 4))).numpy().tolist()
        [0.5, 0.5, 0.5]
        >>> round(float(task.compute(tf.constant([0, 1, 1]), tf.zeros((3, 4)), tf.zeros((3, 4)))), 4)
        0.6931
    """

    def __init__(
        self,
        target: str | None = None,
        block: keras.layers.Layer | None = None,
        loss: str | keras.losses.Loss = "binary_crossentropy",
        metrics: Sequence[keras.metrics.Metric] | None = None,
        loss_weight: float = 1.0,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(loss, keras.losses.Loss) and not loss.get_config().get("from_logits"):
            raise ConfigError(f"{type(loss).__name__} would take probabilities; make it with from_logits=True")
        super().__init__(_BINARY, target, block, loss, metrics, loss_weight, name, **kwargs)


def _loss_of(kind: _Kind, loss: Any) -> keras.losses.Loss:
    if isinstance(loss, keras.losses.Loss):
        return loss
    if not isinstance(loss, str) or loss not in kind.losses:
        hint = suggest(loss, kind.losses) if isinstance(loss, str) else ""
        known = ", ".join(f'"{name}"' for name in kind.losses)
        raise ConfigError(f"the loss of a {kind.name} is {loss!r}{hint}; expected {known} or a Keras loss")
    return kind.losses[loss]()
