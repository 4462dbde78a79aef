"""The terminal application over a long time: the memory of its process, and of the daemon's, while sessions stream."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.benchmarks.kernel import daemon
from tests.daemon_process import DaemonProcess, bash

SESSIONS, WORDS, PACE_MS = 3, 200, 15
QUEUED_MIN, SUBMITTED_AT_ONCE = 3, 10
SAMPLES_A_MINUTE = 6
GROWTH_MB_MAX = 10.0


def soak(folder: Path, count: int) -> list[Figure]:
    """`count` minutes attached to one of three sessions that stream replies and tool output without a pause."""
    with daemon(folder, "soak") as made:
        made.start()
        words = [f"word{number} " for number in range(WORDS)]
        reply = {"text": f"## Part\n\n{''.join(words)}", "deltas": ["## Part\n\n", *words], "pace_ms": PACE_MS}
        made.script(bash("seq 300"), reply, name="talk.json", after_last="repeat")
        names = [made.session(f"soak{number}", mode="bypass") for number in range(SESSIONS)]
        samples: list[float] = []
        daemons: list[float] = []
        with application(made, names[0]) as (pid, terminal):
            for number in range(count * SAMPLES_A_MINUTE):
                for name in names:
                    if len(made.client.sessions.get(name)["queued_run_ids"]) < QUEUED_MIN:
                        for _ in range(SUBMITTED_AT_ONCE):
                            made.submit(name, "talk", model="test/talk.json")
                drain(terminal, 60 / SAMPLES_A_MINUTE)
                samples.append(memory_mb(pid))
                daemons.append(memory_mb(made.pid))
                at_s = (number + 1) * 60 // SAMPLES_A_MINUTE
                print(f"  {at_s} s: {samples[-1]:.1f} MB, daemon {daemons[-1]:.1f} MB", file=sys.stderr, flush=True)
        records = made.client.sessions.get(names[0])["seq"]
    half = len(samples) // 2
    grown = samples[-1] - samples[half]
    return [
        Figure(
            f"memory over {count} min of streaming", "MB", samples,
            goal=f"the second half adds < {GROWTH_MB_MAX:.0f}",
            note=f"from {samples[0]:.1f} to {samples[-1]:.1f}, the second half added {grown:.1f}; {records} records",
            met=grown < GROWTH_MB_MAX,
        ),
        Figure("memory of the daemon meanwhile", "MB", daemons, note=f"last {daemons[-1]:.1f}"),
    ]  # fmt: skip


@contextlib.contextmanager
def application(made: DaemonProcess, session_id: str) -> Iterator[tuple[int, int]]:
    """The application in a terminal of 120x40: its pid, and the terminal's other end."""
    env = {name: value for name, value in made.env.items() if name != "NO_COLOR"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(made.work)
        argv = [sys.executable, "-m", "kheish", "attach", session_id]
        os.execve(sys.executable, argv, {**env, "TERM": "xterm-256color", "COLORTERM": "truecolor"})
    try:
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        yield pid, terminal
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def drain(terminal: int, seconds: float) -> None:
    """Reads what is drawn for so long. A terminal that closes is an error: the application left."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([terminal], [], [], left_s)[0]:
            os.read(terminal, 65536)


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


SCENES = {"tui.soak": soak}
COUNTS = {"tui.soak": 1}
