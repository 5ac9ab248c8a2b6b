"""Search by Faiss, an optional library: exact, inverted lists, or a graph of neighbours."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.index.base import NONE, Arranged, Index, Search
from schemaflow.index.brute_force import exact
from schemaflow.index.outside import Made, eager_only, missing
from schemaflow.registry import register

__all__ = ["Faiss"]

KINDS = ("flat", "ivf", "hnsw")


@register("index", "faiss")
@keras.saving.register_keras_serializable("schemaflow")
class Faiss(Index):
    """The candidates of highest score by Faiss: `pip install "schemaflow[faiss]"`.

    What is excluded or not eligible is left out inside the search. It runs outside TensorFlow, so neither in a graph nor
    in a bundle: there, `IVF` does. Where a row would come short though there are more, all candidates are scored.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        kind: "flat", which is exact; "ivf", inverted lists; or "hnsw", a graph of neighbours.
        num_lists: Of "ivf": how many lists, n at most; `2 * sqrt(n)` if None.
        nprobe: Of "ivf": how many of them a query looks in.
        neighbors: Of "hnsw": the edges of a candidate.
        ef_search: Of "hnsw": how many candidates a query keeps in sight, k at least.
        seed: Of the lists.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: Faiss is not installed, the kind is unknown, or a number is below 1.

    Source: Douze et al., "The Faiss library", 2024.

    Example:
        >>> index = Faiss(k=1).index([[1.0, 0.0], [0.0, 1.0]], ["a", "b"])  # doctest: +SKIP
        >>> index(tf.constant([[0.2, 1.0]]))[1].numpy().tolist()  # doctest: +SKIP
        [[b'b']]
    """

    excludes = True

    def __init__(
        self,
        query_model: keras.layers.Layer | None = None,
        k: int = 10,
        kind: str = "flat",
        num_lists: int | None = None,
        nprobe: int = 32,
        neighbors: int = 32,
        ef_search: int = 128,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(query_model, k, **kwargs)
        if kind not in KINDS:
            raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        numbers = {"num_lists": num_lists, "nprobe": nprobe, "neighbors": neighbors, "ef_search": ef_search}
        for name, value in numbers.items():
            if value is not None:
                check_count(name, value)
        try:
            import faiss
        except Exception as reason:
            raise missing("faiss", reason, 'pip install "schemaflow[faiss]"; IVF needs TensorFlow alone') from None
        self._faiss = faiss
        self.kind, self.num_lists, self.nprobe, self.seed = kind, num_lists, nprobe, seed
        self.neighbors, self.ef_search = neighbors, ef_search
        self._made: Made | None = None  # Faiss's own index

    @property
    def has_lists(self) -> bool:  # type: ignore[override]
        """Whether it is of inverted lists."""
        return self.kind == "ivf"

    def _arrange(self, vectors: tf.Tensor, saved: dict[str, Arranged] | None) -> None:
        plain = self._make(vectors.numpy()) if saved is None else self._faiss.deserialize_index(saved["faiss"])
        self._made = Made(self._make, plain)

    def _arranged(self) -> dict[str, Arranged]:
        assert self._made is not None, "there are candidates"
        return {"faiss": self._faiss.serialize_index(self._made.plain)}

    def _make(self, vectors: Any) -> Any:
        faiss, (count, dim) = self._faiss, vectors.shape
        if self.kind == "hnsw":
            made = faiss.IndexHNSWFlat(dim, self.neighbors, faiss.METRIC_INNER_PRODUCT)
        elif self.kind == "ivf":
            lists = min(count, self.num_lists or int(np.ceil(2 * np.sqrt(count))))
            made = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
            made.cp.seed, made.cp.spherical, made.cp.min_points_per_centroid = self.seed, True, 1
            made.train(vectors)
        else:
            made = faiss.IndexFlatIP(dim)
        made.add(vectors)
        return made

    def _nearest(self, asked: Search) -> tuple[tf.Tensor, tf.Tensor]:
        vectors, k, exclude, eligible, scale, nprobe = asked
        eager_only(self)
        assert self._made is not None, "there are candidates"
        made, rows, wanted = self._made.of(self.candidates, scale), vectors.numpy(), int(k)
        may = np.ones(made.ntotal, bool) if eligible is None else np.asarray(eligible)
        if exclude is None:
            found = [self._found(made, rows, wanted, None if eligible is None else may, nprobe)]
            left = np.full(len(rows), may.sum())
        else:  # a selector is for all rows of a call
            found, left = [], np.empty(len(rows), np.int64)
            for row, out in enumerate(np.broadcast_to(exclude, (len(rows), exclude.shape[1]))):
                own = may.copy()
                own[out[out >= 0]] = False
                left[row] = own.sum()
                found.append(self._found(made, rows[row : row + 1], wanted, own, nprobe))
        scores, positions = (np.concatenate(it) for it in zip(*found, strict=True)) if found else _none(wanted)
        scores = np.where(positions < 0, NONE, scores).astype(np.float32)
        if ((positions >= 0).sum(axis=1) < np.minimum(left, wanted)).any():
            more = 0 if exclude is None else exclude.shape[1]
            return exact(
                vectors, tf.convert_to_tensor(self.candidates), tf.minimum(wanted + more, made.ntotal), eligible, scale
            )
        return tf.constant(scores), tf.constant(positions, tf.int32)

    def _found(self, made: Any, rows: Any, k: int, may: Any, nprobe: Any) -> tuple[Any, Any]:
        """Return (scores, positions) of the best that may come back, each [rows, k]; -1 where there are no more."""
        faiss = self._faiss
        bits = None if may is None else np.packbits(may, bitorder="little")  # Faiss keeps a pointer to it
        options = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.ef_search, k), **options)
        elif self.kind == "ivf":
            parameters = faiss.SearchParametersIVF(nprobe=int(self.nprobe if nprobe is None else nprobe), **options)
        else:
            parameters = faiss.SearchParameters(**options)
        return made.search(rows, k, params=parameters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the candidates and what Faiss made of them are kept with the weights."""
        names = ("kind", "num_lists", "nprobe", "neighbors", "ef_search", "seed")
        return super().get_config() | {name: getattr(self, name) for name in names}


def _none(k: int) -> tuple[Any, Any]:
    return np.zeros((0, k)), np.zeros((0, k), np.int64)
