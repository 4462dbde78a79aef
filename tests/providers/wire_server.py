"""A loopback HTTP server that says what a test tells it to, for the real SDKs to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

HEAD = b"<head>"
HANG = b"<hang>"
CUT = b"<cut>"
GATE = b"<gate>"
PATIENCE_S = 30.0


@dataclass
class Answer:
    """What the server says to one request. A piece may be HEAD (the status and headers go out, if they have not with a
    piece before), HANG (wait until the client goes), CUT (break off) or GATE (wait until the test lets one pass).
    `split`: pieces go out in chunks of so many bytes; `pace_s` is the pause after each piece. Where the body is not
    `framed`, its end is that of the connection, so that a cut looks like an end."""

    pieces: list[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    split: int = 0
    pace_s: float = 0.0
    framed: bool = True

    def head(self) -> bytes:
        kind = "text/event-stream" if self.status == 200 else "application/json"
        framing = {"transfer-encoding": "chunked"} if self.framed else {"connection": "close"}
        sent = {"content-type": kind, **framing, **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{k}: {v}" for k, v in sent.items())]
        return "\r\n".join([*lines, "", ""]).encode()

    def chunks(self, piece: bytes) -> Iterator[bytes]:
        step = self.split or len(piece) or 1
        for start in range(0, len(piece), step):
            part = piece[start : start + step]
            yield b"%x\r\n%s\r\n" % (len(part), part) if self.framed else part


@dataclass
class WireServer:
    """Answers by the model that is asked for, else in order, the last one again and again; keeps the requests."""

    answers: list[Answer] = field(default_factory=list)
    by_model: dict[str, Answer] = field(default_factory=dict)
    requests: list[Json] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    url: str = ""
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[WireServer]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in list(self._connections):
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    def play(self, *answers: Answer, **by_model: Answer) -> None:
        """From now on these, in order or by model (with `_` for `-`); what was is forgotten."""
        self.answers = list(answers)
        self.by_model = {model.replace("_", "-"): answer for model, answer in by_model.items()}
        self.requests.clear()
        self.request_headers.clear()
        self.paths.clear()
        self.waiting, self.gone, self.gate = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

    async def until_asked(self, count: int) -> None:
        """Until so many requests are here."""
        while len(self.requests) < count:
            self.arrived.clear()
            await self.arrived.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether there may be another on this connection."""
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = json.loads(body) if body else {}
        answer = self.by_model.get(request.get("model", ""))
        if answer is None:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.request_headers.append(headers)
        self.paths.append(line.split(" ")[1])
        self.arrived.set()
        head = answer.head()
        for piece in answer.pieces:
            match piece:
                case b"<hang>":
                    await writer.drain()
                    self.waiting.set()
                    await reader.read()
                    self.gone.set()
                    return False
                case b"<cut>":
                    await writer.drain()
                    return False
                case b"<gate>":
                    await writer.drain()
                    await self.gate.acquire()
                case b"<head>":
                    writer.write(head)
                    head = b""
                case _:
                    writer.write(head + b"".join(answer.chunks(piece)))
                    head = b""
                    if answer.pace_s:
                        await asyncio.sleep(answer.pace_s)
        writer.write(head + (b"0\r\n\r\n" if answer.framed else b""))
        await writer.drain()
        return answer.framed


class BlockingWireServer:
    """A server in a thread of its own, for tests that block."""

    def __init__(self, server: WireServer, loop: asyncio.AbstractEventLoop) -> None:
        self.url = server.url
        self._server = server
        self._loop = loop

    @property
    def requests(self) -> list[Json]:
        return list(self._server.requests)

    @property
    def request_headers(self) -> list[dict[str, str]]:
        return list(self._server.request_headers)

    @property
    def paths(self) -> list[str]:
        return list(self._server.paths)

    def play(self, *answers: Answer, **by_model: Answer) -> None:
        async def begin() -> None:
            self._server.play(*answers, **by_model)

        self._run(begin())

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self._server.gate.release)

    def wait_until_hanging(self) -> None:
        self._run(self._server.waiting.wait())

    def wait_until_gone(self) -> None:
        """The client of the request that hangs closed its connection."""
        self._run(self._server.gone.wait())

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


@contextlib.contextmanager
def serving() -> Iterator[BlockingWireServer]:
    ready: Future[BlockingWireServer] = Future()
    stop = asyncio.Event()

    async def serve() -> None:
        async with WireServer().running() as server:
            ready.set_result(BlockingWireServer(server, asyncio.get_running_loop()))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    server = ready.result(PATIENCE_S)
    try:
        yield server
    finally:
        server._loop.call_soon_threadsafe(stop.set)
        thread.join()


def sse(data: Any, event: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def failure(status: int, body: Any, **headers: str) -> Answer:
    """An answer that is an error; headers are written with `_` for `-`."""
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer([text.encode()], status, {k.replace("_", "-"): v for k, v in headers.items()})
