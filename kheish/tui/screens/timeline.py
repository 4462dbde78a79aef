"""Every record of a session with its time, generation and author; of one, all of it and the state at that point."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Iterable, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual.containers import Horizontal
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from kheish.client import RecordPage, RecordView, StreamEvent
from kheish.errors import KheishError
from kheish.ids import new_id
from kheish.limits import RECORD_LABEL_CHARS_MAX
from kheish.narration import call_text
from kheish.terminal import counted, day_of, moment, one_line
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.live import Call, Conversation
from kheish.tui.look import Look
from kheish.tui.screens.aside import Aside
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.rows import Item, Rows
from kheish.tui.widgets.sheet import Joined, Sheet, fact, heading
from kheish.tui.window import FILTERS, WINDOW, Labels, Line, Window, goal_of

NEAR_LINES = 5
"""How near to an end of the window the cursor is when the next page is read."""
WIDE = 120
STYLE = {"red": "error", "yellow": "warning", "green": "success", "cyan": "accent", "bold": "strong", "dim": "dim"}


class Timeline(Aside):
    CSS = """
    Timeline #body { layout: vertical; height: 1fr; }
    Timeline.wide #body { layout: horizontal; }
    Timeline Rows { height: 1fr; width: 1fr; padding: 0 1; }
    Timeline Sheet { display: none; height: 1fr; border-top: solid $panel; }
    Timeline Sheet.open { display: block; }
    Timeline.wide Sheet { height: 100%; width: 1fr; border-top: none; border-left: solid $panel; }
    Timeline Input { display: none; border: none; height: 1; padding: 0 1; background: $surface; }
    Timeline Input.open { display: block; }
    """
    BINDINGS = bindings("timeline")

    def __init__(self, session_id: str, *, seq: int = 0) -> None:
        """Opens at its end, or at a record."""
        super().__init__()
        self.session_id = session_id
        self._me = f"user:{os.getuid()}"
        self._seq = seq
        self._end_seq = 0
        self._by = FILTERS[0]
        self._labels: dict[int, str] = {}
        self.window = Window(self._read)
        self._wanted = ""
        self._labelling = 0
        """The seq of the record for which a label is written."""
        self.is_reading = False

    def body(self) -> Iterable[Widget]:
        with Horizontal(id="body"):
            yield Rows()
            yield Sheet()
        yield Field()

    def on_mount(self) -> None:
        self.query_one(Rows).focus()
        self._start(self._open(self._seq))

    def on_resize(self) -> None:
        self.set_class(self.size.width >= WIDE, "wide")

    # -- reading -------------------------------------------------------------------------------------------------

    async def _read(self, after: int, limit: int) -> RecordPage:
        return await self.client.sessions.events(self.session_id, cursor=str(after), limit=limit)

    def _start(self, work: Awaitable[object]) -> None:
        """One thing at a time: what was under way is given up."""

        async def run() -> None:
            self.is_reading = True
            try:
                await work
                # What came in the meantime was not taken.
                while self.window.is_at_end and self.window.last_seq < self._end_seq and await self.window.newer():
                    pass
            except KheishError as error:
                self.kheish.say(error)
            finally:
                self.is_reading = False
            self.draw()

        self.run_worker(run(), name="read", group="read", exclusive=True)

    async def _open(self, seq: int = 0) -> None:
        """At a record, or at the end."""
        view = await self.client.sessions.get(self.session_id)
        self._end_seq = max(self._end_seq, view["seq"])
        self._labels = {labelled["seq"]: labelled["label"] for labelled in view.get("labels") or ()}
        window = Window(self._read, self._by, self._me, self._labels)
        # All labels are within reach of the end.
        await (window.open_at(seq) if seq and self._by != "labelled" else window.open_end(self._end_seq))
        self.window = window
        self.draw()
        lines = window.lines
        shown = next((line for line in lines if line.seq >= seq), lines[-1] if lines else None) if seq else None
        self.query_one(Rows).move_to(str(shown.seq)) if shown else self.query_one(Rows).action_last()

    def connected(self, *, is_new_daemon: bool) -> None:
        if not self.is_reading:
            self._start(self.window.newer())

    def arrived(self, events: Sequence[StreamEvent]) -> None:
        records = [e.data for e in events if e.event == "record" and e.data["session_id"] == self.session_id]
        if not records or not self.is_mounted:
            return
        was_last = self._is_at_last
        is_changed = is_labelled = False
        for record in records:
            is_labelled = self._take_labels(record) or is_labelled
            self._end_seq = max(self._end_seq, record["seq"])
            match self.window.apply(record):
                case None if not self.is_reading:
                    self._start(self.window.newer())
                case True:
                    is_changed = True
        if is_changed or is_labelled:
            self.draw()
            if was_last and not is_labelled:  # who gave it stays with what has it
                self.query_one(Rows).action_last()
        elif self.is_mounted:
            self._draw_head()

    def _take_labels(self, record: RecordView) -> bool:
        """Whether it holds any."""
        labelled = [event for event in record["events"] if event["type"] == "record.labelled"]
        for event in labelled:
            self._labels.pop(event["labelled_seq"], None)
            if event["label"]:
                self._labels[event["labelled_seq"]] = event["label"]
        if labelled and self._by == "labelled":
            self._start(self._open(self._line.seq if self._line else 0))
        return bool(labelled)

    # -- drawing -------------------------------------------------------------------------------------------------

    @property
    def _is_at_last(self) -> bool:
        lines = self.window.lines
        return self.window.is_at_end and (not lines or self.query_one(Rows).cursor == str(lines[-1].seq))

    def draw(self) -> None:
        if not self.is_mounted:
            return
        self.query_one(Rows).set(items_of(self.window.lines, self.look, self._me, self._labels))
        self._draw_head()

    def _draw_head(self) -> None:
        window = self.window
        shown = f"{len(window.lines)} of {window.first_seq}-{window.last_seq}" if window.lines else "no records"
        live = "live" if self._is_at_last else counted(self._end_seq, "record")
        kept = f" · {self._by}" if self._by != "all" else ""
        self.head.show(self.look, "Timeline", f"{one_line(self.session_id)} · {shown}{kept} · {live}")
        if window.lines or not self.is_reading:
            self.query_one(Footer).facts = ("searching" if self.is_reading and self._wanted else "",)

    def on_rows_highlighted(self) -> None:
        lines, cursor = self.window.lines, self.query_one(Rows).cursor
        if not self.is_reading and cursor:
            if int(cursor) <= lines[min(NEAR_LINES, len(lines) - 1)].seq and self.window.first_seq > 1:
                self._start(self.window.older())
            elif int(cursor) >= lines[-min(NEAR_LINES, len(lines))].seq and not self.window.is_at_end:
                self._start(self.window.newer())
        self._draw_head()
        if self.query_one(Sheet).has_class("open"):
            self._show_details()

    # -- one record ----------------------------------------------------------------------------------------------

    @property
    def _line(self) -> Line | None:
        cursor = self.query_one(Rows).cursor
        return next((line for line in self.window.lines if str(line.seq) == cursor), None)

    def on_rows_chosen(self, message: Rows.Chosen) -> None:
        self.action_open()

    def action_open(self) -> None:
        self.query_one(Sheet).add_class("open")
        self._show_details()
        self.refresh_bindings()

    def _show_details(self) -> None:
        if line := self._line:
            self.run_worker(self._fold_to(line.record), name="details", group="details", exclusive=True)

    async def _fold_to(self, record: RecordView) -> None:
        """Reads what the state at this record is folded from."""
        seq = record["seq"]
        records: list[RecordView] = []
        after = max(0, seq - WINDOW)
        try:
            while after < seq:
                page = (await self._read(after, seq - after))["items"]
                if not page:
                    break
                records += page
                after = page[-1]["seq"]
        except KheishError as error:
            self.kheish.say(error)
            return
        state = Conversation(self.session_id)
        state.show(records)
        look, label = self.look, self._labels.get(seq, "")
        self.query_one(Sheet).show(lambda width: draw_details(record, state, width, look, label), from_top=True)

    # -- actions -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if isinstance(self.focused, Input):
            return action == "close"
        if action in ("next", "previous"):
            return bool(self._wanted)
        if action in ("next_label", "previous_label"):
            return bool(self._labels)
        if action == "part":
            return self.query_one(Sheet).has_class("open")
        return bool(self.window.lines) if action in ("open", "find", "fork", "label") else True

    def action_close(self) -> None:
        """First what is open on the screen, then the screen."""
        field, sheet = self.query_one(Input), self.query_one(Sheet)
        if field.has_class("open"):
            field.remove_class("open")
        elif sheet.has_class("open"):
            sheet.remove_class("open")
            self.refresh_bindings()
        else:
            self.dismiss()
            return
        self.query_one(Rows).focus()

    def action_part(self) -> None:
        rows, sheet = self.query_one(Rows), self.query_one(Sheet)
        (rows if sheet.has_focus else sheet).focus()

    def action_filter(self) -> None:
        """The place stays, as near as the filter lets it."""
        self._by = FILTERS[(FILTERS.index(self._by) + 1) % len(FILTERS)]
        self._start(self._open(0 if self._is_at_last or not self._line else self._line.seq))

    def action_oldest(self) -> None:
        self._start(self._open(1))

    def action_newest(self) -> None:
        self._start(self._open())

    def action_fork(self) -> None:
        if line := self._line:
            self.run_worker(self._fork(line.seq), name="fork", group="fork", exclusive=True)

    async def _fork(self, seq: int) -> None:
        key = new_id("fork")
        try:
            made = await self.kheish.link.deliver(lambda: self.client.sessions.fork(self.session_id, at=seq, key=key))
        except KheishError as error:
            self.kheish.say(error)
            return
        self.kheish.open_session(made["session_id"])

    def action_find(self) -> None:
        self._labelling = 0
        self._ask("a seq (42), a time (14:03, -10m, 2026-11-25 14:03) or a text")

    def action_label(self) -> None:
        if line := self._line:
            self._labelling = line.seq
            self._ask(f"label of record {line.seq}; empty: none", self._labels.get(line.seq, ""))

    def _ask(self, prompt: str, value: str = "") -> None:
        field = self.query_one(Input)
        field.placeholder, field.value = prompt, value
        field.max_length = RECORD_LABEL_CHARS_MAX if self._labelling else None
        field.add_class("open")
        field.focus()

    async def _label(self, seq: int, label: str) -> None:
        try:
            await self.kheish.link.deliver(lambda: self.client.sessions.label(self.session_id, seq, label))
        except KheishError as error:
            self.kheish.say(error)

    def action_next_label(self) -> None:
        self._go_to_label(1)

    def action_previous_label(self) -> None:
        self._go_to_label(-1)

    def _go_to_label(self, by: int) -> None:
        """The nearest one that way; from the last it goes on with the first."""
        seq = self._line.seq if self._line else 0
        ahead = [labelled for labelled in self._labels if (labelled - seq) * by > 0]
        self._start(self._go_to(min(ahead or self._labels, key=lambda labelled: labelled * by)))

    def on_input_submitted(self, message: Input.Submitted) -> None:
        self.action_close()
        if self._labelling:
            self.run_worker(self._label(self._labelling, message.value), name="label", group="label")
            return
        line = self._line
        goal = goal_of(message.value, line.record["at_ms"] if line else self.kheish.now_ms)
        if goal is None:
            return
        if goal.kind == "seq":
            self._start(self._open(max(1, min(goal.number, self._end_seq))))
        elif goal.kind == "time":
            self._start(self._go_to_time(goal.number))
        else:
            self._wanted = goal.text
            self._search()

    async def _go_to_time(self, at_ms: int) -> None:
        await self._open(await self.window.seq_at(at_ms, self._end_seq))

    def action_next(self) -> None:
        self._search()

    def action_previous(self) -> None:
        self._search(backwards=True)

    def _search(self, *, backwards: bool = False) -> None:
        self._start(self._find(self._line.seq if self._line else 0, backwards))

    async def _find(self, seq: int, backwards: bool) -> None:
        self._draw_head()
        found = await self.window.find(self._wanted, seq, self._end_seq, backwards=backwards)
        if not found:
            self.notify(f"no record holds {one_line(self._wanted, 40)}", severity="warning", markup=False)
        else:
            await self._go_to(found)

    async def _go_to(self, seq: int) -> None:
        if any(line.seq == seq for line in self.window.lines):
            self.query_one(Rows).move_to(str(seq))
        else:
            self._by = FILTERS[0]
            await self._open(seq)


def items_of(lines: Sequence[Line], look: Look, me: str, labels: Labels) -> list[Item]:
    """With a heading where a day begins."""
    found: list[Item] = []
    day = ""
    seq_width = len(str(lines[-1].seq)) if lines else 0
    for line in lines:
        if (of := day_of(line.record["at_ms"])) != day:
            day = of
            found.append(Item("", lambda _, day=day: strip_of((day, look.dim))))  # type: ignore[misc]
        found.append(
            Item(str(line.seq), lambda width, line=line: draw_line(line, width, seq_width, look, me, labels))  # type: ignore[misc]
        )
    return found


def draw_line(line: Line, width: int, seq_width: int, look: Look, me: str, labels: Labels) -> Strip:
    record = line.record
    clock = time.strftime("%H:%M:%S", time.localtime(record["at_ms"] / 1000))
    style: Style = getattr(look, STYLE.get(line.color, "text"))
    head = f"{record['seq']:>{seq_width}}  {clock}  {'g' + str(record['generation']):<3} "
    author = f" {cut_columns(author_of(record, me), 8, look.marks.ellipsis):<8} "
    label = cut_columns(one_line(labels.get(line.seq, "")), width // 3, look.marks.ellipsis)
    mark = f"{look.marks.label} {label}  " if label else ""
    room = width - len(head) - len(author) - cell_len(mark)
    text = cut_columns(one_line(line.text), max(0, room), look.marks.ellipsis)
    by = author, look.accent if author.strip() == "you" else look.dim
    return strip_of((head, look.dim), by, (mark, look.heading), (text, style))


def author_of(record: RecordView, me: str) -> str:
    """`you`, `daemon`, `agent` (a run), or another principal."""
    principal = one_line(record["by"]["principal"])
    return "you" if principal == me else "agent" if principal.startswith("run:") else principal


def draw_details(record: RecordView, state: Conversation, width: int, look: Look, label: str) -> Sequence[Strip]:
    """What the session was after this record, and the record itself."""
    from kheish.tui.diff import json_lines

    by = record["by"]
    at = moment(record["at_ms"])
    lines = [strip_of((f"seq {record['seq']}", look.heading), (f"  {at}.{record['at_ms'] % 1000:03d}", look.dim))]
    origin = f" through {by['origin']}" if by["origin"] not in ("", by["principal"]) else ""
    author = f"{by['principal']}{origin}" + "".join(
        f", {name} {by[name]}" for name in ("command", "key") if by.get(name)
    )  # fmt: skip
    lines += fact("label", one_line(label), width, look, look.heading)
    lines += fact("author", one_line(author), width, look)
    lines += fact("generation", f"{record['generation']} of the daemon", width, look)
    since = f"folded from seq {state.first_seq} on" if state.first_seq > 1 else ""
    lines += heading("The state at this point", look, since)
    lines += fact("status", status_of(state), width, look, look.strong)
    for ask in state.asks.values():
        if isinstance(ask, Call):
            what = call_text(ask.tool, ask.arguments)
        else:
            what = one_line(ask.request["questions"][0]["question"])
        lines += fact("waits for", what, width, look, look.warning)
    lines += fact("run", state.active, width, look)
    lines += fact("step", str(state.step) if state.active else "", width, look)
    lines += fact("model", one_line(state.model), width, look)
    lines += fact("mode", state.mode.replace("_", " ") or "set before what was folded", width, look)
    lines += fact("queue", "paused" if state.is_paused else "", width, look, look.warning)
    for i, queued in enumerate(state.queue, 1):
        how = "steered" if queued.is_steered else f"queue {i}"
        lines += fact(how, one_line(queued.text, 200), width, look)
    usage = state.usage
    tokens = f"{usage['input_tokens']:,} in, {usage['output_tokens']:,} out, {usage['cache_read_tokens']:,} cached"
    lines += fact("tokens", tokens if any(usage.values()) else "", width, look)
    lines += heading("The record", look)
    return Joined(lines, json_lines(record, width, look))


def status_of(state: Conversation) -> str:
    if state.is_ended:
        return "ended"
    if state.asks:
        return "waits for an approval" if isinstance(next(iter(state.asks.values())), Call) else "waits for an answer"
    return "running" if state.active else "queued" if any(not q.is_steered for q in state.queue) else "idle"
