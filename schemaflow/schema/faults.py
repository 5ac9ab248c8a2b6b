"""What may be wrong with the values of a column: refused when they are encoded, gathered when data are checked."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemaflow.schema.columns import Column, place_of
from schemaflow.schema.feature import Feature
from schemaflow.schema.tags import OWN, Tags

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Fault", "beyond", "fault", "faults_of", "without_log1p"]


@dataclass(frozen=True)
class Fault:
    """Values that a model cannot take.

    Args:
        code: What is wrong, in a word.
        place: Where the first of them stands.
        row: The number of its row in the file.
        reason: What it is, and what to do.
        count: How many there are.
        total: Of how many.
        unit: What is counted: values or rows.
    """

    code: str
    place: str
    row: int
    reason: str
    count: int
    total: int
    unit: str = "values"

    def __str__(self) -> str:
        return f"{self.place}: {self.reason} ({self.count} of {self.total} {self.unit})"


def fault(code: str, feature: Feature, column: Column, wrong: Any, reason: str) -> Iterator[Fault]:
    """Yield a fault where a value is wrong.

    Args:
        code: What is wrong, in a word.
        feature: Whose values they are.
        column: The values.
        wrong: Which of them are, [values] bool.
        reason: To be read after the value.
    """
    import numpy as np

    if wrong.any():
        first = int(np.argmax(wrong))
        shown = column.values[first].as_py()
        text = f'feature "{feature.name}"{"" if shown is None else f" is {shown!r}, which"} {reason}'
        yield Fault(
            code, column.place_of(first), column.row_of(first), text, int(np.count_nonzero(wrong)), len(column.values)
        )


def faults_of(feature: Feature, column: Column, rows: int | None, takes_missing: bool) -> Iterator[Fault]:
    """Yield what is wrong with a feature's values as they stand, the gravest first.

    Args:
        feature: Whose values they are.
        column: The values.
        rows: Of its table, where values are rows themselves.
        takes_missing: Whether a missing value is something to the model.
    """
    misses = column.values.null_count > 0
    names_items = feature.has(Tags.ID) and any(it is Tags.ITEM or OWN.fullmatch(it) for it in feature.tags)
    if misses and names_items and column.splits is None:
        reason = "is missing; an item without an id cannot be learned: fill it in or remove the row"
        yield from fault("missing-value", feature, column, column.missing, reason)
    if feature.kind == "vector":
        yield from _of_vectors(feature, column, takes_missing)
        return
    if misses and not takes_missing:
        hint = {
            "continuous": 'say "missing: mean" or "missing: {value: …}", or fill it in',
            "categorical": 'ids that are rows themselves cannot be: say "vocabulary: learned", or fill it in'
            if rows is not None
            else 'the schema says "missing: error": fill it in',
        }.get(str(feature.kind), "fill it in, or remove the row")
        yield from fault("missing-value", feature, column, column.missing, f"is missing; {hint}")
    if feature.dtype == "string" or (rows is None and feature.kind not in ("value", "weights")):
        return
    values = (column.values.fill_null(0) if misses else column.values).to_numpy()
    # the extremes are found quicker than a mask of each
    if rows is not None and (values.min(initial=0) < 0 or values.max(initial=0) >= rows):
        reason = f"is outside 0 <= id < {rows}, its cardinality; raise the cardinality or correct the data"
        yield from fault("outside-cardinality", feature, column, (values < 0) | (values >= rows), reason)
    if feature.has(Tags.WEIGHT):
        yield from beyond(feature, column, values, "float32")
        yield from fault("negative-weight", feature, column, values < 0, "is below 0; a weight is 0 or more")
    elif feature.has(Tags.EXPLICIT_NEGATIVE):
        reason = "is neither 0 nor 1; an explicit negative is 1, every other row 0"
        yield from fault("explicit-negative", feature, column, (values != 0) & (values != 1), reason)
    elif feature.kind == "value" and feature.dtype.startswith("float"):
        yield from beyond(feature, column, values, feature.dtype)
    if feature.has(Tags.BINARY):
        reason = "is neither 0 nor 1; correct the data, or leave out the tag binary"
        yield from fault("not-binary", feature, column, (values != 0) & (values != 1), reason)


def without_log1p(feature: Feature, column: Column, numbers: "npt.NDArray[Any]") -> Iterator[Fault]:
    """Yield a fault where a feature takes the log(1 + x) of a number that has none."""
    if feature.normalize == "log1p":
        reason = "is not above -1, so it has no log(1 + x); normalize it another way"
        yield from fault("log1p", feature, column, numbers <= -1, reason)


def beyond(feature: Feature, column: Column, values: "npt.NDArray[Any]", dtype: str) -> Iterator[Fault]:
    """Yield a fault where a value is infinite, or becomes so in a dtype.

    Args:
        feature: Whose values they are.
        column: The values as they stand.
        values: What is to be kept of them, [values].
        dtype: What it is to be kept as.
    """
    import numpy as np

    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        if np.isfinite(np.array([values.min(initial=0), values.max(initial=0)]).astype(dtype)).all():
            return  # the extremes are found quicker than a mask of each
        wrong = np.isinf(values.astype(dtype))
    reason = f"is infinite or beyond what {dtype} holds; expected a finite number"
    yield from fault("infinite", feature, column, wrong, reason)


def _of_vectors(feature: Feature, column: Column, takes_missing: bool) -> Iterator[Fault]:
    import numpy as np

    assert column.splits is not None, "vectors are read as lists"
    assert feature.embedding is not None, "a dense vector has a width"
    dim = feature.embedding.dim
    lengths = np.diff(column.splits)
    wrong = (lengths != dim) & ~((lengths == 0) & takes_missing)
    if wrong.any():
        first = int(np.argmax(wrong))
        held = f"has {lengths[first]} numbers" if lengths[first] else "is missing"
        text = f'feature "{feature.name}" {held}, expected {dim}, its width; correct "dim", fill it in, or say "missing: {{value: 0}}"'
        place, row = place_of(column.piece, first), column.piece.row(first)
        yield Fault("vector-width", place, row, text, int(wrong.sum()), len(wrong), "rows")
    yield from beyond(feature, column, column.values.to_numpy(), "float32")
