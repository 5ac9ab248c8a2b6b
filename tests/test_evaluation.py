"""Evaluation over the whole catalogue, against a world worked by hand."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import schemaflow as sf
from schemaflow.errors import ConfigError, DataError
from schemaflow.evaluation import firsts
from schemaflow.schema.sides import sides_of

SCHEMA = sf.Schema((
    sf.Feature(name="user", dtype="string", tags=("user", "id"), vocabulary=("u", "v", "w")),
    sf.Feature(name="item", dtype="string", tags=("item", "id"), vocabulary=("a", "b", "c", "d")),
))  # fmt: skip
ITEMS = {"item": ["d", "c", "b", "a"]}  # another order than the vocabulary's: candidates are matched by id
TEST = {"user": ["u", "u", "v", "u"], "item": ["a", "c", "d", "a"]}


@dataclass
class Fixed:
    """A model whose scores are what a table says: rows u, v, w; columns a, b, c, d."""

    scores: Any
    schema: sf.Schema = SCHEMA
    length: float = 1.0
    dtype: Any = np.float32

    @property
    def sides(self) -> Any:
        return sides_of(self.schema)

    def query_embeddings(self, queries: Any, batch_size: int = 4096) -> Any:
        rows = np.concatenate([batch["user/encoded"].numpy() for batch in queries])
        return np.vstack([np.zeros((3, 4)), self.scores])[rows].astype(self.dtype)

    def candidate_embeddings(self, candidates: Any, batch_size: int = 4096, *, tables: Any = None) -> Any:
        ids = pc.index_in(
            candidates.table["item"].combine_chunks(), value_set=pa.array(["a", "b", "c", "d"])
        ).to_numpy()
        return self.dtype(self.length) * np.eye(4, dtype=self.dtype)[ids]


SCORES = np.array([[3.0, 4.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])


def test_every_metric_by_hand() -> None:
    report = sf.evaluate(Fixed(SCORES), TEST, ITEMS, ks=(2, 3))
    # u: b 4, a 3, c 1, d 0, so a is 2nd and c 3rd of two relevant; v: all tied, so d is 4th of one relevant
    log = np.log2
    assert report["recall@2"] == pytest.approx((1 / 2 + 0) / 2)
    assert report["recall@3"] == pytest.approx((1 + 0) / 2)
    assert report["ndcg@3"] == pytest.approx((1 / log(3) + 1 / 2) / (1 + 1 / log(3)) / 2)
    assert report["mrr@3"] == pytest.approx(1 / 2 / 2)
    assert report["map@3"] == pytest.approx((1 / 2 + 2 / 3) / 2 / 2)
    # rows: a, c, d, a
    assert report["hit_rate@2"] == pytest.approx(2 / 4)
    assert report["hit_rate@3"] == pytest.approx(3 / 4)
    assert report.protocol["queries"] == 2
    assert report.protocol["candidates"] == 4
    assert report.protocol["interactions"] == 4


def test_seen_items_are_neither_ranked_nor_looked_for() -> None:
    seen = {"user": ["u", "u", "v", "w"], "item": ["b", "c", "a", "d"]}
    report = sf.evaluate(Fixed(SCORES), TEST, ITEMS, ks=(1, 3), exclude=seen)
    # u: without b and c, a is first; its positive c is dropped. v: without a, d is third of three
    assert report["recall@1"] == pytest.approx((1 + 0) / 2)
    assert report["recall@3"] == 1.0
    assert report["hit_rate@1"] == pytest.approx(2 / 3)
    assert report.protocol["positives dropped (in exclude)"] == 1


def test_positives_that_are_no_candidate_are_misses() -> None:
    report = sf.evaluate(Fixed(SCORES), {"user": ["u", "u"], "item": ["b", "zzz"]}, ITEMS, ks=(4,))
    assert report["hit_rate@4"] == 0.5
    assert report["recall@4"] == 0.5
    assert report.protocol["positives that are no candidate (missed)"] == 1
    dropped = sf.evaluate(
        Fixed(SCORES),
        {"user": ["u", "u"], "item": ["b", "zzz"]},
        ITEMS,
        ks=(4,),
        exclude={"user": ["u"], "item": ["zzz"]},
    )
    assert dropped["recall@4"] == 1.0
    assert dropped.protocol["positives dropped (in exclude)"] == 1


def test_popularity_is_judged_by_the_same_protocol() -> None:
    schema = SCHEMA.fit({"user": ["u", "v", "v", "w"], "item": ["a", "a", "d", "zzz"]})
    report = sf.evaluate(Fixed(SCORES, schema), TEST, ITEMS, ks=(1, 2))
    # a 2, d 1, b and c 0; rows a, c, d, a
    assert report.popularity["hit_rate@1"] == 2 / 4
    assert report.popularity["hit_rate@2"] == 3 / 4
    assert sf.evaluate(Fixed(SCORES), TEST, ITEMS, ks=(1,)).popularity == {}


def test_what_was_never_seen_is_judged_alone_too() -> None:
    schema = SCHEMA.fit({"user": ["u", "u"], "item": ["a", "b"]})
    report = sf.evaluate(Fixed(SCORES, schema), TEST, ITEMS, ks=(2, 3))
    # u: a is 2nd, c 3rd; v: d is 4th. c and d were never chosen, nor did v choose; warm is u's a, twice
    assert report.warm["hit_rate@2"] == 1.0
    assert report.warm["recall@2"] == 1.0
    assert report.warm["mrr@3"] == 1 / 2
    assert report.cold["hit_rate@2"] == 0.0
    assert report.cold["hit_rate@3"] == 1 / 2
    assert report.cold["recall@3"] == (1 + 0) / 2
    assert report.cold["mrr@3"] == (1 / 3 + 0) / 2
    assert report["recall@3"] == pytest.approx((1 + 0) / 2)
    counted = [value for name, value in report.protocol.items() if "warm" in name or "cold" in name]
    assert counted == [2, 2, 2, 1]
    assert json.loads(report.to_json())["cold"] == dict(report.cold)
    assert str(report).splitlines()[0].split() == ["metric", "model", "warm", "cold", "popularity"]
    assert f"<td>{report.cold['mrr@3']:.4f}</td>" in report._repr_html_()


def test_without_interactions_what_is_in_the_vocabulary_counts_as_seen() -> None:
    report = sf.evaluate(Fixed(SCORES), {"user": ["u", "x", "u"], "item": ["b", "a", "zzz"]}, ITEMS, ks=(1,))
    assert report.warm["hit_rate@1"] == 1.0
    assert report.cold["hit_rate@1"] == 0.0
    counted = [value for name, value in report.protocol.items() if "cold" in name]
    assert counted == [2, 1, 1]
    warm_alone = sf.evaluate(Fixed(SCORES), TEST, ITEMS, ks=(2,))
    assert warm_alone.cold == {}
    assert str(warm_alone).splitlines()[0].split() == ["metric", "model", "popularity"]


def test_a_collapsed_model_does_not_look_good() -> None:
    report = sf.evaluate(Fixed(np.zeros((3, 4))), TEST, ITEMS, ks=(3,))
    assert report["hit_rate@3"] == 0.0
    assert report["coverage@3"] == 0.75


def test_long_vectors_are_ranked_as_far_as_their_products_go() -> None:
    expected = sf.evaluate(Fixed(SCORES), TEST, ITEMS, ks=(2, 3)).metrics
    # their squares are beyond float32, or float16
    for model in (Fixed(SCORES * 1e25), Fixed(SCORES * 1e4, dtype=np.float16, length=1e4)):
        assert sf.evaluate(model, TEST, ITEMS, ks=(2, 3)).metrics == expected
    for model in (Fixed(SCORES * 1e25, length=1e25), Fixed(SCORES * 0, length=np.inf), Fixed(SCORES + np.nan)):
        with pytest.raises(DataError, match="the model's vectors are not finite"), np.errstate(invalid="ignore"):
            sf.evaluate(model, TEST, ITEMS)


def test_coverage_counts_what_anybody_is_shown() -> None:
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 2.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert sf.evaluate(Fixed(scores), TEST, ITEMS, ks=(1, 2))["coverage@1"] == 1 / 4
    assert sf.evaluate(Fixed(scores), TEST, ITEMS, ks=(1, 2))["coverage@2"] == 3 / 4
    # excluded candidates are shown to nobody, not even where k reaches beyond what is left
    everything = {"user": ["u"] * 3 + ["v"] * 3, "item": ["b", "c", "d", "a", "b", "c"]}
    assert sf.evaluate(Fixed(scores), TEST, ITEMS, ks=(4,), exclude=everything)["coverage@4"] == 2 / 4


def test_users_out_of_the_vocabulary_are_different_users() -> None:
    report = sf.evaluate(
        Fixed(SCORES), {"user": ["x", "y"], "item": ["a", "b"]}, ITEMS, ks=(4,), exclude={"user": ["x"], "item": ["b"]}
    )
    assert report.protocol["queries"] == 2
    assert report.protocol["positives dropped (in exclude)"] == 0


def test_tiles_change_nothing(
    trained: sf.TwoTowerModel, data: sf.datasets.DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = sf.evaluate(trained, data.interactions, data.items, ks=(5, 20))
    monkeypatch.setattr(firsts, "ROWS", 7)
    monkeypatch.setattr(firsts, "COLUMNS", 11)
    assert dict(sf.evaluate(trained, data.interactions, data.items, ks=(5, 20))) == pytest.approx(dict(whole))


def test_against_an_independent_implementation(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder) -> None:
    """Walk every user's list in plain Python; the last fifth of the log is the test, the rest is excluded."""
    import pyarrow.parquet as pq

    events = pq.read_table(data.interactions)
    cut = events.num_rows * 4 // 5
    train, test = events.slice(0, cut), events.slice(cut)
    report = sf.evaluate(trained, test, data.items, ks=(10,), exclude=train, tables=data.folder)
    users, items = pq.read_table(data.users)["user_id"].to_pylist(), pq.read_table(data.items)["item_id"].to_pylist()
    scores = trained.query_embeddings(data.users) @ trained.candidate_embeddings(data.items).T
    seen = set(zip(train["user_id"].to_pylist(), train["item_id"].to_pylist(), strict=True))
    wanted: dict[str, set[str]] = {}
    for user, item in zip(test["user_id"].to_pylist(), test["item_id"].to_pylist(), strict=True):
        wanted.setdefault(user, set()).add(item)
    recalls, hits = [], []
    for user, relevant in wanted.items():
        own = dict(zip(items, scores[users.index(user)].tolist(), strict=True))
        ranked = sorted((it for it in items if (user, it) not in seen), key=lambda it: -own[it])
        found = [it for it in ranked[:10] if it in relevant]
        recalls.append(len(found) / len(relevant))
        hits += [it in ranked[:10] for it in relevant]
    assert report["recall@10"] == pytest.approx(np.mean(recalls))
    assert report["hit_rate@10"] == pytest.approx(np.mean(hits))
    assert report.protocol["queries"] == len(wanted)


def test_reports_print_and_serialise(trained: sf.TwoTowerModel, data: sf.datasets.DataFolder) -> None:
    report = sf.evaluate(trained, data.interactions, data.items, ks=(10,))
    read = json.loads(report.to_json())
    assert read["metrics"] == dict(report)
    assert read["popularity"] == dict(report.popularity)
    assert "recall@10" in str(report)
    assert f"{report['recall@10']:.4f}" in report._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ks": (0,)}, ConfigError, "expected a list of integers of at least 1"),
        ({"ks": ()}, ConfigError, "expected a list of integers of at least 1"),
        ({"candidates": {"item": ["a", "a"]}}, DataError, "item 'a' stands 2 times"),
        ({"candidates": {"item": ["a", None]}}, DataError, 'row 1: the id "item" is missing'),
        ({"candidates": {"id": ["a"]}}, DataError, 'the column "item" of feature "item" is missing'),
        ({"exclude": {"user": ["u"]}}, DataError, 'the column "item" of feature "item" is missing'),
        ({"exclude": TEST}, DataError, "no positive is left to find"),
    ],
)
def test_wrong_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sf.evaluate(Fixed(SCORES), TEST, **{"candidates": ITEMS, **arguments})
