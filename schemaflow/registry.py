"""Short names for the variants of each part: what YAML and strings in arguments may say.

A class enters with one decorator, and so into the contract tests, which run over everything registered.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from schemaflow.errors import ConfigError, suggest

__all__ = ["entries", "lookup", "names", "register"]

T = TypeVar("T")

_entries: dict[tuple[str, str], Any] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Enter a class or function as the variant `name` of `kind`.

    Raises:
        ConfigError: The name is taken by another object.

    Example:
        >>> @register("greeting", "hello")
        ... def hello():
        ...     return "hello"
        >>> lookup("greeting", "hello")()
        'hello'
    """

    def enter(entry: T) -> T:
        if (kind, name) in _entries:
            raise ConfigError(
                f'{kind} "{name}" is registered already, as {_entries[kind, name]!r}; choose another name'
            )
        _entries[kind, name] = entry
        return entry

    return enter


def lookup(kind: str, name: str) -> Any:
    """Return the variant `name` of `kind`.

    Raises:
        ConfigError: There is none of that name.
    """
    if (kind, name) not in _entries:
        known = names(kind)
        raise ConfigError(f'unknown {kind} "{name}"{suggest(name, known)} (known: {", ".join(known)})')
    return _entries[kind, name]


def names(kind: str) -> list[str]:
    """Return the sorted short names of `kind`."""
    return sorted(name for entry_kind, name in _entries if entry_kind == kind)


def entries() -> dict[tuple[str, str], Any]:
    """Return a copy of the whole registry: (kind, name) to object."""
    return dict(_entries)
