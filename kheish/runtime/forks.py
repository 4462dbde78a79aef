"""What a fork of a session begins with: a copy of the transcript up to a record, read from its journal."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.codec import encode_events
from kheish.core.events import AssistantMessage, SessionForked
from kheish.core.state import State
from kheish.errors import Conflict
from kheish.limits import FORK_BYTES_MAX
from kheish.runtime.fold import fold_records
from kheish.store.records import Record


def copy_transcript(records: Iterable[Record], session_id: str, at_seq: int) -> tuple[SessionForked, State]:
    """The fact, with the state of the session then. `records` are all of a journal; 0 is the last place that can be
    forked at. No transcript ends between a tool call and its result: raises Conflict, with the places next to it."""
    state = State()
    safe_seq = safe_count = seq = 0
    for record in records:
        fold_records((record,), state)
        seq = record.seq
        if _is_whole(state):
            if safe_seq < at_seq < seq:
                raise _within_a_call(session_id, at_seq, safe_seq, seq)
            safe_seq, safe_count = seq, len(state.entered)
            if seq == at_seq:
                break
    if at_seq > seq:
        raise Conflict(
            f"cannot fork session {session_id} at record {at_seq}: it has {seq}",
            code="fork_boundary",
            before=safe_seq,
            after=None,
        )
    if safe_seq < at_seq:
        raise _within_a_call(session_id, at_seq, safe_seq, 0)
    forked = SessionForked(from_session_id=session_id, from_seq=safe_seq, messages=tuple(state.entered[:safe_count]))
    size = len(encode_events((forked,)))
    if size > FORK_BYTES_MAX:
        raise Conflict(
            f"cannot fork session {session_id} at record {safe_seq}: its transcript has {size} bytes by then, and a "
            f"fork copies at most {FORK_BYTES_MAX}; fork at an earlier record",
            code="fork_too_large",
        )
    return forked, state


def _is_whole(state: State) -> bool:
    """Whether the transcript may end here."""
    last = state.entered[-1] if state.entered else None
    return not (isinstance(last, AssistantMessage) and last.tool_requests)


def _within_a_call(session_id: str, at_seq: int, before: int, after: int) -> Conflict:
    places = f"{before} before it" + (f" and {after} after it" if after else "")
    return Conflict(
        f"cannot fork session {session_id} at record {at_seq}: a tool call has no result there; the nearest records "
        f"to fork at are {places}",
        code="fork_boundary",
        before=before,
        after=after or None,
    )
