"""Whether the daemon before was told to stop: what it was at then was cut off by that, and is not what killed it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kheish.errors import KheishError
from kheish.store.documents import read_document, write_document


class _Stopped(msgspec.Struct, frozen=True):
    first_generation: int
    last_generation: int


def note_stop(root: Path, first_generation: int, last_generation: int) -> None:
    """Raises OSError."""
    write_document(_path(root), _Stopped(first_generation, last_generation))


def last_stop(root: Path) -> range:
    """The generations of the daemon that was told to stop last; none where that cannot be known."""
    try:
        stopped = read_document(_path(root), _Stopped)
    except (KheishError, OSError):
        return range(0)
    return range(stopped.first_generation, stopped.last_generation + 1)


def _path(root: Path) -> Path:
    return root / "daemon" / "stopped.json"
