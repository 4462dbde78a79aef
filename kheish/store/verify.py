"""The check of a session's files that users can run: reads everything, writes nothing, reports every fault it finds.

It stands apart from the walk that opening uses: it goes on after a fault, from the next line that is sound in itself,
or from the next segment where one that is packed cannot be unpacked.
Beside a running daemon it reads up to the last newline, as every reader does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from kheish.errors import Corrupt, KheishError, NotFound
from kheish.limits import MIB, RECORD_BYTES_MAX
from kheish.store.blobs import Blobs
from kheish.store.checkpoint import Checkpoint, checkpoint_name, list_checkpoints, read_checkpoint
from kheish.store.framing import ZERO_CHAIN
from kheish.store.packed import first_seq_of, is_packed
from kheish.store.records import BadLine, Header, Record, parse_header, parse_line
from kheish.store.segments import list_segments, open_segment, read_records

FAULTS_MAX = 100
"""A file that is wrong throughout says so in this many faults."""

_LISTINGS_MAX = 5

Fold = Callable[[Iterable[Record]], bytes]
BlobRefs = Callable[[Record], Iterable[str]]


class Fault(msgspec.Struct, frozen=True):
    """One finding. `line` counts from 1, `offset` is in bytes; both 0 where the file as a whole is meant."""

    file: str
    line: int
    offset: int
    reason: str


def verify_session(
    directory: Path,
    fold: Fold | None = None,
    *,
    reducer: int | None = None,
    blob_refs: BlobRefs | None = None,
    blobs: Blobs | None = None,
    live: bool = False,
) -> list[Fault]:
    """Check framing, chain, generations, continuity, checkpoints and blobs; no fault, no entry.

    With `fold` (records -> canonical state bytes) the journal must have one, and each checkpoint of `reducer` is
    compared with it. With `blob_refs` and `blobs` each blob that a record names is read back. With `live` a daemon may
    be writing.
    """
    for _ in range(_LISTINGS_MAX):
        check = _Check(directory, blob_refs, blobs, live)
        check.run(fold, reducer)
        if not (live and check.faults and list_segments(directory) != check.segments):
            break  # else a segment began meanwhile, and what looked like a fault was its beginning
    return check.faults


class _Check:
    def __init__(self, directory: Path, blob_refs: BlobRefs | None, blobs: Blobs | None, live: bool) -> None:
        self.directory = directory
        self.faults: list[Fault] = []
        self.segments = list_segments(directory)
        self._blob_refs = blob_refs
        self._blobs = blobs
        self._live = live
        self._blobs_seen: set[str] = set()
        self._seq = 0
        self._gen = 0
        self._chain: str | None = ZERO_CHAIN
        self._header: Header | None = None
        self._places: dict[int, tuple[int, int, str]] = {}

    def run(self, fold: Fold | None, reducer: int | None) -> None:
        checkpoints = self._read_checkpoints()
        if not self.segments:
            self._report(self.directory, 0, 0, "the session has no journal")
        wanted = {checkpoint.seq for checkpoint in checkpoints}
        for index, (_, path) in enumerate(self.segments):
            following = self.segments[index + 1][1] if index + 1 < len(self.segments) else None
            try:
                self._check_segment(path, following, wanted)
            except (Corrupt, OSError) as damage:
                if isinstance(damage, Corrupt):
                    self._report(path, damage.details["line"], damage.details["offset"], damage.details["reason"])
                else:
                    self._report(path, 0, 0, damage.strerror or str(damage))
                    self._header = None
                next_first = first_seq_of(following.name) if following else None
                self._seq, self._chain = (next_first or 1) - 1, None
        for checkpoint in checkpoints:
            self._check_checkpoint(checkpoint)
            if fold is not None and checkpoint.reducer == reducer and not self.faults:
                self._check_fold(checkpoint, fold)
        if fold is not None and not self.faults:
            self._fold(self.segments[-1][1], self._seq, fold)

    def _report(self, path: Path, line: int, offset: int, reason: str) -> None:
        if len(self.faults) < FAULTS_MAX:
            self.faults.append(Fault(str(path), line, offset, reason))

    def _read_checkpoints(self) -> list[Checkpoint]:
        found = []
        for _, path in list_checkpoints(self.directory):
            checkpoint = read_checkpoint(path)
            if checkpoint is not None and checkpoint.session == self.directory.name:
                found.append(checkpoint)
            elif path.exists():  # a daemon deletes old ones
                self._report(path, 1, 0, "bad checkpoint" if checkpoint is None else "checkpoint of another session")
        return found

    def _check_segment(self, path: Path, following: Path | None, wanted: set[int]) -> None:
        with open_segment(path) as file:
            line = file.readline(RECORD_BYTES_MAX + 1)
            if self._live and following is None and not line.endswith(b"\n"):
                return
            self._check_header(path, line)
            stop_seq = _replaced_from(following)
            offset, number = len(line), 2
            while stop_seq is None or self._seq + 1 < stop_seq:
                line = file.readline(RECORD_BYTES_MAX + 1)
                if not line or (self._live and following is None and not line.endswith(b"\n")):
                    break
                self._check_record(path, number, offset, line, wanted)
                offset += len(line)
                number += line.endswith(b"\n")
            while is_packed(path) and file.read(MIB):
                pass  # every byte of it is to be proven, also of what was replaced
        if following is None:
            if is_packed(path):
                self._report(path, number, offset, "it is packed, and the segment after it is missing")
        else:
            first = first_seq_of(following.name) or 0
            if self._seq + 1 != first:
                self._report(path, number, offset, f"it ends at seq {self._seq} and the next segment starts at {first}")

    def _check_header(self, path: Path, line: bytes) -> None:
        first_seq = first_seq_of(path.name) or 0
        try:
            header = parse_header(line, path)
        except (BadLine, KheishError) as bad:
            self._report(path, 1, 0, f"segment header: {bad}")
            self._seq, self._chain, self._header = first_seq - 1, None, None
            return
        before = self._header
        if header.session != self.directory.name:
            self._report(path, 1, 0, f"segment of another session ({header.session})")
        if header.first_seq != first_seq:
            self._report(path, 1, 0, f"segment header names first seq {header.first_seq}")
        if self._chain is not None and header.chain != self._chain:
            self._report(path, 1, 0, "chain: this segment does not follow the one before it")
        expected = before.segment + (not header.replaces_tail) if before else header.segment
        if header.segment != expected or (path == self.segments[0][1] and (header.segment, first_seq) != (1, 1)):
            self._report(path, 1, 0, f"segment number {header.segment}, first seq {first_seq}: one is missing")
        self._seq, self._chain, self._header = first_seq - 1, header.first_prev, header

    def _check_record(self, path: Path, number: int, offset: int, line: bytes, wanted: set[int]) -> None:
        try:
            record = parse_line(line)
        except (BadLine, KheishError) as bad:
            self._report(path, number, offset, str(bad))
            self._seq, self._chain = self._seq + 1, None
            return
        if record.seq != self._seq + 1:
            self._report(path, number, offset, f"seq {record.seq} where {self._seq + 1} belongs")
        elif self._chain is not None and record.prev != self._chain:
            self._report(path, number, offset, "chain: this record does not follow the one before it")
        if record.gen < self._gen:
            self._report(path, number, offset, f"fork: generation {record.gen} after {self._gen}")
        self._seq, self._gen, self._chain = record.seq, max(self._gen, record.gen), record.sum
        if record.seq in wanted:
            first_seq = first_seq_of(path.name) or 0
            self._places[record.seq] = (first_seq, offset + len(line), record.sum)
        if self._blob_refs is not None and self._blobs is not None:
            for sha in self._blob_refs(record):
                self._check_blob(path, number, offset, sha, self._blobs)

    def _check_blob(self, path: Path, number: int, offset: int, sha: str, blobs: Blobs) -> None:
        if sha in self._blobs_seen:
            return
        self._blobs_seen.add(sha)
        try:
            blobs.verify(sha)
        except NotFound:
            self._report(path, number, offset, f"blob {sha} is missing")
        except (KheishError, OSError) as error:
            self._report(path, number, offset, f"blob {sha}: {error}")

    def _check_checkpoint(self, checkpoint: Checkpoint) -> None:
        path = self.directory / checkpoint_name(checkpoint.seq)
        if checkpoint.seq > self._seq:
            self._report(path, 1, 0, f"it has seen seq {checkpoint.seq} and the journal ends at {self._seq}")
        elif self._places.get(checkpoint.seq) != (
            checkpoint.segment_first_seq,
            checkpoint.offset,
            checkpoint.chain,
        ):
            self._report(path, 1, 0, f"it does not stand on record {checkpoint.seq}")

    def _check_fold(self, checkpoint: Checkpoint, fold: Fold) -> None:
        path = self.directory / checkpoint_name(checkpoint.seq)
        state = self._fold(path, checkpoint.seq, fold)
        if state is not None and state != bytes(checkpoint.state):
            self._report(path, 1, 0, "its state is not the fold of the journal")

    def _fold(self, path: Path, until_seq: int, fold: Fold) -> bytes | None:
        try:
            return fold(read_records(self.directory, 1, until_seq=until_seq))
        except Exception as error:  # whatever the fold trips over is a finding
            self._report(path, 1, 0, f"the journal cannot be folded: {error}")
            return None


def _replaced_from(following: Path | None) -> int | None:
    """The seq from which on the next segment replaces this one's records."""
    if following is None:
        return None
    try:
        with open_segment(following) as file:
            header = parse_header(file.readline(RECORD_BYTES_MAX + 1), following)
    except (BadLine, KheishError, OSError):
        return None
    return header.first_seq if header.replaces_tail else None
