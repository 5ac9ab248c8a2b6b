"""What the parts of a schema may not say together."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from schemaflow.errors import suggest
from schemaflow.schema.domain import Domain, domains_of
from schemaflow.schema.feature import Feature
from schemaflow.schema.fitted import Fitted, first_values, learned_under, unscalable
from schemaflow.schema.parsed import Location
from schemaflow.schema.sides import same_side
from schemaflow.schema.table import SideTable
from schemaflow.schema.tags import Tags

__all__ = ["conflicts", "unrelated"]


def conflicts(
    features: Sequence[Feature], tables: Mapping[str, SideTable], fitted: Fitted, names: Iterable[str] = ()
) -> tuple[dict[str, Domain], list[tuple[Location, str]]]:
    """Return the domains of the features, and where features, tables and what was learned contradict each other.

    Args:
        features: The features.
        tables: The side tables.
        fitted: What was learned.
        names: Of further features, which are only to be suggested.
    """
    by_name = {feature.name: feature for feature in features}
    times = Counter(feature.name for feature in features)
    words = [*times, *names]
    folded = Counter(name.casefold() for name in times)
    problems: list[tuple[Location, str]] = [
        (("features", name), f'feature "{name}" stands twice; rename one') for name, count in times.items() if count > 1
    ]
    problems += [
        (
            ("features", name),
            f'feature "{name}" differs from another in case alone, which a SavedModel cannot tell apart; rename one',
        )
        for name in times
        if folded[name.casefold()] > 1
    ]
    for name, table in tables.items():
        key = by_name.get(table.key)
        if key is None:
            why = f"is not a feature{suggest(table.key, words)}"
        elif not key.has(Tags.ID) or key.list is not None:
            why = "is not an id; tag it id or join by one"
        else:
            continue
        problems.append((("tables", name), f'table "{name}" is joined by "{table.key}", which {why}'))
    pairs = (*_of_weights(by_name, words), *_of_alignment(by_name, words))
    problems += [(("features", name), f'feature "{name}" {problem}') for name, problem in pairs]
    domains, contradictions = domains_of(features)
    contradictions += [
        problem
        for name, vocabulary in fitted.vocabularies.items()
        if name in domains and (problem := domains[name].misfit(vocabulary))
    ]
    contradictions += _outdated(features, domains, fitted)
    first_named = re.compile(r'features? "(\w+)"')
    problems += [
        (("features", found[1]) if (found := first_named.match(it)) else ("features",), it) for it in contradictions
    ]
    return domains, problems


def _outdated(features: Sequence[Feature], domains: Mapping[str, Domain], fitted: Fitted) -> Iterator[str]:
    """Say where what was learned was learned under other words than the schema has now, or does not fit it."""
    remedy = 'remove "fitted" from the schema, or call unfitted(), and fit it again'
    for what, said in learned_under(features, domains).items():
        kind, _, name = what.partition(" of ")
        before = fitted.under.get(what)
        if before is None:
            continue
        # of values that are spelled out, more may follow
        now = first_values(domains[name], int(before.split()[0])) if kind == "values" else said
        if before != now:
            feature = name if kind in ("numbers", "tokens") else domains[name].features[0].name
            yield f'feature "{feature}" was fitted as ({before}) and is ({now}) now; {remedy}'
    for name, domain in domains.items():
        rows = domain.cardinality if domain.encoding == "range" else None
        held = [len(fitted.counts.get(it.name, ())) for it in domain.features]
        held.append(len(fitted.vectors[name]) if name in fitted.vectors and domain.pretrained is not None else 0)
        if rows is not None and max(held) > rows:
            yield f'feature "{domain.features[0].name}" was fitted with {max(held)} rows and has {rows} now; {remedy}'
    for it in features:
        statistics = fitted.statistics.get(it.name)
        if statistics is not None and (problem := unscalable(it, statistics)) is not None:
            yield f"{problem} (as it was fitted)"


def _of_weights(features: Mapping[str, Feature], words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the features whose list and its weights do not fit each other, and why."""
    weighted = {name: it.weighted_by for name, it in features.items() if it.weighted_by is not None}
    for name, weights in weighted.items():
        found = features.get(weights)
        if found is None:
            yield name, f'is weighted by "{weights}", which is not a feature here{suggest(weights, words)}'
        elif found.kind != "weights" or not same_side(found, features[name]):
            yield name, f'is weighted by "{weights}", which is no list tagged weight on the same side; tag it so'
    for name, it in features.items():
        if it.kind == "weights" and name not in weighted.values():
            yield (
                name,
                f'is a list of weights that no list names; say "list: {{weights: {name}}}" in one, or remove it',
            )


def _of_alignment(features: Mapping[str, Feature], words: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the features that do not fit the sequence they are aligned with, and why."""
    for name, it in features.items():
        if it.list is None or it.aligned_with is None:
            continue
        said, found = f'is aligned with "{it.aligned_with}", which', features.get(it.aligned_with)
        if found is None:
            yield name, f"{said} is not a feature here{suggest(it.aligned_with, words)}"
        elif not found.is_history:
            yield name, f"{said} is no sequence of events of its own; name a list that is tagged sequence"
        elif not same_side(it, found):
            yield name, f"{said} is on another side; tag them alike"
        elif found.list is not None and found.list.max_length != it.list.max_length:
            yield (
                name,
                f"has a max_length of {it.list.max_length} and {said} has {found.list.max_length}; give both the same",
            )


def unrelated(features: Iterable[Feature], wrong: Mapping[str, Any]) -> list[Feature]:
    """Return the features that have nothing to do with wrong ones, for whose mistakes they would be blamed.

    Args:
        features: Those with nothing wrong in themselves.
        wrong: What stands under the name of each of the others. Whatever word is in there may name a domain or a
            feature, under whatever key.
    """
    touched = {word for name, spec in wrong.items() for word in (name, *_words(spec))}
    left = list(features)
    while related := [it for it in left if touched & _links(it)]:
        touched = touched.union(*map(_links, related))
        left = [it for it in left if it not in related]
    return left


def _links(feature: Feature) -> set[str]:
    return {feature.name, feature.table, feature.paired_with or feature.name}


def _words(value: Any) -> list[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [word for it in value for word in _words(it)]
    return [value] if isinstance(value, str) else []
