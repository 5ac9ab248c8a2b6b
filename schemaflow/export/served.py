"""What the SavedModel holds: towers, index and filters, and the functions to serve, on raw features."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from schemaflow.features.encoders import raw_signature
from schemaflow.features.filters import Filters, filter_signature
from schemaflow.features.kinds import CategoricalEncoder
from schemaflow.index import IVF, Index
from schemaflow.schema.feature import Feature
from schemaflow.towers import Tower

__all__ = ["Embeddings", "Served"]


class Embeddings(tf.Module):
    """Both towers as functions of raw features by name, vectors [batch, dim] float32, with the variables they read.

    A query may have several, [batch, K, dim].

    Nothing of Keras is kept: of its variables a SavedModel holds copies, which are what a session restores (as TensorFlow
    Serving's does) while the functions read the others.

    Args:
        query: The function of the query tower.
        item: Of the item tower.
        tables: The lookups that they use.
    """

    def __init__(self, query: Any, item: Any, tables: Sequence[Any]) -> None:
        super().__init__()
        self.query, self.item, self.tables = query, item, list(tables)
        self.weights = [*query.variables, *item.variables]

    @classmethod
    def of(cls, query: Tower, item: Tower) -> "Embeddings":
        """Return what two towers do."""
        encoders = [it for tower in (query, item) for it in tower.encoder.encoders.values()]
        tables = [it.lookup for it in encoders if isinstance(it, CategoricalEncoder) and it.lookup is not None]
        return cls(_function(query), _function(item), tables)


def _function(tower: Tower) -> Any:
    function = tf.function(lambda **features: tf.cast(tower(features), tf.float32))
    return function.get_concrete_function(**raw_signature(tower.features))


class Served(tf.Module):
    """What the SavedModel holds.

    Args:
        embeddings: Of the towers, or what a SavedModel has in their place.
        search: The index, with its candidates.
        filters: Of the same items.
        k: How many come back where a request does not say.
        query: The features of the query tower.
        item: Those of the item tower.

    Raises:
        ConfigError: The index cannot be part of a graph.

    Attributes:
        functions: Those to serve, by name; lists are padded at the end with what stands for missing. An index of lists
            takes `nprobe` [] too, where 0 is its own.
    """

    def __init__(
        self,
        embeddings: Any,
        search: Index,
        filters: Filters,
        k: int,
        query: Sequence[Feature],
        item: Sequence[Feature],
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        asked, described = raw_signature(query), raw_signature(item)
        ids, how_many = search.identifiers.dtype, {"k": tf.TensorSpec([], tf.int32, "k")}
        restricted = {name: tf.TensorSpec([None, None], ids, name) for name in ("exclude", "allow")}
        if isinstance(search, IVF):
            restricted["nprobe"] = tf.TensorSpec([], tf.int32, "nprobe")

        def answer(scores: tf.Tensor, positions: tf.Tensor) -> dict[str, tf.Tensor]:
            count = tf.reduce_sum(tf.cast(positions >= 0, tf.int32), axis=1)  # [batch]: how many are real
            return {"identifiers": search.named(positions), "scores": scores, "count": count}

        def serving_default(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer(*search.nearest(embeddings.query(**features), k))

        def recommend(k: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, **given: tf.Tensor) -> dict[str, tf.Tensor]:
            vectors = embeddings.query(**{name: given[name] for name in asked})
            return answer(*_restricted(search, filters, vectors, k, exclude, allow, given))

        def similar_items(identifiers: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
            positions = search.positions_of(identifiers)  # [batch]
            vectors = tf.math.l2_normalize(tf.gather(search.candidates, tf.maximum(positions, 0)), axis=1)
            scores, found = search.nearest(vectors, k, exclude=positions[:, tf.newaxis], by_angle=True)
            known = positions[:, tf.newaxis] >= 0  # nothing is similar to what is not there
            return answer(tf.where(known, scores, float("-inf")), tf.where(known, found, -1))

        def query_embedding(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": embeddings.query(**features)}

        def candidate_embedding(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": embeddings.item(**features)}

        inputs = (
            (serving_default, asked),
            (recommend, asked | how_many | restricted | filter_signature(filters.features)),
            (similar_items, {"identifiers": tf.TensorSpec([None], ids, "identifiers")} | how_many),
            (query_embedding, asked),
            (candidate_embedding, described),
        )
        self.functions = {
            it.__name__: tf.function(it, autograph=False).get_concrete_function(**specs) for it, specs in inputs
        }
        self.held = list({it.ref(): it for made in self.functions.values() for it in made.variables}.values())


def _restricted(
    search: Index,
    filters: Filters,
    vectors: tf.Tensor,
    k: tf.Tensor,
    exclude: tf.Tensor,
    allow: tf.Tensor,
    given: Mapping[str, tf.Tensor],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (scores, positions), both [batch, min(k, n)]; what restricts nothing costs nothing."""
    excluded, nprobe = search.positions_of(exclude), None
    if isinstance(search, IVF):
        nprobe = tf.where(given["nprobe"] > 0, given["nprobe"], search.nprobe)

    def found(allowed: tf.Tensor | None, eligible: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        return search.nearest(vectors, k, excluded, allowed, eligible, nprobe=nprobe)

    def filtered(allowed: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        if not filters.features:
            return found(allowed, None)
        return tf.cond(
            filters.restricts(given), lambda: found(allowed, filters.mask(given)), lambda: found(allowed, None)
        )

    return tf.cond(tf.shape(allow)[1] > 0, lambda: filtered(search.positions_of(allow)), lambda: filtered(None))
