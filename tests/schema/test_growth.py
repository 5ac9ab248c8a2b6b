"""Fitting again: what a model relies on stays, and what is new comes after it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import DataError, SchemaError

pytestmark = pytest.mark.short


def feature(name: str, tags: list[str], dtype: str = "string", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": tags, **spec})


USER = feature("user", ["user", "id"], vocabulary="learned")
ITEM = feature("item", ["item", "id"], vocabulary="learned")
PRICE = feature("price", ["item", "continuous"], "float32", normalize="standard")
AGE = feature("age", ["user"], "int32", buckets={"quantiles": 4})
SINCE = feature("since", ["context"], "int64", time={"take": "age"})
EVENTS = {"user": ["u", "v", "u", "w"], "item": ["b", "a", "b", "c"]}


def test_values_keep_their_rows_whatever_is_frequent_in_the_new_data() -> None:
    first = sf.Schema((USER, ITEM)).fit(EVENTS)
    news = {"user": ["x", "x", "x", "w", "w", "y"], "item": ["z", "z", "c", "y", "y", "y"]}
    again = first.fit(news)
    # old ones in their old order, then new ones by falling count: y (3), z (2)
    assert first.vocabulary("item").to_pylist() == ["b", "a", "c"]
    assert again.vocabulary("item").to_pylist() == ["b", "a", "c", "y", "z"]
    assert again.vocabulary("user").to_pylist() == ["u", "v", "w", "x", "y"]
    # counted are the tables given, in the rows of the longer vocabulary
    assert again.fitted.counts["item"].tolist() == [0, 0, 0, 0, 0, 1, 3, 2]
    assert again.fitted.counts["user"].tolist() == [0, 0, 0, 0, 0, 2, 3, 1]
    assert first.fitted.counts["item"].tolist() == [0, 0, 0, 2, 1, 1]
    assert again.unfitted().fit(news).vocabulary("item").to_pylist() == ["y", "z", "c"]


def test_a_value_that_is_not_in_the_new_data_keeps_its_row() -> None:
    again = sf.Schema((USER, ITEM)).fit(EVENTS).fit({"user": ["v"], "item": ["a"]})
    assert again.vocabulary("item").to_pylist() == ["b", "a", "c"]
    assert again.fitted.counts["item"].tolist() == [0, 0, 0, 0, 1, 0]


def test_statistics_edges_and_the_newest_moment_stay() -> None:
    day = 86_400
    table = {**EVENTS, "price": [1.0, 2.0, 3.0, 6.0], "age": [10, 20, 30, 40], "since": [0, day, 2 * day, 9 * day]}
    first = sf.Schema((USER, ITEM, PRICE, AGE, SINCE)).fit(table)
    assert first.fitted.statistics["price"].mean == 3.0
    assert first.fitted.statistics["since"].newest == 9 * day
    assert first.edges(AGE) == (20.0, 30.0, 40.0)
    again = first.fit({**EVENTS, "price": [100.0] * 4, "age": [77, 78, 79, 80], "since": [50 * day] * 4})
    assert again.fitted.statistics == first.fitted.statistics
    assert again.edges(AGE) == (20.0, 30.0, 40.0)
    fresh = first.unfitted().fit({**EVENTS, "price": [100.0, 102.0] * 2, "age": [77, 78, 79, 80], "since": [day] * 4})
    assert fresh.fitted.statistics["price"].mean == 101.0


def test_a_feature_that_was_not_there_is_learned_beside_what_is_known() -> None:
    """Known columns may even be absent from the new data."""
    first = sf.Schema((USER, ITEM)).fit(EVENTS)
    wider = sf.Schema((USER, ITEM, PRICE), fitted=first.fitted).fit(
        {"item": ["q", "q"], "price": [4.0, 6.0]}, {"price": [7.0]}
    )
    assert wider.fitted.statistics["price"].mean == 5.0  # of the first table that has it
    assert wider.vocabulary("item").to_pylist() == ["b", "a", "c", "q"]
    assert wider.vocabulary("user").to_pylist() == ["u", "v", "w"]
    with pytest.raises(DataError, match='its column "price" is in none of'):
        sf.Schema((USER, ITEM, PRICE), fitted=first.fitted).fit(EVENTS)


@pytest.mark.parametrize("kind", ["txt", "parquet"])
def test_a_vocabulary_file_that_grew_appends_too(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"cities.{kind}"

    def write(cities: list[str]) -> None:
        if kind == "txt":
            path.write_text("\n".join(cities) + "\n", encoding="utf-8")
        else:
            pq.write_table(pa.table({"city": cities}), path)

    city = feature("city", ["user", "categorical"], vocabulary={"file": path.name})
    schema = sf.Schema((USER, ITEM, city), folder=tmp_path)
    table = {**EVENTS, "city": ["Bonn", "Rome", "Bonn", "Oslo"]}
    write(["Rome", "Bonn"])
    first = schema.fit(table)
    assert first.vocabulary("city").to_pylist() == ["Rome", "Bonn"]
    write(["Oslo", "Bonn", "Lyon", "Rome"])  # sorted anew in the file: the rows that values have count
    assert first.fit(table).vocabulary("city").to_pylist() == ["Rome", "Bonn", "Oslo", "Lyon"]
    assert schema.fit(table).vocabulary("city").to_pylist() == ["Oslo", "Bonn", "Lyon", "Rome"]
    write(["Bonn"])  # what the file forgot, a model still has a row for
    assert first.fit(table).vocabulary("city").to_pylist() == ["Rome", "Bonn"]
    path.unlink()
    assert first.fit(table).vocabulary("city").to_pylist() == ["Rome", "Bonn"]


def test_a_vocabulary_that_reaches_its_cardinality_says_so() -> None:
    bounded = feature("item", ["item", "id"], vocabulary="learned", cardinality=7)
    first = sf.Schema((USER, bounded)).fit(EVENTS)  # 3 values and 3 reserved rows: one is spare
    assert first.fit({"user": ["u"], "item": ["d"]}).rows("item") == 7
    with pytest.raises(SchemaError) as caught:
        first.fit({"user": ["u", "u"], "item": ["d", "e"]})
    assert caught.value.problems == (
        'feature "item" has 5 distinct values and needs 8 rows with the 3 reserved ones, more than its cardinality of 7;'
        " raise cardinality to 8 or remove it",
    )


def test_what_was_written_and_read_grows_as_what_was_kept(tmp_path: Path) -> None:
    first = sf.Schema((USER, ITEM, PRICE)).fit({**EVENTS, "price": [1.0, 2.0, 3.0, 6.0]})
    first.to_yaml(tmp_path / "shop.yaml")
    news = {"user": ["x"], "item": ["z"], "price": [9.0]}
    assert sf.Schema.from_yaml(tmp_path / "shop.yaml").fit(news) == first.fit(news)


values = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("abcdefgh")), min_size=1, max_size=12)


@given(st.lists(values, min_size=1, max_size=5))
def test_each_fit_keeps_the_rows_of_those_before(tables: list[list[tuple[str, str]]]) -> None:
    schema, seen = sf.Schema((USER, ITEM)), set[str]()
    for rows in tables:
        table = {"user": [user for user, _ in rows], "item": [item for _, item in rows]}
        before = [] if not seen else schema.vocabulary("item").to_pylist()
        schema = schema.fit(table)
        after = schema.vocabulary("item").to_pylist()
        new = after[len(before) :]
        assert after[: len(before)] == before
        assert set(new) == set(table["item"]) - seen
        # new ones as a fit on their own rows alone would order them
        assert new == sorted(new, key=lambda it: (-table["item"].count(it), it))
        assert schema.fitted.counts["item"].tolist() == [0, 0, 0, *(table["item"].count(it) for it in after)]
        assert schema.fit(table) == schema
        seen |= set(table["item"])
