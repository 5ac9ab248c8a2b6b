"""What `schemaflow validate` finds, and how it says so."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemaflow.errors import SchemaFlowError
from schemaflow.schema.findings import Finding, Findings

if TYPE_CHECKING:
    from schemaflow.schema import Feature

__all__ = ["as_json", "as_text", "validate"]


def validate(file: Path, data: Path | None) -> Findings:
    """Return what is wrong with a schema file, and with data.

    Args:
        file: The schema.
        data: The folder that `schemaflow train` would take, or the Parquet file of the interactions; None for the schema
            alone.
    """
    try:
        if data is None and file.suffix.lower() in (".yaml", ".yml"):
            from schemaflow.schema.grammar import (
                read_parts,  # what Schema.from_yaml reads, without what Schema.fit needs
            )

            return _of_towers(file, read_parts(file, towers=True).features)
        from schemaflow.schema import Schema

        schema = Schema.from_file(file)
    except SchemaFlowError as reason:
        return _failed("schema", reason)
    alone = _of_towers(file, schema.features)
    if data is None:
        return alone
    from schemaflow.config import RunConfig

    try:
        interactions = RunConfig(schema=str(file)).interactions_file(data)
    except SchemaFlowError as reason:
        return _failed("missing-table", reason)
    findings = schema.check(interactions)
    return Findings(findings.found, {**alone.summary, **findings.summary})


def _of_towers(file: Path, features: Sequence["Feature"]) -> Findings:
    """Count the features and those of each tower."""
    from schemaflow.schema.sides import sides_of

    try:
        sides = sides_of(features)
    except SchemaFlowError as reason:
        return _failed("sides", reason, f"{file}: ")
    return Findings((), {"features": len(features), "query": len(sides.query), "item": len(sides.item)})


def _failed(code: str, reason: SchemaFlowError, prefix: str = "") -> Findings:
    return Findings(tuple(Finding("error", code, f"{prefix}{problem}") for problem in reason.problems))


def as_json(file: Path, findings: Findings) -> str:
    """Return findings for machines."""
    return json.dumps({"file": str(file), **findings.to_dict()}, indent=1, ensure_ascii=False)


def as_text(file: Path, findings: Findings) -> str:
    """Return how much there is, on a line each for the schema and the data."""
    figures: dict[str, Any] = dict(findings.summary)
    lines = []
    if "query" in figures:
        lines.append(
            f"{file}: {figures['features']} features, {figures['query']} in the query tower, {figures['item']} in the item tower"
        )
    if "rows" in figures:
        counts = [f"{figures['rows']:,} interactions"]
        counts += [f"{figures[word]:,} {word}" for word in ("users", "items") if word in figures]
        for name, table in figures["tables"].items():
            without = table.get("without_interactions")
            counts.append(
                f"{table['rows']:,} rows in {name}" + (f" ({without:,} without interactions)" if without else "")
            )
        lines.append(", ".join(counts))
    if lines and (findings.found or "rows" in figures):
        lines.append(f"{len(findings.errors)} errors, {len(findings.warnings)} warnings")
    return "\n".join(lines)
