"""Where sequences of a schema meets the encoder of histories: which features it reads, and which events it is shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from schemaflow.errors import ConfigError, SchemaError
from schemaflow.features.kinds import Tensors
from schemaflow.layers.copies import fresh_copy
from schemaflow.layers.history import UserHistoryEncoder
from schemaflow.layers.lists import rows_of
from schemaflow.schema.feature import PADDING, Feature, encoded_name
from schemaflow.schema.sides import Sides

__all__ = ["Histories", "checked_history", "events_of"]


class Histories:
    """The sequences among some features, what is aligned with each, and an encoder for each.

    Args:
        history: The encoder; the first sequence's own, of which each further one gets a copy.
        features: Of a tower.
        widths: Of the features' vectors, by name.
    """

    def __init__(self, history: UserHistoryEncoder, features: Sequence[Feature], widths: Mapping[str, int]) -> None:
        self.sides = {
            it.name: tuple(side for side in features if side.aligned_with == it.name)
            for it in features
            if it.is_history
        }
        self.encoders: dict[str, UserHistoryEncoder] = {}
        for place, it in enumerate(feature for feature in features if feature.is_history):
            encoder = history if place == 0 else fresh_copy(history, place)
            length = None if it.list is None else it.list.max_length
            names = (it.name, *(side.name for side in self.sides[it.name]))
            if not encoder.built:
                encoder.build([(None, length, widths[name]) for name in names])
            self.encoders[it.name] = encoder

    @property
    def aligned(self) -> set[str]:
        """The features that enter with their sequence, and not by themselves."""
        return {side.name for sides in self.sides.values() for side in sides}


def checked_history(history: Any, sides: Sides) -> UserHistoryEncoder | None:
    """Return the model's argument `history`, which fits the query's features.

    Raises:
        ConfigError: It is no encoder of histories.
        SchemaError: The query has no sequence, or one that cannot be read; the message names the feature to add.
    """
    if history is None:
        return None
    if not isinstance(history, UserHistoryEncoder):
        raise ConfigError(f"history is {history!r}; expected a UserHistoryEncoder(…)")
    found, item = [it for it in sides.query if it.is_history], sides.item_id
    if not found:
        side = next((str(tag) for it in sides.query for tag in it.tags if tag not in item.tags), "user")
        raise SchemaError(
            "history=… reads a sequence of the query, and no feature of it is tagged sequence; add one, such as"
            f' "history: {{dtype: {item.dtype}, tags: [{side}, sequence], domain: {item.table}, list: {{max_length: 50}}}}"'
        )
    problems = [
        f'feature "{it.name}" is a sequence with weights, which history=… does not read; align a feature with it instead:'
        f' "list: {{aligned_with: {it.name}}}"'
        for it in found
        if it.weighted_by is not None
    ]
    problems += [
        f'feature "{it.name}" is a sequence of any length, and history=… has a vector for each place; add "max_length" to'
        " its list"
        for it in found
        if it.list is not None and it.list.max_length is None and history.max_length is None
    ]
    if problems:
        raise SchemaError(*problems)
    return history


def events_of(
    feature: Feature, sides: Sequence[Feature], encoded: Tensors, padded: bool, target: tf.Tensor | None = None
) -> list[tf.RaggedTensor]:
    """Return the rows of a sequence's events and of what is aligned with them, each [batch, None] int.

    Args:
        feature: The sequence.
        sides: What is aligned with it.
        encoded: Their rows by `encoded_name`: ragged, or [batch, length].
        padded: Whether row 0 of the sequence's table is padding, which is no event.
        target: The row of each row's own item in that table, [batch] int, whose events are taken out; none if None.
    """
    lists = [_lists(encoded[encoded_name(it.name)]) for it in (feature, *sides)]
    events, checks = lists[0], []
    for side, it in zip(sides, lists[1:], strict=True):
        message = f'feature "{side.name}" and {side.pair} differ in length in a row'
        checks.append(tf.debugging.assert_equal(it.row_lengths(), events.row_lengths(), message))
    with tf.control_dependencies([it for it in checks if it is not None]):
        rows = tf.identity(events.values)  # [n]
    kept = tf.ones_like(rows, tf.bool)
    if padded:
        kept &= rows != PADDING
    if target is not None:
        kept &= tf.cast(rows, tf.int64) != tf.gather(tf.cast(target, tf.int64), rows_of(events))
    before = tf.concat([[0], tf.cumsum(tf.cast(kept, events.row_splits.dtype))], axis=0)  # [n + 1]
    splits, places = tf.gather(before, events.row_splits), tf.where(kept)[:, 0]
    return [
        tf.RaggedTensor.from_row_splits(tf.gather(it, places), splits, validate=False)
        for it in (rows, *(side.values for side in lists[1:]))
    ]


def _lists(rows: Any) -> tf.RaggedTensor:
    return rows if isinstance(rows, tf.RaggedTensor) else tf.RaggedTensor.from_tensor(rows)
