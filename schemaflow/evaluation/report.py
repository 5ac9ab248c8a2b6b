"""What an evaluation says."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Report"]


@dataclass(frozen=True)
class Report(Mapping[str, float]):
    """Metrics by name, such as `report["recall@10"]`.

    Args:
        metrics: Of the model.
        popularity: Of the same protocol with each item's number of interactions as its score; empty where the schema
            holds no item counts.
        protocol: What was ranked for whom, and what was left out.
        warm: Of the positives whose user and item were seen in training; empty where there are none. An id that is hashed
            into the row of one that was seen counts as seen.
        cold: Of those whose user or item was not.
    """

    metrics: Mapping[str, float]
    popularity: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    warm: Mapping[str, float] = field(default_factory=dict)
    cold: Mapping[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, Mapping[str, float]]:
        """What a table of the report shows of each metric, by title; warm and cold where there are both."""
        parts = {"warm": self.warm, "cold": self.cold} if self.warm and self.cold else {}
        return {"model": self.metrics, **parts, "popularity": self.popularity}

    def rows(self) -> list[tuple[str, ...]]:
        """Return the lines of a table of the report: the name of each metric, and each column's value of it."""
        return [
            (name, *(f"{values[name]:.4f}" if name in values else "-" for values in self.columns.values()))
            for name in self.metrics
        ]

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(
            {
                "metrics": dict(self.metrics),
                "warm": dict(self.warm),
                "cold": dict(self.cold),
                "popularity": dict(self.popularity),
                "protocol": dict(self.protocol),
            },
            indent=1,
        )

    def __str__(self) -> str:
        rows = [("metric", *self.columns), *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([name.ljust(widths[0]), *(it.rjust(width) for it, width in zip(rest, widths[1:], strict=True))])
            for name, *rest in rows
        ]
        return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in self.protocol.items())])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("metric", *self.columns))
        rows = "".join(f"<tr>{''.join(f'<td>{it}</td>' for it in row)}</tr>" for row in self.rows())
        return f"<table><tr>{head}</tr>{rows}</table>"
