"""The HTTP application: one bare ASGI callable over the table of endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson

from kheish.api import problems
from kheish.api.access import Peer, caller_of
from kheish.api.endpoints import ENDPOINTS
from kheish.api.router import Call, Endpoint, Raw, Router, check_parts, parse_body, parse_query
from kheish.api.streams import Streams
from kheish.core.budgets import standing_of_session
from kheish.core.state import Run, State
from kheish.debug.service import Debugging
from kheish.errors import Draining, Invalid, KheishError, StoreError
from kheish.limits import KIB, LOOK_THREADS, REQUEST_BODY_BYTES_MAX, STREAM_RETRY_MS
from kheish.runtime.supervisor import Supervisor
from kheish.secrets.service import Secrets
from kheish.store.atomic import is_of_files
from kheish.store.workers import Workers
from kheish.wire.body import IDEMPOTENCY_KEY
from kheish.wire.budgets import budget_view
from kheish.wire.runs import RunView, run_view
from kheish.wire.sessions import SessionView, session_view

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

T = TypeVar("T")

PEER, IS_CROWDED = "kheish.peer", "kheish.is_crowded"
_IN_THREAD_BYTES = 256 * KIB
_KEY = re.compile(IDEMPOTENCY_KEY)
_ONCE = {b"idempotency-key": "Idempotency-Key", b"kheish-origin": "Kheish-Origin", b"last-event-id": "Last-Event-ID"}
"""The fields that mean something to us: of two nobody knows which was meant."""
_STREAM_HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
_RETRY = b"retry: %d\n" % STREAM_RETRY_MS


class App:
    """What every endpoint can reach is on this object."""

    def __init__(
        self, supervisor: Supervisor, secrets: Secrets, debugging: Debugging, *, state_root: Path, socket_path: Path
    ) -> None:
        self.supervisor = supervisor
        self.secrets = secrets
        self.debugging = debugging
        self.state_root = state_root
        self.socket_path = socket_path
        self.streams = Streams(supervisor)
        self.router = Router(ENDPOINTS)
        self.looking = Workers(asyncio.get_running_loop(), "kheish-look", LOOK_THREADS)
        """Looks at what is not ours, whose disk may be slow: the store does not wait for it."""

    def session_view(self, state: State, seq: int) -> SessionView:
        default = self.supervisor.budgets.ledger.limits.session
        standing = standing_of_session(state, default, self.supervisor.budgets.outside(state.session_id))
        return session_view(state, seq, self.supervisor.hub.attached_to(state.session_id), budget_view(standing))

    def run_view(self, state: State, run: Run) -> RunView:
        budgets = self.supervisor.budgets
        return run_view(state, run, budgets.outside(state.session_id), budgets.ledger.limits.session)

    def drain(self, reason: str) -> None:
        """Ends every stream with a `bye`, and whoever waits for a run."""
        self.streams.drain(reason)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            endpoint, call = await self._prepare(scope, receive)
            if endpoint.waits:
                answer = await _while_connected(endpoint.handler(self, call), receive)
            else:
                answer = await endpoint.handler(self, call)
            if not endpoint.stream:
                await _send_answer(endpoint, answer, send)
            elif scope["method"] == "HEAD":
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                await send({"type": "http.response.body"})
            else:
                await _while_connected(_send_stream(answer, send), receive)  # type: ignore[arg-type]
        except KheishError as error:
            await _send_problem(error, send)
        except Exception as error:
            log.exception("%s %s", scope["method"], scope["path"])
            problem = KheishError("cannot answer: an internal error, see `kheish daemon logs`", code="internal_error")
            if isinstance(error, OSError) and is_of_files(error):
                problem = StoreError.of_disk("answer", error)
            await _send_problem(problem, send)

    async def _prepare(self, scope: Scope, receive: Receive) -> tuple[Endpoint, Call[Any, Any]]:
        if scope[IS_CROWDED]:
            raise problems.crowded()
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in _ONCE and name in headers:
                raise Invalid(f"cannot accept the request: it has two fields {_ONCE[name]}")
            headers[name] = value
        origin = headers.get(b"kheish-origin", b"").decode("latin-1")
        peer: Peer = scope[PEER]
        caller = caller_of(peer, origin)
        endpoint, parts = self.router.find(scope["method"], scope["raw_path"].decode("ascii"))
        if self.supervisor.is_draining and endpoint.is_command:
            raise Draining("cannot take commands: the daemon is stopping; try again")
        query = parse_query(endpoint, scope["query_string"])
        raw = await _read_body(headers, receive)
        if len(raw) > _IN_THREAD_BYTES:
            body, digest = await asyncio.to_thread(parse_body, endpoint, parts, raw)
        else:
            body, digest = parse_body(endpoint, parts, raw)
        check_parts(endpoint, parts)
        key = headers.get(b"idempotency-key", b"").decode("latin-1")
        if not _KEY.match(key):
            raise Invalid("cannot use this Idempotency-Key: at most 200 printable characters")
        return endpoint, Call(
            path=parts,
            query=query,
            body=body,
            caller=caller,
            key=key if endpoint.keyed else "",
            body_digest=digest if key and endpoint.keyed else "",
            last_event_id=headers.get(b"last-event-id", b"").decode("latin-1"),
        )


async def _read_body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """Raises TooLarge as soon as it is known."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > REQUEST_BODY_BYTES_MAX:
        raise _too_large()
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Invalid("the client went away")
        parts += message.get("body", b"")
        if len(parts) > REQUEST_BODY_BYTES_MAX:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(parts)


def _too_large() -> problems.TooLarge:
    return problems.TooLarge(
        f"cannot accept the request: its body is over {REQUEST_BODY_BYTES_MAX} bytes", limit=REQUEST_BODY_BYTES_MAX
    )


async def _send_answer(endpoint: Endpoint, answer: object, send: Send) -> None:
    content_type = "application/json"
    if isinstance(answer, Raw):
        data, content_type = answer.data, answer.content_type
    else:
        data = msgspec.json.encode(answer, enc_hook=str)
    await _send(endpoint.status, [(b"content-type", content_type.encode())], data, send)


async def _send_problem(error: KheishError, send: Send) -> None:
    status, data = problems.problem_of(error)
    await _send(status, [(b"content-type", problems.CONTENT_TYPE), *problems.headers_of(error)], data, send)


async def _send(status: int, headers: list[tuple[bytes, bytes]], data: bytes, send: Send) -> None:
    headers.append((b"content-length", str(len(data)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def _while_connected(work: Awaitable[T], receive: Receive) -> T | None:
    """What the work answers; it is cancelled when the client goes away, and then nobody wants an answer."""
    worker = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_await_disconnect(receive))
    try:
        await asyncio.wait([worker, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (worker, leaving):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    return None if worker.cancelled() else worker.result()


async def _send_stream(chunks: AsyncIterator[bytes], send: Send) -> None:
    """Errors before the first chunk become a problem; later ones end the stream with an `error` event. A stream that is
    over and has nothing to say is 204, which tells a browser's EventSource not to come again."""
    started = False
    async with contextlib.aclosing(chunks) as source:  # type: ignore[type-var]
        try:
            async for chunk in source:
                if not started:
                    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
                    started, chunk = True, _RETRY + chunk
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except KheishError as error:
            if not started:
                raise
            data = orjson.dumps({"code": error.code, "detail": error.message})
            await send({"type": "http.response.body", "body": b"event: error\ndata: " + data + b"\n\n"})
            return
    if not started:
        await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _await_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
