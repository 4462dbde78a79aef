"""What one attempt at a model call sends and gets, while it is recorded.

The kernel says which attempt is at work, and the code that moves its bytes, which the attempt reaches through an SDK,
adds to it. Where nothing is recorded there is nothing to add to, and no delta costs more.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kheish.core.contracts import ModelRequest
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.limits import DEBUG_RESPONSE_BYTES_MAX
from kheish.wire.runtime import DebugLevel

Headers = list[tuple[str, str]]


class Exchange:
    """One request over HTTP and what came back. `chunks` are the bytes of the response with the milliseconds, since the
    attempt began, at which they came, up to DEBUG_RESPONSE_BYTES_MAX of them."""

    def __init__(self, method: str, url: str, headers: Headers, body: bytes, sent_ms: int) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.sent_ms = sent_ms
        self.status = 0
        self.response_headers: Headers = []
        self.answered_ms = 0
        self.chunks: list[tuple[int, bytes]] = []
        self.kept_bytes = 0
        self.response_bytes = 0
        self.response_digest = hashlib.sha256()
        self.is_complete = False

    def add(self, at_ms: int, chunk: bytes) -> None:
        self.response_bytes += len(chunk)
        self.response_digest.update(chunk)
        kept = chunk[: DEBUG_RESPONSE_BYTES_MAX - self.kept_bytes]
        if kept:
            self.kept_bytes += len(kept)
            self.chunks.append((at_ms, kept))


class Recording:
    """One attempt. `on_change` hears of each request that goes out and of all that comes."""

    def __init__(
        self,
        request: ModelRequest,
        route: str,
        level: DebugLevel,
        began_at_ms: int,
        on_change: Callable[[Recording], None],
    ) -> None:
        self.request = request
        self.route = route
        self.level = level
        self.began_at_ms = began_at_ms
        self.exchanges: list[Exchange] = []
        self.outcome: ModelReplied | ModelFailed | None = None
        self.ended_ms = 0
        self._began_s = time.monotonic()
        self._on_change = on_change

    @property
    def elapsed_ms(self) -> int:
        """At least 1: 0 means that it did not happen."""
        return max(1, round((time.monotonic() - self._began_s) * 1000))

    def send(self, method: str, url: str, headers: Headers, body: bytes) -> Exchange:
        exchange = Exchange(method, url, headers, body, self.elapsed_ms)
        self.exchanges.append(exchange)
        self._on_change(self)
        return exchange

    def receive(self, exchange: Exchange, chunk: bytes) -> None:
        exchange.add(self.elapsed_ms, chunk)
        self._on_change(self)

    def end(self, outcome: ModelReplied | ModelFailed | None) -> None:
        """None: it was cancelled."""
        self.outcome = outcome
        self.ended_ms = self.elapsed_ms
        if self.exchanges and isinstance(outcome, ModelReplied):
            self.exchanges[-1].is_complete = True  # some SDKs leave what follows the last event


_AT_WORK: ContextVar[Recording | None] = ContextVar("recording", default=None)


def at_work() -> Recording | None:
    """The recording of the attempt that this task makes; None where it is not recorded."""
    return _AT_WORK.get()


@contextmanager
def recording_of(recording: Recording) -> Iterator[None]:
    token = _AT_WORK.set(recording)
    try:
        yield
    finally:
        _AT_WORK.reset(token)
