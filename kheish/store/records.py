"""Format page: the two kinds of line in a journal segment, a header and the records after it.

    header  {"v":1,"format":1,"session":S,"segment":N,"first_seq":F,"chain":C[,"replaces_tail":true],"sum":X}
    record  {"v":1,"seq":N,"at":MS,"gen":G,"pos":P,"by":{...},"events":[...],"prev":C,"sum":X}

Both are sealed (see framing). `seq` starts at 1 and has no gap. `gen` is the daemon's generation and never decreases
along a journal. `pos` counts a daemon's records within its generation. `prev` chains: it is the `sum` of the record
before, and of the header for a segment's first record, so that a record fits at one place of one session only; a
header's `chain` is the `sum` of the last record of the segment before, and zeros in the first segment.

A header that `replaces_tail` continues its predecessor from `first_seq` on: records of the predecessor from there on
were never acknowledged, and are not read. It is written after a failed write, and moves the records as they were
framed, so that its first record's `prev` is the header's `chain`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import orjson

from kheish.store.framing import check_seal, seal
from kheish.store.upgrades import FORMAT, check_format

_SEGMENT_NAME = re.compile(r"journal-(\d{12})\.jsonl\Z")


class BadLine(Exception):
    """A line that is not what it should be; the text says how."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a segment."""

    v: int
    format: int
    session: str
    segment: int
    first_seq: int
    chain: str
    sum: str
    replaces_tail: bool = False

    @property
    def first_prev(self) -> str:
        """What the first record of this segment carries as `prev`."""
        return self.chain if self.replaces_tail else self.sum


class _RecordLine(msgspec.Struct):
    v: int
    seq: int
    at: int
    gen: int
    pos: int
    by: dict[str, Any]
    events: msgspec.Raw
    prev: str
    sum: str


class Record(msgspec.Struct, frozen=True):
    """One decision: all its events, who made it and when. `line` is its bytes in the file, newline included."""

    seq: int
    at: int
    gen: int
    pos: int
    by: dict[str, Any]
    events_raw: msgspec.Raw
    prev: str
    sum: str
    line: bytes

    @property
    def events_json(self) -> bytes:
        """The JSON array of events, as written."""
        return bytes(self.events_raw)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events, decoded anew at each call."""
        decoded: list[dict[str, Any]] = orjson.loads(bytes(self.events_raw))
        return decoded


class Position(msgspec.Struct, frozen=True):
    """The place right after record `seq`; `chain` is that record's sum (or what the first record must carry)."""

    seq: int
    segment_first_seq: int
    offset: int
    chain: str
    gen: int


_decode_record = msgspec.json.Decoder(_RecordLine).decode
_decode_header = msgspec.json.Decoder(Header).decode


def segment_name(first_seq: int) -> str:
    return f"journal-{first_seq:012d}.jsonl"


def segment_first_seq(name: str) -> int | None:
    """The first seq that a file name stands for; None where it is not a segment's."""
    match = _SEGMENT_NAME.match(name)
    return int(match[1]) if match else None


def frame_header(
    session: str, segment: int, first_seq: int, chain: str, *, replaces_tail: bool = False
) -> tuple[bytes, Header]:
    body = b'{"v":1,"format":%d,"session":%b,"segment":%d,"first_seq":%d,"chain":"%b"%b}' % (
        FORMAT,
        orjson.dumps(session),
        segment,
        first_seq,
        chain.encode(),
        b',"replaces_tail":true' if replaces_tail else b"",
    )
    line, _ = seal(body)
    return line, _decode_header(line)


def reframe_header(header: Header) -> bytes:
    """The line that a header was read from."""
    line, again = frame_header(
        header.session, header.segment, header.first_seq, header.chain, replaces_tail=header.replaces_tail
    )
    assert again.sum == header.sum
    return line


def frame_record(
    seq: int, at: int, gen: int, pos: int, by_json: bytes, events_json: bytes, prev: str
) -> tuple[bytes, str]:
    """The record's line and its sum. `by_json` is a JSON object, `events_json` a JSON array, neither with a newline."""
    body = b'{"v":1,"seq":%d,"at":%d,"gen":%d,"pos":%d,"by":%b,"events":%b,"prev":"%b"}'
    return seal(body % (seq, at, gen, pos, by_json, events_json, prev.encode()))


def parse_line(line: bytes) -> Record:
    """A record from its line: bytes first, JSON after. Raises BadLine or NewerFormat."""
    _check_bytes(line)
    try:
        wire = _decode_record(line)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadLine(f"not a record: {error}") from None
    check_format(wire.v, "a journal record")
    return Record(wire.seq, wire.at, wire.gen, wire.pos, wire.by, wire.events, wire.prev, wire.sum, line)


def parse_header(line: bytes, path: Path) -> Header:
    """A segment's header from its line. Raises BadLine or NewerFormat."""
    _check_bytes(line)
    try:
        header = _decode_header(line)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise BadLine(f"not a segment header: {error}") from None
    check_format(max(header.v, header.format), str(path))
    return header


def _check_bytes(line: bytes) -> None:
    if check_seal(line) is None:
        if not line.endswith(b"\n"):
            raise BadLine("incomplete line")
        raise BadLine("NUL bytes" if b"\0" in line else "checksum")
