"""A feature's column, checked against its dtype and brought to one form, whatever Arrow type it came in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError
from schemaflow.schema.feature import Feature
from schemaflow.schema.options import TextOptions
from schemaflow.schema.sources import Piece
from schemaflow.schema.tags import Tags
from schemaflow.schema.text import tokens_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Column", "list_kinds", "missing_value", "place_of", "read_column"]


@dataclass(frozen=True)
class Column:
    """The values of a feature in some rows.

    Args:
        values: large_string, int64 or float64, null where missing: one a row, or those of all lists end to end. Strings
            that were asked for as codes are a dictionary array of large_string, none of which is empty or null itself.
        splits: For a list, where each row's values begin, and the end: int64, rows + 1. None for one value a row.
        piece: The rows.
    """

    values: "pa.Array"
    splits: "npt.NDArray[Any] | None"
    piece: Piece

    @property
    def missing(self) -> "npt.NDArray[Any]":
        """Which values are, [values] bool."""
        import numpy as np

        if not self.values.null_count:
            return np.zeros(len(self.values), bool)
        return self.values.is_null().to_numpy(zero_copy_only=False)

    def place_of(self, position: int) -> str:
        """Say where the value at a position stands: `train.parquet, row group 3, row 250017`."""
        return place_of(self.piece, self._row_of(position))

    def row_of(self, position: int) -> int:
        """Return the number in the file of the row that holds the value at a position."""
        return self.piece.row(self._row_of(position))

    def _row_of(self, position: int) -> int:
        import numpy as np

        return position if self.splits is None else int(np.searchsorted(self.splits, position, side="right")) - 1


def place_of(piece: Piece, row: int) -> str:
    """Say where a row of a piece stands in its file."""
    return f"{piece.where}, row {piece.row(row)}"


def missing_value(dtype: str) -> str | int | float:
    """Return the value that stands for a missing one where there is no null: in tensors, JSON and NumPy arrays.

    The empty string, the least integer of the dtype, or NaN.

    Example:
        >>> missing_value("string"), missing_value("int32")
        ('', -2147483648)
    """
    if dtype == "string":
        return ""
    if dtype.startswith("float"):
        return float("nan")
    import numpy as np

    return int(np.iinfo("int64" if dtype.startswith("u") else dtype).min)


def read_column(feature: Feature, piece: Piece, coded: bool = False, tokens: bool = True) -> Column:
    """Return a feature's values in the rows of a piece: of a text, its tokens; of a dense vector, its numbers.

    The empty string, the least integer and NaN count as missing, as they do in a raw tensor; where the schema names a
    value that stands in for a missing one, that is there. In a list, what is missing takes no part: a null list is an
    empty one, and a null within is left out, as padding is.

    Args:
        feature: The feature.
        piece: The rows.
        coded: Whether to leave strings that come as codes as they are, and integers as wide as their dtype.
        tokens: Whether to split texts; else each is a string.

    Raises:
        DataError: The column has another type than the feature, is a list where the feature is not (or the reverse), or
            holds a list that is longer than the feature's `max_length`, or lacks a value that has a weight.
    """
    import pyarrow as pa

    chunked = piece.table.column(feature.source)
    if pa.types.is_dictionary(chunked.type) and chunked.type.index_type.bit_width < 32:
        # the codes of several chunks may have no room for all values
        wide = [pa.DictionaryArray.from_arrays(it.indices.cast(pa.int32()), it.dictionary) for it in chunked.chunks]
        chunked = pa.chunked_array(wide, pa.dictionary(pa.int32(), chunked.type.value_type))
    array = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
    if isinstance(array, pa.ChunkedArray):  # combine_chunks gives chunks back when one array cannot hold them
        array = pa.concat_arrays(array.chunks)
    wanted, is_list = feature.many, any(is_kind(array.type) for is_kind in list_kinds())
    if is_list != wanted and not (wanted and pa.types.is_null(array.type)):
        expected = f"lists of {feature.dtype}" if wanted else f"one {feature.dtype} a row"
        hint = (
            "make it a list column" if feature.kind == "vector"
            else 'remove "list" from the feature' if wanted
            else 'add "list: {}" to the feature'
        )  # fmt: skip
        raise DataError(
            f'{piece.where}: the column "{feature.source}" holds {array.type}, feature "{feature.name}" expects {expected}; {hint}'
        )
    if wanted:
        return _read_lists(feature, array, piece, coded)
    values = _canonical(feature, array, piece, coded and not feature.text_like)
    if feature.text_like and tokens:
        return Column(*tokens_of(feature.text or TextOptions(), values), piece)
    if feature.stand_in is not None and not feature.is_age:
        values = values.fill_null(_rounded(feature, pa.array([feature.stand_in], values.type))[0])
    return Column(values, None, piece)


def list_kinds() -> list[Any]:
    """Return the tests for an Arrow type that holds any number of values in a row."""
    from pyarrow import types

    return [types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view]


def _read_lists(feature: Feature, array: Any, piece: Piece, coded: bool) -> Column:
    import numpy as np
    import pyarrow as pa

    if pa.types.is_null(array.type):
        array = array.cast(pa.large_list(pa.null()))
    splits = _splits(array)
    values = _canonical(feature, array.flatten(), piece, coded)
    if values.null_count:
        row_of = np.repeat(np.arange(len(splits) - 1), np.diff(splits))  # of each value
        missing = values.is_null().to_numpy(zero_copy_only=False)
        if feature.kind in ("vector", "weights") or feature.paired_with is not None:
            raise DataError(
                f'{place_of(piece, int(row_of[np.argmax(missing)]))}: feature "{feature.name}" misses a value inside its list;'
                f" {'a dense vector' if feature.kind == 'vector' else 'a weighted or aligned list'} must be whole: fill it in"
            )
        splits = _ends(np.bincount(row_of[~missing], minlength=len(splits) - 1))
        values = values.drop_null()
    limit = feature.list.max_length if feature.list is not None else None
    if limit is not None and (lengths := np.diff(splits)).max(initial=0) > limit:
        row = int(np.argmax(lengths > limit))
        raise DataError(
            f'{place_of(piece, row)}: feature "{feature.name}" has {lengths[row]} values,'
            f" more than its max_length of {limit}; raise max_length or shorten the list"
        )
    return Column(values, splits, piece)


def _splits(array: Any) -> "npt.NDArray[Any]":
    """Return where the values of each list begin, and the end, [rows + 1] int64; a null list has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not array.null_count and (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        offsets = array.offsets.cast(pa.int64())
        first = offsets[0].as_py()
        return (pc.subtract(offsets, first) if first else offsets).to_numpy()
    return _ends(pc.fill_null(pc.list_value_length(array), 0).to_numpy())


def _ends(lengths: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
    """Return where lists of some lengths begin, end to end, and the end, [rows + 1] int64."""
    import numpy as np

    splits = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=splits[1:])
    return splits


def _canonical(feature: Feature, array: Any, piece: Piece, coded: bool) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type) and pa.types.is_string_view(array.type.value_type):
        # Arrow decodes no dictionary of views, which is what polars makes of its categories
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(pa.large_string()))
    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or (feature.dtype.startswith("float") and pa.types.is_floating(kind))
    is_number = is_number or (pa.types.is_boolean(kind) and feature.dtype[0] in "iu")  # false is 0, true is 1
    is_moment = Tags.TIME in feature.tags or feature.time is not None
    if pa.types.is_null(kind):
        is_string = is_number = True  # a column of nulls alone fits every dtype
    if is_moment and feature.dtype == "int64" and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        array, is_number = _epoch(feature, array, piece), True
    if not (is_string if feature.dtype == "string" else is_number):
        raise DataError(
            f'{piece.where}: the column "{feature.source}" holds {kind}, feature "{feature.name}" expects {feature.dtype}; change one of them'
        )
    if feature.dtype == "string":
        if coded and pa.types.is_dictionary(array.type):
            return _without_empty_codes(_strings(feature, array.dictionary, piece), array.indices)
        return _strings(feature, array, piece)
    try:
        array = array.cast("float64" if feature.dtype.startswith("float") else feature.dtype)
    except pa.ArrowInvalid as reason:
        raise DataError(
            f'{piece.where}: the column "{feature.source}" does not fit dtype {feature.dtype} of feature "{feature.name}": {reason}'
        ) from None
    if feature.dtype.startswith("float"):
        not_numbers = pc.is_nan(array)
        array = pc.if_else(not_numbers, None, array) if pc.any(not_numbers).as_py() else array
        return array if pa.types.is_float32(kind) else _rounded(feature, array)
    least = missing_value(feature.dtype)
    if pc.min(array).as_py() == least:
        array = pc.if_else(pc.equal(array, least), None, array)
    return array if coded else array.cast(pa.int64())


def _strings(feature: Feature, array: Any, piece: Piece) -> "pa.Array":
    """Return strings as large_string, null where empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = array.cast(pa.large_string())
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as reason:
        raise DataError(
            f'{piece.where}: the column "{feature.source}" of feature "{feature.name}" is no UTF-8 text: {reason}; write it again'
        ) from None
    empty = pc.equal(array, "")
    return pc.if_else(empty, None, array) if pc.any(empty).as_py() else array


def _without_empty_codes(distinct: "pa.Array", codes: "pa.Array") -> "pa.DictionaryArray":
    """Return coded strings; codes of what is null are null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if distinct.null_count:
        position = pc.cumulative_sum(distinct.is_valid().cast(pa.int32()))  # of each that is kept, from 1
        codes = pc.if_else(distinct.is_valid(), pc.subtract(position, 1), None).take(codes)
        distinct = distinct.drop_null()
    return pa.DictionaryArray.from_arrays(codes, distinct)


def _rounded(feature: Feature, array: "pa.Array") -> "pa.Array":
    """Return numbers as the feature's dtype holds them: the exported graph sees no others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if feature.dtype != "float32":
        return array
    narrow = array.cast(pa.float32(), safe=False).cast(pa.float64())
    return pc.if_else(pc.is_inf(narrow), array, narrow)  # what is beyond float32 is refused by its own value


def _epoch(feature: Feature, array: Any, piece: Piece) -> "pa.Array":
    """Return Arrow's timestamps or dates as whole units since 1970."""
    import pyarrow as pa

    unit = "s" if feature.time is None else feature.time.unit
    zone = array.type.tz if pa.types.is_timestamp(array.type) else None
    try:
        return array.cast(pa.timestamp(unit, zone)).cast(pa.int64())
    except pa.ArrowInvalid as reason:
        raise DataError(
            f'{piece.where}: the column "{feature.source}" holds {array.type}, which is no whole number of {unit} ({reason});'
            f' say "time: {{unit: …}}" with a finer unit in feature "{feature.name}"'
        ) from None
