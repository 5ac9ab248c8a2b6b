"""What a change of schema means for a model that was trained."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

import schemaflow as sf
from schemaflow.errors import SchemaError
from schemaflow.schema import SideTable
from schemaflow.schema.diff import RULES, Diff
from schemaflow.schema.fitted import Fitted, Statistics
from schemaflow.schema.schema import SchemaDocument
from tests.commands import schemaflow

pytestmark = pytest.mark.short

SHOP: dict[str, dict[str, Any]] = {
    "user": {"dtype": "string", "tags": ["user", "id"], "vocabulary": ["u", "v"]},
    "age": {"dtype": "int32", "tags": ["user", "continuous"]},
    "group": {"dtype": "float32", "tags": ["user"], "buckets": [18, 60]},
    "device": {"dtype": "string", "tags": ["context"], "hash": 10},
    "hour": {"dtype": "int64", "tags": ["context"], "column": "at", "time": {"take": "hour"}},
    "item": {"dtype": "string", "tags": ["item", "id"], "vocabulary": ["a", "b", "c"], "domain": "things"},
    "seen": {"dtype": "string", "tags": ["user", "sequence"], "list": {"max_length": 3}, "domain": "things"},
    "shelf": {"dtype": "int16", "tags": ["item", "categorical"], "cardinality": 9, "embedding": {"dim": 4}},
    "words": {"dtype": "string", "tags": ["item", "text"], "vocabulary": ["x", "y"], "oov": 2},
    "picture": {"dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 8}, "missing": {"value": 0}},
    "rating": {"dtype": "float32", "tags": ["target", "regression"]},
    "at": {"dtype": "int64", "tags": ["time"]},
}


def shop(features: dict[str, dict[str, Any]] = SHOP, **arguments: Any) -> sf.Schema:
    return sf.Schema(
        tuple(sf.Feature.model_validate({"name": name, **spec}) for name, spec in features.items()), **arguments
    )


def with_(name: str, **keys: Any) -> dict[str, dict[str, Any]]:
    """The shop's features, one of them with other keys; None takes a key away."""
    spec = {key: value for key, value in {**SHOP[name], **keys}.items() if value is not None}
    return {**SHOP, name: spec}


def without(*names: str) -> dict[str, dict[str, Any]]:
    return {name: spec for name, spec in SHOP.items() if name not in names}


def test_nothing_changed() -> None:
    found = shop().diff(shop())
    assert found == Diff()
    assert not found
    assert found.verdict == "compatible"
    assert str(found) == "verdict: compatible: nothing changed"


PARAMETERS: list[tuple[dict[str, dict[str, Any]], str, str]] = [
    # what changed, the verdict, words of the one line that says so
    (with_("age", column="years"), "compatible", 'feature "age" has column years, was none: it is read from there'),
    (with_("age", dtype="int64"), "compatible", "has dtype int64, was int32"),
    (with_("age", dtype="float64"), "compatible", "has dtype float64, was int32"),
    (with_("age", dtype="float32"), "breaks", "refused or rounded"),
    (with_("age", dtype="int16"), "breaks", "refused or rounded"),
    (with_("user", dtype="int64", vocabulary=[1, 2]), "breaks", "has dtype int64, was string"),
    (with_("shelf", dtype="int32"), "compatible", "every value enters the model as before"),
    (with_("seen", list={"max_length": 9}), "compatible", "has list.max_length 9, was 3"),
    (with_("seen", list={}), "compatible", "has list.max_length none, was 3"),
    (with_("age", missing={"value": 30}), "compatible", "a missing value, an error before, enters the model"),
    (with_("device", missing="error"), "compatible", "a missing value is an error from now on"),
    (with_("device", missing={"value": "tv"}), "breaks", "has learned what stood in for a missing value"),
    (with_("picture", missing={"value": 1}), "breaks", "has missing.value 1, was 0"),
    (with_("shelf", embedding={"dim": 4, "initializer": "zeros"}), "compatible", "rows that were trained stay"),
    (with_("shelf", embedding={"dim": 4, "trainable": False}), "compatible", "has embedding.trainable False"),
    (with_("shelf", embedding={"dim": 5}), "breaks", 'table "shelf" was to be 4 wide and is to be 5'),
    (
        with_("shelf", embedding={"dim": 4, "compress": {"remainders": 3}}),
        "breaks",
        'table "shelf" was not compressed and is compressed by the product with 3 remainders',
    ),
    (with_("shelf", embedding=None), "breaks", "was to be 4 wide and is to be what the model's options say"),
    (with_("seen", embedding={"combiner": "sum"}), "breaks", "the vector of a list is computed otherwise"),
    (with_("picture", embedding={"dim": 9}), "breaks", "another width"),
    (with_("shelf", cardinality=12), "grows", 'table "shelf" has 12 rows, had 9'),
    (with_("shelf", cardinality=8), "breaks", "has 8 rows, fewer than the 9 that the model has"),
    (with_("user", vocabulary=["u", "v", "w", "x"]), "grows", "has 2 new values ('w', …), from row 5 on"),
    (with_("user", vocabulary=["v", "u"]), "breaks", "has 'u' in row 4, was in row 3"),
    (with_("user", vocabulary=["v", "w", "x"]), "breaks", "holds 'u' no more (1 of 2 values are gone)"),
    (with_("user", vocabulary=["u"]), "breaks", "holds 'v' no more"),
    (with_("item", vocabulary=["a", "b", "c", "d"]), "grows", 'table "things" has 1 new value (\'d\')'),
    (with_("user", cardinality=20), "grows", "has 20 rows, had 5"),
    (with_("user", oov=3), "breaks", "had 1 out-of-vocabulary rows and has 3"),
    (with_("words", oov=None), "breaks", "had 2 out-of-vocabulary rows and has 1"),
    (with_("device", hash=11), "breaks", "was hashed into 10 rows and is into 11"),
    (with_("device", hash=None, vocabulary=["tv"]), "breaks", "was filled by hash and is by vocabulary"),
    (with_("group", buckets=[18, 65]), "breaks", "had buckets between the edges 18, 60 and has 18, 65"),
    (with_("group", buckets=[18]), "breaks", "had buckets between the edges 18, 60 and has 18"),
    (with_("hour", time={"take": "weekday"}), "breaks", "something else of its moments enters the model"),
    (with_("hour", time={"take": "hour", "unit": "ms"}), "breaks", "its moments mean something else"),
    (with_("age", normalize="log1p"), "breaks", "has normalize log1p, was none: its numbers mean something else"),
    (with_("words", text={"split": "character"}), "breaks", "texts become other tokens"),
    (with_("words", text={"standardize": "lower"}), "breaks", "texts become other tokens"),
    (with_("words", tags=["item", "categorical"]), "breaks", "it enters the model in another way"),
    (with_("age", tags=["user"], buckets=[20]), "breaks", "was continuous and is categorical"),
    (with_("age", tags=["item", "continuous"]), "breaks", "it enters another tower"),
    (with_("shelf", tags=["item", "id"]), "breaks", "it is another feature that tells the items apart"),
    (with_("device", tags=["context", "categorical"]), "compatible", "it enters the model as before"),
    (with_("rating", tags=["target", "binary"]), "compatible", "it is no input of a tower"),
    (with_("shelf", tags=["item", "categorical", "filter"]), "compatible", "it enters the model as before"),
    ({**SHOP, "brand": {"dtype": "string", "tags": ["item", "filter"]}}, "compatible", "is new: it is no input of a tower"),
    (with_("rating", dtype="float64"), "compatible", "it is no input of a tower"),
    (with_("rating", tags=["item", "continuous"]), "breaks", "was value and is continuous"),
    (with_("seen", domain=None, vocabulary=["a", "b", "c"]), "breaks", "restore the domain"),
    (without("rating"), "compatible", 'feature "rating" is gone: it is no input of a tower'),
    (without("age"), "breaks", 'feature "age" is gone: the tower\'s first layer has another width'),
    ({**SHOP, "place": {"dtype": "int8", "tags": ["position"]}}, "compatible", 'feature "place" is new'),
    ({**SHOP, "cost": {"dtype": "float32", "tags": ["item"]}}, "breaks", 'feature "cost" is new'),
    ({"rating": SHOP["rating"], **without("rating")}, "compatible", ""),
    ({"age": SHOP["age"], **without("age")}, "breaks", "the query tower takes its features in the order age, user, group"),
    ({"item": SHOP["item"], **without("item")}, "compatible", ""),  # first of the items still
    ({**without("item"), "item": SHOP["item"]}, "breaks", "the item tower takes its features in the order shelf"),
]  # fmt: skip


@pytest.mark.parametrize(("features", "verdict", "words"), PARAMETERS)
def test_each_kind_of_change(features: dict[str, dict[str, Any]], verdict: str, words: str) -> None:
    found = shop().diff(shop(features))
    assert found.verdict == verdict, str(found)
    if not words:
        assert not found
        return
    saying = [change for change in found.changes if words in str(change)]
    assert {change.level for change in saying} == {verdict}, str(found)
    assert f"verdict: {verdict}: " in str(found).splitlines()[-1]


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (with_("item", domain="stuff"), 'feature "item" says domain otherwise'),
        (with_("user", cardinality=5), 'feature "user" says cardinality otherwise'),
        (with_("words", text={}), ""),
        (with_("shelf", embedding={"dim": 4, "combiner": None}), ""),
    ],
)
def test_the_same_said_in_other_words_is_compatible(features: dict[str, dict[str, Any]], words: str) -> None:
    if "item" in features and features["item"].get("domain") == "stuff":
        features = {**features, "seen": {**SHOP["seen"], "domain": "stuff"}}
    found = shop().diff(shop(features))
    assert found.verdict == "compatible"
    assert words in str(found)
    assert bool(found) == bool(words)


def test_the_schema_as_a_whole() -> None:
    tables = {"users": SideTable(file="users.parquet", key="user")}
    moved = {"users": SideTable(file="people.parquet", key="user")}
    found = shop(name="a", tables=tables).diff(shop(name="b", tables=moved))
    assert [str(change) for change in found.changes] == [
        "compatible: the schema is called b, was a",
        'compatible: side table "users" has another file: features are read from elsewhere',
    ]
    assert [change.message.partition(":")[0] for change in shop(tables=tables).diff(shop()).changes] == ["is gone"]
    assert [change.message.partition(":")[0] for change in shop().diff(shop(tables=tables)).changes] == ["is new"]


USER = {"dtype": "string", "tags": ["user", "id"], "vocabulary": "learned"}
ITEM = {"dtype": "string", "tags": ["item", "id"], "vocabulary": "learned"}
EVENTS = {"user": ["u", "v", "u", "w"], "item": ["b", "a", "b", "c"], "price": [1.0, 2.0, 3.0, 6.0]}
NEWS = {"user": ["x", "x"], "item": ["z", "z"], "price": [8.0, 9.0]}


@pytest.mark.parametrize("spec", [
    {"normalize": "standard"}, {"normalize": "min-max"}, {"missing": "mean"}, {"buckets": {"quantiles": 2}, "tags": ["item"]},
])  # fmt: skip
def test_fitting_again_grows_and_fitting_anew_breaks(spec: dict[str, Any]) -> None:
    schema = shop({"user": USER, "item": ITEM, "price": {"dtype": "float32", "tags": ["item", "continuous"], **spec}})
    old = schema.fit(EVENTS)
    again = old.diff(old.fit(NEWS))
    assert again.verdict == "grows"
    assert [change.subject for change in again.changes if change.level == "grows"] == ['table "user"', 'table "item"']
    assert [change.subject for change in again.changes if change.level == "compatible"] == [
        'the interactions of "user"',
        'the interactions of "item"',
    ]
    anew = old.diff(schema.fit(NEWS))
    assert anew.verdict == "breaks"
    lines = "\n".join(str(change) for change in anew.changes if "price" in change.subject)
    assert ("had buckets between the edges 3 and has 9" if "buckets" in spec else "learned other numbers") in lines
    with pytest.raises(SchemaError) as caught:
        schema.diff(old)
    assert caught.value.problems[0].startswith(
        'the old schema is not fitted (feature "user" has no vocabulary yet, and 2 more), so its rows are not known'
    )


def test_a_value_that_takes_a_spare_row_grows_the_model_too() -> None:
    old = shop({"user": USER, "item": {**ITEM, "cardinality": 9}}).fit(EVENTS)
    found = old.diff(old.fit({"user": ["u"], "item": ["z"]}))
    assert [str(it) for it in found.changes if it.level == "grows"] == [
        "grows: table \"item\" has 1 new value ('z'), from row 6 on: the model needs their rows; grow it"
    ]


def test_other_pretrained_vectors_are_for_new_rows_alone(tmp_path: Path) -> None:
    def write(scale: float, width: int = 2) -> None:
        vectors = pa.table({"id": ["a", "b", "c"], "v": [[scale] * width, [0.0] * width, [1.0] * width]})
        pq.write_table(vectors, tmp_path / "v.parquet")

    given = {"embedding": {"pretrained": {"file": "v.parquet", "key": "id", "vector": "v"}}}
    schema = shop({"user": USER, "item": {**ITEM, **given}}, folder=tmp_path)
    plain = shop({"user": USER, "item": ITEM}).fit(EVENTS)
    write(1.0)
    first = schema.fit(EVENTS)
    write(2.0)
    second = first.fit(EVENTS)
    assert [it.level for it in first.diff(second).changes] == ["compatible"]
    assert "rows that were trained stay" in str(first.diff(second))
    write(1.0, width=3)
    assert "was to be 2 wide and is to be 3" in str(first.diff(schema.fit(EVENTS)))
    assert "what the model's options say wide and is to be 2" in str(plain.diff(first))


# -- no key without an answer -----------------------------------------------------------------------------------------


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a document and of the documents inside it."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in documents(field.annotation):
            yield from keys(inner, f"{prefix}{name}.")


def documents(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from documents(part)


def test_every_key_of_the_grammar_has_an_answer() -> None:
    assert set(RULES) == set(keys(sf.Feature))
    assert set(SideTable.model_fields) == {"file", "key", "column"}
    assert set(SchemaDocument.model_fields) == {"version", "name", "fitted", "tables", "features"}
    assert {it.name for it in dataclasses.fields(Fitted)} == {
        "vocabularies",
        "statistics",
        "counts",
        "vectors",
        "under",
    }
    learned = {it.name for it in dataclasses.fields(Statistics)}
    assert learned == {"mean", "std", "minimum", "maximum", "edges", "newest"}


class FutureFeature(sf.Feature):
    """What the grammar may be one day."""

    gate: int | None = None


@pytest.mark.parametrize("name", ["age", "rating"])
def test_a_key_that_is_not_known_breaks(name: str) -> None:
    def future(gate: int | None) -> sf.Schema:
        spec = {"name": name, **SHOP[name], "gate": gate}
        return sf.Schema(tuple(FutureFeature.model_validate(spec) if it.name == name else it for it in shop()))

    assert future(1).diff(future(1)).verdict == "compatible"
    for old, new in ((future(1), future(2)), (future(None), future(1)), (shop(), future(1)), (future(1), shop())):
        (change,) = old.diff(new).changes
        assert change.level == "breaks"
        assert 'has another "gate", and what that means for a trained model is not known' in change.message
    rest = shop(without(name))
    assert rest.diff(future(1)).verdict == "breaks"


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_lines_and_ends_in_the_verdict(tmp_path: Path) -> None:
    old = shop({"user": USER, "item": ITEM}).fit(EVENTS)
    new = old.fit(NEWS)
    old.to_yaml(tmp_path / "old.yaml")
    new.to_yaml(tmp_path / "new.yaml")
    for first, second, code in (("old", "new", 0), ("new", "old", 1), ("old", "old", 0)):
        found = sf.Schema.from_yaml(tmp_path / f"{first}.yaml").diff(tmp_path / f"{second}.yaml")
        done = schemaflow("diff", tmp_path / f"{first}.yaml", tmp_path / f"{second}.yaml")
        assert (done.returncode, done.stdout, done.stderr) == (code, f"{found}\n", "")
        asked = schemaflow("diff", "--json", tmp_path / f"{first}.yaml", tmp_path / f"{second}.yaml")
        assert asked.returncode == code
        assert json.loads(asked.stdout) == {
            "verdict": found.verdict,
            "changes": [{"level": it.level, "subject": it.subject, "message": it.message} for it in found.changes],
        }
    old.unfitted().to_yaml(tmp_path / "bare.yaml")
    done = schemaflow("diff", tmp_path / "old.yaml", tmp_path / "bare.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith('the new schema is not fitted (feature "user" has no')
