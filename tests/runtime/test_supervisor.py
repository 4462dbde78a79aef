"""The kernel on a real store: runs go on by themselves, across restarts too."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import orjson
import pytest

from kheish.core import commands as c
from kheish.core.contracts import ModelRequest, Reply
from kheish.daemon.maintenance import verify
from kheish.errors import Conflict, KheishError, NotFound
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.runtime.supervisor import Caller
from tests.runtime.kernel import OPERATOR, Kernel, reply


async def never(_: object) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_run_with_parallel_tools_completes_and_is_on_disk(tmp_path: Path) -> None:
    async with Kernel(
        tmp_path, [reply("look", ("read_file", {"path": "a"}), ("read_file", {"path": "b"})), reply("done")]
    ) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        run = await kernel.until_status(run_id, "completed")
        assert run.output == "done"
        assert len(kernel.tools["read_file"].runs) == 2
    assert [v.faults for v in verify(tmp_path)] == [[]]


async def test_an_approval_waits_without_a_task_and_survives_the_daemon(tmp_path: Path) -> None:
    script = [reply("", ("bash", {"command": "rollback"})), reply("done")]
    async with Kernel(tmp_path, list(script)) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        state = await kernel.until(lambda s: bool(s.approvals))
        (request_id,) = state.approvals
        assert kernel.tools["bash"].runs == []
    async with Kernel(tmp_path, list(script), generation=2) as kernel:
        state = await kernel.state()
        assert list(state.approvals) == [request_id]
        item = c.ApprovalResolution(request_id=request_id, resolution="allow")
        await kernel.send(c.ResolveApprovals(resolutions=(item,)))
        await kernel.until_status(run_id, "completed")
        assert len(kernel.tools["bash"].runs) == 1
    assert [v.faults for v in verify(tmp_path)] == [[]]


async def test_a_model_call_in_flight_is_made_again_by_the_next_daemon(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        await kernel.until_status(run_id, "completed")
        assert [r.attempt for r in kernel.provider.requests] == [2]


async def test_a_started_process_becomes_uncertain_and_its_orphan_is_ended(tmp_path: Path) -> None:
    async def hang(call: ToolCall) -> ToolOutput:
        await asyncio.Event().wait()
        raise AssertionError

    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"}))]) as kernel:
        kernel.tools["bash"].answer = hang
        await kernel.create(mode="bypass")
        run_id = await kernel.submit()
        await kernel.until(lambda s: bool(s.processes))
    async with Kernel(tmp_path, [reply(), reply("checked")], generation=2) as kernel:
        await kernel.until_status(run_id, "completed")
        assert [p.pid for p in kernel.ended] == [2**22 + 1]
        assert kernel.tools["bash"].runs == []
        assert "unknown" in kernel.provider.requests[0].messages[-1].text


async def test_cancel_stops_the_model_call(tmp_path: Path) -> None:
    asked, stopped = asyncio.Event(), asyncio.Event()

    async def wait(_: ModelRequest) -> Reply:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    async with Kernel(tmp_path, [wait]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        async with asyncio.timeout(10):
            await asked.wait()
            await kernel.send(c.CancelRun(run_id=run_id))
            await stopped.wait()
        assert (await kernel.state()).runs[run_id].phase == "cancelled"


async def test_a_large_result_goes_to_a_blob(tmp_path: Path) -> None:
    async def large(call: ToolCall) -> ToolOutput:
        return ToolOutput(data=b"x" * 100_000)

    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        kernel.tools["read_file"].answer = large
        await kernel.create()
        run_id = await kernel.submit()
        await kernel.until_status(run_id, "completed")
        (completed,) = [
            event
            for record in await kernel.supervisor.reader.read_records("s", 0, 100)
            for event in record.events
            if event["type"] == "tool_call.completed"
        ]
        assert completed["output_bytes"] == 100_000
        assert len(completed["output"]) < 20_000
        assert await kernel.supervisor.read_blob(completed["blob"], 99_990, 100) == b"x" * 10
    assert [v.faults for v in verify(tmp_path)] == [[]]


async def test_the_same_key_across_a_restart_makes_one_run(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        first = await kernel.submit(key="k", body_digest="d")
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert await kernel.submit(key="k", body_digest="d") == first
        with pytest.raises(Conflict):
            await kernel.submit("else", key="k", body_digest="e")


async def test_a_caller_that_goes_away_leaves_its_command(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        task = asyncio.create_task(kernel.submit())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        state = await kernel.until(lambda s: any(r.is_terminal for r in s.runs.values()))
        assert len(state.runs) == 1


async def test_subscribers_see_every_record_once_in_order(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        await kernel.create()
        subscription = kernel.supervisor.hub.subscribe(session_id="s")
        run_id = await kernel.submit()
        await kernel.until_status(run_id, "completed")
        frames = [f for f in subscription.take() if f.event == "record"]
        assert [f.seq for f in frames] == list(range(2, 2 + len(frames)))
        journal = await kernel.supervisor.reader.read_records("s", 1, 100)
        assert [orjson.loads(f.data)["events"] for f in frames] == [r.events for r in journal]
        assert frames[-1].ends == {run_id}


async def test_the_global_order_is_the_order_of_publication(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        subscription = kernel.supervisor.hub.subscribe()
        names = [f"s{i}" for i in range(5)]
        await asyncio.gather(*(kernel.create(name) for name in names))
        runs = await asyncio.gather(*(kernel.submit(session_id=name) for name in names))
        for name, run_id in zip(names, runs, strict=True):
            await kernel.until_status(run_id, "completed", name)
        live = [(f.gen, f.pos) for f in subscription.take() if f.event == "record"]
        stored = await kernel.replayed(0, 0)
        assert live == sorted(live) == [(r.gen, r.pos) for _, r in stored]
        half = live[len(live) // 2]
        after = await kernel.replayed(*half)
        assert [(r.gen, r.pos) for _, r in after] == live[len(live) // 2 + 1 :]


async def test_a_damaged_session_is_read_only_and_the_others_go_on(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        for name in ("bad", "good"):
            await kernel.create(name)
            run_id = await kernel.submit(session_id=name)
            await kernel.until_status(run_id, "completed", name)
    (journal,) = (tmp_path / "sessions" / "bad").glob("journal-*.jsonl")
    damaged = bytearray(journal.read_bytes())
    damaged[damaged.index(b"session.created")] ^= 1
    journal.write_bytes(damaged)
    for checkpoint in journal.parent.glob("checkpoint-*"):
        checkpoint.unlink()
    (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        with pytest.raises(KheishError) as refusal:
            await kernel.submit(session_id="bad")
        assert refusal.value.code == "session_corrupt"
        assert str(journal) in str(refusal.value.details["file"])
        assert kernel.supervisor.index.rows["bad"].problem
        run_id = await kernel.submit(session_id="good")
        await kernel.until_status(run_id, "completed", "good")
    assert [bool(v.faults) for v in verify(tmp_path)] == [True, False]


async def test_ids_are_found_by_unambiguous_prefix(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("", ("bash", {"command": "x"})), reply("done")]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
        state = await kernel.until(lambda s: bool(s.approvals))
        (request_id,) = state.approvals
        assert await kernel.supervisor.reader.find_run(run_id[:-3]) == ("s", run_id)
        assert await kernel.supervisor.reader.find_request(request_id[:-1]) == ("s", request_id)
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.find_run("run_zzz")


async def test_unknown_sessions_are_not_made_by_asking(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply()]) as kernel:
        with pytest.raises(NotFound):
            await kernel.supervisor.reader.state("nope")
        with pytest.raises(NotFound):
            await kernel.supervisor.submit("nope", c.EndSession(), OPERATOR)
    assert not (tmp_path / "sessions" / "nope").exists()


async def test_a_session_that_was_taken_in_meanwhile_is_opened_when_it_is_to_be_made(tmp_path: Path) -> None:
    async with Kernel(tmp_path / "other", [reply("done")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        last = await kernel.state()
    async with Kernel(tmp_path / "here", [reply()]) as kernel:
        shutil.copytree(tmp_path / "other" / "sessions" / "s", tmp_path / "here" / "sessions" / "s")
        await kernel.create()
        assert list((await kernel.state()).runs) == list(last.runs)
        assert kernel.supervisor.index.rows["s"].runs_total == 1
        with pytest.raises(Conflict) as caught:
            await kernel.send(c.CreateSession(session_id="s", cwd="/elsewhere"))
        assert caught.value.code == "session_conflict"
    assert [entry.name for entry in (tmp_path / "here" / "sessions").iterdir()] == ["s"]
    assert [v.faults for v in verify(tmp_path / "here")] == [[]]


async def test_a_session_whose_creation_is_refused_is_kept_nowhere(tmp_path: Path) -> None:
    run = Caller(principal="run:run_1", origin="test", is_operator=False)
    async with Kernel(tmp_path, [reply()]) as kernel:
        with pytest.raises(KheishError) as caught:
            await kernel.supervisor.submit("s", c.CreateSession(session_id="s", cwd="/", mode="bypass"), run)
        assert caught.value.code == "operator_required"
        assert kernel.supervisor.loaded_total == 0
        assert "s" not in kernel.supervisor.index.rows
        await kernel.create(mode="bypass")
        assert (await kernel.state()).mode == "bypass"


async def test_of_two_creations_at_once_the_refused_one_does_not_cost_the_other_its_session(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply()]) as kernel:
        run = Caller(principal="run:run_1", origin="test", is_operator=False)
        allowed, refused = await asyncio.gather(
            kernel.create(),
            kernel.supervisor.submit("s", c.CreateSession(session_id="s", cwd="/other"), run),
            return_exceptions=True,
        )
        assert allowed is None and isinstance(refused, Conflict)
        actor = await kernel.supervisor._residents.open("s")
        assert (actor.seq, kernel.supervisor.loaded_total) == (1, 1)
