"""Linear towers on the simulator's exact factors, and how well they rank by its truth."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import schemaflow as sf

DIM, RATE = 16, 0.01


def trained(
    schema: sf.Schema,
    log: Any,
    terms: Sequence[Any],
    seed: int,
    *,
    rows: int,
    epochs: int,
    batch_size: int,
    **options: Any,
) -> sf.TwoTowerModel:
    """Return a model of a world's factors, with a number for each item, trained on its log.

    Args:
        schema: Of the log.
        log: The interactions.
        terms: The debiasing.
        seed: Of the weights and the order.
        rows: How many the rate goes down over, an epoch.
        epochs: How many.
        batch_size: Rows a batch, so many that one holds every item.
        **options: Of `fit`.
    """
    keras.utils.set_random_seed(seed)
    model = sf.TwoTowerModel(
        schema,
        sf.MLPBlock([DIM]),
        embedding_options=sf.EmbeddingOptions(embedding_dims={"item_id": 1}),  # a number for each item
        correction=None,  # a batch holds every item
        debiasing=terms,
    )
    steps = epochs * rows // batch_size
    model.compile(sf.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, steps)))
    model.fit(log, batch_size=batch_size, epochs=epochs, verbose=0, **options)
    return model


def ndcg(scores: np.ndarray, gains: np.ndarray, k: int) -> float:
    """Return the mean over rows of the discounted gain of the k best, in units of the best there is."""
    discount = 1 / np.log2(np.arange(2, k + 2))
    found = np.take_along_axis(gains, np.argsort(-scores, axis=1)[:, :k], axis=1) @ discount
    return float(np.mean(found / (-np.sort(-gains, axis=1)[:, :k] @ discount)))


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Return the mean over rows of the correlation of ranks."""
    ranks = [np.argsort(np.argsort(it, axis=1), axis=1).astype(float) for it in (left, right)]
    x, y = (it - it.mean(axis=1, keepdims=True) for it in ranks)
    return float(np.mean((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))))
