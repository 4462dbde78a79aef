"""What is owed is performed once: also where its outcome cannot be told."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kheish.limits import RECORD_BYTES_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from tests.runtime.kernel import Kernel, reply


async def test_a_reply_that_no_record_can_hold_fails_its_run_and_is_not_asked_for_again(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("x" * RECORD_BYTES_MAX)]) as kernel:
        await kernel.create()
        run = await kernel.until_status(await kernel.submit(), "failed")
        assert run.error_code
        assert len(kernel.provider.requests) == 1


async def test_a_result_that_no_record_can_hold_is_an_error_for_the_model(tmp_path: Path) -> None:
    async def large(call: ToolCall) -> ToolOutput:
        return ToolOutput(data=b"ok", metadata={"large": "x" * RECORD_BYTES_MAX})

    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"})), reply("done")]) as kernel:
        kernel.tools["bash"].answer = large
        await kernel.create(mode="bypass")
        await kernel.until_status(await kernel.submit(), "completed")
        assert len(kernel.tools["bash"].runs) == 1
        assert "cannot record this" in kernel.provider.requests[1].messages[-1].text


async def test_a_call_whose_result_cannot_be_told_is_not_run_again_and_in_doubt_after_a_restart(tmp_path: Path) -> None:
    async def unspeakable(call: ToolCall) -> ToolOutput:
        return ToolOutput(data=b"ok", metadata={"object": object()})

    script: list[Any] = [reply("", ("bash", {"command": "x"})), reply("done")]
    async with Kernel(tmp_path, list(script)) as kernel:
        kernel.tools["bash"].answer = unspeakable
        await kernel.create(mode="bypass")
        run_id = await kernel.submit()
        await kernel.until(lambda s: bool(s.processes))
        async with asyncio.timeout(10):
            while not kernel.supervisor.index.rows["s"].problem:
                await asyncio.sleep(0)
        await kernel.submit("another input, at which everything that is owed is looked at")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(kernel.tools["bash"].runs) == 1
    async with Kernel(tmp_path, list(script), generation=2) as kernel:
        await kernel.until_status(run_id, "completed")
        assert kernel.tools["bash"].runs == []
        assert "unknown" in kernel.provider.requests[0].messages[-1].text
