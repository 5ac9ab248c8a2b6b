"""Search by ScaNN, an optional library: inverted lists of quantised vectors."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.index.base import NONE, Arranged, Index, Search
from schemaflow.index.brute_force import exact
from schemaflow.index.outside import Made, eager_only, missing
from schemaflow.registry import register

__all__ = ["ScaNN"]

REMEDY = (
    "it needs Linux, Python 3.12 or 3.13, NumPy 2 and TensorFlow 2.20: there,"
    ' pip install "schemaflow[scann]"; IVF needs TensorFlow alone'
)

FEW = 4096
"""Candidates up to which ScaNN scores all, since quantising them takes more than it saves."""


@register("index", "scann")
@keras.saving.register_keras_serializable("schemaflow")
class ScaNN(Index):
    """The candidates of highest score by ScaNN: `pip install "schemaflow[scann]"`, beside TensorFlow 2.20.

    ScaNN knows no exclusions: more are asked for, in the share of those that may come back, and where a row would come short
    though there are more, all candidates are scored. It runs outside TensorFlow, so neither in a graph nor in a bundle:
    there, `IVF` does. Saved, it makes its lists anew when it is loaded.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        num_lists: How many lists, n at most; `2 * sqrt(n)` if None.
        nprobe: How many of them a query looks in.
        rescored: How many of the best are scored again with the float32 vectors, k at least.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: ScaNN cannot be imported, or a number is below 1.

    Source: Guo et al., "Accelerating large-scale inference with anisotropic vector quantization", 2020.

    Example:
        >>> index = ScaNN(k=1).index([[1.0, 0.0], [0.0, 1.0]], ["a", "b"])  # doctest: +SKIP
        >>> index(tf.constant([[0.2, 1.0]]))[1].numpy().tolist()  # doctest: +SKIP
        [[b'b']]
    """

    has_lists = True

    def __init__(
        self,
        query_model: keras.layers.Layer | None = None,
        k: int = 10,
        num_lists: int | None = None,
        nprobe: int = 32,
        rescored: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(query_model, k, **kwargs)
        for name, value in {"num_lists": num_lists, "nprobe": nprobe, "rescored": rescored}.items():
            if value is not None:
                check_count(name, value)
        try:
            from scann import scann_ops_pybind
        except Exception as reason:  # beside another TensorFlow it is TensorFlow's NotFoundError
            raise missing("scann", reason, REMEDY) from None
        self._builder = scann_ops_pybind.builder
        self.num_lists, self.nprobe, self.rescored = num_lists, nprobe, rescored
        self._made: Made | None = None  # ScaNN's searcher

    def _arrange(self, vectors: tf.Tensor, saved: dict[str, Arranged] | None) -> None:
        self._made = Made(self._make, self._make(vectors.numpy()))

    def _make(self, vectors: Any) -> Any:
        count = len(vectors)
        builder = self._builder(vectors, self.k, "dot_product")
        if count <= FEW:
            return builder.score_brute_force().build()
        lists = min(count, self.num_lists or int(np.ceil(2 * np.sqrt(count))))
        tree = builder.tree(lists, min(self.nprobe, lists), training_sample_size=min(count, 100 * lists))
        return tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(self.rescored).build()

    def _nearest(self, asked: Search) -> tuple[tf.Tensor, tf.Tensor]:
        vectors, _, _, eligible, scale, nprobe = asked
        eager_only(self)
        assert self._made is not None, "there are candidates"
        made, rows, count = self._made.of(self.candidates, scale), vectors.numpy(), int(tf.size(self.lengths))
        left = count if eligible is None else int(np.count_nonzero(eligible))
        k = min(int(asked.k), left)
        if len(rows) and k:
            more = min(count, -(-k * count // left))
            leaves = None if count <= FEW else int(self.nprobe if nprobe is None else nprobe)
            positions, scores = made.search_batched(rows, more, max(more, self.rescored), leaves)
            may = ~np.isnan(scores)  # so ScaNN fills what is short
            if eligible is not None:
                may &= np.asarray(eligible)[positions]
            if (may.sum(axis=1) >= k).all():
                return tf.constant(np.where(may, scores, NONE), tf.float32), tf.constant(positions.astype(np.int32))
        return exact(vectors, tf.convert_to_tensor(self.candidates), tf.constant(k), eligible, scale)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the candidates are kept with the weights."""
        return super().get_config() | {"num_lists": self.num_lists, "nprobe": self.nprobe, "rescored": self.rescored}
