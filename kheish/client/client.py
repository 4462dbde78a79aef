"""`Kheish` and `AsyncKheish`. Each noun is written once; the two clients differ only in how a request is sent."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from kheish import paths
from kheish.client import follow, launch
from kheish.client.errors import DaemonUnreachable
from kheish.client.follow import Place, StreamEvent
from kheish.client.http1 import Request, segment
from kheish.client.transport import Transport

Json = dict[str, Any]
Object = TypeVar("Object")
"""One JSON object: `Json` from the sync client, an awaitable of it from the async one."""
Array = TypeVar("Array")
Send = Callable[[Request], Any]

REPEAT_AFTER_S = (0.0, 0.05, 0.25)
"""The pauses between the tries of a request: a process that is being killed may still take connections."""


def _keyed(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key} if key else {}


def _present(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


class _Noun(Generic[Object, Array]):
    def __init__(self, send: Send) -> None:
        self._send = send

    def _object(self, request: Request) -> Object:
        return cast(Object, self._send(request))

    def _array(self, request: Request) -> Array:
        return cast(Array, self._send(request))


class Sessions(_Noun[Object, Array]):
    def create(
        self,
        session_id: str | None = None,
        *,
        cwd: str | None = None,
        permission_mode: str | None = None,
        title: str | None = None,
        key: str | None = None,
    ) -> Object:
        """A new session, or the one of that name. Without `cwd` a new one works in the current directory. Without a
        name, the same `key` makes one session."""
        body = _present(session_id=session_id, cwd=cwd, permission_mode=permission_mode, title=title)
        body["default_cwd"] = os.getcwd()
        return self._object(Request("POST", "/v1/sessions", body=body, headers=_keyed(key)))

    def list(self, *, status: str | None = None, limit: int | None = None) -> Array:
        """Newest change first. `status`: a comma-separated choice."""
        return self._array(Request("GET", "/v1/sessions", query={"status": status, "limit": limit}))

    def get(self, session_id: str) -> Object:
        return self._object(self._get(session_id, ""))

    def transcript(self, session_id: str, *, first: int | None = None, limit: int | None = None) -> Object:
        return self._object(self._get(session_id, "/transcript", first=first, limit=limit))

    def events(self, session_id: str, *, cursor: str | None = None, limit: int | None = None) -> Object:
        """A page of the journal: `{items, next_cursor}`."""
        return self._object(self._get(session_id, "/events", cursor=cursor, limit=limit))

    def runs(self, session_id: str) -> Array:
        return self._array(self._get(session_id, "/runs"))

    def queue(self, session_id: str) -> Array:
        return self._array(self._get(session_id, "/queue"))

    def rules(self, session_id: str) -> Array:
        return self._array(self._get(session_id, "/rules"))

    def audits(self, session_id: str) -> Array:
        return self._array(self._get(session_id, "/permission-audits"))

    def submit(
        self,
        session_id: str,
        content: str,
        *,
        model: str | None = None,
        delivery: str | None = None,
        attachments: Any = None,
        metadata: Json | None = None,
        key: str | None = None,
    ) -> Object:
        """Submits an input; the answer is its run, durable. `delivery`: queue, steer or interrupt. The same `key`
        submits once."""
        body = _present(content=content, model=model, delivery=delivery, attachments=attachments, metadata=metadata)
        return self._object(self._post(session_id, "/runs", body, key))

    def input(self, session_id: str, content: str, *, model: str | None = None, key: str | None = None) -> Object:
        """Submits and waits, for as long as it takes, until the run is over or needs a human; the answer is the
        session."""
        request = self._post(session_id, "/input", _present(content=content, model=model), key)
        request.timeout_s = None
        return self._object(request)

    def interrupt(self, session_id: str, *, reason: str = "") -> Object:
        return self._object(self._post(session_id, "/interrupt", {"reason": reason}))

    def end(self, session_id: str, *, reason: str = "") -> Object:
        return self._object(self._post(session_id, "/end", {"reason": reason}))

    def set_permission_mode(self, session_id: str, mode: str) -> Object:
        return self._object(self._post(session_id, "/permission-mode", {"mode": mode}))

    def add_rule(self, session_id: str, pattern: str, behavior: str) -> Object:
        return self._object(self._post(session_id, "/rules", {"pattern": pattern, "behavior": behavior}))

    def edit_queued(self, session_id: str, run_id: str, content: str) -> Object:
        path = f"/v1/sessions/{segment(session_id)}/queue/{segment(run_id)}"
        return self._object(Request("PATCH", path, body={"content": content}))

    def withdraw_queued(self, session_id: str, run_id: str) -> Object:
        return self._object(Request("DELETE", f"/v1/sessions/{segment(session_id)}/queue/{segment(run_id)}"))

    def _get(self, session_id: str, tail: str, **query: Any) -> Request:
        return Request("GET", f"/v1/sessions/{segment(session_id)}{tail}", query=query)

    def _post(self, session_id: str, tail: str, body: Json, key: str | None = None) -> Request:
        return Request("POST", f"/v1/sessions/{segment(session_id)}{tail}", body=body, headers=_keyed(key))


class Runs(_Noun[Object, Array]):
    def list(self, *, session_id: str | None = None, active: bool | None = None, limit: int | None = None) -> Array:
        query = {"session_id": session_id, "active": active, "limit": limit}
        return self._array(Request("GET", "/v1/runs", query=query))

    def get(self, run_id: str) -> Object:
        """By id or unambiguous prefix."""
        return self._object(Request("GET", f"/v1/runs/{segment(run_id)}"))

    def events(self, run_id: str, *, cursor: str | None = None, limit: int | None = None) -> Object:
        query = {"cursor": cursor, "limit": limit}
        return self._object(Request("GET", f"/v1/runs/{segment(run_id)}/events", query=query))

    def cancel(self, run_id: str, *, reason: str = "") -> Object:
        return self._object(Request("POST", f"/v1/runs/{segment(run_id)}/cancel", body={"reason": reason}))


class Approvals(_Noun[Object, Array]):
    def list(self, *, session_id: str | None = None) -> Array:
        return self._array(Request("GET", "/v1/approvals", query={"session_id": session_id}))

    def get(self, request_id: str) -> Object:
        return self._object(Request("GET", f"/v1/approvals/{segment(request_id)}"))

    def resolve(
        self,
        request_id: str,
        resolution: str,
        *,
        if_digest: str | None = None,
        remember: str | None = None,
        rule: str | None = None,
        updated_input: Json | None = None,
        justification: str | None = None,
        key: str | None = None,
    ) -> Object:
        """`resolution`: allow or deny; for an uncertain call verify, retry, mark_done or give_up. The answer is the
        run."""
        body = _present(
            resolution=resolution,
            if_digest=if_digest,
            remember=remember,
            rule=rule,
            updated_input=updated_input,
            justification=justification,
        )
        path = f"/v1/approvals/{segment(request_id)}"
        return self._object(Request("POST", path, body=body, headers=_keyed(key)))

    def allow(self, request_id: str, **fields: Any) -> Object:
        return self.resolve(request_id, "allow", **fields)

    def deny(self, request_id: str, justification: str = "", **fields: Any) -> Object:
        return self.resolve(request_id, "deny", justification=justification, **fields)


class Questions(_Noun[Object, Array]):
    def list(self, *, session_id: str | None = None) -> Array:
        return self._array(Request("GET", "/v1/questions", query={"session_id": session_id}))

    def get(self, request_id: str) -> Object:
        return self._object(Request("GET", f"/v1/questions/{segment(request_id)}"))

    def answer(
        self,
        request_id: str,
        answers: Any = (),
        *,
        declined: bool = False,
        justification: str | None = None,
        key: str | None = None,
    ) -> Object:
        """`answers`: a list of `{question_id, selected_option_ids, freeform_answer}`. The answer is the run."""
        body = _present(answers=[*answers], declined=declined, justification=justification)
        path = f"/v1/questions/{segment(request_id)}"
        return self._object(Request("POST", path, body=body, headers=_keyed(key)))


class Daemon(_Noun[Object, Array]):
    def status(self) -> Object:
        return self._object(Request("GET", "/v1/status"))

    def inbox(self, *, session_id: str | None = None) -> Object:
        return self._object(Request("GET", "/v1/inbox", query={"session_id": session_id}))

    def routes(self) -> Array:
        return self._array(Request("GET", "/v1/routes"))

    def check_permission(self, tool_name: str, **fields: Any) -> Object:
        body = {"tool_name": tool_name, **_present(**fields)}
        return self._object(Request("POST", "/v1/runtime/permissions/check", body=body))

    def permission_matrix(self) -> Array:
        return self._array(Request("GET", "/v1/runtime/permissions/matrix"))


def _may_repeat(request: Request, error: DaemonUnreachable) -> bool:
    """Whether the request did not arrive, or may arrive twice: a read, or one with a key."""
    if error.details["is_absent"]:
        return True
    return bool(error.details["is_broken"]) and (request.method == "GET" or "Idempotency-Key" in request.headers)


def _place(session_id: str | None, run_id: str | None, cursor: str) -> Place:
    if run_id is not None:
        return Place(f"/v1/runs/{segment(run_id)}/stream", {}, cursor)
    if session_id is not None:
        return Place(f"/v1/sessions/{segment(session_id)}/stream", {}, cursor)
    return Place("/v1/events/stream", {}, cursor)


class Kheish:
    """The daemon, for blocking code. Starts it on first use unless `start` is False.

    `origin` is journaled with every command. Raises ApiError and DaemonUnreachable.
    """

    def __init__(self, socket: Path | str | None = None, *, origin: str = "python", start: bool = True) -> None:
        self.transport = Transport(Path(socket) if socket else paths.socket_path(), origin)
        self._start = start and socket is None
        self.sessions: Sessions[Json, list[Json]] = Sessions(self.send)
        self.runs: Runs[Json, list[Json]] = Runs(self.send)
        self.approvals: Approvals[Json, list[Json]] = Approvals(self.send)
        self.questions: Questions[Json, list[Json]] = Questions(self.send)
        self.daemon: Daemon[Json, list[Json]] = Daemon(self.send)

    def send(self, request: Request) -> Any:
        """Any request of the API, as JSON. One that a dying daemon did not answer is sent again, if it may be."""
        for wait_s in REPEAT_AFTER_S:
            try:
                return self.transport.send(request)
            except DaemonUnreachable as error:
                if not self._start or not _may_repeat(request, error):
                    raise
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
    ) -> Iterator[StreamEvent]:
        """Follows a run, a session or everything, across restarts of the daemon; until the stream's own end, or a
        deadline of the monotonic clock."""
        place = _place(session_id, run_id, cursor)
        return follow.follow(self.transport, place, restart=self._start, deadline_s=deadline_s)


class AsyncKheish:
    """The daemon, for asyncio. The same methods, each returning an awaitable."""

    def __init__(self, socket: Path | str | None = None, *, origin: str = "python", start: bool = True) -> None:
        self.transport = Transport(Path(socket) if socket else paths.socket_path(), origin)
        self._start = start and socket is None
        self.sessions: Sessions[Awaitable[Json], Awaitable[list[Json]]] = Sessions(self.send)
        self.runs: Runs[Awaitable[Json], Awaitable[list[Json]]] = Runs(self.send)
        self.approvals: Approvals[Awaitable[Json], Awaitable[list[Json]]] = Approvals(self.send)
        self.questions: Questions[Awaitable[Json], Awaitable[list[Json]]] = Questions(self.send)
        self.daemon: Daemon[Awaitable[Json], Awaitable[list[Json]]] = Daemon(self.send)

    async def send(self, request: Request) -> Any:
        import asyncio

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
        self, *, session_id: str | None = None, run_id: str | None = None, cursor: str = ""
    ) -> AsyncIterator[StreamEvent]:
        return follow.follow_async(self.transport, _place(session_id, run_id, cursor), restart=self._start)
