"""Bundles: what is asked restricts truly, in a process without the library too; whole or refused; items are added."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import BundleError, ConfigError, DataError
from schemaflow.export.bundle import writing
from schemaflow.schema.table import SideTable

ITEMS = {
    "item": ["i0", "i1", "i2", "i3", "i4", "i5", "i6", "i7"],
    "genres": [["a"], ["a", "b"], ["b"], [], None, ["c"], ["c", "a"], ["b"]],
    "release year": pa.array([1990, 1991, None, 1993, 1994, 1995, 1996, 1997], pa.int32()),
    "price": pa.array([0.5, 9.99, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], pa.float32()),
    "title": [f"The {it}th" for it in range(8)],  # of no feature
}
USERS = {"user": ["ann", "bob", "?"], "age": [0.5, -1.0, 2.0]}
FEATURES = (
    sf.Feature(name="user", dtype="string", tags=("user", "id"), vocabulary=("ann", "bob")),
    sf.Feature(name="age", dtype="float32", tags=("user", "continuous")),
    sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=tuple(ITEMS["item"])),
    sf.Feature(name="genres", dtype="string", tags=("item", "categorical", "filter"), list={}, vocabulary=("a", "b", "c")),
    sf.Feature(name="year", dtype="int32", tags=("item", "filter"), column="release year"),
    sf.Feature(name="price", dtype="float32", tags=("item", "continuous", "filter")),
    sf.Feature(name="rating", dtype="float32", tags=("target",)),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> sf.TwoTowerModel:
    import keras

    keras.utils.set_random_seed(3)
    return sf.TwoTowerModel(sf.Schema(FEATURES), sf.MLPBlock([4]), correction=None)


@pytest.fixture(scope="module")
def recommender(model: sf.TwoTowerModel, tmp_path_factory: pytest.TempPathFactory) -> sf.Recommender:
    report = sf.evaluate(model, {"user": ["ann"], "item": ["i1"], "age": [0.5]}, ITEMS, ks=(1,))
    return model.export(tmp_path_factory.mktemp("export") / "bundle", ITEMS, k=3, report=report)


@pytest.fixture
def copied(recommender: sf.Recommender, tmp_path: Path) -> Path:
    return shutil.copytree(recommender.path, tmp_path / "bundle")


@pytest.fixture(scope="module")
def ranked(model: sf.TwoTowerModel) -> list[list[str]]:
    """Rank the items in NumPy, by the model's vectors."""
    scores = model.query_embeddings(USERS) @ model.candidate_embeddings(ITEMS).T
    return np.array(ITEMS["item"])[np.argsort(-scores, axis=1)].tolist()


IDS = st.lists(st.sampled_from([*ITEMS["item"], "none such"]), max_size=5)
PER_ROW = st.none() | IDS | st.lists(st.none() | IDS, min_size=3, max_size=3).filter(any)
COMEDIES = {"a": {"i0", "i1", "i6"}, "b": {"i1", "i2", "i7"}}
LATE = {"i4", "i5", "i6", "i7"}  # not i2, whose year is missing


@given(PER_ROW, PER_ROW, st.sampled_from([None, "a", "b"]), st.booleans(), st.integers(1, 9))
def test_what_comes_back_is_what_a_sorted_list_holds(
    ranked: list[list[str]], recommender: sf.Recommender, exclude: Any, allow: Any, genre: Any, late: bool, k: int
) -> None:
    where = ({} if genre is None else {"genres": genre}) | ({"year": {">=": 1994}} if late else {})
    answer = recommender.recommend(USERS, k=k, exclude=exclude, allow=allow, where=where)

    def of_row(given: Any, row: int) -> Any:
        return given[row] if given and not all(isinstance(it, str) for it in given) else given

    for row, order in enumerate(ranked):
        kept = [it for it in order if it not in (of_row(exclude, row) or [])]
        kept = [it for it in kept if of_row(allow, row) is None or it in of_row(allow, row)]
        kept = [it for it in kept if genre is None or it in COMEDIES[genre]]
        kept = [it for it in kept if not late or it in LATE]
        assert answer.identifiers[row] == kept[:k]
        assert len(answer.scores[row]) == len(answer.identifiers[row])


@pytest.mark.parametrize("as_rows", [False, True])
def test_a_list_for_all_rows_is_held_once(as_rows: bool, recommender: sf.Recommender) -> None:
    """Whether it is given so, or as the same list for each row: 2000 times 3000 numbers would be 48 MB."""
    ids, rows = [f"i{it}" for it in range(3, 3003)], 2000
    users = {"user": ["ann", "bob"] * (rows // 2), "age": [0.5, -1.0] * (rows // 2)}
    allow = [None, ["i1", "i4"]] * (rows // 2)
    recommender.recommend(users, exclude=["i1"], allow=allow)
    tracemalloc.start()
    answer = recommender.recommend(users, k=8, exclude=[ids] * rows if as_rows else ids, allow=allow)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6
    assert {frozenset(it) for it in answer.identifiers[0::2]} == {frozenset({"i0", "i1", "i2"})}
    assert answer.identifiers[1::2] == [["i1"]] * (rows // 2)


def test_an_empty_allow_list_allows_nothing_and_none_everything(recommender: sf.Recommender) -> None:
    assert recommender.recommend(USERS, allow=[]).identifiers == [[], [], []]
    assert recommender.recommend(USERS, allow=[[], None, ["i3"]]).identifiers[0::2] == [[], ["i3"]]
    assert len(recommender.recommend(USERS, allow=[[], None, ["i3"]]).identifiers[1]) == 3
    assert recommender.recommend(USERS, where={}) == recommender.recommend(USERS)


def test_similar_items_are_nearest_by_angle_and_never_the_item_itself(
    model: sf.TwoTowerModel, recommender: sf.Recommender
) -> None:
    vectors = model.candidate_embeddings(ITEMS)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    answer = recommender.similar_items(["i2", "i7"], k=20)
    for row, item in enumerate((2, 7)):
        order = [it for it in np.argsort(-cosines[item]).tolist() if it != item]
        assert answer.identifiers[row] == [f"i{it}" for it in order]
        assert answer.scores[row] == pytest.approx(cosines[item, order], abs=1e-6)
    assert [len(it) for it in recommender.similar_items(["i0"]).identifiers] == [3]
    assert recommender.similar_items([]).identifiers == []
    for ids, message in [
        (["i0", "x", "y"], r"no item 'x' in the bundle \(2 of 3 asked for\)"),
        ("i0", "expected a list of item ids"),
        ([3], "holds 3; expected item ids, strings"),
    ]:
        with pytest.raises(ConfigError, match=message):
            recommender.similar_items(ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": "i0"}, "allow is 'i0'; expected a list"),
        ({"allow": [["i0"]]}, "allow holds 1 lists for 3 rows"),
        ({"allow": [3]}, "allow holds 3; expected item ids, strings"),
        ({"exclude": [["i0"], "i1", None]}, "exclude holds 'i1' beside lists"),
        ({"where": {"title": "x"}}, r'no filter "title" \(items are filtered by genres, year, price\)'),
        ({"where": {"year": "1990"}}, "feature \"year\": expected int32, received '1990'"),
    ],
)
def test_wrong_restrictions_are_named(options: dict[str, Any], message: str, recommender: sf.Recommender) -> None:
    with pytest.raises(ConfigError, match=message):
        recommender.recommend(USERS, **options)


def test_a_bundle_holds_what_it_was_made_of(model: sf.TwoTowerModel, recommender: sf.Recommender) -> None:
    assert recommender.items.column_names == list(ITEMS)
    assert recommender.items["title"].to_pylist() == ITEMS["title"]
    second = {"item": "i2", "genres": ["b"], "release year": None, "price": 3.0, "title": "The 2th"}
    assert recommender.describe(["i2", "none such", "i2"]) == [second, None, second]
    assert recommender.describe([]) == []
    assert recommender.item_id.name == "item"
    assert [it.name for it in recommender.features] == ["user", "age"]
    assert [it.name for it in recommender.filters] == ["genres", "year", "price"]
    assert json.loads((recommender.path / "report.json").read_text())["metrics"].keys() >= {"recall@1"}
    assert recommender.query_embeddings(USERS) == pytest.approx(model.query_embeddings(USERS), abs=1e-6)
    assert recommender.candidate_embeddings(ITEMS) == pytest.approx(model.candidate_embeddings(ITEMS), abs=1e-6)


FRESH = """
import json, sys
import numpy as np, tensorflow as tf
path, users = sys.argv[1], json.loads(sys.argv[2])
model = tf.saved_model.load(path)
features = {"user": tf.constant(users["user"]), "age": tf.constant(users["age"])}
open_ends = {"where_genres": tf.zeros([0], tf.string), "where_year": tf.zeros([0], tf.int32),
    "where_year_min": tf.int32.min, "where_year_max": tf.int32.max, "where_price": tf.zeros([0]),
    "where_price_min": -np.inf, "where_price_max": np.inf}
nothing = tf.zeros([3, 0], tf.string)
def ask(k=3, exclude=nothing, allow=nothing, **where):
    specs = model.signatures["recommend"].structured_input_signature[1]
    where = {name: tf.constant(it, specs[name].dtype) for name, it in (open_ends | where).items()}
    answer = model.signatures["recommend"](k=tf.constant(k), exclude=tf.constant(exclude), allow=tf.constant(allow),
        **features, **where)
    return [[it.decode() for it in row[:n]] for row, n in zip(answer["identifiers"].numpy(), answer["count"].numpy())]
similar = model.signatures["similar_items"](identifiers=tf.constant(["i2", "none such"]), k=tf.constant(4))
ops = set()
for signature in model.signatures.values():
    definition = signature.graph.as_graph_def()
    ops |= {node.op for node in definition.node}
    ops |= {node.op for function in definition.library.function for node in function.node_def}
assert "schemaflow" not in sys.modules
print(json.dumps({
    "default": [[it.decode() for it in row] for row in model.signatures["serving_default"](**features)["identifiers"].numpy()],
    "k": ask(k=5), "exclude": ask(exclude=[["i0", "i3"], ["i1", ""], ["", ""]]),
    "allow": ask(allow=[["i0", "i3"], ["i1", ""], ["", ""]]),
    "where": ask(k=8, where_genres=["a", "b"], where_year_min=1991, where_price_max=9.0),
    "any": ask(k=8, where_year=[1990, 1997, 1]), "similar": similar["count"].numpy().tolist(),
    "near": [it.decode() for it in similar["identifiers"].numpy()[0]],
    "vectors": model.signatures["query_embedding"](**features)["embedding"].numpy().tolist(),
    "odd": sorted(it for it in ops if not hasattr(tf.raw_ops, it)), "ops": len(ops),
}))
"""


def asked_alike(recommender: sf.Recommender) -> dict[str, Any]:
    """Ask the library what the fresh process asks the SavedModel."""
    return {
        "default": recommender.recommend(USERS).identifiers,
        "k": recommender.recommend(USERS, k=5).identifiers,
        "exclude": recommender.recommend(USERS, exclude=[["i0", "i3"], ["i1"], []]).identifiers,
        "allow": recommender.recommend(USERS, allow=[["i0", "i3"], ["i1"], []]).identifiers,
        "where": recommender.recommend(
            USERS, k=8, where={"genres": ["a", "b"], "year": {">": 1990}, "price": {"<=": 9}}
        ).identifiers,
        "any": recommender.recommend(USERS, k=8, where={"year": [1990, 1997, 1]}).identifiers,
        "near": recommender.similar_items(["i2"], k=4).identifiers[0],
    }


def test_a_process_without_the_library_gives_the_same_ids_by_stock_operations(recommender: sf.Recommender) -> None:
    arguments = [sys.executable, "-c", FRESH, str(recommender.path / "model"), json.dumps(USERS)]
    answers = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    expected = asked_alike(recommender)
    assert {name: answers[name] for name in expected} == expected
    assert answers["similar"] == [4, 0]  # what is not there has nothing similar
    assert set(answers["where"][0]) == {"i6", "i7"}  # i0 is too old, i1 too dear, the year of i2 is missing
    assert np.array(answers["vectors"]) == pytest.approx(recommender.query_embeddings(USERS), abs=1e-6)
    assert answers["ops"] > 50
    assert answers["odd"] == []


NEW = {
    "item": ["new", "newer"],
    "genres": [["a", "unheard of"], None],
    "release year": [2001, None],
    "price": [1.0, 2.0],
}


@pytest.fixture(scope="module")
def grown(recommender: sf.Recommender, tmp_path_factory: pytest.TempPathFactory) -> sf.Recommender:
    once = recommender.add_items(NEW, tmp_path_factory.mktemp("grown") / "bundle")
    return once.add_items({**NEW, "item": ["third", "fourth"]})  # in place


def test_items_are_added_without_training(
    model: sf.TwoTowerModel, recommender: sf.Recommender, grown: sf.Recommender
) -> None:
    every = [*ITEMS["item"], "new", "newer", "third", "fourth"]
    vectors = np.concatenate([model.candidate_embeddings(ITEMS), *2 * [model.candidate_embeddings(NEW)]])
    scores = model.query_embeddings(USERS) @ vectors.T
    answer = grown.recommend(USERS, k=12)
    for row in range(3):
        assert sorted(answer.identifiers[row]) == sorted(every)
        expected = scores[row, [every.index(it) for it in answer.identifiers[row]]]
        assert answer.scores[row] == pytest.approx(expected, abs=1e-5)
    assert set(grown.recommend(USERS, k=12, where={"genres": "unheard of"}).identifiers[0]) == {"new", "third"}
    assert grown.recommend(USERS, where={"year": {">": 1997}}, exclude=["third"]).identifiers == 3 * [["new"]]
    assert set(grown.similar_items(["new"], k=1).identifiers[0]) == {"third"}  # which differs in nothing but its name
    assert grown.describe(["newer"]) == [
        {"item": "newer", "genres": None, "release year": None, "price": 2.0, "title": None}
    ]
    assert grown.k == 3
    assert (grown.path / "report.json").read_text() == (recommender.path / "report.json").read_text()
    assert len(sf.Recommender.load(recommender.path).items) == 8
    original = recommender.recommend(USERS, k=8)
    again = grown.recommend(USERS, k=8, allow=ITEMS["item"])
    assert again.identifiers == original.identifiers


def codes(values: list[Any], of: pa.DataType, index: pa.DataType) -> pa.Array:
    return pa.array(values, of).dictionary_encode().cast(pa.dictionary(index, of))


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
@pytest.mark.parametrize("coded", ["before", "after", "both"])
def test_items_are_added_however_their_strings_are_held(
    coded: str, kind: pa.DataType, model: sf.TwoTowerModel, tmp_path: Path
) -> None:
    def held(items: dict[str, Any], when: str) -> Any:
        if coded not in (when, "both"):
            return items
        values = codes(["a", "b"], pa.string(), pa.int8()).take(pa.array([0, 1] * (len(items["item"]) // 2)))
        values = values.cast(pa.dictionary(pa.int8(), kind))
        genres = pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), values)
        ids = codes(items["item"], pa.string(), pa.int8()).cast(pa.dictionary(pa.int8(), kind))
        return pa.table({**items, "item": ids, "genres": genres})

    many = {**NEW, "item": [f"n{it}" for it in range(200)]} | {
        name: NEW[name] * 100 for name in ("genres", "release year", "price")
    }
    recommender = model.export(tmp_path / "bundle", held(ITEMS, "before"))
    every = recommender.add_items(held({name: it[:100] for name, it in many.items()}, "after"))
    every = every.add_items(held({name: it[100:] for name, it in many.items()}, "after"))
    assert every.items["item"].to_pylist() == [*ITEMS["item"], *many["item"]]
    found = every.recommend(USERS, k=300, where={"genres": "a"}).identifiers[0]
    assert {it for it in found if it[0] == "n"} == set(many["item"][0::2])


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        ({**NEW, "item": ["new", "i3"]}, DataError, r"item 'i3' is in the bundle already \(1 of 2 items\)"),
        ({**NEW, "item": ["new", "new"]}, DataError, "stands 2 times"),
        ({**NEW, "item": ["new", None]}, DataError, 'the id "item" is missing'),
        ({name: NEW[name] for name in ("item", "genres", "price")}, DataError, 'feature "year": its column "release year" is missing'),
        ({**NEW, "price": ["1", "2"]}, DataError, "its columns do not fit those of the bundle's items"),
        ({**NEW, "price": [None, 2.0]}, ConfigError, 'feature "price" is missing or infinite'),
    ],
)  # fmt: skip
def test_items_that_cannot_be_added(
    items: dict[str, Any], error: type[Exception], message: str, recommender: sf.Recommender, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        recommender.add_items(items, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_would_be_a_row_of_its_own_is_refused(tmp_path: Path) -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int32", tags=("user", "id"), cardinality=3),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=5),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, sf.MLPBlock([2]), correction=None)
    recommender = model.export(tmp_path / "bundle", {"item": [0, 1]})
    more = recommender.add_items({"item": [4]})
    assert len(more.recommend({"user": [0]}).identifiers[0]) == 3
    with pytest.raises(ConfigError, match='feature "item" holds an id outside 0 <= id < 5'):
        more.add_items({"item": [5]})
    with pytest.raises(BundleError, match="another bundle has come in its place since it was loaded"):
        recommender.add_items({"item": [3]})  # which would lose item 4


def test_a_session_serves_the_same(grown: sf.Recommender, tmp_path: Path) -> None:
    """The command line of TensorFlow loads a SavedModel as TensorFlow Serving does; of a bundle that was saved anew too."""
    inputs = {
        "user": np.array(USERS["user"]), "age": np.array(USERS["age"], np.float32), "k": np.int32(4),
        "exclude": np.array([["i0"], ["i1"], [""]]), "allow": np.zeros([3, 0], str), "where_genres": np.array(["a"]),
        "where_year": np.zeros([0], np.int32), "where_year_min": np.int32(1991), "where_year_max": np.int32(2**31 - 1),
        "where_price": np.zeros([0], np.float32), "where_price_min": np.float32(-np.inf), "where_price_max": np.float32(9.99),
    }  # fmt: skip
    np.savez(tmp_path / "in.npz", **inputs)
    command = [
        str(Path(sys.executable).with_name("saved_model_cli")), "run", "--dir", str(grown.path / "model"),
        "--tag_set", "serve", "--signature_def", "recommend", "--outdir", str(tmp_path),
        "--inputs", ";".join(f"{name}={tmp_path / 'in.npz'}[{name}]" for name in inputs),
    ]  # fmt: skip
    subprocess.run(command, capture_output=True, check=True)
    counts, identifiers = (np.load(tmp_path / f"{it}.npy", allow_pickle=True) for it in ("count", "identifiers"))
    expected = grown.recommend(
        USERS, k=4, exclude=[["i0"], ["i1"], []], where={"genres": "a", "year": {">=": 1991}, "price": {"<=": 9.99}}
    )
    assert [[it.decode() for it in row[:n]] for row, n in zip(identifiers, counts, strict=True)] == expected.identifiers
    assert counts.tolist() == [4, 3, 4]


def test_an_index_of_lists_is_served_with_as_many_as_asked(
    model: sf.TwoTowerModel, recommender: sf.Recommender, tmp_path: Path
) -> None:
    lists = model.export(tmp_path / "bundle", ITEMS, index=sf.IVF(num_lists=8, nprobe=1), k=3)
    exact = recommender.recommend(USERS, k=8)
    answer = lists.recommend(USERS, k=8, nprobe=8)
    assert answer.identifiers == exact.identifiers
    assert lists.recommend(USERS, exclude=["i1"], nprobe=99) == recommender.recommend(USERS, exclude=["i1"])
    assert lists.recommend(USERS, where={"genres": "a"}, nprobe=8) == recommender.recommend(
        USERS, where={"genres": "a"}
    )
    assert (
        lists.recommend(USERS, allow=["i1", "i5"]).identifiers
        == recommender.recommend(USERS, allow=["i1", "i5"]).identifiers
    )
    assert lists.similar_items(["i1"], k=7).identifiers == recommender.similar_items(["i1"], k=7).identifiers
    more = lists.add_items(NEW)
    assert more.manifest["index"]["class_name"] == "IVF"
    assert len(more.recommend(USERS, k=20, nprobe=8).identifiers[0]) == 10
    with pytest.raises(ConfigError, match="nprobe is 0; expected an integer of at least 1"):
        lists.recommend(USERS, nprobe=0)
    with pytest.raises(ConfigError, match="the bundle's index has no lists to look in"):
        recommender.recommend(USERS, nprobe=3)


def test_an_index_outside_tensorflow_is_refused(model: sf.TwoTowerModel, tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="the extra faiss")
    with pytest.raises(ConfigError, match=r"Faiss searches outside TensorFlow: .* use IVF"):
        model.export(tmp_path / "bundle", ITEMS, index=sf.Faiss())
    assert list(tmp_path.iterdir()) == []


# -- whole, or refused ----------------------------------------------------------------------------------------------


def test_files_that_are_not_those_written_are_refused(copied: Path) -> None:
    (copied / "items.parquet").write_bytes((copied / "items.parquet").read_bytes() + b" ")
    (copied / "schema.yaml").unlink()
    (copied / "model" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError) as raised:
        sf.Recommender.load(copied)
    assert str(raised.value) == (
        f"{copied}: schema.yaml is missing; model/notes.txt is not in its manifest; items.parquet is changed, since the"
        " bundle was written; export the model again"
    )


@pytest.mark.parametrize(
    ("name", "written", "refused"),
    [
        ("tensorflow", "2.999.0", True),
        ("tensorflow", "3.0.0", True),
        ("tensorflow", "1.15.0", True),
        ("tensorflow", "2.0.0-rc1", False),
        ("schemaflow", "999.0", True),
        ("keras", "999.0", False),  # the SavedModel does without
    ],
)
def test_versions_that_cannot_be_read_are_refused(copied: Path, name: str, written: str, refused: bool) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["versions"][name] = written
    (copied / "manifest.json").write_text(json.dumps(manifest))
    if not refused:
        assert sf.Recommender.load(copied).k == 3
        return
    with pytest.raises(BundleError, match=rf"written with {name} {written}, which {name} .* cannot be trusted to read"):
        sf.Recommender.load(copied)


def test_a_failed_export_leaves_the_old_bundle_and_nothing_else(model: sf.TwoTowerModel, copied: Path) -> None:
    without = {name: it for name, it in ITEMS.items() if name != "release year"}
    with pytest.raises(DataError, match='feature "year": its column "release year" is missing'):
        model.export(copied, without)
    infinite = {**ITEMS, "release year": pa.array([2**40] * 8)}
    with pytest.raises(DataError, match='does not fit dtype int32 of feature "year"'):
        model.export(copied, infinite)
    assert len(sf.Recommender.load(copied).items) == 8
    assert [it.name for it in copied.parent.iterdir()] == ["bundle"]


def test_what_a_killed_export_left_is_removed_and_what_a_running_one_has_is_not(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    running = f".bundle.{os.getppid()}.new"
    for name in (f".bundle.{killed.pid}.new", f".bundle.{killed.pid}.old", running, ".bundle.mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    with writing(tmp_path / "bundle", {"k": 3}) as folder:
        (folder / "items.parquet").write_text("items")
    assert sorted(it.name for it in tmp_path.iterdir()) == [running, ".bundle.mine", "bundle"]
    assert sorted(it.name for it in (tmp_path / "bundle").iterdir()) == ["items.parquet", "manifest.json"]
    expected = "5f3c4f8580d392e422e7c2f6802674ac27966c98d95c39696e4b2490168e5488"
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["files"] == {"items.parquet": expected}


def test_a_bundle_that_is_replaced_while_it_is_read_is_read_whole(copied: Path, grown: sf.Recommender) -> None:
    other, done = shutil.copytree(grown.path, copied.parent / "other"), threading.Event()

    def swap() -> None:
        for _ in range(5):
            done.wait(0.1)
            for path, name in ((copied, "third"), (other, "bundle"), (copied.parent / "third", "other")):
                path.rename(copied.parent / name)

    thread = threading.Thread(target=swap)
    thread.start()
    while thread.is_alive():
        read = sf.Recommender.load(copied)
        assert len(read.recommend({"user": ["ann"], "age": [0.0]}, k=99).identifiers[0]) == len(read.items)
        done.set()
    thread.join()


def test_a_bundle_is_waited_for_between_two_renames(copied: Path) -> None:
    back = threading.Timer(0.1, lambda: (copied.parent / "away").rename(copied))
    copied.rename(copied.parent / "away")
    back.start()
    assert sf.Recommender.load(copied).k == 3
    back.join()


def test_items_of_side_tables_and_of_interactions_are_kept(tmp_path: Path) -> None:
    schema = sf.Schema(
        (
            sf.Feature(name="user", dtype="string", tags=("user", "id"), vocabulary=("u",)),
            sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=("x", "y")),
            sf.Feature(name="brand", dtype="string", tags=("item", "filter")),
        ),
        tables={"items": SideTable(file="items.parquet", key="item")},
    )
    pq.write_table(
        pa.table({"item": ["z", "y", "x"], "brand": ["p", "q", None], "note": [1, 2, 3]}), tmp_path / "items.parquet"
    )
    model = sf.TwoTowerModel(schema, sf.MLPBlock([2]), correction=None)
    rows = {"item": ["x", "y"], "user": ["u", "u"], "clicked at": [3, 4]}
    recommender = model.export(tmp_path / "bundle", rows, tables=tmp_path)
    assert recommender.items.to_pylist() == [{"item": "x", "brand": None}, {"item": "y", "brand": "q"}]
    assert recommender.recommend({"user": ["u"]}, where={"brand": "q"}).identifiers == [["y"]]


def test_an_item_without_a_value_is_not_found_by_what_stands_in_for_it(tmp_path: Path) -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int32", tags=("user", "id"), cardinality=3),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=5),
        sf.Feature(name="price", dtype="float32", tags=("item", "continuous", "filter"), missing={"value": 5.0}),
        sf.Feature(name="brand", dtype="string", tags=("item", "categorical", "filter"), vocabulary=("x",), missing={"value": "x"}),
    ))  # fmt: skip
    model = sf.TwoTowerModel(schema, sf.MLPBlock([2]), correction=None)
    items = {"item": [0, 1, 2], "price": [5.0, None, 7.0], "brand": [None, "x", "y"]}
    recommender, user = model.export(tmp_path / "bundle", items), {"user": [0]}
    recommend = tf.saved_model.load(tmp_path / "bundle" / "model").signatures["recommend"]
    nothing, words = tf.zeros([1, 0], tf.int64), tf.zeros([0], tf.string)
    free = {
        "k": tf.constant(3), "exclude": nothing, "allow": nothing, "user": tf.constant([0]), "where_brand": words,
        "where_price": tf.zeros([0]), "where_price_min": tf.constant(-np.inf), "where_price_max": tf.constant(np.inf),
    }  # fmt: skip
    for where, inputs, expected in (
        ({"price": 5.0}, {"where_price": tf.constant([5.0])}, {0}),
        ({"price": {"<=": 6}}, {"where_price_max": tf.constant(6.0)}, {0}),
        ({"brand": "x"}, {"where_brand": tf.constant(["x"])}, {1}),
    ):
        assert set(recommender.recommend(user, where=where).identifiers[0]) == expected
        answer = recommend(**free | inputs)
        assert set(answer["identifiers"][0, : int(answer["count"][0])].numpy().tolist()) == expected


@pytest.mark.parametrize("size", [1e22, 1e-22])
@pytest.mark.parametrize("lists", [False, True])
def test_similar_items_of_very_long_and_short_vectors_are_those_of_their_angles(
    lists: bool, size: float, tmp_path: Path
) -> None:
    features = (
        sf.Feature(name="user", dtype="int32", tags=("user", "id"), cardinality=3),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=5),
        sf.Feature(name="at", dtype="float32", tags=("item", "embedding"), embedding={"dim": 2}),
    )
    options = sf.EmbeddingOptions(embedding_dim_default=2)
    model = sf.TwoTowerModel(
        sf.Schema(features),
        sf.MLPBlock([2]),
        sf.MLPBlock([2], use_bias=False),
        embedding_options=options,
        correction=None,
    )
    layer = next(it for it in model.item_tower.trainable_variables if it.shape == (4, 2))
    layer.assign([[0.0, 0.0], [0.0, 0.0], [size, 0.0], [0.0, size]])
    items = {"item": [0, 1, 2], "at": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]}
    recommender = model.export(tmp_path / "bundle", items, index=sf.IVF(num_lists=2, nprobe=2) if lists else None)
    answer = recommender.similar_items([0, 1])
    assert answer.identifiers[0] == [1, 2]
    assert answer.scores[0] == pytest.approx([0.5**0.5, 0.0])
    assert answer.scores[1] == pytest.approx([0.5**0.5] * 2)
