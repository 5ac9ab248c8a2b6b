"""Generous users: a ranking learned from clicks that are worth many times as much to some users, against the true relevance.

    python benchmarks/run.py systems/users

The simulator's world of 1,000 users and 200 items: 20,000 slates of 5 items at random, all looked at, so that a click tells
the relevance. A click's amount, the target that has the value, is its user's own: the exponential of an offset of deviation
1.5, which correlates by 0.8 with the first of the user's factors. So generous users have a taste of their own, and the tenth of
them who give most give more than half of all. Linear towers on the exact factors, with a number for each item, softmax
weighted by the amounts, 30 epochs.

    naive    amounts as they are
    users    UserDebiasing()

NDCG@10 and Spearman's correlation per user, all 200 items ranked, with the true relevance as the gain; each user counts once.
The rate that is learned is compared with the truth, the user's amount times the mean relevance, as logarithms over users: the
vectors know the factors alone, so that 0.8 or a little more is all that can be found.
"""

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from figures import Figure, report
from systems.factors import ndcg, spearman, trained

import schemaflow as sf
from schemaflow.datasets import Slates, simulate

SEEDS = 3
USERS, ITEMS, SLATES, SLOTS, OFFSETS = 1000, 200, 20_000, 5, 1.5
EPOCHS, BATCH_SIZE = 30, 2048
FEATURES = ("user_factors", "item_id", "item_factors", "amount")


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train both models for each seed, and return how they compare.

    Args:
        rounds: How many seeds.
    """
    found = [trained_and_judged(seed) for seed in range(1, rounds + 1)]
    figures = []
    for metric, title in (("ndcg", "NDCG@10"), ("spearman", "Spearman")):
        shown = {name: ", ".join(f"{it[name][metric]:.4f}" for it in found) for name in ("users", "naive")}
        gained = [it["users"][metric] - it["naive"][metric] for it in found]
        detail = f"{shown['users']} against {shown['naive']}"
        figures.append(Figure(f"{title} where some users are generous, debiased - naive", gained, 0.03, True, detail))
    rates = [it["users"]["rate"] for it in found]
    share = ", ".join(f"{it['naive']['heaviest']:.2f}" for it in found)
    detail = f"the tenth who give most give {share} of all"
    figures.append(Figure("correlation of the users' rates with the truth, logarithms", rates, 0.75, True, detail))
    return figures


def trained_and_judged(seed: int) -> dict[str, dict[str, float]]:
    """Return what each model comes to."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        asked = Slates(SLATES, SLOTS, logger=0, examination=(1.0,) * SLOTS, offsets=OFFSETS)
        world = simulate(folder, asked, users=USERS, items=ITEMS, seed=seed)
        log, generosity = pq.read_table(world.interactions), np.exp(world.offsets)
        user, item = world.rows(log["user_id"].to_pylist()), world.rows(log["item_id"].to_pylist())
        # clicks anew: those of the log are more where an offset is high, and here each is worth more
        clicked = np.random.default_rng(seed).random(len(user)) < world.relevance[user, item]
        amounts = clicked * generosity[user]
        log = log.append_column("amount", pa.array(amounts.astype(np.float32)))
        text = world.schema.read_text(encoding="utf-8").replace(", value: 1", "")
        text += "  amount: {dtype: float32, tags: [target], value: 1}\n"
        schema = sf.Schema.from_config({"fitted": {}, "yaml": text}).select_by_name(FEATURES).fit(log, world.items)
        of_users = np.sort(np.bincount(user, amounts, minlength=USERS))
        truth = np.log(generosity * world.relevance.mean(axis=1))
        for name, terms in (("naive", []), ("users", [sf.UserDebiasing()])):
            sizes = {"rows": SLATES * SLOTS, "epochs": EPOCHS, "batch_size": BATCH_SIZE}
            model = trained(schema, log, terms, seed, **sizes, tables=folder)
            queries = model.query_embeddings(world.users)
            scores = queries @ model.candidate_embeddings(world.items).T  # [users, items]
            found[name] = {
                "ndcg": ndcg(scores, world.relevance, 10),
                "spearman": spearman(scores, world.relevance),
                "heaviest": float(of_users[-USERS // 10 :].sum() / of_users.sum()),
            }
            if terms:
                found[name]["rate"] = float(np.corrcoef(np.log(terms[0].rate(queries)), truth)[0, 1])
            print(f"seed {seed}, {name}: {found[name]}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(report(measure()))
