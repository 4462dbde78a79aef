"""One actor per loaded session: its only writer.

Every command and outcome goes through `submit`: decide, append and sync, evolve, publish, reconcile. One at a time; a
caller that goes away does not take its command with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import orjson

from kheish.core.codec import encode_events, encode_state
from kheish.core.commands import Command, Context
from kheish.core.events import Attachment, Message, RunCancelled, RunCompleted, RunFailed, RunInterrupted
from kheish.core.machine import Decision, decide
from kheish.core.outcomes import Outcome
from kheish.core.prompt import attached_in
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import KheishError, Poisoned
from kheish.limits import CHECKPOINT_AT_IDLE_RECORDS, CHECKPOINT_EVERY_RECORDS, PACKED_WHEN_IDLE_BYTES
from kheish.runtime.circuits import Circuits
from kheish.runtime.fold import fold_records
from kheish.runtime.found import is_owed
from kheish.runtime.hub import Frame, Hub
from kheish.runtime.index import SessionSummary, summarize
from kheish.runtime.ledger import Ledger
from kheish.runtime.policy import Policy
from kheish.store.checkpoint import save_checkpoint
from kheish.store.committer import Committer
from kheish.store.journal import Framed, Journal

log = logging.getLogger(__name__)

_ENDS = (RunCompleted, RunFailed, RunCancelled, RunInterrupted)


class Applied(msgspec.Struct, frozen=True, gc=False):
    """A durable decision: what it made or touched, the session's last seq and its state (not to be changed)."""

    result: str
    seq: int
    state: State


class Kernel(msgspec.Struct):
    """What every actor shares. `next_pos` counts the daemon's records within its generation."""

    hub: Hub
    committer: Committer
    policy: Policy
    circuits: Circuits
    ledger: Ledger
    generation: int
    next_pos: Callable[[], int]
    on_change: Callable[[Actor, State], None]
    """Is told of a decision that is durable, with the state before it."""


Tell = Callable[[Applied | Exception], None]
"""Is told, on the event loop, of a message that was applied, or why it was not."""


class _Letter(msgspec.Struct, frozen=True, gc=False):
    message: Command | Outcome
    make_context: Callable[[], Context]
    tell: Tell


class _Made(msgspec.Struct, frozen=True, gc=False):
    """A decision that is being written."""

    tell: Tell
    decision: Decision
    context: Context
    pos: int
    by: dict[str, str]
    events_json: bytes
    framed: Framed


class Actor:
    def __init__(self, kernel: Kernel, session_id: str, journal: Journal, state: State, checkpoint_seq: int) -> None:
        self.kernel = kernel
        self.session_id = session_id
        self.journal = journal
        self.state = state
        self.seq, self._end = journal.durable_seq, journal.end
        self.gen = journal.gen
        self.pos = 0
        self.trouble: Poisoned | None = None
        """Why it cannot go on before the daemon restarts."""
        self._loop = asyncio.get_running_loop()
        self.used_at_s = self._loop.time()
        self._mailbox: deque[_Letter] = deque()
        self._writing: asyncio.Future[None] | None = None
        # The transcript from the record after `_unread_seq` on; what is before it is read when it is asked for.
        self._messages, self._attached = state.entered, attached_in(state.entered)
        self._unread_seq = checkpoint_seq
        if state.compactions:
            self._forget_transcript()
        self._reading: asyncio.Task[None] | None = None
        self._checkpoint_seq = checkpoint_seq
        self._checkpointing: asyncio.Task[None] | None = None

    @property
    def is_busy(self) -> bool:
        return (self._writing or self._reading or self._checkpointing) is not None

    def submit(self, message: Command | Outcome, make_context: Callable[[], Context]) -> asyncio.Future[Applied]:
        """Applies a message durably. The future fails with KheishError where it is refused or cannot be stored; one
        that is cancelled leaves the message to be applied."""
        answer: asyncio.Future[Applied] = self._loop.create_future()
        self.post(message, make_context, partial(_settle, answer))
        return answer

    def post(self, message: Command | Outcome, make_context: Callable[[], Context], tell: Tell) -> None:
        """The same for who does not wait: `tell` comes after whatever follows from the message has begun, or at once
        where nothing does."""
        self._mailbox.append(_Letter(message, make_context, tell))
        if self._writing is None:
            self._take_next()

    def _take_next(self) -> None:
        """Decides letters until one has to be written."""
        while self._mailbox and self._writing is None:
            letter = self._mailbox.popleft()
            try:
                self._decide(letter)
            except Exception as error:
                letter.tell(error)

    def _decide(self, letter: _Letter) -> None:
        context = letter.make_context()
        decision = decide(self.state, letter.message, context, self.kernel.policy.settings)
        if not decision.events:
            letter.tell(Applied(decision.result, self.seq, self.state))
            return
        by = {"principal": context.principal, "origin": context.origin}
        if not isinstance(letter.message, Outcome):
            by["command"] = str(letter.message.__struct_config__.tag)
        if context.key:
            by["key"] = context.key
        events_json = encode_events(decision.events)
        pos = self.kernel.next_pos()
        framed = self.journal.frame(at=context.at_ms, gen=context.generation, pos=pos, by=by, events_json=events_json)
        self.kernel.circuits.note_decided(decision.events, context.at_ms)
        self.kernel.ledger.note(self.session_id, decision.state)
        made = _Made(letter.tell, decision, context, pos, by, events_json, framed)
        self.kernel.committer.append(self.journal, framed, partial(self._written, made))
        self._writing = self._loop.create_future()

    def _written(self, made: _Made, error: Poisoned | None) -> None:
        assert self._writing is not None
        self._writing.set_result(None)
        self._writing = None
        try:
            if error is not None:
                self.kernel.ledger.note(self.session_id, self.state)
                made.tell(error)
            else:
                self._apply(made)
        finally:
            self._take_next()

    def _apply(self, made: _Made) -> None:
        decision, framed, before = made.decision, made.framed, self.state
        self.state, self.seq, self.gen, self.pos = decision.state, framed.seq, framed.gen, made.pos
        self._end = self.journal.end
        try:
            self._messages += decision.state.entered
            self._attached += attached_in(decision.state.entered)
            if self._reading is None and decision.state.compactions != before.compactions:
                self._forget_transcript()
            if self.kernel.hub.has_listeners(self.session_id):
                self.kernel.hub.publish(_record_frame(self.session_id, made))
            self.kernel.on_change(self, before)
            if self.seq - self._checkpoint_seq >= CHECKPOINT_EVERY_RECORDS:
                self._checkpoint_soon()
        finally:
            made.tell(Applied(decision.result, framed.seq, decision.state))

    def summary(self) -> SessionSummary:
        """The row of the index. The journal may be further than what was told of it."""
        return summarize(
            self.state,
            self.seq,
            self.gen,
            self.pos,
            is_owed=is_owed(self.state),
            segment_first_seq=self._end.segment_first_seq,
            size=self._end.offset,
            other_bytes=self.journal.other_bytes,
        )

    async def messages(self) -> Sequence[Message]:
        """The transcript so far. Raises Corrupt or OSError where the journal cannot be read."""
        while self._unread_seq:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read_transcript())
            await asyncio.shield(self._reading)
        return self._messages

    def _forget_transcript(self) -> None:
        """What models are shown is in the state; who wants the rest has it read."""
        self._messages, self._attached, self._unread_seq = [], [], self.seq
        self.state.entered = []

    async def shown(self) -> Sequence[Message]:
        """What models are shown of the transcript. Raises Corrupt or OSError where the journal cannot be read."""
        return self.state.shown if self.state.compactions else await self.messages()

    @property
    def attached(self) -> list[Attachment]:
        """What is attached to that, once it was read; found as it came, for a transcript may be long."""
        return attached_in(self.state.shown) if self.state.compactions else self._attached

    async def _read_transcript(self) -> None:
        unread = self.journal.read(until_seq=self._unread_seq)
        try:
            state = await self.kernel.committer.run(fold_records, unread, State())
            self._messages, self._unread_seq = state.entered + self._messages, 0
            self._attached = attached_in(self._messages)
        finally:
            self._reading = None

    def _checkpoint_soon(self) -> None:
        if self._checkpointing is None:
            self._checkpointing = asyncio.ensure_future(self._save_checkpoint())

    async def _save_checkpoint(self) -> None:
        """Writes the state at the last durable record, off the loop. A failure is logged: it costs the next opening
        time and nothing else."""
        seq, state = self.seq, self.state
        try:
            await self.kernel.committer.run(
                lambda: save_checkpoint(
                    self.journal, seq, reducer=REDUCER_VERSION, state=encode_state(state), at=state.updated_at_ms
                )
            )
        except (OSError, KheishError) as error:
            log.warning("session %s: cannot save a checkpoint: %s", self.session_id, error)
        finally:
            self._checkpoint_seq = seq
            self._checkpointing = None

    async def close(self, *, may_pack: bool = False) -> None:
        """Leaves the session to the disk: a checkpoint if it saves replay, then the lock is released. `may_pack`: it is
        for long, and what it wrote is closed so that it may be packed, if that is worth a file."""
        while (work := self._writing or self._reading or self._checkpointing) is not None:
            await asyncio.wait([work])
        if self.seq - self._checkpoint_seq >= CHECKPOINT_AT_IDLE_RECORDS and not self.journal.is_poisoned:
            await self._save_checkpoint()
        if may_pack and self.journal.end.offset >= PACKED_WHEN_IDLE_BYTES and not self.journal.is_poisoned:
            try:
                await self.kernel.committer.run(self.journal.end_segment)
            except (OSError, Poisoned) as error:
                log.warning("session %s: cannot begin a segment: %s", self.session_id, error)
        await self.kernel.committer.run(self.journal.close)


def _settle(answer: asyncio.Future[Applied], found: Applied | Exception) -> None:
    if answer.done():
        return
    if isinstance(found, Exception):
        answer.set_exception(found)
    else:
        answer.set_result(found)


def _record_frame(session_id: str, made: _Made) -> Frame:
    events, framed = made.decision.events, made.framed
    return Frame(
        event="record",
        session_id=session_id,
        seq=framed.seq,
        gen=framed.gen,
        pos=made.pos,
        data=record_json(session_id, framed.seq, made.context.at_ms, framed.gen, made.pos, made.by, made.events_json),
        run_ids=frozenset(run_id for e in events if (run_id := getattr(e, "run_id", ""))),
        ends=frozenset(e.run_id for e in events if isinstance(e, _ENDS)),
    )


def record_json(
    session_id: str, seq: int, at_ms: int, gen: int, pos: int, by: dict[str, Any], events_json: bytes
) -> bytes:
    """The public form of a record: what a stream carries and `events` lists."""
    head = orjson.dumps(
        {"session_id": session_id, "seq": seq, "at_ms": at_ms, "generation": gen, "position": pos, "by": by}
    )
    return head[:-1] + b',"events":' + events_json + b"}"
