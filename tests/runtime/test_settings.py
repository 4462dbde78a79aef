"""What is set while the daemon runs: revisions that are durable and whole, and runs that keep what they have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kheish.core.commands import SetModel, SubmitRun
from kheish.core.contracts import ModelRequest, Reply
from kheish.core.events import Budget, ToolLimits
from kheish.errors import Conflict, Corrupt, Forbidden, NotFound, StoreError
from kheish.limits import RUNTIME_REVISIONS_KEPT
from kheish.runtime.ledger import Limits
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.runtime.settings import RuntimeConfig
from kheish.runtime.supervisor import Caller
from kheish.wire.runtime import RouteFields, RuntimeSettings
from tests.faults.disk_model import Recorder, crash_states
from tests.runtime.kernel import Kernel, reply
from tests.store.disk import FailingDisk, disk  # noqa: F401 - a fixture


class Clock:
    def __init__(self) -> None:
        self.at_ms = 1_000

    def now_ms(self) -> int:
        self.at_ms += 1
        return self.at_ms


def open_in(folder: Path) -> RuntimeConfig:
    """What a daemon that starts there has."""
    return RuntimeConfig(folder / "runtime.json", Clock())


async def change(config: RuntimeConfig, expected: int | None = None, by: str = "user:1", **fields: Any) -> int:
    async def edit(settings: RuntimeSettings) -> RuntimeSettings:
        return replace(settings, **fields)

    made = await config.change(edit, by=by, origin="test", change=str(sorted(fields)), expected_revision=expected)
    return made.revision


# -- revisions ------------------------------------------------------------------------------------------------------


async def test_a_change_is_a_revision_with_its_author_and_outlives_the_daemon(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    assert (config.current.revision, config.settings) == (0, RuntimeSettings())
    assert await change(config, model="claude") == 1
    routes = {"gpt": RouteFields(driver="openai")}
    assert await change(config, by="user:2", routes=routes, tool_limits={"bash": ToolLimits(timeout_ms=5)}) == 2
    again = open_in(tmp_path)
    assert again.revisions == config.revisions
    assert [(kept.revision, kept.by, kept.origin, kept.at_ms) for kept in again.revisions] == [
        (0, "", "", 0), (1, "user:1", "test", 1_001), (2, "user:2", "test", 1_002),
    ]  # fmt: skip
    assert again.settings == RuntimeSettings(
        model="claude", routes=routes, tool_limits={"bash": ToolLimits(timeout_ms=5)}
    )
    assert again.find(1).settings == RuntimeSettings(model="claude")
    with pytest.raises(NotFound, match="cannot find revision 7: there are 0 to 2") as caught:
        again.find(7)
    assert caught.value.code == "revision_not_found"


async def test_what_changes_nothing_makes_no_revision(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    assert await change(config, model="") == 0
    assert not (tmp_path / "runtime.json").exists()


async def test_a_change_of_another_revision_than_the_one_seen_is_refused(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    assert await change(config, expected=0, model="a") == 1
    with pytest.raises(Conflict, match="they have revision 1, not 0") as caught:
        await change(config, expected=0, model="b")
    assert (caught.value.code, caught.value.details["revision"]) == ("runtime_revision_conflict", 1)
    assert config.settings.model == "a"


async def test_of_many_who_saw_the_same_revision_one_changes_it_and_of_others_none_is_lost(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    given = await asyncio.gather(
        *(change(config, expected=0, model=f"m{n}") for n in range(20)), return_exceptions=True
    )
    assert sorted(map(type, given), key=str) == sorted([int, *[Conflict] * 19], key=str)

    async def add(number: int) -> None:
        async def edit(settings: RuntimeSettings) -> RuntimeSettings:
            await asyncio.sleep(0)
            return replace(settings, tool_limits={**settings.tool_limits, f"t{number}": ToolLimits(timeout_ms=1)})

        await config.change(edit, by="user:1", origin="test", change="add")

    await asyncio.gather(*(add(number) for number in range(20)))
    assert len(config.settings.tool_limits) == 20 and config.current.revision == 21
    assert open_in(tmp_path).settings == config.settings


async def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    for number in range(RUNTIME_REVISIONS_KEPT + 5):
        await change(config, model=f"m{number}")
    kept = open_in(tmp_path).revisions
    assert [kept[0].revision, kept[-1].revision, len(kept)] == [6, 105, RUNTIME_REVISIONS_KEPT]


async def test_who_wants_to_know_is_told_once_it_is_durable(tmp_path: Path) -> None:
    config = open_in(tmp_path)
    told: list[tuple[str, str]] = []
    config.on_change.append(lambda s: told.append((s.debug_level, open_in(tmp_path).settings.debug_level)))
    await change(config, debug_level="full")
    await change(config, debug_level="full")
    assert told == [("full", "full")]


async def test_a_full_disk_refuses_and_leaves_what_was(tmp_path: Path, disk: FailingDisk) -> None:  # noqa: F811
    config = open_in(tmp_path)
    await change(config, model="a")
    disk.fail_writes_after = 3
    with pytest.raises(StoreError) as caught:
        await change(config, model="b")
    assert caught.value.code == "disk_failed"
    assert config.settings.model == open_in(tmp_path).settings.model == "a"


async def test_after_a_crash_anywhere_the_settings_are_those_of_before_or_after(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    with Recorder(scene) as recorder:
        config = open_in(scene)
        for step in (1, 2, 3):
            await change(config, model=f"m{step}")
            recorder.mark("acknowledged", step)
    seen = set()
    for number, state in enumerate(crash_states(recorder.recording(), 300, seed=1)):
        place = tmp_path / str(number)
        place.mkdir()
        state.build(place)
        found = open_in(place).current.revision
        acknowledged = state.marks.get("acknowledged", 0)
        assert acknowledged <= found <= acknowledged + 1, state.at
        seen.add(found)
    assert seen == {0, 1, 2, 3}


async def test_what_cannot_be_read_is_not_replaced_by_nothing(tmp_path: Path) -> None:
    await change(open_in(tmp_path), model="a")
    path = tmp_path / "runtime.json"
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"b"'))
    with pytest.raises(Corrupt, match="checksum does not hold"):
        open_in(tmp_path)


# -- what runs take along -------------------------------------------------------------------------------------------


async def test_a_run_keeps_the_system_text_that_it_was_submitted_with_also_queued_and_after_a_restart(
    tmp_path: Path,
) -> None:
    async def never(request: ModelRequest) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with Kernel(tmp_path, [never]) as kernel:
        await change(kernel.supervisor.runtime, system_prompt="Old words.")
        await kernel.create()
        await kernel.submit("first")
        await kernel.submit("second")
        await change(kernel.supervisor.runtime, system_prompt="New words.")
        await kernel.submit("third")
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        state = await kernel.until(lambda s: len(s.runs) == 3 and not (s.queue or s.active))
        assert kernel.supervisor.runtime.settings.system_prompt == "New words."
        texts = ["Old words." in request.system for request in kernel.provider.requests]
        assert texts == [True, True, False] and "New words." in kernel.provider.requests[2].system
        assert [run.system_prompt for run in state.runs.values()] == ["", "", ""], "what is over needs it no more"


async def test_a_run_keeps_the_limits_that_it_started_with_also_after_a_restart(tmp_path: Path) -> None:
    calls = [("read_file", {"path": "a"})]
    replies = [reply("", *calls), reply("", *calls), reply("done"), reply("", *calls), reply("done")]
    async with Kernel(tmp_path, replies) as kernel:
        await change(kernel.supervisor.runtime, tool_limits={"read_file": ToolLimits(timeout_ms=77)})
        began = asyncio.Event()

        async def hang(call: ToolCall) -> ToolOutput:
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

        kernel.tools["read_file"].answer = hang
        await kernel.create()
        await kernel.submit("first")
        await kernel.submit("second")
        await began.wait()
        await change(kernel.supervisor.runtime, tool_limits={})
    async with Kernel(tmp_path, replies, generation=2) as kernel:
        await kernel.until(lambda s: not (s.queue or s.active))
        timeouts = [call.timeout_ms for call in kernel.tools["read_file"].runs]
        assert timeouts == [77, 77, 1000], "the run that started later has the tool's own"


@pytest.mark.parametrize(
    ("limit_ms", "asked", "given"),
    [(0, None, 1000), (0, 5, 5), (0, 5_000, 5_000), (50, None, 50), (50, 5, 5), (50, 5_000, 50), (9_000, None, 9_000)],
)
async def test_a_limit_is_the_time_of_a_call_and_the_most_that_one_may_ask_for(
    tmp_path: Path, limit_ms: int, asked: int | None, given: int
) -> None:
    arguments = {"path": "a"} | ({"timeout_ms": asked} if asked else {})
    async with Kernel(tmp_path, [reply("", ("read_file", arguments)), reply("done")]) as kernel:
        await change(kernel.supervisor.runtime, tool_limits={"read_file": ToolLimits(timeout_ms=limit_ms)})
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        assert [call.timeout_ms for call in kernel.tools["read_file"].runs] == [given]


class Still:
    """A clock on which no time passes."""

    def now_ms(self) -> int:
        return 1_700_000_000_000


@pytest.mark.parametrize(
    ("run_ms", "day_ms", "limit_ms", "asked", "given"),
    [
        (60_000, None, 0, 3_600_000, 60_000),
        (None, 30_000, 0, 3_600_000, 30_000),
        (60_000, 30_000, 0, 3_600_000, 30_000),
        (60_000, None, 0, 5_000, 5_000),
        (60_000, None, 0, None, 1_000),
        (500, None, 0, 3_600_000, 1_000),
        (60_000, None, 900_000, None, 60_000),
        (None, None, 0, 3_600_000, 3_600_000),
    ],
)
async def test_a_call_has_more_than_the_time_of_its_tool_only_where_budgets_leave_it(
    tmp_path: Path, run_ms: int | None, day_ms: int | None, limit_ms: int, asked: int | None, given: int
) -> None:
    replies = [reply("", ("read_file", {"path": "a"} | ({"timeout_ms": asked} if asked else {}))), reply("done")]
    budgets = Limits(day=Budget(wall_ms=day_ms))
    async with Kernel(tmp_path, replies, clock=Still(), budgets=budgets) as kernel:
        await change(kernel.supervisor.runtime, tool_limits={"read_file": ToolLimits(timeout_ms=limit_ms)})
        await kernel.create()
        command = SubmitRun(text="go", route="test", model="m", budget=Budget(wall_ms=run_ms))
        await kernel.until_status(await kernel.send(command), "completed")
        assert [call.timeout_ms for call in kernel.tools["read_file"].runs] == [given]


@pytest.mark.parametrize(("limit", "size", "is_whole"), [(0, 16_384, True), (0, 16_385, False), (2_048, 2_048, True),
                                                         (2_048, 2_049, False), (65_536, 65_536, True)])  # fmt: skip
async def test_a_limit_is_how_much_of_a_result_the_model_is_shown_whole(
    tmp_path: Path, limit: int, size: int, is_whole: bool
) -> None:
    async with Kernel(tmp_path, [reply("", ("read_file", {"path": "a"})), reply("done")]) as kernel:
        await change(kernel.supervisor.runtime, tool_limits={"read_file": ToolLimits(output_bytes=limit)})

        async def answer(call: ToolCall) -> ToolOutput:
            return ToolOutput(data=b"x" * size)

        kernel.tools["read_file"].answer = answer
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        shown = kernel.provider.requests[-1].messages[-1].text
        assert (shown == "x" * size) is is_whole
        assert len(shown) < size + 200 and (is_whole or "left out; read_file with the path blob:" in shown)


async def test_the_model_of_a_session_is_its_own_outlives_the_daemon_and_is_no_runs_to_choose(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await kernel.create("other")
        await kernel.send(SetModel(model="gpt/gpt-x"))
        run = Caller(principal="run:run_1", origin="test", is_operator=False)
        with pytest.raises(Forbidden):
            await kernel.supervisor.submit("other", SetModel(model="gpt/gpt-x"), run)
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert [(await kernel.state(name)).model for name in ("s", "other")] == ["gpt/gpt-x", ""]
