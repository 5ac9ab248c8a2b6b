"""Approximate search in stock TensorFlow operations: look in the lists that a query points to."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.index.base import NONE, Arranged, Index, Search, assign
from schemaflow.index.brute_force import exact
from schemaflow.index.k_means import assigned, k_means
from schemaflow.registry import register

__all__ = ["IVF"]

STORAGES = {"float32": tf.float32, "bfloat16": tf.bfloat16, "int8": tf.int8}

RESCORED = 4
"""How many times k candidates are scored again with float32 vectors, where others are searched."""

AT_ONCE = 4
"""Queries searched at a time: what they gather, some MB each, is to stay in the processor's cache."""


@register("index", "ivf")
@keras.saving.register_keras_serializable("schemaflow")
class IVF(Index):
    """Inverted lists: score the candidates of the `nprobe` lists that may hold the highest scores, not all.

    Lists hold candidates of like direction (spherical k-means), in one piece of memory each. A query looks in the lists of
    highest `q . centre * (length of the longest candidate)`. Stock TensorFlow operations alone, so that any TensorFlow
    Serving runs it. As many eligible candidates are scored where some are not, by looking in more lists; where they are
    no more than would be scored, or a row would come short, all that are eligible are scored. Recall is best where
    candidates are of like length; where lengths differ much, raise `nprobe` or train with `l2_normalize=True`.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        num_lists: How many lists, n at most; `2 * sqrt(n)` if None.
        nprobe: How many of them a query looks in; all where there are fewer, which is exact.
        storage: What the lists hold: "float32", or "bfloat16" or "int8" (a step for each candidate), at a half and a
            quarter of the memory; the best 4 k are then scored again with the float32 vectors.
        seed: Of the lists.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: k, num_lists or nprobe is below 1, or the storage is unknown.

    Source: Sivic and Zisserman, "Video Google", 2003; Jégou et al., "Product quantization for nearest neighbor search", 2011.

    Example:
        >>> index = IVF(k=1, num_lists=2, nprobe=1).index([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], ["a", "b", "c"])
        >>> index(tf.constant([[1.0, 0.1], [0.0, 1.0]]))[1].numpy().tolist()
        [[b'b'], [b'c']]
    """

    has_lists = True

    def __init__(
        self,
        query_model: keras.layers.Layer | None = None,
        k: int = 10,
        num_lists: int | None = None,
        nprobe: int = 32,
        storage: str = "float32",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(query_model, k, **kwargs)
        if storage not in STORAGES:
            raise ConfigError(f"storage is {storage!r}; expected one of {', '.join(STORAGES)}")
        for name, value in {"num_lists": num_lists, "nprobe": nprobe}.items():
            if value is not None:
                check_count(name, value)
        self.num_lists, self.nprobe, self.storage, self.seed = num_lists, nprobe, storage, seed
        self.centres: Any = None  # tf.Variable [lists, dim] float32, of length 1
        self.reach: Any = None  # [lists] float32, the length of the longest candidate
        self.bounds: Any = None  # [lists + 1] int32: list j is rows bounds[j] to bounds[j + 1]
        self.order: Any = None  # [n] int32, the position of the candidate in each row
        self.codes: Any = None  # [n, dim] of the storage, by rows
        self.steps: Any = None  # [n] float32, what a row of int8 is multiplied by

    def _arrange(self, vectors: tf.Tensor, saved: dict[str, Arranged] | None) -> None:
        count = len(vectors)
        if saved is None:
            lists = min(count, self.num_lists or int(np.ceil(2 * np.sqrt(count))))
            centres = k_means(vectors, lists, self.seed)
            of = assigned(vectors, centres).numpy()  # [n]
            order = np.argsort(of, kind="stable").astype(np.int32)
            bounds = np.searchsorted(of[order], np.arange(lists + 1)).astype(np.int32)
        else:
            centres, order, bounds = (tf.constant(saved[name]) for name in ("centres", "order", "bounds"))
        lengths = tf.gather(self.lengths, order)
        of = tf.repeat(tf.range(len(bounds) - 1), bounds[1:] - bounds[:-1])
        self.centres = assign(self.centres, centres, [None, None], "centres")
        self.reach = assign(self.reach, tf.math.unsorted_segment_max(lengths, of, len(bounds) - 1), [None], "reach")
        self.bounds = assign(self.bounds, tf.constant(bounds), [None], "bounds")
        self.order = assign(self.order, tf.constant(order), [None], "order")
        rows = tf.gather(vectors, order)  # [n, dim]
        if self.storage == "int8":
            steps = tf.reduce_max(tf.abs(rows), axis=1) / 127
            self.steps = assign(self.steps, steps, [None], "steps")
            rows = tf.round(tf.math.divide_no_nan(rows, steps[:, tf.newaxis]))
        self.codes = assign(self.codes, tf.cast(rows, STORAGES[self.storage]), [None, None], "codes")

    def _arranged(self) -> dict[str, Arranged]:
        return {name: getattr(self, name).numpy() for name in ("centres", "order", "bounds")}

    def _nearest(self, asked: Search) -> tuple[tf.Tensor, tf.Tensor]:
        vectors, k, exclude, eligible, scale, nprobe = asked
        nprobe = tf.maximum(self.nprobe if nprobe is None else nprobe, 1)
        wanted = tf.fill(tf.shape(vectors)[:1], k)  # [batch]
        if exclude is not None:  # what pads them asks for nothing, so that a row is answered as it is alone
            own = tf.math.count_nonzero(exclude >= 0, axis=1, dtype=tf.int32)
            wanted = tf.where(k < tf.shape(self.candidates)[0], wanted - tf.shape(exclude)[1] + own, wanted)
        return self._search(vectors, wanted, tf.convert_to_tensor(k), eligible, scale, tf.convert_to_tensor(nprobe))

    # one graph, since a loop over queries is slow without; BruteForce's few steps are not
    @tf.function(reduce_retracing=True, autograph=False)  # type: ignore[untyped-decorator]
    def _search(
        self,
        vectors: tf.Tensor,
        wanted: tf.Tensor,
        k: tf.Tensor,
        eligible: tf.Tensor | None,
        scale: tf.Tensor | None,
        nprobe: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        count, lists = tf.shape(self.candidates)[0], tf.shape(self.centres)[0]
        left = count if eligible is None else tf.math.count_nonzero(eligible, dtype=tf.int32)
        k, wanted = tf.minimum(k, left), tf.minimum(wanted, left)
        share = tf.cast(left, tf.float64) / tf.cast(count, tf.float64)
        nprobe = tf.minimum(tf.cast(nprobe, tf.float64), tf.cast(lists, tf.float64))
        nprobe = tf.cast(
            tf.math.ceil(tf.minimum(nprobe / tf.maximum(share, 1e-9), tf.cast(lists, tf.float64))), tf.int32
        )

        def whole(vectors: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            if eligible is None:
                return exact(vectors, tf.convert_to_tensor(self.candidates), k, None, scale)
            positions = tf.cast(tf.where(eligible)[:, 0], tf.int32)  # [left]
            scales = None if scale is None else tf.gather(scale, positions)
            best, place = exact(vectors, self.vectors_at(positions), k, None, scales)
            return best, tf.gather(positions, place)

        def probed() -> tuple[tf.Tensor, tf.Tensor]:
            scores, positions = self._probe(vectors, wanted, k, eligible, scale, nprobe)
            short = tf.math.count_nonzero(scores > NONE, axis=1, dtype=tf.int32) < wanted  # [batch]

            def mended() -> tuple[tf.Tensor, tf.Tensor]:
                rows = tf.where(short)  # [s, 1]
                wide = [[0, 0], [0, tf.shape(scores)[1] - k]]
                best, places = whole(tf.boolean_mask(vectors, short))
                return (
                    tf.tensor_scatter_nd_update(scores, rows, tf.pad(best, wide, constant_values=NONE)),
                    tf.tensor_scatter_nd_update(positions, rows, tf.pad(places, wide, constant_values=-1)),
                )

            return tf.cond(tf.reduce_any(short), mended, lambda: (scores, positions))

        few = share * tf.cast(lists, tf.float64) <= tf.cast(nprobe, tf.float64)
        # a loop over no query has no shape
        return tf.cond(few | (tf.shape(vectors)[0] == 0), lambda: whole(vectors), probed)

    def _probe(
        self,
        vectors: tf.Tensor,
        wanted: tf.Tensor,
        k: tf.Tensor,
        eligible: tf.Tensor | None,
        scale: tf.Tensor | None,
        nprobe: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores, positions) of the best in each query's lists, [batch, k or more]; -inf where there are no more."""
        bounds, most = tf.convert_to_tensor(self.bounds), k if self.storage == "float32" else RESCORED * k
        starts, stops = bounds[:-1], bounds[1:]
        held = stops - starts  # [lists]: how many a list holds that may come back
        # what is known of candidates, by rows
        may = None if eligible is None else tf.gather(eligible, self.order)
        factors = None if scale is None else tf.gather(scale, self.order)
        if self.storage == "int8":
            factors = tf.convert_to_tensor(self.steps) if factors is None else factors * self.steps
        if may is not None:
            before = tf.pad(tf.cumsum(tf.cast(may, tf.int32)), [[1, 0]])
            held = tf.gather(before, stops) - tf.gather(before, starts)
        promise = tf.matmul(vectors, self.centres, transpose_b=True)  # [batch, lists]
        if scale is None:
            promise *= self.reach
        _, probes = tf.math.top_k(tf.where(held > 0, promise, NONE), nprobe, sorted=False)  # [batch, nprobe]

        def one(query: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            vector, lists = query  # [dim], [nprobe]
            rows = tf.ragged.range(tf.gather(starts, lists), tf.gather(stops, lists)).values  # [m]
            scores = tf.linalg.matvec(tf.cast(tf.gather(self.codes, rows), tf.float32), vector)
            if factors is not None:
                scores *= tf.gather(factors, rows)
            if may is not None:
                scores = tf.where(tf.gather(may, rows), scores, NONE)
            best, place = tf.math.top_k(scores, tf.minimum(most, tf.size(scores)))
            short = [[0, most - tf.size(best)]]
            return (
                tf.pad(best, short, constant_values=NONE),
                tf.pad(tf.gather(self.order, tf.gather(rows, place)), short, constant_values=-1),
            )

        of = tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)
        scores, positions = tf.map_fn(one, (vectors, probes), fn_output_signature=of, parallel_iterations=AT_ONCE)
        if self.storage != "float32":
            enough = tf.range(most) < RESCORED * wanted[:, tf.newaxis]  # [batch, most]
            positions = tf.where(enough & (scores > NONE), positions, -1)
            scores = self._scores_at(vectors, positions, eligible, scale)
        return scores, positions

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the candidates and their lists are kept with the weights."""
        return super().get_config() | {
            "num_lists": self.num_lists,
            "nprobe": self.nprobe,
            "storage": self.storage,
            "seed": self.seed,
        }
