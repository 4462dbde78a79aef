"""What an operator set while the daemon runs: one document, `daemon/runtime.json`, of the newest revisions.

A change makes a new revision, durable before it is in force; going back to an earlier one does too. Only later work
takes a change up: a run keeps what it was submitted and started with, which is in its journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from kheish.errors import Conflict, NotFound, StoreError
from kheish.limits import RUNTIME_REVISIONS_KEPT
from kheish.runtime.ports import Clock
from kheish.store.documents import read_document, write_document
from kheish.wire.runtime import Revision, RuntimeSettings

Edit = Callable[[RuntimeSettings], Awaitable[RuntimeSettings]]
"""Makes the new settings of the present ones. Raises KheishError where that may not be."""

NOTHING = Revision(revision=0, at_ms=0, by="", origin="", change="", settings=RuntimeSettings())
"""Before anything was set."""


class RuntimeConfig:
    """Whoever has to know of a change at once adds itself to `on_change`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Raises Corrupt or NewerFormat: what cannot be read is not replaced by nothing."""
        self._path = path
        self._clock = clock
        self._changing = asyncio.Lock()
        try:
            self._revisions = read_document(path, list[Revision])
        except FileNotFoundError:
            self._revisions = [NOTHING]
        self.on_change: list[Callable[[RuntimeSettings], None]] = []

    @property
    def current(self) -> Revision:
        return self._revisions[-1]

    @property
    def settings(self) -> RuntimeSettings:
        return self.current.settings

    @property
    def revisions(self) -> list[Revision]:
        """The newest RUNTIME_REVISIONS_KEPT, the newest last."""
        return self._revisions[:]

    def find(self, revision: int) -> Revision:
        """Raises NotFound."""
        found = next((kept for kept in self._revisions if kept.revision == revision), None)
        if found is None:
            kept = f"{self._revisions[0].revision} to {self.current.revision}"
            raise NotFound(f"cannot find revision {revision}: there are {kept}", code="revision_not_found")
        return found

    async def change(
        self, edit: Edit, *, by: str, origin: str, change: str, expected_revision: int | None = None
    ) -> Revision:
        """Durable and in force on return; the present revision where nothing changes. Raises Conflict where another
        revision was expected."""
        async with self._changing:
            current = self.current
            if expected_revision is not None and expected_revision != current.revision:
                raise Conflict(
                    f"cannot change the settings: they have revision {current.revision}, not {expected_revision}; look "
                    "at them again (`kheish runtime get`)",
                    code="runtime_revision_conflict",
                    revision=current.revision,
                )
            settings = await edit(current.settings)
            if settings == current.settings:
                return current
            made = Revision(
                revision=current.revision + 1,
                at_ms=self._clock.now_ms(),
                by=by,
                origin=origin,
                change=change,
                settings=settings,
            )
            revisions = [*self._revisions, made][-RUNTIME_REVISIONS_KEPT:]
            try:
                await asyncio.to_thread(write_document, self._path, revisions)
            except OSError as error:
                raise StoreError.of_disk("change the settings", error) from error
            self._revisions = revisions
        for listener in self.on_change:
            listener(settings)
        return made
