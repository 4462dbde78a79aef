"""One session: what was said and done, what waits, and a place to write.

The transcript is a window of the session's records, which are numbered without a hole: pages before it are fetched as
one scrolls up, and at its end it follows the session's stream. A window that grows too long loses its other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from textual.app import ComposeResult
from textual.containers import Container
from textual.content import Content
from textual.widgets import Static

from kheish.client import ApiError, DaemonUnreachable, RecordView, StreamEvent
from kheish.errors import KheishError
from kheish.ids import new_id
from kheish.terminal import one_line
from kheish.tui.actions import bindings
from kheish.tui.live import SHELL_ROUTE, Change, Conversation, Note, Queued, Row, Spending
from kheish.tui.recap import recap
from kheish.tui.screen import KheishScreen
from kheish.tui.widgets.banner import Banner
from kheish.tui.widgets.composer import Composer
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.plan import Plan
from kheish.tui.widgets.queue import Queue
from kheish.tui.widgets.summons import Summons
from kheish.tui.widgets.transcript import Transcript
from kheish.tui.words import budgets_text, context_text, short_path, spent_text

PAGE_RECORDS = 200
WIDE = 120
WINDOW_RECORDS_MAX = 3_000
SHELL_MODEL = f"{SHELL_ROUTE}/bash"
TICK_S = 1.0
DRAW_EVERY_S = 0.04
SLOW_S = 0.5
"""An input that the daemon has not taken after this time is shown as one that waits."""
MODES = ("default", "accept_edits", "plan", "dont_ask", "bypass")


class Session(KheishScreen[None]):
    AUTO_FOCUS = "Composer"  # at once: what was typed before it was there is text too
    CSS = """
    Session #work { layout: vertical; height: 1fr; }
    Session.wide #work { layout: horizontal; }
    Session Transcript { height: 1fr; width: 1fr; }
    Session Plan { height: auto; max-height: 6; border-top: solid $panel; }
    Session.wide Plan { height: 100%; max-height: 100%; width: 32%; max-width: 64; }
    Session.wide Plan { border-top: none; border-left: solid $panel; }
    Session #recap { display: none; height: auto; max-height: 2; padding: 0 1; color: $foreground 60%; }
    Session #title { height: 1; padding: 0 1; background: $surface; text-wrap: nowrap; text-overflow: ellipsis; }
    """
    BINDINGS = bindings("session")

    def __init__(self, session_id: str) -> None:
        super().__init__()
        self.session_id = session_id
        self._talk = Conversation(session_id)
        self._last_seq = 0
        """The session's newest record that is known; the window may end before it."""
        self._spending = Spending()
        self._problem = ""
        """Why the session is read-only, if it is."""
        self._is_loading = True
        self._is_following = False
        self._may_reconnect = asyncio.Event()
        self._held: list[StreamEvent] = []
        self._sending: dict[str, Queued] = {}
        """Inputs that the daemon has not taken yet, by their keys, where that takes long."""
        self._queued: dict[str, Queued] = {}
        """What is queued, by its run, also where it was before the window."""
        self._drawn_at_s = 0.0
        self._editing = ""
        """The queued run whose text is in the composer, in the place of `_unsent`."""
        self._unsent = ""
        self._hides_plan = False

    def compose(self) -> ComposeResult:
        yield Banner()
        yield Static(markup=False, id="title")
        with Container(id="work"):
            yield Transcript(self.look)
            yield Plan()
        yield Static(markup=False, id="recap")
        yield Summons()
        yield Queue()
        yield Composer(history_key=self.session_id, cwd="", vim=self.kheish.settings.vim)
        yield Footer()

    def on_mount(self) -> None:
        self.query_one(Composer).focus()
        self.set_interval(TICK_S, self._tick)
        self._load()

    def on_resize(self) -> None:
        self.set_class(self.size.width >= WIDE, "wide")

    # -- the window ----------------------------------------------------------------------------------------------

    @property
    def _is_at_end(self) -> bool:
        return self._talk.last_seq >= self._last_seq

    @property
    def _row(self) -> Row | None:
        """What is known of the session as it is now; None until all of it is."""
        row = self.kheish.board.rows.get(self.session_id)
        return row if row and row.cwd else None

    @property
    def _active(self) -> str:
        """The run that is active now, whatever part of the session the window shows."""
        return row.active if (row := self._row) else self._talk.active

    @property
    def _asks(self) -> Mapping[str, Mapping[str, Any]]:
        return row.asks if (row := self._row) else {id_: entry.request or {} for id_, entry in self._talk.asks.items()}

    def _waiting(self) -> list[Queued]:
        """What waits now."""
        talk, row = self._talk, self._row
        if row is None:
            return talk.queue
        known = talk.queue if self._is_at_end else []
        self._queued |= {queued.id: queued for queued in known}
        self._queued = {id_: queued for id_, queued in self._queued.items() if id_ in row.queue}
        steered = [queued for queued in known if queued.is_steered]
        return [*steered, *(self._queued[id_] for id_ in row.queue if id_ in self._queued)]

    @property
    def _mode(self) -> str:
        return row.mode if (row := self._row) else self._talk.mode

    @property
    def _is_ended(self) -> bool:
        return self._talk.is_ended or bool((row := self._row) and row.is_ended)

    @property
    def _is_paused(self) -> bool:
        return self._row is not None and self._row.is_paused

    @property
    def _is_closed(self) -> bool:
        """Whether nothing can be written to the session any more."""
        return self._is_ended or bool(self._problem)

    def _load(self, *, at: str = "end") -> None:
        self.run_worker(self._load_window(at), name="window", group="window", exclusive=True)

    async def _load_window(self, at: str) -> None:
        self._is_loading = True
        try:
            active, queue = await self._load_view()
            if at == "start":
                records = await self._page(0, PAGE_RECORDS)
            else:
                records = await self._between(max(0, self._last_seq - PAGE_RECORDS), self._last_seq)
        except KheishError as error:
            self._is_loading = False
            self.kheish.say(error)
            if isinstance(error, ApiError) and error.code == "session_not_found":
                self.dismiss()
            return
        self._talk.show(records, active=active if at == "end" else "")
        self._is_loading = False
        if set(queue) - {queued.id for queued in self._talk.queue} - set(self._queued):
            self.run_worker(self._load_queue(), name="queue", group="queue", exclusive=True)
        problem = [Note(self._last_seq, 0, self._problem, "error")] if self._problem else []
        self.query_one(Transcript).show([*self._talk.entries, *problem], at=at)
        self.query_one(Composer).set_cwd(self._talk.cwd)
        self._draw_facts()
        if not self._is_following and not self._problem:
            self._show_recap(recap(records, f"user:{os.getuid()}", self.kheish.now_ms))
            self._is_following = True
            self.run_worker(self._follow(), name="follow", group="follow")

    async def _load_view(self) -> tuple[str, list[str]]:
        """The active run and those in the queue. Of a damaged session there are the records before the fault."""
        try:
            view = await self.client.sessions.get(self.session_id)
        except ApiError as error:
            if error.code != "session_corrupt":
                raise
            self._problem, self._last_seq = error.message, await self._last_readable()
            return "", []
        self._problem = view["problem"]
        self._last_seq = max(self._last_seq, view["seq"])
        self._talk.cwd, self._talk.mode, self._talk.title = view["cwd"], view["permission_mode"], view["title"]
        if used := view.get("used"):
            self._spending.load(used, view["seq"])
        self._talk.window_tokens = (view["context"] or {"window_tokens": 0})["window_tokens"]
        return view["active_run_id"], view["queued_run_ids"]

    async def _load_queue(self) -> None:
        """What was queued before the window, of which the daemon tells the beginning."""
        try:
            runs = await self.client.sessions.queue(self.session_id)
        except KheishError as error:
            self.kheish.say(error)
            return
        for run in runs:
            request = run["request"]
            queued = Queued(
                run["run_id"], request["text_preview"], request["principal"], is_steered=False, is_whole=False
            )
            self._queued.setdefault(queued.id, queued)
        self._draw_facts()

    async def _last_readable(self) -> int:
        """The seq before the fault, which only reading up to it tells."""
        seq = 0
        with contextlib.suppress(ApiError):
            while page := await self._page(seq, PAGE_RECORDS):
                seq = page[-1]["seq"]
        return seq

    async def _page(self, after_seq: int, limit: int) -> list[RecordView]:
        """Records after a seq, as far as one page reaches."""
        page = await self.client.sessions.events(self.session_id, cursor=str(after_seq), limit=limit)
        return page["items"]

    async def _between(self, after_seq: int, last_seq: int) -> list[RecordView]:
        """All records after one seq up to another."""
        found: list[RecordView] = []
        while after_seq < last_seq and (page := await self._page(after_seq, last_seq - after_seq)):
            found += page
            after_seq = page[-1]["seq"]
        return found

    def on_transcript_near_top(self) -> None:
        if self._talk.first_seq > 1 and not self._is_loading:
            self.run_worker(self._load_before(), name="before", group="window", exclusive=True)

    async def _load_before(self) -> None:
        self._is_loading = True
        first = self._talk.first_seq
        try:
            older = await self._between(max(0, first - 1 - PAGE_RECORDS), first - 1)
        except KheishError as error:
            self.kheish.say(error)
            return
        finally:
            self._is_loading = False
        self._refold([*older, *self._talk.records][:WINDOW_RECORDS_MAX])

    def on_transcript_near_bottom(self) -> None:
        if not self._is_at_end and not self._is_loading:
            self.run_worker(self._load_after(), name="after", group="window", exclusive=True)

    async def _load_after(self) -> None:
        self._is_loading = True
        try:
            newer = await self._page(self._talk.last_seq, PAGE_RECORDS)
        except KheishError as error:
            self.kheish.say(error)
            return
        finally:
            self._is_loading = False
        self._refold([*self._talk.records, *newer][-WINDOW_RECORDS_MAX:])

    def _refold(self, records: list[RecordView]) -> None:
        """Another window that overlaps with the present one."""
        at_end = bool(records) and records[-1]["seq"] >= self._last_seq
        self._talk.show(records, active=self._active if at_end else "")
        self.query_one(Transcript).replace(self._talk.entries)
        self._draw_facts()

    # -- what arrives --------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """The session's own stream, from what the window holds on: whoever follows is seen by others as attached."""
        while True:
            self._may_reconnect.clear()
            try:
                events = self.client.events(session_id=self.session_id, cursor=str(self._last_seq))
                async with contextlib.aclosing(events):
                    async for event in events:
                        self._hold(event)
            except DaemonUnreachable:
                pass
            except KheishError as error:
                self.kheish.say(error)
                return
            await self._may_reconnect.wait()

    def connected(self, *, is_new_daemon: bool) -> None:
        self._may_reconnect.set()
        if not self._is_following:
            self._load()

    def disconnected(self) -> None:
        self._draw_facts()

    def board_changed(self, rows: Sequence[Row] | None) -> None:
        if rows is None or any(row.session_id == self.session_id for row in rows):
            self._draw_facts()

    def _hold(self, event: StreamEvent) -> None:
        """What comes close together is drawn together."""
        self._held.append(event)
        if len(self._held) == 1:
            self.set_timer(max(0.001, self._drawn_at_s + DRAW_EVERY_S - time.monotonic()), self._take)

    def _take(self) -> None:
        self._drawn_at_s = time.monotonic()
        held, self._held = self._held, []
        total = Change()
        is_record = False
        for event in held:
            if event.event == "record":
                self._note_edits(event.data)
                was_at_end = self._is_at_end
                self._last_seq = max(self._last_seq, event.data["seq"])
                self._spending.apply(event.data)
                if not was_at_end:
                    continue  # it is read when one scrolls there
                is_record = True
                change = self._talk.apply(event.data)
            elif event.event == "delta" and self._is_at_end:
                change = self._talk.hear(event.data)
            elif event.event == "sync" and self._is_at_end:
                self._talk.hear_from_now()
                continue
            else:
                continue
            if change is not None:
                total.added += change.added
                total.changed += change.changed
        transcript = self.query_one(Transcript)
        if total.added or total.changed:
            transcript.change(total)
        if is_record:
            self._draw_facts()
            if len(self._talk.records) > WINDOW_RECORDS_MAX and transcript.is_following:
                self._refold(self._talk.records[-WINDOW_RECORDS_MAX // 2 :])

    def _note_edits(self, record: Any) -> None:
        for event in record["events"]:
            if event["type"] == "run.edited" and (queued := self._queued.get(event["run_id"])):
                queued.text, queued.is_whole = event["text"], True

    def look_changed(self) -> None:
        self.query_one(Transcript).look_changed(self.look)
        self._draw_facts()

    def _tick(self) -> None:
        if self.is_current:
            self.query_one(Transcript).tick()
            if self._active:
                self._draw_facts()

    def _draw_facts(self) -> None:
        if not self.is_mounted:
            return
        talk, look = self._talk, self.look
        transcript = self.query_one(Transcript)
        keys_to = self.kheish.keys_to
        hint = f"{keys_to('session.queue_focus')[0]} edits"
        self.query_one(Queue).show([*self._waiting(), *self._sending.values()], look, hint)
        row, active, mode = self._row, self._active, self._mode
        ended = ("  ended", "$warning") if self._is_ended else ""
        problem = ("  read-only", "$error") if self._problem else ""
        budgets = (f"  {one_line(budgets_text(row))}" if row is not None and row.budgets else "", "$warning")
        self.query_one("#title", Static).update(
            Content.assemble(
                (one_line((row.title if row else talk.title) or self.session_id, 60), "bold"),
                budgets,
                (f"  {short_path(talk.cwd)}", "$foreground 60%"),
                ended,
                problem,
            )
        )
        answer, bottom = keys_to("session.answer")[0], keys_to("session.bottom")[0]
        self.query_one(Summons).show(self._asks, transcript.unseen, look, answer=answer, bottom=bottom)
        composer = self.query_one(Composer)
        composer.disabled = self._is_closed
        composer.hint = self._hint()
        again = "leaves it as it was" if self._editing else "interrupts the run"
        composer.again = f"{self._said('interrupt')} again {again}"
        self.query_one(Plan).show([] if self._hides_plan or row is None else row.plan, look)
        state = row.status if row else "running" if active else "idle"
        step = row.step if row else talk.step
        self.query_one(Footer).facts = (
            one_line(row.model if row and active and row.model else talk.model, 30),
            context_text(talk.context_tokens, talk.window_tokens),
            spent_text(self._spending),
            f"step {step}" if active else "",
            mode.replace("_", " ") if mode != "default" else "",
            state if self.kheish.link.is_up else "not connected",
        )
        self.refresh_bindings()

    def _hint(self) -> str:
        enter = self._said("queue")
        if self._problem:
            return "this session is read-only"
        if self._is_ended:
            return "this session has ended"
        if self._editing:
            return f"{enter} keeps the change, {self._said('interrupt')} twice leaves it"
        if self._is_paused:
            return f"the queue is paused: {enter} queues, {self._said('pause')} lets it go on"
        if self._active:
            return f"{enter} queues, {self._said('steer')} steers the run"
        return f"{enter} sends · ! shell · @ file"

    def _said(self, action: str) -> str:
        """The keys of an action: `Ctrl+Enter or Ctrl+S`."""
        return " or ".join(self.kheish.keys_to(f"session.{action}"))

    def _show_recap(self, text: str) -> None:
        line = self.query_one("#recap", Static)
        line.update(text)
        line.display = bool(text)

    # -- what the person writes ----------------------------------------------------------------------------------

    def on_composer_submitted(self, message: Composer.Submitted) -> None:
        if self._editing:
            self.run_worker(self._edit_queued(self._editing, message.text))
            self._stop_editing()
            return
        self._show_recap("")
        transcript = self.query_one(Transcript)
        if not self._is_at_end:
            self._load()
        transcript.follow_end()
        self.run_worker(self._submit(message))

    async def _submit(self, message: Composer.Submitted) -> None:
        how = "queue" if message.how == "shell" else message.how
        if how == "steer" and not self._active:
            how = "queue"
        key = new_id("input")
        slow = self.set_timer(SLOW_S, lambda: self._show_sending(key, message.text))
        try:
            await self.kheish.link.deliver(
                lambda: self.client.sessions.submit(
                    self.session_id,
                    message.text,
                    delivery=how,
                    model=SHELL_MODEL if message.how == "shell" else None,
                    attachments=message.attachments,
                    key=key,
                )
            )
        except KheishError as error:
            self.kheish.say(error)
            self.query_one(Composer).restore(message)
        finally:
            slow.stop()
            if self._sending.pop(key, None) is not None:
                self._draw_facts()

    def _show_sending(self, key: str, text: str) -> None:
        self._sending[key] = Queued(key, text, "", is_steered=False, is_sent=False)
        self._draw_facts()

    def _stop_editing(self) -> None:
        """What was being written comes back."""
        self._editing = ""
        self.query_one(Composer).load(self._unsent)
        self._draw_facts()

    async def _edit_queued(self, run_id: str, text: str) -> None:
        try:
            await self.client.sessions.edit_queued(self.session_id, run_id, text)
        except KheishError as error:
            self.kheish.say(error)

    def on_composer_left(self) -> None:
        self.action_back()

    def on_composer_interrupted(self) -> None:
        if self._editing:
            self._stop_editing()
            return
        self.run_worker(self._interrupt())

    async def _interrupt(self) -> None:
        try:
            done = await self.client.sessions.interrupt(self.session_id, reason="interrupted in the TUI")
        except KheishError as error:
            self.kheish.say(error)
            return
        if not done["interrupted"]:
            self.notify("nothing runs", timeout=2)

    # -- the queue -----------------------------------------------------------------------------------------------

    def on_queue_edit(self, message: Queue.Edit) -> None:
        self.run_worker(self._edit(message.queued), name="edit", group="edit", exclusive=True)

    async def _edit(self, queued: Queued) -> None:
        if not queued.is_whole:
            try:
                queued.text, queued.is_whole = await self._text_of(queued.id), True
            except KheishError as error:
                self.kheish.say(error)
                return
        composer = self.query_one(Composer)
        if not self._editing:
            self._unsent = composer.text
        self._editing = queued.id
        composer.load(queued.text)
        composer.focus()
        self._draw_facts()

    async def _text_of(self, run_id: str) -> str:
        """All that was submitted for a run that is queued, as it was edited last."""
        page = await self.client.runs.events(run_id)
        said = [event for record in page["items"] for event in record["events"] if event.get("run_id") == run_id]
        texts = [str(event["text"]) for event in said if event["type"] in ("run.submitted", "run.edited")]
        return texts[-1] if texts else ""

    def on_queue_withdraw(self, message: Queue.Withdraw) -> None:
        self.run_worker(self._withdraw(message.queued.id))

    async def _withdraw(self, run_id: str) -> None:
        try:
            await self.client.sessions.withdraw_queued(self.session_id, run_id)
        except KheishError as error:
            self.kheish.say(error)

    def on_queue_first(self, message: Queue.First) -> None:
        self.run_worker(self._move_first(message.queued.id))

    async def _move_first(self, run_id: str) -> None:
        try:
            await self.client.sessions.move_queued(self.session_id, run_id, 1)
        except KheishError as error:
            self.kheish.say(error)

    def action_pause(self) -> None:
        self.run_worker(self._pause())

    async def _pause(self) -> None:
        sessions = self.client.sessions
        try:
            await (sessions.resume_queue if self._is_paused else sessions.pause_queue)(self.session_id)
        except KheishError as error:
            self.kheish.say(error)

    def on_queue_closed(self) -> None:
        self.query_one(Composer).focus()

    # -- what waits for the person -------------------------------------------------------------------------------

    def on_summons_chosen(self, message: Summons.Chosen) -> None:
        self.kheish.open_request(message.request_id)

    def on_transcript_followed(self, message: Transcript.Followed) -> None:
        self._draw_facts()

    def on_transcript_chosen(self, message: Transcript.Chosen) -> None:
        for request_id, entry in self._talk.asks.items():
            if entry is message.entry:
                self.kheish.open_request(request_id)
                return
        self.query_one(Transcript).expand_entry(message.entry)

    def on_transcript_link_chosen(self, message: Transcript.LinkChosen) -> None:
        self.kheish.open_link(message.url)

    # -- actions -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "queue" | "newline" | "editor":
                return not self._is_closed
            case "steer" | "interrupt":
                return bool(self._active) and not self._is_closed
            case "answer":
                return bool(self._asks)
            case "plan":
                return bool(self._row and self._row.plan)
            case "queue_focus":
                return bool(self._waiting())
            case "pause":
                return not self._is_closed
            case "back":
                return not self.query_one(Composer).text if self.is_mounted else True
        return True

    def action_answer(self) -> None:
        if self._asks:
            self.kheish.open_request(next(iter(self._asks)))

    def action_back(self) -> None:
        self.dismiss()

    def action_expand(self) -> None:
        self.query_one(Transcript).expand_all()

    def action_timeline(self) -> None:
        from kheish.tui.screens.timeline import Timeline

        self.kheish.push_screen(Timeline(self.session_id))

    def action_run(self) -> None:
        from kheish.tui.screens.run import Run

        run_id = self._active or _last_run(self._talk.records)
        if run_id:
            self.kheish.push_screen(Run(run_id))

    def action_mode(self) -> None:
        at = MODES.index(self._mode) if self._mode in MODES else 0
        self.run_worker(self._set_mode(MODES[(at + 1) % 3]))

    async def _set_mode(self, mode: Any) -> None:
        try:
            await self.client.sessions.set_permission_mode(self.session_id, mode)
        except KheishError as error:
            self.kheish.say(error)

    def action_compact(self) -> None:
        self.run_worker(self._compact())

    async def _compact(self) -> None:
        try:
            await self.client.sessions.compact(self.session_id)
        except KheishError as error:
            self.kheish.say(error)

    def action_aside(self) -> None:
        from kheish.tui.screens.aside_question import AsideQuestion

        model = "" if self._talk.model.startswith(f"{SHELL_ROUTE}/") else self._talk.model
        self.kheish.push_screen(AsideQuestion(self.session_id, self._talk.cwd, model))

    def action_queue_focus(self) -> None:
        self.query_one(Queue).focus()

    def action_plan(self) -> None:
        self._hides_plan = not self._hides_plan
        self._draw_facts()

    def action_page_up(self) -> None:
        self.query_one(Transcript).scroll_page_up(animate=False)

    def action_page_down(self) -> None:
        self.query_one(Transcript).scroll_page_down(animate=False)

    def action_previous_input(self) -> None:
        self.query_one(Transcript).go_to_input(-1)

    def action_next_input(self) -> None:
        self.query_one(Transcript).go_to_input(1)

    def action_top(self) -> None:
        self._load(at="start")

    def action_bottom(self) -> None:
        if self._is_at_end:
            self.query_one(Transcript).follow_end()
        else:
            self._load()


def _last_run(records: Sequence[RecordView]) -> str:
    for record in reversed(records):
        for event in record["events"]:
            if run_id := event.get("run_id"):
                return str(run_id)
    return ""
