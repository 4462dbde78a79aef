"""The hub alone: who is woken when, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kheish.runtime.hub import Frame, Hub, Subscription


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    async def turn(self, seconds: float) -> None:
        """Lets the time pass, and whatever is due then happen."""
        self.now_s += seconds
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clock]:
    made = Clock()
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "time", lambda: made.now_s)
        yield made


def record(seq: int, session_id: str = "s") -> Frame:
    return Frame(event="record", session_id=session_id, data=b"{}", seq=seq)


class Reader:
    """Reads as fast as it is woken; each of its turns takes `turn_s`."""

    def __init__(self, subscription: Subscription, clock: Clock, turn_s: float = 0.0) -> None:
        self.pieces: list[list[int]] = []
        self._clock = clock
        self._turn_s = turn_s
        self._task = asyncio.ensure_future(self._read(subscription))

    async def _read(self, subscription: Subscription) -> None:
        while frames := await subscription.wait():
            self.pieces.append([frame.seq for frame in frames])
            self._clock.now_s += self._turn_s


async def test_a_frame_after_a_pause_is_delivered_at_once_and_what_follows_waits_as_long_as_that_took(
    clock: Clock,
) -> None:
    hub = Hub()
    readers = [Reader(hub.subscribe(session_id="s"), clock, turn_s=0.5) for _ in range(4)]
    await clock.turn(0)
    hub.publish(record(1))
    await clock.turn(0)  # a round of four readers: two seconds
    for seq in (2, 3, 4):
        hub.publish(record(seq))
        await clock.turn(0.5)
    assert [reader.pieces for reader in readers] == [[[1]]] * 4
    await clock.turn(0.5)
    assert [reader.pieces for reader in readers] == [[[1], [2, 3, 4]]] * 4, "all that gathered is one piece"
    await clock.turn(2.0)
    hub.publish(record(5))
    await clock.turn(0)
    assert [reader.pieces[2:] for reader in readers] == [[[5]]] * 4, "the pause is over"
    hub.close()


async def test_what_is_published_in_one_turn_of_the_loop_is_one_piece(clock: Clock) -> None:
    hub = Hub()
    reader = Reader(hub.subscribe(), clock)
    await clock.turn(0)
    for seq in (1, 2, 3):
        hub.publish(record(seq, f"s{seq}"))
    await clock.turn(0)
    assert reader.pieces == [[1, 2, 3]]
    hub.close()


async def test_what_is_published_during_a_round_comes_with_the_next(clock: Clock) -> None:
    hub = Hub()
    readers = [Reader(hub.subscribe(session_id="s"), clock) for _ in range(20)]

    async def answer(subscription: Subscription) -> None:
        await subscription.wait()
        hub.publish(record(2))

    answering = asyncio.create_task(answer(hub.subscribe(session_id="s")))
    await clock.turn(0)
    hub.publish(record(1))
    await answering
    await clock.turn(0)
    assert all([seq for piece in reader.pieces for seq in piece] == [1, 2] for reader in readers)
    hub.close()


async def test_a_wait_ends_after_a_silence_that_counts_from_the_last_frame(clock: Clock) -> None:
    hub = Hub()
    subscription = hub.subscribe()

    async def wait() -> asyncio.Task[list[Frame] | None]:
        waiting = asyncio.create_task(subscription.wait(15))
        await clock.turn(0)
        return waiting

    waiting = await wait()
    await clock.turn(10)
    hub.publish(record(1))
    await clock.turn(0)
    assert [frame.seq for frame in waiting.result() or ()] == [1]
    for _ in range(2):
        waiting = await wait()
        await clock.turn(14)
        assert not waiting.done()
        await clock.turn(1)
        assert waiting.result() is None
    waiting = await wait()
    hub.close()
    assert await waiting == []
    assert not [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]


async def test_a_session_has_listeners_while_somebody_follows_it_or_everything() -> None:
    hub = Hub()
    assert not hub.has_listeners("s")
    one, other, everything = hub.subscribe(session_id="s"), hub.subscribe(session_id="t"), hub.subscribe()
    one.close()
    assert hub.has_listeners("s") and hub.subscribers_total == 2
    everything.close()
    everything.close()
    assert not hub.has_listeners("s") and hub.has_listeners("t") and hub.subscribers_total == 1
    hub.publish(record(1, "s"))
    hub.publish(record(2, "t"))
    assert [frame.seq for frame in other.take()] == [2]
    hub.close()
    assert not hub.has_listeners("t") and hub.subscribers_total == 0
