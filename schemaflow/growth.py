"""A trained model's weights in a model with more rows: what was there stays, and new rows begin where the old model was.

A row is new where a value takes it that had none, or where the table did not reach. It begins

- at the out-of-vocabulary row that the old model served that value with;
- in a table whose values are rows themselves, and so has no such row, at the mean of the rows that were trained;
- in a table with pretrained vectors, at its own;
- where a table of side features holds the id, at what they say: a ridge regression from the side features' vectors to
  the trained rows.

In a compressed table a new value's row is made of what its remainder's row holds and its quotient's, and a quotient that is
new begins at the mean of those that were trained.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from schemaflow.data.dataset import data_errors, read_parquet
from schemaflow.data.join import as_side_table, read_ids, refuse_repeated
from schemaflow.errors import ConfigError, DataError, SchemaError
from schemaflow.features.encoders import FeatureEncoder
from schemaflow.features.known import KnownPositives, user_id
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.features.unseen import holding_values, seen_rows
from schemaflow.layers.embedding import EmbeddingTable
from schemaflow.layers.quotient_remainder import QuotientRemainderTable
from schemaflow.layers.table import Table
from schemaflow.model_config import arguments_of
from schemaflow.ridge import ridge
from schemaflow.schema.domain import Domain
from schemaflow.schema.feature import OUT_OF_VOCABULARY, Feature, encoded_name
from schemaflow.schema.rows import rows_in
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import same_side
from schemaflow.schema.sources import Source, TableLike, open_source
from schemaflow.schema.tags import Tags
from schemaflow.towers import Tower

__all__ = ["Held", "carry_over", "grown", "keep_frozen", "keep_widths", "refuse_breaks"]

Array = npt.NDArray[Any]

BATCH_SIZE = 8192
"""Rows of side features that are encoded at a time."""


@dataclass(frozen=True)
class Held:
    """A layer that holds what was seen of the data, such as frequencies or the catalogue.

    Args:
        old: In the old model, if it has one.
        new: In the new model.
        kept: Whether the new one begins with what the old one holds; else it holds newer data.
    """

    old: keras.layers.Layer | None
    new: keras.layers.Layer | None
    kept: bool = True


def refuse_breaks(old: Schema, new: Schema) -> None:
    """Raise `SchemaError` with a line for each change that a model of the old schema does not survive."""
    breaks = [str(change) for change in old.diff(new).changes if change.level == "breaks"]
    if breaks:
        raise SchemaError(*breaks)


def keep_widths(options: EmbeddingOptions, towers: Sequence[Tower]) -> EmbeddingOptions:
    """Return embedding options that give the tables the widths they have, where they were inferred from their rows."""
    if not options.infer_embedding_sizes:
        return options
    widths = {name: table.dim for tower in towers for name, table in _tables(tower.encoder).items()}
    return replace(options, embedding_dims=widths)


def grown(
    old: keras.Model, schema: Schema, sides: Sequence[TableLike], candidates: TableLike | None, known_positives: Any
) -> Any:
    """Return the `TwoTowerModel` of a wider schema that has all that another has learned, compiled as that is.

    Args:
        old: The trained model.
        schema: The wider schema.
        sides: As in `carry_over`.
        candidates: The table of all items; where it is None, what the old model holds stays.
        known_positives: Likewise.

    Raises:
        SchemaError: The schema changed in more than rows.
        DataError: As in `carry_over`.
        ConfigError: Likewise.
    """
    refuse_breaks(old.schema, schema)
    arguments = arguments_of(old.get_config()) | {"schema": schema}
    arguments["embedding_options"] = keep_widths(old.embedding_options, (old.query_tower, old.item_tower))
    known, held_items = old.known_positives, arguments["candidates"] is not None
    if known_positives is not None:
        arguments["known_positives"] = known_positives
    elif known is not None:
        arguments["known_positives"] = KnownPositives(schema.rows(user_id(old.sides).table), known.pairs)
    if candidates is not None:
        arguments["candidates"] = candidates
    new = type(old)(**arguments)
    terms = list(zip((*old.tasks, *old.debiasing), (*new.tasks, *new.debiasing), strict=True))
    for before, now in terms:
        now.continue_from(before)
    towers = [(old.query_tower, new.query_tower), (old.item_tower, new.item_tower)]
    copies = [
        list(zip(before.towers, now.towers, strict=True))
        for before, now in zip(old.tasks, new.tasks, strict=True)
        if before.towers
    ]
    held = [
        Held(old.catalogue, new.catalogue, kept=held_items and candidates is None),
        Held(known, new.known_positives, kept=known_positives is None),
        Held(old.negatives.frequency, new.negatives.frequency),
    ]
    beside = [(before.encoder, now.encoder) for before, now in terms if before.encoder and now.encoder]
    of_towers = [(before.encoder, now.encoder) for copy in (towers, *copies) for before, now in copy]
    keep_frozen(old, new, [*of_towers, *beside], held)
    if old.compiled:
        new.compile_from_config(old.get_compile_config())
    carry_over(old, new, [towers, *copies], sides, held, beside)
    return new


def keep_frozen(
    old: keras.Model,
    new: keras.Model,
    encoders: Sequence[tuple[FeatureEncoder, FeatureEncoder]],
    held: Sequence[Held] = (),
) -> None:
    """Let training change in a new model what it changes in the old one, whatever was frozen by hand since it was made.

    A table that the new schema freezes or thaws is as that says.

    Args:
        old: The trained model.
        new: The model of the new schema.
        encoders: The old one and the new one, of all that holds tables.
        held: As in `carry_over`.
    """
    said = {
        id(it.embeddings)
        for was, now in encoders
        for name, table in _tables(now).items()
        for it in table.parts()
        if _trainable(was.schema, name) != _trainable(now.schema, name)
    }
    for it, other in zip(_rest(old, _of(it.old for it in held)), _rest(new, _of(it.new for it in held)), strict=True):
        if id(other) not in said:
            other.trainable = it.trainable


def _trainable(schema: Schema, name: str) -> bool:
    """Tell whether a schema lets training change a feature's table."""
    return not any(
        it.embedding and it.embedding.trainable is False for it in schema.domains[schema[name].table].features
    )


def carry_over(
    old: keras.Model,
    new: keras.Model,
    copies: Sequence[Sequence[tuple[Tower, Tower]]],
    sides: Sequence[TableLike],
    held: Sequence[Held] = (),
    beside: Sequence[tuple[FeatureEncoder, FeatureEncoder]] = (),
) -> None:
    """Give a model all that an older one has learned: weights, the optimizer's slots, the state of random generators.

    Args:
        old: The trained model.
        new: The model of the new schema, with the same arguments, compiled where the old one is.
        copies: The old tower and the new one, for each side; and so for other models' towers that it holds.
        sides: Tables of new and known ids with their side features.
        held: Layers that hold data, and not what was learned of it.
        beside: The old encoder and the new one of each term that reads features through tables of its own.

    Raises:
        DataError: A side table has no id, no side feature, no id that was trained, or an id twice.
        ConfigError: The optimizer keeps slots that do not grow by rows.
    """
    of_towers = [(before.encoder, after.encoder) for towers in copies for before, after in towers]
    grown = {id(it.new): it for before, after in (*of_towers, *beside) for it in _grown_tables(before, after)}
    _assign_rest(
        _rest(old, {id(it.old.embeddings) for it in grown.values()} | _of(it.old for it in held)),
        _rest(new, {id(it.new.embeddings) for it in grown.values()} | _of(it.new for it in held)),
        "the model",
    )
    for data in held:
        if data.kept and data.old is not None and data.new is not None:
            _begin_with(data.old, data.new)
    for it in grown.values():
        it.new.embeddings.assign(it.start)
    for table in sides:
        source = open_source(table)
        keys = [it for _, tower in copies[0] for it in tower.features if _is_id(it)]
        views = [(as_side_table(source, new.schema, key), key) for key in keys]
        of_ids = {id(view): view for view, key in views if key.source in view.columns}
        for view in of_ids.values() or [source]:
            for towers in copies:
                _start_from_sides(view, towers, grown)
    if old.compiled and old.optimizer is not None:
        trained = [*(tower.encoder for _, tower in copies[0]), *(encoder for _, encoder in beside)]
        tables = [table for encoder in trained for table in _tables(encoder).values()]
        own = {id(part) for table in tables for part in table.parts()}  # those of others have no slots
        _carry_optimizer(old, new, [it for it in grown.values() if id(it.new) in own])


def _begin_with(before: keras.layers.Layer, after: keras.layers.Layer) -> None:
    for it, other in zip(before.variables, after.variables, strict=True):
        values = np.array(other.numpy())
        values[tuple(slice(size) for size in it.shape)] = it.numpy()
        other.assign(values)


def _of(layers: Iterable[keras.layers.Layer | None]) -> set[int]:
    return {id(it) for layer in layers if layer is not None for it in layer.variables}


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grown:
    """An embedding table and what it becomes.

    Args:
        old: The table.
        new: The table with the new schema's rows.
        is_new: The rows that begin anew, [rows] bool.
        start: What all rows begin with, [rows, dim].
        trained: The rows of values that interactions were seen of, [rows] bool; all values where none were counted.
    """

    old: EmbeddingTable
    new: EmbeddingTable
    is_new: Array
    start: Array
    trained: Array


def _tables(encoder: FeatureEncoder) -> dict[str, Table]:
    """Return an encoder's embedding tables by feature."""
    return {it.name: encoder.encoders[it.name].table for it in encoder.features if it.kind == "categorical"}


def _grown_tables(before: FeatureEncoder, after: FeatureEncoder) -> list[_Grown]:
    old, new = _tables(before), _tables(after)
    grown = []
    for name, now in new.items():
        was = old[name]
        if isinstance(was, QuotientRemainderTable) and isinstance(now, QuotientRemainderTable):
            grown += _grow_compressed(was, now, before.schema, name)
        elif isinstance(was, EmbeddingTable) and isinstance(now, EmbeddingTable):
            grown.append(_grow(was, now, before.schema, after.schema, name))
    return grown


def _grow_compressed(
    old: QuotientRemainderTable, new: QuotientRemainderTable, before: Schema, name: str
) -> list[_Grown]:
    rows = np.flatnonzero(_trained(before, before.domains[before[name].table], old.rows))
    of_trained = np.unique((rows - old.reserved) // old.remainders)
    grown = []
    for was, now in zip(old.parts(), new.parts(), strict=True):
        weights, is_new = was.embeddings.numpy(), np.arange(now.rows) >= was.rows
        start = np.empty((now.rows, now.dim), weights.dtype)
        start[~is_new] = weights
        if is_new.any():  # of the quotients: there are as many remainders as before
            start[is_new] = weights[of_trained].mean(axis=0)
        grown.append(_Grown(was, now, is_new, start, ~is_new))
    return grown


def _grow(old: EmbeddingTable, new: EmbeddingTable, before: Schema, after: Schema, name: str) -> _Grown:
    domain, now = before.domains[before[name].table], after.domains[after[name].table]
    vocabulary, wider = before.vocabulary(domain.name), after.vocabulary(now.name)
    weights = old.embeddings.numpy()
    trained = _trained(before, domain, new.rows)
    origin, is_new = np.arange(new.rows), np.arange(new.rows) >= old.rows
    origin[is_new] = OUT_OF_VOCABULARY if domain.reserved else 0
    if vocabulary is not None and wider is not None:
        taken = np.arange(len(vocabulary), len(wider)) + domain.reserved
        origin[taken] = rows_in(domain, vocabulary, wider.slice(len(vocabulary)))
        is_new[taken] = True
    start = weights[origin]
    if not domain.reserved and is_new.any():
        start[is_new] = weights[trained[: old.rows]].mean(axis=0)
    vectors = after.vectors(now.name)
    if vectors is not None:
        own = np.flatnonzero(is_new)
        own = own[own - now.reserved < len(vectors)]
        start[own] = vectors[own - now.reserved]
    return _Grown(old, new, is_new, start, trained)


def _trained(schema: Schema, domain: Domain, length: int) -> Array:
    """Return which rows hold values that interactions were seen of, [length] bool; all values where none is known so."""
    holds, seen = holding_values(schema, domain), seen_rows(schema, domain)
    trained = holds if seen is None or not (holds & seen).any() else holds & seen
    return np.pad(trained, (0, max(length - len(trained), 0)))[:length]


# -- side features ----------------------------------------------------------------------------------------------------


def _start_from_sides(source: Source, towers: Iterable[tuple[Tower, Tower]], grown: Mapping[int, _Grown]) -> None:
    """Give the new ids of a table what their side features say."""
    ids = [(tower, it) for _, tower in towers for it in tower.features if _is_id(it) and it.source in source.columns]
    if len(ids) != 1:
        found = " and ".join(f'"{it.name}"' for _, it in ids) or "none"
        raise DataError(f"{source.name}: expected a table of one id and its side features; its ids are {found}")
    tower, key = ids[0]
    schema, made = tower.schema, _tables(tower.encoder)[key.name]
    if isinstance(made, QuotientRemainderTable):
        raise ConfigError(
            f'{source.name}: the table of "{key.name}" is compressed, so that a new id has no row of its own to begin with'
            " what its side features say; leave that table out"
        )
    table = grown[id(made)]
    if schema.vectors(key.table) is not None:
        raise ConfigError(
            f'{source.name}: the new rows of "{key.name}" begin with its pretrained vectors; leave that table out'
        )
    names = [
        it.name
        for it in tower.features
        if it is not key and it.kind != "weights" and it.source in source.columns
        if same_side(it, key)
    ]
    if not names:
        raise DataError(
            f'{source.name}: holds no feature beside "{key.name}" that enters its tower, so nothing can be said of its rows'
        )
    refuse_repeated(read_ids(source, key), key, source)
    rows, vectors = _encoded(source, tower, key, names)
    known, new = table.trained[rows] & ~table.is_new[rows], table.is_new[rows]
    if known.sum() < 2:
        raise DataError(
            f"{source.name}: holds {known.sum()} ids of {key.name} that the model was trained on; expected those beside"
            " the new ones, for what side features say is learned from them"
        )
    weights = table.new.embeddings.numpy()
    weights[rows[new]] = ridge(vectors[known], weights[rows[known]], vectors[new])
    table.new.embeddings.assign(weights)


def _is_id(feature: Feature) -> bool:
    return feature.has(Tags.ID) and feature.kind == "categorical" and feature.list is None


def _encoded(source: Source, tower: Tower, key: Feature, names: Sequence[str]) -> tuple[Array, Array]:
    """Return the table row of each id, [n], and its side features as they enter the tower, [n, width] float64."""
    features = tower.schema.select_by_name(names).features
    tables = {tower.schema[name].table: table for name, table in _tables(tower.encoder).items()}
    encoder = FeatureEncoder(tower.schema, features, tables, tower.options, dtype="float32")
    batches = read_parquet(source, tower.schema, batch_size=BATCH_SIZE, features=[key.name, *names])
    with data_errors():
        pairs = [(batch[encoded_name(key.name)].numpy(), encoder(batch).numpy()) for batch in batches]
    return np.concatenate([it for it, _ in pairs]), np.concatenate([it for _, it in pairs]).astype(np.float64)


# -- variables --------------------------------------------------------------------------------------------------------


def _rest(model: keras.Model, tables: set[int]) -> list[Any]:
    """Return a model's variables but its embedding tables and what its metrics hold."""
    left_out = tables | {id(it) for it in model.metrics_variables}
    return [it for it in model.variables if id(it) not in left_out]


def _assign_rest(old: Sequence[Any], new: Sequence[Any], owner: str, instead: str = "") -> None:
    odd = next((it.path for it, other in zip(old, new, strict=False) if it.shape != other.shape), None)
    if odd is not None or len(old) != len(new):
        which = f'"{odd}"' if odd is not None else f"{len(old)} variables, where {len(new)} are to be"
        raise ConfigError(
            f"{owner} keeps {which}, which does not grow by the rows of an embedding table; train a new model{instead}"
        )
    for it, other in zip(old, new, strict=True):
        other.assign(it)


def _carry_optimizer(old: keras.Model, new: keras.Model, grown: Sequence[_Grown]) -> None:
    """Give the new model's optimizer the old one's state; slots of new rows stay as a fresh optimizer has them."""
    for model in (old, new):
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)  # as fit would
    slots, fresh = (
        [_slots(model.optimizer, table) for table in tables]
        for model, tables in ((old, [it.old for it in grown]), (new, [it.new for it in grown]))
    )
    for it, before, after in zip(grown, slots, fresh, strict=True):
        for kind in before.keys() & after.keys():
            values = after[kind].numpy()
            values[~it.is_new] = before[kind].numpy()[~it.is_new[: it.old.rows]]
            if kind == "average":  # of the weights, which fit would begin with them
                values[it.is_new] = it.new.embeddings.numpy()[it.is_new]
            after[kind].assign(values)
    known, taken = ({id(it) for found in of for it in found.values()} for of in (slots, fresh))
    _assign_rest(
        [it for it in old.optimizer.variables if id(it) not in known],
        [it for it in new.optimizer.variables if id(it) not in taken],
        f"the optimizer {type(old.optimizer).__name__}",
        ", or compile this one with another optimizer before it grows",
    )


def _slots(optimizer: keras.optimizers.Optimizer, table: EmbeddingTable) -> dict[str, Any]:
    """Return an optimizer's slots for a table by kind (momentum, velocity, …): Keras names them after the variable."""
    prefix = f"{table.embeddings.path.replace('/', '_')}_"
    return {it.name.removeprefix(prefix): it for it in optimizer.variables if it.name.startswith(prefix)}
