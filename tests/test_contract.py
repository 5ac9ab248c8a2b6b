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
from schemaflow import losses, registry
from schemaflow.errors import ConfigError
from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.features.known import KnownPositives
from schemaflow.layers.prefix import Prefix
from schemaflow.layers.quotient_remainder import QuotientRemainderTable
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
    "layer/quotient-remainder-table": (
        lambda **it: QuotientRemainderTable(17, 3, 4, "sum", 3, "random_normal", **it),
        tf.constant([1, 16, 0, 2, 2]),
    ),
    "layer/tower": (lambda **it: Tower(SCHEMA, ["user"], keras.layers.Dense(4), **it), PAIRS),
    "block/mlp": (lambda **it: sf.MLPBlock([4, 2], normalization="layer_norm", residual=True, **it), VECTORS),
    "block/cross": (lambda **it: sf.CrossBlock(2, low_rank_dim=2, **it), VECTORS),
    "block/l2-norm": (sf.L2Norm, VECTORS),
    "block/prefix": (lambda **it: Prefix(2, of=sf.L2Norm(), **it), VECTORS),
    "layer/user-history-encoder": (
        lambda **it: sf.UserHistoryEncoder(["last", "mean", "attention"], 2, 2, 4, 6, 0.2, "gelu", 2, 7, False, **it),
        tf.constant(np.random.default_rng(1).normal(size=(5, 3, 6)), tf.float32),
    ),
    "layer/item-catalogue": (
        lambda **it: ItemCatalogue({"item": {"shape": [5], "dtype": "int64"}}, reserved=0, **it),
        tf.range(5, dtype=tf.int64),
    ),
    "layer/known-positives": (
        lambda **it: KnownPositives(users=5, pairs=3, **it),
        tf.range(5, dtype=tf.int64),
    ),
    "frequency/streaming": (
        lambda **it: sf.StreamingFrequency(buckets=9, hashes=2, alpha=0.2, **it),
        tf.range(5, dtype=tf.int64),
    ),
    "task/binary-classification": (lambda **it: sf.BinaryClassificationTask("click", **it), VECTORS),
    "task/distillation": (
        lambda **it: sf.DistillationTask(
            sf.Scorer(len, features=["item"]), "margin", hard=3, random=5, loss_weight=0.5, **it
        ),
        VECTORS,
    ),
    "task/reward-alignment": (
        lambda **it: sf.RewardAlignmentTask(len, beta=2.0, start="fresh", hard=3, random=5, loss_weight=0.5, **it),
        VECTORS,
    ),
    "task/light-ranker": (lambda **it: sf.LightRanker(["click", "bought"], sf.MLPBlock([4]), 2, hard=3, **it), VECTORS),
    "task/mixture-of-logits": (lambda **it: sf.MixtureOfLogits("click", 2, 3, 4, hidden=5, random=0, **it), VECTORS),
    "task/regression": (
        lambda **it: sf.RegressionTask(
            "rating", sf.MLPBlock([4]), keras.losses.Huber(2.0), [keras.metrics.MeanAbsoluteError()], 0.5, **it
        ),
        VECTORS,
    ),
    "task/retrieval": (
        lambda **it: sf.RetrievalTask(
            loss=losses.CategoricalCrossentropy(label_smoothing=0.1),
            metrics=sf.FactorizedTopK("items.parquet", ks=(1, 7)),
            batch_metrics=keras.metrics.CategoricalAccuracy(),
            temperature="learned",
            num_hard_negatives=3,
            matryoshka_dims=[1, 2],
            loss_weight=0.5,
            metrics_in_training=True,
            initial_temperature=0.5,
            **it,
        ),
        VECTORS,
    ),
    "index/brute-force": (lambda **it: sf.BruteForce(k=2, **it).index(VECTORS, [f"i{n}" for n in range(5)]), VECTORS),
    "index/ivf": (
        lambda **it: sf.IVF(k=2, num_lists=3, nprobe=2, storage="int8", seed=5, **it).index(VECTORS, tf.range(5)),
        VECTORS,
    ),
    "model/two-tower": (
        lambda **it: sf.TwoTowerModel(SCHEMA, sf.MLPBlock([4]), correction=None, **it),
        PAIRS,
    ),
}
OTHERS = {
    "debiasing/position": sf.PositionDebiasing,  # these are of a model that binds them: test_debiasing.py
    "debiasing/user": sf.UserDebiasing,
    "index/faiss": sf.Faiss,  # what is optional is held to the same in test_index.py, where it is installed
    "index/scann": sf.ScaNN,
    "scorer/function": sf.Scorer,  # contract: test_scoring.py
    "sampler/cross-batch": sf.CachedCrossBatchSampler,  # samplers have a contract of their own: test_sampling.py
    "sampler/in-batch": sf.InBatchSampler,
    "sampler/popularity": sf.PopularityBasedSampler,
    "sampler/uniform": sf.UniformSampler,
    "loss/bpr": losses.bpr,
    "loss/bpr-max": losses.bpr_max,
    "loss/categorical_crossentropy": losses.categorical_crossentropy,
    "loss/hinge": losses.hinge,
    "loss/logistic": losses.logistic,
    "loss/top1": losses.top1,
    "metric/factorized-top-k": sf.FactorizedTopK,
    "optimizer/adagrad": sf.optimizers.Adagrad,  # contract: test_optimizers.py
    "optimizer/adam": sf.optimizers.Adam,
}


PAIRED = (sf.BinaryClassificationTask, sf.RegressionTask, sf.DistillationTask)
"""These take queries and candidates, or scores and a teacher's."""

RANKERS = (sf.LightRanker, sf.MixtureOfLogits)  # and these several candidates for each query


def run(layer: Any, inputs: Any) -> list[np.ndarray]:
    return [it.numpy() for it in tf.nest.flatten(called(layer, inputs))]


def called(layer: Any, inputs: Any) -> Any:
    if isinstance(layer, sf.RetrievalTask):
        return layer(inputs, inputs, compute_metrics=False)
    if isinstance(layer, ItemCatalogue):
        return layer.ids(inputs)
    if isinstance(layer, KnownPositives):
        return layer(inputs).to_tensor()
    if isinstance(layer, sf.RewardAlignmentTask):
        return layer(inputs, inputs, inputs)
    if isinstance(layer, RANKERS):
        return layer(inputs, inputs, tf.stack([inputs, -inputs], axis=1))
    return layer(inputs, inputs) if isinstance(layer, PAIRED) else layer(inputs)


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


@keras.saving.register_keras_serializable("schemaflow-tests")
class Holder(keras.Model):
    """A model of one layer, since only models are saved."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        self.built = True  # the layer is built by its own config

    def call(self, inputs: Any) -> Any:
        return called(self.layer, inputs)

    def get_config(self) -> dict[str, Any]:
        return {"layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Holder":
        return cls(keras.saving.deserialize_keras_object(config["layer"]))
