"""Prefixes of vectors, trained beside the whole: the loss against NumPy, and what is made of the first numbers alone."""

from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError
from tests.oracles import Array
from tests.test_interests import Interests

USERS, ITEMS = 5, 6
IDS = (
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
)
EVENTS = {"user": np.arange(USERS), "item": np.arange(USERS)}


def model_of(task: sf.RetrievalTask, l2_normalize: bool, block: keras.layers.Layer | None = None) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(4)
    model = sf.TwoTowerModel(
        sf.Schema(IDS), block or keras.layers.Dense(8), keras.layers.Dense(8), prediction_tasks=task, correction=None,
        l2_normalize=l2_normalize,
    )  # fmt: skip
    model.compile()
    return model


def first(vectors: Array, dim: int, unit: bool) -> Array:
    vectors = vectors[..., :dim]
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if unit else vectors


@pytest.mark.parametrize("l2_normalize", [False, True])
@pytest.mark.parametrize("interests", [None, 2])
def test_the_loss_is_the_mean_of_those_of_the_prefixes_and_the_whole(l2_normalize: bool, interests: int | None) -> None:
    task = sf.RetrievalTask(matryoshka_dims=(2, 5), temperature=0.5)
    model = model_of(task, l2_normalize, None if interests is None else Interests(interests, 8))
    queries, items = model.query_embeddings({"user": EVENTS["user"]}), model.candidate_embeddings(EVENTS)
    losses = []
    for dim in (2, 5, 8):
        query, item = first(queries, dim, l2_normalize), first(items, dim, l2_normalize)
        if interests is not None:  # of each prefix the interest that is nearest by it
            query = query[np.arange(USERS), (query * item[:, np.newaxis]).sum(axis=-1).argmax(axis=1)]
        logits = query @ item.T / 0.5
        losses.append((np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)).mean())
    assert model.evaluate(EVENTS, verbose=0, return_dict=True)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_task_alone_takes_the_prefixes_as_they_are() -> None:
    vectors = tf.constant([[2.0, 1.0], [0.0, 3.0]])
    whole, one = sf.RetrievalTask()(vectors, vectors), sf.RetrievalTask()(vectors[:, :1], vectors[:, :1])
    both = sf.RetrievalTask(matryoshka_dims=[1])(vectors, vectors)
    assert float(both) == pytest.approx(float(whole + one) / 2)


def test_the_truncated_model_gives_the_first_numbers(tmp_path: Path) -> None:
    metric = sf.FactorizedTopK({"item": np.arange(ITEMS)}, ks=(2,))
    task = sf.RetrievalTask(metrics=metric, matryoshka_dims=(2, 5), temperature="learned", initial_temperature=0.3)
    model = model_of(task, True, Interests(2, 8))
    model.fit(EVENTS, epochs=2, verbose=0)
    small = model.truncated(5)
    whole, cut = model.query_embeddings({"user": EVENTS["user"]}), small.query_embeddings({"user": EVENTS["user"]})
    assert cut == pytest.approx(first(whole, 5, True), abs=1e-6)
    assert small.retrieval.matryoshka_dims == (2,)
    assert float(small.retrieval.log_temperature) == float(model.retrieval.log_temperature)
    items = {"item": np.arange(ITEMS)}
    vectors = small.candidate_embeddings(items)
    scores = (cut @ vectors.T).max(axis=1)
    bundle = small.export(tmp_path / "bundle", items, k=3)
    assert bundle.recommend({"user": [0, 3]}).identifiers == np.argsort(-scores, axis=1)[[0, 3], :3].tolist()
    assert bundle.query_embeddings({"user": [3]}) == pytest.approx(cut[3:4], abs=1e-6)
    small.save(tmp_path / "it.keras")
    report = sf.evaluate(small, EVENTS, items, ks=[2])
    small.compile()
    judged = small.evaluate(EVENTS, verbose=0, return_dict=True)
    assert judged["factorized_top_k/hit_rate@2"] == pytest.approx(report["hit_rate@2"])
    again = keras.saving.load_model(tmp_path / "it.keras").truncated(2)
    assert again.candidate_embeddings(items) == pytest.approx(
        first(model.candidate_embeddings(items), 2, True), abs=1e-6
    )


def test_other_tasks_and_post_layers_are_left_behind_or_kept() -> None:
    target = sf.Feature(name="stars", dtype="float32", tags=("target", "regression"))
    model = sf.TwoTowerModel(
        sf.Schema((*IDS, target)), keras.layers.Dense(8), post=keras.layers.Dense(6),
        prediction_tasks=[sf.RegressionTask(), sf.RetrievalTask(loss_weight=0.5)],
    )  # fmt: skip
    small = model.truncated(4)
    assert [type(it) for it in small.tasks] == [sf.RetrievalTask]
    asked = {"user": EVENTS["user"]}
    assert small.query_embeddings(asked) == pytest.approx(model.query_embeddings(asked)[:, :4], abs=1e-6)


def test_dims_that_cannot_be() -> None:
    for dims in ([0], [2, 2], [4, 2], [1.5], [True]):
        with pytest.raises(ConfigError, match=r"matryoshka_dims is .*expected integers of at least 1 that rise$"):
            sf.RetrievalTask(matryoshka_dims=dims)
    with pytest.raises(ConfigError, match="that rise, each below 8, the vectors' width"):
        model_of(sf.RetrievalTask(matryoshka_dims=[2, 8]), False)
    with pytest.raises(ConfigError, match="that rise, each below 3, the vectors' width"):
        sf.RetrievalTask(matryoshka_dims=[3])(tf.ones((2, 3)), tf.ones((2, 3)))
    model = model_of(sf.RetrievalTask(), False)
    for dim, message in ((0, "dim is 0; expected an integer"), (9, "the first 9 of vectors of width 8")):
        with pytest.raises(ConfigError, match=message):
            model.truncated(dim)


def test_a_prefix_that_was_trained_finds_more_than_one_that_was_not(
    data: sf.datasets.DataFolder, schema: sf.Schema
) -> None:
    table = pq.read_table(data.interactions)
    train, test = table.slice(0, 1900), table.slice(1900)
    recall = {}
    for dims in ((), (4,)):
        keras.utils.set_random_seed(0)
        model = sf.TwoTowerModel(
            schema.select_by_name(["user_id", "item_id"]), keras.layers.Dense(32),
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=32),
            prediction_tasks=sf.RetrievalTask(matryoshka_dims=dims, temperature=0.1), l2_normalize=True,
        )  # fmt: skip
        model.compile(optimizer=sf.optimizers.Adam(0.01))
        model.fit(train, batch_size=256, epochs=8, verbose=0)
        for width, it in ((32, model), (4, model.truncated(4))):
            recall[dims, width] = sf.evaluate(it, test, data.items, ks=[10], exclude=train)["recall@10"]
    assert recall[(4,), 4] >= 0.85 * recall[(4,), 32], recall
    assert recall[(), 4] <= 0.7 * recall[(), 32], recall
    assert recall[(4,), 32] >= 0.9 * recall[(), 32], recall
