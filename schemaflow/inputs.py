"""What `fit`, `evaluate` and `predict` take, as batches of encoded features; and what the loss reads beside the towers."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from schemaflow.data.dataset import read_parquet
from schemaflow.errors import ConfigError
from schemaflow.features.encoders import FeatureEncoder
from schemaflow.features.kinds import Tensors
from schemaflow.features.unseen import UnseenRows
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides

__all__ = ["BATCH_SIZE", "Epochs", "Inputs"]

BATCH_SIZE = 1024
"""Rows a batch where none is asked for: each is a negative of the others, so more than Keras's 32."""


@dataclass(frozen=True)
class Inputs:
    """Tables and datasets as a model's input.

    Args:
        schema: Knows the features.
        sides: The towers' features, the weight and the mark of explicit negatives.
        beside: What terms of the loss read beside the towers' features.
        encoders: Of the query tower and the item tower, and of terms that read features through tables of their own.
    """

    schema: Schema
    sides: Sides
    beside: Sequence[Feature]
    encoders: Sequence[FeatureEncoder]

    def dataset(
        self,
        x: Any,
        batch_size: int | None = None,
        tables: str | Path | None = None,
        seed: Callable[[], int] | None = None,
        judged: bool = True,
    ) -> tf.data.Dataset:
        """Return batches of encoded features.

        Args:
            x: A table, the path of one, or a dataset of feature dicts.
            batch_size: Rows a batch; `BATCH_SIZE` if None.
            tables: The folder of the side tables, where it is not that of `x`.
            seed: Gives the seed of each epoch's order; the order is that of `x` if None.
            judged: Whether a loss is to be computed, which needs more columns than the towers.

        Raises:
            ConfigError: `x` is a dataset and more is given, or its elements are no dicts.
            DataError: A table is not readable or lacks a column.
        """
        if isinstance(x, tf.data.Dataset):
            if batch_size is not None or tables is not None:
                raise ConfigError(
                    "batch_size and tables are for paths and tables; a dataset is batched and joined already"
                )
            return self._encoded(x)
        features = [*self.sides.query, *self.sides.item]
        if judged:
            roles = (self.sides.weight, self.sides.explicit_negative)
            features += [*(it for it in roles if it is not None), *self.sides.valued, *self.beside]
        return read_parquet(
            x,
            self.schema,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            shuffle=seed is not None,
            seed=seed,
            tables=tables,
            features=list(dict.fromkeys(feature.name for feature in features)),
        )

    def _encoded(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return a dataset of the user's whose raw features are encoded in the input pipeline, as those of a table are."""
        spec = dataset.element_spec
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"the dataset's elements are {type(spec).__name__}s; expected dicts of features: targets and weights are"
                " features of the schema, and each element holds a batch"
            )
        names = {feature.name for encoder in self.encoders for feature in encoder.features}
        if not names & set(spec) and self.sides.weight is None and self.sides.explicit_negative is None:
            return dataset

        def encode(batch: Tensors) -> dict[str, Any]:
            rest = {name: value for name, value in batch.items() if name not in names}
            self._check_roles(rest)
            for encoder in self.encoders:
                rest |= encoder.encoded(batch)
            return rest

        # autograph would wrap the errors
        return dataset.map(tf.autograph.experimental.do_not_convert(encode), num_parallel_calls=tf.data.AUTOTUNE)

    def _check_roles(self, batch: Tensors) -> None:
        """Refuse in a dataset of the user's what is refused in a table."""
        weight, mark = self.sides.weight, self.sides.explicit_negative
        if weight is not None and (weights := _given(weight, batch)) is not None:
            fits = tf.math.is_finite(tf.cast(weights, tf.float32)) & (weights >= 0)
            wrong = f'feature "{weight.name}" is below 0 or not finite; a weight is 0 or more'
            tf.debugging.Assert(tf.reduce_all(fits), [wrong])
        if mark is not None and (marks := _given(mark, batch)) is not None:
            wrong = f'feature "{mark.name}" is neither 0 nor 1; an explicit negative is 1, every other row 0'
            tf.debugging.Assert(tf.reduce_all((marks == 0) | (marks == 1)), [wrong])

    def column(self, feature: Feature, x: Tensors) -> tf.Tensor:
        """Return the values of a feature that is kept out of the towers, [batch].

        Raises:
            ConfigError: It is not there.
        """
        values = _given(feature, x)
        if values is None:
            raise ConfigError(
                f'feature "{feature.name}" is missing from the dataset, and the loss needs it: a target, a weight or a mark of negatives'
            )
        return values

    def worth(self, x: Tensors, weights: tf.Tensor | None) -> tf.Tensor | None:
        """Return how much each row counts as a positive, [batch] float32: `weight * max(0, sum_t value_t label_t)`.

        0 for explicit negatives; None where all rows count alike.
        """
        worth = weights
        if self.sides.explicit_negative is not None:  # its item is a candidate, but it has no positive of its own
            positive = tf.cast(self.column(self.sides.explicit_negative, x) == 0, tf.float32)
            worth = positive if worth is None else worth * positive
        if self.sides.valued:
            labels = ((it.value, tf.cast(self.column(it, x), tf.float32)) for it in self.sides.valued)
            value = tf.nn.relu(tf.add_n([value * label for value, label in labels]))
            worth = value if worth is None else worth * value
        return worth

    def weights(self, x: Tensors, given: tf.Tensor | None) -> tf.Tensor | None:
        """Return each row's weight in the loss, [batch]: that of the schema's feature, times what Keras was given."""
        if self.sides.weight is None:
            return given
        weights = tf.cast(self.column(self.sides.weight, x), tf.float32)
        return weights if given is None else weights * tf.cast(given, tf.float32)


def _given(feature: Feature, x: Tensors) -> tf.Tensor | None:
    """Return the values of a feature that is kept out of the towers, encoded or raw, which are the same, [batch]."""
    return next((x[key] for key in (encoded_name(feature.name), feature.name) if key in x), None)


class Epochs(keras.callbacks.Callback):
    """What is made anew before each epoch: the seed of its order, and what the model prepares.

    The seed is a random one, moved by the steps made before. Keras seeds Python's generator too, so `set_random_seed`
    fixes it; the steps are saved with the optimizer, so that training that is taken up again goes on in the order it
    would have had. They are read before the epoch: inside, the first batch may be asked for before or after the first
    step is counted.

    Args:
        prepare: Called before each epoch.
        unseen: The rows that no example trains.
        end: Called after each epoch with what Keras found in it.
    """

    def __init__(
        self, prepare: Callable[[], None], unseen: UnseenRows, end: Callable[[Mapping[str, Any]], None]
    ) -> None:
        super().__init__()
        self.end = end
        self.prepare = prepare
        self.unseen = unseen
        self.first = self.seed = random.getrandbits(62)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take the epoch's seed."""
        self.seed = self.first + int(self.model.optimizer.iterations)
        self.prepare()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Settle the rows that went untrained, and let the terms speak."""
        self.unseen.settle(decays=bool(self._optimizer.weight_decay))
        self.end(logs or {})

    def on_train_end(self, logs: Any = None) -> None:
        """Fill these rows once more, where the optimizer has put averages over the steps in place of all weights."""
        if self._optimizer.use_ema:
            self.unseen.fill()

    @property
    def _optimizer(self) -> keras.optimizers.Optimizer:
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss

    def beside(self, callbacks: Any) -> list[Any]:
        """Return what Keras takes as callbacks, with this one before those that save what an epoch left."""
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = callbacks.callbacks
        return [self, *(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else [])]
