"""Queries of several vectors where users mix tastes that lie far apart: K = 4 against a single vector.

    python benchmarks/run.py systems/interests

24 clusters of 20 items; each of 400 users has three clusters, has had half of each and is to find the other half. Both
towers see ids alone and end in vectors of length one and width 4, so narrow that one vector is near no three clusters at a
time. Recall@30 over all items, those of the training left out: 30 are the items to find. A model with one interest,
[batch, 1, dim], is the plain model, [batch, dim]. The detail tells the recalls, and that of a single vector four times as wide,
which holds as many numbers as four.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from figures import Figure

import schemaflow as sf

SEEDS = 3
USERS, CLUSTERS, SIZE, EACH = 400, 24, 20, 3
DIM, INTERESTS, WIDTH = 4, 4, 32
EPOCHS, BATCH_SIZE, RATE, TEMPERATURE = 40, 512, 0.02, 0.1

Events = dict[str, np.ndarray]


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train each model for each seed, and return how many times the single vector's recall that of the others is.

    Args:
        rounds: How many seeds.
    """
    models = {"one": (None, DIM), "K = 1": (1, DIM), "K = 4": (INTERESTS, DIM), "wide": (None, INTERESTS * DIM)}
    found: dict[str, list[float]] = {name: [] for name in models}
    for seed in range(1, rounds + 1):
        train, test = mixed_tastes(seed)
        for name, (interests, dim) in models.items():
            found[name].append(recall(train, test, interests, dim, seed))
        print(f"seed {seed}: {', '.join(f'{name} {values[-1]:.4f}' for name, values in found.items())}", flush=True)
    shown = {name: ", ".join(f"{it:.3f}" for it in values) for name, values in found.items()}
    against = f"against {shown['one']}; a vector of width {INTERESTS * DIM}: {shown['wide']}"
    ratios = {name: [it / one for it, one in zip(found[name], found["one"], strict=True)] for name in found}
    return [
        Figure("recall@30, 4 interests / a single vector", ratios["K = 4"], 1.3, True, f"{shown['K = 4']} {against}"),
        Figure("recall@30, 1 interest / a single vector", ratios["K = 1"], 1.0, True, shown["K = 1"]),
    ]


def mixed_tastes(seed: int) -> tuple[Events, Events]:
    """Return the events to train on, and those to find."""
    rng = np.random.default_rng(seed)
    parts: tuple[list[tuple[int, int]], ...] = ([], [])
    for user in range(USERS):
        for cluster in rng.choice(CLUSTERS, EACH, replace=False):
            for place, item in enumerate(cluster * SIZE + rng.permutation(SIZE)):
                parts[place % 2].append((user, int(item)))
    train, test = (dict(zip(("user_id", "item_id"), np.array(part).T, strict=True)) for part in parts)
    return train, test


def recall(train: Events, test: Events, interests: int | None, dim: int, seed: int) -> float:
    """Train a model, and return its recall@30."""
    schema = sf.Schema(
        (
            sf.Feature(name="user_id", dtype="int64", tags=("user", "id"), cardinality=USERS),
            sf.Feature(name="item_id", dtype="int64", tags=("item", "id"), cardinality=CLUSTERS * SIZE),
        )
    ).fit(train)
    keras.utils.set_random_seed(seed)
    dense = keras.layers.Dense(dim * (interests or 1))
    model = sf.TwoTowerModel(
        schema,
        dense if interests is None else keras.Sequential([dense, keras.layers.Reshape((interests, dim))]),
        keras.layers.Dense(dim),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=WIDTH),
        l2_normalize=True,
        logits_temperature=TEMPERATURE,
    )
    model.compile(optimizer=sf.optimizers.Adam(RATE))
    model.fit(train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    wanted = EACH * SIZE // 2
    items = {"item_id": np.arange(CLUSTERS * SIZE)}
    return sf.evaluate(model, test, items, ks=[wanted], exclude=train)[f"recall@{wanted}"]
