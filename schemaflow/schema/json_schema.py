"""The grammar of a document as JSON Schema, from its pydantic model, for editors to complete and check what is typed."""

import inspect
import re
from typing import Any

from pydantic import BaseModel

__all__ = ["describe", "json_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """Return the JSON Schema of a document (draft 2020-12).

    What keys contradict each other is beyond it: reading the document says that.
    """
    return {"$schema": DIALECT, **model.model_json_schema(), "title": title}


def describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put a model's docstring into its JSON Schema: what it is, and what each of its keys is.

    Keys that no document says, which pydantic is told to exclude, are left out.
    """
    text = inspect.getdoc(model) or ""
    sections = re.split(r"^(Args|Raises|Example):\n", text, flags=re.MULTILINE)
    arguments = sections[sections.index("Args") + 1] if "Args" in sections else ""
    meanings = {
        name: " ".join(meaning.split())
        for name, meaning in re.findall(r"^    (\w+): ((?:.*\n?)(?:     .*\n?)*)", arguments, re.MULTILINE)
    }
    schema.pop("title", None)
    schema["description"] = " ".join(sections[0].split())
    for name, field in model.model_fields.items():
        key = field.alias or name
        if field.exclude:
            del schema["properties"][key]
            schema["required"] = [it for it in schema["required"] if it != key]
            continue
        known = schema["properties"][key]
        known.pop("title", None)
        if known.get("default", 0) is None:  # not given, which an editor need not offer
            del known["default"]
        if name in meanings:
            known["description"] = meanings[name]
