"""`glob_search`: files of the workspace by their names, the latest changed first."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from kheish.limits import LIST_ENTRIES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.globs import compile_glob
from kheish.tools.work import Stop, perform
from kheish.tools.workspace import Place, locate, shown, walk

_CANDIDATES_MAX = 100_000


class Arguments(ToolArguments, frozen=True):
    pattern: Annotated[str, msgspec.Meta(description="Such as **/*.py or src/**/test_*.{ts,tsx}.", min_length=1)]
    path: Annotated[str, msgspec.Meta(description="The directory to search below.")] = "."


class GlobSearch:
    spec = make_spec("glob_search", Arguments, effect="read", main_argument="pattern")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        return await perform(lambda stop: _search(call.cwd, arguments, stop), call.timeout_ms, call.threads)


def _search(root: str, arguments: Arguments, stop: Stop) -> ToolOutput:
    wanted = arguments.pattern
    if arguments.path in ("", "."):
        wanted = wanted.removeprefix(f"{root}/")
    pattern = compile_glob(wanted)
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
                found.append((-changed_ns, path))
                if len(found) == _CANDIDATES_MAX:
                    break
        finally:
            os.close(directory)
        if not found:
            return ToolOutput(data=_nothing(place, wanted).encode(), metadata={"files": 0})
        found.sort()
        folder = "" if place.path == "." else f"{place.path}/"
        lines = [folder + shown(path) for _, path in found[:LIST_ENTRIES_MAX]]
    if len(found) > len(lines):
        lines.append(f"[{len(found) - len(lines)} more; narrow the pattern]")
    return ToolOutput(data="\n".join(lines).encode(), metadata={"files": len(found)})


def _nothing(place: Place, pattern: str) -> str:
    hints = []
    if "/" not in pattern:
        hints.append(f"only files directly in it were looked at; **/{pattern} looks below")
    if "[" in pattern:
        hints.append("[ begins a set of characters; \\[ is the character")
    return f"No file below {place.path} matches {pattern}{''.join(f' ({hint})' for hint in hints)}."


TOOL = GlobSearch()
