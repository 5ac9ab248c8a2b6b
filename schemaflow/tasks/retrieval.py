"""The retrieval task: pick the positive among the candidates."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.logits import accidental_hits, corrected_logits
from schemaflow.losses import Loss, check_loss_weight, weighted_mean
from schemaflow.registry import lookup, register

__all__ = ["RetrievalTask"]


@register("task", "retrieval")
@keras.saving.register_keras_serializable("schemaflow")
class RetrievalTask(keras.layers.Layer):
    """A loss on query and candidate vectors: `mean_i loss(q_i . c_j / temperature - log p_j)`, the positive of row i in column i.

    Used alone, candidates are taken as given: column j is corrected when it comes with a sampling probability, and an
    accidental hit (row i's own positive in another column) is dropped when ids are given.

    Args:
        loss: The name of a registered loss; `categorical_crossentropy` if None.
        temperature: The scores are divided by it; 1 if None.
        loss_weight: The loss counts this many times in the model's.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: There is no such loss, or the temperature is not above 0.

    Source:
        The arguments are those of TensorFlow Recommenders' Retrieval task; the loss here is a mean, not a sum.

    Example:
        >>> task = RetrievalTask()
        >>> round(float(task(tf.zeros((2, 4)), tf.zeros((2, 4)))), 4)
        0.6931
    """

    def __init__(
        self, loss: str | None = None, temperature: float | None = None, loss_weight: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # small probabilities do not fit half precision
        if temperature is not None and not (isinstance(temperature, (int, float)) and temperature > 0):
            raise ConfigError(f"the temperature is {temperature!r}; expected a number above 0")
        self.loss = loss
        self.temperature = temperature
        self.loss_weight = check_loss_weight(loss_weight)
        self._loss: Loss = lookup("loss", "categorical_crossentropy" if loss is None else loss)
        self.built = True

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        candidate_sampling_probability: tf.Tensor | None = None,
        candidate_ids: tf.Tensor | None = None,
        score_mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Return the loss, a scalar float32.

        Args:
            query_embeddings: [q, dim].
            candidate_embeddings: [c, dim], c >= q; row i is query i's positive, the rows beyond q are negatives of all.
            sample_weight: [q]; the loss is `sum w l / sum w`.
            candidate_sampling_probability: [c], above 0.
            candidate_ids: [c], of any dtype that can be compared.
            score_mask: True where a candidate takes part, broadcast against [q, c]; a positive always does.
        """
        queries, candidates = tf.shape(query_embeddings)[0], tf.shape(candidate_embeddings)[0]
        scores = tf.matmul(query_embeddings, candidate_embeddings, transpose_b=True)  # [q, c]
        log_q = None if candidate_sampling_probability is None else tf.math.log(candidate_sampling_probability)
        dropped = None
        if candidate_ids is not None:
            dropped = accidental_hits(candidate_ids[:queries], candidate_ids)
        if score_mask is not None:
            masked = ~tf.broadcast_to(score_mask, tf.shape(scores)) & ~tf.eye(queries, candidates, dtype=tf.bool)
            dropped = masked if dropped is None else dropped | masked
        logits = corrected_logits(scores, 1.0 if self.temperature is None else self.temperature, log_q, dropped)
        return weighted_mean(self._loss(logits, tf.range(queries)), sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return super().get_config() | {
            "loss": self.loss,
            "temperature": self.temperature,
            "loss_weight": self.loss_weight,
        }
