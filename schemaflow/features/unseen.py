"""Rows of embedding tables that no example trains, so that what was never seen gets an answer and no noise."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from schemaflow.layers.quotient_remainder import QuotientRemainderTable
from schemaflow.layers.table import Table
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import OUT_OF_VOCABULARY, PADDING
from schemaflow.schema.schema import Schema

__all__ = ["UnseenRows", "holding_values", "seen_rows"]

Array = npt.NDArray[Any]

CHUNK = 2**22
"""Numbers of a table that are looked at, at a time."""

TURNED = 1e-4
"""How far a row's direction moves where an example trained it; that it is rounded again at each step moves it less."""


def holding_values(schema: Schema, domain: Domain) -> Array:
    """Return which rows of a table hold a value, and are neither reserved nor beyond its vocabulary, [rows] bool."""
    vocabulary, row = schema.vocabulary(domain.name), np.arange(schema.rows(domain.name))
    end = len(row) if vocabulary is None else domain.reserved + len(vocabulary)
    return (row >= domain.reserved) & (row < end)


def seen_rows(schema: Schema, domain: Domain) -> Array | None:
    """Return which rows of an id's table interactions were seen of, [rows] bool; None where none were counted."""
    counted = [it for feature in domain.features if (it := schema.counts(feature)) is not None]
    return np.sum(counted, axis=0)[: schema.rows(domain.name)] > 0 if counted else None


@dataclass
class _Table:
    """An embedding table with rows that may go untrained.

    Args:
        table: The table.
        trained: Which rows hold values that are trained, [rows] float32.
        rows: The others but padding, [m] int.
        oov: The row of what is out of the vocabulary; None where there is none.
        alone: Which of `rows` training has left alone since the model was made, [m] bool.
        before: The fingerprints of `rows` when they were last looked at, [m] int64.
        towards: Their directions then, [m, 2] float32.
        reserved: How many rows come before the values.
    """

    table: Table
    trained: tf.Tensor
    rows: Array
    oov: int | None
    alone: Array
    before: Array
    towards: Array
    reserved: int

    def look(self) -> None:
        """Remember what the rows hold."""
        self.before, self.towards = self.fingerprints(), self.directions()

    def unchanged(self, decays: bool) -> Array:
        """Return which of `rows` hold what they held, or point where they did if all weights decay, [m] bool."""
        same = self.fingerprints() == self.before
        return same | (np.abs(self.directions() - self.towards) < TURNED).all(axis=1) if decays else same

    def fingerprints(self) -> Array:
        """Return a number for each of `rows` that tells what it holds, [m] int64: a copy of them may not fit in memory."""
        factors = np.random.default_rng(0).integers(1 << 62, size=self.table.dim) * 2 + 1  # odd: each bit counts
        found = [
            tf.cast(self.table.lookup(rows), tf.float32).numpy().view(np.int32).astype(np.int64) @ factors
            for rows in self.chunks(self.rows)
        ]
        return np.concatenate(found)

    def directions(self) -> Array:
        """Return two numbers for each of `rows` that tell where it points, however long it is, [m, 2] float32."""
        axes = np.random.default_rng(1).normal(size=(self.table.dim, 2)).astype(np.float32)
        found = [
            (tf.math.l2_normalize(tf.cast(self.table.lookup(rows), tf.float32), axis=1, epsilon=1e-38) @ axes).numpy()
            for rows in self.chunks(self.rows)
        ]
        return np.concatenate(found)

    def put(self, value: tf.Tensor, rows: Array) -> None:
        """Give rows a value, [dim]."""
        for some in self.chunks(rows):
            self.table.put(some, tf.repeat(value[tf.newaxis], len(some), axis=0))  # [rows, dim]

    def mean(self) -> tf.Tensor:
        """Return the mean of the rows that are trained, [dim]."""
        if not isinstance(self.table, QuotientRemainderTable):
            total = tf.linalg.matvec(self.table.embeddings.value, self.trained, transpose_a=True)
        else:  # its rows are made as they are looked up
            rows = np.flatnonzero(self.trained)
            total = tf.add_n([tf.reduce_sum(self.table.lookup(some), axis=0) for some in self.chunks(rows)])
        return total / tf.reduce_sum(self.trained)

    def chunks(self, rows: Array) -> Iterator[Array]:
        size = max(CHUNK // self.table.dim, 1)
        return (rows[start : start + size] for start in range(0, len(rows), size))


class UnseenRows:
    """The rows that no example trains: out of vocabulary, missing, and ids that no interaction has.

    A row of random numbers would be noise in the answer to a new id. After each epoch such a row is the one that stands
    for what is out of the vocabulary, where examples have trained that, and else the mean of the rows that are trained.
    Pretrained and frozen tables stay as they are, and so does every row that training has changed, other than by the decay
    or the average of all weights. Of a compressed table this holds for the reserved rows; an id that no interaction has is
    made of rows that others have trained.

    Args:
        schema: Knows the vocabularies, and how often each id was seen.
        tables: Embedding tables by domain.
    """

    def __init__(self, schema: Schema, tables: Mapping[str, Table]) -> None:
        self._tables = []
        for name, table in tables.items():
            domain = schema.domains[name]
            holds, seen = holding_values(schema, domain), seen_rows(schema, domain)
            trained = holds if seen is None else holds & seen
            left = ~trained if seen is None else ~(trained | seen)
            left &= not isinstance(table, QuotientRemainderTable)
            left[: domain.reserved] = True  # trained or not: that is seen as training goes on
            left[PADDING] &= not domain.reserved
            if trained.any() and left.any() and schema.vectors(name) is None:
                oov = OUT_OF_VOCABULARY if domain.encoding == "vocabulary" else None
                rows = np.flatnonzero(left)
                alone = np.ones(len(rows), bool)
                made = _Table(table, tf.constant(trained, tf.float32), rows, oov, alone, rows, rows, domain.reserved)
                made.look()
                self._tables.append(made)

    def carry(self, old: "UnseenRows") -> None:
        """Take over what an older model knows of the reserved rows; other rows are as growth began them, and stay so."""
        known = {it.table.name: set(it.rows[it.alone].tolist()) for it in old._tables}
        for it in self._tables:
            alone = known.get(it.table.name, set())
            it.alone = np.array([row < it.reserved and row in alone for row in it.rows.tolist()], bool)
            it.look()

    @property
    def state(self) -> dict[str, Array]:
        """What is remembered, to be saved with the model: training that goes on settles the rows it would have settled."""
        return {
            f"unseen_{place}_{name}": getattr(it, name)
            for place, it in enumerate(self._tables)
            for name in ("alone", "before", "towards")
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Remember what another model's state says, as far as it says something."""
        for place, it in enumerate(self._tables):
            if f"unseen_{place}_alone" in state:
                it.alone, it.before, it.towards = (
                    np.array(state[f"unseen_{place}_{name}"]) for name in ("alone", "before", "towards")
                )

    def settle(self, decays: bool) -> None:
        """Give the rows that training left alone what stands for them.

        Args:
            decays: Whether each step makes all weights shorter by a share of them.
        """
        for it in self._tables:
            it.alone &= it.unchanged(decays)
        self.fill()

    def fill(self) -> None:
        """Give the rows that were left alone what stands for them now, whatever they hold."""
        for it in self._tables:
            if not it.table.trainable:
                continue
            rows = it.rows[it.alone]
            spoken_for = it.oov is not None and it.oov not in rows
            it.put(it.table.lookup(it.oov) if spoken_for else it.mean(), rows)
            it.look()
