"""What is recorded of a model call is what went over the wire, through the official SDKs, to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from kheish.core.effects import CallModel
from kheish.core.events import Attachment, UserMessage
from kheish.core.outcomes import ModelFailed, ModelReplied
from kheish.core.prompt import attached_in
from kheish.debug.redaction import MASK
from kheish.debug.service import Debugging
from kheish.runtime.hub import Hub
from kheish.runtime.model_calls import call_model
from kheish.runtime.ports import Provider
from kheish.runtime.recording import at_work
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer
from kheish.wire.debug import DebugArtifact, DebugLevel
from tests.debug.recordings import make_debugging
from tests.providers.requests import make_request
from tests.providers.wire_server import CUT, HANG, Answer, WireServer, failure
from tests.providers.wires import WIRES, Wire, asked, said, thought

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "a-very-private-key-0123"


@pytest.fixture(scope="module", params=[pytest.param(wire, id=wire.driver) for wire in WIRES])
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(wire: Wire, running_server: WireServer) -> Provider:
    return await wire.connect(running_server.url, KEY, multimodal=True)


class Calls:
    """Attempts through the kernel's own way to a model."""

    def __init__(self, folder: Path, provider: Provider, level: DebugLevel) -> None:
        self.debugging: Debugging = make_debugging(folder, level)
        self.provider = provider
        self.blobs = Blobs(folder)
        self.committer = Committer(asyncio.get_running_loop())

    async def open(self, route: str) -> Provider:
        return self.provider

    async def call(self, attempt: int = 1, *messages: UserMessage, model: str = "m") -> ModelReplied | ModelFailed:
        effect = CallModel(run_id="run_1", model_call_id="modelcall_1", attempt=attempt)
        return await call_model(
            effect,
            make_request(*messages, attempt=attempt, model=model),
            "route",
            attached_in(messages),
            providers=self,  # type: ignore[arg-type]
            hub=Hub(),
            blobs=self.blobs,
            committer=self.committer,
            recorder=self.debugging,
        )

    async def kept(self, attempt: int = 1) -> DebugArtifact:
        await self.debugging.close()
        return await self.debugging.read_artifact("s", "run_1", f"1.{attempt}")


@contextlib.asynccontextmanager
async def calling(folder: Path, provider: Provider, level: DebugLevel = "full") -> AsyncIterator[Calls]:
    calls = Calls(folder, provider, level)
    try:
        yield calls
    finally:
        await calls.debugging.close()
        await calls.committer.close()


async def test_request_and_stream_are_what_the_server_saw_and_sent(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    stream = wire.stream(thought("hm"), said("Hé", "llo"), asked("bash", {"command": "ls"}))
    server.play(Answer(stream, split=7, headers={"x-request-id": "req_1"}))
    async with calling(tmp_path, provider) as calls:
        outcome = await calls.call()
        assert isinstance(outcome, ModelReplied) and at_work() is None
        kept = await calls.kept()
    (exchange,) = kept.exchanges
    request, response = exchange.request, exchange.response
    assert (request.method, request.url) == ("POST", f"{server.url}{wire.path}")
    assert json.loads(request.body) == server.requests[0]
    assert request.sha256 == hashlib.sha256(request.body.encode()).hexdigest()
    sent = {header.name.lower(): header.value for header in request.headers}
    assert int(sent["content-length"]) == request.bytes
    masked = {name for name, value in sent.items() if value == MASK}
    assert masked == {name for name, value in server.request_headers[0].items() if KEY in value} != set()
    assert {k: v for k, v in sent.items() if k not in masked} == {
        k: v for k, v in server.request_headers[0].items() if k not in masked
    }
    assert [event.text.encode() for event in response.events] == stream
    assert response.sha256 == hashlib.sha256(b"".join(stream)).hexdigest()
    assert (response.status, response.complete, response.cut) == (200, True, False)
    assert "req_1" in [header.value for header in response.headers]
    times = [request.sent_ms, response.answered_ms, *(event.at_ms for event in response.events), kept.duration_ms]
    assert times == sorted(times)


async def test_an_error_is_kept_with_its_body_and_without_the_key_that_it_repeats(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    server.play(failure(401, wire.errors("auth", f"bad key {KEY}"), x_request_id=KEY))
    async with calling(tmp_path, provider) as calls:
        assert isinstance(await calls.call(), ModelFailed)
        kept = await calls.kept()
    assert (kept.outcome, kept.status) == ("auth", 401)
    (exchange,) = kept.exchanges
    assert exchange.response.events[0].text == json.dumps(wire.errors("auth", f"bad key {MASK}"))
    assert exchange.response.complete
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*.json"))


async def test_a_stream_that_is_cut_or_cancelled_is_kept_as_far_as_it_came(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    stream = wire.stream(said("one ", "two ", "three"))[:3]
    async with calling(tmp_path, provider) as calls:
        server.play(Answer([*stream, CUT]))
        assert isinstance(await calls.call(1), ModelFailed)
        server.play(Answer([*stream, HANG]))
        hanging = asyncio.ensure_future(calls.call(2))
        await server.waiting.wait()
        async with asyncio.timeout(10):
            while len(b"".join(chunk for _, chunk in _chunks(calls))) < len(b"".join(stream)):
                await asyncio.sleep(0)
        hanging.cancel()
        await asyncio.wait([hanging])
        rows = [await calls.kept(attempt) for attempt in (1, 2)]
    assert [row.outcome for row in rows] == ["connection", "cancelled"]
    for row in rows:
        assert [event.text.encode() for event in row.exchanges[0].response.events] == stream
        assert not row.exchanges[0].response.complete


def _chunks(calls: Calls) -> list[tuple[int, bytes]]:
    return [chunk for recording in calls.debugging._timers for e in recording.exchanges for chunk in e.chunks]


async def test_a_server_that_cannot_be_reached_leaves_the_request(wire: Wire, tmp_path: Path) -> None:
    provider = await wire.connect("http://127.0.0.1:9", KEY)
    async with calling(tmp_path, provider) as calls:
        assert isinstance(await calls.call(), ModelFailed)
        kept = await calls.kept()
    (exchange,) = kept.exchanges
    assert (kept.outcome, exchange.response.status, exchange.response.events) == ("connection", 0, [])
    assert json.loads(exchange.request.body)["model"] == "m"


async def test_a_compressed_stream_is_kept_as_it_reads(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    stream = wire.stream(said("Hello"))
    server.play(Answer([gzip.compress(b"".join(stream))], headers={"content-encoding": "gzip"}))
    async with calling(tmp_path, provider) as calls:
        outcome = await calls.call()
        assert isinstance(outcome, ModelReplied) and outcome.reply.text == "Hello"
        kept = await calls.kept()
    assert [event.text.encode() for event in kept.exchanges[0].response.events] == stream


async def test_calls_at_the_same_time_do_not_mix(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    models = {f"m-{n}": Answer(wire.text(*[f"word {n} "] * 20), split=11, pace_s=0.001) for n in range(8)}
    server.by_model = models
    async with calling(tmp_path, provider) as calls:
        await asyncio.gather(*[calls.call(n + 1, model=f"m-{n}") for n in range(8)])
        kept = [await calls.kept(n + 1) for n in range(8)]
    for n, artifact in enumerate(kept):
        assert json.loads(artifact.exchanges[0].request.body)["model"] == f"m-{n}"
        assert [e.text.encode() for e in artifact.exchanges[0].response.events] == models[f"m-{n}"].pieces


async def test_redacted_has_digests_for_images_and_full_has_them(
    server: WireServer, wire: Wire, provider: Provider, tmp_path: Path
) -> None:
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
    bodies: list[str] = []
    levels: tuple[DebugLevel, ...] = ("redacted", "full")
    for level in levels:
        server.play(Answer(wire.text("a cat")))
        (tmp_path / level).mkdir()
        async with calling(tmp_path / level, provider, level) as calls:
            calls.blobs = Blobs(tmp_path)
            blob = calls.blobs.put(image)
            shown = Attachment(name="cat.png", media_type="image/png", blob=blob, bytes=len(image))
            message = UserMessage(text="see sk-proj-abcdefghijklmnop0123", attachments=(shown,))
            assert isinstance(await calls.call(1, message), ModelReplied)
            bodies.append((await calls.kept()).exchanges[0].request.body)
    redacted, full = bodies
    assert json.loads(full) == server.requests[0] and "sk-proj-abc" in full
    assert "characters of base64, sha256 " in redacted and len(redacted) < len(full) - 2_000
    assert f"see {MASK}" in redacted and json.loads(redacted).keys() == json.loads(full).keys()


async def test_at_off_no_call_is_recorded(server: WireServer, wire: Wire, provider: Provider, tmp_path: Path) -> None:
    server.play(Answer(wire.text("Hello")))
    async with calling(tmp_path, provider, "off") as calls:
        assert isinstance(await calls.call(), ModelReplied)
    assert not (tmp_path / "debug").exists() and at_work() is None
