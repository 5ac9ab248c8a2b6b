"""What a training step costs: beside TensorFlow Recommenders and Merlin Models, beside the bare matrix products, in memory.

    python benchmarks/step.py

- Training examples a second of the basic retrieval tutorial, as the peers' scripts count them: two epochs after a first,
  reading, shuffling and Keras's own work included. Merlin's is the same data with vectors of width 64, a linear layer, Adam
  and batches of 4,096.
- The loss with its gradients beside its three matrix products alone, where all items of a batch are distinct.
- A step on 1 million rows of Parquet, shuffled, beside a step on one batch of them that is given again and again: ids, a
  number and lists, a layer of width 64 after each tower, batches of 4,096.
- Memory of the loss with its gradients at a batch of 8,192 distinct items, beside that of the whole matrix of logits: for each
  sampler and mask, in a process of its own.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import peers
import tensorflow as tf
from data import data_folder
from figures import ROUNDS, Figure, compared, report
from reading import SCHEMA, write
from tutorial import BATCH, TRAINING_ROWS, Tutorial, opened

import schemaflow as sf
from schemaflow.sampling import Batch, Sampler, sample

ROWS = 8192
MASKS = {
    "in-batch": {},
    "in-batch, no correction": {"corrected": False},
    "in-batch and cross-batch": {"samplers": (sf.InBatchSampler, lambda: sf.CachedCrossBatchSampler(ROWS))},
    "in-batch and uniform": {"samplers": (sf.InBatchSampler, lambda: sf.UniformSampler(1024, seed=1))},
    "in-batch and popularity": {"samplers": (sf.InBatchSampler, lambda: sf.PopularityBasedSampler(1024, seed=1))},
    "20 hard negatives": {"task": {"num_hard_negatives": 20}},
    "known positives, 50 a row": {"known": 50},
    "ids and probabilities by hand": {"by_hand": True},
}
"""What the loss's memory is measured with."""


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Return the ratios to the peers, to the products and to the whole matrix."""
    return [*beside_peers(rounds), *beside_products(rounds), *beside_one_batch(rounds), *memory()]


# -- peers --------------------------------------------------------------------------------------------------------


def beside_peers(rounds: int) -> list[Figure]:
    """Train as the peers do."""
    folder = data_folder("ml-100k")
    figures = []
    with opened(folder) as tutorial:
        for peer, version, bar, ours in (
            ("tfrs", "TensorFlow Recommenders", 3.5, like_tfrs),
            ("merlin", "Merlin Models", 2.5, like_merlin),
        ):

            def theirs(peer: str = peer) -> float:
                return peers.run(peer, f"{peer}_tutorial.py", folder.parent)["train_examples_per_s"]

            found = compared({"ours": lambda ours=ours: ours(tutorial), "theirs": theirs}, rounds)
            one, other = (statistics.median(found[side]) for side in ("ours", "theirs"))
            ratios = [mine / yours for mine, yours in zip(found["ours"], found["theirs"], strict=True)]
            detail = f"{one:,.0f} examples/s against {other:,.0f}"
            figures.append(Figure(f"training examples/s / {version}", ratios, bar, True, detail))
    return figures


def like_tfrs(tutorial: Tutorial) -> float:
    """Return the training examples a second of the tutorial."""
    model = tutorial.model()
    model.compile(sf.optimizers.Adagrad(0.1))
    return examples_per_second(model, tutorial, BATCH)


def like_merlin(tutorial: Tutorial) -> float:
    """Return the same of Merlin's script: vectors of width 64, a linear layer, Adam, batches of 4,096."""
    model = tutorial.model(sf.MLPBlock([64]), width=64)
    model.compile("adam")
    return examples_per_second(model, tutorial, 4096)


def examples_per_second(model: sf.TwoTowerModel, tutorial: Tutorial, batch: int) -> float:
    """Train an epoch, and count two more."""
    model.fit(tutorial.training, batch_size=batch, verbose=0)
    began = time.perf_counter()
    model.fit(tutorial.training, batch_size=batch, epochs=2, verbose=0)
    return 2 * TRAINING_ROWS / (time.perf_counter() - began)


# -- the matrix products ------------------------------------------------------------------------------------------


def beside_products(rounds: int) -> list[Figure]:
    """Time the loss with its gradients, and its three products by blocks of the same size."""
    figures = []
    for rows, width in ((8192, 32), (4096, 64)):
        query, candidate, ids = vectors(rows, width)
        loss, products = loss_of(), products_of()
        sides = {
            "loss": lambda loss=loss, it=(query, candidate, ids): seconds(lambda: loss(*it)),
            "products": lambda products=products, it=(query, candidate): seconds(lambda: products(*it)),
        }
        found = compared(sides, rounds)
        shares = [bare / whole for bare, whole in zip(found["products"], found["loss"], strict=True)]
        one, other = (1000 * statistics.median(found[side]) for side in ("products", "loss"))
        name = f"speed of the loss with its gradients / of its products, {rows:,} x {rows:,} x {width}"
        figures.append(Figure(name, shares, 0.55, True, f"{one:.0f} ms of {other:.0f} ms are products"))
    return figures


def vectors(rows: int, width: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return queries, candidates and distinct ids."""
    rng = np.random.default_rng(0)
    query, candidate = (tf.constant(0.3 * rng.normal(size=(rows, width)), tf.float32) for _ in range(2))
    return query, candidate, tf.constant(rng.permutation(rows), tf.int64)


def loss_of(
    samplers: tuple[Callable[[], Sampler], ...] = (sf.InBatchSampler,),
    corrected: bool = True,
    known: int = 0,
    by_hand: bool = False,
    task: dict[str, int] | None = None,
) -> tf.types.experimental.PolymorphicFunction:
    """Return the loss with its gradients, as a graph of any number of rows."""
    retrieval, made = sf.RetrievalTask(**task or {}), [it() for it in samplers]
    catalogue = Numbers()
    table = tf.random.stateless_normal((ROWS, 64), seed=(1, 2))

    @tf.function(reduce_retracing=True)
    def step(query: tf.Tensor, candidate: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        rows = tf.size(ids)
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            if by_hand:
                probability = tf.fill([rows], 0.1)
                loss = retrieval(query, candidate, candidate_sampling_probability=probability, candidate_ids=ids)
            else:
                width = query.shape[1]
                batch = Batch(candidate, ids, rows, catalogue, lambda at: tf.gather(table, at)[:, :width])
                found = sample(made, batch, lambda of: tf.fill([tf.size(of)], 1e-4), corrected, True).compacted()
                lists = tf.RaggedTensor.from_tensor((ids[:, tf.newaxis] + tf.range(known, dtype=tf.int64)) % ROWS)
                loss = retrieval.compare(query, candidate, found, known=lists if known else None)
        return loss, tape.gradient(loss, [query, candidate])

    for sampler in made:
        sampler.build((None, 32))
    return step


class Numbers:
    """A catalogue whose items are their own numbers, the most popular first."""

    size = ROWS

    def ids(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the numbers."""
        return tf.cast(positions, tf.int64)

    at_rank = ranks = ids

    def times(self, ids: tf.Tensor) -> tf.Tensor:
        """Return that each stands once."""
        return tf.ones_like(ids)


def products_of() -> tf.types.experimental.PolymorphicFunction:
    """Return the three products of the loss alone, by blocks of the same size."""

    @tf.function(reduce_retracing=True)
    def step(query: tf.Tensor, candidate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.minimum(2**21 // tf.shape(candidate)[0], 512)
        blocks = tf.shape(query)[0] // size
        parts = tf.reshape(query, tf.stack([blocks, size, query.shape[1]]))

        def add(block: tf.Tensor, by_candidate: tf.Tensor, found: tf.TensorArray) -> tuple[tf.Tensor, ...]:
            logits = tf.matmul(parts[block], candidate, transpose_b=True)
            by_candidate += tf.matmul(logits, parts[block], transpose_a=True)
            return block + 1, by_candidate, found.write(block, tf.matmul(logits, candidate))

        found = tf.TensorArray(tf.float32, blocks, element_shape=[None, query.shape[1]])
        start = (0, tf.zeros_like(candidate), found)
        _, by_candidate, found = tf.while_loop(lambda it, *_: it < blocks, add, start, parallel_iterations=1)
        return by_candidate, found.stack()

    return step


def seconds(run: Callable[[], tuple[tf.Tensor, ...]]) -> float:
    """Return the least of five times, after one."""
    run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()[0].numpy()
        times.append(time.perf_counter() - began)
    return min(times)


# -- reading ------------------------------------------------------------------------------------------------------


def beside_one_batch(rounds: int) -> list[Figure]:
    """Train an epoch of a table, and as many steps on its first batch."""
    with TemporaryDirectory() as folder:
        rows = write(Path(folder), 0.1)
        model = sf.TwoTowerModel(sf.Schema.from_config({"fitted": {}, "yaml": SCHEMA}), sf.MLPBlock([64]))
        model.compile("adam")
        table = sf.read_parquet(folder, model.schema, batch_size=4096, shuffle=True, seed=0)
        batch = table.take(1).cache().repeat(rows // 4096)
        sides = {
            name: lambda it=it: seconds_of(lambda: model.fit(it, verbose=0))
            for name, it in (("table", table), ("batch", batch))
        }
        for run in sides.values():
            run()
        found = compared(sides, rounds)
    ratios = [one / other for one, other in zip(found["table"], found["batch"], strict=True)]
    one, other = (1000 * statistics.median(found[side]) / (rows // 4096) for side in ("table", "batch"))
    name = "a step on a table of Parquet / on one batch again and again"
    return [Figure(name, ratios, 1.1, False, f"{one:.0f} ms against {other:.0f}")]


def seconds_of(run: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


# -- memory -------------------------------------------------------------------------------------------------------


def memory() -> list[Figure]:
    """Measure what the loss adds to the peak of a process, beside the whole matrix of logits; once, for it hardly varies."""
    found = compared({name: lambda name=name: added(name) for name in ("whole matrix", *MASKS)}, rounds=1)
    plain = found.pop("whole matrix")
    return [
        Figure(
            f"memory of the loss / of the whole matrix, {name}",
            [one / other for one, other in zip(sizes, plain, strict=True)],
            1 / 8,
            False,
            f"{statistics.median(sizes):.0f} MB against {statistics.median(plain):.0f}",
        )
        for name, sizes in found.items()
    ]


def added(name: str) -> float:
    """Return the MB that a process of its own finds."""
    command = [sys.executable, __file__, "--memory", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak(name: str) -> float:
    """Return by how many MB the peak of this process grows in three steps, after one of 64 rows."""
    whole = name == "whole matrix"
    step = whole_matrix() if whole else loss_of(**MASKS[name])
    query, candidate, ids = vectors(ROWS, 32)
    step(query[:64], candidate[:64], ids[:64])
    step(query[:65], candidate[:65], ids[:65])  # traces the graph of any number of rows
    before = high_water()
    for _ in range(3):
        step(query, candidate, ids)
    return high_water() - before


def high_water() -> float:
    """Return the most MB that this process has had; getrusage counts those of the one that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def whole_matrix() -> tf.types.experimental.PolymorphicFunction:
    """Return the plain loss with its gradients."""

    @tf.function(reduce_retracing=True)
    def step(query: tf.Tensor, candidate: tf.Tensor, _: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([query, candidate])
            logits = tf.matmul(query, candidate, transpose_b=True)
            labels = tf.range(tf.shape(query)[0])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return tape.gradient(loss, [query, candidate])

    return step


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    if sys.argv[1:2] == ["--memory"]:
        print(peak(sys.argv[2]))
        sys.exit()
    sys.exit(report(measure()))
