"""Reading a journal: the walk that proves it, the repair of a torn tail, and paging by seq.

Rules: the first fault ends a walk with file, line and offset. Bad last bytes of the newest segment with no valid line
after them are a torn tail, which a crash leaves behind; anything else wrong is corruption, and nothing is cut for it
(etcd's repair and RocksDB's point-in-time mode draw the same line). Memory is bounded by one line, and by one member
of a packed segment. Whether a segment is packed is seen here alone: its lines, offsets and seqs are those of the plain
one.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import itertools
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from kheish.errors import Corrupt
from kheish.limits import JOURNAL_OFFSET_EVERY_RECORDS, KIB, MIB, RECORD_BYTES_MAX
from kheish.store import atomic
from kheish.store.framing import SEAL_BYTES, SUM_FIELD, ZERO_CHAIN, check_seal
from kheish.store.packed import PackedFile, first_seq_of, is_packed, packed_path
from kheish.store.records import (
    BadLine,
    Header,
    Position,
    Record,
    parse_header,
    parse_line,
    segment_name,
)

_CHUNK_BYTES = MIB
_BUFFER_BYTES = 256 * KIB
_LINE_CHUNK_BYTES = 16 * KIB
_LINE_START = b'{"v":'
_GLUED_CANDIDATES_MAX = 64


class TornTail(msgspec.Struct, frozen=True):
    """Bytes that a crash left at the end of the newest segment."""

    file: str
    offset: int
    bytes: int


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """(first seq, path) of each segment, oldest first.

    One that is there twice was being packed when a crash came. Both hold the same; the plain one counts, since it was
    first and needs no unpacking.
    """
    found: dict[int, Path] = {}
    for name in sorted(os.listdir(directory)):
        if (first := first_seq_of(name)) is not None:
            found.setdefault(first, directory / name)
    return list(found.items())


def open_segment(path: Path) -> BinaryIO:
    """The plain bytes of a segment, which may be packed, or may become so while a reader comes to it."""
    if not is_packed(path):
        try:
            return os.fdopen(atomic.open_file(path), "rb", buffering=_BUFFER_BYTES)
        except FileNotFoundError:
            if not packed_path(path).exists():
                raise
            path = packed_path(path)
    return open_packed(path)


def open_packed(path: Path) -> BinaryIO:
    return io.BufferedReader(_packed_file(path), _BUFFER_BYTES)


def _packed_file(path: Path) -> PackedFile:
    return PackedFile(path, atomic.READ_FLAGS, partial(corrupt, path))


def corrupt(path: Path, offset: int, reason: str, *, valid_after: int = 0) -> Corrupt:
    """The error of a place in a segment, with its line's number and the count of sound lines from there on."""
    if not path.exists() and packed_path(path).exists():
        path = packed_path(path)
    line = 0
    with contextlib.suppress(OSError, Corrupt):
        line = line_number(path, offset)
    return Corrupt(
        f"cannot read {path.parent.name}/{path.name} from line {line} (byte {offset}): {reason}; "
        "the session stays readable up to there, and nothing was changed",
        file=str(path),
        line=line,
        offset=offset,
        reason=reason,
        valid_after=valid_after,
    )


def line_number(path: Path, offset: int) -> int:
    line = 1
    with open_segment(path) as file:
        while offset > 0 and (chunk := file.read(min(_CHUNK_BYTES, offset))):
            line += chunk.count(b"\n")
            offset -= len(chunk)
    return line


def count_valid_lines(path: Path, offset: int) -> int:
    """How many sealed lines there are from `offset` on, also such as are glued to a torn one before them; those that
    cannot be unpacked are not counted."""
    count = 0
    with open_segment(path) as file, contextlib.suppress(Corrupt):
        file.seek(offset)
        while line := file.readline(RECORD_BYTES_MAX + 1):
            count += _is_sealed_somewhere(line)
    return count


def _is_sealed_somewhere(line: bytes) -> bool:
    if check_seal(line) is not None:
        return True
    if line[-SEAL_BYTES : -SEAL_BYTES + len(SUM_FIELD)] != SUM_FIELD:
        return False
    start = 0
    for _ in range(_GLUED_CANDIDATES_MAX):
        start = line.find(_LINE_START, start + 1)
        if start < 0:
            return False
        if check_seal(memoryview(line)[start:]) is not None:
            return True
    return True  # too many to try: on the safe side, for a line that counts as valid is never cut


def read_header(path: Path, session: str | None = None) -> tuple[Header, int]:
    """A segment's header and the offset after it; it must fit its file name, and its session where one is given.

    Raises Corrupt, whose `valid_after` is 0 where the file holds no valid line at all.
    """
    with open_segment(path) as file:
        line = file.readline(RECORD_BYTES_MAX + 1)
    try:
        header = parse_header(line, path)
    except BadLine as bad:
        raise corrupt(path, 0, f"segment header: {bad}", valid_after=count_valid_lines(path, 0)) from None
    reason = ""
    if session is not None and header.session != session:
        reason = f"segment of another session ({header.session})"
    elif header.first_seq != first_seq_of(path.name):
        reason = f"segment header names first seq {header.first_seq}"
    if reason:
        raise corrupt(path, 0, reason, valid_after=1)
    return header, len(line)


class SegmentScan:
    """The records of one segment from a known position, each proven against the one before.

    `position` is the place after the last good record. Iteration ends at the end of the file, at `stop_seq`
    (exclusive), or with Corrupt.
    """

    def __init__(self, path: Path, position: Position, stop_seq: int | None = None) -> None:
        self.path = path
        self.position = position
        self._stop_seq = stop_seq

    def __iter__(self) -> Iterator[Record]:
        with open_segment(self.path) as file:
            file.seek(self.position.offset)
            while self._stop_seq is None or self.position.seq + 1 < self._stop_seq:
                line = file.readline(RECORD_BYTES_MAX + 1)
                if not line:
                    return
                yield self._check(line)

    def _check(self, line: bytes) -> Record:
        at = self.position
        try:
            record = parse_line(line)
            if record.seq != at.seq + 1:
                raise BadLine(f"seq {record.seq} where {at.seq + 1} belongs")
            if at.chain and record.prev != at.chain:
                raise BadLine("chain: this record does not follow the one before it")
            if record.gen < at.gen:
                raise BadLine(f"fork: generation {record.gen} after {at.gen}")
        except BadLine as bad:
            reason = "line too long" if len(line) > RECORD_BYTES_MAX else str(bad)
            raise corrupt(self.path, at.offset, reason) from None
        self.position = Position(record.seq, at.segment_first_seq, at.offset + len(line), record.sum, record.gen)
        return record


class Walk:
    """All records of a session after `start` (from the first one without it), across segments, each proven.

    After the iteration `position` is the end, `header` the one of the segment that it lies in, and `torn` what must
    be cut before anything is appended. Raises Corrupt at the first fault that is not a torn tail.
    """

    def __init__(self, directory: Path, session: str, start: Position | None = None) -> None:
        self.directory = directory
        self.session = session
        self.header: Header | None = None
        self.position = start
        self.torn: TornTail | None = None
        self._start = start

    def __iter__(self) -> Iterator[Record]:
        self.position, self.header, self.torn = self._start, None, None
        segments = list_segments(self.directory)
        if self._start is not None:
            while segments and segments[0][0] < self._start.segment_first_seq:
                segments.pop(0)
        expected = self._start.segment_first_seq if self._start else 1
        if not segments or segments[0][0] != expected:
            path = segments[0][1] if segments else self.directory / "journal"
            raise corrupt(path, 0, f"the segment with first seq {expected} is missing")
        segments = self._drop_torn_newest(segments)
        for index, (_, path) in enumerate(segments):
            self._enter(path)
            following = segments[index + 1][1] if index + 1 < len(segments) else None
            yield from self._read(path, following)

    def end(self) -> Position:
        """Walk to the end and return it."""
        for _ in self:
            pass
        assert self.position is not None
        return self.position

    def _drop_torn_newest(self, segments: list[tuple[int, Path]]) -> list[tuple[int, Path]]:
        """A newest file without a readable header is a rotation that a crash cut short."""
        if len(segments) < 2:
            return segments
        path = segments[-1][1]
        if is_packed(path):
            return segments
        try:
            read_header(path, self.session)
        except Corrupt as fault:
            if fault.details["valid_after"]:
                raise
            self.torn = TornTail(file=str(path), offset=0, bytes=path.stat().st_size)
            return segments[:-1]
        return segments

    def _enter(self, path: Path) -> None:
        """Check the header of the next segment against the end of the one before."""
        header, offset = read_header(path, self.session)
        before, self.header = self.header, header
        if before is None and self._start is not None:
            _check_anchor(path, self._start)
            return
        position = self.position
        reason = ""
        if before is None or position is None:
            if (header.segment, header.chain, header.replaces_tail) != (1, ZERO_CHAIN, False):
                reason = "this is not the first segment of a session"
            gen = 0
        else:
            gen = position.gen
            if header.chain != position.chain:
                reason = "chain: this segment does not follow the one before it"
            elif header.segment != before.segment + (not header.replaces_tail):
                reason = f"segment number {header.segment} after {before.segment}"
        if reason:
            raise corrupt(path, 0, reason)
        self.position = Position(header.first_seq - 1, header.first_seq, offset, header.first_prev, gen)

    def _read(self, path: Path, following: Path | None) -> Iterator[Record]:
        assert self.position is not None
        stop_seq = None
        if following is not None:
            after, _ = read_header(following, self.session)
            stop_seq = after.first_seq if after.replaces_tail else None
        scan = SegmentScan(path, self.position, stop_seq)
        try:
            for record in scan:
                self.position = scan.position
                yield record
        except Corrupt as fault:
            offset = scan.position.offset
            valid_after = count_valid_lines(path, offset)
            if following is not None or is_packed(path) or self.torn is not None or valid_after:
                fault.details["valid_after"] = valid_after
                raise
            self.torn = TornTail(file=str(path), offset=offset, bytes=path.stat().st_size - offset)
            return
        if _is_cut_short(path, self.position.seq, first_seq_of(following.name) if following else None):
            raise corrupt(path, self.position.offset, f"records after seq {self.position.seq} are missing")


def _is_cut_short(path: Path, last_seq: int, next_first: int | None) -> bool:
    """Whether records or segments are missing after the last record of a segment: a packed one is never the newest."""
    return is_packed(path) if next_first is None else last_seq + 1 != next_first


def _check_anchor(path: Path, start: Position) -> None:
    """The bytes before a checkpoint's place must be the end of the record that it stands on."""
    with open_segment(path) as file:
        file.seek(max(0, start.offset - SEAL_BYTES))
        end = file.read(SEAL_BYTES)
        size = file.seek(0, os.SEEK_END)
    if end != b'%b%b"}\n' % (SUM_FIELD, start.chain.encode()):
        raise corrupt(path, min(start.offset, size), f"the record of the checkpoint at seq {start.seq} is not here")


def repair(directory: Path, torn: TornTail, seq: int) -> None:
    """Copy a torn tail aside, then cut it off; each step is durable before the next, so a crash only repeats them.
    `seq` is that of the last record before it."""
    path = Path(torn.file)
    saved = _free_name(directory, seq)
    if torn.offset == 0:
        os.replace(path, saved)
        atomic.sync_dir(directory)
        return
    temp = atomic.temp_beside(saved)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        copy = os.open(temp, atomic.CREATE_FLAGS, 0o600)
        try:
            os.lseek(fd, torn.offset, os.SEEK_SET)
            while chunk := os.read(fd, _CHUNK_BYTES):
                atomic.write_all(copy, chunk)
            atomic.sync_file(copy)
        finally:
            os.close(copy)
        os.replace(temp, saved)
        atomic.sync_dir(directory)
        os.ftruncate(fd, torn.offset)
        atomic.sync_file(fd)
    finally:
        os.close(fd)


def _free_name(directory: Path, seq: int) -> Path:
    return next(path for n in itertools.count(1) if not (path := directory / f"torn-{seq:012d}-{n}.bin").exists())


def set_aside(directory: Path, seq: int) -> list[Path]:
    """What was cut off after record `seq`. Nothing of it is in the journal yet while that is the last record: whoever
    cut it off may have died before it could say so."""
    return sorted(directory.glob(f"torn-{seq:012d}-*.bin"))


class OffsetIndex:
    """Sparse seq -> offset of segments, filled by whoever reads or writes; shared between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[int, tuple[list[int], list[int]]] = {}

    def note(self, position: Position) -> None:
        """Remember the place after record `seq`, for one in JOURNAL_OFFSET_EVERY_RECORDS."""
        if position.seq % JOURNAL_OFFSET_EVERY_RECORDS:
            return
        with self._lock:
            seqs, offsets = self._places.setdefault(position.segment_first_seq, ([], []))
            at = bisect.bisect_left(seqs, position.seq)
            if at == len(seqs) or seqs[at] != position.seq:
                seqs.insert(at, position.seq)
                offsets.insert(at, position.offset)

    def forget(self, segment_first_seq: int) -> None:
        """The file of this segment was replaced."""
        with self._lock:
            self._places.pop(segment_first_seq, None)

    def find(self, segment_first_seq: int, seq: int) -> tuple[int, int] | None:
        """The nearest known (seq, offset after it) that is before `seq`."""
        with self._lock:
            seqs, offsets = self._places.get(segment_first_seq, ([], []))
            at = bisect.bisect_left(seqs, seq) - 1
            return (seqs[at], offsets[at]) if at >= 0 else None


def _scan_from(
    directory: Path, from_seq: int, until_seq: int | None, index: OffsetIndex | None
) -> Iterator[tuple[Record, Position]]:
    """Records from `from_seq` to `until_seq` with the place after each; starts at the nearest known offset."""
    segments = list_segments(directory)
    if not segments:
        raise corrupt(directory / "journal", 0, "the session has no journal")
    firsts = [first for first, _ in segments]
    if from_seq < firsts[0]:
        raise corrupt(segments[0][1], 0, f"the segment with seq {from_seq} is missing")
    for at in range(bisect.bisect_right(firsts, from_seq) - 1, len(segments)):
        first, path = segments[at]
        next_first = firsts[at + 1] if at + 1 < len(segments) else None
        is_open = next_first is None and not is_packed(path)
        try:
            known = _nearest(path, first, from_seq, index)
            if known:
                position = Position(known[0], first, known[1], "", 0)
            else:
                header, offset = read_header(path)
                position = Position(first - 1, first, offset, header.first_prev, 0)
            scan = SegmentScan(path, position, next_first)
            for record in scan:
                if index:
                    index.note(scan.position)
                if until_seq is not None and record.seq > until_seq:
                    return
                if record.seq >= from_seq:
                    yield record, scan.position
                if record.seq == until_seq:
                    return
            position = scan.position
        except Corrupt as fault:
            # What a writer has not finished, or a crash cut, is not there yet; anything else is reported.
            if is_open and until_seq is None and not count_valid_lines(path, int(fault.details["offset"])):
                return
            raise
        if _is_cut_short(path, position.seq, next_first):
            raise corrupt(path, position.offset, f"records after seq {position.seq} are missing")


def _nearest(path: Path, first_seq: int, seq: int, index: OffsetIndex | None) -> tuple[int, int] | None:
    """The nearest (seq, offset after it) before `seq` that is known of a segment: a packed one knows its members."""
    places = [index.find(first_seq, seq)] if index else []
    if is_packed(path) and first_seq < seq:
        # Where a member is damaged the reader meets it, after what is sound before it.
        with _packed_file(path) as file, contextlib.suppress(Corrupt):
            for member in file.members():
                if member.first_seq > seq:
                    break
                if member.offset:
                    places.append((member.first_seq - 1, member.offset))
    return max(filter(None, places), default=None)


def read_records(
    directory: Path,
    from_seq: int = 1,
    limit: int | None = None,
    until_seq: int | None = None,
    index: OffsetIndex | None = None,
) -> Iterator[Record]:
    """At most `limit` records from `from_seq` to `until_seq`, both included, in bounded memory.

    Without `until_seq` it reads up to the last whole line. A corrupt journal gives what is before the fault and then
    raises Corrupt.
    """
    if (limit is not None and limit <= 0) or (until_seq is not None and until_seq < from_seq):
        return
    for count, (record, _) in enumerate(_scan_from(directory, max(from_seq, 1), until_seq, index), 1):
        yield record
        if count == limit:
            return


def read_before(directory: Path, seq: int, count: int, index: OffsetIndex | None = None) -> list[Record]:
    """The `count` records before `seq`, oldest first: a page backwards."""
    first = max(1, seq - count)
    return list(read_records(directory, first, until_seq=seq - 1, index=index))


def locate(directory: Path, seq: int, index: OffsetIndex | None = None) -> Position:
    """The place after record `seq`, which must exist."""
    for _, position in _scan_from(directory, seq, seq, index):
        return position
    raise corrupt(list_segments(directory)[-1][1], 0, f"record {seq} is missing")


def read_ending_at(directory: Path, position: Position) -> Record:
    """The record that ends at a place, from its own bytes alone. Raises Corrupt."""
    path = directory / segment_name(position.segment_first_seq)
    line = b""
    start = position.offset
    with open_segment(path) as file:
        while start > 0 and b"\n" not in line[:-1]:
            begin = max(0, start - _LINE_CHUNK_BYTES)
            file.seek(begin)
            line = file.read(start - begin) + line
            start = begin
    line = line[line.rfind(b"\n", 0, -1) + 1 :]
    try:
        return parse_line(line)
    except BadLine as bad:
        raise corrupt(path, position.offset - len(line), str(bad)) from None
