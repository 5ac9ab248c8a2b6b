"""Whether the corrected in-batch softmax learns what the full softmax learns, in a planted world whose truth is known.

    python benchmarks/log_q.py

Users choose items by a softmax of taste and of Zipf popularity. Two tables, a vector for each user and item, are trained on
those choices without a correction, with one and by the full softmax, and held against the truth. Exits with 1 when the
correction by `StreamingFrequency`, or that of the negatives alone, misses a gate.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import schemaflow as sf
from schemaflow.losses import categorical_crossentropy, weighted_mean
from schemaflow.sampling import Batch, sample

TASTES, DIM, DEVIATION, RATE = 2, 4, 0.05, 0.01

Array = np.ndarray
BatchLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""(vectors of the batch's users [batch, dim], table of items [items, dim], the batch's items [batch]) -> loss."""


@dataclass(frozen=True)
class World:
    """Users, items and their choices: `P(item | user) = softmax(taste . trait / sqrt(d) - log rank)`.

    Args:
        probability: P, [users, items] float64.
        popularity: Minus the log of each item's rank, [items].
        pairs: The user and the item of each choice, [pairs, 2] int32.
    """

    probability: Array
    popularity: Array
    pairs: Array

    @classmethod
    def plant(cls, users: int = 2000, items: int = 2000, pairs: int = 200_000, seed: int = 0) -> "World":
        """Draw a world."""
        rng = np.random.default_rng(seed)
        taste, trait = rng.normal(size=(users, TASTES)), rng.normal(size=(items, TASTES))
        popularity = -np.log(1.0 + rng.permutation(items))
        probability = np.exp(taste @ trait.T / np.sqrt(TASTES) + popularity)
        probability /= probability.sum(axis=1, keepdims=True)
        user = rng.integers(users, size=pairs)
        reached, level = probability.cumsum(axis=1), rng.random(pairs)
        reached /= reached[:, -1:]  # rounding leaves it a little beside 1
        item = [int(np.searchsorted(reached[row], at, side="right")) for row, at in zip(user, level, strict=True)]
        return cls(probability, popularity, np.stack([user, item], axis=1).astype(np.int32))


@dataclass(frozen=True)
class Figures:
    """How near scores are to the truth.

    Args:
        divergence: Mean over users of KL(truth || softmax of the scores).
        mass: True probability of each user's best fortieth of the items by score, over the most that can be had.
        slope: Of the mean log probability over log popularity; the truth has 1.
    """

    divergence: float
    mass: float
    slope: float

    @classmethod
    def of(cls, world: World, scores: Array) -> "Figures":
        """Measure scores, [users, items]."""
        truth = world.probability
        learned = scores - scores.max(axis=1, keepdims=True)
        learned = learned - np.log(np.exp(learned).sum(axis=1, keepdims=True))
        divergence = (truth * (np.log(truth) - learned)).sum(axis=1).mean()
        top = truth.shape[1] // 40  # 50 of 2000
        mass, most = (
            np.take_along_axis(truth, np.argsort(-by, axis=1)[:, :top], axis=1).sum() for by in (learned, truth)
        )
        slope = np.polyfit(world.popularity, learned.mean(axis=0), 1)[0]
        return cls(float(divergence), float(mass / most), float(slope))


METHODS = (
    "no correction, a column a row",  # what most two-tower code does
    "no correction",
    "exact log-Q",  # by the true shares
    "exclude_positive",  # by the true shares too, of the negatives alone
    "StreamingFrequency",
    "full softmax",
)


def loss_of(method: str, world: World) -> BatchLoss:
    """Return the loss that a method trains by."""
    task = sf.RetrievalTask()
    if method == "full softmax":
        return lambda query, table, item: weighted_mean(
            categorical_crossentropy(tf.matmul(query, table, transpose_b=True), item)
        )
    if method == "no correction, a column a row":
        return lambda query, table, item: task(query, tf.gather(table, item), candidate_ids=item)
    samplers, frequency = [sf.InBatchSampler()], sf.StreamingFrequency(buckets=world.probability.shape[1])
    share = tf.constant(world.probability.mean(axis=0), tf.float32)

    def loss(query: tf.Tensor, table: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        ids = tf.cast(item, tf.int64)
        excludes = method == "exclude_positive"
        batch = Batch(tf.gather(table, item), ids, draws=tf.size(ids) - int(excludes))
        exact = excludes or method == "exact log-Q"
        candidates = sample(samplers, batch, lambda of: tf.gather(share, of), corrected=exact, training=True)
        if excludes:
            candidates = replace(candidates, own_probability=None)
        if method == "StreamingFrequency":
            own = frequency(item, training=True)
            candidates = replace(candidates, probability=frequency(candidates.ids), own_probability=own)
        return task.compare(query, batch.embeddings, candidates)

    return loss


def train(world: World, method: str, steps: int = 3000, batch: int = 512, seed: int = 0) -> Array:
    """Return the scores that a method learns, [users, items]."""
    keras.utils.set_random_seed(seed)
    users, items = world.probability.shape
    queries, candidates = (tf.Variable(tf.random.normal((rows, DIM), stddev=DEVIATION)) for rows in (users, items))
    batch_loss = loss_of(method, world)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps))
    optimizer.build([queries, candidates])

    chosen = np.random.default_rng(seed).integers(len(world.pairs), size=(steps, batch))
    batches = tf.constant(world.pairs[chosen])  # [steps, batch, 2]

    @tf.function(jit_compile=True)
    def run() -> None:
        for number in tf.range(steps):
            user, item = tf.unstack(batches[number], axis=1)
            with tf.GradientTape() as tape:
                loss = batch_loss(tf.gather(queries, user), tf.convert_to_tensor(candidates), item)
            optimizer.apply(tape.gradient(loss, [queries, candidates]))

    run()
    return queries.numpy() @ candidates.numpy().T


def gates(figures: Mapping[str, Figures], method: str) -> dict[str, bool]:
    """Return what a corrected method must reach, and whether it does."""
    found, none, full = figures[method], figures["no correction"], figures["full softmax"]
    return {
        f"KL {found.divergence:.4f} <= 0.1 x {none.divergence:.4f} without correction": found.divergence
        <= 0.1 * none.divergence,
        f"KL {found.divergence:.4f} <= 1.25 x {full.divergence:.4f} of the full softmax": found.divergence
        <= 1.25 * full.divergence,
        f"mass in the top {found.mass:.4f} >= 0.98": found.mass >= 0.98,
        f"popularity slope {found.slope:.3f} in 0.9 to 1.1": 0.9 <= found.slope <= 1.1,
    }


def main() -> int:
    """Measure, print, and return the exit code."""
    tf.get_logger().setLevel("ERROR")  # it takes a function for each method for one that is traced again and again
    world, figures = World.plant(), {}
    print(f"{'':32} {'KL':>7} {'top mass':>9} {'slope':>6} {'s':>4}")
    for method in METHODS:
        began = time.perf_counter()
        figures[method] = it = Figures.of(world, train(world, method))
        seconds = time.perf_counter() - began
        print(f"{method:32} {it.divergence:7.4f} {it.mass:9.4f} {it.slope:6.3f} {seconds:4.0f}", flush=True)
    passed = gates(figures, "StreamingFrequency") | {
        f"exclude_positive: {gate}": holds for gate, holds in gates(figures, "exclude_positive").items()
    }
    for gate, holds in passed.items():
        print(f"{'ok  ' if holds else 'FAIL'} {gate}")
    return int(not all(passed.values()))


if __name__ == "__main__":
    sys.exit(main())
