"""A loopback HTTP server that speaks the two model wires, for the real SDKs to talk to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

HANG = b"<hang>"
CUT = b"<cut>"


@dataclass
class Answer:
    """What the server says to one request. A piece may be HANG (wait until the client goes) or CUT (break off)."""

    pieces: list[bytes]
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class WireServer:
    """Answers in order, the last one again and again; keeps the requests."""

    answers: list[Answer] = field(default_factory=list)
    requests: list[Json] = field(default_factory=list)
    request_headers: list[dict[str, str]] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
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
        answer = self.answers[min(len(self.requests), len(self.answers) - 1)]
        self.requests.append(json.loads(body) if body else {})
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
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


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
