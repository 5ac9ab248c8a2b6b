"""NVIDIA Merlin's schema, and the TensorFlow Metadata files (`schema.pbtxt`, `schema.json`) that NVTabular keeps it in.

A Merlin column holds less than a feature does, so each column that we write carries two texts in its properties: the
whole schema, and the column's own fields as they were written. Reading back, a field that differs from what was written
was changed in Merlin, and wins; a column without the texts is another tool's, and is read field by field.

Texts, because Merlin's files turn integers within properties into floats. They drop more: the dtype of strings and
booleans and the domain with it, the sign of unsigned integers, minima of zero. So a field that is absent says nothing.
"""

import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from schemaflow.errors import SchemaError, SchemaFlowError
from schemaflow.schema.feature import DType, Feature
from schemaflow.schema.tags import Tags, parse_tag

if TYPE_CHECKING:
    import merlin.schema

__all__ = ["carried", "features_of", "format_file", "is_merlin", "originals", "parse_file", "to_merlin"]

_SCHEMA = "schemaflow_schema"  # the property that carries the whole schema
_FEATURE = "schemaflow_feature"  # the property that carries the feature's name and the column's fields as written
_WHOLE = (Tags.BINARY_CLASSIFICATION, Tags.MULTI_CLASS_CLASSIFICATION)  # compounds that Merlin does not take apart


def is_merlin(value: object) -> bool:
    """Tell whether a value is a `merlin.schema.Schema`, without importing Merlin."""
    return any(it.__module__.startswith("merlin.schema") and it.__name__ == "Schema" for it in type(value).__mro__)


def _merlin() -> tuple[Any, Any, Any]:
    """Import merlin.schema, its reader and writer of files, and the messages of these."""
    try:
        with warnings.catch_warnings():  # it takes seconds, and warns of each library it does without
            warnings.simplefilter("ignore")
            from merlin import schema
            from merlin.schema.io import schema_bp, tensorflow_metadata
    except Exception as reason:  # beside other versions of dask, pandas or protobuf it fails in many ways
        raise SchemaError(
            f"merlin.schema cannot be imported ({' '.join(str(reason).split())}); it needs Python < 3.12 and"
            ' "pip install merlin-core"; or keep the schema as YAML, which needs neither'
        ) from None
    return schema, tensorflow_metadata.TensorflowMetadata, schema_bp


# -- to Merlin --------------------------------------------------------------------------------------------------------


def to_merlin(
    features: Sequence[Feature], rows: Mapping[str, int], config: Mapping[str, Any]
) -> "merlin.schema.Schema":
    """Return the Merlin schema of features.

    Args:
        features: The features, at least one.
        rows: The rows of their embedding tables, where known.
        config: The whole schema as JSON values, carried in the columns' properties.

    Raises:
        SchemaError: There is no feature, or Merlin cannot be imported.
    """
    if not features:
        raise SchemaError("a schema without features has no Merlin schema: Merlin keeps all it knows in columns")
    merlin, _, _ = _merlin()
    names = _column_names(features)
    whole = json.dumps(config)
    columns = []
    for feature in features:
        column = _column(merlin, feature, names[feature.name], rows.get(feature.table))
        note = json.dumps({"feature": feature.name, "written": _fields(column)})
        columns.append(column.with_properties({_FEATURE: note, _SCHEMA: whole}))
    return merlin.Schema(columns)


def _column_names(features: Sequence[Feature]) -> dict[str, str]:
    """Return each feature's name in Merlin: that of its Parquet column, unless others read or are called the same."""
    readers = Counter(feature.source for feature in features)
    names = {feature.name for feature in features}
    return {
        it.name: it.source if readers[it.source] == 1 and it.source not in names - {it.name} else it.name
        for it in features
    }


def _column(merlin: Any, feature: Feature, name: str, rows: int | None) -> Any:
    properties: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    dim = feature.embedding.dim if feature.embedding is not None else None
    if feature.kind == "categorical" and rows is not None:
        properties["domain"] = {"min": 0, "max": rows - 1, "name": feature.table}
        if dim is not None:
            properties["embedding_sizes"] = {"cardinality": rows, "dimension": dim}
    if feature.kind == "vector":
        properties["value_count"] = {"min": dim, "max": dim}
    elif feature.list is not None and feature.list.max_length is not None:
        properties["value_count"] = {"min": 0, "max": feature.list.max_length}
    elif feature.list is not None:
        shape = {"is_list": True, "is_ragged": True}
    tags = [*feature.tags, *(tag for tag in _WHOLE if feature.has(tag))]
    return merlin.ColumnSchema(
        name, tags=[str(tag) for tag in tags], dtype=feature.dtype, properties=properties, **shape
    )


# -- from Merlin ------------------------------------------------------------------------------------------------------


def carried(schema: "merlin.schema.Schema") -> Any:
    """Return the whole schema that a Merlin schema carries, as JSON values, or None where it is another tool's.

    Raises:
        SchemaError: It holds no column, or columns of several schemas, or the column that carried the schema was removed.
    """
    if not len(schema):
        raise SchemaError("the Merlin schema holds no column; expected at least one")
    wholes = {column.properties[_SCHEMA] for column in schema if _SCHEMA in column.properties}
    ours = [column.name for column in schema if _FEATURE in column.properties]
    if len(wholes) > 1:
        raise SchemaError(
            "the Merlin schema holds columns of several SchemaFlow schemas, whose vocabularies may differ;"
            f" convert them one by one, or remove the property {_FEATURE} of those to read afresh"
        )
    if ours and not wholes:
        raise SchemaError(
            f'the column "{ours[0]}" was written by SchemaFlow, but the first column of its file, which carries the'
            f" vocabularies of all, was removed; convert before removing it, or remove the property {_FEATURE} to read it afresh"
        )
    try:
        return json.loads(wholes.pop()) if wholes else None
    except ValueError:
        raise SchemaError(
            f"the property {_SCHEMA} of a Merlin column is damaged; remove it to read the column afresh"
        ) from None


def originals(schema: "merlin.schema.Schema") -> list[str]:
    """Return the names of the features that the columns were written from."""
    return list(dict.fromkeys(_note(column)["feature"] for column in schema if _FEATURE in column.properties))


def _note(column: Any) -> Any:
    return json.loads(column.properties[_FEATURE])


def features_of(schema: "merlin.schema.Schema", known: Mapping[str, Feature]) -> tuple[Feature, ...]:
    """Return the features of the columns, in Merlin's order.

    Args:
        schema: The Merlin schema.
        known: The features that columns were written from, by name; what was changed in Merlin since wins.

    Raises:
        SchemaError: A column does not say what a feature needs; one line for each mistake.
    """
    features: dict[str, Feature] = {}
    problems: list[str] = []
    for column in schema:
        try:
            features[column.name] = _read(column, known)
        except SchemaError as reason:
            problems += [f'Merlin column "{column.name}" {problem}' for problem in reason.problems]
    called: dict[str, list[str]] = {}
    for name, feature in features.items():
        called.setdefault(feature.name.casefold(), []).append(name)
    problems += [
        f"Merlin columns {' and '.join(json.dumps(it, ensure_ascii=False) for it in names)} would both be called"
        f' "{features[names[0]].name}"; rename one with with_name'
        for names in called.values()
        if len(names) > 1
    ]
    sized = {it.table for it in features.values() if it.cardinality is not None or it.vocabulary is not None}
    problems += [
        f'Merlin column "{name}" is categorical but its domain is {schema[name].properties.get("domain")};'
        ' set properties={"domain": {"min": 0, "max": <its largest id>}}'
        for name, feature in features.items()
        if feature.kind == "categorical" and feature.table not in sized and _FEATURE not in schema[name].properties
    ]
    if problems:
        raise SchemaError(*problems)
    return tuple(features.values())


def _fields(column: Any) -> dict[str, Any]:
    """Return what a column says, as JSON values. What it cannot say, or says nothing of, is absent."""
    fields: dict[str, Any] = {"name": column.name, "tags": sorted(getattr(it, "value", it) for it in column.tags)}
    if column.dtype.name != "unknown":
        fields["dtype"] = {"str": "string"}.get(column.dtype.name, column.dtype.name)
    fields["list"] = bool(column.is_list)
    if column.is_list:
        lengths = column.shape.dims[1:]
        fields["lengths"] = [[it.min, it.max] for it in lengths]
    # not column.int_domain, which is None for unsigned and unknown dtypes and fails where the domain has keys of its own
    domain = column.properties.get("domain") or {}
    largest = _integer(domain.get("max"))
    # a largest id of 0 is what is read from a file that names no largest
    if largest and (domain.get("min") or 0) >= 0:
        fields["rows"] = largest + 1
    if domain.get("name"):
        fields["domain"] = domain["name"]
    sizes = column.properties.get("embedding_sizes")
    sizes = sizes if isinstance(sizes, dict) else {}
    if dim := _integer(sizes.get("dimension")):
        fields["dim"] = dim
    if "rows" not in fields and (cardinality := _integer(sizes.get("cardinality"))):
        fields["rows"] = cardinality
    return fields


def _integer(value: Any) -> int | None:
    """Return a positive integer, also where a file made a float of it."""
    return int(value) if isinstance(value, (int, float)) and value > 0 and value == value // 1 else None


def _read(column: Any, known: Mapping[str, Feature]) -> Feature:
    """Return a column's feature.

    Raises:
        SchemaError: Problems that continue `Merlin column "…" `.
    """
    fields = _fields(column)
    if _FEATURE not in column.properties:
        return _build(fields, None)
    note = _note(column)
    original, written = known[note["feature"]], note["written"]
    changed = {key: value for key, value in fields.items() if key not in written or written[key] != value}
    if written.get("dtype") == f"u{changed.get('dtype')}":  # a file keeps no sign
        del changed["dtype"]
    if not changed:
        return original
    try:
        return _build(changed, original)
    except SchemaError:
        if "tags" not in changed:
            raise
        return _build({**fields, "dtype": fields.get("dtype", original.dtype)}, None)  # it became another kind


def _build(fields: Mapping[str, Any], original: Feature | None) -> Feature:
    """Return the feature that fields of a column give, upon that which the column was written from."""
    spec: dict[str, Any] = {}
    if original is not None:
        spec = {"name": original.name, **original.model_dump(mode="json", exclude_none=True, exclude_unset=True)}
    problems: list[str] = []
    if "tags" in fields:
        spec["tags"] = _tags(fields["tags"], original, problems)
    if "name" in fields:
        spec["name"] = _legal(fields["name"], problems)
        spec["column"] = fields["name"]
        if spec["column"] == spec["name"]:
            del spec["column"]
        if original is not None and original.kind == "categorical" and original.encoding not in ("buckets", "calendar"):
            spec["domain"] = original.table
    if original is None or "dtype" in fields:
        spec["dtype"] = _dtype(fields, spec.get("tags", []), problems)
    if "list" in fields and not fields["list"]:
        spec.pop("list", None)
    if original is None and Tags.LIST in spec["tags"] and not fields["list"]:
        problems.append("is tagged list but has one value a row; set is_list=True, or remove the tag")
    if "lengths" in fields:
        _set_lengths(spec, fields["lengths"], problems)
    if Tags.EMBEDDING in spec.get("tags", []) and (problem := _make_vector(spec)):
        problems.append(problem)
    if problems:
        raise SchemaError(*problems)
    feature = _validated(spec)
    if feature.kind != "categorical":
        return feature
    if "rows" in fields:
        spec["cardinality"] = fields["rows"]
    elif original is None and feature.dtype == "string":
        spec["vocabulary"] = "learned"  # strings can only be looked up
    if "domain" in fields and (domain := _legal(fields["domain"], problems)) != spec["name"]:
        spec["domain"] = domain
    if "dim" in fields:
        spec["embedding"] = {**spec.get("embedding", {}), "dim": fields["dim"]}
    if problems:
        raise SchemaError(*problems)
    return _validated(spec)


def _validated(spec: dict[str, Any]) -> Feature:
    try:
        return Feature.model_validate(spec)
    except ValidationError as reason:
        causes = [(it, it.get("ctx", {}).get("error")) for it in reason.errors()]
        problems = [
            line
            for it, cause in causes
            for line in (cause.problems if isinstance(cause, SchemaFlowError) else [f"{it['loc']}: {it['msg']}"])
        ]
        raise SchemaError(*(it.removeprefix(f'feature "{spec["name"]}" ') for it in problems)) from None


def _tags(words: Iterable[str], original: Feature | None, problems: list[str]) -> list[str]:
    """Return the tags in an order of their own: Merlin keeps a set, in which they stand differently in each process."""
    found: set[Tags | str] = set()
    for word in words:
        try:
            found.add(parse_tag(str(word)))
        except SchemaError as reason:
            problems += [f"has an {problem}" for problem in reason.problems]
    order = [*(original.tags if original is not None else ()), *Tags, *sorted(found)]
    return [str(tag) for tag in dict.fromkeys(order) if tag in found]


def _dtype(fields: Mapping[str, Any], tags: Sequence[str], problems: list[str]) -> str:
    known = get_args(DType)
    if "dtype" not in fields and Tags.CONTINUOUS in tags:
        return "float32"
    if "dtype" not in fields and "rows" in fields:  # its domain ends at an integer
        return "int64"
    if "dtype" not in fields:
        problems.append(
            "has no dtype, as strings and booleans have none in Merlin's files; set it with with_dtype, or as type in the file"
        )
    elif fields["dtype"] not in known:
        problems.append(
            f"has dtype {fields['dtype']}, which no feature has; convert the data and say one of {', '.join(known)}"
        )
    return str(fields.get("dtype"))


def _set_lengths(spec: dict[str, Any], lengths: list[list[int | None]], problems: list[str]) -> None:
    if len(lengths) > 1:
        problems.append("holds lists of lists, which no feature does; flatten them")
        return
    longest = lengths[0][1]
    spec["list"] = {key: it for key, it in spec.get("list", {}).items() if key != "max_length"}
    if longest:
        spec["list"]["max_length"] = longest


def _make_vector(spec: dict[str, Any]) -> str | None:
    """Turn a list into a dense vector, whose width Merlin keeps as the lists' one length; say why it cannot be."""
    length = spec.pop("list", {}).get("max_length") or spec.get("embedding", {}).get("dim")
    if length is None:
        return 'is tagged embedding but has no width; set properties={"value_count": {"min": <width>, "max": <width>}}'
    spec["embedding"] = {"dim": length}
    return None


def _legal(name: str, problems: list[str]) -> str:
    """Return the name that a feature can have for a column's name: itself, or what is left of it in plain letters."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    for candidate in (name, plain, f"column_{plain}") if plain else (name,):
        try:
            return Feature(name=candidate, dtype="int64").name
        except ValidationError:
            continue
    problems.append(
        f'has the name "{name}", of which no letter can stay in a feature\'s name; rename it with with_name'
    )
    return name


# -- files ------------------------------------------------------------------------------------------------------------


def format_file(schema: "merlin.schema.Schema", path: Path) -> str:
    """Return the text of a schema file as NVTabular writes it: JSON where the path ends so, else protobuf text.

    The same schema gives the same text in every process. Only the first column carries the whole schema.
    """
    merlin, metadata, messages = _merlin()
    first, *others = schema
    slim = [column.with_properties({}) for column in others]
    for column in slim:
        column.properties.pop(_SCHEMA, None)
    proto = metadata.from_merlin_schema(merlin.Schema([first, *slim]))
    for column, feature in zip(schema, proto.proto_schema.feature, strict=True):
        feature.annotation.tag = sorted(feature.annotation.tag)
        if column.dtype.name == "str":
            feature.type = messages.FeatureType.BYTES  # Merlin reads it, but does not write it
    if path.suffix == ".json":
        return json.dumps(json.loads(proto.to_json()), indent=1, sort_keys=True) + "\n"
    text: str = proto.to_proto_text()
    return text


def parse_file(text: str, path: Path) -> "merlin.schema.Schema":
    """Return the Merlin schema that a file of NVTabular's holds.

    Raises:
        SchemaError: It is not one: one line with the file, and the line and column where known.
    """
    _, metadata, _ = _merlin()
    kind = "JSON" if path.suffix == ".json" else "protobuf text"
    try:
        if path.suffix == ".json":
            json.loads(text)  # Merlin's own reader says less
            return metadata.from_json(text).to_merlin_schema()
        return metadata.from_proto_text(text).to_merlin_schema()
    except json.JSONDecodeError as reason:
        raise SchemaError(f"{path}:{reason.lineno}:{reason.colno}: not valid JSON: {reason.msg}") from None
    except Exception as reason:  # a mistake shows as whatever it trips up in Merlin
        where, separator, what = " ".join(str(reason).split()).partition(" : ")
        place, what = (f"{path}:{where}", what) if separator and re.fullmatch(r"\d+:\d+", where) else (str(path), where)
        raise SchemaError(f"{place}: not a Merlin schema as {kind}: {what or type(reason).__name__}") from None
