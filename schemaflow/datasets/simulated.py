"""Logs of a world whose truth is known: what users want, what they were shown, what they saw, and what misled them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from schemaflow.datasets.folder import DataFolder, made_folder, names
from schemaflow.errors import ConfigError

__all__ = ["Choices", "Simulation", "Slates", "simulate"]

Floats = npt.NDArray[np.float64]

DEVICES = ("desktop", "phone")
START = 1_700_000_000
PURCHASES = 0.5
"""A click becomes a purchase with this probability times the relevance."""

ALONG = 0.8
"""The correlation of the users' offsets with their first factor."""


@dataclass(frozen=True)
class Slates:
    """A log of impressions: each slate shows items that were drawn at random, in the order of a logger that errs.

    A slate's items are ordered by `logger * (teacher - 2) + boost_i + noise`, the highest in position 1. A row is an
    impression; it is clicked with probability `examination[position] * sigmoid(teacher - 2 + offset_u)`, and a click is a
    purchase with probability `relevance / 2`.

    Args:
        slates: How many, in the order of time, 60 seconds apart.
        slots: Items a slate.
        logger: How much the order follows the relevance.
        boost: The deviation of the items' editorial boosts, which are independent of the relevance.
        noise: The deviation of each impression's noise in the order.
        examination: Of each position, the first has 1; `1 / position` if None.
        device_effect: On a phone, which half of the slates are shown on, an examination of e is `e ** (1 + device_effect)`.
        offsets: The deviation of the users' offsets in the log odds of a click, which correlate by 0.8 with the first of
            their factors: heavy users have a taste of their own.
        history: So many of the user's last clicks in earlier slates are a list column, oldest first; 0 for none.
        turn: The angle in radians by which the users' factors turn, evenly from the first slate to the time after the last;
            a slate's relevance is that of its time. After pi / 2 they have nothing to do with those of the beginning.
    """

    slates: int = 100_000
    slots: int = 10
    logger: float = 0.3
    boost: float = 1.0
    noise: float = 0.3
    examination: tuple[float, ...] | None = None
    device_effect: float = 0.0
    offsets: float = 0.0
    history: int = 0
    turn: float = 0.0


@dataclass(frozen=True)
class Choices:
    """A log of clicks: each user picks distinct items, by `teacher + clickbait_i + Gumbel noise`.

    That is a draw from `softmax(teacher + clickbait)` without putting back. The clickbait is of the item alone, and adds
    nothing to the reward.

    Args:
        clicks: Items a user picks.
        clickbait: The deviation of the items' clickbait.
        held_out: The share of users whose clicks are written to a file of their own.
    """

    clicks: int = 10
    clickbait: float = 1.0
    held_out: float = 0.2


@dataclass(frozen=True, eq=False)
class Simulation(DataFolder):
    """A folder of simulated data, and the truth behind it.

    Args:
        folder: Where the files are.
        teacher: What a user gets of an item, in log odds above 2, [users, items]; where tastes turn, after the last slate.
        examination: The probability that a position is looked at, [slots]; of choices, [0].
        phone_examination: The same on a phone, [slots].
        boosts: What the logger adds for an item, [items]; 0 in choices.
        offsets: What a user adds to the log odds of each click, [users]; 0 in choices.
        clickbait: What an item adds to being picked, [items]; 0 in slates.
    """

    teacher: Floats
    examination: Floats
    phone_examination: Floats
    boosts: Floats
    offsets: Floats
    clickbait: Floats

    @property
    def relevance(self) -> Floats:
        """`sigmoid(teacher - 2)`, [users, items]: how probable a click is where all is seen, and what it is truly worth."""
        return _sigmoid(self.teacher - 2)

    @property
    def held_out(self) -> Path:
        """Of choices, the interactions of the users that are not in `interactions`."""
        return self.folder / "held_out.parquet"

    @staticmethod
    def rows(ids: Iterable[Any]) -> npt.NDArray[np.int64]:
        """Return the rows of users or items in the arrays, [n]: "u00012" is 12.

        Example:
            >>> Simulation.rows(["u00012", "u00003"]).tolist()
            [12, 3]
        """
        return np.array([int(str(it)[1:]) for it in ids], np.int64)


def simulate(
    folder: str | Path,
    log: Slates | Choices = Slates(),
    *,
    users: int = 2000,
    items: int = 300,
    dim: int = 8,
    affinity: float = 1.5,
    cross: float = 0.0,
    quality: float = 0.7,
    seed: int = 0,
) -> Simulation:
    """Write a log of a world whose truth is known, its users and items, and the schema; return it with the truth.

    Users have factors p, items factors q and a quality b, and

        teacher = affinity <p, q> / sqrt(dim) + cross <relu(A p), relu(B q)> / sqrt(dim) + quality b
        relevance = sigmoid(teacher - 2)

    with p, q, b standard normal and A, B normal of deviation 1 / sqrt(dim). The cross term is no product of linear
    functions: towers that are linear learn only a part of it. Each side's factors are a vector feature, so that those never
    trained on have vectors too; the users' stand in the interactions as well, so that a schema without the user's id needs
    no users' table; where tastes turn, they are those of the beginning. The impressions' `teacher - 2` is the column
    `teacher` of slates.

    Args:
        folder: Where to write.
        log: What is logged, and what misleads in it.
        users: How many.
        items: How many.
        dim: Of the factors.
        affinity: The weight of the factors' product.
        cross: The weight of the rectified product.
        quality: The deviation of the items' qualities.
        seed: The same seed writes the same data.

    Raises:
        ConfigError: A number is too small, or there are fewer items than a slate or a user takes.

    Source:
        Position and examination: Joachims et al., "Unbiased learning-to-rank with biased feedback", WSDM 2017.

    Example:
        >>> import tempfile
        >>> world = simulate(tempfile.mkdtemp(), Slates(slates=5, slots=4), users=3, items=6)
        >>> world.relevance.shape, pq.read_table(world.interactions)["position"].to_pylist()[:4]
        ((3, 6), [1, 2, 3, 4])
    """
    _check(log, users, items, dim)
    path = made_folder(folder)
    rng = np.random.default_rng(seed)
    p, q, b = rng.normal(size=(users, dim)), rng.normal(size=(items, dim)), rng.normal(size=items)
    a, c = (rng.normal(size=(dim, dim)) / np.sqrt(dim) for _ in range(2))
    weights = affinity / np.sqrt(dim), cross / np.sqrt(dim), quality
    of_items = np.hstack([q, np.maximum(q @ c, 0), b[:, np.newaxis]])
    tastes = _Tastes(p, np.random.default_rng([seed, 1]).normal(size=p.shape), a, weights, of_items)
    user_ids, item_ids = names("u", users), names("i", items)
    pq.write_table(pa.table({"user_id": user_ids, "user_factors": _vectors(p)}), path / "users.parquet")
    pq.write_table(pa.table({"item_id": item_ids, "item_factors": _vectors(q)}), path / "items.parquet")
    write = partial(_write, user_ids=user_ids, item_ids=item_ids, p=p)
    if isinstance(log, Slates):
        made = _slates(log, path, tastes, rng, write)
        schema = _SHARED + (_HISTORY if log.history else "") + _OF_SLATES
    else:
        made, schema = _choices(log, path, tastes.teacher(0.0), rng, write), _SHARED
    of_slates = {"length": log.history, "positions": log.slots + 1} if isinstance(log, Slates) else {}
    made.schema.write_text(schema.format(dim=dim, **of_slates), encoding="utf-8")
    return made


@dataclass(frozen=True)
class _Tastes:
    """What users want of items: a product of what the users' factors make, turned by an angle, and of `items`."""

    first: Floats
    later: Floats
    rectified: Floats
    weights: tuple[float, float, float]
    items: Floats

    def of(self, user: npt.NDArray[Any], angle: float | Floats) -> Floats:
        """Return what these users want, [n, 2 dim + 1]."""
        turned = (np.cos(angle) * self.first[user].T + np.sin(angle) * self.later[user].T).T
        affinity, cross, quality = self.weights
        of_cross = cross * np.maximum(turned @ self.rectified, 0)
        return np.hstack([affinity * turned, of_cross, np.full((len(turned), 1), quality)])

    def teacher(self, angle: float) -> Floats:
        """Return it for all, [users, items]."""
        return self.of(np.arange(len(self.first)), angle) @ self.items.T


def _check(log: Slates | Choices, users: int, items: int, dim: int) -> None:
    least = {"users": (users, 2), "items": (items, 2), "dim": (dim, 1)}
    if isinstance(log, Slates):
        least |= {"slates": (log.slates, 1), "slots": (log.slots, 1), "history": (log.history, 0)}
    else:
        least |= {"clicks": (log.clicks, 1)}
    problems = [
        f"{name} is {given!r}; expected an integer of at least {bound}"
        for name, (given, bound) in least.items()
        if isinstance(given, bool) or not isinstance(given, Integral) or given < bound
    ]
    numbers = ("logger", "boost", "noise", "device_effect", "offsets", "turn", "clickbait", "held_out")
    problems += [
        f"{name} is {given!r}; expected a finite number"
        for name, given in ((it, getattr(log, it)) for it in numbers if hasattr(log, it))
        if isinstance(given, bool) or not isinstance(given, Real) or not np.isfinite(float(given))
    ]
    problems = problems or _problems(log, items)
    if problems:
        raise ConfigError(*problems)


def _problems(log: Slates | Choices, items: int) -> list[str]:
    """Return what is wrong with numbers that are such as they should be each by itself."""
    taken, problems = log.slots if isinstance(log, Slates) else log.clicks, []
    if items < taken:
        problems.append(f"items is {items}; expected at least {taken}, as many as are taken at once")
    if isinstance(log, Choices) and not 0 <= log.held_out < 1:
        problems.append(f"held_out is {log.held_out}; expected a share of at least 0 and below 1")
    if isinstance(log, Slates) and (seen := log.examination) is not None:
        if len(seen) != log.slots:
            problems.append(f"examination has {len(seen)} numbers; expected one for each of {log.slots} slots")
        elif seen[0] != 1 or not all(0 < it <= 1 for it in seen):
            problems.append(f"examination is {seen}; expected 1 first, and numbers above 0 up to 1")
    return problems


def _slates(
    log: Slates, path: Path, tastes: _Tastes, rng: np.random.Generator, write: Callable[..., None]
) -> Simulation:
    users, items = len(tastes.first), len(tastes.items)
    seen = 1 / np.arange(1, log.slots + 1) if log.examination is None else np.array(log.examination)
    made = Simulation(
        path,
        tastes.teacher(log.turn),
        examination=seen,
        phone_examination=seen ** (1 + log.device_effect),
        boosts=log.boost * rng.normal(size=items),
        offsets=log.offsets * (ALONG * tastes.first[:, 0] + np.sqrt(1 - ALONG**2) * rng.normal(size=users)),
        clickbait=np.zeros(items),
    )
    user = rng.integers(users, size=log.slates)
    shown = np.stack([rng.choice(items, log.slots, replace=False) for _ in range(log.slates)])  # [slates, slots]
    wanted = tastes.of(user, log.turn * np.arange(log.slates) / log.slates)
    odds = np.einsum("sd,sid->si", wanted, tastes.items[shown]) - 2
    order = np.argsort(-(log.logger * odds + made.boosts[shown] + log.noise * rng.normal(size=shown.shape)), axis=1)
    shown, odds = np.take_along_axis(shown, order, axis=1), np.take_along_axis(odds, order, axis=1)
    phone = rng.random(log.slates) < 0.5
    examined = np.where(phone[:, np.newaxis], made.phone_examination, made.examination)  # [slates, slots]
    clicked = rng.random(shown.shape) < examined * _sigmoid(odds + made.offsets[user][:, np.newaxis])
    bought = clicked & (rng.random(shown.shape) < PURCHASES * _sigmoid(odds))
    each = np.repeat(np.arange(log.slates), log.slots)
    columns = {
        "slate": each,
        "timestamp": START + 60 * each,
        "position": np.tile(np.arange(1, log.slots + 1, dtype=np.int32), log.slates),
        "device": pa.DictionaryArray.from_arrays(pa.array(phone[each].astype(np.int8)), list(DEVICES)).cast(
            pa.string()
        ),
        "click": clicked.ravel().astype(np.int8),
        "purchase": bought.ravel().astype(np.int8),
        "teacher": odds.ravel().astype(np.float32),
    }
    histories = _histories(user, shown, clicked, log.history) if log.history else None
    write(made.interactions, user[each], shown.ravel(), columns, histories=histories, each=each)
    return made


def _choices(
    log: Choices, path: Path, teacher: Floats, rng: np.random.Generator, write: Callable[..., None]
) -> Simulation:
    users, items = teacher.shape
    made = Simulation(
        path,
        teacher,
        examination=np.zeros(0),
        phone_examination=np.zeros(0),
        boosts=np.zeros(items),
        offsets=np.zeros(users),
        clickbait=log.clickbait * rng.normal(size=items),
    )
    tempting = made.teacher + made.clickbait + rng.gumbel(size=made.teacher.shape)
    picked = np.argsort(-tempting, axis=1)[:, : log.clicks]
    held = np.zeros(users, bool)
    held[rng.permutation(users)[: round(log.held_out * users)]] = True
    for file, kept in ((made.interactions, ~held), (made.held_out, held)):
        user, item = np.repeat(np.flatnonzero(kept), log.clicks), picked[kept].ravel()
        order = rng.permutation(len(user))
        write(file, user[order], item[order], {"timestamp": START + 60 * np.arange(len(user))})
    return made


def _histories(
    user: npt.NDArray[Any], shown: npt.NDArray[Any], clicked: npt.NDArray[Any], length: int
) -> list[npt.NDArray[Any]]:
    """Return the items that each slate's user clicked last in earlier slates, oldest first."""
    before: dict[int, list[int]] = {}
    found = []
    for who, items, clicks in zip(user.tolist(), shown, clicked, strict=True):
        past = before.setdefault(who, [])
        found.append(np.array(past[-length:], np.int64))
        past += items[clicks].tolist()
    return found


def _write(
    file: Path,
    user: npt.NDArray[Any],
    item: npt.NDArray[Any],
    columns: dict[str, Any],
    *,
    user_ids: list[str],
    item_ids: list[str],
    p: Floats,
    histories: list[npt.NDArray[Any]] | None = None,
    each: npt.NDArray[Any] | None = None,
) -> None:
    """Write interactions; a history is of the slate that `each` row belongs to."""
    table = {
        "user_id": pa.array(user_ids).take(pa.array(user)),
        "user_factors": _vectors(p).take(pa.array(user)),
        "item_id": pa.array(item_ids).take(pa.array(item)),
        **columns,
    }
    if histories is not None:
        ends = np.cumsum([0, *(len(it) for it in histories)])
        clicks = pa.array(item_ids).take(pa.array(np.concatenate(histories)))
        table["history"] = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), clicks).take(pa.array(each))
    pq.write_table(pa.table(table), file)


def _vectors(rows: Floats) -> pa.Array:
    ends = pa.array(np.arange(len(rows) + 1) * rows.shape[1], pa.int32())
    return pa.ListArray.from_arrays(ends, pa.array(rows.astype(np.float32).ravel()))


def _sigmoid(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-odds))


_SHARED = """\
# Generated by schemaflow.datasets.simulate.
version: 1
name: simulated
tables:
  users: {{file: users.parquet, key: user_id}}
  items: {{file: items.parquet, key: item_id}}
features:
  user_id:      {{dtype: string, tags: [user, id], vocabulary: learned}}
  user_factors: {{dtype: float32, tags: [user, embedding], embedding: {{dim: {dim}}}}}
  item_id:      {{dtype: string, tags: [item, id], vocabulary: learned, domain: item}}
  item_factors: {{dtype: float32, tags: [item, embedding], embedding: {{dim: {dim}}}}}
  timestamp:    {{dtype: int64, tags: [time]}}
"""

_HISTORY = """\
  history:      {{dtype: string, tags: [user, sequence], list: {{max_length: {length}}}, domain: item}}
"""

_OF_SLATES = """\
  position:     {{dtype: int32, tags: [position], cardinality: {positions}}}
  device:       {{dtype: string, tags: [bias], vocabulary: [desktop, phone]}}
  click:        {{dtype: int8, tags: [target, binary], value: 1}}
  purchase:     {{dtype: int8, tags: [target, binary]}}
  teacher:      {{dtype: float32, tags: [teacher]}}
"""
