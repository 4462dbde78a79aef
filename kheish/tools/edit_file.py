"""`edit_file`: replaces an exact text in a file of the workspace.

A repetition after an interruption must not replace twice. The write is atomic, so a repeated attempt finds either the
old text still there as it was, or the new one in its place; the second is recognised and counts as done.
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
        return await perform(lambda stop: _edit(call.cwd, arguments, call.tool_call_id, call.attempt))


def _edit(root: str, arguments: Arguments, token: str, attempt: int) -> ToolOutput:
    with locate(root, arguments.path) as place:
        data = place.read(TOOL_INPUT_BYTES_MAX)
        old, new = _as_in(data, arguments.old_text), _as_in(data, arguments.new_text)
        count = data.count(old)
        if attempt > 1 and _was_applied(data, old, new, count):
            return ToolOutput(
                data=f"{place.path} already has the new text; the interrupted attempt had replaced it.".encode(),
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
        times = "" if count == 1 else f" {count} times"
        return ToolOutput(
            data=f"Replaced{times} in {place.path} (line {_lines_of(data, old)}).".encode(),
            metadata={"path": place.path, "replaced": count, **changes(place.path, data, changed)},
        )


def _as_in(data: bytes, text: str) -> bytes:
    """The text with the line ends of the file."""
    encoded = text.encode("utf-8", "replace")
    return encoded.replace(b"\n", b"\r\n") if b"\r\n" in data and b"\r\n" not in encoded else encoded


def _was_applied(data: bytes, old: bytes, new: bytes, count: int) -> bool:
    """The new text stands there, and the old one only within it."""
    return count == data.count(new) * new.count(old) if new in data and new else not new and not count


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
    return f"old_text is not in {path}; read the file again"


TOOL = EditFile()
