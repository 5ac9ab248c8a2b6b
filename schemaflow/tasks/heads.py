"""What scores candidates anew in a second stage: logits from a query's features and the candidates' vectors."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.layers.mlp import MLPBlock

__all__ = ["AttentionHead", "Head", "MixtureHead"]


class Head(keras.layers.Layer):
    """Logits of candidates for the query's targets. All of it is float32, but what a user's block makes otherwise.

    Args:
        outputs: How many targets.
        **kwargs: Of `keras.layers.Layer`.
    """

    def __init__(self, outputs: int, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.outputs = outputs

    def call(
        self, query_inputs: tf.Tensor, candidates: tf.Tensor, scores: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the logits, [b, m, outputs] float32.

        Args:
            query_inputs: What the query tower's block was given, [b, width] float32.
            candidates: Items' vectors, [b, m, dim] float32.
            scores: What the retrieval scores them, [b, m] float32.
            training: Reaches blocks.
        """
        raise NotImplementedError


class AttentionHead(Head):
    """Several vectors of the query, of which each candidate chooses: `block([c, r, c * r, dots, score]) W + b`.

    `dots_n = r_n . c`, `r = sum_n softmax(dots)_n r_n`, with r_1 … r_N a linear map of the query's features.

    Args:
        block: Any Keras layer [rows, width] -> [rows, width].
        num_query_vectors: N.
        **kwargs: Of `Head`.
    """

    def __init__(self, block: keras.layers.Layer, num_query_vectors: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.block = block
        self.num_query_vectors = num_query_vectors
        # near the constant predictor at first: its early steps move little of what other tasks share
        small = keras.initializers.RandomNormal(stddev=0.01)
        self._last = keras.layers.Dense(self.outputs, kernel_initializer=small, dtype="float32")

    def build(self, query_inputs_shape: Any, candidates_shape: Any, scores_shape: Any) -> None:
        """Make the weights for features [b, width] and vectors [b, m, dim]."""
        dim, vectors = candidates_shape[-1], self.num_query_vectors
        self._vectors = keras.layers.Dense(vectors * dim, dtype="float32")
        self._vectors.build(query_inputs_shape)
        # a block of the user's may make its weights only when called, so it is called once
        self._last.build(self.block(tf.zeros((2, 3 * dim + vectors + 1), self.compute_dtype)).shape)
        self.built = True

    def call(
        self, query_inputs: tf.Tensor, candidates: tf.Tensor, scores: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the logits, [b, m, outputs] float32; the arguments are those of `Head.call`."""
        (b, m), dim = _sizes(candidates), candidates.shape[-1]
        vectors = tf.reshape(self._vectors(query_inputs), [b, self.num_query_vectors, dim])
        dots = tf.matmul(candidates, vectors, transpose_b=True)  # [b, m, N]
        attended = tf.matmul(tf.nn.softmax(dots), vectors)  # [b, m, dim]
        pair = [candidates, attended, candidates * attended, dots, scores[..., tf.newaxis]]
        pairs = tf.reshape(tf.concat(pair, axis=-1), [b * m, 3 * dim + self.num_query_vectors + 1])
        logits = self._last(tf.cast(self.block(pairs, training=training), tf.float32))
        return tf.reshape(logits, [b, m, self.outputs])


class MixtureHead(Head):
    """A mixture of elementary logits, gated by query and candidate: `sum_k pi_k(u, x) <f_k(u), g_k(x)> / temperature + b`.

    f has N vectors of length one and g has M, each of N M pairs is a k; the retrieval's score is one more logit. The gates
    are `pi = softmax_k(gate_u * gate_x + gate_ux)`, apart for each target, with gate_ux of the logits themselves.

    Args:
        num_query_vectors: N.
        num_item_vectors: M.
        dim: The width of f's and g's vectors.
        hidden: The width of the hidden layer of each of f, g and the gates.
        temperature: Of the elementary logits.
        **kwargs: Of `Head`.
    """

    def __init__(
        self,
        num_query_vectors: int,
        num_item_vectors: int,
        dim: int,
        hidden: int,
        temperature: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_query_vectors, self.num_item_vectors, self.dim = num_query_vectors, num_item_vectors, dim
        self.temperature = temperature
        self.count = num_query_vectors * num_item_vectors + 1
        gates = self.outputs * self.count
        self._query, self._item = (
            MLPBlock([hidden, vectors * dim], dtype="float32") for vectors in (num_query_vectors, num_item_vectors)
        )
        self._query_gate, self._item_gate, self._pair_gate = (
            MLPBlock([hidden, gates], dtype="float32") for _ in range(3)
        )

    def build(self, query_inputs_shape: Any, candidates_shape: Any, scores_shape: Any) -> None:
        """Make the weights for features [b, width] and vectors [b, m, dim]."""
        for layer in (self._query, self._query_gate):
            layer.build(query_inputs_shape)
        for layer in (self._item, self._item_gate):
            layer.build(candidates_shape)
        self._pair_gate.build((*candidates_shape[:-1], self.count))
        self._bias = self.add_weight(name="bias", shape=(self.outputs,), initializer="zeros", dtype="float32")
        self.built = True

    def call(
        self, query_inputs: tf.Tensor, candidates: tf.Tensor, scores: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Return the logits, [b, m, outputs] float32; the arguments are those of `Head.call`."""
        b, m = _sizes(candidates)
        query = tf.reshape(self._query(query_inputs), [b, 1, self.num_query_vectors, self.dim])
        item = tf.reshape(self._item(candidates), [b, m, self.num_item_vectors, self.dim])
        query, item = tf.math.l2_normalize(query, axis=-1), tf.math.l2_normalize(item, axis=-1)
        cosines = tf.reshape(tf.matmul(query, item, transpose_b=True), [b, m, self.count - 1])
        logits = tf.concat([cosines / self.temperature, scores[..., tf.newaxis]], axis=-1)  # [b, m, K]
        of_query = self._query_gate(query_inputs)[:, tf.newaxis]  # [b, 1, T K]
        gates = of_query * self._item_gate(candidates) + self._pair_gate(logits)  # [b, m, T K]
        shares = tf.nn.softmax(tf.reshape(gates, [b, m, self.outputs, self.count]))
        return tf.linalg.matvec(shares, logits) + self._bias


def _sizes(candidates: tf.Tensor) -> Sequence[Any]:
    """Return b and m of candidates [b, m, dim], as numbers where they are known."""
    known, found = candidates.shape[:2], tf.shape(candidates)
    return [found[axis] if known[axis] is None else known[axis] for axis in (0, 1)]
