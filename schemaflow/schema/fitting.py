"""Learn from tables what a schema leaves open."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError, SchemaError
from schemaflow.schema.columns import Column, read_column, rows_in
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import RESERVED_ROWS, Feature
from schemaflow.schema.fitted import Fitted, Statistics
from schemaflow.schema.sources import Source
from schemaflow.schema.tags import Tags

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["fit"]

_CONTEXT = frozenset({Tags.USER, Tags.CONTEXT, Tags.SESSION, Tags.TIME})


def fit(
    features: Sequence[Feature], domains: Mapping[str, Domain], sources: Sequence[Source], side_tables: Sequence[Source]
) -> Fitted:
    """Return what the features' columns hold, by one pass over each source.

    Values get their rows by falling number of occurrences, ties by value. Ids are counted in the interactions: sources,
    not side tables, that hold the item id and the user id (or, where the schema has none, a context or a time).

    Args:
        features: Of the schema.
        domains: Of the schema.
        sources: Interactions, and other tables in memory.
        side_tables: Tables with one row for each user or item, whose ids are not interactions.

    Raises:
        DataError: A column that is needed is in no source, or does not fit its feature.
        SchemaError: A vocabulary needs more rows than its cardinality.
    """
    ids = [it for it in features if it.has(Tags.ID) and it.kind == "categorical" and it.list is None]
    learned = [it for it in features if it.kind == "categorical" and domains[it.table].learned]
    normalized = [it for it in features if it.normalize is not None]
    wanted = [it for it in features if it in learned or it in normalized or it in ids]
    everything = [*sources, *side_tables]
    problems = [
        f'feature "{it.name}" is to be learned, but its column "{it.source}" is in none of '
        + ", ".join(source.name for source in everything)
        for it in features
        if (it in learned or it in normalized) and not any(it.source in source.columns for source in everything)
    ]
    if problems:
        raise DataError(*problems)
    values: dict[str, _Counter] = {}
    moments: dict[str, _Moments] = {}
    counts: dict[str, _Counter] = {}
    for source in everything:
        present = [it for it in wanted if it.source in source.columns]
        first_here = {it.name for it in normalized if it.name not in moments}  # one table is enough for a mean
        counted = ids if source in sources and _holds_interactions(source, features, ids) else []
        for piece in source.pieces(list(dict.fromkeys(it.source for it in present))) if present else ():
            for feature in present:
                column = read_column(feature, piece)
                if feature in ids and domains[feature.table].encoding == "range":
                    _refuse_outside(feature, domains[feature.table], column)
                if feature in learned:
                    values.setdefault(feature.table, _Counter()).add(column)
                if feature in counted:
                    counts.setdefault(feature.table, _Counter()).add(column)
                if feature in normalized and feature.name in first_here:
                    moments.setdefault(feature.name, _Moments()).add(column)
    vocabularies = {name: _vocabulary(domains[name], counter) for name, counter in values.items()}
    return Fitted(
        vocabularies,
        {name: it.statistics(name) for name, it in moments.items()},
        {
            name: _row_counts(domains[name], vocabularies.get(name, domains[name].inline_values()), counter)
            for name, counter in counts.items()
        },
    )


def _holds_interactions(source: Source, features: Sequence[Feature], ids: Sequence[Feature]) -> bool:
    items = [it for it in ids if it.has(Tags.ITEM)]
    users = [it for it in ids if it.has(Tags.USER)]
    others = users or [it for it in features if frozenset(it.tags) & _CONTEXT]
    return all(any(it.source in source.columns for it in group) for group in (items, others))


@dataclass
class _Counter:
    """Occurrences of each value, gathered piece by piece."""

    tables: list["pa.Table"] = field(default_factory=list)

    def add(self, column: Column) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.value_counts(column.values)
        self.tables.append(pa.table({"value": found.field("values"), "count": found.field("counts")}))
        if len(self.tables) > 32:
            self.tables = [self.total()]

    def total(self) -> "pa.Table":
        import pyarrow as pa

        merged = pa.concat_tables(self.tables).group_by("value").aggregate([("count", "sum")])
        return pa.table({"value": merged["value"], "count": merged["count_sum"]})


@dataclass
class _Moments:
    """Count, mean and squared deviation, merged piece by piece (Chan, Golub & LeVeque 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, column: Column) -> None:
        import pyarrow.compute as pc

        array = column.values.drop_null().cast("float64").to_numpy()
        if not len(array):
            return
        if not pc.all(pc.is_finite(column.values.drop_null().cast("float64"))).as_py():
            raise DataError(
                f"{column.piece.where}: a continuous column holds an infinite value; normalising needs finite ones"
            )
        mean, delta, total = float(array.mean()), float(array.mean()) - self.mean, self.count + len(array)
        self.squares += float(((array - mean) ** 2).sum()) + delta**2 * self.count * len(array) / total
        self.mean += delta * len(array) / total
        self.count = total

    def statistics(self, name: str) -> Statistics:
        if self.count == 0:
            raise DataError(
                f'feature "{name}" has no value in any row, so it cannot be normalised; remove it or "normalize"'
            )
        std = math.sqrt(self.squares / self.count)
        if std == 0.0:
            raise DataError(
                f'feature "{name}" is {self.mean:g} in every row, so it cannot be normalised; remove it or "normalize"'
            )
        return Statistics(self.mean, std)


def _vocabulary(domain: Domain, counter: _Counter) -> "pa.Array":
    total = counter.total()
    total = total.filter(total["value"].is_valid()).sort_by([("count", "descending"), ("value", "ascending")])
    if total.num_rows == 0:
        raise DataError(
            f'feature "{domain.features[0].name}" has no value in any row, so there is no vocabulary to learn'
        )
    rows = total.num_rows + RESERVED_ROWS
    if domain.cardinality is not None and rows > domain.cardinality:
        raise SchemaError(
            f'feature "{domain.features[0].name}" has {total.num_rows} distinct values and needs {rows} rows with the {RESERVED_ROWS} reserved ones,'
            f" more than its cardinality of {domain.cardinality}; raise cardinality to {rows} or remove it"
        )
    array: Any = total["value"].combine_chunks()
    return array


def _refuse_outside(feature: Feature, domain: Domain, column: Column) -> None:
    """Raise `DataError` on the first id that is no row of its table."""
    import numpy as np
    import pyarrow.compute as pc

    rows = domain.rows(None)
    ids = pc.fill_null(column.values, -1).to_numpy()
    wrong = (ids < 0) | (ids >= rows)
    if wrong.any():
        first = int(np.argmax(wrong))
        held = "is missing" if column.values[first].as_py() is None else f"holds the id {column.values[first].as_py()}"
        raise DataError(
            f'{column.place_of(first)}: feature "{feature.name}" {held}; expected 0 <= id < {rows}, its cardinality:'
            ' raise it, correct the data, or say "vocabulary: learned"'
        )


def _row_counts(domain: Domain, vocabulary: "pa.Array | None", items: _Counter) -> "npt.NDArray[Any]":
    import numpy as np

    total = items.total()
    counts = total["count"].to_numpy()
    values = total["value"].combine_chunks()
    rows = values.to_numpy() if vocabulary is None else rows_in(vocabulary, values)
    return np.bincount(rows, weights=counts, minlength=domain.rows(vocabulary)).astype(np.int64)
