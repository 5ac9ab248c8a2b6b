"""The command line and run files, as a user meets them: real processes, real files, one line a mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemaflow as sf
from schemaflow import workflows
from schemaflow.config import DebiasingConfig, SamplerConfig, TaskConfig, TowersConfig
from schemaflow.errors import ConfigError
from schemaflow.negatives import CORRECTIONS
from schemaflow.registry import names
from schemaflow.tasks.distillation import HEADS
from schemaflow.tasks.position_debiasing import ESTIMATORS
from schemaflow.workflows import train
from tests.commands import ROOT, schemaflow

RUN = """\
version: 1
schema: data/schema.yaml
features: [user_id, item_id, genres]
data: {folder: data}
split: {kind: time, test_fraction: 0.25}
towers: {query: {dimensions: [8], normalization: layer_norm}, item: {dimensions: [8, 8]}, l2_normalize: true, logits_temperature: 0.2}
embedding_options: {infer_embedding_sizes: true, embeddings_l2_reg: 1e-4, embeddings_initializers: {genres: ones}}
optimizer: {name: adagrad, learning_rate: 0.1, schedule: constant}
epochs: 1
batch_size: 256
seed: 3
evaluation: {ks: [5]}
"""


def in_a_process(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "SCHEMAFLOW_DATA")
    }
    return subprocess.run(
        [sys.executable, "-m", "schemaflow.cli.app", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, check=False, env={**inherited, "COLUMNS": "200", **environment},
    )  # fmt: skip


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder of small generated data, and a run file beside it."""
    sf.datasets.synthetic(tmp_path / "data", users=40, items=30, interactions=600, seed=2)
    (tmp_path / "shop.run.yaml").write_text(RUN, encoding="utf-8")
    return tmp_path


@pytest.mark.short
def test_the_demo_goes_all_the_way(tmp_path: Path, data: sf.datasets.DataFolder) -> None:
    small = ("--users", 60, "--items", 40, "--interactions", 900, "--epochs", 1)
    # its data are its own, whatever the environment says; TensorFlow's notes stay away at every level but 0
    others = {"SCHEMAFLOW_DATA": str(data.folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = in_a_process("demo", tmp_path / "demo", *small, **others)
    assert done.returncode == 0, done.stderr
    for expected in (
        "training",
        "recall@10",
        "popularity",
        "without the user's training items",
        "from the bundle in a fresh process",
        "40 candidates",
    ):
        assert expected in done.stdout
    assert "i000" in done.stdout.rpartition("rank")[2]
    assert done.stderr == ""
    assert sf.Recommender.load(tmp_path / "demo" / "bundle").schema.name == "synthetic"


def test_a_run_file_trains_and_its_bundle_recommends(workplace: Path) -> None:
    done = in_a_process("train", "shop.run.yaml", "--out", "bundle", cwd=workplace)
    assert done.returncode == 0, done.stderr
    rows = pq.read_metadata(workplace / "data" / "interactions.parquet").num_rows
    kept = round(0.75 * rows)
    assert f"{kept} interactions to train on, {rows - kept} to test, 30 candidates" in done.stdout
    assert "hit_rate@5" in done.stdout
    asked = in_a_process("recommend", "bundle", "user_id=u00003", "-k", 3, "--exclude", "i00001", cwd=workplace)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.count("i000") == 3
    assert "i00001" not in asked.stdout
    expected = sf.Recommender.load(workplace / "bundle").recommend({"user_id": ["u00003"]}, k=3, exclude=["i00001"])
    assert all(item in asked.stdout for item in expected.identifiers[0])


def test_the_data_folder_comes_from_the_option_or_the_environment(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    text = RUN.replace("data/schema.yaml", str(workplace / "data" / "schema.yaml"))
    (elsewhere / "shop.run.yaml").write_text(text, encoding="utf-8")
    config = sf.RunConfig.from_yaml(elsewhere / "shop.run.yaml")
    interactions = workplace / "data" / "interactions.parquet"
    assert config.interactions_file(workplace) == interactions
    assert config.interactions_file(workplace / "data") == interactions
    assert config.interactions_file(workplace / "data" / "items.parquet") == workplace / "data" / "items.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCHEMAFLOW_DATA", str(workplace))
        assert config.interactions_file() == interactions
        patch.setenv("SCHEMAFLOW_DATA", str(workplace / "data"))  # the root of data folders, not the folder itself
        with pytest.raises(ConfigError, match="name the folder that holds the data"):
            config.interactions_file()
        patch.setenv("SCHEMAFLOW_DATA", str(elsewhere))  # where it is not, the run file's own folder is looked in
        own = sf.RunConfig.from_yaml(workplace / "shop.run.yaml")
        assert own.interactions_file() == interactions
        patch.delenv("SCHEMAFLOW_DATA")
        with pytest.raises(ConfigError, match=r"name the folder that holds the data with --data or \$SCHEMAFLOW_DATA"):
            config.interactions_file()


def test_a_schema_alone_is_a_run_by_default(workplace: Path) -> None:
    done = schemaflow("train", "data/schema.yaml", "--epochs", 1, "--batch-size", 128, cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert "hit_rate@100" in done.stdout


def test_interactions_without_a_table_of_items_give_the_candidates(workplace: Path) -> None:
    (workplace / "data" / "items.parquet").unlink()
    (workplace / "data" / "schema.yaml").write_text(
        "version: 1\nfeatures:\n"
        "  user_id: {dtype: string, tags: [user, id], vocabulary: learned}\n"
        "  item_id: {dtype: string, tags: [item, id], vocabulary: learned}\n",
        encoding="utf-8",
    )
    done = schemaflow("train", "data/schema.yaml", "--epochs", 1, cwd=workplace)
    assert done.returncode == 0, done.stderr
    distinct = len(set(pq.read_table(workplace / "data" / "interactions.parquet")["item_id"].to_pylist()))
    assert f"{distinct} candidates" in done.stdout


def test_a_test_file_of_its_own_is_used(workplace: Path) -> None:
    table = pq.read_table(workplace / "data" / "interactions.parquet")
    pq.write_table(table.slice(0, 40), workplace / "data" / "held_out.parquet")
    text = RUN.replace("data: {folder: data}", "data: {folder: data, test: held_out.parquet}")
    alone = text.replace("split: {kind: time, test_fraction: 0.25}\n", "")
    (workplace / "own.run.yaml").write_text(alone, encoding="utf-8")
    done = schemaflow("train", "own.run.yaml", "--out", "bundle", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert f"{table.num_rows} interactions to train on, 40 to test" in done.stdout
    # every held-out interaction is one of the training: the run keeps its first report and its bundle
    assert "no positive is left to find: all 40 are also in exclude" in done.stdout
    assert (workplace / "bundle" / "manifest.json").exists()
    (workplace / "both.run.yaml").write_text(text, encoding="utf-8")
    both = schemaflow("train", "both.run.yaml", cwd=workplace)
    assert (both.returncode, both.stderr) == (
        1,
        'both.run.yaml:1:1: both "data.test" and "split" are given; keep one\n',
    )


def test_the_bundles_folder_is_looked_at_before_training(workplace: Path) -> None:
    for target, message in [
        ("data", "there is something there that is no bundle"),
        ("shop.run.yaml/x", "no bundle can be written there"),
    ]:
        done = schemaflow("train", "shop.run.yaml", "--out", target, cwd=workplace)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert message in done.stderr
        assert "training" not in done.stdout


def test_the_demo_writes_no_data_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "no data can be written there" in schemaflow("demo", tmp_path / "file").stderr


def test_a_run_that_diverges_exports_nothing(workplace: Path) -> None:
    text = RUN.replace("name: adagrad, learning_rate: 0.1", "name: sgd, learning_rate: 1e30").replace(
        ", l2_normalize: true", ""
    )
    (workplace / "shop.run.yaml").write_text(text, encoding="utf-8")
    done = schemaflow("train", "shop.run.yaml", "--out", "bundle", cwd=workplace)
    assert done.returncode == 1
    assert "its training diverged; lower the learning rate" in done.stderr
    assert not (workplace / "bundle").exists()


def test_ids_are_printed_as_they_are(workplace: Path) -> None:
    names = ["[red]x", "a[/]b", "y" * 150]
    table = {"user_id": ["u", "v", "w", "u"], "item_id": [*names, names[1]]}
    model = sf.TwoTowerModel(
        sf.Schema((
            sf.Feature(name="user_id", dtype="string", tags=("user", "id"), vocabulary="learned"),
            sf.Feature(name="item_id", dtype="string", tags=("item", "id"), vocabulary="learned"),
        )).fit(table),
        sf.MLPBlock([2]),
    )  # fmt: skip
    model.export(workplace / "bundle", {"item_id": names})
    done = schemaflow("recommend", "bundle", "user_id=u", cwd=workplace, COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert names[0] in done.stdout
    assert names[1] in done.stdout
    assert done.stdout.count("y") >= 150
    twice = schemaflow("recommend", "bundle", "user_id=u", "user_id=v", cwd=workplace)
    assert 'feature "user_id" is given twice' in twice.stderr


def test_every_key_of_a_run_has_its_consequence(workplace: Path) -> None:  # noqa: PLR0915 - a line for each key
    """Each key, changed alone, changes what it names: the split, the model or the optimizer."""
    from schemaflow import workflows
    from schemaflow.schema.sources import open_source

    def build(old: str = "", new: str = "") -> tuple[sf.TwoTowerModel, Any, list[int], list[int]]:
        assert old in RUN
        (workplace / "it.run.yaml").write_text(RUN.replace(old, new) if old else RUN, encoding="utf-8")
        config = sf.RunConfig.from_yaml(workplace / "it.run.yaml")
        schema = sf.Schema.from_yaml(config.schema_file)
        source = open_source(workplace / "data" / "interactions.parquet")
        train, test = workflows._split(config, schema, workplace / "data", source)
        fitted = schema.select_by_name(config.features).fit(train, workplace / "data" / "items.parquet")
        model = workflows._model(config, fitted, train, open_source(workplace / "data" / "items.parquet"))
        times = [part.table["timestamp"].to_pylist() for part in (train, test)]
        return model, workflows._optimizer(config, 10), *times

    model, optimizer, early, late = build()
    assert max(early) <= min(late)
    assert len(late) == pytest.approx(0.25 * (len(early) + len(late)), abs=1)
    assert type(optimizer).__name__ == "Adagrad"
    assert float(optimizer.learning_rate) == pytest.approx(0.1)
    assert model.query_tower.block.dimensions == [8]
    assert model.item_tower.block.dimensions == [8, 8]
    assert model.query_tower.block.normalization == "layer_norm"
    assert model.retrieval.temperature == 0.2
    assert isinstance(model.query_tower.post[-1], sf.L2Norm)
    assert model.negatives._shares is not None
    options = model.embedding_options
    assert (options.infer_embedding_sizes, options.embeddings_l2_reg) == (True, 1e-4)
    genres = model.item_tower.encoder.encoders["genres"]
    assert (genres.table.embeddings.numpy() == 1).all()
    assert genres.combiner == "mean"

    shuffled = build("kind: time", "kind: random")
    assert max(shuffled[2]) > min(shuffled[3])
    assert build("kind: time", "kind: random, seed: 1")[3] != shuffled[3]
    assert build("l2_normalize: true", "correction: null")[0].negatives._shares is None
    cosine = build("schedule: constant", "schedule: cosine")[1]
    assert float(cosine.learning_rate) == pytest.approx(0.1)
    cosine.iterations.assign(10)  # the last step of the run
    assert float(cosine.learning_rate) == pytest.approx(0.0, abs=1e-6)
    sized = build("infer_embedding_sizes: true", "embedding_dim_default: 5, combiner: max")[0]
    assert [it.table.dim for it in sized.item_tower.encoder.encoders.values()] == [5, 5]
    assert sized.item_tower.encoder.encoders["genres"].combiner == "max"
    named = build("infer_embedding_sizes: true", "embedding_dims: {user_id: 3}")[0]
    assert named.query_tower.encoder.encoders["user_id"].table.dim == 3
    dropped = build("infer_embedding_sizes: true", "id_dropout: 0.25")[0].query_tower.encoder.encoders["user_id"]
    assert dropped.id_dropout == 0.25
    block = build(
        "dimensions: [8], normalization: layer_norm",
        "dimensions: [8, 8], activation: tanh, final_activation: gelu, dropout: 0.5, residual: true",
    )
    steps = block[0].query_tower.block.steps
    assert [step.dense.activation.__name__ for step in steps] == ["tanh", "gelu"]
    assert [step.residual for step in steps] == [True, False]
    assert steps[0].dropout.rate == 0.5
    first, same, other = (
        it.query_tower.encoder.encoders["user_id"].table.embeddings.numpy()
        for it in (build()[0], build()[0], build("seed: 3", "seed: 4")[0])
    )
    assert (first == same).all()
    assert not (first == other).all()
    copied = build(", item: {dimensions: [8, 8]}", "")[0]
    assert copied.item_tower.block.dimensions == [8]


TRAINING = """\
version: 1
schema: data/schema.yaml
features: [user_id, item_id, stars, liked]
data: {folder: data}
towers:
  query: {dimensions: [4]}
  logits_temperature: learned
  loss: bpr-max
  num_hard_negatives: 3
  samplers:
  - {kind: in-batch}
  - {kind: cross-batch, capacity: 32}
  - {kind: uniform, num_sampled: 4}
  - {kind: popularity, num_sampled: 5}
  correction: exclude_positive
  mask_known_positives: true
  prediction_tasks:
  - {kind: retrieval, loss_weight: 2}
  - {kind: regression, target: stars, loss_weight: 0.5, dimensions: [6]}
  - {kind: binary-classification}
  matryoshka_dims: [2]
epochs: 1
batch_size: 256
evaluation: {ks: [5]}
"""


@pytest.fixture
def judged(workplace: Path) -> Path:
    """The same with two targets, and a run that says everything about the training."""
    events = workplace / "data" / "interactions.parquet"
    table = pq.read_table(events)
    stars = pa.array([1.0 + row % 5 for row in range(len(table))], pa.float32())
    liked = pa.array([row % 2 for row in range(len(table))], pa.int8())
    pq.write_table(table.append_column("stars", stars).append_column("liked", liked), events)
    schema = workplace / "data" / "schema.yaml"
    targets = "  stars: {dtype: float32, tags: [target, regression]}\n  liked: {dtype: int8, tags: [target, binary]}\n"
    schema.write_text(schema.read_text(encoding="utf-8").rstrip() + "\n" + targets, encoding="utf-8")
    (workplace / "all.run.yaml").write_text(TRAINING, encoding="utf-8")
    return workplace


def test_a_run_file_says_all_of_the_training(judged: Path) -> None:
    run = train(sf.RunConfig.from_yaml(judged / "all.run.yaml"), out=judged / "bundle")
    retrieval, stars, liked = run.model.tasks
    assert (retrieval.loss, retrieval.temperature, retrieval.num_hard_negatives) == ("bpr-max", "learned", 3)
    assert retrieval.matryoshka_dims == (2,)
    assert (retrieval.loss_weight, stars.loss_weight, liked.loss_weight) == (2.0, 0.5, 1.0)
    assert (type(stars), stars.target, stars.block.dimensions) == (sf.RegressionTask, "stars", [6])
    assert (type(liked), liked.target, liked.block) == (sf.BinaryClassificationTask, "liked", None)
    in_batch, cached, uniform, popular = run.model.negatives.samplers
    assert type(in_batch) is sf.InBatchSampler
    assert (type(cached), cached.capacity) == (sf.CachedCrossBatchSampler, 32)
    assert (type(uniform), uniform.num_sampled) == (sf.UniformSampler, 4)
    assert (type(popular), popular.num_sampled) == (sf.PopularityBasedSampler, 5)
    assert run.model.negatives.excludes_positive
    events = pq.read_table(judged / "data" / "interactions.parquet").num_rows
    assert 0 < run.model.known_positives.pairs <= round(0.8 * events)  # of the training part alone
    assert run.model.catalogue.size == 30
    assert run.recommender is not None
    assert len(run.recommender.recommend({"user_id": ["u00003"]}, k=4).identifiers[0]) == 4


OF_PYTHON = ("reward-alignment",)
"""Tasks that a function teaches, which no YAML can say."""


def test_the_names_in_a_run_file_are_those_of_the_registry() -> None:
    def said(model: Any, key: str) -> list[str]:
        return sorted(get_args(model.model_fields[key].annotation))

    for model, key, kind in [
        (SamplerConfig, "kind", "sampler"),
        (TaskConfig, "kind", "task"),
        (DebiasingConfig, "kind", "debiasing"),
        (TowersConfig, "loss", "loss"),
    ]:
        assert said(model, key) == [it for it in names(kind) if it not in OF_PYTHON]
    for part, key, known in [
        (TowersConfig, "correction", CORRECTIONS),
        (DebiasingConfig, "estimator", ESTIMATORS),
        (TaskConfig, "head", HEADS),
    ]:
        optional, _ = get_args(part.model_fields[key].annotation)
        assert get_args(optional) == known


@pytest.mark.parametrize(
    ("old", "new", "where", "problem"),
    [
        ("loss: bpr-max", "loss: bprr", "8:3", '"loss" in "towers": expected .*; did you mean "bpr"\\?'),
        ("temperature: learned", "temperature: learnt", "7:3", "expected a number above 0 or \"learned\", received 'learnt'"),
        ("negatives: 3", "negatives: 0", "9:3", '"num_hard_negatives" in "towers": expected greater than or equal to 1'),
        ("correction: exclude_positive", "correction: logq", "15:3", 'did you mean "log_q"'),
        ("positives: true", "positives: history", "16:3", "expected boolean, received \"history\""),
        ("{kind: in-batch}", "in-batch", "11:5", 'expected keys and values, received "in-batch"'),
        ("{kind: in-batch}", "{kind: in-bach}", "11:6", 'did you mean "in-batch"'),
        (", capacity: 32", "", "12:5", 'the sampler "cross-batch" needs "capacity"'),
        ("uniform, num_sampled: 4", "uniform, num_sampled: 4, capacity: 4", "13:5", 'the sampler "uniform" has no "capacity"'),
        ("uniform, num_sampled: 4", "uniform, seed: 1", "13:21", 'unknown key "seed" in "towers.samplers"; known: kind, capacity, num_sampled'),
        ("retrieval, loss_weight: 2", "retrieval, target: stars", "18:5", 'the task "retrieval" has no "target"; its keys are kind, loss_weight'),
        ("regression, target", "regresion, target", "19:6", 'did you mean "regression"'),
        ("loss_weight: 0.5", "loss_weight: -1", "19:39", '"loss_weight" in "towers.prediction_tasks": expected greater than or equal to 0'),
        ("[6]", "[]", "19:57", '"dimensions" in "towers.prediction_tasks": expected at least 1 item'),
        ("kind: binary-classification", "kind: retrieval", "5:1", '"prediction_tasks" names retrieval twice; expected it once'),
        ("kind: binary-classification", "kind: regression, target: stars", "5:1", '"prediction_tasks" names regression of stars twice'),
        ("kind: uniform, num_sampled: 4", "kind: in-batch", "5:1", '"samplers" names in-batch twice; expected it once'),
    ],
)  # fmt: skip
def test_a_mistake_in_the_training_is_one_line(tmp_path: Path, old: str, new: str, where: str, problem: str) -> None:
    assert TRAINING.count(old) == 1
    file = tmp_path / "it.run.yaml"
    file.write_text(TRAINING.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as raised:
        sf.RunConfig.from_yaml(file)
    assert len(raised.value.problems) == 1
    assert str(raised.value).startswith(f"{file}:{where}: ")
    assert "\n" not in str(raised.value)


IMPRESSIONS = """\
version: 1
schema: feed.yaml
towers:
  query: {dimensions: [8]}
  prediction_tasks:
  - {kind: retrieval}
  - {kind: light-ranker, dimensions: [4], num_retrieved: 20}
  - {kind: distillation, teacher: judged, loss: mse, head: auxiliary, probabilities: true, loss_weight: 0.1}
  debiasing:
  - {kind: position, estimator: additive, target: click, clip: 5, first: 1, dimensions: [4], dropout: 0.2}
  - {kind: user, clip: 4, dimensions: [6]}
optimizer: {learning_rate: 0.01}
epochs: 1
batch_size: 128
evaluation: {ks: [5]}
"""
FEED = """\
version: 1
features:
  user_id: {dtype: int64, tags: [user, id], cardinality: 20}
  item_id: {dtype: int64, tags: [item, id], cardinality: 30}
  slot:    {dtype: int32, tags: [position], cardinality: 6}
  device:  {dtype: string, tags: [bias], vocabulary: [desktop, phone]}
  click:   {dtype: int8, tags: [target, binary], value: 1}
  judged:  {dtype: float32, tags: [teacher]}
  guessed: {dtype: float32, tags: [teacher]}
  seen:    {dtype: float32}
"""


@pytest.fixture
def feed(tmp_path: Path) -> Path:
    """A log of impressions with a teacher's judgements, and a run that is debiased and taught."""
    rng, rows = np.random.default_rng(8), 400
    log = {
        "user_id": rng.integers(20, size=rows),
        "item_id": rng.integers(30, size=rows),
        "slot": rng.integers(1, 6, size=rows).astype(np.int32),
        "device": rng.choice(["desktop", "phone"], size=rows),
        "click": rng.integers(2, size=rows).astype(np.int8),
        "judged": rng.uniform(0.1, 0.9, size=rows).astype(np.float32),
        "guessed": rng.uniform(0.1, 0.9, size=rows).astype(np.float32),
        "seen": rng.uniform(0.1, 1.0, size=rows).astype(np.float32),
    }
    pq.write_table(pa.table(log), tmp_path / "interactions.parquet")
    (tmp_path / "feed.yaml").write_text(FEED, encoding="utf-8")
    (tmp_path / "feed.run.yaml").write_text(IMPRESSIONS, encoding="utf-8")
    return tmp_path


def test_a_run_file_says_debiasing_and_a_column_that_teaches(feed: Path) -> None:
    model = train(sf.RunConfig.from_yaml(feed / "feed.run.yaml")).model
    _, ranker, taught = model.tasks
    position, user = model.debiasing
    assert (type(taught), taught.column, taught.loss, taught.head) == (
        sf.DistillationTask,
        "judged",
        "mse",
        "auxiliary",
    )
    assert (taught.probabilities, taught.loss_weight, taught.on) == (True, 0.1, "retrieval")
    assert (type(ranker), ranker.num_retrieved) == (sf.LightRanker, 20)
    assert (type(position), position.estimator, position.label) == (sf.PositionDebiasing, "additive", "click")
    assert (position.clip, position.first, position.dropout, position.block.dimensions) == (5.0, 1, 0.2, [4])
    assert (type(user), user.clip, user.block.dimensions) == (sf.UserDebiasing, 4.0, [6])
    examined = position.examination({"device": "phone"})
    assert examined.shape == (5,)
    assert not np.array_equal(examined, np.ones(5))  # it was trained


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("{kind: position}", {}),
        ("{kind: position, estimator: given, propensities: [1, 5e-1]}", {"propensities": [1.0, 0.5]}),
        ("{kind: position, estimator: given, propensities: seen, first: 0}", {"propensities": "seen", "first": 0}),
    ],
)
def test_debiasing_is_made_as_a_run_says(feed: Path, said: str, expected: dict[str, Any]) -> None:
    text = IMPRESSIONS[: IMPRESSIONS.index("  - {kind: position")] + f"  - {said}\n"
    (feed / "it.run.yaml").write_text(text, encoding="utf-8")
    (config,) = sf.RunConfig.from_yaml(feed / "it.run.yaml").towers.debiasing
    made = workflows._debiasing(config)
    estimator = "given" if expected else "examination"
    assert made.get_config() == sf.PositionDebiasing(estimator, **expected).get_config()


@pytest.mark.parametrize(
    ("old", "new", "where", "problem"),
    [
        ("{kind: user, clip: 4, dimensions: [6]}", "user", "11:5", 'expected keys and values, received "user"'),
        ("kind: position", "kind: positions", "10:6", '"kind" in "towers.debiasing": expected .*; did you mean "position"'),
        ("additive", "additve", "10:22", '"estimator" in "towers.debiasing": expected .*; did you mean "additive"'),
        ("clip: 5", "clip: 0.5", "10:58", '"clip" in "towers.debiasing": expected greater than or equal to 1'),
        ("user, clip: 4", "user, first: 1", "11:5", 'the debiasing "user" has no "first"; its keys are kind, clip, dimensions'),
        ("user, clip: 4", "user, cap: 4", "11:18", 'unknown key "cap" in "towers.debiasing"'),
        ("additive", "given", "10:5", '"propensities" with "estimator: given" alone, which needs them'),
        ("additive", "examination", "10:5", '"dropout" with "estimator: additive" alone'),
        ("dropout: 0.2", "propensities: [1]", "10:5", '"propensities" with "estimator: given" alone, which needs them'),
        ("dropout: 0.2", "propensities: [2]", "10:94", "numbers above 0 and up to 1, or the name of a feature, received "),
        ("dropout: 0.2", "propensities: []", "10:94", "numbers above 0 and up to 1, or the name of a feature, received "),
        (
            "additive, target: click, clip: 5, first: 1, dimensions: [4], dropout: 0.2",
            "given, propensities: seen, target: click, dimensions: [4]",
            "10:5",
            'the debiasing "position" whose propensities are given has no "target" and no "dimensions"',
        ),
        ("kind: user, clip: 4", "kind: position", "3:1", '"debiasing" names position twice; expected it once'),
        ("loss: mse", "loss: kl", "8:43", '"loss" in "towers.prediction_tasks": expected \'bce\' or \'mse\', received "kl"'),
        ("head: auxiliary", "hard: 8", "8:54", 'unknown key "hard" in "towers.prediction_tasks"'),
        ("distillation, teacher: judged", "distillation, target: click", "8:5", 'the task "distillation" has no "target"; its keys'),
        ("num_retrieved: 20", "teacher: judged", "7:5", 'the task "light-ranker" has no "teacher"; its keys'),
        ("  - {kind: retrieval}\n", "", "3:1", '"debiasing" is of the retrieval task, which "prediction_tasks" lacks'),
    ],
)  # fmt: skip
def test_a_mistake_in_debiasing_or_a_teacher_is_one_line(
    tmp_path: Path, old: str, new: str, where: str, problem: str
) -> None:
    assert IMPRESSIONS.count(old) == 1
    file = tmp_path / "it.run.yaml"
    file.write_text(IMPRESSIONS.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=problem) as raised:
        sf.RunConfig.from_yaml(file)
    assert len(raised.value.problems) == 1
    assert str(raised.value).startswith(f"{file}:{where}: ")


def test_what_debiasing_and_a_teacher_read_is_looked_for_where_it_is_named(feed: Path) -> None:
    file, schema = feed / "feed.run.yaml", sf.Schema.from_yaml(feed / "feed.yaml")
    some = "features: [user_id, item_id, slot, click]\ntowers:"
    additive = "additive, target: click, clip: 5, first: 1, dimensions: [4], dropout: 0.2"
    for old, new, problem in [
        ("teacher: judged", "teacher: juged", f'{file}:8:26: there is no feature "juged" in '),
        ("target: click", "target: clik", f'{file}:10:43: there is no feature "clik" in '),
        (additive, "given, propensities: sene", f'{file}:10:40: there is no feature "sene" in '),
        (
            "towers:",
            some,
            f'{file}:9:26: the teacher "judged" is not among the "features" of the run; name it there too',
        ),
    ]:
        file.write_text(IMPRESSIONS.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            sf.RunConfig.from_yaml(file).select(schema)
        assert str(raised.value).startswith(problem)
        assert len(raised.value.problems) == 1


def test_the_json_schema_of_a_run_tells_of_debiasing() -> None:
    parts = sf.RunConfig.model_json_schema()["$defs"]
    for name in ("DebiasingConfig", "TaskConfig"):
        assert all(it.get("description") for it in parts[name]["properties"].values()), name
    assert parts["DebiasingConfig"]["properties"]["kind"]["enum"] == ["position", "user"]
    assert [it["type"] for it in parts["DebiasingConfig"]["properties"]["propensities"]["anyOf"]]


def test_what_only_retrieval_reads_is_not_said_without_it(tmp_path: Path) -> None:
    file = tmp_path / "it.run.yaml"
    file.write_text(TRAINING.replace("  - {kind: retrieval, loss_weight: 2}\n", ""), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        sf.RunConfig.from_yaml(file)
    keys = (
        "logits_temperature",
        "loss",
        "num_hard_negatives",
        "matryoshka_dims",
        "samplers",
        "correction",
        "mask_known_positives",
    )
    assert [problem.split('"')[1] for problem in raised.value.problems] == list(keys)
    assert all("add {kind: retrieval}, or leave it out" in problem for problem in raised.value.problems)


def test_targets_are_looked_for_where_the_run_names_them(judged: Path) -> None:
    file = judged / "all.run.yaml"
    schema = sf.Schema.from_yaml(judged / "data" / "schema.yaml")
    for old, new, problem in [
        ("target: stars", "target: star", f'{file}:19:24: there is no feature "star" in '),
        (", stars, liked]", ", liked]", f'{file}:19:24: the target "stars" is not among the "features" of the run'),
    ]:
        file.write_text(TRAINING.replace(old, new), encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            sf.RunConfig.from_yaml(file).select(schema)
        assert str(raised.value).startswith(problem)
        assert len(raised.value.problems) == 1


def test_a_split_by_time_needs_every_time(workplace: Path) -> None:
    events = workplace / "data" / "interactions.parquet"
    table = pq.read_table(events)
    times = table["timestamp"].to_pylist()
    pq.write_table(table.set_column(2, "timestamp", pa.array([None, *times[1:]], pa.int64())), events)
    done = schemaflow("train", "shop.run.yaml", cwd=workplace)
    assert done.returncode == 1
    assert 'row 0: feature "timestamp" is missing' in done.stderr
    assert len(done.stderr.splitlines()) == 1
    as_text = table.set_column(2, "timestamp", pa.array([str(time) for time in times]))
    pq.write_table(as_text, events)  # whose order would be that of its letters
    assert (
        'the column "timestamp" holds string, feature "timestamp" expects int64'
        in schemaflow("train", "shop.run.yaml", cwd=workplace).stderr
    )


def test_a_bad_row_met_in_training_is_one_line(workplace: Path) -> None:
    people = pq.read_table(workplace / "data" / "users.parquet")
    pq.write_table(people.slice(0, people.num_rows - 1), workplace / "data" / "users.parquet")
    done = schemaflow("train", "data/schema.yaml", "--epochs", 1, cwd=workplace)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "has no row for user_id 'u00039'" in done.stderr


def test_describe_shows_the_derived_tables() -> None:
    done = schemaflow("describe", "schemas/movielens_100k.yaml")
    assert done.returncode == 0, done.stderr
    assert "movie_id     1,685   64  movie" in done.stdout
    assert "in neither:  rating, timestamp" in done.stdout
    unlearned = schemaflow("describe", "examples/movielens.run.yaml")
    assert unlearned.returncode == 0
    assert "946   32" in unlearned.stdout


def test_describe_says_how_to_learn_what_is_open(workplace: Path) -> None:
    done = schemaflow("describe", "data/schema.yaml", cwd=workplace)
    assert done.returncode == 1
    assert 'feature "user_id" has no vocabulary yet; pass --data to learn it' in done.stderr
    learned = schemaflow("describe", "data/schema.yaml", "--data", "data", cwd=workplace)
    assert learned.returncode == 0, learned.stderr
    assert "item_id" in learned.stdout


@pytest.mark.short
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epochs: 1": "epoch: 1"}, '9:1: unknown key "epoch"; did you mean "epochs"?'),
        ({"kind: time": "kind: tme"}, "5:9: \"kind\" in \"split\": expected 'random' or 'time', received \"tme\"; did you mean \"time\"?"),
        ({"name: adagrad": "name: adagrat"}, 'received "adagrat"; did you mean "adagrad"?'),
        ({"learning_rate: 0.1": "learning_rate: -1"}, '8:28: "learning_rate" in "optimizer": expected greater than 0, received -1'),
        ({"dimensions: [8]": "dimensions: [0]"}, "expected greater than or equal to 1, received 0"),
        ({"learning_rate: 0.1": "learning_rate: .inf"}, "expected finite number"),
        ({"seed: 3": "seed: -1"}, "expected greater than or equal to 0, received -1"),
        ({"ks: [5]": "ks: []"}, '"ks" in "evaluation": expected at least 1 item'),
        ({"{genres: ones}": "3"}, "expected the name of a Keras initializer, or names by feature, received 3"),
        ({"{genres: ones}": "{genres: onez}"}, "'onez' is no Keras initializer"),
        ({"normalization: layer_norm": "activation: rellu"}, "'rellu' is no Keras activation"),
        ({"version: 1": "version: true"}, '"version": expected 1'),
        ({"schema: data/schema.yaml\n": ""}, 'the key "schema" is missing'),
        ({"features: [user_id": "features: [usr_id"}, 'shop.run.yaml:3:12: there is no feature "usr_id" in data/schema.yaml; did you mean "user_id"?'),
        ({"data/schema.yaml": "data/gone.yaml"}, "data/gone.yaml: there is no such schema file"),
        ({"{folder: data}": "{folder: data, interactions: gone.parquet}"}, "name the folder that holds the data with --data"),
        ({"{genres: ones}": "{genre: ones}"}, 'embedding options name "genre", which is no categorical feature'),
    ],
)  # fmt: skip
def test_mistakes_in_a_run_file_are_one_line(
    change: dict[str, str], expected: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = RUN
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    (workplace / "shop.run.yaml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(workplace)
    monkeypatch.delenv("SCHEMAFLOW_DATA", raising=False)
    with pytest.raises(sf.SchemaFlowError) as caught:
        train(sf.RunConfig.from_yaml("shop.run.yaml"))
    assert len(caught.value.problems) == 1
    assert expected in caught.value.problems[0]


SHOP = "version: 1\nfeatures:\n  user_id: {dtype: string, tags: [user, id], cardinality: 50}\n"
ITEM = "  item_id: {dtype: string, tags: [item, id], cardinality: 40}\n"


@pytest.mark.parametrize(
    ("schema", "spoil", "expected"),
    [
        (SHOP + ITEM.replace("dtype:", "doman: x, dtype:"), None, 'unknown key "doman" in feature "item_id"; did you mean "domain"?'),
        (SHOP + ITEM.replace("item, id", "itm, id"), None, 'feature "item_id": unknown tag "itm"; did you mean "item"?'),
        (SHOP + ITEM.replace(", cardinality: 40", ""), None, 'feature "item_id" is categorical but has no cardinality'),
        (SHOP.replace("user, id", "item, categorical") + ITEM, None, "no feature is tagged user, so the query tower has no input"),
        (SHOP + ITEM + "  color: {dtype: string, tags: [item, categorical], cardinality: 9}\n", None, 'its column "color" is in none of'),
        (SHOP + ITEM.replace("string", "int64"), None, 'the column "item_id" holds string, feature "item_id" expects int64'),
        (SHOP + ITEM.replace("40", "10"), None, "raise cardinality to 33 or remove it"),
        (SHOP + ITEM, "empty", "holds no rows; expected at least one"),
        (SHOP + ITEM, "unreadable", "not a readable Parquet file"),
        (SHOP + ITEM, "gone", "name the folder that holds the data with --data or $SCHEMAFLOW_DATA"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line_and_exit_code_1(
    schema: str, spoil: str | None, expected: str, workplace: Path
) -> None:
    (workplace / "data" / "schema.yaml").write_text(schema, encoding="utf-8")
    events = workplace / "data" / "interactions.parquet"
    if spoil == "empty":
        pq.write_table(pa.table({"user_id": pa.array([], pa.string()), "item_id": pa.array([], pa.string())}), events)
    elif spoil == "unreadable":
        events.write_bytes(b"PAR1 this is not PAR1")
    elif spoil == "gone":
        events.unlink()
    done = schemaflow("train", "data/schema.yaml", "--epochs", 1, cwd=workplace)
    lines = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 1
    assert len(lines) == 1
    assert expected in lines[0]
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.short
def test_validate_exits_1_on_mistakes_and_0_without(tmp_path: Path) -> None:
    good = schemaflow("validate", "schemas/movielens_100k.yaml")
    assert (good.returncode, good.stderr) == (0, "")
    assert "11 features, 5 in the query tower, 4 in the item tower" in good.stdout
    (tmp_path / "bad.yaml").write_text(SHOP.replace("user,", "usr,") + ITEM.replace("40", "yes"), encoding="utf-8")
    bad = schemaflow("validate", tmp_path / "bad.yaml")
    assert bad.returncode == 1
    assert len(bad.stderr.splitlines()) == 2
    unknown = schemaflow("validte")
    assert unknown.returncode == 2


@pytest.mark.short
def test_help_says_all_there_is_to_say() -> None:
    page = " ".join(schemaflow("--help", COLUMNS="60").stdout.split())
    assert (
        "Show the embedding tables and towers that a schema gives; with --data, learn its vocabularies first." in page
    )
    assert "validate Check a schema file, and with --data the tables too: every mistake on one line." in page


def test_recommend_names_what_is_wrong(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, tmp_path: Path) -> None:
    trained.export(tmp_path / "bundle", data.items)
    for arguments, expected in [
        (("nowhere", "user_id=u"), "nowhere: there is no bundle"),
        ((tmp_path / "bundle", "user_id"), '"user_id" is no feature; expected name=value, such as user_id=42'),
        ((tmp_path / "bundle", "user_id=u", "age=old", "country=JP"), 'feature "age": expected int32, received "old"'),
        ((tmp_path / "bundle", "user_id=u", "age=3"), 'feature "country" is missing'),
    ]:
        done = schemaflow("recommend", *arguments)
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.short
def test_every_run_key_has_its_default_in_the_code() -> None:
    config = sf.RunConfig(schema="s.yaml")
    options = config.embedding_options.options()
    assert options == sf.EmbeddingOptions()
    assert json.loads(config.model_dump_json(by_alias=True))["schema"] == "s.yaml"


def test_the_interactions_may_be_named_themselves(workplace: Path) -> None:
    events = workplace / "data" / "interactions.parquet"
    events.rename(workplace / "data" / "clicks.parquet")
    checked = schemaflow("validate", "data/schema.yaml", "--data", "data/clicks.parquet", cwd=workplace)
    assert (checked.returncode, checked.stderr) == (0, "")
    lost = schemaflow("validate", "data/schema.yaml", "--data", "data", cwd=workplace)
    assert lost.returncode == 1
    assert "or with --data the file of the interactions itself" in lost.stderr
    done = schemaflow("train", "data/schema.yaml", "--data", "data/clicks.parquet", "--epochs", 1, cwd=workplace)
    assert done.returncode == 0, done.stderr
