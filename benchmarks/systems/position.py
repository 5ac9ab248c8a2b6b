"""Position bias: a ranking learned from clicks on slates that a logger ordered by its own likes, against the true relevance.

    python benchmarks/run.py systems/position

The simulator's world of 2,000 users and 300 items: 100,000 slates of 10 random items, ordered by 0.3 times the log odds of
the relevance, an editorial boost of each item and noise; position k is looked at with probability 1 / k, about 75,000 clicks.
Linear towers on the exact factors, with a number for each item, softmax over the batch's items (all 300), 1,470 steps.

    naive        clicks as they are
    examination  PositionDebiasing()
    additive     PositionDebiasing("additive")
    oracle       PositionDebiasing("given", propensities=the true 1 / k)

NDCG@10 and Spearman's correlation per user, all 300 items ranked, with the true relevance as the gain. What is left of the
boost: the correlation over items between it and the mean of score - log relevance. Harm: the same with a logger that ranks
well, by 1.0 times the log odds and 0.3 times the boost, where the naive model has little to lose.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from figures import Figure, report
from systems.factors import ndcg, spearman, trained

import schemaflow as sf
from schemaflow.datasets import Simulation, Slates, simulate

SEEDS = 3
EPOCHS, BATCH_SIZE = 6, 4096
SLATES, SLOTS = 100_000, 10
FEATURES = ("user_factors", "item_id", "item_factors", "position", "click")
ESTIMATED = ("examination", "additive")

Found = dict[str, dict[str, float]]

_TERMS = {
    "examination": lambda _: sf.PositionDebiasing(),
    "additive": lambda _: sf.PositionDebiasing("additive"),
    "oracle": lambda world: sf.PositionDebiasing("given", propensities=world.examination),
}


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train each model in both worlds for each seed, and return how they compare.

    Args:
        rounds: How many seeds.
    """
    biased, good = [], []
    for seed in range(1, rounds + 1):
        biased.append(trained_and_judged(Slates(SLATES, SLOTS), seed, ("naive", *ESTIMATED, "oracle")))
        good.append(trained_and_judged(Slates(SLATES, SLOTS, logger=1.0, boost=0.3), seed, ("naive", *ESTIMATED)))
    figures = []
    for name in ESTIMATED:
        # the bars are those of the default; the other estimator is held to do better than nothing
        gate = name == "examination"
        figures += [
            _difference(f"NDCG@10, {name} - naive", biased, name, "naive", "ndcg", 0.06 if gate else 0.0),
            _difference(f"Spearman, {name} - naive", biased, name, "naive", "spearman", 0.10 if gate else 0.0),
            _difference(f"NDCG@10, {name} - oracle", biased, name, "oracle", "ndcg", -0.01 if gate else -0.02),
            Figure(
                f"|correlation of what is left with the boost|, {name}",
                [abs(it[name]["boost"]) for it in biased],
                0.4,
                False,
                f"naive {_shown(biased, 'naive', 'boost')}",
            ),
            _difference(f"NDCG@10 where the logger ranks well, {name} - naive", good, name, "naive", "ndcg", -0.005),
        ]
    figures.append(
        Figure(
            "error of the examination of any of 10 positions, at most",
            [it["examination"]["error"] for it in biased],
            0.03,
            False,
            f"where the logger ranks well {_shown(good, 'examination', 'error')}",
        )
    )
    return figures


def _difference(title: str, found: list[Found], name: str, other: str, metric: str, bar: float) -> Figure:
    detail = f"{_shown(found, name, metric)} against {_shown(found, other, metric)}"
    return Figure(title, [it[name][metric] - it[other][metric] for it in found], bar, True, detail)


def _shown(found: list[Found], name: str, metric: str) -> str:
    return ", ".join(f"{it[name][metric]:.4f}" for it in found)


def trained_and_judged(log: Slates, seed: int, names: tuple[str, ...]) -> Found:
    """Return what each model of a world comes to."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        world = simulate(folder, log, seed=seed)
        schema = sf.Schema.from_yaml(world.schema).select_by_name(FEATURES).fit(world.interactions, world.items)
        for name in names:
            terms = [_TERMS[name](world)] if name in _TERMS else []
            sizes = {"rows": SLATES * SLOTS, "epochs": EPOCHS, "batch_size": BATCH_SIZE}
            found[name] = judged(trained(schema, world.interactions, terms, seed, **sizes), world)
            print(f"seed {seed}, logger {log.logger}, {name}: {found[name]}", flush=True)
    return found


def judged(model: sf.TwoTowerModel, world: Simulation) -> dict[str, float]:
    """Return how well a model ranks by the truth, what it keeps of the boost, and how far its examination is off."""
    scores = model.query_embeddings(world.users) @ model.candidate_embeddings(world.items).T  # [users, items]
    left = scores - np.log(world.relevance)
    left = (left - left.mean(axis=1, keepdims=True)).mean(axis=0)
    found = {
        "ndcg": ndcg(scores, world.relevance, 10),
        "spearman": spearman(scores, world.relevance),
        "boost": float(np.corrcoef(left, world.boosts)[0, 1]),
    }
    if model.debiasing:
        found["error"] = float(np.abs(model.debiasing[0].examination() - world.examination).max())
    return found


if __name__ == "__main__":
    sys.exit(report(measure()))
