"""Drawing what is retrieved towards a reward, no further from a trained model than its gain is worth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, SchemaError, suggest
from schemaflow.losses import check_loss_weight, weighted_mean
from schemaflow.registry import register
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.tasks.listwise import binary, divergence
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.scoring import Scorer, as_scorer
from schemaflow.tasks.shortlist import check_sizes, seed_in, shortlist
from schemaflow.tasks.terms import Step, Task

__all__ = ["RewardAlignmentTask"]

FORMS = ("listwise", "pairwise")
STARTS = ("base", "fresh")


@dataclass(frozen=True)
class _Base:
    """What was taken of a trained model, until a model is built that holds the copies.

    Args:
        schema: Of the model.
        configs: Of the query tower and of the item tower, without the schema.
        weights: Of both.
        temperature: What the scores were divided by.
    """

    schema: Schema
    configs: list[dict[str, Any]]
    weights: list[list[Any]]
    temperature: float

    @classmethod
    def of(cls, model: Any) -> "_Base":
        """Return what is taken of a model."""
        towers = (model.query_tower, model.item_tower)
        configs = [keras.saving.serialize_keras_object(it) for it in towers]
        for config in configs:
            del config["config"]["schema"]  # that of the model that holds the task
            config.pop("build_config", None)
        divisor = 1.0 if model.retrieval is None else float(tf.convert_to_tensor(model.retrieval.divisor()))
        return cls(model.schema, configs, [it.get_weights() for it in towers], divisor)


@register("task", "reward-alignment")
@keras.saving.register_keras_serializable("schemaflow")
class RewardAlignmentTask(Task):
    """Scores drawn towards a reward r, and held by those of a trained base, s0: `s = s0 + r / beta`, up to a constant.

    That is the policy with the most `E[r] - beta KL(softmax(s) || softmax(s0))`, which reinforcement learning from feedback
    seeks by sampling; here it is known in closed form, and learned on each row's candidates, those it finds nearest now and
    some at random. By form, with all scores divided by the base's temperature:

        listwise  KL(softmax(s0 + r / beta) || softmax(s))
        pairwise  for each candidate and another drawn at random, the cross-entropy of sigmoid(r - r') and
                  sigmoid(beta ((s - s') - (s0 - s0'))): direct preference optimization, with the reward's own doubt

    Both have their least where s is as above, and are 0 of a candidate that is alone. A larger beta stays nearer to the base; where
    it is infinite, the base itself is the aim, and a model that begins there stays as it is. A `RetrievalTask` beside it, with a
    `loss_weight` such as 0.3, rehearses the clicks, which keeps what the reward does not speak of.

    The base's towers are copied, frozen, and saved with the task: a loaded model needs no base. They see what the model's towers
    see, as when they serve. A reward that is NaN takes no part; no gradient reaches it, the base, its temperature or the choice
    of candidates, and a learned temperature is moved by the retrieval task alone.

    Metrics: `<name>/loss`; `<name>/kl`, `KL(softmax(s) || softmax(s0))` over the candidates, how far the model went; and
    `<name>/reward`, the mean reward of the items it finds nearest, which is what a defective reward betrays itself by: see
    `examples/alignment.py`, which draws both for several beta.

    Args:
        reward: A function of pairs or a `Scorer`.
        base: A trained model of the same schema; None where the task is loaded with a model.
        beta: The reward that a step of one in log odds has to be worth, above 0.
        form: "listwise" or "pairwise".
        start: With "base", the model's towers begin as the base's, and so must have their architecture; with "fresh" they
            begin anew, of any architecture, and learn the base with the reward.
        hard: How many candidates are the query's nearest, by the items' vectors as they were when the epoch began.
        random: How many are drawn from all items.
        loss_weight: The loss counts this many times in the model's.
        name: The head of the metrics' names.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these.

    Source:
        Rafailov et al., "Direct preference optimization: your language model is secretly a reward model", NeurIPS 2023, whose
        preferences are certain: eq. 4 is the optimum, eq. 7 the pairwise form.

    Example:
        >>> task = RewardAlignmentTask(lambda queries, items: items["price"], beta=0.5)
        >>> scores, base, reward = tf.constant([[2.0, 0.0]]), tf.zeros((1, 2)), tf.constant([[1.0, 0.0]])
        >>> float(task(scores, base, reward)[0])  # the scores are those of the base and reward / beta
        0.0
    """

    needs_items = True

    def __init__(
        self,
        reward: Scorer | Callable[..., Any],
        base: Any = None,
        beta: float = 1.0,
        form: str = "listwise",
        start: str = "base",
        *,
        hard: int = 32,
        random: int = 32,
        loss_weight: float = 1.0,
        name: str = "alignment",
        **kwargs: Any,
    ) -> None:
        towers = kwargs.pop("towers", None)  # of a saved task
        super().__init__(name=name, autocast=False, **kwargs)  # scores keep their precision
        for argument, given, known in (("form", form, FORMS), ("start", start, STARTS)):
            if given not in known:
                hint = suggest(given, known).rstrip("?") if isinstance(given, str) else ""
                raise ConfigError(f"{argument} is {given!r}{hint}; expected {' or '.join(map(repr, known))}")
        if not _is_above_0(beta):
            raise ConfigError(f"beta is {beta!r}; expected a number above 0")
        if form == "pairwise" and float(beta) == float("inf"):
            raise ConfigError("beta is infinite, which only the listwise form can take: to it the base is the aim")
        if base is not None and not isinstance(base, keras.Model):
            raise ConfigError(f"base is {base!r}; expected a trained TwoTowerModel")
        check_sizes(hard, random)
        self.scorer = as_scorer(reward)
        self.beta = float(beta)
        self.form, self.start = form, start
        self.hard, self.random = hard, random
        self.loss_weight = check_loss_weight(loss_weight)
        self.calls_python = not self.scorer.tensors
        self.supports_jit = False  # the distinct items of a batch are any number
        self._base = None if base is None else _Base.of(base)
        self._configs = towers if self._base is None else self._base.configs
        self.towers: tuple[Any, ...] = ()
        self._seed = keras.random.SeedGenerator()
        self._means = {it: keras.metrics.Mean(name=f"{name}/{it}") for it in ("loss", "kl", "reward")}
        self._temperature = self.add_weight(
            name="temperature", shape=(), initializer="ones", trainable=False, dtype="float32", autocast=False
        )

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Make the base's towers by a schema, and tell the function the features; return none beside the towers'.

        Raises:
            ConfigError: There is no base, or the task is another model's.
            SchemaError: The base was trained with another schema.
        """
        if self.towers:
            raise ConfigError(
                f'the task "{self.name}" belongs to another model, whose base it holds; pass a {type(self).__name__} of its own'
                " to each"
            )
        self.scorer.bind(schema, sides)
        if self._configs is None:
            raise ConfigError(
                f"{type(self).__name__} has no base: pass the trained model that is to be aligned, {type(self).__name__}(…, base=model)"
            )
        if self._base is not None:
            _check_schema(self._base, schema)
        made = keras.saving.deserialize_keras_object
        self.towers = tuple(
            made({**config, "config": {**config["config"], "schema": schema.get_config()}}) for config in self._configs
        )
        for place, tower in enumerate(self.towers):
            tower.trainable = False
            if self._base is not None:
                tower.set_weights(self._base.weights[place])
        if self._base is not None:
            self._temperature.assign(self._base.temperature)
        self.built = True
        return ()

    def begin(self, query_tower: Any, item_tower: Any, tasks: Sequence[Any]) -> None:
        """Let a model's towers begin as the base's, where that is asked for; and a learned temperature.

        Raises:
            ConfigError: Their architecture is another.
        """
        base, self._base = self._base, None
        if base is None or self.start == "fresh":
            return
        for tower, weights in zip((query_tower, item_tower), base.weights, strict=True):
            if [it.shape for it in tower.weights] != [it.shape for it in weights]:
                raise ConfigError(
                    f"the {tower.name} has other weights than the base's, so it cannot begin as that: give it the architecture of"
                    ' the base, or say start="fresh", and it begins anew'
                )
            tower.set_weights(weights)
        for task in tasks:
            if isinstance(task, RetrievalTask) and task.log_temperature is not None:
                task.log_temperature.assign(math.log(base.temperature))

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss of a batch, a scalar float32, and update the metrics."""
        assert step.items is not None, "the model gives what a term needs"
        items, (query_tower, item_tower) = step.items, self.towers
        seed = seed_in(step.training, self._seed)
        listed = shortlist(items, step.queries, self.hard, self.random, seed)
        rewards = self.scorer.scores(step, listed.positions)  # [b, m]
        query = query_tower(step.inputs, training=False)
        base = listed.scores(query, lambda at: item_tower(items.features(at), training=False)) / self._temperature
        base = tf.stop_gradient(base)
        scores = listed.logits(step.queries, items) / self._temperature
        compared = listed.first & ~tf.math.is_nan(rewards)
        judged = tf.reduce_sum(tf.cast(compared, tf.int32), axis=1) > 1  # [b]
        weights = tf.cast(judged, tf.float32)
        weights = weights if step.weights is None else weights * tf.cast(step.weights, tf.float32)
        losses = self._of_rows(scores, base, rewards, compared, seed)
        self._means["loss"].update_state(losses, weights)
        self._means["kl"].update_state(divergence(scores, base, compared), weights)
        self._tell_reward(rewards, compared, step.weights)
        return weighted_mean(losses, weights)

    def _tell_reward(self, rewards: tf.Tensor, compared: tf.Tensor, weights: tf.Tensor | None) -> None:
        """Update the mean reward of the items nearest to each query, which come first."""
        near = tf.cast(compared, tf.float32)[:, : self.hard]  # [b, hard]
        total = tf.reduce_sum(tf.where(compared, rewards, 0.0)[:, : self.hard], axis=1)
        count = tf.reduce_sum(near, axis=1)
        having = tf.cast(count > 0, tf.float32)
        having = having if weights is None else having * tf.cast(weights, tf.float32)
        self._means["reward"].update_state(tf.math.divide_no_nan(total, count), having)

    def _of_rows(
        self, scores: tf.Tensor, base: tf.Tensor, rewards: tf.Tensor, compared: tf.Tensor, seed: Any
    ) -> tf.Tensor:
        """Return the loss of each row, [b]."""
        rewards = tf.where(compared, rewards, 0.0)
        if self.form == "listwise":
            return divergence(base + rewards / self.beta, scores, compared)
        m = tf.shape(scores)[1]
        shift = keras.random.randint((), 1, tf.maximum(m, 2), seed=seed)  # never onto itself, unless it is alone

        def less_other(values: tf.Tensor) -> tf.Tensor:
            return values - tf.roll(values, shift, axis=1)

        wanted = tf.sigmoid(less_other(rewards))
        both = compared & tf.roll(compared, shift, axis=1) & (m > 1)
        return binary(wanted, self.beta * less_other(scores - base), both)

    def call(self, scores: tf.Tensor, base: tf.Tensor, rewards: tf.Tensor) -> tf.Tensor:
        """Return the loss of each row, [b] float32.

        Args:
            scores: The model's, [b, m], divided by the base's temperature.
            base: The base's, likewise.
            rewards: [b, m], NaN where there is none.
        """
        scores, base, rewards = (tf.cast(it, tf.float32) for it in (scores, base, rewards))
        return self._of_rows(scores, base, rewards, ~tf.math.is_nan(rewards), self._seed)

    def continue_from(self, old: "RewardAlignmentTask") -> None:
        """Take the function of the task of the model that this one's grew from."""
        self.scorer.function = old.scorer.function

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and in the base's place its towers; of a function that is not registered, its name alone."""
        return super().get_config() | {
            "reward": keras.saving.serialize_keras_object(self.scorer),
            "towers": self._configs,
            "beta": self.beta,
            "form": self.form,
            "start": self.start,
            "hard": self.hard,
            "random": self.random,
            "loss_weight": self.loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RewardAlignmentTask":
        """Make the task of `get_config`."""
        return cls(**config | {"reward": keras.saving.deserialize_keras_object(config["reward"])})


def _is_above_0(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and float(number) > 0


def _check_schema(base: _Base, schema: Schema) -> None:
    """Refuse a base whose features are not those of a schema, or are encoded otherwise."""
    names = [name for config in base.configs for name in config["config"]["features"]]
    problems = []
    if absent := [name for name in names if name not in schema]:
        problems.append(f"the base has the features {', '.join(absent)}, and the schema has not")
    elif base.schema.select_by_name(names).get_config() != schema.select_by_name(names).get_config():
        problems.append("the features of the base's towers are not those of the schema, or were fitted to other data")
    if problems:
        raise SchemaError(*(f"{it}; give the model the schema of the base, base.schema" for it in problems))
