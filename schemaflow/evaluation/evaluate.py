"""Evaluation over the whole catalogue: every candidate ranked for every query, beside popularity."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemaflow.data.encode import Array, Lists
from schemaflow.data.join import as_side_table, read_ids, read_table, refuse_repeated
from schemaflow.data.positives import are_positives, telling
from schemaflow.errors import ConfigError, DataError
from schemaflow.evaluation.firsts import Excluded, Firsts, among, nearest, popular, reranked
from schemaflow.evaluation.judge import Judge
from schemaflow.evaluation.queries import Queries, codes_of, distinct_queries, positions_of, user_id_of
from schemaflow.evaluation.report import Report
from schemaflow.features.unseen import holding_values, seen_rows
from schemaflow.metrics import Ints
from schemaflow.schema.feature import Feature
from schemaflow.schema.rows import rows_in
from schemaflow.schema.schema import Schema
from schemaflow.schema.sides import Sides
from schemaflow.schema.sources import TableLike, open_source

__all__ = ["NothingToFindError", "TwoTowers", "evaluate"]

LEAK = 0.5
"""Where a greater share of the positives stands in histories, they are more than things chosen again."""


class NothingToFindError(DataError):
    """Every positive is one that the user had in training."""


class TwoTowers(Protocol):
    """What `evaluate` needs of a model."""

    schema: Schema
    sides: Sides
    ranker: Any
    """A second stage, `schemaflow.tasks.Ranker`; None where nothing is ranked anew."""

    def query_embeddings(self, queries: Any, batch_size: int = 4096) -> Array:
        """Return [n, dim], or [n, K, dim]."""

    def query_inputs(self, queries: Any, batch_size: int = 4096) -> Array:
        """Return what the ranker reads of queries beside their vectors, [n, width]."""

    def candidate_embeddings(
        self, candidates: Any, batch_size: int = 4096, *, tables: str | Path | None = None
    ) -> Array:
        """Return [n, dim]."""


def evaluate(
    model: TwoTowers,
    interactions: TableLike,
    candidates: TableLike,
    *,
    ks: Sequence[int] = (10, 50, 100),
    exclude: TableLike | None = None,
    tables: str | Path | None = None,
    rerank: bool = False,
) -> Report:
    """Rank every candidate for every distinct query, and report what the positives' ranks come to.

    A query is a distinct set of query features; its positives are its interactions' items. recall, ndcg, mrr and map are
    averaged over a user's queries and then over users; `hit_rate@k` is the share of interactions whose item is among the
    first k; `coverage@k` is the share of the candidates that are among anybody's first k. Ties count against the
    positive. A positive that is no candidate is a miss. Explicit negatives are no positives.

    `report.warm` and `report.cold` say the same of some positives each, among the same candidates: warm are those whose
    user and item were in the interactions that the schema was fitted on, cold those of a user or item that was not. Of ids
    that are hashed their rows alone are known: one that shares the row of an id that was there counts as warm, and one that
    shares that of an item in its query's history counts as standing there.

    Args:
        model: A `TwoTowerModel`.
        interactions: The positives to find: a table with the query features and the item id.
        candidates: The items to rank: a table with the item features.
        ks: The cut-offs.
        exclude: Interactions whose items are not ranked for their user, such as those of the training; positives among
            them are dropped, and counted in the report.
        tables: The folder of the side tables, where it is not that of each file.
        rerank: Rank as a bundle serves where the model has a ranker: the retrieval's first `num_retrieved`, by the ranker's
            scores. Else the retrieval alone is judged; `report.protocol["ranked by"]` says which.

    Raises:
        DataError: A column is missing, a candidate stands twice, or no positive is left.
        ConfigError: A cut-off is below 1, `exclude` is given and no feature is tagged user and id, or `rerank` where there
            is no ranker, or with a cut-off beyond what it ranks.

    Source:
        Why sampled metrics mislead and all candidates are ranked: Krichene & Rendle, "On sampled metrics for item
        recommendation", KDD 2020.
    """
    _check_cutoffs(ks)
    if rerank:
        _check_ranker(model, ks)
    schema, sides = model.schema, model.sides
    source, catalogue = open_source(interactions), as_side_table(candidates, schema, sides.item_id)
    identifiers = read_ids(catalogue, sides.item_id)
    refuse_repeated(identifiers, sides.item_id, catalogue)
    positives = distinct_queries(source, schema, sides, tables)
    items = read_ids(source, sides.item_id)
    item = positions_of(items, identifiers)  # [rows], -1 where no candidate
    user_id = user_id_of(schema)
    users = None if user_id is None or user_id.source not in source.columns else read_ids(source, user_id)
    user_of_query = positives.users_of(users)
    excluded = Excluded(np.empty(0, np.int64), len(identifiers))
    told = [it.name for it in telling(sides, source.columns)]
    refused = ~are_positives(sides, read_table(source, schema, tables, told) if told else {}, source.rows)
    kept = ~refused
    if exclude is not None:
        if user_id is None or users is None:
            raise ConfigError(
                "exclude needs to know whose items it holds; give the interactions a feature tagged user and id"
            )
        seen = open_source(exclude)
        pairs = (read_ids(seen, user_id), read_ids(seen, sides.item_id))
        excluded, dropped = _excluded(*pairs, identifiers, user_of_query, positives.query, items)
        kept &= ~dropped
    if not kept.any():
        why = "are also in exclude" if exclude is not None else f"are none by {' and '.join(told)}"
        raise NothingToFindError(f"{source.name}: no positive is left to find: all {len(kept)} {why}")
    judge = Judge(positives.query[kept], item[kept], codes_of(user_of_query), len(identifiers), tuple(sorted(set(ks))))

    vectors = model.candidate_embeddings(catalogue, tables=tables)
    asked = positives.dataset()
    queries = model.query_embeddings(asked)
    _check_scores(queries, vectors)
    new_item, new_user = ~_seen(schema, sides.item_id, items), ~_seen(schema, user_id, users)
    cold = (new_item | new_user)[kept]
    depth = model.ranker.num_retrieved if rerank else judge.depth
    ranking = nearest(queries, vectors, depth, excluded)
    if rerank:
        ranking = _reranked(model, ranking, model.query_inputs(asked), queries, vectors)
    judged = judge(ranking, {"warm": ~cold, "cold": cold})
    counts = _item_counts(schema, sides.item_id, identifiers)
    popularity = {} if counts is None else judge(popular(counts, positives.queries, judge.depth, excluded)).whole
    protocol = {
        "interactions": len(item),
        "queries": judge.asked,
        "candidates": len(identifiers),
        "ranked by": f"{model.ranker.name}, of the retrieval's first {depth}" if rerank else "retrieval",
        "excluded": "nothing" if exclude is None else open_source(exclude).name,
        "positives dropped (in exclude)": int((~kept & ~refused).sum()),
        "positives that are no candidate (missed)": int((item[kept] < 0).sum()),
        "warm positives (user and item seen in training)": int((~cold).sum()),
        "cold positives": int(cold.sum()),
        "cold positives, by a new item": int((new_item & kept).sum()),
        "cold positives, by a new user": int((new_user & kept).sum()),
    }
    if told:
        protocol[f"no positives, by {' and '.join(told)}"] = int(refused.sum())
    if given := int((_in_histories(positives, schema, sides, items) & kept).sum()):
        protocol["positives in their own query's history"] = given
        _warn_of_leak(given, int(kept.sum()))
    return Report(judged.whole, popularity, protocol, judged.parts.get("warm", {}), judged.parts.get("cold", {}))


def _check_cutoffs(ks: Sequence[int]) -> None:
    if isinstance(ks, int) or not ks or not all(isinstance(k, int) and k >= 1 for k in ks):
        raise ConfigError(f"ks is {ks!r}; expected a list of integers of at least 1")


def _check_scores(queries: Array, vectors: Array) -> None:
    """Raise `DataError` where a score would not be finite."""
    highest = _longest(queries) * _longest(vectors)  # no |q . c| is above |q| |c|
    if not highest < np.finfo(np.float32).max:  # nor is NaN below anything
        raise DataError(
            "the model's vectors are not finite, or so long that their products are not: its training diverged; lower the"
            " learning rate and train again"
        )


def _check_ranker(model: TwoTowers, ks: Sequence[int]) -> None:
    if model.ranker is None:
        raise ConfigError("rerank=True, but the model has no ranker: add LightRanker() to its prediction_tasks")
    if max(ks) > model.ranker.num_retrieved:
        raise ConfigError(
            f"the cut-off {max(ks)} is beyond the {model.ranker.num_retrieved} items that {type(model.ranker).__name__} ranks;"
            " leave it out, or set a higher num_retrieved"
        )


def _reranked(
    model: TwoTowers, ranking: Iterable[Firsts], inputs: Array, queries: Array, vectors: Array
) -> Iterator[Firsts]:
    """Return the first candidates of all queries as a bundle gives them, by the ranker's scores."""

    def score(rows: slice, candidates: Ints) -> Array:
        found: Array = model.ranker.scores(inputs[rows], queries[rows], vectors[candidates]).numpy()
        return found

    return reranked(ranking, score)


def _excluded(
    users: pa.Array, items: pa.Array, identifiers: pa.Array, user_of_query: pa.Array, query: Ints, positives: pa.Array
) -> tuple[Excluded, npt.NDArray[np.bool_]]:
    """Return the candidates among a user's items, for each of the user's queries, and which positives are among its items.

    Args:
        users: Who had each item, [pairs].
        items: [pairs].
        identifiers: Of the candidates.
        user_of_query: [queries].
        query: Of each positive, [rows].
        positives: The item of each, [rows].
    """
    distinct, n = user_of_query.unique(), len(identifiers)
    asking = positions_of(user_of_query, distinct)
    coded = items.dictionary_encode()
    unknown = coded.dictionary.filter(pa.array(positions_of(coded.dictionary, identifiers) < 0))
    known = pa.concat_arrays([identifiers, unknown])  # the candidates first
    width = len(known)
    item = positions_of(coded.dictionary, known)[coded.indices]
    user = positions_of(users, distinct)
    pairs = np.unique(user[user >= 0] * width + item[user >= 0])  # [pairs]

    number = positions_of(positives, known)
    dropped = (number >= 0) & among(asking[query] * width + number, pairs)

    user, item = np.divmod(pairs, width)
    user, item = user[item < n], item[item < n]
    by_user = Lists(item, np.searchsorted(user, np.arange(len(distinct) + 1)))
    by_query = by_user.take(asking)  # a user may have several queries
    row = np.repeat(np.arange(len(by_query)), np.diff(by_query.splits))
    return Excluded(row * n + by_query.values, n), dropped


def _longest(vectors: Array) -> float:
    """Return the length of the longest vector, NaN or infinite where one is not finite."""
    return float(np.sqrt(np.einsum("...j,...j->...", vectors, vectors, dtype=np.float64).max()))


def _seen(schema: Schema, feature: Feature | None, ids: pa.Array | None) -> Any:
    """Tell which ids were in the interactions that the schema was fitted on, [rows] bool; in its vocabulary, without those.

    Where no row of a table stands for an id, nothing tells, and all were.
    """
    if feature is None or ids is None or feature.kind != "categorical":
        return np.bool_(True)
    domain = schema.domains[feature.table]
    holds, seen = holding_values(schema, domain), seen_rows(schema, domain)
    rows = rows_in(domain, schema.vocabulary(feature.table), ids)
    inside = (rows >= 0) & (rows < len(holds))
    known = holds if seen is None else holds & seen
    return inside & known[np.where(inside, rows, 0)]


def _in_histories(positives: Queries, schema: Schema, sides: Sides, items: pa.Array) -> npt.NDArray[np.bool_]:
    """Tell which positives stand in a history of their own query, [rows] bool."""
    domain = schema.domains[sides.item_id.table]
    rows = rows_in(domain, schema.vocabulary(sides.item_id.table), items)
    found = np.zeros(len(rows), bool)
    for it in sides.query:
        if it.is_history and it.table == sides.item_id.table:
            found |= positives.holding(it.name, rows) & (rows >= domain.reserved)  # the rows before are of no one item
    return found


def _warn_of_leak(given: int, positives: int) -> None:
    if given > LEAK * positives:
        warnings.warn(
            f"{given} of {positives} positives stand in the history of their own query, which gives them away: let histories"
            " end before the interaction, as schemaflow.histories makes them",
            stacklevel=3,
        )


def _item_counts(schema: Schema, item_id: Feature, identifiers: pa.Array) -> Ints | None:
    """Return each candidate's number of interactions, [candidates] int, where the schema has counted them."""
    counts = schema.counts(item_id)
    if counts is None:
        return None
    rows = rows_in(schema.domains[item_id.table], schema.vocabulary(item_id.table), identifiers)
    own = rows >= schema.domains[item_id.table].reserved  # the rows before are shared by all that was never seen
    return np.where(own, counts[rows], 0)
