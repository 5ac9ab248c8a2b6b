"""Interactions with the features of their users and items, joined by id from side tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemaflow.data.encode import Array, Columns, Lists, encode, take, whole
from schemaflow.errors import DataError
from schemaflow.schema.columns import place_of, read_column
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import same_side
from schemaflow.schema.sources import Piece, Place, Source, TableLike, open_source

__all__ = [
    "Joined",
    "RawRows",
    "as_side_table",
    "ids_in",
    "join",
    "raw_rows",
    "read_ids",
    "read_raw",
    "read_table",
    "refuse_repeated",
    "stacked",
]


@dataclass(frozen=True)
class _Side:
    """A side table in memory: its ids, and its features encoded once."""

    key: Feature
    where: str
    ids: pa.Array
    columns: Columns

    def rows(self, piece: Piece) -> Array:
        """Return the side table's row for each row of a piece.

        Raises:
            DataError: An id of the piece is not in the side table.
        """
        return _rows(self.key, piece, self.ids, self.where, list(self.columns))


@dataclass(frozen=True)
class Joined:
    """A source whose rows are encoded, with side features joined to them.

    Args:
        source: The interactions.
        schema: Knows vocabularies and statistics.
        features: The features that are read, in order.
        own: Those of them that the interactions hold themselves.
        sides: The side tables that hold the others.
    """

    source: Source
    schema: Schema
    features: tuple[Feature, ...]
    own: tuple[Feature, ...]
    sides: tuple[_Side, ...]

    def pieces(self, place: Place, most: int | None = None) -> Iterator[Piece]:
        """Yield the rows at a place as they stand, so many at a time at most, with the columns that are needed."""
        keys = [side.key.source for side in self.sides]
        needed = dict.fromkeys([feature.source for feature in self.own] + keys)
        strings = {it.source for it in self.own if it.dtype == "string" and it.kind == "categorical"}
        return self.source.stream(place, list(needed), most, coded=sorted(strings.difference(keys)))

    def stream(self, place: Place) -> Iterator[dict[str, Array | Lists]]:
        """Yield the encoded features at a place, by name, a bounded number of rows at a time."""
        return (self._encode(piece) for piece in self.pieces(place))

    def encode(self, pieces: Sequence[Piece]) -> dict[str, Array | Lists]:
        """Return the encoded features of pieces, one after the other.

        Raises:
            DataError: A row does not fit its feature.
        """
        tables = [piece.table for piece in pieces]
        if all(table.schema.equals(tables[0].schema) for table in tables):
            try:  # each pass over a column costs more than its rows, where they are few
                return self._encode(Piece(pa.concat_tables(tables), "the table"))
            except DataError:  # said once more, by the piece that knows its place
                pass
        return whole([self._encode(piece) for piece in pieces])

    def _encode(self, piece: Piece) -> dict[str, Array | Lists]:
        columns = {
            feature.name: encode(self.schema, feature, read_column(feature, piece, coded=feature.kind == "categorical"))
            for feature in self.own
        }
        for side in self.sides:
            columns |= take(side.columns, side.rows(piece))
        for feature in self.features:
            if feature.paired_with is not None:
                _refuse_unmatched(feature, feature.paired_with, columns, piece)
        return {feature.name: columns[feature.name] for feature in self.features}


def join(
    table: TableLike, schema: Schema, folder: str | Path | None = None, names: Sequence[str] | None = None
) -> Joined:
    """Plan how to read features from a table and the side tables that the schema declares.

    A feature comes from the table itself where it has the column, else from the side table that has it.

    Args:
        table: Interactions, users or items.
        schema: Knows the features and the side tables.
        folder: Where the side tables are; the folder of `table` if not given.
        names: The features to read; all if None.

    Raises:
        DataError: A feature's column is in none of them, or a side table is missing or holds an id twice.
    """
    source = open_source(table)
    features = tuple(schema if names is None else schema.select_by_name(names))
    schema.select_by_name([feature.name for feature in features]).require_fitted()
    held = _held(source, schema, features, folder)
    own = tuple(feature for feature in features if feature.source in source.columns)
    return Joined(source, schema, features, own, tuple(_load(it, schema) for it in held))


@dataclass(frozen=True)
class _Held:
    """A side table and the features that are read from it."""

    source: Source
    key: Feature
    features: tuple[Feature, ...]


def _held(source: Source, schema: Schema, features: Sequence[Feature], folder: str | Path | None) -> list[_Held]:
    """Return which side tables hold the features that a table has not.

    Raises:
        DataError: None of them does.
    """
    own = tuple(feature for feature in features if feature.source in source.columns)
    rest = [feature for feature in features if feature not in own]
    directory = Path(folder) if folder is not None else source.folder
    searched, sides = [_describe(source)], list[_Held]()
    for name, side in schema.tables.items():
        key = schema[side.key]
        wanted = [feature for feature in rest if feature is not key and same_side(feature, key)]
        if not wanted or key.source not in source.columns:
            continue
        if directory is None:
            searched.append(
                f'table "{name}" ({side.file}; a table in memory has no folder: pass the one that holds it as "tables")'
            )
            continue
        if not (directory / side.file).exists():
            searched.append(
                f'table "{name}" (there is no {directory / side.file}; pass the folder that holds it as "tables")'
            )
            continue
        opened = side.open(directory / side.file, key)
        searched.append(_describe(opened))
        here = [feature for feature in wanted if feature.source in opened.columns]
        if here:
            rest = [feature for feature in rest if feature not in here]
            sides.append(_Held(opened, key, tuple(here)))
    if rest:
        raise DataError(
            *(
                f'feature "{feature.name}": its column "{feature.source}" is missing from {" and from ".join(searched)}'
                for feature in rest
            )
        )
    return sides


def read_table(
    table: TableLike, schema: Schema, folder: str | Path | None = None, names: Sequence[str] | None = None
) -> dict[str, Array | Lists]:
    """Return the encoded features of a whole table in memory, by name; the arguments are those of `join`."""
    joined = join(table, schema, folder, names)
    return whole(columns for place in joined.source.places() for columns in joined.stream(place))


def read_raw(
    table: TableLike, schema: Schema, features: Sequence[Feature], folder: str | Path | None = None
) -> pa.Table:
    """Return rows as they stand, in memory: the table's own columns, and those of features that side tables hold.

    Columns of other features are left out; and where there are any, such as users in a table of interactions, columns
    that are of no feature are too.

    Args:
        table: Such as items.
        schema: Names the features and the side tables.
        features: What must be there.
        folder: Where the side tables are; the folder of `table` if not given.

    Raises:
        DataError: A feature's column is in none of them, or a side table has no row for an id.

    Example:
        >>> schema = Schema.from_yaml("schemas/movielens_100k.yaml")
        >>> rows = {"movie_id": ["1"], "title": ["Toy Story"], "rating": [5.0]}
        >>> read_raw(rows, schema, [schema["movie_id"]]).column_names
        ['movie_id']
    """
    rows = raw_rows(table, schema, features, folder)
    wanted, known = {it.source for it in features}, {it.source for it in schema}
    others = (known - wanted).intersection(rows.source.columns)
    own = [it for it in rows.source.columns if it in wanted or not others]
    return rows.joined(Piece(_whole(rows.source, own), rows.source.name)).table


@dataclass(frozen=True)
class _RawSide:
    """A side table in memory, as it stands."""

    key: Feature
    where: str
    ids: pa.Array
    table: pa.Table


@dataclass(frozen=True)
class RawRows:
    """A source whose rows are read as they stand, with raw side features joined to them.

    Args:
        source: The rows.
        columns: Those of its columns that features or side tables need.
        sides: The side tables that hold the other features.
    """

    source: Source
    columns: tuple[str, ...]
    sides: tuple[_RawSide, ...]

    def joined(self, piece: Piece) -> Piece:
        """Return a piece with the columns of side tables.

        Raises:
            DataError: A side table has no row for an id.
        """
        raw = piece.table
        for side in self.sides:
            found = side.table.take(_rows(side.key, piece, side.ids, side.where, side.table.column_names))
            for name in found.column_names:
                raw = raw.append_column(name, found.column(name))
        return replace(piece, table=raw)


def raw_rows(
    table: TableLike, schema: Schema, features: Sequence[Feature], folder: str | Path | None = None
) -> RawRows:
    """Plan how to read raw features from a table and the side tables that the schema declares, as `join` does encoded ones.

    Raises:
        DataError: A feature's column is in none of them, or a side table is missing or holds an id twice.
    """
    source, sides = open_source(table), list[_RawSide]()
    wanted = {it.source for it in features}
    for held in _held(source, schema, features, folder):
        ids = read_ids(held.source, held.key)
        refuse_repeated(ids, held.key, held.source)
        columns = [it.source for it in held.features]
        sides.append(_RawSide(held.key, held.source.name, ids, _whole(held.source, columns)))
        wanted.add(held.key.source)
    return RawRows(source, tuple(it for it in source.columns if it in wanted), tuple(sides))


def _whole(source: Source, columns: Sequence[str]) -> pa.Table:
    """Return columns of a table in memory."""
    return stacked([it.table for it in source.pieces(columns)], f"{source.name}: its files do not fit each other")


def stacked(tables: Sequence[pa.Table], problem: str) -> pa.Table:
    """Return tables one after the other, whose columns may differ in width and in how they hold strings.

    Args:
        tables: At least one; where one lacks a column, its rows are null there.
        problem: What to say where their columns are of different kinds.

    Raises:
        DataError: They are.

    Example:
        >>> codes = pa.array(["x", "y", "x"]).dictionary_encode()
        >>> stacked([pa.table({"a": codes}), pa.table({"a": ["z"]})], "wrong")["a"].to_pylist()
        ['x', 'y', 'x', 'z']
    """
    try:
        return pa.concat_tables([_decoded(it) for it in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as reason:
        raise DataError(f"{problem}: {' '.join(str(reason).split())}") from None


def _decoded(table: pa.Table) -> pa.Table:
    """Return a table without codes, and without the views that Arrow makes no strings of as long as they are codes."""
    for codes in (True, False):
        table = table.cast(pa.schema([pa.field(it.name, _plain(it.type, codes)) for it in table.schema]))
    return table


def _plain(kind: pa.DataType, codes: bool) -> pa.DataType:
    """Return an Arrow type, or what it holds, with strings in place of views, and unless they are kept of codes."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_dictionary(kind):
        value = _plain(kind.value_type, codes)
        return pa.dictionary(kind.index_type, value) if codes else value
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type, codes))
    return pa.large_list(_plain(kind.value_type, codes)) if pa.types.is_large_list(kind) else kind


def as_side_table(table: TableLike, schema: Schema, key: Feature) -> Source:
    """Return a table of the items, or users, that a key tells apart.

    Where the table has no column of the key's name, but the one that the schema's side table gives it, that is the key.

    Example:
        >>> schema = Schema.from_yaml("schemas/movielens_item_to_item.yaml")
        >>> as_side_table({"movie_id": ["1", "2"]}, schema, schema["next_movie"]).columns
        ('next_movie',)
    """
    source = open_source(table)
    if key.source in source.columns:
        return source
    own = (it for it in schema.tables.values() if it.key == key.name and it.column in source.columns)
    side = next(own, None)
    return source if side is None else side.open(source, key)


def read_ids(table: TableLike, feature: Feature) -> pa.Array:
    """Return an id column as it stands, large_string or int64.

    Raises:
        DataError: The column is missing, or an id is.
    """
    source = open_source(table)
    source.require(feature.source, f'feature "{feature.name}"')
    return pa.concat_arrays([ids_in(piece, feature) for piece in source.pieces([feature.source])])


def ids_in(piece: Piece, feature: Feature) -> pa.Array:
    """Return the ids of some rows, as `read_ids` returns those of all."""
    column = read_column(feature, piece)
    if column.values.null_count:
        first = int(np.argmax(column.values.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(f'{column.place_of(first)}: the id "{feature.name}" is missing; fill it in or remove the row')
    return column.values


def _refuse_unmatched(feature: Feature, other: str, columns: Columns, piece: Piece) -> None:
    """Raise `DataError` where a list differs in length from its weights, or from the sequence it is aligned with."""
    values, paired = columns[feature.name], columns[other]
    assert isinstance(values, Lists), "what is paired is a list"
    assert isinstance(paired, Lists), "and so is the other"
    lengths, expected = np.diff(values.splits), np.diff(paired.splits)
    if (lengths != expected).any():
        row = int(np.argmax(lengths != expected))
        raise DataError(
            f'{place_of(piece, row)}: feature "{feature.name}" has {lengths[row]} values and {feature.pair}'
            f" {expected[row]}; expected one for each"
        )


def _describe(source: Source) -> str:
    return f"{source.name} (columns {', '.join(source.columns)})"


def _load(held: _Held, schema: Schema) -> _Side:
    ids = read_ids(held.source, held.key)
    refuse_repeated(ids, held.key, held.source)
    pieces = held.source.pieces([feature.source for feature in held.features])
    columns = whole(
        {feature.name: encode(schema, feature, read_column(feature, piece)) for feature in held.features}
        for piece in pieces
    )
    return _Side(held.key, held.source.name, ids, columns)


def _rows(key: Feature, piece: Piece, side_ids: pa.Array, where: str, names: Sequence[str]) -> Array:
    """Return the row of a side table for each row of a piece.

    Raises:
        DataError: An id of the piece is not in the side table.
    """
    import pyarrow.compute as pc

    ids = read_column(key, piece)
    found = pc.index_in(ids.values, value_set=side_ids)
    if found.null_count:
        first = int(np.argmax(found.is_null().to_numpy(zero_copy_only=False)))
        raise DataError(
            f"{ids.place_of(first)}: {where} has no row for {key.name} {ids.values[first].as_py()!r}"
            f" ({found.null_count} of {len(found)} rows); features {', '.join(names)} come from there: add it"
        )
    return found.to_numpy()


def refuse_repeated(ids: pa.Array, key: Feature, source: Source) -> None:
    """Raise `DataError` if an id stands twice in a table that should hold one row for each."""
    import pyarrow.compute as pc

    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise DataError(
            f"{source.name}: {key.name} {repeated.field('values')[0].as_py()!r} stands {repeated.field('counts')[0].as_py()} times"
            f" ({len(repeated)} ids are repeated); expected one row for each: remove the others"
        )
