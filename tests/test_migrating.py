"""examples/migrating.md is true: all that is ours in it is run, from top to bottom."""

import ast
import re
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf

GUIDE = Path(__file__).parent.parent / "examples" / "migrating.md"
TEXT = GUIDE.read_text(encoding="utf-8")

BLOCK = re.compile(r"<!-- (?P<mark>[\w.]+) -->\n```\w+\n(?P<code>.*?)```", re.DOTALL)
ROW = re.compile(r"^\|(?P<row>.*)\|$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")


def tables() -> dict[str, list[tuple[int, list[str]]]]:
    """The rows of each table by its first heading: the line where each stands, and its cells."""
    found: dict[str, list[tuple[int, list[str]]]] = {}
    end, current = None, []
    for match in ROW.finditer(TEXT):
        cells = [cell.strip() for cell in match["row"].split("|")]
        if match.start() != end:
            current = found.setdefault(cells[0], [])
        elif set(cells[0]) != {"-"}:
            current.append((match.start(), cells))
        end = match.end() + 1
    return found


def ours(mark: str = "ours") -> str:
    """Our code as a file of as many lines as the guide, each in its own place: an error in it names the guide's line."""
    pieces = {match.start("code"): match["code"] for match in BLOCK.finditer(TEXT) if match["mark"] == mark}
    if mark == "ours":
        cells = [row for heading, rows in tables().items() if heading != "Theirs" for row in rows]
        pieces |= {place: CODE.findall(row[1])[0] for place, row in cells}
    assert pieces
    lines = [""] * TEXT.count("\n")
    for place, piece in pieces.items():
        first = TEXT.count("\n", 0, place)
        lines[first : first + piece.count("\n") + 1] = piece.split("\n")
    return "\n".join(lines)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the files that the guide speaks of, to be in."""
    data = sf.datasets.synthetic(tmp_path, users=60, items=120, interactions=1200, seed=3)
    rng = np.random.default_rng(0)
    events = pq.read_table(data.interactions)
    events = events.append_column("rating", pa.array(rng.integers(1, 6, len(events)), pa.float32()))
    events = events.append_column("click", pa.array(rng.integers(0, 2, len(events)), pa.int32()))
    events = events.append_column("amount", pa.array(rng.uniform(1, 9, len(events)), pa.float32()))
    ratings = events.select(["user_id", "item_id", "rating"]).rename_columns(["user_id", "movie_title", "rating"])
    written = {
        "train": events.slice(0, 900),
        "valid": events.slice(900),
        "ratings_train": ratings.slice(0, 900),
        "ratings_test": ratings.slice(900),
        "movies": pq.read_table(data.items).select(["item_id"]).rename_columns(["movie_title"]),
    }
    for name, table in written.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for match in BLOCK.finditer(TEXT):
        if match["mark"].endswith(".yaml"):
            (tmp_path / match["mark"]).write_text(match["code"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_all_that_is_ours_runs(shop: Path) -> None:
    (shop / "guide.py").write_text(ours(), encoding="utf-8")
    names = runpy.run_path("guide.py")
    # what the guide says of the two: the bundle and the index know the same titles, raw
    assert {it for row in names["found"] for it in row} <= set(names["titles"])
    assert names["report"].protocol["candidates"] == len(names["titles"]) == 120


def test_the_snippet_on_merlin_runs(shop: Path) -> None:
    if sys.version_info >= (3, 12):
        pytest.skip("merlin-core does not import on Python 3.12 and later")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import merlin.schema.io.tensorflow_metadata  # noqa: F401  the import of Merlin warns, ours must not
    (shop / "guide.py").write_text(ours("merlin"), encoding="utf-8")
    runpy.run_path("guide.py", {"sf": sf, "np": np})


@pytest.mark.parametrize("line", [CODE.findall(cells[1])[0] for _, cells in tables()["Theirs"]])
def test_the_lines_of_the_schema_are_some(line: str) -> None:
    """Each is a feature; the shop's schema with the line in it is one."""
    schema = sf.Schema.from_config({"fitted": {}, "yaml": f"version: 1\nfeatures:\n  {line}\n"})
    assert schema.column_names == [line.partition(":")[0]]


def test_each_row_has_both_sides_and_each_table_rows() -> None:
    found = tables()
    assert len(ROW.findall(TEXT)) == sum(line.startswith("|") for line in TEXT.splitlines())
    assert {name: len(rows) > 3 for name, rows in found.items()} == dict.fromkeys(
        ["Merlin", "TFRS", "keras-rs", "Theirs"], True
    )
    for name, rows in found.items():
        for _, cells in rows:
            assert len(cells) == (2 if name == "Theirs" else 3), cells
            assert CODE.search(cells[0]) or name == "Theirs", cells
            assert len(CODE.findall(cells[1])) == 1, cells
            if name != "Theirs":
                for code in CODE.findall(cells[0]):
                    ast.parse(code)


def test_what_is_not_run_is_theirs() -> None:
    marked = {match["code"] for match in BLOCK.finditer(TEXT)}
    rest = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if code not in marked]
    assert [re.findall(r"import merlin|import tensorflow_recommenders", code) for code in rest] == [
        ["import merlin"],
        ["import tensorflow_recommenders"],
    ]
    for code in rest:
        ast.parse(code)


def test_the_public_names_are_in_the_guide() -> None:
    used = set(re.findall(r"\bsf\.(\w+)", TEXT))
    ours_alone = {  # the systems of one model, which neither has
        "DistillationTask", "LightRanker", "MixtureOfLogits", "PositionDebiasing", "RewardAlignmentTask", "Scorer",
        "UserDebiasing", "UserHistoryEncoder", "expand_sequences", "histories",
    }  # fmt: skip
    assert set(sf.__all__) - used == ours_alone | {"Feature", "L2Norm", "Report", "RunConfig", "SchemaFlowError"}
    assert used <= set(sf.__all__)


def test_adagrad_on_the_mean_makes_the_steps_that_it_makes_on_the_sum() -> None:
    """What the guide says to write for TFRS's Adagrad(0.1), against its loss written out; and what happens if one does not."""
    rows = 256
    rng = np.random.default_rng(0)
    query, candidate = rng.normal(size=(2, rows, 4)).astype(np.float32)

    def summed(q: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        scores = tf.matmul(q, c, transpose_b=True)  # [rows, rows]
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.range(rows), scores))

    def moved(loss: Any, **options: float) -> Any:
        pair = [tf.Variable(query), tf.Variable(candidate)]
        optimizer = keras.optimizers.Adagrad(0.1, **options)
        for _ in range(3):
            with tf.GradientTape() as tape:
                value = loss(*pair)
            optimizer.apply_gradients(zip(tape.gradient(value, pair), pair, strict=True))
        return pair[0].numpy() - query

    theirs = moved(summed)
    scaled = moved(sf.RetrievalTask(), initial_accumulator_value=0.1 / rows**2, epsilon=1e-7 / rows**2)
    np.testing.assert_allclose(scaled, theirs, rtol=1e-3, atol=1e-5)
    assert np.abs(moved(sf.RetrievalTask())).mean() < 0.03 * np.abs(theirs).mean()
