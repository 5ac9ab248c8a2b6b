"""A second stage that mixes dot products by gates of the pair."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.layers.mlp import MLPBlock
from schemaflow.registry import register
from schemaflow.tasks.heads import Head, sizes_of
from schemaflow.tasks.ranker import Ranker

__all__ = ["MixtureHead", "MixtureOfLogits"]


@register("task", "mixture-of-logits")
@keras.saving.register_keras_serializable("schemaflow")
class MixtureOfLogits(Ranker):
    """A second stage that mixes dot products by gates of the pair: `p = sigmoid(sum_k pi_k(u, x) <f_k(u), g_k(x)> / temperature + b)`.

    f and g give several vectors of length one each, of what the query tower's block is given and of the item's vector; every
    pair of them is a k, and the retrieval's score is one more. The gates, apart for each target, are
    `pi = softmax_k(gate(u) * gate(x) + gate(logits))`. A mixture is of higher rank than any one dot product. It is trained and
    served as `LightRanker` is.

    Args:
        targets: As of `LightRanker`; so are the other arguments that are not named here.
        num_query_vectors: Vectors of a query.
        num_item_vectors: Vectors of an item.
        dim: Their width.
        hidden: The width of the hidden layer of f, of g and of each gate.
        temperature: The dot products, which are cosines, are divided by it: 0.2 allows log odds from -5 to 5.
        teacher: As of `LightRanker`.
        hard: Likewise.
        random: Likewise.
        num_retrieved: Likewise.
        train_towers: Likewise.
        train_score: Likewise.
        probabilities: Likewise.
        loss_weight: Likewise.
        name: Likewise.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these.

    Source:
        Zhai et al., "Revisiting neural retrieval on accelerators", KDD 2023. https://doi.org/10.1145/3580305.3599897
        There the mixture is the retrieval's own similarity and is trained by a sampled softmax; here it ranks what a dot
        product retrieved (the paper's h-indexer), and is trained on the targets.

    Example:
        >>> MixtureOfLogits("click")(tf.zeros((3, 5)), tf.zeros((3, 4)), tf.zeros((3, 7, 4))).shape.as_list()
        [3, 7, 1]
    """

    def __init__(
        self,
        targets: str | Sequence[str] | None = None,
        num_query_vectors: int = 4,
        num_item_vectors: int = 4,
        dim: int = 16,
        *,
        hidden: int = 64,
        temperature: float = 0.2,
        teacher: Any = None,
        hard: int = 0,
        random: int = 32,
        num_retrieved: int = 100,
        train_towers: bool = False,
        train_score: bool = False,
        probabilities: bool = False,
        loss_weight: float = 1.0,
        name: str = "mixture_of_logits",
        **kwargs: Any,
    ) -> None:
        counts = {
            "num_query_vectors": num_query_vectors,
            "num_item_vectors": num_item_vectors,
            "dim": dim,
            "hidden": hidden,
        }
        for argument, count in counts.items():
            check_count(argument, count)
        if not isinstance(temperature, Real) or isinstance(temperature, bool) or not 0 < temperature < float("inf"):
            raise ConfigError(f"the temperature is {temperature!r}; expected a number above 0")
        super().__init__(
            self._head_of,
            targets,
            teacher,
            hard,
            random,
            num_retrieved,
            train_towers,
            train_score,
            probabilities,
            loss_weight,
            name,
            **kwargs,
        )
        self.sizes: dict[str, int] = {key: int(size) for key, size in counts.items()}
        self.temperature: float = float(temperature)

    def _head_of(self, outputs: int) -> Head:
        return MixtureHead(**self.sizes, temperature=self.temperature, outputs=outputs, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the targets that a schema gave."""
        return super().get_config() | self.sizes | {"temperature": self.temperature}


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
        b, m = sizes_of(candidates)
        query = tf.reshape(self._query(query_inputs), [b, 1, self.num_query_vectors, self.dim])
        item = tf.reshape(self._item(candidates), [b, m, self.num_item_vectors, self.dim])
        query, item = tf.math.l2_normalize(query, axis=-1), tf.math.l2_normalize(item, axis=-1)
        cosines = tf.reshape(tf.matmul(query, item, transpose_b=True), [b, m, self.count - 1])
        logits = tf.concat([cosines / self.temperature, scores[..., tf.newaxis]], axis=-1)  # [b, m, K]
        of_query = self._query_gate(query_inputs)[:, tf.newaxis]  # [b, 1, T K]
        gates = of_query * self._item_gate(candidates) + self._pair_gate(logits)  # [b, m, T K]
        shares = tf.nn.softmax(tf.reshape(gates, [b, m, self.outputs, self.count]))
        return tf.linalg.matvec(shares, logits) + self._bias
