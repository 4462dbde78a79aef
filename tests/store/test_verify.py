"""The check that users run: every fault is found and placed; a sound session has none, also while it is written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from kheish.store.blobs import Blobs
from kheish.store.checkpoint import checkpoint_name
from kheish.store.framing import ZERO_CHAIN, seal
from kheish.store.records import Record, frame_header, frame_record, segment_name
from kheish.store.verify import FAULTS_MAX, verify_session
from tests.store.disk import FailingDisk
from tests.store.sessions import REDUCER, SESSION, Session, built, fold


def refs(record: Record) -> list[str]:
    return [event["blob"] for event in record.events if event.get("blob")]


def test_a_sound_session(session: Session, small_segments: int) -> None:
    blobs = Blobs(session.root)
    session.append(5, blob=blobs.put(b"one"))
    session.append(5)
    session.checkpoint(4)
    session.checkpoint(9)
    faults = verify_session(session.path, fold, reducer=REDUCER, blob_refs=refs, blobs=blobs)
    assert faults == []


def test_every_flip_is_found_in_its_line(ram_root: Path) -> None:
    path = built(ram_root, 4) / segment_name(1)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        faults = verify_session(path.parent)
        assert faults, at
        assert (faults[0].file, faults[0].line) == (str(path), whole[:at].count(b"\n") + 1)
        assert faults[0].offset == whole[:at].rfind(b"\n") + 1


def test_it_goes_on_after_a_fault(session: Session, small_segments: int) -> None:
    session.append(9)
    session.close()
    for path in session.segments:
        lines = path.read_bytes().splitlines(keepends=True)
        lines[2] = lines[2].replace(b"happened", b"hAppened")
        path.write_bytes(b"".join(lines))
    faults = verify_session(session.path)
    assert [(Path(fault.file).name, fault.line, fault.reason) for fault in faults] == [
        (segment_name(first), 3, "checksum") for first in (1, 4, 7)
    ]


def test_missing_lines_segments_and_forks(session: Session, small_segments: int) -> None:
    session.append(9, gen=7)
    session.close()
    first, second, third = session.segments
    whole = second.read_bytes()
    lines = whole.splitlines(keepends=True)
    second.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert [fault.reason for fault in verify_session(session.path)] == ["seq 6 where 5 belongs"]
    second.unlink()
    assert "it ends at seq 3 and the next segment starts at 7" in verify_session(session.path)[0].reason
    second.write_bytes(whole)
    data = first.read_bytes()
    first.unlink()
    assert "one is missing" in " ".join(fault.reason for fault in verify_session(session.path))
    first.write_bytes(data)
    last = list(session.walk())[-1]
    third.write_bytes(third.read_bytes() + frame_record(10, 0, 6, 0, b"{}", b"[]", last.sum)[0])
    assert [fault.reason for fault in verify_session(session.path)] == ["fork: generation 6 after 7"]


def test_a_segment_of_another_session(session: Session) -> None:
    session.close()
    session.segments[0].write_bytes(frame_header("other", 1, 1, ZERO_CHAIN)[0])
    assert [fault.reason for fault in verify_session(session.path)] == ["segment of another session (other)"]
    session.segments[0].write_bytes(frame_header(SESSION, 2, 5, "a" * 16)[0])
    assert len(verify_session(session.path)) == 3
    session.segments[0].unlink()
    assert [fault.reason for fault in verify_session(session.path)] == ["the session has no journal"]


def test_an_incomplete_line_is_a_fault_unless_somebody_is_writing(session: Session) -> None:
    session.append(3)
    with session.segments[0].open("ab") as file:
        file.write(b'{"v":1,"seq":4')
    assert verify_session(session.path, live=True) == []
    (fault,) = verify_session(session.path)
    assert (fault.line, fault.reason) == (5, "incomplete line")


def test_a_segment_that_just_begins_is_no_fault_while_somebody_is_writing(
    session: Session, small_segments: int
) -> None:
    session.append(3)
    (session.path / segment_name(4)).write_bytes(b'{"v":1,')
    assert verify_session(session.path, live=True) == []
    assert verify_session(session.path) != []


def test_a_replaced_tail_is_no_fault(session: Session, disk: FailingDisk) -> None:
    session.append(3)
    disk.fail_data_syncs = {len(disk.data_syncs) + 1}
    session.append(3)
    with session.segments[0].open("ab") as file:
        file.write(b"rubbish of the failed write")
    session.checkpoint(5)
    assert verify_session(session.path, fold, reducer=REDUCER) == []


def test_a_checkpoint_that_is_not_the_fold(session: Session) -> None:
    session.append(5)
    session.checkpoint(4)
    path = session.path / checkpoint_name(4)
    whole = path.read_bytes()
    body = whole[: whole.rindex(b',"sum"')] + b"}"
    for old, new, reason in (
        (b'"state":{"state":', b'"state":{"state":1', "its state is not the fold of the journal"),
        (b'"offset":', b'"offset":1', "it does not stand on record 4"),
        (b'"session":"s1"', b'"session":"s2"', "checkpoint of another session"),
    ):
        assert old in body
        path.write_bytes(seal(body.replace(old, new))[0])
        assert [fault.reason for fault in verify_session(session.path, fold, reducer=REDUCER)] == [reason]
    path.write_bytes(whole[:-3])
    assert [fault.reason for fault in verify_session(session.path)] == ["bad checkpoint"]
    path.write_bytes(whole)

    def stumbling(records: Iterable[Record]) -> bytes:
        raise KeyError("unknown event")

    (fault,) = verify_session(session.path, stumbling, reducer=REDUCER)
    assert "unknown event" in fault.reason
    assert verify_session(session.path, lambda _: b"{}", reducer=REDUCER + 1) == [], "that is another fold's"


def test_a_journal_that_has_no_fold(session: Session, small_segments: int) -> None:
    """Also where the checkpoints have theirs: what comes after them is looked at too."""

    def fold_some(records: Iterable[Record]) -> bytes:
        known = list(records)
        if len(known) > 7:
            raise ValueError("record 8 is odd")
        return fold(known)

    assert verify_session(session.path, fold_some, reducer=REDUCER) == [], "nothing has a fold"
    session.append(5)
    session.checkpoint(4)
    session.append(5)
    (fault,) = verify_session(session.path, fold_some, reducer=REDUCER)
    assert (fault.file, fault.reason) == (str(session.segments[-1]), "the journal cannot be folded: record 8 is odd")


def test_a_checkpoint_beyond_the_journal(session: Session) -> None:
    session.append(5)
    session.checkpoint(5)
    session.close()
    (path,) = session.segments
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert [fault.reason for fault in verify_session(session.path)] == ["it has seen seq 5 and the journal ends at 4"]


def test_blobs_are_read_back(session: Session) -> None:
    blobs = Blobs(session.root)
    good, bad, gone = (blobs.put(data) for data in (b"good", b"bad", b"gone"))
    session.append(1, blob=good)
    session.append(2, blob=bad)
    session.append(1, blob=gone)
    session.append(1, blob="../../x")
    blobs.path(bad).write_bytes(b"bAd")
    blobs.path(gone).unlink()
    faults = verify_session(session.path, blob_refs=refs, blobs=blobs)
    assert [fault.line for fault in faults] == [3, 5, 6]
    assert faults[1].reason == f"blob {gone} is missing"


def test_a_segment_that_cannot_be_read_is_a_fault_and_hides_no_other(session: Session, small_segments: int) -> None:
    session.append(9)
    session.close()
    _, second, third = session.segments
    second.unlink()
    second.mkdir()
    lines = third.read_bytes().splitlines(keepends=True)
    third.write_bytes(b"".join([*lines[:2], lines[2].replace(b"happened", b"hAppened"), *lines[3:]]))
    faults = verify_session(session.path)
    assert [(fault.file, fault.line, fault.reason) for fault in faults] == [
        (str(second), 0, "Not a regular file"),
        (str(third), 3, "checksum"),
    ]


def test_faults_are_bounded(session: Session) -> None:
    with session.segments[0].open("ab") as file:
        file.write(b"rubbish\n" * 1000)
    assert len(verify_session(session.path)) == FAULTS_MAX


def test_verifying_writes_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.append(3)
    session.checkpoint(2)
    before = {path.name: path.stat().st_mtime_ns for path in session.path.iterdir()}
    assert verify_session(session.path, fold, reducer=REDUCER, live=True) == []
    assert {path.name: path.stat().st_mtime_ns for path in session.path.iterdir()} == before
