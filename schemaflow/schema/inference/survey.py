"""One pass over a table: what each column holds, and which columns determine others, in bounded memory."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column, list_kinds, read_column
from schemaflow.schema.feature import Feature
from schemaflow.schema.inference.sketch import NULL, Dependence, Sketch, hash_lists, hash_values
from schemaflow.schema.options import ListOptions, TimeOptions
from schemaflow.schema.sources import Piece, Source
from schemaflow.schema.tags import Tags

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Profile", "Survey", "arrow_types", "percent", "survey"]


@dataclass
class Profile:
    """What a column holds.

    Args:
        name: Of the Parquet column.
        type: Of the column, as Arrow says it.
        dtype: The feature's dtype that reads it; None where none does.
        is_list: Whether a row holds any number of values.
        unit: Of a moment, as Arrow has it; None where it is none.
        sketch: The values; of a list, those within.
        rows: How many there are.
        missing: Rows without a value: null, NaN, the empty string, an empty list.
        low: The least number.
        high: The greatest.
        total: The sum of the numbers.
        words: The words of distinct strings, batch by batch.
        strings: How many distinct strings that was, batch by batch.
        digits: Whether every value is a number, or written in digits alone.
        shortest: The length of the shortest list that is not empty.
        longest: The length of the longest list.
        lengths: A checksum of the lengths of all lists.
        unreadable: Why training could not read it, where that is so.
    """

    name: str
    type: str
    dtype: Any
    is_list: bool
    unit: Any = None
    sketch: Sketch = field(default_factory=Sketch)
    rows: int = 0
    missing: int = 0
    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0
    words: int = 0
    strings: int = 0
    digits: bool = True
    shortest: int = 0
    longest: int = 0
    lengths: int = 0
    unreadable: str | None = None

    @property
    def feature(self) -> Feature:
        """A feature that reads the column as training would; unchecked, for nothing is known yet of what it is for."""
        return Feature.model_construct(
            name=self.name,
            dtype=self.dtype,
            tags=(Tags.CONTEXT, Tags.TIME if self.unit else Tags.CATEGORICAL),
            column=self.name,
            list=ListOptions() if self.is_list else None,
            time=TimeOptions(unit=self.unit) if self.unit else None,
        )

    @property
    def distinct(self) -> int:
        """How many distinct values there are, as the sketch says."""
        return self.sketch.distinct

    @property
    def present(self) -> int:
        """How many rows hold a value."""
        return self.rows - self.missing

    @property
    def is_key(self) -> bool:
        """Whether every row has a value of its own, by which it can be found."""
        return self.dtype is not None and not self.is_list and self.missing == 0 and not self.sketch.repeats

    @property
    def counted(self) -> str:
        """How many distinct values there are, in words."""
        return f"{'' if self.sketch.exact else 'about '}{self.distinct:,} distinct"

    @property
    def nulls(self) -> str:
        """How many rows have no value, in words."""
        word = "empty" if self.is_list else "null"
        return f"{percent(self.missing / self.rows)} {word}" if self.missing else f"no {word}"

    @property
    def summary(self) -> str:
        """What it holds, in words."""
        parts = [self.counted, self.nulls]
        if self.is_list and self.longest:
            shortest = "" if self.shortest == self.longest else f"{self.shortest} to "
            parts.insert(1, f"lists of {shortest}{self.longest}")
        elif self.dtype != "string" and self.present:
            parts.insert(0, f"{self.shown(self.low)} to {self.shown(self.high)}")
        return ", ".join(parts)

    def shown(self, value: float) -> str:
        """Return a number of the column as words show it; of a moment, its day."""
        if self.unit is not None:
            import numpy as np

            return str(np.datetime64(int(value), self.unit))[:10]
        if isinstance(value, float):
            return f"{value:.6g}"
        return f"{value:,}" if abs(value) >= 10_000 else f"{value}"  # 1,984 is no year

    def add(self, column: Column) -> "npt.NDArray[Any]":
        """Take in some rows; return their hashes, [rows] uint64."""
        import numpy as np

        hashes = self._add_values(column.values)
        if column.splits is not None:
            lengths = np.diff(column.splits)
            filled = lengths[lengths > 0]
            if len(filled):
                self.shortest = min(self.shortest or int(filled.min()), int(filled.min()))
                self.longest = max(self.longest, int(filled.max()))
            self.lengths = zlib.crc32(lengths.astype(np.int64).tobytes(), self.lengths)
            hashes = hash_lists(hashes, column.splits)
        self.rows += len(hashes)
        self.missing += int((hashes == NULL).sum())
        return hashes

    def _add_values(self, values: "pa.Array") -> "npt.NDArray[Any]":
        """Take in values; hashing each distinct one once is what makes the pass fast."""
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_floating(values.type):
            values = pc.add(values, 0.0)  # -0.0 becomes 0.0, to which it is equal
        encoded = values.dictionary_encode()
        distinct = encoded.dictionary
        rows = pc.fill_null(encoded.indices, len(distinct)).to_numpy()
        hashes = hash_values(distinct)
        counts = np.bincount(rows, minlength=len(distinct) + 1)[: len(distinct)]
        self.sketch.add(hashes, counts)
        if pa.types.is_large_string(values.type):
            self.words += pc.sum(pc.add(pc.count_substring(pc.utf8_trim_whitespace(distinct), " "), 1)).as_py() or 0
            self.strings += len(distinct)
            self.digits = self.digits and pc.all(pc.utf8_is_digit(distinct)).as_py() is not False
        elif len(distinct):
            bounds = pc.min_max(distinct).as_py()
            self.low, self.high = min(self.low, bounds["min"]), max(self.high, bounds["max"])
            with np.errstate(invalid="ignore", over="ignore"):  # infinite values have no sum
                self.total += float(distinct.to_numpy().astype(np.float64) @ counts)
        return np.append(hashes, np.uint64(NULL))[rows]


@dataclass(frozen=True)
class Survey:
    """What a table holds.

    Args:
        source: The table.
        columns: Each column by name.
        dependences: For each column that may be a key, whether it determines the `watched` ones.
        watched: The names of the columns that are watched, in the order of the dependences.
    """

    source: Source
    columns: dict[str, Profile]
    dependences: dict[str, Dependence]
    watched: tuple[str, ...]

    def strength(self, key: str, column: str) -> float | None:
        """Return how far a key determines a column: 1 wholly, 0 by chance; None where that cannot be told."""
        if key not in self.dependences or column not in self.watched:
            return None
        return self.dependences[key].strength(self.watched.index(column))


def survey(source: Source, keys: Sequence[str], read: Callable[[int], None] = lambda _: None) -> Survey:
    """Return what a table holds, from one pass over it.

    Args:
        source: The table.
        keys: The columns that may determine others.
        read: Told how many rows were read, after each batch.

    Raises:
        DataError: A value cannot be read.
    """
    import numpy as np

    profiles = {name: _profile(name, kind) for name, kind in arrow_types(source).items()}
    readable = [it for it in profiles.values() if it.dtype is not None]
    watched = tuple(it.name for it in readable)
    dependences = {key: Dependence(len(watched)) for key in keys if key in watched}
    for piece in source.batches(watched):
        hashes = {it.name: _add(it, piece) for it in readable}
        if dependences:
            matrix = np.stack(list(hashes.values()), axis=1)  # [rows, columns]
            for key, dependence in dependences.items():
                dependence.add(hashes[key], matrix)
        read(piece.table.num_rows)
    for it in readable:
        it.dtype = None if it.unreadable else it.dtype
    return Survey(source, profiles, dependences, watched)


def _add(profile: Profile, piece: Piece) -> "npt.NDArray[Any]":
    """Take some rows of a column in; one that cannot be read is left out of the draft, and does not keep the others from it."""
    import numpy as np

    nothing = np.full(piece.table.num_rows, NULL, np.uint64)
    if profile.unreadable is not None:
        return nothing
    try:
        return profile.add(read_column(profile.feature, piece))
    except DataError as reason:
        profile.unreadable = reason.problems[0].rpartition(": ")[2]
        return nothing


def percent(share: float) -> str:
    """Return a share in words; a little is never nothing, nor much everything.

    Example:
        >>> percent(1 / 8), percent(1 / 1_000_000)
        ('12.5 %', 'under 0.01 %')
    """
    if 0 < share < 0.0001:
        return "under 0.01 %"
    if 0.9999 < share < 1:
        return "over 99.99 %"
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + " %"


def arrow_types(source: Source) -> dict[str, Any]:
    """Return the Arrow type of each column of a source, by name."""
    import pyarrow.parquet as pq

    kinds = source.table.schema if source.table is not None else pq.read_schema(source.files[0])
    return {field.name: field.type for field in kinds}


def _profile(name: str, kind: "pa.DataType") -> Profile:
    is_list = any(is_kind(kind) for is_kind in list_kinds())
    unit = None if is_list else _unit(kind)
    return Profile(name, str(kind), "int64" if unit else _dtype(kind.value_type if is_list else kind), is_list, unit)


def _unit(kind: "pa.DataType") -> Any:
    """Return the unit in which Arrow's moments are whole numbers; None of another type."""
    from pyarrow import types

    if types.is_timestamp(kind):
        return kind.unit
    return ("s" if types.is_date32(kind) else "ms") if types.is_date(kind) else None


def _dtype(kind: "pa.DataType") -> str | None:
    """Return the dtype that reads an Arrow type; None where there is none."""
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return "string"
    if types.is_boolean(kind):
        return "int8"
    if types.is_integer(kind):
        return "int64" if types.is_uint64(kind) else str(kind)
    if types.is_floating(kind):
        return "float64" if types.is_float64(kind) else "float32"
    return None
