"""What a feature is for: its side, its kind, its role."""

import re
from collections.abc import Iterable
from enum import StrEnum

from schemaflow.errors import SchemaError, suggest

__all__ = ["OWN", "SIDES", "TARGET_KINDS", "Tags", "atoms", "is_side", "parse_tag"]


class Tags(StrEnum):
    """The words a schema may tag a feature with.

    The first block holds `merlin.schema.Tags`, value for value; the second is ours. A compound tag is the sum of its
    atoms: a feature tagged `user_id` is tagged `user` and `id`. A tag of one's own, such as `x-seed`, is none of these.

    Source: https://github.com/NVIDIA-Merlin/core (merlin/schema/tags.py).
    """

    CATEGORICAL = "categorical"
    CONTINUOUS = "continuous"
    LIST = "list"
    SEQUENCE = "sequence"
    TEXT = "text"
    TOKENIZED = "tokenized"
    TIME = "time"
    EMBEDDING = "embedding"
    ID = "id"
    USER = "user"
    ITEM = "item"
    SESSION = "session"
    CONTEXT = "context"
    TARGET = "target"
    REGRESSION = "regression"
    CLASSIFICATION = "classification"
    BINARY = "binary"
    MULTI_CLASS = "multi_class"
    USER_ID = "user_id"
    ITEM_ID = "item_id"
    SESSION_ID = "session_id"
    TEXT_TOKENIZED = "text_tokenized"
    BINARY_CLASSIFICATION = "binary_classification"
    MULTI_CLASS_CLASSIFICATION = "multi_class_classification"

    POSITION = "position"
    BIAS = "bias"
    WEIGHT = "weight"
    FILTER = "filter"
    TEACHER = "teacher"
    ACTION = "action"
    EXPLICIT_NEGATIVE = "explicit_negative"


SIDES = (Tags.USER, Tags.ITEM, Tags.CONTEXT, Tags.SESSION)
"""Whom a feature is of: context and session are of the query."""

OWN = re.compile(r"x-[a-z0-9][a-z0-9_-]*")
"""A tag of one's own, x- and a name: a side as user and item are, for towers of other things than these."""

TARGET_KINDS = frozenset({Tags.REGRESSION, Tags.CLASSIFICATION, Tags.BINARY, Tags.MULTI_CLASS})
"""What kind of target a feature is; each makes it one."""

_COMPOUND = {
    Tags.USER_ID: (Tags.USER, Tags.ID),
    Tags.ITEM_ID: (Tags.ITEM, Tags.ID),
    Tags.SESSION_ID: (Tags.SESSION, Tags.ID),
    Tags.TEXT_TOKENIZED: (Tags.TEXT, Tags.TOKENIZED),
    Tags.BINARY_CLASSIFICATION: (Tags.BINARY, Tags.CLASSIFICATION),
    Tags.MULTI_CLASS_CLASSIFICATION: (Tags.MULTI_CLASS, Tags.CLASSIFICATION),
}


def parse_tag(word: str) -> Tags | str:
    """Return the tag that `word` names, in any case; one of the user's own, `x-…`, is a string.

    Raises:
        SchemaError: There is no such tag.

    Example:
        >>> parse_tag("USER"), parse_tag("x-seed")
        (<Tags.USER: 'user'>, 'x-seed')
    """
    if not isinstance(word, str):
        raise SchemaError(f'the tag is {word!r}; expected one of Tags, or a word such as "user"')
    lower = word.lower()
    if OWN.fullmatch(lower):
        return lower
    try:
        return Tags(lower)
    except ValueError:
        known = [tag.value for tag in Tags]
        hint = suggest(lower, known) or f"; known: {', '.join(known)}, and your own as x-<name>"
        if lower.startswith("x-"):
            hint = "; one of your own is x- and a name of the letters a to z, digits, - and _"
        raise SchemaError(f'unknown tag "{word}"{hint}') from None


def is_side(tag: Tags | str) -> bool:
    """Tell whether a tag says whom a feature is of.

    Example:
        >>> is_side("item"), is_side("x-seed"), is_side("id")
        (True, True, False)
    """
    return tag in SIDES or OWN.fullmatch(tag) is not None


def atoms(tags: Iterable[Tags | str]) -> tuple[Tags | str, ...]:
    """Return the tags with every compound one taken apart, each once, in order.

    Example:
        >>> atoms(["user_id", "user"])
        (<Tags.USER: 'user'>, <Tags.ID: 'id'>)
    """
    parsed = [parse_tag(tag) for tag in tags]
    return tuple(
        dict.fromkeys(
            atom for tag in parsed for atom in (_COMPOUND.get(tag, (tag,)) if isinstance(tag, Tags) else (tag,))
        )
    )
