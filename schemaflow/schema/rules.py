"""What a feature's keys and tags may not say together."""

import keyword
import re
from collections import Counter
from typing import TYPE_CHECKING

from pydantic.config import JsonDict

from schemaflow.schema.options import Fill, Pretrained
from schemaflow.schema.tags import OWN, TARGET_KINDS, Tags, atoms, is_side

if TYPE_CHECKING:
    from schemaflow.schema.feature import Feature

__all__ = ["FEATURE_NAMES", "NAME", "RESERVED_NAMES", "TAG_SCHEMA", "contradictions"]

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

RESERVED_NAMES = frozenset(
    {
        "self",
        "k",
        "exclude",
        "allow",
        "where",
        "nprobe",
        "identifiers",
        "scores",
        "count",
        "query",
        "candidate",
        "score",
    }
)
"""Words that the exported signatures use for themselves."""

_UNSUPPORTED = frozenset({Tags.TOKENIZED})
"""Tags that have a name but that nothing reads yet: refused, not ignored."""

_READ = [tag for tag in Tags if not _UNSUPPORTED.intersection(atoms([tag]))]

TAG_SCHEMA: JsonDict = {
    "type": "string",
    "anyOf": [
        {"enum": [tag.value for tag in _READ]},  # what an editor offers
        {
            "pattern": f"^({'|'.join(''.join(it if it == '_' else f'[{it}{it.upper()}]' for it in tag) for tag in _READ)})$"
        },
        {"pattern": "^[xX]-[A-Za-z0-9][A-Za-z0-9_-]*$"},
    ],
}
"""What JSON Schema says of a tag: one of the words, or one of the user's own, in any case."""

FEATURE_NAMES: JsonDict = {
    "pattern": f"^(?!where_){NAME.pattern}$",
    "not": {"enum": [*sorted(RESERVED_NAMES), *keyword.kwlist]},
}
"""What JSON Schema says of the names of features."""

_FLOAT32 = 3.4e38
"""The largest number that enters a model."""

_DERIVED = ("buckets", "calendar")
"""Encodings whose rows are made of numbers, and not looked up."""

_KIND_TAGS = (Tags.CONTINUOUS, Tags.CATEGORICAL, Tags.EMBEDDING)
_ROLES = (Tags.WEIGHT, Tags.TARGET, Tags.POSITION, Tags.TIME, Tags.EXPLICIT_NEGATIVE, Tags.TEACHER)
_IDS = frozenset({Tags.ID, Tags.SEQUENCE, Tags.TEXT})


def contradictions(feature: "Feature") -> list[str]:
    """Return what is wrong with a feature, each to be read after its name.

    Example:
        >>> from schemaflow.schema.feature import Feature
        >>> contradictions(Feature.model_construct(name="k", dtype="string", tags=()))
        ['has a name that the exported signatures use themselves; rename it and say "column: <the Parquet name>"']
    """
    problems = _of_name(feature) + _of_tags(feature)
    if problems:
        return problems
    for check in (_of_kind, _of_lists, _of_keys, _of_vocabulary, _of_embedding, _of_missing):
        problems += check(feature)
    return problems


def _of_name(feature: "Feature") -> list[str]:
    if not NAME.fullmatch(feature.name):
        return [
            'has a name that is not letters, digits and underscores beginning with a letter; rename it and say "column: <the Parquet name>"'
        ]
    if feature.name in RESERVED_NAMES or feature.name.startswith("where_") or keyword.iskeyword(feature.name):
        return [
            'has a name that the exported signatures use themselves; rename it and say "column: <the Parquet name>"'
        ]
    return []


def _of_tags(feature: "Feature") -> list[str]:
    tags = frozenset(feature.tags)
    kinds: list[str] = [tag for tag in _KIND_TAGS if tag in tags]
    if len(kinds) == 1 and kinds[0] is not Tags.CATEGORICAL:
        kinds += sorted(tags & _IDS)
    if len(kinds) > 1:
        return [f"is tagged both {kinds[0]} and {kinds[1]}; keep one"]
    if others := tags & _UNSUPPORTED:
        return [f"is tagged {min(others)}, which nothing reads yet; remove the tag"]
    if feature.kind is None:
        return [f"has dtype {feature.dtype} and may be a number or a code; tag it continuous or categorical"]
    return []


def _of_kind(feature: "Feature") -> list[str]:
    problems = []
    kind, dtype, string, floating = (
        feature.kind,
        feature.dtype,
        feature.dtype == "string",
        feature.dtype.startswith("float"),
    )
    if kind == "categorical" and floating and feature.buckets is None:
        problems.append(
            f"is categorical but has dtype {dtype}; use an integer or string dtype, tag it continuous, or add buckets"
        )
    if kind in ("continuous", "weights") and string:
        problems.append(f"is {kind} but has dtype string; give it a number's dtype, or tag it categorical")
    if kind == "vector" and not floating:
        problems.append(f"is tagged embedding but has dtype {dtype}; a dense vector holds float32 or float64")
    if Tags.TEXT in feature.tags and not string:
        problems.append(f"is tagged text but has dtype {dtype}; a text is a string")
    roles = [tag for tag in _ROLES if tag in feature.tags]
    if roles == [Tags.EXPLICIT_NEGATIVE] and (string or floating):
        problems.append(f"is tagged explicit_negative but has dtype {dtype}; it is 0 or 1: use an integer dtype")
    elif roles == [Tags.TEACHER] and not floating:
        problems.append(
            f"is tagged teacher but has dtype {dtype}; a score is a number that may be missing: use float32"
        )
    elif roles and string:
        problems.append(f"is tagged {roles[0]} but has dtype string; a {roles[0]} is a number")
    if Tags.BIAS in feature.tags:
        problems += _of_bias(feature, roles)
    if len(roles) > 1:
        problems.append(f"is tagged both {roles[0]} and {roles[1]}; keep one")
    if Tags.FILTER in feature.tags:
        problems += _of_filter(feature, roles)
    if feature.time is not None:
        problems += _of_time(feature)
    if frozenset({Tags.ID, Tags.SEQUENCE, Tags.TEXT}) & frozenset(feature.tags) and feature.encoding in _DERIVED:
        problems.append("is an id, a sequence or a text, but its rows are buckets or parts of a moment; remove one")
    if Tags.TEXT in feature.tags and Tags.ID in feature.tags:
        problems.append("is tagged both id and text; keep one")
    return problems


def _of_filter(feature: "Feature", roles: list[Tags]) -> list[str]:
    if not any(tag is Tags.ITEM or OWN.fullmatch(tag) for tag in feature.tags):
        return ["is tagged filter but not item; the items are filtered: tag it item, or remove filter"]
    if kept := [role for role in roles if role is not Tags.TIME]:
        return [f"is tagged both filter and {kept[0]}, which is of an interaction and not of its item; keep one"]
    if feature.kind == "vector" or feature.text_like:
        what = "a dense vector" if feature.kind == "vector" else "a text"
        return [f"is tagged filter but is {what}; filter by strings, numbers or lists of them: remove filter"]
    return []


def _of_bias(feature: "Feature", roles: list[Tags]) -> list[str]:
    if others := [*filter(is_side, feature.tags), *roles, *({Tags.FILTER, Tags.ID, Tags.SEQUENCE} & {*feature.tags})]:
        return [
            f"is tagged both bias and {others[0]}; what only debiasing reads is of no side and has no other role: keep one"
        ]
    if feature.kind != "categorical":
        return [
            f"is tagged bias but {feature.kind}; bias features enter through tables: tag it categorical, or add buckets"
        ]
    return []


def _of_time(feature: "Feature") -> list[str]:
    problems = []
    take = None if feature.time is None else feature.time.take
    if feature.dtype != "int64":
        problems.append(f'has "time" but dtype {feature.dtype}; a moment is an int64')
    if take is None and not {Tags.TIME, Tags.FILTER}.intersection(feature.tags):
        problems.append('has "time" but takes nothing of it; add "take: hour" (or weekday, age), or tag it time')
    if take is not None and feature.kind == "value":
        problems.append('is kept out of the towers, but takes something of its time; change its tags, or remove "take"')
    if take in ("hour", "weekday") and (Tags.CONTINUOUS in feature.tags or feature.buckets is not None):
        problems.append(f'takes the {take}, which has a row for each value; remove the tag continuous, or "buckets"')
    if take == "age" and feature.kind == "categorical" and feature.buckets is None:
        problems.append("takes the age, which is a number; remove what makes it categorical, or add buckets")
    if take == "age" and feature.normalize == "log1p":
        problems.append(
            "takes the age, which is below 0 for what is newer than the newest seen, and has no log1p; say standard"
        )
    return problems


def _of_lists(feature: "Feature") -> list[str]:
    problems = []
    filtered = feature.kind == "value" and Tags.FILTER in feature.tags
    if feature.list is not None and (not (filtered or feature.kind in ("categorical", "weights")) or feature.text_like):
        problems.append('is a list but not categorical; only categorical features can be lists: remove "list"')
    if Tags.SEQUENCE in feature.tags and feature.list is None:
        problems.append('is a sequence but not a list; add "list: {max_length: …}"')
    if Tags.ID in feature.tags and feature.list is not None and Tags.SEQUENCE not in feature.tags:
        problems.append("is an id and a list; an id is one value a row: tag it categorical or sequence")
    if feature.list is not None and (feature.encoding == "calendar" or feature.is_age):
        problems.append('is a list with a time, which takes one value a row: remove "list"')
    combiner = feature.embedding.combiner if feature.embedding is not None else None
    if feature.weighted_by is not None and feature.kind != "categorical":
        problems.append("is a list of weights and weighted itself; remove one")
    if feature.weighted_by is not None and combiner == "max":
        problems.append("has weights and the combiner max, which does not use them; use mean, sum or sqrtn")
    if feature.weighted_by is not None and feature.aligned_with is not None:
        problems.append("has weights and is aligned with a sequence, whose events are not weighed; remove one")
    if feature.aligned_with is not None and feature.kind != "categorical":
        problems.append("is aligned with a sequence but not categorical; tag it categorical, or add buckets")
    if Tags.ACTION in feature.tags and feature.aligned_with is None:
        problems.append(
            'is tagged action but aligned with no sequence of events; add "list: {aligned_with: <the sequence>}"'
        )
    if combiner is not None and not feature.ragged:
        problems.append('has a combiner but is not a list; add "list: {}" or remove the combiner')
    return problems


def _of_keys(feature: "Feature") -> list[str]:
    """Say which keys mean nothing for this feature."""
    kind, encoding = feature.kind, feature.encoding
    looked_up = encoding not in _DERIVED
    is_number = kind == "continuous" or (kind == "categorical" and feature.dtype != "string")
    out = "is kept out of the towers; remove the key"
    categorical = out if kind == "value" else "is not categorical; tag it categorical or remove the key"
    continuous = out if kind == "value" else "is not continuous; tag it continuous or remove the key"
    rows = f"its rows are {'buckets' if encoding == 'buckets' else 'parts of a time'}; remove the key"
    # for each key: (it means something, what to say where it does not)
    checks = {
        "cardinality": (
            (kind == "categorical" and looked_up) or Tags.POSITION in feature.tags,
            categorical if kind != "categorical" else rows,
        ),
        "vocabulary": (kind == "categorical" and looked_up, categorical if kind != "categorical" else rows),
        "hash": (kind == "categorical" and looked_up, categorical if kind != "categorical" else rows),
        "domain": (kind == "categorical" and looked_up, categorical if kind != "categorical" else rows),
        "oov": (kind == "categorical" and encoding == "vocabulary", "has no vocabulary; remove the key"),
        "embedding": (kind in ("categorical", "vector"), categorical),
        "normalize": (kind == "continuous", continuous),
        "buckets": (is_number, continuous),
        "text": (feature.text_like, "is not tagged text; tag it so or remove the key"),
        "missing": (
            kind in ("categorical", "continuous", "vector") and not feature.ragged,
            "is a list or text, where what is missing takes no part; remove the key" if feature.ragged else out,
        ),
    }
    problems = [
        f'has "{key}" but {reason}'
        for key, (fits, reason) in checks.items()
        if getattr(feature, key) is not None and not fits
    ]
    if feature.value is not None and not (TARGET_KINDS | {Tags.TARGET}).intersection(feature.tags):
        problems.append('has "value" but is no target; tag it target, or remove the key')
    if feature.domain is not None and not NAME.fullmatch(feature.domain):
        problems.append(
            f'has the domain "{feature.domain}"; name it in letters, digits and underscores, beginning with a letter'
        )
    if feature.vocabulary is not None and feature.hash is not None:
        problems.append("has a vocabulary and a hash; keep one")
    return problems


def _of_vocabulary(feature: "Feature") -> list[str]:
    if feature.kind != "categorical" or not isinstance(feature.vocabulary, tuple):
        return []
    problems = []
    if not feature.vocabulary:
        problems.append('has an empty vocabulary; list its values, or say "vocabulary: learned"')
    expected = str if feature.dtype == "string" else int
    if wrong := [value for value in feature.vocabulary if not isinstance(value, expected)]:
        problems.append(
            f"has dtype {feature.dtype} but {wrong[0]!r} in its vocabulary; write its values as {expected.__name__}"
        )
    elif expected is int and (beyond := [value for value in feature.vocabulary if not _fits(value, feature.dtype)]):
        problems.append(
            f"has dtype {feature.dtype} but {beyond[0]} in its vocabulary, which does not fit; widen the dtype"
        )
    elif unseen := [value for value in feature.vocabulary if _stands_for_missing(value, feature.dtype)]:
        problems.append(f"has {unseen[0]!r} in its vocabulary, which stands for a missing value; remove it")
    if repeated := [value for value, times in Counter(feature.vocabulary).items() if times > 1]:
        problems.append(f"has {repeated[0]!r} twice in its vocabulary; remove one")
    return problems


def _of_embedding(feature: "Feature") -> list[str]:
    spec = feature.embedding
    if feature.kind == "vector":
        if spec is None or spec.dim is None:
            return ['is a dense vector but has no width; add "embedding: {dim: <width>}"']
        extra = [
            key
            for key in ("combiner", "initializer", "pretrained", "trainable", "compress")
            if getattr(spec, key) is not None
        ]
        return [f'is a dense vector, which has no table; remove "{key}" from its embedding' for key in extra]
    if spec is None or not isinstance(spec.pretrained, Pretrained):
        return []
    problems = []
    if feature.encoding not in ("vocabulary", "range"):
        problems.append("has pretrained vectors but no vocabulary to match them by; remove one")
    for key, what in (("initializer", "an initializer"), ("compress", "a compressed table")):
        if getattr(spec, key) is not None:
            problems.append(f"has {what} and pretrained vectors; keep one")
    return problems


def _of_missing(feature: "Feature") -> list[str]:
    if feature.missing == "mean" and not (feature.kind == "continuous" or feature.encoding == "buckets"):
        return ['has "missing: mean" but is no number; say error, or {value: …}']
    if not isinstance(feature.missing, Fill):
        return []
    value, dtype = feature.missing.value, feature.dtype
    fits = isinstance(value, str) if dtype == "string" else not isinstance(value, str)
    if fits and dtype[0] in "iu" and not feature.is_age:
        fits = isinstance(value, int) and _fits(value, dtype)
    if not fits:
        return [f"has dtype {dtype} but {value!r} stands in for what is missing; write a value of its dtype"]
    said = f"has {value!r} stand in for what is missing, which"
    unknown = isinstance(feature.vocabulary, tuple) and value not in feature.vocabulary
    rows = feature.cardinality if feature.encoding == "range" else None
    checks = {
        "is the part of no moment; leave it its own row, or say error": feature.encoding == "calendar",
        "is beyond what float32 holds": feature.kind in ("continuous", "vector") and abs(value) > _FLOAT32,
        "is no value of its own; name one that it has": _stands_for_missing(value, dtype) or unknown,
        f"is outside 0 <= id < {rows}, its cardinality": rows is not None and not 0 <= value < rows,
        "has no log(1 + x); name a value above -1": feature.normalize == "log1p" and value <= -1,
    }
    return [f"{said} {reason}" for reason, wrong in checks.items() if wrong]


def _stands_for_missing(value: int | float | str, dtype: str) -> bool:
    """Tell whether a value is what stands for a missing one in tensors."""
    return value == ("" if dtype == "string" else -(2 ** (int(dtype[3:]) - 1)) if dtype[0] == "i" else None)


def _fits(value: int, dtype: str) -> bool:
    """Tell whether an integer is within a dtype."""
    bits = int(dtype.lstrip("uint"))
    return 0 <= value < 2**bits if dtype.startswith("u") else -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
