"""A feature's column, checked against its dtype and brought to one form, whatever Arrow type it came in."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError
from schemaflow.schema.feature import MISSING, OUT_OF_VOCABULARY, RESERVED_ROWS, Feature
from schemaflow.schema.sources import Piece

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Column", "missing_value", "read_column", "rows_in"]


@dataclass(frozen=True)
class Column:
    """The values of a feature in some rows.

    Args:
        values: large_string, int64 or float64, null where missing: one a row, or those of all lists end to end.
        splits: For a list, where each row's values begin, and the end: int64, rows + 1. None for one value a row.
        piece: The rows.
    """

    values: "pa.Array"
    splits: "npt.NDArray[Any] | None"
    piece: Piece

    def place_of(self, position: int) -> str:
        """Say where the value at a position stands: `train.parquet, row group 3, row 250017`."""
        import numpy as np

        row = position if self.splits is None else int(np.searchsorted(self.splits, position, side="right")) - 1
        return place_of(self.piece, row)


def place_of(piece: Piece, row: int) -> str:
    """Say where a row of a piece stands in its file."""
    return f"{piece.where}, row {piece.first_row + row if piece.numbers is None else piece.numbers[row]}"


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


def rows_in(vocabulary: "pa.Array", values: "pa.Array") -> "npt.NDArray[Any]":
    """Return the table rows of values, [n] int: 1 where missing, 2 where the vocabulary does not hold them.

    Args:
        vocabulary: The values in the order of their rows, of which the first is row 3.
        values: Of the same type, [n].
    """
    import pyarrow.compute as pc

    found = pc.index_in(values, value_set=vocabulary)
    known = pc.fill_null(pc.add(found, RESERVED_ROWS), OUT_OF_VOCABULARY)
    return pc.if_else(pc.is_null(values), MISSING, known).to_numpy(zero_copy_only=False)


def read_column(feature: Feature, piece: Piece) -> Column:
    """Return a feature's values in the rows of a piece.

    The empty string, the least integer and NaN count as missing, as they do in a raw tensor. In a list, what is missing
    takes no part: a null list is an empty one, and a null within is left out, as padding is.

    Raises:
        DataError: The column has another type than the feature, is a list where the feature is not (or the reverse), or
            holds a list that is longer than the feature's `max_length`.
    """
    import pyarrow as pa

    chunked = piece.table.column(feature.source)
    array = chunked.combine_chunks() if isinstance(chunked, pa.ChunkedArray) else chunked
    if isinstance(array, pa.ChunkedArray):  # combine_chunks gives chunks back when one array cannot hold them
        array = pa.concat_arrays(array.chunks)
    is_list = any(is_kind(array.type) for is_kind in _list_kinds())
    if is_list != (feature.list is not None):
        expected = f"lists of {feature.dtype}" if feature.list is not None else f"one {feature.dtype} a row"
        hint = 'remove "list" from' if feature.list is not None else 'add "list: {}" to'
        raise DataError(
            f'{piece.where}: the column "{feature.source}" holds {array.type}, feature "{feature.name}" expects {expected};'
            f" {hint} the feature"
        )
    if feature.list is None:
        return Column(_canonical(feature, array, piece.where), None, piece)
    return _read_lists(feature, array, piece)


def _list_kinds() -> list[Any]:
    from pyarrow import types

    return [types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view]


def _read_lists(feature: Feature, array: Any, piece: Piece) -> Column:
    import numpy as np
    import pyarrow.compute as pc

    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    values = _canonical(feature, array.flatten(), piece.where)
    if values.null_count:
        row_of = np.repeat(np.arange(len(lengths)), lengths)  # of each value
        lengths = np.bincount(row_of[values.is_valid().to_numpy(zero_copy_only=False)], minlength=len(lengths))
        values = values.drop_null()
    limit = feature.list.max_length if feature.list is not None else None
    if limit is not None and len(lengths) and lengths.max() > limit:
        row = int(np.argmax(lengths > limit))
        raise DataError(
            f'{place_of(piece, row)}: feature "{feature.name}" has {lengths[row]} values,'
            f" more than its max_length of {limit}; raise max_length or shorten the list"
        )
    splits = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Column(values, splits, piece)


def _canonical(feature: Feature, array: Any, where: str) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_number = pa.types.is_integer(kind) or (feature.dtype.startswith("float") and pa.types.is_floating(kind))
    if pa.types.is_null(kind):
        is_string = is_number = True  # a column of nulls alone fits every dtype
    if not (is_string if feature.dtype == "string" else is_number):
        raise DataError(
            f'{where}: the column "{feature.source}" holds {kind}, feature "{feature.name}" expects {feature.dtype}; change one of them'
        )
    if feature.dtype == "string":
        array = array.cast(pa.large_string())
        return pc.if_else(pc.equal(array, ""), None, array)
    try:
        array = array.cast(feature.dtype.replace("float32", "float64"))
    except pa.ArrowInvalid as reason:
        raise DataError(
            f'{where}: the column "{feature.source}" does not fit dtype {feature.dtype} of feature "{feature.name}": {reason}'
        ) from None
    if feature.dtype.startswith("float"):
        return pc.if_else(pc.is_nan(array), None, array)
    return pc.if_else(pc.equal(array, missing_value(feature.dtype)), None, array).cast(pa.int64())
