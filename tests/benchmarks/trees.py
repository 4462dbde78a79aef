"""Sessions on the disk, as many and as long as a benchmark needs: one is really run, and its records are cast again
and again by the store's own functions, with syncs turned off."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from kheish.core.codec import decode_events, encode_state
from kheish.core.machine import evolve
from kheish.core.state import REDUCER_VERSION, State
from kheish.runtime.fold import context_of, fold_session
from kheish.store import atomic
from kheish.store.checkpoint import save_checkpoint
from kheish.store.records import Record
from kheish.store.segments import read_records
from kheish.store.session_dir import SessionDir, session_path
from tests.runtime.kernel import Kernel, reply
from tests.store.sessions import make_empty

Marks = tuple[tuple[bytes, bytes], ...]
NAME, SESSION, RUN = b"MOULD", b"ZZZZZ", b"YYYYY"
BATCH = 500
_ULID = re.compile(rb"(_[0-9A-HJKMNP-TV-Z]{10})[0-9A-HJKMNP-TV-Z]{10}")


class Piece(NamedTuple):
    """A record before it has its place: its events carry NAME, SESSION and RUN where a cast has its own."""

    record: Record
    events: bytes


class Mould:
    """A session whose runs have `steps` tool calls and an answer of `reply_bytes` after each."""

    def __init__(self, folder: Path, steps: int, reply_bytes: int) -> None:
        self.created, *self.run = asyncio.run(_pieces(folder, steps, "x" * reply_bytes))

    def pieces(self, records: int) -> Iterator[Piece]:
        """The first records of a session of many runs."""
        yield self.created
        for number in range(1, records):
            run, place = divmod(number - 1, len(self.run))
            piece = self.run[place]
            yield piece._replace(events=piece.events.replace(RUN, b"%05d" % run))

    def state_after(self, records: int) -> bytes:
        state = State()
        for piece in self.pieces(records):
            for event in decode_events(piece.events):
                evolve(state, event, context_of(piece.record))
            state.entered = []
        return encode_state(state)


async def _pieces(folder: Path, steps: int, text: str) -> list[Piece]:
    root = Path(tempfile.mkdtemp(prefix="mould-", dir=folder))
    call = ("read_file", {"path": "notes.txt"})
    name = NAME.decode()
    async with Kernel(root, [*[reply(text, call)] * steps, reply(text)]) as kernel:
        await kernel.create(name)
        run_id = await kernel.submit("go on", name)
        await kernel.until(lambda state: state.runs[run_id].is_terminal, name)
    records = list(read_records(session_path(root, name)))
    return [Piece(record, _ULID.sub(rb"\g<1>" + SESSION + RUN, record.events_json)) for record in records]


@contextlib.contextmanager
def no_syncs() -> Iterator[None]:
    def nothing(_: object) -> None:
        pass

    with mock.patch.multiple(atomic, **dict.fromkeys(("sync_data", "sync_file", "sync_dir", "sync_names"), nothing)):
        yield


class Tree:
    """A state root that fills with sessions; `pos` counts all records, as a daemon does."""

    def __init__(self, root: Path, mould: Mould) -> None:
        self.root = root
        self.mould = mould
        self.pos = 0

    def grow(self, names: list[str], records: int, *, since_checkpoint: int = 0) -> None:
        """Idle sessions of this many records each, or a few less, of which the last are in no checkpoint."""
        records -= (records - 1) % len(self.mould.run)
        pieces = [] if len(names) == 1 else list(self.mould.pieces(records))
        seq = records - since_checkpoint
        state = self.mould.state_after(seq) if seq > 0 else b""
        with no_syncs():
            for number, name in enumerate(names):
                marks = (NAME, name.encode()), (SESSION, b"%05d" % number)
                self._cast(name, pieces or self.mould.pieces(records), marks, seq, state)

    def _cast(self, name: str, pieces: Iterable[Piece], marks: Marks, seq: int, state: bytes) -> None:
        make_empty(self.root, name)
        journal = SessionDir.open(self.root, name, fold_session, reducer=REDUCER_VERSION).journal
        framed = []
        for record, events in pieces:
            self.pos += 1
            framed.append(journal.frame(record.at, 1, self.pos, record.by, _marked(events, marks)))
            if len(framed) == BATCH:
                journal.commit(framed)
                framed = []
        if framed:
            journal.commit(framed)
        if seq > 0:
            save_checkpoint(journal, seq, reducer=REDUCER_VERSION, state=_marked(state, marks), at=record.at)
        journal.close()


def _marked(data: bytes, marks: Marks) -> bytes:
    for old, new in marks:
        data = data.replace(old, new)
    return data
