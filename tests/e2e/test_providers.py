"""The real daemon and the real SDKs against a server that speaks both wires: replies, tools, failures, deaths, keys."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import StreamEvent
from kheish.client.errors import ApiError
from tests.daemon_process import DaemonProcess
from tests.providers.wire_server import (
    CUT,
    DONE,
    GATE,
    HANG,
    Answer,
    BlockingWireServer,
    anthropic_events,
    failure,
    openai_chunk,
    openai_usage,
    serving,
)

pytestmark = pytest.mark.slow

Json = dict[str, Any]
Calls = tuple[tuple[str, Json], ...]

ANTHROPIC_KEY = "canary-anthropic-4f1d09c2"
OPENAI_KEY = "canary-openai-93be77a1"
KEYS = {"ANTHROPIC_API_KEY": ANTHROPIC_KEY, "OPENAI_API_KEY": OPENAI_KEY}
ROUTES = """\
version = 1
default_route = "anthropic"

[routes.anthropic]
driver = "anthropic"
default_model = "claude-test"
base_url = "{url}"

[routes.openai]
driver = "openai_compatible"
default_model = "gpt-test"
base_url = "{url}/v1"
api_key_env = "OPENAI_API_KEY"
"""


class Anthropic:
    """The Messages wire, as these tests need it."""

    name = "anthropic"
    key = ANTHROPIC_KEY
    denial = {"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}
    limit = {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}

    def stream(self, *texts: str, calls: Calls = (), stop: str = "") -> list[bytes]:
        blocks = [{"text": list(texts)}] if texts else []
        blocks += [{"tool": tool, "json": _in_two(arguments)} for tool, arguments in calls]
        return anthropic_events(*blocks, stop_reason=stop or ("tool_use" if calls else "end_turn"))

    def with_tool_results(self, body: Json) -> tuple[list[Json], list[Json]]:
        """The tool calls and the results as a request sends them back."""
        *_, asked, answered = body["messages"]
        assert (asked["role"], answered["role"]) == ("assistant", "user")
        return [block for block in asked["content"] if block["type"] == "tool_use"], answered["content"]

    def final(self, url: str) -> Json:
        """What the SDK's own accumulator makes of the stream."""
        import anthropic

        with (
            anthropic.Anthropic(api_key="k", base_url=url, max_retries=0) as client,
            client.messages.stream(
                model="claude-test", max_tokens=9, messages=[{"role": "user", "content": "x"}]
            ) as stream,
        ):
            message = stream.get_final_message()
        usage = message.usage
        return {
            "stop_reason": {"end_turn": "end", "max_tokens": "max_tokens"}[str(message.stop_reason)],
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "cache_read_tokens": usage.cache_read_input_tokens,
                "cache_write_tokens": usage.cache_creation_input_tokens,
            },
        }


class OpenAI:
    """The Chat Completions wire."""

    name = "openai"
    key = OPENAI_KEY
    denial = {
        "error": {"message": "Incorrect API key provided", "type": "invalid_request_error", "code": "invalid_api_key"}
    }
    limit = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}

    def stream(self, *texts: str, calls: Calls = (), stop: str = "") -> list[bytes]:
        chunks = [openai_chunk({"role": "assistant", "content": ""}), *(openai_chunk({"content": t}) for t in texts)]
        for index, (tool, arguments) in enumerate(calls):
            first, second = _in_two(arguments)
            begin = {"index": index, "id": f"call_{index}", "type": "function"}
            chunks += [
                openai_chunk({"tool_calls": [{**begin, "function": {"name": tool, "arguments": first}}]}),
                openai_chunk({"tool_calls": [{"index": index, "function": {"arguments": second}}]}),
            ]
        return [*chunks, openai_chunk({}, stop or ("tool_calls" if calls else "stop")), openai_usage(30, 9, 20), DONE]

    def with_tool_results(self, body: Json) -> tuple[list[Json], list[Json]]:
        results = [message for message in body["messages"] if message["role"] == "tool"]
        (asked,) = [message for message in body["messages"] if message["role"] == "assistant"]
        return asked["tool_calls"], results

    def final(self, url: str) -> Json:
        import openai

        with (
            openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0) as client,
            client.chat.completions.stream(
                model="gpt-test",
                messages=[{"role": "user", "content": "x"}],
                stream_options={"include_usage": True},
            ) as stream,
        ):
            try:
                completion = stream.get_final_completion()
            except openai.LengthFinishReasonError as cut:
                completion = cut.completion  # type: ignore[assignment]
        usage = completion.usage
        assert usage is not None and usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0
        return {
            "stop_reason": {"stop": "end", "length": "max_tokens"}[completion.choices[0].finish_reason],
            "usage": {
                "input_tokens": usage.prompt_tokens - cached,
                "output_tokens": usage.completion_tokens,
                "cache_read_tokens": cached,
            },
        }


Wire = Anthropic | OpenAI
WIRES = [pytest.param(wire, id=wire.name) for wire in (Anthropic(), OpenAI())]
each_wire = pytest.mark.parametrize("wire", WIRES)


def _in_two(arguments: Json) -> list[str]:
    raw = json.dumps(arguments)
    return [raw[: len(raw) // 2], raw[len(raw) // 2 :]]


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, server: BlockingWireServer) -> Iterator[DaemonProcess]:
    """Routes to the server, keys in the environment, and all that it prints in a file."""
    made = DaemonProcess(tmp_path_factory.mktemp("providers"))
    (made.config / "routes.toml").write_text(ROUTES.format(url=server.url))
    made.env.update(KEYS)
    try:
        yield start(made)
    finally:
        made.close()


def start(daemon: DaemonProcess) -> DaemonProcess:
    command = 'exec "$0" -m kheish daemon run >>"$1" 2>&1'
    return daemon.start(argv=["/bin/sh", "-c", command, sys.executable, str(daemon.folder / "printed")])


def start_by_environment(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    """A daemon without a file of routes, with the variables that the SDKs have."""
    (daemon.config / "routes.toml").unlink()
    daemon.env.update({"ANTHROPIC_BASE_URL": server.url, "OPENAI_BASE_URL": f"{server.url}/v1"})
    start(daemon)


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
    first, second = wire.stream("Hel"), wire.stream("Hel", "lo")
    common = next(i for i, piece in enumerate(second) if piece != first[i])
    server.play(Answer([GATE, *second[:common], GATE, *second[common:]]))
    run_id = daemon.submit(daemon.session(f"deltas-{wire.name}"), model=wire.name)
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
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "out-of-tokens"])
def test_usage_and_stop_reason_are_what_the_sdk_itself_says(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire, is_cut: bool
) -> None:
    stop = {"anthropic": "max_tokens", "openai": "length"}[wire.name] if is_cut else ""
    server.play(Answer(wire.stream("Hello", stop=stop)))
    expected = wire.final(server.url)
    session = daemon.session(f"usage-{wire.name}-{is_cut}")
    run = daemon.finish(daemon.submit(session, model=wire.name))
    (completed,) = events(daemon, session, "model_call.completed")
    assert {name: completed[name] for name in ("stop_reason", "usage")} == expected
    assert {k: v for k, v in run["usage"].items() if v} == expected["usage"]


@each_wire
def test_a_tool_call_runs_and_its_result_goes_back(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(
        Answer(wire.stream("I look.", calls=(("bash", {"command": "echo out; exit 3"}),))),
        Answer(wire.stream("It failed.")),
    )
    session = daemon.session(f"tool-{wire.name}", "bypass")
    run = daemon.finish(daemon.submit(session, "look", model=wire.name))
    assert (run["status"], run["outputs"], run["step"]) == ("completed", ["It failed."], 2)
    (completed,) = events(daemon, session, "tool_call.completed")
    call_id = completed["tool_call_id"]
    _, second = server.requests
    (asked,), (result,) = wire.with_tool_results(second)
    text = "out\n[exit status 3]"
    if wire.name == "anthropic":
        assert asked == {"type": "tool_use", "id": call_id, "name": "bash", "input": {"command": "echo out; exit 3"}}
        assert result.pop("cache_control") == {"type": "ephemeral"}
        assert result == {
            "type": "tool_result",
            "tool_use_id": call_id,
            "is_error": True,
            "content": [{"type": "text", "text": text}],
        }
    else:
        assert (asked["id"], asked["type"], asked["function"]["name"]) == (call_id, "function", "bash")
        assert json.loads(asked["function"]["arguments"]) == {"command": "echo out; exit 3"}
        assert result == {"role": "tool", "tool_call_id": call_id, "content": text}


@each_wire
def test_parallel_tool_calls_run_together_and_come_back_in_their_order(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    """Each of two commands waits for the other: they end only if both run at once."""
    meet = "touch {me}; while [ ! -e {other} ]; do sleep 0.01; done; echo {me}"
    calls = tuple(
        ("bash", {"command": meet.format(me=f"{me}-{wire.name}", other=f"{other}-{wire.name}")})
        for me, other in (("a", "b"), ("b", "a"))
    )
    server.play(Answer(wire.stream(calls=calls)), Answer(wire.stream("Both.")))
    session = daemon.session(f"parallel-{wire.name}", "bypass")
    assert daemon.finish(daemon.submit(session, model=wire.name))["outputs"] == ["Both."]
    asked, results = wire.with_tool_results(server.requests[1])
    ids = [call["id"] for call in asked]
    assert len(set(ids)) == 2
    assert [result.get("tool_use_id") or result.get("tool_call_id") for result in results] == ids
    texts = [r["content"] if isinstance(r["content"], str) else r["content"][0]["text"] for r in results]
    assert texts == [f"a-{wire.name}\n", f"b-{wire.name}\n"]


@each_wire
def test_the_model_sees_the_conversation_the_tools_and_the_key_is_sent(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.stream("one")), Answer(wire.stream("two")))
    session = daemon.session(f"request-{wire.name}")
    for text in ("first", "second"):
        daemon.finish(daemon.submit(session, text, model=f"{wire.name}/some/model"))
    body = server.requests[1]
    assert body["model"] == "some/model"
    spoken = [m for m in body["messages"] if m["role"] != "system"]
    assert [m["role"] for m in spoken] == ["user", "assistant", "user"]
    assert [word for word in ("first", "one", "second") if word not in json.dumps(spoken)] == []
    tools = [tool.get("name") or tool["function"]["name"] for tool in body["tools"]]
    assert tools == [row["tool_name"] for row in daemon.client.daemon.permission_matrix()]
    assert key_in(server.request_headers[1]) == wire.key


# -- failures -------------------------------------------------------------------------------------------------------


@each_wire
def test_a_rate_limit_is_waited_out_and_every_follower_sees_it(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    headers, at_least_ms = {
        "anthropic": ({"retry_after": "1"}, 1000),
        "openai": ({"retry_after_ms": "40"}, 40),
    }[wire.name]
    server.play(failure(429, wire.limit, **headers), Answer(wire.stream("there")))
    session = daemon.session(f"limit-{wire.name}")
    run_id = daemon.submit(session, model=wire.name)
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


@each_wire
def test_a_refused_key_fails_at_once_and_says_what_to_do(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(failure(401, wire.denial))
    run = daemon.finish(daemon.submit(daemon.session(f"denied-{wire.name}"), model=wire.name))
    said = (wire.denial["error"])["message"]  # type: ignore[index]
    assert (run["status"], run["error"]["code"]) == ("failed", "auth")
    assert run["error"]["message"] == (f"the provider refused the key; check it with `kheish routes list`: 401: {said}")
    assert len(server.requests) == 1


@each_wire
@pytest.mark.parametrize("ending", [CUT, b""], ids=["cut", "early-end"])
def test_a_stream_that_breaks_off_is_retried_and_its_text_is_not_recorded(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire, ending: bytes
) -> None:
    whole = wire.stream("partial", " words", calls=(("bash", {"command": f"touch partial-ran-{wire.name}"}),))
    broken = [piece for piece in whole if b"message_stop" not in piece and b"message_delta" not in piece]
    broken = [piece for piece in broken if b'"finish_reason": "tool_calls"' not in piece and piece != DONE]
    assert len(broken) < len(whole)
    server.play(Answer([*broken, *([ending] if ending else [])]), Answer(wire.stream("whole")))
    session = daemon.session(f"broken-{wire.name}-{'cut' if ending else 'end'}", "bypass")
    run = daemon.finish(daemon.submit(session, model=wire.name))
    assert (run["status"], run["outputs"]) == ("completed", ["whole"])
    (retry,) = events(daemon, session, "model_call.retrying")
    assert (retry["attempt"], retry["code"]) == (1, "connection")
    assert "partial" not in on_disk(daemon, session)
    assert not (daemon.work / f"partial-ran-{wire.name}").exists()
    assert len(server.requests) == 2


@each_wire
def test_halves_of_a_character_do_no_harm(daemon: DaemonProcess, server: BlockingWireServer, wire: Wire) -> None:
    """Servers cut emoji in two; joined they are whole, alone they are replaced."""
    pieces = [piece.replace(b"\\\\u", b"\\u") for piece in wire.stream("\\ud83d", "\\ude00 and \\ud83d")]
    server.play(Answer(pieces))
    run = daemon.finish(daemon.submit(daemon.session(f"halves-{wire.name}"), model=wire.name))
    assert (run["status"], run["outputs"]) == ("completed", ["\N{GRINNING FACE} and \N{REPLACEMENT CHARACTER}"])


@each_wire
def test_a_reply_that_no_record_can_hold_fails_the_run_at_once(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer(wire.stream("x" * 2_000_000)))
    run = daemon.finish(daemon.submit(daemon.session(f"giant-{wire.name}"), model=wire.name))
    assert (run["status"], run["error"]["code"]) == ("failed", "invalid_reply")
    assert len(server.requests) == 1


# -- ends -----------------------------------------------------------------------------------------------------------


@each_wire
def test_cancelling_the_run_closes_the_connection(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    server.play(Answer([*wire.stream("partial")[:3], HANG]))
    session = daemon.session(f"cancel-{wire.name}")
    run_id = daemon.submit(session, model=wire.name)
    server.wait_until_hanging()
    daemon.client.runs.cancel(run_id)
    server.wait_until_gone()
    assert daemon.finish(run_id)["status"] == "cancelled"
    assert "partial" not in on_disk(daemon, session)


def test_sigkill_in_the_middle_of_a_stream_makes_the_next_attempt(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    """The next daemon has its routes from the environment, under the same names."""
    runs = {}
    for wire in (Anthropic(), OpenAI()):
        server.play(Answer([*wire.stream("partial")[:3], HANG]))
        runs[wire.name] = daemon.submit(daemon.session(f"killed-{wire.name}"), model=wire.name)
        server.wait_until_hanging()
    daemon.kill()
    server.wait_until_gone()
    server.play(
        claude_test=Answer(Anthropic().stream("whole-anthropic")), gpt_test=Answer(OpenAI().stream("whole-openai"))
    )
    start_by_environment(daemon, server)
    for name, run_id in runs.items():
        assert daemon.finish(run_id)["outputs"] == [f"whole-{name}"]
        attempts = [
            (event["type"], event["attempt"])
            for event in events(daemon, f"killed-{name}", "model_call.started", "model_call.died")
        ]
        assert attempts == [("model_call.started", 1), ("model_call.died", 1), ("model_call.started", 2)]
        assert "partial" not in on_disk(daemon, f"killed-{name}")


# -- keys -----------------------------------------------------------------------------------------------------------


def test_the_environment_alone_chooses_the_routes(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    if (daemon.config / "routes.toml").exists():
        daemon.stop()
        start_by_environment(daemon, server)
    rows = {row["route_id"]: row for row in daemon.client.daemon.routes()}
    assert [name for name, row in rows.items() if row["is_default"]] == ["anthropic"]
    assert {rows[name]["source"] for name in ("anthropic", "openai")} == {"environment"}
    session = daemon.session("by-environment")
    for wire, selector in ((Anthropic(), None), (OpenAI(), "openai/some-model")):
        server.play(Answer(wire.stream("hello")))
        assert daemon.finish(daemon.submit(session, model=selector))["outputs"] == ["hello"]
        (headers,) = server.request_headers
        assert key_in(headers) == wire.key
    with pytest.raises(ApiError, match="openai/MODEL"):
        daemon.submit(session, model="openai")


def test_no_key_shows_anywhere(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    """After all that: servers that repeat the key in their errors, tools that print their environment."""
    said = []
    for wire in (Anthropic(), OpenAI()):
        model = f"{wire.name}/some-model"
        for status in (400, 401):
            body = json.loads(
                json.dumps(wire.denial).replace("key", f"key {wire.key} ({wire.key!r}) Bearer {wire.key}")
            )
            server.play(failure(status, body))
            session = daemon.session(f"shown-{wire.name}-{status}", "bypass")
            said.append(daemon.finish(daemon.submit(session, model=model)))
            assert said[-1]["status"] == "failed"
        server.play(failure(503, f"<html>{wire.key}</html>"), Answer(wire.stream("fine")))
        said.append(daemon.finish(daemon.submit(daemon.session(f"shown-{wire.name}-503"), model=model)))
        command = "env; cat /proc/self/environ"
        server.play(Answer(wire.stream(calls=(("bash", {"command": command}),))), Answer(wire.stream("fine")))
        session = daemon.session(f"shown-{wire.name}-env", "bypass")
        said.append(daemon.finish(daemon.submit(session, model=model)))
        assert "PATH=" in on_disk(daemon, session)
    said += [daemon.client.daemon.routes(), daemon.client.daemon.status(), daemon.client.runs.list()]
    shown = json.dumps(said) + daemon.cli("routes", "list").stdout + daemon.cli("doctor").stdout
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
