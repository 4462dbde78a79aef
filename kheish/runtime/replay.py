"""The stored records of many sessions as one stream, in the order in which they were published.

Along a session (generation, position) grows, so that each is entered at its first record after the cursor, and the
sessions are merged. Records of a session from another state root may have the places of others: of one place they come
in the order of their sessions' ids. A page of each is held as long as there is room for it; of a session for which
there is none only its place is kept, and it is read again when its turn has come.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from kheish.errors import Corrupt, NewerFormat, NotFound, StoreError
from kheish.limits import KIB, PAGE_ITEMS_MAX, REPLAY_HELD_BYTES_MAX, SESSIONS_READ_AT_ONCE_MAX, STREAM_CHUNK_BYTES
from kheish.store.atomic import is_shortage
from kheish.store.records import Record

Place = tuple[int, int]
"""(generation, position)."""
Read = Callable[[str, int, int, int], Awaitable[list[Record]]]
"""Records of a session after a seq: so many at most, and no more after so many bytes."""
_PAGE_MIN = 4
_RECORD_BYTES = KIB
"""What a record in memory takes beside its line, roughly."""


class _Source:
    """One session, read page by page. One that is damaged ends where it is. Where only the daemon cannot read for now
    the replay fails: whoever went on would not come back for what is left out."""

    def __init__(self, read: Read, session_id: str) -> None:
        self.session_id = session_id
        self.place: Place | None = None
        """Of the next record; None at the end."""
        self.held_bytes = 0
        self._records: deque[Record] = deque()
        self._read = read
        self._after_seq = 0

    async def enter(self, last_seq: int, after: Place, limit: int) -> None:
        """Goes to the first record after a place. Looks from the end on, for it is mostly near."""
        low, high, step = 0, last_seq + 1, 1  # records up to `low` are not after the place, those from `high` on are
        while high - low > 1:
            probe = max(low + 1, high - step) if low == 0 else (low + high) // 2
            if await self._is_after(probe, after):
                high, step = probe, step * 2
            else:
                low = probe
        self._after_seq = low
        await self._fill(limit)

    async def _is_after(self, seq: int, place: Place) -> bool:
        records = await self._read_sound(seq - 1, 1, 1)
        return not records or (records[0].gen, records[0].pos) > place

    async def take(self, limit: int) -> Record | None:
        """The next record; None where it cannot be read any more. `limit`: of a page that is read."""
        if not self._records:
            await self._fill(limit)
        if not self._records:
            return None
        record = self._records.popleft()
        self.held_bytes -= _size(record)
        self._after_seq = record.seq
        if self._records:
            self._look()
        else:
            await self._fill(limit)
        return record

    def let_go(self) -> None:
        """Keeps only the place."""
        self._records.clear()
        self.held_bytes = 0

    async def _fill(self, limit: int) -> None:
        self._records.extend(await self._read_sound(self._after_seq, limit, STREAM_CHUNK_BYTES))
        self.held_bytes = sum(map(_size, self._records))
        self._look()

    def _look(self) -> None:
        self.place = (self._records[0].gen, self._records[0].pos) if self._records else None

    async def _read_sound(self, after_seq: int, limit: int, bytes_max: int) -> list[Record]:
        try:
            return await self._read(self.session_id, after_seq, limit, bytes_max)
        except (Corrupt, NewerFormat, NotFound):
            return []
        except OSError as error:
            if is_shortage(error):
                raise StoreError.of_disk(f"read session {self.session_id}", error) from error
            return []


def _size(record: Record) -> int:
    return len(record.line) + _RECORD_BYTES


async def replay(
    read: Read, last_seqs: Mapping[str, int], after: Place, until: Place, through: str = ""
) -> AsyncIterator[tuple[str, Record, bool]]:
    """(session id, record) of what was published after a place, up to another one, which is included; and whether the
    next one has the same place. `through`: at the first place only the sessions up to this id were seen."""
    sources = [_Source(read, session_id) for session_id in sorted(last_seqs)]
    held_bytes = 0

    async def enter(source: _Source) -> None:
        nonlocal held_bytes
        is_seen = not through or source.session_id <= through
        start = after if is_seen else (after[0], after[1] - 1)
        await source.enter(last_seqs[source.session_id], start, _page_items(len(sources)))
        if held_bytes > REPLAY_HELD_BYTES_MAX:
            source.let_go()
        held_bytes += source.held_bytes

    for first in range(0, len(sources), SESSIONS_READ_AT_ONCE_MAX):
        await asyncio.gather(*map(enter, sources[first : first + SESSIONS_READ_AT_ONCE_MAX]))
    heap = [(source.place, number) for number, source in enumerate(sources) if source.place]
    heapq.heapify(heap)
    while heap and heap[0][0] <= until:
        place, number = heap[0]
        source = sources[number]
        held_bytes -= source.held_bytes
        record = await source.take(_page_items(len(heap)))
        if held_bytes + source.held_bytes > REPLAY_HELD_BYTES_MAX:
            source.let_go()
        held_bytes += source.held_bytes
        if source.place:
            heapq.heapreplace(heap, (source.place, number))
        else:
            heapq.heappop(heap)
        if record is not None:
            yield source.session_id, record, bool(heap) and heap[0][0] == place


def _page_items(sources: int) -> int:
    return max(_PAGE_MIN, PAGE_ITEMS_MAX // max(1, sources))
