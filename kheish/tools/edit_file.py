"""`edit_file`: replaces an exact text in a file of the workspace.

A repetition after an interruption must not replace twice. The write is atomic, so a repeated attempt finds the file
either as it was or as it was to be; the second is recognised, and then nothing is changed again.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.diffs import changes
from kheish.tools.work import Unusable, perform
from kheish.tools.workspace import locate, write_atomic

_TRIES_MAX = 500_000


class Arguments(ToolArguments, frozen=True):
    path: Annotated[str, msgspec.Meta(description="The file, relative to the working directory.", min_length=1)]
    old_text: Annotated[str, msgspec.Meta(description="The exact text to replace, with its indentation.", min_length=1)]
    new_text: Annotated[str, msgspec.Meta(description="The text to put in its place.")]
    replace_all: Annotated[bool, msgspec.Meta(description="Replace every occurrence, not exactly one.")] = False

    def problem(self) -> str:
        return "old_text and new_text are the same" if self.old_text == self.new_text else ""


class EditFile:
    spec = make_spec("edit_file", Arguments, effect="idempotent", main_argument="path")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        return await perform(
            lambda stop: _edit(call.cwd, arguments, call.tool_call_id, call.attempt), call.timeout_ms, call.threads
        )


def _edit(root: str, arguments: Arguments, token: str, attempt: int) -> ToolOutput:
    with locate(root, arguments.path) as place, place.changing():
        if place.stat() is None:
            raise Unusable(f"{place.absence()}; to make a file use write_file")
        data = place.read(TOOL_INPUT_BYTES_MAX)
        old, new = _as_in(data, arguments)
        count = data.count(old)
        if attempt > 1 and _may_be_done(data, old, new, arguments.replace_all):
            state = "reads as if" if count else "already has the new text:"
            return ToolOutput(
                data=f"{place.path} {state} the interrupted attempt had replaced it; nothing was changed now.".encode(),
                metadata={"path": place.path, "replaced": 0},
            )
        if count == 0:
            raise Unusable(_not_found(place.path, data, arguments.old_text))
        if count > 1 and not arguments.replace_all:
            raise Unusable(
                f"old_text stands {count} times in {place.path} (lines {_lines_of(data, old)}); "
                "add lines around it until it is unique, or set replace_all"
            )
        changed = data.replace(old, new)
        write_atomic(place, changed, token)
        where = f"line {_lines_of(data, old)}" if count == 1 else f"{count} times, lines {_lines_of(data, old)}"
        return ToolOutput(
            data=f"Replaced in {place.path} ({where}).".encode(),
            metadata={"path": place.path, "replaced": count, **changes(place.path, data, changed)},
        )


def _as_in(data: bytes, arguments: Arguments) -> tuple[bytes, bytes]:
    """Both texts with the line ends of the file, unless the old one stands there just as it was given."""
    old, new = arguments.old_text.encode(), arguments.new_text.encode()
    crlf = data.count(b"\r\n")
    if not crlf or b"\r\n" in old or (old in data if b"\n" in old else 2 * crlf < data.count(b"\n")):
        return old, new
    return old.replace(b"\n", b"\r\n"), new.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _may_be_done(data: bytes, old: bytes, new: bytes, replace_all: bool) -> bool:
    """Whether the file may be what the replacement leaves. Where it may as well be as it was before (the new text holds
    the old one, or makes it with what stands around it), done is the safe answer: no repetition replaces twice."""
    last = data.rfind(old)
    if last < 0:
        return new in data
    if not new:
        return False
    # Cut the file into `gap new gap new ... gap`: could `old` have stood for each `new`, and been found just there?
    starts = [0]
    seen = {0}
    tries = 0
    while starts:
        start = starts.pop()
        end = data.find(old, start) + len(old)
        at = data.find(new, start)
        while 0 <= at < end:
            tries += 1
            if tries > _TRIES_MAX:
                return True
            before = data[max(start, at - len(old) + 1) : at]
            after = at + len(new)
            if after not in seen and (before + old).find(old) == len(before):
                if after > last:
                    return True
                if replace_all:
                    seen.add(after)
                    starts.append(after)
            at = data.find(new, at + 1)
    return False


def _lines_of(data: bytes, text: bytes, shown_max: int = 8) -> str:
    lines: list[str] = []
    at = data.find(text)
    while at >= 0 and len(lines) <= shown_max:
        lines.append(str(data.count(b"\n", 0, at) + 1))
        at = data.find(text, at + len(text))
    return ", ".join(lines[:shown_max]) + (", ..." if len(lines) > shown_max else "")


def _not_found(path: str, data: bytes, old_text: str) -> str:
    wanted = [line.strip() for line in old_text.splitlines() if line.strip()]
    text = data.decode("utf-8", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        if wanted and line.strip() == wanted[0]:
            return (
                f"old_text is not in {path} exactly as given, but line {number} begins like it; read it again and copy "
                "the text with its indentation"
            )
    if "\ufffd" in old_text:
        return f"old_text is not in {path}: U+FFFD stands for bytes that are not UTF-8; choose a text without them"
    return f"old_text is not in {path}; read the file again"


TOOL = EditFile()
