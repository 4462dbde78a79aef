"""The real daemon and the real SDKs against servers that speak the three wires: replies, tools, images, failures,
deaths, keys; and one whole run on each wire against a model server of others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import StreamEvent
from kheish.client.errors import ApiError
from kheish.core.events import StopReason
from tests.daemon_process import DaemonProcess
from tests.providers import aimock
from tests.providers.wire_server import CUT, GATE, HANG, Answer, BlockingWireServer, failure, serving
from tests.providers.wires import COMPLETIONS, MESSAGES, RESPONSES, WIRES, Block, Wire, asked, said, thought

pytestmark = pytest.mark.slow

Json = dict[str, Any]

each_wire = pytest.mark.parametrize("wire", [pytest.param(wire, id=wire.driver) for wire in WIRES])
KEYS = {wire.key_env: wire.key for wire in WIRES}
PNG = b"\x89PNG\r\n\x1a\n\x00rest"


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, server: BlockingWireServer) -> Iterator[DaemonProcess]:
    """A route for each wire to the server, keys in the environment, and all that it prints in a file."""
    made = DaemonProcess(tmp_path_factory.mktemp("providers"))
    tables = "".join(wire.route(server.url) for wire in WIRES)
    (made.config / "routes.toml").write_text(f'version = 1\ndefault_route = "anthropic"\n{tables}')
    made.env.update(KEYS)
    for others in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENROUTER_API_KEY", "XAI_API_KEY"):
        made.env.pop(others, None)
    try:
        yield start(made)
    finally:
        made.close()


def start(daemon: DaemonProcess) -> DaemonProcess:
    command = 'exec "$0" -m kheish daemon run >>"$1" 2>&1'
    return daemon.start(argv=["/bin/sh", "-c", command, sys.executable, str(daemon.folder / "printed")])


def key_in(headers: dict[str, str]) -> str:
    return headers.get("x-api-key", headers.get("authorization", "")).removeprefix("Bearer ")


def events(daemon: DaemonProcess, session: str, *types: str) -> list[Json]:
    return [e for record in daemon.journal(session) for e in record["events"] if e["type"] in types]


def on_disk(daemon: DaemonProcess, session: str) -> str:
    return "".join(file.read_text() for file in (daemon.state / "sessions" / session).glob("*.jsonl"))


def follow(daemon: DaemonProcess, run_id: str, wanted: Callable[[StreamEvent], bool]) -> Iterator[StreamEvent]:
    """The stream of a run up to each frame that is wanted."""
    with contextlib.closing(daemon.events(run_id=run_id)) as frames:
        yield from (frame for frame in frames if wanted(frame))


# -- replies --------------------------------------------------------------------------------------------------------


@each_wire
def test_a_follower_sees_the_text_before_the_reply_is_complete(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    stream = wire.text("Hel", "lo")
    second = next(number for number, event in enumerate(stream) if b'"lo"' in event)
    server.play(Answer([GATE, *stream[:second], GATE, *stream[second:]]))
    run_id = daemon.submit(daemon.session(f"deltas-{wire.driver}"), model=wire.driver)
    frames = follow(daemon, run_id, lambda frame: frame.event in ("sync", "delta", "bye"))
    assert next(frames).event == "sync"
    server.open_gate()
    assert (delta := next(frames).data)["text"] == "Hel"
    assert delta["run_id"] == run_id and delta["kind"] == "text"
    assert daemon.client.runs.get(run_id)["status"] == "running"
    server.open_gate()
    assert next(frames).data["text"] == "lo"
    run = daemon.finish(run_id)
    assert (run["status"], run["outputs"]) == ("completed", ["Hello"])


@each_wire
@pytest.mark.parametrize(
    ("blocks", "stop"),
    [
        ((thought("so"), said("Hel", "lo")), None),
        ((said("Hel"),), "max_tokens"),
        ((said("Both."), asked("bash", {"command": "true"}), asked("list_files", {"path": "."})), None),
    ],
    ids=["whole", "out-of-tokens", "tool-calls"],
)
def test_what_is_journaled_of_a_reply_is_what_the_sdk_itself_says(
    daemon: DaemonProcess,
    server: BlockingWireServer,
    wire: Wire,
    blocks: tuple[Block, ...],
    stop: StopReason | None,
    request: pytest.FixtureRequest,
) -> None:
    server.play(Answer(wire.stream(*blocks, stop=stop)))
    final = asyncio.run(wire.final(server.url))
    server.play(Answer(wire.stream(*blocks, stop=stop)), Answer(wire.text("done")))
    session = daemon.session(f"final-{request.node.callspec.id}", "bypass")
    run = daemon.finish(daemon.submit(session, model=wire.driver))
    assert run["status"] == "completed"
    completed = events(daemon, session, "model_call.completed")[0]
    assert (completed["text"], completed["stop_reason"]) == (final.text, final.stop_reason)
    assert completed["usage"] == {name: getattr(final.usage, name) for name in completed["usage"]} != {}
    calls = [(call["provider_id"], call["tool"], call["arguments"]) for call in completed.get("tool_requests", ())]
    assert calls == [(id_, tool, json.loads(raw) if isinstance(raw, str) else raw) for id_, tool, raw in final.calls]


@each_wire
def test_a_tool_call_runs_and_its_result_goes_back(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(
        Answer(wire.stream(thought("hm"), said("I look."), asked("bash", {"command": "echo out; exit 3"}))),
        Answer(wire.text("It failed.")),
    )
    session = daemon.session(f"tool-{wire.driver}", "bypass")
    run = daemon.finish(daemon.submit(session, "look", model=wire.driver))
    assert (run["status"], run["outputs"], run["step"]) == ("completed", ["It failed."], 2)
    (completed,) = events(daemon, session, "tool_call.completed")
    calls, results = wire.calls_and_results(server.requests[1])
    assert calls == [(completed["tool_call_id"], "bash", {"command": "echo out; exit 3"})]
    assert results == [(completed["tool_call_id"], "out\n[exit status 3]")]


@each_wire
def test_parallel_tool_calls_run_together_and_come_back_in_their_order(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    """Each of two commands waits for the other: they end only if both run at once."""
    meet = "touch {me}; while [ ! -e {other} ]; do sleep 0.01; done; echo {me}"
    calls = [
        asked("bash", {"command": meet.format(me=f"{me}-{wire.driver}", other=f"{other}-{wire.driver}")})
        for me, other in (("a", "b"), ("b", "a"))
    ]
    server.play(Answer(wire.stream(*calls)), Answer(wire.text("Both.")))
    session = daemon.session(f"parallel-{wire.driver}", "bypass")
    assert daemon.finish(daemon.submit(session, model=wire.driver))["outputs"] == ["Both."]
    asked_for, results = wire.calls_and_results(server.requests[1])
    ids = [id_ for id_, _, _ in asked_for]
    assert len(set(ids)) == 2
    assert results == [(ids[0], f"a-{wire.driver}\n"), (ids[1], f"b-{wire.driver}\n")]


# -- requests -------------------------------------------------------------------------------------------------------


@each_wire
def test_the_model_sees_the_conversation_and_the_tools_and_the_key_is_sent(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.text("one")), Answer(wire.text("two")))
    session = daemon.session(f"request-{wire.driver}")
    for text in ("first", "second"):
        daemon.finish(daemon.submit(session, text, model=f"{wire.driver}/some/model"))
    body = server.requests[1]
    assert (body["model"], server.paths[1]) == ("some/model", wire.path)
    spoken = wire.turns(body)
    assert [turn["role"] for turn in spoken] == ["user", "assistant", "user"]
    assert [word for word in ("first", "one", "second") if word not in json.dumps(spoken)] == []
    assert wire.tool_names(body) == [row["tool_name"] for row in daemon.client.permissions.matrix()]
    assert key_in(server.request_headers[1]) == wire.key


@each_wire
def test_an_image_is_shown_to_the_model_in_every_call_of_the_session(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.stream(asked("bash", {"command": "true"}))), Answer(wire.text("I saw it.")))
    encoded = base64.b64encode(PNG).decode()
    image = {"file_name": "shot.png", "media_type": "image/png", "content_base64": encoded}
    archive = {"file_name": "all.zip", "media_type": "application/zip", "content_base64": "UEs="}
    session = daemon.session(f"image-{wire.driver}", "bypass")
    run_id = daemon.submit(session, "look", model=wire.driver, attachments=[image, archive])
    assert daemon.finish(run_id)["outputs"] == ["I saw it."]
    daemon.finish(daemon.submit(session, "again", model=wire.driver))
    assert [wire.media(body) for body in server.requests] == [[wire.image("image/png", encoded)]] * 3
    assert all("all.zip: application/zip, 2 bytes, stored as blob:" in json.dumps(body) for body in server.requests)
    assert encoded not in on_disk(daemon, session)


@each_wire
def test_an_image_that_is_gone_from_the_disk_is_named(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.text("one")))
    data = PNG + wire.driver.encode()
    image = {
        "file_name": "shot.png", "media_type": "image/png", "content_base64": base64.b64encode(data).decode()
    }  # fmt: skip
    session = daemon.session(f"gone-{wire.driver}")
    daemon.finish(daemon.submit(session, model=wire.driver, attachments=[image]))
    (blob,) = [file for file in (daemon.state / "blobs").rglob("*") if file.is_file() and file.read_bytes() == data]
    blob.unlink()
    assert daemon.finish(daemon.submit(session, model=wire.driver))["status"] == "completed"
    assert [len(wire.media(body)) for body in server.requests] == [1, 0]
    assert f"blob:{blob.name}" in json.dumps(server.requests[1])


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "headers", "at_least_ms"),
    [
        (MESSAGES, {"retry_after": "1"}, 1000),
        (
            RESPONSES,
            {"retry_after": "Tue, 24 Nov 2026 10:00:01 GMT", "date": "Tue, 24 Nov 2026 10:00:00 GMT"},
            1000,
        ),
        (COMPLETIONS, {"retry_after_ms": "40"}, 40),
    ],
    ids=["anthropic-seconds", "openai-date", "openai_compatible-ms"],
)
def test_a_rate_limit_is_waited_out_and_every_follower_sees_it(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire, headers: dict[str, str], at_least_ms: int
) -> None:
    server.play(failure(429, wire.errors("rate_limited", "slow down"), **headers), Answer(wire.text("there")))
    session = daemon.session(f"limit-{wire.driver}")
    run_id = daemon.submit(session, model=wire.driver)
    seen = [
        (frame.data["at_ms"], event)
        for frame in follow(daemon, run_id, lambda frame: frame.event == "record")
        for event in frame.data["events"]
    ]
    run = daemon.client.runs.get(run_id)
    assert (run["status"], run["outputs"]) == ("completed", ["there"])
    ((at_ms, retry),) = [(at, e) for at, e in seen if e["type"] == "model_call.retrying"]
    assert (retry["attempt"], retry["code"], retry["message"]) == (1, "rate_limited", "429: slow down")
    assert retry["retry_at_ms"] - at_ms >= at_least_ms
    starts = [(at, e["attempt"]) for at, e in seen if e["type"] == "model_call.started"]
    assert [attempt for _, attempt in starts] == [1, 2]
    assert starts[1][0] >= retry["retry_at_ms"], "not sooner than it was asked"
    assert len(server.requests) == 2, "the SDK does not retry on its own"


def test_attempts_are_bounded_and_each_is_journaled(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    server.play(failure(529, MESSAGES.errors("overloaded", "busy")))
    session = daemon.session("bounded")
    run = daemon.finish(daemon.submit(session, model="anthropic"))
    assert (run["status"], run["error"]["code"]) == ("failed", "overloaded")
    assert run["error"]["message"] == "the provider is overloaded after 5 attempts: 529: busy"
    types = ("model_call.started", "model_call.retrying", "model_call.failed")
    attempts = [(e["type"].partition(".")[2], e["attempt"]) for e in events(daemon, session, *types)]
    assert attempts == [
        *((name, number) for number in range(1, 5) for name in ("started", "retrying")),
        ("started", 5),
        ("failed", 5),
    ]
    assert len(server.requests) == 5


@each_wire
def test_a_refused_key_fails_at_once_and_says_what_to_do(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(failure(401, wire.errors("auth", "no such key")))
    run = daemon.finish(daemon.submit(daemon.session(f"denied-{wire.driver}"), model=wire.driver))
    assert (run["status"], run["error"]["code"]) == ("failed", "auth")
    assert run["error"]["message"] == (
        "the provider refused the key; check it with `kheish routes list`: 401: no such key"
    )
    assert len(server.requests) == 1


@each_wire
@pytest.mark.parametrize("ending", ["cut", "end", "error"])
def test_a_stream_that_breaks_off_is_retried_and_its_text_is_not_recorded(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire, ending: str
) -> None:
    whole = wire.stream(said("partial", " words"), asked("bash", {"command": f"touch partial-ran-{wire.driver}"}))
    broken = whole[: next(number for number, event in enumerate(whole) if wire.is_last(event))]
    broken += {"cut": [CUT], "end": [], "error": wire.error_events("overloaded", "busy")[:1]}[ending]
    server.play(Answer(broken), Answer(wire.text("whole")))
    session = daemon.session(f"broken-{wire.driver}-{ending}", "bypass")
    run = daemon.finish(daemon.submit(session, model=wire.driver))
    assert (run["status"], run["outputs"]) == ("completed", ["whole"])
    (retry,) = events(daemon, session, "model_call.retrying")
    assert (retry["attempt"], retry["code"]) == (1, "overloaded" if ending == "error" else "connection")
    assert "partial" not in on_disk(daemon, session)
    assert not (daemon.work / f"partial-ran-{wire.driver}").exists()
    assert len(server.requests) == 2


@each_wire
def test_a_reply_that_no_record_can_hold_fails_the_run_at_once(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.text("x" * 2_000_000)))
    run = daemon.finish(daemon.submit(daemon.session(f"giant-{wire.driver}"), model=wire.driver))
    assert (run["status"], run["error"]["code"]) == ("failed", "invalid_reply")
    assert len(server.requests) == 1


# -- a model server of others ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def independent(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a model server that has two replies for each wire."""
    folder = tmp_path_factory.mktemp("aimock")
    try:
        program = aimock.install(folder)
    except aimock.Unavailable as reason:
        message = f"NOT CHECKED against an independent model server: {reason}"
        pytestconfig.get_terminal_writer().line(f"\n{message}", yellow=True)
        pytest.skip(message)
    fixtures: list[Json] = []
    for wire in WIRES:
        match = {"model": wire.model, "userMessage": "count the files"}
        usage = dict.fromkeys(("prompt_tokens", "input_tokens"), 7) | dict.fromkeys(
            ("completion_tokens", "output_tokens"), 5
        )
        call = {"name": "bash", "arguments": {"command": "ls | wc -l; touch counted"}}
        fixtures += [
            {
                "match": {**match, "hasToolResult": False},
                "response": {"content": "I count.", "toolCalls": [call], "usage": usage},
            },
            {"match": {**match, "hasToolResult": True}, "response": {"content": f"Counted over {wire.driver}."}},
        ]
    with aimock.serving(program, folder, fixtures) as url:
        yield url


@each_wire
def test_a_whole_run_with_a_tool_call_against_an_independent_model_server(
    daemon: DaemonProcess, independent: str, wire: Wire
) -> None:
    route = f"independent-{wire.driver}"
    with (daemon.config / "routes.toml").open("a") as file:
        file.write(wire.route(independent, route))
    session = daemon.session(route, "bypass")
    run = daemon.finish(daemon.submit(session, "count the files", model=route))
    assert (run["status"], run["outputs"], run["step"]) == ("completed", [f"Counted over {wire.driver}."], 2)
    first, second = events(daemon, session, "model_call.completed")
    assert [call["arguments"] for call in first["tool_requests"]] == [{"command": "ls | wc -l; touch counted"}]
    assert (first["text"], first["stop_reason"], second["stop_reason"]) == ("I count.", "tool_use", "end")
    assert first["usage"] == {"input_tokens": 7, "output_tokens": 5}
    (completed,) = events(daemon, session, "tool_call.completed")
    assert completed["output"].strip().isdigit()


# -- ends -----------------------------------------------------------------------------------------------------------


@each_wire
def test_cancelling_the_run_closes_the_connection(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer([*wire.text("partial")[:4], HANG]))
    session = daemon.session(f"cancel-{wire.driver}")
    run_id = daemon.submit(session, model=wire.driver)
    server.wait_until_hanging()
    daemon.client.runs.cancel(run_id)
    server.wait_until_gone()
    assert daemon.finish(run_id)["status"] == "cancelled"
    assert "partial" not in on_disk(daemon, session)


def test_sigkill_in_the_middle_of_a_stream_makes_the_next_attempt(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    runs = {}
    for wire in WIRES:
        server.play(Answer([*wire.text("partial")[:4], HANG]))
        runs[wire.driver] = daemon.submit(daemon.session(f"killed-{wire.driver}"), model=wire.driver)
        server.wait_until_hanging()
    daemon.kill()
    server.wait_until_gone()
    server.play(**{wire.model: Answer(wire.text(f"whole-{wire.driver}")) for wire in WIRES})
    start(daemon)
    for name, run_id in runs.items():
        assert daemon.finish(run_id)["outputs"] == [f"whole-{name}"]
        attempts = [
            (event["type"], event["attempt"])
            for event in events(daemon, f"killed-{name}", "model_call.started", "model_call.died")
        ]
        assert attempts == [("model_call.started", 1), ("model_call.died", 1), ("model_call.started", 2)]
        assert "partial" not in on_disk(daemon, f"killed-{name}")


# -- keys -----------------------------------------------------------------------------------------------------------


def test_no_key_shows_anywhere(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    """After all that: servers that repeat the key in their errors, tools that print their environment."""
    told: list[Any] = []
    for wire in WIRES:
        for status in (400, 401):
            words = f"bad key {wire.key} ({wire.key!r}) Bearer {wire.key}"
            server.play(failure(status, wire.errors("auth" if status == 401 else "invalid", words)))
            session = daemon.session(f"shown-{wire.driver}-{status}", "bypass")
            told.append(daemon.finish(daemon.submit(session, model=wire.driver)))
            assert told[-1]["status"] == "failed"
        server.play(failure(503, f"<html>{wire.key}</html>"), Answer(wire.text("fine")))
        told.append(daemon.finish(daemon.submit(daemon.session(f"shown-{wire.driver}-503"), model=wire.driver)))
        command = "env; cat /proc/self/environ"
        server.play(Answer(wire.stream(asked("bash", {"command": command}))), Answer(wire.text("fine")))
        session = daemon.session(f"shown-{wire.driver}-env", "bypass")
        told.append(daemon.finish(daemon.submit(session, model=wire.driver)))
        assert "PATH=" in on_disk(daemon, session)
    told += [daemon.client.daemon.routes(), daemon.client.daemon.status(), daemon.client.runs.list()]
    shown = json.dumps(told) + daemon.cli("routes", "list").stdout + daemon.cli("doctor").stdout
    lines = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if _exists(file)]
    assert daemon.stop() == 0
    files = [file for file in daemon.folder.rglob("*") if file.is_file()]
    assert any(file.name == "daemon.log" for file in files) and any(file.suffix == ".jsonl" for file in files)
    for canary in KEYS.values():
        assert canary not in shown
        assert [file for file in files if canary.encode() in file.read_bytes()] == []
        assert [line for line in lines if canary.encode() in line] == []


def _exists(file: Path) -> bool:
    with contextlib.suppress(OSError):
        file.read_bytes()
        return True
    return False


def test_the_environment_alone_chooses_the_routes(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    """Without a file, with the variables that the SDKs have."""
    daemon.close()
    (daemon.config / "routes.toml").unlink(missing_ok=True)
    daemon.env.update({"ANTHROPIC_BASE_URL": server.url, "OPENAI_BASE_URL": f"{server.url}/v1"})
    start(daemon)
    rows = {row["route_id"]: row for row in daemon.client.daemon.routes()}
    assert [name for name, row in rows.items() if row["is_default"]] == ["anthropic"]
    assert {rows[name]["source"] for name in ("anthropic", "openai")} == {"environment"}
    session = daemon.session("by-environment")
    for wire, selector, key in (
        (MESSAGES, None, KEYS["ANTHROPIC_API_KEY"]),
        (COMPLETIONS, "openai/some-model", KEYS["OPENAI_API_KEY"]),
    ):
        server.play(Answer(wire.text("hello")))
        assert daemon.finish(daemon.submit(session, model=selector))["outputs"] == ["hello"]
        assert (key_in(server.request_headers[0]), server.paths) == (key, [wire.path])
    with pytest.raises(ApiError, match="openai/MODEL"):
        daemon.submit(session, model="openai")
