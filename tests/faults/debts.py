"""What a process owes the disk, read from the list of its calls.

A death leaves the page cache behind, so that no restart shows a missing sync; the order of the calls does. Bytes are
owed from a write until a sync of the file, a name from its making until a sync of its directory, both across deaths.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from tests.faults.syscalls import Call

_NEVER_SYNCED = ("*.lock", "*/daemon.log", "*/daemon/index.jsonl")
"""A lock's name is only for the living, a log is for people, and no row of the index is believed unless it is of the
journal's very end."""
_CACHES = ("*/checkpoint-*.json",)
"""May vanish; their bytes are owed all the same, before they get their name."""
_PACKED = ".gz"
"""How a packed segment is called beside the plain one, which has to be there until that name is durable."""
_TORN = "*/torn-*.bin"
"""What a crash left of a segment, set aside as it is: nobody was promised any of it."""


def check_debts(starts: Iterable[Iterable[Call]], folder: Path, nameless: set[str]) -> Iterator[str]:
    """Each promise that was made on credit: an append, a rename or the end, while something was owed before it.
    `nameless` are the blobs that no record names: they were promised to nobody."""
    debts = _Debts()
    for calls in starts:
        debts.is_written.clear()
        for call in calls:
            yield from (f"{call} while {owed} was owed" for owed in debts.note(call))
    for name in sorted((debts.bytes | debts.names) - nameless):
        exempt = (*_NEVER_SYNCED, *_CACHES) if name in debts.names else _NEVER_SYNCED
        is_beside_the_plain = name.endswith(_PACKED) and (folder / name.removesuffix(_PACKED)).exists()
        if is_beside_the_plain or any(fnmatch(name, pattern) for pattern in exempt):
            continue
        if (folder / name).exists():
            yield f"{name} is owed to the disk at the end"


class _Debts:
    def __init__(self) -> None:
        self.bytes: set[str] = set()
        self.names: set[str] = set()
        self.is_written: set[str] = set()
        """Sessions in which this start has written: the first write may be one that pays what the dead owe."""
        self._is_new: set[str] = set()
        self._made: set[str] = set()

    def note(self, call: Call) -> list[str]:
        """Takes the call in; what had to be paid before it and was not."""
        kind, path, old_path = call.kind, call.path, call.old_path
        owed: list[str] = []
        if kind == "write" and fnmatch(path, "state/sessions/*/journal-*.jsonl") and "/.new-" not in path:
            owed = self._owed_before_append(path)
        elif kind == "rename":
            self.names.discard(old_path)
            self._made.discard(old_path)
            if fnmatch(path, _TORN):
                self.bytes.discard(old_path)
        if kind == "rename" and not fnmatch(path, _TORN):
            owed = [other for other in self.bytes if (other + "/").startswith(old_path + "/")]
            owed += [name for name in self.names if name.startswith(old_path + "/")]
        if kind == "unlink":
            owed = [name for name in self.names if name == path + _PACKED]
        self.bytes -= set(owed)  # told once
        self.names -= set(owed)
        if kind in ("write", "ftruncate"):
            self.bytes.add(path)
        elif kind in ("fsync", "fdatasync"):
            self.bytes.discard(path)
        elif kind == "fsync_dir":
            self.names = {name for name in self.names if (os.path.dirname(name) or ".") != path}
        elif kind == "rename" or (kind in ("open", "mkdir") and path not in self._made):
            self.names.add(path)
            self._is_new.add(path)
            self._made.add(path)
        elif kind in ("unlink", "rmdir"):
            for owing in (self.bytes, self.names, self._made):
                owing.discard(path)
        return owed

    def _owed_before_append(self, path: str) -> list[str]:
        session = os.path.dirname(path)
        is_header = path in self._is_new
        self._is_new.discard(path)
        if session not in self.is_written:
            self.is_written.add(session)
            return []
        owed = [other for other in self.bytes if other.startswith(f"{session}/journal-")]
        owed += [name for name in self.names if name == session or name.startswith(f"{session}/journal-")]
        owed = [other for other in owed if not other.endswith(_PACKED)]
        return [other for other in owed if not (is_header and other == path)]
