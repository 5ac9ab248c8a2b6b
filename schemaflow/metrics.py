"""The metrics of ranks. Functions of arrays, no state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["METRICS", "Floats", "Ints", "query_metrics"]

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]

METRICS = ("recall", "ndcg", "mrr", "map")
"""The metrics that `query_metrics` gives, one ranking per query."""


def query_metrics(ranks: Ints, relevant: Ints, query: Ints, queries: int, ks: Sequence[int]) -> Mapping[str, Floats]:
    """Return recall, ndcg, mrr and map at each k for each query, each [queries] float64.

    With R relevant candidates, of which those at ranks r_1 < r_2 < … were found:
    `recall@k = |{r_i <= k}| / R`; `ndcg@k = sum 1/log2(1 + r_i) / sum_{i <= min(k, R)} 1/log2(1 + i)`;
    `mrr@k = 1/r_1`; `map@k = sum i/r_i / min(k, R)`; every sum over r_i <= k.

    Args:
        ranks: Of each positive found among the candidates, [p] int.
        relevant: How many positives each query has, found or not, [queries] int, each at least 1.
        query: The query of each rank, [p] int.
        queries: How many queries.
        ks: The cut-offs.

    Source:
        Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (ndcg).

    Example:
        >>> result = query_metrics(np.array([1, 3]), np.array([2]), np.array([0, 0]), 1, [1, 3])
        >>> float(result["recall@1"][0]), float(result["recall@3"][0])
        (0.5, 1.0)
    """
    order = np.lexsort((ranks, query))
    ranks, query = ranks[order], query[order]
    start = np.searchsorted(query, np.arange(queries))
    nth = np.arange(len(ranks)) - start[query] + 1  # the positive at ranks[j] is its query's nth best, [p]
    largest = min(max(ks), int(relevant.max(initial=1)))
    ideal = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, largest + 2)))])  # [largest + 1]
    result: dict[str, Floats] = {}
    for k in ks:
        hit = ranks <= k
        capped = np.minimum(relevant, k)

        def total(values: Floats, hit: npt.NDArray[np.bool_] = hit) -> Floats:
            return np.asarray(np.bincount(query, weights=np.where(hit, values, 0.0), minlength=queries), np.float64)

        result[f"recall@{k}"] = total(np.ones(len(ranks))) / relevant
        result[f"ndcg@{k}"] = total(1.0 / np.log2(1.0 + ranks)) / ideal[capped]
        result[f"mrr@{k}"] = total(np.where(nth == 1, 1.0 / ranks, 0.0))
        result[f"map@{k}"] = total(nth / ranks) / capped
    return result
