"""The Chat Completions wire, through the official SDK, against a loopback server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kheish.core.contracts import (
    AssistantMessage,
    ReasoningDelta,
    ReplyToolCall,
    TextDelta,
    ToolCallDelta,
    ToolMessage,
    UserMessage,
)
from kheish.core.events import Attachment, ToolRequest, Usage
from kheish.errors import ProviderError
from kheish.providers.openai_compatible import OpenAICompatible, connect
from tests.providers.requests import make_request, read
from tests.providers.wire_server import (
    CUT,
    DONE,
    Answer,
    WireServer,
    openai_chunk,
    openai_usage,
)


def part(arguments: str, *, index: int | None = None, id: str | None = None, name: str | None = None) -> Any:
    made: dict[str, Any] = {"function": {"arguments": arguments, **({"name": name} if name else {})}}
    return {**made, **({"id": id} if id else {}), **({} if index is None else {"index": index})}


def calls(*parts: Any) -> bytes:
    return openai_chunk({"tool_calls": list(parts)})


@pytest.fixture
async def provider(server: WireServer) -> OpenAICompatible:
    return await connect(api_key="", base_url=f"{server.url}/v1")


async def test_a_reply_with_everything(server: WireServer, provider: OpenAICompatible) -> None:
    server.answers = [
        Answer(
            [
                openai_chunk({"role": "assistant", "content": ""}),
                openai_chunk({"reasoning_content": "hm"}),
                openai_chunk({"content": "Hel"}),
                openai_chunk({"content": "lo"}),
                calls(part("", index=0, id="call_a", name="bash")),
                calls(part('{"comm', index=0)),
                calls(part("{}", index=1, id="call_b", name="bash")),
                calls(part('and": "ls"}', index=0)),
                openai_chunk({}, "tool_calls"),
                openai_usage(30, 9, cached=20),
                DONE,
            ]
        )
    ]
    deltas, reply = await read(provider)
    assert deltas == [
        ReasoningDelta(text="hm"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        ToolCallDelta(tool="bash"),
        ToolCallDelta(tool="bash"),
    ]
    assert (reply.text, reply.reasoning, reply.stop_reason, reply.model) == ("Hello", "hm", "tool_use", "gpt-test")
    assert reply.tool_calls == (
        ReplyToolCall(provider_id="call_a", tool="bash", arguments={"command": "ls"}),
        ReplyToolCall(provider_id="call_b", tool="bash", arguments={}),
    )
    assert reply.usage == Usage(input_tokens=10, output_tokens=9, cache_read_tokens=20)


@pytest.mark.parametrize(
    "chunks",
    [
        [calls(part('{"a": 1}', id="x", name="one"), part('{"b": 2}', id="y", name="two"))],
        [calls(part('{"a": ', id="x", name="one")), calls(part("1}")), calls(part('{"b": 2}', id="y", name="two"))],
        [calls(part('{"a": 1}', name="one")), calls(part('{"b": 2}', name="two"))],
        [calls(part('{"a": ', id="x", name="one"), part('{"b": ', id="y", name="two")), calls(part("1}", id="x")),
         calls(part("2}", id="y"))],
    ],
)  # fmt: skip
async def test_calls_without_an_index(server: WireServer, provider: OpenAICompatible, chunks: list[bytes]) -> None:
    server.answers = [Answer([*chunks, openai_chunk({}, "stop"), DONE])]
    reply = (await read(provider))[1]
    assert [(call.tool, call.arguments) for call in reply.tool_calls] == [("one", {"a": 1}), ("two", {"b": 2})]
    assert reply.stop_reason == "tool_use"
    assert len({call.provider_id for call in reply.tool_calls}) == 2


async def test_the_request_on_the_wire(server: WireServer, provider: OpenAICompatible) -> None:
    server.answers = [Answer([openai_chunk({"content": "ok"}, "stop"), DONE])]
    call = ToolRequest(tool_call_id="toolcall_1", provider_id="c", tool="bash", arguments={"command": "ls"})
    attachment = Attachment(name="a.json", media_type="application/json", text='{"x": 1}', bytes=8)
    await read(
        provider,
        make_request(
            UserMessage(text="look", attachments=(attachment,)),
            AssistantMessage(text="", tool_requests=(call,)),
            ToolMessage(tool_call_id="toolcall_1", provider_id="c", tool="bash", text="a"),
        ),
    )
    (body,) = server.requests
    assert (body["model"], body["max_tokens"], body["stream"]) == ("some-model", 512, True)
    assert body["stream_options"] == {"include_usage": True}
    assert body["tools"][0]["function"]["parameters"] == {"type": "object"}
    system, user, assistant, tool = body["messages"]
    assert system == {"role": "system", "content": "You are a test."}
    assert user["content"].startswith("look\n\n") and '{"x": 1}' in user["content"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"command": "ls"}
    assert tool == {"role": "tool", "tool_call_id": "toolcall_1", "content": "a"}


async def test_openai_itself_takes_another_name_for_the_limit() -> None:
    provider = await connect(api_key="sk-x", base_url="https://api.openai.com/v1")
    assert provider._limit == "max_completion_tokens"


@pytest.mark.parametrize(
    ("finish_reason", "expected"), [("stop", "end"), ("length", "max_tokens"), ("content_filter", "refused")]
)
async def test_stop_reasons(server: WireServer, provider: OpenAICompatible, finish_reason: str, expected: str) -> None:
    server.answers = [Answer([openai_chunk({"content": "x"}, finish_reason), DONE])]
    assert (await read(provider))[1].stop_reason == expected


@pytest.mark.parametrize("ending", [[], [CUT], [DONE]])
async def test_a_stream_that_ends_early_is_no_reply(
    server: WireServer, provider: OpenAICompatible, ending: list[bytes]
) -> None:
    server.answers = [Answer([openai_chunk({"content": "Hel"}), *ending])]
    with pytest.raises(ProviderError) as caught:
        await read(provider)
    assert caught.value.code == "connection"


async def test_an_error_in_the_stream(server: WireServer, provider: OpenAICompatible) -> None:
    error = b'data: {"error": {"message": "slow down", "type": "x", "code": "rate_limit_exceeded"}}\n\n'
    server.answers = [Answer([openai_chunk({"content": "Hel"}), error])]
    with pytest.raises(ProviderError) as caught:
        await read(provider)
    assert (caught.value.code, caught.value.message) == ("rate_limited", "slow down")
