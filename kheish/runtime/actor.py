"""One actor per loaded session: its only writer.

Every command and outcome goes through `submit`: decide, append and sync, evolve, publish, reconcile. One at a time; a
caller that goes away does not take its command with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from kheish.core.codec import encode_events, encode_state
from kheish.core.commands import Command, Context
from kheish.core.events import Event, RunCancelled, RunCompleted, RunFailed, RunInterrupted
from kheish.core.machine import decide
from kheish.core.outcomes import Outcome
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import KheishError
from kheish.limits import CHECKPOINT_AT_IDLE_RECORDS, CHECKPOINT_EVERY_RECORDS
from kheish.runtime.hub import Frame, Hub
from kheish.runtime.policy import Policy
from kheish.store.checkpoint import save_checkpoint
from kheish.store.committer import Committer
from kheish.store.journal import Journal

log = logging.getLogger(__name__)

_ENDS = (RunCompleted, RunFailed, RunCancelled, RunInterrupted)


class Applied(msgspec.Struct, frozen=True):
    """A durable decision: what it made or touched, the session's last seq and its state (not to be changed)."""

    result: str
    seq: int
    state: State


class Kernel(msgspec.Struct):
    """What every actor shares. `next_pos` counts the daemon's records within its generation."""

    hub: Hub
    committer: Committer
    policy: Policy
    generation: int
    next_pos: Callable[[], int]
    on_change: Callable[[Actor], None]


class Actor:
    def __init__(self, kernel: Kernel, session_id: str, journal: Journal, state: State, checkpoint_seq: int) -> None:
        self.kernel = kernel
        self.session_id = session_id
        self.journal = journal
        self.state = state
        self.seq = journal.durable_seq
        self.gen = journal.gen
        self.pos = 0
        self._checkpoint_seq = checkpoint_seq
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._checkpointing = False

    @property
    def is_busy(self) -> bool:
        return self._lock.locked() or bool(self._tasks)

    async def submit(self, message: Command | Outcome, make_context: Callable[[], Context]) -> Applied:
        """Applies a message durably. Raises KheishError where it is refused or cannot be stored; a cancelled caller
        leaves the message to be applied."""
        task = asyncio.ensure_future(self._apply(message, make_context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _apply(self, message: Command | Outcome, make_context: Callable[[], Context]) -> Applied:
        async with self._lock:
            context = make_context()
            decision = decide(self.state, message, context, self.kernel.policy.settings)
            if not decision.events:
                return Applied(decision.result, self.seq, self.state)
            by = {"principal": context.principal, "origin": context.origin}
            if not isinstance(message, Outcome):
                by["command"] = str(message.__struct_config__.tag)
            if context.key:
                by["key"] = context.key
            events_json = encode_events(decision.events)
            pos = self.kernel.next_pos()
            framed = self.journal.frame(
                at=context.at_ms, gen=context.generation, pos=pos, by=by, events_json=events_json
            )
            await self.kernel.committer.append(self.journal, framed)
            self.state = decision.state
            self.seq, self.gen, self.pos = framed.seq, context.generation, pos
            self.kernel.hub.publish(
                record_frame(self.session_id, framed.seq, context, pos, by, events_json, decision.events)
            )
            applied = Applied(decision.result, self.seq, self.state)
        self.kernel.on_change(self)
        if self.seq - self._checkpoint_seq >= CHECKPOINT_EVERY_RECORDS:
            self._checkpoint_soon()
        return applied

    def _checkpoint_soon(self) -> None:
        if not self._checkpointing:
            task = asyncio.ensure_future(self.checkpoint())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def checkpoint(self, at_least: int = 1) -> None:
        """Writes the state at the last durable record, off the loop, if that many records came since the last try. A
        failure is logged: it costs the next opening time and nothing else."""
        if self._checkpointing or self.seq - self._checkpoint_seq < at_least:
            return
        self._checkpointing = True
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
            self._checkpointing = False

    async def close(self) -> None:
        """Leaves the session to the disk: a checkpoint if it saves replay, then the lock is released."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if not self.journal.is_poisoned:
            await self.checkpoint(CHECKPOINT_AT_IDLE_RECORDS)
        await self.kernel.committer.run(self.journal.close)


def record_frame(
    session_id: str,
    seq: int,
    context: Context,
    pos: int,
    by: dict[str, str],
    events_json: bytes,
    events: tuple[Event, ...],
) -> Frame:
    return Frame(
        event="record",
        session_id=session_id,
        seq=seq,
        gen=context.generation,
        pos=pos,
        data=record_json(session_id, seq, context.at_ms, context.generation, pos, by, events_json),
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
