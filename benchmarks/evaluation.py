"""Ranks over the whole catalogue: against TFRS, against the bare products, their memory, and what exclusion costs.

    python benchmarks/evaluation.py               # some minutes, and 2 GB
    python benchmarks/evaluation.py memory ranks  # GB over the embeddings, of one process

TFRS: `FactorizedTopK` of both libraries on the same Gaussian embeddings (the peer's script is tfrs_eval.py), queries in
batches of 1024, positives matched by id, candidates ready before the clock starts. The bare products are those of the same
tiles, with nothing done to the scores. Memory is the peak of a process over what it held with the embeddings made.
`sf.evaluate` is measured from tables to report, with popularity; every query has one positive and SEEN items in `exclude`.
"""

import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peers
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf
from schemaflow import ranking
from schemaflow.evaluation.firsts import Excluded, nearest
from schemaflow.schema.sides import sides_of

__all__ = ["measure"]

PEER = (2048, 20_000, 32)
"""Queries, candidates and width beside TFRS."""

LARGE = (10_000, 1_000_000, 64)

SEEN = 100
"""Excluded items of a query."""

KS = (10, 50, 100)


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Return how evaluation compares."""
    return [*beside_tfrs(rounds), *at_scale(rounds), *memory()]


def beside_tfrs(rounds: int) -> list[Figure]:
    """Return the ratio of speed to TFRS, and by how much hit rates differ."""
    queries, candidates, dim = PEER
    rng = np.random.default_rng(0)  # as the peer's script draws them
    corpus = rng.normal(size=(candidates, dim)).astype(np.float32)
    positive = rng.integers(0, candidates, queries)
    query = corpus[positive] + 2.0 * rng.normal(size=(queries, dim)).astype(np.float32)
    ids = np.arange(candidates)
    metric = sf.FactorizedTopK(ks=(1, 5, 10, 50, 100)).set_candidates(corpus, ids)
    update = tf.function(metric.update_state)

    def ours() -> float:
        metric.reset_state()
        start = time.perf_counter()
        for part in (slice(at, at + 1024) for at in range(0, queries, 1024)):
            rows = positive[part]
            update(tf.constant(query[part]), tf.constant(corpus[rows]), tf.constant(ids[rows]))
        return time.perf_counter() - start

    differences = []

    def theirs() -> float:
        found = peers.run("tfrs", "tfrs_eval.py", queries, candidates, dim)
        rates = [round(float(rate), 4) for rate in metric.result().values()]
        differences.append(max(abs(own - rate) for own, rate in zip(rates, found["top_k"].values(), strict=True)))
        return float(found["seconds"])

    metric.candidates = [(ids, corpus)]
    ours()
    times = compared({"ours": lambda: statistics.median(ours() for _ in range(9)), "tfrs": theirs}, rounds)
    shape = f"{queries:,} x {candidates:,} x {dim}"
    return [
        Figure(f"TFRS FactorizedTopK / ours, {shape}", _ratios(times, "tfrs", "ours"), 70, True, _of(times)),
        Figure(f"largest difference of hit rates from TFRS, {shape}", differences, 0, False),
    ]


def at_scale(rounds: int) -> list[Figure]:
    """Return shares of the bare products' speed, and what exclusion costs."""
    queries, items, dim = LARGE
    for small in (World.of(500, 5000, dim), World.of(700, 7000, dim)):  # traced before the clock starts, for any shape
        for side in sides_of_scale(small, small).values():
            side()
    sides = sides_of_scale(World.of(queries, items, dim), World.of(1000, items, dim))
    times = compared({name: lambda side=side: _seconds(side) for name, side in sides.items()}, rounds)
    shape = " x ".join(f"{size:,}" for size in LARGE)
    return [
        Figure(f"bare products / exact ranks, {shape}", _ratios(times, "bare", "ranks"), 0.6, True, _of(times)),
        Figure(f"bare products / sf.evaluate, {shape}", _ratios(times, "bare", "evaluate"), 0.4, True),
        Figure(
            f"first 101 without {SEEN} seen items / first 101",
            _ratios(times, "first 101, excluded", "first 101"),
            1.15,
            False,
        ),
        Figure(
            f"sf.evaluate with {SEEN} seen items / without",
            _ratios(times, "evaluate, excluded", "evaluate"),
            1.15,
            False,
        ),
    ]


def sides_of_scale(world: "World", part: "World") -> dict[str, Callable[[], Any]]:
    """Return what is measured by turns at scale, by name; the first ones alone on a part of the queries."""
    vectors, model = tf.constant(world.items), world.model()
    test, items, seen = world.test(), world.candidates(), world.seen()
    return {
        "bare": lambda: bare(tf.constant(world.queries), vectors),
        "ranks": lambda: ranks(tf.constant(world.queries), vectors, tf.constant(world.positives)),
        "first 101": lambda: list(nearest(part.queries, part.items, KS[-1] + 1, part.excluded(0))),
        "first 101, excluded": lambda: list(nearest(part.queries, part.items, KS[-1] + 1, part.excluded(SEEN))),
        "evaluate": lambda: sf.evaluate(model, test, items, ks=KS),
        "evaluate, excluded": lambda: sf.evaluate(model, test, items, ks=KS, exclude=seen),
    }


def memory() -> list[Figure]:
    """Return the memory over the embeddings, each in a process of its own."""
    shape = " x ".join(f"{size:,}" for size in LARGE)
    figures = []
    for what, name in (("ranks", "exact ranks"), ("evaluate", f"sf.evaluate with {SEEN} seen items")):
        command = [sys.executable, __file__, "memory", what]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures.append(Figure(f"GB over the embeddings: {name}, {shape}", [float(done.stdout)], 1, False))
    return figures


def peak(what: str) -> float:
    """Return how many GB this process takes over what it holds with the embeddings and tables made."""
    world = World.of(*LARGE)
    model, test, items, seen = world.model(), world.test(), world.candidates(), world.seen()
    if what == "ranks":
        queries, vectors, positives = tf.constant(world.queries), tf.constant(world.items), tf.constant(world.positives)
        del world, model
    held = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    if what == "ranks":
        ranks(queries, vectors, positives)
    else:
        sf.evaluate(model, test, items, ks=KS, exclude=seen)
    return (_kilobytes("VmHWM") - held) / 1e6


@tf.function(reduce_retracing=True)
def bare(queries: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """Multiply tile by tile, and look at one score of each."""
    q, n = tf.shape(queries)[0], tf.shape(candidates)[0]
    found = tf.constant(0.0)
    for row in tf.range(0, q, ranking.ROWS):
        for column in tf.range(0, n, ranking.COLUMNS):
            tile = candidates[column : column + ranking.COLUMNS]
            found += tf.matmul(queries[row : row + ranking.ROWS], tile, transpose_b=True)[0, 0]
    return found


ranks = tf.function(ranking.ranks_of, reduce_retracing=True)


@dataclass(frozen=True)
class World:
    """Gaussian embeddings, a positive of each query, and what it has seen.

    Args:
        queries: [q, dim] float32.
        items: [n, dim] float32.
        positives: [q] int.
        seen_items: [q, SEEN] int.
    """

    queries: Any
    items: Any
    positives: Any
    seen_items: Any

    @classmethod
    def of(cls, queries: int, items: int, dim: int) -> "World":
        """Draw one."""
        rng = np.random.default_rng(0)
        return cls(
            rng.standard_normal((queries, dim), np.float32),
            rng.standard_normal((items, dim), np.float32),
            rng.integers(0, items, queries),
            rng.integers(0, items, (queries, SEEN)),
        )

    def excluded(self, count: int) -> Excluded:
        """Return the first so many seen items of each query."""
        cells = np.arange(len(self.queries))[:, np.newaxis] * len(self.items) + self.seen_items[:, :count]
        return Excluded(np.unique(cells), len(self.items))

    def test(self) -> dict[str, Any]:
        """Return the interactions with the positives."""
        return {"user": np.arange(len(self.queries)), "item": self.positives}

    def seen(self) -> dict[str, Any]:
        """Return the interactions with seen items."""
        return {"user": np.repeat(np.arange(len(self.queries)), SEEN), "item": self.seen_items.reshape(-1)}

    def candidates(self) -> dict[str, Any]:
        """Return the table of items."""
        return {"item": np.arange(len(self.items))}

    def model(self) -> Any:
        """Return a model with these vectors."""
        features = (
            sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=len(self.queries)),
            sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=len(self.items)),
        )
        return Given(self, sf.Schema(features).fit(self.seen()))


@dataclass(frozen=True)
class Given:
    """A model whose vectors are there already."""

    world: World
    schema: sf.Schema

    @property
    def sides(self) -> Any:
        """Return which features are whose."""
        return sides_of(self.schema)

    def query_embeddings(self, queries: Any, batch_size: int = 4096) -> Any:
        """Return [q, dim]."""
        return self.world.queries

    def candidate_embeddings(self, candidates: Any, batch_size: int = 4096, *, tables: Any = None) -> Any:
        """Return [n, dim]."""
        return self.world.items


def _seconds(side: Callable[[], Any]) -> float:
    start = time.perf_counter()
    found = side()
    if isinstance(found, tf.Tensor):
        found.numpy()
    return time.perf_counter() - start


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(rf"{field}:\s+(\d+)", status)[0])


def _ratios(times: dict[str, list[float]], above: str, below: str) -> list[float]:
    return [a / b for a, b in zip(times[above], times[below], strict=True)]


def _of(times: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {statistics.median(rounds):.3g} s" for name, rounds in times.items())


if __name__ == "__main__":
    if sys.argv[1:2] == ["memory"]:
        print(peak(sys.argv[2]))
    else:
        sys.exit(report(measure()))
