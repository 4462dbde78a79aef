"""A line searcher as a program of its own, for machines without ripgrep: reads one JSON task from its argument and
searches the file or directory that it inherited as a descriptor; writes what ripgrep would. It stands alone (standard
library only) so that it starts fast and can be ended at any time."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
_SNIFF_BYTES = 1 << 16


def main() -> int:
    task = json.loads(sys.argv[1])
    # Nobody may be left to end this process, should a pattern take for ever.
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_seconds_max"], task["cpu_seconds_max"]))
    try:
        pattern = re.compile(task["pattern"], re.IGNORECASE if task["ignore_case"] else 0)
    except re.error as error:
        print(f"{task['pattern']!r} is not a regular expression: {error}", file=sys.stderr)
        return 2
    out = sys.stdout.buffer
    found = False
    groups = 0
    for path, descriptor in files(task):
        matching = matching_lines(descriptor, pattern, task["file_bytes_max"])
        if not matching:
            continue
        found = True
        if task["files_only"]:
            out.write(path + b"\0")
            continue
        groups = write_groups(out, path, *matching, task, groups)
    out.flush()
    return 0 if found else 1


def files(task: dict[str, Any]) -> Iterator[tuple[bytes, int]]:
    """The regular files to search, each as its path and a descriptor that lives until the next is asked for."""
    where = task["descriptor"]
    if stat.S_ISREG(os.fstat(where).st_mode):
        yield b"", where
        return
    glob = re.compile(task["glob"]) if task["glob"] else None
    for path, directory in walk(where, "", frozenset(task["skipped"]), task["depth_max"]):
        name = os.path.basename(path)
        if glob and not glob.match(name if task["glob_names_only"] else path):
            continue
        try:
            descriptor = os.open(name, _FILE, dir_fd=directory)
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                yield os.fsencode(f"./{path}"), descriptor
        finally:
            os.close(descriptor)


def walk(directory: int, prefix: str, skipped: frozenset[str], depth_max: int) -> Iterator[tuple[str, int]]:
    """The files at or below a directory, sorted, each with a descriptor of its directory; no link is followed, not
    even one that takes a directory's place meanwhile."""
    try:
        with os.scandir(directory) as entries:
            listed = sorted(
                (e.name, e.is_dir(follow_symlinks=False), e.is_file(follow_symlinks=False)) for e in entries
            )
    except OSError:
        return
    for name, is_directory, is_file in listed:
        path = os.path.join(prefix, name)
        if is_file:
            yield path, directory
        elif is_directory and depth_max and name not in skipped:
            try:
                descriptor = os.open(name, _DIRECTORY, dir_fd=directory)
            except OSError:
                continue
            try:
                yield from walk(descriptor, path, skipped, depth_max - 1)
            finally:
                os.close(descriptor)


def matching_lines(file: int, pattern: re.Pattern[str], bytes_max: int) -> tuple[list[str], list[int]] | None:
    """The file's lines and the indexes of those that match; None for binary, large and unreadable files."""
    try:
        if os.fstat(file).st_size > bytes_max:
            return None
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(bytes_max)
    except OSError:
        return None
    binary_at = data.find(b"\0")
    if 0 <= binary_at < _SNIFF_BYTES:
        return None
    if binary_at >= 0:
        data = data[: data.rfind(b"\n", 0, binary_at) + 1]
    lines = [line.removesuffix("\r") for line in data.decode("utf-8", "surrogateescape").split("\n")]
    if lines[-1] == "":
        lines.pop()
    hits = [index for index, line in enumerate(lines) if pattern.search(line)]
    return (lines, hits) if hits else None


def write_groups(
    out: BinaryIO, path: bytes, lines: list[str], hits: list[int], task: dict[str, Any], groups: int
) -> int:
    """Writes the hits with their context; groups that do not touch are parted by `--`. Returns the groups so far."""
    context = task["context"]
    hit = set(hits)
    last = -2
    for index in hits:
        for at in range(max(index - context, last + 1, 0), min(index + context + 1, len(lines))):
            if context and at > last + 1:
                if groups:
                    out.write(b"--\n")
                groups += 1
            text = lines[at][: task["line_chars_max"]].encode("utf-8", "surrogateescape")
            out.write(b"%s\0%d%s%s\n" % (path, at + 1, b":" if at in hit else b"-", text))
            last = at
    return groups


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
