"""What the daemon finds of sessions on the disk when it starts: the rows that the index lacks, and what is owed.

Whatever is shown of a session has to be durable, and its daemon may have died between a write and its sync: so each is
opened, which settles that, and is left open where the world owes it something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from kheish.core.machine import pending
from kheish.core.recovery import in_flight
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import KheishError
from kheish.runtime.fold import fold_session
from kheish.runtime.index import SessionSummary, summarize
from kheish.store.packed import first_seq_of
from kheish.store.segments import read_ending_at
from kheish.store.session_dir import Opened, SessionDir, session_info


class Found(NamedTuple):
    """A session's row; and, where it is left open, the session."""

    row: SessionSummary
    held: Opened[State] | None = None


def is_owed(state: State) -> bool:
    """Whether the world owes a session something."""
    return in_flight(state) or bool(pending(state))


def find_sessions(root: Path, rows: Mapping[str, SessionSummary], session_ids: Iterable[str]) -> list[Found]:
    return [_find(root, session_id, rows.get(session_id)) for session_id in session_ids]


def _find(root: Path, session_id: str, row: SessionSummary | None) -> Found:
    try:
        opened = SessionDir.open(root, session_id, fold_session, reducer=REDUCER_VERSION)
    except (KheishError, OSError):
        return Found(row or _summarize_unopened(root, session_id))
    state, stays_open = opened.state, False
    try:
        stays_open = bool(state.created_at_ms) and (bool(opened.set_aside) or is_owed(state))
        return Found(row or _summarize(session_id, opened, stays_open), opened if stays_open else None)
    except (KheishError, OSError) as error:
        stays_open = False
        return Found(row or SessionSummary(session_id=session_id, problem=str(error)))
    finally:
        if not stays_open:
            opened.journal.close()


def _summarize(session_id: str, opened: Opened[State], is_owed: bool) -> SessionSummary:
    state, end, last = opened.state, opened.journal.end, opened.last
    if last is None and end.seq:
        if end.seq < end.segment_first_seq:
            last = next(opened.journal.read(end.seq))
        else:
            last = read_ending_at(opened.journal.directory, end)
    row = summarize(
        state,
        end.seq,
        last.gen if last else state.generation,
        last.pos if last else 0,
        is_owed=is_owed,
        segment_first_seq=end.segment_first_seq,
        size=end.offset,
        other_bytes=opened.journal.other_bytes,
    )
    row.session_id = session_id
    return row


def _summarize_unopened(root: Path, session_id: str) -> SessionSummary:
    """Of one that is damaged, or that somebody else holds, or that cannot be read for now (there may be no descriptor
    left): what is owed to these is tried again."""
    info = session_info(root, session_id)
    try:
        loaded = SessionDir.read_only(root, session_id, fold_session, reducer=REDUCER_VERSION)
    except (KheishError, OSError) as error:
        return SessionSummary(session_id=session_id, problem=str(error), is_owed=isinstance(error, OSError))
    state, last = loaded.state, loaded.last
    row = summarize(
        state,
        last.seq if last else 0,
        last.gen if last else state.generation,
        last.pos if last else 0,
        is_owed=bool(state.session_id) and loaded.fault is None,
        segment_first_seq=first_seq_of(info.segment) or 0,
        size=info.size,
        other_bytes=info.other_bytes,
    )
    row.session_id = session_id
    if loaded.fault is not None:
        row.problem = loaded.fault.message
    return row
