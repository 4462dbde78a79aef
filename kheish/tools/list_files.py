"""`list_files`: what is in a directory of the workspace, or in the whole tree below it."""

from __future__ import annotations

import os
import stat
from typing import Annotated

import msgspec

from kheish.limits import LIST_ENTRIES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.work import Stop, Unusable, perform
from kheish.tools.workspace import SKIPPED_DIRECTORIES, locate, shown, walk


class Arguments(ToolArguments, frozen=True):
    path: Annotated[str, msgspec.Meta(description="The directory, relative to the working directory.")] = "."
    recursive: Annotated[bool, msgspec.Meta(description="Whether to list the whole tree below it.")] = False


class ListFiles:
    spec = make_spec("list_files", Arguments, effect="read", main_argument="path")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        return await perform(lambda stop: _list(call.cwd, arguments, stop), call.timeout_ms, call.threads)


def _list(root: str, arguments: Arguments, stop: Stop) -> ToolOutput:
    lines: list[str] = []
    more = ""
    with locate(root, arguments.path or ".") as place:
        found = place.stat()
        if found is not None and stat.S_ISREG(found.st_mode):
            raise Unusable(f"{place.path} is a file; use read_file")
        directory = place.open_directory()
        try:
            for path, is_directory in walk(directory, "", stop, depth_max=None if arguments.recursive else 0):
                if len(lines) == LIST_ENTRIES_MAX:
                    more = f"[only the first {LIST_ENTRIES_MAX} entries; name a directory below, or use glob_search]"
                    break
                skipped = " [not listed]" if arguments.recursive and is_skipped(path, is_directory) else ""
                lines.append(shown(path) + ("/" if is_directory else "") + skipped)
        finally:
            os.close(directory)
        text = "\n".join(lines) if lines else f"[{place.path} is empty]"
        return ToolOutput(
            data="\n".join(part for part in (text, more) if part).encode(),
            metadata={"path": place.path, "entries": len(lines)},
        )


def is_skipped(path: str, is_directory: bool) -> bool:
    return is_directory and os.path.basename(path) in SKIPPED_DIRECTORIES


TOOL = ListFiles()
