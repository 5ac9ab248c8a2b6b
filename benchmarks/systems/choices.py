"""The world that distillation and alignment are proven in: clicks of a planted teacher, misled by clickbait.

2,000 users pick 10 of 1,000 items each by `teacher + clickbait`; a fifth of them is never trained on, and all that is judged is
judged on these. Towers see factors of users and items, and the items' ids: the teacher's rectified cross term is no product
of linear functions, so clicks alone teach it in part.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import tensorflow as tf

import schemaflow as sf
from schemaflow.datasets import Choices, Simulation, simulate

__all__ = ["Judged", "World"]

USERS, ITEMS = 2000, 1000
BATCH_SIZE, RATE, BLOCK = 256, 0.003, (128, 64)

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Judged:
    """How a model ranks all items for the users it was never trained on.

    Args:
        overlap: Of its best 10 and 50 items with the teacher's, by how many.
        recall: The share of clicks among its best 50.
        reward: The true mean reward of its best 50, as a share of the best that 50 items can have.
        scores: Of all items, [users, items].
    """

    overlap: dict[int, float]
    recall: float
    reward: float
    scores: Floats


class World:
    """One draw of the world.

    Args:
        seed: Of the draw, and of the models trained in it.
        clickbait: The deviation of what misleads the clicks.
        **taste: What the teacher is made of: `affinity`, `cross` and `quality` of `simulate`.
    """

    def __init__(self, seed: int, clickbait: float, **taste: float) -> None:
        self.seed = seed
        self.truth: Simulation = simulate(
            tempfile.mkdtemp(), Choices(clickbait=clickbait), users=USERS, items=ITEMS, seed=seed, **taste
        )
        names = ["user_factors", "item_id", "item_factors"]
        whole = sf.Schema.from_yaml(self.truth.schema).select_by_name(names)
        self.schema = whole.fit(self.truth.interactions, self.truth.items)
        held_out = pq.read_table(self.truth.held_out)
        clickers = self.truth.rows(held_out["user_id"].to_pylist())
        self.users, self._clicker = np.unique(clickers, return_inverse=True)
        self._clicked = self.truth.rows(held_out["item_id"].to_pylist())

    @cached_property
    def factors(self) -> Floats:
        """The users' factors, [users, dim] float32: what tells them apart, since the schema has no id of theirs."""
        return np.stack(pq.read_table(self.truth.users)["user_factors"].to_numpy()).astype(np.float32)

    def scorer(self, matrix: Floats) -> sf.Scorer:
        """Return what scores pairs by a matrix [users, items]."""
        factors, scores = tf.constant(self.factors), tf.constant(matrix, tf.float32)
        half = tf.reduce_sum(factors**2, axis=1) / 2
        vocabulary = self.truth.rows(self.schema.vocabulary("item").to_pylist())
        reserved = self.schema.domains["item"].reserved
        item_of = tf.constant(np.concatenate([np.zeros(reserved, np.int64), vocabulary]))

        def by_matrix(queries: Any, items: Any) -> Any:
            users = tf.argmax(
                tf.matmul(queries["user_factors"], factors, transpose_b=True) - half, axis=1
            )  # the nearest
            return tf.gather(tf.gather(scores, users), tf.gather(item_of, items["item_id"]), batch_dims=1)

        return sf.Scorer(by_matrix, tensors=True, features=["user_factors", "item_id"])

    def trained(self, tasks: Sequence[Any], epochs: int, base: sf.TwoTowerModel | None = None) -> sf.TwoTowerModel:
        """Return a model that was trained on the clicks.

        Args:
            tasks: Its `prediction_tasks`.
            epochs: How long; the learning rate falls along a cosine.
            base: A model whose towers it begins with.
        """
        keras.utils.set_random_seed(self.seed)
        model = sf.TwoTowerModel(
            self.schema, sf.MLPBlock(BLOCK), prediction_tasks=list(tasks), candidates=self.truth.items
        )
        if base is not None:
            model.query_tower.set_weights(base.query_tower.get_weights())
            model.item_tower.set_weights(base.item_tower.get_weights())
        rows = pq.read_metadata(self.truth.interactions).num_rows
        steps = epochs * -(-rows // BATCH_SIZE)
        model.compile(sf.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
        model.fit(self.truth.interactions, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        return model

    def judge(self, model: sf.TwoTowerModel) -> Judged:
        """Return how a model ranks."""
        queries = model.query_embeddings({"user_factors": self.factors[self.users]})
        scores = queries @ model.candidate_embeddings(self.truth.items).T
        best, wanted = (np.argsort(-it, axis=1) for it in (scores, self.truth.teacher[self.users]))
        reward = self.truth.relevance[self.users]
        found, most = (np.take_along_axis(reward, it[:, :50], axis=1).mean() for it in (best, wanted))
        return Judged(
            {k: _shared(best[:, :k], wanted[:, :k]) for k in (10, 50)},
            recall=float((best[self._clicker, :50] == self._clicked[:, np.newaxis]).any(axis=1).mean()),
            reward=float(found / most),
            scores=scores,
        )


def _shared(mine: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(mine, theirs, strict=True)]))
