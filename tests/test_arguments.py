"""What a model is given in the wrong way: one line that says what was expected, never silence."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError, SchemaError, SchemaFlowError

EVENTS = pa.table({
    "user": ["ann", "ann", "bob", "bob", "cid", "cid"],
    "seen": [["x"], ["x", "y"], [], ["z"], ["y"], ["x"]],
    "hour": pa.array([1, 2, 3, 1, 2, 3], pa.int32()),
    "item": ["x", "y", "z", "x", "z", "y"],
    "stars": pa.array([1.0, 5.0, 3.0, 2.0, 4.0, 3.0], pa.float32()),
})  # fmt: skip
ITEMS = pa.table({"item": ["x", "y", "z"], "genres": [["a"], [], ["a", "b"]]})
SCHEMA = sf.Schema.from_config({"fitted": {}, "yaml": """
version: 1
features:
  user: {dtype: string, tags: [user, id], vocabulary: learned}
  seen: {dtype: string, tags: [user, sequence], list: {}, domain: item}
  hour: {dtype: int32, tags: [context, categorical], cardinality: 24}
  item: {dtype: string, tags: [item, id], vocabulary: learned}
  stars: {dtype: float32, tags: [target, regression]}
"""}).fit(EVENTS)  # fmt: skip


def model_of(schema: sf.Schema = SCHEMA, **arguments: Any) -> sf.TwoTowerModel:
    return sf.TwoTowerModel(schema, keras.layers.Dense(4), **arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"samplers": ["cross-batch"]}, 'samplers names "cross-batch", which .*; pass a CachedCrossBatchSampler'),
        ({"samplers": "in-batc"}, 'unknown sampler "in-batc"; did you mean "in-batch"'),
        ({"known_positives": "sen"}, 'no such file, and no such list of items in the query; did you mean "seen"'),
        ({"known_positives": "stars"}, r'known_positives is "stars": .* \(lists of items: seen\)'),
        ({"known_positives": "user"}, 'names "user", which is no list of the domain "item"'),
        ({"prediction_tasks": 3}, r"prediction_tasks is \[3\]; expected a RetrievalTask"),
        ({"prediction_tasks": "retrieval"}, r"prediction_tasks is \['retrieval'\]; expected a RetrievalTask"),
        (
            {"prediction_tasks": sf.RegressionTask(), "samplers": ["in-batch"]},
            "has no use, since prediction_tasks holds no RetrievalTask",
        ),
        (
            {"prediction_tasks": sf.RegressionTask(), "known_positives": EVENTS},
            "has no use, since prediction_tasks holds no RetrievalTask",
        ),
        ({"l2_normalize": "no"}, "l2_normalize is 'no'; expected True or False"),
        ({"correction": np.array([1, 2])}, 'expected "log_q", "exclude_positive", a StreamingFrequency or None'),
        ({"query_tower_tag": "item"}, 'query_tower_tag and item_tower_tag are both "item"'),
        ({"item_tower_tag": "categorical"}, 'item_tower_tag is "categorical"; expected a side: user, item, context'),
    ],
)
def test_an_argument_of_a_model_that_cannot_be(arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as raised:
        model_of(**arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: sf.UniformSampler(seed="a"), "seed is 'a'; expected an integer"),
        (lambda: sf.PopularityBasedSampler(2.0), "num_sampled is 2.0; expected an integer"),
        (lambda: sf.RegressionTask(target=5), "target is 5; expected the name of a feature"),
        (lambda: model_of(query_tower_tag=3), "the tag is 3; expected one of Tags"),
    ],
)
def test_a_part_of_a_model_that_cannot_be(build: Any, expected: str) -> None:
    with pytest.raises(SchemaFlowError, match=expected):
        build()


def test_a_side_of_ones_own_that_no_feature_has_is_no_query_of_the_context_alone() -> None:
    with pytest.raises(SchemaError, match="no feature is tagged x-sed, so the query tower has no input"):
        model_of(query_tower_tag="x-sed")


def test_numbers_of_numpy_are_numbers() -> None:
    task = sf.RetrievalTask(temperature=np.float32(0.5))
    assert task.get_config()["temperature"] == 0.5
    assert type(task.get_config()["temperature"]) is float  # so that it can be saved
    assert type(sf.UniformSampler(np.int64(4)).get_config()["num_sampled"]) is int


@pytest.mark.parametrize("kind", ["path", "arrow", "pandas", "polars", "dict"])
def test_known_positives_and_candidates_are_taken_in_every_form(kind: str, tmp_path: Path) -> None:
    if kind == "pandas":
        pytest.importorskip("pandas", reason="pandas comes with merlin-core, on Python 3.11 alone")

    def form(table: pa.Table, name: str) -> Any:
        pq.write_table(table, tmp_path / name)
        return {
            "path": lambda: tmp_path / name,
            "arrow": lambda: table,
            "pandas": table.to_pandas,
            "polars": lambda: pl.from_arrow(table),
            "dict": table.to_pydict,
        }[kind]()

    model = model_of(samplers=["uniform"], candidates=form(ITEMS, "items"), known_positives=form(EVENTS, "events"))
    assert model.catalogue.size == 3
    user = SCHEMA.vocabulary("user").to_pylist().index("ann") + 3
    names = SCHEMA.vocabulary("item").to_pylist()
    known = model.known_positives(tf.constant([user])).to_list()[0]
    assert sorted(names[row - 3] for row in known) == ["x", "y"]
    ranked = model_of(prediction_tasks=sf.RetrievalTask(metrics=sf.FactorizedTopK(form(ITEMS, "items"), ks=(3,))))
    ranked.compile()
    assert ranked.evaluate(EVENTS, verbose=0, return_dict=True)["factorized_top_k/hit_rate@3"] == 1.0


def test_a_model_without_retrieval_is_saved_and_loaded(tmp_path: Path) -> None:
    model = model_of(prediction_tasks=sf.RegressionTask())
    model.compile(optimizer="adam")
    model.fit(EVENTS, verbose=0)
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert again.predict(EVENTS, verbose=0)["stars"] == pytest.approx(model.predict(EVENTS, verbose=0)["stars"])


def test_a_catalogue_with_lists_leaves_xla_off() -> None:
    """XLA gathers no lists: asked to, Keras says that it goes on without, in place of an error of TensorFlow's."""
    text = (
        SCHEMA.get_config()["yaml"]
        + "  genres: {dtype: string, tags: [item, categorical], list: {}, vocabulary: [a, b]}\n"
    )
    listed = sf.Schema.from_config({"fitted": {}, "yaml": text}).fit(EVENTS)
    joined = EVENTS.append_column("genres", pa.array([["a"], [], ["a", "b"], ["a"], ["a", "b"], []]))
    model = model_of(listed, samplers=["uniform"], candidates=ITEMS)
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile(optimizer="adam", jit_compile=True)
    assert np.isfinite(model.fit(joined, verbose=0).history["loss"]).all()


@pytest.mark.parametrize(
    ("name", "wrong", "expected"),
    [
        ("w", -1.0, 'feature "w" is below 0 or not finite; a weight is 0 or more'),
        ("w", float("nan"), 'feature "w" is below 0 or not finite; a weight is 0 or more'),
        ("skipped", 2, 'feature "skipped" is neither 0 nor 1; an explicit negative is 1, every other row 0'),
        ("stars", float("nan"), 'task "stars": a label is missing or infinite; correct the data, or remove the row'),
        ("hour", 24, 'feature "hour" .*24'),
    ],
)
def test_what_a_table_may_not_hold_a_dataset_may_not_hold(name: str, wrong: float, expected: str) -> None:
    """And it is said in one line, where TensorFlow would give the trace of a graph."""
    text = (
        SCHEMA.get_config()["yaml"]
        + "  w: {dtype: float32, tags: [weight]}\n  skipped: {dtype: int8, tags: [explicit_negative]}\n"
    )
    roles = sf.Schema.from_config({"fitted": {}, "yaml": text}).fit(EVENTS)
    batch = {key: tf.constant(EVENTS[key].to_pylist()) for key in ("user", "hour", "item", "stars")}
    batch |= {
        "seen": tf.ragged.constant(EVENTS["seen"].to_pylist()),
        "w": tf.ones(6),
        "skipped": tf.constant([1] + [0] * 5, tf.int8),
    }
    model = model_of(roles, prediction_tasks=[sf.RetrievalTask(), sf.RegressionTask()])
    model.compile(optimizer="adam")
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    before = [weight.copy() for weight in model.get_weights()]
    values = batch[name].numpy()
    values[3] = wrong
    with pytest.raises(DataError, match=expected) as raised:
        model.fit(tf.data.Dataset.from_tensors(batch | {name: tf.constant(values)}), verbose=0)
    assert "\n" not in str(raised.value)
    assert all(np.array_equal(now, then) for now, then in zip(model.get_weights(), before, strict=True))
    if name in ("w", "skipped"):  # of an encoded dataset too
        encoded = model._inputs.dataset(tf.data.Dataset.from_tensors(batch)).map(
            lambda it: it | {name: tf.constant(values)}
        )
        with pytest.raises(DataError, match=expected):
            model.evaluate(encoded, verbose=0)
