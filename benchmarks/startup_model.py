"""What `import schemaflow` and building the MovieLens-100k model cost over `import tensorflow` alone.

    python benchmarks/startup_model.py        # the data in $SCHEMAFLOW_DATA/ml-100k or ../shared/data/ml-100k

Each round is a process of its own that first imports TensorFlow, then imports schemaflow, reads the fitted schema from its
YAML and the Parquet files beside it, builds `TwoTowerModel(schema, MLPBlock([128, 64]))` and compiles it. The ratio is that of
all this to TensorFlow alone, both from the same process, in processor time of all threads, which is the time that passes on
an idle machine. Learning the vocabularies is work on the data, done once before. TensorFlow imports Keras, and Keras pandas
and pyarrow where they are installed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from data import data_folder
from figures import ROUNDS, Figure, report

import schemaflow as sf

ROOT = Path(__file__).parent.parent
LIMIT = 1.20
START = """
import json, sys, time
began = time.process_time()
import tensorflow
imported = time.process_time()
import schemaflow as sf
schema = sf.Schema.from_yaml(sys.argv[1])
model = sf.TwoTowerModel(schema, sf.MLPBlock([128, 64]))
model.compile(optimizer="adam")
print(json.dumps([imported - began, time.process_time() - began]))
"""


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Start that often."""
    films = data_folder("ml-100k")
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # a checkout, too, may have the bytecode that an installed library has
    with tempfile.TemporaryDirectory() as folder:
        schema = Path(folder) / "schema.yaml"
        fitted = sf.Schema.from_yaml(ROOT / "schemas" / "movielens_100k.yaml")
        fitted.fit(films / "interactions.parquet", films / "items.parquet").to_yaml(schema)
        start(schema)  # writes the bytecode, fills the disk's cache
        found = [start(schema) for _ in range(rounds)]
    alone, whole = (statistics.median(times) for times in zip(*found, strict=True))
    detail = f"{whole:.2f} s of the processor, {alone:.2f} s of it TensorFlow"
    ratios = [both / tensorflow for tensorflow, both in found]
    return [Figure("import schemaflow, build the MovieLens model / import tensorflow", ratios, LIMIT, False, detail)]


def start(schema: Path) -> tuple[float, float]:
    """Return the seconds until TensorFlow is imported, and until a model is built."""
    command = [sys.executable, "-c", START, str(schema)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    tensorflow, whole = json.loads(done.stdout.splitlines()[-1])
    return tensorflow, whole


if __name__ == "__main__":
    sys.exit(report(measure()))
