"""`grep_search`: lines of the workspace's files that match a regular expression.

ripgrep does it where it is installed, else `searcher.py`; both in a process of their own, since a regular expression
may take for ever and only a process can be ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from typing import Annotated, Literal

import msgspec

from kheish.limits import (
    GREP_FILE_BYTES_MAX,
    GREP_LINE_CHARS_MAX,
    GREP_MATCHES_MAX,
    READ_FILE_BYTES_MAX,
    TOOL_TIMEOUT_MS,
)
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools import searcher
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.work import Stop, Unusable, failure, perform
from kheish.tools.workspace import SKIPPED_DIRECTORIES, compile_glob, locate

_CONTEXT_LINES_MAX = 20
_ERROR_CHARS_MAX = 1_000


class Arguments(ToolArguments, frozen=True):
    pattern: Annotated[str, msgspec.Meta(description="A regular expression, matched line by line.", min_length=1)]
    path: Annotated[str, msgspec.Meta(description="The file or directory to search.")] = "."
    glob: Annotated[str, msgspec.Meta(description="Only files whose path matches, such as *.py or src/**.")] = ""
    ignore_case: bool = False
    context: Annotated[
        int, msgspec.Meta(description="Lines to show around each match.", ge=0, le=_CONTEXT_LINES_MAX)
    ] = 0
    output: Annotated[
        Literal["lines", "files"], msgspec.Meta(description="Matching lines, or only the files that have any.")
    ] = "lines"

    def problem(self) -> str:
        return "a pattern is one line" if "\n" in self.pattern or "\0" in self.pattern else ""


class GrepSearch:
    spec = make_spec("grep_search", Arguments, effect="read", main_argument="pattern")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        where = ""

        def check(stop: Stop) -> ToolOutput:
            nonlocal where
            where = _find(call.cwd, arguments)
            return ToolOutput(data=b"")

        checked = await perform(check)
        if checked.is_error:
            return checked
        try:
            async with asyncio.timeout(call.timeout_ms / 1000):
                return await _search(call.cwd, where, arguments)
        except TimeoutError:
            return failure(f"the search took longer than {call.timeout_ms} ms; narrow the path or the glob")
        except OSError as error:
            return failure(f"cannot start the search: {error.strerror}")


def _find(root: str, arguments: Arguments) -> str:
    """The place to search, links resolved, relative to the root."""
    with locate(root, arguments.path or ".") as place:
        if place.stat() is None:
            raise Unusable(place.absence())
        if arguments.glob:
            compile_glob(arguments.glob)
        return place.path


async def _search(root: str, where: str, arguments: Arguments) -> ToolOutput:
    ripgrep = shutil.which("rg")
    command = _ripgrep(ripgrep, where, arguments) if ripgrep else [sys.executable, "-I", "-S", searcher.__file__]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=root,
        stdin=asyncio.subprocess.DEVNULL if ripgrep else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        if process.stdin is not None:
            process.stdin.write(json.dumps(_task(where, arguments)).encode())
            process.stdin.close()
        data = b""
        while len(data) <= READ_FILE_BYTES_MAX and (chunk := await process.stdout.read(1 << 16)):
            data += chunk
            if data.count(b"\n") > GREP_MATCHES_MAX:
                break
        else:
            complaint = (await process.stderr.read(1 << 14)).decode("utf-8", "replace").strip()
            if await process.wait() == 2 and not data:
                return failure(f"the search failed: {complaint[:_ERROR_CHARS_MAX]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return _report(data, where, arguments)


def _ripgrep(ripgrep: str, where: str, arguments: Arguments) -> list[str]:
    command = [ripgrep, "--no-config", "--no-messages", "--hidden", "--sort=path", "--color=never", "--null"]
    command += ["--no-heading", "--with-filename", f"--max-filesize={GREP_FILE_BYTES_MAX}"]
    if arguments.output == "files":
        command += ["--files-with-matches"]
    else:
        command += ["--line-number", f"--context={arguments.context}", "--max-columns-preview"]
        command += [f"--max-columns={GREP_LINE_CHARS_MAX}"]
    if arguments.ignore_case:
        command += ["--ignore-case"]
    if arguments.glob:
        command += [f"--glob={arguments.glob}"]
    command += [f"--glob=!**/{name}/" for name in sorted(SKIPPED_DIRECTORIES)]
    return [*command, f"--regexp={arguments.pattern}", "--", os.path.join(".", where)]


def _task(where: str, arguments: Arguments) -> dict[str, object]:
    return {
        "pattern": arguments.pattern,
        "where": where,
        "glob": compile_glob(arguments.glob).pattern if arguments.glob else "",
        "glob_names_only": "/" not in arguments.glob,
        "ignore_case": arguments.ignore_case,
        "context": arguments.context,
        "files_only": arguments.output == "files",
        "skipped": sorted(SKIPPED_DIRECTORIES),
        "file_bytes_max": GREP_FILE_BYTES_MAX,
        "cpu_seconds_max": TOOL_TIMEOUT_MS // 1000,
    }


def _report(data: bytes, where: str, arguments: Arguments) -> ToolOutput:
    """Both searchers write `path NUL number (: or -) text`, groups parted by `--`; or `path NUL` for files."""
    if not data:
        return ToolOutput(data=f"Nothing in {where} matches {arguments.pattern}.".encode(), metadata={"matches": 0})
    if arguments.output == "files":
        lines = [path for path in data.decode("utf-8", "replace").split("\0") if path.strip("\n")]
    else:
        lines = [line.replace("\0", ":", 1) for line in data.decode("utf-8", "replace").split("\n") if line]
    shown = [_cut(line.lstrip("\n").removeprefix("./")) for line in lines[:GREP_MATCHES_MAX]]
    if len(lines) > len(shown):
        shown.append(f"[more than {GREP_MATCHES_MAX} lines; narrow the pattern, the path or the glob]")
    return ToolOutput(
        data="\n".join(shown).encode("utf-8", "replace"),
        metadata={"lines" if arguments.output == "lines" else "files": len(lines[:GREP_MATCHES_MAX])},
    )


def _cut(line: str) -> str:
    return line if len(line) <= GREP_LINE_CHARS_MAX * 2 else line[: GREP_LINE_CHARS_MAX * 2] + " [... cut]"


TOOL = GrepSearch()
