"""Bundles: a directory that holds a served recommender.

- `manifest.json`: format, versions, the schema's fingerprint, the query features.
- `schema.yaml` and `schema.fitted/`: the schema and its vocabularies.
- `model/`: the SavedModel, both towers and the index on raw features.
"""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from schemaflow.errors import BundleError
from schemaflow.export.recommender import FORMAT, MANIFEST, Recommender
from schemaflow.features.encoders import raw_signature
from schemaflow.index import BruteForce
from schemaflow.schema.schema import Schema
from schemaflow.towers import Tower

__all__ = ["check_target", "export"]


def check_target(path: str | Path) -> Path:
    """Return the folder to write a bundle to, its parents made.

    Raises:
        BundleError: There is something at `path` that is no bundle, or nothing can be written there.
    """
    folder = Path(path)
    try:
        if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
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
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
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
