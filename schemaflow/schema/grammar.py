"""The grammar of a schema file, and the reading of one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, StrictStr, model_validator

from schemaflow.errors import SchemaError
from schemaflow.schema.consistency import conflicts, unrelated
from schemaflow.schema.document import Document, Version, parse, read
from schemaflow.schema.feature import Feature
from schemaflow.schema.fitted import Fitted
from schemaflow.schema.parsed import Parsed
from schemaflow.schema.rules import FEATURE_NAMES
from schemaflow.schema.sides import towers_of
from schemaflow.schema.table import SideTable

__all__ = ["Parts", "SchemaDocument", "read_parts"]


class SchemaDocument(Document):
    """A schema: the features of a retrieval problem.

    Args:
        version: Of this grammar.
        name: What the data is called.
        fitted: The folder of what was learned from data, beside this file; written with it.
        tables: Side tables by name.
        features: The features by name, in order.
    """

    version: Version
    name: StrictStr | None = None
    fitted: StrictStr | None = None
    tables: Mapping[str, SideTable] = Field(default_factory=dict)
    features: Annotated[Mapping[str, Feature], Field(min_length=1, json_schema_extra={"propertyNames": FEATURE_NAMES})]

    @model_validator(mode="before")
    @classmethod
    def _name_the_features(cls, data: Any) -> Any:
        features = data.get("features") if isinstance(data, dict) else None
        if not isinstance(features, dict):
            return data
        named = {name: {**spec, "name": name} if isinstance(spec, dict) else spec for name, spec in features.items()}
        return {**data, "features": named}


class Parts(NamedTuple):
    """What a schema file holds."""

    features: tuple[Feature, ...]
    name: str | None
    tables: Mapping[str, SideTable]
    fitted: Fitted
    folder: Path


def read_parts(path: Path, towers: bool = False) -> Parts:
    """Return what a schema file holds.

    Args:
        path: The file.
        towers: Whether it must also give both towers their features.

    Raises:
        SchemaError: One line for each mistake of the file, in its order.
    """
    parsed = parse(read(path, SchemaError, "schema"), SchemaDocument, str(path))
    data = parsed.data if isinstance(parsed.data, dict) else {}
    specs, tables = (it if isinstance(it := data.get(key), dict) else {} for key in ("features", "tables"))
    for name, spec in specs.items():
        if isinstance(spec, dict) and "name" in spec:  # where the grammar puts the name that the file gives as a key
            parsed.add(
                ("features", name, "name"), f'unknown key "name" in feature "{name}", whose name that is already'
            )
    fitted = _read_fitted(parsed, path.parent, data.get("fitted"))
    if parsed.value is not None and parsed.sound(()):
        features, sides = tuple(parsed.value.features.values()), dict(parsed.value.tables)
    else:  # what is right is still looked through, so that all mistakes are told at once
        wrong = {name: spec for name, spec in specs.items() if not parsed.sound(("features", name))}
        right = [Feature.model_validate({**spec, "name": name}) for name, spec in specs.items() if name not in wrong]
        features = tuple(unrelated(right, wrong))
        known = {feature.name for feature in features}
        sides = {name: SideTable.model_validate(it) for name, it in tables.items() if parsed.sound(("tables", name))}
        sides = {name: it for name, it in sides.items() if it.key in known or it.key not in specs}
    if towers and (features or parsed.sound(())):
        whole = parsed.value is not None and parsed.sound(())
        for name, problem in towers_of(features, whole=whole)[1]:
            parsed.add(("features", name) if name is not None else ("features",), problem)
    for location, problem in conflicts(features, sides, fitted, specs)[1]:
        parsed.add(location, problem)
    return Parts(features, parsed.require(SchemaError).name, sides, fitted, path.parent)


def _read_fitted(parsed: Parsed[SchemaDocument], folder: Path, name: Any) -> Fitted:
    """Return what was learned, from the folder that a schema file names."""
    if name is None or not parsed.sound(("fitted",)):
        return Fitted()
    try:
        return Fitted.read(folder / name)
    except SchemaError as reason:
        problem = reason.problems[0]
    except OSError as reason:
        problem = f"{folder / name}: cannot be read as a folder of vocabularies: {reason.strerror}"
    parsed.add(("fitted",), problem)
    return Fitted()
