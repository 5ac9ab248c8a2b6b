"""How likely items are to be in a batch: by hand, against dictionaries, on the paper's stream, and in what it corrects."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import schemaflow as sf
from benchmarks.log_q import Figures, World, gates, train
from schemaflow.errors import ConfigError, DataError
from schemaflow.losses import categorical_crossentropy
from schemaflow.sampling import Batch, sample

WORD = 2**64


def bucket(number: int, item: int, buckets: int) -> int:
    """The bucket of an item in hash `number`: SplitMix64 in Python's own ints."""
    if number == 0:
        return item % buckets
    word = (item + number * 0x9E3779B97F4A7C15) % WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
    return (word ^ word >> 31) % buckets


class Oracle:
    """Algorithms 2 and 3 of Yi et al. with dictionaries; each gap is a plain mean until its weight falls to alpha."""

    def __init__(self, buckets: int, hashes: int, alpha: float) -> None:
        self.buckets, self.hashes, self.alpha, self.step = buckets, hashes, alpha, 0
        self.hit_in: dict[tuple[int, int], list[int]] = defaultdict(list)  # (hash, bucket) -> steps

    def count(self, items: list[int]) -> None:
        self.step += 1
        for place in {(it, bucket(it, item, self.buckets)) for item in items for it in range(self.hashes)}:
            self.hit_in[place].append(self.step)

    def probability(self, item: int) -> float:
        gaps = []
        for number in range(self.hashes):
            steps = self.hit_in.get((number, bucket(number, item, self.buckets)), [])
            gap = 0.0
            for hit, (before, now) in enumerate(zip([0, *steps], steps, strict=False), start=1):
                rate = max(self.alpha, 1 / hit)
                gap = (1 - rate) * gap + rate * (now - before)
            gaps.append(gap if steps else self.step + 1)
        return 1 / max(gaps)


def state(frequency: sf.StreamingFrequency) -> dict[str, list[Any]]:
    return {it.name: it.numpy().tolist() for it in frequency.weights}


def test_gaps_by_hand() -> None:
    frequency = sf.StreamingFrequency(buckets=4, alpha=0.4)
    assert frequency(tf.constant([0, 3])).numpy().tolist() == [1.0, 1.0]  # nothing is known: no correction
    steps = [
        # ids          their gaps after the step
        ([1, 1, 2], [1.0, 1.0, 1.0]),
        ([2], [1.0]),
        ([3, 2], [3.0, 1.0]),  # first seen in step 3
        ([2, 5, 1], [1.0, 2.0, 2.0]),  # 5 falls into the bucket of 1: one hit of it, gaps 1 and 3
        ([3], [2.5]),  # gaps 3 and 2
        ([1], [2.0]),  # gaps 1, 3 and 2; rate max(0.4, 1/3)
        ([2], [1.0 + 0.4 * 2]),  # gaps 1, 1, 1, 1 and 3; rate 0.4 and not 1/5
    ]
    for ids, gaps in steps:
        assert frequency(tf.constant(ids), training=True).numpy() == pytest.approx([1 / it for it in gaps], rel=1e-6)
    assert frequency(tf.constant([0, 4, 1, 2, 3])).numpy() == pytest.approx(
        [1 / 8, 1 / 8, 1 / 2, 1 / 1.8, 1 / 2.5], rel=1e-6
    )
    found = state(frequency)
    assert found["step"] == 7
    assert found["gaps"] == pytest.approx([0.0, 2.0, 1.8, 2.5], rel=1e-6)
    assert found["last_seen"] == [0, 6, 7, 5]
    assert found["hits"] == [0, 3, 5, 2]


ids_of_a_batch = st.lists(st.one_of(st.integers(0, 9), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=6)


@given(
    stream=st.lists(ids_of_a_batch, min_size=1, max_size=8),
    others=ids_of_a_batch,
    buckets=st.sampled_from([1, 2, 5, 1000]),
    hashes=st.sampled_from([1, 2, 3]),
    alpha=st.sampled_from([0.01, 0.4, 1.0]),
)
def test_it_is_algorithms_2_and_3(
    stream: list[list[int]], others: list[int], buckets: int, hashes: int, alpha: float
) -> None:
    frequency, oracle = sf.StreamingFrequency(buckets, hashes, alpha), Oracle(buckets, hashes, alpha)
    for ids in stream:
        found = frequency(tf.constant(ids, tf.int64), training=True)
        oracle.count(ids)
        assert found.numpy() == pytest.approx([oracle.probability(it) for it in ids], rel=1e-5)
    asked = [*others, *(it for ids in stream for it in ids)]
    before = state(frequency)
    found = frequency(tf.constant(asked, tf.int64)).numpy()
    assert found == pytest.approx([oracle.probability(it) for it in asked], rel=1e-5)
    assert (found > 0).all()
    assert (found <= 1).all()
    assert state(frequency) == before  # a question counts nothing


def test_the_largest_gap_wins_over_a_collision() -> None:
    """Item 8 is in each batch, and shares item 0's bucket in one hash only."""
    alone, helped = sf.StreamingFrequency(8), sf.StreamingFrequency(8, hashes=2)
    assert bucket(1, 0, 8) != bucket(1, 8, 8)
    for step in range(1, 9):
        batch = tf.constant([8, 0] if step % 4 == 0 else [8])
        for frequency in (alone, helped):
            frequency(batch, training=True)
    assert alone(tf.constant([0, 8])).numpy().tolist() == [1.0, 1.0]
    assert helped(tf.constant([0, 8])).numpy().tolist() == [0.25, 1.0]


@pytest.mark.parametrize(("dtype", "hashes"), [(tf.int32, 1), (tf.int64, 3)])
def test_graphs_and_xla_give_what_eager_gives(dtype: tf.DType, hashes: int) -> None:
    rng = np.random.default_rng(0)
    stream = [rng.integers(-50, 1000, size=size) for size in (40, 1, 40, 1, 40)]
    made = [sf.StreamingFrequency(100, hashes, alpha=0.4) for _ in range(3)]
    calls = [
        lambda ids: made[0](ids, training=True),
        tf.function(lambda ids: made[1](ids, training=True)),
        tf.function(lambda ids: made[2](ids, training=True), jit_compile=True),
    ]
    for ids in stream:
        expected, *others = (call(tf.constant(ids, dtype)).numpy() for call in calls)
        for found in others:
            assert found == pytest.approx(expected, rel=1e-5)
    for other in made[1:]:  # the same buckets, so the same hashes
        assert other.hits.numpy().tolist() == made[0].hits.numpy().tolist()
        assert other.last_seen.numpy().tolist() == made[0].last_seen.numpy().tolist()


@given(ids=ids_of_a_batch, order=st.randoms(use_true_random=False))
def test_repetitions_and_order_do_not_matter(ids: list[int], order: Any) -> None:
    mixed = ids + ids[:3]
    order.shuffle(mixed)
    states = []
    for batch in (ids, mixed):
        frequency = sf.StreamingFrequency(5, hashes=2)
        for step in (batch, [1], batch):
            frequency(tf.constant(step, tf.int64), training=True)
        states.append(state(frequency))
    assert states[0] == states[1]


def test_other_buckets_stay_as_they_are() -> None:
    frequency = sf.StreamingFrequency(10)
    for ids in ([1, 2], [3], [1]):
        frequency(tf.constant(ids), training=True)
    assert frequency.hits.numpy().tolist() == [0, 2, 1, 1, 0, 0, 0, 0, 0, 0]


def test_late_steps_are_rounded_and_no_probability_is_above_1() -> None:
    frequency = sf.StreamingFrequency(2, alpha=1.0)
    frequency.step.assign(2**26)
    assert frequency(tf.constant([0]), training=True).numpy().tolist() == [2.0**-26]
    assert frequency(tf.constant([0]), training=True).numpy().tolist() == [1.0]  # 2^26 + (1 - 2^26) is 0 in float32


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_half_precision_keeps_its_hands_off_the_state(policy: str) -> None:
    half, whole = sf.StreamingFrequency(10, dtype=policy), sf.StreamingFrequency(10)
    for frequency in (half, whole):
        frequency.step.assign(70_000)  # neither a step float16 could hold, nor a gap
        for ids in ([3], [4], [5], [3]):
            found = frequency(tf.constant(ids), training=True)
        assert found.dtype == tf.float32
    assert state(half) == state(whole)
    assert half(tf.constant([4])).numpy().tolist() == pytest.approx([1 / 70_002], rel=1e-6)


def test_a_model_counts_in_training_and_saves_what_it_counted(tmp_path: Path) -> None:
    ids = keras.Input((), dtype="int64")
    model = keras.Model(ids, sf.StreamingFrequency(6, hashes=2, alpha=0.3)(ids))
    for batch in ([1, 2], [2], [4, 2], [1]):
        model(tf.constant(batch), training=True)
    model(tf.constant([5]), training=False)
    model.save(tmp_path / "it.keras")
    model.save_weights(tmp_path / "it.weights.h5")
    again = keras.models.load_model(tmp_path / "it.keras")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "it.weights.h5")
    assert state(model.layers[1])["step"] == 4
    for other in (again, fresh):
        assert state(other.layers[1]) == state(model.layers[1])
    goes_on = [it(tf.constant([1, 3]), training=True).numpy().tolist() for it in (model, again, fresh)]
    assert goes_on[0] == goes_on[1] == goes_on[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"buckets": 0}, "buckets is 0; expected a whole number above 0"),
        ({"buckets": 2.5}, "buckets is 2.5; expected"),
        ({"buckets": True}, "buckets is True; expected"),
        ({"buckets": 5, "hashes": 0}, "hashes is 0; expected"),
        ({"buckets": 5, "alpha": 0.0}, r"alpha is 0\.0; expected a number above 0 and at most 1"),
        ({"buckets": 5, "alpha": 1.5}, r"alpha is 1\.5; expected"),
        ({"buckets": 5, "alpha": float("nan")}, "alpha is nan; expected"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sf.StreamingFrequency(**arguments)


@pytest.mark.parametrize("ids", [[1.0, 2.0], [[1, 2]], ["a"]])
def test_what_is_no_list_of_ids_is_refused(ids: Any) -> None:
    with pytest.raises(DataError, match=r"expected ids of shape \[n\], int; received (float32|int32|string) of shape"):
        sf.StreamingFrequency(5)(tf.constant(ids))


def test_on_the_papers_stream_the_error_falls_with_the_hashes() -> None:
    """Section 5.1 of the paper: items drawn by their number squared, then by its mirror image; 5000 buckets in all.

    The error is the total variation between what is estimated and what is true, each made to sum to 1. The ids are random
    numbers: those below 5000 would meet no collision in the first hash.
    """
    items, draws, steps = 1000, 128, 10_000
    rng = np.random.default_rng(0)
    names = tf.constant(rng.integers(2**62, size=items))
    share = np.arange(1.0, items + 1) ** 2
    share /= share.sum()
    shares = (share, share[::-1])
    streams = [tf.constant(rng.choice(items, p=it, size=(steps, draws))) for it in shares]

    def errors(frequency: sf.StreamingFrequency, names: tf.Tensor) -> list[float]:
        @tf.function(jit_compile=True)
        def count(stream: tf.Tensor) -> None:
            for step in tf.range(steps):
                frequency(tf.gather(names, stream[step]), training=True)

        found = []
        for stream, it in zip(streams, shares, strict=True):
            count(stream)
            estimated, true = frequency(names).numpy(), 1 - (1 - it) ** draws
            found.append(0.5 * np.abs(estimated / estimated.sum() - true / true.sum()).sum())
        return found

    one, two, four = (errors(sf.StreamingFrequency(5000 // hashes, hashes), names) for hashes in (1, 2, 4))
    for after in (0, 1):  # before the switch: 0.123, 0.056, 0.041; 10 000 steps after it: 0.143, 0.072, 0.053
        assert one[after] > 1.5 * two[after] > 1.5 * 1.2 * four[after]
        assert four[after] <= 0.06
    # a table's own rows need one hash and no more buckets than they are
    assert max(errors(sf.StreamingFrequency(items), tf.range(items))) <= 0.06


def test_the_corrected_gradient_is_the_full_softmaxs_in_expectation() -> None:
    """Of both tables, over many batches; corrected by the true probability and by what the stream has taught.

    Cosines with the full softmax's: 0.998 and 0.998, and 0.92 without a correction.
    """
    users, items, dim, batch, batches = 12, 300, 4, 64, 2000
    rng = np.random.default_rng(3)
    shares = 1.0 / np.arange(1, items + 1)
    shares /= shares.sum()
    share = tf.constant(shares, tf.float32)
    tables = [tf.constant(0.5 * rng.normal(size=(rows, dim)), tf.float32) for rows in (users, items)]
    drawn = rng.integers(users, size=(batches, batch)), rng.choice(items, p=shares, size=(batches, batch))
    pairs = tf.constant(np.stack(drawn), tf.int32)  # [2, batches, batch]
    samplers, task, frequency = [sf.InBatchSampler()], sf.RetrievalTask(), sf.StreamingFrequency(items)

    def sampled(query: tf.Tensor, vectors: tf.Tensor, item: tf.Tensor, correction: str) -> tf.Tensor:
        ids = tf.cast(item, tf.int64)
        batch = Batch(tf.gather(vectors, item), ids, draws=tf.size(ids))
        candidates = sample(samplers, batch, lambda of: tf.gather(share, of), corrected=True, training=True)
        of = {"exact": None, "streaming": frequency, "none": lambda _: None}[correction]
        if of is not None:
            candidates = replace(candidates, probability=of(candidates.ids), own_probability=of(item))
        return task.compare(query, batch.embeddings, candidates)

    def gradient(user: tf.Tensor, item: tf.Tensor, correction: str) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(tables)
            query, vectors = tf.gather(tables[0], user), tf.identity(tables[1])
            if correction == "full":
                loss = tf.reduce_mean(categorical_crossentropy(tf.matmul(query, vectors, transpose_b=True), item))
            else:
                loss = sampled(query, vectors, item, correction)
        found = tape.gradient(loss, tables)
        return tf.concat([tf.reshape(tf.convert_to_tensor(it), [-1]) for it in found], axis=0)

    @tf.function(jit_compile=True)
    def learn_and_sum() -> list[tf.Tensor]:
        for step in tf.range(batches):
            frequency(pairs[1, step], training=True)
        total = [tf.zeros((users + items) * dim)] * 4
        for step in tf.range(batches):
            user, item = pairs[0, step], pairs[1, step]
            total = [
                before + gradient(user, item, how)
                for before, how in zip(total, ("full", "exact", "streaming", "none"), strict=True)
            ]
        return total

    full, exact, streaming, none = (it.numpy() / np.linalg.norm(it) for it in learn_and_sum())
    assert full @ exact > 0.99
    assert full @ streaming > 0.99
    assert full @ none < 0.95


def test_it_teaches_what_the_full_softmax_teaches() -> None:
    """The gates of benchmarks/log_q.py in a world of 200 users and items: KL 0.026, and 0.031 by the full softmax."""
    world = World.plant(users=200, items=200, pairs=40_000, seed=0)
    methods = ("no correction", "StreamingFrequency", "full softmax")
    figures = {it: Figures.of(world, train(world, it, steps=2000, batch=64)) for it in methods}
    passed = gates(figures, "StreamingFrequency")
    assert all(passed.values()), passed
    assert not any(list(gates(figures, "no correction").values())[1:])  # the gates tell it from a model without
