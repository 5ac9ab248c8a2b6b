"""The arithmetic of sampled softmax: vectors to logits to a loss, a block of rows at a time. Functions of tensors, no state."""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

__all__ = [
    "Columns",
    "Gradients",
    "blockwise_loss",
    "columns_of",
    "first_occurrences",
    "hardest_negatives",
    "placed",
]

BLOCK_ROWS = 512
"""The most rows of a block: more are no faster, and take more memory."""

BLOCK_LOGITS = 2**21
"""The most logits of a block, 8 MB of them, where that is a row at least."""

Gradients = Callable[[tf.Tensor, tf.Tensor, tf.Tensor | None], tuple[tf.Tensor, ...]]
"""A loss with its derivatives: of the positive's logit [b], the negatives' [b, c], -inf where one takes no part, and the
column that is the positive's place [b], if it has one.

It gives each row's loss [b], its derivative by the positive's logit [b], and those by the negatives' as a product of
numbers [b, c] and a factor for each row [b]: a factor is cheaper to apply to vectors than to logits.
"""


@dataclass(frozen=True)
class Columns:
    """The candidates that all rows share as negatives, and where one is no negative of a row.

    Args:
        embeddings: [c, dim] float32.
        log_q: Log of each one's probability of being sampled, which is subtracted from its score: [c], or [q, c] where it
            differs by row, and then without a gradient; None for no correction.
        own: The column of each row's own positive, [q] int32; None where no column is known to hold it.
        ids: Of the columns, [c], where a column with the id of a row's positive is no negative of that row.
        row_ids: Of the rows' positives, [q], with `ids`.
        mask: True where a column takes part, [1, c] or [q, c].
        dropped: More columns of each row that are no negatives of it, [q, None] int32.
    """

    embeddings: tf.Tensor
    log_q: tf.Tensor | None = None
    own: tf.Tensor | None = None
    ids: tf.Tensor | None = None
    row_ids: tf.Tensor | None = None
    mask: tf.Tensor | None = None
    dropped: tf.RaggedTensor | None = None

    def factors(self, queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what the logits are the products of, [q, d] and [c, d]: `q . c - log q` is one of d = dim + 1.

        As one more dimension the correction costs no pass over the logits.

        Args:
            queries: [q, dim].
        """
        if self.log_q is None or self.log_q.shape.rank != 1:
            return queries, self.embeddings
        ones = tf.ones_like(queries[:, :1])
        return tf.concat([queries, ones], axis=1), tf.concat([self.embeddings, -self.log_q[:, tf.newaxis]], axis=1)

    def negatives(self, logits: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Return the logits of some rows, [b, c], with -inf where a column is no negative of the row.

        Set, and not lowered by a number, so that no score can bring one back.

        Args:
            logits: Products of the `factors`, [b, c].
            rows: Their numbers, [b] int32, one after the other.
        """
        if self.log_q is not None and self.log_q.shape.rank == 2:
            logits -= tf.gather(self.log_q, rows)
        if self.ids is not None and self.row_ids is not None:
            logits = _dropped(tf.gather(self.row_ids, rows)[:, tf.newaxis] == self.ids[tf.newaxis, :], logits)
        if self.mask is not None:
            logits = _dropped(~(self.mask if self.mask.shape[0] == 1 else tf.gather(self.mask, rows)), logits)
        if self.own is not None:
            logits = _without(logits, _cells(self.places(rows)))
        if self.dropped is not None:
            lists = tf.gather(self.dropped, rows)
            logits = _without(logits, tf.stack([tf.cast(lists.value_rowids(), tf.int32), lists.values], axis=1))
        return logits

    def places(self, rows: tf.Tensor) -> tf.Tensor | None:
        """Return the columns of some rows' own positives, [b] int32, where they have one."""
        return None if self.own is None else tf.gather(self.own, rows)


def _dropped(where: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.where(where, tf.constant(float("-inf")), logits)


def _without(logits: tf.Tensor, cells: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_update(logits, cells, tf.fill([tf.shape(cells)[0]], float("-inf")))


def _cells(columns: tf.Tensor) -> tf.Tensor:
    """Return the cell of each row's column, [b, 2]."""
    return tf.stack([tf.range(tf.size(columns)), columns], axis=1)


def placed(own: tf.Tensor, negatives: tf.Tensor, place: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """Return all logits of each row, and the column of its positive, [b]: in its place, [b, c]; else first, [b, 1 + c].

    Example:
        >>> logits, positives = placed(tf.constant([5.0]), tf.constant([[1.0, float("-inf")]]), place=tf.constant([1]))
        >>> logits.numpy().tolist(), positives.numpy().tolist()
        ([[1.0, 5.0]], [1])
    """
    if place is None:
        return tf.concat([own[:, tf.newaxis], negatives], axis=1), tf.zeros_like(own, tf.int32)
    return tf.tensor_scatter_nd_update(negatives, _cells(place), own), place


def blockwise_loss(
    gradients: Gradients, queries: tf.Tensor, own: tf.Tensor, columns: Columns, weights: tf.Tensor
) -> tf.Tensor:
    """Return `sum_i w_i loss(own_i, q_i . c_j - log q_j)`, a scalar, without ever holding more than a block of the logits.

    The gradients are computed beside the loss, block by block, since all that they need is there: the [q, c] logits are
    never kept for a backward pass. That is so in a graph; eagerly, a tape keeps the operations of every block.

    Args:
        gradients: The loss.
        queries: [q, dim] float32.
        own: The logits of the rows' positives, [q].
        columns: What the rows are scored against beside their positives.
        weights: [q].

    Example:
        >>> def linear(own, negatives, place):  # the sum of the negatives' logits, less the positive's
        ...     one = tf.ones_like(own)
        ...     return tf.reduce_sum(negatives, axis=1) - own, -one, tf.ones_like(negatives), one
        >>> queries, own = tf.constant([[1.0], [2.0]]), tf.constant([3.0, 1.0])
        >>> columns = Columns(tf.constant([[1.0], [4.0]]), log_q=tf.constant([0.0, -1.0]))
        >>> float(blockwise_loss(linear, queries, own, columns, weights=tf.constant([1.0, 0.5])))  # (1 + 5 - 3) + (2 + 9 - 1) / 2
        8.0
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def total(queries: tf.Tensor, vectors: tf.Tensor, own: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        count, dim = tf.shape(queries)[0], queries.shape[1]
        most = tf.clip_by_value(BLOCK_LOGITS // tf.maximum(tf.shape(vectors)[0], 1), 1, BLOCK_ROWS)
        blocks = tf.maximum(-(-count // most), 1)  # one without rows, where a device gets none of a short last batch
        size = -(-count // blocks)

        def add(block: tf.Tensor, by_vectors: tf.Tensor, *found: tf.TensorArray) -> tuple[tf.Tensor, ...]:
            place = block * size + tf.range(size)
            rows = tf.minimum(
                place, count - 1
            )  # the last block is filled with the last row, which weighs nothing there
            query, weight = tf.gather(queries, rows), tf.where(place < count, tf.gather(weights, rows), 0.0)
            logits = columns.negatives(tf.matmul(query, vectors, transpose_b=True), rows)  # [size, c]
            losses, by_own, by_logits, factor = gradients(tf.gather(own, rows), logits, columns.places(rows))
            factor = (weight * factor)[:, tf.newaxis]  # [size, 1]
            by_query = factor * tf.matmul(by_logits, vectors)  # [size, dim]
            by_vectors += tf.matmul(by_logits, factor * query, transpose_a=True)
            parts = (losses, weight * by_own, by_query)
            return (block + 1, by_vectors, *(it.write(block, part) for it, part in zip(found, parts, strict=True)))

        found = [tf.TensorArray(tf.float32, blocks, element_shape=shape) for shape in ([None], [None], [None, dim])]
        start = (tf.constant(0), tf.zeros_like(vectors), *found)
        _, by_vectors, *found = tf.while_loop(lambda block, *_: block < blocks, add, start, parallel_iterations=1)
        losses, by_own, by_query = (
            tf.reshape(it.stack(), shape)[:count] for it, shape in zip(found, ([-1], [-1], [-1, dim]), strict=True)
        )

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return tuple(upstream * it for it in (by_query, by_vectors, by_own, losses))

        return tf.reduce_sum(weights * losses), gradient

    return total(*columns.factors(queries), own, weights)


def first_occurrences(ids: tf.Tensor) -> tf.Tensor:
    """Return where each id stands for the first time, [n] int32.

    Args:
        ids: [n] int.

    Example:
        >>> first_occurrences(tf.constant([7, 5, 7])).numpy().tolist()
        [0, 1, 0]
    """
    number = tf.unique(ids).idx  # [n]
    place = tf.range(tf.size(ids))
    return tf.gather(tf.math.unsorted_segment_min(place, number, tf.size(ids)), number)


def columns_of(lists: tf.RaggedTensor, ids: tf.Tensor) -> tf.RaggedTensor:
    """Return the columns whose ids stand in each row's list, [b, None] int32: of several columns with one id the first.

    The cost is that of the lists' values.

    Args:
        lists: [b, None] int64, none below 0.
        ids: Of the columns, [c] int64.

    Example:
        >>> columns_of(tf.ragged.constant([[7, 2], []], dtype=tf.int64), tf.constant([5, 7], tf.int64)).to_list()
        [[1], []]
    """
    order = tf.argsort(ids, stable=True)
    ordered = tf.concat([tf.gather(ids, order), [-1]], axis=0)  # one more, for what is beyond the last
    place = tf.searchsorted(ordered[:-1], lists.values)  # [n]
    there = tf.gather(ordered, place) == lists.values
    found = tf.gather(tf.concat([order, [0]], axis=0), place)
    return tf.ragged.boolean_mask(lists.with_values(found), lists.with_values(there))


def hardest_negatives(logits: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """Return each row's `count` highest logits, [b, min(count, c)].

    Example:
        >>> hardest_negatives(tf.constant([[1.0, 5.0, 3.0], [4.0, 2.0, 9.0]]), 2).numpy().tolist()
        [[5.0, 3.0], [9.0, 4.0]]
    """
    highest = tf.math.top_k(logits, tf.clip_by_value(count, 0, tf.shape(logits)[1])).indices
    return tf.gather(logits, highest, batch_dims=1)  # top_k's own gradient fails where there are no columns
