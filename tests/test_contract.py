"""What every registered class promises: config and .keras round trips, one row, half precision, seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
import schemaflow.models
import schemaflow.towers
from schemaflow import registry
from schemaflow.errors import ConfigError
from schemaflow.losses import categorical_crossentropy
from schemaflow.towers import Tower

VECTORS = tf.constant(np.random.default_rng(0).normal(size=(5, 3)), tf.float32)
SCHEMA = sf.Schema((
    sf.Feature(name="user", dtype="string", tags=("user", "id"), vocabulary=("u", "v")),
    sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=("a", "b")),
))  # fmt: skip
PAIRS = {"user": tf.constant(["u", "v", "?", "", "u"]), "item": tf.constant(["a", "b", "b", "?", "b"])}

# how to make one of each, and what it takes; a class that is registered without an entry here fails
LAYERS: dict[str, tuple[Callable[..., Any], Any]] = {
    "layer/embedding-table": (lambda **it: sf.EmbeddingTable(7, 3, **it), tf.constant([1, 6, 0, 2, 2])),
    "layer/tower": (lambda **it: Tower(SCHEMA, ["user"], keras.layers.Dense(4), **it), PAIRS),
    "block/mlp": (lambda **it: sf.MLPBlock([4, 2], normalization="layer_norm", residual=True, **it), VECTORS),
    "block/l2-norm": (sf.L2Norm, VECTORS),
    "frequency/streaming": (lambda **it: sf.StreamingFrequency(7, 2, 0.5, **it), tf.constant([1, 6, 0, 2, 2])),
    "task/retrieval": (lambda **it: sf.RetrievalTask(temperature=0.5, **it), VECTORS),
    "index/brute-force": (lambda **it: sf.BruteForce(k=2, **it).index(VECTORS, [f"i{n}" for n in range(5)]), VECTORS),
    "model/two-tower": (
        lambda **it: sf.TwoTowerModel(SCHEMA, sf.MLPBlock([4]), correction=None, **it),
        PAIRS,
    ),
}
OTHERS = {
    "sampler/in-batch": sf.InBatchSampler,
    "loss/categorical_crossentropy": lambda: categorical_crossentropy,
}


def run(layer: Any, inputs: Any) -> list[np.ndarray]:
    out = layer(inputs, inputs) if isinstance(layer, sf.RetrievalTask) else layer(inputs)
    return [it.numpy() for it in tf.nest.flatten(out)]


def test_everything_registered_is_under_contract() -> None:
    own = {
        f"{kind}/{name}"
        for (kind, name), it in registry.entries().items()
        if it.__module__.startswith("schemaflow.") and kind != "greeting"
    }
    assert own == set(LAYERS) | set(OTHERS)


def test_names_are_taken_once_and_unknown_ones_are_named() -> None:
    with pytest.raises(ConfigError, match='sampler "in-batch" is registered already'):
        registry.register("sampler", "in-batch")(object)
    with pytest.raises(ConfigError, match='unknown sampler "in-bach"; did you mean "in-batch"'):
        registry.lookup("sampler", "in-bach")


@pytest.mark.parametrize("name", LAYERS)
def test_config_round_trip_keeps_every_argument(name: str) -> None:
    layer = LAYERS[name][0](name="mine")
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == "mine"
    serialized = keras.saving.serialize_keras_object(layer)
    assert serialized["registered_name"] == f"schemaflow>{type(layer).__name__}"
    assert type(keras.saving.deserialize_keras_object(serialized)) is type(layer)


@pytest.mark.parametrize("name", LAYERS)
def test_saved_and_loaded_it_gives_the_same(name: str, tmp_path: Path) -> None:
    layer, inputs = LAYERS[name][0](), LAYERS[name][1]
    expected = run(layer, inputs)
    if not isinstance(layer, keras.Model):
        layer = Holder(layer)
        layer(inputs)
    layer.save(tmp_path / "it.keras")
    again = keras.models.load_model(tmp_path / "it.keras")
    again = again.layer if isinstance(again, Holder) else again
    for left, right in zip(run(again, inputs), expected, strict=True):
        assert np.array_equal(left, right)


@pytest.mark.parametrize("name", LAYERS)
def test_one_row_is_the_first_of_many(name: str) -> None:
    layer, inputs = LAYERS[name][0](), LAYERS[name][1]
    whole = run(layer, inputs)
    one = run(layer, tf.nest.map_structure(lambda it: it[:1], inputs))
    if isinstance(layer, sf.RetrievalTask):  # one row has no negative
        assert one[0] == 0.0
        return
    for left, right in zip(one, whole, strict=True):
        assert left.tolist() == right[:1].tolist() or left == pytest.approx(right[:1], abs=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_is_finite_and_near(name: str, policy: str) -> None:
    make, inputs = LAYERS[name]
    keras.utils.set_random_seed(0)
    whole = run(make(), inputs)
    keras.utils.set_random_seed(0)
    half = run(make(dtype=policy), inputs)
    for left, right in zip(half, whole, strict=True):
        if left.dtype.kind in "OS":
            continue
        assert left.astype(np.float32) == pytest.approx(right, abs=0.06)


@pytest.mark.parametrize("name", LAYERS)
def test_the_seed_fixes_the_weights(name: str) -> None:
    made = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        layer = LAYERS[name][0]()
        run(layer, LAYERS[name][1])
        made.append([weight.numpy() for weight in layer.weights])
    for first, second, _ in zip(*made, strict=True):
        assert np.array_equal(first, second)
    matrices = [(first, third) for first, _, third in zip(*made, strict=True) if first.ndim == 2]
    assert not any(np.array_equal(first, third) for first, third in matrices)


def test_samplers_survive_their_config() -> None:
    serialized = keras.saving.serialize_keras_object(sf.InBatchSampler())
    assert isinstance(keras.saving.deserialize_keras_object(serialized), sf.InBatchSampler)


@keras.saving.register_keras_serializable("schemaflow-tests")
class Holder(keras.Model):
    """A model of one layer, since only models are saved."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        self.built = True  # the layer is built by its own config

    def call(self, inputs: Any) -> Any:
        return self.layer(inputs, inputs) if isinstance(self.layer, sf.RetrievalTask) else self.layer(inputs)

    def get_config(self) -> dict[str, Any]:
        return {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Holder":
        return cls(keras.saving.deserialize_keras_object(config["layer"]))
