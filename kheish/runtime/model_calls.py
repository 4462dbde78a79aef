"""Performs `CallModel`: streams a reply, publishes deltas, reports the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec
import orjson
from msgspec.structs import replace

from kheish.core.contracts import ModelRequest, ReasoningDelta, Reply, TextDelta, ToolCallDelta, UsageDelta
from kheish.core.effects import CallModel
from kheish.core.events import NO_USAGE, Attachment
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.core.prompt import choose_shown
from kheish.errors import KheishError, ProviderError
from kheish.limits import DELTA_COALESCE_MS, MODEL_REPLY_BYTES_MAX, SHORTAGE_LOOK_EVERY_MS
from kheish.runtime.hub import Frame, Hub
from kheish.runtime.ports import Providers, Recorder
from kheish.runtime.recording import recording_of
from kheish.store.atomic import is_shortage
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer

log = logging.getLogger(__name__)

T = TypeVar("T")

_draw: Callable[[], float] = random.random


class DeltaPublisher:
    """Joins deltas of one kind that come within DELTA_COALESCE_MS, so that a fast model does not flood readers, and
    keeps what was said for who comes later. To be closed."""

    def __init__(self, hub: Hub, session_id: str, run_id: str, *, chars_max: int, **fields: str) -> None:
        self._hub = hub
        self._session_id = session_id
        self._run_ids = frozenset((run_id,))
        self._fields = {"session_id": session_id, "run_id": run_id, **fields}
        self._said: dict[str, io.StringIO] = {}
        self._chars_max = chars_max
        self._kind = ""
        self._parts: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        hub.start_speaking(session_id, self)

    @property
    def run_id(self) -> str:
        return self._fields["run_id"]

    def add(self, kind: str, text: str) -> None:
        if not self._hub.has_listeners(self._session_id):
            self.flush()
            self._keep(kind, text)
            return
        if kind != self._kind:
            self.flush()
            self._kind = kind
        self._parts.append(text)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELTA_COALESCE_MS / 1000, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            self._keep(self._kind, text)
            self.send(self._kind, text=text)

    def _keep(self, kind: str, text: str) -> None:
        """All of it, and where that is too much its end: half as much, so that it is moved seldom."""
        if (said := self._said.get(kind)) is None:
            said = self._said[kind] = io.StringIO()
        said.write(text)
        if said.tell() > self._chars_max:
            self._said[kind] = kept = io.StringIO()
            kept.write(said.getvalue()[-self._chars_max // 2 :])

    def said(self) -> list[bytes]:
        """A delta of each kind with what is kept of all that was said up to now."""
        self.flush()
        return [
            orjson.dumps({**self._fields, "kind": kind, "text": said.getvalue(), "so_far": True})
            for kind, said in self._said.items()
        ]

    def close(self) -> None:
        self.flush()
        self._hub.stop_speaking(self._session_id, self)

    def send(self, kind: str, **fields: str) -> None:
        if not self._hub.has_listeners(self._session_id):
            return
        data = orjson.dumps({**self._fields, "kind": kind, **fields})
        self._hub.publish(Frame(event="delta", session_id=self._session_id, data=data, run_ids=self._run_ids))


async def when_possible(session_id: str, work: Callable[[], Awaitable[T]]) -> T:
    """What the work gives. Where this process lacks descriptors or memory it is done once there are some: nothing is to
    fail for that."""
    is_told = False
    while True:
        try:
            return await work()
        except (KheishError, OSError) as error:
            if not _is_of_shortage(error):
                raise
            if not is_told:
                log.warning("session %s: a model call has to wait: %s", session_id, error)
                is_told = True
        await asyncio.sleep(SHORTAGE_LOOK_EVERY_MS / 1000)


def _is_of_shortage(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and is_shortage(error):
            return True
        error = error.__cause__
    return False


async def read_blobs(chosen: Sequence[Attachment], blobs: Blobs, committer: Committer) -> dict[str, bytes]:
    """Their bytes, by sha256. One that cannot be read is only named to the model. Raises OSError for want of
    descriptors or memory."""

    def read() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for attachment in chosen:
            try:
                found[attachment.blob] = blobs.read(attachment.blob, limit=attachment.bytes)
            except KheishError:
                continue
            except OSError as error:
                if is_shortage(error):
                    raise
        return found

    return await committer.run(read)


async def call_model(
    effect: CallModel,
    request: ModelRequest,
    route: str,
    attached: Sequence[Attachment] = (),
    *,
    providers: Providers,
    hub: Hub,
    blobs: Blobs,
    committer: Committer,
    recorder: Recorder | None = None,
) -> ModelReplied | ModelFailed:
    """One attempt, with what is attached to the messages. Only cancellation escapes; everything else is an outcome."""
    attempt = _call(effect, request, route, attached, providers=providers, hub=hub, blobs=blobs, committer=committer)
    recording = recorder.begin(request, route) if recorder else None
    if recorder is None or recording is None:
        return await attempt
    outcome = None
    try:
        with recording_of(recording):
            outcome = await attempt
        return outcome
    finally:
        recorder.end(recording, outcome)


async def _call(
    effect: CallModel,
    request: ModelRequest,
    route: str,
    attached: Sequence[Attachment],
    *,
    providers: Providers,
    hub: Hub,
    blobs: Blobs,
    committer: Committer,
) -> ModelReplied | ModelFailed:
    deltas = DeltaPublisher(
        hub,
        request.session_id,
        effect.run_id,
        chars_max=MODEL_REPLY_BYTES_MAX,
        model_call_id=effect.model_call_id,
    )
    began_s = time.monotonic()
    first_ms = chars = 0
    has_output = False
    usage = NO_USAGE

    def failed(code: str, message: str, retry_after_ms: int | None = None, request_id: str = "") -> ModelFailed:
        return ModelFailed(
            run_id=effect.run_id,
            model_call_id=effect.model_call_id,
            attempt=effect.attempt,
            code=code,
            message=message,
            retry_after_ms=retry_after_ms,
            jitter=_draw(),
            has_output=has_output,
            request_id=request_id,
            duration_ms=_ms_since(began_s),
            usage=usage,
        )

    try:
        provider = await when_possible(request.session_id, lambda: providers.open(route))
        if chosen := choose_shown(attached):
            read = partial(read_blobs, chosen, blobs, committer)
            request = replace(request, blobs=await when_possible(request.session_id, read))
        began_s = time.monotonic()
        async with contextlib.aclosing(provider.stream(request)) as stream:  # type: ignore[type-var]
            async for item in stream:
                if isinstance(item, UsageDelta):
                    usage = item.usage
                    continue
                first_ms = first_ms or _ms_since(began_s)
                if isinstance(item, Reply):
                    return ModelReplied(
                        run_id=effect.run_id,
                        model_call_id=effect.model_call_id,
                        attempt=effect.attempt,
                        reply=_checked(item),
                        first_ms=first_ms,
                        duration_ms=_ms_since(began_s),
                    )
                if not isinstance(item, ToolCallDelta):
                    chars += len(item.text)
                    if chars > MODEL_REPLY_BYTES_MAX:  # some servers know no limit, and some models no end
                        return failed("invalid_reply", f"the reply has over {MODEL_REPLY_BYTES_MAX} characters")
                if request.purpose == "reply":
                    has_output = True
                    _publish(deltas, item)
        return failed("connection", "the stream ended before the reply was complete")
    except ProviderError as error:
        return failed(error.code, error.message, error.retry_after_ms, error.request_id)
    except Exception as error:
        return failed("invalid", f"{type(error).__name__} in the provider {route}")
    finally:
        deltas.close()


def _ms_since(began_s: float) -> int:
    """At least 1: 0 means that it did not happen."""
    return max(1, round((time.monotonic() - began_s) * 1000))


def _checked(reply: Reply) -> Reply:
    """A reply that has the types of one: SDKs pass on whatever a server sends. What no record can hold is for the
    core to refuse. Raises ProviderError."""
    try:
        return msgspec.convert(msgspec.to_builtins(reply), Reply)
    except msgspec.ValidationError as error:
        raise ProviderError(f"the provider sent what cannot be read: {error}", code="server_error") from error
    except (TypeError, RecursionError):
        return reply


def _publish(deltas: DeltaPublisher, item: TextDelta | ReasoningDelta | ToolCallDelta) -> None:
    if isinstance(item, TextDelta):
        deltas.add("text", item.text)
    elif isinstance(item, ReasoningDelta):
        deltas.add("reasoning", item.text)
    else:
        deltas.flush()
        deltas.send("tool_call", tool=item.tool)
