"""A disk that fails on demand: every sync of the store goes through `kheish.store.atomic`, and so do these faults."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from kheish.store import atomic


class FailingDisk:
    """Counts syncs and writes; fails the chosen ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data_syncs: list[str] = []
        self.fail_data_syncs: set[int] = set()
        self.fail_creates = False
        self.fail_writes_after: int | None = None
        self._sync_data = atomic.sync_data
        self._write_all = atomic.write_all
        self._create_file = atomic.create_file
        monkeypatch.setattr(atomic, "sync_data", self._on_sync_data)
        monkeypatch.setattr(atomic, "write_all", self._on_write_all)
        monkeypatch.setattr(atomic, "create_file", self._on_create_file)

    def _on_sync_data(self, fd: int) -> None:
        self.data_syncs.append(os.readlink(f"/proc/self/fd/{fd}"))
        if len(self.data_syncs) in self.fail_data_syncs:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._sync_data(fd)

    def _on_write_all(self, fd: int, data: bytes) -> None:
        if self.fail_writes_after is not None:
            self._write_all(fd, data[: self.fail_writes_after])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._write_all(fd, data)

    def _on_create_file(self, path: Path, data: bytes, mode: int = 0o600) -> None:
        if self.fail_creates:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._create_file(path, data, mode)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FailingDisk:
    return FailingDisk(monkeypatch)
