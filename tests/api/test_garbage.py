"""Whatever clients do to the socket, in whatever numbers, the daemon keeps its places, its memory and its work."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.api.app import App
from kheish.api.server import Server
from kheish.debug.service import Debugging
from kheish.limits import CONNECTIONS_MAX, KIB, MIB
from kheish.secrets.master_key import MasterKey
from kheish.secrets.service import Secrets
from tests.api.conftest import obey
from tests.api.raw_http import Stream, ask, connect, exchange, read_all, read_answer, refusal
from tests.daemon_process import DaemonProcess
from tests.runtime.kernel import Kernel, reply

pytestmark = pytest.mark.slow

HOST = b"Host: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
START = "from kheish.cli.main import main; main()"
IMPATIENT = f"import kheish.limits as limits; limits.CLIENT_TIMEOUT_S = 0.5; {START}"
SEED = 1


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon that waits half a second for a client where others wait a minute."""
    made = obey(DaemonProcess(tmp_path_factory.mktemp("impatient")))
    try:
        yield made.start(argv=[sys.executable, "-c", IMPATIENT, "daemon", "run"])
    finally:
        made.close()


@pytest.fixture(autouse=True)
def no_trace(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test the daemons have no word of a fault in their logs."""
    yield
    for name in {"api", "impatient"} & set(request.fixturenames):
        daemon: DaemonProcess = request.getfixturevalue(name)
        assert ask(daemon, "GET", "/healthz").json == {"status": "ok"}
        log = (daemon.state / "daemon" / "daemon.log").read_text()
        assert "Traceback" not in log and '"error"' not in log, log[-3000:]


def answers(data: bytes) -> list[tuple[int, bytes]]:
    """The (status, body) of the answers that these bytes are, whole and one behind the other."""
    found = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ") and end, head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"content-length"])
        assert len(data) >= length
        found.append((int(head[9:12]), data[:length]))
        data = data[length:]
    return found


def told(daemon: DaemonProcess, data: bytes) -> list[tuple[int, str]]:
    """Status and code of all answers to these bytes, until the daemon hangs up."""
    with connect(daemon) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        return [(status, json.loads(body).get("code", "")) for status, body in answers(read_all(connection))]


def rss_bytes(daemon: DaemonProcess) -> int:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * KIB


# -- garbage --------------------------------------------------------------------------------------------------------


REQUESTS = (
    GET,
    b"GET /v1/sessions?limit=3&page=true HTTP/1.1\r\n" + HOST + b"Kheish-Origin: me\r\n\r\n",
    b"GET /v1/sessions/nobody/stream?cursor=1 HTTP/1.1\r\n" + HOST + b"Last-Event-ID: 3\r\n\r\n",
    POST + b'Content-Length: 32\r\n\r\n{"session_id":"no","cwd":"/nope"}'[:-1],
    POST + b'Transfer-Encoding: chunked\r\n\r\n5;x=y\r\n{"a":\r\n2\r\n1}\r\n0\r\nTrailer: t\r\n\r\n',
    b"DELETE /v1/sessions/nobody/queue/run_x HTTP/1.1\r\n" + HOST + b"Idempotency-Key: k\r\n\r\n",
)
METHODS = (b"GET", b"POST", b"get", b"PRI", b"CONNECT", b"OPTIONS", b"TRACE", b"M-SEARCH", b"", b"G\0T", b"\xff" * 20)
TARGETS = (
    b"/healthz", b"*", b"", b"//", b"/v1/sessions/%00", b"/v1/sessions/..%2f..%2fetc%2fpasswd", b"/v1/sessions/%2e%2e",
    b"/v1/../../etc/passwd", b"/v1/runs/..", b"/v1/sessions/a%0d%0aX:%20y", b"/v1/sessions/%zz", b"/v1/sessions/%",
    b"http://kheish/healthz", b"http://", b"https://[::1/healthz", b"kheish:80", b"/v1/sessions?" + b"limit=1&" * 2_000,
    b"/v1/sessions?cursor=" + b"%00" * 500, b"/" + b"a/" * 5_000, b"/h\xc3\xa9", b"/#?#", b"/v1/blobs/" + b"0" * 64,
)  # fmt: skip
VERSIONS = (b" HTTP/1.1", b" HTTP/1.0", b" HTTP/0.9", b"", b" HTTP/2.0", b" HTTP/1.1x", b" RTSP/1.0", b"  HTTP/1.1")
FIELDS = (
    b"Content-Length: 2", b"Content-Length: -2", b"Content-Length: 3", b"Content-Length: 0x2",
    b"Expect: 100-continue", b"Connection: close", b"Connection: upgrade\r\nUpgrade: h2c", b"No colon", b": no name",
    b"Content-Length: " + b"9" * 40, b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"A: b\r\n folded",
    b"Transfer-Encoding: chunked, identity",
    b"A : b", b"A\0: b", b"A: \x01\xff", b"X: " + b"x" * 70_000, b"\r\n".join([b"X: y"] * 3_000), b"Host: y",
    b"Last-Event-ID: \xff\xfe", b"Idempotency-Key: " + b"k" * 300, b"Kheish-Origin: \xf0\x9f\x98\x80",
)  # fmt: skip
BODIES = (
    b"", b"{}", b"{", b"2\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}", b"zz\r\n", b"ffffffffffffffffff\r\n{}", b"2\r\n{}0\r\n\r\n",
    b"2;" + b"x" * 70_000 + b"\r\n{}\r\n", b"0\r\n" + b"T: t\r\n" * 100 + b"\r\n", b"2\n{}\n0\n\n", b"\xff" * 500,
)  # fmt: skip
OTHER_PROTOCOLS = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x42" * 500,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET /healthz\r\n",
    b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"EHLO x\r\n",
    b"\r\n" * 40_000,
)


def garbage(chance: random.Random) -> bytes:
    """Bytes that may be a request, were one, or never meant to be one."""
    kind = chance.randrange(8)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 400))
    if kind == 1:
        return chance.choice(OTHER_PROTOCOLS)
    if kind == 2:
        fields = b"\r\n".join(chance.choices(FIELDS, k=chance.randrange(4)))
        line = chance.choice(METHODS) + b" " + chance.choice(TARGETS) + chance.choice(VERSIONS)
        return line + b"\r\n" + fields + b"\r\n\r\n" + chance.choice(BODIES)
    if kind == 3:
        return CHUNKED + b"".join(chance.choices(BODIES, k=3))
    data = bytearray(b"".join(chance.choices(REQUESTS, k=chance.randrange(1, 4))))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data))
        edit = chance.randrange(4)
        if edit == 0:
            data[at] = chance.randrange(256)
        elif edit == 1:
            del data[at : at + chance.randrange(1, 20)]
        elif edit == 2:
            data[at:at] = chance.randbytes(chance.randrange(1, 8))
        else:
            data[at:at] = data[at : at + chance.randrange(1, 40)]
        data = data or bytearray(b"\n")
    return bytes(data)


def test_ten_thousand_requests_of_garbage_do_no_harm(api: DaemonProcess) -> None:
    """Each on a connection of its own, many at a time; a third of the clients leaves without a look at the answer."""
    chance = random.Random(SEED)
    statuses: dict[int, int] = {}
    log = api.state / "daemon" / "daemon.log"
    while not (logged := log.read_bytes()):  # what it says of its start is written beside it
        time.sleep(0.01)
    for _ in range(200):
        with contextlib.ExitStack() as stack:
            batch = [stack.enter_context(connect(api)) for _ in range(50)]
            for connection in batch:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(garbage(chance))
                    connection.shutdown(socket.SHUT_WR)
            for connection in batch[: chance.randrange(20, 50)]:
                for line in read_all(connection).split(b"\r\n"):
                    if line.startswith(b"HTTP/1.1 "):
                        statuses[int(line[9:12])] = statuses.get(int(line[9:12]), 0) + 1
    assert set(statuses) <= {100, 200, 400, 404, 405, 413, 431}, statuses
    assert statuses[400] > 2_000 and statuses[431] and statuses[404] and statuses[200]
    assert ask(api, "GET", "/v1/status").json["pid"] == api.pid
    assert ask(api, "GET", "/v1/sessions").json == []
    assert log.read_bytes() == logged, "what others do wrong does not push out what the log is for"


def test_what_was_owed_is_answered_before_garbage_behind_it_is_refused(api: DaemonProcess) -> None:
    session = api.session("owed")
    body = b'{"pattern":"bash","behavior":"deny"}'
    rule = b"POST /v1/sessions/owed/rules HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    bad_body = CHUNKED + b"zz\r\n"
    malformed = (400, "malformed_request")
    assert told(api, GET + b"garbage\r\n\r\n") == [(200, ""), malformed]
    assert told(api, GET + bad_body) == [(200, ""), malformed]
    assert told(api, rule + GET + GET + bad_body + GET) == [(200, ""), (200, ""), (200, ""), malformed]
    assert [rule["pattern"] for rule in ask(api, "GET", f"/v1/sessions/{session}").json["rules"]] == ["bash"]
    run_id = api.submit(session, "HANG")
    with Stream(api, f"/v1/runs/{run_id}/stream") as stream:
        stream.until("sync")
        stream.send(b"garbage\r\n\r\n" * 10_000)
        ask(api, "POST", f"/v1/runs/{run_id}/cancel", {})
        assert [frame.event for frame in stream] == ["record", "bye"], "and none in the middle of a stream"


def test_an_answer_that_came_before_its_body_is_the_only_one(api: DaemonProcess) -> None:
    request = b"POST /nowhere HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    with connect(api) as connection:
        connection.sendall(request)
        first = connection.recv(65536)
        connection.sendall(b"zz\r\n")
        assert [status for status, _ in answers(first + read_all(connection))] == [404]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n" * 100_000,
        b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nX: " + b"x" * MIB,
        CHUNKED + b"2;" + b"x" * MIB,
        CHUNKED + b"0" * MIB,
        CHUNKED + b"2\r\n{}\r\n0\r\n" + b"Trailer: t\r\n" * 100_000,
        CHUNKED + b"2\r\n{}\r\n0\r\nTrailer: " + b"x" * MIB,
    ],
    ids=["empty lines", "target", "fields", "field", "chunk extension", "chunk size", "trailers", "trailer"],
)
def test_nothing_but_a_body_may_be_long(api: DaemonProcess, data: bytes) -> None:
    assert refusal(exchange(api, data)) == (431, "head_too_large")


def test_a_trailer_is_no_field_of_the_head(api: DaemonProcess) -> None:
    body = b'{"session_id":"trailer","cwd":"/"}'
    data = CHUNKED + b"%x\r\n%s\r\n0\r\nKheish-Origin: smuggled\r\nIdempotency-Key: k\r\n\r\n" % (len(body), body)
    assert exchange(api, data).status == 201
    (created,) = api.records("trailer")
    assert created["by"]["origin"] == "http" and "key" not in created["by"]


@pytest.mark.parametrize(
    "target", [b"/healthz", b"http://kheish/healthz", b"http://localhost:80/healthz?", b"/healthz#x"]
)
def test_every_form_of_a_target_finds_its_endpoint(api: DaemonProcess, target: bytes) -> None:
    assert exchange(api, b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n").json == {"status": "ok"}


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(api: DaemonProcess) -> None:
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    assert told(api, GET[:-2] + upgrade + b"\r\n") == [(200, "")], "and a hang-up: no further request would be read"
    body = b'{"session_id":"upgraded","cwd":"/"}'
    for size in (b"Content-Length: %d\r\n\r\n%s", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"):
        refused = told(api, GET + POST + upgrade + size % (len(body), body))
        assert refused == [(200, ""), (400, "malformed_request")], "rather than to lose its body"


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "half",
    [
        b"G",
        b"GET /healthz HTTP/1.1\r\nHost",
        GET + b"GET /hea",
        POST + b"Content-Length: 100\r\n\r\n{",
        CHUNKED + b"1\r\n{\r\n",
        CHUNKED + b"2\r\n{}\r\n0\r\nTrail",
    ],
)
def test_a_request_that_does_not_come_to_its_end_is_given_up(impatient: DaemonProcess, half: bytes) -> None:
    assert told(impatient, half)[-1] == (408, "request_timeout")


@pytest.mark.parametrize(
    ("before", "answered"),
    [
        (b"", []),
        (b"\r\n", []),
        (GET + b"G", [200, 408]),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: 9\r\n\r\n", [404]),
    ],
)
def test_a_client_that_falls_silent_loses_its_connection(
    impatient: DaemonProcess, before: bytes, answered: list[int]
) -> None:
    assert [status for status, _ in told(impatient, before)] == answered


def test_an_empty_line_after_a_request_does_not_keep_a_connection(impatient: DaemonProcess) -> None:
    with connect(impatient) as connection:
        connection.sendall(GET)
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert read_answer(response).json == {"status": "ok"}
        connection.sendall(b"\r\n")
        assert read_all(connection) == b""


def test_a_request_in_drops_has_no_more_time_than_another(impatient: DaemonProcess) -> None:
    with connect(impatient) as connection:
        connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n")
        while not select.select([connection], [], [], 0.01)[0]:
            connection.sendall(b" ")
        assert [status for status, _ in answers(read_all(connection))] == [408]


def test_who_waits_for_the_daemon_is_not_hurried(impatient: DaemonProcess) -> None:
    """It follows a stream and waits for a run, with half of its next request sent, while others run out of time."""
    session = impatient.session("patient")
    body = b'{"content":"HANG"}'
    waits = b"POST /v1/sessions/patient/input HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with Stream(impatient, f"/v1/sessions/{session}/stream") as stream, connect(impatient) as connection:
        stream.until("sync")
        connection.sendall(waits + POST + b"Content-Length: 2\r\n\r\n{")
        stream.read_types("model_call.started")
        for _ in range(3):
            assert told(impatient, b"") == [], "time passes"
        connection.sendall(b"}" + POST + b"Content-Length: 2\r\n\r\n{")
        (run,) = impatient.client.sessions.runs(session)
        ask(impatient, "POST", f"/v1/runs/{run['run_id']}/cancel", {})
        stream.read_types("run.cancelled")
        found = [(status, json.loads(body).get("code")) for status, body in answers(read_all(connection))]
        assert found == [(200, None), (400, "cwd_missing"), (408, "request_timeout")]


def test_silent_clients_do_not_keep_others_out_for_long(impatient: DaemonProcess) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(impatient)) for _ in range(CONNECTIONS_MAX)]
        assert all(not read_all(connection) for connection in silent)
        assert ask(impatient, "GET", "/healthz").status == 200


def test_clients_beyond_the_limit_are_told_so_and_hold_nothing(api: DaemonProcess) -> None:
    """They ask nothing, and are told after two seconds."""
    with contextlib.ExitStack() as stack:
        within = [stack.enter_context(connect(api)) for _ in range(CONNECTIONS_MAX)]
        beyond = [stack.enter_context(connect(api)) for _ in range(200)]
        for connection in beyond:
            ((status, body),) = answers(read_all(connection))
            assert status == 503 and json.loads(body)["code"] == "too_many_connections"
        within[0].sendall(GET)
        assert within[0].recv(4096).startswith(b"HTTP/1.1 200")


def test_the_places_for_being_told_so_are_bounded_too(tmp_path: Path) -> None:
    """In a daemon that gives the crowd all the time it likes."""
    daemon = DaemonProcess(tmp_path)
    patient = f"import kheish.api.server as server; server._CROWD_TIMEOUT_S = 3600; {START}"
    with contextlib.ExitStack() as stack:
        stack.callback(daemon.close)
        daemon.start(argv=[sys.executable, "-c", patient, "daemon", "run"])
        crowd = [stack.enter_context(connect(daemon)) for _ in range(CONNECTIONS_MAX + 130)]
        assert answers(read_all(crowd[-1]))[0][0] == 503, "at once"
        crowd[CONNECTIONS_MAX + 10].sendall(GET)
        assert answers(read_all(crowd[CONNECTIONS_MAX + 10]))[0][0] == 503, "when it asks"
        crowd[0].sendall(GET)
        assert crowd[0].recv(4096).startswith(b"HTTP/1.1 200")


# -- readers that do not read -----------------------------------------------------------------------------------------


def read_frames(data: bytes) -> list[tuple[int, str]]:
    """(seq, id) of the whole records in the chunked answer to a stream's request, wherever it was cut."""
    _, _, data = data.partition(b"\r\n\r\n")
    text = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        text += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    found = []
    for frame in text.split(b"\n\n")[:-1]:
        fields = dict(line.split(b": ", 1) for line in frame.split(b"\n"))
        if fields[b"event"] == b"record":
            found.append((json.loads(fields[b"data"])["seq"], fields[b"id"].decode()))
    return found


def is_hung_up_on(connection: socket.socket) -> bool:
    """Whether the daemon closes it in time, seen without reading."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(10_000))


def test_a_short_answer_that_is_not_read_is_given_up_too(impatient: DaemonProcess) -> None:
    """The kernel holds some of these answers, and the daemon a few kilobytes that it cannot send before it hangs up."""
    with connect(impatient) as connection:
        connection.sendall(GET * 600 + GET[:-2] + b"Connection: close\r\n\r\n")
        assert is_hung_up_on(connection)
        assert read_all(connection).count(b"HTTP/1.1 200") < 600


def test_readers_that_read_nothing_cost_little_and_lose_their_place_and_no_record(impatient: DaemonProcess) -> None:
    """A hundred of them, half in the replay and half live, while far more is written than the daemon keeps for one."""
    session = impatient.session("unread")
    impatient.submit(session, "HANG")
    big = "x" * (60 * KIB)
    for _ in range(100):
        impatient.submit(session, big)
    before_bytes, before_fds = rss_bytes(impatient), fds(impatient)
    with contextlib.ExitStack() as stack:
        readers = []
        for number in range(100):
            readers.append(stack.enter_context(connect(impatient)))
            cursor = "0" if number % 2 else "tail"
            readers[-1].sendall(
                b"GET /v1/sessions/unread/stream?cursor=%s HTTP/1.1\r\n" % cursor.encode() + HOST + b"\r\n"
            )
        highest_bytes = 0
        for _ in range(140):
            impatient.submit(session, big)
            highest_bytes = max(highest_bytes, rss_bytes(impatient))
        assert all(is_hung_up_on(reader) for reader in readers)
        assert ask(impatient, "GET", "/v1/status").json["subscribers"] == 0
        assert fds(impatient) <= before_fds + 2
        total = len(impatient.records(session))
        for number in (0, 1, 98, 99):
            got = read_frames(read_all(readers[number]))
            if not number % 2:
                assert len(got) < 140
            with Stream(impatient, "/v1/sessions/unread/stream", got[-1][1]) as rest:
                seqs = [seq for seq, _ in got] + [f.data["seq"] for f in rest.until("sync") if f.event == "record"]
            assert seqs == list(range(seqs[0], total + 1)) and (seqs[0] == 1 or not number % 2)
    print(f"{(highest_bytes - before_bytes) / MIB:.0f} MiB for 100 readers")
    assert highest_bytes - before_bytes < 100 * MIB


# -- numbers --------------------------------------------------------------------------------------------------------


def fds(daemon: DaemonProcess) -> int:
    """Its open descriptors; 0 where only root may count them, since the daemon lets nobody look into it."""
    with contextlib.suppress(PermissionError):
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))
    return 0


KINDS = (
    b"",
    b"GET /v1/sta",
    GET[:-2],
    POST + b"Content-Length: 1000\r\n\r\n{",
    CHUNKED + b"5\r\n{",
    b"GET /v1/events/stream?cursor=0.0 HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /v1/sessions/s/stream HTTP/1.1\r\n" + HOST + b"\r\n",
    GET * 100,
    b"GET /v1/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n" * 20,
    GET + b"garbage\r\n\r\n",
    *OTHER_PROTOCOLS,
)
"""What is sent on a connection that is then left alone."""


def besiege(path: Path, total: int, chance: random.Random) -> list[socket.socket]:
    """That many connections of every kind; some leave at once with answers unread, which resets them."""
    siege = []
    while len(siege) < total:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(path))
        connection.settimeout(10)
        data = garbage(chance) if chance.random() < 0.3 else chance.choice(KINDS)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.2 else data)
        if chance.random() < 0.3:
            connection.close()
        else:
            siege.append(connection)
    return siege


def test_five_hundred_bad_clients_do_not_disturb_the_good_ones(api: DaemonProcess) -> None:
    session = api.session("s")
    api.finish(api.submit(session, "go"))
    before_bytes, before_fds = rss_bytes(api), fds(api)
    chance = random.Random(SEED)
    followed = []
    is_connected = threading.Event()

    def follow() -> None:
        with Stream(api, f"/v1/sessions/{session}/stream") as stream:
            is_connected.set()
            followed.extend(stream.read_types("session.ended"))

    follower = threading.Thread(target=follow)
    follower.start()
    assert is_connected.wait(30)
    for _ in range(3):
        siege = besiege(api.socket, 500, chance)
        # Those that left are still being seen off.
        assert any(ask(api, "GET", "/healthz").status == 200 for _ in range(1_000))
        drops = [connection for connection in siege if chance.random() < 0.3]
        for _ in range(20):
            assert ask(api, "GET", "/healthz").json == {"status": "ok"}
            assert api.finish(api.submit(session, "go"))["status"] == "completed"
            for connection in drops:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(b"x")
        for connection in siege:
            connection.close()
    ask(api, "POST", f"/v1/sessions/{session}/end", {})
    follower.join(30)
    assert not follower.is_alive()
    assert [f.data for f in followed if f.event == "record"] == api.records(session)
    assert any(ask(api, "GET", "/v1/status").json["subscribers"] == 0 for _ in range(1_000))
    assert any(fds(api) <= before_fds + 2 for _ in range(1_000))
    grown_bytes = rss_bytes(api) - before_bytes
    print(f"{grown_bytes / MIB:.0f} MiB after 1500 bad clients, fds {before_fds} -> {fds(api)}")
    assert grown_bytes < 64 * MIB


async def test_nothing_of_a_connection_outlives_it(tmp_path: Path) -> None:
    """Neither a task nor a descriptor nor a subscription, in a server of this process."""
    async with Kernel(tmp_path / "state", [reply("done")]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        await kernel.until_status(run_id, "completed")
        path = tmp_path / "socket"
        secrets = Secrets(tmp_path, MasterKey(tmp_path / "key", {}, in_keyring=False), kernel.supervisor.clock)
        debugging = Debugging(tmp_path / "debug", kernel.supervisor.clock, "off", list)
        server = Server(App(kernel.supervisor, secrets, debugging, state_root=tmp_path, socket_path=path), path)
        await server.start()
        chance = random.Random(SEED)

        def held() -> tuple[int, int, int]:
            return len(asyncio.all_tasks()), len(os.listdir("/dev/fd")), kernel.supervisor.hub.subscribers_total

        before = held()
        for _ in range(3):
            siege = await asyncio.to_thread(besiege, path, 300, chance)
            assert held()[1] > before[1] + 300
            for connection in siege:
                connection.close()
            async with asyncio.timeout(10):
                while held() != before:
                    await asyncio.sleep(0.01)
        await server.stop()


def test_a_daemon_that_stops_waits_for_no_half_request_and_logs_no_fault(own: DaemonProcess) -> None:
    """Nor for one that does not read its answers, nor for one that has nothing to ask."""
    own.session("s")
    run_id = own.submit("s", "HANG")
    waits = b"POST /v1/sessions/s/interrupt HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\n{"
    unread = b"GET /v1/openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    with contextlib.ExitStack() as stack:
        for data in (b"", b"GET /he", waits, GET + waits, unread * 100, GET + b"garbage\r\n\r\n"):
            stack.enter_context(connect(own)).sendall(data)
        with Stream(own, f"/v1/runs/{run_id}/stream") as stream:
            stream.until("sync")
            assert own.stop() == 0
            assert [frame.event for frame in stream][-1] == "bye"
    log = (own.state / "daemon" / "daemon.log").read_text()
    assert "Traceback" not in log and '"error"' not in log, log[-3000:]
