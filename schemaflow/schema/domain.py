"""The values that share one embedding table, gathered from the features that name them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from schemaflow.schema.feature import RESERVED_ROWS, Feature

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Domain", "domains_of"]


@dataclass(frozen=True)
class Domain:
    """One embedding table's worth of values.

    Args:
        name: Its name.
        features: The features whose values it holds.
        cardinality: The rows that a feature asks for, or None.
        values: The vocabulary that a feature spells out, or None.
    """

    name: str
    features: tuple[Feature, ...]
    cardinality: int | None
    values: tuple[int | str, ...] | None

    @property
    def encoding(self) -> Literal["vocabulary", "range"]:
        """Whether its values are looked up, or are rows themselves."""
        return "vocabulary" if any(feature.encoding == "vocabulary" for feature in self.features) else "range"

    @property
    def learned(self) -> bool:
        """Whether its vocabulary is learned by `Schema.fit`."""
        return self.encoding == "vocabulary" and self.values is None

    def inline_values(self) -> "pa.Array | None":
        """Return the vocabulary that the schema spells out, as Arrow."""
        import pyarrow as pa

        if self.values is None:
            return None
        return pa.array(self.values, pa.large_string() if isinstance(self.values[0], str) else pa.int64())

    def misfit(self, vocabulary: "pa.Array") -> str | None:
        """Say why a vocabulary that was learned is not this domain's any more, or nothing when it is."""
        import pyarrow as pa

        kind = pa.large_string() if self.features[0].dtype == "string" else pa.int64()
        name, rows = self.features[0].name, len(vocabulary) + RESERVED_ROWS
        if vocabulary.type != kind:
            return f'feature "{name}" has dtype {self.features[0].dtype}, but a vocabulary of {vocabulary.type} was learned for it; fit the schema again'
        if self.cardinality is not None and rows > self.cardinality:
            return f'feature "{name}" has cardinality {self.cardinality}, but its learned vocabulary needs {rows} rows; raise it or fit again'
        return None

    def rows(self, vocabulary: "pa.Array | None") -> int:
        """Return the rows of its table: what the schema asks for, else what the vocabulary needs."""
        if self.cardinality is not None:
            return self.cardinality
        assert vocabulary is not None, "a domain without cardinality has a vocabulary"
        return len(vocabulary) + RESERVED_ROWS


def domains_of(features: Sequence[Feature]) -> tuple[dict[str, Domain], list[str]]:
    """Return the domains of the categorical features by name, and what is wrong with them.

    Wrong is when features that share a domain contradict each other, or none of them says how many rows it needs.

    Example:
        >>> genre = Feature(name="genre", dtype="string", tags=["item", "categorical"], cardinality=22)
        >>> domains, problems = domains_of([genre])
        >>> domains["genre"].cardinality, problems
        (22, [])
    """
    members: dict[str, list[Feature]] = {}
    for feature in features:
        if feature.kind == "categorical":
            members.setdefault(feature.table, []).append(feature)
    problems: list[str] = []
    domains = {name: _merge(name, group, problems) for name, group in members.items()}
    return domains, problems


def _merge(name: str, group: list[Feature], problems: list[str]) -> Domain:
    names = " and ".join(f'"{feature.name}"' for feature in group)
    cardinalities = sorted({feature.cardinality for feature in group if feature.cardinality is not None})
    spelled = list(dict.fromkeys(feature.vocabulary for feature in group if isinstance(feature.vocabulary, tuple)))
    if len(cardinalities) > 1:
        problems.append(
            f'features {names} share the domain "{name}" but have the cardinalities {cardinalities}; give one'
        )
    if len({feature.dtype == "string" for feature in group}) > 1:
        problems.append(f'features {names} share the domain "{name}" but mix strings and numbers; give them one dtype')
    if len(spelled) > 1:
        problems.append(f'features {names} share the domain "{name}" but spell out different vocabularies; give one')
    explicit = {
        feature.encoding for feature in group if feature.cardinality is not None or feature.vocabulary is not None
    }
    if len(explicit) > 1:
        problems.append(
            f'features {names} share the domain "{name}", but one has a vocabulary and another numbers its rows; say "vocabulary: learned" in all'
        )
    domain = Domain(name, tuple(group), cardinalities[0] if cardinalities else None, spelled[0] if spelled else None)
    if domain.cardinality is None and not any(feature.vocabulary is not None for feature in group):
        problems += [
            f'feature "{feature.name}" is categorical but has no cardinality; add "cardinality: <rows>",'
            ' or "vocabulary: learned" to have it counted by Schema.fit'
            for feature in group
        ]
    return domain
