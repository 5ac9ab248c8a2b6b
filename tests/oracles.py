"""Definitions in NumPy, to compare with."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def ranks_of(scores: Array, rows: Array, columns: Array) -> Array:
    """Return the rank of each positive in its row: all that is not scored lower, itself included; a NaN never is.

    Args:
        scores: [q, c]; -inf where a candidate does not take part.
        rows: The row of each positive, [p].
        columns: Its column, [p].
    """
    own = scores[rows, columns][:, np.newaxis]
    return scores.shape[1] - (scores[rows] < own).sum(axis=1)
