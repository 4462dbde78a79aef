"""The daemon, what it holds and warns of, the routes to models, and what `kheish doctor` finds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from textual.strip import Strip
from textual.widget import Widget

from kheish.client import Kheish, RouteView, StatusView
from kheish.client.diagnostics import NOTE, OK, WRONG, Check, checks
from kheish.errors import KheishError
from kheish.terminal import clean, counted, one_line
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of, wrap
from kheish.tui.live import duration
from kheish.tui.look import Look
from kheish.tui.screens.aside import Aside
from kheish.tui.widgets.sheet import NAME_WIDTH, Sheet, fact, heading

REFRESH_S = 2.0


class Status(Aside):
    BINDINGS = bindings("status")

    def __init__(self) -> None:
        super().__init__()
        self._view: StatusView | None = None
        self._routes: Sequence[RouteView] = ()
        self._checks: Sequence[Check] = ()

    def body(self) -> Iterable[Widget]:
        yield Sheet()

    def on_mount(self) -> None:
        self.query_one(Sheet).focus()
        self.set_interval(REFRESH_S, self._look_again)
        self.action_check()

    def connected(self, *, is_new_daemon: bool) -> None:
        self.action_check()

    def action_check(self) -> None:
        """Looks at everything again."""
        self.run_worker(self._check(), name="check", group="check", exclusive=True)

    def _look_again(self) -> None:
        if self.is_current:
            self.run_worker(self._read(), name="read", group="read", exclusive=True)

    async def _read(self) -> None:
        try:
            view, self._routes = await asyncio.gather(self.client.daemon.status(), self.client.daemon.routes())
            self._view = view
            self.kheish.show_warnings(view)
        except KheishError:
            self._view = None  # the banner says why
        self.draw()

    async def _check(self) -> None:
        await self._read()
        # Checked by blocking code, and at the daemon of this application alone.
        client = Kheish(self.client.transport.path, origin="tui", start=False)
        self._checks = await asyncio.to_thread(lambda: list(checks(client)))
        self.draw()

    def draw(self) -> None:
        if not self.is_mounted:
            return
        view, routes, found, look, now_ms = self._view, self._routes, self._checks, self.look, self.kheish.now_ms
        wrong = sum(verdict == WRONG for _, verdict, _ in found)
        health = f"{wrong} wrong" if wrong else "nothing wrong" if found else "checking"
        self.head.show(look, "Status", health)
        self.query_one(Sheet).show(lambda width: draw_status(view, routes, found, width, look, now_ms))


def draw_status(
    view: StatusView | None, routes: Sequence[RouteView], found: Sequence[Check], width: int, look: Look, now_ms: int
) -> list[Strip]:
    lines = draw_daemon(view, width, look, now_ms) if view else fact("daemon", "no answer", width, look, look.error)
    if view and view["warnings"]:
        lines += heading("Warnings", look)
        for warning in view["warnings"]:
            lines += fact("", f"{warning['code']}: {warning['message']}", width, look, look.warning)
    if routes:
        lines += heading("Routes", look, "to models; the one in force comes first")
        for route in sorted(routes, key=lambda r: (not r["is_default"], bool(r["problem"]), r["route_id"])):
            lines += draw_route(route, width, look)
    if found:
        lines += heading("Checks", look)
        marks = {OK: (look.marks.done, look.success), NOTE: (look.marks.note, look.warning),
                 WRONG: (look.marks.failed, look.error)}  # fmt: skip
        for name, verdict, detail in found:
            mark, style = marks[verdict]
            text = wrap(one_line(detail), max(8, width - NAME_WIDTH - 2))
            lines.append(strip_of((f"{mark} ", style), (f"{name:<{NAME_WIDTH}}", look.dim), (text[0], look.text)))
            lines += [strip_of((" " * (NAME_WIDTH + 2), None), (line, look.text)) for line in text[1:]]
    return lines


def draw_daemon(view: StatusView, width: int, look: Look, now_ms: int) -> list[Strip]:
    sessions, runs, inbox = view["sessions"], view["runs"], view["inbox"]
    state = "ready" if view["ready"] else view["status"]
    up = f"{state}, version {view['version']}, up {duration(max(0, now_ms - view['started_at_ms']))}"
    lines = fact("daemon", clean(up), width, look, look.success if view["ready"] else look.warning)
    lines += fact("process", f"pid {view['pid']}, generation {view['generation']}", width, look)
    lines += fact("state root", clean(view["state_root"]), width, look)
    lines += fact("socket", clean(view["socket"]), width, look)
    damaged = f", {sessions['read_only']} read-only" if sessions["read_only"] else ""
    lines += fact("sessions", f"{sessions['total']}, {sessions['loaded']} in memory{damaged}", width, look)
    lines += fact("runs", f"{runs['active']} active, {runs['queued']} queued", width, look)
    waits = f"{counted(inbox['approvals'], 'approval')}, {counted(inbox['questions'], 'question')}"
    lines += fact("inbox", waits, width, look, look.warning if any(inbox.values()) else look.text)
    return lines + fact("followers", str(view["subscribers"]), width, look)


def draw_route(route: RouteView, width: int, look: Look) -> list[Strip]:
    mark, style = (look.marks.done, look.success) if route["ready"] else (look.marks.failed, look.error)
    name = cut_columns(one_line(route["route_id"]), 18, look.marks.ellipsis)
    what = one_line("  ".join((route["driver"], route["default_model"], route["source"])))
    room = max(8, width - 22)
    lines = [strip_of((f"{mark} ", style), (f"{name:<19} ", look.strong if route["is_default"] else look.text),
                      (cut_columns(what, room, look.marks.ellipsis), look.dim))]  # fmt: skip
    problem = wrap(one_line(route["problem"]), room) if route["problem"] else []
    return lines + [strip_of((" " * 22, None), (line, look.error)) for line in problem]
