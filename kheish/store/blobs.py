"""Content-addressed bytes: `blobs/<aa>/<sha256>`. A blob is durable before the record that names it is written.

Writing is idempotent: equal content is one file, and a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from kheish.errors import Corrupt, Invalid, NotFound
from kheish.limits import MIB
from kheish.store.atomic import (
    CREATE_FLAGS,
    TEMP_PREFIX,
    make_private_dir,
    open_file,
    read_file,
    sync_dir,
    sync_file,
    temp_beside,
    write_all,
)
from kheish.store.disk_space import file_sizes

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def is_blob_name(name: str) -> bool:
    """Whether this is a sha256 in lower-case hex, the only thing that may become a path here."""
    return _SHA256.match(name) is not None


class Blobs:
    """The blobs of one state root."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "blobs"
        self._known_dirs: set[Path] = set()
        self.bytes_total = 0
        """What all blobs take, as far as somebody measured or put them."""
        self._counting = threading.Lock()

    def put(self, data: bytes) -> str:
        """Store bytes durably; returns their sha256 in hex."""
        sha = hashlib.sha256(data).hexdigest()
        path = self.path(sha)
        is_stored = False
        with contextlib.suppress(OSError):  # what cannot be read is as bad as what reads otherwise
            is_stored = os.stat(path, follow_symlinks=False).st_size == len(data) and read_file(path) == data
        if not is_stored:
            return self.put_chunks((data,))
        self._make_dir(path.parent)
        sync_dir(path.parent)  # whoever renamed it here may have died before its own sync
        return sha

    def put_chunks(self, chunks: Iterable[bytes]) -> str:
        """As `put`, in bounded memory."""
        self._make_dir(self._directory)
        temp, fd = self._begin()
        hasher = hashlib.sha256()
        try:
            for chunk in chunks:
                hasher.update(chunk)
                write_all(fd, chunk)
            sync_file(fd)
            sha = hasher.hexdigest()
            path = self.path(sha)
            self._make_dir(path.parent)
            added_bytes = 0 if path.exists() else os.fstat(fd).st_size
            os.replace(temp, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temp)
            raise
        finally:
            os.close(fd)
        with self._counting:
            self.bytes_total += added_bytes
        sync_dir(path.parent)
        return sha

    def _begin(self) -> tuple[Path, int]:
        """An unfinished blob, locked for as long as it is written: a daemon that starts beside an import leaves it
        alone."""
        while True:
            temp = temp_beside(self._directory / "blob")
            fd = os.open(temp, CREATE_FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                is_there = os.fstat(fd).st_nlink > 0
            except BaseException:
                os.close(fd)
                raise
            if is_there:
                return temp, fd
            os.close(fd)  # it was deleted before it was locked

    def measure(self) -> None:
        """Looks at every blob; what is put meanwhile may count twice or not at all. Raises OSError."""
        found = 0
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                with contextlib.suppress(NotADirectoryError):
                    found += sum(file_sizes(self._directory / name).values())
        with self._counting:
            self.bytes_total = found

    def clear_unfinished(self) -> None:
        """Delete what a crash left of blobs in the making."""
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._directory):
                if name.startswith(TEMP_PREFIX):
                    with contextlib.suppress(OSError):  # somebody is making it, or it is no file
                        _delete_unlocked(self._directory / name)

    def holds(self, data: bytes) -> bool:
        """Whether these bytes are stored already."""
        return self.exists(hashlib.sha256(data).hexdigest())

    def exists(self, sha: str) -> bool:
        return self.path(sha).is_file()

    def size(self, sha: str) -> int:
        """Length in bytes. Raises NotFound."""
        try:
            return os.stat(self.path(sha), follow_symlinks=False).st_size
        except FileNotFoundError:
            raise _missing(sha) from None

    def read(self, sha: str, offset: int = 0, limit: int = MIB) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end. Raises NotFound."""
        if offset < 0 or limit < 0:
            raise Invalid("cannot read a blob: offset and limit are not negative", path="offset")
        with self._open(sha) as file:
            file.seek(offset)
            return file.read(limit)

    def chunks(self, sha: str, chunk_bytes: int = MIB) -> Iterable[bytes]:
        """The whole blob, piece by piece. Raises NotFound."""
        with self._open(sha) as file:
            while chunk := file.read(chunk_bytes):
                yield chunk

    def verify(self, sha: str) -> None:
        """Read the blob back. Raises NotFound or Corrupt."""
        hasher = hashlib.sha256()
        for chunk in self.chunks(sha):
            hasher.update(chunk)
        if hasher.hexdigest() != sha:
            path = self.path(sha)
            raise Corrupt(
                f"cannot trust {path}: its content has another sha256 than its name; restore it from a backup",
                code="blob_corrupt",
                file=str(path),
                line=1,
                offset=0,
                reason="digest",
            )

    def _make_dir(self, directory: Path) -> None:
        """Make a directory whose name is known to be durable, at the cost of one sync per process."""
        if directory not in self._known_dirs:
            make_private_dir(directory)
            self._known_dirs.add(directory)

    def path(self, sha: str) -> Path:
        """Where a blob lives or would live. Raises Invalid for anything but a sha256."""
        if not is_blob_name(sha):
            raise Invalid("cannot name a blob so: it takes 64 hex digits in lower case", path="blob")
        return self._directory / sha[:2] / sha

    def _open(self, sha: str) -> BinaryIO:
        try:
            return os.fdopen(open_file(self.path(sha)), "rb")
        except FileNotFoundError:
            raise _missing(sha) from None


def _delete_unlocked(path: Path) -> None:
    """Raises BlockingIOError where somebody has it locked."""
    fd = open_file(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    finally:
        os.close(fd)


def _missing(sha: str) -> NotFound:
    return NotFound(f"cannot read blob {sha}: there is none of this name", code="blob_not_found", blob=sha)
