"""The losses: by hand, against NumPy, and what a candidate that takes no part may not do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from schemaflow import losses, registry
from schemaflow.errors import ConfigError
from schemaflow.losses import CategoricalCrossentropy, Loss, as_loss

pytestmark = pytest.mark.short

NAMES = registry.names("loss")
PAIRWISE = ("bpr", "bpr-max", "hinge", "top1")
SMOOTHED = CategoricalCrossentropy(label_smoothing=0.2)
ALL = [*(registry.lookup("loss", name) for name in NAMES), SMOOTHED]
OUT = float("-inf")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def smoothed(own: float, others: np.ndarray) -> float:
    """The definition: smoothed labels against log softmax."""
    logits = np.append(others, own)
    labels = np.full(len(logits), 0.2 / len(logits))
    labels[-1] += 0.8
    return float(-(labels * np.log(np.exp(logits) / np.exp(logits).sum())).sum())


# each from the positive's logit and the negatives' that take part, at least one of them
ORACLES = {
    "bpr": lambda p, n: np.mean(-np.log(sigmoid(p - n))),
    "bpr-max": lambda p, n: (
        -np.log((np.exp(n) / np.exp(n).sum() * sigmoid(p - n)).sum()) + (np.exp(n) / np.exp(n).sum() * n**2).sum()
    ),
    "categorical_crossentropy": lambda p, n: np.log(np.exp(p) + np.exp(n).sum()) - p,
    "hinge": lambda p, n: np.mean(np.maximum(0, 1 - p + n)),
    "logistic": lambda p, n: -np.log(sigmoid(p)) - np.mean(np.log(1 - sigmoid(n))),
    "top1": lambda p, n: np.mean(sigmoid(n - p) + sigmoid(n**2)),
    "smoothed": smoothed,
}


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == {*NAMES, "smoothed"}


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=7),
    st.lists(st.booleans(), min_size=7, max_size=7),
    st.data(),
)
def test_each_is_its_definition_over_those_that_take_part(
    logits: list[float], part: list[bool], data: st.DataObject
) -> None:
    positive = data.draw(st.integers(0, len(logits) - 1))
    takes = np.array(part[: len(logits)])
    takes[positive], takes[positive - 1] = True, True  # and one negative at least
    negatives = np.array(logits, np.float64)[takes & (np.arange(len(logits)) != positive)]
    given_logits = tf.constant(np.where(takes, np.array(logits, np.float32), OUT)[np.newaxis])
    for name, oracle in ORACLES.items():
        loss = SMOOTHED if name == "smoothed" else registry.lookup("loss", name)
        found = loss(given_logits, tf.constant([positive]))
        assert found.shape == (1,)
        assert float(found[0]) == pytest.approx(float(oracle(logits[positive], negatives)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_what_takes_no_part_moves_nothing(loss: Loss) -> None:
    """Rows: a dropped candidate; none left but the positive. The gradients are those without the column."""

    def gradient(logits: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits, tf.constant([1]))
        return value.numpy(), tape.gradient(value, logits).numpy()

    with_it, slope = gradient(tf.constant([[0.5, 1.0, OUT, -2.0]]))
    without, its_slope = gradient(tf.constant([[0.5, 1.0, -2.0]]))
    assert with_it == pytest.approx(without, rel=1e-6)
    assert slope[:, [0, 1, 3]] == pytest.approx(its_slope, rel=1e-5)
    assert slope[0, 2] == 0.0
    alone, slope = gradient(tf.constant([[OUT, 1.0, OUT]]))
    if loss is losses.logistic:  # a pointwise loss keeps the positive's own term: ln(1 + 1/e), and 1 - sigmoid(1)
        assert float(alone[0]) == pytest.approx(0.31326, abs=1e-5)
        assert slope.tolist()[0] == pytest.approx([0.0, -0.26894, 0.0], abs=1e-5)
    else:
        assert alone.tolist() == [0.0]
        assert slope.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("loss", ALL)
def test_large_logits_and_half_precision_stay_finite(loss: Loss) -> None:
    for logits in ([[80.0, -80.0, 3e4]], [[-3e4, 3e4, 0.0]]):
        watched = tf.constant(logits, tf.float16)
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = loss(watched, tf.constant([0]))
        assert value.dtype == tf.float32
        assert np.isfinite(value.numpy()).all()
        assert np.isfinite(tape.gradient(value, watched).numpy()).all()


@pytest.mark.parametrize("loss", ALL)
def test_a_nan_is_not_hidden(loss: Loss) -> None:
    assert np.isnan(loss(tf.constant([[1.0, float("nan"), 0.0]]), tf.constant([0])).numpy()).all()


@pytest.mark.parametrize("loss", ALL)
def test_a_step_down_the_gradient_parts_the_positive_from_the_rest(loss: Loss) -> None:
    logits = tf.Variable([[0.3, 0.2, 0.4]])
    for _ in range(20):
        with tf.GradientTape() as tape:
            value = loss(logits, tf.constant([0]))
        logits.assign_sub(0.2 * tape.gradient(value, logits))
    assert logits[0, 0] > tf.reduce_max(logits[0, 1:]) + 0.3


@pytest.mark.parametrize("loss", ALL)
def test_each_compiles_and_is_kept_by_keras(loss: Loss) -> None:
    logits, positives = tf.constant([[0.5, OUT, -2.0], [1.0, 2.0, 3.0]]), tf.constant([2, 0])
    compiled = tf.function(loss, jit_compile=True)(logits, positives)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    for found in (compiled, again(logits, positives)):
        assert found.numpy() == pytest.approx(loss(logits, positives).numpy(), rel=1e-5)


def test_smoothing_of_nothing_is_plain_and_its_bounds_are_kept() -> None:
    logits = tf.constant([[0.5, -1.0, OUT]])
    plain = losses.categorical_crossentropy(logits, tf.constant([1]))
    assert CategoricalCrossentropy()(logits, tf.constant([1])).numpy() == pytest.approx(plain.numpy())
    for smoothing in (-0.1, 1.0, "0.1"):
        with pytest.raises(ConfigError, match="expected a number from 0 to below 1"):
            CategoricalCrossentropy(smoothing)


def test_smoothing_agrees_with_kerass_own_where_all_take_part() -> None:
    logits = tf.constant([[0.5, -1.0, 3.0], [1.0, 2.0, 0.0]])
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3)
    mean = tf.reduce_mean(as_loss(theirs)(logits, tf.constant([0, 1])))
    assert float(mean) == pytest.approx(float(theirs(tf.eye(2, 3), logits)), rel=1e-6)


def test_what_an_argument_means() -> None:
    def mine(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
        return logits[:, 0]

    assert as_loss(None) is losses.categorical_crossentropy
    assert as_loss("bpr-max") is losses.bpr_max
    assert as_loss(mine) is mine
    refused = {
        'unknown loss "bprr"; did you mean "bpr"': "bprr",
        'pass "logistic"': "binary_crossentropy",
        "Keras's BinaryCrossentropy; it compares": keras.losses.BinaryCrossentropy(from_logits=True),
        "pass from_logits=True": keras.losses.CategoricalCrossentropy(),
        "Adagrad its initial_accumulator_value and epsilon over their square": keras.losses.CategoricalCrossentropy(
            from_logits=True, reduction="sum"
        ),
        "expected the name of a loss, or a callable": keras.losses.categorical_crossentropy,
        "loss is 3; expected the name": 3,
    }
    for message, loss in refused.items():
        with pytest.raises(ConfigError, match=message):
            as_loss(loss)
