"""What blocks are given, checked at the door."""

from numbers import Integral
from typing import Any

import keras

from schemaflow.errors import ConfigError

__all__ = ["as_regularizer", "is_count"]


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 1; True is none.

    Example:
        >>> [is_count(it) for it in (8, 0, 8.0, True)]
        [True, False, False, False]
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def as_regularizer(regularizer: Any) -> Any:
    """Return a Keras regularizer of one, its name or its config; None of None.

    Raises:
        ConfigError: It is none of these.
    """
    try:
        return keras.regularizers.get(regularizer)
    except ValueError:
        raise ConfigError(f"{regularizer!r} is no Keras regularizer; expected one, its name or its config") from None
