"""What a feature is for: its side, its kind, its role."""

from collections.abc import Iterable
from enum import StrEnum

from schemaflow.errors import SchemaError, suggest

__all__ = ["SIDES", "TARGET_KINDS", "Tags", "atoms", "parse_tag"]


class Tags(StrEnum):
    """The words a schema may tag a feature with.

    The first block holds `merlin.schema.Tags`, value for value; the second is ours. A compound tag is the sum of its
    atoms: a feature tagged `user_id` is tagged `user` and `id`.

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


def parse_tag(word: str) -> Tags:
    """Return the tag that `word` names, in any case.

    Raises:
        SchemaError: There is no such tag.

    Example:
        >>> parse_tag("USER")
        <Tags.USER: 'user'>
    """
    try:
        return Tags(word.lower())
    except ValueError:
        known = [tag.value for tag in Tags]
        raise SchemaError(
            f'unknown tag "{word}"{suggest(word.lower(), known) or "; known: " + ", ".join(known)}'
        ) from None


def atoms(tags: Iterable[Tags | str]) -> tuple[Tags, ...]:
    """Return the tags with every compound one taken apart, each once, in order.

    Example:
        >>> atoms(["user_id", "user"])
        (<Tags.USER: 'user'>, <Tags.ID: 'id'>)
    """
    parsed = [parse_tag(tag) for tag in tags]
    return tuple(dict.fromkeys(atom for tag in parsed for atom in _COMPOUND.get(tag, (tag,))))
