"""How long training takes until the tutorial's published accuracy, beside TensorFlow Recommenders.

    python benchmarks/quality.py

The basic retrieval tutorial on MovieLens-100k publishes a test top-100 accuracy of 0.2324 after 3 epochs of batches of 8,192.
Here the same two embeddings of width 32 are trained by Adagrad at 0.1 with batches of 2,048, until the share of test ratings
whose film is among the 100 best of all films is as high. Both are tested after every so many examples, and the clock stands
still meanwhile; it runs while batches are read. Each ratio is given from the end of the first step, which TensorFlow traces,
and from before it.
"""

import os
import statistics
import sys
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import peers
from data import data_folder
from figures import ROUNDS, Figure, compared, report
from tutorial import Tutorial, opened

import schemaflow as sf

TARGET, BATCH, THEIR_BATCH = 0.2324, 2048, 8192
SEED = 42


def measure(rounds: int = ROUNDS) -> list[Figure]:
    """Return our seconds over theirs."""
    folder = data_folder("ml-100k")
    with opened(folder, SEED) as tutorial:
        sides = {
            "ours": lambda: train(tutorial),
            "theirs": lambda: until(folder, TARGET, every=1),
            "tutorial": lambda: until(folder, 1.0, every=30),
        }
        found = compared(sides, rounds)
    return [
        figure("from the end of the first step, until 0.2324", found["ours"], found["theirs"], "warm_seconds"),
        figure("from before the first step, until 0.2324", found["ours"], found["theirs"], "seconds"),
        figure("from before the first step / their whole tutorial", found["ours"], found["tutorial"], "seconds"),
    ]


def figure(name: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], clock: str) -> Figure:
    """Return the ratio by one clock."""
    ratios = [one[clock] / other[clock] for one, other in zip(ours, theirs, strict=True)]
    sides = [
        f"{statistics.median(run[clock] for run in runs):.3g} s for {statistics.median(run['accuracy'] for run in runs):.3f}"
        f" in {statistics.median(run['steps'] for run in runs):.0f} steps of {batch:,}"
        for runs, batch in ((ours, BATCH), (theirs, THEIR_BATCH))
    ]
    return Figure(
        f"seconds of training / TensorFlow Recommenders, {name}", ratios, 1 / 20, False, " against ".join(sides)
    )


def until(folder: Any, target: float, every: int) -> dict[str, Any]:
    """Train the tutorial as it is published, until the target or the end."""
    return peers.run("tfrs", "tfrs_time_to_quality.py", folder.parent, SEED, target, every)


def train(tutorial: Tutorial) -> dict[str, Any]:
    """Train until the target, and return seconds, steps and the accuracy."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    model, watch = tutorial.model(), UntilGood(tutorial)
    model.compile(sf.optimizers.Adagrad(0.1))
    model.fit(tutorial.training, batch_size=BATCH, callbacks=[watch], verbose=0)
    if watch.accuracy < TARGET:
        raise RuntimeError(f"an epoch reached {watch.accuracy:.4f} only")
    return {
        "seconds": watch.seconds,
        "warm_seconds": watch.seconds - watch.first_step,
        "accuracy": watch.accuracy,
        "steps": watch.steps,
    }


class UntilGood(keras.callbacks.Callback):
    """A test after each step, which ends training where the target is reached; and the seconds in between.

    Args:
        tutorial: Has the test.
    """

    def __init__(self, tutorial: Tutorial) -> None:
        super().__init__()
        self.tutorial = tutorial
        self.seconds = self.first_step = self.accuracy = 0.0
        self.steps, self.resumed = 0, 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Start the clock, the first time."""
        self.resumed = self.resumed or time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop the clock, test, and start it again."""
        self.seconds += time.perf_counter() - self.resumed
        self.steps += 1
        self.first_step = self.first_step or self.seconds
        found = sf.evaluate(self.model, self.tutorial.test, self.tutorial.films, ks=(100,))
        self.accuracy = found["hit_rate@100"]
        self.model.stop_training = self.accuracy >= TARGET
        self.resumed = time.perf_counter()


if __name__ == "__main__":
    sys.exit(report(measure()))
