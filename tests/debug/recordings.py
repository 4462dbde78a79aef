"""Attempts at model calls as they are recorded, made by hand."""

from __future__ import annotations

from pathlib import Path

from kheish.core.contracts import ModelRequest
from kheish.debug.service import Debugging
from kheish.runtime.recording import Recording
from kheish.wire.debug import DebugLevel
from tests.providers.requests import make_request

HEADERS = [("authorization", "Bearer the-key-of-the-call"), ("content-type", "application/json")]


class Clock:
    def __init__(self, at_ms: int) -> None:
        self.at_ms = at_ms

    def now_ms(self) -> int:
        return self.at_ms


def make_debugging(
    root: Path, level: DebugLevel = "redacted", known: tuple[str, ...] = (), at_ms: int = 1_800_000_000_000
) -> Debugging:
    return Debugging(root / "debug", Clock(at_ms), level, lambda: known)


def begin(debugging: Debugging, body: bytes = b"{}", **request: object) -> Recording:
    recording = debugging.begin(step(**request), "route")
    assert recording is not None
    recording.send("POST", "https://api.example.com/v1/messages", HEADERS, body)
    return recording


def step(number: int = 1, attempt: int = 1, **changes: object) -> ModelRequest:
    return make_request(step=number, attempt=attempt, **changes)


def receive(recording: Recording, *chunks: bytes, status: int = 200, is_complete: bool = True) -> None:
    exchange = recording.exchanges[-1]
    exchange.status, exchange.answered_ms = status, recording.elapsed_ms
    for chunk in chunks:
        recording.receive(exchange, chunk)
    exchange.is_complete = is_complete
