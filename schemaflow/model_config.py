"""A two-tower model's arguments as a config, and back."""

from collections.abc import Mapping
from typing import Any

import keras

from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.features.encoders import options_config, options_from_config
from schemaflow.layers.copies import unbuilt
from schemaflow.schema.schema import Schema
from schemaflow.tasks import RetrievalTask

__all__ = ["arguments_of", "config_of"]


def config_of(model: keras.Model, candidates: ItemCatalogue | None, **plain: Any) -> dict[str, Any]:
    """Return the arguments that a model was made from, the schema with its vocabularies included.

    Args:
        model: A `TwoTowerModel`.
        candidates: The items it holds, where a table of them was given.
        **plain: Arguments that stand in a config as they are.
    """
    serialize = keras.saving.serialize_keras_object
    shared = model.item_tower.block is model.query_tower.block  # one block for both sides stays one
    known = serialize(model.known_positives) if model.known_in is None else model.known_in.name
    return {
        **plain,
        "name": model.name,
        "trainable": model.trainable,
        "dtype": serialize(model.dtype_policy),
        "schema": model.schema.get_config(),
        "query_tower": serialize(model.query_tower.block),
        "item_tower": None if shared else serialize(model.item_tower.block),
        "embedding_options": options_config(model.embedding_options),
        "post": serialize(model.post),
        "history": serialize(model.history_encoder),
        "prediction_tasks": [serialize(task) for task in model.tasks],
        "debiasing": [serialize(term) for term in model.debiasing],
        "samplers": [] if model.retrieval is None else [serialize(it) for it in model.negatives.samplers],
        "correction": serialize(model.correction),
        "candidates": serialize(candidates),
        "known_positives": known,
    }


def arguments_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a model from its config."""
    made = keras.saving.deserialize_keras_object
    objects = ("dtype", "prediction_tasks", "debiasing", "correction", "candidates", "known_positives")
    rebuilt = {key: made(config[key]) for key in objects}
    rebuilt |= {key: made(unbuilt(config[key])) for key in ("query_tower", "item_tower", "post", "samplers", "history")}
    if rebuilt["item_tower"] is None:
        rebuilt["item_tower"] = rebuilt["query_tower"]
    for task in rebuilt["prediction_tasks"]:
        if isinstance(task, RetrievalTask):
            for metric in task.encoded_metrics:  # the catalogue holds what was read from their tables
                metric.candidates = None
    return {
        **config,
        **rebuilt,
        "schema": Schema.from_config(config["schema"]),
        "embedding_options": options_from_config(config["embedding_options"]),
    }
