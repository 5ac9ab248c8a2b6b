"""How much memory `schemaflow infer` takes for Parquet of 1 GB, beside a tenth of that: it must not grow with the rows.

python benchmarks/infer_memory.py            # about 1 GB in a temporary folder; exit code 1 where a bound is broken
python benchmarks/infer_memory.py 0.2        # GB
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LIMIT = 0.5
"""The most resident memory, as a share of the data's size."""

GROWTH = 1.25
"""The most that it may grow from a tenth of the data to all of it."""

ROWS = 1 << 20  # pyarrow's own row group, the largest that is common

RUN = """
import re, sys
from pathlib import Path
import schemaflow.schema.inference.draft, pyarrow.parquet, numpy
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]  # getrusage counts the parent's too
started = peak()
text = schemaflow.schema.inference.draft.draft(sys.argv[1]).text
assert "[user, id]" in text and "[item, id]" in text, text
print(started, peak())
"""


def write(file: Path, size: float) -> int:
    """Write interactions of about `size` bytes: ids by the million, a text and a list of their own in every row."""
    rng, rows = np.random.default_rng(0), 0
    with pq.ParquetWriter(file, schema(), compression="zstd") as writer:
        while file.stat().st_size < size:
            writer.write_table(interactions(rng), row_group_size=ROWS)
            rows += ROWS
    return rows


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


def measure(folder: Path, size: float) -> tuple[int, int]:
    """Return the bytes of the data and the peak of the memory that inference took."""
    folder.mkdir()
    rows = write(folder / "interactions.parquet", size)
    written = (folder / "interactions.parquet").stat().st_size
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", RUN, str(folder)], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - began
    started, peak = (int(it) * 1024 for it in done.stdout.split())  # kB
    print(
        f"{written / 1e6:7.0f} MB of Parquet, {rows:,} rows: peak RSS {peak / 1e6:.0f} MB"
        f" ({started / 1e6:.0f} MB of it before a row was read), {peak / written:.2f} of the data, {seconds:.1f} s"
    )
    return written, peak


def main() -> None:
    """Measure both sizes, and hold them against the bounds."""
    size = 1e9 * float(sys.argv[1]) if len(sys.argv) > 1 else 1e9
    with tempfile.TemporaryDirectory() as folder:
        _, small = measure(Path(folder) / "tenth", size / 10)
        written, large = measure(Path(folder) / "whole", size)
    within = {
        f"peak RSS at most {LIMIT} of the data": large <= LIMIT * written,
        f"at most {GROWTH} times that for a tenth of the data": large <= GROWTH * small,
    }
    for bound, holds in within.items():
        print(f"{bound}: {'yes' if holds else 'NO'}")
    sys.exit(0 if all(within.values()) else 1)


if __name__ == "__main__":
    main()
