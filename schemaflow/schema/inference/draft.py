"""Draft a schema from Parquet: which table is which, what each column is for, and why some are left out.

The draft is a text, because its comments are half of it: each line says what was found. `Schema.infer` reads it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemaflow.errors import DataError
from schemaflow.schema.inference.hints import Hints, legal_name
from schemaflow.schema.inference.lines import Line, lines_of, share_tables
from schemaflow.schema.inference.roles import Roles, Table, find_roles, open_tables, possible_keys
from schemaflow.schema.inference.sketch import SKETCH_SIZE
from schemaflow.schema.inference.survey import percent, survey
from schemaflow.schema.sources import TableLike
from schemaflow.schema.tags import Tags
from schemaflow.schema.yaml_text import dump_flow

__all__ = ["Draft", "draft"]


@dataclass(frozen=True)
class Draft:
    """A drafted schema.

    Args:
        text: The YAML, with comments.
        problems: What keeps it from training, and what to write by hand; one line each.
    """

    text: str
    problems: tuple[str, ...]


def draft(*tables: TableLike, progress: Callable[[int, int], None] = lambda _done, _rows: None) -> Draft:
    """Draft a schema from tables, by one pass over each in bounded memory.

    Args:
        *tables: A folder, each file of which is opened on its own (files of the same columns are one table, and so is a
            folder within); Parquet files; tables in memory.
        progress: Told how many rows were read, of how many.

    Raises:
        DataError: There is no table, or one cannot be read.
    """
    found = list(open_tables(tables))
    if not found:
        raise DataError("expected a folder of Parquet files, or at least one of them, to draft a schema from")
    rows, done = sum(source.rows for _, _, _, source in found), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(done, rows)

    surveyed = [
        Table(name, path, shown, survey(source, possible_keys(source), read)) for name, path, shown, source in found
    ]
    return _write(_name_of(tables), find_roles(surveyed))


def _name_of(tables: Sequence[TableLike]) -> str | None:
    """Return a name for the data: that of the folder it is in."""
    paths = [Path(it) for it in tables if isinstance(it, (str, Path))]
    folder = next((it if it.is_dir() else it.parent for it in paths), None)
    return (folder.resolve().name or None) if folder is not None else None


def _write(name: str | None, roles: Roles) -> Draft:
    table, parts = roles.table, lines_of(roles)
    lines = [line for part in parts.values() for line in part]
    names: dict[int, str] = {}
    for line in sorted(lines, key=lambda it: it.reason is not None):  # those that stay have the first choice
        names[id(line)] = legal_name(line.column, names.values())
        if names[id(line)] != line.column:
            line.spec["column"] = line.column
    for line in lines:
        if line.weights is not None and line.weights.reason is None:
            line.spec["list"] = {"weights": names[id(line.weights)]}
    share_tables(lines, roles.ids, names)
    problems = _problems(roles, lines)
    text = [
        f"# Drafted by schemaflow infer from {table.rows:,} interactions in {table.shown}. Guesses: read each line over.",
        "# A line that begins with # was left out, for the reason it gives.",
    ]
    if not all(line.profile.sketch.exact for line in lines):
        text.append(
            f"# A number of distinct values above {SKETCH_SIZE:,} is an estimate, with a standard error of 0.4 %."
        )
    if table.path is not None and table.path.name != "interactions.parquet":
        text.append(f"# To train, say so in a run file: data: {dump_flow({'interactions': table.path.name})}")
    if table.path is None and table.survey.source.files:
        text.append(
            "# To train, put its files into a folder of their own, and say so in a run file: data: {interactions: <folder>}"
        )
    text += [f"# Missing: {problem}" for problem in problems]
    text += ["version: 1"] + ([f"name: {dump_flow(name)}"] if name is not None else [])
    text += ["tables:"] if roles.sides else []
    for side, other in roles.sides:
        key = next(names[id(line)] for line in lines if line.column == roles.ids[side])
        entry = dump_flow({"file": _relative(other, table), "key": key})
        text.append(f"  {dump_flow(other.name)}: {entry}    # {other.rows:,} rows")
    text.append("features:")
    width = max(len(dump_flow(it)) for it in names.values()) + 1
    for heading, part in parts.items():
        text += [f"  # {heading}"] if part else []
        text += [_text(names[id(line)], width, line) for line in part]
    for other, reason in roles.left:
        text.append(f"  # {other.shown} is left out: {reason}")
        text += [f"  # {column}: {profile.type}" for column, profile in other.columns.items()]
    return Draft("\n".join(_printable(it) for it in text) + "\n", problems)


def _text(name: str, width: int, line: Line) -> str:
    key, spec = f"{dump_flow(name)}:", dump_flow(line.spec)  # `no` is a name in quotes alone
    if line.reason is None:
        return f"  {key:{width}} {spec}    # {line.found}"
    return f"  # {key} {spec}    # left out: {line.reason}"


def _relative(table: Table, interactions: Table) -> str:
    """Return the path of a table from the folder that the interactions are in."""
    assert table.path is not None, "a side table is a file or a folder"
    folder = interactions.path.parent if interactions.path is not None else interactions.survey.source.folder
    return Path(os.path.relpath(table.path, folder or Path())).as_posix()


def _printable(text: str) -> str:
    """Return a line of YAML that is one, whatever the columns are called: names in comments are not quoted."""
    return "".join(it if it.isprintable() else "?" for it in text)


def _problems(roles: Roles, lines: list[Line]) -> tuple[str, ...]:
    """Say what is missing before a model can be trained, and what to write by hand."""
    query = {Tags.USER.value, Tags.CONTEXT.value}
    problems = [] if Tags.ITEM in roles.ids else [_lacking(Tags.ITEM, roles)]
    if not any(line.reason is None and query & set(line.spec["tags"]) for line in lines):
        problems.append(_lacking(Tags.USER, roles))
    for side in (Tags.ITEM, Tags.USER):
        profile = roles.table.columns.get(roles.ids.get(side, ""))
        if profile is not None and profile.missing:
            problems.append(
                f"{profile.name} is missing in {percent(profile.missing / profile.rows)} of the rows: remove them, or fill it in"
            )
    return tuple(f"{roles.table.shown}: {problem}" for problem in problems)


def _lacking(side: Tags, roles: Roles) -> str:
    columns = roles.table.columns
    named = [it for it in columns.values() if Hints(it.name).side is side]
    lists = [it for it in named if it.is_list]
    rounded = [it for it in named if (it.dtype or "").startswith("float") and Hints(it.name).is_id]
    if rounded:
        return f"{rounded[0].name} holds {rounded[0].type}, which rounds ids: write it as integers or strings"
    if lists and side is Tags.ITEM:
        return f"{lists[0].name} holds lists of items, expected one item a row: write one row for each, as item_id"
    article, besides = ("an", "") if side is Tags.ITEM else ("a", ", nor is there anything else to ask by")
    return (
        f"no column is {article} {side} id by its name (its columns are {', '.join(columns)}){besides};"
        f" write one as <name>: {{dtype: <dtype>, tags: [{side}, id], vocabulary: learned}}"
    )
