"""The inbox over all sessions: what waits, oldest first, live."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kheish.tui.live import Row
from kheish.tui.screens.approval import Approval
from kheish.tui.screens.inbox import Ask, Inbox, asks_of
from kheish.tui.screens.question import Question
from kheish.tui.screens.session import Session
from kheish.tui.widgets.rows import Rows
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.tui.harness import KheishApp, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow


def ask(daemon: DaemonProcess, name: str, *replies: object) -> str:
    """A session that asks something; returns the id of the request."""
    session = daemon.client.sessions.create(name, cwd="/")["session_id"]
    daemon.submit(session, model=daemon.script(*replies, text("done"), name=f"{name}.json"))  # type: ignore[arg-type]
    return str(daemon.until(session, "approval.requested", "question.requested")["request_id"])


async def test_an_empty_inbox_says_that_nothing_waits(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon, screen=Inbox()) as (app, pilot):
        await until(pilot, lambda: "Nothing waits for you" in shown(app))
        check_picture(app, "inbox-empty")


OPTIONS = [{"label": "staging", "description": "safe"}, {"label": "production"}]
WHERE = {"question": "Where to deploy?", "header": "Target", "options": OPTIONS}
SAME = (r"\b\ds\b", "0s")
"""What differs each time."""


def cursor(app: KheishApp) -> str:
    return app.screen.query_one(Rows).cursor


async def test_what_waits_is_listed_oldest_first_with_the_whole_of_the_chosen_one(
    shared_daemon: DaemonProcess,
) -> None:
    first = ask(shared_daemon, "release", bash("git push --tags && rm -rf /tmp/build\u200b"))
    second = ask(shared_daemon, "deploy", calls(tool("ask_user_question", questions=[WHERE])))
    async with open_app(shared_daemon, screen=Inbox()) as (app, pilot):
        await until(pilot, lambda: "2 wait for you in 2 sessions" in shown(app))
        assert cursor(app) == first
        assert "rm -rf /tmp/build\\u200b" in shown(app), "what cannot be seen is written out"
        check_picture(app, "inbox", SAME)
        await pilot.press("j")
        await until(pilot, lambda: cursor(app) == second and "1. staging: safe" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Question))
        app.pop_screen()
        await pilot.press("k", "enter")
        await until(pilot, lambda: isinstance(app.screen, Approval) and app.screen.request_id == first)
        app.pop_screen()
        await pilot.press("s")
        await until(pilot, lambda: isinstance(app.screen, Session) and app.screen.session_id == "release")


async def test_it_changes_the_moment_that_something_is_asked_or_answered(shared_daemon: DaemonProcess) -> None:
    ask(shared_daemon, "steady", bash("make steady"))
    async with open_app(shared_daemon, screen=Inbox()) as (app, pilot):
        await until(pilot, lambda: "make steady" in shown(app))
        new = await asyncio.to_thread(ask, shared_daemon, "newest", bash("make all"))
        await until(pilot, lambda: "make all" in shown(app))
        app.screen.query_one(Rows).move_to(new)
        await asyncio.to_thread(shared_daemon.client.approvals.deny, new)
        await until(pilot, lambda: "make all" not in shown(app))
        assert cursor(app) not in ("", new), "the cursor goes on to what still waits"


def test_requests_are_in_the_order_in_which_they_were_asked() -> None:
    rows = [Row("a"), Row("b")]
    rows[0].asks = {"approval_2": {"requested_at_ms": 20}, "question_1": {"requested_at_ms": 30}}
    rows[1].asks = {"approval_9": {"requested_at_ms": 10}, "approval_0": {}}
    assert [ask.request_id for ask in asks_of(rows)] == ["approval_0", "approval_9", "approval_2", "question_1"]


@pytest.mark.parametrize(
    ("request_id", "view", "kind", "told"),
    [
        (
            "approval_1",
            {"kind": "tool_call", "tool": "bash", "input": {"command": "ls\nrm"}},
            "approval",
            "bash: ls⏎ rm",
        ),
        ("approval_1", {"kind": "uncertain", "tool": "bash", "input": {"command": "ls"}}, "outcome?", "bash: ls"),
        ("question_1", {"questions": [{"question": "A?\x1b[2J"}, {"question": "B?"}]}, "question", "A?  (+1)"),
        ("question_1", {}, "question", "question_1"),
        ("approval_1", {}, "approval", "approval_1"),
    ],
)
def test_a_request_is_told_in_a_line(request_id: str, view: dict[str, Any], kind: str, told: str) -> None:
    found = Ask(request_id, Row("s"), view)
    assert (found.kind, found.text) == (kind, told)
