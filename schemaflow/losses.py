"""Losses of retrieval: logits and the positive's column in, one loss a row out.

All take logits, scores of any size, never probabilities; -inf marks a candidate that takes no part, and no loss or
gradient comes from it. All compute in float32.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any, TypeGuard, TypeVar

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.logits import Gradients, hardest_negatives, placed
from schemaflow.registry import lookup, register

__all__ = [
    "CategoricalCrossentropy",
    "Loss",
    "as_loss",
    "bpr",
    "bpr_max",
    "categorical_crossentropy",
    "check_loss_weight",
    "compared",
    "gradients_of",
    "hinge",
    "logistic",
    "shares_of",
    "top1",
    "weighted_mean",
]

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(logits [q, c], positive column [q]) -> [q]; the loss of a row is one of its own logits alone."""

L = TypeVar("L", bound=Loss)


def _registered(name: str) -> Callable[[L], L]:
    """Enter a loss under its short name, and among what Keras saves."""

    def enter(loss: L) -> L:
        keras.saving.register_keras_serializable("schemaflow")(loss)
        return register("loss", name)(loss)

    return enter


@_registered("categorical_crossentropy")
def categorical_crossentropy(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `-log softmax(logits)[positive]` for each row, [q] float32.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Example:
        >>> loss = categorical_crossentropy(tf.constant([[0.0, 0.0, float("-inf")]]), tf.constant([1]))
        >>> round(float(loss[0]), 4)
        0.6931
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_logsumexp(logits, axis=1) - _own(logits, positives)


@keras.saving.register_keras_serializable("schemaflow")
class CategoricalCrossentropy:
    """Cross-entropy against smoothed labels: `log sum_j exp(s_j) - (1 - e) s_positive - e mean_j s_j`.

    The smoothing e is spread over the candidates that take part, the positive included: a candidate that was dropped,
    with a logit of -inf, gets no label.

    Args:
        label_smoothing: e, in [0, 1).

    Raises:
        ConfigError: The smoothing is outside [0, 1).

    Source:
        Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016, section 7.

    Example:
        >>> loss = CategoricalCrossentropy(label_smoothing=0.5)  # ln(1 + e^2) - 0.5 * 2 - 0.5 * (2 + 0) / 2
        >>> round(float(loss(tf.constant([[2.0, 0.0, float("-inf")]]), tf.constant([0]))[0]), 4)
        0.6269
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not (isinstance(label_smoothing, (int, float)) and 0 <= label_smoothing < 1):
            raise ConfigError(f"label_smoothing is {label_smoothing!r}; expected a number from 0 to below 1")
        self.label_smoothing = label_smoothing

    def __call__(self, logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
        """Return the loss of each row, [q] float32."""
        logits = tf.cast(logits, tf.float32)
        mean = _mean_over(_takes_part(logits), logits)
        own = _own(logits, positives)
        return tf.reduce_logsumexp(logits, axis=1) - own + self.label_smoothing * (own - mean)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"label_smoothing": self.label_smoothing}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CategoricalCrossentropy":
        """Make the loss of `get_config`."""
        return cls(**config)


@_registered("bpr")
def bpr(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `mean_n -log sigmoid(s_p - s_n)` over the negatives of each row, [q] float32; 0 where there are none.

    This is what Merlin calls the pairwise "logistic" loss too.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Source:
        Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009.

    Example:
        >>> loss = bpr(tf.constant([[1.0, 1.0, 0.0]]), tf.constant([0]))  # (ln 2 + ln(1 + 1/e)) / 2
        >>> round(float(loss[0]), 4)
        0.5032
    """
    _, margins, negatives = _pairs(logits, positives)
    return _mean_over(negatives, tf.math.softplus(-margins))


@_registered("bpr-max")
def bpr_max(logits: tf.Tensor, positives: tf.Tensor, regularization: float = 1.0) -> tf.Tensor:
    """Return `-log sum_n w_n sigmoid(s_p - s_n) + regularization * sum_n w_n s_n^2`, [q] float32; 0 without negatives.

    The weights w are the softmax of the row's negative logits: the negatives that score high count most.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.
        regularization: How strongly negative scores are drawn towards 0.

    Source:
        Hidasi & Karatzoglou, "Recurrent neural networks with top-k gains for session-based recommendations", CIKM 2018.
        The paper tunes the regularization for each data set; the 1 here is Merlin's.

    Example:
        >>> loss = bpr_max(tf.constant([[1.0, 1.0]]), tf.constant([0]))  # ln 2 + 1
        >>> round(float(loss[0]), 4)
        1.6931
    """
    filled, margins, negatives = _pairs(logits, positives)
    # a row without negatives would take log 0 - log 0: it gets one of each size, and 0 at the end
    some = tf.reduce_any(negatives, axis=1)  # [q]
    weighed = tf.where(negatives | ~some[:, tf.newaxis], filled, float("-inf"))
    total = tf.reduce_logsumexp(weighed, axis=1)  # [q]
    # log w_n + log sigmoid, summed as logarithms: a sum of small sigmoids would round to log 0
    ranking = total - tf.reduce_logsumexp(weighed + tf.math.log_sigmoid(margins), axis=1)
    weights = tf.exp(weighed - total[:, tf.newaxis])  # [q, c]
    return tf.where(some, ranking + regularization * tf.reduce_sum(weights * filled**2, axis=1), 0.0)


@_registered("top1")
def top1(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `mean_n sigmoid(s_n - s_p) + sigmoid(s_n^2)` over the negatives of each row, [q] float32; 0 without any.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Source:
        Hidasi et al., "Session-based recommendations with recurrent neural networks", ICLR 2016, section 3.1.3.

    Example:
        >>> loss = top1(tf.constant([[0.0, 0.0]]), tf.constant([0]))
        >>> float(loss[0])
        1.0
    """
    filled, margins, negatives = _pairs(logits, positives)
    return _mean_over(negatives, tf.sigmoid(-margins) + tf.sigmoid(filled**2))


@_registered("hinge")
def hinge(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `mean_n max(0, 1 - s_p + s_n)` over the negatives of each row, [q] float32; 0 where there are none.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Source:
        Herbrich et al., "Large margin rank boundaries for ordinal regression", 2000.

    Example:
        >>> loss = hinge(tf.constant([[2.0, 1.5, -3.0]]), tf.constant([0]))  # (0.5 + 0) / 2
        >>> float(loss[0])
        0.25
    """
    _, margins, negatives = _pairs(logits, positives)
    return _mean_over(negatives, tf.nn.relu(1.0 - margins))


@_registered("logistic")
def logistic(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return `-log sigmoid(s_p) - mean_n log(1 - sigmoid(s_n))`, the pointwise binary cross-entropy, [q] float32.

    The negatives of a row weigh together what its positive does; a row without negatives keeps the positive's term.
    The loss that Merlin calls "logistic" is pairwise: that is `bpr` here.

    Args:
        logits: [q, c] float; -inf where a candidate does not take part.
        positives: The column of each row's positive, [q] int.

    Source:
        Mikolov et al., "Distributed representations of words and phrases and their compositionality", NeurIPS 2013,
        eq. 4, where the negatives are summed.

    Example:
        >>> loss = logistic(tf.constant([[0.0, 0.0, 0.0]]), tf.constant([0]))  # ln 2 + ln 2
        >>> round(float(loss[0]), 4)
        1.3863
    """
    filled, _, negatives = _pairs(logits, positives)
    return tf.math.softplus(-_own(filled, positives)) + _mean_over(negatives, tf.math.softplus(filled))


def as_loss(loss: Any) -> Loss:
    """Return the loss that an argument means.

    Args:
        loss: The name of a registered loss; a callable of the same form, such as `CategoricalCrossentropy`; or Keras's
            `CategoricalCrossentropy(from_logits=True)`, of which ours is made; None for `categorical_crossentropy`.

    Raises:
        ConfigError: There is no such loss, or Keras's would not do what it does here.

    Example:
        >>> as_loss(keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)).label_smoothing
        0.1
    """
    if loss is None:
        return categorical_crossentropy
    if loss == "binary_crossentropy":
        raise ConfigError(
            'loss is "binary_crossentropy", which takes probabilities, and scores are not; pass "logistic",'
            " the binary cross-entropy of logits"
        )
    if isinstance(loss, str):
        return lookup("loss", loss)
    if isinstance(loss, keras.losses.Loss):
        return _of_keras(loss)
    if not callable(loss) or getattr(loss, "__module__", "").partition(".")[0] == "keras":
        raise ConfigError(
            f"loss is {loss!r}; expected the name of a loss, or a callable (logits [q, c], positive column [q]) -> [q]"
        )
    return loss


def _of_keras(loss: keras.losses.Loss) -> Loss:
    if not isinstance(loss, keras.losses.CategoricalCrossentropy):
        raise ConfigError(
            f"loss is Keras's {type(loss).__name__}; it compares labels with predictions and knows no dropped candidates."
            ' Pass a name, such as "categorical_crossentropy", "bpr" or "logistic"'
        )
    config = loss.get_config()
    if not config["from_logits"]:
        raise ConfigError(
            "loss is Keras's CategoricalCrossentropy(from_logits=False), which takes probabilities, and scores are not;"
            " pass from_logits=True"
        )
    if config["reduction"] not in ("sum_over_batch_size", "mean", "mean_with_sample_weight"):
        raise ConfigError(
            f'loss has the reduction "{config["reduction"]}"; here a loss is a mean over the batch, so that its size and its'
            " gradient do not depend on the batch's. Leave the reduction out (where a sum was tuned for: SGD wants"
            " its learning rate times the rows of a batch, Adagrad its initial_accumulator_value and epsilon over their square)"
        )
    return CategoricalCrossentropy(config["label_smoothing"])


def gradients_of(loss: Loss, num_hard_negatives: int | None = None) -> Gradients:
    """Return a loss with its derivatives, for `logits.blockwise_loss`.

    Args:
        loss: Its derivatives are those of automatic differentiation; the softmax's are written out, which takes half the time.
        num_hard_negatives: Only so many negatives of each row enter, the highest; all if None or not above 0.

    Example:
        >>> gradients = gradients_of(categorical_crossentropy)
        >>> losses, by_own, by_negatives, factor = gradients(tf.zeros(1), tf.constant([[0.0, float("-inf")]]), None)
        >>> by_own.numpy().tolist(), (by_negatives * factor[:, tf.newaxis]).numpy().tolist()
        ([-0.5], [[0.5, 0.0]])
    """
    if loss is categorical_crossentropy and not _is_count(num_hard_negatives):
        return _softmax_gradients

    def taped(own: tf.Tensor, negatives: tf.Tensor, place: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            tape.watch((own, negatives))
            losses = tf.cast(loss(*compared(own, negatives, place, num_hard_negatives)), tf.float32)  # [b]
        if weights := tape.watched_variables():
            raise ConfigError(
                f'the loss has the trainable weight "{weights[0].name}", which gets no gradient here; expected a loss of the'
                " logits alone, with numbers in place of weights"
            )
        # the sum of the losses: each row's is of its own logits alone
        by_own, by_negatives = tape.gradient(losses, (own, negatives))
        if by_own is None:
            raise ConfigError("the loss has no gradient by the logits; expected TensorFlow's operations on them")
        return _of_rows(losses, own), by_own, by_negatives, tf.ones_like(own)

    return taped


def _of_rows(losses: tf.Tensor, own: tf.Tensor) -> tf.Tensor:
    """Return the losses, as many as rows: at once where their number is known, else when the graph runs."""
    if not losses.shape.is_compatible_with(own.shape):
        raise ConfigError(
            f"the loss gives the shape {losses.shape}; expected [b], a number for each row of [b, c] logits,"
            f" where b is {own.shape[0]}"
        )
    message = ["the loss gives the shape", tf.shape(losses), "; expected that of the rows,", tf.shape(own)]
    with tf.control_dependencies([tf.debugging.Assert(tf.size(losses) == tf.size(own), message)]):
        return tf.ensure_shape(losses, own.shape)


def compared(
    own: tf.Tensor, negatives: tf.Tensor, place: tf.Tensor | None, num_hard_negatives: int | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what a loss takes: each row's logits, and the column of its positive, [b].

    Args:
        own: The logits of the rows' positives, [b].
        negatives: [b, c], -inf where one takes no part.
        place: The columns of the positives, [b]; they come first if None, or where only the hardest negatives are kept.
        num_hard_negatives: Of each row only so many, the highest; all if None or not above 0.
    """
    if not _is_count(num_hard_negatives):
        return placed(own, negatives, place)
    others = tf.shape(negatives)[1] - (0 if place is None else 1)
    return placed(own, hardest_negatives(negatives, tf.minimum(num_hard_negatives, others)), None)


def _is_count(num_hard_negatives: int | None) -> TypeGuard[int]:
    return num_hard_negatives is not None and num_hard_negatives > 0


def _softmax_gradients(own: tf.Tensor, negatives: tf.Tensor, _: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
    """Return cross-entropy and its derivatives: `softmax - 1` by the positive's logit, softmax by the negatives'."""
    top = tf.maximum(tf.reduce_max(negatives, axis=1), own)  # [b]
    odds, lead = tf.exp(negatives - top[:, tf.newaxis]), tf.exp(own - top)  # [b, c], [b]
    total = tf.reduce_sum(odds, axis=1) + lead
    return tf.math.log(total) + top - own, lead / total - 1.0, odds, 1.0 / total


def shares_of(weights: tf.Tensor | None, rows: tf.Tensor) -> tf.Tensor:
    """Return what each row is of a weighted mean, `w / sum w`, [rows] float32; all 0 where all weights are.

    Args:
        weights: [rows], or None for equal ones.
        rows: How many rows.

    Example:
        >>> shares_of(tf.constant([3.0, 1.0]), 2).numpy().tolist()
        [0.75, 0.25]
    """
    if weights is None:
        return tf.fill([rows], 1.0 / tf.cast(rows, tf.float32))
    weights = tf.cast(weights, tf.float32)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights))


def weighted_mean(losses: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
    """Return `sum w l / sum w`, a scalar; 0 where all weights are 0.

    Args:
        losses: [q].
        weights: [q], or None for equal ones.

    Example:
        >>> float(weighted_mean(tf.constant([1.0, 4.0]), tf.constant([3.0, 1.0])))
        1.75
    """
    if weights is None:
        return tf.reduce_mean(losses)
    weights = tf.cast(weights, losses.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))


def check_loss_weight(weight: float) -> float:
    """Return the weight of a loss beside others.

    Raises:
        ConfigError: It is no number of at least 0.
    """
    if not isinstance(weight, Real) or isinstance(weight, bool) or not 0 <= weight < float("inf"):
        raise ConfigError(f"loss_weight is {weight!r}; expected a number, 0 or above")
    return float(weight)


def _own(logits: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return the logit of each row's positive, [q]."""
    return tf.gather(logits, positives, axis=1, batch_dims=1)


def _takes_part(logits: tf.Tensor) -> tf.Tensor:
    return logits != float("-inf")  # and not logits > -inf: a NaN must reach the loss


def _pairs(logits: tf.Tensor, positives: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the logits, the positive's lead over each, and which are negatives that take part; each [q, c].

    What takes no part has the positive's own logit: finite, so that no NaN comes from it, in a value or a gradient.
    """
    logits = tf.cast(logits, tf.float32)
    own = _own(logits, positives)[:, tf.newaxis]  # [q, 1]
    itself = tf.one_hot(positives, tf.shape(logits)[1], on_value=True, off_value=False)  # [q, c]
    negatives = _takes_part(logits) & ~itself
    filled = tf.where(negatives, logits, own)
    return filled, own - filled, negatives


def _mean_over(chosen: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Return the mean of each row's chosen values, [q]; 0 where none is."""
    total = tf.reduce_sum(tf.where(chosen, values, 0.0), axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(tf.cast(chosen, tf.float32), axis=1))
