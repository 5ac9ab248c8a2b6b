"""Whole tables of users and items, from Parquet to Parquet, against the answers one by one."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow import bulk
from schemaflow.errors import BundleError, ConfigError, DataError
from schemaflow.workflows import embed, recommend_all
from tests.commands import schemaflow
from tests.conftest import ROOT

FEATURES = ("user_id", "age", "country")


@pytest.fixture(scope="module")
def bundle(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "bundle"
    trained.export(folder, data.items)
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PART_ROWS", 25)
    monkeypatch.setattr(bulk, "BATCH_ROWS", 7)


def one_by_one(bundle: Path, users: Path, k: int, exclude: Path | None = None) -> list[tuple[list[str], list[float]]]:
    recommender, seen = sf.Recommender.load(bundle), {}
    for row in pq.read_table(exclude).to_pylist() if exclude else ():
        seen.setdefault(row["user_id"], []).append(row["item_id"])
    found = []
    for row in pq.read_table(users).to_pylist():
        own = seen.get(row["user_id"], [])
        answer = recommender.recommend({name: [row[name]] for name in FEATURES}, k=k, exclude=own)
        found.append((answer.identifiers[0], answer.scores[0]))
    return found


@pytest.mark.usefixtures("small_parts")
def test_all_users_get_what_each_gets_alone(bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path) -> None:
    out, counted = tmp_path / "recs.parquet", []
    rows = recommend_all(
        bundle, data.users, out, k=9, exclude=data.interactions, progress=lambda *it: counted.append(it)
    )
    users, table = pq.read_table(data.users), pq.read_table(out)
    assert rows == len(users) == 120
    assert counted == [(25, 120), (50, 120), (75, 120), (100, 120), (120, 120)]
    assert table.column_names == ["user_id", "item_id", "score"]
    assert table["user_id"].to_pylist() == users["user_id"].to_pylist()
    assert table.schema.field("score").type == pa.list_(pa.float32())
    alone = one_by_one(bundle, data.users, 9, data.interactions)
    assert table["item_id"].to_pylist() == [ids for ids, _ in alone]
    np.testing.assert_allclose(
        table["score"].combine_chunks().flatten(), np.concatenate([it for _, it in alone]), atol=1e-6
    )
    pairs = {(it["user_id"], it["item_id"]) for it in pq.read_table(data.interactions).to_pylist()}
    shown = {(row["user_id"], item) for row in table.to_pylist() for item in row["item_id"]}
    assert len(shown) > 500
    assert not shown & pairs
    assert os.listdir(tmp_path) == ["recs.parquet"]


@pytest.mark.usefixtures("small_parts")
def test_what_a_killed_run_did_is_kept_and_the_end_is_the_same(
    bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    out, other = tmp_path / "recs.parquet", tmp_path / "other.parquet"
    program = (
        "import os, signal, sys\n"
        "from schemaflow import bulk\n"
        "bulk.PART_ROWS, bulk.BATCH_ROWS = 25, 7\n"
        "bulk.recommend_all(*sys.argv[1:], k=5, progress=lambda done, _: done > 50 and os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    arguments = [sys.executable, "-c", program, str(bundle), str(data.users), str(out)]
    assert subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False).returncode == -signal.SIGKILL
    parts = tmp_path / ".recs.parquet.parts"
    assert not out.exists()
    written = {it.name: it.stat().st_mtime_ns for it in parts.glob("*.parquet")}
    assert sorted(written) == ["00000000.parquet", "00000001.parquet", "00000002.parquet"]

    def whole_before_the_end(done: int, _: int) -> None:
        if done == 100:
            assert {it.name: it.stat().st_mtime_ns for it in parts.glob("*.parquet")}.items() >= written.items()

    recommend_all(bundle, data.users, out, k=5, progress=whole_before_the_end)
    recommend_all(bundle, data.users, other, k=5)
    assert out.read_bytes() == other.read_bytes()
    assert not parts.exists()


@pytest.mark.usefixtures("small_parts")
def test_parts_of_another_run_are_not_taken_for_ones_own(
    bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    out = tmp_path / "recs.parquet"

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recommend_all(bundle, data.users, out, k=5, progress=interrupt)
    with pytest.raises(ConfigError, match=r"parts of an interrupted run with other k, exclude; remove that folder"):
        recommend_all(bundle, data.users, out, k=6, exclude=data.interactions)
    shutil.copytree(bundle, tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ConfigError, match="with other bundle"):
        recommend_all(tmp_path / "bundle", data.users, out, k=5)


@pytest.mark.usefixtures("small_parts")
def test_a_second_run_of_the_same_file_is_refused_while_one_writes_it(
    bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    out, refused = tmp_path / "recs.parquet", []

    def again(*_: int) -> None:
        with pytest.raises(ConfigError, match=r"recs.parquet: another run is writing it; wait for its end") as raised:
            recommend_all(bundle, data.users, out, k=5)
        refused.append(raised)

    assert recommend_all(bundle, data.users, out, k=5, progress=again) == 120
    assert len(refused) == 5
    assert recommend_all(bundle, data.users, out, k=5) == 120
    assert os.listdir(tmp_path) == ["recs.parquet"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    ("dtype", "kinds", "kept"),
    [
        ("int64", (pa.int32(), pa.int64()), pa.int64()),
        ("int64", (pa.int64(), pa.int8()), pa.int64()),
        ("string", (pa.string(), pa.large_string()), pa.large_string()),
        ("string", (pa.dictionary(pa.int8(), pa.string()), pa.string()), pa.string()),
        ("string", (pa.null(), pa.string()), pa.string()),
        ("int64", (pa.int32(), pa.int32()), pa.int32()),
    ],
)
def test_ids_may_be_held_otherwise_in_another_file(
    dtype: str, kinds: tuple[pa.DataType, pa.DataType], kept: pa.DataType, tmp_path: Path
) -> None:
    """In one part, in which the files meet, and in another."""
    schema = sf.Schema((
        sf.Feature(name="user", dtype=dtype, tags=("user", "id"), hash=9),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=9),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]), correction=None)
    model.export(tmp_path / "bundle", {"item": list(range(9))})
    (tmp_path / "users").mkdir()
    ids = [[f"{it}" if dtype == "string" else it for it in range(start, start + 40)] for start in (0, 60)]
    ids = [[None] * 40 if pa.types.is_null(kind) else it for it, kind in zip(ids, kinds, strict=True)]
    for number, kind in enumerate(kinds):
        pq.write_table(pa.table({"user": pa.array(ids[number], kind)}), tmp_path / "users" / f"{number}.parquet")
    assert recommend_all(tmp_path / "bundle", tmp_path / "users", tmp_path / "out.parquet", k=2) == 80
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["user"].to_pylist() == [*ids[0], *ids[1]]
    assert found.schema.field("user").type == kept


def test_side_features_are_joined_and_new_users_answered(
    bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    """A table of ids alone takes the rest from the side tables of the folder that is named."""
    schema = sf.Recommender.load(bundle).schema
    assert {table.key for table in schema.tables.values()} >= {"user_id"}
    ids = tmp_path / "ids.parquet"
    pq.write_table(pq.read_table(data.users, columns=["user_id"]).slice(3, 5), ids)
    recommend_all(bundle, ids, tmp_path / "joined.parquet", k=4, tables=data.folder)
    recommend_all(bundle, data.users, tmp_path / "whole.parquet", k=4)
    whole = pq.read_table(tmp_path / "whole.parquet").slice(3, 5).to_pylist()
    joined = pq.read_table(tmp_path / "joined.parquet").to_pylist()
    assert [it["item_id"] for it in joined] == [it["item_id"] for it in whole]
    new = tmp_path / "new.parquet"
    pq.write_table(
        pa.table({"user_id": ["nobody", None], "age": [31, 32], "country": ["JP", "JP"], "more": [1, 2]}), new
    )
    assert recommend_all(bundle, new, tmp_path / "new.out.parquet", k=60, exclude=data.interactions) == 2
    found = pq.read_table(tmp_path / "new.out.parquet")
    assert found["user_id"].to_pylist() == ["nobody", None]
    assert [len(it) for it in found["item_id"].to_pylist()] == [60, 60]
    pq.write_table(pa.table({"user_id": ["nobody"]}), ids)
    with pytest.raises(DataError, match="has no row for user_id 'nobody'"):
        recommend_all(bundle, ids, tmp_path / "none.parquet", tables=data.folder)
    assert not list(tmp_path.glob("*none.parquet*"))  # nor a part, for none was written


def test_lists_and_vectors_are_asked_as_they_stand(tmp_path: Path) -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=9),
        sf.Feature(name="likes", dtype="string", tags=("user", "categorical"), list={}, vocabulary=("p", "q")),
        sf.Feature(name="face", dtype="float32", tags=("user", "embedding"), embedding={"dim": 2}),
        sf.Feature(name="about", dtype="string", tags=("user", "text"), vocabulary=("red", "blue")),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=9),
    ))  # fmt: skip
    users = {
        "user": [0, 3, 8], "likes": [["p", None], None, ["q", "?", "p"]], "face": [[0.5, 1.0], [0.0, 2.0], [1.5, -1.0]],
        "about": ["red red", None, "Blue sky"],
    }  # fmt: skip
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]), correction=None)
    recommender = model.export(tmp_path / "bundle", {"item": list(range(9))})
    pq.write_table(pa.table(users), tmp_path / "users.parquet")
    recommend_all(tmp_path / "bundle", tmp_path / "users.parquet", tmp_path / "out.parquet", k=4)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.field("item").type == pa.list_(pa.int64())
    assert found["item"].to_pylist() == recommender.recommend(users, k=4).identifiers
    scores = model.query_embeddings(users) @ model.candidate_embeddings({"item": list(range(9))}).T
    assert found["item"].to_pylist() == np.argsort(-scores, axis=1)[:, :4].tolist()
    beyond = {name: [*values, values[0]] for name, values in users.items()}
    pq.write_table(pa.table({**beyond, "user": [0, 3, 8, 9]}), tmp_path / "users.parquet")
    with pytest.raises(DataError, match=r'users.parquet, row group 0, rows 0 to 3: feature "user": .*9 is outside'):
        recommend_all(tmp_path / "bundle", tmp_path / "users.parquet", tmp_path / "out.parquet", k=4)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(("side", "given"), [("query", None), ("candidate", None), ("candidate", "candidate")])
def test_vectors_are_those_of_the_model(
    side: str, given: Any, bundle: Path, trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    table, key = (data.users, "user_id") if side == "query" else (data.items, "item_id")
    embeddings = trained.query_embeddings if side == "query" else trained.candidate_embeddings
    assert embed(bundle, table, tmp_path / "vectors.parquet", side=given) == pq.read_metadata(table).num_rows
    found = pq.read_table(tmp_path / "vectors.parquet")
    assert found.column_names == [key, "vector"]
    assert found.schema.field("vector").type == pa.list_(pa.float32(), 8)
    assert found[key].to_pylist() == pq.read_table(table)[key].to_pylist()
    vectors = np.stack(found["vector"].to_numpy())
    np.testing.assert_allclose(vectors, embeddings(table), atol=1e-6)


def test_what_cannot_be_embedded_or_recommended_is_named(
    bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    both = tmp_path / "both.parquet"
    pq.write_table(
        pa.table(
            {"user_id": ["u"], "age": [1], "country": ["JP"], "item_id": ["i00001"], "genre": ["g"], "price": [1.0]}
        ),
        both,
    )
    pq.write_table(pa.table({"nothing": [1]}), tmp_path / "neither.parquet")
    pq.write_table(pa.table({"user_id": ["u00001", None], "item_id": ["i00001", "i00002"]}), tmp_path / "seen.parquet")
    for act, error, message in [
        (lambda: embed(bundle, data.interactions, out), ConfigError, "features of queries and of items; say which"),
        (lambda: embed(bundle, data.items, out, side="item"), ConfigError, "side is 'item'; expected query or candidate"),
        (lambda: embed(bundle, tmp_path / "neither.parquet", out), DataError, 'as query: feature "user_id": its column'),
        (lambda: recommend_all(bundle, data.users, out, k=0), ConfigError, "k is 0"),
        (lambda: recommend_all(bundle, data.users, tmp_path), ConfigError, "is a folder"),
        (lambda: recommend_all(tmp_path, data.users, out), BundleError, "there is no bundle"),
        (lambda: recommend_all(bundle, tmp_path / "no.parquet", out), DataError, "there is no such file"),
        (
            lambda: recommend_all(bundle, data.users, out, exclude=tmp_path / "seen.parquet"),
            DataError, 'seen.parquet, row group 0, row 1: the id "user_id" is missing',
        ),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            act()
    assert not out.exists()


def test_the_commands_say_the_same(bundle: Path, data: sf.datasets.DataFolder, tmp_path: Path) -> None:
    out, vectors = tmp_path / "recs.parquet", tmp_path / "vectors.parquet"
    done = schemaflow("recommend", bundle, "--users", data.users, "--out", out, "-k", 3, "--exclude", data.interactions)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"wrote {out}: recommendations for 120 rows\n"
    recommend_all(bundle, data.users, tmp_path / "twin.parquet", k=3, exclude=data.interactions)
    assert out.read_bytes() == (tmp_path / "twin.parquet").read_bytes()
    done = schemaflow("embed", bundle, data.items, "--out", vectors)
    assert (done.returncode, done.stderr) == (0, "")
    assert pq.read_table(vectors).num_rows == 60
    for wrong in (
        ("--users", data.users),
        ("user_id=u", "--out", out),
        ("user_id=u", "--users", data.users, "--out", out),
    ):
        done = schemaflow("recommend", bundle, *wrong)
        assert done.returncode == 1
        assert "--users" in done.stderr
