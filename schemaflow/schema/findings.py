"""What a check of data found: errors, which training refuses, and warnings.

Errors, by code:
    schema, sides           the schema file, or which features make which tower
    missing-table           the interactions, or a side table that features come from; a warning where none do
    missing-column          of a feature, or by which a side table is joined
    unreadable              not Parquet, damaged, without rows, or files of a folder that differ in columns
    misfit                  another type than the feature's, a list or not, a list beyond its max_length
    missing-value           where the feature takes none, and ids that are needed
    outside-cardinality     integers that are no row of their table
    cardinality             more distinct values than the cardinality allows
    vocabulary, pretrained  a file of them, or no value to learn
    infinite, log1p         numbers beyond float32, or not above -1 where their log(1 + x) is taken
    negative-weight, not-binary, unequal-lists, vector-width
    explicit-negative       values other than 0 and 1
    constant-column         where the feature is to be normalised; else a warning, as is empty-column
    repeated-id, absent-id  in a side table that is read, or not in it; a warning where nothing is read from it
Warnings:
    extra-column            nothing reads it
    out-of-vocabulary       values that share the rows of what is unknown
    domain                  features that share a table but hardly a value
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Args:
        level: An error makes `Schema.fit`, training or evaluation fail; a warning does not.
        code: What it is, in a word: the same for the same mistake, whatever the data.
        message: Where, what was expected and received, and what to do, on one line.
        table: The file.
        feature: Its name.
        column: Its Parquet column.
        row: The first row it was found in, counted from 0 in its file.
        count: In how many rows or values.
        total: Of how many.
    """

    level: Literal["error", "warning"]
    code: str
    message: str
    table: str | None = None
    feature: str | None = None
    column: str | None = None
    row: int | None = None
    count: int | None = None
    total: int | None = None

    @property
    def share(self) -> float | None:
        """The share of the rows or values it was found in.

        Example:
            >>> Finding("warning", "out-of-vocabulary", "…", count=1, total=4).share
            0.25
        """
        return self.count / self.total if self.count is not None and self.total else None

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


@dataclass(frozen=True)
class Findings:
    """What was found, and how much there is.

    Args:
        found: In the order of the tables.
        summary: The rows of the interactions, their distinct users and items, and for each side table its rows and how
            many of them have no interaction.
    """

    found: tuple[Finding, ...] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What training refuses."""
        return tuple(it for it in self.found if it.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What training takes, and may not be meant."""
        return tuple(it for it in self.found if it.level == "warning")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values: errors, warnings, summary; each finding without what it does not have.

        Example:
            >>> Findings((Finding("error", "missing", "…", row=3),)).to_dict()
            {'errors': [{'code': 'missing', 'message': '…', 'row': 3}], 'warnings': [], 'summary': {}}
        """
        return {
            "errors": [_json(it) for it in self.errors],
            "warnings": [_json(it) for it in self.warnings],
            "summary": dict(self.summary),
        }


def _json(finding: Finding) -> dict[str, Any]:
    values = {**asdict(finding), "share": finding.share}
    return {name: value for name, value in values.items() if name != "level" and value is not None}
