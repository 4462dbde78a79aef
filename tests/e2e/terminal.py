"""A real terminal for tests: a pane of tmux, whose screen is looked at each time that it changes."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest

TIMEOUT_S = 20.0

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="NO TERMINAL IS TESTED: tmux is not installed")


class Terminal:
    """Runs a shell in a pane of its own tmux server. `folder` holds its socket and the pipe that tells of output."""

    def __init__(self, folder: Path, env: dict[str, str], cwd: Path, *, columns: int = 100, lines: int = 40) -> None:
        self._socket = folder / "tmux.sock"
        self._results = 0
        # Without a shell's own prompt and files, so that the screen shows what the program under test wrote.
        variables = shlex.join(f"{name}={value}" for name, value in {**env, "PS1": "$ ", "TERM": "screen"}.items())
        shell = f"exec env -i {variables} bash --norc --noprofile"
        size = ["-x", str(columns), "-y", str(lines)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(cwd), shell)
        pipe = folder / "output"
        os.mkfifo(pipe)
        # Opened for both, so that opening waits for nobody and the end of a writer is no end of file.
        self._output = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        self._tmux("pipe-pane", "-o", f"exec cat > {shlex.quote(str(pipe))}")
        self.until(r"\$")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], capture_output=True, timeout=TIMEOUT_S)
        os.close(self._output)

    def type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def press(self, *keys: str) -> None:
        """tmux names: Enter, C-c, Escape."""
        self._tmux("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Between the marks of a paste, where the program asked for them."""
        self._tmux("set-buffer", "--", text)
        self._tmux("paste-buffer", "-p", "-d")

    def enter(self, line: str) -> None:
        self.type(line)
        self.press("Enter")

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def screen(self) -> str:
        """All that was written, wrapped lines joined, without what is left blank."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip()

    @property
    def lines(self) -> list[str]:
        """The lines as they stand on the screen, cut where the terminal cut them."""
        return self._tmux("capture-pane", "-p").rstrip().split("\n")

    def until(self, pattern: str, *, times: int = 1, timeout_s: float = TIMEOUT_S) -> str:
        """The screen, as soon as the pattern is on it that often."""
        deadline = time.monotonic() + timeout_s
        while True:
            screen = self.screen
            if len(re.findall(pattern, screen)) >= times:
                return screen
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{pattern!r} did not come; the screen is:\n{screen}"
            # Output that tmux has piped but not yet drawn is seen by the next look, soon.
            if select.select([self._output], [], [], min(left_s, 0.25))[0]:
                os.read(self._output, 65536)

    def result(self) -> int:
        """The exit status of the last command, once the shell asks for another."""
        self._results += 1
        self.enter(f"echo status{self._results}=$?.")
        (status,) = re.findall(r"=(\d+)\.", self.until(rf"status{self._results}=\d+\.").rpartition("status")[2])
        return int(status)
