"""The feature schema: YAML, features, tags, vocabularies. No TensorFlow."""

from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.options import ListOptions
from schemaflow.schema.schema import Schema, SideTable, as_schema
from schemaflow.schema.tags import Tags

__all__ = ["Feature", "ListOptions", "Schema", "SideTable", "Tags", "as_schema", "encoded_name"]
