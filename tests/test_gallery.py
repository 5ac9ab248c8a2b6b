"""The schemas of the gallery: each holds for its real data, and trains."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pytest

import schemaflow as sf
from schemaflow.schema.sides import sides_of
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


def one_step(schema: sf.Schema, interactions: Any) -> float:
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=4))
    model.compile(optimizer="adam")
    before = [weight.numpy() for weight in model.trainable_weights]
    history = model.fit(interactions, batch_size=256, steps_per_epoch=1, shuffle=False, verbose=0)
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
            known = [1, 2]
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


def test_every_schema_with_real_data_is_held_to_it() -> None:
    assert {path.stem for path in GALLERY} == set(REAL) | {"ecommerce"}
