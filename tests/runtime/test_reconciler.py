"""What is owed is performed once: also where its outcome cannot be told."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kheish.core import commands as c
from kheish.core.contracts import Delta, ModelRequest, ReasoningDelta, Reply
from kheish.core.events import Rule
from kheish.core.state import State
from kheish.limits import RECORD_BYTES_MAX, TOOL_CALLS_PARALLEL_MAX, TOOL_RESULT_INLINE_BYTES_MAX
from kheish.runtime import reconciler
from kheish.runtime.actor import Actor
from kheish.runtime.ports import ToolCall, ToolOutput
from tests.runtime.kernel import OPERATOR, Kernel, reply


async def test_a_reply_that_no_record_can_hold_fails_its_run_and_is_not_asked_for_again(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("x" * RECORD_BYTES_MAX)]) as kernel:
        await kernel.create()
        run = await kernel.until_status(await kernel.submit(), "failed")
        assert run.error_code
        assert len(kernel.provider.requests) == 1


async def test_a_reply_without_an_end_fails_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: ModelRequest) -> AsyncIterator[Delta | Reply]:
        while True:
            yield ReasoningDelta(text="and again, " * 10_000)
            await asyncio.sleep(0)

    async with Kernel(tmp_path, [reply("not this")]) as kernel:
        monkeypatch.setattr(kernel.provider, "stream", endless)
        await kernel.create()
        run = await kernel.until_status(await kernel.submit(), "failed")
        assert run.error_code == "invalid_reply"


async def test_a_result_that_no_record_can_hold_is_an_error_for_the_model(tmp_path: Path) -> None:
    async def large(call: ToolCall) -> ToolOutput:
        return ToolOutput(data=b"ok", metadata={"large": "x" * RECORD_BYTES_MAX})

    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"})), reply("done")]) as kernel:
        kernel.tools["bash"].answer = large
        await kernel.create(mode="bypass")
        await kernel.until_status(await kernel.submit(), "completed")
        assert len(kernel.tools["bash"].runs) == 1
        assert "cannot record this" in kernel.provider.requests[1].messages[-1].text


async def test_of_a_long_result_no_more_is_decoded_than_is_shown(tmp_path: Path) -> None:
    """Sixteen megabytes that are no text would keep the event loop, and all sessions, for half a second."""

    class Whole(bytes):
        def decode(self, *arguments: Any) -> str:
            raise AssertionError("all of it is decoded")

    async def long(call: ToolCall) -> ToolOutput:
        return ToolOutput(data=Whole(b"\xff" * (TOOL_RESULT_INLINE_BYTES_MAX + 1)))

    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "x"})), reply("done")]) as kernel:
        kernel.tools["read_file"].answer = long
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        assert "bytes left out" in kernel.provider.requests[1].messages[-1].text


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


async def test_a_process_that_could_not_be_ended_is_ended_later_and_the_session_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def held(call: ToolCall) -> ToolOutput:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(reconciler, "_END_AGAIN_S", 0.0)
    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"})), reply("done")]) as kernel:
        kernel.end_faults = [OSError(errno.EMFILE, "Too many open files")]
        kernel.tools["bash"].answer = held
        await kernel.create(mode="bypass")
        run_id = await kernel.submit()
        await kernel.until(lambda s: bool(s.processes))
        await kernel.send(c.CancelRun(run_id=run_id))
        await kernel.until_status(await kernel.submit(), "completed")
        assert len(kernel.ended) == 1


async def test_an_approval_does_not_break_off_a_call_that_is_at_work_to_run_it_again(tmp_path: Path) -> None:
    released = asyncio.Event()

    async def held(call: ToolCall) -> ToolOutput:
        await released.wait()
        return ToolOutput(data=b"ok")

    asked = ("bash", {"command": "ask"})
    allowed = [("bash", {"command": f"sleep {number}"}) for number in range(TOOL_CALLS_PARALLEL_MAX)]
    async with Kernel(tmp_path, [reply("", asked, *allowed), reply("done")]) as kernel:
        kernel.tools["bash"].answer = held
        await kernel.create()
        await kernel.send(c.AddRule(rule=Rule(pattern="bash(sleep *)", behavior="allow")))
        run_id = await kernel.submit()
        state = await kernel.until(lambda s: len(s.processes) == TOOL_CALLS_PARALLEL_MAX)
        (request_id,) = state.approvals
        allow = c.ApprovalResolution(request_id=request_id, resolution="allow")
        await kernel.send(c.ResolveApprovals(resolutions=(allow,)))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(kernel.tools["bash"].runs) == TOOL_CALLS_PARALLEL_MAX, "the one that was asked for waits"
        released.set()
        await kernel.until_status(run_id, "completed")
        ran = Counter(call.arguments["command"] for call in kernel.tools["bash"].runs)
        assert ran == Counter(arguments["command"] for _, arguments in [asked, *allowed])


async def test_a_call_that_is_cancelled_before_it_has_begun_keeps_its_session_no_longer(tmp_path: Path) -> None:
    """Both records are told in one turn of the loop, which another session's makes long."""
    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"}))]) as kernel:
        supervisor = kernel.supervisor
        await kernel.create("other")
        await kernel.create()
        run_id = await kernel.submit()
        (request_id,) = (await kernel.until(lambda s: bool(s.approvals))).approvals
        actor, other = supervisor._residents.get("s"), supervisor._residents.get("other")
        assert actor is not None and other is not None
        tell, allowed_seq = supervisor._kernel.on_change, actor.seq + 1

        def until_durable(actor: Actor, seq: int) -> None:
            while actor.journal.durable_seq < seq:
                time.sleep(0.001)

        def tell_slowly(told: Actor, before: State) -> None:
            tell(told, before)
            if told is other:
                until_durable(actor, allowed_seq + 1)

        supervisor._kernel.on_change = tell_slowly
        allow = c.ApprovalResolution(request_id=request_id, resolution="allow")
        commands: list[tuple[Actor, c.Command]] = [
            (actor, c.ResolveApprovals(resolutions=(allow,))),
            (actor, c.CancelRun(run_id=run_id)),
            (other, c.RenameSession(title="x")),
        ]
        answers = [
            told.submit(command, partial(supervisor._context, told.session_id, OPERATOR)) for told, command in commands
        ]
        until_durable(actor, allowed_seq)
        until_durable(other, 2)
        await asyncio.gather(*answers)
        await asyncio.sleep(0.01)
        assert kernel.tools["bash"].runs == []
        assert supervisor._reconciler.is_idle("s")
        assert not supervisor._reconciler._ending
