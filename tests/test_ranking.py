"""Ranks by counting: by hand, against the definition, and where rounding could mislead."""

from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from schemaflow import ranking
from tests.oracles import Array, ranks_of

pytestmark = pytest.mark.short


@pytest.fixture(scope="module", autouse=True)
def small_tiles() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "ROWS", 3)
        patch.setattr(ranking, "COLUMNS", 4)
        yield


def ranked(queries: Array, candidates: Array, positives: Array) -> list[int]:
    ranks = ranking.ranks_of(
        tf.constant(queries, tf.float32), tf.constant(candidates, tf.float32), tf.constant(positives)
    )
    return ranks.numpy().tolist()


def test_ties_count_against_the_positive() -> None:
    candidates = np.array([[3.0, 0.0], [1.0, 0.0], [3.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    queries = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
    assert ranked(queries, candidates, np.array([0, 3, 1, 4, 2])) == [2, 4, 5, 4, 5]


def test_nan_counts_as_higher_and_has_no_rank_itself() -> None:
    candidates = np.array([[np.nan], [1.0], [0.0], [5.0], [2.0], [3.0]])
    assert ranked(np.ones((3, 1)), candidates, np.array([0, 3, 2])) == [2**31 - 1, 2, 6]
    assert ranking.counts_below(
        tf.ones((1, 1)), tf.constant(candidates, tf.float32), tf.constant([[2.0, np.inf, -1.0]])
    ).numpy().tolist() == [[2, 5, 0]]  # fmt: skip


def test_no_queries_have_no_ranks() -> None:
    assert ranked(np.zeros((0, 2)), np.ones((3, 2)), np.zeros(0, np.int64)) == []
    assert ranking.counts_below(tf.zeros((0, 2)), tf.ones((9, 2)), tf.zeros((0, 3))).shape == (0, 3)


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(1, 14), st.integers(0, 10**6))
def test_ranks_are_those_of_the_definition(rows: int, columns: int, seed: int) -> None:
    """Small whole numbers: products are exact, and ties are common."""
    rng = np.random.default_rng(seed)
    queries, candidates = rng.integers(-2, 3, (rows, 2)), rng.integers(-2, 3, (columns, 2))
    positives = rng.integers(0, columns, rows)
    expected = ranks_of(queries @ candidates.T, np.arange(rows), positives)
    assert ranked(queries, candidates, positives) == expected.tolist()


@pytest.mark.parametrize("dim", [7, 64, 1000])
def test_nothing_outranks_its_own_copy_by_rounding(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate stands twice, in different tiles, and is its own query's best: rank 2, neither 1 nor 3."""
    monkeypatch.setattr(ranking, "ROWS", 100)
    monkeypatch.setattr(ranking, "COLUMNS", 70)
    items = np.random.default_rng(0).normal(size=(150, dim)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    assert set(ranked(items, np.concatenate([items, items]), np.arange(150))) == {2}


def test_a_bound_that_the_tiles_do_not_confirm_is_counted_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of another shape that is a little off would put the positive above or below itself."""
    diagonal = tf.linalg.diag_part
    for off in (1.0001, 0.9999):
        monkeypatch.setattr(tf.linalg, "diag_part", lambda it, off=off: diagonal(it) * off)
        assert ranked(np.ones((1, 1)), np.array([[3.0], [1.0], [2.0], [2.0], [9.0]]), np.array([2])) == [4]
