"""Compaction with the real daemon, command line and SDKs: on every wire, on request, and with SIGKILL in the middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess, text
from tests.providers.wire_server import HANG, Answer, BlockingWireServer, failure, serving
from tests.providers.wires import USAGE, WIRES, Wire

pytestmark = pytest.mark.slow

Json = dict[str, Any]

each_wire = pytest.mark.parametrize("wire", [pytest.param(wire, id=wire.driver) for wire in WIRES])
LONG = "a long story " * 3_000
TOKENS = USAGE.input_tokens + USAGE.output_tokens + USAGE.cache_read_tokens + USAGE.cache_write_tokens


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, server: BlockingWireServer) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("compaction"))
    tables = "".join(wire.route(server.url) for wire in WIRES)
    play = '[routes.play]\ndriver = "scripted"\ndefault_model = "script.json"\ncontext_tokens = 12_000\n'
    (made.config / "routes.toml").write_text(f'version = 1\ndefault_route = "play"\n{play}{tables}')
    made.env.update({wire.key_env: wire.key for wire in WIRES})
    try:
        yield made.start()
    finally:
        made.close()


def facts(daemon: DaemonProcess, session: str, *types: str) -> list[Json]:
    return [e for record in daemon.journal(session) for e in record["events"] if e["type"] in types]


def run(daemon: DaemonProcess, session: str, said: str, model: str | None = None) -> Json:
    return daemon.finish(daemon.submit(session, said, model=model))


@each_wire
def test_what_a_provider_finds_too_large_is_summed_up_and_answered(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Wire
) -> None:
    session = daemon.session(f"large-{wire.driver}")
    too_large = failure(400, wire.errors("too_large", "prompt is too long"))
    for number in range(3):
        server.play(Answer(wire.text(LONG)))
        assert run(daemon, session, f"tell me, {number}", wire.driver)["status"] == "completed"
    server.play(too_large, Answer(wire.text("They told ", "stories.")), Answer(wire.text("The end.")))
    done = run(daemon, session, "and now?", wire.driver)
    assert (done["status"], done["outputs"], done["step"]) == ("completed", ["The end."], 1)
    assert done["usage"]["cache_read_tokens"] == 2 * USAGE.cache_read_tokens, "the summary is paid like any call"
    refused, summary, last = server.requests
    assert not summary.get("tools") and "The record begins here." in json.dumps(summary)
    assert LONG in json.dumps(refused) and LONG not in json.dumps(last)
    assert all(said in json.dumps(last) for said in ("tell me, 0", "They told stories.", "and now?"))
    (compacted,) = facts(daemon, session, "context.compacted")
    assert (compacted["reason"], compacted["summary"]) == ("too_large", "They told stories.")
    shown = daemon.client.sessions.transcript(session)
    assert [m["text"] for m in shown["items"]] == [
        "tell me, 0", LONG, "tell me, 1", LONG, "tell me, 2", LONG, "and now?", "The end."
    ]  # fmt: skip
    why = "\n".join(daemon.client.runs.why(done["run_id"])["lines"])
    assert "step 1, a summary: " in why and "a summary stands for them" in why and "too_large" in why


def test_the_command_line_compacts_on_request_and_shows_how_much_there_is(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    wire = WIRES[0]
    session = daemon.session("asked")
    refused = daemon.cli("sessions", "compact", session)
    assert refused.returncode != 0 and "nothing was said" in refused.stderr
    server.play(
        Answer(wire.text(LONG)), Answer(wire.text(LONG)), Answer(wire.text("A gist.")), Answer(wire.text("Ok."))
    )
    assert daemon.cli("run", "-s", session, "--model", wire.driver, "one").returncode == 0
    assert daemon.cli("run", "-s", session, "--model", wire.driver, "two").returncode == 0
    view = daemon.cli_json("sessions", "compact", session)
    assert view["context"]["compaction_requested"] and view["context"]["tokens"] == TOKENS
    assert f"{TOKENS} tokens, compacted before the next model call" in daemon.cli("sessions", "get", session).stdout
    done = daemon.cli("run", "-s", session, "--model", wire.driver, "three")
    assert done.stdout.strip() == "Ok.", "the summary is no answer"
    assert "context compacted, as asked for" in done.stderr
    context = daemon.cli_json("sessions", "get", session)["context"]
    assert (context["compactions"], context["compaction_requested"], context["is_estimate"]) == (1, False, False)
    assert context["left_out"] > 0
    assert "left out in 1 compaction" in daemon.cli("sessions", "get", session).stdout


def test_a_pinned_input_stays_through_a_compaction(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    wire = WIRES[0]
    session = daemon.session("pinned")
    server.play(Answer(wire.text(LONG)))
    run(daemon, session, "one", wire.driver)
    assert daemon.cli("run", "-s", session, "--model", wire.driver, "--pin", "never touch main").returncode == 0
    run(daemon, session, "three", wire.driver)
    daemon.client.sessions.compact(session)
    run(daemon, session, "four", wire.driver)
    sent = json.dumps(server.requests[-1])
    assert "never touch main" in sent and '"three"' not in sent


def script(daemon: DaemonProcess, *replies: Json, **fields: Any) -> None:
    (daemon.config / "script.json").write_text(json.dumps({"version": 1, "replies": list(replies), **fields}))


def test_a_daemon_that_is_killed_in_a_summary_goes_on_with_it(daemon: DaemonProcess) -> None:
    """Also before the compaction and after it, each time from the journal alone."""
    script(
        daemon, text(LONG), text("short"), {**text("done"), "hang": 1}, text("more"), summary={**text("It."), "hang": 1}
    )
    session = daemon.session("killed")
    run(daemon, session, "one")
    run_id = daemon.submit(session, "two")
    daemon.until(session, "model_call.started", cursor=str(seq_of(daemon, run_id)))
    daemon.kill()
    daemon.start()
    assert daemon.finish(run_id)["outputs"] == ["short"]
    run_id = daemon.submit(session, "three")
    daemon.until(session, "context.compacted")  # it hangs in the reply that follows
    daemon.kill()
    daemon.start()
    assert daemon.finish(run_id)["outputs"] == ["done"]
    attempts = [
        (e.get("purpose", "reply"), e["attempt"], e.get("reason", "primary"))
        for e in facts(daemon, session, "model_call.started")
    ]
    assert attempts == [
        ("reply", 1, "primary"),
        ("summary", 1, "primary"),
        ("summary", 2, "resumed"),
        ("reply", 1, "primary"),
        ("reply", 1, "primary"),
        ("reply", 2, "resumed"),
    ]
    assert daemon.cli("sessions", "verify", session).returncode == 0
    assert run(daemon, session, "four")["outputs"] == ["more"]


def seq_of(daemon: DaemonProcess, run_id: str) -> int:
    """The seq before the record that submitted a run."""
    session = daemon.client.runs.get(run_id)["session_id"]
    return next(r["seq"] for r in daemon.journal(session) if any(e.get("run_id") == run_id for e in r["events"])) - 1


def test_a_script_with_a_small_window_is_compacted_and_plays_on(daemon: DaemonProcess) -> None:
    script(daemon, *[text("w" * 8_000) for _ in range(4)], text("the end"), window_tokens=9_000)
    session = daemon.session("small", "bypass")
    for number in range(4):
        assert run(daemon, session, f"input {number}", "scripted/script.json")["status"] == "completed"
    done = run(daemon, session, "the last", "scripted/script.json")
    assert done["outputs"] == ["the end"]


def test_nobody_waits_for_a_server_that_hangs_in_a_summary_when_the_run_is_cancelled(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    wire = WIRES[0]
    session = daemon.session("cancelled")
    server.play(Answer(wire.text(LONG)), Answer(wire.text(LONG)), Answer([HANG]))
    run(daemon, session, "one", wire.driver)
    run(daemon, session, "two", wire.driver)
    daemon.client.sessions.compact(session)
    run_id = daemon.submit(session, "three", model=wire.driver)
    daemon.until(session, "model_call.started", cursor=str(seq_of(daemon, run_id)))
    daemon.client.runs.cancel(run_id)
    assert daemon.finish(run_id)["status"] == "cancelled"
    server.play(Answer(wire.text("Fine.")))
    assert run(daemon, session, "four", wire.driver)["outputs"] == ["Fine."]
