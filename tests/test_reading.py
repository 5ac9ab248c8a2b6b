"""The order in which a table is read: every row once, mixed, the same for a seed, and shared out between workers."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data import order
from schemaflow.data.dataset import data_errors
from schemaflow.data.join import join
from schemaflow.errors import ConfigError, DataError
from schemaflow.schema import sources


def feature(name: str, tags: list[str], dtype: str = "int64", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": tags, **spec})


ROW = feature("row", ["user", "id"], cardinality=10_000)
NAME = feature("name", ["item", "categorical"], "string", vocabulary=["x", "y", "z"])
NAMES = feature("names", ["item", "categorical"], "string", vocabulary=["x", "y", "z"], list={}, domain="name")
PRICE = feature("price", ["user", "continuous"], "float32", missing="mean")
SCHEMA = sf.Schema((ROW, NAME, NAMES, PRICE)).fit({"price": [0.0, 8.0]})  # mean 4
WORDS = ["x", "y", None, "z", "", "?"]
"""Rows 3, 4, 1, 5, 1 and 2 of the table."""
CODES = [3, 4, 1, 5, 1, 2]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a few rows as many as a million are."""
    monkeypatch.setattr(sources, "BATCH_ROWS", 7)
    monkeypatch.setattr(order, "BATCH_ROWS", 7)
    monkeypatch.setattr(order, "ACTIVE", 3)
    monkeypatch.setattr(order, "PART_ROWS", 7)
    monkeypatch.setattr(order, "BLOCK_ROWS", 40)
    monkeypatch.setattr(order, "ORDERED_ROWS", 16)
    monkeypatch.setattr(sources, "CODED_ROWS", 4)


def write(folder: Path, files: list[int], group: int) -> int:
    """Write files of so many rows, numbered through, and return how many they are."""
    first = 0
    for number, rows in enumerate(files):
        numbers = range(first, first + rows)
        table = pa.table({
            "row": pa.array(numbers, pa.int64()),
            "name": pa.array([WORDS[row % 6] for row in numbers], pa.string()),
            "names": pa.array([[WORDS[row % 6]] * (row % 4) for row in numbers], pa.list_(pa.string())),
            "price": pa.array([None if row % 5 == 0 else float(row) for row in numbers], pa.float32()),
        })  # fmt: skip
        pq.write_table(table, folder / f"{number:02}.parquet", row_group_size=group)
        first += rows
    return first


def numbers_of(batch: Any) -> list[int]:
    return [int(row) for row in batch["row/encoded"]]


def check(batch: Any) -> None:
    """Compare a batch with what its rows were written with."""
    rows = numbers_of(batch)
    assert batch["name/encoded"].numpy().tolist() == [CODES[row % 6] for row in rows]
    # what is missing in a list takes no part
    lists = [[CODES[row % 6]] * (row % 4) if CODES[row % 6] != 1 else [] for row in rows]
    assert batch["names/encoded"].to_list() == lists
    assert batch["price/encoded"].numpy().tolist() == [4.0 if row % 5 == 0 else float(row) for row in rows]


@settings(max_examples=25)
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=4),
    st.integers(1, 20),
    st.integers(1, 30),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)
def test_shards_share_out_every_row_once_however_it_is_stored(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[int],
    group: int,
    batch_size: int,
    count: int,
    shuffle: bool,
    drop: bool,
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = write(folder, files, group)
    count = min(count, rows)
    seen: Counter[int] = Counter()
    for index in range(count):
        shard = sf.read_parquet(
            folder, SCHEMA, batch_size=batch_size, shuffle=shuffle, seed=5, shard=(index, count), drop_remainder=drop
        )
        batches = list(shard)
        assert len(shard) == len(batches)
        mine = rows * (index + 1) // count - rows * index // count
        sizes = [len(numbers_of(batch)) for batch in batches]
        if drop:  # all shards have as many batches
            assert sizes == [batch_size] * (rows // count // batch_size)
        else:
            assert sizes == [batch_size] * (mine // batch_size) + [mine % batch_size] * (mine % batch_size > 0)
        for batch in batches:
            check(batch)
            seen.update(numbers_of(batch))
        if not shuffle:
            first = rows * index // count
            assert [row for batch in batches for row in numbers_of(batch)] == list(range(first, first + sum(sizes)))
    assert set(seen.values()) <= {1}
    assert drop or len(seen) == rows


@pytest.mark.parametrize("group", [1, 5, 30, 120])
def test_a_batch_holds_rows_of_several_files(tmp_path: Path, group: int) -> None:
    write(tmp_path, [120] * 6, group)
    batches = list(sf.read_parquet(tmp_path, SCHEMA, batch_size=12, shuffle=True, seed=1))
    files = [len({row // 120 for row in numbers_of(batch)}) for batch in batches]
    assert np.mean(files) > 2
    # within a part, rows are permuted
    follows = [
        b - a == 1 for batch in batches for a, b in zip(numbers_of(batch)[:-1], numbers_of(batch)[1:], strict=True)
    ]
    assert np.mean(follows) < 0.2


def test_the_order_is_that_of_the_seed_however_many_threads_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, [100, 30, 70], 9)
    orders = []
    for workers in (1, 2, 5):
        monkeypatch.setattr(order, "WORKERS", workers)
        dataset = sf.read_parquet(tmp_path, SCHEMA, batch_size=8, shuffle=True, seed=3)
        orders.append([[row for batch in dataset for row in numbers_of(batch)] for _ in range(2)])
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0] != orders[0][1]
    asked = [7, 8, 7]
    dataset = sf.read_parquet(tmp_path, SCHEMA, batch_size=8, shuffle=True, seed=lambda: asked.pop(0))
    first, second, third = ([row for batch in dataset for row in numbers_of(batch)] for _ in range(3))
    assert first == third != second


def test_tables_in_memory_are_read_alike(tmp_path: Path) -> None:
    rows = write(tmp_path, [60], 60)
    table = pq.read_table(tmp_path / "00.parquet")
    for given_table in (table, table.set_column(1, "name", table["name"].dictionary_encode())):
        batches = list(sf.read_parquet(given_table, SCHEMA, batch_size=8, shuffle=True, seed=3))
        assert sorted(row for batch in batches for row in numbers_of(batch)) == list(range(rows))
        for batch in batches:
            check(batch)


@pytest.mark.parametrize("shuffle", [False, True])
def test_of_several_errors_the_first_in_order_is_told(tmp_path: Path, shuffle: bool) -> None:
    write(tmp_path, [40, 40, 40], 10)
    rows = np.arange(40)
    for number in (1, 2):
        bad = pq.read_table(tmp_path / f"0{number}.parquet").set_column(
            0, "row", pa.array(np.where(rows == 25, -1, rows))
        )
        pq.write_table(bad, tmp_path / f"0{number}.parquet", row_group_size=10)
    told = set()
    for _ in range(4):
        dataset = sf.read_parquet(tmp_path, SCHEMA, batch_size=8, shuffle=shuffle, seed=2)
        with pytest.raises(DataError) as caught, data_errors():
            list(dataset)
        told.add(str(caught.value))
    (text,) = told
    assert 'parquet, row group 2, row 25: feature "row" is -1, which is outside 0 <= id < 10000' in text
    assert shuffle or "01.parquet" in text


def test_shards_that_cannot_be_are_refused(tmp_path: Path) -> None:
    table = {"row": [0, 1, 2]}
    for shard in ((2, 2), (-1, 2), (0, 0), (0,), 3, (0.0, 2)):
        with pytest.raises(ConfigError, match=r"expected \(index, count\), with 0 <= index < count"):
            sf.read_parquet(table, SCHEMA, batch_size=1, features=["row"], shard=shard)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the table has 3 rows, fewer than shards; use at most 3"):
        sf.read_parquet(table, SCHEMA, batch_size=1, features=["row"], shard=(0, 4))
    with pytest.raises(ConfigError, match="shuffle has no seed; give all shards the same one"):
        sf.read_parquet(table, SCHEMA, batch_size=1, features=["row"], shard=(0, 2), shuffle=True)


def strings(rows: int) -> list[list[str]]:
    return [["x"] * (row % 3) + ["y"] for row in range(rows)]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.list_(pa.dictionary(pa.int32(), pa.string()))])
def test_lists_of_strings_in_several_row_groups_of_a_place(kind: pa.DataType, shuffle: bool, tmp_path: Path) -> None:
    """Arrow gives no codes within lists across row groups."""
    lists = pa.array(strings(20), pa.list_(pa.string())).cast(kind)
    pq.write_table(pa.table({"names": lists}), tmp_path / "a.parquet", row_group_size=5)
    batches = sf.read_parquet(tmp_path, SCHEMA, batch_size=6, shuffle=shuffle, seed=1, features=["names"])
    found = [row for batch in batches for row in batch["names/encoded"].to_list()]
    assert sorted(found) == sorted([3] * (row % 3) + [4] for row in range(20))


def test_row_groups_and_files_may_be_empty(tmp_path: Path) -> None:
    whole = pa.table({"row": np.arange(5)})
    with pq.ParquetWriter(tmp_path / "a.parquet", whole.schema) as writer:
        writer.write_table(whole)
        writer.write_table(whole.slice(0, 0))
    pq.write_table(whole.slice(0, 0), tmp_path / "b.parquet")
    source = sources.open_source(tmp_path)
    assert [piece.table["row"].to_pylist() for piece in source.batches(["row"])] == [[0, 1, 2, 3, 4]]


def test_narrow_codes_have_room_for_all_values() -> None:
    words = [f"w{number}" for number in range(200)]
    name = feature("name", ["item", "categorical"], "string", vocabulary=words)
    halves = [
        pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), pa.array(half))
        for half in (words[:100], words[100:])
    ]
    table = pa.table({"name": pa.chunked_array(halves)})
    (batch,) = sf.read_parquet(table, sf.Schema((name,)), batch_size=200)
    assert batch["name/encoded"].numpy().tolist() == list(range(3, 203))
    full = pa.DictionaryArray.from_arrays(pa.array(range(128), pa.int8()), pa.array(words[:128]))
    (batch,) = sf.read_parquet(pa.table({"name": full}), sf.Schema((name,)), batch_size=200)
    assert batch["name/encoded"].numpy().tolist() == list(range(3, 131))


@pytest.mark.parametrize("batch_size", [17, 39, 50])
def test_what_blocks_hold_beyond_whole_batches_does_not_gather(batch_size: int, tmp_path: Path) -> None:
    """A block of 40 rows and more leaves up to a batch less one; of those too no more than a block is held."""
    rows = write(tmp_path, [500], 50)
    joined = join(tmp_path, SCHEMA, None, ["row"])
    sizes, held = [], []
    with pytest.MonkeyPatch.context() as patch:
        keep = order._permuted
        patch.setattr(
            order, "_permuted", lambda columns, *rest: held.append(len(columns["row"])) or keep(columns, *rest)
        )
        for block in order.shuffled(joined, range(rows), batch_size, 3):
            sizes.append(len(block["row"]))
    assert sum(sizes) == rows
    assert [size % batch_size for size in sizes[:-1]] == [0] * (len(sizes) - 1)
    assert max(held) < 2 * max(40, batch_size) + batch_size


def test_a_process_ends_while_an_iterator_lives(tmp_path: Path) -> None:
    """TensorFlow waits for its threads then, and they would wait for an interpreter that is no more."""
    pq.write_table(pa.table({"row": np.arange(400_000) % 10_000}), tmp_path / "a.parquet", row_group_size=50_000)
    program = (
        "import sys, schemaflow as sf\n"
        "row = sf.Feature(name='row', dtype='int64', tags=('user', 'id'), cardinality=10_000)\n"
        "iterator = iter(sf.read_parquet(sys.argv[1], sf.Schema((row,)), batch_size=100, shuffle=True, seed=0))\n"
        "next(iterator)\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "done\n"
