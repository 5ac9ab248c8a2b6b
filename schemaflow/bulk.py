"""A bundle's answers for whole tables, from Parquet to Parquet, in bounded memory."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemaflow.counts import check_count
from schemaflow.data.join import RawRows, as_side_table, ids_in, raw_rows, read_ids, stacked
from schemaflow.errors import BundleError, ConfigError, DataError
from schemaflow.evaluation.queries import positions_of, user_id_of
from schemaflow.export import Recommender
from schemaflow.schema.columns import read_column
from schemaflow.schema.feature import Feature
from schemaflow.schema.sources import Piece, Source, open_source
from schemaflow.schema.tags import Tags

__all__ = ["embed", "recommend_all"]

PART_ROWS = 16_384
"""Rows of a part: what is lost, at most, where a run is killed."""

BATCH_ROWS = 1024
"""Rows that are answered at a time. Part of what a run is: scores may differ in their last bit with it."""

Progress = Callable[[int, int], None]
"""Told how many rows are done, and of how many."""

Ints = npt.NDArray[np.integer[Any]]


def recommend_all(
    bundle: str | Path,
    users: str | Path,
    out: str | Path,
    *,
    k: int | None = None,
    exclude: str | Path | None = None,
    tables: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> int:
    """Write what a bundle recommends for each row of a table, and return how many rows there are.

    `out` has a row for each row of `users`, in their order: the columns of the query's ids as they stand; the items' ids,
    best first, as a list under the name of their column; and `score`, a list of float32. A row may have fewer than k.

    Parts of `PART_ROWS` rows are written to a folder beside `out` and joined at the end, so that `out` is whole or not
    there. A run that was interrupted goes on after its last whole part. Where files hold ids in different widths, the
    widest holds all.

    Args:
        bundle: The folder of an exported bundle.
        users: Parquet with the raw query features, such as users; side features are joined by id from the side tables
            that the schema declares.
        out: The Parquet file to write; one that is there is replaced at the end.
        k: How many items; the bundle's own if None.
        exclude: Interactions: no user gets an item of their own among them. They take 8 bytes each in memory, and the
            distinct users' ids.
        tables: The folder of the side tables, where it is not that of `users`.
        progress: Told how many rows are done, and of how many.

    Raises:
        BundleError: There is no bundle, or it cannot be read.
        DataError: A column is missing, or a row does not fit its feature.
        ConfigError: `exclude` is given and no feature is tagged user and id, `k` is below 1, the parts beside `out` are of
            another run, or another run is writing `out`.
    """
    if k is not None:  # before any work
        check_count("k", k)
    _refuse_inputs(out, users, exclude, tables)
    recommender = Recommender.load(bundle)
    k = recommender.k if k is None else k
    source, item_id = open_source(users), recommender.item_id
    ids = _ids_of(recommender, source)
    rows = raw_rows(source, recommender.schema, (*recommender.features, *ids), tables)
    seen = None if exclude is None else _Seen.read(recommender, source, exclude)
    item_type = pa.list_(pa.string() if item_id.dtype == "string" else pa.int64())

    def answer(piece: Piece) -> pa.Table:
        excluded = None if seen is None else seen.of(piece)
        found = recommender.recommend(_values(recommender.features, piece), k, exclude=excluded)
        columns = {it.source: piece.table.column(it.source) for it in ids}
        columns[item_id.source] = pa.array(found.identifiers, item_type)
        return pa.table(columns | {"score": pa.array(found.scores, pa.list_(pa.float32()))})

    said = {"answers": "recommend", "k": k, "bundle": _manifest(bundle), "tables": _state(tables)}
    said |= {"users": _state(users), "exclude": _state(exclude), "sides": [_state(it.where) for it in rows.sides]}
    return _write(rows, answer, Path(out), said, progress)


def embed(
    bundle: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    side: str | None = None,
    tables: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> int:
    """Write the vectors of queries or items, such as for an outside vector store, and return how many rows there are.

    `out` has a row for each row of `table`, in their order: the id columns as they stand, and `vector`, a
    fixed_size_list<float32>. The score of an item for a query is their vectors' dot product. Where queries have several
    vectors, `vector` is a fixed_size_list of those lists, and the score the highest of the products. It is written as
    `recommend_all` writes, and goes on where it was interrupted.

    Args:
        bundle: The folder of an exported bundle.
        table: Parquet with raw features of queries or of items.
        out: The Parquet file to write; one that is there is replaced at the end.
        side: "query" or "candidate"; the one whose features the table has if None.
        tables: The folder of the side tables, where it is not that of `table`.
        progress: Told how many rows are done, and of how many.

    Raises:
        BundleError: There is no bundle, or it cannot be read.
        DataError: A column is missing, or a row does not fit its feature.
        ConfigError: `side` is neither of the two, or is None where the table has the features of both, the parts beside
            `out` are of another run, or another run is writing `out`.
    """
    _refuse_inputs(out, table, tables)
    recommender = Recommender.load(bundle)
    if side not in ("query", "candidate", None):
        raise ConfigError(f"side is {side!r}; expected query or candidate")
    found = {it: _rows_of(recommender, table, it, tables) for it in ("query", "candidate") if side in (it, None)}
    fitting = {it: rows for it, rows in found.items() if not isinstance(rows, DataError)}
    if not fitting:
        raise DataError(*(f"as {it}: {line}" for it, why in found.items() for line in getattr(why, "problems", ())))
    if len(fitting) > 1:
        raise ConfigError(f"{table}: has the features of queries and of items; say which with side: query or candidate")
    [(side, (rows, ids))] = fitting.items()

    def answer(piece: Piece) -> pa.Table:
        if side == "query":
            vectors = recommender.query_embeddings(_values(recommender.features, piece))
        else:
            columns_of = tuple(piece.table.column_names)
            vectors = recommender.candidate_embeddings(
                Source(piece.where, columns_of, len(piece.table), table=piece.table)
            )
        columns = {it.source: piece.table.column(it.source) for it in ids}
        lists = pa.array(vectors.reshape(-1), pa.float32())
        for size in reversed(vectors.shape[1:]):
            lists = pa.FixedSizeListArray.from_arrays(lists, size)
        return pa.table(columns | {"vector": lists})

    said = {"answers": side, "bundle": _manifest(bundle), "table": _state(table), "tables": _state(tables)}
    said["sides"] = [_state(it.where) for it in rows.sides]
    return _write(rows, answer, Path(out), said, progress)


def _rows_of(
    recommender: Recommender, table: str | Path, side: str, tables: str | Path | None
) -> tuple[RawRows, tuple[Feature, ...]] | DataError:
    """Return the rows of a table as queries or items, with their ids; or why they are none."""
    ids: tuple[Feature, ...]
    try:
        if side == "candidate":
            source, ids = as_side_table(table, recommender.schema, recommender.item_id), (recommender.item_id,)
            features = [recommender.schema[name] for name in recommender.manifest["item_features"]]
            return raw_rows(source, recommender.schema, (*features, *ids), tables), ids
        source, ids = open_source(table), _ids_of(recommender, open_source(table))
        return raw_rows(source, recommender.schema, (*recommender.features, *ids), tables), ids
    except DataError as reason:
        return reason


def _ids_of(recommender: Recommender, source: Source) -> tuple[Feature, ...]:
    """Return the ids of queries that a table has: of users, sessions, or items that are asked by."""
    apart = (it for it in recommender.schema if it.has(Tags.ID) and not it.many and it != recommender.item_id)
    return tuple(it for it in apart if it.source in source.columns)


def _values(features: Sequence[Feature], piece: Piece) -> dict[str, list[Any]]:
    """Return raw features as a request has them, by name.

    Raises:
        DataError: A value does not fit its feature.
    """
    found = {}
    for feature in features:
        column = read_column(feature, piece, tokens=False)
        values, splits = column.values.to_pylist(), column.splits
        if splits is not None:
            values = [values[start:end] for start, end in pairwise(splits)]
        if feature.kind == "vector":
            values = [it or None for it in values]
        found[feature.name] = values
    return found


# -- what users have already ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    """The items of each user: `items[splits[u]:splits[u + 1]]` of the user at u.

    Args:
        user_id: Tells users apart.
        users: Their ids.
        splits: [users + 1] int64.
        items: Positions among the candidates, [pairs] int32.
        names: The candidates' ids, [n].
    """

    user_id: Feature
    users: pa.Array
    splits: Ints
    items: Ints
    names: npt.NDArray[Any]

    @classmethod
    def read(cls, recommender: Recommender, asking: Source, interactions: str | Path) -> "_Seen":
        """Read interactions once, a piece at a time."""
        user_id, item_id, source = user_id_of(recommender.schema), recommender.item_id, open_source(interactions)
        if user_id is None:
            raise ConfigError("exclude needs to know whose items it holds, and no feature is tagged user and id")
        asking.require(user_id.source, f'feature "{user_id.name}", by which items are excluded,')
        for feature in (user_id, item_id):
            source.require(feature.source, f'feature "{feature.name}"')
        candidates = read_ids(recommender.items, item_id)
        users, items = [], []
        for piece in source.pieces([user_id.source, item_id.source]):
            position = positions_of(ids_in(piece, item_id), candidates).astype(np.int32)
            there = position >= 0  # what is no candidate cannot come back
            users.append(ids_in(piece, user_id).filter(pa.array(there)).dictionary_encode())
            items.append(position[there])
        coded = pa.chunked_array(users).unify_dictionaries()
        owners = np.concatenate([it.indices.to_numpy() for it in coded.chunks])
        order = np.argsort(owners, kind="stable")
        distinct = coded.chunk(0).dictionary
        splits = np.searchsorted(owners[order], np.arange(len(distinct) + 1))
        names = candidates.to_numpy(zero_copy_only=False)
        return cls(user_id, distinct, splits, np.concatenate(items)[order], names)

    def of(self, piece: Piece) -> list[list[Any]]:
        """Return the items of each row's user."""
        found = positions_of(read_column(self.user_id, piece).values, self.users)
        return [
            [] if it < 0 else self.names[self.items[self.splits[it] : self.splits[it + 1]]].tolist() for it in found
        ]


# -- parts ------------------------------------------------------------------------------------------------------------


def _write(
    rows: RawRows, answer: Callable[[Piece], pa.Table], out: Path, said: dict[str, Any], progress: Progress
) -> int:
    """Write the answers to all rows, part by part, then as one file."""
    total = rows.source.rows
    with _begun(out, said) as parts:
        try:
            names = []
            for number, part in enumerate(_parts(rows)):
                names.append(parts / f"{number:08}.parquet")
                if not names[-1].exists():
                    answers = [_answered(rows.joined(batch), answer) for batch in _batches(part)]
                    whole = stacked(answers, f"{rows.source.name}: its ids are of different kinds")
                    _replacing(names[-1], [whole.combine_chunks()], whole.schema, parts)
                progress(min(len(names) * PART_ROWS, total), total)
            kinds = pa.unify_schemas([pq.read_schema(file) for file in names], promote_options="permissive")
            _replacing(out, (pq.read_table(file) for file in names), kinds, parts)
            for file in names:
                file.unlink()
        finally:
            if not any(parts.glob("*.parquet")):
                shutil.rmtree(parts)
    return total


def _answered(piece: Piece, answer: Callable[[Piece], pa.Table]) -> pa.Table:
    try:
        return answer(piece)
    except ConfigError as reason:  # the value is of a file here, and no request's
        rows = f"{piece.where}, rows {piece.row(0)} to {piece.row(len(piece.table) - 1)}"
        raise DataError(*(f"{rows}: {problem}" for problem in reason.problems)) from None


def _parts(rows: RawRows) -> Iterator[list[Piece]]:
    """Yield all rows, `PART_ROWS` at a time."""
    held: list[Piece] = []
    room = PART_ROWS
    for piece in rows.source.batches(rows.columns):
        start = 0
        while start < len(piece.table):
            held.append(_slice(piece, start, room))
            start, room = start + len(held[-1].table), room - len(held[-1].table)
            if not room:
                yield held
                held, room = [], PART_ROWS
    if held:
        yield held


def _batches(part: Sequence[Piece]) -> Iterator[Piece]:
    """Yield the rows of a part, `BATCH_ROWS` at a time."""
    return (_slice(it, start, BATCH_ROWS) for it in part for start in range(0, len(it.table), BATCH_ROWS))


def _slice(piece: Piece, start: int, rows: int) -> Piece:
    return Piece(piece.table.slice(start, rows), piece.where, piece.first_row + start)


@contextmanager
def _begun(out: Path, said: dict[str, Any]) -> Iterator[Path]:
    """Give the folder of the parts, of a new run or of one to go on with, while no other run has it."""
    parts = out.parent / f".{out.name}.parts"
    plan, now = parts / "run.json", json.dumps(said | {"part": PART_ROWS, "batch": BATCH_ROWS}, indent=1)
    with ExitStack() as held:
        try:
            if out.is_dir():
                raise ConfigError(f"{out}: is a folder; name a Parquet file")
            parts.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((parts / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however that ends
            old = json.loads(plan.read_text(encoding="utf-8")) if any(parts.glob("*.parquet")) else None
            if old is None:
                plan.write_text(now, encoding="utf-8")
            elif old != json.loads(now):
                changed = [it for it in json.loads(now) if old.get(it) != json.loads(now)[it]]
                raise ConfigError(
                    f"{parts}: holds parts of an interrupted run with other {', '.join(changed)}; remove that folder, or name"
                    " another file"
                )
        except BlockingIOError:
            raise ConfigError(f"{out}: another run is writing it; wait for its end, or name another file") from None
        except OSError as reason:
            raise ConfigError(f"{out}: cannot be written: {reason.strerror}; name another file") from None
        yield parts


def _replacing(file: Path, tables: Iterable[pa.Table], kinds: pa.Schema, folder: Path) -> None:
    """Write tables to a file, a row group each, that is there once it is whole; until then it is in a folder."""
    temporary = folder / f".{file.name}.{os.getpid()}"
    try:
        with pq.ParquetWriter(temporary, kinds, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table.cast(kinds), row_group_size=max(len(table), 1))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _manifest(bundle: str | Path) -> str:
    """Return what tells one bundle from the next."""
    try:
        return hashlib.sha256((Path(bundle) / "manifest.json").read_bytes()).hexdigest()
    except OSError as reason:
        raise BundleError(f"{bundle}: cannot be read: {reason.strerror}") from None


def _refuse_inputs(out: str | Path, *inputs: str | Path | None) -> None:
    """Raise `ConfigError` where the answers would be written over what is read, or among it."""
    target = Path(out).resolve()
    for read in (Path(it).resolve() for it in inputs if it is not None):
        if target == read or (read.is_dir() and target.parent == read and target.suffix == ".parquet"):
            raise ConfigError(f"{out}: is, or would be, among what is read from {read}; write it to another folder")


def _state(path: str | Path | None) -> Any:
    """Return what tells a file, or a folder of them, from what it is once it is changed."""
    if path is None:
        return None
    files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    return [[str(it.resolve()), it.stat().st_size, it.stat().st_mtime_ns] for it in files]
