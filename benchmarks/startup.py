"""How long `schemaflow --help` and `schemaflow validate` take to start, beside importing pydantic and PyYAML alone.

    python benchmarks/startup.py

Each is spawned in turn, ten times, so that a busy moment of the machine meets all alike. Exits with 1 when the median of
a command is three times the median of the imports or more.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS, LIMIT, FEATURES = 10, 3.0, 200
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


def main() -> int:
    """Measure, print, and return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        schema = Path(folder) / "schema.yaml"
        schema.write_text(schema_text(), encoding="utf-8")
        start = [sys.executable, "-c", "from schemaflow.cli.app import main; main()"]  # what the console script does
        commands = {
            "import pydantic, yaml": [sys.executable, "-c", "import pydantic, yaml"],
            "schemaflow --help": [*start, "--help"],
            f"schemaflow validate, {FEATURES} features": [*start, "validate", str(schema)],
        }
        for command in commands.values():
            seconds(command)  # writes the bytecode, fills the disk's cache
        runs = [{name: seconds(command) for name, command in commands.items()} for _ in range(RUNS)]
    medians = {name: statistics.median(run[name] for run in runs) for name in commands}
    base = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{name:35} {1000 * median:6.0f} ms  {median / base:5.2f}")
    return int(max(medians.values()) >= LIMIT * base)


if __name__ == "__main__":
    sys.exit(main())
