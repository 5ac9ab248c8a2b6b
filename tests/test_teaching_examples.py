"""The examples of distillation and alignment, in their short form."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent


def run(example: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example, folder, "--short"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(find_spec("sklearn") is None, reason="the teacher is scikit-learn's")
def test_a_tree_teaches_the_towers(tmp_path: Path) -> None:
    shares = dict(line.split() for line in run("distillation.py", tmp_path).splitlines()[:3])
    assert float(shares["distilled"]) > float(shares["clicks"]) + 0.02


def test_the_frontier_of_beta(tmp_path: Path) -> None:
    table = run("alignment.py", tmp_path).splitlines()
    assert len(table) == 1 + 5
    rows = pq.read_table(tmp_path / "frontier.parquet").to_pylist()
    assert [(it["reward"], it["beta"]) for it in rows[1:]] == [
        ("true", 0.5),
        ("true", 2.0),
        ("fooled", 0.5),
        ("fooled", 2.0),
    ]
    assert rows[1]["distance"] > rows[2]["distance"] > 0  # the smaller beta goes further
    none, bold, _, fooled, cautious = (it["true_reward"] for it in rows)
    assert bold > none + 0.03
    assert bold > fooled + 0.02  # a reward model that errs costs something
    assert cautious > none + 0.02  # and less where the anchor holds
    assert (tmp_path / "frontier.png").exists() == (find_spec("matplotlib") is not None)
