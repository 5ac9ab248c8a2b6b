"""The first candidates of queries: against a sorted list, with ties, exclusions and tiles of any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemaflow.evaluation import firsts
from schemaflow.evaluation.firsts import Excluded, nearest, popular
from schemaflow.evaluation.judge import Judge
from schemaflow.metrics import query_metrics
from tests.oracles import Array, ranks_of

pytestmark = pytest.mark.short


def sorted_list(scores: Array, out: Array, count: int) -> Array:
    """Return the first of each row, [q, k]: of equal scores the earlier; without those that are out, -1 where none is left."""
    found = np.full((len(scores), min(count, scores.shape[1])), -1)
    for row, own in enumerate(scores):
        left = [column for column in np.argsort(-own, kind="stable") if not out[row, column]]
        found[row, : len(left)] = left[: found.shape[1]]
    return found


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Array, Array, Array, int]:
    """Small whole numbers, so that products are exact and ties are common; exclusions; and how many to find."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    q, n = draw(st.integers(1, 9)), draw(st.integers(1, 120))
    reach = draw(st.sampled_from([0, 1, 5, 1000]))
    queries, items = rng.integers(-reach, reach + 1, (q, 2)), rng.integers(-reach, reach + 1, (n, 2))
    out = rng.random((q, n)) < draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))
    return queries.astype(np.float32), items.astype(np.float32), out, draw(st.integers(1, 12))


@settings(max_examples=40)
@given(worlds(), st.integers(1, 5), st.integers(1, 60))
def test_the_first_are_those_of_the_sorted_list(
    world: tuple[Array, Array, Array, int], rows: int, columns: int
) -> None:
    queries, items, out, count = world
    excluded = Excluded(np.flatnonzero(out), len(items))
    counts = np.abs(items[:, 0]).astype(np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(firsts, "ROWS", rows)
        patch.setattr(firsts, "COLUMNS", columns)
        near = list(nearest(queries, items, count, excluded))
        common = list(popular(counts, len(queries), count, excluded))
    for found, scores in ((near, queries @ items.T), (common, np.tile(counts, (len(queries), 1)))):
        candidates, values = (np.concatenate([getattr(it, name) for it in found]) for name in ("candidates", "scores"))
        assert candidates.tolist() == sorted_list(scores, out, count).tolist()
        there = candidates >= 0
        assert (values[there] == np.take_along_axis(scores, np.maximum(candidates, 0), 1)[there]).all()
        assert (values[~there] == -np.inf).all()


@settings(max_examples=40)
@given(worlds(), st.integers(0, 10**6))
def test_a_judge_says_what_the_definitions_say(world: tuple[Array, Array, Array, int], seed: int) -> None:
    queries, items, out, k = world
    rng = np.random.default_rng(seed)
    q, n = out.shape
    query, item = rng.integers(0, q, 20), rng.integers(-1, n, 20)
    out[query[item >= 0], item[item >= 0]] = False  # positives are not excluded
    scores = np.where(out, -np.inf, queries @ items.T)
    ks = (1, k + 1)
    judged = Judge(query, item, np.arange(q), n, ks)
    found = judged(nearest(queries, items, judged.depth, Excluded(np.flatnonzero(out), n))).whole

    ranks = np.where(item < 0, 10**9, ranks_of(scores, query, item))
    for each in ks:
        assert found[f"hit_rate@{each}"] == pytest.approx((ranks <= each).mean())
        shown = sorted_list(scores, out, each)
        assert found[f"coverage@{each}"] == pytest.approx(len(set(shown[shown >= 0].tolist())) / n)
    expected: dict[str, list[float]] = {}
    for row in np.unique(query):
        positives = np.unique(item[(query == row) & (item >= 0)])
        missing = int(((query == row) & (item < 0)).sum())
        own = ranks_of(scores, np.full(len(positives), row), positives)
        alone = query_metrics(own, np.array([len(own) + missing]), np.zeros(len(own), int), 1, ks)
        for name, value in alone.items():
            expected.setdefault(name, []).append(float(value[0]))
    for name, values in expected.items():
        assert found[name] == pytest.approx(np.mean(values)), name


@pytest.mark.parametrize("rising", [True, False])
def test_the_order_of_candidates_and_many_tiles_change_nothing(rising: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firsts, "COLUMNS", 50)
    items = np.arange(1000.0)[:, np.newaxis] if rising else -np.arange(1000.0)[:, np.newaxis]
    (found,) = nearest(np.ones((2, 1)), items, 3, Excluded(np.array([999, 1000]), 1000))
    expected = [[998, 997, 996], [999, 998, 997]] if rising else [[0, 1, 2], [1, 2, 3]]
    assert found.candidates.tolist() == expected


def test_where_all_are_tied_the_earlier_come_first_and_the_rank_is_last() -> None:
    (found,) = nearest(np.zeros((1, 2)), np.ones((9000, 2)), 4, Excluded(np.array([1]), 9000))
    assert found.candidates.tolist() == [[0, 2, 3, 4]]
    assert found.ranks().tolist() == [[4, 4, 4, 4]]


def test_copies_are_tied_wherever_they_stand() -> None:
    """Products of other shapes round otherwise: were the last tile narrower, copies in it would come before or after."""
    items = np.random.default_rng(0).normal(size=(1500, 1000)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    none = Excluded(np.empty(0, np.int64), 3000)
    (found,) = nearest(items[:1000], np.concatenate([items, items]), 2, none)
    assert (found.ranks() == 2).all()
    assert found.candidates.tolist() == [[row, row + 1500] for row in range(1000)]
