"""Merlin's schema and NVTabular's files, against merlin-core itself: what it drops, turns and guesses, one test each."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import SchemaError
from schemaflow.schema import SideTable, as_schema
from schemaflow.schema.tags import atoms
from schemaflow.schema.yaml_text import dump_flow
from tests import everything
from tests.schema.strategies import documents

MOVIELENS = Path(__file__).parents[2] / "schemas" / "movielens_100k.yaml"


@pytest.fixture(scope="session")
def merlin() -> SimpleNamespace:
    """merlin.schema and its reader of files; the import takes seconds, so it is done once."""
    if sys.version_info >= (3, 12):
        pytest.skip("merlin-core does not import on Python 3.12 and later")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from merlin.schema import ColumnSchema, Schema, Tags
        from merlin.schema.io.tensorflow_metadata import TensorflowMetadata
    return SimpleNamespace(Schema=Schema, Column=ColumnSchema, Tags=Tags, Metadata=TensorflowMetadata)


def through_files(merlin: SimpleNamespace, schema: Any) -> list[Any]:
    """A Merlin schema as Merlin's own writer and reader give it back, by way of protobuf text and of JSON."""
    written = merlin.Metadata.from_merlin_schema(schema)
    return [
        merlin.Metadata.from_proto_text(written.to_proto_text()).to_merlin_schema(),
        merlin.Metadata.from_json(written.to_json()).to_merlin_schema(),
    ]


def fitted_movielens() -> sf.Schema:
    return sf.Schema.from_yaml(MOVIELENS).fit(
        {
            "user_id": ["1", "2", "3"], "age": [20, 30, 41], "gender": ["F", "M", "F"], "rating": [1.0, 2.0, 5.0],
            "occupation": ["writer", "none", "artist"], "zip_code": ["1", "2", "3"], "movie_id": ["é", "b", "b"],
            "movie_title": ["È", "B", "B"], "year": [1990, 1991, 1991], "genres": [["x"], [], []], "timestamp": [1, 2, 3],
        }
    )  # fmt: skip


# -- every schema there and back ----------------------------------------------------------------------------------


@st.composite
def schemas(draw: st.DrawFn) -> sf.Schema:
    """Schemas of every dtype and kind, with tables, names, vocabularies learned and spelled out, statistics, counts."""
    integers = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"]
    side = st.sampled_from(["user", "item", "context"])
    column = st.text(min_size=1, max_size=6) | st.none()
    features, data, fit = [], {}, draw(st.booleans())
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["range", "looked up", "continuous", "value"]))
        spec: dict[str, Any] = {"name": f"f{number}", "column": None if fit else draw(column)}
        if kind == "continuous":
            spec |= {
                "dtype": draw(st.sampled_from(["float32", "float64", *integers])),
                "tags": [draw(side), "continuous"],
            }
            spec["normalize"] = draw(st.sampled_from([None, "standard"]))
            data[spec["name"]] = [1, 3]
        elif kind == "value":
            role = draw(st.sampled_from([["target", "regression"], ["binary_classification", "target"], ["time"], []]))
            spec |= {"dtype": draw(st.sampled_from(["float32", *integers])), "tags": role}
            data[spec["name"]] = [0, 1]
        else:
            looked_up = kind == "looked up"
            spec["dtype"] = draw(st.sampled_from(["string", *integers] if looked_up else integers))
            spec["tags"] = draw(st.permutations([draw(side), draw(st.sampled_from(["categorical", "sequence"]))]))
            spec["tags"] += draw(st.sampled_from([[], ["list"], ["session"]]))
            if "sequence" in spec["tags"] or draw(st.booleans()):
                spec["list"] = draw(st.sampled_from([{}, {"max_length": 1}, {"max_length": 40}]))
            values = ["a", "é"] if spec["dtype"] == "string" else [1, 2]
            spec["vocabulary"] = draw(st.sampled_from(["learned", values])) if looked_up else None
            spec["cardinality"] = draw(st.integers(5, 2**31 - 1) if not looked_up else st.none() | st.integers(5, 99))
            own = f"d_{kind.partition(' ')[0]}_{spec['dtype']}_{spec['vocabulary']}".replace("['a', 'é']", "ae")
            own = own.replace("[1, 2]", "12")
            if spec["cardinality"] is None or not looked_up:
                spec["domain"] = draw(st.none() | st.just(f"{own}_{spec['cardinality']}"))
            spec["embedding"] = draw(st.none() | st.fixed_dictionaries({"dim": st.integers(1, 256)}))
            data[spec["name"]] = values if "list" not in spec else [[value] for value in values]
        features.append(sf.Feature.model_validate({key: it for key, it in spec.items() if it is not None}))
    if draw(st.booleans()):
        features.append(sf.Feature(name="user_id", dtype="string", tags=["user_id"], cardinality=9))
        data["user_id"] = ["u", "v"]
    tables = {"users": SideTable(file="users.parquet", key="user_id")} if features[-1].name == "user_id" else {}
    schema = sf.Schema(tuple(features), draw(st.none() | st.text(max_size=5)), tables if draw(st.booleans()) else {})
    return schema.fit(data) if fit else schema


def schema_of(document: dict[str, Any]) -> sf.Schema:
    return sf.Schema.from_config({"yaml": dump_flow(document), "fitted": {}})


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schema=st.one_of(schemas(), documents().map(schema_of)))
def test_every_schema_comes_back_equal(merlin: SimpleNamespace, tmp_path_factory: Any, schema: sf.Schema) -> None:
    folder = tmp_path_factory.mktemp("files")
    schema.to_pbtxt(folder / "schema.pbtxt")
    schema.to_pbtxt(folder / "schema.json")
    ways = [
        schema.to_merlin(),
        *through_files(merlin, schema.to_merlin()),
        folder / "schema.pbtxt",
        folder / "schema.json",
    ]
    for way in ways:
        again = as_schema(way)
        assert again == schema
        assert again.fingerprint == schema.fingerprint
        assert again.features == schema.features  # the order of tags too


def test_a_schema_that_says_everything_comes_back_with_all_it_learned(merlin: SimpleNamespace, tmp_path: Path) -> None:
    schema = sf.Schema.from_yaml(everything.write(tmp_path)).fit(tmp_path / "interactions.parquet")
    schema.to_pbtxt(tmp_path / "schema.pbtxt")
    for way in (schema.to_merlin(), *through_files(merlin, schema.to_merlin()), tmp_path / "schema.pbtxt"):
        again = as_schema(way)
        assert again == schema
        assert again.fitted.vectors["item"].shape == (everything.ITEMS, 5)


def test_dense_vectors_are_lists_of_one_length(merlin: SimpleNamespace) -> None:
    ours = sf.Schema(
        (
            sf.Feature.model_validate(
                {"name": "v", "dtype": "float32", "tags": ["item", "embedding"], "embedding": {"dim": 3}}
            ),
        )
    )
    column = ours.to_merlin()["v"]
    assert (column.value_count.min, column.value_count.max, column.is_ragged) == (3, 3, False)
    theirs = merlin.Column(
        "v", tags=["item", "embedding"], dtype="float32", properties={"value_count": {"min": 4, "max": 4}}
    )
    read = as_schema(merlin.Schema([theirs]))["v"]
    assert (read.kind, read.embedding and read.embedding.dim) == ("vector", 4)
    with pytest.raises(SchemaError, match='"v" is tagged embedding but has no width; set properties'):
        as_schema(merlin.Schema([merlin.Column("v", tags=["item", "embedding"], dtype="float32")]))


def test_what_was_learned_travels(merlin: SimpleNamespace, tmp_path: Path) -> None:
    schema = fitted_movielens()
    schema.to_pbtxt(tmp_path / "schema.pbtxt")
    for again in (sf.Schema.from_merlin(schema.to_merlin()), sf.Schema.from_file(tmp_path / "schema.pbtxt")):
        assert again == schema
        assert again.vocabulary("movie").to_pylist() == ["b", "é"]
        assert again.fitted.statistics["age"].mean == pytest.approx(91 / 3)
        assert again.fitted.counts["movie_id"].tolist() == schema.fitted.counts["movie_id"].tolist()
        assert again.tables["users"].key == "user_id"


def test_merlin_users_can_read_what_we_write(merlin: SimpleNamespace, tmp_path: Path) -> None:
    table = sf.Schema.from_yaml(MOVIELENS).to_merlin()
    tags = merlin.Tags
    assert table.select_by_tag(tags.USER_ID).column_names == ["user_id"]
    assert table.select_by_tag(tags.ITEM).column_names == ["movie_id", "movie_title", "year", "genres"]
    assert table["year"].int_domain.max == 73  # 74 rows
    assert table["year"].dtype.name == "int32"
    assert table["movie_id"].properties["domain"] == {"min": 0, "max": 1684, "name": "movie"}
    assert (table["genres"].is_list, table["genres"].is_ragged, table["genres"].value_count.max) == (True, True, 6)
    assert table["genres"].properties["embedding_sizes"] == {"cardinality": 22, "dimension": 16}
    assert table["age"].int_domain is None
    sf.Schema.from_yaml(MOVIELENS).to_pbtxt(tmp_path / "schema.pbtxt")
    read = merlin.Metadata.from_proto_text_file(tmp_path).to_merlin_schema()
    assert [column.dtype.name for column in read] == [column.dtype.name for column in table]
    assert read["year"].int_domain.max == 73


# -- what was changed in Merlin wins ------------------------------------------------------------------------------


def small(**items: Any) -> sf.Schema:
    return sf.Schema(
        (
            sf.Feature(name="user_id", dtype="int64", tags=["user", "id"], cardinality=50),
            sf.Feature(name="age", dtype="int32", tags=["user", "continuous"], normalize="standard"),
            sf.Feature(name="history", dtype="int64", tags=["user", "sequence"], domain="item", list={"max_length": 9}),
            sf.Feature.model_validate(
                {
                    "name": "item_id",
                    "dtype": "int64",
                    "tags": ["item", "id"],
                    "domain": "item",
                    "cardinality": 70,
                    **items,
                }
            ),
        )
    )


def with_column(merlin: SimpleNamespace, table: Any, column: Any) -> Any:
    return merlin.Schema([column if it.name == column.name else it for it in table])


def test_a_changed_field_wins_and_the_rest_stays(merlin: SimpleNamespace) -> None:
    table = small(embedding={"combiner": None}).to_merlin()
    user = table["user_id"].with_properties({"domain": {"min": 0, "max": 999}})
    assert sf.Schema.from_merlin(with_column(merlin, table, user)).rows("user_id") == 1000
    age = table["age"].with_tags("context")
    again = sf.Schema.from_merlin(with_column(merlin, table, age))["age"]
    assert again.tags == (sf.Tags.USER, sf.Tags.CONTINUOUS, sf.Tags.CONTEXT)
    assert again.normalize == "standard"
    assert (
        sf.Schema.from_merlin(with_column(merlin, table, table["age"].with_dtype("float64")))["age"].dtype == "float64"
    )
    longer = table["history"].with_properties({"value_count": {"min": 0, "max": 20}})
    assert sf.Schema.from_merlin(with_column(merlin, table, longer))["history"].list.max_length == 20
    wider = table["item_id"].with_properties({"embedding_sizes": {"cardinality": 70, "dimension": 24}})
    assert sf.Schema.from_merlin(with_column(merlin, table, wider))["item_id"].embedding.dim == 24
    for schema in through_files(merlin, with_column(merlin, table, user)):
        assert sf.Schema.from_merlin(schema).rows("user_id") == 1000


def test_a_column_of_another_kind_is_read_afresh(merlin: SimpleNamespace) -> None:
    table = small().to_merlin()
    continuous = table["user_id"].with_tags("continuous")  # Merlin drops the tag id, which collides
    again = sf.Schema.from_merlin(with_column(merlin, table, continuous))["user_id"]
    assert (again.kind, again.cardinality, again.dtype) == ("continuous", None, "int64")
    categorical = table["age"].with_tags("categorical").with_properties({"domain": {"min": 0, "max": 99}})
    again = sf.Schema.from_merlin(with_column(merlin, table, categorical))["age"]
    assert (again.kind, again.cardinality, again.normalize) == ("categorical", 100, None)


def test_what_merlin_does_not_say_stays_where_something_else_is_changed(merlin: SimpleNamespace) -> None:
    tags, words = ["item", "categorical"], ("b", "a")
    schema = sf.Schema((sf.Feature(name="word", dtype="string", tags=tags, vocabulary=words),))
    (column,) = schema.to_merlin()
    changed = sf.Schema.from_merlin(merlin.Schema([column.with_tags("context")]))["word"]
    assert (changed.vocabulary, changed.dtype) == (words, "string")
    (lost,) = through_files(merlin, schema.to_merlin())[0]  # its dtype
    session = merlin.Column("word", tags=["session_id"], properties=lost.properties)
    assert sf.Schema.from_merlin(merlin.Schema([session]))["word"] == sf.Feature(
        name="word", dtype="string", tags=["id", "session"]
    )


def test_columns_removed_added_moved_and_renamed(merlin: SimpleNamespace) -> None:
    table = small().to_merlin()
    without = sf.Schema.from_merlin(table.excluding_by_name(["item_id"]))
    assert without.column_names == ["user_id", "age", "history"]
    assert without.rows("item") == 70  # which item_id alone had said
    added = merlin.Schema([merlin.Column("price", tags=["item", "continuous"], dtype="float32"), *table])
    assert sf.Schema.from_merlin(added).column_names == ["price", "user_id", "age", "history", "item_id"]
    renamed = merlin.Schema([it.with_name("zip code") if it.name == "user_id" else it for it in table])
    feature = sf.Schema.from_merlin(renamed)["zip_code"]
    assert (feature.column, feature.domain, feature.cardinality) == ("zip code", "user_id", 50)
    years = merlin.Schema([it.with_name("years") if it.name == "age" else it for it in table])
    assert sf.Schema.from_merlin(years)["years"].normalize == "standard"
    twice = table + merlin.Schema([table["user_id"].with_name("friend_id")])
    assert sf.Schema.from_merlin(twice).domains["user_id"].features[1].name == "friend_id"


def test_a_vocabulary_stays_where_its_owner_is_removed(merlin: SimpleNamespace) -> None:
    schema = small(cardinality=None, vocabulary=[30, 10, 20])
    again = sf.Schema.from_merlin(schema.to_merlin().excluding_by_name(["item_id"]))
    assert again.vocabulary("item").to_pylist() == [30, 10, 20]  # and not rows numbered by the ids themselves


def test_a_domain_changed_in_one_of_its_columns_is_a_contradiction(merlin: SimpleNamespace) -> None:
    table = small().to_merlin()
    larger = table["history"].with_properties({"domain": {"min": 0, "max": 99, "name": "item"}})
    with pytest.raises(SchemaError, match=r'"history" and "item_id" share the domain "item" but have .* \[70, 100\]'):
        sf.Schema.from_merlin(with_column(merlin, table, larger))


def test_columns_of_two_schemas_are_refused(merlin: SimpleNamespace) -> None:
    other = sf.Schema((sf.Feature(name="price", dtype="float32", tags=["item", "continuous"]),), "other")
    with pytest.raises(SchemaError, match="columns of several SchemaFlow schemas"):
        sf.Schema.from_merlin(small().to_merlin() + other.to_merlin())


def test_the_column_that_carries_the_vocabularies_is_missed(merlin: SimpleNamespace, tmp_path: Path) -> None:
    small().to_pbtxt(tmp_path / "schema.pbtxt")
    read = merlin.Metadata.from_proto_text_file(tmp_path).to_merlin_schema()
    with pytest.raises(SchemaError, match=r'"age" was written by SchemaFlow, but the first column .* was removed'):
        sf.Schema.from_merlin(read.excluding_by_name(["user_id"]))


# -- another tool's columns: Merlin's traps, one by one -----------------------------------------------------------


def read(merlin: SimpleNamespace, *args: Any, **spec: Any) -> sf.Feature:
    """The feature of one Merlin column."""
    (feature,) = sf.Schema.from_merlin(merlin.Schema([merlin.Column(*args, **spec)]))
    return feature


def refused(merlin: SimpleNamespace, *columns: Any) -> str:
    with pytest.raises(SchemaError) as caught:
        sf.Schema.from_merlin(merlin.Schema(list(columns)))
    return "\n".join(caught.value.problems)


CATEGORICAL = {"tags": ["item", "categorical"], "dtype": "int64"}


def test_tags_are_merlins_value_for_value(merlin: SimpleNamespace) -> None:
    ours = {tag.name: tag.value for tag in sf.Tags}
    assert {tag.name: ours.get(tag.name) for tag in merlin.Tags} == {tag.name: tag.value for tag in merlin.Tags}
    for tag in merlin.Tags:  # and taken apart alike, but for the two that Merlin leaves whole
        taken = {it.value for it in merlin.Column("x", tags=[tag]).tags}
        whole = tag.value in ("binary_classification", "multi_class_classification")
        assert taken == ({tag.value} if whole else set(atoms([tag.value])))


def test_compound_tags_are_taken_apart_and_those_merlin_leaves_whole_are_written_whole(merlin: SimpleNamespace) -> None:
    feature = read(merlin, "clicked", tags=["BINARY_CLASSIFICATION", "Target"], dtype="int8")
    assert set(feature.tags) == {sf.Tags.TARGET, sf.Tags.BINARY, sf.Tags.CLASSIFICATION}
    table = sf.Schema((feature,)).to_merlin()
    assert table.select_by_tag(merlin.Tags.BINARY_CLASSIFICATION).column_names == ["clicked"]
    assert table.select_by_tag(merlin.Tags.BINARY).column_names == ["clicked"]  # which misses it in Merlin's own


def test_cardinality_is_the_largest_id_and_one(merlin: SimpleNamespace) -> None:
    feature = read(merlin, "item", **CATEGORICAL, properties={"domain": {"min": 3, "max": 1000, "name": "things"}})
    assert (feature.cardinality, feature.encoding, feature.domain) == (1001, "range", "things")
    assert sf.Schema((feature,)).to_merlin()["item"].int_domain.max == 1000


def test_embedding_sizes_give_the_rows_where_no_domain_does(merlin: SimpleNamespace) -> None:
    sizes = {"embedding_sizes": {"cardinality": 1001.0, "dimension": 16.0}}
    feature = read(merlin, "item", **CATEGORICAL, properties=sizes)
    assert (feature.cardinality, feature.embedding.dim) == (1001, 16)
    both = {**sizes, "domain": {"min": 0, "max": 1001}}
    assert read(merlin, "item", **CATEGORICAL, properties=both).cardinality == 1002  # Merlin goes by the domain


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", None])
def test_a_domain_counts_where_merlin_shows_none(merlin: SimpleNamespace, dtype: str | None) -> None:
    column = merlin.Column("item", tags=["item_id"], dtype=dtype, properties={"domain": {"min": 0, "max": 9}})
    assert column.int_domain is None
    (feature,) = sf.Schema.from_merlin(merlin.Schema([column]))
    assert (feature.cardinality, feature.dtype) == (10, dtype or "int64")


def test_a_domain_with_keys_of_its_own_is_read(merlin: SimpleNamespace) -> None:
    column = merlin.Column("item", **CATEGORICAL, properties={"domain": {"min": 0, "max": 9, "source": "nvt"}})
    with pytest.raises(TypeError):
        _ = column.int_domain
    (feature,) = sf.Schema.from_merlin(merlin.Schema([column]))
    assert feature.cardinality == 10


def test_columns_that_share_a_domain_share_its_rows(merlin: SimpleNamespace) -> None:
    item = merlin.Column("item_id", tags=["item_id"], dtype="int64", properties={"domain": {"max": 9, "name": "item"}})
    seen = merlin.Column(
        "seen", tags=["user", "sequence"], dtype="int64", is_list=True, properties={"domain": {"name": "item"}}
    )
    assert sf.Schema.from_merlin(merlin.Schema([seen, item])).rows("item") == 10


def test_signs_and_dtypes_that_files_drop_are_kept(merlin: SimpleNamespace) -> None:
    schema = sf.Schema(
        (
            sf.Feature(name="a", dtype="uint32", tags=["item", "categorical"], cardinality=9, embedding={"dim": 4}),
            sf.Feature(name="b", dtype="string", tags=["item", "categorical"], cardinality=9),
            sf.Feature(name="c", dtype="uint8", tags=["item", "continuous"]),
        )
    )
    for table in through_files(merlin, schema.to_merlin()):
        assert [column.dtype.name for column in table] == ["int32", "unknown", "int8"]
        assert table["b"].properties.get("domain") is None
        assert table["a"].properties["embedding_sizes"]["dimension"] == 4.0
        assert isinstance(table["a"].properties["embedding_sizes"]["dimension"], float)
        assert sf.Schema.from_merlin(table) == schema


def test_integers_that_a_file_made_floats_are_integers(merlin: SimpleNamespace) -> None:
    column = merlin.Column(
        "item",
        **CATEGORICAL,
        properties={"domain": {"min": 0, "max": 1000}, "embedding_sizes": {"cardinality": 1001, "dimension": 16}},
    )
    for table in through_files(merlin, merlin.Schema([column])):
        assert isinstance(table["item"].properties["embedding_sizes"]["dimension"], float)
        (feature,) = sf.Schema.from_merlin(table)
        assert (feature.embedding.dim, feature.cardinality) == (16, 1001)
        assert type(feature.embedding.dim) is int


def test_a_dtype_that_is_not_said_is_inferred_where_it_cannot_matter_and_asked_for_elsewhere(
    merlin: SimpleNamespace,
) -> None:
    assert read(merlin, "age", tags=["user", "continuous"]).dtype == "float32"
    assert (
        read(merlin, "kind", tags=["item", "categorical"], properties={"domain": {"min": 0, "max": 5}}).dtype == "int64"
    )
    rating, title = merlin.Column("rating", tags=["target"]), merlin.Column("title", tags=["item", "categorical"])
    lines = refused(merlin, rating, title).splitlines()
    assert [line.split(" has ")[0] for line in lines] == ['Merlin column "rating"', 'Merlin column "title"']
    assert "set it with with_dtype" in lines[0]
    for dtype in ("bool", "float16", "uint64", "datetime64[ns]"):
        assert f'"x" has dtype {dtype}' in refused(merlin, merlin.Column("x", tags=["target"], dtype=dtype))


def test_strings_are_looked_up(merlin: SimpleNamespace) -> None:
    feature = read(merlin, "title", tags=["item", "categorical"], dtype="string")
    assert (feature.encoding, feature.vocabulary, feature.cardinality) == ("vocabulary", "learned", None)
    bounded = read(merlin, "title", tags=["item"], dtype="string", properties={"domain": {"min": 0, "max": 99}})
    assert (bounded.encoding, bounded.cardinality) == ("vocabulary", 100)


def test_a_list_without_lengths_has_any_length(merlin: SimpleNamespace) -> None:
    domain = {"domain": {"min": 0, "max": 9}}
    column = merlin.Column("genres", **CATEGORICAL, is_list=True, is_ragged=False, properties=domain)
    assert column.is_ragged  # what Merlin silently makes of it
    (feature,) = sf.Schema.from_merlin(merlin.Schema([column]))
    assert feature.list is not None
    assert feature.list.max_length is None
    for count, longest in [({"max": 6}, 6), ({"min": 2, "max": 6}, 6), ({"min": 4, "max": 4}, 4), ({"min": 2}, None)]:
        spec = {**CATEGORICAL, "properties": {**domain, "value_count": count}}
        assert read(merlin, "genres", **spec).list.max_length == longest
        for table in through_files(merlin, merlin.Schema([merlin.Column("genres", **spec)])):
            assert sf.Schema.from_merlin(table)["genres"].list.max_length == longest
    assert read(merlin, "genres", **CATEGORICAL, dims=(None, 5), properties=domain).list.max_length == 5
    nested = merlin.Column("genres", **CATEGORICAL, dims=(None, None, 5), properties=domain)
    assert "holds lists of lists" in refused(merlin, nested)
    assert "has one value a row" in refused(
        merlin, merlin.Column("x", tags=["item", "categorical", "list"], properties=domain)
    )
    assert "is a sequence but not a list" in refused(
        merlin, merlin.Column("x", tags=["user", "sequence"], properties=domain)
    )


def test_a_categorical_without_domain_is_named_and_not_left_out(merlin: SimpleNamespace) -> None:
    lines = refused(
        merlin,
        merlin.Column("a", **CATEGORICAL),
        merlin.Column("b", **CATEGORICAL, properties={"domain": {"min": 0, "max": 9.5}}),
        merlin.Column("c", **CATEGORICAL, properties={"domain": {"min": -1, "max": 9}}),
        merlin.Column("d", **CATEGORICAL, properties={"domain": {"min": 0, "max": 0}}),  # of a file that names no max
        merlin.Column("e", **CATEGORICAL, properties={"domain": {"min": 0, "max": 9}}),
    ).splitlines()
    assert [line.split('"')[1] for line in lines] == ["a", "b", "c", "d"]
    assert "its domain is None; set properties=" in lines[0]
    assert "'max': 9.5" in lines[1]


def test_tags_that_no_feature_has_are_named_with_the_nearest(merlin: SimpleNamespace) -> None:
    message = refused(merlin, merlin.Column("x", tags=["categorcal", "item", "brand"], dtype="int64"))
    assert 'Merlin column "x" has an unknown tag "categorcal"; did you mean "categorical"?' in message
    assert 'Merlin column "x" has an unknown tag "brand"; known: ' in message
    message = refused(
        merlin, merlin.Column("x", tags=["continuous", "sequence", "item"], dtype="float32", is_list=True)
    )
    assert message.startswith('Merlin column "x" is tagged both continuous and sequence')
    message = refused(merlin, merlin.Column("x", tags=["item"], dtype="int64"))
    assert (
        message == 'Merlin column "x" has dtype int64 and may be a number or a code; tag it continuous or categorical'
    )


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("zip code", "zip_code"), ("a-b/c", "a_b_c"), ("età", "eta"), ("count", "column_count"), ("class", "column_class"),
        ("1st", "column_1st"), ("where_x", "column_where_x"), ("_id", "id"),
    ],
)  # fmt: skip
def test_names_that_no_feature_has_become_legal_and_the_column_stays(
    merlin: SimpleNamespace, column: str, name: str
) -> None:
    feature = read(merlin, column, tags=["user", "continuous"], dtype="float32")
    assert (feature.name, feature.column) == (name, column)
    assert sf.Schema((feature,)).to_merlin().column_names == [column]
    assert read(merlin, "x", **CATEGORICAL, properties={"domain": {"max": 9, "name": column}}).domain == name


def test_names_that_become_one_are_refused(merlin: SimpleNamespace) -> None:
    spec = {"tags": ["user", "continuous"], "dtype": "float32"}
    for names in (["zip code", "zip-code"], ["zip code", "zip_code"], ["Zip code", "zip_code"]):
        message = refused(merlin, *(merlin.Column(name, **spec) for name in names))
        assert f'Merlin columns "{names[0]}" and "{names[1]}" would both be called "' in message
    assert "of which no letter can stay" in refused(merlin, merlin.Column("???", **spec))


def test_features_that_read_one_column_keep_their_own_names(merlin: SimpleNamespace) -> None:
    schema = sf.Schema(
        (
            sf.Feature(name="timestamp", dtype="int64", tags=["time"]),
            sf.Feature(name="clock", dtype="int64", tags=["user", "continuous"], column="timestamp"),
            sf.Feature(name="zip", dtype="int64", tags=["user", "continuous"], column="zip code"),
            sf.Feature(name="age", dtype="int64", tags=["user", "continuous"], column="clock"),
        )
    )
    assert schema.to_merlin().column_names == ["timestamp", "clock", "zip code", "age"]
    assert sf.Schema.from_merlin(schema.to_merlin()) == schema


def test_a_schema_of_nothing(merlin: SimpleNamespace) -> None:
    with pytest.raises(SchemaError, match="holds no column"):
        sf.Schema.from_merlin(merlin.Schema())
    with pytest.raises(SchemaError, match="without features"):
        sf.Schema(()).to_merlin()


# -- NVTabular's files --------------------------------------------------------------------------------------------

# as NVTabular 23.08 writes them after Categorify: no minima of zero, 64-bit integers as strings in JSON, the rest of the
# properties in a struct of floats
PBTXT = """
feature {
  name: "user_id"
  type: INT
  int_domain { name: "user_id" max: 945 is_categorical: true }
  annotation {
    tag: "user_id"
    tag: "categorical"
    extra_metadata {
      [type.googleapis.com/google.protobuf.Struct] {
        fields { key: "cat_path" value { string_value: "categories/unique.user_id.parquet" } }
        fields { key: "dtype_item_size" value { number_value: 64.0 } }
        fields { key: "embedding_sizes" value { struct_value {
          fields { key: "cardinality" value { number_value: 946.0 } }
          fields { key: "dimension" value { number_value: 69.0 } } } } }
        fields { key: "freq_threshold" value { number_value: 0.0 } }
        fields { key: "is_list" value { bool_value: false } }
        fields { key: "is_ragged" value { bool_value: false } }
        fields { key: "num_buckets" value { null_value: NULL_VALUE } }
      }
    }
  }
}
feature {
  name: "item_id"
  type: INT
  int_domain { name: "item" max: 1684 is_categorical: true }
  annotation { tag: "item" tag: "id" tag: "categorical" }
}
feature {
  name: "item_id-list"
  value_count { min: 0 max: 20 }
  type: INT
  int_domain { name: "item" max: 1684 is_categorical: true }
  annotation { tag: "user" tag: "list" tag: "categorical" }
}
feature {
  name: "age"
  type: FLOAT
  float_domain { max: 1.0 }
  annotation { tag: "user" tag: "continuous" extra_metadata {
    [type.googleapis.com/google.protobuf.Struct] { fields { key: "dtype_item_size" value { number_value: 32.0 } } } } }
}
feature {
  name: "click"
  type: INT
  int_domain { max: 1 }
  annotation { tag: "binary_classification" tag: "target" }
}
"""

STRUCT = {"is_list": False, "is_ragged": False, "_dims": []}
JSON = {
    "feature": [
        {
            "name": "user_id", "type": "INT", "intDomain": {"name": "user_id", "max": "945", "isCategorical": True},
            "annotation": {
                "tag": ["user_id", "categorical"],
                "extraMetadata": [{
                    **STRUCT, "num_buckets": None, "freq_threshold": 0.0, "cat_path": "categories/unique.user_id.parquet",
                    "dtype_item_size": 64.0, "embedding_sizes": {"cardinality": 946.0, "dimension": 69.0},
                }],
            },
        },
        {
            "name": "item_id", "type": "INT", "intDomain": {"name": "item", "max": "1684", "isCategorical": True},
            "annotation": {"tag": ["item", "id", "categorical"], "extraMetadata": [STRUCT]},
        },
        {
            "name": "item_id-list", "type": "INT", "valueCount": {"max": "20"},
            "intDomain": {"name": "item", "max": "1684", "isCategorical": True},
            "annotation": {
                "tag": ["user", "list", "categorical"],
                "extraMetadata": [{"is_list": True, "is_ragged": True, "_dims": [[0.0, None], [0.0, 20.0]]}],
            },
        },
        {
            "name": "age", "type": "FLOAT", "floatDomain": {"max": 1.0},
            "annotation": {"tag": ["user", "continuous"], "extraMetadata": [{**STRUCT, "dtype_item_size": 32.0}]},
        },
        {
            "name": "click", "type": "INT", "intDomain": {"name": None, "max": "1"},
            "annotation": {"tag": ["binary_classification", "target"], "extraMetadata": [STRUCT]},
        },
    ]
}  # fmt: skip

NVTABULAR = """
version: 1
features:
  user_id: {dtype: int64, tags: [categorical, id, user], cardinality: 946, embedding: {dim: 69}}
  item_id: {dtype: int64, tags: [categorical, id, item], cardinality: 1685, domain: item}
  item_id_list: {dtype: int64, tags: [categorical, list, user], column: item_id-list, cardinality: 1685, domain: item,
                 list: {max_length: 20}}
  age: {dtype: float32, tags: [continuous, user]}
  click: {dtype: int64, tags: [target, classification, binary]}
"""


@pytest.fixture(params=["pbtxt", "json"])
def nvtabular(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"schema.{request.param}"
    path.write_text(PBTXT if request.param == "pbtxt" else json.dumps(JSON), encoding="utf-8")
    return path


def test_nvtabulars_files_are_read(merlin: SimpleNamespace, nvtabular: Path) -> None:
    (nvtabular.parent / "schema.yaml").write_text(NVTABULAR, encoding="utf-8")
    expected = sf.Schema.from_file(nvtabular.parent / "schema.yaml")
    schema = sf.Schema.from_file(nvtabular)
    assert [dump(feature) for feature in schema] == [dump(feature) for feature in expected]
    assert as_schema(str(nvtabular)) == schema
    assert sf.Schema.from_pbtxt(nvtabular) == schema


def dump(feature: sf.Feature) -> dict[str, Any]:
    return {"name": feature.name, **feature.model_dump(), "tags": frozenset(feature.tags)}


def test_nvtabulars_files_are_written_as_merlin_reads_them(merlin: SimpleNamespace, nvtabular: Path) -> None:
    ours = nvtabular.with_name(f"ours{nvtabular.suffix}")
    sf.Schema.from_file(nvtabular).to_pbtxt(ours)
    texts = [path.read_text(encoding="utf-8") for path in (nvtabular, ours)]
    metadata = merlin.Metadata
    parse = metadata.from_proto_text if nvtabular.suffix == ".pbtxt" else metadata.from_json
    theirs, again = (parse(text).to_merlin_schema() for text in texts)
    assert again.column_names == theirs.column_names
    for column, other in zip(again, theirs, strict=True):
        assert set(other.tags) <= set(column.tags)  # and the atoms of binary_classification
        assert (column.dtype, column.is_list, column.is_ragged) == (other.dtype, other.is_list, other.is_ragged)
        assert column.value_count == other.value_count
    assert again["item_id-list"].int_domain == theirs["item_id-list"].int_domain
    sizes = theirs["user_id"].properties["embedding_sizes"]
    assert again["user_id"].properties["embedding_sizes"] == sizes
    assert sf.Schema.from_file(ours) == sf.Schema.from_file(nvtabular)


def test_the_same_schema_gives_the_same_bytes(tmp_path: Path, merlin: SimpleNamespace) -> None:
    script = "import sys, schemaflow as sf\nfor it in sys.argv[2:]: sf.Schema.from_file(sys.argv[1]).to_pbtxt(it)"
    written = []
    for seed in ("1", "2"):
        files = [tmp_path / f"{seed}.pbtxt", tmp_path / f"{seed}.json"]
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, str(MOVIELENS), *map(str, files)],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, cwd=MOVIELENS.parents[1], capture_output=True,
        )  # fmt: skip
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]


def test_only_the_first_column_of_a_file_carries_the_vocabularies(merlin: SimpleNamespace, tmp_path: Path) -> None:
    schema = fitted_movielens()
    schema.to_pbtxt(tmp_path / "schema.json")
    features = json.loads((tmp_path / "schema.json").read_text(encoding="utf-8"))["feature"]
    carrying = [it["name"] for it in features if "schemaflow_schema" in it["annotation"]["extraMetadata"][0]]
    assert carrying == ["user_id"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.pbtxt", 'feature {\n  name: "x"\n  kind: INT\n}', r'a\.pbtxt:3:3: not a Merlin schema as protobuf text: .*"kind"'),
        ("a.pbtxt", "features: {user_id: {}}", r"a\.pbtxt:1:1: not a Merlin schema"),
        ("a.pbtxt", "", r"a\.pbtxt: the Merlin schema holds no column"),
        ("a.pbtxt", 'feature { name: "x" type: INT annotation { tag: "categorcal" } }', r'a\.pbtxt: Merlin column "x" has an unknown tag'),
        ("a.pbtxt", 'feature { name: "x" annotation { tag: "id" tag: "continuous" } }', r"a\.pbtxt: not a Merlin schema .* incompatible"),
        ("a.json", '{"feature": [\n {"name": }]}', r"a\.json:2:11: not valid JSON: Expecting value"),
        ("a.json", "[1]", r"a\.json: the Merlin schema holds no column"),
        ("a.json", '{"feature": [3]}', r"a\.json: not a Merlin schema as JSON"),
        ("a.json", '{"features": []}', r"a\.json: the Merlin schema holds no column"),
        ("a.json", '{"feature": [{"name": "x", "type": "INT", "intDomain": {"max": "many"}}]}', r"a\.json: not a Merlin schema as JSON"),
    ],
)  # fmt: skip
def test_a_broken_file_gives_one_line_with_its_name(
    merlin: SimpleNamespace, tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(SchemaError, match=message) as caught:
        sf.Schema.from_file(tmp_path / name)
    assert len(str(caught.value).splitlines()) == 1


def test_files_of_another_kind_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"schema\.toml: expected a schema file that ends in \.yaml"):
        sf.Schema.from_file(tmp_path / "schema.toml")
    for name in ("schema.pbtxt", "schema.json", "schema.yaml"):
        with pytest.raises(SchemaError, match="there is no such schema file"):
            sf.Schema.from_file(tmp_path / name)


# -- where a schema is taken --------------------------------------------------------------------------------------


def test_a_model_is_built_from_a_merlin_schema_and_trains(merlin: SimpleNamespace) -> None:
    domain = {"min": 0, "max": 19, "name": "item"}
    table = merlin.Schema(
        [
            merlin.Column("user-id", tags=[merlin.Tags.USER_ID], dtype="int64", properties={"domain": {"min": 0, "max": 9}}),
            merlin.Column("age", tags=[merlin.Tags.USER, merlin.Tags.CONTINUOUS], dtype="float32"),
            merlin.Column("seen", tags=["user", "sequence"], dtype="int64", properties={"domain": domain, "value_count": {"max": 4}}),
            merlin.Column("item_id", tags=[merlin.Tags.ITEM_ID], dtype="int32", properties={"domain": domain}),
        ]
    )  # fmt: skip
    generator = np.random.default_rng(3)
    events = {
        "user-id": generator.integers(0, 10, 64), "age": generator.random(64, dtype=np.float32),
        "seen": generator.integers(1, 20, (64, 3)), "item_id": generator.integers(0, 20, 64).astype(np.int32),
    }  # fmt: skip
    options = sf.EmbeddingOptions(embedding_dim_default=4)
    model = sf.TwoTowerModel(table, sf.MLPBlock([8]), correction=None, embedding_options=options)
    model.compile(optimizer="adam")
    before = [weight.numpy().copy() for weight in model.trainable_variables]
    history = model.fit(events, batch_size=64, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    moved = [not np.array_equal(old, new.numpy()) for old, new in zip(before, model.trainable_variables, strict=True)]
    assert all(moved)
    batch = next(iter(sf.read_parquet(events, table, batch_size=64)))
    assert batch["user_id/encoded"].numpy().tolist() == events["user-id"].tolist()  # rows are the ids themselves


def test_what_is_no_schema_is_refused() -> None:
    with pytest.raises(SchemaError, match=r"expected a Schema, .* or a merlin.schema.Schema, received dict"):
        as_schema({})  # type: ignore[arg-type]


@pytest.mark.short
def test_where_merlin_cannot_be_imported_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [it for it in sys.modules if it.partition(".")[0] == "merlin"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "merlin", None)
    (tmp_path / "schema.pbtxt").write_text(PBTXT, encoding="utf-8")
    for attempt in (small().to_merlin, lambda: sf.Schema.from_file(tmp_path / "schema.pbtxt")):
        with pytest.raises(
            SchemaError, match=r'needs Python < 3.12 and "pip install merlin-core"; or keep the schema as YAML'
        ):
            attempt()
