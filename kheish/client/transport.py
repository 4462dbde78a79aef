"""Carries requests over the daemon's socket: one connection a request, blocking or with asyncio."""

from __future__ import annotations

import _socket  # what `socket` wraps in enums, selectors and files, which take longer to load than a request takes
import json
import os
import sys
import time

from kheish.client.errors import DaemonUnreachable, api_error
from kheish.client.http1 import ProtocolError, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from typing import Any

READ_BYTES = 65536
CONNECT_TIMEOUT_S, BUSY_S = 5.0, 0.01
STREAM_TIMEOUT_S = 45.0
"""Three heartbeats: a stream that is silent for longer is dead."""


def unreachable(path: str, error: Exception) -> DaemonUnreachable:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DaemonUnreachable(
        f"cannot reach the daemon at {path}: {reason}; see `kheish doctor`",
        is_absent=isinstance(error, FileNotFoundError | ConnectionRefusedError),
        is_broken=isinstance(error, BrokenPipeError | ConnectionResetError | ProtocolError),
    )


def _until(timeout_s: float | None, deadline_s: float | None) -> float | None:
    """How long to wait for the next bytes; a little where the deadline is over."""
    if timeout_s is None or deadline_s is None:
        return timeout_s
    return min(timeout_s, max(0.001, deadline_s - time.monotonic()))


def _uid_of_peer(connection: _socket.socket) -> int:
    """Who listens: at a path that anybody could have taken, such as below /tmp, that need not be the daemon."""
    if sys.platform == "darwin":
        credentials = connection.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED: version, uid, ...
    else:
        credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)  # pid, uid, gid
    return int.from_bytes(credentials[4:8], sys.byteorder)


class Transport:
    """`origin` tells the daemon what kind of client this is; it is journaled with each command."""

    def __init__(self, path: str | os.PathLike[str], origin: str) -> None:
        self.path = os.fspath(path)
        self.origin = origin

    def _decode(self, response: Response, body: bytes) -> Any:
        """The JSON of an answer, or its bytes. Raises ApiError for a problem."""
        if response.status >= 400:
            raise api_error(response.status, body)
        if not response.headers.get("content-type", "").startswith("application/json"):
            return body
        try:
            return json.loads(body)
        except ValueError as error:
            raise unreachable(self.path, ProtocolError("the answer is no JSON")) from error

    # -- blocking ------------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> _socket.socket:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        deadline = time.monotonic() + timeout_s
        while not self._try_connect(connection, deadline):
            time.sleep(BUSY_S)
        connection.settimeout(timeout_s)
        return connection

    def _try_connect(self, connection: _socket.socket, deadline: float) -> bool:
        """False where the daemon's backlog is full, which does not mean that there is no daemon."""
        connection.setblocking(False)
        try:
            connection.connect(self.path)
        except OSError as error:
            if isinstance(error, BlockingIOError) and time.monotonic() < deadline:
                return False
            connection.close()
            raise unreachable(self.path, error) from error
        if (uid := _uid_of_peer(connection)) not in (os.getuid(), 0):
            connection.close()
            raise DaemonUnreachable(
                f"cannot use the daemon at {self.path}: it is uid {uid}'s, who would read what it is told; set "
                "KHEISH_SOCKET to a path in a directory of your own"
            )
        return True

    def send(self, request: Request) -> Any:
        """Raises ApiError or DaemonUnreachable."""
        response = Response()
        return self._decode(response, b"".join(self._exchange(request, response, request.timeout_s)))

    def stream(self, request: Request, deadline_s: float | None = None) -> Generator[bytes, None, None]:
        """The body as it comes; ends when the daemon ends it. Raises ApiError or DaemonUnreachable, that also where
        nothing comes until a deadline of the monotonic clock."""
        response, problem = Response(), b""
        parts = self._exchange(request, response, STREAM_TIMEOUT_S, deadline_s)
        try:
            for part in parts:
                if response.status < 400:
                    yield part
                else:
                    problem += part
        finally:
            parts.close()
        if response.status >= 400:
            raise api_error(response.status, problem)

    def _exchange(
        self, request: Request, response: Response, timeout_s: float | None, deadline_s: float | None = None
    ) -> Generator[bytes, None, None]:
        data = request.encode(self.origin)
        connection = self.connect()
        try:
            connection.settimeout(_until(timeout_s, deadline_s))
            try:
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a daemon that hangs up before it has read everything has answered why
            while not response.is_complete:
                connection.settimeout(_until(timeout_s, deadline_s))
                data = connection.recv(READ_BYTES)
                if not data:
                    response.end()
                    break
                yield from response.feed(data)
        except (OSError, ProtocolError) as error:
            raise unreachable(self.path, error) from error
        finally:
            connection.close()

    # -- asyncio -------------------------------------------------------------------------------------------------

    async def send_async(self, request: Request) -> Any:
        response = Response()
        parts = [part async for part in self._exchange_async(request, response, request.timeout_s)]
        return self._decode(response, b"".join(parts))

    async def stream_async(self, request: Request, deadline_s: float | None = None) -> AsyncGenerator[bytes, None]:
        import contextlib

        response, problem = Response(), b""
        async with contextlib.aclosing(self._exchange_async(request, response, STREAM_TIMEOUT_S, deadline_s)) as parts:
            async for part in parts:
                if response.status < 400:
                    yield part
                else:
                    problem += part
        if response.status >= 400:
            raise api_error(response.status, problem)

    async def _exchange_async(
        self, request: Request, response: Response, timeout_s: float | None, deadline_s: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        import asyncio
        import contextlib
        import socket

        data = request.encode(self.origin)
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while not self._try_connect(connection, deadline):  # noqa: ASYNC110 - nobody tells when there is room
                await asyncio.sleep(BUSY_S)
            try:
                async with asyncio.timeout(_until(timeout_s, deadline_s)):
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        await loop.sock_sendall(connection, data)
                while not response.is_complete:
                    async with asyncio.timeout(_until(timeout_s, deadline_s)):
                        data = await loop.sock_recv(connection, READ_BYTES)
                    if not data:
                        response.end()
                        break
                    for part in response.feed(data):
                        yield part
            except (OSError, ProtocolError) as error:
                raise unreachable(self.path, error) from error
