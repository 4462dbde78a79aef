"""Packs the journals of sessions that were put away: one at a time, on a thread of its own, behind all other work.

It works for a moment and rests for nine, so that it never has the interpreter when somebody waits for it, nor much of
a processor. A lower priority would not do: a thread that waits for a processor while it has the interpreter makes the
whole daemon wait. Whoever opens a session meanwhile has it: the packing ends, and comes when that is put away again.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kheish.errors import Conflict
from kheish.limits import PACKING_REST_MS, PACKING_SLICE_MS
from kheish.runtime.index import Index, SessionSummary
from kheish.store.disk_space import file_sizes
from kheish.store.session_dir import session_path
from kheish.store.vacuum import vacuum_session

log = logging.getLogger(__name__)


class _Stopped(Exception):
    pass


class Packer:
    def __init__(self, root: Path, index: Index, *, is_on: bool) -> None:
        self.is_on = is_on
        self._root = root
        self._index = index
        self._waiting: dict[str, None] = {}
        self._packing: asyncio.Task[None] | None = None
        self._step: tuple[str, asyncio.Future[int | None]] = ("", asyncio.get_running_loop().create_future())
        """Which session was taken last, and what comes of it."""
        self._stopping, self._leaving = threading.Event(), threading.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kheish-pack")
        """Begins with the first work."""

    def take(self, row: SessionSummary) -> None:
        """A session that is not open; one of a single segment has nothing to pack."""
        if self.is_on and row.segment_first_seq > 1 and not row.problem and not self._stopping.is_set():
            self._waiting[row.session_id] = None
            if self._packing is None:
                self._packing = asyncio.ensure_future(self._pack_all())

    async def leave(self, session_id: str) -> bool:
        """Returns when this session is left alone; whether it was the last one. Its lock is held for a moment only, but
        that is long where the disk is slow."""
        packed, step = self._step
        if packed != session_id:
            return False
        self._leaving.set()
        await asyncio.wait([step])
        return True

    def stop(self) -> None:
        """Takes no more; what is under way ends within moments, and what was done is whole."""
        self._stopping.set()

    async def close(self) -> None:
        self.stop()
        if self._packing is not None:
            await self._packing
        self._thread.shutdown()

    async def _pack_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and not self._stopping.is_set():
            session_id = next(iter(self._waiting))
            del self._waiting[session_id]
            self._leaving.clear()
            self._step = session_id, loop.run_in_executor(self._thread, self._pack, session_id)
            size_bytes = await self._step[1]
            if size_bytes is not None:
                self._index.put_sizes({session_id: size_bytes})
        self._packing = None

    # -- on the packer's thread ----------------------------------------------------------------------------------

    def _pack(self, session_id: str) -> int | None:
        """What the session's files take then; None where that is not known."""
        directory = session_path(self._root, session_id)
        try:
            vacuum_session(directory, _Pace(self._stopping, self._leaving))
            return sum(file_sizes(directory).values())
        except (_Stopped, Conflict):
            pass
        except Exception as error:  # one that cannot be packed, for whatever reason, keeps no other waiting
            log.error("session %s: cannot pack its journal: %s", session_id, error)
        return None


class _Pace:
    def __init__(self, stopping: threading.Event, leaving: threading.Event) -> None:
        self._stopping, self._leaving = stopping, leaving
        self._since_s = time.perf_counter()

    def __call__(self) -> None:
        if self._leaving.is_set():
            raise _Stopped
        worked_s = time.perf_counter() - self._since_s
        if worked_s >= PACKING_SLICE_MS / 1000:
            if self._stopping.wait(worked_s * PACKING_REST_MS / PACKING_SLICE_MS):
                raise _Stopped
            self._since_s = time.perf_counter()
