"""The client against a listener that misbehaves: what it raises, and that it says why."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import ApiError, AsyncKheish, DaemonUnreachable, Kheish
from kheish.client.errors import api_error
from kheish.client.http1 import Request

Serve = Callable[[socket.socket], None]
Ask = Callable[[Path], Any]
PROBLEM = json.dumps(
    {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "code": "busy",
        "detail": "cannot",
        "path": "$.x",
        "n": 7,
    }
).encode()
HEAD = b"HTTP/1.1 409 Conflict\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n\r\n" % len(PROBLEM)


@contextlib.contextmanager
def listener(path: Path, serve: Serve) -> Iterator[None]:
    """Serves each connection with `serve`, then closes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def answer(*pieces: bytes) -> Serve:
    """Reads the head of a request, and answers in these pieces, one read each."""

    def serve(connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        for piece in pieces:
            connection.sendall(piece)

    return serve


def blocking(path: Path) -> Any:
    return Kheish(path).daemon.status()


def awaited(path: Path) -> Any:
    async def ask() -> Any:
        return await AsyncKheish(path).daemon.status()

    return asyncio.run(ask())


def streamed(path: Path) -> Any:
    return [event.data for event in Kheish(path, start=False).events()]


def streamed_async(path: Path) -> Any:
    async def ask() -> Any:
        return [event.data async for event in AsyncKheish(path, start=False).events()]

    return asyncio.run(ask())


ANSWERS = pytest.mark.parametrize("ask", [blocking, awaited])
ALL = pytest.mark.parametrize("ask", [blocking, awaited, streamed, streamed_async])


@ALL
def test_a_problem_is_raised_with_all_it_says(tmp_path: Path, ask: Ask) -> None:
    """Also where it comes in pieces."""
    for pieces in ([HEAD + PROBLEM], [HEAD, PROBLEM[:10], PROBLEM[10:]], [bytes([b]) for b in HEAD + PROBLEM]):
        with listener(tmp_path / f"s{len(pieces)}", answer(*pieces)), pytest.raises(ApiError) as raised:
            ask(tmp_path / f"s{len(pieces)}")
        error = raised.value
        assert (error.status, error.code, error.message) == (409, "busy", "cannot")
        assert error.details == {"path": "$.x", "n": 7}


@ALL
def test_an_error_that_is_no_problem_is_raised_too(tmp_path: Path, ask: Ask) -> None:
    for name, body in (("empty", b""), ("text", b"Internal Server Error"), ("list", b"[1]"), ("bytes", b"\xff")):
        head = b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % len(body)
        with listener(tmp_path / name, answer(head + body)), pytest.raises(ApiError) as raised:
            ask(tmp_path / name)
        assert (raised.value.status, raised.value.code) == (500, "http_error") and raised.value.message


@ANSWERS
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n\xff",
    ],
)
def test_a_broken_answer_is_an_unreachable_daemon(tmp_path: Path, ask: Ask, data: bytes) -> None:
    with listener(tmp_path / "s", answer(data)), pytest.raises(DaemonUnreachable) as raised:
        ask(tmp_path / "s")
    assert raised.value.details["is_absent"] is False, "it is there, so another is not started"
    assert str(tmp_path / "s") in raised.value.message


_STRANGER = """\
import os, socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
os.setuid(int(sys.argv[2]))
server.listen()
print("listening", flush=True)
print(server.accept()[0].recv(65536))
"""


@ANSWERS
def test_nothing_is_said_to_the_daemon_of_another_user(tmp_path: Path, ask: Ask) -> None:
    """The path may be one that anybody could take first."""
    if os.geteuid():
        pytest.skip("takes root to be two users")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "socket"))
        command = [sys.executable, "-c", _STRANGER, str(server.fileno()), "65534"]
        stranger = subprocess.Popen(command, pass_fds=[server.fileno()], stdout=subprocess.PIPE, text=True)
    with stranger:
        assert stranger.stdout is not None and stranger.stdout.readline() == "listening\n"
        with pytest.raises(DaemonUnreachable, match="uid 65534"):
            ask(tmp_path / "socket")
        assert stranger.communicate(timeout=10)[0] == "b''\n"


@ANSWERS
def test_an_absent_daemon_is_told_from_a_broken_one(tmp_path: Path, ask: Ask) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    for name, is_absent in (("none", True), ("dead", True), ("file", True), ("x" * 200, False)):
        with pytest.raises(DaemonUnreachable) as raised:
            ask(tmp_path / name)
        assert raised.value.details["is_absent"] is is_absent, name


@ANSWERS
def test_the_answer_counts_although_the_request_was_not_read(tmp_path: Path, ask: Ask) -> None:
    """The daemon hangs up on a body that is too large; the client still tells why."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(HEAD + PROBLEM)

    body = {"x": "x" * 8_000_000}

    async def ask_async() -> Any:
        return await AsyncKheish(tmp_path / "s").send(Request("POST", "/v1/sessions", body=body))

    with listener(tmp_path / "s", hang_up), pytest.raises(ApiError) as raised:
        if ask is blocking:
            Kheish(tmp_path / "s").send(Request("POST", "/v1/sessions", body=body))
        else:
            asyncio.run(ask_async())
    assert raised.value.code == "busy"


@ANSWERS
def test_a_silent_daemon_is_not_waited_for_for_ever(tmp_path: Path, ask: Ask) -> None:
    over = threading.Event()
    request = Request("GET", "/v1/status", timeout_s=0.05)

    def stay_silent(connection: socket.socket) -> None:
        over.wait(10)

    async def ask_async() -> Any:
        return await AsyncKheish(tmp_path / "s").send(request)

    with listener(tmp_path / "s", stay_silent):
        with pytest.raises(DaemonUnreachable) as raised:
            if ask is blocking:
                Kheish(tmp_path / "s").send(request)
            else:
                asyncio.run(ask_async())
        over.set()
    assert raised.value.details["is_absent"] is False


def test_only_a_request_that_waits_for_a_run_has_no_time_limit() -> None:
    sent: list[Request] = []

    class Recorded(Kheish):
        def send(self, request: Request) -> Any:
            sent.append(request)

    kheish = Recorded(Path("/nowhere"))
    kheish.sessions.input("s", "go")
    kheish.sessions.submit("s", "go")
    kheish.runs.get("r")
    assert [request.timeout_s is None for request in sent] == [True, False, False]


@ANSWERS
def test_a_full_backlog_is_waited_out(tmp_path: Path, ask: Ask) -> None:
    ok = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{"pid": 12}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server, contextlib.ExitStack() as stack:
        server.bind(str(tmp_path / "s"))
        server.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.setblocking(False)
            try:
                waiting.connect(str(tmp_path / "s"))
            except BlockingIOError:
                break
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(ask(tmp_path / "s")))
        thread.start()
        thread.join(0.05)
        assert thread.is_alive() and not found
        while thread.is_alive():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(0.05)
                if connection.recv(65536):
                    connection.sendall(ok)
                    thread.join(10)
    assert found == [{"pid": 12}]


@pytest.mark.parametrize("code", ["endpoint_not_found", "method_not_allowed"])
def test_what_the_daemon_does_not_know_is_met_with_a_hint_to_replace_it(code: str) -> None:
    problem = api_error(404, json.dumps({"code": code, "detail": "cannot find /v1/new"}).encode())
    assert "cannot find /v1/new" in problem.message and "`kheish daemon restart`" in problem.message
    other = api_error(404, json.dumps({"code": "run_not_found", "detail": "cannot find run run_1"}).encode())
    assert other.message == "cannot find run run_1"
