"""A session as one file: a gzipped tar of its segments, good checkpoints and blobs, with a manifest first.

    manifest.json                   {"format":1,"session":S,"last_seq":N,"gen":G,"files":{name:{"bytes","sha256"}}}
    session/journal-<seq>.jsonl     byte for byte, as is a packed journal-<seq>.jsonl.gz
    session/checkpoint-<seq>.json
    blobs/<sha256>

Importing trusts nothing: names come from a closed list of forms, every byte is counted and digested, the journal is
walked, and only then the session gets its name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

import msgspec

from kheish.errors import Conflict, Corrupt, Invalid, NotFound
from kheish.limits import MIB
from kheish.store import atomic
from kheish.store.blobs import Blobs, is_blob_name
from kheish.store.checkpoint import checkpoint_name, checkpoint_seq, good_checkpoints
from kheish.store.locks import SessionLock
from kheish.store.packed import first_seq_of, is_packed
from kheish.store.records import Position, Record, segment_name
from kheish.store.segments import Walk, list_segments, open_segment
from kheish.store.session_dir import publish, session_exists, session_path, unfinished_path
from kheish.store.upgrades import check_format

ARCHIVE_FORMAT = 1
MANIFEST_BYTES_MAX = 16 * MIB

_HASH_LIKE = re.compile(rb'(?:"|blob:)([0-9a-f]{64})\b')
_MANIFEST = "manifest.json"


class _File(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class _Format(msgspec.Struct):
    format: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """First member of an archive. `gen` is the highest generation in the journal: a daemon that takes the session in
    must have a newer one (`DaemonLock.raise_generation`)."""

    format: int
    session: str
    last_seq: int
    gen: int
    files: dict[str, _File]


def stored_blobs(blobs: Blobs) -> Callable[[Record], Iterable[str]]:
    """The blobs that a record may name: strings in it, and words after `blob:`, that are the sha256 of a stored one."""

    def find(record: Record) -> Iterator[str]:
        for match in _HASH_LIKE.finditer(record.line):
            sha = match[1].decode()
            if blobs.exists(sha):
                yield sha

    return find


def export_session(
    root: Path,
    session_id: str,
    out: BinaryIO,
    *,
    blob_refs: Callable[[Record], Iterable[str]] | None = None,
) -> Manifest:
    """Write the session up to its last whole record; a torn tail stays behind, a corrupt session is refused.

    A daemon may be writing. Raises NotFound or Corrupt.
    """
    directory = session_path(root, session_id)
    if not directory.is_dir():
        raise NotFound(f"cannot export session {session_id}: there is none of this name", code="session_not_found")
    blobs = Blobs(root)
    shas: set[str] = set()
    find = blob_refs or stored_blobs(blobs)
    walk = Walk(directory, session_id)
    for record in walk:
        shas.update(find(record))
    assert walk.position is not None
    manifest, sources = _collect(directory, session_id, walk.position, sorted(shas), blobs)
    with tarfile.open(fileobj=out, mode="w|gz", format=tarfile.PAX_FORMAT) as tar:
        data = msgspec.json.encode(manifest)
        tar.addfile(_member(_MANIFEST, len(data)), io.BytesIO(data))
        for name, source in sources.items():
            with _open_source(source) as file:
                tar.addfile(_member(name, manifest.files[name].bytes), file)
    return manifest


_Source = Path | bytes
"""A file, or what was read of one that a running daemon may delete meanwhile. A plain segment reads the same where
it is packed meanwhile."""


def _collect(
    directory: Path, session_id: str, end: Position, shas: list[str], blobs: Blobs
) -> tuple[Manifest, dict[str, _Source]]:
    """What goes into the archive, and how much of each file."""
    sources: dict[str, _Source] = {}
    sizes: dict[str, int] = {}
    for first, path in list_segments(directory):
        if first < end.segment_first_seq:
            name = f"session/{path.name}"
            sources[name] = path
            with _open_source(path) as file:
                sizes[name] = file.seek(0, os.SEEK_END)
    name = segment_name(end.segment_first_seq)  # it may be packed by now, and its end is a place in the plain bytes
    sources[f"session/{name}"], sizes[f"session/{name}"] = directory / name, end.offset
    for checkpoint in good_checkpoints(directory):
        if checkpoint.seq <= end.seq:
            name = f"session/{checkpoint_name(checkpoint.seq)}"
            with contextlib.suppress(FileNotFoundError):
                sources[name] = data = atomic.read_file(directory / checkpoint_name(checkpoint.seq))
                sizes[name] = len(data)
    for sha in shas:
        sources[f"blobs/{sha}"] = blobs.path(sha)
        sizes[f"blobs/{sha}"] = blobs.size(sha)
    files = {name: _File(sizes[name], _digest(source, sizes[name])) for name, source in sources.items()}
    manifest = Manifest(format=ARCHIVE_FORMAT, session=session_id, last_seq=end.seq, gen=end.gen, files=files)
    return manifest, sources


def _open_source(source: _Source) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if first_seq_of(source.name) is not None and not is_packed(source):
        return open_segment(source)
    return os.fdopen(os.open(source, atomic.READ_FLAGS), "rb")


def _digest(source: _Source, size: int) -> str:
    hasher = hashlib.sha256()
    with _open_source(source) as file:
        while size > 0 and (chunk := file.read(min(MIB, size))):
            hasher.update(chunk)
            size -= len(chunk)
    return hasher.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o600
    return member


def import_session(root: Path, src: BinaryIO) -> Manifest:
    """Take a session in from an archive; it appears whole or not at all. Returns what came in, `session` its id.

    Checkpoints are checked and left out: each is a claim about the fold that only a fold can prove. Raises Invalid
    `bad_archive` for what is not a whole archive, Corrupt where bytes fail their checks, NewerFormat, and Conflict
    `session_exists`.
    """
    building: Path | None = None
    lock: SessionLock | None = None
    try:
        with tarfile.open(fileobj=src, mode="r|gz") as tar:
            manifest = _read_manifest(tar)
            path = session_path(root, manifest.session)
            if os.path.lexists(path):
                raise session_exists(manifest.session)
            atomic.make_private_dir(path.parent)
            lock = _begin_session(path)
            building = lock.directory
            _extract(tar, manifest, building, Blobs(root))
        walk = Walk(building, manifest.session)
        end = walk.end()
        if walk.torn or (end.seq, end.gen) != (manifest.last_seq, manifest.gen):
            raise _bad("the journal does not end where the manifest says")
        publish(lock, path)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Invalid(f"cannot import: this is not a whole session archive ({error})", code="bad_archive") from error
    finally:
        if lock is not None:
            lock.release()
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
    return manifest


def _begin_session(path: Path) -> SessionLock:
    """An unfinished session, locked, so that a daemon that starts leaves it alone."""
    while True:
        building = unfinished_path(path)
        os.mkdir(building, 0o700)
        try:
            return SessionLock(building).acquire()
        except (Conflict, FileNotFoundError):  # it took what it found between the two for one that a crash left
            continue
        except OSError:
            shutil.rmtree(building, ignore_errors=True)
            raise


def _read_manifest(tar: tarfile.TarFile) -> Manifest:
    member = tar.next()
    if member is None or member.name != _MANIFEST or not member.isreg() or member.size > MANIFEST_BYTES_MAX:
        raise tarfile.ReadError("no manifest")
    file = tar.extractfile(member)
    assert file is not None
    data = file.read()
    try:
        check_format(msgspec.json.decode(data, type=_Format).format, "this archive")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise tarfile.ReadError(f"manifest: {error}") from error
    for name in manifest.files:
        if not _is_member_name(name):
            raise _bad(f"the manifest names {name!r}")
    return manifest


def _is_member_name(name: str) -> bool:
    folder, _, leaf = name.partition("/")
    if folder == "blobs":
        return is_blob_name(leaf)
    return folder == "session" and (first_seq_of(leaf) is not None or checkpoint_seq(leaf) is not None)


def _extract(tar: tarfile.TarFile, manifest: Manifest, building: Path, blobs: Blobs) -> None:
    """Write segments into `building` and blobs to their place; each member once, and as the manifest says."""
    missing = dict(manifest.files)
    while (member := tar.next()) is not None:
        expected = missing.pop(member.name, None)
        if expected is None:
            raise _bad(f"{member.name!r} is not in the manifest, or twice in the archive")
        if not member.isreg() or member.size != expected.bytes:
            raise _bad(f"{member.name!r} is not a file of {expected.bytes} bytes")
        source = tar.extractfile(member)
        assert source is not None
        chunks = _checked_chunks(member.name, source, expected)
        leaf = member.name.rpartition("/")[2]
        if member.name.startswith("blobs/"):
            if blobs.put_chunks(chunks) != leaf:
                raise _bad(f"{member.name!r} has another sha256 than its name")
        elif first_seq_of(leaf) is not None:
            _write_file(building / leaf, chunks)
        else:
            for _ in chunks:
                pass
    if missing:
        raise _bad(f"{min(missing)!r} is missing")


def _checked_chunks(name: str, source: IO[bytes], expected: _File) -> Iterator[bytes]:
    hasher = hashlib.sha256()
    while chunk := source.read(MIB):
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != expected.sha256:
        raise _bad(f"{name!r} has another sha256 than the manifest says")


def _write_file(path: Path, chunks: Iterable[bytes]) -> None:
    fd = os.open(path, atomic.CREATE_FLAGS, 0o600)
    try:
        for chunk in chunks:
            atomic.write_all(fd, chunk)
        atomic.sync_file(fd)
    finally:
        os.close(fd)


def _bad(reason: str) -> Corrupt:
    return Corrupt(
        f"cannot import this archive: {reason}; export the session again", code="archive_corrupt", reason=reason
    )
