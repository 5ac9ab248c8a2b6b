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
    """

    metrics: Mapping[str, float]
    popularity: Mapping[str, float]
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(
            {"metrics": dict(self.metrics), "popularity": dict(self.popularity), "protocol": dict(self.protocol)},
            indent=1,
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            (name, f"{value:.4f}", f"{self.popularity[name]:.4f}" if name in self.popularity else "-")
            for name, value in self.metrics.items()
        ]

    def __str__(self) -> str:
        rows = [("metric", "model", "popularity"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            f"{name.ljust(widths[0])}  {model.rjust(widths[1])}  {popular.rjust(widths[2])}"
            for name, model, popular in rows
        ]
        return "\n".join([*lines, "", *(f"{name}: {value}" for name, value in self.protocol.items())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td>{model}</td><td>{popular}</td></tr>" for name, model, popular in self._rows()
        )
        return f"<table><tr><th>metric</th><th>model</th><th>popularity</th></tr>{rows}</table>"
