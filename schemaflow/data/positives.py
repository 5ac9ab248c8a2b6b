"""Which interactions are positives: those that are no explicit negatives and are worth something."""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from schemaflow.data.encode import Columns
from schemaflow.schema.feature import Feature
from schemaflow.schema.sides import Sides

__all__ = ["are_positives", "telling"]


def telling(sides: Sides, columns: Collection[str] | None = None) -> list[Feature]:
    """Return the features that tell whether an interaction is a positive.

    Args:
        sides: Of the schema.
        columns: Of the table; features whose column it lacks are left out. All features if None.
    """
    marks = () if sides.explicit_negative is None else (sides.explicit_negative,)
    return [it for it in (*marks, *sides.valued) if columns is None or it.source in columns]


def are_positives(sides: Sides, columns: Columns, rows: int) -> npt.NDArray[np.bool_]:
    """Return which rows are positives, [rows] bool: `mark = 0 and sum_t value_t label_t > 0`, as far as columns are there.

    Args:
        sides: Of the schema.
        columns: Of the features that `telling` names.
        rows: How many there are.

    Example:
        >>> from schemaflow.schema import Feature
        >>> item = Feature(name="item", dtype="int64", tags=["item", "id"], cardinality=9)
        >>> bought, returned = (Feature(name=it, dtype="int8", tags=["target"], value=v) for it, v in (("b", 1), ("r", -1)))
        >>> sides = Sides((), (item,), item, valued=(bought, returned))
        >>> are_positives(sides, {"b": np.array([1, 1, 0]), "r": np.array([0, 1, 0])}, 3).tolist()
        [True, False, False]
    """
    kept = np.ones(rows, bool)
    if sides.explicit_negative is not None and sides.explicit_negative.name in columns:
        kept &= np.asarray(columns[sides.explicit_negative.name]) == 0
    worth = [
        it.value * np.asarray(columns[it.name], np.float64)
        for it in sides.valued
        if it.value is not None and it.name in columns
    ]
    if worth:
        kept &= np.sum(worth, axis=0) > 0
    return kept
