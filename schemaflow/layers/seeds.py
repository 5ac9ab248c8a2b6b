"""Initializers that never give two weights the same values by accident."""

import copy
from typing import Any

import keras

from schemaflow.errors import ConfigError

__all__ = ["fresh_initializer", "reseeded"]


def fresh_initializer(initializer: Any, place: int) -> keras.initializers.Initializer:
    """Return an initializer of one's own for the weight at a place.

    Keras draws the same values from one instance each time it is called, so a shared one starts two tables alike.
    One without a seed gets a new random seed, one with a seed gets that seed plus the place.

    Raises:
        ConfigError: It is no initializer, or its config lacks an argument of its constructor.
    """
    try:
        made = keras.initializers.get(initializer)
    except ValueError:
        raise ConfigError(f"{initializer!r} is no Keras initializer; expected one, its name or its config") from None
    if not isinstance(made, keras.initializers.Initializer):  # a plain function holds no seed
        return made
    try:
        return made.__class__.from_config(reseeded(made.get_config(), place))
    except TypeError as error:
        raise ConfigError(
            f"no copy can be made of the initializer {type(made).__name__} from its get_config: {error}"
        ) from None


def reseeded(config: Any, offset: int) -> Any:
    """Return a Keras config in which every fixed seed is moved by `offset`; seeds left to chance stay so.

    Example:
        >>> reseeded({"units": 8, "kernel_initializer": {"config": {"seed": 7}}, "seed": None}, 1)
        {'units': 8, 'kernel_initializer': {'config': {'seed': 8}}, 'seed': None}
    """
    if isinstance(config, dict):
        return {
            # TensorFlow holds a seed in 32 bits
            key: (value + offset) % 2**32 if key == "seed" and isinstance(value, int) else reseeded(value, offset)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(reseeded(value, offset) for value in config)
    return copy.copy(config)
