"""Debug artifacts and `kheish replay` with the real daemon, the real SDKs and the real command line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client.errors import ApiError
from kheish.limits import DEBUG_WRITE_EVERY_MS
from tests.daemon_process import EVENT_TIMEOUT_S, DaemonProcess, bash, calls, text, tool
from tests.providers.wire_server import HANG, Answer, BlockingWireServer, serving
from tests.providers.wires import MESSAGES, said

pytestmark = pytest.mark.slow

SCRIPTED = '[routes.test]\ndriver = "scripted"\ndefault_model = "script.json"\n'


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


def make(folder: Path, server: BlockingWireServer | None = None) -> DaemonProcess:
    made = DaemonProcess(folder)
    route = MESSAGES.route(server.url) if server else ""
    (made.config / "routes.toml").write_text(f'version = 1\ndefault_route = "test"\n{SCRIPTED}{route}')
    made.env[MESSAGES.key_env] = "a-key-in-the-environment"
    return made


@pytest.fixture
def daemon(tmp_path: Path, server: BlockingWireServer) -> Iterator[DaemonProcess]:
    made = make(tmp_path, server)
    try:
        made.start().client.runtime.set_debug_level("full")
        yield made
    finally:
        made.close()


def kept(daemon: DaemonProcess, run_id: str, count: int) -> list[Any]:
    """The artifacts of a run, once so many are written down and over."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while True:
        rows = daemon.client.runs.debug(run_id)
        if len(rows) == count and all(row["outcome"] for row in rows):
            return rows
        assert time.monotonic() < deadline, rows
        time.sleep(0.01)


# -- artifacts ------------------------------------------------------------------------------------------------------


def test_a_run_is_looked_into_from_the_command_line(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    server.play(Answer(MESSAGES.stream(said("Hello \x1b[31mred"))))
    run_id = daemon.submit(daemon.session("looked"), model="anthropic")
    daemon.finish(run_id)
    (row,) = kept(daemon, run_id, 1)
    assert (row["level"], row["route"], row["status"], row["outcome"]) == ("full", "anthropic", 200, "replied")
    listed = daemon.cli("runs", "debug", run_id)
    assert listed.stdout.splitlines()[1].split()[0] == "1.1" and "replied" in listed.stdout
    shown = daemon.cli("runs", "debug", run_id, "1.1")
    assert f"> POST {server.url}/v1/messages" in shown.stdout and "< 200, after" in shown.stdout
    assert "\x1b" not in shown.stdout and "message_stop" in shown.stdout
    raw = daemon.cli("runs", "debug", run_id, "1.1", "--raw")
    assert f"POST {server.url}/v1/messages\n" in raw.stdout and "\nevent: message_stop\n" in raw.stdout
    view = daemon.cli_json("runs", "debug", run_id, "1.1")
    assert json.loads(view["exchanges"][0]["request"]["body"]) == server.requests[0]
    missing = daemon.cli("runs", "debug", run_id, "7.1")
    assert missing.returncode == 5 and f"`kheish runs debug {run_id}` lists them" in missing.stderr
    assert daemon.cli("runs", "debug", run_id, "--raw").returncode == 2
    assert not [
        f for f in daemon.folder.rglob("*") if f.is_file() and daemon.env[MESSAGES.key_env] in f.read_text("latin-1")
    ]


def test_the_level_is_changed_at_runtime_and_the_next_call_has_it(daemon: DaemonProcess) -> None:
    assert daemon.cli_json("runtime", "get")["settings"]["debug_level"] == "full"
    assert daemon.cli_json("runtime", "set-debug-level", "off")["settings"]["debug_level"] == "off"
    daemon.script(text("one"), text("two"))
    run_id = daemon.submit(daemon.session("levels"))
    daemon.finish(run_id)
    nothing = daemon.cli("runs", "debug", run_id)
    assert (nothing.stdout, nothing.returncode) == ("", 0) and "the debug level is off" in nothing.stderr
    assert daemon.cli("runtime", "set-debug-level", "redacted").stdout == "revision 3\n"
    run_id = daemon.submit("levels")
    daemon.finish(run_id)
    assert kept(daemon, run_id, 1)[0]["level"] == "redacted"
    assert daemon.cli("runtime", "set-debug-level", "loud").returncode == 2
    (_, off) = daemon.cli_json("runtime", "revisions")[:2]
    assert (off["by"], off["settings"]["debug_level"]) == (f"user:{os.getuid()}", "off")


def test_the_scripted_provider_and_the_rehearsal_leave_what_they_were_asked_and_said(daemon: DaemonProcess) -> None:
    daemon.script(bash("true"), text("done"))
    for session, model, count in (("played", None, 2), ("rehearsed", "rehearsal", 1)):
        run_id = daemon.submit(daemon.session(session, "bypass"), "hello", model=model)
        daemon.finish(run_id)
        kept(daemon, run_id, count)
        (exchange,) = daemon.client.runs.debug_artifact(run_id, "1.1")["exchanges"]
        assert json.loads(exchange["request"]["body"])["messages"][0]["text"] == "hello"
        assert "stop_reason" in json.loads(exchange["response"]["events"][0]["text"])


def test_a_run_may_neither_look_at_artifacts_nor_change_the_level(daemon: DaemonProcess) -> None:
    lines = ["runtime set-debug-level off", "runs debug $KHEISH_RUN_ID", "runs debug $KHEISH_RUN_ID 1.1"]
    daemon.script(bash("; ".join(f"{sys.executable} -m kheish {line}; echo status=$?" for line in lines)), text("done"))
    daemon.finish(daemon.submit(daemon.session("run", "bypass")))
    (said_,) = [e for r in daemon.journal("run") for e in r["events"] if e["type"] == "tool_call.completed"]
    assert json.dumps(said_).count("status=4") == 3 and json.dumps(said_).count("only a local operator may") == 3
    assert daemon.client.runtime.get()["settings"]["debug_level"] == "full"


def test_killed_in_mid_stream_it_leaves_what_had_come_and_the_next_attempt_is_kept_too(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    stream = MESSAGES.stream(said("one ", "two ", "three"))
    server.play(Answer([*stream[:4], HANG]))
    run_id = daemon.submit(daemon.session("killed"), model="anthropic")
    server.wait_until_hanging()
    deadline = time.monotonic() + EVENT_TIMEOUT_S + DEBUG_WRITE_EVERY_MS / 1000
    while not daemon.client.runs.debug(run_id):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    daemon.kill()
    server.play(Answer(stream))
    daemon.start()
    daemon.finish(run_id)
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while len(rows := daemon.client.runs.debug(run_id)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [(row["artifact"], row["outcome"], row["duration_ms"] > 0) for row in rows] == [
        ("1.1", "", False), ("1.2", "replied", True)
    ]  # fmt: skip
    (exchange,) = daemon.client.runs.debug_artifact(run_id, "1.1")["exchanges"]
    assert [event["text"].encode() for event in exchange["response"]["events"]] == stream[:4]
    assert not exchange["response"]["complete"]
    assert "not over" in daemon.cli("runs", "debug", run_id).stdout


def test_without_the_folder_of_artifacts_nothing_is_lost(daemon: DaemonProcess) -> None:
    daemon.script(text("one"), text("two"))
    run_id = daemon.submit(daemon.session("lost"))
    daemon.finish(run_id)
    kept(daemon, run_id, 1)
    shutil.rmtree(daemon.state / "debug")
    assert daemon.client.runs.debug(run_id) == []
    with pytest.raises(ApiError) as caught:
        daemon.client.runs.debug_artifact(run_id, "1.1")
    assert (caught.value.status, caught.value.code) == (404, "debug_artifact_not_found")
    again = daemon.submit("lost")
    assert daemon.finish(again)["outputs"] == ["two"]
    kept(daemon, again, 1)


# -- replay ---------------------------------------------------------------------------------------------------------


def test_a_run_with_all_that_may_happen_is_the_same_again_and_departs_where_rules_changed(tmp_path: Path) -> None:
    """An approval that is edited, a question, a retry, a denied call, and a death that leaves an outcome unknown."""
    daemon = make(tmp_path)
    asking = tool("ask_user_question", questions=[{"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}])
    try:
        daemon.start().client.runtime.set_debug_level("redacted")
        daemon.script(
            calls(tool("bash", command="echo one"), asking),
            {**text("so far"), **bash("touch denied")},
            bash("touch began; exec sleep 600"),
            text("done", error={"code": "overloaded", "times": 1}),
        )
        run_id = daemon.submit(daemon.session("all"))
        client = daemon.client
        first = daemon.until("all", "approval.requested")
        client.approvals.resolve(first["request_id"], "allow", updated_input={"command": "echo edited"})
        client.questions.answer(daemon.until("all", "question.requested")["request_id"], [
            {"question_id": "1", "selected_option_ids": ["2"]}
        ])  # fmt: skip
        denied = daemon.until("all", "approval.requested", cursor=str(first["seq"]))
        client.approvals.resolve(denied["request_id"], "deny", justification="no")
        third = daemon.until("all", "approval.requested", cursor=str(denied["seq"]))
        client.approvals.resolve(third["request_id"], "allow", remember="always")
        while not (daemon.work / "began").exists():
            time.sleep(0.01)
        daemon.kill()
        daemon.start()
        unknown = daemon.until("all", "approval.requested", cursor=str(third["seq"]))
        client.approvals.resolve(unknown["request_id"], "mark_done")
        assert daemon.finish(run_id)["status"] == "completed"
        kept(daemon, run_id, 5)
        before = {path: path.read_bytes() for path in daemon.state.rglob("*") if path.is_file()}
        same = daemon.cli("replay", run_id)
        assert (same.returncode, same.stderr) == (0, ""), same.stdout
        assert "the same; " in same.stdout and " and 5 requests compared" in same.stdout
        report = daemon.cli_json("replay", run_id[4:16])
        assert report["run_id"] == run_id and not report["departs"] and report["unknown"] == 0
        assert report["decisions"] == len([r for r in daemon.records("all") if run_id in json.dumps(r)])
        # Under other rules, with and without the daemon.
        (daemon.config / "config.toml").write_text(
            '[permissions]\nallow = ["bash(echo *)"]\ndeny = ["bash(touch *)"]\n'
        )
        departs = daemon.cli("replay", run_id)
        assert departs.returncode == 23 and "behavior: ask -> allow" in departs.stdout
        assert "refused now: cannot allow " in departs.stdout
        first_step = daemon.cli("replay", run_id, "--until", "1", "--json")
        found = json.loads(first_step.stdout)["departures"]
        assert first_step.returncode == 23 and {d["step"] for d in found} == {1}
        after = {path: path.read_bytes() for path in before if path.is_file()}
        changed = {path.name for path in before if after.get(path) != before[path]}
        assert changed <= {"daemon.log", "index.jsonl"}, "the session and its artifacts are as they were"
        assert daemon.stop() == 0
        offline = daemon.cli("replay", run_id[:16])
        assert offline.returncode == 23 and offline.stdout == departs.stdout
        assert not daemon.socket.exists(), "no daemon was started"
        missing = daemon.cli("replay", "run_0000")
        assert missing.returncode == 5 and "cannot find run run_0000" in missing.stderr
    finally:
        daemon.close()
