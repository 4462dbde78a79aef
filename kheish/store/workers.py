"""Threads that do what blocks for an event loop, which is told of all that is done in the meantime at once.

`run_in_executor` wakes the loop for each piece of work, through two futures and three callbacks: where much is done it
costs more than what it is for. Where very much is done the loop hears of it by a bell that others ring too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from kheish.errors import StoreError
from kheish.store.bell import Bell

T = TypeVar("T")


class _WholeAnswer(asyncio.Future[T]):
    """Of work that cannot be broken off: it is there when the work has ended, and a cancellation only hurries that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hurry: Callable[[], None]) -> None:
        super().__init__(loop=loop)
        self._hurry = hurry

    def cancel(self, msg: Any | None = None) -> bool:
        self._hurry()
        return False


class _Work(NamedTuple):
    do: Callable[..., Any]
    arguments: tuple[object, ...]
    answer: asyncio.Future[Any]


class _Done(NamedTuple):
    answer: asyncio.Future[Any]
    result: Any
    error: BaseException | None


class Workers:
    """At most so many threads, which begin when there is work for them. Used on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, threads_max: int, bell: Bell | None = None) -> None:
        self._loop = loop
        self._bell = bell
        if bell is not None:
            bell.looks.append(self._tell)
        self._name = name
        self._threads_max = threads_max
        self._threads: list[threading.Thread] = []
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._under_way = 0
        self._done: deque[_Done] = deque()
        self._is_woken = False
        self._is_closed = False

    def run(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """What the work returns or raises. If nobody waits for it any more before it has begun, it is not done."""
        return self._put(self._loop.create_future(), work, *arguments)

    def run_whole(self, work: Callable[[], T], hurry: Callable[[], None]) -> asyncio.Future[T]:
        """The same of work after which the world is another: whoever waits for it is cancelled only when it has ended.
        `hurry` is called where nobody wants it any more."""
        return self._put(_WholeAnswer(self._loop, hurry), work)

    def _put(self, answer: asyncio.Future[T], work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        if self._is_closed:
            raise StoreError("cannot do this: the store is closed", code="store_closed")
        if len(self._threads) <= self._under_way and len(self._threads) < self._threads_max:
            with contextlib.suppress(RuntimeError) if self._threads else contextlib.nullcontext():
                self._begin_thread()  # if none is to be had, those that there are do it all
        self._work.put(_Work(work, arguments, answer))
        self._under_way += 1
        return answer

    async def close(self) -> None:
        """Takes no more work; returns when all is done and told, and the threads have ended."""
        self._is_closed = True
        for _ in self._threads:
            self._work.put(None)
        await self._loop.run_in_executor(None, self._join)
        self._tell()
        if self._bell is not None:
            self._bell.looks.remove(self._tell)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _tell(self) -> None:
        self._is_woken = False
        while self._done:
            answer, result, error = self._done.popleft()
            self._under_way -= 1
            if answer.done():  # nobody waits for it
                continue
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._do, name=f"{self._name}_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _do(self) -> None:
        while (work := self._work.get()) is not None:
            result = error = None
            try:
                if not work.answer.cancelled():
                    result = work.do(*work.arguments)
            except BaseException as raised:
                error = raised
            self._done.append(_Done(work.answer, result, error))
            del work, result, error
            if self._bell is not None:
                self._bell.ring()
            elif not self._is_woken:
                self._is_woken = True
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    self._loop.call_soon_threadsafe(self._tell)
