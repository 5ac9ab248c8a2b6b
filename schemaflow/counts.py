"""Counts: integers of at least 1."""

from numbers import Integral
from typing import Any

from schemaflow.errors import ConfigError

__all__ = ["check_count", "is_count"]


def is_count(value: Any) -> bool:
    """Return whether a value is an integer of at least 1; True is none.

    Example:
        >>> [is_count(it) for it in (8, 0, 8.0, True)]
        [True, False, False, False]
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_count(name: str, value: Any) -> None:
    """Raise `ConfigError` unless an argument is an integer of at least 1."""
    if not is_count(value):
        raise ConfigError(f"{name} is {value!r}; expected an integer of at least 1")
