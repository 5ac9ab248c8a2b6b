"""Data to try things on: generated, with a structure that a model should find."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemaflow.errors import ConfigError

__all__ = ["DataFolder", "synthetic"]

GENRES = (
    "action",
    "comedy",
    "crime",
    "drama",
    "family",
    "fantasy",
    "history",
    "horror",
    "music",
    "mystery",
    "romance",
    "western",
)
COUNTRIES = ("BR", "DE", "IN", "JP", "KE", "US")


@dataclass(frozen=True)
class DataFolder:
    """A folder of Parquet files and the schema that describes them."""

    folder: Path

    @property
    def schema(self) -> Path:
        """The schema file."""
        return self.folder / "schema.yaml"

    @property
    def interactions(self) -> Path:
        """One row for each interaction, in the order of time."""
        return self.folder / "interactions.parquet"

    @property
    def users(self) -> Path:
        """One row for each user."""
        return self.folder / "users.parquet"

    @property
    def items(self) -> Path:
        """One row for each item."""
        return self.folder / "items.parquet"


def synthetic(
    folder: str | Path, *, users: int = 1000, items: int = 500, interactions: int = 40_000, seed: int = 0
) -> DataFolder:
    """Write interactions with a planted structure, their users and items, and the schema.

    Each genre is a direction of an 8-dimensional space. An item lies between its one to three genres, a user near two
    favourite ones; a country leans to a genre of its own. User u chooses distinct items in order of
    `5 u.i + log popularity_i + Gumbel noise`, with popularity falling as 1/rank^0.8, so a model that finds the tastes
    beats popularity, and popularity beats chance.

    Args:
        folder: Where to write.
        users: How many, at least 2.
        items: How many, at least 20.
        interactions: About how many; a user has 5 at least and half of the items at most.
        seed: The same seed writes the same data.

    Raises:
        ConfigError: Fewer users or items than that, or fewer than 5 interactions a user.

    Example:
        >>> import tempfile
        >>> data = synthetic(tempfile.mkdtemp(), users=10, items=20, interactions=60)
        >>> pq.read_schema(data.items).names
        ['item_id', 'genres', 'price']
    """
    if users < 2 or items < 20 or interactions < 5 * users:
        raise ConfigError(
            f"{users} users, {items} items, {interactions} interactions; expected at least 2, 20 and 5 for each user"
        )
    data = DataFolder(Path(folder))
    try:
        data.folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise ConfigError(
            f"{data.folder}: no data can be written there: {reason.strerror}; name another folder"
        ) from None
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(len(GENRES), 8))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    genres = [np.sort(rng.choice(len(GENRES), size=rng.integers(1, 4), replace=False)) for _ in range(items)]
    item_tastes = np.stack([directions[it].mean(axis=0) for it in genres]) + 0.2 * rng.normal(size=(items, 8))
    popularity = rng.permutation(1.0 / np.arange(1, items + 1) ** 0.8)

    country = rng.integers(len(COUNTRIES), size=users)
    favourite = rng.integers(len(GENRES), size=(users, 2))
    user_tastes = directions[favourite].mean(axis=1) + 0.5 * directions[country] + 0.2 * rng.normal(size=(users, 8))

    wanted = rng.lognormal(sigma=0.7, size=users)
    counts = np.clip(np.round(wanted / wanted.sum() * interactions), 5, items // 2).astype(int)
    utility = 5.0 * user_tastes @ item_tastes.T + np.log(popularity) + rng.gumbel(size=(users, items))
    chosen = np.argsort(-utility, axis=1)
    user = np.repeat(np.arange(users), counts)
    item = np.concatenate([chosen[it, :count] for it, count in enumerate(counts)])
    order = rng.permutation(len(user))
    user_ids = np.array([f"u{number:05d}" for number in range(users)])
    item_ids = np.array([f"i{number:05d}" for number in range(items)])
    start = 1_700_000_000
    pq.write_table(
        pa.table(
            {
                "user_id": user_ids[user[order]],
                "item_id": item_ids[item[order]],
                "timestamp": start + np.sort(rng.integers(90 * 86_400, size=len(order))),
            }
        ),
        data.interactions,
    )
    ages = np.clip(rng.normal(38, 12, size=users), 16, 90).astype(np.int32)
    pq.write_table(
        pa.table({"user_id": user_ids, "age": ages, "country": [COUNTRIES[it] for it in country]}), data.users
    )
    prices = np.round(rng.lognormal(2.0, 0.5, size=items), 2).astype(np.float32)
    pq.write_table(
        pa.table({"item_id": item_ids, "genres": [[GENRES[it] for it in row] for row in genres], "price": prices}),
        data.items,
    )
    data.schema.write_text(_SCHEMA, encoding="utf-8")
    return data


_SCHEMA = """\
# Generated by schemaflow.datasets.synthetic.
version: 1
name: synthetic
tables:
  users: {file: users.parquet, key: user_id}
  items: {file: items.parquet, key: item_id}
features:
  user_id:   {dtype: string, tags: [user, id], vocabulary: learned}
  age:       {dtype: int32, tags: [user, continuous], normalize: standard}
  country:   {dtype: string, tags: [user, categorical], vocabulary: learned}
  item_id:   {dtype: string, tags: [item, id], vocabulary: learned}
  genres:    {dtype: string, tags: [item, categorical], list: {max_length: 3}, vocabulary: learned}
  price:     {dtype: float32, tags: [item, continuous], normalize: standard}
  timestamp: {dtype: int64, tags: [time]}
"""
