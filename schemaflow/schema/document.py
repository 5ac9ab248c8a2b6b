"""YAML documents checked by a pydantic model: every mistake on one line, with file, line and column.

The one home of PyYAML. The schema and the run configuration are both read through here, so that they fail alike.
"""

import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from schemaflow.errors import SchemaFlowError, suggest

__all__ = ["Document", "Location", "Version", "as_number", "as_tuple", "dump_flow", "holds_mapping", "parse", "read"]

Location = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


class Document(BaseModel):
    """Base of every part of a document: immutable, no unknown key, no silent conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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


class _Positions:
    """Where each value of a document stands: the (line, column) of its key, or of the value in a sequence."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Location, yaml.Mark] = {}
        self.seen: set[int] = set()

    def prefix(self, location: Location) -> str:
        """Return `file:line:column: ` of the deepest part of `location` that the document holds."""
        found: Location = ()
        for part in location:  # pydantic puts names of union branches between; the document has none of those
            if (*found, part) in self.marks:
                found = (*found, part)
        mark = self.marks.get(found)
        return f"{self.file}:{mark.line + 1}:{mark.column + 1}: " if mark else f"{self.file}: "


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
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: there is no such {schema_of} file") from None
    except UnicodeDecodeError as reason:
        raise error(
            f"{path}: expected a {schema_of} as UTF-8 text, received other bytes at offset {reason.start}"
        ) from None
    except OSError as reason:
        raise error(f"{path}: cannot be read as a {schema_of} file: {reason.strerror}") from None


def parse(text: str, model: type[M], error: type[SchemaFlowError], file: str) -> tuple[M, _Positions]:
    """Return the `model` that `text` describes, and where each of its parts stands.

    Args:
        text: The YAML.
        model: What it must satisfy.
        error: What to raise.
        file: The name for messages.

    Raises:
        SchemaFlowError: Of type `error`, one line for each mistake.
    """
    positions = _Positions(file)
    problems: list[str] = []
    known = ", ".join(field.alias or name for name, field in model.model_fields.items())
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise error(f"{file}: not valid YAML: nested too deeply") from None
    except yaml.YAMLError as reason:
        mark = getattr(reason, "problem_mark", None)
        where = f"{file}:{mark.line + 1}:{mark.column + 1}: " if mark else f"{file}: "
        detail = getattr(reason, "problem", None) or str(reason)
        raise error(f"{where}not valid YAML: {' '.join(str(detail).split())}") from None
    if node is None:
        raise error(f"{file}: the file is empty; expected the keys {known}")
    if not isinstance(node, yaml.MappingNode):
        raise error(f"{file}:1:1: expected keys and values at the top level, such as {known}")
    data = _construct(node, (), positions, problems)
    if problems:
        raise error(*problems)
    try:
        return model.model_validate(data), positions
    except ValidationError as reason:
        raise error(*_explain(reason, model, positions)) from None


def holds_mapping(text: str, key: str) -> bool:
    r"""Tell whether a document has keys and values under a key at its top; not where it is no YAML, which `parse` explains.

    Example:
        >>> holds_mapping("features: {a: 1}", "features"), holds_mapping("features: [a]", "features")
        (True, False)
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return False
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return any(name.value == key and isinstance(value, yaml.MappingNode) for name, value in pairs)


def dump_flow(value: Any) -> str:
    """Return `value` as YAML on one line.

    Example:
        >>> dump_flow({"dtype": "string", "tags": ["user", "id"]})
        '{dtype: string, tags: [user, id]}'
    """
    text = _dump(value, allow_unicode=True)
    # PyYAML writes some breaks and blanks of Unicode plainly, and would read them back as spaces
    return text if text.isprintable() else _dump(value, allow_unicode=False)


def _dump(value: Any, allow_unicode: bool) -> str:
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=allow_unicode, width=10**6
    )
    return text.removesuffix("...\n").strip()


def _construct(node: yaml.Node, location: Location, positions: _Positions, problems: list[str]) -> Any:
    """Turn a YAML node into Python values, noting where each stands."""
    positions.marks.setdefault(location, node.start_mark)
    if not isinstance(node, yaml.ScalarNode):
        if id(node) in positions.seen:  # an alias stands for a node that was there before, maybe for one around it
            problems.append(f"{positions.prefix(location)}an alias (*name) is not supported; write the value out")
            return None
        positions.seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            mark = key_node.start_mark
            where = f"{positions.file}:{mark.line + 1}:{mark.column + 1}: "
            key = key_node.value
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
                received = _shown(key) if isinstance(key_node, yaml.ScalarNode) else "a list or keys and values"
                problems.append(
                    f"{where}expected a name as the key, received {received}; put it in quotes if it is one"
                )
                continue
            if key in mapping:
                first = positions.marks[(*location, key)]
                problems.append(f'{where}the key "{key}" stands twice, first on line {first.line + 1}; remove one')
                continue
            positions.marks[(*location, key)] = mark
            mapping[key] = _construct(value_node, (*location, key), positions, problems)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*location, index), positions, problems) for index, child in enumerate(node.value)]
    try:
        return _scalar(node)
    except (ValueError, yaml.YAMLError) as reason:
        problems.append(
            f"{positions.prefix(location)}{_shown(node.value)} is not a value: {' '.join(str(getattr(reason, 'problem', reason)).split())}"
        )
        return None


def _scalar(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return (
            f"the boolean {str(value).lower()} (YAML reads yes, no, on and off as booleans: put such a word in quotes)"
        )
    text = dump_flow(value) if isinstance(value, (dict, list)) else f"{value}"
    return f'"{text}"' if isinstance(value, str) else text


def _explain(reason: ValidationError, model: type[BaseModel], positions: _Positions) -> list[str]:
    """Say each mistake that pydantic found in our words."""
    lines: list[str] = []
    for mistake in reason.errors(include_url=False):
        # the names of a union's branches, which begin with @, are no part of the document
        location: Location = tuple(part for part in mistake["loc"] if not str(part).startswith("@"))
        where = positions.prefix(location)
        cause = mistake.get("ctx", {}).get("error")
        if isinstance(cause, SchemaFlowError):
            inside = f'feature "{location[1]}": ' if location[:1] == ("features",) and len(location) > 2 else ""
            lines += [f"{where}{inside}{problem}" for problem in cause.problems]
        else:
            lines.append(f"{where}{_sentence(mistake, location, model)}")
    return list(dict.fromkeys(lines))


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
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _keys_at(get_args(annotation)[1], location[1:]) if location else []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = annotation.model_fields
        if not location:
            return [field.alias or name for name, field in fields.items() if not field.exclude]
        field = next((field for name, field in fields.items() if location[0] in (name, field.alias)), None)
        return _keys_at(field.annotation, location[1:]) if field else []
    return []
