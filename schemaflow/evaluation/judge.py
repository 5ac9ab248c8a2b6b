"""One protocol applied to any scores: the model's and popularity's are judged alike."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Array
from schemaflow.metrics import Floats, Ints, query_metrics, ranks_of

__all__ = ["Excluded", "Judge"]

BLOCK = 2**25
"""Scores in memory at a time: 128 MB of float32."""


@dataclass(frozen=True)
class Excluded:
    """The candidates that are not ranked for each query, as sorted cells `query * candidates + candidate`."""

    cells: Ints
    candidates: int

    def of(self, start: int, end: int) -> tuple[Ints, Ints]:
        """Return (row, candidate) of the cells of queries start to end, rows counted from start."""
        low, high = np.searchsorted(self.cells, [start * self.candidates, end * self.candidates])
        cells = self.cells[low:high]
        return cells // self.candidates - start, cells % self.candidates


@dataclass(frozen=True)
class Judge:
    """One protocol: which positives, which exclusions, which cut-offs; applied to any scores.

    Args:
        query: The query of each positive interaction, [rows] int.
        item: Its candidate, [rows] int, -1 where there is none.
        user: The user of each query, [queries] int.
        candidates: How many.
        ks: The cut-offs, rising.
        excluded: What is not ranked for whom.
    """

    query: Ints
    item: Ints
    user: Ints
    candidates: int
    ks: tuple[int, ...]
    excluded: Excluded | None

    @property
    def asked(self) -> int:
        """How many queries have a positive."""
        return len(np.unique(self.query))

    def __call__(self, scores_of: Callable[[slice], Array]) -> dict[str, float]:
        """Return the metrics of scores.

        Args:
            scores_of: Scores of the queries of a slice, [queries, candidates].
        """
        queries = len(self.user)
        found = self.item >= 0
        # distinct (query, candidate) pairs: an item that a user chose twice is one positive of the ranking
        cells, cell_of_row = np.unique(self.query[found] * self.candidates + self.item[found], return_inverse=True)
        ranks = np.empty(len(cells), np.int64)
        shown = {k: np.zeros(self.candidates, bool) for k in self.ks}
        step = max(1, BLOCK // self.candidates)
        for start in range(0, queries, step):
            end = min(start + step, queries)
            scores = scores_of(slice(start, end))
            if self.excluded is not None:
                scores = np.array(scores)
                scores[self.excluded.of(start, end)] = -np.inf
            low, high = np.searchsorted(cells, [start * self.candidates, end * self.candidates])
            ranks[low:high] = ranks_of(
                scores, cells[low:high] // self.candidates - start, cells[low:high] % self.candidates
            )
            self._show(scores, shown)
        # a positive that is no candidate is beyond every cut-off, even one beyond the catalogue
        row_ranks = np.full(len(self.query), np.iinfo(np.int64).max)
        row_ranks[found] = ranks[cell_of_row]
        relevant = self._relevant(queries, cells)
        asked = np.flatnonzero(relevant)
        number = np.cumsum(relevant > 0) - 1  # of each query among those asked
        each = query_metrics(ranks, relevant[asked], number[cells // self.candidates], len(asked), self.ks)
        per_user = {name: self._mean_over_users(values, asked) for name, values in each.items()}
        hits = {f"hit_rate@{k}": float((row_ranks <= k).mean()) for k in self.ks}
        coverage = {f"coverage@{k}": float(shown[k].mean()) for k in self.ks}
        return per_user | hits | coverage

    def _relevant(self, queries: int, cells: Ints) -> Ints:
        """Count each query's positives: distinct candidates, and every interaction with an item that is none."""
        return np.bincount(cells // self.candidates, minlength=queries) + np.bincount(
            self.query[self.item < 0], minlength=queries
        )

    def _mean_over_users(self, values: Floats, asked: Ints) -> float:
        user = self.user[asked]
        queries = np.bincount(user)
        return float((np.bincount(user, weights=values)[queries > 0] / queries[queries > 0]).mean())

    def _show(self, scores: Array, shown: dict[int, Array]) -> None:
        """Mark the candidates that are among the first k of any row; excluded ones never are."""
        largest = min(self.ks[-1], self.candidates)
        best, top = tf.math.top_k(scores, largest)
        best, top = best.numpy(), top.numpy()
        for k, seen in shown.items():
            seen[top[:, :k][best[:, :k] > -np.inf]] = True
