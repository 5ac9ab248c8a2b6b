"""What indices outside TensorFlow share: the import that fails, the graph that they cannot be in, what they search in."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.index.base import Index

__all__ = ["Made", "eager_only", "missing"]


def missing(name: str, reason: Exception, remedy: str) -> ConfigError:
    """Return the error of an optional library that cannot be imported, for whatever reason."""
    said = " ".join(str(reason).split())[:120]
    return ConfigError(f"{name} cannot be imported ({type(reason).__name__}: {said}); {remedy}")


def eager_only(index: Index) -> None:
    """Refuse to be part of a graph.

    Raises:
        ConfigError: A graph is being made, as for a bundle.
    """
    if not tf.executing_eagerly():
        raise ConfigError(
            f"{type(index).__name__} searches outside TensorFlow: it cannot be in a tf.function, a SavedModel or a bundle;"
            " call it eagerly, or use IVF, which is all TensorFlow"
        )


class Made:
    """A library's own index: of the candidates as they are, and of their directions once it is asked for.

    Args:
        make: Makes it of vectors, a NumPy array [n, dim] float32.
        plain: That of the candidates as they are.
    """

    def __init__(self, make: Callable[[Any], Any], plain: Any) -> None:
        self._make, self.plain = make, plain
        self._directions: Any = None

    def of(self, candidates: Any, scale: tf.Tensor | None) -> Any:
        """Return the one to search in.

        Args:
            candidates: [n, dim] float32.
            scale: What each of them is multiplied by, [n] float32: one over its length; None as they are.
        """
        if scale is None:
            return self.plain
        if self._directions is None:
            self._directions = self._make((candidates * scale[:, tf.newaxis]).numpy())
        return self._directions
