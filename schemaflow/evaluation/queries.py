"""Who asks, and what they should find: distinct queries and their positives, matched by raw id."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from schemaflow.data.encode import Array, Columns, Lists, take
from schemaflow.data.join import read_ids, read_table
from schemaflow.errors import SchemaError
from schemaflow.metrics import Ints
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import Source
from schemaflow.schema.tags import Tags

__all__ = ["Queries", "codes_of", "distinct_queries", "positions_of", "user_id_of"]


@dataclass(frozen=True)
class Queries:
    """The distinct queries of some interactions.

    Args:
        query: Of each interaction, [rows] int.
        queries: How many distinct ones.
        columns: The encoded query features of each, by name.
        first: The interaction that each was first seen in, [queries] int.
    """

    query: Ints
    queries: int
    columns: Columns
    first: Ints

    def users_of(self, users: pa.Array | None) -> pa.Array:
        """Return the user of each query, from that of each interaction; without ids each query is a user of its own."""
        return pa.array(np.arange(self.queries)) if users is None else users.take(pa.array(self.first))

    def holding(self, name: str, rows: Ints) -> npt.NDArray[np.bool_]:
        """Tell whether a list of each interaction's query holds a table row, [rows] bool."""
        lists = self.columns[name]
        assert isinstance(lists, Lists), "a feature that is a list"
        row = np.repeat(np.arange(self.queries), np.diff(lists.splits))
        width = max(int(lists.values.max(initial=0)), int(rows.max(initial=0))) + 1
        return np.isin(self.query * width + rows, row * width + lists.values)

    def dataset(self) -> tf.data.Dataset:
        """Return the distinct queries as batches of encoded features."""
        tensors = {
            encoded_name(name): tf.RaggedTensor.from_row_splits(column.values, column.splits)
            if isinstance(column, Lists)
            else column
            for name, column in self.columns.items()
        }
        return tf.data.Dataset.from_tensor_slices(tensors).batch(4096)


def distinct_queries(source: Source, schema: Schema, sides: Sides, tables: str | Path | None) -> Queries:
    """Find the distinct queries: interactions whose encoded query features, and user, are all equal."""
    columns = read_table(source, schema, tables, [feature.name for feature in sides.query])
    rows = len(next(iter(columns.values())))
    code = np.zeros(rows, np.int64)
    user_id = user_id_of(schema)
    keys: list[Array] = [_key(column) for column in columns.values()]
    if user_id is not None and user_id.source in source.columns:
        # users out of the vocabulary share a row, but not their positives
        keys.append(codes_of(read_ids(source, user_id)))
    for key in keys:
        _, code = np.unique(code * (int(key.max(initial=0)) + 1) + key, return_inverse=True)
    _, first = np.unique(code, return_index=True)
    return Queries(code, len(first), take(columns, first), first)


def _key(column: Array | Lists) -> Array:
    """Number the distinct values of a column, [rows] int64."""
    if isinstance(column, Lists):
        texts = [
            column.values[start:end].tobytes() for start, end in zip(column.splits[:-1], column.splits[1:], strict=True)
        ]
        return codes_of(pa.array(texts, pa.large_binary()))
    axis = 0 if column.ndim > 1 else None
    return np.unique(column, axis=axis, return_inverse=True)[1].reshape(-1).astype(np.int64)


def codes_of(values: pa.Array) -> Array:
    """Number the distinct values in the order of their first appearance, [n] int64."""
    return pc.dictionary_encode(values).indices.to_numpy().astype(np.int64)


def positions_of(ids: pa.Array, among: pa.Array) -> Ints:
    """Return where each id stands among others, -1 where it does not."""
    return pc.fill_null(pc.index_in(ids, value_set=among), -1).to_numpy().astype(np.int64)


def user_id_of(schema: Schema) -> Feature | None:
    """Return the feature that tells users apart, if there is one.

    Raises:
        SchemaError: There are several.
    """
    found = [feature for feature in schema if feature.has(Tags.USER_ID) and feature.list is None]
    if len(found) > 1:
        names = " and ".join(f'"{it.name}"' for it in found)
        raise SchemaError(f"{names} are tagged user and id; leave that to the one that tells users apart")
    return found[0] if found else None
