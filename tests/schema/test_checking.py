"""What a check of data finds, and that training refuses the same."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.data.join import read_ids, read_table, refuse_repeated
from schemaflow.errors import SchemaFlowError
from schemaflow.schema.sides import sides_of
from tests.commands import Done, schemaflow

pytestmark = pytest.mark.short

SHOP = """
version: 1
tables: {users: {file: users.parquet, key: user}, items: {file: items.parquet, key: item}}
features:
  user: {dtype: string, tags: [user, id], vocabulary: learned, cardinality: 7}
  age: {dtype: int32, tags: [user, continuous], normalize: standard}
  country: {dtype: string, tags: [user, categorical], vocabulary: [DE, IT]}
  item: {dtype: int64, tags: [item, id], cardinality: 5, domain: items}
  words: {dtype: string, tags: [item, categorical], vocabulary: learned, list: {max_length: 3, weights: counts}}
  counts: {dtype: int32, tags: [item, weight], list: {}}
  price: {dtype: float32, tags: [item, continuous], normalize: log1p}
  picture: {dtype: float32, tags: [item, embedding], embedding: {dim: 2}}
  history: {dtype: int64, tags: [user, sequence], list: {max_length: 4}, domain: items}
  weight: {dtype: float32, tags: [weight]}
  rating: {dtype: float32, tags: [target, regression]}
  click: {dtype: int8, tags: [target, binary]}
  when: {dtype: int64, tags: [time]}
"""

Tables = dict[str, dict[str, Any]]


def tables() -> Tables:
    """Return three tables without a fault: interactions, users, items."""
    return {
        "interactions": {
            "user": ["u", "v", "u", "w"],
            "item": [1, 2, 3, 1],
            "history": [[2], [], [1, 2], [3]],
            "weight": [1.0, 0.5, 0.0, 2.0],
            "rating": [1.0, 4.0, 3.0, 5.0],
            "click": [True, False, False, True],
            "when": [10, 20, 30, 40],
        },
        "users": {"user": ["u", "v", "w"], "age": [20, 30, 40], "country": ["DE", "IT", "DE"]},
        "items": {
            "item": [1, 2, 3],
            "words": [["x", "y"], [], ["y"]],
            "counts": [[1, 2], [], [3]],
            "price": [1.0, 2.5, 0.0],
            "picture": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]],
        },
    }


def write(folder: Path, data: Tables) -> Path:
    for name, columns in data.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder / "interactions.parquet"


def shop(text: str = SHOP) -> sf.Schema:
    return sf.Schema.from_config({"yaml": text, "fitted": {}})


def train(schema: sf.Schema, interactions: Path) -> None:
    """Read all that training, evaluation and export read."""
    item_id = sides_of(schema).item_id
    fitted = schema.fit(interactions)
    read_table(interactions, fitted)
    for feature in fitted.select_by_tag("user_id"):
        read_ids(interactions, feature)
    items = next((table.file for table in schema.tables.values() if table.key == item_id.name), None)
    if items is not None and (catalogue := interactions.parent / items).exists():
        refuse_repeated(read_ids(catalogue, item_id), item_id, sf.schema.sources.open_source(catalogue))
        read_table(catalogue, fitted, names=[feature.name for feature in sides_of(fitted).item])


def refused(schema: sf.Schema, interactions: Path) -> str | None:
    try:
        train(schema, interactions)
    except SchemaFlowError as reason:
        return str(reason)
    return None


# each: what is done to which column (None takes it away), the code, the first row, how many
SPOILED: list[tuple[str, str, Any, str, int | None, int | None]] = [
    ("users", "age", None, "missing-column", None, None),
    ("items", "item", None, "missing-column", None, None),
    ("interactions", "item", None, "missing-column", None, None),
    ("users", "age", ["20", "30", "40"], "misfit", None, None),
    ("users", "age", [[1], [2], [3]], "misfit", None, None),
    ("items", "words", ["x", "y", "z"], "misfit", None, None),
    ("items", "words", [["x", "y"], [], ["x"] * 4], "misfit", None, None),
    ("interactions", "item", [1, 9, -1, 3], "outside-cardinality", 1, 2),
    ("interactions", "history", [[1], [2, 7], [], [8]], "outside-cardinality", 1, 2),
    ("users", "age", [20, None, 40], "missing-value", 1, 1),
    ("interactions", "user", ["u", None, "v", "w"], "missing-value", 1, 1),
    ("interactions", "item", [1, 2, None, 1], "missing-value", 2, 1),
    ("interactions", "rating", [1.0, 2.0, None, None], "missing-value", 2, 2),
    ("interactions", "when", [None, 1, 2, 3], "missing-value", 0, 1),
    ("users", "user", ["u", None, "w"], "missing-value", 1, 1),
    ("users", "age", [30, 30, 30], "constant-column", None, None),
    ("users", "age", pa.nulls(3, pa.int32()), "empty-column", None, None),
    ("users", "user", ["u", "v", "u"], "repeated-id", 0, 2),
    ("items", "item", [1, 2, 2], "repeated-id", 1, 2),
    ("interactions", "user", ["u", "v", "stranger", "w"], "absent-id", 2, 1),
    ("interactions", "item", [1, 2, 4, 4], "absent-id", 2, 2),
    ("items", "price", [1.0, -1.0, -7.0], "log1p", 1, 2),
    ("items", "price", [1.0, float("inf"), 2.0], "infinite", 1, 1),
    ("items", "price", [1.0, 2.0, None], "missing-value", 2, 1),
    ("interactions", "weight", [1.0, -0.5, 1.0, 1.0], "negative-weight", 1, 1),
    ("interactions", "click", [1, 0, 2, -1], "not-binary", 2, 2),
    ("interactions", "rating", [1.0, float("-inf"), 2.0, 1e300], "infinite", 1, 2),
    ("items", "picture", [[0.0, 1.0], [1.0], [0.5, 0.5]], "vector-width", 1, 1),
    ("items", "picture", [[0.0, 1.0], [1.0, float("inf")], [0.5, 0.5]], "infinite", 1, 1),
    ("items", "counts", [[1, 2], [1], [3]], "unequal-lists", 1, 1),
    ("items", "counts", [[1, 2], [], [-3]], "negative-weight", 2, 1),
    ("users", "user", ["u", "v", "w1"], "absent-id", 3, 1),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column", "values", "code", "row", "count"), SPOILED)
def test_spoiled_data_are_found_with_the_first_row_and_refused_in_training(
    tmp_path: Path, table: str, column: str, values: Any, code: str, row: int | None, count: int | None
) -> None:
    data = tables()
    data[table].pop(column)
    data[table] |= {} if values is None else {column: values}
    interactions = write(tmp_path, data)
    findings = shop().check(interactions)
    found = [it for it in findings.errors if it.code == code]
    assert len(found) == 1, findings.found
    assert (found[0].row, found[0].count) == (row, count)
    assert found[0].feature == {"unequal-lists": "words"}.get(code, column)
    assert "\n" not in found[0].message
    assert "interactions.parquet" in found[0].message or f"{table}.parquet" in found[0].message
    assert refused(shop(), interactions) is not None


def test_sound_data_give_no_finding_and_the_counts(tmp_path: Path) -> None:
    interactions = write(tmp_path, tables())
    findings = shop().check(interactions)
    assert findings.found == ()
    assert findings.summary == {
        "rows": 4,
        "users": 3,
        "items": 3,
        "tables": {"users": {"rows": 3, "without_interactions": 0}, "items": {"rows": 3, "without_interactions": 0}},
    }
    assert refused(shop(), interactions) is None


def codes(findings: sf.schema.findings.Findings, level: str = "warning") -> list[tuple[str, str | None, int | None]]:
    return [(it.code, it.feature, it.count) for it in findings.found if it.level == level]


def test_every_code_of_an_error_is_documented() -> None:
    for code in {code for _, _, _, code, _, _ in SPOILED}:
        assert code in str(sf.schema.findings.__doc__)


def test_warnings_leave_training_alone(tmp_path: Path) -> None:
    data = tables()
    data["users"] |= {"contry": ["DE"] * 3, "country": ["FR", "IT", "FR"]}
    data["interactions"] |= {"weight": [1.0] * 4, "age": pa.array([1, 2, 3, 4], pa.int32())}
    data["items"] |= {"rating": [1.0, 2.0, 3.0], "words": [["x", "x"], [], ["x"]]}
    interactions = write(tmp_path, data)
    findings = shop().check(interactions)
    assert codes(findings, "error") == []
    assert sorted((it.code, it.column, it.count, it.row) for it in findings.warnings) == [
        ("constant-column", "weight", None, None),
        ("constant-column", "words", None, None),
        ("extra-column", "contry", None, None),
        ("extra-column", "rating", None, None),
        ("out-of-vocabulary", "country", 2, 0),
    ]
    unknown = next(it for it in findings.warnings if it.code == "out-of-vocabulary")
    assert unknown.share == 2 / 3
    assert unknown.message == (
        f"{tmp_path}/users.parquet, row group 0, row 0: feature \"country\" is 'FR', which is not in the vocabulary,"
        " and shares a row with all that is not; add it there or correct the data (2 of 3 values)"
    )
    elsewhere = next(it for it in findings.warnings if it.column == "rating")
    assert elsewhere.message.endswith(f"is not read: it is read from {interactions}")
    assert refused(shop(), interactions) is None


def test_a_column_under_another_name_is_hinted_at_from_both_ends(tmp_path: Path) -> None:
    data = tables()
    data["users"]["contry"] = data["users"].pop("country")
    findings = shop().check(write(tmp_path, data))
    assert [it.code for it in findings.found] == ["missing-column", "extra-column"]
    assert 'column "country" of feature "country" is missing; did you mean "contry"?' in findings.found[0].message
    assert findings.found[1].message.endswith('"contry" is read by no feature; did you mean "country"?')


def test_values_are_counted_over_row_groups_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sf.schema.sources, "PIECE_ROWS", 2)
    data = tables()
    (tmp_path / "interactions.parquet").mkdir()
    for part, rating in (("a", [1.0, 2.0, 3.0, None]), ("b", [None, None, 1.0, 2.0])):
        table = pa.table(data["interactions"] | {"rating": rating})
        pq.write_table(table, tmp_path / "interactions.parquet" / f"{part}.parquet", row_group_size=2)
    for name in ("users", "items"):
        pq.write_table(pa.table(data[name]), tmp_path / f"{name}.parquet")
    findings = shop().check(tmp_path / "interactions.parquet", tables=tmp_path)
    (missing,) = findings.found
    assert (missing.row, missing.count, missing.total) == (3, 3, 8)
    assert "a.parquet, row group 1, row 3" in missing.message
    assert findings.summary["rows"] == 8


def test_distinct_values_are_held_against_the_cardinality(tmp_path: Path) -> None:
    data = tables()
    data["users"] = {
        "user": ["u", "v", "w", "x", "y"],
        "age": [20, 30, 40, 50, 60],
        "country": ["DE", "IT", "DE", "IT", "DE"],
    }
    interactions = write(tmp_path, data)
    findings = shop().check(interactions)  # three users and two who did nothing: 5 + 3 rows of 7
    assert codes(findings, "error") == [("cardinality", "user", None)]
    assert "has 5 distinct values and needs 8 rows" in findings.errors[0].message
    assert f"{tmp_path}/users.parquet" in findings.errors[0].message
    assert findings.summary["tables"]["users"] == {"rows": 5, "without_interactions": 2}
    assert refused(shop(), interactions) is not None


def test_tables_that_nothing_is_read_from_give_warnings(tmp_path: Path) -> None:
    text = "\n".join(line for line in SHOP.splitlines() if "  age" not in line and "  country" not in line)
    data = tables()
    data["users"]["user"] = ["u", "u", None]
    interactions = write(tmp_path, data)
    findings = shop(text).check(interactions)
    assert codes(findings, "error") == []
    assert ("repeated-id", "user", 2) in codes(findings)
    assert ("absent-id", "user", 2) in codes(findings)  # v and w
    assert refused(shop(text), interactions) is None
    (tmp_path / "users.parquet").unlink()
    assert [it.code for it in shop(text).check(interactions).found] == ["missing-table"]
    assert refused(shop(text), interactions) is None


@pytest.mark.parametrize(
    ("spoil", "code", "text"),
    [
        (lambda folder: (folder / "users.parquet").unlink(), "missing-table", 'table "users": there is no'),
        (lambda folder: (folder / "items.parquet").write_bytes(b"PAR1"), "unreadable", "not a readable Parquet file"),
        (lambda folder: (folder / "interactions.parquet").unlink(), "unreadable", "there is no such file"),
        (
            lambda folder: pq.write_table(pa.table({"user": pa.array([], pa.string())}), folder / "users.parquet"),
            "unreadable",
            "holds no rows",
        ),
    ],
)
def test_files_that_are_not_there_or_not_readable(tmp_path: Path, spoil: Any, code: str, text: str) -> None:
    interactions = write(tmp_path, tables())
    spoil(tmp_path)
    findings = shop().check(interactions)
    assert [it.code for it in findings.found] == [code]
    assert text in findings.errors[0].message
    assert refused(shop(), interactions) is not None


def test_a_damaged_row_group_is_found_while_reading(tmp_path: Path) -> None:
    interactions = write(tmp_path, tables())
    content = bytearray(interactions.read_bytes())
    content[4:200] = bytes(196)  # pages of the first columns; the footer stands
    interactions.write_bytes(bytes(content))
    assert [it.code for it in shop().check(interactions).errors] == ["unreadable"]
    assert refused(shop(), interactions) is not None


def test_towers_that_cannot_be_are_errors_too(tmp_path: Path) -> None:
    interactions = write(tmp_path, tables())
    text = SHOP + "  other: {dtype: string, tags: [user, id], vocabulary: learned, column: user}\n"
    assert [(it.code, it.message) for it in shop(text).check(interactions).errors] == [
        ("sides", 'features "user" and "other" are both tagged user and id; leave it to the one that tells users apart')
    ]
    nothing = SHOP.replace("dtype: int64, tags: [item, id]", "dtype: int64, tags: [item, categorical]")
    loose = sf.Schema.from_config(
        {"yaml": nothing.replace(", items: {file: items.parquet, key: item}", ""), "fitted": {}}
    )
    assert "sides" in [it.code for it in loose.check(interactions).errors]


def test_a_domain_whose_features_share_hardly_a_value(tmp_path: Path) -> None:
    text = SHOP.replace("cardinality: 5, domain: items", "vocabulary: learned, domain: items")
    data = tables()
    data["interactions"]["history"] = [[100 + row, 200 + row] for row in range(4)]
    findings = shop(text).check(write(tmp_path, data))
    assert [(it.code, it.feature, it.count, it.total) for it in findings.found] == [("domain", "history", 8, 8)]
    data["interactions"]["history"] = [[1, 200 + row] for row in range(4)]  # one of five
    assert shop(text).check(write(tmp_path, data)).found == ()


def test_vocabularies_of_files_and_vectors_from_elsewhere(tmp_path: Path) -> None:
    text = SHOP.replace("vocabulary: [DE, IT]", "vocabulary: {file: countries.txt}").replace(
        "cardinality: 5, domain: items",
        "cardinality: 5, domain: items, embedding: {pretrained: {file: v.parquet, key: id, vector: v}}",
    )
    interactions = write(tmp_path, tables())
    assert [it.code for it in shop(text).check(interactions).errors] == ["vocabulary", "pretrained"]
    (tmp_path / "countries.txt").write_text("DE\n")
    pq.write_table(pa.table({"id": [9], "v": [[1.0, 2.0]]}), tmp_path / "v.parquet")
    findings = shop(text).check(interactions)
    assert codes(findings, "error") == [("pretrained", "item", None)]
    assert codes(findings) == [("out-of-vocabulary", "country", 1)]
    assert refused(shop(text), interactions) is not None
    pq.write_table(pa.table({"id": [1], "v": [[1.0, 2.0]]}), tmp_path / "v.parquet")
    assert shop(text).check(interactions).errors == ()
    assert refused(shop(text), interactions) is None


def test_a_fitted_schema_says_what_a_trained_model_does_not_know(tmp_path: Path) -> None:
    text = (
        SHOP.replace(", cardinality: 7", "")
        + "  fresh: {dtype: int64, tags: [context], column: when, time: {take: age}, normalize: standard}\n"
    )
    data = tables()
    interactions = write(tmp_path, data)
    fitted = shop(text).fit(interactions)
    assert fitted.check(interactions).found == ()
    data["interactions"] |= {"user": ["u", "new", "new", "w"], "when": [10, 20, 30, 40 + 3 * 86_400]}
    data["users"]["user"] = ["u", "w", "new"]
    write(tmp_path, data)
    findings = fitted.check(interactions)
    assert codes(findings) == [("out-of-vocabulary", "user", 2)]
    assert refused(fitted, interactions) is None


def test_tables_in_memory_are_checked_with_a_folder_for_the_others(tmp_path: Path) -> None:
    data = tables()
    write(tmp_path, data)
    assert shop().check(data["interactions"], tables=tmp_path).found == ()
    assert [it.code for it in shop().check(data["interactions"]).errors] == ["missing-table", "missing-table"]


def column(good: list[Any], bad: list[Any]) -> st.SearchStrategy[Any]:
    """Values of which one in about eight is bad."""
    return st.sampled_from(good * (1 + 7 * len(bad) // len(good)) + bad)


NAN, INF = float("nan"), float("inf")
CELLS: dict[str, dict[str, tuple[st.SearchStrategy[Any], pa.DataType]]] = {
    "interactions": {
        "user": (column(["u", "v"], ["w", None, ""]), pa.string()),
        "item": (column([1, 2, 3], [4, -1, None]), pa.int64()),
        "history": (st.lists(column([1, 2], [9, None, -5]), max_size=3), pa.list_(pa.int64())),
        "weight": (column([1.0, 0.0], [-1.0, INF, None, NAN, 1e300]), pa.float64()),
        "rating": (column([1.0, 2.0], [INF, None]), pa.float64()),
        "when": (column([10**6, 99], [None, -(10**9)]), pa.int64()),
    },
    "users": {
        "age": (column([20, 30, 40], [None, -1]), pa.int32()),
        "income": (column([0.5, 1.5, 3.0], [None, INF, 1e300]), pa.float64()),
        "country": (column(["DE", "IT"], ["XX", None]), pa.string()),
    },
    "items": {
        "words": (st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=1), pa.list_(pa.string())),
        "counts": (column([[1]], [[], [-1], [1, 2], None]), pa.list_(pa.int32())),
        "price": (column([1.0, 2.0], [None, INF, -1.0, 1e300]), pa.float64()),
        "picture": (column([[0.0, 1.0]], [None, [1.0], [INF, 0.0]]), pa.list_(pa.float32())),
    },
}


@st.composite
def shops(draw: st.DrawFn) -> tuple[str, dict[str, pa.Table]]:
    """Draw a schema and tables, each cell of which may be spoiled."""
    item = draw(st.sampled_from(["cardinality: 5", "vocabulary: learned", "vocabulary: [1, 2, 3]", "hash: 9"]))
    age = draw(st.sampled_from(["", ", normalize: standard", ", normalize: min-max", ", normalize: log1p"]))
    age += draw(st.sampled_from(["", ", missing: mean", ", missing: error", ", missing: {value: 3}"]))
    text = SHOP.replace(", cardinality: 7", "").replace("cardinality: 5", item).replace(", normalize: standard", age)
    buckets = draw(st.sampled_from(["[1, 2]", "{quantiles: 3}"]))
    text += f"  income: {{dtype: float64, tags: [user, continuous], buckets: {buckets}}}\n"
    text += f"  fresh: {{dtype: int64, tags: [context], column: when, time: {{take: age}}{draw(st.sampled_from(['', ', missing: mean']))}}}\n"
    ids = {
        "users": {"user": pa.array(draw(column([["u", "v"]], [["u"], ["u", "v", "u"], ["v", None]])), pa.string())},
        "items": {"item": pa.array(draw(column([[1, 2, 3]], [[1, 2], [1, 2, 2], [3, 2, 1, None]])), pa.int64())},
    }
    data: dict[str, dict[str, pa.Array]] = {}
    for name, cells in CELLS.items():
        rows = draw(st.integers(1, 4)) if name == "interactions" else len(next(iter(ids[name].values())))
        clean = draw(st.booleans())  # many tables without a fault, or nearly all would be refused
        drawn = {it: draw(st.lists(values, min_size=rows, max_size=rows)) for it, (values, _) in cells.items()}
        if clean:
            drawn = {it: (tables()[name].get(it, [1.0, 2.0, 3.0] * 2) * 4)[:rows] for it in cells}
        data[name] = {**ids.get(name, {}), **{it: pa.array(drawn[it], kind) for it, (_, kind) in cells.items()}}
    if clean and draw(st.booleans()):
        data["items"].pop(draw(st.sampled_from(sorted(data["items"]))))
    return text, {name: pa.table(columns) for name, columns in data.items()}


@settings(max_examples=150)
@given(shops())
def test_a_check_has_errors_exactly_where_training_refuses(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, dict[str, pa.Table]]
) -> None:
    folder = tmp_path_factory.mktemp("shop")
    for name, table in drawn[1].items():
        pq.write_table(table, folder / f"{name}.parquet")
    reason = refused(shop(drawn[0]), folder / "interactions.parquet")
    findings = shop(drawn[0]).check(folder / "interactions.parquet")
    assert bool(findings.errors) == (reason is not None), (reason, findings.found)


# -- the command ---------------------------------------------------------------------------------------------------


def validate(*arguments: object) -> Done:
    return schemaflow("validate", *arguments)


def test_the_command_tells_errors_from_warnings(tmp_path: Path) -> None:
    data = tables()
    (tmp_path / "shop.yaml").write_text(SHOP)
    interactions = write(tmp_path, data)
    sound = validate(tmp_path / "shop.yaml", "--data", tmp_path)
    assert (sound.returncode, sound.stderr) == (0, "")
    assert sound.stdout.splitlines()[1:] == [
        "4 interactions, 3 users, 3 items, 3 rows in users, 3 rows in items",
        "0 errors, 0 warnings",
    ]
    data["interactions"]["extra"] = [1, 2, 3, 4]
    write(tmp_path, data)
    warned = validate(tmp_path / "shop.yaml", "--data", interactions)  # the file itself will do
    assert (warned.returncode, warned.stderr) == (0, "")
    assert warned.stdout.startswith(f'warning: {interactions}: the column "extra"')
    data["interactions"]["item"] = [1, 2, 3, 77]
    write(tmp_path, data)
    wrong = validate(tmp_path / "shop.yaml", "--data", tmp_path)
    assert wrong.returncode == 1
    assert [line.split(":")[0] for line in wrong.stderr.splitlines()] == ["error", "error"]  # outside, and absent
    assert 'row 3: feature "item" is 77, which is outside 0 <= id < 5' in wrong.stderr
    assert "2 errors, 1 warnings" in wrong.stdout


def test_the_command_speaks_json_with_data_and_without(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(SHOP)
    alone = validate(file, "--json")
    assert alone.returncode == 0
    assert json.loads(alone.stdout) == {
        "file": str(file),
        "errors": [],
        "warnings": [],
        "summary": {"features": 13, "query": 4, "item": 5},
    }
    data = tables()
    data["interactions"]["item"] = [1, 2, 3, None]
    write(tmp_path, data)
    wrong = validate(file, "--json", "--data", tmp_path)
    assert (wrong.returncode, wrong.stderr) == (1, "")
    (error,) = json.loads(wrong.stdout)["errors"]
    assert (error["code"], error["row"], error["count"], error["share"]) == ("missing-value", 3, 1, 0.25)
    nowhere = validate(file, "--json", "--data", tmp_path / "nowhere")
    assert nowhere.returncode == 1
    assert json.loads(nowhere.stdout)["errors"][0]["code"] == "missing-table"
    file.write_text(SHOP.replace("dtype: int32, tags: [user", "dtype: int33, tags: [usr"))
    broken = validate(file, "--json")
    assert broken.returncode == 1
    assert [it["code"] for it in json.loads(broken.stdout)["errors"]] == ["schema", "schema"]


def test_the_real_data_have_no_error(real_data: Path) -> None:
    schema = sf.Schema.from_yaml("schemas/movielens_100k.yaml")
    findings = schema.check(real_data / "ml-100k" / "interactions.parquet")
    assert findings.errors == ()
    assert {it.column for it in findings.warnings} == {"bucketized_age", "release_date", "imdb_url"}
    assert [findings.summary[word] for word in ("rows", "users", "items")] == [100_000, 943, 1682]
