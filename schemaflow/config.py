"""A whole run in one YAML file: data, split, towers, embeddings, optimizer, epochs, evaluation."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    PrivateAttr,
    StrictBool,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from schemaflow.errors import ConfigError, suggest
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.schema.document import Document, Version, as_number, as_tuple, holds_mapping, parse, read
from schemaflow.schema.options import Combiner
from schemaflow.schema.parsed import Location
from schemaflow.schema.schema import Schema

__all__ = ["DATA_VARIABLE", "RunConfig"]

DATA_VARIABLE = "SCHEMAFLOW_DATA"
"""The environment variable that names the folder of data folders."""


def _initializers(value: Any) -> Any:
    """Take the name of an initializer, or names by feature."""
    names = list(value.values()) if isinstance(value, dict) else [value]
    if value is None or all(isinstance(name, str) for name in names):
        return value
    raise ConfigError(
        f'"embeddings_initializers": expected the name of a Keras initializer, or names by feature, received {value!r}'
    )


def _propensities(value: Any) -> Any:
    """Take the name of a feature, or probabilities above 0."""
    if isinstance(value, str):
        return value
    numbers = [as_number(it) for it in value] if isinstance(value, (list, tuple)) else []
    if numbers and all(type(it) in (int, float) and 0 < it <= 1 for it in numbers):
        return numbers
    raise ConfigError(
        f'"propensities": expected numbers above 0 and up to 1, or the name of a feature, received {value!r}'
    )


def _temperature(value: Any) -> Any:
    """Take a number above 0, or the word."""
    number = as_number(value)
    if value == "learned" or (
        isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < math.inf
    ):
        return number
    raise ConfigError(f'"logits_temperature": expected a number above 0 or "learned", received {value!r}')


Count = Annotated[StrictInt, Field(ge=1)]
Names = Annotated[tuple[StrictStr, ...], BeforeValidator(as_tuple)]
Finite = Field(allow_inf_nan=False)
Positive = Annotated[float, BeforeValidator(as_number), Field(gt=0), Finite]
NotNegative = Annotated[float, BeforeValidator(as_number), Field(ge=0), Finite]
Fraction = Annotated[float, BeforeValidator(as_number), Field(gt=0, lt=1)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**32)]


class DataConfig(Document):
    """Where the tables are.

    Args:
        folder: The folder of the files, below `--data`, `$SCHEMAFLOW_DATA` or the run file's own folder.
        interactions: The interactions.
        test: Interactions that were set apart already; without them, `split` sets some apart.
        candidates: The items to recommend; the schema's own table of items, or those of the interactions, if not given.
    """

    folder: StrictStr = "."
    interactions: StrictStr = "interactions.parquet"
    test: StrictStr | None = None
    candidates: StrictStr | None = None


class SplitConfig(Document):
    """How interactions are set apart for testing.

    Args:
        kind: `random` takes the first rows of `numpy.random.default_rng(seed).permutation` for training; `time` the
            earliest, by the feature tagged time.
        test_fraction: The share that is set apart.
        seed: Of the random kind.
    """

    kind: Literal["random", "time"] = "random"
    test_fraction: Fraction = 0.2
    seed: Seed = 42


class TowerConfig(Document):
    """An `MLPBlock`.

    Args:
        dimensions: The width of each layer; none at all leaves the embeddings as they are.
        activation: Of the hidden layers.
        final_activation: Of the last layer.
        dropout: The share of each hidden layer's outputs left out in training.
        normalization: After each hidden layer.
        residual: Add each hidden layer's input to its output.
    """

    dimensions: Annotated[tuple[Count, ...], BeforeValidator(as_tuple)] = (128, 64)
    activation: StrictStr = "relu"
    final_activation: StrictStr | None = None
    dropout: Annotated[float, BeforeValidator(as_number), Field(ge=0, lt=1)] | None = None
    normalization: Literal["batch_norm", "layer_norm"] | None = None
    residual: StrictBool = False


class HistoryConfig(Document):
    """A `UserHistoryEncoder`, for the sequences of the query.

    Args:
        pooling: `mean`, `attention` and `last`, one or several of them.
        depth: How many blocks of self-attention.
        heads: Of attention.
        dim: The width of an event; that of the item's vector if not given.
        feed_forward_dim: The width within a block; that of an event if not given.
        dropout: The share that is left out in training.
        interests: How many vectors a query has.
        mask_target: Take a row's own item out of its history in training.
    """

    pooling: Annotated[
        tuple[Literal["mean", "attention", "last"], ...], BeforeValidator(as_tuple), Field(min_length=1)
    ] = ("attention",)
    depth: Annotated[StrictInt, Field(ge=0)] = 2
    heads: Count = 2
    dim: Count | None = None
    feed_forward_dim: Count | None = None
    dropout: Annotated[float, BeforeValidator(as_number), Field(ge=0, lt=1)] = 0.1
    interests: Count = 1
    mask_target: StrictBool = True


class SamplerConfig(Document):
    """A source of negatives.

    Args:
        kind: Its short name.
        capacity: How many rows of earlier batches are kept; of `cross-batch`.
        num_sampled: How many items are drawn for a batch; of `uniform` and `popularity`.
    """

    kind: Literal["in-batch", "cross-batch", "uniform", "popularity"]
    capacity: Count | None = None
    num_sampled: Count | None = None

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        own = {"cross-batch": "capacity", "uniform": "num_sampled", "popularity": "num_sampled"}.get(self.kind)
        for key in ("capacity", "num_sampled"):
            if (getattr(self, key) is not None) != (key == own):
                raise ConfigError(f'the sampler "{self.kind}" {"needs" if key == own else "has no"} "{key}"')
        return self

    @property
    def arguments(self) -> dict[str, int]:
        """What it is made with."""
        return {key: value for key in ("capacity", "num_sampled") if (value := getattr(self, key)) is not None}


_OF_TASK = {
    "binary-classification": ("target", "dimensions"),
    "distillation": ("teacher", "loss", "head", "probabilities"),
    "light-ranker": ("dimensions", "num_retrieved"),
    "mixture-of-logits": ("num_retrieved",),
    "regression": ("target", "dimensions"),
    "retrieval": (),
}
"""The keys that a task has beside its kind and its weight."""


class TaskConfig(Document):
    """Something to train for; `loss`, `logits_temperature`, … of the towers go to `retrieval`.

    Args:
        kind: Its short name.
        target: The feature that is predicted, where the schema tags several; of `regression` and `binary-classification`, for
            a ranker predicts all binary targets with a value.
        dimensions: The widths of the layers that predict it; of these and of `light-ranker`.
        num_retrieved: How many items the index fetches; of the rankers.
        teacher: The feature tagged teacher, where the schema tags several; of `distillation`.
        loss: What compares scores with the teacher's; of `distillation`.
        head: Whether the teacher teaches the scores that are served, or others beside them; of `distillation`.
        probabilities: The teacher gives probabilities, not log odds; of `distillation`.
        loss_weight: Of its loss in the sum.
    """

    kind: Literal[
        "binary-classification", "distillation", "light-ranker", "mixture-of-logits", "regression", "retrieval"
    ]
    target: StrictStr | None = None
    dimensions: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    num_retrieved: Count | None = None
    teacher: StrictStr | None = None
    loss: Literal["bce", "mse"] | None = None
    head: Literal["shared", "auxiliary"] | None = None
    probabilities: StrictBool | None = None
    loss_weight: NotNegative = 1.0

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        _refuse_foreign(self, f'the task "{self.kind}"', ("kind", "loss_weight", *_OF_TASK[self.kind]))
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, but for the layers."""
        return _said(self, but=("kind", "dimensions"))


class DebiasingConfig(Document):
    """What weighs examples: `PositionDebiasing` or `UserDebiasing`.

    Args:
        kind: Its short name.
        estimator: How the examination of positions is estimated; of `position`, as all below but `clip` and `dimensions`.
        target: The feature that is clicked, where the schema tags several.
        propensities: With `given`, the probability of being examined: of each position from the first on, or the feature
            that holds that of each row.
        clip: No weight is above it.
        first: The first position.
        dimensions: The widths of the layers that read the vectors.
        dropout: Of the additive estimator.
    """

    kind: Literal["position", "user"]
    estimator: Literal["examination", "additive", "given"] | None = None
    target: StrictStr | None = None
    propensities: (
        Annotated[
            Any,
            PlainValidator(_propensities),
            WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]}),
        ]
        | None
    ) = None
    clip: Annotated[float, BeforeValidator(as_number), Field(ge=1), Finite] | None = None
    first: Annotated[StrictInt, Field(ge=0)] | None = None
    dimensions: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    dropout: Annotated[float, BeforeValidator(as_number), Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _own_keys(self) -> Self:
        whose, given = f'the debiasing "{self.kind}"', self.estimator == "given"
        if self.kind == "user":
            _refuse_foreign(self, whose, ("kind", "clip", "dimensions"))
        elif given != (self.propensities is not None):
            raise ConfigError(f'{whose} has "propensities" with "estimator: given" alone, which needs them')
        elif given:
            own = ("kind", "estimator", "propensities", "clip", "first")
            _refuse_foreign(self, f"{whose} whose propensities are given", own)
        elif self.estimator != "additive" and self.dropout is not None:
            raise ConfigError(f'{whose} has "dropout" with "estimator: additive" alone')
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is made with, but for the layers."""
        return _said(self, but=("kind", "dimensions"))


def _said(part: Document, but: tuple[str, ...]) -> dict[str, Any]:
    """Return what a document says of itself, without some keys."""
    given = ((key, getattr(part, key)) for key in type(part).model_fields if key not in but)
    return {key: value for key, value in given if value is not None}


def _refuse_foreign(part: Document, whose: str, own: tuple[str, ...]) -> None:
    """Raise `ConfigError` where a document says keys that are not its own."""
    if foreign := _said(part, but=own):
        lacks = " and ".join(f'no "{key}"' for key in foreign)
        raise ConfigError(f"{whose} has {lacks}; its keys are {', '.join(own)}")


_OF_ONE_TARGET = ("regression", "binary-classification")

_OF_RETRIEVAL = (
    "logits_temperature",
    "loss",
    "num_hard_negatives",
    "matryoshka_dims",
    "samplers",
    "correction",
    "mask_known_positives",
    "debiasing",
)
"""Keys of the towers that only the retrieval task reads."""


class TowersConfig(Document):
    """Both towers; without one for items, the query tower's architecture again.

    Args:
        query: Of queries.
        item: Of items.
        history: What sequences of the query go through; their combiners if not given.
        l2_normalize: End both in vectors of length one.
        logits_temperature: The scores are divided by it in the loss; `learned` makes it a weight.
        loss: Of the retrieval task.
        num_hard_negatives: Only so many negatives of each row enter the loss, those with the highest logits.
        matryoshka_dims: Train the first so many numbers of the vectors too, such as [16, 32] of 64.
        samplers: Where negatives come from; other rows of the batch if not given.
        correction: Correct the logits for each item's probability of being sampled.
        mask_known_positives: No item that a user chose anywhere in the training is a negative of that user.
        prediction_tasks: What is trained for; retrieval if not given.
        debiasing: What weighs the examples of retrieval by where and to whom they were shown.
    """

    query: TowerConfig = TowerConfig()
    item: TowerConfig | None = None
    history: HistoryConfig | None = None
    l2_normalize: StrictBool = False
    logits_temperature: Annotated[Any, PlainValidator(_temperature)] = 1.0
    loss: Literal["categorical_crossentropy", "bpr", "bpr-max", "top1", "hinge", "logistic"] = (
        "categorical_crossentropy"
    )
    num_hard_negatives: Count | None = None
    matryoshka_dims: Annotated[tuple[Count, ...], BeforeValidator(as_tuple)] = ()
    samplers: Annotated[tuple[SamplerConfig, ...], BeforeValidator(as_tuple)] = ()
    correction: Literal["log_q", "exclude_positive"] | None = "log_q"
    mask_known_positives: StrictBool = False
    prediction_tasks: Annotated[tuple[TaskConfig, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (
        TaskConfig(kind="retrieval"),
    )
    debiasing: Annotated[tuple[DebiasingConfig, ...], BeforeValidator(as_tuple)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        tasks = [(task.kind, task.target) for task in self.prediction_tasks]
        problems = []
        for key in ("samplers", "debiasing"):
            kinds = [part.kind for part in getattr(self, key)]
            twice = [it for it in sorted(set(kinds)) if kinds.count(it) > 1]
            problems += [f'"{key}" names {it} twice; expected it once' for it in twice]
        for kind, target in dict.fromkeys(it for it in tasks if tasks.count(it) > 1):
            once = "a target for each" if kind in _OF_ONE_TARGET and not target else "it once"
            problems.append(
                f'"prediction_tasks" names {kind}{f" of {target}" if target else ""} twice; expected {once}'
            )
        if ("retrieval", None) not in tasks:
            problems += [
                f'"{key}" is of the retrieval task, which "prediction_tasks" lacks; add {{kind: retrieval}}, or leave it out'
                for key in _OF_RETRIEVAL
                if key in self.model_fields_set
            ]
        if problems:
            raise ConfigError(*problems)
        return self


class EmbeddingConfig(Document):
    """`EmbeddingOptions`, as YAML."""

    embedding_dims: Mapping[str, Count] | None = None
    embedding_dim_default: Count = 64
    infer_embedding_sizes: StrictBool = False
    infer_embedding_sizes_multiplier: Positive = 2.0
    infer_embeddings_ensure_dim_multiple_of_8: StrictBool = False
    embeddings_initializers: Annotated[Any, PlainValidator(_initializers)] = None
    embeddings_l2_reg: NotNegative = 0.0
    combiner: Combiner = "mean"
    id_dropout: Annotated[float, BeforeValidator(as_number), Field(ge=0, lt=1)] = 0.0

    def options(self) -> EmbeddingOptions:
        """Return them."""
        return EmbeddingOptions(**{name: getattr(self, name) for name in type(self).model_fields})


class OptimizerConfig(Document):
    """The optimizer.

    Args:
        name: One of Keras's; "adam" and "adagrad" are those of `schemaflow.optimizers`.
        learning_rate: At the beginning.
        schedule: `cosine` lets the rate fall to 0 over the run.
    """

    name: Literal["adam", "adagrad", "adamw", "sgd", "rmsprop", "lion", "nadam"] = "adam"
    learning_rate: Positive = 0.003
    schedule: Literal["constant", "cosine"] = "cosine"


class EvaluationConfig(Document):
    """What is reported, with the user's training items left in the ranking and with them taken out.

    Args:
        ks: The cut-offs.
    """

    ks: Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (10, 50, 100)


class RunConfig(Document):
    """A whole run.

    Args:
        version: 1.
        schema_path: The schema's YAML file, relative to the run file; `schema` in YAML.
        features: The names of the features to use; all if not given.
        data: Where the tables are.
        split: How interactions are set apart for testing.
        towers: The two towers and their loss.
        embedding_options: How wide the embedding tables are.
        optimizer: The optimizer.
        epochs: How many.
        batch_size: Rows a batch, each a negative of the others.
        seed: Of weights and shuffling.
        evaluation: What is reported.

    Example:
        >>> RunConfig.from_yaml("examples/movielens.run.yaml").epochs
        3
    """

    version: Version = 1
    schema_path: StrictStr = Field(alias="schema")
    features: Annotated[Names, Field(min_length=1)] | None = None
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    towers: TowersConfig = TowersConfig()
    embedding_options: EmbeddingConfig = EmbeddingConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: Count = 10
    batch_size: Count = 512
    seed: Seed = 0
    evaluation: EvaluationConfig = EvaluationConfig()

    _folder: Path = PrivateAttr(default=Path())
    _places: Mapping[Location, str] = PrivateAttr(default_factory=dict)  # where the file names a feature

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        if self.data.test is not None and "split" in self.model_fields_set:
            raise ConfigError('both "data.test" and "split" are given; keep one')
        return self

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a run file; a schema file stands for a run with everything else as it is by default.

        Raises:
            ConfigError: One line for each mistake: file, line, column, what was expected and received.
        """
        text = read(path, ConfigError, "run configuration")
        if holds_mapping(text, "features"):  # a schema spells its features out; a run names some of them
            config = cls(schema=Path(path).name)
        else:
            parsed = parse(text, cls, str(path))
            config = parsed.require(ConfigError)
            config._places = {location: parsed.where(location) for location, _ in config._features() + config._named()}
        config._folder = Path(path).parent
        return config

    @property
    def schema_file(self) -> Path:
        """The schema's YAML file."""
        return self._folder / self.schema_path

    def _features(self) -> list[tuple[Location, str]]:
        return [(("features", place), name) for place, name in enumerate(self.features or ())]

    def _named(self) -> list[tuple[Location, str]]:
        """Return the features that tasks and debiasing name, with where they do."""
        parts: dict[str, Sequence[TaskConfig | DebiasingConfig]] = {
            "prediction_tasks": self.towers.prediction_tasks,
            "debiasing": self.towers.debiasing,
        }
        return [
            (("towers", key, place, role), name)
            for key, listed in parts.items()
            for place, it in enumerate(listed)
            for role in ("target", "teacher", "propensities")
            if isinstance(name := getattr(it, role, None), str)
        ]

    def select(self, schema: Schema) -> Schema:
        """Return the schema with the features that the run names; all of it, where it names none.

        Raises:
            ConfigError: The schema has no feature of a name, or one that a task or debiasing reads is left out.
        """
        problems = []
        for location, name in self._features() + self._named():
            at = self._places.get(location, "")
            if name not in schema:
                hint = suggest(name, schema.column_names) or f" (features: {', '.join(schema.column_names)})"
                problems.append(f'{at}there is no feature "{name}" in {self.schema_file}{hint}')
            elif self.features is not None and name not in self.features:
                role = location[-1]
                problems.append(f'{at}the {role} "{name}" is not among the "features" of the run; name it there too')
        if problems:
            raise ConfigError(*problems)
        return schema if self.features is None else schema.select_by_name(self.features)

    def interactions_file(self, data: str | Path | None = None) -> Path:
        """Return the Parquet file or folder of the interactions, beside which all other tables are.

        Args:
            data: What `--data` gave: that file, the folder it is in, or the one above `data.folder`. Without it,
                `data.folder` is looked for in `$SCHEMAFLOW_DATA` and in the run file's own folder.

        Raises:
            ConfigError: There is none.
        """
        if data is not None and Path(data).is_file():
            return Path(data)
        below = os.environ.get(DATA_VARIABLE)
        if data is not None:
            tried = [Path(data) / self.data.folder, Path(data)]
        else:
            tried = [root / self.data.folder for root in ([Path(below)] if below else []) + [self._folder]]
        files = [folder / self.data.interactions for folder in tried]
        found = next((file for file in files if file.exists()), None)
        if found is None:
            raise ConfigError(
                f"there is no {' nor '.join(dict.fromkeys(map(str, files)))}; name the folder that holds the data with"
                f" --data or ${DATA_VARIABLE}, or with --data the file of the interactions itself"
            )
        return found
