"""The family of errors, and the "did you mean" they share.

    SchemaFlowError
    ├── SchemaError     the schema is wrong, or lacks what is asked of it
    ├── ConfigError     a run configuration or an argument is wrong
    ├── DataError       a table does not hold what the schema says
    └── BundleError     an exported bundle cannot be written or read

Every message says what was expected, what was received, where, and what to do; an error that reports several mistakes
holds one line for each.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["BundleError", "ConfigError", "DataError", "SchemaError", "SchemaFlowError", "suggest"]


class SchemaFlowError(ValueError):
    """Base of every error that SchemaFlow raises on purpose; `problems` holds one line for each mistake.

    Example:
        >>> SchemaError("first mistake", "second mistake").problems
        ('first mistake', 'second mistake')
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["SchemaFlowError"], tuple[str, ...]]:
        return type(self), self.problems


class SchemaError(SchemaFlowError):
    """The schema is wrong, or lacks what is asked of it."""


class ConfigError(SchemaFlowError):
    """A run configuration or an argument is wrong."""


class DataError(SchemaFlowError):
    """A table does not hold what the schema says."""


class BundleError(SchemaFlowError):
    """An exported bundle cannot be written or read."""


def suggest(word: str, options: Iterable[str]) -> str:
    """Return `; did you mean "…"?` for the option nearest to `word`, or nothing when none is near.

    Example:
        >>> suggest("cardinalty", ["dtype", "cardinality"])
        '; did you mean "cardinality"?'
        >>> suggest("cardinalty", ["dtype"])
        ''
    """
    near = get_close_matches(word, list(options), n=1)
    return f'; did you mean "{near[0]}"?' if near else ""
