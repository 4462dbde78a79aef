"""`openai_compatible`: Chat Completions through the official SDK, with any server that speaks them.

Servers differ in small things, which are allowed for here: tool-call deltas without an index or all with the same one,
no usage, `stop` as the reason of a reply that calls tools, reasoning under either of two names. What came with tool
calls, signatures or reasoning, goes back where it came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply, TextDelta, ToolCallDelta
from kheish.core.events import AssistantMessage, Message, StopReason, ToolMessage, Usage, UserMessage
from kheish.core.prompt import VIEWABLE
from kheish.errors import ProviderError
from kheish.providers import sdk
from kheish.providers.failures import BY_FINISH_REASON, request_id, translate
from kheish.providers.transcript import Bound, Media, attachment_text, media_of, read_tool_call, storable, tool_name

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Json = dict[str, Any]

DRIVER = "openai_compatible"

STOP_REASONS: dict[str, StopReason] = {
    "stop": "end",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "length": "max_tokens",
    "content_filter": "refused",
}

TAKEN: dict[str, frozenset[str]] = {
    "api.x.ai": frozenset(("image/png", "image/jpeg")),
    "generativelanguage.googleapis.com": frozenset(("image/png", "image/jpeg", "image/webp")),
}
"""What servers take that do not take every kind of image and document on this wire."""

_OPENROUTER = "openrouter.ai"
_IN_PIECES = {"reasoning.text": "text", "reasoning.summary": "summary"}
"""Its details of reasoning that come bit by bit. Whole, they go back to the model that they came from: some refuse tool
calls without (https://openrouter.ai/docs/use-cases/reasoning-tokens)."""

_OPENAI = ("api.openai.com", ".openai.azure.com")
_MISTRAL = ".mistral.ai"
_OF_MISTRAL = re.compile(r"(?:mi|dev|code|magi|mini)stral|mixtral|pixtral", re.IGNORECASE)
"""Models whose servers take only ids of nine letters and digits, and no input right after a result
(https://docs.mistral.ai/api); Mistral's own refuses to be asked for the usage, which it always says."""

_WANTS_REASONING = (".deepseek.com", ".moonshot.ai", ".moonshot.cn", ".kimi.com")
"""Servers that refuse a conversation without the reasoning before its tool calls, be it empty
(https://api-docs.deepseek.com/guides/thinking_mode#tool-calls). What another one thought is not for them."""

_SIGNS_CALLS = re.compile(r"(?:.*/)?gemini-(?![12][.-])")
_UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""These models refuse calls of which none is signed, unless this says that it is no mistake
(https://ai.google.dev/gemini-api/docs/thought-signatures): another model made them, or what signed them was cut."""


async def connect(*, api_key: str, base_url: str, multimodal: bool = False) -> OpenAICompatible:
    """Loads the SDK off the event loop and makes a client; nothing is sent yet."""
    return OpenAICompatible(await sdk.load(lambda: _make_client(api_key, base_url)), api_key, multimodal=multimodal)


def _make_client(api_key: str, base_url: str) -> AsyncOpenAI:
    import openai
    from openai.types.chat import ChatCompletionChunk

    client = openai.AsyncOpenAI(
        api_key=api_key or "none", base_url=base_url, timeout=sdk.timeouts(openai), max_retries=0
    )
    _ = client.chat.completions  # loads the rest
    sdk.record(client)
    call = {"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    delta = {"role": "assistant", "content": "", "refusal": "", "tool_calls": [call]}
    sdk.build_models(
        openai.BaseModel,
        ChatCompletionChunk,
        {"choices": [{"finish_reason": "stop", "delta": delta}], "usage": {"prompt_tokens_details": {}}},
    )
    return client


class OpenAICompatible:
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
        from openai.types.chat import ChatCompletion, ChatCompletionChunk

        server = self._client.base_url.host
        blobs = request.blobs if self._multimodal else {}
        body = await sdk.write_body(request, lambda: to_body(request, server, blobs))
        id_ = ""
        try:
            stream = AsyncStream[ChatCompletionChunk]
            chunks = await self._client.post(
                "/chat/completions", content=body, cast_to=ChatCompletion, stream=True, stream_cls=stream
            )
            id_ = request_id(chunks.response.headers, self._api_key)
            reader = Reader(server, request.model)
            async with chunks:
                async for chunk in chunks:
                    for delta in reader.read(chunk):
                        yield delta
            reply = reader.reply()
        except Exception as error:
            raise translate(error, self._api_key, id_) from error
        yield replace(reply, request_id=id_)


def to_body(request: ModelRequest, server: str, blobs: Mapping[str, bytes]) -> Json:
    """The request as Chat Completions take it; `blobs` holds what is shown of its attachments."""
    messages = [
        to_message(message, server, request.model, blobs) for message in request.messages if not _is_empty(message)
    ]
    if server.endswith(_MISTRAL) or _OF_MISTRAL.search(request.model):
        messages = _for_mistral(messages)
    # OpenAI's reasoning models refuse `max_tokens`; most other servers know only that.
    limit = "max_completion_tokens" if server.endswith(_OPENAI) else "max_tokens"
    body: Json = {
        "model": request.model,
        "messages": [{"role": "system", "content": request.system}, *messages],
        limit: request.output_tokens_max,
    }
    if not server.endswith(_MISTRAL):
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.input_schema},
            }
            for t in request.tools
        ]
        if not request.may_use_tools:
            body["tool_choice"] = "none"
    return body


def _for_mistral(messages: list[Json]) -> list[Json]:
    made: list[Json] = []
    for message in messages:
        if message["role"] == "user" and made and made[-1]["role"] == "tool":
            made.append({"role": "assistant", "content": "[no reply: another input came]"})
        for call in message.get("tool_calls", ()):
            call["id"] = call["id"][-9:]
        if message["role"] == "tool":
            message["tool_call_id"] = message["tool_call_id"][-9:]
        made.append(message)
    return made


def _is_empty(message: Message) -> bool:
    """A reply that says and asks for nothing: some servers refuse it, and with it the whole conversation."""
    return isinstance(message, AssistantMessage) and not (message.text.strip() or message.tool_requests)


def to_message(message: Message, server: str, model: str, blobs: Mapping[str, bytes]) -> Json:
    match message:
        case UserMessage():
            return {"role": "user", "content": to_content(message, TAKEN.get(server, VIEWABLE), blobs)}
        case AssistantMessage():
            made: Json = {"role": "assistant", "content": message.text}
            kept = message.provider_state.get(DRIVER, {})
            extra = kept["extra_content"] if kept.get("server") == server else {}
            if server.endswith(_WANTS_REASONING):
                made["reasoning_content"] = message.reasoning if kept.get("server") == server else ""
            if message.tool_requests:
                if kept.get("reasoning_details") and (kept["server"], kept["model"]) == (server, model):
                    made["reasoning_details"] = kept["reasoning_details"]
                if not extra and server.endswith(".googleapis.com") and _SIGNS_CALLS.match(model):
                    extra = {message.tool_requests[0].provider_id: _UNSIGNED}
                made["tool_calls"] = [
                    {
                        "id": call.tool_call_id,
                        "type": "function",
                        "function": {"name": tool_name(call.tool), "arguments": json.dumps(call.arguments)},
                        **({"extra_content": extra[call.provider_id]} if call.provider_id in extra else {}),
                    }
                    for call in message.tool_requests
                ]
            return made
        case ToolMessage():
            return {"role": "tool", "tool_call_id": message.tool_call_id, "content": message.text}


def to_content(message: UserMessage, taken: frozenset[str], blobs: Mapping[str, bytes]) -> str | list[Json]:
    """One text, which every server takes, unless there is something to show."""
    texts, shown = [message.text], []
    for attachment in message.attachments:
        media = media_of(attachment, blobs, taken)
        if media is None:
            texts.append(attachment_text(attachment))
        else:
            shown.append(to_media_part(media))
    text = "\n\n".join(texts)
    return [*([{"type": "text", "text": text}] if text.strip() else []), *shown] if shown else text


def to_media_part(media: Media) -> Json:
    if media.is_image:
        return {"type": "image_url", "image_url": {"url": media.data_url}}
    return {"type": "file", "file": {"filename": media.name, "file_data": media.data_url}}


class Reader:
    """Puts a reply together from the chunks of the stream."""

    def __init__(self, server: str, model: str = "") -> None:
        self._server = server
        self._asked = model
        self._details: list[dict[str, list[Any]]] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Json] = []
        self._bound = Bound()
        self._by_index: dict[int, Json] = {}
        self._finish_reason = ""
        self._refused = False
        self._model = ""
        self._usage = Usage()

    def read(self, chunk: Any) -> list[Delta]:
        deltas: list[Delta] = []
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        for choice in (chunk.choices or ())[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            delta = choice.delta
            if delta is None:
                continue
            if reasoning := getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None):
                self._reasoning.append(str(reasoning))
                deltas.append(ReasoningDelta(text=storable(str(reasoning))))
            if self._server == _OPENROUTER:
                for detail in getattr(delta, "reasoning_details", None) or ():
                    self._add_detail(detail)
            self._refused = self._refused or bool(delta.refusal)
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
        arguments = (part.function.arguments if part.function else "") or ""
        self._bound.take(name, arguments)
        call = self._find(part)
        begins = call is None
        if call is None:
            call = {"id": part.id or f"call_{len(self._calls)}", "name": "", "raw": [], "extra": None}
            self._calls.append(call)
            if part.index is not None:
                self._by_index[part.index] = call
        call["name"] = call["name"] or name
        call["raw"].append(arguments)
        call["extra"] = getattr(part, "extra_content", None) or call["extra"]
        return call["name"] if begins else ""

    def _add_detail(self, detail: Json) -> None:
        """Adds what goes back of the reasoning: of a text the pieces, of all else what came last."""
        self._bound.take(detail.get("data"), detail.get("signature"))
        kind, last = (detail.get("type"), detail.get("index")), self._details[-1] if self._details else {}
        if kind[0] in _IN_PIECES and kind == tuple(last.get(name, [None])[-1] for name in ("type", "index")):
            for name, value in detail.items():
                if value is not None:
                    last.setdefault(name, []).append(value)
        else:
            self._details.append({name: [value] for name, value in detail.items()})

    def _find(self, part: Any) -> Json | None:
        """The call that a piece belongs to; None where it begins one. A piece that names a tool and has an id of its
        own begins one, whatever its index."""
        names_tool = bool(part.function and part.function.name)
        if part.index is not None:
            call = self._by_index.get(part.index)
            return None if call and part.id and names_tool and call["id"] != part.id else call
        if part.id:
            return next((call for call in self._calls if call["id"] == part.id), None)
        return self._calls[-1] if self._calls and not names_tool else None

    def reply(self) -> Reply:
        """Raises ProviderError where the stream ended before it said why, or says that it failed."""
        if not self._finish_reason:
            raise ProviderError("the stream ended before the reply was complete", code="connection")
        reason = self._finish_reason.partition(":")[0]
        if failure := BY_FINISH_REASON.get(reason):
            raise ProviderError(f"the reply ended with the finish_reason {self._finish_reason}", code=failure)
        extra = {call["id"]: call["extra"] for call in self._calls if call["extra"]}
        is_own = bool(extra) or (self._server.endswith(_WANTS_REASONING) and bool(self._reasoning))
        state: Json = {"server": self._server, "extra_content": extra} if is_own or self._details else {}
        if self._details:
            state |= {"model": self._asked, "reasoning_details": [*map(_whole, self._details)]}
        calls = tuple(read_tool_call(call["id"], call["name"], "".join(call["raw"])) for call in self._calls)
        return Reply(
            text=storable("".join(self._text)),
            stop_reason="tool_use" if calls else "refused" if self._refused else STOP_REASONS.get(reason, "end"),
            tool_calls=calls,
            usage=self._usage,
            reasoning=storable("".join(self._reasoning)),
            model=self._model,
            provider_state={DRIVER: state} if state else {},
        )


def _whole(detail: dict[str, list[Any]]) -> Json:
    text = _IN_PIECES.get(detail.get("type", [""])[-1])
    return {
        name: storable("".join(filter(None, values))) if name == text else values[-1] for name, values in detail.items()
    }


def _usage(usage: Any) -> Usage:
    """The input tokens without the cached ones, as the other wires count them."""
    details = getattr(usage, "prompt_tokens_details", None)
    read = getattr(details, "cached_tokens", None) or 0
    written = getattr(details, "cache_write_tokens", None) or 0
    return Usage(
        input_tokens=max(0, (usage.prompt_tokens or 0) - read - written),
        output_tokens=usage.completion_tokens or 0,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=getattr(getattr(usage, "completion_tokens_details", None), "reasoning_tokens", None) or 0,
    )
