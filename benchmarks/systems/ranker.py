"""The second stage: what reranking the index's first 100 gains by what it was trained on, and what it costs.

    python benchmarks/run.py systems/ranker

2,000 users were shown 30 of 1,000 items each, drawn from `softmax(teacher + clickbait)`, and clicked with probability
`sigmoid(teacher + clickbait - 2)`; what an item is truly worth to a user is `sigmoid(teacher - 2)`. The teacher is a product of
factors and a rectified cross term. A fifth of the users is never trained on, and all is judged on these: NDCG@10 of the true
worth, by the index alone and by `recommend`, of one and the same model. The ranker is trained jointly with the retrieval, for
each of three seeds, on

    impressions  the clicks on what was shown
    zeros        these, and 32 random items a row as not clicked
    teacher      the teacher's probabilities, on what was shown and on 32 random items a row
    mixture      the same, by MixtureOfLogits
    towers       as teacher, with gradients into the towers: what becomes of the retrieval

The cost is the time of `recommend` over 100,000 items of 64 numbers, brute force, with a ranker of 100 and without, by
turns.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent))

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf
from schemaflow.datasets import Choices, simulate

SEEDS, EPOCHS, BATCH_SIZE, RATE, BLOCK = 3, 5, 1024, 0.003, (64, 32)
USERS, ITEMS, SHOWN, CROSS = 2000, 1000, 30, 1.5
CATALOGUE, DIM, REPEATS = 100_000, 64, 50

Floats = npt.NDArray[np.floating[Any]]


class World:
    """One draw of the log, and the truth behind it.

    Args:
        seed: Of the draw, and of the models trained on it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.truth = simulate(
            tempfile.mkdtemp(), Choices(clicks=SHOWN), users=USERS, items=ITEMS, cross=CROSS, seed=seed
        )
        shown = pq.read_table(self.truth.interactions)
        user, item = (self.truth.rows(shown[name].to_pylist()) for name in ("user_id", "item_id"))
        odds = self.truth.teacher[user, item] + self.truth.clickbait[item] - 2
        clicks = np.random.default_rng([seed, 6]).random(len(odds)) < 1 / (1 + np.exp(-odds))
        factors = pq.read_table(self.truth.items)["item_factors"].combine_chunks().take(pa.array(item))
        self.log = pa.table({
            "user_factors": shown["user_factors"], "item_id": shown["item_id"], "item_factors": factors,
            "click": clicks.astype(np.int8),
        })  # fmt: skip
        whole = sf.Schema.from_yaml(self.truth.schema).select_by_name(["user_factors", "item_id", "item_factors"])
        click = sf.Feature(name="click", dtype="int8", tags=("target", "binary"), value=1)
        self.schema = sf.Schema((*whole, click)).fit(self.log, self.truth.items)
        self.held_out = np.setdiff1d(np.arange(USERS), user)

    @cached_property
    def factors(self) -> Floats:
        """What tells users apart, [users, dim] float32."""
        return np.stack(pq.read_table(self.truth.folder / "users.parquet")["user_factors"].to_numpy()).astype(
            np.float32
        )

    @cached_property
    def teacher(self) -> sf.Scorer:
        """Gives the true worth of pairs, in log odds."""
        factors, odds = tf.constant(self.factors), tf.constant(self.truth.teacher - 2, tf.float32)
        half = tf.reduce_sum(factors**2, axis=1) / 2
        reserved = self.schema.domains["item"].reserved
        known = self.truth.rows(self.schema.vocabulary("item").to_pylist())
        item_of = tf.constant(np.concatenate([np.zeros(reserved, np.int64), known]))

        def worth(queries: Any, items: Any) -> Any:
            products = tf.matmul(queries["user_factors"], factors, transpose_b=True)
            users = tf.argmax(products - half, axis=1)  # the nearest
            return tf.gather(tf.gather(odds, users), tf.gather(item_of, items["item_id"]), batch_dims=1)

        return sf.Scorer(worth, tensors=True, features=["user_factors", "item_id"])

    def ndcg(self, lists: list[list[str]]) -> float:
        """Return the NDCG@10 of what the users that were not trained on get, by its true worth."""
        worth, discounts = self.truth.relevance[self.held_out], 1 / np.log2(np.arange(10) + 2)
        found = np.array([self.truth.rows(it) for it in lists])
        ideal = -np.sort(-worth, axis=1)[:, :10] @ discounts
        return float(np.mean(np.take_along_axis(worth, found, axis=1) @ discounts / ideal))

    def judged(self, ranker: Any) -> tuple[float, float]:
        """Train a model with a ranker, and return the NDCG@10 of the index alone and of both stages."""
        keras.utils.set_random_seed(self.seed)
        tasks = [sf.RetrievalTask(), ranker]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*impressions alone")  # which is what is measured
            model = sf.TwoTowerModel(
                self.schema, sf.MLPBlock(BLOCK), prediction_tasks=tasks, candidates=self.truth.items,
                embedding_options=sf.EmbeddingOptions(embedding_dim_default=16),
            )  # fmt: skip
        model.compile(sf.optimizers.Adam(RATE))
        model.fit(self.log, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
        factors = self.factors[self.held_out]
        queries = model.query_embeddings({"user_factors": factors})
        alone = model.to_index(self.truth.items, k=10)(queries)[1].numpy()
        served = model.export(Path(tempfile.mkdtemp()) / "bundle", self.truth.items, k=10)
        both = served.recommend({"user_factors": factors.tolist()}).identifiers
        return self.ndcg([[it.decode() for it in row] for row in alone]), self.ndcg(both)


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Train the rankers for each seed, three at most, and time what is served.

    Args:
        rounds: How many seeds, and how often times are taken.
    """
    block = partial(sf.MLPBlock, [64, 64], final_activation="relu")
    kinds: dict[str, Callable[[World], Any]] = {
        "impressions": lambda _: sf.LightRanker(block=block(), random=0),
        "zeros": lambda _: sf.LightRanker(block=block()),
        "teacher": lambda it: sf.LightRanker(block=block(), teacher=it.teacher),
        "mixture": lambda it: sf.MixtureOfLogits(teacher=it.teacher),
        "towers": lambda it: sf.LightRanker(block=block(), teacher=it.teacher, train_towers=True),
    }
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for seed in range(1, min(rounds, SEEDS) + 1):
        world = World(seed)
        for kind, make in kinds.items():
            found[kind].append(world.judged(make(world)))
            alone, both = found[kind][-1]
            print(
                f"seed {seed}, {kind}: {alone:.4f} by the index, {both:.4f} reranked ({both - alone:+.4f})", flush=True
            )
    bars = {"impressions": (0.0, False), "zeros": (0.0, False), "teacher": (0.005, True), "mixture": (0.005, True)}
    figures = [
        Figure(
            f"NDCG@10 reranked, {kind}, less the index's",
            [both - alone for alone, both in found[kind]],
            *bar,
            _detail(found[kind]),
        )
        for kind, bar in bars.items()
    ]
    moved = [after[0] - before[0] for before, after in zip(found["teacher"], found["towers"], strict=True)]
    figures.append(Figure("NDCG@10 of the index, towers less teacher", moved, 0.0, False, _detail(found["towers"])))
    return [*figures, *costs(rounds)]


def _detail(pairs: list[tuple[float, float]]) -> str:
    return ", ".join(f"{both:.4f} of {alone:.4f}" for alone, both in pairs)


def costs(rounds: int) -> list[Figure]:
    """Return how many times as long `recommend` takes with a ranker."""
    schema = sf.Schema((
        sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=1000),
        sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=CATALOGUE),
        sf.Feature(name="click", dtype="int8", tags=("target", "binary"), value=1),
    ))  # fmt: skip
    rankers = {"none": [], "LightRanker": [sf.LightRanker()], "MixtureOfLogits": [sf.MixtureOfLogits()]}
    served = {}
    for name, tasks in rankers.items():
        model = sf.TwoTowerModel(
            schema, sf.MLPBlock([DIM]), prediction_tasks=[sf.RetrievalTask(), *tasks], correction=None,
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
        )  # fmt: skip
        served[name] = model.export(Path(tempfile.mkdtemp()) / "bundle", {"item": np.arange(CATALOGUE)})
    figures = []
    for users in (1, 64):
        took = compared({name: partial(_seconds, it, users) for name, it in served.items()}, rounds)
        for name in ("LightRanker", "MixtureOfLogits"):
            pairs = list(zip(took[name], took["none"], strict=True))
            detail = f"{np.median(took[name]) * 1000:.1f} ms against {np.median(took['none']) * 1000:.1f} ms"
            title = f"time of recommend with {name} / without, {users} user{'s' if users > 1 else ''}"
            figures.append(Figure(title, [a / b for a, b in pairs], 2.0, False, detail))
    return figures


def _seconds(recommender: sf.Recommender, users: int) -> float:
    """Return how long one call takes, the quickest of some: what else the machine does only slows it."""
    asked, took = {"user": list(range(users))}, []
    for _ in range(REPEATS):
        began = time.perf_counter()
        recommender.recommend(asked)
        took.append(time.perf_counter() - began)
    return min(took)


if __name__ == "__main__":
    sys.exit(report(measure()))
