"""Cold start: books that were withheld from training, found by their features, and by ids alone.

    python benchmarks/run.py cold_start

Goodbooks-10k, its features of `schemas/goodbooks_10k.yaml` with vocabularies in place of ids that are rows. A tenth of the
books, 1,000 drawn at random, is withheld: no interaction of them is trained on, and neither they nor what only they have is
in a vocabulary. Of the other interactions a twentieth is held out too. Two models are trained on what is left, for each of
three seeds, which draw the books as well:

    features  users by their id; books by their id, title, authors, language, year, rating, editions and tags
    ids       users and books by their ids

`sf.evaluate` ranks all 10,000 books for 4,000 people, without those that they had in training, and what is judged as cold are
their interactions with withheld books. Chance finds k of 10,000 among the first k: its recall@10 is 0.001. Among the withheld
books alone, where no other book is in their way, it is 0.01. The detail of a figure says the recalls that it comes from.

The data are expected in $SCHEMAFLOW_DATA/goodbooks-10k.
"""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import data_folder
from figures import Figure, report

import schemaflow as sf
from schemaflow.schema.tags import Tags

SEEDS = 3
WITHHELD, HELD_OUT, PEOPLE = 0.1, 0.05, 4000
EPOCHS, BATCH_SIZE, RATE, DIM = 2, 2048, 0.003, 64
SCHEMA = os.path.join(os.path.dirname(__file__), "..", "schemas", "goodbooks_10k.yaml")


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train both models for each seed, 3 at most, and return how many times chance each is.

    Args:
        rounds: How many seeds.
    """
    found: dict[str, list[dict[str, float]]] = {"features": [], "ids": []}
    for seed in range(1, min(rounds, SEEDS) + 1):
        for name, recalls in trained_and_judged(seed).items():
            found[name].append(recalls)
    titles = {
        "features": "recall@10 of withheld books by features / chance",
        "ids": "recall@10 of withheld books by ids alone / chance",
    }
    figures = []
    for among in ("all books", "withheld books"):
        for name, title in titles.items():
            ratios = [it[among] / it[f"chance among {among}"] for it in found[name]]
            figures.append(
                Figure(f"{title}, among {among}", ratios, 10, name == "features", _detail(found[name], among))
            )
    return figures


def _detail(recalls: Sequence[dict[str, float]], among: str) -> str:
    shown = ", ".join(f"{it[among]:.4f}" for it in recalls)
    warm = ", ".join(f"{it['warm']:.4f}" for it in recalls)
    return f"recall@10 {shown}; of held-out interactions with other books {warm}"


def trained_and_judged(seed: int) -> dict[str, dict[str, float]]:
    """Return the recall@10 of each model by what is ranked, and that of chance."""
    folder = data_folder("goodbooks-10k")
    interactions, books = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "items.parquet")
    rng = np.random.default_rng(seed)
    ids, chosen = books["book_id"].to_numpy(), interactions["book_id"].to_numpy()
    withheld = rng.choice(ids, round(WITHHELD * len(ids)), replace=False)
    new = np.isin(chosen, withheld)
    held_out = ~new & (rng.random(len(new)) < HELD_OUT)
    users = interactions["user_id"].to_numpy()
    asked = np.isin(users, rng.choice(np.unique(users), PEOPLE, replace=False))
    training, test = (
        interactions.filter(pa.array(~new & ~held_out)),
        interactions.filter(pa.array((new | held_out) & asked)),
    )
    newcomers = books.filter(pa.array(np.isin(ids, withheld)))
    schema = _learned_ids().fit(training, books.filter(pa.array(~np.isin(ids, withheld))))
    found: dict[str, dict[str, float]] = {}
    for name, names in (("features", schema.column_names), ("ids", ["user_id", "book_id"])):
        keras.utils.set_random_seed(seed)
        model = sf.TwoTowerModel(
            schema.select_by_name(names),
            sf.MLPBlock([DIM]),
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
        )
        model.compile(optimizer=sf.optimizers.Adam(RATE))
        model.fit(training, batch_size=BATCH_SIZE, epochs=EPOCHS, tables=folder, verbose=0)
        whole = sf.evaluate(model, test, books, ks=[10], exclude=training)
        alone = sf.evaluate(model, test, newcomers, ks=[10], exclude=training)
        found[name] = {
            "all books": whole.cold["recall@10"],
            "withheld books": alone.cold["recall@10"],
            "chance among all books": 10 / len(ids),
            "chance among withheld books": 10 / len(withheld),
            "warm": whole.warm["recall@10"],
        }
        print(f"seed {seed}, {name}: {found[name]}", flush=True)
    return found


def _learned_ids() -> sf.Schema:
    """Return the gallery's schema with vocabularies of ids, which have a row for what is not in them."""
    gallery, features = sf.Schema.from_yaml(SCHEMA), []
    for feature in gallery:
        said: dict[str, Any] = {"cardinality": None, "vocabulary": "learned"} if feature.has(Tags.ID) else {}
        features.append(sf.Feature(**{"name": feature.name, **feature.model_dump(), **said}))
    return dataclasses.replace(gallery, features=tuple(features))


if __name__ == "__main__":
    sys.exit(report(measure()))
