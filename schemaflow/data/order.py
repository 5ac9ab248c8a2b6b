"""Which rows come when: places by turns, in a random order, read by several threads, mixed, in blocks of whole batches."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from schemaflow.data.encode import Columns, Span, concatenate, empty, first_rows, rows_of, take, whole
from schemaflow.data.join import Joined
from schemaflow.schema.sources import BATCH_ROWS, Piece, Place

__all__ = ["in_order", "shuffled", "whole_batches"]

T = TypeVar("T")

ACTIVE = 16
"""How many places are read by turns when rows are shuffled. Part of the order that a seed gives."""

PART_ROWS = 16_384
"""The most rows that are read at a turn."""

BLOCK_ROWS, BLOCK_BYTES = 131_072, 1 << 26
"""The rows that are mixed with each other, where a batch holds fewer; fewer rows where they take so much as they are read."""

ORDERED_ROWS = 65_536
"""The rows of a block that keeps the order, where a batch holds fewer."""

AHEAD = 2
"""How many blocks are mixed before they are asked for."""

WORKERS = min(os.cpu_count() or 1, 8)
"""Threads that read; the order does not depend on them."""


def in_order(joined: Joined, rows: range, batch_size: int) -> Iterator[Columns]:
    """Yield some rows of a table in the order of its files, in blocks of whole batches."""
    streams = (joined.stream(place) for place in _within(joined.source.places(BATCH_ROWS), rows))
    with ThreadPoolExecutor(WORKERS) as pool:
        spans = (Span(columns, 0, rows_of(columns)) for columns in _read(pool, streams, WORKERS, by_turns=False))
        yield from whole_batches(spans, batch_size)


def shuffled(joined: Joined, rows: range, batch_size: int, seed: int) -> Iterator[Columns]:
    """Yield the rows that a shard has of a table in random order, in blocks of whole batches, all shards by the same seed.

    The table's places (row groups of at least `BATCH_ROWS` rows, or several small ones that follow each other) are put in
    random order, and `ACTIVE` of them are read by turns, a part at a time. The parts of some turns make a block, whose rows
    are permuted. What blocks hold beyond whole batches is mixed in its turn, as soon as it makes a block.
    """
    generator = np.random.default_rng(seed)
    places = joined.source.places(BATCH_ROWS)
    mine = _within([places[index] for index in generator.permutation(len(places))], rows)
    most = max(BLOCK_ROWS, batch_size)
    left: list[Columns] = []
    for batches, rest in _blocks(joined, mine, len(rows), batch_size, generator):
        if rows_of(batches):
            yield batches
        left.append(rest)
        if sum(map(rows_of, left)) >= most:
            more, kept = _permuted(whole(left), batch_size, generator)
            left = [kept]
            yield more
    yield from filter(rows_of, _permuted(whole(left), batch_size, generator))


def _blocks(
    joined: Joined, places: Sequence[Place], rows: int, batch_size: int, generator: np.random.Generator
) -> Iterator[tuple[Columns, Columns]]:
    """Yield the rows of each block, permuted: whole batches, and the rest."""
    waiting: deque[Future[tuple[Columns, Columns]]] = deque()
    pool = ThreadPoolExecutor(WORKERS)
    try:
        parts = _read(pool, (joined.pieces(place, PART_ROWS) for place in places), ACTIVE, by_turns=True)
        for block in _gathered(parts, rows, batch_size):
            waiting.append(pool.submit(_mixed, joined, block, batch_size, generator.spawn(1)[0]))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _gathered(parts: Iterator[Piece], rows: int, batch_size: int) -> Iterator[list[Piece]]:
    """Yield the parts of each block; blocks are alike in size."""
    most = max(BLOCK_ROWS, batch_size)
    enough = max(-(-rows // max(round(rows / most), 1)), batch_size)
    held: list[Piece] = []
    count = size = 0
    for part in parts:
        held.append(part)
        count, size = count + part.table.num_rows, size + part.table.nbytes
        if count >= enough or (size >= BLOCK_BYTES and count >= batch_size):
            yield held
            held, count, size = [], 0, 0
    if held:
        yield held


def _mixed(
    joined: Joined, parts: Sequence[Piece], batch_size: int, generator: np.random.Generator
) -> tuple[Columns, Columns]:
    return _permuted(joined.encode(parts), batch_size, generator)


def _permuted(columns: Columns, batch_size: int, generator: np.random.Generator) -> tuple[Columns, Columns]:
    """Return rows in another order: whole batches, and the rest."""
    order = empty((rows_of(columns),), np.dtype(np.int64))
    order.fill(1)
    np.cumsum(order, out=order)
    order -= 1
    generator.shuffle(order)
    mixed = take(columns, order)  # all of them: Arrow then knows what lists take
    count = len(order) - len(order) % batch_size
    return first_rows(mixed, count), concatenate([Span(mixed, count, len(order))])


def whole_batches(spans: Iterator[Span], batch_size: int) -> Iterator[Columns]:
    """Yield the rows of all spans in blocks of whole batches; what is left in the end is a block of its own."""
    most = max(ORDERED_ROWS // batch_size, 1) * batch_size
    held: list[Span] = []
    rows = 0
    for span in spans:
        held.append(span)
        rows += span.rows
        while rows >= most:
            block, held = _split(held, most)
            yield concatenate(block)
            rows -= most
    for size in (rows - rows % batch_size, rows % batch_size):
        if size:
            block, held = _split(held, size)
            yield concatenate(block)


def _split(spans: Sequence[Span], rows: int) -> tuple[list[Span], list[Span]]:
    """Return the first rows of spans, and the others."""
    first: list[Span] = []
    for number, (columns, start, stop) in enumerate(spans):
        if stop - start >= rows:
            cut = start + rows
            return [*first, Span(columns, start, cut)], [Span(columns, cut, stop), *spans[number + 1 :]]
        first.append(spans[number])
        rows -= stop - start
    return first, []


def _within(places: Sequence[Place], rows: range) -> list[Place]:
    """Return the parts of places, one after the other, that hold some of all their rows."""
    found, first = [], 0
    for place in places:
        start, stop = max(rows.start - first, 0), min(rows.stop - first, place.rows)
        if start < stop:
            found.append(place.part(start, stop))
        first += place.rows
    return found


def _read(pool: ThreadPoolExecutor, streams: Iterator[Iterator[T]], active: int, by_turns: bool) -> Iterator[T]:
    """Yield what streams yield: several of them by turns, or one after the other. All that are active are read ahead."""
    waiting: deque[tuple[Iterator[T], Future[T | None]]] = deque()

    def ask(stream: Iterator[T]) -> tuple[Iterator[T], Future[T | None]]:
        return stream, pool.submit(next, stream, None)

    waiting.extend(ask(stream) for stream in islice(streams, active))
    while waiting:
        stream, future = waiting.popleft()
        found = future.result()
        if found is None:
            waiting.extend(ask(stream) for stream in islice(streams, 1))
            continue
        (waiting.append if by_turns else waiting.appendleft)(ask(stream))
        yield found
