"""The schema as a value: reading, selecting, domains, writing and reading back."""

import copy
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import SchemaError
from schemaflow.schema.sides import sides_of
from schemaflow.schema.tags import atoms
from tests.schema.strategies import documents

pytestmark = pytest.mark.short

MOVIELENS = Path(__file__).parents[2] / "schemas" / "movielens_100k.yaml"

# merlin.schema.Tags of merlin-core 23.8, written out: the library need not be there to compare with it
MERLIN_TAGS = {
    "categorical", "continuous", "list", "sequence", "text", "tokenized", "time", "embedding", "id", "user", "item",
    "session", "context", "target", "regression", "classification", "binary", "multi_class", "user_id", "item_id",
    "session_id", "text_tokenized", "binary_classification", "multi_class_classification",
}  # fmt: skip


def feature(name: str, **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": "int64", "tags": ["item", "categorical"], **spec})


def schema_of(text: str, folder: Path) -> sf.Schema:
    path = folder / "schema.yaml"
    path.write_text(text, encoding="utf-8")
    return sf.Schema.from_yaml(path)


def test_tags_are_merlins_and_ours() -> None:
    ours = {"position", "bias", "weight", "filter", "teacher", "action", "explicit_negative"}
    assert {tag.value for tag in sf.Tags} == MERLIN_TAGS | ours


def test_movielens_schema_describes_every_column() -> None:
    schema = sf.Schema.from_yaml(MOVIELENS)
    assert schema.column_names == [
        "user_id", "age", "gender", "occupation", "zip_code", "movie_id", "movie_title", "year", "genres", "rating",
        "timestamp",
    ]  # fmt: skip
    assert schema.rows("movie") == 1685
    assert schema["genres"].list.max_length == 6
    assert schema["genres"].embedding.dim == 16


def test_select_by_tag_takes_any_tag_and_all_atoms_of_a_compound_one() -> None:
    schema = sf.Schema.from_yaml(MOVIELENS)
    assert schema.select_by_tag(sf.Tags.TARGET).column_names == ["rating"]
    assert schema.select_by_tag([sf.Tags.USER_ID, sf.Tags.ITEM_ID]).column_names == ["user_id", "movie_id"]
    assert schema.select_by_tag("user").column_names == ["user_id", "age", "gender", "occupation", "zip_code"]
    assert "user_id" not in schema.excluding_by_tag(sf.Tags.USER)
    assert schema.excluding_by_tag(["user", "item"]).column_names == ["rating", "timestamp"]
    assert atoms(["item_id", "item"]) == (sf.Tags.ITEM, sf.Tags.ID)


def test_select_by_name_refuses_a_name_that_is_not_there() -> None:
    schema = sf.Schema.from_yaml(MOVIELENS)
    assert schema.select_by_name(["year", "age"]).column_names == ["age", "year"]
    with pytest.raises(SchemaError, match='no feature "movie"; did you mean "movie_id"'):
        schema.select_by_name(["movie"])


def test_a_selection_keeps_the_rows_that_another_feature_of_the_domain_gave() -> None:
    owner = feature("item_id", tags=["item", "id"], cardinality=70, domain="item")
    history = feature("history", tags=["user", "sequence"], domain="item", list={"max_length": 5})
    alone = sf.Schema((owner, history)).select_by_name("history")
    assert alone.rows("item") == 70


def test_a_schema_is_immutable_hashable_and_compares_by_content() -> None:
    first, second = sf.Schema.from_yaml(MOVIELENS), sf.Schema.from_yaml(MOVIELENS)
    assert first == second
    assert hash(first) == hash(second)
    assert first != first.select_by_name("age")
    assert copy.deepcopy(first) is first
    assert pickle.loads(pickle.dumps(first)) == first
    with pytest.raises(AttributeError):
        first.name = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        first["age"].dtype = "int64"  # type: ignore[misc]
    with pytest.raises(TypeError):
        first.tables["users"] = None  # type: ignore[index]


def test_fitting_changes_the_fingerprint_and_survives_the_disk(tmp_path: Path) -> None:
    schema = sf.Schema(
        (
            feature("item_id", tags=["item", "id"], vocabulary="learned"),
            feature("age", tags=["user", "continuous"], normalize="standard"),
        )
    )
    fitted = schema.fit({"item_id": [30, 10, 30], "age": [1, 2, 6]})
    assert fitted != schema
    fitted.to_yaml(tmp_path / "shop.yaml")
    assert (tmp_path / "shop.fitted").is_dir()
    again = sf.Schema.from_yaml(tmp_path / "shop.yaml")
    assert again == fitted
    assert again.vocabulary("item_id").to_pylist() == [30, 10]
    assert again.fitted.statistics["age"].mean == 3.0
    assert sf.Schema.from_config(fitted.get_config()) == fitted


def test_refitting_leaves_no_old_vocabulary_behind(tmp_path: Path) -> None:
    item = feature("item_id", tags=["item", "id"], vocabulary="learned")
    color = feature("color", dtype="string", vocabulary="learned")
    sf.Schema((item, color)).fit({"item_id": [1], "color": ["red"]}).to_yaml(tmp_path / "s.yaml")
    sf.Schema((item,)).fit({"item_id": [2]}).to_yaml(tmp_path / "s.yaml")
    assert sf.Schema.from_yaml(tmp_path / "s.yaml").fitted.vocabularies.keys() == {"item_id"}


def test_a_damaged_folder_of_vocabularies_is_one_line(tmp_path: Path) -> None:
    fitted = sf.Schema((feature("item_id", tags=["item", "id"], vocabulary="learned"),)).fit({"item_id": [1]})
    fitted.to_yaml(tmp_path / "s.yaml")
    (tmp_path / "s.fitted" / "vocabulary.item_id.parquet").write_bytes(b"no")
    with pytest.raises(SchemaError, match="the vocabularies cannot be read"):
        sf.Schema.from_yaml(tmp_path / "s.yaml")


def test_a_schema_edited_after_fitting_says_to_fit_again(tmp_path: Path) -> None:
    fitted = sf.Schema((feature("item_id", tags=["item", "id"], vocabulary="learned"),)).fit({"item_id": [1, 2, 3]})
    fitted.to_yaml(tmp_path / "s.yaml")
    text = (tmp_path / "s.yaml").read_text(encoding="utf-8")
    for old, new, message in [
        (
            "vocabulary: learned",
            "vocabulary: learned, cardinality: 5",
            "cardinality 5, but its learned vocabulary needs 6",
        ),
        ("int64", "string", "but a vocabulary of int64 was learned for it"),
    ]:
        (tmp_path / "s.yaml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(SchemaError, match=message):
            sf.Schema.from_yaml(tmp_path / "s.yaml")


def test_features_of_one_domain_must_agree() -> None:
    left = feature("a", cardinality=10, domain="d")
    for other, message in [
        (feature("b", cardinality=11, domain="d"), r"cardinalities \[10, 11\]"),
        (feature("b", dtype="string", domain="d"), "mix strings and numbers"),
        (feature("b", domain="d", vocabulary="learned"), "another numbers or hashes its rows"),
    ]:
        with pytest.raises(SchemaError, match=message):
            sf.Schema((left, other))


def test_both_sides_need_features_and_items_need_one_id() -> None:
    user, item = feature("u", tags=["user", "id"], cardinality=9), feature("i", tags=["item", "id"], cardinality=9)
    place = feature("place", tags=["context", "categorical"], cardinality=4)
    target = feature("rating", dtype="float32", tags=["user", "target"])
    sides = sides_of(sf.Schema((user, item, place, target)))
    assert [it.name for it in sides.query] == ["u", "place"]
    assert sides.item_id.name == "i"
    with pytest.raises(SchemaError, match="no feature is tagged user"):
        sides_of(sf.Schema((item,)))
    with pytest.raises(SchemaError, match='feature "lost" is categorical but on no side'):
        sides_of(sf.Schema((user, item, feature("lost", tags=["categorical"], cardinality=4))))
    with pytest.raises(SchemaError, match='found "i" and "j"'):
        sides_of(sf.Schema((user, item, feature("j", tags=["item", "id"], cardinality=9))))


@settings(max_examples=150)
@given(documents(), st.booleans(), st.booleans())
def test_yaml_read_and_written_is_the_same_from_then_on(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, object], flow: bool, plain: bool
) -> None:
    folder = tmp_path_factory.mktemp("yaml")
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=plain, sort_keys=False)
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    schema = sf.Schema.from_yaml(folder / "mine.yaml")
    assert schema.column_names == list(document["features"])
    schema.to_yaml(folder / "a.yaml")
    again = sf.Schema.from_yaml(folder / "a.yaml")
    again.to_yaml(folder / "b.yaml")
    assert (again.name, again.features, again.tables) == (schema.name, schema.features, schema.tables)
    assert (folder / "a.yaml").read_bytes() == (folder / "b.yaml").read_bytes()
