"""TensorFlow Serving's REST form: JSON to the tensors of a signature, and back.

Source: https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import binascii
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.errors import ConfigError, suggest
from schemaflow.export import Recommender
from schemaflow.serving.options import ServeOptions
from schemaflow.serving.requests import refuse_too_many

__all__ = ["Call", "call_of", "document_of", "metadata", "run_all", "status"]

Arrays = dict[str, np.ndarray[Any, Any]]

_BY_ROW = ("exclude", "allow", "identifiers")
"""Inputs beside the features that hold something for each row."""

_NAMES = {tf.float32: "DT_FLOAT", tf.float64: "DT_DOUBLE"}


@dataclass(frozen=True)
class Call:
    """A request of `:predict`.

    Args:
        signature: Its name.
        inputs: An array for each of its inputs.
        by_row: The inputs that hold something for each row.
        rows: How many queries or items there are.
        as_rows: Whether it gave, and gets, a document for each row.
    """

    signature: str
    inputs: Arrays
    by_row: frozenset[str]
    rows: int
    as_rows: bool

    @property
    def group(self) -> Hashable:
        """What calls have in common whose arrays can stand one behind another."""
        shared = {
            name: array.shape[1:] if name in self.by_row else tuple(array.ravel().tolist())
            for name, array in self.inputs.items()
        }
        return self.signature, tuple(sorted(shared.items()))


def call_of(document: Any, recommender: Recommender, limits: ServeOptions) -> Call:
    """Read a request.

    Args:
        document: `{"instances": [...]}`, a document (or the bare value of the only input) for each row; or
            `{"inputs": {...}}`, all rows of each input. `signature_name` is `serving_default` if not given.
        recommender: Has the signatures.
        limits: Of a request.

    Raises:
        ConfigError: It is none, or an input is missing, unknown, of another type or shape, or too long.
    """
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise ConfigError('expected an object with either "instances" or "inputs"')
    if unknown := document.keys() - {"signature_name", "instances", "inputs"}:
        name = min(unknown)
        known = ["signature_name", "instances", "inputs"]
        raise ConfigError(f'unknown key "{name}"{suggest(name, known)} (expected {", ".join(known)})')
    signatures, name = recommender.signatures, document.get("signature_name", "serving_default")
    if not isinstance(name, str) or name not in signatures:
        raise ConfigError(f"there is no signature {name!r}; expected one of {', '.join(sorted(signatures))}")
    specs = dict(sorted(signatures[name].structured_input_signature[1].items()))
    values = _columns(document["instances"], specs) if "instances" in document else document["inputs"]
    if not isinstance(values, dict):
        if len(specs) != 1:
            raise ConfigError(f"signature {name} has several inputs; name them: {', '.join(specs)}")
        values = {next(iter(specs)): values}
    problems = [
        f'unknown input "{it}" of signature {name}{suggest(it, specs)} (expected {", ".join(specs)})'
        for it in values
        if it not in specs
    ]
    problems += [f'input "{it}" of signature {name} is missing' for it in specs if it not in values]
    if problems:
        raise ConfigError(*problems)
    inputs = {it: _array(it, spec, values[it]) for it, spec in specs.items()}
    by_row = frozenset(it for it in inputs if it in recommender.schema or it in _BY_ROW)
    if len(inputs.get("exclude", ())) == 1:  # one list for all rows
        most = max(len(inputs[it]) for it in by_row)
        inputs["exclude"] = np.broadcast_to(inputs["exclude"], (most, inputs["exclude"].shape[1]))
    lengths = {it: len(inputs[it]) for it in inputs if it in by_row}
    if len(set(lengths.values())) > 1:
        differ = ", ".join(f"{it} {length}" for it, length in lengths.items())
        raise ConfigError(f"the inputs have different numbers of rows: {differ}")
    rows = next(iter(lengths.values()))
    refuse_too_many("rows", rows, limits.max_rows, "max_rows")
    for it, array in inputs.items():
        limit = "max_exclude" if it in ("exclude", "allow") else "max_list"
        longest = 0 if array.ndim == int(it in by_row) else array.shape[-1]
        refuse_too_many(f'values of input "{it}" in a row', longest, getattr(limits, limit), limit)
    if "k" in inputs:
        if inputs["k"].item() < 1:
            raise ConfigError(f"k is {inputs['k'].item()}; expected at least 1")
        refuse_too_many("k", inputs["k"].item(), limits.max_k, "max_k")
    return Call(name, inputs, by_row, rows, "instances" in document)


def _columns(instances: Any, specs: Mapping[str, Any]) -> Any:
    """Return the rows of each input."""
    if not isinstance(instances, list) or not instances:
        raise ConfigError('"instances" is no list of rows; expected at least one')
    if scalars := [name for name, spec in specs.items() if spec.shape.rank == 0]:
        raise ConfigError(f'"instances" cannot give {", ".join(scalars)}, which is one for all rows; send "inputs"')
    if not any(isinstance(it, dict) and "b64" not in it for it in instances):
        return instances
    names = instances[0].keys() if isinstance(instances[0], dict) else ()
    for number, it in enumerate(instances):
        if not isinstance(it, dict) or it.keys() != names:
            raise ConfigError(f'"instances": row {number} has not the inputs of row 0; expected the same in each')
    return {name: [it[name] for it in instances] for name in names}


def _array(name: str, spec: Any, given: Any) -> np.ndarray[Any, Any]:
    """Return a JSON value as an array of an input's type and shape."""
    shape, values = [], [given]
    for _ in range(spec.shape.rank):
        if wrong := [it for it in values if not isinstance(it, list)]:
            raise ConfigError(
                f'input "{name}": expected {_expected(spec)}, received {wrong[0]!r} where a list should be'
            )
        lengths = {len(it) for it in values}
        if len(lengths) > 1:
            raise ConfigError(
                f'input "{name}": its lists have the lengths {", ".join(map(str, sorted(lengths)))}; fill them up at the end'
                " with what stands for missing, or ask /recommend, which does"
            )
        shape.append(lengths.pop() if lengths else 0)
        values = [inner for it in values for inner in it]
    if not spec.shape.is_compatible_with(shape):
        raise ConfigError(f'input "{name}": expected {_expected(spec)}, received the shape {shape}')
    dtype = spec.dtype.as_numpy_dtype
    checked = np.empty(len(values), dtype)
    for place, value in enumerate(values):
        checked[place] = _value(name, spec, value)
    return checked.reshape(shape)


def _value(name: str, spec: Any, value: Any) -> Any:
    wrong = ConfigError(f'input "{name}": expected {_expected(spec)}, received {value!r}')
    if spec.dtype == tf.string:
        if isinstance(value, dict) and value.keys() == {"b64"}:
            try:
                return base64.b64decode(value["b64"], validate=True)
            except (TypeError, ValueError, binascii.Error):
                raise wrong from None
        if not isinstance(value, str):
            raise wrong
        return value.encode()
    if isinstance(value, bool) or not isinstance(value, (int, float) if spec.dtype.is_floating else int):
        raise wrong
    if not spec.dtype.is_floating and not spec.dtype.min <= value <= spec.dtype.max:
        raise wrong
    return value


def _expected(spec: Any) -> str:
    shape = ", ".join("any" if size is None else str(size) for size in spec.shape)
    return f"{spec.dtype.name} of the shape [{shape}]" if spec.shape.rank else f"one {spec.dtype.name}"


def run_all(recommender: Recommender, calls: Sequence[Call]) -> list[Arrays]:
    """Answer calls of one group in one call of the graph.

    Raises:
        ConfigError: The graph refuses a value.
    """
    first = calls[0]
    joined = {
        name: np.concatenate([it.inputs[name] for it in calls]) if name in first.by_row else value
        for name, value in first.inputs.items()
    }
    specs = recommender.signatures[first.signature].structured_input_signature[1]
    tensors = {name: tf.constant(value, specs[name].dtype) for name, value in joined.items()}
    ends = np.cumsum([it.rows for it in calls])
    arrays = {name: tensor.numpy() for name, tensor in recommender.call(first.signature, **tensors).items()}
    return [
        {name: array[end - it.rows : end] for name, array in arrays.items()}
        for it, end in zip(calls, ends, strict=True)
    ]


def document_of(call: Call, outputs: Arrays) -> dict[str, Any]:
    """Return an answer: `predictions`, a document for each row, or `outputs`, all rows of each output."""
    lists = {name: _listed(array) for name, array in outputs.items()}
    only = next(iter(lists.values())) if len(lists) == 1 else None
    if not call.as_rows:
        return {"outputs": lists if only is None else only}
    if only is not None:
        return {"predictions": only}
    return {"predictions": [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]}


def _listed(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype != object:
        return array.tolist()
    texts = [it.decode("utf-8", "replace") for it in array.ravel().tolist()]
    return (
        texts if array.ndim == 1 else [texts[at : at + array.shape[1]] for at in range(0, len(texts), array.shape[1])]
    )


def status(version: int) -> dict[str, Any]:
    """Return what `GET /v1/models/NAME` says."""
    state = {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [state]}


def metadata(name: str, version: int, signatures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `GET /v1/models/NAME/metadata` says: the inputs and outputs of each signature."""
    definitions = {
        it: {
            "inputs": {key: _tensor_info(spec) for key, spec in signatures[it].structured_input_signature[1].items()},
            "outputs": {key: _tensor_info(spec) for key, spec in signatures[it].structured_outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for it in signatures
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _tensor_info(spec: Any) -> dict[str, Any]:
    sizes = (
        [] if spec.shape.rank is None else [{"size": str(-1 if it is None else it), "name": ""} for it in spec.shape]
    )
    return {
        "dtype": _NAMES.get(spec.dtype, f"DT_{spec.dtype.name.upper()}"),
        "tensor_shape": {"dim": sizes, "unknown_rank": spec.shape.rank is None},
        "name": spec.name,
    }
