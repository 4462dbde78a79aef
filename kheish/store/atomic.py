"""Durable primitives on files and directories; every sync of the product goes through this module.

Rules and their sources: a name is durable after a sync of its directory, a replaced file only if its bytes were
synced before the rename (fsync(2), rename(2); "All File Systems Are Not Created Equal", OSDI'14); a short write is
continued, never repeated from the start. On macOS fsync does not reach the platter and F_FULLFSYNC does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import sys
from pathlib import Path

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""A FIFO in the place of a file makes nobody wait."""
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
DIR_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY

_FAILURES_OF_DISKS = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ESTALE, errno.EISDIR)

TEMP_PREFIX = ".tmp-"
"""Names that start so are unfinished and may be deleted by whoever holds the lock over their directory."""

if sys.platform == "darwin":

    def sync_file(fd: int) -> None:
        """Make a file's bytes and size durable."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

    sync_data = sync_file
else:

    def sync_file(fd: int) -> None:
        """Make a file's bytes and metadata durable."""
        os.fsync(fd)

    def sync_data(fd: int) -> None:
        """Make a file's bytes and size durable; enough for an append (fdatasync(2))."""
        os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, going on after a short write; EINTR is retried by Python itself (PEP 475)."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        written += os.write(fd, view[written:])


def sync_dir(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, DIR_FLAGS)
    try:
        sync_names(fd)
    finally:
        os.close(fd)


def sync_names(fd: int) -> None:
    """Make the names in an open directory durable."""
    os.fsync(fd)


def make_private_dir(path: Path) -> None:
    """Make a directory, 0700, with its parents; the names are durable on return, also where another process made
    the directory and died before it could sync."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        with contextlib.suppress(PermissionError):  # a parent that we may not read is not ours to make durable
            sync_dir(path.parent)
        return
    except FileNotFoundError:
        if path.parent.is_dir():
            raise  # such as below /proc, where nobody can make anything
        make_private_dir(path.parent)
        make_private_dir(path)
        return
    sync_dir(path.parent)


def temp_beside(path: Path) -> Path:
    """A fresh name in the same directory, so that a rename cannot cross file systems."""
    return path.with_name(f"{TEMP_PREFIX}{secrets.token_hex(8)}")


def create_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Create a file that must not exist and make its bytes durable; the name still needs `sync_dir`. Where that fails
    there is none."""
    os.close(begin_file(path, data, mode))


def begin_file(path: Path | str, data: bytes, mode: int = 0o600) -> int:
    """Like `create_file`, for who writes on: a descriptor that stands after the data."""
    fd = os.open(path, CREATE_FLAGS, mode)
    try:
        write_all(fd, data)
        sync_file(fd)
    except BaseException:
        os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    return fd


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`: after a crash the file is the old or the new one, whole; durable on return."""
    temp = temp_beside(path)
    try:
        create_file(temp, data, mode)
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise
    sync_dir(path.parent)


def place_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`: readers find the old file or the new one, whole. What a crash of the system leaves is not
    known, so only for what may be lost."""
    temp = temp_beside(path)
    try:
        fd = os.open(temp, CREATE_FLAGS, mode)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        os.replace(temp, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temp)
        raise


def open_file(path: Path) -> int:
    """A descriptor that reads a regular file, never through a symbolic link. Raises OSError, which names it."""
    fd = os.open(path, READ_FLAGS)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", os.fspath(path))
    return fd


def is_shortage(error: OSError) -> bool:
    """Whether this process lacks descriptors or memory for now, and nothing is wrong with what it looked for."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_of_files(error: OSError) -> bool:
    """Whether a file or its disk is at fault, and no socket or child: that names a file, or fails as only disks do."""
    return bool(error.filename) or error.errno in _FAILURES_OF_DISKS or is_shortage(error)


def read_file(path: Path) -> bytes:
    """All bytes of a regular file. Raises OSError."""
    with os.fdopen(open_file(path), "rb") as file:
        return file.read()


def clear_temps(directory: Path) -> None:
    """Delete unfinished files; only for the holder of the lock over this directory. A vacuum, which holds it only now
    and then, may be there first with its own."""
    for entry in os.scandir(directory):
        if entry.name.startswith(TEMP_PREFIX) and entry.is_file(follow_symlinks=False):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
