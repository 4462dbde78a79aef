"""What holds on every screen: leaving, keys that a terminal takes for granted, and a terminal without Unicode."""

from __future__ import annotations

import asyncio

import pytest

from kheish.config import Tui
from kheish.errors import Invalid
from kheish.tui.actions import ACTIONS
from kheish.tui.preferences import is_key, problems_of
from kheish.tui.screens.home import Home
from kheish.tui.screens.session import Session
from kheish.tui.screens.status import Status
from kheish.tui.widgets.composer import Composer
from kheish.tui.widgets.sheet import Sheet
from tests.daemon_process import DaemonProcess
from tests.tui.harness import open_app, shown, until, write

pytestmark = pytest.mark.slow


async def test_ctrl_c_leaves_only_the_second_time(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon) as (app, pilot):
        await pilot.press("ctrl+c")
        assert app.is_running and any("once more" in told.message for told in app._notifications)
        await pilot.press("ctrl+c")
        await until(pilot, lambda: app.return_code == 0)


async def test_ctrl_c_first_clears_what_is_written_and_that_can_be_undone(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("clears")
    async with open_app(shared_daemon, session_id=session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
        composer = app.screen.query_one(Composer)
        await write(pilot, "a thought")
        await pilot.press("ctrl+c")
        assert composer.text == "" and not app._notifications
        await pilot.press("ctrl+underscore")
        assert composer.text == "a thought"
        await pilot.press("ctrl+c", "ctrl+c", "ctrl+c")
        await until(pilot, lambda: app.return_code == 0, "and then leaves")


async def test_f5_goes_home_from_wherever_one_is(shared_daemon: DaemonProcess) -> None:
    session = shared_daemon.session("away")
    async with open_app(shared_daemon, session_id=session) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Session) and not app.screen._is_loading)
        await write(pilot, "half")
        await pilot.press("ctrl+t", "f3", "f5")
        await until(pilot, lambda: isinstance(app.screen, Home))


async def test_without_unicode_nothing_is_drawn_beyond_ascii(shared_daemon: DaemonProcess) -> None:
    shared_daemon.session("plain")
    async with open_app(shared_daemon, settings=Tui(ascii=True, reduced_motion=True)) as (app, pilot):
        await until(pilot, lambda: "plain" in shown(app))
        for keys in (["f1"], ["escape", "f4"], ["escape", "f3"], ["escape", "enter"], ["ctrl+p"]):
            await pilot.press(*keys)
            await pilot.pause()
            assert sorted({c for c in shown(app) if not c.isascii()}) == [], f"after {keys}"


def test_a_key_that_two_actions_have_is_told() -> None:
    assert problems_of(Tui(keys={"session.steer": "f9"}), [Tui().theme]) == []
    (problem,) = problems_of(Tui(keys={"session.steer": "ctrl+q"}), [Tui().theme])
    assert "ctrl+q" in problem and "app.quit" in problem
    for key in ("ctrl+foo", "crtl+y", "pgup", ""):
        (problem,) = problems_of(Tui(keys={"home.new": f"f9, {key}"}), [Tui().theme])
        assert repr(key) in problem and "home.new" in problem
    names = [name for action in ACTIONS for name in action.keys.split(",")]
    assert all(map(is_key, [*names, "?", "alt+f12", "ctrl+shift+x", "plus"]))


class Slow(Status):
    """Its answer comes when its widgets are already gone."""

    async def _check(self) -> None:
        while self.query(Sheet):
            await asyncio.sleep(0)
        self.query_one(Sheet)


async def test_an_answer_for_a_screen_that_was_left_does_no_harm(shared_daemon: DaemonProcess) -> None:
    screen = Slow()
    async with open_app(shared_daemon, screen=screen) as (app, pilot):
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Home) and not screen.is_running)
        assert app.is_running


async def test_what_is_said_again_while_it_is_shown_is_said_once(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon) as (app, pilot):
        for _ in range(3):
            app.say(Invalid("cannot do it"))
        app.say(Invalid("cannot do that either"))
        await pilot.pause()
        assert [shown.message for shown in app._notifications] == ["cannot do it", "cannot do that either"]
