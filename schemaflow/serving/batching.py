"""Requests answered together: those that wait for the same graph go into it in one call."""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

__all__ = ["Batcher", "answers_of"]

Answer = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass
class _Asked:
    """A question that waits.

    Args:
        answer: Takes questions of its group.
        question: What is asked.
        rows: How large it is.
        future: Gets the answer.
        ripe: Whether it has waited for company long enough.
    """

    answer: Answer
    question: Any
    rows: int
    future: asyncio.Future[Any]
    ripe: bool = False


class Batcher:
    """Answers questions in threads, those of a group together. The event loop only sorts them.

    Args:
        max_rows: Of a call, unless one question alone has more.
        wait: Seconds that a question waits for others while a thread is idle.
        threads: Calls at a time.
        observe: Told the rows of each call.

    Example:
        >>> async def both() -> list[int]:
        ...     batcher = Batcher(max_rows=8, wait=0.0, threads=1, observe=print)
        ...     total = lambda numbers: [sum(numbers)] * len(numbers)
        ...     return await asyncio.gather(*(batcher.ask("sums", total, it, 1) for it in (1, 2)))
        >>> asyncio.run(both())
        2
        [3, 3]
    """

    def __init__(self, max_rows: int, wait: float, threads: int, observe: Callable[[int], None]) -> None:
        self._max_rows, self._wait, self._observe = max_rows, wait, observe
        self._idle = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="graph")
        self._groups: dict[Hashable, deque[_Asked]] = {}  # the one that waits longest comes first

    async def ask(self, group: Hashable, answer: Answer, question: Any, rows: int) -> Any:
        """Return the answer to a question.

        Args:
            group: Questions of one group may be answered together.
            answer: Takes questions and returns as many answers; runs in a thread.
            question: What to ask.
            rows: How large it is.

        Raises:
            Exception: What the answer to this question alone raises. Others that came along are answered all the same.
        """
        loop = asyncio.get_running_loop()
        asked = _Asked(answer, question, rows, loop.create_future())
        waiting = self._groups.setdefault(group, deque())
        waiting.append(asked)
        if sum(it.rows for it in waiting) >= self._max_rows:
            self._ripen(asked)
        else:
            loop.call_later(self._wait, self._ripen, asked)
        return await asked.future

    def close(self) -> None:
        """Wait for the calls that run."""
        self._pool.shutdown()

    def _ripen(self, asked: _Asked) -> None:
        asked.ripe = True
        self._send()

    def _send(self) -> None:
        """Give idle threads what is ripe."""
        while self._idle:
            ripe = [group for group, waiting in self._groups.items() if any(it.ripe for it in waiting)]
            if not ripe:
                return
            batch = self._take(ripe[0])
            self._idle -= 1
            self._observe(sum(it.rows for it in batch))
            call = asyncio.get_running_loop().run_in_executor(
                self._pool, answers_of, batch[0].answer, [it.question for it in batch]
            )
            call.add_done_callback(partial(self._settle, batch))

    def _take(self, group: Hashable) -> list[_Asked]:
        """Return the first questions of a group that go into one call; the rest of it queues up behind other groups."""
        waiting = self._groups.pop(group)
        batch = [waiting.popleft()]
        rows = batch[0].rows
        while waiting and rows + waiting[0].rows <= self._max_rows:
            batch.append(waiting.popleft())
            rows += batch[-1].rows
        if waiting:
            self._groups[group] = waiting
        return batch

    def _settle(self, batch: list[_Asked], done: asyncio.Future[Any]) -> None:
        self._idle += 1
        failed = done.exception()
        answers = [failed] * len(batch) if failed is not None else done.result()
        for asked, answer in zip(batch, answers, strict=True):
            if asked.future.done():  # nobody waits for it any more
                continue
            if isinstance(answer, BaseException):
                asked.future.set_exception(answer)
            else:
                asked.future.set_result(answer)
        self._send()


def answers_of(answer: Answer, questions: Sequence[Any]) -> list[Any]:
    """Return an answer for each question, or the error of one that is wrong.

    A wrong question is found by halves, so it costs the others a few calls and no more.

    Example:
        >>> def root(numbers):
        ...     if min(numbers) < 0:
        ...         raise ValueError("below 0")
        ...     return [it**0.5 for it in numbers]
        >>> answers_of(root, [4, -1, 9])
        [2.0, ValueError('below 0'), 3.0]
    """
    try:
        return list(answer(questions))
    except Exception as reason:  # whatever it is, the others are answered
        if len(questions) == 1:
            return [reason]
        half = len(questions) // 2
        return answers_of(answer, questions[:half]) + answers_of(answer, questions[half:])
