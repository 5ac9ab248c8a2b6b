"""An embedding table that keeps far fewer rows than it gives."""

from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import ConfigError
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.seeds import fresh_initializer
from schemaflow.layers.table import Table
from schemaflow.registry import register

__all__ = ["OPERATIONS", "QuotientRemainderTable"]

OPERATIONS = ("product", "sum")
"""Ways to make one row of two, number by number."""


@register("layer", "quotient-remainder-table")
@keras.saving.register_keras_serializable("schemaflow")
class QuotientRemainderTable(Table):
    """Rows made of two smaller tables' rows: `e(i) = Q[(i - s) div m] * R[s + (i - s) mod m]`, or their sum.

    No two values have the same pair, so each has a row that no other has, of `m + ceil((rows - s) / m)` rows kept instead
    of `rows`. The s reserved rows at the head are rows of R of their own, which no value shares. Under the product, Q
    begins as standard normal numbers, so that rows begin in the deviation of R and apart from each other.

    Args:
        rows: Rows that it gives.
        dim: Width of a row.
        remainders: m, how many values share a row of Q; the rows of R.
        operation: "product" or "sum", number by number.
        reserved: s, how many rows at the head are no values.
        initializer: Of R, and under the sum of Q: as an `EmbeddingTable` takes it.
        **kwargs: Of `keras.layers.Layer`; `trainable=False` leaves the tables as they are.

    Raises:
        ConfigError: A number is out of range, as many rows would be kept as without, or the operation is unknown.

    Source:
        Shi et al., "Compositional embeddings using complementary partitions for memory-efficient recommendation systems",
        KDD 2020, which found the product to lose the least. https://arxiv.org/abs/1909.02107

    Example:
        >>> table = QuotientRemainderTable(rows=13, dim=2, remainders=4, reserved=1, initializer="ones", operation="sum")
        >>> table(tf.constant([0, 1, 12])).numpy().tolist()
        [[1.0, 1.0], [2.0, 2.0], [2.0, 2.0]]
        >>> table.kept
        8
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        remainders: int,
        operation: str = "product",
        reserved: int = 0,
        initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if operation not in OPERATIONS:
            raise ConfigError(f"operation is {operation!r}; expected one of {', '.join(OPERATIONS)}")
        if remainders < 1 or not 0 <= reserved < rows:
            raise ConfigError(
                f"a table of {rows} rows, {reserved} of them reserved, and {remainders} remainders was asked for; expected"
                " values beside the reserved rows, and at least 1 remainder"
            )
        self.rows, self.dim, self.remainders, self.operation, self.reserved = rows, dim, remainders, operation, reserved
        quotients = -(-(rows - reserved) // remainders)
        self.kept = reserved + remainders + quotients
        if self.kept >= rows:
            raise ConfigError(
                f"{remainders} remainders keep {self.kept} rows of a table of {rows}, which saves nothing; ask for another"
                " number, such as an eighth of its values, or do not compress it"
            )
        self.padding = reserved > 0
        self.initializer = initializer
        of: dict[str, Any] = {"padding": False, "dtype": self.dtype_policy, "trainable": self.trainable}
        apart = keras.initializers.RandomNormal(stddev=1.0) if operation == "product" else initializer
        again = None if apart is None else fresh_initializer(apart, reserved + remainders)
        self.of_quotients = EmbeddingTable(quotients, dim, again, name=f"{self.name}_quotients", **of)
        self.of_remainders = EmbeddingTable(
            reserved + remainders, dim, initializer, name=f"{self.name}_remainders", **of
        )
        self.built = True

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the rows of ids, [..., dim] in the tables' dtype."""
        ids = tf.convert_to_tensor(ids)
        value = ids - self.reserved
        is_value = value >= 0
        of_quotients = self.of_quotients.lookup(tf.maximum(value, 0) // self.remainders)
        of_remainders = self.of_remainders.lookup(tf.where(is_value, self.reserved + value % self.remainders, ids))
        both = of_quotients * of_remainders if self.operation == "product" else of_quotients + of_remainders
        return tf.where(is_value[..., tf.newaxis], both, of_remainders) if self.reserved else both

    def parts(self) -> tuple[EmbeddingTable, ...]:
        """Return the tables that keep its rows, of quotients and of remainders."""
        return self.of_quotients, self.of_remainders

    def put(self, rows: Any, values: tf.Tensor) -> None:
        """Give reserved rows values, [n, dim]; a value's row is made of others' and cannot be set."""
        self.of_remainders.put(rows, values)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        names = ("rows", "dim", "remainders", "operation", "reserved")
        given = None if self.initializer is None else keras.initializers.serialize(self.of_remainders.initializer)
        return super().get_config() | {name: getattr(self, name) for name in names} | {"initializer": given}
