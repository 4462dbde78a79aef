"""A loopback HTTP server that speaks the two model wires, for the real SDKs to talk to."""

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

HANG = b"<hang>"
CUT = b"<cut>"
GATE = b"<gate>"
PATIENCE_S = 30.0


@dataclass
class Answer:
    """What the server says to one request. A piece may be HANG (wait until the client goes), CUT (break off) or GATE
    (wait until the test lets one pass)."""

    pieces: list[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class WireServer:
    """Answers by the model that is asked for, else in order, the last one again and again; keeps the requests."""

    answers: list[Answer] = field(default_factory=list)
    by_model: dict[str, Answer] = field(default_factory=dict)
    requests: list[Json] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
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
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = json.loads(body) if body else {}
        answer = self.by_model.get(request.get("model", ""))
        if answer is None:
            answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(request)
        self.request_headers.append(headers)
        kind = "text/event-stream" if answer.status == 200 else "application/json"
        sent = {"content-type": kind, "transfer-encoding": "chunked", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} X", *(f"{k}: {v}" for k, v in sent.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        for piece in answer.pieces:
            if piece == HANG:
                await writer.drain()
                self.waiting.set()
                await reader.read()
                self.gone.set()
                return False
            if piece == CUT:
                await writer.drain()
                return False
            if piece == GATE:
                await writer.drain()
                await self.gate.acquire()
                continue
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


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

    def play(self, *answers: Answer, **by_model: Answer) -> None:
        """From now on these, in order or by model (with `_` for `-`); what was is forgotten."""

        async def begin() -> None:
            server = self._server
            server.answers = list(answers)
            server.by_model = {model.replace("_", "-"): answer for model, answer in by_model.items()}
            server.requests.clear()
            server.request_headers.clear()
            server.waiting, server.gone, server.gate = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)

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


def sse(data: Json | str, event: str = "") -> bytes:
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()


def failure(status: int, body: Json | str, **headers: str) -> Answer:
    text = body if isinstance(body, str) else json.dumps(body)
    return Answer([text.encode()], status, {k.replace("_", "-"): v for k, v in headers.items()})


def anthropic_events(*blocks: Json, stop_reason: str = "end_turn", output_tokens: int = 7) -> list[bytes]:
    """A whole stream; a block is {"text"}, {"thinking", "signature"} or {"tool", "json"} with the text in pieces."""
    usage = {"input_tokens": 11, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-test", "content": []}
    events: list[Json] = [
        {"type": "message_start", "message": {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}},
        {"type": "ping"},
    ]
    for index, block in enumerate(blocks):
        if "tool" in block:
            start: Json = {"type": "tool_use", "id": f"toolu_{index}", "name": block["tool"], "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in block["json"]]
        elif "thinking" in block:
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [
                *({"type": "thinking_delta", "thinking": piece} for piece in block["thinking"]),
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        else:
            start = {"type": "text", "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in block["text"]]
        events += [
            {"type": "content_block_start", "index": index, "content_block": start},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]
    events += [
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": output_tokens},
        },
        {"type": "message_stop"},
    ]
    return [sse(event, event["type"]) for event in events]


def openai_chunk(delta: Json, finish_reason: str | None = None, **more: Any) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test"}
    return sse({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], **more})


def openai_usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-test"}
    return sse({**chunk, "choices": [], "usage": usage})


DONE = sse("[DONE]")
