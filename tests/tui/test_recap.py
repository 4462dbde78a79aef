"""What a person is told who was away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kheish.tui.app import KheishApp
from kheish.tui.recap import AWAY_MS, recap
from kheish.tui.screens.session import Session
from tests.daemon_process import DaemonProcess, text
from tests.tui.harness import open_app, shown, until, write

ME = "user:0"


def record(at_ms: int, by: str, *types: str) -> Any:
    return {"at_ms": at_ms, "by": {"principal": by}, "events": [{"type": type_} for type_ in types]}


MINE = record(1_000, ME, "run.submitted", "run.completed")
SINCE = [
    record(2_000, "daemon", "model_call.completed", "run.completed"),
    record(3_000, "user:7", "approval.resolved"),
    record(4_000, "daemon", "session.recovered"),
    record(5_000, "daemon", "run.completed"),
    record(6_000, "daemon", "run.failed"),
]


def test_who_was_away_is_told_what_happened_since_they_did_something() -> None:
    assert recap([*SINCE, MINE, *SINCE], ME, 1_000 + 2 * AWAY_MS) == (
        "while you were away (1h): 2 runs completed, 1 run failed, 1 request settled by user:7, 1 restart of the daemon"
    )


@pytest.mark.parametrize(
    ("records", "now_ms"),
    [
        ([MINE, *SINCE], 1_000 + AWAY_MS - 1),
        ([MINE, record(2_000, "daemon", "model_call.started")], 10 * AWAY_MS),
        ([*SINCE, MINE], 10 * AWAY_MS),
        (SINCE, 10 * AWAY_MS),
        ([], 10 * AWAY_MS),
    ],
    ids=["not away", "nothing to tell", "theirs is the newest", "not seen here", "empty"],
)
def test_nothing_is_told_where_there_is_nothing_to_tell(records: Any, now_ms: int) -> None:
    assert recap(records, ME, now_ms) == ""


@pytest.mark.slow
async def test_it_stands_above_the_composer_until_the_person_goes_on(
    shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shared_daemon.script(text("done"), name="away.json", after_last="repeat")
    shared_daemon.session("away")
    shared_daemon.finish(shared_daemon.submit("away", "go", model=model))
    newest = shared_daemon.records("away")[-1]["at_ms"]
    monkeypatch.setattr(KheishApp, "now_ms", newest + 3 * AWAY_MS)
    async with open_app(shared_daemon, session_id="away") as (app, pilot):
        await until(pilot, lambda: "while you were away (1h): 1 run completed" in shown(app))
        screen = app.screen
        assert isinstance(screen, Session)
        await write(pilot, "and on")
        await pilot.press("enter")
        await until(pilot, lambda: "while you were away" not in shown(app))
    await asyncio.to_thread(shared_daemon.client.sessions.end, "away")
