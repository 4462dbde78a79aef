"""A chain over three wires, with the real daemon and the real SDKs: the primary is overloaded from its third call on,
the fallback breaks off in mid-stream and then fails, the standby answers; and the daemon is killed at each hop."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess
from tests.providers.wire_server import CUT, HANG, Answer, BlockingWireServer, failure, serving
from tests.providers.wires import COMPLETIONS, MESSAGES, RESPONSES, asked, said, thought

pytestmark = pytest.mark.slow

Json = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n\x00rest"
IMAGE = {"file_name": "shot.png", "media_type": "image/png", "content_base64": base64.b64encode(PNG).decode()}
ASKS = [
    Answer(MESSAGES.stream(thought("hm"), said("I look."), asked("bash", {"command": f"echo out {number}"})))
    for number in (1, 2)
]
OVERLOADED = failure(529, MESSAGES.errors("overloaded", "busy"), retry_after="600", request_id="req_busy")
BROKEN = Answer([*RESPONSES.text("partial ", "words", "!")[:-4], CUT], headers={"x-request-id": "req_cut"})
FAILS = failure(500, RESPONSES.errors("server_error", "oh no"), retry_after="600")
ANSWERS = Answer(COMPLETIONS.text("The ", "answer."), headers={"x-request-id": "req_good"})

Servers = dict[str, BlockingWireServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        yield {route: stack.enter_context(serving()) for route in ("claude", "gpt", "kin")}


@pytest.fixture
def daemon(tmp_path: Path, servers: Servers) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path)
    tables = "".join(wire.route(servers[name].url, name) for name, wire in WIRES.items())
    tables = tables[::-1].replace("multimodal_input = true"[::-1], "multimodal_input = false"[::-1], 1)[::-1]
    chain = 'default_route = "main"\n[chains.main]\nroutes = ["claude", "gpt", "kin"]\n'
    (made.config / "routes.toml").write_text(f"version = 1\n{chain}{tables}")
    made.env.update({wire.key_env: wire.key for wire in WIRES.values()})
    try:
        yield made.start()
    finally:
        made.close()


WIRES = {"claude": MESSAGES, "gpt": RESPONSES, "kin": COMPLETIONS}


def play(servers: Servers, killed_at: str = "") -> None:
    """`killed_at` names the answer before which the server keeps its client waiting for one, once."""
    waits = Answer([HANG])
    scenes = {
        "claude": [*ASKS, *([waits] if killed_at == "overloaded" else []), OVERLOADED],
        "gpt": [
            *([waits] if killed_at == "broken" else []), BROKEN, *([waits] if killed_at == "fails" else []), FAILS
        ],
        "kin": [*([waits] if killed_at == "answers" else []), ANSWERS],
    }  # fmt: skip
    for route, answers in scenes.items():
        servers[route].play(*answers)


def events(daemon: DaemonProcess, session: str, *types: str) -> list[Json]:
    return [e for record in daemon.journal(session) for e in record["events"] if e["type"] in types]


def story(daemon: DaemonProcess, session: str) -> list[tuple[str, ...]]:
    """What was taken and why, and what came of it."""
    found: list[tuple[str, ...]] = []
    for event in events(
        daemon, session, "model_call.started", "model_call.retrying", "model_call.completed", "model_call.died"
    ):
        match event["type"]:
            case "model_call.started":
                found.append((event["route"], event.get("reason", "primary")))
            case "model_call.retrying":
                found.append((event["code"], "discarded") if event.get("discarded") else (event["code"],))
            case kind:
                found.append((kind.partition(".")[2],))
    return found


STORY = [
    ("claude", "primary"),
    ("completed",),
    ("claude", "primary"),
    ("completed",),
    ("claude", "primary"),
    ("overloaded",),
    ("gpt", "failover"),
    ("connection", "discarded"),
    ("gpt", "retry"),
    ("server_error",),
    ("kin", "failover"),
    ("completed",),
]


def test_the_run_completes_over_three_hops_and_the_journal_tells_the_whole_story(
    daemon: DaemonProcess, servers: Servers
) -> None:
    play(servers)
    run_id = daemon.submit(daemon.session("s", "bypass"), attachments=[IMAGE])
    shown, discarded = "", []
    for frame in daemon.events(run_id=run_id):
        if frame.event == "delta" and frame.data["kind"] == "text":
            shown += frame.data["text"]
        for event in frame.data.get("events", ()) if frame.event == "record" else ():
            if event["type"] == "model_call.retrying" and event.get("discarded"):
                discarded.append(shown)
            if event["type"] in ("model_call.retrying", "model_call.completed"):
                final, shown = shown, ""
    assert (discarded, final) == (["partial words!"], "The answer."), "followers are told, and see no text twice"
    run = daemon.client.runs.get(run_id)
    assert (run["status"], run["outputs"], run["step"]) == ("completed", ["The answer."], 3)
    assert story(daemon, "s") == STORY
    (submitted,) = events(daemon, "s", "run.submitted")
    assert [hop["route"] for hop in submitted["hops"]] == ["claude", "gpt", "kin"] and submitted["route"] == "claude"
    busy, cut, failed = events(daemon, "s", "model_call.retrying")
    assert (busy["request_id"], cut["request_id"], failed["message"]) == ("req_busy", "req_cut", "500: oh no")
    last = events(daemon, "s", "model_call.completed")[-1]
    assert last["request_id"] == "req_good" and 1 <= last["first_ms"] <= last["duration_ms"]
    started = events(daemon, "s", "model_call.started")[-1]
    assert [(c["route"], c["code"]) for c in started["cooling"]] == [("claude", "overloaded"), ("gpt", "server_error")]

    # Each wire has the whole conversation as it takes it: no thinking of another, our ids for the tool calls.
    tool_call_ids = [e["tool_call_id"] for e in events(daemon, "s", "tool_call.completed")]
    for route in ("gpt", "kin"):
        body = servers[route].requests[-1]
        calls, results = WIRES[route].calls_and_results(body)
        assert [id_ for id_, _, _ in calls] == [id_ for id_, _ in results] == tool_call_ids
        assert '"hm"' not in json.dumps(body) and "signature" not in json.dumps(body)
    assert len(RESPONSES.media(servers["gpt"].requests[0])) == 1
    assert not COMPLETIONS.media(servers["kin"].requests[0])
    assert "shot.png: image/png" in json.dumps(servers["kin"].requests[0]), "what it is not shown is named"

    # While the first two are spared, the next run begins with the third.
    daemon.finish(daemon.submit("s"))
    assert story(daemon, "s")[len(STORY) :] == [("kin", "cooling"), ("completed",)]
    (chain,) = daemon.client.daemon.chains()
    assert [spared["route"] for spared in chain["cooling"]] == ["claude", "gpt"] and chain["is_default"]

    why = daemon.client.runs.why(run_id)
    assert [(a["route"], a["reason"], a["result"]) for a in why["attempts"]] == [
        ("claude", "primary", "replied"),
        ("claude", "primary", "replied"),
        ("claude", "primary", "failed"),
        ("gpt", "failover", "failed"),
        ("gpt", "retry", "failed"),
        ("kin", "failover", "replied"),
    ]
    said_ = daemon.cli("runs", "why", run_id).stdout
    for words in (
        "claude/claude-test, then gpt/gpt-5-test, then kin/gpt-test",
        "step 3, attempt 2: gpt/gpt-5-test, since claude/claude-test failed (overloaded); claude/claude-test is spared",
        "overloaded: 529: busy [req_busy]",
        "what it had said was discarded",
        "the run completed",
    ):
        assert words in said_, said_
    usage = daemon.client.runs.usage(run_id, by="route")
    assert {row["name"]: row["calls"] for row in usage["rows"]} == {"claude": 2, "kin": 1}
    everything = daemon.client.daemon.usage(by="route")
    assert {row["name"]: row["calls"] for row in everything["rows"]} == {"claude": 2, "kin": 2}


@pytest.mark.parametrize(
    ("killed_at", "route", "place"),
    [("overloaded", "claude", 4), ("broken", "gpt", 6), ("fails", "gpt", 8), ("answers", "kin", 10)],
)
def test_a_daemon_that_is_killed_at_a_hop_goes_on_there_and_the_run_completes(
    daemon: DaemonProcess, servers: Servers, killed_at: str, route: str, place: int
) -> None:
    play(servers, killed_at)
    run_id = daemon.submit(daemon.session("s", "bypass"))
    servers[route].wait_until_hanging()
    daemon.kill()
    daemon.start()
    run = daemon.finish(run_id)
    assert (run["status"], run["outputs"]) == ("completed", ["The answer."])
    taken = STORY[place]
    assert story(daemon, "s") == [*STORY[:place], taken, ("died",), (taken[0], "resumed"), *STORY[place + 1 :]]
    assert "partial" not in "".join(f.read_text() for f in (daemon.state / "sessions/s").glob("*.jsonl"))
    if killed_at == "answers":
        daemon.finish(daemon.submit("s"))
        assert ("claude", "primary") in story(daemon, "s")[-8:], "what was spared is forgotten"
