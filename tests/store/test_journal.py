"""The writer: framing, rotation, paging, and what it refuses."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import orjson
import pytest

from kheish.errors import Conflict, Corrupt, Invalid, NewerFormat, Poisoned
from kheish.limits import RECORD_BYTES_MAX
from kheish.store.checkpoint import checkpoint_name, read_checkpoint
from kheish.store.documents import read_document
from kheish.store.framing import SEAL_BYTES, ZERO_CHAIN, check_seal, seal
from kheish.store.journal import read_before, read_records
from kheish.store.records import BadLine, Position, Record, frame_record, parse_header, parse_line, segment_name
from kheish.store.segments import OffsetIndex, locate
from tests.store.disk import FailingDisk
from tests.store.sessions import NOW_MS, Session, frame, numbers


def test_a_line_is_what_the_format_page_says(session: Session) -> None:
    framed = session.journal.frame(7, 3, 9, {"principal": "user", "key": "k"}, b'[{"type":"a"},{"type":"b"}]')
    session.journal.commit([framed])
    header, line = session.segments[0].read_bytes().splitlines(keepends=True)
    assert list(json.loads(header)) == ["v", "format", "session", "segment", "first_seq", "chain", "sum"]
    record = json.loads(line)
    assert list(record) == ["v", "seq", "at", "gen", "pos", "by", "events", "prev", "sum"]
    assert record["prev"] == json.loads(header)["sum"]
    assert json.loads(header)["chain"] == ZERO_CHAIN
    assert (record["seq"], record["at"], record["gen"], record["pos"]) == (1, 7, 3, 9)
    parsed = parse_line(line)
    assert parsed.events == [{"type": "a"}, {"type": "b"}]
    assert parsed.events_json == b'[{"type":"a"},{"type":"b"}]'
    assert parsed.by == {"principal": "user", "key": "k"}
    assert parsed.line == line


def test_the_seal_covers_the_line_without_its_sum() -> None:
    line, digest = seal(b'{"a":1}')
    assert line == b'{"a":1,"sum":"%b"}\n' % digest.encode()
    assert check_seal(line) == digest
    assert check_seal(line[:-SEAL_BYTES] + b"}") is None
    assert check_seal(b"") is None


def test_a_newer_format_is_refused(session: Session) -> None:
    session.close()
    line, _ = seal(b'{"v":1,"format":2,"session":"s1","segment":1,"first_seq":1,"chain":"%b"}' % (b"0" * 16))
    session.segments[0].write_bytes(line)
    with pytest.raises(NewerFormat):
        Session.open(session.root)
    with pytest.raises(NewerFormat):
        parse_line(seal(b'{"v":2,"seq":1,"at":0,"gen":0,"pos":0,"by":{},"events":[],"prev":""}')[0])


def test_what_is_no_text_is_refused_under_any_seal(tmp_path: Path) -> None:
    header = b'{"v":1,"format":1,"session":"\xff","segment":1,"first_seq":1,"chain":"%b"}' % (b"0" * 16)
    checkpoint, document = tmp_path / checkpoint_name(1), tmp_path / "document.json"
    with pytest.raises(BadLine):
        parse_line(seal(b'{"v":1,"seq":1,"at":0,"gen":0,"pos":0,"by":{"principal":"\xff"},"events":[],"prev":""}')[0])
    with pytest.raises(BadLine):
        parse_header(seal(header)[0], tmp_path)
    checkpoint.write_bytes(seal(b'{"v":1,"seq":1,"session":"\xff"}')[0])
    assert read_checkpoint(checkpoint) is None
    document.write_bytes(seal(b'{"v":1,"document":"\xff"}')[0])
    with pytest.raises(Corrupt):
        read_document(document, str)


def test_files_are_private(session: Session) -> None:
    session.append()
    session.checkpoint()
    for path in [session.path, *session.path.iterdir()]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_rotation_keeps_the_chain(session: Session, small_segments: int) -> None:
    session.append(8)
    assert [path.name for path in session.segments] == [segment_name(1), segment_name(4), segment_name(7)]
    headers = [parse_header(path.read_bytes().splitlines(keepends=True)[0], path) for path in session.segments]
    assert [header.segment for header in headers] == [1, 2, 3]
    walk = session.walk()
    records = list(walk)
    assert numbers(records) == list(range(1, 9))
    assert [records[3].prev, records[6].prev] == [headers[1].sum, headers[2].sum]
    assert [headers[1].chain, headers[2].chain] == [records[2].sum, records[5].sum]


def test_rotation_within_one_commit(session: Session, small_segments: int) -> None:
    session.journal.commit([frame(session.journal, number) for number in range(1, 12)])
    assert len(session.segments) == 4
    assert numbers(session.walk()) == list(range(1, 12))
    session = session.reopen()
    session.append(3)
    assert numbers(session.walk()) == list(range(1, 15))
    session.close()


def test_rotation_by_size(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_BYTES_MAX", 1000)
    session.append(6, text="x" * 300)
    assert len(session.segments) == 3
    assert all(path.stat().st_size < 1700 for path in session.segments)


def test_the_old_segment_is_synced_before_the_new_one_begins(
    session: Session, small_segments: int, disk: FailingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    create = disk._on_create_file
    monkeypatch.setattr(
        "kheish.store.atomic.create_file", lambda path, data: (order.extend(disk.data_syncs), create(path, data))
    )
    session.journal.commit([frame(session.journal, number) for number in range(1, 5)])
    assert [Path(name).name for name in order] == [segment_name(1)]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_segment_is_corruption(session: Session, small_segments: int, missing: int) -> None:
    session.append(9)
    session.close()
    session.segments[missing].unlink()
    if missing == 2:  # nothing tells that there was one, but a checkpoint would
        assert numbers(session.walk()) == list(range(1, 7))
        return
    with pytest.raises(Corrupt):
        session.walk().end()


def test_segments_that_changed_places_are_corruption(session: Session, small_segments: int) -> None:
    session.append(9)
    session.close()
    _, second, third = session.segments
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    third.write_bytes(content)
    with pytest.raises(Corrupt):
        session.walk().end()


@pytest.mark.parametrize("size", [0, 1, 50])
def test_a_rotation_that_a_crash_cut_short(session: Session, small_segments: int, size: int) -> None:
    session.append(4)
    newest = session.segments[-1]
    header = newest.read_bytes().splitlines(keepends=True)[0]
    newest.write_bytes(header[:size])
    session = session.reopen()
    (aside,) = session.opened.set_aside
    assert aside.read_bytes() == header[:size]
    assert numbers(session.opened.state.tail) == [1, 2, 3]
    session.append(2)
    session = session.reopen()
    assert session.opened.set_aside == []
    assert numbers(session.opened.state.tail) == [1, 2, 3, 4, 5]
    assert [path.name for path in session.segments] == [segment_name(1), segment_name(4)]
    session.close()


def test_a_bad_end_before_a_torn_rotation_is_corruption(session: Session, small_segments: int) -> None:
    session.append(4)
    session.close()
    first, second = session.segments
    first.write_bytes(first.read_bytes()[:-5])
    second.write_bytes(b"")
    with pytest.raises(Corrupt):
        Session.open(session.root)
    assert second.exists()


def test_an_empty_new_segment_goes_on(session: Session, small_segments: int) -> None:
    session.append(4)
    newest = session.segments[-1]
    newest.write_bytes(newest.read_bytes().splitlines(keepends=True)[0])
    session = session.reopen()
    assert session.opened.set_aside == []
    assert session.journal.next_seq == 4
    session.append(2)
    assert numbers(session.walk()) == [1, 2, 3, 4, 5]
    session.close()


def test_too_large_a_record_uses_nothing_up(session: Session) -> None:
    with pytest.raises(Invalid) as caught:
        session.journal.frame(0, 1, 0, {}, b'["%b"]' % (b"x" * RECORD_BYTES_MAX))
    assert caught.value.code == "record_too_large"
    session.append(2)
    assert numbers(session.walk()) == [1, 2]


def test_the_largest_record_can_be_read_back(session: Session) -> None:
    overhead = len(frame_record(1, NOW_MS, 1, 1, b"{}", b'[""]', ZERO_CHAIN)[0])
    events = b'["%b"]' % (b"x" * (RECORD_BYTES_MAX - overhead))
    session.journal.commit([session.journal.frame(NOW_MS, 1, 1, {}, events)])
    (record,) = session.walk()
    assert len(record.line) == RECORD_BYTES_MAX


def test_a_stale_generation_is_refused(session: Session) -> None:
    session.append(gen=4)
    session = session.reopen()
    with pytest.raises(Conflict) as caught:
        frame(session.journal, 2, gen=3)
    assert caught.value.code == "stale_generation"
    session.append(gen=4)
    session.append(gen=9)
    assert session.journal.gen == 9
    session.close()


def test_a_closed_journal_refuses(session: Session) -> None:
    framed = frame(session.journal, 1)
    session.close()
    with pytest.raises(Poisoned):
        frame(session.journal, 2)
    with pytest.raises(Poisoned):
        session.journal.commit([framed])


def test_the_writer_cannot_be_led_through_a_link(session: Session, tmp_path: Path) -> None:
    session.close()
    (tmp_path / "elsewhere").write_bytes(session.segments[0].read_bytes())
    session.segments[0].unlink()
    (session.path / segment_name(1)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Session.open(session.root)


# -- reading --------------------------------------------------------------------------------------------------------


def test_reading_from_any_place_to_any_place(session: Session, small_segments: int) -> None:
    session.append(10)
    for first in range(1, 12):
        for last in range(11):
            expected = list(range(first, last + 1))
            assert numbers(read_records(session.path, first, until_seq=last)) == expected
            assert numbers(read_records(session.path, first, limit=3, until_seq=last)) == expected[:3]
            assert numbers(session.journal.read(first, until_seq=last)) == expected
    assert numbers(read_records(session.path)) == list(range(1, 11))
    assert numbers(read_records(session.path, 4, limit=0)) == []
    assert numbers(read_records(session.path, 11)) == []
    assert numbers(read_records(session.path, 500)) == []


def test_paging_backwards(session: Session, small_segments: int) -> None:
    session.append(10)
    seen: list[int] = []
    before = session.journal.next_seq
    while page := session.journal.read_before(before, 4):
        seen = numbers(page) + seen
        before = page[0].seq
    assert seen == list(range(1, 11))
    assert numbers(read_before(session.path, 3, 10)) == [1, 2]
    assert read_before(session.path, 1, 10) == []


def test_a_reader_goes_no_further_than_what_is_durable(session: Session) -> None:
    session.append(3)
    line = frame(session.journal, 4).line
    with session.segments[0].open("ab") as file:
        file.write(line)
    assert numbers(session.journal.read()) == [1, 2, 3]
    assert numbers(session.journal.read_before(99, 2)) == [2, 3]


def test_a_reader_leaves_an_unfinished_line(session: Session) -> None:
    session.append(3)
    with session.segments[0].open("ab") as file:
        file.write(b'{"v":1,"seq":4')
    assert numbers(read_records(session.path)) == [1, 2, 3]
    with pytest.raises(Corrupt):
        list(read_records(session.path, until_seq=4))


def test_a_reader_gives_what_is_before_the_fault(session: Session, small_segments: int) -> None:
    session.append(9)
    second = session.segments[1]
    changed = bytearray(second.read_bytes())
    changed[-10] ^= 1
    second.write_bytes(changed)
    seen = []
    with pytest.raises(Corrupt) as caught:
        for record in read_records(session.path):
            seen.append(record)
    assert numbers(seen) == [1, 2, 3, 4, 5]
    assert caught.value.details["file"] == str(second)
    assert caught.value.details["line"] == 4
    assert numbers(read_records(session.path, 7)) == [7, 8, 9]


@pytest.mark.parametrize("reopened", [False, True])
def test_reading_deep_in_a_segment_starts_near_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    monkeypatch.setattr("kheish.store.segments.JOURNAL_OFFSET_EVERY_RECORDS", 8)
    session.journal.commit([frame(session.journal, number) for number in range(1, 201)])
    if reopened:
        session = session.reopen()
    parsed: list[bytes] = []

    def counting(line: bytes) -> Record:
        parsed.append(line)
        return parse_line(line)

    monkeypatch.setattr("kheish.store.segments.parse_line", counting)
    assert numbers(session.journal.read(190, limit=3)) == [190, 191, 192]
    assert len(parsed) <= 8 + 3
    session.close()


def test_the_index_of_offsets_takes_places_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.store.segments.JOURNAL_OFFSET_EVERY_RECORDS", 2)
    index = OffsetIndex()
    for seq in (6, 2, 3, 4, 6):
        index.note(Position(seq, 1, seq * 100, "", 0))
    assert index.find(1, 2) is None
    assert index.find(1, 3) == (2, 200)
    assert index.find(1, 6) == (4, 400)
    assert index.find(1, 99) == (6, 600)
    assert index.find(7, 99) is None
    index.forget(1)
    assert index.find(1, 99) is None


def test_locate_gives_the_place_after_a_record(session: Session, small_segments: int) -> None:
    session.append(5)
    for seq in range(1, 6):
        place = locate(session.path, seq)
        assert place.seq == seq
        data = (session.path / segment_name(place.segment_first_seq)).read_bytes()[: place.offset]
        assert orjson.loads(data.splitlines()[-1])["seq"] == seq
        assert place == session.journal.locate(seq)
    with pytest.raises(Corrupt):
        locate(session.path, 6)
