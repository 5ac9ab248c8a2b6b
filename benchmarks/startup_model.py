"""How long `import schemaflow` and building the MovieLens-100k model take, beside `import tensorflow` alone.

    python benchmarks/startup_model.py        # the data in $SCHEMAFLOW_DATA/ml-100k or ../shared/data/ml-100k

Each side is a process of its own, and they are spawned by turns. What counts is the processor time, of all threads, from
the first statement to the last: it repeats itself on a busy machine too, and is the time that passes on an idle one. Ours
imports schemaflow, reads the fitted schema from its YAML and the Parquet files beside it, builds
`TwoTowerModel(schema, MLPBlock([128, 64]))` and compiles it. Learning the vocabularies is work on the data, done once before
the clock starts. TensorFlow imports Keras, and Keras pandas and pyarrow where they are installed: both sides pay that.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data import data_folder
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

ROOT = Path(__file__).parent.parent
LIMIT = 1.20
TENSORFLOW = "import tensorflow"
OURS = """
import schemaflow as sf
schema = sf.Schema.from_yaml(sys.argv[1])
model = sf.TwoTowerModel(schema, sf.MLPBlock([128, 64]))
model.compile(optimizer="adam")
"""


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Spawn both sides by turns."""
    films = data_folder("ml-100k")
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # a checkout, too, may have the bytecode that an installed library has
    with tempfile.TemporaryDirectory() as folder:
        schema = Path(folder) / "schema.yaml"
        fitted = sf.Schema.from_yaml(ROOT / "schemas" / "movielens_100k.yaml")
        fitted.fit(films / "interactions.parquet", films / "items.parquet").to_yaml(schema)
        sides = {"tensorflow": lambda: seconds(TENSORFLOW), "ours": lambda: seconds(OURS, schema)}
        compared(sides, 1)  # writes the bytecode, fills the disk's cache
        found = compared(sides, rounds)
    ratios = [ours / theirs for ours, theirs in zip(found["ours"], found["tensorflow"], strict=True)]
    medians = {name: statistics.median(times) for name, times in found.items()}
    detail = f"{medians['ours']:.2f} s of the processor against {medians['tensorflow']:.2f} s"
    return [Figure("import schemaflow, build the MovieLens model / import tensorflow", ratios, LIMIT, False, detail)]


def seconds(code: str, *arguments: object) -> float:
    """Return the processor time of some statements in a process of their own."""
    timed = f"import sys, time; began = time.process_time()\n{code}\nprint(time.process_time() - began)"
    command = [sys.executable, "-c", timed, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(report(measure()))
