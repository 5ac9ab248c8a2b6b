"""Ranks over the whole catalogue as a Keras metric: by hand, against an oracle, and where others go wrong."""

from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import ranking
from schemaflow.errors import ConfigError
from schemaflow.index import identifiers
from tests.oracles import ranks_of

ITEMS = tf.constant([[1.0], [3.0], [2.0], [-1.0]])  # for a query of 1, item 1 is first, item 2 second
IDS = tf.constant([70, 10, 40, 20], tf.int64)


def rates(metric: sf.FactorizedTopK) -> list[float]:
    return [float(rate) for rate in metric.result().values()]


def ones(rows: int) -> tf.Tensor:
    return tf.ones((rows, 1))


def test_hit_rates_by_hand() -> None:
    metric = sf.FactorizedTopK(ks=(1, 2, 3, 100)).set_candidates(ITEMS, IDS)
    metric.update_state(ones(4), ITEMS, IDS)  # ranks 3, 1, 2, 4
    assert rates(metric) == [0.25, 0.5, 0.75, 1.0]
    metric.update_state(ones(1), ITEMS[1:2], IDS[1:2])  # another batch, another rank 1
    assert rates(metric) == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert list(metric.result()) == [f"factorized_top_k/hit_rate@{k}" for k in (1, 2, 3, 100)]
    metric.reset_state()
    assert np.isnan(rates(metric)).all()  # nothing was counted: neither good nor bad
    metric.update_state(ones(1), ITEMS[:1], IDS[:1])
    assert rates(metric) == [0.0, 0.0, 1.0, 1.0]


def test_weights_weigh_rows() -> None:
    metric = sf.FactorizedTopK(ks=(1, 2)).set_candidates(ITEMS, IDS)
    metric.update_state(ones(3), ITEMS[:3], IDS[:3], sample_weight=tf.constant([1.0, 3.0, 0.0]))
    assert rates(metric) == [0.75, 0.75]
    with pytest.raises(ConfigError, match=r"sample_weight has the shape \(3, 1\); expected \[3\]"):
        metric.update_state(ones(3), ITEMS[:3], IDS[:3], sample_weight=tf.ones((3, 1)))


@pytest.mark.parametrize("ids", [None, [5, 3, 9, 1], ["a", "", "c", "ü"]])
def test_a_collapsed_model_comes_last(ids: list[object] | None) -> None:
    """TFRS's metric gives 1.0 for it."""
    same = tf.fill([4, 3], 0.1)
    known = None if ids is None else tf.constant(ids)
    metric = sf.FactorizedTopK(ks=(1, 3, 4)).set_candidates(same, known)
    metric.update_state(same, same, known)
    assert rates(metric) == [0.0, 0.0, 1.0]


def test_rounding_lets_no_positive_be_outranked_by_its_own_copy() -> None:
    """Each item's query is the item itself, of length one, so each is first: TFRS finds 0.61 of such at k = 1."""
    rng = np.random.default_rng(0)
    for dim in (7, 32, 200):
        items = rng.normal(size=(2000, dim)).astype(np.float32)
        items /= np.linalg.norm(items, axis=1, keepdims=True)
        for ids in (None, tf.range(2000)):
            metric = sf.FactorizedTopK(ks=(1,)).set_candidates(items, ids)
            # a batch of another size, encoded elsewhere, differs in the last digits
            noise = 1 + rng.uniform(-2e-7, 2e-7, size=items.shape)
            metric.update_state(tf.constant(items), tf.constant(items * noise, tf.float32), ids)
            assert rates(metric) == [1.0]


def test_a_positive_that_is_no_candidate_is_a_miss() -> None:
    for ids, other in ((IDS, tf.constant([10, 11, 99, -5], tf.int64)), (["a", "b", "c", "d"], ["b", "B", "", "x"])):
        metric = sf.FactorizedTopK(ks=(1, 100)).set_candidates(ITEMS, ids)
        metric.update_state(ones(4), 9 * ones(4), tf.constant(other))  # 9 would be first
        assert rates(metric) == [0.25, 0.25]


def test_by_score_a_stranger_ranks_below_what_is_higher() -> None:
    metric = sf.FactorizedTopK(ks=(2, 3, 4, 5)).set_candidates(ITEMS)
    metric.update_state(ones(1), tf.constant([[1.5]]))  # 3 and 2 are higher, and nothing is tied: rank 3
    assert rates(metric) == [0.0, 1.0, 1.0, 1.0]


def test_nan_is_never_a_hit() -> None:
    nan = float("nan")
    for ids in (None, IDS):
        metric = sf.FactorizedTopK(ks=(1, 4, 100)).set_candidates(ITEMS, ids)
        metric.update_state(tf.fill([4, 1], nan), ITEMS, ids)
        assert rates(metric) == [0.0] * 3
        # a NaN candidate is ahead of the others: it costs them a place
        spoilt = tf.constant([[1.0], [3.0], [nan], [-1.0]])
        metric = sf.FactorizedTopK(ks=(1, 2, 100)).set_candidates(spoilt, ids)
        metric.update_state(ones(2), ITEMS[1:3], None if ids is None else ids[1:3])
        assert rates(metric) == [0.0, 0.5, 0.5 if ids is not None else 1.0]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Small whole numbers, so that products are exact and ties are common."""
    n, q = draw(st.integers(1, 12)), draw(st.integers(1, 7))
    whole = st.integers(-2, 2)
    items = draw(st.lists(st.tuples(whole, whole), min_size=n, max_size=n))
    queries = draw(st.lists(st.tuples(whole, whole), min_size=q, max_size=q))
    positives = draw(st.lists(st.integers(0, n - 1), min_size=q, max_size=q))
    ids = draw(st.lists(st.integers(-(2**62), 2**62), min_size=n, max_size=n, unique=True))
    return np.array(items, np.float32), np.array(queries, np.float32), np.array(positives), np.array(ids)


@settings(max_examples=20)
@given(worlds(), st.integers(1, 4), st.integers(1, 6))
def test_ranks_are_those_of_the_evaluation(
    world: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], rows: int, columns: int
) -> None:
    """By id, by string id, by score, and in blocks of any size: the rank by definition."""
    items, queries, positives, ids = world
    ranks = ranks_of(queries @ items.T, np.arange(len(queries)), positives)
    ks = (1, 2, 3, 5, 50)
    expected = [float((ranks <= k).mean()) for k in ks]
    whole, (ranking.ROWS, ranking.COLUMNS) = (ranking.ROWS, ranking.COLUMNS), (rows, columns)
    try:
        for known in (None, ids, ids.astype(str)):
            metric = sf.FactorizedTopK(ks=ks).set_candidates(items, known)
            true = None if known is None else tf.constant(known[positives])
            metric.update_state(tf.constant(queries), tf.constant(items[positives]), true)
            assert rates(metric) == pytest.approx(expected, rel=1e-6)
    finally:
        ranking.ROWS, ranking.COLUMNS = whole


@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_graph_sees_new_and_more_candidates(jit: bool) -> None:
    metric = sf.FactorizedTopK(ks=(1, 2)).set_candidates(ITEMS, IDS)

    @tf.function(jit_compile=jit, reduce_retracing=True)
    def update(ids: tf.Tensor) -> None:
        metric.update_state(tf.ones((tf.size(ids), 1)), tf.zeros((tf.size(ids), 1)), ids)

    update(IDS)
    assert rates(metric) == [0.25, 0.5]
    metric.reset_state()
    metric.set_candidates(tf.constant([[1.0], [2.0], [3.0], [4.0], [5.0]]), tf.constant([10, 20, 30, 40, 70]))
    update(IDS)  # ranks 1, 5, 2, 4
    update(IDS[:1])
    update(IDS[:0])
    assert rates(metric) == pytest.approx([0.4, 0.6])


def test_half_precision_vectors_are_counted_in_float32() -> None:
    # 300 * 300 is beyond float16
    items = tf.constant([[300.0, 1.0], [300.0, 2.0]], tf.float16)
    metric = sf.FactorizedTopK(ks=(1,)).set_candidates(items, [1, 2])
    metric.update_state(items, items, tf.constant([1, 2]))
    assert rates(metric) == [0.5]


class Catalogue:
    """Batches that count how often they are gone through."""

    def __init__(self, batches: list[object]) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self) -> Iterator[object]:
        self.passes += 1
        return iter(self.batches)


def test_a_dataset_is_encoded_once_for_each_pass() -> None:
    table = tf.Variable([[1.0], [3.0], [2.0], [-1.0]])
    dataset = tf.data.Dataset.range(4).batch(3).map(lambda row: (tf.gather(IDS, row), tf.gather(table, row)))
    metric = sf.FactorizedTopK(dataset, ks=(1,))
    assert not metric.needs_encoding
    metric.update_state(ones(1), ITEMS[1:2], IDS[1:2])  # never reset: encoded now
    assert rates(metric) == [1.0]
    table.assign(-table)
    metric.update_state(ones(1), ITEMS[1:2], IDS[1:2])  # the same pass, the same candidates
    assert rates(metric) == [1.0]
    metric.reset_state()  # another pass: item 1 is the last now
    metric.update_state(ones(1), ITEMS[1:2], IDS[1:2])
    assert rates(metric) == [0.0]

    catalogue = Catalogue([ITEMS[:3], ITEMS[3:]])
    metric = sf.FactorizedTopK(catalogue, ks=(1,))
    update = tf.function(metric.update_state)
    for passes in (1, 2):
        for _ in range(3):
            update(ones(1), ITEMS[1:2])
        assert catalogue.passes == passes
        assert rates(metric) == [1.0]
        metric.reset_state()


def test_the_config_keeps_a_path_and_says_what_it_cannot_keep() -> None:
    metric = sf.FactorizedTopK("items.parquet", ks=(3,), name="all")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert (again.candidates, again.ks, again.name, again.needs_encoding) == ("items.parquet", (3,), "all", True)
    with pytest.raises(ConfigError, match="a table, which only a TwoTowerModel encodes; call encode_candidates"):
        again.update_state(ones(1), ones(1))
    bare = sf.FactorizedTopK.from_config(sf.FactorizedTopK([ITEMS]).get_config())
    assert bare.candidates == []
    assert not bare.needs_encoding, "a model's own items would be others"
    with pytest.raises(ConfigError, match=r"a dataset is not saved with a model.*assign one"):
        bare.update_state(ones(1), ones(1))
    bare.candidates = [ITEMS]
    bare.update_state(ones(1), ITEMS[1:2])
    assert rates(bare)[0] == 1.0


def test_what_is_refused() -> None:
    for ks in ((), (0,), (1, 1), (1.5,), (True,)):
        with pytest.raises(ConfigError, match="expected integers above 0, each once"):
            sf.FactorizedTopK(ks=ks)
    for candidates in (iter([ITEMS]), 5):
        with pytest.raises(ConfigError, match="gone through more than once"):
            sf.FactorizedTopK(candidates)
    metric = sf.FactorizedTopK()
    for embeddings in (tf.zeros([0, 2]), tf.zeros([3])):
        with pytest.raises(ConfigError, match="at least one candidate"):
            metric.set_candidates(embeddings)
    with pytest.raises(ConfigError, match=r"identifiers have the shape \(3,\); expected \[4\]"):
        metric.set_candidates(ITEMS, [1, 2, 3])
    with pytest.raises(ConfigError, match="identifiers are float32; expected strings or integers"):
        metric.set_candidates(ITEMS, [1.0, 2.0, 3.0, 4.0])
    for ids in ([7, 5, 7, 5], ["7", "5", "7", "5"]):
        with pytest.raises(ConfigError, match=r"2 of the candidates' identifiers .* remove the others"):
            sf.FactorizedTopK().set_candidates(ITEMS, ids)
    kept = sf.FactorizedTopK(ks=(1,)).set_candidates(ITEMS, IDS)
    with pytest.raises(ConfigError, match="remove the others"):
        kept.set_candidates(-ITEMS, [7, 5, 7, 5])
    kept.update_state(ones(1), ones(1), IDS[1:2])  # what was refused was not taken
    assert rates(kept) == [1.0]
    with pytest.raises(ConfigError, match="has an empty dataset of candidates"):
        sf.FactorizedTopK([]).reset_state()
    metric.set_candidates(ITEMS, IDS)
    with pytest.raises(ConfigError, match="true_candidate_ids are strings, and the candidates' identifiers integers"):
        metric.update_state(ones(1), ones(1), tf.constant(["a"]))
    with pytest.raises(ConfigError, match=r"query_embeddings has the shape \(1, 2\); expected \[None, 1\]"):
        metric.update_state(tf.ones((1, 2)), tf.ones((1, 2)))
    for other, kind in ((None, "none"), (["a", "b", "c", "d"], "strings")):
        with pytest.raises(ConfigError, match=f"identifiers are {kind}, and those before were integers"):
            metric.set_candidates(ITEMS, other)


def test_two_strings_of_one_fingerprint_are_told_apart_from_repeated_ones() -> None:
    with pytest.raises(ConfigError, match="'a' and 'b' have one fingerprint; pass integers"):
        identifiers._refuse_repeated(np.array(["a", "b"]), np.array([3, 3]))
