"""The second stage: what it computes, what it learns from, and what is served of it."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

import schemaflow as sf
from schemaflow import workflows
from schemaflow.config import TaskConfig, TowersConfig
from schemaflow.errors import ConfigError, SchemaError
from schemaflow.schema.feature import Feature, encoded_name
from schemaflow.schema.sides import sides_of
from schemaflow.tasks import Ranker

USERS, ITEMS, KEPT = 20, 30, 8
IDS = (
    sf.Feature(name="user", dtype="int64", tags=("user", "id"), cardinality=USERS),
    sf.Feature(name="age", dtype="float32", tags=("user", "continuous")),
    sf.Feature(name="item", dtype="int64", tags=("item", "id"), cardinality=ITEMS),
    sf.Feature(name="year", dtype="int32", tags=("item", "filter")),
)
CLICK = sf.Feature(name="click", dtype="int8", tags=("target", "binary"), value=1)
BOUGHT = sf.Feature(name="bought", dtype="int8", tags=("target", "binary"), value=5)
TAUGHT = sf.Feature(name="click_teacher", dtype="float32", tags=("teacher",))
CATALOGUE = {"item": list(range(ITEMS)), "year": [1990 + it % 10 for it in range(ITEMS)]}
RNG = np.random.default_rng(5)
BOTH = [sf.LightRanker, sf.MixtureOfLogits]


def log_of(rows: int = 2000) -> dict[str, np.ndarray]:
    """Users click items of their own parity, and buy some of them."""
    user, item = RNG.integers(USERS, size=rows), RNG.integers(ITEMS, size=rows)
    click = RNG.random(rows) < np.where(user % 2 == item % 2, 0.8, 0.1)
    bought = click & (RNG.random(rows) < 0.3)
    age = (user / USERS).astype(np.float32)
    taught = np.where(user % 2 == item % 2, 1.4, -2.2).astype(np.float32)
    return {"user": user, "age": age, "item": item, "click": click.astype(np.int8), "bought": bought.astype(np.int8),
            "click_teacher": taught}  # fmt: skip


LOG = log_of()
ASKED = {"user": np.arange(USERS), "age": (np.arange(USERS) / USERS).astype(np.float32)}


def model_of(*targets: Feature, ranker: Ranker | None, **arguments: Any) -> sf.TwoTowerModel:
    keras.utils.set_random_seed(2)
    tasks = [sf.RetrievalTask(), *([] if ranker is None else [ranker])]
    options = sf.EmbeddingOptions(embedding_dim_default=4, embeddings_initializers="random_normal")
    model = sf.TwoTowerModel(
        sf.Schema((*IDS, *targets)), sf.MLPBlock([4]), embedding_options=options, prediction_tasks=tasks, correction=None,
        **arguments,
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(0.05))
    return model


def batch_of(columns: dict[str, Any]) -> dict[str, tf.Tensor]:
    return {encoded_name(name): tf.constant(values) for name, values in columns.items()}


def step_loss(model: sf.TwoTowerModel, columns: dict[str, Any], weights: Any = None) -> float:
    """The ranker's loss of a batch."""
    batch = batch_of(columns)
    model.encode_candidates()
    return float(model.ranker.loss_in(model._step(batch, model(batch, training=True), weights, True)))


def entropy(labels: Any, probabilities: Any) -> Any:
    return -labels * np.log(probabilities) - (1 - labels) * np.log(1 - probabilities)


@pytest.fixture(scope="module")
def trained() -> sf.TwoTowerModel:
    model = model_of(CLICK, BOUGHT, ranker=sf.LightRanker(num_retrieved=KEPT, random=6), candidates=CATALOGUE)
    model.fit(LOG, batch_size=200, epochs=4, verbose=0)
    return model


@pytest.fixture(scope="module")
def recommender(trained: sf.TwoTowerModel, tmp_path_factory: pytest.TempPathFactory) -> sf.Recommender:
    """Of a bundle to which a half of the items was added, which are ranked as the others are."""
    half, rest = ({name: it[part] for name, it in CATALOGUE.items()} for part in (slice(15), slice(15, None)))
    return trained.export(tmp_path_factory.mktemp("ranker") / "bundle", half, k=3).add_items(rest)


# -- what it computes -------------------------------------------------------------------------------------------------


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max())
    return shares / shares.sum()


def test_the_light_ranker_is_its_formula() -> None:
    ranker = sf.LightRanker(["a", "b"], block=keras.layers.Identity(), num_query_vectors=2)
    inputs, query, candidates = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3), (2, 4), (2, 5, 4)))
    found = ranker(inputs, query, candidates).numpy()
    head = ranker._head
    vectors = (inputs @ head._vectors.kernel.numpy() + head._vectors.bias.numpy()).reshape(2, 2, 4)
    for row in range(2):
        for place in range(5):
            item = candidates[row, place]
            dots = vectors[row] @ item
            chosen = softmax(dots) @ vectors[row]
            pair = np.concatenate([item, chosen, item * chosen, dots, [query[row] @ item]])
            logits = pair @ head._last.kernel.numpy() + head._last.bias.numpy()
            assert found[row, place] == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_the_mixture_is_its_formula() -> None:
    ranker = sf.MixtureOfLogits("a", num_query_vectors=2, num_item_vectors=3, dim=5, hidden=16, temperature=0.2)
    inputs, query, candidates = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3), (2, 4), (2, 5, 4)))
    found = ranker(inputs, query, candidates).numpy()
    head = ranker._head
    for row in range(2):
        for place in range(5):
            user, item = inputs[row : row + 1], candidates[row, place][np.newaxis]
            f, g = head._query(user).numpy().reshape(2, 5), head._item(item).numpy().reshape(3, 5)
            f, g = (it / np.maximum(np.linalg.norm(it, axis=1, keepdims=True), 1e-6) for it in (f, g))
            cosines = [it @ other for it in f for other in g]
            logits = np.array([*(it / 0.2 for it in cosines), query[row] @ item[0]], np.float32)
            gates = (head._query_gate(user) * head._item_gate(item) + head._pair_gate(logits[np.newaxis])).numpy()[0]
            logit = softmax(gates) @ logits
            assert found[row, place, 0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


def test_the_score_is_of_probabilities_and_values_not_of_logits() -> None:
    """Logits 9 and -1 would be worth more than 2 and 0; the probabilities are worth less."""
    ranker = sf.LightRanker(["click", "bought"], block=keras.layers.Identity(), num_query_vectors=1)
    ranker.bind(sf.Schema((*IDS, CLICK, BOUGHT)), sides_of(sf.Schema((*IDS, CLICK, BOUGHT))))
    zeros = tf.zeros((1, 1))
    ranker(zeros, zeros, tf.zeros((1, 2, 1)))
    kernel = np.zeros((5, 2), np.float32)
    kernel[0] = [9, -1]  # of a candidate [1]
    kernel[2] = 0
    ranker._head._last.set_weights([kernel, np.zeros(2, np.float32)])
    candidates = tf.constant([[[1.0], [0.0]]])
    one, two = (1 / (1 + np.exp([-9.0, 1.0]))), np.array([0.5, 0.5])
    expected = [one @ [1, 5], two @ [1, 5]]
    assert expected[0] < expected[1]
    assert ranker.scores(zeros, zeros, candidates).numpy()[0] == pytest.approx(expected, rel=1e-5)


def test_targets_without_a_value_count_alike_alone_and_for_nothing_beside_others() -> None:
    free = CLICK.model_copy(update={"value": None})
    for features, targets, values in [
        ((free,), ["click"], [1.0]),
        ((free, BOUGHT), ["click", "bought"], [0.0, 5.0]),
        ((free, BOUGHT), None, [5.0]),
        ((CLICK, BOUGHT), None, [1.0, 5.0]),
    ]:
        schema, ranker = sf.Schema((*IDS, *features)), sf.LightRanker(targets)
        ranker.bind(schema, sides_of(schema))
        assert ranker.values == values


# -- what it learns from ----------------------------------------------------------------------------------------------

ROWS = {name: values[:12] for name, values in LOG.items()}


def told(model: sf.TwoTowerModel) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of clicks: of the rows of the log, [12], and of each row's user with all items, [12, items]."""
    rows = model.predict(ROWS, verbose=0)[f"{model.ranker.name}/click"]
    inputs, queries = model.query_inputs(ROWS), model.query_embeddings(ROWS)
    vectors = np.tile(model.candidate_embeddings(CATALOGUE), (12, 1, 1))
    return rows, model.ranker(inputs, queries, vectors).numpy()[..., 0]


@pytest.mark.parametrize("make", BOTH)
def test_the_loss_of_impressions_alone_and_the_warning_that_comes_with_it(make: Any) -> None:
    with pytest.warns(UserWarning, match="is trained on impressions alone, .* can rank it worse than the index does"):
        model = model_of(CLICK, ranker=make(random=0))
    rows, _ = told(model)
    losses = entropy(ROWS["click"], rows)
    assert step_loss(model, ROWS) == pytest.approx(losses.mean(), rel=1e-4)
    weights = np.arange(12, dtype=np.float32)
    assert step_loss(model, ROWS, tf.constant(weights)) == pytest.approx(weights @ losses / weights.sum(), rel=1e-4)


def test_items_that_were_not_shown_count_as_refused_but_the_rows_own_and_known_positives() -> None:
    """With all items among the nearest, nothing is left to chance."""
    known = {"user": ROWS["user"][:1], "item": [(ROWS["item"][0] + 1) % ITEMS], "age": [0.0], "click": [1]}
    model = model_of(CLICK, ranker=sf.LightRanker(random=0, hard=ITEMS), candidates=CATALOGUE, known_positives=known)
    rows, everything = told(model)
    counts = np.ones((12, ITEMS), bool)
    counts[np.arange(12), ROWS["item"]] = False
    counts[ROWS["user"] == known["user"][0], known["item"][0]] = False
    expected = entropy(ROWS["click"], rows).mean() + entropy(0, everything)[counts].mean()
    assert step_loss(model, ROWS) == pytest.approx(expected, rel=1e-4)


def by_parity(queries: Any, items: Any) -> Any:
    """Log odds; nothing is said of item 3."""
    alike = queries["user"][:, np.newaxis] % 2 == items["item"] % 2
    return np.where(items["item"] == 3, np.nan, np.where(alike, 2.0, -1.0))


def test_a_teacher_tells_of_what_was_shown_and_of_what_was_not() -> None:
    columns = ROWS | {"item": np.array([3, *ROWS["item"][1:]])}
    for told_as, of in [(False, by_parity), (True, lambda *it: 1 / (1 + np.exp(-by_parity(*it))))]:
        ranker = sf.LightRanker(random=0, hard=ITEMS, teacher=of, probabilities=told_as)
        model = model_of(CLICK, ranker=ranker, candidates=CATALOGUE)
        rows = model.predict(columns, verbose=0)["light_ranker/click"]
        everything = told(model)[1]
        odds = by_parity({"user": columns["user"]}, {"item": np.tile(np.arange(ITEMS), (12, 1))})
        labels = 1 / (1 + np.exp(-odds))
        own = labels[np.arange(12), columns["item"]]
        own[0] = columns["click"][0]  # of item 3 the label is all that is known
        others = np.delete(entropy(labels, everything), 3, axis=1)  # and where it was not shown, nothing
        expected = entropy(own, rows).mean() + others.mean()
        assert step_loss(model, columns) == pytest.approx(expected, rel=1e-4)
    wrong = model_of(CLICK, ranker=sf.LightRanker(teacher=by_parity, probabilities=True), candidates=CATALOGUE)
    with pytest.raises(tf.errors.InvalidArgumentError, match='the teacher of "click" gives what is no probability'):
        step_loss(wrong, ROWS)


def odd(_: Any, items: Any) -> Any:
    return tf.cast(items["item"] % 2, tf.float32)


@pytest.mark.filterwarnings("ignore:.*impressions alone")
@pytest.mark.parametrize(
    "make",
    [
        lambda teacher: sf.LightRanker(["click"], teacher=teacher, random=0, name="task"),
        lambda teacher: sf.DistillationTask(teacher, name="task"),
        lambda teacher: sf.RewardAlignmentTask(teacher, model_of(CLICK, ranker=None), name="task"),
    ],
    ids=["ranker", "distillation", "alignment"],
)
def test_a_python_function_is_not_compiled_by_xla(make: Any) -> None:
    model = model_of(CLICK, ranker=make(odd))
    with pytest.raises(
        ConfigError, match=r'the task "task" asks a Python function, which XLA cannot .* leave jit_compile out'
    ):
        model.compile(jit_compile=True)
    assert not model.tasks[1].supports_jit  # so that beside a GPU "auto" leaves it off
    model.compile(jit_compile="auto")
    assert not model.tasks[0].calls_python


def test_a_function_of_tensors_may_be_compiled_by_xla() -> None:
    teacher = sf.Scorer(odd, tensors=True, features=["item"])
    ranker = sf.LightRanker(["click"], teacher=teacher, random=0)
    assert ranker.supports_jit
    assert not ranker.calls_python


def test_a_column_of_a_teacher_stands_in_for_the_labels_that_it_knows() -> None:
    with pytest.warns(UserWarning, match="impressions alone"):
        model = model_of(CLICK, TAUGHT, ranker=sf.LightRanker(random=0, teacher="click_teacher"))
    columns = ROWS | {"click_teacher": np.array([np.nan, *ROWS["click_teacher"][1:]])}
    labels = 1 / (1 + np.exp(-columns["click_teacher"]))
    labels[0] = columns["click"][0]
    assert step_loss(model, columns) == pytest.approx(entropy(labels, told(model)[0]).mean(), rel=1e-4)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(("train_towers", "train_score"), [(True, False), (False, False), (True, True)])
def test_gradients_stop_where_it_is_said(make: Any, train_towers: bool, train_score: bool) -> None:
    ranker = make("click", train_towers=train_towers, train_score=train_score)
    inputs, query, candidates = (
        tf.Variable(RNG.normal(size=it), dtype=tf.float32) for it in ((2, 3), (2, 4), (2, 5, 4))
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(ranker.logits(inputs, query, candidates))
    of_inputs, of_query, of_candidates = tape.gradient(loss, [inputs, query, candidates])
    assert (of_inputs is not None) == train_towers
    assert (of_candidates is not None) == train_towers
    assert (of_query is not None) == train_score  # the query's vector enters through the score alone


def test_it_learns_beside_the_retrieval_and_tells_of_each_target(trained: sf.TwoTowerModel) -> None:
    name = trained.ranker.name
    found = trained.evaluate(LOG, return_dict=True, verbose=0)
    assert {f"{name}/loss", f"{name}/click/loss", f"{name}/click/auc", f"{name}/bought/auc"} <= found.keys()
    assert found[f"{name}/click/auc"] > 0.75
    told = trained.predict(LOG, verbose=0)
    clicks, bought = told[f"{name}/click"], told[f"{name}/bought"]
    assert told[name] == pytest.approx(clicks + 5 * bought, rel=1e-5)
    alike = LOG["user"] % 2 == LOG["item"] % 2
    assert clicks[alike].mean() > 2 * clicks[~alike].mean()
    assert found[f"{name}/click/loss"] == pytest.approx(entropy(LOG["click"], clicks).mean(), rel=1e-4)


def test_one_row_trains_and_labels_that_are_none_are_refused() -> None:
    model = model_of(CLICK, ranker=sf.LightRanker(random=2), candidates=CATALOGUE)
    one = {name: values[:1] for name, values in LOG.items()}
    assert np.isfinite(model.fit(one, batch_size=1, verbose=0).history["loss"][0])
    for label, message in [(2, "a label is neither 0 nor 1"), (None, 'feature "click" is missing; fill it in')]:
        with pytest.raises(Exception, match=message):
            model.fit(one | {"click": [label]}, verbose=0) if label is None else step_loss(
                model, one | {"click": [label]}
            )


def test_a_saved_ranker_ranks_and_trains_on(trained: sf.TwoTowerModel, tmp_path: Path) -> None:
    trained.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    expected, found = trained.predict(LOG, verbose=0), again.predict(LOG, verbose=0)
    assert expected.keys() == found.keys()
    for name in expected:
        assert np.array_equal(expected[name], found[name])
    assert again.ranker.get_config() == trained.ranker.get_config()
    assert f"{again.ranker.name}/bought/auc" in again.fit(LOG, batch_size=200, verbose=0).history


@keras.saving.register_keras_serializable("schemaflow-tests")
def registered(queries: Any, items: Any) -> Any:
    return by_parity(queries, items)


def test_teachers_and_blocks_are_kept_in_the_config() -> None:
    ranker = sf.LightRanker(
        ["a", "b"], sf.MLPBlock([3]), teacher={"a": registered, "b": "b_teacher"}, probabilities=True
    )
    again = sf.LightRanker.from_config(ranker.get_config())
    assert again.get_config() == ranker.get_config()
    assert again.teacher["a"].function is registered
    assert (again.teacher["b"], again.block.dimensions, again.random) == ("b_teacher", [3], 32)
    unnamed = sf.LightRanker(["a", "b"], teacher={"a": by_parity, "b": "b_teacher"})
    grown = sf.LightRanker.from_config(unnamed.get_config())  # of a function that is not registered its name is kept
    assert grown.teacher["a"].function is None
    grown.continue_from(unnamed)
    assert grown.teacher["a"].function is by_parity


def test_rankers_that_cannot_be() -> None:
    plain, rated = sf.Schema(IDS), sf.Feature(name="stars", dtype="float32", tags=("target", "regression"), value=1)
    many = sf.Schema((*IDS, CLICK, BOUGHT, rated))

    def bind(schema: sf.Schema, **arguments: Any) -> None:
        sf.LightRanker(**arguments).bind(schema, sides_of(schema))

    for error, message, build in [
        (ConfigError, "num_retrieved is 0", lambda: sf.LightRanker(num_retrieved=0)),
        (ConfigError, "random is -1", lambda: sf.MixtureOfLogits(random=-1)),
        (ConfigError, "num_query_vectors is 0", lambda: sf.LightRanker(num_query_vectors=0)),
        (ConfigError, "hidden is 2.5", lambda: sf.MixtureOfLogits(hidden=2.5)),
        (ConfigError, "the temperature is 0", lambda: sf.MixtureOfLogits(temperature=0)),
        (ConfigError, "train_towers is 1", lambda: sf.LightRanker(train_towers=1)),
        (ConfigError, "block is 64", lambda: sf.LightRanker(block=64)),
        (ConfigError, 'cannot be named "score"', lambda: sf.LightRanker(name="score")),
        (ConfigError, "each once", lambda: sf.LightRanker(["click", "click"])),
        (ConfigError, "the scorer is 3", lambda: sf.LightRanker(teacher=3)),
        (SchemaError, "tagged binary and have a value, and found none", lambda: bind(plain)),
        (SchemaError, '"stars" cannot be one of the targets', lambda: bind(many, targets=["stars"])),
        (SchemaError, 'no feature is tagged so; add it to the schema: "t: {dtype', lambda: bind(many, targets="click", teacher="t")),
        (ConfigError, "one teacher for the targets click, bought", lambda: bind(many, teacher=by_parity)),
        (ConfigError, 'a teacher of "stars"; expected one of click, bought', lambda: bind(many, teacher={"stars": by_parity})),
        (ConfigError, "LightRanker and MixtureOfLogits; expected one", lambda: sf.TwoTowerModel(
            many, sf.MLPBlock([2]), prediction_tasks=[sf.LightRanker(), sf.MixtureOfLogits()])),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            build()
    with pytest.raises(ConfigError, match="knows no targets yet"):
        sf.LightRanker()(tf.zeros((1, 2)), tf.zeros((1, 2)), tf.zeros((1, 1, 2)))


def test_run_files_name_rankers() -> None:
    said = TaskConfig(kind="light-ranker", dimensions=[6], num_retrieved=50, loss_weight=0.5)
    made = workflows._task(TowersConfig(), said)
    assert (type(made), made.block.dimensions, made.num_retrieved) == (sf.LightRanker, [6], 50)
    assert made.loss_weight == 0.5
    mixture = workflows._task(TowersConfig(), TaskConfig(kind="mixture-of-logits"))
    assert (type(mixture), mixture.num_retrieved) == (sf.MixtureOfLogits, 100)
    for keys, message in [
        (
            {"kind": "mixture-of-logits", "dimensions": [6]},
            'task "mixture-of-logits" has no "dimensions"; its keys are kind, loss_weight, num_retrieved',
        ),
        ({"kind": "regression", "num_retrieved": 5}, 'the task "regression" has no "num_retrieved"'),
    ]:
        with pytest.raises(ValueError, match=message):
            TaskConfig(**keys)


def test_no_warning_where_items_are_seen_that_were_not_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of(CLICK, ranker=sf.LightRanker())


# -- what is served of it ---------------------------------------------------------------------------------------------


def served(model: sf.TwoTowerModel, k: int, fetched: int = KEPT, may: Any = lambda *_: True) -> list[list[int]]:
    """Rank in two stages, in NumPy but for the ranker's own scores."""
    inputs, queries, vectors = (
        model.query_inputs(ASKED),
        model.query_embeddings(ASKED),
        model.candidate_embeddings(CATALOGUE),
    )
    scores = model.ranker.scores(inputs, queries, np.tile(vectors, (USERS, 1, 1))).numpy()  # [users, items]
    found = []
    for user in range(USERS):
        order = [it for it in np.argsort(-(vectors @ queries[user])) if may(user, it)][:fetched]
        found.append(sorted(map(int, order), key=lambda it: -scores[user, it])[:k])
    return found


def test_what_the_index_fetched_comes_back_in_the_rankers_order(
    trained: sf.TwoTowerModel, recommender: sf.Recommender
) -> None:
    items = served(trained, 3)
    found = recommender.recommend(ASKED)
    assert found.identifiers == items
    told = trained.predict({"item": [it[0] for it in items], **ASKED}, verbose=0)["light_ranker"]
    assert [it[0] for it in found.scores] == pytest.approx(told, abs=1e-5)
    alone = trained.to_index(CATALOGUE)(trained.query_embeddings(ASKED), k=3)[1].numpy().tolist()
    assert items != alone
    assert recommender.num_retrieved == KEPT
    more = recommender.recommend(ASKED, k=20)  # beyond what would be fetched, so many are
    assert more.identifiers == served(trained, 20, fetched=20)
    assert [len(it) for it in recommender.recommend(ASKED, k=99).identifiers] == [ITEMS] * USERS


def test_restrictions_hold_in_two_stages(trained: sf.TwoTowerModel, recommender: sf.Recommender) -> None:
    best = served(trained, 3)
    found = recommender.recommend(ASKED, exclude=best)
    assert found.identifiers == served(trained, 3, may=lambda user, item: item not in best[user])
    found = recommender.recommend(ASKED, allow=[1, 2, 17, 29, 4])
    assert found.identifiers == served(trained, 3, may=lambda _, item: item in (1, 2, 17, 29, 4))
    found = recommender.recommend(ASKED, where={"year": {">=": 1997}}, exclude=[[it[0]] for it in best])
    expected = served(trained, 3, may=lambda user, item: item % 10 >= 7 and item != best[user][0])
    assert found.identifiers == expected
    assert recommender.recommend(ASKED, allow=[]).identifiers == [[]] * USERS
    few = recommender.recommend(ASKED, allow=[5, 6], k=4)
    assert [sorted(it) for it in few.identifiers] == [[5, 6]] * USERS
    assert np.isfinite(few.scores).all()


def test_the_default_signature_ranks_in_two_stages_and_similar_items_in_one(
    trained: sf.TwoTowerModel, recommender: sf.Recommender
) -> None:
    raw = {"user": tf.constant(ASKED["user"]), "age": tf.constant(ASKED["age"])}
    answer = recommender.call("serving_default", **raw)
    assert answer["identifiers"].numpy().tolist() == served(trained, 3)
    vectors = trained.candidate_embeddings(CATALOGUE)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [it for it in np.argsort(-(vectors @ vectors[4])).tolist() if it != 4][:3]
    assert recommender.similar_items([4]).identifiers == [expected]


def test_a_fresh_process_without_the_library_answers_the_same(recommender: sf.Recommender) -> None:
    code = (
        "import sys, tensorflow as tf\n"
        "served = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "said = served(user=tf.range(20, dtype=tf.int64), age=tf.range(20, dtype=tf.float32) / 20)\n"
        "print(said['identifiers'].numpy().tolist()); assert 'schemaflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(recommender.path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(recommender.recommend(ASKED).identifiers)


def test_a_mixture_learns_is_saved_and_served_alike(tmp_path: Path) -> None:
    model = model_of(CLICK, ranker=sf.MixtureOfLogits(num_retrieved=KEPT, random=6), candidates=CATALOGUE)
    model.fit(LOG, batch_size=200, epochs=10, verbose=0)
    clicks = model.predict(LOG, verbose=0)["mixture_of_logits/click"]
    alike = LOG["user"] % 2 == LOG["item"] % 2
    assert clicks[alike].mean() > 2 * clicks[~alike].mean()
    model.save(tmp_path / "it.keras")
    again = keras.saving.load_model(tmp_path / "it.keras")
    assert again.export(tmp_path / "bundle", CATALOGUE, k=3).recommend(ASKED).identifiers == served(model, 3)


def test_queries_of_several_vectors_are_ranked_too(tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    tower = keras.Sequential([keras.layers.Dense(8), keras.layers.Reshape((2, 4))])
    model = sf.TwoTowerModel(
        sf.Schema((*IDS, CLICK)), tower, sf.MLPBlock([4]), correction=None, candidates=CATALOGUE,
        prediction_tasks=[sf.RetrievalTask(), sf.LightRanker(num_retrieved=KEPT, random=2, train_score=True)],
    )  # fmt: skip
    model.compile("adam")
    model.fit(LOG, batch_size=500, verbose=0)
    inputs, queries, vectors = (
        model.query_inputs(ASKED),
        model.query_embeddings(ASKED),
        model.candidate_embeddings(CATALOGUE),
    )
    near = np.argsort(-(queries @ vectors.T).max(axis=1), axis=1)[:, :KEPT]
    scores = model.ranker.scores(inputs, queries, vectors[near]).numpy()
    expected = np.take_along_axis(near, np.argsort(-scores, axis=1), axis=1)[:, :3].tolist()
    assert model.export(tmp_path / "bundle", CATALOGUE, k=3).recommend(ASKED).identifiers == expected
    report = sf.evaluate(model, LOG, CATALOGUE, ks=(3,), rerank=True)
    hits = np.array([item in expected[user] for user, item in zip(LOG["user"], LOG["item"], strict=True)])
    assert report["hit_rate@3"] == pytest.approx(hits[LOG["click"] == 1].mean())


def test_reports_say_what_they_rank_by(trained: sf.TwoTowerModel, recommender: sf.Recommender) -> None:
    alone = sf.evaluate(trained, LOG, CATALOGUE, ks=(1, 3))
    assert alone.protocol["ranked by"] == "retrieval"
    report = sf.evaluate(trained, LOG, CATALOGUE, ks=(1, 3), rerank=True)
    assert report.protocol["ranked by"] == f"{trained.ranker.name}, of the retrieval's first {KEPT}"
    found = recommender.recommend({"user": LOG["user"], "age": LOG["age"]}, k=3).identifiers
    clicked = LOG["click"] == 1
    hits = [item in row for item, row in zip(LOG["item"], found, strict=True)]
    assert report["hit_rate@3"] == pytest.approx(np.array(hits)[clicked].mean())
    assert report["hit_rate@3"] != alone["hit_rate@3"]
    seen = {name: values[:200] for name, values in LOG.items()}
    report = sf.evaluate(trained, LOG, CATALOGUE, ks=(3,), rerank=True, exclude=seen)
    of_user = [seen["item"][seen["user"] == it].tolist() for it in range(USERS)]
    found = recommender.recommend(ASKED, k=3, exclude=of_user).identifiers
    left = [(u, i) for u, i in zip(LOG["user"][clicked], LOG["item"][clicked], strict=True) if i not in of_user[u]]
    assert report["hit_rate@3"] == pytest.approx(np.mean([i in found[u] for u, i in left]))


def test_what_cannot_be_ranked_anew_is_refused(trained: sf.TwoTowerModel) -> None:
    with pytest.raises(ConfigError, match="the model has no ranker: add LightRanker"):
        sf.evaluate(model_of(CLICK, ranker=None), LOG, CATALOGUE, ks=(3,), rerank=True)
    with pytest.raises(ConfigError, match="the cut-off 9 is beyond the 8 items"):
        sf.evaluate(trained, LOG, CATALOGUE, ks=(3, 9), rerank=True)


# -- what it is for ---------------------------------------------------------------------------------------------------


def test_a_teacher_of_what_was_shown_and_what_was_not_makes_a_better_ranking(tmp_path: Path) -> None:
    """A small form of benchmarks/systems/ranker.py, which has three seeds and the other ways to train."""
    world = sf.datasets.simulate(tmp_path, sf.datasets.Choices(clicks=20), users=400, items=150, cross=1.5, seed=1)
    shown = pq.read_table(world.interactions)
    user, item = (world.rows(shown[name].to_pylist()) for name in ("user_id", "item_id"))
    odds = world.teacher[user, item] + world.clickbait[item] - 2
    clicks = (np.random.default_rng(1).random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(np.int8)
    users, items = (
        np.stack(pq.read_table(tmp_path / f"{side}s.parquet")[f"{side}_factors"].to_numpy())
        for side in ("user", "item")
    )
    log = {"user_factors": users[user], "item_id": shown["item_id"], "item_factors": items[item], "click": clicks}
    whole = sf.Schema.from_yaml(world.schema).select_by_name(["user_factors", "item_id", "item_factors"])
    schema = sf.Schema((*whole, CLICK)).fit(log, world.items)

    def worth(queries: Any, candidates: Any) -> Any:
        rows = np.argmax(queries["user_factors"] @ users.T - (users**2).sum(axis=1) / 2, axis=1)
        columns = world.rows(candidates["item_id"].ravel()).reshape(candidates["item_id"].shape)
        return world.teacher[rows[:, np.newaxis], columns] - 2

    keras.utils.set_random_seed(1)
    teacher = sf.Scorer(worth, features=["user_factors", "item_id"])
    model = sf.TwoTowerModel(
        schema, sf.MLPBlock([32, 16]), candidates=world.items,
        prediction_tasks=[sf.RetrievalTask(), sf.LightRanker(teacher=teacher, random=16, num_retrieved=40)],
    )  # fmt: skip
    model.compile(sf.optimizers.Adam(0.005))
    model.fit(log, batch_size=256, epochs=5, verbose=0)

    held_out = np.setdiff1d(np.arange(400), user)
    asked = {"user_factors": users[held_out]}
    queries, vectors = model.query_embeddings(asked), model.candidate_embeddings(world.items)
    near = np.argsort(-queries @ vectors.T, axis=1)[:, :40]
    scores = model.ranker.scores(model.query_inputs(asked), queries, vectors[near]).numpy()
    ranked = np.take_along_axis(near, np.argsort(-scores, axis=1), axis=1)
    true, discounts = world.relevance[held_out], 1 / np.log2(np.arange(10) + 2)
    gains = [np.take_along_axis(true, it[:, :10], axis=1) @ discounts for it in (near, ranked)]
    alone, both = (it / (-np.sort(-true, axis=1)[:, :10] @ discounts) for it in gains)
    assert both.mean() >= alone.mean() + 0.03
