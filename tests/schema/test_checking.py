"""What a check of data finds, and that training refuses the same."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow.data.join import read_ids, read_table, refuse_repeated
from schemaflow.errors import SchemaFlowError
from schemaflow.schema.sides import sides_of

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
    ("interactions", "rating", [1.0, float("-inf"), 2.0, 1e300], "infinite", 1, 2),
    ("items", "picture", [[0.0, 1.0], [1.0], [0.5, 0.5]], "vector-width", 1, 1),
    ("items", "picture", [[0.0, 1.0], [1.0, float("inf")], [0.5, 0.5]], "infinite", 1, 1),
    ("items", "counts", [[1, 2], [1], [3]], "unequal-weights", 1, 1),
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
    assert found[0].feature == {"unequal-weights": "words"}.get(code, column)
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
