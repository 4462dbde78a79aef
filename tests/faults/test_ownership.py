"""One daemon per state root: whoever races for it, and whatever a dead one left in the way."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.store.locks import is_state_root_locked, read_owner
from tests.daemon_process import START_TIMEOUT_S, DaemonProcess, text
from tests.faults.conftest import FailingDaemon, wait_until

pytestmark = pytest.mark.slow

ROUNDS = 20
LOCKED = 6


def one_has_left(racers: list[subprocess.Popen[str]]) -> bool:
    return any(racer.poll() is not None for racer in racers)


def test_of_two_that_race_for_a_state_root_exactly_one_wins(short_path: Path) -> None:
    """Twenty times, the first on a fresh root, the others on what the killed winner left."""
    daemon = DaemonProcess(short_path)
    generations = []
    for _ in range(ROUNDS):
        racers = [
            subprocess.Popen(
                [sys.executable, "-m", "kheish", "daemon", "run"], env=daemon.env, stderr=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        try:
            wait_until(functools.partial(one_has_left, racers))
            winner, loser = sorted(racers, key=lambda racer: racer.poll() is not None)
            assert (winner.returncode, loser.returncode) == (None, LOCKED)
            assert loser.stderr is not None and str(winner.pid) in loser.stderr.read()
            assert is_state_root_locked(daemon.state)
            owner = read_owner(daemon.state)
            assert owner is not None and owner.pid == winner.pid
            generations.append(owner.generation)
        finally:
            for racer in racers:
                racer.kill()
                racer.communicate()
    assert generations == list(range(1, ROUNDS + 1))


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


@pytest.mark.parametrize("left", ["a dead socket", "a file", "a link to nowhere", "nothing"])
def test_what_lies_in_the_place_of_the_socket_is_replaced(root_of_the_dead: FailingDaemon, left: str) -> None:
    daemon = root_of_the_dead
    assert daemon.socket.is_socket()
    if left != "a dead socket":
        daemon.socket.unlink()
    if left == "a file":
        daemon.socket.write_text("not a socket")
    elif left == "a link to nowhere":
        daemon.socket.symlink_to(daemon.folder / "nowhere")
    daemon.begin()
    assert_serves(daemon, generation=2)


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
