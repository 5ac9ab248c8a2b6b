"""An embedding table that several features may share."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.layers.lists import rows_of
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.registry import register

__all__ = ["COMBINERS", "EmbeddingTable", "looked_up"]

COMBINERS = ("mean", "sum", "sqrtn", "max")
"""Ways to make one vector of the rows of a list: their sum divided by n, by 1, by sqrt(n); or the largest of each."""

CHUNK = 2**22
"""Numbers that are drawn at a time: a table of more begins in chunks of rows, each with a seed of its own."""

ROW_BY_ROW = tuple(
    getattr(keras.initializers, name) for name in ("Ones", "RandomNormal", "RandomUniform", "TruncatedNormal", "Zeros")
)
"""Initializers that draw a row alike however many there are; others see the whole table, as `GlorotUniform` must, and
`Constant`, which may hold one."""

APART = 2_654_435_761
"""By how much the seeds of chunks differ: multiples of 2^32 over the golden ratio stay apart from each other modulo 2^32,
and from the small steps between the seeds of tables."""


@register("layer", "embedding-table")
@keras.saving.register_keras_serializable("schemaflow")
class EmbeddingTable(keras.layers.Layer):
    """A table of vectors: `e(i) = E[i]`, and for a list `sum_i E[i] / n^a` with a = 1 (mean), 0 (sum), 1/2 (sqrtn).

    With weights w, a list is `sum_i w_i E[i] / d` with `d = sum_i w_i` (mean), 1 (sum), `sqrt(sum_i w_i^2)` (sqrtn).
    Padding takes no part, and a list that is empty, all padding or all of weight 0 is a zero vector.

    Args:
        rows: Rows of the table.
        dim: Width of a row.
        initializer: Of the table: a Keras initializer, its name or config. Truncated normal, deviation 0.05, if None.
        padding: Row 0 is padding, as it is in tables with a vocabulary.
        **kwargs: Of `keras.layers.Layer`; `trainable=False` leaves the table as it is.

    Raises:
        ConfigError: `rows` or `dim` is below 1.

    Example:
        >>> table = EmbeddingTable(3, 2, initializer="ones")
        >>> table(tf.ragged.constant([[1, 2], []]), combiner="sum").numpy().tolist()
        [[2.0, 2.0], [0.0, 0.0]]
    """

    def __init__(self, rows: int, dim: int, initializer: Any = None, padding: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if rows < 1 or dim < 1:
            raise ConfigError(f"an embedding table of {rows} rows x {dim} was asked for; expected at least 1 x 1")
        self.rows = rows
        self.dim = dim
        self.padding = padding
        default = keras.initializers.TruncatedNormal(stddev=0.05)
        self.initializer = fresh_initializer(default if initializer is None else initializer, 0)
        chunked = rows * dim > CHUNK and type(self.initializer) in ROW_BY_ROW
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(rows, dim),
            initializer="zeros" if chunked else self.initializer,
            autocast=False,  # autocast would copy the whole table to half precision at each step
        )
        if chunked:
            self._begin_in_chunks()
        self.built = True

    def _begin_in_chunks(self) -> None:
        """Give the table its first values without others of its size: Keras's initializers take three times its memory."""
        size = CHUNK // self.dim or 1
        with tf.init_scope():
            for place, start in enumerate(range(0, self.rows, size)):
                rows = tf.range(start, min(start + size, self.rows))
                draw = fresh_initializer(self.initializer, place * APART)
                values = draw((len(rows), self.dim), dtype=self.embeddings.dtype)
                self.embeddings.value.scatter_update(tf.IndexedSlices(values, rows))

    def call(
        self,
        ids: tf.Tensor | tf.RaggedTensor,
        combiner: str = "mean",
        weights: tf.RaggedTensor | None = None,
        jit: bool = False,
    ) -> tf.Tensor:
        """Return the vectors of ids.

        Args:
            ids: [batch] int, or lists: [batch, None] int, ragged or dense.
            combiner: For lists; one of mean, sum, sqrtn, max.
            weights: One for each id of ragged lists, [batch, None] float32; not with max.
            jit: Keep to operations that XLA compiles; without it, lists are summed in a third of the time.

        Returns:
            [batch, dim] in the layer's compute dtype.

        Raises:
            ConfigError: There is no such combiner, or it takes no weights.
        """
        return tf.cast(looked_up(self.lookup, ids, combiner, weights, self.padding, jit), self.compute_dtype)

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the rows of ids, [..., dim] in the table's dtype."""
        return tf.nn.embedding_lookup(self.embeddings.value, ids)

    def put(self, rows: Any, values: tf.Tensor) -> None:
        """Give rows [n] values, [n, dim]."""
        self.embeddings.value.scatter_update(tf.IndexedSlices(values, rows))

    def parts(self) -> tuple["EmbeddingTable", ...]:
        """Return the tables that keep its rows: itself."""
        return (self,)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "rows": self.rows,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "padding": self.padding,
        }


def looked_up(
    lookup: Callable[[tf.Tensor], tf.Tensor],
    ids: tf.Tensor | tf.RaggedTensor,
    combiner: str,
    weights: tf.RaggedTensor | None,
    padding: bool,
    jit: bool,
) -> tf.Tensor:
    """Return the vectors of ids [batch], or of lists of them, [batch, dim].

    Args:
        lookup: Gives the rows of ids, [n] -> [n, dim].
        ids: As `EmbeddingTable.call` takes them.
        combiner: One of `COMBINERS`.
        weights: One for each id of ragged lists.
        padding: Whether row 0 takes no part in lists.
        jit: Keep to operations that XLA compiles.

    Raises:
        ConfigError: There is no such combiner, or it takes no weights.
    """
    if not isinstance(ids, tf.RaggedTensor) and len(ids.shape) == 1:
        return lookup(ids)
    if not isinstance(ids, tf.RaggedTensor):
        ids = tf.RaggedTensor.from_tensor(ids)
    if combiner not in COMBINERS:
        raise ConfigError(
            f'unknown combiner "{combiner}"{suggest(combiner, COMBINERS)} (known: {", ".join(COMBINERS)})'
        )
    if combiner == "max" and weights is not None:
        raise ConfigError("the combiner max takes no weights; use mean, sum or sqrtn")
    values, row, rows = ids.values, rows_of(ids), ids.nrows()  # [n], [n], scalar
    share = None if weights is None else weights.values  # [n]
    if padding and jit:
        row = tf.where(tf.equal(values, 0), tf.constant(-1, row.dtype), row)  # sums leave negative rows out
    elif padding:  # is left out here, among whole numbers: a pass over [n, dim] costs as much as the lookup
        kept = tf.where(tf.not_equal(values, 0))[:, 0]  # [m]; n below is this m
        values, row = tf.gather(values, kept), tf.gather(row, kept)
        share = None if share is None else tf.gather(share, kept)
    vectors = lookup(values)  # [n, dim]
    ones = tf.ones_like(values, vectors.dtype)  # [n]
    if combiner == "max":
        present = tf.math.unsorted_segment_sum(ones, row, rows)[:, tf.newaxis] > 0  # [batch, 1]
        return tf.where(present, tf.math.unsorted_segment_max(vectors, row, rows), 0.0)
    if share is None:
        share = ones
    else:
        share = tf.cast(share, vectors.dtype)
        vectors = share[:, tf.newaxis] * vectors
    total = _summed(vectors, row, rows, jit)  # [batch, dim]
    if combiner == "sum":
        return total
    norm = tf.math.unsorted_segment_sum(share if combiner == "mean" else share**2, row, rows)[:, tf.newaxis]
    return tf.math.divide_no_nan(total, norm if combiner == "mean" else tf.sqrt(norm))  # by [batch, 1]


def _summed(vectors: tf.Tensor, row: tf.Tensor, rows: tf.Tensor, jit: bool) -> tf.Tensor:
    """Return the sums of the vectors [n, dim] of each row, [rows, dim]; `row` [n] is sorted, but with jit."""
    if jit:
        return tf.math.unsorted_segment_sum(vectors, row, rows)

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def sums(vectors: tf.Tensor) -> tuple[tf.Tensor, Any]:
        total = tf.math.segment_sum(vectors, row)  # [up to the last list that is not empty, dim]
        total = tf.pad(total, [[0, tf.cast(rows, tf.int32) - tf.shape(total)[0]], [0, 0]])
        return total, lambda upstream: tf.gather(upstream, row)

    return sums(vectors)
