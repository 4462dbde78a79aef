"""`write_file`: makes or replaces a file of the workspace. Writing the same again changes nothing, so it may repeat."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec

from kheish.limits import TOOL_INPUT_BYTES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.diffs import changes
from kheish.tools.work import perform
from kheish.tools.workspace import Place, locate, write_atomic


class Arguments(ToolArguments, frozen=True):
    path: Annotated[str, msgspec.Meta(description="The file, relative to the working directory.", min_length=1)]
    content: Annotated[str, msgspec.Meta(description="The whole new content.")]

    def problem(self) -> str:
        if self.path.endswith("/"):
            return f"{self.path} names a directory; the path of a file does not end in /"
        if len(self.content.encode()) > TOOL_INPUT_BYTES_MAX:
            return f"content may have {TOOL_INPUT_BYTES_MAX} bytes; write in parts with bash"
        return ""


class WriteFile:
    spec = make_spec("write_file", Arguments, effect="idempotent", main_argument="path")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        return await perform(lambda stop: _write(call.cwd, arguments, call.tool_call_id), call.timeout_ms, call.threads)


def _write(root: str, arguments: Arguments, token: str) -> ToolOutput:
    data = arguments.content.encode()
    with locate(root, arguments.path, make_parents=True) as place:
        with place.changing():
            old = _read(place)
            if old == data:
                os.fsync(place.directory)
            else:
                write_atomic(place, data, token)
        verb = "Made" if old is None else "Replaced" if old != data else "Left unchanged:"
        lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
        return ToolOutput(
            data=f"{verb} {place.path} ({lines} lines, {len(data)} bytes).".encode(),
            metadata={"path": place.path, "bytes": len(data), **changes(place.path, old or b"", data)},
        )


def _read(place: Place) -> bytes | None:
    """What is there now, as far as it could equal what is to be written; None where there is no file."""
    if place.stat() is None:
        return None
    with os.fdopen(place.open_file(), "rb") as file:
        return file.read(TOOL_INPUT_BYTES_MAX + 1)


TOOL = WriteFile()
