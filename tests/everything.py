"""A shop whose schema says everything that the grammar can, and its data."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = """\
version: 1
name: everything
tables: {users: {file: users.parquet, key: user_id}, items: {file: items.parquet, key: item_id}}
features:
  user_id:     {dtype: string, tags: [user, id], vocabulary: learned, oov: 4}
  age:         {dtype: int32, tags: [user, continuous], normalize: standard, missing: mean}
  income:      {dtype: float32, tags: [user, continuous], buckets: [100, 1e3], missing: {value: 0}}
  spent:       {dtype: float64, tags: [user, continuous], normalize: log1p}
  height:      {dtype: float32, tags: [user], normalize: min-max, missing: {value: 1.5}}
  plan:        {dtype: string, tags: [user, categorical], vocabulary: [basic, gold], missing: {value: basic}}
  city:        {dtype: string, tags: [user, categorical], vocabulary: {file: cities.txt}}
  seen:        {dtype: string, tags: [user, sequence], domain: item, list: {max_length: 5}}
  seen_how:    {dtype: string, tags: [user, action], vocabulary: [view, buy], list: {max_length: 5, aligned_with: seen}}
  seen_days:   {dtype: float32, tags: [user], buckets: [1, 7, 30], list: {max_length: 5, aligned_with: seen}}
  device:      {dtype: string, tags: [context, categorical], hash: 50}
  store:       {dtype: int64, tags: [context, categorical], hash: 7, missing: error}
  search:      {dtype: string, tags: [context, text], hash: 100, text: {standardize: lower, split: character}}
  referrer:    {dtype: string, tags: [session, categorical], vocabulary: learned}
  session:     {dtype: int64, tags: [session, id]}
  hour:        {dtype: int64, tags: [context], column: moment, time: {take: hour, unit: ms}}
  weekday:     {dtype: int64, tags: [context], column: moment, time: {take: weekday, unit: ms}}
  freshness:   {dtype: int64, tags: [context], column: moment, time: {take: age, unit: ms}, normalize: standard}
  moment:      {dtype: int64, tags: [time], time: {unit: ms}}
  item_id:     {dtype: string, tags: [item, id], vocabulary: learned, domain: item, embedding: {pretrained: {file: vectors.parquet, key: item, vector: v}}}
  title:       {dtype: string, tags: [item, text], vocabulary: learned, embedding: {dim: 6, combiner: sqrtn}}
  words:       {dtype: string, tags: [item, categorical], vocabulary: learned, list: {weights: word_counts}, embedding: {initializer: random_normal}}
  word_counts: {dtype: int32, tags: [item, weight], list: {}}
  price:       {dtype: float32, tags: [item, continuous], buckets: {quantiles: 4}}
  released:    {dtype: int64, tags: [item], time: {take: age}, buckets: {quantiles: 3}}
  picture:     {dtype: float32, tags: [item, embedding], embedding: {dim: 3}, missing: {value: 0}}
  shelf:       {dtype: int32, tags: [item, categorical], cardinality: 9, embedding: {dim: 2, trainable: false}}
  bought:      {dtype: int8, tags: [target, binary]}
  stars:       {dtype: float32, tags: [target, regression], value: 0.5}
  place:       {dtype: int8, tags: [position], cardinality: 4}
  surface:     {dtype: string, tags: [bias, categorical], vocabulary: learned}
  importance:  {dtype: float32, tags: [weight]}
"""

USERS, ITEMS, EVENTS = 40, 30, 500
WORDS = ("red", "green", "blue", "old", "new", "tea")


def write(folder: Path) -> Path:
    """Write the schema, the tables and the files it names; return the schema's path."""
    rng = np.random.default_rng(3)
    users, items = [f"u{it}" for it in range(USERS)], [f"i{it}" for it in range(ITEMS)]

    def some(values: list, share: float = 0.1) -> list:  # type: ignore[type-arg]
        return [None if rng.random() < share else value for value in values]

    pq.write_table(
        pa.table({
            "user_id": users,
            "age": pa.array(some(rng.integers(18, 80, USERS).tolist()), pa.int32()),
            "income": pa.array(some(rng.lognormal(6, 2, USERS).tolist()), pa.float32()),
            "spent": rng.lognormal(2, 1, USERS),
            "height": pa.array(some(rng.normal(1.7, 0.1, USERS).tolist()), pa.float32()),
            "plan": some(rng.choice(["basic", "gold"], USERS).tolist()),
            "city": rng.choice(["Rome", "Oslo", "Lima", "Bari"], USERS).tolist(),
        }),
        folder / "users.parquet",
    )  # fmt: skip
    seen = [list(rng.choice(items, rng.integers(0, 6))) for _ in range(EVENTS)]
    words = [list(rng.choice(WORDS, rng.integers(0, 4), replace=False)) for _ in items]
    pq.write_table(
        pa.table({
            "item_id": items,
            "title": [f"The {rng.choice(WORDS)} {rng.choice(WORDS).title()}-Thing ({it})" for it in range(ITEMS)],
            "words": pa.array(words, pa.list_(pa.string())),
            "word_counts": pa.array([[1 + int(it) for it in rng.integers(0, 5, len(row))] for row in words], pa.list_(pa.int32())),
            "price": rng.lognormal(2, 1, ITEMS).astype(np.float32),
            "released": pa.array(rng.integers(1_500_000_000, 1_700_000_000, ITEMS), pa.timestamp("s")),
            "picture": pa.array(some(rng.normal(size=(ITEMS, 3)).tolist()), pa.list_(pa.float32())),
            "shelf": pa.array(rng.integers(0, 9, ITEMS), pa.int32()),
        }),
        folder / "items.parquet",
    )  # fmt: skip
    pq.write_table(
        pa.table({
            "user_id": rng.choice(users, EVENTS).tolist(),
            "item_id": rng.choice(items[:-1], EVENTS, p=np.arange(1, ITEMS) / np.arange(1, ITEMS).sum()).tolist(),
            "seen": seen,
            "seen_how": [list(rng.choice(["view", "buy"], len(row))) for row in seen],
            "seen_days": pa.array([list(rng.gamma(1, 5, len(row))) for row in seen], pa.list_(pa.float32())),
            "device": some(rng.choice(["phone", "tablet", "tv"], EVENTS).tolist()),
            "store": rng.integers(0, 10**12, EVENTS),
            "search": some(rng.choice(["Tea Cup", "thé", "x"], EVENTS).tolist()),
            "referrer": rng.choice(["ad", "mail"], EVENTS).tolist(),
            "session": rng.integers(0, 200, EVENTS),
            "moment": pa.array(1_700_000_000_000 + rng.integers(0, 30 * 86_400_000, EVENTS), pa.timestamp("ms", "UTC")),
            "surface": rng.choice(["home", "search"], EVENTS).tolist(),
            "bought": rng.random(EVENTS) < 0.3,
            "stars": rng.integers(1, 6, EVENTS).astype(np.float32),
            "place": pa.array(rng.integers(1, 4, EVENTS), pa.int8()),
            "importance": rng.random(EVENTS).astype(np.float32),
        }),
        folder / "interactions.parquet",
    )  # fmt: skip
    pq.write_table(
        pa.table(
            {
                "item": items[: ITEMS // 2],
                "v": pa.array(rng.normal(size=(ITEMS // 2, 5)).tolist(), pa.list_(pa.float32())),
            }
        ),
        folder / "vectors.parquet",
    )
    (folder / "cities.txt").write_text("Oslo\nRome\nLima\n", encoding="utf-8")
    path = folder / "everything.yaml"
    path.write_text(SCHEMA, encoding="utf-8")
    return path
