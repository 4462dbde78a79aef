"""One run: what it cost, each attempt of each step with its time, and each tool call with who let it run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from kheish.client import RunView, StreamEvent
from kheish.errors import KheishError
from kheish.narration import call_text
from kheish.terminal import counted, expose, moment, one_line
from kheish.tui.actions import bindings
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.live import duration
from kheish.tui.look import Look
from kheish.tui.screens.aside import Aside
from kheish.tui.story import Attempt, Step, Story, ToolCall
from kheish.tui.widgets.footer import Footer
from kheish.tui.widgets.sheet import NAME_WIDTH, Sheet, fact, heading

if TYPE_CHECKING:
    from kheish.client.views import Usage, UsageView

PAGE = 1_000
SURE_S = 3.0
"""For so long the second press counts."""
OVER = ("completed", "failed", "interrupted", "cancelled")
STYLE = {
    "completed": "success", "done": "success", "failed": "error", "denied": "error", "running": "accent",
    "retried": "warning", "cut off": "warning", "cancelled": "warning", "interrupted": "warning",
    "queued": "dim", "withdrawn": "dim",
}  # fmt: skip


class Run(Aside):
    BINDINGS = bindings("run")

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self.run_id = run_id
        self._view: RunView | None = None
        self._story = Story(run_id)
        self._is_sure = self._is_stale = self._is_reading = False

    def body(self) -> Iterable[Widget]:
        yield Sheet()

    def on_mount(self) -> None:
        self.query_one(Sheet).focus()
        self.set_interval(1.0, self._tick)
        self._load()

    # -- reading -------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Again where it changed while it was read."""
        self._is_stale = True
        if not self._is_reading:
            self.run_worker(self._read_all(), name="run")

    async def _read_all(self) -> None:
        self._is_reading = True
        try:
            while self._is_stale:
                self._is_stale = False
                await self._read()
        finally:
            self._is_reading = False

    async def _read(self) -> None:
        try:
            cursor: str | None = str(self._story.seq)
            while cursor is not None:
                page = await self.client.runs.events(self.run_id, cursor=cursor, limit=PAGE)
                for record in page["items"]:
                    self._story.apply(record)
                cursor = page["next_cursor"]
            self._view = await self.client.runs.get(self.run_id)
        except KheishError as error:
            self.kheish.say(error)
            return
        self.draw()

    def arrived(self, events: Sequence[StreamEvent]) -> None:
        if any(e.event == "record" and any(x.get("run_id") == self.run_id for x in e.data["events"]) for e in events):
            self._load()

    def connected(self, *, is_new_daemon: bool) -> None:
        self._load()

    def _tick(self) -> None:
        if self._view is not None and self._view["status"] not in OVER:
            self.draw()

    # -- drawing -------------------------------------------------------------------------------------------------

    def draw(self) -> None:
        view, story, look, now_ms = self._view, self._story, self.look, self.kheish.now_ms
        if view is None:
            self.head.show(look, "Run", one_line(self.run_id))
            return
        status = view["status"].replace("_", " ")
        self.head.show(look, "Run", f"{one_line(view['run_id'])} · {one_line(view['session_id'])} · {status}")
        self.query_one(Sheet).show(lambda width: draw_run(view, story, width, look, now_ms))
        self.refresh_bindings()

    # -- actions -------------------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "cancel":
            return self._view is not None and self._view["status"] not in OVER
        return self._view is not None or action not in ("copy", "session", "timeline")

    def action_cancel(self) -> None:
        if self._is_sure:
            self.run_worker(self._cancel(), name="cancel")
            return
        self._ask(True)
        self.set_timer(SURE_S, lambda: self._ask(False))

    def _ask(self, is_sure: bool) -> None:
        self._is_sure = is_sure
        self.query_one(Footer).facts = ("once more cancels the run",) if is_sure else ()

    async def _cancel(self) -> None:
        try:
            self._view = await self.client.runs.cancel(self.run_id, reason="cancelled in the TUI")
        except KheishError as error:
            self.kheish.say(error)
        self._ask(False)
        self.draw()

    def action_copy(self) -> None:
        self.kheish.copy_to_clipboard(self.run_id)
        self.query_one(Footer).facts = ("copied",)

    def action_session(self) -> None:
        if self._view is not None:
            self.kheish.open_session(self._view["session_id"])

    def action_timeline(self) -> None:
        from kheish.tui.screens.timeline import Timeline

        if self._view is not None:
            self.kheish.push_screen(Timeline(self._view["session_id"]))


def draw_run(view: RunView, story: Story, width: int, look: Look, now_ms: int) -> list[Strip]:
    request = view["request"]
    lines = fact("status", view["status"].replace("_", " "), width, look, style_of(view["status"], look))
    if view["error"]:
        lines += fact("error", f"{view['error']['code']}: {view['error']['message']}", width, look, look.error)
    lines += fact("input", one_line(request["text_preview"], 400), width, look, look.strong)
    files = ", ".join(one_line(a["name"]) for a in view["input_attachments"])
    lines += fact("files", files, width, look)
    lines += fact("by", f"{one_line(request['principal'])} through {one_line(request['origin'])}", width, look)
    lines += fact("model", one_line(f"{request['provider']}/{request['model']}"), width, look)
    lines += fact("time", _times(story, view, now_ms), width, look)
    lines += fact("tokens", _tokens(view["usage"]), width, look)
    lines += fact("steps", counts(story), width, look)
    if story.steps_dropped:
        lines += heading(counted(story.steps_dropped, "earlier step"), look, "are in the timeline of the session")
    for step in story.steps:
        lines += draw_step(step, width, look, now_ms)
    for text in view["outputs"]:
        lines += heading("The last it said", look)
        lines += fact("", text, width, look)
    return lines


def draw_step(step: Step, width: int, look: Look, now_ms: int) -> list[Strip]:
    """A line for the model's call, one for each attempt where there was more than one, and those of its tool calls."""
    last = step.attempts[-1]
    took = (last.ended_ms or now_ms) - step.attempts[0].started_ms
    parts = [duration(took), _tokens(step.usage), one_line(step.model)]
    if last.outcome != "completed":
        parts.insert(0, last.outcome)
    lines = [strip_of(), strip_of((f"{'step ' + str(step.number):<{NAME_WIDTH}}", look.heading),
                                  (" · ".join(filter(None, parts)), _quiet(last.outcome, look)))]  # fmt: skip
    if len(step.attempts) > 1 or last.detail:
        for attempt in step.attempts:
            lines += _attempt(attempt, width, look, now_ms)
    for compaction in step.compactions:
        lines.append(
            strip_of(("    ", None), (cut_columns(compaction, max(10, width - 4), look.marks.ellipsis), look.dim))
        )
    for call in step.calls:
        lines += _call(call, width, look, now_ms)
    return lines


def _attempt(attempt: Attempt, width: int, look: Look, now_ms: int) -> list[Strip]:
    took = duration((attempt.ended_ms or now_ms) - attempt.started_ms)
    what = "attempt" if attempt.purpose == "reply" else "summary"
    text = f"{what} {attempt.number}  {attempt.outcome} after {took}"
    detail = f": {one_line(attempt.detail)}" if attempt.detail else ""
    line = cut_columns(text + detail, max(10, width - 4), look.marks.ellipsis)
    return [strip_of(("    ", None), (line, _quiet(attempt.outcome, look)))]


def _call(call: ToolCall, width: int, look: Look, now_ms: int) -> list[Strip]:
    style = style_of(call.outcome, look, "warning" if call.outcome else "dim")
    end_ms = call.ended_ms or now_ms
    took = duration(end_ms - call.started_ms) if call.started_ms else ""
    again = f"attempt {call.attempts}" if call.attempts > 1 else ""
    how = " · ".join(filter(None, [call.outcome, took, again]))
    room = max(10, width - len(how) - 8)
    text = cut_columns(call_text(call.tool, call.arguments, 2 * room), room, look.marks.ellipsis)
    lines = [strip_of((f"  {look.marks.call} ", style), (text, look.text), (f"  {how}", style))]
    for decision in call.decisions:
        line = cut_columns(one_line(expose(decision)), max(10, width - 4), look.marks.ellipsis)
        lines.append(strip_of(("    ", None), (line, look.dim)))
    return lines


def style_of(outcome: str, look: Look, default: str = "warning") -> Style:
    return getattr(look, STYLE.get(outcome, default))  # type: ignore[no-any-return]


def _quiet(outcome: str, look: Look) -> Style:
    """What went as it should has no colour."""
    return look.dim if outcome == "completed" else style_of(outcome, look)


def _times(story: Story, view: RunView, now_ms: int) -> str:
    start_ms, end_ms = view["started_at_ms"], view["finished_at_ms"]
    parts = [moment(view["submitted_at_ms"])]
    if start_ms is None:
        position = view["queued_position"]
        return f"{parts[0]}, place {position} in the queue" if position else parts[0]
    if (waited := start_ms - view["submitted_at_ms"]) >= 1000:
        parts.append(f"waited {duration(waited)}")
    parts.append(f"took {duration(end_ms - start_ms)}" if end_ms else f"runs for {duration(now_ms - start_ms)}")
    return ", ".join(parts)


def _tokens(usage: Usage | UsageView | None) -> str:
    """Of a step or a whole run."""
    found: dict[str, int] = dict(usage or {})  # type: ignore[arg-type]
    if not any(found.values()):
        return ""
    cached = found.get("cache_read_tokens", 0)
    return f"{found.get('input_tokens', 0):,} in, {found.get('output_tokens', 0):,} out" + (
        f", {cached:,} cached" if cached else ""
    )


def counts(story: Story) -> str:
    """`3, 5 tool calls, 1 attempt made again`."""
    total = story.steps_dropped + len(story.steps)
    if not total:
        return ""
    again = sum(attempt.number > 1 for step in story.steps for attempt in step.attempts)
    calls = sum(not call.is_budget for step in story.steps for call in step.calls)
    parts = [str(total), counted(calls, "tool call") if calls else ""]
    return ", ".join(filter(None, [*parts, f"{counted(again, 'attempt')} made again" if again else ""]))
