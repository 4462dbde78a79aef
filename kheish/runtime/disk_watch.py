"""Looks at the room on the disk for whoever asks: on a worker of the store, and once for all who ask within a moment.
While nobody asks nobody looks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kheish.errors import StoreError
from kheish.limits import DISK_LOOK_EVERY_MS
from kheish.store.committer import Committer
from kheish.store.disk_space import DiskSpace, disk_space


class DiskWatch:
    def __init__(self, root: Path, committer: Committer) -> None:
        self._root = root
        self._committer = committer
        self._looking: asyncio.Future[DiskSpace] | None = None
        self._stale_at_s = 0.0

    async def problem(self) -> str:
        """Why no new work is taken; empty where there is room, or where a write has to tell."""
        now_s = asyncio.get_running_loop().time()
        if self._looking is None or now_s >= self._stale_at_s:
            self._looking = self._committer.run(disk_space, self._root)
            self._stale_at_s = now_s + DISK_LOOK_EVERY_MS / 1000
        try:
            space = await asyncio.shield(self._looking)
        except OSError:
            return ""
        if not space.is_low:
            return ""
        return f"the disk of {self._root} is almost full ({space}); make room, `kheish sessions vacuum --all` may help"


def disk_low(what: str, problem: str) -> StoreError:
    """The refusal of new work, which a client may send again."""
    return StoreError(f"cannot {what}: {problem}; what runs goes on", code="disk_low")
