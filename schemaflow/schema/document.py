"""YAML documents checked by a pydantic model: every mistake on one line, with file, line and column.

The schema and the run configuration are both read through here, so that they fail alike.
"""

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from schemaflow.errors import SchemaFlowError, suggest
from schemaflow.schema.json_schema import describe
from schemaflow.schema.parsed import NOWHERE, Location, Parsed
from schemaflow.schema.yaml_text import dump_flow, load

__all__ = ["Document", "Version", "as_number", "as_tuple", "holds_mapping", "parse", "read"]

M = TypeVar("M", bound=BaseModel)


class Document(BaseModel):
    """Base of every part of a document: immutable, no unknown key, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True, json_schema_extra=describe)

    @classmethod
    def model_rebuild(cls, **options: Any) -> bool | None:
        """Build what was put off until its first use.

        Without a look into the caller's frame for names, of which annotations here have none: it would be one of a
        comprehension at times, and reading its locals crashes Python 3.13.0.
        """
        return super().model_rebuild(**{**options, "_parent_namespace_depth": 0})


def _exactly_an_integer(value: Any) -> Any:
    """Take 1, and neither true nor 1.0, which are equal to it."""
    return value if type(value) is int else str(value)


Version = Annotated[Literal[1], BeforeValidator(_exactly_an_integer)]
"""The version of a document's grammar."""


def as_tuple(value: Any) -> Any:
    """Return a YAML list as a tuple, and anything else as it is, for pydantic to refuse."""
    return tuple(value) if isinstance(value, list) else value


def as_number(value: Any) -> Any:
    """Return 1e-3, which YAML takes for text, as the number it is, and anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def read(path: str | Path, error: type[SchemaFlowError], schema_of: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        error: What to raise.
        schema_of: What the file should hold, for the message ("schema", "run configuration").

    Raises:
        SchemaFlowError: Of type `error`, when there is no such file, or it is not UTF-8 text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: there is no such {schema_of} file") from None
    except UnicodeDecodeError as reason:
        raise error(
            f"{path}: expected a {schema_of} as UTF-8 text, received other bytes at offset {reason.start}"
        ) from None
    except OSError as reason:
        raise error(f"{path}: cannot be read as a {schema_of} file: {reason.strerror}") from None


def parse(text: str, model: type[M], file: str) -> Parsed[M]:
    """Read `text` as a `model`, and keep everything that is wrong with it for `Parsed.require` to raise.

    Args:
        text: The YAML.
        model: What it must satisfy.
        file: The name for messages.
    """
    parsed: Parsed[M] = load(text, file)
    known = ", ".join(_keys_at(model, ()))
    if isinstance(parsed.data, dict):
        try:
            parsed.value = model.model_validate(parsed.data)
        except ValidationError as reason:
            _explain(reason, model, parsed)
    elif parsed.data is not None:
        parsed.add((), f"expected keys and values at the top level, such as {known}")
    elif parsed.sound(()):
        parsed.add((), f"the file is empty; expected the keys {known}", NOWHERE)
    return parsed


def holds_mapping(text: str, key: str) -> bool:
    r"""Tell whether a document has keys and values under a key at its top; not where it is no YAML, which `parse` explains.

    Example:
        >>> holds_mapping("features: {a: 1}", "features"), holds_mapping("features: [a]", "features")
        (True, False)
    """
    data = load(text, "").data
    return isinstance(data, dict) and isinstance(data.get(key), dict)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return (
            f"the boolean {str(value).lower()} (YAML reads yes, no, on and off as booleans: put such a word in quotes)"
        )
    text = dump_flow(value) if isinstance(value, (dict, list)) else f"{value}"
    return f'"{text}"' if isinstance(value, str) else text


def _explain(reason: ValidationError, model: type[BaseModel], parsed: Parsed[Any]) -> None:
    """Say each mistake that pydantic found in our words, but for what follows from a value that could not be read."""
    mistakes = [
        it
        for it in reason.errors(include_url=False)
        if parsed.sound(it["loc"] if it["type"] == "missing" else parsed.within(it["loc"]))
    ]
    for mistake in mistakes:
        location: Location = ()
        for part in mistake["loc"]:  # the names of a union's branches, which begin with @, are no part of the document
            if not str(part).startswith("@") or parsed.within((*location, part)) != location:
                location = (*location, part)
        cause = mistake.get("ctx", {}).get("error")
        if isinstance(cause, SchemaFlowError):
            inside = f'feature "{location[1]}": ' if location[:1] == ("features",) and len(location) > 2 else ""
            for problem in cause.problems:
                parsed.add(location, f"{inside}{problem}")
        else:
            parsed.add(location, _sentence(mistake, location, model))


def _sentence(mistake: ErrorDetails, location: Location, model: type[BaseModel]) -> str:
    holder, key = _holder(location[:-1]), location[-1] if location else ""
    kind, received = mistake["type"], _shown(mistake["input"])
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f'unknown key "{key}"{holder}{suggest(str(key), known) or "; known: " + ", ".join(known)}'
    if kind == "missing":
        return f'the key "{key}" is missing{holder}'
    expected = mistake["msg"]
    expected = re.sub(r"^(Input|Value|List|Tuple|Dictionary) should (be|have) (a |an )?", "", expected)
    expected = re.sub(r" after validation, not \d+$", "", expected)
    expected = re.sub(r"valid (dictionary|mapping).*", "keys and values", expected)
    expected = expected.replace("valid tuple", "list").replace("valid ", "")
    did = suggest(mistake["input"], re.findall(r"'([^']+)'", expected)) if isinstance(mistake["input"], str) else ""
    return f'"{key}"{holder}: expected {expected}, received {received}{did}'


def _holder(location: Location) -> str:
    """Name the part of the document that a mistake is in.

    Example:
        >>> _holder(("features", "age"))
        ' in feature "age"'
    """
    names = [str(part) for part in location if isinstance(part, str)]
    if len(names) >= 2 and names[0] in ("features", "tables"):
        inner = f"{'.'.join(names[2:])} of " if names[2:] else ""
        return f' in {inner}{names[0].removesuffix("s")} "{names[1]}"'
    return f' in "{".".join(names)}"' if names else ""


def _keys_at(annotation: Any, location: Sequence[str | int]) -> list[str]:
    """Return the keys that a model knows at a location."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _keys_at(get_args(annotation)[0], location)
    if origin in (Union, types.UnionType):
        found = [keys for option in get_args(annotation) if (keys := _keys_at(option, location))]
        return found[0] if found else []
    if origin is not None and isinstance(origin, type) and issubclass(origin, (Mapping, tuple)):
        return _keys_at(get_args(annotation)[0 if origin is tuple else 1], location[1:]) if location else []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        if not location:
            return [field.alias or name for name, field in fields.items() if not field.exclude]
        field = next((field for name, field in fields.items() if location[0] in (name, field.alias)), None)
        return _keys_at(field.annotation, location[1:]) if field else []
    return []
