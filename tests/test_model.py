"""The two-tower model: built from the schema, trained by Keras, saved and loaded."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError, SchemaError

EMBEDDINGS = sf.EmbeddingOptions(embedding_dim_default=4)
RAW = {
    "user_id": tf.constant(["u00003", "nobody", ""]),
    "age": tf.constant([30, 40, 50]),
    "country": tf.constant(["JP", "??", "US"]),
    "item_id": tf.constant(["i00001", "i00002", "nothing"]),
    "genres": tf.constant([["crime", "drama"], ["music", ""], ["", ""]]),
    "price": tf.constant([3.0, 4.0, 5.0]),
}


def small(schema: sf.Schema, **arguments: object) -> sf.TwoTowerModel:
    arguments.setdefault("embedding_options", EMBEDDINGS)
    return sf.TwoTowerModel(schema, sf.MLPBlock([8, 4]), **arguments)  # type: ignore[arg-type]


def test_towers_are_derived_from_the_tags(schema: sf.Schema) -> None:
    model = small(schema)
    assert [it.name for it in model.query_tower.features] == ["user_id", "age", "country"]
    assert [it.name for it in model.item_tower.features] == ["item_id", "genres", "price"]
    assert model.query_tower.encoder.width == 4 + 1 + 4
    users = schema.rows("user_id") * 4
    assert model.query_tower.encoder.encoders["user_id"].table.embeddings.shape == (schema.rows("user_id"), 4)
    assert model.count_params() > users


def test_item_tower_is_a_fresh_copy_of_the_query_tower(schema: sf.Schema) -> None:
    model = small(schema)
    assert model.item_tower.block is not model.query_tower.block
    assert model.item_tower.block.dimensions == [8, 4]
    last = [tower.block.steps[1].dense.kernel.numpy() for tower in (model.query_tower, model.item_tower)]
    assert not np.isclose(last[0], last[1]).any()


def test_raw_and_encoded_input_give_the_same_vectors(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder) -> None:
    table = pq.read_table(data.users)
    encoded = trained.query_embeddings(data.users)
    raw = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    assert trained.query_tower(raw).numpy() == pytest.approx(encoded, abs=1e-6)
    items = pq.read_table(data.items)
    raw_items = {
        "item_id": tf.constant(items["item_id"].to_pylist()),
        "genres": tf.ragged.constant(items["genres"].to_pylist()),
        "price": tf.constant(items["price"].to_pylist()),
    }
    assert trained.item_tower(raw_items).numpy() == pytest.approx(trained.candidate_embeddings(data.items), abs=1e-6)
    out = trained(RAW)
    assert out["score"].numpy() == pytest.approx((out["query"] * out["candidate"]).numpy().sum(axis=1))


def test_any_keras_layer_is_a_tower(schema: sf.Schema) -> None:
    sequential = keras.Sequential([keras.layers.Dense(6, activation="relu"), keras.layers.Dense(4)])
    for block in (keras.layers.Dense(4), sequential):
        model = sf.TwoTowerModel(schema, block, embedding_options=EMBEDDINGS)
        assert model(RAW)["query"].shape == (3, 4)
        assert not np.isclose(model.query_tower.block.weights[0][:1], model.item_tower.block.weights[0][:1]).any()


def test_features_of_one_domain_share_a_table_across_towers() -> None:
    schema = sf.Schema((
        sf.Feature(name="seen", dtype="int64", tags=("user", "sequence"), list={}, domain="item"),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=9, domain="item"),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, keras.layers.Identity(), embedding_options=EMBEDDINGS, correction=None)
    assert model.query_tower.encoder.encoders["seen"].table is model.item_tower.encoder.encoders["item"].table
    assert len(model.trainable_weights) == 1
    out = model({"seen": tf.constant([[5]]), "item": tf.constant([5])})
    assert out["query"].numpy().tolist() == out["candidate"].numpy().tolist()


def test_context_joins_the_query_tower() -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=9),
        sf.Feature(name="hour", dtype="int64", tags=("context", "categorical"), cardinality=24),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=9),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, keras.layers.Dense(2), correction=None)
    assert [it.name for it in model.query_tower.features] == ["user", "hour"]


def test_fit_takes_a_path_a_table_and_a_dataset(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    table = pq.read_table(data.interactions)
    dataset = sf.read_parquet(data.interactions, schema, batch_size=500)
    sized = {"batch_size": 500}
    for source, options in ((data.interactions, sized), (table, {"tables": data.folder, **sized}), (dataset, {})):
        model = small(schema)
        model.compile(optimizer="adagrad")
        history = model.fit(source, verbose=0, validation_data=source, **options)
        assert np.isfinite(history.history["loss"][0])
        assert np.isfinite(history.history["val_loss"][0])
    losses = model.evaluate(dataset, verbose=0)
    assert losses == pytest.approx(model.evaluate(data.interactions, batch_size=500, verbose=0), rel=1e-6)
    out = model.predict(data.interactions, batch_size=700, verbose=0)
    assert out["score"].shape == (table.num_rows,)
    assert out["score"] == pytest.approx((out["query"] * out["candidate"]).sum(axis=1), abs=1e-6)


def test_what_fit_prints_is_a_mean_over_the_rows_of_the_epoch(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    model = small(schema)
    model.compile(optimizer=keras.optimizers.SGD(0.0))  # no rate: the weights stay
    rows = pq.read_table(data.interactions).slice(0, 10)
    printed = model.fit(rows, batch_size=8, shuffle=False, verbose=0, tables=data.folder).history["loss"][0]
    parts = [
        model.evaluate(rows.slice(start, size), batch_size=8, verbose=0, tables=data.folder)
        for start, size in ((0, 8), (8, 2))
    ]
    assert printed == pytest.approx((8 * parts[0] + 2 * parts[1]) / 10, rel=1e-5)


def test_one_model_after_the_other_is_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow counts how often the same code is traced, and five models' first uses would be too often."""
    ids = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=3),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=4),
    ))  # fmt: skip
    for _ in range(6):
        assert sf.TwoTowerModel(ids, sf.MLPBlock([2])).query_embeddings({"user": [1]}).shape == (1, 2)
    assert not caplog.records


def test_training_is_the_same_under_a_seed(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    vectors = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = small(schema)
        model.compile()
        model.fit(data.interactions, batch_size=256, verbose=0)
        vectors.append(model.query_embeddings(data.users))
    assert np.array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])


def test_log_q_is_on_and_comes_from_the_item_counts(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    """The loss of one batch, worked in NumPy from vectors, counts and ids."""
    batch = next(iter(sf.read_parquet(data.interactions, schema, batch_size=64)))
    ids = batch["item_id/encoded"].numpy()
    counts = schema.fitted.counts["item_id"]
    for correction, temperature in (("log_q", 1.0), ("log_q", 0.5), (None, 1.0)):
        model = small(schema, correction=correction, logits_temperature=temperature)
        model.compile()
        out = model(batch)
        logits = out["query"].numpy() @ out["candidate"].numpy().T / temperature
        if correction:
            logits -= np.log(1 - (1 - counts[ids] / counts.sum()) ** 64)
        rows = []
        for row, item in enumerate(ids):
            columns = [row] + [
                column for column, other in enumerate(ids) if other != item and other not in ids[:column]
            ]
            rows.append(np.log(np.exp(logits[row, columns]).sum()) - logits[row, row])
        assert float(model.compute_loss(x=batch, y_pred=out)) == pytest.approx(np.mean(rows), rel=1e-5)


def test_a_batch_of_one_row_and_a_last_short_batch(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    model = small(schema)
    model.compile()
    one = pq.read_table(data.interactions).slice(0, 1)
    assert model.fit(one, verbose=0, tables=data.folder).history["loss"] == [0.0]
    assert np.isfinite(
        model.fit(pq.read_table(data.interactions).slice(0, 9), batch_size=8, verbose=0, tables=data.folder).history[
            "loss"
        ][0]
    )


def test_post_and_l2_normalize_end_both_towers(schema: sf.Schema) -> None:
    for arguments in ({"l2_normalize": True}, {"post": sf.L2Norm()}):
        out = small(schema, **arguments)(RAW)
        for side in ("query", "candidate"):
            assert np.linalg.norm(out[side].numpy(), axis=1) == pytest.approx(np.ones(3), rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_trains_with_a_price_of_100_000(policy: str) -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=50_000),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=9),
        sf.Feature(name="price", dtype="float32", tags=("item", "continuous"), normalize="standard"),
    ))  # fmt: skip
    table = {"user": [49_999, 4097, 4098], "item": [1, 2, 3], "price": np.array([100_000.0, 5.0, 80_000.0], np.float32)}
    model = sf.TwoTowerModel(
        schema.fit(table), sf.MLPBlock([4], dtype=policy), embedding_options=EMBEDDINGS, dtype=policy
    )
    model.compile(optimizer="adam")
    assert np.isfinite(model.fit(table, epochs=3, verbose=0).history["loss"]).all()
    vectors = model.query_embeddings({"user": [4097, 4098, 49_999]})
    assert not np.array_equal(vectors[0], vectors[1])  # float16 would hold 4097 and 4098 as one
    assert np.isfinite(model.candidate_embeddings(table)).all()


def test_a_saved_model_is_the_model_and_goes_on_training(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    trained.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.schema == trained.schema
    assert json.dumps(again.get_config()) == json.dumps(trained.get_config())  # JSON makes lists of tuples
    assert np.array_equal(again.query_embeddings(data.users), trained.query_embeddings(data.users))
    assert np.array_equal(again.candidate_embeddings(data.items), trained.candidate_embeddings(data.items))
    assert int(again.optimizer.iterations) == int(trained.optimizer.iterations)
    before = again.evaluate(data.interactions, batch_size=128, verbose=0)
    again.fit(data.interactions, batch_size=128, epochs=2, verbose=0)
    assert again.evaluate(data.interactions, batch_size=128, verbose=0) < before


def test_a_saved_model_loads_in_a_fresh_process(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    trained.save(tmp_path / "model.keras")
    program = (
        "import keras, numpy, schemaflow.models, sys\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "numpy.save(sys.argv[3], model.query_embeddings(sys.argv[2]))\n"
    )
    out = tmp_path / "vectors.npy"
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.keras", data.users, out], check=True, capture_output=True
    )
    assert np.load(out) == pytest.approx(trained.query_embeddings(data.users), abs=1e-6)


def test_config_keeps_every_argument(schema: sf.Schema) -> None:
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([8, 4], dropout=0.2), sf.MLPBlock([4]), embedding_options=sf.EmbeddingOptions(combiner="sqrtn"),
        post=sf.L2Norm(), logits_temperature=0.3, samplers=[sf.InBatchSampler()], correction=None, l2_normalize=True, name="shop",
    )  # fmt: skip
    again = sf.TwoTowerModel.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert again.retrieval.temperature == 0.3
    assert again.item_tower.block.dimensions == [4]
    assert again.name == "shop"
    own = sf.TwoTowerModel(schema, sf.MLPBlock([4]), prediction_tasks=sf.RetrievalTask(temperature=0.2))
    assert sf.TwoTowerModel.from_config(own.get_config()).retrieval.temperature == 0.2


def test_models_that_cannot_be(schema: sf.Schema, data: sf.datasets.DataFolder) -> None:
    block = sf.MLPBlock([4])
    for error, message, build in [
        (ConfigError, 'no argument "temperature"', lambda: sf.TwoTowerModel(schema, block, temperature=1)),
        (ConfigError, 'no argument "l2_normalise"; did you mean "l2_normalize"', lambda: sf.TwoTowerModel(schema, block, l2_normalise=True)),
        (ConfigError, "query_tower is 64; expected a Keras layer", lambda: sf.TwoTowerModel(schema, 64)),
        (ConfigError, "width 4, the item tower of width 8", lambda: sf.TwoTowerModel(schema, sf.MLPBlock([4]), sf.MLPBlock([8]))),
        (ConfigError, 'unknown loss "mse"', lambda: sf.TwoTowerModel(schema, block, loss="mse")),
        (ConfigError, "in a RetrievalTask there", lambda: sf.TwoTowerModel(schema, block, prediction_tasks=sf.RetrievalTask(), logits_temperature=0.5)),
        (ConfigError, "expected a RetrievalTask, a RegressionTask", lambda: sf.TwoTowerModel(schema, block, prediction_tasks=[])),
        (ConfigError, 'correction is .logq.; did you mean "log_q"', lambda: sf.TwoTowerModel(schema, block, correction="logq")),
        (SchemaError, "no feature is tagged user", lambda: sf.TwoTowerModel(schema.excluding_by_tag("user"), block)),
        (SchemaError, "call schema.fit", lambda: sf.TwoTowerModel(data.schema, block)),
        (ConfigError, 'unknown sampler "inbatch"; did you mean "in-batch"', lambda: sf.TwoTowerModel(schema, block, samplers=["inbatch"])),
        (ConfigError, "pass the table of them: candidates=", lambda: sf.TwoTowerModel(schema, block, samplers=["uniform"])),
        (ConfigError, "expected EmbeddingOptions", lambda: sf.TwoTowerModel(schema, block, embedding_options={"combiner": "sum"})),
        (ConfigError, "post is .*expected a Keras layer", lambda: sf.TwoTowerModel(schema, block, post=[sf.L2Norm()])),
        (ConfigError, "temperature is 'hot'; expected a number above 0", lambda: sf.TwoTowerModel(schema, block, logits_temperature="hot")),
        (SchemaError, "expected a Schema, the path of a schema file", lambda: sf.TwoTowerModel({"a": 1}, block)),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            build()
    dataset = sf.read_parquet(data.interactions, schema, batch_size=50)
    with pytest.raises(ConfigError, match="a dataset is batched"):
        small(schema).predict(dataset, batch_size=10)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        small(schema).predict(data.interactions, batch_size=0)
    model = small(schema)
    with pytest.raises(ConfigError, match=r"TwoTowerModel\(…, loss=…\)"):
        model.compile(loss="mse")
    with pytest.raises(ConfigError, match="need the whole catalogue"):
        model.compile(metrics=["auc"])
    with pytest.raises(ConfigError, match=r"pass it loss_weight="):  # Keras would leave them unused, without a word
        model.compile(loss_weights={"rating": 0.5})


def test_bad_rows_met_while_training_are_the_librarys_own_errors(
    schema: sf.Schema, data: sf.datasets.DataFolder
) -> None:
    """TensorFlow wraps what a generator raises; the model's methods do not."""
    model = small(schema)
    model.compile()
    table = pq.read_table(data.interactions).to_pydict() | {"age": [30] * 2999 + [None]}
    rows = min(len(values) for values in table.values())
    table = {name: values[-rows:] for name, values in table.items()}
    for use in (model.fit, model.evaluate, model.predict):
        with pytest.raises(DataError, match=r'feature "age" is missing') as caught:
            use(table, verbose=0, tables=data.folder)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DataError, match=r'feature "age" is missing'):
        model.query_embeddings({"user_id": ["u"], "age": [None], "country": ["JP"]})


def test_raw_ids_are_not_cut_to_their_dtype() -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int32", tags=("user", "id"), vocabulary=(1, 2)),
        sf.Feature(name="seen", dtype="uint32", tags=("user", "sequence"), list={}, cardinality=9),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=9),
    ))  # fmt: skip
    tower = sf.TwoTowerModel(schema, keras.layers.Dense(2), correction=None).query_tower.encoder
    least = np.iinfo(np.int64).min
    encoded = tower.encoded(
        {"user": tf.constant([2**32 + 1, 1], tf.int64), "seen": tf.constant([[3, 0], [4, least]], tf.int64)}
    )
    assert encoded["user/encoded"].numpy().tolist() == [2, 3]  # 2**32 + 1 is nobody, not user 1
    assert encoded["seen/encoded"].to_list() == [[3, 0], [4]]


def test_wrong_raw_input_is_named(trained: sf.TwoTowerModel) -> None:
    for change, message in [
        ({"age": None}, 'feature "age" is missing from the inputs'),
        ({"age": tf.constant(["x"] * 3)}, 'feature "age": expected int32, received string'),
        ({"age": tf.constant([[1, 2, 3]])}, r'feature "age": expected the shape \[batch\]'),
    ]:
        inputs = {name: value for name, value in {**RAW, **change}.items() if value is not None}
        with pytest.raises(ConfigError, match=message):
            trained.query_tower(inputs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="more values in a row than its max_length of 3"):
        trained.item_tower({**RAW, "genres": tf.constant([["crime"] * 4] * 3)})


def test_the_summary_shows_the_derived_tables(trained: sf.TwoTowerModel) -> None:
    lines: list[str] = []
    trained.summary(print_fn=lambda line, **_: lines.append(line))
    text = "\n".join(lines)
    assert "feature" in text
    assert f"{trained.schema.rows('item_id'):,}" in text
    assert "query_tower" in text
