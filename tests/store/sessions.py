"""Sessions for the tests of the store: real directories with small records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kheish.store import session_dir
from kheish.store.checkpoint import save_checkpoint
from kheish.store.framing import ZERO_CHAIN
from kheish.store.journal import Framed, Journal
from kheish.store.records import Record, frame_header
from kheish.store.segments import Walk, list_segments
from kheish.store.session_dir import Opened, SessionDir, session_path

SESSION = "s1"
REDUCER = 1
NOW_MS = 1_800_000_000_000


def frame(journal: Journal, number: int, *, gen: int = 1, **extra: Any) -> Framed:
    """One record with one event that carries its number."""
    events = json.dumps([{"type": "thing.happened", "number": number, **extra}], separators=(",", ":"))
    return journal.frame(NOW_MS + number, gen, number, {"principal": "user"}, events.encode())


def numbers(records: Iterable[Record]) -> list[int]:
    return [record.events[0]["number"] for record in records]


def fold(records: Iterable[Record]) -> bytes:
    """A state that depends on every record and on their order."""
    state = 0
    for record in records:
        state = (state * 31 + int(record.events[0]["number"])) % 1_000_003
    return b'{"state":%d}' % state


class Kept(NamedTuple):
    """What a fold is given."""

    checkpoint: bytes | None
    tail: list[Record]


def keep(checkpoint: bytes | None, records: Iterable[Record]) -> Kept:
    return Kept(checkpoint, list(records))


def make_empty(root: Path, session_id: str = SESSION) -> Path:
    """A session without a record, such as a daemon of an earlier version left where it died."""
    path = session_path(root, session_id)
    lock, fd = session_dir._make(path, frame_header(session_id, 1, 1, ZERO_CHAIN)[0])
    lock.release()
    os.close(fd)
    return path


class Session:
    """An open session, with the little that the tests do to it."""

    def __init__(self, root: Path, session_id: str, opened: Opened[Kept]) -> None:
        self.root = root
        self.path = root / "sessions" / session_id
        self.opened = opened
        self.journal = opened.journal
        self._is_open = True

    @classmethod
    def create(cls, root: Path, session_id: str = SESSION) -> Session:
        make_empty(root, session_id)
        return cls.open(root, session_id)

    @classmethod
    def new(cls, root: Path, session_id: str = SESSION) -> Session:
        """One that is made with its first records."""
        opened = Opened(Kept(None, []), 0, None, [], SessionDir.new(root, session_id))
        return cls(root, session_id, opened)

    @classmethod
    def open(cls, root: Path, session_id: str = SESSION, reducer: int = REDUCER) -> Session:
        return cls(root, session_id, SessionDir.open(root, session_id, keep, reducer=reducer))

    def append(self, count: int = 1, *, gen: int = 1, **extra: Any) -> None:
        """Append records one commit each, numbered by their seq."""
        for _ in range(count):
            self.journal.commit([frame(self.journal, self.journal.next_seq, gen=gen, **extra)])

    def checkpoint(self, seq: int | None = None, reducer: int = REDUCER) -> None:
        seq = self.journal.durable_seq if seq is None else seq
        state = fold(self.journal.read(until_seq=seq))
        save_checkpoint(self.journal, seq, reducer=reducer, state=state, at=NOW_MS)

    def reopen(self) -> Session:
        self.close()
        return Session.open(self.root, self.path.name)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.journal.close()

    @property
    def segments(self) -> list[Path]:
        return [path for _, path in list_segments(self.path)]

    def walk(self) -> Walk:
        return Walk(self.path, self.path.name)


def built(root: Path, count: int, session_id: str = SESSION, **extra: Any) -> Path:
    """The directory of a closed session with `count` records."""
    session = Session.create(root, session_id)
    session.append(count, **extra)
    session.close()
    return session.path
