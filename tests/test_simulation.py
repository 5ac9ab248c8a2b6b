"""Simulated logs follow the truth that comes with them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow.datasets import Choices, Simulation, Slates, simulate
from schemaflow.errors import ConfigError


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_clicks_are_examination_times_relevance(tmp_path: Path) -> None:
    world = simulate(tmp_path, Slates(slates=20_000, slots=5), users=50, items=40, seed=3)
    log = pq.read_table(world.interactions)
    relevance = world.relevance[world.rows(log["user_id"].to_pylist()), world.rows(log["item_id"].to_pylist())]
    position, click = log["position"].to_numpy(), log["click"].to_numpy()
    assert world.examination == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    for slot in range(1, 6):
        at = position == slot
        # clicks over relevance: an unbiased estimate of the examination, its deviation below 0.006 here
        assert click[at].sum() / relevance[at].sum() == pytest.approx(world.examination[slot - 1], abs=0.02)
    clicked = click == 1
    bought = log["purchase"].to_numpy()
    assert bought[~clicked].sum() == 0
    assert bought.sum() / relevance[clicked].sum() == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(sigmoid(log["teacher"].to_numpy()), relevance, rtol=1e-5)


def test_the_truth_is_the_formula(tmp_path: Path) -> None:
    world = simulate(tmp_path, Slates(slates=10), users=2000, items=300, seed=1)
    p = np.array(pq.read_table(world.users)["user_factors"].to_pylist())
    q = np.array(pq.read_table(world.items)["item_factors"].to_pylist())
    quality = world.teacher - 1.5 * p @ q.T / np.sqrt(8)
    np.testing.assert_allclose(quality, np.tile(quality[0], (2000, 1)), atol=1e-5)  # of the item alone
    assert quality[0].std() == pytest.approx(0.7, rel=0.1)
    np.testing.assert_allclose(world.relevance, sigmoid(world.teacher - 2))
    crossed = simulate(tmp_path / "cross", Slates(slates=10), users=2000, items=300, cross=2.0, seed=1)
    rest = crossed.teacher - world.teacher
    assert rest.min() >= -1e-9  # a product of rectified numbers
    assert np.linalg.matrix_rank(rest, tol=1e-6) == 8


def test_the_logger_orders_by_what_it_is_told(tmp_path: Path) -> None:
    right = simulate(tmp_path / "right", Slates(slates=300, logger=1, boost=0, noise=0), users=20, items=30)
    odds = pq.read_table(right.interactions)["teacher"].to_numpy().reshape(300, 10)
    assert (np.diff(odds, axis=1) <= 0).all()
    boosted = simulate(tmp_path / "boosted", Slates(slates=300, logger=0, boost=2, noise=0), users=20, items=30)
    log = pq.read_table(boosted.interactions)
    boosts = boosted.boosts[boosted.rows(log["item_id"].to_pylist())].reshape(300, 10)
    assert (np.diff(boosts, axis=1) <= 0).all()
    assert boosted.boosts.std() == pytest.approx(2, rel=0.4)
    assert all(len(set(slate)) == 10 for slate in np.array(log["item_id"].to_pylist()).reshape(300, 10))
    assert (np.diff(log["timestamp"].to_numpy()) >= 0).all()


def test_phones_and_heavy_users_click_as_planted(tmp_path: Path) -> None:
    asked = Slates(slates=20_000, slots=3, device_effect=1.0, offsets=1.0)
    world = simulate(tmp_path, asked, users=60, items=30, seed=5)
    log = pq.read_table(world.interactions)
    user, item = world.rows(log["user_id"].to_pylist()), world.rows(log["item_id"].to_pylist())
    wanted = sigmoid(world.teacher[user, item] - 2 + world.offsets[user])
    phone = np.array(log["device"].to_pylist()) == "phone"
    third, click = log["position"].to_numpy() == 3, log["click"].to_numpy()
    assert world.phone_examination == pytest.approx([1, 1 / 4, 1 / 9])
    for device, examined in ((phone, 1 / 9), (~phone, 1 / 3)):
        assert click[third & device].sum() / wanted[third & device].sum() == pytest.approx(examined, abs=0.02)
    first = np.array(pq.read_table(world.users)["user_factors"].to_pylist())[:, 0]
    assert np.corrcoef(first, world.offsets)[0, 1] > 0.6
    clicks = np.bincount(user, weights=click, minlength=60) / np.bincount(user, minlength=60)
    assert np.corrcoef(clicks, world.offsets)[0, 1] > 0.8


def test_a_history_is_what_the_user_clicked_before(tmp_path: Path) -> None:
    world = simulate(tmp_path, Slates(slates=200, slots=4, logger=1, history=3), users=5, items=20, affinity=4)
    log = pq.read_table(world.interactions).to_pylist()
    before: dict[str, list[str]] = {}
    longest = 0
    for at in range(0, len(log), 4):
        slate = log[at : at + 4]
        past = before.setdefault(slate[0]["user_id"], [])
        assert all(row["history"] == past[-3:] for row in slate)
        longest = max(longest, len(past))
        past += [row["item_id"] for row in slate if row["click"]]
    assert longest > 10


def test_tastes_turn_from_what_users_are_to_what_recommenders_are_judged_by(tmp_path: Path) -> None:
    log = Slates(slates=4000, turn=np.pi / 2, logger=0, boost=0)
    turned = simulate(tmp_path / "turned", log, users=50, items=40, quality=0, seed=1)
    still = simulate(tmp_path / "still", Slates(slates=4000, logger=0, boost=0), users=50, items=40, quality=0, seed=1)
    assert pq.read_table(turned.users).equals(pq.read_table(still.users))  # the factors of the beginning
    assert abs(np.corrcoef(turned.teacher.ravel(), still.teacher.ravel())[0, 1]) < 0.1  # at right angles in the end
    table = pq.read_table(turned.interactions)
    user, item = turned.rows(table["user_id"].to_pylist()), turned.rows(table["item_id"].to_pylist())
    angle = np.pi / 2 * table["slate"].to_numpy() / 4000
    wanted = np.cos(angle) * still.teacher[user, item] + np.sin(angle) * turned.teacher[user, item] - 2
    np.testing.assert_allclose(table["teacher"].to_numpy(), wanted, atol=1e-4)


def test_choices_follow_taste_and_clickbait(tmp_path: Path) -> None:
    world = simulate(tmp_path, Choices(clicks=1, clickbait=1.0, held_out=0.25), users=4000, items=6, affinity=0, seed=2)
    log, held = pq.read_table(world.interactions), pq.read_table(world.held_out)
    assert (log.num_rows, held.num_rows) == (3000, 1000)
    assert not set(log["user_id"].to_pylist()) & set(held["user_id"].to_pylist())
    # without an affinity all users want the same: the shares are a softmax
    odds = np.exp(world.teacher[0] + world.clickbait)
    picked = np.bincount(world.rows(log["item_id"].to_pylist()), minlength=6) / 3000
    np.testing.assert_allclose(picked, odds / odds.sum(), atol=0.03)
    several = simulate(tmp_path / "several", Choices(clicks=4, held_out=0), users=10, items=6)
    chosen = pq.read_table(several.interactions)
    assert pq.read_metadata(several.held_out).num_rows == 0
    assert set(zip(chosen["user_id"].to_pylist(), chosen["item_id"].to_pylist(), strict=True)).__len__() == 40


@pytest.mark.parametrize("log", [Slates(slates=50, slots=3, history=2), Choices(clicks=3)])
def test_the_same_seed_writes_the_same(tmp_path: Path, log: Slates | Choices) -> None:
    def made(name: str, seed: int) -> tuple[Simulation, pa.Table]:
        world = simulate(tmp_path / name, log, users=10, items=12, seed=seed)
        return world, pq.read_table(world.interactions)

    (one, table), (two, again), (_, other) = made("one", 4), made("two", 4), made("three", 5)
    assert table.equals(again)
    assert not table.equals(other)
    np.testing.assert_array_equal(one.teacher, two.teacher)


@pytest.mark.parametrize("log", [Slates(slates=60, slots=4, history=3), Choices(clicks=4)])
def test_its_schema_reads_it_and_a_model_trains(tmp_path: Path, log: Slates | Choices) -> None:
    world = simulate(tmp_path, log, users=20, items=15)
    schema = sf.Schema.from_yaml(world.schema).fit(world.interactions, world.users, world.items)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([4]))
    model.compile("adam")
    assert np.isfinite(model.fit(world.interactions, batch_size=64, verbose=0).history["loss"]).all()
    unnamed = schema.select_by_name([it.name for it in schema if it.name not in ("user_id", "history")])
    report = sf.evaluate(sf.TwoTowerModel(unnamed, sf.MLPBlock([4])), world.interactions, world.items, ks=[3])
    assert 0 < report["recall@3"] < 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"log": Slates(slots=20)}, "items is 10; expected at least 20"),
        ({"log": Choices(clicks=20)}, "items is 10; expected at least 20"),
        ({"log": Slates(slots=2, examination=(1.0,))}, "examination has 1 numbers; expected one for each of 2 slots"),
        ({"log": Slates(slots=2, examination=(0.5, 0.2))}, "expected 1 first, and numbers above 0"),
        ({"log": Choices(clicks=2, held_out=1)}, "held_out is 1; expected a share"),
        ({"log": Slates(slots=2, history=-1)}, "history is -1; expected an integer of at least 0"),
        ({"log": Slates(slots=2), "dim": 0}, "dim is 0; expected an integer of at least 1"),
        ({"log": Slates(slates="3")}, "slates is '3'; expected an integer"),  # type: ignore[arg-type]
        ({"log": Slates(turn=np.nan)}, "turn is nan; expected a finite number"),
    ],
)
def test_worlds_that_cannot_be(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(tmp_path, **{"users": 5, "items": 10, **arguments})  # type: ignore[arg-type]
