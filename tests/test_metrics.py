"""Metrics of ranks by hand, and against an independent implementation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemaflow.metrics import query_metrics
from tests.oracles import ranks_of

pytestmark = pytest.mark.short


def test_metrics_by_hand() -> None:
    # query 0: three relevant, found at ranks 1 and 3, one is no candidate; query 1: one relevant, found at rank 2
    found = query_metrics(np.array([3, 2, 1]), np.array([3, 1]), np.array([0, 1, 0]), 2, [2, 3])
    log = np.log2
    assert found["recall@2"].tolist() == pytest.approx([1 / 3, 1.0])
    assert found["recall@3"].tolist() == pytest.approx([2 / 3, 1.0])
    assert found["ndcg@2"].tolist() == pytest.approx([1 / (1 + 1 / log(3)), 1 / log(3)])
    assert found["ndcg@3"].tolist() == pytest.approx([(1 + 1 / 2) / (1 + 1 / log(3) + 1 / 2), 1 / log(3)])
    assert found["mrr@2"].tolist() == pytest.approx([1.0, 0.5])
    assert found["map@2"].tolist() == pytest.approx([1 / 2, 1 / 2])
    assert found["map@3"].tolist() == pytest.approx([(1 + 2 / 3) / 3, 1 / 2])


def oracle(scores: list[float], positives: list[int], k: int) -> dict[str, float]:
    """The textbook, for scores without ties: walk down the sorted list."""
    order = sorted(range(len(scores)), key=lambda it: -scores[it])[:k]
    hits = [1.0 if it in positives else 0.0 for it in order]
    ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(positives))))
    precision = [sum(hits[: rank + 1]) / (rank + 1) * hit for rank, hit in enumerate(hits)]
    return {
        "recall": sum(hits) / len(positives),
        "ndcg": sum(hit / np.log2(rank + 2) for rank, hit in enumerate(hits)) / ideal,
        "mrr": max((hit / (rank + 1) for rank, hit in enumerate(hits)), default=0.0),
        "map": sum(precision) / min(k, len(positives)),
    }


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 12))
def test_metrics_are_those_of_the_sorted_list(seed: int, candidates: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(candidates).astype(np.float32)[np.newaxis]
    positives = rng.choice(candidates, size=rng.integers(1, candidates + 1), replace=False)
    ranks = ranks_of(scores, np.zeros(len(positives), int), positives)
    found = query_metrics(ranks, np.array([len(positives)]), np.zeros(len(positives), int), 1, [k])
    for name, value in oracle(scores[0].tolist(), positives.tolist(), k).items():
        assert found[f"{name}@{k}"][0] == pytest.approx(value), name
