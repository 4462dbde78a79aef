"""Tools as the kernel calls them, in a workspace of a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.core.events import Process
from kheish.runtime.ports import Tool, ToolCall, ToolOutput
from kheish.store.blobs import Blobs
from kheish.store.workers import Workers
from kheish.tools.processes import identify
from kheish.tools.registry import load_tools

TOOLS: dict[str, Tool] = load_tools()
TIMEOUT_MS = 20_000
CALL_ID = "toolcall_test"


class Live:
    """What a running call has emitted so far."""

    def __init__(self) -> None:
        self.text = ""
        self._grown = asyncio.Event()

    def add(self, text: str) -> None:
        self.text += text
        self._grown.set()

    async def until(self, wanted: str) -> None:
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            while wanted not in self.text:
                self._grown.clear()
                await self._grown.wait()

    async def children(self, count: int) -> list[Process]:
        """Those that have said `child <pid>` of themselves, once there are so many."""
        async with asyncio.timeout(TIMEOUT_MS / 1000):
            while len(pids := re.findall(r"^child (\d+)\n", self.text, re.MULTILINE)) < count:
                self._grown.clear()
                await self._grown.wait()
        return [identify(int(pid)) for pid in pids]


@contextlib.asynccontextmanager
async def threads() -> AsyncIterator[Workers]:
    made = Workers(asyncio.get_running_loop(), "test", 2)
    try:
        yield made
    finally:
        await made.close()


class Workplace:
    """A workspace `root` with a file outside it, `outside/secret.txt`, that no tool may reach."""

    SECRET = "the secret outside"

    def __init__(self, folder: Path) -> None:
        self.root = folder / "work"
        self.outside = folder / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret.txt").write_text(self.SECRET + "\n")
        self.blobs = Blobs(folder / "state")
        self.announced: list[Process] = []

    def write(self, path: str, content: str | bytes = "") -> Path:
        """A file, with its directories."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def hold(self) -> None:
        """Makes the pipe at which a command waits that does `read go < go`."""
        os.mkfifo(self.root / "go")

    async def let_go(self) -> None:
        """Lets it go on, once it has come there."""
        await asyncio.to_thread((self.root / "go").write_text, "go\n")

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def names(self) -> set[str]:
        """Everything in the workspace."""
        return {
            os.path.relpath(os.path.join(directory, name), self.root)
            for directory, directories, files in os.walk(self.root)
            for name in (*directories, *files)
        }

    async def run(
        self,
        tool: str,
        /,
        *,
        attempt: int = 1,
        timeout_ms: int = TIMEOUT_MS,
        emit: Callable[[str], None] = lambda text: None,
        announce: Callable[[Process], Awaitable[None]] | None = None,
        root: Path | None = None,
        call_id: str = CALL_ID,
        **arguments: Any,
    ) -> ToolOutput:
        """One attempt at a call that the kernel would let through."""
        assert TOOLS[tool].spec.check(arguments) == ""

        async def note(process: Process) -> None:
            self.announced.append(process)

        async def read_blob(sha256: str, offset: int, limit: int) -> bytes:
            return await asyncio.to_thread(self.blobs.read, sha256, offset, limit)

        async with threads() as made:
            call = ToolCall(
                session_id="session_test",
                run_id="run_test",
                tool_call_id=call_id,
                attempt=attempt,
                arguments=arguments,
                cwd=str(root or self.root),
                timeout_ms=timeout_ms,
                emit=emit,
                announce=announce or note,
                read_blob=read_blob,
                threads=made,
            )
            return await TOOLS[tool].run(call)

    async def text(self, tool: str, /, **options: Any) -> str:
        """The output of a call that goes well."""
        output = await self.run(tool, **options)
        assert not output.is_error, output.data
        return output.data.decode()

    async def refusal(self, tool: str, /, **options: Any) -> str:
        """The output of a call that does not."""
        output = await self.run(tool, **options)
        assert output.is_error, output.data
        return output.data.decode()


def swapping_scandir(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Puts a link to the outside in place of `directory` as soon as the workspace was listed."""
    original = os.scandir
    done = False

    @contextlib.contextmanager
    def scan_then_swap(directory: int) -> Iterator[Any]:
        nonlocal done
        with original(directory) as entries:
            yield entries
        if not done:
            done = True
            (place.root / "directory").rename(place.outside.parent / "moved")
            (place.root / "directory").symlink_to(place.outside)

    monkeypatch.setattr(os, "scandir", scan_then_swap)
    return lambda: done
