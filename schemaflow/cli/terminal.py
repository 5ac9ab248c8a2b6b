"""What the commands print to: plain text at once, tables and bars with Rich, which is loaded when the first one comes."""

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Terminal"]


class Terminal:
    """Standard output.

    Example:
        >>> Terminal().print("11 features")
        11 features
    """

    def print(self, what: "RenderableType", end: str = "\n") -> None:
        """Print text as it is, or whatever Rich renders."""
        if isinstance(what, str):
            print(what, end=end)  # noqa: T201 - the terminal is what this is for
        else:
            self.console.print(what, end=end)

    @cached_property
    def console(self) -> "Console":
        """Rich's console on standard output."""
        from rich.console import Console

        return Console(soft_wrap=True, highlight=False, markup=False)
