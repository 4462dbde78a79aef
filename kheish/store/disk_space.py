"""Whether the disk of the state root has room for new work, and what lies there.

What runs needs room until it is over: for records, outcomes and human decisions. So new work is refused while a part of
the disk is still free, DISK_LOW_BYTES, or DISK_LOW_SHARE_MAX of one that is small.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from kheish.limits import DISK_LOW_BYTES, DISK_LOW_SHARE_MAX, GIB, MIB


class DiskSpace(NamedTuple):
    """What a user without privileges may still write, and what is kept of it for work that is under way."""

    free_bytes: int
    kept_bytes: int

    @property
    def is_low(self) -> bool:
        return self.free_bytes < self.kept_bytes

    def __str__(self) -> str:
        return f"{_amount(self.free_bytes)} free, {_amount(self.kept_bytes)} kept for work that is under way"


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / GIB:,.1f} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:.1f} MiB"


def disk_space(path: Path) -> DiskSpace:
    """Of the file system that a directory is on. Raises OSError."""
    found = os.statvfs(path)
    total_bytes = found.f_blocks * found.f_frsize
    return DiskSpace(found.f_bavail * found.f_frsize, int(min(DISK_LOW_BYTES, DISK_LOW_SHARE_MAX * total_bytes)))


def file_sizes(directory: str | Path) -> dict[str, int]:
    """In bytes, of the files of a directory, while others may work on it. Raises OSError."""
    sizes = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    return sizes
