"""Exact search, and the bundle that is served: exclusions that hold, raw values in, the same ids in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import BundleError, ConfigError, DataError
from schemaflow.index import brute_force


@pytest.fixture(scope="module")
def bundle(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "bundle"
    trained.export(path, data.items)
    return path


@pytest.fixture(scope="module")
def recommender(bundle: Path) -> sf.Recommender:
    return sf.Recommender.load(bundle)


USERS = {"user_id": ["u00003", "u00077"], "age": [30, 41], "country": ["JP", "US"]}


def best(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, users: dict[str, list[object]]) -> list[list[str]]:
    """Rank the items in NumPy, by the model's vectors."""
    items = np.array(pq.read_table(data.items)["item_id"].to_pylist())
    scores = trained.query_embeddings(users) @ trained.candidate_embeddings(data.items).T
    return [items[order].tolist() for order in np.argsort(-scores, axis=1, kind="stable")]


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 15), st.booleans())
def test_search_and_exclusions_are_those_of_a_sorted_list(seed: int, candidates: int, k: int, strings: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = rng.normal(size=(candidates, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
    ids = (
        np.array([f"i{it}" for it in range(candidates)]) if strings else rng.permutation(10**12 + np.arange(candidates))
    )
    index = sf.BruteForce(k=k).index(vectors, tf.constant(ids))
    scores, found = index(tf.constant(queries))
    expected = ids[np.argsort(-(queries @ vectors.T), axis=1)]
    text = found.numpy().astype(str) if strings else found.numpy()
    assert text.tolist() == expected[:, :k].tolist()
    assert (np.diff(scores.numpy(), axis=1) <= 0).all()
    excluded = [rng.permutation(ids)[: rng.integers(0, candidates + 1)].tolist() for _ in range(2)]
    fill = "" if strings else np.iinfo(np.int64).min
    width = max(len(row) for row in excluded) + 1
    padded = [[*row, *[fill] * (width - len(row))] for row in excluded]
    scores, found = index.query_with_exclusions(tf.constant(queries), tf.constant(padded))
    text = found.numpy().astype(str) if strings else found.numpy()
    for row in range(2):
        left = [it for it in expected[row].tolist() if it not in excluded[row]][:k]
        assert text[row].tolist() == left + [fill] * (min(k, candidates) - len(left))
        assert (scores.numpy()[row] > -np.inf).sum() == len(left)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_what_may_come_back_is_what_a_sorted_list_holds(seed: int, candidates: int, k: int, by_blocks: bool) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = rng.integers(-3, 4, (candidates, 3)), rng.integers(-3, 4, (3, 3))  # with ties
    index = sf.BruteForce().index(vectors)
    exclude, allow = rng.integers(-1, candidates, (3, 4)), rng.integers(-1, candidates, (3, 9))
    eligible = rng.random(candidates) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        if by_blocks:
            patch.setattr(brute_force, "BLOCK_SCORES", 1)
            patch.setattr(brute_force, "BLOCK_CANDIDATES", 7)
        for allowed in (None, allow):
            for may in (None, eligible):
                scores, found = index.search(
                    tf.constant(queries, tf.float32), k, exclude, allowed, None if may is None else tf.constant(may)
                )
                for row in range(3):
                    kept = [
                        it for it in np.argsort(-(vectors @ queries[row]), kind="stable")
                        if it not in exclude[row] and (allowed is None or it in allowed[row]) and (may is None or may[it])
                    ][:k]  # fmt: skip
                    assert found.numpy()[row, : len(kept)].tolist() == kept
                    assert scores.numpy()[row, : len(kept)].tolist() == (vectors[kept] @ queries[row]).tolist()
                    assert (scores.numpy()[row, len(kept) :] == -np.inf).all()
                    assert (found.numpy()[row, len(kept) :] == np.iinfo(np.int64).min).all()
                assert scores.shape == (3, min(k, candidates))


def test_scores_by_angle_are_divided_by_the_candidates_lengths() -> None:
    index = sf.BruteForce().index([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    scores, positions = index.nearest(tf.constant([[2.0, 0.0]]), 3, by_angle=True)
    assert scores.numpy()[0].tolist() == pytest.approx([2.0, 1.2, 0.0])
    assert positions.numpy().tolist() == [[1, 0, 2]]


def test_an_excluded_item_stays_out_whatever_its_score() -> None:
    index = sf.BruteForce(k=2).index([[1e30], [1.0], [0.5]], ["top", "b", "c"])
    _, found = index.query_with_exclusions(tf.constant([[1e5]]), tf.constant([["top"]]))
    assert found.numpy().tolist() == [[b"b", b"c"]]


def test_identifiers_are_any_text() -> None:
    index = sf.BruteForce(k=1).index([[2.0], [1.0]], ["café", "книга"])
    _, found = index.query_with_exclusions(np.array([[1.0]], np.float32), [["café"]])
    assert found.numpy()[0, 0].decode() == "книга"
    with pytest.raises(ConfigError, match="ids asked for are int32; expected string"):
        index.query_with_exclusions(tf.constant([[1.0]]), tf.constant([[3]]))


def test_indexing_again_replaces_the_candidates() -> None:
    index = sf.BruteForce(k=5).index([[1.0], [2.0]], ["a", "b"])
    index.index([[3.0]], [7])
    assert index(tf.constant([[1.0]]))[1].numpy().tolist() == [[7]]
    assert sf.BruteForce(k=1).index([[1.0], [2.0]])(tf.constant([[1.0]]))[1].numpy().tolist() == [[1]]


def test_datasets_of_vectors_are_indexed() -> None:
    vectors, ids = tf.constant([[1.0], [3.0], [2.0]]), tf.constant(["a", "b", "c"])
    pairs = tf.data.Dataset.from_tensor_slices((ids, vectors)).batch(2)
    assert sf.BruteForce(k=1).index_from_dataset(pairs)(tf.constant([[1.0]]))[1].numpy().tolist() == [[b"b"]]
    alone = tf.data.Dataset.from_tensor_slices(vectors).batch(2)
    assert sf.BruteForce(k=1).index_from_dataset(alone)(tf.constant([[1.0]]))[1].numpy().tolist() == [[1]]


def test_indices_that_cannot_be() -> None:
    index = sf.BruteForce()
    with pytest.raises(ConfigError, match="holds no candidates yet"):
        index(tf.constant([[1.0]]))
    for candidates, ids, message in [
        ([[1.0], [2.0]], ["a", "a"], "stand more than once"),
        ([[1.0], [float("nan")]], ["a", "b"], "candidate number 1 holds NaN"),
        ([[1.0], [2.0]], ["a"], r"expected \[2\]"),
        ([1.0], None, r"expected \[n, dim\]"),
        (np.zeros((0, 2)), None, "at least one candidate"),
        ([[1.0]], [""], "fills short rows"),
        ([[1.0]], [1.5], "expected strings or integers"),
    ]:
        with pytest.raises(ConfigError, match=message):
            index.index(candidates, ids)
    with pytest.raises(ConfigError, match="k is 0"):
        sf.BruteForce(k=0)
    with pytest.raises(ConfigError, match="no query_model to make them"):
        index.index([[1.0]])(tf.constant(["u"]))
    with pytest.raises(ConfigError, match="dataset of candidates is empty"):
        index.index_from_dataset([])


def test_the_models_index_takes_raw_features(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder) -> None:
    index = trained.to_index(data.items, k=4)
    _, found = index({name: tf.constant(values) for name, values in USERS.items()})
    assert found.numpy().astype(str).tolist() == [row[:4] for row in best(trained, data, USERS)]
    items = pq.read_table(data.items)
    with pytest.raises(DataError, match="stands 2 times"):
        trained.to_index(items.take([0, 1, 0]))


def test_a_model_of_one_feature_takes_one_bare_tensor(data: sf.datasets.DataFolder) -> None:
    schema = sf.Schema.from_yaml(data.schema).select_by_name(["user_id", "item_id"]).fit(data.interactions)
    index = sf.TwoTowerModel(schema, sf.MLPBlock([4])).to_index(data.items, k=3)
    bare = index(tf.constant(["u00003"]))[1].numpy().tolist()
    assert bare == index({"user_id": tf.constant(["u00003"])})[1].numpy().tolist()


def test_a_model_of_several_features_says_which_it_takes(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    with pytest.raises(ConfigError, match=r"no dict of features; expected one of user_id, age, country"):
        trained.to_index(data.items)(tf.constant(["u00003"]))


def test_recommendations_are_the_models(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, recommender: sf.Recommender
) -> None:
    answer = recommender.recommend(USERS, k=5)
    assert answer.identifiers == [row[:5] for row in best(trained, data, USERS)]
    assert all(row == sorted(row, reverse=True) for row in answer.scores)
    assert [len(row) for row in recommender.recommend(USERS).identifiers] == [10, 10]
    assert [len(row) for row in recommender.recommend(USERS, k=1000).identifiers] == [60, 60]


def test_exclusions_hold_per_row_or_for_all(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, recommender: sf.Recommender
) -> None:
    ranked = best(trained, data, USERS)
    for_all = recommender.recommend(USERS, k=3, exclude=[ranked[0][0], "no such item"])
    assert for_all.identifiers == [[it for it in row if it != ranked[0][0]][:3] for row in ranked]
    per_row = recommender.recommend(USERS, k=3, exclude=[[ranked[0][0]], []])
    assert per_row.identifiers == [ranked[0][1:4], ranked[1][:3]]
    assert recommender.recommend(USERS, k=3, exclude=ranked[0][2:]).identifiers[0] == ranked[0][:2]
    nothing_left = recommender.recommend(USERS, exclude=ranked[0])
    assert nothing_left.identifiers == [[], []]


def test_missing_and_unknown_values_are_answered(recommender: sf.Recommender) -> None:
    answer = recommender.recommend({"user_id": [None, "nobody"], "age": [30, 30], "country": ["JP", None]}, k=2)
    assert [len(row) for row in answer.identifiers] == [2, 2]
    assert answer.scores[0] != answer.scores[1]  # missing and out of vocabulary have rows of their own


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"user": ["u"]}, {}, 'unknown feature "user"; did you mean "user_id"'),
        ({"age": None}, {}, 'feature "age" is missing; expected user_id, age, country'),
        ({"age": ["30", "41"]}, {}, 'feature "age": expected int32'),
        ({"age": [30.5, 41]}, {}, 'feature "age": expected int32'),
        ({"age": [2**40, 41]}, {}, 'feature "age": expected int32'),
        ({"age": [30]}, {}, "different numbers of rows: user_id 2, age 1"),
        ({"user_id": "u00003"}, {}, "expected a list with one value a row, received 'u00003'"),
        ({}, {"k": 0}, "k is 0"),
        ({}, {"exclude": [3]}, "exclude holds 3; expected item ids, strings"),
        ({}, {"k": 2.5}, "k is 2.5; expected an integer"),
        ({}, {"exclude": [["a"], [], []]}, "exclude holds 3 lists for 2 rows"),
        ({}, {"exclude": "i00001"}, "exclude is 'i00001'; expected a list"),
        ({}, {"exclude": 5}, "exclude is 5; expected a list"),
        ({"age": [None, 41]}, {}, 'feature "age": expected int32, .*a missing value has no row'),
    ],
)  # fmt: skip
def test_wrong_requests_are_named(
    change: dict[str, object], options: dict[str, object], message: str, recommender: sf.Recommender
) -> None:
    request = {name: value for name, value in {**USERS, **change}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        recommender.recommend(request, **options)


def test_query_lists_are_served_as_they_were_trained(tmp_path: Path) -> None:
    """Padding, nulls and lists of several lengths in one request change nothing; ids that are rows may be lists too."""
    schema = sf.Schema((
        sf.Feature(name="user", dtype="uint32", tags=("user", "id"), cardinality=9),
        sf.Feature(name="likes", dtype="string", tags=("user", "categorical"), list={"max_length": 3}, vocabulary=("p", "q")),
        sf.Feature(name="seen", dtype="int32", tags=("user", "sequence"), list={}, domain="item"),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=9, domain="item"),
    ))  # fmt: skip
    users = {"user": [0, 3, 8], "likes": [["p", None], None, ["q", "?", "p"]], "seen": [[1, 2], [], [0]]}
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]), correction=None)
    recommender = model.export(tmp_path / "bundle", {"item": list(range(9))})
    scores = model.query_embeddings(users) @ model.candidate_embeddings({"item": list(range(9))}).T
    expected = np.argsort(-scores, axis=1)[:, :4].tolist()
    assert recommender.recommend(users, k=4).identifiers == expected
    for row in range(3):
        alone = {name: values[row : row + 1] for name, values in users.items()}
        assert recommender.recommend(alone, k=4).identifiers == expected[row : row + 1]
    for change, message in [
        ({"user": [9, 1, 1]}, "9 is outside 0 <= id < 9"),
        ({"user": [None, 1, 1]}, "a missing value has no row"),
        ({"likes": [["p"] * 4, [], []]}, "4 values are more than its max_length of 3"),
    ]:
        with pytest.raises(ConfigError, match=message):
            recommender.recommend({**users, **change})


def test_pandas_rows_come_in_their_order(recommender: sf.Recommender) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas comes with merlin-core, on Python 3.11 alone")
    frame = pandas.DataFrame(USERS).iloc[[1, 0]]
    assert (
        recommender.recommend(dict(frame.items()), k=2).identifiers
        == recommender.recommend(USERS, k=2).identifiers[::-1]
    )


def test_a_fresh_process_without_the_library_gives_the_same_ids(bundle: Path, recommender: sf.Recommender) -> None:
    program = (
        "import json, sys, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1] + '/model')\n"
        "features = {name: tf.constant(values) for name, values in json.loads(sys.argv[2]).items()}\n"
        "default = model.signatures['serving_default'](**features)\n"
        "asked = model.signatures['recommend'](**features, k=tf.constant(3), exclude=tf.constant([['i00000'], ['']]))\n"
        "vectors = model.signatures['query_embedding'](**features)['embedding']\n"
        "assert 'schemaflow' not in sys.modules\n"
        "print(json.dumps([default['identifiers'].numpy().astype(str).tolist(), asked['identifiers'].numpy().astype(str).tolist(),\n"
        "                  asked['count'].numpy().tolist(), vectors.shape.as_list()]))\n"
    )
    arguments = [sys.executable, "-c", program, str(bundle), json.dumps(USERS)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    default, asked, count, shape = json.loads(done.stdout)
    assert default == recommender.recommend(USERS).identifiers
    assert asked == recommender.recommend(USERS, k=3, exclude=[["i00000"], []]).identifiers
    assert count == [3, 3]
    assert shape == [2, 8]


def test_signatures_take_raw_item_features_too(
    bundle: Path, trained: sf.TwoTowerModel, data: sf.datasets.DataFolder
) -> None:
    items = pq.read_table(data.items)
    served = tf.saved_model.load(str(bundle / "model")).signatures["candidate_embedding"](
        item_id=tf.constant(items["item_id"].to_pylist()),
        genres=tf.ragged.constant(items["genres"].to_pylist()).to_tensor(""),
        price=tf.constant(items["price"].to_pylist()),
    )
    assert served["embedding"].numpy() == pytest.approx(trained.candidate_embeddings(data.items), abs=1e-6)


def test_a_bundle_replaces_a_bundle_and_nothing_else(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path
) -> None:
    trained.export(tmp_path / "b", data.items, k=4)
    again = trained.export(tmp_path / "b", data.items, k=6)
    assert len(again.recommend(USERS).identifiers[0]) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="something there that is no bundle"):
        trained.export(tmp_path / "mine", data.items)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_damaged_bundles_are_one_line(bundle: Path, tmp_path: Path) -> None:
    import shutil

    with pytest.raises(BundleError, match="there is no bundle"):
        sf.Recommender.load(tmp_path / "none")
    for name, damage, message in [
        ("format", lambda it: (it / "manifest.json").write_text('{"format": 99}'), "the bundle has format 99, this version reads 1"),
        ("keys", lambda it: (it / "manifest.json").write_text('{"format": 1}'), "k, query_features, schema is missing"),
        ("list", lambda it: (it / "manifest.json").write_text("[]"), "has format None"),
        ("variables", lambda it: (it / "model" / "variables" / "variables.index").write_bytes(b""), "the SavedModel cannot be loaded"),
        ("json", lambda it: (it / "manifest.json").write_text("{"), "cannot be read"),
        ("model", lambda it: shutil.rmtree(it / "model"), "the SavedModel cannot be loaded"),
        ("vocabulary", lambda it: sf.Schema.from_yaml(it / "schema.yaml").select_by_name("age").to_yaml(it / "schema.yaml"), "not those it was exported with"),
    ]:  # fmt: skip
        copied = tmp_path / name
        shutil.copytree(bundle, copied)
        damage(copied)
        with pytest.raises(BundleError, match=message):
            sf.Recommender.load(copied)
