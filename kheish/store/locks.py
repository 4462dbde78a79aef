"""Who may write: one daemon per state root, one writer per session, and a generation that only grows.

flock(2) on what is never unlinked: record locks vanish with any descriptor of the file, and an unlinked lock file gives
two holders two inodes, hence the comparison of the descriptor with the name after locking. The content of the daemon's
lock file is information, never the lock. A session's lock is on its directory itself: who gets another directory of
the same name gets other files too, and can neither harm nor be harmed by who holds the first one. A generation is
durable before it is used, so that a reader can tell a stale writer's records (fencing; a smaller generation after a
larger one is a fork).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import msgspec

from kheish.errors import Conflict, Corrupt, StoreError
from kheish.store.atomic import DIR_FLAGS, make_private_dir, sync_data, sync_names, write_all
from kheish.store.documents import read_document, write_document

_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_DIR_FLAGS = DIR_FLAGS | os.O_NOFOLLOW
_OWNER_BYTES_MAX = 4096
_LOOK_S, _OWNER_LOOKS = 0.02, 50
Inode = tuple[int, int]
# The last one is NFS, where whoever locks exclusively must be able to write.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}


class Owner(msgspec.Struct, frozen=True):
    """What a lock's holder wrote into the locked file."""

    pid: int
    started_at_ms: int
    generation: int


class _Generation(msgspec.Struct):
    generation: int


class _Held(Exception):
    """Somebody else has the lock."""


def _lock(path: Path, flags: int) -> tuple[int, Inode]:
    """A descriptor that holds the lock on what has this name now, and what that is."""
    while True:
        fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            inode = _inode_of(fd)
            if inode is not None and inode == _inode_of(path):
                return fd, inode
        except BlockingIOError:
            os.close(fd)
            raise _Held from None
        except OSError as error:
            os.close(fd)
            if error.errno in _UNSUPPORTED:
                raise StoreError(
                    f"cannot lock {path}: the file system does not support flock ({os.strerror(error.errno)}); "
                    "put the state root on a local file system",
                    code="locks_unsupported",
                ) from error
            raise
        os.close(fd)


def _has_name(fd: int, path: Path) -> bool:
    """Whether an open file is the one that has this name now."""
    return _inode_of(fd) == _inode_of(path)


def _inode_of(file: int | Path) -> Inode | None:
    """The identity of a file by its descriptor or its name; None where nothing has this name."""
    try:
        found = os.stat(file) if isinstance(file, int) else os.lstat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _decode_owner(data: bytes) -> Owner | None:
    try:
        return msgspec.json.decode(data, type=Owner)
    except msgspec.MsgspecError:
        return None


def read_owner(root: Path) -> Owner | None:
    """Who holds, or last held, the state root; None where nobody did or the file is just being written."""
    try:
        fd = os.open(root / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return _decode_owner(os.pread(fd, _OWNER_BYTES_MAX, 0))
    finally:
        os.close(fd)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True


def is_state_root_locked(root: Path) -> bool:
    """Whether a daemon holds the state root now. Only the lock knows: the content of the file outlives its writer."""
    try:
        fd = os.open(root / "daemon.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


class DaemonLock:
    """The state root's lock, held for the daemon's life; death of the process releases it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fd: int | None = None
        self._started_at_ms = 0
        self.generation = 0
        self._raising = threading.Lock()

    def acquire(self, *, now_ms: int | None = None, generation_min: int = 0) -> DaemonLock:
        """Take the lock and the next generation, which is above every earlier one and at least `generation_min`.

        Raises Conflict `state_root_locked` with the holder's pid, started_at_ms and generation.
        """
        make_private_dir(self._root)
        make_private_dir(self._root / "daemon")
        for is_last_try in (False, True):
            try:
                self._fd, _ = _lock(self._root / "daemon.lock", _FILE_FLAGS)
                break
            except _Held:
                if is_last_try:
                    raise self._conflict() from None
                # Somebody may only have looked (`is_state_root_locked`), which takes microseconds.
                time.sleep(_LOOK_S)
        self._started_at_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        try:
            self._advance(self._last_generation() + 1, generation_min)
        except BaseException:
            self.release()
            raise
        return self

    def raise_generation(self, minimum: int) -> int:
        """Make the generation at least `minimum`, durably: for a session that comes from another state root. From any
        thread."""
        if self._fd is None or not _has_name(self._fd, self._root / "daemon.lock"):
            raise StoreError(
                f"cannot raise the generation: this process does not hold {self._root} any more, since its lock file "
                "was deleted or replaced; stop this daemon",
                code="not_locked",
            )
        with self._raising:
            if minimum > self.generation:
                self._advance(minimum, minimum)
            return self.generation

    def release(self) -> None:
        """Let go; the file stays."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _advance(self, generation: int, minimum: int) -> None:
        assert self._fd is not None
        generation = max(generation, minimum)
        write_document(self._root / "daemon" / "generation.json", _Generation(generation))
        owner = Owner(pid=os.getpid(), started_at_ms=self._started_at_ms, generation=generation)
        data = msgspec.json.encode(owner) + b"\n"
        os.lseek(self._fd, 0, os.SEEK_SET)
        write_all(self._fd, data)
        os.ftruncate(self._fd, len(data))
        sync_data(self._fd)
        self.generation = generation

    def _last_generation(self) -> int:
        """The larger of the document and the lock file: either may be lost, neither may be guessed."""
        assert self._fd is not None
        owner = _decode_owner(os.pread(self._fd, _OWNER_BYTES_MAX, 0))
        try:
            document = read_document(self._root / "daemon" / "generation.json", _Generation).generation
        except FileNotFoundError:
            document = 0
        except Corrupt:
            if owner is None:
                raise
            document = 0
        return max(document, owner.generation if owner else 0)

    def _conflict(self) -> Conflict:
        owner = read_owner(self._root)
        for _ in range(_OWNER_LOOKS):  # whoever won just now has not said yet who it is
            if owner is not None and _is_alive(owner.pid):
                break
            time.sleep(_LOOK_S)
            owner = read_owner(self._root)
        if owner is None:
            holder, details = "another process", {}
        else:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner.started_at_ms / 1000))
            holder = f"the daemon with pid {owner.pid}, running since {since} (generation {owner.generation})"
            details = msgspec.structs.asdict(owner)
        return Conflict(
            f"cannot use {self._root}: it is held by {holder}; stop that daemon first or choose another state root",
            code="state_root_locked",
            **details,
        )


class SessionLock:
    """The lock of one session's single writer: on its directory, which keeps it under another name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd: int | None = None
        self._inode: Inode | None = None

    def acquire(self) -> SessionLock:
        """Raises Conflict `session_locked`, or FileNotFoundError."""
        try:
            self._fd, self._inode = _lock(self.directory, _DIR_FLAGS)
        except _Held:
            raise Conflict(
                f"cannot write to session {self.directory.name}: another process has it open; close that one first",
                code="session_locked",
            ) from None
        return self

    def rename(self, path: Path) -> None:
        """Give the locked directory another name. Raises OSError where something else has it."""
        os.replace(self.directory, path)
        self.directory = path

    def sync_names(self) -> None:
        """Make the names in the directory durable."""
        assert self._fd is not None
        sync_names(self._fd)

    def is_held(self) -> bool:
        """Whether nobody else can have it: the locked directory still has its name."""
        return self._fd is not None and _inode_of(self.directory) == self._inode

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
