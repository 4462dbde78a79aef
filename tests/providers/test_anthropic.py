"""What is particular to the Messages wire."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from kheish.core.events import AssistantMessage, Attachment, Message, ToolMessage, UserMessage
from kheish.providers.anthropic import to_body
from kheish.runtime.ports import Provider
from tests.providers.requests import make_call, make_request, read
from tests.providers.wire_server import Answer, WireServer
from tests.providers.wires import MESSAGES, asked, thought

pytestmark = pytest.mark.asyncio(loop_scope="module")

THINKING = [{"type": "thinking", "thinking": "hm", "signature": "c2ln"}]
STATE = {"anthropic": {"origin": {"server": "127.0.0.1", "model": "some-model"}, "thinking": THINKING}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(running_server: WireServer) -> Provider:
    return await MESSAGES.connect(running_server.url)


async def test_turns_alternate_and_nothing_blank_is_sent(server: WireServer, provider: Provider) -> None:
    server.play(Answer(MESSAGES.text("ok")))
    attachment = Attachment(name="a.json", media_type="application/json", text='{"x": 1}', bytes=8)
    await read(
        provider,
        make_request(
            UserMessage(text="look", attachments=(attachment,)),
            AssistantMessage(text=" ", tool_requests=(make_call(1, command="ls"),), provider_state=STATE),
            ToolMessage(tool_call_id="toolcall_1", provider_id="call_1", tool="bash", text=" ", is_error=True),
            UserMessage(text="and now?"),
            AssistantMessage(text=" \n", provider_state=STATE),
            UserMessage(text="hello?"),
        ),
    )
    (body,) = server.requests
    assert body["tools"] == [{"name": "bash", "description": "Runs.", "input_schema": {"type": "object"}}]
    user, assistant, results = body["messages"]
    assert [block["text"] for block in user["content"]] == [
        "look",
        'Attachment a.json (application/json):\n\n{"x": 1}',
    ]
    assert assistant["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "tool_use", "id": "toolcall_1", "name": "bash", "input": {"command": "ls"}},
    ]
    assert results["content"] == [
        {"type": "tool_result", "tool_use_id": "toolcall_1", "is_error": True},
        {"type": "text", "text": "and now?"},
        {"type": "text", "text": "hello?", "cache_control": {"type": "ephemeral"}},
    ]
    assert body["system"] == [
        {"type": "text", "text": "You are a test.", "cache_control": {"type": "ephemeral"}},
    ]


def cached(body: dict[str, Any]) -> list[tuple[str, Any]]:
    """What stands where a request says that what goes before may be taken from a cache."""
    blocks = [*body.get("tools", ()), *body["system"], *(b for turn in body["messages"] for b in turn["content"])]
    return [(b["type"], b.get("text") or b.get("tool_use_id")) for b in blocks if "cache_control" in b]


def steps(count: int) -> list[Message]:
    """An input, and steps of the model."""
    found: list[Message] = [UserMessage(text="look")]
    for number in range(count):
        found.append(AssistantMessage(text="", tool_requests=(make_call(number, command="ls"),)))
        result = ToolMessage(
            tool_call_id=f"toolcall_{number}", provider_id=f"call_{number}", tool="bash", text=f"r{number}"
        )
        found.append(result)
    return found


async def test_each_call_marks_where_the_one_before_it_ended_and_its_own_end(
    server: WireServer, provider: Provider
) -> None:
    server.play(Answer(MESSAGES.text("ok")))
    for count in range(4):
        await read(provider, make_request(*steps(count)))
    system, ends = (
        ("text", "You are a test."),
        [("text", "look"), *(("tool_result", f"toolcall_{n}") for n in range(3))],
    )
    marks = [cached(body) for body in server.requests]
    assert marks == [[system, ends[0]], [system, *ends[:2]], [system, *ends[1:3]], [system, *ends[2:4]]]
    assert all(before[-1] in after for before, after in pairwise(marks)), "what was written is read"


async def test_no_mark_stands_at_an_empty_result(server: WireServer, provider: Provider) -> None:
    server.play(Answer(MESSAGES.text("ok")))
    empty = ToolMessage(tool_call_id="toolcall_0", provider_id="call_0", tool="bash", text="")
    messages = [*steps(1)[:2], empty]
    await read(provider, make_request(*messages))
    assert cached(server.requests[0]) == [("text", "You are a test."), ("text", "look")]


@pytest.mark.parametrize(
    ("origin", "sent"),
    [
        ({"origin": {"server": "127.0.0.1", "model": "some-model"}}, THINKING),
        ({"origin": {"server": "127.0.0.1", "model": "another-model"}}, []),
        ({"origin": {"server": "api.anthropic.com", "model": "some-model"}}, []),
        ({}, THINKING),  # as it was journaled before there were chains
    ],
)
async def test_thinking_goes_back_only_to_where_it_came_from(origin: dict[str, Any], sent: list[Any]) -> None:
    state = {"anthropic": {"thinking": THINKING, **origin}}
    message = AssistantMessage(text="so", provider_state=state)
    (turn,) = to_body(make_request(message), "127.0.0.1", {})["messages"]
    assert [block for block in turn["content"] if block["type"] == "thinking"] == sent


async def test_thinking_is_kept_with_its_signature_to_go_back(server: WireServer, provider: Provider) -> None:
    server.play(Answer(MESSAGES.stream(thought("h", "m"), asked("bash", {}))))
    _, reply = await read(provider)
    assert reply.provider_state == STATE
