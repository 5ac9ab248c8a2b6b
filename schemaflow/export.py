"""Bundles: a directory that holds a served recommender, and the recommender read back from it.

bundle/
manifest.json    format, versions, the schema's fingerprint, signatures
schema.yaml      and schema.fitted/, the vocabularies
model/           the SavedModel: both towers and the index, on raw features
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
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

__all__ = ["Recommendations", "Recommender", "export"]

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
        if manifest.get("format") != FORMAT:
            raise BundleError(
                f"{folder}: the bundle has format {manifest.get('format')}, this version reads {FORMAT}; export the model again"
            )
        schema = Schema.from_yaml(folder / "schema.yaml")
        if schema.fingerprint != manifest["schema"]:
            raise BundleError(
                f"{folder}: its schema or vocabularies are not those it was exported with; export the model again"
            )
        try:
            model = tf.saved_model.load(str(folder / "model"))
        except (OSError, ValueError) as reason:
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
            exclude: Item ids that must not come back: one list for all rows, or a list for each row.

        Raises:
            ConfigError: A feature is missing, unknown, or of another type or length than the rest.
        """
        if k is not None and k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        tensors = self._tensors(features)
        rows = len(next(iter(tensors.values())))
        answer = self._recommend(
            **tensors,
            k=tf.constant(self.k if k is None else k, tf.int32),
            exclude=_exclusions(exclude, rows, self._recommend),
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
        tensors = {feature.name: _tensor(feature, features[feature.name]) for feature in self.features}
        lengths = {name: len(tensor) for name, tensor in tensors.items()}
        if len(set(lengths.values())) > 1:
            raise ConfigError(
                f"the features have different numbers of rows: {', '.join(f'{name} {n}' for name, n in lengths.items())}"
            )
        return tensors


def export(path: str | Path, schema: Schema, query_tower: Tower, item_tower: Tower, index: BruteForce) -> Recommender:
    """Write a bundle and return the recommender loaded from it.

    Everything is written under a temporary name beside `path` and renamed at the end, so a reader never sees half a
    bundle. An older bundle at `path` is replaced.

    Raises:
        BundleError: There is something else at `path`.
    """
    folder = Path(path)
    if folder.exists() and not (folder / _MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise BundleError(f"{folder}: there is something there that is no bundle; name another folder or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        served = _Served(query_tower, item_tower, index)
        tf.saved_model.save(served, str(temporary / "model"), signatures=served.signatures())
        schema.to_yaml(temporary / "schema.yaml")
        manifest = {
            "format": FORMAT,
            "schema": schema.fingerprint,
            "query_features": [feature.name for feature in query_tower.features],
            "item_features": [feature.name for feature in item_tower.features],
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


def _tensor(feature: Feature, values: Any) -> tf.Tensor:
    """Return a request's values of one feature as a tensor; None becomes what stands for missing."""
    missing = missing_value(feature.dtype)
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise ConfigError(f'feature "{feature.name}": expected a list with one value a row, received {values!r}')
    rows = [values[row] for row in range(len(values))]
    try:
        if feature.list is None:
            return tf.constant([_value(feature, value, missing) for value in rows], feature.dtype, [len(rows)])
        # a null list is a list of one missing value; in a padded row that cannot be told from none at all
        lists = [[] if row is None else [_value(feature, value, missing) for value in row] for row in rows]
        width = max(map(len, lists), default=0)
        return tf.constant([row + [missing] * (width - len(row)) for row in lists], feature.dtype, [len(rows), width])
    except (TypeError, ValueError, OverflowError) as reason:
        raise ConfigError(
            f'feature "{feature.name}": expected {feature.dtype}, received {_short(values)} ({reason})'
        ) from None


def _value(feature: Feature, value: Any, missing: Any) -> Any:
    if value is None:
        return missing
    if isinstance(value, np.generic):
        value = value.item()
    number = (int, float) if feature.dtype.startswith("float") else int
    if isinstance(value, bool) or not isinstance(value, (str, bytes) if feature.dtype == "string" else number):
        raise TypeError(f"{value!r} is {type(value).__name__}")
    if number is int and isinstance(value, int):
        limits = np.iinfo(feature.dtype)
        if not limits.min <= value <= limits.max:
            raise OverflowError(f"{value} is beyond its range")
    return value


def _short(values: Any) -> str:
    text = repr(values)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _exclusions(exclude: Any, rows: int, signature: Any) -> tf.Tensor:
    """Return exclusions as [rows, e], padded with an id that no item has."""
    dtype = signature.structured_input_signature[1]["exclude"].dtype
    fill = padding_identifier(dtype)
    given = [] if exclude is None else list(exclude)
    per_row = bool(given) and all(isinstance(it, (list, tuple, np.ndarray, set, frozenset)) for it in given)
    if per_row and len(given) != rows:
        raise ConfigError(
            f"exclude holds {len(given)} lists for {rows} rows; give one for each row, or one list of ids for all"
        )
    lists = [list(it) for it in given] if per_row else [given] * rows
    kind = str if dtype == tf.string else (int, np.integer)
    wrong = [it for row in lists for it in row if not isinstance(it, kind)]
    if wrong:
        raise ConfigError(
            f"exclude holds {wrong[0]!r}; expected item ids, {'strings' if dtype == tf.string else 'integers'}"
        )
    width = max(map(len, lists), default=0)
    return tf.constant([row + [fill] * (width - len(row)) for row in lists], dtype, [rows, width])
