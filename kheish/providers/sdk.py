"""Official SDKs, kept off the event loop: loading one takes seconds, and its first events build hundreds of models.

A thread alone does not keep the loop free: both share the interpreter's lock. So while an SDK loads, the loop gets the
lock back after 1 ms instead of 5, and no garbage is collected, since a collection among the 150,000 objects that an SDK
brings holds the lock for 100 ms and more. Afterwards these objects, which live as long as the process, are left out of
all collections. `python -m tests.benchmarks first_use` measures what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import orjson

from kheish.core.contracts import ModelRequest
from kheish.limits import KIB, MODEL_CONNECT_TIMEOUT_MS, MODEL_IDLE_TIMEOUT_MS
from kheish.runtime.recording import at_work

T = TypeVar("T")

_SWITCH_INTERVAL_S = 0.001
_SMALL_MESSAGES, _SMALL_CHARS = 16, 64 * KIB
_loading = threading.Lock()


async def load(make: Callable[[], T]) -> T:
    """Runs in a thread what imports an SDK and makes a client of it."""
    return await asyncio.to_thread(_load, make)


def _load(make: Callable[[], T]) -> T:
    with _loading:
        interval = sys.getswitchinterval()
        collects = gc.isenabled()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        gc.disable()
        try:
            made = make()
            _load_anyio()
            gc.freeze()
            return made
        finally:
            sys.setswitchinterval(interval)
            if collects:
                gc.enable()


def _load_anyio() -> None:
    """SDKs wait through anyio, which loads its half for asyncio when it is first waited with."""
    import anyio

    anyio.run(anyio.sleep, 0)


def timeouts(sdk: Any) -> Any:
    """How long a client of an SDK waits: for a connection, and for the next byte."""
    return sdk.Timeout(MODEL_IDLE_TIMEOUT_MS / 1000, connect=MODEL_CONNECT_TIMEOUT_MS / 1000)


def record(client: Any) -> None:
    """Has a client of an SDK add what goes by to the recording of the attempt at work, where there is one."""
    client._client.event_hooks = {"request": [_note_request], "response": [_note_response]}


async def _note_request(request: Any) -> None:
    if recording := at_work():
        recording.send(request.method, str(request.url), request.headers.multi_items(), request.content)


async def _note_response(response: Any) -> None:
    recording = at_work()
    if recording is None:
        return
    exchange = recording.exchanges[-1]
    exchange.status, exchange.response_headers = response.status_code, response.headers.multi_items()
    exchange.answered_ms = recording.elapsed_ms
    whole = response.aiter_bytes

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async with contextlib.aclosing(whole(chunk_size)) as chunks:
            async for chunk in chunks:
                recording.receive(exchange, chunk)
                yield chunk
        exchange.is_complete = True

    response.aiter_bytes = aiter_bytes


async def write_body(request: ModelRequest, build: Callable[[], dict[str, Any]]) -> bytes:
    """The body of a request that asks for a stream, as JSON; made in a thread, unless it is small. It is posted past
    the methods of an SDK, which look at all that they are given: seconds long, for a long conversation."""

    def write() -> bytes:
        return orjson.dumps({**build(), "stream": True})

    chars = sum(len(message.text) for message in request.messages)
    is_small = len(request.messages) <= _SMALL_MESSAGES and chars <= _SMALL_CHARS and not request.blobs
    return write() if is_small else await asyncio.to_thread(write)


def build_models(base: Any, event: Any, *examples: dict[str, Any]) -> None:
    """Has an SDK build its models of the events of a stream, as it does with the first of them: `event` is the union of
    them, and the examples are one that is whole and some that leave things out, which it reads in other ways."""
    probe: Any = type("Events", (base,), {"__annotations__": {"events": list[event]}, "__module__": __name__})
    probe.construct(events=list(examples))
