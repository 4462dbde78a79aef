"""All sessions, those that need the person first; what they ask, and an answer without attaching."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.strip import Strip
from textual.timer import Timer
from textual.widgets import Input, Static

from kheish.errors import KheishError
from kheish.ids import new_id
from kheish.narration import plan_text
from kheish.terminal import clean, counted, expose, one_line
from kheish.tui import fuzzy
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.live import NEEDS, Need, Row, last_words
from kheish.tui.look import Look
from kheish.tui.screen import KheishScreen
from kheish.tui.widgets.banner import Banner
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.rows import Item, Rows
from kheish.tui.words import (
    age_text,
    asks_text,
    budget_text,
    budgets_text,
    call_detail,
    row_text,
    short_path,
    tokens_text,
)

DONE_SHOWN_MAX = 500
REDRAW_S = 0.05
AGES_S, AGES_IN_SECONDS_MS = 1.0, 62_000
ATTACHED_S = 10.0
LISTEN_S = 0.15
"""After this time on a row, or after it changed, its last words are fetched."""
HEARD_RECORDS, HEARD_CHARS_MAX = 20, 4_000
SORTS = ("need", "time", "name")
WIDE, LOW = 120, 20
NAME_COLUMNS_MAX = 40
PEEK_COLUMNS_MAX = 2_000
"""Of what is asked; its screen shows all."""


class Home(KheishScreen[None]):
    CSS = """
    Home #body { layout: vertical; height: 1fr; }
    Home.wide #body { layout: horizontal; }
    Home #sessions { height: 1fr; width: 1fr; padding: 0 1; }
    Home #peek { height: 9; border-top: solid $panel; padding: 0 1; color: $foreground; overflow: hidden; }
    Home.wide #sessions { width: 3fr; }
    Home.wide #peek { height: 1fr; width: 2fr; max-width: 90; border-top: none; border-left: solid $panel; }
    Home.low #peek { display: none; }
    Home Input { display: none; border: none; height: 1; padding: 0 1; background: $surface; }
    Home Input.open { display: block; }
    Home #title { height: 1; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    BINDINGS = bindings("home")

    def __init__(self) -> None:
        super().__init__()
        self._filter = ""
        self._is_all = True
        self._is_named = False
        """Only sessions with a title, or a name that somebody chose."""
        self._sort = 0
        self._is_loaded = False
        self._redraw: Timer | None = None
        self._visited = ""
        """The session that was attached to from here: one comes back to its row."""
        self._asking: tuple[str, Row | None, str] = ("", None, "")
        """What the line is written for: the action, the session, and what it is asked with."""
        self._heard: tuple[str, int] = ("", 0)
        """The session that the peek pane shows the last words of, and the seq up to which."""
        self._words = ("", False)

    def compose(self) -> ComposeResult:
        yield Banner()
        yield Static(markup=False, id="title")
        yield Field(placeholder="filter by name, directory or text", id="filter")
        with Horizontal(id="body"):
            yield Rows(id="sessions")
            yield Static(markup=False, id="peek")
        yield Field(id="reply")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self.set_interval(AGES_S, self._age)
        self.set_interval(ATTACHED_S, self._look_who_comes)
        self._draw()

    def _age(self) -> None:
        """Time goes by, which is seen where an age is told in seconds."""
        since_ms = self.kheish.now_ms - AGES_IN_SECONDS_MS
        if self.is_current and any(row.since_ms >= since_ms for row in self.kheish.board.rows.values()):
            self.query_one(Rows).refresh()
            self._draw_peek()

    def _look_who_comes(self) -> None:
        """Clients come and go."""
        if self.is_current:
            self.run_worker(self._count(), group="attached", exclusive=True)

    async def _count(self) -> None:
        await self.kheish.count_attached()
        self._draw()

    def on_resize(self) -> None:
        self.set_class(self.size.width >= WIDE, "wide")
        self.set_class(self.size.height < LOW, "low")

    # -- what changes --------------------------------------------------------------------------------------------

    def board_changed(self, rows: Sequence[Row] | None) -> None:
        self._is_loaded = self._is_loaded or rows is None
        self._draw_soon()

    def look_changed(self) -> None:
        self._draw()

    def _draw_soon(self) -> None:
        if self._redraw is None and self.is_attached:
            self._redraw = self.set_timer(REDRAW_S, self._draw)

    def on_screen_resume(self) -> None:
        self._draw()
        visited, self._visited = self._visited, ""
        self.query_one(Rows).move_to(visited)

    # -- drawing -------------------------------------------------------------------------------------------------

    def _shown(self) -> dict[Need, list[Row]]:
        here = self.kheish.here
        wanted = self._filter.casefold().split()
        groups: dict[Need, list[Row]] = {need: [] for need in NEEDS}
        for row in self.kheish.board.rows.values():
            if not self._is_all and row.cwd != here and not row.cwd.startswith(here + os.sep):
                continue
            if self._is_named and not (row.title or not row.session_id.startswith("session_")):
                continue
            if not all(_matches(word, row) for word in wanted):
                continue
            groups[row.need].append(row)
        for need, rows in groups.items():
            if SORTS[self._sort] == "name":
                rows.sort(key=lambda row: row.name.casefold())
            else:
                # Who waits longest comes first; what is done, newest first.
                rows.sort(key=lambda row: row.since_ms, reverse=need == "done" or SORTS[self._sort] == "time")
        return groups

    def _draw(self) -> None:
        if self._redraw is not None:
            self._redraw.stop()
            self._redraw = None
        if not self.is_attached or not self.is_current:
            return
        look = self.look
        groups = self._shown()
        items: list[Item] = []
        for need, rows in groups.items():
            if not rows:
                continue
            if items:
                items.append(Item("", lambda width: Strip([])))
            style = look.warning if need == "needs you" else look.dim
            items.append(_heading(f"{need.capitalize()}  {len(rows)}", style))
            items += [self._item(row, look) for row in rows[:DONE_SHOWN_MAX]]
            if len(rows) > DONE_SHOWN_MAX:
                items.append(_heading(f"{len(rows) - DONE_SHOWN_MAX} more: / filters", look.dim))
        if not items:
            items = [_heading(line, look.dim) for line in self._empty()]
        self.query_one(Rows).set(items, stay_first=True)
        self._draw_title(groups)
        self._draw_peek()

    def _item(self, row: Row, look: Look) -> Item:
        return Item(row.session_id, lambda width: draw_row(row, look, self.kheish.now_ms, width))

    def _empty(self) -> list[str]:
        if not self._is_loaded:
            return ["", "asking the daemon ..."]
        if self._filter:
            return ["", f"nothing matches {one_line(self._filter, 40)!r}"]
        if self._is_named:
            rename, named = (self.kheish.keys_to(f"home.{name}")[0] for name in ("rename", "named"))
            return ["", f"no session with a name: {rename} gives one a title, {named} shows all"]
        new, scope = (self.kheish.keys_to(f"home.{name}")[0] for name in ("new", "scope"))
        if not self._is_all:
            return ["", f"no session of this directory: {new} makes one, {scope} shows all"]
        made = f"{new} makes one in this directory; `kheish run TEXT` does too, from any shell"
        return ["", "no session yet", "", made]

    def _draw_title(self, groups: dict[Need, list[Row]]) -> None:
        look = self.look
        place = "all sessions" if self._is_all else short_path(self.kheish.here)
        # Whoever needs the person is counted, whatever the list is filtered by.
        waiting = sum(row.need == "needs you" for row in self.kheish.board.rows.values())
        hidden = waiting - len(groups["needs you"])
        parts: list[Any] = [("Kheish", "bold")]
        if waiting:
            what = f"{waiting} need{'s' * (waiting == 1)} you" + f", {hidden} not shown" * bool(hidden)
            parts.append((f"  {look.marks.waiting} {what}", "bold $warning"))
        parts.append(f"  {clean(place)}")
        if self._is_named:
            parts.append("  named")
        if self._filter:
            parts.append(f"  /{one_line(self._filter, 30)}")
        self.query_one("#title", Static).update(Content.assemble(*parts))
        working = len(groups["working"])
        count = sum(map(len, groups.values()))
        self.query_one(Footer).facts = (
            f"by {SORTS[self._sort]}",
            f"{working} working" if working else "",
            counted(count, "session"),
        )

    def _chosen(self) -> Row | None:
        return self.kheish.board.rows.get(self.query_one(Rows).cursor)

    def _draw_peek(self) -> None:
        row = self._chosen()
        peek = self.query_one("#peek", Static)
        if row is None:
            peek.update(Content(""))
            return
        if self._heard[0] != row.session_id:
            self._heard, self._words = (row.session_id, 0), ("", False)
        key = self.kheish.keys_to("home.reply")[0]
        peek.update(peek_content(row, self.look, self.kheish.now_ms, key, *self._words))
        if row.seq > self._heard[1] and not (row.asks or row.problem):
            self._heard = row.session_id, row.seq
            self.run_worker(self._listen(row.session_id, row.seq), name="listen", group="listen", exclusive=True)

    async def _listen(self, session_id: str, seq: int) -> None:
        """What the session said last, which is in no list."""
        await asyncio.sleep(LISTEN_S)
        try:
            after = str(max(0, seq - HEARD_RECORDS))
            page = await self.client.sessions.events(session_id, cursor=after, limit=HEARD_RECORDS)
        except KheishError:
            self._heard = session_id, 0  # with the next drawing it is tried again
            return
        text, is_failure = last_words(page["items"])
        if text:
            self._words = text[:HEARD_CHARS_MAX], is_failure
            self._draw_peek()

    def on_rows_highlighted(self) -> None:
        self._draw_peek()
        self.refresh_bindings()

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self._visit(message.item_id)

    # -- actions -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if isinstance(self.focused, Input) and action not in ("help", "command_palette"):
            return False
        if action in ("open", "reply", "rename", "timeline"):
            return bool(self.query_one(Rows).cursor)
        if action == "end":
            return bool((row := self._chosen()) and not row.is_ended)
        return True

    def action_open(self) -> None:
        if row := self._chosen():
            self._visit(row.session_id)

    def _visit(self, session_id: str) -> None:
        self._visited = session_id
        self.kheish.open_session(session_id)

    def action_filter(self) -> None:
        self._open_input("filter", self._filter)

    def action_scope(self) -> None:
        self._is_all = not self._is_all
        self._draw()

    def action_named(self) -> None:
        self._is_named = not self._is_named
        self._draw()

    def action_sort(self) -> None:
        self._sort = (self._sort + 1) % len(SORTS)
        self._draw()

    def action_new(self) -> None:
        self._ask("new", None, f"name of the new session in {short_path(self.kheish.here)} (empty: a new id)")

    def action_rename(self) -> None:
        if row := self._chosen():
            self._ask("rename", row, f"title of {row.session_id}", row.title)

    def action_end(self) -> None:
        if row := self._chosen():
            self._ask("end", row, f"type `end` to end {one_line(row.name, 40)} for good; its journal stays")

    def action_reply(self) -> None:
        row = self._chosen()
        if row is None:
            return
        if row.asks:
            self.kheish.open_request(next(iter(row.asks)))
        else:
            self._ask("reply", row, f"to {one_line(row.name, 40)}: what to do")

    def action_timeline(self) -> None:
        from kheish.tui.screens.timeline import Timeline

        if row := self._chosen():
            self.kheish.push_screen(Timeline(row.session_id))

    async def action_leave(self) -> None:
        await self.kheish.action_quit()

    def action_down(self) -> None:
        self.query_one(Rows).action_down()

    def action_up(self) -> None:
        self.query_one(Rows).action_up()

    def action_first(self) -> None:
        self.query_one(Rows).action_first()

    def action_last(self) -> None:
        self.query_one(Rows).action_last()

    # -- the line that is typed ----------------------------------------------------------------------------------

    def _ask(self, what: str, row: Row | None, prompt: str, value: str = "") -> None:
        self._asking = what, row, prompt
        self._open_input("reply", value, prompt)

    def _open_input(self, id: str, value: str, prompt: str = "") -> None:
        field = self.query_one(f"#{id}", Input)
        if prompt:
            field.placeholder = clean(prompt)
        field.value = value
        field.add_class("open")
        field.focus()

    def _close_inputs(self) -> None:
        for field in self.query(Input):
            if field.id != "filter" or not field.value:
                field.remove_class("open")
        self.query_one(Rows).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "filter":
            self._filter = event.value
            self._draw_soon()

    def on_key(self, event: Any) -> None:
        field = self.focused
        if not isinstance(field, Input):
            return
        if event.key == "escape":
            event.stop()
            if field.id == "filter":
                field.value = ""
            self._close_inputs()
        elif event.key in ("down", "up") and field.id == "filter":
            event.stop()
            self.query_one(Rows).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._close_inputs()
        if event.input.id == "filter":
            return
        (what, row, prompt), value = self._asking, event.value.strip()
        event.input.value = ""
        self.run_worker(self._do(what, row, value, prompt), name=what)

    async def _do(self, what: str, row: Row | None, value: str, prompt: str) -> None:
        """Raises nothing: what fails is said, and what was written can be mended."""
        try:
            if what == "new":
                view = await self.client.sessions.create(value or None, cwd=self.kheish.here)
                self._visit(view["session_id"])
            elif row is None:
                return
            elif what == "reply" and value:
                id_, key = row.session_id, new_id("input")
                await self.kheish.link.deliver(lambda: self.client.sessions.submit(id_, value, key=key))
                self.notify(f"sent to {one_line(row.name, 40)}", markup=False, timeout=3)
            elif what == "end" and value == "end":
                await self.client.sessions.end(row.session_id, reason="ended in the TUI")
            elif what == "end":
                self.notify("not ended", timeout=3)
            elif what == "rename":
                await self.client.sessions.set_title(row.session_id, value)
        except KheishError as error:
            self.kheish.say(error)
            if what != "end" and not isinstance(self.focused, Input):
                self._ask(what, row, prompt, value)


def _matches(word: str, row: Row) -> bool:
    """Whether it is in what is known of a session, or its letters in the name, in their order."""
    text = f"{row.session_id} {row.title} {row.cwd} {row.headline} {row.status}".casefold()
    return word in text or fuzzy.score(word, row.name) > 0


def _heading(text: str, style: Style) -> Item:
    return Item("", lambda width: strip_of((cut_columns(text, width), style)))


STATUS_STYLE = {
    "approval": "warning", "question": "warning", "running": "accent", "queued": "text", "completed": "success",
    "failed": "error", "read-only": "error", "paused": "warning",
}  # fmt: skip


def draw_row(row: Row, look: Look, now_ms: int, width: int) -> Strip:
    """Mark, state, name, age, what it is about, and where there is room model, step and tokens."""
    status = row.status
    style: Style = getattr(look, STATUS_STYLE.get(status, "dim"))
    mark = {"approval": look.marks.waiting, "question": look.marks.waiting, "running": look.marks.running,
            "queued": look.marks.queued, "paused": look.marks.queued, "completed": look.marks.done,
            "failed": look.marks.failed}.get(
        status, look.marks.idle)  # fmt: skip
    name_width = max(12, min(30, width // 4))
    name = cut_columns(one_line(row.name), name_width, look.marks.ellipsis)
    age = age_text(row, now_ms)
    left = [
        (f"{mark} ", style),
        (f"{status:<10}", style),
        (name + " " * (name_width - cell_len(name)), look.strong),
        (f" {age:>11}  ", look.dim),
    ]
    used = 2 + 10 + name_width + 14
    right: list[tuple[str, Style | None]] = []
    if width >= 100:
        attached = f"{row.attached} attached" if row.attached else ""
        # What is asked needs the room more than the model, which the peek pane has too.
        model = "" if row.asks else cut_columns(one_line(row.model), 28)
        facts = "  ".join(filter(None, [
            attached, model, f"step {row.step}" if row.active else "",
            f"{tokens_text(row.tokens)} tok" if row.tokens else ""]))  # fmt: skip
        right = [(f"  {facts}", look.dim)]
        used += cell_len(facts) + 2
    near = f"{budget}  " if (budget := budget_text(row)) else ""
    used += cell_len(near)
    what = cut_columns(one_line(asks_text(row) or row_text(row)), max(0, width - used), look.marks.ellipsis)
    middle = what + " " * max(0, width - used - cell_len(what))
    return strip_of(*left, (near, look.warning), (middle, look.text if row.need != "done" else look.dim), *right)


def peek_content(row: Row, look: Look, now_ms: int, key: str, words: str, is_failure: bool) -> Content:
    """The key that answers and what a session asks, whole as far as it fits, or its last words."""
    ask = next(iter(row.asks.values()), None)
    parts: list[Any] = [(one_line(row.name, NAME_COLUMNS_MAX), "bold"), f"  {row.status}, {age_text(row, now_ms)}"]
    if ask and not row.problem:
        parts += [" · ", (key, "bold $primary"), " answers" if "questions" in ask else " decides"]
    parts.append("\n")
    where = [clean(short_path(row.cwd)), row.mode.replace("_", " ") + " mode"]
    if row.model:
        where.append(one_line(row.model))
    if row.queue:
        where.append(f"{len(row.queue)} queued")
    parts.append((" · ".join(where) + "\n", "$foreground 60%"))
    if row.problem:
        parts.append((f"\nread-only: {clean(row.problem)}", "$error"))
    elif ask and "questions" in ask:
        for question in ask["questions"]:
            parts += ["\n", (clean(question["question"]), "bold"), "\n"]
            parts += [f"  {i}. {clean(o['label'])}\n" for i, o in enumerate(question.get("options", ()), 1)]
    elif ask and ask.get("tool"):
        tool = f"{one_line(ask['tool'])} "
        parts += ["\n", (tool, "bold $warning"), call_detail(ask["tool"], ask["input"], PEEK_COLUMNS_MAX), "\n"]
        if ask.get("rule"):
            parts.append((f"asked by the rule {expose(ask['rule'])}\n", "$foreground 60%"))
    elif row.headline:
        # What was said before is no answer to what is queued.
        mark = f"{look.marks.queued} queued:" if row.about in row.queue else look.marks.user
        parts += [(f"{mark} {one_line(row.headline)}\n", "$foreground 80%")]
        parts += ["\n", (clean(words).strip(), "$error" if is_failure else "$foreground"), "\n"]
    if row.budgets:
        parts.append((f"\n{look.marks.waiting} {one_line(budgets_text(row))}", "$warning"))
    if row.plan and row.active:
        parts += [f"\n{look.marks.note} plan {one_line(plan_text(row.plan))}"]
    return Content.assemble(*parts)
