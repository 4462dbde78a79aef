"""Many sessions as one stream: every record after a place once, in order, whatever the sizes of pages."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import commands as c
from kheish.errors import Corrupt, StoreError
from kheish.limits import JOURNAL_OFFSET_EVERY_RECORDS
from kheish.runtime import reader
from kheish.runtime import replay as module
from kheish.runtime.replay import Place, replay
from kheish.store.records import Record
from kheish.store.segments import SegmentScan
from tests.runtime.kernel import Kernel


def record(seq: int, place: Place) -> Record:
    return Record(seq, 0, place[0], place[1], {}, None, "", "", b"")  # type: ignore[arg-type]


class Sessions:
    """Journals in memory; `broken` is the first seq of each that cannot be read."""

    def __init__(self, places: dict[str, list[Place]], broken: dict[str, int]) -> None:
        self.records = {name: [record(i, p) for i, p in enumerate(ps, 1)] for name, ps in places.items()}
        self.broken = broken

    async def read(self, session_id: str, after_seq: int, limit: int, bytes_max: int) -> list[Record]:
        broken = self.broken.get(session_id, 1_000)
        if after_seq + 1 >= broken:
            raise Corrupt("damaged", file="", line=0, offset=0, reason="")
        return self.records[session_id][after_seq : min(after_seq + limit, broken - 1)]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60),
    st.integers(0, 61),
    st.integers(0, 61),
    st.dictionaries(st.sampled_from("abcd"), st.integers(1, 10)),
    st.integers(1, 5),
    st.sampled_from([0, 5_000, 1_000_000]),
)
def test_every_record_after_the_cursor_comes_once_and_in_order(
    published: list[tuple[str, bool]], after: int, until: int, broken: dict[str, int], page_items: int, room: int
) -> None:
    """`published`: whose record each is, and whether a new generation begins with it. `room`: for all that is held."""
    places: dict[str, list[Place]] = {}
    order: list[tuple[Place, str, int]] = []
    generation = 1
    for position, (name, is_new) in enumerate(published, 1):
        generation += is_new
        mine = places.setdefault(name, [])
        mine.append((generation, position))
        order.append(((generation, position), name, len(mine)))
    bounds = [(0, 0), *(place for place, _, _ in order), (99, 0)]
    low, high = bounds[min(after, len(bounds) - 1)], bounds[min(until, len(bounds) - 1)]
    sessions = Sessions(places, broken)

    async def collect() -> list[tuple[str, int]]:
        last = {name: len(ps) for name, ps in places.items()}
        return [(name, r.seq) async for name, r, _ in replay(sessions.read, last, low, high)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS_MAX", page_items)
        patch.setattr(module, "_PAGE_MIN", 1)
        patch.setattr(module, "REPLAY_HELD_BYTES_MAX", room)
        found = asyncio.run(collect())
    assert found == [(name, seq) for place, name, seq in order if low < place <= high and seq < broken.get(name, 1_000)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.tuples(st.integers(1, 2), st.integers(1, 4))), max_size=20),
    st.integers(1, 3),
)
def test_of_records_that_share_a_place_each_comes_once_wherever_a_follower_is_cut_off(
    published: list[tuple[str, Place]], page_items: int
) -> None:
    """As those of sessions from other state roots do. It comes again with the id of the last one that it had."""
    places = {name: sorted({place for n, place in published if n == name}) for name, _ in published}
    sessions = Sessions(places, {})
    last = {name: len(ps) for name, ps in places.items()}

    async def follow() -> list[tuple[Place, str]]:
        found: list[tuple[Place, str]] = []
        after, through = (0, 0), ""
        while True:
            replayed = replay(sessions.read, last, after, (9, 9), through)
            async with contextlib.aclosing(replayed) as source:  # type: ignore[type-var]
                async for name, r, is_shared in source:
                    found.append(((r.gen, r.pos), name))
                    after, through = (r.gen, r.pos), name if is_shared else ""
                    break
                else:
                    return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS_MAX", page_items)
        patch.setattr(module, "_PAGE_MIN", 1)
        assert asyncio.run(follow()) == sorted({(place, name) for name, place in published})


@pytest.mark.parametrize("failing_read", range(1, 11))
def test_a_replay_that_cannot_read_for_now_fails_and_leaves_nothing_out_and_nothing_repeated(failing_read: int) -> None:
    """Such as where no descriptor is left: the follower comes again, after the last record that it was given."""
    places = {"a": [(1, position) for position in range(1, 40)]}
    sessions = Sessions(places, {})
    reads = 0

    async def read(session_id: str, after_seq: int, limit: int, bytes_max: int) -> list[Record]:
        nonlocal reads
        reads += 1
        if reads == failing_read:
            raise OSError(errno.EMFILE, "Too many open files")
        return await sessions.read(session_id, after_seq, limit, bytes_max)

    async def follow(after: int) -> list[int]:
        found = []
        try:
            async for _, record, _ in replay(read, {"a": 39}, (1, after), (1, 39)):
                found.append(record.seq)
        except StoreError:
            found += await follow(after + len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS_MAX", 6)
        assert asyncio.run(follow(20)) == list(range(21, 40))
    assert reads > failing_read


class Line(bytes):
    """Knows how many bytes of its kind there are."""

    living_bytes = 0

    def __new__(cls, data: bytes) -> Line:
        Line.living_bytes += len(data)
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Line.living_bytes -= len(self)


def test_what_a_replay_holds_does_not_grow_with_the_number_of_sessions() -> None:
    sessions, records, line_bytes, room = 400, 4, 10_000, 200_000

    async def read(session_id: str, after_seq: int, limit: int, bytes_max: int) -> list[Record]:
        seqs = range(after_seq + 1, min(after_seq + limit, records) + 1)
        place = [(1, (seq - 1) * sessions + int(session_id) + 1) for seq in seqs]
        return [
            msgspec.structs.replace(record(s, p), line=Line(bytes(line_bytes)))
            for s, p in zip(seqs, place, strict=True)
        ]

    async def follow() -> tuple[int, int]:
        count = most = 0
        async for _ in replay(read, {str(n): records for n in range(sessions)}, (0, 0), (1, sessions * records)):
            count, most = count + 1, max(most, Line.living_bytes)
        return count, most

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REPLAY_HELD_BYTES_MAX", room)
        count, most = asyncio.run(follow())
    assert count == sessions * records
    assert most <= room + 3 * records * line_bytes


async def test_a_long_session_among_many_is_not_read_from_its_beginning_for_each_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not loaded, of which nobody else knows where its records stand."""
    async with Kernel(tmp_path, []) as kernel:
        await kernel.create()
        for number in range(400):
            await kernel.send(c.SetMode(mode="plan" if number % 2 else "bypass"))
        end = kernel.supervisor.position
    monkeypatch.setattr(module, "PAGE_ITEMS_MAX", 4)
    monkeypatch.setattr(reader, "PAGE_ITEMS_MAX", 4)
    async with Kernel(tmp_path, [], generation=2) as kernel:
        read = kernel.supervisor.reader
        with counting(monkeypatch) as checked:
            seqs = [record.seq async for _, record, _ in read.replay((0, 0), end)]
        assert seqs == list(range(1, 402))
        assert len(checked) < len(seqs) * JOURNAL_OFFSET_EVERY_RECORDS / 2
        with counting(monkeypatch) as checked:
            assert [record.seq async for page in read.read_since("s", 0) for record in page] == seqs
        assert len(checked) < len(seqs) * JOURNAL_OFFSET_EVERY_RECORDS / 2


@contextlib.contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The seqs of all records that are read from the disk."""
    checked: list[int] = []
    check = SegmentScan._check

    def count(scan: SegmentScan, line: bytes) -> Record:
        checked.append(scan.position.seq + 1)
        return check(scan, line)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentScan, "_check", count)
        yield checked
