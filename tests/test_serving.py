"""A real server in a second process, asked over real HTTP: right and wrong requests, many at once, and a bundle swapped under load."""

import asyncio
import http.client
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import schemaflow as sf
from schemaflow.cli import app as commands
from schemaflow.errors import BundleError, ConfigError
from schemaflow.serving import ServeOptions
from schemaflow.serving.batching import Batcher, answers_of
from schemaflow.serving.bundle import ServedBundle

SCHEMA = """
version: 1
features:
  user_id: {dtype: string, tags: [user, id], vocabulary: [ann, bob, cleo]}
  age: {dtype: int32, tags: [user, continuous]}
  likes: {dtype: string, tags: [user, categorical], list: {max_length: 3}, vocabulary: [drama, comedy]}
  item_id: {dtype: string, tags: [item, id], vocabulary: learned}
  genre: {dtype: string, tags: [item, categorical, filter], vocabulary: [drama, comedy]}
  year: {dtype: int32, tags: [item, filter]}
"""
ITEMS = {
    "item_id": [f"i{it}" for it in range(40)],
    "genre": [("drama", "comedy")[it % 2] for it in range(40)],
    "year": [1980 + it for it in range(40)],
    "title": [f"<img src=x onerror=\"document.title='run'\"> Film {it} & co" for it in range(40)],
}
USERS: dict[str, list[Any]] = {"user_id": ["ann", None], "age": [1, 2], "likes": [["drama"], []]}
LIMITS = {"max_body": 20_000, "max_rows": 8, "max_k": 30, "max_list": 5, "max_exclude": 35}
WAIT = 30.0
"""Seconds that nothing here should take, however busy the machine is."""


Export = Callable[..., sf.Recommender]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Give what puts the bundle of an untrained model to a path; with names, of these features alone."""
    kept: dict[str, Path] = {}

    def exported(path: Path, seed: int, *names: str, index: Any = None) -> sf.Recommender:
        key = repr((seed, names, index and index.get_config()))
        if key not in kept:
            kept[key] = tmp_path_factory.mktemp("kept") / "bundle"
            _export(kept[key], seed, *names, index=index)
        shutil.copytree(kept[key], path.with_name("copy"))
        replace(path, path.with_name("copy"))
        return sf.Recommender.load(path)

    return exported


def _export(path: Path, seed: int, *names: str, index: Any) -> sf.Recommender:
    keras.utils.set_random_seed(seed)
    schema = sf.Schema.from_config({"fitted": {}, "yaml": SCHEMA}).fit({"item_id": ITEMS["item_id"]})
    if names:
        schema = schema.select_by_name(names)
    options = sf.EmbeddingOptions(embedding_dim_default=8, embeddings_initializers="glorot_normal")
    model = sf.TwoTowerModel(schema, sf.MLPBlock([8]), embedding_options=options, correction=None)
    return model.export(path, {name: ITEMS[name] for name in ITEMS if not names or name in names}, index=index)


class Server:
    """A server in a process of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self.log = bundle.parent / "log.txt"
        command = [sys.executable, "-m", "schemaflow.cli.app", "serve", str(bundle), "--name", "films", "--port", "0"]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen([*command, *options], stderr=log, stdout=log)
        said = until(lambda: re.search(r"running on http://127\.0\.0\.1:(\d+)", self.log.read_text("utf-8")), self.log)
        self.port = int(said[1])

    def end(self) -> None:
        """Tell it to end, and see that it ends in order."""
        self.process.terminate()
        assert self.process.wait(WAIT) == -signal.SIGTERM
        assert "Application shutdown complete" in self.log.read_text("utf-8")

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the document; text and bytes are sent as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        sent = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, sent, headers)
        answer = connection.getresponse()
        content = answer.read().decode()
        connection.close()
        kind = answer.headers["content-type"]
        self.policy = answer.headers.get("content-security-policy", "")
        return answer.status, json.loads(content) if kind == "application/json" else content

    def number(self, name: str) -> float:
        """Return one of the metrics."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics")[1], re.MULTILINE)
        assert found is not None, name
        return float(found[1])


def until(found: Callable[[], Any], log: Path) -> Any:
    """Return what is found, as soon as there is something."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if it := found():
            return it
        time.sleep(0.02)
    raise AssertionError(f"it never came; the log: {log.read_text('utf-8')}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "bundle"


@pytest.fixture(scope="module")
def recommender(served: Path, export: Export) -> sf.Recommender:
    return export(served, 1)


@pytest.fixture(scope="module")
def server(served: Path, recommender: sf.Recommender) -> Iterator[Server]:
    limits = [it for name, value in LIMITS.items() for it in (f"--{name.replace('_', '-')}", str(value))]
    it = Server(served, *limits, "--poll", "0.05", "--max-wait", "5")
    yield it
    it.end()


@pytest.fixture(scope="module")
def ids_alone(tmp_path_factory: pytest.TempPathFactory, export: Export) -> Path:
    """A bundle of two features, one for each tower."""
    path = tmp_path_factory.mktemp("alone") / "bundle"
    export(path, 3, "user_id", "item_id")
    return path


# -- what is asked by raw values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"k": 3},
        {"k": 30, "exclude": ["i3", "i4", "no such item"]},
        {"k": 5, "exclude": [["i3"], None]},
        {"allow": ["i1", "i2", "i3"], "exclude": ["i2"]},
        {"allow": [["i1"], None], "exclude": [["i1"], ["i2"]]},
        {"allow": []},
        {"k": 4, "where": {"genre": "comedy", "year": {">=": 1990, "<": 2000}}},
        {"where": {"genre": ["drama", "comedy"], "year": [1985, 1986]}},
    ],
)
def test_answers_are_those_of_the_recommender(
    asked: dict[str, Any], server: Server, recommender: sf.Recommender
) -> None:
    status, answer = server.ask("/recommend", {"features": USERS, **asked})
    expected = recommender.recommend(USERS, **asked)
    assert (status, answer["identifiers"]) == (200, expected.identifiers)
    for row, scores in zip(answer["scores"], expected.scores, strict=True):
        assert row == pytest.approx(scores, abs=1e-5)


def test_items_come_with_their_features_if_asked_for(server: Server, recommender: sf.Recommender) -> None:
    status, answer = server.ask("/recommend", {"features": USERS, "k": 2, "describe": True})
    assert status == 200
    for ids, items in zip(answer["identifiers"], answer["items"], strict=True):
        rows = [ITEMS["item_id"].index(it) for it in ids]
        assert items == [{name: values[row] for name, values in ITEMS.items()} for row in rows]
    status, answer = server.ask("/similar", {"ids": ["i7", "i8"], "k": 3, "describe": True})
    expected = recommender.similar_items(["i7", "i8"], k=3)
    assert (status, answer["identifiers"]) == (200, expected.identifiers)
    assert [[it["item_id"] for it in row] for row in answer["items"]] == expected.identifiers
    assert np.allclose(answer["scores"], expected.scores, atol=1e-5)


def of_users(**change: Any) -> dict[str, Any]:
    return {"features": {**USERS, **change}}


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/recommend", "{", 400, "the body is no JSON: "),
        ("/recommend", b"\xff", 400, "the body is no JSON: "),
        ("/recommend", "[" * 19_000, 400, "the body is no JSON: "),
        ("/recommend", [1], 422, "expected an object, received [1]"),
        ("/recommend", {}, 422, '"features" is missing'),
        ("/recommend", {"features": {}}, 422, 'feature "user_id" is missing; expected user_id, age, likes'),
        ("/recommend", {**of_users(), "kk": 3}, 422, 'unknown key "kk"; did you mean "k"?'),
        ("/recommend", {**of_users(), "k": "3"}, 422, 'k: Input should be a valid integer, received "3"'),
        ("/recommend", {**of_users(), "k": 0}, 422, "k: Input should be greater than or equal to 1, received 0"),
        ("/recommend", {**of_users(), "k": 31}, 422, "k: 31 is more than this server takes (max_k is 30)"),
        ("/recommend", of_users(Age=[1, 2]), 422, 'unknown feature "Age"; did you mean "age"?'),
        ("/recommend", of_users(age=["1", 2]), 422, 'feature "age": expected int32, received [\'1\', 2]'),
        ("/recommend", of_users(age=[1, None]), 422, 'feature "age": expected int32'),
        ("/recommend", of_users(age=[2**40, 2]), 422, "1099511627776 is beyond its range"),
        ("/recommend", of_users(age=[1]), 422, "different numbers of rows: user_id 2, age 1"),
        ("/recommend", of_users(user_id=[1, "ann"]), 422, 'feature "user_id": expected string'),
        ("/recommend", of_users(user_id="ann"), 422, "features.user_id: Input should be a valid list"),
        ("/recommend", of_users(likes=[["drama"] * 4, []]), 422, "4 values are more than its max_length of 3"),
        ("/recommend", of_users(likes=[["drama"] * 6, []]), 422, '"likes" in a row: 6 is more than this server takes (max_list'),
        ("/recommend", of_users(age=[1] * 9), 422, "rows: 9 is more than this server takes (max_rows is 8)"),
        ("/recommend", {**of_users(), "exclude": ["i1"] * 36}, 422, "ids in exclude: 36 is more than this server"),
        ("/recommend", {**of_users(), "allow": [["i1"] * 36, []]}, 422, "ids in allow: 36 is more than this server"),
        ("/recommend", {**of_users(), "exclude": [1]}, 422, "exclude holds 1; expected item ids, strings"),
        ("/recommend", {**of_users(), "exclude": [[], [], []]}, 422, "exclude holds 3 lists for 2 rows"),
        ("/recommend", {**of_users(), "where": {"gerne": "comedy"}}, 422, "gerne"),
        ("/similar", {"ids": []}, 422, "ids: List should have at least 1 item"),
        ("/similar", {"ids": ["i1"] * 9}, 422, "ids: 9 is more than this server takes (max_rows is 8)"),
        ("/similar", {"ids": ["i1", "what"]}, 422, "there is no item 'what'"),
        ("/v1/models/films:predict", {}, 400, 'either "instances" or "inputs"'),
        ("/v1/models/films:predict", {"instances": []}, 400, '"instances" is no list of rows'),
        ("/v1/models/films:predict", {"instances": [1]}, 400, "has several inputs; name them: age, likes, user_id"),
        ("/v1/models/films:predict", {"inputs": {}, "signature": "x"}, 400, 'unknown key "signature"; did you mean "signature_name"?'),
        ("/v1/models/films:predict", {"inputs": {}, "signature_name": "x"}, 400, "there is no signature 'x'; expected one of"),
        ("/v1/models/films:predict", {"inputs": {"agee": [1]}}, 400, 'unknown input "agee" of signature serving_default; did you mean "age"?'),
        ("/v1/models/films:predict", {"inputs": {"agee": [1]}}, 400, 'input "user_id" of signature serving_default is missing'),
        ("/v1/models/films:predict", {"inputs": {**USERS, "likes": [["a"], []]}}, 400, 'input "likes": its lists have the lengths 0, 1'),
        ("/v1/models/films:predict", {"inputs": {**USERS, "likes": ["a", "b"]}}, 400, "received 'a' where a list should be"),
        ("/v1/models/films:predict", {"inputs": {"user_id": ["a"], "age": [1.5], "likes": [[]]}}, 400, 'expected int32 of the shape [any], received 1.5'),
        ("/v1/models/films:predict", {"inputs": {"user_id": ["a"], "age": [1, 2], "likes": [[]]}}, 400, "different numbers of rows: age 2, likes 1, user_id 1"),
        ("/v1/models/films:predict", {"instances": [{"age": 1}, {"user_id": "a"}]}, 400, "row 1 has not the inputs of row 0"),
        ("/v1/models/films:predict", {"instances": [{"k": 1}], "signature_name": "recommend"}, 400, '"instances" cannot give k'),
        ("/v1/models/films:predict", {"inputs": {"identifiers": ["i1"], "k": 31}, "signature_name": "similar_items"}, 400, "k: 31 is more"),
        ("/v1/models/films:predict", {"inputs": {"identifiers": ["i1"], "k": 0}, "signature_name": "similar_items"}, 400, "k is 0"),
        ("/v1/models/movies:predict", {"instances": [1]}, 404, 'there is no model "movies" here; it is called "films"'),
        ("/v1/models/movies", None, 404, 'there is no model "movies" here'),
        ("/nothing", None, 404, "Not Found"),
        ("/recommend", None, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_wrong_requests_are_named(path: str, body: Any, status: int, said: str, server: Server) -> None:
    found, answer = server.ask(path, body)
    assert found == status
    assert said in answer["error"]


def test_bodies_beyond_the_limit_are_not_read(server: Server) -> None:
    status, answer = server.ask("/recommend", b" " * 20_001)
    assert (status, "more than 20000 bytes" in answer["error"]) == (413, True)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT)
    connection.request("POST", "/recommend", iter([b" " * 15_000, b" " * 15_000]), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


# -- as TensorFlow Serving is asked ------------------------------------------------------------------------------------

FULL = {"user_id": ["ann", "bob"], "age": [1, 2], "likes": [["drama", "comedy"], ["comedy", ""]]}


def test_rows_are_answered_by_rows(server: Server, recommender: sf.Recommender) -> None:
    rows = [dict(zip(FULL, row, strict=True)) for row in zip(*FULL.values(), strict=True)]
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl -d sends it
    status, answer = server.ask("/v1/models/films:predict", {"instances": rows}, **form)
    expected = recommender.recommend(FULL)
    assert (status, answer.keys()) == (200, {"predictions"})
    assert [it["identifiers"] for it in answer["predictions"]] == expected.identifiers
    assert [it["count"] for it in answer["predictions"]] == [10, 10]
    assert np.allclose([it["scores"] for it in answer["predictions"]], expected.scores, atol=1e-5)


def test_columns_are_answered_by_columns(server: Server, recommender: sf.Recommender) -> None:
    wanted = {"k": 3, "exclude": [["i1"], [""]], "allow": [[], []], "where_genre": ["comedy"], "where_year": []}
    body = {"signature_name": "recommend", "inputs": {**FULL, **wanted, "where_year_min": 1990, "where_year_max": 2010}}
    status, answer = server.ask("/v1/models/films:predict", body)
    expected = recommender.recommend(
        FULL, k=3, exclude=[["i1"], []], where={"genre": "comedy", "year": {">=": 1990, "<=": 2010}}
    )
    assert (status, answer.keys(), answer["outputs"].keys()) == (200, {"outputs"}, {"identifiers", "scores", "count"})
    assert answer["outputs"]["identifiers"] == expected.identifiers
    body["inputs"] |= {
        "exclude": [["i1", "i3"]],
        "where_genre": [],
        "where_year_min": -(2**31),
        "where_year_max": 2**31 - 1,
    }
    answer = server.ask("/v1/models/films:predict", body)[1]  # one list for all rows
    assert answer["outputs"]["identifiers"] == recommender.recommend(FULL, k=3, exclude=["i1", "i3"]).identifiers
    body = {"signature_name": "query_embedding", "inputs": FULL}
    status, answer = server.ask("/v1/models/films:predict", body)
    assert np.allclose(
        answer["outputs"], recommender.query_embeddings(FULL), atol=1e-5
    )  # the only one: without its name
    encoded = {**FULL, "user_id": [{"b64": "YW5u"}, {"b64": "Ym9i"}]}
    assert server.ask("/v1/models/films:predict", {**body, "inputs": encoded})[1] == answer
    status, answer = server.ask("/v1/models/films:predict", {**body, "inputs": {**FULL, "user_id": [{"b64": "?"}] * 2}})
    assert (status, "expected string" in answer["error"]) == (400, True)


def test_a_model_says_what_it_is(server: Server) -> None:
    state = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert server.ask("/v1/models/films") == (200, {"model_version_status": [state]})
    status, answer = server.ask("/v1/models/films/metadata")
    assert (status, answer["model_spec"]) == (200, {"name": "films", "signature_name": "", "version": "1"})
    definitions = answer["metadata"]["signature_def"]["signature_def"]
    inputs = definitions["serving_default"]["inputs"]
    shape = [it["size"] for it in inputs["likes"]["tensor_shape"]["dim"]]
    assert (inputs["age"]["dtype"], inputs["likes"]["dtype"], shape) == ("DT_INT32", "DT_STRING", ["-1", "-1"])
    assert definitions["recommend"]["inputs"]["k"]["tensor_shape"]["dim"] == []
    assert definitions["query_embedding"]["outputs"]["embedding"]["dtype"] == "DT_FLOAT"


def test_one_input_needs_no_name(ids_alone: Path, tmp_path: Path) -> None:
    shutil.copytree(ids_alone, tmp_path / "bundle")
    small = Server(tmp_path / "bundle", "--max-batch", "1")
    answer = small.ask("/v1/models/films:predict", {"instances": ["ann", "bob"]})[1]["predictions"]
    expected = sf.Recommender.load(ids_alone).recommend({"user_id": ["ann", "bob"]})
    assert [it["identifiers"] for it in answer] == expected.identifiers
    inputs = {"signature_name": "candidate_embedding", "inputs": ["i1"]}
    assert np.shape(small.ask("/v1/models/films:predict", inputs)[1]["outputs"]) == (1, 8)
    assert small.ask("/about")[1]["filters"] == []
    small.end()


# -- many at once ------------------------------------------------------------------------------------------------------


def requests(count: int) -> list[dict[str, Any]]:
    """Return requests of all sorts, of which each tenth is wrong."""
    rng = np.random.default_rng(5)
    made: list[dict[str, Any]] = []
    for number in range(count):
        rows = int(rng.integers(1, 4))
        features = {
            "user_id": rng.choice(["ann", "bob", "cleo", "dora"], rows).tolist(),
            "age": rng.integers(0, 9, rows).tolist(),
            "likes": [["drama", "comedy"][: rng.integers(3)] for _ in range(rows)],
        }
        request: dict[str, Any] = {"features": features, "k": int(rng.integers(1, 12))}
        if number % 3 == 0:
            request["exclude"] = rng.choice(ITEMS["item_id"], 5).tolist()
        if number % 4 == 0:
            request["where"] = {"genre": "comedy"}
        if number % 7 == 0:
            request["allow"] = ["i1", "i2", "i3", "i4"]
        if number % 10 == 9:
            features["age"][0] = "old"
        made.append(request)
    return made


def test_answers_under_load_are_those_alone(server: Server, recommender: sf.Recommender) -> None:
    asked, name = requests(120), "schemaflow_batch_rows"
    rows, calls = server.number(f"{name}_sum"), server.number(f"{name}_count")
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda it: server.ask("/recommend", it), asked))
    for number, ((status, answer), request) in enumerate(zip(answers, asked, strict=True)):
        if number % 10 == 9:
            assert (status, 'feature "age"' in answer["error"]) == (422, True)
            continue
        alone = recommender.recommend(**request)
        assert (status, answer["identifiers"]) == (200, alone.identifiers)
        for scores, expected in zip(answer["scores"], alone.scores, strict=True):
            assert scores == pytest.approx(expected, abs=1e-5)
    assert server.number(f"{name}_sum") - rows == sum(len(it["features"]["age"]) for it in asked)
    assert server.number(f"{name}_count") - calls < len(asked)  # some came along with others


def test_requests_are_counted(server: Server) -> None:
    name = 'schemaflow_requests_total{path="/similar",status="200"}'
    assert server.ask("/similar", {"ids": ["i1"]})[0] == 200
    before = server.number(name)
    assert server.ask("/similar", {"ids": ["i1"]})[0] == 200
    assert server.number(name) == before + 1
    assert server.number('schemaflow_request_seconds_count{path="/similar"}') >= before + 1
    made_up = server.ask("/made/up")[0]
    assert (made_up, "/made/up" in server.ask("/metrics")[1]) == (404, False)


def test_questions_of_a_group_are_answered_together_up_to_the_limit() -> None:
    """While the first is answered, the others wait; then they go by groups, in the order they came, 4 rows at a time."""
    calls: list[list[int]] = []
    sizes: list[int] = []
    free = threading.Event()

    def answer(numbers: list[int]) -> list[int]:
        free.wait(WAIT)
        calls.append(numbers)
        return [it * 10 for it in numbers]

    async def run() -> list[Any]:
        batcher = Batcher(max_rows=4, wait=0.0, threads=1, observe=sizes.append)
        first = asyncio.ensure_future(batcher.ask("a", answer, 0, 1))
        await asyncio.sleep(0.01)
        rest = [
            asyncio.ensure_future(batcher.ask("a" if it < 7 else "b", answer, it, 2 if it == 3 else 1))
            for it in range(1, 9)
        ]
        gone = asyncio.ensure_future(batcher.ask("b", answer, 9, 1))
        await asyncio.sleep(0.01)
        gone.cancel()
        free.set()
        found = await asyncio.gather(first, *rest)
        batcher.close()
        return found

    assert asyncio.run(run()) == [it * 10 for it in range(9)]
    assert calls == [[0], [1, 2, 3], [7, 8, 9], [4, 5, 6]]
    assert sizes == [1, 4, 3, 3]


def test_a_question_waits_for_company_and_not_longer_once_the_call_is_full() -> None:
    sizes: list[int] = []

    async def run() -> list[Any]:
        batcher = Batcher(max_rows=2, wait=WAIT, threads=1, observe=sizes.append)
        both = [asyncio.ensure_future(batcher.ask("a", list, it, 1)) for it in (1, 2)]
        found = await asyncio.wait_for(asyncio.gather(*both), WAIT / 2)
        batcher.close()
        return found

    assert asyncio.run(run()) == [1, 2]
    assert sizes == [2]


def test_each_question_meets_its_own_failure() -> None:
    def fail(numbers: list[int]) -> list[int]:
        raise OSError(f"no memory for {len(numbers)}")

    async def run() -> list[Any]:
        batcher = Batcher(max_rows=4, wait=0.0, threads=1, observe=print)
        found = await asyncio.gather(*(batcher.ask("a", fail, it, 1) for it in range(2)), return_exceptions=True)
        batcher.close()
        return found

    assert [str(it) for it in asyncio.run(run())] == ["no memory for 1"] * 2


def test_a_wrong_question_costs_few_calls() -> None:
    calls = 0

    def answer(numbers: list[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if 37 in numbers:
            raise ConfigError("37")
        return numbers

    found = answers_of(answer, list(range(64)))
    assert [it for it in found if isinstance(it, int)] == [it for it in range(64) if it != 37]
    assert calls == 13  # two of each of six halves, and the whole


# -- a newer bundle ----------------------------------------------------------------------------------------------------


def test_a_newer_bundle_takes_over_under_load_and_a_broken_one_does_not(
    server: Server, served: Path, recommender: sf.Recommender, ids_alone: Path, export: Export
) -> None:
    question = {"features": USERS, "k": 5}
    old, end, answers = recommender.recommend(USERS, k=5).identifiers, threading.Event(), list[tuple[int, Any]]()

    def load() -> None:
        while not end.is_set():
            answers.append(server.ask("/recommend", question))

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        new = export(served, 2).recommend(USERS, k=5).identifiers
        until(lambda: server.ask("/healthz")[1]["version"] == 2, server.log)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert {status for status, _ in answers} == {200}
    assert old != new
    assert all(it["identifiers"] in (old, new) for _, it in answers)
    assert answers[0][1]["identifiers"] == old
    assert server.ask("/recommend", question)[1]["identifiers"] == new
    assert server.ask("/v1/models/films")[1]["model_version_status"][0]["version"] == "2"

    broken = served.parent / "broken"
    shutil.copytree(served, broken)
    part = next((broken / "model").rglob("variables.data*"))
    part.write_bytes(part.read_bytes()[:-10])
    replace(served, broken)
    problem = until(lambda: server.ask("/healthz")[1]["problem"], server.log)
    assert "the newer bundle is refused: " in problem
    assert (
        "version 2 goes on serving"
        in until(lambda: re.search(r"^.*refused.*$", server.log.read_text("utf-8"), re.MULTILINE), server.log)[0]
    )
    assert server.ask("/recommend", question)[1]["identifiers"] == new

    shutil.copytree(ids_alone, served.parent / "other")
    replace(served, served.parent / "other")
    until(
        lambda: "its requests differ in age (int32 (None,) before" in server.ask("/healthz")[1]["problem"], server.log
    )
    assert server.number('schemaflow_reloads_total{outcome="refused"}') == 2

    export(served, 1)
    until(lambda: server.ask("/healthz")[1]["version"] == 3, server.log)
    assert server.ask("/healthz")[1]["problem"] is None
    assert server.ask("/recommend", question)[1]["identifiers"] == old
    assert server.number('schemaflow_reloads_total{outcome="loaded"}') == 2


@pytest.mark.parametrize(
    ("names", "index", "differs"),
    [
        ((), sf.IVF(num_lists=4), "nprobe (none before, int32 () now)"),
        (("user_id", "item_id", "age", "likes", "genre"), None, "where_year (int32 (None,) before, none now), where_year_max"),
        (("user_id", "item_id", "likes", "genre", "year"), None, "age (int32 (None,) before, none now); serve it at"),
    ],
)  # fmt: skip
def test_a_newer_bundle_that_would_take_other_requests_is_refused(
    names: tuple[str, ...], index: Any, differs: str, tmp_path: Path, export: Export
) -> None:
    export(tmp_path / "bundle", 1)
    bundle = ServedBundle(tmp_path / "bundle", lambda _: None)
    before = bundle.current
    export(tmp_path / "bundle", 2, *names, index=index)
    assert not bundle.refresh()
    assert bundle.current is before
    assert f"the newer bundle is refused: its requests differ in {differs}" in bundle.problem
    export(tmp_path / "bundle", 2, index=sf.BruteForce(k=3))
    assert bundle.refresh()
    assert (bundle.current.recommender.k, bundle.problem) == (3, None)


@pytest.mark.parametrize("first", ["manifest.json", "model"])
def test_a_bundle_copied_file_by_file_takes_over_once_it_is_whole(first: str, tmp_path: Path, export: Export) -> None:
    served, new, told = tmp_path / "bundle", tmp_path / "new", list[str]()
    export(served, 1)
    bundle, expected = ServedBundle(served, told.append), export(new, 2).recommend(USERS).identifiers
    before = bundle.current
    shutil.rmtree(served)
    assert not bundle.refresh()
    files = sorted((it for it in new.rglob("*") if it.is_file()), key=lambda it: first not in it.parts)
    for file in files[:-1]:
        copy = served / file.relative_to(new)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    copy = served / files[-1].relative_to(new)
    copy.write_bytes(files[-1].read_bytes()[:5])
    assert not bundle.refresh()
    assert f"{copy.relative_to(served)} is changed" in bundle.problem
    assert bundle.current is before
    assert not bundle.refresh()  # nor tried again as long as nothing changes
    shutil.copy(files[-1], copy)
    assert bundle.refresh()
    assert (bundle.problem, told) == (None, ["refused", "loaded"])
    assert bundle.current.recommender.recommend(USERS).identifiers == expected


def replace(path: Path, other: Path) -> None:
    """Put another bundle in the place of one, if there is one, as an export does."""
    gone = path.with_name("gone")
    if path.exists():
        path.rename(gone)
    other.rename(path)
    shutil.rmtree(gone, ignore_errors=True)


def test_there_must_be_a_bundle_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle"):
        ServedBundle(tmp_path, print)


# -- how it is set -----------------------------------------------------------------------------------------------------


def test_the_command_has_the_options_and_their_defaults() -> None:
    said = {name: it.default for name, it in inspect.signature(commands.serve).parameters.items()}
    assert {name: said[name] for name in ServeOptions.__dataclass_fields__} == vars(ServeOptions())


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match=r"max_k is 0; expected at least 1\npoll is 0; expected at least 0.01"):
        ServeOptions(max_k=0, poll=0)


def test_what_is_missing_is_said() -> None:
    code = "import sys; sys.modules['fastapi'] = None\nimport schemaflow.serving"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'serving needs fastapi; install it with pip install "schemaflow[serve]"' in done.stderr


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_and_what_it_must_know_are_served(server: Server) -> None:
    status, page = server.ask("/")
    assert (status, page[:15]) == (200, "<!doctype html>")
    assert "default-src 'none'" in server.policy
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)  # it works without a network
    status, about = server.ask("/about")
    features = {it["name"]: it for it in about["features"]}
    assert (status, about["items"], about["item_id"], about["title"]) == (200, 40, "item_id", "title")
    assert list(features) == ["user_id", "age", "likes"]
    assert (features["user_id"]["choices"], features["user_id"]["all"]) == (["ann", "bob", "cleo"], True)
    assert [features[name]["optional"] for name in features] == [True, False, True]
    genre, year = about["filters"]
    assert (genre["choices"], year["least"], year["most"]) == (["comedy", "drama"], 1980, 2019)
    assert "/recommend" in server.ask("/openapi.json")[1]["paths"]


def chromium() -> str | None:
    return next(
        (found for it in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(it))), None
    )


@pytest.mark.skipif(chromium() is None, reason="there is no Chromium: apt-get install chromium")
def test_the_page_shows_filters_excludes_and_finds_similar_ones(
    server: Server, tmp_path: Path, recommender: sf.Recommender
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    title = "#recommended .title"
    user = {"user_id": ["bob"], "age": [3], "likes": [["drama"]]}
    expected = recommender.recommend(user, k=10, where={"genre": "comedy", "year": {">=": 1990}}).identifiers[0]
    with playwright.sync_playwright() as runs:
        browser = runs.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))

        def shows(ids: list[str]) -> None:
            titles = [ITEMS["title"][ITEMS["item_id"].index(it)] for it in ids]
            until(lambda: page.locator(title).all_text_contents() == titles, server.log)

        page.goto(f"http://127.0.0.1:{server.port}/")
        page.wait_for_selector(title)
        page.select_option("[name=user_id]", "bob")
        page.fill("[name=age]", "3")
        page.fill("[name=likes]", "drama")
        page.click("button.go")
        shows(recommender.recommend(user, k=10).identifiers[0])
        page.click("text=comedy")
        page.fill("[name=year_from]", "1990")
        page.keyboard.press("Tab")
        shows(expected)
        page.click("#recommended .hide >> nth=0")
        shows(recommender.recommend(
            user, k=10, where={"genre": "comedy", "year": {">=": 1990}}, exclude=expected[:1]
        ).identifiers[0])  # fmt: skip
        page.click("#excluded button")
        shows(expected)
        page.click(f"{title} >> nth=1")
        page.wait_for_selector("#similar li")
        near = recommender.similar_items([expected[1]], k=10).identifiers[0]
        about = page.locator("#similar .about").all_inner_texts()
        assert [re.match(r"item_id (\S+)", it)[1] for it in about] == near
        page.fill("[name=age]", "")
        page.click("button.go")
        page.wait_for_selector("#wrong:visible")
        assert 'feature "age"' in page.inner_text("#wrong")
        page.screenshot(path=os.environ.get("SCHEMAFLOW_SCREENSHOT", str(tmp_path / "page.png")))
        assert page.title() == "films"  # no title was run as markup
        assert page.locator("li img").count() == 0
        browser.close()
    assert problems == []
