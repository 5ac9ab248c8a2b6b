"""The bundle that is served: exclusions that hold, raw values in, the same ids in a fresh process."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.errors import BundleError, ConfigError


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


def test_features_that_are_no_dict_are_named(recommender: sf.Recommender) -> None:
    with pytest.raises(ConfigError, match="the features are Table; expected a dict with a list"):
        recommender.recommend(pa.table(USERS))


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
        ("format", lambda it: (it / "manifest.json").write_text('{"format": 99}'), "the bundle has format 99, this version reads 2"),
        ("keys", lambda it: (it / "manifest.json").write_text('{"format": 2}'), "item_features, item_id, k, query_features, schema, versions is missing"),
        ("list", lambda it: (it / "manifest.json").write_text("[]"), "has format None"),
        ("variables", lambda it: (it / "model" / "variables" / "variables.index").write_bytes(b""), "variables.index is changed"),
        ("json", lambda it: (it / "manifest.json").write_text("{"), "cannot be read"),
        ("model", lambda it: shutil.rmtree(it / "model"), "model/saved_model.pb, .* are missing"),
        ("vocabulary", lambda it: sf.Schema.from_yaml(it / "schema.yaml").select_by_name("age").to_yaml(it / "schema.yaml"), "schema.yaml is changed"),
    ]:  # fmt: skip
        copied = tmp_path / name
        shutil.copytree(bundle, copied)
        damage(copied)
        with pytest.raises(BundleError, match=message):
            sf.Recommender.load(copied)
