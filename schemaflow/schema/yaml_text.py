"""YAML as values and back: the one home of PyYAML.

Values are built from the events of the text, so that each is told where it stands, a key that stands twice is seen, and
what YAML 1.1 reads otherwise than people write (010, 1:30, 2024-01-01) is refused.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import yaml

from schemaflow.schema.parsed import NOWHERE, Location, Mark, Parsed

__all__ = ["dump_flow", "load"]

_DEEPEST = 32
"""The most levels of lists, keys and values: far more than any grammar here has, far fewer than Python's stack."""

_PLAIN_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_resolve: Any = yaml.resolver.Resolver().resolve


def load(text: str, file: str) -> Parsed[Any]:
    """Return the values of a text, or what is wrong with it as YAML.

    Example:
        >>> load("{name: shop, rows: 010}", "shop.yaml").data["name"]
        'shop'
    """
    if yaml.__with_libyaml__:  # ten times as fast as PyYAML's own scanner, which says better what is wrong
        with suppress(yaml.YAMLError, UnicodeError):
            return _Reader(yaml.parse(text, Loader=yaml.CSafeLoader), file).read()
    reader = _Reader(yaml.parse(text, Loader=yaml.SafeLoader), file)
    try:
        return reader.read()
    except yaml.YAMLError as reason:
        _explain_yaml(reason, text, reader.parsed)
        return reader.parsed


def _explain_yaml(reason: yaml.YAMLError, text: str, parsed: Parsed[Any]) -> None:
    if isinstance(reason, yaml.reader.ReaderError):
        before = text[: reason.position]
        mark = before.count("\n") + 1, len(before) - before.rfind("\n")
        parsed.add(
            (), f"not valid YAML: the character U+{ord(text[reason.position]):04X} may not stand here; remove it", mark
        )
        return
    mark, problem = NOWHERE, str(reason)
    if isinstance(reason, yaml.MarkedYAMLError):
        mark = _mark(reason.problem_mark) if reason.problem_mark else NOWHERE
        problem = reason.problem or problem
        if reason.context and reason.context_mark:
            problem += f", {reason.context} that begins on line {reason.context_mark.line + 1}"
    if "'\\t'" in problem:
        problem = "a tab where YAML takes spaces alone; replace it by spaces"
    parsed.add((), f"not valid YAML: {problem}", mark)


class _Reader:
    """Python values from the events of a YAML text, which come from libyaml or from PyYAML itself."""

    def __init__(self, events: Iterator[yaml.Event], file: str) -> None:
        self.events = events
        self.parsed: Parsed[Any] = Parsed(file)

    def read(self) -> Parsed[Any]:
        """Read the only document of the text."""
        next(self.events)  # the stream begins
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return self.parsed
        self.parsed.data = self.value(next(self.events), ())
        next(self.events)  # the document ends
        event = next(self.events)
        if not isinstance(event, yaml.StreamEndEvent):
            self.parsed.add((), "a second document begins here; a file holds one: remove it", _mark(event.start_mark))
        return self.parsed

    def value(self, event: yaml.Event, location: Location) -> Any:
        """Return the value that begins with an event, and note where it stands."""
        mark = _mark(event.start_mark)
        self.parsed.note(location, mark)
        if len(location) > _DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)  # type: ignore[arg-type]
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.MappingStartEvent):
            value: Any = self.mapping(location)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self.sequence(location)
        elif isinstance(event, yaml.ScalarEvent):
            value = event.value if tag is not None else self.scalar(event, location)
        else:
            self.parsed.add(location, "an alias (*name) is not supported; write the value out")
            return None
        if tag is not None:
            self.parsed.add(location, f"a tag ({tag}) is not supported; write the value without it")
        return value

    def sequence(self, location: Location) -> list[Any]:
        """Return the list whose beginning was read."""
        values: list[Any] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            values.append(self.value(event, (*location, len(values))))
        return values

    def mapping(self, location: Location) -> dict[str, Any]:
        """Return the keys and values whose beginning was read; of a key that stands twice, the first."""
        mapping: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            mark = _mark(event.start_mark)
            if (
                not isinstance(event, yaml.ScalarEvent)
                or event.tag is not None
                or _kind(event.value, event.implicit) != "str"
            ):
                received = f'"{event.value}"' if isinstance(event, yaml.ScalarEvent) else "a list or keys and values"
                self.skip(event, location)
                self.skip(next(self.events), location)
                self.parsed.note((*location, received), mark)
                self.parsed.add(
                    (*location, received),
                    f"expected a name as the key, received {received}; put it in quotes if it is one",
                    mark,
                )
            elif (key := event.value) in mapping:
                self.skip(next(self.events), location)
                self.parsed.remark(f'the key "{key}" stands twice, first on line {lines[key]}; remove one', mark)
            else:
                lines[key] = mark[0]
                self.parsed.note((*location, key), mark)
                mapping[key] = self.value(next(self.events), (*location, key))
        return mapping

    def skip(self, event: yaml.Event, location: Location) -> None:
        """Pass over the value that begins with an event."""
        _Reader(self.events, "").value(event, (*location, ""))

    def scalar(self, event: yaml.ScalarEvent, location: Location) -> Any:
        """Return the value of a scalar, as YAML 1.1 reads it; what its writer may not have meant is refused."""
        kind, text = _kind(event.value, event.implicit), event.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("yes", "true", "on")
        if kind == "int" and _PLAIN_INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and not set(text) & {"_", ":"}:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if kind in ("int", "float"):
            self.parsed.add(location, _odd_number(text, kind))
        elif kind == "timestamp":
            self.parsed.add(location, f'YAML reads {text} as a date; write "{text}", in quotes')
        return text


def _mark(mark: Any) -> Mark:
    return mark.line + 1, mark.column + 1


@lru_cache(maxsize=1024)
def _kind(text: str, implicit: tuple[bool, bool]) -> str:
    """Return what YAML 1.1 takes a scalar for: str, null, bool, int, float, timestamp."""
    tag: str = _resolve(yaml.ScalarNode, text, implicit)
    kind = tag.removeprefix("tag:yaml.org,2002:")
    return "str" if kind in ("value", "merge") else kind  # = and <<


def _odd_number(text: str, kind: str) -> str:
    """Say what YAML makes of a number that is not written in plain decimals."""
    base = {"0b": "binary ", "0x": "hexadecimal "}.get(text.lstrip("+-")[:2], "octal ")
    base = "sexagesimal " if ":" in text else "" if kind == "float" or text.lstrip("+-")[0] != "0" else base
    node = yaml.ScalarNode(f"tag:yaml.org,2002:{kind}", text)
    try:
        number = yaml.constructor.SafeConstructor().construct_object(node)
    except ValueError:  # no digits after 0x, or more digits than Python reads
        return f'YAML reads {text} as a number; write "{text}", in quotes, if it is none'
    return f'YAML reads {text} as the {base}number {number}; write {number}, or "{text}" in quotes'


def dump_flow(value: Any) -> str:
    """Return `value` as YAML on one line.

    Example:
        >>> dump_flow({"dtype": "string", "tags": ["user", "id"]})
        '{dtype: string, tags: [user, id]}'
    """
    text = _dump(value, allow_unicode=True)
    return text if text.isprintable() else _dump(value, allow_unicode=False)


def _dump(value: Any, allow_unicode: bool) -> str:
    text: str = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=allow_unicode, width=10**6
    )
    return text.removesuffix("...\n").strip()


class _Dumper(yaml.SafeDumper):
    """Writes what cannot be printed in double quotes, on one line: PyYAML writes some breaks and blanks plainly."""

    def represent_text(self, text: str) -> yaml.Node:
        """Return the node of a string."""
        plain = text.isprintable()
        return self.represent_scalar("tag:yaml.org,2002:str", text, None if plain else '"')

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out: a document has no aliases."""
        return True


_Dumper.add_representer(str, _Dumper.represent_text)
