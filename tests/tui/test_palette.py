"""The command palette: what can be done here, with its key, and every session."""

from __future__ import annotations

import pytest
from textual.command import CommandPalette

from kheish.tui.screens.home import Home
from kheish.tui.screens.session import Session
from kheish.tui.screens.status import Status
from tests.daemon_process import DaemonProcess
from tests.tui.harness import open_app, shown, until, write

pytestmark = pytest.mark.slow


async def test_an_action_is_found_by_a_few_letters_and_shows_its_key(shared_daemon: DaemonProcess) -> None:
    async with open_app(shared_daemon) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, Home))
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette))
        await write(pilot, "stat")
        await until(pilot, lambda: "Status" in shown(app) and "f3" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: not isinstance(app.screen, CommandPalette))
        await until(pilot, lambda: isinstance(app.screen, Status))


async def test_without_a_word_it_shows_what_can_be_done_here_in_the_order_of_the_footer(
    shared_daemon: DaemonProcess,
) -> None:
    async with open_app(shared_daemon, size=(80, 48)) as (app, pilot):
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette) and "Leave; everything" in shown(app))
        places = [
            shown(app).index(title) for title in ("  New", "  Filter", "  Here/all", "  Sort", "  Help", "  Inbox")
        ]
        assert places == sorted(places)


async def test_a_session_is_found_by_what_it_is_about(shared_daemon: DaemonProcess) -> None:
    model = shared_daemon.script({"text": "ok"}, name="palette.json", after_last="repeat")
    session = shared_daemon.session("zebra")
    shared_daemon.finish(shared_daemon.submit(session, "[red]look[/] at the invoices", model=model))
    async with open_app(shared_daemon) as (app, pilot):
        await until(pilot, lambda: "zebra" in shown(app))
        await pilot.press("ctrl+p")
        await write(pilot, "invoices")
        await until(pilot, lambda: "[red]look[/] at the invoices" in shown(app), "its text, as it stands")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Session) and app.screen.session_id == "zebra")
