"""Threads for what blocks, beside the event loop.

A thread goes from one work to the next and wakes the loop only where nobody has yet: what ends at about the same time
is told in one go. Work that has begun cannot be broken off, so whoever awaits it is cancelled only when it has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Answer(asyncio.Future[T]):
    """Is not done before its work is: a cancellation only asks that to hurry."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hurry: Callable[[], None]) -> None:
        super().__init__(loop=loop)
        self._hurry = hurry

    def cancel(self, msg: Any | None = None) -> bool:
        self._hurry()
        return False


class _Ended(NamedTuple):
    answer: _Answer[Any]
    result: Any
    error: BaseException | None


class Threads:
    """At most so many, each made when there is work for it. Used and closed on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, threads_max: int, name: str) -> None:
        self._loop = loop
        self._threads_max = threads_max
        self._name = name
        self._threads: list[threading.Thread] = []
        self._to_do: SimpleQueue[tuple[_Answer[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._under_way = 0
        self._ended: deque[_Ended] = deque()
        self._is_woken = False

    def run(self, work: Callable[[], T], hurry: Callable[[], None] = lambda: None) -> asyncio.Future[T]:
        """What it returns or raises; `hurry` is called where nobody wants that any more."""
        if len(self._threads) <= self._under_way and len(self._threads) < self._threads_max:
            self._begin_thread()
        answer: _Answer[T] = _Answer(self._loop, hurry)
        self._under_way += 1
        self._to_do.put((answer, work))
        return answer

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"{self._name}_{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # none is to be had: those that there are do it all
            if not self._threads:
                raise
        else:
            self._threads.append(thread)

    async def close(self) -> None:
        """Ends the threads, after what is under way."""
        for _ in self._threads:
            self._to_do.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._tell_ended()

    def _tell_ended(self) -> None:
        self._is_woken = False
        while self._ended:
            answer, result, error = self._ended.popleft()
            self._under_way -= 1
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _work(self) -> None:
        while (next_one := self._to_do.get()) is not None:
            answer, work = next_one
            try:
                self._ended.append(_Ended(answer, work(), None))
            except BaseException as error:
                self._ended.append(_Ended(answer, None, error))
            del next_one, answer, work
            if not self._is_woken:
                self._is_woken = True
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._tell_ended)
