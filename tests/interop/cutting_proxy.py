"""A way to the daemon for readers of streams that speak TCP, on which connections are cut at chosen places."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import re
import select
import socket
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

_READ_BYTES = 65536
_HOLD_BYTES = 16
"""Longer than any of the places below."""


class Place(NamedTuple):
    """Where a connection is cut: this many bytes into a match of the pattern."""

    name: str
    pattern: bytes
    inside: int


PLACES = (
    Place("before the first byte", rb"\A", 0),
    Place("between CR and LF", rb"\r\n", 1),
    Place("between two newlines", rb"\n\n", 1),
    Place("in a character", rb"[\xc3-\xf4][\x80-\xbf]", 1),
    Place("in an id", rb"\nid: \d\.?\d", 6),
    Place("before an id", rb"\nid: ", 1),
    Place("in the name of a field", rb"\n(data|event): ", 3),
    Place("anywhere", rb"(?s:.)", 0),
)


class Cut:
    """Lets the bytes of a response through up to a place, and counts down to it."""

    def __init__(self, place: Place, countdown: int) -> None:
        self.place = place
        self.is_reached = False
        self._countdown = countdown
        self._pattern = re.compile(place.pattern)
        self._seen = b""

    def feed(self, data: bytes) -> bytes:
        """What may still pass of these bytes."""
        buffer = self._seen + data
        for match in self._pattern.finditer(buffer):
            if match.end() <= len(self._seen) and self._seen:
                continue
            self._countdown -= 1
            if self._countdown <= 0:
                self.is_reached = True
                return data[: max(match.start() + self.place.inside - len(self._seen), 0)]
        self._seen = buffer[-_HOLD_BYTES:]
        return data


class Route:
    """The connections for one path: the first `cuts` of them are cut, all later ones live as long as they like. It is
    through when one of those has carried live text. `spares_head`: none is cut within the head of the answer."""

    def __init__(self, cuts: int, seed: str, *, spares_head: bool = False) -> None:
        self.spares_head = spares_head
        self.cuts_left = cuts
        self.is_through = False
        self.made: Counter[str] = Counter()
        self._random = random.Random(seed)

    def next_cut(self) -> Cut | None:
        if not self.cuts_left:
            return None
        place = self._random.choice(PLACES)
        countdown = self._random.randrange(1, 6000 if place.name == "anywhere" else 12)
        return Cut(place, 1 if place.name == "before the first byte" else countdown)

    def note(self, cut: Cut) -> None:
        self.cuts_left -= 1
        self.made[cut.place.name] += 1


class CuttingProxy:
    """Listens on 127.0.0.1 for one reader. `files`: pages of the same origin. A POST is a report, kept in `reports`."""

    def __init__(self, daemon: Path, routes: dict[str, Route], files: dict[str, bytes], seed: str) -> None:
        self._daemon = daemon
        self._routes = routes
        self._files = files
        self._random = random.Random(seed)
        self.reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.answers: Counter[tuple[str, int]] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = b""
            while b"\r\n\r\n" not in head:
                part = connection.recv(_READ_BYTES)
                if not part:
                    return
                head += part
            head, _, body = head.partition(b"\r\n\r\n")
            method, target, *_ = head.decode("latin-1").split(" ")
            path = target.partition("?")[0]
            if method == "POST":
                self._take_report(connection, head, body)
            elif path in self._files:
                _answer(connection, 200, self._files[path])
            elif path in self._routes:
                self._relay(connection, head, path)
            else:
                _answer(connection, 404)

    def _take_report(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        assert length is not None
        while len(body) < int(length.group(1)):
            body += connection.recv(_READ_BYTES)
        self.reports.put(json.loads(body))
        _answer(connection, 204)

    def _relay(self, connection: socket.socket, head: bytes, path: str) -> None:
        """A daemon that cannot be reached is a connection that breaks, as it would be without a proxy."""
        route = self._routes[path]
        cut = route.next_cut()
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
            daemon.connect(str(self._daemon))
            daemon.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
            is_first = True
            while True:
                readable, _, _ = select.select([daemon, connection], [], [])
                if connection in readable and not connection.recv(_READ_BYTES):
                    break
                if daemon not in readable:
                    continue
                if not (data := daemon.recv(_READ_BYTES)):
                    break
                if is_first:
                    self.answers[path, int(data[9:12])] += 1
                    if route.spares_head and cut is not None and cut.place is not PLACES[0]:
                        head, end, data = data.partition(b"\r\n\r\n")
                        connection.sendall(head + end)
                    is_first = False
                if cut is not None:
                    data = cut.feed(data)
                elif b"event: delta\n" in data:
                    route.is_through = True
                for piece in self._pieces(data):
                    connection.sendall(piece)
                if cut is not None and cut.is_reached:
                    route.note(cut)
                    if self._random.random() < 0.5:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break

    def _pieces(self, data: bytes) -> list[bytes]:
        """The same bytes in pieces as they may arrive."""
        ends = sorted(self._random.randrange(len(data)) for _ in range(3)) if data else []
        return [piece for at, end in zip([0, *ends], [*ends, len(data)], strict=True) if (piece := data[at:end])]


def _answer(connection: socket.socket, status: int, body: bytes = b"") -> None:
    head = f"HTTP/1.1 {status} Fine\r\nConnection: close\r\nContent-Type: text/html; charset=utf-8\r\n"
    connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
