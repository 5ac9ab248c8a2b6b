"""Which terms go together in one model, and how they begin."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.tasks.ranker import Ranker
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.tasks.targets import RESERVED
from schemaflow.tasks.terms import Debiasing, Task

__all__ = ["Terms", "admitted", "bound", "refuse_twins", "tasks_of"]

L2_TEMPERATURE = 0.07
"""Where a learned temperature begins for vectors of length one, whose scores end at 1."""


@dataclass(frozen=True)
class Terms:
    """The terms of one model.

    Args:
        tasks: In the order they were given in.
        debiasing: Likewise.
        retrieval: The one retrieval task among the tasks, if any.
        ranker: The one second stage among them, if any.
        beside: The features that terms read beside the towers'.
    """

    tasks: list[Task]
    debiasing: list[Debiasing]
    retrieval: RetrievalTask | None
    ranker: Ranker | None
    beside: list[Feature]

    def begin(self, query_tower: Any, item_tower: Any) -> None:
        """Make the terms' weights for what towers give.

        Raises:
            ConfigError: A task needs another that is not there.
        """
        for term in self.debiasing:
            term.begin(query_tower.dim)
        probe = tf.zeros((2, query_tower.dim))
        inputs = tf.zeros((2, *query_tower.encoder.shape))
        for task in self.tasks:
            task.predictions(probe, probe, inputs)  # makes the weights of those that predict
            task.begin(query_tower, item_tower, self.tasks)
        for term in (*self.tasks, *self.debiasing):
            term.taken = True


def tasks_of(given: Any, loss: Any, temperature: float | str, unit_length: bool) -> list[Any]:
    """Return a model's tasks: those given, one or several, or the retrieval task of a loss and a temperature.

    Raises:
        ConfigError: Tasks are given, and a loss or a temperature too.
    """
    if given is None:
        start = L2_TEMPERATURE if unit_length and temperature == "learned" else 1.0
        return [RetrievalTask(loss=loss, temperature=temperature, initial_temperature=start)]
    if temperature != 1.0 or loss != "categorical_crossentropy":
        raise ConfigError(
            "loss and logits_temperature configure the default RetrievalTask; with prediction_tasks, set them in a RetrievalTask there"
        )
    return list(given) if isinstance(given, (list, tuple)) else [given]


def admitted(tasks: Sequence[Any], debiasing: Sequence[Any], schema: Schema, sides: Sides) -> Terms:
    """Return the terms of a model, which have taken from its schema what they are to read.

    Raises:
        SchemaError: A feature that one reads is missing.
        ConfigError: One is no such term or belongs to another model, two do not go together, or a name is taken.
    """
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise ConfigError(f"prediction_tasks is {tasks!r}; expected a RetrievalTask, a RegressionTask, …, or a list")
    if wrong := [it for it in debiasing if not isinstance(it, Debiasing)]:
        raise ConfigError(f"debiasing holds {wrong[0]!r}; expected PositionDebiasing(), …, or a list of them")
    retrieval = [task for task in tasks if isinstance(task, RetrievalTask)]
    if len(retrieval) > 1:
        raise ConfigError(f"prediction_tasks holds {len(retrieval)} RetrievalTasks; expected one at most")
    rankers = [task for task in tasks if isinstance(task, Ranker)]
    if len(rankers) > 1:
        names = " and ".join(type(it).__name__ for it in rankers)
        raise ConfigError(f"prediction_tasks holds {names}; expected one second stage at most, which is served")
    terms = [*tasks, *debiasing]
    for term in terms:
        if term.taken and (term.weights or term.encoder is not None):
            kind = "debiasing" if term in debiasing else "task"
            raise ConfigError(
                f'the {kind} "{term.name}" belongs to another model; pass a {type(term).__name__} of its own to each'
            )
    beside = bound(terms, schema, sides)
    refuse_twins(terms)
    if taken := [it for it in terms if it not in retrieval and it.name in RESERVED]:
        kind, name = type(taken[0]).__name__, taken[0].name
        raise ConfigError(f'{kind} cannot be named "{name}": predict and fit use that themselves; pass another name')
    return Terms(
        list(tasks), list(debiasing), retrieval[0] if retrieval else None, rankers[0] if rankers else None, beside
    )


def refuse_twins(terms: Iterable[Any]) -> None:
    """Raise `ConfigError` where two terms of a model predict one target or have one name."""
    seen: dict[tuple[str, str], Any] = {}
    for term in terms:
        for what, value in (("target", term.target), ("name", term.name)):
            if value is not None and (what, value) in seen:
                raise ConfigError(
                    f'two terms of the model have the {what} "{value}": {type(seen[what, value]).__name__} and'
                    f" {type(term).__name__}; give each its own"
                )
            if value is not None:
                seen[what, value] = term


def bound(terms: Sequence[Any], schema: Schema, sides: Sides) -> list[Feature]:
    """Return the features beside the towers' that terms read, each once.

    Raises:
        SchemaError: One is missing.
    """
    return list(dict.fromkeys(feature for term in terms for feature in term.bind(schema, sides)))
