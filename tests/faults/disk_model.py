"""What a crash may leave on a disk: operations are recorded, and every state that they allow is built again.

The model is as unkind as POSIX permits ("All File Systems Are Not Created Equal", OSDI'14): what a file or a directory
had at its last sync is there; of what came after, any part may be missing, whatever the order, and the last of a file's
writes may be torn or be zeros. A sync that failed promises nothing, then or ever after for what was written before it.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SUBSETS_MAX = 24
"""So many subsets are tried where a file or the directories have many changes that no sync has made certain."""
TORN_LENGTHS_MAX = 512
"""A write of at most so many bytes is torn at each of them, a longer one at as many places."""


class Write(NamedTuple):
    inode: int
    offset: int
    data: bytes


class Truncate(NamedTuple):
    inode: int
    size: int


class Link(NamedTuple):
    """A name appears in a directory, in place of whatever had it; with `old`, it has moved from there."""

    directory: int
    name: str
    inode: int
    old: tuple[int, str] | None = None


class Unlink(NamedTuple):
    directory: int
    name: str


class Sync(NamedTuple):
    """Of a file or a directory. One that failed is never made good."""

    inode: int
    failed: bool = False


class Mark(NamedTuple):
    """What the scene has been promised from here on."""

    what: str
    value: int


Operation = Write | Truncate | Link | Unlink | Sync | Mark
Content = bytes
Entries = dict[str, int]


class Recording(NamedTuple):
    """`files` and `directories` are what was there, durably, when the recording began."""

    root: int
    files: dict[int, Content]
    directories: dict[int, Entries]
    operations: list[Operation]


class Recorder:
    """Records what this process does below a folder, while it is entered. `marks` are the scene's own, and `order` is
    the seed of the order in which its threads come."""

    def __init__(self, folder: Path, order: int = 1) -> None:
        self.folder = Path(os.path.realpath(folder))
        self.order = order
        self.operations: list[Operation] = []
        self.fail_sync: Callable[[int], bool] = lambda inode: False
        """Whether a sync of the file with that inode fails."""
        self.before_change: Callable[[], None] = lambda: None
        self._originals: dict[str, Any] = {}
        self._files: dict[int, Content] = {}
        self._directories: dict[int, Entries] = {}
        self._read(self.folder)
        self._root = self.folder.stat().st_ino

    def _read(self, directory: Path) -> int:
        inode = directory.stat().st_ino
        entries = self._directories.setdefault(inode, {})
        for path in directory.iterdir():
            if path.is_dir():
                entries[path.name] = self._read(path)
            else:
                entries[path.name] = path.stat().st_ino
                self._files[path.stat().st_ino] = path.read_bytes()
        return inode

    def mark(self, what: str, value: int) -> None:
        self.operations.append(Mark(what, value))

    def recording(self) -> Recording:
        return Recording(self._root, self._files, self._directories, self.operations)

    def __enter__(self) -> Recorder:
        for name in ("open", "write", "fsync", "fdatasync", "ftruncate", "mkdir", "unlink", "rmdir", "replace"):
            self._originals[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        return self

    def __exit__(self, *exc: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)

    # -- the wrapped calls ---------------------------------------------------------------------------------------

    def _place(self, path: Any) -> tuple[int, str] | None:
        """The directory's inode and the name; None for what is elsewhere."""
        directory, name = os.path.split(os.fspath(path))
        directory = os.path.realpath(directory)
        if directory != str(self.folder) and not directory.startswith(f"{self.folder}/"):
            return None
        return os.stat(directory).st_ino, name

    def _is_ours(self, fd: int) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").startswith(f"{self.folder}")

    def _open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        place = self._place(path) if flags & os.O_CREAT else None
        if place is not None:
            self.before_change()
        is_new = place is not None and not os.path.lexists(path)
        fd: int = self._originals["open"](path, flags, mode, **options)
        if is_new and place is not None:
            self.operations.append(Link(*place, os.fstat(fd).st_ino))
        return fd

    def _write(self, fd: int, data: Any) -> int:
        if not stat.S_ISREG(os.fstat(fd).st_mode) or not self._is_ours(fd):
            return int(self._originals["write"](fd, data))
        self.before_change()
        offset = os.lseek(fd, 0, os.SEEK_CUR)
        written: int = self._originals["write"](fd, data)
        self.operations.append(Write(os.fstat(fd).st_ino, offset, bytes(data[:written])))
        return written

    def _ftruncate(self, fd: int, size: int) -> None:
        self.before_change()
        self._originals["ftruncate"](fd, size)
        if self._is_ours(fd):
            self.operations.append(Truncate(os.fstat(fd).st_ino, size))

    def _fsync(self, fd: int) -> None:
        self._sync("fsync", fd)

    def _fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", fd)

    def _sync(self, name: str, fd: int) -> None:
        if not self._is_ours(fd):
            self._originals[name](fd)
            return
        self.before_change()
        status = os.fstat(fd)
        failed = stat.S_ISREG(status.st_mode) and self.fail_sync(status.st_ino)
        self.operations.append(Sync(status.st_ino, failed))
        if failed:
            raise OSError(5, "a sync that fails")

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        self.before_change()
        self._originals["mkdir"](path, mode, **options)
        place = self._place(path)
        if place is not None:
            inode = os.stat(path).st_ino
            self.operations.append(Link(*place, inode))
            self._directories.setdefault(inode, {})

    def _unlink(self, path: Any, **options: Any) -> None:
        self._remove("unlink", path, options)

    def _rmdir(self, path: Any, **options: Any) -> None:
        self._remove("rmdir", path, options)

    def _remove(self, name: str, path: Any, options: dict[str, Any]) -> None:
        directory_fd = options.get("dir_fd")
        if directory_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{directory_fd}"), os.fspath(path))
        self.before_change()
        place = self._place(path)
        self._originals[name](path)
        if place is not None:
            self.operations.append(Unlink(*place))

    def _replace(self, source: Any, target: Any, **options: Any) -> None:
        self.before_change()
        old, new = self._place(source), self._place(target)
        inode = os.lstat(source).st_ino
        self._originals["replace"](source, target, **options)
        assert old is not None and new is not None, "nothing comes from elsewhere"
        self.operations.append(Link(*new, inode, old))


class State(NamedTuple):
    """One thing that a crash may leave. `at` is the number of operations before it, `marks` what was promised then."""

    at: int
    root: int
    files: dict[int, Content]
    directories: dict[int, Entries]
    marks: dict[str, int]

    def build(self, folder: Path) -> None:
        """Makes it, below a folder that is there and empty."""
        self._build(self.root, folder)

    def content_of(self, *names: str) -> Content | tuple[tuple[str, Any], ...] | None:
        """All that is below a path; None where there is nothing of this name."""
        inode: int | None = self.root
        for name in names:
            inode = self.directories.get(inode, {}).get(name) if inode is not None else None
        return None if inode is None else self._content(inode)

    def _content(self, inode: int) -> Content | tuple[tuple[str, Any], ...]:
        if inode not in self.directories:
            return self.files.get(inode, b"")
        return tuple(sorted((name, self._content(at)) for name, at in self.directories[inode].items()))

    def _build(self, directory: int, folder: Path) -> None:
        for name, inode in self.directories.get(directory, {}).items():
            if inode in self.directories:
                (folder / name).mkdir(0o700)
                self._build(inode, folder / name)
            else:
                (folder / name).write_bytes(self.files.get(inode, b""))


def apply_write(content: Content, write: Write | Truncate) -> Content:
    if isinstance(write, Truncate):
        return content[: write.size].ljust(write.size, b"\0")
    content = content.ljust(write.offset, b"\0")
    return content[: write.offset] + write.data + content[write.offset + len(write.data) :]


def _torn(content: Content, write: Write) -> Iterator[Content]:
    """What a write may have left instead of itself: its beginning, and zeros where the file has grown; what was there
    before is itself or what was written over it."""
    size = len(write.data)
    grown = max(0, write.offset + size - max(len(content), write.offset))
    for kept in {*range(0, size, -(-size // TORN_LENGTHS_MAX)), size - 1}:
        part = apply_write(content, write._replace(data=write.data[:kept])) if kept else content
        yield part
        if grown:
            yield part.ljust(write.offset + size, b"\0")


def _contents(durable: Content, pending: list[Write | Truncate], chooser: random.Random) -> list[Content]:
    found = {durable: None, _all(durable, pending): None}
    for kept in _subsets(len(pending), chooser):
        chosen = [pending[at] for at in kept]
        found[_all(durable, chosen)] = None
        if chosen and isinstance(chosen[-1], Write):
            for torn in _torn(_all(durable, chosen[:-1]), chosen[-1]):
                found[torn] = None
    return list(found)


def _all(content: Content, writes: list[Write | Truncate]) -> Content:
    for write in writes:
        content = apply_write(content, write)
    return content


def _subsets(count: int, chooser: random.Random) -> Iterator[tuple[int, ...]]:
    """All of them while they are few, then so many chosen ones."""
    if count <= 4:
        for size in range(count + 1):
            yield from itertools.combinations(range(count), size)
        return
    yield from ((*range(size),) for size in range(count + 1))
    for _ in range(SUBSETS_MAX):
        yield tuple(at for at in range(count) if chooser.random() < 0.5)


class Choices(NamedTuple):
    """What may be left of the changed names (as positions), and of each file that is not certain."""

    names: list[tuple[int, ...]]
    contents: dict[int, list[Content]]

    @property
    def total(self) -> int:
        return len(self.names) * math.prod(map(len, self.contents.values()))


class Disk:
    """What is certain and what is not, after some operations."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.files = dict(recording.files)
        self.directories = {inode: dict(entries) for inode, entries in recording.directories.items()}
        self.pending: dict[int, list[Write | Truncate]] = {}
        self.doomed: dict[int, list[Write | Truncate]] = {}
        """Written before a sync that failed."""
        self.names: list[Link | Unlink] = []
        self.marks: dict[str, int] = {}

    def apply(self, operation: Operation) -> None:
        match operation:
            case Write() | Truncate():
                self.pending.setdefault(operation.inode, []).append(operation)
            case Link() | Unlink():
                self.names.append(operation)
            case Sync(inode=inode, failed=True):
                self.doomed.setdefault(inode, []).extend(self.pending.pop(inode, []))
            case Sync(inode=inode) if inode in self.directories:
                synced = [name for name in self.names if inode in _touched(name)]
                self.names = [name for name in self.names if name not in synced]
                for name in synced:
                    _rename(self.directories, name)
            case Sync(inode=inode):
                self.files[inode] = _all(self.files.get(inode, b""), self.pending.pop(inode, []))
            case Mark():
                self.marks[operation.what] = operation.value

    def choices(self, chooser: random.Random) -> Choices:
        uncertain = sorted(self.pending.keys() | self.doomed.keys())
        contents = {
            inode: _contents(
                self.files.get(inode, b""), [*self.doomed.get(inode, []), *self.pending.get(inode, [])], chooser
            )
            for inode in uncertain
        }
        return Choices(list(dict.fromkeys(_subsets(len(self.names), chooser))), contents)

    def states(self, at: int, choices: Choices, chooser: random.Random, count: int) -> Iterator[State]:
        """All states that are possible now, or so many chosen ones."""
        every = itertools.product(choices.names, *choices.contents.values())
        some = ((chooser.choice(choices.names), *map(chooser.choice, choices.contents.values())) for _ in range(count))
        for names, *contents in every if choices.total <= count else some:
            directories = {inode: dict(entries) for inode, entries in self.directories.items()}
            for number in names:
                _rename(directories, self.names[number])
            files = {**self.files, **dict(zip(choices.contents, contents, strict=True))}
            yield State(at, self._recording.root, files, directories, dict(self.marks))


def _touched(name: Link | Unlink) -> set[int]:
    """The directories whose sync makes a change of names durable; a move is one change, wherever it is synced."""
    return {name.directory, name.old[0]} if isinstance(name, Link) and name.old else {name.directory}


def _rename(directories: dict[int, Entries], name: Link | Unlink) -> None:
    if isinstance(name, Unlink):
        directories[name.directory].pop(name.name, None)
        return
    if name.old is not None:
        directories[name.old[0]].pop(name.old[1], None)
    directories[name.directory][name.name] = name.inode


def crash_states(recording: Recording, count: int, seed: int) -> Iterator[State]:
    """The states of every crash between two operations, each once for what was promised at the time; so many at most,
    spread so that no crash has few while it could have more."""
    chooser = random.Random(seed)
    per_crash = _fair([choices.total for _, _, choices in _crashes(recording, chooser)], count)
    seen: set[int] = set()
    for at, disk, choices in _crashes(recording, chooser):
        for state in disk.states(at, choices, chooser, per_crash):
            key = hash(
                (
                    tuple(sorted(state.marks.items())),
                    tuple(sorted((inode, tuple(sorted(names.items()))) for inode, names in state.directories.items())),
                    tuple(sorted(state.files.items())),
                )
            )
            if key not in seen:
                seen.add(key)
                yield state


def _crashes(recording: Recording, chooser: random.Random) -> Iterator[tuple[int, Disk, Choices]]:
    disk = Disk(recording)
    for at in range(len(recording.operations) + 1):
        yield at, disk, disk.choices(chooser)
        if at < len(recording.operations):
            disk.apply(recording.operations[at])


def _fair(totals: list[int], count: int) -> int:
    """The bound for each, with which they are `count` together."""
    low, high = 1, max(totals)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(total, middle) for total in totals) <= count:
            low = middle
        else:
            high = middle - 1
    return low
