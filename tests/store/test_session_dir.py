"""A session's directory: creation, opening from checkpoints, repair, listing."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterable
from pathlib import Path

import pytest

from kheish.errors import Conflict, Corrupt, Invalid, NotFound, Poisoned, StoreError
from kheish.limits import CHECKPOINTS_KEPT
from kheish.store import atomic, segments
from kheish.store.checkpoint import checkpoint_name, good_checkpoints, list_checkpoints, save_checkpoint
from kheish.store.records import Record, parse_line, segment_name
from kheish.store.session_dir import SessionDir, clear_unfinished, list_sessions, session_path
from tests.store.sessions import NOW_MS, REDUCER, SESSION, Session, built, fold, frame, keep, make_empty, numbers


def state_of(session: Session) -> bytes:
    """Checkpoint plus tail, folded as the caller would."""
    kept = session.opened.state
    state = int(kept.checkpoint.split(b":")[1][:-1]) if kept.checkpoint else 0
    for number in numbers(kept.tail):
        state = (state * 31 + number) % 1_000_003
    return b'{"state":%d}' % state


# -- creation -------------------------------------------------------------------------------------------------------


def test_a_new_session_is_empty(root: Path) -> None:
    session = Session.create(root)
    assert session.opened.state.checkpoint is None
    assert session.opened.checkpoint_seq == 0
    assert session.opened.state.tail == []
    assert session.opened.set_aside == []
    assert session.journal.next_seq == 1
    assert session.journal.session_id == SESSION
    session.close()


def test_a_session_is_created_once(root: Path) -> None:
    make_empty(root, SESSION)
    before = (root / "sessions" / SESSION / segment_name(1)).read_bytes()
    with pytest.raises(Conflict) as caught:
        make_empty(root, SESSION)
    assert caught.value.code == "session_exists"
    assert (root / "sessions" / SESSION / segment_name(1)).read_bytes() == before
    assert os.listdir(root / "sessions") == [SESSION]


@pytest.mark.parametrize("target", ["", "elsewhere", "nowhere"])
def test_what_has_the_name_of_a_new_session_stays(root: Path, target: str) -> None:
    """A file, a link to a directory, a link to nothing."""
    (root / "elsewhere").mkdir(parents=True)
    (root / "sessions").mkdir()
    path = session_path(root, SESSION)
    path.symlink_to(root / target) if target else path.touch()
    before = path.lstat()
    with pytest.raises(Conflict) as caught:
        make_empty(root, SESSION)
    assert caught.value.code == "session_exists"
    assert path.lstat() == before and os.listdir(root / "sessions") == [SESSION]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a" * 129, "a\0", "a\n"])
def test_a_name_cannot_lead_elsewhere(root: Path, name: str) -> None:
    for call in (lambda: session_path(root, name), lambda: make_empty(root, name)):
        with pytest.raises(Invalid):
            call()


def test_a_crash_during_creation_leaves_no_session(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> None:
        raise OSError(5, "EIO")

    (root / "sessions").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr("kheish.store.session_dir.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(atomic, "begin_file", lambda *_: failing(root))
        with pytest.raises(OSError):
            make_empty(root, SESSION)
    assert len(os.listdir(root / "sessions")) == 1
    assert list(list_sessions(root)) == []
    clear_unfinished(root)
    assert os.listdir(root / "sessions") == []
    make_empty(root, SESSION)


def test_a_session_is_made_with_its_first_records_or_not_at_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session.new(root)
    framed = [frame(session.journal, number) for number in (1, 2)]
    assert not session.path.exists()
    assert list(session.journal.read()) == [] and session.journal.read_before(1, 9) == []

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(atomic, "sync_file", full)
        with pytest.raises(Poisoned):
            session.journal.commit(framed)
    assert session.journal.unmade == "No space left on device"
    session.close()
    assert not any((root / "sessions").iterdir())

    session = Session.new(root)
    session.journal.commit([frame(session.journal, number) for number in (1, 2)])
    assert numbers(session.walk()) == [1, 2] and not session.journal.unmade
    with pytest.raises(Conflict) as caught:
        Session.open(root)
    assert caught.value.code == "session_locked"
    session.append(3)
    assert numbers(session.reopen().walk()) == [1, 2, 3, 4, 5]


def test_of_two_that_make_the_same_session_one_does(root: Path) -> None:
    one, other = Session.new(root), Session.new(root)
    one.append()
    with pytest.raises(Conflict) as caught:
        other.append()
    assert caught.value.code == "session_exists"
    assert numbers(one.walk()) == [1]
    one.close()


def test_no_such_session(root: Path) -> None:
    with pytest.raises(NotFound):
        Session.open(root)
    with pytest.raises(NotFound):
        SessionDir.read_only(root, SESSION, keep, reducer=REDUCER)
    clear_unfinished(root)


def test_a_directory_without_journal_is_corrupt_not_new(root: Path) -> None:
    make_empty(root, SESSION)
    (root / "sessions" / SESSION / segment_name(1)).unlink()
    with pytest.raises(Corrupt):
        Session.open(root)
    with pytest.raises(Conflict):
        make_empty(root, SESSION)


def test_a_failed_opening_lets_the_lock_go(root: Path) -> None:
    path = built(root, 3) / segment_name(1)
    whole = path.read_bytes()
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(Corrupt):
        Session.open(root)
    path.write_bytes(whole)
    Session.open(root).close()


@pytest.mark.parametrize("spare", range(3))
def test_an_opening_that_finds_too_few_descriptors_keeps_none(root: Path, spare: int) -> None:
    built(root, 3)
    limits, taken = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with pytest.raises(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(spare):
            os.close(taken.pop())
        with contextlib.suppress(OSError):
            SessionDir.open(root, SESSION, keep, reducer=REDUCER).journal.close()
        for _ in range(spare):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# -- opening from checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", range(1, 11))
def test_checkpoint_and_tail_give_the_same_state(session: Session, small_segments: int, seq: int) -> None:
    session.append(10)
    session.checkpoint(seq)
    session = session.reopen()
    assert session.opened.checkpoint_seq == seq
    assert numbers(session.opened.state.tail) == list(range(seq + 1, 11))
    assert state_of(session) == fold(session.journal.read())
    session.append(3)
    assert numbers(session.walk()) == list(range(1, 14))
    session.close()


def test_deleting_every_checkpoint_loses_nothing(session: Session, small_segments: int) -> None:
    session.append(10)
    session.checkpoint(4)
    session.checkpoint(9)
    expected = fold(session.journal.read())
    for _, path in list_checkpoints(session.path):
        path.unlink()
        session = session.reopen()
        assert state_of(session) == expected
    assert session.opened.state.checkpoint is None
    session.close()


def test_the_newest_few_are_kept(session: Session) -> None:
    session.append(8)
    for seq in range(1, 9):
        session.checkpoint(seq)
    assert [seq for seq, _ in list_checkpoints(session.path)] == [8, 7][:CHECKPOINTS_KEPT]
    assert next(good_checkpoints(session.path)).seq == 8


def test_a_bad_checkpoint_is_passed_over(session: Session) -> None:
    session.append(8)
    session.checkpoint(3)
    session.checkpoint(6)
    newest = session.path / checkpoint_name(6)
    whole = newest.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            newest.write_bytes(damaged)
            assert next(good_checkpoints(session.path)).seq == 3
    session = session.reopen()
    assert session.opened.checkpoint_seq == 3
    assert state_of(session) == fold(session.journal.read())
    session.close()


def test_a_checkpoint_under_another_name_or_session_is_passed_over(session: Session, root: Path) -> None:
    session.append(8)
    session.checkpoint(3)
    checkpoint = (session.path / checkpoint_name(3)).read_bytes()
    (session.path / checkpoint_name(5)).write_bytes(checkpoint)
    assert next(good_checkpoints(session.path)).seq == 3
    other = built(root, 8, "other")
    (other / checkpoint_name(3)).write_bytes(checkpoint)
    assert list(good_checkpoints(other)) == []


def test_a_checkpoint_of_another_reducer_is_passed_over(session: Session) -> None:
    session.append(5)
    session.checkpoint(4)
    session.close()
    session = Session.open(session.root, reducer=REDUCER + 1)
    assert session.opened.state.checkpoint is None
    assert numbers(session.opened.state.tail) == [1, 2, 3, 4, 5]
    session.close()


@pytest.mark.parametrize("reducer", [REDUCER, REDUCER + 1])
def test_a_journal_that_ends_before_a_checkpoint_is_corrupt_not_torn(session: Session, reducer: int) -> None:
    session.append(5)
    session.checkpoint(5)
    session.close()
    (path,) = session.segments
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for kept in (whole[:-1], whole[:-20], b"".join(lines[:-1]), b"".join(lines[:1]), whole[:-200] + bytes(200)):
        path.write_bytes(kept)
        with pytest.raises(Corrupt):
            Session.open(session.root, reducer=reducer)
        assert path.read_bytes() == kept
        loaded = SessionDir.read_only(session.root, SESSION, keep, reducer=reducer)
        assert loaded.fault is not None
        assert (loaded.state.checkpoint is not None) == (reducer == REDUCER)


def test_a_torn_tail_after_a_checkpoint_is_cut(session: Session) -> None:
    session.append(5)
    session.checkpoint(3)
    session.close()
    (path,) = session.segments
    path.write_bytes(path.read_bytes()[:-3])
    session = session.reopen()
    assert len(session.opened.set_aside) == 1
    assert numbers(session.opened.state.tail) == [4]
    session.close()


def test_what_was_cut_is_told_until_a_record_can_have_noted_it(session: Session) -> None:
    """Whoever cut it may have died before its note was durable, and so may the next one."""
    session.append(2)
    for torn in (b"one", b"two"):
        session.close()
        (path,) = session.segments
        path.write_bytes(path.read_bytes() + torn)
        session = session.reopen()
    for _ in range(2):
        assert [path.read_bytes() for path in session.opened.set_aside] == [b"one", b"two"]
        session = session.reopen()
    session.append(1)
    session = session.reopen()
    assert session.opened.set_aside == []
    session.close()


def test_a_checkpoint_must_stand_on_its_record(session: Session) -> None:
    session.append(5)
    session.checkpoint(3)
    session.close()
    (path,) = session.segments
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3] + lines[4:] + lines[3:4]))
    with pytest.raises(Corrupt, match="checkpoint"):
        Session.open(session.root)


def test_only_durable_records_are_checkpointed(session: Session) -> None:
    session.append(2)
    for seq in (0, 3):
        with pytest.raises(StoreError) as caught:
            save_checkpoint(session.journal, seq, reducer=REDUCER, state=b"{}", at=NOW_MS)
        assert caught.value.code == "not_durable"


def test_opening_reads_the_tail_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history before the checkpoint is not even looked at: opening is bounded, verifying is not."""
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 50)
    session.append(120)
    session.checkpoint(117)
    session.close()
    parsed: list[bytes] = []

    def counting(line: bytes) -> Record:
        parsed.append(line)
        return parse_line(line)

    monkeypatch.setattr("kheish.store.segments.parse_line", counting)
    session.segments[0].write_bytes(b"rubbish")
    session = Session.open(session.root)
    assert len(parsed) == 3
    assert numbers(session.opened.state.tail) == [118, 119, 120]
    session.close()


def test_records_are_folded_as_they_are_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that has no checkpoint, as each has after the states' form changed, may be of any length."""
    session.append(20)
    session.close()
    read: list[int] = []
    parse_line = segments.parse_line

    def noted(line: bytes) -> Record:
        record = parse_line(line)
        read.append(record.seq)
        return record

    def last_seq(checkpoint: bytes | None, records: Iterable[Record]) -> int:
        seq = 0
        for seq, record in enumerate(records, 1):
            assert record.seq == seq == read[-1]
        return seq

    monkeypatch.setattr(segments, "parse_line", noted)
    loaded = SessionDir.read_only(session.root, SESSION, last_seq, reducer=REDUCER)
    assert loaded.state == 20
    read.clear()
    opened = SessionDir.open(session.root, SESSION, last_seq, reducer=REDUCER)
    opened.journal.close()
    assert opened.state == 20


def test_what_a_fold_does_not_want_is_proven_all_the_same(session: Session) -> None:
    def nothing(checkpoint: bytes | None, records: Iterable[Record]) -> None:
        pass

    session.append(3)
    session.close()
    opened = SessionDir.open(session.root, SESSION, nothing, reducer=REDUCER)
    opened.journal.close()
    assert opened.last is not None and opened.last.seq == opened.journal.end.seq == 3
    data = session.segments[-1].read_bytes()
    session.segments[-1].write_bytes(data.replace(b'"number":2', b'"number":9'))
    with pytest.raises(Corrupt):
        SessionDir.open(session.root, SESSION, nothing, reducer=REDUCER)
    fault = SessionDir.read_only(session.root, SESSION, nothing, reducer=REDUCER).fault
    assert fault is not None and fault.details["line"] == 3


def test_an_opening_without_a_tail_writes_nothing(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.append(5)
    session.checkpoint(5)
    session.close()

    def failing(fd: int) -> None:
        raise AssertionError("synced")

    monkeypatch.setattr(atomic, "sync_data", failing)
    Session.open(session.root).close()


def test_leftovers_of_a_crash_are_cleared(session: Session) -> None:
    session.append(2)
    (session.path / ".tmp-1234").write_bytes(b"half a checkpoint")
    session = session.reopen()
    assert not (session.path / ".tmp-1234").exists()
    session.close()


def test_opening_makes_the_name_durable_whose_maker_may_have_died(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the rename that made it and the sync of the directory of all sessions."""
    make_empty(root, SESSION)
    synced: list[Path] = []
    sync_dir = atomic.sync_dir
    monkeypatch.setattr(atomic, "sync_dir", lambda path: (synced.append(path), sync_dir(path)))
    session = Session.open(root)
    assert root / "sessions" in synced
    session.append(1)
    session.close()


# -- reading without the lock ---------------------------------------------------------------------------------------


def test_the_last_record_is_known_wherever_the_checkpoint_stands(session: Session, small_segments: int) -> None:
    for count in range(1, 8):
        session.append(1, text="x" * 20_000)
        for checkpoint in (None, count):
            if checkpoint:
                session.checkpoint(checkpoint)
            last = SessionDir.read_only(session.root, SESSION, keep, reducer=REDUCER).last
            assert last is not None
            assert (last.seq, last.events[0]["number"]) == (count, count)
    session.close()


def test_reading_beside_the_writer(session: Session) -> None:
    session.append(4)
    session.checkpoint(2)
    with session.segments[0].open("ab") as file:
        file.write(b'{"v":1,')
    before = session.segments[0].read_bytes()
    loaded = SessionDir.read_only(session.root, SESSION, keep, reducer=REDUCER)
    assert (loaded.checkpoint_seq, numbers(loaded.state.tail), loaded.fault) == (2, [3, 4], None)
    assert loaded.torn is not None
    assert session.segments[0].read_bytes() == before


# -- listing --------------------------------------------------------------------------------------------------------


def test_listing(root: Path, small_segments: int) -> None:
    assert list(list_sessions(root)) == []
    built(root, 7, "b")
    built(root, 2, "a")
    (root / "sessions" / ".new-x-1").mkdir()
    (root / "sessions" / "file").touch()
    (root / "sessions" / "empty").mkdir()
    found = list(list_sessions(root))
    assert [(info.session_id, info.segment) for info in found] == [
        ("a", segment_name(1)),
        ("b", segment_name(7)),
        ("empty", ""),
    ]
    newest = root / "sessions" / "b" / segment_name(7)
    assert found[1].size == newest.stat().st_size
