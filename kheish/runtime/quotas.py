"""What sessions, and all that lies in the state root, may take on the disk: no new work is taken from there on, and
what runs goes on.

The index and the blobs know what they take without a look at the disk. They do not know what others did there, a
vacuum or an import, so that one looks before one warns or refuses: off the loop, and once for all who ask within a
moment. Without a quota nothing is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kheish.config import Quotas as Limits
from kheish.errors import StoreError
from kheish.limits import QUOTA_LOOK_EVERY_MS, QUOTA_QUIET_SHARE_MAX
from kheish.runtime.index import Glance, Index
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer
from kheish.store.disk_space import file_sizes
from kheish.store.session_dir import session_path


class Usage(NamedTuple):
    """What one thing takes and may take. `session_id` is empty for the state root."""

    session_id: str
    used_bytes: int
    quota_bytes: int

    @property
    def is_over(self) -> bool:
        return self.used_bytes >= self.quota_bytes

    def __str__(self) -> str:
        what = f"session {self.session_id} takes" if self.session_id else "the sessions and blobs take"
        key = "session_bytes" if self.session_id else "state_bytes"
        return f"{what} {_size(self.used_bytes)} of {_size(self.quota_bytes)} that quotas.{key} in config.toml allows"

    @property
    def advice(self) -> str:
        if self.session_id:
            return f"`kheish sessions vacuum {self.session_id}` may help, or go on in another session"
        return "`kheish sessions vacuum --all` may help, or export ended sessions and delete their directories"


class Quotas:
    def __init__(self, root: Path, limits: Limits, index: Index, blobs: Blobs, committer: Committer) -> None:
        self._root = root
        self._limits = limits
        self._index = index
        self._blobs = blobs
        self._committer = committer
        self._looking: asyncio.Future[None] | None = None
        self._stale_at_s = 0.0

    async def start(self) -> None:
        """Counts the blobs, which no index knows, if anybody will ask."""
        if self._limits.state_bytes:
            with contextlib.suppress(OSError):
                await self._committer.run(self._blobs.measure)

    async def over(self, session_id: str) -> Usage | None:
        """The quota that stands in the way of new work in a session."""
        near = await self._near(lambda: [row] if (row := self._index.rows.get(session_id)) else [])
        return next((usage for usage in near if usage.is_over), None)

    async def near(self) -> list[Usage]:
        """What is used up, or will be soon."""
        return await self._near(self._index.rows.glances)

    async def _near(self, rows: Callable[[], Iterable[Glance]]) -> list[Usage]:
        near = list(self._usages(rows))
        if any(not usage.session_id for usage in near):
            await self._look()
        elif near:
            self._index.put_sizes(await self._committer.run(self._sizes, [usage.session_id for usage in near]))
        return list(self._usages(rows)) if near else []

    def _usages(self, rows: Callable[[], Iterable[Glance]]) -> Iterator[Usage]:
        """Those that are near their quota, as far as is known."""
        state_bytes, session_bytes = self._limits.state_bytes, self._limits.session_bytes
        if state_bytes:
            used_bytes = self._index.bytes_total + self._blobs.bytes_total
            if used_bytes >= QUOTA_QUIET_SHARE_MAX * state_bytes:
                yield Usage("", used_bytes, state_bytes)
        for row in rows() if session_bytes else ():
            if row.bytes_total >= QUOTA_QUIET_SHARE_MAX * session_bytes:
                yield Usage(row.session_id, row.bytes_total, session_bytes)

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._looking is None or now_s >= self._stale_at_s:
            self._stale_at_s = now_s + QUOTA_LOOK_EVERY_MS / 1000
            self._looking = asyncio.ensure_future(self._measure())
        await asyncio.shield(self._looking)

    async def _measure(self) -> None:
        await self.start()
        self._index.put_sizes(await self._committer.run(self._sizes, list(self._index.rows)))

    def _sizes(self, session_ids: list[str]) -> dict[str, int]:
        sizes = {}
        for session_id in session_ids:
            with contextlib.suppress(FileNotFoundError):
                sizes[session_id] = sum(file_sizes(session_path(self._root, session_id)).values())
        return sizes


def quota_exceeded(what: str, usage: Usage) -> StoreError:
    """The refusal of new work, which a client may send again once there is room."""
    return StoreError(
        f"cannot {what}: {usage}; {usage.advice}; what runs goes on",
        code="quota_exceeded",
        used_bytes=usage.used_bytes,
        quota_bytes=usage.quota_bytes,
    )


def _size(size_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:,.1f} {unit}"
    return f"{size_bytes / 1e3:,.1f} KB"
