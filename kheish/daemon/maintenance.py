"""What may be done to sessions on disk, with or without a running daemon: verify, export, import, vacuum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from kheish.core.codec import encode_state
from kheish.core.state import REDUCER_VERSION, State
from kheish.errors import KheishError, StoreError
from kheish.runtime.fold import fold_records
from kheish.store.archive import export_session, import_session, stored_blobs
from kheish.store.atomic import make_private_dir
from kheish.store.blobs import Blobs
from kheish.store.checkpoint import good_checkpoints
from kheish.store.disk_space import file_sizes
from kheish.store.locks import is_state_root_locked
from kheish.store.records import Record
from kheish.store.segments import Walk
from kheish.store.session_dir import list_sessions, session_path
from kheish.store.vacuum import vacuum_session
from kheish.store.verify import Fault, verify_session


class Verified(msgspec.Struct, frozen=True):
    """A session's check: no fault means that every byte of it is what was written."""

    session_id: str
    faults: list[Fault]


class Vacuumed(msgspec.Struct, frozen=True):
    """What a session's files take now and took before. `code` and `problem` say why not all of it was packed:
    `session_locked` where somebody has it open."""

    session_id: str
    bytes_before: int
    bytes_after: int
    code: str
    problem: str


def fold(records: Iterable[Record]) -> bytes:
    """The canonical bytes of the state after these records."""
    return encode_state(fold_records(records, State()))


def blobs_of(record: Record) -> list[str]:
    """The blobs that a record names: those of its events, and of the messages that it copies or has shown on."""
    found = []
    for event in record.events:
        if event.get("blob"):
            found.append(str(event["blob"]))
        copied = event.get("messages", ()) if event.get("type") == "session.forked" else event.get("shown", ())
        for holder in (event, *copied):
            found += [str(a["blob"]) for a in holder.get("attachments", ()) if a.get("blob")]
    return found


def verify(root: Path, session_ids: Iterable[str] | None = None) -> list[Verified]:
    """Checks sessions (all of them by default): framing, chain, checkpoints against the fold, blobs. Writes nothing."""
    live = is_state_root_locked(root)
    names = list(session_ids) if session_ids is not None else [info.session_id for info in list_sessions(root)]
    blobs = Blobs(root)
    results = []
    for name in names:
        directory = session_path(root, name)
        try:
            faults = verify_session(
                directory, fold, reducer=REDUCER_VERSION, blob_refs=blobs_of, blobs=blobs, live=live
            )
        except KheishError as error:
            if error.code == "session_not_found":
                raise
            faults = [Fault(str(directory), 0, 0, error.message)]
        except OSError as error:
            faults = [Fault(str(directory), 0, 0, error.strerror or str(error))]
        results.append(Verified(name, faults))
    return results


def export(root: Path, session_id: str, out: BinaryIO) -> None:
    """Writes one self-contained archive of a session, with what it only mentions as well: the whole outputs that a fork
    knows from the results that it copied. Raises Corrupt, also for a journal that is whole in itself and ends before
    what a checkpoint has seen: such an archive might take the place of a good one."""
    directory = session_path(root, session_id)
    if directory.is_dir() and (seen := next(good_checkpoints(directory), None)) is not None:
        Walk(directory, session_id, seen.position).end()
    mentioned = stored_blobs(Blobs(root))
    export_session(root, session_id, out, blob_refs=lambda record: {*blobs_of(record), *mentioned(record)})


def import_(root: Path, source: BinaryIO) -> str:
    """Reads an archive back, after checking all of it; returns the session's id. A running daemon sees it when it is
    asked for by name."""
    make_private_dir(root)
    return import_session(root, source).session


def vacuum(root: Path, session_ids: Iterable[str] | None = None) -> Iterator[Vacuumed]:
    """Packs the closed segments of sessions, of all of them by default. What it cannot do to one stops no other."""
    names = list(session_ids) if session_ids is not None else [info.session_id for info in list_sessions(root)]
    for name in names:
        directory = session_path(root, name)
        before, code, problem = _bytes_in(directory), "", ""
        try:
            vacuum_session(directory)
        except (KheishError, OSError) as error:
            refusal = StoreError.of_disk(f"pack session {name}", error) if isinstance(error, OSError) else error
            code, problem = refusal.code, refusal.message
        yield Vacuumed(name, before, _bytes_in(directory), code, problem)


def _bytes_in(directory: Path) -> int:
    """0 where that cannot be seen, such as of a session that was deleted meanwhile."""
    try:
        return sum(file_sizes(directory).values())
    except OSError:
        return 0
