"""Layers against numbers worked by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import ConfigError
from schemaflow.layers import embedding
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.layers.table import COMBINERS
from schemaflow.schema.options import COMBINERS as SCHEMA_COMBINERS
from schemaflow.towers import fresh_copy

ROWS = np.array([[9.0, 9.0], [1.0, -2.0], [3.0, 4.0], [5.0, 0.0]], np.float32)


def table(padding: bool = True) -> sf.EmbeddingTable:
    made = sf.EmbeddingTable(4, 2, padding=padding)
    made.embeddings.assign(ROWS)
    return made


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [
        ("mean", [[2.0, 1.0], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0]]),
        ("sum", [[4.0, 2.0], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0]]),
        ("sqrtn", [[4 / 2**0.5, 2 / 2**0.5], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0]]),
        ("max", [[3.0, 4.0], [0.0, 0.0], [5.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_combiners_leave_padding_out_and_give_zero_for_an_empty_list(
    combiner: str, expected: list[list[float]]
) -> None:
    lists = tf.ragged.constant([[1, 0, 2], [], [3], [0, 0]])
    dense = tf.constant([[1, 0, 2], [0, 0, 0], [3, 0, 0], [0, 0, 0]])
    for ids in (lists, dense):
        assert table()(ids, combiner=combiner).numpy() == pytest.approx(np.array(expected))


def test_row_zero_is_a_value_where_ids_are_rows() -> None:
    assert table(padding=False)(tf.ragged.constant([[0, 1]])).numpy().tolist() == [[5.0, 3.5]]


lists_of_ids = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=5)


@given(
    lists=lists_of_ids,
    combiner=st.sampled_from(COMBINERS),
    weighted=st.booleans(),
    padding=st.booleans(),
    jit=st.booleans(),
)
def test_lists_and_their_gradients_are_as_by_hand(
    lists: list[list[int]], combiner: str, weighted: bool, padding: bool, jit: bool
) -> None:
    weighted = weighted and combiner != "max"
    ids = tf.ragged.constant(lists, ragged_rank=1, dtype=tf.int32)
    shares = [[0.5 * (1 + (place + row) % 3) for place, row in enumerate(it)] for it in lists]
    weights = tf.ragged.constant(shares, ragged_rank=1, dtype=tf.float32) if weighted else None
    upstream = np.arange(1.0, 2 * len(lists) + 1, dtype=np.float32).reshape(-1, 2)
    made = table(padding)
    with tf.GradientTape() as tape:
        vectors = made(ids, combiner=combiner, weights=weights, jit=jit)
        loss = tf.reduce_sum(vectors * upstream)
    gradient = tape.gradient(loss, made.embeddings.value)
    assert isinstance(gradient, tf.IndexedSlices)
    expected, slope = np.zeros((len(lists), 2)), np.zeros((4, 2))
    for place, (row, share) in enumerate(zip(lists, shares, strict=True)):
        kept = [(i, w if weighted else 1.0) for i, w in zip(row, share, strict=True) if i or not padding]
        if not kept:
            continue
        if combiner == "max":
            stack = np.stack([ROWS[i] for i, _ in kept])
            expected[place] = stack.max(axis=0)
            for column in range(2):  # those that tie share alike
                ties = [i for i, _ in kept if ROWS[i, column] == stack[:, column].max()]
                for i in ties:
                    slope[i, column] += upstream[place, column] / len(ties)
            continue
        w = np.array([it for _, it in kept])
        norm = {"sum": 1.0, "mean": w.sum(), "sqrtn": np.sqrt((w**2).sum())}[combiner]
        for i, it in kept:
            expected[place] += it * ROWS[i] / norm
            slope[i] += it * upstream[place] / norm
    assert vectors.numpy() == pytest.approx(expected, rel=1e-6)
    assert tf.convert_to_tensor(gradient).numpy() == pytest.approx(slope, rel=1e-6)


def test_a_large_table_begins_in_chunks_as_it_would_at_once() -> None:
    """70 thousand rows of 64 are two chunks."""
    made = [sf.EmbeddingTable(70_000, 64, keras.initializers.TruncatedNormal(stddev=0.05, seed=7)) for _ in range(2)]
    first, second = (it.embeddings.numpy() for it in made)
    assert np.array_equal(first, second)
    assert first.std() == pytest.approx(np.std(keras.initializers.TruncatedNormal(stddev=0.05)((9999, 64))), rel=0.01)
    assert abs(first.mean()) < 1e-4
    assert len(np.unique(first[:, :4], axis=0)) == 70_000  # no chunk is the twin of another
    small = sf.EmbeddingTable(9, 4, keras.initializers.TruncatedNormal(stddev=0.05, seed=7)).embeddings.numpy()
    assert np.array_equal(small, keras.initializers.TruncatedNormal(stddev=0.05, seed=7)((9, 4)).numpy())
    whole = keras.initializers.GlorotUniform(seed=7)  # as wide as the table has rows
    assert np.array_equal(sf.EmbeddingTable(70_000, 64, whole).embeddings.numpy(), whole((70_000, 64)).numpy())
    assert (sf.EmbeddingTable(70_000, 64, "ones").embeddings.numpy() == 1.0).all()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_large_table_begins_in_its_own_precision(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CHUNK", 8)
    table = sf.EmbeddingTable(10, 2, dtype=dtype).embeddings
    assert table.dtype == dtype
    assert np.abs(table.numpy()).min() > 0


def test_a_large_table_may_begin_as_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CHUNK", 8)
    start = np.arange(20.0).reshape(10, 2)
    table = sf.EmbeddingTable(10, 2, initializer=keras.initializers.Constant(start))
    assert np.array_equal(table.embeddings.numpy(), start)


def test_the_padding_row_gets_no_gradient() -> None:
    made = table()
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(made(tf.constant([[1, 0]]), combiner="mean"))
    gradient = tf.convert_to_tensor(tape.gradient(loss, made.trainable_weights[0].value)).numpy()
    assert gradient.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]


def test_single_ids_and_mistakes() -> None:
    assert table()(tf.constant([2, 0])).numpy().tolist() == [[3.0, 4.0], [9.0, 9.0]]
    with pytest.raises(ConfigError, match='unknown combiner "men"; did you mean "mean"'):
        table()(tf.constant([[1]]), combiner="men")
    with pytest.raises(ConfigError, match="expected at least 1 x 1"):
        sf.EmbeddingTable(0, 2)
    assert set(COMBINERS) == set(SCHEMA_COMBINERS)


def test_no_two_tables_start_with_equal_rows() -> None:
    seeded = keras.initializers.RandomUniform(seed=3)
    alike = [fresh_initializer(seeded, place)((4, 2)).numpy() for place in range(2)]
    assert not np.isclose(alike[0], alike[1]).any()
    first, second = sf.EmbeddingTable(4, 2), sf.EmbeddingTable(6, 2)
    assert not np.isclose(first.embeddings.numpy(), second.embeddings.numpy()[:4]).any()


def test_l2_norm() -> None:
    out = sf.L2Norm()(tf.constant([[3.0, 4.0], [0.0, 0.0]])).numpy()
    assert out == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))
    half = sf.L2Norm(dtype="float16")(tf.constant([[300.0, 400.0]], tf.float16))  # squares are beyond float16
    assert half.numpy() == pytest.approx(np.array([[0.6, 0.8]]), abs=1e-3)


def test_the_last_layer_is_linear_and_the_others_are_not() -> None:
    block = sf.MLPBlock([2, 1], kernel_initializer="ones")
    assert block(tf.constant([[-3.0, 1.0], [3.0, 1.0]])).numpy().tolist() == [[0.0], [8.0]]
    linear = sf.MLPBlock([1], kernel_initializer="ones")
    assert linear(tf.constant([[-3.0, 1.0]])).numpy().tolist() == [[-2.0]]
    assert sf.MLPBlock([1], kernel_initializer="ones", final_activation="relu")(
        tf.constant([[-3.0]])
    ).numpy().tolist() == [[0.0]]
    by_layer = sf.MLPBlock([1, 1], activation=["linear", "relu"], kernel_initializer="ones")
    assert by_layer(tf.constant([[-3.0], [2.0]])).numpy().tolist() == [[0.0], [2.0]]


def test_no_layers_leave_the_input_alone() -> None:
    assert sf.MLPBlock([])(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[1.0, 2.0]]


def test_residual_adds_the_input_through_a_map_where_widths_differ() -> None:
    same = sf.MLPBlock([2, 1], residual=True, kernel_initializer="ones", use_bias=False)
    # hidden: relu([3, 3]) + [1, 2] = [4, 5]; out: 9
    assert same(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[9.0]]
    mapped = sf.MLPBlock([1, 1], residual=True, kernel_initializer="ones", use_bias=False)
    # hidden: relu(3) + (1 + 2) = 6
    assert mapped(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[6.0]]


def test_each_layer_gets_a_normalization_of_its_own() -> None:
    block = sf.MLPBlock([3, 3, 2], normalization=keras.layers.LayerNormalization())
    block.build((None, 4))
    layers = [step.normalization for step in block.steps]
    assert layers[2] is None
    assert layers[0] is not layers[1]
    assert layers[0].weights[0] is not layers[1].weights[0]


def test_dropout_is_for_training() -> None:
    block = sf.MLPBlock([64, 1], dropout=0.5, kernel_initializer="ones")
    inputs = tf.ones((16, 4))
    assert set(block(inputs, training=False).numpy().ravel().tolist()) == {256.0}
    assert len(set(block(inputs, training=True).numpy().ravel().tolist())) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dimensions": [8, 0]}, "expected a list of widths"),
        ({"dimensions": [8], "dropout": 1.0}, "expected 0 <= dropout < 1"),
        ({"dimensions": [8, 8], "activation": ["relu"]}, "2 layers but 1 activations"),
        ({"dimensions": [8], "activation": ["relu"], "final_activation": "relu"}, "give one of them"),
        ({"dimensions": [8, 8], "normalization": "batchnorm"}, "unknown normalization .batchnorm."),
    ],
)
def test_blocks_that_cannot_be(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.MLPBlock(**arguments)  # type: ignore[arg-type]


def test_a_fresh_copy_has_the_same_shape_and_other_weights() -> None:
    for initializer in ("glorot_uniform", keras.initializers.GlorotUniform(seed=4)):
        block = sf.MLPBlock(
            [8, 8], residual=True, dropout=0.1, normalization="batch_norm", kernel_initializer=initializer
        )
        copied = fresh_copy(block)
        block.build((None, 8))
        copied.build((None, 8))
        assert [weight.shape for weight in copied.weights] == [weight.shape for weight in block.weights]
        kernels = [
            (a.numpy(), b.numpy()) for a, b in zip(block.weights, copied.weights, strict=True) if "kernel" in a.path
        ]
        assert len(kernels) == 2
        assert not any(np.isclose(a, b).all() for a, b in kernels)
        assert not np.isclose(kernels[0][0], kernels[1][0]).all()
