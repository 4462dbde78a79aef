"""A daemon that is slow, dies or is stopped while a person works: the screen says so, and what was handed in counts
once."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from kheish.tui.app import KheishApp
from kheish.tui.screens.approval import Approval
from kheish.tui.screens.session import Session
from kheish.tui.screens.status import Status
from kheish.tui.widgets.banner import Banner
from kheish.tui.widgets.composer import Composer
from tests.daemon_process import DaemonProcess, bash, text
from tests.tui.harness import Keys, open_app, shown, until, write

pytestmark = pytest.mark.slow


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    made = DaemonProcess(tmp_path_factory.mktemp("outage"))
    try:
        made.start()
        made.script(text("Done."), name="script.json", after_last="repeat")
        yield made
    finally:
        made.close()


async def in_session(app: KheishApp, pilot: Keys) -> Session:
    await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
    assert isinstance(app.screen, Session)
    return app.screen


async def test_an_input_that_a_dying_daemon_did_not_answer_arrives_once(daemon: DaemonProcess) -> None:
    session = daemon.session("once")
    async with open_app(daemon, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        os.kill(daemon.pid, signal.SIGSTOP)
        await write(pilot, "hello")
        await pilot.press("enter")
        await until(pilot, lambda: "no answer yet  hello" in shown(app), "that the daemon has not taken it is said")
        await write(pilot, "more")
        assert app.screen.query_one(Composer).text == "more", "and one goes on"
        await asyncio.to_thread(daemon.kill)
        await until(pilot, lambda: "trying again" in shown(app) and "not connected" in shown(app))
        await asyncio.to_thread(daemon.start)
        await until(pilot, lambda: "Done." in shown(app) and "no answer yet" not in shown(app))
    assert daemon.client.sessions.get(session)["runs_total"] == 1


async def test_a_decision_made_while_no_daemon_runs_is_handed_in_when_one_does(daemon: DaemonProcess) -> None:
    daemon.script(bash("echo out"), text("It is out."), name="script.json")
    session = daemon.session("decided")
    daemon.submit(session)
    daemon.until(session, "approval.requested")
    async with open_app(daemon, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await until(pilot, lambda: "Ctrl+Y" in shown(app))
        await pilot.press("ctrl+y")
        await until(pilot, lambda: isinstance(app.screen, Approval) and app.screen.view and not app.screen.is_deaf)
        await asyncio.to_thread(daemon.kill)
        await pilot.press("a")
        await until(pilot, lambda: isinstance(app.screen, Approval) and app.screen.is_sending)
        await pilot.press("escape")
        await until(pilot, lambda: "the answer is on its way" in shown(app))
        await asyncio.to_thread(daemon.start)
        await until(pilot, lambda: isinstance(app.screen, Session) and "It is out." in shown(app))


async def test_a_stopped_daemon_is_named_and_what_was_written_comes_back(daemon: DaemonProcess) -> None:
    session = daemon.session("stopped")
    async with open_app(daemon, session_id=session) as (app, pilot):
        await in_session(app, pilot)
        await asyncio.to_thread(daemon.stop)
        await until(pilot, lambda: "the daemon was stopped · Ctrl+R starts it" in shown(app))
        await until(pilot, lambda: shown(app).endswith("not connected"))
        await write(pilot, "hello")
        await pilot.press("enter")
        await until(pilot, lambda: any("cannot reach the daemon" in told.message for told in app._notifications))
        assert app.screen.query_one(Composer).text == "hello"
        await pilot.press("f3")
        await until(pilot, lambda: isinstance(app.screen, Status))
        assert app.screen.query_one(Banner).display, "a screen that is opened meanwhile says it too"
        await asyncio.to_thread(daemon.start)
        await until(pilot, lambda: "Ctrl+R" not in shown(app))


async def test_a_session_that_is_there_no_more_leaves_the_list(daemon: DaemonProcess) -> None:
    for name in ("kept", "gone"):
        daemon.session(name)
    async with open_app(daemon) as (app, pilot):
        await until(pilot, lambda: "gone" in shown(app) and "2 sessions" in shown(app))
        await asyncio.to_thread(daemon.stop)
        shutil.rmtree(daemon.state / "sessions" / "gone")
        await asyncio.to_thread(daemon.start)
        await until(pilot, lambda: "1 session" in shown(app) and "gone" not in shown(app) and "kept" in shown(app))
        await asyncio.to_thread(daemon.session, "new")
        await until(pilot, lambda: "2 sessions" in shown(app))
        await app.count_attached()
        assert set(app.board.rows) == {"kept", "new"}
