"""What the daemon knows of every session without opening it.

A cache: each row is derived from its session, and says where the journal ended then. A row whose journal ends elsewhere
is made anew; deleting the file loses nothing. Changed rows are appended to it, one a line, the newest of a session
counts, and it is written anew once most of its lines are old ones. Where a crash left a line that cannot be read all
rows are made anew.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from kheish.core.budgets import Share, share_of
from kheish.core.state import REDUCER_VERSION, State, last_run_status, status_of
from kheish.ids import time_of
from kheish.runtime.fold import ID_CLOCK_MS
from kheish.store import atomic
from kheish.store.session_dir import ends_at, session_names, sessions_dir

INDEX_VERSION = 3
_HEADER = b'{"v":%d,"reducer":%d}\n' % (INDEX_VERSION, REDUCER_VERSION)
_ROWS_AT_ONCE = 100
_OLD_LINES_MIN = 1_000
_APPEND_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class SessionSummary(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A row. `size` is that of the newest segment, `other_bytes` what the session's other files took when somebody
    looked. `runs` are the ids of those that the state holds, as one string, which takes a quarter of the memory.
    `is_owed` says that the world owes the session something: it is opened when the daemon starts."""

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
    queued_run_ids: tuple[str, ...] = ()
    queue_paused: bool = False
    runs: str = ""
    past_runs: int = 0
    approval_ids: tuple[str, ...] = ()
    question_ids: tuple[str, ...] = ()
    headline: str = ""
    last_run_status: str = ""
    is_owed: bool = False
    problem: str = ""
    segment_first_seq: int = 0
    size: int = 0
    other_bytes: int = 0
    share: Share = Share()

    @property
    def run_ids(self) -> list[str]:
        """Oldest first."""
        return self.runs.split()

    @property
    def newest_run_id(self) -> str:
        return self.runs.rpartition(" ")[2]

    @property
    def pending_approvals(self) -> int:
        return len(self.approval_ids)

    @property
    def pending_questions(self) -> int:
        return len(self.question_ids)

    @property
    def durable(self) -> tuple[int, int, int] | None:
        """Up to where the journal is durable, as its opening wants it. What a row stands for is, unless the session is
        owed something and was not opened yet."""
        return None if self.is_owed or self.problem else (self.seq, self.segment_first_seq, self.size)

    @property
    def bytes_total(self) -> int:
        return self.size + self.other_bytes

    @property
    def runs_total(self) -> int:
        return self.past_runs + self.runs.count("_")


class Unsaved(NamedTuple):
    """Rows that the file does not have; `is_all`: they take the place of all that is in it."""

    rows: list[SessionSummary]
    is_all: bool


_encode_lines = msgspec.json.Encoder().encode_lines
_decode_lines = msgspec.json.Decoder(SessionSummary).decode_lines


def summarize(
    state: State,
    seq: int,
    gen: int,
    pos: int,
    *,
    is_owed: bool,
    segment_first_seq: int,
    size: int,
    other_bytes: int,
    share: Share | None = None,
) -> SessionSummary:
    """`share` is the state's own, where it is known."""
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
        queued_run_ids=tuple(state.queue),
        queue_paused=state.queue_paused,
        runs=" ".join(state.runs),
        past_runs=state.past_runs,
        approval_ids=tuple(state.approvals),
        question_ids=tuple(state.questions),
        headline=latest.text[:200] if latest else "",
        last_run_status=last_run_status(state),
        is_owed=is_owed,
        segment_first_seq=segment_first_seq,
        size=size,
        other_bytes=other_bytes,
        share=share or share_of(state),
    )


class Index:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.path = root / "daemon" / "index.jsonl"
        self.rows: dict[str, SessionSummary] = {}
        self.bytes_total = 0
        self._changed: dict[str, SessionSummary] = {}
        self._lines = 0
        """Rows in the file, old ones too; 0 where it has to be written anew."""

    def put(self, row: SessionSummary) -> None:
        if (before := self.rows.get(row.session_id)) is not None:
            self.bytes_total -= before.bytes_total
        self.bytes_total += row.bytes_total
        self.rows[row.session_id] = self._changed[row.session_id] = row

    def put_sizes(self, sizes: dict[str, int]) -> None:
        """What the files of sessions were found to take."""
        for session_id, found in sizes.items():
            row = self.rows.get(session_id)
            if row is not None and row.bytes_total != found:
                self.put(msgspec.structs.replace(row, other_bytes=found - row.size))

    def session_of_run(self, run_id: str) -> str | None:
        """Of a run by its full id; looked for first where its session lived when it was made."""
        made_at_ms = time_of(run_id)
        if made_at_ms is None:
            return None
        rows = self.rows.values()
        near = (r for r in rows if r.created_at_ms - ID_CLOCK_MS <= made_at_ms <= r.updated_at_ms + ID_CLOCK_MS)
        return next((row.session_id for row in chain(near, rows) if run_id in row.runs), None)

    def runs_with_prefix(self, prefix: str) -> dict[str, str]:
        """The session of each run whose id begins so."""
        return {
            run_id: row.session_id
            for row in self.rows.values()
            if prefix in row.runs
            for run_id in row.run_ids
            if run_id.startswith(prefix)
        }

    # -- the file ------------------------------------------------------------------------------------------------

    def load(self) -> list[str]:
        """Takes over the rows that still match; returns the sessions whose rows have to be made."""
        stored = self._read()
        sessions, stale = os.fspath(sessions_dir(self._root)), []
        for name in session_names(self._root):
            row = stored.get(name)
            if row and not row.problem and ends_at(f"{sessions}/{name}", row.seq, row.segment_first_seq, row.size):
                row.cwd = sys.intern(row.cwd)
                self.rows[name] = row
                self.bytes_total += row.bytes_total
            else:
                stale.append(name)
        return stale

    def _read(self) -> dict[str, SessionSummary]:
        try:
            data = atomic.read_file(self.path)
            end = data.rfind(b"\n") + 1
            rows = _decode_lines(memoryview(data)[len(_HEADER) : end]) if data.startswith(_HEADER) else []
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            return {}
        self._lines = len(rows) if end == len(data) else 0
        return {row.session_id: row for row in rows}

    def unsaved(self) -> Unsaved | None:
        """What `save` has to write next."""
        if not self._changed and (self._lines or not self.rows):
            return None
        lines = self._lines + len(self._changed)
        is_all = not self._lines or lines > 2 * len(self.rows) + _OLD_LINES_MIN
        rows = list((self.rows if is_all else self._changed).values())
        self._changed = {}
        self._lines = len(rows) if is_all else lines
        return Unsaved(rows, is_all)

    def save(self, unsaved: Unsaved) -> None:
        """Off the loop, one at a time. After a failure the next one writes all."""
        lines = _encoded(unsaved.rows)
        try:
            if unsaved.is_all:
                atomic.replace_file(self.path, b"".join([_HEADER, *lines]))
            else:
                _append(self.path, lines)
        except OSError:
            self._lines = 0
            raise


def _encoded(rows: list[SessionSummary]) -> Iterator[bytes]:
    """A few lines at a time: while they are encoded nobody else has the interpreter."""
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        yield _encode_lines(rows[at : at + _ROWS_AT_ONCE])
        time.sleep(0)


def _append(path: Path, lines: Iterable[bytes]) -> None:
    fd = os.open(path, _APPEND_FLAGS)
    try:
        for data in lines:
            atomic.write_all(fd, data)
        atomic.sync_data(fd)
    finally:
        os.close(fd)
