"""Where an item was shown decides whether it was seen; what of its clicks is due to that."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from schemaflow.errors import ConfigError, SchemaError, suggest
from schemaflow.features.encoders import FeatureEncoder, build_tables
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.layers.mlp import MLPBlock
from schemaflow.losses import weighted_mean
from schemaflow.registry import register
from schemaflow.schema.columns import missing_value
from schemaflow.schema.feature import Feature
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.tags import Tags
from schemaflow.tasks.example_weights import EffectiveShare, check_block, check_clip, warn_of_collapse
from schemaflow.tasks.terms import Debiasing, Step

__all__ = ["PositionDebiasing", "examined_crossentropy"]

ESTIMATORS = ("examination", "additive", "given")

PACE = 10.0
"""The numbers that tell positions apart are this many times what the optimizer moves.

Position and item explain the same clicks where a logger shows an item mostly high, and by steps of one size the many numbers
of the relevance would take up what is the position's, and give it back slowly: with a factor of 1 the examination of the
tenth of ten positions, 0.1, stood at 0.16 after 1500 steps, with 10 at 0.10.
"""

BIAS_DIM = 8
"""The width of the tables of bias features that the schema gives none."""


def examined_crossentropy(labels: tf.Tensor, log_examination: tf.Tensor, log_odds: tf.Tensor) -> tf.Tensor:
    """Return `-y log p - (1 - y) log(1 - p)` with `p = examination * sigmoid(log_odds)`, [batch] float32.

    Args:
        labels: y, [batch], 0 or 1.
        log_examination: Below 0, [batch].
        log_odds: [batch].

    Example:
        >>> loss = examined_crossentropy(tf.constant([1.0, 0.0]), tf.math.log([0.5, 0.5]), tf.zeros(2))
        >>> [round(float(it), 4) for it in loss]  # -log 1/4, -log 3/4
        [1.3863, 0.2877]
    """
    log_p = log_examination + tf.math.log_sigmoid(log_odds) - 1e-7  # below 0, for p = 1 has no log(1 - p)
    high = log_p > -np.log(2.0)
    # log(1 - e^x), by expm1 where e^x is near 1 and by log1p where it is not; each branch gets what it is right for
    complement = tf.where(
        high,
        tf.math.log(-tf.math.expm1(tf.where(high, log_p, -1.0))),
        tf.math.log1p(-tf.exp(tf.where(high, -1.0, log_p))),
    )
    return -labels * log_p - (1.0 - labels) * complement


@register("debiasing", "position")
@keras.saving.register_keras_serializable("schemaflow")
class PositionDebiasing(Debiasing):
    """Weighs a click by how rarely its position is looked at: `w = min(examination(first) / examination(position), clip)`.

    A click says that the item was seen and found relevant, and what is shown high is seen whatever it is. In a log of
    impressions, whose click is a target with a `value`, clicks weighed so count as if all had been shown first. The
    examination is estimated beside the model's training:

    - "examination": `P(click) = examination(position, bias) * sigmoid(z)`, by cross-entropy over all impressions, where the
      head z reads the pair's vectors, so that what is shown high because it is good is not taken for what is clicked because
      it is shown high.
    - "additive": `P(click) = sigmoid(z + s(position, bias))`; s is left out of a share `dropout` of the rows, so that z alone
      says what it can. The ratio is that of the row's click at the first position and at its own,
      `sigmoid(z + s(first)) / sigmoid(z + s(position))`.
    - "given": by `propensities`.

    Position comes from the feature tagged position, an integer whose `cardinality` says how many are told apart: 11 are the
    positions 0 to 10, and 10 stands for all beyond. A row whose position is missing was shown at none: it has the weight 1,
    and the examination is not learned from it. A position before `first` is an error. Features tagged bias, such as the
    device, are read here alone, through tables of their own, at the row's own value in both examinations of the ratio.

    No gradient passes from the head to the towers, nor from the model's loss into the weights: debiasing changes the model by
    the rows' weights alone. Nothing of it is exported.

    Its metrics are `position/loss`, that of the estimate, and `position/effective_share`: the share of the clicks that is
    left in effect (Kish) where they weigh differently. An epoch that ends below a tenth warns, once.

    Args:
        estimator: "examination", "additive" or "given".
        target: The binary target that is clicked; the schema's only one if None.
        propensities: With "given", the probability of being examined: for each position from the first on, the last for all
            beyond; or the name of a feature that holds that of each row.
        clip: No weight is above it: a few clicks far down would outweigh all others.
        first: The first position, against which the others are weighed.
        block: What the head reads vectors through, any Keras layer [batch, 3 dim] -> [batch, width];
            `MLPBlock([64], final_activation="relu")` if None.
        dropout: Of the additive estimator.
        name: The head of the metrics' names.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ConfigError: An argument is none that can be, or is of another estimator.

    Source:
        Examination: Wang et al., "Position bias estimation for unbiased learning to rank in personal search", WSDM 2018,
        whose EM is a joint gradient here. Additive: Zhao et al., "Recommending what video to watch next", RecSys 2019,
        where the shallow tower is part of the model, and here only weighs its rows.

    Example:
        >>> import schemaflow as sf
        >>> schema = Schema.from_config({"fitted": {}, "yaml": '''
        ... version: 1
        ... features:
        ...   user_id: {dtype: int64, tags: [user, id], cardinality: 9}
        ...   item_id: {dtype: int64, tags: [item, id], cardinality: 9}
        ...   slot: {dtype: int8, tags: [position], cardinality: 4}
        ...   click: {dtype: int8, tags: [target, binary], value: 1}
        ... '''})
        >>> term = PositionDebiasing()
        >>> model = sf.TwoTowerModel(schema, keras.layers.Dense(2), debiasing=[term])
        >>> term.examination().tolist()  # before any training
        [1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        estimator: str = "examination",
        target: str | None = None,
        propensities: str | Sequence[float] | None = None,
        clip: float = 10.0,
        first: int = 1,
        block: keras.layers.Layer | None = None,
        dropout: float = 0.1,
        name: str = "position",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, autocast=False, **kwargs)  # small probabilities do not fit half precision
        self.estimator, self.label, self.first, self.dropout = estimator, target, first, dropout
        self.clip, self.block = check_clip(clip), check_block(block)
        if propensities is None or isinstance(propensities, str):
            self.propensities: str | list[float] | None = propensities
        else:
            self.propensities = [float(it) for it in propensities]
        if problems := self._problems():
            raise ConfigError(*problems)
        self._loss = keras.metrics.Mean(name=f"{name}/loss")
        self._share = EffectiveShare(name=f"{name}/effective_share")
        self._generator = keras.random.SeedGenerator() if estimator == "additive" else None
        self._warned = False

    def _problems(self) -> list[str]:
        estimator, given, problems = self.estimator, self.estimator == "given", []
        if estimator not in ESTIMATORS:
            hint = suggest(str(estimator), ESTIMATORS)
            problems.append(f'unknown estimator "{estimator}"{hint} (known: {", ".join(ESTIMATORS)})')
        elif given != (self.propensities is not None):
            problems.append('propensities are of the estimator "given", which needs them: give both or neither')
        elif given and not (self.label is None and self.block is None):
            problems.append(
                'the estimator "given" estimates nothing, so it has no use for a target or a block: leave them out'
            )
        if isinstance(self.propensities, list) and not (
            self.propensities and all(0 < it <= 1 for it in self.propensities)
        ):
            problems.append(f"propensities are {self.propensities}; expected numbers above 0 and up to 1")
        if type(self.first) is not int or self.first < 0:
            problems.append(f"first is {self.first!r}; expected an integer of at least 0")
        if not _is_share(self.dropout):
            problems.append(f"dropout is {self.dropout!r}; expected a share of at least 0 and below 1")
        return problems

    # -- what it reads --------------------------------------------------------------------------------------------

    def bind(self, schema: Schema, sides: Sides) -> Sequence[Feature]:
        """Take the features from a schema, and return them: the position, the click, those tagged bias; or the propensity.

        Raises:
            SchemaError: One is missing or cannot be used; the message names the feature to add.
        """
        if isinstance(self.propensities, str):
            self.propensity = _number_a_row(schema, self.propensities)
            return (self.propensity,)
        self.position = _position_of(schema)
        if isinstance(self.propensities, list):
            self.positions = len(self.propensities)
            return (self.position,)
        if self.position.cardinality is None or self.position.cardinality <= self.first:
            raise SchemaError(
                f'feature "{self.position.name}" is a position whose cardinality is {self.position.cardinality};'
                f' say how many positions are told apart, from 0 on: "cardinality: {self.first + 10}" ends with'
                f" {self.first + 9}, which stands for all beyond"
            )
        self.positions = self.position.cardinality - self.first
        self.click = _click_of(schema, self.label)
        self.label = self.click.name
        biases = [it for it in schema if it.has(Tags.BIAS)]
        if biases:
            options = EmbeddingOptions(embedding_dim_default=BIAS_DIM)
            chosen = schema.select_by_name([it.name for it in biases])
            chosen.require_fitted()
            with keras.name_scope(
                self.name
            ):  # optimizers name slots after tables, and a tower's may have the same name
                tables = build_tables(chosen, options)
            self.encoder = FeatureEncoder(chosen, biases, tables, options, dtype="float32")
        return (self.position, self.click, *biases)

    def begin(self, dim: int) -> None:
        """Make the weights for vectors [batch, dim]."""
        if self.estimator == "given":
            self.built = True
            return
        # all positions begin alike, and so do all weights
        self._effects = self.add_weight(shape=(self.positions,), initializer="zeros", name="effects")
        if self.encoder is not None:
            self._shallow = keras.Sequential([MLPBlock([16], final_activation="relu"), _last("zeros")])
            self._shallow(tf.zeros((2, self.positions + self.encoder.width)))
        self._body = MLPBlock([64], final_activation="relu", dtype="float32") if self.block is None else self.block
        self._last = _last("glorot_uniform")
        self._last(self._body(tf.zeros((2, 3 * dim))))
        self.built = True

    # -- a batch --------------------------------------------------------------------------------------------------

    def debias(self, step: Step) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the rows' weights, [batch], and the loss of the estimate, a scalar; and update the metrics.

        Raises:
            tensorflow.errors.InvalidArgumentError: A position is before the first, or a propensity is not in (0, 1].
        """
        if isinstance(self.propensities, str):
            ratios, loss = 1.0 / self._propensities(step), tf.constant(0.0)
        else:
            place, shown = self._places(step.column(self.position))
            if isinstance(self.propensities, list):
                at = tf.constant(self.propensities, tf.float32)
                ratios, loss = at[0] / tf.gather(at, place), tf.constant(0.0)
            else:
                ratios, loss = self._estimated(step, place, shown)
            ratios = tf.where(shown, ratios, 1.0)
        weights = tf.stop_gradient(tf.minimum(ratios, self.clip))
        self._share.update_state(weights, step.worth)
        return weights, loss

    def _places(self, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the row of each position, [batch] int32 from 0 on, and whether there is one, [batch] bool."""
        name, values = self.position.name, tf.cast(positions, tf.int64)
        shown = values != missing_value(self.position.dtype)
        before = f'feature "{name}" is before the first position, {self.first}; correct the data, or pass first=…'
        fits = tf.debugging.Assert(tf.reduce_all(~shown | (values >= self.first)), [before])
        with tf.control_dependencies([fits] if fits is not None else []):
            place = tf.clip_by_value(values - self.first, 0, self.positions - 1)
        return tf.cast(place, tf.int32), shown

    def _propensities(self, step: Step) -> tf.Tensor:
        values = tf.cast(step.column(self.propensity), tf.float32)
        wrong = f'feature "{self.propensity.name}" is not above 0 and up to 1; a propensity is a probability'
        fits = tf.debugging.Assert(tf.reduce_all((values > 0) & (values <= 1)), [wrong])
        with tf.control_dependencies([fits] if fits is not None else []):
            return tf.identity(values)

    def _estimated(self, step: Step, place: tf.Tensor, shown: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the ratios by the examination as it is now, [batch], and the loss that it is learned by."""
        labels = tf.cast(step.column(self.click), tf.float32)
        # products of half precision overflow where their factors do not
        query, candidate = (tf.cast(tf.stop_gradient(it), tf.float32) for it in (step.query, step.candidate))
        pair = tf.concat([query, candidate, query * candidate], axis=-1)  # [batch, 3 dim]
        log_odds = tf.squeeze(self._last(self._body(pair, training=step.training)), axis=-1)
        biases = None if self.encoder is None else self.encoder(step.inputs)  # [batch, width]
        effect, of_first = self._effect(place, biases), self._effect(tf.zeros_like(place), biases)
        if self._generator is None:
            losses = examined_crossentropy(labels, effect, log_odds)
        else:
            seen = log_odds + (self._dropped(effect) if step.training else effect)
            losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, seen)
            effect, of_first = (tf.math.log_sigmoid(log_odds + it) for it in (effect, of_first))
        rows = tf.cast(shown, tf.float32)
        rows = rows if step.weights is None else rows * tf.cast(step.weights, tf.float32)
        self._loss.update_state(losses, rows)
        return tf.exp(of_first - effect), weighted_mean(losses, rows)

    def _dropped(self, effect: tf.Tensor) -> tf.Tensor:
        """Return the effects, 0 in a share `dropout` of the rows, [batch]."""
        kept = keras.random.uniform(tf.shape(effect), seed=self._generator) >= self.dropout
        return tf.where(kept, effect, 0.0)

    def _effect(self, place: tf.Tensor, biases: tf.Tensor | None) -> tf.Tensor:
        """Return the log of the examination, up to a constant, of rows [batch]; or what is added to the log odds.

        Args:
            place: [batch] int32.
            biases: [batch, width].
        """
        effect = tf.gather(self._effects.value, place)
        if biases is not None:
            shallow = self._shallow(tf.concat([tf.one_hot(place, self.positions), biases], axis=-1))
            effect += tf.squeeze(shallow, axis=-1)
        return PACE * effect if self.estimator == "additive" else -tf.nn.softplus(-PACE * effect)

    # -- what it found --------------------------------------------------------------------------------------------

    def examination(self, biases: Mapping[str, Any] | None = None) -> npt.NDArray[np.float32]:
        """Return the examination of each position from the first on, in units of the first's, [positions]; additive, the odds.

        Args:
            biases: The value of each bias feature, where there are such: {"device": "phone"}.

        Raises:
            ConfigError: A bias feature is not given, or propensities of rows are.
        """
        if isinstance(self.propensities, str):
            raise ConfigError("the propensities are those of rows, and say nothing of positions")
        if isinstance(self.propensities, list):
            return np.array(self.propensities, np.float32) / np.float32(self.propensities[0])
        place, vectors = tf.range(self.positions), None
        if self.encoder is not None:
            rows = {name: tf.repeat(tf.constant([it]), self.positions) for name, it in (biases or {}).items()}
            vectors = self.encoder(rows)
        effect = self._effect(place, vectors)
        found: npt.NDArray[np.float32] = tf.exp(effect - effect[0]).numpy()
        return found

    def settle(self, logs: Mapping[str, Any]) -> None:
        """Warn, once, where the weights leave too little of the clicks."""
        self._warned = self._warned or warn_of_collapse(self, self._share, logs)

    def get_build_config(self) -> None:
        """Return nothing: the model that binds it makes its weights."""

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the target that a schema gave."""
        return super().get_config() | {
            "estimator": self.estimator,
            "target": self.label,
            "propensities": self.propensities,
            "clip": self.clip,
            "first": self.first,
            "block": None if self.block is None else keras.saving.serialize_keras_object(self.block),
            "dropout": self.dropout,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PositionDebiasing":
        """Make the term of `get_config`."""
        block = config["block"]
        return cls(**config | {"block": None if block is None else keras.saving.deserialize_keras_object(block)})


def _last(begin: str) -> keras.layers.Dense:
    return keras.layers.Dense(1, kernel_initializer=begin, dtype="float32")


def _is_share(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < 1


def _position_of(schema: Schema) -> Feature:
    found = [it for it in schema if it.has(Tags.POSITION)]
    if len(found) != 1:
        names = " and ".join(f'"{it.name}"' for it in found) or "none"
        raise SchemaError(
            f"PositionDebiasing expects one feature tagged position, found {names}; add where each row was shown:"
            " slot: {dtype: int32, tags: [position], cardinality: <the last position + 1>}"
        )
    if found[0].dtype.startswith("float"):
        raise SchemaError(f'feature "{found[0].name}" is a position of dtype {found[0].dtype}; use an integer dtype')
    return found[0]


def _click_of(schema: Schema, name: str | None) -> Feature:
    if name is not None:
        found = [schema[name]]
        if not found[0].has(Tags.BINARY):
            raise SchemaError(
                f'PositionDebiasing: feature "{name}" is not tagged binary; a click is 0 or 1: tag it [target, binary]'
            )
    else:
        found = [it for it in schema if it.kind == "value" and it.has(Tags.BINARY)]
    if len(found) != 1:
        names = " and ".join(f'"{it.name}"' for it in found) or "none"
        hint = (
            'name the click: PositionDebiasing(target="…")'
            if found
            else "add click: {dtype: int8, tags: [target, binary], value: 1}"
        )
        raise SchemaError(f"PositionDebiasing expects one feature tagged target and binary, found {names}; {hint}")
    return found[0]


def _number_a_row(schema: Schema, name: str) -> Feature:
    feature = schema[name]
    if feature.kind != "value" or feature.dtype == "string":
        raise SchemaError(
            f'PositionDebiasing: feature "{name}" is {feature.kind} of dtype {feature.dtype}; expected a probability that is'
            " kept out of the towers: {dtype: float32, tags: []}"
        )
    return feature
