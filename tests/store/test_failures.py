"""A disk that fails: nothing acknowledged is lost, nothing after the last sync is acknowledged, others go on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.errors import Poisoned
from kheish.store import atomic
from kheish.store.records import parse_header, segment_name
from kheish.store.segments import read_records
from tests.store.disk import FailingDisk
from tests.store.sessions import Session, frame, numbers


def headers(session: Session) -> list[tuple[int, int, bool]]:
    found = [parse_header(path.read_bytes().splitlines(keepends=True)[0], path) for path in session.segments]
    return [(header.segment, header.first_seq, header.replaces_tail) for header in found]


def test_after_a_failed_sync_the_session_goes_on_in_a_new_file(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.append(1)
    assert headers(session) == [(1, 1, False), (1, 4, True)]
    assert not session.journal.is_poisoned
    assert session.journal.durable_seq == 4
    session.append(2)
    assert numbers(session.walk()) == [1, 2, 3, 4, 5, 6]
    for first in range(1, 8):
        assert numbers(read_records(session.path, first)) == list(range(first, 7))
    assert numbers(session.journal.read(2, 3)) == [2, 3, 4]


def test_a_failed_file_is_never_synced_again(session: Session, disk: FailingDisk) -> None:
    session.append(2)
    failed = disk.data_syncs[-1]
    disk.fail_data_syncs = {3}
    session.append(4)
    assert disk.data_syncs.count(failed) == 3
    assert disk.data_syncs[-1] != failed


def test_what_the_failed_write_left_is_not_read(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    framed = [frame(session.journal, number) for number in (4, 5, 6)]
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.journal.commit(framed)
    first = session.segments[0]
    assert first.read_bytes().count(b"\n") == 7  # the old file may hold all of it, some of it, or rubbish
    for left in (framed[0].line, framed[0].line[:30], bytes(100), b"rubbish\n", framed[0].line + framed[1].line):
        whole = first.read_bytes().splitlines(keepends=True)
        first.write_bytes(b"".join(whole[:4]) + left)
        assert numbers(session.walk()) == [1, 2, 3, 4, 5, 6]
        assert numbers(read_records(session.path)) == [1, 2, 3, 4, 5, 6]
    session = session.reopen()
    assert session.opened.set_aside == []
    session.append(1)
    session = session.reopen()
    assert numbers(session.opened.state.tail) == [1, 2, 3, 4, 5, 6, 7]
    session.close()


def test_the_first_record_of_a_segment_fails(session: Session, small_segments: int, disk: FailingDisk) -> None:
    disk.fail_data_syncs = {1}
    session.append(1)
    assert headers(session) == [(1, 1, False)]
    session.append(2)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.append(1)
    assert headers(session) == [(1, 1, False), (2, 4, False)]
    session.append(4)
    assert numbers(session.walk()) == list(range(1, 9))
    assert numbers(session.journal.read()) == list(range(1, 9))


def test_every_sync_fails_once(session: Session, small_segments: int, disk: FailingDisk) -> None:
    """Each commit fails in its first file; twelve recoveries and rotations later all is there, once."""
    for number in range(1, 13):
        framed = [frame(session.journal, session.journal.next_seq) for _ in range(1 + number % 4)]
        disk.fail_data_syncs = {len(disk.data_syncs) + 1 + number % 3}
        session.journal.commit(framed)
    count = session.journal.durable_seq
    assert numbers(session.walk()) == list(range(1, count + 1))
    disk.fail_data_syncs = set()
    session = session.reopen()
    session.append(5)
    assert numbers(session.walk()) == list(range(1, count + 6))
    session.close()


def test_where_the_new_file_fails_too_the_session_is_read_only(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    disk.fail_creates = True
    with pytest.raises(Poisoned) as caught:
        session.append(1)
    assert caught.value.details["durable_seq"] == 3
    assert "read-only" in caught.value.message
    syncs = len(disk.data_syncs)
    disk.fail_creates = False
    with pytest.raises(Poisoned):
        session.append(1)
    assert len(disk.data_syncs) == syncs
    assert numbers(session.journal.read()) == [1, 2, 3]


def test_after_a_restart_what_could_be_read_is_made_durable_first(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    disk.fail_creates = True
    with pytest.raises(Poisoned):
        session.append(1)
    disk.fail_creates = False
    disk.fail_data_syncs = set()
    writes: list[int] = []
    write_all = atomic.write_all
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic, "write_all", lambda fd, data: (writes.append(len(data)), write_all(fd, data)))
        session = session.reopen()
    tail = session.opened.state.tail
    assert numbers(tail) == [1, 2, 3, 4]  # never acknowledged, and legal either way
    assert writes == [sum(len(record.line) for record in tail)]
    assert disk.data_syncs[-1].endswith(segment_name(1))
    session.close()


def test_a_full_disk(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    size = session.segments[0].stat().st_size
    disk.fail_writes_after = 17
    with pytest.raises(Poisoned) as caught:
        session.append(1)
    assert "No space left" in caught.value.message
    disk.fail_writes_after = None
    assert session.segments[0].stat().st_size == size + 17
    assert [name.name for name in session.path.iterdir() if name.name.startswith(".tmp-")] == []
    session = session.reopen()
    (aside,) = session.opened.set_aside
    assert aside.stat().st_size == 17
    session.append(1)
    assert numbers(session.walk()) == [1, 2, 3, 4]
    session.close()


def test_a_failure_while_a_segment_begins(session: Session, small_segments: int, disk: FailingDisk) -> None:
    session.append(3)
    framed = [frame(session.journal, 4), frame(session.journal, 5)]
    disk.fail_creates = True
    with pytest.raises(Poisoned):
        session.journal.commit(framed)
    disk.fail_creates = False
    session = session.reopen()
    session.append(2)
    assert numbers(session.walk()) == [1, 2, 3, 4, 5]
    session.close()


def test_what_was_durable_before_the_failure_in_one_commit_counts(
    session: Session, small_segments: int, disk: FailingDisk
) -> None:
    framed = [frame(session.journal, number) for number in range(1, 6)]
    disk.fail_creates = True
    with pytest.raises(Poisoned):
        session.journal.commit(framed)
    assert session.journal.durable_seq == 3


def test_a_repair_that_fails_can_be_repeated(session: Session, disk: FailingDisk) -> None:
    session.append(2)
    session.close()
    (path,) = session.segments
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    disk.fail_writes_after = 2
    with pytest.raises(OSError) as caught:
        Session.open(session.root)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == whole + b"torn"
    disk.fail_writes_after = None
    again = Session.open(session.root)
    (aside,) = again.opened.set_aside
    assert aside.read_bytes() == b"torn"
    assert path.read_bytes() == whole
    assert sorted(name.name for name in session.path.iterdir()) == sorted([path.name, aside.name])
    again.close()


def test_a_file_that_could_not_be_made_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the next segment of a session that is put away while the disk is full."""

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "sync_file", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.create_file(tmp_path / "file", b"0123456789")
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    sizes: list[int] = []

    def short(fd: int, data: bytes | memoryview) -> int:
        sizes.append(len(data))
        return write(fd, bytes(data)[:7])

    monkeypatch.setattr(os, "write", short)
    atomic.create_file(tmp_path / "file", b"0123456789" * 3)
    assert (tmp_path / "file").read_bytes() == b"0123456789" * 3
    assert sizes == [30, 23, 16, 9, 2]


FULL = """
import resource, signal, sys
from pathlib import Path
from kheish.errors import Poisoned
from tests.store.sessions import Session
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
session = Session.create(Path(sys.argv[1]))
session.append(3)
size = session.segments[0].stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, size + 40))
session.append(1, text="x" * 100)  # does not fit here, and fits a new file
try:
    session.append(1, text="x" * 5000)
except Poisoned:
    print(session.journal.durable_seq)
"""


def test_the_kernel_limits_the_file(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout == "4\n"
    session = Session.open(root)
    assert numbers(session.opened.state.tail) == [1, 2, 3, 4]
    assert len(session.opened.set_aside) == 1
    session.append(1)
    session.close()


def test_a_session_whose_file_cannot_be_closed_well_can_be_opened_again(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.append(2)
    failing, close = session.journal._fd, os.close

    def close_badly(fd: int) -> None:
        close(fd)
        if fd == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close_badly)
        session.close()
    assert numbers(Session.open(session.root).opened.state.tail) == [1, 2]
