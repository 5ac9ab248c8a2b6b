"""Sessions of timed interactions, and the pairs within them: what item-to-item models are trained on."""

from typing import Any

import numpy as np
import numpy.typing as npt

from schemaflow.errors import ConfigError

__all__ = ["pairs_within", "sessions_of"]

Ints = npt.NDArray[np.integer[Any]]


def sessions_of(user: npt.NDArray[Any], time: Ints, pause: float) -> Ints:
    """Return the number of each row's session, [n] int64: a user's rows, until a pause longer than `pause`.

    Args:
        user: Whose row it is, [n].
        time: When it happened, [n].
        pause: In the unit of `time`.

    Raises:
        ConfigError: `user` and `time` differ in length, or `pause` is below 0.

    Example:
        >>> sessions_of(np.array(["ann", "ann", "bob", "ann"]), np.array([0, 10, 12, 100]), pause=30).tolist()
        [0, 0, 2, 1]
    """
    if len(user) != len(time) or pause < 0:
        raise ConfigError(
            f"expected a time for each of {len(user)} users and a pause of 0 or more; received {len(time)} times, pause {pause!r}"
        )
    order = np.lexsort((time, user))
    begins = np.ones(len(order), bool)
    begins[1:] = (user[order][1:] != user[order][:-1]) | (np.diff(time[order]) > pause)
    session = np.empty(len(order), np.int64)
    session[order] = np.cumsum(begins) - 1
    return session


def pairs_within(session: Ints, time: Ints, window: int) -> tuple[Ints, Ints]:
    """Return each row and one that follows it in its session, as row numbers, each [pairs] int64.

    `(i, j)` with j one of the next `window` rows after i, in the order of time. Rows of one moment follow each other in
    the order in which they stand.

    Args:
        session: Of each row, [n].
        time: Of each row, [n].
        window: At least 1.

    Raises:
        ConfigError: `session` and `time` differ in length, or `window` is below 1.

    Example:
        >>> first, second = pairs_within(np.array([0, 0, 7, 0]), np.array([30, 10, 11, 20]), window=2)
        >>> list(zip(first.tolist(), second.tolist()))
        [(1, 3), (3, 0), (1, 0)]
    """
    if len(session) != len(time) or window < 1:
        raise ConfigError(
            f"expected a time for each of {len(session)} rows and a window of at least 1; received {len(time)} times, window {window!r}"
        )
    order = np.lexsort((time, session))  # stable
    ordered = session[order]
    starts = [
        np.flatnonzero(ordered[apart:] == ordered[:-apart]) for apart in range(1, min(window, len(order) - 1) + 1)
    ]
    apart = np.repeat(np.arange(1, len(starts) + 1), [len(it) for it in starts])
    start = np.concatenate([np.zeros(0, np.int64), *starts])
    return order[start], order[start + apart]
