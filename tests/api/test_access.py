"""Who may decide: a person's client may; what a run started may read and submit, however it disguises itself."""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kheish.api import access
from kheish.api.access import Peer, caller_of, peer_of
from kheish.errors import Forbidden
from tests.api.conftest import QUESTION
from tests.api.raw_http import ask
from tests.daemon_process import DaemonProcess, bash, calls, text, tool

pytestmark = pytest.mark.slow

TRESPASS = Path(__file__).with_name("trespass.py")
ALLOWED = {"read", "inbox", "stream", "submit", "create"}


@pytest.fixture(scope="module")
def victim(shared_daemon: DaemonProcess) -> tuple[DaemonProcess, str, str]:
    """A daemon with a session that waits for an approval and one that waits for an answer; and their ids."""
    daemon = shared_daemon
    daemon.script(bash("touch happened"), text("done"), after_last="repeat")
    daemon.script(calls(tool("ask_user_question", questions=[QUESTION])), name="ask.json")
    daemon.submit(daemon.session("victim"))
    daemon.submit(daemon.session("curious"), model="test/ask.json")
    daemon.session("quiet", "plan")
    approval = daemon.until("victim", "approval.requested")["request_id"]
    return daemon, approval, daemon.until("curious", "question.requested")["request_id"]


def trespass(
    victim: tuple[DaemonProcess, str, str], how: str, environment: tuple[str, ...] = ()
) -> tuple[str, dict[str, str]]:
    """Has a real tool call of a run try; returns the run's id and what came of it."""
    daemon, approval, question = victim
    name = f"{how}-{len(environment)}"
    out = daemon.work / f"{name}.json"
    command = [*environment, sys.executable, str(TRESPASS), how, str(daemon.socket), str(out), approval, question]
    script = daemon.script(
        bash(f"{shlex.join(command)}; until [ -e {out} ]; do sleep 0.01; done"), text("done"), name=f"{name}.json"
    )
    run_id = daemon.submit(daemon.session(name, "bypass"), model=f"test/{script.rpartition('/')[2]}")
    run = daemon.finish(run_id)
    assert run["status"] == "completed", run
    found: dict[str, str] = json.loads(out.read_text())
    return run_id, found


def still_waits(daemon: DaemonProcess) -> None:
    view = daemon.client.sessions.get("victim")
    assert (view["status"], view["permission_mode"], view["rules"]) == ("waiting_for_approval", "default", [])
    assert daemon.client.sessions.get("curious")["status"] == "waiting_for_user_question"
    assert not (daemon.work / "happened").exists()
    assert not (daemon.state / "daemon" / "permissions.json").exists()


WITHOUT_ENVIRONMENT = ("env", "-i", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}")


@pytest.mark.parametrize(
    ("how", "environment"), [("plainly", ()), ("plainly", WITHOUT_ENVIRONMENT), ("orphan", WITHOUT_ENVIRONMENT)]
)
def test_what_a_run_started_reads_and_submits_and_decides_nothing(
    victim: tuple[DaemonProcess, str, str], how: str, environment: tuple[str, ...]
) -> None:
    daemon, _, _ = victim
    run_id, found = trespass(victim, how, environment)
    assert len(found) == 18
    assert found == {name: "done" if name in ALLOWED else "403 operator_required" for name in found}
    still_waits(daemon)
    by = [record["by"] for record in daemon.records("quiet") if record["by"].get("command") == "submit_run"][-1]
    principal = "run:unknown" if environment else f"run:{run_id}"
    assert by == {"principal": principal, "origin": "trespass", "command": "submit_run"}
    assert daemon.client.runs.list(session_id="quiet")[0]["request"]["principal"] == principal


def test_a_connection_made_by_a_process_that_is_gone_decides_nothing(victim: tuple[DaemonProcess, str, str]) -> None:
    daemon, _, _ = victim
    for environment in ((), WITHOUT_ENVIRONMENT):
        _, found = trespass(victim, "ghost", environment)
        assert found == {"approve": "403 operator_required"}
        still_waits(daemon)


def test_a_person_decides(victim: tuple[DaemonProcess, str, str]) -> None:
    """The last test of the module: it settles what the others leave open."""
    daemon, approval, question = victim
    ask(daemon, "POST", f"/v1/questions/{question}", {"declined": True})
    assert daemon.client.sessions.get("curious")["pending_question_ids"] == []
    program = (
        f"from kheish.client import Kheish; Kheish({str(daemon.socket)!r}, start=False).approvals.allow({approval!r})"
    )
    subprocess.run([sys.executable, "-c", program], env=daemon.env, check=True, timeout=30)
    (run,) = daemon.client.sessions.runs("victim")
    assert daemon.finish(run["run_id"])["status"] == "completed"
    assert (daemon.work / "happened").exists()
    resolved = next(r for r in daemon.records("victim") if r["by"].get("command") == "resolve_approvals")
    assert resolved["by"]["principal"] == f"user:{os.getuid()}"


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours) == Peer(os.getuid(), os.getpid())


def test_another_user_is_not_served() -> None:
    stranger = Peer(uid=os.getuid() + 1, pid=1)
    with pytest.raises(Forbidden):
        caller_of(stranger, "cli")
    for peer, principal, is_operator in (
        (Peer(os.getuid(), 7), f"user:{os.getuid()}", True),
        (Peer(0, 7), "user:0", True),
        (Peer(os.getuid(), 7, run_id="run_of_another"), "run:unknown", False),
        (Peer(os.getuid(), 7, run_id="run_01ARZ3"), "run:run_01ARZ3", False),
        (Peer(os.getuid(), 7, run_id="x\ny"), "run:unknown", False),
        (Peer(os.getuid(), 7, is_ours=True), "run:unknown", False),
    ):
        caller = caller_of(peer, "cli")
        assert (caller.principal, caller.is_operator) == (principal, is_operator)


def test_who_cannot_be_looked_at_is_no_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here for want of a descriptor, which the next look has again: what it is a child of it does not say alone."""
    real, path = open, str(tmp_path / "s")

    def open_late(name: str, *arguments: Any) -> Any:
        if str(name).endswith("/environ"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(name, *arguments)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        connect = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r}); s.recv(1)"
        environment = {**os.environ, "KHEISH_RUN_ID": "run_01ARZ3"}
        with subprocess.Popen([sys.executable, "-c", connect], env=environment) as client:
            connection, _ = listener.accept()
            with connection, monkeypatch.context() as patched:
                patched.setattr(access, "is_descendant", lambda pid, ancestor: False)
                assert caller_of(peer_of(connection), "cli").principal == "run:run_01ARZ3"
                patched.setattr("builtins.open", open_late)
                peer = peer_of(connection)
            client.wait(30)
    assert not caller_of(peer, "cli").is_operator
