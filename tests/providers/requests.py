"""Requests, and the reading of a provider's stream."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.core.contracts import Delta, ModelRequest, Reply, ToolDefinition, UsageDelta
from kheish.core.events import Message, ToolRequest, UserMessage
from kheish.core.model_calls import FAILURES
from kheish.errors import ProviderError
from kheish.runtime.ports import Provider


def make_request(*messages: Message, **changes: Any) -> ModelRequest:
    values: dict[str, Any] = {
        "session_id": "s",
        "run_id": "run_1",
        "model_call_id": "modelcall_1",
        "attempt": 1,
        "ordinal": 0,
        "step": 1,
        "model": "some-model",
        "system": "You are a test.",
        "messages": messages or (UserMessage(text="hello"),),
        "tools": (ToolDefinition(name="bash", description="Runs.", input_schema={"type": "object"}),),
        "output_tokens_max": 512,
    }
    return ModelRequest(**{**values, **changes})


def make_call(number: int = 1, **arguments: Any) -> ToolRequest:
    """A tool call of the transcript, which has another id than the provider gave it."""
    return ToolRequest(
        tool_call_id=f"toolcall_{number}", provider_id=f"call_{number}", tool="bash", arguments=arguments
    )


async def read(provider: Provider, request: ModelRequest | None = None) -> tuple[list[Delta], Reply]:
    """The deltas that followers see and the reply; fails where anything follows the reply."""
    deltas: list[Delta] = []
    replies: list[Reply] = []
    async for item in provider.stream(request or make_request()):
        assert not replies
        if isinstance(item, Reply):
            replies.append(item)
        elif not isinstance(item, UsageDelta):
            deltas.append(item)
    (reply,) = replies
    return deltas, reply


async def fail(provider: Provider, request: ModelRequest | None = None) -> ProviderError:
    """The failure of a call: a known code, and a message that is one bounded line."""
    with pytest.raises(ProviderError) as caught:
        await read(provider, request)
    error = caught.value
    assert error.code in FAILURES
    assert error.message and "\n" not in error.message and len(error.message) <= 600
    return error
