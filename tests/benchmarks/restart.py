"""The daemon after a SIGKILL: with very many sessions, and with very many runs that wait for a human."""

from __future__ import annotations

import asyncio
import os
import selectors
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

from kheish.client.http1 import Request, Response
from kheish.core.state import status_of
from kheish.limits import PAGE_ITEMS_MAX
from tests import daemon_process
from tests.benchmarks.baselines import python_start
from tests.benchmarks.disk import memory_kb
from tests.benchmarks.figures import Figure
from tests.benchmarks.kernel import Connection, daemon
from tests.benchmarks.trees import Mould, Tree
from tests.daemon_process import DaemonProcess, calls, text, tool
from tests.runtime.kernel import Kernel, reply

SESSIONS, RECORDS, ACTIVE = 10_000, 101, 100
WAITING, CLIENTS = 1000, 16
ROUNDS = 5
PATIENCE_S = 300.0
_RECEIVE_BYTES = 64 * 1024


def many(folder: Path) -> DaemonProcess:
    """A state root of very many sessions, grown at its first use."""
    made = DaemonProcess(folder / "many")
    if not made.state.exists():
        Tree(made.state, Mould(folder, 4, 100)).grow([f"s{number:05d}" for number in range(SESSIONS)], RECORDS)
        os.sync()
    return made


def start_patiently(made: DaemonProcess, env: dict[str, str] | None = None, argv: list[str] | None = None) -> float:
    """Seconds from the start of the process until it is ready."""
    began = time.perf_counter()
    with mock.patch.object(daemon_process, "START_TIMEOUT_S", PATIENCE_S):
        made.start(env, argv)
    return time.perf_counter() - began


def in_parallel(made: DaemonProcess, requests: Iterable[Request], clients: int) -> float:
    """Seconds that the requests take, over this many kept connections. One thread sends what was made beforehand: the
    daemon is to have the processors."""
    left = iter([request.encode("benchmark", keep_alive=True) for request in requests])
    selector = selectors.DefaultSelector()
    began = time.perf_counter()
    for _ in range(clients):
        connection = made.client.transport.connect()
        selector.register(connection, selectors.EVENT_READ, (Response(), []))
        connection.sendall(next(left))
    while selector.get_map():
        for key, _ in selector.select():
            connection: Any = key.fileobj
            response, parts = key.data
            parts += response.feed(connection.recv(_RECEIVE_BYTES))
            if not response.is_complete:
                continue
            assert response.status < 300, parts
            if (request := next(left, None)) is not None:
                selector.modify(connection, selectors.EVENT_READ, (Response(), []))
                connection.sendall(request)
            else:
                selector.unregister(connection)
                connection.close()
    return time.perf_counter() - began


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_idle(made: DaemonProcess) -> None:
    """No run is active. A new connection for each look would cost the daemon more than the look."""
    connection = Connection(made)
    until(lambda: connection.send(Request("GET", "/v1/status"))["runs"]["active"] == 0)


class Held(tuple[float, int, int]):
    """What a process holds: MB of memory, threads, descriptors."""

    @classmethod
    def by(cls, pid: int) -> Held:
        folder = f"/proc/{pid}"
        return cls((memory_kb("VmRSS", pid) / 1024, len(os.listdir(f"{folder}/task")), len(os.listdir(f"{folder}/fd"))))


def restart(folder: Path, count: int) -> list[Figure]:
    """SIGKILL with 10,000 sessions of 1,000,000 records, of which 100 are active, until it serves a correct list."""
    with daemon(folder, "alone") as alone:
        bare_s = start_patiently(alone)
        bare_mb, _, _ = Held.by(alone.pid)
    made = many(folder)
    hang = made.script({"hang": 99}, name="hang.json", after_last="repeat")
    try:
        index = made.state / "daemon" / "index.jsonl"
        rebuilt_s = start_patiently(made)
        until(index.exists)
        made.stop()
        start_patiently(made)
        idle_mb, _, _ = Held.by(made.pid)
        ready: list[float] = []
        listed: list[float] = []
        all_listed: list[float] = []
        memory: list[float] = []
        for _ in range(ROUNDS):
            active = {f"s{number:05d}" for number in range(0, SESSIONS, SESSIONS // ACTIVE)}
            body = {"content": "go", "model": hang, "delivery": "interrupt"}
            in_parallel(made, [Request("POST", f"/v1/sessions/{name}/runs", body=body) for name in active], CLIENTS)
            made.kill()
            began = time.perf_counter()
            ready.append(start_patiently(made))
            first = made.client.sessions.list(limit=ACTIVE)
            listed.append(time.perf_counter() - began)
            assert {row["session_id"] for row in first} == active
            assert all(row["status"] == "running" for row in first)
            page = made.client.sessions.page(limit=PAGE_ITEMS_MAX)
            rows = len(page["items"])
            while (cursor := page["next_cursor"]) is not None:
                page = made.client.sessions.page(cursor=cursor, limit=PAGE_ITEMS_MAX)
                rows += len(page["items"])
            all_listed.append(time.perf_counter() - began)
            assert rows == SESSIONS
            memory.append(Held.by(made.pid)[0])
        what = f"{SESSIONS:,} sessions, {SESSIONS * RECORDS:,} records"
        python = python_start(5).median / 1000
        correct = Figure(f"restart, {what}, {ACTIVE} active: first correct list", "s", listed, goal="<= 0.6")
        return [
            Figure(f"first start on {what}: no index yet", "s", [rebuilt_s]),
            Figure(
                f"restart, {what}, {ACTIVE} active: ready", "s", ready,
                note=f"without any session {bare_s:.2f} s, bare Python {python:.3f} s",
            ),
            correct._replace(met=correct.median <= 0.6),
            Figure("the same: all pages of the list", "s", all_listed),
            Figure("the same: memory (RSS)", "MB", memory, note=f"{bare_mb:.1f} MB without any session"),
            Figure(f"{what}, all idle: memory (RSS)", "MB", [idle_mb], goal="<= 40 (aim)"),
            Figure(
                "the same: memory of an idle session", "KB", [(idle_mb - bare_mb) * 1024 / SESSIONS],
                goal="<= 1", met=idle_mb - bare_mb <= SESSIONS / 1024,
            ),
        ]  # fmt: skip
    finally:
        made.close()


def waiting(folder: Path, count: int) -> list[Figure]:
    """1,000 runs that wait for approval: what they hold, and a SIGKILL after which all are approved and finish."""
    figures = []
    with daemon(folder, "waiting") as made:
        made.script(calls(tool("write_file", path="made.txt", content="x")), text("done"), after_last="cycle")
        made.start()
        before = Held.by(made.pid)
        names = [f"s{number:04d}" for number in range(WAITING)]
        bodies = [{"session_id": name, "cwd": str(made.work)} for name in names]
        in_parallel(made, [Request("POST", "/v1/sessions", body=body) for body in bodies], CLIENTS)
        for clients in (1, CLIENTS):
            runs = [Request("POST", f"/v1/sessions/{name}/runs", body={"content": "go"}) for name in names]
            in_parallel(made, runs, CLIENTS)
            until(lambda: len(made.client.approvals.list()) == WAITING)
            loaded = Held.by(made.pid)
            made.kill()
            started_s = start_patiently(made)
            put_away = Held.by(made.pid)
            began = time.perf_counter()
            asked = made.client.approvals.list()
            listed_s = time.perf_counter() - began
            allow = {"resolution": "allow"}
            answers = [Request("POST", f"/v1/approvals/{row['request_id']}", body=allow) for row in asked]
            answered_s = in_parallel(made, answers, clients)
            until_idle(made)
            done_s = time.perf_counter() - began
            name = f"{WAITING:,} runs that wait, after SIGKILL"
            if clients == 1:
                figures += _held(before, loaded, "just used") + _held(before, put_away, "after a restart")
                figures.append(Figure(f"{name}: ready", "s", [started_s]))
            figures.append(
                Figure(
                    f"{name}: all approved and done, {clients} clients", "s", [done_s], goal="<= 3", met=done_s <= 3,
                    note=f"list {listed_s:.2f} s, POSTs {answered_s:.2f} s",
                )
            )  # fmt: skip
    workers = asyncio.run(_workers(folder))
    return [*figures, Figure(f"{WAITING:,} runs that wait: asyncio tasks", "", [workers], goal="0", met=workers == 0)]


def _held(before: Held, now: Held, when: str) -> list[Figure]:
    memory, threads, descriptors = (b - a for a, b in zip(before, now, strict=True))
    name = f"a run that waits, {when}"
    note = f"threads {threads:+d}, descriptors {descriptors:+d} for all"
    return [Figure(f"{name}: memory", "KB", [memory * 1024 / WAITING], note=note)]


async def _workers(folder: Path) -> int:
    """Tasks beside the one that asks."""
    call = ("write_file", {"path": "made.txt"})
    async with Kernel(folder / "workers", [reply("", call)]) as kernel:

        async def wait_for_one(name: str) -> None:
            await kernel.create(name)
            run_id = await kernel.submit("go", name)
            await kernel.until(lambda state: status_of(state, state.runs[run_id]) == "waiting_for_approval", name)

        await asyncio.gather(*[wait_for_one(f"s{number}") for number in range(100)])
        await asyncio.sleep(0.1)
        return len(asyncio.all_tasks()) - 1


SCENES = {"store.restart": restart, "store.waiting": waiting}
