"""Which features make which tower."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemaflow.errors import SchemaError
from schemaflow.schema.feature import Feature
from schemaflow.schema.tags import SIDES, Tags

__all__ = ["Sides", "belongs", "same_side", "sides_of", "towers_of"]


@dataclass(frozen=True)
class Sides:
    """The features of each tower.

    Args:
        query: Of the query tower, context included.
        item: Of the item tower.
        item_id: The one that tells items apart.
        weight: The one that weighs each interaction in the loss, if any.
        explicit_negative: The one that says which interactions are negatives, if any.
    """

    query: tuple[Feature, ...]
    item: tuple[Feature, ...]
    item_id: Feature
    weight: Feature | None = None
    explicit_negative: Feature | None = None


def sides_of(schema: Iterable[Feature], query_tag: Tags | str = Tags.USER, item_tag: Tags | str = Tags.ITEM) -> Sides:
    """Return the features of each tower: those with its tag; the query tower takes context and session too.

    Raises:
        SchemaError: A tower has no feature, a feature is on no side, or there is not exactly one item id.

    Example:
        >>> from schemaflow.schema import Schema
        >>> [feature.name for feature in sides_of(Schema.from_yaml("schemas/movielens_100k.yaml")).item]
        ['movie_id', 'movie_title', 'year', 'genres']
    """
    sides, problems = towers_of(tuple(schema), query_tag, item_tag)
    if sides is None:
        raise SchemaError(*(problem for _, problem in problems))
    return sides


def towers_of(
    schema: Sequence[Feature],
    query_tag: Tags | str = Tags.USER,
    item_tag: Tags | str = Tags.ITEM,
    whole: bool = True,
) -> tuple[Sides | None, list[tuple[str | None, str]]]:
    """Return the features of each tower, or what is wrong with them: a feature's name, where it is one's, and the problem.

    Args:
        schema: The features.
        query_tag: Of the query tower.
        item_tag: Of the item tower.
        whole: Whether these are all features; of some alone, what is lacking is no problem.
    """
    inputs = [feature for feature in schema if feature.kind != "value"]
    of_query = frozenset({Tags.CONTEXT, Tags.SESSION})
    query = tuple(it for it in inputs if it.has(query_tag) or (of_query.intersection(it.tags) and not it.has(item_tag)))
    item = tuple(it for it in inputs if it.has(item_tag))
    ids = [it for it in item if it.has(Tags.ID)]
    problems: list[tuple[str | None, str]] = []
    if whole:
        problems += [
            (
                None,
                f"no feature is tagged {tag}, so the {tower} tower has no input; tag at least one categorical or continuous feature {tag}",
            )
            for tag, tower, features in ((query_tag, "query", query), (item_tag, "item", item))
            if not features
        ]
        if item and not ids:
            problems.append(
                (None, f"expected one feature tagged {item_tag} and id, which tells the items apart; found none")
            )
    problems += [
        (
            it.name,
            f'feature "{it.name}" is {it.kind} but on no side, so nothing would read it; tag it {query_tag}, {item_tag} or context',
        )
        for it in inputs
        if not any(it.has(tag) for tag in (query_tag, item_tag, *SIDES))
    ]
    if len(ids) > 1:
        found = " and ".join(f'"{it.name}"' for it in ids)
        problems.append(
            (
                ids[1].name,
                f"expected one feature tagged {item_tag} and id, which tells the items apart; found {found}",
            )
        )
    users = [it for it in schema if it.has(Tags.USER_ID) and it.list is None]
    if len(users) > 1:
        names = " and ".join(f'"{it.name}"' for it in users)
        problems.append(
            (users[1].name, f"features {names} are both tagged user and id; leave it to the one that tells users apart")
        )
    weights = [it for it in schema if it.has(Tags.WEIGHT) and it.kind == "value"]
    if len(weights) > 1:
        names = " and ".join(f'"{it.name}"' for it in weights)
        problems.append((weights[1].name, f"features {names} are both tagged weight; an interaction has one"))
    if problems or not ids:
        return None, problems
    return Sides(query, item, ids[0], weights[0] if weights else None), problems


def same_side(feature: Feature, key: Feature) -> bool:
    """Tell whether a table joined by a key may hold a feature."""
    return any(feature.has(side) and key.has(side) for side in SIDES)


def belongs(feature: Feature, key: Feature | None) -> bool:
    """Tell whether a feature is read from a table: any from the interactions, from a side table its key and its side."""
    return key is None or feature.name == key.name or same_side(feature, key)
