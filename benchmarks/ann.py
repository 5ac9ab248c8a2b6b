"""Approximate search: IVF against brute force on a million candidates, and Faiss beside them.

    python benchmarks/ann.py   # some minutes, and 3 GB

CANDIDATES vectors of a seeded mixture: cluster centres of standard normal coordinates, and around them noise of the same
spread. Queries are further draws of the same mixture. Recall depends on it: with more clusters than lists it is lower, 0.82
with 5000 of them. The recall is the share of brute force's best ten that is found. Both
run as graphs, warmed, by turns; a round is the median of several calls, each of other queries. Faiss, where it is
installed, looks in as many lists of its own, by turns with them; the details say what it takes.
"""

import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

__all__ = ["measure"]

CANDIDATES, DIM, CLUSTERS = 1_000_000, 64, 1000

QUERIES = 256

NPROBE = 24

BATCHES = {1: (15, 0.1), 64: (3, 0.2)}
"""Queries of a call: how many calls a round has, and the bar."""


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Return recall and time against brute force."""
    points = mixture(CANDIDATES + QUERIES, DIM, CLUSTERS, seed=0)
    candidates, queries = tf.constant(points[:CANDIDATES]), points[CANDIDATES:]
    del points
    made: dict[str, sf.IVF | sf.Faiss] = {"IVF": sf.IVF(nprobe=NPROBE)}
    if find_spec("faiss"):
        made["Faiss"] = sf.Faiss(kind="ivf", nprobe=NPROBE)
    exact = tf.function(sf.BruteForce().index(candidates), input_signature=[tf.TensorSpec([None, DIM])])
    searches: dict[str, Callable[[Any], Any]] = {"brute force": exact}
    expected = exact(queries)[1].numpy()
    figures = []
    for name, index in made.items():
        start = time.perf_counter()
        index.index(candidates)
        detail = f"made in {time.perf_counter() - start:.1f} s, {NPROBE} of {int(np.ceil(2 * CANDIDATES**0.5))} lists"
        graph = tf.function(index, input_signature=[tf.TensorSpec([None, DIM])])
        searches[name] = index if name == "Faiss" else graph
        figures.append(
            Figure(f"recall@10 of {name}", [recall(searches[name](queries)[1].numpy(), expected)], 0.98, True, detail)
        )
    for batch, (calls, bar) in BATCHES.items():
        times = compared({name: timed(search, queries, batch, calls) for name, search in searches.items()}, rounds)
        ratios = [own / whole for own, whole in zip(times["IVF"], times["brute force"], strict=True)]
        detail = ", ".join(f"{name} {1e3 * statistics.median(found):.2f} ms" for name, found in times.items())
        of = "a query" if batch == 1 else f"a batch of {batch}"
        figures.append(Figure(f"{of} by IVF / by brute force", ratios, bar, False, detail))
    return figures


def mixture(points: int, dim: int, clusters: int, seed: int) -> Any:
    """Return points [points, dim] float32 around centres, the noise as large as the spread of the centres."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim), np.float32)
    drawn = rng.standard_normal((points, dim), np.float32)
    drawn += centres[rng.integers(0, clusters, points)]
    return drawn


def recall(found: Any, expected: Any) -> float:
    """Return the share of the expected ids, [q, 10], that was found."""
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, expected, strict=True)]))


def timed(search: Callable[[Any], Any], queries: Any, batch: int, calls: int) -> Callable[[], float]:
    """Return what measures the median of some calls, in seconds, warmed by one more."""

    def once(number: int) -> float:
        start = number * batch % len(queries)
        asked = tf.constant(queries[start : start + batch])
        began = time.perf_counter()
        search(asked)[1].numpy()
        return time.perf_counter() - began

    def measure() -> float:
        once(0)
        return statistics.median(once(number) for number in range(1, calls + 1))

    return measure


if __name__ == "__main__":
    sys.exit(report(measure()))
