"""Which embedding tables a schema needs: pure arithmetic, no TensorFlow."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any

from schemaflow.errors import ConfigError, SchemaError, suggest
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import Feature
from schemaflow.schema.options import COMBINERS, Compress
from schemaflow.schema.schema import Schema
from schemaflow.schema.tags import Tags

__all__ = [
    "EmbeddingOptions",
    "TableSpec",
    "combiner_of",
    "describe_tables",
    "inferred_dim",
    "initializer_of",
    "is_dropped",
    "table_specs",
]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How wide the embedding tables are, and how they begin.

    A feature's width is the first of: its entry in `embedding_dims`; its `embedding: {dim: …}` in the schema; the
    inferred one, if asked for; `embedding_dim_default`. Features of one domain share one table and one width.

    Args:
        embedding_dims: Width by feature.
        embedding_dim_default: Width where nothing else says one.
        infer_embedding_sizes: Infer widths from the tables' rows: `ceil(rows^0.25 * multiplier)`.
        infer_embedding_sizes_multiplier: That multiplier; usually 2 to 10.
        infer_embeddings_ensure_dim_multiple_of_8: Round inferred widths up to a multiple of 8.
        embeddings_initializers: A Keras initializer (or its name) for all tables, or by feature.
        embeddings_l2_reg: Adds this times the mean over the batch of each looked-up vector's squared length to the loss.
        combiner: How the rows of a list become one vector: mean, sum, sqrtn or max.
        id_dropout: In training, an id that has a vocabulary is taken for one out of it with this probability, so that the
            features beside it learn to speak for ids that were never seen.

    Raises:
        ConfigError: A width, the multiplier, the l2 or the combiner is not one.

    Example:
        >>> inferred_dim(1001, multiplier=2.0), inferred_dim(1001, multiplier=2.0, multiple_of_8=True)
        (12, 16)

    Source:
        Volkovs et al., "DropoutNet: addressing cold start in recommender systems", NeurIPS 2017 (id_dropout).
    """

    embedding_dims: Mapping[str, int] | None = None
    embedding_dim_default: int = 64
    infer_embedding_sizes: bool = False
    infer_embedding_sizes_multiplier: float = 2.0
    infer_embeddings_ensure_dim_multiple_of_8: bool = False
    embeddings_initializers: Any = None
    embeddings_l2_reg: float = 0.0
    combiner: str = "mean"
    id_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.embedding_dims, (Mapping, type(None))):
            raise ConfigError(f"embedding_dims is {self.embedding_dims!r}; expected widths by feature")
        widths: dict[str, Any] = {"embedding_dim_default": self.embedding_dim_default}
        widths |= {f'embedding_dims["{name}"]': dim for name, dim in (self.embedding_dims or {}).items()}
        problems = [
            f"{name} is {dim!r}; expected an integer of at least 1"
            for name, dim in widths.items()
            if not isinstance(dim, Integral) or dim < 1
        ]
        if self.infer_embedding_sizes_multiplier <= 0:
            problems.append(
                f"infer_embedding_sizes_multiplier is {self.infer_embedding_sizes_multiplier}; expected a number above 0"
            )
        if self.embeddings_l2_reg < 0:
            problems.append(f"embeddings_l2_reg is {self.embeddings_l2_reg}; expected 0 or more")
        if not 0 <= self.id_dropout < 1:
            problems.append(f"id_dropout is {self.id_dropout}; expected a share of at least 0 and below 1")
        if self.combiner not in COMBINERS:
            problems.append(
                f'unknown combiner "{self.combiner}"{suggest(self.combiner, COMBINERS)} (known: {", ".join(COMBINERS)})'
            )
        if problems:
            raise ConfigError(*problems)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {it.name: getattr(self, it.name) for it in fields(self)}


@dataclass(frozen=True)
class TableSpec:
    """One embedding table.

    Args:
        domain: Its name.
        features: The names of the features that share it.
        rows: Reserved rows included.
        dim: Width of a row.
        padding: Row 0 is padding.
        initializer: The name of the Keras initializer that the schema asks for.
        trainable: Whether training changes it.
        compress: How it keeps fewer rows than it has.
        reserved: How many rows at its head hold no value.
    """

    domain: str
    features: tuple[str, ...]
    rows: int
    dim: int
    padding: bool
    initializer: str | None = None
    trainable: bool = True
    compress: Compress | None = None
    reserved: int = 0

    @property
    def kept(self) -> int:
        """The rows that are kept: all, or of a compressed table one for each remainder, quotient and reserved row."""
        if self.compress is None:
            return self.rows
        quotients = -(-(self.rows - self.reserved) // self.compress.remainders)
        return self.reserved + self.compress.remainders + quotients

    @property
    def parameters(self) -> int:
        """Rows kept x dim."""
        return self.kept * self.dim


def inferred_dim(rows: int, multiplier: float = 2.0, multiple_of_8: bool = False) -> int:
    """Return the width for a table: `d = ceil(rows^0.25 * multiplier)`, then `8 ceil(d / 8)` where asked.

    Source: NVIDIA Merlin's rule for inferred embedding sizes.
    """
    dim = math.ceil(rows**0.25 * multiplier)
    return 8 * math.ceil(dim / 8) if multiple_of_8 else dim


def table_specs(schema: Schema, options: EmbeddingOptions = EmbeddingOptions()) -> dict[str, TableSpec]:
    """Return the tables that a schema's categorical features need, by domain.

    Raises:
        ConfigError: `options` names a feature that the schema does not have, or that has no table, or drops ids where none
            has a vocabulary.
        SchemaError: A vocabulary is still to be learned, or pretrained vectors have another width than is asked for.

    Example:
        >>> item = Feature(name="item_id", dtype="int64", tags=["item", "id"], cardinality=1001)
        >>> spec = table_specs(Schema((item,)), EmbeddingOptions(infer_embedding_sizes=True))["item_id"]
        >>> spec.rows, spec.dim
        (1001, 12)
    """
    categorical = [feature.name for feature in schema if feature.kind == "categorical"]
    initializers = options.embeddings_initializers
    named = [*(options.embedding_dims or ()), *(initializers if _by_feature(initializers) else ())]
    if options.id_dropout and not any(is_dropped(schema, feature) for feature in schema):
        raise ConfigError(
            "id_dropout puts a row for what is out of the vocabulary in place of an id, and no id has one; give an id the"
            ' key "vocabulary: learned", or leave id_dropout out'
        )
    unknown = [
        f'embedding options name "{name}", which is no categorical feature{suggest(name, categorical)}'
        for name in named
        if name not in categorical
    ]
    if unknown:
        raise ConfigError(*dict.fromkeys(unknown))
    problems: list[str] = []
    specs = {}
    for name, domain in schema.domains.items():
        try:
            rows = schema.rows(name)
        except SchemaError as reason:
            problems += [problem for problem in reason.problems if problem not in problems]
            continue
        vectors = schema.vectors(name)
        dim = _dim(domain, rows, None if vectors is None else vectors.shape[1], options, problems)
        initializer = _said(domain, "initializer")
        trainable = _said(domain, "trainable")
        names = tuple(feature.name for feature in domain.features)
        specs[name] = TableSpec(
            name, names, rows, dim, domain.reserved > 0, initializer, True if trainable is None else trainable,
            domain.compress, domain.reserved,
        )  # fmt: skip
        if domain.compress is not None and specs[name].kept >= rows:
            problems.append(
                f'feature "{names[0]}" has a table of {rows} rows, of which {domain.compress.remainders} remainders keep'
                f" {specs[name].kept}; lower them to about an eighth of the values, or do not compress it"
            )
    if problems:
        raise SchemaError(*problems)
    return specs


def is_dropped(schema: Schema, feature: Feature) -> bool:
    """Tell whether a feature is an id that `id_dropout` is for."""
    single = feature.kind == "categorical" and feature.has(Tags.ID) and not feature.ragged
    return single and schema.domains[feature.table].encoding == "vocabulary"


def initializer_of(options: EmbeddingOptions, spec: TableSpec) -> Any:
    """Return a table's initializer: the options' for a feature, else the schema's, else the options' for all, or None.

    Raises:
        ConfigError: They ask for several.
    """
    wanted = options.embeddings_initializers
    if not _by_feature(wanted):
        return wanted if spec.initializer is None else spec.initializer
    named = [name for name in spec.features if name in wanted]
    if len(named) > 1:
        raise ConfigError(
            f'embeddings_initializers name {" and ".join(named)}, which share the table "{spec.domain}"; name one of them'
        )
    return wanted[named[0]] if named else spec.initializer


def combiner_of(feature: Feature, options: EmbeddingOptions) -> str:
    """Return how the rows of a list feature become one vector.

    Raises:
        ConfigError: The list is weighted, and the combiner is max.
    """
    own = feature.embedding.combiner if feature.embedding is not None else None
    combiner = own or options.combiner
    if combiner == "max" and feature.weighted_by is not None:
        raise ConfigError(
            f'feature "{feature.name}" is weighted by "{feature.weighted_by}", which the combiner max does not use; say mean, sum or sqrtn'
        )
    return combiner


def describe_tables(specs: Iterable[TableSpec]) -> str:
    """Return the tables as aligned text: feature, rows, dim, domain, parameters, and their sum.

    Of a compressed table "1,685 in 212" are the rows that it has, and those that it keeps.

    Example:
        >>> print(describe_tables([TableSpec("movie", ("movie_id", "history"), 1685, 64, True)]))
        feature             rows  dim  domain  parameters
        movie_id, history  1,685   64  movie      107,840
        total                                     107,840
    """
    listed = list(specs)
    lines = [("feature", "rows", "dim", "domain", "parameters")]
    lines += [(", ".join(it.features), _shown(it), f"{it.dim:,}", it.domain, f"{it.parameters:,}") for it in listed]
    lines.append(("total", "", "", "", f"{sum(it.parameters for it in listed):,}"))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    to_left = (0, 3)
    rows = (
        "  ".join(
            cell.ljust(width) if column in to_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
    return "\n".join(rows)


def _shown(spec: TableSpec) -> str:
    return f"{spec.rows:,}" if spec.compress is None else f"{spec.rows:,} in {spec.kept:,}"


def _by_feature(initializers: Any) -> bool:
    return (
        isinstance(initializers, Mapping) and "class_name" not in initializers
    )  # a serialized initializer is a dict too


def _said(domain: Domain, key: str) -> Any:
    """Return what a feature of a domain says of their table; no two contradict each other."""
    given = [getattr(it.embedding, key) for it in domain.features if it.embedding is not None]
    return next((value for value in given if value is not None), None)


def _dim(domain: Domain, rows: int, pretrained: int | None, options: EmbeddingOptions, problems: list[str]) -> int:
    asked = options.embedding_dims or {}
    by_option = sorted({asked[it.name] for it in domain.features if it.name in asked})
    said = _said(domain, "dim")
    if len(by_option) > 1:
        names = " and ".join(f'"{feature.name}"' for feature in domain.features)
        problems.append(
            f'features {names} share the domain "{domain.name}" but embedding_dims ask for the widths {by_option}; give one'
        )
    if pretrained is not None:
        asked_for = by_option[0] if by_option else said
        if asked_for not in (None, pretrained):
            problems.append(
                f'feature "{domain.features[0].name}" is asked to be {asked_for} wide, but its pretrained vectors are {pretrained}; remove one'
            )
        return pretrained
    if by_option or said is not None:
        return by_option[0] if by_option else int(said)
    if options.infer_embedding_sizes:
        return inferred_dim(
            rows, options.infer_embedding_sizes_multiplier, options.infer_embeddings_ensure_dim_multiple_of_8
        )
    return options.embedding_dim_default
