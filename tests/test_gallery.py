"""The schemas of the gallery: each holds for its real data, and trains."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow.data.sessions import pairs_within, sessions_of
from schemaflow.schema.sides import sides_of, tower_tags
from tests.conftest import ROOT

GALLERY = sorted((ROOT / "schemas").glob("*.yaml"))

REAL = {
    "goodbooks_10k": "goodbooks-10k/interactions.parquet",
    "movielens_100k": "ml-100k/interactions.parquet",
    "movielens_1m": "ml-1m/interactions.parquet",
    "movietweetings": "movietweetings-100k/interactions.parquet",
    "open_bandit": "obd-small/interactions.parquet",
    "sessions": "sessions-tmall/sessions.parquet",
}


def one_step(schema: sf.Schema, interactions: Any, tables: Path | None = None) -> float:
    keras.utils.set_random_seed(0)
    query, item = tower_tags(schema)
    options = sf.EmbeddingOptions(embedding_dim_default=4)
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([8]), query_tower_tag=query, item_tower_tag=item, embedding_options=options
    )
    model.compile(optimizer="adam")
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(interactions, batch_size=256, steps_per_epoch=1, shuffle=False, verbose=0, tables=tables)
    after = [weight.numpy() for weight in model.trainable_weights]
    assert sum(not np.array_equal(left, right) for left, right in zip(before, after, strict=True)) > len(before) // 2
    return float(history.history["loss"][0])


def rows_of(schema: sf.Schema, rows: int) -> pa.Table:
    """Make a table that a schema describes, side features included."""
    rng = np.random.default_rng(0)
    columns = {}
    for feature in schema:
        kind: Any = pa.string() if feature.dtype == "string" else getattr(pa, feature.dtype)()
        known = feature.vocabulary if isinstance(feature.vocabulary, tuple) else [f"the word{it}" for it in range(2)]
        if feature.dtype != "string" and not isinstance(feature.vocabulary, tuple):
            known = [0, 1] if feature.has("binary") else [1, 2]
        if feature.kind == "vector" and feature.embedding is not None:
            values: list[Any] = rng.normal(size=(rows, feature.embedding.dim)).tolist()
        elif feature.list is not None:  # weights and what they weigh have the same lengths
            values = [[known[(row + it) % len(known)] for it in range(row % 3)] for row in range(rows)]
        else:
            values = [known[it] for it in rng.integers(0, len(known), rows)]
        columns[feature.source] = pa.array(values, pa.list_(kind) if feature.many else kind)
    return pa.table(columns)


@pytest.mark.parametrize("path", GALLERY, ids=lambda it: it.stem)
def test_each_trains_on_rows_that_it_describes(path: Path) -> None:
    schema = sf.Schema.from_yaml(path)
    table = rows_of(schema, 64)
    assert np.isfinite(one_step(schema.fit(table), table))


@pytest.mark.parametrize("path", GALLERY, ids=lambda it: it.stem)
def test_each_says_what_editors_need_and_how_it_is_meant(path: Path) -> None:
    first, second = path.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "# yaml-language-server: $schema=schema.json"
    assert second.startswith("# ")
    assert sides_of(sf.Schema.from_yaml(path)).item_id.kind == "categorical"


@pytest.mark.parametrize("name", REAL)
def test_each_holds_for_its_real_data_and_trains(name: str, real_data: Path) -> None:
    interactions = real_data / REAL[name]
    if not interactions.exists():
        pytest.skip(f"{interactions} is not there")
    schema = sf.Schema.from_yaml(ROOT / "schemas" / f"{name}.yaml")
    assert schema.check(interactions).errors == ()
    assert np.isfinite(one_step(schema.fit(interactions), interactions))


def test_pairs_of_films_hold_for_real_sessions_and_train(real_data: Path) -> None:
    folder = real_data / "ml-100k"
    ratings = pq.read_table(folder / "interactions.parquet").slice(0, 20_000)
    time = ratings["timestamp"].to_numpy()
    first, second = pairs_within(sessions_of(ratings["user_id"].to_numpy(), time, pause=1800), time, window=1)
    films = ratings["movie_id"]
    pairs = pa.table({"seed_movie": films.take(first), "next_movie": films.take(second)})
    schema = sf.Schema.from_yaml(ROOT / "schemas" / "movielens_item_to_item.yaml")
    assert schema.check(pairs, tables=folder).errors == ()
    assert np.isfinite(one_step(schema.fit(pairs, folder / "items.parquet"), pairs, tables=folder))


def test_every_schema_with_real_data_is_held_to_it() -> None:
    assert {path.stem for path in GALLERY} == set(REAL) | {"ecommerce", "feed", "movielens_item_to_item"}
