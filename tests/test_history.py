"""Histories: the encoder by itself, in a model, and out of logs."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data.join import read_table
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.features.histories import events_of
from schemaflow.workflows import train

EVENTS = tf.constant(np.random.default_rng(0).normal(size=(4, 6, 8)), tf.float32)
LENGTHS = [6, 3, 0, 1]
PRESENT = tf.sequence_mask(LENGTHS, 6)
KINDS: list[dict[str, Any]] = [
    {"pooling": "mean", "depth": 0},
    {"pooling": "last", "depth": 2},
    {"pooling": ["mean", "attention", "last"], "depth": 1, "dim": 4},
    {"pooling": ["attention", "mean"], "interests": 3},
]


def made(seed: int = 1, sides: bool = False, **arguments: Any) -> sf.UserHistoryEncoder:
    keras.utils.set_random_seed(seed)
    encoder = sf.UserHistoryEncoder(max_length=9, **arguments)
    encoder.build([(None, None, 8), (None, None, 2)] if sides else (None, None, 8))
    return encoder


def schema(text: str) -> sf.Schema:
    return sf.Schema.from_config({"fitted": {}, "yaml": f"version: 1\nfeatures:\n{text}"})


SHOP = """\
  user:    {dtype: string, tags: [user, id], vocabulary: learned}
  history: {dtype: string, tags: [user, sequence], domain: item, list: {max_length: 4}}
  how:     {dtype: string, tags: [user, action], vocabulary: [buy, view], list: {max_length: 4, aligned_with: history}}
  days:    {dtype: float32, tags: [user], buckets: {quantiles: 3}, list: {max_length: 4, aligned_with: history}}
  item:    {dtype: string, tags: [item, id], vocabulary: learned, domain: item}
  when:    {dtype: int64, tags: [time]}
  what:    {dtype: string}
"""
LOG = {
    "user": ["ann", "ann", "bob", "ann", "ann"],
    "item": ["a", "b", "c", "d", "e"],
    "when": [0, 86_400, 86_400, 172_800, 172_800],
    "what": ["buy", "view", "buy", "view", "buy"],
}
ALIGNED = {"how": "what", "days": "when"}


# -- the encoder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing_and_an_empty_history_is_the_learned_vector(kind: dict[str, Any]) -> None:
    encoder = made(**kind)
    short = encoder(EVENTS, present=PRESENT)
    encoder.empty.assign(tf.range(float(encoder.empty.shape[0])))
    noise = tf.fill((4, 3, 8), 7.0)
    padded = tf.concat([EVENTS, noise], axis=1), tf.pad(PRESENT, [[0, 0], [0, 3]])
    ragged = tf.RaggedTensor.from_tensor(EVENTS, lengths=LENGTHS)
    for found in (encoder(padded[0], present=padded[1]), encoder(ragged)):
        assert np.delete(found, 2, axis=0) == pytest.approx(np.delete(short, 2, axis=0), abs=1e-5)
        assert (found[2].numpy() == encoder.empty.numpy()).all()  # of each interest alike


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_where_a_history_is_empty(kind: dict[str, Any]) -> None:
    encoder = made(**kind)
    for lengths in (LENGTHS, [0, 0, 0, 0]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(tf.RaggedTensor.from_tensor(EVENTS, lengths=lengths), training=True) ** 2)
        gradients = [it for it in tape.gradient(loss, encoder.trainable_variables) if it is not None]
        assert gradients
        assert all(np.isfinite(tf.convert_to_tensor(it)).all() for it in gradients)


def test_places_are_counted_from_the_newest_and_order_matters() -> None:
    encoder = made(pooling="last", depth=1, heads=1)
    encoder.positions.assign(tf.concat([tf.ones((1, 8)), tf.zeros((8, 8))], axis=0))  # the newest place alone
    one, two = encoder(EVENTS[:1, 2:5]), encoder(tf.concat([EVENTS[:1, 4:5], EVENTS[:1, 2:4]], axis=1))
    assert np.abs(one - two).max() > 0.01
    # the older events stand in the same place as far as `positions` tells: their order is no matter
    swapped = encoder(tf.gather(EVENTS[:1], [3, 2, 4], axis=1))
    assert swapped.numpy() == pytest.approx(one.numpy(), abs=1e-6)


def test_the_last_block_computes_the_newest_event_alone_as_it_computes_all() -> None:
    alone, all_of_them = made(pooling="last", dropout=0.0), made(pooling=["last", "mean"], dropout=0.0)
    both = alone(EVENTS, present=PRESENT).numpy(), all_of_them(EVENTS, present=PRESENT).numpy()
    assert both[0] == pytest.approx(both[1][:, :8], abs=1e-5)


def test_what_is_known_of_an_event_is_added_to_its_item() -> None:
    encoder = made(pooling="mean", depth=0, sides=True)
    sides = tf.ones((4, 6, 2))
    plain = made(pooling="mean", depth=0)(EVENTS[:2], present=PRESENT[:2])
    beside = encoder([EVENTS[:2], sides[:2]], present=PRESENT[:2])
    moved = tf.reduce_sum(encoder.side_map.kernel, axis=0)
    assert beside.numpy() == pytest.approx((plain + moved).numpy(), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "men"}, "unknown pooling 'men'; did you mean \"mean\""),
        ({"pooling": []}, "unknown pooling None"),
        ({"pooling": ["mean", "mean"]}, "name each once"),
        ({"depth": -1}, "depth is -1; expected an integer of at least 0"),
        ({"heads": 0}, "heads is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"mask_target": 1}, "mask_target is 1"),
        ({"interests": 2, "pooling": "mean"}, 'put "attention" among the poolings'),
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.UserHistoryEncoder(**arguments)


def test_widths_and_lengths_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="8 wide, which 3 heads do not share evenly"):
        made(heads=3)
    with pytest.raises(ConfigError, match="pass max_length"):
        sf.UserHistoryEncoder()(tf.RaggedTensor.from_tensor(EVENTS, lengths=LENGTHS))
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than 9"):
        made()(tf.ones((1, 10, 8)))


# -- which events it is shown -----------------------------------------------------------------------------------------


def test_padding_and_the_own_item_are_no_events_and_what_is_aligned_goes_with_them() -> None:
    shop = schema(SHOP)
    rows = {
        "history/encoded": tf.constant([[3, 4, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]),
        "how/encoded": tf.constant([[1, 2, 3, 0], [4, 0, 0, 0], [0, 0, 0, 0]]),
    }
    found = events_of(shop["history"], [shop["how"]], rows, padded=True, target=tf.constant([3, 3, 3]))
    assert [it.to_list() for it in found] == [[[4], [4], []], [[2], [4], []]]
    found = events_of(shop["history"], [shop["how"]], rows, padded=True)
    assert [it.to_list() for it in found] == [[[3, 4, 3], [4], []], [[1, 2, 3], [4], []]]


def model_of(**arguments: Any) -> tuple[sf.TwoTowerModel, pa.Table]:
    shop = schema(SHOP)
    table = sf.histories(LOG, shop, aligned=ALIGNED)
    keras.utils.set_random_seed(0)
    encoder = sf.UserHistoryEncoder(**{"depth": 1, "dim": 8, **arguments})
    options = sf.EmbeddingOptions(embedding_dim_default=6, embeddings_l2_reg=1e-3)
    return sf.TwoTowerModel(
        shop.fit(table), sf.MLPBlock([4]), history=encoder, embedding_options=options, correction=None
    ), table


def test_a_model_trains_saves_and_answers_from_raw_lists(tmp_path: Path) -> None:
    model, table = model_of(pooling=["mean", "attention"])
    model.compile(optimizer="adam")
    model.fit(table, batch_size=3, epochs=1, verbose=0)
    vectors = model.query_embeddings(table)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert np.array_equal(again.query_embeddings(table), vectors)
    recommender = model.export(tmp_path / "bundle", {"item": list("abcde")})
    query = {name: table[name].to_pylist() for name in ("user", "history", "how", "days")}
    assert recommender.query_embeddings(query) == pytest.approx(vectors, abs=1e-6)
    with pytest.raises(ConfigError, match='feature "how" and its sequence "history" differ in length in a row'):
        recommender.query_embeddings({**query, "how": [["buy"]] * 5})


def test_several_interests_reach_the_query_and_growth_keeps_the_encoder() -> None:
    model, table = model_of(interests=2)
    vectors = model.query_embeddings(table)
    assert vectors.shape == (5, 2, 4)
    assert np.abs(vectors[1:, 0] - vectors[1:, 1])[[0, 2, 3]].min(axis=1).max() > 0  # of one event, both are that
    grown = model.grow(model.schema.fit({**LOG, "item": list("vwxyz")}))
    assert np.array_equal(grown.query_embeddings(table), vectors)


def leaking(encoded: dict[str, Any]) -> dict[str, Any]:
    """Return a batch whose histories end with the row's own item."""
    own, found = encoded["item/encoded"], dict(encoded)
    for name, value in (("history", own), ("how", tf.ones_like(own)), ("days", tf.ones_like(own))):
        lists = tf.cast(encoded[f"{name}/encoded"], value.dtype)
        found[f"{name}/encoded"] = tf.concat([lists, value[:, tf.newaxis]], axis=1)
    return found


def test_the_target_never_sits_in_its_own_history_where_it_is_to_be_found() -> None:
    """A row's query is the same whether its own item is in its history or not; without the mask it is another."""
    same = {}
    for masked in (True, False):
        model, table = model_of(mask_target=masked, dropout=0.0)
        model.compile()
        encoded = next(iter(sf.read_parquet(table, model.schema, batch_size=5)))
        told = leaking(encoded)
        one, other = (model(it, training=True)["query"].numpy() for it in (encoded, told))
        losses = [model.evaluate(tf.data.Dataset.from_tensors(it), verbose=0) for it in (encoded, told)]
        same[masked] = np.allclose(one, other, atol=1e-6), losses[0] == pytest.approx(losses[1], abs=1e-6)
        assert not np.allclose(model(told)["query"], one, atol=1e-6)  # where a query is asked for, it is known
    assert same == {True: (True, True), False: (False, False)}


def test_what_a_callback_asks_within_an_evaluation_is_not_hidden() -> None:
    model, table = model_of(dropout=0.0)
    model.compile()
    told = tf.data.Dataset.from_tensors(leaking(next(iter(sf.read_parquet(table, model.schema, batch_size=5)))))
    scores = model(next(iter(told)))["score"].numpy()

    class Asking(keras.callbacks.Callback):
        def on_test_end(self, logs: Any = None) -> None:
            self.found = self.model.predict(told, verbose=0)["score"]

    asking = Asking()
    model.evaluate(told, verbose=0, callbacks=[asking])
    assert asking.found == pytest.approx(scores, abs=1e-6)
    assert model.predict(told, verbose=0)["score"] == pytest.approx(scores, abs=1e-6)


def test_items_out_of_the_vocabulary_hide_no_other_of_their_kind() -> None:
    model, table = model_of(dropout=0.0)
    strange = table.slice(4).set_column(table.column_names.index("item"), "item", pa.array(["new"]))
    history, place = pa.array([["other", "newer"]]), table.column_names.index("history")
    encoded = next(iter(sf.read_parquet(strange.set_column(place, "history", history), model.schema, batch_size=1)))
    assert np.allclose(model(encoded, training=True)["query"], model(encoded)["query"], atol=1e-6)


def test_evaluation_tells_of_histories_that_give_positives_away() -> None:
    model, table = model_of()
    report = sf.evaluate(model, table, {"item": list("abcde")}, ks=(2,))
    assert "positives in their own query's history" not in report.protocol
    whole = table.set_column(table.column_names.index("history"), "history", pa.array([["b", "a"]] * 5))
    whole = whole.set_column(whole.column_names.index("how"), "how", pa.array([["buy", "buy"]] * 5))
    whole = whole.set_column(
        whole.column_names.index("days"), "days", pa.array([[1.0, 2.0]] * 5, pa.list_(pa.float32()))
    )
    report = sf.evaluate(model, whole, {"item": list("abcde")}, ks=(2,))  # a and b of five
    assert report.protocol["positives in their own query's history"] == 2
    with pytest.warns(UserWarning, match="2 of 2 positives stand in the history of their own query, which gives them"):
        sf.evaluate(model, whole.slice(0, 2), {"item": list("abcde")}, ks=(2,))


def test_history_needs_a_sequence_that_it_can_read() -> None:
    encoder = sf.UserHistoryEncoder()
    ids = SHOP.splitlines()[0] + "\n" + "  item: {dtype: string, tags: [item, id], vocabulary: learned, domain: item}\n"
    for text, message in [
        (ids, r'add one, such as "history: \{dtype: string, tags: \[user, sequence\], domain: item'),
        (
            ids + "  h: {dtype: string, tags: [user, sequence], domain: item, list: {}}\n",
            'add "max_length" to its list',
        ),
        (
            ids
            + "  h: {dtype: string, tags: [user, sequence], domain: item, list: {weights: w}}\n"
            + "  w: {dtype: float32, tags: [user, weight], list: {}}\n",
            "a sequence with weights, which history=… does not read",
        ),
    ]:
        fitted = schema(text).fit({"user": ["u"], "item": ["i"], "h": [["i"]], "w": [[1.0]]})
        with pytest.raises(SchemaError, match=message):
            sf.TwoTowerModel(fitted, sf.MLPBlock([4]), history=encoder)
    with pytest.raises(ConfigError, match="expected a UserHistoryEncoder"):
        sf.TwoTowerModel(fitted, sf.MLPBlock([4]), history="mean")
    model, _ = model_of()
    with pytest.raises(ConfigError, match="XLA compiles no histories"):
        model.compile("adam", jit_compile=True)


def test_lists_that_are_aligned_are_as_long_as_their_sequence() -> None:
    shop = schema(SHOP).fit(sf.histories(LOG, schema(SHOP), aligned=ALIGNED))
    table = sf.histories(LOG, schema(SHOP), aligned=ALIGNED)
    cut = table.set_column(table.column_names.index("how"), "how", pa.array([[], [], [], ["buy"], ["view"]]))
    with pytest.raises(DataError, match='row 1: feature "how" has 0 values and its sequence "history" 1; expected one'):
        read_table(cut, shop)
    for text, message in [
        ("aligned_with: histroy", 'aligned with "histroy", which is not a feature here; did you mean "history"'),
        ("aligned_with: user", 'aligned with "user", which is no sequence of events of its own'),
        ("aligned_with: days", 'aligned with "days", which is no sequence of events of its own'),
    ]:
        with pytest.raises(SchemaError, match=message):
            schema(
                SHOP.replace(
                    "list: {max_length: 4, aligned_with: history}}\n  days",
                    f"list: {{max_length: 4, {text}}}}}\n  days",
                )
            )
    with pytest.raises(SchemaError, match="has a max_length of 4 and is aligned with"):
        schema(SHOP.replace("domain: item, list: {max_length: 4}", "domain: item, list: {max_length: 5}"))
    with pytest.raises(SchemaError, match="is on another side; tag them alike"):
        schema(SHOP.replace("[user, action]", "[context, action]"))
    with pytest.raises(SchemaError, match="is tagged action but aligned with no sequence"):
        schema(SHOP.replace(", aligned_with: history}}\n  days", "}}\n  days"))


# -- out of logs ------------------------------------------------------------------------------------------------------


def test_histories_by_hand() -> None:
    table = sf.histories(LOG, schema(SHOP), aligned=ALIGNED)
    assert table["history"].to_pylist() == [[], ["a"], [], ["a", "b"], ["a", "b"]]  # d and e are of one moment
    assert table["how"].to_pylist() == [[], ["buy"], [], ["buy", "view"], ["buy", "view"]]
    assert table["days"].to_pylist() == [[], [1.0], [], [2.0, 1.0], [2.0, 1.0]]
    test = {"user": ["ann", "eve"], "item": ["x", "x"], "when": [10**6, 0]}
    found = sf.histories(test, schema(SHOP), log=LOG, aligned=ALIGNED)
    assert found["history"].to_pylist() == [["a", "b", "d", "e"], []]
    assert found.column_names == ["user", "item", "when", "history", "how", "days"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_histories_are_those_of_a_plain_loop(data: st.DataObject) -> None:
    event = st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 1))
    log, rows = (data.draw(st.lists(event, min_size=1, max_size=12)) for _ in range(2))
    shop = schema(SHOP.replace("max_length: 4", "max_length: 3") + "  bad: {dtype: int8, tags: [explicit_negative]}\n")
    names = ("user", "item", "when", "bad")
    past, asked = (
        {name: list(it) for name, it in zip(names, zip(*rows_, strict=True), strict=True)} for rows_ in (log, rows)
    )
    past["what"] = past["item"]
    expected = [
        [
            (it, (when - at) / 86_400)
            for who, it, at, bad in sorted(log, key=lambda event: event[2])
            if who == user and at < when and not bad
        ][-3:]
        for user, _, when, _ in rows
    ]
    found = sf.histories(asked, shop, log=past, aligned=ALIGNED)
    assert found["history"].to_pylist() == found["how"].to_pylist() == [[it for it, _ in row] for row in expected]
    assert found["days"].to_pylist() == [pytest.approx([days for _, days in row]) for row in expected]


def test_whole_sequences_become_a_row_for_each_event() -> None:
    table = sf.expand_sequences(
        {"user": ["ann", "bob", "eve"], "history": [list("abcdef"), [], ["x"]], "how": [["buy"] * 6, [], ["view"]], "days": [[1.0] * 6, [], [2.0]]},
        schema(SHOP),
    )  # fmt: skip
    assert table["user"].to_pylist() == ["ann"] * 6 + ["eve"]
    assert table["item"].to_pylist() == [*"abcdef", "x"]
    assert table["remaining"].to_pylist() == [5, 4, 3, 2, 1, 0, 0]
    assert table["history"].to_pylist()[4:] == [list("abcd"), list("bcde"), []]
    assert list(map(len, table["how"].to_pylist())) == list(map(len, table["history"].to_pylist()))


def test_sequences_of_users_can_be_a_side_table(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    text = (
        "  user: {dtype: string, tags: [user, id], vocabulary: learned}\n"
        "  history: {dtype: string, tags: [user, sequence], column: item_ids, domain: item, list: {max_length: 4}}\n"
        "  item: {dtype: string, tags: [item, id], vocabulary: learned, domain: item}\n"
        "tables: {sequences: {file: sequences.parquet, key: user}}\n"
    )
    pq.write_table(pa.table({"user": ["ann", "bob"], "item_ids": [["a", "b"], ["c"]]}), tmp_path / "sequences.parquet")
    events = {"user": ["bob", "ann", "ann"], "item": ["c", "b", "a"]}
    shop = schema(text).fit(events, tmp_path / "sequences.parquet")
    batch = next(iter(sf.read_parquet(events, shop, batch_size=3, tables=tmp_path)))
    items = dict(enumerate(shop.vocabulary("item").to_pylist(), 3))
    assert [[items[it] for it in row] for row in batch["history/encoded"].to_list()] == [["c"], ["a", "b"], ["a", "b"]]


def test_logs_that_tell_no_histories() -> None:
    with pytest.raises(
        ConfigError, match=r"aligned names how; expected the features that are aligned with .* \(how, days\)"
    ):
        sf.histories(LOG, schema(SHOP), aligned={"how": "what"})
    with pytest.raises(DataError, match='row 1: feature "when" is missing; histories need it'):
        sf.histories({**LOG, "when": [0, None, 1, 2, 3]}, schema(SHOP), aligned=ALIGNED)
    with pytest.raises(DataError, match='has a column "history" already'):
        sf.histories({**LOG, "history": [[]] * 5}, schema(SHOP), aligned=ALIGNED)
    with pytest.raises(SchemaError, match="one time; found none"):
        sf.histories(LOG, schema(SHOP.replace("  when:    {dtype: int64, tags: [time]}\n", "")), aligned=ALIGNED)
    with pytest.raises(ConfigError, match='unknown rule "ordr"; did you mean "order"'):
        sf.datasets.sequences("/nowhere", "ordr")
    with pytest.raises(ConfigError, match="clusters is 3; expected an integer of at least 4"):
        sf.datasets.sequences("/nowhere", clusters=3)


def test_a_run_file_says_it_too(tmp_path: Path) -> None:
    sf.datasets.sequences(tmp_path, rows=200, test_rows=10)
    (tmp_path / "it.run.yaml").write_text(
        "version: 1\nschema: schema.yaml\ntowers: {query: {dimensions: [8]}, history: {pooling: [last, mean], depth: 0}}\n"
        "embedding_options: {embedding_dim_default: 8}\nepochs: 1\n",
        encoding="utf-8",
    )
    model = train(sf.RunConfig.from_yaml(tmp_path / "it.run.yaml")).model
    assert model.query_tower.encoder.shape == (16,)


# -- what it learns ---------------------------------------------------------------------------------------------------


def test_attention_learns_the_rule_of_order_that_the_mean_cannot(tmp_path: Path) -> None:
    """A short run of benchmarks/systems/history.py, in a smaller world."""
    data = sf.datasets.sequences(tmp_path, "order", rows=2000, test_rows=500, clusters=8, each=3, seed=3)
    fitted = sf.Schema.from_yaml(data.schema).fit(data.interactions, data.items)
    found = {}
    for name, encoder in (
        ("mean", sf.UserHistoryEncoder("mean", depth=0)),
        ("last", sf.UserHistoryEncoder("last", depth=1, dropout=0.0)),
    ):
        keras.utils.set_random_seed(0)
        options = sf.EmbeddingOptions(embedding_dim_default=16)
        model = sf.TwoTowerModel(fitted, sf.MLPBlock([16]), sf.MLPBlock([]), history=encoder, embedding_options=options)
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(data.interactions, batch_size=50, epochs=4, verbose=0)
        found[name] = sf.evaluate(model, data.test, data.items, ks=(3,))["recall@3"]
    assert found["last"] >= found["mean"] + 0.3, found
