"""What was never seen: its row is no noise, and its features speak for it."""

from typing import Any

import keras
import numpy as np
import pytest

import schemaflow as sf
from schemaflow.errors import ConfigError
from schemaflow.features import unseen

PLAIN = """
version: 1
features:
  user: {dtype: string, tags: [user, id], vocabulary: learned}
  item: {dtype: string, tags: [item, id], vocabulary: learned}
"""
RICH = (
    PLAIN
    + """
  taste: {dtype: string, tags: [user, categorical], vocabulary: learned}
  genre: {dtype: string, tags: [item, categorical], vocabulary: learned}
"""
)
EVENTS = {"user": ["u", "v", "w", "u"], "item": ["a", "b", "a", "c"]}


def fitted(yaml: str, *tables: Any) -> sf.Schema:
    return sf.Schema.from_config({"fitted": {}, "yaml": yaml}).fit(*tables)


def trained(schema: sf.Schema, events: Any, optimizer: Any = "adam", **options: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(1)
    options = {"embedding_dim_default": 8, **options}
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=sf.EmbeddingOptions(**options))
    model.compile(optimizer=optimizer)
    model.fit(events, batch_size=2, epochs=2, verbose=0)
    return model


def table_of(model: sf.TwoTowerModel, name: str) -> Any:
    encoders = {**model.query_tower.encoder.encoders, **model.item_tower.encoder.encoders}
    return encoders[name].table.embeddings.numpy()


# -- rows that no example trains --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        "adam",
        "adagrad",
        "sgd",
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
        lambda: keras.optimizers.SGD(0.1, weight_decay=0.5, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
        lambda: keras.optimizers.AdamW(0.01, use_ema=True),
    ],
)
def test_untrained_rows_are_the_mean_of_the_trained_ones(optimizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the optimizer makes all rows shorter at each step, or puts averages in their place at the end."""
    optimizer = optimizer if isinstance(optimizer, str) else optimizer()
    monkeypatch.setattr(unseen, "CHUNK", 16)  # two rows at a time
    schema = fitted(PLAIN, EVENTS, {"item": ["a", "b", "c", "new", "newer"]})
    rows = {name: place + 3 for place, name in enumerate(schema.vocabulary("item").to_pylist())}
    table = table_of(trained(schema, EVENTS, optimizer), "item")
    seen = table[[rows["a"], rows["b"], rows["c"]]]
    assert len(np.unique(seen, axis=0)) == 3
    for row in (1, 2, rows["new"], rows["newer"]):  # missing, out of vocabulary, and ids of no interaction
        np.testing.assert_allclose(table[row], seen.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("weight_decay", [None, 0.1])
def test_rows_that_training_reached_stay_as_it_left_them(weight_decay: float | None) -> None:
    yaml = PLAIN.replace("[item, id], vocabulary: learned", "[item, id], vocabulary: [a, b, d]")
    events = {"user": ["u", "v", "w", "u"], "item": ["a", "b", "strange", "stranger"]}
    model = trained(fitted(yaml, events), events, keras.optimizers.Adam(0.001, weight_decay=weight_decay))
    table = table_of(model, "item")
    assert not np.allclose(table[2], table[3:5].mean(axis=0), atol=1e-3)  # examples have trained it
    np.testing.assert_array_equal(table[5], table[2])  # and it stands for d, which none has
    everything = trained(fitted(PLAIN, EVENTS, {"item": ["a", "z"]}), EVENTS)
    catalogue = sf.TwoTowerModel(everything.schema, sf.MLPBlock([8]), samplers=["uniform"])
    catalogue.compile(optimizer="sgd")
    catalogue.fit(EVENTS, batch_size=2, epochs=3, verbose=0)
    drawn = table_of(catalogue, "item")
    assert not np.allclose(drawn[6], drawn[3:6].mean(axis=0), atol=1e-4)  # z was drawn as a negative


def test_training_goes_on_from_what_the_rows_stand_for() -> None:
    model = trained(fitted(PLAIN, EVENTS), EVENTS)
    model.fit(EVENTS, batch_size=2, epochs=1, verbose=0)
    table = table_of(model, "user")
    np.testing.assert_allclose(table[2], table[3:].mean(axis=0), atol=1e-6)


def test_frozen_tables_stay_as_they_are() -> None:
    yaml = PLAIN.replace(
        "tags: [item, id], vocabulary: learned", "tags: [item, id], vocabulary: learned, embedding: {trainable: false}"
    )
    schema = fitted(yaml, EVENTS)
    keras.utils.set_random_seed(1)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]))
    before = table_of(model, "item")
    model.compile(optimizer="adam")
    model.fit(EVENTS, verbose=0)
    np.testing.assert_array_equal(table_of(model, "item"), before)


def test_by_ids_alone_a_new_user_is_recommended_what_most_choose() -> None:
    rng = np.random.default_rng(0)
    share = 0.75 ** np.arange(12)
    chosen = rng.choice(12, 3000, p=share / share.sum())
    events = {"user": [f"u{it}" for it in rng.integers(0, 50, 3000)], "item": [f"i{it:02}" for it in chosen]}
    keras.utils.set_random_seed(0)
    model = sf.TwoTowerModel(
        fitted(PLAIN, events), sf.MLPBlock([]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=4)
    )
    model.compile(optimizer=sf.optimizers.Adam(0.02))
    model.fit(events, batch_size=64, epochs=4, verbose=0)
    index = model.to_index({"item": sorted(set(events["item"]))}, k=12)
    _, best = index(model.query_embeddings({"user": ["nobody", "noone"]}))
    assert set(best.numpy()[0, :3].astype(str)) <= {"i00", "i01", "i02", "i03"}
    np.testing.assert_array_equal(best[0], best[1])


# -- ids that are dropped ---------------------------------------------------------------------------------------------


def test_dropped_ids_train_the_row_that_stands_for_new_ones() -> None:
    schema = fitted(PLAIN, EVENTS, {"item": ["a", "b", "c", "new"]})
    table = table_of(trained(schema, EVENTS, id_dropout=0.5), "item")
    assert not np.allclose(table[2], table[3:6].mean(axis=0), atol=1e-3)
    np.testing.assert_array_equal(table[6], table[2])


def test_ids_are_dropped_at_the_rate_asked_and_in_training_alone() -> None:
    yaml = RICH.replace("vocabulary: learned}", "vocabulary: learned, oov: 2}", 1)
    schema = fitted(yaml, {**EVENTS, "taste": list("xyxx"), "genre": list("pqpq")})
    options = sf.EmbeddingOptions(embedding_dim_default=4, id_dropout=0.3)
    keras.utils.set_random_seed(0)
    encoders = sf.TwoTowerModel(schema, sf.MLPBlock([4]), embedding_options=options).query_tower.encoder.encoders
    rows = np.full(4000, 5, np.int32)
    for name, unknown in (("user", [2, 3]), ("taste", [])):
        table, encoder = encoders[name].table.embeddings.numpy(), encoders[name]
        rows = np.full(4000, 4, np.int32)
        np.testing.assert_array_equal(encoder(rows), table[rows])
        drawn = np.asarray(encoder(rows, training=True))
        for row in unknown:
            assert (drawn == table[row]).all(axis=1).mean() == pytest.approx(0.15, abs=0.03)
        assert (drawn == table[4]).all(axis=1).mean() == pytest.approx(0.7 if unknown else 1.0, abs=0.03)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"id_dropout is .*; expected a share"):
        sf.EmbeddingOptions(id_dropout=rate)


def test_without_a_row_for_new_ids_none_can_be_dropped() -> None:
    schema = sf.Schema((
        sf.Feature(name="user", dtype="string", tags=("user", "id"), hash=5),
        sf.Feature(name="item", dtype="int32", tags=("item", "id"), cardinality=9),
    ))  # fmt: skip
    with pytest.raises(ConfigError, match='no id has one; give an id the key "vocabulary: learned"'):
        sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=sf.EmbeddingOptions(id_dropout=0.1))


# -- features speak for what is new -----------------------------------------------------------------------------------


def test_features_find_new_items_and_ids_alone_cannot() -> None:
    """People like the ten items of one genre; each genre's last one is only in the test."""
    rng = np.random.default_rng(3)
    taste, choice = rng.integers(0, 12, 4000), rng.integers(0, 10, 4000)
    names = [f"i{genre:02}{number}" for genre in range(12) for number in range(10)]
    events = {
        "user": [f"u{it:02}{rng.integers(0, 5)}" for it in taste],
        "taste": [f"t{it}" for it in taste],
        "item": [f"i{genre:02}{number}" for genre, number in zip(taste, choice, strict=True)],
        "genre": [f"g{it}" for it in taste],
    }
    items = {"item": names, "genre": [f"g{int(it[1:3])}" for it in names]}
    old, new = ({name: np.array(it)[where] for name, it in events.items()} for where in (choice < 9, choice == 9))
    reports = {}
    for yaml in (PLAIN, RICH):
        keras.utils.set_random_seed(0)
        model = sf.TwoTowerModel(
            fitted(yaml, old), sf.MLPBlock([16]), embedding_options=sf.EmbeddingOptions(embedding_dim_default=8)
        )
        model.compile(optimizer=sf.optimizers.Adam(0.01))
        model.fit(old, batch_size=128, epochs=4, verbose=0)
        reports[yaml] = sf.evaluate(model, new, items, ks=[10])
    chance = 10 / len(names)  # 0.083
    assert reports[RICH].cold["recall@10"] > 10 * chance
    assert reports[PLAIN].cold["recall@10"] == 0.0  # all new items are one to it
    assert reports[RICH].protocol["cold positives"] == len(new["item"])
    assert reports[RICH].warm == {}


def test_what_was_learned_stays_learned_after_growth_and_another_fit() -> None:
    schema = sf.Schema((
        sf.Feature.model_validate({"name": "user", "dtype": "string", "tags": ["user", "id"], "vocabulary": "learned"}),
        sf.Feature.model_validate({"name": "item", "dtype": "string", "tags": ["item", "id"], "vocabulary": "learned"}),
    ))  # fmt: skip
    first = {"user": ["u", "v", "w", "u"] * 4, "item": ["a", "b", "c", "b"] * 4}
    news = {"user": ["u", "n"] * 4, "item": ["b", "z"] * 4}
    model = sf.TwoTowerModel(schema.fit(first), sf.MLPBlock([4]))
    model.compile(optimizer="adagrad")
    model.fit(first, batch_size=8, verbose=0)
    grown = model.grow(model.schema.fit(news))
    grown.fit(news, batch_size=8, epochs=2, verbose=0)
    table, old = (
        next(weight.numpy() for weight in it.item_tower.weights if weight.path.endswith("_table/embeddings"))
        for it in (grown, model)
    )
    place = model.schema.vocabulary("item").to_pylist()
    for name in ("a", "c"):  # of which the news say nothing
        row = 3 + place.index(name)
        assert table[row].tolist() == old[row].tolist()
