"""The CLI as a process that is watched while it runs, or whose output is a terminal of a given width."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import selectors
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO
from unittest.mock import patch

from kheish.cli import main
from tests.daemon_process import DaemonProcess

TIMEOUT_S = 30.0


def cli_here(
    daemon: DaemonProcess,
    *arguments: str,
    input: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Like `daemon.cli`, without a process of its own: for commands that only ask, print and return."""
    out, err = io.StringIO(), io.StringIO()
    variables = {**daemon.env, **(env or {})}
    before, mask = os.getcwd(), os.umask(0o022)
    with (
        patch.dict(os.environ, variables, clear=True),
        patch("sys.stdin", io.TextIOWrapper(io.BytesIO((input or "").encode()))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        os.chdir(cwd or daemon.work)
        try:
            status = main.run([*arguments])
        finally:
            os.chdir(before)
            os.umask(mask)
    return subprocess.CompletedProcess([*arguments], status, out.getvalue(), err.getvalue())


def stop_for_good(daemon: DaemonProcess) -> None:
    """Stops the daemon that clients started, and any other that one of them was about to start."""
    mine = f"KHEISH_STATE_ROOT={daemon.state}\0".encode()
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        assert daemon.cli("daemon", "stop").returncode == 0
        left = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mine in (process / "environ").read_bytes() and b"daemon\0run" in (process / "cmdline").read_bytes():
                    left.append(process.name)
        if not left:
            return
        assert time.monotonic() < deadline, f"{left} do not stop"


def _heed_interrupts() -> None:
    """As a command that a person follows does, also where the tests run in the background and ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class CliProcess:
    """`kheish ARGUMENTS` with pipes; what it says is read as it comes."""

    def __init__(self, daemon: DaemonProcess, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "kheish", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**daemon.env, **(env or {})},
            cwd=daemon.work,
            preexec_fn=_heed_interrupts,
        )
        self._selector = selectors.DefaultSelector()
        self._said: dict[IO[bytes], bytes] = {}
        for stream in (self.popen.stdout, self.popen.stderr):
            assert stream is not None
            self._said[stream] = b""
            self._selector.register(stream, selectors.EVENT_READ)

    def __enter__(self) -> CliProcess:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait()
        for stream in self._said:
            stream.close()
        self._selector.close()

    @property
    def out(self) -> str:
        assert self.popen.stdout is not None
        return self._said[self.popen.stdout].decode()

    @property
    def err(self) -> str:
        assert self.popen.stderr is not None
        return self._said[self.popen.stderr].decode()

    def until(self, pattern: str) -> None:
        """Waits until it has said this, on either stream."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (re.search(pattern, self.out) or re.search(pattern, self.err)):
            assert self._read(deadline), f"it did not say {pattern!r}, but {self.out!r} and {self.err!r}"

    def finish(self) -> int:
        """Its exit status, with all that it said read."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(deadline):
            pass
        return self.popen.wait(max(0.1, deadline - time.monotonic()))

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.popen.send_signal(signal.SIGINT)

    def _read(self, deadline: float) -> bool:
        """Reads what comes next; False at the end of both streams or of the time."""
        if not self._selector.get_map():
            return False
        for key, _ in self._selector.select(max(0.0, deadline - time.monotonic())):
            stream = key.fileobj
            data = os.read(key.fd, 65536)
            self._said[stream] += data  # type: ignore[index]
            if not data:
                self._selector.unregister(stream)
            return True
        return False


def on_terminal(
    daemon: DaemonProcess, *arguments: str, columns: int = 80, env: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Runs the CLI with a terminal for its output: its exit status, and the bytes that the terminal got."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    mode = termios.tcgetattr(follower)
    mode[1] &= ~termios.OPOST
    termios.tcsetattr(follower, termios.TCSANOW, mode)
    popen = subprocess.Popen(
        [sys.executable, "-m", "kheish", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**daemon.env, "TERM": "xterm", **(env or {})},
        cwd=daemon.work,
    )
    os.close(follower)
    shown = b""
    try:
        # The last writer's end is an error on Linux, an end of file elsewhere.
        with contextlib.suppress(OSError):
            while data := os.read(leader, 65536):
                shown += data
        return popen.wait(TIMEOUT_S), shown
    finally:
        os.close(leader)
        popen.kill()
        popen.wait()
