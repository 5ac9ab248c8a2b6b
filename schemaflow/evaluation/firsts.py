"""The first candidates of every query, exact, without those that are not ranked for it.

They are all that the metrics of a report look at: ranks beyond the largest cut-off count for nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from schemaflow.data.encode import Array
from schemaflow.interests import scores_of, vectors_each
from schemaflow.metrics import Floats, Ints
from schemaflow.ranking import COLUMNS, ROWS

__all__ = ["Excluded", "Firsts", "among", "nearest", "popular", "reranked"]

GROUP = 40
"""Scores of which the highest is compared with the bar, before they are one by one."""

PAIRS = 256
"""Queries whose first candidates are scored anew at a time."""


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
        queries: [q, dim] float32; or [q, K, dim], where a score is the highest of a query's vectors.
        candidates: [n, dim] float32, n >= 1, so that every score is finite.
        count: How many to find of each query, k; fewer where there are fewer candidates.
        excluded: What is not ranked for whom.

    Example:
        >>> found = next(nearest(np.ones((1, 1)), np.array([[1.0], [3.0], [3.0]]), 2, Excluded(np.array([2]), 3)))
        >>> found.scores.tolist(), found.candidates.tolist()
        ([[3.0, 1.0]], [[1, 0]])
    """
    n = len(candidates)
    count = min(count, n)
    width = min(n, max(COLUMNS, 4 * count))
    each, dim = vectors_each(queries), queries.shape[-1]
    rows = max(1, ROWS * COLUMNS // (max(width, COLUMNS) * each))
    vectors = tf.constant(candidates, tf.float32)  # [n, dim]
    for start in range(0, len(queries), rows):
        part = tf.constant(queries[start : start + rows], tf.float32)  # [b, dim] or [b, K, dim]
        row, column = excluded.of(start, start + len(part))
        out = np.stack([row, column], axis=1)[column < width]  # [e, 2]
        first = scores_of(part, vectors[:width])  # [b, width]
        first = tf.tensor_scatter_nd_update(first, out, tf.fill([len(out)], float("-inf")))
        scores, places = tf.math.top_k(first, count)  # [b, count]
        end = tf.constant(width)
        while end < n:
            end, cells, above = _above(tf.reshape(part, [-1, dim]), each, vectors, tf.constant(width), scores, end)
            scores, places = _merged(scores, places, *_without(cells.numpy(), above.numpy(), row * n + column, n))
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
        # with m of a query's excluded ones among them, its first `count` are among the first count + m of all
        near = place[column] < (count + np.bincount(row, minlength=b))[row]
        row, before = np.divmod(np.sort(row[near] * n + place[column[near]]), n)  # by place
        met = before - _nth(row, b) < count
        row, before = row[met], before[met]
        lengths = np.minimum(count + np.bincount(row, minlength=b), n)  # [b]
        kept = np.ones(lengths.sum(), bool)
        kept[(np.cumsum(lengths) - lengths)[row] + before] = False
        rows = np.repeat(np.arange(b), lengths)
        row, places = rows[kept], _nth(rows, b)[kept]
        candidates = np.full((b, count), -1)
        candidates[row, _nth(row, b)] = order[places]
        yield Firsts(np.where(candidates < 0, -np.inf, counts[candidates]), candidates)


def reranked(ranking: Iterable[Firsts], score: Callable[[slice, Ints], Floats]) -> Iterator[Firsts]:
    """Yield the same first candidates in another order, that of scores of their own.

    Args:
        ranking: The first candidates of all queries, some queries after the others.
        score: Gives for the queries of a slice and candidates [b, k] their scores, [b, k].

    Example:
        >>> found = [Firsts(np.array([[3.0, 2.0, -np.inf]]), np.array([[7, 4, -1]]))]
        >>> next(reranked(found, lambda rows, candidates: -candidates)).candidates.tolist()
        [[4, 7, -1]]
    """
    start = 0
    for firsts in ranking:
        for first in range(0, len(firsts.candidates), PAIRS):
            candidates = firsts.candidates[first : first + PAIRS]
            rows = slice(start + first, start + first + len(candidates))
            scores = np.where(candidates < 0, -np.inf, score(rows, np.maximum(candidates, 0)))
            order = np.argsort(-scores, axis=1, kind="stable")
            yield Firsts(np.take_along_axis(scores, order, axis=1), np.take_along_axis(candidates, order, axis=1))
        start += len(firsts.candidates)


def _nth(row: Ints, rows: int) -> Ints:
    """Number the cells of each row from 0, [n] int, for rows that rise."""
    sizes = np.bincount(row, minlength=rows)
    return np.arange(len(row)) - (np.cumsum(sizes) - sizes)[row]


@tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
def _above(
    queries: tf.Tensor, each: int, candidates: tf.Tensor, width: tf.Tensor, firsts: tf.Tensor, start: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Go through tiles until there are as many cells above the bar as first ones so far.

    Args:
        queries: [b each, dim]: the vectors of one query after those of another.
        each: How many vectors a query has.
        candidates: [n, dim].
        width: Columns of a tile, at most n.
        firsts: The highest scores so far, falling, [b, k]; the last is the bar.
        start: The first candidate to look at, at least width.

    Returns:
        The candidate after the last, and of the cells above the bar (row, column), [found, 2] int32, and score, [found].
    """
    n, bar, limit = tf.shape(candidates)[0], firsts[:, -1], tf.size(firsts)
    if each > 1:  # a graph whose shapes are relaxed is to know of two axes or three
        queries = tf.reshape(queries, [-1, each, tf.shape(queries)[1]])

    def visit(
        at: tf.Tensor, held: tf.Tensor, cells: tf.TensorArray, scores: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray, tf.TensorArray]:
        # the last tile is of the others' shape, so that copies are scored alike: it begins with what was looked at
        first = tf.minimum(at, n - width)
        tile = scores_of(queries, candidates[first : first + width])[:, at - first :]
        here, above = _cells_above(tile, bar)
        number = (at - start) // width
        return (
            first + width,
            held + tf.size(above),
            cells.write(number, tf.add(here, [0, at])),
            scores.write(number, above),
        )

    cells = tf.TensorArray(tf.int32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, 2])
    scores = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
    end, _, cells, scores = tf.while_loop(
        lambda at, held, *_: (at < n) & (held < limit),
        visit,
        (start, tf.constant(0), cells, scores),
        parallel_iterations=1,  # several at a time would be several tiles in memory
    )
    return end, cells.concat(), scores.concat()


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


def _without(cells: Array, scores: Array, out: Ints, n: int) -> tuple[Array, Array]:
    """Return cells, (row, column) [found, 2], in the order of their rows, and scores, without those that are excluded.

    Args:
        cells: [found, 2]; those of a row in the order of their columns.
        scores: [found].
        out: The excluded cells, as sorted `row * n + column`.
        n: How many candidates.
    """
    order = np.argsort(cells[:, 0].astype(np.min_scalar_type(ROWS)), kind="stable")  # small integers are sorted fastest
    cells, scores = cells[order], scores[order]
    left = ~among(cells[:, 0].astype(np.int64) * n + cells[:, 1], out)
    return cells[left], scores[left]


def _merged(firsts: tf.Tensor, places: tf.Tensor, cells: Array, scores: Array) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first ones, scores and places [b, k], of those so far and of others, (row, column) [found, 2] and score.

    The others are in the order of their rows, and each row's in that of the columns: the earlier of equal scores is first.
    """
    row, column = cells.T
    nth = _nth(row, len(firsts))
    shape = (len(firsts), int(nth.max(initial=-1)) + 1)
    others, columns = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.int32)
    others[row, nth], columns[row, nth] = scores, column
    firsts, chosen = tf.math.top_k(tf.concat([firsts, others], axis=1), firsts.shape[1])
    return firsts, tf.gather(tf.concat([places, columns], axis=1), chosen, axis=1, batch_dims=1)


def among(cells: Ints, others: Ints) -> npt.NDArray[np.bool_]:
    """Tell which cells are among others that are sorted, [n] bool."""
    if not len(others):
        return np.zeros(cells.shape, bool)
    return others[np.minimum(np.searchsorted(others, cells), len(others) - 1)] == cells
