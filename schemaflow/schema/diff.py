"""What a change of schema means for a model that was trained: nothing, new rows, or a new model."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from schemaflow.errors import SchemaError
from schemaflow.schema.document import Document
from schemaflow.schema.feature import Feature
from schemaflow.schema.options import Compress, TextOptions
from schemaflow.schema.tags import OWN, SIDES, Tags, is_side

if TYPE_CHECKING:
    import pyarrow as pa

    from schemaflow.schema.domain import Domain
    from schemaflow.schema.fitted import Statistics
    from schemaflow.schema.schema import Schema

__all__ = ["Change", "Diff", "Level", "compare"]

Level = Literal["compatible", "grows", "breaks"]

_VERDICTS: dict[Level, str] = {
    "compatible": "a trained model fits as it is, and model.grow(schema) takes the changes over",
    "grows": "a trained model needs new rows, which model.grow(schema) gives it",
    "breaks": "what a trained model learned does not fit; train a new model",
}
"""The levels from mild to grave, and what each means for a model."""


@dataclass(frozen=True)
class Change:
    """One difference between two schemas.

    Args:
        level: What it means for a model trained with the first: `compatible`, `grows` or `breaks`.
        subject: The feature, the embedding table or the part of the schema.
        message: What changed, what that means, and what to do.
    """

    level: Level
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.subject} {self.message}"


@dataclass(frozen=True)
class Diff:
    """The differences between two schemas; false where there are none, and printed as a line for each.

    Args:
        changes: In the order of the features, then of the tables.

    Example:
        >>> shop = Diff((Change("grows", 'table "item"', "has 2 new values"),))
        >>> shop.verdict, bool(shop), bool(Diff())
        ('grows', True, False)
        >>> print(shop)
        grows: table "item" has 2 new values
        verdict: grows: a trained model needs new rows, which model.grow(schema) gives it
    """

    changes: tuple[Change, ...] = ()

    @property
    def verdict(self) -> Level:
        """The gravest level of all changes; `compatible` where there are none."""
        found = {change.level for change in self.changes}
        return next((level for level in reversed(_VERDICTS) if level in found), "compatible")

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __str__(self) -> str:
        verdict = f"{self.verdict}: {_VERDICTS[self.verdict]}" if self.changes else "compatible: nothing changed"
        return "\n".join([*map(str, self.changes), f"verdict: {verdict}"])

    def to_config(self) -> dict[str, Any]:
        """Return the verdict and the changes as JSON values."""
        return {"verdict": self.verdict, "changes": [vars(change) for change in self.changes]}


def compare(old: "Schema", new: "Schema") -> Diff:
    """Return what a model trained with the old schema makes of the new one.

    Raises:
        SchemaError: One of them still lacks what `Schema.fit` learns, so that rows cannot be compared.
    """
    problems = []
    for which, schema in (("old", old), ("new", new)):
        try:
            schema.require_fitted()
        except SchemaError as reason:
            more = f", and {len(reason.problems) - 1} more" if len(reason.problems) > 1 else ""
            first = reason.problems[0].partition(";")[0]
            problems.append(
                f"the {which} schema is not fitted ({first}{more}), so its rows are not known; call schema.fit(…) and"
                " to_yaml, or give the schema.yaml of a bundle"
            )
    if problems:
        raise SchemaError(*problems)
    tables = list(_of_tables(old, new))
    changed = {name for _, members in tables for name in members}
    return Diff((
        *_of_schema(old, new),
        *_of_presence(old, new),
        *(it for feature in new if feature.name in old for it in _of_feature(old, new, feature.name, changed)),
        *(change for change, _ in tables),
    ))  # fmt: skip


# -- the schema as a whole --------------------------------------------------------------------------------------------


def _of_schema(old: "Schema", new: "Schema") -> Iterator[Change]:
    if old.name != new.name:
        yield Change("compatible", "the schema", f"is called {_shown(new.name)}, was {_shown(old.name)}")
    for name in dict.fromkeys([*old.tables, *new.tables]):
        was, now = (dict(_flat(it.tables[name])) if name in it.tables else {} for it in (old, new))
        keys = sorted(key for key in {*was, *now} if was.get(key) != now.get(key))
        if unknown := [key for key in keys if key not in _SIDE_TABLE_KEYS]:
            yield Change("breaks", f'side table "{name}"', _unknown(unknown[0]))
        elif keys:
            done = "is new" if not was else "is gone" if not now else f"has another {' and '.join(keys)}"
            yield Change("compatible", f'side table "{name}"', f"{done}: features are read from elsewhere")
    own = dict.fromkeys(tag for it in new for tag in it.tags if OWN.fullmatch(tag))
    groups: list[tuple[str, set[str]]] = [
        ("query", {Tags.USER, Tags.CONTEXT, Tags.SESSION}),
        ("item", {Tags.ITEM}),
        *((tag, {tag, Tags.CONTEXT, Tags.SESSION}) for tag in own),  # it may be the query's
    ]
    for group, sides in groups:
        before, after = (
            [it.name for it in first if _is_input(it) and it.name in second and sides.intersection(it.tags)]
            for first, second in ((old, new), (new, old))
        )
        if before != after and sorted(before) == sorted(after):
            yield Change(
                "breaks",
                f"the {group} tower",
                f"takes its features in the order {', '.join(after)}, was {', '.join(before)}: its first layer"
                " would mistake one for the other; restore the order, or train a new model",
            )
    for name in dict.fromkeys([*old.fitted.counts, *new.fitted.counts]):
        counts = old.fitted.counts.get(name), new.fitted.counts.get(name)
        if not _same(*counts):
            done = "were counted anew" if counts[1] is not None else "are not counted any more"
            yield Change(
                "compatible", f'the interactions of "{name}"', f"{done}: log-Q and the popularity baseline follow"
            )


def _of_presence(old: "Schema", new: "Schema") -> Iterator[Change]:
    """Say which features are new or gone."""
    for first, second, done, doing in ((new, old, "is new", "leave it out"), (old, new, "is gone", "restore it")):
        for feature in first:
            if feature.name in second:
                continue
            subject = f'feature "{feature.name}"'
            odd = [key for key, value in _flat(feature) if key not in RULES and value is not None]
            if not _is_input(feature) and _of_values(feature.tags) and not odd:
                yield Change("compatible", subject, f"{done}: it is no input of a tower")
            else:
                message = f"{done}: the tower's first layer has another width then; {doing}, or train a new model"
                yield Change("breaks", subject, message)


# -- a feature --------------------------------------------------------------------------------------------------------


def _of_feature(old: "Schema", new: "Schema", name: str, changed: set[str]) -> Iterator[Change]:
    """Compare a feature that both have.

    Args:
        old: The schema that a model was trained with.
        new: The schema that it is to have.
        name: The feature.
        changed: The features whose table changed, of which more is said there.
    """
    before, after, subject = old[name], new[name], f'feature "{name}"'
    was, now = dict(_flat(before)), dict(_flat(after))
    keys = [key for key in dict.fromkeys([*now, *was]) if was.get(key) != now.get(key)]
    for key in keys:
        if key not in RULES:
            yield Change("breaks", subject, _unknown(key))
    if before.kind != after.kind:
        yield Change("breaks", subject, f"was {before.kind} and is {after.kind}; train a new model")
        return
    by_table = []
    takes = old.takes_missing(before), new.takes_missing(after)
    for key in (it for it in keys if it in RULES):
        rule = RULES[key]
        if rule is _by_table:
            by_table.append(key)
        elif not _is_input(before) and key != "tags":
            yield Change("compatible", subject, f"{_from_to(key, was, now)}: it is no input of a tower")
        elif found := rule(_Pair(before, after, key, was.get(key), now.get(key), takes)):
            yield Change(found[0], subject, f"{_from_to(key, was, now)}: {found[1]}")
    if by_table and name not in changed:
        said = " and ".join(by_table)
        yield Change("compatible", subject, f"says {said} otherwise: its table has the rows that it had")
    if _is_input(before):
        yield from _of_statistics(subject, before, after, old.fitted.statistics, new.fitted.statistics)


@dataclass(frozen=True)
class _Pair:
    """A key of a feature that differs: the features, what the key says in each, and whether they take missing values."""

    old: Feature
    new: Feature
    key: str
    was: Any
    now: Any
    takes: tuple[bool, bool]


_Finding = tuple[Level, str] | None
_Rule = Callable[[_Pair], _Finding]


def _compatible(reason: str) -> _Rule:
    return lambda _: ("compatible", reason)


def _breaks(reason: str) -> _Rule:
    return lambda _: ("breaks", f"{reason}; restore it, or train a new model")


def _silent(_: _Pair) -> _Finding:
    """The keys inside say it."""
    return None


def _by_table(_: _Pair) -> _Finding:
    """The feature's table says it, in effect."""
    return None


def _of_dtype(pair: _Pair) -> _Finding:
    import numpy as np

    rounded = (
        pair.was.startswith("float") and pair.old.encoding == "buckets"
    )  # float32 lies beside the edge it stands for
    if "string" not in (pair.was, pair.now) and np.can_cast(pair.was, pair.now) and not rounded:
        least = f", but {np.iinfo(pair.was).min}, which stood for a missing one" if pair.was.startswith("int") else ""
        return "compatible", f"every value enters the model as before{least}"
    return _breaks("values that the model knows would be refused or rounded")(pair)


def _of_tags(pair: _Pair) -> _Finding:
    tags = set(pair.was) ^ set(pair.now)
    if not _is_input(pair.old):
        return (
            ("compatible", "it is no input of a tower")
            if _of_values(tags)
            else _breaks("what that means for a trained model is not known")(pair)
        )
    if any(map(is_side, tags)):
        return _breaks("it enters another tower")(pair)
    if Tags.ID in tags and any(it is Tags.ITEM or OWN.fullmatch(it) for it in pair.new.tags):
        return _breaks("it is another feature that tells the items apart")(pair)
    if tags <= {*_OF_KIND, Tags.FILTER}:
        return "compatible", "it enters the model as before"
    return _breaks("it enters the model in another way")(pair)


def _of_dim(pair: _Pair) -> _Finding:
    """Of a dense vector; a table's width is compared as the table's."""
    if pair.old.kind == "vector":
        return _breaks("the tower's first layer has another width then")(pair)
    return None


def _of_missing(pair: _Pair) -> _Finding:
    if pair.key == "missing" and _MAPPING in (pair.was, pair.now):
        return None  # missing.value says it
    if not pair.takes[1]:
        return "compatible", "a missing value is an error from now on"
    if not pair.takes[0]:
        return "compatible", "a missing value, an error before, enters the model from now on"
    return _breaks("the model has learned what stood in for a missing value")(pair)


_WITHIN_PRETRAINED = _compatible("rows that were trained stay, and new ones begin with the new vectors")

RULES: Mapping[str, _Rule] = {
    "name": _silent,  # features are matched by it
    "dtype": _of_dtype,
    "tags": _of_tags,
    "column": _compatible("it is read from there"),
    "cardinality": _by_table,
    "vocabulary": _by_table,
    "vocabulary.file": _by_table,
    "vocabulary.column": _by_table,
    "hash": _by_table,
    "oov": _by_table,
    "domain": _by_table,
    "list": _breaks("a row holds another number of values"),
    "list.max_length": _compatible("lists enter the model as before, up to that length"),
    "list.weights": _breaks("the values of a list are weighed otherwise"),
    "list.aligned_with": _breaks("it says something of the events of another list"),
    "text": _silent,
    "text.standardize": _breaks("texts become other tokens"),
    "text.split": _breaks("texts become other tokens"),
    "embedding": _silent,
    "embedding.dim": _of_dim,
    "embedding.combiner": _breaks("the vector of a list is computed otherwise"),
    "embedding.initializer": _compatible("rows that were trained stay"),
    "embedding.pretrained": _silent,
    "embedding.pretrained.file": _WITHIN_PRETRAINED,
    "embedding.pretrained.key": _WITHIN_PRETRAINED,
    "embedding.pretrained.vector": _WITHIN_PRETRAINED,
    "embedding.compress": _by_table,
    "embedding.compress.remainders": _by_table,
    "embedding.compress.operation": _by_table,
    "embedding.trainable": _compatible("rows that were trained stay, and training goes on so"),
    "normalize": _breaks("its numbers mean something else"),
    "buckets": _by_table,
    "buckets.quantiles": _by_table,
    "time": _silent,
    "time.unit": _breaks("its moments mean something else"),
    "time.take": _breaks("something else of its moments enters the model"),
    "missing": _of_missing,
    "missing.value": _of_missing,
    "value": _compatible("training goes on with other weights of the rows"),
}
"""What a change of each key of a feature means; a test holds it to the grammar, and a key that is not here breaks."""

_SIDE_TABLE_KEYS = frozenset({"file", "key", "column"})

_OF_KIND = frozenset({
    Tags.CATEGORICAL, Tags.CONTINUOUS, Tags.EMBEDDING, Tags.SEQUENCE, Tags.LIST, Tags.ID, Tags.ACTION,
})  # fmt: skip
"""Tags that say nothing of an input beyond its kind and its lists, which are compared themselves."""

_OF_VALUES = frozenset({
    *SIDES, *_OF_KIND, Tags.FILTER, Tags.TIME, Tags.POSITION, Tags.WEIGHT, Tags.EXPLICIT_NEGATIVE, Tags.TEACHER,
    Tags.TARGET, Tags.REGRESSION, Tags.CLASSIFICATION, Tags.BINARY, Tags.MULTI_CLASS,
})  # fmt: skip
"""Tags of features that are no input of a tower."""


def _of_values(tags: Iterable[Tags | str]) -> bool:
    """Tell whether features that are no input of a tower may have the tags; any side of the user's own may."""
    return all(it in _OF_VALUES or is_side(it) for it in tags)


def _of_statistics(
    subject: str,
    before: Feature,
    after: Feature,
    old: "Mapping[str, Statistics]",
    new: "Mapping[str, Statistics]",
) -> Iterator[Change]:
    used = [it for it in _statistics_in_use(before) if it in _statistics_in_use(after)]
    was, now = old.get(before.name), new.get(after.name)
    moved = [
        f"{it} was {getattr(was, it):.6g} and is {getattr(now, it):.6g}"
        for it in used
        if getattr(was, it) != getattr(now, it)
    ]
    if moved:
        yield Change(
            "breaks",
            subject,
            f"learned other numbers ({', '.join(moved)}), so that its values mean something else;"
            " fit the old schema on the new data, which keeps them, or train a new model",
        )


def _statistics_in_use(feature: Feature) -> list[str]:
    used = {"standard": ["mean", "std"], "min-max": ["minimum", "maximum"]}.get(str(feature.normalize), [])
    if feature.missing == "mean" and "mean" not in used:
        used = [*used, "mean"]
    if feature.time is not None and feature.time.take == "age":
        used = [*used, "newest"]
    return used


# -- an embedding table -----------------------------------------------------------------------------------------------


def _of_tables(old: "Schema", new: "Schema") -> Iterator[tuple[Change, tuple[str, ...]]]:
    """Compare the embedding tables, matched by their features; yield what changed and of which features."""
    for after in new.domains.values():
        names = tuple(it.name for it in after.features if it.name in old and old[it.name].kind == "categorical")
        for before in (old.domains[it] for it in dict.fromkeys(old[name].table for name in names)):
            sharing = [
                {it.name for it in domain.features if it.name in other and other[it.name].kind == "categorical"}
                for domain, other in ((before, new), (after, old))
            ]
            subject = f'table "{after.name}"'
            if sharing[0] != sharing[1]:
                was, now = (" and ".join(sorted(it)) for it in sharing)
                message = f"holds {now}, where one held {was}; restore the domain, or train a new model"
                yield Change("breaks", subject, message), names
                break
            for level, message in _of_table(old, new, before, after):
                yield Change(level, subject, message), names


def _of_table(old: "Schema", new: "Schema", before: "Domain", after: "Domain") -> Iterator[tuple[Level, str]]:
    remedy = "restore it, or train a new model"
    if before.encoding != after.encoding:
        yield "breaks", f"was filled by {before.encoding} and is by {after.encoding}; {remedy}"
        return
    if before.buckets != after.buckets:
        yield "breaks", f"was hashed into {before.buckets} rows and is into {after.buckets}; {remedy}"
        return
    if before.oov_rows != after.oov_rows:
        message = f"had {before.oov_rows} out-of-vocabulary rows and has {after.oov_rows}: values have other rows"
        yield "breaks", f"{message}; {remedy}"
        return
    if before.encoding == "buckets":
        edges = old.edges(before.features[0]), new.edges(after.features[0])
        if edges[0] != edges[1]:
            was, now = (", ".join(f"{edge:.6g}" for edge in it) for it in edges)
            yield "breaks", f"had buckets between the edges {was} and has {now}; {remedy}"
            return
    if before.compress != after.compress:
        was, now = ("not compressed" if it is None else _compressed(it) for it in (before.compress, after.compress))
        yield "breaks", f"was {was} and is {now}: its rows are made of others; {remedy}"
        return
    widths = _widths_said(old, before), _widths_said(new, after)
    if widths[0] != widths[1]:
        was, now = (" and ".join(map(str, it)) or "what the model's options say" for it in widths)
        yield "breaks", f"was to be {was} wide and is to be {now}; {remedy}"
    vocabularies = old.vocabulary(before.name), new.vocabulary(after.name)
    rows = old.rows(before.name), new.rows(after.name)
    found = None
    if vocabularies[0] is not None and vocabularies[1] is not None:
        found = _of_vocabulary(vocabularies[0], vocabularies[1], before.reserved)
    if found is not None:
        yield found
    if rows[1] < rows[0] and (found is None or found[0] != "breaks"):
        yield "breaks", f"has {rows[1]} rows, fewer than the {rows[0]} that the model has; raise its cardinality"
    elif rows[1] > rows[0] and found is None:
        yield "grows", f"has {rows[1]} rows, had {rows[0]}: the model needs the new ones; grow it"
    vectors = old.vectors(before.name), new.vectors(after.name)
    if vectors[0] is not None and vectors[1] is not None and not _same(*vectors):
        yield "compatible", "has other pretrained vectors: rows that were trained stay, and new ones begin with those"


def _of_vocabulary(old: "pa.Array", new: "pa.Array", reserved: int) -> _Finding:
    import pyarrow.compute as pc

    added = len(new) - len(old)
    if added >= 0 and new.slice(0, len(old)).equals(old):
        if added == 0:
            return None
        first = new[len(old)].as_py()
        shown = f"{added} new value{'s' if added > 1 else ''} ({first!r}{', …' if added > 1 else ''})"
        return "grows", f"has {shown}, from row {len(old) + reserved} on: the model needs their rows; grow it"
    remedy = "fit the old schema on the new data, which keeps its rows, or train a new model"
    places = pc.index_in(old, value_set=new) if old.type == new.type else None
    if places is None:
        return "breaks", f"held values of {old.type} and holds {new.type}; {remedy}"
    if places.null_count:
        gone = old.filter(places.is_null())
        return "breaks", f"holds {gone[0].as_py()!r} no more ({len(gone)} of {len(old)} values are gone); {remedy}"
    row = next(row for row, place in enumerate(places.to_pylist()) if row != place)
    where = f"in row {places[row].as_py() + reserved}, was in row {row + reserved}"
    return "breaks", f"has {old[row].as_py()!r} {where}; {remedy}"


def _compressed(compress: Compress) -> str:
    return f"compressed by the {compress.operation} with {compress.remainders} remainders"


def _widths_said(schema: "Schema", domain: "Domain") -> list[int]:
    """Return the widths that the schema itself gives a table; none where the model's options do."""
    said = {it.embedding.dim for it in domain.features if it.embedding is not None and it.embedding.dim is not None}
    if (vectors := schema.vectors(domain.name)) is not None:
        said.add(vectors.shape[1])
    return sorted(said)


# -- keys and words ---------------------------------------------------------------------------------------------------


_MAPPING = "{…}"
"""What a key that holds keys of its own is shown as."""


def _flat(document: Document, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a document and of those inside it, `list.max_length`; what is left out says its default."""
    for key in type(document).model_fields:
        value = getattr(document, key)
        if isinstance(document, Feature) and key == "text" and document.text_like:
            value = document.text or TextOptions()
        if isinstance(value, Document):
            yield prefix + key, _MAPPING
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _same(first: Any, second: Any) -> bool:
    """Tell whether two arrays, or nothing, are the same."""
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and bool((first == second).all())


def _is_input(feature: Feature) -> bool:
    return feature.kind != "value"


def _unknown(key: str) -> str:
    return f'has another "{key}", and what that means for a trained model is not known; train a new model'


def _from_to(key: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return f"has {key} {_shown(now.get(key))}, was {_shown(was.get(key))}"


def _shown(value: Any) -> str:
    return "none" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
