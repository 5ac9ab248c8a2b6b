"""Whole runs as functions: what the command line does, each command has its twin here."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemaflow.bulk import embed, recommend_all
from schemaflow.config import DebiasingConfig, HistoryConfig, RunConfig, TaskConfig, TowerConfig, TowersConfig
from schemaflow.data.join import read_ids, read_table
from schemaflow.errors import ConfigError, DataError
from schemaflow.evaluation import NothingToFindError, Report, evaluate
from schemaflow.export import Recommender, check_target
from schemaflow.layers.history import UserHistoryEncoder
from schemaflow.layers.mlp import MLPBlock
from schemaflow.models import TwoTowerModel
from schemaflow.optimizers import optimizer_of
from schemaflow.registry import lookup
from schemaflow.sampling import Sampler
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import sides_of, tower_tags
from schemaflow.schema.sources import Source, open_source
from schemaflow.schema.tags import Tags
from schemaflow.tasks import Debiasing, RetrievalTask, Task

__all__ = ["Run", "embed", "recommend_all", "recommend_in_fresh_process", "train"]


@dataclass(frozen=True)
class Run:
    """What a run gives.

    Args:
        model: Trained.
        report: Every candidate ranked.
        report_unseen: Every candidate ranked but those that the user chose in training; None where the schema has no
            user id to tell them by.
        recommender: Loaded from the bundle, where one was written.
    """

    model: TwoTowerModel
    report: Report
    report_unseen: Report | None
    recommender: Recommender | None


def train(
    config: RunConfig,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    say: Callable[[str], None] = lambda _: None,
) -> Run:
    """Split, fit the schema, train, evaluate, and export if asked.

    Args:
        config: The run.
        data: The folder of the data, or the file of the interactions in it, in place of `$SCHEMAFLOW_DATA` and the run
            file's own folder.
        out: Where to write the bundle.
        callbacks: Of Keras, for the training.
        say: Told what happens, a line at a time.

    Raises:
        SchemaFlowError: The configuration, the schema or the data is wrong; one line for each mistake.
    """
    if out is not None:
        check_target(out)  # before minutes of training, not after
    whole = Schema.from_file(config.schema_file)
    schema = config.select(whole)
    item_id = sides_of(schema).item_id
    file = config.interactions_file(data)
    folder, interactions = file.parent, open_source(file)
    training, test = _split(config, whole, folder, interactions)
    candidates = _candidates(config, schema, item_id, folder, interactions)
    say(f"{training.rows:,} interactions to train on, {test.rows:,} to test, {candidates.rows:,} candidates")

    files = dict.fromkeys(folder / table.file for table in schema.tables.values())
    side_tables = [open_source(file) for file in files if file.exists()]
    known = {file for source in side_tables for file in source.files}
    extra = [candidates] if candidates.files and not known.issuperset(candidates.files) else []
    schema = schema.fit(training, *side_tables, *extra)
    model = _model(config, schema, training, candidates)
    model.compile(optimizer=_optimizer(config, -(-training.rows // config.batch_size)))
    model.fit(
        training,
        batch_size=config.batch_size,
        epochs=config.epochs,
        tables=folder,
        callbacks=list(callbacks),
        verbose=0,
    )

    say("evaluating")
    ks = config.evaluation.ks
    report = evaluate(model, test, candidates, ks=ks, tables=folder)
    unseen = None
    if any(feature.has(Tags.USER_ID) for feature in schema):
        try:
            unseen = evaluate(model, test, candidates, ks=ks, exclude=training, tables=folder)
        except NothingToFindError as reason:  # the run is still worth its bundle
            say(str(reason))
    recommender = None
    if out is not None:
        say(f"exporting to {out}")
        recommender = model.export(out, candidates, report=report, tables=folder)
    return Run(model, report, unseen, recommender)


def recommend_in_fresh_process(bundle: str | Path, features: dict[str, str], k: int) -> str:
    """Return what `schemaflow recommend` prints in a process of its own, which has only the bundle."""
    arguments = [f"{name}={value}" for name, value in features.items()]
    command = [sys.executable, "-m", "schemaflow.cli.app", "recommend", str(bundle), *arguments, "-k", str(k)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(f"{bundle}: a fresh process could not recommend: {done.stderr.strip()}")
    return done.stdout


def _split(config: RunConfig, schema: Schema, folder: Path, interactions: Source) -> tuple[Source, Source]:
    if config.data.test is not None:
        return interactions, open_source(folder / config.data.test)
    table = _in_memory(interactions)
    if config.split.kind == "random":
        order = np.random.default_rng(config.split.seed).permutation(table.num_rows)
    else:
        order = np.argsort(_times(config, schema, interactions), kind="stable")
    rows = round(table.num_rows * (1 - config.split.test_fraction))
    if not 0 < rows < table.num_rows:
        raise DataError(
            f"{interactions.name}: {table.num_rows} rows cannot be split with test_fraction {config.split.test_fraction}"
        )
    parts = (("the training part of", order[:rows]), ("the test part of", order[rows:]))
    training, test = (
        Source(f"{part} {interactions.name}", interactions.columns, len(index), table=table.take(index), numbers=index)
        for part, index in parts
    )
    return training, test


def _times(config: RunConfig, schema: Schema, interactions: Source) -> npt.NDArray[Any]:
    """Return the time of each interaction, read as the schema says."""
    features = [feature for feature in schema if feature.has(Tags.TIME)]
    if len(features) != 1:
        raise ConfigError(f"split by time needs one feature tagged time; {config.schema_file} has {len(features)}")
    interactions.require(features[0].source, f'feature "{features[0].name}", which the split goes by,')
    times = read_table(interactions, schema, names=[features[0].name])[features[0].name]
    assert isinstance(times, np.ndarray), "a time is one value a row"
    return times


def _in_memory(source: Source) -> pa.Table:
    pieces = [piece.table for piece in source.pieces(list(source.columns))]
    return pa.concat_tables(pieces, promote_options="permissive")  # files may differ in the width of their integers


def _candidates(config: RunConfig, schema: Schema, item_id: Feature, folder: Path, interactions: Source) -> Source:
    """Return the items to recommend: as configured, or the schema's table of them, or those of the interactions."""
    if config.data.candidates is not None:
        return open_source(folder / config.data.candidates)
    own = next((folder / table.file for table in schema.tables.values() if table.key == item_id.name), None)
    if own is not None and own.exists():
        return open_source(own)
    ids = read_ids(interactions, item_id)
    first = np.unique(pc.dictionary_encode(ids).indices.to_numpy(), return_index=True)[1]
    table = _in_memory(interactions).take(first)
    return Source(f"the items of {interactions.name}", interactions.columns, len(first), table=table, numbers=first)


def _model(config: RunConfig, schema: Schema, training: Source, candidates: Source) -> TwoTowerModel:
    keras.utils.set_random_seed(config.seed)
    towers = config.towers
    samplers = [lookup("sampler", it.kind)(**it.arguments) for it in towers.samplers]
    tasks = [_task(towers, task) for task in towers.prediction_tasks]
    query_tag, item_tag = tower_tags(schema)
    return TwoTowerModel(
        schema,
        _block(towers.query),
        None if towers.item is None else _block(towers.item),
        query_tower_tag=query_tag,
        item_tower_tag=item_tag,
        embedding_options=config.embedding_options.options(),
        prediction_tasks=tasks,
        samplers=samplers,
        debiasing=[_debiasing(it) for it in towers.debiasing],
        history=None if towers.history is None else _history(towers.history),
        l2_normalize=towers.l2_normalize,
        correction=towers.correction,
        candidates=candidates if _reaches_for_items(samplers, tasks) else None,
        known_positives=training if towers.mask_known_positives else None,
    )


def _reaches_for_items(samplers: Sequence[Sampler], tasks: Sequence[Task]) -> bool:
    return any(it.needs_catalogue for it in samplers) or any(it.needs_items for it in tasks)


def _task(towers: TowersConfig, task: TaskConfig) -> Task:
    if task.kind == "retrieval":
        return RetrievalTask(
            loss=towers.loss,
            temperature=towers.logits_temperature,
            num_hard_negatives=towers.num_hard_negatives,
            matryoshka_dims=towers.matryoshka_dims,
            loss_weight=task.loss_weight,
        )
    made: Task = lookup("task", task.kind)(**task.arguments, **_layers(task))
    return made


def _debiasing(term: DebiasingConfig) -> Debiasing:
    made: Debiasing = lookup("debiasing", term.kind)(**term.arguments, **_layers(term))
    return made


def _layers(part: TaskConfig | DebiasingConfig) -> dict[str, MLPBlock]:
    return {} if part.dimensions is None else {"block": MLPBlock(part.dimensions, final_activation="relu")}


def _history(history: HistoryConfig) -> UserHistoryEncoder:
    return UserHistoryEncoder(**{name: getattr(history, name) for name in type(history).model_fields})


def _block(tower: TowerConfig) -> MLPBlock:
    return MLPBlock(**{name: getattr(tower, name) for name in type(tower).model_fields})


def _optimizer(config: RunConfig, steps: int) -> Any:
    rate: Any = config.optimizer.learning_rate
    if config.optimizer.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, steps * config.epochs)
    return optimizer_of(config.optimizer.name, learning_rate=rate)
