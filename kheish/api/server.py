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
from kheish.api.problems import CONTENT_TYPE, HeadTooLarge, Malformed, problem_of
from kheish.errors import Forbidden, KheishError
from kheish.limits import CONNECTIONS_MAX, KIB

_BACKLOG = 256
_KEEP_ALIVE_S = 60
_CLOSE_TIMEOUT_S = 2.0
_HEAD_BYTES_MAX = 64 * KIB


class PeerProtocol(HttpToolsProtocol):
    """Notes who connected, so that the application can tell a user from a run, and bounds the head of a request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._peer = peer_of(transport.get_extra_info("socket"))
        self._is_crowded = len(self.connections) > CONNECTIONS_MAX
        self._in_head = self._head_goes_on = False
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_goes_on = self._in_head
        super().data_received(data)
        if self._head_goes_on and self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES_MAX:
                self._refuse(HeadTooLarge(f"cannot read the request: its head is over {_HEAD_BYTES_MAX} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope = cast(dict[str, Any], self.scope)
        scope[PEER], scope[IS_CROWDED] = self._peer, self._is_crowded
        self._in_head, self._head_goes_on, self._head_bytes = True, False, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(Malformed("cannot read the request: it is not HTTP/1.1"))

    def _refuse(self, error: KheishError) -> None:
        """Answers what never became a request, and hangs up."""
        status, data = problem_of(error)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nconnection: close\r\ncontent-length: {len(data)}\r\n"
        self.transport.write(head.encode() + b"content-type: " + CONTENT_TYPE + b"\r\n\r\n" + data)
        self.transport.close()


def bind(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600 in a directory of 0700 that is ours. The caller holds the daemon's
    lock, so whatever has this name now is left over from a dead one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.lstat(path.parent)
    if not stat.S_ISDIR(directory.st_mode) or directory.st_uid != os.getuid():
        raise Forbidden(f"cannot use {path.parent}: it is not a directory of uid {os.getuid()}")
    if directory.st_mode & 0o077:
        os.chmod(path.parent, 0o700)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
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


class Server:
    """`listener`: a socket at `path` that somebody else made, and keeps."""

    def __init__(self, app: App, path: Path, listener: socket.socket | None = None) -> None:
        self._config = Config(
            app,
            http=PeerProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
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
        for task in list(self._state.tasks):
            task.cancel()
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == self._inode:
                os.unlink(self._path)
