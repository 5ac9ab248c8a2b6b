"""The values that share one embedding table, gathered from the features that name them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemaflow.schema.feature import CALENDAR, OUT_OF_VOCABULARY, Encoding, Feature
from schemaflow.schema.options import Compress, Pretrained, VocabularyFile

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Domain", "domains_of"]

_ENCODINGS: tuple[Encoding, ...] = ("vocabulary", "hash", "buckets", "calendar")


@dataclass(frozen=True)
class Domain:
    """One embedding table's worth of values.

    Args:
        name: Its name.
        features: The features whose values it holds.
        cardinality: The rows that a feature asks for, or None.
        values: The vocabulary that a feature spells out, or None.
        file: The file of the vocabulary that a feature names, or None.
    """

    name: str
    features: tuple[Feature, ...]
    cardinality: int | None
    values: tuple[int | str, ...] | None
    file: VocabularyFile | None = None

    @property
    def encoding(self) -> Encoding:
        """How its values become rows: as those of its features say that say it."""
        found = {it.encoding for it in self.features if it.says_rows} or {it.encoding for it in self.features}
        return next((encoding for encoding in _ENCODINGS if encoding in found), "range")

    @property
    def learned(self) -> bool:
        """Whether its vocabulary is learned by `Schema.fit`, or read by it."""
        return self.encoding == "vocabulary" and self.values is None

    @property
    def reserved(self) -> int:
        """The rows at its head that hold no value: padding, missing, out of vocabulary; none where values are rows."""
        return 0 if self.encoding == "range" else OUT_OF_VOCABULARY + self.oov_rows

    @property
    def oov_rows(self) -> int:
        """The rows that values out of the vocabulary are hashed into."""
        return max(feature.oov or 1 for feature in self.features)

    def takes_missing(self, feature: Feature) -> bool:
        """Tell whether a missing value of one of its features is something to the model, and not an error."""
        return self.encoding != "range" if feature.missing is None else feature.missing != "error"

    @property
    def buckets(self) -> int:
        """The rows that values are hashed into, in place of a vocabulary."""
        return max(feature.hash or 0 for feature in self.features)

    @property
    def pretrained(self) -> Pretrained | None:
        """Where the vectors are that its table begins with."""
        return next((it.embedding.pretrained for it in self.features if it.embedding and it.embedding.pretrained), None)

    @property
    def compress(self) -> Compress | None:
        """How its table keeps fewer rows than it has values; None where it keeps them all."""
        return next((it.embedding.compress for it in self.features if it.embedding and it.embedding.compress), None)

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
        name, rows = self.features[0].name, len(vocabulary) + self.reserved
        if vocabulary.type != kind:
            return f'feature "{name}" has dtype {self.features[0].dtype}, but a vocabulary of {vocabulary.type} was learned for it; fit the schema again'
        if self.cardinality is not None and rows > self.cardinality:
            return f'feature "{name}" has cardinality {self.cardinality}, but its learned vocabulary needs {rows} rows; raise it or fit again'
        return None

    def rows(self, values: int | None) -> int:
        """Return the rows of its table: what the schema asks for, else what its values need.

        Args:
            values: How many the vocabulary or the buckets hold, where the schema does not say it.
        """
        if self.cardinality is not None:
            return self.cardinality
        if self.encoding == "hash":
            return self.reserved + self.buckets
        if self.encoding == "calendar":
            return self.reserved + CALENDAR[str(self.features[0].time and self.features[0].time.take)]
        assert values is not None, "a domain without cardinality has values"
        return self.reserved + values


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
    shared = f'features {names} share the domain "{name}" but'

    def one(what: str, values: Iterable[Any], shown: Callable[[list[Any]], str] = str) -> Any:
        """Return the value that is given, where no two are."""
        given = list(dict.fromkeys(value for value in values if value is not None))
        if len(given) > 1:
            problems.append(f"{shared} {what}{shown(sorted(given, key=str))}; give one")
        return given[0] if given else None

    def unseen(_: list[Any]) -> str:
        return ""

    cardinality = one("have the cardinalities ", (feature.cardinality for feature in group), _sorted)
    spelled = one(
        "spell out different vocabularies", (it.vocabulary for it in group if isinstance(it.vocabulary, tuple)), unseen
    )
    file = one(
        "name different files of vocabulary",
        (it.vocabulary for it in group if isinstance(it.vocabulary, VocabularyFile)),
        unseen,
    )
    one("hash into ", (feature.hash for feature in group), _sorted)
    one("have out-of-vocabulary rows ", (feature.oov for feature in group), _sorted)
    if len({feature.dtype == "string" for feature in group}) > 1:
        problems.append(f"{shared} mix strings and numbers; give them one dtype")
    for key, what in (("dim", "ask for the widths "), ("initializer", "ask for "), ("trainable", "are trainable: ")):
        one(what, (getattr(it.embedding, key) for it in group if it.embedding is not None), _sorted)
    one(
        "name different pretrained vectors",
        (it.embedding.pretrained for it in group if it.embedding is not None),
        unseen,
    )
    one(
        "compress their table in different ways",
        (it.embedding.compress for it in group if it.embedding is not None),
        unseen,
    )
    if len({feature.encoding for feature in group if feature.says_rows}) > 1:
        problems.append(
            f'features {names} share the domain "{name}", but one has a vocabulary and another numbers or hashes its rows; say the same in all'
        )
    domain = Domain(name, tuple(group), cardinality, spelled, None if spelled is not None else file)
    problems += _too_small(domain)
    for key, what in (("initializer", "an initializer"), ("compress", "a compressed table")):
        if domain.pretrained and any(it.embedding and getattr(it.embedding, key) for it in group):
            problems.append(f'features {names} of the domain "{name}" have {what} and pretrained vectors; keep one')
    if domain.encoding in ("vocabulary", "range") and cardinality is None and not any(it.vocabulary for it in group):
        problems += [
            f'feature "{feature.name}" is categorical but has no cardinality; add "cardinality: <rows>",'
            ' "vocabulary: learned" to have it counted by Schema.fit, or "hash: <buckets>"'
            for feature in group
        ]
    return domain


def _too_small(domain: Domain) -> list[str]:
    """Say where a domain's cardinality does not hold its values."""
    rows, reserved = domain.cardinality, domain.reserved
    name = next((it.name for it in domain.features if it.cardinality is not None), "")
    if rows is None:
        return []
    if domain.encoding == "hash" and rows != domain.buckets + reserved:
        return [
            f'feature "{name}" has cardinality {rows}, but {domain.buckets} hash buckets and the {reserved} reserved rows are {domain.buckets + reserved}'
        ]
    if domain.values is not None and rows < len(domain.values) + reserved:
        return [
            f'feature "{name}" has cardinality {rows}, but its vocabulary and the {reserved} reserved rows need {len(domain.values) + reserved}'
        ]
    if rows <= reserved:
        return [f'feature "{name}" has cardinality {rows}, which leaves no row beside the {reserved} reserved ones']
    return []


def _sorted(values: list[Any]) -> str:
    return str(sorted(values))
