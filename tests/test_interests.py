"""Queries of several vectors: ranks, search and loss against NumPy, and a model that serves the nearest of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import ranking
from schemaflow.errors import ConfigError
from schemaflow.evaluation import firsts
from schemaflow.evaluation.firsts import Excluded, nearest
from schemaflow.index import Index
from schemaflow.interests import nearest_interest, scores_of
from schemaflow.workflows import embed, recommend_all
from tests.oracles import Array, ranks_of
from tests.test_index import EXACT, each, reused

NAN = float("nan")


@keras.saving.register_keras_serializable("schemaflow-tests")
class Interests(keras.layers.Layer):
    """K vectors of each row, [batch, width] -> [batch, K, dim], by one dense layer."""

    def __init__(self, interests: int, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interests, self.dim = interests, dim
        self.dense = keras.layers.Dense(interests * dim)
        self.split = keras.layers.Reshape((interests, dim))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.split(self.dense(inputs))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"interests": self.interests, "dim": self.dim}


def highest(queries: Array, candidates: Array) -> Array:
    """The score of each candidate, [q, n]."""
    return (queries @ candidates.T).max(axis=1)


# -- scores and ranks ---------------------------------------------------------------------------------------------------


def test_a_score_is_that_of_the_nearest_vector_whose_gradient_alone_is_not_0() -> None:
    queries = tf.constant([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], [[2.0, 2.0], [1.0, 0.0], [0.0, 3.0]]])
    items = tf.constant([[-2.0, 1.0], [1.0, 5.0]])
    assert scores_of(queries, items).numpy().tolist() == [[2.0, 5.0], [3.0, 15.0]]
    with tf.GradientTape() as tape:
        tape.watch(queries)
        chosen = nearest_interest(queries, items)
        total = tf.reduce_sum(chosen * items)
    assert chosen.numpy().tolist() == [[-1.0, 0.0], [0.0, 3.0]]
    assert tape.gradient(total, queries).numpy().tolist() == [
        [[0.0, 0.0], [0.0, 0.0], [-2.0, 1.0]],
        [[0.0, 0.0], [0.0, 0.0], [1.0, 5.0]],
    ]
    assert np.isnan(scores_of(tf.constant([[[NAN], [1.0]]]), tf.ones((1, 1))).numpy()).all()


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.random.Generator, Array, Array]:
    """Small whole numbers, so that products are exact and ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    q, each, n = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 40))
    queries, items = rng.integers(-2, 3, (q, each, 2)), rng.integers(-2, 3, (n, 2))
    return rng, queries.astype(np.float32), items.astype(np.float32)


@settings(max_examples=15)
@given(worlds(), st.integers(1, 9))
def test_ranks_and_firsts_are_those_of_the_highest_scores(
    world: tuple[np.random.Generator, Array, Array], count: int
) -> None:
    rng, queries, items = world
    scores, rows = highest(queries, items), np.arange(len(queries))
    positives, out = rng.integers(0, len(items), len(queries)), rng.random((len(queries), len(items))) < 0.2
    with pytest.MonkeyPatch.context() as patch:
        for module in (ranking, firsts):
            patch.setattr(module, "ROWS", 3)
            patch.setattr(module, "COLUMNS", 5)
        ranks = ranking.ranks_of(tf.constant(queries), tf.constant(items), tf.constant(positives)).numpy()
        found = list(nearest(queries, items, count, Excluded(np.flatnonzero(out), len(items))))
    assert ranks.tolist() == ranks_of(scores, rows, positives).tolist()
    candidates = np.concatenate([it.candidates for it in found])
    for row in rows:
        left = [it for it in np.argsort(-scores[row], kind="stable").tolist() if not out[row, it]][:count]
        assert candidates[row, : len(left)].tolist() == left
        assert (candidates[row, len(left) :] == -1).all()


def test_plain_and_several_vectors_are_evaluated_in_one_process() -> None:
    """A graph whose shapes were relaxed must not mix up their axes."""
    rng = np.random.default_rng(0)
    items = rng.normal(size=(9000, 3)).astype(np.float32)
    for shape in ((4, 3), (5, 2, 3), (6, 3), (7, 3, 3), (3, 2, 3)):
        queries = rng.normal(size=shape).astype(np.float32)
        (found,) = nearest(queries, items, 3, Excluded(np.empty(0, np.int64), 9000))
        scores = queries @ items.T if len(shape) == 2 else highest(queries, items)
        assert found.candidates.tolist() == np.argsort(-scores, axis=1)[:, :3].tolist()


@pytest.mark.parametrize("known", [True, False])
def test_the_metric_ranks_by_the_highest_score(known: bool) -> None:
    rng = np.random.default_rng(3)
    queries, items = rng.normal(size=(50, 3, 4)).astype(np.float32), rng.normal(size=(30, 4)).astype(np.float32)
    positives = rng.integers(0, 30, 50)
    ids = tf.range(30) if known else None
    metric = sf.FactorizedTopK(ks=(1, 3, 9)).set_candidates(items, ids)
    own = tf.gather(ids, positives) if known else None
    metric.update_state(tf.constant(queries), tf.constant(items[positives]), own)
    ranks = ranks_of(highest(queries, items), np.arange(50), positives)
    assert [float(it) for it in metric.result().values()] == pytest.approx([(ranks <= k).mean() for k in (1, 3, 9)])
    with pytest.raises(ConfigError, match=r"query_embeddings has the shape \(50, 3, 2\); expected \[None, 4\] or"):
        metric.update_state(tf.constant(queries[:, :, :2]), tf.constant(items[positives]), own)


# -- search -------------------------------------------------------------------------------------------------------------


@each(EXACT)
@settings(max_examples=2)
@given(seed=st.integers(0, 10**6), interests=st.integers(1, 4), k=st.integers(1, 40))
def test_search_is_that_of_a_sorted_list(make: Callable[..., Index], seed: int, interests: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    items, queries = rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(3, interests, 4)).astype(np.float32)
    index = reused(make).index(items)
    exclude, allow = rng.integers(-1, 30, (3, 5)), rng.integers(-1, 30, (3, 9))
    eligible = rng.random(30) < rng.random()
    for by_angle in (False, True):
        scores = highest(queries, items / (np.linalg.norm(items, axis=1, keepdims=True) if by_angle else 1))
        for out, allowed, may in (
            (None, None, None), (exclude, None, None), (exclude, allow, None), (exclude, None, eligible), (None, allow, eligible)
        ):  # fmt: skip
            best, found = index.nearest(
                tf.constant(queries), k, *(None if it is None else tf.constant(it, tf.int32) for it in (out, allowed)),
                None if may is None else tf.constant(may), by_angle,
            )  # fmt: skip
            assert found.shape == (3, min(k, 30))
            for row in range(3):
                left = [
                    it for it in np.argsort(-scores[row]).tolist()
                    if (out is None or it not in out[row])
                    and (allowed is None or it in allowed[row])
                    and (may is None or may[it])
                ][:k]  # fmt: skip
                assert found.numpy()[row, : len(left)].tolist() == left
                assert best.numpy()[row, : len(left)] == pytest.approx(scores[row, left], abs=1e-5)
                assert (found.numpy()[row, len(left) :] == -1).all()


@each()
@pytest.mark.parametrize("interests", [1, 3])
def test_approximate_search_finds_nothing_twice_and_gives_true_scores(
    make: Callable[..., Index], interests: int
) -> None:
    rng = np.random.default_rng(5)
    items, queries = rng.normal(size=(60, 4)).astype(np.float32), rng.normal(size=(4, interests, 4)).astype(np.float32)
    index = make(k=20).index(items)
    scores, found = index(tf.constant(queries))
    for row in range(4):
        real = found.numpy()[row].tolist()
        assert len(set(real)) == 20
        assert scores.numpy()[row] == pytest.approx(highest(queries, items)[row, real], abs=1e-5)
        assert (np.diff(scores.numpy()[row]) <= 0).all()
    if interests == 1:
        for one, plain in zip(index(tf.constant(queries)), index(tf.constant(queries[:, 0])), strict=True):
            assert np.array_equal(one, plain)


def test_of_equal_scores_the_first_candidate_comes_first_whichever_vector_found_it() -> None:
    index = sf.BruteForce(k=3).index([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    scores, found = index(tf.constant([[[1.0, 0.0], [0.0, 1.0]]]))
    assert found.numpy().tolist() == [[0, 1, 2]]
    assert scores.numpy().tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(ConfigError, match=r"exclude has the shape \(2, 1\); expected \[1, any\]"):
        index.query_with_exclusions(tf.constant([[[1.0, 0.0], [0.0, 1.0]]]), [[1], [2]])


# -- a model ------------------------------------------------------------------------------------------------------------


def model_of(schema: sf.Schema, interests: int | None = 3, dim: int = 4, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(2)
    block = keras.layers.Dense(dim) if interests is None else Interests(interests, dim)
    options = sf.EmbeddingOptions(embedding_dim_default=8)
    model = sf.TwoTowerModel(schema, block, keras.layers.Dense(dim), embedding_options=options, **arguments)
    model.compile(optimizer="adam")
    return model


@pytest.fixture(scope="module")
def several(schema: sf.Schema, data: sf.datasets.DataFolder) -> sf.TwoTowerModel:
    task = sf.RetrievalTask(metrics=sf.FactorizedTopK(data.items, ks=(5,)), temperature=0.2)
    model = model_of(schema, l2_normalize=True, prediction_tasks=task)
    model.fit(data.interactions, batch_size=256, verbose=0)
    return model


def test_one_interest_is_the_plain_model(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    found = []
    for interests in (None, 1):
        model = model_of(schema, interests, prediction_tasks=[sf.RetrievalTask(num_hard_negatives=20)])
        losses = model.fit(data.interactions, batch_size=256, verbose=0).history["loss"]
        report = sf.evaluate(model, data.interactions, data.items, ks=[5])
        found.append((losses, dict(report), [it.numpy() for it in model.weights]))
    assert found[0][:2] == found[1][:2]
    for plain, one in zip(found[0][2], found[1][2], strict=True):
        assert np.array_equal(plain, one)


def test_the_loss_is_that_of_the_nearest_interest(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    model = model_of(schema, correction=None)
    events = pq.read_table(data.interactions).slice(0, 6)
    queries, items = model.query_embeddings(_of_users(data, events)), model.candidate_embeddings(data.items)
    ids = pq.read_table(data.items)["item_id"].to_pylist()
    own = np.array([ids.index(it) for it in events["item_id"].to_pylist()])
    assert queries.shape == (6, 3, 4)
    nearest = queries[np.arange(6), (queries * items[own][:, np.newaxis]).sum(axis=-1).argmax(axis=1)]  # [6, dim]
    logits = nearest @ items[np.unique(own)].T  # one column of each item
    losses = np.log(np.exp(logits).sum(axis=1)) - (nearest * items[own]).sum(axis=1)
    judged = model.evaluate(events, tables=data.folder, verbose=0, return_dict=True)
    assert judged["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    said = model.predict(events, tables=data.folder, verbose=0)
    assert said["query"] == pytest.approx(queries, abs=1e-6)
    assert said["score"] == pytest.approx((queries @ items[own][:, :, np.newaxis]).max(axis=(1, 2)), abs=1e-5)


def _of_users(data: sf.datasets.DataFolder, events: pa.Table) -> dict[str, list[Any]]:
    users = {it["user_id"]: it for it in pq.read_table(data.users).to_pylist()}
    rows = [users[it] for it in events["user_id"].to_pylist()]
    return {name: [row[name] for row in rows] for name in ("user_id", "age", "country")}


def test_evaluation_and_the_metric_rank_by_the_highest_score(
    several: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    events, ids = pq.read_table(data.interactions), pq.read_table(data.items)["item_id"].to_pylist()
    scores = highest(several.query_embeddings(_of_users(data, events)), several.candidate_embeddings(data.items))
    own = np.array([ids.index(it) for it in events["item_id"].to_pylist()])
    ranks = ranks_of(scores, np.arange(len(own)), own)
    report = sf.evaluate(several, data.interactions, data.items, ks=[5])
    assert report["hit_rate@5"] == pytest.approx((ranks <= 5).mean(), abs=2e-3)  # rounding may swap two
    judged = several.evaluate(data.interactions, verbose=0, return_dict=True)
    assert judged["factorized_top_k/hit_rate@5"] == pytest.approx((ranks <= 5).mean(), abs=2e-3)


def test_exported_it_answers_by_the_highest_score(
    several: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    users, items = pq.read_table(data.users), pq.read_table(data.items)
    ids = np.array(items["item_id"].to_pylist())
    asked = {name: users[name].to_pylist()[:9] for name in users.column_names}
    queries = several.query_embeddings(asked)
    scores = highest(queries, several.candidate_embeddings(items))
    best = [ids[it].tolist() for it in np.argsort(-scores, axis=1)[:, :4]]
    assert several.to_index(items, k=4)({n: tf.constant(it) for n, it in asked.items()})[1].numpy().astype(
        str
    ).tolist() == best  # fmt: skip
    bundle = several.export(tmp_path / "bundle", items.slice(1), k=4).add_items(items.slice(0, 1))
    bundle = sf.Recommender.load(bundle.path)
    served = bundle.call("serving_default", **{name: tf.constant(values) for name, values in asked.items()})
    assert served["identifiers"].numpy().astype(str).tolist() == best
    assert bundle.query_embeddings(asked) == pytest.approx(queries, abs=1e-6)
    out = [row[:2] for row in best]
    found = bundle.recommend(asked, k=2, exclude=out)
    assert found.identifiers == [row[2:4] for row in best]
    assert found.scores == [pytest.approx(-np.sort(-row)[2:4], abs=1e-5) for row in scores]
    assert bundle.recommend(asked, k=9, allow=out).identifiers == out
    assert [len(set(it)) for it in bundle.recommend(asked, k=1000).identifiers] == [len(items)] * 9

    recommend_all(bundle.path, data.users, tmp_path / "recs.parquet", k=4)
    assert pq.read_table(tmp_path / "recs.parquet")["item_id"].to_pylist()[:9] == best
    embed(bundle.path, data.users, tmp_path / "vectors.parquet")
    vectors = pq.read_table(tmp_path / "vectors.parquet")["vector"]
    assert vectors.type == pa.list_(pa.list_(pa.float32(), 4), 3)
    assert np.array(vectors.to_pylist()[:9]) == pytest.approx(queries, abs=1e-6)


def test_saved_and_grown_it_keeps_its_vectors(
    several: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    asked = pq.read_table(data.users).slice(0, 3)
    several.save(tmp_path / "it.keras")
    for model in (keras.saving.load_model(tmp_path / "it.keras"), several.grow(several.schema)):
        assert np.array_equal(model.query_embeddings(asked), several.query_embeddings(asked))


def test_items_of_several_vectors_are_refused(schema: sf.Schema) -> None:
    with pytest.raises(
        ConfigError, match="the item tower gives 3 vectors for each item; only queries may have several"
    ):
        sf.TwoTowerModel(schema, Interests(3, 4))
    with pytest.raises(ConfigError, match=r"expected a tensor \[2, dim\], a vector for each row, or \[2, K, dim\]"):
        sf.TwoTowerModel(schema, keras.layers.Reshape((-1, 1, 1)))


# -- what it is for -----------------------------------------------------------------------------------------------------


def mixed_tastes(users: int, clusters: int, size: int, seed: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """Users of three clusters each, who have had half of each; training and test events."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    for user in range(users):
        for cluster in rng.choice(clusters, 3, replace=False):
            for place, item in enumerate(cluster * size + rng.permutation(size)):
                parts[place % 2].append((user, int(item)))
    first, second = (np.array(part) for part in parts)
    return tuple({"user_id": it[:, 0], "item_id": it[:, 1]} for it in (first, second))  # type: ignore[return-value]


def test_several_vectors_find_tastes_that_lie_far_apart() -> None:
    users, clusters, size, dim = 200, 24, 10, 4
    train, test = mixed_tastes(users, clusters, size, seed=0)
    schema = sf.Schema((
        sf.Feature(name="user_id", dtype="int64", tags=("user", "id"), cardinality=users),
        sf.Feature(name="item_id", dtype="int64", tags=("item", "id"), cardinality=clusters * size),
    )).fit(train)  # fmt: skip
    recall = {}
    for interests in (1, 4):
        keras.utils.set_random_seed(0)
        model = sf.TwoTowerModel(
            schema, Interests(interests, dim), keras.layers.Dense(dim), l2_normalize=True, logits_temperature=0.1,
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=32),
        )  # fmt: skip
        model.compile(optimizer=sf.optimizers.Adam(0.01))
        model.fit(train, batch_size=256, epochs=25, verbose=0)
        items = {"item_id": np.arange(clusters * size)}
        recall[interests] = sf.evaluate(model, test, items, ks=[15], exclude=train)["recall@15"]
    assert recall[4] >= 1.3 * recall[1], recall
