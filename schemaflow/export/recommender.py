"""The recommender read back from a bundle: raw query features in, item ids and scores out."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from schemaflow.data.join import as_side_table, read_ids, read_raw, refuse_repeated, stacked
from schemaflow.errors import BundleError, ConfigError, DataError, SchemaFlowError
from schemaflow.export.bundle import ITEMS, MANIFEST, MODEL, REPORT, SCHEMA, read_manifest, writing
from schemaflow.export.requests import checked_ids, checked_number, features_of, lists_of_ids, padded
from schemaflow.export.served import Embeddings, SecondStage, Served
from schemaflow.features.filters import Filters, conditions
from schemaflow.features.raw import raw_tensor
from schemaflow.index import Index
from schemaflow.schema.columns import read_column
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import Piece, Source, TableLike
from schemaflow.tasks import Ranker
from schemaflow.towers import Tower

__all__ = ["Recommendations", "Recommender", "Reported", "export"]

EMBED_ROWS = 4096
"""Items that become vectors at a time."""

GAP = 0.5
"""Seconds that a bundle may be missing, as between the two renames by which another takes its place."""


class Reported(Protocol):
    """What an evaluation said."""

    def to_json(self) -> str:
        """Return it as JSON."""


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

    Attributes:
        path: Where the bundle was.
        manifest: What it says of itself.
        schema: Of the model.
        features: What a query consists of.
        filters: The features that `where` goes by.
        item_id: The feature that tells items apart.
        items: Their raw columns, in the index's order.
        k: How many come back where a request does not say.
        num_retrieved: How many items the index fetches for the ranker to rank, or as many as are asked for where that is
            more; None where the bundle has no ranker.

    Example:
        >>> import tempfile
        >>> from schemaflow import MLPBlock, Schema, TwoTowerModel
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   item_id: {dtype: string, tags: [item, id], vocabulary: learned}
        ...   year: {dtype: int32, tags: [item, filter]}
        ... '''})
        >>> events = {"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"]}
        >>> model = TwoTowerModel(schema.fit(events), MLPBlock([8]))
        >>> bundle = tempfile.mkdtemp()
        >>> _ = model.export(bundle, candidates={"item_id": ["x", "y", "z"], "year": [1994, 1995, 1996]})
        >>> recommender = Recommender.load(bundle)
        >>> recommender.recommend({"user_id": ["ann"]}, exclude=["x"], where={"year": {"<": 1996}}).identifiers
        [['y']]
        >>> recommender.describe(["z", "?"])
        [{'item_id': 'z', 'year': 1996}, None]
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any], schema: Schema, model: Any, items: pa.Table) -> None:
        self.path, self.manifest, self.schema, self.items = path, dict(manifest), schema, items
        self.features: tuple[Feature, ...] = tuple(schema[it] for it in manifest["query_features"])
        self.filters: tuple[Feature, ...] = tuple(schema[it] for it in manifest["filters"])
        self.item_id: Feature = schema[manifest["item_id"]]
        self.k: int = manifest["k"]
        self.num_retrieved: int | None = manifest.get("num_retrieved")
        self._item_features = tuple(schema[it] for it in manifest["item_features"])
        self._model = model  # the loaded object owns the tables that its signatures use
        self._ids = model.signatures["similar_items"].structured_input_signature[1]["identifiers"].dtype
        self._has_lists = "nprobe" in model.signatures["recommend"].structured_input_signature[1]

    @classmethod
    def load(cls, path: str | Path) -> "Recommender":
        """Load a bundle.

        Raises:
            BundleError: There is none at `path`, it is of another format or of newer versions, or its files are not those
                that were written.
        """
        folder = Path(path)
        while True:  # a newer bundle may come in its place while it is read
            before = _stamp_soon(folder)
            try:
                made = cls._read(folder)
            except (SchemaFlowError, OSError):
                if _stamp(folder) == before:
                    raise
            else:
                if _stamp(folder) == before:
                    return made

    @classmethod
    def _read(cls, folder: Path) -> "Recommender":
        manifest = read_manifest(folder)
        schema = Schema.from_yaml(folder / SCHEMA)
        if schema.fingerprint != manifest["schema"]:
            raise BundleError(
                f"{folder}: its schema or vocabularies are not those it was exported with; export the model again"
            )
        try:
            model = tf.saved_model.load(str(folder / MODEL))
        except (OSError, ValueError, IndexError, tf.errors.OpError) as reason:
            raise BundleError(
                f"{folder / MODEL}: the SavedModel cannot be loaded ({' '.join(str(reason).split())}); export the model again"
            ) from None
        return cls(folder, manifest, schema, model, pq.read_table(folder / ITEMS))

    # -- what is asked --------------------------------------------------------------------------------------------

    def recommend(
        self,
        features: Mapping[str, Any],
        k: int | None = None,
        exclude: Sequence[Any] | None = None,
        allow: Sequence[Any] | None = None,
        where: Mapping[str, Any] | None = None,
        nprobe: int | None = None,
    ) -> Recommendations:
        """Return the best items for each row; by the ranker, among those that the index fetches, where the bundle has one.

        Args:
            features: Raw query features by name, one value (or list of values) a row; None where one is missing.
            k: How many; the bundle's own if None. Fewer come back where fewer are left.
            exclude: Item ids that must not come back: one list for all rows, or a list (or None) for each row.
            allow: Item ids of which no other comes back, likewise; `[]` allows nothing, None everything.
            where: What items must fulfil, by the name of a feature tagged filter: a value, a list of values, any of
                which will do, or of numbers bounds such as `{">=": 1990, "<": 2000}`. An item without a value fulfils
                nothing; of a list, one value is enough.
            nprobe: How many lists the index looks in; its own number if None.

        Raises:
            ConfigError: A feature is missing, unknown, of another type or length than the rest, or beyond its range;
                items cannot be filtered as `where` says; or the index has no lists.
        """
        wanted = checked_number("k", self.k if k is None else k)
        tensors = features_of(self.schema, self.features, features)
        rows = len(next(iter(tensors.values())))
        unwanted = lists_of_ids("exclude", exclude, rows, self._ids)
        if all(it is unwanted[0] for it in unwanted):
            unwanted = unwanted[:1]  # the signature takes one list for all rows
        excluded = padded([it or [] for it in unwanted], self._ids)
        allowed, given = lists_of_ids("allow", allow, rows, self._ids), conditions(self.filters, where)
        if self._has_lists:
            given["nprobe"] = tf.constant(0) if nprobe is None else checked_number("nprobe", nprobe)
        elif nprobe is not None:
            raise ConfigError("nprobe is given, but the bundle's index has no lists to look in; leave it out")
        found: list[tuple[Any, Any]] = [([], [])] * rows
        # rows that all items are allowed, and those that some are, for the signature takes all of one sort
        for some in (False, True):
            at = [row for row, ids in enumerate(allowed) if (ids is not None) == some]
            if not at:
                continue
            chosen = tensors | {"exclude": excluded}
            if len(at) < rows:
                chosen = {name: it if len(it) == 1 else tf.gather(it, at) for name, it in chosen.items()}
            lists = padded([allowed[row] or [] for row in at], self._ids, least=int(some))
            answer = self._ask("recommend", **chosen, k=wanted, allow=lists, **given)
            for row, identifiers, scores in zip(at, answer.identifiers, answer.scores, strict=True):
                found[row] = (identifiers, scores)
        return Recommendations([it[0] for it in found], [it[1] for it in found])

    def similar_items(self, ids: Sequence[Any], k: int | None = None) -> Recommendations:
        """Return the items nearest to each item by the angle between their vectors, the cosine as the score.

        Args:
            ids: Item ids; an item is not similar to itself.
            k: How many; the bundle's own if None.

        Raises:
            ConfigError: An item is not there.
        """
        if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence | np.ndarray):
            raise ConfigError(f"the items are {ids!r}; expected a list of item ids")
        asked = checked_ids("the list of items", list(ids), self._ids)
        if unknown := [it for it in asked if it not in self._positions]:
            raise ConfigError(
                f"there is no item {unknown[0]!r} in the bundle ({len(unknown)} of {len(asked)} asked for)"
            )
        return self._ask(
            "similar_items",
            identifiers=tf.constant(asked, self._ids, [len(asked)]),
            k=checked_number("k", self.k if k is None else k),
        )

    def describe(self, ids: Sequence[Any]) -> list[dict[str, Any] | None]:
        """Return the raw columns of items, None for an id that no item has."""
        positions = [self._positions.get(it) for it in ids]
        rows = self.items.take(pa.array([it for it in positions if it is not None], pa.int64())).to_pylist()
        return [None if it is None else rows.pop(0) for it in positions]

    def query_embeddings(self, features: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        """Return the vectors of queries, [rows, dim] float32, or [rows, K, dim]; the features are those of `recommend`."""
        tensors = features_of(self.schema, self.features, features)
        vectors: np.ndarray[Any, Any] = self.call("query_embedding", **tensors)["embedding"].numpy()
        return vectors

    def candidate_embeddings(self, items: TableLike) -> np.ndarray[Any, Any]:
        """Return the vectors of items, [n, dim] float32, whether the bundle has them or not.

        Args:
            items: A table with the raw columns of the item features.

        Raises:
            DataError: A column is missing, or does not fit its feature.
            ConfigError: A value is beyond what the model knows.
        """
        source = self._opened(items)
        return self._embedded(Piece(read_raw(source, self.schema, self._item_features), source.name))

    # -- adding to it ---------------------------------------------------------------------------------------------

    def add_items(self, items: TableLike, path: str | Path | None = None) -> "Recommender":
        """Write a bundle with more items, without training, and return the recommender it holds.

        A new item's vector comes from its features, and from the out-of-vocabulary row where its id was not trained.

        Args:
            items: A table with the raw columns of the item features and filters.
            path: The folder to write; in place of this bundle if None.

        Raises:
            DataError: An item is there already, stands twice, lacks its id, or a column does not fit its feature.
            ConfigError: A value is beyond what the model knows, such as an id that would be a row of its own.
            BundleError: There is something else at `path`, or another bundle where this one was loaded from.
        """
        target = self.path if path is None else Path(path)
        if target.resolve() == self.path.resolve() and read_manifest(self.path) != self.manifest:
            raise BundleError(f"{self.path}: another bundle has come in its place since it was loaded; load that one")
        source = self._opened(items)
        ids = read_ids(source, self.item_id)
        refuse_repeated(ids, self.item_id, source)
        if known := [it for it in ids.to_pylist() if it in self._positions]:
            raise DataError(
                f"{source.name}: {self.item_id.name} {known[0]!r} is in the bundle already ({len(known)} of {len(ids)} items);"
                " leave out what is there, or export the model again"
            )
        more = read_raw(source, self.schema, (*self._item_features, *self.filters))
        both = stacked(
            [self.items, more], f"{source.name}: its columns do not fit those of the bundle's items"
        ).combine_chunks()
        index = keras.saving.deserialize_keras_object(self.manifest["index"])
        piece = Piece(both, f"{source.name}, after those of the bundle")
        index.index(self._embedded(piece), read_ids(both, self.item_id).to_numpy(zero_copy_only=False))
        filters = Filters(self.filters, piece)
        stage = None if self.num_retrieved is None else self._model.stage
        features = (self.features, self._item_features)
        served = Served(self._model.embeddings, index, filters, self.k, *features, stage, self.num_retrieved)
        report = self.path / REPORT
        said = report.read_text(encoding="utf-8") if report.exists() else None
        return _write(target, self.manifest, self.schema, served, both, said)

    def _opened(self, items: TableLike) -> Source:
        return as_side_table(items, self.schema, self.item_id)

    def _embedded(self, piece: Piece) -> np.ndarray[Any, Any]:
        """Return the vectors of items by their raw columns."""
        vectors = []
        for start in range(0, len(piece.table), EMBED_ROWS):
            rows = Piece(piece.table.slice(start, EMBED_ROWS), piece.where, start)
            raw = {it.name: raw_tensor(it, read_column(it, rows, tokens=False)) for it in self._item_features}
            vectors.append(self.call("candidate_embedding", **raw)["embedding"].numpy())
        return np.concatenate(vectors)

    # -- how it is answered ---------------------------------------------------------------------------------------

    @cached_property
    def _positions(self) -> dict[Any, int]:
        ids = read_ids(self.items, self.item_id).to_pylist()
        return dict(zip(ids, range(len(ids)), strict=True))

    def _ask(self, signature: str, **inputs: tf.Tensor) -> Recommendations:
        answer = self.call(signature, **inputs)
        counts = answer["count"].numpy()
        identifiers, scores = answer["identifiers"].numpy(), answer["scores"].numpy()
        if identifiers.dtype == object:
            identifiers = np.vectorize(bytes.decode, otypes=[object])(identifiers)
        return Recommendations(
            [row[:count].tolist() for row, count in zip(identifiers, counts, strict=True)],
            [row[:count].tolist() for row, count in zip(scores, counts, strict=True)],
        )

    @property
    def signatures(self) -> Mapping[str, Any]:
        """The SavedModel's functions by name, as TensorFlow Serving knows them."""
        found: Mapping[str, Any] = self._model.signatures
        return found

    def call(self, signature: str, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Call one of the signatures.

        Raises:
            ConfigError: The graph refuses an input.
        """
        try:
            answer: dict[str, tf.Tensor] = self._model.signatures[signature](**inputs)
        except tf.errors.InvalidArgumentError as reason:  # the graph checks what it is given, and names the feature
            found = re.search(r'feature "[^\n:;\]]*', reason.message.replace("\\", ""))
            raise ConfigError(found[0] if found else " ".join(reason.message.split())) from None
        return answer


def export(
    path: str | Path,
    schema: Schema,
    sides: Sides,
    query_tower: Tower,
    item_tower: Tower,
    index: Index,
    items: pa.Table,
    report: Reported | None = None,
    ranker: Ranker | None = None,
) -> Recommender:
    """Write a bundle and return the recommender loaded from it.

    Args:
        path: The folder to write; an older bundle there is replaced.
        schema: Of the model.
        sides: Its features.
        query_tower: Trained.
        item_tower: Trained.
        index: Holds the items' vectors; without a query model.
        items: Their raw columns, in the index's order.
        report: What an evaluation said, to be kept with it.
        ranker: Trained; it ranks what the index finds.

    Raises:
        BundleError: There is something else at `path`.
        ConfigError: The index cannot be part of a SavedModel.
        DataError: A filter's column is missing, or does not fit its feature.
    """
    manifest = {
        "schema": schema.fingerprint,
        "query_features": [feature.name for feature in query_tower.features],
        "item_features": [feature.name for feature in item_tower.features],
        "filters": [feature.name for feature in sides.filters],
        "item_id": sides.item_id.name,
        "k": index.k,
        "num_retrieved": None if ranker is None else ranker.num_retrieved,
        "index": keras.saving.serialize_keras_object(index),
    }
    embeddings, filters = Embeddings.of(query_tower, item_tower), Filters(sides.filters, Piece(items, "the items"))
    stage = None if ranker is None else SecondStage.of(query_tower, ranker)
    features = (query_tower.features, item_tower.features)
    served = Served(embeddings, index, filters, index.k, *features, stage, manifest["num_retrieved"])
    said = None if report is None else report.to_json()
    return _write(path, manifest, schema, served, items, said)


def _write(
    path: str | Path,
    manifest: Mapping[str, Any],
    schema: Schema,
    served: Served,
    items: pa.Table,
    report: str | None,
) -> Recommender:
    said = {name: manifest[name] for name in manifest if name not in ("format", "versions", "files")}
    with writing(path, said) as folder:
        tf.saved_model.save(served, str(folder / MODEL), signatures=served.functions)
        schema.to_yaml(folder / SCHEMA)
        pq.write_table(items.replace_schema_metadata(None), folder / ITEMS)
        if report is not None:
            (folder / REPORT).write_text(report, encoding="utf-8")
    return Recommender.load(path)


def _stamp(folder: Path) -> bytes | None:
    """Return what tells one bundle from the next at the same place."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def _stamp_soon(folder: Path) -> bytes | None:
    """Return the stamp of the bundle that is there, or is so within `GAP` seconds."""
    end = time.monotonic() + GAP
    while (stamp := _stamp(folder)) is None and time.monotonic() < end:
        time.sleep(GAP / 50)
    return stamp
