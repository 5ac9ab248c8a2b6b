"""Ridge regression, with the penalty that the data ask for."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ridge"]

Array = npt.NDArray[Any]

PENALTIES = np.logspace(-4, 3, 15)
"""What the ridge regression chooses its penalty from, for each row that it learns from."""


def ridge(inputs: Array, outputs: Array, queries: Array) -> Array:
    """Return what a ridge regression from inputs to outputs predicts for queries, [q, dim].

    `min_W |Y - X W|^2 + n a |W|^2` with X and Y around their means and X in units of its deviations. The penalty a is the
    one with the least generalized cross-validation error, `|Y - Y'|^2 / (n - df)^2`: inputs that say nothing of the
    outputs get a heavy one, and the prediction is the mean.

    Args:
        inputs: X, [n, width], n >= 2.
        outputs: Y, [n, dim].
        queries: [q, width].

    Source:
        Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter",
        Technometrics 1979.

    Example:
        >>> x = np.arange(9.0)[:, np.newaxis]
        >>> ridge(x, 3 * x + 1, np.array([[20.0]])).round(2).tolist()
        [[61.0]]
    """
    mean, scale, middle = inputs.mean(axis=0), inputs.std(axis=0), outputs.mean(axis=0)
    scale = np.where(scale > 1e-9 * np.abs(mean) + 1e-12, scale, np.inf)  # what is the same everywhere says nothing
    x, y = (inputs - mean) / scale, (outputs - middle).astype(np.float64)
    n = len(x)
    squares, axes = np.linalg.eigh(x.T @ x)  # [width], [width, width]
    squares = np.maximum(squares, 0.0)
    along = axes.T @ (x.T @ y)  # [width, dim]
    energy = (along**2).sum(axis=1)  # [width]
    errors = []
    for penalty in n * PENALTIES:
        shrunk = squares + penalty
        residual = (y**2).sum() - (energy * (squares + 2 * penalty) / shrunk**2).sum()
        errors.append(max(residual, 0.0) / (n - 1 - (squares / shrunk).sum()) ** 2)
    penalty = n * PENALTIES[int(np.argmin(errors))]
    weights = axes @ (along / (squares + penalty)[:, np.newaxis])  # [width, dim]
    predicted: Array = middle + (queries - mean) / scale @ weights
    return predicted
