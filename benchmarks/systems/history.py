"""Histories: planted rules of order and of content, and the last film of each user of MovieLens-1M.

    python benchmarks/run.py systems/history

Planted rules, `sf.datasets.sequences`: 20 clusters of 25 items, 4 interests a user, histories of 5 to 20 events, in 1 of 10
rows any item. By the rule of order the next item is of the cluster that a permutation gives for the newest event's; by that
of content, of the cluster that occurs most often. Recall@25 on 2,000 users of their own, for each of three seeds: of attention
(one block, pooled by attention), of the same model with the test's events shuffled, and of the mean of the events' vectors.

MovieLens-1M, leave-one-out as in SASRec: of each user the interaction of the largest `seq_index` is the test, the one before
it is left for validation, and the model is trained on every other position of every user with what came before it. Rows whose
`seq_index` is null (598, which no order is known of) are left out. All 3,706 films are ranked, those seen before left in and
left out. Beside it two towers of user and film ids, trained on the same rows. Settings were chosen on this split, for each of
the two. Published for the same split, 3,416 films (HR@10): MF-BPR 0.074, SASRec 0.199 to 0.250 as it was first trained, 0.239
(gSASRec's repository), 0.315 with the cross-entropy over all films, RecTools' SASRec 0.306.

The data are expected in $SCHEMAFLOW_DATA/ml-1m.
"""

import os
from collections.abc import Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from data import data_folder
from figures import Figure

import schemaflow as sf

SEEDS = 3
ROWS, EPOCHS, BATCH_SIZE, RATE, DIM = 20_000, 10, 256, 0.003, 32

ENCODERS = {
    "attention": partial(sf.UserHistoryEncoder, "attention", depth=1),
    "mean": partial(sf.UserHistoryEncoder, "mean", depth=0, dropout=0.0),
}

FILMS = """\
version: 1
features:
  user_id:  {dtype: string, tags: [user, id], vocabulary: learned}
  history:  {dtype: string, tags: [user, sequence], domain: film, list: {max_length: 32}}
  movie_id: {dtype: string, tags: [item, id], vocabulary: learned, domain: film}
  position: {dtype: int64, tags: [time], column: seq_index}
"""
FILM_DIM, USER_DIM, FILM_BATCH = 64, 16, 1024
HISTORY = {"epochs": 2, "rate": 0.003}
IDS = {"epochs": 5, "rate": 0.01, "l2": 0.02, "temperature": 0.5}


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train and judge all models for each seed, 3 at most.

    Args:
        rounds: How many seeds.
    """
    seeds = range(min(rounds, SEEDS))
    return [*planted(seeds), *films(seeds)]


def planted(seeds: Sequence[int]) -> list[Figure]:
    """Return what is found of the planted rules."""
    found = {
        (rule, name): [recalls(rule, name, seed) for seed in seeds] for rule in ("order", "bag") for name in ENCODERS
    }

    def gained(rule: str) -> list[float]:
        pairs = zip(found[rule, "attention"], found[rule, "mean"], strict=True)
        return [attention - mean for (attention, _), (mean, _) in pairs]

    def shown(rule: str) -> str:
        attention, mean = (", ".join(f"{it[0]:.3f}" for it in found[rule, name]) for name in ENCODERS)
        return f"recall@25 {attention} against {mean}"

    shuffled = [it for _, it in found["order", "attention"]]
    return [
        Figure("rule of order: recall@25 of attention - of the mean", gained("order"), 0.45, True, shown("order")),
        Figure("rule of order: recall@25 of attention, events shuffled", shuffled, 0.40, False),
        Figure("rule of content: recall@25 of attention - of the mean", gained("bag"), -0.03, True, shown("bag")),
    ]


def recalls(rule: str, name: str, seed: int) -> tuple[float, float]:
    """Return a model's recall@25, and the same with the events of each history shuffled."""
    with TemporaryDirectory() as folder:
        data = sf.datasets.sequences(folder, rule, rows=ROWS, seed=seed)
        schema = sf.Schema.from_yaml(data.schema).fit(data.interactions, data.items)
        keras.utils.set_random_seed(seed)
        model = sf.TwoTowerModel(
            schema,
            sf.MLPBlock([DIM]),
            sf.MLPBlock([]),
            history=ENCODERS[name](),
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM),
        )
        model.compile(falling(RATE, EPOCHS * -(-ROWS // BATCH_SIZE)))
        model.fit(data.interactions, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
        test, rng = pq.read_table(data.test), np.random.default_rng(seed)
        mixed = [rng.permutation(events).tolist() for events in test["history"].to_pylist()]
        shuffled = pa.table({"history": mixed, "item": test["item"]})
        found = [sf.evaluate(model, it, data.items, ks=(25,))["recall@25"] for it in (test, shuffled)]
        return found[0], found[1]


def films(seeds: Sequence[int]) -> list[Figure]:
    """Return what is found of MovieLens-1M."""
    training, validation, test, items = leave_one_out()
    seen = pa.concat_tables([training, validation]).select(["user_id", "movie_id"])
    found: dict[str, list[Any]] = {"history": [], "ids": []}
    for seed in seeds:
        for name, trained in (("history", with_history), ("ids", by_ids)):
            model = trained(training, items, seed)
            reports = [sf.evaluate(model, test, items, ks=(10,), exclude=it) for it in (seen, None)]
            found[name].append([it[metric] for it in reports for metric in ("hit_rate@10", "ndcg@10")])
    figures = []
    for place, which in ((0, "films seen left out"), (2, "all films")):
        ratios = [one[place] / other[place] for one, other in zip(*found.values(), strict=True)]
        shown = ["; ".join(f"{it[place]:.4f}, {it[place + 1]:.4f}" for it in found[name]) for name in found]
        detail = f"HR@10, NDCG@10: {shown[0]} against {shown[1]}"
        figures.append(Figure(f"MovieLens-1M, {which}: HR@10 by history / by ids", ratios, 1.5, True, detail))
    return figures


def leave_one_out() -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """Return the training, validation and test interactions with their histories, and the films."""
    table = pq.read_table(data_folder("ml-1m") / "interactions.parquet", columns=["user_id", "movie_id", "seq_index"])
    items = pa.table({"movie_id": pc.unique(table["movie_id"])})
    table = table.filter(pc.is_valid(table["seq_index"])).sort_by(
        [("user_id", "ascending"), ("seq_index", "ascending")]
    )
    rows = sf.histories(table, sf.Schema.from_config({"fitted": {}, "yaml": FILMS}))
    user = pc.dictionary_encode(rows["user_id"].combine_chunks()).indices.to_numpy()
    ends = np.append(np.flatnonzero(np.diff(user)) + 1, len(user))  # of each user's rows
    after = np.repeat(ends, np.diff(ends, prepend=0)) - 1 - np.arange(len(user))
    training, validation, test = (rows.filter(pa.array(it)) for it in (after > 1, after == 1, after == 0))
    return training, validation, test, items


def with_history(training: pa.Table, items: pa.Table, seed: int) -> sf.TwoTowerModel:
    """Return a model of histories and user ids: one block, of which the newest event is asked for."""
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        sf.Schema.from_config({"fitted": {}, "yaml": FILMS}).fit(training, items),
        sf.MLPBlock([FILM_DIM]),
        sf.MLPBlock([]),  # a film's vector is its row of the table that histories share
        history=sf.UserHistoryEncoder("last", depth=1, dropout=0.2),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=FILM_DIM, embedding_dims={"user_id": USER_DIM}),
    )
    return fitted(model, training, HISTORY["epochs"], HISTORY["rate"])


def by_ids(training: pa.Table, items: pa.Table, seed: int) -> sf.TwoTowerModel:
    """Return a model of user and film ids alone."""
    keras.utils.set_random_seed(seed)
    schema = sf.Schema.from_config({"fitted": {}, "yaml": FILMS}).select_by_name(["user_id", "movie_id"])
    model = sf.TwoTowerModel(
        schema.fit(training, items),
        sf.MLPBlock([]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=FILM_DIM, embeddings_l2_reg=IDS["l2"]),
        logits_temperature=IDS["temperature"],
    )
    return fitted(model, training, IDS["epochs"], IDS["rate"])


def fitted(model: sf.TwoTowerModel, training: pa.Table, epochs: float, rate: float) -> sf.TwoTowerModel:
    """Train a model of films."""
    model.compile(falling(rate, int(epochs) * -(-training.num_rows // FILM_BATCH)))
    model.fit(training, batch_size=FILM_BATCH, epochs=int(epochs), verbose=0)
    return model


def falling(rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Return Adam with a rate that falls to 0 along a cosine."""
    return sf.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, steps))
