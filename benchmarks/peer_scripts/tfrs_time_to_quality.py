"""TensorFlow Recommenders, its basic retrieval tutorial on MovieLens-100k: seconds of training until it is good enough.

    peers.run("tfrs", "tfrs_time_to_quality.py", data, 42, 0.2324, 10)     # seed, target, steps between tests: the defaults

The tutorial's setting: ids alone, vectors of width 32, Adagrad at 0.1, batches of 8,192 shuffled once, 80,000 ratings to
train on and 20,000 to test, a softmax over the batch, 3 epochs of 10 steps. The test's top-100 accuracy over all films is
measured after every so many steps; training ends where it reaches the target (0.2324 is what the tutorial publishes), or with
the third epoch. What is trained on is `numpy.random.default_rng(seed).permutation(100_000)[:80_000]`, the rest is the test.

Prints one JSON object:
    seconds           of training, from the moment before the first step, which TensorFlow traces, to the end of the last
    warm_seconds      the same from the end of the first step
    accuracy, steps   at the end; `reached` tells whether accuracy is at least target
    history           steps, accuracy and seconds at each test
The clock stands still while the test is scored, and runs while batches are made.
"""

import json
import os
import sys
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_recommenders as tfrs

WIDTH, RATE, BATCH, EPOCHS, TRAINING_ROWS = 32, 0.1, 8192, 3, 80_000
ACCURACY = "factorized_top_k/top_100_categorical_accuracy"


class Tutorial(tfrs.Model):
    """Two embeddings, each found by a string, and their dot product."""

    def __init__(self, users, films, catalogue):
        super().__init__()
        self.query, self.candidate = embedding(users), embedding(films)
        encoded = tf.data.Dataset.from_tensor_slices(catalogue).batch(128).map(self.candidate)
        self.task = tfrs.tasks.Retrieval(metrics=tfrs.metrics.FactorizedTopK(candidates=encoded))

    def compute_loss(self, inputs, training=False):
        """Return the task's loss."""
        pair = self.query(inputs["user"]), self.candidate(inputs["film"])
        return self.task(*pair, compute_metrics=not training)


class UntilGood(tf.keras.callbacks.Callback):
    """A test after every so many steps, which ends training where the target is reached; and the seconds in between."""

    def __init__(self, test, target, every):
        super().__init__()
        self.test, self.target, self.every = test, target, every
        self.seconds, self.first_step, self.steps, self.history = 0.0, None, 0, []
        self.resumed = None

    def on_train_batch_begin(self, batch, logs=None):
        """Start the clock, the first time."""
        self.resumed = self.resumed or time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        """Stop the clock, test, and start it again."""
        now = time.perf_counter()
        self.steps += 1
        self.first_step = self.first_step or now - self.resumed
        if self.steps % self.every == 0:
            self.seconds += now - self.resumed
            accuracy = float(self.model.evaluate(self.test, return_dict=True, verbose=0)[ACCURACY])
            self.history.append({"steps": self.steps, "accuracy": round(accuracy, 4), "seconds": self.seconds})
            self.model.stop_training = accuracy >= self.target
            self.resumed = time.perf_counter()


def embedding(values):
    """Return a layer of strings to vectors."""
    known = np.unique(values)
    lookup = tf.keras.layers.StringLookup(vocabulary=known, mask_token=None)
    return tf.keras.Sequential([lookup, tf.keras.layers.Embedding(len(known) + 1, WIDTH)])


def main(data, seed=42, target=0.2324, every=10):
    """Train, and print what came of it."""
    ratings = pq.read_table(f"{data}/ml-100k/interactions.parquet", columns=["user_id", "movie_title"])
    films = pq.read_table(f"{data}/ml-100k/items.parquet", columns=["movie_title"])
    users, titles, catalogue = (
        np.array(it.to_pylist()).astype(str)
        for it in (ratings["user_id"], ratings["movie_title"], films["movie_title"])
    )
    order = np.random.default_rng(seed).permutation(len(users))
    training, test = (
        tf.data.Dataset.from_tensor_slices({"user": users[rows], "film": titles[rows]})
        for rows in (order[:TRAINING_ROWS], order[TRAINING_ROWS:])
    )
    training, test = training.shuffle(100_000, seed=seed).batch(BATCH).cache(), test.batch(4096).cache()

    tf.random.set_seed(seed)
    model, watch = Tutorial(users, titles, catalogue), UntilGood(test, target, every)
    model.compile(optimizer=tf.keras.optimizers.Adagrad(RATE))
    model.fit(training, epochs=EPOCHS, callbacks=[watch], verbose=0)
    last = watch.history[-1]
    outcome = {"peer": "tfrs", "version": tfrs.__version__, "target": target, "reached": last["accuracy"] >= target}
    print(json.dumps(outcome | last | {"warm_seconds": last["seconds"] - watch.first_step, "history": watch.history}))


if __name__ == "__main__":
    main(sys.argv[1], *(kind(it) for kind, it in zip((int, float, int), sys.argv[2:], strict=False)))
