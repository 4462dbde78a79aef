"""A person's own command through the daemon, killed in the middle of it."""

from __future__ import annotations

import time

import pytest

from tests.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow


def begin(daemon: DaemonProcess, session: str, command: str) -> str:
    """A run whose command has begun; the daemon is killed and started again."""
    run_id = daemon.submit(session, command, model="shell/bash")
    if daemon.client.sessions.get(session)["permission_mode"] == "default":
        daemon.client.approvals.allow(daemon.until(session, "approval.requested")["request_id"])
    while not (daemon.work / "count").exists():
        time.sleep(0.005)
    daemon.kill()
    daemon.start()
    return run_id


def test_a_command_that_a_human_approved_is_not_repeated_after_a_kill_before_a_human_says_so(
    daemon: DaemonProcess,
) -> None:
    run_id = begin(daemon, daemon.session("s"), "echo once >> count; sleep 300")
    request = daemon.until("s", "approval.requested", cursor=str(daemon.client.sessions.get("s")["seq"] - 2))
    waiting = daemon.client.approvals.get(request["request_id"])
    assert waiting["kind"] == "uncertain"
    assert (daemon.work / "count").read_text() == "once\n"
    done = daemon.cli("approve", request["request_id"], "--mark-done")
    assert done.returncode == 0, done.stderr
    assert daemon.finish(run_id)["status"] == "completed"
    assert (daemon.work / "count").read_text() == "once\n"


def test_a_command_that_no_human_was_asked_about_ends_as_uncertain_and_is_not_repeated(daemon: DaemonProcess) -> None:
    run_id = begin(daemon, daemon.session("s", mode="bypass"), "echo once >> count; sleep 300")
    assert daemon.finish(run_id)["status"] == "completed"
    assert "tool_call.became_uncertain" in daemon.types("s")
    assert (daemon.work / "count").read_text() == "once\n"
    daemon.finish(daemon.submit("s", "echo next >> count", model="shell/bash"))
    assert (daemon.work / "count").read_text() == "once\nnext\n", "the session goes on"


def test_a_command_that_waits_for_its_approval_still_does_after_a_kill(daemon: DaemonProcess) -> None:
    run_id = daemon.submit(daemon.session("s"), "echo late > late", model="shell/bash")
    request = daemon.until("s", "approval.requested")
    daemon.kill()
    daemon.start()
    assert not (daemon.work / "late").exists()
    daemon.client.approvals.allow(request["request_id"])
    assert daemon.finish(run_id)["status"] == "completed"
    assert (daemon.work / "late").read_text() == "late\n"
