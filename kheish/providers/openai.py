"""`openai`: the Responses API through the official SDK.

Nothing is stored at the provider (`store` is false): each call carries the whole conversation, with the encrypted
reasoning of earlier replies, which a reasoning model needs back beside the tool calls that it led to. Only the server
and the model that it came from can read it; any other would refuse the request. Retries are the machine's, hence
max_retries=0.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply, ReplyToolCall, TextDelta, ToolCallDelta
from kheish.core.events import AssistantMessage, Attachment, Message, StopReason, ToolMessage, Usage, UserMessage
from kheish.errors import ProviderError
from kheish.limits import CACHE_KEY_CHARS_MAX
from kheish.providers import sdk
from kheish.providers.failures import fault, request_id, translate
from kheish.providers.transcript import Bound, attachment_text, media_of, read_tool_call, storable, tool_name

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Json = dict[str, Any]

DRIVER = "openai"

INCOMPLETE: dict[str, StopReason] = {"max_output_tokens": "max_tokens", "content_filter": "refused"}
"""Why a response may end before its end and still be one."""

_REASONS = re.compile(r"(?:.*/)?(?:gpt-[5-9](?!.*-chat)|o[1-9]|codex)")
"""Models that encrypt their reasoning, by name: the others refuse to be asked for it."""


async def connect(*, api_key: str, base_url: str, multimodal: bool = True) -> OpenAI:
    """Loads the SDK off the event loop and makes a client; nothing is sent yet."""
    return OpenAI(await sdk.load(lambda: _make_client(api_key, base_url)), api_key, multimodal=multimodal)


def _make_client(api_key: str, base_url: str) -> AsyncOpenAI:
    import openai
    from openai.types.responses import ResponseStreamEvent

    client = openai.AsyncOpenAI(
        api_key=api_key or "none", base_url=base_url, timeout=sdk.timeouts(openai), max_retries=0
    )
    _ = client.responses  # loads the rest
    sdk.record(client)
    delta = {"content_index": 0, "item_id": "", "logprobs": [], "output_index": 0, "sequence_number": 0, "delta": ""}
    output = [{"type": "message", "content": [{"type": "output_text"}]}, {"type": "reasoning"}]
    sdk.build_models(
        openai.BaseModel,
        ResponseStreamEvent,
        {"type": "response.output_text.delta", **delta},
        {"type": "response.completed", "response": {"output": output, "usage": {}}},
    )
    return client


class OpenAI:
    def __init__(self, client: AsyncOpenAI, api_key: str, *, multimodal: bool) -> None:
        self._client = client
        self._api_key = api_key
        self._multimodal = multimodal

    async def check_key(self) -> None:
        try:
            await self._client.models.list()
        except Exception as error:
            raise translate(error, self._api_key) from error

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        from openai import AsyncStream
        from openai.types.responses import Response, ResponseStreamEvent

        server = self._client.base_url.host
        blobs = request.blobs if self._multimodal else {}
        body = await sdk.write_body(request, lambda: to_body(request, server, blobs))
        id_ = ""
        try:
            events = await self._client.post(
                "/responses", content=body, cast_to=Response, stream=True, stream_cls=AsyncStream[ResponseStreamEvent]
            )
            id_ = request_id(events.response.headers, self._api_key)
            reader = Reader(server, request.model)
            async with events:
                async for event in events:
                    if delta := reader.read(event):
                        yield delta
            reply = reader.reply()
        except Exception as error:
            raise translate(error, self._api_key, id_) from error
        yield replace(reply, request_id=id_)


def to_body(request: ModelRequest, server: str, blobs: Mapping[str, bytes]) -> Json:
    """The request as the Responses API takes it; `blobs` holds what is shown of its attachments."""
    origin = {"server": server, "model": request.model}
    body: Json = {
        "model": request.model,
        "instructions": request.system,
        "input": [item for message in request.messages for item in to_items(message, origin, blobs)],
        "max_output_tokens": request.output_tokens_max,
        "store": False,
        "prompt_cache_key": request.session_id[:CACHE_KEY_CHARS_MAX],
    }
    if _REASONS.match(request.model):
        body["include"] = ["reasoning.encrypted_content"]
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": t.name,
                "description": t.description,
                "parameters": t.input_schema,
                "strict": False,
            }
            for t in request.tools
        ]
        if not request.may_use_tools:
            body["tool_choice"] = "none"
    return body


def to_items(message: Message, origin: Json, blobs: Mapping[str, bytes]) -> list[Json]:
    match message:
        case UserMessage():
            said = [{"type": "input_text", "text": message.text}] if message.text.strip() else []
            shown = [to_attachment_part(attachment, blobs) for attachment in message.attachments]
            return [{"role": "user", "content": said + shown}]
        case AssistantMessage():
            kept = message.provider_state.get(DRIVER, {})
            if kept.get("origin") != origin:
                kept = {}
            text: Json = {"role": "assistant", "content": message.text}
            if "phase" in kept:
                text["phase"] = kept["phase"]
            calls = [
                {
                    "type": "function_call",
                    "call_id": call.tool_call_id,
                    "name": tool_name(call.tool),
                    "arguments": json.dumps(call.arguments),
                }
                for call in message.tool_requests
            ]
            items = [text, *calls] if message.text.strip() else calls
            # Reasoning that led to nothing is refused.
            return [*kept.get("reasoning", ()), *items] if items else []
        case ToolMessage():
            return [{"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text}]


def to_attachment_part(attachment: Attachment, blobs: Mapping[str, bytes]) -> Json:
    media = media_of(attachment, blobs)
    if media is None:
        return {"type": "input_text", "text": attachment_text(attachment)}
    if media.is_image:
        return {"type": "input_image", "detail": "auto", "image_url": media.data_url}
    return {"type": "input_file", "filename": media.name, "file_data": media.data_url}


class Reader:
    """Takes the reply from the stream's last event, which holds the whole of it; those before it are for followers.
    Servers that leave the output out of the last event have sent its items one by one."""

    def __init__(self, server: str, model: str) -> None:
        self._origin = {"server": server, "model": model}
        self._items: dict[int, Any] = {}
        self._response: Any = None
        self._bound = Bound()

    def read(self, event: Any) -> Delta | None:
        """Raises ProviderError where the provider says that the response failed."""
        match event.type:
            case "response.output_text.delta" | "response.refusal.delta":
                return TextDelta(text=storable(event.delta)) if event.delta else None
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return ReasoningDelta(text=storable(event.delta)) if event.delta else None
            case "response.output_item.added" if getattr(event.item, "type", "") == "function_call":
                return ToolCallDelta(tool=event.item.name)
            case "response.function_call_arguments.delta":
                self._bound.take(event.delta)
            case "response.output_item.done":
                self._bound.take()
                self._items[event.output_index] = event.item
            case "response.completed" | "response.incomplete":
                self._response = event.response
            case "response.failed":
                raise fault(event.response.error)
            case "error":
                raise fault(event)
        return None

    def reply(self) -> Reply:
        """Raises ProviderError where the stream ended before its last event."""
        response = self._response
        if response is None:
            raise ProviderError("the stream ended before the reply was complete", code="connection")
        text: list[str] = []
        reasoning: list[str] = []
        calls: list[ReplyToolCall] = []
        refused = False
        state: Json = {}
        for item in response.output or [self._items[index] for index in sorted(self._items)]:
            match item.type:
                case "message":
                    for part in item.content:
                        refused = refused or part.type == "refusal"
                        text.append(part.refusal if part.type == "refusal" else part.text)
                    if phase := getattr(item, "phase", None):
                        state["phase"] = phase
                case "function_call":
                    calls.append(read_tool_call(item.call_id, item.name, item.arguments))
                case "reasoning":
                    reasoning += [part.text for part in (*(item.summary or ()), *(item.content or ()))]
                    if item.encrypted_content:
                        state.setdefault("reasoning", []).append(_kept(item))
        return Reply(
            text=storable("".join(text)),
            stop_reason="tool_use" if calls else "refused" if refused else _stop_reason(response),
            tool_calls=tuple(calls),
            usage=_usage(response.usage),
            reasoning=storable("\n\n".join(reasoning)),
            model=response.model,
            provider_state={DRIVER: {"origin": self._origin, **state}} if state else {},
        )


def _kept(item: Any) -> Json:
    """An item of reasoning as it goes back."""
    return {
        "type": "reasoning",
        "id": item.id,
        "summary": [{"type": "summary_text", "text": storable(part.text)} for part in item.summary or ()],
        "encrypted_content": item.encrypted_content,
    }


def _stop_reason(response: Any) -> StopReason:
    details = response.incomplete_details
    return INCOMPLETE.get(details.reason, "end") if details is not None else "end"


def _usage(usage: Any) -> Usage:
    """The input tokens without the cached ones, as the other wires count them."""
    if usage is None:
        return Usage()
    details = getattr(usage, "input_tokens_details", None)
    read = getattr(details, "cached_tokens", None) or 0
    written = getattr(details, "cache_write_tokens", None) or 0
    return Usage(
        input_tokens=max(0, (usage.input_tokens or 0) - read - written),
        output_tokens=usage.output_tokens or 0,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=getattr(getattr(usage, "output_tokens_details", None), "reasoning_tokens", None) or 0,
    )
