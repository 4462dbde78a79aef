"""Carries requests over the daemon's socket: one connection a request, blocking or with asyncio."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from kheish.client.errors import DaemonUnreachable, api_error
from kheish.client.http1 import ProtocolError, Request, Response

READ_BYTES = 65536
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 120.0
STREAM_TIMEOUT_S = 45.0
"""Three heartbeats: a stream that is silent for longer is dead."""


def unreachable(path: Path, error: Exception) -> DaemonUnreachable:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DaemonUnreachable(
        f"cannot reach the daemon at {path}: {reason}; see `kheish doctor`",
        is_absent=isinstance(error, FileNotFoundError | ConnectionRefusedError),
    )


def decode(response: Response, body: bytes) -> Any:
    """The JSON of an answer. Raises ApiError for a problem."""
    if response.status >= 400:
        raise api_error(response.status, body)
    if response.headers.get("content-type", "").startswith("application/json"):
        return json.loads(body)
    return body


class Transport:
    """`origin` tells the daemon what kind of client this is; it is journaled with each command."""

    def __init__(self, path: Path, origin: str) -> None:
        self.path = path
        self.origin = origin

    # -- blocking ------------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float = CONNECT_TIMEOUT_S) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(os.fspath(self.path))
        except OSError as error:
            connection.close()
            raise unreachable(self.path, error) from error
        return connection

    def send(self, request: Request, timeout_s: float = READ_TIMEOUT_S) -> Any:
        """Raises ApiError or DaemonUnreachable."""
        response = Response()
        parts: list[bytes] = []
        with self.connect() as connection:
            try:
                connection.settimeout(timeout_s)
                connection.sendall(request.encode(self.origin))
                while not response.is_complete:
                    data = connection.recv(READ_BYTES)
                    if not data:
                        response.end()
                        break
                    parts += response.feed(data)
            except (OSError, ProtocolError) as error:
                raise unreachable(self.path, error) from error
        return decode(response, b"".join(parts))

    def stream(self, request: Request, timeout_s: float = STREAM_TIMEOUT_S) -> Iterator[bytes]:
        """The body as it comes; ends when the daemon ends it. Raises ApiError or DaemonUnreachable."""
        response = Response()
        with self.connect() as connection:
            try:
                connection.settimeout(timeout_s)
                connection.sendall(request.encode(self.origin))
                while not response.is_complete:
                    data = connection.recv(READ_BYTES)
                    if not data:
                        response.end()
                        break
                    for part in response.feed(data):
                        if response.status >= 400:
                            raise api_error(response.status, part)
                        yield part
            except (OSError, ProtocolError) as error:
                raise unreachable(self.path, error) from error

    # -- asyncio -------------------------------------------------------------------------------------------------

    async def send_async(self, request: Request, timeout_s: float = READ_TIMEOUT_S) -> Any:
        import asyncio

        response, parts = Response(), []
        try:
            async with asyncio.timeout(timeout_s):
                async for part in self._exchange(request, response):
                    parts.append(part)
        except TimeoutError as error:
            raise unreachable(self.path, error) from error
        return decode(response, b"".join(parts))

    async def stream_async(self, request: Request) -> AsyncIterator[bytes]:
        response = Response()
        async for part in self._exchange(request, response, STREAM_TIMEOUT_S):
            if response.status >= 400:
                raise api_error(response.status, part)
            yield part

    async def _exchange(
        self, request: Request, response: Response, silence_s: float | None = None
    ) -> AsyncIterator[bytes]:
        import asyncio
        import contextlib

        try:
            reader, writer = await asyncio.open_unix_connection(os.fspath(self.path))
        except OSError as error:
            raise unreachable(self.path, error) from error
        try:
            writer.write(request.encode(self.origin))
            while not response.is_complete:
                async with asyncio.timeout(silence_s):
                    data = await reader.read(READ_BYTES)
                if not data:
                    response.end()
                    break
                for part in response.feed(data):
                    yield part
        except (OSError, TimeoutError, ProtocolError) as error:
            raise unreachable(self.path, error) from error
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
