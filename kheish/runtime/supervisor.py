"""The daemon's face to its clients: finds and feeds the actors of all sessions, and reads for whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from kheish import config
from kheish.core.commands import Command, Context, CreateSession, SubmitRun
from kheish.core.effects import CallModel
from kheish.core.events import Rule
from kheish.core.machine import pending
from kheish.core.outcomes import BudgetMoved
from kheish.core.state import State
from kheish.errors import Corrupt, Draining, KheishError, NewerFormat, Poisoned, StoreError
from kheish.ids import new_ulid
from kheish.limits import GENERATION_MAX, INDEX_SAVE_DELAY_MS, TOOL_THREADS_MAX
from kheish.runtime.actor import Actor, Applied, Kernel
from kheish.runtime.budget_watch import BudgetWatch
from kheish.runtime.circuits import Circuits
from kheish.runtime.disk_watch import DiskWatch, disk_low
from kheish.runtime.found import Found, find_sessions
from kheish.runtime.hub import Hub
from kheish.runtime.index import Index, Loaded
from kheish.runtime.ledger import Limits, concerns_others
from kheish.runtime.packer import Packer
from kheish.runtime.policy import Policy
from kheish.runtime.ports import Clock, Providers, Recorder, Tool
from kheish.runtime.quotas import Quotas, quota_exceeded
from kheish.runtime.reader import Reader
from kheish.runtime.reconciler import KillTree, Reconciler
from kheish.runtime.residents import Residents
from kheish.runtime.settings import RuntimeConfig
from kheish.runtime.stops import last_stop, note_stop
from kheish.store.atomic import clear_temps, make_private_dir
from kheish.store.blobs import Blobs
from kheish.store.committer import STORE_THREADS, Committer
from kheish.store.session_dir import Opened, clear_unfinished, make_sessions_dir
from kheish.store.workers import Workers

log = logging.getLogger(__name__)

_TAKE_UP_AGAIN_S, _TAKE_UP_AGAIN_MAX_S = 1.0, 60.0


class Caller(msgspec.Struct, frozen=True):
    """Who sends a command. `is_operator`: a local person's client, never a run."""

    principal: str
    origin: str
    is_operator: bool


DAEMON = Caller(principal="daemon", origin="daemon", is_operator=False)


class SystemClock:
    """Unix milliseconds that never run backwards within a process."""

    def __init__(self) -> None:
        self._last = 0

    def now_ms(self) -> int:
        self._last = max(self._last, time.time_ns() // 1_000_000)
        return self._last


class Supervisor:
    def __init__(
        self,
        root: Path,
        *,
        generation: int,
        providers: Providers,
        tools: dict[str, Tool],
        kill_tree: KillTree,
        raise_generation: Callable[[int], int],
        config_rules: tuple[Rule, ...] = (),
        quotas: config.Quotas | None = None,
        store: config.Store | None = None,
        budgets: Limits = Limits(),
        clock: Clock | None = None,
        recorder: Recorder | None = None,
        runtime: RuntimeConfig | None = None,
    ) -> None:
        self.root = root
        self.providers = providers
        self.clock: Clock = clock or SystemClock()
        self.started_at_ms = self.clock.now_ms()
        self.hub = Hub()
        self.blobs = Blobs(root)
        self.index = Index(root)
        self.committer = Committer(asyncio.get_running_loop())
        self.disk = DiskWatch(root, self.committer)
        self.quotas = Quotas(root, quotas or config.Quotas(), self.index, self.blobs, self.committer)
        self.circuits = Circuits()
        specs = {name: tool.spec for name, tool in tools.items()}
        self.policy = Policy(root / "daemon" / "permissions.json", self.committer, specs, config_rules, budgets)
        self.runtime = runtime or RuntimeConfig(root / "daemon" / "runtime.json", self.clock)
        self.policy.take(self.runtime.settings)
        self.runtime.on_change.append(self.policy.take)
        self.budgets = BudgetWatch(budgets, self.clock, self._look_again, self.index.share_of)
        self._kernel = Kernel(
            hub=self.hub,
            committer=self.committer,
            policy=self.policy,
            circuits=self.circuits,
            ledger=self.budgets.ledger,
            generation=generation,
            next_pos=self._next_pos,
            on_change=self._changed,
        )
        loop = asyncio.get_running_loop()
        self._tool_threads = Workers(loop, "kheish-tool", TOOL_THREADS_MAX, self.committer.bell)
        self._reconciler = Reconciler(
            clock=self.clock,
            providers=providers,
            circuits=self.circuits,
            tools=tools,
            threads=self._tool_threads,
            blobs=self.blobs,
            kill_tree=kill_tree,
            make_context=self._own_context,
            on_trouble=self._trouble,
            recorder=recorder,
        )
        self._packer = Packer(root, self.index, is_on=(store or config.Store()).vacuum == "auto")
        recovery = Caller(principal="daemon", origin="recovery", is_operator=False)
        self._residents = Residents(
            root,
            kernel=self._kernel,
            index=self.index,
            recovery_context=lambda session_id: self._context(session_id, recovery),
            raise_generation=raise_generation,
            was_stopped=lambda generation: generation in self._last_stop,
            may_leave=self._may_leave,
            on_opened=self._opened,
            packer=self._packer,
        )
        self.reader = Reader(root, self.index, self._residents, self.committer, self.policy)
        self._last_stop = range(0)
        self._first_generation = generation
        self._pos = 0
        self.position = (generation, 0)
        """Where the global stream stands: (generation, position) of the last record that was published."""
        self._save_timer: asyncio.TimerHandle | None = None
        self._saving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._is_started = self._is_begun = False
        self.is_draining = False

    @property
    def generation(self) -> int:
        return self._kernel.generation

    @property
    def loaded_total(self) -> int:
        return len(self._residents)

    # -- start and stop ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Builds the index and takes up all work that is owed. Returns when every client can be served; only when all
        work is taken up does it go on, for it would be in the way."""
        stale, rows, newest_gen = await self.committer.run(self._load_index)
        owed = [row.session_id for row in rows if row.is_owed]
        found = [found for found in await self._find_sessions([*stale, *owed]) if found.row.is_shown]
        for row, _ in found:
            if row.session_id not in self.index.rows:
                self.index.put(row)
                rows.append(row)
        counted = self.index.rows.values() if self.budgets.ledger.sums_all else rows
        self.budgets.load((row.session_id, row.share) for row in counted)
        generations = [newest_gen, *(row.gen for row, _ in found if row.gen < GENERATION_MAX)]
        await self._residents.rise_above(max(generations))
        self.position = self.generation, 0
        await asyncio.gather(*[self._take_up(row.session_id, held) for row, held in found if row.is_owed])
        self._is_started = True
        self._in_background(self._begin_owed(list(self._residents)))
        self._in_background(self.quotas.start())
        for row in rows:
            if self._residents.get(row.session_id) is None:
                self._packer.take(row)
        if stale:
            self._in_background(self._save_index())
        self.budgets.start()

    async def _find_sessions(self, session_ids: list[str]) -> list[Found]:
        """A part of them on each of the store's threads: a task for each would cost as much again."""
        parts = [session_ids[first::STORE_THREADS] for first in range(STORE_THREADS)]
        found = await asyncio.gather(
            *[self.committer.run(find_sessions, self.root, self.index.rows, part) for part in parts]
        )
        return sorted(chain.from_iterable(found), key=lambda found: found.row.session_id)

    async def _begin_owed(self, actors: list[Actor]) -> None:
        """One session after another, those with few records first: what models are shown is read from the journals, and
        if all were read at once, whoever asks the daemon for something would wait for the interpreter."""
        for actor in sorted(actors, key=lambda actor: actor.seq):
            if any(isinstance(effect, CallModel) for effect in pending(actor.state)) and not self.is_draining:
                with contextlib.suppress(Exception):  # whoever makes the call finds it too; the others are not to wait
                    await actor.shown()
            self._reconciler.reconcile(actor)
        self._is_begun = True

    async def _take_up(
        self, session_id: str, held: Opened[State] | None = None, again_s: float = _TAKE_UP_AGAIN_S
    ) -> None:
        """Opens a session that is owed something, if it is not open. One that is damaged is read-only; where only its
        lock or the disk stands in the way, it is tried again."""
        if self.is_draining:
            return
        try:
            await (self._residents.take_in(session_id, held) if held else self._residents.open(session_id))
        except (Corrupt, NewerFormat) as error:
            self._residents.quarantine(session_id, error)
        except KheishError as error:
            log.warning("session %s: what it is owed has to wait: %s", session_id, error.message)
            self.index.put_problem(session_id, error.message)
            asyncio.get_running_loop().call_later(
                again_s,
                lambda: self._in_background(self._take_up(session_id, again_s=min(2 * again_s, _TAKE_UP_AGAIN_MAX_S))),
            )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _load_index(self) -> Loaded:
        """And the rows of sessions that there is something to do about."""
        make_private_dir(self.root)
        make_private_dir(self.root / "daemon")
        make_sessions_dir(self.root)
        clear_unfinished(self.root)
        clear_temps(self.root / "daemon")
        self.blobs.clear_unfinished()
        self._last_stop = last_stop(self.root)
        return self.index.load(lambda row: row.is_owed or row.segment_first_seq > 1 or concerns_others(row.share))

    async def drain(self, grace_ms: int) -> None:
        """Stops taking work and lets tool calls finish within the grace."""
        self.is_draining = True
        self._packer.stop()
        self.budgets.stop()
        await self._reconciler.stop(grace_ms)
        try:
            await self.committer.run(note_stop, self.root, self._first_generation, self.generation)
        except OSError as error:
            log.warning("cannot note the stop, which counts as a death of what was at work: %s", error)

    async def close(self) -> None:
        """After `drain`: puts every session away and saves the index."""
        if self._save_timer is not None:
            self._save_timer.cancel()
        self.hub.close()
        await self.budgets.close()
        await self._residents.close()
        await self._packer.close()
        if self._background:
            await asyncio.wait(self._background)
        await self._save_index()
        await self._tool_threads.close()
        await self.committer.close()

    # -- commands and outcomes -----------------------------------------------------------------------------------

    async def submit(
        self, session_id: str, command: Command, caller: Caller, *, key: str = "", body_digest: str = ""
    ) -> Applied:
        """Applies a command durably. Raises KheishError where it is refused."""
        if self.is_draining:
            raise Draining("cannot take commands: the daemon is stopping; try again")
        creating = isinstance(command, CreateSession)
        what = "create a session" if creating else "take an input" if isinstance(command, SubmitRun) else ""
        no_room = await self._no_room(what, session_id) if what else None
        if creating and no_room and session_id not in self.index.rows:
            raise no_room
        actor = await self._residents.open(session_id, create=creating)
        if no_room and isinstance(command, SubmitRun) and key not in actor.state.keys:
            raise no_room
        make_context = partial(self._context, session_id, caller, key, body_digest)
        try:
            return await actor.submit(command, make_context)
        except Poisoned as error:
            why = actor.journal.unmade
            if not why:
                self._trouble(actor, error)
                raise
            self._residents.drop(actor)
            if actor.journal.is_taken:  # an import was first
                return await (await self._residents.open(session_id)).submit(command, make_context)
            raise StoreError(
                f"cannot create session {session_id}: {why}; see to the disk and try again", code="disk_failed"
            ) from error
        except KheishError:
            if not (actor.journal.is_made or actor.is_busy):  # it was to begin with what is refused
                self._residents.drop(actor)
            raise

    async def _no_room(self, what: str, session_id: str = "") -> StoreError | None:
        """Why new work is refused, if it is."""
        if problem := await self.disk.problem():
            return disk_low(what, problem)
        usage = await self.quotas.over(session_id)
        return quota_exceeded(what, usage) if usage else None

    async def _look_again(self, session_id: str) -> None:
        actor = await self._residents.open(session_id)
        await actor.submit(BudgetMoved(), partial(self._own_context, session_id))

    def _own_context(self, session_id: str) -> Context:
        return self._context(session_id, DAEMON)

    def _context(self, session_id: str, caller: Caller, key: str = "", body_digest: str = "") -> Context:
        at_ms = self.clock.now_ms()
        day = self.budgets.day_of(at_ms)
        return Context(
            at_ms=at_ms,
            id_base=new_ulid(),
            generation=self.generation,
            principal=caller.principal,
            origin=caller.origin,
            is_operator=caller.is_operator,
            key=key,
            body_digest=body_digest,
            cooling=self.circuits.cooling(at_ms),
            outside=self.budgets.ledger.outside(session_id, day),
            day=day,
        )

    def _next_pos(self) -> int:
        self._pos += 1
        return self._pos

    def _opened(self, actor: Actor) -> None:
        """Where it was only opened its row stays as it is, and is not saved again."""
        row, end = self.index.rows.get(actor.session_id), actor.journal.end
        is_same = row is not None and row.durable == (actor.seq, end.segment_first_seq, end.offset)
        if row is None or not is_same or row.other_bytes != actor.journal.other_bytes:
            self._row_changed(actor)
        if self._is_started:
            self._reconciler.reconcile(actor)
        self._residents.use(actor)

    def _changed(self, actor: Actor, before: State) -> None:
        self.position = actor.gen, actor.pos
        if self._is_started:
            self._reconciler.reconcile(actor)
        self.budgets.changed(actor.session_id, before, actor.state)
        self._row_changed(actor)
        self._residents.use(actor)

    def _row_changed(self, actor: Actor) -> None:
        self.index.put_later(actor.session_id, actor.summary)
        self._save_index_later()

    def _may_leave(self, session_id: str) -> bool:
        """Right after a start what a session is owed still has to begin."""
        return self._is_begun and not self.is_draining and self._reconciler.is_idle(session_id)

    def _trouble(self, actor: Actor, error: BaseException) -> None:
        log.error("session %s: %s", actor.session_id, error, exc_info=error)
        if actor.session_id in self.index.rows:
            self.index.put_problem(actor.session_id, str(error))
        if isinstance(error, Poisoned):
            actor.trouble = error
            self.hub.end(actor.session_id)

    def trouble_of(self, session_id: str) -> Poisoned | None:
        """Why a session cannot go on before the daemon restarts, where it cannot."""
        actor = self._residents.get(session_id)
        return actor.trouble if actor is not None else None

    # -- blobs ---------------------------------------------------------------------------------------------------

    async def put_blob(self, data: bytes) -> str:
        """Stores bytes of a new input durably; returns their sha256."""
        no_room = await self._no_room("store an attachment")
        try:
            if no_room and not await self.committer.run(lambda: self.blobs.holds(data)):
                raise no_room
            return await self.committer.run(lambda: self.blobs.put(data))
        except OSError as error:
            raise StoreError.of_disk("store a blob", error) from error

    async def read_blob(self, sha256: str, offset: int, limit: int) -> bytes:
        return await self.committer.run(lambda: self.blobs.read(sha256, offset, limit))

    # -- the index on disk ---------------------------------------------------------------------------------------

    def _save_index_later(self) -> None:
        if self._save_timer is None and not self.is_draining:
            self._save_timer = asyncio.get_running_loop().call_later(INDEX_SAVE_DELAY_MS / 1000, self._save_index_now)

    def _save_index_now(self) -> None:
        self._save_timer = None
        self._in_background(self._save_index())

    async def _save_index(self) -> None:
        async with self._saving:
            unsaved = self.index.unsaved()
            if unsaved is None:
                return
            try:
                self.index.keep(await self.committer.run(self.index.save, unsaved))
            except OSError as error:
                log.warning("cannot save the index: %s", error)
