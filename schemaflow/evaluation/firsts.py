"""The first candidates of every query: exact, in tiles of queries and candidates, without those that are excluded."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Array
from schemaflow.metrics import Floats, Ints
from schemaflow.ranking import COLUMNS, ROWS

__all__ = ["Excluded", "Firsts", "nearest", "popular"]

GROUP = 40
"""Columns whose scores are looked at one by one only if the highest of them is high enough."""


@dataclass(frozen=True)
class Excluded:
    """The candidates that are not ranked for each query, as sorted cells `query * candidates + candidate`."""

    cells: Ints
    candidates: int

    def of(self, start: int, end: int) -> tuple[Ints, Ints]:
        """Return (row, candidate) of the cells of queries start to end, rows counted from start."""
        low, high = np.searchsorted(self.cells, [start * self.candidates, end * self.candidates])
        cells = self.cells[low:high]
        return cells // self.candidates - start, cells % self.candidates


@dataclass(frozen=True)
class Firsts:
    """The first candidates of some queries, best first; of equal scores the earlier candidate.

    Args:
        scores: [b, k] falling; -inf where a query has fewer.
        candidates: [b, k] int; -1 where a query has fewer.
    """

    scores: Floats
    candidates: Ints

    def ranks(self) -> Ints:
        """Return the rank of each: its place, and where scores are tied the last of their places, [b, k] int."""
        places = np.arange(1, self.scores.shape[1] + 1)
        last = np.ones(self.scores.shape, bool)
        last[:, :-1] = self.scores[:, 1:] != self.scores[:, :-1]
        ends = np.where(last, places, self.scores.shape[1])
        return np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]


def nearest(queries: Floats, candidates: Floats, count: int, excluded: Excluded) -> Iterator[Firsts]:
    """Yield the candidates of highest `q . c`, of some queries after the others.

    What is not above the last of a query's best so far is passed over, and that bar rises as tiles of candidates go by: of
    a million candidates a few hundred get past it.

    Args:
        queries: [q, dim] float32.
        candidates: [n, dim] float32; no product with a query is infinite.
        count: How many to find of each query, k.
        excluded: What is not ranked for whom.
    """
    n = len(candidates)
    count = min(count, n)
    width = min(n, max(COLUMNS, 4 * count))
    rows = max(1, ROWS * COLUMNS // max(width, COLUMNS))
    vectors = tf.constant(candidates, tf.float32)  # [n, dim]
    for start in range(0, len(queries), rows):
        part = tf.constant(queries[start : start + rows], tf.float32)  # [b, dim]
        row, column = excluded.of(start, start + len(part))
        order = np.argsort(column // width, kind="stable")
        out = tf.constant(np.stack([row[order], column[order] % width], axis=1), tf.int32)  # [e, 2], tile after tile
        splits = np.searchsorted((column // width)[order], np.arange(-(-n // width) + 1))
        ends = tf.constant(splits, tf.int32)  # [tiles + 1]
        scores = _scores(part, vectors[:width], out[: splits[1]])
        best, places = tf.math.top_k(scores, count)  # [b, count], of equal scores the first
        tile = 1
        while tile * width < n:
            limit = len(part) * count
            tile, found = _above(part, vectors, tf.constant(width), out, ends, best[:, -1], tf.constant(tile), limit)
            tile = int(tile)
            best, places = _merged(best, places, *(it.numpy() for it in found))
        best, places = best.numpy(), places.numpy()
        yield Firsts(best, np.where(best > -np.inf, places, -1))


def _scores(queries: tf.Tensor, tile: tf.Tensor, out: tf.Tensor) -> tf.Tensor:
    """Return the scores [b, width], -inf at the cells `out`, [e, 2]."""
    scores = tf.matmul(queries, tile, transpose_b=True)
    return tf.tensor_scatter_nd_update(scores, out, tf.fill(tf.shape(out)[:1], float("-inf")))


@tf.function(reduce_retracing=True)
def _above(queries, vectors, width, out, ends, bar, start, limit):
    """Return the next tile, and row, column and score of the cells above their row's bar, each [found]."""
    n = tf.shape(vectors)[0]
    tiles = tf.size(ends) - 1
    empty = lambda dtype: tf.TensorArray(dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
    def visit(tile, held, rows, columns, values):
        first = tile * width
        scores = _scores(queries, vectors[first : first + width], out[ends[tile] : ends[tile + 1]])
        r, c, v = _cells_above(scores, bar)
        return tile + 1, held + tf.size(r), rows.write(tile - start, r), columns.write(tile - start, c + first), values.write(tile - start, v)
    state = tf.while_loop(lambda tile, held, *_: (tile < tiles) & (held < limit), visit,
        (start, 0, empty(tf.int32), empty(tf.int32), empty(tf.float32)), parallel_iterations=1)
    return state[0], [it.concat() for it in state[2:]]

def _cells_above(scores, bar):
    b, width = tf.unstack(tf.shape(scores))
    groups = width // GROUP
    whole = tf.reshape(scores[:, : groups * GROUP], [b * groups, GROUP])
    hit = tf.where(tf.reshape(tf.reshape(tf.reduce_max(whole, axis=1), [b, groups]) > bar[:, tf.newaxis], [-1]))[:, 0]
    hit = tf.cast(hit, tf.int32)
    near = tf.gather(whole, hit)  # [hit, GROUP]
    inner = tf.where(near > tf.gather(bar, hit // groups)[:, tf.newaxis])  # [found, 2]
    group = tf.gather(hit, inner[:, 0])
    rest = scores[:, groups * GROUP :]
    tail = tf.where(rest > bar[:, tf.newaxis])
    i = lambda t: tf.cast(t, tf.int32)
    return (
        tf.concat([group // groups, i(tail[:, 0])], 0),
        tf.concat([group % groups * GROUP + i(inner[:, 1]), i(tail[:, 1]) + groups * GROUP], 0),
        tf.concat([tf.gather_nd(near, inner), tf.gather_nd(rest, tail)], 0),
    )

def _merged(best, places, row, column, score):
    if not len(row): return best, places
    b, count = best.shape
    order = np.argsort(row.astype(np.uint16), kind="stable")
    row, column, score = row[order], column[order], score[order]
    sizes = np.bincount(row, minlength=b)
    nth = np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]
    s = np.full((b, sizes.max()), -np.inf, np.float32); c = np.zeros((b, sizes.max()), np.int32)
    s[row, nth] = score; c[row, nth] = column
    best, chosen = tf.math.top_k(tf.concat([best, s], 1), count)
    return best, tf.gather(tf.concat([places, c], 1), chosen, axis=1, batch_dims=1)
