"""The requests of `/recommend` and `/similar`: read, held to the limits, and answered many at a time."""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemaflow.errors import ConfigError, suggest
from schemaflow.export import Recommendations, Recommender
from schemaflow.serving.options import ServeOptions

__all__ = [
    "Query",
    "RecommendBody",
    "SimilarBody",
    "lines_of",
    "recommend_all",
    "refuse_infinite",
    "refuse_too_many",
    "similar_to_all",
]


class _Body(BaseModel):
    """A document whose keys are these and no others, each of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def read(cls, document: Any) -> Self:
        """Check a document.

        Raises:
            ConfigError: One line for each mistake.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as reason:
            raise ConfigError(*lines_of(reason, cls)) from None


class RecommendBody(_Body):
    """What `/recommend` takes."""

    features: dict[str, list[Any]] = Field(description="Raw query features by name, one value (or list) a row.")
    k: int | None = Field(None, ge=1, description="How many items for each row; the bundle's own if not given.")
    exclude: list[Any] | None = Field(None, description="Ids that must not come back, or a list of them for each row.")
    allow: list[Any] | None = Field(None, description="Ids of which alone some may come back, or a list for each row.")
    where: dict[str, Any] | None = Field(None, description="What the items must hold, by filter feature.")
    describe: bool = Field(False, description="Whether to add the items' raw features.")


class SimilarBody(_Body):
    """What `/similar` takes."""

    ids: list[Any] = Field(min_length=1, description="Of the items to find similar ones of.")
    k: int = Field(10, ge=1, description="How many items for each.")
    describe: bool = Field(False, description="Whether to add the items' raw features.")


def lines_of(reason: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return a line for each mistake in a document, which names the key."""
    lines = []
    for error in reason.errors(include_url=False):
        name = ".".join(map(str, error["loc"]))
        if error["type"] == "extra_forbidden":
            keys = list(model.model_fields)
            lines.append(f'unknown key "{name}"{suggest(name, keys)} (expected {", ".join(keys)})')
        elif error["type"] == "model_type":
            lines.append(f"expected an object, received {_short(error['input'])}")
        elif error["type"] == "missing":
            lines.append(f'"{name}" is missing')
        else:
            lines.append(f"{name}: {error['msg']}, received {_short(error['input'])}")
    return lines


@dataclass(frozen=True)
class Query:
    """A request of `/recommend`.

    Args:
        features: One list of values for each name.
        rows: How many values each has.
        k: How many items.
        exclude: For each row.
        allow: As given.
        where: As given.
        group: Queries of one group may be answered in one call of the graph.
    """

    features: dict[str, list[Any]]
    rows: int
    k: int
    exclude: Sequence[list[Any] | None] | None
    allow: list[Any] | None
    where: dict[str, Any] | None
    group: Hashable

    @classmethod
    def of(cls, body: RecommendBody, recommender: Recommender, limits: ServeOptions) -> "Query":
        """Return what a body asks.

        Raises:
            ConfigError: It is beyond a limit. What the schema says of the values is checked when they are answered.
        """
        rows = max(map(len, body.features.values()), default=0)
        k = recommender.k if body.k is None else body.k
        refuse_too_many("rows", rows, limits.max_rows, "max_rows")
        refuse_too_many("k", k, limits.max_k, "max_k")
        for feature in recommender.features:
            longest = max((len(it) for it in body.features.get(feature.name, ()) if isinstance(it, list)), default=0)
            refuse_too_many(f'values of feature "{feature.name}" in a row', longest, limits.max_list, "max_list")
        for name, ids in (("exclude", body.exclude), ("allow", body.allow)):
            longest = max((len(it) for it in ids or () if isinstance(it, list)), default=len(ids or ()))
            refuse_too_many(f"ids in {name}", longest, limits.max_exclude, "max_exclude")
        for name, wanted in (body.where or {}).items():
            if isinstance(wanted, list):
                refuse_too_many(f'values of where "{name}"', len(wanted), limits.max_list, "max_list")
        exclude, widest = _for_each(body.exclude, rows)
        regular = (
            exclude is not None
            and all(len(body.features.get(it.name, ())) == rows for it in recommender.features)
            and not any(isinstance(it, (list, type(None))) for it in body.allow or ())
        )
        group: Hashable = object()  # of its own: what is wrong with it must show, and not even out among others
        if regular and len(body.features) == len(recommender.features) and rows:
            # whoever asks for far more than others is not to slow them
            group = (json.dumps([body.where, body.allow], sort_keys=True), max(k + widest, 64).bit_length())
        return cls(
            body.features, rows, k, exclude if exclude is not None else body.exclude, body.allow, body.where, group
        )


def _for_each(ids: list[Any] | None, rows: int) -> tuple[list[list[Any] | None] | None, int]:
    """Return a list for each row, and the longest; None where neither one list nor one for each row is given."""
    if ids is None or not ids:
        return [None] * rows, 0
    if not any(isinstance(it, (list, type(None))) for it in ids):
        return [ids] * rows, len(ids)
    if len(ids) == rows and all(isinstance(it, (list, type(None))) for it in ids):
        return ids, max(len(it or ()) for it in ids)
    return None, 0


def refuse_too_many(what: str, count: int, limit: int, option: str) -> None:
    """Raise `ConfigError` where a request is beyond a limit of the server."""
    if count > limit:
        raise ConfigError(f"{what}: {count} is more than this server takes ({option} is {limit}); ask for fewer")


def refuse_infinite(found: Recommendations) -> None:
    """Raise `ConfigError` where a score is no number that JSON has.

    Example:
        >>> refuse_infinite(Recommendations([["x"]], [[float("inf")]]))
        Traceback (most recent call last):
        schemaflow.errors.ConfigError: row 0 has the score inf; a number is beyond what the model computes with: send a smaller one
    """
    for number, scores in enumerate(found.scores):
        if wrong := [it for it in scores if not math.isfinite(it)]:
            raise ConfigError(
                f"row {number} has the score {wrong[0]}; a number is beyond what the model computes with: send a smaller one"
            )


def recommend_all(recommender: Recommender, queries: Sequence[Query]) -> list[Recommendations]:
    """Answer queries of one group in one call of the graph."""
    first = queries[0]
    if len(queries) == 1:
        return [recommender.recommend(first.features, first.k, first.exclude, first.allow, first.where)]
    features = {name: [value for it in queries for value in it.features[name]] for name in first.features}
    exclude = [ids for it in queries for ids in it.exclude or ()]
    answer = recommender.recommend(features, max(it.k for it in queries), exclude, first.allow, first.where)
    return _parts(answer, [(it.rows, it.k) for it in queries])


def similar_to_all(recommender: Recommender, bodies: Sequence[SimilarBody]) -> list[Recommendations]:
    """Answer requests for as many similar items in one call of the graph."""
    answer = recommender.similar_items([it for body in bodies for it in body.ids], bodies[0].k)
    return _parts(answer, [(len(body.ids), body.k) for body in bodies])


def _parts(answer: Recommendations, sizes: Sequence[tuple[int, int]]) -> list[Recommendations]:
    """Return the answers of which one is made up, by the rows and k of each."""
    parts, start = [], 0
    for rows, k in sizes:
        part = slice(start, start + rows)
        parts.append(
            Recommendations([it[:k] for it in answer.identifiers[part]], [it[:k] for it in answer.scores[part]])
        )
        start += rows
    return parts


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
