"""The sessions that are in memory: opens them when somebody asks, and puts away what nobody has used for a while."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec

from kheish.core.commands import Context, Recover
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import Conflict, Corrupt, KheishError, NotFound, StoreError
from kheish.limits import GENERATION_MAX, SESSION_UNLOAD_AFTER_MS, SESSIONS_LOADED_MAX, SESSIONS_OPENED_AT_ONCE_MAX
from kheish.runtime.actor import Actor, Kernel
from kheish.runtime.fold import fold_session
from kheish.runtime.index import Index, SessionSummary
from kheish.runtime.packer import Packer
from kheish.store.session_dir import Opened, SessionDir

log = logging.getLogger(__name__)

_MAKE_ROOM_LOOKS = 16


class Residents:
    """The actors that are loaded, at most one of a session. `may_leave` says whether the world owes a session nothing;
    `was_stopped`, whether a daemon of this generation was told to stop; `on_opened` is told of each that was opened,
    after it has noted what died with the last daemon. Those that are put away are left to the packer."""

    def __init__(
        self,
        root: Path,
        *,
        kernel: Kernel,
        index: Index,
        recovery_context: Callable[[str], Context],
        raise_generation: Callable[[int], int],
        was_stopped: Callable[[int], bool],
        may_leave: Callable[[str], bool],
        on_opened: Callable[[Actor], None],
        packer: Packer,
    ) -> None:
        self._root = root
        self._kernel = kernel
        self._committer = kernel.committer
        self._index = index
        self._recovery_context = recovery_context
        self._raise_generation = raise_generation
        self._was_stopped = was_stopped
        self._may_leave = may_leave
        self._on_opened = on_opened
        self._packer = packer
        self._actors: OrderedDict[str, Actor] = OrderedDict()
        """In the order of the last use."""
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._unload_timer: asyncio.TimerHandle | None = None
        self._folding = asyncio.Semaphore(SESSIONS_OPENED_AT_ONCE_MAX)

    def __len__(self) -> int:
        return len(self._actors)

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._actors.values())

    def get(self, session_id: str) -> Actor | None:
        """The actor of a session that is loaded."""
        return self._actors.get(session_id)

    async def open(self, session_id: str, *, create: bool = False) -> Actor:
        """The actor of a session, loaded if it is not; with `create` one that nobody knows begins in memory, and is
        made with its first record. Raises KheishError."""
        while True:
            while (closing := self._closing.get(session_id)) is not None:
                await asyncio.wait([closing])
            actor = self._actors.get(session_id)
            if actor is not None:
                self.use(actor)
                return actor
            task = joined = self._opening.get(session_id)
            if task is None and create and session_id not in self._index.rows:
                return self._begin(session_id)
            if task is None:
                task = asyncio.ensure_future(self._load(session_id))
                self._opening[session_id] = task
            try:
                await asyncio.shield(task)
            except NotFound:
                if joined is None or not create:
                    raise  # a creator that had joined a reader tries by itself

    def use(self, actor: Actor) -> None:
        """A loaded session is put away when nobody has used it for a while, or when there are too many others."""
        if self._actors.get(actor.session_id) is not actor:
            return
        self._touch(actor)
        if len(self._actors) > SESSIONS_LOADED_MAX:
            self._make_room()
        if self._unload_timer is None:
            self._unload_idle()

    def quarantine(self, session_id: str, error: KheishError) -> None:
        """The session is damaged: what can be read of it is shown, and nothing is done for it."""
        log.error("session %s is read-only: %s", session_id, error.message)
        row = self._index.rows.get(session_id) or SessionSummary(session_id=session_id)
        self._index.put(msgspec.structs.replace(row, problem=error.message, is_owed=False))

    def drop(self, actor: Actor) -> None:
        """The session could not be made: whoever asks next tries anew."""
        if self._actors.get(actor.session_id) is actor:
            del self._actors[actor.session_id]
            self._kernel.ledger.forget(actor.session_id)

    async def close(self) -> None:
        """Puts every session away."""
        while under_way := [*self._opening.values(), *self._closing.values()]:
            await asyncio.wait(under_way)
        for actor in list(self._actors.values()):
            await actor.close()
        self._actors.clear()
        if self._unload_timer is not None:
            self._unload_timer.cancel()

    # -- opening -------------------------------------------------------------------------------------------------

    def _begin(self, session_id: str) -> Actor:
        actor = Actor(self._kernel, session_id, SessionDir.new(self._root, session_id), State(), 0)
        self._actors[session_id] = actor
        self.use(actor)
        return actor

    async def _load(self, session_id: str) -> None:
        try:
            await self._load_alone(session_id)
        finally:
            # Not in a callback, which would come after those who try again.
            del self._opening[session_id]

    async def _load_alone(self, session_id: str) -> None:
        row = self._index.rows.get(session_id)
        durable = row.durable if row is not None else None
        try:
            try:
                opened = await self._fold(session_id, durable)
            except Conflict:
                if not await self._packer.leave(session_id):
                    raise
                opened = await self._fold(session_id, durable)
        except Corrupt as error:
            self.quarantine(session_id, error)
            raise
        except OSError as error:
            raise StoreError.of_disk(f"open session {session_id}", error) from error
        await self.take_in(session_id, opened)

    async def rise_above(self, generation: int) -> None:
        """Takes a newer generation than one that another state root has written in: along a session (generation,
        position) grows, whatever positions were given out there. No daemon begins so often that it comes to
        GENERATION_MAX: a session that says so can be read, and not written."""
        if self._kernel.generation <= generation < GENERATION_MAX:
            raised = await self._committer.run(self._raise_generation, generation + 1)
            self._kernel.generation = max(self._kernel.generation, raised)  # another may have raised it further

    async def take_in(self, session_id: str, opened: Opened[State]) -> None:
        """A session that was opened by a caller who has made sure that nobody else opens it. Raises
        KheishError; it is not held then."""
        try:
            actor = await self._recover(session_id, opened)
        except BaseException:
            await self._committer.run(opened.journal.close)
            raise
        self._actors[session_id] = actor
        self.use(actor)
        if opened.state.session_id:
            self._on_opened(actor)

    async def _recover(self, session_id: str, opened: Opened[State]) -> Actor:
        """The actor of an opened session, after it has noted what died with the last daemon."""
        state = opened.state
        row = self._index.rows.get(session_id)
        if row is None or row.gen < opened.journal.gen:
            try:
                await self.rise_above(opened.journal.gen)
            except OSError as error:
                raise StoreError.of_disk(f"note the generation of session {session_id}", error) from error
        actor = Actor(self._kernel, session_id, opened.journal, state, opened.checkpoint_seq)
        if opened.last is not None:
            actor.pos = opened.last.pos
        elif row is not None:
            actor.pos = row.pos
        if state.session_id:
            # Of one that was taken in from elsewhere no row of the index has told.
            self._kernel.ledger.note(session_id, state)
            recover = Recover(
                tail_bytes_dropped=await self._committer.run(_bytes_of, opened.set_aside) if opened.set_aside else 0,
                tail_file=" ".join(path.name for path in opened.set_aside),
                was_stopped=self._was_stopped(state.generation),
            )
            await actor.submit(recover, lambda: self._recovery_context(session_id))
        return actor

    async def _fold(self, session_id: str, durable: tuple[int, int, int] | None) -> Opened[State]:
        def work() -> Opened[State]:
            return SessionDir.open(self._root, session_id, fold_session, reducer=REDUCER_VERSION, durable=durable)

        async with self._folding:
            return await self._committer.run(work)

    # -- putting away --------------------------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Puts away those that were not used for the longest, while there are too many. The one just used stands last,
        and stays."""
        for actor in list(islice(self._actors.values(), _MAKE_ROOM_LOOKS))[: len(self._actors) - 1]:
            if len(self._actors) <= SESSIONS_LOADED_MAX:
                return
            if self._is_idle(actor):
                self._unload(actor)
            else:
                self._touch(actor)

    def _touch(self, actor: Actor) -> None:
        self._actors.move_to_end(actor.session_id)
        actor.used_at_s = time.monotonic()

    def _unload_idle(self) -> None:
        """Puts away what nobody has used for long and nothing keeps busy, and comes again when the next one is due."""
        self._unload_timer = None
        loop = asyncio.get_running_loop()
        for actor in list(self._actors.values()):
            due_s = actor.used_at_s + SESSION_UNLOAD_AFTER_MS / 1000
            if due_s > loop.time():
                self._unload_timer = loop.call_at(due_s, self._unload_idle)
                return
            if self._is_idle(actor):
                self._unload(actor)
            else:
                self._touch(actor)
        if self._actors:
            self._unload_timer = loop.call_later(SESSION_UNLOAD_AFTER_MS / 1000, self._unload_idle)

    def _is_idle(self, actor: Actor) -> bool:
        """A session that became read-only is not put away: opening it anew would trust what the failed disk shows."""
        return not (actor.is_busy or actor.journal.is_poisoned) and self._may_leave(actor.session_id)

    def _unload(self, actor: Actor) -> None:
        del self._actors[actor.session_id]
        task = asyncio.ensure_future(self._put_away(actor))
        self._closing[actor.session_id] = task
        task.add_done_callback(lambda _: self._closing.pop(actor.session_id, None))

    async def _put_away(self, actor: Actor) -> None:
        await actor.close(may_pack=self._packer.is_on)
        self._kernel.ledger.forget(actor.session_id)
        row, end = self._index.rows.get(actor.session_id), actor.journal.end
        if row is None:
            return
        if row.segment_first_seq != end.segment_first_seq:
            row = msgspec.structs.replace(
                row, segment_first_seq=end.segment_first_seq, size=end.offset, other_bytes=actor.journal.other_bytes
            )
            self._index.put(row)
        self._packer.take(row)


def _bytes_of(files: list[Path]) -> int:
    """As far as they are still there: what was set aside may be deleted at any time."""
    total_bytes = 0
    for path in files:
        with contextlib.suppress(OSError):
            total_bytes += path.stat().st_size
    return total_bytes
