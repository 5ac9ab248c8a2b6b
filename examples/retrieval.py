"""The retrieval tutorial of TensorFlow Recommenders, step by step: MovieLens-100k by ids, from ratings to a served index.

Usage: python examples/retrieval.py [FOLDER], with the data in $SCHEMAFLOW_DATA/ml-100k or ../shared/data/ml-100k. Bundles
are written to the folder. The tutorial takes 89 lines of code for the same steps, without the last one.
"""

import os
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemaflow as sf

root, folder = Path(__file__).parent.parent, Path(sys.argv[1] if len(sys.argv) > 1 else "retrieval-bundles")
data = Path(os.environ.get("SCHEMAFLOW_DATA", root.parent / "shared" / "data")) / "ml-100k"

# Preparing the data set: who rated which film, and all films; 80% of the ratings at random to train on
ratings = pq.read_table(data / "interactions.parquet", columns=["user_id", "movie_title"])
movies = pa.table({"movie_title": pq.read_table(data / "items.parquet")["movie_title"].unique()})
print(ratings.slice(0, 1).to_pylist(), movies.slice(0, 1).to_pylist())
order = np.random.default_rng(42).permutation(100_000)
train, test = ratings.take(order[:80_000]), ratings.take(order[80_000:])

# Vocabularies, the query tower, the candidate tower, the metric, the loss and the full model
keras.utils.set_random_seed(42)
schema = sf.Schema([
    sf.Feature(name="user_id", dtype="string", tags=["user", "id"], vocabulary="learned"),
    sf.Feature(name="movie_title", dtype="string", tags=["item", "id"], vocabulary="learned"),
]).fit(train, movies)  # fmt: skip
task, width = sf.RetrievalTask(metrics=[sf.FactorizedTopK(movies)]), sf.EmbeddingOptions(embedding_dim_default=32)
model = sf.TwoTowerModel(schema, keras.layers.Identity(), embedding_options=width, prediction_tasks=task)

# Fitting and evaluating
model.compile(optimizer=sf.optimizers.Adagrad(0.1))
model.fit(train, batch_size=8192, epochs=3, verbose=2)
print(model.evaluate(test, batch_size=4096, return_dict=True, verbose=0))

# Making predictions: user 42 by the id as it stands in the data
_, titles = model.to_index(movies)(np.array(["42"]), k=3)
print("Recommendations for user 42:", titles[0].numpy().astype(str))

# Model serving: export, and load it back
model.export(folder / "exact", movies)
exact = sf.Recommender.load(folder / "exact")
print("Recommendations:", exact.recommend({"user_id": ["42"]}, k=3).identifiers[0])

# The same with an approximate index, in TensorFlow's own operations
model.export(folder / "approximate", movies, index=sf.IVF())
approximate = sf.Recommender.load(folder / "approximate")
print("Recommendations from the approximate index:", approximate.recommend({"user_id": ["42"]}, k=3).identifiers[0])

# Item-to-item recommendation
print("Like Toy Story:", exact.similar_items(["Toy Story (1995)"], k=3).identifiers[0])
