"""What blocks are given, checked at the door."""

from typing import Any

import keras

from schemaflow.errors import ConfigError

__all__ = ["as_regularizer"]


def as_regularizer(regularizer: Any) -> Any:
    """Return a Keras regularizer of one, its name or its config; None of None.

    Raises:
        ConfigError: It is none of these.
    """
    try:
        return keras.regularizers.get(regularizer)
    except ValueError:
        raise ConfigError(f"{regularizer!r} is no Keras regularizer; expected one, its name or its config") from None
