"""What scores candidates anew in a second stage: logits from a query's features and the candidates' vectors."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = ["Head", "sizes_of"]


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


def sizes_of(candidates: tf.Tensor) -> Sequence[Any]:
    """Return b and m of candidates [b, m, dim], as numbers where they are known."""
    known, found = candidates.shape[:2], tf.shape(candidates)
    return [found[axis] if known[axis] is None else known[axis] for axis in (0, 1)]
