"""Who comes while something is being said hears it from its beginning, and each word once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from kheish.api.streams import Streams
from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply, TextDelta
from kheish.limits import LIVE_OUTPUT_CHARS_MAX
from kheish.runtime.hub import Hub
from kheish.runtime.model_calls import DeltaPublisher
from kheish.runtime.ports import ToolCall, ToolOutput
from tests.runtime.kernel import Kernel, reply


class Talker:
    """Says half of a reply, and the rest when it may."""

    def __init__(self, kernel: Kernel) -> None:
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()
        kernel.provider.stream = self.stream  # type: ignore[method-assign]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        yield ReasoningDelta(text="hm")
        for text in ("Once ", "upon "):
            yield TextDelta(text=text)
        self.has_begun.set()
        await self.may_end.wait()
        yield TextDelta(text="a time")
        yield reply("Once upon a time")


class Listener:
    """What a stream of the session, or of one run, brings."""

    def __init__(self, kernel: Kernel, run_id: str | None = None) -> None:
        self._chunks = Streams(kernel.supervisor).session("s", run_id, "tail")
        self.deltas: list[dict[str, Any]] = []
        self.has_synced = False

    async def until(self, wanted: bytes) -> None:
        async with asyncio.timeout(10):
            async for chunk in self._chunks:
                for frame in chunk.split(b"\n\n"):
                    if frame.startswith(b"event: delta"):
                        assert self.has_synced, "what follows the replay is live"
                        self.deltas.append(orjson.loads(frame.partition(b"data: ")[2].partition(b"\n")[0]))
                    self.has_synced = self.has_synced or frame.startswith(b"event: sync")
                if wanted in chunk:
                    return
        raise AssertionError("the stream ended")

    async def close(self) -> None:
        await self._chunks.aclose()  # type: ignore[attr-defined]

    def said(self, kind: str) -> list[tuple[str, bool]]:
        return [(delta["text"], delta.get("so_far", False)) for delta in self.deltas if delta["kind"] == kind]


@pytest.mark.parametrize("of_run", [False, True])
@pytest.mark.parametrize("others", [0, 1])
async def test_a_reply_is_heard_from_its_beginning_whenever_one_comes(
    tmp_path: Path, of_run: bool, others: int
) -> None:
    async with Kernel(tmp_path, [reply("")]) as kernel:
        talker = Talker(kernel)
        await kernel.create()
        early = [Listener(kernel) for _ in range(others)]
        for listener in early:
            await listener.until(b"event: sync")
        run_id = await kernel.submit()
        await talker.has_begun.wait()
        late = Listener(kernel, run_id if of_run else None)
        await late.until(b"event: sync")
        assert late.said("reasoning") == [("hm", True)] and late.said("text") == [("Once upon ", True)]
        talker.may_end.set()
        for listener in (late, *early):
            await listener.until(b"model_call.completed")
        assert late.said("text")[1:] == [("a time", False)]
        for listener in early:
            heard = listener.said("text")
            assert "".join(text for text, _ in heard) == "Once upon a time"
            assert not any(so_far for _, so_far in heard)
        for listener in (late, *early):
            await listener.close()
        assert not kernel.supervisor.hub._speaking


async def test_what_ended_while_the_journal_was_read_is_in_its_record_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, [reply("")]) as kernel:
        talker = Talker(kernel)
        await kernel.create()
        run_id = await kernel.submit()
        await talker.has_begun.wait()
        reader = kernel.supervisor.reader
        state = reader.state

        async def slow_state(session_id: str) -> Any:
            talker.may_end.set()
            monkeypatch.setattr(reader, "state", state)
            await kernel.until_status(run_id, "completed")
            return await state(session_id)

        monkeypatch.setattr(reader, "state", slow_state)
        late = Listener(kernel)
        await late.until(b"event: sync")
        assert late.deltas == []
        await late.close()


async def test_what_a_command_has_written_is_heard_by_who_comes_later(tmp_path: Path) -> None:
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def answer(call: ToolCall) -> ToolOutput:
        call.emit("one\n")
        has_begun.set()
        await may_end.wait()
        return ToolOutput(data=b"one\n")

    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        kernel.tools["read_file"].answer = answer
        await kernel.create()
        await kernel.submit()
        await has_begun.wait()
        late = Listener(kernel)
        await late.until(b"event: sync")
        assert late.said("tool_output") == [("one\n", True)]
        may_end.set()
        await late.close()


async def test_of_a_long_output_only_the_end_is_kept() -> None:
    speaker = DeltaPublisher(Hub(), "s", "run_1", chars_max=LIVE_OUTPUT_CHARS_MAX)
    with contextlib.closing(speaker):
        for number in range(100_000):
            speaker.add("tool_output", f"{number}\n")
        (said,) = speaker.said()
    text = orjson.loads(said)["text"]
    assert text.endswith("99998\n99999\n") and LIVE_OUTPUT_CHARS_MAX / 2 <= len(text) <= LIVE_OUTPUT_CHARS_MAX
