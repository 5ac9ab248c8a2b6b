"""Tasks that predict a target: losses, weights and metrics by hand, errors, and all of it beside retrieval."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.schema.sides import sides_of
from schemaflow.tasks.admission import bound, refuse_twins
from schemaflow.tasks.targets import TargetTask

ROWS, USERS, ITEMS = 4000, 40, 30


def schema_of(*targets: dict[str, Any]) -> sf.Schema:
    return sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
        *(sf.Feature(**{"dtype": "float32", **it}) for it in targets),
    ))  # fmt: skip


RATING = {"name": "rating", "tags": ("target", "regression")}
CLICK = {"name": "click", "dtype": "int8", "tags": ("target", "binary")}
SIDES = sides_of(schema_of(RATING))


@pytest.fixture(scope="module")
def planted() -> dict[str, np.ndarray]:
    """Users and items of two tastes each: who meets an item of their taste rates it 5 or 4, and clicks."""
    rng = np.random.default_rng(3)
    user, item = rng.integers(USERS, size=ROWS), rng.integers(ITEMS, size=ROWS)
    alike = user % 2 == item % 2
    keep = alike | (rng.random(ROWS) < 0.4)
    user, item, alike = user[keep], item[keep], alike[keep]
    rating = np.where(alike, 4.5, 2.0) + rng.choice([-0.5, 0.5], size=len(user))
    click = (rng.random(len(user)) < np.where(alike, 0.9, 0.1)).astype(np.int8)
    return {"user": user, "item": item, "rating": rating.astype(np.float32), "click": click}


@pytest.fixture(scope="module")
def joint(planted: dict[str, np.ndarray]) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(4)
    model = sf.TwoTowerModel(
        schema_of(RATING, CLICK).fit(planted),
        sf.MLPBlock([]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=4),
        prediction_tasks=[sf.RegressionTask(loss_weight=0.5), sf.RetrievalTask(), sf.BinaryClassificationTask()],
    )
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(planted, batch_size=64, epochs=6, verbose=0)
    return model


def ready(task: TargetTask, logits: Any) -> tuple[TargetTask, tf.Tensor, tf.Tensor]:
    """Return a task and vectors that it gives these logits for."""
    values = tf.constant(logits, tf.float32)[:, tf.newaxis]
    query, candidate = values, tf.zeros_like(values)
    task.build(query.shape, candidate.shape)
    task._last.set_weights([np.array([[1.0], [0.0], [0.0]], np.float32), np.zeros(1, np.float32)])
    return task, query, candidate


def plain(make: Any, **arguments: Any) -> TargetTask:
    return make(block=keras.layers.Identity(), **arguments)


def results(task: TargetTask) -> dict[str, float]:
    return {metric.name: float(metric.result()) for metric in task.metrics}


# -- numbers worked by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "rows"),
    [  # predictions 1, 2, 5 for labels 2, 2, 2
        ("mse", (1.0, 0.0, 9.0)),
        ("mae", (1.0, 0.0, 3.0)),
        ("huber", (0.5, 0.0, 2.5)),
        (keras.losses.Huber(2.0, reduction="sum"), (0.5, 0.0, 4.0)),  # its reduction does not count
    ],
)
def test_regression_losses(loss: Any, rows: tuple[float, ...]) -> None:
    task, query, candidate = ready(plain(sf.RegressionTask, loss=loss), [1, 2, 5])
    labels = tf.constant([2, 2, 2])
    assert float(task.compute(labels, query, candidate)) == pytest.approx(sum(rows) / 3)
    weighted = task.compute(labels, query, candidate, tf.constant([3.0, 5.0, 1.0]))
    assert float(weighted) == pytest.approx((3 * rows[0] + rows[2]) / 9)
    assert float(task.compute(labels, query, candidate, tf.zeros(3))) == 0.0
    assert task(query, candidate).numpy().tolist() == [1, 2, 5]


def test_what_regression_prints_is_over_all_rows_and_begins_anew() -> None:
    task, query, candidate = ready(plain(sf.RegressionTask, target="rating"), [1, 2, 5])
    task.compute(tf.constant([2.0, 2.0]), query[:2], candidate[:2])  # errors 1, 0
    task.compute(tf.constant([2.0]), query[2:], candidate[2:])  # error 3
    assert results(task) == pytest.approx({"rating/loss": 10 / 3, "rating/rmse": (10 / 3) ** 0.5})
    for metric in task.metrics:
        metric.reset_state()
    task.compute(tf.constant([2.0, 2.0, 2.0]), query, candidate, tf.constant([4.0, 3.0, 1.0]))
    assert results(task) == pytest.approx({"rating/loss": 13 / 8, "rating/rmse": (13 / 8) ** 0.5})


def test_binary_losses_and_metrics() -> None:
    logits, labels = np.log([1 / 4, 1 / 4, 4.0, 9.0]), tf.constant([0, 1, 1, 1])  # odds; p = .2, .2, .8, .9
    task, query, candidate = ready(plain(sf.BinaryClassificationTask, target="click"), logits)
    assert task(query, candidate).numpy() == pytest.approx([0.2, 0.2, 0.8, 0.9])
    rows = -np.log([0.8, 0.2, 0.8, 0.9])
    assert float(task.compute(labels, query, candidate)) == pytest.approx(rows.mean())
    # the negative is below two of three positives and tied with the third; three of four are told right
    expected = {"click/loss": rows.mean(), "click/auc": 2.5 / 3, "click/accuracy": 0.75}
    assert results(task) == pytest.approx(expected, abs=1e-3)
    for metric in task.metrics:
        metric.reset_state()
    weights = np.array([1.0, 6.0, 2.0, 0.0])
    loss = (weights * rows).sum() / 9
    assert float(task.compute(labels, query, candidate, tf.constant(weights, tf.float32))) == pytest.approx(loss)
    # of the positives' weight of 8, 2 are above the negative and 6 tied with it
    assert results(task) == pytest.approx({"click/loss": loss, "click/auc": 5 / 8, "click/accuracy": 3 / 9}, abs=1e-3)


def test_a_saturated_probability_still_learns() -> None:
    """A loss of probabilities is flat there: float32 has no number between 1 and sigmoid(40)."""
    for loss in ("binary_crossentropy", keras.losses.BinaryCrossentropy(from_logits=True)):
        task, query, candidate = ready(plain(sf.BinaryClassificationTask, loss=loss), [40, 40, -40, -40])
        with tf.GradientTape() as tape:
            tape.watch(query)
            value = task.compute(tf.constant([0, 1, 0, 1]), query, candidate)
        # the mean of four rows; where the label is wrong, (p - y) / 4
        assert tape.gradient(value, query).numpy()[:, 0] == pytest.approx([0.25, 0.0, 0.0, -0.25], abs=1e-6)
        assert float(value) == pytest.approx(20.0)


def test_the_head_sees_both_vectors_and_their_product() -> None:
    task = plain(sf.RegressionTask)
    query, candidate = tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 5.0]])
    task.build(query.shape, candidate.shape)
    task._last.set_weights(
        [np.array([[1], [10], [100], [1000], [1e4], [1e5]], np.float32), np.full(1, 0.5, np.float32)]
    )
    assert task(query, candidate).numpy().tolist() == [1 + 20 + 300 + 5000 + 3e4 + 1e6 + 0.5]


def test_a_head_begins_as_the_constant_predictor() -> None:
    """The prior takes in each batch of the training before it is predicted: under weights, the mean of all labels."""
    vectors = tf.random.stateless_normal((4, 8), (1, 2))
    task = sf.RegressionTask("rating")
    task.compute(tf.constant([9.0, 9.0]), vectors[:2], vectors[:2])  # not of the training
    assert task(vectors, vectors).numpy() == pytest.approx(0.0, abs=0.2)
    task.compute(tf.constant([100.0, 104.0]), vectors[:2], vectors[:2], training=True)
    assert task(vectors, vectors).numpy() == pytest.approx(102.0, abs=0.2)
    task.compute(tf.constant([90.0, 7.0]), vectors[2:], vectors[2:], tf.constant([2.0, 0.0]), training=True)
    assert task(vectors, vectors).numpy() == pytest.approx((100 + 104 + 2 * 90) / 4, abs=0.2)
    task.compute(tf.constant([1.0, 7.0]), vectors[2:], vectors[2:], tf.zeros(2), training=True)  # nothing to see
    assert task(vectors, vectors).numpy() == pytest.approx(96.0, abs=0.2)
    click = sf.BinaryClassificationTask("click")
    click.compute(tf.constant([1, 0, 0, 0]), vectors, vectors, training=True)
    assert click(vectors, vectors).numpy() == pytest.approx(1.5 / 5, abs=0.05)  # half a label of either kind beside
    click.compute(tf.constant([0, 0, 0, 0]), vectors, vectors, tf.fill([4], 1e6), training=True)
    assert np.isfinite(click.logits(vectors, vectors).numpy()).all()


def test_dropout_in_the_block_is_for_training() -> None:
    task = sf.RegressionTask(block=keras.layers.Dropout(0.5, seed=1))
    query = tf.ones((64, 2))
    assert len(set(task.logits(query, query).numpy().tolist())) == 1
    assert len(set(task.logits(query, query, training=True).numpy().tolist())) > 1


# -- what a task is told, and what a schema tells it ------------------------------------------------------------------


def test_the_target_comes_from_the_tags_or_by_name() -> None:
    schema = schema_of(RATING, CLICK, {"name": "price"})
    assert sf.RegressionTask().target_of(schema).name == "rating"
    assert sf.BinaryClassificationTask().target_of(schema).name == "click"
    merlin = schema_of({"name": "bought", "dtype": "int8", "tags": ("binary_classification", "target")})
    assert sf.BinaryClassificationTask().target_of(merlin).name == "bought"
    task = sf.RegressionTask("price", name="paid")
    assert [it.name for it in bound([task], schema, SIDES)] == ["price"]
    assert task.name == "paid"
    assert [metric.name for metric in task.metrics] == ["paid/loss", "paid/rmse"]
    unnamed = sf.RegressionTask()
    unnamed.bind(schema, SIDES)
    assert [unnamed.name, *(metric.name for metric in unnamed.metrics)] == ["rating", "rating/loss", "rating/rmse"]


def test_a_bound_task_is_the_same_again_from_its_config() -> None:
    own = keras.metrics.MeanAbsoluteError(name="off by")
    task = sf.RegressionTask(None, sf.MLPBlock([3]), keras.losses.Huber(2.0), [own], 0.25)
    task.bind(schema_of(RATING), SIDES)
    again = sf.RegressionTask.from_config(task.get_config())
    assert again.get_config() == task.get_config()
    assert (again.target, again.name, again.loss_weight) == ("rating", "rating", 0.25)
    assert again.loss.get_config() == task.loss.get_config()
    assert again.block.dimensions == [3]
    assert [metric.name for metric in again.metrics] == ["rating/loss", "rating/off by"]
    assert own.name == "off by"  # the task keeps a copy


def test_tasks_that_cannot_be(planted: dict[str, np.ndarray]) -> None:
    block = sf.MLPBlock([])
    both = schema_of(RATING, CLICK, {"name": "stars", "tags": ("target", "regression")})
    fitted = both.fit(planted | {"stars": planted["rating"]})
    lost = schema_of({"name": "loss", "tags": ("target", "regression")})
    text = schema_of({"name": "visit", "dtype": "string", "tags": ("session", "id")})
    one, two = sf.RegressionTask("rating", name="one"), sf.RegressionTask("rating", name="two")
    clicks = [sf.BinaryClassificationTask(), sf.RegressionTask("click")]
    for error, message, build in [
        (ConfigError, r"block is \[64\]; expected a Keras layer", lambda: sf.RegressionTask(block=[64])),
        (ConfigError, 'the loss of a regression is \'rmse\'; did you mean "mse"', lambda: sf.RegressionTask(loss="rmse")),
        (ConfigError, 'expected "binary_crossentropy" or a Keras loss', lambda: sf.BinaryClassificationTask(loss="mse")),
        (ConfigError, "is None; expected", lambda: sf.RegressionTask(loss=None)),
        (ConfigError, "make it with from_logits=True", lambda: sf.BinaryClassificationTask(loss=keras.losses.BinaryCrossentropy())),
        (ConfigError, "expected a list of Keras metrics", lambda: sf.RegressionTask(metrics=["mae"])),
        (ConfigError, "expected a name for each", lambda: sf.RegressionTask(metrics=[keras.metrics.Mean("a"), keras.metrics.Mean("a")])),
        (ConfigError, "none named loss", lambda: sf.RegressionTask(metrics=[keras.metrics.Mean("loss")])),
        (ConfigError, "loss_weight is -1", lambda: sf.RetrievalTask(loss_weight=-1)),
        (ConfigError, "loss_weight is nan", lambda: sf.BinaryClassificationTask(loss_weight=float("nan"))),
        (ConfigError, 'cannot be named "score"', lambda: sf.RegressionTask("score")),
        (ConfigError, 'cannot be named "loss"', lambda: sf.RegressionTask().bind(lost, SIDES)),
        (ConfigError, 'cannot be named "query"', lambda: sf.RegressionTask("rating", name="query")),
        (SchemaError, 'found "rating" and "stars"; name one of them: RegressionTask\\(target="…"\\)', lambda: sf.RegressionTask().bind(both, SIDES)),
        (SchemaError, "found none; tag one \\[target, binary\\]", lambda: sf.BinaryClassificationTask().bind(lost, SIDES)),
        (SchemaError, 'no feature "ratings"; did you mean "rating"', lambda: sf.RegressionTask("ratings").bind(both, SIDES)),
        (SchemaError, '"user" is categorical of dtype int64; expected one number', lambda: sf.RegressionTask("user").bind(both, SIDES)),
        (SchemaError, '"visit" is value of dtype string', lambda: sf.BinaryClassificationTask("visit").bind(text, SIDES)),
        (ConfigError, 'have the target "rating": RegressionTask and RegressionTask', lambda: refuse_twins([one, two])),
        (ConfigError, 'have the name "one"', lambda: refuse_twins([one, sf.RegressionTask("stars", name="one")])),
        (ConfigError, "expected one at most", lambda: sf.TwoTowerModel(fitted, block, prediction_tasks=[sf.RetrievalTask(), sf.RetrievalTask()])),
        (ConfigError, "expected a RetrievalTask, a RegressionTask", lambda: sf.TwoTowerModel(fitted, block, prediction_tasks=[sf.RetrievalTask(), "rating"])),
        (ConfigError, 'have the target "click"', lambda: sf.TwoTowerModel(fitted, block, prediction_tasks=clicks)),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            build()


def test_labels_that_cannot_be_are_refused() -> None:
    vectors = tf.ones((2, 3))
    for task, labels, message in [
        (sf.RegressionTask("rating"), [1.0, np.nan], "a label is missing or infinite"),
        (sf.RegressionTask("rating"), [np.inf, 1.0], "a label is missing or infinite"),
        (sf.BinaryClassificationTask("click"), [0.0, 2.0], "a label is neither 0 nor 1"),
        (sf.BinaryClassificationTask("click"), [-1, 1], "a label is neither 0 nor 1"),
        (sf.BinaryClassificationTask("click"), [np.nan, 1], "a label is neither 0 nor 1"),
    ]:
        for compute in (task.compute, tf.function(task.compute)):
            with pytest.raises(tf.errors.InvalidArgumentError, match=message):
                compute(tf.constant(labels), vectors, vectors)
    for labels in ([[1.0], [2.0]], [1.0], 1.0):  # each would broadcast
        with pytest.raises(ValueError, match="expected a label for each pair"):
            sf.RegressionTask("rating").compute(tf.constant(labels), vectors, vectors)


# -- in a model -------------------------------------------------------------------------------------------------------


def test_every_head_beats_the_constant(joint: sf.TwoTowerModel, planted: dict[str, np.ndarray]) -> None:
    shown = joint.evaluate(planted, batch_size=64, verbose=0, return_dict=True)
    rating, share = planted["rating"], planted["click"].mean()
    assert shown["rating/rmse"] < 0.6 < rating.std()  # the noise alone is 0.5
    assert shown["click/loss"] < 0.4 < -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert shown["click/auc"] > 0.85
    assert shown["click/accuracy"] > 0.85 > max(share, 1 - share)
    taken = {name: column[rating > 3] for name, column in planted.items()}  # retrieval learns what is met
    report = sf.evaluate(joint, taken, {"item": np.arange(ITEMS)}, ks=[15])
    assert report["hit_rate@15"] > 0.85 > report.popularity["hit_rate@15"] + 0.2


def test_predict_gives_each_target_under_its_name(joint: sf.TwoTowerModel, planted: dict[str, np.ndarray]) -> None:
    inputs = {name: planted[name] for name in ("user", "item")}  # no targets are needed
    out = joint.predict(inputs, batch_size=1000, verbose=0)
    assert sorted(out) == ["candidate", "click", "query", "rating", "score"]
    rmse = np.sqrt(np.mean((out["rating"] - planted["rating"]) ** 2))
    shown = joint.evaluate(planted, batch_size=64, verbose=0, return_dict=True)
    assert shown["rating/rmse"] == pytest.approx(rmse, rel=1e-4)
    assert shown["click/accuracy"] == pytest.approx(np.mean((out["click"] > 0.5) == planted["click"]), abs=1e-6)
    assert ((out["click"] > 0) & (out["click"] < 1)).all()


def test_the_total_is_the_sum_of_weighted_losses(planted: dict[str, np.ndarray]) -> None:
    """Each loss worked in NumPy from the model's vectors and predictions, under example weights."""
    weight = {"name": "importance", "tags": ("weight",)}
    rows = {name: column[:50] for name, column in planted.items()}
    rows["importance"] = np.random.default_rng(0).random(50).astype(np.float32)
    schema = schema_of(RATING, CLICK, weight).fit(rows)
    losses = {}
    for name, tasks in {
        "retrieval": [sf.RetrievalTask()],
        "all": [
            sf.RetrievalTask(loss_weight=3.0),
            sf.RegressionTask("rating", loss_weight=0.5),
            sf.BinaryClassificationTask(loss_weight=2.0),
        ],
    }.items():
        keras.utils.set_random_seed(0)
        model = sf.TwoTowerModel(
            schema,
            sf.MLPBlock([4]),
            embedding_options=sf.EmbeddingOptions(embeddings_l2_reg=0.1),
            prediction_tasks=tasks,
        )
        model.compile()
        losses[name] = model.evaluate(rows, batch_size=50, verbose=0, return_dict=True)
        batch = {key: tf.constant(column) for key, column in rows.items()}
        model(batch)
        losses[name]["l2"] = sum(float(it) for it in model.losses)
    out = model.predict(rows, batch_size=50, verbose=0)
    share = rows["importance"] / rows["importance"].sum()
    rating = (share * (out["rating"] - rows["rating"]) ** 2).sum()
    click = -(share * np.log(np.where(rows["click"] == 1, out["click"], 1 - out["click"]))).sum()
    assert losses["all"]["rating/loss"] == pytest.approx(rating, rel=1e-4)
    assert losses["all"]["rating/rmse"] == pytest.approx(rating**0.5, rel=1e-4)
    assert losses["all"]["click/loss"] == pytest.approx(click, rel=1e-4)
    l2 = losses["retrieval"]["l2"]
    assert l2 > 1e-4
    assert losses["all"]["l2"] == pytest.approx(l2)
    total = 3 * (losses["retrieval"]["loss"] - l2) + 0.5 * rating + 2 * click + l2
    assert losses["all"]["loss"] == pytest.approx(total, rel=1e-4)
    assert losses["all"]["retrieval/loss"] == pytest.approx(losses["retrieval"]["loss"] - l2, rel=1e-4)
    assert "retrieval/loss" not in losses["retrieval"]


def test_a_pointwise_model_needs_no_sampling(planted: dict[str, np.ndarray]) -> None:
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(schema_of(RATING), sf.MLPBlock([4]), prediction_tasks=sf.RegressionTask())  # never counted
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    history = model.fit(planted, batch_size=64, epochs=3, verbose=0, validation_data=planted).history
    assert sorted(history) == ["loss", "rating/loss", "rating/rmse", "val_loss", "val_rating/loss", "val_rating/rmse"]
    assert history["loss"] == pytest.approx(history["rating/loss"], rel=1e-5)
    assert history["val_rating/rmse"][-1] < 0.6
    one = {name: column[:1] for name, column in planted.items()}
    assert np.isfinite(model.evaluate(one, verbose=0)).all()


def test_metrics_begin_anew_each_epoch(planted: dict[str, np.ndarray]) -> None:
    model = sf.TwoTowerModel(schema_of(RATING), sf.MLPBlock([4]), prediction_tasks=sf.RegressionTask())
    model.compile(optimizer=keras.optimizers.SGD(0.0))  # no rate: the weights stay
    shown = model.fit(planted, batch_size=500, epochs=2, verbose=0, shuffle=False).history["rating/rmse"]
    off = model.predict(planted, verbose=0)["rating"] - planted["rating"]
    assert shown == pytest.approx([np.sqrt(np.mean(off**2))] * 2, rel=1e-4)


def test_saved_and_loaded_it_predicts_the_same_and_learns_on(
    joint: sf.TwoTowerModel, planted: dict[str, np.ndarray], tmp_path: Path
) -> None:
    joint.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [task.name for task in again.tasks] == [task.name for task in joint.tasks]
    assert [task.loss_weight for task in again.tasks] == [task.loss_weight for task in joint.tasks]
    left, right = (model.predict(planted, verbose=0) for model in (joint, again))
    for name, values in left.items():
        assert np.array_equal(values, right[name])
    before = again.evaluate(planted, batch_size=64, verbose=0, return_dict=True)
    shown = again.fit(planted, batch_size=64, epochs=2, verbose=0).history
    assert shown["rating/rmse"][0] < before["rating/rmse"] + 0.05  # it goes on, and does not begin anew
    grown = again.grow(again.schema.fit(planted))
    for name, values in again.predict(planted, verbose=0).items():
        assert np.array_equal(values, grown.predict(planted, verbose=0)[name])


def test_half_precision_trains(planted: dict[str, np.ndarray]) -> None:
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(
        schema_of(RATING, CLICK).fit(planted),
        sf.MLPBlock([4]),
        prediction_tasks=[sf.RetrievalTask(), sf.RegressionTask(), sf.BinaryClassificationTask()],
        dtype="mixed_bfloat16",
    )
    model.compile()
    assert np.isfinite(model.fit(planted, batch_size=64, verbose=0).history["loss"]).all()
    assert model.predict(planted, verbose=0)["rating"].dtype == np.float32


def test_bad_labels_are_found_where_they_are_read(planted: dict[str, np.ndarray]) -> None:
    model = sf.TwoTowerModel(
        schema_of(RATING, CLICK),
        sf.MLPBlock([4]),
        prediction_tasks=[sf.RegressionTask(), sf.BinaryClassificationTask()],
    )
    model.compile()
    rows = {name: column[:4] for name, column in planted.items()}
    for name, values, message in [
        ("rating", [1.0, None, 2.0, 3.0], 'row 1: feature "rating" is missing'),
        ("rating", [1.0, 2.0, np.nan, 3.0], 'row 2: feature "rating" is missing'),
        ("click", [0, 1, 1, 3], 'row 3: feature "click" is 3, which is neither 0 nor 1'),
    ]:
        with pytest.raises(DataError, match=message):
            model.evaluate(rows | {name: values}, verbose=0)
    with pytest.raises(DataError, match="click"):
        model.evaluate({name: rows[name] for name in ("user", "item", "rating")}, verbose=0)
    dataset = tf.data.Dataset.from_tensor_slices({name: rows[name] for name in ("user", "item", "rating")}).batch(2)
    with pytest.raises(ConfigError, match='feature "click" is missing from the dataset'):
        model.evaluate(dataset, verbose=0)
