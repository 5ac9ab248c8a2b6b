"""MovieLens-100k from Python: every feature of the schema, training, evaluation, a bundle, recommendations.

Usage: python examples/movielens.py [BUNDLE], with the data in $SCHEMAFLOW_DATA/ml-100k or ../shared/data/ml-100k.
"""

import os
import sys
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq

import schemaflow as sf

root = Path(__file__).parent.parent
data = Path(os.environ.get("SCHEMAFLOW_DATA", root.parent / "shared" / "data")) / "ml-100k"
bundle = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("movielens-bundle")

# the split of the TensorFlow Recommenders tutorial: 80% of the ratings, at random
ratings = pq.read_table(data / "interactions.parquet")
order = np.random.default_rng(42).permutation(ratings.num_rows)
train, test = ratings.take(order[:80_000]), ratings.take(order[80_000:])

keras.utils.set_random_seed(0)
schema = sf.Schema.from_yaml(root / "schemas" / "movielens_100k.yaml")
schema = schema.fit(train, data / "items.parquet", data / "users.parquet")
model = sf.TwoTowerModel(schema, sf.MLPBlock([128, 64]))
model.summary()
model.compile(optimizer=keras.optimizers.Adam(0.002))
model.fit(train, batch_size=512, epochs=4, tables=data, verbose=2)

print(sf.evaluate(model, test, data / "items.parquet", ks=(10, 100), exclude=train, tables=data))

recommender = model.export(bundle, data / "items.parquet")
people = pq.read_table(data / "users.parquet").to_pylist()
user = next(person for person in people if person["user_id"] == "42")
seen = [row["movie_id"] for row in train.to_pylist() if row["user_id"] == "42"]
query = {name: [user[name]] for name in ("user_id", "age", "gender", "occupation", "zip_code")}
answer = recommender.recommend(query, k=5, exclude=seen)
titles = {row["movie_id"]: row["movie_title"] for row in pq.read_table(data / "items.parquet").to_pylist()}
print("\nrecommended to user 42, without what they have rated:")
for identifier, score in zip(answer.identifiers[0], answer.scores[0], strict=True):
    print(f"{score:7.3f}  {titles[identifier]}")
