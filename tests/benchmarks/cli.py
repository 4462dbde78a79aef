"""The command line: whole processes against a warm daemon with 100 sessions, each next to a bare Python start."""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import kheish
from tests.benchmarks.figures import Figure
from tests.benchmarks.kernel import daemon
from tests.daemon_process import DaemonProcess, bash, text

SESSIONS, ASKING = 100, 25
TIMES_BARE_MAX, OTHER_MS_MAX = 3.0, 220
HOT = ("ps", "ps --all", "inbox --count", "status", "wait", "wait RUN", "logs", "logs RUN")
OTHER = (
    "--help", "run --help", "run hello", "run --detach hello", "approve APPROVAL", "deny NOBODY", "doctor", "inbox",
    "sessions list", "sessions get SESSION", "sessions transcript SESSION", "sessions verify --all", "runs list",
    "approvals list", "questions list", "routes list", "permissions matrix", "daemon status", "daemon logs",
    "completion bash",
)  # fmt: skip
UNLIKE_USERS = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH")


class Spent(NamedTuple):
    wall_ms: list[float]
    cpu_ms: list[float]

    def times(self, bare: Spent) -> tuple[float, float]:
        wall, cpu = (statistics.median(a) / statistics.median(b) for a, b in zip(self, bare, strict=True))
        return wall, cpu


def spend(spent: Spent, argv: list[str], made: DaemonProcess) -> None:
    env = {name: value for name, value in made.env.items() if name not in UNLIKE_USERS}
    began = time.perf_counter()
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(argv, env=env, cwd=made.work, stdin=nothing, stdout=nothing, stderr=nothing)
    _, status, usage = os.wait4(process.pid, 0)
    spent.wall_ms.append((time.perf_counter() - began) * 1000)
    spent.cpu_ms.append((usage.ru_utime + usage.ru_stime) * 1000)
    process.returncode = os.waitstatus_to_exitcode(status)


def sample(made: DaemonProcess, lines: tuple[str, ...], count: int, ids: dict[str, Iterator[str]]) -> dict[str, Spent]:
    """Each line once a round, and the bare start with them, so that all see the same machine."""
    script = Path(sys.executable).with_name("kheish")
    program = [sys.executable, str(script)] if script.exists() else [sys.executable, "-m", "kheish"]
    spent = {line: Spent([], []) for line in ("", *lines)}
    for round_ in range(count + 2):
        for line, seen in spent.items():
            words = [next(ids[word]) if word in ids else word for word in line.split()]
            spend(
                seen if round_ >= 2 else Spent([], []),
                program + words if words else [sys.executable, "-c", "pass"],
                made,
            )
    return spent


def cli(folder: Path, count: int) -> list[Figure]:
    """The lines that are typed and polled all day against three bare starts; others against a bound of their own."""
    compileall.compile_dir(Path(kheish.__file__).parent, quiet=1)
    with daemon(folder, "cli") as made:
        made.script(text("done"), after_last="repeat")
        asking = made.script(bash("make test"), text("done"), name="asking.json", after_last="cycle")
        made.start()
        for number in range(SESSIONS):
            made.submit(made.session(f"s{number:03d}"), model=asking if number < ASKING else None)
        here = made.cli_json("run", "--detach", "hello")
        made.finish(here["run_id"])
        ids = {
            "RUN": iter(lambda: here["run_id"], None),
            "SESSION": iter(lambda: here["session_id"], None),
            "APPROVAL": iter([row["request_id"] for row in made.client.approvals.list()]),
        }
        hot = sample(made, HOT, max(10, count // 2), ids)
        other = sample(made, OTHER, min(20, max(5, count // 10)), ids)
    bare = hot[""]
    figures = [Figure("bare Python start", "ms", bare.wall_ms)]
    for line in HOT:
        wall, cpu = hot[line].times(bare)
        figures.append(
            Figure(
                f"kheish {line}", "ms", hot[line].wall_ms,
                goal=f"<= {TIMES_BARE_MAX:.0f}x = {TIMES_BARE_MAX * figures[0].median:.1f}", met=wall <= TIMES_BARE_MAX,
                note=f"{wall:.2f}x; CPU {cpu:.2f}x",
            )
        )  # fmt: skip
    for line in OTHER:
        figure = Figure(f"kheish {line}", "ms", other[line].wall_ms, goal=f"<= {OTHER_MS_MAX}")
        cpu_ms = statistics.median(other[line].cpu_ms)
        figures.append(figure._replace(met=figure.median <= OTHER_MS_MAX, note=f"CPU {cpu_ms:.0f} ms"))
    return figures


SCENES = {"cli": cli}
