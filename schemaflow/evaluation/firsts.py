"""The first candidates of every query, exact, without those that are not ranked for it.

They are all that the metrics of a report look at: ranks beyond the largest cut-off count for nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from schemaflow.data.encode import Array
from schemaflow.metrics import Floats, Ints
from schemaflow.ranking import COLUMNS, ROWS

__all__ = ["Excluded", "Firsts", "nearest", "popular"]

GROUP = 40
"""Scores of which the highest is compared with the bar, before they are one by one."""


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
    """The first candidates of some queries, best first, and of equal scores the earlier one.

    Args:
        scores: [b, k], falling; -inf where a query has fewer.
        candidates: [b, k] int; -1 where a query has fewer.
    """

    scores: Floats
    candidates: Ints

    def ranks(self) -> Ints:
        """Return the rank of each: its place, or where scores are tied the last of their places, [b, k] int.

        A score tied with the last of them may be tied with others that are not here: its rank is at least what is said.

        Example:
            >>> Firsts(np.array([[5.0, 4.0, 4.0, 1.0]]), np.array([[7, 2, 3, 9]])).ranks().tolist()
            [[1, 3, 3, 4]]
        """
        last = np.ones(self.scores.shape, bool)
        last[:, :-1] = self.scores[:, 1:] != self.scores[:, :-1]
        places = np.where(last, np.arange(1, last.shape[1] + 1), last.shape[1])
        return np.minimum.accumulate(places[:, ::-1], axis=1)[:, ::-1]


def nearest(queries: Floats, candidates: Floats, count: int, excluded: Excluded) -> Iterator[Firsts]:
    """Yield the candidates of highest `q . c`, of some queries after the others.

    What is not above the last of a query's first ones so far is passed over, and that bar rises as tiles of candidates
    go by: of a million candidates some hundreds come above it.

    Args:
        queries: [q, dim] float32.
        candidates: [n, dim] float32, n >= 1, so that every score is finite.
        count: How many to find of each query, k; fewer where there are fewer candidates.
        excluded: What is not ranked for whom.

    Example:
        >>> found = next(nearest(np.ones((1, 1)), np.array([[1.0], [3.0], [3.0]]), 2, Excluded(np.array([2]), 3)))
        >>> found.scores.tolist(), found.candidates.tolist()
        ([[3.0, 1.0]], [[1, 0]])
    """
    count = min(count, len(candidates))
    width = min(len(candidates), max(COLUMNS, 4 * count))
    rows = max(1, ROWS * COLUMNS // max(width, COLUMNS))
    tiles = -(-len(candidates) // width)
    vectors = tf.constant(candidates, tf.float32)  # [n, dim]
    for start in range(0, len(queries), rows):
        part = tf.constant(queries[start : start + rows], tf.float32)  # [b, dim]
        row, column = excluded.of(start, start + len(part))
        order = np.argsort(column // width, kind="stable")
        out = tf.constant(np.stack([row[order], column[order] % width], axis=1), tf.int32)  # [e, 2], tile after tile
        splits = tf.constant(np.searchsorted(column[order] // width, np.arange(tiles + 1)), tf.int32)
        scores, places = tf.math.top_k(_scores(part, vectors[:width], out[: splits[1]]), count)  # [b, count]
        tile = tf.constant(1)
        while tile < tiles:
            tile, cells, above = _above(part, vectors, tf.constant(width), out, splits, scores, tile)
            scores, places = _merged(scores, places, cells.numpy(), above.numpy())
        yield Firsts(scores.numpy(), np.where(scores > -np.inf, places, -1))


def popular(counts: Ints, queries: int, count: int, excluded: Excluded) -> Iterator[Firsts]:
    """Yield the candidates of highest count, of some queries after the others: the same for all, but for the excluded.

    Args:
        counts: [n], at least 0.
        queries: How many.
        count: How many to find of each query, k; fewer where there are fewer candidates.
        excluded: What is not ranked for whom.

    Example:
        >>> next(popular(np.array([4, 9, 9, 0]), 1, 2, Excluded(np.array([1]), 4))).candidates.tolist()
        [[2, 0]]
    """
    n = len(counts)
    count = min(count, n)
    order = np.argsort(-counts, kind="stable")
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    for start in range(0, queries, ROWS):
        b = min(ROWS, queries - start)
        row, column = excluded.of(start, start + b)
        out = np.sort(row * n + place[column])  # cells by place
        row, before = out // n, out % n
        # with m of a query's excluded ones among them, its first `count` are among the first count + m of all
        met = before - _nth(row, b) < count
        lengths = np.minimum(count + np.bincount(row[met], minlength=b), n)  # [b]
        row = np.repeat(np.arange(b), lengths)
        cells = row * n + _nth(row, b)
        kept = cells[~np.isin(cells, out)]
        row, nth = kept // n, _nth(kept // n, b)
        candidates = np.full((b, count), -1)
        candidates[row, nth] = order[kept % n]
        yield Firsts(np.where(candidates < 0, -np.inf, counts[candidates]), candidates)


def _nth(row: Ints, rows: int) -> Ints:
    """Number the cells of each row from 0, [n] int, for rows that rise."""
    sizes = np.bincount(row, minlength=rows)
    return np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]


def _scores(queries: tf.Tensor, tile: tf.Tensor, out: tf.Tensor) -> tf.Tensor:
    """Return the scores of a tile, [b, width], with -inf at the cells `out`, [e, 2]."""
    scores = tf.matmul(queries, tile, transpose_b=True)
    return tf.tensor_scatter_nd_update(scores, out, tf.fill(tf.shape(out)[:1], float("-inf")))


@tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
def _above(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    width: tf.Tensor,
    out: tf.Tensor,
    splits: tf.Tensor,
    firsts: tf.Tensor,
    start: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Go through tiles until there are as many cells above the bar as first ones so far.

    Args:
        queries: [b, dim].
        candidates: [n, dim].
        width: Columns of a tile.
        out: The excluded cells, [e, 2], tile after tile.
        splits: Where those of each tile begin, and the end, [tiles + 1].
        firsts: The highest scores so far, falling, [b, k]; the last is the bar.
        start: The first tile.

    Returns:
        The tile after the last, and of the cells above the bar (row, column), [found, 2] int32, and score, [found].
    """
    tiles, bar, limit = tf.size(splits) - 1, firsts[:, -1], tf.size(firsts)

    def visit(
        tile: tf.Tensor, held: tf.Tensor, cells: tf.TensorArray, scores: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.TensorArray]:
        first = tile * width
        all_scores = _scores(queries, candidates[first : first + width], out[splits[tile] : splits[tile + 1]])
        here, above = _cells_above(all_scores, bar)
        at = tile - start
        return tile + 1, held + tf.size(above), cells.write(at, tf.add(here, [0, first])), scores.write(at, above)

    cells = tf.TensorArray(tf.int32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, 2])
    scores = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
    tile, _, cells, scores = tf.while_loop(
        lambda tile, held, *_: (tile < tiles) & (held < limit),
        visit,
        (start, tf.constant(0), cells, scores),
        parallel_iterations=1,  # several at a time would be several tiles in memory
    )
    return tile, cells.concat(), scores.concat()


def _cells_above(scores: tf.Tensor, bar: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (row, column), [found, 2] int32, and score, [found], of the scores above their row's bar."""
    b, groups = tf.shape(scores)[0], tf.shape(scores)[1] // GROUP
    grouped = tf.reshape(scores[:, : groups * GROUP], [b * groups, GROUP])
    high = tf.reshape(tf.reduce_max(grouped, axis=1), [b, groups]) > bar[:, tf.newaxis]
    hit = tf.cast(tf.where(high), tf.int32)  # [hit, 2], row and group
    near = tf.gather(grouped, hit[:, 0] * groups + hit[:, 1])  # [hit, GROUP]
    inner = tf.cast(tf.where(near > tf.gather(bar, hit[:, :1])), tf.int32)  # [found, 2], hit and column of its group
    cells = tf.gather(hit, inner[:, 0]) * [1, GROUP] + inner * [0, 1]
    rest = scores[:, groups * GROUP :]
    last = tf.cast(tf.where(rest > bar[:, tf.newaxis]), tf.int32)  # what is left beside the groups
    return (
        tf.concat([cells, tf.add(last, [0, groups * GROUP])], axis=0),
        tf.concat([tf.gather_nd(near, inner), tf.gather_nd(rest, last)], axis=0),
    )


def _merged(firsts: tf.Tensor, places: tf.Tensor, cells: Array, scores: Array) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first ones, scores and places [b, k], of those so far and of others, (row, column) [found, 2] and score."""
    order = np.argsort(cells[:, 0], kind="stable")  # tile after tile in each row, so the earlier of equal scores first
    row, column = cells[order].T
    nth = _nth(row, len(firsts))
    shape = (len(firsts), int(nth.max(initial=-1)) + 1)
    others, columns = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
    others[row, nth], columns[row, nth] = scores[order], column
    firsts, chosen = tf.math.top_k(tf.concat([firsts, others], axis=1), firsts.shape[1])
    return firsts, tf.gather(tf.concat([places, columns], axis=1), chosen, axis=1, batch_dims=1)
