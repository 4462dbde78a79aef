"""The store under the kernel, in one process: appends beside the disk of the same minute, opening, bytes at rest."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple
from unittest import mock

from kheish.core.commands import SetMode
from kheish.core.events import Mode
from kheish.limits import UNCOLLECTED_OBJECTS_MAX
from kheish.runtime import supervisor
from kheish.store import atomic, committer
from kheish.store.committer import Committer, Tell
from kheish.store.journal import Framed, Journal
from tests.benchmarks import knocks
from tests.benchmarks.baselines import RECORD
from tests.benchmarks.figures import Figure
from tests.runtime.kernel import OPERATOR, Kernel, reply

SESSIONS = (1, 10, 100, 1000)
ARRIVALS = (100, 1000, 3000)
THREADS = (2, 4, 8, 16)
ROUNDS, BURST_S, DISK_S = 5, 1.0, 0.1
OURS, LOG, UNSYNCED = "synced", "one sync a batch", "no syncs"
LOG_BYTES = 64 * 1024 * 1024


class Disk:
    """A file of its own, for what the disk does with nothing above it."""

    def __init__(self, folder: Path) -> None:
        self._fd = os.open(folder / "disk", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        os.posix_fallocate(self._log, 0, LOG_BYTES)
        os.fsync(self._log)

    def append_ms(self) -> float:
        began = time.perf_counter()
        os.write(self._fd, RECORD)
        os.fdatasync(self._fd)
        return (time.perf_counter() - began) * 1000

    def log(self, size: int) -> None:
        """What one batch would cost a commit log, whose place is allocated beforehand."""
        os.pwrite(self._log, b"x" * min(size, LOG_BYTES), 0)
        os.fdatasync(self._log)

    def rate(self, seconds: float = DISK_S) -> float:
        """F: appends of a record, each synced, in a second."""
        taken: list[float] = []
        while sum(taken) < seconds * 1000:
            taken.append(self.append_ms())
        return 1000 / statistics.mean(taken)


# -- appends through the kernel -------------------------------------------------------------------------------------


class Burst(NamedTuple):
    per_s: float
    latencies_ms: list[float]
    cpu_us: float


class Writers(Kernel):
    """A kernel whose sessions take the smallest command that is always a record."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, [reply("done")])
        self._modes: dict[str, Mode] = {}

    async def write(self, session_id: str) -> None:
        mode = self._modes[session_id] = "default" if self._modes.get(session_id) == "plan" else "plan"
        await self.supervisor.submit(session_id, SetMode(mode=mode), OPERATOR)


class LogCommitter(Committer):
    """The most that a commit log could give: a batch of all sessions costs one sync, and their files none at all."""

    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk) -> None:
        super().__init__(loop)
        self._disk = disk
        self._batch: SimpleQueue[tuple[Journal, Any] | None] = SimpleQueue()
        self._logger = threading.Thread(target=self._write, daemon=True)
        self._logger.start()

    def append(self, journal: Journal, framed: Framed, tell: Tell) -> None:
        waiting = committer._Waiting(framed, tell)
        self._order.append(waiting)
        self._batch.put((journal, waiting))

    def _write(self) -> None:
        while (first := self._batch.get()) is not None:
            batch = [first]
            while not self._batch.empty() and (another := self._batch.get()) is not None:
                batch.append(another)
            self._disk.log(sum(len(waiting.framed.line) for _, waiting in batch))
            for journal, waiting in batch:
                committer._commit(journal, [waiting])
            self._wake()

    async def close(self) -> None:
        self._batch.put(None)
        await asyncio.to_thread(self._logger.join)
        await super().close()


@contextlib.asynccontextmanager
async def writers(root: Path, sessions: int) -> AsyncIterator[Writers]:
    made = Writers(root)
    async with made:
        await asyncio.gather(*[made.create(f"s{number}") for number in range(sessions)])
        yield made


def no_syncs() -> contextlib.AbstractContextManager[object]:
    return mock.patch.object(atomic, "sync_data", lambda fd: None)


class Manner(NamedTuple):
    made: Writers
    using: Callable[[], contextlib.AbstractContextManager[object]]


@contextlib.asynccontextmanager
async def manners(root: Path, sessions: int, disk: Disk) -> AsyncIterator[dict[str, Manner]]:
    """The store as it is, beside what others could do at best."""
    async with contextlib.AsyncExitStack() as stack:
        ours = await stack.enter_async_context(writers(root / "ours", sessions))
        with mock.patch.object(supervisor, "Committer", lambda loop: LogCommitter(loop, disk)):
            log = await stack.enter_async_context(writers(root / "log", sessions))
        yield {
            OURS: Manner(ours, contextlib.nullcontext),
            LOG: Manner(log, no_syncs),
            UNSYNCED: Manner(ours, no_syncs),
        }


async def closed_loop(made: Writers, sessions: int, seconds: float = BURST_S) -> Burst:
    """Each session sends its next command when the last one is durable."""
    taken: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def work(session_id: str) -> None:
        while (sent := time.perf_counter()) < began + seconds:
            await made.write(session_id)
            taken.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*[work(f"s{number}") for number in range(sessions)])
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    return Burst(len(taken) / took_s, taken, cpu_s / len(taken) * 1e6)


@contextlib.contextmanager
def longest_callback() -> Iterator[list[float]]:
    """How long each callback of the event loop took, in milliseconds."""
    taken: list[float] = []
    run = asyncio.events.Handle._run

    def timed(handle: Any) -> None:
        began = time.perf_counter()
        run(handle)
        taken.append((time.perf_counter() - began) * 1000)

    with mock.patch.object(asyncio.events.Handle, "_run", timed):
        yield taken


def append(folder: Path, count: int) -> list[Figure]:
    """Durable records of 1 to 1,000 sessions, closed loop, beside F and beside what other stores could do at best."""
    return asyncio.run(_append(folder))


async def _append(folder: Path) -> list[Figure]:
    disk = Disk(folder)
    rates: list[float] = []
    bursts: dict[tuple[int, str], list[Burst]] = {}
    blocks: dict[int, list[float]] = {}
    async with manners(folder / "append", SESSIONS[-1], disk) as found:
        gc.freeze()
        gc.set_threshold(UNCOLLECTED_OBJECTS_MAX)  # as a daemon does
        for _ in range(ROUNDS):
            for sessions in SESSIONS:
                for manner, (made, using) in found.items():
                    rates.append(disk.rate())
                    with using():
                        bursts.setdefault((sessions, manner), []).append(await closed_loop(made, sessions))
        for sessions in SESSIONS:
            with longest_callback() as blocks[sessions]:
                await closed_loop(found[OURS].made, sessions)
    figures = [Figure("F: appends of 300 bytes, each synced", "1/s", rates)]
    floors = {1: 0.5, 100: 10.0}
    for sessions in SESSIONS:
        name = f"append, {sessions} sessions"
        synced = _rate(name, bursts[sessions, OURS], figures[0].median)
        if floor := floors.get(sessions):
            least = floor * figures[0].median
            synced = synced._replace(goal=f">= {floor:g} F = {least:.0f}", met=synced.median >= least)
        figures += [
            synced,
            Figure(f"{name}: until durable", "ms", [ms for b in bursts[sessions, OURS] for ms in b.latencies_ms]),
            Figure(f"{name}: longest callback of the event loop", "ms", [max(blocks[sessions])]),
        ]
        for manner in (LOG, UNSYNCED):
            figure = _rate(f"{name}, {manner}", bursts[sessions, manner], figures[0].median)
            figures.append(figure._replace(note=f"{figure.median / synced.median:.2f}x of ours; {figure.note}"))
    return figures


def _rate(name: str, bursts: list[Burst], base: float) -> Figure:
    per_s = [burst.per_s for burst in bursts]
    cpu_us = statistics.median(burst.cpu_us for burst in bursts)
    note = f"{statistics.median(per_s) / base:.2f} F; CPU {cpu_us:.0f} us a record"
    return Figure(name, "1/s", per_s, note=note)


def threads(folder: Path, count: int) -> list[Figure]:
    """How many threads sync best."""
    return asyncio.run(_threads(folder))


async def _threads(folder: Path) -> list[Figure]:
    taken: dict[tuple[int, int], list[Burst]] = {}
    for sessions in (100, 1000):
        async with contextlib.AsyncExitStack() as stack:
            kernels: dict[int, Writers] = {}
            for number in THREADS:
                with mock.patch.object(committer, "SYNC_THREADS", number):
                    made = writers(folder / f"threads-{sessions}-{number}", sessions)
                    kernels[number] = await stack.enter_async_context(made)
            for _ in range(ROUNDS):
                for number, using in kernels.items():
                    with mock.patch.object(committer, "SYNC_THREADS", number):
                        taken.setdefault((sessions, number), []).append(await closed_loop(using, sessions))
    figures = []
    for (sessions, number), bursts in taken.items():
        ordered = sorted(ms for burst in bursts for ms in burst.latencies_ms)
        cpu_us = statistics.median(burst.cpu_us for burst in bursts)
        note = f"p99 {ordered[int(len(ordered) * 0.99)]:.1f} ms; CPU {cpu_us:.0f} us a record"
        name = f"append, {sessions} sessions, {number} threads that sync"
        figures.append(Figure(name, "1/s", [burst.per_s for burst in bursts], note=note))
    return figures


# -- arrivals -------------------------------------------------------------------------------------------------------


def arrivals(folder: Path, count: int) -> list[Figure]:
    """Records that come when they come, over 100 sessions, each from the instant at which it was due."""
    return asyncio.run(_arrivals(folder))


async def _arrivals(folder: Path) -> list[Figure]:
    disk = Disk(folder)
    figures = []
    async with manners(folder / "arrivals", 100, disk) as found:
        for per_s in ARRIVALS:
            bare: list[float] = []
            taken: dict[str, list[float]] = {}
            for _ in range(ROUNDS):
                bare += await asyncio.to_thread(_paced, disk, knocks.schedule(per_s))
                for manner, (made, using) in found.items():
                    with using():
                        taken.setdefault(manner, []).extend(await open_loop(made, per_s))
            base = Figure(f"{per_s} bare appends/s, each synced", "ms", bare)
            name = f"{per_s} arrivals/s, 100 sessions"
            ours = Figure(f"{name}: until durable", "ms", taken[OURS])
            limit = min(3 * base.percentile(0.99), 10.0)
            times = ours.percentile(0.99) / base.percentile(0.99)
            met = ours.percentile(0.99) <= limit
            goal = f"p99 <= 3x bare, 10 = {limit:.1f}"
            figures += [base, ours._replace(goal=goal, met=met, note=f"p99 {times:.2f}x")]
            figures += [Figure(f"{name}, {manner}", "ms", taken[manner]) for manner in (LOG, UNSYNCED)]
    return figures


def _paced(disk: Disk, instants: list[float]) -> list[float]:
    """How long each sync takes when they are this far apart."""
    began = time.perf_counter()
    taken = []
    for at in instants:
        time.sleep(max(0.0, began + at - time.perf_counter()))
        taken.append(disk.append_ms())
    return taken


async def open_loop(made: Writers, per_s: int) -> list[float]:
    """Milliseconds from the instant at which each was due."""
    argv = [sys.executable, "-m", "tests.benchmarks.knocks", str(per_s)]
    child = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    began = float(await child.stdout.readline())
    coming, rng = iter(knocks.schedule(per_s)), random.Random(knocks.SEED)
    taken: list[float] = []

    async def send(due: float, session_id: str) -> None:
        await made.write(session_id)
        taken.append((time.perf_counter() - due) * 1000)

    async with asyncio.TaskGroup() as group:
        while came := await child.stdout.read(4096):
            for at in itertools.islice(coming, len(came)):
                group.create_task(send(began + at, f"s{rng.randrange(100)}"))
    await child.wait()
    return taken


# -- the plain alternative ------------------------------------------------------------------------------------------


def sqlite(folder: Path, count: int) -> list[Figure]:
    """A transaction of SQLite for each record, and for a hundred, with the log that is synced at each commit."""
    disk = Disk(folder)
    database = sqlite3.connect(folder / "records.sqlite", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    for number in range(100):
        database.execute(f"CREATE TABLE s{number} (seq INTEGER PRIMARY KEY, line BLOB)")
    base: list[float] = []
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, tables, batch in (("1 session", 1, 1), ("100 sessions", 100, 1), ("100 sessions at once", 100, 100)):
            base.append(disk.rate())
            taken.setdefault(name, []).append(_insert(database, tables, batch))
    database.close()
    rate = statistics.median(base)
    return [
        Figure(f"SQLite, WAL and FULL, {name}", "1/s", per_s, note=f"{statistics.median(per_s) / rate:.2f} F")
        for name, per_s in taken.items()
    ]


def _insert(database: sqlite3.Connection, tables: int, batch: int) -> float:
    began = time.perf_counter()
    rows = 0
    while time.perf_counter() < began + BURST_S:
        database.execute("BEGIN IMMEDIATE")
        for _ in range(batch):
            database.execute(f"INSERT INTO s{rows % tables} (line) VALUES (?)", (RECORD,))
            rows += 1
        database.execute("COMMIT")
    return rows / (time.perf_counter() - began)


SCENES = {"store.append": append, "store.threads": threads, "store.arrivals": arrivals, "store.sqlite": sqlite}
