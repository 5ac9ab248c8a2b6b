"""A trained model of which the first numbers of each vector are kept."""

from typing import Any

import keras

from schemaflow.layers.prefix import Prefix
from schemaflow.model_config import arguments_of
from schemaflow.tasks import RetrievalTask

__all__ = ["truncated"]


def truncated(model: keras.Model, dim: int) -> Any:
    """Return the `TwoTowerModel` of the first `dim` numbers of another's vectors, with copies of its weights.

    Args:
        model: The other, as it was trained.
        dim: From 1 to the vectors' width.

    Raises:
        ConfigError: `dim` is no such number.
    """
    arguments = arguments_of(model.get_config())
    config = (RetrievalTask() if model.retrieval is None else model.retrieval).get_config()
    dims = [it for it in config["matryoshka_dims"] if it < dim]
    task = RetrievalTask.from_config(config | {"matryoshka_dims": dims})
    made = type(model)(
        **arguments
        | {"debiasing": (), "samplers": (), "known_positives": None}  # what only training needs
        | {"candidates": None if arguments["candidates"] is None else model.catalogue}  # a config holds no items
        | {"post": Prefix(dim, of=arguments["post"], dtype=model.dtype_policy), "prediction_tasks": task}
    )
    pairs = [(model.query_tower, made.query_tower), (model.item_tower, made.item_tower)]
    for old, new in pairs if model.retrieval is None else [*pairs, (model.retrieval, task)]:
        for it, other in zip(old.variables, new.variables, strict=True):
            other.assign(it)
    return made
