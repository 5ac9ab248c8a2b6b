"""Lists of several lengths, end to end."""

import tensorflow as tf

__all__ = ["rows_of"]


def rows_of(lists: tf.RaggedTensor) -> tf.Tensor:
    """Return the row that each value is in, [n]: `value_rowids` makes a matrix as wide as the longest list for it.

    Example:
        >>> rows_of(tf.ragged.constant([[7], [], [8, 9]])).numpy().tolist()
        [0, 2, 2]
    """
    ends = lists.row_splits[1:]  # [batch]
    ended = tf.math.unsorted_segment_sum(tf.ones_like(ends), ends, lists.row_splits[-1] + 1)  # [n + 1]
    return tf.cumsum(ended[:-1])
