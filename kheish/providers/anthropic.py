"""`anthropic`: the Messages API through the official SDK.

Thinking goes back signed, to the server and the model that it came from; no other could read it. Retries are the
machine's, hence max_retries=0. There are three cache breakpoints, of four that are allowed: after the tools and the
system text, where the call before ended, and at the end. What is shown only grows, so each call reads what the one
before it wrote; the API looks back over no more than 20 blocks for that, and a step may have more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply, TextDelta, ToolCallDelta, UsageDelta
from kheish.core.events import AssistantMessage, Attachment, Message, StopReason, ToolMessage, Usage, UserMessage
from kheish.errors import ProviderError
from kheish.providers import sdk
from kheish.providers.failures import request_id, translate
from kheish.providers.transcript import Bound, attachment_text, media_of, read_tool_call, storable, tool_name

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

Json = dict[str, Any]

DRIVER = "anthropic"

STOP_REASONS: dict[str, StopReason] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "pause_turn": "end",
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "refusal": "refused",
}

_CACHED = {"type": "ephemeral"}


async def connect(*, api_key: str, base_url: str, multimodal: bool = True) -> Anthropic:
    """Loads the SDK off the event loop and makes a client; nothing is sent yet."""
    return Anthropic(await sdk.load(lambda: _make_client(api_key, base_url)), api_key, multimodal=multimodal)


def _make_client(api_key: str, base_url: str) -> AsyncAnthropic:
    import anthropic
    from anthropic.types import RawMessageStreamEvent

    client = anthropic.AsyncAnthropic(
        api_key=api_key or "none", base_url=base_url, timeout=sdk.timeouts(anthropic), max_retries=0
    )
    _ = client.messages  # loads the rest
    sdk.record(client)
    sdk.build_models(
        anthropic.BaseModel,
        RawMessageStreamEvent,
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}},
        {"type": "message_start", "message": {"usage": {}}},
        {"type": "content_block_start", "content_block": {"type": "text"}},
    )
    return client


class Anthropic:
    def __init__(self, client: AsyncAnthropic, api_key: str, *, multimodal: bool) -> None:
        self._client = client
        self._api_key = api_key
        self._multimodal = multimodal

    async def check_key(self) -> None:
        try:
            await self._client.models.list()
        except Exception as error:
            raise translate(error, self._api_key) from error

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        from anthropic import AsyncStream
        from anthropic.types import Message as Whole
        from anthropic.types import RawMessageStreamEvent

        server = self._client.base_url.host
        blobs = request.blobs if self._multimodal else {}
        body = await sdk.write_body(request, lambda: to_body(request, server, blobs))
        id_ = ""
        try:
            events = await self._client.post(
                "/v1/messages", content=body, cast_to=Whole, stream=True, stream_cls=AsyncStream[RawMessageStreamEvent]
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
    """The request as the Messages API takes it; `blobs` holds what is shown of its attachments."""
    messages = to_turns(request.messages, {"server": server, "model": request.model}, blobs)
    replies = [place for place, turn in enumerate(messages) if turn["role"] == "assistant"]
    for end in {len(messages), *replies[-1:]} - {0}:
        _mark(messages[end - 1]["content"])
    body: Json = {
        "model": request.model,
        "max_tokens": request.output_tokens_max,
        "system": [{"type": "text", "text": request.system, "cache_control": _CACHED}],
        "messages": messages,
    }
    if request.tools:
        body["tools"] = [
            {"name": t.name, "description": t.description, "input_schema": t.input_schema} for t in request.tools
        ]
        if not request.may_use_tools:
            body["tool_choice"] = {"type": "none"}
    return body


def _mark(blocks: list[Json]) -> None:
    """A cache breakpoint at the last block that may carry one: an empty result may not."""
    for block in reversed(blocks):
        if block["type"] in ("text", "image", "document", "tool_use") or block.get("content"):
            block["cache_control"] = _CACHED
            return


def to_turns(messages: tuple[Message, ...], origin: Json, blobs: Mapping[str, bytes]) -> list[Json]:
    """User and assistant turns by turns: neighbours of one role are joined, and blank texts, which the API refuses,
    are left out."""
    turns: list[Json] = []
    for message in messages:
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        blocks = to_blocks(message, origin, blobs)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def to_blocks(message: Message, origin: Json, blobs: Mapping[str, bytes]) -> list[Json]:
    match message:
        case UserMessage():
            said = [{"type": "text", "text": message.text}] if message.text.strip() else []
            return said + [to_attachment_block(attachment, blobs) for attachment in message.attachments]
        case AssistantMessage():
            kept = message.provider_state.get(DRIVER, {})
            # What was journaled without an origin is from before there were chains.
            thinking = kept.get("thinking", []) if kept.get("origin", origin) == origin else []
            text = [{"type": "text", "text": message.text}] if message.text.strip() else []
            uses = [
                {"type": "tool_use", "id": call.tool_call_id, "name": tool_name(call.tool), "input": call.arguments}
                for call in message.tool_requests
            ]
            return [*thinking, *text, *uses] if text or uses else []
        case ToolMessage():
            block: Json = {"type": "tool_result", "tool_use_id": message.tool_call_id, "is_error": message.is_error}
            if message.text.strip():
                block["content"] = [{"type": "text", "text": message.text}]
            return [block]


def to_attachment_block(attachment: Attachment, blobs: Mapping[str, bytes]) -> Json:
    media = media_of(attachment, blobs)
    if media is None:
        return {"type": "text", "text": attachment_text(attachment)}
    source = {"type": "base64", "media_type": media.media_type, "data": media.base64}
    if media.is_image:
        return {"type": "image", "source": source}
    return {"type": "document", "source": source, "title": media.name}


class Reader:
    """Puts a reply together from the events of the stream."""

    def __init__(self, server: str, model: str) -> None:
        self._origin = {"server": server, "model": model}
        self._blocks: dict[int, Json] = {}
        self._bound = Bound()
        self._model = ""
        self._stop_reason = ""
        self._ended = False
        self._usage: dict[str, int] = {}

    def read(self, event: Any) -> Delta | None:
        match event.type:
            case "message_start":
                self._model = event.message.model
                self._count(event.message.usage)
                return UsageDelta(usage=Usage(**self._usage))
            case "content_block_start":
                block = event.content_block
                self._bound.take(getattr(block, "name", ""), getattr(block, "data", ""))
                self._blocks[event.index] = {"raw": [], **block.model_dump(exclude_none=True, warnings=False)}
                if block.type == "tool_use":
                    return ToolCallDelta(tool=block.name)
                if block.type == "text" and block.text:
                    return TextDelta(text=storable(block.text))
            case "content_block_delta":
                return self._add(self._blocks[event.index], event.delta)
            case "message_delta":
                self._stop_reason = event.delta.stop_reason or self._stop_reason
                self._count(event.usage)
            case "message_stop":
                self._ended = True
        return None

    def _add(self, block: Json, delta: Any) -> Delta | None:
        match delta.type:
            case "text_delta":
                block["text"] += delta.text
                return TextDelta(text=storable(delta.text)) if delta.text else None
            case "input_json_delta":
                self._bound.take(delta.partial_json)
                block["raw"].append(delta.partial_json)
            case "thinking_delta":
                block["thinking"] += delta.thinking
                return ReasoningDelta(text=storable(delta.thinking)) if delta.thinking else None
            case "signature_delta":
                block["signature"] = delta.signature
        return None

    def _count(self, usage: Any) -> None:
        """Counts in later events are totals, not differences; absent ones stay."""
        details = getattr(usage, "output_tokens_details", None)
        if (count := getattr(details, "thinking_tokens", None)) is not None:
            self._usage["reasoning_tokens"] = count
        for ours, theirs in (
            ("input_tokens", "input_tokens"),
            ("output_tokens", "output_tokens"),
            ("cache_read_tokens", "cache_read_input_tokens"),
            ("cache_write_tokens", "cache_creation_input_tokens"),
        ):
            if (count := getattr(usage, theirs, None)) is not None:
                self._usage[ours] = count

    def reply(self) -> Reply:
        """Raises ProviderError where the stream ended before its last event."""
        if not self._ended:
            raise ProviderError("the stream ended before the reply was complete", code="connection")
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        calls = tuple(
            read_tool_call(block["id"], block["name"], "".join(block["raw"]))
            for block in blocks
            if block["type"] == "tool_use"
        )
        thinking = [
            {key: storable(value) if isinstance(value, str) else value for key, value in block.items() if key != "raw"}
            for block in blocks
            if block["type"] in ("thinking", "redacted_thinking")
        ]
        return Reply(
            text=storable("".join(block["text"] for block in blocks if block["type"] == "text")),
            stop_reason="tool_use" if calls else STOP_REASONS.get(self._stop_reason, "end"),
            tool_calls=calls,
            usage=Usage(**self._usage),
            reasoning="".join(block.get("thinking", "") for block in thinking),
            model=self._model,
            provider_state={DRIVER: {"origin": self._origin, "thinking": thinking}} if thinking else {},
        )
