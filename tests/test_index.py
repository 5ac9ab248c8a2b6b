"""Every index: what may come back does, what may not never does, and what is saved finds the same."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import registry
from schemaflow.errors import ConfigError, DataError
from schemaflow.index import Index, brute_force
from tests.test_contract import Holder

pytestmark = pytest.mark.filterwarnings("ignore:.*np.find_common_type:DeprecationWarning")

# how to make each; "all" looks at everything, so that the answer is the exact one
INDICES: dict[str, Callable[..., Index]] = {
    "brute-force": sf.BruteForce,
    "ivf all": lambda **it: sf.IVF(num_lists=4, nprobe=4, **it),
    "ivf": lambda **it: sf.IVF(num_lists=4, nprobe=1, **it),
    "ivf bfloat16": lambda **it: sf.IVF(num_lists=4, nprobe=2, storage="bfloat16", **it),
    "ivf int8": lambda **it: sf.IVF(num_lists=4, nprobe=2, storage="int8", seed=3, **it),
    "faiss flat all": sf.Faiss,
    "faiss ivf all": lambda **it: sf.Faiss(kind="ivf", num_lists=4, nprobe=4, **it),
    "faiss ivf": lambda **it: sf.Faiss(kind="ivf", num_lists=4, nprobe=1, seed=3, **it),
    "faiss hnsw all": lambda **it: sf.Faiss(kind="hnsw", neighbors=8, ef_search=64, **it),
    "scann all": sf.ScaNN,
}
EXACT = ["brute-force", *(name for name in INDICES if name.endswith(" all"))]


def is_there(package: str) -> bool:
    """Whether an optional package can be imported; ScaNN beside another TensorFlow raises what it likes."""
    try:
        __import__(package)
    except Exception:
        return False
    return True


MISSING = {package for package in ("faiss", "scann") if not is_there(package)}


def each(names: Any = INDICES) -> pytest.MarkDecorator:
    def param(name: str) -> Any:
        package = name.partition(" ")[0]
        skip = pytest.mark.skipif(package in MISSING, reason=f"{package} cannot be imported here")
        return pytest.param(INDICES[name], id=name, marks=skip)

    return pytest.mark.parametrize("make", [param(name) for name in names])


@cache
def reused(make: Callable[..., Index]) -> Index:
    """One of each for many examples, since a graph is made for each index; indexing again replaces all."""
    return make()


def sorted_list(vectors: Any, query: Any, k: int, out: Any = (), allowed: Any = None, may: Any = None) -> list[int]:
    """The k best that may come back, by a sorted list."""
    return [
        it for it in np.argsort(-(vectors @ query), kind="stable").tolist()
        if it not in out and (allowed is None or it in allowed) and (may is None or may[it])
    ][:k]  # fmt: skip


def world(seed: int, candidates: int = 40, queries: int = 3, dim: int = 4) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    return (
        rng,
        rng.normal(size=(candidates, dim)).astype(np.float32),
        rng.normal(size=(queries, dim)).astype(np.float32),
    )


def test_every_registered_index_is_here() -> None:
    made = {name for kind, name in registry.entries() if kind == "index"}
    assert made == {"brute-force", *(name.partition(" ")[0] for name in INDICES if name != "brute-force")}


# -- the contract of all ------------------------------------------------------------------------------------------------


@each(EXACT)
@pytest.mark.parametrize("strings", [True, False])
def test_search_and_exclusions_are_those_of_a_sorted_list(make: Callable[..., Index], strings: bool) -> None:
    rng, vectors, queries = world(1)
    ids = np.array([f"i{it}" for it in range(40)]) if strings else rng.permutation(10**12 + np.arange(40))
    fill = "" if strings else np.iinfo(np.int64).min
    index = make(k=7).index(vectors, tf.constant(ids))

    def text(found: tf.Tensor) -> Any:
        return (found.numpy().astype(str) if strings else found.numpy()).tolist()

    scores, found = index(tf.constant(queries))
    assert text(found) == [ids[sorted_list(vectors, query, 7)].tolist() for query in queries]
    expected = [np.sort(vectors @ query)[::-1][:7] for query in queries]
    assert scores.numpy() == pytest.approx(np.array(expected), abs=1e-5)
    # more than there are gives all there are
    assert text(index(tf.constant(queries), k=100)[1]) == [ids[sorted_list(vectors, it, 40)].tolist() for it in queries]
    out = [rng.permutation(40)[:size] for size in (0, 12, 36)]
    padded = [[*ids[row].tolist(), *[fill] * (37 - len(row))] for row in out]
    scores, found = index.query_with_exclusions(tf.constant(queries), tf.constant(padded))
    left = [ids[sorted_list(vectors, query, 7, row)].tolist() for query, row in zip(queries, out, strict=True)]
    assert text(found) == [row + [fill] * (7 - len(row)) for row in left]
    assert (scores.numpy() > -np.inf).sum(axis=1).tolist() == [7, 7, 4]


@each(EXACT)
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), candidates=st.integers(1, 30), k=st.integers(1, 12))
def test_what_may_come_back_is_what_a_sorted_list_holds(
    make: Callable[..., Index], seed: int, candidates: int, k: int
) -> None:
    rng, vectors, queries = world(seed, candidates)
    index = reused(make).index(vectors)
    exclude, allow = rng.integers(-1, candidates, (3, 4)), rng.integers(-1, candidates, (3, 9))
    eligible = rng.random(candidates) < rng.random()
    for allowed in (None, allow):
        for may in (None, eligible):
            found = index.search(
                tf.constant(queries), k, exclude, allowed, None if may is None else tf.constant(may)
            )[1].numpy()  # fmt: skip
            assert found.shape == (3, min(k, candidates))
            for row in range(3):
                kept = sorted_list(
                    vectors, queries[row], k, exclude[row], None if allowed is None else allowed[row], may
                )
                assert found[row, : len(kept)].tolist() == kept
                assert (found[row, len(kept) :] == np.iinfo(np.int64).min).all()


@each()
@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), candidates=st.integers(1, 60), k=st.integers(1, 40))
def test_a_row_is_as_long_as_it_can_be_and_its_scores_are_true(
    make: Callable[..., Index], seed: int, candidates: int, k: int
) -> None:
    """Approximate or not: nothing that may not, nothing twice, k where there are as many, and scores are exact."""
    rng, vectors, queries = world(seed, candidates)
    index = reused(make).index(vectors)
    exclude, eligible = rng.integers(-1, candidates, (3, 4)), rng.random(candidates) < rng.random()
    for may in (None, eligible):
        for by_angle in (False, True):
            scores, found = index.nearest(
                tf.constant(queries), k, tf.constant(exclude, tf.int32), None, None if may is None else tf.constant(may), by_angle
            )  # fmt: skip
            for row in range(3):
                real = found.numpy()[row][found.numpy()[row] >= 0].tolist()
                left = set(range(candidates) if may is None else np.flatnonzero(may).tolist()) - set(
                    exclude[row].tolist()
                )
                assert len(real) == len(set(real)) == min(k, len(left))
                assert set(real) <= left
                exact = vectors[real] @ queries[row] / (np.linalg.norm(vectors[real], axis=1) if by_angle else 1)
                assert scores.numpy()[row, : len(real)] == pytest.approx(exact, abs=1e-5)
                assert (scores.numpy()[row, len(real) :] == -np.inf).all()
                assert (np.diff(scores.numpy()[row, : len(real)]) <= 0).all()


@each()
def test_scores_by_angle_are_divided_by_the_candidates_lengths(make: Callable[..., Index]) -> None:
    index = make().index([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    scores, positions = index.nearest(tf.constant([[2.0, 0.0]]), 3, by_angle=True)
    assert scores.numpy()[0].tolist() == pytest.approx([2.0, 1.2, 0.0])
    assert positions.numpy().tolist() == [[1, 0, 2]]


@each()
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_angles_are_those_of_vectors_whose_squares_are_beyond_float32(make: Callable[..., Index], size: float) -> None:
    index = make().index(size * np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 1.0]]))
    scores, positions = index.nearest(tf.constant([[2.0, 0.0]]), 3, by_angle=True)
    assert scores.numpy()[0].tolist() == pytest.approx([2.0, 1.2, 0.0])
    assert positions.numpy().tolist() == [[1, 0, 2]]


@each()
def test_an_excluded_item_stays_out_whatever_its_score(make: Callable[..., Index]) -> None:
    index = make(k=2).index([[1e30], [1.0], [0.5]], ["top", "b", "c"])
    _, found = index.query_with_exclusions(tf.constant([[1e5]]), tf.constant([["top"]]))
    assert found.numpy().tolist() == [[b"b", b"c"]]


@each()
def test_identifiers_are_any_text(make: Callable[..., Index]) -> None:
    index = make(k=1).index([[2.0], [1.0]], ["café", "книга"])
    _, found = index.query_with_exclusions(np.array([[1.0]], np.float32), [["café"]])
    assert found.numpy()[0, 0].decode() == "книга"
    with pytest.raises(ConfigError, match="ids asked for are int64; expected string"):
        index.query_with_exclusions(tf.constant([[1.0]]), tf.constant([[3]]))


@each()
def test_indexing_again_replaces_the_candidates(make: Callable[..., Index]) -> None:
    index = make(k=5).index([[1.0], [2.0]], ["a", "b"])
    index.nearest(tf.constant([[1.0]]), 1, by_angle=True)
    index.index([[3.0]], ["c"])
    assert index(tf.constant([[1.0]]))[1].numpy().tolist() == [[b"c"]]
    with pytest.raises(ConfigError, match="are int64, and those before were string; make another index"):
        index.index([[1.0]], [7])
    assert index.nearest(tf.constant([[1.0]]), 5, by_angle=True)[1].numpy().tolist() == [[0]]
    assert make(k=1).index([[1.0], [2.0]])(tf.constant([[1.0]]))[1].numpy().tolist() == [[1]]


@each()
def test_one_list_excludes_for_all_rows(make: Callable[..., Index]) -> None:
    rng, vectors, queries = world(9)
    index = make(k=6).index(vectors)
    for size in (0, 1, 15, 38):
        out = rng.permutation(40)[np.newaxis, :size]
        scores, found = index.query_with_exclusions(tf.constant(queries), out)
        each_row = index.query_with_exclusions(tf.constant(queries), np.repeat(out, 3, axis=0))
        assert found.numpy().tolist() == each_row[1].numpy().tolist()
        assert scores.numpy() == pytest.approx(each_row[0].numpy(), abs=1e-6)
        assert not np.isin(found, out).any()


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_a_row_is_answered_as_it_is_alone(storage: str) -> None:
    """Whatever its company excludes, and however short that comes."""
    _, vectors, queries = world(7, candidates=200, queries=12)
    index = sf.IVF(k=9, num_lists=40, nprobe=2, storage=storage).index(vectors)
    rng = np.random.default_rng(0)
    exclude = np.full((12, 30), np.iinfo(np.int64).min)
    for row in range(12):
        exclude[row, : 3 * row % 31] = rng.permutation(200)[: 3 * row % 31]
    _, together = index.query_with_exclusions(tf.constant(queries), exclude)
    for row in range(12):
        own = exclude[row : row + 1, : 3 * row % 31]
        _, alone = index.query_with_exclusions(tf.constant(queries[row : row + 1]), own)
        assert alone.numpy().tolist() == together.numpy()[row : row + 1].tolist()


def test_a_query_that_is_no_point_has_nothing_near() -> None:
    index = sf.BruteForce(k=2).index([[1.0], [2.0]], ["a", "b"])
    assert index(tf.constant([[float("nan")], [1.0]]))[1].numpy().tolist() == [[b"", b""], [b"b", b"a"]]
    with pytest.raises(ConfigError, match=r"exclude has the shape \(3, 1\); expected \[2, any\]"):
        index.query_with_exclusions(tf.constant([[1.0], [1.0]]), [["a"]] * 3)
    with pytest.raises(ConfigError, match=r"allow has the shape \(1, 1\); expected \[2, any\]"):
        index.search(tf.constant([[1.0], [1.0]]), allow=[["a"]])
    assert index(tf.constant([[1.0]]), k=2**33)[1].shape == (1, 2)


@each()
def test_ids_are_never_taken_for_others(make: Callable[..., Index]) -> None:
    index, query = (
        make(k=np.int64(2)).index([[3.0], [2.0], [1.0]], np.array([2**53, 2**53 + 1, -1])),
        tf.constant([[1.0]]),
    )
    for exclusions in ([[float(2**53)]], [[True]], np.array([[2**64 - 1]], np.uint64)):
        with pytest.raises(ConfigError, match=r"identifiers are (float32|bool|uint64)"):
            index.query_with_exclusions(query, exclusions)
    with pytest.raises(ConfigError, match="all rows of one length"):
        index.query_with_exclusions(query, [[1], [2, 3]])
    for none in ([[]], np.zeros((1, 0), np.int64)):
        assert index.query_with_exclusions(query, none, k=np.int64(1))[1].numpy().tolist() == [[2**53]]
    with pytest.raises(ConfigError, match="k is 0; expected an integer of at least 1"):
        index(query, k=0)
    words = make(k=1).index([[1.0]], ["a"])
    assert words.query_with_exclusions(query, [[]])[1].numpy().tolist() == [[b"a"]]


@each()
def test_datasets_of_vectors_are_indexed(make: Callable[..., Index]) -> None:
    vectors, ids = tf.constant([[1.0], [3.0], [2.0]]), tf.constant(["a", "b", "c"])
    pairs = tf.data.Dataset.from_tensor_slices((ids, vectors)).batch(2)
    assert make(k=1).index_from_dataset(pairs)(tf.constant([[1.0]]))[1].numpy().tolist() == [[b"b"]]
    alone = tf.data.Dataset.from_tensor_slices(vectors).batch(2)
    assert make(k=1).index_from_dataset(alone)(tf.constant([[1.0]]))[1].numpy().tolist() == [[1]]


@each()
def test_no_query_is_answered_by_no_row(make: Callable[..., Index]) -> None:
    index = make(k=2).index([[1.0], [2.0], [3.0]])
    assert index(tf.zeros([0, 1]))[1].shape == (0, 2)
    assert index.query_with_exclusions(tf.zeros([0, 1]), tf.zeros([0, 1], tf.int64))[1].shape == (0, 2)


@each()
def test_indices_that_cannot_be(make: Callable[..., Index]) -> None:
    index = make()
    with pytest.raises(ConfigError, match="holds no candidates yet"):
        index(tf.constant([[1.0]]))
    for candidates, ids, message in [
        ([[1.0], [2.0]], ["a", "a"], "stand more than once"),
        ([[1.0], [float("nan")]], ["a", "b"], "candidate number 1 holds NaN"),
        ([[1.0], [2.0]], ["a"], r"expected \[2\]"),
        ([1.0], None, r"expected \[n, dim\]"),
        (np.zeros((0, 2)), None, "at least one candidate"),
        ([[1.0]], [""], "fills short rows"),
        ([[1.0]], [1.5], "expected strings or integers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            index.index(candidates, ids)
    with pytest.raises(ConfigError, match="k is 0"):
        make(k=0)
    with pytest.raises(ConfigError, match="no query_model to make them"):
        index.index([[1.0]])(tf.constant(["u"]))
    with pytest.raises(ConfigError, match="dataset of candidates is empty"):
        index.index_from_dataset([])


USERS = {"user_id": ["u00003", "u00077"], "age": [30, 41], "country": ["JP", "US"]}


@each(EXACT)
def test_raw_features_go_through_the_query_model(
    make: Callable[..., Index], trained: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    ids = pq.read_table(data.items)["item_id"].to_pylist()
    vectors = trained.candidate_embeddings(data.items)
    index = make(query_model=trained.to_index(data.items).query_model, k=4).index(vectors, ids)
    _, found = index({name: tf.constant(values) for name, values in USERS.items()})
    queries = trained.query_embeddings(USERS)
    assert found.numpy().astype(str).tolist() == [[ids[it] for it in sorted_list(vectors, row, 4)] for row in queries]


@each()
def test_saved_and_loaded_it_finds_the_same(make: Callable[..., Index], tmp_path: Path) -> None:
    _, vectors, queries = world(4, candidates=300, queries=20)
    index = make(k=3).index(vectors, [f"ü{it}" for it in range(300)])
    model = Holder(index)
    model(tf.constant(queries))
    model.save(tmp_path / "it.keras")
    again = keras.models.load_model(tmp_path / "it.keras").layer
    assert again.get_config() == index.get_config()
    for left, right in zip(again(tf.constant(queries)), index(tf.constant(queries)), strict=True):
        assert np.array_equal(left, right)


# -- what is one index's own --------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12))
def test_blocks_and_ties_change_nothing(seed: int, candidates: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = rng.integers(-3, 4, (candidates, 3)), rng.integers(-3, 4, (3, 3))
    index = sf.BruteForce().index(vectors)
    eligible = rng.random(candidates) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brute_force, "BLOCK_SCORES", 1)
        patch.setattr(brute_force, "BLOCK_CANDIDATES", 7)
        found = index.search(tf.constant(queries, tf.float32), k, eligible=tf.constant(eligible))[1].numpy()
    for row in range(3):
        kept = sorted_list(vectors, queries[row], k, may=eligible)  # of equal scores the first candidate is first
        assert found[row, : len(kept)].tolist() == kept


def corners() -> Any:
    """Three directions, ten candidates each, of lengths 1 to 10: number 10 c + i is i + 1 long."""
    return np.concatenate([np.eye(3)[[corner]] * np.arange(1, 11)[:, None] for corner in range(3)]).astype(np.float32)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_a_query_looks_in_the_list_it_points_to_and_no_other(storage: str) -> None:
    index = sf.IVF(k=3, num_lists=3, nprobe=1, storage=storage).index(corners())
    assert sorted(np.diff(index.bounds.numpy()).tolist()) == [10, 10, 10]
    # by score the best are 9, 19, 8: those of the second corner are in a list that is not looked in
    query = tf.constant([[1.0, 0.95, 0.0]])
    assert index(query)[1].numpy().tolist() == [[9, 8, 7]]
    assert index(query, nprobe=2)[1].numpy().tolist() == [[9, 19, 8]]
    assert index(query, nprobe=tf.constant(3))[1].numpy().tolist() == [[9, 19, 8]]
    assert index(query, nprobe=99)[1].numpy().tolist() == [[9, 19, 8]]


def test_a_list_of_long_candidates_comes_first() -> None:
    vectors = np.concatenate([corners()[:10], 100 * corners()[10:20]])
    index = sf.IVF(k=1, num_lists=2, nprobe=1).index(vectors)
    query = tf.constant([[1.0, 0.5, 0.0]])
    assert index(query)[1].numpy().tolist() == [[19]]
    assert index.nearest(query, 1, by_angle=True)[1].numpy()[0, 0] < 10


def test_filters_make_a_query_look_further() -> None:
    index = sf.IVF(k=3, num_lists=3, nprobe=1).index(corners())
    query = tf.constant([[1.0, 0.5, 0.1]])
    # one list's worth of candidates is left, spread over all: scored one and all
    spread = tf.constant(np.arange(30) % 3 == 0)
    assert index.search(query, eligible=spread)[1].numpy().tolist() == [[9, 6, 18]]
    # the list that it points to holds none of them
    elsewhere = tf.constant(np.arange(30) >= 10)
    assert index.search(query, eligible=elsewhere)[1].numpy().tolist() == [[19, 18, 17]]
    # more than a list holds
    assert index(query, k=12)[1].numpy().tolist() == [sorted_list(corners(), query.numpy()[0], 12)]
    assert index.search(query, eligible=tf.zeros([30], tf.bool))[0].numpy().tolist() == [[-np.inf] * 3]


def test_what_is_stored_in_less_is_scored_in_full() -> None:
    """Steps of int8 would tie these: 1000 and 1000.5 are 127 steps of 8 each."""
    vectors = [[1000.0, 0.1], [1000.0, 0.2], [-1.0, 0.0], [-2.0, 0.0], [0.0, 0.0]]
    for storage in ("int8", "bfloat16"):
        index = sf.IVF(k=2, num_lists=2, nprobe=1, storage=storage).index(vectors)
        scores, found = index(tf.constant([[0.0, 1.0]]))
        assert found.numpy().tolist() == [[1, 0]]
        assert scores.numpy()[0].tolist() == pytest.approx([0.2, 0.1])


def test_probing_finds_most_of_clusters() -> None:
    rng = np.random.default_rng(0)
    points = (rng.normal(size=(100, 16))[rng.integers(0, 100, 5020)] + rng.normal(size=(5020, 16))).astype(np.float32)
    vectors, queries = points[20:], tf.constant(points[:20])
    expected = sf.BruteForce().index(vectors)(queries)[1].numpy()
    for storage in ("float32", "int8"):
        index = sf.IVF(num_lists=100, nprobe=25, storage=storage).index(vectors)
        found = index(queries)[1].numpy()
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]) >= 0.95


def test_the_seed_makes_the_lists() -> None:
    _, vectors, _ = world(0, candidates=200)
    first, same, other = (sf.IVF(num_lists=9, seed=seed).index(vectors).order.numpy() for seed in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_saved_model_takes_nprobe_and_holds_stock_operations(tmp_path: Path) -> None:
    index = sf.IVF(num_lists=3, nprobe=1, storage="int8").index(corners(), [f"i{it}" for it in range(30)])
    specs = tf.TensorSpec([None, 3]), tf.TensorSpec([], tf.int32, "k"), tf.TensorSpec([], tf.int32, "nprobe")
    search = tf.function(lambda queries, k, nprobe: index(queries, k, nprobe)[1], input_signature=specs)
    holder = tf.Module()
    holder.index, holder.search = index, search
    tf.saved_model.save(holder, str(tmp_path / "it"))
    loaded = tf.saved_model.load(str(tmp_path / "it"))
    again = loaded.search
    query = tf.constant([[1.0, 0.95, 0.0]])
    assert again(query, 2, 1).numpy().tolist() == [[b"i9", b"i8"]]
    assert again(query, 2, 3).numpy().tolist() == [[b"i9", b"i19"]]


def test_numbers_that_cannot_be() -> None:
    for make, message in [
        (lambda: sf.IVF(storage="float8"), "storage is 'float8'; expected one of float32, bfloat16, int8"),
        (lambda: sf.IVF(num_lists=0), "num_lists is 0"),
        (lambda: sf.IVF(nprobe=0), "nprobe is 0"),
        (lambda: sf.IVF().index([[1.0]])(tf.constant([[1.0]]), nprobe=0), "nprobe is 0"),
        (lambda: sf.BruteForce().index([[1.0]])(tf.constant([[1.0]]), nprobe=3), "BruteForce has no lists to look in"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make()


@pytest.mark.skipif("faiss" in MISSING, reason="faiss cannot be imported here")
def test_faiss_is_no_part_of_a_graph() -> None:
    index = sf.Faiss().index([[1.0], [2.0]])
    with pytest.raises(ConfigError, match=r"Faiss searches outside TensorFlow.*use IVF"):
        tf.function(index, autograph=False)(tf.constant([[1.0]]))
    for kind, message in {"pq": "kind is 'pq'; expected one of flat, ivf, hnsw", "flat": "no lists to look in"}.items():
        with pytest.raises(ConfigError, match=message):
            sf.Faiss(kind=kind).index([[1.0]])(tf.constant([[1.0]]), nprobe=1)
    with pytest.raises(ConfigError, match="ef_search is 0"):
        sf.Faiss(ef_search=0)


@pytest.mark.skipif("scann" in MISSING, reason="scann cannot be imported here")
def test_scann_by_lists_finds_most_and_keeps_the_rules() -> None:
    rng, vectors, queries = world(0, candidates=5000, queries=20, dim=16)
    index = sf.ScaNN(num_lists=50, nprobe=25, rescored=200).index(vectors)
    expected = sf.BruteForce().index(vectors)(tf.constant(queries))[1].numpy()
    found = index(tf.constant(queries))[1].numpy()
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, expected, strict=True)]) >= 0.8
    eligible = rng.random(5000) < 0.1
    found = index.search(tf.constant(queries), exclude=expected, eligible=tf.constant(eligible))[1].numpy()
    assert eligible[found].all()
    assert not any(set(a) & set(b) for a, b in zip(found, expected, strict=True))
    with pytest.raises(ConfigError, match="ScaNN searches outside TensorFlow"):
        tf.function(index, autograph=False)(tf.constant(queries))


@pytest.mark.parametrize(("name", "package"), [("Faiss", "faiss"), ("ScaNN", "scann")])
def test_what_is_not_installed_says_what_to_do(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf'{package} cannot be imported .*pip install "schemaflow\[{package}\]"; IVF'
    ):
        getattr(sf, name)()


# -- the index of a model -----------------------------------------------------------------------------------------------


def test_the_models_index_refuses_items_that_stand_twice(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    items = pq.read_table(data.items)
    with pytest.raises(DataError, match="stands 2 times"):
        trained.to_index(items.take([0, 1, 0]))


def test_a_model_of_one_feature_takes_one_bare_tensor(data: sf.datasets.DataFolder) -> None:
    schema = sf.Schema.from_yaml(data.schema).select_by_name(["user_id", "item_id"]).fit(data.interactions)
    index = sf.TwoTowerModel(schema, sf.MLPBlock([4])).to_index(data.items, k=3)
    bare = index(tf.constant(["u00003"]))[1].numpy().tolist()
    assert bare == index({"user_id": tf.constant(["u00003"])})[1].numpy().tolist()


def test_a_model_of_several_features_says_which_it_takes(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    with pytest.raises(ConfigError, match=r"no dict of features; expected one of user_id, age, country"):
        trained.to_index(data.items)(tf.constant(["u00003"]))


def test_no_vector_is_gathered_from_the_variable() -> None:
    """TensorFlow would copy all candidates at each search from then on: it marks a variable that is gathered from."""
    index = sf.BruteForce().index(np.eye(5, dtype=np.float32))
    asked = [tf.TensorSpec([None, 5], tf.float32), tf.TensorSpec([None, None], tf.int32)]
    graphs = [
        tf.function(lambda vectors, allow: index.nearest(vectors, 2, allow=allow)).get_concrete_function(*asked).graph,
        tf.function(lambda _, positions: index.vectors_at(positions)).get_concrete_function(*asked).graph,
    ]
    assert not any(it.type == "ResourceGather" for graph in graphs for it in graph.get_operations())
    assert index.vectors_at(tf.constant([[3]])).numpy().tolist() == [[[0, 0, 0, 1, 0]]]
