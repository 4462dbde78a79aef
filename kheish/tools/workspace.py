"""The workspace: the directory tree that file tools may touch, and nothing outside it.

Paths are walked one component at a time from an open descriptor of the root, never following a link that the kernel
resolves: a link is read and its target walked the same way, so that neither `..`, nor an absolute path, nor a link,
nor a directory swapped for a link meanwhile leads outside (the idea of openat2's RESOLVE_BENEATH, without needing it).
Only directories and regular files are ever opened: opening a pipe or a device already does something to it.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import stat
import threading
from collections.abc import Iterator, Sequence

from kheish.limits import PATH_LINKS_MAX, TOOL_INPUT_BYTES_MAX
from kheish.tools.work import Stop, Unusable

SKIPPED_DIRECTORIES = frozenset((".git", ".hg", ".svn", "node_modules", ".venv", "__pycache__"))
"""Not walked into unless they are named: nobody means them."""

_TEMPORARY = ".kheish-"
DEPTH_MAX = 64
_PATH_BYTES_MAX = 4096
_NAME_BYTES_MAX = 255
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CHANGING = tuple(threading.Lock() for _ in range(64))


def shown(path: str) -> str:
    """A path as one line of text: bytes that are not UTF-8 and control characters become U+FFFD."""
    return _CONTROL.sub("\ufffd", os.fsencode(path).decode("utf-8", "replace"))


class Place:
    """A walked path: an open descriptor of its directory and the last name in it ("." for the directory itself).

    `path` is relative to the root with links resolved, for people. The name may not exist; it was not a link when it
    was looked at, and `found` is what was there then.
    """

    def __init__(self, directory: int, name: str, path: str, found: os.stat_result | None = None) -> None:
        self.directory = directory
        self.name = name
        self.path = shown(path)
        self._found = found

    def stat(self) -> os.stat_result | None:
        """None where nothing is there."""
        self._found = _look(self.name, self.directory)
        return self._found

    def changing(self) -> threading.Lock:
        """Held while this file is read, changed and written: parallel edits of one file follow one another."""
        directory = os.fstat(self.directory)
        return _CHANGING[hash((directory.st_dev, directory.st_ino, self.name)) % len(_CHANGING)]

    def open_directory(self) -> int:
        try:
            return os.open(self.name, _DIRECTORY, dir_fd=self.directory)
        except FileNotFoundError:
            raise Unusable(self.absence()) from None
        except NotADirectoryError:
            raise Unusable(f"{self.path} is not a directory") from None
        except PermissionError:
            raise Unusable(f"{self.path} may not be entered") from None

    def open_file(self) -> int:
        """A descriptor of a regular file."""
        return self._open_file()[0]

    def _open_file(self) -> tuple[int, int]:
        """And its size. Nothing else is opened, unless it takes the file's place meanwhile, and even then nothing waits
        and nothing is read."""
        before = self._found or self.stat()
        if before is None:
            raise Unusable(self.absence())
        self.expect_file(before)
        try:
            descriptor = os.open(
                self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self.directory
            )
        except PermissionError:
            raise Unusable(f"{self.path} may not be read") from None
        try:
            opened = os.fstat(descriptor)
            self.expect_file(opened)
        except Unusable:
            os.close(descriptor)
            raise
        return descriptor, opened.st_size

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[int, int]]:
        """A descriptor of a regular file, and its size."""
        descriptor, size = self._open_file()
        try:
            yield descriptor, size
        finally:
            os.close(descriptor)

    def expect_file(self, found: os.stat_result) -> None:
        """Raises Unusable for what is no regular file."""
        if stat.S_ISDIR(found.st_mode):
            raise Unusable(f"{self.path} is a directory, not a file; list_files shows what is in it")
        if not stat.S_ISREG(found.st_mode):
            raise Unusable(f"{self.path} is not a regular file")

    def read(self, bytes_max: int) -> bytes:
        """The whole file. Raises Unusable where it is larger."""
        descriptor, size = self._open_file()
        with os.fdopen(descriptor, "rb") as file:
            if size > bytes_max:
                raise Unusable(f"{self.path} has {size} bytes, more than {bytes_max}; use bash")
            return file.read()

    def absence(self) -> str:
        """That it does not exist, with the names that were perhaps meant."""
        with contextlib.suppress(OSError):
            near = difflib.get_close_matches(self.name, os.listdir(self.directory), n=3, cutoff=0.6)
            if near:
                folder = os.path.dirname(self.path)
                return f"{self.path} does not exist; near it: {', '.join(os.path.join(folder, n) for n in near)}"
        return f"{self.path} does not exist"


@contextlib.contextmanager
def locate(root: str, path: str, *, make_parents: bool = False) -> Iterator[Place]:
    """Walks `path` (relative to `root`, or absolute inside it). Raises Unusable where it leaves the root or where a
    directory on the way is missing and is not to be made."""
    if path.partition("/")[0] == "~":  # taken by its letters it would make a directory that nobody can name safely
        raise Unusable(f"{path} is outside the workspace; ~ is the home directory, and ./~ a file of that name")
    parts = _plain(_split(root, path), path)
    stack = [os.open(root, _DIRECTORY)]
    names: list[str] = []
    links = 0
    try:
        while parts:
            name = parts.pop(0)
            if name == "..":  # of a link's target, where it means what it means to the kernel
                if not names:
                    raise _outside(path)
                os.close(stack.pop())
                names.pop()
                continue
            found = _look(name, stack[-1])
            if found is not None and stat.S_ISLNK(found.st_mode):
                target = os.readlink(name, dir_fd=stack[-1])
                links += 1
                if links > PATH_LINKS_MAX:
                    raise Unusable(f"{path} has more than {PATH_LINKS_MAX} links on its way")
                if target.startswith("/"):
                    while names:
                        os.close(stack.pop())
                        names.pop()
                parts[:0] = _split(root, target, path)
            elif parts:
                if len(names) == DEPTH_MAX:
                    raise _deep(path)
                stack.append(_enter(stack[-1], name, shown("/".join((*names, name))), make_parents))
                names.append(name)
            else:
                _expect_named(path, (*names, name))
                yield Place(stack[-1], name, "/".join((*names, name)), found)
                return
        _expect_named(path, names)
        yield Place(stack[-1], ".", "/".join(names) or ".")
    finally:
        for descriptor in stack:
            os.close(descriptor)


def _expect_named(path: str, reached: Sequence[str]) -> None:
    """Raises Unusable where links lead into a `.git`: permissions, which see the path alone, ask about that."""
    if any(name.lower() == ".git" for name in reached) and ".git" not in path.lower().split("/"):
        raise Unusable(f"{path} leads to {shown('/'.join(reached))}; use that path, which says what it is")


def _split(root: str, path: str, named: str = "") -> list[str]:
    if "\0" in path or not path:
        raise Unusable("a path cannot be empty or contain a NUL character")
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        raise Unusable("a path is text; this one contains half of a surrogate pair") from None
    if len(encoded) > _PATH_BYTES_MAX or any(len(name) > _NAME_BYTES_MAX for name in encoded.split(b"/")):
        raise Unusable(f"a path may have {_PATH_BYTES_MAX} bytes, and each name in it {_NAME_BYTES_MAX}")
    if path.startswith("/"):
        inside = "/" if root == "/" else root + "/"
        if path != root and not path.startswith(inside):
            raise _outside(named or path)
        path = path[len(root) :]
    return [part for part in path.split("/") if part not in ("", ".")]


def _plain(parts: list[str], path: str) -> list[str]:
    """Without `..`, which takes back the name before it, even a link's: so do permissions read a path, and what they
    allowed is what is touched."""
    plain: list[str] = []
    for part in parts:
        if part != "..":
            plain.append(part)
        elif plain:
            plain.pop()
        else:
            raise _outside(path)
    if len(plain) > DEPTH_MAX:
        raise _deep(path)
    return plain


def _outside(path: str) -> Unusable:
    return Unusable(f"{path} is outside the workspace; this tool works only inside it")


def _deep(path: str) -> Unusable:
    return Unusable(f"{path} is more than {DEPTH_MAX} directories deep")


def _look(name: str, directory: int) -> os.stat_result | None:
    """What has this name, a link itself; None where nothing has."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _enter(directory: int, name: str, path: str, make: bool) -> int:
    for _ in range(2):
        try:
            entered = os.open(name, _DIRECTORY, dir_fd=directory)
            if make:
                # An attempt that was cut off may have made it and left its name unsynced.
                os.fsync(directory)
            return entered
        except FileNotFoundError:
            if not make:
                raise Unusable(Place(directory, name, path).absence()) from None
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=directory)
        except NotADirectoryError:
            raise Unusable(f"{path} is not a directory") from None
        except PermissionError:
            raise Unusable(f"{path} may not be entered") from None
    raise Unusable(f"{path} changes while it is used")


def write_atomic(place: Place, data: bytes, token: str) -> None:
    """Replaces or makes the file: readers see the old bytes or the new ones, and after a crash too. The mode of an
    existing file stays. `token` names the temporary file, so that a repeated call clears what a killed one left."""
    if len(data) > TOOL_INPUT_BYTES_MAX:
        raise Unusable(f"{place.path} would have {len(data)} bytes, more than {TOOL_INPUT_BYTES_MAX}; use bash")
    before = place.stat()
    if before is not None:
        place.expect_file(before)
        if not before.st_mode & 0o222:
            raise Unusable(f"{place.path} is read-only (mode {stat.S_IMODE(before.st_mode):04o}); it was left as it is")
    try:
        _replace(place, data, _TEMPORARY + token, None if before is None else stat.S_IMODE(before.st_mode))
    except OSError as error:
        raise Unusable(f"{place.path} could not be written: {error.strerror}") from error


def _replace(place: Place, data: bytes, temporary: str, mode: int | None) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=place.directory)
    descriptor = os.open(
        temporary,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o666,
        dir_fd=place.directory,
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=place.directory)
        raise
    os.fsync(place.directory)


def walk(directory: int, prefix: str, stop: Stop, *, depth_max: int | None = None) -> Iterator[tuple[str, bool]]:
    """The tree below a directory as (path, whether it is a directory), sorted by name; links are not followed, the
    skipped directories named but not entered, unreadable ones only named. A depth of 0 is the directory alone."""
    depth_max = DEPTH_MAX if depth_max is None else depth_max
    try:
        with os.scandir(directory) as entries:
            listed = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except PermissionError:
        return
    for name, is_directory in listed:
        stop()
        path = os.path.join(prefix, name) if prefix else name
        if name.startswith(_TEMPORARY) and not is_directory:
            continue
        yield path, is_directory
        if is_directory and depth_max > 0 and name not in SKIPPED_DIRECTORIES:
            try:
                descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
            except OSError:
                continue
            try:
                yield from walk(descriptor, path, stop, depth_max=depth_max - 1)
            finally:
                os.close(descriptor)
