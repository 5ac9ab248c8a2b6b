"""Compressed tables: rows against NumPy, and all that a model does with a table."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.features.tables import describe_tables, table_specs
from schemaflow.layers.quotient_remainder import QuotientRemainderTable
from tests.oracles import Array

ROWS, DIM, M, RESERVED = 23, 4, 5, 3
IDS = ("user_id", "item_id", "history")


def rows_of(table: QuotientRemainderTable) -> Array:
    """Every row by the definition."""
    quotients, remainders = (it.embeddings.numpy() for it in table.parts())
    rows = list(remainders[: table.reserved])
    for value in range(table.rows - table.reserved):
        pair = quotients[value // table.remainders], remainders[table.reserved + value % table.remainders]
        rows.append(pair[0] * pair[1] if table.operation == "product" else pair[0] + pair[1])
    return np.array(rows)


@pytest.mark.parametrize("operation", ["product", "sum"])
@pytest.mark.parametrize("reserved", [0, RESERVED])
def test_rows_are_those_of_the_definition_and_all_differ(operation: str, reserved: int) -> None:
    keras.utils.set_random_seed(0)
    table = QuotientRemainderTable(ROWS, DIM, M, operation, reserved)
    rows = rows_of(table)
    assert table.kept == sum(it.rows for it in table.parts()) == reserved + M + -(-(ROWS - reserved) // M)
    assert np.array_equal(table(tf.range(ROWS)), rows)
    assert len(np.unique(rows, axis=0)) == ROWS
    assert rows.std() == pytest.approx(0.05 if operation == "product" else 0.07, rel=0.4)
    lists = [[4, 4, 22], [], [0, 7]]
    for jit in (False, True):
        for combiner in ("mean", "sum", "sqrtn", "max"):
            found = table(tf.ragged.constant(lists), combiner=combiner, jit=jit).numpy()
            for row, ids in zip(found, lists, strict=True):
                own = [it for it in ids if it or not reserved]  # row 0 is padding where rows are reserved
                vectors = rows[own] if own else np.zeros((1, DIM))
                norm = {"mean": len(own) or 1, "sum": 1, "sqrtn": np.sqrt(len(own) or 1)}
                expected = vectors.max(axis=0) if combiner == "max" else vectors.sum(axis=0) / norm[combiner]
                assert row == pytest.approx(expected, abs=1e-6)
    weights = tf.ragged.constant([[1.0, 2.0], [0.5]])
    found = table(tf.ragged.constant([[4, 9], [22]]), weights=weights).numpy()
    assert found == pytest.approx(np.stack([(rows[4] + 2 * rows[9]) / 3, rows[22]]), abs=1e-6)


def test_gradients_reach_the_two_rows_of_a_value_and_the_own_row_of_a_reserved_one() -> None:
    table = QuotientRemainderTable(ROWS, DIM, M, "product", RESERVED)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(table(tf.constant([1, 3 + 13])))  # reserved; value 13 is 2 of quotient 2, remainder 3
    by_quotients, by_remainders = tape.gradient(loss, [it.embeddings.value for it in table.parts()])
    assert isinstance(by_quotients, tf.IndexedSlices)
    quotients, remainders = (it.embeddings.numpy() for it in table.parts())
    expected = [np.zeros_like(quotients), np.zeros_like(remainders)]
    expected[0][2], expected[1][RESERVED + 3], expected[1][1] = remainders[RESERVED + 3], quotients[2], 1.0
    for found, wanted in zip((by_quotients, by_remainders), expected, strict=True):
        assert tf.convert_to_tensor(found).numpy() == pytest.approx(wanted)


def test_tables_that_cannot_be() -> None:
    for arguments, message in (
        ((9, 2, 3, "quotient"), "operation is 'quotient'; expected one of product, sum"),
        ((9, 2, 0), "at least 1 remainder"),
        ((9, 2, 3, "sum", 9), "expected values beside the reserved rows"),
        ((9, 2, 8), "8 remainders keep 10 rows of a table of 9, which saves nothing"),
    ):
        with pytest.raises(ConfigError, match=message):
            QuotientRemainderTable(*arguments)


# -- in a schema --------------------------------------------------------------------------------------------------------


def feature(name: str, tags: tuple[str, ...], **said: Any) -> sf.Feature:
    return sf.Feature(name=name, dtype="string", tags=tags, **said)


def shop(compress: dict[str, Any] | None, more: tuple[str, ...] = ()) -> sf.Schema:
    events = {
        "user_id": [f"u{it}" for it in range(30)],
        "item_id": [f"i{it}" for it in range(30)],
        "history": [[f"i{(it + 1) % 30}", "i3"] for it in range(30)],
    }
    embedding = None if compress is None else {"compress": compress}
    schema = sf.Schema((
        feature("user_id", ("user", "id"), vocabulary="learned", embedding=embedding),
        feature("history", ("user", "sequence"), list={}, domain="item"),
        feature("item_id", ("item", "id"), vocabulary="learned", domain="item", embedding=embedding),
    ))  # fmt: skip
    fitted = schema.fit(events)
    if more:
        fitted = fitted.fit({"user_id": list(more), "item_id": list(more), "history": [[it] for it in more]})
    return fitted


EVENTS = {
    "user_id": [f"u{it % 30}" for it in range(90)],
    "item_id": [f"i{it * 7 % 30}" for it in range(90)],
    "history": [[f"i{(it + 1) % 30}"] for it in range(90)],
}


def model_of(schema: sf.Schema, optimizer: Any = "adam") -> sf.TwoTowerModel:
    keras.utils.set_random_seed(0)
    options = sf.EmbeddingOptions(embedding_dim_default=4)
    model = sf.TwoTowerModel(schema, keras.layers.Dense(4), embedding_options=options)
    model.compile(optimizer=optimizer)
    return model


def tables_of(model: sf.TwoTowerModel) -> dict[str, Any]:
    encoders = model.query_tower.encoder.encoders | model.item_tower.encoder.encoders
    return {name: encoders[name].table for name in IDS}


def test_the_schema_says_it_and_the_description_shows_it() -> None:
    schema = shop({"remainders": 4})
    again = sf.Schema.from_config(schema.get_config())
    assert again["item_id"].embedding.compress.operation == "product"
    specs = table_specs(schema, sf.EmbeddingOptions(embedding_dim_default=4))
    assert (specs["item"].rows, specs["item"].kept, specs["item"].parameters) == (33, 15, 60)  # 3 + 4 + 30 / 4
    assert "33 in 15" in describe_tables(specs.values())
    tables = tables_of(model_of(schema))
    assert tables["history"] is tables["item_id"]
    assert tables["item_id"].kept == specs["item"].kept


@pytest.mark.parametrize("optimizer", [sf.optimizers.Adam(0.05), sf.optimizers.Adagrad(0.5, row_wise=True)])
def test_a_model_trains_saves_and_serves_it(optimizer: Any, tmp_path: Path) -> None:
    model = model_of(shop({"remainders": 4, "operation": "sum"}), optimizer)
    losses = model.fit(EVENTS, batch_size=30, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    asked = {name: EVENTS[name][:3] for name in ("user_id", "history")}
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert np.array_equal(again.query_embeddings(asked), model.query_embeddings(asked))
    bundle = model.export(tmp_path / "bundle", {"item_id": [f"i{it}" for it in range(30)]}, k=2)
    assert bundle.query_embeddings(asked) == pytest.approx(model.query_embeddings(asked), abs=1e-6)
    assert np.isfinite(bundle.recommend({"user_id": ["new"], "history": [[]]}).scores).all()


def test_reserved_rows_that_no_example_trains_are_the_mean_of_the_values() -> None:
    model = model_of(shop({"remainders": 4}))
    model.fit(EVENTS, batch_size=32, verbose=0)
    for name in ("user_id", "item_id"):
        rows = rows_of(tables_of(model)[name])
        assert rows[[1, 2]] == pytest.approx(np.tile(rows[3:].mean(axis=0), (2, 1)), abs=1e-6)
    seen = model.query_tower.encoder.rows("user_id", {"user_id": tf.constant(["u0", "who"])})
    assert seen.numpy().tolist() == [model.schema.rows("user_id") - 30, 2]


def test_it_grows_by_quotients_and_keeps_what_was_learned(tmp_path: Path) -> None:
    model = model_of(shop({"remainders": 4}))
    model.fit(EVENTS, batch_size=32, epochs=2, verbose=0)
    new = tuple(f"x{it}" for it in range(7))  # 37 values are 10 quotients, where 30 were 8
    grown = model.grow(shop({"remainders": 4}, new))
    for name in ("user_id", "item_id"):
        was, now = tables_of(model)[name], tables_of(grown)[name]
        assert np.array_equal(rows_of(now)[: was.rows], rows_of(was))
        quotients, before = now.of_quotients.embeddings.numpy(), was.of_quotients.embeddings.numpy()
        assert quotients[8:] == pytest.approx(np.tile(before.mean(axis=0), (2, 1)), abs=1e-6)
    slots = [{it.path.partition("/")[2]: it.numpy() for it in it.optimizer.variables} for it in (model, grown)]
    moved = [name for name in slots[0] if "quotients" in name and "momentum" in name]
    assert len(moved) == 2
    for name in moved:
        assert np.array_equal(slots[1][name][:8], slots[0][name])
        assert not slots[1][name][8:].any()
    grown.fit({"user_id": list(new), "item_id": list(new), "history": [[it] for it in new]}, verbose=0)
    with pytest.raises(
        ConfigError, match='the table of "item_id" is compressed, so that a new id has no row of its own'
    ):
        model.grow(shop({"remainders": 4}, new), {"item_id": ["x0", "i1", "i2"], "history": [["i1"]] * 3})
    with pytest.raises(SchemaError, match="was compressed by the product with 4 remainders and is not compressed"):
        model.grow(shop(None, new))


def test_frozen_by_the_schema_it_stays() -> None:
    schema = sf.Schema((
        feature("user_id", ("user", "id"), hash=40),
        feature("item_id", ("item", "id"), hash=40, embedding={"compress": {"remainders": 5}, "trainable": False}),
    ))  # fmt: skip
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(schema, keras.layers.Dense(4))
    model.compile()
    table = model.item_tower.encoder.encoders["item_id"].table
    before = rows_of(table)
    model.fit({name: EVENTS[name] for name in ("user_id", "item_id")}, verbose=0)
    assert np.array_equal(rows_of(table), before)
    assert not any("item_id_table" in it.path for it in model.trainable_variables)


def test_xla_compiles_it() -> None:
    table = QuotientRemainderTable(ROWS, DIM, M, "product", RESERVED)
    compiled = tf.function(table, jit_compile=True)
    assert compiled(tf.range(ROWS)).numpy() == pytest.approx(rows_of(table), abs=1e-6)


def test_what_does_not_go_with_it_is_refused() -> None:
    pretrained = {"file": "v.parquet", "key": "id", "vector": "v"}
    with pytest.raises(ValueError, match="has a compressed table and pretrained vectors; keep one"):
        feature(
            "a",
            ("item", "id"),
            vocabulary="learned",
            embedding={"compress": {"remainders": 4}, "pretrained": pretrained},
        )
    with pytest.raises(ValueError, match='which has no table; remove "compress" from its embedding'):
        sf.Feature(
            name="a", dtype="float32", tags=("item", "embedding"), embedding={"dim": 3, "compress": {"remainders": 4}}
        )
    with pytest.raises(SchemaError, match="but compress their table in different ways; give one"):
        sf.Schema(tuple(
            feature(name, ("user",), hash=99, domain="one", embedding={"compress": {"remainders": m}})
            for name, m in (("a", 4), ("b", 5))
        ))  # fmt: skip
    whole = feature("a", ("user",), hash=9, embedding={"compress": {"remainders": 9}})
    with pytest.raises(
        SchemaError, match='feature "a" has a table of 12 rows, of which 9 remainders keep 13; lower them'
    ):
        table_specs(sf.Schema((whole,)))


# -- what it is for -----------------------------------------------------------------------------------------------------


def test_it_finds_more_than_hashing_at_equal_size(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    table = pq.read_table(data.interactions)
    train, test = table.slice(0, 1900), table.slice(1900)
    recall, kept = {}, {}
    for name, item in (
        ("compressed", {"vocabulary": "learned", "embedding": {"compress": {"remainders": 7}}}),
        ("hashed", {"hash": 17}),
    ):
        own = sf.Schema(
            (feature("user_id", ("user", "id"), vocabulary="learned"), feature("item_id", ("item", "id"), **item))
        )
        own = own.fit(train)
        keras.utils.set_random_seed(0)
        model = sf.TwoTowerModel(
            own, keras.layers.Dense(16), embedding_options=sf.EmbeddingOptions(embedding_dim_default=16),
            l2_normalize=True, logits_temperature=0.1,
        )  # fmt: skip
        model.compile(optimizer=sf.optimizers.Adam(0.01))
        model.fit(train, batch_size=256, epochs=8, verbose=0)
        kept[name] = table_specs(own)["item_id"].kept
        recall[name] = sf.evaluate(model, test, data.items, ks=[10], exclude=train)["recall@10"]
    assert kept["compressed"] <= kept["hashed"], kept
    assert recall["compressed"] >= 1.1 * recall["hashed"], (recall, kept)
