"""The rank of each positive among the whole catalogue, as a Keras metric."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.index import Identifiers
from schemaflow.index.identifiers import ids_of
from schemaflow.interests import nearest_interest
from schemaflow.ranking import counts_below, ranks_of
from schemaflow.registry import register
from schemaflow.schema.sources import ArrowStream, Source
from schemaflow.tasks.checks import require_shape

__all__ = ["FactorizedTopK"]

TOLERANCE = 1e-5
"""Scores nearer than this share of |q| |c| are tied where a positive is known by its score alone."""


@register("metric", "factorized-top-k")
@keras.saving.register_keras_serializable("schemaflow")
class FactorizedTopK(keras.metrics.Metric):
    """The share of rows whose positive is among the k candidates of highest score: `sum_i w_i [rank_i <= k] / sum_i w_i`.

    `rank = 1 + |candidates scored strictly higher| + |candidates tied, itself left out|`, exact, over all candidates: a
    model that scores everything alike comes last. A NaN score is never a hit.

    Where both come with ids, a positive is found by its id, and its score is its candidate's own; a positive that is no
    candidate is a miss. Without ids it is known by its score alone: candidates within a small tolerance of it are tied
    with it, one of them being itself. Pass ids where its vector may differ from its candidate's by more: in training,
    where candidates are as old as the epoch, or with towers of half precision.

    Args:
        candidates: A dataset (or list) of batches of vectors [b, dim], or of (identifiers [b], vectors [b, dim]), such as
            `items.batch(128).map(item_model)`: gone through once at the start of each epoch and evaluation, when Keras
            resets its metrics. Or a table of items or the path of one, which a `TwoTowerModel` encodes; or None, for
            vectors given by `set_candidates`.
        ks: The cut-offs; those beyond the number of candidates count every positive that is one.
        name: The results are called `<name>/hit_rate@<k>`.
        **kwargs: Of `keras.metrics.Metric`.

    Raises:
        ConfigError: A cut-off is no integer above 0 or stands twice, or the candidates cannot be gone through twice.

    The result is NaN where no row was counted. The config keeps the path of a table, and no other candidates.

    Source:
        The arguments are those of TensorFlow Recommenders' FactorizedTopK, which counts ties as hits.

    Example:
        >>> metric = FactorizedTopK(ks=(1, 2)).set_candidates(tf.constant([[1.0], [3.0], [2.0]]), tf.constant([7, 8, 9]))
        >>> metric.update_state(tf.ones((2, 1)), tf.constant([[3.0], [2.0]]), tf.constant([8, 9]))
        >>> {name: float(rate) for name, rate in metric.result().items()}
        {'factorized_top_k/hit_rate@1': 0.5, 'factorized_top_k/hit_rate@2': 1.0}
    """

    def __init__(
        self,
        candidates: Any = None,
        ks: Sequence[int] = (1, 5, 10, 50, 100),
        name: str = "factorized_top_k",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        ks = tuple(ks)
        if not ks or not all(type(k) is int and k > 0 for k in ks) or len(set(ks)) < len(ks):
            raise ConfigError(f"ks is {ks!r}; expected integers above 0, each once")
        self.ks = ks
        self._hits = self.add_variable(shape=(len(ks),), initializer="zeros", dtype="float32", name="hits")
        self._weight = self.add_variable(shape=(), initializer="zeros", dtype="float32", name="weight")
        self._vectors: Any = None  # tf.Variable [n, dim]
        self._identifiers: Identifiers | None = None
        self._dim: int | None = None
        self.candidates = candidates

    @property
    def candidates(self) -> Any:
        """What the metric was given for candidates; another can be assigned."""
        return self._candidates

    @candidates.setter
    def candidates(self, candidates: Any) -> None:
        if not _is_table(candidates) and (not isinstance(candidates, Iterable) or isinstance(candidates, Iterator)):
            raise ConfigError(
                f"candidates is {candidates!r}; expected a dataset or a list of batches, which can be gone through more than"
                " once, or a table of items"
            )
        self._candidates = candidates

    @property
    def needs_encoding(self) -> bool:
        """Whether they are a table of items, or none, so that a model is to encode its items and give them to `set_candidates`."""
        return _is_table(self.candidates)

    def set_candidates(self, embeddings: Any, identifiers: Any = None) -> "FactorizedTopK":
        """Take the vectors to rank, in place of any before, and return the metric itself.

        Args:
            embeddings: [n, dim] float, n >= 1.
            identifiers: [n] strings or integers, each once; None where positives are known by their score alone.

        Raises:
            ConfigError: The shapes do not fit, an identifier stands twice, or identifiers are of another kind than those
                of the candidates before, which a compiled graph may read.
        """
        with tf.init_scope():
            vectors = tf.cast(tf.convert_to_tensor(embeddings), tf.float32)
            if vectors.shape.rank != 2 or vectors.shape[0] == 0:
                raise ConfigError(
                    f"candidates have the shape {tuple(vectors.shape)}; expected [n, dim] with at least one candidate"
                )
            ids = None if identifiers is None else ids_of(identifiers)
            if ids is not None and tuple(ids.shape) != (vectors.shape[0],):
                raise ConfigError(
                    f"identifiers have the shape {tuple(ids.shape)}; expected [{vectors.shape[0]}], one for each candidate"
                )
            dtype = None if ids is None else ids.dtype
            if self._vectors is not None and dtype != self._id_dtype:
                raise ConfigError(
                    f"the identifiers are {_named(dtype)}, and those before were {_named(self._id_dtype)}; make another FactorizedTopK"
                )
            # nothing is taken before all is checked
            if ids is not None and self._identifiers is not None:
                self._identifiers.assign(ids)
            elif ids is not None:
                self._identifiers = Identifiers(ids)
            self._dim = vectors.shape[1]
            if self._vectors is None:  # of open shape, since the catalogue may grow under a graph that reads it
                self._vectors = tf.Variable(vectors, trainable=False, shape=[None, None])
            else:
                self._vectors.assign(vectors)
        return self

    def reset_state(self) -> None:
        """Count anew, and encode the candidates again where they are a dataset."""
        super().reset_state()
        if not _is_table(self.candidates):
            self._encode()

    def update_state(
        self,
        query_embeddings: tf.Tensor,
        true_candidate_embeddings: tf.Tensor,
        true_candidate_ids: tf.Tensor | None = None,
        sample_weight: tf.Tensor | None = None,
    ) -> None:
        """Count the rows whose positive is among the k best.

        Args:
            query_embeddings: [q, dim]; or [q, K, dim], where a score is the highest of a query's vectors.
            true_candidate_embeddings: Of each row's positive, [q, dim].
            true_candidate_ids: Of each row's positive, [q]; of the same kind as the candidates' identifiers.
            sample_weight: [q].

        Raises:
            ConfigError: There are no candidates yet, a shape does not fit, or ids are strings on one side and integers
                on the other.
        """
        if self._vectors is None:
            self._encode()
        q, dim = query_embeddings.shape[0], query_embeddings.shape[-1]
        require_shape("query_embeddings", query_embeddings, [None, self._dim], [None, None, self._dim])
        require_shape("true_candidate_embeddings", true_candidate_embeddings, [q, dim])
        require_shape("true_candidate_ids", true_candidate_ids, [q])
        require_shape("sample_weight", sample_weight, [q])
        queries = tf.stop_gradient(tf.cast(query_embeddings, tf.float32))
        if true_candidate_ids is not None and self._id_dtype is not None:
            ids = ids_of(true_candidate_ids)
            if ids.dtype != self._id_dtype:
                raise ConfigError(
                    f"true_candidate_ids are {_named(ids.dtype)}, and the candidates' identifiers {_named(self._id_dtype)};"
                    " expected the same ids"
                )
            ranks, found = self._ranks_by_id(queries, ids)
        else:
            positives = tf.stop_gradient(tf.cast(true_candidate_embeddings, tf.float32))
            ranks, found = self._ranks_by_score(queries, positives)
        hits = tf.cast(found[:, tf.newaxis] & (ranks[:, tf.newaxis] <= tf.constant(self.ks)), tf.float32)  # [q, ks]
        weights = tf.ones_like(ranks, tf.float32) if sample_weight is None else tf.cast(sample_weight, tf.float32)
        self._hits.assign_add(tf.reduce_sum(hits * weights[:, tf.newaxis], axis=0))
        self._weight.assign_add(tf.reduce_sum(weights))

    def result(self) -> dict[str, tf.Tensor]:
        """Return `<name>/hit_rate@<k>` for each k, scalars."""
        rates = tf.convert_to_tensor(self._hits) / tf.convert_to_tensor(self._weight)
        return {f"{self.name}/hit_rate@{k}": rates[index] for index, k in enumerate(self.ks)}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; of the candidates, the path of a table alone, and no batches where they are a dataset."""
        path = str(self.candidates) if isinstance(self.candidates, (str, Path)) else None
        # no batches, and not None: a loaded model would rank its own items in place of the dataset's
        return super().get_config() | {"candidates": path if self.needs_encoding else [], "ks": list(self.ks)}

    def _encode(self) -> None:
        if self.needs_encoding:
            raise ConfigError(
                f'the metric "{self.name}" has no vectors of candidates: '
                + (
                    "it was given none"
                    if self.candidates is None
                    else "it was given a table, which only a TwoTowerModel encodes"
                )
                + "; call encode_candidates() of the TwoTowerModel, or set_candidates(embeddings, identifiers), or assign a"
                " dataset of vectors to its candidates"
            )
        with tf.init_scope():  # the dataset is gone through now, not in the graph that is being traced
            batches = list(self.candidates)
            if not batches:
                raise ConfigError(
                    f'the metric "{self.name}" has an empty dataset of candidates (a dataset is not saved with a model); assign'
                    " one with at least one batch to its candidates"
                )
            if isinstance(batches[0], (tuple, list)):
                self.set_candidates(tf.concat([it[1] for it in batches], 0), tf.concat([it[0] for it in batches], 0))
            else:
                self.set_candidates(tf.concat(batches, 0))

    @property
    def _id_dtype(self) -> tf.DType | None:
        return None if self._identifiers is None else self._identifiers.dtype

    def _ranks_by_id(self, queries: tf.Tensor, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the rank of each row's positive, [q] int32, and whether it has one, [q] bool."""
        assert self._identifiers is not None, "there are ids"
        rows = self._identifiers.positions(ids)  # [q]
        # where the positive is none, the rank is of another candidate
        return ranks_of(queries, tf.convert_to_tensor(self._vectors), tf.maximum(rows, 0)), rows >= 0

    def _ranks_by_score(self, queries: tf.Tensor, positives: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return what `_ranks_by_id` does, for positives without an id."""
        nearest = nearest_interest(queries, positives)  # [q, dim]
        own = tf.reduce_sum(nearest * positives, axis=1)  # [q]
        tolerance = TOLERANCE * tf.norm(nearest, axis=1) * tf.norm(positives, axis=1)  # [q]
        tolerance = tf.maximum(tolerance, np.finfo(np.float32).tiny)  # so that the scores of zeros are tied, too
        vectors = tf.convert_to_tensor(self._vectors)  # [n, dim]
        below = counts_below(queries, vectors, tf.stack([own - tolerance, own + tolerance], axis=1))  # [q, 2]
        # what is neither lower nor higher is tied, and one of the tied is the positive itself
        ranks = tf.shape(vectors)[0] - tf.minimum(below[:, 0], below[:, 1] - 1)
        return ranks, ~tf.math.is_nan(own)


def _is_table(candidates: Any) -> bool:
    """Return whether the candidates hold no vectors: they are a table, the path of one, or not there."""
    in_memory = isinstance(candidates, (Mapping, Source, ArrowStream))
    pandas = type(candidates).__module__.partition(".")[0] == "pandas"
    return candidates is None or isinstance(candidates, (str, Path)) or in_memory or pandas


def _named(dtype: tf.DType | None) -> str:
    return "none" if dtype is None else "strings" if dtype == tf.string else "integers"
