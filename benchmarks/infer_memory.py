"""How much memory `schemaflow infer` takes for Parquet of 1 GB, beside a tenth of that: it must not grow with the rows.

python benchmarks/infer_memory.py            # about 1 GB in a temporary folder; exit code 1 where a bound is broken
python benchmarks/infer_memory.py 0.2        # GB
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import ROUNDS, Figure, compared, report

FILE = "interactions.parquet"

LIMIT = 0.5
"""The most resident memory, as a share of the data's size."""

GROWTH = 1.25
"""The most that it may grow from a tenth of the data to all of it."""

ROWS = 1 << 20  # pyarrow's own row group, the largest that is common

RUN = """
import re, sys
from pathlib import Path
import schemaflow.schema.inference.draft, pyarrow.parquet, numpy
text = schemaflow.schema.inference.draft.draft(sys.argv[1]).text
assert "[user, id]" in text and "[item, id]" in text, text
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])  # getrusage counts the parent's too
"""


def write(file: Path, size: float) -> None:
    """Write interactions of about `size` bytes: ids by the million, a text and a list of their own in every row."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
        while file.stat().st_size < size:
            writer.write_table(interactions(rng), row_group_size=ROWS)


def schema() -> pa.Schema:
    """Return the columns of the interactions."""
    return interactions(np.random.default_rng(0), 1).schema


def interactions(rng: np.random.Generator, rows: int = ROWS) -> pa.Table:
    """Return some interactions; brand and price belong to the item."""
    items = rng.zipf(1.2, rows) % 3_000_000
    lengths = rng.integers(0, 6, rows)
    words = pa.array(rng.integers(0, 5_000_000, int(lengths.sum())))
    return pa.table({
        "user_id": pa.array(rng.integers(0, 20_000_000, rows)).cast(pa.string()),
        "item_id": pa.array(items),
        "brand": pa.array(items % 5000).cast(pa.string()),
        "price": pa.array((items % 10_007) / 7),
        "amount": pa.array(rng.normal(size=rows)),
        "token": tokens(rng, rows),
        "words": pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), words),
        "timestamp": pa.array(rng.integers(1_500_000_000, 1_600_000_000, rows)),
    })  # fmt: skip


def tokens(rng: np.random.Generator, rows: int) -> pa.Array:
    """Return strings of 24 characters, each its own."""
    data = np.frombuffer(rng.bytes(12 * rows).hex().encode(), np.uint8)
    offsets = np.arange(rows + 1, dtype=np.int32) * 24
    return pa.Array.from_buffers(pa.string(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def measure(rounds: int = ROUNDS, size: float = 1e9) -> list[Figure]:
    """Write data of that many bytes, and a tenth of them, and infer from each by turns."""
    with tempfile.TemporaryDirectory() as folder:
        tenth, whole = Path(folder) / "tenth", Path(folder) / "whole"
        for place, bytes_of in ((tenth, size / 10), (whole, size)):
            place.mkdir()
            write(place / FILE, bytes_of)
        written = (whole / FILE).stat().st_size
        found = compared({"tenth": lambda: peak(tenth), "whole": lambda: peak(whole)}, rounds)
    typical = statistics.median(found["whole"])
    detail = f"{typical / 1e6:.0f} MB at the peak for {written / 1e6:.0f} MB"
    growth = [large / small for large, small in zip(found["whole"], found["tenth"], strict=True)]
    return [
        Figure("peak memory of infer / Parquet", [it / written for it in found["whole"]], LIMIT, False, detail),
        Figure("peak memory of infer, all of the data / a tenth", growth, GROWTH, False),
    ]


def peak(folder: Path) -> int:
    """Return the most bytes that inference takes of memory, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", RUN, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024  # kB


if __name__ == "__main__":
    sys.exit(report(measure(size=1e9 * float(sys.argv[1]) if len(sys.argv) > 1 else 1e9)))
