"""Each key of the grammar has its consequence: by hand, in the pipeline and the graph alike, and in an exported bundle."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data.encode import Lists
from schemaflow.data.join import read_table
from schemaflow.errors import DataError, SchemaError
from schemaflow.features.encoders import FeatureEncoder, build_tables
from schemaflow.schema.columns import missing_value
from schemaflow.schema.hashing import hash_buckets
from tests import everything

USER: dict[str, Any] = {"dtype": "string", "tags": ["user", "id"], "vocabulary": ["u"]}
ITEM: dict[str, Any] = {"dtype": "string", "tags": ["item", "id"], "vocabulary": ["a", "b"]}


def schema_of(**features: dict[str, Any]) -> sf.Schema:
    return sf.Schema(tuple(sf.Feature.model_validate({"name": name, **spec}) for name, spec in features.items()))


def encoded(spec: dict[str, Any], values: Any) -> list[Any]:
    """Return what a column of one feature becomes, after fitting on it."""
    table = {"x": values}
    column = read_table(table, schema_of(x=spec).fit(table))["x"]
    if isinstance(column, Lists):
        return [column.values[a:b].tolist() for a, b in zip(column.splits[:-1], column.splits[1:], strict=True)]
    return column.tolist()  # type: ignore[no-any-return]


def number(**spec: Any) -> dict[str, Any]:
    return {"dtype": "float64", "tags": ["item", "continuous"], **spec}


def moment(**time: Any) -> dict[str, Any]:
    return {"dtype": "int64", "tags": ["context"], "time": time}


def word(**spec: Any) -> dict[str, Any]:
    return {"dtype": "string", "tags": ["item", "categorical"], **spec}


# 1970 began on a Thursday; 1_700_000_000 is Tuesday 2023-11-14, 22:13:20 UTC
@pytest.mark.parametrize(
    ("spec", "values", "expected"),
    [
        (number(normalize="standard"), [1.0, 3.0], [-1.0, 1.0]),
        (number(normalize="min-max"), [2.0, 4.0, 10.0], [0.0, 0.25, 1.0]),
        (number(normalize="log1p"), [0.0, np.e - 1], [0.0, 1.0]),
        (number(missing="mean"), [1.0, None, 5.0], [1.0, 3.0, 5.0]),
        (number(missing={"value": -1}), [1.0, None], [1.0, -1.0]),
        (number(missing={"value": 1}, normalize="standard"), [1.0, None, 4.0], pytest.approx([-(0.5**0.5)] * 2 + [2**0.5])),
        (number(buckets=[18, 25]), [17.9, 18.0, 24.9, 25.0, None], [3, 4, 4, 5, 1]),
        (number(buckets=[18, 25], missing={"value": 20}), [None], [4]),
        (number(buckets=[2], missing="mean"), [0.0, 6.0, None], [3, 4, 4]),
        (number(buckets={"quantiles": 4}), [float(it) for it in range(1, 9)], [3, 3, 4, 4, 5, 5, 6, 6]),
        (number(buckets={"quantiles": 4}), [7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 7.0, 9.0], [3] * 7 + [4]),
        (moment(take="hour"), [0, 3599, 3600, 1_700_000_000, -1, None], [3, 3, 4, 25, 26, 1]),
        (moment(take="weekday"), [0, 4 * 86400, 1_700_000_000, -86_400, None], [6, 3, 4, 5, 1]),
        (moment(take="hour", unit="ns"), [3_600_000_000_000], [4]),
        (moment(take="age"), [86_400, 0, 43_200], [0.0, 1.0, 0.5]),
        ({**moment(take="age", unit="ms"), "buckets": [1, 2]}, [172_800_000, 86_400_000, 0], [3, 4, 5]),
        ({**moment(take="age"), "buckets": {"quantiles": 2}}, [0, 86_400, 172_800, 259_200], [4, 4, 3, 3]),
        ({**moment(take="hour")}, pa.array([3600], pa.timestamp("s", "Europe/Rome")), [4]),
        ({**moment(take="weekday")}, pa.array([0], pa.date32()), [6]),
        (word(vocabulary=["p", "q"], missing={"value": "q"}), ["p", None, ""], [3, 4, 4]),
        (word(vocabulary="learned", missing={"value": "z"}), ["p", "p", None], [3, 3, 4]),
        ({"dtype": "int8", "tags": ["item", "categorical"], "cardinality": 2}, [True, False], [1, 0]),
        ({"dtype": "string", "tags": ["item", "text"], "vocabulary": ["tea", "dont"]}, ["Tea, don't!", None, " "], [[3, 4], [], []]),
        ({"dtype": "string", "tags": ["item", "text"], "vocabulary": ["Tea!"], "text": {"standardize": "none"}}, ["Tea! tea!"], [[3, 2]]),
        ({"dtype": "string", "tags": ["item", "text"], "vocabulary": ["é", "t"], "text": {"split": "character"}}, ["T É"], [[4, 3]]),
        ({"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 2}}, [[1.0, 2.5]], [[1.0, 2.5]]),
        (
            {"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 2}, "missing": {"value": 0}},
            [[1.5, 2.5], None],
            [[1.5, 2.5], [0.0, 0.0]],
        ),
    ],
)  # fmt: skip
def test_by_hand(spec: dict[str, Any], values: Any, expected: list[Any]) -> None:
    assert encoded(spec, values) == expected


@given(st.lists(st.text(max_size=90), min_size=1, max_size=30), st.integers(1, 10**6))
def test_strings_are_hashed_as_in_the_graph(texts: list[str], buckets: int) -> None:
    expected = tf.strings.to_hash_bucket_fast(tf.constant(texts), buckets).numpy()
    assert hash_buckets(pa.array(texts, pa.large_string()), buckets).tolist() == expected.tolist()


def test_texts_of_every_length_are_hashed_as_in_the_graph() -> None:
    texts = ["".join(chr(33 + (it * 7 + n) % 90) for it in range(n)) for n in range(300)]
    expected = tf.strings.to_hash_bucket_fast(tf.constant(texts), 2**40).numpy()
    whole = pa.array(["before", *texts], pa.large_string()).slice(1)  # a slice has its offsets elsewhere
    assert hash_buckets(whole, 2**40).tolist() == expected.tolist()
    assert hash_buckets(pa.array([-5, 10**18]), 97).tolist() == hash_buckets(pa.array(["-5", str(10**18)]), 97).tolist()


def test_hashed_and_out_of_vocabulary_values_have_rows_of_their_own() -> None:
    table = {"x": ["p", "q", "new", "newer", None]}
    hashed = read_table(table, schema_of(x=word(hash=1000)))["x"].tolist()
    assert hashed == [*(3 + hash_buckets(pa.array(table["x"][:4]), 1000)).tolist(), 1]
    assert schema_of(x=word(hash=1000)).rows("x") == 1003
    spread = schema_of(x=word(vocabulary=["p", "q"], oov=3))
    assert spread.rows("x") == 2 + 3 + 2
    rows = read_table(table, spread)["x"].tolist()
    assert rows[:2] == [5, 6]
    assert rows[2:4] == (2 + hash_buckets(pa.array(["new", "newer"]), 3)).tolist()
    assert rows[4] == 1


def test_a_vocabulary_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("tea\ncup\n", encoding="utf-8")
    pq.write_table(pa.table({"code": [7, 9], "other": [0, 0]}), tmp_path / "codes.parquet")
    path = tmp_path / "shop.yaml"
    path.write_text(
        "version: 1\nfeatures:\n"
        "  word: {dtype: string, tags: [item, categorical], vocabulary: {file: words.txt}}\n"
        "  code: {dtype: int64, tags: [item, categorical], vocabulary: {file: codes.parquet, column: code}}\n",
        encoding="utf-8",
    )
    table = {"word": ["cup", "tea", "pot"], "code": [9, 8, 7]}
    with pytest.raises(SchemaError, match=r'"word" has no vocabulary yet; call schema.fit'):
        read_table(table, sf.Schema.from_yaml(path))
    schema = sf.Schema.from_yaml(path).fit(table)
    read = read_table(table, schema)
    assert (read["word"].tolist(), read["code"].tolist()) == ([4, 3, 2], [4, 2, 3])
    schema.to_yaml(tmp_path / "elsewhere" / "shop.yaml")
    moved = sf.Schema.from_yaml(tmp_path / "elsewhere" / "shop.yaml")
    assert moved.fit(table) == schema  # the values came along, the file need not
    for text, message in [
        ("tea\ntea\n", "'tea' stands twice"),
        ("tea\n\ncup\n", "is missing or empty"),
        ("", "the file is empty"),
    ]:
        (tmp_path / "words.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            sf.Schema.from_yaml(path).fit(table)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(DataError, match=r"there is no .*words.txt; put it there"):
        sf.Schema.from_yaml(path).fit(table)


def test_a_table_begins_with_pretrained_vectors_and_may_stay_with_them(tmp_path: Path) -> None:
    vectors = pa.table({"key": ["b", "z"], "v": pa.array([[1.0, 3.0], [9.0, 9.0]], pa.list_(pa.float32()))})
    pq.write_table(vectors, tmp_path / "v.parquet")
    pretrained = {"file": "v.parquet", "key": "key", "vector": "v"}
    events = pa.table({"user": ["u", "w"], "item": ["a", "b"]})
    pq.write_table(events, tmp_path / "events.parquet")
    for trainable in (True, False):
        item = {**ITEM, "embedding": {"pretrained": pretrained, "trainable": trainable}}
        schema = schema_of(user={**USER, "vocabulary": ["u", "w"]}, item=item).fit(tmp_path / "events.parquet")
        model = sf.TwoTowerModel(
            schema, sf.MLPBlock([2]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=2)
        )
        table = model.item_tower.encoder.encoders["item"].table
        # b has a vector of its own; all other rows begin with the mean of those that are used
        assert table.embeddings.numpy().tolist() == [[1.0, 3.0]] * 5
        model.compile(optimizer="adam")
        model.fit(events, verbose=0)
        assert (table.embeddings.numpy() == [1.0, 3.0]).all() != trainable
        assert (table.trainable_variables == []) != trainable
    wrong = schema_of(user=USER, item={**ITEM, "embedding": {"pretrained": pretrained, "dim": 3}})
    with pytest.raises(SchemaError, match=r"asks for the width 3, but the pretrained vectors .* are 2 wide"):
        wrong.fit(tmp_path / "events.parquet")
    pq.write_table(vectors.slice(1), tmp_path / "v.parquet")
    with pytest.raises(DataError, match='none of the 2 values of feature "item" has a vector'):
        schema.unfitted().fit(tmp_path / "events.parquet")


def test_weights_of_a_list_by_hand() -> None:
    table = sf.EmbeddingTable(4, 1, initializer="zeros")
    table.embeddings.assign([[0.0], [1.0], [10.0], [100.0]])
    ids, weights = (
        tf.ragged.constant([[1, 2], [3], [], [2, 3]]),
        tf.ragged.constant([[3.0, 1.0], [2.0], [], [0.0, 0.0]]),
    )
    for combiner, expected in [
        ("mean", [(3 + 10) / 4, 100.0, 0.0, 0.0]),
        ("sum", [13.0, 200.0, 0.0, 0.0]),
        ("sqrtn", [13 / 10**0.5, 100.0, 0.0, 0.0]),
    ]:
        assert table(ids, combiner=combiner, weights=weights).numpy()[:, 0].tolist() == pytest.approx(expected)
    schema = schema_of(
        user=USER,
        item=ITEM,
        tags={"dtype": "int64", "tags": ["item", "categorical"], "cardinality": 4, "list": {"weights": "n"}},
        n={"dtype": "int32", "tags": ["item", "weight"], "list": {}},
    )
    raw = {"user": ["u"], "item": ["a"], "tags": [[1, 2]], "n": [[3, 1]]}
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([2]), correction=None, embedding_options=sf.EmbeddingOptions(embedding_dim_default=1)
    )
    encoder = model.item_tower.encoder
    encoder.encoders["tags"].table.embeddings.assign([[0.0], [1.0], [10.0], [100.0]])
    (batch,) = sf.read_parquet(raw, schema, batch_size=1)
    assert float(encoder(batch)[0, -1]) == 13 / 4
    padded = {"item": tf.constant(["a"]), "tags": tf.constant([[1, 2]]), "n": tf.constant([[3, 1]])}
    assert float(encoder(padded)[0, -1]) == 13 / 4
    for values, weight, message in [
        ([[1, 2]], [[3]], "has 2 values and its weights \"n\" 1"),
        ([[1, None]], [[3, 1]], "misses a value inside its list"),
        ([[1, 2]], [[3, None]], "misses a value inside its list"),
        ([[1, 2]], [[3, -1]], "is -1, which is below 0"),
    ]:  # fmt: skip
        table_ = pa.table(
            {**raw, "tags": pa.array(values, pa.list_(pa.int64())), "n": pa.array(weight, pa.list_(pa.int32()))}
        )
        with pytest.raises(DataError, match=message):
            read_table(table_, schema)
    assert schema.select_by_name(["item", "tags"]).column_names == ["item", "tags", "n"]


def test_a_row_of_weight_zero_takes_no_part_in_the_loss() -> None:
    features = {"user": {**USER, "vocabulary": ["u", "w"]}, "item": ITEM}
    table = {"user": ["u", "w"], "item": ["a", "b"], "w": [1.0, 0.0]}
    schema = schema_of(**features, w={"dtype": "float32", "tags": ["weight"]}).fit(table)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([2]))
    model.compile(optimizer="adam")
    batch = next(iter(sf.read_parquet(table, schema, batch_size=2)))
    out = model(batch)
    losses = []
    for weights in ([1.0, 0.0], [0.0, 1.0], [1.0, 3.0]):
        batch["w/encoded"] = tf.constant(weights)
        losses.append(float(model.compute_loss(x=batch, y_pred=out)))
    assert losses[2] == pytest.approx((losses[0] + 3 * losses[1]) / 4)
    assert losses[0] != losses[1]
    with pytest.raises(DataError, match=r'"w" is -1.0, which is below 0'):
        model.fit({**table, "w": [1.0, -1.0]}, verbose=0)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (number(normalize="log1p"), [1.0, -1.0], "is -1.0, which is not above -1"),
        (number(), [1.0, None], 'row 1: feature "x" is missing; say "missing: mean"'),
        (number(buckets=[1], missing="error"), [1.0, None], 'row 1: feature "x" is missing; the schema says "missing: error"'),
        (word(vocabulary=["p"], missing="error"), ["p", ""], 'row 1: feature "x" is missing; the schema says "missing: error"'),
        (number(buckets={"quantiles": 3}), [4.0, 4.0], "has no quantiles"),
        (moment(take="hour"), pa.array([1], pa.timestamp("ms")), 'no whole number of s .*say "time: {unit: …}" with a finer unit'),
        ({"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 2}}, [[1.0, 2.0], [1.0]], 'row 1: feature "x" has 1 numbers, expected 2'),
        ({"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 2}}, [[1.0, 2.0], None], 'row 1: feature "x" is missing, expected 2'),
        ({"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 1}}, [[np.inf]], "is infinite or beyond what float32 holds"),
        ({"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 1}}, [1.0], "make it a list column"),
    ],
)  # fmt: skip
def test_data_that_the_grammar_refuses(spec: dict[str, Any], values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(spec, values)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, sf.Schema]:
    folder = tmp_path_factory.mktemp("everything")
    return folder, sf.Schema.from_yaml(everything.write(folder)).fit(folder / "interactions.parquet")


@pytest.fixture(scope="module")
def encoder(shop: tuple[Path, sf.Schema]) -> FeatureEncoder:
    schema = shop[1]
    inputs = schema.select_by_name([it.name for it in schema if it.kind != "value"])
    options = sf.EmbeddingOptions(embedding_dim_default=2)
    return FeatureEncoder(schema, inputs.features, build_tables(inputs, options), options)


def test_the_shop_says_everything(shop: tuple[Path, sf.Schema]) -> None:
    """A key that is new in the grammar belongs there too, or nothing shows that it reaches the graph."""
    said = {key for feature in shop[1] for key in feature.model_fields_set}
    assert said >= set(sf.Feature.model_fields) - {"cardinality"}


texts = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0", max_codepoint=0x2FF), max_size=12)
)
floats = st.floats(-1e6, 1e6, width=32)


def values_of(schema: sf.Schema, feature: sf.Feature) -> st.SearchStrategy[Any]:
    """Return raw values that a feature takes."""
    known = {"item": ["i0", "i1", "?"], "user_id": ["u1", "u2", "new", "newer"]}.get(
        feature.table, ["Oslo", "gold", "ad", "red"]
    )
    one: st.SearchStrategy[Any] = st.sampled_from(known)
    if feature.name == "item_id":  # an item always has its id
        return one
    if feature.kind == "vector":
        one = st.lists(floats, min_size=3, max_size=3)
    elif feature.text_like or (feature.encoding == "hash" and feature.dtype == "string"):
        one = texts
    elif feature.name == "shelf":
        one = st.integers(0, 8)
    elif feature.dtype == "string":
        one = st.one_of(one, texts)
    elif feature.dtype[0] == "f":
        one = floats if feature.normalize != "log1p" else st.floats(0, 1e6, width=32)
    elif feature.time is not None:
        one = st.integers(-(2**40), 2**42)
    else:
        one = st.integers(0, 2**31 - 1)
    if feature.list is not None:
        return st.lists(st.sampled_from(["i0", "i1", "?", "red"]), max_size=5)
    may_miss = (
        schema.takes_missing(feature) and feature.column is None
    )  # `freshness` reads the same column, and takes none
    return st.one_of(one, st.none()) if may_miss else one


@settings(max_examples=30)
@given(st.data())
def test_the_graph_encodes_raw_values_as_the_pipeline_does(
    shop: tuple[Path, sf.Schema], encoder: FeatureEncoder, data: st.DataObject
) -> None:
    schema = shop[1]
    rows = data.draw(st.integers(1, 4))
    table: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for feature in encoder.features:
        if feature.kind == "weights":
            column = [[it % 4 for it, _ in enumerate(row)] for row in table["words"].to_pylist()]
        elif feature.aligned_with is not None:  # a value for each event
            one = floats if feature.dtype == "float32" else st.sampled_from(["view", "buy", "?"])
            column = [[data.draw(one) for _ in row] for row in table[feature.aligned_with].to_pylist()]
        else:
            column = [data.draw(values_of(schema, feature)) for _ in range(rows)]
        kind: Any = {"string": pa.string()}.get(feature.dtype) or getattr(pa, feature.dtype)()
        missing = missing_value(feature.dtype)
        if feature.many:
            table[feature.name] = pa.array(column, pa.list_(kind))
            if feature.kind == "vector":
                raw[feature.name] = tf.constant(
                    [[missing] * 3 if it is None else it for it in column], feature.tensor_dtype
                )
                continue
            width = max(map(len, column)) + 1
            padded = [row + [missing] * (width - len(row)) for row in column]
            raw[feature.name] = tf.constant(padded, feature.tensor_dtype)
        else:
            if feature.column is not None:  # several features of one column: they must hold the same
                column = table[feature.column].to_pylist() if feature.column in table else column
            table[feature.source] = pa.array(column, kind)
            raw[feature.name] = tf.constant([missing if it is None else it for it in column], feature.tensor_dtype)
    piped = read_table(pa.table(table), schema, names=[it.name for it in encoder.features])
    graphed = encoder.encoded(raw)
    for feature in encoder.features:
        left, right = graphed[f"{feature.name}/encoded"], piped[feature.name]
        if isinstance(right, Lists):
            assert left.values.numpy().tolist() == right.values.tolist(), feature.name
            assert left.row_splits.numpy().tolist() == right.splits.tolist(), feature.name
        elif feature.normalize == "log1p":  # of two libraries
            assert left.numpy() == pytest.approx(right, rel=1e-6), feature.name
        else:
            assert left.numpy().tolist() == right.tolist(), feature.name


def test_everything_trains_exports_and_answers_alike_in_a_fresh_process(
    shop: tuple[Path, sf.Schema], tmp_path: Path
) -> None:
    import keras

    folder, schema = shop
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=4))
    model.compile(optimizer="adam")
    shelf = model.item_tower.encoder.encoders["shelf"].table
    before = shelf.embeddings.numpy()
    history = model.fit(folder / "interactions.parquet", batch_size=64, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert (shelf.embeddings.numpy() == before).all()  # it is frozen
    recommender = model.export(tmp_path / "bundle", folder / "items.parquet")
    query = {
        "user_id": ["u1", "stranger"], "age": [30, None], "income": [None, 5.0], "spent": [2.0, 0.0], "height": [None, 1.8],
        "plan": ["gold", None], "city": ["Oslo", "Bari"], "seen": [["i1", "i2"], []],
        "seen_how": [["buy", "?"], []], "seen_days": [[0.5, 1.0], []], "device": ["tv", None], "store": [5, 6],
        "search": ["Tea", None], "referrer": ["ad", None], "hour": [1_700_000_000_000] * 2, "weekday": [1_700_000_000_000] * 2,
        "freshness": [1_700_000_000_000] * 2,
    }  # fmt: skip
    answer = recommender.recommend(query, k=4)
    moments = pa.array(query["hour"], pa.timestamp("ms"))
    queries = pa.table(
        {**{name: it for name, it in query.items() if name not in ("hour", "weekday", "freshness")}, "moment": moments}
    )
    vectors = model.query_embeddings(queries, tables=folder)  # the same rows, through the pipeline
    items = model.candidate_embeddings(folder / "items.parquet")
    assert recommender.candidate_embeddings(folder / "items.parquet") == pytest.approx(items, abs=1e-6)
    scores = vectors @ items.T
    ids = pq.read_table(folder / "items.parquet")["item_id"].to_pylist()
    assert answer.identifiers == [[ids[it] for it in np.argsort(-row)[:4]] for row in scores]
    code = (
        f"import schemaflow as sf; print(sf.Recommender.load({str(tmp_path / 'bundle')!r})"
        f".recommend({query!r}, k=4).identifiers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == repr(answer.identifiers)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert np.array_equal(again.query_embeddings(queries, tables=folder), vectors)
    assert again.schema == schema


def test_what_the_schema_takes_no_missing_value_of_the_recommender_refuses(shop: tuple[Path, sf.Schema]) -> None:
    from schemaflow.errors import ConfigError
    from schemaflow.export.requests import _tensor

    schema = shop[1]
    for name, values, message in [
        ("store", [None], "the schema names nothing in its place"),
        ("spent", [None], "the schema names nothing in its place"),
        ("words", [["red", None]], "a weighted or aligned list must be whole"),
        ("picture", [[1.0, 2.0]], "expected 3 finite numbers in each row"),
        ("picture", [[1.0, 2.0, float("nan")]], "expected 3 finite numbers in each row"),
    ]:
        with pytest.raises(ConfigError, match=message):
            _tensor(schema, schema[name], values)
    assert np.isnan(_tensor(schema, schema["picture"], [None]).numpy()).all()


# -- what a schema says together ----------------------------------------------------------------------------------


def test_float32_is_rounded_before_it_is_put_into_buckets_as_the_graph_sees_it() -> None:
    values = np.array([0.7, 19.99, 0.1, 1.1])  # none of which float32 holds
    schema = schema_of(x={**number(buckets=[0.1, 0.7, 1.1, 19.99]), "dtype": "float32"})
    encoder = FeatureEncoder(
        schema, schema.features, build_tables(schema, sf.EmbeddingOptions()), sf.EmbeddingOptions()
    )
    graphed = encoder.encoded({"x": tf.constant(values, tf.float32)})["x/encoded"].numpy().tolist()
    assert read_table({"x": values}, schema)["x"].tolist() == graphed
    assert encoder.encoded({"x": tf.constant(values, tf.float64)})["x/encoded"].numpy().tolist() == graphed
    filled = schema_of(x={**number(buckets=[0.7], missing={"value": 0.7}), "dtype": "float32"})
    encoder = FeatureEncoder(
        filled, filled.features, build_tables(filled, sf.EmbeddingOptions()), sf.EmbeddingOptions()
    )
    graphed = encoder.encoded({"x": tf.constant([np.nan], tf.float32)})["x/encoded"].numpy().tolist()
    assert read_table({"x": [None]}, filled)["x"].tolist() == graphed


def test_what_stands_for_a_missing_age_is_in_days() -> None:
    spec = {**moment(take="age"), "missing": {"value": 0.5}}
    schema = schema_of(x=spec).fit({"x": [0, 86_400]})
    assert read_table({"x": [0, None]}, schema)["x"].tolist() == [1.0, 0.5]
    encoder = FeatureEncoder(schema, schema.features, {}, sf.EmbeddingOptions())
    raw = tf.constant([0, missing_value("int64")], tf.int64)
    assert encoder.encoded({"x": raw})["x/encoded"].numpy().tolist() == [1.0, 0.5]
    nanoseconds = pa.array([1_700_000_000_123_456_789, 1_700_000_000_123_456_789 - 86_400 * 10**9])
    assert encoded(moment(take="age", unit="ns"), nanoseconds) == [0.0, 1.0]


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_an_age_that_is_an_edge_falls_into_the_same_bucket_in_a_graph(unit: str) -> None:
    moments = np.arange(0, 3 * 10**6, 12_345) * {"s": 1, "ms": 10**3, "ns": 10**9}[unit]
    schema = schema_of(x={**moment(take="age", unit=unit), "buckets": {"quantiles": 200}}).fit({"x": moments})
    assert len(schema.edges(schema["x"])) == 199
    encoder = FeatureEncoder(
        schema, schema.features, build_tables(schema, sf.EmbeddingOptions()), sf.EmbeddingOptions()
    )
    graph = tf.function(
        lambda x: encoder.encoded({"x": x})["x/encoded"], input_signature=[tf.TensorSpec([None], tf.int64)]
    )
    rows = read_table({"x": moments}, schema)["x"]
    assert len(np.unique(rows)) == 200
    np.testing.assert_array_equal(graph(moments).numpy(), rows)


def test_a_feature_is_learned_from_the_tables_of_its_side(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": ["u"], "item": ["a"]}), tmp_path / "events.parquet")
    pq.write_table(pa.table({"user": ["u", "v"], "year": [1990.0, 1992.0]}), tmp_path / "users.parquet")
    pq.write_table(pa.table({"item": ["a", "b"], "year": [5.0, 7.0]}), tmp_path / "items.parquet")
    learned = {"vocabulary": "learned"}
    schema = sf.Schema(
        schema_of(
            user={**USER, **learned},
            item={**ITEM, **learned},
            born={"dtype": "float32", "tags": ["user", "continuous"], "column": "year", "normalize": "standard"},
            made={"dtype": "float32", "tags": ["item", "continuous"], "column": "year", "normalize": "standard"},
        ).features,
        tables={
            "users": sf.schema.SideTable(file="users.parquet", key="user"),
            "items": sf.schema.SideTable(file="items.parquet", key="item"),
        },
    ).fit(tmp_path / "events.parquet")
    assert {name: it.mean for name, it in schema.fitted.statistics.items()} == {"born": 1991.0, "made": 6.0}
    assert read_table(tmp_path / "events.parquet", schema)["made"].tolist() == [-1.0]


def test_ids_of_one_domain_are_counted_apart() -> None:
    schema = schema_of(
        user={"dtype": "string", "tags": ["user", "id"], "vocabulary": "learned", "domain": "people"},
        item={"dtype": "string", "tags": ["item", "id"], "vocabulary": "learned", "domain": "people"},
    ).fit({"user": ["a", "a", "a", "a", "b"], "item": ["b", "b", "c", "c", "a"]})
    assert schema.vocabulary("people").to_pylist() == ["a", "b", "c"]
    counts = schema.counts(schema["item"])
    assert counts is not None
    assert counts[3:].tolist() == [1, 2, 2]


def test_a_feature_takes_the_rows_of_its_domain() -> None:
    hashed = schema_of(x=word(hash=5, domain="d", cardinality=8), y=word(domain="d"))
    assert (hashed.domains["d"].encoding, hashed.rows("d")) == ("hash", 8)
    learned = schema_of(
        x=word(vocabulary="learned", domain="d"), y={"dtype": "string", "tags": ["item", "categorical"], "domain": "d"}
    ).fit({"x": ["p"], "y": ["q"]})
    assert read_table({"y": ["p", None, "new"]}, learned, names=["y"])["y"].tolist() == [3, 1, 2]
    codes = schema_of(
        x={"dtype": "int64", "tags": ["item", "categorical"], "domain": "d", "vocabulary": [7, 9]},
        y={"dtype": "int64", "tags": ["item", "categorical"], "domain": "d"},
    )
    # y says nothing of its rows, so a null is a row as it is for x, whichever of them is read
    for names in (["y"], ["x", "y"]):
        table = {"x": [7, 9], "y": pa.array([9, None], pa.int64())}
        assert read_table(table, codes, names=names)["y"].tolist() == [4, 1]
    part = schema_of(
        seen={
            "dtype": "string",
            "tags": ["user", "sequence"],
            "list": {},
            "domain": "item",
            "embedding": {"dim": 5, "trainable": False},
        },
        item={**ITEM, "domain": "item"},
    ).select_by_name("item")
    assert part["item"].embedding is not None
    assert (part["item"].embedding.dim, part["item"].embedding.trainable) == (5, False)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"x": word(vocabulary=["a", "b", "c"], domain="d", cardinality=6), "y": word(domain="d", oov=4)}, "reserved rows need 9"),
        ({"x": word(hash=5, domain="d"), "y": word(vocabulary="learned", domain="d")}, "one has a vocabulary and another numbers or hashes"),
        (
            {
                name: word(vocabulary="learned", domain="d", embedding={"pretrained": {"file": f"{name}.parquet", "key": "k", "vector": "v"}})
                for name in "xy"
            },
            "name different pretrained vectors",
        ),
    ],
)  # fmt: skip
def test_domains_that_cannot_be(features: dict[str, dict[str, Any]], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema_of(**features)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({**moment(take="hour"), "buckets": [6]}, "takes the hour, which has a row for each value"),
        ({**moment(take="hour"), "tags": ["context", "continuous"]}, "takes the hour, which has a row for each value"),
        ({**moment(take="age"), "hash": 5}, "takes the age, which is a number"),
        ({**moment(take="age"), "normalize": "log1p"}, "has no log1p"),
        ({**moment(take="hour"), "tags": ["target"]}, "is kept out of the towers, but takes something of its time"),
        ({**moment(take="hour"), "missing": {"value": 3}}, "is the part of no moment"),
        ({**moment(take="hour"), "tags": ["item", "id"]}, "its rows are buckets or parts of a moment"),
        ({"dtype": "float32", "tags": ["target", "regression"], "buckets": [1]}, '"buckets" but is kept out of the towers'),
        ({"dtype": "float32", "tags": ["weight"], "buckets": [1]}, '"buckets" but is kept out of the towers'),
        ({"dtype": "int64", "tags": ["binary", "user", "categorical"], "cardinality": 3}, "is kept out of the towers"),
        ({"dtype": "string", "tags": ["item", "id", "text"], "vocabulary": "learned"}, "is tagged both id and text"),
        (word(vocabulary=["p"], missing={"value": "q"}), "is no value of its own"),
        (word(vocabulary="learned", missing={"value": ""}), "is no value of its own"),
        (word(vocabulary=["p", ""]), "stands for a missing value"),
        ({"dtype": "int32", "tags": ["item", "categorical"], "cardinality": 9, "missing": {"value": 9}}, "outside 0 <= id < 9"),
        (number(normalize="log1p", missing={"value": -2}), "has no log"),
    ],
)  # fmt: skip
def test_keys_that_would_do_nothing_or_could_not_work_are_refused(spec: dict[str, Any], message: str) -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match=message):
        schema_of(x=spec)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        (number(buckets={"quantiles": 2}), number(buckets={"quantiles": 4}), "quantiles"),
        (number(normalize="standard"), number(buckets={"quantiles": 4}), "quantiles"),
        (moment(take="age"), moment(take="age", unit="ms"), "unit"),
        (word(vocabulary="learned"), word(vocabulary="learned", oov=4), "oov"),
        (
            {**word(vocabulary=["p", "q"]), "tags": ["item", "id"]},
            {**word(vocabulary=["q", "p"]), "tags": ["item", "id"]},
            "sha256",
        ),
    ],
)
def test_what_was_learned_under_other_words_is_refused(
    first: dict[str, Any], second: dict[str, Any], what: str, tmp_path: Path
) -> None:
    values: Any = ["p", "q"] if first["dtype"] == "string" else [1, 2, 3]
    schema_of(x=first).fit({"x": values}).to_yaml(tmp_path / "shop.yaml")
    schema_of(x=second).to_yaml(tmp_path / "other.yaml")
    edited = (
        (tmp_path / "other.yaml").read_text(encoding="utf-8").replace("features:", "fitted: shop.fitted\nfeatures:")
    )
    (tmp_path / "shop.yaml").write_text(edited, encoding="utf-8")
    with pytest.raises(
        SchemaError,
        match=rf'shop.yaml:4:3: feature "x" was fitted as \(.*\) and is \(.*{what}.*\) now; remove "fitted"',
    ):
        sf.Schema.from_yaml(tmp_path / "shop.yaml")


def test_fitting_on_items_alone_keeps_the_counts_and_training_goes_on() -> None:
    learned = {"vocabulary": "learned"}
    schema = schema_of(user={**USER, **learned}, item={**ITEM, **learned}).fit({"user": ["u", "v"], "item": ["a", "b"]})
    wider = schema.fit({"item": ["new", "newer"]})
    counts = wider.counts(wider["item"])
    assert counts is not None
    assert counts.tolist() == [0, 0, 0, 1, 1, 0, 0]
    model = sf.TwoTowerModel(wider, sf.MLPBlock([2]))
    model.compile(optimizer="adam")
    model.fit({"user": ["u"], "item": ["new"]}, verbose=0)


def test_what_the_graph_refuses_is_one_line_from_the_recommender(shop: tuple[Path, sf.Schema], tmp_path: Path) -> None:
    from schemaflow.errors import ConfigError

    schema = schema_of(
        user={**USER, "vocabulary": ["u"]},
        spent={"dtype": "float32", "tags": ["user", "continuous"], "normalize": "log1p"},
        words=word(tags=["user", "categorical"], hash=9, list={"weights": "n"}),
        n={"dtype": "float32", "tags": ["user", "weight"], "list": {}},
        item=ITEM,
    )
    model = sf.TwoTowerModel(schema, sf.MLPBlock([2]), correction=None)
    recommender = model.export(tmp_path / "bundle", {"item": ["a", "b"]})
    good: dict[str, list[Any]] = {"user": ["u"], "spent": [1.0], "words": [["x"]], "n": [[1.0]]}
    assert len(recommender.recommend(good).identifiers[0]) == 2
    for name, values, message in [
        ("spent", [-1.0], 'feature "spent" is missing or infinite, or has no log'),
        ("spent", [float("inf")], 'feature "spent" is missing or infinite'),
        ("n", [[1.0, 2.0]], 'feature "words" and its weights "n" differ in length in a row'),
        ("n", [[-1.0]], 'feature "n" holds a weight below 0'),
        ("words", ["xx"], "'xx' is one value, not a list of them"),
    ]:
        with pytest.raises(ConfigError, match=message) as caught:
            recommender.recommend({**good, name: values})
        assert len(caught.value.problems) == 1
        assert "\n" not in caught.value.problems[0]


def test_vectors_that_the_schema_no_longer_names_are_not_used(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": ["a", "b"], "v": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "v.parquet")
    pq.write_table(pa.table({"user": ["u"], "item": ["a"]}), tmp_path / "events.parquet")
    item = {**ITEM, "embedding": {"pretrained": {"file": "v.parquet", "key": "k", "vector": "v"}}}
    schema_of(user=USER, item=item).fit(tmp_path / "events.parquet").to_yaml(tmp_path / "shop.yaml")
    text = (tmp_path / "shop.yaml").read_text(encoding="utf-8")
    start = text.index("embedding: {pretrained")
    edited = text[:start] + "embedding: {dim: 9, initializer: zeros}}\n"
    (tmp_path / "shop.yaml").write_text(edited, encoding="utf-8")
    schema = sf.Schema.from_yaml(tmp_path / "shop.yaml")
    table = build_tables(schema, sf.EmbeddingOptions())["item"].embeddings.numpy()
    assert table.shape == (5, 9)
    assert (table == 0).all()


def test_numbers_that_were_all_alike_cannot_be_normalised_later(tmp_path: Path) -> None:
    schema_of(x=number(missing="mean")).fit({"x": [2.0, 2.0]}).to_yaml(tmp_path / "shop.yaml")
    text = (
        (tmp_path / "shop.yaml")
        .read_text(encoding="utf-8")
        .replace("missing: mean", "normalize: standard, missing: mean")
    )
    (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError, match='feature "x" is 2 in every row, so it cannot be normalised'):
        sf.Schema.from_yaml(tmp_path / "shop.yaml")
    with pytest.raises(DataError, match="hardly differs from row to row, so it cannot be normalised"):
        encoded(number(normalize="min-max"), [0.0, 5e-324])


def test_text_that_is_none_is_told() -> None:
    broken = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    with pytest.raises(DataError, match='the column "x" of feature "x" is no UTF-8 text'):
        encoded(word(hash=3), broken)
