"""One protocol applied to any ranking: the model's and popularity's are judged alike."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from schemaflow.evaluation.firsts import Firsts
from schemaflow.metrics import Floats, Ints, query_metrics

__all__ = ["Judge", "Judgement"]

BEYOND = np.iinfo(np.int64).max
"""The rank of what is not among the first ones: beyond every cut-off."""


@dataclass(frozen=True)
class Judgement:
    """What a ranking comes to.

    Args:
        whole: Of all positives.
        parts: Of some of them each, by name; no coverage, which is of no positive.
    """

    whole: Mapping[str, float]
    parts: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Judge:
    """One protocol: which positives, which cut-offs; applied to any ranking.

    Args:
        query: The query of each positive interaction, [rows] int.
        item: Its candidate, [rows] int, -1 where there is none.
        user: The user of each query, [queries] int.
        candidates: How many.
        ks: The cut-offs, rising.
    """

    query: Ints
    item: Ints
    user: Ints
    candidates: int
    ks: tuple[int, ...]

    @property
    def depth(self) -> int:
        """How many first ones of each query a judgement needs: one more than the largest cut-off, to know of ties with it."""
        return self.ks[-1] + 1

    @property
    def asked(self) -> int:
        """How many queries have a positive."""
        return len(np.unique(self.query))

    def __call__(
        self, ranking: Iterable[Firsts], parts: Mapping[str, npt.NDArray[np.bool_]] | None = None
    ) -> Judgement:
        """Return the metrics of a ranking.

        Args:
            ranking: The first `depth` of all queries, in their order, some queries after the others.
            parts: Which positives are judged alone too, each [rows] bool; none where a part is empty.
        """
        found = self.item >= 0
        # distinct (query, candidate) pairs: an item that a user chose twice is one positive of the ranking
        cells, cell_of_row = np.unique(self.query[found] * self.candidates + self.item[found], return_inverse=True)
        ranks = np.full(len(cells), BEYOND)
        shown = {k: np.zeros(self.candidates, bool) for k in self.ks}
        start = 0
        for firsts in ranking:
            rows = np.arange(start, start + len(firsts.candidates))
            here = np.where(firsts.candidates < 0, -1, rows[:, np.newaxis] * self.candidates + firsts.candidates)
            place = np.minimum(np.searchsorted(cells, here), max(0, len(cells) - 1))  # [b, depth]
            hit = cells[place] == here if len(cells) else np.zeros(here.shape, bool)
            ranks[place[hit]] = firsts.ranks()[hit]
            for k, seen in shown.items():
                first = firsts.candidates[:, :k]
                seen[first[first >= 0]] = True
            start += len(rows)
        # a positive that is no candidate is beyond every cut-off, even one beyond the catalogue
        row_ranks = np.full(len(self.query), BEYOND)
        row_ranks[found] = ranks[cell_of_row]
        coverage = {f"coverage@{k}": float(shown[k].mean()) for k in self.ks}
        whole = self._metrics(row_ranks)
        judged = {
            name: whole
            if rows.all()
            else replace(self, query=self.query[rows], item=self.item[rows])._metrics(row_ranks[rows])
            for name, rows in (parts or {}).items()
            if rows.any()
        }
        return Judgement(whole | coverage, judged)

    def _metrics(self, row_ranks: Ints) -> dict[str, float]:
        """Return the metrics of the rank of each positive interaction, [rows]."""
        queries, found = len(self.user), self.item >= 0
        cells, first = np.unique(self.query[found] * self.candidates + self.item[found], return_index=True)
        ranks, relevant = row_ranks[found][first], self._relevant(queries, cells)
        asked = np.flatnonzero(relevant)
        number = np.cumsum(relevant > 0) - 1  # of each query among those asked
        each = query_metrics(ranks, relevant[asked], number[cells // self.candidates], len(asked), self.ks)
        per_user = {name: self._mean_over_users(values, asked) for name, values in each.items()}
        hits = {f"hit_rate@{k}": float((row_ranks <= k).mean()) for k in self.ks}
        return per_user | hits

    def _relevant(self, queries: int, cells: Ints) -> Ints:
        """Count each query's positives: distinct candidates, and every interaction with an item that is none."""
        return np.bincount(cells // self.candidates, minlength=queries) + np.bincount(
            self.query[self.item < 0], minlength=queries
        )

    def _mean_over_users(self, values: Floats, asked: Ints) -> float:
        user = self.user[asked]
        queries = np.bincount(user)
        return float((np.bincount(user, weights=values)[queries > 0] / queries[queries > 0]).mean())
