"""`glob_search`: files of the workspace by their names, the latest changed first."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from kheish.limits import LIST_ENTRIES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.work import Stop, perform
from kheish.tools.workspace import compile_glob, locate, walk

_CANDIDATES_MAX = 100_000


class Arguments(ToolArguments, frozen=True):
    pattern: Annotated[str, msgspec.Meta(description="Such as **/*.py or src/**/test_*.{ts,tsx}.", min_length=1)]
    path: Annotated[str, msgspec.Meta(description="The directory to search below.")] = "."


class GlobSearch:
    spec = make_spec("glob_search", Arguments, effect="read", main_argument="pattern")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        return await perform(lambda stop: _search(call.cwd, arguments, stop))


def _search(root: str, arguments: Arguments, stop: Stop) -> ToolOutput:
    pattern = compile_glob(arguments.pattern)
    found: list[tuple[int, str]] = []
    with locate(root, arguments.path or ".") as place:
        directory = place.open_directory()
        try:
            for path, is_directory in walk(directory, "", stop):
                if is_directory or not pattern.match(path):
                    continue
                try:
                    changed_ns = os.stat(path, dir_fd=directory, follow_symlinks=False).st_mtime_ns
                except OSError:
                    continue
                found.append((-changed_ns, path if place.path == "." else os.path.join(place.path, path)))
                if len(found) == _CANDIDATES_MAX:
                    break
        finally:
            os.close(directory)
        name = place.path
    found.sort()
    if not found:
        return ToolOutput(data=f"No file below {name} matches {arguments.pattern}.".encode(), metadata={"files": 0})
    lines = [path for _, path in found[:LIST_ENTRIES_MAX]]
    if len(found) > len(lines):
        lines.append(f"[{len(found) - len(lines)} more; narrow the pattern]")
    return ToolOutput(data="\n".join(lines).encode("utf-8", "surrogateescape"), metadata={"files": len(found)})


TOOL = GlobSearch()
