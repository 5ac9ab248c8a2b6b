"""How far to follow a reward model: the frontier between what it promises and the distance from a trained model.

Usage: python examples/alignment.py [FOLDER] [--short]. Simulated data, a table and, where matplotlib is installed
(pip install "schemaflow[plots]"), a plot of it are written to the folder. Two reward models are followed, the true one and one
that overrates a few items; what counts is the true reward.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemaflow as sf

short, named = "--short" in sys.argv, [it for it in sys.argv[1:] if it != "--short"]
folder = Path(named[0] if named else "alignment-data")
users, items, epochs = (120, 60, 3) if short else (1000, 400, 8)
betas = (0.5, 2.0) if short else (0.25, 0.5, 1.0, 2.0, 4.0)

# Clicks of users who are misled by clickbait: what they click is not all that they are glad of
log = sf.datasets.Choices(clicks=10, clickbait=1.0)
world = sf.datasets.simulate(folder, log, users=users, items=items, affinity=1.0, cross=2.0)
schema = sf.Schema.from_yaml(world.schema).select_by_name(["user_id", "user_factors", "item_id", "item_factors"])
schema = schema.fit(world.interactions, world.items)

# Two reward models, as log odds of being glad: a matrix by the users' and items' ids as they stand in the data
true = world.teacher - 2
fooled = true.copy()
fooled[:, np.random.default_rng(1).choice(items, items // 50, replace=False)] += 4


def reward_of(odds: np.ndarray) -> sf.Scorer:
    """Return what looks pairs up."""

    def look_up(queries: dict[str, np.ndarray], items: dict[str, np.ndarray]) -> np.ndarray:
        who, what = world.rows(queries["user_id"]), world.rows(items["item_id"].ravel())
        return odds[who[:, np.newaxis], what.reshape(items["item_id"].shape)]

    return sf.Scorer(look_up, features=["user_id", "item_id"])


def trained(*tasks: sf.RetrievalTask | sf.RewardAlignmentTask) -> sf.TwoTowerModel:
    """Return a model that was trained on the clicks."""
    keras.utils.set_random_seed(1)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([64, 32]), prediction_tasks=tasks, candidates=world.items)
    model.compile(optimizer=sf.optimizers.Adam(0.003))
    model.fit(world.interactions, batch_size=256, epochs=epochs, tables=folder, verbose=0)
    return model


asked = pq.read_table(world.users).slice(0, 200)  # of the users that were trained on, or not


def scores_of(model: sf.TwoTowerModel) -> np.ndarray:
    """Return the scores of all items for some users."""
    return model.query_embeddings(asked) @ model.candidate_embeddings(world.items).T


def gladness(scores: np.ndarray) -> float:
    """Return the true mean reward of the first ten, as a share of the best that ten items can have."""
    truth = world.relevance[world.rows(asked["user_id"].to_pylist())]
    best = np.argsort(-scores, axis=1)[:, :10]
    return float(np.take_along_axis(truth, best, axis=1).mean() / np.sort(truth, axis=1)[:, -10:].mean())


def distance(scores: np.ndarray, base: np.ndarray) -> float:
    """Return `KL(softmax(scores) || softmax(base))`."""
    log_p, log_q = (it - np.logaddexp.reduce(it, axis=1, keepdims=True) for it in (scores, base))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


# A base by the clicks alone; then for each beta one that follows each reward, anchored in it, and goes on with the clicks
base = trained(sf.RetrievalTask())
before = scores_of(base)
rows = [("none", float("inf"), 0.0, gladness(before))]
for name, odds in (("true", true), ("fooled", fooled)):
    for beta in betas:
        align = sf.RewardAlignmentTask(reward_of(odds), base, beta)
        after = scores_of(trained(sf.RetrievalTask(loss_weight=0.3), align))
        rows.append((name, beta, distance(after, before), gladness(after)))

print(f"{'reward':8}{'beta':>6}{'distance':>10}{'true reward':>13}")
for name, beta, far, glad in rows:
    print(f"{name:8}{beta:6.2f}{far:10.3f}{glad:13.3f}")
columns = dict(zip(("reward", "beta", "distance", "true_reward"), zip(*rows, strict=True), strict=True))
pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), folder / "frontier.parquet")

if find_spec("matplotlib"):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name in ("true", "fooled"):
        points = sorted((far, glad, beta) for kind, beta, far, glad in rows if kind in (name, "none"))
        axes.plot(
            [far for far, *_ in points], [glad for _, glad, _ in points], marker="o", label=f"{name} reward model"
        )
        for far, glad, beta in points:
            axes.annotate(f"{beta:g}", (far, glad), textcoords="offset points", xytext=(4, 4))
    axes.set(xlabel="KL from the base", ylabel="true reward of the first ten", title="by beta")
    axes.legend()
    figure.savefig(folder / "frontier.png")
