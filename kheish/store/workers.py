"""Threads that do what blocks for an event loop, which is told of all that is done in the meantime at once.

What is short is done by one thread after another piece: each thread that is awake wants the interpreter after each of
its system calls, and all others wait for it. Where something is long the next thread is woken for what waits behind it.

`run_in_executor` wakes the loop for each piece of work, through two futures and three callbacks: where much is done it
costs more than what it is for. Where very much is done the loop hears of it by a bell that others ring too.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kheish.errors import StoreError
from kheish.limits import WORK_WAITS_MS_MAX
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
    put_at_s: float


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
        self._lock = threading.Lock()
        self._work: deque[_Work] = deque()
        self._asleep: list[threading.Lock] = []
        """What each thread that has nothing to do waits for; who fell asleep last is woken first."""
        self._relief: asyncio.TimerHandle | None = None
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
        if not self._threads:
            self._begin_thread()
        with self._lock:
            self._work.append(_Work(work, arguments, answer, self._loop.time()))
            is_awake = len(self._asleep) < len(self._threads)
            if not is_awake:
                self._asleep.pop().release()
        if is_awake and self._relief is None:
            self._relief = self._loop.call_later(WORK_WAITS_MS_MAX / 1000, self._relieve)
        return answer

    def _relieve(self) -> None:
        """Wakes another thread, or begins one, where what waits has waited for long."""
        self._relief, now_s = None, self._loop.time()
        with self._lock:
            if not (self._work and (self._asleep or len(self._threads) < self._threads_max)):
                return  # once a thread falls asleep nothing waits
            since_s = self._work[0].put_at_s
            if now_s - since_s >= WORK_WAITS_MS_MAX / 1000:
                since_s = now_s
                if self._asleep:
                    self._asleep.pop().release()
                else:
                    with contextlib.suppress(RuntimeError):  # none is to be had: those that there are do it all
                        self._begin_thread()
        self._relief = self._loop.call_at(since_s + WORK_WAITS_MS_MAX / 1000, self._relieve)

    async def close(self) -> None:
        """Takes no more work; returns when all is done and told, and the threads have ended."""
        with self._lock:
            self._is_closed = True
            while self._asleep:
                self._asleep.pop().release()
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
        alarm = threading.Lock()
        alarm.acquire()
        while (work := self._next(alarm)) is not None:
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

    def _next(self, alarm: threading.Lock) -> _Work | None:
        """What is to be done next, as soon as there is something; none, and the thread is to end."""
        while True:
            with self._lock:
                if self._work:
                    return self._work.popleft()
                if self._is_closed:
                    return None
                self._asleep.append(alarm)
            alarm.acquire()
