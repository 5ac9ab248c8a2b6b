"""What gives pairs of queries and items a score from outside: a teacher, a reward. All take one form."""

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.data.decode import decode
from schemaflow.errors import ConfigError, SchemaError, suggest
from schemaflow.features.kinds import Tensors
from schemaflow.registry import register
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.tasks.terms import Step

__all__ = ["Scorer", "as_scorer"]

Function = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


@register("scorer", "function")
@keras.saving.register_keras_serializable("schemaflow")
class Scorer:
    """A function of one's own that scores pairs: `function(queries, items) -> [b, m]`, b queries with m items each.

    Wherever a teacher or a reward is taken, a function alone means `Scorer(function)`. It is given two dicts of NumPy arrays
    by the features' names, with the values as they stand in the data: `queries` [b] and `items` [b, m] (dense vectors have
    one more axis; lists are arrays of arrays). An id that the vocabulary does not hold is "" or the least integer, numbers
    are as exact as float32, and what was hashed or put into buckets is its row. It returns a number for each pair, NaN where
    it has none to give: the pair then takes no part.

    With `tensors` the function is TensorFlow's and part of the graph: quicker, without decoding, and without a gradient all the
    same. Its dicts hold what the model holds, rows of tables and normalised numbers as tensors, [b, m, None] ragged for lists.

    A function or object that is registered with `keras.saving.register_keras_serializable` is saved with the model. Of any other
    only the name is: the saved model serves, and is looked at; to train or evaluate it again, set `function`.

    Args:
        function: Of queries and items.
        tensors: Whether it takes and gives tensors.
        features: The names of the features it reads; all of both towers if None. Naming few saves decoding the others.
        name: What errors call it; the function's own if None.

    Raises:
        ConfigError: The function is none.

    Example:
        >>> ratings = {"ann": {"x": 5.0, "y": 1.0}, "bob": {"y": 4.0}}
        >>> def rated(queries, items):
        ...     pairs = zip(queries["user"], items["item"])
        ...     return [[ratings[user].get(item, float("nan")) for item in row] for user, row in pairs]
        >>> Scorer(rated).name
        'rated'
    """

    def __init__(
        self,
        function: Function | None,
        tensors: bool = False,
        features: Sequence[str] | None = None,
        name: str | None = None,
    ) -> None:
        if function is not None and not callable(function):
            raise ConfigError(
                f"the scorer is {function!r}; expected a function (queries, items) -> [b, m] scores of b queries with m items each"
            )
        self.function = function
        self.tensors = tensors
        self.features = None if features is None else tuple(features)
        self.name = _name_of(function) if name is None else name
        self._query: list[Feature] = []
        self._item: list[Feature] = []

    def bind(self, schema: Schema, sides: Sides) -> None:
        """Take from a schema the features that the function reads.

        Raises:
            SchemaError: It names one that is in neither tower.
        """
        self._schema = schema
        known = [it.name for it in (*sides.query, *sides.item)]
        if unknown := [name for name in self.features or () if name not in known]:
            raise SchemaError(
                *(
                    f'the scorer "{self.name}" reads "{it}", which is no feature of a tower{suggest(it, known)}; expected some of'
                    f" {', '.join(known)}"
                    for it in unknown
                )
            )
        self._query, self._item = (
            [it for it in side if self.features is None or it.name in self.features]
            for side in (sides.query, sides.item)
        )

    def scores(self, step: Step, positions: tf.Tensor) -> tf.Tensor:
        """Return the scores of a batch's queries with items, [b, m] float32, NaN where there is none; no gradient passes.

        Args:
            step: Its `items` are all items.
            positions: Of the items of each query, [b, m] int64.

        Raises:
            ConfigError: The function was not saved with the model.
            tensorflow.errors.OpError: It fails, gives another shape, or an infinite number.
        """
        assert step.items is not None, "the model gives what a term needs"
        return self._scores(step, step.items.features(tf.reshape(positions, [-1])), tf.shape(positions))

    def own_scores(self, step: Step) -> tf.Tensor:
        """Return the scores of a batch's queries with the rows' own items, [b] float32, as `scores` does."""
        return self._scores(step, step.encoded_items(), tf.stack([tf.shape(step.query)[0], 1]))[:, 0]

    def _scores(self, step: Step, items: Tensors, shape: tf.Tensor) -> tf.Tensor:
        """Return the scores of queries with the items whose features are those of b * m rows, [b, m]."""
        if self.function is None:
            raise ConfigError(
                f'the function "{self.name}", a teacher or a reward, was not saved with the model, since it is not registered:'
                " set it as the task's scorer.function, or register it with keras.saving.register_keras_serializable before"
                " the model is saved"
            )
        queries, items = _named(self._query, step.encoded_queries()), _named(self._item, items)
        if self.tensors:
            items = {name: _in_rows(values, shape) for name, values in items.items()}
            found = tf.cast(self.function(queries, items), tf.float32)
        else:
            found = self._by_numpy(queries, items, shape)
        right = tf.debugging.Assert(
            tf.reduce_all(tf.shape(found) == shape) & ~tf.reduce_any(tf.math.is_inf(found)),
            [f'the scorer "{self.name}" gives an infinite score, or the shape', tf.shape(found), "; expected", shape],
        )
        with tf.control_dependencies([right] if right is not None else []):
            return tf.reshape(tf.stop_gradient(found), shape)

    def _by_numpy(self, queries: Tensors, items: Tensors, shape: tf.Tensor) -> tf.Tensor:
        """Return what the function makes of NumPy arrays, [b, m] float32."""
        flat = [_flat(it) for it in (*queries.values(), *items.values())]

        def run(shape: Any, *arrays: Any) -> Any:
            given = iter(arrays)
            decoded = [
                self._decoded(it, [next(given) for _ in parts])
                for it, parts in zip((*self._query, *self._item), flat, strict=True)
            ]
            count = len(self._query)
            of_queries = dict(zip(queries, decoded[:count], strict=True))
            of_items = {
                name: values.reshape(*shape, *values.shape[1:])
                for name, values in zip(items, decoded[count:], strict=True)
            }
            assert self.function is not None, "looked at before"
            scores = np.asarray(self.function(of_queries, of_items), np.float32)
            if scores.shape != tuple(shape):
                raise ConfigError(f'the scorer "{self.name}" gives the shape {scores.shape}; expected {tuple(shape)}')
            return scores

        found = tf.numpy_function(run, [shape, *(part for parts in flat for part in parts)], tf.float32, stateful=True)
        return tf.ensure_shape(found, [None, None])

    def _decoded(self, feature: Feature, parts: Sequence[Any]) -> Any:
        """Return a feature's values as they stand in the data: [n], [n, dim], or of lists [n] arrays."""
        values = decode(self._schema, feature, parts[0])
        if len(parts) == 1:
            return values
        lists = np.empty(len(parts[1]) - 1, object)
        lists[:] = np.split(values, parts[1][1:-1])
        return lists

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; of a function that is not registered, its name alone."""
        kept = _is_registered(self.function)
        return {
            "function": keras.saving.serialize_keras_object(self.function) if kept else None,
            "tensors": self.tensors,
            "features": None if self.features is None else list(self.features),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scorer":
        """Make the scorer of `get_config`."""
        return cls(**config | {"function": keras.saving.deserialize_keras_object(config["function"])})


def as_scorer(given: Any) -> Scorer:
    """Return the scorer that an argument means: one, or a function."""
    return given if isinstance(given, Scorer) else Scorer(given)


def _name_of(function: Any) -> str:
    return "" if function is None else str(getattr(function, "__name__", type(function).__name__))


def _is_registered(function: Any) -> bool:
    """Tell whether Keras can write a function or object down, and find it again."""
    if function is None:
        return False
    kind = function if isinstance(function, types.FunctionType) else type(function)
    found = keras.saving.get_registered_object(keras.saving.get_registered_name(kind))
    return found is kind and (kind is function or (hasattr(kind, "get_config") and hasattr(kind, "from_config")))


def _named(features: Sequence[Feature], encoded: Tensors) -> dict[str, Any]:
    return {it.name: encoded[encoded_name(it.name)] for it in features}


def _flat(values: Any) -> list[tf.Tensor]:
    """Return what NumPy can be given: a tensor, or the values of lists and where each begins."""
    return [values.values, values.row_splits] if isinstance(values, tf.RaggedTensor) else [values]


def _in_rows(values: Any, shape: tf.Tensor) -> Any:
    """Return the features of b * m items as those of m for each of b queries."""
    if isinstance(values, tf.RaggedTensor):
        b, m = tf.unstack(tf.cast(shape, values.row_splits.dtype))
        return tf.RaggedTensor.from_uniform_row_length(values, m, b)
    return tf.reshape(values, tf.concat([shape, tf.shape(values)[1:]], axis=0))
