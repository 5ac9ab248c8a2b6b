"""What a model remembers beside its weights, saved with them: Keras does not, and training could not go on."""

from typing import Any

import keras
import numpy as np

from schemaflow.features.unseen import UnseenRows

__all__ = ["restored", "state_of"]


def state_of(model: keras.Model, unseen: UnseenRows) -> dict[str, Any]:
    """Return where the random generators are, such as dropout's, which rows go untrained, and whether training has begun.

    Args:
        model: A model.
        unseen: Its rows that no example trains.
    """
    generators = {f"generator_{place}": it for place, it in enumerate(_generators(model))}
    return {"optimizer_built": np.array(_has_slots(model)), **generators, **unseen.state}


def restored(model: keras.Model, unseen: UnseenRows, store: Any) -> dict[str, Any]:
    """Give a model what `state_of` said of another, and return what else its store holds: the model's own weights.

    The optimizer's slots, if it had any, are there to be loaded after it.
    """
    kept = {name: store[name] for name in store.keys()}  # noqa: SIM118 (Keras's store does not iterate)
    if np.array(kept["optimizer_built"]) and model.compiled and model.optimizer is not None and not _has_slots(model):
        model.optimizer.build(model.trainable_variables)
    for place, state in enumerate(_generators(model)):
        state.assign(kept[f"generator_{place}"])
    unseen.restore(kept)
    return {name: kept[name] for name in kept if name.isdecimal()}


def _has_slots(model: keras.Model) -> bool:
    """Tell whether the optimizer has its slots, which it gets when training begins."""
    return bool(model.compiled and model.optimizer is not None and model.optimizer.built)


def _generators(model: keras.Model) -> list[Any]:
    weights = {id(it) for it in model.weights}
    return [it for it in model.variables if id(it) not in weights]
