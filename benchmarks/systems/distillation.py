"""Distillation: how much of a teacher the towers take over beside the clicks, for users never trained on.

    python benchmarks/systems/distillation.py

In the world of choices.py three models are trained for each of three seeds, all with the same steps on the same clicks:

    clicks    the softmax over the batch's items alone
    kl        beside it, four times the divergence from the teacher, on 32 items that the model finds nearest and 32 at random
    permuted  the same of a teacher whose items were exchanged at random: what helps is what a teacher knows

The teacher's scores are the planted ones. Overlap@k is the share of a model's best k items that are among the teacher's best k.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from figures import Figure, report
from systems.choices import ITEMS, Judged, World

import schemaflow as sf

SEEDS, EPOCHS, WEIGHT = 3, 6, 4.0
WORLD = {"affinity": 0.5, "cross": 2.0, "quality": 0.4, "clickbait": 0.4}


def measure(rounds: int = SEEDS) -> list[Figure]:
    """Train the models for each seed, and return what the teachers changed.

    Args:
        rounds: How many seeds.
    """
    found = [judged(seed) for seed in range(1, min(rounds, SEEDS) + 1)]
    figures = []
    for k, gain in ((10, 0.20), (50, 0.15)):
        figures.append(_change(f"overlap@{k}", found, "kl", lambda it, k=k: it.overlap[k], gain))
    figures.append(_change("recall@50 of clicks", found, "kl", lambda it: it.recall, -0.01))
    for k in (10, 50):
        figures.append(_change(f"overlap@{k}", found, "permuted", lambda it, k=k: it.overlap[k], -0.10, at_least=False))
    return figures


def _change(
    what: str,
    found: Sequence[dict[str, Judged]],
    kind: str,
    of: Callable[[Judged], float],
    bar: float,
    at_least: bool = True,
) -> Figure:
    pairs = [(of(it[kind]), of(it["clicks"])) for it in found]
    detail = ", ".join(f"{now:.3f} against {before:.3f}" for now, before in pairs)
    return Figure(f"{what}, {kind} less clicks alone", [now - before for now, before in pairs], bar, at_least, detail)


def judged(seed: int) -> dict[str, Judged]:
    """Return how each model ranks."""
    world = World(seed, **WORLD)
    permuted = world.truth.teacher[:, np.random.default_rng(seed).permutation(ITEMS)]
    teachers = {
        "clicks": [],
        "kl": [sf.DistillationTask(world.scorer(world.truth.teacher), loss_weight=WEIGHT)],
        "permuted": [sf.DistillationTask(world.scorer(permuted), loss_weight=WEIGHT)],
    }
    found = {}
    for name, tasks in teachers.items():
        found[name] = world.judge(world.trained([sf.RetrievalTask(), *tasks], EPOCHS))
        it = found[name]
        print(f"seed {seed}, {name}: overlap {it.overlap}, recall@50 of clicks {it.recall:.4f}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(report(measure()))
