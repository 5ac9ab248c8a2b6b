"""Alignment: the optimum by hand, the base as its anchor, its start, saving and growing."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, SchemaError

USERS, ITEMS = 6, 12
SCHEMA = sf.Schema((
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
))  # fmt: skip
rng = np.random.default_rng(7)
LOG = {"user": rng.integers(USERS, size=200), "item": rng.integers(ITEMS, size=200)}


@keras.saving.register_keras_serializable("schemaflow-tests")
def even(_: Any, items: Any) -> Any:
    return 1.0 - items["item"] % 2


def model_of(*tasks: Any, schema: sf.Schema = SCHEMA, width: int = 6, seed: int = 1) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        schema.fit(LOG),
        sf.MLPBlock([width]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=6),
        prediction_tasks=list(tasks) or None,
    )
    model.compile(keras.optimizers.Adam(0.02))
    return model


@pytest.fixture(scope="module")
def base() -> sf.TwoTowerModel:
    model = model_of(sf.RetrievalTask(temperature="learned", initial_temperature=0.7))
    model.fit(LOG, batch_size=50, epochs=3, verbose=0)
    return model


def weights_of(model: sf.TwoTowerModel) -> list[np.ndarray]:
    return [*model.query_tower.get_weights(), *model.item_tower.get_weights()]


def scores_of(model: sf.TwoTowerModel) -> np.ndarray:
    queries = model.query_embeddings({"user": np.arange(USERS)})
    return np.asarray(queries @ model.candidate_embeddings({"item": np.arange(ITEMS)}).T)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_the_listwise_loss_is_the_divergence_from_the_anchored_target() -> None:
    task = sf.RewardAlignmentTask(even, beta=0.5)
    base, reward = tf.constant([[math.log(2.0), 0.0, 9.0]]), tf.constant([[0.0, math.log(2.0) / 2, np.nan]])
    # target: 2 to 1 * exp(2 * log(2) / 2) = 2 to 2; scores: 3 to 1
    scores = tf.constant([[math.log(3.0), 0.0, -5.0]])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert task(scores, base, reward).numpy() == pytest.approx([expected], abs=1e-6)


def test_the_pairwise_loss_has_its_least_where_the_listwise_has() -> None:
    task = sf.RewardAlignmentTask(even, beta=0.5, form="pairwise")
    base, reward = tf.constant([[1.0, -1.0]]), tf.constant([[1.0, 0.0]])
    # one pair, both ways: sigmoid(1) wanted of the first, and beta times the lead over the base's
    wanted, lead = 1 / (1 + math.exp(-1)), 0.5 * ((2.0 - 0.5) - 2.0)
    expected = -wanted * math.log(1 / (1 + math.exp(-lead))) - (1 - wanted) * math.log(1 / (1 + math.exp(lead)))
    assert task(tf.constant([[2.0, 0.5]]), base, reward).numpy() == pytest.approx([expected], abs=1e-6)
    scores = tf.Variable(base + reward / 0.5)
    with tf.GradientTape() as tape:
        loss = task(scores, base, reward)
    assert tape.gradient(loss, scores).numpy() == pytest.approx(np.zeros((1, 2)), abs=1e-6)


@pytest.mark.parametrize("form", ["listwise", "pairwise"])
def test_a_candidate_that_is_alone_has_a_loss_of_0_and_moves_nothing(form: str) -> None:
    task, scores = sf.RewardAlignmentTask(even, form=form), tf.Variable([[2.0], [-1.0]])
    with tf.GradientTape() as tape:
        loss = task(scores, tf.zeros((2, 1)), tf.ones((2, 1)))
    assert loss.numpy().tolist() == [0.0, 0.0]
    assert not tape.gradient(loss, scores).numpy().any()
    log = {"user": LOG["user"], "item": np.zeros(200, int)}
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=1),
    )).fit(log)  # fmt: skip
    trained = sf.TwoTowerModel(schema, sf.MLPBlock([4]))
    model = sf.TwoTowerModel(
        schema,
        sf.MLPBlock([4]),
        prediction_tasks=sf.RewardAlignmentTask(even, trained, form=form, hard=2, random=0),
    )
    model.compile()
    assert model.fit(log, batch_size=50, verbose=0).history["loss"] == [0.0]
    for mine, its in zip(weights_of(model), weights_of(trained), strict=True):
        assert np.array_equal(mine, its)


# -- in a model -------------------------------------------------------------------------------------------------------


def test_an_infinite_beta_leaves_the_base_bit_for_bit(base: sf.TwoTowerModel) -> None:
    model = model_of(sf.RewardAlignmentTask(even, base, beta=math.inf, hard=4, random=6), seed=2)
    history = model.fit(LOG, batch_size=50, epochs=3, verbose=0).history
    assert history["alignment/kl"] == [0.0] * 3
    assert history["alignment/loss"] == [0.0] * 3
    for mine, its in zip(weights_of(model), weights_of(base), strict=True):
        assert np.array_equal(mine, its)


@pytest.mark.parametrize("form", ["listwise", "pairwise"])
def test_scores_become_those_of_the_base_and_the_reward_by_beta(base: sf.TwoTowerModel, form: str) -> None:
    before = weights_of(base)
    model = model_of(sf.RewardAlignmentTask(even, base, beta=0.5, form=form, hard=0, random=30))
    history = model.fit(LOG, batch_size=50, epochs=40, verbose=0).history
    gain = (scores_of(model) - scores_of(base)) / float(base.retrieval.divisor())  # type: ignore[union-attr]
    lead = gain[:, ::2].mean(axis=1) - gain[:, 1::2].mean(
        axis=1
    )  # of what is rewarded with 1 over what is not: 1 / beta
    assert lead == pytest.approx(np.full(USERS, 2.0), abs=0.2)
    assert history["alignment/kl"][-1] > 0.1 > history["alignment/kl"][0]
    for mine, its in zip(before, weights_of(base), strict=True):
        assert np.array_equal(mine, its)


def test_metrics_tell_the_reward_of_what_is_near(base: sf.TwoTowerModel) -> None:
    model = model_of(sf.RewardAlignmentTask(even, base, hard=3, random=6))
    found = model.evaluate(LOG, batch_size=50, verbose=0, return_dict=True)
    nearest = np.argsort(-scores_of(base), axis=1)[:, :3]
    each = np.array([np.mean(1 - row % 2) for row in nearest])
    assert found["alignment/reward"] == pytest.approx(each[LOG["user"]].mean(), abs=1e-5)
    assert found["alignment/kl"] == 0.0
    one = {name: tf.constant(values[:1]) for name, values in LOG.items()}
    assert np.isfinite(model.train_on_batch(one, return_dict=True)["loss"])


def test_a_learned_temperature_begins_as_the_bases(base: sf.TwoTowerModel) -> None:
    tasks = sf.RetrievalTask(temperature="learned", loss_weight=0.3), sf.RewardAlignmentTask(even, base)
    model = model_of(*tasks)
    assert float(model.tasks[0].divisor()) == pytest.approx(float(base.retrieval.divisor()))  # type: ignore[union-attr]
    # as many variables are trained as without: the base's are not
    assert len(model.trainable_variables) == len(base.trainable_variables)
    before = [it.get_weights() for it in model.tasks[1].towers]
    model.fit(LOG, batch_size=50, epochs=1, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(before[0], model.tasks[1].towers[0].get_weights(), strict=True))


def test_another_architecture_begins_anew_where_that_is_said(base: sf.TwoTowerModel) -> None:
    with pytest.raises(ConfigError, match=r'the query_tower has other weights than the base.*say start="fresh"'):
        model_of(sf.RewardAlignmentTask(even, base), width=8)
    task = sf.RewardAlignmentTask(even, base, beta=math.inf, start="fresh", hard=0, random=30)
    model = model_of(task, width=8)
    history = model.fit(LOG, batch_size=50, epochs=30, verbose=0).history
    assert history["alignment/kl"][-1] < 0.1 * history["alignment/kl"][0]  # it learns the base


def test_it_is_saved_with_the_base(base: sf.TwoTowerModel, tmp_path: Path) -> None:
    model = model_of(sf.RetrievalTask(loss_weight=0.3), sf.RewardAlignmentTask(even, base, hard=4, random=6))
    model.fit(LOG, batch_size=50, epochs=2, verbose=0)
    model.save(tmp_path / "aligned.keras")
    again = keras.models.load_model(tmp_path / "aligned.keras")
    assert np.array_equal(scores_of(again), scores_of(model))
    for mine, its in zip(again.tasks[1].towers, (base.query_tower, base.item_tower), strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(mine.get_weights(), its.get_weights(), strict=True))
    assert float(again.tasks[1]._temperature) == pytest.approx(float(base.retrieval.divisor()))  # type: ignore[union-attr]
    assert again.fit(LOG, batch_size=50, epochs=1, verbose=0).history["alignment/kl"][0] > 0


def test_the_base_grows_with_the_model() -> None:
    learned = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), vocabulary="learned"),
    ))  # fmt: skip
    trained = model_of(schema=learned)
    trained.fit(LOG, epochs=1, verbose=0)
    model = model_of(
        sf.RewardAlignmentTask(lambda _, items: items["item"] % 2, trained, hard=3, random=3), schema=learned
    )
    model.fit(LOG, epochs=1, verbose=0)
    more = {"user": np.array([0, 1]), "item": np.array([50, 51])}
    grown = model.grow(model.schema.fit(more))
    tables = [it.tasks[0].towers[1].get_weights()[0] for it in (model, grown)]
    assert [len(it) for it in tables] == [3 + ITEMS, 3 + ITEMS + 2]
    assert np.array_equal(tables[1][: 3 + ITEMS], tables[0])
    assert np.isfinite(grown.fit(more, epochs=1, verbose=0).history["loss"][0])


def test_a_base_of_another_schema_is_refused(base: sf.TwoTowerModel) -> None:
    other = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS + 1),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
    ))  # fmt: skip
    with pytest.raises(SchemaError, match="features of the base's towers are not those of the schema, or were fitted"):
        model_of(sf.RewardAlignmentTask(even, base), schema=other)
    renamed = sf.Schema(
        (SCHEMA["user"], sf.Feature(name="film", column="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS))
    )
    with pytest.raises(SchemaError, match="the base has the features item, and the schema has not"):
        model_of(sf.RewardAlignmentTask(even, base), schema=renamed)
    with pytest.raises(ConfigError, match="RewardAlignmentTask has no base: pass the trained model"):
        model_of(sf.RewardAlignmentTask(even))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"beta": 0}, "beta is 0; expected a number above 0"),
        ({"beta": math.inf, "form": "pairwise"}, "beta is infinite, which only the listwise form can take"),
        ({"form": "pairwize"}, "form is 'pairwize'; did you mean \"pairwise\"; expected 'listwise' or 'pairwise'"),
        ({"start": "new"}, "start is 'new'; expected 'base' or 'fresh'"),
        ({"base": 3}, "base is 3; expected a trained TwoTowerModel"),
        ({"hard": 1, "random": 0}, r"hard \+ random is 1; expected two candidates at least"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sf.RewardAlignmentTask(even, **arguments)


def test_a_task_belongs_to_one_model(base: sf.TwoTowerModel) -> None:
    task = sf.RewardAlignmentTask(even, base)
    model_of(task)
    with pytest.raises(ConfigError, match='the task "alignment" belongs to another model'):
        model_of(task)
