"""Tries a route: with its key alone, or with the smallest real call of a model."""

from __future__ import annotations

import asyncio
import contextlib
import time

from kheish.core.contracts import ModelRequest, Reply
from kheish.core.events import UserMessage
from kheish.errors import ProviderError
from kheish.limits import CANARY_OUTPUT_TOKENS_MAX, CANARY_TIMEOUT_MS
from kheish.runtime.ports import Probe, Provider
from kheish.wire.routes import TestKind


async def probe(provider: Provider, model: str, kind: TestKind) -> Probe:
    """What came of it; every failure is an answer."""
    began_s = time.monotonic()
    code = problem = ""
    try:
        async with asyncio.timeout(CANARY_TIMEOUT_MS / 1000):
            await (provider.check_key() if kind == "auth" else _call(provider, model))
    except ProviderError as error:
        code, problem = error.code, error.message
    except TimeoutError:
        code, problem = "timeout", f"no whole answer within {CANARY_TIMEOUT_MS // 1000} s"
    latency_ms = max(1, round((time.monotonic() - began_s) * 1000))
    return Probe(model=model, code=code, problem=problem, latency_ms=latency_ms)


async def _call(provider: Provider, model: str) -> None:
    request = ModelRequest(
        session_id="canary",
        run_id="canary",
        model_call_id="canary",
        attempt=1,
        ordinal=0,
        step=1,
        model=model,
        system="This is a test of the connection.",
        messages=(UserMessage(text="Answer with: ok"),),
        tools=(),
        output_tokens_max=CANARY_OUTPUT_TOKENS_MAX,
    )
    async with contextlib.aclosing(provider.stream(request)) as stream:  # type: ignore[type-var]
        async for item in stream:
            if isinstance(item, Reply):
                return
    raise ProviderError("the stream ended before the reply was complete", code="connection")
