"""One daemon per state root: whoever races for it, and whatever a dead one left in the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.daemon_process import START_TIMEOUT_S, text
from tests.faults.conftest import FailingDaemon
from tests.faults.races import LOCKED, races

pytestmark = pytest.mark.slow

ROUNDS = 20


def test_of_two_that_race_for_a_state_root_exactly_one_wins(short_path: Path) -> None:
    assert races(short_path, ROUNDS) == []


@pytest.fixture
def root_of_the_dead(failing: FailingDaemon) -> FailingDaemon:
    """A daemon that was killed after it had served."""
    failing.script(text("hi"), text("hi again"))
    failing.begin()
    failing.finish(failing.submit(failing.session("s"), "before"))
    failing.kill()
    return failing


def assert_serves(daemon: FailingDaemon, generation: int) -> None:
    assert daemon.client.daemon.status()["generation"] == generation
    assert daemon.finish(daemon.submit("s", "after"))["status"] == "completed"
    assert daemon.texts("s") == ["before", "after"]


@pytest.mark.parametrize("left", ["a dead socket", "nothing"])
def test_the_socket_of_a_dead_daemon_is_replaced(root_of_the_dead: FailingDaemon, left: str) -> None:
    daemon = root_of_the_dead
    assert daemon.socket.is_socket()
    if left == "nothing":
        daemon.socket.unlink()
    daemon.begin()
    assert_serves(daemon, generation=2)


@pytest.mark.parametrize("left", ["a file", "a link to nowhere"])
def test_what_is_no_socket_in_the_place_of_one_is_left_alone(root_of_the_dead: FailingDaemon, left: str) -> None:
    """No daemon leaves such a thing, so that it is somebody's; once it is gone the next daemon goes on."""
    daemon = root_of_the_dead
    daemon.socket.unlink()
    if left == "a file":
        daemon.socket.write_text("not a socket")
    else:
        daemon.socket.symlink_to(daemon.folder / "nowhere")
    refused = daemon.cli("daemon", "run")
    assert refused.returncode == 1 and f"cannot listen at {daemon.socket}: what is there is no socket" in refused.stderr
    daemon.socket.unlink()
    daemon.begin()
    assert_serves(daemon, generation=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\xff rubbish",
        json.dumps({"pid": os.getpid(), "started_at_ms": 1, "generation": 1}).encode(),
        json.dumps({"pid": 1, "started_at_ms": 1, "generation": 1}).encode() + b'\n{"pid": 22}\n',
    ],
    ids=["empty", "rubbish", "the pid of a living process", "half overwritten"],
)
def test_what_a_lock_says_does_not_lock(root_of_the_dead: FailingDaemon, content: bytes) -> None:
    (root_of_the_dead.state / "daemon.lock").write_bytes(content)
    root_of_the_dead.begin()
    assert_serves(root_of_the_dead, generation=2)


def test_the_generation_grows_also_where_its_document_is_lost(root_of_the_dead: FailingDaemon) -> None:
    (root_of_the_dead.state / "daemon" / "generation.json").unlink()
    root_of_the_dead.begin()
    assert_serves(root_of_the_dead, generation=2)


def test_a_daemon_that_stands_still_keeps_its_root(failing: FailingDaemon) -> None:
    """A stopped process is not a dead one."""
    failing.begin()
    os.kill(failing.pid, signal.SIGSTOP)
    try:
        second = failing.cli("daemon", "run")
        assert second.returncode == LOCKED
        assert str(failing.pid) in second.stderr
    finally:
        os.kill(failing.pid, signal.SIGCONT)
    assert failing.client.daemon.status()["pid"] == failing.pid
    assert failing.popen is not None
    failing.popen.terminate()
    assert failing.popen.wait(START_TIMEOUT_S) == 0
