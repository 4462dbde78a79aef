"""What follows goes on when the daemon dies; what is cut off, full or closed ends with one line at most."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from tests.daemon_process import DaemonProcess, bash, text
from tests.e2e.cli_process import CliProcess, stop_for_good

pytestmark = pytest.mark.slow


def test_followers_go_on_after_the_daemon_was_killed(daemon: DaemonProcess) -> None:
    """`run`, `logs -f` and `wait` follow one run across a SIGKILL, and bring the daemon back themselves."""
    model = daemon.script({"text": "survived", "hang": 1}, name="hang.json")
    with CliProcess(daemon, "run", "-s", "s", "--model", model, "go") as run:
        run.until("new session s")
        run_id = daemon.until("s", "model_call.started")["run_id"]
        with CliProcess(daemon, "logs", "-f", "s") as logs, CliProcess(daemon, "wait", run_id, "--json") as wait:
            logs.until(": go\n")
            # `wait` says nothing until it is over; it is known to follow when the daemon counts it.
            while daemon.client.daemon.status()["subscribers"] < 3:
                pass
            daemon.kill()
            try:
                assert run.finish() == 0
                assert wait.finish() == 0
                logs.until("run completed\n")
            finally:
                stop_for_good(daemon)
            logs.interrupt()
            assert logs.finish() == 130
    assert run.out == "survived\n"
    assert json.loads(wait.out)["status"] == "completed"
    lines = [line.split(" ", 1)[1] for line in logs.out.splitlines()]
    assert "the daemon of generation 1 had died; generation 2 goes on" in lines
    assert len(lines) == len(set(lines)), "a record was shown twice"
    assert "Traceback" not in run.err + wait.err + logs.err


def test_a_call_whose_outcome_is_unknown_is_decided_by_its_verbs(daemon: DaemonProcess) -> None:
    daemon.script(bash("echo once >> count; sleep 300"), text("done"))
    run_id = daemon.submit(daemon.session("s"))
    daemon.client.approvals.allow(daemon.until("s", "approval.requested")["request_id"])
    for verb in ("retry", "verify"):
        while not (daemon.work / "count").exists():
            time.sleep(0.005)
        daemon.kill()
        daemon.start()
        blocked = daemon.cli("run", "-s", "s", "--steer", "hurry")
        assert blocked.returncode == 22
        assert "--verify | --retry | --mark-done | --give-up" in blocked.stderr
        (waiting,) = daemon.client.approvals.list()
        assert "outcome unknown" in daemon.cli("inbox").stdout
        assert daemon.cli("approve", waiting["request_id"], "--session").returncode == 2
        (daemon.work / "count").unlink()
        done = daemon.cli("approve", waiting["request_id"], f"--{verb}")
        assert done.returncode == 0 and done.stdout.startswith(f"{verb}: bash: echo once")
    assert daemon.finish(run_id)["status"] == "completed"
    assert not (daemon.work / "count").exists(), "it was run again though a check was asked for"


@pytest.mark.parametrize(
    "command", ["sessions events s", "logs s", "ps -a", "logs -f s", "sessions stream s", "run -s s --json again", "-h"]
)
def test_a_reader_that_leaves_early_ends_it_quietly(shared_daemon: DaemonProcess, command: str) -> None:
    if "s" not in [s["session_id"] for s in shared_daemon.client.sessions.list()]:
        shared_daemon.script(*[text("x" * 2000)] * 60, after_last="repeat")
        for _ in range(40):
            run_id = shared_daemon.submit(shared_daemon.session("s"))
        shared_daemon.finish(run_id)
    done = shared_daemon.shell(f"kheish {command} | head -1; echo ${{PIPESTATUS[0]}}")
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and lines[1] in ("0", "141")
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["ps -a", "ps --json", "status", "routes list", "logs s"])
def test_a_full_disk_behind_the_output_is_said_in_one_line(shared_daemon: DaemonProcess, command: str) -> None:
    shared_daemon.session("s")
    done = shared_daemon.shell(f"kheish {command} > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "kheish: cannot go on: No space left on device\n"


def test_closed_outputs_do_not_stop_it(shared_daemon: DaemonProcess) -> None:
    shared_daemon.session("s")
    assert shared_daemon.shell("kheish ps -a >&-").returncode == 0
    assert shared_daemon.shell("kheish logs nobody 2>&-").returncode == 5
    assert shared_daemon.shell("kheish ps -a <&-").returncode == 0


def test_the_status_is_the_same_where_nobody_reads_what_went_wrong(shared_daemon: DaemonProcess) -> None:
    assert shared_daemon.shell("kheish logs nobody 2>/dev/full").returncode == 5
    gone = shared_daemon.shell("mkfifo said; (exec 3>said; kheish logs nobody 2>&3; echo $?) & : < said; wait")
    assert gone.stdout == "5\n"


def test_a_directory_that_is_gone_is_named_as_the_cause(shared_daemon: DaemonProcess) -> None:
    gone = shlex.quote(str(shared_daemon.folder / "gone"))
    for command, status in {"ps": 0, "logs": 2, "run hi": 2, "run -s new hi": 2}.items():
        done = shared_daemon.shell(f"mkdir {gone} && cd {gone} && rmdir {gone} && kheish {command}")
        assert done.returncode == status and "Traceback" not in done.stderr
        assert status == 0 or "this directory is gone" in done.stderr


def test_an_output_that_cannot_say_a_letter_says_its_number(shared_daemon: DaemonProcess) -> None:
    shared_daemon.client.sessions.create("latin", cwd=str(shared_daemon.work), title="日本")
    done = shared_daemon.shell("kheish ps -a", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "\\u65e5\\u672c" in done.stdout


def test_json_goes_into_jq(shared_daemon: DaemonProcess) -> None:
    shared_daemon.session("jq")
    done = shared_daemon.shell("command -v jq >/dev/null || exit 77; kheish ps -a --json | jq -r '.[].session_id'")
    if done.returncode == 77:
        pytest.skip("NOT TESTED: jq is not installed")
    assert "jq" in done.stdout.split()
