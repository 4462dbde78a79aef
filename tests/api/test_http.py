"""The socket itself: whatever bytes arrive, the daemon stays healthy and answers the next request."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kheish.limits import CONNECTIONS_MAX, MIB, REQUEST_BODY_BYTES_MAX, SUBSCRIBERS_MAX
from tests.api.raw_http import Connection, Stream, ask, connect, exchange, read_answer, refusal
from tests.daemon_process import DaemonProcess

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def healthy(api: DaemonProcess) -> Iterator[None]:
    """After every test the daemon is the same process, answers, and has no word of a fault in its log."""
    yield
    assert ask(api, "GET", "/healthz").json == {"status": "ok"}
    assert ask(api, "GET", "/v1/status").json["pid"] == api.pid
    log = (api.state / "daemon" / "daemon.log").read_text()
    assert "Traceback" not in log, log[-3000:]


class _Bytes:
    """Bytes in the place of a socket, for http.client."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_to_end(connection: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


GARBAGE = [
    b"\0",
    b"\xff" * 100_000,
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /healthz HTTP/9.9\r\n\r\n",
    b"GET /h\xc3\xa9 HTTP/1.1\r\n\r\n",
    b"GET /\0 HTTP/1.1\r\n\r\n",
    b"get /healthz HTTP/1.1\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nNo colon\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA: b\0c\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nA : b\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"POST /v1/sessions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    b"POST /v1/sessions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/sessions HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/sessions HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/sessions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    b"POST /v1/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}x0\r\n\r\n",
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_no_request_is_answered_with_a_problem_and_a_hang_up(api: DaemonProcess, data: bytes) -> None:
    with connect(api) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    response = http.client.HTTPResponse(_Bytes(answer))  # type: ignore[arg-type]
    response.begin()
    found = read_answer(response)
    assert refusal(found) == (400, "malformed_request")
    assert found.headers["connection"] == "close"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /v1/sessions HTTP/1.1\r\n"]))
def test_random_bytes_do_no_harm(api: DaemonProcess, data: bytes, before: bytes) -> None:
    with connect(api) as connection:
        connection.sendall(before + data + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        read_to_end(connection)


@pytest.mark.parametrize(
    "half",
    [
        b"",
        b"G",
        b"GET /v1/sta",
        b"GET /v1/status HTTP/1.1\r\nHost: x",
        b"POST /v1/sessions HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
        b'POST /v1/sessions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{"session_id":"half","cwd":"/"}',
        b'POST /v1/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n{"session_id":"half","cwd":"/"',
        b"POST /v1/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    ],
)
def test_half_a_request_is_no_request(api: DaemonProcess, half: bytes) -> None:
    with connect(api) as connection:
        connection.sendall(half)
        assert ask(api, "GET", "/healthz").status == 200, "nobody waits for it"
    with connect(api) as connection:
        connection.sendall(half)
        connection.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 2" not in read_to_end(connection)
    assert refusal(ask(api, "GET", "/v1/sessions/half")) == (404, "session_not_found")


def test_a_request_may_come_byte_by_byte(api: DaemonProcess) -> None:
    body = json.dumps({"session_id": "bytewise", "cwd": str(api.work)}).encode()
    data = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with connect(api) as connection:
        for position in range(len(data)):
            connection.sendall(data[position : position + 1])
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert response.status == 201


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_body_may_be_chunked(api: DaemonProcess, size: int) -> None:
    body = json.dumps({"session_id": f"chunked-{size}", "cwd": str(api.work)}).encode()
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    data = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nTrailer: x\r\n\r\n"
    answer = exchange(api, b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert answer.status == 201 and answer.json["session_id"] == f"chunked-{size}"


def test_a_large_head_is_refused(api: DaemonProcess) -> None:
    line = b"X-Long: " + b"x" * 1000 + b"\r\n"
    for data in (b"GET /" + b"x" * MIB, b"GET / HTTP/1.1\r\nX: " + b"x" * MIB, b"GET / HTTP/1.1\r\n" + line * 1000):
        assert refusal(exchange(api, data)) == (431, "head_too_large")
    ordinary = b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + line * 50 + b"\r\n"
    assert exchange(api, ordinary).status == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(api: DaemonProcess) -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    said = exchange(api, head % (REQUEST_BODY_BYTES_MAX + 1))
    assert refusal(said) == (413, "body_too_large") and said.json["limit"] == REQUEST_BODY_BYTES_MAX
    assert said.headers["connection"] == "close", "the rest of the body is not waited for"
    endless = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    endless += (b"100000\r\n" + b" " * MIB + b"\r\n") * (REQUEST_BODY_BYTES_MAX // MIB + 1)
    assert refusal(exchange(api, endless)) == (413, "body_too_large")
    with connect(api) as connection, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(head % (1024 * MIB))
        sent = 0
        while sent < 64 * MIB:
            sent += connection.send(b" " * MIB)
        raise AssertionError("it reads on")
    exact = b'{"session_id":"exact","cwd":"/"}'.ljust(REQUEST_BODY_BYTES_MAX)
    assert exchange(api, head % len(exact) + exact).status == 201, "the limit itself is allowed"


def test_expect_continue_is_answered_only_where_the_body_is_wanted(api: DaemonProcess) -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
    with connect(api) as connection:
        connection.sendall(head % 2)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(b"{}")
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    with connect(api) as connection:
        connection.sendall(head % (REQUEST_BODY_BYTES_MAX + 1))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("path", ["/healthz", "/v1/status", "/v1/sessions/nobody", "/v1/openapi.json", "/nowhere"])
def test_head_is_get_without_a_body(api: DaemonProcess, path: str) -> None:
    connection = Connection(api)
    got = connection.ask("GET", path)
    head = connection.ask("HEAD", path)
    assert head.status == got.status and head.body == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/v1/status":
        assert head.headers["content-length"] == str(len(got.body))
    assert connection.ask("GET", "/healthz").status == 200, "the connection goes on"


def test_head_of_a_stream_opens_none(api: DaemonProcess) -> None:
    session = api.session("head")
    connection = Connection(api)
    for path in ("/v1/events/stream", f"/v1/sessions/{session}/stream"):
        answer = connection.ask("HEAD", path)
        assert answer.status == 200 and answer.headers["content-type"] == "text/event-stream"
    assert connection.ask("HEAD", "/v1/sessions/nobody/stream").status == 404
    assert connection.ask("GET", "/v1/status").json["subscribers"] == 0


def test_an_answer_comes_in_one_piece(api: DaemonProcess) -> None:
    with connect(api) as connection:
        for _ in range(20):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: kheish\r\n\r\n")
            assert connection.recv(65536).endswith(b'\r\n\r\n{"status":"ok"}')


def test_a_connection_is_kept_for_the_next_request(api: DaemonProcess) -> None:
    connection = Connection(api)
    connection.connect()
    first = connection.sock
    for status, path in ((200, "/healthz"), (404, "/nowhere"), (405, "/v1/inbox"), (200, "/v1/status")):
        assert connection.ask("POST" if status == 405 else "GET", path).status == status
        assert connection.sock is first
    closing = ask(api, "GET", "/healthz", Connection="close")
    assert closing.headers["connection"] == "close"


def test_pipelined_requests_are_answered_in_order(api: DaemonProcess) -> None:
    """More than one read of the daemon holds, so that a head is cut in the middle of many whole ones."""
    paths = [f"/v1/sessions/{'n' * 120}-{number}" for number in range(2_000)]
    data = b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    with connect(api) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        file = connection.makefile("rb")
        for path in paths:
            assert file.readline() == b"HTTP/1.1 404 Not Found\r\n"
            headers = http.client.parse_headers(file)
            assert path.rpartition("/")[2] in json.loads(file.read(int(headers["content-length"])))["detail"]
        sender.join()


def test_pipelined_commands_are_carried_out_in_order(api: DaemonProcess) -> None:
    session = api.session("pipeline")
    data = b""
    for number in range(50):
        body = json.dumps({"pattern": f"tool_{number}", "behavior": "deny"}).encode()
        data += b"POST /v1/sessions/pipeline/rules HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with connect(api) as connection:
        connection.sendall(data)
        file = connection.makefile("rb")
        for _ in range(50):
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            file.read(int(http.client.parse_headers(file)["content-length"]))
    rules = ask(api, "GET", f"/v1/sessions/{session}").json["rules"]
    assert [rule["pattern"] for rule in rules] == [f"tool_{number}" for number in range(50)]


def test_a_client_that_leaves_takes_nothing_with_it(api: DaemonProcess) -> None:
    """It leaves in a stream, in an answer, and while it waits for its run."""
    session = api.session("leave")
    stream = Stream(api, f"/v1/sessions/{session}/stream")
    stream.until("sync")
    stream.__exit__()
    with connect(api) as connection:
        connection.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    body = b'{"content":"SHELL"}'
    with connect(api) as connection:
        connection.sendall(
            b"POST /v1/sessions/leave/input HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        request_id = api.until(session, "approval.requested")["request_id"]
    hang = api.session("hang")
    body = b'{"content":"HANG"}'
    with connect(api) as connection:
        connection.sendall(
            b"POST /v1/sessions/hang/input HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        api.until(hang, "run.started")
    assert any(ask(api, "GET", "/v1/status").json["subscribers"] == 0 for _ in range(1_000)), "their places are free"
    answer = ask(api, "POST", f"/v1/approvals/{request_id}", {"resolution": "allow"})
    assert api.finish(answer.json["run_id"])["status"] == "completed"


def test_an_unasked_upgrade_is_an_ordinary_request(api: DaemonProcess) -> None:
    answer = ask(api, "GET", "/healthz", Connection="upgrade", Upgrade="websocket", Sec_WebSocket_Key="x")
    assert answer.status == 200


def test_more_connections_than_there_may_be_are_told_so(api: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS_MAX):
            stack.enter_context(connect(api))
        refused = ask(api, "GET", "/v1/status")
        assert refusal(refused) == (503, "too_many_connections") and refused.headers["connection"] == "close"
    assert any(ask(api, "GET", "/v1/status").status == 200 for _ in range(1_000)), "room again when they left"


def test_more_readers_than_there_may_be_are_told_so(api: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(SUBSCRIBERS_MAX):
            stack.enter_context(Stream(api, "/v1/events/stream")).until("sync")
        assert refusal(ask(api, "GET", "/v1/events/stream")) == (409, "too_many_subscribers")
        assert ask(api, "GET", "/healthz").status == 200
    assert any(ask(api, "GET", "/v1/status").json["subscribers"] == 0 for _ in range(1_000))


def test_only_its_owner_reaches_the_socket(api: DaemonProcess) -> None:
    assert os.stat(api.socket).st_mode & 0o777 == 0o600
    assert os.stat(api.socket.parent).st_mode & 0o777 == 0o700
