"""What a second stage is: it scores what the index retrieved, by the probabilities of the schema's targets and their values."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import is_count
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.losses import check_loss_weight, weighted_mean
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.tags import Tags
from schemaflow.tasks.heads import Head
from schemaflow.tasks.scoring import Scorer, as_scorer
from schemaflow.tasks.shortlist import Shortlist, nearest_scores, seed_in, shortlist
from schemaflow.tasks.targets import RESERVED
from schemaflow.tasks.terms import Step, Task

__all__ = ["Ranker"]

ALONE = ""
"""Stands for the name of the only target there is, which no feature has."""


class Ranker(Task):
    """A second stage: probabilities of several targets for a query with each of some candidates, and their worth.

    `score = sum_t value_t sigmoid(logit_t)`, never of logits, whose scales differ. The loss is a mean over the targets of
    binary cross-entropies: over the batch's rows, plus over items that the row was not shown.

    Args:
        make_head: Makes the head for so many targets.
        targets: Their names; all that are tagged binary and have a value if None.
        teacher: See `LightRanker`; so are the others.
        hard: Likewise.
        random: Likewise.
        num_retrieved: Likewise.
        train_towers: Likewise.
        train_score: Likewise.
        probabilities: Likewise.
        loss_weight: Likewise.
        name: Likewise.
        **kwargs: Of `keras.layers.Layer`.
    """

    reads_inputs = True

    def __init__(
        self,
        make_head: Callable[[int], Head],
        targets: str | Sequence[str] | None,
        teacher: Any,
        hard: int,
        random: int,
        num_retrieved: int,
        train_towers: bool,
        train_score: bool,
        probabilities: bool,
        loss_weight: float,
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, autocast=False, **kwargs)
        if name in RESERVED:
            raise ConfigError(
                f'a task cannot be named "{name}": predict and fit use that themselves; pass another name'
            )
        if not is_count(num_retrieved):
            raise ConfigError(f"num_retrieved is {num_retrieved!r}; expected how many items the index is to fetch")
        for argument, size in (("hard", hard), ("random", random)):
            if size != 0 and not is_count(size):
                raise ConfigError(f"{argument} is {size!r}; expected how many items a row is compared with, 0 or more")
        switches = {"train_towers": train_towers, "train_score": train_score, "probabilities": probabilities}
        for argument, switch in switches.items():
            if not isinstance(switch, bool):
                raise ConfigError(f"{argument} is {switch!r}; expected True or False")
        self.targets = _names(targets)
        self.values: list[float] = [1.0] * len(self.targets or ())
        self.teacher = _teachers(teacher)
        self.hard, self.random = int(hard), int(random)
        self.needs_items = self.hard + self.random > 0
        self.calls_python = any(isinstance(it, Scorer) and not it.tensors for it in self.teacher.values())
        self.supports_jit = not (self.needs_items or self.calls_python)  # the distinct items of a batch are any number
        self.num_retrieved = int(num_retrieved)
        self.train_towers, self.train_score, self.probabilities = train_towers, train_score, probabilities
        self.loss_weight = check_loss_weight(loss_weight)
        self._make_head = make_head
        self._generator = keras.random.SeedGenerator()
        self._mean = keras.metrics.Mean(name=f"{name}/loss")
        self._count_on(self.targets or ())

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Take the targets and their values from a schema, and the teachers' columns; return them all.

        Warns where impressions are all that is trained on.

        Raises:
            SchemaError: There is no target, or one that is not binary; or a teacher's column is not there.
            ConfigError: A teacher is of no target.
        """
        kind = type(self).__name__
        self.features = self._targets_of(schema, sides)
        if self.targets is None:  # Keras takes nothing new from a layer that is built, as a loaded one is
            self.targets = [it.name for it in self.features]
            self._count_on(self.targets)
        unvalued = all(it.value is None for it in self.features)  # then all count alike
        self.values = [1.0 if unvalued else float(it.value or 0.0) for it in self.features]
        if ALONE in self.teacher:
            if len(self.targets) > 1:
                raise ConfigError(
                    f'{kind} has one teacher for the targets {", ".join(self.targets)}; name its target: teacher={{"…": …}}'
                )
            self.teacher = {self.targets[0]: self.teacher[ALONE]}
        if strange := [it for it in self.teacher if it not in self.targets]:
            raise ConfigError(f'{kind} has a teacher of "{strange[0]}"; expected one of {", ".join(self.targets)}')
        self._columns = {
            target: _column_of(kind, schema, it) for target, it in self.teacher.items() if isinstance(it, str)
        }
        for teacher in self.teacher.values():
            if isinstance(teacher, Scorer):
                teacher.bind(schema, sides)
        if not self.needs_items:
            warnings.warn(
                f'{kind} "{self.name}" is trained on impressions alone, but is to rank what the index retrieves, most of'
                " which was never shown, and can rank it worse than the index does; let it see items that were not shown:"
                f" {kind}(random=32), best with a teacher",
                stacklevel=2,
            )
        return [*self.features, *self._columns.values()]

    def _targets_of(self, schema: Schema, sides: Sides) -> list[Feature]:
        kind, named = type(self).__name__, self.targets
        found = [it for it in sides.valued if it.has(Tags.BINARY)] if named is None else [schema[it] for it in named]
        if not found:
            raise SchemaError(
                f"{kind} expects targets that are tagged binary and have a value, and found none; say so of one, such as"
                f' "click: {{dtype: int8, tags: [target, binary], value: 1}}", or name targets: {kind}(["…"])'
            )
        if wrong := [it for it in found if it.kind != "value" or not it.has(Tags.BINARY)]:
            raise SchemaError(
                f'{kind}: feature "{wrong[0].name}" cannot be one of the targets; tag it [target, binary], with labels 0 and 1'
            )
        return found

    def _count_on(self, targets: Sequence[str]) -> None:
        """Make the metrics of targets."""
        self._means = {it: keras.metrics.Mean(name=f"{self.name}/{it}/loss") for it in targets}
        self._areas = {it: keras.metrics.AUC(name=f"{self.name}/{it}/auc") for it in targets}

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss of a batch, a scalar float32, and update the metrics."""
        assert step.query_inputs is not None, "the model gives what a term reads"
        labels = self._labels(step)  # [b, T]
        candidates, listed = tf.cast(step.candidate, tf.float32)[:, tf.newaxis], None  # [b, 1, dim]
        if self.hard + self.random:
            assert step.items is not None, "the model gives what a term needs"
            seed = seed_in(step.training, self._generator)
            listed = shortlist(step.items, step.queries, self.hard, self.random, seed)
            candidates = tf.concat([candidates, listed.vectors(step.items.vectors)], axis=1)  # [b, 1 + m, dim]
        # all at once: of what layers add to the loss, Keras keeps that of the last call
        logits = self.logits(step.query_inputs, step.queries, candidates, step.training)  # [b, 1 + m, T]
        shown = logits[:, 0]
        self._tell(labels, shown, step.weights)
        rows = tf.reduce_mean(_cross_entropy(self._taught(step, labels), shown), axis=1)  # [b]
        loss = weighted_mean(rows, step.weights)
        if listed is not None:
            loss += self._loss_of_others(step, listed, logits[:, 1:])
        self._mean.update_state(loss, sample_weight=tf.shape(shown)[0])
        return loss

    def _loss_of_others(self, step: Step, listed: Shortlist, logits: tf.Tensor) -> tf.Tensor:
        """Return the loss on items that rows were not shown, [b, m] with logits [b, m, T], a scalar."""
        assert step.items is not None, "the model gives what a term needs"
        shape = tf.shape(listed.positions)
        ids = tf.reshape(step.items.ids(tf.reshape(listed.positions, [-1])), shape)
        chosen = ids == step.ids[:, tf.newaxis]  # no zero is said of what the row itself is about
        if (known := step.known()) is not None:
            chosen |= _among(known, ids)
        losses = []
        for place, target in enumerate(self._named):
            counts = listed.first
            teacher = self.teacher.get(target)
            if isinstance(teacher, Scorer):
                labels = self._probabilities(target, teacher.scores(step, listed.positions))
                counts &= ~tf.math.is_nan(labels)
                labels = tf.where(counts, labels, 0.0)
            else:
                counts &= ~chosen
                labels = tf.zeros(shape)
            weights = tf.cast(counts, tf.float32)  # [b, m]
            weights = weights if step.weights is None else weights * tf.cast(step.weights, tf.float32)[:, tf.newaxis]
            each = _cross_entropy(labels, logits[..., place])
            losses.append(weighted_mean(tf.reshape(each, [-1]), tf.reshape(weights, [-1])))
        return tf.add_n(losses) / len(losses)

    def _labels(self, step: Step) -> tf.Tensor:
        """Return the rows' labels, [b, T] float32."""
        labels = tf.stack([tf.cast(step.column(it), tf.float32) for it in self.features], axis=1)
        wrong = tf.boolean_mask(labels, (labels != 0) & (labels != 1))
        message = f'task "{self.name}": a label is neither 0 nor 1; correct the data, or remove the row'
        right = tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong])
        with tf.control_dependencies([right] if right is not None else []):
            return tf.identity(labels)

    def _taught(self, step: Step, labels: tf.Tensor) -> tf.Tensor:
        """Return what is learned of the rows, [b, T]: the teachers' probabilities in place of labels, where they have one."""
        columns = tf.unstack(labels, axis=1)
        for place, target in enumerate(self._named):
            teacher = self.teacher.get(target)
            if teacher is None:
                continue
            told = (
                teacher.own_scores(step)
                if isinstance(teacher, Scorer)
                else tf.cast(step.column(self._columns[target]), tf.float32)
            )
            told = self._probabilities(target, told)
            columns[place] = tf.where(tf.math.is_nan(told), columns[place], told)
        return tf.stack(columns, axis=1)

    def _probabilities(self, target: str, told: tf.Tensor) -> tf.Tensor:
        """Return what a teacher says as probabilities, NaN where it says nothing."""
        if not self.probabilities:
            return tf.sigmoid(told)
        wrong = tf.boolean_mask(told, ~(tf.math.is_nan(told) | ((told >= 0) & (told <= 1))))
        message = (
            f'task "{self.name}": the teacher of "{target}" gives what is no probability; expected numbers from 0 to 1'
        )
        right = tf.debugging.Assert(tf.equal(tf.size(wrong), 0), [message, wrong])
        with tf.control_dependencies([right] if right is not None else []):
            return tf.identity(told)

    def _tell(self, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor | None) -> None:
        """Update the targets' metrics on the rows' labels, [b, T]."""
        for place, target in enumerate(self._named):
            self._means[target].update_state(_cross_entropy(labels[:, place], logits[:, place]), weights)
            self._areas[target].update_state(labels[:, place], tf.sigmoid(logits[:, place]), weights)

    def build(self, query_inputs_shape: Any, query_shape: Any, candidates_shape: Any) -> None:
        """Make the weights for features [b, width] and vectors [b, dim] or [b, K, dim], and [b, m, dim]."""
        self._head = self._make_head(len(self._named))
        self._head.build(query_inputs_shape, candidates_shape, candidates_shape[:-1])
        self.built = True

    def logits(
        self, query_inputs: tf.Tensor, query: tf.Tensor, candidates: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the log odds of each target, [b, m, T] float32.

        Args:
            query_inputs: What the query tower's block was given, [b, width].
            query: The query tower's vectors, [b, dim], or [b, K, dim].
            candidates: The items' vectors, [b, m, dim].
            training: Reaches the head's block.
        """
        given = [tf.cast(it, tf.float32) for it in (query_inputs, query, candidates)]
        if not self.train_towers:
            given = [tf.stop_gradient(it) for it in given]
        query_inputs, query, candidates = given
        if not self.built:
            self.build(query_inputs.shape, query.shape, candidates.shape)
        scores = nearest_scores(query, candidates)  # [b, m]
        scores = scores if self.train_score else tf.stop_gradient(scores)
        logits: tf.Tensor = self._head(query_inputs, candidates, scores, training=training)
        return logits

    def call(
        self, query_inputs: tf.Tensor, query: tf.Tensor, candidates: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the probability of each target, [b, m, T] float32; the arguments are those of `logits`."""
        return tf.sigmoid(self.logits(query_inputs, query, candidates, training))

    def scores(self, query_inputs: tf.Tensor, query: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Return what candidates are ranked by, `sum_t value_t p_t`, [b, m] float32; the arguments are those of `logits`."""
        return tf.linalg.matvec(self(query_inputs, query, candidates), tf.constant(self.values))

    def predictions(
        self, query: tf.Tensor, candidate: tf.Tensor, query_inputs: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Return the score by the task's name, and each target's probability by `<name>/<target>`."""
        probabilities = self(query_inputs, query, candidate[:, tf.newaxis])[:, 0]  # [b, T]
        found = {f"{self.name}/{target}": probabilities[:, place] for place, target in enumerate(self._named)}
        return {self.name: tf.linalg.matvec(probabilities, tf.constant(self.values)), **found}

    def continue_from(self, old: "Ranker") -> None:
        """Take the functions of the ranker of the model that this one's grew from."""
        for target, teacher in self.teacher.items():
            before = old.teacher[target]
            if isinstance(teacher, Scorer) and isinstance(before, Scorer):
                teacher.function = before.function

    @property
    def _named(self) -> list[str]:
        if self.targets is None:
            raise ConfigError(f"{type(self).__name__} knows no targets yet; name them, or let a model read its schema")
        return self.targets

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the targets that a schema gave."""
        teacher = {
            target: it if isinstance(it, str) else keras.saving.serialize_keras_object(it)
            for target, it in self.teacher.items()
        }
        return super().get_config() | {
            "targets": self.targets,
            "teacher": teacher,
            "hard": self.hard,
            "random": self.random,
            "num_retrieved": self.num_retrieved,
            "train_towers": self.train_towers,
            "train_score": self.train_score,
            "probabilities": self.probabilities,
            "loss_weight": self.loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ranker":
        """Make the ranker of `get_config`."""
        teacher = {
            target: it if isinstance(it, str) else keras.saving.deserialize_keras_object(it)
            for target, it in config["teacher"].items()
        }
        return cls(**config | {"teacher": teacher})


def _names(targets: Any) -> list[str] | None:
    if targets is None:
        return None
    names = [targets] if isinstance(targets, str) else list(targets)
    if not names or not all(isinstance(it, str) for it in names) or len(set(names)) < len(names):
        raise ConfigError(f"targets are {targets!r}; expected names of features, each once")
    return names


def _teachers(given: Any) -> dict[str, Scorer | str]:
    """Return teachers by target; that of the only target there is, under `ALONE` until that is known."""
    if given is None:
        return {}
    by_target = given if isinstance(given, Mapping) else {ALONE: given}
    return {target: it if isinstance(it, str) else as_scorer(it) for target, it in by_target.items()}


def _column_of(kind: str, schema: Schema, name: str) -> Feature:
    if name in schema and schema[name].has(Tags.TEACHER):
        return schema[name]
    raise SchemaError(
        f'{kind} has the teacher "{name}", but no feature is tagged so; add it to the schema:'
        f' "{name}: {{dtype: float32, tags: [teacher]}}"'
    )


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return `-y log p - (1 - y) log(1 - p)` of log odds, of the same shape."""
    return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)


def _among(lists: tf.RaggedTensor, ids: tf.Tensor) -> tf.Tensor:
    """Tell which ids stand in their row's list, [b, m] bool.

    Args:
        lists: [b, None] int64, none below 0.
        ids: [b, m] int64, none below 0.
    """
    width = tf.maximum(tf.reduce_max(lists.values, keepdims=True), tf.reduce_max(ids)) + 1
    cells = tf.sort(lists.value_rowids() * width + lists.values)
    cells = tf.concat([cells, [tf.int64.max]], axis=0)  # [n + 1], for what is beyond the last
    rows = tf.range(tf.shape(ids, tf.int64)[0])[:, tf.newaxis]
    wanted = tf.reshape(rows * width + ids, [-1])
    there = tf.gather(cells, tf.searchsorted(cells, wanted)) == wanted
    return tf.reshape(there, tf.shape(ids))
