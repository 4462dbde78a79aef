"""The one face of the room: records attempts at model calls, writes them down in a thread of its own, reads them back.

Nothing waits for it: what a full disk, a slow one or an error costs is the artifact, and a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

import msgspec

from kheish.core.contracts import ModelRequest
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.core.prompt import digest_request
from kheish.debug import files
from kheish.debug.redaction import Redactor, credentials_in
from kheish.limits import (
    DEBUG_LOOK_EVERY_MS,
    DEBUG_REQUEST_BYTES_MAX,
    DEBUG_STORE_BYTES_KEPT,
    DEBUG_STORE_BYTES_MAX,
    DEBUG_WAITING_BYTES_MAX,
    DEBUG_WRITE_EVERY_MS,
)
from kheish.runtime.ports import Clock
from kheish.runtime.recording import Exchange, Recording
from kheish.store.disk_space import disk_space
from kheish.wire.debug import (
    DebugArtifact,
    DebugEvent,
    DebugExchange,
    DebugRequest,
    DebugResponse,
    DebugSummary,
    HeaderView,
)
from kheish.wire.runtime import DebugLevel

log = logging.getLogger(__name__)

_EVENT_END = re.compile(rb"\r?\n\r?\n|\r\r")
_CUT_TAIL_BYTES = 4096
"""What is left out before a cut in a response: it may have gone through a secret, whose beginning looks like none."""


class Debugging:
    """Implements `runtime.ports.Recorder`. `root` is made when there is something to keep; `known` gives the values of
    all secrets, may block, and is asked in the thread."""

    def __init__(self, root: Path, clock: Clock, level: DebugLevel, known: Callable[[], Iterable[str]]) -> None:
        self._root = root
        self._clock = clock
        self._level: DebugLevel = level
        self._known = known
        self._thread = ThreadPoolExecutor(1, "kheish-debug")
        self._timers: dict[Recording, asyncio.TimerHandle] = {}
        self._waiting_bytes = 0
        self._pruned_at_ms = 0
        self._unpruned_bytes = 0

    @property
    def level(self) -> DebugLevel:
        return self._level

    def set_level(self, level: DebugLevel) -> None:
        """For the attempts that begin from now on."""
        self._level = level

    def begin(self, request: ModelRequest, route: str) -> Recording | None:
        now_ms = self._clock.now_ms()
        if now_ms - self._pruned_at_ms > DEBUG_LOOK_EVERY_MS:
            self._pruned_at_ms = now_ms
            self._thread.submit(self._prune, now_ms)
        return None if self._level == "off" else Recording(request, route, self._level, now_ms, self._changed)

    def end(self, recording: Recording, outcome: ModelReplied | ModelFailed | None) -> None:
        if timer := self._timers.pop(recording, None):
            timer.cancel()
        recording.end(outcome)
        self._keep(recording)

    def _changed(self, recording: Recording) -> None:
        """What is at work for long is written down now and then, so that a daemon's death leaves something of it."""
        if recording not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[recording] = loop.call_later(DEBUG_WRITE_EVERY_MS / 1000, self._keep_unfinished, recording)

    def _keep_unfinished(self, recording: Recording) -> None:
        del self._timers[recording]
        self._keep(recording)

    def _keep(self, recording: Recording) -> None:
        """Has it written down as it is now."""
        snapshot = copy(recording)
        snapshot.exchanges = [_copy(exchange) for exchange in recording.exchanges]
        size = sum(len(exchange.body) + exchange.kept_bytes for exchange in snapshot.exchanges)
        if self._waiting_bytes and self._waiting_bytes + size > DEBUG_WAITING_BYTES_MAX:
            log.warning("%s: a debug artifact is left out, for the disk does not keep up", recording.request.run_id)
            return
        self._waiting_bytes += size
        writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, snapshot)
        writing.add_done_callback(lambda _: self._written(size))

    def _written(self, size: int) -> None:
        self._waiting_bytes -= size

    def _write(self, recording: Recording) -> None:
        run_id = recording.request.run_id
        try:
            space = disk_space(self._root.parent)
            if space.is_low:
                log.warning("%s: a debug artifact is left out: %s", run_id, space)
            else:
                self._unpruned_bytes += files.write(self._root, artifact_of(recording, self._known()))
                if self._unpruned_bytes > DEBUG_STORE_BYTES_MAX - DEBUG_STORE_BYTES_KEPT:
                    self._prune(recording.began_at_ms)
        except OSError as error:
            log.warning("%s: a debug artifact is left out: %s", run_id, error.strerror)
        except Exception as error:  # its text may hold what must not be said
            log.warning("%s: a debug artifact is left out: %s", run_id, type(error).__name__)

    def _prune(self, now_ms: int) -> None:
        self._unpruned_bytes = 0
        try:
            files.prune(self._root, now_ms)
        except OSError as error:
            log.warning("cannot delete old debug artifacts: %s", error)

    async def list_artifacts(self, session_id: str, run_id: str) -> list[DebugSummary]:
        return await asyncio.to_thread(files.list_artifacts, self._root, session_id, run_id)

    async def read_artifact(self, session_id: str, run_id: str, artifact: str) -> DebugArtifact:
        """Raises NotFound."""
        return await asyncio.to_thread(files.read_artifact, self._root, session_id, run_id, artifact)

    async def close(self) -> None:
        """Everything that was recorded is written down."""
        await asyncio.to_thread(self._thread.shutdown)


def _copy(exchange: Exchange) -> Exchange:
    copied = copy(exchange)
    copied.chunks = exchange.chunks[:]
    copied.response_digest = exchange.response_digest.copy()
    return copied


def artifact_of(recording: Recording, known: Iterable[str]) -> DebugArtifact:
    request, outcome = recording.request, recording.outcome
    exchanges = recording.exchanges or [_without_wire(recording)]
    sent = [value for exchange in exchanges for value in credentials_in(exchange.headers)]
    redactor = Redactor([*known, *sent], has_shapes=recording.level != "full")
    last = exchanges[-1]
    said = redactor.text(outcome.message) if isinstance(outcome, ModelFailed) else ""
    code = outcome.code if isinstance(outcome, ModelFailed) else "replied" if outcome else ""
    return DebugArtifact(
        artifact=request.name,
        session_id=request.session_id,
        run_id=request.run_id,
        model_call_id=request.model_call_id,
        step=request.step,
        attempt=request.attempt,
        route=recording.route,
        model=request.model,
        level=recording.level,
        began_at_ms=recording.began_at_ms,
        duration_ms=recording.ended_ms,
        outcome=code or ("cancelled" if recording.ended_ms else ""),
        message=said,
        status=last.status,
        request_bytes=len(last.body),
        response_bytes=last.response_bytes,
        digests=digest_request(request),
        exchanges=[_exchange(exchange, redactor) for exchange in exchanges],
    )


def _without_wire(recording: Recording) -> Exchange:
    """Of a provider that sends nothing, or has not yet: what it was asked, and what it answered."""
    exchange = Exchange("", "", [], msgspec.json.encode(recording.request), 0)
    if isinstance(recording.outcome, ModelReplied):
        exchange.add(recording.outcome.duration_ms, msgspec.json.encode(recording.outcome.reply))
        exchange.is_complete = True
    return exchange


def _exchange(exchange: Exchange, redactor: Redactor) -> DebugExchange:
    body = redactor.body(exchange.body)
    is_cut = exchange.response_bytes > exchange.kept_bytes
    return DebugExchange(
        request=DebugRequest(
            method=exchange.method,
            url=redactor.url(exchange.url),
            headers=_headers(redactor, exchange.headers),
            sent_ms=exchange.sent_ms,
            bytes=len(exchange.body),
            sha256=sha256(exchange.body).hexdigest(),
            cut=len(body) > DEBUG_REQUEST_BYTES_MAX,
            body=body[:DEBUG_REQUEST_BYTES_MAX],
        ),
        response=DebugResponse(
            status=exchange.status,
            headers=_headers(redactor, exchange.response_headers),
            answered_ms=exchange.answered_ms,
            bytes=exchange.response_bytes,
            sha256=exchange.response_digest.hexdigest(),
            complete=exchange.is_complete,
            cut=is_cut,
            events=[
                DebugEvent(at_ms=at_ms, text=redactor.text(text)) for at_ms, text in split(exchange.chunks, is_cut)
            ],
        ),
    )


def _headers(redactor: Redactor, headers: Iterable[tuple[str, str]]) -> list[HeaderView]:
    return [HeaderView(name=name, value=value) for name, value in redactor.headers(headers)]


def split(chunks: list[tuple[int, bytes]], is_cut: bool = False) -> list[tuple[int, str]]:
    """A stream in its events, each with the time at which its last byte came: a secret may be in two chunks, but not in
    two events."""
    data = b"".join(chunk for _, chunk in chunks)
    came = list(accumulate(len(chunk) for _, chunk in chunks))
    if is_cut:
        data = data[:-_CUT_TAIL_BYTES]
    ends = [match.end() for match in _EVENT_END.finditer(data)]
    if not ends or ends[-1] < len(data):
        ends.append(len(data))
    pieces = zip([0, *ends], ends, strict=False)
    return [
        (chunks[bisect_left(came, end)][0], data[start:end].decode("utf-8", "replace"))
        for start, end in pieces
        if end > start
    ]
