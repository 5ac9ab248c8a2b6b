"""The retrieval task alone on plain tensors, and inside a model of plain Keras, as TFRS's users write it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import losses
from schemaflow.errors import ConfigError

RNG = np.random.default_rng(5)
QUERIES = tf.constant(RNG.normal(size=(4, 3)), tf.float32)
CANDIDATES = tf.constant(RNG.normal(size=(6, 3)), tf.float32)
SCORES = QUERIES.numpy() @ CANDIDATES.numpy().T  # [4, 6]


def softmax_loss(logits: np.ndarray, columns: list[list[int]] | None = None) -> float:
    """The mean over rows i of -log softmax at column i, over the given columns alone."""
    columns = columns or [list(range(logits.shape[1]))] * len(logits)
    rows = [np.log(np.exp(logits[i, kept]).sum()) - logits[i, i] for i, kept in enumerate(columns)]
    return float(np.mean(rows))


# -- arithmetic ---------------------------------------------------------------------------------------------------


def test_log_q_is_not_scaled_by_the_temperature_for_one_row_of_probabilities_or_one_for_each_query() -> None:
    probability = RNG.uniform(0.01, 0.5, size=(4, 6))
    task = sf.RetrievalTask(temperature=0.5)
    each = task(QUERIES, CANDIDATES, candidate_sampling_probability=tf.constant(probability, tf.float32))
    assert float(each) == pytest.approx(softmax_loss(SCORES / 0.5 - np.log(probability)), rel=1e-5)
    shared = task(QUERIES, CANDIDATES, candidate_sampling_probability=tf.constant(probability[0]))
    assert float(shared) == pytest.approx(softmax_loss(SCORES / 0.5 - np.log(probability[:1])), rel=1e-5)
    # (s - log q) / T, the order of Merlin, is another loss
    assert float(shared) != pytest.approx(softmax_loss((SCORES - np.log(probability[:1])) / 0.5), rel=1e-3)


def test_smoothed_labels_give_an_accidental_hit_nothing() -> None:
    """TFRS gives about 3e35 here: a huge negative logit times a label above 0."""
    ids = tf.constant([1, 2, 1, 3, 4, 5])
    task = sf.RetrievalTask(loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1))
    expected = []
    for row in range(4):
        kept = [column for column in range(6) if column == row or ids[column] != ids[row]]
        logits, labels = SCORES[row, kept], np.full(len(kept), 0.1 / len(kept))
        labels[kept.index(row)] += 0.9
        expected.append(-(labels * np.log(np.exp(logits) / np.exp(logits).sum())).sum())
    with tf.GradientTape() as tape:
        tape.watch(CANDIDATES)
        loss = task(QUERIES, CANDIDATES, candidate_ids=ids)
    assert float(loss) == pytest.approx(float(np.mean(expected)), rel=1e-5)
    assert np.isfinite(tape.gradient(loss, CANDIDATES).numpy()).all()


def test_the_hardest_negatives_by_hand() -> None:
    # the diagonal is the positive; row 0's hardest are columns 2 and 1, row 1's are 2 and 0
    queries = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    candidates = tf.constant([[0.5, 1.0], [2.0, 0.1], [3.0, 4.0], [-1.0, -1.0]])
    scores = np.array([[0.5, 2.0, 3.0, -1.0], [1.0, 0.1, 4.0, -1.0]])
    for count, columns in ((1, [[0, 2], [1, 2]]), (2, [[0, 2, 1], [1, 2, 0]])):
        loss = sf.RetrievalTask(num_hard_negatives=count)(queries, candidates)
        assert float(loss) == pytest.approx(softmax_loss(scores, columns), rel=1e-6)
    # a hit and a masked candidate are no negatives, however hard: the next ones are
    loss = sf.RetrievalTask(num_hard_negatives=1)(
        queries,
        candidates,
        candidate_ids=tf.constant([7, 8, 7, 9]),  # column 2 is row 0's own item
        score_mask=tf.constant([[True] * 4, [False, True, False, True]]),
    )
    assert float(loss) == pytest.approx(softmax_loss(scores, [[0, 1], [1, 3]]), rel=1e-6)


@pytest.mark.parametrize("count", [0, -1, 5, 99, None])
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "bpr", "hinge"])
def test_no_or_many_hard_negatives_keep_all(count: int | None, loss: str) -> None:
    """TFRS's loss is 0 for 0 and -1: only the positive is left."""
    kept = sf.RetrievalTask(loss=loss, num_hard_negatives=count)(QUERIES, CANDIDATES)
    assert float(kept) == pytest.approx(float(sf.RetrievalTask(loss=loss)(QUERIES, CANDIDATES)), rel=1e-6)
    assert float(kept) > 0


@given(
    rows=st.integers(1, 5),
    extra=st.integers(0, 4),
    count=st.one_of(st.none(), st.integers(-1, 9)),
    items=st.integers(1, 8),
    temperature=st.floats(0.1, 3.0),
    corrected=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_whole_order_against_numpy(
    rows: int, extra: int, count: int | None, items: int, temperature: float, corrected: bool, masked: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    query, candidate = rng.normal(size=(rows, 3)), rng.normal(size=(rows + extra, 3))
    ids, weight = rng.integers(items, size=rows + extra), rng.uniform(0.1, 2.0, size=rows)
    probability, mask = rng.uniform(0.01, 1.0, size=rows + extra), rng.random(size=(rows, rows + extra)) < 0.6
    logits = query @ candidate.T / temperature - (np.log(probability) if corrected else 0.0)
    expected = []
    for row in range(rows):
        negatives = [
            logits[row, column]
            for column in range(rows + extra)
            if column != row and ids[column] != ids[row] and (mask[row, column] or not masked)
        ]
        if count is not None and count > 0:
            negatives = sorted(negatives)[-count:]
        expected.append(np.log(np.exp([logits[row, row], *negatives]).sum()) - logits[row, row])
    loss = sf.RetrievalTask(temperature=temperature, num_hard_negatives=count)(
        tf.constant(query, tf.float32),
        tf.constant(candidate, tf.float32),
        sample_weight=tf.constant(weight),
        candidate_sampling_probability=tf.constant(probability) if corrected else None,
        candidate_ids=tf.constant(ids),
        score_mask=tf.constant(mask) if masked else None,
    )
    assert float(loss) == pytest.approx(float(np.average(expected, weights=weight)), rel=1e-4, abs=1e-5)


def test_a_learned_temperature_begins_where_asked_stays_above_zero_and_is_learned() -> None:
    task = sf.RetrievalTask(temperature="learned", initial_temperature=0.5)
    assert float(task(QUERIES, CANDIDATES)) == pytest.approx(softmax_loss(SCORES / 0.5), rel=1e-5)
    assert [weight.name for weight in task.trainable_variables] == ["log_temperature"]
    # each query is nearest to its own candidate: the colder, the better
    optimizer = keras.optimizers.SGD(2.0)
    for _ in range(30):
        with tf.GradientTape() as tape:
            loss = task(tf.eye(4), tf.eye(4))
        optimizer.apply_gradients([(tape.gradient(loss, task.log_temperature.value), task.log_temperature)])
    assert 0 < np.exp(float(task.log_temperature.value)) < 0.3
    assert float(task(tf.eye(4), tf.eye(4))) < 0.1


def test_half_precision_products_do_not_overflow() -> None:
    vectors = tf.constant([[300.0, 0.0], [0.0, 300.0]], tf.float16)
    task = sf.RetrievalTask(temperature=90000.0, dtype="mixed_float16")
    assert float(task(vectors, vectors)) == pytest.approx(softmax_loss(np.eye(2)), rel=1e-5)


# -- what is refused ----------------------------------------------------------------------------------------------


def test_arguments_that_are_refused() -> None:
    for temperature in (0, -1.0, float("nan"), float("inf"), True, "learnt"):
        with pytest.raises(ConfigError, match='expected a number above 0, or "learned"'):
            sf.RetrievalTask(temperature=temperature)
    with pytest.raises(ConfigError, match="initial_temperature is 0"):
        sf.RetrievalTask(temperature="learned", initial_temperature=0)
    with pytest.raises(ConfigError, match='pass temperature="learned" with it'):
        sf.RetrievalTask(initial_temperature=0.5)
    with pytest.raises(ConfigError, match=r"num_hard_negatives is 1\.5"):
        sf.RetrievalTask(num_hard_negatives=1.5)
    with pytest.raises(ConfigError, match="loss_weight is -1"):
        sf.RetrievalTask(loss_weight=-1)
    with pytest.raises(ConfigError, match="metrics over the batch go into batch_metrics"):
        sf.RetrievalTask(metrics=keras.metrics.AUC())
    with pytest.raises(ConfigError, match="batch_metrics holds 'auc'; expected a Metric"):
        sf.RetrievalTask(batch_metrics=["auc"])
    two = [keras.metrics.TopKCategoricalAccuracy(k) for k in (1, 5)]
    with pytest.raises(ConfigError, match='two metrics of the RetrievalTask are called "top_k_categorical_accuracy"'):
        sf.RetrievalTask(batch_metrics=two)
    with pytest.raises(ConfigError, match='called "factorized_top_k"'):
        sf.RetrievalTask().factorized_metrics = [sf.FactorizedTopK(ks=(k,)) for k in (1, 5)]
    with pytest.raises(ConfigError, match='called "loss"'):
        sf.RetrievalTask(batch_metrics=keras.metrics.CategoricalCrossentropy(name="loss"))
    with pytest.raises(ConfigError, match='unknown loss "bprr"'):
        sf.RetrievalTask(loss="bprr")


def test_tensors_that_are_refused() -> None:
    task = sf.RetrievalTask()
    with pytest.raises(ConfigError, match="fewer candidates than queries"):
        task(CANDIDATES, QUERIES)
    for bad in (0.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="candidate_sampling_probability is not above 0"):
            task(QUERIES, CANDIDATES, candidate_sampling_probability=tf.constant([0.1] * 5 + [bad]))
    # shapes that would only fit by broadcasting, silently and wrongly
    with pytest.raises(ConfigError, match=r"sample_weight has the shape \(4, 1\); expected \[4\]"):
        task(QUERIES, CANDIDATES, sample_weight=tf.ones((4, 1)))
    for shape in ([6, 1], [4, 1], [1], [4]):
        with pytest.raises(
            ConfigError, match=r"candidate_sampling_probability has the shape .*expected \[6\] or \[4, 6\]"
        ):
            task(QUERIES, CANDIDATES, candidate_sampling_probability=tf.ones(shape))
    with pytest.raises(ConfigError, match=r"candidate_ids has the shape \(4,\); expected \[6\]"):
        task(QUERIES, CANDIDATES, candidate_ids=tf.range(4))
    with pytest.raises(ConfigError, match="candidate_ids are float32, which tells no large ids apart"):
        task(QUERIES, CANDIDATES, candidate_ids=tf.range(2.0**24, 2.0**24 + 6))  # 2^24 and 2^24 + 1 are one number
    with pytest.raises(ConfigError, match=r"the loss gives the shape \(\); expected \[b\]"):
        sf.RetrievalTask(loss=lambda logits, _: tf.reduce_mean(logits))(QUERIES, CANDIDATES)

    @tf.function(input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 3]), tf.TensorSpec([None])])
    def graph(query: tf.Tensor, candidate: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
        return task(query, candidate, candidate_sampling_probability=probability)

    assert np.isfinite(float(graph(QUERIES, CANDIDATES, tf.fill([6], 0.1))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="is not above 0"):
        graph(QUERIES, CANDIDATES, tf.zeros([6]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="fewer candidates than queries"):
        graph(CANDIDATES, QUERIES, tf.fill([4], 0.1))


# -- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_get_raw_vectors_the_queries_own_candidates_and_the_weights() -> None:
    metric = sf.FactorizedTopK(ks=(1, 2)).set_candidates(tf.eye(3), tf.constant([10, 20, 30]))
    task = sf.RetrievalTask(metrics=metric, temperature=0.1)
    queries = tf.constant([[1.0, 0.0, 0.0], [0.9, 0.5, 0.0]])  # ranks 1 and 2 of items 10 and 20
    candidates = tf.eye(3)  # one more than queries: TFRS fails on its id
    kwargs = {"sample_weight": tf.constant([1.0, 3.0]), "candidate_ids": tf.constant([10, 20, 30])}
    task(queries, candidates, compute_metrics=False, **kwargs)
    assert np.isnan(float(metric.result()["factorized_top_k/hit_rate@1"]))
    task(queries, candidates, **kwargs)
    assert {name: float(rate) for name, rate in metric.result().items()} == {
        "factorized_top_k/hit_rate@1": 0.25,
        "factorized_top_k/hit_rate@2": 1.0,
    }


class Seen(keras.metrics.Metric):
    """Keeps what it was given."""

    def __init__(self, name: str = "seen") -> None:
        super().__init__(name=name)
        self.calls: list[tuple[Any, ...]] = []

    def update_state(self, labels: Any, logits: Any, sample_weight: Any = None) -> None:
        self.calls.append((labels, logits, sample_weight))

    def result(self) -> float:
        return 0.0


def test_batch_metrics_get_the_labels_and_the_logits_of_the_loss() -> None:
    seen = Seen()
    probability, weight = tf.fill([6], 0.5), tf.ones([4])
    sf.RetrievalTask(batch_metrics=seen, temperature=2.0)(
        QUERIES,
        CANDIDATES,
        sample_weight=weight,
        candidate_sampling_probability=probability,
        candidate_ids=tf.constant([1, 1, 2, 3, 4, 5]),
        compute_metrics=False,
    )
    sf.RetrievalTask(batch_metrics=[seen], num_hard_negatives=2)(QUERIES, CANDIDATES)
    labels, logits, weights = (np.array(it) for it in seen.calls[0])
    expected = SCORES / 2 - np.log(0.5)
    hits = np.zeros((4, 6), bool)
    hits[0, 1] = hits[1, 0] = True
    assert labels.tolist() == np.eye(4, 6).tolist()
    assert logits[~hits] == pytest.approx(expected[~hits], rel=1e-5)
    assert (np.isfinite(logits[hits]) & (logits[hits] < -1e38)).all()
    assert weights.tolist() == [1.0] * 4
    labels, logits, _ = seen.calls[1]
    assert (labels.shape, logits.shape) == ((4, 3), (4, 3))
    assert labels.numpy()[:, 0].tolist() == [1.0] * 4


def test_dropped_candidates_make_no_nan_in_kerass_metrics() -> None:
    metrics = [
        keras.metrics.CategoricalAccuracy(),
        keras.metrics.TopKCategoricalAccuracy(k=2),
        keras.metrics.AUC(from_logits=True),
        keras.metrics.CategoricalCrossentropy(from_logits=True),
    ]
    task = sf.RetrievalTask(batch_metrics=metrics)
    loss = task(QUERIES, CANDIDATES, candidate_ids=tf.constant([1, 1, 1, 2, 2, 3]))
    assert all(np.isfinite(float(metric.result())) for metric in metrics)
    assert float(metrics[-1].result()) == pytest.approx(float(loss), rel=1e-5)


def test_factorized_metrics_can_be_assigned_as_in_the_tutorials() -> None:
    first, second = (sf.FactorizedTopK(name=name).set_candidates(tf.eye(3)) for name in ("first", "second"))
    task = sf.RetrievalTask(metrics=first)
    assert task.factorized_metrics == [first]
    task.factorized_metrics = second  # TFRS takes a bare object for none at all
    assert task.factorized_metrics == [second]
    assert [metric.name for metric in task.metrics] == ["second"]
    task.factorized_metrics = None
    assert list(task.metrics) == []


# -- configs ------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("schemaflow-tests")
def first_negative(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    return logits[:, -1]


@pytest.mark.parametrize("loss", [None, "bpr", losses.hinge, losses.CategoricalCrossentropy(0.3), first_negative])
def test_the_config_keeps_every_argument(loss: Any) -> None:
    task = sf.RetrievalTask(
        loss=loss,
        metrics=[sf.FactorizedTopK("items.parquet", ks=(2, 4), name="all")],
        batch_metrics=[keras.metrics.TopKCategoricalAccuracy(k=3, name="top3")],
        temperature=0.25,
        num_hard_negatives=7,
        name="mine",
        loss_weight=0.5,
        metrics_in_training=True,
        dtype="mixed_bfloat16",
    )
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(task))
    assert again.get_config() == task.get_config()
    assert again.loss == loss or again.loss.get_config() == loss.get_config()
    assert (again.factorized_metrics[0].ks, again.factorized_metrics[0].candidates) == ((2, 4), "items.parquet")
    assert (again.batch_metrics[0].name, again.batch_metrics[0].k) == ("top3", 3)
    assert (again.temperature, again.num_hard_negatives, again.loss_weight) == (0.25, 7, 0.5)
    assert again.metrics_in_training
    for it in (task, again):
        assert np.isfinite(float(it(QUERIES, CANDIDATES, compute_metrics=False)))


# -- in a model of plain Keras ------------------------------------------------------------------------------------

USERS, ITEMS = 12, 8


@keras.saving.register_keras_serializable("schemaflow-tests")
class Plain(keras.Model):
    """TFRS's first tutorial: two embeddings, and the task in compute_loss."""

    def __init__(self, strings: bool = False, task: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strings = strings
        self.user = keras.layers.Embedding(USERS, 8)
        lookup = [keras.layers.StringLookup(vocabulary=[f"i{n}" for n in range(ITEMS)], num_oov_indices=0)]
        self.item = keras.Sequential([*(lookup if strings else []), keras.layers.Embedding(ITEMS, 8)])
        self.task = sf.RetrievalTask() if task is None else task

    def call(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return self.user(inputs["user"]), self.item(inputs["item"])

    def compute_loss(self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True) -> Any:  # fmt: skip
        metrics = not training or self.task.metrics_in_training
        return self.task(*y_pred, sample_weight, candidate_ids=x["item"], compute_metrics=metrics)

    def get_config(self) -> dict[str, Any]:
        return {"strings": self.strings, "task": keras.saving.serialize_keras_object(self.task)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Plain":
        return cls(config["strings"], keras.saving.deserialize_keras_object(config["task"]))


def events(strings: bool) -> tf.data.Dataset:
    """Each user likes one item alone: it can be learned by heart."""
    user = np.arange(USERS)
    item = user % ITEMS
    ids = np.array([f"i{n}" for n in item]) if strings else item
    return tf.data.Dataset.from_tensor_slices({"user": user, "item": ids}).batch(6)


@pytest.mark.parametrize(("strings", "training"), [(True, False), (False, True)])
def test_a_plain_keras_model_trains_and_reports_ranks(strings: bool, training: bool, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    ranks = sf.FactorizedTopK(ks=(1, 3, 100))
    task = sf.RetrievalTask(
        metrics=ranks,
        batch_metrics=keras.metrics.CategoricalAccuracy(name="in_batch"),
        temperature="learned",
        metrics_in_training=training,
    )
    model = Plain(strings, task)
    rows = tf.data.Dataset.range(ITEMS)
    ids = rows.map(lambda row: tf.strings.join(["i", tf.strings.as_string(row)])) if strings else rows
    ranks.candidates = ids.batch(3).map(lambda it: (it, model.item(it)))
    model.compile(optimizer=keras.optimizers.Adam(0.1), jit_compile=not strings)  # as Keras does beside a GPU
    data = events(strings)
    before = model.evaluate(data, return_dict=True, verbose=0)
    history = model.fit(data, validation_data=data, epochs=16, shuffle=False, verbose=0).history
    after = model.evaluate(data, return_dict=True, verbose=0)
    names = {"loss", "in_batch", *(f"factorized_top_k/hit_rate@{k}" for k in (1, 3, 100))}
    assert set(after) == names
    assert set(history) == names | {f"val_{name}" for name in names}
    assert after["loss"] < 0.2 * before["loss"]
    assert before["factorized_top_k/hit_rate@1"] < 0.5
    assert after["factorized_top_k/hit_rate@1"] == after["in_batch"] == 1.0
    assert before["factorized_top_k/hit_rate@100"] == 1.0
    # an evaluation after training sees the candidates as they are now, not as they were
    assert history["val_factorized_top_k/hit_rate@1"][-1] == 1.0
    in_training = history["factorized_top_k/hit_rate@1"]
    assert (in_training[-1] == 1.0) if training else np.isnan(in_training).all()
    assert float(model.task.log_temperature.value) != 0.0

    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ConfigError, match="a dataset is not saved with a model"):
        again.evaluate(data, verbose=0)
    again.task.factorized_metrics[0].candidates = ids.batch(4).map(lambda it: (it, again.item(it)))
    assert float(again.task.log_temperature.value) == float(model.task.log_temperature.value)
    assert again.evaluate(data, return_dict=True, verbose=0) == pytest.approx(after, rel=1e-5)


def test_the_catalogue_is_encoded_once_for_each_pass_of_keras() -> None:
    encoded = []

    def encode(ids: np.ndarray) -> np.ndarray:
        encoded.append(len(ids))
        return np.eye(ITEMS, dtype=np.float32)[ids]

    catalogue = tf.data.Dataset.range(ITEMS).batch(4).map(lambda it: (it, tf.numpy_function(encode, [it], tf.float32)))
    model = Plain(task=sf.RetrievalTask(metrics=sf.FactorizedTopK(catalogue, ks=(1,))))
    model.compile(optimizer="adam")
    model.evaluate(events(False), verbose=0)
    assert encoded == [4, 4]  # of two batches of events
    model.fit(events(False), epochs=2, shuffle=False, verbose=0)
    assert encoded == [4, 4] * 3
