"""What a column holds, gathered piece by piece: how often each value, the moments and the quantiles of numbers."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError
from schemaflow.schema.columns import Column
from schemaflow.schema.faults import beyond
from schemaflow.schema.feature import Feature

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Counter", "Moments", "Quantiles", "finite_numbers"]

MANY = 1_000_000
"""Distinct numbers that are kept apart before their quantiles are approximated."""

COARSE = 65_536
"""Groups that they are brought down to then: each holds 1/65536 of the rows."""


@dataclass
class Counter:
    """Occurrences of each value."""

    tables: list["pa.Table"] = field(default_factory=list)

    def add(self, column: Column) -> None:
        """Count the values of a column."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.value_counts(column.values)
        self.tables.append(pa.table({"value": found.field("values"), "count": found.field("counts")}))
        if len(self.tables) > 32:
            self.tables = [self.total()]

    def total(self) -> "pa.Table":
        """Return the distinct values and their counts, with the missing ones."""
        import pyarrow as pa

        merged = pa.concat_tables(self.tables).group_by("value").aggregate([("count", "sum")])
        return pa.table({"value": merged["value"], "count": merged["count_sum"]})


@dataclass
class Moments:
    """Count, mean, squared deviation and range, merged piece by piece (Chan, Golub & LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, numbers: Any) -> None:
        """Take more numbers in, [n] float64, finite."""
        if not len(numbers):
            return
        mean, delta, total = (
            float(numbers.mean()),
            float(numbers.mean()) - self.mean,
            self.count + len(numbers),
        )
        self.squares += float(((numbers - mean) ** 2).sum()) + delta**2 * self.count * len(numbers) / total
        self.mean += delta * len(numbers) / total
        self.count = total
        self.minimum, self.maximum = (
            min(self.minimum, float(numbers.min())),
            max(self.maximum, float(numbers.max())),
        )

    @property
    def std(self) -> float:
        """The standard deviation of them all."""
        return math.sqrt(self.squares / self.count)


@dataclass
class Quantiles:
    """The quantiles of numbers: exact up to a million distinct ones, then to 1/65536 of the rows."""

    values: Any = None
    counts: Any = None

    def add(self, numbers: Any) -> None:
        """Take more numbers in, [n] float64."""
        import numpy as np

        values, counts = np.unique(numbers, return_counts=True)
        if self.values is not None:
            both, places = np.unique(np.concatenate([self.values, values]), return_inverse=True)
            values, counts = both, np.bincount(places, np.concatenate([self.counts, counts])).astype(np.int64)
        if len(values) > MANY:
            # values of one group become its least, so that what lies below an edge stays below it
            group = (np.cumsum(counts) - counts) * COARSE // counts.sum()
            first = np.unique(group, return_index=True)[1]
            values, counts = values[first], np.add.reduceat(counts, first)
        self.values, self.counts = values, counts

    def edges(self, buckets: int) -> tuple[float, ...]:
        """Return the edges of buckets of about equal size: the least value that q/n of the rows are below, for each q."""
        import numpy as np

        below = np.cumsum(self.counts) - self.counts  # rows below each value
        wanted = np.arange(1, buckets) * self.counts.sum() / buckets
        places = np.searchsorted(below, wanted)
        return tuple(float(it) for it in np.unique(self.values[places[places < len(below)]]))


def finite_numbers(column: Column, feature: Feature) -> Any:
    """Return a column's numbers that are not missing, [n] float64.

    Raises:
        DataError: One is infinite, or so large that its square would be.
    """
    for it in beyond(feature, column, column.values.cast("float64", safe=False).fill_null(0).to_numpy(), "float32"):
        raise DataError(str(it))
    return column.values.drop_null().cast("float64", safe=False).to_numpy()
