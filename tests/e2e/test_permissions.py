"""Rules from their three places through a real daemon: which one decided is journaled, and what a restart keeps."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kheish.client.errors import ApiError
from tests.daemon_process import DaemonProcess, Json, bash, calls, text, tool

pytestmark = pytest.mark.slow


def decisions(daemon: DaemonProcess, session: str) -> list[tuple[str, str, str]]:
    """(behavior, rule, scope) of every call, as the journal on the disk has them."""
    return [
        (event["behavior"], event["rule"], event["rule_scope"])
        for record in daemon.journal(session)
        for event in record["events"]
        if event["type"] == "tool_call.decided"
    ]


def restart(daemon: DaemonProcess, config: str = "") -> None:
    daemon.kill()
    if config:
        (daemon.config / "config.toml").write_text(config)
    daemon.start()


def ask(daemon: DaemonProcess, session: str, command: str) -> Json:
    """The approval that this command waits for."""
    daemon.script(bash(command), after_last="repeat")
    daemon.submit(session)
    request = daemon.until(session, "approval.requested", cursor=str(daemon.client.sessions.get(session)["seq"] - 1))
    return daemon.client.approvals.get(request["request_id"])


CONFIG = """\
[permissions]
allow = ["bash(echo *)", "write_file"]
ask = ["bash(echo ask*)", "read_file(secrets/*)"]
deny = ["bash(*danger*)"]
"""


def test_rules_of_the_configuration_and_of_the_session_decide_and_are_journaled(daemon: DaemonProcess) -> None:
    restart(daemon, CONFIG)
    session = daemon.session("s")
    daemon.client.sessions.add_rule(session, "bash(echo never*)", "deny")
    daemon.client.sessions.add_rule(session, "bash(pwd)", "allow")
    daemon.script(
        calls(
            tool("bash", command="echo hello"),
            tool("bash", command="echo hello; echo there"),
            tool("bash", command="echo ask me"),
            tool("bash", command="echo danger"),
            tool("bash", command="echo never"),
            tool("bash", command="pwd"),
            tool("bash", command="date"),
            tool("read_file", path="./secrets/../secrets/key"),
            tool("write_file", path="made", content="x"),
            tool("list_files", path="."),
        )
    )
    run_id = daemon.submit(session)
    daemon.until(session, "approval.requested")
    assert decisions(daemon, session) == [
        ("allow", "bash(echo *)", "user"),
        ("ask", "bash", "default"),
        ("ask", "bash(echo ask*)", "user"),
        ("deny", "bash(*danger*)", "user"),
        ("deny", "bash(echo never*)", "session"),
        ("allow", "bash(pwd)", "session"),
        ("ask", "bash", "default"),
        ("ask", "read_file(secrets/*)", "user"),
        ("allow", "write_file", "user"),
        ("allow", "*", "default"),
    ]
    audits = daemon.client.sessions.audits(session)
    assert [(a["behavior"], a["rule"], a["rule_scope"]) for a in audits] == decisions(daemon, session)
    listed = [(row["pattern"], row.get("scope", "session")) for row in daemon.client.sessions.rules(session)]
    assert listed[:2] == [("bash(echo never*)", "session"), ("bash(pwd)", "session")]
    assert ("bash(*danger*)", "user") in listed and listed[-1] == ("*", "default")
    daemon.client.runs.cancel(run_id)


def test_always_makes_exactly_the_shown_rule_for_every_session_and_survives_sigkill(daemon: DaemonProcess) -> None:
    command = r"printf '%s\n' 'a*b' > made"
    approval = ask(daemon, daemon.session("one"), command)
    shown = approval["exact_rule"]
    assert shown == r"bash(printf '%s\\n' 'a\*b' > made)"
    daemon.client.approvals.allow(approval["request_id"], remember="always")
    restart(daemon)
    session = daemon.session("two")
    daemon.script(bash(command), bash(command + " "), text("done"))
    run_id = daemon.submit(session)
    request = daemon.until(session, "approval.requested")
    assert request["arguments"] == {"command": command + " "}, "another command is another matter"
    assert decisions(daemon, session) == [("allow", shown, "user"), ("ask", "bash", "default")]
    daemon.client.approvals.deny(request["request_id"], remember="always")
    assert daemon.finish(run_id)["status"] == "completed"
    rules = [(r["pattern"], r["behavior"]) for r in daemon.client.sessions.rules(session) if r.get("scope") == "user"]
    assert (shown, "allow") in rules and (shown.replace("made", "made "), "deny") in rules
    assert (daemon.work / "made").read_text() == "a*b\n"


def test_an_approval_is_asked_again_after_a_restart_with_other_rules(daemon: DaemonProcess) -> None:
    session = daemon.session("s")
    before = ask(daemon, session, "touch made")
    restart(daemon)
    (same,) = daemon.client.approvals.list()
    assert (same["request_id"], same["digest"]) == (before["request_id"], before["digest"])
    restart(daemon, '[permissions]\nask = ["bash(touch *)"]\n')
    (after,) = daemon.client.approvals.list()
    assert after["request_id"] != before["request_id"] and after["digest"] != before["digest"]
    assert (after["input"], after["rule"]) == ({"command": "touch made"}, "bash(touch *)")
    for request_id, digest, code in (
        (before["request_id"], None, "approval_state_conflict"),
        (after["request_id"], before["digest"], "approval_digest_mismatch"),
    ):
        with pytest.raises(ApiError) as caught:
            daemon.client.approvals.allow(request_id, if_digest=digest)
        assert (caught.value.status, caught.value.code) == (409, code)
    assert not (daemon.work / "made").exists()
    daemon.script(bash("touch made"), text("done"))
    run = daemon.client.approvals.allow(after["request_id"], if_digest=after["digest"])
    assert daemon.finish(run["run_id"])["status"] == "completed"
    assert (daemon.work / "made").exists()


def test_an_approval_that_new_rules_deny_is_denied_at_the_restart(daemon: DaemonProcess) -> None:
    session = daemon.session("s")
    daemon.script(bash("touch made"), text("understood"))
    run_id = daemon.submit(session)
    daemon.until(session, "approval.requested")
    restart(daemon, '[permissions]\ndeny = ["bash(touch*)"]\n')
    assert daemon.finish(run_id)["outputs"] == ["understood"]
    assert decisions(daemon, session)[-1] == ("deny", "bash(touch*)", "user")
    assert not (daemon.work / "made").exists()


def test_a_tool_call_cannot_widen_what_it_may_do(daemon: DaemonProcess) -> None:
    """From inside a command that runs, the daemon's own client is refused whatever it asks for."""
    session = daemon.session("s", "bypass")
    waiting = ask(daemon, daemon.session("other"), "true")["request_id"]
    kheish = f"{sys.executable} -m kheish"
    commands = [
        f"{kheish} permissions allow 'bash(*)' -s {session}",
        f"{kheish} sessions set-mode {session} bypass",
        f"{kheish} sessions set-mode other bypass",
        f"{kheish} approve {waiting} --always",
        f"env -i HOME=$HOME KHEISH_STATE_ROOT=$KHEISH_STATE_ROOT {kheish} approve {waiting}",
    ]
    daemon.script(calls(*(tool("bash", command=f"{c}; echo status $?") for c in commands)), text("done"))
    assert daemon.finish(daemon.submit(session))["outputs"] == ["done"]
    outputs = [e["output"] for r in daemon.journal(session) for e in r["events"] if e["type"] == "tool_call.completed"]
    assert [output.splitlines()[-1] for output in outputs] == ["status 4"] * len(commands)
    assert [a["request_id"] for a in daemon.client.approvals.list()] == [waiting]
    assert [r for r in daemon.client.sessions.rules(session) if r.get("scope") != "default"] == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[permissions]\nalow = []", "line 2: unknown key alow in permissions"),
        ("[permission]\nallow = []", "line 1: unknown key permission"),
        ("[permissions]\nallow = [3]", "line 2: permissions.allow[0]: Expected"),
        ("[permissions]\ndeny = ['bash)']", "cannot read the rule 'bash)'"),
        ("[permissions", "at end of document"),
        (b"\xff", "can't decode"),
        (None, "Is a directory"),
    ],
)
def test_a_fault_in_the_configuration_names_the_file_and_the_key(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    """The daemon does not start with rules that are not what was meant."""
    made = DaemonProcess(tmp_path)
    path = made.config / "config.toml"
    match content:
        case None:
            path.mkdir()
        case bytes():
            path.write_bytes(content)
        case str():
            path.write_text(content)
    left = made.cli("daemon", "run")
    assert (left.returncode, left.stdout) == (1, "")
    assert said in left.stderr and str(path) in left.stderr and "Traceback" not in left.stderr
