"""Group commit: order, grouping, failure, closing; the disk's speed is a gate that the test opens."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from kheish.errors import Poisoned, StoreError
from kheish.limits import COMMIT_BATCH_BYTES_MAX, COMMITS_TOLD_AT_ONCE_MAX, SYNC_THREADS
from kheish.store import atomic
from kheish.store.committer import Committer
from kheish.store.journal import Framed, Journal
from tests.store.disk import FailingDisk
from tests.store.sessions import Session, frame, numbers


@pytest.fixture
async def committer() -> AsyncIterator[Committer]:
    made = Committer(asyncio.get_running_loop())
    yield made
    await made.close()


@pytest.fixture
def sessions(root: Path) -> Iterator[list[Session]]:
    made = [Session.create(root, f"s{number}") for number in range(12)]
    yield made
    for session in made:
        session.close()


class Gate:
    """Holds every sync until it is opened, and tells when one has arrived."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.arrived = threading.Event()
        self.opened = threading.Event()
        self.syncs = 0
        self._sync = atomic.sync_data
        monkeypatch.setattr(atomic, "sync_data", self._wait)

    def _wait(self, fd: int) -> None:
        self.syncs += 1
        self.arrived.set()
        assert self.opened.wait(10)
        self._sync(fd)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, sessions: list[Session]) -> Gate:
    return Gate(monkeypatch)


class Waits(list[float]):
    """The timeout of each wait for an alarm that is over; who is woken comes as soon as it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_come = threading.Event()
        self.may_come.set()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """What is held for a moment only is held with `with`, and not noted."""
    made = Waits()

    class Lock:
        def __init__(self) -> None:
            self._lock = threading.Lock()
            self.release = self._lock.release

        def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
            is_mine = self._lock.acquire(blocking, timeout) and made.may_come.wait(10)
            made.append(timeout)
            return is_mine

        def __enter__(self) -> bool:
            return self._lock.__enter__()

        def __exit__(self, *_: object) -> None:
            self._lock.release()

    monkeypatch.setattr("kheish.store.committer.threading", SimpleNamespace(Lock=Lock, Thread=threading.Thread))
    return made


async def all_sleep(committer: Committer) -> None:
    while len(committer._asleep) < len(committer._threads):
        await asyncio.sleep(0)


def append(committer: Committer, journal: Journal, framed: Framed) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def tell(error: Poisoned | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    committer.append(journal, framed, tell)
    return future


def put(committer: Committer, journal: Journal, number: int) -> asyncio.Future[None]:
    return append(committer, journal, frame(journal, number))


async def test_what_is_acknowledged_is_in_the_file(committer: Committer, session: Session) -> None:
    for number in range(1, 21):
        await put(committer, session.journal, number)
        assert numbers(session.walk()) == list(range(1, number + 1))
        assert session.journal.durable_seq == number


async def test_nothing_is_acknowledged_before_the_sync_ends(
    committer: Committer, sessions: list[Session], gate: Gate
) -> None:
    future = put(committer, sessions[0].journal, 1)
    await asyncio.to_thread(gate.arrived.wait, 10)
    assert not future.done()
    assert sessions[0].journal.durable_seq == 0
    gate.opened.set()
    await future
    assert sessions[0].journal.durable_seq == 1


async def test_what_gathers_during_a_sync_is_one_batch(
    committer: Committer, sessions: list[Session], gate: Gate
) -> None:
    journal = sessions[0].journal
    first = put(committer, journal, 1)
    await asyncio.to_thread(gate.arrived.wait, 10)
    rest = [put(committer, journal, number) for number in range(2, 102)]
    gate.opened.set()
    await asyncio.gather(first, *rest)
    assert gate.syncs == 2
    assert numbers(sessions[0].walk()) == list(range(1, 102))


async def test_a_batch_is_bounded_in_bytes(
    committer: Committer, sessions: list[Session], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = sessions[0].journal
    first = put(committer, journal, 1)
    await asyncio.to_thread(gate.arrived.wait, 10)
    framed = [frame(journal, number) for number in range(2, 12)]
    monkeypatch.setattr("kheish.store.committer.COMMIT_BATCH_BYTES_MAX", 3 * len(framed[-1].line))
    rest = [append(committer, journal, each) for each in framed]
    gate.opened.set()
    await asyncio.gather(first, *rest)
    assert gate.syncs == 1 + 4
    assert numbers(sessions[0].walk()) == list(range(1, 12))


async def test_what_is_durable_is_told_in_the_order_of_appending_whichever_sync_ends_first(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_is_in, ended = threading.Event(), threading.Event()
    synced = threading.Semaphore(0)
    others = sessions[1:6]
    wakes: list[bytes] = []
    told: list[int] = []

    def sync(fd: int) -> None:
        if not first_is_in.is_set():
            first_is_in.set()
            assert ended.wait(10)

    def commit(journal: Journal, records: list[Framed]) -> None:
        commit_one(journal, records)
        synced.release()

    def wake(fd: int, data: bytes) -> int:
        wakes.append(data)
        return os.write(fd, data)

    commit_one = Journal.commit
    monkeypatch.setattr(atomic, "sync_data", sync)
    monkeypatch.setattr(Journal, "commit", commit)
    monkeypatch.setattr("kheish.store.bell.os", SimpleNamespace(write=wake, read=os.read, close=os.close))
    futures = [put(committer, sessions[0].journal, 1)]
    futures[0].add_done_callback(lambda _: told.append(0))
    assert first_is_in.wait(10)
    for number, session in enumerate(others, 1):
        futures.append(put(committer, session.journal, 1))
        futures[-1].add_done_callback(lambda _, number=number: told.append(number))  # type: ignore[misc]
        assert synced.acquire(timeout=10)
    await asyncio.sleep(0)
    assert not told and not wakes
    ended.set()
    await asyncio.gather(*futures)
    assert told == list(range(6))
    assert len(wakes) <= 2


async def test_many_that_are_durable_at_once_are_told_a_few_at_a_time(
    committer: Committer, sessions: list[Session], gate: Gate
) -> None:
    turns: list[int] = []
    turn = 0

    def tell(_: Poisoned | None) -> None:
        turns.append(turn)

    first = put(committer, sessions[0].journal, 1)
    await asyncio.to_thread(gate.arrived.wait, 10)
    for number in range(2, 202):
        committer.append(sessions[0].journal, frame(sessions[0].journal, number), tell)
    last = put(committer, sessions[0].journal, 202)
    gate.opened.set()
    await first
    while not last.done():
        turn += 1
        await asyncio.sleep(0)
    assert turns == sorted(turns) and len(turns) == 200
    assert max(map(turns.count, turns)) <= COMMITS_TOLD_AT_ONCE_MAX


async def test_commits_that_end_during_one_turn_of_the_loop_are_told_in_order(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Semaphore(0)
    told: list[int] = []

    def commit(journal: Journal, records: list[Framed]) -> None:
        commit_one(journal, records)
        ended.release()

    def write(number: int) -> None:
        journal = sessions[number].journal
        committer.append(journal, frame(journal, 1), lambda _: told.append(number))

    commit_one = Journal.commit
    monkeypatch.setattr(Journal, "commit", commit)
    for numbers_at_once in ([0], [1, 2, 3], [4]):
        for number in numbers_at_once:
            write(number)
        for _ in numbers_at_once:
            assert ended.acquire(timeout=10)
    assert not told
    while len(told) < 5:
        await asyncio.sleep(0)
    assert told == [0, 1, 2, 3, 4]


async def test_many_writers_at_once(committer: Committer, sessions: list[Session]) -> None:
    async def write(journal: Journal) -> None:
        for _ in range(20):
            await put(committer, journal, journal.next_seq)

    await asyncio.gather(*(write(session.journal) for session in sessions for _ in range(3)))
    for session in sessions:
        assert numbers(session.walk()) == list(range(1, 61))


async def test_journals_are_synced_side_by_side(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By threads that are begun for it, and by those that slept."""
    together = threading.Barrier(SYNC_THREADS, timeout=10)
    monkeypatch.setattr(atomic, "sync_data", lambda fd: together.wait())
    for number in (1, 2):
        await asyncio.gather(*[put(committer, session.journal, number) for session in sessions[:SYNC_THREADS]])
        await all_sleep(committer)


async def test_a_record_wakes_one_thread_and_leaves_the_others_asleep(
    sessions: list[Session], waits: Waits, gate: Gate
) -> None:
    """Of several records at once too: the others are woken by the one that came."""
    committer = Committer(asyncio.get_running_loop())
    futures = [put(committer, session.journal, 1) for session in sessions]
    gate.opened.set()
    await asyncio.gather(*futures)
    await all_sleep(committer)
    assert len(committer._threads) == SYNC_THREADS, "none is to be begun any more"
    waits.clear()
    for number in range(2, 7):
        await put(committer, sessions[0].journal, number)
        await all_sleep(committer)
    assert len(waits) == 5
    waits.may_come.clear()
    futures = [put(committer, session.journal, session.journal.next_seq) for session in sessions[1:6]]
    assert len(committer._asleep) == len(committer._threads) - 1
    waits.may_come.set()
    await asyncio.gather(*futures)
    await committer.close()


async def test_no_journal_waits_for_the_sync_of_another(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next record is written meanwhile; it is told of when those before it are."""
    opened = threading.Event()
    arrived, committed = SimpleQueue[Journal](), SimpleQueue[Journal]()
    slow, quick = sessions[0].journal, sessions[1].journal

    def commit(journal: Journal, records: list[Framed]) -> None:
        arrived.put(journal)
        if journal is slow:
            assert opened.wait(10)
        commit_one(journal, records)
        committed.put(journal)

    commit_one = Journal.commit
    monkeypatch.setattr(Journal, "commit", commit)
    futures = [put(committer, slow, 1)]
    assert arrived.get(timeout=10) is slow
    for number in (1, 2, 3):
        futures.append(put(committer, quick, number))
        assert committed.get(timeout=10) is quick
    assert quick.durable_seq == 3 and slow.durable_seq == 0
    opened.set()
    await asyncio.gather(*futures)


async def test_where_no_thread_is_to_be_had_all_is_committed_by_those_there_are(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a tool call started may have used up all that the user may have."""
    start, threads = threading.Thread.start, SimpleQueue[threading.Thread]()
    threads.put(threading.Thread())

    def start_one(thread: threading.Thread) -> None:
        if threads.empty():
            raise RuntimeError("can't start new thread")
        threads.get()
        start(thread)

    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", start_one)
        async with asyncio.timeout(10):
            for number in (1, 2):
                await asyncio.gather(*(put(committer, session.journal, number) for session in sessions))


async def test_a_teller_that_fails_keeps_nobody_else_waiting(
    committer: Committer, sessions: list[Session], gate: Gate
) -> None:
    def fail(_: Poisoned | None) -> None:
        raise ValueError

    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
    futures = [put(committer, sessions[0].journal, 1)]
    await asyncio.to_thread(gate.arrived.wait, 10)
    for session in sessions[1:4]:
        committer.append(session.journal, frame(session.journal, 1), fail)
        futures.append(put(committer, session.journal, 2))
    gate.opened.set()
    await asyncio.gather(*futures)
    assert [type(failure) for failure in failures] == [ValueError] * 3


async def test_a_failed_session_does_not_stop_others(
    committer: Committer, sessions: list[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Journal.commit
    bad = sessions[3].journal

    def failing(journal: Journal, records: list[Framed]) -> None:
        if journal is bad:
            raise journal.poison("EIO")
        commit(journal, records)

    monkeypatch.setattr(Journal, "commit", failing)
    futures = [put(committer, session.journal, 1) for session in sessions]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [isinstance(result, Poisoned) for result in results] == [session.journal is bad for session in sessions]
    with pytest.raises(Poisoned):
        frame(bad, 2)
    await put(committer, sessions[0].journal, 2)


async def test_poisoned_futures_fail_in_order(committer: Committer, sessions: list[Session], disk: FailingDisk) -> None:
    session = sessions[0]
    disk.fail_data_syncs = {1}
    disk.fail_creates = True
    futures = [put(committer, session.journal, number) for number in range(1, 6)]
    order: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: order.append(number))  # type: ignore[misc]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, Poisoned) for result in results)
    assert len({id(result) for result in results}) == 5
    assert order == [0, 1, 2, 3, 4]


async def test_a_recovered_failure_is_not_seen_by_writers(
    committer: Committer, sessions: list[Session], disk: FailingDisk
) -> None:
    session = sessions[0]
    disk.fail_data_syncs = {1, 2, 3}
    for number in range(1, 8):
        await put(committer, session.journal, number)
    assert numbers(session.walk()) == list(range(1, 8))


async def test_a_fault_of_the_code_leaves_nobody_waiting(
    committer: Committer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(atomic, "sync_data", broken)
    with pytest.raises(Poisoned, match="ZeroDivisionError"):
        await put(committer, session.journal, 1)


async def test_who_fails_at_being_told_harms_nobody(committer: Committer, sessions: list[Session], gate: Gate) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context["exception"]))
    committer.append(sessions[0].journal, frame(sessions[0].journal, 1), lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    second = put(committer, sessions[0].journal, 2)
    gate.opened.set()
    await second
    assert [type(fault) for fault in faults] == [ZeroDivisionError]
    assert numbers(sessions[0].walk()) == [1, 2]


async def test_other_work_does_not_wait_for_a_sync(committer: Committer, sessions: list[Session], gate: Gate) -> None:
    future = put(committer, sessions[0].journal, 1)
    await asyncio.to_thread(gate.arrived.wait, 10)
    assert await committer.run(lambda left, right: left + right, 20, 22) == 42
    assert not future.done()
    gate.opened.set()
    await future


async def test_work_that_fails_says_so(committer: Committer) -> None:
    with pytest.raises(ZeroDivisionError):
        await committer.run(lambda: 1 / 0)


@pytest.mark.parametrize("batch_bytes_max", [1, COMMIT_BATCH_BYTES_MAX])
async def test_closing_drains(session: Session, batch_bytes_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.store.committer.COMMIT_BATCH_BYTES_MAX", batch_bytes_max)
    descriptors = os.listdir("/proc/self/fd")
    committer = Committer(asyncio.get_running_loop())
    futures = [put(committer, session.journal, number) for number in range(1, 51)]
    await committer.close()
    await asyncio.gather(*futures)
    assert numbers(session.walk()) == list(range(1, 51))
    with pytest.raises(StoreError) as caught:
        put(committer, session.journal, 51)
    assert caught.value.code == "store_closed"
    assert not [
        name for each in threading.enumerate() if (name := each.name).startswith(("kheish-commit", "kheish-store"))
    ]
    assert os.listdir("/proc/self/fd") == descriptors


async def test_an_idle_committer_sleeps(sessions: list[Session], waits: Waits) -> None:
    """Its threads wait without a timeout: nothing but an append or a close wakes them."""
    committer = Committer(asyncio.get_running_loop())
    await asyncio.gather(*[put(committer, session.journal, 1) for session in sessions])
    await committer.close()
    assert waits and set(waits) == {-1}
