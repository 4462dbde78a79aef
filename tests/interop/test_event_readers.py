"""Readers of server-sent events that others wrote get every record once, however their connections are cut."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from kheish.limits import STREAM_RETRY_MS
from tests.api.raw_http import Stream, ask
from tests.daemon_process import DaemonProcess, bash, text
from tests.interop.cutting_proxy import CuttingProxy, Route
from tests.interop.readers import HERE, READERS, Argv, Unavailable

pytestmark = pytest.mark.slow

SEED = os.environ.get("KHEISH_TEST_SEED", "1")
CUTS = int(os.environ.get("KHEISH_TEST_CUTS", "16"))
"""For each reader, shared by the stream of a session and that of all sessions; a long form has 200 and more."""
DEATHS = 2
TIMEOUT_S = 45.0 + 3 * CUTS

SESSION, GLOBAL = "/v1/sessions/a/stream", "/v1/events/stream"
PIECES = [
    "Ein Stück, ",
    "un morceau\n",
    "кусок, ",
    "一つ ",
    "😀😀 ",
    "\u2028\u0085\u00a0",
    "data: x\n\nid: 9\n\n",
    "\\\"'\t",
]

Frames = list[tuple[str, str, str]]


class Heard(NamedTuple):
    """What a reader got of each path, and what was done to it."""

    frames: dict[str, Frames]
    cuts: Counter[str]
    answers: Counter[tuple[str, int]]


class Scene(NamedTuple):
    heard: dict[str, Heard]
    missing: dict[str, str]
    journal: dict[str, list[tuple[str, Any]]]


class Reading:
    """A reader at work on some paths through a proxy of its own."""

    def __init__(self, name: str, argv: Argv, folder: Path, socket: Path, cuts: dict[str, int]) -> None:
        self.name = name
        # Chromium takes half a head for a whole one, which lacks the content type, and does not come back.
        self.routes = {
            path: Route(count, f"{SEED} {name} {path}", spares_head=name == "chromium") for path, count in cuts.items()
        }
        page = {"/": (HERE / "eventsource.html").read_bytes()}
        self.proxy = CuttingProxy(socket, self.routes, page, f"{SEED} {name}")
        streams = [f"{path}?cursor=0.0" if path == GLOBAL else path for path in cuts]
        self._outputs: dict[str, Path] = {}
        if name == "chromium":
            urls = {"": f"{self.proxy.url}/?{urlencode([('stream', stream) for stream in streams])}"}
        else:
            urls = {path: self.proxy.url + stream for path, stream in zip(cuts, streams, strict=True)}
        self._processes = []
        for number, (path, url) in enumerate(urls.items()):
            self._outputs[path] = folder / f"frames-{number}.jsonl"
            with self._outputs[path].open("wb") as output:
                self._processes.append(
                    subprocess.Popen(argv(url), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL)
                )

    def is_cut_enough(self) -> bool:
        """And reads live text on a connection that will not be cut."""
        return all(self.routes[path].is_through for path in (SESSION, GLOBAL))

    def end(self, deadline: float) -> Heard:
        """Waits until it has come to the end of every stream by itself."""
        frames: dict[str, Frames] = {}
        if self.name == "chromium":
            for _ in self.routes:
                stream, found = self.proxy.reports.get(timeout=max(deadline - time.monotonic(), 1))
                frames[stream.partition("?")[0]] = [tuple(frame) for frame in found]
        else:
            for process, (path, output) in zip(self._processes, self._outputs.items(), strict=True):
                assert process.wait(max(deadline - time.monotonic(), 1)) == 0, (self.name, path)
                frames[path] = [tuple(json.loads(line)) for line in output.read_text().split("\n") if line]
        cuts = sum((route.made for route in self.routes.values()), Counter())
        return Heard(frames, cuts, self.proxy.answers)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        self.proxy.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """All readers on the streams of one daemon that works and dies, until each has been cut off often enough."""
    daemon = DaemonProcess(tmp_path_factory.mktemp("daemon"))
    said = {"deltas": PIECES, "pace_ms": 1}
    daemon.script({**bash("echo '…\n😀'"), "when": "SHELL"}, text("ok", when="…"), said, after_last="repeat")
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.close)
        daemon.start()
        for session in ("a", "b"):
            daemon.session(session, "bypass")
        run_id = daemon.submit("a", "SHELL ü")
        daemon.finish(run_id)
        run = f"/v1/runs/{run_id}/stream"
        programs = tmp_path_factory.mktemp("programs")
        readings, missing = [], {}
        for name in READERS:
            cuts = {SESSION: CUTS // 2, GLOBAL: CUTS - CUTS // 2, run: 3}
            try:
                argv = READERS[name](programs)
            except Unavailable as reason:
                missing[name] = str(reason)
                continue
            readings.append(Reading(name, argv, tmp_path_factory.mktemp(name), daemon.socket, cuts))
            stack.callback(readings[-1].close)
        deadline = time.monotonic() + TIMEOUT_S
        _work_until_cut(daemon, readings, deadline)
        last = daemon.submit("a", "SHELL ü")
        daemon.kill()  # while all are connected
        daemon.start()
        daemon.finish(last)
        ask(daemon, "POST", "/v1/sessions/a/end", {})
        heard = {reading.name: reading.end(deadline) for reading in readings}
        journal = {
            SESSION: [(str(record["seq"]), record) for record in daemon.records("a")],
            GLOBAL: _in_order(daemon.records("a") + daemon.records("b")),
            "run": [(str(r["seq"]), r) for r in ask(daemon, "GET", f"/v1/runs/{run_id}/events").json["items"]],
        }
        for found in heard.values():
            found.frames["run"] = found.frames.pop(run)
            found.answers["run", 204] = found.answers.pop((run, 204), 0)
        assert "Traceback" not in (daemon.state / "daemon" / "daemon.log").read_text()
        yield Scene(heard, missing, journal)


def _work_until_cut(daemon: DaemonProcess, readings: list[Reading], deadline: float) -> None:
    total = CUTS * len(readings)
    deaths = [total * (number + 1) // (DEATHS + 1) for number in range(DEATHS)]
    turn = 0
    while not all(reading.is_cut_enough() for reading in readings):
        assert time.monotonic() < deadline, "not through: " + ", ".join(
            f"{reading.name} {path} {reading.routes[path].cuts_left}"
            for reading in readings
            for path in (SESSION, GLOBAL)
            if not reading.routes[path].is_through
        )
        session = "ab"[turn % 2]
        run_id = daemon.submit(session, "SHELL ü" if turn % 3 == 0 else "Sag etwas: é")
        left = sum(reading.routes[path].cuts_left for reading in readings for path in (SESSION, GLOBAL))
        if deaths and left <= deaths[-1]:
            deaths.pop()
            daemon.kill()
            daemon.start()
        assert daemon.finish(run_id)["status"] == "completed"
        turn += 1


def _in_order(records: list[Any]) -> list[tuple[str, Any]]:
    ordered = sorted(records, key=lambda record: (record["generation"], record["position"]))
    return [(f"{record['generation']}.{record['position']}", record) for record in ordered]


@pytest.fixture(params=READERS)
def heard(request: pytest.FixtureRequest, scene: Scene) -> Heard:
    if reason := scene.missing.get(request.param):
        message = f"NOT CHECKED with {request.param}: {reason}"
        request.config.get_terminal_writer().line(f"\n{message}", yellow=True)
        pytest.skip(message)
    return scene.heard[request.param]


@pytest.mark.parametrize("path", [SESSION, GLOBAL, "run"])
def test_every_record_comes_once_and_in_order(scene: Scene, heard: Heard, path: str) -> None:
    records = [(id_, data) for id_, event, data in heard.frames[path] if event == "record"]
    assert [id_ for id_, _ in records] == [id_ for id_, _ in scene.journal[path]]
    assert [(id_, json.loads(data)) for id_, data in records] == scene.journal[path]


@pytest.mark.parametrize("path", [SESSION, GLOBAL, "run"])
def test_all_readers_get_the_same_bytes(scene: Scene, heard: Heard, path: str) -> None:
    other = next(iter(scene.heard.values()))
    records, others = ([f for f in found.frames[path] if f[1] == "record"] for found in (heard, other))
    assert records == others


def test_it_was_cut_off_at_all_kinds_of_places_and_saw_live_text(heard: Heard) -> None:
    print(f"{heard.cuts.total()} cuts: {dict(heard.cuts)}; answers {dict(heard.answers)}")
    assert heard.cuts.total() >= CUTS and len(heard.cuts) > 3
    for path in (SESSION, GLOBAL):
        live = [json.loads(data) for _, event, data in heard.frames[path] if event == "delta"]
        assert any(delta["kind"] == "text" for delta in live)


def test_the_stream_of_a_finished_run_is_not_asked_for_again(heard: Heard) -> None:
    assert heard.frames["run"][-1] == ("", "closed", "") and heard.answers["run", 204]


def test_a_stream_says_how_soon_to_come_again(scene: Scene, daemon: DaemonProcess) -> None:
    with Stream(daemon, "/v1/events/stream") as stream:
        stream.until("sync")
        assert stream.retry_ms == STREAM_RETRY_MS
