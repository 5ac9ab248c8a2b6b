"""A number on its way into the model, before it becomes float32."""

from typing import TYPE_CHECKING, Any

from schemaflow.schema.columns import Column
from schemaflow.schema.feature import DAY, Feature
from schemaflow.schema.fitted import Statistics

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["normalized", "numbers_of"]


def numbers_of(feature: Feature, statistics: Statistics | None, column: Column) -> "npt.NDArray[Any]":
    """Return the numbers that enter the model, [n] float64, before they are normalised; NaN where missing.

    Args:
        feature: Whose numbers.
        statistics: What was learned of them, where the feature learns anything.
        column: The values as they stand; of moments, the numbers are ages in days.
    """
    import numpy as np

    if feature.time is not None and feature.is_age:
        assert statistics is not None, "ages are learned"
        values = (statistics.newest - column.values.fill_null(0).to_numpy()) / DAY[feature.time.unit]
    else:
        values = column.values.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    if not column.values.null_count:
        return values
    stand_in = np.nan if feature.stand_in is None else float(feature.stand_in)
    if feature.missing == "mean" and statistics is not None:
        stand_in = statistics.mean
    return np.where(column.missing, stand_in, values)


def normalized(feature: Feature, statistics: Statistics | None, numbers: "npt.NDArray[Any]") -> "npt.NDArray[Any]":
    """Return numbers as the feature says: as they are, `log(1 + x)`, or shifted and scaled by what was learned, [n] float64."""
    import numpy as np

    if feature.normalize is None:
        return numbers
    if feature.normalize == "log1p":
        return np.log1p(numbers)
    assert statistics is not None, "a range and a deviation are learned"
    it = statistics
    shift, scale = (it.mean, it.std) if feature.normalize == "standard" else (it.minimum, it.maximum - it.minimum)
    return (numbers - shift) / scale
