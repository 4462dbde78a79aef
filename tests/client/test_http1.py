"""The client's own HTTP/1.1: a request that is one request, and a parser that does not care how bytes are cut."""

from __future__ import annotations

import http.client
import io
import itertools
import json
import math
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.client.http1 import MAX_HEAD_BYTES, ProtocolError, Request, Response, segment
from kheish.errors import Invalid

BODIES = st.binary(max_size=300)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces; places count from 0 to 100 per cent."""
    at = sorted({0, len(data), *(place * len(data) // 100 for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(at)]


CUTS = st.lists(st.integers(0, 100), max_size=8)


def feed(pieces: list[bytes]) -> tuple[Response, bytes]:
    response = Response()
    body = b"".join(part for piece in pieces for part in response.feed(piece))
    return response, body


def chunked(body: bytes, sizes: list[int], extension: bytes = b"") -> bytes:
    out = b""
    while body:
        size = sizes.pop(0) if sizes else len(body)
        piece, body = body[:size], body[size:]
        out += b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    return out + b"0\r\n\r\n"


@given(BODIES, CUTS, st.integers(200, 599))
def test_a_body_of_a_known_length_in_any_pieces(body: bytes, places: list[int], status: int) -> None:
    head = b"HTTP/1.1 %d Some Reason\r\nContent-Length: %d\r\nX-Odd:a:b \r\n\r\n" % (status, len(body))
    response, found = feed(cut(head + body, places))
    assert (response.status, found, response.is_complete) == (status, body, True)
    assert response.headers == {"content-length": str(len(body)), "x-odd": "a:b"}
    response.end()


@given(BODIES, CUTS, st.lists(st.integers(1, 50), max_size=10), st.sampled_from([b"", b";a=b", b" ; x"]))
def test_a_chunked_body_in_any_pieces(body: bytes, places: list[int], sizes: list[int], extension: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, sizes, extension)
    response, found = feed(cut(data, places))
    assert found == body and response.is_complete
    response.end()


@given(BODIES, CUTS)
def test_a_body_that_ends_with_the_connection_in_any_pieces(body: bytes, places: list[int]) -> None:
    response, found = feed(cut(b"HTTP/1.1 200\r\n\r\n" + body, places))
    assert found == body and not response.is_complete
    response.end()
    assert response.is_complete


def test_a_response_comes_byte_by_byte() -> None:
    body = json.dumps({"text": "é\u2028" * 50}).encode()
    for data in (
        b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body),
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunked(body, [1, 2, 3, 100]),
    ):
        response, found = feed([data[i : i + 1] for i in range(len(data))])
        assert found == body and response.is_complete


@given(st.integers(0, 99), st.booleans())
def test_a_response_that_is_cut_is_not_taken_for_a_whole_one(percent: int, is_chunked: bool) -> None:
    body = b"0123456789" * 5
    whole = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(body, [7, 20])
        if is_chunked
        else b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    response, _ = feed([whole[: percent * len(whole) // 100]])
    assert not response.is_complete
    with pytest.raises(ProtocolError):
        response.end()


BEGUN = (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


@given(st.binary(max_size=400), CUTS, st.sampled_from(BEGUN))
def test_any_bytes_are_a_response_or_a_protocol_error(data: bytes, places: list[int], before: bytes) -> None:
    try:
        response, _ = feed(cut(before + data, places))
        response.end()
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 2\xb20 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1_0\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
        b"HTTP/1.1 200 OK\r\n" + b"x" * (MAX_HEAD_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_what_is_no_response_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed([data])


def test_bytes_after_the_body_are_not_part_of_it() -> None:
    response, found = feed([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", b"/1.1 500"])
    assert found == b"ok" and response.status == 200


class Sent(io.BytesIO):
    """What the standard library reads in a request."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.line = self.readline().decode("latin-1").rstrip("\r\n")
        self.fields = http.client.parse_headers(self)
        self.body = self.read()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.text(max_size=20), st.text(max_size=20))
def test_a_request_says_what_was_meant(body: Any, part: str, value: str) -> None:
    request = Request("POST", f"/v1/sessions/{segment(part)}", query={"q": value, "none": None, "on": True}, body=body)
    sent = Sent(request.encode("test"))
    method, target, version = sent.line.split(" ")
    assert (method, version) == ("POST", "HTTP/1.1")
    parsed = urlsplit(target)
    assert parsed.path.count("/") == 3 and unquote(parsed.path.rpartition("/")[2]) == part
    assert parse_qs(parsed.query, keep_blank_values=True, strict_parsing=True) == {"q": [value], "on": ["true"]}
    if body is None:
        assert sent.body == b"" and sent.fields["content-length"] == "0"
    else:
        assert json.loads(sent.body) == body and sent.fields["content-length"] == str(len(sent.body))
    assert sent.fields["kheish-origin"] == "test" and sent.fields["connection"] == "close"


def test_a_read_has_no_body() -> None:
    sent = Sent(Request("GET", "/v1/status").encode("test", keep_alive=True))
    assert "content-length" not in sent.fields and sent.body == b"" and sent.fields["connection"] == "keep-alive"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "\n", "é\u2028", "\ud800", "\x7f", "\x85"])
def test_a_header_cannot_carry_another(value: str) -> None:
    for request, origin in (
        (Request("POST", "/v1/sessions", body={}, headers={"Idempotency-Key": value}), "test"),
        (Request("POST", "/v1/sessions", body={}, headers={value: "x"}), "test"),
        (Request("GET", "/v1/status"), value),
    ):
        with pytest.raises(Invalid):
            request.encode(origin)


@pytest.mark.parametrize("path", ["/v1/a b", "/v1/a\r\nX: y", "/v1/\n", "", "v1", "/é", "/\0", "http://x/"])
def test_a_path_is_one_word(path: str) -> None:
    with pytest.raises(Invalid):
        Request("GET", path).encode("test")
    with pytest.raises(Invalid):
        Request("GET /v1/x HTTP/1.1\r\nX:", "/v1/status").encode("test")


def test_a_latin_1_key_is_sent_as_it_is() -> None:
    sent = Sent(Request("POST", "/v1/sessions", headers={"Idempotency-Key": "clé 7"}).encode("test"))
    assert sent.fields["idempotency-key"] == "clé 7"


def test_text_that_is_not_unicode_is_left_for_the_daemon_to_refuse() -> None:
    data = Request("POST", f"/v1/sessions/{segment('a' + chr(0xDCFF))}", body={"x": "\ud800"}).encode("test")
    assert b"/v1/sessions/a%ED%B3%BF " in data and data.endswith(b'{"x": "\xed\xa0\x80"}')
    assert math.isnan(json.loads(Sent(Request("POST", "/", body=math.nan).encode("test")).body))
