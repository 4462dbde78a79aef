"""Group commit: a few threads make records durable, each those of one journal at a time.

There is no timer and no round: what comes for a journal that is being synced is written with the next sync of that
journal, and no journal waits for another's. An idle thread sleeps. What is durable is told in the order of appending,
whichever sync ended first, so that the records of all journals are published in one order. This small interface is all
that the kernel knows of how records become durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from kheish.errors import Poisoned, StoreError
from kheish.limits import COMMIT_BATCH_BYTES_MAX, COMMITS_HELD_MAX, COMMITS_TOLD_AT_ONCE_MAX, SYNC_THREADS
from kheish.store.bell import Bell
from kheish.store.journal import Framed, Journal
from kheish.store.workers import Workers

T = TypeVar("T")

STORE_THREADS = 4
"""Threads for opening, reading, checkpoints and blobs."""

Tell = Callable[[Poisoned | None], None]
"""Is told on the event loop that a record is durable, or why it is not."""


class _Waiting:
    __slots__ = ("error", "framed", "is_done", "tell")

    def __init__(self, framed: Framed, tell: Tell) -> None:
        self.framed = framed
        self.tell = tell
        self.error: Poisoned | None = None
        self.is_done = False


class Committer:
    """Made, used and closed on one event loop; only its threads write and sync."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: dict[Journal, list[_Waiting]] = {}
        """What is to be written, by journal; a journal is here as long as a thread has it or is to take it."""
        self._journals: deque[Journal] = deque()
        """Those that no thread has taken yet."""
        self._asleep: list[threading.Lock] = []
        """What each thread that has nothing to do waits for; who fell asleep last is woken first."""
        self._is_waking = False
        """A thread was woken and has not come yet. It wakes the next one, if that is needed: woken all at once they
        would only wait for the interpreter's lock."""
        self._is_ended = False
        self._order: deque[_Waiting] = deque()
        """What was not told yet, in the order of appending."""
        self.bell = Bell(loop)
        """What tells the loop of commits; others may ring it and answer it until this is closed."""
        self.bell.looks.append(self._tell_done)
        self._closing = False
        self._threads: list[threading.Thread] = []
        self._workers = Workers(loop, "kheish-store", STORE_THREADS, self.bell)
        self._begin_thread()

    def append(self, journal: Journal, framed: Framed, tell: Tell) -> None:
        """Makes a record durable, and tells, in the order of appending."""
        if self._closing:
            raise StoreError("cannot append: the store is closed", code="store_closed")
        waiting = _Waiting(framed, tell)
        self._order.append(waiting)
        with self._lock:
            if (others := self._waiting.get(journal)) is not None:
                others.append(waiting)
                return
            self._waiting[journal] = [waiting]
            self._journals.append(journal)
            self._rouse()
            is_short = len(self._threads) < min(len(self._waiting), SYNC_THREADS)
        if is_short:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: those that there are do it all
                self._begin_thread()

    def run(self, work: Callable[..., T], *arguments: object) -> asyncio.Future[T]:
        """Run other blocking store work (open, read, checkpoint, blob) so that it does not delay commits."""
        return self._workers.run(work, *arguments)

    async def close(self) -> None:
        """Make everything that waits durable, finish running work, and end the threads."""
        self._closing = True
        await self._loop.run_in_executor(None, self._join)
        await self._workers.close()
        while self._order and self._order[0].is_done:
            self._tell_done()
        self.bell.close()

    def _join(self) -> None:
        with self._lock:
            self._is_ended = True
            while self._asleep:
                self._asleep.pop().release()
        for thread in self._threads:
            thread.join()

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=f"kheish-commit_{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tell_done(self) -> None:
        """A few at a time, and each by itself: one that fails keeps nobody else waiting."""
        for _ in range(COMMITS_TOLD_AT_ONCE_MAX):
            if not (self._order and self._order[0].is_done):
                return
            waiting = self._order.popleft()
            try:
                waiting.tell(waiting.error)
            except Exception as error:
                self._loop.call_exception_handler({"message": "cannot tell of a commit", "exception": error})
        self._loop.call_soon(self._tell_done)

    # -- on the committer's threads ---------------------------------------------------------------------------------

    def _work(self) -> None:
        held = 0
        alarm = threading.Lock()
        alarm.acquire()
        while (journal := self._next(alarm)) is not None:
            while batch := self._take(journal):
                _commit(journal, batch)
                held += 1
                # While there is more to do whoever does it wakes the loop, which is to work in longer strokes then.
                if held >= COMMITS_HELD_MAX or not self._journals:
                    held = 0
                    self._wake()

    def _next(self, alarm: threading.Lock) -> Journal | None:
        """A journal that no thread has taken, as soon as there is one; none, and the thread is to end."""
        while True:
            with self._lock:
                if self._journals:
                    journal = self._journals.popleft()
                    self._rouse()
                    return journal
                if self._is_ended:
                    return None
                self._asleep.append(alarm)
            alarm.acquire()
            self._is_waking = False

    def _rouse(self) -> None:
        """Wakes a thread if there is something to take; `_lock` is held."""
        if self._journals and self._asleep and not self._is_waking:
            self._is_waking = True
            self._asleep.pop().release()

    def _take(self, journal: Journal) -> list[_Waiting]:
        """The next records of a journal; none, and the journal is let go."""
        with self._lock:
            waiting = self._waiting[journal]
            if not waiting:
                del self._waiting[journal]
                return []
            size = 0
            for count, each in enumerate(waiting):
                size += len(each.framed.line)
                if count and size > COMMIT_BATCH_BYTES_MAX:
                    break
            else:
                count = len(waiting)
            self._waiting[journal] = waiting[count:]
            return waiting[:count]

    def _wake(self) -> None:
        """Has the loop tell what may be told. The thread of what others wait behind does it for them."""
        with contextlib.suppress(IndexError):  # it was told already
            if self._order[0].is_done:
                self.bell.ring()


def _commit(journal: Journal, batch: list[_Waiting]) -> None:
    try:
        journal.commit([waiting.framed for waiting in batch])
    except Poisoned:
        pass  # the journal remembers, and `durable_seq` tells which records made it
    except Exception as error:  # a fault of ours must not leave anybody waiting for ever
        journal.poison(repr(error))
    for waiting in batch:
        if waiting.framed.seq > journal.durable_seq:
            waiting.error = journal.poison("it was not written")
        waiting.is_done = True
