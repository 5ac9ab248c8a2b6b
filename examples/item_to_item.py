"""From film to film: two towers of films, trained on pairs of films that were rated in one sitting.

Usage: python examples/item_to_item.py, with the data in $SCHEMAFLOW_DATA/ml-100k or ../shared/data/ml-100k.
"""

import os
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemaflow as sf
from schemaflow.data.sessions import pairs_within, sessions_of

root = Path(__file__).parent.parent
data = Path(os.environ.get("SCHEMAFLOW_DATA", root.parent / "shared" / "data")) / "ml-100k"

# a sitting ends where half an hour passes without a rating; each film is paired with those up to five places from it
ratings = pq.read_table(data / "interactions.parquet")
time, film = ratings["timestamp"].to_numpy(), ratings["movie_id"]
first, second = pairs_within(sessions_of(ratings["user_id"].to_numpy(), time, pause=30 * 60), time, window=5)
pairs = pa.table({"seed_movie": film.take(np.append(first, second)), "next_movie": film.take(np.append(second, first))})

keras.utils.set_random_seed(0)
schema = sf.Schema.from_yaml(root / "schemas" / "movielens_item_to_item.yaml").fit(pairs, data / "items.parquet")
model = sf.TwoTowerModel(schema, sf.MLPBlock([64]), query_tower_tag="x-seed", item_tower_tag="x-next")
model.compile(optimizer=keras.optimizers.Adam(0.003))
model.fit(pairs, batch_size=2048, epochs=1, tables=data, verbose=2)

films = pq.read_table(data / "items.parquet")
asked = films.filter(
    pc.is_in(films["movie_title"], pa.array(["Psycho (1960)", "Star Wars (1977)", "Toy Story (1995)"]))
)
_, found = model.to_index(films, k=6)(model.query_embeddings(asked))
titles = dict(zip(films["movie_id"].to_pylist(), films["movie_title"].to_pylist(), strict=True))
for seed, row in zip(asked["movie_id"].to_pylist(), found.numpy().astype(str), strict=True):
    print(f"\nrated soon before or after {titles[seed]}:")
    print("\n".join(f"  {titles[it]}" for it in row if it != seed))
