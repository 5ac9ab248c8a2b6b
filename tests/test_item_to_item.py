"""Sides of one's own: two towers of items, side tables under other names for their key, and what that is worth."""

from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data.join import as_side_table, read_table
from schemaflow.data.sessions import pairs_within, sessions_of
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.schema.sides import sides_of, tower_tags
from schemaflow.workflows import train

YAML = """\
version: 1
tables:
  seeds: {file: items.parquet, key: seed, column: film}
  next: {file: items.parquet, key: next, column: film}
features:
  seed:       {dtype: string, tags: [x-seed, id], vocabulary: learned, domain: film}
  seed_kind:  {dtype: string, tags: [X-SEED, categorical], column: kind, vocabulary: [war, love], domain: kind}
  next:       {dtype: string, tags: [x-next, id], vocabulary: learned, domain: film}
  next_kind:  {dtype: string, tags: [x-next, categorical], column: kind, vocabulary: [war, love], domain: kind}
  next_price: {dtype: float32, tags: [x-next, continuous], column: price}
  device:     {dtype: string, tags: [context, categorical], vocabulary: [tv, phone]}
  weight:     {dtype: float32, tags: [weight]}
"""
ITEMS = {"film": ["a", "b", "c", "d"], "kind": ["war", "love", "war", "love"], "price": [1.0, 2.0, 4.0, 8.0]}
PAIRS = {
    "seed": ["a", "b", "a", "c"],
    "next": ["b", "c", "c", "b"],
    "device": ["tv", "phone", "tv", "tv"],
    "weight": [1.0, 2.0, 1.0, 1.0],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pq.write_table(pa.table(ITEMS), tmp_path / "items.parquet")
    pq.write_table(pa.table(PAIRS), tmp_path / "pairs.parquet")
    (tmp_path / "shop.yaml").write_text(YAML, encoding="utf-8")
    return tmp_path


def schema_in(folder: Path) -> sf.Schema:
    return sf.Schema.from_yaml(folder / "shop.yaml")


def model_of(schema: sf.Schema, width: int = 3) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(0)
    options = sf.EmbeddingOptions(embedding_dim_default=4)
    tags = {"query_tower_tag": "X-Seed", "item_tower_tag": "x-next"}
    return sf.TwoTowerModel(schema, sf.MLPBlock([width]), embedding_options=options, **tags)  # type: ignore[arg-type]


# -- tags -------------------------------------------------------------------------------------------------------------


def feature(name: str, *tags: str) -> sf.Feature:
    return sf.Feature(name=name, dtype="string", tags=tags, vocabulary=["a", "b"])


def test_a_tag_of_ones_own_is_a_side() -> None:
    it = sf.Feature(name="seed", dtype="string", tags=["X-Seed_2"], vocabulary="learned")
    assert it.tags == ("x-seed_2",)
    assert it.kind == "categorical"  # as of a string that is of a user; without a side it is a value
    assert sf.Feature(name="seed", dtype="string").kind == "value"
    assert it.has("x-Seed_2")
    assert not it.has("x-seed")


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ("x-", 'unknown tag "x-"; one of your own is x- and a name'),
        ("x-é", 'unknown tag "x-é"; one of your own is x- and a name'),
        ("x-a b", 'unknown tag "x-a b"; one of your own is x- and a name'),
        ("seed", 'unknown tag "seed"; known: .*, and your own as x-<name>'),
        ("usr", 'unknown tag "usr"; did you mean "user"'),
    ],
)
def test_a_word_that_is_no_tag_is_refused(tag: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        feature("a", tag)


@pytest.mark.parametrize(
    ("sides", "tags"),
    [
        (["user", "item"], ("user", "item")),
        (["item", "user", "x-a", "x-b"], ("user", "item")),
        (["x-a", "x-b"], ("x-a", "x-b")),
        (["context", "x-a", "user", "x-b"], ("x-a", "x-b")),
        (["x-a", "item", "context"], ("x-a", "item")),
        (["user", "x-a"], ("user", "x-a")),
        (["context", "x-a"], ("user", "x-a")),
        (["x-a"], ("user", "x-a")),
        (["context"], ("user", "item")),
    ],
)
def test_towers_are_of_user_and_item_or_of_the_sides_that_stand_in(sides: list[str], tags: tuple[str, str]) -> None:
    assert tower_tags([feature(f"f{number}", side) for number, side in enumerate(sides)]) == tags


def test_each_tower_takes_its_side_and_the_query_the_context_too() -> None:
    schema = sf.Schema(
        tuple(
            feature(side.replace("x-", ""), side, *kind)
            for side, *kind in (("x-a", "id"), ("x-b", "id"), ("user", "id"), ("item", "id"), ("context",))
        )
    )
    for tags, query, item in (
        (("x-a", "x-b"), ["a", "context"], "b"),
        (("x-b", "x-a"), ["b", "context"], "a"),
        (("user", "x-a"), ["user", "context"], "a"),
        (("x-a", "item"), ["a", "context"], "item"),
    ):
        sides = sides_of(schema, *tags)
        assert ([it.name for it in sides.query], sides.item_id.name) == (query, item)
    assert schema.select_by_tag(["x-a", "item_id"]).column_names == ["a", "item"]
    assert schema.excluding_by_tag("X-A").column_names == ["b", "user", "item", "context"]
    with pytest.raises(SchemaError, match="no feature is tagged x-c, so the item tower has no input"):
        sides_of(schema, "x-a", "x-c")


def test_the_model_does_not_guess_its_towers(folder: Path) -> None:
    with pytest.raises(SchemaError, match="no feature is tagged item"):
        sf.TwoTowerModel(schema_in(folder).fit(folder / "pairs.parquet"), sf.MLPBlock([3]))


def test_a_list_and_its_weights_are_on_one_side() -> None:
    words = sf.Feature(name="w", dtype="string", tags=["x-a"], vocabulary=["a"], list={"weights": "n"})  # type: ignore[arg-type]
    counts = {side: sf.Feature(name="n", dtype="float32", tags=[side, "weight"], list={}) for side in ("x-a", "x-b")}  # type: ignore[arg-type]
    assert sf.Schema((words, counts["x-a"])).column_names == ["w", "n"]
    with pytest.raises(SchemaError, match="no list tagged weight on the same side"):
        sf.Schema((words, counts["x-b"]))


def test_what_a_change_of_sides_means() -> None:
    def shop(*features: sf.Feature) -> sf.Schema:
        return sf.Schema(features)

    a, b, context = feature("a", "x-a", "id"), feature("b", "x-b", "id"), feature("c", "context")
    value = {tags: sf.Feature(name="v", dtype="float32", tags=tags) for tags in (("weight",), ("weight", "x-a"))}
    assert shop(a, b).diff(shop(a, b)).verdict == "compatible"
    assert "enters another tower" in str(shop(a, b).diff(shop(feature("a", "x-b", "id"), b)))
    assert "tells the items apart" in str(shop(a, b).diff(shop(feature("a", "x-a"), b)))
    moved = shop(a, b, context).diff(shop(context, a, b))
    assert moved.verdict == "breaks"
    assert "the x-a tower takes its features in the order c, a, was a, c" in str(moved)
    assert shop(a, value["weight",]).diff(shop(a, value["weight", "x-a"])).verdict == "compatible"


# -- side tables ------------------------------------------------------------------------------------------------------


def test_two_tables_of_one_file_are_joined_each_by_its_key(folder: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    # seen as seed or next: b and c three times... each side's values and the file's: a 3, b 5, c 5, d 2
    vocabulary = schema.vocabulary("film")
    assert vocabulary is not None
    assert vocabulary.to_pylist() == ["b", "c", "a", "d"]
    read = read_table(folder / "pairs.parquet", schema)
    assert read["seed"].tolist() == [5, 3, 5, 4]  # type: ignore[union-attr]
    assert read["next"].tolist() == [3, 4, 4, 3]  # type: ignore[union-attr]
    assert read["seed_kind"].tolist() == [3, 4, 3, 3]  # type: ignore[union-attr]  # war is 3, love 4
    assert read["next_kind"].tolist() == [4, 3, 3, 4]  # type: ignore[union-attr]
    assert read["next_price"].tolist() == [2.0, 4.0, 4.0, 2.0]  # type: ignore[union-attr]


def test_interactions_are_counted_for_each_side_alone(folder: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    counts = [schema.counts(schema[name]) for name in ("seed", "next")]
    assert [it.tolist() for it in counts if it is not None] == [[0, 0, 0, 1, 1, 2, 0], [0, 0, 0, 2, 2, 0, 0]]


@pytest.mark.parametrize("given_as", ["beside", "file", "twice", "table", "dict"])
def test_the_items_are_known_however_they_are_given(folder: Path, given_as: str) -> None:
    items: list[object] = {
        "beside": [], "file": [folder / "items.parquet"], "twice": [folder / "items.parquet"] * 2,
        "table": [pa.table(ITEMS)], "dict": [ITEMS],
    }[given_as]  # type: ignore[assignment]  # fmt: skip
    pairs = folder / "pairs.parquet" if given_as == "beside" else pa.table(PAIRS)
    schema = schema_in(folder).fit(pairs, *items)  # type: ignore[arg-type]
    vocabulary = schema.vocabulary("film")
    assert vocabulary is not None
    assert sorted(vocabulary.to_pylist()) == ["a", "b", "c", "d"]
    counts = schema.counts(schema["next"])
    assert counts is not None
    assert counts.sum() == 4


def test_a_table_of_items_is_read_as_the_side_that_is_asked_for(folder: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    for table in (folder / "items.parquet", ITEMS, pa.table(ITEMS)):
        source = as_side_table(table, schema, schema["next"])
        assert source.columns == ("next", "kind", "price")
        assert as_side_table(source, schema, schema["next"]) is source
        assert read_table(source, schema, names=["next", "next_price"])["next"].tolist() == [5, 3, 4, 6]  # type: ignore[union-attr]
    own = {"next": ["c"], "film": ["a"], "kind": ["war"]}
    assert as_side_table(own, schema, schema["next"]).columns == (
        "next",
        "film",
        "kind",
    )  # the pairs' own name comes first


@given(st.permutations(["film", "seed", "kind", "price"]), st.integers(0, 4))
def test_a_renamed_column_stands_for_itself(columns: list[str], rows: int) -> None:
    from schemaflow.schema.sources import open_source

    table = pa.table({name: [f"{name}{row}" for row in range(rows + 1)] for name in columns})
    source = open_source(table).renamed("film", "seed")  # in place of the column that is called so
    assert source.columns == tuple("seed" if it == "film" else it for it in columns if it != "seed")
    for pieces in (source.pieces(["kind", "seed"]), source.batches(["kind", "seed"])):
        read = pa.concat_tables([piece.table for piece in pieces])
        assert read.column_names == ["kind", "seed"]
        assert read["seed"].to_pylist() == table["film"].to_pylist()
        assert read["kind"].to_pylist() == table["kind"].to_pylist()


def test_training_ranking_and_serving_through_such_a_table(folder: Path, tmp_path: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    model = model_of(schema)
    model.compile(optimizer="adam")
    model.fit(folder / "pairs.parquet", verbose=0)
    vectors = model.candidate_embeddings(folder / "items.parquet")
    by_hand = {"next": ITEMS["film"], "kind": ITEMS["kind"], "price": np.array(ITEMS["price"], np.float32)}
    assert (vectors == model.candidate_embeddings(by_hand)).all()
    queries = {"seed": ["a", "c"], "kind": ["war", "war"], "device": ["tv", "tv"]}
    scores = model.query_embeddings(queries) @ vectors.T  # [2, 4]
    report = sf.evaluate(model, folder / "pairs.parquet", folder / "items.parquet", ks=(1,))
    wanted = np.array([1, 2, 2, 1])  # of the pairs a-b, b-c, a-c, c-b: the columns of b and c
    every = model.query_embeddings({**PAIRS, "kind": ["war", "love", "war", "war"]}) @ vectors.T
    assert report["hit_rate@1"] == pytest.approx(np.mean(every.argmax(axis=1) == wanted))
    assert report.protocol["queries"] == 3
    assert report.popularity["hit_rate@1"] == 0.0  # b and c are each the next of two: a tie, which counts as a miss
    recommender = model.export(tmp_path / "bundle", folder / "items.parquet", k=4)
    asked = {"seed": ["a", "c"], "seed_kind": ["war", "war"], "device": ["tv", "tv"]}
    answer = recommender.recommend(asked, k=4)
    order = np.argsort(-scores, axis=1)
    assert answer.identifiers == [[ITEMS["film"][it] for it in row] for row in order]
    assert answer.scores[0] == pytest.approx(scores[0, order[0]], rel=1e-5)


def test_a_model_of_such_sides_grows(folder: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    model = model_of(schema)
    more = {**{key: [*it, it[0]] for key, it in ITEMS.items()}, "film": [*ITEMS["film"], "e"]}
    pq.write_table(pa.table(more), folder / "items.parquet")
    grown = model.grow(schema.fit(folder / "pairs.parquet"), folder / "items.parquet")
    assert grown.schema.rows("film") == 8
    seeds, wider = (it.query_tower.encoder.encoders["seed"].table.embeddings.numpy() for it in (model, grown))
    assert (wider[:7] == seeds).all()
    assert (wider[7] != seeds[2]).any()  # what its side features say, and not the row of what is unknown


def test_the_check_finds_what_training_refuses(folder: Path) -> None:
    schema = schema_in(folder)
    found = schema.check(folder / "pairs.parquet")
    assert found.errors == ()
    assert found.summary["items"] == 2
    assert found.summary["tables"]["next"] == {"rows": 4, "without_interactions": 2}
    pq.write_table(pa.table({**PAIRS, "next": ["b", "zz", "c", None]}), folder / "pairs.parquet")
    found = schema.check(folder / "pairs.parquet")
    assert {(it.code, it.feature, it.row) for it in found.errors} == {
        ("missing-value", "next", 3),
        ("absent-id", "next", 1),
    }
    pq.write_table(pa.table({**PAIRS, "next": ["b", "zz", "c", "b"]}), folder / "pairs.parquet")
    with pytest.raises(DataError, match=r"items\.parquet has no row for next 'zz'"):
        read_table(folder / "pairs.parquet", schema.fit(pa.table(PAIRS), ITEMS))


def test_columns_of_one_file_that_nothing_reads_are_told_of_once(folder: Path) -> None:
    pq.write_table(pa.table({**ITEMS, "shelf": [1, 2, 3, 4]}), folder / "items.parquet")
    found = schema_in(folder).check(folder / "pairs.parquet")
    assert [(it.code, it.column) for it in found.warnings if it.code == "extra-column"] == [("extra-column", "shelf")]


def test_a_key_that_the_file_does_not_have(folder: Path) -> None:
    schema = schema_in(folder).fit(folder / "pairs.parquet")
    pq.write_table(pa.table({**ITEMS, "flim": ITEMS["film"]}).drop_columns(["film"]), folder / "items.parquet")
    for attempt in (
        lambda: schema.fit(folder / "pairs.parquet"),
        lambda: read_table(folder / "pairs.parquet", schema),
    ):
        with pytest.raises(DataError, match=r'the column "film" of feature "seed".* is missing; did you mean "flim"'):
            attempt()
    found = schema.check(folder / "pairs.parquet").errors
    assert {(it.code, it.feature) for it in found} >= {("missing-column", "seed"), ("missing-column", "next")}
    assert (
        'the column "film" of feature "seed", by which it is joined, is missing; did you mean "flim"'
        in found[0].message
    )


def test_a_table_says_what_its_column_was(folder: Path) -> None:
    pq.write_table(pa.table({**ITEMS, "film": [1, 2, 3, 4]}), folder / "items.parquet")
    schema = schema_in(folder).fit(pa.table(PAIRS))
    with pytest.raises(DataError, match=r"items.parquet, row group 0 \(film as seed\): .* expects string"):
        read_table(folder / "pairs.parquet", schema)


def test_another_column_of_the_key_is_no_break(folder: Path) -> None:
    schema = schema_in(folder)
    (folder / "other.yaml").write_text(YAML.replace("key: next, column: film", "key: next"), encoding="utf-8")
    other = sf.Schema.from_yaml(folder / "other.yaml")
    fitted = schema.fit(pa.table(PAIRS), ITEMS)
    diff = fitted.diff(sf.Schema(fitted.features, tables=other.tables, fitted=fitted.fitted))
    assert [(it.level, it.subject) for it in diff.changes] == [("compatible", 'side table "next"')]
    assert "has another column" in diff.changes[0].message


# -- explicit negatives -----------------------------------------------------------------------------------------------

USER, ITEM = feature("user", "user", "id"), feature("item", "item", "id")
ROWS = {"user": ["a", "b"], "item": ["a", "b"]}


def refused(name: str = "refused", dtype: str = "int8", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": ["explicit_negative"], **spec})


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_an_explicit_negative_is_read_as_it_stands(dtype: str) -> None:
    schema = sf.Schema((USER, ITEM, refused(dtype=dtype)))
    assert schema["refused"].kind == "value"
    assert sides_of(schema).explicit_negative is schema["refused"]
    assert sides_of(sf.Schema((USER, ITEM))).explicit_negative is None
    for values in (pa.array([True, False]), pa.array([1, 0], pa.int8())):
        assert read_table(pa.table({**ROWS, "refused": values}), schema)["refused"].tolist() == [1, 0]  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", ["string", "float32"])
def test_an_explicit_negative_is_an_integer(dtype: str) -> None:
    with pytest.raises(
        ValueError, match=f"explicit_negative but has dtype {dtype}; it is 0 or 1: use an integer dtype"
    ):
        refused(dtype=dtype)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"tags": ["explicit_negative", "weight"]}, "is tagged both weight and explicit_negative; keep one"),
        ({"list": {}}, "is a list but not categorical"),
        ({"cardinality": 2}, 'has "cardinality" but is kept out of the towers'),
        ({"missing": {"value": 0}}, 'has "missing" but is kept out of the towers'),
    ],
)
def test_an_explicit_negative_is_nothing_else(spec: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        refused(**spec)


def test_a_schema_has_one_explicit_negative() -> None:
    with pytest.raises(
        SchemaError, match='"refused" and "hidden" are both tagged explicit_negative; an interaction has one'
    ):
        sides_of(sf.Schema((USER, ITEM, refused(), refused("hidden"))))


@pytest.mark.parametrize(
    ("values", "row", "said"),
    [([0, 2], 1, "is 2, which is neither 0 nor 1"), ([-1, 0], 0, "is -1"), ([1, None], 1, "is missing")],
)
def test_an_explicit_negative_is_0_or_1(values: list[int | None], row: int, said: str) -> None:
    schema = sf.Schema((USER, ITEM, refused()))
    table = pa.table({**ROWS, "refused": pa.array(values, pa.int8())})
    with pytest.raises(DataError, match=rf'row {row}: feature "refused" {said}'):
        read_table(table, schema)
    (found,) = schema.check(table).errors
    assert (found.code, found.row) == ("missing-value" if None in values else "explicit-negative", row)


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_sessions_end_at_a_pause() -> None:
    user, time = np.array([2, 1, 2, 2, 1]), np.array([5, 0, 15, 26, 10])
    assert sessions_of(user, time, pause=10).tolist() == [1, 0, 1, 2, 0]
    assert pairs_within(np.array([1, 0, 1, 2, 0]), time, window=5)[0].tolist() == [1, 0]
    with pytest.raises(ConfigError, match="expected a time for each of 5 users"):
        sessions_of(user, time[:2], pause=10)
    with pytest.raises(ConfigError, match="window of at least 1; received 5 times, window 0"):
        pairs_within(user, time, window=0)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), max_size=12), st.integers(1, 4))
def test_pairs_are_those_that_a_loop_finds(rows: list[tuple[int, int]], window: int) -> None:
    session, time = (np.array([row[it] for row in rows], np.int64) for it in (0, 1))
    expected = set()
    for number in set(session.tolist()):
        order = sorted(np.flatnonzero(session == number), key=lambda row: time[row])
        expected |= {(i, j) for at, i in enumerate(order) for j in order[at + 1 : at + 1 + window]}
    first, second = pairs_within(session, time, window)
    assert len(first) == len(expected)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected


# -- what it is worth -------------------------------------------------------------------------------------------------


def test_a_model_of_two_item_towers_learns_what_follows_what(tmp_path: Path) -> None:
    """Films stand on a ring, and a session walks along it with steps of 1 or 2: popularity knows nothing of that."""
    films, rng = 20, np.random.default_rng(0)
    steps = rng.integers(1, 3, (200, 8))
    walks = (rng.integers(films, size=(200, 1)) + np.cumsum(steps, axis=1)) % films  # [sessions, length]
    session, time = np.repeat(np.arange(200), 8), np.tile(np.arange(8), 200)
    first, second = pairs_within(session, time, window=1)
    names = np.array([f"film {it:02d}" for it in range(films)])
    pairs = pa.table({"seed": names[walks.reshape(-1)[first]], "next": names[walks.reshape(-1)[second]]})
    items = pa.table({"film": names})
    cut = int(0.8 * len(first))
    learned_from, test = pairs.slice(0, cut), pairs.slice(cut)
    text = "\n".join(
        it for it in YAML.splitlines() if not it.startswith(("  seed_", "  next_", "  device", "  weight"))
    )
    schema = sf.Schema.from_config({"yaml": text, "fitted": {}}).fit(learned_from, items)
    keras.utils.set_random_seed(0)
    options = sf.EmbeddingOptions(embedding_dim_default=16)
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([16]), query_tower_tag="x-seed", item_tower_tag="x-next", embedding_options=options
    )
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    model.fit(learned_from, batch_size=128, epochs=5, verbose=0)
    report = sf.evaluate(model, test, items, ks=(2,))
    assert report["hit_rate@2"] > 0.95  # the two that may follow
    assert report.popularity["hit_rate@2"] < 0.2
    found = model.to_index(items, k=2)({"seed": np.array(["film 05"])})[1].numpy()
    assert set(found[0].astype(str)) == {"film 06", "film 07"}


def test_a_run_takes_its_towers_from_the_schema(folder: Path) -> None:
    (folder / "shop.yaml").write_text(YAML.replace("  weight:", "  # weight:"), encoding="utf-8")
    pq.write_table(pa.table({**PAIRS, "weight": [1.0] * 4}), folder / "interactions.parquet")
    config = sf.RunConfig.model_validate({
        "schema": str(folder / "shop.yaml"), "epochs": 1, "batch_size": 2, "evaluation": {"ks": [1]},
        "towers": {"query": {"dimensions": [3]}}, "split": {"test_fraction": 0.25},
    })  # fmt: skip
    run = train(config, data=folder)
    assert [it.name for it in run.model.sides.item] == ["next", "next_kind", "next_price"]
    assert run.report.protocol["candidates"] == 4
    assert run.report_unseen is None  # nobody is known to have seen anything
