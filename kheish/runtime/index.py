"""What the daemon knows of every session without opening it.

A cache: each row is derived from its session, and says which bytes of the journal it was derived from. A row that does
not match its journal's newest segment is made anew; deleting the file loses nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from kheish.core.state import State, status_of
from kheish.store import atomic
from kheish.store.session_dir import SessionInfo

INDEX_VERSION = 1
_ROWS_AT_ONCE = 100


class SessionSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A row. `is_owed` says that the world owes the session something: it is opened when the daemon starts."""

    session_id: str
    cwd: str = ""
    title: str = ""
    mode: str = "default"
    created_at_ms: int = 0
    updated_at_ms: int = 0
    ended: bool = False
    seq: int = 0
    gen: int = 0
    pos: int = 0
    active_run_id: str = ""
    active_status: str = ""
    queued_run_ids: list[str] = []
    run_ids: list[str] = []
    approval_ids: list[str] = []
    question_ids: list[str] = []
    headline: str = ""
    is_owed: bool = False
    problem: str = ""
    segment: str = ""
    size: int = 0

    @property
    def pending_approvals(self) -> int:
        return len(self.approval_ids)

    @property
    def pending_questions(self) -> int:
        return len(self.question_ids)

    @property
    def runs_total(self) -> int:
        return len(self.run_ids)


class _File(msgspec.Struct):
    v: int
    rows: list[SessionSummary]


def summarize(state: State, seq: int, gen: int, pos: int, *, is_owed: bool, segment: str, size: int) -> SessionSummary:
    run = state.active_run
    latest = run or next(reversed(state.runs.values()), None)
    return SessionSummary(
        session_id=state.session_id,
        cwd=state.cwd,
        title=state.title,
        mode=state.mode,
        created_at_ms=state.created_at_ms,
        updated_at_ms=state.updated_at_ms,
        ended=state.ended,
        seq=seq,
        gen=gen,
        pos=pos,
        active_run_id=state.active,
        active_status=status_of(state, run) if run else "",
        queued_run_ids=list(state.queue),
        run_ids=list(state.runs),
        approval_ids=list(state.approvals),
        question_ids=list(state.questions),
        headline=latest.text[:200] if latest else "",
        is_owed=is_owed,
        segment=segment,
        size=size,
    )


class Index:
    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, SessionSummary] = {}
        self._run_sessions: dict[str, str] = {}

    def put(self, row: SessionSummary) -> None:
        self.rows[row.session_id] = row
        for run_id in reversed(row.run_ids):
            if self._run_sessions.get(run_id) == row.session_id:
                break
            self._run_sessions[run_id] = row.session_id

    def session_of_run(self, run_id: str) -> str | None:
        return self._run_sessions.get(run_id)

    def runs_with_prefix(self, prefix: str) -> list[str]:
        return [run_id for run_id in self._run_sessions if run_id.startswith(prefix)]

    def load(self, infos: list[SessionInfo]) -> list[SessionInfo]:
        """Takes over the rows that still match; returns the sessions whose rows have to be made."""
        try:
            stored = msgspec.json.decode(atomic.read_file(self._path), type=_File)
            rows = {row.session_id: row for row in stored.rows} if stored.v == INDEX_VERSION else {}
        except (OSError, msgspec.MsgspecError):
            rows = {}
        stale = []
        for info in infos:
            row = rows.get(info.session_id)
            if row is not None and not row.problem and (row.segment, row.size) == (info.segment, info.size):
                self.put(row)
            else:
                stale.append(info)
        return stale

    def save(self, rows: list[SessionSummary]) -> None:
        """Replaces the file. A row that fell behind its journal meanwhile no longer matches its size."""
        encoded = []
        for at in range(0, len(rows), _ROWS_AT_ONCE):
            encoded.append(msgspec.json.encode(rows[at : at + _ROWS_AT_ONCE])[1:-1])
            time.sleep(0)  # while it encodes it holds the interpreter, and the event loop with it
        atomic.replace_file(self._path, b'{"v":%d,"rows":[%b]}' % (INDEX_VERSION, b",".join(encoded)))
