"""A gradient-boosted tree as the teacher of two towers, which can be searched as the tree cannot.

Usage: python examples/distillation.py [FOLDER] [--short]. Needs scikit-learn: pip install scikit-learn. Simulated data are written to
the folder, and in them the truth is known: what every user would have enjoyed.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.ensemble import HistGradientBoostingClassifier

import schemaflow as sf

short, named = "--short" in sys.argv, [it for it in sys.argv[1:] if it != "--short"]
folder = Path(named[0] if named else "distillation-data")
users, items, slates, epochs = (150, 60, 400, 3) if short else (1000, 400, 6000, 8)

# A log of slates: 10 items each, drawn at random and all looked at; a click says that the user enjoyed what was shown
log = sf.datasets.Slates(slates=slates, examination=(1.0,) * 10)
world = sf.datasets.simulate(folder, log, users=users, items=items, affinity=1.0, cross=3.0)
shown, catalogue = pq.read_table(world.interactions), pq.read_table(world.items)
unseen = np.arange(users) >= 0.8 * users  # these users are only judged: they are known by their features
shown = shown.filter(pa.array(~unseen[world.rows(shown["user_id"].to_pylist())]))


# The tree sees every feature of the pair at once, which makes it good and slow
def pairs_of(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the tree's features of users and items, [n, dim] each."""
    return np.concatenate([queries, candidates, queries * candidates], axis=1)


factors = {name: np.stack(table[f"{name}_factors"].to_numpy()) for name, table in
           {"user": pq.read_table(world.users), "item": catalogue}.items()}  # fmt: skip
who, what = (world.rows(shown[f"{side}_id"].to_pylist()) for side in ("user", "item"))
tree = HistGradientBoostingClassifier(max_iter=30 if short else 200, random_state=1)
tree.fit(pairs_of(factors["user"][who], factors["item"][what]), shown["click"].to_numpy())


# The teacher: b queries with m items each, as they stand in the data, in NumPy
def teacher(queries: dict[str, np.ndarray], items: dict[str, np.ndarray]) -> np.ndarray:
    """Return the tree's log odds of a click, [b, m]."""
    b, m, dim = items["item_factors"].shape
    repeated = np.repeat(queries["user_factors"], m, axis=0)
    return tree.decision_function(pairs_of(repeated, items["item_factors"].reshape(-1, dim))).reshape(b, m)


# Two towers of the features, once by the clicks alone and once with the teacher
schema = sf.Schema.from_yaml(world.schema).select_by_name(["user_factors", "item_id", "item_factors", "click"])
schema = schema.fit(shown, catalogue)
judged = {"tree": tree.decision_function(
    pairs_of(np.repeat(factors["user"][unseen], items, axis=0), np.tile(factors["item"], (unseen.sum(), 1)))
).reshape(-1, items)}  # fmt: skip
for name, tasks in {
    "clicks": [sf.RetrievalTask()],
    "distilled": [sf.RetrievalTask(), sf.DistillationTask(teacher, hard=16, random=16, loss_weight=4.0)],
}.items():
    keras.utils.set_random_seed(1)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([64, 32]), prediction_tasks=tasks, candidates=catalogue)
    model.compile(optimizer=sf.optimizers.Adam(0.003))
    model.fit(shown, batch_size=256, epochs=epochs, tables=folder, verbose=0)
    queries = model.query_embeddings({"user_factors": factors["user"][unseen].astype(np.float32)})
    judged[name] = queries @ model.candidate_embeddings(catalogue).T

# How much of what these users would enjoy is among the first ten, as a share of the best that ten items can have
truth = world.relevance[unseen]
most = np.sort(truth, axis=1)[:, -10:].mean()
for name, scores in judged.items():
    best = np.argsort(-scores, axis=1)[:, :10]
    print(f"{name:10} {np.take_along_axis(truth, best, axis=1).mean() / most:.3f}")

# The model is served as any: the tree is not part of it
model.export(folder / "bundle", catalogue)
print(sf.Recommender.load(folder / "bundle").recommend({"user_factors": factors["user"][:1]}, k=3).identifiers[0])
