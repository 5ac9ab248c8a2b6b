"""A document that was looked through: its values, where each stands, and everything that is wrong with it."""

from typing import Any, Generic, TypeVar

from schemaflow.errors import SchemaFlowError

__all__ = ["NOWHERE", "Location", "Mark", "Parsed"]

Location = tuple[str | int, ...]
"""The keys and indices that lead to a value."""

Mark = tuple[int, int]
"""A line and a column, from 1; (0, 0) is the file as a whole."""

NOWHERE: Mark = (0, 0)
M = TypeVar("M")


class Parsed(Generic[M]):
    """A document under examination, which collects mistakes until all are known.

    Args:
        file: The name for messages.

    Example:
        >>> parsed = Parsed("shop.yaml")
        >>> parsed.note(("name",), (2, 1))
        >>> parsed.add(("name",), "expected a word")
        >>> parsed.sound(("name",)), parsed.sound(("version",))
        (False, True)
        >>> parsed.require(SchemaFlowError)
        Traceback (most recent call last):
        schemaflow.errors.SchemaFlowError: shop.yaml:2:1: expected a word
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.data: Any = None  # as YAML reads it
        self.value: M | None = None  # as the grammar reads it, when it does
        self._marks: dict[Location, Mark] = {}  # of a key, or of a value in a list
        self._wrong: set[Location] = set()
        self._problems: list[tuple[Mark, str]] = []

    def note(self, location: Location, mark: Mark) -> None:
        """Keep where the value at `location` stands; the first mark counts."""
        self._marks.setdefault(location, mark)

    def add(self, location: Location, problem: str, mark: Mark | None = None) -> None:
        """Report a mistake at `location`, whose value is wrong from here on; at `mark`, where that is elsewhere."""
        location = self.within(location)
        self._wrong.add(location)
        self.remark(problem, mark or self._marks.get(location, NOWHERE))

    def remark(self, problem: str, mark: Mark) -> None:
        """Report a mistake that leaves the values as they are."""
        self._problems.append((mark, "".join(it if it.isprintable() else repr(it)[1:-1] for it in problem)))

    def within(self, location: Location) -> Location:
        """Return the deepest part of `location` that the document holds."""
        found: Location = ()
        for part in location:  # pydantic puts names of union branches between; the document has none of those
            if (*found, part) in self._marks:
                found = (*found, part)
        return found

    def sound(self, location: Location) -> bool:
        """Tell whether nothing is wrong with the value at `location`, within it or around it."""
        return not any(it[: len(location)] == location or (it and location[: len(it)] == it) for it in self._wrong)

    def require(self, error: type[SchemaFlowError]) -> M:
        """Return the value.

        Raises:
            SchemaFlowError: Of type `error`: one line for each mistake, in the order of the file.
        """
        if self._problems:
            raise self.error(error)
        assert self.value is not None, "a document without mistakes has a value"
        return self.value

    def error(self, error: type[SchemaFlowError]) -> SchemaFlowError:
        """Return the error that reports every mistake."""
        ordered = sorted(self._problems, key=lambda it: it[0])
        return error(*dict.fromkeys(f"{self._at(mark)}{problem}" for mark, problem in ordered))

    def where(self, location: Location) -> str:
        """Return `file:line:column: ` of the deepest part of `location` that the document holds."""
        return self._at(self._marks.get(self.within(location), NOWHERE))

    def _at(self, mark: Mark) -> str:
        return f"{self.file}:{mark[0]}:{mark[1]}: " if mark != NOWHERE else f"{self.file}: "
