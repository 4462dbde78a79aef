"""Stored records back into a session's state, and those of one run, which may have left it, back into the run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Protocol

from kheish.core.codec import decode_events, decode_state
from kheish.core.commands import Context
from kheish.core.machine import evolve
from kheish.core.state import TERMINAL, State
from kheish.errors import Corrupt, KheishError, NewerFormat
from kheish.ids import time_of
from kheish.limits import JOURNAL_OFFSET_EVERY_RECORDS
from kheish.store.records import Record

ID_CLOCK_MS = 1_000
"""How far the clock of ids and that of records may be apart."""
_MAKERS = {"run.submitted": "run_id", "approval.requested": "request_id", "question.requested": "request_id"}
_ENDS = frozenset(f"run.{phase}" for phase in TERMINAL)


class Read(Protocol):
    """Reads a journal's records."""

    def __call__(
        self, from_seq: int = 1, limit: int | None = None, until_seq: int | None = None
    ) -> Iterator[Record]: ...


def fold_record(record: Record, state: State) -> None:
    """Applies a stored record to a state. Raises NewerFormat, or Corrupt for one that is whole but cannot come after
    those before it."""
    context = context_of(record)
    try:
        for event in decode_events(record.events_json):
            evolve(state, event, context)
    except NewerFormat:
        raise
    except Exception as error:
        reason = f"record {record.seq} does not follow from those before it: {error!r}"
        raise Corrupt(f"cannot use the journal: {reason}; nothing was changed", reason=reason, valid_after=0) from error


def fold_records(records: Iterable[Record], state: State) -> State:
    """The state after these records, on top of the one given (which is changed)."""
    for record in records:
        fold_record(record, state)
    return state


def fold_session(checkpoint: bytes | None, records: Iterable[Record], until_seq: int | None = None) -> State:
    """The state of a session as it is found on the disk, up to a seq; without the transcript, which may be long, where
    models are not shown that any more."""
    state = decode_state(checkpoint) if checkpoint else State()
    for record in records:
        if until_seq is None or record.seq <= until_seq:
            fold_record(record, state)
        if state.compactions:
            state.entered.clear()
    return state


def fold_run(read: Read, end_seq: int, session_id: str, run_id: str) -> State:
    """What a session's journal says of one run alone, which is over; without it where there is no such run."""
    state = State(session_id=session_id)
    first_seq = find_made(read, end_seq, run_id)
    for record in read(first_seq) if first_seq else ():
        if concerns(record, run_id):
            context = context_of(record)
            for event in decode_events(record.events_json):
                if getattr(event, "run_id", "") == run_id:
                    evolve(state, event, context)
            state.entered.clear()
            if ends(record, run_id):
                break
    return state


def concerns(record: Record, run_id: str) -> bool:
    """Whether an event of the record is the run's; the bytes are looked at first, since most records are not."""
    if f'"run_id":"{run_id}"'.encode() not in record.events_json:
        return False
    return any(event.get("run_id") == run_id for event in record.events)


def ends(record: Record, run_id: str) -> bool:
    """Whether the run is over with this record, which is then the last one that concerns it."""
    return any(event["type"] in _ENDS and event["run_id"] == run_id for event in record.events)


def find_made(read: Read, end_seq: int, id_: str) -> int:
    """The seq of the record that made a run, an approval or a question; 0 where there is none.

    It is looked for from the time on that the id tells; a clock may have been set back, so then in what is before.
    """
    made_at_ms = time_of(id_)
    if made_at_ms is None:
        return 0
    near = find_time(read, end_seq, made_at_ms - ID_CLOCK_MS)
    for first_seq, until_seq in ((near, end_seq), (1, near - 1)):
        for record in read(first_seq, until_seq=until_seq):
            if f'"{id_}"'.encode() in record.events_json and any(
                event.get(_MAKERS.get(event["type"], "")) == id_ for event in record.events
            ):
                return record.seq
    return 0


def find_time(read: Read, end_seq: int, at_ms: int) -> int:
    """A seq shortly before the first record of this time or later; looked for from the end on, for it is mostly near,
    and only at records whose offset is known where one of the journal's is."""

    def is_reached(block: int) -> bool:
        try:
            return next(read(block * JOURNAL_OFFSET_EVERY_RECORDS + 1, 1)).at >= at_ms
        except (KheishError, OSError, StopIteration):
            return True

    blocks, step = end_seq // JOURNAL_OFFSET_EVERY_RECORDS + 1, 1
    while step < blocks and is_reached(blocks - step):
        step *= 2
    reached = bisect_left(range(blocks), True, lo=max(0, blocks - step), key=is_reached)
    return max(0, reached - 1) * JOURNAL_OFFSET_EVERY_RECORDS + 1


def context_of(record: Record) -> Context:
    return Context(
        at_ms=record.at,
        id_base="",
        generation=record.gen,
        principal=str(record.by.get("principal", "")),
        origin=str(record.by.get("origin", "")),
        key=str(record.by.get("key", "")),
    )
