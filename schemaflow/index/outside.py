"""What indices outside TensorFlow share: the import that fails, and the graph that they cannot be in."""

import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.index.base import Index

__all__ = ["eager_only", "missing"]


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
