"""The directory of one session: made whole, opened from its newest checkpoint, never deleted here.

Opening reads the newest good checkpoint and the records after it. A torn tail is copied aside and cut before the
first append. What is left of the tail is written over itself and synced, unless it is known to be durable: a process
that died between write and sync leaves records that this one can read and the disk may not have.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from kheish.errors import Conflict, Corrupt, Invalid, NotFound
from kheish.ids import is_session_name
from kheish.store import atomic
from kheish.store.checkpoint import good_checkpoints
from kheish.store.disk_space import file_sizes
from kheish.store.framing import ZERO_CHAIN
from kheish.store.journal import Journal
from kheish.store.locks import SessionLock
from kheish.store.packed import first_seq_of
from kheish.store.records import Header, Position, Record, frame_header, reframe_header, segment_name
from kheish.store.segments import OffsetIndex, TornTail, Walk, corrupt, read_ending_at, repair, set_aside

_UNFINISHED_PREFIX = ".new-"
_LOCK_PATIENCE_S = 1.0
_LOCK_LOOK_S = 0.005


S = TypeVar("S")

Fold = Callable[[bytes | None, Iterable[Record]], S]
"""Makes a session's state of a checkpoint's, if there is one, and of the records after it, as they are read: they may
be too many to be held."""


class Opened(NamedTuple, Generic[S]):
    """A session ready for its actor: the folded state, what was `set_aside` to note, and the journal to append to.
    `last` is the last record, unless that is the checkpoint's."""

    state: S
    checkpoint_seq: int
    last: Record | None
    set_aside: list[Path]
    journal: Journal


class Loaded(NamedTuple, Generic[S]):
    """A session as it can be read without its lock. `last` is its last record; `fault` is where reading had to stop."""

    state: S
    checkpoint_seq: int
    last: Record | None
    torn: TornTail | None
    fault: Corrupt | None


class SessionInfo(msgspec.Struct, frozen=True):
    """A session's newest segment and its size, which changes with every append, and what its other files take."""

    session_id: str
    segment: str
    size: int
    other_bytes: int


def sessions_dir(root: Path) -> Path:
    return root / "sessions"


def session_path(root: Path, session_id: str) -> Path:
    """Where a session lives; the name cannot lead elsewhere."""
    if not is_session_name(session_id):
        raise Invalid(
            "cannot use this session id: it takes 1-128 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit",
            path="session_id",
        )
    return sessions_dir(root) / session_id


class SessionDir:
    """The ways into a session's directory."""

    @staticmethod
    def new(root: Path, session_id: str) -> Journal:
        """A session that is made with its first records, durably and all at once; until then it is nowhere but here.
        Its first commit raises Conflict `session_exists` where the name is taken."""
        path = session_path(root, session_id)
        line, header = frame_header(session_id, 1, 1, ZERO_CHAIN)

        def begin(records: bytes) -> tuple[SessionLock, int]:
            return _make(path, line + records)

        return Journal(path, header, Position(0, 1, len(line), header.first_prev, 0), OffsetIndex(), begin=begin)

    @staticmethod
    def open(
        root: Path, session_id: str, fold: Fold[S], *, reducer: int, durable: tuple[int, int, int] | None = None
    ) -> Opened[S]:
        """Take the session's lock, fold it, and repair a torn tail. `durable`: the last record, the first seq of its
        segment and the size of that, where the journal is known to be durable up to there.

        Raises NotFound, Conflict `session_locked`, Corrupt (nothing was changed then), NewerFormat, OSError, or what
        `fold` raises.
        """
        path = _existing(root, session_id)
        lock = _lock(path)
        try:
            return _open(path, fold, reducer, lock, durable)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def read_only(root: Path, session_id: str, fold: Fold[S], *, reducer: int) -> Loaded[S]:
        """The state up to the last whole record, or up to the fault, without lock or repair."""
        reading = _Reading(_existing(root, session_id), reducer)
        faults: list[Corrupt] = []

        def until_fault() -> Iterator[Record]:
            try:
                yield from reading
            except Corrupt as error:
                faults.append(error)

        state = reading.fold(fold, until_fault())
        last = reading.last
        if last is None and reading.checkpoint is not None and not faults:
            try:
                last = read_ending_at(reading.walk.directory, reading.checkpoint.position)
            except Corrupt as error:
                faults.append(error)
        return Loaded(state, reading.checkpoint_seq, last, reading.walk.torn, faults[0] if faults else None)


def make_sessions_dir(root: Path) -> None:
    """Durably, also where whoever made it died before its name was durable; once in the life of a process."""
    atomic.make_private_dir(sessions_dir(root))


def _make(path: Path, data: bytes) -> tuple[SessionLock, int]:
    """A session whose first segment holds this: its lock, and a descriptor that writes on. Nobody else can have had
    either. Raises Conflict `session_exists`."""
    building, fd = unfinished_path(path), -1
    lock = SessionLock(building)
    try:
        _make_building(building)
        lock.acquire()
        fd = atomic.begin_file(f"{building}/{segment_name(1)}", data)
        publish(lock, path)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        lock.release()
        shutil.rmtree(building, ignore_errors=True)
        raise
    return lock, fd


def _make_building(building: Path) -> None:
    try:
        os.mkdir(building, 0o700)
    except FileNotFoundError:
        atomic.make_private_dir(building.parent)
        os.mkdir(building, 0o700)


def session_names(root: Path) -> list[str]:
    """Every session; unfinished ones are not sessions."""
    try:
        with os.scandir(sessions_dir(root)) as entries:
            return sorted(e.name for e in entries if is_session_name(e.name) and e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def list_sessions(root: Path) -> Iterator[SessionInfo]:
    """Every session with its newest segment, from names and one stat each."""
    for name in session_names(root):
        yield session_info(root, name)


def session_info(root: Path, session_id: str) -> SessionInfo:
    try:
        sizes = file_sizes(f"{sessions_dir(root)}/{session_id}")
    except OSError:  # what is wrong with it, whoever opens it says
        sizes = {}
    newest = max((file for file in sizes if first_seq_of(file) is not None), default="")
    size = sizes.get(newest, 0)
    return SessionInfo(session_id, newest, size, sum(sizes.values()) - size)


@contextlib.contextmanager
def open_sessions_dir(root: Path) -> Iterator[int | None]:
    """A descriptor of the directory of all sessions; None where there is none yet."""
    try:
        fd = os.open(sessions_dir(root), atomic.DIR_FLAGS)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def ends_at(sessions_fd: int | None, session_id: str, seq: int, segment_first_seq: int, size: int) -> bool:
    """Whether a session's journal ends with this record, at this byte of this segment. Two looks tell: a newer segment
    would begin with the next record, unless this one does, and is empty."""
    path = f"{session_id}/{segment_name(segment_first_seq)}"
    try:
        status = os.stat(path, dir_fd=sessions_fd, follow_symlinks=False)
    except OSError:
        return False
    if status.st_size != size or segment_first_seq == seq + 1:
        return status.st_size == size
    return not os.access(f"{session_id}/{segment_name(seq + 1)}", os.F_OK, dir_fd=sessions_fd)


def clear_unfinished(root: Path) -> None:
    """Delete what a crash left of sessions in the making; only under the daemon's lock."""
    try:
        entries = list(os.scandir(sessions_dir(root)))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.name.startswith(_UNFINISHED_PREFIX) and entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(Conflict, FileNotFoundError):  # somebody is making it, or has made it just now
                lock = SessionLock(Path(entry.path)).acquire()
                try:
                    shutil.rmtree(entry.path, ignore_errors=True)
                finally:
                    lock.release()


def unfinished_path(path: Path) -> Path:
    """Where a session is built before it has this path."""
    return Path(f"{path.parent}/{_UNFINISHED_PREFIX}{path.name}-{random.getrandbits(32):08x}")


def publish(lock: SessionLock, path: Path) -> None:
    """Give a finished directory, whose files are synced and whose lock is held, its name. On failure it has the first
    one again, and the caller deletes it. Raises Conflict `session_exists`.
    """
    building = lock.directory
    lock.sync_names()
    if os.path.lexists(path):  # for one that has lost all its files is none that may be made anew
        raise session_exists(path.name)
    try:
        lock.rename(path)  # which replaces nothing that has anything in it
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise session_exists(path.name) from error
        raise
    try:
        atomic.sync_dir(path.parent)
    except OSError as error:  # whether the name is durable is not known: who is refused is to find none
        try:
            lock.rename(building)
            atomic.sync_dir(path.parent)
        except OSError:
            raise OSError(error.errno, f"{error.strerror} (it may be there after a restart)") from error
        raise


def _existing(root: Path, session_id: str) -> Path:
    path = session_path(root, session_id)
    if not path.is_dir():
        raise NotFound(f"cannot open session {session_id}: there is none of this name", code="session_not_found")
    return path


def session_exists(session_id: str) -> Conflict:
    return Conflict(f"cannot create session {session_id}: it exists already; choose another id", code="session_exists")


def _lock(path: Path) -> SessionLock:
    """The session's lock, which a vacuum holds for a moment. Raises Conflict `session_locked`."""
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            return SessionLock(path).acquire()
        except Conflict:
            if time.monotonic() > deadline:
                raise
        time.sleep(_LOCK_LOOK_S)


def _open(
    path: Path, fold: Fold[S], reducer: int, lock: SessionLock, durable: tuple[int, int, int] | None
) -> Opened[S]:
    atomic.clear_temps(path)
    reading = _Reading(path, reducer)
    state = reading.fold(fold, iter(reading))
    header, position = reading.walk.header, reading.walk.position
    assert header is not None and position is not None
    if reading.walk.torn is not None:
        repair(path, reading.walk.torn, position.seq)
    if (position.seq, header.first_seq, position.offset) != durable:
        _settle(path / segment_name(header.first_seq), header, position, reading.newest)
    other_bytes = sum(file_sizes(path).values()) - position.offset
    torn = set_aside(path, position.seq)
    journal = Journal(path, header, position, reading.index, lock, other_bytes)
    return Opened(state, reading.checkpoint_seq, reading.last, torn, journal)


class _Reading:
    """The newest good checkpoint and, by iteration, the proven records after it; of these the `last`, and the lines of
    the `newest` segment."""

    def __init__(self, path: Path, reducer: int) -> None:
        self.index = OffsetIndex()
        self.last: Record | None = None
        self.newest: list[bytes] = []
        self._witness_seq = 0
        checkpoint = None
        for found in good_checkpoints(path):
            self._witness_seq = max(self._witness_seq, found.seq)
            if found.reducer == reducer:
                checkpoint = found
                break
        self.checkpoint = checkpoint
        self.checkpoint_seq = checkpoint.seq if checkpoint else 0
        self.walk = Walk(path, path.name, checkpoint.position if checkpoint else None)

    def fold(self, fold: Fold[S], records: Iterator[Record]) -> S:
        """Of all that there are, as many of them as it wants to know of."""
        state = fold(bytes(self.checkpoint.state) if self.checkpoint else None, records)
        for _ in records:
            pass
        return state

    def __iter__(self) -> Iterator[Record]:
        header = None
        for record in self.walk:
            assert self.walk.position is not None
            self.index.note(self.walk.position)
            if self.walk.header is not header:
                header, self.newest = self.walk.header, []
            self.newest.append(record.line)
            self.last = record
            yield record
        position = self.walk.position
        assert position is not None
        if position.seq < self._witness_seq:
            raise corrupt(
                self.walk.directory / segment_name(position.segment_first_seq),
                position.offset,
                f"the journal ends at seq {position.seq} and a checkpoint has seen seq {self._witness_seq}",
            )


def _settle(path: Path, header: Header, position: Position, lines: list[bytes]) -> None:
    """Write the lines that were read of the newest segment over themselves, and sync it with its name.

    What lies before a checkpoint was durable when that was made. Whoever made the session may have died before its
    name was durable.
    """
    data = reframe_header(header) if position.seq < header.first_seq else b"".join(lines)
    if not data:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.lseek(fd, position.offset - len(data), os.SEEK_SET)
        atomic.write_all(fd, data)
        atomic.sync_data(fd)
    finally:
        os.close(fd)
    atomic.sync_dir(path.parent)
    if header.first_seq == 1:
        atomic.sync_dir(path.parent.parent)
