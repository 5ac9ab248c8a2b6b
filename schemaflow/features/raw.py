"""Raw values, checked one by one, and raw tensors of whole columns: what the exported signatures take."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.schema.columns import Column, missing_value
from schemaflow.schema.feature import Feature

__all__ = ["raw_tensor", "raw_value"]


def raw_value(feature: Feature, value: Any) -> Any:
    """Return one value that is not missing as Python has it: a string, an integer or a float.

    Raises:
        TypeError: It is of another type than the feature's.
        ValueError: It is beyond the range of the feature's dtype, or no Unicode text.

    Example:
        >>> year = Feature(name="year", dtype="int32", tags=["item", "filter"])
        >>> raw_value(year, np.int64(1990)), raw_value(year, True)
        (1990, 1)
    """
    value = value.item() if isinstance(value, np.generic) else value
    expected: Any = (str, bytes) if feature.dtype == "string" else (int, float) if feature.dtype[0] == "f" else int
    value = int(value) if isinstance(value, bool) and expected is int else value  # as in columns of booleans
    if isinstance(value, bool) or not isinstance(value, expected):
        raise TypeError(f"{value!r} is {type(value).__name__}")
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text: a ValueError
    if expected is int:
        limits = np.iinfo(feature.dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{value} is beyond its range")
    if feature.dtype[0] == "f" and isinstance(value, int) and abs(value) >= 2**1024:
        raise ValueError("it is beyond what a float holds")
    return value


def raw_tensor(feature: Feature, column: Column) -> tf.Tensor:
    """Return a column as a raw tensor: [rows], [rows, longest] for a list, [rows, dim] for a dense vector.

    Args:
        feature: Whose column it is.
        column: Its values, texts whole; what is missing, and what fills a list, is what stands for missing.
    """
    dtype, missing = tf.as_dtype(feature.tensor_dtype), missing_value(feature.dtype)
    values = column.values.fill_null(missing).to_numpy(zero_copy_only=False)
    if dtype != tf.string:
        values = values.astype(dtype.as_numpy_dtype)
    if column.splits is None:
        return tf.constant(values, dtype)
    if feature.kind == "vector" and feature.embedding is not None:
        dim, lengths = int(feature.embedding.dim or 0), np.diff(column.splits)
        vectors = np.full((len(lengths), dim), math.nan, dtype.as_numpy_dtype)
        vectors[lengths > 0] = values.reshape(-1, dim)
        return tf.constant(vectors, dtype)
    return tf.RaggedTensor.from_row_splits(tf.constant(values, dtype), column.splits).to_tensor(missing)
