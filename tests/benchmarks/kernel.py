"""The kernel: how soon an input is durable, what a run costs, what an idle daemon costs, how soon it is back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kheish.client import launch
from kheish.client.http1 import Request, Response
from tests.benchmarks import baselines
from tests.benchmarks.figures import Figure
from tests.daemon_process import DaemonProcess, bash, text

SESSIONS = 1000
OWED = 10
STREAMS = 20
IDLE_S = 10.0


@contextlib.contextmanager
def daemon(folder: Path, name: str) -> Iterator[DaemonProcess]:
    made = DaemonProcess(folder / name)
    try:
        yield made
    finally:
        made.close()


class Connection:
    """One kept connection, as an editor plugin has it."""

    def __init__(self, process: DaemonProcess) -> None:
        self._socket = process.client.transport.connect()

    def send(self, request: Request) -> Any:
        self._socket.sendall(request.encode("benchmark", keep_alive=True))
        response = Response()
        parts: list[bytes] = []
        while not response.is_complete:
            parts += response.feed(self._socket.recv(65536))
        assert response.status < 300, parts
        return json.loads(b"".join(parts))


def submit(folder: Path, count: int) -> list[Figure]:
    """POST /v1/sessions/{id}/runs to its durable 202; then the whole run, as a follower sees it end."""
    with daemon(folder, "submit") as made:
        made.script(text("done"), after_last="repeat")
        made.start()
        session = made.session("s")
        connection = Connection(made)
        frames = made.client.events(session_id=session, cursor="tail", deadline_s=time.monotonic() + 600)
        assert next(frames).event == "sync"
        accepted: list[float] = []
        whole: list[float] = []
        disk: list[float] = []
        with open(folder / "paired", "ab", buffering=0) as paired:
            for round_ in range(count + 5):
                began = time.perf_counter()
                paired.write(baselines.RECORD)
                os.fdatasync(paired.fileno())
                disk.append((time.perf_counter() - began) * 1000)
                began = time.perf_counter()
                run = connection.send(Request("POST", f"/v1/sessions/{session}/runs", body={"content": "go"}))
                accepted.append((time.perf_counter() - began) * 1000)
                for frame in frames:
                    if frame.event == "record" and _ends(frame.data, run["run_id"]):
                        break
                whole.append((time.perf_counter() - began) * 1000)
                if round_ == 4:
                    accepted, whole, disk = [], [], []
        base = Figure("fdatasync of 300 bytes, one before each submit", "ms", disk)
        limit = 2 * base.median + 2
        asked = Figure("submit: POST runs to its durable 202", "ms", accepted)
        ended = Figure("one-step run: submit to `completed` at a follower", "ms", whole)
        records = len(made.journal(session)) / (count + 5)
        return [
            base,
            asked._replace(
                goal=f"<= 2x + 2 ms = {limit:.2f}", met=asked.median <= limit, note=f"{asked.median / base.median:.1f}x"
            ),
            ended._replace(goal="<= 60", met=ended.median <= 60, note=f"{records:.1f} records"),
        ]


def _ends(record: dict[str, Any], run_id: str) -> bool:
    return any(e["type"] == "run.completed" and e["run_id"] == run_id for e in record["events"])


def approve(folder: Path, count: int) -> list[Figure]:
    """Approve to the start of the tool call being durable, as a follower sees it."""
    with daemon(folder, "approve") as made:
        made.script(*[bash("true"), text("done")] * (count + 2))
        made.start()
        session = made.session("s")
        connection = Connection(made)
        taken: list[float] = []
        frames = made.client.events(session_id=session, cursor="tail", deadline_s=time.monotonic() + 600)
        assert next(frames).event == "sync"
        for round_ in range(count + 2):
            connection.send(Request("POST", f"/v1/sessions/{session}/runs", body={"content": "go"}))
            asked = _next(frames, "approval.requested")
            began = time.perf_counter()
            connection.send(Request("POST", f"/v1/approvals/{asked['request_id']}", body={"resolution": "allow"}))
            _next(frames, "tool_call.started")
            if round_ >= 2:
                taken.append((time.perf_counter() - began) * 1000)
            _next(frames, "run.completed")
        return [Figure("approve: POST to the durable start of the command", "ms", taken)]


def _next(frames: Iterator[Any], type_: str) -> dict[str, Any]:
    for frame in frames:
        if frame.event == "record":
            for event in frame.data["events"]:
                if event["type"] == type_:
                    return dict(event)
    raise AssertionError(f"no {type_} came")


def idle(folder: Path, count: int) -> list[Figure]:
    """A daemon with many sessions that nobody talks to, and its restart with some that are owed work."""
    with daemon(folder, "idle") as made:
        made.script(text("done"), after_last="repeat")
        hang = made.script({"hang": 99}, name="hang.json", after_last="repeat")
        made.start()
        connection = Connection(made)
        began = time.perf_counter()
        for number in range(SESSIONS):
            connection.send(
                Request("POST", "/v1/sessions", body={"session_id": f"s{number:04d}", "cwd": str(made.work)})
            )
            connection.send(Request("POST", f"/v1/sessions/s{number:04d}/runs", body={"content": "go"}))
        create_s = time.perf_counter() - began
        _settle(made)
        loaded = _memory_mb(made.pid)
        made.stop()
        made.start()
        rss, wakes = _watch_idle(made.pid, IDLE_S)
        ready: list[float] = []
        listed: list[float] = []
        for _ in range(max(3, count // 40)):
            for number in range(OWED):
                made.submit(f"s{number:04d}", model=hang, delivery="interrupt")
            made.kill()
            began = time.perf_counter()
            made.start()
            ready.append((time.perf_counter() - began) * 1000)
            rows = made.client.sessions.list(limit=SESSIONS)
            listed.append((time.perf_counter() - began) * 1000)
            assert len(rows) == SESSIONS
            assert made.client.daemon.status()["runs"]["active"] == OWED
        python = baselines.python_start(5).median
        return [
            Figure(f"create {SESSIONS} sessions with a run each, one client", "s", [create_s]),
            Figure(f"memory with {SESSIONS} sessions just used", "MB", [loaded]),
            Figure(
                f"idle with {SESSIONS} sessions: memory (RSS)", "MB", [rss], goal="< 120 (aim 40)", met=rss < 120
            ),
            Figure(
                f"idle with {SESSIONS} sessions: wake-ups in {IDLE_S:.0f} s", "", [wakes], goal="0", met=wakes == 0
            ),
            Figure(
                f"restart after SIGKILL, {SESSIONS} sessions, {OWED} owed: process start to ready", "ms", ready,
                goal="< 1000", met=sorted(ready)[len(ready) // 2] < 1000,
                note=f"bare Python start {python:.0f} ms",
            ),
            Figure("the same, to the first correct list of all sessions", "ms", listed),
        ]  # fmt: skip


def _settle(made: DaemonProcess) -> None:
    deadline = time.monotonic() + 60
    while made.client.daemon.status()["runs"]["active"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _memory_mb(pid: int) -> float:
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def _switches(pid: int) -> int:
    """Times that any thread of the process went to sleep by itself: each is one wake-up."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/task/{task}/status") as file:
            total += next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
    return total


def _watch_idle(pid: int, seconds: float) -> tuple[float, float]:
    time.sleep(3.0)  # what follows the start by itself (the index is saved after two seconds) is over then
    before = _switches(pid)
    time.sleep(seconds)
    return _memory_mb(pid), float(_switches(pid) - before)


def loop(folder: Path, count: int) -> list[Figure]:
    """The longest that one callback holds the event loop while many scripted runs stream at once."""
    seen_path = folder / "loop.json"
    with daemon(folder, "loop") as made:
        deltas = [f"word {number} " for number in range(400)]
        reply = {"deltas": deltas, "pace_ms": 5}
        made.script(bash("seq 2000"), reply, text("done"), after_last="cycle")
        argv = [sys.executable, "-m", "tests.benchmarks.watched_daemon"]
        root = str(Path(__file__).parents[2])
        made.start({"KHEISH_WATCH": str(seen_path), "PYTHONPATH": root}, argv)
        sessions = [made.session(f"s{number}", "bypass") for number in range(STREAMS)]
        warm = made.session("warm", "bypass")
        made.finish(made.submit(warm))
        read_watch(made.pid, seen_path)
        received = [0] * STREAMS
        threads = []

        def follow(number: int, run_id: str) -> None:
            for frame in made.client.events(run_id=run_id):
                received[number] += frame.event == "delta"

        began = time.perf_counter()
        for number, session in enumerate(sessions):
            thread = threading.Thread(target=follow, args=(number, made.submit(session)))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        took_s = time.perf_counter() - began
        seen = read_watch(made.pid, seen_path)
        note = f"{seen['callbacks']} callbacks, {sum(received)} deltas read, {took_s:.1f} s; longest: "
        return [
            Figure(
                f"event loop, {STREAMS} streaming runs: longest block", "ms", [seen["longest_ms"]], goal="< 10",
                met=seen["longest_ms"] < 10, note=note + seen["callback"].split(" at 0x")[0],
            )
        ]  # fmt: skip


def read_watch(pid: int, path: Path) -> dict[str, Any]:
    """What a watched daemon saw since the last time."""
    path.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    seen: dict[str, Any] = json.loads(path.read_text())
    return seen


def start(folder: Path, count: int) -> list[Figure]:
    """A daemon on an empty state root: process start to ready."""
    taken = []
    for number in range(max(3, count // 40)):
        with daemon(folder, f"start{number}") as made:
            began = time.perf_counter()
            made.start()
            taken.append((time.perf_counter() - began) * 1000)
            launch.is_ready(made.client.transport)
    return [Figure("daemon on an empty state root: process start to ready", "ms", taken)]


SCENES = {"submit": submit, "approve": approve, "start": start, "idle": idle, "loop": loop}
