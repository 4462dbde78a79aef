"""What the daemon knows of every session without opening it.

A cache: each row is derived from its session, and says where the journal ended then. A row whose journal ends
elsewhere, or that cannot be read, is made anew; deleting the file loses nothing. Changed rows are appended to it, one a
line, the newest of a session counts, and it is written anew once most of its lines are old ones.

There may be very many sessions, and most of them idle: in memory a saved row is its line, decoded for who asks. A
session at work changes more often than anybody looks: its row is made from its state when somebody does.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from kheish.core.budgets import Share, share_of
from kheish.core.state import REDUCER_VERSION, State, last_run_status, status_of
from kheish.limits import GENERATION_MAX
from kheish.store import atomic
from kheish.store.session_dir import ends_at, open_sessions_dir, session_names

INDEX_VERSION = 4
_ROWS_AT_ONCE = 100
_OLD_LINES_MIN = 1_000
_APPEND_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW


class Glance(msgspec.Struct, kw_only=True, array_like=True, gc=False):
    """The beginning of a row: what who looks at every session looks at. `size` is that of the newest segment,
    `other_bytes` what the session's other files took when somebody looked. `is_owed` says that the world owes the
    session something: it is opened when the daemon starts."""

    session_id: str
    cwd: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    ended: bool = False
    problem: str = ""
    active_run_id: str = ""
    active_status: str = ""
    queued_run_ids: tuple[str, ...] = ()
    queue_paused: bool = False
    approval_ids: tuple[str, ...] = ()
    question_ids: tuple[str, ...] = ()
    newest_run_id: str = ""
    is_owed: bool = False
    seq: int = 0
    gen: int = 0
    pos: int = 0
    segment_first_seq: int = 0
    size: int = 0
    other_bytes: int = 0

    @property
    def is_shown(self) -> bool:
        """Not where the session was never quite created."""
        return bool(self.created_at_ms or self.problem)

    @property
    def bytes_total(self) -> int:
        return self.size + self.other_bytes


class SessionSummary(Glance, kw_only=True, array_like=True, gc=False):
    """A row, whose order of fields is that of the file. `runs` are the ids of those that the state holds, as one
    string, which takes a quarter of the memory."""

    title: str = ""
    mode: str = "default"
    headline: str = ""
    last_run_status: str = ""
    runs: str = ""
    past_runs: int = 0
    share: Share = Share()

    @property
    def run_ids(self) -> list[str]:
        """Oldest first."""
        return self.runs.split()

    @property
    def durable(self) -> tuple[int, int, int] | None:
        """Up to where the journal is durable, as its opening wants it. What a row stands for is, unless the session is
        owed something and was not opened yet."""
        return None if self.is_owed or self.problem else (self.seq, self.segment_first_seq, self.size)

    @property
    def runs_total(self) -> int:
        return self.past_runs + self.runs.count("_")


_HEADER = b'{"v":%d,"reducer":%d,"fields":%b}\n' % (
    INDEX_VERSION,
    REDUCER_VERSION,
    msgspec.json.encode(SessionSummary.__struct_fields__),
)
MakeRow = Callable[[], SessionSummary]

_decode = msgspec.json.Decoder(SessionSummary).decode
_glance = msgspec.json.Decoder(Glance).decode
_encode = msgspec.json.Encoder().encode


class Rows(Mapping[str, SessionSummary]):
    """The row of each session. `put` takes over one that was made for who asks."""

    def __init__(self, put: Callable[[SessionSummary], None]) -> None:
        self._put = put
        self.kept: dict[str, SessionSummary | bytes] = {}
        """As they were made last, or saved: then as they stand in the file."""
        self.changing: dict[str, MakeRow] = {}
        """How those are made whose sessions changed since."""

    def settle(self) -> None:
        """Makes the rows of all that changed."""
        for session_id in list(self.changing):
            self._settle(session_id)

    def _settle(self, session_id: str) -> None:
        if (make := self.changing.get(session_id)) is not None:
            self._put(make())

    def __getitem__(self, session_id: str) -> SessionSummary:
        self._settle(session_id)
        kept = self.kept[session_id]
        return _decode(kept) if isinstance(kept, bytes) else kept

    def __contains__(self, session_id: object) -> bool:
        return session_id in self.kept

    def __iter__(self) -> Iterator[str]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def glances(self) -> Iterator[Glance]:
        self.settle()
        for kept in self.kept.values():
            yield _glance(kept) if isinstance(kept, bytes) else kept

    def with_run(self, run_id: str) -> Iterator[SessionSummary]:
        """Those of which a run has an id with this part."""
        self.settle()
        part = run_id.encode()
        for kept in self.kept.values():
            if isinstance(kept, SessionSummary):
                row = kept
            elif part in kept:
                row = _decode(kept)
            else:
                continue
            if run_id in row.runs:
                yield row


class Loaded(NamedTuple):
    """The sessions whose rows have to be made, and those of the others that somebody wanted to see; the newest
    generation below GENERATION_MAX of any of these others."""

    stale: list[str]
    wanted: list[SessionSummary]
    newest_gen: int = 0


class Unsaved(NamedTuple):
    """Rows that the file does not have; `is_all`: they take the place of all that is in it."""

    rows: list[SessionSummary | bytes]
    is_all: bool


class Saved(NamedTuple):
    """A row as it was written."""

    row: SessionSummary | bytes
    line: bytes


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
) -> SessionSummary:
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
        newest_run_id=next(reversed(state.runs), ""),
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
        share=share_of(state),
    )


class Index:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.path = root / "daemon" / "index.jsonl"
        self.rows = Rows(self.put)
        self._bytes_total = 0
        self._asked: dict[str, str] = {}
        self._changed: dict[str, SessionSummary] = {}
        self._lines = 0
        """Rows in the file, old ones too; 0 where it has to be written anew."""

    def put(self, row: SessionSummary) -> None:
        self.rows.changing.pop(row.session_id, None)
        if (before := self.rows.get(row.session_id)) is not None:
            self._bytes_total -= before.bytes_total
            for request_id in (*before.approval_ids, *before.question_ids):
                self._asked.pop(request_id, None)
        self.rows.kept[row.session_id] = self._changed[row.session_id] = row
        self._count(row)

    def put_later(self, session_id: str, make: MakeRow) -> None:
        """The session changed: who asks for its row has it made."""
        if session_id in self.rows:
            self.rows.changing[session_id] = make
        else:
            self.put(make())

    def _count(self, row: SessionSummary) -> None:
        self._bytes_total += row.bytes_total
        for request_id in (*row.approval_ids, *row.question_ids):
            self._asked[request_id] = row.session_id

    @property
    def bytes_total(self) -> int:
        """What all sessions take."""
        self.rows.settle()
        return self._bytes_total

    @property
    def asked(self) -> dict[str, str]:
        """The session of each approval and question that waits."""
        self.rows.settle()
        return self._asked

    def share_of(self, session_id: str) -> Share | None:
        row = self.rows.get(session_id)
        return row.share if row is not None else None

    def put_problem(self, session_id: str, problem: str) -> None:
        """What is wrong with a session that has a row, until it is summed up again."""
        self.put(msgspec.structs.replace(self.rows[session_id], problem=problem))

    def put_sizes(self, sizes: dict[str, int]) -> None:
        """What the files of sessions were found to take."""
        for session_id, found in sizes.items():
            row = self.rows.get(session_id)
            if row is not None and row.bytes_total != found:
                self.put(msgspec.structs.replace(row, other_bytes=found - row.size))

    def session_of_run(self, run_id: str) -> str | None:
        """Of a run by its full id."""
        return next((row.session_id for row in self.rows.with_run(run_id) if run_id in row.run_ids), None)

    def runs_with_prefix(self, prefix: str) -> dict[str, str]:
        """The session of each run whose id begins so."""
        return {
            run_id: row.session_id
            for row in self.rows.with_run(prefix)
            for run_id in row.run_ids
            if run_id.startswith(prefix)
        }

    # -- the file ------------------------------------------------------------------------------------------------

    def load(self, is_wanted: Callable[[SessionSummary], bool] = lambda _: False) -> Loaded:
        """Takes over the rows that still match."""
        self._read()
        loaded, gone, newest_gen = Loaded([], []), set(self.rows), 0
        with open_sessions_dir(self._root) as sessions_fd:
            for name in session_names(self._root):
                gone.discard(name)
                row = self._stored(name)
                if row and not row.problem and ends_at(sessions_fd, name, row.seq, row.segment_first_seq, row.size):
                    self._count(row)
                    if newest_gen < row.gen < GENERATION_MAX:
                        newest_gen = row.gen
                    if is_wanted(row):
                        loaded.wanted.append(row)
                else:
                    self.rows.kept.pop(name, None)
                    loaded.stale.append(name)
        for name in gone:
            del self.rows.kept[name]
        return loaded._replace(newest_gen=newest_gen)

    def _read(self) -> None:
        """The newest line of each session, by its id, which it begins with. Line by line: what the whole takes on the
        way would stay with the process."""
        lines = 0
        with contextlib.suppress(OSError), os.fdopen(atomic.open_file(self.path), "rb") as file:
            if file.readline(len(_HEADER)) != _HEADER:
                return
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.rows.kept[str(line[2 : line.find(b'"', 2)], "ascii", "replace")] = line
                lines += 1
            self._lines = lines

    def _stored(self, session_id: str) -> SessionSummary | None:
        try:
            return self.rows.get(session_id)
        except (UnicodeDecodeError, msgspec.MsgspecError):
            self._lines = 0
            return None

    def unsaved(self) -> Unsaved | None:
        """What `save` has to write next."""
        self.rows.settle()
        if not self._changed and (self._lines or not self.rows):
            return None
        lines = self._lines + len(self._changed)
        is_all = not self._lines or lines > 2 * len(self.rows) + _OLD_LINES_MIN
        rows = list((self.rows.kept if is_all else self._changed).values())
        self._changed = {}
        self._lines = len(rows) if is_all else lines
        return Unsaved(rows, is_all)

    def save(self, unsaved: Unsaved) -> list[Saved]:
        """Off the loop, one at a time; what it returns is for `keep`. After a failure the next one writes all."""
        saved: list[Saved] = []
        lines = _encoded(unsaved.rows, saved)
        try:
            if unsaved.is_all:
                atomic.replace_file(self.path, b"".join([_HEADER, *lines]))
            else:
                _append(self.path, lines)
        except OSError:
            self._lines = 0
            raise
        return saved

    def keep(self, saved: list[Saved]) -> None:
        """Of rows that have not changed since, nothing but what was saved."""
        for row, line in saved:
            if isinstance(row, SessionSummary) and self.rows.kept.get(row.session_id) is row:
                self.rows.kept[row.session_id] = line


def _encoded(rows: list[SessionSummary | bytes], saved: list[Saved]) -> Iterator[bytes]:
    """A few lines at a time: while they are encoded nobody else has the interpreter."""
    for at in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[at : at + _ROWS_AT_ONCE]
        made = [Saved(row, row if isinstance(row, bytes) else _encode(row) + b"\n") for row in part]
        saved += made
        yield b"".join([line for _, line in made])
        time.sleep(0)


def _append(path: Path, lines: Iterable[bytes]) -> None:
    fd = os.open(path, _APPEND_FLAGS)
    try:
        for data in lines:
            atomic.write_all(fd, data)
        atomic.sync_data(fd)
    finally:
        os.close(fd)
