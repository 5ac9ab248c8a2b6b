"""Alignment: what a reward gains, what it costs in clicks and in distance, and what an anchor saves of a defective one.

    python benchmarks/systems/alignment.py

In the world of choices.py a base is trained on the clicks for each of three seeds, and fine-tuned towards the true reward
`sigmoid(teacher - 2)`, which clickbait has no part in:

    anchored    towards softmax(s0 + r / beta), beta 1, beside 0.3 times the softmax over clicks
    pairwise    the same by pairs
    unanchored  towards softmax(r) alone, by a `DistillationTask` that begins at the base

and once more towards a defective reward model, which gives 20 of the 1,000 items 4 more. The reward of a ranking is always the
true one: of its best 50 items, as a share of the best that 50 items can have, for users never trained on. The divergence is
`KL(softmax(s) || softmax(s0))` over all items.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from figures import Figure, report
from systems.choices import ITEMS, Judged, World

import schemaflow as sf

SEEDS, EPOCHS, TUNING = 3, 6, 6
BETA, REHEARSAL = 1.0, 0.3
DEFECTS, BONUS = 20, 4.0


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train a base for each seed, fine-tune it, and return what each reward changed.

    Args:
        rounds: How many seeds.
    """
    found = [judged(seed) for seed in range(1, min(rounds, SEEDS) + 1)]
    figures = []
    for name in ("anchored", "pairwise"):
        figures += [
            _change(f"reward, {name} less base", found, name, "reward", 0.05),
            _change(f"recall@50 of clicks, {name} less base", found, name, "recall", -0.01),
            Figure(f"divergence from the base, {name}", [it[f"{name} divergence"] for it in found], 0.6, False),
        ]
    return [
        *figures,
        _change("true reward, defective reward model, anchored less base", found, "defective anchored", "reward", 0.0),
        _change(
            "true reward, defective reward model, unanchored less base",
            found,
            "defective unanchored",
            "reward",
            0.0,
            False,
        ),
    ]


def _change(what: str, found: list[dict[str, Any]], name: str, of: str, bar: float, at_least: bool = True) -> Figure:
    pairs = [(getattr(it[name], of), getattr(it["base"], of)) for it in found]
    detail = ", ".join(f"{now:.3f} against {before:.3f}" for now, before in pairs)
    return Figure(what, [now - before for now, before in pairs], bar, at_least, detail)


def judged(seed: int) -> dict[str, Any]:
    """Return how the base and each fine-tuned model rank, and how far these went."""
    world = World(seed)
    reward = world.truth.relevance
    defective = reward.copy()
    defects = np.random.default_rng(seed).choice(ITEMS, DEFECTS, replace=False)
    defective[:, defects] += BONUS
    base = world.trained([sf.RetrievalTask()], EPOCHS)
    found: dict[str, Any] = {"base": world.judge(base)}

    def tune(name: str, model: sf.TwoTowerModel) -> None:
        found[name] = now = world.judge(model)
        found[f"{name} divergence"] = _divergence(now, found["base"])
        filled = np.isin(np.argsort(-now.scores, axis=1)[:, :50], defects).mean()
        print(
            f"seed {seed}, {name}: reward {now.reward:.4f}, recall@50 {now.recall:.4f}, divergence"
            f" {found[f'{name} divergence']:.3f}, defective items in the lists {filled:.3f}",
            flush=True,
        )

    tune("base", base)
    for name, told, form in (
        ("anchored", reward, "listwise"),
        ("pairwise", reward, "pairwise"),
        ("defective anchored", defective, "listwise"),
    ):
        align = sf.RewardAlignmentTask(world.scorer(told), base, BETA, form)
        tune(name, world.trained([sf.RetrievalTask(loss_weight=REHEARSAL), align], TUNING))
    for name, told in (("unanchored", reward), ("defective unanchored", defective)):
        tune(name, world.trained([sf.DistillationTask(world.scorer(told))], TUNING, base))
    return found


def _divergence(now: Judged, base: Judged) -> float:
    """Return `KL(softmax(s) || softmax(s0))`, the mean over users."""
    log_p, log_q = (it.scores - np.logaddexp.reduce(it.scores, axis=1, keepdims=True) for it in (now, base))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


if __name__ == "__main__":
    sys.exit(report(measure()))
