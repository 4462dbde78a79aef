"""Whatever happens to the bytes: a prefix of what was written, or Corrupt; never another record, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kheish.errors import Corrupt
from kheish.store.framing import seal
from kheish.store.records import frame_record, segment_name
from kheish.store.segments import Walk
from kheish.store.session_dir import SessionDir
from tests.store.sessions import REDUCER, SESSION, Session, built, keep, numbers

COUNT = 12


@pytest.fixture
def journal(ram_root: Path) -> Path:
    return built(ram_root, COUNT) / segment_name(1)


def read(path: Path) -> tuple[list[int], Walk, Corrupt | None]:
    """The records that a reader accepts, and the fault that stopped it."""
    walk, seen = Walk(path.parent, SESSION), []
    try:
        for record in walk:
            seen.append(record)
    except Corrupt as fault:
        return numbers(seen), walk, fault
    return numbers(seen), walk, None


def line_starts(data: bytes) -> list[int]:
    starts = [0]
    while (at := data.find(b"\n", starts[-1])) >= 0:
        starts.append(at + 1)
    return starts


def prefix(count: int) -> list[int]:
    return list(range(1, count + 1))


def test_cut_at_every_byte(journal: Path) -> None:
    whole = journal.read_bytes()
    starts = line_starts(whole)
    for size in range(len(whole)):
        journal.write_bytes(whole[:size])
        seen, walk, fault = read(journal)
        lines = sum(start <= size for start in starts) - 1
        if lines == 0:
            assert fault is not None, size
            assert seen == []
            continue
        assert fault is None
        assert seen == prefix(lines - 1)
        torn = size - starts[lines]
        assert (walk.torn.bytes if walk.torn else 0) == torn
        assert walk.torn is None or walk.torn.offset == starts[lines]


def test_cut_at_every_byte_opens_and_goes_on(ram_root: Path) -> None:
    path = built(ram_root, 3) / segment_name(1)
    whole = path.read_bytes()
    for size in range(line_starts(whole)[1], len(whole)):
        path.write_bytes(whole[:size])
        session = Session.open(ram_root)
        kept = len(session.opened.state.tail)
        good = max(start for start in (*line_starts(whole), len(whole)) if start <= size)
        assert [aside.read_bytes() for aside in session.opened.set_aside] == [whole[good:size]] * (good < size)
        for aside in session.opened.set_aside:
            aside.unlink()
        session.append(2)
        session = session.reopen()
        assert numbers(session.opened.state.tail) == prefix(kept + 2)
        assert session.opened.set_aside == []
        session.close()


@pytest.mark.parametrize("flip", [0x01, 0x20, 0x80, 0xFF])
def test_flip_every_byte(journal: Path, flip: int) -> None:
    whole = journal.read_bytes()
    starts = line_starts(whole)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= flip
        journal.write_bytes(changed)
        seen, walk, fault = read(journal)
        line = sum(start <= at for start in starts) - 1
        if line < COUNT:
            assert fault is not None, at
            assert fault.details["file"] == str(journal)
            assert fault.details["line"] == line + 1
            assert fault.details["offset"] == starts[line]
            assert seen == prefix(max(line - 1, 0))
        else:  # the last line: a bad end with nothing after it
            assert fault is None
            assert walk.torn is not None
            assert seen == prefix(COUNT - 1)


def test_a_flip_never_changes_the_file_on_opening(journal: Path, ram_root: Path) -> None:
    changed = bytearray(journal.read_bytes())
    changed[len(changed) // 2] ^= 1
    journal.write_bytes(changed)
    with pytest.raises(Corrupt) as caught:
        SessionDir.open(ram_root, SESSION, keep, reducer=REDUCER)
    assert caught.value.details["valid_after"] > 0
    assert journal.read_bytes() == changed
    loaded = SessionDir.read_only(ram_root, SESSION, keep, reducer=REDUCER)
    assert loaded.fault is not None
    assert numbers(loaded.state.tail) == prefix(len(loaded.state.tail))


def test_every_missing_line(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for at in range(len(lines)):
        journal.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
        seen, _, fault = read(journal)
        assert seen == prefix(max(at - 1, 0))
        assert (fault is None) == (at == COUNT)


def test_every_doubled_line(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for at in range(len(lines)):
        journal.write_bytes(b"".join(lines[: at + 1] + lines[at:]))
        seen, _, fault = read(journal)
        assert fault is not None
        assert seen == prefix(at)


def test_every_swapped_pair(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    for at in range(len(lines) - 1):
        journal.write_bytes(b"".join([*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]))
        seen, _, fault = read(journal)
        assert fault is not None
        assert seen == prefix(max(at - 1, 0))


@pytest.mark.parametrize("size", [1, 100, 512, 4096, 70_000])
def test_nul_tail_is_torn(journal: Path, size: int) -> None:
    whole = journal.read_bytes()
    journal.write_bytes(whole + bytes(size))
    seen, walk, fault = read(journal)
    assert fault is None
    assert seen == prefix(COUNT)
    assert walk.torn is not None
    assert (walk.torn.offset, walk.torn.bytes) == (len(whole), size)


def test_nul_run_in_the_middle_is_corruption(journal: Path) -> None:
    whole = journal.read_bytes()
    middle = line_starts(whole)[5]
    journal.write_bytes(whole[:middle] + bytes(512) + whole[middle + 512 :])
    seen, _, fault = read(journal)
    assert seen == prefix(4)
    assert fault is not None


def test_a_whole_record_glued_to_a_torn_one_is_never_cut(journal: Path) -> None:
    whole = journal.read_bytes()
    last = line_starts(whole)[COUNT]
    for size in (1, 10, 60, len(whole) - last - 1):
        journal.write_bytes(whole[: last + size] + whole[last:])
        seen, _, fault = read(journal)
        assert seen == prefix(COUNT - 1)
        assert fault is not None
        assert fault.details["valid_after"] == 1


def test_a_line_without_end_is_read_in_bounded_memory(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.store.segments.RECORD_BYTES_MAX", 4096)
    with journal.open("ab") as file:
        file.write(b"x" * 100_000)
    seen, walk, fault = read(journal)
    assert seen == prefix(COUNT)
    assert fault is None
    assert walk.torn is not None
    assert walk.torn.bytes == 100_000


def test_segment_of_another_session(journal: Path, ram_root: Path) -> None:
    other = built(ram_root, COUNT, "other") / segment_name(1)
    journal.write_bytes(other.read_bytes())
    seen, _, fault = read(journal)
    assert seen == []
    assert fault is not None
    assert "another session (other)" in fault.details["reason"]


def test_records_of_another_session_under_our_header(journal: Path, ram_root: Path) -> None:
    other = built(ram_root, COUNT, "other") / segment_name(1)
    header = journal.read_bytes().splitlines(keepends=True)[0]
    journal.write_bytes(header + b"".join(other.read_bytes().splitlines(keepends=True)[1:]))
    seen, _, fault = read(journal)
    assert seen == []
    assert fault is not None
    assert "chain" in fault.details["reason"]


def test_smaller_generation_after_a_larger_one_is_a_fork(ram_root: Path) -> None:
    session = Session.create(ram_root)
    session.append(2, gen=5)
    session.close()
    path = session.path / segment_name(1)
    last = list(session.walk())[-1]
    line, _ = frame_record(3, 0, 4, 0, b"{}", b"[]", last.sum)
    path.write_bytes(path.read_bytes() + line)
    seen, _, fault = read(path)
    assert seen == [1, 2]
    assert fault is not None
    assert "fork: generation 4 after 5" in fault.details["reason"]


def test_sealed_lines_that_are_not_records(journal: Path) -> None:
    whole = journal.read_bytes()
    for body in (b"{}", b'{"v":1,"seq":"x"}', b'{"v":1}', b'[1,{"a":2}}'):
        journal.write_bytes(whole + seal(body)[0])
        seen, _, fault = read(journal)
        assert seen == prefix(COUNT)
        assert fault is not None  # somebody sealed it: no crash does that


MUTATIONS: dict[str, Callable[[bytes, int, bytes], bytes]] = {
    "cut": lambda data, at, _: data[:at],
    "overwrite": lambda data, at, noise: data[:at] + noise + data[at + len(noise) :],
    "insert": lambda data, at, noise: data[:at] + noise + data[at:],
    "remove": lambda data, at, noise: data[:at] + data[at + len(noise) :],
    "repeat": lambda data, at, noise: data[:at] + data[max(0, at - len(noise)) : at] + data[at:],
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(sorted(MUTATIONS)),
            st.floats(0, 1),
            st.one_of(st.binary(min_size=1, max_size=600), st.sampled_from([b"\n", b"\0" * 512, b'{"v":1,', b"\r\n"])),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_damage_gives_a_prefix(journal: Path, steps: list[tuple[str, float, bytes]]) -> None:
    whole = journal.read_bytes()
    try:
        data = whole
        for name, place, noise in steps:
            data = MUTATIONS[name](data, int(place * len(data)), noise)
        journal.write_bytes(data)
        seen, walk, fault = read(journal)
        assert seen == prefix(len(seen))
        if data == whole:
            assert fault is None
            assert walk.torn is None
    finally:
        journal.write_bytes(whole)
