"""Encoded values back to those that stand in the data, as far as their encoding can be undone."""

import numpy as np

from schemaflow.data.encode import Array
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema

__all__ = ["decode"]


def decode(schema: Schema, feature: Feature, values: Array) -> Array:
    """Return a feature's values as they stand in the data, of the same shape.

    Rows of a vocabulary become its values: those of missing and unknown ones become what stands for a missing one, "" or the
    least integer. Numbers lose their normalization, to the precision of float32; ages are in days. What is a row itself, a
    bucket, hashed, or part of a moment stays the row.

    Args:
        schema: Knows vocabularies and statistics.
        feature: Whose values they are.
        values: As `encode` gave them; of lists, those of all lists end to end.

    Example:
        >>> item = Feature(name="item", dtype="string", tags=["item", "id"], vocabulary=["a", "b"])
        >>> decode(Schema((item,)), item, np.array([4, 2])).tolist()
        ['b', '']
    """
    if feature.kind == "categorical":
        vocabulary = schema.vocabulary(feature.table)
        if vocabulary is None:
            return values
        reserved = schema.domains[feature.table].reserved
        known = np.append(vocabulary.to_numpy(zero_copy_only=False), missing_value(feature.dtype))
        there = (values >= reserved) & (values < reserved + len(vocabulary))
        return known[np.where(there, values - reserved, len(vocabulary))]
    if feature.kind != "continuous" or feature.normalize is None:
        return values
    numbers = values.astype(np.float64)
    if feature.normalize == "log1p":
        return np.expm1(numbers)
    it = schema.fitted.statistics[feature.name]
    shift, scale = (it.mean, it.std) if feature.normalize == "standard" else (it.minimum, it.maximum - it.minimum)
    return numbers * scale + shift
