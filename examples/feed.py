"""A feed: history, debiasing, a teacher, a second stage and a reward in one model, each added to those before it.

Usage: python examples/feed.py [FOLDER] [--short]. The log is simulated, so that the worth of each item to each user is known. A
row is an impression. Tastes turn while the log is written; an editor, not the users' tastes, decides what stands high; and what
stands high is clicked. The main ranker, which teaches, was trained on such logs and believes a little in the editor; the reward
does not. After each part the model is exported, and the first ten that the bundle recommends to every user as of now are judged
by what they are worth after the log (NDCG@10).
"""

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq

import schemaflow as sf

short, root = "--short" in sys.argv, Path(__file__).parent.parent
folder = Path(next((it for it in sys.argv[1:] if it != "--short"), "feed-bundles"))

# What was shown to whom, where and on what, in an editor's order; and the truth behind it
log = sf.datasets.Slates(
    slates=1000 if short else 20000,
    slots=5,
    logger=0.0,
    boost=3.0,
    examination=(1.0, 0.6, 0.4, 0.25, 0.15),
    device_effect=0.5,
    history=20,
    turn=1.8,
)
world = sf.datasets.simulate(folder / "data", log, users=100, items=100, affinity=2.0, seed=1)
worth = world.relevance + 4 * 0.5 * world.relevance**2  # of a click 1, of a purchase 4, as the schema says
impressions, items = pq.read_table(world.interactions), pq.read_table(world.items)
schema = sf.Schema.from_yaml(root / "schemas" / "feed.yaml").fit(impressions, world.users, items)
names = [it.name for it in schema]
users = world.rows(impressions["user_id"].to_pylist())
believed = world.teacher - 2 + 0.3 * world.boosts  # of a click, in log odds, by the main ranker
latest = impressions.take(len(users) - 1 - np.unique(users[::-1], return_index=True)[1])  # of each user, in their order


def of_pairs(truth: np.ndarray) -> sf.Scorer:
    """Return a function of pairs that looks them up in an array [users, items]."""

    def scores(queries: dict[str, np.ndarray], items: dict[str, np.ndarray]) -> np.ndarray:
        shown = world.rows(items["item_id"].ravel()).reshape(items["item_id"].shape)  # [b, m]
        return truth[world.rows(queries["user_id"])[:, np.newaxis], shown]

    return sf.Scorer(scores, features=["user_id", "item_id"])


def trained(*tasks: Any, **arguments: Any) -> sf.TwoTowerModel:
    """Return a model that was trained on the impressions."""
    keras.utils.set_random_seed(0)
    read = schema if "history" in arguments else schema.select_by_name([it for it in names if it != "history"])
    model = sf.TwoTowerModel(
        read,
        sf.MLPBlock([64, 16]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=16, embeddings_l2_reg=1e-3),
        prediction_tasks=tasks,
        candidates=items,
        **arguments,
    )
    model.compile(optimizer=sf.optimizers.Adam(0.002))
    model.fit(impressions, batch_size=512, epochs=1 if short else 6, tables=world.folder, verbose=0)
    return model


def ndcg(model: sf.TwoTowerModel) -> float:
    """Return how good the first ten are that an exported bundle recommends to every user."""
    recommender = model.export(folder / "bundle", items, tables=world.folder)
    asked = {it.name: latest[it.source].to_pylist() for it in recommender.features}
    found = np.array([world.rows(row) for row in recommender.recommend(asked, k=10).identifiers])
    discount = 1 / np.log2(np.arange(2, 12))
    best = -np.sort(-worth, axis=1)[:, :10]
    return float(np.mean(np.take_along_axis(worth, found, axis=1) @ discount / (best @ discount)))


def history() -> dict[str, Any]:
    """Return what has the query tower read histories."""
    return {"history": sf.UserHistoryEncoder(["mean", "attention"], depth=1, mask_target=False)}


def debiased() -> dict[str, Any]:
    """Return this and what weighs clicks by how surely their positions are seen."""
    return {**history(), "debiasing": sf.PositionDebiasing(target="click")}


def ranked() -> list[Any]:
    """Return the tasks of a retrieval, and of a second stage behind the index, which the main ranker teaches."""
    teachers = {"click": of_pairs(believed)}  # of what was never shown, too
    return [sf.RetrievalTask(), sf.LightRanker(["click", "purchase"], teacher=teachers, num_retrieved=20)]


def distilled() -> list[Any]:
    """Return these and what has the towers listen to the main ranker."""
    return [*ranked(), sf.DistillationTask(of_pairs(believed), loss_weight=2.0)]


def aligned(base: sf.TwoTowerModel) -> list[Any]:
    """Return these and a reward, for a model that begins where another stands."""
    return [*distilled(), sf.RewardAlignmentTask(of_pairs(worth), base=base, beta=0.5)]


parts = {
    "clicks and purchases alone": lambda _: trained(sf.RetrievalTask()),
    "+ history": lambda _: trained(sf.RetrievalTask(), **history()),
    "+ debiasing": lambda _: trained(sf.RetrievalTask(), **debiased()),
    "+ light ranker": lambda _: trained(*ranked(), **debiased()),
    "+ distillation": lambda _: trained(*distilled(), **debiased()),
    "+ alignment": lambda base: trained(*aligned(base), **debiased()),
}
model = None
for part, make in parts.items():
    model = make(model)
    print(f"{part:28} NDCG@10 {ndcg(model):.3f}", flush=True)
