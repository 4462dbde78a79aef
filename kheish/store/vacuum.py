"""Vacuum: the closed segments of a session become packed ones, which hold the same bytes and read the same.

A segment is closed once another one begins after it: nothing is written to it again. Its packed form is written beside
it under a temporary name, synced, read back and compared byte for byte, then named, and only when that name is durable
is the plain one unlinked. So a crash leaves the plain one, both or the packed one, and each reads the same; the next
vacuum ends what this one began. Only the exchange of names holds the session's lock, for a moment; a session that
somebody else has open is left alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

from kheish.errors import Conflict, Corrupt, StoreError
from kheish.limits import CHECKPOINTS_KEPT, PACKED_MEMBER_BYTES
from kheish.store import atomic
from kheish.store.checkpoint import list_checkpoints
from kheish.store.locks import SessionLock
from kheish.store.packed import is_packed, pack, packed_path
from kheish.store.records import Header, Position, reframe_header
from kheish.store.segments import SegmentScan, corrupt, list_segments, open_packed, open_segment, read_header


def vacuum_session(directory: Path, pause: Callable[[], None] = lambda: None) -> None:
    """Pack the closed segments, oldest first, and delete unfinished files and superseded checkpoints. `pause` is called
    between short pieces of the work; what it raises ends it.

    Raises Conflict `session_locked`, Corrupt (a damaged segment stays as it is), NewerFormat or OSError; what was done
    until then is whole.
    """
    with _locked(directory):
        atomic.clear_temps(directory)
        for _, path in list_checkpoints(directory)[CHECKPOINTS_KEPT:]:
            os.unlink(path)
    segments = list_segments(directory)
    newest = segments[-1:]
    for (first_seq, path), following in pairwise(segments):
        try:
            after, _ = read_header(following[1], directory.name)
        except Corrupt as fault:
            if [following] == newest and not is_packed(following[1]) and not fault.details["valid_after"]:
                return  # a crash cut its beginning short: the one before it is not closed
            raise
        if not is_packed(path):
            _pack(path, first_seq, following[1], after, pause)
        pause()


def _pack(path: Path, first_seq: int, following: Path, after: Header, pause: Callable[[], None]) -> None:
    with _locked(path.parent):
        pass  # for one that is in use it would be done in vain
    _prove(path, first_seq, after, pause)
    temp = atomic.temp_beside(path)
    try:
        _write(temp, path, first_seq, pause)
        with _locked(path.parent):
            if following == list_segments(path.parent)[-1][1]:
                _settle_header(following, after)
            os.replace(temp, packed_path(path))
            atomic.sync_dir(path.parent)
            os.unlink(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        if isinstance(error, FileNotFoundError):
            raise Conflict(
                f"cannot vacuum session {path.parent.name}: another process has opened it meanwhile; try again",
                code="session_locked",
            ) from error
        raise


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    lock = SessionLock(directory).acquire()
    try:
        yield
    finally:
        lock.release()


def _prove(path: Path, first_seq: int, after: Header, pause: Callable[[], None]) -> None:
    """A segment that does not lead up to the next one is damaged, and not to be touched. Raises Corrupt."""
    header, offset = read_header(path, path.parent.name)
    scan = SegmentScan(path, Position(first_seq - 1, first_seq, offset, header.first_prev, 0), after.first_seq)
    for _ in scan:
        pause()
    end = scan.position
    if (end.seq + 1, end.chain) != (after.first_seq, after.chain):
        raise corrupt(path, end.offset, f"it does not lead up to record {after.first_seq} of the segment after it")


def _write(temp: Path, path: Path, first_seq: int, pause: Callable[[], None]) -> None:
    """The packed form of a segment, durable and read back."""
    fd = os.open(temp, atomic.CREATE_FLAGS, 0o600)
    try:
        with open_segment(path) as plain:
            for member in pack(plain, first_seq):
                atomic.write_all(fd, member)
                pause()
        atomic.sync_file(fd)
    finally:
        os.close(fd)
    with contextlib.suppress(Corrupt), open_segment(path) as plain, open_packed(temp) as packed:
        while (chunk := plain.read(PACKED_MEMBER_BYTES)) == packed.read(PACKED_MEMBER_BYTES):
            if not chunk:
                return
            pause()
    raise StoreError(f"cannot pack {path}: it reads back as other bytes; see to the disk", code="disk_failed")


def _settle_header(newest: Path, header: Header) -> None:
    """Make sure that the newest segment outlives a crash, as opening does: whoever began it may have died before it
    was durable, and then the one before it would not be closed. Raises Corrupt where it changed meanwhile."""
    if read_header(newest)[0] != header:
        raise corrupt(newest, 0, "it was changed while the one before it was packed")
    fd = os.open(newest, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        atomic.write_all(fd, reframe_header(header))
        atomic.sync_data(fd)
    finally:
        os.close(fd)
