"""A line searcher as a program of its own, for machines without ripgrep: reads one JSON task, writes what ripgrep
would. It stands alone (standard library only) so that it starts fast and can be ended at any time."""

from __future__ import annotations

import json
import os
import re
import resource
import sys
from collections.abc import Iterator
from typing import BinaryIO


def main() -> int:
    task = json.load(sys.stdin)
    # Nobody may be left to end this process, should a pattern take for ever.
    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_seconds_max"], task["cpu_seconds_max"]))
    try:
        pattern = re.compile(task["pattern"].encode(), re.IGNORECASE if task["ignore_case"] else 0)
    except re.error as error:
        print(f"{task['pattern']!r} is not a regular expression: {error}", file=sys.stderr)
        return 2
    glob = re.compile(os.fsencode(task["glob"])) if task["glob"] else None
    out = sys.stdout.buffer
    found = False
    groups = 0
    for path in files(os.fsencode(task["where"]), frozenset(map(os.fsencode, task["skipped"]))):
        if glob and not glob.match(os.path.basename(path) if task["glob_names_only"] else path):
            continue
        matching = matching_lines(path, pattern, task["file_bytes_max"])
        if not matching:
            continue
        found = True
        if task["files_only"]:
            out.write(path + b"\0")
            continue
        groups = write_groups(out, path, *matching, task["context"], groups)
    out.flush()
    return 0 if found else 1


def files(where: bytes, skipped: frozenset[bytes]) -> Iterator[bytes]:
    """Every regular file at or below `where`, sorted, links not followed."""
    if not os.path.isdir(where):
        yield where
        return
    for directory, directories, names in os.walk(where):
        directories[:] = sorted(name for name in directories if name not in skipped)
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield path.removeprefix(b"./")


def matching_lines(path: bytes, pattern: re.Pattern[bytes], bytes_max: int) -> tuple[list[bytes], list[int]] | None:
    """The file's lines and the indexes of those that match; None for binary, large and unreadable files."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > bytes_max:
                return None
            data = file.read(bytes_max)
    except OSError:
        return None
    if b"\0" in data[:8192]:
        return None
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    hits = [index for index, line in enumerate(lines) if pattern.search(line)]
    return (lines, hits) if hits else None


def write_groups(out: BinaryIO, path: bytes, lines: list[bytes], hits: list[int], context: int, groups: int) -> int:
    """Writes the hits with their context; groups that do not touch are parted by `--`. Returns the groups so far."""
    hit = set(hits)
    last = -2
    for index in hits:
        for at in range(max(index - context, last + 1, 0), min(index + context + 1, len(lines))):
            if context and at > last + 1:
                if groups:
                    out.write(b"--\n")
                groups += 1
            out.write(b"%s\0%d%s%s\n" % (path, at + 1, b":" if at in hit else b"-", lines[at].rstrip(b"\r")))
            last = at
    return groups


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(0)
