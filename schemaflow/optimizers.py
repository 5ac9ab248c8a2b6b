"""Adam and Adagrad that touch the rows of the batch alone, so that a step costs the same beside a table of any size."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.registry import lookup, names, register

__all__ = ["Adagrad", "Adam", "LossScaleOptimizer", "optimizer_of", "with_scaled_loss"]

REFUSED = {
    "weight_decay": "would decay every row of a table at each step; use EmbeddingOptions(embeddings_l2_reg=…) for tables"
    " and a layer's kernel_regularizer",
    "use_ema": "would average every row of a table at each step; use a checkpoint of the best epoch",
    "gradient_accumulation_steps": "would add up gradients of a table's size at each step; use a larger batch",
    "global_clipnorm": "would need gradients of a table's size; use clipnorm, for each weight by itself, or clipvalue",
    "loss_scale_factor": "does not divide gradients of rows; wrap the optimizer in LossScaleOptimizer, as compile does"
    " for mixed_float16",
    "amsgrad": "would keep a third number for each weight",
}
"""Arguments of Keras's optimizers that would read or keep more than the batch touches, and what to do instead."""


class _RowSparse(keras.optimizers.Optimizer):
    """What the two have in common: one formula for whole weights and for the rows that a batch reads of a table.

    A gradient that is `tf.IndexedSlices`, such as a lookup gives, is summed over the times that a row occurs, and these rows
    of the weight and its slots are read, changed and written. Any other gradient is of the whole weight.
    """

    slots: Sequence[Sequence[keras.Variable]]

    def __init__(self, learning_rate: Any, name: str | None, **kwargs: Any) -> None:
        kind = type(self).__name__
        problems = [
            f"{kind}({argument}=…) {reason}; or take keras.optimizers.{kind}, whose steps grow with the tables"
            for argument, reason in REFUSED.items()
            if kwargs.get(argument) not in (None, False)
        ]
        if problems:
            raise ConfigError(*problems)
        kwargs.pop("amsgrad", None)
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    @property
    def _clips(self) -> bool:
        return bool(self.clipnorm or self.clipvalue)

    def _step(
        self, gradient: tf.Tensor, slots: Sequence[tf.Tensor], learning_rate: tf.Tensor
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        """Return what to take from the weights, shaped as the gradient, and the slots' new values."""
        raise NotImplementedError

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Apply gradients as any Keras optimizer does."""
        if self._clips:  # what is clipped is a row's whole gradient
            grads = [summed(it) if isinstance(it, tf.IndexedSlices) else it for it in grads]
        super().apply(grads, trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Change a weight and its slots: all of them, or the rows of the gradient.

        Args:
            gradient: [rows, …], or `tf.IndexedSlices` of it.
            variable: [rows, …].
            learning_rate: A scalar.
        """
        place, rate = self._get_variable_index(variable), tf.cast(learning_rate, variable.dtype)
        slots = [slot[place].value for slot in self.slots]
        if not isinstance(gradient, tf.IndexedSlices):
            change, values = self._step(tf.cast(gradient, variable.dtype), slots, rate)
            for slot, new in zip(slots, values, strict=True):
                slot.assign(new)
            variable.assign_sub(change)
            return
        # once, unless the gradients of several devices came one after the other: XLA's tf.unique errs on what it made itself
        if not self._clips or tf.distribute.get_strategy().num_replicas_in_sync > 1:
            gradient = summed(gradient)
        rows = gradient.indices  # [n]
        old = [tf.gather(slot, rows) for slot in slots]  # of a variable: the rows alone are read
        change, values = self._step(tf.cast(gradient.values, variable.dtype), old, rate)
        for slot, new in zip(slots, values, strict=True):
            slot.scatter_update(tf.IndexedSlices(new, rows))
        variable.scatter_sub(tf.IndexedSlices(change, rows))


def summed(slices: tf.IndexedSlices) -> tf.IndexedSlices:
    """Return slices in which each row stands once, with the sum of its values.

    Example:
        >>> both = summed(tf.IndexedSlices(tf.constant([1.0, 2.0, 4.0]), tf.constant([7, 3, 7])))
        >>> both.indices.numpy().tolist(), both.values.numpy().tolist()
        ([7, 3], [5.0, 2.0])
    """
    rows, place = tf.unique(slices.indices)  # [m], [n]
    values = tf.math.unsorted_segment_sum(slices.values, place, tf.size(rows))  # [m, …]
    return tf.IndexedSlices(values, rows, slices.dense_shape)


@register("optimizer", "adam")
@keras.saving.register_keras_serializable("schemaflow")
class Adam(_RowSparse):
    """Adam, lazy on tables: `m += (g - m)(1 - b1)`, `v += (g^2 - v)(1 - b2)`, `w -= rate_t m / (sqrt(v) + epsilon)`.

    `rate_t = rate sqrt(1 - b2^t) / (1 - b1^t)` with t the steps of the whole optimizer. Where the gradient is of a whole
    weight, this is `keras.optimizers.Adam`. Of a table, only the rows of the batch are changed: a row's m and v wait while it
    is not seen, where dense Adam lets them decay at each step and moves the row by its old momentum all the while. A row that
    is seen at every step has the same values either way. One that is seen again after k steps starts from `m` here and from
    `b1^k m` there, and `v` likewise; and it has not been moved in between by gradients that are k steps old.

    Args:
        learning_rate: A number, or a schedule of Keras.
        beta_1: b1.
        beta_2: b2.
        epsilon: Keeps the division from 0.
        name: Of the optimizer.
        **kwargs: `clipnorm` and `clipvalue` of `keras.optimizers.Optimizer`, of the summed gradient of the rows.

    Raises:
        ConfigError: An argument of Keras's would need work, or memory, of a table's size at each step.

    Source:
        Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015. https://arxiv.org/abs/1412.6980
        Lazy as TensorFlow Addons' `LazyAdam` and PyTorch's `SparseAdam`.

    Example:
        >>> table, optimizer = keras.Variable([[1.0], [1.0], [1.0]]), Adam(0.5)
        >>> optimizer.build([table])
        >>> optimizer.apply([tf.IndexedSlices(tf.constant([[2.0], [3.0]]), tf.constant([1, 1]))])
        >>> table.numpy().round(3).tolist()
        [[1.0], [0.5], [1.0]]
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, name, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make a momentum and a velocity for each weight, as Keras's Adam does."""
        if not self.built:
            super().build(variables)
            self.slots = self.add_optimizer_variables(variables, ["momentum", "velocity"])

    def _step(
        self, gradient: tf.Tensor, slots: Sequence[tf.Tensor], learning_rate: tf.Tensor
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        momentum, velocity = slots
        steps = tf.cast(self.iterations.value + 1, gradient.dtype)
        rate = learning_rate * tf.sqrt(1 - self.beta_2**steps) / (1 - self.beta_1**steps)
        momentum = momentum + (gradient - momentum) * (1 - self.beta_1)
        velocity = velocity + (tf.square(gradient) - velocity) * (1 - self.beta_2)
        return rate * momentum / (tf.sqrt(velocity) + self.epsilon), (momentum, velocity)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@register("optimizer", "adagrad")
@keras.saving.register_keras_serializable("schemaflow")
class Adagrad(_RowSparse):
    """Adagrad, of a table's rows alone: `a += g^2`, `w -= rate g / sqrt(a + epsilon)`.

    A row that is not in the batch has a gradient of 0, which changes nothing: this is `keras.optimizers.Adagrad` but for
    two defaults. There a begins at 0.1, meant for losses that are a sum over the batch. Our losses are means, with gradients
    smaller by the size of the batch: about 1e-5 at a batch of 8192, whose squares drown in 0.1 for whole epochs.

    Args:
        learning_rate: A number, or a schedule of Keras.
        initial_accumulator_value: What a begins at.
        epsilon: Keeps the division from 0.
        row_wise: Keep one number for each row of an embedding table (a weight of two axes named `embeddings`), the sum of
            `mean(g^2)` over the row, and the memory of one table less; other weights have their own number each as ever.
        name: Of the optimizer.
        **kwargs: `clipnorm` and `clipvalue` of `keras.optimizers.Optimizer`, of the summed gradient of the rows.

    Raises:
        ConfigError: An argument of Keras's would need work, or memory, of a table's size at each step.

    Source:
        Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR 2011.
        Row-wise: `EXACT_ROWWISE_ADAGRAD` of Meta's FBGEMM, in Mudigere et al., "Software-hardware co-design for fast and
        scalable training of deep learning recommendation models", ISCA 2022. https://arxiv.org/abs/2104.05158

    Example:
        >>> table, optimizer = keras.Variable([[1.0, 1.0], [1.0, 1.0]], name="embeddings"), Adagrad(2.5, row_wise=True)
        >>> optimizer.build([table])
        >>> optimizer.apply([tf.IndexedSlices(tf.constant([[1.0, 7.0]]), tf.constant([1]))])
        >>> table.numpy().round(3).tolist()  # the mean of 1 and 49 is 25
        [[1.0, 1.0], [0.5, -2.5]]
    """

    def __init__(
        self,
        learning_rate: Any = 0.05,
        initial_accumulator_value: float = 1e-10,
        epsilon: float = 1e-16,
        row_wise: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, name, **kwargs)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon
        self.row_wise = row_wise

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Make an accumulator for each weight, or for each row of it."""
        if not self.built:
            super().build(variables)
            self.slots = [[self._accumulator(it) for it in variables]]

    def _accumulator(self, variable: keras.Variable) -> keras.Variable:
        def initializer(shape: Any, dtype: Any = None) -> tf.Tensor:
            value = tf.cast(self.initial_accumulator_value, dtype)
            return tf.fill(shape, value)  # Keras's Constant takes the memory twice

        if self.row_wise and variable.name == "embeddings" and len(variable.shape) == 2:
            name = f"{variable.path.replace('/', '_')}_accumulator"  # as Keras names slots
            return self.add_variable((variable.shape[0],), initializer, variable.dtype, name=name)
        return self.add_variable_from_reference(variable, "accumulator", initializer)

    def _step(
        self, gradient: tf.Tensor, slots: Sequence[tf.Tensor], learning_rate: tf.Tensor
    ) -> tuple[tf.Tensor, Sequence[tf.Tensor]]:
        (accumulator,) = slots
        by_row = len(accumulator.shape) < len(gradient.shape)
        squares = tf.square(gradient)  # [n, …]
        accumulator = accumulator + (tf.reduce_mean(squares, axis=1) if by_row else squares)  # [n], or [n, …]
        scale = tf.sqrt((accumulator[:, tf.newaxis] if by_row else accumulator) + self.epsilon)
        return learning_rate * gradient / scale, (accumulator,)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
            "row_wise": self.row_wise,
        }


@keras.saving.register_keras_serializable("schemaflow")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling for mixed_float16, which looks for overflow in the rows of the batch and not in whole tables.

    Example:
        >>> LossScaleOptimizer(Adam(0.1)).inner_optimizer.beta_1
        0.9
    """

    def check_finite(self, grads: Any) -> tf.Tensor:
        """Return whether all gradients are finite."""
        return super().check_finite([it.values if isinstance(it, tf.IndexedSlices) else it for it in grads])


def optimizer_of(optimizer: Any, **arguments: Any) -> Any:
    """Return the optimizer of a name: of this module where it has one, else Keras's.

    Args:
        optimizer: A name; any other object is returned as it is.
        **arguments: Of the optimizer of that name.

    Raises:
        ConfigError: There is no such optimizer.

    Example:
        >>> type(optimizer_of("adam")).__module__, type(optimizer_of("SGD", learning_rate=0.1)).__name__
        ('schemaflow.optimizers', 'SGD')
    """
    if not isinstance(optimizer, str):
        return optimizer
    if optimizer.lower() in names("optimizer"):
        return lookup("optimizer", optimizer.lower())(**arguments)
    try:
        return keras.optimizers.get({"class_name": optimizer, "config": arguments})
    except ValueError:
        raise ConfigError(
            f'unknown optimizer "{optimizer}"; expected "adam", "adagrad" or another of keras.optimizers'
        ) from None


def with_scaled_loss(optimizer: Any) -> Any:
    """Return an optimizer, or what Keras makes one of, with its loss scaled for half precision, unless it is already; None of None."""
    if optimizer is None or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return LossScaleOptimizer(keras.optimizers.get(optimizer), name="loss_scale_optimizer")
