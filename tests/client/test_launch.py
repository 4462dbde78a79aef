"""The client starts the daemon where there is none, and follows it through deaths and stops."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import AsyncKheish, DaemonUnreachable, Kheish, StreamEvent
from kheish.client.http1 import Request
from kheish.store.locks import DaemonLock
from tests.api.conftest import obey
from tests.daemon_process import DaemonProcess, Json

pytestmark = pytest.mark.slow


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that the test kills."""
    made = obey(DaemonProcess(tmp_path))
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture
def absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonProcess]:
    """A state root without a daemon, which is this process's own; whoever starts one there, it is ended after."""
    made = obey(DaemonProcess(tmp_path))
    for name in ("KHEISH_SOCKET", "KHEISH_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name in ("KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR", "HOME"):
        monkeypatch.setenv(name, made.env[name])
    monkeypatch.chdir(made.work)
    others = children()
    try:
        yield made
    finally:
        with contextlib.suppress(DaemonUnreachable):
            end(signal.SIGKILL)
        # Of several that were started at once, those that came too late may still be on their way.
        for pid in children() - others:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def children() -> set[int]:
    """The processes that this one started and has not reaped."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def end(number: int) -> None:
    """Ends the daemon that a client started; returns when it is gone."""
    pid = Kheish(start=False).daemon.status()["pid"]
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, number)
        assert select.select([handle], [], [], 20)[0], "it is gone"
        # It may be a child of this process, whose client started it.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    finally:
        os.close(handle)


def test_three_lines_make_a_session_from_nothing(absent: DaemonProcess) -> None:
    program = """
from kheish.client import Kheish
session = Kheish().sessions.create("name")
print(session["session_id"], session["cwd"])
"""
    environment = {**absent.env, "KHEISH_RUN_ID": "run_of_another", "KHEISH_SESSION_ID": "s"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        cwd=absent.work,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (f"name {os.path.realpath(absent.work)}\n", "")
    status = Kheish(start=False).daemon.status()
    assert (status["generation"], status["sessions"]["total"]) == (1, 1), "it outlives who started it"
    environ = Path(f"/proc/{status['pid']}/environ")
    if os.access(environ, os.R_OK) and os.getuid() == 0:
        assert b"KHEISH_RUN_ID" not in environ.read_bytes(), "the daemon is nobody's run"
    assert os.getsid(status["pid"]) == status["pid"], "nor of anybody's terminal"


def test_it_starts_none_where_it_is_told_not_to(absent: DaemonProcess) -> None:
    for client in (Kheish(start=False), Kheish(absent.socket)):
        with pytest.raises(DaemonUnreachable) as raised:
            client.daemon.status()
        assert raised.value.details["is_absent"] is True
    with pytest.raises(DaemonUnreachable):
        asyncio.run(AsyncKheish(start=False).send(Request("GET", "/v1/status")))
    assert not absent.state.exists()


def test_async_starts_it_too_and_many_start_one(absent: DaemonProcess) -> None:
    async def ask() -> list[Json]:
        return await asyncio.gather(*(AsyncKheish().daemon.status() for _ in range(3)))

    assert len({status["pid"] for status in asyncio.run(ask())}) == 1
    assert Kheish(start=False).daemon.status()["generation"] == 1


def test_a_daemon_that_cannot_start_says_why(absent: DaemonProcess) -> None:
    (absent.config / "config.toml").write_text("permissions = 3")
    with pytest.raises(DaemonUnreachable) as raised:
        Kheish().daemon.status()
    assert "config.toml" in raised.value.message and "daemon.log" in raised.value.message


@contextlib.contextmanager
def dying_daemon(path: Path, requests: int = 1) -> Iterator[None]:
    """A listener that takes requests without an answer, and is gone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.parent.chmod(0o700)
    path.unlink(missing_ok=True)

    taken: list[int] = []

    def serve() -> None:
        with server:
            while len(taken) < requests:
                connection, _ = server.accept()
                with connection:
                    taken.extend([1] if connection.recv(65536) else [])

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("kind", [Kheish, AsyncKheish])
def test_a_request_that_a_dying_daemon_left_unanswered_is_repeated_if_it_may_be(
    absent: DaemonProcess, kind: type[Kheish | AsyncKheish]
) -> None:
    def send(request: Request) -> Any:
        client = kind()
        return client.send(request) if isinstance(client, Kheish) else asyncio.run(client.send(request))

    body = {"session_id": "s", "cwd": str(absent.work)}
    with dying_daemon(absent.socket), pytest.raises(DaemonUnreachable) as raised:
        send(Request("POST", "/v1/sessions", body=body))
    assert raised.value.details == {"is_absent": False, "is_broken": True}, "it may have taken effect"
    with dying_daemon(absent.socket):
        made = send(Request("POST", "/v1/sessions", body=body, headers={"Idempotency-Key": "key"}))
    assert made["session_id"] == "s"
    end(signal.SIGKILL)
    with dying_daemon(absent.socket, requests=2):
        assert send(Request("GET", "/v1/sessions/s"))["session_id"] == "s", "also where it took long to die"


def watch_spawns(monkeypatch: pytest.MonkeyPatch, on_spawn: Callable[[Any], None]) -> None:
    """Tells of each process that this one starts, in the thread that starts it."""
    spawn = subprocess.Popen

    def watched(*arguments: Any, **options: Any) -> Any:
        child: Any = spawn(*arguments, **options)
        on_spawn(child)
        return child

    monkeypatch.setattr(subprocess, "Popen", watched)


def test_a_daemon_that_is_just_leaving_is_waited_out(absent: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is gone while it still holds the lock: the next one is started when that is free."""
    refused = threading.Event()

    def on_spawn(child: Any) -> None:
        if not refused.is_set():
            assert child.wait(20) == 6
            refused.set()

    watch_spawns(monkeypatch, on_spawn)
    absent.state.mkdir(mode=0o700)
    (absent.state / "daemon").mkdir(mode=0o700)
    lock = DaemonLock(absent.state).acquire()
    found: list[Json] = []
    thread = threading.Thread(target=lambda: found.append(Kheish().daemon.status()))
    thread.start()
    assert refused.wait(20)
    lock.release()
    thread.join(30)
    assert [status["status"] for status in found] == ["ready"]


class Follower(threading.Thread):
    """Follows a session until it is ended; in either client."""

    def __init__(self, client: Kheish | AsyncKheish, session_id: str) -> None:
        super().__init__()
        self._client = client
        self._session_id = session_id
        self.events: list[StreamEvent] = []
        self.synced = threading.Semaphore(0)
        self.started = threading.Semaphore(0)

    def run(self) -> None:
        events = self._client.events(session_id=self._session_id)
        if isinstance(self._client, Kheish):
            for event in events:  # type: ignore[union-attr]
                if self._note(event):
                    return
        else:
            asyncio.run(self._read(events))

    async def _read(self, events: Any) -> None:
        async with contextlib.aclosing(events):
            async for event in events:
                if self._note(event):
                    return

    def _note(self, event: StreamEvent) -> bool:
        self.events.append(event)
        if event.event == "sync":
            self.synced.release()
        types = [e["type"] for e in event.data.get("events", ())]
        if "run.started" in types:
            self.started.release()
        return "session.ended" in types

    def seqs(self) -> list[int]:
        return [event.data["seq"] for event in self.events if event.event == "record"]


@pytest.mark.parametrize("kind", [Kheish, AsyncKheish])
def test_a_follower_starts_a_daemon_that_died_and_misses_nothing(
    absent: DaemonProcess, monkeypatch: pytest.MonkeyPatch, kind: type[Kheish | AsyncKheish]
) -> None:
    """Its run is owed, so that somebody has to. One that was stopped on purpose is waited for, and started by hand."""
    by_hand: list[bool] = []
    watch_spawns(monkeypatch, lambda _: by_hand.append(threading.current_thread() is threading.main_thread()))
    plain = Kheish(start=False)
    Kheish().sessions.create("s", permission_mode="bypass")
    follower = Follower(kind(), "s")
    follower.start()
    assert follower.synced.acquire(timeout=20)
    run_id = plain.sessions.submit("s", "HANG")["run_id"]
    assert follower.started.acquire(timeout=20)
    end(signal.SIGKILL)
    assert follower.synced.acquire(timeout=20), "nobody else started it"
    assert plain.daemon.status()["generation"] == 2
    assert plain.runs.get(run_id)["status"] == "running", "and the run goes on"
    end(signal.SIGTERM)
    Kheish().daemon.status()
    assert follower.synced.acquire(timeout=20)
    end(signal.SIGKILL)
    assert follower.synced.acquire(timeout=20), "one that dies after that is started again"
    plain.sessions.end("s")
    follower.join(20)
    assert not follower.is_alive()
    total = plain.sessions.get("s")["seq"]
    assert follower.seqs() == list(range(1, total + 1))
    assert [event.event for event in follower.events].count("bye") == 1
    assert by_hand == [True, False, True, False] and plain.daemon.status()["generation"] == 4


def test_a_follower_that_starts_nothing_waits_for_the_next_daemon(own: DaemonProcess) -> None:
    session = own.session("s", "bypass")
    followers = [Follower(kind(own.socket, start=False), session) for kind in (Kheish, AsyncKheish)]
    for follower in followers:
        follower.start()
    for _ in range(2):
        assert all(follower.synced.acquire(timeout=20) for follower in followers)
        own.submit(session, "SHELL")
        assert all(follower.started.acquire(timeout=20) for follower in followers)
        own.kill()
        own.start()
    own.finish(own.submit(session, "AFTER"))
    own.client.sessions.end(session)
    for follower in followers:
        follower.join(20)
        assert not follower.is_alive()
        assert [e.data for e in follower.events if e.event == "record"] == own.records(session)
