"""What clients get of the store through the socket: steps, streams, new sessions, and a loop that is never held."""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import selectors
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from kheish.api.app import App
from kheish.api.server import Server
from kheish.client.http1 import Request
from kheish.core.commands import EditRun
from kheish.core.contracts import ModelRequest, Reply
from kheish.debug.service import Debugging
from kheish.limits import SYNC_THREADS
from kheish.runtime.hub import Frame, Hub
from kheish.secrets.master_key import MasterKey
from kheish.secrets.service import Secrets
from kheish.store import atomic
from tests.benchmarks.baselines import RECORD
from tests.benchmarks.disk import cpu_s
from tests.benchmarks.figures import Figure, sample_ms
from tests.benchmarks.kernel import daemon, read_watch
from tests.benchmarks.restart import CLIENTS, in_parallel, many, start_patiently, until_idle
from tests.benchmarks.store import Disk
from tests.benchmarks.trees import Mould, Tree
from tests.daemon_process import DaemonProcess, calls, text, tool
from tests.runtime.kernel import Kernel, reply

ROUNDS = 5
STEPS = {1: 200, 100: 20}
FANOUT = ((1, 8192), (10, 8192), (50, 8192), (200, 8192), (100, 300))
FANOUT_RECORDS, FANOUT_AT_ONCE, PACED_RECORDS, PACE_S = 1000, 100, 200, 0.02
ATTACHED_RECORDS, REPLAYED = 1001, 200
CREATED, BARE = 500, 200
BUSY_SESSIONS, BUSY_FOLLOWERS, BUSY_S = 100, 20, 20.0
BUSY_PACE_MS = 55
_RECEIVE_BYTES, _CARRY_BYTES = 1024 * 1024, 64
_LAST_ID = re.compile(rb"\nid: (\d+)\n\n")


def steps(folder: Path, count: int) -> list[Figure]:
    """Steps of a scripted model, each with a call of a tool that only reads: its intent and its outcome are durable."""
    disk = Disk(folder)
    figures = []
    with daemon(folder, "steps") as made:
        (made.work / "notes.txt").write_text("x\n")
        look = calls(tool("read_file", path="notes.txt"))
        models = {
            sessions: made.script(*[look] * of_run, text("done"), name=f"steps-{sessions}.json", after_last="cycle")
            for sessions, of_run in STEPS.items()
        }
        made.start()
        names = [made.session(f"s{number}", "bypass") for number in range(max(STEPS))]
        goals = {1: 800, 100: 10_000}
        taken: dict[int, list[float]] = {sessions: [] for sessions in STEPS}
        shares: dict[int, list[float]] = {sessions: [] for sessions in STEPS}
        for _ in range(ROUNDS):
            for sessions, of_run in STEPS.items():
                base = disk.rate()
                body = {"content": "go", "model": models[sessions]}
                paths = [f"/v1/sessions/{name}/runs" for name in names[:sessions]]
                began = time.perf_counter()
                in_parallel(made, [Request("POST", path, body=body) for path in paths], min(CLIENTS, sessions))
                until_idle(made)
                taken[sessions].append(sessions * of_run / (time.perf_counter() - began))
                shares[sessions].append(taken[sessions][-1] / base)
        for sessions in STEPS:
            figure = Figure(f"steps with a tool, {sessions} sessions", "1/s", taken[sessions])
            share = sorted(shares[sessions])[ROUNDS // 2]
            figures.append(
                figure._replace(
                    goal=f">= {goals[sessions]}", met=figure.median >= goals[sessions], note=f"{share:.2f} F"
                )
            )
    return figures


# -- streams --------------------------------------------------------------------------------------------------------


def open_stream(path: str, session_id: str, cursor: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    request = Request("GET", f"/v1/sessions/{session_id}/stream", query={"cursor": cursor})
    connection.sendall(request.encode("benchmark"))
    return connection


def read_to_sync(connection: socket.socket) -> bytes:
    data = b""
    while b"event: sync\n" not in data or not data.endswith(b"\n\n\r\n"):
        received = connection.recv(_RECEIVE_BYTES)
        assert received, data[-500:]
        data += received
    return data


def attach(folder: Path, count: int) -> list[Figure]:
    """A client that connects, gets the last 200 records, and is live."""
    with daemon(folder, "attach") as made:
        Tree(made.state, Mould(folder, 4, 100)).grow(["s"], ATTACHED_RECORDS)
        made.start()
        made.client.sessions.get("s")  # somebody has looked at it before

        def connect() -> None:
            with open_stream(str(made.socket), "s", str(ATTACHED_RECORDS - REPLAYED)) as connection:
                data = read_to_sync(connection)
            assert data.count(b"event: record\n") == REPLAYED

        figure = Figure("attach: connect, the last 200 records, `sync`", "ms", sample_ms(connect, count))
        met = figure.median <= 5 and figure.percentile(0.99) <= 20
        return [figure._replace(goal="p50 <= 5, p99 <= 20", met=met)]


class Followers:
    """Readers of one session's stream, in this process, who note when each record has come to the last of them."""

    def __init__(self, path: str, session_id: str, number: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._connections = [open_stream(path, session_id, "tail") for _ in range(number)]
        self._carried = dict.fromkeys(self._connections, b"")
        for connection in self._connections:
            self.seq = int(_LAST_ID.findall(read_to_sync(connection))[-1])
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ)

    def read(self, records: int) -> dict[int, float]:
        """When the last follower had each of the next records."""
        last = self.seq + records
        came: dict[int, float] = {}
        at = dict.fromkeys(self._connections, self.seq)
        while min(at.values()) < last:
            for key, _ in self._selector.select():
                connection: Any = key.fileobj
                received = connection.recv(_RECEIVE_BYTES)
                assert received and b"event: gap" not in received
                data = self._carried[connection] + received
                self._carried[connection] = data[-_CARRY_BYTES:]
                now = time.perf_counter()
                ids = _LAST_ID.findall(data, max(0, data.rfind(b"\nid: ")))
                if ids:
                    for seq in range(at[connection] + 1, int(ids[-1]) + 1):
                        came[seq] = now
                    at[connection] = int(ids[-1])
        self.seq = last
        return came

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def fanout(folder: Path, count: int) -> list[Figure]:
    """Records to many followers: as fast as all of them read, and how long one record takes to the last of them."""
    context = multiprocessing.get_context("spawn")
    figures = []
    for number, record_bytes in FANOUT:
        ours, theirs = context.Pipe()
        root = folder / f"fanout-{number}-{record_bytes}"
        server = context.Process(target=_run_server, args=(theirs, root, record_bytes), daemon=True)
        server.start()
        followers = Followers(ours.recv(), "s", number)
        began = time.perf_counter()
        ours.send((FANOUT_RECORDS, 0.0))
        followers.read(FANOUT_RECORDS)
        took_s = time.perf_counter() - began
        _, took_cpu_s = ours.recv()
        ours.send((PACED_RECORDS, PACE_S))
        came = followers.read(PACED_RECORDS)
        published, _ = ours.recv()
        late = [(came[seq] - at) * 1000 for seq, at in published.items()]
        ours.send((0, 0.0))
        server.join()
        followers.close()
        what = f"records of {record_bytes} bytes to {number} followers"
        rate, lateness = (
            Figure(f"{what}: deliveries", "1/s", [FANOUT_RECORDS * number / took_s]),
            Figure(f"{what}: published to the last", "ms", late),
        )
        if number == 100:
            rate = rate._replace(goal=">= 100000", met=rate.median >= 100_000)
            lateness = lateness._replace(goal="p99 <= 20", met=lateness.percentile(0.99) <= 20)
        cpu_us = took_cpu_s / (FANOUT_RECORDS * number) * 1e6
        note = f"{rate.median * record_bytes / 1e6:.0f} MB/s; CPU of the daemon {cpu_us:.1f} us a delivery"
        figures += [rate._replace(note=note), lateness]
    return figures


def _run_server(pipe: Pipe, root: Path, record_bytes: int) -> None:
    asyncio.run(_serve(pipe, root, record_bytes))


async def _serve(pipe: Pipe, root: Path, record_bytes: int) -> None:
    """The kernel and the API of a daemon, whose own process publishes what the pipe asks for."""

    async def never(request: ModelRequest) -> Reply:
        await asyncio.Event().wait()
        return reply()

    async with Kernel(root, [never]) as made:
        path = root / "daemon" / "s"
        secrets = Secrets(root / "secrets", MasterKey(root / "key", {}, in_keyring=False), made.supervisor.clock)
        debugging = Debugging(root / "debug", made.supervisor.clock, "off", list)
        app = App(made.supervisor, secrets, debugging, state_root=root, socket_path=path)
        server = Server(app, path)
        await server.start()
        await made.create()
        await made.submit()
        queued = await made.submit()
        pipe.send(str(path))
        while (order := await asyncio.to_thread(pipe.recv))[0]:
            pipe.send(await _publish(made, queued, record_bytes, *order))
        app.drain("over")
        await server.stop()


async def _publish(
    made: Kernel, queued: str, record_bytes: int, records: int, pace_s: float
) -> tuple[dict[int, float], float]:
    """When each of these durable records was published, and the processor time until all were delivered."""
    hub, published = made.supervisor.hub, {}
    began_s = time.process_time()

    def publish(frame: Frame) -> None:
        published[frame.seq] = time.perf_counter()
        Hub.publish(hub, frame)

    hub.publish = publish  # type: ignore[method-assign]
    for first in range(0, records, 1 if pace_s else FANOUT_AT_ONCE):
        numbers = range(first, first + (1 if pace_s else FANOUT_AT_ONCE))
        texts = [f"{number} {time.perf_counter_ns()} ".ljust(record_bytes, "x") for number in numbers]
        await asyncio.gather(*[made.send(EditRun(run_id=queued, text=text)) for text in texts])
        await asyncio.sleep(pace_s)
        while any(subscription._frames for those in hub._subscriptions.values() for subscription in those):
            await asyncio.sleep(0.001)
    return published, time.process_time() - began_s


# -- new sessions ---------------------------------------------------------------------------------------------------


def create(folder: Path, count: int) -> list[Figure]:
    """POST /v1/sessions to its durable answer, beside what the disk takes for the same. ext4 passes over the numbers of
    files that were deleted within the last minutes, one by one: where much was, a new file costs a millisecond more."""
    bare: dict[int, list[float]] = {1: [], CLIENTS: []}
    taken: dict[int, list[float]] = {1: [], CLIENTS: []}
    cpu_us: dict[int, list[float]] = {1: [], CLIENTS: []}
    threads = {1: 1, CLIENTS: SYNC_THREADS}
    with daemon(folder, "create") as made:
        made.start()
        for round_ in range(3):
            for clients in taken:
                bare[clients].append(_made_bare(folder / f"bare{round_}-{clients}", threads[clients]))
                names = [f"c{round_}-{clients}-{number}" for number in range(CREATED)]
                bodies = [{"session_id": name, "cwd": str(made.work)} for name in names]
                requests = [Request("POST", "/v1/sessions", body=body) for body in bodies]
                began_s = cpu_s(made.pid)
                taken[clients].append(CREATED / in_parallel(made, requests, clients))
                cpu_us[clients].append((cpu_s(made.pid) - began_s) / CREATED * 1e6)
    figures = []
    for clients, floor in ((1, 500), (CLIENTS, 2000)):
        how = f"{threads[clients]} at once" if threads[clients] > 1 else "one after another"
        base = Figure(f"a directory and a file, each synced with its name, {how}", "1/s", bare[clients])
        figure = Figure(f"create sessions, {clients} clients", "1/s", taken[clients], goal=f">= {floor}")
        note = f"{figure.median / base.median:.2f}x of bare; CPU of the daemon {sorted(cpu_us[clients])[1]:.0f} us"
        figures += [base, figure._replace(met=figure.median >= floor, note=note)]
    return figures


def _made_bare(folder: Path, threads: int) -> float:
    """How many in a second."""
    folder.mkdir()

    def make(number: int) -> None:
        building, path = folder / f"new{number}", folder / f"s{number}"
        building.mkdir()
        atomic.create_file(building / "journal", RECORD)
        atomic.sync_dir(building)
        building.rename(path)
        atomic.sync_dir(folder)

    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(make, range(BARE)):
            pass
    return BARE / (time.perf_counter() - began)


# -- the loop -------------------------------------------------------------------------------------------------------


def block(folder: Path, count: int) -> list[Figure]:
    """The longest that a callback holds the event loop while a hundred sessions write and twenty clients read: with
    no other session, and with 10,000 in the index."""
    own = folder / "busy"
    own.mkdir()
    return [
        _busy(folder, DaemonProcess(folder / "block"), "no other session"),
        _busy(folder, many(own), "10,000 other sessions"),  # its sessions are still at work when it ends
    ]


def _busy(folder: Path, made: DaemonProcess, what: str) -> Figure:
    seen_path = folder / "block.json"
    (made.work / "notes.txt").write_text("x\n")
    paced = {"deltas": ["x"], "pace_ms": BUSY_PACE_MS, "tool_calls": [tool("read_file", path="notes.txt")]}
    busy = made.script(paced, name="busy.json", after_last="repeat")
    argv = [sys.executable, "-m", "tests.benchmarks.watched_daemon"]
    environment = {"KHEISH_WATCH": str(seen_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    try:
        start_patiently(made, environment, argv)
        names = [made.session(f"busy{number}", "bypass") for number in range(BUSY_SESSIONS)]
        for name in names:
            made.submit(name, model=busy)
        readers = [open_stream(str(made.socket), name, "tail") for name in names[:BUSY_FOLLOWERS]]
        for reader in readers:
            threading.Thread(target=_drain, args=(reader,), daemon=True).start()
        seqs = _seqs(made, names)
        read_watch(made.pid, seen_path)
        began = time.perf_counter()
        time.sleep(BUSY_S)
        seen = read_watch(made.pid, seen_path)
        took_s = time.perf_counter() - began
        records = (_seqs(made, names) - seqs) / took_s
        note = f"{records:.0f} records/s; {seen['over_10_ms']} of {seen['callbacks']} over 10 ms; longest: "
        return Figure(
            f"event loop, {BUSY_SESSIONS} sessions write, {what}: longest block", "ms", [seen["longest_ms"]],
            goal="< 10", met=seen["longest_ms"] < 10, note=note + seen["callback"].split(" at 0x")[0],
        )  # fmt: skip
    finally:
        made.close()


def _drain(connection: socket.socket) -> None:
    while connection.recv(_RECEIVE_BYTES):
        pass


def _seqs(made: DaemonProcess, names: list[str]) -> int:
    rows = made.client.sessions.list(status="running", limit=len(names))
    assert len(rows) == len(names)
    return sum(row["seq"] for row in rows)


SCENES = {
    "store.steps": steps,
    "store.fanout": fanout,
    "store.attach": attach,
    "store.create": create,
    "store.block": block,
}
