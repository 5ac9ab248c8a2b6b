"""How long `schemaflow --help` and `schemaflow validate` take to start, beside importing pydantic and PyYAML alone.

    python benchmarks/startup.py

Each is spawned by turns, so that a busy moment of the machine meets all alike. Exits with 1 when the median of a command is
more than three times that of the imports.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from figures import ROUNDS, Figure, compared, report

RUNS, LIMIT, FEATURES = 10, 3.0, 200
IMPORTS = "import pydantic, yaml"
SPECS = (
    "{{dtype: string, tags: [{side}, categorical], vocabulary: learned, embedding: {{dim: 16}}}}",
    "{{dtype: float32, tags: [{side}, continuous], normalize: standard}}",
    "{{dtype: string, tags: [{side}, categorical], cardinality: 22, list: {{max_length: 6}}}}",
    "{{dtype: int32, tags: [{side}, categorical], cardinality: 74, column: column of {side}}}",
)


def schema_text() -> str:
    """Return a schema of 200 features of all kinds, half of users and half of items."""
    lines = ["version: 1", "features:"]
    for side in ("user", "item"):
        lines.append(f"  {side}_id: {{dtype: string, tags: [{side}, id], vocabulary: learned}}")
        for number in range(FEATURES // 2 - 1):
            lines.append(f"  {side}_{number}: {SPECS[number % len(SPECS)].format(side=side)}")
    return "\n".join(lines) + "\n"


def seconds(command: list[str]) -> float:
    """Return how long a process runs that must succeed."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Spawn the imports and the commands by turns."""
    os.environ.pop(
        "PYTHONDONTWRITEBYTECODE", None
    )  # a checkout, too, may have the bytecode that an installed library has
    with tempfile.TemporaryDirectory() as folder:
        schema = Path(folder) / "schema.yaml"
        schema.write_text(schema_text(), encoding="utf-8")
        start = [sys.executable, "-c", "from schemaflow.cli.app import main; main()"]  # what the console script does
        commands = {
            IMPORTS: [sys.executable, "-c", IMPORTS],
            "schemaflow --help": [*start, "--help"],
            f"schemaflow validate, {FEATURES} features": [*start, "validate", str(schema)],
        }
        sides = {name: partial(seconds, command) for name, command in commands.items()}
        compared(sides, 1)  # writes the bytecode, fills the disk's cache
        found = compared(sides, rounds)
    base = found.pop(IMPORTS)
    return [
        Figure(
            f"{name} / {IMPORTS}",
            [own / alone for own, alone in zip(times, base, strict=True)],
            LIMIT,
            at_least=False,
            detail=f"{1000 * statistics.median(times):.0f} ms against {1000 * statistics.median(base):.0f} ms",
        )
        for name, times in found.items()
    ]


if __name__ == "__main__":
    sys.exit(report(measure(RUNS)))
