"""Tables to encoded batches: what each value becomes, the join, the order, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data.encode import Lists
from schemaflow.data.join import join, read_table
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.features.encoders import FeatureEncoder, build_tables
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.schema.sides import sides_of


def feature(name: str, tags: list[str], dtype: str = "string", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": tags, **spec})


USER = feature("user", ["user", "id"], vocabulary=["u", "v", "w"])
ITEM = feature("item", ["item", "id"], vocabulary=["a", "b"])
ROW = feature("row", ["item", "categorical"], "int32", cardinality=4)
CODE = feature("code", ["item", "categorical"], "int32", vocabulary=[70, -1])
GENRES = feature("genres", ["item", "categorical"], vocabulary=["x", "y"], list={"max_length": 3})
PRICE = feature("price", ["item", "continuous"], "float32")
WHEN = feature("when", ["time"], "int64")


def test_padding_missing_and_out_of_vocabulary_have_their_own_rows() -> None:
    table = {"user": ["v", None, "", "nobody"], "code": pa.array([-1, None, 3, 70], pa.int32())}
    read = read_table(table, sf.Schema((USER, CODE)))
    assert read["user"].tolist() == [4, 1, 1, 2]
    assert read["code"].tolist() == [4, 1, 2, 3]


def test_lists_keep_their_lengths_and_what_is_missing_takes_no_part() -> None:
    table = pa.table({"genres": pa.array([["y", "x"], [], None, ["z", None, ""]], pa.large_list(pa.string()))})
    genres = read_table(table, sf.Schema((GENRES,)))["genres"]
    assert isinstance(genres, Lists)
    assert genres.values.tolist() == [4, 3, 2]
    assert genres.splits.tolist() == [0, 2, 2, 2, 3]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_every_arrow_list_type_is_read_alike(kind: pa.DataType) -> None:
    genres = read_table(pa.table({"genres": pa.array([["y", "x"], ["x", "x"]], kind)}), sf.Schema((GENRES,)))["genres"]
    assert genres.values.tolist() == [4, 3, 3, 3]


def test_dictionary_columns_are_strings() -> None:
    table = pa.table({"user": pa.array(["v", "u", "v"]).dictionary_encode()})
    assert read_table(table, sf.Schema((USER,)))["user"].tolist() == [4, 3, 4]


def test_numbers_are_normalised_by_hand() -> None:
    age = feature("age", ["user", "continuous"], "int32", normalize="standard")
    schema = sf.Schema((age,)).fit({"age": [10, 20, 60]})  # mean 30, deviation sqrt(1400 / 3)
    read = read_table({"age": [30, 10]}, schema)["age"]
    assert read.dtype == np.float32
    assert read.tolist() == pytest.approx([0.0, -20 / np.sqrt(1400 / 3)])


def test_ids_beyond_what_float32_holds_stay_apart() -> None:
    big = feature("item", ["item", "id"], "int64", vocabulary=[2**53, 2**53 + 1, 2**24 + 1])
    when = read_table({"when": [2**53 + 1], "item": [2**53 + 1]}, sf.Schema((big, WHEN)))
    assert when["item"].tolist() == [4]
    assert when["when"].tolist() == [2**53 + 1]


@pytest.mark.parametrize(
    ("features", "table", "message"),
    [
        ((ROW,), {"row": [0, 3, 4, 9]}, r"row 2: feature \"row\" is 4, which is outside 0 <= id < 4, its cardinality.*2 of 4"),
        ((ROW,), {"row": [0, -1]}, r"row 1: feature \"row\" is -1, which is outside"),
        ((ROW,), {"row": pa.array([0, None], pa.int32())}, r"row 1: feature \"row\" is missing; ids that are rows"),
        ((PRICE,), {"price": [1.0, None]}, r"row 1: feature \"price\" is missing; say"),
        ((PRICE,), {"price": [1.0, float("nan")]}, r"row 1: feature \"price\" is missing"),
        ((PRICE,), {"price": [float("inf"), 1.0]}, r"row 0: feature \"price\" is inf, which is infinite"),
        ((GENRES,), {"genres": [["x"], ["x"] * 4]}, r"row 1: feature \"genres\" has 4 values, more than its max_length of 3"),
        ((USER, PRICE), {"user": ["u"]}, r"feature \"price\": its column \"price\" is missing from the table in memory \(columns user\)"),
        ((USER,), {"user": [1]}, r"the column \"user\" holds int64, feature \"user\" expects string"),
        ((WHEN,), {"when": ["monday"]}, r"the column \"when\" holds string, feature \"when\" expects int64"),
    ],
)  # fmt: skip
def test_bad_values_name_their_row(features: tuple[sf.Feature, ...], table: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_table(table, sf.Schema(features))


def test_a_bad_value_names_file_and_row_group(tmp_path: Path) -> None:
    pq.write_table(pa.table({"row": pa.array([0, 1, 2, 9], pa.int32())}), tmp_path / "a.parquet", row_group_size=2)
    with pytest.raises(DataError, match=r"a.parquet, row groups 0 to 1, row 3: feature \"row\" is 9"):
        read_table(tmp_path / "a.parquet", sf.Schema((ROW,)))


def test_column_gives_any_parquet_name() -> None:
    schema = sf.Schema((feature("zip_code", ["user", "categorical"], column="zip code.è", vocabulary=["9"]),))
    assert read_table({"zip code.è": ["9", "8"]}, schema)["zip_code"].tolist() == [3, 2]


def test_side_tables_are_joined_by_id(tmp_path: Path) -> None:
    tables = {"items": sf.schema.SideTable(file="items.parquet", key="item")}
    schema = sf.Schema((USER, ITEM, GENRES, PRICE), tables=tables)
    pq.write_table(pa.table({"user": ["u", "v", "w"], "item": ["b", "a", "b"]}), tmp_path / "events.parquet")
    items = {"item": ["a", "b"], "genres": [["x"], ["y", "x"]], "price": pa.array([1.5, 2.5], pa.float32())}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    read = read_table(tmp_path / "events.parquet", schema)
    assert read["price"].tolist() == [2.5, 1.5, 2.5]
    assert read["genres"].values.tolist() == [4, 3, 3, 4, 3]
    assert read["genres"].splits.tolist() == [0, 2, 3, 5]
    # a column that the interactions hold themselves is theirs
    own = {"user": ["u"], "item": ["b"], "price": [9.0], "genres": [["x"]]}
    assert read_table(own, schema, tmp_path)["price"].tolist() == [9.0]
    # an id that the side table lacks, one that it holds twice, and no side table at all
    with pytest.raises(DataError, match=r"row 1: .*items.parquet has no row for item 'z' \(1 of 2 rows\)"):
        read_table({"user": ["u", "u"], "item": ["a", "z"]}, schema, tmp_path)
    with pytest.raises(DataError, match='pass the one that holds it as "tables"'):
        read_table({"user": ["u"], "item": ["a"]}, schema)
    pq.write_table(
        pa.table({name: [*values, values[0]] for name, values in items.items() if name != "price"}),
        tmp_path / "items.parquet",
    )
    with pytest.raises(DataError, match="item 'a' stands 2 times"):
        read_table({"user": ["u"], "item": ["a"], "price": [1.0]}, schema, tmp_path)


def test_what_is_not_learned_yet_cannot_be_read() -> None:
    with pytest.raises(SchemaError, match=r"feature \"user\" has no vocabulary yet; call schema.fit"):
        join({"user": ["u"]}, sf.Schema((feature("user", ["user", "id"], vocabulary="learned"),)))


def rows_of(dataset: object) -> list[int]:
    return [int(row) for batch in dataset for row in batch["row/encoded"]]  # type: ignore[attr-defined]


@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_row_comes_once_in_batches_of_the_size_asked_for(
    tmp_path_factory: pytest.TempPathFactory, rows: int, batch_size: int, group: int, shuffle: bool, drop: bool
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    schema = sf.Schema((feature("row", ["item", "categorical"], "int64", cardinality=100), GENRES))
    table = pa.table({"row": np.arange(rows), "genres": [["x"] * (row % 4) for row in range(rows)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=group)
    dataset = sf.read_parquet(folder, schema, batch_size=batch_size, shuffle=shuffle, seed=3, drop_remainder=drop)
    batches = list(dataset)
    sizes = [len(batch["row/encoded"]) for batch in batches]
    full, rest = divmod(rows, batch_size)
    assert sizes == [batch_size] * full + ([rest] if rest and not drop else [])
    assert len(dataset) == len(batches)
    seen = [int(row) for batch in batches for row in batch["row/encoded"]]
    assert len(set(seen)) == len(seen)
    if not shuffle:
        assert seen == list(range(len(seen)))
    for batch in batches:  # lists stay with their rows
        assert batch["genres/encoded"].row_lengths().numpy().tolist() == [int(row) % 4 for row in batch["row/encoded"]]


def test_the_seed_fixes_the_order_and_each_pass_has_another() -> None:
    schema = sf.Schema((feature("row", ["item", "categorical"], "int64", cardinality=100),))
    table = {"row": np.arange(50)}
    dataset = sf.read_parquet(table, schema, batch_size=8, shuffle=True, seed=3)
    first, second = rows_of(dataset), rows_of(dataset)
    again = sf.read_parquet(table, schema, batch_size=8, shuffle=True, seed=3)
    assert (rows_of(again), rows_of(again)) == (first, second)
    assert first != second
    assert first != list(range(50))
    assert sorted(first) == list(range(50))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        sf.read_parquet(table, schema, batch_size=0)


def test_pandas_frames_are_tables() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with merlin-core, on Python 3.11 alone")
    frame = pandas.DataFrame({"user": ["v", None], "row": np.array([1, 2], np.int32)})
    read = read_table(frame, sf.Schema((USER, ROW)))
    assert read["user"].tolist() == [4, 1]
    assert read["row"].tolist() == [1, 2]


raw_strings = st.one_of(st.none(), st.sampled_from(["", "u", "v", "w", "zzz", "ünï"]))


raw_rows = st.tuples(
    raw_strings,
    st.integers(-(2**31), 2**31 - 1),
    st.lists(st.sampled_from(["x", "y", "?", ""]), max_size=3),
    st.floats(-1e6, 1e6, width=32),
)


@given(st.lists(raw_rows, min_size=1, max_size=6))
def test_the_graph_encodes_raw_values_as_the_pipeline_does(
    rows: list[tuple[str | None, int, list[str], float]],
) -> None:
    import tensorflow as tf

    price = feature("price", ["item", "continuous"], "float32", normalize="standard")
    schema = sf.Schema((USER, CODE, GENRES, price)).fit({"price": [1.0, 5.0, -2.0]})
    users, codes, genres, prices = (list(column) for column in zip(*rows, strict=True))
    table = pa.table({
        "user": pa.array(users, pa.string()),
        "code": pa.array(codes, pa.int32()),
        "genres": pa.array(genres, pa.list_(pa.string())),
        "price": pa.array(prices, pa.float32()),
    })  # fmt: skip
    piped = read_table(table, schema)
    options = EmbeddingOptions(embedding_dim_default=2)
    encoder = FeatureEncoder(schema, schema.features, build_tables(schema, options), options)
    raw = {
        "user": tf.constant([user or "" for user in users]),
        "code": tf.constant(codes, tf.int32),
        "genres": tf.ragged.constant(genres, ragged_rank=1, dtype=tf.string),
        "price": tf.constant(prices, tf.float32),
    }
    graphed = encoder.encoded(raw)
    assert graphed["user/encoded"].numpy().tolist() == piped["user"].tolist()
    assert graphed["code/encoded"].numpy().tolist() == piped["code"].tolist()
    assert graphed["genres/encoded"].values.numpy().tolist() == piped["genres"].values.tolist()
    assert graphed["genres/encoded"].row_splits.numpy().tolist() == piped["genres"].splits.tolist()
    assert graphed["price/encoded"].numpy().tolist() == piped["price"].tolist()


def test_the_generated_data_is_seeded_and_has_a_structure_to_find(tmp_path: Path) -> None:
    first = sf.datasets.synthetic(tmp_path / "a", users=200, items=200, interactions=3000, seed=5)
    second = sf.datasets.synthetic(tmp_path / "b", users=200, items=200, interactions=3000, seed=5)
    for name in ("interactions", "users", "items"):
        assert pq.read_table(getattr(first, name)).equals(pq.read_table(getattr(second, name)))
    events = pq.read_table(first.interactions)
    pairs = set(zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True))
    assert len(pairs) == len(events)
    counts = np.sort(np.unique(events["item_id"].to_numpy(), return_counts=True)[1])[::-1]
    assert counts[:20].sum() > 0.25 * counts.sum()  # a tenth of the items: an even choice would give it 0.1
    assert [it.name for it in sides_of(sf.Schema.from_yaml(first.schema)).query] == ["user_id", "age", "country"]
    with pytest.raises(ConfigError, match="expected at least 2, 20 and 5"):
        sf.datasets.synthetic(tmp_path, users=50, items=40, interactions=100)


def test_row_groups_are_named_by_number_where_they_are_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from schemaflow.schema import sources

    monkeypatch.setattr(sources, "PIECE_ROWS", 2)
    pq.write_table(pa.table({"row": pa.array([0, 1, 2, 9], pa.int32())}), tmp_path / "a.parquet", row_group_size=2)
    with pytest.raises(DataError, match=r"a.parquet, row group 1, row 3: feature \"row\" is 9"):
        read_table(tmp_path / "a.parquet", sf.Schema((ROW,)))


def test_files_may_order_their_columns_differently_but_not_repeat_or_lack_one(tmp_path: Path) -> None:
    schema = sf.Schema((ROW, PRICE))
    one, two = {"row": pa.array([0], pa.int32())}, {"price": pa.array([1.0], pa.float32())}
    pq.write_table(pa.table(one | two), tmp_path / "a.parquet")
    pq.write_table(pa.table(two | one), tmp_path / "b.parquet")
    assert read_table(tmp_path, schema)["row"].tolist() == [0, 0]
    pq.write_table(pa.table(one), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c.parquet: its columns are row, those of .*a.parquet are row, price"):
        read_table(tmp_path, schema)


def test_numbers_beyond_their_dtype_are_refused_and_views_are_lists() -> None:
    with pytest.raises(DataError, match="is infinite or beyond what float32 holds"):
        read_table({"price": np.array([1e300])}, sf.Schema((PRICE,)))
    views = pa.table({"genres": pa.array([["y"], ["x", "z"]], pa.list_view(pa.string()))})
    assert read_table(views, sf.Schema((GENRES,)))["genres"].values.tolist() == [4, 3, 2]
    with pytest.raises(DataError, match="an item without an id cannot be learned"):
        read_table({"item": ["a", None]}, sf.Schema((ITEM,)))
