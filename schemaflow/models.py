"""The two-tower model: a schema and a block in, a Keras model out."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.data.dataset import data_errors, read_parquet
from schemaflow.data.encode import Array
from schemaflow.data.join import read_ids, refuse_repeated
from schemaflow.errors import ConfigError, DataError, SchemaError, suggest
from schemaflow.export import Recommender, export
from schemaflow.features.encoders import build_tables, options_config, options_from_config
from schemaflow.features.kinds import Tensors
from schemaflow.features.tables import EmbeddingOptions, describe_tables, table_specs
from schemaflow.growth import carry_over, keep_frozen, keep_widths, refuse_breaks
from schemaflow.index import BruteForce
from schemaflow.layers.norm import L2Norm
from schemaflow.registry import register
from schemaflow.sampling import InBatchSampler, Sampler
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.schema import Schema, SchemaLike, as_schema
from schemaflow.schema.sides import sides_of
from schemaflow.schema.sources import TableLike, open_source
from schemaflow.schema.tags import Tags, parse_tag
from schemaflow.tasks.retrieval import RetrievalTask
from schemaflow.towers import Tower, fresh_copy

__all__ = ["TwoTowerModel"]

BATCH_SIZE = 1024
"""Rows a batch where none is asked for: each is a negative of the others, so more than Keras's 32."""


@register("model", "two-tower")
@keras.saving.register_keras_serializable("schemaflow")
class TwoTowerModel(keras.Model):
    """Queries and items as vectors of one space, trained so that a query is near the items chosen for it.

    `score(x, y) = q(x) . c(y)`; the default loss is a sampled softmax over the batch's items,
    `-log softmax(score / temperature - log Q)`, with Q the probability of an item's being in the batch.

    Args:
        schema: A fitted `Schema`, or the path of its YAML file.
        query_tower: Any Keras layer [batch, width] -> [batch, dim], such as `MLPBlock([128, 64])`.
        item_tower: The same for items; None makes a copy of the query tower's architecture with weights of its own.
        query_tower_tag: The features with this tag, and context features, enter the query tower.
        item_tower_tag: The features with this tag enter the item tower.
        embedding_options: How wide the embedding tables are, and how they begin.
        post: A layer applied to the outputs of both towers.
        prediction_tasks: A `RetrievalTask`, or a list with one; made from `loss` and `logits_temperature` if None.
        logits_temperature: The scores are divided by it in the loss.
        loss: The name of a registered loss.
        samplers: Where the candidates of the loss come from: a list of one; `[InBatchSampler()]` if empty.
        **kwargs: `correction`: "log_q" corrects the logits for each item's probability of being sampled, from the
            schema's item counts; None does not. `l2_normalize`: both towers end in vectors of length one. `name`,
            `dtype`: as for any Keras model.

    Raises:
        SchemaError: The schema lacks a tower's features, an item id, vocabularies or item counts.
        ConfigError: Arguments contradict each other, or the towers' widths differ.

    A saved model is loaded by `keras.saving.load_model` once `schemaflow.models` is imported.

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019.
        https://doi.org/10.1145/3298689.3346996

    Example:
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: string, tags: [user, id], vocabulary: learned}
        ...   item_id: {dtype: string, tags: [item, id], vocabulary: learned}
        ... '''})
        >>> events = {"user_id": ["ann", "ann", "bob"], "item_id": ["x", "y", "x"]}
        >>> model = TwoTowerModel(schema.fit(events), keras.layers.Dense(8))
        >>> model.compile(optimizer="adam")
        >>> history = model.fit(events, verbose=0)
        >>> model.query_embeddings({"user_id": ["bob", "carol"]}).shape
        (2, 8)
    """

    def __init__(
        self,
        schema: SchemaLike,
        query_tower: keras.layers.Layer,
        item_tower: keras.layers.Layer | None = None,
        query_tower_tag: Tags | str = Tags.USER,
        item_tower_tag: Tags | str = Tags.ITEM,
        embedding_options: EmbeddingOptions = EmbeddingOptions(),
        post: keras.layers.Layer | None = None,
        prediction_tasks: RetrievalTask | Sequence[RetrievalTask] | None = None,
        logits_temperature: float = 1.0,
        loss: str = "categorical_crossentropy",
        samplers: Sequence[Sampler] = (),
        **kwargs: Any,
    ) -> None:
        correction, l2_normalize = kwargs.pop("correction", "log_q"), kwargs.pop("l2_normalize", False)
        known = ("correction", "dtype", "l2_normalize", "name", "trainable")
        if unknown := [name for name in kwargs if name not in known]:
            raise ConfigError(
                *(
                    f'TwoTowerModel has no argument "{it}"{suggest(it, known)} (beside the named: {", ".join(known)})'
                    for it in unknown
                )
            )
        super().__init__(**kwargs)
        schema = as_schema(schema)
        query_tower_tag, item_tower_tag = parse_tag(query_tower_tag), parse_tag(item_tower_tag)
        sides = sides_of(schema, query_tower_tag, item_tower_tag)
        _check_layer("query_tower", query_tower)
        for argument, layer in (("item_tower", item_tower), ("post", post)):
            if layer is not None:
                _check_layer(argument, layer)
        if not isinstance(embedding_options, EmbeddingOptions):
            raise ConfigError(f"embedding_options is {embedding_options!r}; expected EmbeddingOptions(…)")
        self._arguments = {
            "query_tower_tag": query_tower_tag.value,
            "item_tower_tag": item_tower_tag.value,
            "logits_temperature": logits_temperature,
            "loss": loss,
            "correction": correction,
            "l2_normalize": l2_normalize,
        }
        self.schema = schema
        self.sides = sides
        self.embedding_options = embedding_options
        self.post = post
        self.task = _one_task(prediction_tasks, logits_temperature, loss, samplers)
        self._own_task = prediction_tasks is not None
        self.sampler = _one_sampler(samplers)
        self._own_sampler = bool(samplers)
        self._share = _item_shares(schema, sides.item_id, correction)
        item_block = fresh_copy(query_tower) if item_tower is None else item_tower
        inputs = schema.select_by_name([feature.name for feature in (*sides.query, *sides.item)])
        inputs.require_fitted()
        tables = build_tables(inputs, embedding_options)
        after = [] if post is None else [post]
        after += [L2Norm(dtype=self.dtype_policy)] if l2_normalize else []
        shared: dict[str, Any] = {
            "options": embedding_options,
            "post": after,
            "tables": tables,
            "dtype": self.dtype_policy,
        }
        self.query_tower = Tower(schema, [it.name for it in sides.query], query_tower, name="query_tower", **shared)
        self.item_tower = Tower(schema, [it.name for it in sides.item], item_block, name="item_tower", **shared)
        # traced once for each side; a lambda in the loop would be traced at each call
        self._encode_query = tf.function(
            lambda batch: tf.cast(self.query_tower(batch), tf.float32), reduce_retracing=True
        )
        self._encode_candidate = tf.function(
            lambda batch: tf.cast(self.item_tower(batch), tf.float32), reduce_retracing=True
        )
        if self.query_tower.dim != self.item_tower.dim:
            raise ConfigError(
                f"the query tower gives vectors of width {self.query_tower.dim}, the item tower of width {self.item_tower.dim};"
                " end both in the same width (without item_tower, end the query tower in a layer of fixed width)"
            )
        self.built = True

    # -- Keras's hooks --------------------------------------------------------------------------------------------

    def call(self, inputs: Tensors, training: bool = False) -> dict[str, tf.Tensor]:
        """Return `query` [batch, dim], `candidate` [batch, dim] and `score` [batch], the dot product of the two.

        Args:
            inputs: The features of both sides, raw or encoded.
            training: Reaches the towers' layers through Keras.
        """
        query, candidate = self.query_tower(inputs), self.item_tower(inputs)
        return {"query": query, "candidate": candidate, "score": tf.reduce_sum(query * candidate, axis=-1)}

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Return the task's loss and the regularization's."""
        ids = self.item_tower.encoder.rows(self.sides.item_id.name, x)  # [batch]
        share = None if self._share is None else tf.gather(self._share, ids)  # [batch]
        candidates = self.sampler.sample(y_pred["candidate"], ids, share)
        loss = self.task(
            y_pred["query"],
            candidates.embeddings,
            sample_weight=self._weights(x, sample_weight),
            candidate_sampling_probability=candidates.probability,
            candidate_ids=candidates.ids,
            score_mask=~candidates.repeated[tf.newaxis, :],  # [1, c]
        )
        return tf.add_n([loss, *(tf.cast(it, loss.dtype) for it in self.losses)])

    def _weights(self, x: Tensors, given: tf.Tensor | None) -> tf.Tensor | None:
        """Return each row's weight in the loss, [batch]: that of the schema's feature, times what Keras was given."""
        feature = self.sides.weight
        if feature is None:
            return given
        key = next((it for it in (encoded_name(feature.name), feature.name) if it in x), None)
        if key is None:
            raise ConfigError(f'feature "{feature.name}", which weighs the loss, is missing from the dataset')
        weights = tf.cast(x[key], tf.float32)
        return weights if given is None else weights * tf.cast(given, tf.float32)

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Set the optimizer, and Keras's other options.

        `jit_compile=True` compiles the step with XLA, which knows no strings: `train_on_batch` and its like then take
        encoded values alone, and lists cost a compilation for each number of values that a batch happens to hold. "auto"
        leaves XLA off where a feature has a vocabulary or is a list.

        Raises:
            ConfigError: A loss or metrics are given: they are the model's own.
        """
        if loss is not None:
            raise ConfigError("compile(loss=…): the loss is the task's; pass it to the model, TwoTowerModel(…, loss=…)")
        if metrics is not None or kwargs.get("weighted_metrics") is not None:
            raise ConfigError(
                "compile(metrics=…): rank metrics need the whole catalogue; call schemaflow.evaluate(model, …)"
            )
        # what XLA cannot compile is the encoding of raw values, and fit, evaluate and predict have that done beforehand
        if kwargs.get("jit_compile") is True:
            self.query_tower.assume_encoded()
            self.item_tower.assume_encoded()
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a reloaded model as it was, so that training goes on."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None:
            self.optimizer.build(self.trainable_variables)

    def get_compile_config(self) -> Any:
        """Return what `compile` was given."""
        return super().get_compile_config()

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        *,
        shuffle: bool = True,
        validation_data: Any = None,
        callbacks: Any = None,
        tables: str | Path | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train, and return Keras's `History`.

        Args:
            x: A Parquet file, a folder of them, a table in memory, or a dataset of feature dicts.
            y: Not used: positives and targets are columns of `x`.
            batch_size: Rows a batch, each a negative of the others; 1024 if None.
            shuffle: Give the rows in another order each epoch; `keras.utils.set_random_seed` fixes it, and training that
                goes on from a saved optimizer has the order it would have had. A dataset keeps the order it has.
            validation_data: Like `x`.
            callbacks: Of Keras.
            tables: The folder of the side tables, where it is not that of `x`.
            **kwargs: Of `keras.Model.fit`.

        Raises:
            ConfigError: `y` is given, or weights or a split that Keras can make of arrays alone.
            DataError: A table is not readable, lacks a column, or holds what does not fit its feature.
        """
        _refuse(kwargs | {"y": y, "validation_split": kwargs.get("validation_split") or None})
        order = _Order(self)
        train = self._dataset(x, batch_size, tables, seed=(lambda: order.seed) if shuffle else None)
        if isinstance(validation_data, tf.data.Dataset):
            validation_data = self._dataset(validation_data, None, None)
        elif validation_data is not None:
            rows = kwargs.pop("validation_batch_size", None) or batch_size
            validation_data = self._dataset(validation_data, rows, tables)
        # the dataset shuffles itself: Keras would warn that it cannot
        with data_errors():
            return super().fit(
                train, shuffle=False, validation_data=validation_data, callbacks=order.beside(callbacks), **kwargs
            )

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any
    ) -> Any:
        """Return the loss. Ranks over the whole catalogue come from `schemaflow.evaluate`."""
        _refuse(kwargs | {"y": y})
        dataset = self._dataset(x, batch_size, tables)
        with data_errors():
            return super().evaluate(dataset, **kwargs)

    def predict(self, x: Any, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any) -> dict[str, Array]:
        """Return `query`, `candidate` and `score` of each row."""
        dataset = self._dataset(x, batch_size, tables, weighted=False)
        with data_errors():
            return super().predict(dataset, **kwargs)

    def _dataset(
        self, x: Any, batch_size: int | None, tables: Any, seed: Callable[[], int] | None = None, weighted: bool = True
    ) -> Any:
        if isinstance(x, tf.data.Dataset):
            if batch_size is not None or tables is not None:
                raise ConfigError(
                    "batch_size and tables are for paths and tables; a dataset is batched and joined already"
                )
            return self._encoded(x)
        names = [feature.name for feature in (*self.sides.query, *self.sides.item)]
        if weighted and self.sides.weight is not None:
            names.append(self.sides.weight.name)
        return read_parquet(
            x,
            self.schema,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            shuffle=seed is not None,
            seed=seed,
            tables=tables,
            features=names,
        )

    def _encoded(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return a dataset of the user's whose raw features are encoded in the input pipeline, as those of a table are.

        Raises:
            ConfigError: Its elements are no dicts of features.
        """
        spec = dataset.element_spec
        if not isinstance(spec, Mapping):
            raise ConfigError(
                f"the dataset's elements are {type(spec).__name__}s; expected dicts of features: targets and weights are"
                " features of the schema, and each element holds a batch"
            )
        encoders = (self.query_tower.encoder, self.item_tower.encoder)
        names = {feature.name for encoder in encoders for feature in encoder.features}
        if not names & set(spec):
            return dataset

        def encode(batch: Tensors) -> dict[str, Any]:
            rest = {name: value for name, value in batch.items() if name not in names}
            return rest | encoders[0].encoded(batch) | encoders[1].encoded(batch)

        # autograph would wrap the errors
        return dataset.map(tf.autograph.experimental.do_not_convert(encode), num_parallel_calls=tf.data.AUTOTUNE)

    # -- vectors and recommendations ------------------------------------------------------------------------------

    def query_embeddings(self, queries: Any, batch_size: int = 4096, *, tables: str | Path | None = None) -> Array:
        """Return the vectors of queries, [n, dim] float32.

        Args:
            queries: A table or dataset with the query tower's features.
            batch_size: Rows at a time.
            tables: The folder of the side tables, where it is not that of `queries`.
        """
        return self._embed(self._encode_query, self.sides.query, queries, batch_size, tables)

    def candidate_embeddings(
        self, candidates: Any, batch_size: int = 4096, *, tables: str | Path | None = None
    ) -> Array:
        """Return the vectors of items, [n, dim] float32, like `query_embeddings`."""
        return self._embed(self._encode_candidate, self.sides.item, candidates, batch_size, tables)

    def _embed(
        self, encode: Any, features: Sequence[Feature], x: Any, batch_size: int, tables: str | Path | None
    ) -> Array:
        if not isinstance(x, tf.data.Dataset):
            names = [feature.name for feature in features]
            x = read_parquet(x, self.schema, batch_size=batch_size, tables=tables, features=names)
        with data_errors():
            return np.concatenate([encode(batch).numpy() for batch in x])

    def to_index(self, candidates: TableLike, k: int = 10, *, tables: str | Path | None = None) -> BruteForce:
        """Return an index of the items of a table, which takes this model's raw query features.

        Raises:
            DataError: An item stands twice, or lacks its id.
        """
        source = open_source(candidates)
        ids = read_ids(source, self.sides.item_id)
        refuse_repeated(ids, self.sides.item_id, source)
        vectors = self.candidate_embeddings(source, tables=tables)
        if not np.isfinite(vectors).all():
            raise DataError(
                "the items' vectors are not finite: the training diverged; lower the learning rate and train again"
            )
        return BruteForce(query_model=self.query_tower, k=k).index(vectors, ids.to_numpy(zero_copy_only=False))

    def export(
        self, path: str | Path, candidates: TableLike, *, k: int = 10, tables: str | Path | None = None
    ) -> Recommender:
        """Write a bundle (SavedModel with its index, schema, vocabularies) and return the recommender it holds.

        Args:
            path: The folder to write.
            candidates: The items to recommend.
            k: How many, where a request does not say.
            tables: The folder of the side tables, where it is not that of `candidates`.

        Raises:
            BundleError: There is something else at `path`.
        """
        return export(path, self.schema, self.query_tower, self.item_tower, self.to_index(candidates, k, tables=tables))

    # -- growing --------------------------------------------------------------------------------------------------

    def grow(self, schema: SchemaLike, *tables: TableLike) -> "TwoTowerModel":
        """Return this model with the rows of a wider schema, to be trained on.

        Rows and optimizer slots that were there are kept bit for bit, and so are all other weights. A new value's row
        begins at the out-of-vocabulary row that has served it so far; at its pretrained vector, where the schema has
        those; where ids are rows themselves, at the mean of the rows that were trained. The optimizer's slots of new
        rows are as at its start.

        Args:
            schema: What `Schema.fit` made of this model's schema and new data; `Schema.diff` tells what that means.
            *tables: Items or users with their side features, known ones and new: a new id's row begins with what a ridge
                regression from the side features to the trained rows says.

        Raises:
            SchemaError: The schema changed in more than rows; one line for each change that breaks the model.
            DataError: A table has no id, no side feature, no id that was trained, or an id twice.
            ConfigError: The optimizer keeps slots that do not grow by rows.

        Example:
            >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
            ... version: 1
            ... features:
            ...   user_id: {dtype: string, tags: [user, id], vocabulary: learned}
            ...   item_id: {dtype: string, tags: [item, id], vocabulary: learned}
            ... '''}).fit({"user_id": ["ann", "bob"], "item_id": ["x", "y"]})
            >>> model = TwoTowerModel(schema, keras.layers.Dense(8))
            >>> news = {"user_id": ["ann", "carol"], "item_id": ["z", "y"]}
            >>> model = model.grow(schema.fit(news))
            >>> model.schema.rows("item_id"), model.schema.vocabulary("user_id").to_pylist()
            (6, ['ann', 'bob', 'carol'])
        """
        schema, towers = as_schema(schema), (self.query_tower, self.item_tower)
        refuse_breaks(self.schema, schema)
        options = keep_widths(self.embedding_options, towers)
        wider = {"schema": schema.get_config(), "embedding_options": options_config(options)}
        grown = type(self).from_config(self.get_config() | wider)
        pairs = list(zip(towers, (grown.query_tower, grown.item_tower), strict=True))
        keep_frozen(self, grown, pairs)
        if self.compiled:
            grown.compile_from_config(self.get_compile_config())
        carry_over(self, grown, pairs, tables)
        return grown

    # -- looking and saving ---------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Save where the random generators are, such as dropout's: Keras does not, and training could not go on as it was."""
        super().save_own_variables(store)
        for place, state in enumerate(self._generators()):
            store[f"generator_{place}"] = state

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved; the optimizer's slots are there to be loaded after it."""
        if self.compiled and self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        for place, state in enumerate(self._generators()):
            state.assign(store[f"generator_{place}"])
        super().load_own_variables({name: store[name] for name in store.keys() if name.isdecimal()})  # noqa: SIM118

    def _generators(self) -> list[Any]:
        weights = {id(it) for it in self.weights}
        return [it for it in self.variables if id(it) not in weights]

    def summary(self, *args: Any, print_fn: Any = None, **kwargs: Any) -> None:
        """Print the derived embedding tables, then Keras's summary."""
        names = [feature.name for feature in (*self.sides.query, *self.sides.item)]
        specs = table_specs(self.schema.select_by_name(names), self.embedding_options)
        (print if print_fn is None else print_fn)(describe_tables(specs.values()))
        super().summary(*args, print_fn=print_fn, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the schema with its vocabularies included."""
        serialize = keras.saving.serialize_keras_object
        return {
            **self._arguments,
            "name": self.name,
            "trainable": self.trainable,
            "dtype": serialize(self.dtype_policy),
            "schema": self.schema.get_config(),
            "query_tower": serialize(self.query_tower.block),
            "item_tower": serialize(self.item_tower.block),
            "embedding_options": options_config(self.embedding_options),
            "post": None if self.post is None else serialize(self.post),
            "prediction_tasks": serialize(self.task) if self._own_task else None,
            "samplers": [serialize(self.sampler)] if self._own_sampler else [],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "TwoTowerModel":
        """Make the model of `get_config`."""
        made = keras.saving.deserialize_keras_object
        rebuilt = {key: made(config[key]) for key in ("dtype", "query_tower", "item_tower", "post", "prediction_tasks")}
        return cls(
            **{
                **config,
                **rebuilt,
                "schema": Schema.from_config(config["schema"]),
                "embedding_options": options_from_config(config["embedding_options"]),
                "samplers": [made(sampler) for sampler in config["samplers"]],
            }
        )


class _Order(keras.callbacks.Callback):
    """The seed of each epoch's order of rows: a random one, moved by the steps made before the epoch.

    Keras seeds Python's generator too, so `set_random_seed` fixes it; the steps are saved with the optimizer, so that
    training that is taken up again goes on in the order it would have had. They are read before the epoch: inside, the
    first batch may be asked for before or after the first step is counted.
    """

    def __init__(self, trained: keras.Model) -> None:
        super().__init__()
        self.trained = trained
        self.first = self.seed = random.getrandbits(62)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seed = self.first + int(self.trained.optimizer.iterations)

    def beside(self, callbacks: Any) -> Any:
        """Return what Keras takes as callbacks, with this one."""
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(self)
            return callbacks
        return [*(callbacks if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []), self]


_REFUSED = {
    "y": "positives and targets are columns of x, by the schema's tags: leave y out",
    "sample_weight": "a row's weight is a column of x: give its feature the tag weight",
    "class_weight": "there are no classes: give a feature of x the tag weight",
    "validation_split": "the last rows of a table are no fair sample of it: pass validation_data=…",
}
"""Arguments of Keras that a table by the schema replaces, and by what."""


def _refuse(given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where such an argument is given."""
    problems = [f"{name}=…: {instead}" for name, instead in _REFUSED.items() if given.get(name) is not None]
    if problems:
        raise ConfigError(*problems)


def _check_layer(argument: str, layer: Any) -> None:
    if not isinstance(layer, keras.layers.Layer):
        raise ConfigError(f"{argument} is {layer!r}; expected a Keras layer, such as MLPBlock([128, 64])")


def _one_task(tasks: Any, temperature: float, loss: str, samplers: Sequence[Sampler]) -> RetrievalTask:
    if tasks is None:
        return RetrievalTask(loss=loss, temperature=temperature)
    given = [tasks] if isinstance(tasks, RetrievalTask) else list(tasks)
    if len(given) != 1 or not isinstance(given[0], RetrievalTask):
        raise ConfigError(f"prediction_tasks is {tasks!r}; expected one RetrievalTask")
    if temperature != 1.0 or loss != "categorical_crossentropy" or samplers:
        raise ConfigError(
            "loss, logits_temperature and samplers configure the default RetrievalTask; with a task of your own, set them there"
        )
    return given[0]


def _one_sampler(samplers: Any) -> Sampler:
    given = list(samplers) if isinstance(samplers, (list, tuple)) else [samplers]
    if not given:
        return InBatchSampler()
    if len(given) != 1 or not isinstance(given[0], InBatchSampler):
        raise ConfigError(f"samplers is {samplers!r}; expected a list of one sampler, such as [InBatchSampler()]")
    return given[0]


def _item_shares(schema: Schema, item_id: Feature, correction: str | None) -> tf.Tensor | None:
    """Return each item row's share of all interactions, [rows] float32; a row never seen counts as seen once."""
    if correction is None:
        return None
    if correction != "log_q":
        raise ConfigError(f'correction is {correction!r}; expected "log_q" or None')
    counts = schema.counts(item_id)
    if counts is None:
        raise SchemaError(
            f'correction "log_q" needs the interactions of each {item_id.name}, and the schema has not counted them;'
            " call schema.fit(…) on the interactions (of a Merlin schema: Schema.from_merlin(…).fit(…)), or pass correction=None"
        )
    seen = np.maximum(counts, 1)
    return tf.constant(seen / counts.sum(), tf.float32)
