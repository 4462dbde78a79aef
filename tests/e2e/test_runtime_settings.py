"""What is set while a real daemon runs, by the command line, with the real SDKs: who takes it up, and who does not."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client.errors import ApiError
from kheish.core import commands as c
from kheish.core.codec import decode_events
from kheish.core.events import ModelCallStarted
from kheish.limits import CIRCUIT_PAUSE_MS
from kheish.providers.registry import Routes
from kheish.runtime.supervisor import Supervisor
from tests.daemon_process import DaemonProcess, bash, calls, text
from tests.providers.wire_server import GATE, Answer, BlockingWireServer, failure, serving
from tests.providers.wires import COMPLETIONS, MESSAGES, RESPONSES, WIRES, asked
from tests.runtime.kernel import OPERATOR

pytestmark = pytest.mark.slow

RUNS = 20


@pytest.fixture(scope="module")
def server() -> Iterator[BlockingWireServer]:
    with serving() as running:
        yield running


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path)
    made.env.update({wire.key_env: wire.key for wire in WIRES})
    try:
        yield made.start()
    finally:
        made.close()


def add(daemon: DaemonProcess, server: BlockingWireServer, wire: Any, route_id: str) -> None:
    made = daemon.cli(
        "routes", "add", route_id, "--driver", wire.driver, "--model", wire.model, "--base-url",
        f"{server.url}{wire.base}", "--key-env", wire.key_env,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "from     runtime" in made.stdout and wire.key not in made.stdout + made.stderr


def test_a_new_default_during_twenty_running_runs_changes_none_of_them(
    daemon: DaemonProcess, server: BlockingWireServer
) -> None:
    """Each is in its first call; its second is made after the change, and after a restart."""
    add(daemon, server, MESSAGES, "claude")
    add(daemon, server, COMPLETIONS, "kin")
    assert daemon.cli("runtime", "set-model", "claude").returncode == 0
    assert daemon.cli("runtime", "set-system-prompt", "Old", "words.").returncode == 0
    ask = Answer([GATE, *MESSAGES.stream(asked("bash", {"command": "true"}))])
    server.play(*[ask] * RUNS, Answer([GATE, *MESSAGES.text("old")]), kin_new=Answer(COMPLETIONS.text("new")))
    sessions = [daemon.session(f"s{number}", "bypass") for number in range(RUNS)]
    runs = [daemon.submit(session) for session in sessions]
    for session in sessions:
        daemon.until(session, "model_call.started")
    changed = daemon.cli("runtime", "set-model", "kin/kin-new", "--if-revision", "4")
    assert (changed.returncode, changed.stdout) == (0, "revision 5\n")
    assert daemon.cli("runtime", "set-system-prompt", "New words.").returncode == 0
    late = daemon.finish(daemon.submit(daemon.session("late")))
    assert (late["outputs"], late["request"]["provider"], late["request"]["model"]) == (["new"], "kin", "kin-new")
    for _ in range(RUNS):
        server.open_gate()
    for session in sessions:
        daemon.until(session, "tool_call.completed")
    daemon.kill()
    daemon.start()
    for _ in range(2 * RUNS):
        server.open_gate()
    for run_id in runs:
        run = daemon.finish(run_id)
        assert (run["outputs"], run["request"]["model"]) == (["old"], MESSAGES.model)
    texts: dict[str, set[str]] = {}
    for request in server.requests:
        whole = json.dumps(request)
        texts.setdefault(request["model"], set()).add("Old words." if "Old words." in whole else "New words.")
        assert ("Old words." in whole) != ("New words." in whole)
    assert texts == {MESSAGES.model: {"Old words."}, "kin-new": {"New words."}}
    assert daemon.client.runtime.get()["settings"]["model"] == "kin/kin-new", "what was set outlives the daemon"


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.driver)
def test_a_route_is_added_tried_used_and_removed_while_the_daemon_runs(
    daemon: DaemonProcess, server: BlockingWireServer, wire: Any
) -> None:
    add(daemon, server, wire, "added")
    server.play(Answer(wire.text("hello")))
    tried = daemon.cli("routes", "test", "added")
    assert tried.returncode == 0 and f"added: {wire.model} answers, " in tried.stdout
    assert daemon.finish(daemon.submit(daemon.session("s"), model="added"))["outputs"] == ["hello"]
    server.play(failure(401, wire.errors("auth", f"bad key {wire.key}")))
    refused = daemon.cli("routes", "test", "added", "--auth")
    assert refused.returncode == 1 and "added: auth: 401: bad key ***" in refused.stdout
    assert daemon.cli("routes", "remove", "added").stdout == "removed added\n"
    assert daemon.cli("routes", "get", "added").returncode == 5
    with pytest.raises(ApiError, match="cannot find route added"):
        daemon.client.routes.test("added")


def test_the_doctor_looks_at_each_hop_of_each_chain(daemon: DaemonProcess, server: BlockingWireServer) -> None:
    tables = "".join(wire.route(server.url, name) for wire, name in ((MESSAGES, "claude"), (RESPONSES, "gpt")))
    chain = '[chains.main]\nroutes = ["claude", "gpt/gpt-bad", "keyless"]\n'
    keyless = '[routes.keyless]\ndriver = "xai"\n'
    gone = '[routes.gone]\ndriver = "ollama"\nbase_url = "http://127.0.0.1:1"\ndefault_model = "m"\n'
    (daemon.config / "routes.toml").write_text(f'version = 1\ndefault_route = "main"\n{tables}{keyless}{gone}{chain}')
    listed = Answer(
        [b'{"object": "list", "data": [], "has_more": false}'], headers={"content-type": "application/json"}
    )
    server.play(listed, claude_test=Answer(MESSAGES.text("ok")),
                gpt_bad=failure(404, RESPONSES.errors("invalid", "no such model")))  # fmt: skip
    done = daemon.cli("doctor", "routes", "--check-auth", "--canary")
    assert done.returncode == 1, done.stdout
    rows = {line.split()[1]: line for line in done.stdout.splitlines()}
    assert (
        "chain main; the key is taken (" in rows["claude/claude-test"] and "it answers (" in rows["claude/claude-test"]
    )
    assert rows["claude/claude-test"].startswith("ok ")
    assert rows["gpt/gpt-bad"].startswith("wrong ") and "invalid: 404: no such model" in rows["gpt/gpt-bad"]
    assert "`kheish routes set ROUTE --model MODEL`" in rows["gpt/gpt-bad"]
    assert rows["keyless/grok-4-fast-reasoning"].startswith("wrong ") and "XAI_API_KEY" in done.stdout
    assert rows["gone/m"].count("connection: ") == 1, "what the key's test found is not found again"
    asked_before = len(server.requests)
    assert daemon.cli("doctor", "routes").returncode == 1 and len(server.requests) == asked_before, "it asks nobody"

    status = daemon.client.daemon.status()
    readiness = {row["route_id"]: row["status"] for row in status["provider_readiness"]["routes"]}
    assert readiness["keyless"] == "error" and readiness["claude"] == readiness["gpt"] == "ok"
    (warning,) = status["warnings"]
    assert warning["code"] == "provider_active_route_not_ready" and "keyless" in warning["message"]
    assert warning["action"] == "set XAI_API_KEY where the daemon is started, then `kheish daemon restart`"
    assert f"({warning['action']})" in daemon.cli("status").stdout
    (daemon.config / "routes.toml").write_text("version = 2\n")
    (warning,) = daemon.client.daemon.status()["warnings"]
    assert warning["code"] == "invalid_routes" and warning["action"]


def test_settings_go_back_and_are_refused_to_who_saw_others(daemon: DaemonProcess) -> None:
    for arguments in (["set-permission-mode", "plan"], ["set-debug-level", "redacted"],
                      ["tool-limits", "bash", "--timeout-ms", "500"]):  # fmt: skip
        assert daemon.cli("runtime", *arguments).returncode == 0
    late = daemon.cli("runtime", "set-debug-level", "full", "--if-revision", "2")
    assert late.returncode == 6 and "they have revision 3, not 2" in late.stderr
    daemon.cli("run", "-s", "planned", "--detach", "x", "--model", "rehearsal")
    assert daemon.client.sessions.get("planned")["permission_mode"] == "plan"
    assert daemon.cli("runtime", "rollback", "1").stdout == "revision 4\n"
    view = daemon.cli_json("runtime", "get")
    assert view["settings"]["permission_mode"] == "plan" and view["settings"]["debug_level"] == "off"
    assert view["settings"]["tool_limits"] == {}
    rows = daemon.cli_json("runtime", "revisions")
    assert [row["change"] for row in rows] == [
        "rollback 1", "tool-limits bash timeout_ms 500", "set-debug-level redacted", "set-permission-mode plan", "",
    ]  # fmt: skip
    assert {row["by"] for row in rows} == {f"user:{os.getuid()}", ""} and rows[0]["origin"] == "cli"
    for arguments, status in (
        (["rollback", "77"], 5), (["tool-limits", "no-such-tool", "--reset"], 2), (["set-model"], 2),
        (["set-model", "x", "--reset"], 2), (["tool-limits", "bash"], 2), (["tool-limits", "--reset"], 2),
        (["tool-limits", "bash", "--output-bytes", "5"], 2), (["set-debug-level", "loud"], 2),
    ):  # fmt: skip
        done = daemon.cli("runtime", *arguments)
        assert done.returncode == status and done.stderr, arguments
    assert daemon.cli_json("runtime", "get")["revision"] == 4


def test_a_limit_ends_a_command_of_a_later_run(daemon: DaemonProcess) -> None:
    daemon.cli("runtime", "tool-limits", "bash", "--timeout-ms", "300")
    daemon.script(bash("sleep 600"), text("done"))
    assert daemon.finish(daemon.submit(daemon.session("s", "bypass")))["outputs"] == ["done"]
    (completed,) = [e for r in daemon.journal("s") for e in r["events"] if e["type"] == "tool_call.completed"]
    assert completed["is_error"] and "300" in completed["output"]


def test_the_session_comes_before_the_daemon_and_the_run_before_both(daemon: DaemonProcess) -> None:
    for name in ("daemon", "session", "run"):
        daemon.script(text(name), name=f"{name}.json", after_last="repeat")
    session = daemon.session("s")
    daemon.client.runtime.set_model("scripted/daemon.json")
    found = [daemon.finish(daemon.submit(session))["outputs"]]
    assert daemon.cli("sessions", "set-model", "s", "scripted/session.json").stdout == "s: scripted/session.json\n"
    found.append(daemon.finish(daemon.submit(session))["outputs"])
    found.append(daemon.finish(daemon.submit(session, model="scripted/run.json"))["outputs"])
    daemon.kill()
    daemon.start()
    found.append(daemon.finish(daemon.submit(session))["outputs"])
    assert daemon.cli("sessions", "set-model", "s", "--reset").returncode == 0
    found.append(daemon.finish(daemon.submit(session))["outputs"])
    assert found == [["daemon"], ["session"], ["run"], ["session"], ["daemon"]]


def test_a_run_may_change_none_of_it_and_makes_no_laxer_session(daemon: DaemonProcess) -> None:
    daemon.client.runtime.set_permission_mode("bypass")
    lines = ["runtime set-model rehearsal", "runtime set-permission-mode bypass", "runtime set-system-prompt obey",
             "runtime set-debug-level full", "runtime tool-limits bash --timeout-ms 1", "runtime rollback 0",
             "routes add evil --driver rehearsal", "routes set test --model evil.json", "routes remove test",
             "routes test rehearsal", "sessions set-model s rehearsal", "secrets rotate-key"]  # fmt: skip
    command = "; ".join(f"{sys.executable} -m kheish {line}; echo status=$?" for line in lines)
    daemon.script(bash(f"{command}; {sys.executable} -m kheish sessions create child"), calls(), text("done"))
    daemon.finish(daemon.submit(daemon.session("s", "bypass")))
    (completed,) = [e for r in daemon.journal("s") for e in r["events"] if e["type"] == "tool_call.completed"]
    said = json.dumps(completed)
    assert said.count("status=4") == said.count("only a local operator may") == len(lines), said
    assert daemon.client.runtime.get()["revision"] == 1
    assert daemon.client.sessions.get("child")["permission_mode"] == "default"
    assert daemon.client.sessions.create("mine", cwd=str(daemon.work))["permission_mode"] == "bypass"


def test_names_of_routes_and_secrets_are_completed(daemon: DaemonProcess) -> None:
    daemon.client.secrets.set("tracker", "x")
    assert daemon.cli("completion", "routes").stdout.split() == ["test", "scripted", "rehearsal", "shell"]
    assert daemon.cli("completion", "secrets").stdout.split() == ["tracker"]


# -- the way back ---------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.at_ms = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.at_ms


async def test_the_primary_is_returned_to_when_its_cool_down_is_over(
    tmp_path: Path, server: BlockingWireServer
) -> None:
    """The kernel, the real routes and SDKs, and servers on the network; only the clock is the test's."""
    with serving() as other:
        (tmp_path / "routes.toml").write_text(
            'version = 1\ndefault_route = "main"\n[chains.main]\nroutes = ["claude", "kin"]\n'
            + MESSAGES.route(server.url, "claude")
            + COMPLETIONS.route(other.url, "kin")
        )
        server.play(failure(529, MESSAGES.errors("overloaded", "busy")), Answer(MESSAGES.text("primary")))
        other.play(Answer(COMPLETIONS.text("standby")))
        clock = Clock()
        routes = Routes(tmp_path, {wire.key_env: wire.key for wire in WIRES})
        found = await _ask_four_times(tmp_path / "state", routes, clock)
    assert found == [
        ("standby", [("claude", "primary"), ("kin", "failover")]),
        ("standby", [("kin", "cooling")]),
        ("primary", [("claude", "primary")]),
        ("primary", [("claude", "primary")]),
    ]
    assert len(server.requests) == 3 and len(other.requests) == 2


async def _ask_four_times(root: Path, routes: Routes, clock: Clock) -> list[Any]:
    """The answers and the ways: at once, just before the cool-down is over, just after it, and again."""

    async def end(process: Any, tool_call_id: str, grace_ms: int) -> bool:
        return True

    supervisor = Supervisor(
        root, generation=1, providers=routes, tools={}, kill_tree=end, raise_generation=lambda minimum: minimum,
        clock=clock,
    )  # fmt: skip
    found: list[Any] = []
    await supervisor.start()
    try:
        await supervisor.submit("s", c.CreateSession(session_id="s", cwd="/"), OPERATOR)
        for pause_ms in (0, CIRCUIT_PAUSE_MS - 1, 1, 1):
            clock.at_ms += pause_ms
            hops = await routes.resolve(None)
            submit = c.SubmitRun(text="go", route=hops[0].route, model=hops[0].model, hops=hops)
            subscription = supervisor.hub.subscribe(session_id="s")
            applied = await supervisor.submit("s", submit, OPERATOR)
            async with asyncio.timeout(30):
                while not (run := (await supervisor.reader.state("s"))[0].runs[applied.result]).is_terminal:
                    await subscription.wait()
            subscription.close()
            events = [
                e for r in await supervisor.reader.read_records("s", 0, 100) for e in decode_events(r.events_json)
            ]
            ways = [(e.route, e.reason) for e in events if isinstance(e, ModelCallStarted) and e.run_id == run.run_id]
            found.append((run.output, ways))
    finally:
        await supervisor.drain(0)
        await supervisor.close()
    return found
