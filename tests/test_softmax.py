"""The arithmetic of the sampled softmax, by hand: temperature, log-Q, accidental hits, unique columns, weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError
from schemaflow.logits import first_occurrences
from schemaflow.losses import categorical_crossentropy, weighted_mean
from schemaflow.sampling import Batch, sample

QUERIES = tf.constant([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
CANDIDATES = tf.constant([[1.0, 0.0], [0.5, 1.0], [0.0, -1.0]])


def softmax_loss(logits: np.ndarray) -> float:
    """The plain softmax, written another way: mean of log sum exp minus the diagonal."""
    return float(np.mean([np.log(np.exp(row).sum()) - row[index] for index, row in enumerate(logits)]))


def test_the_plain_loss_is_the_softmax_of_the_dot_products() -> None:
    scores = QUERIES.numpy() @ CANDIDATES.numpy().T
    assert float(sf.RetrievalTask()(QUERIES, CANDIDATES)) == pytest.approx(softmax_loss(scores), rel=1e-6)


def test_log_q_comes_after_the_temperature_and_reaches_the_positive() -> None:
    probability = tf.constant([0.5, 0.25, 0.125])
    loss = sf.RetrievalTask(temperature=0.5)(QUERIES, CANDIDATES, candidate_sampling_probability=probability)
    expected = QUERIES.numpy() @ CANDIDATES.numpy().T / 0.5 - np.log([0.5, 0.25, 0.125])
    assert float(loss) == pytest.approx(softmax_loss(expected), rel=1e-6)


def test_equal_probabilities_change_nothing() -> None:
    task = sf.RetrievalTask()
    corrected = task(QUERIES, CANDIDATES, candidate_sampling_probability=tf.fill([3], 0.1))
    assert float(corrected) == pytest.approx(float(task(QUERIES, CANDIDATES)), rel=1e-6)


def test_the_temperature_changes_the_gradient() -> None:
    gradients = []
    for temperature in (1.0, 0.5):
        queries = tf.Variable(QUERIES)
        with tf.GradientTape() as tape:
            loss = sf.RetrievalTask(temperature=temperature)(queries, CANDIDATES)
        gradients.append(tape.gradient(loss, queries).numpy())
    assert not np.allclose(gradients[0], gradients[1], rtol=0.1)
    with pytest.raises(ConfigError, match="expected a number above 0"):
        sf.RetrievalTask(temperature=0.0)


@pytest.mark.parametrize("ids", [[7, 7, 5], ["a", "a", "b"]])
def test_an_accidental_hit_can_no_longer_win(ids: list[object]) -> None:
    # rows 0 and 1 hold the same item; as columns they are each other's accidental hits
    loss = sf.RetrievalTask()(QUERIES, CANDIDATES, candidate_ids=tf.constant(ids))
    scores = QUERIES.numpy() @ CANDIDATES.numpy().T
    scores[0, 1] = scores[1, 0] = -np.inf
    assert float(loss) == pytest.approx(softmax_loss(scores), rel=1e-6)
    # however high a hit scores, it stays out
    high = tf.constant([[1.0, 0.0], [1e30, 1.0], [0.0, -1.0]])
    assert np.isfinite(float(sf.RetrievalTask()(QUERIES[:1], high[:2], candidate_ids=tf.constant([7, 7]))))


def test_a_batch_of_one_row_and_candidates_beyond_the_queries() -> None:
    task = sf.RetrievalTask()
    assert float(task(QUERIES[:1], CANDIDATES[:1], candidate_ids=tf.constant([3]))) == 0.0
    scores = QUERIES.numpy()[:2] @ CANDIDATES.numpy().T
    assert float(task(QUERIES[:2], CANDIDATES)) == pytest.approx(softmax_loss(scores), rel=1e-6)


def test_a_score_mask_drops_negatives_and_never_a_positive() -> None:
    none = sf.RetrievalTask()(QUERIES, CANDIDATES, score_mask=tf.zeros([3, 3], tf.bool))
    assert float(none) == 0.0
    last = sf.RetrievalTask()(QUERIES, CANDIDATES, score_mask=tf.constant([[True, True, False]]))
    scores = QUERIES.numpy() @ CANDIDATES.numpy().T
    scores[:2, 2] = -np.inf
    assert float(last) == pytest.approx(softmax_loss(scores), rel=1e-6)


def test_dropped_candidates_get_no_gradient_and_none_is_nan() -> None:
    candidates = tf.Variable(CANDIDATES)
    with tf.GradientTape() as tape:
        loss = sf.RetrievalTask()(QUERIES[:1], candidates, score_mask=tf.constant([[True, False, True]]))
    gradient = tape.gradient(loss, candidates).numpy()
    assert np.isfinite(gradient).all()
    assert gradient[1].tolist() == [0.0, 0.0]
    assert np.abs(gradient[2]).sum() > 0


def test_weights_are_a_weighted_mean() -> None:
    losses = tf.constant([1.0, 2.0, 6.0])
    assert float(weighted_mean(losses)) == 3.0
    assert float(weighted_mean(losses, tf.constant([1.0, 1.0, 0.0]))) == 1.5
    assert float(weighted_mean(losses, tf.zeros(3))) == 0.0
    task = sf.RetrievalTask()
    one = task(QUERIES[:1], CANDIDATES, sample_weight=None)
    weighted = task(QUERIES, CANDIDATES, sample_weight=tf.constant([2.0, 0.0, 0.0]))
    assert float(weighted) == pytest.approx(float(one), rel=1e-6)


def test_the_mean_does_not_depend_on_the_batch_size() -> None:
    # twice the same rows, the copies' columns dropped: the same loss, where a sum would double
    task = sf.RetrievalTask()
    twice = task(
        tf.repeat(QUERIES, 2, axis=0),
        tf.repeat(CANDIDATES, 2, axis=0),
        candidate_ids=tf.constant([1, 1, 2, 2, 3, 3]),
        score_mask=tf.constant([[True, False] * 3]),
    )
    assert float(twice) == pytest.approx(float(task(QUERIES, CANDIDATES)), rel=1e-6)


def test_first_occurrences() -> None:
    ids = tf.constant([4, 2, 4, 4, 2, 9])
    for jit in (False, True):
        found = tf.function(first_occurrences, jit_compile=jit)
        assert found(ids).numpy().tolist() == [0, 1, 0, 0, 1, 5]
        assert found(tf.constant([3])).numpy().tolist() == [0]
    assert first_occurrences(tf.constant([], tf.int64)).numpy().tolist() == []


def test_a_loss_of_half_precision_is_float32() -> None:
    vectors = tf.constant([[200.0], [250.0]], tf.float16)  # whose products are beyond what float16 holds
    loss = sf.RetrievalTask(temperature=0.5)(vectors, vectors, candidate_sampling_probability=tf.constant([0.5, 0.25]))
    assert loss.dtype == tf.float32
    logits = np.array([[40000.0, 50000.0], [50000.0, 62500.0]]) / 0.5 - np.log([0.5, 0.25])
    assert float(loss) == pytest.approx(np.mean(logits.max(axis=1) - np.diag(logits)), rel=1e-6)


def test_small_probabilities_survive_a_half_precision_policy() -> None:
    vectors, probability = tf.eye(2), tf.constant([1e-8, 0.01])
    half = sf.RetrievalTask(dtype="mixed_float16")(vectors, vectors, candidate_sampling_probability=probability)
    whole = sf.RetrievalTask()(vectors, vectors, candidate_sampling_probability=probability)
    assert float(half) == pytest.approx(float(whole), rel=1e-6)


def test_corrected_in_batch_gradient_agrees_with_the_full_softmax() -> None:
    """Averaged over many batches, the corrected gradient points where the full softmax's does; the plain one less so."""
    rng = np.random.default_rng(3)
    queries = (0.5 * rng.normal(size=(6, 4))).astype(np.float32)
    items = rng.normal(size=(40, 4)).astype(np.float32)
    share = 1.0 / np.arange(1, 41)
    share /= share.sum()
    samplers, task = [sf.InBatchSampler()], sf.RetrievalTask()

    def full(query: tf.Tensor, table: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(categorical_crossentropy(tf.matmul(query, table, transpose_b=True), item))

    def sampled(query: tf.Tensor, table: tf.Tensor, item: tf.Tensor, corrected: bool) -> tf.Tensor:
        ids = tf.cast(item, tf.int64)
        batch = Batch(tf.gather(table, item), ids, tf.shape(ids)[0])
        found = sample(samplers, batch, lambda of: tf.gather(tf.constant(share, tf.float32), of), corrected, True)
        return task.compare(query, batch.embeddings, found)

    @tf.function
    def gradients(user: tf.Tensor, item: tf.Tensor) -> list[tf.Tensor]:
        table, query = tf.constant(items), tf.gather(queries, user)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(table)
            losses = [full(query, table, item), sampled(query, table, item, True), sampled(query, table, item, False)]
        return [tf.convert_to_tensor(tape.gradient(loss, table)) for loss in losses]

    total = [np.zeros((40, 4)) for _ in range(3)]
    for _ in range(1500):
        user, item = rng.integers(6, size=64), rng.choice(40, p=share, size=64)
        found = gradients(tf.constant(user, tf.int32), tf.constant(item, tf.int32))
        total = [sums + gradient.numpy() for sums, gradient in zip(total, found, strict=True)]
    whole, corrected, plain = (it.ravel() / np.linalg.norm(it) for it in total)
    assert whole @ corrected > 0.99
    assert 1 - whole @ corrected < 0.2 * (1 - whole @ plain)


def test_l2_does_not_depend_on_the_batch_size(schema: sf.Schema) -> None:
    model = sf.TwoTowerModel(
        schema, keras.layers.Dense(2), embedding_options=sf.EmbeddingOptions(embeddings_l2_reg=0.5)
    )
    row = {
        "user_id": ["u00001"],
        "age": [30],
        "country": ["JP"],
        "item_id": ["i00001"],
        "genres": [["crime"]],
        "price": [3.0],
    }
    losses = []
    for copies in (1, 5):
        batch = next(
            iter(
                sf.read_parquet(
                    {name: values * copies for name, values in row.items()},
                    schema.excluding_by_tag("time"),
                    batch_size=5,
                )
            )
        )
        model(batch)
        losses.append(float(tf.add_n(model.losses)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    tables = {
        it.feature.name: it.table
        for it in [*model.query_tower.encoder.encoders.values(), *model.item_tower.encoder.encoders.values()]
        if hasattr(it, "table")
    }
    vocabulary = schema.vocabulary("item_id").to_pylist()
    own = float(np.square(tables["item_id"].embeddings.numpy()[vocabulary.index("i00001") + 3]).sum())
    assert losses[0] > 0.5 * own > 0
