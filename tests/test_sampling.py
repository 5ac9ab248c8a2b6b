"""Samplers: what they bring is what they say they bring, alone and together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from schemaflow import registry
from schemaflow.errors import ConfigError
from schemaflow.features.catalogue import ItemCatalogue
from schemaflow.logits import columns_of
from schemaflow.sampling import Batch, Candidates, Sampler, sample

pytestmark = pytest.mark.short

ITEMS, DIM, ROWS = 12, 2, 6
COUNTS = np.array([0, 40, 1, 9, 25, 3, 2, 2, 7, 5, 4, 2])
SHARES = tf.constant(COUNTS / COUNTS.sum(), tf.float32)
CATALOGUE = ItemCatalogue.of({"item": np.arange(ITEMS)}, np.arange(ITEMS), COUNTS, reserved=0)
VECTORS = tf.constant(np.random.default_rng(0).normal(size=(ITEMS, DIM)), tf.float32)

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "in-batch": sf.InBatchSampler,
    "cross-batch": lambda: sf.CachedCrossBatchSampler(capacity=10),
    "uniform": lambda: sf.UniformSampler(num_sampled=5, seed=1),
    "popularity": lambda: sf.PopularityBasedSampler(num_sampled=5, seed=1),
}


def batch_of(ids: Any, draws: int | None = None) -> Batch:
    ids = tf.convert_to_tensor(ids, tf.int64)
    rows = tf.shape(ids)[0] if draws is None else tf.constant(draws)
    return Batch(tf.gather(VECTORS, ids), ids, rows, CATALOGUE, lambda at: tf.gather(VECTORS, CATALOGUE.ids(at)))


def drawn(samplers: list[Sampler], ids: Any, training: bool = True) -> Candidates:
    found = sample(samplers, batch_of(ids), lambda of: tf.gather(SHARES, tf.maximum(of, 0)), True, training)
    return found.compacted()


def built(*names: str) -> list[Sampler]:
    samplers = [SAMPLERS[name]() for name in names]
    for sampler in samplers:
        sampler.build((None, DIM))
    return samplers


def test_every_registered_sampler_is_under_contract() -> None:
    assert set(registry.names("sampler")) == set(SAMPLERS)


@pytest.mark.parametrize(
    "names", [(name,) for name in SAMPLERS] + [("in-batch", "uniform"), tuple(SAMPLERS), ("cross-batch", "popularity")]
)
def test_an_item_is_a_negative_as_often_as_its_probability_says(names: tuple[str, ...]) -> None:
    """Over many batches drawn from the interactions, each item is among the negatives in the share that is stated."""
    samplers = built(*names)
    rng, batches = np.random.default_rng(2), 3000
    rows = tf.constant(rng.choice(ITEMS, p=COUNTS / COUNTS.sum(), size=(batches, ROWS)), tf.int64)

    @tf.function
    def step(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        it = sample(samplers, batch_of(ids), lambda of: tf.gather(SHARES, tf.maximum(of, 0)), True, True)
        it = it.compacted()
        return it.ids, it.probability

    seen, stated = np.zeros(ITEMS), np.zeros(ITEMS)
    for number, ids in enumerate(rows):
        here, probability = (it.numpy() for it in step(ids))
        assert len(set(here)) == len(here), "an item is a candidate once"
        if number >= 10:  # the cache is full by then
            seen[here] += 1
            stated[here] = probability
    for item in np.flatnonzero(stated):
        assert seen[item] / (batches - 10) == pytest.approx(stated[item], abs=0.03), item
    reached = np.ones(ITEMS, bool) if {"uniform", "popularity"} & set(names) else COUNTS > 0
    assert ((seen > 0) == reached).all(), "the last of the catalogue is drawn too, and what nobody chose"


@pytest.mark.parametrize("name", ["uniform", "popularity"])
def test_items_of_one_row_are_drawn_as_often_as_all_of_them_are(name: str) -> None:
    """Hashing, or being out of the vocabulary, gives several items of the catalogue one id: a candidate of all of them."""
    rows = np.array([3, 5, 3, 4, 5, 3, 3, 6])
    catalogue = ItemCatalogue.of({"item": rows}, rows, np.array([0, 0, 0, 2, 9, 20, 1]), reserved=3)
    (sampler,) = built(name)
    where = np.argsort(catalogue.at_rank(tf.range(8)).numpy())  # the rank of each item
    share = np.log((where + 2) / (where + 1)) / np.log(9) if name == "popularity" else np.full(8, 1 / 8)
    expected = [1 - (1 - share[np.sort(rows) == row].sum()) ** 5 for row in (3, 4, 5, 6)]
    batch = Batch(
        tf.zeros((1, DIM)), tf.constant([4], tf.int64), tf.constant(1), catalogue, lambda at: tf.zeros((len(at), DIM))
    )
    absence = sampler.log_absence(tf.constant([3, 4, 5, 6], tf.int64), None, batch)
    assert 1 - np.exp(absence) == pytest.approx(expected, rel=1e-6)
    draws = [set(sampler.draw(batch, training=True).ids.numpy().tolist()) for _ in range(800)]
    for row, probability in zip((3, 4, 5, 6), expected, strict=True):
        assert np.mean([row in ids for ids in draws]) == pytest.approx(probability, abs=0.06), row
    unknown = sampler.log_absence(tf.constant([9], tf.int64), None, batch).numpy()
    assert unknown[0] < 0, "an item that is not there is the positive of a row, and has a probability"


@pytest.mark.parametrize("name", SAMPLERS)
def test_its_config_is_the_sampler(name: str) -> None:
    sampler = SAMPLERS[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(sampler))
    assert type(again) is type(sampler)
    assert again.get_config() == sampler.get_config()


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_row_and_a_seed(name: str) -> None:
    runs = []
    for _ in range(2):
        samplers = built(name)
        runs.append([drawn(samplers, ids).ids.numpy().tolist() for ids in ([3], [4, 4], [1])])
    assert runs[0] == runs[1]
    found = drawn(built(name), [3])
    assert found.row_ids.numpy().tolist() == [3]
    assert found.embeddings.shape[0] == found.ids.shape[0] == found.probability.shape[0]
    if found.own is not None:
        assert (found.own.numpy().tolist(), found.ids.numpy()[0]) == ([0], 3)
    assert np.allclose(found.embeddings, tf.gather(VECTORS, found.ids))
    for probability in (found.probability.numpy(), found.own_probability.numpy()):
        assert ((probability > 0) & (probability <= 1)).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_half_precision_keeps_probabilities(name: str) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        half = built(name)
    finally:
        keras.config.set_dtype_policy("float32")
    whole = built(name)
    for ids in ([1, 4, 4], [3, 5, 8]):
        left, right = drawn(half, ids), drawn(whole, ids)
        assert left.probability.numpy().tolist() == right.probability.numpy().tolist()
        assert left.own_probability.numpy().tolist() == right.own_probability.numpy().tolist()
        assert left.ids.numpy().tolist() == right.ids.numpy().tolist()


def test_outside_of_training_nothing_is_kept_and_the_same_is_drawn() -> None:
    samplers = built(*SAMPLERS)
    drawn(samplers, [1, 2])
    before = [it.numpy() for sampler in samplers for it in sampler.variables]
    first, second = drawn(samplers, [3, 4], training=False), drawn(samplers, [3, 4], training=False)
    assert first.ids.numpy().tolist() == second.ids.numpy().tolist()
    after = [it.numpy() for sampler in samplers for it in sampler.variables]
    assert all(np.array_equal(left, right) for left, right in zip(before, after, strict=True))


def test_the_cache_is_first_in_first_out_and_holds_no_gradient() -> None:
    [cache] = built("cross-batch")
    for ids in ([1, 2, 3, 4], [5, 6, 7, 8]):
        drawn([cache], ids)
    assert cache.draw(batch_of([1]), True).ids.numpy().tolist() == [8, 7, 6, 5, 4, 3, 2, 1, -1, -1]
    drawn([cache], [9, 10, 11, 0])
    found = drawn([cache], [1])
    assert found.ids.numpy().tolist() == [0, 11, 10, 9, 8, 7, 6, 5, 4, 3], (
        "and not the row's own, which it does not hold"
    )
    assert (found.own, found.row_ids.numpy().tolist()) == (None, [1])
    moved = tf.Variable(VECTORS)
    with tf.GradientTape() as tape:
        ids = tf.constant([1], tf.int64)
        batch = Batch(tf.gather(moved, ids), ids, tf.constant(1))
        total = tf.reduce_sum(sample([cache], batch, None, False, False).embeddings)
    assert not np.any(tf.convert_to_tensor(tape.gradient(total, moved, unconnected_gradients="zero")))
    # a batch larger than the cache leaves its last rows
    [cache] = built("cross-batch")
    drawn([cache], list(range(ITEMS)))
    assert cache.draw(batch_of([1]), True).ids.numpy().tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert np.allclose(cache.draw(batch_of([1]), True).embeddings[0], VECTORS[11])


def test_an_empty_cache_brings_nothing() -> None:
    found = drawn(built("in-batch", "cross-batch"), [3, 4])
    assert found.ids.numpy().tolist() == [3, 4]
    assert found.probability.numpy() == pytest.approx([1 - (1 - float(SHARES[it])) ** 2 for it in (3, 4)], rel=1e-5)
    alone = drawn(built("cross-batch"), [3, 4])
    assert (alone.embeddings.shape[0], alone.own_probability.numpy().tolist()) == (0, [1.0, 1.0])
    loss = sf.RetrievalTask().compare(tf.ones((2, DIM)), tf.gather(VECTORS, [3, 4]), alone)
    assert float(loss) == 0.0, "a positive alone is certain"


def test_a_lone_row_and_an_item_that_is_all_there_is() -> None:
    for draws, share in ((0, 1.0), (1, 1.0), (0, 0.5)):
        batch = batch_of([3], draws)
        found = sample(
            built("in-batch", "cross-batch"), batch, lambda of, share=share: tf.fill(tf.shape(of), share), True, True
        ).compacted()
        assert found.ids.numpy().tolist() == [3]
        assert found.own_probability.numpy().tolist() == [share if draws else 1.0], "no logarithm of 0 is taken"


def test_together_an_item_is_absent_where_each_leaves_it_out() -> None:
    found = drawn(built("in-batch", "uniform"), [1, 4, 4])
    for item, probability in zip(found.ids.numpy(), found.probability.numpy(), strict=True):
        in_batch, uniform = 1 - (1 - COUNTS[item] / COUNTS.sum()) ** 3, 1 - (1 - 1 / ITEMS) ** 5
        assert probability == pytest.approx(1 - (1 - in_batch) * (1 - uniform), rel=1e-4)


def test_without_in_batch_negatives_rows_are_not_each_others() -> None:
    found = drawn(built("uniform"), [1, 4, 3])
    [sampler] = built("uniform")
    assert sorted(found.ids.numpy()) == sorted(set(sampler.draw(batch_of([1]), True).ids.numpy()))
    # an item that is a row's positive may be drawn as the negative of the others, and is none of its own
    found = drawn(built("uniform"), list(range(ITEMS)))
    queries = np.ones((ITEMS, DIM), np.float32)
    scores = np.where(found.ids.numpy() == np.arange(ITEMS)[:, None], -np.inf, queries @ found.embeddings.numpy().T)
    own = VECTORS.numpy().sum(axis=1)
    logits = np.concatenate([own[:, None], scores], axis=1)
    logits -= np.log(
        np.concatenate([found.own_probability.numpy()[:, None], np.tile(found.probability, (ITEMS, 1))], 1)
    )
    loss = sf.RetrievalTask().compare(tf.constant(queries), VECTORS, found)
    assert float(loss) == pytest.approx(float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[:, 0])), rel=1e-5)


def test_popularity_is_log_uniform_by_rank() -> None:
    [sampler] = built("popularity")
    order = np.argsort(-COUNTS, kind="stable")
    absence = sampler.log_absence(tf.constant(order, tf.int64), None, batch_of([1])).numpy()
    ranks = np.arange(ITEMS)
    single = np.log((ranks + 2) / (ranks + 1)) / np.log(ITEMS + 1)
    assert single.sum() == pytest.approx(1.0)
    assert 1 - np.exp(absence) == pytest.approx(1 - (1 - single) ** 5, rel=1e-4)


@pytest.mark.parametrize("make", [sf.UniformSampler, sf.PopularityBasedSampler, sf.CachedCrossBatchSampler])
@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "5"])
def test_numbers_that_are_none(make: Any, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="expected an integer of at least 1"):
        make(wrong)


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(0, 9), max_size=8),
)
def test_columns_of_lists(lists: list[list[int]], ids: list[int]) -> None:
    ragged = tf.ragged.constant(lists, dtype=tf.int64, ragged_rank=1)
    found = columns_of(ragged, tf.constant(ids, tf.int64)).to_list()
    assert found == [[ids.index(it) for it in row if it in ids] for row in lists]


def test_the_catalogue_survives_saving(tmp_path: Path) -> None:
    from schemaflow.data.encode import Lists

    genres = Lists(np.array([5, 6, 7], np.int32), np.array([0, 2, 2, 3]))
    columns = {"item": np.array([4, 3, 2], np.int32), "genres": genres, "v": np.ones((3, 2), np.float32)}
    items = ItemCatalogue.of(columns, np.array([4, 3, 2]), np.array([0, 0, 9, 1, 7]), reserved=3)
    assert items.identifiers.tolist() == [-1, 3, 4], "row 2 is shared by all that the vocabulary does not hold"
    assert items.features(tf.constant([2, 0]))["genres/encoded"].to_list() == [[5, 6], [7]]
    assert items.at_rank(tf.constant([0, 1, 2])).numpy().tolist() == [0, 2, 1]
    again = ItemCatalogue.from_config(items.get_config())
    again.set_weights(items.get_weights())
    assert again.features(tf.constant([0]))["v/encoded"].numpy().tolist() == [[1.0, 1.0]]
    assert again.ranks(tf.constant([2, 3, 4, 8], tf.int64)).numpy().tolist() == [0, 2, 1, 2]
