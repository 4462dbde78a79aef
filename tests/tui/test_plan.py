"""The plan of a run: in its session, on Home, and told to whoever follows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kheish.tui.live import Board
from kheish.tui.screens.session import Session
from kheish.tui.widgets.plan import Plan
from tests.daemon_process import DaemonProcess, calls, text, tool
from tests.tui.harness import check_picture, open_app, shown, until
from tests.tui.test_session import in_session

STEPS = ("read the failing test", "find where it rounds", "round once", "write a test for halves", "run the suite")
WIDE, NARROW = (200, 60), (80, 24)


def todos(done: int, *steps: str) -> dict[str, Any]:
    """The list of which so many are done, and the next is under way."""
    states = ["completed"] * done + ["in_progress"] + ["pending"] * len(steps)
    return {"todos": [{"content": step, "status": state} for step, state in zip(steps, states, strict=False)]}


# -- folded ----------------------------------------------------------------------------------------------------------


def told(board: Board, seq: int, *events: dict[str, Any]) -> str:
    record: Any = {"session_id": "s", "seq": seq, "at_ms": seq, "generation": 1, "by": {}, "events": list(events)}
    board.apply(record)
    return ", ".join(f"{item['status']} {item['content']}" for item in board.rows["s"].plan)


def asked(tool_call_id: str, arguments: Any) -> dict[str, Any]:
    request = {"tool_call_id": tool_call_id, "provider_id": "p", "tool": "todo_write", "arguments": arguments}
    return {"type": "model_call.completed", "run_id": "r", "text": "", "tool_requests": [request]}


def done(tool_call_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool_call.completed", "run_id": "r", "tool_call_id": tool_call_id, "output": "", **more}


def test_the_board_takes_a_plan_when_its_call_is_done_and_drops_it_with_the_next_run() -> None:
    board = Board()
    assert told(board, 1, asked("t1", todos(0, "a", "b"))) == ""
    assert told(board, 2, done("t1")) == "in_progress a, pending b"
    assert told(board, 3, asked("t2", todos(1, "a", "b")), done("t2", is_error=True)) == "in_progress a, pending b"
    assert told(board, 4, asked("t3", todos(1, "a", "b")), done("t3")) == "completed a, in_progress b"
    assert told(board, 5, {"type": "run.completed", "run_id": "r"}) == "completed a, in_progress b"
    assert told(board, 6, {"type": "run.started", "run_id": "r2", "at_ms": 6}) == ""


@pytest.mark.parametrize(
    "arguments", [{}, {"todos": 1}, {"todos": ["x", None]}, {"todos": [{"content": "x", "status": ["pending"]}]}]
)
def test_what_is_no_list_of_a_plan_is_passed_over(arguments: Any) -> None:
    assert told(Board(), 1, asked("t1", arguments), done("t1")) == ""


# -- shown -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("plan"))
    try:
        made.start()
        plan = calls(tool("todo_write", **todos(2, *STEPS)), tool("read_file", path="cart.py"))
        made.script(plan, text("", hang=9), name="plan.json")
        (made.work / "cart.py").write_text("def total(items):\n    return round(sum(items), 2)\n")
        made.submit(made.session("cart"), "why does the total test fail?", model="test/plan.json")
        made.until("cart", "tool_call.completed")
        yield made
    finally:
        made.close()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "name"), [(NARROW, "plan-80x24"), (WIDE, "plan-200x60")])
async def test_it_looks_as_it_should(api: DaemonProcess, size: tuple[int, int], name: str) -> None:
    async with open_app(api, session_id="cart", size=size) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: "round once" in shown(app) and "Plan 2/5" in shown(app))
        screen._talk.cwd = "/home/ada/shop"
        screen._draw_facts()
        await pilot.pause()
        check_picture(app, name, (r"todo_write (\S+) [^<]*", r"todo_write \1"))


@pytest.mark.slow
async def test_a_key_that_the_footer_names_hides_it_and_brings_it_back(api: DaemonProcess) -> None:
    async with open_app(api, session_id="cart", size=WIDE) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: "Plan 2/5" in shown(app))
        assert re.search(r"\^l Plan", shown(app).splitlines()[-1])
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "Plan 2/5" not in shown(app))
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "Plan 2/5" in shown(app))
        assert screen.query_one(Plan).region.height > 30, "beside the transcript, where there is room"


@pytest.mark.slow
async def test_a_session_without_a_plan_has_no_pane_and_no_key_for_it(api: DaemonProcess) -> None:
    async with open_app(api, session_id=api.session("bare"), size=WIDE) as (app, pilot):
        screen = await in_session(app, pilot)
        await pilot.pause()
        assert not screen.query_one(Plan).display and "Plan" not in shown(app).splitlines()[-1]


@pytest.mark.slow
async def test_in_a_low_place_a_long_plan_shows_what_is_worked_at(api: DaemonProcess) -> None:
    async with open_app(api, session_id="cart", size=NARROW) as (app, pilot):
        screen = await in_session(app, pilot)
        await until(pilot, lambda: "Plan 2/5" in shown(app))
        items = todos(30, *(f"item number {i}" for i in range(50)))["todos"]
        app.board.rows["cart"].plan = items
        screen.board_changed(None)
        await until(pilot, lambda: "Plan 30/50" in shown(app))
        assert "item number 30" in shown(app) and "item number 31" in shown(app)
        assert "item number 0" not in shown(app) and screen.query_one(Plan).region.height <= 6


@pytest.mark.slow
async def test_home_says_where_the_plan_is(api: DaemonProcess) -> None:
    async with open_app(api, size=WIDE) as (app, pilot):
        await until(pilot, lambda: "2/5 done, now: round once" in shown(app))
        assert not isinstance(app.screen, Session)


@pytest.mark.slow
def test_runs_get_and_logs_tell_it(api: DaemonProcess) -> None:
    (run,) = api.client.runs.list(session_id="cart")
    said = api.cli("runs", "get", run["run_id"]).stdout
    assert "2/5 done, now: round once" in said and "[x] read the failing test" in said and "[>] round once" in said
    assert [item["status"] for item in run["plan"]].count("completed") == 2
    assert "plan 2/5 done, now: round once" in api.cli("logs", "cart").stdout
