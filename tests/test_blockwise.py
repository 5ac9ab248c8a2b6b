"""The loss by blocks against the whole matrix: the same numbers and gradients, for every loss, mask and size of block."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import logits, losses, registry
from schemaflow.errors import ConfigError
from schemaflow.sampling import Batch, sample

DIM = 3
LOSSES = [*registry.names("loss"), losses.CategoricalCrossentropy(0.2)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two or three rows, the last one filled up."""
    monkeypatch.setattr(logits, "BLOCK_ROWS", 3)


def random(seed: int, *shapes: tuple[int, ...]) -> list[tf.Tensor]:
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]


def whole(
    loss: Any,
    query: tf.Tensor,
    candidate: tf.Tensor,
    weight: tf.Tensor,
    temperature: tf.Tensor,
    log_q: tf.Tensor,
    dropped: Any,
    hard: int | None,
) -> tf.Tensor:
    """The loss from the matrix of all logits, by TensorFlow's own derivatives."""
    rows = query.shape[0]
    scores = tf.matmul(query, candidate, transpose_b=True) / temperature - log_q
    scores = tf.where(tf.constant(dropped), float("-inf"), scores)
    positives = tf.range(rows)
    if hard:
        own = tf.linalg.diag_part(scores[:, :rows])[:, tf.newaxis]
        others = tf.where(tf.eye(rows, scores.shape[1], dtype=tf.bool), float("-inf"), scores)
        scores = tf.concat([own, tf.math.top_k(others, min(hard, scores.shape[1] - 1)).values], axis=1)
        positives = tf.zeros_like(positives)
    return tf.reduce_sum(losses.as_loss(loss)(scores, positives) * weight) / tf.reduce_sum(weight)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("hard", [None, 2, 99])
@pytest.mark.parametrize("loss", LOSSES, ids=[*registry.names("loss"), "smoothed"])
def test_values_and_gradients_are_those_of_the_whole_matrix(loss: Any, hard: int | None) -> None:
    rows, columns, rng = 7, 9, np.random.default_rng(4)
    query, candidate = random(1, (rows, DIM), (columns, DIM))
    ids = np.array([1, 2, 1, 3, 4, 5, 2, 1, 6])
    mask = rng.random(size=(rows, columns)) < 0.8
    itself = np.eye(rows, columns, dtype=bool)
    dropped = ((ids[:rows, None] == ids) | ~mask) & ~itself
    log_q = np.log(rng.uniform(0.1, 1.0, size=columns)).astype(np.float32)
    weight = tf.constant(rng.uniform(0.5, 2.0, size=rows), tf.float32)
    task = sf.RetrievalTask(
        loss=loss, temperature="learned", initial_temperature=0.5, num_hard_negatives=hard, dtype="float32"
    )
    probability = tf.constant(np.exp(log_q))
    with tf.GradientTape(persistent=True) as tape:
        watched = [query, candidate, weight, probability]
        tape.watch(watched)
        found = task(
            query,
            candidate,
            sample_weight=weight,
            candidate_sampling_probability=probability,
            candidate_ids=tf.constant(ids),
            score_mask=tf.constant(mask),
        )
        temperature = tf.exp(tf.convert_to_tensor(task.log_temperature))
        expected = whole(loss, query, candidate, weight, temperature, tf.math.log(probability), dropped, hard)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    for of in [*watched, task.log_temperature.value]:
        one, other = tape.gradient(found, of).numpy(), tape.gradient(expected, of).numpy()
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
        assert np.abs(other).max() > 1e-4


@settings(max_examples=20)
@given(
    rows=st.integers(1, 9),
    items=st.integers(1, 9),
    block=st.integers(1, 10),
    known=st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=9, max_size=9),
    corrected=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_each_item_is_one_column(
    rows: int, items: int, block: int, known: list[list[int]], corrected: bool, seed: int
) -> None:
    """Each row against its own vector and the distinct other items, by NumPy; with and without duplicates left out."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, items, size=rows)
    query, candidate = (it.numpy() for it in random(seed, (rows, DIM), (rows, DIM)))
    share = rng.uniform(0.01, 0.5, size=10).astype(np.float32)
    first = [ids.tolist().index(it) for it in ids.tolist()]
    expected = []
    for row in range(rows):
        logits_of = {}
        for column in sorted(set(first)):
            item = ids[column]
            if item != ids[row] and item not in known[row]:
                logits_of[item] = query[row] @ candidate[column]
        logits_of[ids[row]] = query[row] @ candidate[row]
        if corrected:
            logits_of = {it: score - np.log(1 - (1 - share[it]) ** rows) for it, score in logits_of.items()}
        expected.append(np.log(np.exp(list(logits_of.values())).sum()) - logits_of[ids[row]])
    batch = Batch(tf.constant(candidate), tf.constant(ids), tf.constant(rows))
    found = sample([sf.InBatchSampler()], batch, lambda of: tf.gather(tf.constant(share), of), corrected, False)
    lists = tf.ragged.constant(known[:rows], dtype=tf.int64, ragged_rank=1)
    before, logits.BLOCK_ROWS = logits.BLOCK_ROWS, block
    try:
        for candidates in (found, found.compacted()):
            loss = sf.RetrievalTask().compare(tf.constant(query), batch.embeddings, candidates, known=lists)
            assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4, abs=1e-5)
    finally:
        logits.BLOCK_ROWS = before
    assert found.compacted().embeddings.shape[0] == len(set(first))


@pytest.mark.usefixtures("small_blocks")
def test_a_graph_of_any_size_and_a_compiled_one_agree() -> None:
    cache = sf.CachedCrossBatchSampler(5)  # not full, and of items that are in the batch too
    cache.build((None, DIM))
    cache.remember(Batch(random(3, (4, DIM))[0], tf.constant([1, 8, 9, 8], tf.int64), tf.constant(4)))
    task, samplers = sf.RetrievalTask(), [sf.InBatchSampler(), cache]

    def step(query: tf.Tensor, candidate: tf.Tensor, ids: tf.Tensor, compact: bool) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            batch = Batch(candidate, ids, tf.size(ids))
            found = sample(samplers, batch, lambda of: tf.fill([tf.size(of)], 0.05), True, False)
            loss = task.compare(query, candidate, found.compacted() if compact else found)
        return [loss, *tape.gradient(loss, [query, candidate])]

    ids = tf.constant([5, 1, 5, 0, 1, 7, 3], tf.int64)
    query, candidate = random(2, (7, DIM), (7, DIM))
    signature = [tf.TensorSpec([None, DIM]), tf.TensorSpec([None, DIM]), tf.TensorSpec([None], tf.int64)]
    graph = tf.function(lambda *it: step(*it, True), input_signature=signature)
    compiled = tf.function(lambda *it: step(*it, False), jit_compile=True)
    for rows in (7, 1, 4):
        part = (query[:rows], candidate[:rows], ids[:rows])
        eager = step(*part, True)
        for other in (graph(*part), compiled(*part)):
            for one, two in zip(eager, other, strict=True):
                assert one.numpy() == pytest.approx(two.numpy(), rel=1e-5, abs=1e-6)


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    query = tf.constant([[1.0], [-1.0]])
    candidate = tf.constant([[300.0], [-500.0]])  # scores of 300 and -500, and of 500 for the second's positive
    with tf.GradientTape() as tape:
        tape.watch(candidate)
        loss = sf.RetrievalTask()(query, candidate)
    assert float(loss) == 0.0
    assert tape.gradient(loss, candidate).numpy().tolist() == [[0.0], [0.0]]
    swapped = sf.RetrievalTask()(query, candidate[::-1])  # each 800 behind the other
    assert float(swapped) == pytest.approx(800.0)


def test_no_matrix_of_the_batch_is_made() -> None:
    """In the graph of a step with static shapes, the largest tensor is a block: [512, 2048] of [2048, 2048]."""
    query = tf.TensorSpec([2048, DIM])

    @tf.function(input_signature=[query, query, tf.TensorSpec([2048], tf.int64)])
    def step(query: tf.Tensor, candidate: tf.Tensor, ids: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            found = sample([sf.InBatchSampler()], Batch(candidate, ids, tf.size(ids)), None, False, False)
            loss = sf.RetrievalTask().compare(query, candidate, found)
        return tape.gradient(loss, [query, candidate])

    graph = step.get_concrete_function().graph
    outside = [it for op in graph.get_operations() for it in op.outputs if it.shape.rank is not None]
    assert max(int(np.prod([width or 1 for width in it.shape])) for it in outside) <= 2048 * (DIM + 1)


@pytest.mark.parametrize("hard", [None, 2])
def test_a_batch_without_rows_has_no_loss(hard: int | None) -> None:
    """A device may get none of a short last batch."""
    task = sf.RetrievalTask(num_hard_negatives=hard)

    @tf.function(input_signature=[tf.TensorSpec([None, DIM])] * 2)
    def step(query: tf.Tensor, candidate: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            loss = task(query, candidate)
        return loss, tape.gradient(loss, [query, candidate])

    loss, gradients = step(*random(0, (0, DIM), (0, DIM)))
    assert float(loss) == 0.0
    assert [it.shape for it in gradients] == [(0, DIM), (0, DIM)]


@pytest.mark.parametrize("loss", ["categorical_crossentropy", "bpr"])
def test_the_hardest_of_no_negatives_are_none(loss: str) -> None:
    """The first batch against a cache that is empty yet."""
    cache = sf.CachedCrossBatchSampler(5)
    cache.build((None, DIM))
    task, (query, candidate) = sf.RetrievalTask(loss=loss, num_hard_negatives=2), random(0, (4, DIM), (4, DIM))

    @tf.function
    def step(query: tf.Tensor, candidate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(query)
            found = sample([cache], Batch(candidate, tf.range(4, dtype=tf.int64), tf.constant(4)), None, False, False)
            loss = task.compare(query, candidate, found.compacted())
        return loss, tape.gradient(loss, query)

    found, gradient = step(query, candidate)
    assert float(found) == 0.0
    assert np.array_equal(gradient, np.zeros((4, DIM)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rows", [1, 7])
def test_a_mask_whose_rows_only_running_tells(rows: int) -> None:
    task, (query, candidate) = sf.RetrievalTask(), random(0, (7, DIM), (9, DIM))
    mask = tf.constant(np.random.default_rng(0).random(size=(rows, 9)) < 0.7)
    signature = [tf.TensorSpec([None, DIM]), tf.TensorSpec([None, DIM]), tf.TensorSpec([None, None], tf.bool)]
    graph = tf.function(lambda q, c, m: task(q, c, score_mask=m), input_signature=signature)
    expected = task(query, candidate, score_mask=tf.repeat(mask, 7 // rows, axis=0))
    assert float(graph(query, candidate, mask)) == pytest.approx(float(expected))


@pytest.mark.parametrize("shape", [(10, 9), (3, 9), (7, 8), (7,), ()])
def test_a_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    query, candidate = random(0, (7, DIM), (9, DIM))
    with pytest.raises(ConfigError, match=r"score_mask has the shape .* expected \[9\] or"):
        sf.RetrievalTask()(query, candidate, score_mask=tf.ones(shape, tf.bool))
    with pytest.raises(ConfigError, match="score_mask is float32"):
        sf.RetrievalTask()(query, candidate, score_mask=tf.ones((7, 9)))


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"candidate_embeddings has the shape \(7, 4\); expected \[7, 3\]"):
        sf.RetrievalTask()(*random(0, (7, 3), (7, 4)))
    with pytest.raises(ConfigError, match=r"candidate_embeddings has the shape \(7, 3, 2\)"):
        sf.RetrievalTask()(*random(0, (7, 3, 2), (7, 3, 2)))


@pytest.mark.parametrize("axis", [0, None])
def test_a_loss_of_another_shape_is_refused(axis: int | None) -> None:
    task, (query, candidate) = sf.RetrievalTask(loss=lambda it, _: tf.reduce_mean(it, axis)), random(0, (3, 2), (5, 2))
    with pytest.raises(ConfigError, match=r"the loss gives the shape .* expected \[b\]"):
        task(query, candidate)
    signature = [tf.TensorSpec([None, 2])] * 2
    if axis == 0:  # [5], which nothing but running tells from [3]
        with pytest.raises(tf.errors.InvalidArgumentError, match="the loss gives the shape"):
            tf.function(task, input_signature=signature)(query, candidate)


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64])
def test_a_loss_may_compute_in_its_own_precision(dtype: tf.DType) -> None:
    pair = random(0, (7, DIM), (9, DIM))
    found = sf.RetrievalTask(loss=lambda it, at: tf.cast(losses.hinge(it, at), dtype))(*pair)
    assert float(found) == pytest.approx(float(sf.RetrievalTask(loss="hinge")(*pair)), rel=1e-3)


def test_a_loss_that_would_train_nothing_is_refused() -> None:
    pair, scale = random(0, (7, DIM), (9, DIM)), tf.Variable(2.0, name="scale")
    with pytest.raises(ConfigError, match='the loss has the trainable weight "scale:0"'):
        sf.RetrievalTask(loss=lambda it, at: scale * losses.hinge(it, at))(*pair)
    with pytest.raises(ConfigError, match="the loss has no gradient by the logits"):
        sf.RetrievalTask(loss=lambda it, _: it.numpy().mean(axis=1))(*pair)
