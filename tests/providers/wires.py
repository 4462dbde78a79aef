"""The three wires as tests need them: what a server says on each, where a request holds what, and what the official
SDK itself makes of a stream."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from kheish.core.events import StopReason, Usage
from kheish.providers import anthropic, openai, openai_compatible
from kheish.runtime.ports import Provider
from tests.providers.wire_server import sse

Json = dict[str, Any]

INPUT_TOKENS, OUTPUT_TOKENS, READ_TOKENS, WRITTEN_TOKENS = 10, 9, 20, 3
USAGE = Usage(
    input_tokens=INPUT_TOKENS,
    output_tokens=OUTPUT_TOKENS,
    cache_read_tokens=READ_TOKENS,
    cache_write_tokens=WRITTEN_TOKENS,
)
"""What every stream here says that it took."""


@dataclass(frozen=True)
class Said:
    """Text, in the pieces in which it comes."""

    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Thought:
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """What is said instead of an answer."""

    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A tool call; its arguments are JSON in pieces."""

    tool: str
    pieces: tuple[str, ...]


Block = Said | Thought | Refused | Asked


def said(*pieces: str) -> Said:
    return Said(pieces)


def thought(*pieces: str) -> Thought:
    return Thought(pieces)


def refused(*pieces: str) -> Refused:
    return Refused(pieces)


def asked(tool: str, arguments: Json | str) -> Asked:
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    half = len(raw) // 2
    return Asked(tool, (raw[:half], raw[half:]))


class Final(NamedTuple):
    """What is kept of a reply. A call is (id, tool, arguments as they came)."""

    text: str
    calls: list[tuple[str, str, Any]]
    stop_reason: StopReason
    usage: Usage


class Wire(ABC):
    driver: str
    key: str
    key_env: str
    model: str
    path: str
    """Where its requests go, below the base URL of a server."""
    base: str = ""
    """What its base URL ends with."""
    stops: dict[str, StopReason]
    """Its words for the reasons why a reply ends."""

    @abstractmethod
    async def connect(self, url: str, key: str = "", **options: Any) -> Provider: ...

    @abstractmethod
    def stream(self, *blocks: Block, stop: StopReason | None = None) -> list[bytes]:
        """A whole stream, event by event; `stop` is `tool_use` or `end` unless it is said."""

    @abstractmethod
    def is_last(self, event: bytes) -> bool:
        """Whether this is the event without which there is no reply."""

    @abstractmethod
    def errors(self, code: str, message: str) -> Json:
        """The body of an error that has this code in our table."""

    @abstractmethod
    def error_events(self, code: str, message: str) -> list[bytes]:
        """The ways in which the same comes within a stream."""

    @abstractmethod
    async def final(self, url: str) -> Final:
        """What the official SDK's own accumulator makes of the stream that the server sends."""

    @abstractmethod
    def tool_names(self, body: Json) -> list[str]: ...

    @abstractmethod
    def turns(self, body: Json) -> list[Json]:
        """What was said so far, without the system text."""

    @abstractmethod
    def calls_and_results(self, body: Json) -> tuple[list[tuple[str, str, Json]], list[tuple[str, str]]]:
        """The tool calls (id, tool, arguments) and their results (id, text) that a request sends back."""

    @abstractmethod
    def media(self, body: Json) -> list[Json]:
        """The images and documents of a request."""

    @abstractmethod
    def image(self, media_type: str, base64: str) -> Json:
        """An image as a request holds it."""

    @abstractmethod
    def document(self, name: str, base64: str) -> Json:
        """A PDF as a request holds it."""

    def text(self, *pieces: str, stop: StopReason | None = None) -> list[bytes]:
        return self.stream(said(*pieces), stop=stop)

    def route(self, url: str, name: str = "") -> str:
        """A table of routes.toml, named as the driver unless it has a name."""
        return (
            f'[routes.{name or self.driver}]\ndriver = "{self.driver}"\ndefault_model = "{self.model}"\n'
            f'base_url = "{url}{self.base}"\napi_key_env = "{self.key_env}"\nmultimodal_input = true\n'
        )

    def _stop_word(self, stop: StopReason | None, blocks: tuple[Block, ...]) -> str:
        wanted = stop or ("tool_use" if any(isinstance(block, Asked) for block in blocks) else "end")
        return next(word for word, reason in self.stops.items() if reason == wanted)


class Messages(Wire):
    driver = "anthropic"
    key = "canary-anthropic-4f1d09c2"
    key_env = "ANTHROPIC_API_KEY"
    model = "claude-test"
    path = "/v1/messages"
    stops = {"end_turn": "end", "tool_use": "tool_use", "max_tokens": "max_tokens", "refusal": "refused"}
    words = {
        "auth": "authentication_error",
        "rate_limited": "rate_limit_error",
        "overloaded": "overloaded_error",
        "server_error": "api_error",
        "timeout": "timeout_error",
        "too_large": "request_too_large",
        "invalid": "invalid_request_error",
    }

    async def connect(self, url: str, key: str = "", **options: Any) -> Provider:
        return await anthropic.connect(api_key=key, base_url=url, **options)

    def stream(self, *blocks: Block, stop: StopReason | None = None) -> list[bytes]:
        usage = {
            "input_tokens": INPUT_TOKENS,
            "cache_read_input_tokens": READ_TOKENS,
            "cache_creation_input_tokens": WRITTEN_TOKENS,
            "output_tokens": 1,
        }
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": []}
        empty = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
        events: list[Json] = [{"type": "message_start", "message": empty}, {"type": "ping"}]
        for index, block in enumerate(blocks):
            events += self._block(index, block)
        return [
            sse(event, event["type"])
            for event in (
                *events,
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": self._stop_word(stop, blocks), "stop_sequence": None},
                    "usage": {"output_tokens": OUTPUT_TOKENS},
                },
                {"type": "message_stop"},
            )
        ]

    def _block(self, index: int, block: Block) -> list[Json]:
        deltas: list[Json]
        match block:
            case Asked():
                start: Json = {"type": "tool_use", "id": f"call_{index}", "name": block.tool, "input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in block.pieces]
            case Thought():
                start = {"type": "thinking", "thinking": "", "signature": ""}
                deltas = [{"type": "thinking_delta", "thinking": piece} for piece in block.pieces]
                deltas.append({"type": "signature_delta", "signature": "c2ln"})
            case _:
                start = {"type": "text", "text": ""}
                deltas = [{"type": "text_delta", "text": piece} for piece in block.pieces]
        return [
            {"type": "content_block_start", "index": index, "content_block": start},
            *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
            {"type": "content_block_stop", "index": index},
        ]

    def is_last(self, event: bytes) -> bool:
        return b"message_stop" in event

    def errors(self, code: str, message: str) -> Json:
        return {"type": "error", "error": {"type": self.words[code], "message": message}}

    def error_events(self, code: str, message: str) -> list[bytes]:
        return [sse(self.errors(code, message), "error")]

    async def final(self, url: str) -> Final:
        import anthropic

        async with (
            anthropic.AsyncAnthropic(api_key="k", base_url=url, max_retries=0) as client,
            client.messages.stream(
                model=self.model, max_tokens=9, messages=[{"role": "user", "content": "x"}]
            ) as stream,
        ):
            message = await stream.get_final_message()
        usage = message.usage
        return Final(
            "".join(block.text for block in message.content if block.type == "text"),
            [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"],
            self.stops[str(message.stop_reason)],
            Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_input_tokens or 0,
                cache_write_tokens=usage.cache_creation_input_tokens or 0,
            ),
        )

    def tool_names(self, body: Json) -> list[str]:
        return [tool["name"] for tool in body["tools"]]

    def turns(self, body: Json) -> list[Json]:
        return list(body["messages"])

    def calls_and_results(self, body: Json) -> tuple[list[tuple[str, str, Json]], list[tuple[str, str]]]:
        blocks = [block for turn in body["messages"] for block in turn["content"]]
        uses = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        results = [b for b in blocks if b["type"] == "tool_result"]
        return uses, [(b["tool_use_id"], "".join(part["text"] for part in b.get("content", ()))) for b in results]

    def media(self, body: Json) -> list[Json]:
        blocks = [block for turn in body["messages"] for block in turn["content"]]
        return [
            {k: v for k, v in b.items() if k != "cache_control"} for b in blocks if b["type"] in ("image", "document")
        ]

    def image(self, media_type: str, base64: str) -> Json:
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": base64}}

    def document(self, name: str, base64: str) -> Json:
        source = {"type": "base64", "media_type": "application/pdf", "data": base64}
        return {"type": "document", "source": source, "title": name}


class OpenAIWire(Wire):
    """What OpenAI's two wires have in common."""

    base = "/v1"
    words = {
        "auth": ("invalid_request_error", "invalid_api_key"),
        "rate_limited": ("requests", "rate_limit_exceeded"),
        "overloaded": ("server_error", "server_is_overloaded"),
        "server_error": ("server_error", None),
        "too_large": ("invalid_request_error", "context_length_exceeded"),
        "content_refused": ("invalid_request_error", "content_policy_violation"),
        "invalid": ("invalid_request_error", None),
    }

    def errors(self, code: str, message: str) -> Json:
        kind, word = self.words[code]
        return {"error": {"message": message, "type": kind, "param": None, "code": word}}


class Responses(OpenAIWire):
    driver = "openai"
    key = "canary-openai-c15e66d0"
    key_env = "OPENAI_API_KEY"
    model = "gpt-5-test"
    path = "/v1/responses"
    stops = {
        "completed": "end",
        "calls": "tool_use",
        "max_output_tokens": "max_tokens",
        "content_filter": "refused",
    }

    async def connect(self, url: str, key: str = "", **options: Any) -> Provider:
        return await openai.connect(api_key=key, base_url=f"{url}/v1", **options)

    def stream(self, *blocks: Block, stop: StopReason | None = None) -> list[bytes]:
        word = self._stop_word(stop, blocks)
        is_cut = word in ("max_output_tokens", "content_filter")
        events: list[Json] = [
            {"type": "response.created", "response": self.response("in_progress")},
            {"type": "response.in_progress", "response": self.response("in_progress")},
        ]
        output = []
        for index, block in enumerate(blocks):
            item, parts = self._item(index, block)
            events += [{"output_index": index, **part} for part in parts]
            output.append(item)
        end = self.response("incomplete" if is_cut else "completed", output, word if is_cut else "")
        events.append({"type": f"response.{end['status']}", "response": end})
        return [sse({"sequence_number": number, **event}, event["type"]) for number, event in enumerate(events)]

    def response(self, status: str, output: list[Json] | None = None, reason: str = "") -> Json:
        """The object that the events about the whole hold."""
        usage = {
            "input_tokens": INPUT_TOKENS + READ_TOKENS + WRITTEN_TOKENS,
            "input_tokens_details": {"cached_tokens": READ_TOKENS, "cache_write_tokens": WRITTEN_TOKENS},
            "output_tokens": OUTPUT_TOKENS,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": INPUT_TOKENS + READ_TOKENS + WRITTEN_TOKENS + OUTPUT_TOKENS,
        }
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": self.model,
            "output": output or [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": usage if status in ("completed", "incomplete") else None,
        }

    def _item(self, index: int, block: Block) -> tuple[Json, list[Json]]:
        """The item of the output, and the events in which it comes."""
        whole = "".join(block.pieces)
        match block:
            case Asked():
                call = {"type": "function_call", "id": f"fc_{index}", "call_id": f"call_{index}", "name": block.tool}
                item: Json = {**call, "arguments": whole, "status": "completed"}
                of: Json = {"item_id": call["id"]}
                kind = "response.function_call_arguments"
                begun: Json = {**call, "arguments": "", "status": "in_progress"}
                parts = [{"type": f"{kind}.delta", "delta": piece, **of} for piece in block.pieces]
                parts.append({"type": f"{kind}.done", "arguments": whole, "name": block.tool, **of})
            case Thought():
                begun = {"type": "reasoning", "id": f"rs_{index}", "summary": []}
                summary = {"type": "summary_text", "text": whole}
                item = {**begun, "summary": [summary], "encrypted_content": "ZW5j"}
                of = {"item_id": f"rs_{index}", "summary_index": 0}
                kind = "response.reasoning_summary_part"
                parts = [
                    {"type": f"{kind}.added", "part": {"type": "summary_text", "text": ""}, **of},
                    *(
                        {"type": "response.reasoning_summary_text.delta", "delta": piece, **of}
                        for piece in block.pieces
                    ),
                    {"type": "response.reasoning_summary_text.done", "text": whole, **of},
                    {"type": f"{kind}.done", "part": summary, **of},
                ]
            case _:
                begun = {"type": "message", "id": f"msg_{index}", "role": "assistant", "status": "in_progress"}
                begun["content"] = []
                of = {"item_id": f"msg_{index}", "content_index": 0}
                if isinstance(block, Refused):
                    part = {"type": "refusal", "refusal": whole}
                    first: Json = {"type": "refusal", "refusal": ""}
                    deltas = [{"type": "response.refusal.delta", "delta": piece, **of} for piece in block.pieces]
                    done: Json = {"type": "response.refusal.done", "refusal": whole, **of}
                else:
                    part = {"type": "output_text", "text": whole, "annotations": [], "logprobs": []}
                    first = {**part, "text": ""}
                    deltas = [
                        {"type": "response.output_text.delta", "delta": piece, "logprobs": [], **of}
                        for piece in block.pieces
                    ]
                    done = {"type": "response.output_text.done", "text": whole, "logprobs": [], **of}
                item = {**begun, "status": "completed", "content": [part]}
                parts = [
                    {"type": "response.content_part.added", "part": first, **of},
                    *deltas,
                    done,
                    {"type": "response.content_part.done", "part": part, **of},
                ]
        return item, [
            {"type": "response.output_item.added", "item": begun},
            *parts,
            {"type": "response.output_item.done", "item": item},
        ]

    def is_last(self, event: bytes) -> bool:
        return b"event: response.completed" in event or b"event: response.incomplete" in event

    def error_events(self, code: str, message: str) -> list[bytes]:
        kind, word = self.words[code]
        failed = {**self.response("failed"), "error": {"code": word or kind, "message": message}}
        event = {"type": "error", "code": word or kind, "message": message, "param": None}
        return [
            sse({"type": "response.failed", "sequence_number": 9, "response": failed}, "response.failed"),
            sse({"sequence_number": 9, **event}, "error"),
            sse({"type": "error", **self.errors(code, message)}, "error"),
        ]

    async def final(self, url: str) -> Final:
        import openai

        last: Any = None
        async with (
            openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
            client.responses.stream(model=self.model, input="x") as stream,
        ):
            async for event in stream:
                last = event
            # The SDK has no final response for what it calls incomplete, only the event.
            response = last.response if last.type == "response.incomplete" else await stream.get_final_response()
        usage, details = response.usage, response.incomplete_details
        calls = [(item.call_id, item.name, item.arguments) for item in response.output if item.type == "function_call"]
        word = details.reason if details else "calls" if calls else "completed"
        return Final(
            response.output_text,
            calls,
            self.stops[word],
            Usage(
                input_tokens=usage.input_tokens
                - usage.input_tokens_details.cached_tokens
                - usage.input_tokens_details.cache_write_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.input_tokens_details.cached_tokens,
                cache_write_tokens=usage.input_tokens_details.cache_write_tokens,
            ),
        )

    def tool_names(self, body: Json) -> list[str]:
        return [tool["name"] for tool in body["tools"]]

    def turns(self, body: Json) -> list[Json]:
        return list(body["input"])

    def calls_and_results(self, body: Json) -> tuple[list[tuple[str, str, Json]], list[tuple[str, str]]]:
        calls = [item for item in body["input"] if item.get("type") == "function_call"]
        results = [item for item in body["input"] if item.get("type") == "function_call_output"]
        return (
            [(item["call_id"], item["name"], json.loads(item["arguments"])) for item in calls],
            [(item["call_id"], item["output"]) for item in results],
        )

    def media(self, body: Json) -> list[Json]:
        parts = [part for item in body["input"] if item.get("role") == "user" for part in item["content"]]
        return [part for part in parts if part["type"] != "input_text"]

    def image(self, media_type: str, base64: str) -> Json:
        return {"type": "input_image", "detail": "auto", "image_url": f"data:{media_type};base64,{base64}"}

    def document(self, name: str, base64: str) -> Json:
        return {"type": "input_file", "filename": name, "file_data": f"data:application/pdf;base64,{base64}"}


class Completions(OpenAIWire):
    driver = "openai_compatible"
    key = "canary-kin-93be77a1"
    key_env = "KIN_API_KEY"
    model = "gpt-test"
    path = "/v1/chat/completions"
    stops = {"stop": "end", "tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refused"}

    async def connect(self, url: str, key: str = "", **options: Any) -> Provider:
        return await openai_compatible.connect(api_key=key, base_url=f"{url}/v1", **options)

    def chunk(self, delta: Json, finish_reason: str | None = None, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        return self._chunk(choices=choices, **more)

    def _chunk(self, **fields: Any) -> bytes:
        return sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": self.model, **fields})

    def usage_chunk(self) -> bytes:
        prompt = INPUT_TOKENS + READ_TOKENS + WRITTEN_TOKENS
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": OUTPUT_TOKENS,
            "total_tokens": prompt + OUTPUT_TOKENS,
            "prompt_tokens_details": {"cached_tokens": READ_TOKENS, "cache_write_tokens": WRITTEN_TOKENS},
        }
        return self._chunk(choices=[], usage=usage)

    def stream(self, *blocks: Block, stop: StopReason | None = None) -> list[bytes]:
        chunks = [self.chunk({"role": "assistant", "content": ""})]
        calls = []
        for index, block in enumerate(blocks):
            match block:
                case Asked():
                    calls.append((f"call_{index}", block))
                case Thought():
                    chunks += [self.chunk({"reasoning_content": piece}) for piece in block.pieces]
                case Refused():
                    chunks += [self.chunk({"refusal": piece}) for piece in block.pieces]
                case _:
                    chunks += [self.chunk({"content": piece}) for piece in block.pieces]
        # All calls begin before any goes on, as parallel ones may.
        chunks += [
            self.chunk({"tool_calls": [{"index": number, "id": id_, "type": "function", "function": function}]})
            for number, (id_, block) in enumerate(calls)
            for function in [{"name": block.tool, "arguments": ""}]
        ]
        longest = max((len(block.pieces) for _, block in calls), default=0)
        chunks += [
            self.chunk({"tool_calls": [{"index": number, "function": {"arguments": block.pieces[turn]}}]})
            for turn in range(longest)
            for number, (_, block) in enumerate(calls)
            if turn < len(block.pieces)
        ]
        return [*chunks, self.chunk({}, self._stop_word(stop, blocks)), self.usage_chunk(), DONE]

    def is_last(self, event: bytes) -> bool:
        return b'"finish_reason": "' in event

    def error_events(self, code: str, message: str) -> list[bytes]:
        return [sse(self.errors(code, message))]

    async def final(self, url: str) -> Final:
        import openai

        async with (
            openai.AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
            client.chat.completions.stream(
                model=self.model,
                messages=[{"role": "user", "content": "x"}],
                stream_options={"include_usage": True},
            ) as stream,
        ):
            try:
                completion: Any = await stream.get_final_completion()
            except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):
                # The SDK has no final completion for these, only what it had put together.
                completion = stream.current_completion_snapshot
        (choice,), usage = completion.choices, completion.usage
        details = usage.prompt_tokens_details
        return Final(
            choice.message.content or choice.message.refusal or "",
            [(call.id, call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()],
            self.stops[choice.finish_reason],
            Usage(
                input_tokens=usage.prompt_tokens - details.cached_tokens - details.cache_write_tokens,
                output_tokens=usage.completion_tokens,
                cache_read_tokens=details.cached_tokens,
                cache_write_tokens=details.cache_write_tokens,
            ),
        )

    def tool_names(self, body: Json) -> list[str]:
        return [tool["function"]["name"] for tool in body["tools"]]

    def turns(self, body: Json) -> list[Json]:
        return [message for message in body["messages"] if message["role"] != "system"]

    def calls_and_results(self, body: Json) -> tuple[list[tuple[str, str, Json]], list[tuple[str, str]]]:
        calls = [call for message in body["messages"] for call in message.get("tool_calls", ())]
        results = [message for message in body["messages"] if message["role"] == "tool"]
        return (
            [(c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls],
            [(message["tool_call_id"], message["content"]) for message in results],
        )

    def media(self, body: Json) -> list[Json]:
        contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
        return [part for content in contents for part in content if part["type"] != "text"]

    def image(self, media_type: str, base64: str) -> Json:
        return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{base64}"}}

    def document(self, name: str, base64: str) -> Json:
        return {"type": "file", "file": {"filename": name, "file_data": f"data:application/pdf;base64,{base64}"}}


DONE = sse("[DONE]")
MESSAGES, RESPONSES, COMPLETIONS = Messages(), Responses(), Completions()
WIRES: tuple[Wire, ...] = (MESSAGES, RESPONSES, COMPLETIONS)
