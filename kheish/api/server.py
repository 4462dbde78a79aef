"""The Unix socket: made private, served by an embedded uvicorn without its signal handlers and its idle tick."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from kheish.api.access import peer_of
from kheish.api.app import IS_CROWDED, PEER, App
from kheish.api.problems import CONTENT_TYPE, HeadTooLarge, Malformed, RequestTimeout, crowded, problem_of
from kheish.errors import Conflict, Forbidden, KheishError
from kheish.limits import CLIENT_TIMEOUT_S, CONNECTIONS_MAX, KIB

_BACKLOG = 256
_KEEP_ALIVE_S = 60
_CLOSE_TIMEOUT_S = 2.0
_HEAD_BYTES_MAX = 64 * KIB
_CROWD_MAX = 128
_CROWD_TIMEOUT_S = 2.0
"""How many connections over the limit may send a request to be told so, and how long they have for it."""


class PeerProtocol(HttpToolsProtocol):
    """Notes who connected, so that the application can tell a user from a run, and bounds what a client may hold: the
    bytes of a head, the time for a request, the time in which it reads nothing, and a place among the connections."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = peer_of(transport.get_extra_info("socket"))
        self._is_crowded = len(self.connections) > CONNECTIONS_MAX
        self._in_head = self._in_body = self._has_progressed = False
        self._head_bytes = self._field_bytes = self._unanswered = 0
        self._fault: KheishError | None = None
        self._refusal = b""
        self._lateness: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        # Whatever the client does not read is seen at once, also a short answer before a hang-up.
        transport.set_write_buffer_limits(0)
        if len(self.connections) > CONNECTIONS_MAX + _CROWD_MAX:
            self._refuse(crowded())
        else:
            self._await_request(_CROWD_TIMEOUT_S if self._is_crowded else CLIENT_TIMEOUT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._lateness, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -- what the client sends -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        self._has_progressed = False
        super().data_received(data)
        self._field_bytes = 0 if self._has_progressed else self._field_bytes + len(data)
        if self._field_bytes > _HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(_head_too_large())
        elif self._lateness is None and (self._in_head or self._in_body or not self._has_progressed):
            self._await_request(CLIENT_TIMEOUT_S)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope = cast(dict[str, Any], self.scope)
        scope[PEER], scope[IS_CROWDED] = self._peer, self._is_crowded
        self._in_head = self._has_progressed = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailer fields are dropped: they must not pass for fields of the head (RFC 9110, section 6.5.1)."""
        if self._in_head:
            super().on_header(name, value)
            self._count_head(len(name) + len(value) + 4)

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_BYTES_MAX:
            self._fault = _head_too_large()
            raise self._fault

    def on_headers_complete(self) -> None:
        is_upgrade = self.parser.should_upgrade()
        if is_upgrade and {name for name, _ in self.headers} & {b"content-length", b"transfer-encoding"}:
            # The parser would take the body for the other protocol.
            self._fault = Malformed(
                "cannot read the request: it offers to upgrade and has a body; leave out the Upgrade"
            )
            raise self._fault
        super().on_headers_complete()
        self._in_head, self._in_body, self._has_progressed = False, True, True
        self._unanswered += 1
        if self.scope["http_version"] == "1.0":
            self.cycle.transport = cast(asyncio.Transport, _Unchunked(self.transport))
        elif self.scope["method"] != "HEAD":  # whose answer ends with its head
            self.cycle.transport = cast(asyncio.Transport, _Whole(self.cycle))
        if is_upgrade:
            # It is answered as the ordinary request that it is as well, but the parser reads no further one.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._has_progressed = False, True
        if self._lateness is not None:
            self._lateness.cancel()
            self._lateness = None
        super().on_message_complete()

    def _await_request(self, timeout_s: float) -> None:
        self._lateness = self.loop.call_later(timeout_s, self._give_up_request)

    def _give_up_request(self) -> None:
        """The client has not sent a whole request in its time, unless we did not read on."""
        if self._owes_answers():
            self._await_request(CLIENT_TIMEOUT_S)
        elif self._is_crowded:
            self._refuse(crowded())
        elif self._in_head or self._in_body:
            self._refuse(RequestTimeout(f"cannot wait for the rest of the request over {CLIENT_TIMEOUT_S:g} s"))
        else:
            self.transport.close()

    # -- what is answered ----------------------------------------------------------------------------------------

    def _owes_answers(self) -> bool:
        """Whether a request before the one that is being read waits for its answer."""
        return self._unanswered > int(self._in_body)

    def on_response_complete(self) -> None:
        self._unanswered -= 1
        super().on_response_complete()
        if self._refusal and not self._unanswered:
            self._hang_up()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._fault or Malformed("cannot read the request: it is not HTTP/1.1"))

    def _refuse(self, error: KheishError) -> None:
        """Answers what never became a request, after the answers that are owed, and hangs up."""
        if self._in_body and self.cycle.response_started:
            self.transport.close()
            return
        status, data = problem_of(error)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n"
        self._refusal = head.encode() + b"content-type: " + CONTENT_TYPE + b"\r\n\r\n" + data
        if not self._owes_answers():
            self._hang_up()
        elif self._in_body:
            self.pipeline.popleft()
            self._unanswered -= 1

    def _hang_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self._refusal)
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def _await_reader(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(CLIENT_TIMEOUT_S, self._give_up_reader, unread_bytes)

    def _give_up_reader(self, unread_bytes: int) -> None:
        """The client has read nothing in its time: its place is freed. A stream is read on from its last id."""
        if self.transport.get_write_buffer_size() < unread_bytes:
            self._await_reader()
        else:
            self.transport.abort()


class _Whole:
    """The transport of one answer until its head is sent, with what comes after it: who waits for it is woken once."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport: asyncio.Transport = cycle.transport
        self._head: bytes | None = None
        self.is_closing = self._transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head is not None:
            self._let_go(data)
        elif self._cycle.response_started:
            self._head = data
        else:  # it is told to continue
            self._transport.write(data)

    def close(self) -> None:
        self._let_go()
        self._transport.close()

    def _let_go(self, data: bytes = b"") -> None:
        """The answer goes on without this, which would keep it, and the request, until garbage is collected."""
        self._cycle.transport = self._transport
        if self._head is not None:
            self._transport.write(self._head + data)


class _Unchunked:
    """The transport of one answer to HTTP/1.0, which knows no chunks: an answer whose length nobody knows beforehand
    ends with the connection (RFC 9112, sections 6.1 and 6.3)."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._is_chunked: bool | None = None
        self.is_closing, self.close = transport.is_closing, transport.close

    def write(self, data: bytes) -> None:
        if self._is_chunked is None:
            head = data.replace(b"transfer-encoding: chunked\r\n", b"")
            self._is_chunked, data = head != data, head
        elif self._is_chunked:
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size, 16)]
        self._transport.write(data)


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(f"cannot read the request: its head is over {_HEAD_BYTES_MAX} bytes")


def bind(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600, in a directory that is ours and where nobody else can put another in its
    place. One that exists is left as it is: it may be anybody's, such as the home directory. Raises Forbidden,
    Conflict."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.lstat(path.parent)
    if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.getuid():
        raise Forbidden(f"cannot use {path.parent}: it is not a directory of uid {os.getuid()}")
    if directory.st_mode & 0o022:
        raise Forbidden(
            f"cannot listen in {path.parent}: others may write to it; `chmod go-w` it, or choose another directory"
        )
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def _clear(path: Path) -> None:
    """Removes the socket that a dead daemon left behind, and nothing else."""
    with contextlib.suppress(FileNotFoundError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Forbidden(f"cannot listen at {path}: what is there is no socket; choose another path")
        caller.setblocking(False)
        try:
            caller.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody is there, and busy
        raise Conflict(f"cannot listen at {path}: another daemon does; choose another path for this one")


class Server:
    """`listener`: a socket at `path` that somebody else made, and keeps."""

    def __init__(self, app: App, path: Path, listener: socket.socket | None = None) -> None:
        self._config = Config(
            app,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # what clients do wrong is told to them
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
        )
        self._path = path
        self._inherited = listener
        self._inode = 0
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Returns when the socket takes connections."""
        self._config.load()
        listener = self._inherited or bind(self._path)
        if not self._inherited:
            self._inode = os.stat(self._path).st_ino

        def make_protocol() -> Any:
            return PeerProtocol(config=self._config, server_state=self._state, app_state={})

        # Not create_unix_server, which from Python 3.13 on removes sockets that are not its own.
        self._server = await asyncio.get_running_loop().create_server(make_protocol, sock=listener, backlog=_BACKLOG)

    async def stop(self) -> None:
        """Takes no more connections, lets answers under way end, and removes the socket."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_CLOSE_TIMEOUT_S)
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=_CLOSE_TIMEOUT_S)
        for task in list(self._state.tasks):
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
