"""Alignment: what a reward gains, what it costs in clicks and in distance, and what an anchor saves of a defective one.

    python benchmarks/systems/alignment.py

In the world of choices.py a base is trained on the clicks for each of three seeds, and fine-tuned towards a reward model,
the log odds `teacher - 2`, which clickbait has no part in:

    anchored    towards softmax(s0 + r / 0.8), beside 0.3 times the softmax over clicks
    pairwise    the same by pairs

and towards a defective reward model, which gives 20 of the 1,000 items 4 more:

    defective, cautious    anchored, with the beta of 2 that a reward model wants which is not to be trusted
    defective, unanchored  towards softmax(r) alone, by a `DistillationTask` that begins at the base

The reward of a ranking is always the true one,
`sigmoid(teacher - 2)` of its best 50 items, as a share of the best that 50 items can have, for users never trained on. The
divergence is `KL(softmax(s) || softmax(s0))` over all items.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from figures import Figure, report
from systems.choices import ITEMS, Judged, World

import schemaflow as sf

SEEDS, EPOCHS, TUNING = 3, 6, 6
BETA, CAUTIOUS, REHEARSAL = 0.8, 2.0, 0.3
DEFECTS, BONUS = 20, 4.0
WORLD = {"affinity": 0.5, "cross": 1.5, "quality": 0.5, "clickbait": 0.6}

Found = dict[str, dict[str, float]]


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train a base for each seed, fine-tune it, and return what each reward changed.

    Args:
        rounds: How many seeds.
    """
    found = [judged(seed) for seed in range(1, min(rounds, SEEDS) + 1)]
    divergences = [it["anchored"]["divergence"] for it in found]
    return [
        _change("reward", found, "anchored", 0.05),
        _change("recall", found, "anchored", -0.01),
        Figure("divergence from the base, anchored", divergences, 0.6, at_least=False),
        _change("reward", found, "pairwise", 0.0),
        _change("reward", found, "defective, cautious", 0.0),
        _change("reward", found, "defective, unanchored", 0.0, at_least=False),
    ]


def _change(what: str, found: Sequence[Found], name: str, bar: float, at_least: bool = True) -> Figure:
    pairs = [(it[name][what], it["base"][what]) for it in found]
    detail = ", ".join(f"{now:.3f} against {before:.3f}" for now, before in pairs)
    title = {"reward": "true reward", "recall": "recall@50 of clicks"}[what]
    return Figure(f"{title}, {name} less base", [now - before for now, before in pairs], bar, at_least, detail)


def judged(seed: int) -> Found:
    """Return the reward, the recall and the divergence of the base and of each model made of it."""
    world = World(seed, **WORLD)
    reward = world.truth.teacher - 2
    defects = np.random.default_rng(seed).choice(ITEMS, DEFECTS, replace=False)
    defective = reward.copy()
    defective[:, defects] += BONUS
    base = world.trained([sf.RetrievalTask()], EPOCHS)
    before, found = world.judge(base), {}

    def take(name: str, model: sf.TwoTowerModel) -> None:
        now = world.judge(model)
        filled = float(np.isin(np.argsort(-now.scores, axis=1)[:, :50], defects).mean())
        found[name] = {
            "reward": now.reward,
            "recall": now.recall,
            "divergence": _divergence(now, before),
            "defects": filled,
        }
        print(f"seed {seed}, {name}: { ({key: round(value, 4) for key, value in found[name].items()}) }", flush=True)

    def aligned(odds: Any, beta: float, form: str = "listwise") -> sf.TwoTowerModel:
        task = sf.RewardAlignmentTask(world.scorer(odds), base, beta, form)
        return world.trained([sf.RetrievalTask(loss_weight=REHEARSAL), task], TUNING)

    take("base", base)
    take("anchored", aligned(reward, BETA))
    take("pairwise", aligned(reward, BETA, "pairwise"))
    take("defective, cautious", aligned(defective, CAUTIOUS))
    take("defective, unanchored", world.trained([sf.DistillationTask(world.scorer(defective))], TUNING, base))
    return found


def _divergence(now: Judged, base: Judged) -> float:
    """Return `KL(softmax(s) || softmax(s0))`, the mean over users."""
    log_p, log_q = (it.scores - np.logaddexp.reduce(it.scores, axis=1, keepdims=True) for it in (now, base))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())


if __name__ == "__main__":
    sys.exit(report(measure()))
