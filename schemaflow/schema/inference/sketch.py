"""What is kept of a stream of values: bounded, exact while the stream is small, the same for the same values in any order.

One structure answers how many distinct values there are, whether any repeats, and how far two columns share values: the
k values of the smallest hashes, with their numbers of occurrences (Bar-Yossef et al. 2002, "Counting distinct elements
in a data stream"). A hash once in the sample leaves it only for good, so the counts of those kept are exact. HyperLogLog
needs less memory for the first question and cannot answer the others.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Array = npt.NDArray[Any]

__all__ = ["NULL", "Dependence", "Sketch", "hash_lists", "hash_values"]

SKETCH_SIZE = 65_536
"""Distinct values up to which counts are exact; beyond, their relative standard error is 1 / sqrt(65,534) = 0.4 %."""

DEPENDENCE_SIZE = 8_192
"""Keys that are watched for whether each has one value of another column."""

NULL = 0
"""The hash of a missing value, and of no other."""

_STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio, odd: splitmix64's own increment
_BYTES = 1 << 22  # of strings that are hashed together: each costs about 40 bytes while that lasts


def mix(values: "Array") -> "Array":
    """Return 64 bits of which each depends on all bits of the values, [n] uint64 to [n] uint64: splitmix64, a bijection."""
    import numpy as np

    mixed = values + np.uint64(_STEP)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hash_values(values: "pa.Array") -> "Array":
    """Return the hash of each value of a large_string, int64 or float64 array, [n] uint64: `NULL` where it is null."""
    import numpy as np
    import pyarrow as pa

    valid = values.is_valid().to_numpy(zero_copy_only=False)
    hashes = np.full(len(values), NULL, np.uint64)
    present = values.drop_null() if values.null_count else values
    is_string = pa.types.is_large_string(values.type)
    found = _hash_strings(present) if is_string else mix(present.to_numpy().view(np.uint64))
    hashes[valid] = np.maximum(found, NULL + 1)
    return hashes


def _hash_strings(values: "pa.Array") -> "Array":
    import numpy as np

    hashes = np.empty(len(values), np.uint64)
    _, offsets_buffer, data_buffer = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[values.offset : values.offset + len(values) + 1]
    data = np.frombuffer(data_buffer or b"", np.uint8)
    first = 0
    while first < len(values):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BYTES, side="right")) - 1)
        part = offsets[first : last + 1]
        hashes[first:last] = _polynomial(data[part[0] : part[-1]].astype(np.uint64) + np.uint64(1), part - part[0])
        first = last
    return hashes


def _polynomial(terms: "Array", splits: "Array") -> "Array":
    """Return a hash of each run of terms, which depends on their order: their sum, each times a power of its place.

    Args:
        terms: Of all runs, end to end, [n] uint64.
        splits: Where each run begins, and the end, [runs + 1].
    """
    import numpy as np

    lengths = np.diff(splits)
    sums = np.zeros(len(lengths), np.uint64)
    if len(terms):
        powers = np.cumprod(np.full(lengths.max(), _STEP, np.uint64))
        weighted = terms * powers[np.arange(len(terms)) - np.repeat(splits[:-1], lengths)]
        sums[lengths > 0] = np.add.reduceat(weighted, splits[:-1][lengths > 0])
    return mix(sums ^ mix(lengths.astype(np.uint64)))


def hash_lists(hashes: "Array", splits: "Array") -> "Array":
    """Return the hash of each list from those of its values, [rows] uint64: `NULL` where it is empty.

    Args:
        hashes: Of all values, end to end, [n] uint64.
        splits: Where each list begins, and the end, [rows + 1].
    """
    import numpy as np

    return np.where(np.diff(splits) > 0, np.maximum(_polynomial(hashes, splits), NULL + 1), NULL).astype(np.uint64)


def _no_hashes() -> "Array":
    import numpy as np

    return np.empty(0, np.uint64)


def _no_counts() -> "Array":
    import numpy as np

    return np.empty(0, np.int64)


@dataclass
class Sketch:
    """The values of the smallest hashes of a stream, and how often each occurs.

    Args:
        size: How many are kept.

    Example:
        >>> import numpy as np
        >>> sketch = Sketch()
        >>> sketch.add(mix(np.arange(10, dtype=np.uint64)), np.full(10, 3))
        >>> sketch.distinct, sketch.exact, sketch.repeats
        (10, True, True)
    """

    size: int = SKETCH_SIZE
    hashes: "Array" = field(default_factory=_no_hashes)
    counts: "Array" = field(default_factory=_no_counts)
    exact: bool = True

    def add(self, hashes: "Array", counts: "Array") -> None:
        """Take in some values.

        Args:
            hashes: Of distinct values, none missing, [n] uint64.
            counts: How often each occurs, [n] int.
        """
        import numpy as np

        if not self.exact:
            within = hashes <= self.hashes[-1]
            hashes, counts = hashes[within], counts[within]
        if not len(hashes):
            return
        places = np.searchsorted(self.hashes, hashes)
        known = places < len(self.hashes)
        known[known] = self.hashes[places[known]] == hashes[known]
        self.counts[places[known]] += counts[known]
        if known.all():
            return
        merged = np.concatenate([self.hashes, hashes[~known]])
        order = np.argsort(merged, kind="stable")[: self.size]
        self.counts = np.concatenate([self.counts, counts[~known]])[order]
        self.exact = self.exact and len(merged) <= self.size
        self.hashes = merged[order]

    @property
    def distinct(self) -> int:
        """How many distinct values there are: exact, or by how densely the smallest hashes lie."""
        return len(self.hashes) if self.exact else round((self.size - 1) / (int(self.hashes[-1]) / 2**64))

    @property
    def repeats(self) -> bool:
        """Whether a value occurs more than once, among those kept."""
        return bool((self.counts > 1).any())

    def share_in(self, other: "Sketch") -> float:
        """Return the share of the distinct values that another stream holds too, from what both sketches would keep."""
        import numpy as np

        mine = self.hashes
        for sketch in (self, other):
            mine = mine if sketch.exact else mine[mine <= sketch.hashes[-1]]
        return float(np.isin(mine, other.hashes, assume_unique=True).mean()) if len(mine) else 0.0


@dataclass
class Dependence:
    """Whether columns are determined by a key: for the keys of the smallest hashes, do later rows repeat the first one's values?

    Args:
        columns: How many columns there are.
        size: How many keys are kept.
    """

    columns: int
    size: int = DEPENDENCE_SIZE

    def __post_init__(self) -> None:
        import numpy as np

        self.keys = _no_hashes()
        self.first = np.empty((0, self.columns), np.uint64)
        self.compared = np.zeros(self.columns, np.int64)
        self.differing = np.zeros(self.columns, np.int64)

    def add(self, keys: "Array", values: "Array") -> None:
        """Take in some rows.

        Args:
            keys: Their hashes, [rows] uint64.
            values: The hashes of the columns, [rows, columns] uint64.
        """
        import numpy as np

        watched = keys != NULL
        if len(self.keys) == self.size:
            watched &= keys <= self.keys[-1]
        keys, values = keys[watched], values[watched]
        merged = np.union1d(self.keys, keys)[: self.size]
        if len(merged) and not np.array_equal(merged, self.keys):
            first = np.full((len(merged), self.columns), NULL, np.uint64)
            kept = np.isin(self.keys, merged, assume_unique=True)
            first[np.searchsorted(merged, self.keys[kept])] = self.first[kept]
            self.keys, self.first = merged, first
        if not len(self.keys):
            return
        within = keys <= self.keys[-1]
        places, values = np.searchsorted(self.keys, keys[within]), values[within]
        for column in range(self.columns):
            self._compare(column, places, values[:, column])

    def _compare(self, column: int, places: "Array", values: "Array") -> None:
        import numpy as np

        present = values != NULL
        places, values = places[present], values[present]
        fresh, rows = np.unique(places, return_index=True)  # of each key, its first row here
        unset = self.first[fresh, column] == NULL
        self.first[fresh[unset], column] = values[rows[unset]]
        later = np.ones(len(places), bool)
        later[rows[unset]] = False
        self.compared[column] += int(later.sum())
        self.differing[column] += int((self.first[places[later], column] != values[later]).sum())

    def differing_by_chance(self, column: int) -> float:
        """Return how many of the rows compared would differ if the key said nothing: by Simpson's index over the keys."""
        import numpy as np

        values = self.first[:, column][self.first[:, column] != NULL]
        if not len(values):
            return 0.0
        counts = np.unique(values, return_counts=True)[1].astype(np.float64)
        return float(self.compared[column] * (1.0 - ((counts / len(values)) ** 2).sum()))

    def strength(self, column: int) -> float | None:
        """Return how far a column is determined: 1 wholly, 0 not more than by chance; None where too few rows tell.

        Example:
            >>> import numpy as np
            >>> keys = mix(np.repeat(np.arange(20, dtype=np.uint64), 2))
            >>> dependence = Dependence(2)
            >>> dependence.add(keys, np.stack([keys >> np.uint64(1), mix(np.arange(40, dtype=np.uint64))], axis=1))
            >>> dependence.strength(0), round(dependence.strength(1), 1)
            (1.0, -0.1)
        """
        expected = self.differing_by_chance(column)
        return None if expected < 5 else 1.0 - int(self.differing[column]) / expected
