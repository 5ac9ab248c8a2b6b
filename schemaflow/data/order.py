"""Which rows come when: places by turns, in a random order, read by several threads, mixed, in blocks of whole batches."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from schemaflow.data.encode import Columns, Lists, Span, concatenate, rows_of, take
from schemaflow.data.join import Joined
from schemaflow.schema.sources import BATCH_ROWS, Place

__all__ = ["in_order", "shuffled", "whole_batches"]

ACTIVE = 16
"""How many places are read by turns when rows are shuffled. Part of the order that a seed gives."""

MIXED_ROWS, MIXED_BYTES = 1_000_000, 1 << 28
"""The most rows that are mixed, and what they may take once encoded."""

BLOCK_ROWS = 65_536
"""The rows of a block, where a batch holds fewer."""

WORKERS = min(os.cpu_count() or 1, 8)
"""Threads that read; the order does not depend on them."""


def in_order(joined: Joined, rows: range) -> Iterator[Span]:
    """Yield some rows of a table in the order of its files."""
    streams = (joined.stream(place) for place in _within(joined.source.places(BATCH_ROWS), rows))
    for columns in _read(streams, WORKERS, by_turns=False):
        yield Span(columns, 0, rows_of(columns))


def shuffled(joined: Joined, rows: range, batch_size: int, seed: int) -> Iterator[Span]:
    """Yield the rows that a shard has of a table in random order, all shards by the same seed.

    The table's places (row groups of at least `BATCH_ROWS` rows, or several small ones that follow each other) are put in
    random order, `ACTIVE` of them are read by turns, a part at a time, and each part is permuted. Every batch takes its share
    of each of the parts that make up about `MIXED_ROWS` rows.
    """
    generator = np.random.default_rng(seed)
    places = joined.source.places(BATCH_ROWS)
    mine = _within([places[index] for index in generator.permutation(len(places))], rows)
    streams = (_permuted(joined, place, each) for place, each in zip(mine, generator.spawn(len(mine)), strict=True))
    for parts in _mixtures(_read(streams, ACTIVE, by_turns=True), len(rows)):
        yield from _mixed(parts, batch_size, generator)


def whole_batches(spans: Iterator[Span], batch_size: int) -> Iterator[Columns]:
    """Yield the rows of all spans in blocks of whole batches; what is left in the end is a block of its own."""
    most = max(BLOCK_ROWS // batch_size, 1) * batch_size
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


def _permuted(joined: Joined, place: Place, generator: np.random.Generator) -> Iterator[Columns]:
    for columns in joined.stream(place):
        yield take(columns, generator.permutation(rows_of(columns)))


def _read(streams: Iterator[Iterator[Columns]], active: int, by_turns: bool) -> Iterator[Columns]:
    """Yield what streams yield: several of them by turns, or one after the other. All that are active are read ahead."""
    pool = ThreadPoolExecutor(WORKERS)
    waiting: deque[tuple[Iterator[Columns], Future[Columns | None]]] = deque()

    def ask(stream: Iterator[Columns]) -> tuple[Iterator[Columns], Future[Columns | None]]:
        return stream, pool.submit(next, stream, None)

    try:
        waiting.extend(ask(stream) for stream in islice(streams, active))
        while waiting:
            stream, future = waiting.popleft()
            columns = future.result()
            if columns is None:
                waiting.extend(ask(stream) for stream in islice(streams, 1))
                continue
            (waiting.append if by_turns else waiting.appendleft)(ask(stream))
            yield columns
    finally:
        pool.shutdown(cancel_futures=True)


def _mixtures(parts: Iterator[Columns], rows: int) -> Iterator[list[Columns]]:
    """Yield parts that are mixed with each other: as few mixtures of even size as memory allows."""
    held: list[Columns] = []
    read = mixtures = made = 0
    for columns in parts:
        if not mixtures:
            size = sum(it.values.nbytes if isinstance(it, Lists) else it.nbytes for it in columns.values())
            most = min(MIXED_ROWS, MIXED_BYTES * rows_of(columns) // max(size, 1))
            mixtures = -(-rows // max(most, 1))
        held.append(columns)
        read += rows_of(columns)
        if read * mixtures >= rows * (made + 1):
            yield held
            held, made = [], made + 1


def _mixed(parts: Sequence[Columns], batch_size: int, generator: np.random.Generator) -> Iterator[Span]:
    """Yield the rows of all parts, so that every batch has its share of each of them."""
    sizes = np.array([rows_of(part) for part in parts])
    batches = -(-int(sizes.sum()) // batch_size)
    # where each part is cut: a random rounding, so that those of a few rows do not all give them to the same batch
    cuts = np.arange(batches + 1)[:, None] * sizes / batches + generator.random(len(parts))  # [batches + 1, parts]
    cuts = cuts.astype(np.int64)
    cuts[0], cuts[-1] = 0, sizes
    for starts, stops in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        for part, start, stop in zip(parts, starts, stops, strict=True):
            if start < stop:
                yield Span(part, start, stop)
