"""Optimizers of rows: against NumPy, against Keras's dense ones, and what a step may read of a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import ConfigError
from schemaflow.optimizers import Adagrad, Adam, LossScaleOptimizer, optimizer_of

Array = np.ndarray
Step = tuple[list[int], Array]
ROWS, DIM = 6, 3

SCHEMA = sf.Schema((
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=1009),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=503),
    sf.Feature(name="seen", dtype="int64", tags=("user", "sequence"), cardinality=307, list={}),
))  # fmt: skip
EVENTS = {
    "user": np.random.default_rng(0).integers(0, 1009, 64),
    "item": np.random.default_rng(1).integers(0, 503, 64),
    "seen": [[n % 307, (7 * n) % 307][: n % 3] for n in range(64)],  # in the first 16, row 14 stands twice
}


def table(values: Any = None, name: str = "embeddings") -> keras.Variable:
    start = np.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM) if values is None else values
    return keras.Variable(start, dtype="float32", name=name)


def slices(ids: Any, values: Any) -> tf.IndexedSlices:
    values = tf.convert_to_tensor(values, tf.float32)
    return tf.IndexedSlices(values, tf.convert_to_tensor(ids), tf.constant([ROWS, DIM]))


def model_of(optimizer: Any, **options: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(3)
    dtype = options.pop("dtype", None)
    model = sf.TwoTowerModel(
        SCHEMA, sf.MLPBlock([4]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=4), dtype=dtype
    )
    model.compile(optimizer=optimizer, **options)
    return model


def summed(step: Step) -> dict[int, Array]:
    """The gradient of each row of a batch, in float64."""
    found: dict[int, Array] = {}
    for row, value in zip(*step, strict=True):
        found[row] = found.get(row, 0.0) + value.astype(np.float64)
    return found


def lazy_adam(weights: Array, steps: list[Step]) -> Array:
    weights, m, v = weights.astype(np.float64), np.zeros(weights.shape), np.zeros(weights.shape)
    for t, step in enumerate(steps, 1):
        for row, g in summed(step).items():
            m[row] = 0.9 * m[row] + 0.1 * g
            v[row] = 0.999 * v[row] + 0.001 * g**2
            rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            weights[row] -= rate * m[row] / (np.sqrt(v[row]) + 1e-7)
    return weights


def adagrad(weights: Array, steps: list[Step]) -> Array:
    weights, a = weights.astype(np.float64), np.full(weights.shape, 1e-4)
    for step in steps:
        for row, g in summed(step).items():
            a[row] += g**2
            weights[row] -= 0.05 * g / np.sqrt(a[row] + 1e-8)
    return weights


def row_wise(weights: Array, steps: list[Step]) -> Array:
    weights, a = weights.astype(np.float64), np.full(len(weights), 1e-4)
    for step in steps:
        for row, g in summed(step).items():
            a[row] += (g**2).mean()
            weights[row] -= 0.05 * g / np.sqrt(a[row] + 1e-8)
    return weights


ORACLES: dict[str, tuple[Callable[[], Any], Callable[[Array, list[Step]], Array]]] = {
    "adam": (lambda: Adam(0.01), lazy_adam),
    "adagrad": (lambda: Adagrad(0.05, 1e-4, 1e-8), adagrad),
    "row-wise": (lambda: Adagrad(0.05, 1e-4, 1e-8, row_wise=True), row_wise),
}

batches = st.lists(
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(-8, 8)), min_size=1, max_size=7), min_size=1, max_size=5
)


@pytest.mark.parametrize("name", ORACLES)
@given(drawn=batches)
def test_rows_of_a_batch_change_as_by_hand_and_no_others(name: str, drawn: list[list[tuple[int, int]]]) -> None:
    make, oracle = ORACLES[name]
    steps = [
        ([row for row, _ in batch], np.array([[n / 4, -n / 8, (n + 1) / 16] for _, n in batch], np.float32))
        for batch in drawn
    ]
    weights, optimizer = table(), make()
    start = weights.numpy()
    optimizer.build([weights])
    for ids, values in steps:
        optimizer.apply([slices(ids, values)])
    assert weights.numpy() == pytest.approx(oracle(start, steps), abs=1e-6)
    unseen = [row for row in range(ROWS) if not any(row in ids for ids, _ in steps)]
    assert np.array_equal(weights.numpy()[unseen], start[unseen])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: Adam(0.05, 0.8, 0.99, 1e-3), lambda: keras.optimizers.Adam(0.05, 0.8, 0.99, 1e-3)),
        (lambda: Adagrad(0.05, 0.2, 1e-3), lambda: keras.optimizers.Adagrad(0.05, 0.2, 1e-3)),
        (lambda: Adagrad(0.05, 0.2, 1e-3, row_wise=True), lambda: keras.optimizers.Adagrad(0.05, 0.2, 1e-3)),
        (lambda: Adam(0.05, clipnorm=0.5), lambda: keras.optimizers.Adam(0.05, clipnorm=0.5)),
    ],
)
def test_weights_that_are_no_tables_are_trained_as_keras_does(ours: Any, theirs: Any) -> None:
    kernels = []
    for optimizer in (ours(), theirs()):
        pair = [table(name="kernel"), keras.Variable(0.5)]
        optimizer.build(pair)
        rng = np.random.default_rng(0)
        for _ in range(5):
            optimizer.apply([tf.constant(rng.normal(size=it.shape), tf.float32) for it in pair])
        kernels.append(np.append(pair[0].numpy().ravel(), pair[1].numpy()))
        assert len(optimizer.variables) == len({id(it) for it in optimizer.variables})
    assert kernels[0] == pytest.approx(kernels[1], abs=1e-6)


def test_where_every_row_is_seen_lazy_is_dense() -> None:
    rows = []
    for optimizer in (Adam(0.05), keras.optimizers.Adam(0.05)):
        weights = table()
        optimizer.build([weights])
        for step in range(4):
            optimizer.apply([slices(list(range(ROWS)), np.cos(step + np.arange(ROWS * DIM)).reshape(ROWS, DIM))])
        rows.append(weights.numpy())
    assert rows[0] == pytest.approx(rows[1], abs=1e-6)


def test_a_row_waits_while_it_is_not_seen_where_dense_adam_moves_on() -> None:
    """Gradient 1 at steps 1 and 3 for row 1, which step 2 does not see."""
    moved = {}
    for name, optimizer in {"lazy": Adam(0.1), "dense": keras.optimizers.Adam(0.1)}.items():
        weights = table(np.zeros((2, 1)))
        optimizer.build([weights])
        path = []
        for ids in ([0, 1], [0], [0, 1]):
            gradient = tf.IndexedSlices(tf.ones((len(ids), 1)), tf.constant(ids), tf.constant([2, 1]))
            optimizer.apply([gradient if name == "lazy" else tf.convert_to_tensor(gradient)])
            path.append(float(weights.numpy()[1, 0]))
        moved[name] = -np.diff([0.0, *path])
    # m / (1 - b1^t) and v / (1 - b2^t): step 1 both 1
    # lazy: step 3 from m 0.1, v 0.001: m 0.19 / 0.271, v 0.001999 / 0.002997001
    assert moved["lazy"] == pytest.approx([0.1, 0.0, 0.1 * (0.19 / 0.271) / (0.001999 / 0.002997001) ** 0.5], abs=1e-5)
    # dense: step 2 m 0.09 / 0.19, v 0.000999 / 0.001999; step 3 m 0.181 / 0.271, v 0.001998001 / 0.002997001
    second = 0.1 * (0.09 / 0.19) / (0.000999 / 0.001999) ** 0.5
    third = 0.1 * (0.181 / 0.271) / (0.001998001 / 0.002997001) ** 0.5
    assert moved["dense"] == pytest.approx([0.1, second, third], abs=1e-5)


def test_what_is_clipped_is_the_whole_gradient_of_a_row() -> None:
    """(3, 0) and (0, 4) of one row are (3, 4), of norm 5; each by itself would be clipped to another direction."""
    for option, expected in (({"clipnorm": 1.0}, [0.36, 0.64]), ({"clipvalue": 3.5}, [9.0, 12.25])):
        weights, optimizer = table(np.zeros((4, 2))), Adagrad(0.1, 0.0, **option)
        optimizer.build([weights])
        gradient = tf.IndexedSlices(tf.constant([[3.0, 0.0], [0.0, 4.0]]), tf.constant([2, 2]), tf.constant([4, 2]))
        optimizer.apply([gradient])
        accumulator = next(it for it in optimizer.variables if it.name == "embeddings_accumulator").numpy()
        assert accumulator == pytest.approx(np.array([[0, 0], [0, 0], expected, [0, 0]]))


def test_a_gradient_of_zero_moves_nothing_at_the_defaults() -> None:
    for optimizer in (Adam(), Adagrad(), Adagrad(row_wise=True), Adagrad(initial_accumulator_value=0.0)):
        weights = table()
        start = weights.numpy()
        optimizer.build([weights])
        optimizer.apply([slices([1, 1], np.zeros((2, DIM)))])
        assert np.array_equal(weights.numpy(), start)


def test_gradients_of_a_mean_over_thousands_of_rows_do_not_drown() -> None:
    """1e-5, as at a batch of 8192: Keras's accumulator of 0.1 would make it a step of 3e-6."""
    weights, optimizer = table(np.zeros((2, 1))), Adagrad(0.1)
    optimizer.build([weights])
    optimizer.apply([tf.IndexedSlices(tf.constant([[1e-5]]), tf.constant([0]))])
    assert weights.numpy()[0, 0] == pytest.approx(-0.1 / 2**0.5)  # 1e-10 of the gradient beside 1e-10 at the start


@pytest.mark.parametrize("kind", [Adam, Adagrad])
@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ({"weight_decay": 0.01}, "would decay every row .*embeddings_l2_reg"),
        ({"use_ema": True}, "would average every row"),
        ({"gradient_accumulation_steps": 2}, "use a larger batch"),
        ({"global_clipnorm": 1.0}, "use clipnorm"),
        ({"loss_scale_factor": 8.0}, "wrap the optimizer in LossScaleOptimizer"),
        ({"amsgrad": True}, "keras.optimizers.Adam"),
    ],
)
def test_what_would_read_whole_tables_is_refused(kind: Any, argument: dict[str, Any], reason: str) -> None:
    if kind is Adagrad and "amsgrad" in argument:
        reason = "keras.optimizers.Adagrad"
    with pytest.raises(ConfigError, match=reason):
        kind(**argument)


def test_names_mean_ours_and_objects_are_left_alone() -> None:
    assert type(model_of("adam").optimizer) is Adam
    assert type(model_of("Adagrad").optimizer) is Adagrad
    assert type(model_of("adamw").optimizer) is keras.optimizers.AdamW
    for given_ in (keras.optimizers.Adam(0.1), Adagrad(0.1)):
        assert model_of(given_).optimizer is given_
    assert float(optimizer_of("adam", learning_rate=0.25).learning_rate) == 0.25
    with pytest.raises(ConfigError, match='unknown optimizer "adamm"'):
        model_of("adamm")


def read_whole(model: sf.TwoTowerModel) -> set[str]:
    """The operations of a training step that give something as large as a table: what has 1009, 503 or 307 rows."""
    data = next(iter(model._inputs.dataset(EVENTS, 16, None)))
    graph = tf.function(model.train_step).get_concrete_function(data).graph.as_graph_def(add_shapes=True)
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return {
        node.op
        for node in nodes
        for shape in node.attr["_output_shapes"].list.shape
        if any(axis.size in (1009, 503, 307) for axis in shape.dim)
    }


@pytest.mark.parametrize("dtype", [None, "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "optimizer", ["adam", "adagrad", Adagrad(0.1, row_wise=True), Adam(0.1, clipnorm=1.0), Adam(0.1, clipvalue=1.0)]
)
def test_a_step_makes_nothing_of_a_table_s_size(optimizer: Any, dtype: str | None) -> None:
    made = optimizer if isinstance(optimizer, str) else type(optimizer).from_config(optimizer.get_config())
    model = model_of(made, dtype=dtype)
    model.optimizer.build(model.trainable_variables)
    assert read_whole(model) == set()


def test_what_it_is_that_keras_reads_whole() -> None:
    model = model_of(keras.optimizers.Adam(0.1))
    model.optimizer.build(model.trainable_variables)
    assert {"ReadVariableOp", "Mul"} <= read_whole(model)


def test_an_overflow_in_a_row_skips_the_step_and_halves_the_scale() -> None:
    weights, optimizer = table(), LossScaleOptimizer(Adam(0.1), initial_scale=8.0)
    start = weights.numpy()
    optimizer.build([weights])
    optimizer.apply([slices([1, 4], [[1.0, np.inf, 0.0], [1.0, 1.0, 1.0]])])
    assert np.array_equal(weights.numpy(), start)
    assert float(optimizer.dynamic_scale) == 4.0
    optimizer.apply([slices([1, 4], np.ones((2, DIM)))])
    assert (weights.numpy() == start).all(axis=1).tolist() == [True, False, True, True, False, True]
    again = type(optimizer).from_config(optimizer.get_config())
    assert type(again.inner_optimizer) is Adam


@pytest.mark.parametrize("dtype", [None, "mixed_float16"])
@pytest.mark.parametrize("make", [lambda: Adam(0.05), lambda: Adagrad(0.05, row_wise=True)])
def test_training_goes_on_from_a_file_as_if_nothing_had_been(make: Any, dtype: str | None, tmp_path: Path) -> None:
    model = model_of(make(), dtype=dtype)
    model.fit(EVENTS, batch_size=16, verbose=0)
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for it in (model, again):
        keras.utils.set_random_seed(5)
        it.fit(EVENTS, batch_size=16, epochs=2, verbose=0)
    first, second = ([*it.variables, *it.optimizer.variables] for it in (model, again))
    for left, right in zip(first, second, strict=True):
        assert np.array_equal(left.numpy(), right.numpy()), left.path


@pytest.mark.parametrize("option", [{}, {"clipnorm": 2.0}])
@pytest.mark.parametrize("make", [Adam, Adagrad, lambda **it: Adagrad(row_wise=True, **it)])
def test_compiled_by_xla_a_row_that_stands_twice_is_summed_once(make: Any, option: dict[str, float]) -> None:
    changed = []
    for jit in (False, True):
        weights, optimizer = table(), make(**option)
        optimizer.build([weights])
        step = tf.function(lambda ids, values, it=optimizer: it.apply([slices(ids, values)]), jit_compile=jit)
        for _ in range(2):
            step(tf.constant([1, 4, 1, 2, 1]), tf.reshape(tf.range(15.0), (5, 3)) - 4)
        changed.append(weights.numpy())
    assert changed[0] == pytest.approx(changed[1], abs=1e-6)


def test_a_model_compiled_by_xla_is_the_same() -> None:
    trained = []
    for jit in (False, True):
        model = model_of(Adam(0.05, clipnorm=1.0), jit_compile=jit)
        model.fit({key: values[:16] for key, values in EVENTS.items()}, batch_size=16, verbose=0, shuffle=False)
        trained.append([it.numpy() for it in model.trainable_variables])
    for left, right in zip(*trained, strict=True):
        assert left == pytest.approx(right, abs=1e-3)  # of steps of 0.05


def test_the_slots_are_there_before_the_first_step_and_one_a_row_where_asked() -> None:
    model = model_of(Adagrad(0.1, row_wise=True))
    model.fit(EVENTS, batch_size=64, verbose=0)
    shapes = {it.name: tuple(it.shape) for it in model.optimizer.variables}
    assert shapes["user_table_embeddings_accumulator"] == (1009,)
    kernels = [shape for name, shape in shapes.items() if "kernel" in name]
    assert sorted(kernels) == [(4, 4), (8, 4)]


def test_known_positives_of_a_list_are_left_to_the_graph() -> None:
    """XLA cannot drop columns by lists of any length; Keras says so, as with those of a table, and goes on without."""
    schema = sf.Schema((
        *SCHEMA.select_by_name(["user"]),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=503, domain="items"),
        sf.Feature(name="seen", dtype="int64", tags=("user", "sequence"), cardinality=503, domain="items", list={}),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]), known_positives="seen")
    with pytest.warns(UserWarning, match="Model doesn't support `jit_compile=True`"):
        model.compile("adam", jit_compile=True)
    assert np.isfinite(model.fit(EVENTS, batch_size=16, verbose=0).history["loss"]).all()
