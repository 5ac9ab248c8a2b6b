"""A second stage of several query vectors, of which each candidate chooses."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from schemaflow.counts import check_count
from schemaflow.errors import ConfigError
from schemaflow.layers.mlp import MLPBlock
from schemaflow.registry import register
from schemaflow.tasks.heads import Head, sizes_of
from schemaflow.tasks.ranker import Ranker

__all__ = ["AttentionHead", "LightRanker"]


@register("task", "light-ranker")
@keras.saving.register_keras_serializable("schemaflow")
class LightRanker(Ranker):
    """A second stage of several query vectors, of which each candidate chooses: `p = sigmoid(block([c, r, c * r, d, s]) W + b)`.

    `d_n = r_n . c`, `r = sum_n softmax(d)_n r_n` for a candidate's vector c; the r_n are a linear map of what the query
    tower's block is given, and s is the retrieval's score. What is served goes through two stages: the index fetches
    `num_retrieved` items, and the best of them by `score = sum_t value_t p_t` come back.

    The loss is a mean of binary cross-entropies over the batch's rows, plus one over items that the row was not shown, whose
    labels are a teacher's probabilities or else 0. Trained on impressions alone, a ranker has not seen most of what it is
    to rank, and ranks worse than the index does: construction warns.

    Args:
        targets: The features to predict, tagged binary, with labels 0 and 1; all that have a `value` if None. A target
            without one counts for nothing in the score beside others that have one.
        block: Any Keras layer [rows, width] -> [rows, width]; `MLPBlock([64], final_activation="relu")` if None.
        num_query_vectors: How many r_n.
        teacher: What is learned in place of labels, a probability of each pair: a function or `Scorer`; or the name of a
            feature tagged teacher, which knows of the rows' own items alone; or several by the names of their targets. Where
            it says NaN, a row keeps its label, and an item that was not shown takes no part.
        hard: With so many of the nearest items each row is compared, as they were when the epoch began.
        random: And with so many items at random. The row's own item and known positives get no label 0.
        num_retrieved: How many items the index fetches for the ranker.
        train_towers: Whether the loss trains the towers too; else vectors and features are taken without their gradient. It
            moves the vectors of items that nobody chose, which the retrieval holds in place only where samplers bring them.
        train_score: Whether it does so through s; a gradient there would bend the retrieval's scores to be odds.
        probabilities: The teachers give probabilities, from 0 to 1; else log odds.
        loss_weight: The loss counts this many times in the model's.
        name: The key of the score in `predict`, and the head of the names of metrics, `<name>/<target>/auc`, and of
            probabilities, `<name>/<target>`.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none of these.

    Example:
        >>> ranker = LightRanker(["click", "purchase"], num_query_vectors=2)
        >>> ranker(tf.zeros((3, 5)), tf.zeros((3, 4)), tf.zeros((3, 7, 4))).shape.as_list()
        [3, 7, 2]
    """

    def __init__(
        self,
        targets: str | Sequence[str] | None = None,
        block: keras.layers.Layer | None = None,
        num_query_vectors: int = 4,
        *,
        teacher: Any = None,
        hard: int = 0,
        random: int = 32,
        num_retrieved: int = 100,
        train_towers: bool = False,
        train_score: bool = False,
        probabilities: bool = False,
        loss_weight: float = 1.0,
        name: str = "light_ranker",
        **kwargs: Any,
    ) -> None:
        if block is not None and not isinstance(block, keras.layers.Layer):
            raise ConfigError(f"block is {block!r}; expected a Keras layer, such as MLPBlock([64])")
        check_count("num_query_vectors", num_query_vectors)
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
        self.block = block
        self.num_query_vectors = int(num_query_vectors)

    def _head_of(self, outputs: int) -> Head:
        block = MLPBlock([64], final_activation="relu", dtype=self.dtype_policy) if self.block is None else self.block
        return AttentionHead(block, self.num_query_vectors, outputs=outputs, dtype=self.dtype_policy)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the targets that a schema gave."""
        return super().get_config() | {
            "block": None if self.block is None else keras.saving.serialize_keras_object(self.block),
            "num_query_vectors": self.num_query_vectors,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Ranker:
        """Make the ranker of `get_config`."""
        return super().from_config(config | {"block": keras.saving.deserialize_keras_object(config["block"])})


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
        (b, m), dim = sizes_of(candidates), candidates.shape[-1]
        vectors = tf.reshape(self._vectors(query_inputs), [b, self.num_query_vectors, dim])
        dots = tf.matmul(candidates, vectors, transpose_b=True)  # [b, m, N]
        attended = tf.matmul(tf.nn.softmax(dots), vectors)  # [b, m, dim]
        pair = [candidates, attended, candidates * attended, dots, scores[..., tf.newaxis]]
        pairs = tf.reshape(tf.concat(pair, axis=-1), [b * m, 3 * dim + self.num_query_vectors + 1])
        logits = self._last(tf.cast(self.block(pairs, training=training), tf.float32))
        return tf.reshape(logits, [b, m, self.outputs])
