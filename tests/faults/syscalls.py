"""The system calls by which a process changes the disk: counted, and one of them made the last or made to fail.

Every change that the store makes goes through `os`, so that the names in that module are what is wrapped. A call is
known by its kind, its path and its number among those of that kind on that path, which stay the same from life to
life, whatever other threads do meanwhile.
"""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

KINDS = ("open", "write", "fdatasync", "fsync", "fsync_dir", "rename", "mkdir", "unlink", "rmdir", "ftruncate")
"""`open` only where it may create; `fsync_dir` is an fsync of a directory."""
MOMENTS = ("before", "after")
TORN: dict[str, Callable[[int], int]] = {
    "torn_first": lambda size: 1,
    "torn_half": lambda size: size // 2,
    "torn_last": lambda size: size - 1,
}
"""How much of a write is done before the end: its first byte, half of it, all but its last byte."""

_RANDOM = (
    (re.compile(r"\.tmp-[0-9a-f]{16}"), ".tmp"),
    (re.compile(r"\.new-([^/]+)-[0-9a-f]{8}"), r".new-\1"),
    (re.compile(r"torn-\d+-\d+\.bin"), "torn.bin"),
    (re.compile(r"toolcall_\w{26}"), "toolcall"),
)


class Point(NamedTuple):
    """Where a process ends: at the `nth` call of `kind` on the path of that `name`, at one `moment` of it."""

    kind: str
    name: str
    nth: int
    moment: str

    def __str__(self) -> str:
        return ":".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Point:
        kind, name, nth, moment = text.split(":")
        assert kind in KINDS and moment in moments_of(kind), text
        return cls(kind, name, int(nth), moment)


def moments_of(kind: str) -> tuple[str, ...]:
    return (*MOMENTS, *TORN) if kind == "write" else MOMENTS


def below(folder: Path, path: str) -> str:
    """A path relative to the folder; "" for one elsewhere."""
    if path == str(folder):
        return "."
    return path[len(str(folder)) + 1 :] if path.startswith(f"{folder}/") else ""


def name_of(path: str) -> str:
    """A relative path without what is random in it."""
    for pattern, replacement in _RANDOM:
        path = pattern.sub(replacement, path)
    return path


class Call(NamedTuple):
    """A call as it stands in the log. `path` is relative to the folder; `old_path` only a rename has."""

    kind: str
    name: str
    nth: int
    path: str
    old_path: str

    def __str__(self) -> str:
        return ":".join(map(str, self[:3]))


def read_log(log: Path) -> list[list[Call]]:
    """The calls of each start, in order, without one that the process ended before making."""
    starts: list[list[Call]] = []
    for line in log.read_text().splitlines():
        if line == "start":
            starts.append([])
        elif line.startswith("end "):
            call, _, moment = line[4:].rpartition(":")
            if moment == "before":
                starts[-1] = [made for made in starts[-1] if str(made) != call]
        elif not line.startswith("failed "):
            kind, name, nth, path, old_path = line.split(":")
            starts[-1].append(Call(kind, name, int(nth), path, old_path))
    return starts


class Failure(NamedTuple):
    """Calls of these kinds on these paths fail with `error`: not the first `skip`, then `times` of them (0: all),
    after `written` bytes of a write."""

    kinds: frozenset[str]
    pattern: str
    error: int
    skip: int
    times: int
    written: int

    @classmethod
    def parse(cls, text: str) -> Failure:
        """`write,fsync state/sessions/a/* ENOSPC [skip=0] [times=0] [written=0]`"""
        kinds, pattern, error, *rest = text.split()
        options = {"skip": 0, "times": 0, "written": 0}
        options.update((name, int(value)) for name, _, value in (word.partition("=") for word in rest))
        return cls(frozenset(kinds.split(",")), pattern, getattr(errno, error), **options)


class Syscalls:
    """`folder` is watched. Each call is logged to `log` before it is made, as a line with the fields of `Call`. The
    process ends by SIGKILL at `point`, or at a moment of the call with a number. Failures act while the file `switch`
    exists."""

    def __init__(
        self,
        folder: Path,
        log: Path,
        *,
        point: Point | None = None,
        number: tuple[int, str] | None = None,
        failures: tuple[Failure, ...] = (),
        switch: Path | None = None,
    ) -> None:
        self._folder = Path(os.path.realpath(folder))
        self._point = point
        self._number = number
        self._failures = failures
        self._matched: Counter[Failure] = Counter()
        self._switch = switch
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._total = 0
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._write = os.write
        self._write(self._log, b"start\n")

    def install(self) -> None:
        """From here on the calls of this process are watched."""
        wrappers = {
            "open": self._wrap_open(os.open),
            "write": self._wrap_write(os.write),
            "fsync": self._wrap_descriptor("fsync", os.fsync),
            "fdatasync": self._wrap_descriptor("fdatasync", os.fdatasync),
            "ftruncate": self._wrap_descriptor("ftruncate", os.ftruncate),
            "mkdir": self._wrap_path("mkdir", os.mkdir),
            "rmdir": self._wrap_path("rmdir", os.rmdir),
            "unlink": self._wrap_path("unlink", os.unlink),
            "remove": self._wrap_path("unlink", os.remove),
            "rename": self._wrap_rename(os.rename),  # noqa: TID251 - banned, and watched all the same
            "replace": self._wrap_rename(os.replace),
        }
        for name, wrapper in wrappers.items():
            setattr(os, name, wrapper)

    # -- which call it is ----------------------------------------------------------------------------------------

    def _path(self, path: Any, dir_fd: int | None = None) -> str:
        """The path below the folder; "" where it is none of ours."""
        if isinstance(path, int):
            return ""
        text = os.fsdecode(path)
        if not os.path.isabs(text):
            base = os.getcwd() if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
            text = os.path.join(base, text)
        directory, leaf = os.path.split(text)
        return below(self._folder, os.path.join(os.path.realpath(directory), leaf))

    def _path_of(self, fd: int) -> str:
        """A file that lost its name meanwhile, as a vacuum's to who opens its session, is known by the one it had."""
        try:
            return below(self._folder, os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)"))
        except OSError:
            return ""

    # -- what becomes of it --------------------------------------------------------------------------------------

    def _perform(
        self,
        kind: str,
        path: str,
        call: Callable[[], Any],
        size: int = 0,
        write_some: Callable[[int], Any] | None = None,
        old_path: str = "",
    ) -> Any:
        """`write_some` does the first bytes of a write of `size`."""
        if not path:
            return call()
        name = name_of(path)
        moment, nth = self._note(kind, name, path, old_path)
        self._fail(kind, name, write_some)
        if moment in TORN and write_some is None:
            moment = "before"
        point = Point(kind, name, nth, moment)
        if moment in TORN and write_some is not None:
            write_some(TORN[moment](size))
            self._end(point)
        if moment == "before":
            self._end(point)
        try:
            return call()
        finally:
            if moment == "after":
                self._end(point)

    def _note(self, kind: str, name: str, path: str, old_path: str) -> tuple[str, int]:
        """Counts the call; the moment of it at which the process ends ("" for none), and its number."""
        with self._lock:
            self._total += 1
            self._counts[kind, name] += 1
            total, nth = self._total, self._counts[kind, name]
            self._write(self._log, f"{kind}:{name}:{nth}:{path}:{old_path}\n".encode())
        if self._point is not None and self._point[:3] == (kind, name, nth):
            return self._point.moment, nth
        if self._number is not None and self._number[0] == total:
            return self._number[1], nth
        return "", nth

    def _end(self, point: Point) -> None:
        self._write(self._log, f"end {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self, kind: str, name: str, write_some: Callable[[int], Any] | None) -> None:
        if self._switch is None or not self._switch.exists():
            return
        for failure in self._failures:
            if kind not in failure.kinds or not fnmatch.fnmatch(name, failure.pattern):
                continue
            with self._lock:
                self._matched[failure] += 1
                number = self._matched[failure] - failure.skip
            if number <= 0 or (failure.times and number > failure.times):
                continue
            if failure.written and write_some is not None:
                write_some(failure.written)
            self._write(self._log, f"failed {kind}:{name}\n".encode())
            raise OSError(failure.error, os.strerror(failure.error), name)

    # -- the wrappers --------------------------------------------------------------------------------------------

    def _wrap_open(self, original: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> Any:
            watched = self._path(path, dir_fd) if flags & os.O_CREAT else ""
            return self._perform("open", watched, lambda: original(path, flags, mode, dir_fd=dir_fd))

        return wrapped

    def _wrap_write(self, original: Callable[..., int]) -> Callable[..., Any]:
        def wrapped(fd: int, data: Any) -> Any:
            return self._perform(
                "write",
                self._path_of(fd),
                lambda: original(fd, data),
                len(data),
                lambda size: original(fd, memoryview(data)[:size]),
            )

        return wrapped

    def _wrap_descriptor(self, kind: str, original: Callable[..., None]) -> Callable[..., None]:
        def wrapped(fd: int, *arguments: Any) -> None:
            is_directory = kind == "fsync" and stat.S_ISDIR(os.fstat(fd).st_mode)
            what = "fsync_dir" if is_directory else kind
            self._perform(what, self._path_of(fd), lambda: original(fd, *arguments))

        return wrapped

    def _wrap_path(self, kind: str, original: Callable[..., None]) -> Callable[..., None]:
        def wrapped(path: Any, *arguments: Any, dir_fd: int | None = None) -> None:
            self._perform(kind, self._path(path, dir_fd), lambda: original(path, *arguments, dir_fd=dir_fd))

        return wrapped

    def _wrap_rename(self, original: Callable[..., None]) -> Callable[..., None]:
        def wrapped(src: Any, dst: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
            self._perform(
                "rename",
                self._path(dst, dst_dir_fd),
                lambda: original(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd),
                old_path=self._path(src, src_dir_fd),
            )

        return wrapped
