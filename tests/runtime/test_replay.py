"""Many sessions as one stream: every record after a place once, in order, whatever the sizes of pages."""

from __future__ import annotations

import asyncio
import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.errors import Corrupt, StoreError
from kheish.runtime import replay as module
from kheish.runtime.replay import Place, replay
from kheish.store.records import Record


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
)
def test_every_record_after_the_cursor_comes_once_and_in_order(
    published: list[tuple[str, bool]], after: int, until: int, broken: dict[str, int], page_items: int
) -> None:
    """`published`: whose record each is, and whether a new generation begins with it."""
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
        return [(name, r.seq) async for name, r in replay(sessions.read, last, low, high)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS_MAX", page_items)
        patch.setattr(module, "_PAGE_MIN", 1)
        found = asyncio.run(collect())
    assert found == [(name, seq) for place, name, seq in order if low < place <= high and seq < broken.get(name, 1_000)]


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
            async for _, record in replay(read, {"a": 39}, (1, after), (1, 39)):
                found.append(record.seq)
        except StoreError:
            found += await follow(after + len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAGE_ITEMS_MAX", 6)
        assert asyncio.run(follow(20)) == list(range(21, 40))
    assert reads > failing_read
