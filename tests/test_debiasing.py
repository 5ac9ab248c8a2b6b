"""Weights for clicks: by where an item was shown, and by who clicked."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.datasets import Simulation, Slates, simulate
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.tasks.example_weights import EffectiveShare
from schemaflow.tasks.position_debiasing import examined_crossentropy

FEATURES = """
version: 1
features:
  user: {dtype: int64, tags: [user, id], cardinality: 4}
  item: {dtype: int64, tags: [item, id], cardinality: 6}
  slot: {dtype: int8, tags: [position], cardinality: 4}
  click: {dtype: int8, tags: [target, binary], value: 1}
"""
LOG = {
    "user": [0, 1, 2, 3, 0, 1],
    "item": [0, 1, 2, 3, 4, 5],
    "slot": pa.array([1, 2, 3, 3, 2, 1], pa.int8()),
    "click": pa.array([1, 0, 1, 0, 1, 0], pa.int8()),
}


def schema_of(text: str = FEATURES) -> sf.Schema:
    return sf.Schema.from_config({"fitted": {}, "yaml": text})


def model_of(*terms: Any, schema: sf.Schema | None = None, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(0)
    made = sf.TwoTowerModel(schema or schema_of(), keras.layers.Dense(4), debiasing=list(terms), **arguments)
    made.compile(sf.optimizers.Adam(0.01))
    return made


def weights_in(model: sf.TwoTowerModel, log: dict[str, Any]) -> np.ndarray:
    """Return the weights that the model's one term gives to the rows of a log."""
    batch = next(iter(sf.read_parquet(pa.table(log), model.schema, batch_size=99)))
    step = model._step(batch, model(batch), None, training=False)
    return model.debiasing[0].debias(step)[0].numpy()


# -- arithmetic -------------------------------------------------------------------------------------------------------


def test_the_crossentropy_of_what_is_examined_and_relevant() -> None:
    rng = np.random.default_rng(0)
    log_examination = -np.append(rng.exponential(size=50), [1e-5, 30.0, 1e-9])
    odds = np.append(rng.normal(scale=4, size=50), [20.0, -30.0, 40.0])
    p = np.exp(log_examination - 1e-7) / (1 + np.exp(-odds))
    for label in (0.0, 1.0):
        expected = -label * np.log(p) - (1 - label) * np.log1p(-p)
        args = (tf.fill([53], label), tf.constant(log_examination, tf.float32), tf.constant(odds, tf.float32))
        with tf.GradientTape() as tape:
            tape.watch(args[1:])
            found = examined_crossentropy(*args)
        np.testing.assert_allclose(found, expected, rtol=0.01, atol=1e-6)
        assert all(np.isfinite(it).all() for it in tape.gradient(found, args[1:]))


def test_the_effective_share_is_that_of_kish() -> None:
    metric = EffectiveShare()
    metric.update_state(tf.constant([1.0, 1.0]), None)
    metric.update_state(tf.constant([10.0]), None)
    assert float(metric.result()) == pytest.approx(12**2 / 102 / 3)
    metric.reset_state()
    metric.update_state(tf.constant([2.0, 5.0, 2.0]), tf.constant([1.0, 0.0, 3.0]))  # alike where there is value
    assert float(metric.result()) == pytest.approx(1.0)
    metric.reset_state()
    metric.update_state(tf.constant([2.0, 5.0]), tf.zeros(2))
    assert float(metric.result()) == 1.0
    metric.update_state(tf.fill([1000], 3e4), tf.fill([1000], 1e4))  # its fourth powers are beyond float32
    assert float(metric.result()) == pytest.approx(1.0, abs=1e-5)


# -- position ---------------------------------------------------------------------------------------------------------


def test_given_propensities_by_position() -> None:
    model = model_of(sf.PositionDebiasing("given", propensities=[0.8, 0.4, 0.1], clip=5))
    slots = pa.array([1, 2, 3, 90, None], pa.int8())  # 90 is beyond the last, and as the last; one was shown nowhere
    log = {"user": [0] * 5, "item": [0, 1, 2, 3, 4], "slot": slots, "click": pa.array([1] * 5, pa.int8())}
    assert weights_in(model, log) == pytest.approx([1, 2, 5, 5, 1])
    assert model.debiasing[0].examination() == pytest.approx([1, 0.5, 0.125])
    from_zero = model_of(sf.PositionDebiasing("given", propensities=[1.0, 0.5], first=0))
    assert weights_in(from_zero, log | {"slot": pa.array([0, 1, 2, 0, 1], pa.int8())}) == pytest.approx([1, 2, 2, 1, 2])
    with pytest.raises(DataError, match='feature "slot" is before the first position, 1'):
        model.fit(pa.table(log | {"slot": pa.array([1, 2, 0, 3, 3], pa.int8())}), verbose=0)


def test_given_propensities_of_rows() -> None:
    schema = schema_of(FEATURES + "  seen: {dtype: float32}\n")
    model = model_of(sf.PositionDebiasing("given", propensities="seen"), schema=schema)
    log = LOG | {"seen": pa.array([1, 0.5, 0.25, 0.01, 1, 1], pa.float32())}
    assert weights_in(model, log) == pytest.approx([1, 2, 4, 10, 1, 1])
    with pytest.raises(ConfigError, match="those of rows"):
        model.debiasing[0].examination()
    with pytest.raises(DataError, match='feature "seen" is not above 0 and up to 1'):
        model.fit(pa.table(log | {"seen": pa.array([1, 0.5, 0, 1, 1, 1], pa.float32())}), verbose=0)


def test_the_weights_multiply_the_value_in_the_loss() -> None:
    model = model_of(sf.PositionDebiasing("given", propensities=[1.0, 0.5, 0.25]), correction=None)
    plain = model_of(correction=None, schema=schema_of(FEATURES + "  weight: {dtype: float32, tags: [weight]}\n"))
    plain.set_weights(model.get_weights())
    weights = pa.array([1, 1, 4, 1, 2, 1], pa.float32())  # of the clicks: those of slots 1, 3 and 2
    expected = plain.evaluate(pa.table(LOG | {"weight": weights}), verbose=0, return_dict=True)["loss"]
    assert model.evaluate(pa.table(LOG), verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("estimator", ["examination", "additive"])
def test_debiasing_changes_the_towers_by_weights_alone(estimator: str) -> None:
    model = model_of(sf.PositionDebiasing(estimator))
    batch = next(iter(sf.read_parquet(pa.table(LOG), model.schema, batch_size=99)))
    term = model.debiasing[0]
    with tf.GradientTape(persistent=True) as tape:
        step = model._step(batch, model(batch, training=True), None, training=True)
        weights, loss = term.debias(step)
        total = tf.reduce_sum(weights)
    towers = [it.value for tower in (model.query_tower, model.item_tower) for it in tower.trainable_variables]
    own = [it.value for it in term.trainable_variables]
    assert len(own) == 5  # the positions' numbers, and two dense layers
    assert all(it is None for it in tape.gradient(loss, towers))
    assert all(it is None for it in tape.gradient(total, own + towers))
    assert all(np.abs(tf.convert_to_tensor(it)).sum() > 0 for it in tape.gradient(loss, own))


@pytest.mark.parametrize("estimator", ["examination", "additive"])
def test_rows_without_a_position_are_not_learned_from(estimator: str) -> None:
    model = model_of(sf.PositionDebiasing(estimator, dropout=0))
    nowhere = pa.table(LOG | {"slot": pa.array([None] * 6, pa.int8())})
    before = [it.numpy() for it in model.debiasing[0].trainable_variables]
    found = model.fit(nowhere, epochs=2, verbose=0).history
    assert found["position/loss"] == [0.0, 0.0]
    for it, old in zip(model.debiasing[0].trainable_variables, before, strict=True):
        assert np.array_equal(it.numpy(), old)


def test_one_row_no_click_and_positions_beyond_the_known_train() -> None:
    one = {name: pa.array(column).slice(1, 1) for name, column in LOG.items()}
    beyond = LOG | {"slot": pa.array([1, 100, 4, 3, 2, 1], pa.int8())}
    for estimator in ("examination", "additive"):
        model = model_of(sf.PositionDebiasing(estimator, dropout=0))
        for log in (one, LOG | {"click": pa.array([0] * 6, pa.int8())}, beyond):
            before = model.debiasing[0].examination()
            found = model.fit(pa.table(log), verbose=0).history
            assert np.isfinite(found["loss"]).all()
            assert not np.array_equal(model.debiasing[0].examination(), before)
        if estimator == "examination":  # whose weights go by the position alone: 100, 4 and 3 are the last
            rows = weights_in(model, beyond)
            assert rows[1] == rows[2] == rows[3] != rows[4]


def test_a_collapse_is_told_once() -> None:
    log = {
        "user": [0] * 60, "item": [1] * 60, "slot": pa.array([1] * 59 + [2], pa.int8()), "click": pa.array([1] * 60, pa.int8()),
    }  # fmt: skip
    model = model_of(sf.PositionDebiasing("given", propensities=[1.0, 0.001], clip=1000))
    with pytest.warns(UserWarning, match=r"PositionDebiasing: the weighted positives are worth 1\.9% .*lower clip"):
        model.fit(pa.table(log), verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(pa.table(log), epochs=2, verbose=0)
        clipped = model_of(sf.PositionDebiasing("given", propensities=[1.0, 0.001], clip=2))
        assert clipped.fit(pa.table(log), verbose=0).history["position/effective_share"][0] > 0.9


@pytest.mark.parametrize(
    ("replaced", "by", "term", "said"),
    [
        ("  slot: {dtype: int8, tags: [position], cardinality: 4}\n", "", {}, "one feature tagged position, found none; add"),
        (", cardinality: 4}\n  click", "}\n  click", {}, 'feature "slot" is a position whose cardinality is None; say how many'),
        ("int8, tags: [position], cardinality: 4", "float32, tags: [position]", {}, "use an integer dtype"),
        ("cardinality: 4}\n  click", "cardinality: 4}\n  row: {dtype: int8, tags: [position]}\n  click", {}, 'found "slot" and "row"'),
        ("[target, binary], value: 1", "[target], value: 1", {}, "one feature tagged target and binary, found none; add click"),
        ("click:", "bought: {dtype: int8, tags: [binary]}\n  click:", {}, r'found "bought" and "click"; name the click'),
        ("[target, binary], value: 1", "[target], value: 1", {"target": "click"}, '"click" is not tagged binary'),
        ("click:", "c: {dtype: int8, tags: [binary]}\n  click:", {"target": "d"}, 'no feature "d"'),
        ("", "", {"estimator": "given", "propensities": "item"}, 'feature "item" is categorical of dtype int64; expected a prob'),
    ],
)  # fmt: skip
def test_a_schema_that_lacks_what_is_read(replaced: str, by: str, term: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        model_of(
            sf.PositionDebiasing(**term), schema=schema_of(FEATURES.replace(replaced, by) if replaced else FEATURES)
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"estimator": "examinaton"}, 'unknown estimator "examinaton"; did you mean "examination"'),
        ({"estimator": "given"}, "give both or neither"),
        ({"propensities": [1.0]}, "give both or neither"),
        ({"estimator": "given", "propensities": "p", "target": "click"}, "no use for a target"),
        ({"estimator": "given", "propensities": [1.0, 0.0]}, "expected numbers above 0 and up to 1"),
        ({"estimator": "given", "propensities": []}, "expected numbers above 0 and up to 1"),
        ({"clip": 0.5}, "clip is 0.5; expected a number of at least 1"),
        ({"first": -1}, "first is -1; expected an integer of at least 0"),
        ({"dropout": 1}, "dropout is 1; expected a share"),
        ({"block": "mlp"}, "block is 'mlp'; expected a Keras layer"),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sf.PositionDebiasing(**arguments)


# -- a world with a truth ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    log = Slates(slates=8000, slots=4, logger=0, boost=0, device_effect=1.0)
    return simulate(tmp_path_factory.mktemp("world"), log, users=100, items=30, seed=1)


def of_world(world: Simulation, *names: str) -> sf.Schema:
    names = ("user_factors", "item_id", "item_factors", "position", "click", *names)
    return sf.Schema.from_yaml(world.schema).select_by_name(names).fit(world.interactions, world.items)


def trained(schema: sf.Schema, world: Simulation, *terms: Any, epochs: int = 8, rows: int = 1000) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(3)
    widths = sf.EmbeddingOptions(embedding_dims={"item_id": 1})
    model = sf.TwoTowerModel(schema, keras.layers.Dense(16), embedding_options=widths, debiasing=list(terms))
    steps = epochs * pq.read_metadata(world.interactions).num_rows // rows
    model.compile(sf.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, steps)))
    model.fit(world.interactions, batch_size=rows, epochs=epochs, verbose=0)
    return model


def test_a_bias_feature_is_read_by_debiasing_alone(world: Simulation, tmp_path: Path) -> None:
    model = trained(of_world(world, "device"), world, sf.PositionDebiasing())
    term = model.debiasing[0]
    assert term.examination({"device": "desktop"}) == pytest.approx(world.examination, abs=0.07)
    assert term.examination({"device": "phone"}) == pytest.approx(world.phone_examination, abs=0.07)
    with pytest.raises(ConfigError, match='feature "device" is missing'):
        term.examination()
    assert [it.name for it in model.query_tower.features] == ["user_factors"]

    log = pq.read_table(world.interactions).slice(0, 64)
    raw = {name: tf.constant(log[name].to_pylist()) for name in ("item_id", "device", "user_factors")}
    raw |= {name: tf.constant(log[name].to_numpy()) for name in ("position", "click")}
    raw["item_factors"] = tf.zeros((64, 8))
    batches = tf.data.Dataset.from_tensors(raw)  # raw strings reach the term's own tables
    assert np.isfinite(model.evaluate(batches, verbose=0, return_dict=True)["position/loss"])

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.debiasing[0].examination({"device": "phone"}) == pytest.approx(term.examination({"device": "phone"}))
    again.fit(world.interactions, batch_size=4000, verbose=0)


def test_nothing_of_debiasing_is_exported(world: Simulation, tmp_path: Path) -> None:
    def exported(name: str, *terms: Any) -> tuple[list[Any], set[str], set[str]]:
        model = sf.TwoTowerModel(of_world(world, "device"), keras.layers.Dense(8), debiasing=list(terms))
        model.export(tmp_path / name, world.items)
        found = next(it.parent for it in (tmp_path / name).rglob("saved_model.pb"))
        loaded = tf.saved_model.load(str(found))
        shapes = sorted(shape for _, shape in tf.train.list_variables(str(found / "variables" / "variables")))
        signatures = {key for it in loaded.signatures.values() for key in it.structured_input_signature[1]}
        return shapes, signatures, set(loaded.signatures)

    debiased = exported("debiased", sf.PositionDebiasing(), sf.UserDebiasing())
    assert debiased == exported("plain")
    assert not {"position", "device", "click"} & debiased[1]


def test_debiasing_finds_what_the_logger_hides(tmp_path: Path) -> None:
    """A short form of benchmarks/systems/position.py."""
    world = simulate(tmp_path, Slates(slates=10_000), users=300, items=100, seed=2)
    schema = of_world(world)

    def judged(*terms: Any) -> tuple[float, float, sf.TwoTowerModel]:
        model = trained(schema, world, *terms, epochs=4)
        scores = model.query_embeddings(world.users) @ model.candidate_embeddings(world.items).T
        residual = scores - np.log(world.relevance)
        residual = (residual - residual.mean(axis=1, keepdims=True)).mean(axis=0)
        ranks = [np.argsort(np.argsort(it, axis=1), axis=1) for it in (scores, world.relevance)]
        spearman = np.mean([np.corrcoef(*rows)[0, 1] for rows in zip(*ranks, strict=True)])
        return spearman, np.corrcoef(residual, world.boosts)[0, 1], model

    naive, naive_boost, _ = judged()
    debiased, boost, model = judged(sf.PositionDebiasing())
    assert debiased > naive + 0.08
    assert naive_boost > 0.9
    assert abs(boost) < 0.4
    assert model.debiasing[0].examination() == pytest.approx(world.examination, abs=0.06)


# -- users ------------------------------------------------------------------------------------------------------------


def test_users_weigh_by_what_they_give_on_average(tmp_path: Path) -> None:
    world = simulate(tmp_path, Slates(slates=4000, slots=3, offsets=2.0), users=20, items=40, seed=4)
    names = ("user_id", "item_id", "click")
    schema = sf.Schema.from_yaml(world.schema).select_by_name(names).fit(world.interactions)
    term = sf.UserDebiasing()
    model = trained(schema, world, term, epochs=20, rows=250)
    log = pq.read_table(world.interactions)
    user, click = world.rows(log["user_id"].to_pylist()), log["click"].to_numpy()
    truth = np.bincount(user, click) / np.bincount(user) / click.mean()
    rate = term.rate(model.query_embeddings({"user_id": [f"u{it:05d}" for it in range(20)]})).numpy()
    assert (
        np.quantile(truth, 0.9) / np.quantile(truth, 0.1) > 5
    )  # planted: heavy users give many times what light ones do
    assert np.corrcoef(rate, truth)[0, 1] > 0.95
    given = truth / rate  # what is left of the differences
    assert given.std() < 0.4 * truth.std()


def test_a_rate_is_that_of_the_mean_and_begins_at_one() -> None:
    model = model_of(sf.UserDebiasing())
    assert weights_in(model, LOG) == pytest.approx([1] * 6, abs=1e-5)
    batch = next(iter(sf.read_parquet(pa.table(LOG), model.schema, batch_size=99)))
    with tf.GradientTape(persistent=True) as tape:
        step = model._step(batch, model(batch, training=True), None, training=True)
        weights, loss = model.debiasing[0].debias(step)
        total = tf.reduce_sum(weights)
    assert float(loss) == pytest.approx(1.0, abs=1e-5)  # mean (1 - v / m log 1)
    towers = [it.value for it in model.query_tower.trainable_variables]
    own = [it.value for it in model.debiasing[0].trainable_variables]
    assert all(it is None for it in tape.gradient(loss, towers))
    assert all(it is None for it in tape.gradient(total, own + towers))
    model.debiasing[0]._last.bias.assign([-1000.0])  # the least rate still has a weight, and that is clipped
    assert weights_in(model, LOG) == pytest.approx([10] * 6)


def test_users_whose_batch_is_worth_nothing() -> None:
    model = model_of(sf.UserDebiasing())
    empty = pa.table(LOG | {"click": pa.array([0] * 6, pa.int8())})
    assert np.isfinite(model.fit(empty, verbose=0).history["loss"]).all()
    assert np.isfinite(model.fit(pa.table(LOG), batch_size=1, verbose=0).history["loss"]).all()


def test_user_debiasing_needs_a_value() -> None:
    with pytest.raises(SchemaError, match="a target with a value"):
        model_of(sf.UserDebiasing(), schema=schema_of(FEATURES.replace(", value: 1", "")))
    with pytest.raises(ConfigError, match="clip is 0"):
        sf.UserDebiasing(clip=0)
    with pytest.raises(ConfigError, match="debiasing holds"):
        model_of("position")


# -- both -------------------------------------------------------------------------------------------------------------


def test_terms_compose_and_are_saved(tmp_path: Path) -> None:
    model = model_of(
        sf.PositionDebiasing(block=sf.MLPBlock([3]), clip=4),
        sf.UserDebiasing(sf.MLPBlock([2])),
        prediction_tasks=[sf.RetrievalTask(), sf.BinaryClassificationTask()],
    )
    found = model.fit(pa.table(LOG), epochs=3, verbose=0).history
    assert {"position/loss", "position/effective_share", "user/loss", "user/effective_share", "click/loss"} < set(found)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    terms = [*model.debiasing, *again.debiasing]
    assert [it.clip for it in terms] == [4, 10, 4, 10]
    assert [it.block.dimensions for it in terms] == [[3], [2], [3], [2]]
    for it, other in zip(again.get_weights(), model.get_weights(), strict=True):
        assert np.array_equal(it, other)
    assert set(model.predict(pa.table({"user": [0], "item": [1]}), verbose=0)) == {
        "query",
        "candidate",
        "score",
        "click",
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda **it: sf.PositionDebiasing("additive", "click", None, 3.0, 0, sf.MLPBlock([2]), 0.2, **it),
        lambda **it: sf.PositionDebiasing("given", propensities=[1.0, 0.5], **it),
        lambda **it: sf.UserDebiasing(sf.MLPBlock([2]), 3.0, **it),
    ],
)
def test_config_round_trip_keeps_every_argument(make: Callable[..., Any]) -> None:
    term = make(name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(term))
    assert type(again) is type(term)
    assert again.get_config() == term.get_config()
    assert again.name == "mine"


def test_a_model_grows_with_its_debiasing() -> None:
    text = FEATURES.replace("int64, tags: [user, id], cardinality: 4", "string, tags: [user, id], vocabulary: learned")
    first, more = LOG | {"user": list("abcabc")}, LOG | {"user": list("abcdef")}
    model = model_of(sf.PositionDebiasing(), sf.UserDebiasing(), schema=schema_of(text).fit(pa.table(first)))
    model.fit(pa.table(first), epochs=2, verbose=0)
    grown = model.grow(model.schema.fit(pa.table(more)))
    assert grown.debiasing[0].examination() == pytest.approx(model.debiasing[0].examination())
    assert np.isfinite(grown.fit(pa.table(more), verbose=0).history["loss"]).all()


@pytest.mark.parametrize("beside", ["", "  own: {dtype: string, tags: [user, categorical], domain: device}\n"])
def test_the_tables_of_debiasing_grow_with_their_slots(beside: str) -> None:
    """A table of the same name among the towers' has slots of its own."""
    schema = schema_of(
        FEATURES
        + f"  device: {{dtype: string, tags: [bias, categorical], vocabulary: learned, domain: device}}\n{beside}"
    )
    first = LOG | {"device": list("abcabc"), "own": list("bcabca")}
    more = first | {"device": list("abcdde")}
    model = model_of(sf.PositionDebiasing(), schema=schema.fit(pa.table(first)))
    model.compile(sf.optimizers.Adam(0.01), run_eagerly=True)
    model.fit(pa.table(first), epochs=3, verbose=0)
    grown = model.grow(model.schema.fit(pa.table(more)))
    tables = [it.debiasing[0].encoder.encoders["device"].table.embeddings for it in (model, grown)]
    before, after = (it.numpy() for it in tables)
    assert (len(before), len(after)) == (6, 8)
    assert np.array_equal(after[:6], before)
    assert np.array_equal(after[6:], before[[2, 2]])  # the row that served them so far
    found = [
        {it.name.rpartition("_")[2]: it.numpy() for it in made.optimizer.variables if it.name.startswith(name)}
        for made, name in (
            (made, table.path.replace("/", "_")) for made, table in zip((model, grown), tables, strict=True)
        )
    ]
    assert set(found[0]) == {"momentum", "velocity"}
    for kind, slots in found[0].items():
        assert slots[3:].any()
        assert np.array_equal(found[1][kind][:6], slots)
        assert not found[1][kind][6:].any()
    term = model.debiasing[0]
    for device in "abc":
        assert grown.debiasing[0].examination({"device": device}) == pytest.approx(term.examination({"device": device}))
    assert np.isfinite(grown.fit(pa.table(more), verbose=0).history["loss"]).all()
    assert not np.array_equal(tables[1].numpy()[6:], after[6:])


def test_a_frozen_table_of_debiasing_stays_frozen() -> None:
    schema = schema_of(FEATURES + "  device: {dtype: string, tags: [bias, categorical], vocabulary: learned}\n")
    first, more = LOG | {"device": list("abcabc")}, LOG | {"device": list("abcdde")}
    model = model_of(sf.PositionDebiasing(), schema=schema.fit(pa.table(first)))
    model.debiasing[0].encoder.encoders["device"].table.trainable = False
    grown = model.grow(model.schema.fit(pa.table(more)))
    assert not grown.debiasing[0].encoder.encoders["device"].table.embeddings.trainable
    assert grown.debiasing[0]._effects.trainable


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("{dtype: string, tags: [bias, context], vocabulary: [a]}", "both bias and context"),
        ("{dtype: int8, tags: [bias, position]}", "both bias and position"),
        ("{dtype: float32, tags: [bias, continuous]}", "tagged bias but continuous"),
        ("{dtype: string, tags: [bias, id], vocabulary: [a]}", "both bias and id"),
    ],
)
def test_bias_features_have_no_other_role(feature: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        schema_of(FEATURES + f"  device: {feature}\n")
