"""Just enough HTTP/1.1 for one private socket, without I/O: a request as bytes, and a parser for the response.

Source: RFC 9110, section 5 (fields); RFC 9112, sections 4, 6 and 7 (status line, message body, chunked coding). The
standard library's http.client costs more time to import than a whole `kheish ps` takes, and has no asynchronous form.
"""

from __future__ import annotations

import json

from kheish.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MAX_HEAD_BYTES = 64 * 1024
REPLY_TIMEOUT_S = 120.0

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
"""RFC 3986, section 2.3. urllib.parse costs more time to import than the request takes."""

_TOKEN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+.^_`|~-")
_TARGET = frozenset(map(chr, range(0x21, 0x7F)))
_VALUE = frozenset(map(chr, (0x09, *range(0x20, 0x7F), *range(0xA0, 0x100))))
_HEX = frozenset(b"0123456789ABCDEFabcdef")
_SIZE_DIGITS_MAX = 15
_CHUNK_LINE_BYTES_MAX = 1024


class ProtocolError(Exception):
    """Bytes that are no response of the daemon."""


class Request:
    """A request of this API. `query` values that are None are left out; `body` is sent as JSON. `timeout_s`: how long
    the daemon may be silent; None where the answer takes as long as it takes."""

    __slots__ = ("body", "headers", "method", "path", "query", "timeout_s")

    def __init__(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = REPLY_TIMEOUT_S,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.body = body
        self.headers = headers or {}
        self.timeout_s = timeout_s

    def encode(self, origin: str, *, keep_alive: bool = False) -> bytes:
        """Raises Invalid for what would not be one header, such as a line break in an Idempotency-Key."""
        target = self.path
        pairs = [f"{segment(k)}={segment(_text(v))}" for k, v in (self.query or {}).items() if v is not None]
        if pairs:
            target += "?" + "&".join(pairs)
        if not _is_token(self.method) or not target.startswith("/") or not _TARGET.issuperset(target):
            raise Invalid(f"cannot send {self.method} {target!r}: that is not one line of a request")
        fields = {
            "Host": "kheish",
            "Kheish-Origin": origin,
            "Connection": "keep-alive" if keep_alive else "close",
            **self.headers,
        }
        data = b"" if self.body is None else json.dumps(self.body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if self.body is not None or self.method in ("POST", "PATCH", "PUT"):
            fields |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in fields.items():
            if not _is_token(name) or not _VALUE.issuperset(value):
                raise Invalid(f"cannot send the header {name!r}: it takes one line of printable Latin-1 text")
        lines = [f"{self.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


def _is_token(text: str) -> bool:
    return bool(text) and _TOKEN.issuperset(text)


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """A part of a path or a query."""
    data = text.encode("utf-8", "surrogatepass")
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in data)


def _status(line: bytes) -> int:
    """The code of a status line; 0 where it is none."""
    version, _, rest = line.partition(b" ")
    code = rest.partition(b" ")[0]
    is_known = version in (b"HTTP/1.0", b"HTTP/1.1") and len(code) == 3 and code.isdigit() and b"100" <= code < b"600"
    return int(code) if is_known else 0


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
        if self._buffer and not self.is_complete:
            part = bytes(self._buffer if self._left is None else self._buffer[: self._left])
            self._buffer.clear()
            if self._left is not None:
                self._left -= len(part)
            if part:
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
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise ProtocolError("the head of the answer is too long")
        if end < 0:
            return False
        status_line, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        status = _status(status_line)
        if not status:
            raise ProtocolError("this is not HTTP")
        fields = (line.decode("latin-1").partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "")
        length = self.headers.get("content-length")
        if length is not None and not self._chunked:
            if not length.isdecimal() or len(length) > _SIZE_DIGITS_MAX:
                raise ProtocolError("the length of the answer is no number")
            self._left = int(length)
        self.status = status
        return True

    def _chunks(self) -> Iterator[bytes]:
        while not self.is_complete:
            end = self._buffer.find(b"\r\n")
            if end < 0 and len(self._buffer) <= _CHUNK_LINE_BYTES_MAX:
                return
            digits = bytes(self._buffer[: max(end, 0)]).partition(b";")[0].strip(b" \t")
            if not 0 < len(digits) <= _SIZE_DIGITS_MAX or not _HEX.issuperset(digits):
                raise ProtocolError("a chunk has no size")
            start, size = end + 2, int(digits, 16)
            if len(self._buffer) < start + size + 2:
                return
            part = bytes(self._buffer[start : start + size])
            if self._buffer[start + size : start + size + 2] != b"\r\n":
                raise ProtocolError("a chunk is longer than it said")
            del self._buffer[: start + size + 2]
            if size == 0:
                self.is_complete = True
            else:
                yield part
