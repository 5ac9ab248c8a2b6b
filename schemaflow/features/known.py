"""What a query's user is known to have chosen: items that must not be negatives of that query."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Array, Lists
from schemaflow.data.join import read_table
from schemaflow.data.positives import are_positives, telling
from schemaflow.errors import ConfigError, suggest
from schemaflow.registry import register
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import TableLike
from schemaflow.schema.tags import Tags

__all__ = ["KnownPositives", "known_of", "user_id"]


@register("layer", "known-positives")
@keras.saving.register_keras_serializable("schemaflow")
class KnownPositives(keras.layers.Layer):
    """The items that each user is known to have chosen, by the rows of both.

    Args:
        users: The rows of the users' table.
        pairs: How many distinct pairs there are.
        **kwargs: Of `keras.layers.Layer`.

    Example:
        >>> KnownPositives.of(np.array([1, 0, 1, 1]), np.array([7, 5, 5, 7]), users=3)(tf.constant([1, 2])).to_list()
        [[5, 7], []]
    """

    def __init__(self, users: int, pairs: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.users = users
        self.pairs = pairs
        kept: dict[str, Any] = {"dtype": "int64", "trainable": False, "autocast": False}
        end = keras.initializers.Constant(pairs)  # until told otherwise, every user's list is empty
        self._splits = self.add_weight(name="splits", shape=(users + 1,), initializer=end, **kept)
        self._items = self.add_weight(name="items", shape=(pairs,), initializer="zeros", **kept)
        self.supports_jit = False  # lists of any length
        self.built = True

    @classmethod
    def of(cls, user: Array, item: Array, users: int) -> "KnownPositives":
        """Return what interactions tell.

        Args:
            user: The row of each interaction's user, [rows] int.
            item: The row of its item, [rows] int.
            users: The rows of the users' table.
        """
        pairs = np.unique(np.stack([user, item], axis=1), axis=0)
        made = cls(users, len(pairs))
        made._splits.assign(np.searchsorted(pairs[:, 0], np.arange(users + 1)))
        made._items.assign(pairs[:, 1])
        return made

    def call(self, users: tf.Tensor) -> tf.RaggedTensor:
        """Return the items of users, [batch, None] int64.

        Args:
            users: Their rows, [batch] int.
        """
        lists = tf.RaggedTensor.from_row_splits(self._items.value, self._splits.value, validate=False)
        return tf.gather(lists, users)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the pairs themselves are weights."""
        return super().get_config() | {"users": self.users, "pairs": self.pairs}


def known_of(given: Any, schema: Schema, sides: Sides) -> tuple[Feature | None, KnownPositives | None]:
    """Return what a model's `known_positives` means: a list feature of the query, or what interactions tell; None is neither.

    Args:
        given: The name of a feature, a table of interactions, or what was read of one.
        schema: Knows the features.
        sides: The towers' features.

    Raises:
        ConfigError: A name is of no list of items, or no one feature tells users apart.
        DataError: A column is missing.
    """
    if given is None or isinstance(given, KnownPositives):
        return None, given
    feature = _history_named(given, sides)
    return feature, _read(given, schema, sides) if feature is None else None


def _read(table: TableLike, schema: Schema, sides: Sides) -> KnownPositives:
    """Return what a table of interactions tells. Rows that stand for several users or items tell nothing."""
    user = user_id(sides)
    names = [user.name, sides.item_id.name, *(it.name for it in telling(sides))]
    columns: Mapping[str, Array | Lists] = read_table(table, schema, names=names)
    users, items = np.asarray(columns[user.name]), np.asarray(columns[sides.item_id.name])
    domains = schema.domains
    told = (users >= domains[user.table].reserved) & (items >= domains[sides.item_id.table].reserved)
    told &= are_positives(sides, columns, len(users))
    return KnownPositives.of(users[told].astype(np.int64), items[told].astype(np.int64), schema.rows(user.table))


def user_id(sides: Sides) -> Feature:
    """Return the id of the query side.

    Raises:
        ConfigError: There is none, or several.
    """
    ids = [it for it in sides.query if it.has(Tags.ID) and it.kind == "categorical" and it.list is None]
    if len(ids) != 1:
        found = " and ".join(f'"{it.name}"' for it in ids) or "none"
        raise ConfigError(f"known_positives are looked up by the one id of the query side; found {found}")
    return ids[0]


def _history_named(name: Any, sides: Sides) -> Feature | None:
    """Return the list feature of that name which holds the query's items, or None if it names no feature of the query.

    Raises:
        ConfigError: It names a feature that does not hold items, or neither a feature nor a file.
    """
    if not isinstance(name, str):
        return None
    found = next((it for it in sides.query if it.name == name), None)
    if found is None and not Path(name).exists():
        lists = [it.name for it in sides.query if it.list is not None and it.table == sides.item_id.table]
        raise ConfigError(
            f'known_positives is "{name}": there is no such file, and no such list of items in the query'
            + (suggest(name, lists) or f" (lists of items: {', '.join(lists) or 'none'})")
        )
    if found is not None and (found.list is None or found.table != sides.item_id.table):
        raise ConfigError(
            f'known_positives names "{name}", which is no list of the domain "{sides.item_id.table}"; name a list feature'
            " that shares the items' table, or pass a table of interactions"
        )
    return found
