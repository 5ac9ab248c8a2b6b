"""A model that grows: what it had stays bit for bit, new rows begin where it was, and training goes on."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.ridge import ridge
from schemaflow.schema.rows import rows_in

EMBEDDINGS = sf.EmbeddingOptions(embedding_dim_default=4)
OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.3),
    "adam of rows": lambda: sf.optimizers.Adam(0.05),
    "adagrad of rows": lambda: sf.optimizers.Adagrad(0.1, initial_accumulator_value=0.3),
    "adagrad, one number a row": lambda: sf.optimizers.Adagrad(0.1, initial_accumulator_value=0.3, row_wise=True),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.3, 20), momentum=0.9),
}


def feature(name: str, tags: list[str], dtype: str = "string", **spec: object) -> sf.Feature:
    return sf.Feature.model_validate({"name": name, "dtype": dtype, "tags": tags, **spec})


USER = feature("user", ["user", "id"], vocabulary="learned")
ITEM = feature("item", ["item", "id"], vocabulary="learned")
GENRES = feature("genres", ["item", "categorical"], vocabulary="learned", list={})
PRICE = feature("price", ["item", "continuous"], "float32", normalize="standard")
EVENTS = {
    "user": ["u", "v", "u", "w", "x", "v"],
    "item": ["a", "b", "b", "c", "d", "a"],
    "genres": [["g"], ["h", "g"], ["h", "g"], [], ["h"], ["g"]],
    "price": [1.0, 2.0, 2.0, 3.0, 4.0, 1.0],
}
NEW_ITEMS = {"item": ["y", "z"], "genres": [["i"], ["g"]], "price": [5.0, 6.0]}
SCHEMA = sf.Schema((USER, ITEM, GENRES, PRICE)).fit(EVENTS)
WIDER = SCHEMA.fit(EVENTS, NEW_ITEMS)  # the same counts, so that the same log-Q


def trained(
    schema: sf.Schema = SCHEMA, optimizer: Any = None, table: Any = None, eagerly: bool = True, **arguments: Any
) -> sf.TwoTowerModel:
    """A tiny model; eager, since tracing its graph would take longer than training it."""
    keras.utils.set_random_seed(3)
    arguments.setdefault("embedding_options", EMBEDDINGS)
    model = sf.TwoTowerModel(schema, arguments.pop("block", sf.MLPBlock([6, 4], dropout=0.3)), **arguments)
    model.compile(optimizer=OPTIMIZERS["adam"]() if optimizer is None else optimizer, run_eagerly=eagerly)
    model.fit(EVENTS if table is None else table, batch_size=4, verbose=0)
    return model


def train_on(model: sf.TwoTowerModel, table: Any = None) -> list[float]:
    keras.utils.set_random_seed(9)
    history = model.fit(EVENTS if table is None else table, batch_size=4, epochs=2, verbose=0)
    losses: list[float] = history.history["loss"]
    return losses


def table_of(model: sf.TwoTowerModel, name: str) -> Any:
    encoders = {**model.query_tower.encoder.encoders, **model.item_tower.encoder.encoders}
    return encoders[name].table


def rows_of(model: sf.TwoTowerModel, name: str) -> np.ndarray:
    rows: np.ndarray = table_of(model, name).embeddings.numpy()
    return rows


def slots_of(model: sf.TwoTowerModel, name: str) -> list[np.ndarray]:
    """The optimizer's variables that belong to a table."""
    prefix = f"{name}_table_embeddings_"
    return [it.numpy() for it in model.optimizer.variables if it.name.startswith(prefix)]


# -- what stays -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> sf.TwoTowerModel:
    """A model that no test trains on."""
    return trained()


@pytest.mark.parametrize(("name", "eagerly"), [(name, name != "adam") for name in OPTIMIZERS])
def test_growing_by_nothing_changes_nothing_even_in_training(name: str, eagerly: bool) -> None:
    model = trained(optimizer=OPTIMIZERS[name](), eagerly=eagerly)
    grown = model.grow(SCHEMA)
    assert grown is not model
    assert grown.run_eagerly is eagerly
    assert grown.get_config() == model.get_config()
    for first, second in zip(model.optimizer.variables, grown.optimizer.variables, strict=True):
        assert np.array_equal(first.numpy(), second.numpy()), first.name
    assert int(grown.optimizer.iterations) == 2
    assert train_on(model) == train_on(grown)
    for first, second in zip(model.variables, grown.variables, strict=True):
        assert np.array_equal(first.numpy(), second.numpy()), first.path
    for first, second in zip(model.optimizer.variables, grown.optimizer.variables, strict=True):
        assert np.array_equal(first.numpy(), second.numpy()), first.name


@pytest.mark.parametrize(("name", "eagerly"), [(name, name != "adam") for name in OPTIMIZERS])
def test_old_rows_and_slots_stay_and_train_on_as_if_nothing_had_grown(name: str, eagerly: bool) -> None:
    model = trained(optimizer=OPTIMIZERS[name](), eagerly=eagerly)
    grown = model.grow(WIDER)
    untouched = sf.TwoTowerModel(WIDER, sf.MLPBlock([6, 4]), embedding_options=EMBEDDINGS)
    untouched.compile(optimizer=OPTIMIZERS[name]())
    untouched.optimizer.build(untouched.trainable_variables)
    sizes = {"user": (7, 7), "item": (7, 9), "genres": (5, 6)}
    for feature_name, (before, after) in sizes.items():
        assert rows_of(model, feature_name).shape == (before, 4)
        assert rows_of(grown, feature_name).shape == (after, 4)
        assert np.array_equal(rows_of(grown, feature_name)[:before], rows_of(model, feature_name))
        found = zip(slots_of(model, feature_name), slots_of(grown, feature_name), slots_of(untouched, feature_name), strict=True)  # fmt: skip
        for old, new, start in found:
            assert old.any()  # training has filled it
            assert np.array_equal(new[:before], old)
            assert np.array_equal(new[before:], start[before:])  # as a fresh optimizer has them: zeros, or 0.3
    assert slots_of(model, "item")
    assert train_on(model) == train_on(grown)
    for feature_name, (before, _) in sizes.items():
        kept = np.r_[0, 3:before]  # missing and out of vocabulary stand for the mean of the values, which are more now
        assert np.array_equal(rows_of(grown, feature_name)[kept], rows_of(model, feature_name)[kept])
        for old, new in zip(slots_of(model, feature_name), slots_of(grown, feature_name), strict=True):
            assert np.array_equal(new[:before], old)
    kernels = [[it.numpy() for it in m.item_tower.block.weights] for m in (model, grown)]
    for first, second in zip(*kernels, strict=True):
        assert np.array_equal(first, second)


def test_the_old_model_is_left_as_it_is_and_the_new_one_learns_of_the_new_items() -> None:
    model = trained()
    before = [it.numpy() for it in model.variables]
    news = {**{name: [*EVENTS[name], *NEW_ITEMS[name]] for name in NEW_ITEMS}, "user": [*EVENTS["user"], "u", "q"]}
    schema = SCHEMA.fit(news)
    grown = model.grow(schema)
    start = rows_of(grown, "item")[7:]
    train_on(grown, news)
    assert not np.isclose(rows_of(grown, "item")[7:], start).any()
    for first, second in zip(before, model.variables, strict=True):
        assert np.array_equal(first, second.numpy())


def test_a_rate_that_was_set_since_and_a_model_never_trained_or_compiled() -> None:
    model = trained(optimizer="adam")
    model.optimizer.learning_rate = 0.0123
    assert float(model.grow(WIDER).optimizer.learning_rate) == np.float32(0.0123)
    bare = sf.TwoTowerModel(SCHEMA, sf.MLPBlock([4]), embedding_options=EMBEDDINGS)
    assert not bare.grow(WIDER).compiled
    bare.compile(optimizer=keras.optimizers.Adagrad(0.3))
    grown = bare.grow(WIDER)
    assert int(grown.optimizer.iterations) == 0
    assert float(grown.optimizer.learning_rate) == np.float32(0.3)
    assert np.array_equal(rows_of(grown, "item")[:7], rows_of(bare, "item"))


def test_half_precision_keeps_its_loss_scale() -> None:
    model = trained(dtype="mixed_float16", block=sf.MLPBlock([4], dtype="mixed_float16"))
    model.optimizer.dynamic_scale.assign(512.0)
    grown = model.grow(WIDER)
    assert float(grown.optimizer.dynamic_scale) == 512.0
    assert np.array_equal(slots_of(grown, "item")[0][:7], slots_of(model, "item")[0])
    assert slots_of(model, "item")[0].any()


def test_moving_averages_of_new_rows_begin_at_the_rows() -> None:
    model = trained(optimizer=keras.optimizers.Adam(0.05, use_ema=True))
    grown = model.grow(WIDER)
    (old,), (new,) = (
        [it.numpy() for it in m.optimizer.variables if it.name == "item_table_embeddings_average"]
        for m in (model, grown)
    )
    assert np.array_equal(new[:7], old)
    assert np.array_equal(new[7:], rows_of(grown, "item")[7:])


def test_inferred_widths_stay_what_they_were() -> None:
    """ceil(rows^0.25 * 2): 7 rows give 4, 82 give 7."""
    options = sf.EmbeddingOptions(infer_embedding_sizes=True)
    model = trained(embedding_options=options)
    assert rows_of(model, "item").shape == (7, 4)
    many = {"item": [f"n{number}" for number in range(75)], "genres": [["g"]] * 75, "price": [1.0] * 75}
    grown = model.grow(SCHEMA.fit(EVENTS, many))
    assert rows_of(grown, "item").shape == (82, 4)
    again = grown.grow(grown.schema)
    assert rows_of(again, "item").shape == (82, 4)
    assert train_on(again)[0] > 0


# -- where new rows begin ---------------------------------------------------------------------------------------------


def test_new_values_begin_at_the_row_that_has_served_them(plain: sf.TwoTowerModel) -> None:
    model = plain
    for name, first in (("item", 7), ("genres", 5)):
        grown = rows_of(model.grow(WIDER), name)
        assert np.array_equal(grown[first:], np.tile(rows_of(model, name)[2], (len(grown) - first, 1)))
    # so the grown model says of a new item what the old one said
    vectors = [m.candidate_embeddings(NEW_ITEMS) for m in (model, model.grow(WIDER))]
    assert np.array_equal(*vectors)
    asked = [m.query_embeddings({"user": ["nobody", "u"]}) for m in (model, model.grow(WIDER))]
    assert np.array_equal(*asked)


def test_with_several_out_of_vocabulary_rows_each_begins_at_its_own() -> None:
    item = feature("item", ["item", "id"], vocabulary="learned", oov=5)
    schema = sf.Schema((USER, item)).fit(EVENTS)
    model = trained(schema)
    names = [f"new{number}" for number in range(40)]
    grown = model.grow(schema.fit(EVENTS, {"item": names}))
    served = rows_in(schema.domains["item"], schema.vocabulary("item"), pa.array(sorted(names), pa.large_string()))
    assert set(served) == {2, 3, 4, 5, 6}
    assert grown.schema.vocabulary("item").to_pylist()[4:] == sorted(names)
    assert np.array_equal(rows_of(grown, "item")[7 + 4 :], rows_of(model, "item")[served])
    vectors = [m.candidate_embeddings({"item": names}) for m in (model, grown)]
    assert np.array_equal(*vectors)


def test_a_spare_row_that_a_new_value_takes_begins_anew() -> None:
    """A table of 10 rows with 4 values has 3 spare ones, and the new schema asks for 12."""

    def bounded(rows: int) -> sf.Schema:
        item = feature("item", ["item", "id"], vocabulary="learned", cardinality=rows)
        return sf.Schema((USER, item))

    schema = bounded(10).fit(EVENTS)
    model = trained(schema, OPTIMIZERS["adagrad"]())
    table = table_of(model, "item").embeddings
    table.assign(np.where(np.arange(10)[:, np.newaxis] < 7, table.numpy(), np.float32(0.5)))  # the spare rows
    for slot in (it for it in model.optimizer.variables if it.name == "item_table_embeddings_accumulator"):
        slot.assign(np.full((10, 4), 7.0, np.float32))
    old = rows_of(model, "item")
    for rows, taken in ((10, [7]), (12, [7, 10, 11])):
        known = sf.Schema((USER, bounded(rows)["item"]), fitted=schema.fitted)
        grown = model.grow(known.fit(EVENTS, {"item": ["z"]}))
        now = rows_of(grown, "item")
        assert now.shape == (rows, 4)
        assert np.array_equal(now[taken], np.tile(old[2], (len(taken), 1)))
        kept = [row for row in range(10) if row not in taken]
        assert np.array_equal(now[kept], old[kept])
        (accumulator,) = slots_of(grown, "item")
        assert (accumulator[taken] == np.float32(0.3)).all()
        assert (accumulator[kept] == 7.0).all()
    assert not np.isclose(old[2], 0.5).any()


def test_rows_that_are_ids_themselves_begin_at_the_mean_of_those_trained() -> None:
    def numbered(rows: int) -> sf.Schema:
        item = feature("item", ["item", "id"], "int64", cardinality=rows)
        return sf.Schema((USER, item))

    table = {"user": ["u", "v", "u"], "item": [0, 3, 3]}
    model = trained(numbered(5).fit(table), table=table)
    grown = model.grow(sf.Schema((USER, numbered(8)["item"]), fitted=model.schema.fitted).fit(table))
    old, new = rows_of(model, "item"), rows_of(grown, "item")
    assert np.array_equal(new[:5], old)
    assert new[5:] == pytest.approx(np.tile((old[0] + old[3]) / 2, (3, 1)))


def test_pretrained_tables_begin_new_rows_with_their_vectors(tmp_path: Path) -> None:
    vectors = {"id": list("abcdyz"), "v": [[float(place), 1.0, 0.0] for place in range(6)]}
    pq.write_table(pa.table(vectors), tmp_path / "v.parquet")
    given = {"pretrained": {"file": "v.parquet", "key": "id", "vector": "v"}}
    for trainable in (True, False):
        item = feature("item", ["item", "id"], vocabulary="learned", embedding={**given, "trainable": trainable}, oov=2)
        schema = sf.Schema((USER, item, PRICE), folder=tmp_path).fit(EVENTS)
        model = trained(schema)
        grown = model.grow(schema.fit(EVENTS, NEW_ITEMS))
        old, new = rows_of(model, "item"), rows_of(grown, "item")
        assert np.array_equal(new[:8], old)
        assert np.array_equal(new[8:], [[4.0, 1.0, 0.0], [5.0, 1.0, 0.0]])
        assert np.array_equal(old[4:8], [vectors["v"][place] for place in range(4)]) is not trainable
        with pytest.raises(ConfigError, match="begin with its pretrained vectors; leave that table out"):
            model.grow(grown.schema, {name: [*EVENTS[name], *NEW_ITEMS[name]] for name in NEW_ITEMS})


def test_a_table_that_both_towers_share_grows_once() -> None:
    seen = feature("seen", ["user", "sequence"], vocabulary="learned", list={}, domain="item")
    schema = sf.Schema((USER, seen, ITEM.model_copy(update={"domain": "item"})))
    table = {"user": EVENTS["user"], "item": EVENTS["item"], "seen": [["b"], [], ["a", "e"], ["d"], ["b"], ["c"]]}
    model = trained(schema.fit(table), table=table)
    grown = model.grow(model.schema.fit(table, {"item": ["z"]}))
    assert table_of(grown, "seen") is table_of(grown, "item")
    assert grown.schema.vocabulary("item").to_pylist() == ["b", "a", "c", "d", "e", "z"]
    assert np.array_equal(rows_of(grown, "item"), rows_of(model, "item")[[*range(8), 2]])
    assert len(slots_of(grown, "item")) == len(slots_of(model, "item")) == 2
    asked = {"user": ["u"], "seen": [["z", "b"]]}
    assert np.array_equal(model.query_embeddings(asked), grown.query_embeddings(asked))


# -- side features ----------------------------------------------------------------------------------------------------


def test_ridge_finds_a_plane_and_gives_up_on_noise() -> None:
    random = np.random.default_rng(4)
    x, plane = random.normal(size=(200, 3)) * [1.0, 100.0, 0.01] + 5.0, random.normal(size=(3, 2))
    queries = random.normal(size=(50, 3)) * [1.0, 100.0, 0.01] + 5.0
    assert ridge(x, x @ plane - 7.0, queries) == pytest.approx(queries @ plane - 7.0, rel=1e-2)
    same = np.column_stack([x, np.full(200, 3.0)])  # a column that says nothing, whatever it holds later
    asked = np.column_stack([queries, np.full(50, 9.0)])
    assert ridge(same, x @ plane, asked) == pytest.approx(ridge(x, x @ plane, queries))
    noise = random.normal(size=(200, 2))
    assert np.abs(ridge(x, noise, queries) - noise.mean(axis=0)).max() < 0.3
    assert ridge(x[:2], noise[:2], queries).shape == (50, 2)


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_ridge_is_one_of_the_ridge_regressions(n: int, width: int, seed: int) -> None:
    """Against the normal equations, solved for every penalty, the best by cross-validation of the hat matrix."""
    random = np.random.default_rng(seed)
    x, y, queries = random.normal(size=(n, width)), random.normal(size=(n, 2)), random.normal(size=(3, width))
    z, q, target = (x - x.mean(0)) / x.std(0), (queries - x.mean(0)) / x.std(0), y - y.mean(0)
    errors, answers = [], []
    for penalty in n * np.logspace(-4, 3, 15):
        inverse = np.linalg.inv(z.T @ z + penalty * np.eye(width))
        hat = z @ inverse @ z.T
        errors.append(((target - hat @ target) ** 2).sum() / (n - 1 - np.trace(hat)) ** 2)
        answers.append(y.mean(0) + q @ inverse @ z.T @ target)
    found = ridge(x, y, queries)
    close = [np.allclose(found, it, rtol=1e-5, atol=1e-6) for it in answers]
    assert errors[int(np.argmax(close))] == pytest.approx(min(errors), rel=1e-4)
    assert any(close)


@pytest.fixture(scope="module")
def planted() -> tuple[sf.TwoTowerModel, dict[str, Any], dict[str, Any], np.ndarray]:
    """Users and items of four tastes; items tell theirs by a word. Trained on three quarters of the items of each."""
    random = np.random.default_rng(0)
    users, items = np.arange(80), np.arange(64)
    kind = items % 4
    known = items[items < 48]
    user = np.repeat(users, 25)
    item = np.array([random.choice(known[kind[known] == it % 4]) for it in user])
    word = np.array(["rock", "jazz", "folk", "punk"])
    events = {
        "user": [f"u{it}" for it in user],
        "item": [f"i{it:02}" for it in item],
        "word": word[kind[item]].tolist(),
    }
    catalogue = {"item": [f"i{it:02}" for it in items], "word": word[kind].tolist()}
    schema = sf.Schema((USER, ITEM, feature("word", ["item", "categorical"], vocabulary="learned"))).fit(events)
    keras.utils.set_random_seed(5)
    options = sf.EmbeddingOptions(embedding_dim_default=8)
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=options)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(events, batch_size=100, epochs=12, verbose=0)
    return model, events, catalogue, kind


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product: np.ndarray = (first * second).sum(-1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))
    return product


def test_new_items_begin_where_their_side_features_are(planted: Any) -> None:
    model, events, catalogue, kind = planted
    schema = model.schema.fit(events, catalogue)
    plain, grown = model.grow(schema), model.grow(schema, catalogue)
    item_rows = np.array([3 + schema.vocabulary("item").to_pylist().index(it) for it in catalogue["item"]])
    rows = rows_of(grown, "item")
    assert np.array_equal(rows[: model.schema.rows("item")], rows_of(model, "item"))
    # the truth: the mean of the rows that were trained on items of that taste
    truth = np.stack([rows[item_rows[:48]][kind[:48] == it].mean(axis=0) for it in kind[48:]])
    predicted = cosine(rows[item_rows[48:]], truth)
    out_of_vocabulary = cosine(rows_of(plain, "item")[item_rows[48:]], truth)
    assert predicted.min() > 0.9
    assert out_of_vocabulary.max() < 0.8
    assert (predicted > out_of_vocabulary).all()
    # and each user is recommended new items of the user's own taste
    new = {name: values[48:] for name, values in catalogue.items()}
    users = {"user": [f"u{it}" for it in range(80)]}
    scores = grown.query_embeddings(users) @ grown.candidate_embeddings(new).T
    best = np.argsort(-scores, axis=1)[:, :4]
    assert (kind[48:][best] == np.arange(80)[:, None] % 4).mean() > 0.95
    # among all items, those that were trained and those that are new alike
    everything = grown.query_embeddings(users) @ grown.candidate_embeddings(catalogue).T
    found = np.argsort(-everything, axis=1)[:, :16]
    assert (kind[found] == np.arange(80)[:, None] % 4).mean() > 0.95
    assert 0.1 < (found >= 48).mean() < 0.4  # a quarter of them are new


def test_a_table_of_users_with_lists_and_weights_serves_too(tmp_path: Path) -> None:
    tags = feature("likes", ["user", "categorical"], vocabulary="learned", list={"weights": "how"})
    weights = feature("how", ["user", "weight"], "float32", list={})
    age = feature("age", ["user", "continuous"], "int32", normalize="standard")
    hour = feature("hour", ["context"], "int64", time={"take": "hour"})
    users = {
        "user": ["u", "v", "w", "x", "new", "newer"],
        "likes": [["p"], ["p", "q"], [], ["q"], ["p", "q"], ["r"]],
        "how": [[1.0], [1.0, 2.0], [], [0.5], [1.0, 2.0], [1.0]],
        "age": pa.array([10, 20, 30, 40, 20, 15], pa.int32()),
    }
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table(users), path)
    tables = {"users": sf.schema.SideTable(file="users.parquet", key="user")}
    schema = sf.Schema((USER, tags, weights, age, hour, ITEM), tables=tables)
    events = tmp_path / "events.parquet"
    pq.write_table(pa.table({"user": EVENTS["user"], "item": EVENTS["item"], "hour": [0] * 6}), events)
    known = tmp_path / "known"
    known.mkdir()
    pq.write_table(pa.table(users).slice(0, 4), known / "users.parquet")
    pq.write_table(pq.read_table(events), known / "events.parquet")
    model = trained(schema.fit(known / "events.parquet"), table=known / "events.parquet")
    grown = model.grow(model.schema.fit(events), path)
    assert grown.schema.vocabulary("user").to_pylist()[-2:] == ["new", "newer"]
    rows = rows_of(grown, "user")
    assert np.array_equal(rows[:-2], rows_of(model, "user"))
    assert not np.isclose(rows[-2:], rows_of(model, "user")[2]).all(axis=1).any()
    # by hand: the side features as the tower takes them, the context left out
    encoders = grown.query_tower.encoder
    encoded = next(iter(sf.read_parquet(path, grown.schema, batch_size=6, features=["likes", "how", "age"])))
    vectors = np.concatenate([
        encoders.encoders["likes"](encoded["likes/encoded"], weights=encoded["how/encoded"]).numpy(),
        encoded["age/encoded"].numpy()[:, None],
    ], axis=1).astype(np.float64)  # fmt: skip
    order = [3 + grown.schema.vocabulary("user").to_pylist().index(it) for it in users["user"]]
    assert rows[order[4:]] == pytest.approx(ridge(vectors[:4], rows[order[:4]], vectors[4:]), rel=1e-4, abs=1e-6)


def test_tables_that_say_nothing_of_new_rows(plain: sf.TwoTowerModel) -> None:
    model = plain
    schema = SCHEMA.fit(EVENTS, NEW_ITEMS)
    both = {name: [*EVENTS[name][:1], *EVENTS[name][3:5], *NEW_ITEMS[name]] for name in NEW_ITEMS}
    assert rows_of(model.grow(schema, both), "item").shape == (9, 4)
    for table, message in [
        ({"genres": [["g"]]}, "expected a table of one id and its side features; its ids are none"),
        ({**both, "user": ["u"] * 5}, 'its ids are "user" and "item"'),
        ({"item": ["a"], "rating": [3.0]}, 'holds no feature beside "item" that enters its tower'),
        (NEW_ITEMS, "holds 0 ids of item that the model was trained on"),
        ({**both, "item": ["a", "a", "c", "y", "z"]}, "'a' stands 2 times"),
    ]:
        with pytest.raises(DataError, match=message):
            model.grow(schema, table)


# -- what cannot grow, and what a grown model can ---------------------------------------------------------------------


def test_a_change_that_breaks_is_refused_with_its_lines(plain: sf.TwoTowerModel) -> None:
    anew = sf.Schema((USER, ITEM, GENRES, PRICE)).fit({name: values[1:4] for name, values in EVENTS.items()})
    with pytest.raises(SchemaError) as caught:
        plain.grow(anew)
    assert list(caught.value.problems) == [str(it) for it in SCHEMA.diff(anew).changes if it.level == "breaks"]
    assert [line.split(" (")[0] for line in caught.value.problems] == [
        'breaks: feature "price" learned other numbers',
        "breaks: table \"user\" holds 'x' no more",
        "breaks: table \"item\" holds 'a' no more",
    ]
    with pytest.raises(SchemaError, match=r'the new schema is not fitted .feature "user" has no vocabulary yet'):
        plain.grow(SCHEMA.unfitted())
    with pytest.raises(ConfigError, match=r"the optimizer Adafactor keeps .* does not grow by the rows"):
        trained(optimizer=keras.optimizers.Adafactor(0.1)).grow(WIDER)


def test_compatible_changes_are_taken_over(plain: sf.TwoTowerModel) -> None:
    model = plain
    renamed = feature("price", ["item", "continuous"], "float64", normalize="standard", column="cost")
    target = feature("stars", ["target"], "float32")
    grown = model.grow(sf.Schema((target, ITEM, GENRES, renamed, USER), name="shop", fitted=SCHEMA.fitted))
    table = {"item": ["a"], "genres": [["g"]], "cost": [2.0]}
    old = {"item": ["a"], "genres": [["g"]], "price": [2.0]}
    assert np.array_equal(grown.candidate_embeddings(table), model.candidate_embeddings(old))
    for name in ("user", "item", "genres"):
        assert np.array_equal(rows_of(grown, name), rows_of(model, name))
        for first, second in zip(slots_of(grown, name), slots_of(model, name), strict=True):
            assert np.array_equal(first, second)


def test_a_table_that_is_frozen_or_thawed_keeps_its_rows() -> None:
    def spec(trainable: bool) -> sf.Feature:
        return feature("item", ["item", "id"], vocabulary="learned", embedding={"trainable": trainable})

    for before, after in ((True, False), (False, True)):
        schema = sf.Schema((USER, spec(before))).fit(EVENTS)
        model = trained(schema)
        grown = model.grow(sf.Schema((USER, spec(after)), fitted=schema.fitted).fit({"user": ["u"], "item": ["z"]}))
        assert np.array_equal(rows_of(grown, "item")[:7], rows_of(model, "item"))
        assert len(slots_of(grown, "item")) == (2 if after else 0)
        assert np.array_equal(slots_of(grown, "user")[0], slots_of(model, "user")[0])
        start = rows_of(grown, "item")
        train_on(grown)
        assert np.array_equal(rows_of(grown, "item"), start) is not after


def test_a_grown_model_is_saved_loaded_exported_evaluated_and_grown_again(planted: Any, tmp_path: Path) -> None:
    model, events, catalogue, _ = planted
    grown = model.grow(model.schema.fit(events, catalogue), catalogue)
    grown.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert np.array_equal(again.candidate_embeddings(catalogue), grown.candidate_embeddings(catalogue))
    assert again.schema == grown.schema
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    report = sf.evaluate(grown, events, candidates=catalogue, ks=(16,))
    assert report["hit_rate@16"] > 0.8
    recommender = grown.export(tmp_path / "bundle", candidates=catalogue)
    items = recommender.recommend({"user": ["u0"]}, k=16).identifiers[0]
    assert {int(it[1:]) % 4 for it in items} == {0}
    assert any(int(it[1:]) >= 48 for it in items)
    news = {"user": ["u0", "stranger"], "item": ["i00", "i99"], "word": ["rock", "ska"]}
    loaded = again.grow(again.schema.fit(news))
    assert loaded.schema.rows("item") == grown.schema.rows("item") + 1
    assert np.array_equal(loaded.candidate_embeddings(catalogue), grown.candidate_embeddings(catalogue))
    assert np.isfinite(train_on(loaded, news)).all()


def test_a_side_table_that_does_not_fit_is_our_own_error() -> None:
    with pytest.raises(DataError, match='row 1: feature "price" is missing'):
        trained().grow(WIDER, {**NEW_ITEMS, "item": ["a", "y"], "price": [1.0, None]})


def test_what_was_frozen_by_hand_stays_so() -> None:
    model = trained()
    table = model.item_tower.encoder.encoders["item"].table
    table.trainable = False
    model.compile(optimizer=keras.optimizers.SGD(0.1), run_eagerly=True)
    model.fit(EVENTS, batch_size=4, verbose=0)
    grown = model.grow(WIDER)
    assert len(grown.trainable_variables) == len(model.trainable_variables)
    before = grown.item_tower.encoder.encoders["item"].table.embeddings.numpy()
    train_on(grown)
    assert np.array_equal(grown.item_tower.encoder.encoders["item"].table.embeddings.numpy(), before)
