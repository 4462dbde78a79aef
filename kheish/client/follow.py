"""Follows a stream of the daemon across reconnects and restarts: every record once, in order.

The id of the last frame is the place to go on from. A connection that breaks without a `bye` means that the daemon
died: it is started again, since its runs are owed. After a `bye` of a stopping daemon the follower only waits for it.
An `error` ends it.
"""

from __future__ import annotations

import json
import time

from kheish.client import launch
from kheish.client.errors import ApiError, DaemonUnreachable
from kheish.client.http1 import Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterator
    from typing import Any

    from kheish.client.transport import Transport
    from kheish.client.views import StreamEvent

RECONNECT_FIRST_S, RECONNECT_MAX_S = 0.02, 0.5
PATIENCE_S = 30.0
"""How long a follower waits for a daemon that was stopped on purpose."""


class Frame:
    """One event of a stream, as `views.StreamEvent` types it: `event` is record, sync, delta, heartbeat, gap, bye or
    error; `id` is "" for frames without one."""

    __slots__ = ("data", "event", "id")

    def __init__(self, event: str, id: str, data: dict[str, Any]) -> None:
        self.event = event
        self.id = id
        self.data = data

    def __repr__(self) -> str:
        return f"StreamEvent({self.event!r}, {self.id!r}, {self.data!r})"


class SseParser:
    """Bytes in, events out. Source: the HTML standard, server-sent events, section 9.2.6."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> Iterator[StreamEvent]:
        self._buffer += data
        while (end := self._buffer.find(b"\n\n")) >= 0:
            block, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            event, id_, lines = "message", "", []
            for line in block.split(b"\n"):
                name, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if name == b"event":
                    event = value.decode()
                elif name == b"id":
                    id_ = value.decode()
                elif name == b"data":
                    lines.append(value)
            if lines:
                frame: Any = Frame(event, id_, json.loads(b"\n".join(lines)))
                yield frame


class Place:
    """Where a follower is, and whether the stream has come to its own end."""

    def __init__(self, path: str, query: dict[str, Any], cursor: str) -> None:
        self._path = path
        self._query = query
        self.cursor = cursor
        self._is_over = False
        self.said_bye = self.told_bye = False
        self.wait_s = RECONNECT_FIRST_S
        self.broken_at_s = 0.0

    def is_over(self) -> bool:
        return self._is_over

    def request(self) -> Request:
        return Request("GET", self._path, query={**self._query, "cursor": self.cursor or None})

    def note(self, event: StreamEvent) -> bool:
        """Whether it is news. A daemon that stops greets every new connection with another `bye`."""
        self.broken_at_s = 0.0
        if event.id:
            self.cursor = event.id
        self.said_bye = event.event == "bye" and "daemon" in event.data.get("reason", "")
        self._is_over = event.event == "bye" and not self.said_bye
        if self.said_bye:
            told, self.told_bye = self.told_bye, True
            return not told
        self.told_bye = self.told_bye and event.event == "sync"
        if not self.told_bye:
            self.wait_s = RECONNECT_FIRST_S
        return True

    def pause_s(self, now_s: float) -> float:
        """How long to wait before the next try. Raises DaemonUnreachable when patience ends."""
        self.broken_at_s = self.broken_at_s or now_s
        if now_s - self.broken_at_s > PATIENCE_S:
            raise DaemonUnreachable(
                "cannot follow any longer: the daemon was stopped; its runs go on after `kheish daemon start`"
            )
        wait_s, self.wait_s = self.wait_s, min(self.wait_s * 2, RECONNECT_MAX_S)
        return wait_s


def _require_no_error(event: StreamEvent) -> None:
    """Raises ApiError where the stream cannot go on: to come again would bring the same."""
    if event.event == "error":
        raise ApiError(503, event.data["code"], event.data["detail"], {})


def _is_past(deadline_s: float | None) -> bool:
    return deadline_s is not None and time.monotonic() >= deadline_s


def follow(
    transport: Transport, place: Place, *, restart: bool = True, deadline_s: float | None = None
) -> Generator[StreamEvent, None, None]:
    """Ends with the stream's own end, or at the deadline (of the monotonic clock). `restart`: start a daemon that
    died."""
    while not place.is_over():
        parser = SseParser()
        try:
            if _is_past(deadline_s):
                return
            stream = transport.stream(place.request(), deadline_s)
            try:
                for data in stream:
                    for event in parser.feed(data):
                        if place.note(event):
                            yield event
                        _require_no_error(event)
                    if _is_past(deadline_s):
                        return
            finally:
                stream.close()
            if place.is_over():
                return
        except DaemonUnreachable:
            if _is_past(deadline_s):
                return
            if restart and not place.said_bye:
                launch.ensure_daemon(transport)
        time.sleep(place.pause_s(time.monotonic()))


async def follow_async(
    transport: Transport, place: Place, *, restart: bool = True, deadline_s: float | None = None
) -> AsyncGenerator[StreamEvent, None]:
    import asyncio
    import contextlib

    while not place.is_over():
        parser = SseParser()
        try:
            if _is_past(deadline_s):
                return
            async with contextlib.aclosing(transport.stream_async(place.request(), deadline_s)) as stream:
                async for data in stream:
                    for event in parser.feed(data):
                        if place.note(event):
                            yield event
                        _require_no_error(event)
                    if _is_past(deadline_s):
                        return
            if place.is_over():
                return
        except DaemonUnreachable:
            if _is_past(deadline_s):
                return
            if restart and not place.said_bye:
                await asyncio.to_thread(launch.ensure_daemon, transport)
        await asyncio.sleep(place.pause_s(time.monotonic()))
