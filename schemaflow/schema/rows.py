"""Values to rows of their table, outside the graph; `features.encoders` does the same inside it."""

from typing import TYPE_CHECKING, Any

from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import MISSING, OUT_OF_VOCABULARY
from schemaflow.schema.hashing import hash_buckets

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["rows_in"]


def rows_in(domain: Domain, vocabulary: "pa.Array | None", values: "pa.Array") -> "npt.NDArray[Any]":
    """Return the table rows of values, [n] int64: 1 where missing; where values are rows themselves, the values.

    Args:
        domain: Says how values become rows: by a vocabulary, a hash, or as they are (then none is missing).
        vocabulary: The values in the order of their rows, of which the first is row `domain.reserved`; None without one.
        values: Of the same type, or codes of such values, of which none is null itself, [n].
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(values.type):
        distinct = np.append(rows_in(domain, vocabulary, values.dictionary), MISSING)
        codes = values.indices.cast(pa.int64())  # narrow ones have no room for one more
        return distinct.take(pc.fill_null(codes, len(distinct) - 1).to_numpy())
    if domain.encoding == "range":
        return values.to_numpy()
    missing = values.is_null().to_numpy(zero_copy_only=False)
    if vocabulary is None:
        rows = np.full(len(values), MISSING, np.int64)
        rows[~missing] = domain.reserved + hash_buckets(values.drop_null(), domain.buckets)
        return rows
    found = pc.index_in(values.cast(vocabulary.type), value_set=vocabulary)
    rows = pc.fill_null(found, 0).to_numpy().astype(np.int64) + domain.reserved
    if not found.null_count:
        return rows
    unknown = found.is_null().to_numpy(zero_copy_only=False) & ~missing
    rows[missing] = MISSING
    rows[unknown] = OUT_OF_VOCABULARY
    if domain.oov_rows > 1 and unknown.any():
        rows[unknown] += hash_buckets(values.filter(unknown), domain.oov_rows)
    return rows
