"""What the benchmarks found last, how a new run differs from it, and the page that shows it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import Figure

__all__ = ["MOVE", "Move", "Topic", "moves", "outcome", "page", "read", "write"]

MOVE = 0.15
"""How far a median has to lie from the recorded one, as a share of it, to have moved. It has to leave the recorded rounds too."""


@dataclass(frozen=True)
class Topic:
    """The figures of one run of one file.

    Args:
        title: What the file measures.
        date: When, in UTC: "2026-11-23".
        machine: On what.
        versions: With what.
        figures: The ratios.
        moved: How they differ from those of the record before, a line each; None where there was no record.

    Raises:
        ValueError: Two figures have the same name.
    """

    title: str
    date: str
    machine: str
    versions: str
    figures: Sequence[Figure]
    moved: Sequence[str] | None = None

    def __post_init__(self) -> None:
        names = [figure.name for figure in self.figures]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"several figures are called {', '.join(repeated)}; give each a name of its own")


@dataclass(frozen=True)
class Move:
    """A ratio that is no longer what it was.

    Args:
        figure: What it is now.
        before: The recorded median.
    """

    figure: Figure
    before: float

    @property
    def worse(self) -> bool:
        """Whether it moved away from its bar's good side."""
        return (self.figure.median < self.before) == self.figure.at_least

    def __str__(self) -> str:
        """Return one line of text."""
        verdict, now = "worse" if self.worse else "better", self.figure.median
        share = f" ({now / self.before - 1:+.0%})" if self.before else ""
        return f"{verdict}: {self.figure.name}: {self.before:.3g} before, {now:.3g} now{share}"


def moves(before: Sequence[Figure], now: Sequence[Figure]) -> list[Move]:
    """Return which of the ratios moved, told apart by their names: those without a namesake have not.

    A median moved where it lies outside the recorded rounds and more than `MOVE` from their median: what repeats itself
    within a run by chance, and small changes, are no news.
    """
    recorded = {figure.name: figure for figure in before}
    return [
        Move(figure, recorded[figure.name].median)
        for figure in now
        if figure.name in recorded and _moved(recorded[figure.name], figure)
    ]


def _moved(before: Figure, now: Figure) -> bool:
    outside = not min(before.rounds) <= now.median <= max(before.rounds)
    return outside and abs(now.median - before.median) > MOVE * abs(before.median)


def read(file: Path) -> dict[str, Topic]:
    """Return the recorded topics by name; none where nothing was recorded yet."""
    if not file.exists():
        return {}
    topics = json.loads(file.read_text(encoding="utf-8"))
    return {
        name: Topic(**{**topic, "figures": [Figure(**it) for it in topic["figures"]]}) for name, topic in topics.items()
    }


def write(file: Path, topics: Mapping[str, Topic]) -> None:
    """Record topics."""
    text = json.dumps({name: asdict(topics[name]) for name in sorted(topics)}, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def page(topics: Mapping[str, Topic]) -> str:
    """Return a page of Markdown: the machine and the versions of the newest run, and a table for each topic."""
    newest = max(topics.values(), key=lambda topic: topic.date)
    lines = [
        "# What the benchmarks found",
        "",
        "Written by `python benchmarks/run.py`. Every figure is a ratio of two sides that one run measured by turns; times differ"
        " between machines more than ratios do.",
        "",
        f"- Machine: {newest.machine}",
        f"- Versions: {newest.versions}",
    ]
    for name, topic in sorted(topics.items()):
        lines += ["", f"## {name}", "", f"{topic.title} Measured on {topic.date}."]
        for what, own, common in (
            ("Machine", topic.machine, newest.machine),
            ("Versions", topic.versions, newest.versions),
        ):
            lines += ["", f"{what}: {own}"] if own != common else []
        lines += ["", "| What | Median | Bar | Rounds | Detail | |", "| --- | ---: | ---: | --- | --- | --- |"]
        lines += [_row(figure) for figure in topic.figures]
        lines += ["", *outcome(topic.moved)]
    return "\n".join(lines) + "\n"


def outcome(moved: Sequence[str] | None) -> list[str]:
    """Return lines that say what moved, or that nothing did."""
    if not moved:
        return ["The first record." if moved is None else "Nothing moved since the last record."]
    return ["Moved since the last record:", "", *(f"- {line}" for line in moved)]


def _row(figure: Figure) -> str:
    cells = (
        figure.name,
        f"{figure.median:.3g}",
        f"{'≥' if figure.at_least else '≤'} {figure.bar:g}",
        f"{len(figure.rounds)}, from {min(figure.rounds):.3g} to {max(figure.rounds):.3g}",
        figure.detail,
        "reached" if figure.reached else "**missed**",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
