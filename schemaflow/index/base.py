"""What every index is: the protocol, the checks of what is indexed and asked, and what no item may come back from."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.index.directions import lengths
from schemaflow.index.identifiers import Identifiers, ids_of, padding_identifier
from schemaflow.interests import vectors_each

__all__ = ["Index"]

Arranged = npt.NDArray[Any]
"""An array that an index saves."""

NONE = float("-inf")
"""The score of what must not come back."""


class Search(NamedTuple):
    """What an index looks for the nearest of.

    Args:
        vectors: [batch, dim] float32.
        k: How many, int32, 1 <= k <= n.
        exclude: Positions [batch, e] int32, or [1, e] for all rows, -1 for none; for an index that `excludes`.
        eligible: [n] bool; what is not comes back with the score -inf, or not at all.
        scale: What each candidate's score is multiplied by, [n] float32: one over its length.
        nprobe: How many lists to look in, for an index that `has_lists`; its own number if None.
    """

    vectors: tf.Tensor
    k: tf.Tensor
    exclude: tf.Tensor | None
    eligible: tf.Tensor | None
    scale: tf.Tensor | None
    nprobe: int | tf.Tensor | None


class Index(keras.layers.Layer):
    """The candidates nearest to a query, `score = q . c`, by the protocol of TensorFlow Recommenders.

    A query may have K vectors, `score = max_k q_k . c`: each is searched for, and what several of them find is found once.
    A subclass finds the nearest; which may come back is decided here, alike for all.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: k is below 1.
    """

    def __init__(self, query_model: keras.layers.Layer | None = None, k: int = 10, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        check_count("k", k)
        self.query_model = query_model
        self.k = k
        self.supports_jit = False
        self.candidates: Any = None  # tf.Variable [n, dim] float32
        self.lengths: Any = None  # tf.Variable [n] float32, of the candidates' vectors
        self._identifiers: Identifiers | None = None
        self.built = True

    @property
    def identifiers(self) -> Any:
        """The candidates' ids, [n]; None before there are any."""
        return None if self._identifiers is None else self._identifiers.ids

    # -- what is indexed ------------------------------------------------------------------------------------------

    def index(self, candidates: Any, identifiers: Any = None) -> Self:
        """Take the candidates to search, in place of any before.

        Args:
            candidates: [n, dim] float, n >= 1, or a dataset of batches of them.
            identifiers: [n] strings or integers, each once, or a dataset of batches of them; 0 to n - 1 if None.

        Returns:
            The index itself.

        Raises:
            ConfigError: The shapes do not fit, a number is not finite, or an identifier stands twice.
        """
        return self._take(candidates, identifiers, None)

    def _take(self, candidates: Any, identifiers: Any, saved: dict[str, Arranged] | None) -> Self:
        vectors = tf.cast(tf.convert_to_tensor(_whole(candidates)), tf.float32)
        if vectors.shape.rank != 2 or vectors.shape[0] == 0:
            raise ConfigError(
                f"candidates have the shape {tuple(vectors.shape)}; expected [n, dim] with at least one candidate"
            )
        ids = tf.range(vectors.shape[0], dtype=tf.int64) if identifiers is None else ids_of(_whole(identifiers))
        if tuple(ids.shape) != (vectors.shape[0],):
            raise ConfigError(
                f"identifiers have the shape {tuple(ids.shape)}; expected [{vectors.shape[0]}], one for each candidate"
            )
        fill = padding_identifier(ids.dtype)
        if tf.reduce_any(ids == fill):
            raise ConfigError(f"the identifier {fill!r} is the one that fills short rows; rename that candidate")
        wrong = ~tf.reduce_all(tf.math.is_finite(vectors), axis=1)
        if tf.reduce_any(wrong):
            first = int(tf.argmax(wrong))
            raise ConfigError(f"the vector of candidate number {first} holds NaN or infinity; expected finite numbers")
        if self._identifiers is not None and self._identifiers.dtype != ids.dtype:
            raise ConfigError(  # a graph that was traced would go on with those before
                f"the identifiers are {ids.dtype.name}, and those before were {self._identifiers.dtype.name}; make another index"
            )
        # nothing is taken before all is checked
        if self._identifiers is not None:
            self._identifiers.assign(ids)
        else:
            self._identifiers = Identifiers(ids)
        self.candidates = assign(self.candidates, vectors, [None, None], "candidates")
        self.lengths = assign(self.lengths, lengths(vectors), [None], "lengths")
        self._arrange(vectors, saved)
        return self

    def index_from_dataset(self, dataset: Iterable[Any]) -> Self:
        """Take the candidates from a dataset of batches of vectors [b, dim], or of (identifiers [b], vectors [b, dim])."""
        batches = list(dataset)
        if not batches:
            raise ConfigError("the dataset of candidates is empty; expected at least one batch")
        if isinstance(batches[0], (tuple, list)):
            return self.index(tf.concat([it[1] for it in batches], 0), tf.concat([it[0] for it in batches], 0))
        return self.index(tf.concat(batches, 0))

    # -- what is asked --------------------------------------------------------------------------------------------

    def call(
        self, queries: Any, k: int | tf.Tensor | None = None, nprobe: int | tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores, identifiers) of the k best, best first, each [batch, min(k, n)].

        Args:
            queries: Vectors [batch, dim] or [batch, K, dim], or what the query model takes: a dict of features, or one bare
                tensor.
            k: In place of the index's own.
            nprobe: How many lists to look in, in place of the index's own; an index without lists refuses it.
        """
        return self.search(queries, k, nprobe=nprobe)

    def query_with_exclusions(
        self, queries: Any, exclusions: Any, k: int | tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what `call` does, without some candidates for each row.

        An excluded candidate never comes back. Where fewer than k are left, the row is filled with the score -inf and
        the id of `padding_identifier`.

        Args:
            queries: As in `call`.
            exclusions: Identifiers [batch, e], or [1, e] for all rows; those that are no candidate's (such as padding)
                exclude nothing.
            k: In place of the index's own.
        """
        return self.search(queries, k, exclude=exclusions)

    def search(
        self,
        queries: Any,
        k: int | tf.Tensor | None = None,
        exclude: Any = None,
        allow: Any = None,
        eligible: tf.Tensor | None = None,
        nprobe: int | tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores, identifiers) of the k best that may come back, each [batch, min(k, n)], filled as short rows are.

        Args:
            queries: As in `call`.
            k: In place of the index's own.
            exclude: Identifiers [batch, e], or [1, e] for all rows, that must not come back.
            allow: Identifiers [batch, a]: no other comes back. All are scored, whatever the index.
            eligible: Which candidates may come back at all, [n] bool.
            nprobe: As in `call`.
        """
        vectors = self.vectors_of(queries)
        excluded, allowed = (None if ids is None else self.positions_of(ids) for ids in (exclude, allow))
        k = self.k if k is None else k
        scores, positions = self.nearest(vectors, k, excluded, allowed, eligible, nprobe=nprobe)
        return scores, self.named(positions)

    def nearest(
        self,
        vectors: tf.Tensor,
        k: int | tf.Tensor,
        exclude: tf.Tensor | None = None,
        allow: tf.Tensor | None = None,
        eligible: tf.Tensor | None = None,
        by_angle: bool = False,
        nprobe: int | tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores [batch, min(k, n)] float32, positions int32) of the best; -inf and -1 where there are no more.

        Args:
            vectors: [batch, dim] float32; or [batch, K, dim], where a score is the highest of a query's vectors.
            k: How many.
            exclude: Positions [batch, e] int32, or [1, e] for all rows, -1 for none.
            allow: Positions [batch, a] int32, -1 for none.
            eligible: [n] bool.
            by_angle: Whether scores are divided by the candidates' lengths.
            nprobe: As in `call`.
        """
        if nprobe is not None and not self.has_lists:
            raise ConfigError(
                f"nprobe is given, but {type(self).__name__} has no lists to look in; leave it out, or use IVF"
            )
        for name, number in (("k", k), ("nprobe", nprobe)):
            if number is not None and not tf.is_tensor(number):
                check_count(name, number)
        for name, rows, shared in (("exclude", exclude, 1), ("allow", allow, 0)):
            if rows is not None and (rows.shape.rank != 2 or rows.shape[0] not in (None, vectors.shape[0], 0, shared)):
                raise ConfigError(
                    f"{name} has the shape {tuple(rows.shape)}; expected [{vectors.shape[0]}, any], ids for each row"
                )
        if vectors.shape.rank == 3:
            each = vectors_each(vectors)
            flat = tf.reshape(vectors, [-1, tf.shape(vectors)[2]])  # [batch K, dim]
            allow = None if allow is None else tf.repeat(allow, each, axis=0)
            if exclude is not None:  # one row is that of all vectors
                exclude = tf.repeat(exclude, tf.where(tf.shape(exclude)[0] == 1, 1, each), axis=0)
            return merged(*self.nearest(flat, k, exclude, allow, eligible, by_angle, nprobe), each)
        count = tf.shape(self.candidates)[0]
        k = tf.cast(tf.minimum(tf.cast(k, tf.int64), tf.cast(count, tf.int64)), tf.int32)
        scale = tf.math.reciprocal_no_nan(tf.convert_to_tensor(self.lengths)) if by_angle else None
        if allow is None:
            # so many of the best may be excluded
            more = 0 if exclude is None or self.excludes else tf.shape(exclude)[1]
            asked = Search(vectors, tf.minimum(k + more, count), exclude, eligible, scale, nprobe)
            scores, positions = self._nearest(asked)
        else:
            positions = _distinct(allow)
            scores = self._scores_at(vectors, positions, eligible, scale)
        if exclude is not None:
            scores = tf.where(_among(exclude, positions), NONE, scores)
        whole = tf.reduce_all(tf.math.is_finite(vectors), axis=1)  # nothing is near a query that is no point
        scores = tf.where(whole[:, tf.newaxis], scores, NONE)
        short = tf.maximum(k - tf.shape(scores)[1], 0)
        scores = tf.pad(scores, [[0, 0], [0, short]], constant_values=NONE)
        positions = tf.pad(positions, [[0, 0], [0, short]], constant_values=-1)
        best, place = tf.math.top_k(scores, k)
        return best, tf.where(best == NONE, -1, tf.gather(positions, place, batch_dims=1))

    def vectors_of(self, queries: Any) -> tf.Tensor:
        """Return queries as vectors, [batch, dim] or [batch, K, dim] float32."""
        if self.candidates is None:
            raise ConfigError("the index holds no candidates yet; call index(candidates, identifiers) first")
        if not isinstance(queries, Mapping):
            queries = tf.convert_to_tensor(queries)
        if isinstance(queries, Mapping) or not (queries.dtype.is_floating and queries.shape.rank in (2, 3)):
            if self.query_model is None:
                raise ConfigError(
                    "the queries are no vectors [batch, dim], and the index has no query_model to make them; pass vectors"
                )
            queries = self.query_model(queries)
        return tf.cast(queries, tf.float32)

    def positions_of(self, identifiers: Any) -> tf.Tensor:
        """Return the candidates' positions, int32 of the same shape; -1 where no candidate has the id."""
        assert self._identifiers is not None, "there are candidates"
        if isinstance(identifiers, (list, tuple)) and 0 in (shape := np.asarray(identifiers, dtype=object).shape):
            return tf.zeros(shape, tf.int32)  # of what holds nothing, no type is known
        ids = ids_of(identifiers)
        if ids.dtype != self._identifiers.dtype:
            raise ConfigError(
                f"the ids asked for are {ids.dtype.name}; expected {self._identifiers.dtype.name}, as those of the candidates"
            )
        return self._identifiers.positions(ids)

    def named(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the ids at positions, of the same shape; `padding_identifier` at -1."""
        assert self._identifiers is not None, "there are candidates"
        fill = tf.constant(padding_identifier(self._identifiers.dtype), self._identifiers.dtype)
        return tf.where(positions < 0, fill, tf.gather(self.identifiers, tf.maximum(positions, 0)))

    def vectors_at(self, positions: tf.Tensor) -> tf.Tensor:
        """Return the candidates' vectors at positions, [..., dim] float32."""
        # gathered from the variable itself, TensorFlow would copy all of it whenever it is read from then on
        return tf.gather(self.candidates.read_value(), positions)

    # -- what a subclass does -------------------------------------------------------------------------------------

    has_lists = False
    """Whether a search may look in some lists of candidates alone, `nprobe` of them."""

    excludes = False
    """Whether `_nearest` itself leaves out what is excluded; where not, it is asked for so many more."""

    def _arrange(self, vectors: tf.Tensor, saved: dict[str, Arranged] | None) -> None:
        """Prepare the search of candidates, [n, dim] float32, that were just taken; `saved` is what `_arranged` returned."""

    def _arranged(self) -> dict[str, Arranged]:
        """Return arrays to save beside the candidates, so that a loaded index finds the same, and soon."""
        return {}

    @abstractmethod
    def _nearest(self, asked: Search) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores [batch, m] float32, positions [batch, m] int32) of the k best, in any order, m >= 0."""

    def _scores_at(
        self, vectors: tf.Tensor, positions: tf.Tensor, eligible: tf.Tensor | None, scale: tf.Tensor | None
    ) -> tf.Tensor:
        """Return exact scores of candidates at positions [batch, m] int32, [batch, m]; -inf at -1 and where not eligible."""
        place = tf.maximum(positions, 0)
        scores = tf.linalg.matvec(self.vectors_at(place), vectors)  # [batch, m, dim] . [batch, dim]
        scores = scores if scale is None else scores * tf.gather(scale, place)
        may = positions >= 0 if eligible is None else (positions >= 0) & tf.gather(eligible, place)
        return tf.where(may, scores, NONE)

    # -- what is saved --------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the candidates are kept with the weights."""
        return super().get_config() | {
            "query_model": None if self.query_model is None else keras.saving.serialize_keras_object(self.query_model),
            "k": self.k,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make the index of `get_config`, without candidates."""
        return cls(**{**config, "query_model": keras.saving.deserialize_keras_object(config["query_model"])})

    def save_own_variables(self, store: Any) -> None:
        """Write the candidates and their identifiers; strings as UTF-8 bytes end to end."""
        if self.candidates is None or self._identifiers is None:
            return
        store["candidates"] = self.candidates.numpy()
        for name, array in self._arranged().items():
            store[f"arranged_{name}"] = array
        ids = self.identifiers.numpy()
        if self._identifiers.dtype == tf.string:
            store["bytes"] = np.frombuffer(b"".join(ids.tolist()), np.uint8)
            store["lengths"] = np.array([len(it) for it in ids.tolist()], np.int64)
        else:
            store["identifiers"] = ids

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote."""
        if "candidates" not in store:
            return
        if "identifiers" in store:
            ids: Any = np.array(store["identifiers"])
        else:
            content = np.array(store["bytes"]).tobytes()
            ends = np.cumsum(np.array(store["lengths"]))
            ids = [content[end - n : end] for n, end in zip(np.array(store["lengths"]), ends, strict=True)]
        arranged = [name for name in store.keys() if name.startswith("arranged_")]  # noqa: SIM118 (Keras's store does not iterate)
        saved = {name.removeprefix("arranged_"): np.array(store[name]) for name in arranged}
        self._take(np.array(store["candidates"]), ids, saved)


def _whole(given: Any) -> Any:
    """Return what a dataset holds as one tensor, and anything else as it is."""
    return tf.concat(list(given), axis=0) if isinstance(given, tf.data.Dataset) else given


def assign(variable: Any, value: tf.Tensor, shape: list[None], name: str) -> Any:
    """Return the variable with another value: of open shape, since the catalogue may grow under a graph that reads it."""
    if variable is None:
        return tf.Variable(value, trainable=False, shape=shape, name=name)
    variable.assign(value)
    return variable


def merged(scores: tf.Tensor, positions: tf.Tensor, each: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return (scores, positions) of the k best of each query's vectors together, [batch, k] both.

    These are the k best by the highest score: what is among them is among the k best of the vector that it is nearest to,
    since whatever comes before it there comes before it here.

    Args:
        scores: [batch each, k], the vectors of one query after those of another; -inf where there are no more.
        positions: Of the same, -1 where there are no more.
        each: How many vectors a query has.
    """
    k = tf.shape(scores)[1]
    scores, positions = (tf.reshape(it, [-1, each * k]) for it in (scores, positions))
    scores, place = tf.math.top_k(scores, each * k)
    positions = tf.gather(positions, place, batch_dims=1)
    order = tf.argsort(positions, axis=1, stable=True)  # each candidate's highest score first
    scores, positions = (tf.gather(it, order, batch_dims=1) for it in (scores, positions))
    again = tf.pad(positions[:, 1:] == positions[:, :-1], [[0, 0], [1, 0]])
    best, place = tf.math.top_k(tf.where(again, NONE, scores), k)  # of equal scores the first candidate, as ever
    return best, tf.where(best == NONE, -1, tf.gather(positions, place, batch_dims=1))


def _distinct(positions: tf.Tensor) -> tf.Tensor:
    """Return positions [batch, a] with -1 where one stands for another time in its row, in any order."""
    ordered = tf.sort(positions, axis=1)
    again = tf.pad(ordered[:, 1:] == ordered[:, :-1], [[0, 0], [1, 0]])[:, : tf.shape(ordered)[1]]
    return tf.where(again, -1, ordered)


def _among(excluded: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
    """Return whether each position [batch, m] stands among those of its row, [batch, e], or of all, [1, e]: [batch, m] bool."""
    ordered = tf.sort(tf.pad(excluded, [[0, 0], [0, 1]], constant_values=-1), axis=1)  # [lists, 1 + e], never empty
    lists, (rows, width) = tf.shape(ordered)[0], tf.unstack(tf.shape(positions))
    asked = tf.reshape(positions, [lists, tf.where(lists == rows, width, rows * width)])
    place = tf.minimum(tf.searchsorted(ordered, asked), tf.shape(ordered)[1] - 1)
    return tf.reshape(tf.gather(ordered, place, batch_dims=1) == asked, tf.shape(positions))
