"""The feature schema: YAML, features, tags, vocabularies. No TensorFlow.

Names are loaded when they are first used, so that checking a schema file costs nothing of what learning takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schemaflow.schema.feature import Feature as Feature
    from schemaflow.schema.feature import encoded_name as encoded_name
    from schemaflow.schema.options import ListOptions as ListOptions
    from schemaflow.schema.schema import Schema as Schema
    from schemaflow.schema.schema import as_schema as as_schema
    from schemaflow.schema.table import SideTable as SideTable
    from schemaflow.schema.tags import Tags as Tags

_HOMES = {
    "Feature": "feature",
    "ListOptions": "options",
    "Schema": "schema",
    "SideTable": "table",
    "Tags": "tags",
    "as_schema": "schema",
    "encoded_name": "feature",
}

__all__ = ["Feature", "ListOptions", "Schema", "SideTable", "Tags", "as_schema", "encoded_name"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'schemaflow.schema' has no attribute {name!r}")
    return getattr(import_module(f"schemaflow.schema.{_HOMES[name]}"), name)
