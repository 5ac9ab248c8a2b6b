"""Which table each feature is read from, by `Schema.fit` and by the model, and what stands in the way of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError, suggest
from schemaflow.schema.feature import Feature
from schemaflow.schema.findings import Finding
from schemaflow.schema.fitting import read_by_fit
from schemaflow.schema.sides import Sides, belongs, same_side
from schemaflow.schema.sources import Source, TableLike, open_source

if TYPE_CHECKING:
    from schemaflow.schema.schema import Schema

__all__ = ["Plan", "Table"]


@dataclass(eq=False)
class Table:
    """A table and what is read from it.

    Args:
        source: The rows.
        name: What to call it: interactions, or the side table's name.
        key: The feature by which a side table is joined; None for the interactions.
        column: The name of the key's column in the file, where the schema gives it another than in the interactions.
        encoded: The features that the model reads.
        fitted: The features that `Schema.fit` reads.
        joined_to: The tables whose rows look theirs up in it.
        catalogue: Whether it holds the items to recommend.
    """

    source: Source
    name: str = "interactions"
    key: Feature | None = None
    column: str | None = None
    encoded: list[Feature] = field(default_factory=list)
    fitted: list[Feature] = field(default_factory=list)
    joined_to: list["Table"] = field(default_factory=list)
    catalogue: bool = False

    @property
    def features(self) -> list[Feature]:
        """All that is read, each once."""
        return list(dict.fromkeys([*([] if self.key is None else [self.key]), *self.encoded, *self.fitted]))

    @property
    def needed(self) -> bool:
        """Whether training fails without its ids."""
        return self.catalogue or bool(self.joined_to)

    def of(self, feature: Feature) -> dict[str, str]:
        """Return what a finding says of a feature here."""
        return {"table": self.source.name, "feature": feature.name, "column": feature.source}


class Plan:
    """The tables of a schema and what is read from each.

    Args:
        schema: Names the features and the side tables.
        sides: Its towers, where it has them.
        interactions: One row for each interaction.
        folder: Where the side tables are; the folder of the interactions if None.

    Attributes:
        tables: Side tables, then the items to recommend, then the interactions: each after those joined to it.
        folders: Where files that the schema names are looked for.
        found: What stands in the way.
    """

    def __init__(self, schema: "Schema", sides: Sides | None, interactions: TableLike, folder: Path | None) -> None:
        self.found: list[Finding] = []
        self.folders = [schema.folder]
        self.tables: list[Table] = []
        self._features = list(schema)
        source = self._open(interactions, "interactions")
        if source is None:
            return
        folder = source.folder if folder is None else folder
        self.folders += [] if folder is None else [folder]
        events, absent, unreadable = Table(source), {}, False
        for name, side in schema.tables.items():
            if folder is None:
                absent[name] = f"a table in memory has no folder; pass the one that holds {side.file}"
            elif not (folder / side.file).exists():
                absent[name] = f"there is no {folder / side.file}; put it there"
            elif (opened := self._open(folder / side.file, name)) is None:
                unreadable = True
            else:
                key = schema[side.key]
                source = opened if side.column is None else opened.renamed(side.column, key.source)
                self.tables.append(Table(source, name, key, side.column))
        missing = self._place(events, self._features)
        for key in [
            it.key for it in self.tables if it.key is not None and it.key in missing
        ]:  # what it would join is missing for lack of it
            held = [column for it in self.tables if it.key is key for column in it.source.columns]
            missing = [it for it in missing if it is key or it.source not in held or not same_side(it, key)]
        for name, reason in absent.items():
            missing = self._report_absent(name, reason, schema[schema.tables[name].key], missing, events)
        if not unreadable:  # else nobody knows what it holds
            self._report_missing(missing, events, "")
        if sides is not None:
            self._place_catalogue(sides, missing)
        self.tables.append(events)
        read = read_by_fit(self._features, schema.domains, schema.fitted)
        for table in self.tables:
            table.fitted = [it for it in read if it.source in table.source.columns and belongs(it, table.key)]
            self._check_key(table)
        read_nowhere = [it.source for it in self._features if not any(it in table.features for table in self.tables)]
        for number, table in enumerate(self.tables):
            if not any(it.source.files == table.source.files for it in self.tables[:number] if table.key is not None):
                self.found += self._extra(table, read_nowhere)

    def _add(self, refused: bool, code: str, message: str, **figures: Any) -> None:
        self.found.append(Finding("error" if refused else "warning", code, message, **figures))

    def _open(self, table: TableLike, name: str) -> Source | None:
        try:
            return open_source(table)
        except DataError as reason:
            for problem in reason.problems:
                self._add(True, "unreadable", problem, table=str(table) if isinstance(table, (str, Path)) else name)
            return None

    def _place(self, table: Table, features: Sequence[Feature]) -> list[Feature]:
        """Say which table each feature of a table's rows comes from; return those that come from none."""
        own = [it for it in features if it.source in table.source.columns]
        table.encoded += [it for it in own if it not in table.encoded]
        rest = [it for it in features if it not in own]
        for side in self.tables:
            key = side.key
            if key is None or side is table or key.source not in table.source.columns:
                continue
            mine = [it for it in rest if it is not key and same_side(it, key) and it.source in side.source.columns]
            if mine:
                side.joined_to.append(table)
                side.encoded += [it for it in mine if it not in side.encoded]
                rest = [it for it in rest if it not in mine]
        return rest

    def _place_catalogue(self, sides: Sides, missing: Sequence[Feature]) -> None:
        """Let the first table of items be the items to recommend, as training does."""
        catalogue = next((it for it in self.tables if it.key is sides.item_id), None)
        if catalogue is None:
            return
        self.tables = [*(it for it in self.tables if it is not catalogue), catalogue]
        catalogue.catalogue = True
        if sides.item_id.source in catalogue.source.columns:
            lacking = [it for it in self._place(catalogue, sides.item) if it not in missing]
            self._report_missing(lacking, catalogue, ", and training takes the items to recommend from there")

    def _report_absent(
        self, name: str, reason: str, key: Feature, missing: list[Feature], events: Table
    ) -> list[Feature]:
        """Report a side table that is not there; return the missing features that it is not to blame for."""
        wanting = [it for it in missing if it is not key and same_side(it, key)]
        names = ", ".join(it.name for it in wanting)
        rest = (
            f"features {names} are not in {events.source.name}"
            if wanting
            else "nothing is read from it: it may go from the schema"
        )
        self._add(bool(wanting), "missing-table", f'table "{name}": {reason}; {rest}')
        return [it for it in missing if it not in wanting]

    def _report_missing(self, missing: Sequence[Feature], table: Table, why: str) -> None:
        searched = [table, *(it for it in self.tables if it is not table)]
        columns = [column for it in searched for column in it.source.columns]
        for it in missing:
            message = (
                f'{table.source.name}: the column "{it.source}" of feature "{it.name}" is missing{suggest(it.source, columns)}'
                f" (it is in none of {', '.join(it.source.name for it in searched)}{why}): add it, or remove the feature"
            )
            self._add(True, "missing-column", message, **table.of(it))

    def _check_key(self, table: Table) -> None:
        key, columns = table.key, table.source.columns
        if key is None or key.source in columns:
            return
        column = key.source if table.column is None else table.column
        message = (
            f'{table.source.name}: the column "{column}" of feature "{key.name}", by which it is joined, is missing'
            f"{suggest(column, columns)}; the columns are {', '.join(columns)}"
        )
        self._add(table.needed, "missing-column", message, **table.of(key))
        table.key, table.joined_to = None, []  # there is nothing to join by

    def _extra(self, table: Table, lacking: Sequence[str]) -> Iterator[Finding]:
        of_file = [
            it for it in self.tables if it is table or (table.source.files and it.source.files == table.source.files)
        ]
        read = {it.source for other in of_file for it in other.features}
        for column in table.source.columns:
            if column not in read:
                other = next((it for it in self.tables if column in {feature.source for feature in it.encoded}), None)
                reason = (
                    f"is not read: it is read from {other.source.name}"
                    if other is not None
                    else f"is read by no feature{suggest(column, lacking)}"
                )
                message = f'{table.source.name}: the column "{column}" {reason}'
                yield Finding("warning", "extra-column", message, table=table.source.name, column=column)
