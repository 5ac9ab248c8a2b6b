"""Distillation: losses by hand, a column and a function as the teacher, heads, saving; and a teacher that is learned."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.data.join import read_table
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.schema.sides import sides_of
from schemaflow.tasks.listwise import divergence, margins

USERS, ITEMS = 6, 20
FEATURES = (
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
)
COLUMN = sf.Feature(name="judged", dtype="float32", tags=("teacher",))
rng = np.random.default_rng(5)
LOG = {"user": rng.integers(USERS, size=300), "item": rng.integers(ITEMS, size=300)}
TRUTH = rng.normal(size=(USERS, 2)) @ rng.normal(size=(2, ITEMS)) * 2


@keras.saving.register_keras_serializable("schemaflow-tests")
def truth(queries: Any, items: Any) -> Any:
    return TRUTH[queries["user"][:, np.newaxis], items["item"]]


def model_of(*tasks: Any, features: Any = FEATURES, seed: int = 1, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        sf.Schema(features).fit(LOG | {"judged": np.zeros(300)}),
        sf.MLPBlock([6]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=6),
        prediction_tasks=list(tasks),
        **arguments,
    )
    model.compile(keras.optimizers.Adam(0.03))
    return model


# -- losses -----------------------------------------------------------------------------------------------------------


def test_kl_takes_a_temperature_and_leaves_out_what_has_no_score() -> None:
    task = sf.DistillationTask(truth, temperature=2.0)
    scores = tf.constant([[2 * np.log(3.0), 0.0, 50.0]], tf.float32)  # at T = 2: 3 to 1
    teacher = tf.constant([[0.0, 0.0, np.nan]])
    expected = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    assert task(scores, teacher).numpy() == pytest.approx([4 * expected], abs=1e-6)


def test_the_gradient_of_kl_is_the_difference_of_softmaxes_and_exactly_0_where_they_agree() -> None:
    scores = tf.Variable(np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32))
    compared = tf.constant([[True] * 6 + [False]] * 40)
    other = tf.constant(np.random.default_rng(1).normal(size=(40, 7)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        same, apart = (tf.reduce_sum(divergence(it, scores, compared)) for it in (tf.identity(scores), other))
    assert np.all(tape.gradient(same, scores).numpy() == 0.0)
    odds, wanted = (np.exp(np.array(it)[:, :6]) for it in (scores, other))
    expected = odds / odds.sum(1, keepdims=True) - wanted / wanted.sum(1, keepdims=True)
    assert tape.gradient(apart, scores).numpy() == pytest.approx(np.pad(expected, [(0, 0), (0, 1)]), abs=1e-6)


def test_margins_are_means_over_all_pairs() -> None:
    draw = np.random.default_rng(2)
    teacher, scores = draw.normal(size=(3, 5)), draw.normal(size=(3, 5))
    compared = np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 1, 0]], bool)
    expected = []
    for t, s, at in zip(teacher, scores, compared, strict=True):
        d = (s - t)[at]
        pairs = [(d[i] - d[j]) ** 2 for i in range(len(d)) for j in range(len(d)) if i != j]
        expected.append(np.mean(pairs) if pairs else 0.0)
    found = margins(*(tf.constant(it, tf.float32) for it in (teacher, scores)), tf.constant(compared))
    assert found.numpy() == pytest.approx(expected, rel=1e-5)


def test_pointwise_losses_take_log_odds_or_probabilities() -> None:
    scores = tf.constant([[0.0, np.log(3.0)]])  # probabilities 1/2 and 3/4
    bce = sf.DistillationTask(loss="bce")(scores, tf.constant([[np.log(3.0), np.nan]]))
    assert bce.numpy() == pytest.approx([np.log(2.0)], abs=1e-6)
    bce = sf.DistillationTask(loss="bce", probabilities=True)(scores, tf.constant([[1.0, 0.0]]))
    assert bce.numpy() == pytest.approx([(np.log(2.0) + np.log(4.0)) / 2], abs=1e-6)
    mse = sf.DistillationTask(loss="mse", probabilities=True)(scores, tf.constant([[0.75, 0.5]]))
    assert mse.numpy() == pytest.approx([np.log(3.0) ** 2], abs=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no probability; expected numbers from 0 to 1"):
        sf.DistillationTask(loss="bce", probabilities=True)(scores, tf.constant([[1.5, 0.0]]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="above 0 and below 1, whose log odds are finite"):
        sf.DistillationTask(truth, probabilities=True)(scores, tf.constant([[1.0, 0.5]]))


# -- the schema's column ----------------------------------------------------------------------------------------------


def test_a_teachers_column_is_read_as_it_stands_and_may_lack_values() -> None:
    schema = sf.Schema((*FEATURES, COLUMN))
    assert schema["judged"].kind == "value"
    assert [it.name for it in (*sides_of(schema).query, *sides_of(schema).item)] == ["user", "item"]
    for values in ([0.5, None], [0.5, np.nan]):
        table = pa.table({"user": [1, 2], "item": [3, 4], "judged": pa.array(values, pa.float32())})
        assert not schema.check(table).errors
        assert np.array_equal(read_table(table, schema)["judged"], [0.5, np.nan], equal_nan=True)  # type: ignore[arg-type]
    table = pa.table({"user": [1], "item": [3], "judged": pa.array([np.inf], pa.float32())})
    with pytest.raises(DataError, match='row 0: feature "judged" is inf, which is infinite'):
        read_table(table, schema)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"dtype": "int8"},
            "is tagged teacher but has dtype int8; a score is a number that may be missing: use float32",
        ),
        ({"tags": ("teacher", "target")}, "is tagged both target and teacher; keep one"),
        ({"missing": {"value": 0}}, 'has "missing" but is kept out of the towers'),
    ],
)
def test_a_teachers_column_is_nothing_else(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sf.Feature(**{"name": "judged", "dtype": "float32", "tags": ("teacher",)} | spec)


def test_a_column_teaches_the_rows_that_have_a_score() -> None:
    pairs = {"user": np.repeat(np.arange(USERS), ITEMS), "item": np.tile(np.arange(ITEMS), USERS)}
    scores = TRUTH[pairs["user"], pairs["item"]].astype(np.float32)
    scores[::4] = np.nan
    model = model_of(sf.DistillationTask(loss="mse"), features=(*FEATURES, COLUMN))
    history = model.fit(pairs | {"judged": scores}, batch_size=40, epochs=30, verbose=0).history
    assert history["distillation/taught"][-1] == pytest.approx(0.75)
    found = model.predict(pairs)["score"]
    assert np.corrcoef(found[1::4], scores[1::4])[0, 1] > 0.95
    # a batch without any has a loss of 0, and one row is a batch
    alone = {name: tf.constant(values[:1]) for name, values in (pairs | {"judged": scores}).items()}
    assert model.test_on_batch(alone, return_dict=True)["distillation/taught"] == 0.0
    assert model.train_on_batch(alone, return_dict=True)["loss"] == 0.0
    second = {name: tf.constant(values[1:2]) for name, values in (pairs | {"judged": scores}).items()}
    assert np.isfinite(model.train_on_batch(second, return_dict=True)["loss"])


def test_what_is_taught_leaves_a_learned_temperature_to_the_retrieval_task() -> None:
    learned = sf.RetrievalTask(temperature="learned", initial_temperature=0.5)
    model = model_of(learned, sf.DistillationTask(loss="mse"), features=(*FEATURES, COLUMN))
    batch = {name: tf.constant(values[:20]) for name, values in LOG.items()} | {"judged": tf.ones(20)}
    with tf.GradientTape(persistent=True) as tape:
        step = model._step(batch, model(batch, training=True), None, training=True)
        taught, retrieved = (task.loss_in(step) for task in reversed(model.tasks))
        whole = model.compute_loss(batch, y_pred=model(batch, training=True))
    assert float(step.temperature) == pytest.approx(0.5)
    assert tape.gradient(taught, learned.log_temperature) is None
    assert tape.gradient(taught, model.trainable_variables[0]) is not None
    moved = float(tape.gradient(retrieved, learned.log_temperature))
    assert abs(moved) > 1e-3
    assert float(tape.gradient(whole, learned.log_temperature)) == pytest.approx(moved, rel=1e-5)


def test_a_teacher_has_to_be_named() -> None:
    with pytest.raises(SchemaError, match=r'add the column .*"teacher_score: \{dtype: float32, tags: \[teacher\]\}"'):
        model_of(sf.DistillationTask())
    other = sf.Feature(name="other", dtype="float32", tags=("teacher",))
    with pytest.raises(SchemaError, match='the features "judged" and "other" are tagged so; pass the name of one'):
        model_of(sf.DistillationTask(), features=(*FEATURES, COLUMN, other))
    with pytest.raises(
        SchemaError, match=r'"jugded: \{dtype: float32, tags: \[teacher\]\}"; tagged teacher are "judged"'
    ):
        model_of(sf.DistillationTask("jugded"), features=(*FEATURES, COLUMN))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"loss": "kl"},
            'the loss "kl" compares a query\'s items with each other, and a column holds the score of one',
        ),
        ({"loss": "ce"}, "loss is 'ce'; did you mean \"bce\"; expected 'kl' or 'margin' or 'bce' or 'mse'"),
        ({"head": "share"}, "head is 'share'; did you mean"),
        ({"temperature": 0}, "the temperature is 0; expected a number above 0"),
        ({"temperature": 2.0}, 'the temperature is that of the softmax of "kl", and the loss is "bce"'),
        ({"probabilities": 1}, "probabilities is 1; expected True or False"),
        ({"hard": 0, "random": 1}, r"hard \+ random is 1; expected two candidates at least"),
        ({"teacher": 3}, "the scorer is 3; expected a function"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sf.DistillationTask(**arguments)


# -- a function -------------------------------------------------------------------------------------------------------


def overlap(model: sf.TwoTowerModel, k: int = 5) -> float:
    queries = model.query_embeddings({"user": np.arange(USERS)})
    scores = queries @ model.candidate_embeddings({"item": np.arange(ITEMS)}).T
    best = zip(np.argsort(-scores)[:, :k], np.argsort(-TRUTH)[:, :k], strict=True)
    return float(np.mean([len(set(mine) & set(theirs)) / k for mine, theirs in best]))


@pytest.mark.parametrize("loss", ["kl", "bce"])
def test_the_towers_learn_what_a_function_says(loss: str) -> None:
    model = model_of(sf.DistillationTask(truth, loss, hard=6, random=6))
    before = overlap(model)
    history = model.fit(LOG, batch_size=100, epochs=25, verbose=0).history
    assert before < 0.5
    assert overlap(model) > 0.8
    assert history["distillation/agreement"][-1] > 0.8 > history["distillation/agreement"][0]


def test_the_auxiliary_head_leaves_the_scores_to_the_clicks() -> None:
    def contrary(queries: Any, items: Any) -> Any:
        return -truth(queries, items)

    heads = {}
    for head in ("shared", "auxiliary"):
        tasks = (
            sf.DistillationTask(truth, hard=0, random=10, name="for"),
            sf.DistillationTask(contrary, head=head, hard=0, random=10, name="against"),
        )
        model = model_of(*tasks)
        history = model.fit(LOG, batch_size=100, epochs=25, verbose=0).history
        heads[head] = history["for/agreement"][-1], history["against/agreement"][-1]
    # one scale alone, which would have to turn round, against a matrix of its own
    assert min(heads["auxiliary"]) > 0.7 > min(heads["shared"]) + 0.1


def test_it_is_saved_with_its_function_or_says_what_is_missing(tmp_path: Path) -> None:
    kept = model_of(sf.RetrievalTask(), sf.DistillationTask(truth, head="auxiliary", hard=4, random=4))
    kept.fit(LOG, batch_size=50, epochs=1, verbose=0)
    kept.save(tmp_path / "kept.keras")
    again = keras.models.load_model(tmp_path / "kept.keras")
    for task in (kept.tasks[1], again.tasks[1]):
        assert task.column is None
    assert np.array_equal(again.tasks[1].get_weights()[0], kept.tasks[1].get_weights()[0])
    assert np.array_equal(again.query_embeddings(LOG), kept.query_embeddings(LOG))
    again.fit(LOG, batch_size=50, epochs=1, verbose=0)

    def mine(queries: Any, items: Any) -> Any:
        return truth(queries, items)

    lost = model_of(sf.DistillationTask(mine, hard=4, random=4))
    lost.fit(LOG, batch_size=50, epochs=1, verbose=0)
    lost.save(tmp_path / "lost.keras")
    again = keras.models.load_model(tmp_path / "lost.keras")
    assert np.array_equal(again.query_embeddings(LOG), lost.query_embeddings(LOG))
    with pytest.raises(ConfigError, match='the function "mine", a teacher or a reward, was not saved with the model'):
        again.fit(LOG, batch_size=50, epochs=1, verbose=0)
    again.tasks[0].scorer.function = mine
    again.fit(LOG, batch_size=50, epochs=1, verbose=0)


def test_a_model_that_grows_keeps_its_function() -> None:
    features = (
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), vocabulary="learned"),
    )
    asked: list[int] = []

    def priced(_: Any, items: Any) -> Any:
        asked.extend(items["item"].ravel())
        return items["item"] % 7

    model = model_of(sf.DistillationTask(priced, hard=4, random=4), features=features)
    more = {"user": np.array([0, 1]), "item": np.array([100, 101])}
    grown = model.grow(model.schema.fit(more))
    grown.fit(more, epochs=20, verbose=0)
    assert {100, 101} <= set(asked)


def test_rows_count_by_their_weight() -> None:
    weighted = (*FEATURES, sf.Feature(name="weight", dtype="float32", tags=("weight",)))
    model = model_of(sf.DistillationTask(truth, hard=0, random=ITEMS), features=weighted)
    rows = {"user": [0, 1], "item": [1, 1]}
    losses = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [3.0, 1.0]):
        model.tasks[0]._seed.state.assign([7, 0])  # the same candidates each time
        batch = {**rows, "weight": np.array(weights, np.float32)}
        losses.append(model.test_on_batch({k: tf.constant(v) for k, v in batch.items()}, return_dict=True)["loss"])
    assert losses[2] == pytest.approx((3 * losses[0] + losses[1]) / 4, rel=1e-5)


# -- the ranker -------------------------------------------------------------------------------------------------------

CLICK = sf.Feature(name="click", dtype="int8", tags=("target", "binary"), value=1.0)
BUY = sf.Feature(name="buy", dtype="int8", tags=("target", "binary"), value=2.0)
LABELS = {"click": rng.integers(2, size=300).astype(np.int8), "buy": rng.integers(2, size=300).astype(np.int8)}


def test_the_ranker_learns_of_a_teacher(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    tasks = (
        sf.RetrievalTask(),
        sf.LightRanker(["click", "buy"], sf.MLPBlock([32]), random=4, loss_weight=0.0),
        sf.DistillationTask(truth, on="ranker", of="buy", hard=0, random=ITEMS),
    )
    schema = sf.Schema((*FEATURES, CLICK, BUY)).fit(LOG | LABELS)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([6]), prediction_tasks=list(tasks))
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(LOG | LABELS, batch_size=50, epochs=25, verbose=0).history
    assert history["distillation/agreement"][-1] > 0.5  # of 20 items: 0.05 by chance
    pairs = {"user": np.repeat(np.arange(USERS), ITEMS), "item": np.tile(np.arange(ITEMS), USERS)}
    found = {name: model.predict(pairs)[f"light_ranker/{name}"].reshape(USERS, ITEMS) for name in ("click", "buy")}
    held = {name: np.clip(it, 1e-6, 1 - 1e-6) for name, it in found.items()}  # float32 ends at 1
    odds = {name: np.log(it / (1 - it)) for name, it in held.items()}
    like = {
        name: np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(it, TRUTH, strict=True)]) for name, it in odds.items()
    }
    assert like["buy"] > 0.6
    assert like["click"] < 0.3  # which nobody taught
    model.save(tmp_path / "it.keras")
    again = keras.models.load_model(tmp_path / "it.keras")
    assert again.predict(pairs)["light_ranker/buy"].tolist() == found["buy"].ravel().tolist()


def test_the_rankers_target_is_looked_for() -> None:
    features = (*FEATURES, CLICK, BUY, COLUMN)
    with pytest.raises(ConfigError, match='"distillation" is to teach the ranker, and prediction_tasks holds none'):
        model_of(sf.DistillationTask(on="ranker"), features=features)
    ranker = sf.LightRanker(["click", "buy"], random=4)
    with pytest.raises(ConfigError, match="and names none; expected of= one of click, buy"):
        model_of(ranker, sf.DistillationTask(on="ranker"), features=features)
    ranker = sf.LightRanker("click", random=4)
    assert model_of(ranker, sf.DistillationTask(on="ranker"), features=features).tasks[1].of == "click"
    with pytest.raises(ConfigError, match='the ranker is taught by head="shared"'):
        sf.DistillationTask(on="ranker", head="auxiliary")
    with pytest.raises(
        ConfigError, match="of is 'click'; expected the name of a target of the ranker, with on=\"ranker\""
    ):
        sf.DistillationTask(of="click")


def test_queries_of_several_vectors_are_taught_by_the_nearest() -> None:
    keras.utils.set_random_seed(3)
    block = keras.Sequential([keras.layers.Dense(12), keras.layers.Reshape((2, 6))])
    model = sf.TwoTowerModel(
        sf.Schema(FEATURES).fit(LOG),
        block,
        keras.layers.Dense(6),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=6),
        prediction_tasks=[sf.DistillationTask(truth, hard=6, random=6)],
    )
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(LOG, batch_size=100, epochs=20, verbose=0).history
    assert history["distillation/agreement"][-1] > 0.6 > history["distillation/agreement"][0]


# -- items beyond the batch ---------------------------------------------------------------------------------------------


def test_evaluation_leaves_what_the_item_tower_counts_and_drops_nothing_out() -> None:
    tower = keras.Sequential([keras.layers.Dense(6), keras.layers.BatchNormalization(), keras.layers.Dropout(0.5)])
    keras.utils.set_random_seed(1)
    model = sf.TwoTowerModel(
        sf.Schema(FEATURES).fit(LOG),
        tower,
        prediction_tasks=[sf.RetrievalTask(), sf.DistillationTask(truth, hard=3, random=5)],
    )
    model.compile()
    model.fit(LOG, verbose=0)
    before = [it.numpy() for it in model.weights]
    first, second = (model.evaluate(LOG, verbose=0, return_dict=True) for _ in range(2))
    assert first == second
    assert all(np.array_equal(was, it) for was, it in zip(before, model.weights, strict=True))


def test_the_first_batch_alone_has_the_nearest_items() -> None:
    model = model_of(sf.RetrievalTask(), sf.DistillationTask(truth, hard=3, random=3))
    batch = {name: tf.constant(values[:8]) for name, values in LOG.items()}
    queries = model.query_embeddings({"user": LOG["user"][:8]})
    items = model.candidate_embeddings({"item": np.arange(ITEMS)})
    model.train_on_batch(batch)
    assert model._items is not None
    found = model._items.nearest(tf.constant(queries), 3).numpy()
    assert np.array_equal(np.sort(found), np.sort(np.argsort(-(queries @ items.T), axis=1)[:, :3]))


def test_the_ranker_of_queries_of_several_vectors_is_taught_the_scores_it_serves() -> None:
    asked = []

    def logits(inputs: Any, query: tf.Tensor, candidates: tf.Tensor, training: bool) -> tf.Tensor:
        asked.append(query)
        return tf.zeros((*candidates.shape[:2], 1))

    ranker, interests = SimpleNamespace(targets=["click"], logits=logits), tf.ones((2, 3, 4))
    step: Any = SimpleNamespace(ranker=ranker, query_inputs=None, query=interests[:, 0], training=True)
    sf.DistillationTask(truth, on="ranker", of="click")._scores(step, interests, tf.ones((2, 5, 4)))
    assert asked[0] is interests
