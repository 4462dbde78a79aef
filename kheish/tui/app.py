"""The application: which screen is on top, the link, the board, the look. Everything else belongs to a screen."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from textual.app import App
from textual.binding import Binding
from textual.command import CommandPalette, Provider
from textual.driver import Driver
from textual.filter import LineFilter
from textual.notifications import Notify
from textual.screen import Screen
from textual.timer import Timer

from kheish.client import AsyncKheish, SessionPage, StatusView, StreamEvent
from kheish.config import Tui
from kheish.errors import KheishError
from kheish.terminal import one_line
from kheish.tui.actions import bindings
from kheish.tui.link import Arrived, Connected, Disconnected, Link
from kheish.tui.links import open_command
from kheish.tui.live import Board, Row
from kheish.tui.look import THEMES, AsciiOnly, Look, look_of
from kheish.tui.notices import Notices, run_aside
from kheish.tui.paste import guarded
from kheish.tui.preferences import keymap_of, keys_said, problems_of
from kheish.tui.screen import KheishScreen
from kheish.tui.screens.home import Home
from kheish.tui.widgets.banner import Banner

SESSIONS_SHOWN_MAX = 1_000
LEAVE_TWICE_S = 3.0
BUDGETS_DELAY_S = 0.2
_MOVE_BUDGETS = {"run.started", "budget.warned", "session.budget_set"}
COPIED_SHOWN_S = 1.5
_KEEP_WORK_OUT = ("disk_low", "quota_exceeded", "quota_near")


def _palette() -> type[Provider]:
    from kheish.tui.palette import Palette

    return Palette


class KheishApp(App[int]):
    """`session_id`: attach to this one at once. `here` is the directory whose sessions come first."""

    TITLE = "Kheish"
    CSS_PATH = "kheish.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    COMMANDS = {_palette}
    BINDINGS = bindings("app")

    def __init__(
        self, client: AsyncKheish, settings: Tui, *, session_id: str = "", here: str = "", start: bool = True
    ) -> None:
        super().__init__()
        self.settings = settings
        self.here = here or os.getcwd()
        self.board = Board()
        self.link = Link(client, self.post_message, start=start)
        self.notices = Notices(lambda: self.settings.notices, self.board, self._write, self.set_timer)
        self._session_id = session_id
        self._leaves_at_s = float("-inf")
        self._banner = ("", 0.0, False)
        self._is_other_version = False
        self._budgets_timer: Timer | None = None
        self._has_moved = False
        """Whether a budget may be another than when it was looked at last."""
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = settings.theme if settings.theme in self.available_themes else THEMES[0].name
        self.set_keymap(keymap_of(settings))
        if settings.reduced_motion:
            self.animation_level = "none"

    @property
    def client(self) -> AsyncKheish:
        return self.link.client

    @property
    def look(self) -> Look:
        return look_of(self.theme_variables, is_dark=self.current_theme.dark, ascii_only=self.settings.ascii)

    def get_driver_class(self) -> type[Driver]:
        return guarded(super().get_driver_class())

    def get_line_filters(self) -> Sequence[LineFilter]:
        filters = super().get_line_filters()
        encoding = getattr(sys.__stderr__, "encoding", None) or "ascii"
        return [*filters, AsciiOnly(encoding)] if self.settings.ascii else filters

    def get_key_display(self, binding: Binding) -> str:
        shown = super().get_key_display(binding)
        return binding.key.replace("ctrl+", "^") if self.settings.ascii and not shown.isascii() else shown

    def keys_to(self, action_id: str) -> list[str]:
        """Those that are bound to an action now, as sentences name them."""
        return keys_said(action_id, self.settings)

    @property
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def on_mount(self) -> None:
        if not self.is_headless:  # the terminal is left as it was
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGTERM, lambda: self.exit(return_code=128 + signal.SIGTERM)
            )
        self.push_screen(Home())
        if self._session_id:
            self.open_session(self._session_id)
        for problem in problems_of(self.settings, self.available_themes):
            self.notify(problem, severity="warning", timeout=8, markup=False)
        self.notices.show_title()
        self.run_worker(self.link.run(), name="link", group="link")
        self.theme_changed_signal.subscribe(self, lambda _: self._tell_screens("look_changed"))

    # -- what the link brings ------------------------------------------------------------------------------------

    async def on_connected(self, message: Connected) -> None:
        if message.is_first or message.is_new_daemon:
            self.run_worker(self._load_board(), name="board", group="board", exclusive=True)
        self._is_other_version = message.is_other_version
        self.show_warnings(message.status)
        for screen in self._screens():
            screen.connected(is_new_daemon=message.is_new_daemon)

    def on_disconnected(self, message: Disconnected) -> None:
        self._show_banner(message.reason, message.retry_at_s, was_stopped=message.was_stopped)
        for screen in self._screens():
            screen.disconnected()

    def on_arrived(self, message: Arrived) -> None:
        rows: dict[str, Row] = {}
        for event in message.events:
            if event.event == "record" and (row := self.board.apply(event.data)) is not None:
                rows[row.session_id] = row
        if any(map(self._moves_budgets, message.events)):
            self._look_soon()
        self.notices.arrived(message.events)
        for screen in self._screens():
            screen.arrived(message.events)
            if rows:
                screen.board_changed(list(rows.values()))

    def _moves_budgets(self, event: StreamEvent) -> bool:
        """Whether a budget may be near its limit now, or no more, or another share of it is used."""
        if event.event != "record":
            return False
        types = {told["type"] for told in event.data["events"]}
        row = self.board.rows.get(event.data["session_id"])
        is_near = row is not None and bool(row.budgets)
        return bool(types & _MOVE_BUDGETS) or (is_near and bool(types & {"model_call.completed", "approval.resolved"}))

    def _look_soon(self) -> None:
        """One look at a time, and another where something moved during it: a slow machine is asked no more often."""
        self._has_moved = True
        if self._budgets_timer is None:
            self._budgets_timer = self.set_timer(
                BUDGETS_DELAY_S, lambda: self.run_worker(self._look_at_active(), name="budgets", group="budgets")
            )

    async def _look_at_active(self) -> None:
        self._has_moved = False
        with contextlib.suppress(KheishError):
            rows = self.board.load_active(await self.client.runs.list(active=True, limit=SESSIONS_SHOWN_MAX))
            for screen in self._screens():
                screen.board_changed(rows)
        self._budgets_timer = None
        if self._has_moved:
            self._look_soon()

    async def _load_board(self) -> None:
        known = set(self.board.rows)
        try:
            page, inbox, runs = await asyncio.gather(
                self.client.sessions.page(limit=SESSIONS_SHOWN_MAX),
                self.client.daemon.inbox(),
                self.client.runs.list(active=True, limit=SESSIONS_SHOWN_MAX),
            )
        except KheishError as error:
            self.say(error)
            return
        self.board.drop(_gone(known, page))
        self.board.load(page["items"], inbox, runs)
        # What was made up to here stays; to look through it again and again would hold keys up for tens of ms.
        gc.freeze()
        self.notices.show_title()
        for screen in self._screens():
            screen.board_changed(None)

    def on_text_selected(self) -> None:
        """The mouse was let go of: what it marked is what the terminal's own selection would be."""
        if text := self.screen.get_selected_text():
            self.copy_to_clipboard(text)
            self.notify("copied", timeout=COPIED_SHOWN_S)

    def on_app_focus(self) -> None:
        self.notices.focus(True)

    def on_app_blur(self) -> None:
        self.notices.focus(False)

    def on_unmount(self) -> None:
        self.notices.close()

    def _write(self, sequence: str) -> None:
        """To the terminal, beside what is drawn."""
        if self._driver is not None:
            self._driver.write(sequence)
            self._driver.flush()

    async def count_attached(self) -> None:
        """Who comes and goes, and what fills the disk, is in no journal: it is asked for while it is looked at."""
        if not self.link.is_up:
            return
        known = set(self.board.rows)
        with contextlib.suppress(KheishError):
            page, status = await asyncio.gather(
                self.client.sessions.page(limit=SESSIONS_SHOWN_MAX), self.client.daemon.status()
            )
            self.show_warnings(status)
            self.board.drop(_gone(known, page))
            for view in page["items"]:
                if row := self.board.rows.get(view["session_id"]):
                    row.attached = view["attached"]

    def _screens(self) -> Sequence[KheishScreen[object]]:
        """Those that can be told something: at the end they lose their widgets while there are still events."""
        if not self.is_running:
            return []
        return [screen for screen in self.screen_stack if isinstance(screen, KheishScreen)]

    def _tell_screens(self, what: str) -> None:
        for screen in self._screens():
            getattr(screen, what)()

    def show_warnings(self, status: StatusView) -> None:
        """Of a daemon that answers: what keeps it, or will soon, from taking new work."""
        if not self.link.is_up:
            return
        if self._is_other_version:
            key = self.keys_to("app.start_daemon")[0]
            text = f"the daemon is of version {status['version']}, this is another one: {key} restarts it"
        else:
            text = next((w["message"] for w in status["warnings"] if w["code"] in _KEEP_WORK_OUT), "")
        self._show_banner(text)

    def _show_banner(self, text: str, retry_at_s: float = 0.0, *, was_stopped: bool = False) -> None:
        self._banner = (text, retry_at_s, was_stopped)
        for screen in self._screens():
            self.show_banner_on(screen)

    def show_banner_on(self, screen: Screen[Any]) -> None:
        text, retry_at_s, was_stopped = self._banner
        for banner in screen.query(Banner):
            banner.show(text, retry_at_s, start_key=self.keys_to("app.start_daemon")[0] if was_stopped else "")

    # -- what screens ask for ------------------------------------------------------------------------------------

    def on_notify(self, event: Notify) -> None:
        """What is shown already is not said again: many may fail for one reason."""
        if any(shown.message == event.notification.message for shown in self._notifications):
            event.prevent_default()

    def say(self, error: KheishError) -> None:
        """An error of an action, for as long as it takes to read it."""
        self.notify(one_line(error.message), severity="error", timeout=8, markup=False)

    def open_session(self, session_id: str) -> None:
        from kheish.tui.screens.session import Session

        if isinstance(self.screen, Session) and self.screen.session_id == session_id:
            return
        self.push_screen(Session(session_id))

    def open_request(self, request_id: str) -> None:
        """The screen of an approval or question."""
        if request_id.startswith("question_"):
            from kheish.tui.screens.question import Question

            self.push_screen(Question(request_id))
        else:
            from kheish.tui.screens.approval import Approval

            self.push_screen(Approval(request_id))

    def open_link(self, url: str) -> None:
        """In the browser of the desktop; where there is none the address is copied."""
        command = open_command(url, os.environ, sys.platform, shutil.which)
        if command:
            run_aside(command)
        else:
            self.copy_to_clipboard(url)
        self.notify(f"{'opens' if command else 'copied'} {one_line(url, 200)}", markup=False, timeout=4)

    # -- actions of the application ------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "start_daemon":
            return not self.link.is_up or self._is_other_version
        if action == "suspend_process":
            return self._driver is not None and self._driver.can_suspend and _may_suspend()
        return True

    def action_home(self) -> None:
        while len(self.screen_stack) > 1 and not isinstance(self.screen, Home):
            self.pop_screen()

    def action_inbox(self) -> None:
        from kheish.tui.screens.inbox import Inbox

        self._open_once(Inbox)

    def action_status(self) -> None:
        from kheish.tui.screens.status import Status

        self._open_once(Status)

    def action_settings(self) -> None:
        from kheish.tui.screens.settings import Settings

        self._open_once(Settings)

    def action_help(self) -> None:
        from kheish.tui.screens.help import Help

        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))

    def _open_once(self, kind: type[KheishScreen[None]]) -> None:
        if not isinstance(self.screen, kind):
            self.push_screen(kind())

    async def action_start_daemon(self) -> None:
        try:
            await self.link.restart(stop_first=self._is_other_version)
        except KheishError as error:
            self.say(error)

    def action_command_palette(self) -> None:
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette(placeholder="find an action or a session"))

    async def action_quit(self) -> None:
        """Leaves; where the person wants it so, only the second time."""
        if self.settings.confirm_leaving:
            self.action_help_quit()
        else:
            self.exit(0)

    def action_help_quit(self) -> None:
        """Leaves the second time; who presses Ctrl+C may have meant something else."""
        now_s = time.monotonic()
        if now_s <= self._leaves_at_s + LEAVE_TWICE_S:
            self.exit(0)
            return
        self._leaves_at_s = now_s
        self.notify("once more to leave; everything goes on", timeout=LEAVE_TWICE_S)


def _gone(known: set[str], page: SessionPage) -> set[str]:
    """Those of the sessions that the daemon has no more, as far as its list reaches."""
    return set() if page["next_cursor"] else known - {view["session_id"] for view in page["items"]}


def _may_suspend() -> bool:
    """Whether a shell with job control is there to bring the application back."""
    with contextlib.suppress(OSError):
        parent = os.getppid()
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    return False
