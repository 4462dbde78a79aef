"""Help: the keys that are valid where one was, and nothing else."""

from __future__ import annotations

import pytest
from textual.widgets import Input

from kheish.tui.actions import ACTIONS
from kheish.tui.look import THEMES, look_of
from kheish.tui.screens.help import TIPS, Help, Key, draw_help
from kheish.tui.screens.inbox import Inbox
from kheish.tui.screens.status import Status
from kheish.tui.widgets.sheet import Sheet
from tests.daemon_process import DaemonProcess, bash, text
from tests.tui.harness import KheishApp, check_picture, open_app, shown, until

pytestmark = pytest.mark.slow


def lines(app: KheishApp) -> str:
    return "\n".join(line.text for line in app.screen.query_one(Sheet).lines)


async def test_it_shows_the_keys_of_the_screen_it_was_opened_from(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon, screen=Status()) as (app, pilot):
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Status" in lines(app))
        assert "Look again" in lines(app) and "Go down" in lines(app) and "Attach to the session" not in lines(app)
        check_picture(app, "help")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, Status))


async def test_a_key_that_is_not_valid_now_is_not_shown(shared_daemon: DaemonProcess) -> None:
    """In an empty inbox there is nothing to decide."""
    async with open_app(shared_daemon, screen=Inbox()) as (app, pilot):
        await until(pilot, lambda: "Nothing waits" in shown(app))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Everywhere" in lines(app))
        assert "Decide or answer" not in lines(app)
        await pilot.press("escape")
        session = shared_daemon.session("asks")
        shared_daemon.submit(session, model=shared_daemon.script(bash("true"), text("done"), name="asks.json"))
        await until(pilot, lambda: "1 waits" in shown(app))
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Decide or answer" in lines(app))


class Idle(Status):
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return None if action == "check" else True


async def test_a_key_that_is_shown_but_does_nothing_now_is_not_told(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon, screen=Idle()) as (app, pilot):
        await pilot.press("f1")
        await until(pilot, lambda: isinstance(app.screen, Help) and "Everywhere" in lines(app))
        assert "Look again" not in lines(app)


async def test_typing_searches_and_a_changed_key_is_the_one_shown(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon, screen=Status()) as (app, pilot):
        app.set_keymap({"status.check": "ctrl+g"})
        await pilot.press("f1", *"again")
        await until(pilot, lambda: "Look again" in lines(app) and "Go down" not in lines(app))
        assert "^g" in lines(app)
        app.screen.query_one(Input).value = "no such key"
        await until(pilot, lambda: "no key or tip holds that" in lines(app))


def test_there_are_few_tips_and_every_action_has_a_sentence() -> None:
    assert len(TIPS) <= 15
    assert [action.id for action in ACTIONS if not action.help or action.help.endswith(".")] == []


@pytest.mark.parametrize("width", [32, 38, 60, 120])
def test_all_that_is_said_of_a_key_fits_the_width(width: int) -> None:
    keys = [Key(action.where, "ctrl+x", action.title, action.help) for action in ACTIONS]
    lines = draw_help(keys, TIPS, "", width, look_of(THEMES[0].to_color_system().generate(), is_dark=True))
    assert all(len(line.text.rstrip()) <= width for line in lines)
    words = " ".join(" ".join(line.text for line in lines).split())
    assert all(word in words for action in ACTIONS for word in action.help.split())
    assert "_" not in words, "no place is told by its name in config.toml"
