"""`grep_search`: lines of the workspace's files that match a regular expression.

ripgrep does it where it is installed, else `searcher.py`; both in a process of their own, since a regular expression
may take for ever and only a process can be ended. What they search is handed to them as an open descriptor, so that
it is what was found inside the workspace, whatever takes its place meanwhile. Both follow no links below it; ripgrep
alone opens by path what it has listed a moment before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import stat
import sys
from typing import Annotated, Literal

import msgspec

from kheish.limits import (
    GREP_FILE_BYTES_MAX,
    GREP_LINE_CHARS_MAX,
    GREP_MATCHES_MAX,
    TOOL_OUTPUT_BYTES_MAX,
    TOOL_TIMEOUT_MS,
)
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools import searcher
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.globs import compile_glob, normalize_glob
from kheish.tools.processes import without_secrets
from kheish.tools.work import Stop, Unusable, failure, perform, to_the_end
from kheish.tools.workspace import DEPTH_MAX, SKIPPED_DIRECTORIES, locate, shown

_CONTEXT_LINES_MAX = 20
_PATTERN_CHARS_MAX = 2_000
_ERROR_CHARS_MAX = 1_000
_SNIFF_BYTES = 1 << 16
_NUMBERED = re.compile(r"(\d+[:-])(.*)\Z", re.DOTALL)


class Arguments(ToolArguments, frozen=True):
    pattern: Annotated[
        str,
        msgspec.Meta(
            description="A regular expression, matched line by line.", min_length=1, max_length=_PATTERN_CHARS_MAX
        ),
    ]
    path: Annotated[str, msgspec.Meta(description="The file or directory to search.")] = "."
    glob: Annotated[
        str, msgspec.Meta(description="Only files whose path below it matches, such as *.py or src/**.")
    ] = ""
    ignore_case: Annotated[bool, msgspec.Meta(description="Whether upper and lower case are the same.")] = False
    context: Annotated[
        int, msgspec.Meta(description="Lines to show around each match.", ge=0, le=_CONTEXT_LINES_MAX)
    ] = 0
    output: Annotated[
        Literal["lines", "files"], msgspec.Meta(description="Matching lines, or only the files that have any.")
    ] = "lines"

    def problem(self) -> str:
        return "a pattern is one line of text" if "\n" in self.pattern or "\0" in self.pattern else ""


class Target(msgspec.Struct, frozen=True):
    """What to search: an open directory or file, by its name in the workspace."""

    descriptor: int
    name: str
    is_directory: bool


class GrepSearch:
    spec = make_spec("grep_search", Arguments, effect="read", main_argument="pattern")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        targets: list[Target] = []

        def find(stop: Stop) -> ToolOutput:
            targets.append(_find(call.cwd, arguments))
            return ToolOutput(data=b"")

        try:
            found = await perform(find, call.timeout_ms, call.threads)
            if found.is_error:
                return found
            async with asyncio.timeout(call.timeout_ms / 1000):
                return await _search(call.cwd, targets[0], arguments)
        except TimeoutError:
            return failure(f"the search took longer than {call.timeout_ms} ms; narrow the path or the glob")
        except OSError as error:
            return failure(f"cannot start the search: {error.strerror}")
        finally:
            for target in targets:
                os.close(target.descriptor)


def _find(root: str, arguments: Arguments) -> Target:
    with locate(root, arguments.path or ".") as place:
        found = place.stat()
        if found is None:
            raise Unusable(place.absence())
        if arguments.glob:
            compile_glob(arguments.glob)
        if stat.S_ISDIR(found.st_mode):
            return Target(place.open_directory(), place.path, True)
        descriptor = place.open_file()
        try:
            if (size := os.fstat(descriptor).st_size) > GREP_FILE_BYTES_MAX:
                raise Unusable(f"{place.path} has {size} bytes, more than {GREP_FILE_BYTES_MAX}; use bash (grep)")
            if b"\0" in os.pread(descriptor, _SNIFF_BYTES, 0):
                raise Unusable(f"{place.path} is a binary file; look at it with bash (grep -a, strings)")
        except BaseException:
            os.close(descriptor)
            raise
        return Target(descriptor, place.path, False)


async def _search(root: str, target: Target, arguments: Arguments) -> ToolOutput:
    ripgrep = shutil.which("rg")
    process = await asyncio.create_subprocess_exec(
        *(_ripgrep(ripgrep, target, arguments) if ripgrep else _searcher(target, arguments)),
        cwd=_directory(root, target) if ripgrep else root,
        env=without_secrets(os.environ),
        stdin=target.descriptor if ripgrep else asyncio.subprocess.DEVNULL,
        pass_fds=() if ripgrep else (target.descriptor,),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    data = b""
    end = b"\0" if arguments.output == "files" else b"\n"
    is_whole = False
    try:
        while len(data) <= TOOL_OUTPUT_BYTES_MAX and data.count(end) <= GREP_MATCHES_MAX:
            chunk = await process.stdout.read(1 << 16)
            if not chunk:
                is_whole = True
                break
            data += chunk
        if is_whole:
            complaint = (await process.stderr.read()).decode("utf-8", "replace").strip()
            status = await process.wait()
            # ripgrep also says 2, without a word, where there was something that it could not read.
            if status < 0 or (status not in (0, 1) and complaint and not data):
                return failure(f"the search failed: {complaint[:_ERROR_CHARS_MAX] or f'signal {-status}'}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Its exit is noted only once its pipes are at their end, and a full one is not read by itself.
        await to_the_end(process.communicate())
    return _report(data, is_whole, target, arguments)


def _directory(root: str, target: Target) -> str:
    """Where ripgrep works: the open directory itself, where the system has a path for it."""
    if not target.is_directory:
        return root
    return "/proc/self/fd/0" if sys.platform.startswith("linux") else os.path.join(root, target.name)


def _ripgrep(ripgrep: str, target: Target, arguments: Arguments) -> list[str]:
    command = [ripgrep, "--no-config", "--no-messages", "--no-ignore", "--hidden", "--sort=path", "--color=never"]
    command += ["--null", "--no-heading", "--with-filename", "--crlf", "--encoding=none"]
    command += [f"--max-filesize={GREP_FILE_BYTES_MAX}", f"--max-depth={DEPTH_MAX + 1}"]
    if arguments.output == "files":
        command += ["--files-with-matches"]
    else:
        command += ["--line-number", f"--context={arguments.context}", "--max-columns-preview"]
        # In bytes, and more than is shown of a line, which is in characters.
        command += [f"--max-columns={4 * GREP_LINE_CHARS_MAX + 4}"]
    if arguments.ignore_case:
        command += ["--ignore-case"]
    if arguments.glob:
        command += [f"--glob={normalize_glob(arguments.glob)}"]
    command += [f"--glob=!**/{name}/" for name in sorted(SKIPPED_DIRECTORIES)]
    return [*command, f"--regexp={arguments.pattern}", "--", "./" if target.is_directory else "-"]


def _searcher(target: Target, arguments: Arguments) -> list[str]:
    task = {
        "descriptor": target.descriptor,
        "pattern": arguments.pattern,
        "glob": compile_glob(arguments.glob).pattern if arguments.glob else "",
        "glob_names_only": "/" not in normalize_glob(arguments.glob),
        "ignore_case": arguments.ignore_case,
        "context": arguments.context,
        "files_only": arguments.output == "files",
        "skipped": sorted(SKIPPED_DIRECTORIES),
        "depth_max": DEPTH_MAX,
        "file_bytes_max": GREP_FILE_BYTES_MAX,
        "line_chars_max": GREP_LINE_CHARS_MAX + 1,
        "cpu_seconds_max": TOOL_TIMEOUT_MS // 1000,
    }
    return [sys.executable, "-I", "-S", searcher.__file__, json.dumps(task)]


def _report(data: bytes, is_whole: bool, target: Target, arguments: Arguments) -> ToolOutput:
    """Both searchers write `path NUL number (: or -) text`, groups parted by `--`; or `path NUL` for files. A path
    below a directory begins with `./`; that of a file is not used."""
    files_only = arguments.output == "files"
    *lines, rest = data.decode("utf-8", "replace").split("\0" if files_only else "\n")
    if rest and is_whole:
        lines.append(rest)
    if not files_only:
        lines = [line.removesuffix("\r") for line in lines]
        lines = [line for line in lines if "\0" in line or line == "--"]
    found = [_show(line, target) for line in lines[:GREP_MATCHES_MAX]]
    out = list(found)
    if not found:
        glob = f" in files like {arguments.glob}" if arguments.glob and target.is_directory else ""
        out = [f"Nothing in {target.name} matches {arguments.pattern}{glob}."]
    elif len(lines) > len(found) or not is_whole:
        out.append(f"[only the first {len(found)} are shown; narrow the pattern, the path or the glob]")
    return ToolOutput(
        data="\n".join(out).encode("utf-8", "replace"), metadata={"files" if files_only else "lines": len(found)}
    )


def _show(line: str, target: Target) -> str:
    if line == "--":
        return line
    path, _, rest = line.partition("\0")
    if not target.is_directory:
        path = target.name
    elif target.name == ".":
        path = path.removeprefix("./")
    else:
        path = os.path.join(target.name, path.removeprefix("./"))
    numbered = _NUMBERED.match(rest)
    if numbered is None:
        return shown(path)
    number, text = numbered.groups()
    cut = " [... cut]" if len(text) > GREP_LINE_CHARS_MAX else ""
    return f"{shown(path)}:{number}{text[:GREP_LINE_CHARS_MAX]}{cut}"


TOOL = GrepSearch()
