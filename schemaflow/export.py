"""Bundles: a directory that holds a served recommender, and the recommender read back from it.

bundle/
manifest.json    format, versions, the schema's fingerprint, the query features
schema.yaml      and schema.fitted/, the vocabularies
model/           the SavedModel: both towers and the index, on raw features
"""

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from numbers import Integral
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.errors import BundleError, ConfigError, suggest
from schemaflow.features.encoders import raw_signature
from schemaflow.index import BruteForce, padding_identifier
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.towers import Tower

__all__ = ["Recommendations", "Recommender", "check_target", "export"]

FORMAT = 1
_MANIFEST = "manifest.json"


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
        >>> from schemaflow import Schema, TwoTowerModel
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   item_id: {dtype: string, tags: [item, id], vocabulary: learned}
        ... '''})
        >>> events = {"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"]}
        >>> model = TwoTowerModel(schema.fit(events), keras.layers.Dense(8))
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
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(
                f"{folder}: there is no bundle (no {_MANIFEST}); write one with model.export(…)"
            ) from None
        except (OSError, ValueError) as reason:
            raise BundleError(f"{folder / _MANIFEST}: cannot be read ({reason}); export the model again") from None
        found = manifest.get("format") if isinstance(manifest, dict) else None
        if found != FORMAT:
            raise BundleError(
                f"{folder}: the bundle has format {found}, this version reads {FORMAT}; export the model again"
            )
        if missing := {"schema", "query_features", "k"} - manifest.keys():
            raise BundleError(f"{folder / _MANIFEST}: {', '.join(sorted(missing))} is missing; export the model again")
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
        answer = self._recommend(
            **tensors, k=tf.constant(self.k if k is None else k, tf.int32), exclude=self._exclusions(exclude, rows)
        )
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


def check_target(path: str | Path) -> Path:
    """Return the folder to write a bundle to, its parents made.

    Raises:
        BundleError: There is something at `path` that is no bundle, or nothing can be written there.
    """
    folder = Path(path)
    try:
        if folder.exists() and not (folder / _MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
            raise BundleError(f"{folder}: there is something there that is no bundle; name another folder or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe = folder.parent / f".{folder.name}.{os.getpid()}"
        probe.mkdir()
        probe.rmdir()
    except OSError as reason:
        raise BundleError(f"{folder}: no bundle can be written there: {reason.strerror}; name another folder") from None
    return folder


def export(path: str | Path, schema: Schema, query_tower: Tower, item_tower: Tower, index: BruteForce) -> Recommender:
    """Write a bundle and return the recommender loaded from it.

    Everything is written under a temporary name beside `path` and renamed at the end, so a reader never sees half a
    bundle. An older bundle at `path` is replaced.

    Raises:
        BundleError: There is something else at `path`.
    """
    folder = check_target(path)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        served = _Served(query_tower, item_tower, index)
        tf.saved_model.save(served, str(temporary / "model"), signatures=served.signatures())
        schema.to_yaml(temporary / "schema.yaml")
        manifest = {
            "format": FORMAT,
            "schema": schema.fingerprint,
            "query_features": [feature.name for feature in query_tower.features],
            "k": index.k,
            "versions": {"schemaflow": version("schemaflow"), "tensorflow": tf.__version__, "keras": keras.__version__},
        }
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        old = folder.parent / f".{folder.name}.{os.getpid()}.old"
        if folder.exists():
            folder.rename(old)
        temporary.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Recommender.load(folder)


class _Served(tf.Module):
    """What the SavedModel holds."""

    def __init__(self, query_tower: Tower, item_tower: Tower, index: BruteForce) -> None:
        super().__init__()
        self.query_tower, self.item_tower, self.search = query_tower, item_tower, index

    def signatures(self) -> dict[str, Any]:
        """Return the functions to serve, by name, on raw features; lists are padded at the end with what stands for missing."""
        query, item = raw_signature(self.query_tower.features), raw_signature(self.item_tower.features)
        ids = self.search.identifiers.dtype
        k, exclude = tf.TensorSpec([], tf.int32, "k"), tf.TensorSpec([None, None], ids, "exclude")

        def answer(scores: tf.Tensor, identifiers: tf.Tensor) -> dict[str, tf.Tensor]:
            count = tf.reduce_sum(tf.cast(scores > float("-inf"), tf.int32), axis=1)  # [batch]: how many are real
            return {"identifiers": identifiers, "scores": scores, "count": count}

        def default(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer(*self.search(self.query_tower(features)))

        def recommend(k: tf.Tensor, exclude: tf.Tensor, **features: tf.Tensor) -> dict[str, tf.Tensor]:
            return answer(*self.search.query_with_exclusions(self.query_tower(features), exclude, k=k))

        def query_embedding(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": self.query_tower(features)}

        def candidate_embedding(**features: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"embedding": self.item_tower(features)}

        return {
            "serving_default": tf.function(default).get_concrete_function(**query),
            "recommend": tf.function(recommend).get_concrete_function(k=k, exclude=exclude, **query),
            "query_embedding": tf.function(query_embedding).get_concrete_function(**query),
            "candidate_embedding": tf.function(candidate_embedding).get_concrete_function(**item),
        }


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
        if feature.kind == "categorical" and schema.vocabulary(feature.table) is None
        else None
    )
    try:
        if feature.list is None:
            checked = [_value(feature, value, missing, limit) for value in rows]
            return tf.constant(checked, feature.tensor_dtype, [len(rows)])
        # what is missing in a list takes no part, as in training
        lists = [[_value(feature, it, missing, limit) for it in row or () if it is not None] for row in rows]
        width = max(map(len, lists), default=0)
        longest = feature.list.max_length
        if longest is not None and width > longest:
            raise ValueError(f"{width} values are more than its max_length of {longest}")
        padded = [row + [missing] * (width - len(row)) for row in lists]
        return tf.constant(padded, feature.tensor_dtype, [len(rows), width])
    except (TypeError, ValueError) as reason:
        raise ConfigError(
            f'feature "{feature.name}": expected {feature.dtype}, received {_short(values)} ({reason})'
        ) from None


def _value(feature: Feature, value: Any, missing: Any, limit: int | None) -> Any:
    """Return one value, checked.

    Args:
        feature: What it is of.
        value: As given.
        missing: What stands for a missing one.
        limit: The rows of the table, where values are rows themselves.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if limit is not None or feature.kind == "continuous":
            raise ValueError("a missing value has no row of its own here")
        return missing
    expected: Any = (str, bytes) if feature.dtype == "string" else (int, float) if feature.dtype[0] == "f" else int
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
