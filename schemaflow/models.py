"""The two-tower model: a schema and a block in, a Keras model out."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from schemaflow.arguments import (
    check_compilable,
    check_compile_arguments,
    check_fit_arguments,
    check_layers,
    check_names,
    check_sides,
    listed,
    refuse_unused,
    table_of_items,
)
from schemaflow.data.dataset import data_errors
from schemaflow.data.encode import Array
from schemaflow.data.join import as_side_table, read_raw
from schemaflow.errors import ConfigError
from schemaflow.export import Recommender, check_target, export
from schemaflow.features.catalogue import ItemCatalogue, read_catalogue
from schemaflow.features.encoders import build_tables
from schemaflow.features.histories import checked_history
from schemaflow.features.kinds import Tensors
from schemaflow.features.known import known_of
from schemaflow.features.tables import EmbeddingOptions, describe_tables, table_specs
from schemaflow.features.unseen import UnseenRows
from schemaflow.growth import grown
from schemaflow.index import Index
from schemaflow.inputs import Epochs, Inputs
from schemaflow.interests import nearest_interest
from schemaflow.items import AllItems
from schemaflow.layers.norm import L2Norm
from schemaflow.model_config import arguments_of, config_of
from schemaflow.negatives import Negatives, correction_of, samplers_of
from schemaflow.optimizers import optimizer_of, with_scaled_loss
from schemaflow.registry import register
from schemaflow.sampling import Sampler
from schemaflow.schema.schema import Schema, SchemaLike, as_schema
from schemaflow.schema.sides import sides_of
from schemaflow.schema.sources import TableLike
from schemaflow.schema.tags import Tags, parse_tag
from schemaflow.state import restored, state_of
from schemaflow.steps import QUERY_INPUTS, Steps
from schemaflow.tasks import Ranker, RetrievalTask, Step, Task
from schemaflow.tasks.admission import Terms, admitted, tasks_of
from schemaflow.towers import fresh_copy, two_towers
from schemaflow.truncation import truncated
from schemaflow.vectors import EMBED_ROWS, Vectors

__all__ = ["TwoTowerModel"]


@register("model", "two-tower")
@keras.saving.register_keras_serializable("schemaflow")
class TwoTowerModel(keras.Model):
    """Queries and items as vectors of one space, trained so that a query is near the items chosen for it.

    `score(x, y) = q(x) . c(y)`; the default loss is a sampled softmax over the batch's items,
    `-log softmax(score / temperature - log Q)`, with Q the probability of an item's being in the batch.

    Args:
        schema: A fitted `Schema`, or the path of its YAML file.
        query_tower: Any Keras layer [batch, width] -> [batch, dim], such as `MLPBlock([128, 64])`; or -> [batch, K, dim].
        item_tower: The same for items; None makes a copy of the query tower's architecture with weights of its own.
        query_tower_tag: The features with this tag, and context features, enter the query tower: a side of the schema's,
            which may be its own, such as `x-seed`.
        item_tower_tag: The features with this tag enter the item tower.
        embedding_options: How wide the embedding tables are, and how they begin.
        post: A layer applied to the outputs of both towers.
        prediction_tasks: A task or a list of them: at most one `RetrievalTask`, and tasks that predict targets of the
            schema. A `RetrievalTask` made from `loss` and `logits_temperature` if None.
        logits_temperature: The scores are divided by it in the loss; "learned" makes it a weight.
        loss: The name of a registered loss, or such a loss.
        samplers: Where the candidates of the loss come from, by name or as objects; `[InBatchSampler()]` if empty. An item
            that several of them bring is one candidate.
        **kwargs: `candidates`: the table of all items, for samplers and metrics that look beyond the batch; kept with the
            model. Not needed where an item is its id alone. `correction`: "log_q" corrects the logits for each item's
            probability of being sampled, by the schema's item counts, or without them by a `StreamingFrequency`, which
            can be given itself; "exclude_positive" does not correct the positive, which is not sampled; None corrects
            nothing. `known_positives`: interactions, or the name of a list feature of the query, whose items are no
            negatives of their user. `history`: a `UserHistoryEncoder`, through which the features of the query that are
            tagged `sequence` go, with the lists aligned with them, in place of their combiners. `l2_normalize`: both
            towers end in vectors of length one. `debiasing`: one or several `Debiasing`, whose weights the retrieval loss
            multiplies a row's worth with. `name`, `dtype`: as for any Keras model.

    A query tower that ends in [batch, K, dim] gives each query K vectors, one for each of its interests. An item's score is
    then the highest, `max_k q_k(x) . c(y)`, in evaluation and in every index; all terms of the loss are given the interest
    that the row's own item is nearest to. It needs an `item_tower` of its own, which gives one vector for an item.

    Targets with a `value` in the schema say what a row is worth to the retrieval loss, which is then the mean of the rows'
    losses weighted by `max(0, sum_t value_t label_t)`: a row worth nothing has no positive, and its item is a negative of
    the others; a batch worth nothing has a loss of 0. No gradient passes through these weights.

    Raises:
        SchemaError: The schema lacks a tower's features, an item id, vocabularies or a task's target.
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
        prediction_tasks: Task | Sequence[Task] | None = None,
        logits_temperature: float | str = 1.0,
        loss: Any = "categorical_crossentropy",
        samplers: Sequence[Sampler | str] = (),
        **kwargs: Any,
    ) -> None:
        correction, l2_normalize = correction_of(kwargs.pop("correction", "log_q")), kwargs.pop("l2_normalize", False)
        candidates, known_positives = kwargs.pop("candidates", None), kwargs.pop("known_positives", None)
        debiasing, history = listed(kwargs.pop("debiasing", ())), kwargs.pop("history", None)
        check_names(kwargs)
        super().__init__(**kwargs)
        self._judged = self._masked = False
        self.retrieval: RetrievalTask | None = None
        self.ranker: Ranker | None = None
        schema = as_schema(schema)
        query_tower_tag, item_tower_tag = parse_tag(query_tower_tag), parse_tag(item_tower_tag)
        check_sides(query_tower_tag, item_tower_tag)
        sides = sides_of(schema, query_tower_tag, item_tower_tag)
        check_layers(query_tower, item_tower=item_tower, post=post)
        if not isinstance(l2_normalize, bool):
            raise ConfigError(f"l2_normalize is {l2_normalize!r}; expected True or False")
        if not isinstance(embedding_options, EmbeddingOptions):
            raise ConfigError(f"embedding_options is {embedding_options!r}; expected EmbeddingOptions(…)")
        self._arguments: dict[str, Any] = {
            "query_tower_tag": str(query_tower_tag),
            "item_tower_tag": str(item_tower_tag),
            "l2_normalize": l2_normalize,
        }
        self.schema: Schema = schema
        self.sides = sides
        self.embedding_options = embedding_options
        self.post = post
        self.history_encoder = checked_history(history, sides)
        self._add_towers(query_tower, fresh_copy(query_tower) if item_tower is None else item_tower, l2_normalize)
        tasks = tasks_of(prediction_tasks, loss, logits_temperature, l2_normalize)
        terms = admitted(tasks, debiasing, schema, sides)
        self._add_terms(terms)
        self._add_negatives(samplers, correction, candidates, known_positives)
        terms.begin(self.query_tower, self.item_tower)  # once nothing is refused: with weights they are this model's
        self.built = True

    def _add_towers(self, query: keras.layers.Layer, item: keras.layers.Layer, l2_normalize: bool) -> None:
        """Make the towers around their blocks, with the tables that the features of both share."""
        schema, sides = self.schema, self.sides
        inputs = schema.select_by_name([feature.name for feature in (*sides.query, *sides.item)])
        inputs.require_fitted()
        tables = build_tables(inputs, self.embedding_options)
        self._unseen = UnseenRows(schema, tables)
        norms = [L2Norm(dtype=self.dtype_policy)] if l2_normalize else []
        self.query_tower, self.item_tower = two_towers(
            schema,
            sides,
            (query, item),
            tables,
            history=self.history_encoder,
            options=self.embedding_options,
            post=norms if self.post is None else [self.post, *norms],
            dtype=self.dtype_policy,
        )
        self._vectors = Vectors(schema, sides, self.query_tower, self.item_tower)

    def _add_terms(self, terms: Terms) -> None:
        """Take the terms of the loss, and the features that they read beside the towers'."""
        self.tasks, self.debiasing = terms.tasks, terms.debiasing
        self.retrieval, self.ranker = terms.retrieval, terms.ranker
        if self.retrieval is not None:
            self.retrieval.expect(self.query_tower.dim, self._arguments["l2_normalize"])
        several = self.retrieval is not None and len(self.tasks) + len(self.debiasing) > 1
        self._retrieval_mean = keras.metrics.Mean(name="retrieval/loss") if several else None  # else the loss says it
        own = [term.encoder for term in (*self.tasks, *self.debiasing) if term.encoder is not None]
        encoders = (self.query_tower.encoder, self.item_tower.encoder, *own)
        self._inputs = Inputs(self.schema, self.sides, terms.beside, encoders)
        self._reads_inputs = any(task.reads_inputs for task in self.tasks)

    def _add_negatives(
        self, given: Sequence[Sampler | str], correction: Any, candidates: Any, known_positives: Any
    ) -> None:
        """Take what the retrieval task is trained against, and all items for the tasks that reach for them."""
        schema, sides = self.schema, self.sides
        reaching = any(task.needs_items for task in self.tasks)
        if self.retrieval is None:
            unused = {
                "samplers": given or None,
                "debiasing": self.debiasing or None,
                "known_positives": known_positives,
            }
            refuse_unused(**unused, candidates=None if reaching else candidates)
        samplers = samplers_of(given)
        metrics = [] if self.retrieval is None else self.retrieval.encoded_metrics
        table = table_of_items(candidates, metrics)
        self._holds_table = table is not None  # else the catalogue is the schema's vocabulary, and grows with it
        self.catalogue: ItemCatalogue | None = None
        if isinstance(table, ItemCatalogue):
            self.catalogue = table
        elif table is not None or reaching or metrics or any(it.needs_catalogue for it in samplers):
            self.catalogue = read_catalogue(table, schema, sides)
        self._items = (
            AllItems(self.catalogue, self._embed_items, self.item_tower.dim)
            if reaching and self.catalogue is not None
            else None
        )
        self.known_in, self.known_positives = known_of(known_positives, schema, sides)
        self.correction = correction
        self.negatives = Negatives(
            schema, sides, samplers, correction, self.catalogue, self.query_tower.dim, name="negatives"
        )
        if self.known_in is not None:
            self.negatives.supports_jit = False  # lists of any length
        self._steps = Steps(
            inputs=self._inputs,
            query_tower=self.query_tower,
            item_tower=self.item_tower,
            negatives=self.negatives,
            embed=self._embed_items,
            items=self._items,
            known_in=self.known_in,
            known_positives=self.known_positives,
            retrieval=self.retrieval,
            ranker=self.ranker,
        )

    # -- Keras's hooks --------------------------------------------------------------------------------------------

    def call(self, inputs: Tensors, training: bool = False) -> dict[str, tf.Tensor]:
        """Return `query` [batch, dim], `candidate` [batch, dim] and `score` [batch], the dot product of the two.

        Of queries of several vectors, `query` is [batch, K, dim], and `score` the highest of their products.

        Args:
            inputs: The features of both sides, raw or encoded.
            training: Reaches the towers' layers through Keras.
        """
        chosen = None
        if (training or self._masked) and self.query_tower.encoder.mask_target:
            rows = self.item_tower.encoder.rows(self.sides.item_id.name, inputs)
            own = rows >= self.schema.domains[self.sides.item_id.table].reserved  # the rows before are of no one item
            chosen = {self.sides.item_id.table: tf.where(own, rows, -1)}
        query_inputs = self.query_tower.inputs_of(inputs, chosen)
        query, candidate = self.query_tower.body(query_inputs), self.item_tower(inputs)
        nearest = nearest_interest(query, candidate)  # [batch, dim]
        outputs = {"query": query, "candidate": candidate, "score": tf.reduce_sum(nearest * candidate, axis=-1)}
        if self._reads_inputs:
            outputs[QUERY_INPUTS] = query_inputs
        if not training:  # where the loss asks the tasks itself, once
            for task in self.tasks:
                outputs |= task.predictions(nearest, candidate, query_inputs)
        return outputs

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Return the tasks' losses by their weights, those of debiasing, and the regularization's."""
        step = self._step(x, y_pred, sample_weight, training)
        worth, losses = step.worth, []
        for term in self.debiasing:
            weights, loss = term.debias(step)
            weights = tf.stop_gradient(weights)
            worth = weights if worth is None else worth * weights
            losses.append(loss)
        step = replace(step, worth=worth)
        beyond = [task for task in self.tasks if task is self.retrieval or task.needs_items]
        losses += [task.loss_weight * task.loss_in(step) for task in self.tasks if task not in beyond]
        # taken before the item tower sees other items, for Keras forgets them then
        losses += [tf.cast(it, tf.float32) for it in self.losses]
        for task in beyond:
            before = task.added()
            loss = task.loss_in(step)
            losses += [*task.added(), *(-it for it in before)]  # what its layers add now, in place of what they did
            if task is self.retrieval and self._retrieval_mean is not None:
                self._retrieval_mean.update_state(loss, sample_weight=tf.shape(step.query)[0])
            losses.append(task.loss_weight * loss)
        return tf.add_n(losses)

    def _step(self, x: Tensors, outputs: Mapping[str, tf.Tensor], sample_weight: Any, training: bool) -> Step:
        """Return what terms read of a batch."""
        return self._steps.of(x, outputs, sample_weight, training, compact=not self.jit_compile)

    def _embed_items(self, positions: tf.Tensor, training: bool) -> tf.Tensor:
        """Return the vectors of items at positions of the catalogue, [n, dim]."""
        assert self.catalogue is not None, "positions are of a catalogue"
        return self.item_tower(self.catalogue.features(positions), training=training)

    def compile(self, optimizer: Any = "adam", loss: Any = None, metrics: Any = None, **kwargs: Any) -> None:
        """Set the optimizer, and Keras's other options.

        The names "adam" and "adagrad" mean those of `schemaflow.optimizers`, whose steps cost the same beside tables of any
        size; other names, and optimizers that are given as objects, are Keras's.

        `jit_compile=True` compiles the step with XLA, which knows no strings: `train_on_batch` and its like then take
        encoded values alone, and lists cost a compilation for each number of values that a batch happens to hold. "auto"
        leaves XLA off where there is no GPU, since it takes twice the time there, and where a feature has a vocabulary or
        is a list.

        Raises:
            ConfigError: A loss, weights of losses or metrics are given: they are the tasks' own. Or what XLA cannot compile, a
                history or a task's Python function, is to be compiled by it.
        """
        check_compile_arguments(kwargs | {"loss": loss, "metrics": metrics})
        if kwargs.get("jit_compile", "auto") == "auto" and not tf.config.list_physical_devices("GPU"):
            kwargs["jit_compile"] = False
        if kwargs.get("jit_compile") is True:
            check_compilable(self.history_encoder is not None, self.tasks)
            # what else it cannot compile, the encoding of raw values, fit, evaluate and predict have done beforehand
            self.query_tower.assume_encoded()
            self.item_tower.assume_encoded()
        optimizer = optimizer_of(optimizer)
        if kwargs.get("auto_scale_loss", True) and self.dtype_policy.name == "mixed_float16":
            optimizer = with_scaled_loss(optimizer)
        super().compile(optimizer=optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile a reloaded model as it was, so that training goes on."""
        self.compile(**keras.saving.deserialize_keras_object(config))

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
        check_fit_arguments(kwargs | {"y": y, "validation_split": kwargs.get("validation_split") or None})
        epochs = Epochs(self._prepare_epoch, self._unseen, self._end_epoch)
        train = self._inputs.dataset(x, batch_size, tables, seed=(lambda: epochs.seed) if shuffle else None)
        if isinstance(validation_data, tf.data.Dataset):
            validation_data = self._inputs.dataset(validation_data)
        elif validation_data is not None:
            rows = kwargs.pop("validation_batch_size", None) or batch_size
            validation_data = self._inputs.dataset(validation_data, rows, tables)
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)  # within the first step, slots would take their memory twice
        # the dataset shuffles itself: Keras would warn that it cannot
        with data_errors():
            return super().fit(
                train, shuffle=False, validation_data=validation_data, callbacks=epochs.beside(callbacks), **kwargs
            )

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any
    ) -> Any:
        """Return the loss, and what the tasks' metrics say. More about ranks says `schemaflow.evaluate`."""
        check_fit_arguments(kwargs | {"y": y})
        dataset = self._inputs.dataset(x, batch_size, tables)
        with data_errors(), self._judging():
            return super().evaluate(dataset, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch. The items nearest to a query are found by vectors that `fit`, `evaluate` or the first step took."""
        if self._items is not None and not self._items.taken:
            self.encode_candidates()
        return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `evaluate` does, of one batch."""
        with self._judging():
            return super().test_on_batch(*args, **kwargs)

    def test_step(self, data: Any) -> Any:
        """Return what Keras's step does, with what is to be found kept out of histories."""
        before, self._masked = self._masked, True  # while the step is traced, and nothing else is
        try:
            return super().test_step(data)
        finally:
            self._masked = before

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that are counted now: in training, those over the whole catalogue where they are asked for."""
        task = self.retrieval
        uncounted = [] if task is None or task.metrics_in_training or self._judged else task.factorized_metrics
        return [metric for metric in super().metrics if all(metric is not it for it in uncounted)]

    @contextmanager
    def _judging(self) -> Iterator[None]:
        """Count the metrics that rank the whole catalogue."""
        self.encode_candidates()
        before, self._judged = self._judged, True
        try:
            yield
        finally:
            self._judged = before

    def _prepare_epoch(self) -> None:
        if self._items is not None or (self.retrieval is not None and self.retrieval.metrics_in_training):
            self.encode_candidates()

    def _end_epoch(self, logs: Mapping[str, Any]) -> None:
        for term in self.debiasing:
            term.settle(logs)

    def encode_candidates(self) -> None:
        """Give the metrics and tasks that look at the whole catalogue its vectors, as they are now."""
        waiting = [] if self.retrieval is None else self.retrieval.encoded_metrics
        if self.catalogue is None or not (waiting or self._items):
            return
        vectors = self._vectors.of_catalogue(self.catalogue)
        if self._items is not None:
            self._items.take(vectors)
        for metric in waiting:
            metric.set_candidates(vectors, self.catalogue.identifiers)

    def predict(self, x: Any, batch_size: int | None = None, *, tables: Any = None, **kwargs: Any) -> dict[str, Array]:
        """Return `query`, `candidate` and `score` of each row, and what each task predicts, by its name."""
        dataset = self._inputs.dataset(x, batch_size, tables, judged=False)
        with data_errors():
            found = super().predict(dataset, **kwargs)
        return {name: values for name, values in found.items() if name != QUERY_INPUTS}

    # -- vectors and recommendations ------------------------------------------------------------------------------

    def query_embeddings(
        self, queries: Any, batch_size: int = EMBED_ROWS, *, tables: str | Path | None = None
    ) -> Array:
        """Return the vectors of queries, [n, dim] float32; [n, K, dim] where a query has several.

        Args:
            queries: A table or dataset with the query tower's features.
            batch_size: Rows at a time.
            tables: The folder of the side tables, where it is not that of `queries`.
        """
        return self._vectors.queries(queries, batch_size, tables)

    def candidate_embeddings(
        self, candidates: Any, batch_size: int = EMBED_ROWS, *, tables: str | Path | None = None
    ) -> Array:
        """Return the vectors of items, [n, dim] float32, like `query_embeddings`."""
        return self._vectors.items(candidates, batch_size, tables)

    def query_inputs(self, queries: Any, batch_size: int = EMBED_ROWS, *, tables: str | Path | None = None) -> Array:
        """Return what the query tower's block is given, and a ranker is too, [n, width] float32, like `query_embeddings`."""
        return self._vectors.query_inputs(queries, batch_size, tables)

    def to_index(
        self,
        candidates: TableLike,
        k: int | None = None,
        *,
        index: Index | None = None,
        tables: str | Path | None = None,
    ) -> Index:
        """Return an index of the items of a table, which takes this model's raw query features.

        Args:
            candidates: The items.
            k: How many it returns; the index's own if None.
            index: What to search by, without candidates yet, such as `IVF()`; a `BruteForce` if None.
            tables: The folder of the side tables, where it is not that of `candidates`.

        Raises:
            DataError: An item stands twice, or lacks its id.
        """
        made = self._vectors.indexed(as_side_table(candidates, self.schema, self.sides.item_id), index, k, tables)
        made.query_model = self.query_tower
        return made

    def export(
        self,
        path: str | Path,
        candidates: TableLike,
        *,
        index: Index | None = None,
        k: int | None = None,
        report: Any = None,
        tables: str | Path | None = None,
    ) -> Recommender:
        """Write a bundle (SavedModel with its index, schema, vocabularies, items) and return the recommender it holds.

        Args:
            path: The folder to write.
            candidates: The items to recommend, with the columns they are filtered by.
            index: What to search by, without candidates yet, such as `IVF()`; a `BruteForce` if None.
            k: How many, where a request does not say; the index's own if None.
            report: What `schemaflow.evaluate` said, to be kept with it.
            tables: The folder of the side tables, where it is not that of `candidates`.

        Raises:
            BundleError: There is something else at `path`.
            ConfigError: The index cannot be part of a SavedModel.
            DataError: An item stands twice, lacks its id, or a column is missing or does not fit its feature.
        """
        check_target(path)  # before minutes of work, not after
        source = as_side_table(candidates, self.schema, self.sides.item_id)
        raw = read_raw(source, self.schema, (*self.sides.item, *self.sides.filters), tables)
        made = self._vectors.indexed(source, index, k, tables)  # without the tower, which the bundle keeps itself
        towers = (self.query_tower, self.item_tower)
        return export(path, self.schema, self.sides, *towers, made, raw, report, self.ranker)

    # -- models made of this one ----------------------------------------------------------------------------------

    def grow(
        self, schema: SchemaLike, *tables: TableLike, candidates: TableLike | None = None, known_positives: Any = None
    ) -> "TwoTowerModel":
        """Return this model with the rows of a wider schema, to be trained on.

        Rows and optimizer slots that were there are kept bit for bit, and so are all other weights. A new value's row
        begins at the out-of-vocabulary row that has served it so far; at its pretrained vector, where the schema has
        those; where ids are rows themselves, at the mean of the rows that were trained. A compressed table grows by
        quotients, which begin at the mean of those that were trained. The optimizer's slots of new rows are as at its
        start.

        Args:
            schema: What `Schema.fit` made of this model's schema and new data; `Schema.diff` tells what that means.
            *tables: Items or users with their side features, known ones and new: a new id's row begins with what a ridge
                regression from the side features to the trained rows says.
            candidates: The table of all items, new ones included, where the model holds one; the old one stays if None.
            known_positives: In place of those the model has; the same if None.

        Raises:
            SchemaError: The schema changed in more than rows; one line for each change that breaks the model.
            DataError: A table has no id, no side feature, no id that was trained, or an id twice.
            ConfigError: The optimizer keeps slots that do not grow by rows, or a table holds ids whose rows are compressed.

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
        made: TwoTowerModel = grown(self, as_schema(schema), tables, candidates, known_positives)
        made._unseen.carry(self._unseen)
        return made

    def truncated(self, dim: int) -> "TwoTowerModel":
        """Return the model of the first `dim` numbers of this one's vectors, to evaluate, index and export as any other.

        It finds nearly as well where this one was trained with `RetrievalTask(matryoshka_dims=(dim, …))`, and its index
        takes so much less. Its towers hold copies of the weights; with `l2_normalize` they end in vectors of length one.
        Of the tasks it has retrieval alone, since others read whole vectors, and it is not compiled.

        Raises:
            ConfigError: `dim` is no integer from 1 to the vectors' width.

        Example:
            >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
            ... version: 1
            ... features:
            ...   user_id: {dtype: int64, tags: [user, id], cardinality: 5}
            ...   item_id: {dtype: int64, tags: [item, id], cardinality: 9}
            ... '''})
            >>> task = RetrievalTask(matryoshka_dims=[16, 32])
            >>> model = TwoTowerModel(schema, keras.layers.Dense(64), prediction_tasks=task)
            >>> model.truncated(16).query_embeddings({"user_id": [3]}).shape
            (1, 16)
        """
        made: TwoTowerModel = truncated(self, dim)
        return made

    # -- looking and saving ---------------------------------------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Save the weights that are the model's own, and what it remembers beside them."""
        super().save_own_variables(store)
        for name, remembered in state_of(self, self._unseen).items():
            store[name] = remembered

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` saved."""
        super().load_own_variables(restored(self, self._unseen, store))

    def summary(self, *args: Any, print_fn: Any = None, **kwargs: Any) -> None:
        """Print the derived embedding tables, then Keras's summary."""
        names = [feature.name for feature in (*self.sides.query, *self.sides.item)]
        specs = table_specs(self.schema.select_by_name(names), self.embedding_options)
        (print if print_fn is None else print_fn)(describe_tables(specs.values()))
        super().summary(*args, print_fn=print_fn, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the schema with its vocabularies included."""
        return config_of(self, self.catalogue if self._holds_table else None, **self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None) -> "TwoTowerModel":
        """Make the model of `get_config`."""
        return cls(**arguments_of(config))
