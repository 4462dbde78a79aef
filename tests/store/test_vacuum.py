"""Vacuum: packed segments read as the plain ones did, at every instant, and whatever is wrong with one is found."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import os
import shutil
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.errors import Conflict, Corrupt, StoreError
from kheish.store import archive, atomic, packed, vacuum
from kheish.store.archive import export_session, import_session
from kheish.store.checkpoint import checkpoint_name, list_checkpoints
from kheish.store.journal import Journal
from kheish.store.locks import SessionLock
from kheish.store.packed import is_packed, pack, packed_path
from kheish.store.records import Header, segment_name
from kheish.store.segments import (
    OffsetIndex,
    Walk,
    list_segments,
    locate,
    open_packed,
    open_segment,
    read_before,
    read_ending_at,
    read_records,
)
from kheish.store.session_dir import SessionDir, list_sessions
from kheish.store.vacuum import vacuum_session
from kheish.store.verify import verify_session
from tests.store.disk import FailingDisk
from tests.store.sessions import REDUCER, SESSION, Session, built, fold, keep, numbers

pytestmark = pytest.mark.usefixtures("small_segments", "small_members")
COUNT = 11
"""Records in segments of three: 1-3, 4-6, 7-9 and, not closed, 10-11."""


@pytest.fixture
def small_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """About two lines to a member."""
    monkeypatch.setattr(packed, "PACKED_MEMBER_BYTES", 500)


def lines(directory: Path) -> list[bytes]:
    return [record.line for record in read_records(directory)]


def names(directory: Path) -> list[str]:
    return [path.name for _, path in list_segments(directory)]


PACKED_NAMES = [f"{segment_name(first)}.gz" for first in (1, 4, 7)] + [segment_name(10)]


@pytest.fixture
def directory(ram_root: Path) -> Path:
    return built(ram_root, COUNT)


def test_the_closed_segments_are_packed_and_unpack_to_the_same_bytes(directory: Path) -> None:
    plain = {path.name: path.read_bytes() for _, path in list_segments(directory)}
    records = lines(directory)
    vacuum_session(directory)
    assert names(directory) == PACKED_NAMES
    assert sorted(os.listdir(directory)) == sorted(PACKED_NAMES), "nothing else is left"
    for _, path in list_segments(directory)[:-1]:
        assert gzip.decompress(path.read_bytes()) == plain[path.name.removesuffix(".gz")]
        assert path.stat().st_mode & 0o777 == 0o600
    assert lines(directory) == records
    assert verify_session(directory) == []


def test_it_may_be_done_again(directory: Path) -> None:
    vacuum_session(directory)
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    vacuum_session(directory)
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_the_newest_segment_is_left_alone(ram_root: Path) -> None:
    directory = built(ram_root, 3)
    vacuum_session(directory)
    assert names(directory) == [segment_name(1)]


def test_a_segment_that_is_ended_early_can_be_packed_and_what_follows_it_reads_on(ram_root: Path) -> None:
    session = Session.create(ram_root, SESSION)
    session.append(2)
    session.checkpoint(2)
    session.journal.end_segment()
    session.append(1)
    session.journal.end_segment()
    session.close()
    vacuum_session(session.path)
    assert names(session.path) == [f"{segment_name(first)}.gz" for first in (1, 3)] + [segment_name(4)]
    loaded = SessionDir.read_only(ram_root, SESSION, keep, reducer=REDUCER)
    assert loaded.fault is None and loaded.last is not None and loaded.last.seq == 3
    again = Session.open(ram_root)
    assert again.journal.end == session.journal.end and again.journal.end.segment_first_seq == 4
    assert again.journal.locate(3).segment_first_seq == 3
    again.checkpoint(3)
    again.append(2)
    again.close()
    assert numbers(read_records(session.path)) == list(range(1, 6))
    assert verify_session(session.path, fold, reducer=REDUCER) == []


def test_a_checkpoint_at_an_empty_segment_stands_on_a_record(ram_root: Path) -> None:
    session = Session.create(ram_root, SESSION)
    session.append(2)
    session.journal.end_segment()
    session.checkpoint(2)
    session.close()
    vacuum_session(session.path)
    loaded = SessionDir.read_only(ram_root, SESSION, keep, reducer=REDUCER)
    assert (loaded.checkpoint_seq, loaded.state.tail, loaded.fault) == (2, [], None)
    assert loaded.last is not None and loaded.last.seq == 2


def test_appending_goes_on_and_what_is_closed_then_is_packed_by_the_next(directory: Path) -> None:
    vacuum_session(directory)
    session = Session.open(directory.parent.parent)
    session.append(5)
    session.close()
    vacuum_session(directory)
    assert names(directory) == [f"{segment_name(first)}.gz" for first in (1, 4, 7, 10, 13)] + [segment_name(16)]
    assert numbers(read_records(directory)) == list(range(1, 17))


def test_every_way_of_reading_gives_the_same(directory: Path) -> None:
    def everything() -> list[object]:
        found: list[object] = [Walk(directory, SESSION).end()]
        for index in (None, OffsetIndex()):
            for seq in range(1, COUNT + 1):
                found.append([r.line for r in read_records(directory, seq, 4, index=index)])
                found.append([r.line for r in read_before(directory, seq, 4, index=index)])
                place = locate(directory, seq, index)
                found.append(place.offset)
                found.append(read_ending_at(directory, place).line)
                with open_segment(directory / segment_name(place.segment_first_seq)) as file:
                    file.seek(place.offset)
                    found.append((file.read(700), file.tell(), file.seek(0, os.SEEK_END), file.read()))
        return found

    before = everything()
    vacuum_session(directory)
    assert everything() == before


def test_what_an_index_and_a_checkpoint_know_of_a_segment_stays_true(
    ram_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.store.segments.JOURNAL_OFFSET_EVERY_RECORDS", 1)
    session = Session.create(ram_root, SESSION)
    session.append(5)
    session.checkpoint(4)
    session.append(6)
    session.close()
    index = OffsetIndex()
    list(read_records(session.path, index=index))
    assert index.find(4, 6) is not None
    vacuum_session(session.path)
    for seq in range(1, COUNT + 1):
        assert numbers(read_records(session.path, seq, index=index)) == list(range(seq, COUNT + 1))
    again = Session.open(ram_root)
    assert (again.opened.checkpoint_seq, numbers(again.opened.state.tail)) == (4, list(range(5, COUNT + 1)))
    again.close()
    assert verify_session(session.path, fold, reducer=REDUCER) == []


def test_a_page_of_a_packed_segment_unpacks_only_what_it_needs(ram_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 100)
    directory = built(ram_root, 101)
    vacuum_session(directory)
    unpacked: list[int] = []
    unpack = packed.PackedFile._unpack
    monkeypatch.setattr(
        packed.PackedFile, "_unpack", lambda self, member: (unpacked.append(member.first_seq), unpack(self, member))[1]
    )
    (record,) = read_records(directory, 60, 1)
    assert record.seq == 60
    assert len(unpacked) == 1


def test_the_replaced_tail_of_a_segment_is_packed_as_it_is(session: Session, disk: FailingDisk) -> None:
    session.append(2)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.append(1)
    with session.segments[0].open("ab") as file:
        file.write(b"rubbish of the failed write\n\0\0\0" * 40)
    whole = session.segments[0].read_bytes()
    session.append(5)
    session.close()
    records = lines(session.path)
    vacuum_session(session.path)
    assert names(session.path)[:2] == [f"{segment_name(1)}.gz", f"{segment_name(3)}.gz"]
    assert gzip.decompress(packed_path(session.path / segment_name(1)).read_bytes()) == whole
    assert lines(session.path) == records
    assert verify_session(session.path) == []
    path = packed_path(session.path / segment_name(1))
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert [fault.file for fault in verify_session(session.path)] == [str(path)], "what nobody reads is checked too"


def test_a_reader_that_listed_the_plain_segments_reads_the_packed_ones(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines(directory)
    reading = read_records(directory)
    first = next(reading)
    vacuum_session(directory)
    assert [first.line, *(record.line for record in reading)] == before


# -- with others ----------------------------------------------------------------------------------------------------


def test_a_session_that_is_open_is_left_alone(ram_root: Path) -> None:
    session = Session.create(ram_root, SESSION)
    session.append(COUNT)
    temp = session.path / ".tmp-of-its-owner"
    temp.touch()
    with pytest.raises(Conflict) as caught:
        vacuum_session(session.path)
    assert caught.value.code == "session_locked"
    assert temp.exists()
    assert not any(is_packed(path) for path in session.segments)
    session.close()


def test_one_that_is_opened_meanwhile_is_left_alone_from_there_on(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening clears unfinished files; it does not wait for a vacuum."""
    before = lines(directory)
    opened: list[Session] = []
    write = vacuum._write

    def opening(temp: Path, path: Path, first_seq: int, pause: Callable[[], None]) -> None:
        write(temp, path, first_seq, pause)
        if first_seq == 4:
            opened.append(Session.open(directory.parent.parent))

    monkeypatch.setattr(vacuum, "_write", opening)
    with pytest.raises(Conflict) as caught:
        vacuum_session(directory)
    assert caught.value.code == "session_locked"
    assert names(directory) == [PACKED_NAMES[0], *(segment_name(first) for first in (4, 7, 10))]
    opened[0].append(1)
    opened[0].close()
    assert lines(directory)[:COUNT] == before
    assert not [name for name in os.listdir(directory) if name.startswith(".tmp-")]


def test_names_are_exchanged_under_the_lock(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prove = vacuum._prove
    held: list[SessionLock] = []

    def locking(path: Path, first_seq: int, after: Header, pause: Callable[[], None]) -> None:
        prove(path, first_seq, after, pause)
        held.append(SessionLock(directory).acquire())

    with monkeypatch.context() as patched:
        patched.setattr(vacuum, "_prove", locking)
        with pytest.raises(Conflict) as caught:
            vacuum_session(directory)
    assert caught.value.code == "session_locked"
    assert names(directory) == [segment_name(first) for first in (1, 4, 7, 10)]
    assert not [name for name in os.listdir(directory) if name.startswith(".tmp-")]
    held[0].release()
    vacuum_session(directory)
    assert names(directory) == PACKED_NAMES


def test_one_that_was_opened_and_closed_meanwhile_is_left_to_the_next_vacuum(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = vacuum._write

    def visiting(temp: Path, path: Path, first_seq: int, pause: Callable[[], None]) -> None:
        write(temp, path, first_seq, pause)
        Session.open(directory.parent.parent).close()

    with monkeypatch.context() as patched:
        patched.setattr(vacuum, "_write", visiting)
        with pytest.raises(Conflict):
            vacuum_session(directory)
    assert numbers(read_records(directory)) == list(range(1, COUNT + 1))
    vacuum_session(directory)
    assert names(directory) == PACKED_NAMES


def test_one_that_is_told_to_end_leaves_what_was_done_and_nothing_else(directory: Path) -> None:
    """At whichever piece of the work it is told."""
    pauses, before = 0, lines(directory)

    class Told(Exception):
        pass

    def pause() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == last:
            raise Told

    last = 1
    while names(directory) != PACKED_NAMES:
        pauses = 0
        with contextlib.suppress(Told):
            vacuum_session(directory, pause)
        assert not [name for name in os.listdir(directory) if name.startswith(".tmp-")]
        assert lines(directory) == before
        last += 1
    assert last > 5


def test_opening_waits_out_the_moment_for_which_a_vacuum_holds_the_lock(directory: Path) -> None:
    lock = SessionLock(directory).acquire()
    threading.Timer(0.05, lock.release).start()
    SessionDir.open(directory.parent.parent, SESSION, keep, reducer=REDUCER).journal.close()


def test_it_clears_what_nothing_needs(ram_root: Path) -> None:
    session = Session.create(ram_root, SESSION)
    session.append(COUNT)
    session.checkpoint(8)
    old = (session.path / checkpoint_name(8)).read_bytes()
    session.checkpoint(9)
    session.checkpoint(10)
    session.close()
    (session.path / checkpoint_name(8)).write_bytes(old)
    (session.path / ".tmp-0123456789abcdef").write_bytes(b"half")
    (session.path / "torn-1-2.bin").write_bytes(b"evidence")
    vacuum_session(session.path)
    assert [seq for seq, _ in list_checkpoints(session.path)] == [10, 9]
    assert not (session.path / ".tmp-0123456789abcdef").exists()
    assert (session.path / "torn-1-2.bin").exists(), "evidence is for people"


# -- crashes (every state is in tests.faults.crash_states) ------------------------------------------------------------


def test_of_a_segment_that_is_there_twice_the_plain_one_counts(directory: Path) -> None:
    plain = {path: path.read_bytes() for _, path in list_segments(directory)}
    vacuum_session(directory)
    for path, data in plain.items():
        path.write_bytes(data)
    packed_path(directory / segment_name(4)).write_bytes(b"never finished")
    assert names(directory) == [segment_name(first) for first in (1, 4, 7, 10)]
    assert verify_session(directory) == []
    vacuum_session(directory)
    assert names(directory) == PACKED_NAMES
    assert numbers(read_records(directory)) == list(range(1, COUNT + 1))


def test_where_the_beginning_of_the_newest_was_cut_short_the_one_before_it_is_not_closed(directory: Path) -> None:
    newest = directory / segment_name(10)
    newest.write_bytes(newest.read_bytes()[:20])
    vacuum_session(directory)
    assert names(directory) == [*PACKED_NAMES[:2], segment_name(7), segment_name(10)]
    session = Session.open(directory.parent.parent)
    session.append(1)
    session.close()
    assert numbers(read_records(directory)) == list(range(1, 11))


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_disk_that_fails_meanwhile_costs_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    before = lines(directory)
    count = 0
    sync_file = atomic.sync_file

    def failing(fd: int) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(28, "No space left on device")
        sync_file(fd)

    with monkeypatch.context() as broken:
        broken.setattr(atomic, "sync_file", failing)
        with pytest.raises(OSError):
            vacuum_session(directory)
    assert lines(directory) == before
    assert not [name for name in os.listdir(directory) if name.startswith(".tmp-")]
    assert sum(name.endswith(".gz") for name in names(directory)) == at - 1
    vacuum_session(directory)
    assert names(directory) == PACKED_NAMES


@pytest.mark.parametrize("is_damaged", [True, False])
def test_what_does_not_read_back_does_not_replace(
    directory: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    def lying(source: io.BufferedReader, first_seq: int) -> Iterator[bytes]:
        yield from pack(io.BytesIO(source.read().replace(b'"number":3', b'"number":4')), first_seq)
        yield b"rubbish" * is_damaged

    before = lines(directory)
    monkeypatch.setattr(vacuum, "PACKED_MEMBER_BYTES", 64)
    monkeypatch.setattr(vacuum, "pack", lying)
    with pytest.raises(StoreError, match="reads back as other bytes") as caught:
        vacuum_session(directory)
    assert caught.value.code == "disk_failed"
    assert names(directory) == [segment_name(first) for first in (1, 4, 7, 10)]
    assert lines(directory) == before


# -- damage ---------------------------------------------------------------------------------------------------------


def first_fault(directory: Path) -> Corrupt:
    with pytest.raises(Corrupt) as caught:
        list(read_records(directory))
    return caught.value


def test_every_changed_byte_of_a_packed_segment_is_found_and_placed(directory: Path) -> None:
    records = lines(directory)
    vacuum_session(directory)
    path = packed_path(directory / segment_name(4))
    whole = path.read_bytes()
    for at in range(len(whole)):
        for mask in (0x01, 0x80):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
            (fault, *_) = verify_session(directory)
            assert fault.file == str(path), at
            found: list[bytes] = []
            with pytest.raises(Corrupt) as caught:
                for record in read_records(directory):
                    found.append(record.line)
            assert records[: len(found)] == found and 3 <= len(found) < 6
            error = caught.value
            assert error.code == "session_corrupt"
            assert error.details["file"] == str(path)
            assert (error.details["line"], error.details["offset"]) == (fault.line, fault.offset)
            assert fault.reason == error.details["reason"] and "packed byte" in fault.reason
            assert fault.line == len(found) - 3 + 2 or (fault.line, len(found)) == (1, 3)
    path.write_bytes(whole)
    assert verify_session(directory) == []


def test_a_damaged_session_is_refused_and_not_opened_beside_its_fault(directory: Path) -> None:
    vacuum_session(directory)
    path = packed_path(directory / segment_name(4))
    path.write_bytes(path.read_bytes()[:-9])
    before = {entry.name: entry.read_bytes() for entry in directory.iterdir()}
    with pytest.raises(Corrupt) as caught:
        Session.open(directory.parent.parent)
    assert caught.value.details["file"] == str(path)
    with pytest.raises(Corrupt):
        export_session(directory.parent.parent, SESSION, io.BytesIO())
    assert {entry.name: entry.read_bytes() for entry in directory.iterdir()} == before


def test_packed_segments_that_are_cut_extended_or_gone_are_found(directory: Path) -> None:
    vacuum_session(directory)
    path = packed_path(directory / segment_name(4))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert verify_session(directory) != [], size
        first_fault(directory)
    for more in (b"\0", b"x" * 100, gzip.compress(b"more"), whole):
        path.write_bytes(whole + more)
        assert verify_session(directory) != []
        with pytest.raises(Corrupt):
            Walk(directory, SESSION).end()
    path.unlink()
    assert "the next segment starts at 7" in verify_session(directory)[0].reason
    first_fault(directory)


def test_a_gzip_file_that_is_none_of_ours_is_refused(directory: Path) -> None:
    path = directory / segment_name(1)
    packed_path(path).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert "there is no header of a member" in first_fault(directory).details["reason"]


def test_a_packed_segment_of_another_place_is_found(directory: Path, ram_root: Path) -> None:
    vacuum_session(directory)
    first, second = (packed_path(directory / segment_name(seq)) for seq in (1, 4))
    data = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert "first seq 1" in first_fault(directory).details["reason"]
    other = built(ram_root, COUNT, "other")
    vacuum_session(other)
    second.write_bytes((other / second.name).read_bytes())
    assert "chain" in verify_session(directory)[0].reason or "another session" in verify_session(directory)[0].reason
    second.write_bytes(data)
    assert verify_session(directory) == []


def test_a_member_that_promises_more_than_there_may_be_is_refused_unread(directory: Path) -> None:
    bomb, less = (
        zlib.compress(content, wbits=-15) + struct.pack("<II", zlib.crc32(content), len(content))
        for content in (b"\0" * (64 << 20), b"less")
    )
    vacuum_session(directory)
    path = packed_path(directory / segment_name(4))
    header = path.read_bytes()[:16]
    for body, size, reason in (
        (bomb, 64 << 20, "impossible size"),
        (bomb, 1000, "holds other than it says"),
        (less, 1000, "holds other than it says"),
    ):
        fields = struct.pack("<IIQI", 40 + len(body), size, 4, zlib.crc32(body))
        path.write_bytes(header + fields + struct.pack("<I", zlib.crc32(fields)) + body)
        assert reason in first_fault(directory).details["reason"]


def test_a_packed_segment_is_never_the_newest(directory: Path) -> None:
    """The newest is the one that is written, so that its loss is seen where those before it are packed."""
    vacuum_session(directory)
    (directory / segment_name(10)).unlink()
    path = packed_path(directory / segment_name(7))
    assert verify_session(directory)[0].file == str(path)
    assert "missing" in first_fault(directory).details["reason"]
    with pytest.raises(Corrupt, match="missing"):
        Session.open(directory.parent.parent)
    assert [info.segment for info in list_sessions(directory.parent.parent)] == [path.name]


@pytest.mark.parametrize("size", [10, 50, -3])
def test_a_damaged_packed_segment_is_no_torn_tail(directory: Path, size: int) -> None:
    """Not even where it is the last and those before it were unpacked by hand."""
    vacuum_session(directory)
    (directory / segment_name(10)).unlink()
    for seq in (1, 4):
        path = packed_path(directory / segment_name(seq))
        (directory / segment_name(seq)).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    path = packed_path(directory / segment_name(7))
    path.write_bytes(path.read_bytes()[:size])
    before = {entry.name: entry.read_bytes() for entry in directory.iterdir()}
    assert first_fault(directory).details["file"] == str(path)
    with pytest.raises(Corrupt) as caught:
        Session.open(directory.parent.parent)
    assert caught.value.details["file"] == str(path)
    assert {entry.name: entry.read_bytes() for entry in directory.iterdir()} == before


def test_of_two_faults_the_first_is_named(directory: Path) -> None:
    plain = (directory / segment_name(4)).read_bytes()
    vacuum_session(directory)
    path = packed_path(directory / segment_name(4))
    data = b"".join(pack(io.BytesIO(plain.replace(b"happened", b"hAppened", 1)), 4))
    path.write_bytes(data[:-1] + b"\xff")
    with pytest.raises(Corrupt) as caught:
        Walk(directory, SESSION).end()
    assert (caught.value.details["line"], caught.value.details["reason"]) == (2, "checksum")
    assert first_fault(directory).details["line"] == verify_session(directory)[0].line == 2


def test_a_checkpoint_that_stands_on_no_record_is_told_with_its_place(ram_root: Path) -> None:
    session = Session.create(ram_root, SESSION)
    session.append(6, extra="x" * 2000)
    session.checkpoint(6)
    offset = locate(session.path, 6).offset
    session.append(1)
    session.close()
    vacuum_session(session.path)
    path = packed_path(session.path / segment_name(4))
    content = gzip.decompress(path.read_bytes()).replace(b"happened", b"hAppened")
    path.write_bytes(b"".join(pack(io.BytesIO(content[:-8] + b"0000" + content[-4:]), 4)))
    with pytest.raises(Corrupt, match="the checkpoint at seq 6 is not here") as caught:
        Session.open(ram_root)
    assert caught.value.details["offset"] == offset > path.stat().st_size


def test_a_damaged_plain_segment_is_not_packed(directory: Path) -> None:
    path = directory / segment_name(4)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for changed in (whole.replace(b"happened", b"hAppened", 1), whole.removesuffix(last), whole[:-1]):
        path.write_bytes(changed)
        with pytest.raises(Corrupt) as caught:
            vacuum_session(directory)
        assert caught.value.details["file"] == str(path)
        assert path.read_bytes() == changed
        assert not packed_path(path).exists()


@pytest.mark.parametrize("first_seq", [7, 10])
def test_a_segment_with_a_damaged_header_is_none_that_has_just_begun(directory: Path, first_seq: int) -> None:
    path = directory / segment_name(first_seq)
    path.write_bytes(path.read_bytes().replace(b"format", b"fOrmat", 1))
    with pytest.raises(Corrupt) as caught:
        vacuum_session(directory)
    assert (caught.value.details["file"], caught.value.details["line"]) == (str(path), 1)


# -- archives -------------------------------------------------------------------------------------------------------


def test_an_archive_carries_packed_segments_as_they_are(directory: Path, tmp_path: Path) -> None:
    records = lines(directory)
    vacuum_session(directory)
    out = io.BytesIO()
    export_session(directory.parent.parent, SESSION, out)
    assert import_session(tmp_path, io.BytesIO(out.getvalue())).last_seq == COUNT
    imported = tmp_path / "sessions" / SESSION
    assert names(imported) == PACKED_NAMES
    for name in PACKED_NAMES:
        assert (imported / name).read_bytes() == (directory / name).read_bytes()
    assert lines(imported) == records
    assert verify_session(imported) == []


@pytest.mark.parametrize("step", ["list_segments", "_collect"])
def test_a_session_that_is_packed_while_it_is_exported_is_exported_whole(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Once its files are listed, or once they are counted."""
    records = lines(directory)
    original = getattr(archive, step)

    def packing(*arguments: Any) -> Any:
        result = original(*arguments)
        vacuum_session(directory)
        return result

    out = io.BytesIO()
    monkeypatch.setattr(archive, step, packing)
    export_session(directory.parent.parent, SESSION, out)
    import_session(tmp_path, io.BytesIO(out.getvalue()))
    assert lines(tmp_path / "sessions" / SESSION) == records
    assert names(tmp_path / "sessions" / SESSION) == [segment_name(first) for first in (1, 4, 7, 10)]


# -- the format, and any order of things ----------------------------------------------------------------------------


def test_a_packed_segment_is_what_the_format_page_says(directory: Path) -> None:
    """Read as state-format.md describes it, with nothing of ours."""
    plain = (directory / segment_name(4)).read_bytes()
    vacuum_session(directory)
    data = packed_path(directory / segment_name(4)).read_bytes()
    at, unpacked, seqs = 0, b"", []
    while at < len(data):
        assert data[at : at + 16] == bytes.fromhex("1f8b08040000000000ff1c00") + b"KH" + bytes.fromhex("1800")
        member_bytes, content_bytes, first_seq, body_crc, fields_crc = struct.unpack_from("<IIQII", data, at + 16)
        assert fields_crc == zlib.crc32(data[at + 16 : at + 36])
        body = data[at + 40 : at + member_bytes]
        assert body_crc == zlib.crc32(body)
        content = zlib.decompress(body[:-8], wbits=-15)
        assert struct.unpack("<II", body[-8:]) == (zlib.crc32(content), content_bytes) and len(content) == content_bytes
        seqs.append(first_seq)
        unpacked += content
        at += member_bytes
    assert unpacked == plain
    assert seqs == [4, 6]


GOLDEN = base64.b64decode("""
H4sIBAAAAAAA/xwAS0gYAAIBAADQAQAAAQAAAAAAAABEOBh8QgGlQa2O0W6DMAxF3/sZfq6qJNCI8ivVNIXEQKQR0gSQEOLfa9J2m+gelxfHvtfX
Z4EJSn6Eug+dGtI3Yoy2d1BC5LC1TYfuIdU2xOEz4i11ulV2s7Hd25bGjgSjpBaZMFmeKVYgwnpYnvdeGelm8bNLowZdknwfU61mKBfwwTptvfqi
3DFigPUIOBEYma4LDLNHUobWuubUKu/RoSEQN3YVmUu+flBiwOkvrBdvIS8VP+NFFrU0Oco9r3jnFTte8U+84hfvG9Y3by4YMn42yCrURhPvHac3
qL/QAQAAH4sIBAAAAAAA/xwAS0gYALkAAACwAAAAAwAAAAAAAAA3ra1VaN4tAD3NwQ6CMBAE0LufMWdiSpEI/RXjoS0TIJFaaSEhhH935eDeZudl
d8cKUxZI/MBUBWyW2Kj/yKpnOEl8p5O4DWZHnMfgx2hfMFgSZxwFuDJkQY8deYuUJg9j6K+DjZGBHQqEZXKCTXU85eJM+Y7mphVVWXdUjr7zwtIy
/Qpdt7V3raW7a0+N4/IFBKD4rLAAAAA=
""")
"""A segment as the first version packed it."""


def test_what_the_first_version_packed_is_read(directory: Path) -> None:
    plain = (directory / segment_name(1)).read_bytes()
    path = packed_path(directory / segment_name(1))
    path.write_bytes(GOLDEN)
    with open_packed(path) as file:
        assert file.read() == gzip.decompress(GOLDEN) == plain
    (directory / segment_name(1)).unlink()
    assert verify_session(directory) == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 7)),
        st.tuples(st.just("fail"), st.integers(1, 4)),
        st.tuples(st.just("vacuum"), st.just(0)),
        st.tuples(st.just("checkpoint"), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("page"), st.integers(1, 40)),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_any_order_of_writing_packing_and_reading_reads_as_without_packing(steps: list[tuple[str, int]]) -> None:
    root = Path(tempfile.mkdtemp(prefix="kheish-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        _play(root, steps)
    finally:
        shutil.rmtree(root)


def _play(root: Path, steps: list[tuple[str, int]]) -> None:
    session, index = Session.create(root, SESSION), OffsetIndex()
    expected: list[int] = []
    for step, argument in steps:
        if step == "append":
            session.append(argument)
            expected += range(len(expected) + 1, len(expected) + argument + 1)
        elif step == "fail":
            with pytest.MonkeyPatch.context() as patched:
                disk = FailingDisk(patched)
                disk.fail_data_syncs = {1}
                session.append(argument)
            expected += range(len(expected) + 1, len(expected) + argument + 1)
        elif step == "vacuum":
            session.close()
            vacuum_session(session.path)
            assert all(is_packed(path) for path in session.segments[:-1])
            session = Session.open(root)
        elif step == "checkpoint" and expected:
            session.checkpoint()
        elif step == "reopen":
            session = session.reopen()
        seq = max(argument, 1)
        assert numbers(read_records(session.path, seq, 5, index=index)) == expected[seq - 1 : seq + 4]
        end = min(seq, len(expected) + 1)
        assert numbers(session.journal.read_before(seq, 5)) == expected[max(0, end - 6) : end - 1]
    assert numbers(session.walk()) == expected
    assert verify_session(session.path, fold, reducer=REDUCER) == []
    session.close()


def test_the_journal_of_a_session_reads_its_packed_segments(directory: Path) -> None:
    vacuum_session(directory)
    journal: Journal = Session.open(directory.parent.parent).journal
    assert numbers(journal.read()) == list(range(1, COUNT + 1))
    assert numbers(journal.read_before(8, 3)) == [5, 6, 7]
    journal.close()
