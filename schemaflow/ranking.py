"""Exact ranks by counting, in tiles of queries and candidates. Functions of tensors, no state.

One tie rule for all: the rank of a positive is 1 + the candidates scored strictly higher + the candidates tied with it.
A model that scores everything alike therefore comes last, not first. A NaN counts as scored higher.
"""

from collections.abc import Callable

import tensorflow as tf

from schemaflow.interests import scores_of, vectors_each

__all__ = ["COLUMNS", "ROWS", "counts_below", "ranks_of"]

ROWS = 1000
"""Queries of a tile: the scores of a tile, 8 MB, stay in the processor's cache between product and count."""

COLUMNS = 2000
"""Candidates of a tile."""


def ranks_of(queries: tf.Tensor, candidates: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return the rank of each query's positive: `1 + |{s_j > s}| + |{s_j = s, j != positive}|`, [q] int32.

    That of a positive whose own score is NaN is the largest integer, beyond every cut-off.

    Args:
        queries: [q, dim] float32; or [q, K, dim], where a score is the highest of a query's vectors.
        candidates: [n, dim] float32, n >= 1.
        positives: The candidate of each query, [q] int.

    Example:
        >>> candidates = tf.constant([[3.0], [1.0], [3.0], [2.0]])
        >>> ranks_of(tf.ones([2, 1]), candidates, tf.constant([0, 3])).numpy().tolist()
        [2, 3]
    """
    return _by_rows(
        lambda queries, positives: _ranks(queries, candidates, positives), queries, tf.cast(positives, tf.int32)
    )


def counts_below(queries: tf.Tensor, candidates: tf.Tensor, bounds: tf.Tensor) -> tf.Tensor:
    """Count the candidates that a query scores strictly below a bound, [q, m] int32.

    Args:
        queries: [q, dim] float32, or [q, K, dim].
        candidates: [n, dim] float32, n >= 1.
        bounds: Several for each query, [q, m] float32.

    Example:
        >>> counts_below(tf.ones([1, 1]), tf.constant([[3.0], [1.0], [2.0]]), tf.constant([[2.0, 9.0]])).numpy().tolist()
        [[1, 3]]
    """
    return _by_rows(lambda queries, bounds: _below(queries, candidates, bounds)[0], queries, bounds)


def _ranks(queries: tf.Tensor, candidates: tf.Tensor, positives: tf.Tensor) -> tf.Tensor:
    """Return the ranks of the positives of a tile's queries, [b] int32.

    Products of other shapes may differ in the last bit, and an item would outrank itself or its own copy. So the score
    that the tiles themselves have for the positive is noted while they are counted; should it ever be another than the
    bound, they are counted once more.
    """

    def count(bounds: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        below, own = _below(queries, candidates, bounds[:, tf.newaxis], positives)
        return own, below[:, 0], tf.reduce_all((own == bounds) | tf.math.is_nan(own))

    bounds = tf.linalg.diag_part(scores_of(queries, tf.gather(candidates, positives)))  # [b]
    own, below, _ = tf.while_loop(
        lambda _, __, settled: ~settled,
        count,
        (bounds, tf.zeros_like(positives), tf.constant(False)),
        parallel_iterations=1,
    )
    return tf.where(tf.math.is_nan(own), tf.int32.max, tf.shape(candidates)[0] - below)


def _below(
    queries: tf.Tensor, candidates: tf.Tensor, bounds: tf.Tensor, noted: tf.Tensor | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return how many candidates are scored below each bound, [b, m] int32, and the score of one noted for each query, [b]."""
    n, rows = tf.shape(candidates)[0], tf.shape(queries)[0]
    width = tf.minimum(n, COLUMNS)
    columns = tf.zeros([rows], tf.int32) if noted is None else noted
    # to compare a matrix with a column takes several times as long as with a matrix
    wide = [tf.broadcast_to(bound[:, tf.newaxis], [rows, width]) for bound in tf.unstack(bounds, axis=1)]

    def visit(
        start: tf.Tensor, skipped: tf.Tensor | int, below: tf.Tensor, own: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        tile = candidates[start : start + width]  # [width, dim]
        scores = scores_of(queries, tile)  # [b, width]
        fresh = [(scores < bound)[:, skipped:] for bound in wide]
        below += tf.stack([tf.reduce_sum(tf.cast(it, tf.int32), 1) for it in fresh], 1)  # count_nonzero goes by int64
        if noted is not None:
            place = columns - start
            here = tf.gather(scores, tf.clip_by_value(place, 0, width - 1), axis=1, batch_dims=1)
            own = tf.where((place >= 0) & (place < width), here, own)
        return below, own

    whole = (n - 1) // width
    _, below, own = tf.while_loop(
        lambda tile, *_: tile < whole,
        lambda tile, *state: (tile + 1, *visit(tile * width, 0, *state)),
        (tf.constant(0), tf.zeros_like(bounds, tf.int32), tf.zeros([rows])),
        parallel_iterations=1,  # several at a time would be several tiles in memory
    )
    # the last tile is of the others' shape, so that their scores are rounded alike: it begins with what was counted
    return visit(n - width, (whole + 1) * width - n, below, own)


def _by_rows(count: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], queries: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Return `count(queries [b, ...], others [b, ...])` of all queries, some rows at a time."""
    rows, most = tf.shape(queries)[0], max(1, ROWS // vectors_each(queries))
    blocks = tf.maximum(1, -(-rows // most))  # of no rows too: an empty loop has no shape
    block = -(-rows // blocks)  # alike in size, so that little is filled up

    def split(tensor: tf.Tensor) -> tf.Tensor:  # [q, ...] -> [blocks, block, ...], the last filled with zeros
        padded = tf.pad(tensor, [[0, blocks * block - rows]] + [[0, 0]] * (tensor.shape.rank - 1))
        return tf.reshape(padded, tf.concat([[blocks, block], tf.shape(tensor)[1:]], 0))

    counts = tf.map_fn(
        lambda it: count(*it), (split(queries), split(others)), fn_output_signature=tf.int32, parallel_iterations=1
    )
    return tf.reshape(counts, tf.concat([[-1], tf.shape(counts)[2:]], 0))[:rows]
