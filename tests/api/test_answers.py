"""How answers leave the daemon, with the real server and an application of a few lines."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from kheish.api.server import Server

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def connection(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connection]:
    path = tmp_path_factory.mktemp("a") / "s"  # short, for the sake of the socket
    server = Server(cast(Any, answer), path)
    await server.start()
    reader, writer = await asyncio.open_unix_connection(path)
    yield reader, writer
    writer.close()
    await server.stop()


async def test_of_what_is_answered_nothing_waits_for_garbage_to_be_collected(connection: Connection) -> None:
    """It would be kept with the body, which may be large."""
    reader, writer = connection
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            writer.write(b"GET / HTTP/1.1\r\nHost: kheish\r\n\r\n")
            await reader.readuntil(b"ok")
        kept = [thing for thing in gc.get_objects() if isinstance(thing, RequestResponseCycle)]
        assert len(kept) == 1, "the last one"
    finally:
        gc.enable()
