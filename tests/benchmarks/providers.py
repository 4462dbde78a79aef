"""The providers: what the first use of an SDK costs everybody else, and what a delta costs beyond the SDK."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from kheish.client.http1 import Request
from kheish.core.commands import SubmitRun
from kheish.core.contracts import ModelRequest, Reply
from kheish.core.effects import CallModel
from kheish.core.events import Hop
from kheish.core.outcomes import ModelReplied
from kheish.debug.service import Debugging
from kheish.errors import ProviderError
from kheish.runtime.hub import Hub
from kheish.runtime.model_calls import call_model
from kheish.runtime.supervisor import SystemClock
from kheish.store.blobs import Blobs
from tests.benchmarks.figures import Figure
from tests.benchmarks.kernel import Connection, daemon, read_watch
from tests.daemon_process import DaemonProcess
from tests.providers.requests import make_request
from tests.providers.wire_server import Answer, WireServer, serving
from tests.providers.wires import COMPLETIONS, MESSAGES, RESPONSES, WIRES, Wire
from tests.runtime.kernel import Kernel

STREAMS = 20
DELTAS = 200
PACE_S = 0.002
WORDS = [f"word {number} and some more " for number in range(DELTAS)]


# -- first use ------------------------------------------------------------------------------------------------------


def first_use(folder: Path, count: int) -> list[Figure]:
    """The first run on a route: how long its SDK holds up the event loop, and a request of somebody else."""
    figures = []
    with serving() as server:
        for wire in WIRES:
            blocks: list[float] = []
            waits: list[float] = []
            quiet: list[float] = []
            longest = ""
            for number in range(max(1, count // 60)):
                server.play(Answer(wire.text("done")))
                with daemon(folder, f"first-{wire.driver}-{number}") as made:
                    (made.config / "routes.toml").write_text(f"version = 1\n{wire.route(server.url)}")
                    made.env[wire.key_env] = "k"
                    seen_path = folder / "first_use.json"
                    root = str(Path(__file__).parents[2])
                    made.start(
                        {"KHEISH_WATCH": str(seen_path), "PYTHONPATH": root},
                        [sys.executable, "-m", "tests.benchmarks.watched_daemon"],
                    )
                    made.session("s")
                    quiet.append(_longest_request(made, partial(time.sleep, 1)))
                    read_watch(made.pid, seen_path)
                    waits.append(_longest_request(made, partial(_run, made)))
                    seen = read_watch(made.pid, seen_path)
                    blocks.append(seen["longest_ms"])
                    longest = seen["callback"].split(" at 0x")[0]
                    assert server.paths, "the run did not reach the server"
            block = Figure(f"first use of {wire.driver}: longest block of the event loop", "ms", blocks)
            figures += [
                block._replace(goal="< 50", met=max(blocks) < 50, note=f"longest: {longest}"),
                Figure(
                    f"first use of {wire.driver}: longest wait of another request",
                    "ms",
                    waits,
                    note=f"{max(quiet):.1f} ms before it",
                ),
            ]
    return figures


def _run(made: DaemonProcess) -> None:
    made.finish(made.submit("s"))


def _longest_request(made: DaemonProcess, work: Callable[[], object]) -> float:
    """Milliseconds of the longest of the requests that are sent, one after the other, while something else goes on."""
    connection = Connection(made)
    over = threading.Event()
    longest = 0.0

    def ask() -> None:
        nonlocal longest
        while not over.is_set():
            began = time.perf_counter()
            connection.send(Request("GET", "/healthz"))
            longest = max(longest, (time.perf_counter() - began) * 1000)
            time.sleep(0.002)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        work()
    finally:
        over.set()
        thread.join()
    return longest


# -- deltas ---------------------------------------------------------------------------------------------------------


def deltas(folder: Path, count: int) -> list[Figure]:
    """The processor time of a delta, while many streams come at once: ours, from the SDK to the followers, beside that
    of the SDK when nobody looks at what it gives."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    try:
        url = ours.recv()
        figures = []
        for wire in WIRES:
            bare, off, full = asyncio.run(_measure(wire, url, folder, max(3, count // 25)))
            name = f"a delta of {STREAMS} streams over {wire.driver}"
            figure = Figure(f"{name}: beyond the SDK", "us", _beyond(off, bare))
            figures += [
                Figure(f"{name}: the SDK alone", "us", bare),
                figure._replace(goal="< 150", met=figure.median < 150),
                Figure(f"{name}: beyond that, at the debug level full", "us", _beyond(full, off)),
            ]
        return figures
    finally:
        ours.send("end")
        server.join()


def _beyond(whole: list[float], part: list[float]) -> list[float]:
    return [more - less for more, less in zip(whole, part, strict=True)]


def _serve(pipe: Pipe) -> None:
    async def serve() -> None:
        async with WireServer().running() as server:
            server.by_model = {wire.model: Answer(wire.text(*WORDS), pace_s=PACE_S) for wire in WIRES}
            pipe.send(server.url)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


async def _measure(wire: Wire, url: str, folder: Path, rounds: int) -> tuple[list[float], ...]:
    """Microseconds of a delta with the SDK alone, with all of ours, and with what is kept of it, round by round."""
    provider = await wire.connect(url, "k")
    hub = Hub()
    hub.subscribe(session_id="s")
    request = make_request(model=wire.model)
    debugging = Debugging(folder / "debug", SystemClock(), "full", list)
    parts: dict[str, Any] = {"hub": hub, "blobs": Blobs(folder), "committer": None, "recorder": debugging}

    class Opened:
        async def open(self, route: str) -> Any:
            return provider

    async def with_ours() -> None:
        effect = CallModel(run_id="run_1", model_call_id="modelcall_1", attempt=1)
        outcome = await call_model(effect, request, "route", providers=Opened(), **parts)  # type: ignore[arg-type]
        assert isinstance(outcome, ModelReplied), outcome
        assert outcome.reply.text == "".join(WORDS)

    async def with_debugging() -> None:
        debugging.set_level("full")
        try:
            await with_ours()
        finally:
            debugging.set_level("off")

    async def with_the_sdk() -> None:
        client = provider._client  # type: ignore[attr-defined]
        async with await SDK_CALLS[wire](client) as events:
            async for _ in events:
                pass

    taken: dict[Callable[[], Awaitable[None]], list[float]] = {with_the_sdk: [], with_ours: [], with_debugging: []}
    debugging.set_level("off")
    for _ in range(rounds + 1):
        for work, figures in taken.items():
            began = time.process_time()
            await asyncio.gather(*[work() for _ in range(STREAMS)])
            await asyncio.to_thread(debugging._thread.submit(int).result)
            figures.append((time.process_time() - began) / (STREAMS * DELTAS) * 1e6)
    await debugging.close()
    return tuple(figures[1:] for figures in taken.values())


SDK_CALLS: dict[Wire, Callable[[Any], Awaitable[Any]]] = {
    MESSAGES: lambda client: client.messages.create(
        model=MESSAGES.model, max_tokens=9, messages=[{"role": "user", "content": "x"}], stream=True
    ),
    RESPONSES: lambda client: client.responses.create(model=RESPONSES.model, input="x", stream=True),
    COMPLETIONS: lambda client: client.chat.completions.create(
        model=COMPLETIONS.model, messages=[{"role": "user", "content": "x"}], stream=True
    ),
}

# -- failover -------------------------------------------------------------------------------------------------------


def failover(folder: Path, count: int) -> list[Figure]:
    """From the failure of a hop to the call of the next: the decision, its record on the disk, and the way there."""
    return [asyncio.run(_fail_over(folder / "failover", count))]


async def _fail_over(folder: Path, count: int) -> Figure:
    failed_s = 0.0
    taken_ms: list[float] = []

    class Hops:
        def __init__(self, route: str) -> None:
            self._route = route

        async def stream(self, request: ModelRequest) -> AsyncIterator[Reply]:
            nonlocal failed_s
            if self._route == "primary":
                failed_s = time.perf_counter()
                raise ProviderError("busy", code="overloaded")
            taken_ms.append((time.perf_counter() - failed_s) * 1000)
            yield Reply(text="done", stop_reason="end")

    hops = tuple(Hop(route=route, model="m") for route in ("primary", "fallback"))
    kernel = Kernel(folder, [])
    kernel.provider.open = _opener(Hops)  # type: ignore[method-assign, assignment]
    async with kernel:
        await kernel.create()
        for _ in range(count):
            kernel.supervisor.circuits.note_outcome(hops[0], _REPLIED, 0)
            run_id = await kernel.send(SubmitRun(text="go", route="primary", model="m", hops=hops))
            await kernel.until_status(run_id, "completed")
    figure = Figure("failover: from a failed hop to the call of the next", "ms", taken_ms)
    return figure._replace(goal="< 5", met=figure.median < 5)


_REPLIED = ModelReplied(run_id="", model_call_id="", attempt=1, reply=Reply(text="", stop_reason="end"))


def _opener(make: Callable[[str], Any]) -> Callable[[str], Awaitable[Any]]:
    async def open_(route: str) -> Any:
        return make(route)

    return open_


SCENES = {"first_use": first_use, "deltas": deltas, "failover": failover}
