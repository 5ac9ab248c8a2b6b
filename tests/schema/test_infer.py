"""Drafts of schemas, from tables whose right answer is known by construction, and from real ones that train as they are."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from schemaflow import RunConfig, Schema, SchemaFlowError
from schemaflow.errors import DataError, SchemaError
from schemaflow.schema.inference.draft import draft
from schemaflow.schema.inference.sketch import NULL, Dependence, Sketch, hash_lists, hash_values
from schemaflow.schema.inference.survey import survey
from schemaflow.schema.sources import open_source
from tests.commands import schemaflow

ROOT = Path(__file__).parent.parent.parent
ROWS, USERS, ITEMS = 4000, 200, 80


def write(folder: Path, **tables: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def interactions(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"user_id": [f"u{it}" for it in rng.integers(0, USERS, ROWS)], "item_id": rng.integers(1, ITEMS + 1, ROWS)}


def line_of(text: str, name: str) -> str:
    (line,) = [it for it in text.splitlines() if re.match(rf"\s*(# )?{name}:", it)]
    return line.strip()


def left_out(text: str, name: str) -> str:
    line = line_of(text, name)
    assert line.startswith("# "), line
    return line.partition("left out: ")[2]


# -- sketches ---------------------------------------------------------------------------------------------------------


def sketch_of(values: Any, size: int = 256, batch: int = 97) -> Sketch:
    sketch = Sketch(size)
    for first in range(0, len(values), batch):
        hashes, counts = np.unique(hash_values(pa.array(values[first : first + batch])), return_counts=True)
        sketch.add(hashes, counts)
    return sketch


@given(st.lists(st.integers(-50, 50), max_size=300), st.integers(1, 64), st.randoms())
def test_a_sketch_is_exact_up_to_its_size_whatever_the_order(values: list[int], batch: int, random: Any) -> None:
    values = list(values)
    one = sketch_of(np.array(values, np.int64), batch=batch)
    random.shuffle(values)
    other = sketch_of(np.array(values, np.int64), batch=batch + 1)
    assert one.distinct == len(set(values))
    assert one.repeats == (len(set(values)) < len(values))
    assert one.exact
    np.testing.assert_array_equal(one.hashes, other.hashes)
    np.testing.assert_array_equal(one.counts, other.counts)


@given(st.integers(0, 10**9), st.sampled_from([300, 3000, 30_000]))
def test_beyond_its_size_a_sketch_is_within_five_standard_errors(start: int, distinct: int) -> None:
    values = np.arange(start, start + distinct)
    sketch = sketch_of(np.concatenate([values, values[: distinct // 3]]), batch=4096)
    assert not sketch.exact
    assert abs(sketch.distinct / distinct - 1) < 5 / np.sqrt(256 - 2)
    assert len(sketch.hashes) == 256
    once = hash_values(pa.array(values[distinct // 3 :]))  # a third of the values stands twice, and counts say which
    np.testing.assert_array_equal(sketch.counts, np.where(np.isin(sketch.hashes, once), 1, 2))


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_the_overlap_of_two_sketches_is_within_five_standard_errors(start: int, share: float) -> None:
    first = np.arange(start, start + 5000)
    second = np.arange(start + round((1 - share) * 5000), start + 20_000)
    size = 512
    found = sketch_of(first, size, 4096).share_in(sketch_of(second, size, 4096))
    kept = size * 5000 / (20_000 - round((1 - share) * 5000))  # of the first, below the second's threshold
    assert abs(found - share) <= 5 * 0.5 / np.sqrt(kept) + 1e-3


def test_no_structure_at_all_shares_nothing() -> None:
    assert sketch_of(np.empty(0, np.int64)).share_in(sketch_of(np.arange(5))) == 0.0
    assert sketch_of(np.arange(5)).share_in(sketch_of(np.arange(10))) == 1.0
    assert sketch_of(np.arange(10)).share_in(sketch_of(np.arange(5))) == 0.5


texts = st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=60)


@given(texts, st.integers(0, 5))
def test_equal_values_have_equal_hashes_and_others_do_not(values: list[str | None], cut: int) -> None:
    array = pa.array([*["other"] * cut, *values], pa.large_string())[cut:]  # an offset into the buffers
    hashes = hash_values(array)
    assert [it == NULL for it in hashes] == [it is None for it in values]
    assert len(set(hashes.tolist())) == len(set(values))
    for value, hashed in zip(values, hashes, strict=True):
        assert hash_values(pa.array([value], pa.large_string()))[0] == hashed


def test_long_strings_are_hashed_in_parts_alike() -> None:
    values = ["x" * 5_000_000, "a", "x" * 4_999_999 + "y", "a"]
    hashes = hash_values(pa.array(values, pa.large_string()))
    assert len(set(hashes.tolist())) == 3
    assert hashes[1] == hashes[3] == hash_values(pa.array(["a"], pa.large_string()))[0]


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30))
def test_lists_have_the_hash_of_their_values_in_order(lists: list[list[int]]) -> None:
    values = hash_values(pa.array([it for row in lists for it in row], pa.int64()))
    hashes = hash_lists(values, np.cumsum([0, *map(len, lists)]))
    assert [it == NULL for it in hashes] == [not it for it in lists]
    assert len(set(hashes.tolist())) == len({tuple(it) for it in lists})


@given(st.lists(st.tuples(st.integers(0, 6), st.one_of(st.none(), st.integers(0, 3))), max_size=80), st.integers(1, 30))
def test_a_dependence_counts_as_a_dictionary_does(rows: list[tuple[int, int | None]], batch: int) -> None:
    dependence = Dependence(1)
    for first in range(0, len(rows), batch):
        keys, values = zip(*rows[first : first + batch], strict=True)
        dependence.add(hash_values(pa.array(keys, pa.int64())), hash_values(pa.array(values, pa.int64()))[:, None])
    seen: dict[int, int] = {}
    compared = differing = 0
    for key, value in rows:
        if value is None:
            continue
        compared += key in seen
        differing += seen.setdefault(key, value) != value
    assert (dependence.compared[0], dependence.differing[0]) == (compared, differing)


def test_a_dependence_keeps_to_its_size_and_still_tells() -> None:
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 50_000, 200_000)
    dependence = Dependence(3, size=500)
    for part in np.array_split(keys, 40):
        dirty = np.where(rng.random(len(part)) < 0.1, -1, part % 100)  # one row in ten has another value
        columns = [part % 7, rng.integers(0, 7, len(part)), dirty]
        dependence.add(hash_values(pa.array(part)), np.stack([hash_values(pa.array(it)) for it in columns], axis=1))
    assert len(dependence.keys) == 500
    assert dependence.strength(0) == 1.0
    assert abs(dependence.strength(1) or 0) < 0.1
    # a row differs from the first where either is dirty, not both: 2 * 0.1 * 0.9 = 0.18
    assert abs((dependence.strength(2) or 0) - (1 - 0.18)) < 0.06


# -- what a table holds -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.one_of(st.none(), st.floats(allow_infinity=False, width=32)), min_size=1, max_size=50),
    st.integers(1, 9),
)
def test_missing_numbers_are_counted_exactly(tmp_path_factory: Any, values: list[float | None], group: int) -> None:
    file = tmp_path_factory.mktemp("numbers") / "numbers.parquet"
    pq.write_table(pa.table({"x": pa.array(values, pa.float32())}), file, row_group_size=group)
    profile = survey(open_source(file), []).columns["x"]
    present = [it for it in values if it is not None and not math.isnan(it)]
    assert (profile.rows, profile.missing) == (len(values), len(values) - len(present))
    assert profile.distinct == len(set(present))
    if present:
        assert (profile.low, profile.high) == (min(present), max(present))


@given(
    st.lists(
        st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b"])), max_size=4)), min_size=1
    )
)
def test_lists_are_measured_as_they_are_read(lists: list[Any]) -> None:
    profile = survey(open_source({"x": pa.array(lists, pa.list_(pa.string()))}), []).columns["x"]
    kept = [[it for it in row or [] if it] for row in lists]
    lengths = [len(it) for it in kept if it]
    assert profile.missing == len(lists) - len(lengths)
    assert (profile.shortest, profile.longest) == ((min(lengths), max(lengths)) if lengths else (0, 0))
    assert profile.distinct == len({it for row in kept for it in row})


# -- drafts -----------------------------------------------------------------------------------------------------------


def test_a_shop_is_drafted_as_one_would_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    table = interactions()
    rows = np.arange(ROWS)
    folder = write(
        tmp_path / "shop",
        interactions={
            **table,
            "rating": pa.array(rng.integers(1, 6, ROWS), pa.float32()),
            "clicked": pa.array(rng.integers(0, 2, ROWS), pa.int8()),
            "timestamp": rows + 1_600_000_000,
            "device": [["phone", "laptop"][it % 2] for it in rows],
            "request": [f"r{it}" for it in rows],
            "split": ["train"] * ROWS,
            "position": pa.array(rows % 3, pa.int8()),
            "weight": rows % 5 / 4,
            "session_id": rows // 3,
            "updated_at": rows + 1_600_000_000_000,
            "watch_duration": rng.random(ROWS),
            "event_type": ["view", "buy"] * (ROWS // 2),
            "seen_at": [f"2020-01-01T{it}" for it in rows],
        },
        users={
            "user_id": [f"u{it}" for it in range(USERS)],
            "age": pa.array([None if it < 50 else 20 + it % 30 for it in range(USERS)], pa.float64()),
            "zip code": [None if it % 4 == 0 else str(it % 88) for it in range(USERS)],
        },
        items={
            "item_id": np.arange(1, ITEMS + 1),
            "genres": pa.array([[f"g{it % 5}"] * (it % 3) for it in range(ITEMS)]),
            "url": [f"https://shop/{it}" for it in range(ITEMS)],
            "price": [float(it % 7) for it in range(ITEMS)],
            "currency": ["EUR"] * ITEMS,
            "nothing": pa.nulls(ITEMS),
            "flag": pa.array([it % 2 == 0 for it in range(ITEMS)]),
            "blob": [b"raw"] * ITEMS,
            "title": [f"The {it} of {it % 11}" for it in range(ITEMS)],
            "released": pa.array([it * 400 for it in range(ITEMS)], pa.date32()),
            "picture": pa.array([None if it < 8 else [float(it), 1.0, 2.0] for it in range(ITEMS)]),
            "uneven": [[1.0] * (1 + it % 2) for it in range(ITEMS)],
            "tags": [[f"t{it % 7}", "all"] for it in range(ITEMS)],
            "tag_counts": [[it, 1] for it in range(ITEMS)],
        },
        suppliers={"supplier_id": [1, 2], "town": ["a", "b"]},
    )
    drafted = draft(folder)
    assert drafted.problems == ()
    (folder / "schema.yaml").write_text(drafted.text, encoding="utf-8")
    schema = Schema.from_yaml(folder / "schema.yaml")
    assert schema == Schema.infer(folder)
    assert schema.name == "shop"
    assert {name: (it.file, it.key) for name, it in schema.tables.items()} == {
        "users": ("users.parquet", "user_id"),
        "items": ("items.parquet", "item_id"),
    }
    tags = {feature.name: " ".join(feature.tags) for feature in schema}
    expected = {
        "user_id": "user id", "zip_code": "user categorical", "item_id": "item id", "genres": "item categorical",
        "price": "item continuous", "rating": "target regression", "clicked": "target binary", "timestamp": "time",
        "device": "context categorical", "position": "position", "weight": "weight", "session_id": "session id",
        "age": "user continuous", "flag": "item categorical", "title": "item text", "released": "item",
        "picture": "item embedding", "tags": "item categorical", "tag_counts": "item weight",
    }  # fmt: skip
    assert tags == expected
    assert schema["age"].missing == "mean"
    assert schema["released"].time is not None
    assert schema["released"].time.take == "age"
    assert schema["picture"].embedding is not None
    assert schema["picture"].embedding.dim == 3
    assert schema["tags"].weighted_by == "tag_counts"
    assert schema["session_id"].kind == "value"
    assert "# 0 to 1, 2 distinct, no null" in line_of(drafted.text, "flag")
    assert "# 80 distinct, no null, 4.0 words" in line_of(drafted.text, "title")
    assert "# 1970-01-01 to 2056-07-08, 80 distinct, no null" in line_of(drafted.text, "released")  # 79 * 400 days on
    assert "lists of 3, 10 % empty" in line_of(drafted.text, "picture")
    assert left_out(drafted.text, "uneven").startswith("a dense vector has one length; ")
    assert schema["zip_code"].column == "zip code"
    assert "# 200 distinct, no null" in line_of(drafted.text, "user_id")
    # of 88 values those that are no multiple of 4
    assert "# 66 distinct, 25 % null" in line_of(drafted.text, "zip_code")
    # a third of the lists is empty: 0, 3, 6 … 78 are 27 of 80
    assert "# 5 distinct, lists of 1 to 2, 33.75 % empty" in line_of(drafted.text, "genres")
    assert "# 0 to 6, 7 distinct, no null" in line_of(drafted.text, "price")
    assert left_out(drafted.text, "url") == "80 distinct for 80, so it tells them apart and says little of others"
    assert left_out(drafted.text, "request").startswith("4,000 distinct for 4,000")
    assert left_out(drafted.text, "currency") == "the same value wherever there is one"
    assert left_out(drafted.text, "nothing") == "no value in any row"
    assert left_out(drafted.text, "blob") == "holds binary, which no feature reads"
    assert left_out(drafted.text, "split").startswith("says how the rows were made")
    assert left_out(drafted.text, "updated_at").startswith("timestamp is the time already; 2020-09-13 to 2020-09-13")
    assert left_out(drafted.text, "event_type").startswith("is known only once an item is chosen, by its name")
    assert left_out(drafted.text, "seen_at").endswith("times are read from Arrow timestamps or dates, not from text")
    assert left_out(drafted.text, "watch_duration").startswith("is known only once an item is chosen, by its name")
    assert "# suppliers.parquet is left out: has no id column in common with interactions.parquet" in drafted.text
    assert "town: string" in drafted.text


@given(st.integers(0, 2**32 - 1))
def test_a_column_belongs_to_the_id_that_determines_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = interactions(seed)
    users = np.array([int(it[1:]) for it in table["user_id"]])
    by_user, by_item = rng.integers(0, 9, USERS), rng.integers(0, 9, ITEMS + 1)
    noise = np.where(rng.random(ROWS) < 0.1, rng.integers(0, 9, ROWS), by_item[table["item_id"]])
    columns = {
        "a": by_item[table["item_id"]],
        "b": pa.array([None if it % 10 == 0 else f"v{by_user[it]}" for it in users]),
        "c": rng.integers(0, 9, ROWS),
        "d": pa.array([[int(it), 1] for it in by_item[table["item_id"]]]),
        "e": noise,
    }
    tags = {it.name: it.tags[0].value for it in Schema.infer({**table, **columns})}
    assert tags == {
        "user_id": "user", "item_id": "item", "a": "item", "b": "user", "d": "item", "e": "item",
    }  # fmt: skip


def test_where_too_few_rows_tell_the_name_does() -> None:
    schema = Schema.infer({
        "user_id": [1, 2, 3, 4], "item_id": [1, 2, 1, 2], "user_city": ["a", "b", "b", "a"], "hour": [1, 2, 3, 4],
    })  # fmt: skip
    assert schema["user_city"].tags[0] == "user"
    assert schema["hour"].tags[0] == "context"


def test_features_share_a_table_where_they_share_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    table = interactions()
    cities = [f"city {it}" for it in range(20)]
    folder = write(
        tmp_path,
        interactions={
            **table,
            "last_item_ids": pa.array([list(it) for it in rng.integers(1, ITEMS + 1, (ROWS, 3))]),
            "hour_code": rng.integers(1, 25, ROWS),  # among the item ids by chance alone
            "sent_city": [cities[it] for it in rng.integers(0, 12, ROWS)],
        },
        items={"item_id": np.arange(1, ITEMS + 1), "made_in": [cities[it % 20] for it in range(ITEMS)]},
    )
    schema = Schema.infer(folder)
    assert schema["last_item_ids"].table == "item_id"
    assert schema["last_item_ids"].list is not None
    assert schema["hour_code"].table == "hour_code"
    assert schema["sent_city"].table == schema["made_in"].table == "made_in"
    assert "100 % of them among those of item_id" in line_of(draft(folder).text, "last_item_ids")


def test_ids_without_telling_names_are_found_by_the_tables_they_are_keys_of(tmp_path: Path) -> None:
    table = interactions()
    folder = write(
        tmp_path,
        log={"who": table["user_id"], "what": table["item_id"]},
        customers={"who": [f"u{it}" for it in range(USERS)], "town": [f"t{it % 9}" for it in range(USERS)]},
        products={"what": np.arange(1, ITEMS + 1), "weight": [it % 9 / 2 for it in range(ITEMS)]},
    )
    schema = Schema.infer(folder)
    assert [(it.name, *it.tags) for it in schema] == [
        ("who", "user", "id"), ("town", "user", "categorical"), ("what", "item", "id"), ("weight", "item", "continuous"),
    ]  # fmt: skip
    assert "# To train, say so in a run file: data: {interactions: log.parquet}" in draft(folder).text


def test_a_table_whose_id_has_another_name_is_told_to_name_its_column(tmp_path: Path) -> None:
    events = {"user_id": [f"u{it % 9}" for it in range(60)], "item_id": [f"i{it % 20}" for it in range(60)]}
    folder = write(tmp_path, interactions=events, items={"product_id": [f"i{it}" for it in range(20)]})
    expected = (
        "its product_id is named item_id in interactions.parquet: give its table {key: item_id, column: product_id}"
    )
    assert expected in draft(folder).text


def test_a_side_table_is_left_out_where_it_would_not_join(tmp_path: Path) -> None:
    table = interactions()
    repeated = {"item_id": [*range(1, ITEMS + 1), 1], "shelf": [it % 9 for it in range(ITEMS + 1)]}
    folder = write(tmp_path / "repeated", interactions=table, items=repeated)
    assert (
        "items.parquet is left out: item_id does not tell its rows apart (80 distinct in 81 rows)" in draft(folder).text
    )
    short = {"item_id": range(1, 61), "shelf": [it % 9 for it in range(60)]}
    folder = write(tmp_path / "short", interactions=table, items={it: list(short[it]) for it in short})
    assert (
        "items.parquet is left out: has no row for 25 % of the item_ids in interactions.parquet" in draft(folder).text
    )
    other = {"item_id": [str(it) for it in range(1, ITEMS + 1)], "shelf": [it % 9 for it in range(ITEMS)]}
    folder = write(tmp_path / "other", interactions=table, items=other)
    assert "item_id is string here and int64 in interactions.parquet: write both alike" in draft(folder).text


def test_a_column_of_two_tables_stands_once_in_a_dtype_that_reads_both(tmp_path: Path) -> None:
    table = interactions()
    numbers = np.array(table["item_id"])
    folder = write(
        tmp_path,
        interactions={
            "user_id": pa.array([int(it[1:]) for it in table["user_id"]], pa.uint32()),
            "item_id": pa.array(numbers, pa.int16()),
            "price": pa.array(numbers % 7 / 2, pa.float32()),
        },
        items={"item_id": np.arange(1, ITEMS + 1), "price": np.arange(1, ITEMS + 1) % 7 / 2},
        users={"user_id": pa.array(range(USERS), pa.int32()), "age": [20 + it % 50 for it in range(USERS)]},
    )
    schema = Schema.infer(folder)
    assert {it.name: it.dtype for it in schema} == {
        "user_id": "int64", "age": "int64", "item_id": "int64", "price": "float64",
    }  # fmt: skip
    assert set(schema.tables) == {"items", "users"}
    schema.fit(folder / "interactions.parquet")


def test_infinite_numbers_are_left_out(tmp_path: Path) -> None:
    folder = write(
        tmp_path, interactions={**interactions(), "user_height": [float("inf"), -float("inf"), 1.0, 2.0] * 1000}
    )
    assert left_out(draft(folder).text, "user_height").startswith(
        "holds values beyond float32; -inf to inf, 4 distinct"
    )


def test_files_of_the_same_columns_are_one_table(tmp_path: Path) -> None:
    table = pa.table(interactions())
    whole, parts, below = tmp_path / "whole", tmp_path / "parts", tmp_path / "below"
    for folder in (whole, parts, below / "interactions"):
        folder.mkdir(parents=True)
    pq.write_table(table, whole / "interactions.parquet", row_group_size=100)
    for number in range(4):
        for folder in (parts, below / "interactions"):
            pq.write_table(table.slice(number * 1000, 1000), folder / f"part-{number}.parquet")
    expected = [it.strip() for it in draft(whole).text.splitlines() if "_id:" in it]
    for folder in (parts, below):
        text = draft(folder).text
        assert [it.strip() for it in text.splitlines() if "_id:" in it] == expected
        assert "4,000 interactions" in text
    assert Schema.infer(parts).name == "parts"
    assert "# To train, put its files into a folder of their own" in draft(parts).text
    assert "data: {interactions: interactions}" in draft(below).text


def columns_in(text: str) -> list[str]:
    """The Parquet columns that the features of a draft name, those left out too."""
    found = re.findall(r"^  (?:# )?(\S+: +\{.*?\})    # ", text.partition("features:")[2], re.MULTILINE)
    return [spec.get("column", name) for line in found for name, spec in yaml.safe_load(line).items()]


names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=12)


@given(st.lists(names, unique=True, max_size=12))
def test_every_column_is_in_the_draft_and_the_draft_is_a_schema(names: list[str]) -> None:
    rows = np.arange(60)
    kinds: list[Any] = [
        rows % 3, ["x", "y"] * 30, [1.5] * 60, [f"{it}" for it in rows], rows % 11 / 3, pa.array([b"raw"] * 60),
        pa.array([[0.5, 1.0]] * 60), pa.array([True, None] * 30), pa.array([[], ["a"]] * 30), pa.nulls(60),
        pa.array([[0.5], []] * 30), pa.array(rows, pa.timestamp("us")),
    ]  # fmt: skip
    table = {"user_id": rows % 9, "item_id": rows % 13}
    source = pa.table({**{name: kinds[number] for number, name in enumerate(names)}, **table})
    drafted = draft(source)
    assert drafted.problems == ()
    assert sorted(columns_in(drafted.text)) == sorted(source.column_names)
    assert {it.source for it in Schema.infer(source)} <= set(source.column_names)
    assert draft(source) == drafted


def test_a_draft_does_not_depend_on_how_rows_are_grouped(tmp_path: Path) -> None:
    table = pa.table(
        {**interactions(), "x": np.arange(ROWS) % 17, "y": pa.array([[it % 5] * (it % 4) for it in range(ROWS)])}
    )
    texts = set()
    for group in (1, 37, ROWS):
        pq.write_table(table, tmp_path / "interactions.parquet", row_group_size=group)
        texts.add(draft(tmp_path).text)
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"a": [1, 2], "b": [0.5, 1.5]}, r"no column is an item id by its name \(its columns are a, b\)"),
        ({"item_id": [1, 1, 2]}, r"no column is a user id by its name"),
        ({"user_id": [1, 2], "item_ids": [[1, 2], [2]]}, "item_ids holds lists of items, expected one item a row"),
        ({"user_id": [1, 2], "item_id": [1.0, 2.0]}, "item_id holds double, which rounds ids"),
        ({"user_id": [1.0, 2.0], "item_id": [1, 1]}, "user_id holds double, which rounds ids"),
    ],
)
def test_what_keeps_a_draft_from_training_is_said_and_the_draft_is_there(columns: Any, problem: str) -> None:
    drafted = draft(columns)
    assert re.search(problem, drafted.problems[0])
    assert f"# Missing: {drafted.problems[0]}" in drafted.text
    assert all(re.search(rf"^ +(# )?{name}:", drafted.text, re.MULTILINE) for name in columns)
    with pytest.raises(SchemaError, match=problem):
        Schema.infer(columns)


def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 but no more")
    for path, expected in (
        (tmp_path / "empty", "the folder holds no .*parquet file"),
        (tmp_path / "nowhere", "there is no such file or folder"),
        (bad, "not a readable Parquet file"),
    ):
        with pytest.raises(DataError, match=expected) as caught:
            draft(path)
        assert len(caught.value.problems) == 1
        assert str(path) in str(caught.value)
    with pytest.raises(SchemaFlowError, match="expected a folder of Parquet files"):
        draft()


def test_progress_ends_at_all_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, interactions=interactions(), items={"item_id": np.arange(1, ITEMS + 1)})
    told: list[tuple[int, int]] = []
    draft(folder, progress=lambda done, rows: told.append((done, rows)))
    assert told[-1] == (ROWS + ITEMS, ROWS + ITEMS)
    assert [it for it, _ in told] == sorted(it for it, _ in told)


# -- real data --------------------------------------------------------------------------------------------------------


def folder_of(real_data: Path, name: str) -> Path:
    if not (real_data / name).is_dir():
        pytest.skip(f"put {name} at $SCHEMAFLOW_DATA/{name}")
    return real_data / name


@pytest.mark.parametrize("name", ["ml-100k", "goodbooks-10k", "movietweetings-100k"])
def test_a_draft_of_real_data_trains_without_an_edit(real_data: Path, tmp_path: Path, name: str) -> None:
    from schemaflow.workflows import train

    folder = folder_of(real_data, name)
    (tmp_path / "draft.yaml").write_text(draft(folder).text, encoding="utf-8")
    schema = Schema.from_yaml(tmp_path / "draft.yaml")
    assert {"users", "items"} & set(schema.tables)
    for table in schema.tables.values():
        shutil.copy(folder / table.file, tmp_path)
    rows = pq.read_table(folder / "interactions.parquet")
    sample = rows.take(np.random.default_rng(0).permutation(rows.num_rows)[:2000])  # enough for a step of each kind
    pq.write_table(sample, tmp_path / "interactions.parquet")
    config = RunConfig.from_yaml(tmp_path / "draft.yaml").model_copy(update={"epochs": 1})
    run = train(config, data=tmp_path)
    assert np.isfinite(run.report["recall@100"])
    assert run.report.protocol["candidates"] == pq.read_metadata(folder / "items.parquet").num_rows


def test_sessions_and_impressions_are_drafted_without_a_user(real_data: Path) -> None:
    sessions = Schema.infer(folder_of(real_data, "sessions-tmall"))
    assert sessions["item_ids"].table == "target_item_id"
    assert set(sessions["target_item_id"].tags) == {"item", "id"}
    impressions = Schema.infer(folder_of(real_data, "obd-small"))
    assert [it.name for it in impressions.select_by_tag("target")] == ["click"]
    assert len(impressions.select_by_tag("user")) == 4


def test_sequences_without_one_item_a_row_are_refused_with_the_way_out(real_data: Path) -> None:
    with pytest.raises(
        SchemaError, match="item_ids holds lists of items, expected one item a row: write one row for each"
    ):
        Schema.infer(folder_of(real_data, "amazon-beauty"))


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_draft_and_never_over_another(tmp_path: Path) -> None:
    write(tmp_path / "shop", interactions=interactions())
    printed = schemaflow("infer", "shop", cwd=tmp_path)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert printed.stdout == draft(tmp_path / "shop").text
    written = schemaflow("infer", "shop", "-o", "new/schema.yaml", cwd=tmp_path)
    assert (written.returncode, written.stderr) == (0, "")
    assert (tmp_path / "new" / "schema.yaml").read_text(encoding="utf-8") == printed.stdout
    (tmp_path / "mine.yaml").write_text("mine")
    refused = schemaflow("infer", "shop", "-o", "mine.yaml", cwd=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr == "mine.yaml: is there already; pass --force to write over it\n"
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert schemaflow("infer", "shop", "-o", "mine.yaml", "--force", cwd=tmp_path).returncode == 0
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8") == printed.stdout


def test_the_command_says_what_is_missing_and_leaves_the_draft(tmp_path: Path) -> None:
    write(tmp_path / "shop", things={"a": [1, 2], "b": [0.5, 1.5]})
    done = schemaflow("infer", "shop", "-o", "schema.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "things.parquet: no column is an item id by its name (its columns are a, b); write one as"
    )
    assert "# Missing: things.parquet: no column is an item id" in (tmp_path / "schema.yaml").read_text(
        encoding="utf-8"
    )
    gone = schemaflow("infer", "nowhere", cwd=tmp_path)
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == "nowhere: there is no such file or folder; expected Parquet\n"


def test_generated_data_trains_from_its_draft(data: Any, tmp_path: Path) -> None:
    from schemaflow.workflows import train

    (tmp_path / "draft.yaml").write_text(draft(data.folder).text, encoding="utf-8")
    config = RunConfig.from_yaml(tmp_path / "draft.yaml").model_copy(update={"epochs": 1})
    run = train(config, data=data.folder)
    assert run.report.protocol["candidates"] == 60


def test_what_may_be_known_only_after_the_choice_is_no_input() -> None:
    rng = np.random.default_rng(5)
    later = (
        "watch_time",
        "completed",
        "progress",
        "review_text",
        "order_id",
        "payment_type",
        "next_item_id",
        "helpful_votes",
    )
    known = {"device": rng.integers(0, 3, ROWS), "search_words": rng.integers(0, 5, ROWS)}
    table = {**interactions(), **{name: rng.integers(0, 40, ROWS) for name in later}, **known}
    assert set(Schema.infer(table).column_names) == {"user_id", "item_id", *known}
    text = draft(table).text
    assert all(left_out(text, name) for name in later)
    assert "take the # away if it is known when one asks" in left_out(text, "payment_type")


def test_columns_of_one_name_in_two_tables_may_be_two_things(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    folder = write(
        tmp_path,
        interactions={**interactions(), "rating": rng.integers(1, 6, ROWS)},
        items={"item_id": np.arange(1, ITEMS + 1), "rating": rng.integers(0, 5, ITEMS), "city_id": np.arange(ITEMS) % 20,
               "brand_id": np.arange(ITEMS) % 19},
    )  # fmt: skip
    schema = Schema.infer(folder)
    assert [tag.value for tag in schema["rating"].tags] == ["target", "regression"]
    assert "the interactions have a column of that name, their target" in draft(folder).text
    assert schema["city_id"].table != schema["brand_id"].table  # numbers overlap by chance


def test_a_column_that_cannot_be_read_does_not_keep_the_others_from_the_draft() -> None:
    large = pa.array([2**63 + it for it in range(ROWS)], pa.uint64())
    vectors = pa.array([[1e300, 1.0]] * ROWS)
    drafted = draft(
        {**interactions(), "user_hash": large, "user_vector": vectors, "user_height": [1e300, 2.0] * (ROWS // 2)}
    )
    assert drafted.problems == ()
    assert "and cannot be read" in left_out(drafted.text, "user_hash")
    assert left_out(drafted.text, "user_vector").startswith("holds values beyond float32")
    assert left_out(drafted.text, "user_height").startswith("holds values beyond float32")


def test_rows_without_a_user_are_told() -> None:
    table = interactions()
    table["user_id"][0] = None
    (problem,) = draft(table).problems
    assert re.fullmatch(
        r"the table in memory: user_id is missing in 0\.0\d+ % of the rows: remove them, or fill it in", problem
    )
