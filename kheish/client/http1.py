"""Just enough HTTP/1.1 for one private socket, without I/O: a request as bytes, and a parser for the response.

Source: RFC 9112, sections 4, 6 and 7 (status line, message body, chunked coding). The standard library's http.client
costs more time to import than a whole `kheish ps` takes, and has no asynchronous form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

MAX_HEAD_BYTES = 64 * 1024


class ProtocolError(Exception):
    """Bytes that are no response of the daemon."""


class Request:
    """A request of this API. `query` values that are None are left out; `body` is sent as JSON."""

    __slots__ = ("body", "headers", "method", "path", "query")

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.body = body
        self.headers = headers or {}

    def encode(self, origin: str, *, keep_alive: bool = False) -> bytes:
        target = self.path
        pairs = [f"{quote(k)}={quote(_text(v), safe='')}" for k, v in (self.query or {}).items() if v is not None]
        if pairs:
            target += "?" + "&".join(pairs)
        data = b"" if self.body is None else json.dumps(self.body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        lines = [
            f"{self.method} {target} HTTP/1.1",
            "Host: kheish",
            f"Kheish-Origin: {origin}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
        ]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body is not None or self.method in ("POST", "PATCH", "PUT"):
            lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """A part of a path."""
    return quote(text, safe="")


class Response:
    """Fed with bytes as they come; gives the parts of the body as they are complete."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_complete = False
        self._buffer = bytearray()
        self._left: int | None = None
        self._chunked = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Raises ProtocolError."""
        self._buffer += data
        if not self.status and not self._parse_head():
            return
        if self._chunked:
            yield from self._chunks()
            return
        if self._buffer:
            part = bytes(self._buffer)
            self._buffer.clear()
            if self._left is not None:
                part = part[: self._left]
                self._left -= len(part)
            yield part
        self.is_complete = self.is_complete or self._left == 0

    def end(self) -> None:
        """The peer closed. Raises ProtocolError where that cuts the response."""
        if not self.status:
            raise ProtocolError("the connection was closed without an answer")
        if not self.is_complete and (self._chunked or self._left):
            raise ProtocolError("the connection was closed in the middle of an answer")
        self.is_complete = True

    def _parse_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise ProtocolError("the head of the answer is too long")
            return False
        status_line, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        parts = status_line.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
            raise ProtocolError("this is not HTTP")
        self.headers = {name.strip().lower(): value.strip() for name, _, value in (ln.partition(":") for ln in lines)}
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "")
        length = self.headers.get("content-length")
        self._left = int(length) if length is not None and length.isdigit() and not self._chunked else None
        self.status = int(parts[1])
        return True

    def _chunks(self) -> Iterator[bytes]:
        while not self.is_complete:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                return
            try:
                size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
            except ValueError as error:
                raise ProtocolError("a chunk has no size") from error
            if len(self._buffer) < end + 2 + size + 2:
                return
            part = bytes(self._buffer[end + 2 : end + 2 + size])
            del self._buffer[: end + 2 + size + 2]
            if size == 0:
                self.is_complete = True
            else:
                yield part
