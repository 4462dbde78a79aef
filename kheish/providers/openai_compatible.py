"""`openai_compatible`: Chat Completions through the official SDK, with any server that speaks them.

Servers differ in small things, and what they leave out is allowed for here: tool-call deltas without an index, no
usage, `stop` as the reason of a reply that calls tools, reasoning under either of two names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from kheish.core.contracts import (
    AssistantMessage,
    Delta,
    Message,
    ModelRequest,
    ReasoningDelta,
    Reply,
    TextDelta,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from kheish.core.events import StopReason, Usage
from kheish.errors import ProviderError
from kheish.limits import MODEL_CONNECT_TIMEOUT_MS, MODEL_IDLE_TIMEOUT_MS
from kheish.providers.failures import translate
from kheish.providers.transcript import attachment_text, read_tool_call, storable

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Json = dict[str, Any]

STOP_REASONS: dict[str, StopReason] = {
    "stop": "end",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refused",
}


async def connect(*, api_key: str, base_url: str | None) -> OpenAICompatible:
    """Loads the SDK off the event loop and makes a client; nothing is sent yet."""
    return OpenAICompatible(await asyncio.to_thread(_make_client, api_key, base_url), api_key)


def _make_client(api_key: str, base_url: str | None) -> AsyncOpenAI:
    import openai

    timeout = openai.Timeout(MODEL_IDLE_TIMEOUT_MS / 1000, connect=MODEL_CONNECT_TIMEOUT_MS / 1000)
    return openai.AsyncOpenAI(api_key=api_key or "none", base_url=base_url, timeout=timeout, max_retries=0)


class OpenAICompatible:
    def __init__(self, client: AsyncOpenAI, api_key: str) -> None:
        self._client = client
        self._api_key = api_key
        # OpenAI's reasoning models refuse `max_tokens`; most other servers know only that.
        self._limit = "max_completion_tokens" if client.base_url.host == "api.openai.com" else "max_tokens"

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        body: Any = to_body(request, self._limit)
        try:
            chunks = await self._client.chat.completions.create(**body, stream=True)
            reader = Reader()
            async with chunks:
                async for chunk in chunks:
                    for delta in reader.read(chunk):
                        yield delta
        except Exception as error:
            raise translate(error, self._api_key) from error
        yield reader.reply()


def to_body(request: ModelRequest, limit: str) -> Json:
    """The request as Chat Completions take it; `limit` is the name of the output bound."""
    body: Json = {
        "model": request.model,
        "messages": [{"role": "system", "content": request.system}, *map(to_message, request.messages)],
        "stream_options": {"include_usage": True},
        limit: request.output_tokens_max,
    }
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.input_schema},
            }
            for t in request.tools
        ]
    return body


def to_message(message: Message) -> Json:
    match message:
        case UserMessage():
            return {"role": "user", "content": "\n\n".join([message.text, *map(attachment_text, message.attachments)])}
        case AssistantMessage():
            made: Json = {"role": "assistant", "content": message.text}
            if message.tool_requests:
                made["tool_calls"] = [
                    {
                        "id": call.tool_call_id,
                        "type": "function",
                        "function": {"name": call.tool, "arguments": json.dumps(call.arguments)},
                    }
                    for call in message.tool_requests
                ]
            return made
        case ToolMessage():
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}


class Reader:
    """Puts a reply together from the chunks of the stream."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Json] = []
        self._by_index: dict[int, Json] = {}
        self._finish_reason = ""
        self._model = ""
        self._usage = Usage()

    def read(self, chunk: Any) -> list[Delta]:
        deltas: list[Delta] = []
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in chunk.choices[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            delta = choice.delta
            if delta is None:
                continue
            if reasoning := getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None):
                self._reasoning.append(str(reasoning))
                deltas.append(ReasoningDelta(text=storable(str(reasoning))))
            if text := delta.content or delta.refusal:
                self._text.append(text)
                deltas.append(TextDelta(text=storable(text)))
            for part in delta.tool_calls or ():
                if tool := self._add(part):
                    deltas.append(ToolCallDelta(tool=tool))
        return deltas

    def _add(self, part: Any) -> str:
        """Adds a piece to the call that it belongs to. Returns the name of a tool when a call begins."""
        name = (part.function.name if part.function else "") or ""
        call = self._find(part)
        begins = call is None
        if call is None:
            call = {"id": part.id or f"call_{len(self._calls)}", "name": "", "raw": ""}
            self._calls.append(call)
            if part.index is not None:
                self._by_index[part.index] = call
        call["name"] = call["name"] or name
        call["raw"] += (part.function.arguments if part.function else "") or ""
        return call["name"] if begins else ""

    def _find(self, part: Any) -> Json | None:
        if part.index is not None:
            return self._by_index.get(part.index)
        if part.id:
            return next((call for call in self._calls if call["id"] == part.id), None)
        return self._calls[-1] if self._calls and not (part.function and part.function.name) else None

    def reply(self) -> Reply:
        """Raises ProviderError where the stream ended before it said why."""
        if not self._finish_reason:
            raise ProviderError("the stream ended before the reply was complete", code="connection")
        calls = tuple(read_tool_call(call["id"], call["name"], call["raw"]) for call in self._calls)
        return Reply(
            text=storable("".join(self._text)),
            stop_reason="tool_use" if calls else STOP_REASONS.get(self._finish_reason, "end"),
            tool_calls=calls,
            usage=self._usage,
            reasoning=storable("".join(self._reasoning)),
            model=self._model,
        )


def _usage(usage: Any) -> Usage:
    """The input tokens without the cached ones, as the other wire counts them."""
    details = getattr(usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    return Usage(
        input_tokens=max(0, (usage.prompt_tokens or 0) - cached),
        output_tokens=usage.completion_tokens or 0,
        cache_read_tokens=cached,
    )
