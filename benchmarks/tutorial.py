"""The basic retrieval tutorial on MovieLens-100k by this library: ids alone, vectors of width 32, Adagrad at 0.1, batches of 8,192.

The split is that of the peers' scripts: `numpy.random.default_rng(seed).permutation(100_000)[:80_000]` to train on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemaflow as sf

__all__ = ["BATCH", "TRAINING_ROWS", "Tutorial", "opened"]

WIDTH, RATE, BATCH, TRAINING_ROWS = 32, 0.1, 8192, 80_000
SCHEMA = """
version: 1
features:
  user_id: {dtype: string, tags: [user, id], vocabulary: learned}
  movie_title: {dtype: string, tags: [item, id], vocabulary: learned}
"""


@dataclass(frozen=True)
class Tutorial:
    """The tutorial's data as Parquet.

    Args:
        schema: Fitted to all users and films, as the tutorial's vocabularies are.
        training: The file of the ratings to train on.
        test: The other ratings.
        films: All films' titles.
    """

    schema: sf.Schema
    training: Path
    test: pa.Table
    films: pa.Table

    def model(self, layer: keras.layers.Layer | None = None, width: int = WIDTH) -> sf.TwoTowerModel:
        """Return two embeddings and, if given, a layer after each."""
        return sf.TwoTowerModel(
            self.schema,
            keras.layers.Identity() if layer is None else layer,
            embedding_options=sf.EmbeddingOptions(embedding_dim_default=width),
        )


@contextmanager
def opened(data: Path, seed: int = 42) -> Iterator[Tutorial]:
    """Write the training file, and remove it in the end.

    Args:
        data: The folder of MovieLens-100k.
        seed: Of the split.
    """
    columns = ["user_id", "movie_title"]
    ratings = pq.read_table(data / "interactions.parquet", columns=columns)
    films = pq.read_table(data / "items.parquet", columns=["movie_title"])["movie_title"].unique()
    order = np.random.default_rng(seed).permutation(len(ratings))
    with TemporaryDirectory() as folder:
        training, schema = Path(folder) / "train.parquet", Path(folder) / "schema.yaml"
        pq.write_table(ratings.take(order[:TRAINING_ROWS]), training)
        schema.write_text(SCHEMA, encoding="utf-8")
        fitted = sf.Schema.from_yaml(schema).fit(ratings)
        yield Tutorial(fitted, training, ratings.take(order[TRAINING_ROWS:]), pa.table({"movie_title": films}))
