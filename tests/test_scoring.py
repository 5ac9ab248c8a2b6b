"""Teachers and rewards as functions of one's own: what they are given, what they may give, and how they are saved."""

from collections.abc import Mapping
from typing import Any, cast

import keras
import numpy as np
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow.data.decode import decode
from schemaflow.data.encode import Lists
from schemaflow.data.join import read_table
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.features.catalogue import read_catalogue
from schemaflow.features.encoders import FeatureEncoder, build_tables
from schemaflow.features.tables import EmbeddingOptions
from schemaflow.items import AllItems
from schemaflow.schema.sides import sides_of
from schemaflow.schema.sources import open_source
from schemaflow.tasks import Step
from schemaflow.tasks.scoring import as_scorer
from schemaflow.tasks.shortlist import check_sizes, shortlist

SCHEMA = sf.Schema.from_config({"fitted": {}, "yaml": """
version: 1
features:
  user:   {dtype: string, tags: [user, id], vocabulary: [ann, bob]}
  age:    {dtype: float32, tags: [user, continuous], normalize: standard}
  item:   {dtype: int64, tags: [item, id], vocabulary: [70, 80, 90]}
  price:  {dtype: float64, tags: [item, continuous], normalize: min-max}
  length: {dtype: float32, tags: [item, continuous], normalize: log1p}
  genres: {dtype: string, tags: [item, categorical], list: {}, vocabulary: [new, old]}
  looks:  {dtype: float32, tags: [item, embedding], embedding: {dim: 2}}
"""})  # fmt: skip
QUERIES = {"user": np.array(["bob", "ann", "eve"], object), "age": np.array([20.0, 40.0, 60.0], np.float32)}
CANDIDATES = {
    "item": np.array([70, 80, 90]),
    "price": np.array([1.0, 5.0, 3.0]),
    "length": np.array([0.0, 10.0, 99.0], np.float32),
    "genres": [["new", "old"], [], ["old"]],
    "looks": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32),
}
FITTED = SCHEMA.fit({"user": ["ann", "bob", "ann"], "item": [70, 80, 90], "age": QUERIES["age"]}, CANDIDATES)
SIDES = sides_of(FITTED)
POSITIONS = tf.constant([[0, 1], [2, 0], [1, 1]], tf.int64)


def step_of(queries: Mapping[str, Any] = QUERIES) -> Step:
    encoder = FeatureEncoder(FITTED, SIDES.query, build_tables(FITTED, EmbeddingOptions()), EmbeddingOptions())
    items = AllItems(read_catalogue(CANDIDATES, FITTED, SIDES), lambda at, _: tf.one_hot(at, 3), 3)
    items.take(tf.eye(3))
    rest = dict.fromkeys(Step.__dataclass_fields__)
    inputs = {name: tf.constant(values) for name, values in queries.items()}
    own = items.features(tf.constant([2, 1, 0]))
    given: dict[str, Any] = {
        "items": items,
        "query": tf.zeros((len(inputs["user"]), 3)),
        "encoded_queries": lambda: encoder.encoded(inputs),
        "encoded_items": lambda: own,
    }
    return Step(**cast(Any, rest | given))


def test_a_numpy_function_is_given_the_values_of_the_data() -> None:
    seen: dict[str, Any] = {}

    def teacher(queries: Any, items: Any) -> Any:
        seen.update(queries | items)
        return items["price"] + queries["age"][:, np.newaxis]

    scorer = sf.Scorer(teacher)
    scorer.bind(FITTED, SIDES)
    step = step_of()
    scores = tf.function(lambda: scorer.scores(step, POSITIONS), autograph=False)()  # in a graph, as in training
    assert scores.numpy() == pytest.approx(np.array([[21, 25], [43, 41], [65, 65]]), abs=1e-5)
    own = tf.function(lambda: scorer.own_scores(step), autograph=False)()
    assert own.numpy() == pytest.approx([23, 45, 61], abs=1e-5)
    assert seen["item"].tolist() == [[90], [80], [70]]
    scorer.scores(step, POSITIONS)
    assert seen["user"].tolist() == ["bob", "ann", ""]  # eve is not in the vocabulary
    assert seen["age"] == pytest.approx([20, 40, 60], abs=1e-5)
    assert seen["item"].tolist() == [[70, 80], [90, 70], [80, 80]]
    assert seen["length"] == pytest.approx(np.array([[0, 10], [99, 0], [10, 10]]), rel=1e-5, abs=1e-6)
    assert [[cell.tolist() for cell in row] for row in seen["genres"]] == [
        [["new", "old"], []],
        [["old"], ["new", "old"]],
        [[], []],
    ]
    assert seen["looks"].shape == (3, 2, 2)
    assert seen["looks"][1, 0].tolist() == [5.0, 6.0]


def test_only_the_features_named_are_given() -> None:
    scorer = sf.Scorer(lambda queries, items: np.zeros((3, 2)) + len(queries) + 10 * len(items), features=["item"])
    scorer.bind(FITTED, SIDES)
    assert scorer.scores(step_of(), POSITIONS).numpy().tolist() == [[10.0, 10.0]] * 3
    wrong = sf.Scorer(len, features=["pryce"])
    with pytest.raises(SchemaError, match='"len" reads "pryce", which is no feature of a tower; did you mean "price"'):
        wrong.bind(FITTED, SIDES)


def test_a_tensor_function_is_given_what_the_model_holds_and_no_gradient_passes() -> None:
    weight = tf.Variable(2.0)

    def teacher(queries: Any, items: Any) -> Any:
        assert isinstance(items["genres"], tf.RaggedTensor)
        lengths = tf.cast(items["genres"].row_lengths(axis=2).to_tensor(), tf.float32)
        return weight * lengths + tf.reduce_sum(items["looks"], axis=2) + queries["age"][:, tf.newaxis]

    scorer = sf.Scorer(teacher, tensors=True)
    scorer.bind(FITTED, SIDES)
    with tf.GradientTape() as tape:
        scores = scorer.scores(step_of(), POSITIONS)
    deviation = np.std([20.0, 40.0, 60.0])  # ages are normalised: -20, 0 and 20 by it
    expected = np.array([[7 - 20 / deviation, 7 - 20 / deviation], [13, 7], [7 + 20 / deviation] * 2])
    assert scores.numpy() == pytest.approx(expected, abs=1e-5)
    assert tape.gradient(scores, weight) is None


def test_scores_are_checked() -> None:
    flat, infinite = (
        sf.Scorer(lambda queries, _: np.zeros(len(queries["user"])), name="flat"),
        sf.Scorer(lambda _, items: np.full(items["item"].shape, np.inf), name="infinite"),
    )
    errors = (ConfigError, tf.errors.OpError)  # at once, or from the graph
    for scorer, message in (
        (flat, r'"flat" gives the shape \(3,\); expected \(3, 2\)'),
        (infinite, '"infinite" gives'),
    ):
        scorer.bind(FITTED, SIDES)
        with pytest.raises(errors, match=message):
            scorer.scores(step_of(), POSITIONS)
    with pytest.raises(ConfigError, match=r"the scorer is 3; expected a function \(queries, items\)"):
        as_scorer(3)


@keras.saving.register_keras_serializable("schemaflow-tests")
def by_price(_: Any, items: Any) -> Any:
    return items["price"]


@keras.saving.register_keras_serializable("schemaflow-tests")
class Times:
    """A scorer with an argument."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, _: Any, items: Any) -> Any:
        return self.factor * items["price"]

    def get_config(self) -> dict[str, Any]:
        return {"factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Times":
        return cls(**config)


def test_what_is_registered_is_saved_and_of_others_the_name() -> None:
    for function in (by_price, Times(3.0)):
        again = sf.Scorer.from_config(sf.Scorer(function, features=["price"]).get_config())
        again.bind(FITTED, SIDES)
        factor = 1.0 if function is by_price else 3.0
        assert again.scores(step_of(), POSITIONS).numpy()[0] == pytest.approx([factor, 5 * factor])

    def of_mine(_: Any, items: Any) -> Any:
        return items["price"]

    again = sf.Scorer.from_config(sf.Scorer(of_mine).get_config())
    again.bind(FITTED, SIDES)
    assert again.get_config() == sf.Scorer(of_mine).get_config()
    with pytest.raises(ConfigError, match='the function "of_mine", a teacher or a reward, was not saved'):
        again.scores(step_of(), POSITIONS)
    again.function = of_mine
    assert again.scores(step_of(), POSITIONS).numpy()[0] == pytest.approx([1.0, 5.0])


def test_decoding_undoes_encoding() -> None:
    columns = read_table(open_source(CANDIDATES), FITTED, None, [it.name for it in SIDES.item])
    for name, encoded in columns.items():
        values = encoded.values if isinstance(encoded, Lists) else encoded
        expected = ["new", "old", "old"] if name == "genres" else CANDIDATES[name]
        found = decode(FITTED, FITTED[name], values)
        if name == "genres":
            assert found.tolist() == expected
        else:
            assert found == pytest.approx(np.asarray(expected), rel=1e-5, abs=1e-5)


def test_a_shortlist_holds_the_nearest_and_each_item_counts_once() -> None:
    items = step_of().items
    assert items is not None
    queries = tf.constant([[3.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    found = shortlist(items, queries, hard=2, random=40, seed=keras.random.SeedGenerator(1))
    assert found.positions.shape.as_list() == [2, 42]
    assert found.positions[:, :2].numpy().tolist() == [[0, 1], [2, 1]]
    for positions, first in zip(found.positions.numpy(), found.first.numpy(), strict=True):
        assert sorted(positions[first]) == [0, 1, 2]  # forty draws of three find them all, and each counts once
        assert all(positions.tolist().index(it) == place for place, it in enumerate(positions) if first[place])
    assert found.logits(queries, items).numpy()[0, :2].tolist() == [3.0, 2.0]
    few = shortlist(items, queries, hard=9, random=0, seed=keras.random.SeedGenerator(1))
    assert few.positions.shape.as_list() == [2, 3]  # there are no more


def test_sizes_of_shortlists_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"hard \+ random is 1; expected two candidates at least"):
        check_sizes(1, 0)
    with pytest.raises(ConfigError, match="random is -1; expected how many candidates"):
        check_sizes(3, -1)
