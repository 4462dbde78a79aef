"""The screen of a run: attempts, usage, tool calls with who let them run; and its cancelling."""

from __future__ import annotations

import pytest

from kheish.tui.screens.run import Run, counts
from kheish.tui.story import STEPS_KEPT, Story
from tests.daemon_process import DaemonProcess, bash, text
from tests.tui.harness import check_picture, open_app, shown, until

pytestmark = pytest.mark.slow

SAME = (
    (r"run_[0-9A-Z]{26}", "run_01KAXS3M5TE4GYTMEBFAH21ZQ8"), (r"\d{4}-\d\d-\d\d", "2026-11-25"),
    (r"\d\d:\d\d:\d\d", "12:00:00"), (r"\d\.\ds", "0.1s"),
)  # fmt: skip
"""What differs each time, of the same width."""


async def test_a_run_shows_its_attempts_its_usage_and_who_let_its_calls_run(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("audit")
    model = shared_daemon.script(
        {
            **bash("rm -r build"),
            "usage": {"input_tokens": 1200, "output_tokens": 80},
            "error": {"code": "overloaded", "message": "try again", "retry_after_ms": 1},
        },
        {**bash("ls"), "usage": {"input_tokens": 1300, "output_tokens": 20}},
        text("It is clean.", usage={"input_tokens": 1400, "output_tokens": 30, "cache_read_tokens": 1000}),
        name="audit.json",
    )
    run_id = shared_daemon.submit(session, "clean up", model=model)
    request = shared_daemon.until(session, "approval.requested")
    shared_daemon.client.approvals.allow(request["request_id"], remember="session", rule="bash(*)")
    shared_daemon.finish(run_id)
    async with open_app(shared_daemon, screen=Run(run_id), size=(100, 30)) as (app, pilot):
        await until(pilot, lambda: "It is clean." in shown(app))
        check_picture(app, "run", *SAME)


async def test_a_run_that_goes_on_is_followed_and_cancelled_by_pressing_twice(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("stop")
    model = shared_daemon.script(bash("true"), text("done"), name="stop.json")
    run_id = shared_daemon.submit(session, "go", model=model)
    shared_daemon.until(session, "approval.requested")
    async with open_app(shared_daemon, screen=Run(run_id)) as (app, pilot):
        await until(pilot, lambda: "waits for an approval" in shown(app))
        await pilot.press("x")
        await until(pilot, lambda: "once more cancels" in shown(app))
        assert shared_daemon.client.runs.get(run_id)["status"] == "waiting_for_approval"
        await pilot.press("x")
        await until(pilot, lambda: "bash: true  withdrawn" in shown(app))
        await until(pilot, lambda: "Cancel" not in shown(app).splitlines()[-1])
    last = shared_daemon.records(session)[-1]
    assert last["events"][-1]["reason"] == "cancelled in the TUI" and last["by"]["origin"] == "tui"


async def test_the_id_is_copied_and_the_session_is_one_key_away(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("near")
    run_id = shared_daemon.submit(session, model=shared_daemon.script(text("done"), name="near.json"))
    shared_daemon.finish(run_id)
    async with open_app(shared_daemon, screen=Run(run_id)) as (app, pilot):
        await until(pilot, lambda: "done" in shown(app))
        await pilot.press("y")
        assert app.clipboard == run_id
        await pilot.press("t")
        await until(pilot, lambda: "Timeline" in shown(app))
        await pilot.press("escape")
        await until(pilot, lambda: shown(app).lstrip().startswith("Run"))


def event(type: str, **fields: object) -> dict[str, object]:
    return {"type": type, "run_id": "r", **fields}


def story(*events: dict[str, object]) -> Story:
    found = Story("r")
    for seq, each in enumerate(events, 1):
        found.apply({"seq": seq, "at_ms": seq * 1000, "events": [each]})  # type: ignore[typeddict-item,list-item]
    return found


def test_a_story_keeps_the_newest_steps_and_counts_the_others() -> None:
    started = [event("model_call.started", step=n, attempt=1, at_ms=n) for n in range(1, STEPS_KEPT + 11)]
    found = story(*started)
    assert found.steps_dropped == 10 and [found.steps[0].number, found.steps[-1].number] == [11, STEPS_KEPT + 10]


def test_a_record_that_comes_twice_and_one_of_another_run_change_nothing() -> None:
    found = story(event("model_call.started", step=1, attempt=1, at_ms=1))
    found.apply({"seq": 1, "at_ms": 1, "events": [event("model_call.started", step=2, attempt=1, at_ms=1)]})  # type: ignore[typeddict-item,list-item]
    other = {**event("model_call.started", step=2, attempt=1, at_ms=1), "run_id": "other"}
    found.apply({"seq": 2, "at_ms": 1, "events": [other]})  # type: ignore[typeddict-item,list-item]
    assert [step.number for step in found.steps] == [1] and len(found.steps[0].attempts) == 1


def test_neither_a_budget_nor_a_summary_counts_as_a_call_or_an_attempt_made_again() -> None:
    found = story(
        event("model_call.started", step=1, attempt=1, at_ms=1, purpose="summary"),
        event("model_call.started", step=1, attempt=1, at_ms=2),
        event(
            "model_call.completed",
            at_ms=3,
            text="",
            tool_requests=[{"tool_call_id": "c", "tool": "a", "arguments": {}}],
        ),
        event(
            "approval.requested",
            kind="budget",
            tool_call_id="",
            tool="budget",
            arguments={},
            request_id="b",
            requested_at_ms=4,
        ),
        event("approval.resolved", request_id="b", resolution="stop", principal="user:7"),
    )
    assert counts(found) == "1, 1 tool call"
    assert [call.outcome for call in found.steps[0].calls] == ["", "not raised"]


def test_a_call_of_a_daemon_that_died_says_so_and_who_settled_it() -> None:
    call = {"tool_call_id": "c"}
    found = story(
        event("model_call.started", step=1, attempt=1, at_ms=1),
        event("model_call.died"),
        event("model_call.started", step=1, attempt=2, at_ms=2),
        event("model_call.completed", at_ms=3, text="", tool_requests=[{**call, "tool": "bash", "arguments": {}}]),
        event("tool_call.started", **call, attempt=1, at_ms=4),
        event("tool_call.became_uncertain", **call),
    )
    [step] = found.steps
    assert [attempt.outcome for attempt in step.attempts] == ["cut off", "completed"]
    assert step.calls[0].outcome == "nobody knows whether it took effect"
    found.apply(
        {
            "seq": 7,
            "at_ms": 9,
            "events": [
                event("approval.requested", **call, tool="bash", arguments={}, request_id="a", requested_at_ms=9000)
            ],
        }
    )  # type: ignore[typeddict-item,list-item]
    found.apply(
        {
            "seq": 8,
            "at_ms": 12_000,
            "events": [event("approval.resolved", request_id="a", resolution="mark_done", principal="user:7")],
        }
    )  # type: ignore[typeddict-item,list-item]
    assert step.calls[0].decisions == ["mark done by user:7 after 3.0s"]
