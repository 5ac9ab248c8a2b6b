"""The README is true: its example prints what it says, its schema is one, its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import schemaflow as sf
from schemaflow.schema.sides import sides_of

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(after: str) -> str:
    found = re.search(rf"{re.escape(after)}\n```\w*\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block after {after}"
    return found.group(1)


def test_the_example_prints_what_the_readme_says(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block("<!-- example -->")], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, printed = block("<!-- output -->"), done.stdout
    # the weights are not seeded, so numbers are near and ids are some
    numbers = re.compile(r"\d+\.\d+")
    shape = re.compile(r"i\d{5}|-?\d+\.\d+")
    assert shape.sub("*", printed) == shape.sub("*", said)
    for left, right in zip(numbers.findall(printed)[:2], numbers.findall(said)[:2], strict=True):
        assert float(left) == pytest.approx(float(right), abs=0.03)


def test_the_training_of_the_readme_runs(data: sf.datasets.DataFolder, schema: sf.Schema) -> None:
    names = {"sf": sf, "schema": schema, "data": data, "train": data.interactions}
    exec(block("<!-- training -->"), names)
    model = names["model"]
    model.compile(optimizer="adam")  # type: ignore[attr-defined]
    shown = model.fit(data.interactions, validation_data=data.interactions, verbose=0)  # type: ignore[attr-defined]
    assert shown.history["val_factorized_top_k/hit_rate@10"][0] > 0


def test_the_systems_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"sf": sf}
    exec(block("<!-- systems -->"), names)
    model, world = names["model"], names["world"]
    model.compile(optimizer="adam")  # type: ignore[attr-defined]
    shown = model.fit(world.interactions, batch_size=512, verbose=0).history  # type: ignore[attr-defined]
    metrics = {"retrieval/loss", "distillation/agreement", "light_ranker/click/auc", "position/loss", "user/loss"}
    assert metrics <= set(shown)
    recommender = model.export("bundle", world.items)  # type: ignore[attr-defined]
    user = {"user_id": ["u00007"], "user_factors": [[0.0] * 8], "history": [["i00001", "i00002"]]}
    assert len(recommender.recommend(user, k=5, exclude=["i00003"]).identifiers[0]) == 5


def test_the_run_of_the_systems_is_one(tmp_path: Path) -> None:
    (tmp_path / "feed.run.yaml").write_text(block("<!-- run of systems -->"), encoding="utf-8")
    config = sf.RunConfig.from_yaml(tmp_path / "feed.run.yaml")
    schema = sf.Schema.from_yaml(Path(__file__).parent.parent / config.schema_path)
    assert config.select(schema) == schema
    assert [it.kind for it in config.towers.debiasing] == ["position", "user"]


def test_the_serving_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(block("<!-- serving -->"), names)
    recommender, (row,) = names["recommender"], names["found"].identifiers  # type: ignore[attr-defined]
    items = recommender.describe(row)  # type: ignore[attr-defined]
    assert len(row) == 5
    assert "i00001" not in row
    assert all(item["price"] < 20 for item in items)


def test_the_schema_is_one(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(block("## The schema\n"), encoding="utf-8")
    assert len(sides_of(sf.Schema.from_yaml(tmp_path / "shop.yaml")).query) == 5


def test_the_commands_exist() -> None:
    from typer.main import get_command

    from schemaflow.cli.app import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^schemaflow ([\w-]+)", block("## From a shell\n"), re.MULTILINE))
    assert named <= commands
    assert commands - named == {"demo"}  # which is the first command of all
    assert "schemaflow demo" in README
