"""The daemon's face to its clients: finds, opens, feeds and puts away the actors of all sessions."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from datetime import date
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from kheish.core.budgets import share_of
from kheish.core.codec import decode_state
from kheish.core.commands import Command, Context, CreateSession, Outside, Recover, SubmitRun
from kheish.core.contracts import Message
from kheish.core.events import Rule
from kheish.core.machine import decide, pending
from kheish.core.outcomes import BudgetMoved, Outcome
from kheish.core.recovery import in_flight
from kheish.core.state import REDUCER_VERSION, Run, State
from kheish.errors import (
    Conflict,
    Corrupt,
    Draining,
    KheishError,
    NewerFormat,
    NotFound,
    Poisoned,
    StoreError,
)
from kheish.ids import new_id, time_of
from kheish.limits import (
    INDEX_SAVE_DELAY_MS,
    PAGE_ITEMS_MAX,
    SESSION_UNLOAD_AFTER_MS,
    SESSIONS_LOADED_MAX,
    SETTLED_REQUESTS_KEPT,
    STREAM_CHUNK_BYTES,
)
from kheish.runtime.actor import Actor, Applied, Kernel
from kheish.runtime.circuits import Circuits
from kheish.runtime.disk_watch import DiskWatch, disk_low
from kheish.runtime.fold import ID_CLOCK_MS, Read, concerns, ends, find_made, find_time, fold_records, fold_run
from kheish.runtime.hub import Hub
from kheish.runtime.index import Index, SessionSummary, summarize
from kheish.runtime.ledger import Ledger, Limits, is_loosened
from kheish.runtime.policy import Policy
from kheish.runtime.ports import Clock, Providers, Tool
from kheish.runtime.reconciler import KillTree, Reconciler
from kheish.runtime.replay import replay
from kheish.store.atomic import clear_temps, make_private_dir
from kheish.store.blobs import Blobs
from kheish.store.committer import Committer
from kheish.store.packed import first_seq_of
from kheish.store.records import Record
from kheish.store.segments import OffsetIndex, read_records
from kheish.store.session_dir import (
    Loaded,
    Opened,
    SessionDir,
    clear_unfinished,
    make_sessions_dir,
    session_info,
    session_path,
)

log = logging.getLogger(__name__)

_TAKE_UP_AGAIN_S, _TAKE_UP_AGAIN_MAX_S = 1.0, 60.0
_MAKE_ROOM_LOOKS = 16


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
        budgets: Limits = Limits(),
        clock: Clock | None = None,
    ) -> None:
        self.root = root
        self._raise_generation = raise_generation
        self.providers = providers
        self.clock: Clock = clock or SystemClock()
        self.started_at_ms = self.clock.now_ms()
        self.hub = Hub()
        self.blobs = Blobs(root)
        self.index = Index(root)
        self.committer = Committer(asyncio.get_running_loop())
        self.disk = DiskWatch(root, self.committer)
        self.circuits = Circuits()
        specs = {name: tool.spec for name, tool in tools.items()}
        self.policy = Policy(root / "daemon" / "permissions.json", self.committer, specs, config_rules, budgets)
        self.ledger = Ledger(budgets)
        self._kernel = Kernel(
            hub=self.hub,
            committer=self.committer,
            policy=self.policy,
            circuits=self.circuits,
            ledger=self.ledger,
            generation=generation,
            next_pos=self._next_pos,
            on_change=self._changed,
        )
        self._reconciler = Reconciler(
            clock=self.clock,
            providers=providers,
            circuits=self.circuits,
            tools=tools,
            blobs=self.blobs,
            kill_tree=kill_tree,
            report=self._report,
            on_trouble=self._trouble,
        )
        self._actors: dict[str, Actor] = {}
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._unload_timer: asyncio.TimerHandle | None = None
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._pos = 0
        self._published_pos = 0
        self._save_timer: asyncio.TimerHandle | None = None
        self._saving = asyncio.Lock()
        self._background: set[asyncio.Task[None]] = set()
        self._is_telling = self._tells_again = False
        self._told_day = self.today
        self._is_started = False
        self.is_draining = False

    @property
    def generation(self) -> int:
        return self._kernel.generation

    @property
    def position(self) -> tuple[int, int]:
        """Where the global stream stands: (generation, position of the last record that was published)."""
        return self.generation, self._published_pos

    @property
    def loaded_total(self) -> int:
        return len(self._actors)

    # -- start and stop ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Builds the index and takes up all work that is owed. Returns when every client can be served; only when all
        work is taken up does it go on, for it would be in the way."""
        stale = await self.committer.run(self._load_index)
        for row in await asyncio.gather(*[self.committer.run(self._summarize_from_disk, name) for name in stale]):
            if row.created_at_ms or row.problem:
                self.index.put(row)
        self.ledger.load({row.session_id: row.share for row in self.index.rows.values()})
        owed = [row.session_id for row in self.index.rows.values() if not row.problem and row.is_owed]
        await asyncio.gather(*[self._take_up(session_id) for session_id in owed])
        self._is_started = True
        for actor in self._actors.values():
            self._reconciler.reconcile(actor)
        if stale:
            self._in_background(self._save_index())
        if self.ledger.waiting:
            self._in_background(self._tell_waiting())

    async def _take_up(self, session_id: str, again_s: float = _TAKE_UP_AGAIN_S) -> None:
        """Opens a session that is owed something. One that is damaged is read-only; where only its lock or the disk
        stands in the way, it is tried again."""
        if self.is_draining:
            return
        try:
            await self._open(session_id)
        except (Corrupt, NewerFormat) as error:
            self._quarantine(session_id, error)
        except KheishError as error:
            log.warning("session %s: what it is owed has to wait: %s", session_id, error.message)
            self.index.rows[session_id].problem = error.message
            asyncio.get_running_loop().call_later(
                again_s,
                lambda: self._in_background(self._take_up(session_id, min(2 * again_s, _TAKE_UP_AGAIN_MAX_S))),
            )

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _load_index(self) -> list[str]:
        make_private_dir(self.root)
        make_private_dir(self.root / "daemon")
        make_sessions_dir(self.root)
        clear_unfinished(self.root)
        clear_temps(self.root / "daemon")
        self.blobs.clear_unfinished()
        return self.index.load()

    def _summarize_from_disk(self, session_id: str) -> SessionSummary:
        info = session_info(self.root, session_id)
        try:
            loaded, state = self._read_state(session_id)
            is_owed = not loaded.fault and (loaded.torn is not None or _is_owed(state))
            if loaded.tail and not (loaded.fault or is_owed):
                # Its daemon may have died between a write and its sync, and nobody else settles it before it is shown.
                try:
                    SessionDir.open(self.root, session_id, reducer=REDUCER_VERSION).journal.close()
                except Conflict:  # somebody else holds it: it is taken up after that
                    is_owed = True
        except (KheishError, OSError) as error:
            return SessionSummary(session_id=session_id, problem=str(error))
        last = loaded.last
        row = summarize(
            state,
            last.seq if last else 0,
            last.gen if last else state.generation,
            last.pos if last else 0,
            is_owed=is_owed,
            segment_first_seq=first_seq_of(info.segment) or 0,
            size=info.size,
        )
        row.session_id = session_id
        if loaded.fault is not None:
            row.problem = loaded.fault.message
        return row

    async def drain(self, grace_ms: int) -> None:
        """Stops taking work and lets tool calls finish within the grace."""
        self.is_draining = True
        await self._reconciler.stop(grace_ms)

    async def close(self) -> None:
        """After `drain`: puts every session away and saves the index."""
        for timer in (self._unload_timer, self._save_timer):
            if timer is not None:
                timer.cancel()
        self.hub.close()
        while under_way := [*self._opening.values(), *self._closing.values()]:
            await asyncio.wait(under_way)
        for actor in list(self._actors.values()):
            await actor.close()
        self._actors.clear()
        if self._background:
            await asyncio.wait(self._background)
        await self._save_index()
        await self.committer.close()

    # -- commands and outcomes -----------------------------------------------------------------------------------

    async def submit(
        self, session_id: str, command: Command, caller: Caller, *, key: str = "", body_digest: str = ""
    ) -> Applied:
        """Applies a command durably. Raises KheishError where it is refused."""
        if self.is_draining:
            raise Draining("cannot take commands: the daemon is stopping; try again")
        creating = isinstance(command, CreateSession)
        no_room = await self.disk.problem() if isinstance(command, CreateSession | SubmitRun) else ""
        if creating and session_id not in self.index.rows:
            # A refused one must not leave a directory behind.
            decide(State(), command, self._context(session_id, caller, key, body_digest), self.policy.settings)
            if no_room:
                raise disk_low("create a session", no_room)
        actor = await self._open(session_id, create=creating)
        if no_room and isinstance(command, SubmitRun) and key not in actor.state.keys:
            raise disk_low("take an input", no_room)
        try:
            return await actor.submit(command, lambda: self._context(session_id, caller, key, body_digest))
        except Poisoned as error:
            self._trouble(actor, error)
            raise

    async def _report(self, actor: Actor, outcome: Outcome) -> object:
        return await actor.submit(outcome, lambda: self._context(actor.session_id, DAEMON))

    async def _tell_waiting(self) -> None:
        """A budget may have room again: whoever waits for one looks again. One round at a time, and another one where
        something changed during it."""
        self._tells_again = True
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._tells_again and not self.is_draining:
                self._tells_again, self._told_day = False, self.today
                for session_id in list(self.ledger.waiting):
                    with contextlib.suppress(KheishError):
                        await self._report(await self._open(session_id), BudgetMoved())
        finally:
            self._is_telling = False

    @property
    def today(self) -> str:
        return date.fromtimestamp(self.clock.now_ms() / 1000).isoformat()

    def _context(self, session_id: str, caller: Caller, key: str = "", body_digest: str = "") -> Context:
        at_ms = self.clock.now_ms()
        return Context(
            at_ms=at_ms,
            id_base=new_id("x").partition("_")[2],
            generation=self.generation,
            principal=caller.principal,
            origin=caller.origin,
            is_operator=caller.is_operator,
            key=key,
            body_digest=body_digest,
            cooling=self.circuits.cooling(at_ms),
            outside=self.outside(session_id),
            day=self.today,
        )

    def outside(self, session_id: str) -> tuple[Outside, ...]:
        """What there is to know of budgets beyond a session."""
        return self.ledger.outside(session_id, self.today)

    def _next_pos(self) -> int:
        self._pos += 1
        return self._pos

    def _changed(self, actor: Actor) -> None:
        if actor.gen == self.generation:
            self._published_pos = max(self._published_pos, actor.pos)
        if self._is_started:
            self._reconciler.reconcile(actor)
        row = self.index.rows.get(actor.session_id) if self.ledger.waiting else None
        if row is not None and (is_loosened(row.share, share_of(actor.state)) or self.today != self._told_day):
            self._in_background(self._tell_waiting())
        durable = actor.journal.locate(actor.seq)
        self.index.put(
            summarize(
                actor.state,
                actor.seq,
                actor.gen,
                actor.pos,
                is_owed=_is_owed(actor.state),
                segment_first_seq=durable.segment_first_seq,
                size=durable.offset,
            )
        )
        self._save_index_later()
        self._use(actor)

    def _trouble(self, actor: Actor, error: BaseException) -> None:
        log.error("session %s: %s", actor.session_id, error, exc_info=error)
        row = self.index.rows.get(actor.session_id)
        if row is not None:
            row.problem = str(error)

    # -- opening and putting away --------------------------------------------------------------------------------

    async def _open(self, session_id: str, *, create: bool = False) -> Actor:
        while True:
            while (closing := self._closing.get(session_id)) is not None:
                await asyncio.wait([closing])
            actor = self._actors.get(session_id)
            if actor is not None:
                self._use(actor)
                return actor
            task = joined = self._opening.get(session_id)
            if task is None:
                task = asyncio.ensure_future(self._load(session_id, create))
                self._opening[session_id] = task
            try:
                await asyncio.shield(task)
            except NotFound:
                if joined is None or not create:
                    raise  # a creator that had joined a reader tries by itself

    async def _load(self, session_id: str, create: bool) -> None:
        try:
            await self._load_alone(session_id, create)
        finally:
            # Not in a callback, which would come after those who try again.
            del self._opening[session_id]

    async def _load_alone(self, session_id: str, create: bool) -> None:
        try:
            is_new = create and session_id not in self.index.rows
            opened, state = await self.committer.run(self._fold_from_disk, session_id, is_new)
        except Corrupt as error:
            self._quarantine(session_id, error)
            raise
        except OSError as error:
            raise StoreError.of_disk(f"open session {session_id}", error) from error
        try:
            actor = await self._recover(session_id, opened, state)
        except BaseException:
            await self.committer.run(opened.journal.close)
            raise
        self._actors[session_id] = actor
        self._use(actor)
        self._make_room()
        if state.session_id:
            self._changed(actor)

    async def _recover(self, session_id: str, opened: Opened, state: State) -> Actor:
        """The actor of an opened session, after it has noted what died with the last daemon."""
        if opened.journal.gen > self.generation:
            # Taken in from another state root: no record may be of an older generation than one before it.
            self._kernel.generation = await self.committer.run(self._raise_generation, opened.journal.gen)
        actor = Actor(self._kernel, session_id, opened.journal, state, opened.checkpoint_seq)
        if opened.tail:
            actor.pos = opened.tail[-1].pos
        elif (row := self.index.rows.get(session_id)) is not None:
            actor.pos = row.pos
        if state.session_id:
            recover = Recover(
                tail_bytes_dropped=sum(path.stat().st_size for path in opened.set_aside),
                tail_file=" ".join(path.name for path in opened.set_aside),
            )
            await actor.submit(
                recover,
                lambda: self._context(session_id, Caller(principal="daemon", origin="recovery", is_operator=False)),
            )
        return actor

    def _fold_from_disk(self, session_id: str, is_new: bool) -> tuple[Opened, State]:
        is_settled = False
        if is_new:
            with contextlib.suppress(Conflict):
                SessionDir.create(self.root, session_id)
                is_settled = True
        opened = SessionDir.open(self.root, session_id, reducer=REDUCER_VERSION, is_settled=is_settled)
        try:
            return opened, _fold(opened)
        except BaseException:
            opened.journal.close()
            raise

    def _quarantine(self, session_id: str, error: KheishError) -> None:
        log.error("session %s is read-only: %s", session_id, error.message)
        row = self.index.rows.get(session_id) or SessionSummary(session_id=session_id)
        row.problem, row.is_owed = error.message, False
        self.index.put(row)

    def _use(self, actor: Actor) -> None:
        """A loaded session is put away when nobody has used it for a while, or when there are too many others."""
        if self._actors.get(actor.session_id) is not actor:
            return
        self._touch(actor)
        if self._unload_timer is None:
            self._unload_idle()

    def _make_room(self) -> None:
        """After a session was loaded: puts away those that were not used for the longest, while there are too many. The
        one just loaded stands last, and stays."""
        if self.is_draining:
            return
        for actor in list(islice(self._actors.values(), _MAKE_ROOM_LOOKS))[: len(self._actors) - 1]:
            if len(self._actors) <= SESSIONS_LOADED_MAX:
                return
            if self._is_idle(actor):
                self._unload(actor)
            else:
                self._touch(actor)

    def _touch(self, actor: Actor) -> None:
        """`_actors` is in the order of the last use."""
        del self._actors[actor.session_id]
        self._actors[actor.session_id] = actor
        actor.used_at_s = asyncio.get_running_loop().time()

    def _unload_idle(self) -> None:
        """Puts away what nobody has used for long and nothing keeps busy, and comes again when the next one is due."""
        self._unload_timer = None
        if self.is_draining:
            return
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
        """A session that became read-only is not put away: opening it anew would trust what the failed disk shows. Nor
        is one before the daemon has started, when what it is owed still has to begin."""
        is_busy = actor.is_busy or actor.journal.is_poisoned or not self._is_started
        return not is_busy and self._reconciler.is_idle(actor.session_id)

    def _unload(self, actor: Actor) -> None:
        del self._actors[actor.session_id]
        task = asyncio.ensure_future(actor.close())
        self._closing[actor.session_id] = task
        task.add_done_callback(lambda _: self._closing.pop(actor.session_id, None))

    # -- reading -------------------------------------------------------------------------------------------------

    async def state(self, session_id: str) -> tuple[State, int]:
        """The session's state and last seq. Raises NotFound."""
        actor = await self._open(session_id)
        if not actor.state.session_id:
            raise NotFound(f"cannot find session {session_id}", code="session_not_found")
        return actor.state, actor.seq

    async def peek(self, session_id: str) -> State:
        """The state for a list over many sessions: one that is not loaded is read where it lies. It is opened if it is
        damaged, which is noted then, or if what it waits for was asked under other rules, and is then asked again.
        Raises NotFound, Corrupt, OSError."""
        actor, row = self._actors.get(session_id), self.index.rows.get(session_id)
        if actor is not None:
            return actor.state
        if row is not None:
            loaded, state = await self.committer.run(self._read_state, session_id, row.seq)
            revision = self.policy.settings.policy_revision
            is_current = all(approval.policy_revision == revision for approval in state.approvals.values())
            if is_current and loaded.fault is None:
                return state
        return (await self.state(session_id))[0]

    def _read_state(self, session_id: str, until_seq: int | None = None) -> tuple[Loaded, State]:
        """Without opening it; a record after the row's may not be durable yet."""
        loaded = SessionDir.read_only(self.root, session_id, reducer=REDUCER_VERSION)
        return loaded, _fold(loaded, until_seq)

    async def messages(self, session_id: str) -> Sequence[Message]:
        """The session's transcript. Raises NotFound, or Corrupt where the journal cannot be read."""
        await self.state(session_id)
        return await self._actors[session_id].messages()

    async def read_records(
        self, session_id: str, after_seq: int, limit: int, bytes_max: int | None = None
    ) -> list[Record]:
        """Durable records after a seq, oldest first; no more after `bytes_max` is reached. Of a damaged session those
        before the fault; where it comes next, raises Corrupt."""
        read, until = self._reader(session_id)
        if until is not None and after_seq >= until:
            return []
        return await self.committer.run(lambda: _before_fault(read(after_seq + 1, limit, until), bytes_max))

    def _reader(self, session_id: str) -> tuple[Read, int | None]:
        """What reads a session's journal, and up to which seq it may. Raises NotFound."""
        actor = self._actors.get(session_id)
        row = self.index.rows.get(session_id)
        path = session_path(self.root, session_id)
        if not path.is_dir():
            raise NotFound(f"cannot find session {session_id}", code="session_not_found")
        if actor is not None:
            return actor.journal.read, actor.seq
        # While a session is being opened its journal may hold a record that is not durable yet.
        until = row.seq if row is not None and not row.problem else None
        return partial(read_records, path, index=OffsetIndex()), until

    async def run(self, session_id: str, run_id: str) -> tuple[State, Run]:
        """A run and the state that it is shown with: the session's, or, once the run has left that, what the journal
        says of it alone. Raises NotFound."""
        state, seq = await self.state(session_id)
        if state.past_runs and run_id not in state.runs:
            read, _ = self._reader(session_id)
            state = await self.committer.run(fold_run, read, seq, session_id, run_id)
        if (run := state.runs.get(run_id)) is None:
            raise NotFound(f"cannot find run {run_id} in session {session_id}", code="run_not_found")
        return state, run

    async def read_run(self, session_id: str, run_id: str, after_seq: int) -> AsyncGenerator[list[Record], None]:
        """The durable records after a seq that concern a run, page by page, up to its end if it is over."""
        after_seq = max(after_seq, await self._find_made(session_id, run_id) - 1)
        while page := await self.read_records(session_id, after_seq, PAGE_ITEMS_MAX, bytes_max=STREAM_CHUNK_BYTES):
            after_seq = page[-1].seq
            if found := [record for record in page if concerns(record, run_id)]:
                yield found
                if ends(found[-1], run_id):
                    return

    async def read_since(self, session_id: str, since_ms: int) -> AsyncGenerator[list[Record], None]:
        """The durable records of a session from shortly before a time on, page by page."""
        read, until = self._reader(session_id)
        after_seq = await self.committer.run(find_time, read, until, since_ms) - 1 if until and since_ms else 0
        while page := await self.read_records(session_id, after_seq, PAGE_ITEMS_MAX, bytes_max=STREAM_CHUNK_BYTES):
            after_seq = page[-1].seq
            yield page

    async def _find_made(self, session_id: str, id_: str) -> int:
        """The seq of the record that made a run, an approval or a question, or 0. Raises NotFound, Corrupt, OSError."""
        read, until = self._reader(session_id)
        return await self.committer.run(find_made, read, until, id_) if until else 0

    def replay(self, after: tuple[int, int], until: tuple[int, int]) -> AsyncIterator[tuple[str, Record]]:
        """Durable records of all sessions between two (generation, position), in the order they were published; without
        those of a session that cannot be read."""
        rows = [row for row in self.index.rows.values() if (row.gen, row.pos) > after]
        return replay(self.read_records, {row.session_id: row.seq for row in rows}, after, until)

    async def find_run(self, run_id: str) -> tuple[str, str]:
        """(session id, full run id) of a run id or an unambiguous prefix of one."""
        full = run_id if run_id.startswith("run_") else f"run_{run_id}"
        session_id = await self.session_of_run(full)
        if session_id is None:
            found = self.index.runs_with_prefix(full)
            full = _one(list(found), "run", run_id)
            session_id = found[full]
        return session_id, full

    async def session_of_run(self, run_id: str) -> str | None:
        """By full id. Where no state holds it, the journals are asked of those sessions that have past runs and lived
        when it was made."""
        if (session_id := self.index.session_of_run(run_id)) is not None:
            return session_id
        for row in self._living_at(time_of(run_id)):
            with contextlib.suppress(KheishError, OSError):
                if row.past_runs and await self._find_made(row.session_id, run_id):
                    return row.session_id
        return None

    def _living_at(self, at_ms: int | None) -> list[SessionSummary]:
        if at_ms is None:
            return []
        return [
            row
            for row in self.index.rows.values()
            if not row.problem and row.created_at_ms - ID_CLOCK_MS <= at_ms <= row.updated_at_ms + ID_CLOCK_MS
        ]

    async def find_request(self, request_id: str) -> tuple[str, str]:
        """(session id, full id) of an approval or question, by id or unambiguous prefix. A settled one is found too, by
        a prefix while its session is loaded and by its full id always, so that a late answer learns of the first."""
        for row in self.index.rows.values():
            if request_id in row.approval_ids or request_id in row.question_ids:
                return row.session_id, request_id
        found: dict[str, str] = {}
        for row in self.index.rows.values():
            for full in (*row.approval_ids, *row.question_ids):
                if full.startswith(request_id) or full.partition("_")[2].startswith(request_id):
                    found[full] = row.session_id
        if not found:
            for actor in self._actors.values():
                for full in actor.state.settled:
                    if full.startswith(request_id) or full.partition("_")[2].startswith(request_id):
                        found[full] = actor.session_id
        if not found:
            for row in self._living_at(time_of(request_id)):
                with contextlib.suppress(KheishError, OSError):
                    settled = (await self.peek(row.session_id)).settled
                    if request_id in settled or (
                        len(settled) >= SETTLED_REQUESTS_KEPT and await self._find_made(row.session_id, request_id)
                    ):
                        return row.session_id, request_id
        full = _one(list(found), "approval or question", request_id)
        return found[full], full

    async def put_blob(self, data: bytes) -> str:
        """Stores bytes of a new input durably; returns their sha256."""
        no_room = await self.disk.problem()
        try:
            if no_room and not await self.committer.run(lambda: self.blobs.holds(data)):
                raise disk_low("store an attachment", no_room)
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
                await self.committer.run(self.index.save, unsaved)
            except OSError as error:
                log.warning("cannot save the index: %s", error)


def _before_fault(records: Iterator[Record], bytes_max: int | None) -> list[Record]:
    found: list[Record] = []
    total_bytes = 0
    try:
        for record in records:
            found.append(record)
            total_bytes += len(record.events_json)
            if bytes_max is not None and total_bytes >= bytes_max:
                break
    except Corrupt:
        if not found:
            raise
    return found


def _fold(session: Opened | Loaded, until_seq: int | None = None) -> State:
    tail = session.tail if until_seq is None else [record for record in session.tail if record.seq <= until_seq]
    return fold_records(tail, decode_state(session.checkpoint) if session.checkpoint else State())


def _is_owed(state: State) -> bool:
    return in_flight(state) or bool(pending(state))


def _one(found: list[str], noun: str, given: str) -> str:
    if not found:
        hint = "; what has been over for long is found by its whole id" if time_of(given) is None else ""
        raise NotFound(f"cannot find {noun} {given}{hint}", code=f"{noun.partition(' ')[0]}_not_found")
    if len(found) > 1:
        raise Conflict(
            f"cannot tell which {noun} {given} is: {', '.join(sorted(found)[:5])}",
            code="ambiguous_id",
        )
    return found[0]
