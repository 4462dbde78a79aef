"""Artifacts on the disk: `debug/<session>/<run>/<artifact>.json`, two lines each, so that a list reads little.

The first line sums up, the second is the whole. A file is written beside its place and put there: a reader finds the
old one or the new one. Nothing is synced, for nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from kheish.errors import NotFound
from kheish.limits import DEBUG_AGE_MS_MAX, DEBUG_RUN_BYTES_MAX, DEBUG_STORE_BYTES_KEPT
from kheish.store.atomic import TEMP_PREFIX, place_file, read_file
from kheish.wire.debug import DEBUG_ARTIFACT, DebugArtifact, DebugSummary

_NAME = re.compile(rf"({DEBUG_ARTIFACT.strip('^$')})\.json")


class Stored(NamedTuple):
    path: Path
    changed_ms: int
    bytes: int


def directory_of(root: Path, session_id: str, run_id: str) -> Path:
    return root / session_id / run_id


def write(root: Path, artifact: DebugArtifact) -> int:
    """How many bytes. Raises OSError."""
    directory = directory_of(root, artifact.session_id, artifact.run_id)
    os.makedirs(directory, 0o700, exist_ok=True)
    for made in (root, directory.parent, directory):
        os.chmod(made, 0o700)
    summary = DebugSummary(**{name: getattr(artifact, name) for name in DebugSummary.__struct_fields__})
    data = msgspec.json.encode(summary) + b"\n" + msgspec.json.encode(artifact) + b"\n"
    place_file(directory / f"{artifact.artifact}.json", data)
    _keep_newest(list(_files(directory)), DEBUG_RUN_BYTES_MAX)
    return len(data)


def list_artifacts(root: Path, session_id: str, run_id: str) -> list[DebugSummary]:
    """Of a run, in their order. A file that cannot be read is passed over."""
    found = []
    for stored in _files(directory_of(root, session_id, run_id)):
        with contextlib.suppress(OSError, msgspec.MsgspecError), open(stored.path, "rb") as file:
            found.append(msgspec.json.decode(file.readline(), type=DebugSummary))
    return sorted(found, key=_place)


def _place(summary: DebugSummary) -> tuple[int, str, bool, int]:
    """A summary goes before the reply that it makes room for."""
    marks = summary.artifact.partition(".")[0].lstrip("0123456789")
    return summary.step, marks.rstrip("s"), not marks.endswith("s"), summary.attempt


def read_artifact(root: Path, session_id: str, run_id: str, artifact: str) -> DebugArtifact:
    """Raises NotFound."""
    try:
        whole = read_file(directory_of(root, session_id, run_id) / f"{artifact}.json").split(b"\n")[1]
        return msgspec.json.decode(whole, type=DebugArtifact)
    except (OSError, LookupError, msgspec.MsgspecError) as error:
        raise NotFound(
            f"cannot find the debug artifact {artifact} of {run_id}: `kheish runs debug {run_id}` lists them",
            code="debug_artifact_not_found",
        ) from error


def prune(root: Path, now_ms: int) -> None:
    """Deletes what is too old, and the oldest where there is too much; what was left unfinished; empty folders."""
    kept = []
    for directory in _directories(root):
        for entry in os.scandir(directory):
            if entry.name.startswith(TEMP_PREFIX):
                _delete(Path(entry.path))
        for stored in _files(directory):
            if stored.changed_ms < now_ms - DEBUG_AGE_MS_MAX:
                _delete(stored.path)
            else:
                kept.append(stored)
    _keep_newest(kept, DEBUG_STORE_BYTES_KEPT)
    for directory in _directories(root):
        with contextlib.suppress(OSError):  # most are not empty
            directory.rmdir()
            directory.parent.rmdir()


def _keep_newest(files: list[Stored], bytes_max: int) -> None:
    left = bytes_max
    for stored in sorted(files, key=lambda stored: stored.changed_ms, reverse=True):
        left -= stored.bytes
        if left < 0:
            _delete(stored.path)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _directories(root: Path) -> list[Path]:
    return [path for path in root.glob("*/*") if path.is_dir() and not path.is_symlink()]


def _files(directory: Path) -> Iterator[Stored]:
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    for entry in entries:
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                found = entry.stat(follow_symlinks=False)
                yield Stored(Path(entry.path), found.st_mtime_ns // 1_000_000, found.st_size)
