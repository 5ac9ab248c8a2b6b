"""Schemas of every kind that the grammar allows, as Hypothesis draws them: what a YAML file would say."""

import keyword
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

__all__ = ["documents"]

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True).filter(
    lambda it: (
        not (
            it
            in {
                "self",
                "k",
                "exclude",
                "allow",
                "where",
                "identifiers",
                "scores",
                "count",
                "query",
                "candidate",
                "score",
            }
            or it.startswith("where_")
            or keyword.iskeyword(it)
        )
    )
)
WORDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
FILES = WORDS.map(lambda it: f"{it}.parquet")
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
SIDES = st.sampled_from(["user", "item", "context", "USER", "Item", "x-seed", "X-Next_2"])
INITIALIZERS = st.sampled_from(["zeros", "ones", "random_uniform", "glorot_normal"])


def mapping(required: dict[str, Any] | None = None, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(required or {}, optional=optional)


ROWS = st.one_of(
    st.fixed_dictionaries(
        {
            "vocabulary": st.one_of(
                st.just("learned"),
                st.lists(
                    st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), min_size=1, max_size=4, unique=True
                ),
                mapping({"file": FILES}, column=WORDS),
            )
        },
        optional={"oov": st.integers(1, 4), "cardinality": st.integers(20, 99)},
    ),
    st.fixed_dictionaries({"hash": st.integers(1, 1000)}),
    st.fixed_dictionaries({"cardinality": st.integers(20, 99)}),
)
LIST = mapping(max_length=st.integers(1, 9))
COMPRESS = mapping({"remainders": st.integers(1, 9)}, operation=st.sampled_from(["product", "sum"]))
TABLE = mapping(dim=st.integers(1, 64), initializer=INITIALIZERS, trainable=st.booleans(), compress=COMPRESS)
POOLED = mapping(dim=st.integers(1, 64), combiner=st.sampled_from(["mean", "sum", "sqrtn", "max"]))
PRETRAINED = st.fixed_dictionaries(
    {"pretrained": st.fixed_dictionaries({"file": FILES, "key": WORDS, "vector": WORDS})}
)
TEXT = mapping(
    standardize=st.sampled_from(["lower_and_strip_punctuation", "lower", "strip_punctuation", "none"]),
    split=st.sampled_from(["whitespace", "character"]),
)


DOMAINS = ["no", "null", "e3", "on", "y"]  # of which YAML takes some for other things than words


def tagged(*tags: str) -> st.SearchStrategy[list[str]]:
    return SIDES.map(lambda side: [side, *tags])


def number(dtype: str, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    missing = st.one_of(st.sampled_from(["error", "mean"]), st.fixed_dictionaries({"value": value}))
    head = {"dtype": st.just(dtype), "tags": tagged("continuous")}
    return st.one_of(
        mapping(head, normalize=st.sampled_from(["standard", "min-max", "log1p"]), missing=missing, column=WORDS),
        mapping(
            {
                **head,
                "buckets": st.one_of(
                    st.lists(NUMBERS, min_size=1, max_size=4, unique=True).map(sorted),
                    st.fixed_dictionaries({"quantiles": st.integers(2, 20)}),
                ),
            },
            missing=missing,
        ),
    )


def looked_up(dtype: str, rows: st.SearchStrategy[dict[str, Any]], tag: str = "categorical") -> st.SearchStrategy[Any]:
    words = st.one_of(st.just("error"), st.fixed_dictionaries({"value": WORDS if dtype == "string" else st.just(7)}))
    head = {"dtype": st.just(dtype), "tags": tagged(tag)}
    ends = (
        mapping(head, column=WORDS, embedding=TABLE, missing=words),
        mapping({**head, "list": LIST}, embedding=POOLED),
    )
    return st.tuples(st.one_of(ends), rows).map(lambda parts: parts[0] | parts[1])


SPECS = st.one_of(
    looked_up("string", ROWS),
    looked_up("int64", st.fixed_dictionaries({"cardinality": st.integers(1, 99)})),
    mapping({"dtype": st.just("string"), "tags": tagged("id"), "vocabulary": st.just("learned")}, embedding=PRETRAINED),
    number("float32", NUMBERS),
    number("int8", st.integers(-127, 127)),
    mapping({"dtype": st.just("string"), "tags": tagged("text"), "vocabulary": st.just("learned")}, text=TEXT),
    mapping(
        {
            "dtype": st.sampled_from(["float32", "float64"]),
            "tags": tagged("embedding"),
            "embedding": st.fixed_dictionaries({"dim": st.integers(1, 512)}),
        }
    ),
    mapping(
        {
            "dtype": st.just("int64"),
            "tags": SIDES.map(lambda it: [it]),
            "time": mapping(
                {"take": st.sampled_from(["hour", "weekday", "age"])}, unit=st.sampled_from(["s", "ms", "us", "ns"])
            ),
        }
    ),
    st.sampled_from(
        [
            {"dtype": "int64", "tags": ["time"], "column": "moment"},
            {"dtype": "float32", "tags": ["target", "regression"]},
            {"dtype": "int8", "tags": ["binary_classification", "target"]},
            {"dtype": "float32", "tags": ["weight"]},
            {"dtype": "int8", "tags": ["position"]},
            {"dtype": "int32", "tags": ["position"], "cardinality": 11},
            {"dtype": "string", "tags": ["bias"], "vocabulary": "learned"},
            {"dtype": "uint8", "tags": ["explicit_negative"]},
            {"dtype": "float32", "tags": ["teacher"]},
            {"dtype": "string"},
        ]
    ),
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """The keys and values of a valid schema file."""
    names = draw(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.casefold))
    document: dict[str, Any] = {"version": 1, "features": {name: deepcopy(draw(SPECS)) for name in names}}
    for spec in document["features"].values():
        if isinstance(spec.get("missing"), dict):  # what stands in is a value that the feature has
            if isinstance(spec.get("vocabulary"), list):
                spec["missing"]["value"] = spec["vocabulary"][0]
            elif spec.get("normalize") == "log1p":
                spec["missing"]["value"] = abs(spec["missing"]["value"])
            elif spec["dtype"] == "int64" and "cardinality" in spec and "vocabulary" not in spec:
                spec["missing"]["value"] = spec["cardinality"] - 1
    for domain, (name, spec) in zip(DOMAINS, list(document["features"].items()), strict=False):
        if {"vocabulary", "hash"} & spec.keys() and domain not in map(str.casefold, names) and draw(st.booleans()):
            spec["domain"] = domain
        if "list" in spec and draw(st.booleans()):
            document["features"][f"how_{name}"] = {
                "dtype": "string",
                "tags": [spec["tags"][0], "action"],
                "hash": 5,
                "list": {**spec["list"], "aligned_with": name},
            }
            spec["tags"] = [*spec["tags"], "sequence"]
        elif "list" in spec and draw(st.booleans()):
            spec["list"]["weights"] = f"weights_of_{name}"
            document["features"][f"weights_of_{name}"] = {
                "dtype": "int32",
                "tags": [spec["tags"][0], "weight"],
                "list": {},
            }
            spec.get("embedding", {}).pop("combiner", None)  # max takes no weights
    if draw(st.booleans()):
        document["name"] = draw(WORDS)
    keys = [name for name, spec in document["features"].items() if "id" in spec.get("tags", ())]
    if keys:
        table = mapping({"file": FILES, "key": st.sampled_from(keys)}, column=WORDS)
        document["tables"] = draw(st.dictionaries(WORDS, table, max_size=2))
    return document
