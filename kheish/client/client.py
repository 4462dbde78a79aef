"""`Kheish` and `AsyncKheish`: how a request is sent, and what is followed. The nouns are their methods."""

from __future__ import annotations

import time

from kheish import paths
from kheish.client.errors import DaemonUnreachable
from kheish.client.http1 import segment
from kheish.client.nouns import (
    Approvals,
    Daemon,
    Permissions,
    Questions,
    Routes,
    Runs,
    Runtime,
    Secrets,
    Sessions,
)
from kheish.client.transport import Transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Generator
    from typing import Any

    from kheish.client.follow import Place
    from kheish.client.http1 import Request
    from kheish.client.views import StreamEvent

REPEAT_AFTER_S = (0.0, 0.05, 0.25)
"""The pauses between the tries of a request: a process that is being killed may still take connections."""


class Kheish:
    """The daemon, for blocking code. Without a `socket` the one that `kheish` uses, and unless `start` is False a
    daemon is started where none answers.

    `origin` is journaled with every command. Each request has a connection of its own: threads may share a client, and
    there is nothing to close. Raises ApiError and DaemonUnreachable.
    """

    def __init__(
        self, socket: os.PathLike[str] | str | None = None, *, origin: str = "python", start: bool = True
    ) -> None:
        self.transport = Transport(paths.socket_name() if socket is None else socket, origin)
        self._start = start and socket is None
        self.sessions = Sessions(self)
        self.runs = Runs(self)
        self.approvals = Approvals(self)
        self.questions = Questions(self)
        self.permissions = Permissions(self)
        self.secrets = Secrets(self)
        self.runtime = Runtime(self)
        self.routes = Routes(self)
        self.daemon = Daemon(self)

    def send(self, request: Request) -> Any:
        """Any request of the API, as JSON. One that a dying daemon did not answer is sent again, if it may be."""
        for wait_s in REPEAT_AFTER_S:
            try:
                return self.transport.send(request)
            except DaemonUnreachable as error:
                if not self._start or not _may_repeat(request, error):
                    raise
            from kheish.client import launch

            time.sleep(wait_s)
            launch.ensure_daemon(self.transport)
        return self.transport.send(request)

    def events(
        self,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        cursor: str = "",
        deadline_s: float | None = None,
    ) -> Generator[StreamEvent, None, None]:
        """Follows a run, a session or everything, across restarts of the daemon: every record after `cursor` once, in
        order, until the stream's own end (that of the run), or a deadline of the monotonic clock.

        `cursor` is the id of the last event seen, or `tail`. Without one a run or session is followed from its first
        record, everything from now on.
        """
        from kheish.client import follow

        place = _place(session_id, run_id, cursor)
        return follow.follow(self.transport, place, restart=self._start, deadline_s=deadline_s)


class AsyncKheish:
    """The daemon, for asyncio: the same methods, awaited."""

    def __init__(
        self, socket: os.PathLike[str] | str | None = None, *, origin: str = "python", start: bool = True
    ) -> None:
        from kheish.client import async_nouns

        self.transport = Transport(paths.socket_name() if socket is None else socket, origin)
        self._start = start and socket is None
        self.sessions = async_nouns.AsyncSessions(self)
        self.runs = async_nouns.AsyncRuns(self)
        self.approvals = async_nouns.AsyncApprovals(self)
        self.questions = async_nouns.AsyncQuestions(self)
        self.permissions = async_nouns.AsyncPermissions(self)
        self.secrets = async_nouns.AsyncSecrets(self)
        self.runtime = async_nouns.AsyncRuntime(self)
        self.routes = async_nouns.AsyncRoutes(self)
        self.daemon = async_nouns.AsyncDaemon(self)

    async def send(self, request: Request) -> Any:
        import asyncio

        from kheish.client import launch

        for wait_s in REPEAT_AFTER_S:
            try:
                return await self.transport.send_async(request)
            except DaemonUnreachable as error:
                if not self._start or not _may_repeat(request, error):
                    raise
            await asyncio.sleep(wait_s)
            await asyncio.to_thread(launch.ensure_daemon, self.transport)
        return await self.transport.send_async(request)

    def events(
        self,
        *,
        session_id: str | None = None,
        run_id: str | None = None,
        cursor: str = "",
        deadline_s: float | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        from kheish.client import follow

        place = _place(session_id, run_id, cursor)
        return follow.follow_async(self.transport, place, restart=self._start, deadline_s=deadline_s)


def _may_repeat(request: Request, error: DaemonUnreachable) -> bool:
    """Whether the request did not arrive, or may arrive twice: a read, or one with a key."""
    if error.details["is_absent"]:
        return True
    return bool(error.details["is_broken"]) and (request.method == "GET" or "Idempotency-Key" in request.headers)


def _place(session_id: str | None, run_id: str | None, cursor: str) -> Place:
    from kheish.client.follow import Place

    if run_id is not None:
        return Place(f"/v1/runs/{segment(run_id)}/stream", {}, cursor)
    if session_id is not None:
        return Place(f"/v1/sessions/{segment(session_id)}/stream", {}, cursor)
    return Place("/v1/events/stream", {}, cursor)
