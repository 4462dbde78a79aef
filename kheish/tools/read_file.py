"""`read_file`: numbered lines of a text file in the workspace, or of an earlier output that was too long to show."""

from __future__ import annotations

import os
import re
from typing import Annotated

import msgspec

from kheish.errors import KheishError
from kheish.limits import (
    READ_FILE_LINE_CHARS_MAX,
    READ_FILE_LINES_MAX,
    TOOL_OUTPUT_BYTES_MAX,
    TOOL_RESULT_INLINE_BYTES_MAX,
)
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse
from kheish.tools.work import Stop, Unusable, failure, perform
from kheish.tools.workspace import locate

_BLOB = re.compile(r"blob:([0-9a-f]{64})\Z")
_CHUNK_BYTES = 64 * 1024
_SNIFF_BYTES = 8192
_PAGE_BYTES_MAX = TOOL_RESULT_INLINE_BYTES_MAX - 128  # with room for the note at its end


class Arguments(ToolArguments, frozen=True):
    path: Annotated[
        str, msgspec.Meta(description="The file, relative to the working directory, or blob:SHA256.", min_length=1)
    ]
    offset: Annotated[int, msgspec.Meta(description="The first line to read, from 1.", ge=1)] = 1
    limit: Annotated[int, msgspec.Meta(description="How many lines.", ge=1, le=READ_FILE_LINES_MAX)] = (
        READ_FILE_LINES_MAX
    )


class Page:
    """Numbered lines from `offset`, at most `limit` of them and as many bytes as a model sees of one result: more would
    be shortened in its middle and kept in yet another blob."""

    def __init__(self, offset: int, limit: int) -> None:
        self._offset = offset
        self._limit = limit
        self._out: list[bytes] = []
        self._bytes = 0
        self.lines_seen = 0
        self.lines_shown = 0
        self.is_full = False

    def add(self, text: str) -> None:
        self.lines_seen += 1
        if self.lines_seen < self._offset or self.is_full:
            return
        if self.lines_shown == self._limit:
            self.is_full = True
            return
        if len(text) > READ_FILE_LINE_CHARS_MAX:
            text = f"{text[:READ_FILE_LINE_CHARS_MAX]} [... {len(text) - READ_FILE_LINE_CHARS_MAX} characters cut]"
        numbered = f"{self.lines_seen:6d}\t{text}\n".encode()
        if self._out and self._bytes + len(numbered) > _PAGE_BYTES_MAX:
            self.is_full = True
            return
        self._out.append(numbered)
        self._bytes += len(numbered)
        self.lines_shown += 1

    def output(self, name: str) -> ToolOutput:
        if self.lines_seen == 0:
            return ToolOutput(data=f"[{name} is empty]".encode(), metadata={"path": name, "lines": 0})
        if self.lines_shown == 0:
            return failure(f"{name} has {self.lines_seen} lines; there is no line {self._offset}")
        last = self._offset + self.lines_shown - 1
        more = f"[more lines follow; go on with offset {last + 1}]\n".encode() if self.is_full else b""
        return ToolOutput(
            data=b"".join(self._out) + more,
            metadata={"path": name, "first_line": self._offset, "lines": self.lines_shown},
        )


class ReadFile:
    spec = make_spec("read_file", Arguments, effect="read", main_argument="path")

    async def run(self, call: ToolCall) -> ToolOutput:
        arguments = parse(Arguments, call.arguments)
        if arguments.path.startswith("blob:"):
            match = _BLOB.match(arguments.path)
            if match is None:
                return failure(f"{arguments.path} names no stored output: after blob: come 64 hex digits")
            try:
                data = await call.read_blob(match.group(1), 0, TOOL_OUTPUT_BYTES_MAX)
            except (OSError, KheishError):
                return failure(f"{arguments.path} is not a stored output")
            return await perform(lambda stop: _page_of(data, arguments, stop), call.timeout_ms, call.threads)
        return await perform(lambda stop: _read(call.cwd, arguments, stop), call.timeout_ms, call.threads)


def _read(root: str, arguments: Arguments, stop: Stop) -> ToolOutput:
    page = Page(arguments.offset, arguments.limit)
    with locate(root, arguments.path) as place, place.opened() as (descriptor, size):
        if b"\0" in (chunk := os.read(descriptor, _CHUNK_BYTES))[:_SNIFF_BYTES]:
            raise Unusable(f"{place.path} is a binary file of {size} bytes; look at it with bash (file, xxd, strings)")
        rest, left = b"", size
        while chunk and not page.is_full:
            stop()
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                page.add(_text(line))
            if len(rest) > TOOL_OUTPUT_BYTES_MAX:
                raise Unusable(f"{place.path} has a line of more than {TOOL_OUTPUT_BYTES_MAX} bytes; use bash")
            left -= len(chunk)
            chunk = os.read(descriptor, _CHUNK_BYTES) if left else b""  # some files have bytes and no size
        if rest:
            page.add(_text(rest))
        return page.output(place.path)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").removesuffix("\r")


def _page_of(data: bytes, arguments: Arguments, stop: Stop) -> ToolOutput:
    """Of a stored output, all of which must come within reach: a line too long to show is several lines here."""
    page = Page(arguments.offset, arguments.limit)
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")
    for line in text.split("\n"):
        for at in range(0, len(line) or 1, READ_FILE_LINE_CHARS_MAX):
            page.add(line[at : at + READ_FILE_LINE_CHARS_MAX])
        if page.is_full:
            break
        stop()
    return page.output(arguments.path)


TOOL = ReadFile()
