"""The stored records of many sessions as one stream, in the order in which they were published.

Along a session (generation, position) grows, so that each is entered at its first record after the cursor, and the
sessions are merged; memory is bounded by a page of each.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from kheish.errors import Corrupt, NewerFormat, NotFound, StoreError
from kheish.limits import PAGE_ITEMS_MAX, STREAM_CHUNK_BYTES
from kheish.store.atomic import is_shortage
from kheish.store.records import Record

Place = tuple[int, int]
"""(generation, position)."""
Read = Callable[[str, int, int, int], Awaitable[list[Record]]]
"""Records of a session after a seq: so many at most, and no more after so many bytes."""
_PAGE_MIN = 4


class _Source:
    """One session, read page by page. One that is damaged ends where it is. Where only the daemon cannot read for now
    the replay fails: whoever went on would not come back for what is left out."""

    def __init__(self, read: Read, session_id: str, page_items: int) -> None:
        self.session_id = session_id
        self.records: deque[Record] = deque()
        self._read = read
        self._page_items = page_items
        self._after_seq = 0

    async def enter(self, last_seq: int, after: Place) -> None:
        """Goes to the first record after a place. Looks from the end on, for it is mostly near."""
        low, high, step = 0, last_seq + 1, 1  # records up to `low` are not after the place, those from `high` on are
        while high - low > 1:
            probe = max(low + 1, high - step) if low == 0 else (low + high) // 2
            if await self._is_after(probe, after):
                high, step = probe, step * 2
            else:
                low = probe
        self._after_seq = low
        await self.fill()

    async def _is_after(self, seq: int, place: Place) -> bool:
        records = await self._read_sound(seq - 1, 1, 1)
        return not records or (records[0].gen, records[0].pos) > place

    async def fill(self) -> None:
        self.records.extend(await self._read_sound(self._after_seq, self._page_items, STREAM_CHUNK_BYTES))
        if self.records:
            self._after_seq = self.records[-1].seq

    async def _read_sound(self, after_seq: int, limit: int, bytes_max: int) -> list[Record]:
        try:
            return await self._read(self.session_id, after_seq, limit, bytes_max)
        except (Corrupt, NewerFormat, NotFound):
            return []
        except OSError as error:
            if is_shortage(error):
                raise StoreError.of_disk(f"read session {self.session_id}", error) from error
            return []

    @property
    def place(self) -> Place:
        return self.records[0].gen, self.records[0].pos


async def replay(
    read: Read, last_seqs: Mapping[str, int], after: Place, until: Place
) -> AsyncIterator[tuple[str, Record]]:
    """(session id, record) of what was published after a place, up to another one, both included."""
    page_items = max(_PAGE_MIN, PAGE_ITEMS_MAX // max(1, len(last_seqs)))
    sources = [_Source(read, session_id, page_items) for session_id in last_seqs]
    await asyncio.gather(*(source.enter(last_seqs[source.session_id], after) for source in sources))
    heap = [(source.place, number) for number, source in enumerate(sources) if source.records]
    heapq.heapify(heap)
    while heap and heap[0][0] <= until:
        source = sources[heap[0][1]]
        yield source.session_id, source.records.popleft()
        if not source.records:
            await source.fill()
        if source.records:
            heapq.heapreplace(heap, (source.place, heap[0][1]))
        else:
            heapq.heappop(heap)
