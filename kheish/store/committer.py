"""Group commit: one thread takes whatever is waiting, makes it durable, and wakes all who wait.

There is no timer: while one batch is being synced the next one gathers by itself, and an idle committer sleeps. A
batch with records of several journals syncs them side by side. This small interface is all that the kernel knows of
how records become durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from kheish.errors import Poisoned, StoreError
from kheish.limits import COMMIT_BATCH_BYTES_MAX, SYNC_THREADS
from kheish.store.journal import Framed, Journal

T = TypeVar("T")

STORE_THREADS = 4
"""Threads for opening, reading, checkpoints and blobs."""

Tell = Callable[[Poisoned | None], None]
"""Is told on the event loop that a record is durable, or why it is not."""


class _Waiting(NamedTuple):
    journal: Journal
    framed: Framed
    tell: Tell


_Group = tuple[Journal, list[Framed]]
_Result = tuple[Tell, Poisoned | None]


class Committer:
    """Made, used and closed on one event loop; only its threads write and sync."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: SimpleQueue[_Waiting | None] = SimpleQueue()
        """What is to be committed; None: nothing comes any more."""
        self._held: _Waiting | None = None
        self._closing = False
        self._groups: SimpleQueue[_Group | None] = SimpleQueue()
        """Records of one journal each, of the batch that is being committed; None ends a thread."""
        self._committed: SimpleQueue[None] = SimpleQueue()
        self._helpers: list[threading.Thread] = []
        self._workers = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="kheish-store")
        self._thread = threading.Thread(target=self._work, name="kheish-commit", daemon=True)
        self._thread.start()

    def append(self, journal: Journal, framed: Framed, tell: Tell) -> None:
        """Makes a record durable, and tells, in the order of appending."""
        if self._closing:
            raise StoreError("cannot append: the store is closed", code="store_closed")
        self._waiting.put(_Waiting(journal, framed, tell))

    def run(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run other blocking store work (open, read, checkpoint, blob) so that it does not delay commits."""
        return self._loop.run_in_executor(self._workers, work, *arguments)

    async def close(self) -> None:
        """Make everything that waits durable, finish running work, and end the threads."""
        self._closing = True
        self._waiting.put(None)
        await self._loop.run_in_executor(None, self._join)

    def _join(self) -> None:
        self._thread.join()
        for _ in self._helpers:
            self._groups.put(None)
        for helper in self._helpers:
            helper.join()
        self._workers.shutdown()

    def _tell_all(self, results: list[_Result]) -> None:
        """Each by itself: one that fails keeps nobody else waiting."""
        for tell, error in results:
            self._loop.call_soon(tell, error)

    # -- on the committer's thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        while batch := self._take():
            results = self._commit(batch)
            with contextlib.suppress(RuntimeError):  # the loop is closed and nobody waits any more
                self._loop.call_soon_threadsafe(self._tell_all, results)

    def _take(self) -> list[_Waiting]:
        """The next batch, or an empty one when the committer is closed and drained."""
        batch: list[_Waiting] = []
        size = 0
        waiting = self._held or self._waiting.get()
        self._held = None
        while waiting is not None:
            size += len(waiting.framed.line)
            if batch and size > COMMIT_BATCH_BYTES_MAX:
                self._held = waiting
                return batch
            batch.append(waiting)
            if self._waiting.empty():
                return batch
            waiting = self._waiting.get()
        if batch:
            self._waiting.put(None)
        return batch

    def _commit(self, batch: list[_Waiting]) -> list[_Result]:
        groups: dict[Journal, list[Framed]] = {}
        for waiting in batch:
            groups.setdefault(waiting.journal, []).append(waiting.framed)
        if len(groups) == 1:
            _commit_group(*groups.popitem())
        else:
            self._commit_side_by_side(groups)
        return [
            (tell, None if framed.seq <= journal.durable_seq else journal.poison("it was not written"))
            for journal, framed, tell in batch
        ]

    def _commit_side_by_side(self, groups: dict[Journal, list[Framed]]) -> None:
        with contextlib.suppress(RuntimeError):  # no thread is to be had: those that there are do it all
            while len(self._helpers) < min(len(groups), SYNC_THREADS) - 1:
                helper = threading.Thread(target=self._help, name=f"kheish-sync_{len(self._helpers)}", daemon=True)
                helper.start()
                self._helpers.append(helper)
        for group in groups.items():
            self._groups.put(group)
        with contextlib.suppress(Empty):
            while (group_left := self._groups.get_nowait()) is not None:
                _commit_group(*group_left)
                self._committed.put(None)
        for _ in groups:
            self._committed.get()

    def _help(self) -> None:
        while (group := self._groups.get()) is not None:
            _commit_group(*group)
            self._committed.put(None)


def _commit_group(journal: Journal, records: list[Framed]) -> None:
    try:
        journal.commit(records)
    except Poisoned:
        pass  # the journal remembers, and `durable_seq` tells which records made it
    except Exception as error:  # a fault of ours must not leave anybody waiting for ever
        journal.poison(repr(error))
