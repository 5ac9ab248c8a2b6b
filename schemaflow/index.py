"""Indices: vectors in, the nearest candidates out."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.registry import register

__all__ = ["BruteForce", "padding_identifier"]


def padding_identifier(dtype: tf.DType) -> Any:
    """Return the id that fills a row with fewer than k candidates: the empty string, or the least integer."""
    return "" if dtype == tf.string else dtype.min


@register("index", "brute-force")
@keras.saving.register_keras_serializable("schemaflow")
class BruteForce(keras.layers.Layer):
    """Exact search: score every candidate, `q . c`, and return the k highest.

    Args:
        query_model: Turns raw queries into vectors; without one, queries are vectors.
        k: How many to return.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: k is below 1.

    Example:
        >>> index = BruteForce(k=2).index(tf.constant([[1.0], [3.0], [2.0]]), tf.constant(["a", "b", "c"]))
        >>> scores, identifiers = index(tf.constant([[1.0]]))
        >>> scores.numpy().tolist(), identifiers.numpy().tolist()
        ([[3.0, 2.0]], [[b'b', b'c']])
        >>> _, identifiers = index.query_with_exclusions(tf.constant([[1.0]]), tf.constant([["b"]]), k=1)
        >>> identifiers.numpy().tolist()
        [[b'c']]
    """

    def __init__(self, query_model: keras.layers.Layer | None = None, k: int = 10, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        if k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        self.query_model = query_model
        self.k = k
        self.supports_jit = False
        self.candidates: Any = None
        self.identifiers: Any = None
        self.built = True

    def index(self, candidates: Any, identifiers: Any = None) -> "BruteForce":
        """Take the candidates to search, in place of any before.

        Args:
            candidates: [n, dim] float, n >= 1.
            identifiers: [n] strings or integers, each once; 0 to n - 1 if None.

        Returns:
            The index itself.

        Raises:
            ConfigError: The shapes do not fit, or an identifier stands twice.
        """
        vectors = tf.cast(tf.convert_to_tensor(candidates), tf.float32)
        if vectors.shape.rank != 2 or vectors.shape[0] == 0:
            raise ConfigError(
                f"candidates have the shape {tuple(vectors.shape)}; expected [n, dim] with at least one candidate"
            )
        ids = tf.range(vectors.shape[0], dtype=tf.int64) if identifiers is None else tf.convert_to_tensor(identifiers)
        if not (ids.dtype == tf.string or ids.dtype.is_integer):
            raise ConfigError(f"identifiers are {ids.dtype.name}; expected strings or integers")
        ids = ids if ids.dtype == tf.string else tf.cast(ids, tf.int64)
        if tuple(ids.shape) != (vectors.shape[0],):
            raise ConfigError(
                f"identifiers have the shape {tuple(ids.shape)}; expected [{vectors.shape[0]}], one for each candidate"
            )
        values, counts = np.unique(ids.numpy(), return_counts=True)
        if (counts > 1).any():
            raise ConfigError(
                f"the identifier {values.tolist()[np.argmax(counts > 1)]!r} stands {counts.max()} times; expected each candidate once"
            )
        if (values == (b"" if ids.dtype == tf.string else padding_identifier(ids.dtype))).any():
            raise ConfigError(
                f"the identifier {padding_identifier(ids.dtype)!r} is the one that fills short rows; rename that candidate"
            )
        self.candidates = tf.Variable(vectors, trainable=False, name="candidates")
        self.identifiers = tf.Variable(ids, trainable=False, name="identifiers")
        positions = tf.range(vectors.shape[0], dtype=tf.int64)
        self._positions = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(ids, positions), -1)
        return self

    def index_from_dataset(self, dataset: Iterable[Any]) -> "BruteForce":
        """Take the candidates from a dataset of batches of vectors [b, dim], or of (identifiers [b], vectors [b, dim])."""
        batches = list(dataset)
        if not batches:
            raise ConfigError("the dataset of candidates is empty; expected at least one batch")
        if isinstance(batches[0], (tuple, list)):
            return self.index(tf.concat([it[1] for it in batches], 0), tf.concat([it[0] for it in batches], 0))
        return self.index(tf.concat(batches, 0))

    def call(self, queries: Any, k: int | tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return (scores, identifiers) of the k best, best first, each [batch, min(k, n)].

        Args:
            queries: Vectors [batch, dim], or what the query model takes: a dict of features, or one bare tensor.
            k: In place of the index's own.
        """
        return self._top(self._scores(queries), k)

    def query_with_exclusions(
        self, queries: Any, exclusions: tf.Tensor, k: int | tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what `call` does, without some candidates for each row.

        An excluded candidate never comes back. Where fewer than k are left, the row is filled with the score -inf and
        the id of `padding_identifier`.

        Args:
            queries: As in `call`.
            exclusions: Identifiers [batch, e]; those that are no candidate's (such as padding) exclude nothing.
            k: In place of the index's own.
        """
        scores = self._scores(queries)  # [batch, n]
        exclusions = tf.convert_to_tensor(exclusions)
        if (exclusions.dtype == tf.string) != (self.identifiers.dtype == tf.string):
            raise ConfigError(
                f"exclusions are {exclusions.dtype.name}; expected {self.identifiers.dtype.name}, as the identifiers"
            )
        rows, candidates = tf.shape(scores)[0], tf.shape(scores, tf.int64)[1]
        positions = self._positions.lookup(tf.cast(exclusions, self.identifiers.dtype))  # [batch, e], -1 where unknown
        row = tf.broadcast_to(tf.range(rows, dtype=tf.int64)[:, tf.newaxis], tf.shape(positions))
        flat = tf.boolean_mask(row * candidates + positions, positions >= 0)  # [excluded], each a cell of scores
        excluded = tf.reshape(
            tf.tensor_scatter_nd_update(
                tf.zeros([tf.size(scores)], tf.bool), flat[:, tf.newaxis], tf.ones_like(flat, tf.bool)
            ),
            tf.shape(scores),
        )
        return self._top(tf.where(excluded, float("-inf"), scores), k)

    def _scores(self, queries: Any) -> tf.Tensor:
        if self.candidates is None:
            raise ConfigError("the index holds no candidates yet; call index(candidates, identifiers) first")
        if not isinstance(queries, Mapping):
            queries = tf.convert_to_tensor(queries)
        if isinstance(queries, Mapping) or not (queries.dtype.is_floating and queries.shape.rank == 2):
            if self.query_model is None:
                raise ConfigError(
                    "the queries are no vectors [batch, dim], and the index has no query_model to make them; pass vectors"
                )
            queries = self.query_model(queries)
        return tf.matmul(tf.cast(queries, tf.float32), self.candidates, transpose_b=True)  # [batch, n]

    def _top(self, scores: tf.Tensor, k: int | tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
        best, positions = tf.math.top_k(scores, tf.minimum(self.k if k is None else k, tf.shape(scores)[1]))
        identifiers = tf.gather(self.identifiers, positions)
        fill = tf.constant(padding_identifier(self.identifiers.dtype), self.identifiers.dtype)
        return best, tf.where(best == float("-inf"), fill, identifiers)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the candidates are kept with the weights."""
        return super().get_config() | {
            "query_model": None if self.query_model is None else keras.saving.serialize_keras_object(self.query_model),
            "k": self.k,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "BruteForce":
        """Make the index of `get_config`, without candidates."""
        return cls(**{**config, "query_model": keras.saving.deserialize_keras_object(config["query_model"])})

    def save_own_variables(self, store: Any) -> None:
        """Write the candidates and their identifiers; strings as UTF-8 bytes end to end."""
        if self.candidates is None or self.identifiers is None:
            return
        store["candidates"] = self.candidates.numpy()
        ids = self.identifiers.numpy()
        if self.identifiers.dtype == tf.string:
            store["bytes"] = np.frombuffer(b"".join(ids.tolist()), np.uint8)
            store["lengths"] = np.array([len(it) for it in ids.tolist()], np.int64)
        else:
            store["identifiers"] = ids

    def load_own_variables(self, store: Any) -> None:
        """Read what `save_own_variables` wrote."""
        if "candidates" not in store:
            return
        if "identifiers" in store:
            self.index(np.array(store["candidates"]), np.array(store["identifiers"]))
            return
        ends = np.cumsum(np.array(store["lengths"]))
        content = np.array(store["bytes"]).tobytes()
        self.index(
            np.array(store["candidates"]),
            [content[end - n : end] for n, end in zip(np.array(store["lengths"]), ends, strict=True)],
        )
