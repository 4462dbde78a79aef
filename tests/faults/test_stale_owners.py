"""An owner that was thought dead, or is: it stood still, lost its lock, or somebody else has its pid by now."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.errors import Conflict
from kheish.limits import SESSION_LOOK_EVERY_S
from kheish.store import locks
from kheish.store.locks import DaemonLock
from kheish.tools.processes import identify
from tests.daemon_process import Json, bash, text
from tests.faults.conftest import FailingDaemon, wait_until
from tests.faults.surroundings import (
    GATE,
    faults,
    refused,
    run,
    until_unlocked,
)

pytestmark = pytest.mark.slow


RACES = 1_000
RACERS = 3


def race(root: Path, ready: Any, won: Any) -> None:
    """In a process of its own: tries for the lock once in each race, and holds it until everybody has tried."""
    locks._LOOK_S = 0.0
    for _ in range(RACES):
        lock = DaemonLock(root)
        ready.wait()
        with contextlib.suppress(Conflict):
            lock.acquire()
            won.put(lock.generation)
        ready.wait()
        lock.release()


def test_each_of_a_thousand_races_for_the_lock_has_one_winner_with_a_generation_of_its_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, won = context.Barrier(RACERS), context.SimpleQueue()
    racers = [context.Process(target=race, args=(tmp_path / "state", ready, won)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    generations = [won.get() for _ in range(RACES)]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert won.empty()
    assert generations == list(range(1, RACES + 1))


class Connection(http.client.HTTPConnection):
    """A connection to the daemon that serves now, which stays with it when another takes its place."""

    def __init__(self, daemon: FailingDaemon) -> None:
        super().__init__("localhost", timeout=30)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(daemon.socket))
        assert self.ask("GET", "/v1/status")[0] == 200

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        data = None if body is None else json.dumps(body)
        self.request(method, path, data, {"Content-Type": "application/json", "Kheish-Origin": "test"})
        response = self.getresponse()
        return response.status, json.loads(response.read())

    def submit(self, session_id: str, content: str) -> tuple[int, Json]:
        return self.ask("POST", f"/v1/sessions/{session_id}/runs", {"content": content})


Connect = Callable[[FailingDaemon], Connection]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes connections, and closes them: one that is left open is found in whatever test is run then."""
    with contextlib.ExitStack() as stack:
        yield lambda daemon: stack.enter_context(contextlib.closing(Connection(daemon)))


@pytest.mark.parametrize("lock_is", ["deleted", "replaced"])
def test_a_daemon_that_lost_its_lock_while_it_stood_still_writes_nothing_that_its_successor_would_not_hold(
    failing: FailingDaemon, daemons: Callable[[Path], FailingDaemon], connect: Connect, lock_is: str
) -> None:
    """`held` is open in it and stays its own; `free` is its successor's, also after that one has put it away."""
    failing.script(bash(GATE), text("the first daemon's"), name="held.json")
    failing.script(text("hi"), after_last="repeat")
    failing.begin()
    assert run(failing, failing.session("free"), "first") == "completed"
    run_id = failing.submit(failing.session("held", "bypass"), model="test/held.json")
    failing.until("held", "tool_call.started")
    until_unlocked(failing, "free")
    stale = connect(failing)
    os.kill(failing.pid, signal.SIGSTOP)
    lock = failing.state / "daemon.lock"
    lock.unlink()
    if lock_is == "replaced":
        lock.write_bytes(b"")
    failing.socket.unlink()  # for whoever connects to it waits for the one that stands still

    successor = daemons(failing.folder)
    successor.begin()
    assert successor.client.daemon.status()["generation"] == 2
    assert refused(lambda: successor.submit("held", "no")).code == "session_locked"
    assert run(successor, "free", "second") == "completed"
    os.kill(failing.pid, signal.SIGCONT)
    until_unlocked(failing, "free")

    status, problem = stale.submit("free", "stale")
    assert (status, problem["code"]) == (503, "not_locked")
    assert "stop this daemon" in problem["detail"]
    assert run(successor, "free", "third") == "completed", "and it did not keep the session locked"
    (failing.work / "gate").touch()
    wait_until(lambda: "run.completed" in failing.types("held"))
    failing.kill()
    assert successor.client.runs.get(run_id)["outputs"] == ["the first daemon's"]
    assert run(successor, "held", "mine now") == "completed"
    assert successor.texts("free") == ["first", "second", "third"]
    assert [record["gen"] for record in successor.journal("held")][-1] == 2
    assert locks.read_owner(failing.state).generation == 2  # type: ignore[union-attr]
    assert faults(successor) == {}


def test_a_session_that_was_taken_from_a_daemon_that_stood_still_gets_nothing_more_from_it(
    failing: FailingDaemon, daemons: Callable[[Path], FailingDaemon], connect: Connect
) -> None:
    """Its lock is gone, and the session was put back from a backup."""
    failing.script(bash(GATE), text("done"))
    failing.begin()
    run_id = failing.submit(failing.session("s", "bypass"))
    failing.until("s", "tool_call.started")
    # The record comes first: a command that has not begun yet the successor would end before it has left a trace.
    wait_until((failing.work / "count.log").exists)
    stale = connect(failing)
    os.kill(failing.pid, signal.SIGSTOP)
    stopped_at = time.monotonic()
    session = failing.state / "sessions" / "s"
    for path in (failing.state / "daemon.lock", failing.socket):
        path.unlink()
    shutil.copytree(session, failing.folder / "backup")
    shutil.rmtree(session)
    (failing.folder / "backup").rename(session)

    successor = daemons(failing.folder)
    successor.begin()
    assert successor.finish(run_id)["outputs"] == ["done"]
    until_unlocked(successor, "s")
    before = successor.journal("s")
    # Only time brings its next look.
    time.sleep(max(0.0, stopped_at + SESSION_LOOK_EVERY_S - time.monotonic()))
    os.kill(failing.pid, signal.SIGCONT)
    status, problem = stale.submit("s", "stale")
    assert (status, problem["code"]) == (503, "session_read_only")
    assert "directory was moved, deleted or replaced" in problem["detail"]
    (failing.work / "gate").touch()
    failing.kill()
    assert successor.journal("s") == before
    assert run(successor, "s", "mine") in ("completed", "failed")
    assert successor.texts("s") == ["go", "mine"]
    assert faults(successor) == {}
    assert (failing.work / "count.log").read_text() == "ran\n"


def as_pid(pid: int) -> subprocess.Popen[bytes]:
    """A bystander with this pid, which must be free. Skips where it cannot be made."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(100):
        try:
            last_pid.write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"a pid cannot be chosen here, so that its reuse is not tested: {error}")
        bystander = subprocess.Popen(["sleep", "300"], start_new_session=True)
        if bystander.pid == pid:
            return bystander
        bystander.kill()
        bystander.wait()
    pytest.skip("another process took the pid each time: its reuse is not tested")


@pytest.fixture
def bystanders() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def test_who_has_the_pid_of_a_dead_command_by_now_is_left_alone(
    failing: FailingDaemon, bystanders: list[subprocess.Popen[bytes]]
) -> None:
    failing.script(bash("echo ran >> count.log; sleep 300"), text("checked"))
    failing.begin()
    run_id = failing.submit(failing.session("s", "bypass"))
    process = failing.until("s", "tool_call.started")["process"]
    wait_until((failing.work / "count.log").exists)
    failing.kill()
    os.killpg(process["pid"], signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{process['pid']}").exists())
    bystanders.append(as_pid(process["pid"]))
    assert identify(process["pid"]).start_ticks != process["start_ticks"]
    failing.begin()
    assert failing.finish(run_id)["outputs"] == ["checked"]
    wait_until(lambda: "process.ended" in failing.types("s"))
    assert bystanders[0].poll() is None
    assert (failing.work / "count.log").read_text() == "ran\n"


def test_who_has_the_pid_of_a_dead_daemon_by_now_does_not_hold_its_root(
    failing: FailingDaemon, bystanders: list[subprocess.Popen[bytes]]
) -> None:
    failing.script(text("hi"))
    failing.begin()
    pid = failing.pid
    failing.kill()
    bystanders.append(as_pid(pid))
    owner = locks.read_owner(failing.state)
    assert owner is not None and owner.pid == bystanders[0].pid
    assert failing.cli("daemon", "status").returncode != 0
    failing.begin()
    assert run(failing, failing.session("s")) == "completed"
    assert bystanders[0].poll() is None
