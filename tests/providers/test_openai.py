"""What is particular to the Responses wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_asyncio

from kheish.core.contracts import Reply
from kheish.core.events import AssistantMessage, Attachment, ToolMessage, UserMessage
from kheish.runtime.ports import Provider
from tests.providers.requests import fail, make_call, make_request, read
from tests.providers.wire_server import Answer, WireServer, sse
from tests.providers.wires import RESPONSES, asked, said, thought

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(running_server: WireServer) -> Provider:
    return await RESPONSES.connect(running_server.url)


async def answered(server: WireServer, provider: Provider, *messages: Any, model: str = "gpt-5-test") -> Any:
    """The body of a request with these messages."""
    server.play(Answer(RESPONSES.text("ok")))
    await read(provider, make_request(*messages, model=model))
    (body,) = server.requests
    return body


async def test_nothing_is_stored_at_the_provider_and_the_whole_conversation_goes_out(
    server: WireServer, provider: Provider
) -> None:
    attachment = Attachment(name="a.json", media_type="application/json", text='{"x": 1}', bytes=8)
    body = await answered(
        server,
        provider,
        UserMessage(text="look", attachments=(attachment,)),
        AssistantMessage(text=" ", tool_requests=(make_call(1, command="ls"),)),
        ToolMessage(tool_call_id="toolcall_1", provider_id="call_1", tool="bash", text="a"),
        AssistantMessage(text="\n"),
        UserMessage(text="and?"),
    )
    assert (body["store"], body["instructions"], body["max_output_tokens"]) == (False, "You are a test.", 512)
    assert body["prompt_cache_key"] == "s", "one for each session"
    assert body["tools"] == [
        {
            "type": "function",
            "name": "bash",
            "description": "Runs.",
            "parameters": {"type": "object"},
            "strict": False,
        }
    ]
    text = 'Attachment a.json (application/json):\n\n{"x": 1}'
    assert body["input"] == [
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("look", text)]},
        {"type": "function_call", "call_id": "toolcall_1", "name": "bash", "arguments": '{"command": "ls"}'},
        {"type": "function_call_output", "call_id": "toolcall_1", "output": "a"},
        {"role": "user", "content": [{"type": "input_text", "text": "and?"}]},
    ]


@pytest.mark.parametrize(
    ("model", "encrypts"),
    [
        ("gpt-5.4", True),
        ("openai/gpt-5.4-mini", True),
        ("o4-mini", True),
        ("codex-mini-latest", True),
        ("gpt-5-chat-latest", False),
        ("gpt-4o", False),
        ("gpt-4.1-mini", False),
        ("gpt-oss-20b", False),
        ("llama-5", False),
    ],
)
async def test_only_a_model_that_reasons_is_asked_for_its_reasoning(
    server: WireServer, provider: Provider, model: str, encrypts: bool
) -> None:
    body = await answered(server, provider, model=model)
    assert body.get("include") == (["reasoning.encrypted_content"] if encrypts else None)


async def reasoned(server: WireServer, provider: Provider, *blocks: Any) -> Reply:
    """The reply of a model that marks what it says as commentary."""
    stream = RESPONSES.stream(thought("h", "m"), *blocks)
    role = b'"role": "assistant"'
    server.play(Answer([event.replace(role, role + b', "phase": "commentary"') for event in stream]))
    return (await read(provider, make_request(model="gpt-5-test")))[1]


async def test_reasoning_goes_back_beside_the_call_that_it_led_to(server: WireServer, provider: Provider) -> None:
    reply = await reasoned(server, provider, said("I look."), asked("bash", {}))
    message = AssistantMessage(
        text=reply.text, tool_requests=(make_call(1),), provider_state=json.loads(json.dumps(reply.provider_state))
    )
    body = await answered(server, provider, UserMessage(text="x"), message)
    assert body["input"][1:] == [
        {
            "type": "reasoning",
            "id": "rs_0",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "ZW5j",
        },
        {"role": "assistant", "content": "I look.", "phase": "commentary"},
        {"type": "function_call", "call_id": "toolcall_1", "name": "bash", "arguments": "{}"},
    ]


async def test_reasoning_goes_nowhere_but_to_the_model_and_the_server_that_it_came_from(
    server: WireServer, provider: Provider
) -> None:
    """Another refuses it, and with it the whole conversation; and it refuses reasoning that led to nothing."""
    reply = await reasoned(server, provider, said("I look."))
    state = reply.provider_state
    elsewhere = {"openai": {**state["openai"], "origin": {"server": "api.openai.com", "model": "gpt-5-test"}}}
    for model, message in (
        ("gpt-5-other", AssistantMessage(text="I look.", provider_state=state)),
        ("gpt-5-test", AssistantMessage(text="I look.", provider_state=elsewhere)),
    ):
        body = await answered(server, provider, UserMessage(text="x"), message, model=model)
        assert body["input"][1:] == [{"role": "assistant", "content": "I look."}]
    body = await answered(server, provider, UserMessage(text="x"), AssistantMessage(text="", provider_state=state))
    assert body["input"][1:] == []


async def test_a_server_that_sends_the_output_item_by_item_only_is_read(server: WireServer, provider: Provider) -> None:
    stream = RESPONSES.stream(thought("hm"), said("Hello"), asked("bash", {"command": "ls"}))
    server.play(Answer(stream))
    whole = await read(provider)
    last = json.loads(stream[-1].partition(b"data: ")[2])
    for output in (None, []):
        last["response"]["output"] = output
        server.play(Answer([*stream[:-1], sse(last, last["type"])]))
        assert await read(provider) == whole
    assert whole[1].text == "Hello" and whole[1].tool_calls


async def test_an_item_that_begins_as_nothing_is_passed_over(server: WireServer, provider: Provider) -> None:
    stream = RESPONSES.text("Hello")
    empty = sse({"type": "response.output_item.added", "output_index": 7, "sequence_number": 9, "item": None})
    server.play(Answer([*stream[:2], empty, *stream[2:]]))
    assert (await read(provider))[1].text == "Hello"


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("rate_limit_exceeded", "rate_limited"),
        ("server_is_overloaded", "overloaded"),
        ("vector_store_timeout", "timeout"),
        ("invalid_prompt", "content_refused"),
        ("bio_policy", "content_refused"),
        ("image_content_policy_violation", "content_refused"),
        ("image_file_too_large", "too_large"),
        ("invalid_image_format", "invalid"),
        ("invalid_encrypted_content", "invalid"),
        ("something_new", "server_error"),
    ],
)
async def test_the_words_of_a_response_that_failed(
    server: WireServer, provider: Provider, word: str, code: str
) -> None:
    failed = {**RESPONSES.response("failed"), "error": {"code": word, "message": "so it is"}}
    event = sse({"type": "response.failed", "sequence_number": 9, "response": failed}, "response.failed")
    server.play(Answer([*RESPONSES.text("Hel")[:4], event]))
    error = await fail(provider)
    assert (error.code, error.message) == (code, "so it is")


async def test_a_response_that_failed_without_a_word(server: WireServer, provider: Provider) -> None:
    event = sse({"type": "response.failed", "response": RESPONSES.response("failed")}, "response.failed")
    server.play(Answer([*RESPONSES.text("Hel")[:4], event]))
    error = await fail(provider)
    assert (error.code, error.message) == ("server_error", "the provider failed and does not say why")
