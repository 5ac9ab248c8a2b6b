"""Quotient-remainder tables on MovieLens-100k: an eighth of the rows, against hashing into as many.

    python benchmarks/run.py systems/compressed

Ids alone, tables of width 64, vectors of length one, a random 80/20 split for each seed. The tables of users and of films are
whole; compressed, by the product and by the sum; or hashed into no fewer rows than a compressed table keeps. Recall@10 of what
an index of all films finds, those of the training left out. Films that share a hashed row are tied: the index holds them in an
order drawn at random, while `sf.evaluate` counts ties against the positive, and would call hashing worse than it is served.
The details tell the recalls and the rows.

The data are expected in $SCHEMAFLOW_DATA/ml-100k.
"""

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from data import data_folder
from figures import Figure

import schemaflow as sf
from schemaflow.features.tables import table_specs

SEEDS = 3
DIM, REMAINDERS = 64, {"user_id": 105, "movie_id": 195}
EPOCHS, BATCH_SIZE, RATE, TEMPERATURE = 8, 1024, 0.003, 0.1
TABLES = ("whole", "product", "sum", "hashed")
TAGS = {"user_id": ("user", "id"), "movie_id": ("item", "id")}


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train a model with each kind of table for each seed, and return how they compare.

    Args:
        rounds: How many seeds.
    """
    folder = data_folder("ml-100k")
    table, films = pq.read_table(folder / "interactions.parquet"), pq.read_table(folder / "items.parquet")
    found: dict[str, list[float]] = {name: [] for name in TABLES}
    rows: dict[str, int] = {}
    for seed in range(1, rounds + 1):
        order = np.random.default_rng(seed).permutation(table.num_rows)
        train, test = table.take(order[: table.num_rows * 4 // 5]), table.take(order[table.num_rows * 4 // 5 :])
        for name in TABLES:
            schema = schema_of(name, rows).fit(train, films)
            rows |= {f"{name} {it.features[0]}": it.kept for it in table_specs(schema).values()}
            found[name].append(recall(schema, train, test, films, seed))
            print(f"seed {seed}, {name}: {found[name][-1]:.4f}", flush=True)
    kept = {name: sum(rows[f"{name} {it}"] for it in TAGS) for name in TABLES}
    shown = {name: ", ".join(f"{it:.4f}" for it in found[name]) for name in TABLES}
    figures = [
        Figure(
            "rows, whole / compressed",
            [kept["whole"] / kept["product"]],
            8,
            True,
            f"{kept['whole']:,}, {kept['product']:,}",
        )
    ]
    for name in ("product", "sum"):
        ratios = [it / hashed for it, hashed in zip(found[name], found["hashed"], strict=True)]
        detail = f"{shown[name]} against {shown['hashed']} with {kept['hashed']} rows; whole {shown['whole']}"
        figures.append(Figure(f"recall@10, compressed by the {name} / hashed", ratios, 1, True, detail))
    return figures


def schema_of(name: str, rows: dict[str, int]) -> sf.Schema:
    """Return the ids with tables of a kind; hashed, with as many rows as were kept."""
    said: dict[str, dict[str, Any]] = {it: {"vocabulary": "learned"} for it in TAGS}
    if name in ("product", "sum"):
        for it in TAGS:
            said[it]["embedding"] = {"compress": {"remainders": REMAINDERS[it], "operation": name}}
    if name == "hashed":  # three rows are reserved in either
        said = {it: {"hash": rows[f"product {it}"] - 3} for it in TAGS}
    return sf.Schema(tuple(sf.Feature(name=it, dtype="string", tags=TAGS[it], **said[it]) for it in TAGS))


def recall(schema: sf.Schema, train: pa.Table, test: pa.Table, films: pa.Table, seed: int) -> float:
    """Train a model, and return its recall@10."""
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        schema,
        sf.MLPBlock([DIM]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
        l2_normalize=True,
        logits_temperature=TEMPERATURE,
    )
    model.compile(optimizer=sf.optimizers.Adam(RATE))
    model.fit(train, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    index = model.to_index(films.take(np.random.default_rng(seed).permutation(films.num_rows)), k=10)
    had, wanted = films_of(train), films_of(test)
    users = list(wanted)
    longest = max(map(len, had.values()))
    exclude = [[*own, *[""] * (longest - len(own))] for own in (had.get(it, ()) for it in users)]
    _, found = index.query_with_exclusions({"user_id": tf.constant(users)}, tf.constant(exclude))
    rows = zip(users, found.numpy().astype(str), strict=True)
    return float(np.mean([len(wanted[it].intersection(row)) / len(wanted[it]) for it, row in rows]))


def films_of(events: pa.Table) -> dict[str, set[str]]:
    """Return the films of each user."""
    found: dict[str, set[str]] = {}
    for user, film in zip(events["user_id"].to_pylist(), events["movie_id"].to_pylist(), strict=True):
        found.setdefault(user, set()).add(film)
    return found
