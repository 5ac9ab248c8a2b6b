"""Which features make which tower."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemaflow.errors import SchemaError
from schemaflow.schema.feature import Feature
from schemaflow.schema.tags import OWN, Tags, is_side

__all__ = ["Sides", "belongs", "same_side", "sides_of", "tower_tags", "towers_of"]


@dataclass(frozen=True)
class Sides:
    """The features of each tower.

    Args:
        query: Of the query tower, context included.
        item: Of the item tower.
        item_id: The one that tells items apart.
        weight: The one that weighs each interaction in the loss, if any.
        explicit_negative: The one that marks rows whose item was refused, if any.
        filters: Those that items are filtered by, whether they are of the tower or not.
        valued: The targets whose labels say what a row is worth, if any.
    """

    query: tuple[Feature, ...]
    item: tuple[Feature, ...]
    item_id: Feature
    weight: Feature | None = None
    explicit_negative: Feature | None = None
    filters: tuple[Feature, ...] = ()
    valued: tuple[Feature, ...] = ()


def tower_tags(schema: Iterable[Feature]) -> tuple[Tags | str, Tags | str]:
    """Return the tags of the query and of the item tower that a schema is made for: user and item, if it has them.

    A side of the user's own stands in for one that is lacking: the first for the query, the last for the items; and for
    both where the schema has no item.

    Example:
        >>> from schemaflow.schema import Schema
        >>> tower_tags(Schema.from_yaml("schemas/movielens_item_to_item.yaml"))
        ('x-seed', 'x-next')
    """
    tagged = list(dict.fromkeys(tag for it in schema if it.kind != "value" for tag in it.tags))
    own = [tag for tag in tagged if OWN.fullmatch(tag)]
    item = own.pop() if own and Tags.ITEM not in tagged else Tags.ITEM
    return own[0] if own and (item is not Tags.ITEM or Tags.USER not in tagged) else Tags.USER, item


def sides_of(
    schema: Iterable[Feature], query_tag: Tags | str | None = None, item_tag: Tags | str | None = None
) -> Sides:
    """Return the features of each tower: those with its tag; the query tower takes context and session too.

    Args:
        schema: The features.
        query_tag: Of the query tower; what `tower_tags` says if None.
        item_tag: Of the item tower; likewise.

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
    query_tag: Tags | str | None = None,
    item_tag: Tags | str | None = None,
    whole: bool = True,
) -> tuple[Sides | None, list[tuple[str | None, str]]]:
    """Return the features of each tower, or what is wrong with them: a feature's name, where it is one's, and the problem.

    Args:
        schema: The features.
        query_tag: Of the query tower; what `tower_tags` says if None.
        item_tag: Of the item tower; likewise.
        whole: Whether these are all features; of some alone, what is lacking is no problem.
    """
    derived = tower_tags(schema)
    query_tag, item_tag = derived[0] if query_tag is None else query_tag, derived[1] if item_tag is None else item_tag
    inputs = [feature for feature in schema if feature.kind != "value" and not feature.has(Tags.BIAS)]
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
            # context and session alone can be a query, but not that of a side of one's own, whose name may be misspelt
            if not features or (OWN.fullmatch(tag) and not any(it.has(tag) for it in features))
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
        if not any(it.has(tag) for tag in (query_tag, item_tag)) and not any(map(is_side, it.tags))
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
    roles: list[Feature | None] = []
    for role in (Tags.WEIGHT, Tags.EXPLICIT_NEGATIVE):
        tagged = [it for it in schema if it.has(role) and it.kind == "value"]
        if len(tagged) > 1:
            names = " and ".join(f'"{it.name}"' for it in tagged)
            problems.append((tagged[1].name, f"features {names} are both tagged {role}; an interaction has one"))
        roles.append(tagged[0] if tagged else None)
    filters = tuple(it for it in schema if it.has(Tags.FILTER) and it.has(item_tag))
    asked = {f"{it.name}{end}": it for it in filters if it.dtype != "string" for end in ("_min", "_max")}
    problems += [
        (
            it.name,
            f'features "{asked[it.name].name}" and "{it.name}" are both filters, and requests would ask for both as'
            f' where_{it.name}; rename one and say "column: <the Parquet name>"',
        )
        for it in filters
        if it.name in asked
    ]
    if problems or not ids:
        return None, problems
    valued = tuple(it for it in schema if it.value is not None)
    return Sides(query, item, ids[0], roles[0], roles[1], filters, valued), problems


def same_side(feature: Feature, key: Feature) -> bool:
    """Tell whether a table joined by a key may hold a feature."""
    return any(is_side(tag) and tag in key.tags for tag in feature.tags)


def belongs(feature: Feature, key: Feature | None) -> bool:
    """Tell whether a feature is read from a table: any from the interactions, from a side table its key and its side."""
    return key is None or feature.name == key.name or same_side(feature, key)
