"""The folded state at a seq: `checkpoint-<seq>.json`, one sealed line that is replaced as a whole.

A checkpoint is a cache of the fold: deleting every one loses nothing, a bad one or one of another reducer is passed
over. It also bears witness: what it has seen was durable, so that a journal which ends before it is corrupt and not
torn.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import orjson

from kheish.errors import NewerFormat, StoreError
from kheish.limits import CHECKPOINTS_KEPT
from kheish.store.atomic import read_file, replace_file
from kheish.store.framing import check_seal, seal
from kheish.store.journal import Journal
from kheish.store.records import Position
from kheish.store.upgrades import FORMAT, check_format

_NAME = re.compile(r"checkpoint-(\d{12})\.json\Z")


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is the caller's JSON, as it gave it; `reducer` the version of the fold that made it."""

    v: int
    seq: int
    session: str
    segment_first_seq: int
    offset: int
    chain: str
    gen: int
    at: int
    reducer: int
    state: msgspec.Raw
    sum: str

    @property
    def position(self) -> Position:
        return Position(self.seq, self.segment_first_seq, self.offset, self.chain, self.gen)


def checkpoint_name(seq: int) -> str:
    return f"checkpoint-{seq:012d}.json"


def checkpoint_seq(name: str) -> int | None:
    """The seq that a file name stands for; None where it is not a checkpoint's."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


def list_checkpoints(directory: Path) -> list[tuple[int, Path]]:
    """(seq, path), newest first; good and bad ones."""
    found = [(checkpoint_seq(name), name) for name in os.listdir(directory)]
    return sorted(((seq, directory / name) for seq, name in found if seq is not None), reverse=True)


def save_checkpoint(journal: Journal, seq: int, *, reducer: int, state: bytes, at: int) -> None:
    """Store the state after record `seq`, which must be durable, and delete all but the newest few checkpoints.

    Blocking; runs beside the committer. A failure harms nothing but the next opening's speed. Raises OSError, Corrupt,
    or Poisoned where the directory is not the session's any more.
    """
    if not 0 < seq <= journal.durable_seq:
        raise StoreError(f"cannot save a checkpoint: record {seq} is not durable", code="not_durable", seq=seq)
    journal.check_held()
    place = journal.locate(seq)
    body = b'{"v":%d,"seq":%d,"session":%b,"segment_first_seq":%d,"offset":%d,"chain":"%b","gen":%d,"at":%d,' % (
        FORMAT,
        seq,
        orjson.dumps(journal.session_id),
        place.segment_first_seq,
        place.offset,
        place.chain.encode(),
        place.gen,
        at,
    )
    line, _ = seal(b'%b"reducer":%d,"state":%b}' % (body, reducer, state))
    replace_file(journal.directory / checkpoint_name(seq), line)
    for _, path in list_checkpoints(journal.directory)[CHECKPOINTS_KEPT:]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def read_checkpoint(path: Path) -> Checkpoint | None:
    """A checkpoint, or None where the file does not pass its checks."""
    try:
        line = read_file(path)
        if check_seal(line) is None:
            return None
        checkpoint = msgspec.json.decode(line, type=Checkpoint)
        check_format(checkpoint.v, str(path))
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError, NewerFormat):
        return None
    return checkpoint if checkpoint.seq == checkpoint_seq(path.name) else None


def good_checkpoints(directory: Path, session_id: str | None = None) -> Iterator[Checkpoint]:
    """Those that pass their checks, of any reducer, newest first."""
    session_id = directory.name if session_id is None else session_id
    for _, path in list_checkpoints(directory):
        checkpoint = read_checkpoint(path)
        if checkpoint is not None and checkpoint.session == session_id:
            yield checkpoint
