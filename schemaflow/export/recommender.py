"""The recommender read back from a bundle: raw query features in, item ids and scores out."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from schemaflow.errors import BundleError, ConfigError, suggest
from schemaflow.index import padding_identifier
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema

__all__ = ["FORMAT", "MANIFEST", "Recommendations", "Recommender"]

FORMAT = 1
"""Of bundles: a loader refuses another."""

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Recommendations:
    """What came back for each row, best first; rows may differ in length.

    Args:
        identifiers: Item ids as they stand in the data, strings or integers.
        scores: Of the same items.
    """

    identifiers: list[list[str | int]]
    scores: list[list[float]]


class Recommender:
    """Raw query features in, item ids and scores out: an exported bundle, loaded.

    Example:
        >>> import tempfile
        >>> from schemaflow import MLPBlock, Schema, TwoTowerModel
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   item_id: {dtype: string, tags: [item, id], vocabulary: learned}
        ... '''})
        >>> events = {"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"]}
        >>> model = TwoTowerModel(schema.fit(events), MLPBlock([8]))
        >>> bundle = tempfile.mkdtemp()
        >>> _ = model.export(bundle, candidates={"item_id": ["x", "y"]})
        >>> Recommender.load(bundle).recommend({"user_id": ["ann"]}, exclude=["x"]).identifiers
        [['y']]
    """

    def __init__(self, schema: Schema, model: Any, features: Sequence[Feature], default_k: int) -> None:
        self.schema = schema
        self.features = tuple(features)
        self.k = default_k
        self._model = model  # the loaded object owns the tables that its signatures use
        self._recommend = model.signatures["recommend"]

    @classmethod
    def load(cls, path: str | Path) -> "Recommender":
        """Load a bundle.

        Raises:
            BundleError: There is none at `path`, or it is of another format.
        """
        folder = Path(path)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(f"{folder}: there is no bundle (no {MANIFEST}); write one with model.export(…)") from None
        except (OSError, ValueError) as reason:
            raise BundleError(f"{folder / MANIFEST}: cannot be read ({reason}); export the model again") from None
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise BundleError(
                f"{folder}: the bundle has format {found}, this version reads {FORMAT}; export the model again"
            )
        if missing := {"schema", "query_features", "k"} - manifest.keys():
            raise BundleError(f"{folder / MANIFEST}: {', '.join(sorted(missing))} is missing; export the model again")
        schema = Schema.from_yaml(folder / "schema.yaml")
        if schema.fingerprint != manifest["schema"]:
            raise BundleError(
                f"{folder}: its schema or vocabularies are not those it was exported with; export the model again"
            )
        try:
            model = tf.saved_model.load(str(folder / "model"))
        except (OSError, ValueError, IndexError, tf.errors.OpError) as reason:
            raise BundleError(
                f"{folder / 'model'}: the SavedModel cannot be loaded ({' '.join(str(reason).split())}); export the model again"
            ) from None
        return cls(schema, model, [schema[name] for name in manifest["query_features"]], manifest["k"])

    def recommend(
        self, features: Mapping[str, Any], k: int | None = None, exclude: Sequence[Any] | None = None
    ) -> Recommendations:
        """Return the best items for each row.

        Args:
            features: Raw query features by name, one value (or list of values) a row; None where one is missing.
            k: How many; the bundle's own if None. Fewer come back where fewer are left.
            exclude: Item ids that must not come back: one list for all rows, or a list (or None) for each row.

        Raises:
            ConfigError: A feature is missing, unknown, of another type or length than the rest, or beyond its range.
        """
        if k is not None and not (isinstance(k, Integral) and 1 <= k < 2**31):
            raise ConfigError(f"k is {k!r}; expected an integer of at least 1")
        tensors = self._tensors(features)
        rows = len(next(iter(tensors.values())))
        wanted, excluded = tf.constant(self.k if k is None else k, tf.int32), self._exclusions(exclude, rows)
        try:
            answer = self._recommend(**tensors, k=wanted, exclude=excluded)
        except tf.errors.InvalidArgumentError as reason:  # the graph checks what it is given, and names the feature
            found = re.search(r'feature "[^\n:;\]]*', reason.message.replace("\\", ""))
            raise ConfigError(found[0] if found else " ".join(reason.message.split())) from None
        counts = answer["count"].numpy()
        identifiers, scores = answer["identifiers"].numpy(), answer["scores"].numpy()
        if identifiers.dtype == object:
            identifiers = np.vectorize(bytes.decode, otypes=[object])(identifiers)
        return Recommendations(
            [row[:count].tolist() for row, count in zip(identifiers, counts, strict=True)],
            [row[:count].tolist() for row, count in zip(scores, counts, strict=True)],
        )

    def _tensors(self, features: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        names = [feature.name for feature in self.features]
        problems = [
            f'unknown feature "{name}"{suggest(name, names)} (expected {", ".join(names)})'
            for name in features
            if name not in names
        ]
        problems += [
            f'feature "{name}" is missing; expected {", ".join(names)}' for name in names if name not in features
        ]
        if problems:
            raise ConfigError(*problems)
        tensors = {feature.name: _tensor(self.schema, feature, features[feature.name]) for feature in self.features}
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigError(
                f"the features have different numbers of rows: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
            )
        return tensors

    def _exclusions(self, exclude: Any, rows: int) -> tf.Tensor:
        """Return exclusions as [rows, e], padded with an id that no item has."""
        dtype = self._recommend.structured_input_signature[1]["exclude"].dtype
        fill = padding_identifier(dtype)
        if isinstance(exclude, (str, bytes)) or not isinstance(exclude, (Iterable, type(None))):
            raise ConfigError(f"exclude is {exclude!r}; expected a list of item ids, or a list for each row")
        given = [] if exclude is None else list(exclude)
        per_row = any(isinstance(it, (list, tuple, np.ndarray, set, frozenset, type(None))) for it in given)
        if per_row and len(given) != rows:
            raise ConfigError(
                f"exclude holds {len(given)} lists for {rows} rows; give one for each row, or one list of ids for all"
            )
        lists = [[] if it is None else list(it) for it in given] if per_row else [given] * rows
        kind: Any = str if dtype == tf.string else Integral
        if wrong := [it for row in lists for it in row if not isinstance(it, kind)]:
            expected = "strings" if dtype == tf.string else "integers"
            raise ConfigError(f"exclude holds {wrong[0]!r}; expected item ids, {expected}")
        if beyond := [it for row in lists for it in row if dtype == tf.int64 and not -(2**63) <= it < 2**63]:
            raise ConfigError(f"exclude holds {beyond[0]}, which is beyond int64; expected item ids")
        width = max(map(len, lists), default=0)
        return tf.constant([row + [fill] * (width - len(row)) for row in lists], dtype, [rows, width])


def _tensor(schema: Schema, feature: Feature, values: Any) -> tf.Tensor:
    """Return a request's values of one feature as a tensor; None becomes what stands for missing.

    Raises:
        ConfigError: It is no list, or holds a value that the feature does not.
    """
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigError(f'feature "{feature.name}": expected a list with one value a row, received {values!r}')
    missing, rows = missing_value(feature.dtype), list(values)
    limit = (
        schema.rows(feature.table)
        if feature.kind == "categorical" and schema.domains[feature.table].encoding == "range"
        else None
    )
    try:
        if not feature.many:
            checked = [_value(schema, feature, value, missing, limit) for value in rows]
            return tf.constant(checked, feature.tensor_dtype, [len(rows)])
        if feature.kind == "vector":
            return _vectors(schema, feature, rows)
        if wrong := [row for row in rows if isinstance(row, (str, bytes))]:
            raise TypeError(f"{wrong[0]!r} is one value, not a list of them")
        # what is missing in a list takes no part, as in training; a weight could not say whose it is then
        whole = feature.weighted_by is not None or feature.kind == "weights"
        if whole and any(it is None for row in rows for it in row or ()):
            raise ValueError("a weighted list must be whole")
        lists = [[_value(schema, feature, it, missing, limit) for it in row or () if it is not None] for row in rows]
        width = max(map(len, lists), default=0)
        longest = feature.list.max_length if feature.list is not None else None
        if longest is not None and width > longest:
            raise ValueError(f"{width} values are more than its max_length of {longest}")
        padded = [row + [missing] * (width - len(row)) for row in lists]
        return tf.constant(padded, feature.tensor_dtype, [len(rows), width])
    except (TypeError, ValueError) as reason:
        raise ConfigError(
            f'feature "{feature.name}": expected {feature.dtype}, received {_short(values)} ({reason})'
        ) from None


def _vectors(schema: Schema, feature: Feature, rows: list[Any]) -> tf.Tensor:
    """Return dense vectors, [rows, dim]; a missing one as a row of NaN, for what the schema puts in its place."""
    dim = int(feature.embedding.dim or 0) if feature.embedding is not None else 0
    whole = [[float(it) for it in row] if row is not None else [math.nan] * dim for row in rows]
    for given, row in zip(rows, whole, strict=True):
        if given is None and not schema.takes_missing(feature):
            raise ValueError("a missing vector has nothing in its place")
        if len(row) != dim or (given is not None and not all(map(math.isfinite, row))):
            raise ValueError(f"expected {dim} finite numbers in each row")
    return tf.constant(whole, feature.tensor_dtype, [len(rows), dim])


def _value(schema: Schema, feature: Feature, value: Any, missing: Any, limit: int | None) -> Any:
    """Return one value, checked.

    Args:
        schema: Says what a missing value is.
        feature: What it is of.
        value: As given.
        missing: What stands for a missing one.
        limit: The rows of the table, where values are rows themselves.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if schema.takes_missing(feature):
            return missing
        raise ValueError("a missing value has no row of its own here, and the schema names nothing in its place")
    expected: Any = (str, bytes) if feature.dtype == "string" else (int, float) if feature.dtype[0] == "f" else int
    value = int(value) if isinstance(value, bool) and expected is int else value  # as in columns of booleans
    if isinstance(value, bool) or not isinstance(value, expected):
        raise TypeError(f"{value!r} is {type(value).__name__}")
    if expected is int:
        limits = np.iinfo(feature.dtype)
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{value} is beyond its range")
        if limit is not None and not 0 <= value < limit:
            raise ValueError(f"{value} is outside 0 <= id < {limit}")
    return value


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:57]}..."
