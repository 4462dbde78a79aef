"""Server-sent events: the journal first, then what happens, in one order and without a hole.

A reader is subscribed before the journal is read, so nothing falls between. Frames:

    record     id: the seq (the global stream: `<generation>.<position>`, and `.<session id>` where the next record
               has the same, which is of a session from another state root); one journal record
    sync       the replay has ended; what follows is live
    delta      no id; live text that is not in the journal
    heartbeat  no id; nothing happened for a while
    gap        the reader was too slow and is cut off; it reads on from its last id
    bye        the run is over or the daemon is stopping; why
    error      the stream cannot go on; why

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Literal

import orjson

from kheish.errors import Invalid
from kheish.limits import PAGE_ITEMS_MAX, STREAM_CHUNK_BYTES, STREAM_HEARTBEAT_S
from kheish.runtime.actor import record_json
from kheish.runtime.hub import Frame, Subscription
from kheish.runtime.supervisor import Supervisor
from kheish.store.records import Record

_SEQ = re.compile(r"\d{1,15}\Z")
_GLOBAL = re.compile(r"(\d{1,15})\.(\d{1,15})(?:\.([A-Za-z0-9._-]{1,128}))?\Z")
TAIL = "tail"

Kind = Literal["session", "global", "delta"]
_ID_OF: dict[Kind, Callable[[Frame], str]] = {
    "session": lambda frame: str(frame.seq),
    "global": lambda frame: f"{frame.gen}.{frame.pos}",
    "delta": lambda frame: "",
}
"""The id of a frame, by the kind of stream that carries it; a delta is the same in all."""


def encode(event: str, data: bytes, event_id: str = "") -> bytes:
    """The id stands last: whoever reads line by line and is cut off never has the id of a record without the record."""
    end = f"\nid: {event_id}\n\n" if event_id else "\n\n"
    return f"event: {event}\ndata: ".encode() + data + end.encode()


def public_record(session_id: str, record: Record) -> bytes:
    return record_json(session_id, record.seq, record.at, record.gen, record.pos, record.by, record.events_json)


def parse_seq(cursor: str) -> int:
    """The seq to go on after. Raises Invalid."""
    if not cursor:
        return 0
    if not _SEQ.match(cursor):
        raise Invalid(f"cannot use the cursor {cursor!r}: it is a number, or `tail`", code="invalid_cursor")
    return int(cursor)


def parse_global(cursor: str) -> tuple[tuple[int, int], str]:
    """(generation, position), and of which sessions what has this place was seen: those up to this id, or all."""
    match = _GLOBAL.match(cursor)
    if match is None:
        raise Invalid(
            f"cannot use the cursor {cursor!r}: it is `generation.position`, or `tail`", code="invalid_cursor"
        )
    return (int(match[1]), int(match[2])), match[3] or ""


class Streams:
    """The open streams of this daemon; `drain` ends them all with the reason."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._bye = ""

    def drain(self, reason: str) -> None:
        self._bye = reason
        self._supervisor.hub.close()

    async def session(
        self, session_id: str, run_id: str | None, cursor: str, *, is_resumed: bool = False
    ) -> AsyncIterator[bytes]:
        """A session's stream, or the part of it that concerns one run, which ends with the run. Where it is resumed
        and all of the run has been shown it is empty."""
        hub = self._supervisor.hub
        said = hub.said(session_id, run_id)
        subscription = hub.subscribe(session_id=session_id, run_id=run_id)
        try:
            _, seq = await self._supervisor.reader.state(session_id)
            after = seq if cursor == TAIL else min(parse_seq(cursor), seq)
            run, pages = None, self._read_all(session_id, after)
            if run_id is not None:
                _, run = await self._supervisor.reader.run(session_id, run_id)
                pages = self._supervisor.reader.read_run(session_id, run_id, after)
            is_shown = False
            async for page in pages:
                is_shown, after = True, page[-1].seq
                yield b"".join(encode("record", public_record(session_id, r), str(r.seq)) for r in page)
            if run is not None and run.is_terminal:
                if is_shown or not is_resumed:
                    yield _sync(str(after)) + encode("bye", orjson.dumps({"reason": f"the run is {run.phase}"}))
                return
            # What has ended meanwhile is in a record.
            live = [text for speaker, texts in said if hub.is_speaking(session_id, speaker) for text in texts]
            yield _sync(str(after)) + b"".join(encode("delta", text) for text in live)
            if self._supervisor.trouble_of(session_id) is None:
                async for chunk in self._live(subscription, "session", lambda f: f.seq > after):
                    yield chunk
            if trouble := self._supervisor.trouble_of(session_id):
                raise trouble
        finally:
            subscription.close()

    async def _read_all(self, session_id: str, after: int) -> AsyncGenerator[list[Record], None]:
        while page := await self._supervisor.reader.read_records(
            session_id, after, PAGE_ITEMS_MAX, bytes_max=STREAM_CHUNK_BYTES
        ):
            after = page[-1].seq
            yield page

    async def everything(self, cursor: str, *, has_deltas: bool = True) -> AsyncIterator[bytes]:
        """All sessions, in the order in which they were published; without a cursor from now on.

        The replay ends where the stream stood when the reader subscribed.
        """
        subscription = self._supervisor.hub.subscribe(has_deltas=has_deltas)
        try:
            end = self._supervisor.position
            after, through = (end, "") if cursor in ("", TAIL) else parse_global(cursor)
            gathered = bytearray()
            async for session_id, record, is_shared in self._supervisor.reader.replay(after, end, through):
                event_id = f"{record.gen}.{record.pos}" + (f".{session_id}" if is_shared else "")
                gathered += encode("record", public_record(session_id, record), event_id)
                if len(gathered) >= STREAM_CHUNK_BYTES:
                    yield bytes(gathered)
                    gathered.clear()
            yield bytes(gathered) + _sync(f"{end[0]}.{end[1]}")
            async for chunk in self._live(subscription, "global", lambda f: (f.gen, f.pos) > end):
                yield chunk
        finally:
            subscription.close()

    async def _live(
        self, subscription: Subscription, kind: Kind, is_new: Callable[[Frame], bool]
    ) -> AsyncIterator[bytes]:
        while not self._bye:
            frames = await subscription.wait(STREAM_HEARTBEAT_S)
            if frames is None:
                yield encode("heartbeat", b'{"type":"heartbeat"}')
                continue
            if not frames:
                break
            chunks = []
            ended = False
            for frame in frames:
                if frame.event == "delta":
                    chunks.append(_encoded(frame, "delta"))
                    continue
                # The record that ends the run may be one that the replay was quicker to show.
                ended = ended or subscription.run_id in frame.ends
                if is_new(frame):
                    chunks.append(_encoded(frame, kind))
            if chunks:
                yield b"".join(chunks)
            if ended:
                yield encode("bye", orjson.dumps({"reason": "the run is over"}))
                return
        if subscription.lost:
            yield encode("gap", orjson.dumps({"reason": subscription.lost}))
        elif self._bye:
            yield encode("bye", orjson.dumps({"reason": self._bye}))


def _encoded(frame: Frame, kind: Kind) -> bytes:
    """The frame as it goes over the wire: the first reader of a kind encodes it for all."""
    data = frame.encoded.get(kind)
    if data is None:
        data = frame.encoded[kind] = encode(frame.event, frame.data, _ID_OF[kind](frame))
    return data


def _sync(cursor: str) -> bytes:
    return encode("sync", orjson.dumps({"cursor": cursor}), cursor)
