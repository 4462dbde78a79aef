"""Hands frames to subscribers of this process.

Delivery: a subscriber gets every record frame of what it subscribed to, in order, from the moment of `subscribe` on.
What came before is read from the journal; a subscriber therefore registers first and reads then. Deltas are live only.
A subscriber that falls behind by more than its bound in bytes is cut off and told so; what waited for it is dropped. It
loses no record, since it reads on from the journal. Each frame is encoded once, whoever listens.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

import msgspec

from kheish.errors import Conflict
from kheish.limits import STREAM_CHUNK_BYTES, SUBSCRIBER_QUEUE_BYTES_MAX, SUBSCRIBERS_MAX


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """`event` is "record" or "delta"; deltas have seq 0. `ends` are the runs that this record finished."""

    event: str
    session_id: str
    data: bytes
    seq: int = 0
    gen: int = 0
    pos: int = 0
    run_ids: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()


class Subscription:
    """An async iterator of frames. It ends when closed, or after `lost` was set by the hub."""

    def __init__(self, hub: Hub, session_id: str | None, run_id: str | None) -> None:
        self._hub = hub
        self.session_id = session_id
        self.run_id = run_id
        self.lost = ""
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._ready = asyncio.Event()
        self._closed = False

    def wants(self, frame: Frame) -> bool:
        if self.session_id is not None and frame.session_id != self.session_id:
            return False
        return self.run_id is None or self.run_id in frame.run_ids

    def put(self, frame: Frame) -> None:
        if self._closed:
            return
        self._bytes += len(frame.data)
        if self._bytes > SUBSCRIBER_QUEUE_BYTES_MAX:
            self.lost = "the reader was too slow"
            self._frames.clear()
            self.close()
            return
        self._frames.append(frame)
        self._ready.set()

    def take(self) -> list[Frame]:
        """What waits, as much as one write holds, without waiting. The rest goes on counting against the reader."""
        frames: list[Frame] = []
        taken_bytes = 0
        while self._frames and taken_bytes < STREAM_CHUNK_BYTES:
            frames.append(self._frames.popleft())
            taken_bytes += len(frames[-1].data)
        self._bytes -= taken_bytes
        return frames

    async def wait(self) -> list[Frame]:
        """The next frames; an empty list once closed."""
        while not self._frames and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        return self.take()

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while frames := await self.wait():
            for frame in frames:
                yield frame

    def close(self) -> None:
        self._closed = True
        self._hub.unsubscribe(self)
        self._ready.set()


class Hub:
    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()

    def subscribe(self, *, session_id: str | None = None, run_id: str | None = None) -> Subscription:
        if len(self._subscriptions) >= SUBSCRIBERS_MAX:
            raise Conflict(
                f"cannot subscribe: {SUBSCRIBERS_MAX} readers are connected; close one", code="too_many_subscribers"
            )
        subscription = Subscription(self, session_id, run_id)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)

    @property
    def subscribers_total(self) -> int:
        return len(self._subscriptions)

    def has_listeners(self, session_id: str) -> bool:
        return any(s.session_id in (None, session_id) for s in self._subscriptions)

    def publish(self, frame: Frame) -> None:
        for subscription in tuple(self._subscriptions):
            if subscription.wants(frame):
                subscription.put(frame)

    def close(self) -> None:
        for subscription in tuple(self._subscriptions):
            subscription.close()
