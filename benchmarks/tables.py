"""What a table's size costs a training step, and its optimizer in memory, beside plain Keras 3.

    python benchmarks/tables.py

Two towers of ids alone, vectors of width 64, a batch of 4096 with its items as candidates; a table of users and one of a
tenth as many items. Plain Keras has `keras.layers.Embedding`, `keras.optimizers.Adam` and the same loss in three lines.
Each model is made and measured in a process of its own, which stays for all rounds; the sides of a ratio are measured by
turns. Memory is the peak of a process that makes a model and trains it for a few steps, less what the process had after
the same with a tiny model, as a multiple of the tables' own bytes. Takes 9 GB and some minutes.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

DIM, BATCH, STEPS = 64, 4096, 12
SMALL, MIDDLE, LARGE = 100_000, 2_000_000, 10_000_000
MEMORY_ROWS = 5_000_000
MEMORY = {"adam": 3.3, "adagrad": 2.3, "row-wise": 1.2}
"""The peak of each optimizer, in tables."""


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Measure all of it."""
    steps = _step_times(("ours", SMALL), ("ours", LARGE), rounds=rounds)
    figures = [_figure("a step at 10 million users / at 100 thousand", steps, 1, 0, 1.15, at_least=False)]
    steps = _step_times(("ours", MIDDLE), ("keras", MIDDLE), rounds=rounds)
    figures.append(_figure("plain Keras's step / ours at 2 million users", steps, 1, 0, 6.0, at_least=True))
    steps = _step_times(("ours-alone", MIDDLE), ("keras-alone", MIDDLE), rounds=rounds)
    figures.append(_figure("Keras's dense Adam / ours, alone, at 2 million users", steps, 1, 0, 4.0, at_least=True))
    tables = (MEMORY_ROWS + MEMORY_ROWS // 10) * DIM * 4 / 2**20
    for name, bar in MEMORY.items():
        peaks = [float(_child("memory", name, MEMORY_ROWS).communicate()[0]) for _ in range(min(rounds, 2))]
        detail = f"{statistics.median(peaks):.0f} MB beside tables of {tables:.0f} MB"
        figures.append(Figure(f"peak memory, {name}, in tables", [it / tables for it in peaks], bar, False, detail))
    return figures


def _figure(name: str, steps: dict[str, list[float]], over: int, under: int, bar: float, at_least: bool) -> Figure:
    sides = list(steps.values())
    ratios = [above / below for above, below in zip(sides[over], sides[under], strict=True)]
    detail = f"{statistics.median(sides[over]):.1f} ms against {statistics.median(sides[under]):.1f} ms"
    return Figure(name, ratios, bar, at_least, detail)


# -- processes --------------------------------------------------------------------------------------------------------


def _child(*arguments: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _step_times(*sides: tuple[str, int], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of a step, by side, in each round."""
    children = {f"{kind} {rows}": _child("steps", kind, rows) for kind, rows in sides}

    def asked(child: "subprocess.Popen[str]") -> Callable[[], float]:
        def ask() -> float:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            return float(json.loads(child.stdout.readline()))

        return ask

    try:
        return compared({name: asked(child) for name, child in children.items()}, rounds)
    finally:
        for child in children.values():
            child.communicate()  # the end of its input is the end of it


def _serve(kind: str, rows: int) -> None:
    """Print the milliseconds of a step for each line of input."""
    train = {"ours": _ours, "keras": _keras, "ours-alone": _alone, "keras-alone": _alone}[kind](rows, kind)
    train()
    for _ in sys.stdin:
        print(json.dumps(train()), flush=True)


def _peak(name: str, rows: int) -> None:
    """Print the megabytes that a model and its training take beyond what a tiny one took."""
    _ours(1000, name)()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _ours(rows, name)()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1024)


# -- what is measured -------------------------------------------------------------------------------------------------


def _batches(rows: int) -> tf.data.Dataset:
    rng, n = np.random.default_rng(0), BATCH * STEPS
    data = {"user": rng.integers(0, rows, n), "item": rng.integers(0, rows // 10, n)}
    return tf.data.Dataset.from_tensor_slices(data).batch(BATCH).prefetch(2)


def _timed(fit: Callable[[], Any]) -> float:
    start = time.perf_counter()
    fit()
    return (time.perf_counter() - start) / STEPS * 1e3


def _ours(rows: int, kind: str) -> Callable[[], float]:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=rows),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=rows // 10),
    ))  # fmt: skip
    model = sf.TwoTowerModel(
        schema,
        sf.MLPBlock([]),
        correction=None,
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
    )
    optimizers = {"adagrad": sf.optimizers.Adagrad(0.01), "row-wise": sf.optimizers.Adagrad(0.01, row_wise=True)}
    model.compile(optimizer=optimizers.get(kind, "adam"))
    batches = _batches(rows)
    return lambda: _timed(lambda: model.fit(batches, verbose=0))


def _keras(rows: int, _: str) -> Callable[[], float]:
    class Plain(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.user = keras.layers.Embedding(rows, DIM)
            self.item = keras.layers.Embedding(rows // 10, DIM)

        def call(self, x: Any) -> tf.Tensor:
            return tf.matmul(self.user(x["user"]), self.item(x["item"]), transpose_b=True)

    def loss(_: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        labels = tf.range(tf.shape(logits)[0])
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))

    model = Plain()
    model.compile(keras.optimizers.Adam(1e-3), loss=loss, jit_compile=False)
    batches = _batches(rows).map(lambda x: (x, tf.zeros(BATCH, tf.int32)))
    return lambda: _timed(lambda: model.fit(batches, verbose=0))


def _alone(rows: int, kind: str) -> Callable[[], float]:
    tables = [keras.Variable(tf.zeros((size, DIM))) for size in (rows, rows // 10)]
    optimizer = (sf.optimizers.Adam if kind == "ours-alone" else keras.optimizers.Adam)(1e-3)
    optimizer.build(tables)
    values = tf.random.stateless_normal((BATCH, DIM), [0, 0])

    @tf.function
    def step(user: tf.Tensor, item: tf.Tensor) -> None:
        pairs = zip((user, item), tables, strict=True)
        optimizer.apply([tf.IndexedSlices(values, ids, tf.shape(it.value)) for ids, it in pairs], tables)

    batches = list(_batches(rows))
    return lambda: _timed(lambda: [step(batch["user"], batch["item"]) for batch in batches])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"steps": _serve, "memory": _peak}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
        sys.exit()
    sys.exit(report(measure()))
