"""Group commit: one thread takes whatever is waiting, makes it durable, and wakes all who wait.

There is no timer: while one batch is being synced the next one gathers by itself, and an idle committer sleeps. A
batch with records of several journals syncs them side by side. This small interface is all that the kernel knows of
how records become durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from kheish.errors import Poisoned, StoreError
from kheish.limits import COMMIT_BATCH_BYTES_MAX, SYNC_THREADS
from kheish.store.journal import Framed, Journal

T = TypeVar("T")

STORE_THREADS = 4
"""Threads for opening, reading, checkpoints and blobs."""


class _Waiting(NamedTuple):
    journal: Journal
    framed: Framed
    future: asyncio.Future[None]


class Committer:
    """Made, used and closed on one event loop; only its threads write and sync."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._condition = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._closing = False
        self._syncers = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="kheish-sync")
        self._workers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="kheish-store")
        self._thread = threading.Thread(target=self._work, name="kheish-commit", daemon=True)
        self._thread.start()

    def append(self, journal: Journal, framed: Framed) -> asyncio.Future[None]:
        """Make a record durable. The future ends, in the order of appending, with None or Poisoned."""
        future: asyncio.Future[None] = self._loop.create_future()
        with self._condition:
            if self._closing:
                raise StoreError("cannot append: the store is closed", code="store_closed")
            self._waiting.append(_Waiting(journal, framed, future))
            self._condition.notify()
        return future

    def run(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run other blocking store work (open, read, checkpoint, blob) so that it does not delay commits."""
        return self._loop.run_in_executor(self._workers, work, *arguments)

    async def close(self) -> None:
        """Make everything that waits durable, finish running work, and end the threads."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        await self._loop.run_in_executor(None, self._join)

    def _join(self) -> None:
        self._thread.join()
        self._syncers.shutdown()
        self._workers.shutdown()

    # -- on the committer's thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._take():
            results = self._commit(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed and nobody waits any more
                self._loop.call_soon_threadsafe(_finish, results)

    def _take(self) -> list[_Waiting]:
        """The next batch, or an empty one when the committer is closed and drained."""
        batch: list[_Waiting] = []
        size = 0
        with self._condition:
            while not self._waiting and not self._closing:
                self._condition.wait()
            while self._waiting and (not batch or size + len(self._waiting[0].framed.line) <= COMMIT_BATCH_BYTES_MAX):
                waiting = self._waiting.popleft()
                size += len(waiting.framed.line)
                batch.append(waiting)
        return batch

    def _commit(self, batch: list[_Waiting]) -> list[tuple[asyncio.Future[None], Poisoned | None]]:
        groups: dict[int, tuple[Journal, list[Framed]]] = {}
        for waiting in batch:
            groups.setdefault(id(waiting.journal), (waiting.journal, []))[1].append(waiting.framed)
        todo = deque(groups.values())
        helpers = [self._syncers.submit(_drain, todo) for _ in range(min(len(todo), SYNC_THREADS) - 1)]
        _drain(todo)
        for helper in helpers:
            helper.result()
        return [
            (future, None if framed.seq <= journal.durable_seq else journal.poison("it was not written"))
            for journal, framed, future in batch
        ]


def _drain(todo: deque[tuple[Journal, list[Framed]]]) -> None:
    """Commit journals until none is left; several threads share one `todo`."""
    while True:
        try:
            journal, records = todo.popleft()
        except IndexError:
            return
        try:
            journal.commit(records)
        except Poisoned:
            pass  # the journal remembers, and `durable_seq` tells which records made it
        except Exception as error:  # a fault of ours must not leave anybody waiting for ever
            journal.poison(repr(error))


def _finish(results: list[tuple[asyncio.Future[None], Poisoned | None]]) -> None:
    for future, error in results:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
