"""Hands frames to subscribers of this process.

Delivery: a subscriber gets every record frame of what it subscribed to, in order, from the moment of `subscribe` on.
What came before is read from the journal; a subscriber therefore registers first and reads then. Deltas are live only;
what was said before of what is still being said is to be had from `said`.
A subscriber that falls behind by more than its bound in bytes is cut off and told so; what waited for it is dropped. It
loses no record, since it reads on from the journal. Each frame is encoded once, whoever listens.

Pace: whoever waits is woken in rounds. The first frame after a pause begins one at once; the pause after a round is as
long as the round took. Readers, however many, thus leave half of the event loop to the writers, and the more there is
to deliver the more of it goes in one piece.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from kheish.errors import Conflict
from kheish.limits import STREAM_CHUNK_BYTES, SUBSCRIBER_QUEUE_BYTES_MAX, SUBSCRIBERS_MAX


class Frame(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """`event` is "record" or "delta"; deltas have seq 0. `ends` are the runs that this record finished. `encoded` is
    what goes over the wire, by the kind of stream, once somebody has made it."""

    event: str
    session_id: str
    data: bytes
    seq: int = 0
    gen: int = 0
    pos: int = 0
    run_ids: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    encoded: dict[str, bytes] = {}


class Subscription:
    """An async iterator of frames. It ends when closed, or after `lost` was set by the hub."""

    def __init__(self, hub: Hub, session_id: str | None, run_id: str | None, has_deltas: bool) -> None:
        self._hub = hub
        self._has_deltas = has_deltas
        self.session_id = session_id
        self.run_id = run_id
        self.lost = ""
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[bool] | None = None
        self._waiting_since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def wants(self, frame: Frame) -> bool:
        if frame.event == "delta" and not self._has_deltas:
            return False
        return self.run_id is None or self.run_id in frame.run_ids

    def put(self, frame: Frame) -> None:
        self._bytes += len(frame.data)
        if self._bytes > SUBSCRIBER_QUEUE_BYTES_MAX:
            self.lost = "the reader was too slow"
            self._frames.clear()
            self.close()
            return
        self._frames.append(frame)

    def wake(self, *, is_served: bool = True) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(is_served)

    def take(self) -> list[Frame]:
        """What waits, as much as one write holds, without waiting. The rest goes on counting against the reader."""
        frames: list[Frame] = []
        taken_bytes = 0
        while self._frames and taken_bytes < STREAM_CHUNK_BYTES:
            frames.append(self._frames.popleft())
            taken_bytes += len(frames[-1].data)
        self._bytes -= taken_bytes
        return frames

    async def wait(self, silence_s: float = 0.0) -> list[Frame] | None:
        """The next frames; an empty list once closed; None where none came for so many seconds."""
        loop = asyncio.get_running_loop()
        self._waiting_since_s = loop.time()
        if silence_s and self._timer is None:
            self._timer = loop.call_later(silence_s, self._break_silence, silence_s)
        while not self._frames and not self._closed:
            self._waiter = loop.create_future()
            if not await self._waiter:
                return None
        return self.take()

    def _break_silence(self, silence_s: float) -> None:
        """One timer stands for many waits: it is only looked at when it is due."""
        loop = asyncio.get_running_loop()
        due_s = self._waiting_since_s + silence_s
        if due_s > loop.time():
            self._timer = loop.call_at(due_s, self._break_silence, silence_s)
        else:
            self._timer = None
            self.wake(is_served=False)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while frames := await self.wait():
            for frame in frames:
                yield frame

    def close(self) -> None:
        self._closed = True
        self._hub.unsubscribe(self)
        if self._timer is not None:
            self._timer.cancel()
        self.wake()


class Speaker(Protocol):
    """A model call or a tool call that is under way."""

    @property
    def run_id(self) -> str: ...

    def said(self) -> list[bytes]: ...


class Hub:
    def __init__(self) -> None:
        self._speaking: defaultdict[str, list[Speaker]] = defaultdict(list)
        """By session; a session where nobody speaks is not kept."""
        self._subscriptions: defaultdict[str | None, set[Subscription]] = defaultdict(set)
        """By session; those of None get everything."""
        self.subscribers_total = 0
        self._to_wake: set[Subscription] = set()
        self._round: asyncio.Handle | None = None
        self._round_at_s = 0.0
        """No round begins before."""

    def subscribe(
        self, *, session_id: str | None = None, run_id: str | None = None, has_deltas: bool = True
    ) -> Subscription:
        if self.subscribers_total >= SUBSCRIBERS_MAX:
            raise Conflict(
                f"cannot subscribe: {SUBSCRIBERS_MAX} readers are connected; close one", code="too_many_subscribers"
            )
        subscription = Subscription(self, session_id, run_id, has_deltas)
        self._subscriptions[session_id].add(subscription)
        self.subscribers_total += 1
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscriptions = self._subscriptions.get(subscription.session_id, set())
        if subscription in subscriptions:
            subscriptions.remove(subscription)
            self.subscribers_total -= 1
            if not subscriptions:
                del self._subscriptions[subscription.session_id]

    def has_listeners(self, session_id: str) -> bool:
        return session_id in self._subscriptions or None in self._subscriptions

    def attached_to(self, session_id: str) -> int:
        """How many follow this session, or a run of it."""
        return len(self._subscriptions.get(session_id, ()))

    def said(self, session_id: str, run_id: str | None) -> list[tuple[Speaker, list[bytes]]]:
        """What was said before this moment; whoever subscribes in the same one hears the rest."""
        speaking = self._speaking.get(session_id, ())
        return [(speaker, speaker.said()) for speaker in speaking if run_id in (None, speaker.run_id)]

    def is_speaking(self, session_id: str, speaker: Speaker) -> bool:
        return speaker in self._speaking.get(session_id, ())

    def start_speaking(self, session_id: str, speaker: Speaker) -> None:
        self._speaking[session_id].append(speaker)

    def stop_speaking(self, session_id: str, speaker: Speaker) -> None:
        speaking = self._speaking[session_id]
        speaking.remove(speaker)
        if not speaking:
            del self._speaking[session_id]

    def publish(self, frame: Frame) -> None:
        for key in (frame.session_id, None):
            for subscription in tuple(self._subscriptions.get(key, ())):
                if subscription.wants(frame):
                    subscription.put(frame)
                    self._to_wake.add(subscription)
        if self._to_wake and self._round is None:
            self._begin_round()

    def _begin_round(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if now_s < self._round_at_s:
            self._round = loop.call_at(self._round_at_s, self._begin_round)
            return
        to_wake, self._to_wake = self._to_wake, set()
        for subscription in to_wake:
            subscription.wake()
        # It comes after all that were woken have had their turn.
        self._round = loop.call_soon(self._end_round, now_s)

    def _end_round(self, began_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        self._round_at_s = now_s + (now_s - began_s)
        self._round = None
        if self._to_wake:
            self._begin_round()

    def end(self, session_id: str) -> None:
        """Nothing more will come of this session: who follows it alone is not to wait for it."""
        for subscription in tuple(self._subscriptions.get(session_id, ())):
            subscription.close()

    def close(self) -> None:
        for subscription in [one for those in self._subscriptions.values() for one in those]:
            subscription.close()
