"""What the SavedModel holds: towers, index, filters and a second stage, and the functions to serve, on raw features."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from schemaflow.features.encoders import raw_signature
from schemaflow.features.filters import Filters, filter_signature
from schemaflow.features.kinds import CategoricalEncoder
from schemaflow.index import IVF, Index
from schemaflow.index.directions import directions
from schemaflow.schema.feature import Feature
from schemaflow.tasks import Ranker
from schemaflow.towers import Tower

__all__ = ["Embeddings", "SecondStage", "Served"]


Find = Callable[[tf.Tensor, int | tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Gives for vectors [batch, dim] the (scores, positions) of so many items, [batch, min(count, n)]."""


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
        return cls(_function(query), _function(item), _lookups(query, item))


class SecondStage(tf.Module):
    """A ranker as functions, with the variables they read; nothing of Keras is kept, as in `Embeddings`.

    Args:
        query: Gives of raw query features by name what the ranker takes: features [batch, width], and vectors [batch, dim] or
            [batch, K, dim].
        scores: Gives of these and of items' vectors [batch, m, dim] what the items are ranked by, [batch, m] float32.
        tables: The lookups that they use.
    """

    def __init__(self, query: Any, scores: Any, tables: Sequence[Any]) -> None:
        super().__init__()
        self.query, self.scores, self.tables = query, scores, list(tables)
        self.weights = [*query.variables, *scores.variables]

    @classmethod
    def of(cls, tower: Tower, ranker: Ranker) -> "SecondStage":
        """Return what a ranker does with the query tower."""

        def query(**features: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            inputs = tower.inputs_of(features)
            return tf.cast(inputs, tf.float32), tf.cast(tower.body(inputs), tf.float32)

        asked = tf.function(query, autograph=False).get_concrete_function(**raw_signature(tower.features))
        inputs, vectors = (it.shape for it in asked.structured_outputs)
        given = [tf.TensorSpec(it, tf.float32) for it in (inputs, vectors, [None, None, vectors[-1]])]
        scores = tf.function(ranker.scores, autograph=False).get_concrete_function(*given)
        return cls(asked, scores, _lookups(tower))


def _lookups(*towers: Tower) -> list[Any]:
    encoders = [it for tower in towers for it in tower.encoder.encoders.values()]
    return [it.lookup for it in encoders if isinstance(it, CategoricalEncoder) and it.lookup is not None]


def _function(tower: Tower) -> Any:
    function = tf.function(lambda **features: tf.cast(tower(features), tf.float32), autograph=False)
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
        stage: What ranks anew what the index found, of a ranker or as a SavedModel has it.
        num_retrieved: How many the index finds for it.

    Raises:
        ConfigError: The index cannot be part of a graph.

    Attributes:
        functions: Those to serve, by name; lists are padded at the end with what stands for missing. `exclude` has a row
            for each query, or one for all. An index of lists takes `nprobe` [] too, where 0 is its own.
    """

    def __init__(
        self,
        embeddings: Any,
        search: Index,
        filters: Filters,
        k: int,
        query: Sequence[Feature],
        item: Sequence[Feature],
        stage: Any = None,
        num_retrieved: int | None = None,
    ) -> None:
        super().__init__()
        self.embeddings, self.stage = embeddings, stage
        asked, described = raw_signature(query), raw_signature(item)
        ids, how_many = search.identifiers.dtype, {"k": tf.TensorSpec([], tf.int32, "k")}
        restricted = {name: tf.TensorSpec([None, None], ids, name) for name in ("exclude", "allow")}
        if isinstance(search, IVF):
            restricted["nprobe"] = tf.TensorSpec([], tf.int32, "nprobe")

        def answer(scores: tf.Tensor, positions: tf.Tensor) -> dict[str, tf.Tensor]:
            count = tf.reduce_sum(tf.cast(positions >= 0, tf.int32), axis=1)  # [batch]: how many are real
            return {"identifiers": search.named(positions), "scores": scores, "count": count}

        def best(features: Mapping[str, tf.Tensor], k: int | tf.Tensor, find: Find) -> dict[str, tf.Tensor]:
            if stage is None or num_retrieved is None:
                return answer(*find(embeddings.query(**features), k))
            inputs, vectors = stage.query(**features)
            _, positions = find(vectors, tf.maximum(k, num_retrieved))
            found = search.vectors_at(tf.maximum(positions, 0))  # [batch, m, dim]
            return answer(*_first(stage.scores(inputs, vectors, found), positions, k))

        def serving_default(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return best(features, k, search.nearest)

        def recommend(k: tf.Tensor, exclude: tf.Tensor, allow: tf.Tensor, **given: tf.Tensor) -> dict[str, tf.Tensor]:
            def find(vectors: tf.Tensor, count: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return _restricted(search, filters, vectors, count, exclude, allow, given)

            return best({name: given[name] for name in asked}, k, find)

        def similar_items(identifiers: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
            positions = search.positions_of(identifiers)  # [batch]
            vectors = directions(search.vectors_at(tf.maximum(positions, 0)))
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


def _first(scores: tf.Tensor, positions: tf.Tensor, k: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (scores, positions), both [batch, min(k, m)], of the highest of [batch, m] scores; position -1 is of none."""
    scores = tf.where(positions < 0, float("-inf"), scores)
    best, place = tf.math.top_k(scores, tf.minimum(k, tf.shape(positions)[1]))
    return best, tf.gather(positions, place, batch_dims=1)


def _restricted(
    search: Index,
    filters: Filters,
    vectors: tf.Tensor,
    k: int | tf.Tensor,
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
