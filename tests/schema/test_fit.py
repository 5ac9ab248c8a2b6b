"""What a schema learns from data."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import DataError, SchemaError
from schemaflow.schema.counting import Moments

pytestmark = pytest.mark.short


def feature(name: str, tags: list[str], dtype: str = "string", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": tags, **spec})


USER = feature("user", ["user", "id"], vocabulary="learned")
ITEM = feature("item", ["item", "id"], vocabulary="learned")
GENRES = feature("genres", ["item", "categorical"], vocabulary="learned", list={})
AGE = feature("age", ["user", "continuous"], "int32", normalize="standard")
EVENTS = {"user": ["u", "v", "u", "w"], "item": ["b", "a", "b", "c"]}


def test_values_get_rows_by_falling_count_then_by_value() -> None:
    fitted = sf.Schema((USER, ITEM)).fit(EVENTS)
    assert fitted.vocabulary("item").to_pylist() == ["b", "a", "c"]
    assert fitted.rows("item") == 6


def test_items_are_counted_in_interactions_alone() -> None:
    items = {"item": ["d", "b", "a", "c"], "genres": [["x"], ["x", "y"], None, []]}
    fitted = sf.Schema((USER, ITEM, GENRES)).fit(EVENTS, items)
    assert fitted.vocabulary("item").to_pylist() == ["b", "a", "c", "d"]
    assert fitted.fitted.counts["item"].tolist() == [0, 0, 0, 2, 1, 1, 0]
    assert fitted.vocabulary("genres").to_pylist() == ["x", "y"]


def test_a_table_of_items_with_a_rating_is_no_interaction(tmp_path: Path) -> None:
    rating = feature("rating", ["target", "regression"], "float32")
    tables = {
        "items": sf.schema.SideTable(file="items.parquet", key="item"),
        "users": sf.schema.SideTable(file="users.parquet", key="user"),
    }
    pq.write_table(pa.table(EVENTS), tmp_path / "events.parquet")
    pq.write_table(pa.table({"item": ["a", "b", "c"], "rating": [3.5, 4.0, 1.0]}), tmp_path / "items.parquet")
    pq.write_table(
        pa.table({"user": ["u", "v", "w"], "item": ["a", "a", "a"]}), tmp_path / "users.parquet"
    )  # a favourite
    schema = sf.Schema((USER, ITEM, rating), tables=tables)
    for tables_given in ([tmp_path / "events.parquet"], [tmp_path / "events.parquet", tmp_path / "items.parquet"]):
        fitted = schema.fit(*tables_given).fitted
        assert fitted.counts["item"].tolist()[3:] == [2, 1, 1]  # b, a, c: the users' favourites are another thing
        assert fitted.counts["user"].sum() == 4
    assert (
        sf.Schema((USER, ITEM, rating)).fit(EVENTS, {"item": ["a"], "rating": [1.0]}).fitted.counts["item"].sum() == 4
    )


def test_integer_ids_that_are_rows_are_counted_too() -> None:
    item = feature("item", ["item", "id"], "int64", cardinality=5)
    fitted = sf.Schema((USER, item)).fit({"user": ["u", "u", "v"], "item": [4, 0, 4]})
    assert fitted.fitted.counts["item"].tolist() == [1, 0, 0, 0, 2]
    with pytest.raises(DataError, match="holds the id 5; expected 0 <= id < 5"):
        sf.Schema((USER, item)).fit({"user": ["u"], "item": [5]})


def test_side_tables_beside_the_interactions_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table(EVENTS), tmp_path / "events.parquet")
    pq.write_table(
        pa.table({"user": ["u", "v", "w"], "age": pa.array([10, 20, 60], pa.int32())}), tmp_path / "people.parquet"
    )
    tables = {"users": sf.schema.SideTable(file="people.parquet", key="user")}
    fitted = sf.Schema((USER, ITEM, AGE), tables=tables).fit(tmp_path / "events.parquet")
    # each person counts once, however many interactions they have
    assert fitted.fitted.statistics["age"].mean == 30.0
    assert fitted.fitted.statistics["age"].std == pytest.approx(np.std([10, 20, 60]))


def test_row_groups_and_files_are_one_table(tmp_path: Path) -> None:
    pq.write_table(pa.table(EVENTS), tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(pa.table(EVENTS), tmp_path / "b.parquet", row_group_size=3)
    assert sf.Schema((USER, ITEM)).fit(tmp_path).fitted.counts["item"].tolist() == [0, 0, 0, 4, 2, 2]


def test_missing_and_empty_strings_are_no_values() -> None:
    fitted = sf.Schema((USER, ITEM)).fit({"user": ["u", None, ""], "item": ["a", "a", None]})
    assert fitted.vocabulary("user").to_pylist() == ["u"]
    assert fitted.fitted.counts["item"].tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    ("schema", "table", "error", "message"),
    [
        ((USER, ITEM), {"user": ["u"]}, DataError, 'its column "item" is in none of the table in memory'),
        ((feature("item", ["item", "id"], cardinality=4),), {"item": ["a", "b"]}, SchemaError, "raise cardinality to 5"),
        ((AGE,), {"age": [3, 3]}, DataError, "is 3 in every row"),
        ((AGE,), {"age": pa.array([None, None], pa.int32())}, DataError, "has no value in any row"),
        ((AGE,), {"age": ["x"]}, DataError, 'the column "age" holds string, feature "age" expects int32'),
        ((AGE,), {"age": [2**40, 1]}, DataError, 'does not fit dtype int32 of feature "age"'),
        ((ITEM,), {"item": pa.array([None], pa.string())}, DataError, "no vocabulary to learn"),
        ((feature("item", ["item", "id"], "int64", cardinality=4), USER), {"user": ["u"], "item": [4]}, DataError, "holds the id 4; expected 0 <= id < 4"),
        ((ITEM,), {"item": [1]}, DataError, 'the column "item" holds int64, feature "item" expects string'),
        ((ITEM,), {"item": [["a"]]}, DataError, 'expects one string a row; add "list: {}"'),
        ((GENRES,), {"genres": ["a"]}, DataError, 'expects lists of string; remove "list"'),
        ((feature("price", ["item", "continuous"], "float32", normalize="standard"),), {"price": [1.0, float("inf")]}, DataError, "infinite"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit(
    schema: tuple[sf.Feature, ...], table: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sf.Schema(schema).fit(table)


def test_unreadable_sources(tmp_path: Path) -> None:
    schema = sf.Schema((USER, ITEM))
    (tmp_path / "no.parquet").write_bytes(b"this is not Parquet")
    pq.write_table(pa.table(EVENTS).slice(0, 0), tmp_path / "none.parquet")
    (tmp_path / "folder").mkdir()
    for path, message in [
        ("gone.parquet", "there is no such file or folder"),
        ("no.parquet", "not a readable Parquet file"),
        ("none.parquet", "holds no rows"),
        ("folder", "holds no \\*.parquet file"),
    ]:
        with pytest.raises(DataError, match=message):
            schema.fit(tmp_path / path)
    with pytest.raises(DataError, match="received int"):
        schema.fit(3)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), min_size=1, max_size=5))
def test_moments_merged_piece_by_piece_are_those_of_the_whole(pieces: list[list[float]]) -> None:
    moments = Moments()
    for piece in pieces:
        moments.add(np.array(piece))
    whole = np.concatenate(pieces)
    assert moments.mean == pytest.approx(whole.mean(), abs=1e-6)
    assert moments.squares / moments.count == pytest.approx(whole.var(), rel=1e-6, abs=1e-3)
    assert (moments.minimum, moments.maximum) == (whole.min(), whole.max())
