"""The whole model in training: samplers with a catalogue, masks, corrections, metrics, explicit negatives, growth."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
import yaml

import schemaflow as sf
from schemaflow.errors import ConfigError
from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.schema.feature import encoded_name

USERS, ITEMS = 6, 8
IDS = sf.Schema((
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
))  # fmt: skip
EVENTS = {"user": [0, 0, 1, 2, 3, 4, 5, 5], "item": [1, 2, 1, 3, 4, 5, 1, 6]}
BATCH = {encoded_name(name): tf.constant(values[:4]) for name, values in EVENTS.items()}


def model_of(schema: sf.Schema = IDS, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(3)
    options = sf.EmbeddingOptions(embedding_dim_default=4, embeddings_initializers="random_normal")
    block = sf.MLPBlock([]) if schema is not None and len(list(schema)) <= 3 else sf.MLPBlock([4])
    model = sf.TwoTowerModel(schema, block, embedding_options=options, **arguments)
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    return model


def loss_of(model: sf.TwoTowerModel, batch: dict[str, Any], training: bool = True) -> float:
    return float(model.compute_loss(batch, y_pred=model(batch, training=training), training=training))


def scores_of(model: sf.TwoTowerModel) -> np.ndarray:
    """The scores of all users and items, [users, items]."""
    query = model.query_embeddings({"user": list(range(USERS))})
    return query @ model.candidate_embeddings({"item": list(range(ITEMS))}).T


def softmax(logits: list[float], own: int = 0) -> float:
    return float(np.log(np.exp(np.array(logits)).sum()) - logits[own])


def test_uniform_negatives_of_the_whole_catalogue_by_hand() -> None:
    """With so many draws that all items come, the loss is the full softmax."""
    model = model_of(IDS, samplers=[sf.UniformSampler(num_sampled=2000, seed=1)])
    scores = scores_of(model)
    expected = np.mean([
        softmax([scores[user, item], *np.delete(scores[user], item)])
        for user, item in zip(EVENTS["user"][:4], EVENTS["item"][:4], strict=True)
    ])  # fmt: skip
    assert loss_of(model, BATCH) == pytest.approx(expected, rel=1e-4)


def test_mixed_negatives_by_hand() -> None:
    """In-batch and uniform: one column for each distinct item, corrected for its being brought by either."""
    schema = IDS.fit(EVENTS)
    model = model_of(schema, samplers=["in-batch", sf.UniformSampler(num_sampled=3, seed=5)])
    scores, rows = scores_of(model), 4
    drawn = model.negatives.samplers[1]
    state = drawn._generator.state.numpy()
    found = loss_of(model, BATCH)
    drawn._generator.state.assign(state)
    positions = (keras.random.uniform((3,), dtype="float64", seed=drawn._generator).numpy() * ITEMS).astype(int)
    present = set(EVENTS["item"][:rows]) | set(positions.tolist())
    share = np.maximum(np.bincount(EVENTS["item"], minlength=ITEMS), 1) / len(EVENTS["item"])
    log_q = np.log(1 - (1 - share) ** rows * (1 - 1 / ITEMS) ** 3)
    losses = []
    for user, item in zip(EVENTS["user"][:rows], EVENTS["item"][:rows], strict=True):
        logits = scores[user] - log_q
        losses.append(softmax([logits[item], *(logits[other] for other in present - {item})]))
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_item_features_are_looked_up_for_drawn_items(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    model = model_of(schema, samplers=["in-batch", sf.UniformSampler(50)], candidates=data.items)
    assert isinstance(model.catalogue, ItemCatalogue)
    model.fit(data.interactions, batch_size=256, verbose=0)
    positions = tf.range(model.catalogue.size)
    vectors = model.item_tower(model.catalogue.features(positions))
    raw = model.candidate_embeddings(data.items)
    rows = model.catalogue.ids(positions).numpy()
    vocabulary = schema.vocabulary("item_id").to_pylist()
    known = pq.read_table(data.items)["item_id"].to_pylist()
    expected = np.stack([raw[known.index(vocabulary[row - 3])] for row in rows if row >= 3])
    assert np.allclose(vectors.numpy()[rows >= 3], expected, atol=1e-6)


def test_the_positive_is_left_uncorrected_where_it_is_excluded() -> None:
    schema = IDS.fit(EVENTS)
    model = model_of(schema, correction="exclude_positive")
    scores, items = scores_of(model), EVENTS["item"][:4]
    share = np.bincount(EVENTS["item"], minlength=ITEMS) / len(EVENTS["item"])
    log_q = np.log(1 - (1 - np.maximum(share, 1 / 8)) ** 3)  # of being among the three other rows
    losses = []
    for user, item in zip(EVENTS["user"][:4], items, strict=True):
        others = set(items) - {item}
        losses.append(softmax([scores[user, item], *(scores[user, it] - log_q[it] for it in others)]))
    assert loss_of(model, BATCH) == pytest.approx(np.mean(losses), rel=1e-4)


def test_without_counts_the_stream_is_counted_and_saved(tmp_path: Path) -> None:
    model = model_of()
    assert model.negatives.frequency is not None
    rng = np.random.default_rng(0)
    share = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.01, 0.01])
    events = {"user": rng.integers(USERS, size=4000), "item": rng.choice(ITEMS, p=share, size=4000)}
    model.fit(events, batch_size=8, verbose=0)
    estimate = model.negatives.frequency(tf.range(ITEMS)).numpy()
    assert estimate == pytest.approx(1 - (1 - share) ** 8, abs=0.08)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.negatives.frequency(tf.range(ITEMS)).numpy().tolist() == estimate.tolist()
    before = loss_of(again, BATCH, training=False)
    assert again.negatives.frequency(tf.range(ITEMS)).numpy().tolist() == estimate.tolist(), "evaluation counts nothing"
    assert before == loss_of(model, BATCH, training=False)


def test_what_the_stream_said_of_one_batch_size_holds_for_others() -> None:
    """Shares were counted in batches of 16; a batch of 128, and a cache of 100 rows, hold an item far more often."""
    rng = np.random.default_rng(0)
    share = np.array([0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01])
    events = {"user": rng.integers(USERS, size=4000), "item": rng.choice(ITEMS, p=share, size=4000)}
    losses = []
    for schema in (IDS.fit(events), IDS):
        model = model_of(schema, samplers=["in-batch", sf.CachedCrossBatchSampler(100)])
        model.compile(optimizer=keras.optimizers.SGD(0.0))
        model.fit(events, batch_size=16, verbose=0)
        losses.append([model.evaluate(events, batch_size=rows, verbose=0) for rows in (4, 16, 128)])
    assert losses[0] == pytest.approx(losses[1], abs=0.03)


def test_users_known_positives_are_nobodys_negatives_of_theirs() -> None:
    """User 0 chose 1 and 2; in the batch with 1 as the positive, 2 is no negative of user 0, but is of user 1."""
    model = model_of(correction=None, known_positives=EVENTS)
    scores = scores_of(model)
    batch = {encoded_name("user"): tf.constant([0, 1, 3]), encoded_name("item"): tf.constant([1, 4, 2])}
    expected = np.mean([
        softmax([scores[0, 1], scores[0, 4]]),  # 2 is known of user 0
        softmax([scores[1, 4], scores[1, 2]]),  # 1 is known of user 1
        softmax([scores[3, 2], scores[3, 1]]),  # 4 is known of user 3
    ])  # fmt: skip
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)
    plain = model_of(correction=None)
    assert loss_of(plain, batch) == pytest.approx(
        np.mean(
            [softmax([scores[u, i], *(scores[u, j] for j in {1, 4, 2} - {i})]) for u, i in [(0, 1), (1, 4), (3, 2)]]
        ),
        rel=1e-5,
    )


def test_a_history_names_the_known_positives() -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
        sf.Feature(name="seen", dtype="string", tags=("user", "sequence"), domain="item", list={}),
        sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=("a", "b", "c"), domain="item"),
    ))  # fmt: skip
    table = {"user": [0, 1], "seen": [["b", "?"], []], "item": ["a", "b"]}
    block = keras.layers.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(seed=4))
    masked, plain = (
        sf.TwoTowerModel(schema, block, keras.layers.Dense(4), correction=None, known_positives=it)
        for it in ("seen", None)
    )
    plain.set_weights(masked.get_weights())
    batch = next(iter(sf.read_parquet(table, schema, batch_size=2)))
    out = plain(batch)
    scores = (out["query"] @ tf.transpose(out["candidate"])).numpy()
    assert loss_of(masked, batch) == pytest.approx(softmax([scores[1, 1], scores[1, 0]]) / 2, rel=1e-5)
    assert loss_of(plain, batch) > loss_of(masked, batch)
    with pytest.raises(ConfigError, match='names "user", which is no list of the domain "item"'):
        sf.TwoTowerModel(schema, block, correction=None, known_positives="user")
    # an unknown item in a history is not every unknown item
    unknown = {"user": [0, 1], "seen": [["?"], []], "item": ["a", "!"]}
    batch = next(iter(sf.read_parquet(unknown, schema, batch_size=2)))
    assert loss_of(masked, batch) == loss_of(plain, batch)


def test_explicit_negatives_are_columns_without_a_row_of_their_own() -> None:
    features = (*IDS.features, sf.Feature(name="disliked", dtype="int8", tags=("explicit_negative",)))
    model = model_of(sf.Schema(features), correction=None)
    scores = scores_of(model)
    batch = BATCH | {encoded_name("disliked"): tf.constant([0, 1, 0, 0], tf.int8)}
    # rows are (0, 1), (0, 2), (1, 1), (2, 3), the second disliked
    expected = np.mean(
        [softmax([scores[u, i], *(scores[u, j] for j in {1, 2, 3} - {i})]) for u, i in [(0, 1), (1, 1), (2, 3)]]
    )
    assert loss_of(model, batch) == pytest.approx(expected, rel=1e-5)
    table = {**EVENTS, "disliked": [0, 1, 0, 0, 0, 0, 0, 0]}
    assert np.isfinite(model.fit(table, batch_size=4, verbose=0).history["loss"][0])
    report = sf.evaluate(model, table, {"item": list(range(ITEMS))}, ks=[1])
    assert report.protocol["no positives, by disliked"] == 1
    assert (
        report["recall@1"]
        == sf.evaluate(
            model, {name: np.delete(values, 1) for name, values in table.items()}, {"item": list(range(ITEMS))}, ks=[1]
        )["recall@1"]
    )


def loss_by_definition(loss: str, own: float, negatives: np.ndarray) -> float:
    """The losses of the package, each row's written out anew."""
    sigmoid = 1 / (1 + np.exp(negatives - own))
    if loss == "bpr-max":
        share = np.exp(negatives) / np.exp(negatives).sum()
        return float(-np.log((share * sigmoid).sum()) + (share * negatives**2).sum())
    return {
        "categorical_crossentropy": softmax([own, *negatives]),
        "bpr": -np.log(sigmoid).mean(),
        "top1": (1 - sigmoid).mean() + (1 / (1 + np.exp(-(negatives**2)))).mean(),
        "hinge": np.maximum(0, 1 - own + negatives).mean(),
        "logistic": np.log1p(np.exp(-own)) + np.log1p(np.exp(negatives)).mean(),
    }[loss]


@pytest.mark.parametrize("correction", ["log_q", "exclude_positive", None])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "bpr", "bpr-max", "top1", "hinge", "logistic"])
def test_the_whole_order_by_hand(loss: str, correction: str | None) -> None:
    """Temperature, log-Q, hits, known and explicit negatives, hard negatives and weights: all of them in one batch."""
    marks = {"weight": [1.0, 0.5, 2.0, 1.0, 0.0, 3.0, 1.0, 1.0], "refused": [0, 1, 0, 0, 0, 0, 1, 0]}
    table = EVENTS | marks
    schema = sf.Schema((
        *IDS.features,
        sf.Feature(name="weight", dtype="float32", tags=("weight",)),
        sf.Feature(name="refused", dtype="int8", tags=("explicit_negative",)),
    )).fit(table)  # fmt: skip
    task = sf.RetrievalTask(loss=loss, temperature=0.3, num_hard_negatives=2, metrics=sf.FactorizedTopK(ks=(2,)))
    known = EVENTS | {"refused": [0] * 8}
    model = model_of(schema, correction=correction, known_positives=known, prediction_tasks=task)
    for table_of in (model.query_tower.encoder.encoders["user"], model.item_tower.encoder.encoders["item"]):
        table_of.table.embeddings.assign(tf.random.stateless_normal(table_of.table.embeddings.shape, (1, 2)))
    scores = scores_of(model)
    share = np.maximum(np.bincount(EVENTS["item"], minlength=ITEMS), 1) / 8
    log_q = np.log(1 - (1 - share) ** (7 if correction == "exclude_positive" else 8)) * (correction is not None)
    losses, hits = np.zeros(8), np.zeros(8)
    for row, (user, item) in enumerate(zip(EVENTS["user"], EVENTS["item"], strict=True)):
        chosen = {it for who, it in zip(EVENTS["user"], EVENTS["item"], strict=True) if who == user}
        others = sorted(set(EVENTS["item"]) - chosen)
        negatives = np.sort(scores[user, others] / 0.3 - log_q[others])[-2:]
        own = scores[user, item] / 0.3 - (0.0 if correction == "exclude_positive" else log_q[item])
        losses[row] = loss_by_definition(loss, own, negatives)
        hits[row] = (scores[user] >= scores[user, item]).sum() <= 2
    weights = np.array(marks["weight"]) * (1 - np.array(marks["refused"]))
    shown = model.evaluate(table, batch_size=8, verbose=0, return_dict=True)
    assert shown["loss"] == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-4)
    assert shown["factorized_top_k/hit_rate@2"] == pytest.approx((weights * hits).sum() / weights.sum(), rel=1e-6)


def test_the_metric_over_the_catalogue_agrees_with_evaluate(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    metric = sf.FactorizedTopK(data.items, ks=(1, 10, 50))
    model = model_of(schema, prediction_tasks=sf.RetrievalTask(metrics=metric))
    seen = model.fit(data.interactions, batch_size=256, epochs=2, verbose=0, validation_data=data.interactions).history
    assert "factorized_top_k/hit_rate@10" not in seen, "off in training unless asked"
    shown = model.evaluate(data.interactions, return_dict=True, verbose=0)
    report = sf.evaluate(model, data.interactions, data.items, ks=[1, 10, 50])
    for k in (1, 10, 50):
        assert shown[f"factorized_top_k/hit_rate@{k}"] == pytest.approx(report[f"hit_rate@{k}"], abs=2e-3)
    # vectors are those of the weights of that moment
    assert seen["val_factorized_top_k/hit_rate@10"][-1] == pytest.approx(
        shown["factorized_top_k/hit_rate@10"], abs=1e-6
    )
    assert seen["val_factorized_top_k/hit_rate@10"][0] != seen["val_factorized_top_k/hit_rate@10"][1]


def test_the_metric_in_training_when_asked_encodes_once_an_epoch(
    schema: sf.Schema, data: sf.datasets.DataFolder
) -> None:
    task = sf.RetrievalTask(metrics=sf.FactorizedTopK(ks=(10,)), metrics_in_training=True)
    model = model_of(schema, prediction_tasks=task, candidates=data.items)
    encoded = []
    original = model.encode_candidates
    model.encode_candidates = lambda: (encoded.append(1), original())  # type: ignore[method-assign]
    history = model.fit(data.interactions, batch_size=256, epochs=3, verbose=0).history
    assert len(encoded) == 3
    rates = history["factorized_top_k/hit_rate@10"]
    assert rates[-1] > rates[0] > 0


def test_a_row_of_weight_zero_is_not_there_for_loss_and_metrics(tmp_path: Path) -> None:
    features = (*IDS.features, sf.Feature(name="importance", dtype="float32", tags=("weight",)))
    metrics = sf.FactorizedTopK({"item": list(range(ITEMS))}, ks=(1, 3))
    batch_top = keras.metrics.TopKCategoricalAccuracy(1, name="batch_top")
    task = sf.RetrievalTask(metrics=metrics, batch_metrics=batch_top)
    model = model_of(sf.Schema(features), prediction_tasks=task, correction=None)
    weights = [2.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    shown = model.evaluate({**EVENTS, "importance": weights}, verbose=0, return_dict=True)
    scores, items = scores_of(model), EVENTS["item"]
    present = set(items)
    ranks = [1 + int((scores[u] > scores[u, i]).sum()) for u, i in zip(EVENTS["user"], items, strict=True)]
    losses = [
        softmax([scores[u, i], *(scores[u, j] for j in present - {i})])
        for u, i in zip(EVENTS["user"], items, strict=True)
    ]
    first = [scores[u, i] >= max(scores[u, j] for j in present) for u, i in zip(EVENTS["user"], items, strict=True)]
    for k in (1, 3):
        assert shown[f"factorized_top_k/hit_rate@{k}"] == pytest.approx(np.dot(np.array(ranks) <= k, weights) / 4)
    assert shown["loss"] == pytest.approx(np.dot(losses, weights) / 4, rel=1e-5)
    assert shown["batch_top"] == pytest.approx(np.dot(first, weights) / 4)


def test_a_collapsed_model_scores_near_zero_in_fit_and_evaluate(
    schema: sf.Schema, data: sf.datasets.DataFolder
) -> None:
    model = model_of(schema, prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(data.items, ks=(10,))))
    for weight in model.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    assert model.evaluate(data.interactions, return_dict=True, verbose=0)["factorized_top_k/hit_rate@10"] == 0.0


def test_learned_temperature_moves_and_is_saved(
    tmp_path: Path, schema: sf.Schema, data: sf.datasets.DataFolder
) -> None:
    model = model_of(schema, logits_temperature="learned", l2_normalize=True)
    begin = float(model.retrieval.log_temperature.numpy())
    assert np.exp(begin) == pytest.approx(0.07)
    model.fit(data.interactions, batch_size=256, verbose=0)
    learned = float(model.retrieval.log_temperature.numpy())
    assert learned != begin
    model.save(tmp_path / "m.keras")
    assert float(keras.models.load_model(tmp_path / "m.keras").retrieval.log_temperature.numpy()) == learned


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "bpr", "bpr-max", "top1", "hinge", "logistic"])
def test_every_loss_learns(loss: str) -> None:
    model = model_of(IDS.fit(EVENTS), loss=loss, samplers=["in-batch", sf.UniformSampler(4, seed=0)])
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    before = sf.evaluate(model, EVENTS, {"item": list(range(ITEMS))}, ks=[2])["recall@2"]
    often = {name: values * 60 for name, values in EVENTS.items()}  # an epoch costs more than a step
    model.fit(often, batch_size=8, shuffle=False, verbose=0)
    after = sf.evaluate(model, EVENTS, {"item": list(range(ITEMS))}, ks=[2])["recall@2"]
    assert after > 0.8 > before


def test_everything_at_once_is_saved_and_goes_on(
    tmp_path: Path, data: sf.datasets.DataFolder, schema: sf.Schema
) -> None:
    model = model_of(
        schema, candidates=data.items, known_positives=data.interactions, correction="exclude_positive",
        samplers=[sf.InBatchSampler(), sf.CachedCrossBatchSampler(64), sf.UniformSampler(16), sf.PopularityBasedSampler(16)],
        prediction_tasks=sf.RetrievalTask(
            loss="bpr", metrics=sf.FactorizedTopK(ks=(5,)), temperature="learned", num_hard_negatives=20,
            batch_metrics=keras.metrics.TopKCategoricalAccuracy(5, name="batch_top_5"),
        ),
    )  # fmt: skip
    model.fit(data.interactions, batch_size=128, verbose=0)
    assert sf.TwoTowerModel.from_config(model.get_config()).get_config() == model.get_config()
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.evaluate(data.interactions, verbose=0, return_dict=True) == pytest.approx(
        model.evaluate(data.interactions, verbose=0, return_dict=True), rel=1e-6
    )
    for it in (model, again):
        it.fit(data.interactions, batch_size=128, verbose=0, shuffle=False)
    for left, right in zip(model.weights, again.weights, strict=True):
        assert np.array_equal(left.numpy(), right.numpy()), left.path


@pytest.mark.parametrize("correction", ["log_q", "exclude_positive", "streaming", None])
@pytest.mark.parametrize("sampler", ["in-batch", "cross-batch", "uniform", "popularity"])
def test_each_sampler_alone_trains_from_its_first_batch_to_one_of_one_row(sampler: str, correction: str | None) -> None:
    """An empty cache brings no negatives, so the first loss is 0; and an empty cache is no error."""
    made = sf.CachedCrossBatchSampler(5) if sampler == "cross-batch" else sampler
    how = sf.StreamingFrequency(ITEMS) if correction == "streaming" else correction
    model = model_of(IDS.fit(EVENTS), samplers=[made], correction=how)
    model.compile(optimizer=keras.optimizers.SGD(0.5), run_eagerly=True)
    losses = [model.train_on_batch({name: values[:rows] for name, values in BATCH.items()}) for rows in (4, 3, 1)]
    assert np.isfinite(losses).all()
    assert (losses[0] == 0.0) == (sampler == "cross-batch")
    assert losses[1] > 0.0


def test_a_sampler_keeps_vectors_of_one_model_alone() -> None:
    cache = sf.CachedCrossBatchSampler(4)
    model_of(samplers=["in-batch", cache]).fit(EVENTS, verbose=0)
    with pytest.raises(ConfigError, match="keeps vectors of another model"):
        model_of(samplers=["in-batch", cache])


def test_a_metric_over_a_file_is_saved_and_grows(tmp_path: Path) -> None:
    """The catalogue holds what the file said, so that neither loading nor growing reads it."""
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item": list(range(ITEMS))}), path)
    model = model_of(prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(path, ks=(3,))))
    model.fit(EVENTS, verbose=0)
    shown = model.evaluate(EVENTS, return_dict=True, verbose=0)
    model.save(tmp_path / "m.keras")
    path.unlink()
    for it in (keras.models.load_model(tmp_path / "m.keras"), model.grow(IDS)):
        assert it.evaluate(EVENTS, return_dict=True, verbose=0) == pytest.approx(shown, rel=1e-6)
    fewer = model.grow(IDS, candidates={"item": [1, 2, 3]})
    assert fewer.evaluate(EVENTS, return_dict=True, verbose=0)["factorized_top_k/hit_rate@3"] == 5 / 8


def test_a_metric_over_a_dataset_of_vectors_asks_for_it_again(tmp_path: Path) -> None:
    """It is not saved, and no items of the model's take its place."""
    vectors = [np.eye(4, dtype=np.float32)]
    model = model_of(prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(vectors, ks=(3,))))
    model.fit(EVENTS, verbose=0)
    shown = model.evaluate(EVENTS, return_dict=True, verbose=0)
    model.save(tmp_path / "m.keras")
    for it in (keras.models.load_model(tmp_path / "m.keras"), model.grow(IDS)):
        with pytest.raises(ConfigError, match="a dataset is not saved with a model"):
            it.evaluate(EVENTS, verbose=0)
        it.retrieval.factorized_metrics[0].candidates = vectors
        assert it.evaluate(EVENTS, return_dict=True, verbose=0) == pytest.approx(shown, rel=1e-6)


def test_a_step_by_hand_ranks_what_was_encoded() -> None:
    model = model_of(prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(ks=(3,)), metrics_in_training=True))
    batch = {name: tf.constant(values) for name, values in EVENTS.items()}
    with pytest.raises(ConfigError, match=r"call encode_candidates\(\)"):
        model.train_on_batch(batch)
    expected = model.test_on_batch(batch, return_dict=True)
    model.encode_candidates()
    assert model.train_on_batch(batch, return_dict=True) == pytest.approx(expected, rel=1e-5)


def test_a_catalogue_that_is_the_vocabulary_grows_with_it(tmp_path: Path) -> None:
    """No table was given, so none is to be given again: new items are negatives and candidates."""
    features = {name: {"dtype": "string", "tags": [name, "id"], "vocabulary": "learned"} for name in ("user", "item")}
    first, then = {"user": ["a", "b"], "item": ["x", "y"]}, {"user": ["a", "c"], "item": ["z", "w"]}
    schema = sf.Schema.from_config({"fitted": {}, "yaml": yaml.safe_dump({"version": 1, "features": features})}).fit(
        first
    )
    task = sf.RetrievalTask(metrics=sf.FactorizedTopK(ks=(4,)))
    model = model_of(schema, samplers=["in-batch", sf.UniformSampler(64)], prediction_tasks=task)
    model.fit(first, verbose=0)
    grown = model.grow(schema.fit(then))
    assert grown.catalogue.size == 4
    assert grown.evaluate(then, return_dict=True, verbose=0)["factorized_top_k/hit_rate@4"] == 1.0
    grown.save(tmp_path / "m.keras")
    assert keras.models.load_model(tmp_path / "m.keras").catalogue.size == 4


def test_it_grows_with_its_samplers(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    model = model_of(
        schema, candidates=data.items, known_positives=data.interactions,
        correction=sf.StreamingFrequency(buckets=schema.rows("item_id")),
        samplers=["in-batch", sf.CachedCrossBatchSampler(32), sf.UniformSampler(16)],
    )  # fmt: skip
    model.fit(data.interactions, batch_size=256, verbose=0)
    table = pq.read_table(data.interactions)
    newer = table.slice(0, 40).to_pydict() | {"user_id": ["nobody"] * 40}
    wider = schema.fit(newer)
    grown = model.grow(wider)
    assert grown.catalogue.get_weights()[0].tolist() == model.catalogue.get_weights()[0].tolist()
    nobody = wider.rows("user_id") - 1
    assert grown.known_positives(tf.constant([nobody, 5])).to_list()[0] == []
    assert grown.known_positives(tf.constant([5])).to_list() == model.known_positives(tf.constant([5])).to_list()
    assert np.isfinite(grown.fit(data.interactions, batch_size=256, verbose=0).history["loss"][0])
    again = model.grow(wider, known_positives=newer, candidates=data.items)
    assert len(again.known_positives(tf.constant([nobody])).to_list()[0]) == len(set(newer["item_id"]))


def test_arguments_that_contradict(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    own = sf.RetrievalTask(metrics=sf.FactorizedTopK(data.items))
    for message, arguments in [
        ("both the model and FactorizedTopK are given candidates", {"prediction_tasks": own, "candidates": data.items}),
        ("pass the table of them: candidates=", {"samplers": ["uniform"]}),
        ("pass the table of them: candidates=", {"prediction_tasks": sf.RetrievalTask(metrics=sf.FactorizedTopK())}),
        ("samplers holds 7", {"samplers": [7]}),
        ("samplers holds 2 of InBatchSampler", {"samplers": ["in-batch", sf.InBatchSampler()]}),
        ("does not go without arguments; pass a CachedCrossBatchSampler", {"samplers": ["cross-batch"]}),
        ("expected one at most", {"prediction_tasks": [sf.RetrievalTask(), sf.RetrievalTask()]}),
        ("correction is 'q'", {"correction": "q"}),
    ]:
        with pytest.raises(ConfigError, match=message):
            model_of(schema, **arguments)
    with pytest.raises(ConfigError, match="ranks the items by the schema's item counts, and it has none"):
        model_of(IDS, samplers=["popularity"])


def test_lists_of_drawn_items_are_left_to_tensorflow() -> None:
    """XLA cannot gather lists, so asking for it is answered by Keras's warning, and not by a crash of the first step."""
    schema = sf.Schema((
        *IDS.features,
        sf.Feature(name="genres", dtype="int64", tags=("item", "categorical"), cardinality=3, list={}),
    ))  # fmt: skip
    genres = [[], [1], [1, 2], [2], [], [1], [1, 2], [0]]
    table = {**EVENTS, "genres": [genres[item] for item in EVENTS["item"]]}
    items = {"item": list(range(ITEMS)), "genres": genres}
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]), samplers=["in-batch", sf.UniformSampler(5)], candidates=items)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile(optimizer="adam", jit_compile=True)
    assert np.isfinite(model.fit(table, verbose=0).history["loss"]).all()


def test_compiled_by_xla_it_is_the_same() -> None:
    schema = IDS.fit(EVENTS)
    histories = []
    for jit in (False, True):
        model = model_of(
            schema,
            samplers=["in-batch", sf.CachedCrossBatchSampler(8)],  # random numbers are other ones under XLA
            correction=sf.StreamingFrequency(buckets=ITEMS),
            prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(ks=(2,)), num_hard_negatives=3),
        )  # fmt: skip
        model.compile(optimizer=keras.optimizers.SGD(0.5), jit_compile=jit)
        history = model.fit(EVENTS, batch_size=4, epochs=3, verbose=0, shuffle=False, validation_data=EVENTS).history
        histories.append(history)
    assert histories[0].keys() == histories[1].keys()
    for name in histories[0]:
        assert histories[0][name] == pytest.approx(histories[1][name], rel=1e-4), name
    drawing = model_of(schema, samplers=[sf.UniformSampler(400, seed=1), sf.PopularityBasedSampler(400, seed=1)])
    plain = loss_of(drawing, BATCH, training=False)
    drawing.compile(optimizer=keras.optimizers.SGD(0.0), jit_compile=True)
    shown = drawing.fit({name: values[:4] for name, values in EVENTS.items()}, batch_size=4, verbose=0, shuffle=False)
    assert shown.history["loss"][0] == pytest.approx(plain, rel=1e-3), "with so many draws, all items are there"
