"""What a server of 100 thousand items answers on loopback, and what it gains by answering requests together.

    python benchmarks/serving.py        # two servers in processes of their own, at 1, 8 and 32 clients

An untrained model of 64 dimensions, for the time does not depend on the weights; brute force; 10 items for a user a
request, five others excluded. A client is a thread with a connection of its own that asks again as soon as it has its
answer. The clients are in one process, and share the machine with the server. The sides take turns, one with
micro-batches and one that answers each request in a call of its own. Every answer is compared with that of the
`Recommender` to the query alone: the same ids, scores to 1e-5; ids may change places where scores are as near as that.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from figures import ROUNDS, Figure, compared, report

import schemaflow as sf

ITEMS, USERS, K, DIM = 100_000, 1000, 10, 64
CLIENTS = (1, 8, 32)
SECONDS = 3.0
"""How long each number of clients asks in each round."""

GAIN = {1: 0.8, 8: 1.1, 32: 1.3}
"""The least rate with micro-batches over that without, by clients: one alone has no company, and must not pay for it."""

SCHEMA = f"""
version: 1
features:
  user_id: {{dtype: int64, tags: [user, id], cardinality: {USERS}}}
  age: {{dtype: float32, tags: [user, continuous]}}
  item_id: {{dtype: int64, tags: [item, id], cardinality: {ITEMS}}}
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self.log = bundle.parent / f"log{''.join(options)}.txt"
        command = [sys.executable, "-m", "schemaflow.cli.app", "serve", str(bundle), "--port", "0", *options]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        end = time.monotonic() + 120
        while not (said := re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text("utf-8"))):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"the server does not begin: {self.log.read_text('utf-8')}")
            time.sleep(0.05)
        self.port = int(said[1])

    def load(self, clients: int, requests: Sequence[bytes]) -> list[tuple[int, float, Any]]:
        """Ask for some seconds, and return what was asked, the seconds it took and the answer."""
        end = time.perf_counter() + SECONDS

        def ask(client: int) -> list[tuple[int, float, Any]]:
            connection, found = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), []
            number = client * 37
            while time.perf_counter() < end:
                number = (number + 1) % len(requests)
                began = time.perf_counter()
                connection.request("POST", "/recommend", requests[number])
                answer = connection.getresponse()
                content = answer.read()
                found.append((number, time.perf_counter() - began, content))
                if answer.status != 200:
                    raise SystemExit(f"status {answer.status}: {content!r}")
            connection.close()
            return found

        with ThreadPoolExecutor(clients) as pool:
            return [it for some in pool.map(ask, range(clients)) for it in some]


def same(answer: Any, ids: list[Any], scores: list[float]) -> bool:
    """Tell whether an answer is the expected one, but for the order of scores that are equal to 1e-5."""
    [found], [theirs] = answer["identifiers"], answer["scores"]
    if not np.allclose(theirs, scores, atol=1e-5):
        return False
    near = {
        it for it, score in zip(ids, scores, strict=True) if score < scores[-1] + 2e-5
    }  # the last may change for others
    return found == ids or set(ids) - near <= set(found)


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Compare a server with micro-batches with one without."""
    keras.utils.set_random_seed(0)
    schema = sf.Schema.from_config({"fitted": {}, "yaml": SCHEMA})
    options = sf.EmbeddingOptions(embedding_dim_default=DIM, embeddings_initializers="glorot_normal")
    model = sf.TwoTowerModel(schema, sf.MLPBlock([DIM]), embedding_options=options, correction=None)
    rng = np.random.default_rng(0)
    asked = [
        {"features": {"user_id": [user], "age": [user / USERS]}, "k": K, "exclude": rng.integers(0, ITEMS, 5).tolist()}
        for user in range(USERS)
    ]
    requests = [json.dumps(it).encode() for it in asked]
    with tempfile.TemporaryDirectory() as folder:
        recommender = model.export(Path(folder) / "bundle", {"item_id": list(range(ITEMS))})
        alone = [recommender.recommend(it["features"], K, it["exclude"]) for it in asked]
        servers = {
            "batches": Server(Path(folder) / "bundle"),
            "alone": Server(Path(folder) / "bundle", "--max-batch", "1"),
        }
        took: dict[str, list[float]] = {}

        def rate(side: str, clients: int) -> float:
            answers = servers[side].load(clients, requests)
            for number, seconds, content in answers:
                expected = alone[number]
                if not same(json.loads(content), expected.identifiers[0], expected.scores[0]):
                    raise SystemExit(f"{content!r} under load, {expected} alone")
                took.setdefault(f"{side} {clients}", []).append(seconds)
            return len(answers) / SECONDS

        try:
            for server in servers.values():
                server.load(CLIENTS[-1], requests)  # what comes first is slower
            sides = {f"{side} {clients}": (side, clients) for clients in CLIENTS for side in servers}
            found = compared({name: lambda it=it: rate(*it) for name, it in sides.items()}, rounds)  # type: ignore[misc]
        finally:
            for server in servers.values():
                server.process.terminate()
                server.process.wait()
    return [
        Figure(
            f"requests/s at {clients} clients, in micro-batches / each alone",
            [
                together / single
                for together, single in zip(found[f"batches {clients}"], found[f"alone {clients}"], strict=True)
            ],
            GAIN[clients],
            True,
            "; ".join(
                f"{what}: {np.median(found[f'{side} {clients}']):.0f}/s, p50 {half:.1f} ms, p99 {most:.1f} ms"
                for side, what in (("batches", "micro-batches"), ("alone", "alone"))
                for half, most in [np.percentile(took[f"{side} {clients}"], [50, 99]) * 1000]
            ),
        )
        for clients in CLIENTS
    ]


if __name__ == "__main__":
    sys.exit(report(measure()))
