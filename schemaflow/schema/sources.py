"""Tables as people hand them over (Parquet files, folders, Arrow, pandas, polars, dicts of arrays), read piece by piece."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Union, runtime_checkable

from schemaflow.errors import DataError, suggest

if TYPE_CHECKING:  # pyarrow costs more start-up than the whole schema; `schemaflow validate` does without
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Piece", "Place", "Source", "TableLike", "open_source"]


@runtime_checkable
class ArrowStream(Protocol):
    """A table of any library that speaks Arrow's C stream interface: pyarrow, polars, pandas 2.2 and later."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Export the table."""


TableLike = Union[str, Path, "pa.Table", ArrowStream, Mapping[str, Any], "Source"]
"""What is taken for a table: a Parquet file, a folder of them, or a table in memory."""


PIECE_ROWS = 250_000
"""Small row groups are read together until they hold this many rows: each piece costs a pass over the vocabularies."""


BATCH_ROWS, BATCH_BYTES = 65_536, 1 << 24
"""The most rows of a batch, and what they may take as Parquet, uncompressed: about what a processor's cache holds."""


CODED_ROWS = 8192
"""Row groups of at least so many rows have strings read as codes."""


BUFFER_BYTES = 1 << 18
"""What is read of a column at a time."""


@dataclass(frozen=True)
class Place:
    """Some row groups of one file.

    Args:
        file: The file; None for a table in memory.
        groups: The numbers of the row groups.
        first_row: The number of the first row in the file, or table.
        rows: How many rows.
        skipped: How many rows of the row groups come before the first row.
    """

    file: Path | None
    groups: tuple[int, ...]
    first_row: int
    rows: int
    skipped: int = 0

    def part(self, start: int, stop: int) -> "Place":
        """Return the place of its rows from `start` to before `stop`."""
        return replace(self, first_row=self.first_row + start, rows=stop - start, skipped=self.skipped + start)

    def __str__(self) -> str:
        first, last = self.groups[0], self.groups[-1]
        return f"{self.file}, row group {first}" if first == last else f"{self.file}, row groups {first} to {last}"


@dataclass(frozen=True)
class Piece:
    """Some rows of a source.

    Args:
        table: The rows.
        where: Where they are from, for messages: `train.parquet, row group 3`.
        first_row: The number of the first of them in the file.
        numbers: The number of each, where they are not in the order of the file, [rows] int.
    """

    table: "pa.Table"
    where: str
    first_row: int = 0
    numbers: "npt.NDArray[Any] | None" = None

    def row(self, row: int) -> int:
        """Return the number in the file of one of its rows."""
        return self.first_row + row if self.numbers is None else int(self.numbers[row])


@dataclass(frozen=True)
class Source:
    """A table that is read piece by piece.

    Args:
        name: What to call it in messages.
        columns: Its column names.
        rows: How many rows it has.
        files: Its Parquet files; empty for a table in memory.
        table: The table in memory.
        numbers: The number of each row of the table, where it is some rows of another.
        alias: The name that a column has in the file, and the name it is given here, where a column is renamed.
        metadata: What the end of each file says, parsed once.
    """

    name: str
    columns: tuple[str, ...]
    rows: int
    files: tuple[Path, ...] = ()
    table: "pa.Table | None" = None
    numbers: "npt.NDArray[Any] | None" = None
    alias: tuple[str, str] | None = None
    metadata: tuple[Any, ...] = field(default=(), compare=False, repr=False)

    @property
    def folder(self) -> Path | None:
        """The folder that holds its files, where side tables are looked for."""
        return self.files[0].parent if self.files else None

    def renamed(self, column: str, name: str) -> "Source":
        """Return it with a column under another name, in place of the column that has that name."""
        columns = tuple(name if it == column else it for it in self.columns if it != name or it == column)
        return replace(self, columns=columns, alias=(column, name))

    def _stored(self, columns: Sequence[str]) -> list[str]:
        """Return the names that columns have in the file."""
        return [self.alias[0] if self.alias is not None and it == self.alias[1] else it for it in columns]

    def _where(self, place: object) -> str:
        return f"{place}" if self.alias is None else f"{place} ({self.alias[0]} as {self.alias[1]})"

    def places(self, rows: int | None = None) -> list[Place]:
        """Return the place of each piece, in order: row groups of one file, enough of them to hold some rows.

        Args:
            rows: How many; `PIECE_ROWS` if None.
        """
        enough = PIECE_ROWS if rows is None else rows
        if self.table is not None:
            return [Place(None, (), it, min(enough, self.rows - it)) for it in range(0, self.rows, enough)]
        found: list[Place] = []
        for file, metadata in zip(self.files, self.metadata, strict=True):
            first = held = 0
            groups: list[int] = []
            for group in range(metadata.num_row_groups):
                groups.append(group)
                held += metadata.row_group(group).num_rows
                if held >= enough or group == metadata.num_row_groups - 1:
                    if held:  # row groups, and files, may be empty
                        found.append(Place(file, tuple(groups), first, held))
                    first, held, groups = first + held, 0, []
        return found

    def read(self, place: Place, columns: Sequence[str]) -> Piece:
        """Return the piece at a place, with only the columns named."""
        if place.file is None:
            return next(self.stream(place, columns, place.rows))
        stored = self._stored(columns)
        with _readable(place):
            opened = self._opened(place.file)
            table = opened.read_row_groups(list(place.groups), columns=stored, use_threads=False)
        return Piece(table.select(stored).rename_columns(list(columns)), self._where(place), place.first_row)

    def pieces(self, columns: Sequence[str]) -> Iterator[Piece]:
        """Yield every piece, with only the columns named."""
        return (self.read(place, columns) for place in self.places())

    def stream(
        self, place: Place, columns: Sequence[str], most: int | None = None, coded: Sequence[str] = ()
    ) -> Iterator[Piece]:
        """Yield the rows at a place, a bounded number at a time however large the row groups are.

        Args:
            place: The place.
            columns: The columns to read.
            most: The most rows at a time, `BATCH_ROWS` if None; fewer where they take more than `BATCH_BYTES`.
            coded: Those of them to give as codes where they are stored so: each distinct string once.
        """
        import pyarrow as pa

        stored, names = self._stored(columns), list(columns)
        if place.file is None:
            assert self.table is not None
            chosen = self.table.select(stored).rename_columns(names)
            end = place.first_row + place.rows
            for first in range(place.first_row, end, most or BATCH_ROWS):
                rows = slice(first, min(first + (most or BATCH_ROWS), end))
                numbers = None if self.numbers is None else self.numbers[rows]
                yield Piece(chosen[rows], self._where(self.name), first, numbers)
            return
        # without a buffer, whole column chunks would be held
        opened = self._opened(
            place.file, pre_buffer=False, buffer_size=BUFFER_BYTES, read_dictionary=self._leaves(place, coded)
        )
        groups = [opened.metadata.row_group(group) for group in place.groups]
        held, size = sum(it.num_rows for it in groups), sum(it.total_byte_size for it in groups)
        most = max(min(most or BATCH_ROWS, BATCH_BYTES * held // max(size, 1)), 1)
        even = -(-held // -(-held // most))  # no short one at the end
        # Arrow reads codes within lists only as long as they are those of one row group
        apart = any(_holds_codes(opened.schema_arrow.field(it).type) for it in stored)
        runs = [[group] for group in place.groups] if apart else [list(place.groups)]
        batches = chain.from_iterable(
            opened.iter_batches(even, row_groups=groups, columns=stored, use_threads=False) for groups in runs
        )
        first, skipped, rest = place.first_row, place.skipped, place.rows
        while rest:
            with _readable(place):
                batch = next(batches)
            kept = batch.slice(min(skipped, batch.num_rows), rest)
            skipped = max(skipped - batch.num_rows, 0)
            if kept.num_rows:
                chosen = pa.Table.from_batches([kept]).select(stored).rename_columns(names)
                yield Piece(chosen, self._where(place), first)
                first, rest = first + kept.num_rows, rest - kept.num_rows

    def batches(self, columns: Sequence[str]) -> Iterator[Piece]:
        """Yield every row, a bounded number at a time, with only the columns named."""
        return (piece for place in self.places() for piece in self.stream(place, columns))

    def _leaves(self, place: Place, columns: Sequence[str]) -> list[str]:
        """Return the paths in the file of columns, or of what is in their lists, that are to be read as codes.

        Each row group has codes of its own, so that a batch ends with it: small ones are quicker read as strings.
        """
        if place.rows < CODED_ROWS * len(place.groups):
            return []
        schema = self.metadata[self.files.index(place.file)].schema
        paths = [schema.column(leaf).path for leaf in range(len(schema))]
        return [it for it in paths for name in self._stored(columns) if it == name or it.startswith(f"{name}.")]

    def _opened(self, file: Path, **options: Any) -> Any:
        return _open(file, metadata=self.metadata[self.files.index(file)], **options)

    def require(self, column: str, purpose: str) -> None:
        """Raise `DataError` unless there is a column of that name."""
        if column not in self.columns:
            raise DataError(
                f'{self.name}: the column "{column}" of {purpose} is missing{suggest(column, self.columns)}; the columns are {", ".join(self.columns)}'
            )


def open_source(table: TableLike) -> Source:
    """Return the table as a source.

    Args:
        table: A Parquet file, a folder of them (read in the order of their names), a `pyarrow.Table`, a pandas or polars
            frame, or a dict of arrays.

    Raises:
        DataError: There is no such file, it is not Parquet, its files differ in columns, or it holds no row.
    """
    if isinstance(table, Source):
        return table
    if isinstance(table, (str, Path)):
        return _open_path(Path(table))
    in_memory = _as_arrow(table)
    if in_memory.num_rows == 0:
        raise DataError("the table in memory holds no rows; expected at least one")
    names = tuple(in_memory.column_names)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise DataError(f'the table in memory has the column "{repeated[0]}" twice; rename one')
    return Source("the table in memory", names, in_memory.num_rows, table=in_memory)


def _as_arrow(table: Any) -> "pa.Table":
    import pyarrow as pa

    try:
        if isinstance(table, ArrowStream):
            return pa.table(table)
        if isinstance(table, Mapping):
            return pa.table({name: _as_column(values) for name, values in table.items()})
        if type(table).__module__.partition(".")[0] == "pandas":
            return pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as reason:
        raise DataError(f"the table in memory cannot be read: {' '.join(str(reason).split())}") from None
    raise DataError(
        f"expected a Parquet file, a folder of them, a pyarrow, pandas or polars table or a dict of arrays, received {type(table).__name__}"
    )


def _as_column(values: Any) -> Any:
    """Return something Arrow takes for a column: an array of several dimensions becomes a list column."""
    import pyarrow as pa

    if isinstance(values, ArrowStream):  # a column of polars, whose lists Arrow cannot read one by one
        return pa.chunked_array(values)
    return list(values) if getattr(values, "ndim", 1) > 1 else values


def _open_path(path: Path) -> Source:
    try:
        if not path.exists():
            raise DataError(f"{path}: there is no such file or folder; expected Parquet")
    except OSError as reason:
        raise DataError(f"{path}: cannot be read: {reason.strerror}") from None
    files = tuple(sorted(path.glob("*.parquet"))) if path.is_dir() else (path,)
    if not files:
        raise DataError(f"{path}: the folder holds no *.parquet file")
    opened = [_footer(file) for file in files]
    columns = opened[0][0]
    for file, (names, _) in zip(files, opened, strict=True):
        if set(names) != set(columns):
            raise DataError(f"{file}: its columns are {', '.join(names)}, those of {files[0]} are {', '.join(columns)}")
    repeated = [name for name in columns if columns.count(name) > 1]
    if repeated:
        raise DataError(f'{files[0]}: the column "{repeated[0]}" stands twice; rename one')
    rows = sum(metadata.num_rows for _, metadata in opened)
    if rows == 0:
        raise DataError(f"{path}: the file holds no rows; expected at least one")
    return Source(str(path), columns, rows, files=files, metadata=tuple(metadata for _, metadata in opened))


@contextmanager
def _readable(place: Place) -> Iterator[None]:
    """Raise `DataError` where Arrow cannot read a place."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as reason:
        raise DataError(f"{place}: not readable: {' '.join(str(reason).split())}; write the file again") from None


def _footer(file: Path) -> tuple[tuple[str, ...], Any]:
    """Return a file's column names and what its end says of it; the file is closed again, for there may be thousands."""
    with _open(file) as opened:
        return tuple(opened.schema_arrow.names), opened.metadata


def _holds_codes(kind: Any) -> bool:
    """Return whether an Arrow type is one of lists of codes."""
    import pyarrow as pa

    return kind.num_fields == 1 and pa.types.is_dictionary(kind.field(0).type)


def _open(file: Path, **options: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, **options)
    except (pa.ArrowInvalid, OSError) as reason:
        raise DataError(f"{file}: not a readable Parquet file: {' '.join(str(reason).split())}") from None
