"""Reads for whoever asks: the state of a session, its records, and which session a run or a request is of.

A session that is loaded answers from memory; any other is read where it lies, as far as it is durable.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from kheish.core.events import Message, SessionForked
from kheish.core.state import REDUCER_VERSION, Run, State
from kheish.errors import Conflict, Corrupt, KheishError, NotFound
from kheish.ids import time_in, time_of
from kheish.limits import PAGE_ITEMS_MAX, SESSIONS_READ_AT_ONCE_MAX, SETTLED_REQUESTS_KEPT, STREAM_CHUNK_BYTES
from kheish.runtime.actor import Actor
from kheish.runtime.fold import ID_CLOCK_MS, Read, concerns, ends, find_made, find_time, fold_run, fold_session
from kheish.runtime.forks import copy_transcript
from kheish.runtime.index import Index
from kheish.runtime.policy import Policy
from kheish.runtime.replay import replay
from kheish.runtime.residents import Residents
from kheish.store.committer import Committer
from kheish.store.records import Record
from kheish.store.segments import OffsetIndex, read_records
from kheish.store.session_dir import SessionDir, session_path


class Reader:
    def __init__(self, root: Path, index: Index, residents: Residents, committer: Committer, policy: Policy) -> None:
        self._root = root
        self._index = index
        self._residents = residents
        self._committer = committer
        self._policy = policy

    async def state(self, session_id: str) -> tuple[State, int]:
        """The session's state and last seq. Raises NotFound."""
        actor = await self._created(session_id)
        return actor.state, actor.seq

    async def _created(self, session_id: str) -> Actor:
        actor = await self._residents.open(session_id)
        if not actor.state.session_id:
            raise _no_session(session_id)
        return actor

    async def peek(self, session_id: str) -> State:
        """The state for a look at many sessions: one that is not loaded is read where it lies. It is opened if it is
        damaged, which is noted then, or if what it waits for was asked under other rules, and is then asked again.
        Raises NotFound, Corrupt, OSError."""
        return await self._peeked(session_id, await self._read_unloaded([session_id]))

    async def peek_each(self, session_ids: Sequence[str]) -> AsyncGenerator[State, None]:
        """The same of many, some of which are read at a time; without those that turn out to be damaged, gone or
        another's, which must not hide the others (the status names them)."""
        for first in range(0, len(session_ids), SESSIONS_READ_AT_ONCE_MAX):
            some = session_ids[first : first + SESSIONS_READ_AT_ONCE_MAX]
            read = await self._read_unloaded(some)
            for session_id in some:
                try:
                    state = await self._peeked(session_id, read)
                except (KheishError, OSError):
                    continue
                yield state

    async def _read_unloaded(self, session_ids: Iterable[str]) -> dict[str, State]:
        """Without opening them, those that are sound, up to where they are durable: a record after the row's may not
        be."""
        rows = self._index.rows
        until = {id_: rows[id_].seq for id_ in session_ids if self._residents.get(id_) is None and id_ in rows}
        return await self._committer.run(self._read_states, until) if until else {}

    def _read_states(self, until: dict[str, int]) -> dict[str, State]:
        found = {}
        for session_id, seq in until.items():
            with contextlib.suppress(KheishError, OSError):
                fold = partial(fold_session, until_seq=seq)
                loaded = SessionDir.read_only(self._root, session_id, fold, reducer=REDUCER_VERSION)
                if loaded.fault is None:
                    found[session_id] = loaded.state
        return found

    async def _peeked(self, session_id: str, read: dict[str, State]) -> State:
        if (actor := self._residents.get(session_id)) is not None:
            return actor.state
        state, revision = read.get(session_id), self._policy.settings.policy_revision
        if state is not None and all(asked.policy_revision == revision for asked in state.approvals.values()):
            return state
        return (await self.state(session_id))[0]

    async def messages(self, session_id: str) -> Sequence[Message]:
        """The session's transcript. Raises NotFound, or Corrupt where the journal cannot be read."""
        return await (await self._created(session_id)).messages()

    async def copy_transcript(self, session_id: str, at_seq: int) -> tuple[SessionForked, State]:
        """What a fork begins with, as `forks.copy_transcript` says. Raises NotFound too."""
        read, until = self._reader(session_id)
        return await self._committer.run(lambda: copy_transcript(read(until_seq=until), session_id, at_seq))

    async def read_records(
        self,
        session_id: str,
        after_seq: int,
        limit: int,
        bytes_max: int | None = None,
        places: OffsetIndex | None = None,
    ) -> list[Record]:
        """Durable records after a seq, oldest first; no more after `bytes_max` is reached. Of a damaged session those
        before the fault; where it comes next, raises Corrupt. `places`: what is known, and learnt, of where records
        stand; of a session that is loaded it is known anyway."""
        read, until = self._reader(session_id, places)
        if until is not None and after_seq >= until:
            return []
        found = await self._committer.run(lambda: _before_fault(read(after_seq + 1, limit, until), bytes_max))
        if not found and until is None and (fault := await self._committer.run(self._find_fault, session_id)):
            raise fault
        return found

    def _find_fault(self, session_id: str) -> Corrupt | None:
        """What is wrong with a session whose records can all be read: more are missing, or one does not follow."""
        try:
            return SessionDir.read_only(self._root, session_id, fold_session, reducer=REDUCER_VERSION).fault
        except Corrupt as fault:
            return fault

    def _reader(self, session_id: str, places: OffsetIndex | None = None) -> tuple[Read, int | None]:
        """What reads a session's journal, on a thread that may wait for the disk, and up to which seq it may. Raises
        NotFound, and so may the reading."""
        path = session_path(self._root, session_id)
        if (actor := self._residents.get(session_id)) is not None:
            if not actor.seq:
                raise _no_session(session_id)
            return partial(_read_found, path, actor.journal.read), actor.seq
        row = self._index.rows.get(session_id)
        # While a session is being opened its journal may hold a record that is not durable yet.
        until = row.seq if row is not None and not row.problem else None
        return partial(_read_found, path, partial(read_records, path, index=places or OffsetIndex())), until

    async def run(self, session_id: str, run_id: str) -> tuple[State, Run]:
        """A run and the state that it is shown with: the session's, or, once the run has left that, what the journal
        says of it alone. Raises NotFound."""
        state, seq = await self.state(session_id)
        if state.past_runs and run_id not in state.runs:
            read, _ = self._reader(session_id)
            state = await self._committer.run(fold_run, read, seq, session_id, run_id)
        if (run := state.runs.get(run_id)) is None:
            raise NotFound(f"cannot find run {run_id} in session {session_id}", code="run_not_found")
        return state, run

    async def read_run(self, session_id: str, run_id: str, after_seq: int) -> AsyncGenerator[list[Record], None]:
        """The durable records after a seq that concern a run, page by page, up to its end if it is over."""
        after_seq = max(after_seq, await self._find_made(session_id, run_id) - 1)
        async for page in self._pages(session_id, after_seq):
            if found := [record for record in page if concerns(record, run_id)]:
                yield found
                if ends(found[-1], run_id):
                    return

    async def read_since(self, session_id: str, since_ms: int) -> AsyncGenerator[list[Record], None]:
        """The durable records of a session from shortly before a time on, page by page."""
        read, until = self._reader(session_id)
        after_seq = await self._committer.run(find_time, read, until, since_ms) - 1 if until and since_ms else 0
        async for page in self._pages(session_id, after_seq):
            yield page

    async def _pages(self, session_id: str, after_seq: int) -> AsyncGenerator[list[Record], None]:
        """All durable records of a session after a seq."""
        places = OffsetIndex()
        while page := await self.read_records(session_id, after_seq, PAGE_ITEMS_MAX, STREAM_CHUNK_BYTES, places):
            after_seq = page[-1].seq
            yield page

    async def _find_made(self, session_id: str, id_: str) -> int:
        """The seq of the record that made a run, an approval or a question, or 0. Raises NotFound, Corrupt, OSError."""
        read, until = self._reader(session_id)
        return await self._committer.run(find_made, read, until, id_) if until else 0

    def replay(
        self, after: tuple[int, int], until: tuple[int, int], through: str = ""
    ) -> AsyncIterator[tuple[str, Record, bool]]:
        """Durable records of all sessions between two (generation, position), in the order they were published, as
        `replay.replay` says; without those of a session that cannot be read."""
        rows, seen = self._index.rows.glances(), (after[0], after[1] - 1) if through else after
        seqs = {row.session_id: row.seq for row in rows if (row.gen, row.pos) > seen}
        places = {session_id: OffsetIndex() for session_id in seqs}

        def read(session_id: str, after_seq: int, limit: int, bytes_max: int) -> Awaitable[list[Record]]:
            return self.read_records(session_id, after_seq, limit, bytes_max, places[session_id])

        return replay(read, seqs, after, until, through)

    async def find_run(self, run_id: str) -> tuple[str, str]:
        """(session id, full run id) of a run id or an unambiguous prefix of one."""
        full = run_id if run_id.startswith("run_") else f"run_{run_id}"
        session_id = await self.session_of_run(full)
        if session_id is None:
            found = self._index.runs_with_prefix(full)
            full = _one(list(found), "run", run_id)
            session_id = found[full]
        return session_id, full

    async def session_of_run(self, run_id: str) -> str | None:
        """By full id. Where no state holds it, the journals are asked of those sessions that have past runs and lived
        when it was made."""
        for actor in self._residents:
            if run_id in actor.state.runs:
                return actor.session_id
        if (session_id := self._index.session_of_run(run_id)) is not None:
            return session_id
        for living in self._living_at(time_of(run_id)):
            with contextlib.suppress(KheishError, OSError):
                if self._index.rows[living].past_runs and await self._find_made(living, run_id):
                    return living
        return None

    def _living_at(self, at_ms: int | None) -> list[str]:
        """The sessions that were used before and after."""
        if at_ms is None:
            return []
        return [
            row.session_id
            for row in self._index.rows.glances()
            if not row.problem and row.created_at_ms - ID_CLOCK_MS <= at_ms <= row.updated_at_ms + ID_CLOCK_MS
        ]

    async def find_request(self, request_id: str) -> tuple[str, str]:
        """(session id, full id) of an approval or question, by id or unambiguous prefix. A settled one is found too, so
        that a late answer learns of the first, and one that is sent again the same: by its full id always, else while
        its session is loaded, or by a prefix that holds the time."""
        if (session_id := self._index.asked.get(request_id)) is not None:
            return session_id, request_id

        def begun(ids: Iterable[str]) -> list[str]:
            return [id_ for id_ in ids if id_.startswith(request_id) or id_.partition("_")[2].startswith(request_id)]

        found = {full: self._index.asked[full] for full in begun(self._index.asked)}
        if not found:
            for actor in self._residents:
                found |= dict.fromkeys(begun(actor.state.settled), actor.session_id)
        if not found:
            is_whole = time_of(request_id) is not None
            for living in self._living_at(time_in(request_id)):
                with contextlib.suppress(KheishError, OSError):
                    settled = (await self.peek(living)).settled
                    found |= dict.fromkeys(begun(settled), living)
                    if (
                        is_whole
                        and not found
                        and len(settled) >= SETTLED_REQUESTS_KEPT
                        and await self._find_made(living, request_id)
                    ):
                        found[request_id] = living
                if is_whole and found:
                    break
        full = _one(list(found), "approval or question", request_id)
        return found[full], full


def _no_session(session_id: str) -> NotFound:
    return NotFound(f"cannot find session {session_id}", code="session_not_found")


def _read_found(
    path: Path, read: Read, from_seq: int = 1, limit: int | None = None, until_seq: int | None = None
) -> Iterator[Record]:
    if not path.is_dir():
        raise _no_session(path.name)
    return read(from_seq, limit, until_seq)


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
