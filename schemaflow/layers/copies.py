"""Copies of layers: the same architecture, weights of their own."""

import inspect
from collections.abc import Iterator
from typing import Any

import keras

from schemaflow.errors import ConfigError
from schemaflow.layers.seeds import reseeded

__all__ = ["fresh_copy", "unbuilt"]

FAR = 2**20
"""How far the seeds of a copy are moved: beyond the places in any block, or one layer would begin as another's twin."""


def fresh_copy(layer: keras.layers.Layer, place: int = FAR) -> keras.layers.Layer:
    """Return a layer of the same architecture with weights of its own, not built yet.

    It is rebuilt from its config: seeds that are fixed there move by `place`, and the widths that layers took from
    their inputs when they were built are left out, since the copy may have others. The width that the user gave himself,
    in an Input layer, stays.

    Args:
        layer: Any Keras layer or model.
        place: By how much fixed seeds move.

    Raises:
        ConfigError: The layer, or one inside it, has no config, or one that lacks an argument of its constructor.

    Example:
        >>> dense = keras.layers.Dense(2)
        >>> dense.build((None, 5))
        >>> copied = fresh_copy(dense)
        >>> copied.units, copied.built
        (2, False)
    """
    for part in _parts(layer):
        _check_config(part)
    try:
        return layer.__class__.from_config(unbuilt(reseeded(layer.get_config(), place)))
    except (TypeError, ValueError) as error:
        reason = str(error).rpartition("Exception encountered: ")[2]  # Keras puts the whole config before it
        raise ConfigError(f"no copy can be made of {type(layer).__name__} from its config: {reason}") from error


def unbuilt(config: Any) -> Any:
    """Return a config without the shapes that Keras puts there when a layer is built: its first inputs build it again.

    Building from the config alone, as Keras does on loading, warns of each user's layer that has no `build`.

    Example:
        >>> unbuilt({"class_name": "Dense", "config": {"units": 2}, "build_config": {"input_shape": [None, 5]}})
        {'class_name': 'Dense', 'config': {'units': 2}}
    """
    if isinstance(config, (list, tuple)):
        return type(config)(unbuilt(value) for value in config)
    if not isinstance(config, dict):
        return config
    kept = {key: unbuilt(value) for key, value in config.items() if key not in ("build_config", "build_input_shape")}
    if "build_input_shape" in config and _came_with_a_call(config["layers"][0]):
        kept["layers"] = kept["layers"][1:]
    return kept


def _parts(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a layer and, of a model, its layers."""
    yield layer
    if isinstance(layer, keras.Model):
        for inner in layer.layers:
            yield from _parts(inner)


def _check_config(layer: keras.layers.Layer) -> None:
    """Refuse a config that lacks an argument: the copy would lack it too, and silently compute something else."""
    name = type(layer).__name__
    try:
        config = layer.get_config()
    except NotImplementedError:
        raise ConfigError(
            f"{name} has no get_config, so no copy can be made of it; give it one, or pass an item_tower"
        ) from None
    maker = next(it for it in type(layer).__mro__ if "__init__" in vars(it))
    if maker.__module__.partition(".")[0] == "keras" or "from_config" in vars(type(layer)):
        return  # Keras's own are complete; a from_config of one's own knows what it does
    omitted = [
        argument.name
        for argument in list(inspect.signature(vars(maker)["__init__"]).parameters.values())[1:]
        if argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
        and argument.name not in config
        and argument.name not in ("name", "dtype", "trainable")
        and not _is_default(layer, argument)
    ]
    if omitted:
        raise ConfigError(
            f"{name}.get_config leaves out {', '.join(omitted)}, which its constructor takes, so a copy would compute"
            " something else; add what is missing to get_config, or pass an item_tower"
        )


def _is_default(layer: keras.layers.Layer, argument: inspect.Parameter) -> bool:
    """Return whether the layer was plainly made with the argument's default."""
    return argument.default is not argument.empty and repr(getattr(layer, argument.name, layer)) == repr(
        argument.default
    )


def _came_with_a_call(first: dict[str, Any]) -> bool:
    """Return whether Keras made the first layer of a Sequential when that was called, from the batch it was given.

    The config tells it from an Input of the user's by the size of the batch alone, which he leaves open.
    """
    return first["class_name"] == "InputLayer" and first["config"]["batch_shape"][0] is not None
