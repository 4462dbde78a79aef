"""A budget that comes near its limit is seen where a person looks: on Home, and above the transcript."""

from __future__ import annotations

import asyncio

import pytest

from tests.daemon_process import DaemonProcess, calls, text, tool
from tests.tui.harness import open_app, shown, until

pytestmark = pytest.mark.slow

LOOK = calls(tool("list_files", path="."))


def model(daemon: DaemonProcess, name: str) -> str:
    """Four steps, and a fifth that does not end."""
    return daemon.script(LOOK, LOOK, LOOK, LOOK, text("", hang=9), name=name)


async def test_a_budget_that_comes_near_its_limit_is_seen_at_once_until_it_has_room_again(
    shared_daemon: DaemonProcess,
) -> None:
    client = shared_daemon.client
    session = shared_daemon.session("near")
    await asyncio.to_thread(client.sessions.set_budget, session, steps=5, tokens=2_000_000)
    async with open_app(shared_daemon, size=(120, 30)) as (app, pilot):
        await until(pilot, lambda: session in app.board.rows)
        run_id = await asyncio.to_thread(shared_daemon.submit, session, "look", model=model(shared_daemon, "near.json"))
        await until(pilot, lambda: "budget 80%  look" in shown(app))
        assert "80% of the budget of session near used" in " ".join(shown(app).split()), "the peek pane says of what"
        await pilot.press("enter")
        await until(pilot, lambda: "near used (0 of 2,000,000 tokens, 4 of 5 steps)" in shown(app).splitlines()[0])
        await asyncio.to_thread(client.sessions.set_budget, session, steps=50)
        await until(pilot, lambda: "budget" not in shown(app).splitlines()[0])
        await asyncio.to_thread(client.runs.cancel, run_id)


async def test_who_comes_later_sees_it_too_and_not_any_more_when_the_run_is_over(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("late")
    limit = {"steps": 5}
    run_id = shared_daemon.submit(session, "look", model=model(shared_daemon, "late.json"), budget=limit)
    await asyncio.to_thread(shared_daemon.until, session, "budget.warned")
    async with open_app(shared_daemon, size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "budget 80%  look" in shown(app))
        await asyncio.to_thread(shared_daemon.client.runs.cancel, run_id)
        await until(pilot, lambda: "budget" not in shown(app))
