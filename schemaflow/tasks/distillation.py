"""Learning from a teacher: a model that is too slow to be searched by, or knows more than the log."""

from collections.abc import Callable, Sequence
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
from schemaflow.schema.tags import Tags
from schemaflow.tasks.listwise import binary, divergence, margins, squares
from schemaflow.tasks.ranker import Ranker
from schemaflow.tasks.scoring import Scorer, as_scorer
from schemaflow.tasks.shortlist import check_sizes, nearest_scores, seed_in, shortlist
from schemaflow.tasks.terms import Step, Task

__all__ = ["DistillationTask"]

LOSSES = ("kl", "margin", "bce", "mse")
LISTWISE = ("kl", "margin")
"""Those that compare a query's items with each other."""

HEADS = ("shared", "auxiliary")

STAGES = ("retrieval", "ranker")


@register("task", "distillation")
@keras.saving.register_keras_serializable("schemaflow")
class DistillationTask(Task):
    """A teacher's scores, learned by the towers or by the ranker: what the log never showed is ranked as the teacher would.

    A teacher is a function of pairs (see `Scorer`), asked for each row's query with the items it finds nearest and with some
    at random; or a column of the log tagged `teacher`, which knows of each row's own item alone. Its scores t are log odds,
    and any number where order is all; the student's are `z = scale * s + bias`, with s of the retrieval `q . c / temperature`,
    with its own temperature, and of the ranker the log odds of a target. Scale and bias begin as 1 and 0. By loss:

        kl      KL(softmax(t / T) || softmax(z / T)) T^2 over a query's candidates
        margin  the mean over pairs of them of ((z_i - z_j) - (t_i - t_j))^2
        bce     the mean of the cross-entropy of sigmoid(z) and sigmoid(t)
        mse     the mean of (z - t)^2

    A score that is NaN, or missing in the column, takes no part, and a row without scores has no weight. No gradient reaches
    the teacher, the choice of candidates, or a learned temperature, which the retrieval task alone moves.

    Used alone, it takes scores; in a model's `prediction_tasks` it compares the towers'. Metrics: `<name>/loss`; with a function
    `<name>/agreement`, the share of rows whose best candidate is the teacher's; with a column `<name>/taught`, the share of
    rows that have a score.

    Args:
        teacher: A function or `Scorer`; or the name of a feature tagged teacher, the one there is if None.
        loss: "kl", "margin", "bce" or "mse". If None, kl with a function and bce with a column, which can have only bce and mse:
            a row has no other item to compare.
        head: "shared" makes z of the very scores that are served; "auxiliary" of `(W q) . c`, with a matrix W that begins as
            the identity: the towers learn what the teacher knows, and their own scores stay free to follow the clicks. The
            ranker's is shared.
        on: "retrieval" teaches the towers' scores, "ranker" the second stage's among the `prediction_tasks`, such as
            `LightRanker`; with one task of each, both.
        of: The ranker's target that is taught; the one it has if None.
        temperature: T, of kl: above 1, what the teacher ranks low counts more.
        hard: How many candidates are the query's nearest, by the items' vectors as they were when the epoch began.
        random: How many are drawn from all items.
        probabilities: The teacher gives probabilities, from 0 to 1: bce takes them as they are, the other losses their log odds.
        loss_weight: The loss counts this many times in the model's.
        name: The head of the metrics' names.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these.

    Source:
        Hinton et al., "Distilling the knowledge in a neural network", 2015; on shortlists of a ranking: Tang and Wang, "Ranking
        distillation", KDD 2018.

    Example:
        >>> task = DistillationTask(lambda queries, items: items["price"])
        >>> rows = task(tf.zeros((1, 2)), tf.math.log([[3.0, 1.0]]))  # 3/4 ln(3/2) + 1/4 ln(1/2)
        >>> [round(float(loss), 4) for loss in rows]
        [0.1308]
    """

    def __init__(
        self,
        teacher: Scorer | Callable[..., Any] | str | None = None,
        loss: str | None = None,
        head: str = "shared",
        temperature: float = 1.0,
        *,
        on: str = "retrieval",
        of: str | None = None,
        hard: int = 32,
        random: int = 32,
        probabilities: bool = False,
        loss_weight: float = 1.0,
        name: str = "distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, autocast=False, **kwargs)  # scores keep their precision
        self.column = teacher if isinstance(teacher, str) else None
        self.scorer = None if teacher is None or isinstance(teacher, str) else as_scorer(teacher)
        self.loss = ("bce" if self.scorer is None else "kl") if loss is None else loss
        for argument, given, known in (("loss", self.loss, LOSSES), ("head", head, HEADS), ("on", on, STAGES)):
            if given not in known:
                hint = suggest(given, known).rstrip("?") if isinstance(given, str) else ""
                raise ConfigError(f"{argument} is {given!r}{hint}; expected {' or '.join(map(repr, known))}")
        if self.scorer is None and self.loss in LISTWISE:
            raise ConfigError(
                f'the loss "{self.loss}" compares a query\'s items with each other, and a column holds the score of one: pass a'
                ' function as the teacher, or loss="bce" or "mse"'
            )
        if on == "ranker" and head == "auxiliary":
            raise ConfigError('the head is "auxiliary", which is one of vectors; the ranker is taught by head="shared"')
        if of is not None and (on == "retrieval" or not isinstance(of, str)):
            raise ConfigError(f'of is {of!r}; expected the name of a target of the ranker, with on="ranker"')
        if not _is_positive(temperature):
            raise ConfigError(f"the temperature is {temperature!r}; expected a number above 0")
        if self.loss != "kl" and temperature != 1.0:
            raise ConfigError(
                f'the temperature is that of the softmax of "kl", and the loss is "{self.loss}"; leave it out'
            )
        if not isinstance(probabilities, bool):
            raise ConfigError(f"probabilities is {probabilities!r}; expected True or False")
        check_sizes(hard, random)
        self.head = head
        self.on, self.of = on, of
        self.reads_inputs = on == "ranker"
        self.temperature = float(temperature)
        self.hard, self.random = hard, random
        self.probabilities = probabilities
        self.loss_weight = check_loss_weight(loss_weight)
        self.needs_items = self.scorer is not None
        self.calls_python = self.scorer is not None and not self.scorer.tensors
        self.supports_jit = self.scorer is None  # the distinct items of a batch are any number
        self._seed = keras.random.SeedGenerator()
        self._mean = keras.metrics.Mean(name=f"{name}/loss")
        self._share = keras.metrics.Mean(name=f"{name}/{'taught' if self.scorer is None else 'agreement'}")
        self._scale = self._weight("scale", (), "ones")
        # of items that are compared with each other it changes nothing
        self._bias = None if self.loss in LISTWISE else self._weight("bias", (), "zeros")
        self._turn: Any = None

    def _weight(self, name: str, shape: tuple[int, ...], initializer: str) -> Any:
        return self.add_weight(name=name, shape=shape, initializer=initializer, dtype="float32", autocast=False)

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Take the teacher's column from a schema, and return it; or tell the function the features.

        Raises:
            SchemaError: There is no such feature, or there are several.
        """
        if self.scorer is not None:
            self.scorer.bind(schema, sides)
            return ()
        self._feature = self._column_of(schema)
        self.column = self._feature.name
        return (self._feature,)

    def _column_of(self, schema: Schema) -> Feature:
        tagged = [it for it in schema if it.has(Tags.TEACHER)]
        found = tagged if self.column is None else [it for it in tagged if it.name == self.column]
        if len(found) == 1:
            return found[0]
        task = type(self).__name__
        names = " and ".join(f'"{it.name}"' for it in tagged)
        if len(found) > 1:
            raise SchemaError(f"{task} has no teacher, and the features {names} are tagged so; pass the name of one")
        wanted = "teacher_score" if self.column is None else self.column
        raise SchemaError(
            f"{task} has no teacher: pass a function, {task}(teacher=…), or add the column of its scores to the schema, such as"
            f' "{wanted}: {{dtype: float32, tags: [teacher]}}"'
            + (f"; tagged teacher are {names}" if tagged else "; no feature is tagged teacher")
        )

    def build(self, query_shape: Any) -> None:
        """Make the weights of the head for queries [b, dim]."""
        if self.head == "auxiliary":
            self._turn = self._weight("turn", (query_shape[-1], query_shape[-1]), "identity")
        self.built = True

    def predictions(
        self, query: tf.Tensor, candidate: tf.Tensor, query_inputs: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Return nothing: what is learned shows in the score."""
        if not self.built:
            self.build(query.shape)
        return {}

    def begin(self, query_tower: Any, item_tower: Any, tasks: Sequence[Any]) -> None:
        """Find the ranker's target.

        Raises:
            ConfigError: There is no ranker, or it has no such target.
        """
        if self.on == "retrieval":
            return
        ranker = next((it for it in tasks if isinstance(it, Ranker)), None)
        if ranker is None:
            raise ConfigError(
                f'task "{self.name}" is to teach the ranker, and prediction_tasks holds none; add a LightRanker, or say on="retrieval"'
            )
        targets = list(ranker.targets or ())
        if self.of is None and len(targets) == 1:
            self.of = targets[0]
        if self.of not in targets:
            received = "none" if self.of is None else f'"{self.of}"'
            raise ConfigError(
                f'task "{self.name}" is to teach a target of the ranker, and names {received}; expected of= one of {", ".join(targets)}'
            )

    def loss_in(self, step: Step) -> tf.Tensor:
        """Return the loss of a batch, a scalar float32, and update the metrics."""
        if self.scorer is None:
            teacher = tf.cast(step.column(self._feature), tf.float32)[:, tf.newaxis]  # [b, 1]
            compared = ~tf.math.is_nan(teacher)
            scores = self._scores(step, step.query, tf.cast(step.candidate, tf.float32)[:, tf.newaxis])
        else:
            assert step.items is not None, "the model gives what a term needs"
            listed = shortlist(step.items, step.queries, self.hard, self.random, seed_in(step.training, self._seed))
            teacher = self.scorer.scores(step, listed.positions)  # [b, m]
            compared = listed.first & ~tf.math.is_nan(teacher)
            scores = self._scores(step, step.queries, listed.vectors(step.items.vectors))
        return self._compare(scores, teacher, compared, step.weights)

    def _scores(self, step: Step, queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        """Return the student's scores of candidates [b, m, dim], before the head's scale and bias, [b, m]."""
        if self.on == "retrieval":
            queries = tf.cast(queries, tf.float32)
            turned = queries if self._turn is None else tf.matmul(queries, self._turn)
            return nearest_scores(turned, candidates) / step.temperature
        assert step.ranker is not None, "looked for when the model was made"
        assert step.ranker.targets is not None, "it is bound"
        logits = step.ranker.logits(step.query_inputs, queries, candidates, step.training)  # [b, m, T]
        return logits[..., step.ranker.targets.index(str(self.of))]

    def _compare(
        self, scores: tf.Tensor, teacher: tf.Tensor, compared: tf.Tensor, weights: tf.Tensor | None
    ) -> tf.Tensor:
        least = 2 if self.loss in LISTWISE else 1
        taught = tf.reduce_sum(tf.cast(compared, tf.int32), axis=1) >= least  # [b]
        counting = tf.cast(taught, tf.float32)
        counting = counting if weights is None else counting * tf.cast(weights, tf.float32)
        losses = self._of_rows(scores, teacher, compared)
        self._mean.update_state(losses, counting)
        if self.scorer is None:
            self._share.update_state(tf.cast(taught, tf.float32), weights)
        else:
            best, wanted = (tf.argmax(tf.where(compared, it, it.dtype.min), axis=1) for it in (scores, teacher))
            self._share.update_state(tf.cast(best == wanted, tf.float32), counting)
        return weighted_mean(losses, counting)

    def _of_rows(self, scores: tf.Tensor, teacher: tf.Tensor, compared: tf.Tensor) -> tf.Tensor:
        """Return the loss of each row, [b]."""
        logits = self._scale * scores + (0.0 if self._bias is None else self._bias)
        told = self._told(tf.where(compared, teacher, 0.5 if self.probabilities else 0.0))
        if self.loss == "kl":
            return self.temperature**2 * divergence(told / self.temperature, logits / self.temperature, compared)
        of: dict[str, Callable[..., tf.Tensor]] = {"margin": margins, "bce": binary, "mse": squares}
        return of[self.loss](told, logits, compared)

    def _told(self, teacher: tf.Tensor) -> tf.Tensor:
        """Return a teacher's scores as the loss takes them: probabilities for bce, else log odds."""
        if not self.probabilities:
            return tf.sigmoid(teacher) if self.loss == "bce" else teacher
        inside = (teacher >= 0) & (teacher <= 1) if self.loss == "bce" else (teacher > 0) & (teacher < 1)
        ends = "from 0 to 1" if self.loss == "bce" else "above 0 and below 1, whose log odds are finite"
        message = f'task "{self.name}": the teacher gives what is no probability; expected numbers {ends}'
        right = tf.debugging.Assert(tf.reduce_all(inside), [message, tf.boolean_mask(teacher, ~inside)])
        with tf.control_dependencies([right] if right is not None else []):
            teacher = tf.identity(teacher)
        return teacher if self.loss == "bce" else tf.math.log(teacher) - tf.math.log1p(-teacher)

    def call(self, scores: tf.Tensor, teacher: tf.Tensor) -> tf.Tensor:
        """Return the loss of each row, [b] float32.

        Args:
            scores: The student's, [b, m], before the head's scale and bias.
            teacher: [b, m], NaN where it has none to give.
        """
        scores, teacher = tf.cast(scores, tf.float32), tf.cast(teacher, tf.float32)
        return self._of_rows(scores, teacher, ~tf.math.is_nan(teacher))

    def continue_from(self, old: "DistillationTask") -> None:
        """Take the function of the task of the model that this one's grew from."""
        if self.scorer is not None and old.scorer is not None:
            self.scorer.function = old.scorer.function

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; of a function that is not registered, its name alone."""
        teacher = self.column if self.scorer is None else keras.saving.serialize_keras_object(self.scorer)
        return super().get_config() | {
            "teacher": teacher,
            "loss": self.loss,
            "head": self.head,
            "on": self.on,
            "of": self.of,
            "temperature": self.temperature,
            "hard": self.hard,
            "random": self.random,
            "probabilities": self.probabilities,
            "loss_weight": self.loss_weight,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "DistillationTask":
        """Make the task of `get_config`."""
        teacher = config["teacher"]
        made = teacher if isinstance(teacher, str) else keras.saving.deserialize_keras_object(teacher)
        return cls(**config | {"teacher": made})


def _is_positive(number: Any) -> bool:
    return isinstance(number, Real) and not isinstance(number, bool) and 0 < float(number) < float("inf")
