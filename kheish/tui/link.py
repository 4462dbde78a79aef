"""The application's one connection: what it asks the daemon, and what the daemon tells.

One stream brings the records of all sessions; live text comes to the screen of its session alone. Where it breaks it is
taken up after the last record seen, so that nothing is doubled or missing. A daemon that died is started again, since
its runs are owed; one that was stopped is waited for. Whoever listens gets messages and never waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from textual.message import Message

from kheish import __version__
from kheish.client import AsyncKheish, StatusView, StreamEvent, launch
from kheish.client.errors import ApiError, DaemonUnreachable
from kheish.client.follow import Place, SseParser
from kheish.errors import KheishError

Delivered = TypeVar("Delivered")

DIED = "the connection broke: the daemon died"
RETRY_FIRST_S, RETRY_MAX_S = 0.1, 5.0


class Arrived(Message):
    """Events of the stream, in order."""

    def __init__(self, events: Sequence[StreamEvent]) -> None:
        super().__init__()
        self.events = events


class Connected(Message):
    """The stream is up. `is_first`: nothing was shown before. `is_new_daemon`: another process answers than before."""

    def __init__(self, status: StatusView, *, is_first: bool, is_new_daemon: bool) -> None:
        super().__init__()
        self.status = status
        self.is_first = is_first
        self.is_new_daemon = is_new_daemon

    @property
    def is_other_version(self) -> bool:
        return self.status["version"] != __version__


class Disconnected(Message):
    """No daemon answers. The next try is at `retry_at_s` of the monotonic clock."""

    def __init__(self, reason: str, retry_at_s: float, *, was_stopped: bool) -> None:
        super().__init__()
        self.reason = reason
        self.retry_at_s = retry_at_s
        self.was_stopped = was_stopped


class Link:
    """`tell` takes the messages. `client` starts no daemon by itself: the link does."""

    def __init__(self, client: AsyncKheish, tell: Callable[[Message], object], *, start: bool = True) -> None:
        self.client = client
        self.is_up = False
        self.was_stopped = False
        """No daemon runs since somebody stopped it, so that none is started."""
        self._tell = tell
        self._start = start
        self._generation = 0
        self._try_now = asyncio.Event()
        self._up_or_stopped = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        place: Place | None = None
        wait_s = RETRY_FIRST_S
        while True:
            try:
                if self._start and not self.was_stopped:
                    await asyncio.to_thread(launch.ensure_daemon, self.client.transport)
                status = await self.client.daemon.status()
                if place is None:
                    place = Place("/v1/events/stream", {"deltas": "false"}, status["cursor"])
                self._note_connected(status)
                wait_s = RETRY_FIRST_S
                await self._follow(place)
                reason = DIED
            except ApiError as error:
                reason = error.message
                if error.code == "invalid_cursor":
                    place = None
            except DaemonUnreachable as error:
                reason = DIED if error.details["is_broken"] else error.message
            except KheishError as error:
                reason = error.message
            self.is_up = False
            self.was_stopped = place is not None and place.said_bye
            if self.was_stopped:
                reason = "the daemon was stopped"
            else:
                self._up_or_stopped.clear()
            self._tell(Disconnected(reason, time.monotonic() + wait_s, was_stopped=self.was_stopped))
            self._try_now.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._try_now.wait(), wait_s)
            wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def restart(self, *, stop_first: bool = False) -> None:
        """Starts a daemon, in the place of the one that runs where `stop_first`. Raises KheishError."""
        if stop_first:
            await asyncio.to_thread(launch.stop_daemon, to_restart=True)
        await asyncio.to_thread(launch.ensure_daemon, self.client.transport)
        self._try_now.set()

    async def deliver(self, send: Callable[[], Awaitable[Delivered]]) -> Delivered:
        """What `send` brings, tried again where the daemon dies meanwhile: it sends the same key each time. Raises
        KheishError."""
        while True:
            try:
                return await send()
            except DaemonUnreachable as error:
                if self.was_stopped or not (error.details["is_absent"] or error.details["is_broken"]):
                    raise
            await asyncio.sleep(RETRY_FIRST_S)
            await self._up_or_stopped.wait()

    def _note_connected(self, status: StatusView) -> None:
        before, self._generation = self._generation, status["generation"]
        self.is_up, self.was_stopped = True, False
        self._up_or_stopped.set()
        self._tell(Connected(status, is_first=not before, is_new_daemon=before not in (0, status["generation"])))

    async def _follow(self, place: Place) -> None:
        """Returns where the stream ends. Raises DaemonUnreachable where it breaks."""
        parser = SseParser()
        async with contextlib.aclosing(self.client.transport.stream_async(place.request())) as stream:
            async for data in stream:
                events = [event for event in parser.feed(data) if place.note(event)]
                if news := [event for event in events if event.event == "record"]:
                    self._tell(Arrived(news))
