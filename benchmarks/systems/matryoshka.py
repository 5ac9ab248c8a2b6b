"""Matryoshka prefixes on MovieLens-100k: what the first 16 of 64 numbers find of what all of them find.

    python benchmarks/run.py systems/matryoshka

Ids alone, vectors of length one and width 64, a random 80/20 split for each seed. One model is trained with
`matryoshka_dims=(16, 32)`, one without; both are judged whole and as `truncated(16)` by recall@10 over all films, those of the
training left out. The details tell the recalls.

The data are expected in $SCHEMAFLOW_DATA/ml-100k.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from data import data_folder
from figures import Figure

import schemaflow as sf

SEEDS = 3
DIM, DIMS = 64, (16, 32)
EPOCHS, BATCH_SIZE, RATE, TEMPERATURE = 8, 1024, 0.003, 0.1
SCHEMA = os.path.join(os.path.dirname(__file__), "..", "..", "schemas", "movielens_100k.yaml")


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train both models for each seed, and return what their prefixes keep.

    Args:
        rounds: How many seeds.
    """
    folder = data_folder("ml-100k")
    table, films = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "items.parquet")
    found: dict[str, list[dict[int, float]]] = {"matryoshka": [], "plain": []}
    for seed in range(1, rounds + 1):
        order = np.random.default_rng(seed).permutation(table.num_rows)
        train, test = table.take(order[: table.num_rows * 4 // 5]), table.take(order[table.num_rows * 4 // 5 :])
        for name, dims in (("matryoshka", DIMS), ("plain", ())):
            found[name].append(recalls(train, test, films, dims, seed))
            print(f"seed {seed}, {name}: {found[name][-1]}", flush=True)
    kept = {name: [it[DIMS[0]] / it[DIM] for it in each] for name, each in found.items()}
    whole = [it[DIM] / plain[DIM] for it, plain in zip(found["matryoshka"], found["plain"], strict=True)]
    return [
        Figure("recall@10, 16 / 64 numbers, matryoshka", kept["matryoshka"], 0.9, True, _shown(found["matryoshka"])),
        Figure("recall@10, 16 / 64 numbers, plain", kept["plain"], 0.6, False, _shown(found["plain"])),
        Figure("recall@10 of 64 numbers, matryoshka / plain", whole, 0.95, True),
    ]


def _shown(each: list[dict[int, float]]) -> str:
    return ", ".join(f"{it[DIMS[0]]:.4f} of {it[DIM]:.4f}" for it in each)


def recalls(train: pa.Table, test: pa.Table, films: pa.Table, dims: tuple[int, ...], seed: int) -> dict[int, float]:
    """Train a model, and return the recall@10 of its vectors by how many of their numbers are used."""
    schema = sf.Schema.from_yaml(SCHEMA).select_by_name(["user_id", "movie_id"]).fit(train, films)
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        schema,
        sf.MLPBlock([DIM]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
        prediction_tasks=sf.RetrievalTask(temperature=TEMPERATURE, matryoshka_dims=dims),
        l2_normalize=True,
    )
    model.compile(optimizer=sf.optimizers.Adam(RATE))
    model.fit(train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    judged = {DIM: model, DIMS[0]: model.truncated(DIMS[0])}
    return {width: sf.evaluate(it, test, films, ks=[10], exclude=train)["recall@10"] for width, it in judged.items()}
