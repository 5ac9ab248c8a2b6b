"""The systems of a feed together: whichever of them are there, the model trains, and what it exports is the towers' and the ranker's."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow.datasets.simulated import Simulation
from tests.conftest import ROOT

PARTS = ("history", "debiasing", "distillation", "ranker", "alignment")
# of every two parts there are both, one without the other, and neither
ARRAY = ["11111", "11000", "10100", "01010", "00101", "00011"]
METRICS = {
    "debiasing": {"position/loss", "position/effective_share", "user/loss", "user/effective_share"},
    "distillation": {"distillation/loss", "distillation/agreement"},
    "ranker": {"light_ranker/loss", "light_ranker/click/loss", "light_ranker/click/auc", "light_ranker/purchase/loss", "light_ranker/purchase/auc"},
    "alignment": {"alignment/loss", "alignment/kl", "alignment/reward"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    log = sf.datasets.Slates(slates=60, slots=5, history=4)
    return sf.datasets.simulate(tmp_path_factory.mktemp("feed"), log, users=12, items=20, seed=2)


@pytest.fixture(scope="module")
def feed(world: Simulation) -> sf.Schema:
    return sf.Schema.from_yaml(ROOT / "schemas" / "feed.yaml").fit(world.interactions, world.users, world.items)


def model_of(world: Simulation, feed: sf.Schema, parts: set[str]) -> sf.TwoTowerModel:
    """Make a model with some of the parts."""
    keras.utils.set_random_seed(1)

    def scored(queries: dict[str, np.ndarray], items: dict[str, np.ndarray]) -> np.ndarray:
        shown = world.rows(items["item_id"].ravel()).reshape(items["item_id"].shape)
        return world.teacher[world.rows(queries["user_id"])[:, np.newaxis], shown] - 2

    def history() -> dict[str, Any]:
        return {"history": sf.UserHistoryEncoder("mean", depth=1, heads=1)} if "history" in parts else {}

    small = {"embedding_options": sf.EmbeddingOptions(embedding_dim_default=4), "candidates": world.items}
    scorer = sf.Scorer(scored, features=["user_id", "item_id"])
    tasks: list[Any] = [sf.RetrievalTask()]
    if "distillation" in parts:
        tasks.append(sf.DistillationTask(scorer, hard=3, random=3))
    if "ranker" in parts:
        teachers = {"click": scorer}
        tasks.append(
            sf.LightRanker(["click", "purchase"], sf.MLPBlock([4]), 2, teacher=teachers, random=3, num_retrieved=9)
        )
    if "alignment" in parts:
        base = sf.TwoTowerModel(feed, sf.MLPBlock([4]), **history(), **small)
        tasks.append(sf.RewardAlignmentTask(scorer, base=base, hard=3, random=3))
    debiasing = [sf.PositionDebiasing(target="click"), sf.UserDebiasing()] if "debiasing" in parts else []
    model = sf.TwoTowerModel(feed, sf.MLPBlock([4]), prediction_tasks=tasks, debiasing=debiasing, **history(), **small)
    model.compile(optimizer="adam")
    return model


@pytest.mark.parametrize("there", ARRAY)
def test_any_parts_compose(there: str, world: Simulation, feed: sf.Schema, tmp_path: Path) -> None:
    parts = {part for part, is_there in zip(PARTS, there, strict=True) if is_there == "1"}
    model = model_of(world, feed, parts)
    log = pq.read_table(world.interactions)
    shown = model.fit(log, batch_size=150, tables=world.folder, verbose=0).history
    assert all(np.isfinite(values).all() for values in shown.values())
    told = set().union(*(METRICS.get(part, set()) for part in parts))
    several = {"retrieval/loss"} if parts - {"history"} else set()
    assert set(shown) == {"loss"} | told | several

    one = log.slice(7, 1)  # a batch of one row, at a position beyond those that the schema tells apart
    beyond = one.set_column(one.column_names.index("position"), "position", [np.array([99], np.int32)])
    assert np.isfinite(model.evaluate(beyond, tables=world.folder, verbose=0)).all()

    recommender = model.export(tmp_path / "bundle", world.items)
    asked = {it.name for it in recommender.features}
    assert asked == {"user_id", "user_factors", "history"}  # nothing of positions, devices or teachers
    user = {"user_id": ["u00003"], "user_factors": [[0.5] * 8], "history": [["i00001"]]}
    found = recommender.recommend(user, k=4, exclude=["i00002"])
    assert len(set(found.identifiers[0]) - {"i00002"}) == 4
    assert model.predict(beyond, tables=world.folder, verbose=0)["score"].shape == (1,)
