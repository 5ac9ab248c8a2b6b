"""Blocks as towers: their arithmetic, what they are given, and copies that share nothing with the original."""

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
from schemaflow.towers import Tower, fresh_copy

RNG = np.random.default_rng(5)
VECTORS = tf.constant(RNG.normal(size=(6, 5)), tf.float32)


@keras.saving.register_keras_serializable("schemaflow-tests")
class Gated(keras.layers.Layer):
    """A user's block, all in one class."""

    def __init__(self, dim: int, gate: str = "sigmoid", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.gate = gate
        self.value, self.door = keras.layers.Dense(dim), keras.layers.Dense(dim, activation=gate)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.value(inputs) * self.door(inputs)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"dim": self.dim, "gate": self.gate}


@keras.saving.register_keras_serializable("schemaflow-tests")
class Shrink(keras.regularizers.Regularizer):
    """A user's regularizer: strength * sum |w|."""

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, weights: tf.Tensor) -> tf.Tensor:
        return self.strength * tf.reduce_sum(tf.abs(weights))

    def get_config(self) -> dict[str, Any]:
        return {"strength": self.strength}


@keras.saving.register_keras_serializable("schemaflow-tests")
class Ramp(keras.initializers.Initializer):
    """A user's initializer: start, start + 1, …"""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:
        return tf.cast(tf.reshape(tf.range(tf.reduce_prod(shape)), shape), dtype) + self.start

    def get_config(self) -> dict[str, Any]:
        return {"start": self.start}


@keras.saving.register_keras_serializable("schemaflow-tests")
def double(inputs: tf.Tensor) -> tf.Tensor:
    return 2 * inputs


# -- cross layers -------------------------------------------------------------------------------------------------


def test_one_cross_layer_by_hand() -> None:
    """x = [1, 2], W = [[1, 3], [2, 4]], b = [5, 6]: x W + b = [10, 17]; times x, plus x: [11, 36]."""
    block = sf.CrossBlock()
    block.build((None, 2))
    block.kernels[0].assign([[1.0, 3.0], [2.0, 4.0]])
    block.biases[0].assign([5.0, 6.0])
    assert block(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[11.0, 36.0]]


def test_the_second_layer_multiplies_by_the_first_inputs_again() -> None:
    # x0 = [2]; x1 = 2 * 2 + 2 = 6; x2 = 2 * 6 + 6 = 18. A layer that took x1 for x0 would give 6 * 6 + 6 = 42.
    assert sf.CrossBlock(2, kernel_initializer="ones")(tf.constant([[2.0]])).numpy().tolist() == [[18.0]]
    # at rank 1 W is a column of ones times a row of ones: x W = [3, 3], so x1 = [1 * 3 + 1, 2 * 3 + 2]
    low = sf.CrossBlock(low_rank_dim=1, kernel_initializer="ones")
    assert low(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[4.0, 8.0]]


@given(st.integers(1, 3), st.none() | st.integers(1, 4), st.booleans(), st.integers(1, 5))
def test_cross_layers_as_in_the_paper(depth: int, rank: int | None, bias: bool, width: int) -> None:
    block = sf.CrossBlock(depth, rank, use_bias=bias, kernel_initializer="glorot_normal", bias_initializer="normal")
    x0 = RNG.normal(size=(3, width)).astype(np.float32)
    out = block(x0).numpy()
    x = x0
    for layer in range(depth):
        kernels = block.kernels[layer : layer + 1] if rank is None else block.kernels[2 * layer : 2 * layer + 2]
        w = np.linalg.multi_dot([np.eye(width), *(kernel.numpy() for kernel in kernels)])
        assert w.shape == (width, width)
        x = x0 * (x @ w + (block.biases[layer].numpy() if bias else 0)) + x
    assert out == pytest.approx(x, rel=1e-4, abs=1e-5)
    assert block.compute_output_shape((None, width)) == (None, width)
    assert len(block.weights) == depth * ((1 if rank is None else 2) + bias)


def test_a_fixed_seed_begins_no_two_kernels_alike() -> None:
    seeded = keras.initializers.RandomNormal(seed=3)
    for block in (
        sf.CrossBlock(3, kernel_initializer=seeded),
        sf.CrossBlock(2, low_rank_dim=5, kernel_initializer=seeded),
        sf.MLPBlock([5, 5, 5], kernel_initializer=seeded),
    ):
        copied = fresh_copy(block)
        matrices = []
        for it in (block, copied):
            it(VECTORS)
            matrices += [weight.numpy() for weight in it.weights if weight.ndim == 2]
        for place, one in enumerate(matrices):  # the copy's first kernel is no other's twin either
            assert not any(np.isclose(one, other).all() for other in matrices[:place])


@pytest.mark.parametrize(
    ("block", "arguments", "message"),
    [
        (sf.CrossBlock, {"depth": 0}, "depth is 0; expected an integer of at least 1"),
        (sf.CrossBlock, {"depth": None}, "depth is None"),
        (sf.CrossBlock, {"depth": True}, "depth is True"),
        (sf.CrossBlock, {"low_rank_dim": 1.5}, "low_rank_dim is 1.5; expected an integer"),
        (sf.CrossBlock, {"kernel_regularizer": "l3"}, "'l3' is no Keras regularizer"),
        (sf.CrossBlock, {"kernel_initializer": "onse"}, "'onse' is no Keras initializer"),
        (sf.MLPBlock, {"dimensions": None}, "expected a list of widths"),
        (sf.MLPBlock, {"dimensions": [True]}, "expected a list of widths"),
        (sf.MLPBlock, {"dimensions": [2], "dropout": "0.1"}, "expected 0 <= dropout < 1"),
        (sf.MLPBlock, {"dimensions": [2], "activation": "rellu"}, "'rellu' is no Keras activation"),
        (sf.MLPBlock, {"dimensions": [2, 2], "normalization": 5}, "unknown normalization 5"),
        (sf.MLPBlock, {"dimensions": [2], "bias_initializer": "onse"}, "'onse' is no Keras initializer"),
        (sf.MLPBlock, {"dimensions": [2], "bias_regularizer": "l3"}, "'l3' is no Keras regularizer"),
        (sf.MLPBlock, {"dimensions": [2], "activity_regularizer": "l3"}, "'l3' is no Keras regularizer"),
    ],
)
def test_blocks_that_cannot_be(block: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        block(**arguments)


# -- what blocks are given ----------------------------------------------------------------------------------------


def every_argument() -> sf.MLPBlock:
    return sf.MLPBlock(
        [5, 4, 3], activation=[keras.layers.PReLU("ones"), double, "tanh"], dropout=0.25, residual=True,
        normalization=keras.layers.BatchNormalization(momentum=0.5), kernel_initializer=Ramp(-3.0),
        bias_initializer=Ramp(7.0), kernel_regularizer=Shrink(0.5), bias_regularizer=keras.regularizers.L2(0.25),
        activity_regularizer=Shrink(0.125), name="mine", trainable=False,
    )  # fmt: skip


def test_everything_given_reaches_the_layers_and_survives_the_config() -> None:
    block = every_argument()
    again = sf.MLPBlock.from_config(block.get_config())
    loaded = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(block))
    for it in (block, again, loaded):
        assert it.get_config() == block.get_config()
        it.build((None, 5))
        first, second, third = it.steps
        assert [type(step.dense.activation) for step in it.steps[:1]] == [keras.layers.PReLU]
        assert (second.dense.activation, third.dense.activation) == (double, keras.activations.tanh)
        assert first.normalization.momentum == second.normalization.momentum == 0.5
        assert first.dense.kernel.numpy()[0].tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0]
        assert third.dense.bias.numpy().tolist() == [7.0, 8.0, 9.0]
        assert second.shortcut.kernel.shape == (5, 4)
        assert it.trainable_weights == []
        assert len(it.weights) == 6 + 1 + 8 + 1  # dense, PReLU, two batch norms, one map
    outputs = [it(VECTORS).numpy() for it in (block, again, loaded)]
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


def test_a_layer_given_as_argument_is_only_a_pattern() -> None:
    """Its own weights are not the block's, even when it was built elsewhere."""
    norm, slope = keras.layers.LayerNormalization(), keras.layers.PReLU()
    norm.build((None, 4))
    slope.build((None, 4))
    block = sf.MLPBlock([4, 4, 4], activation=slope, normalization=norm)
    block.build((None, 3))
    slopes = [step.dense.activation for step in block.steps[:2]]
    norms = [step.normalization for step in block.steps[:2]]
    for given_layer, own in ((slope, slopes), (norm, norms)):
        assert own[0] is not own[1]
        assert not {id(it) for it in given_layer.weights} & {id(it) for it in block.weights}
    assert len(block.weights) == 3 * 2 + 2 * 1 + 2 * 2
    slopes[0].weights[0].assign(tf.ones(4))
    assert slopes[1].weights[0].numpy().tolist() == [0.0] * 4


def test_each_loss_of_regularization_is_there_once() -> None:
    """Kernels of ones [2, 2], [2, 1]: weights 0.5 * (4 + 2); activations 0.1 * the mean over rows of |4, 4| and |8|."""
    block = sf.MLPBlock(
        [2, 1], kernel_initializer="ones", kernel_regularizer=Shrink(0.5), activity_regularizer=keras.regularizers.L1(0.1)
    )  # fmt: skip
    block(tf.constant([[1.0, 3.0], [1.0, 3.0]]))
    assert sorted(float(it) for it in block.losses) == pytest.approx([0.8, 0.8, 1.0, 2.0])
    cross = sf.CrossBlock(
        2, kernel_initializer="ones", bias_initializer="ones", kernel_regularizer="l1", bias_regularizer="l1"
    )
    cross(tf.constant([[1.0, 3.0]]))
    assert sorted(float(it) for it in cross.losses) == pytest.approx([0.02, 0.02, 0.04, 0.04])


def test_dropout_after_a_selu_keeps_mean_and_variance() -> None:
    inputs = tf.constant(RNG.normal(size=(4000, 8)), tf.float32)
    block = sf.MLPBlock([8, 8], activation="selu", dropout=0.3, kernel_initializer="identity", final_activation=None)
    whole, dropped = (block(inputs, training=training).numpy() for training in (False, True))
    assert dropped.mean() == pytest.approx(whole.mean(), abs=0.05)
    assert dropped.std() == pytest.approx(whole.std(), rel=0.05)
    assert len(np.unique(np.round(dropped[np.abs(dropped - whole) > 1e-6], 4))) > 100  # something was dropped


def test_a_frozen_block_is_not_trained() -> None:
    for block in (sf.MLPBlock([4, 4], residual=True, trainable=False), sf.CrossBlock(trainable=False)):
        model = keras.Sequential([block])
        model(VECTORS)
        assert model.trainable_weights == []
        assert model.weights != []


# -- copies -------------------------------------------------------------------------------------------------------


def functional() -> keras.Model:
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(5, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3)(hidden + inputs))


TOWERS = {
    "mlp": lambda: sf.MLPBlock([5, 4, 3], residual=True, normalization=keras.layers.LayerNormalization()),
    "mlp of layers": lambda: sf.MLPBlock(
        [4, 3], activation=keras.layers.PReLU(keras.initializers.RandomNormal(seed=2)), dropout=0.1
    ),
    "cross": lambda: sf.CrossBlock(2),
    "low rank": lambda: sf.CrossBlock(3, low_rank_dim=2, use_bias=False),
    "dense": lambda: keras.layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1)),
    "sequential": lambda: keras.Sequential([sf.CrossBlock(2), sf.MLPBlock([16, 8]), sf.L2Norm()]),
    "nested": lambda: keras.Sequential([keras.Sequential([sf.CrossBlock(2)]), keras.Sequential([Gated(4)])]),
    "with an input": lambda: keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)]),
    "functional": functional,
    "user": lambda: Gated(4, gate="tanh"),
}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", TOWERS)
def test_a_copy_computes_the_same_from_other_weights(name: str, built: bool) -> None:
    block = TOWERS[name]()
    if built:
        block(VECTORS)
    copied = fresh_copy(block)
    expected, fresh = block(VECTORS).numpy(), copied(VECTORS).numpy()
    assert not np.isclose(expected, fresh).any(axis=1).all()
    assert not {id(it) for it in block.weights} & {id(it) for it in copied.weights}
    assert not any(
        np.isclose(a, b).all() for a, b in zip(block.weights, copied.weights, strict=True) if len(a.shape) == 2
    )
    copied.set_weights(block.get_weights())
    assert copied(VECTORS).numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", sorted(set(TOWERS) - {"functional", "with an input"}))
def test_a_copy_of_a_built_block_takes_another_width(name: str) -> None:
    block = TOWERS[name]()
    width = block(VECTORS).shape[-1]
    out = fresh_copy(block)(tf.ones((2, 7)))
    assert out.shape == (2, 7 if name in ("cross", "low rank") else width)
    assert block(VECTORS).shape == (6, width)


def test_blocks_of_which_no_copy_can_be_made() -> None:
    class Bare(keras.layers.Layer):
        def __init__(self, activation: Any) -> None:
            super().__init__()
            self.activation = activation

    class Forgetful(Gated):
        def get_config(self) -> dict[str, Any]:
            return {name: value for name, value in super().get_config().items() if name != self.lost}

        lost = "dim"

    class Slightly(Forgetful):
        lost = "gate"

    for block, message in [
        (Bare(object()), "Bare has no get_config, so no copy can be made of it; give it one, or pass an item_tower"),
        (Forgetful(4), "Forgetful.get_config leaves out dim, which its constructor takes"),
        (Slightly(4, gate="tanh"), "Slightly.get_config leaves out gate"),
        (keras.Sequential([keras.Sequential([Slightly(4, gate="tanh")])]), "Slightly.get_config leaves out gate"),
        (keras.Sequential([keras.layers.Lambda(lambda it: it)]), "no copy can be made of Sequential"),
    ]:
        with pytest.raises(ConfigError, match=message):
            fresh_copy(block)
    assert fresh_copy(Slightly(4)).gate == "sigmoid"  # left out, but the default all the same


# -- as towers ----------------------------------------------------------------------------------------------------

EMBEDDINGS = sf.EmbeddingOptions(embedding_dim_default=4)
PAIRS = {"user": ["u", "v", "u", "w"], "age": [1.0, 2.0, 1.0, 3.0], "item": ["a", "b", "b", "c"]}


def pairs(wide: bool) -> sf.Schema:
    """A schema whose sides are both 4 wide; or the user's 5, through an age."""
    age = (sf.Feature(name="age", dtype="float32", tags=("user", "continuous")),) if wide else ()
    return sf.Schema((
        sf.Feature(name="user", dtype="string", tags=("user", "id"), vocabulary=("u", "v", "w")),
        sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=("a", "b", "c")),
        *age,
    )).fit(PAIRS)  # fmt: skip


def model_of(block: keras.layers.Layer, item: keras.layers.Layer | None = None, wide: bool = True) -> sf.TwoTowerModel:
    return sf.TwoTowerModel(pairs(wide), block, item, embedding_options=EMBEDDINGS)


@pytest.mark.parametrize("name", ["cross", "dense", "nested", "sequential", "user"])
def test_a_model_of_such_towers_trains_is_saved_and_served(name: str, tmp_path: Path) -> None:
    model = model_of(TOWERS[name](), wide=name != "cross")
    before = model.item_tower.block.get_weights()
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    assert np.isfinite(model.fit(PAIRS, batch_size=4, verbose=0).history["loss"]).all()
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.item_tower.block.get_weights(), strict=True))
    model.save(tmp_path / "it.keras")
    again = keras.models.load_model(tmp_path / "it.keras")
    assert np.array_equal(again.query_embeddings(PAIRS), model.query_embeddings(PAIRS))
    assert np.array_equal(again.candidate_embeddings(PAIRS), model.candidate_embeddings(PAIRS))
    asked = {name: PAIRS[name] for name in ("user", "age") if name in model.schema}
    served = model.export(tmp_path / "bundle", candidates={"item": ["a", "b", "c"]}).recommend(asked, k=3)
    scores = model.query_embeddings(PAIRS) @ model.candidate_embeddings({"item": ["a", "b", "c"]}).T
    assert np.array(served.scores) == pytest.approx(-np.sort(-scores, axis=1), abs=1e-5)


def test_one_block_may_serve_two_models() -> None:
    """The first built it; the second's items are not held to the width of that."""
    block = keras.Sequential([keras.layers.Dense(3)])
    first, second = model_of(block), model_of(block)
    assert first.query_tower.block is second.query_tower.block
    assert second.item_tower.block.weights[0].shape == (4, 3)


def test_a_block_given_for_both_sides_shares_its_weights(tmp_path: Path) -> None:
    block = sf.MLPBlock([3], kernel_regularizer=Shrink(1.0))
    model = model_of(block, block, wide=False)
    assert len(model.trainable_weights) == 2 + 2
    model.compile(optimizer="adam")
    assert [float(it) for it in model.losses] == [pytest.approx(float(tf.reduce_sum(tf.abs(block.weights[0]))))]
    model.fit(PAIRS, batch_size=4, verbose=0)
    model.save(tmp_path / "it.keras")
    again = keras.models.load_model(tmp_path / "it.keras")
    assert again.query_tower.block is again.item_tower.block
    assert np.array_equal(again.candidate_embeddings(PAIRS), model.candidate_embeddings(PAIRS))


def test_regularization_reaches_the_models_loss_once() -> None:
    batch = {name: tf.constant(values) for name, values in PAIRS.items()}
    keras.utils.set_random_seed(3)
    losses = []
    for regularizer in (None, Shrink(0.5)):
        keras.utils.set_random_seed(3)
        model = model_of(keras.Sequential([sf.CrossBlock(kernel_regularizer=regularizer), sf.MLPBlock([3], kernel_regularizer=regularizer)]))  # fmt: skip
        model.compile()
        losses.append(float(model.compute_loss(x=batch, y_pred=model(batch))))
    kernels = [
        it.numpy()
        for tower in (model.query_tower, model.item_tower)
        for it in tower.block.weights
        if len(it.shape) == 2
    ]
    assert len(kernels) == 4
    assert losses[1] - losses[0] == pytest.approx(0.5 * sum(np.abs(it).sum() for it in kernels), rel=1e-4)


def test_widths_that_do_not_fit_are_named() -> None:
    for block in (TOWERS["with an input"](), functional()):
        with pytest.raises(ConfigError, match=r"item_tower: \w+ fails on .*\[batch, 4\]: .*5.*leave the Input out"):
            model_of(block)
    built = keras.layers.Dense(3)
    built.build((None, 9))
    for block in (built, keras.Sequential([keras.Input((9,)), sf.CrossBlock()])):
        with pytest.raises(ConfigError, match=r"query_tower: \w+ fails on .*\[batch, 5\]"):
            model_of(block)
    shared = keras.layers.Dense(3)
    with pytest.raises(ConfigError, match=r"item_tower: Dense fails on .*a layer of its own for each side"):
        model_of(shared, shared)
    with pytest.raises(ConfigError, match="the query tower gives vectors of width 5, the item tower of width 4"):
        model_of(sf.CrossBlock(2))


def test_a_block_gives_one_vector_for_each_row() -> None:
    for block, made in (
        (keras.layers.Reshape((2, 2, 1)), r"\[2, 2, 2, 1\]"),
        (keras.layers.Lambda(lambda it: [it]), "list"),
    ):
        with pytest.raises(ConfigError, match=rf"of vectors \[2, 4\] \w+ makes {made}; expected a tensor \[2, dim\]"):
            Tower(pairs(wide=False), ["user"], block, EMBEDDINGS)
