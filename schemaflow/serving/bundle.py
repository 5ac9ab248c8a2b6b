"""The bundle that is served, and the newer one that takes its place."""

import gc
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tensorflow as tf

from schemaflow.errors import BundleError
from schemaflow.export import Recommender
from schemaflow.export.bundle import MANIFEST
from schemaflow.schema import Feature, Schema

__all__ = ["Served", "ServedBundle", "sample"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A bundle in memory.

    Args:
        recommender: Read from it.
        version: 1, and one more for each that took the place of another.
        since: When it was loaded.
    """

    recommender: Recommender
    version: int
    since: datetime


class ServedBundle:
    """The bundle at a path: loaded once, and again when another one takes its place.

    A newer bundle is loaded and tried beside the one that serves, and takes its place only if it answers and its signatures
    take the same inputs: features, filters, and `nprobe` of an index of lists. What is being answered keeps the bundle that
    it began with. One that is copied into place file by file is refused, and tried again whenever a file has changed.

    Args:
        path: The bundle, or a link to it.
        observe: Told "loaded" or "refused" of each newer bundle.

    Raises:
        BundleError: There is no bundle there, or it does not answer.
    """

    def __init__(self, path: str | Path, observe: Callable[[str], None]) -> None:
        self.path = Path(path)
        self.problem: str | None = None  # why the bundle that lies there now is not the one that serves
        self._observe = observe
        self._seen = _mark(self.path)
        self.current = Served(_tried(self.path), 1, datetime.now(UTC))

    def refresh(self) -> bool:
        """Load what lies at the path if a file of it is not as it was seen last, and return whether it serves now."""
        mark = _mark(self.path)
        if mark is None or mark == self._seen:  # between two renames nothing lies there
            return False
        self._seen = mark
        try:
            recommender = _tried(self.path)
            _refuse_other_requests(self.current.recommender, recommender)
        except Exception as reason:  # whatever is wrong with the new bundle, the old one goes on
            self.problem = f"the newer bundle is refused: {' '.join(str(reason).split()) or type(reason).__name__}"
            log.error("%s; version %d goes on serving", self.problem, self.current.version)
            self._observe("refused")
            return False
        self._observe("loaded")
        self.problem = None
        self.current = Served(recommender, self.current.version + 1, datetime.now(UTC))
        log.info("a newer bundle serves as version %d", self.current.version)
        gc.collect()  # the old model holds itself in cycles
        return True


def _mark(path: Path) -> frozenset[tuple[str, int, int, int]] | None:
    """Return what tells a bundle's files from those of another, or from more of them; None where there is no bundle."""
    try:
        (path / MANIFEST).stat()
        found = {str(it.relative_to(path)): it.stat() for it in path.rglob("*") if not it.is_dir()}
    except OSError:  # or it is being replaced
        return None
    return frozenset((name, it.st_ino, it.st_mtime_ns, it.st_size) for name, it in found.items())


def _tried(path: Path) -> Recommender:
    """Return a bundle's recommender after it answered one query, which also readies its graph for the first request."""
    recommender = Recommender.load(path)
    query = {it.name: [sample(recommender.schema, it)] for it in recommender.features}
    answer = recommender.recommend(query)
    if not answer.scores[0] or not all(map(math.isfinite, answer.scores[0])):
        raise BundleError(
            f"{path}: a query of missing values gets the scores {answer.scores[0]}; export the model again"
        )
    return recommender


def sample(schema: Schema, feature: Feature) -> Any:
    """Return a raw value that a feature surely takes: a missing one, or zeros.

    Example:
        >>> schema = Schema.from_yaml("schemas/movielens_100k.yaml")
        >>> sample(schema, schema["age"]), sample(schema, schema["user_id"])
        (0, None)
    """
    if feature.kind == "vector":
        return [0.0] * int(feature.embedding.dim or 0) if feature.embedding is not None else []
    if feature.many:
        return []
    return None if schema.takes_missing(feature) else "" if feature.dtype == "string" else 0


def _refuse_other_requests(old: Recommender, new: Recommender) -> None:
    """Refuse a bundle that the clients of another could not go on asking: its signatures have other inputs."""
    before, after = _inputs(old), _inputs(new)
    changes = {  # several signatures may take an input
        f"{it[1]} ({_said(before.get(it))} before, {_said(after.get(it))} now)"
        for it in before.keys() | after.keys()
        if before.get(it) != after.get(it)
    }
    if changes:
        raise BundleError(f"its requests differ in {', '.join(sorted(changes))}; serve it at an address of its own")


def _inputs(recommender: Recommender) -> dict[tuple[str, str], tf.TensorSpec]:
    """Return the inputs of all signatures, by signature and name."""
    return {
        (name, it): spec
        for name, made in recommender.signatures.items()
        for it, spec in made.structured_input_signature[1].items()
    }


def _said(spec: tf.TensorSpec | None) -> str:
    return "none" if spec is None else f"{spec.dtype.name} {spec.shape}"
