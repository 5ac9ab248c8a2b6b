"""Learn from tables what a schema leaves open."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemaflow.errors import DataError, SchemaError
from schemaflow.schema.columns import Column, read_column
from schemaflow.schema.counting import Counter, Moments, Quantiles, finite_numbers
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import DAY, Feature
from schemaflow.schema.files import find, read_vectors, read_vocabulary
from schemaflow.schema.fitted import Fitted, Statistics, learned_under, unscalable
from schemaflow.schema.options import Quantiles as QuantilesOption
from schemaflow.schema.rows import rows_in
from schemaflow.schema.sides import belongs, tower_tags
from schemaflow.schema.sources import Source
from schemaflow.schema.tags import Tags

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Numbers", "fit", "read_by_fit", "vectors_of", "vocabulary_of"]

_CONTEXT = frozenset({Tags.CONTEXT, Tags.SESSION, Tags.TIME})


def fit(
    features: Sequence[Feature],
    domains: Mapping[str, Domain],
    sources: Sequence[Source],
    side_tables: Sequence[tuple[Source, Feature]],
    known: Fitted,
    folders: Sequence[Path],
) -> Fitted:
    """Return what the features' columns hold, by one pass over each source.

    New values get their rows by falling number of occurrences, ties by value, after those that are known already; what
    is known of numbers stays. Ids are counted in the interactions: sources, not side tables, that hold the item id and
    the user id (or, where the schema has none, a context or a time); of a schema with sides of its own, the ids of these.

    Args:
        features: Of the schema.
        domains: Of the schema.
        sources: Interactions, and other tables in memory.
        side_tables: Tables with one row for each user or item, whose ids are not interactions, and their keys.
        known: What was learned before, which a trained model relies on.
        folders: Where files that the schema names are looked for.

    Raises:
        DataError: A column that is needed is in no source, or does not fit its feature.
        SchemaError: A vocabulary needs more rows than its cardinality.
    """
    ids = [it for it in features if it.has(Tags.ID) and it.kind == "categorical" and it.list is None]
    learned = [it for it in features if it.kind == "categorical" and _counts_values(domains[it.table])]
    numbers = [it for it in features if it.learns_statistics and it.name not in known.statistics]
    wanted = read_by_fit(features, domains, known)
    everything = [*((source, None) for source in sources), *side_tables]
    problems = [
        f'feature "{it.name}" is to be learned, but its column "{it.source}" is in none of '
        + ", ".join(source.name for source, _ in everything)
        for it in features
        if it in numbers or (it in learned and it.table not in known.vocabularies)
        if not any(it.source in source.columns and belongs(it, key) for source, key in everything)
    ]
    if problems:
        raise DataError(*problems)
    values: dict[str, Counter] = {}
    gathered: dict[str, Numbers] = {}
    counts: dict[str, Counter] = {}
    for source, key in everything:
        present = [it for it in wanted if it.source in source.columns and belongs(it, key)]
        first_here = {it.name for it in numbers if it.name not in gathered}  # one table is enough for a mean
        counted = ids if key is None and _holds_interactions(source, features, ids) else []
        for piece in source.pieces(list(dict.fromkeys(it.source for it in present))) if present else ():
            for feature in present:
                column = read_column(feature, piece)
                if feature in ids and domains[feature.table].encoding == "range":
                    _refuse_outside(feature, domains[feature.table], column)
                if feature in learned:
                    values.setdefault(feature.table, Counter()).add(column)
                if feature in counted:
                    counts.setdefault(feature.name, Counter()).add(column)
                if feature in numbers and feature.name in first_here:
                    gathered.setdefault(feature.name, Numbers(feature)).add(column)
    vocabularies = dict(known.vocabularies)
    for name, domain in domains.items():
        if domain.learned and (name in values or domain.file is not None):
            vocabularies[name] = vocabulary_of(domain, values.get(name), known.vocabularies.get(name), folders)
    vectors = {name: vectors_of(it, vocabularies, known, folders) for name, it in domains.items() if it.pretrained}
    return Fitted(
        vocabularies,
        {**known.statistics, **{name: it.statistics() for name, it in gathered.items()}},
        {
            feature.name: _row_counts(domains[feature.table], vocabularies, counts[feature.name])
            for feature in ids
            if feature.name in counts
        }
        or known.counts,
        vectors,
        learned_under(features, domains),
    )


def read_by_fit(features: Sequence[Feature], domains: Mapping[str, Domain], known: Fitted) -> list[Feature]:
    """Return the features whose columns `fit` reads wherever they stand: ids, and all that it learns of."""
    return [
        it
        for it in features
        if (it.kind == "categorical" and (_counts_values(domains[it.table]) or (it.has(Tags.ID) and it.list is None)))
        or (it.learns_statistics and it.name not in known.statistics)
    ]


def _counts_values(domain: Domain) -> bool:
    return domain.learned and domain.file is None


def _holds_interactions(source: Source, features: Sequence[Feature], ids: Sequence[Feature]) -> bool:
    query, item = tower_tags(features)
    items = [it for it in ids if it.has(item)]
    askers = [it for it in ids if it.has(query)]
    others = askers or [it for it in features if it.has(query) or _CONTEXT.intersection(it.tags)]
    return all(any(it.source in source.columns for it in group) for group in (items, others))


@dataclass
class Numbers:
    """What is learned of a feature's numbers; of moments, turned around so that they grow with age."""

    feature: Feature
    moments: Moments = field(default_factory=Moments)
    quantiles: Quantiles = field(default_factory=Quantiles)
    newest: int = -(2**63)

    def add(self, column: Column) -> None:
        """Take the numbers of a column in."""
        numbers = finite_numbers(column, self.feature)
        if self.feature.is_age:
            numbers = -numbers
            self.newest = int(column.values.drop_null().to_numpy().max(initial=self.newest))  # float64 would round it
        self.moments.add(numbers)
        if isinstance(self.feature.buckets, QuantilesOption):
            self.quantiles.add(numbers)

    def statistics(self) -> Statistics:
        """Return what was learned.

        Raises:
            DataError: There is no number, or they are all the same where that cannot be normalised.
        """
        name, it = self.feature.name, self.moments
        edges: tuple[float, ...] = ()
        if it.count == 0:
            raise DataError(f'feature "{name}" has no value in any row, so nothing can be learned of it; remove it')
        if isinstance(self.feature.buckets, QuantilesOption):
            edges = self.quantiles.edges(self.feature.buckets.quantiles)
            if not edges:
                raise DataError(
                    f'feature "{name}" is {it.mean:g} in nearly every row, so it has no quantiles; remove it'
                )
        found = Statistics(it.mean, it.std, it.minimum, it.maximum, edges)
        found = found if not self.feature.is_age else self._ages(found)
        if (problem := unscalable(self.feature, found)) is not None:
            raise DataError(problem)
        return found

    def _ages(self, it: Statistics) -> Statistics:
        """Return the statistics of ages in days, from those of moments turned around."""
        newest, day = self.newest, DAY[self.feature.time.unit if self.feature.time is not None else "s"]
        days = [(newest + moment) / day for moment in (it.mean, it.minimum, it.maximum, *it.edges)]
        return Statistics(days[0], it.std / day, days[1], days[2], tuple(days[3:]), newest)


def vocabulary_of(
    domain: Domain, counter: Counter | None, known: "pa.Array | None", folders: Sequence[Path]
) -> "pa.Array":
    """Return the values that are known, and then the new ones.

    Raises:
        DataError: There is no value, or the file that holds them is missing or wrong.
        SchemaError: They need more rows than the domain's cardinality.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name = domain.features[0].name
    if domain.file is not None:
        try:
            path = find(domain.file.file, folders, f'the vocabulary of feature "{name}"')
        except DataError:
            if known is None:
                raise
            return known  # a bundle, or a schema that was moved, has the values without the file
        found = read_vocabulary(domain, domain.file, path)
    else:
        assert counter is not None, "a vocabulary without a file is counted"
        total = counter.total()
        total = total.filter(total["value"].is_valid()).sort_by([("count", "descending"), ("value", "ascending")])
        found = total["value"].combine_chunks()
    if known is not None:
        new = found.filter(pc.invert(pc.is_in(found, value_set=known)))
        found = pa.concat_arrays([known, new])
    if len(found) == 0:
        raise DataError(f'feature "{name}" has no value in any row, so there is no vocabulary to learn')
    rows = len(found) + domain.reserved
    if domain.cardinality is not None and rows > domain.cardinality:
        raise SchemaError(
            f'feature "{name}" has {len(found)} distinct values and needs {rows} rows with the {domain.reserved} reserved ones,'
            f" more than its cardinality of {domain.cardinality}; raise cardinality to {rows} or remove it"
        )
    array: Any = found
    return array


def vectors_of(
    domain: Domain, vocabularies: Mapping[str, "pa.Array"], known: Fitted, folders: Sequence[Path]
) -> "npt.NDArray[Any]":
    """Return the vectors that a domain's table begins with.

    Raises:
        DataError: The file that holds them is missing or wrong.
    """
    spec, vocabulary = domain.pretrained, vocabularies.get(domain.name, domain.inline_values())
    assert spec is not None, "asked for domains with pretrained vectors alone"
    before = known.vectors.get(domain.name)
    try:
        path = find(spec.file, folders, f'the table of feature "{domain.features[0].name}"')
    except DataError:
        if before is None or (vocabulary is not None and len(vocabulary) != len(before)):
            raise
        return before
    return read_vectors(domain, spec, path, vocabulary)


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


def _row_counts(domain: Domain, vocabularies: Mapping[str, "pa.Array"], items: Counter) -> "npt.NDArray[Any]":
    import numpy as np

    vocabulary = vocabularies.get(domain.name, domain.inline_values())
    total = items.total()
    counts = total["count"].to_numpy()
    rows = rows_in(domain, vocabulary, total["value"].combine_chunks())
    needed = domain.rows(None if vocabulary is None else len(vocabulary))
    return np.bincount(rows, weights=counts, minlength=needed).astype(np.int64)
