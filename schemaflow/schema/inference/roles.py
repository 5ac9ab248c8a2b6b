"""Which of several tables holds the interactions, which tell more about users and items, and by which ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from schemaflow.errors import DataError
from schemaflow.schema.inference.hints import Hints
from schemaflow.schema.inference.survey import Profile, Survey, arrow_types, percent
from schemaflow.schema.sources import Source, TableLike, open_source
from schemaflow.schema.tags import Tags

__all__ = ["Roles", "Table", "find_roles", "open_tables", "possible_keys", "share_in"]

KEYS = 6
"""Columns of a table that are watched as possible keys."""

_IDS = frozenset({"string", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"})


@dataclass(frozen=True)
class Table:
    """A table that was surveyed.

    Args:
        name: The name of its file or folder, without ending.
        path: The file or the folder; None where several files of one folder, or a table in memory.
        shown: What to call it in comments.
        survey: What it holds.
    """

    name: str
    path: Path | None
    shown: str
    survey: Survey

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.survey.source.rows

    @property
    def columns(self) -> dict[str, Profile]:
        """Each column by name."""
        return self.survey.columns


@dataclass
class Roles:
    """Which table and which columns of it make an interaction.

    Args:
        table: The interactions.
        ids: The column of each side's id.
        sides: The side tables of each side.
        left: Why each other table is left out.
    """

    table: Table
    ids: dict[Tags, str]
    sides: list[tuple[Tags, Table]] = field(default_factory=list)
    left: list[tuple[Table, str]] = field(default_factory=list)


def open_tables(tables: Sequence[TableLike]) -> Iterator[tuple[str, Path | None, str, Source]]:
    """Yield the tables that are given, and those of folders: name, path, what to call it, source.

    Files of the same columns are the parts of one table.
    """
    files: list[Path] = []
    folders: list[Path] = []
    for given in tables:
        if not isinstance(given, (str, Path)):
            source = open_source(given)
            yield "interactions", None, source.name, source
        elif Path(given).is_dir():
            inside = sorted(Path(given).iterdir())
            found = [it for it in inside if it.suffix == ".parquet" and it.is_file()]
            below = [it for it in inside if not _is_ours(it) and it.is_dir() and any(it.glob("*.parquet"))]
            if not found and not below:
                raise DataError(f"{given}: the folder holds no *.parquet file, nor a folder of them")
            files, folders = files + found, folders + below
        else:
            files.append(Path(given))
    alike: dict[tuple[Any, ...], list[Path]] = {}
    for file in dict.fromkeys(files):
        columns = arrow_types(open_source(file))
        alike.setdefault(tuple(sorted((name, str(kind)) for name, kind in columns.items())), []).append(file)
    for parts in alike.values():
        first, last = parts[0], parts[-1]
        if first is last:
            yield first.stem, first, first.name, open_source(first)
            continue
        opened = [open_source(file) for file in parts]
        shown = f"{first.name} {'to' if len(parts) > 2 else 'and'} {last.name}"
        metadata = tuple(it for source in opened for it in source.metadata)
        rows = sum(it.rows for it in opened)
        yield first.stem, None, shown, replace(opened[0], rows=rows, files=tuple(parts), metadata=metadata)
    for folder in folders:
        yield folder.name, folder, f"{folder.name}/", open_source(folder)


def _is_ours(path: Path) -> bool:
    """Whether a folder holds what a schema has learned, not data; or is hidden."""
    return path.suffix == ".fitted" or path.name.startswith(".")


def possible_keys(source: Source) -> list[str]:
    """Return the columns whose values may determine others: those named as ids first, floats never."""
    hints = {name: Hints(name) for name, kind in arrow_types(source).items() if "float" not in str(kind)}
    ranked = sorted(hints, key=lambda name: (not hints[name].is_id, not hints[name].ends_as_id))  # stable
    named = [name for name in ranked if hints[name].is_id or hints[name].ends_as_id]
    return (named if len(named) > 1 else ranked)[:KEYS]


def find_roles(tables: list[Table]) -> Roles:
    """Return which table holds the interactions: an item and somebody who asks in each row, items more than once."""
    ids = [_find_ids(table, tables) for table in tables]

    def rank(index: int) -> tuple[Any, ...]:
        table, here = tables[index], ids[index]
        asks = Tags.USER in here or Tags.SESSION in here
        repeated = Tags.ITEM in here and table.columns[here[Tags.ITEM]].sketch.repeats
        return (Tags.ITEM in here and asks, repeated, asks, table.name == "interactions", table.rows)

    best = max(range(len(tables)), key=rank)
    chosen = tables[best]
    roles = Roles(chosen, ids[best])
    for table in tables:
        if table is not chosen:
            side, reason = _side_of(table, roles)
            if side is None:
                roles.left.append((table, reason))
            else:
                roles.sides.append((side, table))
    return roles


def _find_ids(table: Table, tables: list[Table]) -> dict[Tags, str]:
    """Return the column that is the id of each side, by name, else as the key of another table."""
    scalar = {
        it.name: Hints(it.name)
        for it in table.columns.values()
        if it.dtype in _IDS and not it.is_list and it.unit is None
    }
    found: dict[Tags, str] = {}
    for side in (Tags.USER, Tags.ITEM, Tags.SESSION):
        own = [name for name, hints in scalar.items() if hints.side is side]
        tiers = (
            [name for name in own if scalar[name].is_id and scalar[name].ends_as_id],
            [name for name in own if scalar[name].is_id],
            [name for name in own if scalar[name].refers],
        )
        if best := next((tier for tier in tiers if tier), None):
            found[side] = best[0]
    for other in tables:
        for name, profile in other.columns.items():
            if other is table or len(found.keys() & {Tags.USER, Tags.ITEM}) == 2:
                continue
            if name not in scalar or name in found.values() or not profile.is_key:
                continue
            missing = [it for it in (Tags.USER, Tags.ITEM) if it not in found]
            named = Hints(other.name).side
            keyed = named if named is not None or len(missing) > 1 or not scalar[name].ends_as_id else missing[0]
            if keyed is not None and keyed in missing and share_in(table.columns[name], profile) == 1.0:
                found[keyed] = name
    return found


def share_in(one: Profile, other: Profile) -> float:
    """Return the share of one column's values that another holds too; 0 where one has strings and the other numbers."""
    return one.sketch.share_in(other.sketch) if (one.dtype == "string") == (other.dtype == "string") else 0.0


def _side_of(table: Table, roles: Roles) -> tuple[Tags | None, str]:
    """Return the side that a table tells more about, or None and why it tells about none."""
    held = {side: column for side, column in roles.ids.items() if column in table.columns}
    others = roles.table.shown
    if Tags.ITEM in held and len(held) > 1:
        return None, f"interactions of another kind than {others}: one schema has one kind"
    for side, column in held.items():
        reason = _misfit(table, column, roles.table)
        return (side, "") if reason is None else (None, reason)
    for column, profile in table.columns.items():
        hints = Hints(column)
        if hints.is_id and hints.side in roles.ids and profile.is_key:
            key = roles.ids[hints.side]
            return None, f"its {column} is named {key} in {others}: give its table {{key: {key}, column: {column}}}"
    return None, f"has no id column in common with {others}"


def _misfit(table: Table, column: str, others: Table) -> str | None:
    """Say why a table cannot be joined to the interactions by a column, or nothing where it can."""
    here, there = table.columns[column], others.columns[column]
    if here.dtype not in _IDS or here.is_list or (here.dtype == "string") != (there.dtype == "string"):
        return f"{column} is {here.type} here and {there.type} in {others.shown}: write both alike"
    if not here.is_key:
        return f"{column} does not tell its rows apart ({here.counted} in {table.rows:,} rows): write one row for each"
    if (share := there.sketch.share_in(here.sketch)) < 1.0:
        return f"has no row for {percent(1 - share)} of the {column}s in {others.shown}: add them"
    if table.path is None:
        return "is not one file or folder, which a table of a schema must be: put its files into a folder"
    return None
