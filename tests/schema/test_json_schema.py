"""JSON Schema and the parser say the same of a schema file, as far as JSON Schema can say it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings

import schemaflow as sf
from schemaflow.errors import SchemaError
from schemaflow.schema.yaml_text import load
from tests.schema.strategies import documents
from tests.schema.test_mistakes import HEAD, MISTAKES, mutated

pytestmark = pytest.mark.short

SCHEMAS = Path(__file__).parents[2] / "schemas"
VALIDATOR = jsonschema.Draft202012Validator(sf.Schema.json_schema())


def test_it_is_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)
    assert VALIDATOR.schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_has_a_description_and_none_is_internal() -> None:
    parts = [VALIDATOR.schema, *VALIDATOR.schema["$defs"].values()]
    keys = {key: spec for part in parts for key, spec in part["properties"].items()}
    assert {"version", "features", "dtype", "cardinality", "max_length", "combiner", "key"} <= keys.keys()
    assert [key for key, spec in keys.items() if not spec.get("description")] == []
    assert [part["description"] for part in parts if "Args" in part["description"] or not part["description"]] == []
    assert all(part["additionalProperties"] is False for part in parts)
    assert "name" not in VALIDATOR.schema["$defs"]["Feature"]["properties"]
    assert keys["cardinality"]["description"].startswith("The rows of its embedding table, reserved ones included.")


def test_the_committed_file_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "schemaflow.cli.app", "json-schema"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=SCHEMAS.parent)
    assert done.stdout == (SCHEMAS / "schema.json").read_bytes()
    assert json.loads(done.stdout) == sf.Schema.json_schema()


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_schemas_here_are_checked_by_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    VALIDATOR.validate(load(text, "").data)


@given(documents())
def test_it_takes_every_schema_that_is_right(document: dict[str, Any]) -> None:
    VALIDATOR.validate(document)


@settings(max_examples=200)
@given(mutated())
def test_it_refuses_nothing_that_the_parser_takes(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "edited.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        sf.Schema.from_yaml(path)
    except SchemaError:
        return
    VALIDATOR.validate(load(text, "").data)


SEEN = [
    (line, text) for line, text in MISTAKES if any(it in text for it in ("unknown", "expected", "missing", " name "))
]


@pytest.mark.parametrize("line", [line for line, _ in SEEN])
def test_it_sees_the_mistakes_of_a_single_key(line: str) -> None:
    parsed = load(f"{HEAD}{line}\n", "s.yaml")
    if parsed.error(SchemaError).problems:  # of YAML itself
        return
    assert not VALIDATOR.is_valid(parsed.data)
    assert VALIDATOR.is_valid(yaml.safe_load(HEAD + "  a: {dtype: int64, tags: [item, id], cardinality: 9}"))
