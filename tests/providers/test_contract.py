"""What every driver promises, each over its own wire, through the official SDK, against a loopback server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from kheish.core.contracts import ReasoningDelta, Reply, ReplyToolCall, TextDelta, ToolCallDelta, UsageDelta
from kheish.core.effects import CallModel
from kheish.core.events import AssistantMessage, Attachment, StopReason, ToolMessage, ToolRequest, Usage, UserMessage
from kheish.core.outcomes import ModelFailed
from kheish.errors import ProviderError
from kheish.limits import MODEL_REPLY_BYTES_MAX
from kheish.providers import sdk
from kheish.runtime.hub import Hub
from kheish.runtime.model_calls import call_model
from kheish.runtime.ports import Provider
from kheish.store.blobs import Blobs
from tests.providers.requests import fail, make_call, make_request, read
from tests.providers.wire_server import CUT, GATE, HANG, HEAD, Answer, WireServer, failure, sse
from tests.providers.wires import MESSAGES, USAGE, WIRES, Asked, Block, Wire, asked, refused, said, thought

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "a-very-private-key-0123"
PATIENCE_S = 10

FULL: tuple[Block, ...] = (
    thought("let me ", "see"),
    said("Hel", "lo"),
    asked("bash", {"command": "ls"}),
    asked("bash", ""),
)


@pytest.fixture(scope="module", params=[pytest.param(wire, id=wire.driver) for wire in WIRES])
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(wire: Wire, running_server: WireServer) -> Provider:
    return await wire.connect(running_server.url, KEY)


# -- replies --------------------------------------------------------------------------------------------------------


async def test_a_reply_with_everything(server: WireServer, wire: Wire, provider: Provider) -> None:
    server.play(Answer(wire.stream(*FULL)))
    deltas, reply = await read(provider)
    assert deltas == [
        ReasoningDelta(text="let me "),
        ReasoningDelta(text="see"),
        TextDelta(text="Hel"),
        TextDelta(text="lo"),
        ToolCallDelta(tool="bash"),
        ToolCallDelta(tool="bash"),
    ]
    assert (reply.text, reply.reasoning, reply.model) == ("Hello", "let me see", wire.model)
    assert (reply.stop_reason, reply.usage) == ("tool_use", USAGE)
    assert reply.tool_calls == (
        ReplyToolCall(provider_id="call_2", tool="bash", arguments={"command": "ls"}),
        ReplyToolCall(provider_id="call_3", tool="bash", arguments={}),
    )
    assert server.paths == [wire.path]


@pytest.mark.parametrize(
    ("blocks", "stop"),
    [
        ((said("Hello"),), None),
        ((said("Hel", "lo", " \N{GRINNING FACE}"),), "max_tokens"),
        ((said("I "), said("may not"),), "refused"),
        ((asked("bash", {"command": "ls"}),), None),
        ((thought("so"), said("Both: "), asked("bash", {"command": "a"}), asked("read_file", {"path": "é"})), None),
    ],
    ids=["text", "cut", "refused", "call", "parallel"],
)  # fmt: skip
async def test_what_is_kept_of_a_reply_is_what_the_sdk_itself_makes_of_it(
    server: WireServer, wire: Wire, provider: Provider, blocks: tuple[Block, ...], stop: StopReason | None
) -> None:
    server.play(Answer(wire.stream(*blocks, stop=stop)))
    final = await wire.final(server.url)
    _, reply = await read(provider)
    assert (reply.text, reply.stop_reason, reply.usage) == (final.text, final.stop_reason, final.usage)
    calls = [(id_, tool, json.loads(raw) if isinstance(raw, str) else raw) for id_, tool, raw in final.calls]
    assert [(call.provider_id, call.tool, call.arguments) for call in reply.tool_calls] == calls
    assert final.text or calls


async def test_a_refusal_in_words_is_a_refusal(server: WireServer, wire: Wire, provider: Provider) -> None:
    stop: StopReason | None = "refused" if wire is MESSAGES else None
    server.play(Answer(wire.stream(refused("I may ", "not"), stop=stop)))
    _, reply = await read(provider)
    assert (reply.text, reply.stop_reason) == ("I may not", "refused")


@pytest.mark.parametrize("raw", ['{"command": "l', "[1]", '{"a": NaN}'])
async def test_arguments_that_are_no_object_are_kept_as_they_came(
    server: WireServer, wire: Wire, provider: Provider, raw: str
) -> None:
    server.play(Answer(wire.stream(asked("bash", raw), stop="max_tokens")))
    _, reply = await read(provider)
    assert reply.tool_calls == (ReplyToolCall(provider_id="call_0", tool="bash", arguments={}, malformed=raw),)
    assert reply.stop_reason == "tool_use"


async def test_tool_calls_that_never_end_are_given_up_before_they_end(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    pieces = ("x" * 10_000,) * (2 * MODEL_REPLY_BYTES_MAX // 10_000)
    for blocks in ([Asked("bash", pieces)], [Asked("bash", pieces[:80]) for _ in range(4)]):
        whole = wire.stream(*blocks)
        end = next(number for number, event in enumerate(whole) if wire.is_last(event))
        server.play(Answer([*whole[:end], HANG]))
        with pytest.raises(ProviderError, match=f"over {MODEL_REPLY_BYTES_MAX}") as caught:
            await read(provider)
        assert caught.value.code == "invalid_reply"


async def test_the_last_word_of_a_run_is_asked_for_without_tools(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    """They stay in the request, as the transcript has calls of them."""
    choices = []
    for may_use_tools in (True, False):
        server.play(Answer(wire.text("x")))
        await read(provider, make_request(may_use_tools=may_use_tools))
        body = server.requests[-1]
        assert len(body["tools"]) == 1
        choices.append(body.get("tool_choice"))
    assert choices == [None, {"type": "none"} if wire is MESSAGES else "none"]


async def test_what_a_broken_stream_had_taken_is_known_where_the_provider_said_it(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    stream = wire.text("one", "two")
    cut = next(number for number, event in enumerate(stream) if b"two" in event)
    server.play(Answer([*stream[:cut], CUT]))
    taken = []
    with pytest.raises(ProviderError):
        async for item in provider.stream(make_request()):
            if isinstance(item, UsageDelta):
                taken.append(item.usage.input_tokens)
    assert taken == ([USAGE.input_tokens] if wire is MESSAGES else [])


async def test_a_reason_that_nobody_knows_is_an_end(server: WireServer, wire: Wire, provider: Provider) -> None:
    stream = wire.text("x", stop="max_tokens")
    known = next(word for word, reason in wire.stops.items() if reason == "max_tokens").encode()
    assert any(known in event for event in stream)
    server.play(Answer([event.replace(known, b"something_new") for event in stream]))
    assert (await read(provider))[1].stop_reason == "end"


async def test_events_that_nobody_knows_are_passed_over(server: WireServer, wire: Wire, provider: Provider) -> None:
    unknown = {"type": "response.something_new", "index": 0, "item": {"type": "new"}, "choices": [], "id": "c"}
    stream = wire.text("x")
    server.play(Answer([stream[0], b": a comment\n\n", sse(unknown, unknown["type"]), *stream[1:]]))
    deltas, reply = await read(provider)
    assert (deltas, reply.text) == ([TextDelta(text="x")], "x")


async def test_usage_that_is_left_out_is_none(server: WireServer, wire: Wire, provider: Provider) -> None:
    stream = [event.replace(b'"usage"', b'"no_usage"') for event in wire.text("x")]
    server.play(Answer(stream))
    assert (await read(provider))[1].usage == Usage()


@pytest.mark.parametrize("split", [1, 7])
async def test_the_bytes_may_come_in_any_pieces(server: WireServer, wire: Wire, provider: Provider, split: int) -> None:
    stream = wire.stream(thought("é"), said("na", "ïve \N{GRINNING FACE}"), asked("bash", {"command": "ü"}))
    stream = [event.replace(b"\\u00ef", "ï".encode()) for event in stream]
    server.play(Answer(stream))
    whole = await read(provider)
    server.play(Answer(stream, split=split))
    assert await read(provider) == whole
    assert whole[1].text == "naïve \N{GRINNING FACE}"


async def test_halves_of_a_character_are_joined_or_replaced(server: WireServer, wire: Wire, provider: Provider) -> None:
    pieces = [event.replace(b"\\\\u", b"\\u") for event in wire.text("\\ud83d", "\\ude00 and \\ud83d")]
    server.play(Answer(pieces))
    deltas, reply = await read(provider)
    assert reply.text == "\N{GRINNING FACE} and \N{REPLACEMENT CHARACTER}"
    assert all(delta.text.encode() for delta in deltas)


async def test_twenty_streams_at_once_do_not_mix(server: WireServer, wire: Wire, provider: Provider) -> None:
    server.play(**{f"m{n}": Answer([GATE, *wire.text(*[f"{n}."] * 20)]) for n in range(20)})
    reading = [asyncio.ensure_future(read(provider, make_request(model=f"m{n}"))) for n in range(20)]
    async with asyncio.timeout(PATIENCE_S):
        await server.until_asked(20)
        for _ in range(20):
            server.gate.release()
        replies = [reply for _, reply in await asyncio.gather(*reading)]
    assert [reply.text for reply in replies] == [f"{n}." * 20 for n in range(20)]


# -- requests -------------------------------------------------------------------------------------------------------


async def test_the_conversation_goes_out_with_our_ids_and_the_key(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    server.play(Answer(wire.text("ok")))
    await read(
        provider,
        make_request(
            UserMessage(text="look"),
            AssistantMessage(text="I look.", tool_requests=(make_call(1, command="ls"), make_call(2))),
            ToolMessage(tool_call_id="toolcall_1", provider_id="call_1", tool="bash", text="a\nb", is_error=True),
            ToolMessage(tool_call_id="toolcall_2", provider_id="call_2", tool="bash", text="c"),
            UserMessage(text="and now?"),
        ),
    )
    (body,) = server.requests
    assert (body["model"], body["stream"], wire.tool_names(body)) == ("some-model", True, ["bash"])
    assert 512 in body.values() and "You are a test." in json.dumps(body)
    calls, results = wire.calls_and_results(body)
    assert calls == [("toolcall_1", "bash", {"command": "ls"}), ("toolcall_2", "bash", {})]
    assert results == [("toolcall_1", "a\nb"), ("toolcall_2", "c")]
    spoken = json.dumps(wire.turns(body))
    positions = [spoken.index(words) for words in ('"look"', "I look.", "toolcall_1", "toolcall_2", '"and now?"')]
    assert positions == sorted(positions)
    assert any(KEY in value for value in server.request_headers[0].values())


@pytest.mark.parametrize("called", ["functions.read file", "", "1st", "<|channel|>bash", "é" * 200])
async def test_a_tool_that_no_api_could_know_goes_back_under_a_name_that_all_take(
    server: WireServer, wire: Wire, provider: Provider, called: str
) -> None:
    server.play(Answer(wire.text("ok")))
    asked_for = ToolRequest(tool_call_id="toolcall_1", provider_id="call_1", tool=called, arguments={})
    result = ToolMessage(
        tool_call_id="toolcall_1", provider_id="call_1", tool=called, text="there is none", is_error=True
    )
    await read(
        provider, make_request(UserMessage(text="look"), AssistantMessage(text="", tool_requests=(asked_for,)), result)
    )
    calls, _ = wire.calls_and_results(server.requests[0])
    assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_-]{0,63}", calls[0][1])


async def test_a_reply_that_says_nothing_does_not_go_back(server: WireServer, wire: Wire, provider: Provider) -> None:
    server.play(Answer(wire.text("ok")))
    await read(provider, make_request(UserMessage(text="look"), AssistantMessage(text=" "), UserMessage(text="well?")))
    assert {turn["role"] for turn in wire.turns(server.requests[0])} == {"user"}


IMAGES = {
    "image/png": b"\x89PNG\r\n\x1a\n\x00rest",
    "image/jpeg": b"\xff\xd8\xff\xe0rest",
    "image/gif": b"GIF89arest",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPrest",
}
PDF = b"%PDF-1.7\nrest"


def attach(number: int, media_type: str, data: bytes, name: str = "file") -> Attachment:
    return Attachment(name=name, media_type=media_type, blob=f"{number:064x}", bytes=len(data))


async def test_images_and_documents_are_shown_where_the_route_takes_them(server: WireServer, wire: Wire) -> None:
    provider = await wire.connect(server.url, KEY, multimodal=True)
    server.play(Answer(wire.text("ok")))
    files = [*IMAGES.items(), ("application/pdf", PDF)]
    message = UserMessage(
        text="look", attachments=tuple(attach(n, kind, data, f"{n}.x") for n, (kind, data) in enumerate(files))
    )
    blobs = {a.blob: data for a, (_, data) in zip(message.attachments, files, strict=True)}
    await read(provider, make_request(message, blobs=blobs))
    (body,) = server.requests
    encoded = [base64.b64encode(data).decode() for _, data in files]
    assert wire.media(body) == [
        *(wire.image(kind, text) for kind, text in zip(IMAGES, encoded, strict=False)),
        wire.document("4.x", encoded[-1]),
    ]
    assert "blob:" not in json.dumps(body) and "look" in json.dumps(body)


async def test_a_long_conversation_costs_the_event_loop_little_more_than_a_short_one(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    """SDKs look at each part of what is given to their methods: for a long session that took seconds."""
    turn = (
        AssistantMessage(text="", tool_requests=(make_call(1, command="ls"),)),
        ToolMessage(tool_call_id="toolcall_1", provider_id="call_1", tool="bash", text="a"),
    )

    async def count_calls(turns: int) -> int:
        server.play(Answer(wire.text("ok")))
        calls: list[str] = []
        sys.setprofile(lambda frame, event, argument: calls.append(event) if event == "call" else None)
        try:
            await read(provider, make_request(UserMessage(text="go"), *turn * turns))
        finally:
            sys.setprofile(None)
        return len(calls)

    await count_calls(20)
    short, long = [await count_calls(turns) for turns in (20, 420)]
    assert long - short < 5 * 800


async def test_images_are_encoded_beside_the_event_loop(
    server: WireServer, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, threads = base64.b64encode, []

    def watched(data: bytes) -> bytes:
        threads.append(threading.get_ident())
        return encode(data)

    monkeypatch.setattr(base64, "b64encode", watched)
    provider = await wire.connect(server.url, KEY, multimodal=True)
    server.play(Answer(wire.text("ok")))
    image = attach(1, "image/png", IMAGES["image/png"])
    message = UserMessage(text="look", attachments=(image,))
    await read(provider, make_request(message, blobs={image.blob: IMAGES["image/png"]}))
    assert threads and threading.get_ident() not in threads


async def test_what_the_route_does_not_take_or_nobody_could_read_is_named(server: WireServer, wire: Wire) -> None:
    image = attach(1, "image/png", IMAGES["image/png"], "shot.png")
    other = attach(2, "application/zip", b"PK", "all.zip")
    request = make_request(UserMessage(text="look", attachments=(image, other)))
    for multimodal, blobs in (
        (False, {image.blob: IMAGES["image/png"], other.blob: b"PK"}),
        (True, {other.blob: b"P"}),
    ):
        provider = await wire.connect(server.url, KEY, multimodal=multimodal)
        server.play(Answer(wire.text("ok")))
        await read(provider, make_request(*request.messages, blobs=blobs))
        (body,) = server.requests
        assert wire.media(body) == []
        assert [
            name for name in (f"blob:{image.blob}", "shot.png", f"blob:{other.blob}") if name not in str(body)
        ] == []


async def test_the_bytes_of_an_image_win_over_what_it_was_called(server: WireServer, wire: Wire) -> None:
    provider = await wire.connect(server.url, KEY, multimodal=True)
    server.play(Answer(wire.text("ok")))
    image = attach(1, "image/png", IMAGES["image/jpeg"])
    await read(
        provider, make_request(UserMessage(text="", attachments=(image,)), blobs={image.blob: IMAGES["image/jpeg"]})
    )
    (body,) = server.requests
    assert wire.media(body) == [wire.image("image/jpeg", base64.b64encode(IMAGES["image/jpeg"]).decode())]


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid"),
        (401, "auth"),
        (413, "too_large"),
        (429, "rate_limited"),
        (500, "server_error"),
        (529, "overloaded"),
    ],
)
async def test_an_error_is_told_by_its_word_or_its_status(
    server: WireServer, wire: Wire, provider: Provider, status: int, code: str
) -> None:
    for body in (wire.errors(code, f"no, {KEY}"), "", "<html>\n" * 200, [wire.errors(code, "no, in a list")]):
        server.play(failure(status, body))
        error = await fail(provider)
        assert error.code == code
        assert f"{status}" in error.message and KEY not in error.message
        assert isinstance(body, str) or "no, " in error.message
        assert len(server.requests) == 1, "the SDK does not retry on its own"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after": "2"}, 2000),
        ({"retry_after": "Tue, 24 Nov 2026 10:00:05 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"}, 5000),
        ({"retry_after_ms": "40"}, 40),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
async def test_how_long_the_server_asks_to_wait_is_passed_on(
    server: WireServer, wire: Wire, provider: Provider, headers: dict[str, str], expected: int | None
) -> None:
    server.play(failure(429, wire.errors("rate_limited", "slow"), **headers))
    assert (await fail(provider)).retry_after_ms == expected


@pytest.mark.parametrize("code", ["rate_limited", "overloaded", "server_error", "too_large", "invalid"])
async def test_an_error_in_the_middle_of_a_stream_is_one(
    server: WireServer, wire: Wire, provider: Provider, code: str
) -> None:
    stream = wire.text("Hel", "lo")
    events = wire.error_events(code, f"slow down, {KEY}\n")
    for event in events:
        server.play(Answer([*stream[:4], event, *stream[4:]]))
        error = await fail(provider)
        assert (error.code, error.message) == (code, "slow down, ***")


@pytest.mark.parametrize("ending", ["end", "cut", "closed"])
async def test_a_stream_that_ends_early_is_no_reply(
    server: WireServer, wire: Wire, provider: Provider, ending: str
) -> None:
    """At every event, also where the end looks like any other; SDKs accept most of these without a word."""
    stream = wire.stream(*FULL)
    last = next(number for number, event in enumerate(stream) if wire.is_last(event))
    for kept in range(last + 1):
        # Where the end of the connection is that of the body, half an event is no sign that something is missing.
        half = [stream[kept][: len(stream[kept]) // 2]] if ending == "closed" else []
        tail = [CUT] if ending == "cut" else []
        server.play(Answer([HEAD, *stream[:kept], *half, *tail], framed=ending != "closed"))
        assert (await fail(provider)).code == "connection", kept
    server.play(Answer(stream[: last + 1]))
    assert (await read(provider))[1].text == "Hello", "no more is needed"


@pytest.mark.parametrize(
    "event",
    [b"data: {not json\n\n", b"data: [1]\n\n", b"data: null\n\n", b'data: "text"\n\n', b"data: \xff\n\n"],
    ids=["no-json", "list", "null", "text", "no-utf-8"],
)
async def test_what_cannot_be_read_is_a_failure_that_may_pass(
    server: WireServer, wire: Wire, provider: Provider, event: bytes
) -> None:
    stream = wire.text("x")
    name = b"event: message_start\n" if wire is MESSAGES else b""
    server.play(Answer([*stream[:2], name + event, *stream[2:]]))
    assert (await fail(provider)).code == "server_error"


async def test_an_event_with_anything_missing_or_odd_harms_nothing_but_its_call(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    """Each field of the events in turn, in all of them, is gone or something else."""

    class Opened:
        async def open(self, route: str) -> Provider:
            return provider

    stream = wire.stream(*FULL)
    effect = CallModel(run_id="run_1", model_call_id="modelcall_1", attempt=1)
    request, rest = make_request(), {"providers": Opened(), "hub": Hub(), "blobs": Blobs(tmp_path), "committer": None}
    for field in sorted({name for event in stream for name in names(event)}):
        for odd in (None, 7, {}, ...):
            server.play(Answer([changed(event, field, odd) for event in stream]))
            outcome = await call_model(effect, request, "r", **rest)  # type: ignore[arg-type]
            if isinstance(outcome, ModelFailed):
                assert outcome.code in ("server_error", "connection"), (field, odd, outcome.message)
            else:
                assert msgspec.json.decode(msgspec.json.encode(outcome.reply), type=Reply) == outcome.reply


def names(event: bytes) -> set[str]:
    """The fields of an event, at any depth."""
    found: set[str] = set()
    if b"{" in event:
        json.loads(event.partition(b"data: ")[2], object_hook=lambda fields: found.update(fields))
    return found


def changed(event: bytes, field: str, odd: Any) -> bytes:
    """The event with another value of a field, wherever it stands, or without it."""

    def change(fields: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in fields.items() if name != field}
        return kept if odd is ... or field not in fields else {**kept, field: odd}

    if b"{" not in event:
        return event
    head, _, data = event.partition(b"data: ")
    return head + b"data: " + json.dumps(json.loads(data, object_hook=change)).encode() + b"\n\n"


# -- time -----------------------------------------------------------------------------------------------------------


async def test_a_slow_first_byte_is_waited_for(server: WireServer, wire: Wire, provider: Provider) -> None:
    server.play(Answer([GATE, HEAD, GATE, *wire.text("late")]))
    reading = asyncio.ensure_future(read(provider))
    async with asyncio.timeout(PATIENCE_S):
        await server.until_asked(1)
        server.gate.release()
        server.gate.release()
        assert (await reading)[1].text == "late"


@pytest.mark.parametrize("silence", ["before-the-head", "after-the-head", "in-the-middle"])
async def test_silence_is_a_timeout(
    server: WireServer, wire: Wire, monkeypatch: pytest.MonkeyPatch, silence: str
) -> None:
    monkeypatch.setattr(sdk, "MODEL_IDLE_TIMEOUT_MS", 50)
    provider = await wire.connect(server.url, KEY)
    before = {"before-the-head": [], "after-the-head": [HEAD], "in-the-middle": wire.text("Hello")[:4]}[silence]
    server.play(Answer([*before, HANG]))
    async with asyncio.timeout(PATIENCE_S):
        error = await fail(provider)
        assert (error.code, error.message) == ("timeout", "no byte came in time")
        await server.gone.wait()


async def test_nobody_listens(wire: Wire) -> None:
    async with WireServer().running() as server:
        url = server.url
    assert (await fail(await wire.connect(url, KEY))).code == "connection"


# -- cancellation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before-the-head", "after-the-head", "in-the-middle"])
async def test_a_cancelled_call_closes_the_connection(
    server: WireServer, wire: Wire, provider: Provider, moment: str
) -> None:
    before = {"before-the-head": [], "after-the-head": [HEAD], "in-the-middle": wire.text("Hello")[:4]}[moment]
    server.play(Answer([*before, HANG]), Answer(wire.text("again")))
    task = asyncio.ensure_future(read(provider))
    async with asyncio.timeout(PATIENCE_S):
        await server.waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.gone.wait()
        assert (await read(provider))[1].text == "again", "the provider is as good as before"


async def test_a_stream_that_is_closed_between_two_deltas_closes_the_connection(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    stream = wire.text("one", "two", "three")
    cut = next(number for number, event in enumerate(stream) if b"three" in event)
    server.play(Answer([*stream[:cut], HANG]))
    async with asyncio.timeout(PATIENCE_S):
        reading: AsyncIterator[Any] = provider.stream(make_request())
        async with contextlib.aclosing(reading) as deltas:  # type: ignore[type-var]
            while isinstance(delta := await anext(deltas), UsageDelta):
                pass
            assert delta.text == "one"
        await server.gone.wait()


async def test_a_connection_is_used_again_after_a_whole_reply(
    server: WireServer, wire: Wire, provider: Provider
) -> None:
    server.play(Answer(wire.text("x")))
    await read(provider)
    connections = set(server._connections)
    await read(provider)
    assert set(server._connections) == connections != set()
