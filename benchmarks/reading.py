"""How fast `read_parquet` delivers shuffled batches, beside what pyarrow alone takes to decode the same columns into NumPy.

    python benchmarks/reading.py              # 10 and 100 million rows; about 0.4 GB in a temporary folder
    python benchmarks/reading.py 0.1          # a tenth of that

Ten files of ten row groups: two integer ids, a price, and lists of five integers in the mean, as pyarrow writes them.
The sides take turns. Memory is that of a process of its own that reads all batches, over what it had before the first;
the large table is the small one, read ten times under ten names.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

FILES, GROUPS, ROWS = 10, 10, 100_000
USERS, ITEMS, BATCH_SIZE = 1_000_000, 100_000, 4096
TWO_THREADS, ONE_THREAD, GROWTH = 0.5, 0.7, 300.0
"""The least share of pyarrow's rate, and the most megabytes that ten times the rows may take more."""

SCHEMA = f"""
version: 1
features:
  user_id: {{dtype: int64, tags: [user, id], cardinality: {USERS}}}
  item_id: {{dtype: int64, tags: [item, id], cardinality: {ITEMS}}}
  price: {{dtype: float32, tags: [item, continuous]}}
  likes: {{dtype: int32, tags: [user, categorical], cardinality: {ITEMS}, list: {{}}}}
"""


def write(folder: Path, size: float) -> int:
    """Write the files, and return how many rows they hold."""
    rng, rows = np.random.default_rng(0), round(ROWS * size)
    for number in range(FILES):
        groups = [_group(rng, rows) for _ in range(GROUPS)]
        pq.write_table(pa.concat_tables(groups), folder / f"{number}.parquet", row_group_size=rows)
    return FILES * GROUPS * rows


def _group(rng: np.random.Generator, rows: int) -> pa.Table:
    lengths = rng.integers(0, 11, rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.table({
        "user_id": rng.integers(0, USERS, rows),
        "item_id": rng.zipf(1.3, rows) % ITEMS,
        "price": rng.random(rows, dtype=np.float32),
        "likes": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, ITEMS, lengths.sum()), pa.int32())),
    })  # fmt: skip


def decoded(folder: Path, threads: bool) -> float:
    """Return the seconds that pyarrow takes to decode all row groups into NumPy arrays."""
    began = time.perf_counter()
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            for column in file.read_row_group(group, use_threads=threads).columns:
                (array,) = column.chunks
                if pa.types.is_list(array.type):
                    array.offsets.to_numpy(), array.values.to_numpy()
                else:
                    array.to_numpy()
    return time.perf_counter() - began


def reader(folder: Path) -> Callable[[], float]:
    """Return what reads all batches, in another order each time, and tells how many seconds that takes."""
    schema = sf.Schema.from_config({"fitted": {}, "yaml": SCHEMA})
    options = tf.data.Options()
    options.autotune.enabled = False  # its thread ends late: up to as long as it ran
    dataset = sf.read_parquet(folder, schema, batch_size=BATCH_SIZE, shuffle=True, seed=0).with_options(options)
    batches = dataset.skip(dataset.cardinality())

    def read() -> float:
        began = time.perf_counter()
        batches.reduce(0, lambda rest, _: rest + 1).numpy()  # all are had, and none is handed to Python
        return time.perf_counter() - began

    return read


def memory(folder: Path) -> float:
    """Return the megabytes that a process takes at most to read all batches, over what it took to load its packages."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(folder)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage counts the parent's too
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def measure(rounds: int = ROUNDS, size: float = 1.0) -> list[Figure]:
    """Return the ratios."""
    pa.set_cpu_count(2)
    with tempfile.TemporaryDirectory() as temporary:
        small, large = Path(temporary) / "small", Path(temporary) / "large"
        small.mkdir(), large.mkdir()
        rows = write(small, size)
        for file in small.iterdir():
            for copy in range(10):
                os.link(file, large / f"{copy}-{file.name}")
        read = reader(small)
        read()  # traces, and fills the disk's cache
        sides: dict[str, Callable[[], Any]] = {
            "two": lambda: decoded(small, True), "one": lambda: decoded(small, False), "ours": read
        }  # fmt: skip
        seconds = compared(sides, rounds)
        growth = compared({"small": lambda: memory(small), "large": lambda: memory(large)}, 1)

    def share(side: str) -> list[float]:
        return [theirs / ours for theirs, ours in zip(seconds[side], seconds["ours"], strict=True)]

    def detail(side: str) -> str:
        return f"{rows / np.median(seconds['ours']) / 1e6:.2f} against {rows / np.median(seconds[side]) / 1e6:.2f} million rows/s"

    more = [growth["large"][0] - growth["small"][0]]
    return [
        Figure("shuffled batches / pyarrow's decoding in two threads", share("two"), TWO_THREADS, True, detail("two")),
        Figure("shuffled batches / pyarrow's decoding in one thread", share("one"), ONE_THREAD, True, detail("one")),
        Figure(
            f"MB more at {10 * rows / 1e6:g} than at {rows / 1e6:g} million rows", more, GROWTH, False,
            f"{growth['large'][0]:.0f} against {growth['small'][0]:.0f} MB",
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        read, base = reader(Path(sys.argv[2])), _peak()
        read()
        print(_peak() - base)
        sys.exit()
    sys.exit(report(measure(size=float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)))
