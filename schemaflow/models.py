"""The two-tower model: a schema and a block in, a Keras model out."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from schemaflow.data.dataset import data_errors, read_parquet
from schemaflow.data.encode import Array
from schemaflow.data.join import as_side_table, read_ids, refuse_repeated
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
from schemaflow.schema.sources import TableLike
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
        query_tower_tag: The features with this tag, and context features, enter the query tower: a side of the schema's,
            which may be its own, such as `x-seed`.
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
            "query_tower_tag": str(query_tower_tag),
            "item_tower_tag": str(item_tower_tag),
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

        Raises:
            ConfigError: A loss or metrics are given: they are the model's own.
        """
        if loss is not None:
            raise ConfigError("compile(loss=…): the loss is the task's; pass it to the model, TwoTowerModel(…, loss=…)")
        if metrics is not None or kwargs.get("weighted_metrics") is not None:
            raise ConfigError(
                "compile(metrics=…): rank metrics need the whole catalogue; call schemaflow.evaluate(model, …)"
            )
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
        tables: str | Path | None = None,
        **kwargs: Any,
    ) -> Any:
        """Train, and return Keras's `History`.

        Args:
            x: A Parquet file, a folder of them, a table in memory, or a dataset of feature dicts.
            y: Not used: the positives are in `x`.
            batch_size: Rows a batch, each a negative of the others; 1024 if None.
            shuffle: Give the rows in another order each epoch; `keras.utils.set_random_seed` fixes it. A dataset keeps
                the order it has.
            validation_data: Like `x`.
            tables: The folder of the side tables, where it is not that of `x`.
            **kwargs: Of `keras.Model.fit`.
        """
        train = self._dataset(x, batch_size, tables, shuffle=shuffle)
        if validation_data is not None and not isinstance(validation_data, tf.data.Dataset):
            validation_data = self._dataset(validation_data, batch_size, tables)
        # the dataset shuffles itself: Keras would warn that it cannot
        with data_errors():
            return super().fit(train, y, shuffle=False, validation_data=validation_data, **kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any
    ) -> Any:
        """Return the loss. Ranks over the whole catalogue come from `schemaflow.evaluate`."""
        dataset = self._dataset(x, batch_size, tables)
        with data_errors():
            return super().evaluate(dataset, y, **kwargs)

    def predict(self, x: Any, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any) -> dict[str, Array]:
        """Return `query`, `candidate` and `score` of each row."""
        dataset = self._dataset(x, batch_size, tables, weighted=False)
        with data_errors():
            return super().predict(dataset, **kwargs)

    def _dataset(
        self, x: Any, batch_size: int | None, tables: Any, shuffle: bool = False, weighted: bool = True
    ) -> Any:
        if isinstance(x, tf.data.Dataset):
            if batch_size is not None or tables is not None:
                raise ConfigError(
                    "batch_size and tables are for paths and tables; a dataset is batched and joined already"
                )
            return x
        names = [feature.name for feature in (*self.sides.query, *self.sides.item)]
        if weighted and self.sides.weight is not None:
            names.append(self.sides.weight.name)
        # Keras seeds Python's generator too, so set_random_seed fixes the order
        seed = random.getrandbits(63) if shuffle else None
        return read_parquet(
            x,
            self.schema,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            shuffle=shuffle,
            seed=seed,
            tables=tables,
            features=names,
        )

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
            for key in (it for it in features if it.has(Tags.ID)):
                x = as_side_table(x, self.schema, key)
            x = read_parquet(x, self.schema, batch_size=batch_size, tables=tables, features=names)
        with data_errors():
            return np.concatenate([encode(batch).numpy() for batch in x])

    def to_index(self, candidates: TableLike, k: int = 10, *, tables: str | Path | None = None) -> BruteForce:
        """Return an index of the items of a table, which takes this model's raw query features.

        Raises:
            DataError: An item stands twice, or lacks its id.
        """
        source = as_side_table(candidates, self.schema, self.sides.item_id)
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
