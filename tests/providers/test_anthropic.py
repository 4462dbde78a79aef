"""The Messages wire, through the official SDK, against a loopback server."""

from __future__ import annotations

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
from kheish.providers.anthropic import Anthropic, connect
from tests.providers.requests import make_request, read
from tests.providers.wire_server import CUT, Answer, WireServer, anthropic_events

KEY = "sk-ant-test-0123456789"


@pytest.fixture
async def provider(server: WireServer) -> Anthropic:
    return await connect(api_key=KEY, base_url=server.url)


async def test_a_reply_with_everything(server: WireServer, provider: Anthropic) -> None:
    thinking = {"thinking": ["let me ", "see"], "signature": "c2ln"}
    events = anthropic_events(
        thinking,
        {"text": ["Hel", "lo"]},
        {"tool": "bash", "json": ['{"comm', 'and": "ls"}']},
        {"tool": "bash", "json": [""]},
        stop_reason="tool_use",
    )
    server.answers = [Answer(events)]
    deltas, reply = await read(provider)
    assert deltas == [
        ReasoningDelta(text="let me "),
        ReasoningDelta(text="see"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        ToolCallDelta(tool="bash"),
        ToolCallDelta(tool="bash"),
    ]
    assert (reply.text, reply.stop_reason, reply.reasoning, reply.model) == (
        "Hello",
        "tool_use",
        "let me see",
        "claude-test",
    )
    assert reply.tool_calls == (
        ReplyToolCall(provider_id="toolu_2", tool="bash", arguments={"command": "ls"}),
        ReplyToolCall(provider_id="toolu_3", tool="bash", arguments={}),
    )
    assert reply.usage == Usage(input_tokens=11, output_tokens=7, cache_read_tokens=5, cache_write_tokens=3)
    (block,) = reply.provider_state["anthropic"]["thinking"]
    assert block == {"type": "thinking", "thinking": "let me see", "signature": "c2ln"}


async def test_the_request_on_the_wire(server: WireServer, provider: Anthropic) -> None:
    server.answers = [Answer(anthropic_events({"text": ["ok"]}))]
    call = ToolRequest(tool_call_id="toolcall_1", provider_id="toolu_9", tool="bash", arguments={"command": "ls"})
    state = {"anthropic": {"thinking": [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]}}
    attachment = Attachment(name="a.json", media_type="application/json", text='{"x": 1}', bytes=8)
    image = Attachment(name="b.png", media_type="image/png", blob="f" * 64, bytes=9)
    await read(
        provider,
        make_request(
            UserMessage(text="look", attachments=(attachment, image)),
            AssistantMessage(text=" ", tool_requests=(call,), provider_state=state),
            ToolMessage(tool_call_id="toolcall_1", provider_id="toolu_9", tool="bash", text="a\nb", is_error=True),
            UserMessage(text="and now?"),
            AssistantMessage(text=" \n"),
            UserMessage(text="hello?"),
        ),
    )
    (body,) = server.requests
    assert any(KEY in value for value in server.request_headers[0].values())
    assert (body["model"], body["max_tokens"], body["stream"]) == ("some-model", 512, True)
    assert body["tools"] == [{"name": "bash", "description": "Runs.", "input_schema": {"type": "object"}}]
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    user, assistant, results = body["messages"]
    assert user["content"][0]["text"] == "look"
    assert '{"x": 1}' in user["content"][1]["text"] and "a.json" in user["content"][1]["text"]
    assert f"blob:{'f' * 64}" in user["content"][2]["text"]
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolcall_1", "name": "bash", "input": {"command": "ls"}},
    ]
    result, *texts = results["content"]
    assert (result["type"], result["tool_use_id"], result["is_error"]) == ("tool_result", "toolcall_1", True)
    assert [block["text"] for block in texts] == ["and now?", "hello?"]
    assert texts[-1]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [("end_turn", "end"), ("max_tokens", "max_tokens"), ("refusal", "refused"), ("something_new", "end")],
)
async def test_stop_reasons(server: WireServer, provider: Anthropic, stop_reason: str, expected: str) -> None:
    server.answers = [Answer(anthropic_events({"text": ["x"]}, stop_reason=stop_reason))]
    assert (await read(provider))[1].stop_reason == expected


async def test_arguments_that_are_no_json_are_kept(server: WireServer, provider: Anthropic) -> None:
    server.answers = [
        Answer(anthropic_events({"tool": "bash", "json": ['{"command": "l']}, stop_reason="max_tokens")),
        Answer(anthropic_events({"tool": "bash", "json": ["[1]"]})),
    ]
    for expected in ('{"command": "l', "[1]"):
        (call,) = (await read(provider))[1].tool_calls
        assert (call.malformed, call.arguments) == (expected, {})


@pytest.mark.parametrize("kept", range(11))
async def test_a_stream_that_ends_early_is_no_reply(server: WireServer, provider: Anthropic, kept: int) -> None:
    events = anthropic_events({"text": ["one", "two"]}, {"tool": "bash", "json": ["{}"]})
    assert len(events) == 11
    for ending in ([], [CUT]):
        server.answers = [Answer(events[:kept] + ending)]
        with pytest.raises(ProviderError) as caught:
            await read(provider)
        assert caught.value.code == "connection"


async def test_an_error_in_the_stream(server: WireServer, provider: Anthropic) -> None:
    events = anthropic_events({"text": ["one"]})[:4]
    body = '{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}'
    server.answers = [Answer([*events, f"event: error\ndata: {body}\n\n".encode()])]
    with pytest.raises(ProviderError) as caught:
        await read(provider)
    assert (caught.value.code, caught.value.message) == ("overloaded", "Overloaded")
