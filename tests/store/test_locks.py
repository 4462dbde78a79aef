"""One daemon per root, one writer per session, across processes; generations only grow."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from kheish.errors import Conflict, Corrupt, Poisoned, StoreError
from kheish.store import journal, locks
from kheish.store.locks import DaemonLock, SessionLock, read_owner
from tests.store.sessions import SESSION, Session, frame, make_empty, numbers

HOLDER = """
import sys, subprocess
from pathlib import Path
from kheish.store.locks import DaemonLock
from tests.store.sessions import Session
root = Path(sys.argv[1])
if sys.argv[2] == "daemon":
    lock = DaemonLock(root).acquire(now_ms=1_700_000_000_000)
    generation = lock.generation
else:
    session = Session.open(root)
    generation = 0
child = subprocess.Popen(["sleep", "1000"], start_new_session=True) if sys.argv[3:] else None
print(generation, child.pid if child else 0, flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(root: Path, what: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Another process that holds a lock; SIGKILLed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root), what, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        generation, child = map(int, process.stdout.readline().split())
        yield process, generation, child
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_daemon_is_told_who_holds_the_root(root: Path) -> None:
    with holder(root, "daemon") as (process, generation, _):
        with pytest.raises(Conflict) as caught:
            DaemonLock(root).acquire()
        assert caught.value.code == "state_root_locked"
        assert caught.value.details == {
            "pid": process.pid,
            "started_at_ms": 1_700_000_000_000,
            "generation": generation,
        }
        assert str(process.pid) in caught.value.message
        owner = read_owner(root)
        assert owner is not None
        assert owner.pid == process.pid


def test_who_loses_a_race_is_told_of_the_winner_and_not_of_who_died_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(root, "daemon") as (process, _, _):
        process.kill()
        process.wait()
    dead = (root / "daemon.lock").read_bytes()
    winner = DaemonLock(root).acquire()
    says = (root / "daemon.lock").read_bytes()
    (root / "daemon.lock").write_bytes(dead)
    looks = itertools.count(1)
    monkeypatch.setattr(time, "sleep", lambda _: next(looks) == 5 and (root / "daemon.lock").write_bytes(says))
    with pytest.raises(Conflict) as caught:
        DaemonLock(root).acquire()
    assert caught.value.details["pid"] == os.getpid()
    winner.release()


def test_a_killed_daemon_leaves_the_root_free(root: Path) -> None:
    with holder(root, "daemon") as (process, generation, _):
        process.kill()
        process.wait()
        lock = DaemonLock(root).acquire()
        assert lock.generation == generation + 1
        lock.release()


def test_a_child_that_outlives_the_daemon_does_not_hold_its_lock(root: Path) -> None:
    with holder(root, "daemon", "child") as (process, _, child):
        try:
            process.kill()
            process.wait()
            os.kill(child, 0)
            DaemonLock(root).acquire().release()
        finally:
            os.kill(child, 9)


def test_a_session_has_one_writer(root: Path) -> None:
    make_empty(root, SESSION)
    with holder(root, "session") as (process, _, _):
        with pytest.raises(Conflict) as caught:
            Session.open(root)
        assert caught.value.code == "session_locked"
        process.kill()
        process.wait()
        Session.open(root).close()


def test_locks_hold_within_a_process(root: Path) -> None:
    lock = DaemonLock(root).acquire()
    with pytest.raises(Conflict):
        DaemonLock(root).acquire()
    lock.release()
    lock.release()
    DaemonLock(root).acquire().release()
    (root / "x").mkdir()
    session = SessionLock(root / "x").acquire()
    with pytest.raises(Conflict):
        SessionLock(root / "x").acquire()
    session.release()
    SessionLock(root / "x").acquire().release()


def test_generations_grow_and_survive_the_loss_of_either_file(root: Path) -> None:
    def next_generation(generation_min: int = 0) -> int:
        lock = DaemonLock(root).acquire(generation_min=generation_min)
        lock.release()
        return lock.generation

    assert [next_generation() for _ in range(3)] == [1, 2, 3]
    (root / "daemon" / "generation.json").unlink()
    assert next_generation() == 4
    (root / "daemon.lock").write_bytes(b"")
    assert next_generation() == 5
    (root / "daemon" / "generation.json").write_bytes(b"rubbish")
    assert next_generation() == 6
    (root / "daemon" / "generation.json").unlink()
    (root / "daemon.lock").unlink()
    assert next_generation(generation_min=40) == 40
    assert next_generation(generation_min=7) == 41
    (root / "daemon" / "generation.json").write_bytes(b"rubbish")
    (root / "daemon.lock").write_bytes(b"rubbish")
    with pytest.raises(Corrupt):
        next_generation()
    assert (root / "daemon" / "generation.json").read_bytes() == b"rubbish"


def test_a_generation_is_durable_before_it_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, value: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(locks, "write_document", failing)
        with pytest.raises(OSError):
            DaemonLock(root).acquire()
    lock = DaemonLock(root).acquire()
    assert lock.generation == 1
    assert lock.raise_generation(50) == 50
    assert lock.raise_generation(20) == 50
    lock.release()
    with pytest.raises(StoreError):
        lock.raise_generation(60)
    again = DaemonLock(root).acquire()
    assert again.generation == 51
    owner = read_owner(root)
    assert owner is not None
    assert (owner.pid, owner.generation) == (os.getpid(), 51)
    again.release()


def test_a_lock_file_that_was_replaced_is_locked_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes the lock file between its opening and its locking: the new name counts, not the old inode."""
    flock = fcntl.flock
    path = root / "daemon.lock"
    times = 0

    def racing(fd: int, operation: int) -> None:
        nonlocal times
        times += 1
        if times <= 2:
            path.unlink()
            if times == 2:
                path.touch(mode=0o600)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", racing)
    lock = DaemonLock(root).acquire()
    assert times == 3
    monkeypatch.undo()
    with pytest.raises(Conflict):
        DaemonLock(root).acquire()
    lock.release()
    assert path.exists()


def _replace(directory: Path) -> None:
    """Put a session back from a backup while it is in use."""
    backup = directory.with_name("backup")
    shutil.copytree(directory, backup)
    shutil.rmtree(directory)
    backup.rename(directory)


GONE: dict[str, Callable[[Path], object]] = {
    "moved": lambda directory: directory.rename(directory.parent.parent / "elsewhere"),
    "deleted": shutil.rmtree,
    "replaced": _replace,
}


@pytest.mark.parametrize("directory_is", GONE)
def test_a_session_whose_directory_is_gone_is_not_held(root: Path, directory_is: str) -> None:
    session = Session.create(root)
    session.close()
    lock = SessionLock(session.path).acquire()
    assert lock.is_held()
    GONE[directory_is](session.path)
    assert not lock.is_held()
    lock.release()
    assert not lock.is_held()


def test_nothing_that_is_deleted_in_a_session_gives_it_to_another(root: Path) -> None:
    session = Session.create(root)
    for path in session.path.iterdir():
        path.unlink()
    with pytest.raises(Conflict) as caught:
        Session.open(root)
    assert caught.value.code == "session_locked"
    session.close()


@pytest.mark.parametrize("directory_is", GONE)
def test_who_lost_the_directory_is_told_and_writes_nothing_any_more(
    root: Path, monkeypatch: pytest.MonkeyPatch, directory_is: str
) -> None:
    session = Session.create(root)
    session.append(1)
    GONE[directory_is](session.path)
    monkeypatch.setattr(journal, "SESSION_LOOK_EVERY_S", 0)
    before = _bytes_of(root / "sessions")
    with pytest.raises(Poisoned, match="directory was moved, deleted or replaced"):
        session.journal.commit([frame(session.journal, 2)])
    assert (session.journal.durable_seq, _bytes_of(root / "sessions")) == (1, before)
    session.close()


def test_who_lost_the_directory_harms_no_successor_before_it_is_told(root: Path) -> None:
    """The time until the next look is no risk: what it has open is not what the successor has."""
    stale = Session.create(root)
    stale.append(1)
    GONE["replaced"](stale.path)
    successor = Session.open(root)
    successor.append(1)
    stale.append(2)
    for act in (stale.checkpoint, stale.journal.end_segment):
        with pytest.raises(Poisoned):
            act()
    stale.close()
    successor.append(1)
    assert numbers(successor.reopen().opened.state.tail) == [1, 2, 3]


def _bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_file_system_without_flock_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(StoreError) as caught:
        DaemonLock(root).acquire()
    assert caught.value.code == "locks_unsupported"


def test_no_owner(root: Path) -> None:
    assert read_owner(root) is None
    root.mkdir()
    (root / "daemon.lock").write_bytes(b"")
    assert read_owner(root) is None


def test_generations_that_several_threads_raise_at_once_are_durable(root: Path) -> None:
    """Sessions from other state roots are opened side by side; the next daemon comes after all of them."""
    for _ in range(20):
        lock = DaemonLock(root).acquire()
        wanted = [lock.generation + step for step in (40, 30, 20, 10)]
        with ThreadPoolExecutor(len(wanted), initializer=threading.Barrier(len(wanted)).wait) as pool:
            assert max(pool.map(lock.raise_generation, wanted)) == wanted[0]
        lock.release()
        again = DaemonLock(root).acquire()
        assert again.generation == wanted[0] + 1
        again.release()
