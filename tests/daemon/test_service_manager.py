"""The daemon as systemd starts it: with a socket that listens already, and somebody to tell its state."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import START_TIMEOUT_S, DaemonProcess, bash, text

pytestmark = pytest.mark.slow

ACTIVATE = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.closerange(4, 100)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "kheish", "daemon", "run"])
"""


class Manager:
    """Listens where the daemon will, and hears what it says."""

    def __init__(self, daemon: DaemonProcess, path: Path) -> None:
        self.daemon = daemon
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(os.fspath(path))
        self.listener.listen()
        self.said = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.said.bind(os.fspath(daemon.folder / "notify"))
        self.said.settimeout(20)

    def start(self) -> None:
        self.daemon.start(**self._passed({}))

    def refuse(self, **env: str) -> int:
        """The exit status of a daemon that does not take the socket: its callers would wait, since it listens."""
        return self.daemon.spawn(**self._passed(env)).wait(START_TIMEOUT_S)

    def _passed(self, env: dict[str, str]) -> dict[str, Any]:
        fd = self.listener.fileno()
        env = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(self.daemon.folder / "notify"), **env}
        return {"env": env, "argv": [sys.executable, "-c", ACTIVATE, str(fd)], "pass_fds": (fd,)}

    def hear(self) -> bytes:
        return self.said.recv(100)

    def close(self) -> None:
        self.listener.close()
        self.said.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    daemon = DaemonProcess(tmp_path)
    made = Manager(daemon, daemon.socket)
    try:
        yield made
    finally:
        daemon.close()
        made.close()


def test_it_serves_on_the_socket_that_it_is_given_and_leaves_it_in_place(manager: Manager) -> None:
    daemon, inode = manager.daemon, manager.daemon.socket.stat().st_ino
    manager.start()
    assert manager.hear() == b"READY=1"
    assert daemon.socket.stat().st_ino == inode and daemon.socket.stat().st_mode & 0o777 == 0o600
    assert daemon.cli_json("daemon", "status")["generation"] == 1
    assert daemon.stop() == 0
    assert manager.hear() == b"STOPPING=1"
    assert daemon.socket.stat().st_ino == inode


def test_who_calls_between_two_lives_is_answered_by_the_second(manager: Manager) -> None:
    daemon = manager.daemon
    manager.start()
    daemon.kill()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(20)
        caller.connect(os.fspath(daemon.socket))
        caller.sendall(b"GET /readyz HTTP/1.1\r\nhost: kheish\r\n\r\n")
        manager.start()
        assert caller.recv(12) == b"HTTP/1.1 200"


def test_tools_do_not_see_what_was_passed_to_the_daemon(manager: Manager) -> None:
    daemon = manager.daemon
    daemon.script(bash("env | grep -c -e LISTEN_ -e NOTIFY_; ls /dev/fd"), text("done"))
    manager.start()
    daemon.finish(daemon.submit(daemon.session("s", "bypass")))
    (call,) = [
        event for record in daemon.journal("s") for event in record["events"] if event["type"] == "tool_call.completed"
    ]
    count, *descriptors = call["output"].split()
    assert count == "0"
    assert set(descriptors) <= {"0", "1", "2", "3"}, "the third is that of ls"


@pytest.mark.parametrize(("passed", "path"), [("2", "kheish.sock"), ("1", "elsewhere.sock")])
def test_a_socket_that_clients_would_not_find_is_refused(tmp_path: Path, passed: str, path: str) -> None:
    daemon = DaemonProcess(tmp_path)
    manager = Manager(daemon, daemon.state / "daemon" / path)
    try:
        assert manager.refuse(LISTEN_FDS=passed) == 1
    finally:
        manager.close()


def test_what_was_meant_for_another_process_is_not_taken(daemon: DaemonProcess, tmp_path: Path) -> None:
    other = DaemonProcess(tmp_path / "other")
    try:
        other.start(env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
        assert other.cli_json("daemon", "status")["socket"] == str(other.socket)
    finally:
        other.close()
