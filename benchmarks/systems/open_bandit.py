"""Open Bandit: a policy learned from clicks that another policy logged, judged by a log of random items.

    python benchmarks/run.py systems/open_bandit

The sample of the Open Bandit Dataset: a shop's two campaigns, 34 and 46 items, three positions. 20,000 impressions chosen by
Bernoulli Thompson sampling, 115 of them clicked, are trained on; 20,000 chosen at random, 92 clicked, are the judge. A model's
policy shows an item of the campaign with the probability softmax(score). Its click rate is estimated from the random log by
self-normalized inverse propensities (SNIPS), `sum w c / sum w` with `w = policy(item | context) / propensity`, and by the
plain ones (IPS), `mean w c`.

    naive        clicks as they are
    examination  PositionDebiasing()
    propensity   PositionDebiasing("given") by the logged propensity of the item shown: what Thompson sampling showed most is
                 clicked most, which no position explains

With 92 clicks the judge cannot tell small differences, and with 115 a model's seed moves its policy's click rate by more than
the debiasing does: the bars are on the median, over eight seeds at least, of the difference to the naive policy in units of its
standard error, over 1,000 resamplings of the judge's rows. The detail has the click rates, that of the random log among them.
The examination that was estimated is printed beside the random log's click rates by position, in units of the first's; the
three positions stand side by side in one row of a page.

The data are expected in $SCHEMAFLOW_DATA/obd-small.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from data import data_folder
from figures import Figure, report

import schemaflow as sf

SEEDS = 8
EPOCHS, BATCH_SIZE, RATE, DIM, L2 = 30, 2048, 0.005, 8, 0.05
SCHEMA = """
version: 1
features:
  campaign:       {dtype: string, tags: [context, categorical], vocabulary: learned}
  user_feature_0: {dtype: string, tags: [user, categorical], vocabulary: learned}
  user_feature_1: {dtype: string, tags: [user, categorical], vocabulary: learned}
  user_feature_2: {dtype: string, tags: [user, categorical], vocabulary: learned}
  user_feature_3: {dtype: string, tags: [user, categorical], vocabulary: learned}
  item:           {dtype: string, tags: [item, id], vocabulary: learned}
  position:       {dtype: int8, tags: [position], cardinality: 4}
  click:          {dtype: int8, tags: [target, binary], value: 1}
  propensity_score: {dtype: float32}
"""

_TERMS = {
    "naive": list,
    "examination": lambda: [sf.PositionDebiasing()],
    "propensity": lambda: [sf.PositionDebiasing("given", propensities="propensity_score", clip=100)],
}


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train each model for each seed, and return the click rates of their policies in units of the naive one's.

    Args:
        rounds: How many seeds, 8 at least.
    """
    log = pq.read_table(data_folder("obd-small") / "interactions.parquet")
    # items are numbered anew in each campaign
    named = [
        f"{campaign}-{item}"
        for campaign, item in zip(*(log[it].to_pylist() for it in ("campaign", "item_id")), strict=True)
    ]
    log = log.append_column("item", pa.array(named))
    trained, judge = (log.filter(pc.equal(log["policy"], it)) for it in ("bts", "random"))
    clicks, place = judge["click"].to_numpy(), judge["position"].to_numpy()
    by_position = np.array([clicks[place == it].mean() for it in (1, 2, 3)])
    print(
        f"click rates of the random log by position, in units of the first's: {(by_position / by_position[0]).round(3)}"
    )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _TERMS}
    for seed in range(1, max(rounds, SEEDS) + 1):
        weights = {name: policy_weights(trained, judge, terms(), seed) for name, terms in _TERMS.items()}
        for name, it in weights.items():
            found[name].append(
                {
                    "snips": float((it * clicks).sum() / it.sum()),
                    "ips": float((it * clicks).mean()),
                    "error": resampled_error(it, weights["naive"], clicks),
                }
            )
            print(f"seed {seed}, {name}: {found[name][-1]}", flush=True)
    figures = []
    for name in ("examination", "propensity"):
        for metric in ("snips", "ips"):
            pairs = list(zip(found[name], found["naive"], strict=True))
            shown = ", ".join(f"{it[metric]:.5f}" for it, _ in pairs)
            naive = ", ".join(f"{it[metric]:.5f}" for _, it in pairs)
            error = ", ".join(f"{it['error']:.5f}" for it, _ in pairs)
            detail = f"{shown} against {naive}; random {clicks.mean():.5f}; error of the difference {error}"
            title = f"{metric.upper()} of the policy, ({name} - naive) / standard error"
            differences = [(it[metric] - other[metric]) / it["error"] for it, other in pairs]
            figures.append(Figure(title, differences, 0.0, True, detail))
    return figures


def policy_weights(log: pa.Table, judge: pa.Table, terms: list[sf.PositionDebiasing], seed: int) -> np.ndarray:
    """Train a model on a log, and return its policy's probability of each row's item over the judge's, [rows]."""
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        sf.Schema.from_config({"fitted": {}, "yaml": SCHEMA}).fit(log),
        sf.MLPBlock([DIM]),
        embedding_options=sf.EmbeddingOptions(embedding_dim_default=DIM, embeddings_l2_reg=L2),
        correction=None,  # a batch holds every item
        debiasing=terms,
    )
    model.compile(sf.optimizers.Adam(RATE))
    model.fit(log, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    if terms and terms[0].estimator == "examination":
        print(f"examination by position, estimated: {terms[0].examination().round(3)}")
    items = sorted(set(judge["item"].to_pylist()))
    scores = model.query_embeddings(judge) @ model.candidate_embeddings({"item": items}).T  # [rows, items]
    of_campaign = np.array([it.split("-")[0] for it in items]) == np.array(judge["campaign"].to_pylist())[:, np.newaxis]
    odds = np.where(of_campaign, np.exp(scores - scores.max(axis=1, keepdims=True)), 0)
    shown = odds[np.arange(len(odds)), np.searchsorted(items, judge["item"].to_pylist())] / odds.sum(axis=1)
    return shown / judge["propensity_score"].to_numpy()


def resampled_error(weights: np.ndarray, naive: np.ndarray, clicks: np.ndarray) -> float:
    """Return the standard error of the difference of two policies' SNIPS, over resamplings of the judge's rows."""
    rng, differences = np.random.default_rng(0), []
    for _ in range(1000):
        rows = rng.integers(len(clicks), size=len(clicks))
        rates = [(it[rows] * clicks[rows]).sum() / it[rows].sum() for it in (weights, naive)]
        differences.append(rates[0] - rates[1])
    return float(np.std(differences))


if __name__ == "__main__":
    sys.exit(report(measure()))
