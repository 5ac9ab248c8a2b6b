"""What a two-tower model and its methods are given, checked at the door: an error says what to pass instead."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from schemaflow.errors import ConfigError, suggest
from schemaflow.schema.tags import Tags, is_side

__all__ = [
    "check_compilable",
    "check_compile_arguments",
    "check_fit_arguments",
    "check_layers",
    "check_names",
    "check_sides",
    "listed",
    "refuse_unused",
    "table_of_items",
]

NAMES = (
    "candidates",
    "correction",
    "debiasing",
    "dtype",
    "history",
    "known_positives",
    "l2_normalize",
    "name",
    "trainable",
)
"""Arguments of the model beside those that its signature names."""

_REPLACED = {
    "y": "positives and targets are columns of x, by the schema's tags: leave y out",
    "sample_weight": "a row's weight is a column of x: give its feature the tag weight",
    "class_weight": "there are no classes: give a feature of x the tag weight",
    "validation_split": "the last rows of a table are no fair sample of it: pass validation_data=…",
}
"""Arguments of Keras that a table by the schema replaces, and by what."""

_RANKS = (
    "rank metrics need the whole catalogue; call schemaflow.evaluate(model, …), or have a"
    " RetrievalTask(metrics=FactorizedTopK(…)) among the prediction_tasks"
)

_OF_TASKS = {
    "loss": ("loss", "the loss is the task's; pass it to the model, TwoTowerModel(…, loss=…)"),
    "loss_weights": ("loss_weights", "a task carries its own weight; pass it loss_weight=…"),
    "metrics": ("metrics", _RANKS),
    "weighted_metrics": ("metrics", _RANKS),
}
"""Arguments of Keras's `compile` that the tasks replace: as what each is refused, and by what it is replaced."""


def check_names(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where a keyword is no argument of the model."""
    problems = [
        f'TwoTowerModel has no argument "{it}"{suggest(it, NAMES)} (beside the named: {", ".join(NAMES)})'
        for it in given
        if it not in NAMES
    ]
    if problems:
        raise ConfigError(*problems)


def check_sides(query: Tags | str, item: Tags | str) -> None:
    """Raise `ConfigError` where the towers' tags are not two sides."""
    for argument, tag in (("query_tower_tag", query), ("item_tower_tag", item)):
        if not is_side(tag):
            raise ConfigError(
                f'{argument} is "{tag}"; expected a side: user, item, context, session or your own x-<name>'
            )
    if query == item:
        raise ConfigError(
            f'query_tower_tag and item_tower_tag are both "{query}"; expected two sides: where both towers read one'
            " thing, name its features twice, as schemas/movielens_item_to_item.yaml does"
        )


def check_layers(query_tower: Any, **others: Any) -> None:
    """Raise `ConfigError` where an argument is no Keras layer; the others may be None."""
    for argument, layer in {"query_tower": query_tower, **others}.items():
        if not isinstance(layer, keras.layers.Layer) and not (layer is None and argument in others):
            raise ConfigError(f"{argument} is {layer!r}; expected a Keras layer, such as MLPBlock([128, 64])")


def listed(given: Any) -> list[Any]:
    """Return what may be given alone or not at all, as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def refuse_unused(**given: Any) -> None:
    """Raise `ConfigError` where an argument is given that only retrieval would use."""
    problems = [
        f"{name} has no use, since prediction_tasks holds no RetrievalTask: add one there, or leave it out"
        for name in given
        if given[name] is not None
    ]
    if problems:
        raise ConfigError(*problems)


def table_of_items(candidates: Any, metrics: Sequence[Any]) -> Any:
    """Return the table of all items, that of the model or of its one metric that brings one; None where none does.

    Args:
        candidates: What the model was given.
        metrics: The `FactorizedTopK` that the model encodes its items for.

    Raises:
        ConfigError: There are several.
    """
    tables = [it.candidates for it in metrics if it.candidates is not None]
    if candidates is not None and tables:
        raise ConfigError("both the model and FactorizedTopK are given candidates; leave those of the metric out")
    if len(tables) > 1:
        raise ConfigError("several FactorizedTopK are given candidates; pass candidates= to the model instead")
    return tables[0] if tables else candidates


def check_fit_arguments(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where `fit` or `evaluate` is given what the schema replaces."""
    problems = [f"{name}=…: {instead}" for name, instead in _REPLACED.items() if given.get(name) is not None]
    if problems:
        raise ConfigError(*problems)


def check_compile_arguments(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where `compile` is given what the tasks replace."""
    for name, (argument, instead) in _OF_TASKS.items():
        if given.get(name) is not None:
            raise ConfigError(f"compile({argument}=…): {instead}")


def check_compilable(history: bool, tasks: Sequence[Any]) -> None:
    """Raise `ConfigError` where XLA cannot compile the step of a model: with a history encoder, or a task's Python function."""
    if history:
        raise ConfigError("compile(jit_compile=True): XLA compiles no histories of any length; leave it out")
    if asking := [task for task in tasks if task.calls_python]:
        raise ConfigError(
            f'compile(jit_compile=True): the task "{asking[0].name}" asks a Python function, which XLA cannot compile; leave'
            " jit_compile out, or give a teacher's scores as a column of the schema that is tagged teacher"
        )
