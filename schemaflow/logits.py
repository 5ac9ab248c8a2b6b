"""The arithmetic of sampled softmax: scores to logits. Functions of tensors, no state."""

import tensorflow as tf

__all__ = [
    "accidental_hits",
    "corrected_logits",
    "first_occurrences",
    "hardest_negatives",
    "listed",
]


def first_occurrences(ids: tf.Tensor) -> tf.Tensor:
    """Return True where an id stands for the first time, [n] bool.

    Args:
        ids: [n] int, n >= 1.

    Example:
        >>> first_occurrences(tf.constant([7, 5, 7])).numpy().tolist()
        [True, True, False]
    """
    order = tf.argsort(ids, stable=True)  # sorted, and not tf.unique: XLA needs static shapes
    ordered = tf.gather(ids, order)
    first = tf.concat([[True], ordered[1:] != ordered[:-1]], axis=0)
    return tf.gather(first, tf.argsort(order))


def accidental_hits(positive_ids: tf.Tensor, candidate_ids: tf.Tensor) -> tf.Tensor:
    """Return True where a candidate is the row's own positive, standing in another column, [q, c] bool.

    Row i's positive is column i.

    Args:
        positive_ids: [q].
        candidate_ids: [c], c >= q.

    Example:
        >>> accidental_hits(tf.constant([7, 7]), tf.constant([7, 7, 5])).numpy().tolist()
        [[False, True, False], [True, False, False]]
    """
    same = positive_ids[:, tf.newaxis] == candidate_ids[tf.newaxis, :]  # [q, c]
    return same & ~tf.eye(tf.shape(positive_ids)[0], tf.shape(candidate_ids)[0], dtype=tf.bool)


def listed(lists: tf.RaggedTensor, ids: tf.Tensor) -> tf.Tensor:
    """Return True where a row's list holds a column's id, [b, c] bool.

    The cost is that of the lists' values and of the answer, not of their product.

    Args:
        lists: [b, None] int64.
        ids: Of the columns, [c] int64, c >= 1.

    Example:
        >>> listed(tf.ragged.constant([[7, 2], []], dtype=tf.int64), tf.constant([5, 7, 7], tf.int64)).numpy().tolist()
        [[False, True, True], [False, False, False]]
    """
    order = tf.argsort(ids, stable=True)
    ordered = tf.gather(ids, order)
    last = tf.shape(ids)[0] - 1
    place = tf.minimum(tf.searchsorted(ordered, lists.values), last)  # [n]: of the first column with that id
    there = tf.gather(ordered, place) == lists.values
    row = tf.boolean_mask(tf.cast(lists.value_rowids(), tf.int32), there)
    cells = tf.stack([row, tf.boolean_mask(tf.gather(order, place), there)], axis=1)  # [found, 2]
    shape = tf.stack([tf.cast(lists.nrows(), tf.int32), last + 1])
    first = tf.tensor_scatter_nd_update(tf.zeros(shape, tf.bool), cells, tf.ones_like(cells[:, 0], tf.bool))
    return tf.gather(first, tf.gather(order, tf.searchsorted(ordered, ids)), axis=1)


def corrected_logits(
    scores: tf.Tensor,
    temperature: float | tf.Tensor = 1.0,
    log_q: tf.Tensor | None = None,
    dropped: tf.Tensor | None = None,
) -> tf.Tensor:
    """Return the logits of a sampled softmax: `score / temperature - log q`, and -inf where a candidate is dropped.

    The correction comes after the temperature and is not scaled by it; it applies to the positive too. Dropped
    candidates are set with `where`, so that no finite score can bring them back.

    Args:
        scores: [q, c] float.
        temperature: Above 0, a scalar.
        log_q: Log of each candidate's sampling probability, broadcast against [q, c].
        dropped: Candidates that are not to take part, [q, c] bool.

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019, eq. 3.

    Example:
        >>> corrected_logits(tf.constant([[2.0, 1.0]]), temperature=0.5, log_q=tf.constant([0.0, -1.0])).numpy().tolist()
        [[4.0, 3.0]]
    """
    logits = tf.cast(scores, tf.float32) / temperature
    if log_q is not None:
        logits -= tf.cast(log_q, tf.float32)
    if dropped is not None:
        logits = tf.where(dropped, tf.constant(float("-inf")), logits)
    return logits


def hardest_negatives(logits: tf.Tensor, count: int) -> tf.Tensor:
    """Return each row's positive and its `count` highest negatives, [q, 1 + min(count, c - 1)]; the positive first.

    Args:
        logits: [q, c], c >= q; row i's positive is column i, and -inf marks a candidate that does not take part.
        count: How many negatives, at least 1.

    Example:
        >>> hardest_negatives(tf.constant([[1.0, 5.0, 3.0], [4.0, 2.0, 9.0]]), 1).numpy().tolist()
        [[1.0, 5.0], [2.0, 9.0]]
    """
    queries, candidates = tf.shape(logits)[0], tf.shape(logits)[1]
    own = tf.linalg.diag_part(logits[:, :queries])[:, tf.newaxis]  # [q, 1]
    negatives = tf.where(tf.eye(queries, candidates, dtype=tf.bool), float("-inf"), logits)
    hardest = tf.math.top_k(negatives, tf.minimum(count, candidates - 1)).values  # [q, count]
    return tf.concat([own, hardest], axis=1)
