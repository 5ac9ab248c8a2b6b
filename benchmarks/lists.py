"""What lists cost beside scalar values: 64 thousand lists of 5 values in the mean and 50 at most, against as many values.

    python benchmarks/lists.py

Each side looks vectors of width 64 up in one `EmbeddingTable` of 100 thousand rows, and takes the gradient of the sum of their
squares by the table, which stays sparse.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

LISTS, MEAN, LONGEST, ROWS, DIM, TIMES = 65_536, 5, 50, 100_000, 64, 3
BAR = 1.5


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Return one figure for each combiner that divides."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / MEAN, LISTS), LONGEST)
    values = tf.constant(rng.integers(1, ROWS, lengths.sum()))
    lists = tf.RaggedTensor.from_row_lengths(values, lengths)
    table = sf.EmbeddingTable(ROWS, DIM)
    sides = {name: _timed(table, lists, name) for name in ("mean", "sum", "sqrtn")} | {"scalar": _timed(table, values)}
    times = compared(sides, rounds)
    scalar = times.pop("scalar")
    return [
        Figure(
            f"lists, {name} / as many scalar values, forward and backward",
            [above / below for above, below in zip(found, scalar, strict=True)],
            BAR,
            False,
            f"{statistics.median(found):.1f} ms against {statistics.median(scalar):.1f} ms",
        )
        for name, found in times.items()
    ]


def _timed(table: sf.EmbeddingTable, ids: tf.Tensor | tf.RaggedTensor, combiner: str = "mean") -> Callable[[], float]:
    """Return what gives the milliseconds of a lookup and its gradient, the median of some."""

    @tf.function
    def step() -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            vectors = table(ids, combiner=combiner)
            loss = tf.reduce_sum(vectors * vectors)
        gradient = tape.gradient(loss, table.embeddings.value)
        return loss, gradient.values, gradient.indices

    def time_of() -> float:
        times = []
        for _ in range(TIMES):
            start = time.perf_counter()
            step()[0].numpy()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3

    time_of()
    return time_of


if __name__ == "__main__":
    sys.exit(report(measure()))
