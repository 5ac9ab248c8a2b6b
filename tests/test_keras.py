"""Keras as it is: what `compile`, `fit`, `evaluate`, `predict`, callbacks and saving do with a two-tower model."""

import csv
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from schemaflow.errors import ConfigError, DataError

ROWS = 32
_random = np.random.default_rng(4)
EVENTS: dict[str, list[Any]] = {
    "user": [f"u{it}" for it in _random.integers(0, 9, ROWS)],
    "age": [float(it) for it in _random.integers(18, 80, ROWS)],
    "item": [f"i{it}" for it in _random.integers(0, 12, ROWS)],
    # 20 genres in each 8 rows: XLA compiles once for each number of list values
    "genres": [[f"g{it}" for it in _random.integers(0, 5, size)] for size in 4 * [0, 1, 2, 3, 3, 2, 4, 5]],
}
YAML = """
version: 1
features:
  user: {dtype: string, tags: [user, id], vocabulary: learned}
  age: {dtype: float32, tags: [user, continuous], normalize: standard}
  item: {dtype: string, tags: [item, id], vocabulary: learned}
  genres: {dtype: string, tags: [item, categorical], vocabulary: learned, list: {max_length: 5}}
"""

# What a second process runs: take up an interrupted run, and go on with a saved model. Its arguments: the schema, the
# table, the folder of backups, where to write the weights, the epoch to die in, the saved model.
PROGRAM = """
import os, sys
import keras, numpy as np
import schemaflow as sf
from tests.test_keras import backed_up, state

schema, table, backup, out, dies, saved = sys.argv[1:]
backed = backed_up(sf.Schema.from_yaml(schema), table, backup, lambda epoch: epoch == int(dies) and os._exit(9))
np.savez(out, *state(backed))
model = keras.saving.load_model(saved)
keras.utils.set_random_seed(6)
model.fit(table, batch_size=8, epochs=2, verbose=0)
np.savez(out.replace(".npz", ".loaded.npz"), *state(model))
"""


def make(
    schema: sf.Schema, seed: int = 1, dtype: str | None = None, block: dict[str, Any] | None = None, **options: Any
) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(seed)
    narrow = sf.EmbeddingOptions(embedding_dim_default=4)
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([8, 4], dtype=dtype, **block or {}), embedding_options=narrow, dtype=dtype
    )
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01)} | options)
    return model


def backed_up(schema: sf.Schema, table: str, folder: str, begin: Callable[[int], Any]) -> sf.TwoTowerModel:
    """Train with dropout, shuffled, for four epochs, and keep a backup of each."""
    model = make(schema, block={"dropout": 0.3})
    callbacks = [
        keras.callbacks.BackupAndRestore(folder),
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: begin(epoch)),
    ]
    model.fit(table, batch_size=8, epochs=4, verbose=0, callbacks=callbacks)
    return model


def state(model: sf.TwoTowerModel) -> list[np.ndarray]:
    """All that training has changed: weights, states of random generators, the optimizer's slots."""
    return [it.numpy() for it in (*model.variables, *model.optimizer.variables)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def rows_of(start: int, stop: int) -> dict[str, list[Any]]:
    return {name: values[start:stop] for name, values in EVENTS.items()}


def tensors(start: int = 0, stop: int = ROWS) -> dict[str, Any]:
    """Raw features as a Keras user would batch them."""
    rows = rows_of(start, stop)
    return {name: tf.ragged.constant(it) if name == "genres" else tf.constant(it) for name, it in rows.items()}


@pytest.fixture(scope="module")
def small() -> sf.Schema:
    return sf.Schema.from_config({"fitted": {}, "yaml": YAML}).fit(EVENTS)


@pytest.fixture(scope="module")
def still(small: sf.Schema) -> sf.TwoTowerModel:
    """A model that training does not move, so that all may use it."""
    return make(small, optimizer=keras.optimizers.SGD(0.0))


# -- callbacks ----------------------------------------------------------------------------------------------------------


def test_the_usual_callbacks(small: sf.Schema, tmp_path: Path) -> None:
    model = make(small)
    seen: list[list[np.ndarray]] = []
    best = {"monitor": "val_loss", "min_delta": 1e9, "patience": 1}  # no epoch is better than the first by so much
    history = model.fit(
        EVENTS, batch_size=8, epochs=9, verbose=0, validation_data=rows_of(0, 8),
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(model.get_weights())),
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras", monitor="val_loss"),
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
            keras.callbacks.ReduceLROnPlateau(factor=0.5, **best),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.EarlyStopping(restore_best_weights=True, **best),
        ],
    )  # fmt: skip
    assert history.epoch == [0, 1]
    assert float(model.optimizer.learning_rate) == pytest.approx(0.005)
    assert same(model.get_weights(), seen[0])
    assert not same(seen[0], seen[1])
    assert same(keras.saving.load_model(tmp_path / "2.keras").get_weights(), seen[1])
    other = make(small, seed=2)
    other.load_weights(tmp_path / "1.weights.h5")
    assert same(other.get_weights(), seen[0])
    with (tmp_path / "log.csv").open() as file:
        logged = list(csv.DictReader(file))
    for name in ("loss", "val_loss"):
        assert [float(row[name]) for row in logged] == pytest.approx(history.history[name])


def test_a_list_of_keras_s_own_is_called_too(small: sf.Schema) -> None:
    model, epochs = make(small), []
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: epochs.append(epoch))]
    given = keras.callbacks.CallbackList(callbacks, model=model)
    history = model.fit(EVENTS, batch_size=8, epochs=2, verbose=0, callbacks=given)
    assert epochs == history.epoch == [0, 1]
    assert given.callbacks == callbacks, "what was given is left as it was"


def test_tensorboard_gets_the_losses(small: sf.Schema, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='pip install "schemaflow[tensorboard]"')
    board = keras.callbacks.TensorBoard(tmp_path, histogram_freq=1)
    history = make(small).fit(EVENTS, batch_size=8, epochs=2, verbose=0, callbacks=board, validation_data=EVENTS)
    for run, name in (("train", "loss"), ("validation", "val_loss")):
        files = [str(it) for it in (tmp_path / run).glob("events*") if not it.name.endswith("profile-empty")]
        events = [tf.compat.v1.Event.FromString(it.numpy()) for it in tf.data.TFRecordDataset(files)]
        values = [value for event in events for value in event.summary.value]
        losses = [float(tf.make_ndarray(value.tensor)) for value in values if value.tag == "epoch_loss"]
        assert losses == pytest.approx(history.history[name])


def test_an_interrupted_run_and_a_saved_model_go_on_bit_for_bit_in_another_process(
    small: sf.Schema, tmp_path: Path
) -> None:
    schema, table, out = (str(tmp_path / name) for name in ("s.yaml", "t.parquet", "out.npz"))
    small.to_yaml(schema)
    pq.write_table(pa.table(EVENTS), table)
    whole = backed_up(small, table, str(tmp_path / "whole"), lambda _: None)
    whole.save(tmp_path / "model.keras")

    def run(dies: int) -> int:
        arguments = [schema, table, str(tmp_path / "backup"), out, str(dies), str(tmp_path / "model.keras")]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        return done.returncode

    assert run(dies=2) == 9
    assert not Path(out).exists()
    assert run(dies=-1) == 0
    assert same(list(np.load(out).values()), state(whole))
    keras.utils.set_random_seed(6)
    whole.fit(table, batch_size=8, epochs=2, verbose=0)
    assert same(list(np.load(out.replace(".npz", ".loaded.npz")).values()), state(whole))


# -- saving -------------------------------------------------------------------------------------------------------------


def test_training_goes_on_after_load_weights_as_if_nothing_had_been(small: sf.Schema, tmp_path: Path) -> None:
    """Two epochs are one epoch and, after loading, the second: neither the first one's order nor its dropout again."""
    block = {"dropout": 0.3, "normalization": "batch_norm"}
    both, one, again = (make(small, seed, block=block) for seed in (1, 1, 2))
    for model, epochs in ((both, 2), (one, 1)):
        keras.utils.set_random_seed(5)
        model.fit(EVENTS, batch_size=8, epochs=epochs, verbose=0)
    one.save_weights(tmp_path / "it.weights.h5")
    again.load_weights(tmp_path / "it.weights.h5")
    assert same(state(again), state(one))
    assert not same(state(again), state(both))
    keras.utils.set_random_seed(5)
    again.fit(EVENTS, batch_size=8, epochs=2, initial_epoch=1, verbose=0)
    assert same(state(again), state(both))


@pytest.mark.parametrize("name", ["adam", "rmsprop", "half precision"])
def test_a_model_that_was_compiled_and_never_trained_is_saved_and_trains(
    small: sf.Schema, name: str, tmp_path: Path
) -> None:
    """Keras would warn of slots that the file does not hold."""
    model = make(small, dtype="mixed_float16" if name == "half precision" else None)
    model.compile("adam" if name == "half precision" else name)
    model.optimizer.learning_rate = 0.25
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert same(state(again), state(model))
    assert float(again.optimizer.learning_rate) == 0.25
    losses = []
    for it in (model, again):
        it.run_eagerly = True
        keras.utils.set_random_seed(5)
        losses.append(it.fit(EVENTS, batch_size=16, verbose=0).history["loss"])
    assert losses[0] == losses[1]
    again.save(tmp_path / "trained.keras")
    assert same(state(keras.saving.load_model(tmp_path / "trained.keras")), state(again))


# -- compile ------------------------------------------------------------------------------------------------------------


def test_ways_to_run_the_step_give_the_same_numbers(small: sf.Schema) -> None:
    """XLA takes the encoded values of strings and lists; what is raw, in a table or a dataset, is encoded before."""
    numbers = []
    for options in ({}, {"steps_per_execution": 3}, {"run_eagerly": True}, {"jit_compile": True}):
        model = make(small, optimizer=keras.optimizers.SGD(0.5), **options)
        assert model.query_tower.supports_jit == ("jit_compile" in options)
        loss = model.fit(EVENTS, batch_size=8, verbose=0).history["loss"]
        out = model.predict(EVENTS, batch_size=8, verbose=0)
        raw = model.evaluate(tf.data.Dataset.from_tensor_slices(tensors()).batch(8), verbose=0)
        numbers.append(np.concatenate([loss, [raw], out["score"], *out["query"], *out["candidate"]]))
        assert model.jit_compile == ("jit_compile" in options)
        assert numbers[-1] == pytest.approx(numbers[0], rel=1e-5, abs=1e-5)


def test_accumulated_gradients_are_their_mean(small: sf.Schema) -> None:
    """With SGD the step of two half batches is the mean of the steps that each alone would make."""

    def after(*batches: dict[str, Any], **options: Any) -> list[np.ndarray]:
        model = make(small, optimizer=keras.optimizers.SGD(0.5, **options))
        for batch in batches:
            model.train_on_batch(batch)
        return model.get_weights()

    one, two = tensors(0, 8), tensors(8, 16)
    start, halves = after(), (after(one), after(two))
    assert same(after(one, gradient_accumulation_steps=2), start)
    both = after(one, two, gradient_accumulation_steps=2)
    assert not same(both, start)
    for end, first, second in zip(both, *halves, strict=True):
        assert end == pytest.approx((first + second) / 2, abs=1e-6)


# -- half precision -----------------------------------------------------------------------------------------------------


@pytest.fixture
def policy_of_all() -> Iterator[Callable[[str], None]]:
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


PRICES = {"user": [1, 2, 3, 1], "item": [1, 2, 3, 4], "price": np.array([100_000.0, 5.0, 80_000.0, 7.0], np.float32)}


def prices(**options: str) -> sf.Schema:
    ids = {"dtype": "int64", "cardinality": 9}
    return sf.Schema((
        sf.Feature(name="user", tags=("user", "id"), **ids),
        sf.Feature(name="item", tags=("item", "id"), **ids),
        sf.Feature(name="price", dtype="float32", tags=("item", "continuous"), **options),
    )).fit(PRICES)  # fmt: skip


@pytest.mark.parametrize(("policy", "globally"), [("mixed_float16", True), ("mixed_bfloat16", False)])
def test_half_precision_by_argument_and_for_all(
    policy: str, globally: bool, policy_of_all: Callable[[str], None]
) -> None:
    if globally:
        policy_of_all(policy)
    model = make(prices(normalize="standard"), dtype=None if globally else policy)
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    before = model.get_weights()
    losses = model.fit(PRICES, batch_size=4, epochs=20, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert {it.dtype for it in model.weights} == {"float32"}
    assert all(np.isfinite(it).all() for it in model.get_weights())
    assert not same(model.get_weights(), before)
    out = model.predict(PRICES, verbose=0)
    assert out["query"].dtype.name == policy.removeprefix("mixed_")
    assert np.isfinite(out["candidate"].astype(np.float32)).all()


def test_a_number_as_it_stands_is_finite_in_bfloat16_and_refused_in_float16() -> None:
    kept = make(prices(), dtype="mixed_bfloat16")
    kept.fit(PRICES, epochs=3, verbose=0)
    assert np.isfinite(kept.candidate_embeddings(PRICES)).all()
    refused = make(prices(), dtype="mixed_float16")
    for use in (refused.fit, refused.predict):
        with pytest.raises(sf.SchemaFlowError, match=r'^feature "price" is beyond what float16 holds'):
            use(PRICES, verbose=0)
    assert all(np.isfinite(it).all() for it in refused.get_weights())


# -- what goes in -------------------------------------------------------------------------------------------------------


def with_types(**types: pa.DataType) -> pa.Table:
    return pa.table({name: pa.array(values, types.get(name)) for name, values in EVENTS.items()})


CODES = pa.dictionary(pa.int32(), pa.string())
INPUTS: dict[str, Callable[[], Any]] = {
    "dict of arrays, strings as objects": lambda: {
        "user": np.array(EVENTS["user"], object),
        "age": np.array(EVENTS["age"], np.float32),
        "item": np.array(EVENTS["item"], object),
        "genres": np.array([np.array(it, object) for it in EVENTS["genres"]], object),
    },
    "dict of arrays, strings of fixed width": lambda: (
        EVENTS | {name: np.array(EVENTS[name]) for name in ("user", "age", "item")}
    ),
    "dict of polars series": lambda: {name: pl.Series(values) for name, values in EVENTS.items()},
    "arrow": lambda: pa.table(EVENTS),
    "arrow, dictionaries": lambda: with_types(user=CODES, item=CODES, genres=pa.list_(CODES)),
    "arrow, large strings": lambda: with_types(user=pa.large_string(), genres=pa.large_list(pa.large_string())),
    "arrow, views": lambda: with_types(user=pa.string_view(), genres=pa.list_(pa.string_view())),
    "arrow, in chunks": lambda: pa.concat_tables([pa.table(rows_of(0, 5)), pa.table(rows_of(5, ROWS))]),
    "arrow, a batch": lambda: pa.table(EVENTS).to_batches()[0],
    "arrow, a reader": lambda: pa.table(EVENTS).to_reader(),
    "polars": lambda: pl.DataFrame(EVENTS),
    "polars, categories": lambda: pl.DataFrame(EVENTS).with_columns(
        pl.col("user").cast(pl.Categorical), pl.col("item").cast(pl.Enum(sorted(set(EVENTS["item"]))))
    ),
    "a dataset of raw features": lambda: tf.data.Dataset.from_tensor_slices(tensors()).batch(8),
    "a dataset with more in it": lambda: tf.data.Dataset.from_tensor_slices(
        tensors() | {"note": tf.constant(["…"] * ROWS)}
    ).batch(8),
}


def used(model: sf.TwoTowerModel, source: Callable[[], Any], sized: bool = True) -> list[Any]:
    """What `fit`, `evaluate`, `predict` and `query_embeddings` make of a source."""
    size = {"batch_size": 8} if sized else {}
    out = model.predict(source(), verbose=0, **size)
    assert {name: it.shape for name, it in out.items()} == {
        "query": (ROWS, 4),
        "candidate": (ROWS, 4),
        "score": (ROWS,),
    }
    return [
        model.fit(source(), shuffle=False, verbose=0, **size).history["loss"],
        model.evaluate(source(), verbose=0, **size),
        *(out[name].tolist() for name in sorted(out)),
        model.query_embeddings(source()).tolist(),
    ]


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_table_gives_the_same_numbers(still: sf.TwoTowerModel, name: str) -> None:
    sized = "dataset" not in name
    for one, other in zip(used(still, INPUTS[name], sized), used(still, lambda: EVENTS), strict=True):
        assert (
            one == pytest.approx(other, abs=1e-6) if not isinstance(one, list) else np.allclose(one, other, atol=1e-6)
        )


def test_pandas_frames_give_the_same_numbers(still: sf.TwoTowerModel) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with merlin-core, on Python 3.11 alone")
    plain = pandas.DataFrame(EVENTS)
    categories = plain.assign(user=plain["user"].astype("category"), item=plain["item"].astype("string"))
    expected = used(still, lambda: EVENTS)
    for frame in (plain, plain.set_index(plain.index + 7), categories):
        assert used(still, lambda frame=frame: frame) == expected


def test_files_and_folders_give_the_same_numbers(still: sf.TwoTowerModel, tmp_path: Path) -> None:
    for name, (start, stop) in {"a": (0, 20), "b": (20, ROWS)}.items():
        pq.write_table(pa.table(rows_of(start, stop)), tmp_path / f"{name}.parquet", row_group_size=7)
    expected = used(still, lambda: EVENTS)
    assert used(still, lambda: tmp_path) == expected
    assert used(still, lambda: str(tmp_path)) == expected
    encoded = sf.read_parquet(tmp_path, still.schema, batch_size=8)
    assert used(still, lambda: encoded, sized=False) == expected


def test_validation_data_is_anything_that_fit_takes(still: sf.TwoTowerModel, tmp_path: Path) -> None:
    pq.write_table(pa.table(rows_of(8, 24)), tmp_path / "v.parquet")
    expected = still.evaluate(rows_of(8, 24), batch_size=8, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices(tensors(8, 24)).batch(8)
    encoded = sf.read_parquet(tmp_path / "v.parquet", still.schema, batch_size=8)
    for source in (tmp_path / "v.parquet", rows_of(8, 24), pl.DataFrame(rows_of(8, 24)), batches, encoded):
        history = still.fit(EVENTS, batch_size=8, verbose=0, validation_data=source, epochs=2).history
        assert history["val_loss"] == pytest.approx([expected] * 2)
    whole = still.fit(EVENTS, batch_size=8, verbose=0, validation_data=rows_of(8, 24), validation_batch_size=16)
    assert whole.history["val_loss"] == [pytest.approx(still.evaluate(rows_of(8, 24), batch_size=16, verbose=0))]
    assert whole.history["val_loss"] != [pytest.approx(expected)]  # a larger batch has more negatives


def test_what_a_table_replaces_is_refused(still: sf.TwoTowerModel) -> None:
    ones = np.ones(ROWS)
    for arguments, message in [
        ({"y": ones}, r"y=….*columns of x"),
        ({"sample_weight": ones}, "sample_weight=….*tag weight"),
        ({"class_weight": {0: 2.0}}, "class_weight=….*tag weight"),
        ({"validation_split": 0.2}, "validation_split=….*validation_data"),
    ]:
        with pytest.raises(ConfigError, match=message):
            still.fit(EVENTS, verbose=0, **arguments)
    for arguments, message in [({"y": ones}, "y=…"), ({"sample_weight": ones}, "sample_weight=…")]:
        with pytest.raises(ConfigError, match=message):
            still.evaluate(EVENTS, verbose=0, **arguments)
    pairs = tf.data.Dataset.from_tensors((tensors(), tf.ones(ROWS)))
    for use in (still.fit, still.evaluate, still.predict):
        with pytest.raises(ConfigError, match="elements are tuples; expected dicts of features"):
            use(pairs, verbose=0)
    with pytest.raises(ConfigError, match="elements are tuples"):
        still.fit(EVENTS, verbose=0, validation_data=pairs)
    with pytest.raises(ConfigError, match="elements are TensorSpecs"):
        still.fit(tf.data.Dataset.from_tensors(tf.ones((2, 2))), verbose=0)


def test_what_is_no_table_is_refused(still: sf.TwoTowerModel) -> None:
    short = EVENTS | {"age": EVENTS["age"][1:]}
    without = {name: values for name, values in EVENTS.items() if name != "age"}
    for source, message in [
        (np.ones((3, 2)), "expected a Parquet file, a folder of them, .*or a dict of arrays, received ndarray"),
        ([{"user": "u1"}], "or a dict of arrays, received list"),
        (pl.DataFrame(EVENTS).lazy(), "or a dict of arrays, received LazyFrame"),
        (pl.Series([1, 2]), "the table in memory cannot be read"),
        (pl.DataFrame(EVENTS).clear(), "holds no rows"),
        ({}, "holds no rows"),
        (short, "the table in memory cannot be read: Column 1 named age expected length 32 but got length 31"),
        (without, 'feature "age": its column "age" is missing from the table in memory'),
        (EVENTS | {"user": np.array(EVENTS["user"], "S")}, 'the column "user" holds binary, feature "user" expects string'),
        ("nowhere.parquet", "there is no such file or folder"),
    ]:  # fmt: skip
        for use in (still.fit, still.evaluate, still.predict):
            with pytest.raises(DataError, match=message):
                use(source, verbose=0)
    raw = {name: value for name, value in tensors().items() if name != "age"}
    with pytest.raises(ConfigError, match='feature "age" is missing from the inputs'):
        still.fit(tf.data.Dataset.from_tensors(raw), verbose=0)


# -- what comes out -----------------------------------------------------------------------------------------------------


def test_one_batch_by_hand_is_a_dataset_of_one_batch(small: sf.Schema, still: sf.TwoTowerModel) -> None:
    rows = rows_of(0, 8)
    encoded = next(iter(sf.read_parquet(rows, small, batch_size=8)))
    loss, expected = still.evaluate(rows, verbose=0), still.predict(rows, verbose=0)
    for batch in (tensors(0, 8), encoded):
        assert still.test_on_batch(batch) == pytest.approx(loss, rel=1e-6)
        assert still.train_on_batch(batch, return_dict=True) == {"loss": pytest.approx(loss, rel=1e-6)}
        out = still.predict_on_batch(batch)
        assert out.keys() == expected.keys()
        assert all(np.allclose(out[name], expected[name], atol=1e-6) for name in expected)
    # not by Adam, which makes a step of what is but rounding: the gradient of a bias that all candidates share is 0
    fitted, by_hand = (make(small, optimizer=keras.optimizers.SGD(0.5)) for _ in range(2))
    fitted.fit(rows, batch_size=8, shuffle=False, verbose=0)
    by_hand.train_on_batch(tensors(0, 8))
    for one, other in zip(by_hand.weights, fitted.weights, strict=True):
        unseen = [1, 2] if one.path.endswith("_table/embeddings") else []  # which fit settles, and no single step
        pair = (np.delete(it.numpy(), unseen, axis=0) if unseen else it.numpy() for it in (one, other))
        assert next(pair) == pytest.approx(next(pair), abs=1e-6)


def test_losses_come_by_name_and_are_printed(still: sf.TwoTowerModel, capsys: pytest.CaptureFixture[str]) -> None:
    history = still.fit(EVENTS, batch_size=8, epochs=3, verbose=2, validation_data=EVENTS)
    assert isinstance(history, keras.callbacks.History)
    assert set(history.history) == {"loss", "val_loss"}
    printed = capsys.readouterr().out
    assert f"loss: {history.history['loss'][2]:.4f}" in printed
    assert "Epoch 3/3" in printed
    assert still.evaluate(EVENTS, batch_size=8, verbose=0, return_dict=True) == {
        "loss": pytest.approx(history.history["val_loss"][0])
    }
