"""What is particular to the Chat Completions wire: mostly the servers that speak it each in their own way."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace
from openai.types.chat import ChatCompletionChunk

from kheish.core.contracts import ReasoningDelta, Reply
from kheish.core.events import AssistantMessage, Attachment, ToolMessage, ToolRequest, UserMessage
from kheish.ids import new_id
from kheish.providers.openai_compatible import Reader, to_body
from kheish.runtime.ports import Provider
from tests.providers.requests import fail, make_call, make_request, read
from tests.providers.wire_server import Answer, WireServer
from tests.providers.wires import COMPLETIONS, DONE

pytestmark = pytest.mark.asyncio(loop_scope="module")


def part(arguments: str, *, index: int | None = None, id: str | None = None, name: str | None = None) -> Any:
    made: dict[str, Any] = {"function": {"arguments": arguments, **({"name": name} if name else {})}}
    return {**made, **({"id": id} if id else {}), **({} if index is None else {"index": index})}


def calls(*parts: Any) -> bytes:
    return COMPLETIONS.chunk({"tool_calls": list(parts)})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(running_server: WireServer) -> Provider:
    return await COMPLETIONS.connect(running_server.url)


ONE = part('{"a": 1}', id="x", name="one")
TWO = part('{"b": 2}', id="y", name="two")


@pytest.mark.parametrize(
    "chunks",
    [
        [calls(ONE, TWO)],
        [calls(part('{"a": ', id="x", name="one")), calls(part("1}")), calls(TWO)],
        [calls(part('{"a": 1}', name="one")), calls(part('{"b": 2}', name="two"))],
        [calls(part('{"a": ', id="x", name="one"), part('{"b": ', id="y", name="two")), calls(part("1}", id="x")),
         calls(part("2}", id="y"))],
        [calls({**ONE, "index": 0}), calls({**TWO, "index": 0})],
        [calls(part('{"a": ', index=0, id="x", name="one")), calls(part("1}", index=0, id="x", name="one")),
         calls({**TWO, "index": 1})],
        [calls(part('{"a": ', index=0, id="x", name="one")), calls(part("1}", index=0)), calls({**TWO, "index": 0})],
    ],
    ids=["no-index", "no-id-later", "no-id", "by-id", "one-index", "named-again", "one-index-in-pieces"],
)  # fmt: skip
async def test_calls_are_told_apart_however_they_are_marked(
    server: WireServer, provider: Provider, chunks: list[bytes]
) -> None:
    server.play(Answer([*chunks, COMPLETIONS.chunk({}, "stop"), DONE]))
    _, reply = await read(provider)
    assert [(call.tool, call.arguments) for call in reply.tool_calls] == [("one", {"a": 1}), ("two", {"b": 2})]
    assert reply.stop_reason == "tool_use"
    assert len({call.provider_id for call in reply.tool_calls}) == 2


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_comes_under_either_name(server: WireServer, provider: Provider, field: str) -> None:
    server.play(Answer([COMPLETIONS.chunk({field: "hm"}), *COMPLETIONS.text("ok")]))
    deltas, reply = await read(provider)
    assert (deltas[0], reply.reasoning) == (ReasoningDelta(text="hm"), "hm")


@pytest.mark.parametrize(
    ("reason", "code"),
    [("error", "server_error"), ("function_call_filter: MALFORMED", "server_error"),
     ("insufficient_system_resource", "overloaded")],
)  # fmt: skip
async def test_a_reason_that_is_a_failure_makes_no_reply(
    server: WireServer, provider: Provider, reason: str, code: str
) -> None:
    server.play(Answer([COMPLETIONS.chunk({"content": "Hel"}), COMPLETIONS.chunk({}, reason), DONE]))
    assert (await fail(provider)).code == code


async def test_a_status_within_the_stream_counts_as_one(server: WireServer, provider: Provider) -> None:
    event = COMPLETIONS.chunk({}, "error", error={"code": 429, "message": "slow"})
    server.play(Answer([COMPLETIONS.chunk({"content": "Hel"}), event]))
    error = await fail(provider)
    assert (error.code, error.message) == ("rate_limited", "429: slow")


async def test_the_end_is_enough_without_usage_and_done(server: WireServer, provider: Provider) -> None:
    server.play(Answer([COMPLETIONS.chunk({"content": "ok"}, "stop")]))
    assert (await read(provider))[1].text == "ok"


async def test_a_text_is_one_string_which_every_server_takes(server: WireServer, provider: Provider) -> None:
    server.play(Answer(COMPLETIONS.text("ok")))
    attachment = Attachment(name="a.json", media_type="application/json", text='{"x": 1}', bytes=8)
    await read(
        provider,
        make_request(
            UserMessage(text="look", attachments=(attachment,)),
            AssistantMessage(text="", tool_requests=(make_call(1, command="ls"),)),
            ToolMessage(tool_call_id="toolcall_1", provider_id="call_1", tool="bash", text="a"),
        ),
    )
    (body,) = server.requests
    assert (body["max_tokens"], body["stream_options"]) == (512, {"include_usage": True})
    function = {"name": "bash", "description": "Runs.", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    call = {"id": "toolcall_1", "type": "function", "function": {"name": "bash", "arguments": '{"command": "ls"}'}}
    assert body["messages"] == [
        {"role": "system", "content": "You are a test."},
        {"role": "user", "content": 'look\n\nAttachment a.json (application/json):\n\n{"x": 1}'},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolcall_1", "content": "a"},
    ]


async def test_signatures_of_calls_go_back_to_the_server_that_made_them_alone(
    server: WireServer, provider: Provider
) -> None:
    signature = {"google": {"thought_signature": "c2ln"}}
    signed, plain = {**ONE, "index": 0, "extra_content": signature}, {**TWO, "index": 1}
    server.play(Answer([calls(signed), calls(plain), COMPLETIONS.chunk({}, "tool_calls"), DONE]))
    _, reply = await read(provider)
    requests = tuple(
        ToolRequest(tool_call_id=f"toolcall_{n}", provider_id=call.provider_id, tool=call.tool, arguments={})
        for n, call in enumerate(reply.tool_calls)
    )
    request = make_request(AssistantMessage(text="", tool_requests=requests, provider_state=reply.provider_state))
    for host, expected in (("127.0.0.1", [signature, None]), ("openrouter.ai", [None, None])):
        *_, message = to_body(request, host, {})["messages"]
        assert [call.get("extra_content") for call in message["tool_calls"]] == expected


@pytest.mark.parametrize(
    ("host", "model", "is_mistral"),
    [
        ("api.mistral.ai", "codestral-latest", True),
        ("127.0.0.1", "mistralai/Devstral-Small", True),
        ("api.openai.com", "gpt-5.4", False),
    ],
)
async def test_mistral_gets_ids_and_turns_that_it_takes(host: str, model: str, is_mistral: bool) -> None:
    ids = [new_id("toolcall"), new_id("toolcall")]
    requests = tuple(replace(make_call(), tool_call_id=id_) for id_ in ids)
    results = [ToolMessage(tool_call_id=id_, provider_id="call_1", tool="bash", text="a") for id_ in ids]
    talk = (UserMessage(text="go"), AssistantMessage(text="", tool_requests=requests), *results, UserMessage(text="?"))
    body = to_body(replace(make_request(*talk), model=model), host, {})
    assert ("stream_options" in body) == (host != "api.mistral.ai")
    _, _, asked, first, second, *rest = body["messages"]
    sent = [call["id"] for call in asked["tool_calls"]]
    assert sent == [first["tool_call_id"], second["tool_call_id"]] and len(set(sent)) == 2
    assert all(re.fullmatch("[A-Za-z0-9]{9}", id_) for id_ in sent) == is_mistral
    assert [message["role"] for message in rest] == ["assistant", "user"][not is_mistral :]


@pytest.mark.parametrize("host", ["api.deepseek.com", "api.moonshot.ai", "127.0.0.1"])
async def test_reasoning_goes_back_to_the_servers_that_refuse_tool_calls_without_it(host: str) -> None:
    def end(server: str, reasoning: str) -> Reply:
        reader = Reader(server)
        for delta, reason in ({"reasoning_content": reasoning}, None), ({"tool_calls": [ONE]}, "tool_calls"):
            chunk = json.loads(COMPLETIONS.chunk(delta, reason).removeprefix(b"data: "))
            reader.read(ChatCompletionChunk.construct(**chunk))
        return reader.reply()

    replies = [end(host, "let me see"), end(host, ""), end("api.other.com", "not for you")]
    messages = [
        AssistantMessage(
            text="", tool_requests=(make_call(n),), reasoning=reply.reasoning, provider_state=reply.provider_state
        )
        for n, reply in enumerate(replies)
    ]
    _, *sent = to_body(make_request(*messages), host, {})["messages"]
    expected = [None] * 3 if host == "127.0.0.1" else ["let me see", "", ""]
    assert [message.get("reasoning_content") for message in sent] == expected


async def test_details_of_reasoning_go_back_whole_to_the_model_behind_openrouter() -> None:
    claude, gemini = {"format": "anthropic-claude-v1"}, {"format": "google-gemini-v1"}
    reader = Reader("openrouter.ai", "google/gemini-3-pro-preview")
    for delta, reason in (
        ({"reasoning_details": [{"type": "reasoning.text", "text": "let me ", "index": 0, **claude}]}, None),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "see", "index": 0, **claude}]}, None),
        ({"reasoning_details": [{"type": "reasoning.text", "signature": "c2ln", "index": 0, **claude}]}, None),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "more", "index": 1}]}, None),
        (
            {"reasoning_details": [{"type": "reasoning.encrypted", "data": "eA==", "id": n, **gemini} for n in "ab"]},
            None,
        ),
        ({"tool_calls": [ONE]}, "tool_calls"),
    ):
        chunk = json.loads(COMPLETIONS.chunk(delta, reason).removeprefix(b"data: "))
        reader.read(ChatCompletionChunk.construct(**chunk))
    reply = reader.reply()
    message = AssistantMessage(text="", tool_requests=(make_call(),), provider_state=reply.provider_state)
    whole = [
        {"type": "reasoning.text", "text": "let me see", "index": 0, "signature": "c2ln", **claude},
        {"type": "reasoning.text", "text": "more", "index": 1},
        *({"type": "reasoning.encrypted", "data": "eA==", "id": n, **gemini} for n in "ab"),
    ]
    for host, model, expected in (
        ("openrouter.ai", "google/gemini-3-pro-preview", whole),
        ("openrouter.ai", "openai/gpt-5.4-mini", None),
        ("api.x.ai", "google/gemini-3-pro-preview", None),
    ):
        *_, sent = to_body(replace(make_request(message), model=model), host, {})["messages"]
        assert sent.get("reasoning_details") == expected


@pytest.mark.parametrize(
    ("host", "model", "is_told"),
    [
        ("generativelanguage.googleapis.com", "gemini-3-pro-preview", True),
        ("generativelanguage.googleapis.com", "models/gemini-flash-latest", True),
        ("generativelanguage.googleapis.com", "gemini-2.5-flash", False),
        ("generativelanguage.googleapis.com", "gemma-3", False),
        ("openrouter.ai", "google/gemini-3-pro-preview", False),
    ],
)
async def test_gemini_is_told_of_calls_that_another_model_made(host: str, model: str, is_told: bool) -> None:
    message = AssistantMessage(text="", tool_requests=(make_call(1), make_call(2)))
    *_, made = to_body(replace(make_request(message), model=model), host, {})["messages"]
    first, second = made["tool_calls"]
    skips = {"google": {"thought_signature": "skip_thought_signature_validator"}}
    assert first.get("extra_content") == (skips if is_told else None) and "extra_content" not in second


@pytest.mark.parametrize("host", ["api.openai.com", "eu.api.openai.com", "mine.openai.azure.com"])
async def test_openai_itself_takes_another_name_for_the_limit(host: str) -> None:
    body = to_body(make_request(), host, {})
    assert (body["max_completion_tokens"], "max_tokens" in body) == (512, False)


@pytest.mark.parametrize(
    ("host", "kinds"),
    [("api.x.ai", {"image_url"}), ("generativelanguage.googleapis.com", {"image_url"}), ("h", {"image_url", "file"})],
)
async def test_a_server_is_not_sent_what_it_refuses(host: str, kinds: set[str]) -> None:
    image = Attachment(name="a.png", media_type="image/png", blob="a" * 64, bytes=4)
    document = Attachment(name="b.pdf", media_type="application/pdf", blob="b" * 64, bytes=5)
    blobs = {image.blob: b"\x89PNG", document.blob: b"%PDF-"}
    body = to_body(make_request(UserMessage(text="look", attachments=(image, document))), host, blobs)
    text, *shown = body["messages"][1]["content"]
    assert {p["type"] for p in shown} == kinds
    assert (f"blob:{document.blob}" in text["text"]) == ("file" not in kinds)
