"""What a benchmark found: ratios of one run, each beside the bar that it has to reach."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["ROUNDS", "Figure", "compared", "report"]

ROUNDS = 5
"""How often each side of a ratio is measured, by turns, so that a busy moment of the machine meets all alike."""


@dataclass(frozen=True)
class Figure:
    """One ratio.

    Args:
        name: What is compared with what: "step at 10 million rows / at 100 thousand".
        rounds: The ratio of each round, at least one.
        bar: What the median has to be.
        at_least: Whether it has to be at least that; at most, if not.
        detail: What was measured, with units: "33.1 ms against 32.9 ms".
    """

    name: str
    rounds: Sequence[float]
    bar: float
    at_least: bool
    detail: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    @property
    def reached(self) -> bool:
        """Whether the median reaches the bar."""
        return self.median >= self.bar if self.at_least else self.median <= self.bar

    def __str__(self) -> str:
        """Return one line of text."""
        sign = ">=" if self.at_least else "<="
        verdict = "" if self.reached else "  MISSED"
        spread = f"{min(self.rounds):.3g} to {max(self.rounds):.3g}"
        return f"{self.name:72} {self.median:8.3g}  {sign} {self.bar:<6g} ({spread}) {self.detail}{verdict}"


def compared(sides: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return what each side measures in each round, the sides by turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, measure in sides.items():
            found[name].append(measure())
    return found


def report(figures: Sequence[Figure]) -> int:
    """Print the figures, and return the exit code: 1 where a bar is missed."""
    for figure in figures:
        print(figure)
    return int(not all(figure.reached for figure in figures))
