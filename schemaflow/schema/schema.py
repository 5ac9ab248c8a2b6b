"""The schema: the features of a retrieval problem, from which everything else is derived."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, Union

from schemaflow.errors import DataError, SchemaError, suggest
from schemaflow.schema.checking import check
from schemaflow.schema.consistency import conflicts
from schemaflow.schema.diff import Diff, compare
from schemaflow.schema.document import parse, read
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import Feature
from schemaflow.schema.findings import Findings
from schemaflow.schema.fitted import Fitted
from schemaflow.schema.fitting import fit
from schemaflow.schema.grammar import SchemaDocument, read_parts
from schemaflow.schema.inference.draft import draft
from schemaflow.schema.json_schema import json_schema
from schemaflow.schema.merlin import carried, features_of, format_file, is_merlin, originals, parse_file, to_merlin
from schemaflow.schema.options import EmbeddingSpec
from schemaflow.schema.sources import Source, TableLike, open_source
from schemaflow.schema.table import SideTable
from schemaflow.schema.tags import Tags
from schemaflow.schema.yaml_text import dump_flow

if TYPE_CHECKING:
    import merlin.schema
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Schema", "SchemaLike", "SideTable", "as_schema"]


@dataclass(frozen=True, eq=False, repr=False)
class Schema:
    """The features of a retrieval problem: immutable, hashable, read from YAML.

    Args:
        features: The features, in order.
        name: What the data is called.
        tables: Side tables by name.
        fitted: What was learned from data: vocabularies, statistics, item counts.
        folder: Where files that it names are looked for, beside the data's folder; no part of its value.

    Raises:
        SchemaError: Features or tables contradict each other; one line for each mistake.

    Example:
        >>> schema = Schema((
        ...     Feature(name="user_id", dtype="int64", tags=["user", "id"], cardinality=100),
        ...     Feature(name="item_id", dtype="int64", tags=["item", "id"], cardinality=50),
        ... ))
        >>> schema.column_names
        ['user_id', 'item_id']
        >>> schema.select_by_tag(Tags.USER).column_names
        ['user_id']
        >>> schema.rows("item_id")
        50
    """

    features: tuple[Feature, ...]
    name: str | None = None
    tables: Mapping[str, SideTable] = field(default_factory=dict)
    fitted: Fitted = field(default_factory=Fitted)
    folder: Path = Path()
    domains: Mapping[str, Domain] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "tables", MappingProxyType(dict(self.tables)))
        domains, problems = conflicts(self.features, self.tables, self.fitted)
        if problems:
            raise SchemaError(*(problem for _, problem in problems))
        object.__setattr__(self, "domains", MappingProxyType(domains))

    # -- reading and writing --------------------------------------------------------------------------------------

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a schema file, with what was learned if it names a folder of that.

        Raises:
            SchemaError: One line for each mistake: file, line, column, what was expected and received.

        Example:
            >>> Schema.from_yaml("schemas/movielens_100k.yaml").name
            'movielens-100k'
        """
        return cls(*read_parts(Path(path)))

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """Return the grammar of schema files as JSON Schema, draft 2020-12: for editors to complete and check them.

        Example:
            >>> Schema.json_schema()["required"]
            ['version', 'features']
        """
        return json_schema(SchemaDocument, "SchemaFlow schema")

    @classmethod
    def infer(cls, *tables: TableLike) -> Self:
        """Return a schema guessed from tables; `schemaflow infer` writes the same with comments, to be read over.

        Args:
            *tables: A folder of Parquet files, such files, or tables in memory.

        Raises:
            DataError: There is no table, or one cannot be read.
            SchemaError: There is no item id, or nothing to ask by; it says what to write by hand.

        Example:
            >>> visits = {"user_id": [1, 2, 1], "item_id": ["a", "b", "b"], "rating": [4.0, 1.0, 5.0]}
            >>> for feature in Schema.infer(visits):
            ...     print(feature.name, *feature.tags)
            user_id user id
            item_id item id
            rating target regression
        """
        drafted = draft(*tables)
        if drafted.problems:
            raise SchemaError(*drafted.problems)
        return cls.from_config({"yaml": drafted.text, "fitted": {}})

    def to_yaml(self, path: str | Path) -> None:
        """Write the schema, and what was learned to a folder beside it: `shop.yaml` and `shop.fitted/`."""
        path = Path(path)
        files = self.fitted.files()
        folder = f"{path.stem}.fitted" if files else None
        if folder is not None:
            self.fitted.write(path.parent / folder)
        _write(path, self._text(folder))

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a schema file of any kind: `.yaml`, `.yml`, and NVTabular's `.pbtxt` and `.json`.

        Raises:
            SchemaError: It is of another kind, or does not hold a schema; one line for each mistake.

        Example:
            >>> Schema.from_file("schemas/movielens_100k.yaml").name
            'movielens-100k'
        """
        kind = Path(path).suffix.lower()
        if kind in (".yaml", ".yml"):
            return cls.from_yaml(path)
        if kind in (".pbtxt", ".json"):
            return cls.from_pbtxt(path)
        raise SchemaError(f"{path}: expected a schema file that ends in .yaml, .yml, .pbtxt or .json")

    @classmethod
    def from_merlin(cls, schema: "merlin.schema.Schema") -> Self:
        """Return the schema that a Merlin schema describes.

        A schema that `to_merlin` gave comes back equal, with what was changed in Merlin since. In another tool's, a
        categorical column of integers has `domain.max + 1` rows, and its values are rows themselves; a name that no
        feature can have becomes one that can, with `column` to find the data.

        Raises:
            SchemaError: A column does not say what a feature needs; one line for each mistake.
        """
        if not is_merlin(schema):
            raise SchemaError(f"expected a merlin.schema.Schema, received {type(schema).__name__}")
        config = carried(schema)
        if config is None:
            return cls(features_of(schema, {}))
        kept = cls.from_config(config).select_by_name(originals(schema))
        return replace(kept, features=features_of(schema, {feature.name: feature for feature in kept}))

    def to_merlin(self) -> "merlin.schema.Schema":
        """Return the schema as a `merlin.schema.Schema`; what that cannot hold travels in its properties.

        Raises:
            SchemaError: The schema has no feature, or Merlin cannot be imported.

        Example:
            >>> schema = Schema.from_yaml("schemas/movielens_100k.yaml")
            >>> table = schema.to_merlin()
            >>> table.select_by_tag("user_id").column_names, table["year"].int_domain.max
            (['user_id'], 73)
            >>> Schema.from_merlin(table) == schema
            True
        """
        rows = {}
        for name in self.domains:
            with suppress(SchemaError):  # what is still to be learned has no rows to tell
                rows[name] = self.rows(name)
        return to_merlin(self.features, rows, self.get_config())

    @classmethod
    def from_pbtxt(cls, path: str | Path) -> Self:
        """Read a `schema.pbtxt`, or a `schema.json`, as NVTabular writes them.

        Raises:
            SchemaError: It does not hold a schema; one line for each mistake, with the file.
        """
        text = read(path, SchemaError, "schema")
        schema = parse_file(text, Path(path))
        try:
            return cls.from_merlin(schema)
        except SchemaError as reason:
            raise SchemaError(*(f"{path}: {problem}" for problem in reason.problems)) from None

    def to_pbtxt(self, path: str | Path) -> None:
        """Write the schema as NVTabular's `schema.pbtxt`, or as its `schema.json` where the path ends so.

        The same schema gives the same bytes. What was learned from data is written along, in the file itself.

        Raises:
            SchemaError: The schema has no feature, or Merlin cannot be imported.
        """
        _write(Path(path), format_file(self.to_merlin(), Path(path)))

    def _text(self, folder: str | None) -> str:
        """Return the YAML: one line for each feature."""
        lines = ["version: 1"]
        if self.name is not None:
            lines.append(f"name: {dump_flow(self.name)}")
        if folder is not None:
            lines.append(f"fitted: {dump_flow(folder)}")
        if self.tables:
            lines.append("tables:")
            lines += [
                f"  {dump_flow(name)}: {dump_flow(table.model_dump(mode='json'))}"
                for name, table in self.tables.items()
            ]
        lines.append("features:")
        lines += [
            f"  {dump_flow(feature.name)}: {dump_flow(feature.model_dump(mode='json', exclude_none=True, exclude_unset=True))}"
            for feature in self.features
        ]
        return "\n".join(lines) + "\n"

    def get_config(self) -> dict[str, Any]:
        """Return the whole schema as JSON values, vocabularies included."""
        return {"yaml": self._text(None), "fitted": self.fitted.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read what `get_config` gave."""
        document = parse(config["yaml"], SchemaDocument, "the saved schema").require(SchemaError)
        return cls(
            tuple(document.features.values()), document.name, document.tables, Fitted.from_config(config["fitted"])
        )

    # -- learning -------------------------------------------------------------------------------------------------

    def fit(self, *tables: TableLike) -> Self:
        """Return a new schema with vocabularies, statistics and item counts learned from tables.

        What was learned before stays, since a trained model relies on it: new values get rows after those known, and
        the numbers' statistics are kept; `unfitted()` starts anew. Counts are those of the tables given. Side tables
        that the schema declares are read too, where they lie beside the first file given. Items are counted in the
        tables that hold the item id beside users, times or targets.

        Args:
            *tables: Interactions first, then side tables: Parquet files, folders, Arrow, pandas or polars tables, dicts
                of arrays.

        Raises:
            DataError: A column that is needed is nowhere, does not fit its feature, or cannot be read.
            SchemaError: A vocabulary needs more rows than its cardinality.
        """
        if not tables:
            raise DataError("Schema.fit needs at least one table: the interactions")
        opened = [open_source(table) for table in tables]
        folder = next((source.folder for source in opened if source.folder is not None), None)
        declared = [(table, self[table.key]) for table in self.tables.values()]
        pairs = [(source, table, key) for source in opened for table, key in declared if self._is_side(source, table)]
        sides = [(table.open(source, key), key) for source, table, key in pairs]
        sources = [source for source in opened if all(source is not side for side, _, _ in pairs)]
        if folder is not None:
            given = {file.resolve() for source in opened for file in source.files}
            files = [(folder / table.file, table, key) for table, key in declared]
            sides += [
                (table.open(file, key), key)
                for file, table, key in files
                if file.exists() and file.resolve() not in given
            ]
        folders = [self.folder] if folder is None else [self.folder, folder]
        return replace(self, fitted=fit(self.features, self.domains, sources, sides, self.fitted, folders))

    def _is_side(self, source: Source, table: SideTable) -> bool:
        """Tell whether a source is a side table: by the name of its file, or else by the column that has its key alone."""
        if any(file.name == Path(table.file).name for file in source.files[:1]):
            return True
        ids = {it.source for it in self.features if it.has(Tags.ID)}
        return table.column in source.columns and ids.isdisjoint(source.columns)

    def check(self, interactions: TableLike, *, tables: str | Path | None = None) -> Findings:
        """Return what training would refuse in tables, as errors, and what may not be meant, as warnings.

        Each table is read once, a few row groups at a time.

        Args:
            interactions: A Parquet file, a folder of them, an Arrow, pandas or polars table, or a dict of arrays.
            tables: The folder of the side tables; that of `interactions` if not given.

        Example:
            >>> schema = Schema((
            ...     Feature(name="user_id", dtype="int64", tags=["user", "id"], cardinality=100),
            ...     Feature(name="item_id", dtype="int64", tags=["item", "id"], cardinality=50),
            ... ))
            >>> for finding in schema.check({"user_id": [7, 8, 9], "item_id": [3, 50, 4]}).found:
            ...     print(finding.code, finding.row, finding.count)
            outside-cardinality 1 1
        """
        return check(self, interactions, None if tables is None else Path(tables))

    def unfitted(self) -> Self:
        """Return the schema without anything that was learned."""
        return replace(self, fitted=Fitted())

    def diff(self, other: "SchemaLike") -> Diff:
        """Return what changing this schema into another means for a model that was trained with this one.

        Its verdict is `compatible` (the model fits), `grows` (it needs new rows, which `TwoTowerModel.grow` gives it) or
        `breaks` (train a new one).

        Args:
            other: The new schema, fitted: best by `schema.fit` on the new data, which keeps the rows that values have.

        Raises:
            SchemaError: One of them still lacks what `fit` learns, so that rows cannot be compared.

        Example:
            >>> schema = Schema((Feature(name="item", dtype="string", tags=["item", "id"], vocabulary=["a", "b"]),))
            >>> wider = Schema((Feature(name="item", dtype="string", tags=["item", "id"], vocabulary=["a", "b", "c"]),))
            >>> print(schema.diff(wider))
            grows: table "item" has 1 new value ('c'), from row 5 on: the model needs their rows; grow it
            verdict: grows: a trained model needs new rows, which model.grow(schema) gives it
        """
        return compare(self, as_schema(other))

    def vocabulary(self, domain: str) -> "pa.Array | None":
        """Return a domain's values in the order of their rows, the first after the reserved ones; None without a vocabulary.

        Raises:
            SchemaError: The vocabulary is still to be learned.
        """
        it = self.domains[domain]
        if it.encoding != "vocabulary":
            return None
        if not it.learned:
            return it.inline_values()
        if domain not in self.fitted.vocabularies:
            self.require_fitted()
        return self.fitted.vocabularies[domain]

    def rows(self, domain: str) -> int:
        """Return the rows of a domain's embedding table, reserved ones included.

        Raises:
            SchemaError: The schema does not say, and the vocabulary is still to be learned.
        """
        it = self.domains[domain]
        if it.encoding == "buckets":
            return it.rows(len(self.edges(it.features[0])) + 1)
        values = self.vocabulary(domain) if it.cardinality is None else None
        return it.rows(None if values is None else len(values))

    def edges(self, feature: Feature) -> tuple[float, ...]:
        """Return the edges between a feature's buckets.

        Raises:
            SchemaError: They are quantiles that are still to be learned.
        """
        if isinstance(feature.buckets, tuple):
            return feature.buckets
        if feature.name not in self.fitted.statistics:
            self.require_fitted()
        return self.fitted.statistics[feature.name].edges

    def counts(self, feature: Feature) -> "npt.NDArray[Any] | None":
        """Return the interactions that hold each row of an id's table, [rows] int64; None where none were seen.

        Rows that came since are of no interaction yet.
        """
        import numpy as np

        counts = self.fitted.counts.get(feature.name)
        return None if counts is None else np.pad(counts, (0, max(self.rows(feature.table) - len(counts), 0)))

    def vectors(self, domain: str) -> "npt.NDArray[Any] | None":
        """Return the vectors that a domain's values begin with, [values, dim] float32; None where it says none."""
        return self.fitted.vectors.get(domain) if self.domains[domain].pretrained is not None else None

    def takes_missing(self, feature: Feature) -> bool:
        """Tell whether a missing value of a feature is something to the model, and not an error."""
        if feature.kind == "categorical":
            return self.domains[feature.table].takes_missing(feature)
        if feature.kind == "value" and feature.has(Tags.FILTER):  # which it then does not pass
            return True
        if feature.has(Tags.POSITION):  # shown at none; but no unsigned number stands for that
            return not feature.dtype.startswith("u")
        if feature.has(Tags.TEACHER):  # which then had nothing to say of the row
            return True
        return feature.missing not in (None, "error")

    def require_fitted(self) -> None:
        """Raise `SchemaError`, naming each feature, where something is still to be learned by `fit`."""
        problems = [
            f'feature "{it.features[0].name}" has no vocabulary yet'
            for name, it in self.domains.items()
            if it.learned and name not in self.fitted.vocabularies
        ]
        problems += [
            f'feature "{it.name}" has no statistics yet'
            for it in self.features
            if it.learns_statistics and it.name not in self.fitted.statistics
        ]
        problems += [
            f'feature "{it.features[0].name}" has no pretrained vectors yet'
            for name, it in self.domains.items()
            if it.pretrained and name not in self.fitted.vectors
        ]
        if problems:
            raise SchemaError(*(f"{problem}; call schema.fit(…) on the data first" for problem in problems))

    # -- selecting ------------------------------------------------------------------------------------------------

    @property
    def column_names(self) -> list[str]:
        """The names of the features, in order."""
        return [feature.name for feature in self.features]

    def select_by_tag(self, tags: Tags | str | Iterable[Tags | str]) -> Self:
        """Return the features with any of the tags; a compound tag stands for all of its atoms together.

        Example:
            >>> schema = Schema.from_yaml("schemas/movielens_100k.yaml")
            >>> schema.select_by_tag([Tags.USER_ID, Tags.ITEM_ID]).column_names
            ['user_id', 'movie_id']
        """
        wanted = [tags] if isinstance(tags, str) else list(tags)
        return self._with([feature for feature in self.features if any(feature.has(tag) for tag in wanted)])

    def excluding_by_tag(self, tags: Tags | str | Iterable[Tags | str]) -> Self:
        """Return the features that `select_by_tag` leaves out."""
        selected = set(self.select_by_tag(tags).column_names)
        return self._with([feature for feature in self.features if feature.name not in selected])

    def select_by_name(self, names: str | Iterable[str]) -> Self:
        """Return the features named, in the schema's order.

        Raises:
            SchemaError: There is no feature of a name.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            self[name]
        return self._with([feature for feature in self.features if feature.name in wanted])

    def _with(self, features: list[Feature]) -> Self:
        """Return a schema of some of the features; what was learned and the tables stay.

        A domain keeps its rows even where the feature that gave them is left out, a weighted list its weights, and a list
        that is aligned with a sequence that one.
        """
        names = {feature.name for feature in features}
        names |= {it.paired_with for it in features if it.paired_with is not None}
        features = [feature for feature in self.features if feature.name in names]
        kept = [feature if feature.kind != "categorical" else self._standalone(feature, names) for feature in features]
        tables = {name: table for name, table in self.tables.items() if table.key in names}
        return replace(self, features=tuple(kept), tables=tables)

    def _standalone(self, feature: Feature, names: set[str]) -> Feature:
        """Return the feature with what it owed to features of its domain that are left out."""
        domain = self.domains[feature.table]
        if all(other.name in names for other in domain.features):
            return feature
        owed: dict[str, Any] = {"domain": domain.name}
        if domain.cardinality is not None:
            owed["cardinality"] = domain.cardinality
        if domain.encoding == "vocabulary":
            owed["vocabulary"] = domain.values or domain.file or "learned"
        if domain.encoding == "hash":
            owed["hash"] = domain.buckets
        if domain.oov_rows > 1:
            owed["oov"] = domain.oov_rows
        said = [
            it.embedding.model_dump(exclude_none=True, exclude={"combiner"}) for it in domain.features if it.embedding
        ]
        own = {} if feature.embedding is None else feature.embedding.model_dump(exclude_none=True)
        if merged := {**{key: value for spec in reversed(said) for key, value in spec.items()}, **own}:
            owed["embedding"] = EmbeddingSpec.model_validate(merged)
        return feature.model_copy(update=owed)

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    def __len__(self) -> int:
        return len(self.features)

    def __contains__(self, name: object) -> bool:
        return name in self.column_names

    def __getitem__(self, name: str) -> Feature:
        for feature in self.features:
            if feature.name == name:
                return feature
        raise SchemaError(
            f'there is no feature "{name}"{suggest(name, self.column_names)} (features: {", ".join(self.column_names) or "none"})'
        )

    # -- a value --------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the schema and all that was learned, in hexadecimal."""
        return hashlib.sha256(f"{self._text(None)}\n{self.fitted.digest()}".encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_config, (self.get_config(),)

    def __repr__(self) -> str:
        return f"Schema({self.name or 'unnamed'}: {', '.join(self.column_names)})"


SchemaLike = Union[Schema, str, Path, "merlin.schema.Schema"]
"""What is taken for a schema: one, the path of its file, or Merlin's."""


def as_schema(schema: SchemaLike) -> Schema:
    """Return a schema given as one, as the path of its file (YAML, or NVTabular's), or as Merlin's.

    Raises:
        SchemaError: It is none of these, or does not describe a schema.
    """
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, (str, Path)):
        return Schema.from_file(schema)
    if is_merlin(schema):
        return Schema.from_merlin(schema)
    raise SchemaError(
        f"expected a Schema, the path of a schema file or a merlin.schema.Schema, received {type(schema).__name__}"
    )


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
