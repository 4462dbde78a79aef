"""Plain HTTP over the daemon's socket, by the standard library: another hand than the product's client."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.daemon_process import DaemonProcess

TIMEOUT_S = 30.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Frame(NamedTuple):
    """A server-sent event as it was sent; `id` is None where it has none."""

    event: str
    id: str | None
    data: Any


class Connection(http.client.HTTPConnection):
    """One connection to the daemon; HTTP/1.1 keeps it alive."""

    def __init__(self, daemon: DaemonProcess) -> None:
        super().__init__("kheish", timeout=TIMEOUT_S)
        self._path = str(daemon.socket)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(self._path)
        self.sock.settimeout(TIMEOUT_S)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """`body`: bytes as they are, anything else as JSON. Header names are written with `_` for `-`."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        return read_answer(self.getresponse())


def read_answer(response: http.client.HTTPResponse) -> Answer:
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def ask(daemon: DaemonProcess, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    connection = Connection(daemon)
    try:
        return connection.ask(method, path, body, **headers)
    finally:
        connection.close()


@contextlib.contextmanager
def connect(daemon: DaemonProcess) -> Iterator[socket.socket]:
    """A bare connection."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(daemon.socket))
        connection.settimeout(TIMEOUT_S)
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Until the daemon hangs up."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def exchange(daemon: DaemonProcess, data: bytes) -> Answer:
    """Sends these bytes and reads the first answer."""
    with connect(daemon) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return read_answer(response)


def refusal(answer: Answer) -> tuple[int, str]:
    """Status and code of a problem, after a look at its form."""
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem = answer.json
    assert problem["status"] == answer.status
    assert problem["title"] == http.client.responses[answer.status] and problem["type"] == "about:blank"
    assert problem["detail"]
    return answer.status, problem["code"]


class Stream:
    """A stream that is read frame by frame."""

    def __init__(self, daemon: DaemonProcess, path: str, last_id: str | None = None) -> None:
        self._connection = Connection(daemon)
        self.retry_ms: int | None = None
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        self._connection.request("GET", path, headers=headers)
        self.response = self._connection.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.getheader("content-type") == "text/event-stream"

    def send(self, data: bytes) -> None:
        """More bytes on the connection of the stream."""
        self._connection.sock.sendall(data)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[Frame]:
        """Until the daemon ends the stream. A frame is the lines before an empty one."""
        fields: dict[str, str] = {}
        while line := self.response.readline():
            text = line.decode("utf-8").removesuffix("\n")
            if text:
                name, _, value = text.partition(": ")
                assert name not in fields, f"{name} twice in a frame"
                fields[name] = value
            elif fields:
                if self.retry_ms is None:
                    self.retry_ms = int(fields.pop("retry"))
                assert set(fields) <= {"id", "event", "data"}, fields
                yield Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))
                fields = {}

    def until(self, event: str) -> list[Frame]:
        """The frames up to and with the first of this kind."""
        frames = []
        for frame in self:
            frames.append(frame)
            if frame.event == event:
                return frames
        raise AssertionError(f"the stream ended without {event}: {[f.event for f in frames]}")

    def read_types(self, event_type: str) -> list[Frame]:
        """The frames up to and with the first record that holds an event of this type."""
        frames = []
        for frame in self:
            frames.append(frame)
            if frame.event == "record" and any(e["type"] == event_type for e in frame.data["events"]):
                return frames
        raise AssertionError(f"the stream ended without {event_type}: {[f.event for f in frames]}")
