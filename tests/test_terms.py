"""What rows are worth to the retrieval loss, and what a model asks of the terms of its loss."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.tasks import Debiasing, Step, Task

ITEMS = 6
IDS = (
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=4),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
)
CLICK = sf.Feature(name="click", dtype="int8", tags=("target", "binary"), value=0.5)
BOUGHT = sf.Feature(name="bought", dtype="int8", tags=("target", "binary"), value=2)
REGRET = sf.Feature(name="regret", dtype="int8", tags=("target", "binary"), value=-1.5)
EVENTS = {
    "user": [0, 1, 2, 3, 0],
    "item": [1, 2, 3, 4, 5],
    "click": [1, 1, 0, 1, 0],
    "bought": [0, 1, 0, 1, 0],
    "regret": [0, 0, 0, 1, 1],
}
WORTH = np.array([0.5, 2.5, 0, 1.0, 0])  # the last one's -1.5 counts as 0


def model_of(*features: Feature, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(1)
    options = sf.EmbeddingOptions(embedding_dim_default=4, embeddings_initializers="random_normal")
    model = sf.TwoTowerModel(
        sf.Schema((*IDS, *features)), sf.MLPBlock([]), embedding_options=options, correction=None, **arguments
    )
    model.compile(optimizer=keras.optimizers.SGD(0.5))
    return model


def batch_of(columns: dict[str, list[int]] = EVENTS) -> dict[str, tf.Tensor]:
    return {encoded_name(name): tf.constant(values) for name, values in columns.items()}


def loss_of(model: sf.TwoTowerModel, batch: dict[str, Any]) -> float:
    return float(model.compute_loss(batch, y_pred=model(batch, training=True)))


def row_losses(model: sf.TwoTowerModel) -> np.ndarray:
    """The cross-entropy of each row over the items of all rows, [5]."""
    query = model.query_embeddings({"user": EVENTS["user"]})
    logits = query @ model.candidate_embeddings({"item": EVENTS["item"]}).T
    return np.log(np.exp(logits).sum(axis=1)) - np.diag(logits)


# -- net value --------------------------------------------------------------------------------------------------------


def test_the_loss_is_weighted_by_the_net_value_and_what_is_worth_nothing_is_a_column_alone() -> None:
    model = model_of(CLICK, BOUGHT, REGRET)
    losses = row_losses(model)
    assert loss_of(model, batch_of()) == pytest.approx((WORTH * losses).sum() / WORTH.sum(), rel=1e-5)
    doubled = model_of(
        *(it.model_copy(update={"value": 2 * it.value}) for it in (CLICK, BOUGHT, REGRET))
    )  # a mean: the scale of the values does not matter
    assert loss_of(doubled, batch_of()) == pytest.approx(loss_of(model, batch_of()), rel=1e-6)
    plain = model_of(CLICK.model_copy(update={"value": None}))
    assert loss_of(plain, batch_of()) == pytest.approx(losses.mean(), rel=1e-5)


def test_a_batch_worth_nothing_has_no_loss_and_moves_nothing() -> None:
    model = model_of(CLICK)
    before = [it.numpy() for it in model.trainable_variables]
    nothing = {name: values if name != "click" else [0] * 5 for name, values in EVENTS.items()}
    history = model.fit({name: nothing[name] for name in ("user", "item", "click")}, batch_size=5, verbose=0)
    assert history.history["loss"] == [0.0]
    for old, new in zip(before, model.trainable_variables, strict=True):
        assert np.array_equal(old, new.numpy())


def test_values_multiply_weights() -> None:
    model = model_of(CLICK, BOUGHT, sf.Feature(name="sure", dtype="float32", tags=("weight",)))
    sure = np.array([2.0, 1, 3, 0, 1])
    worth = sure * np.array([0.5, 2.5, 0, 2.5, 0])
    batch = batch_of() | {encoded_name("sure"): tf.constant(sure, tf.float32)}
    assert loss_of(model, batch) == pytest.approx((worth * row_losses(model)).sum() / worth.sum(), rel=1e-5)


def test_a_task_beside_learns_of_all_rows() -> None:
    """Whether a row is clicked is told by those that are not, too."""
    model = model_of(CLICK, prediction_tasks=[sf.RetrievalTask(), sf.BinaryClassificationTask("click")])
    task = model.tasks[1]
    model.compute_loss(batch_of(), y_pred=model(batch_of(), training=True))
    assert float(task._seen.numpy()) == 5


def test_only_what_is_worth_something_is_a_positive_in_evaluation_and_among_known_positives() -> None:
    model = model_of(CLICK, BOUGHT, REGRET, known_positives=EVENTS)
    report = sf.evaluate(model, EVENTS, {"item": list(range(ITEMS))}, ks=[1])
    assert report.protocol["no positives, by click and bought and regret"] == 2
    assert report.protocol["queries"] == 3
    assert model.known_positives(tf.constant([0, 1, 2, 3], tf.int64)).to_list() == [[1], [2], [], [4]]
    ids_alone = {name: EVENTS[name] for name in ("user", "item")}
    whole = sf.evaluate(model, ids_alone, {"item": list(range(ITEMS))}, ks=[1])
    assert whole.protocol["queries"] == 4  # nothing says that a row is none


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tags": ("user", "continuous"), "dtype": "float32"}, 'has "value" but is no target; tag it target'),
        ({"tags": ("target", "binary"), "dtype": "int8", "value": float("inf")}, "finite number"),
        ({"tags": ("target", "binary"), "dtype": "int8", "value": True}, "valid number"),
    ],
)
def test_values_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        sf.Feature(**{"name": "it", "value": 1, **keys})


# -- terms ------------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("schemaflow-tests")
class Halved(Debiasing):
    """Rows with a mark count half; the weight is learned by a loss of its own."""

    def __init__(self, feature: str = "mark", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_name = feature

    def begin(self, dim: int) -> None:
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones")
        self.built = True

    def bind(self, schema: sf.Schema, sides: Any) -> Sequence[Feature]:
        self.feature = schema[self.feature_name]
        return (self.feature,)

    def debias(self, step: Step) -> tuple[tf.Tensor, tf.Tensor]:
        marked = tf.cast(step.column(self.feature), tf.float32)
        weights = self.scale * (1.0 - 0.5 * marked)
        return weights, tf.square(self.scale - 3.0)


MARK = sf.Feature(name="mark", dtype="int8", tags=("position",))
MARKS = {encoded_name("mark"): tf.constant([1, 0, 0, 1, 0])}


def test_debiasing_weighs_rows_and_no_gradient_of_the_loss_passes_through_its_weights() -> None:
    model = model_of(CLICK, BOUGHT, REGRET, MARK, debiasing=Halved())
    weights = WORTH * [0.5, 1, 1, 0.5, 1]
    losses, batch = row_losses(model), batch_of() | MARKS
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, y_pred=model(batch, training=True))
    assert float(loss) == pytest.approx((weights * losses).sum() / weights.sum() + 4.0, rel=1e-5)
    assert float(tape.gradient(loss, model.debiasing[0].scale.value)) == pytest.approx(-4.0)  # 2 (1 - 3), its own
    model.fit(EVENTS | {"mark": [1, 0, 0, 1, 0]}, batch_size=5, epochs=5, verbose=0)
    assert float(model.debiasing[0].scale.numpy()) == pytest.approx(3.0, abs=0.1)
    again = sf.TwoTowerModel.from_config(model.get_config())
    assert isinstance(again.debiasing[0], Halved)
    with pytest.raises(ConfigError, match="belongs to another model; pass a Halved of its own to each"):
        model_of(CLICK, BOUGHT, REGRET, MARK, debiasing=model.debiasing)


def test_debiasing_is_given_again_where_its_first_model_failed_and_may_be_none() -> None:
    halved = Halved()
    with pytest.raises(ConfigError, match='unknown sampler "unifrom"'):
        model_of(CLICK, BOUGHT, REGRET, MARK, debiasing=halved, samplers=["unifrom"])
    assert model_of(CLICK, BOUGHT, REGRET, MARK, debiasing=halved).debiasing == [halved]
    assert model_of(CLICK, debiasing=None).debiasing == []


@keras.saving.register_keras_serializable("schemaflow-tests")
class Reaching(Task):
    """Draws every query towards the item that is nearest to it."""

    needs_items = True
    reads_inputs = True
    loss_weight = 1.0

    def bind(self, schema: sf.Schema, sides: Any) -> Sequence[Feature]:
        return ()

    def loss_in(self, step: Step) -> tf.Tensor:
        assert step.items is not None
        assert step.query_inputs is not None
        found = step.items.nearest(step.query, 2)  # [b, 2]
        self.seen = step.items.ids(found[:, 0]), step.query_inputs
        return -tf.reduce_mean(tf.reduce_sum(step.query * step.items.vectors(found[:, 0]), axis=1))


def test_a_task_reaches_items_beyond_the_batch() -> None:
    model = model_of(prediction_tasks=[sf.RetrievalTask(), Reaching(name="reaching")])
    vectors, query = (
        model.candidate_embeddings({"item": list(range(ITEMS))}),
        model.query_embeddings({"user": EVENTS["user"]}),
    )
    model.encode_candidates()
    batch = {name: values[:5] for name, values in batch_of().items() if name[:4] in ("user", "item")}
    outputs = model(batch, training=True)
    expected = row_losses(model).mean() - (query @ vectors.T).max(axis=1).mean()
    assert float(model.compute_loss(batch, y_pred=outputs)) == pytest.approx(expected, rel=1e-5)
    ids, inputs = model.tasks[1].seen
    assert ids.numpy().tolist() == (query @ vectors.T).argmax(axis=1).tolist()
    assert np.array_equal(inputs.numpy(), query)  # a block without layers gives what it is given
    table = {name: EVENTS[name] for name in ("user", "item")}
    history = model.fit(table, batch_size=5, epochs=3, verbose=0).history
    assert {"loss", "retrieval/loss"} <= set(history)
    assert set(model.predict(table, verbose=0)) == {"query", "candidate", "score"}


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ConfigError, r"debiasing holds 'position'; expected PositionDebiasing\(\)", {"debiasing": "position"}),
        (SchemaError, 'no feature "marks"', {"debiasing": Halved("marks")}),
        (ConfigError, "debiasing has no use", {"debiasing": Halved(), "prediction_tasks": sf.RegressionTask("click")}),
        (ConfigError, 'have the name "it"', {"prediction_tasks": [sf.RetrievalTask(name="it"), Reaching(name="it")]}),
    ],
)
def test_terms_that_cannot_be(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        model_of(CLICK, MARK, **arguments)


class Adding(keras.layers.Dense):
    """Adds 5 to the loss each time it is called, and 7 for its weights."""

    def __init__(self) -> None:
        super().__init__(3, kernel_regularizer=lambda _: tf.constant(self.adds * 7.0))
        self.adds = 0

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        self.add_loss(tf.constant(self.adds * 5.0))
        return super().call(inputs)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda block: {"prediction_tasks": [sf.RetrievalTask(), sf.BinaryClassificationTask("click", block=block)]},
        lambda block: {
            "prediction_tasks": [sf.LightRanker("click", block=block, hard=3, random=0), sf.RetrievalTask()]
        },
        lambda block: {"prediction_tasks": sf.LightRanker("click", block=block, hard=0, random=0)},
        lambda block: {"debiasing": sf.PositionDebiasing(block=block)},
        lambda block: {"debiasing": sf.UserDebiasing(block=block)},
    ],
    ids=["classification", "ranker", "ranker of impressions", "position", "user"],
)
@pytest.mark.filterwarnings("ignore:.*impressions alone")
def test_what_a_layer_within_a_term_adds_to_the_loss_counts_once(make: Any, training: bool) -> None:
    block = Adding()
    slot = sf.Feature(name="slot", dtype="int8", tags=("position",), cardinality=4)
    model = model_of(CLICK, slot, **make(block))
    batch = batch_of(EVENTS | {"slot": [1, 2, 3, 1, 2]})
    model.encode_candidates()
    losses = []
    for block.adds in (0, 1):
        outputs = model(batch, training=training)
        losses.append(float(model.compute_loss(batch, y_pred=outputs, training=training)))
    assert losses[1] - losses[0] == pytest.approx(12.0, abs=0.01)  # a step moves what a head begins from


def test_the_frozen_towers_of_a_task_add_nothing_to_the_loss() -> None:
    options = sf.EmbeddingOptions(embedding_dim_default=4, embeddings_l2_reg=3.0)
    base = sf.TwoTowerModel(sf.Schema(IDS), keras.layers.Dense(4, activity_regularizer="l2"), embedding_options=options)
    task = sf.RewardAlignmentTask(lambda _, items: 0.0 * items["item"], base, hard=2, random=2, start="fresh")
    model = model_of(prediction_tasks=task)
    batch = {name: values for name, values in batch_of().items() if name[:4] in ("user", "item")}
    model.encode_candidates()
    loss = model.compute_loss(batch, y_pred=model(batch, training=False), training=False)
    assert task.towers[0].losses  # they are trained no more
    step = model._step(batch, model(batch), None, training=False)
    assert float(loss) == pytest.approx(float(task.loss_in(step)), rel=1e-6)


@pytest.mark.parametrize(
    "task",
    [
        sf.RetrievalTask(temperature="learned"),
        sf.RegressionTask("click"),
        sf.BinaryClassificationTask("click"),
        sf.LightRanker("click"),
        sf.MixtureOfLogits("click"),
        sf.DistillationTask(lambda _, items: 0.0 * items["item"]),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_task_with_weights_belongs_to_one_model(task: Task) -> None:
    model = model_of(CLICK, prediction_tasks=task)
    weights = [it.numpy() for it in task.weights]
    said = f'the task "{task.name}" belongs to another model; pass a {type(task).__name__} of its own to each'
    with pytest.raises(ConfigError, match=said):
        model_of(CLICK, prediction_tasks=task)
    assert all(np.array_equal(a, b) for a, b in zip(weights, task.weights, strict=True))
    again = model_of(CLICK, prediction_tasks=type(task).from_config(task.get_config()))
    assert again.tasks[0].weights[0] is not task.weights[0]
    assert model.grow(model.schema).tasks[0].weights[0] is not task.weights[0]


def test_a_task_is_given_again_where_it_has_no_weights_or_its_first_model_failed() -> None:
    task, learned = sf.RetrievalTask(temperature=0.5), sf.RetrievalTask(temperature="learned")
    assert model_of(prediction_tasks=task).tasks == model_of(prediction_tasks=task).tasks
    with pytest.raises(ConfigError, match="correction"):
        sf.TwoTowerModel(sf.Schema(IDS), sf.MLPBlock([4]), prediction_tasks=learned, correction="log")
    with pytest.raises(ConfigError, match="unknown sampler"):
        model_of(prediction_tasks=learned, samplers=["in-bach"])
    assert model_of(prediction_tasks=learned).retrieval is learned


def test_no_term_takes_the_name_of_what_fit_reports_itself() -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=3),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=3),
        sf.Feature(name="judged", dtype="float32", tags=("teacher",)),
    ))  # fmt: skip
    tasks = [sf.RetrievalTask(), sf.DistillationTask(name="retrieval")]  # which has the metric retrieval/loss
    with pytest.raises(ConfigError, match='DistillationTask cannot be named "retrieval"'):
        sf.TwoTowerModel(schema, keras.layers.Dense(2), prediction_tasks=tasks)
