"""The single writer of one session's journal.

`frame` runs on the event loop and only computes: it gives the next record its seq and its place in the chain, and
decides when a new segment begins. `commit` runs on the committer's thread, in the order of framing, and returns when
every record is durable.

A failed write or sync poisons the file: it is never written or synced again, since Linux reports such an error once
and then calls the lost pages clean ("Can Applications Recover from fsync Failures?", ATC'20). The records that were
not acknowledged go, as they were framed, into a new file beside it, which takes its name in the chain only once it is
durable as a whole; where that fails too the session is read-only until it is opened again.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from kheish.errors import Conflict, Invalid, Poisoned
from kheish.limits import RECORD_BYTES_MAX, SEGMENT_BYTES_MAX, SEGMENT_RECORDS_MAX, SESSION_LOOK_EVERY_S
from kheish.store import atomic
from kheish.store.locks import SessionLock
from kheish.store.records import (
    Header,
    Position,
    Record,
    frame_header,
    frame_record,
    parse_line,
    reframe_header,
    segment_name,
)
from kheish.store.segments import (
    OffsetIndex,
    TornTail,
    locate,
    read_before,
    read_records,
)

__all__ = [
    "Framed",
    "Journal",
    "Position",
    "Record",
    "TornTail",
    "parse_line",
    "read_before",
    "read_records",
]

_WRITE_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class Framed(NamedTuple):
    """A record with its place in the chain, not yet written. With a `header` it begins a new segment."""

    seq: int
    line: bytes
    sum: str
    gen: int
    header_line: bytes | None = None
    header: Header | None = None


class Journal:
    """One open session; made by `SessionDir.open`, or by `SessionDir.new` with a `begin`, which makes the session with
    its first records and gives its lock and its file. Holds the session's lock until `close`."""

    def __init__(
        self,
        directory: Path,
        header: Header,
        position: Position,
        index: OffsetIndex,
        lock: SessionLock | None = None,
        other_bytes: int = 0,
        begin: Callable[[bytes], tuple[SessionLock, int]] | None = None,
    ) -> None:
        self.directory = directory
        self.session_id = header.session
        self.index = index
        self._lock = lock
        self._failure = ""
        # The event loop's side: what the next record is framed with.
        self._seq = position.seq
        self._gen = position.gen
        self._chain = position.chain
        self._segment = header.segment
        self._segment_records = position.seq + 1 - header.first_seq
        self._segment_bytes = position.offset
        # The committer's side: the file, and the place after the last durable record.
        self._header = header
        self._durable = position
        self._offset = position.offset
        self.other_bytes = other_bytes
        """What the session's other files took when it was opened, and the segments that were closed since."""
        self._looked_at = 0.0
        self._begin = begin
        self.is_taken = False
        """Whether it could not be made because there is one of its name."""
        # Each write goes on where the last one ended: a file is left for another once a write to it has failed.
        self._fd = -1
        if begin is None:
            self._fd = os.open(directory / segment_name(header.first_seq), _WRITE_FLAGS)
            os.lseek(self._fd, position.offset, os.SEEK_SET)

    @property
    def next_seq(self) -> int:
        """The seq that `frame` gives next."""
        return self._seq + 1

    @property
    def durable_seq(self) -> int:
        """The last record that survives a crash; readers go no further."""
        return self._durable.seq

    @property
    def end(self) -> Position:
        """The place after the last durable record, in the segment that is written."""
        return self._durable

    @property
    def gen(self) -> int:
        """The generation of the last framed record; a smaller one is refused."""
        return self._gen

    @property
    def is_poisoned(self) -> bool:
        return bool(self._failure)

    @property
    def is_made(self) -> bool:
        """Whether it is on the disk."""
        return self._begin is None

    @property
    def unmade(self) -> str:
        """Why the session could not be made, if it could not."""
        return "" if self.is_made else self._failure

    def frame(self, at: int, gen: int, pos: int, by: dict[str, Any], events_json: bytes) -> Framed:
        """The next record, from a JSON array of events; the caller hands it to the committer, in this order.

        Raises Poisoned, Invalid `record_too_large`, or Conflict `stale_generation`; nothing is used up then.
        """
        if self._failure:
            raise self._poisoned()
        if gen < self._gen:
            raise Conflict(
                f"cannot append to session {self.session_id}: generation {gen} is older than the journal's "
                f"{self._gen}; another daemon has written it",
                code="stale_generation",
                generation=self._gen,
            )
        seq = self._seq + 1
        prev, header_line, header = self._chain, None, None
        if self._segment_records >= SEGMENT_RECORDS_MAX or self._segment_bytes >= SEGMENT_BYTES_MAX:
            header_line, header = frame_header(self.session_id, self._segment + 1, seq, self._chain)
            prev = header.first_prev
        line, digest = frame_record(seq, at, gen, pos, orjson.dumps(by), events_json, prev)
        if len(line) > RECORD_BYTES_MAX:
            raise Invalid(
                f"cannot record this: it takes {len(line)} bytes and a record at most {RECORD_BYTES_MAX}; "
                "send less at once",
                code="record_too_large",
                bytes=len(line),
            )
        if header is not None and header_line is not None:
            self._segment, self._segment_records, self._segment_bytes = header.segment, 0, len(header_line)
        self._seq, self._gen, self._chain = seq, gen, digest
        self._segment_records += 1
        self._segment_bytes += len(line)
        return Framed(seq, line, digest, gen, header_line, header)

    def commit(self, records: Sequence[Framed]) -> None:
        """Make records durable, in order of framing. Raises Poisoned, or Conflict where the name is taken;
        `durable_seq` says how far it came."""
        if self._failure:
            raise self._poisoned()
        assert records[0].seq == self._durable.seq + 1, "records are committed in the order of framing"
        if time.monotonic() >= self._looked_at + SESSION_LOOK_EVERY_S:
            self.check_held()
        try:
            self._append(records)
        except Conflict as error:
            self.is_taken = True
            self.poison(error.message)
            raise
        except OSError as error:
            if self._begin is not None:
                raise self.poison(error.strerror or str(error)) from error
            try:
                self._recover([record for record in records if record.seq > self._durable.seq])
            except OSError as again:
                raise self.poison(f"{error}; a new file failed too: {again}") from again

    def poison(self, reason: str) -> Poisoned:
        """Make the session read-only from here on; returns the error to report."""
        self._failure = self._failure or reason
        return self._poisoned()

    def check_held(self) -> None:
        """Raises Poisoned where the directory is not the one that was opened. What is written to an open file is nobody
        else's, wherever its directory went; but names are, and there is no use in acknowledging what nobody finds."""
        if self._lock is not None and not self._lock.is_held():
            raise self.poison("its directory was moved, deleted or replaced")
        self._looked_at = time.monotonic()

    def read(self, from_seq: int = 1, limit: int | None = None, until_seq: int | None = None) -> Iterator[Record]:
        """Durable records, from any thread, through this journal's index of offsets."""
        if not self.durable_seq:
            return iter(())
        until = self.durable_seq if until_seq is None else min(until_seq, self.durable_seq)
        return read_records(self.directory, from_seq, limit, until, self.index)

    def read_before(self, seq: int, count: int) -> list[Record]:
        """The `count` durable records before `seq`, oldest first."""
        if not self.durable_seq:
            return []
        return read_before(self.directory, min(seq, self.durable_seq + 1), count, self.index)

    def locate(self, seq: int) -> Position:
        """The place after a durable record."""
        durable = self._durable
        return durable if seq == durable.seq >= durable.segment_first_seq else locate(self.directory, seq, self.index)

    def end_segment(self) -> None:
        """Begin the next segment before this one is full, so that it is closed; only when nothing is left to commit.
        Raises OSError or Poisoned, and then the journal is to be closed."""
        line, header = frame_header(self.session_id, self._segment + 1, self._seq + 1, self._chain)
        self._begin_segment(line, header)
        self._segment, self._segment_records, self._segment_bytes = header.segment, 0, len(line)
        self._chain = header.first_prev
        self._durable = Position(self._seq, header.first_seq, len(line), header.first_prev, self._gen)

    def close(self) -> None:
        """Release the file and the lock; only when nothing is left to commit."""
        self._failure = self._failure or "it is closed"
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # all that was acknowledged is synced, and the lock is to be let go
                os.close(self._fd)
            self._fd = -1
        if self._lock is not None:
            self._lock.release()

    # -- on the committer's thread ----------------------------------------------------------------------------------

    def _append(self, records: Sequence[Framed]) -> None:
        start = 0
        for at, record in enumerate(records):
            if record.header_line is not None and record.header is not None:
                self._flush(records[start:at])
                self._begin_segment(record.header_line, record.header)
                start = at
        self._flush(records[start:])

    def _flush(self, records: Sequence[Framed]) -> None:
        """Append to the current file and sync it."""
        if not records:
            return
        data = b"".join([record.line for record in records])
        if self._begin is not None:
            self._lock, self._fd = self._begin(data)
            self._begin = None
        else:
            atomic.write_all(self._fd, data)
            atomic.sync_data(self._fd)
        self._note(records)

    def _begin_segment(self, line: bytes, header: Header) -> None:
        """A new segment is durable, with its name, before anything is written to it; the old one was synced."""
        self.check_held()
        path = self.directory / segment_name(header.first_seq)
        atomic.create_file(path, line)
        atomic.sync_dir(self.directory)
        self._switch(path, header, len(line))

    def _switch(self, path: Path, header: Header, offset: int) -> None:
        fd = os.open(path, _WRITE_FLAGS)
        os.lseek(fd, 0, os.SEEK_END)
        with contextlib.suppress(OSError):
            os.close(self._fd)
        if header.first_seq != self._header.first_seq:
            self.other_bytes += self._offset
        self._fd, self._header, self._offset = fd, header, offset

    def _recover(self, records: Sequence[Framed]) -> None:
        """Put the records that are not durable into a new file and go on there."""
        self.check_held()
        first = records[0]
        count = next((at for at, record in enumerate(records) if at and record.header is not None), len(records))
        if first.header is not None and first.header_line is not None:
            line, header = first.header_line, first.header
        elif first.seq == self._header.first_seq:  # nothing in this file was acknowledged: it is replaced
            line, header = reframe_header(self._header), self._header
        else:
            line, header = frame_header(
                self.session_id, self._header.segment, first.seq, self._durable.chain, replaces_tail=True
            )
        path = self.directory / segment_name(header.first_seq)
        self.index.forget(header.first_seq)
        atomic.replace_file(path, line + b"".join([record.line for record in records[:count]]))
        self._switch(path, header, len(line))
        self._note(records[:count])
        self._append(records[count:])

    def _note(self, records: Sequence[Framed]) -> None:
        """These records are durable at the current offset."""
        for record in records:
            self._offset += len(record.line)
            position = Position(record.seq, self._header.first_seq, self._offset, record.sum, record.gen)
            self.index.note(position)
        self._durable = position

    def _poisoned(self) -> Poisoned:
        return Poisoned(
            f"cannot append to session {self.session_id}: {self._failure}; it is read-only until the daemon restarts",
            session_id=self.session_id,
            durable_seq=self.durable_seq,
        )
