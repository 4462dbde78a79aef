"""Performs `CallModel`: streams a reply, publishes deltas, reports the outcome."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

import msgspec
import orjson
from msgspec.structs import replace

from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply, TextDelta
from kheish.core.effects import CallModel
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.core.prompt import choose_shown
from kheish.errors import KheishError, ProviderError
from kheish.limits import DELTA_COALESCE_MS
from kheish.runtime.hub import Frame, Hub
from kheish.runtime.ports import Providers
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer


class DeltaPublisher:
    """Joins deltas of one kind that come within DELTA_COALESCE_MS, so that a fast model does not flood readers."""

    def __init__(self, hub: Hub, session_id: str, run_id: str, **fields: str) -> None:
        self._hub = hub
        self._session_id = session_id
        self._run_ids = frozenset((run_id,))
        self._fields = {"session_id": session_id, "run_id": run_id, **fields}
        self._kind = ""
        self._parts: list[str] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, kind: str, text: str) -> None:
        if not self._hub.has_listeners(self._session_id):
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
            self.send(self._kind, text="".join(self._parts))
            self._parts.clear()

    def send(self, kind: str, **fields: str) -> None:
        data = orjson.dumps({**self._fields, "kind": kind, **fields})
        self._hub.publish(Frame(event="delta", session_id=self._session_id, data=data, run_ids=self._run_ids))


async def add_blobs(request: ModelRequest, blobs: Blobs, committer: Committer) -> ModelRequest:
    """The request with the bytes of the attachments that may be shown. One that cannot be read is only named."""
    chosen = choose_shown(request.messages)

    def read() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for attachment in chosen:
            with contextlib.suppress(KheishError, OSError):
                found[attachment.blob] = blobs.read(attachment.blob, limit=attachment.bytes)
        return found

    return replace(request, blobs=await committer.run(read)) if chosen else request


async def call_model(
    effect: CallModel,
    request: ModelRequest,
    route: str,
    *,
    providers: Providers,
    hub: Hub,
    blobs: Blobs,
    committer: Committer,
) -> ModelReplied | ModelFailed:
    """One attempt. Only cancellation escapes; everything else is an outcome."""
    deltas = DeltaPublisher(hub, request.session_id, effect.run_id, model_call_id=effect.model_call_id)
    try:
        provider = await providers.open(route)
        request = await add_blobs(request, blobs, committer)
        async with contextlib.aclosing(provider.stream(request)) as stream:  # type: ignore[type-var]
            async for item in stream:
                if isinstance(item, Reply):
                    return ModelReplied(
                        run_id=effect.run_id,
                        model_call_id=effect.model_call_id,
                        attempt=effect.attempt,
                        reply=_checked(item),
                    )
                _publish(deltas, item)
        return _failed(effect, "connection", "the stream ended before the reply was complete", None)
    except ProviderError as error:
        return _failed(effect, error.code, error.message, error.retry_after_ms)
    except Exception as error:
        return _failed(effect, "invalid", f"{type(error).__name__} in the provider {route}", None)
    finally:
        deltas.flush()


def _checked(reply: Reply) -> Reply:
    """A reply that has the types of one: SDKs pass on whatever a server sends. What no record can hold is for the
    core to refuse. Raises ProviderError."""
    try:
        return msgspec.convert(msgspec.to_builtins(reply), Reply)
    except msgspec.ValidationError as error:
        raise ProviderError(f"the provider sent what cannot be read: {error}", code="server_error") from error
    except (TypeError, RecursionError):
        return reply


def _publish(deltas: DeltaPublisher, item: Delta) -> None:
    if isinstance(item, TextDelta):
        deltas.add("text", item.text)
    elif isinstance(item, ReasoningDelta):
        deltas.add("reasoning", item.text)
    else:
        deltas.flush()
        deltas.send("tool_call", tool=item.tool)


def _failed(effect: CallModel, code: str, message: str, retry_after_ms: int | None) -> ModelFailed:
    jitter: Callable[[], float] = random.random
    return ModelFailed(
        run_id=effect.run_id,
        model_call_id=effect.model_call_id,
        attempt=effect.attempt,
        code=code,
        message=message,
        retry_after_ms=retry_after_ms,
        jitter=jitter(),
    )
