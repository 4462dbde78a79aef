"""Stored records back into a session's state."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.codec import decode_events
from kheish.core.commands import Context
from kheish.core.machine import evolve
from kheish.core.state import State
from kheish.store.records import Record


def fold_records(records: Iterable[Record], state: State) -> State:
    """The state after these stored records, on top of the one given (which is changed)."""
    for record in records:
        context = context_of(record)
        for event in decode_events(record.events_json):
            evolve(state, event, context)
    return state


def context_of(record: Record) -> Context:
    return Context(
        at_ms=record.at,
        id_base="",
        generation=record.gen,
        principal=str(record.by.get("principal", "")),
        origin=str(record.by.get("origin", "")),
        key=str(record.by.get("key", "")),
    )
