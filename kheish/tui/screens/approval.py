"""One approval on a full screen: what would run, where, and why it is asked; what a person may answer stays in sight.

A yes is always to what is shown: it carries the digest of it. Arguments that were edited are shown before they are
allowed, and a rule before it is made.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

from rich.cells import cell_len
from rich.style import Style
from textual.app import ComposeResult, SuspendNotSupported
from textual.strip import Strip
from textual.widgets import Input, TextArea

from kheish.amounts import example, read_raise
from kheish.client import ApprovalView, BudgetBody, Remember, Resolution
from kheish.errors import Invalid, KheishError
from kheish.terminal import ago, clock, expose, one_line
from kheish.tui.actions import ACTIONS, bindings
from kheish.tui.arguments import parse_arguments, to_text
from kheish.tui.editor import edit_outside
from kheish.tui.lines import cut_columns, strip_of
from kheish.tui.look import Look
from kheish.tui.preview import change
from kheish.tui.risks import Risk, risks
from kheish.tui.screens.request import Request
from kheish.tui.widgets.choices import Choices
from kheish.tui.widgets.field import Field
from kheish.tui.widgets.sheet import Sheet, fact

RULE_CHARS_MAX = 600
"""A longer rule cannot be shown whole, and what cannot be seen is not made."""
RECORDS_PAGE, RECORDS_READ_MAX = 50, 500
SAYS_LINES_MAX = 3
MARK_LINES_MAX = 4
LOW = 20
"""Of a lower terminal most is for what would run."""
VIEWS = ("as the width allows", "in one column")
_ANSWERS: dict[str, Resolution] = {"comment": "allow", "deny": "deny"}
_WRITTEN = (*_ANSWERS, "widen", "grant")
"""The modes in which something is written on a line."""
_UNCERTAIN = ("verify", "retry", "mark_done", "give_up")
_WHERE: dict[Remember, str] = {
    "session": "this session",
    "always": "every session, until `kheish permissions forget` takes it back",
}


class Payload(Sheet):
    """What would run."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # Its key gives up a call whose outcome is unknown.
        return not (action == "first" and cast(Approval, self.screen).is_uncertain)


class Known(NamedTuple):
    """What the records say of the call: what the model said with it, and how far it came."""

    says: str = ""
    started: str = ""


class Approval(Request):
    CSS = """
    Approval Payload { height: 1fr; margin: 1 0; }
    Approval.low Payload { margin: 0; }
    Approval #facts { height: auto; scrollbar-size-vertical: 0; }
    Approval #field { display: none; padding: 0 1; background: $panel; }
    Approval TextArea { display: none; height: 1fr; margin: 1 0; border: none; padding: 0 1; background: $surface; }
    """
    BINDINGS = bindings("approval", "uncertain", "budget")

    def __init__(self, request_id: str) -> None:
        super().__init__(request_id)
        self.edited: dict[str, Any] | None = None
        """The arguments as the person changed them, shown in place of the model's."""
        self._mode = "choose"
        """Or `rule` (it is shown, and waits for a yes), `comment`, `widen`, `deny`, `edit` and `grant` (something is
        written)."""
        self._resolution: Resolution = "allow"
        self._remember: Remember = "session"
        self._rule = ""
        self._view = VIEWS[0]
        self._change = self._note = ""
        """The diff that a call would make of a file, and what there is to know of that."""
        self._hunk_rows: list[int] = []
        self._risks: list[Risk] = []
        self._known = Known()
        self._is_unread = True
        """What would run is not shown yet."""
        self._schema: dict[str, Any] = {}

    @property
    def is_uncertain(self) -> bool:
        return self.view is not None and bool(self.view["kind"] == "uncertain")

    @property
    def is_budget(self) -> bool:
        return self.view is not None and bool(self.view["kind"] == "budget")

    @property
    def arguments(self) -> dict[str, Any]:
        return self.edited if self.edited is not None else self.view["input"]

    def headline(self) -> str:
        if self.is_budget:
            return "Raise this budget?"
        return "Did this take effect?" if self.is_uncertain else "Allow this?"

    def what(self) -> str:
        return expose(self.view["tool"]) + ", edited by you" * (self.edited is not None)

    def body(self) -> ComposeResult:
        yield Payload(id="payload")
        yield TextArea(id="edit", soft_wrap=True)
        facts = Sheet(id="facts")
        facts.can_focus = False
        yield facts
        yield Field(id="field", compact=True)

    def on_resize(self) -> None:
        self.set_class(self.size.height < LOW, "low")

    async def fetch(self) -> ApprovalView:
        return await self.client.approvals.get(self.request_id)

    def came(self) -> None:
        self.edited, self._known = None, Known()
        self._set_mode("choose")
        self._look_at_call()
        self.run_worker(self._learn(), name="learn", group="learn", exclusive=True)

    def _look_at_call(self) -> None:
        """What would run is another now. It is read beside the loop, and cannot be decided before it is shown."""
        self._change = self._note = ""
        self._is_unread, self._risks = True, []
        self.query_one(Payload).show(lambda _: [strip_of(("reading it ...", self.look.dim))])
        self.run_worker(self._look_further(), name="look", group="look", exclusive=True)

    async def _look_further(self) -> None:
        call = self.view["tool"], self.arguments, self.view["cwd"]
        self._risks, found = await asyncio.to_thread(lambda: (risks(*call), change(*call)))
        self._change, self._note = found or ("", "")
        self._show_payload(from_top=True)
        self.draw()

    def on_sheet_drawn(self) -> None:
        if self._is_unread:
            self._is_unread = False
            self.arm()

    @property
    def is_deaf(self) -> bool:
        return self._is_unread or super().is_deaf

    async def _learn(self) -> None:
        """What else there is to know. Without it one can decide too."""
        if self.is_budget:
            return
        try:
            self._known = await self._read_records()
            tools = (await self.client.daemon.capabilities())["tools"]
        except KheishError:
            return
        self._schema = next((tool["input_schema"] for tool in tools if tool["name"] == self.view["tool"]), {})
        self.draw()

    async def _read_records(self) -> Known:
        """Back from the newest to the one in which the model asked for the call."""
        view: ApprovalView = self.view
        found: dict[str, str] = {}
        is_asked = False
        end = (await self.client.sessions.get(view["session_id"]))["seq"]
        for start in range(end - RECORDS_PAGE, end - RECORDS_READ_MAX, -RECORDS_PAGE):
            for record in reversed(await self._records(max(start, 0), start + RECORDS_PAGE)):
                for event in reversed(record["events"]):
                    if event.get("tool_call_id") == view["tool_call_id"]:
                        if event["type"] == "tool_call.started":
                            found.setdefault("started", started_text(event, self.kheish.now_ms))
                        elif event["type"] == "process.ended":
                            found["ended"] = ended_text(event)
                    elif event["type"] == "model_call.completed" and event.get("purpose", "reply") == "summary":
                        continue
                    elif event["type"] == "model_call.completed" and event["run_id"] == view["run_id"]:
                        calls = [request["tool_call_id"] for request in event.get("tool_requests", ())]
                        is_asked = is_asked or view["tool_call_id"] in calls
                        if is_asked and event["text"].strip():
                            return Known(event["text"], "; ".join(reversed(found.values())))
                    elif event["type"] == "run.started" and event["run_id"] == view["run_id"]:
                        return Known("", "; ".join(reversed(found.values())))
            if start <= 0:
                break
        return Known("", "; ".join(reversed(found.values())))

    async def _records(self, start: int, end: int) -> list[Any]:
        """Those after `start`, up to `end`; a page may hold fewer than it was asked for."""
        found: list[Any] = []
        while start < end:
            page = await self.client.sessions.events(self.view["session_id"], cursor=str(start), limit=end - start)
            if not page["items"]:
                break
            found += page["items"]
            start = page["items"][-1]["seq"]
        return found

    # -- what is shown -------------------------------------------------------------------------------------------

    def draw(self) -> None:
        if not self.is_mounted:
            return
        self.draw_heading()
        facts = self.query_one("#facts", Sheet)
        # The scrollbar's place and the padding are no room for text.
        lines = self._facts(max(20, self.size.width - 3))
        facts.styles.height = min(len(lines), max(3, self.size.height // 2))
        facts.show(self._facts)
        self.query_one("#edit").display = self._mode == "edit"
        self.query_one("#payload").display = self._mode != "edit"
        self.query_one("#field").display = self._mode in _WRITTEN
        self.refresh_bindings()
        choices = self.query_one(Choices)
        choices.is_dim = self.is_deaf or self.is_sending or bool(self.settled)
        choices.show(self._choices())

    def look_changed(self) -> None:
        self._show_payload()
        super().look_changed()

    def _show_payload(self, *, from_top: bool = False) -> None:
        if self.view is not None:
            self.query_one(Payload).show(self._payload, from_top=from_top, beside=True)

    def _payload(self, width: int) -> Sequence[Strip]:
        from kheish.tui.diff import SPLIT_WIDTH_MIN, Diff, fact_lines, json_lines, shell_lines

        arguments = self.arguments
        if self._change:
            is_split = width >= SPLIT_WIDTH_MIN and self._view != "in one column"
            diff = Diff(self._change, width, self.look, split=is_split)
            self._hunk_rows = diff.hunk_rows
            return diff
        if self.view["tool"] == "bash" and isinstance(arguments.get("command"), str):
            return shell_lines(arguments["command"], width, self.look)
        return (fact_lines if self.is_budget else json_lines)(arguments, width, self.look)

    def _facts(self, width: int) -> list[Strip]:
        if self.view is None:
            return []
        look, view = self.look, self.view
        lines = mark_lines(self._risks, width, look)
        if self._mode in ("rule", "widen"):
            verb = "allow" if self._resolution == "allow" else "deny"
            lines += fact("rule", f"{verb} {expose(self._rule)}", width, look, look.warning)
            lines += fact("which is", breadth(self._rule), width, look, look.warning)
            return [*lines, *fact("in", _WHERE[self._remember], width, look)]
        reason = one_line(view["reason"])
        if self.is_uncertain:
            lines += fact("known", reason, width, look, look.warning)
            reason = ""
        lines += fact("started", self._known.started, width, look)
        lines += fact("file", self._note, width, look, look.warning)
        if view["tool"] == "bash":
            for name, value in self.arguments.items():
                lines += fact("with", f"{expose(name)} {expose(value)}", width, look) if name != "command" else []
        lines += fact("where", expose(view["cwd"]), width, look)
        if not self.has_class("low"):
            lines += fact("run", f"{view['run_id']} of session {expose(view['session_id'])}", width, look)
        rule = f"the rule {expose(view['rule'])}" if view["rule"] else ""
        lines += fact("asked by", ", ".join(filter(None, (rule, reason))), width, look)
        if not (self.is_uncertain or self.is_budget or self._can_make_rule):
            why = "for what you changed" if self.edited is not None else "could be shown whole"
            lines += fact("no rule", why, width, look, look.dim)
        says = fact("it says", self._known.says.strip(), width, look, look.dim)
        if len(says) > SAYS_LINES_MAX:
            says = [*says[: SAYS_LINES_MAX - 1], *fact("", look.marks.ellipsis, width, look, look.dim)]
        return [*lines, *says]

    def _choices(self) -> list[tuple[str, str]]:
        match self._mode:
            case "rule":
                verb = "Allow" if self._resolution == "allow" else "Deny"
                return [("confirm", f"{verb}, and make this rule"), ("widen", "Change the rule"), ("later", "Back")]
            case "widen":
                return [("submit", "Show the rule"), ("later", "Back")]
            case "comment":
                return [("submit", "Allow"), ("later", "Back")]
            case "deny":
                return [("submit", "Deny"), ("later", "Back")]
            case "edit":
                return [("take", "Take it"), ("later", "Back")]
            case "grant":
                return [("submit", "Raise"), ("later", "Back")]
        if self.is_budget:
            return [("grant", "Raise it"), ("halt", "Stop with a last word"), ("later", "Later")]
        if self.is_uncertain:
            return [("verify", "Model checks"), ("retry", "Run it again"), ("mark_done", "It took effect"),
                    ("give_up", "Give up"), ("later", "Later")]  # fmt: skip
        return [("once", "Once"), ("comment", "Comment"), ("session", "Session"), ("always", "Always"),
                ("edit", "Edit"), ("deny", "Deny"), ("never", "Never"), ("later", "Later")]  # fmt: skip

    # -- what may be done now ------------------------------------------------------------------------------------

    @property
    def _can_make_rule(self) -> bool:
        """What cannot be shown whole is not made."""
        rule = self.view["exact_rule"]
        return self.edited is None and 0 < len(rule) <= RULE_CHARS_MAX >= len(expose(rule))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action not in _ACTIONS:
            return True
        if action == "later":
            return True
        if self.view is None or self.settled or self.is_sending:
            return False
        if action in ("view", "next", "previous"):
            return bool(self._change) and self._mode == "choose"
        if action in ("grant", "halt"):
            return self._mode == "choose" and self.is_budget
        if action in ("session", "always", "never"):
            return self._mode == "choose" and not (self.is_uncertain or self.is_budget) and self._can_make_rule
        if action in ("once", "comment", "edit", "deny"):
            return self._mode == "choose" and not (self.is_uncertain or self.is_budget)
        if action in _UNCERTAIN:
            return self._mode == "choose" and self.is_uncertain
        if action == "widen" and not self._rule.isprintable():
            return False  # a line to write on cannot show it
        return self._mode == {"confirm": "rule", "widen": "rule", "take": "edit"}[action]

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        self.draw()
        self.query_one("#field" if mode in _WRITTEN else "#edit" if mode == "edit" else "#payload").focus()

    def action_later(self) -> None:
        if self._mode == "choose" or self.settled:
            super().action_later()
        else:
            self._set_mode("rule" if self._mode == "widen" else "choose")

    def action_view(self) -> None:
        self._view = VIEWS[(VIEWS.index(self._view) + 1) % len(VIEWS)]
        self._say(f"the change {self._view}")
        self._show_payload()

    def action_next(self) -> None:
        self._go_to_change(row for row in self._hunk_rows if row > self.query_one(Payload).scroll_y)

    def action_previous(self) -> None:
        self._go_to_change(row for row in reversed(self._hunk_rows) if row < self.query_one(Payload).scroll_y)

    def _go_to_change(self, rows: Iterator[int]) -> None:
        if (row := next(rows, None)) is not None:
            self.query_one(Payload).scroll_to(y=row, animate=False)

    # -- what is answered ----------------------------------------------------------------------------------------

    def action_once(self) -> None:
        self.decide(lambda: self._resolve("allow"))

    def action_comment(self) -> None:
        self.decide(lambda: self._write("comment", "", "what the model is told with the result"))

    def action_session(self) -> None:
        self.decide(lambda: self._show_rule("allow", "session"))

    def action_always(self) -> None:
        self.decide(lambda: self._show_rule("allow", "always"))

    def action_never(self) -> None:
        self.decide(lambda: self._show_rule("deny", "always"))

    def _show_rule(self, resolution: Resolution, remember: Remember) -> None:
        self._resolution, self._remember, self._rule = resolution, remember, self.view["exact_rule"]
        self._set_mode("rule")
        self.arm()

    def action_confirm(self) -> None:
        rule = self._rule if self._rule != self.view["exact_rule"] else None
        self.decide(lambda: self._resolve(self._resolution, remember=self._remember, rule=rule))

    def action_widen(self) -> None:
        self._write("widen", self._rule, "tool or tool(pattern); * stands for any text")

    def action_deny(self) -> None:
        self.decide(lambda: self._write("deny", "", "why; the model is told"))

    def _write(self, mode: str, value: str, prompt: str) -> None:
        field = self.query_one("#field", Input)
        field.value, field.placeholder = value, prompt
        self._set_mode(mode)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        value = event.value.strip()
        if self._mode in _ANSWERS:
            resolution = _ANSWERS[self._mode]
            self.decide(lambda: self._resolve(resolution, justification=value or None))
        elif self._mode == "grant":
            self._grant(value)
        elif self._mode == "widen":
            self._rule = value or self.view["exact_rule"]
            self._set_mode("rule")
            self.arm()

    def action_grant(self) -> None:
        more = example(self.view["budget"]["reached"])
        self.decide(lambda: self._write("grant", "", f"by how much, such as {more}"))

    def _grant(self, text: str) -> None:
        try:
            amount = read_raise(text, self.view["budget"]["reached"])
        except Invalid as error:
            self._say(error.message)
            return
        self.decide(lambda: self._resolve("raise", raise_by=amount))

    def action_halt(self) -> None:
        self.decide(lambda: self._resolve("stop"))

    def action_verify(self) -> None:
        self.decide(lambda: self._resolve("verify"))

    def action_retry(self) -> None:
        self.decide(lambda: self._resolve("retry"))

    def action_mark_done(self) -> None:
        self.decide(lambda: self._resolve("mark_done"))

    def action_give_up(self) -> None:
        self.decide(lambda: self._resolve("give_up"))

    def _resolve(
        self,
        resolution: Resolution,
        *,
        remember: Remember | None = None,
        rule: str | None = None,
        justification: str | None = None,
        raise_by: BudgetBody | None = None,
    ) -> None:
        """To what is shown, and to nothing else."""
        view: ApprovalView = self.view
        edited = self.edited if resolution == "allow" else None
        self.send(
            lambda key: self.client.approvals.resolve(
                view["request_id"], resolution, if_digest=view["digest"], remember=remember, rule=rule,
                updated_input=edited, raise_by=raise_by, justification=justification, key=key,
            )
        )  # fmt: skip

    # -- editing -------------------------------------------------------------------------------------------------

    def action_edit(self) -> None:
        self.decide(self._edit)

    def _edit(self) -> None:
        text = to_text(self.arguments)
        try:
            changed = self._edit_outside(text)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            self.kheish.say(Invalid(f"cannot edit: {error}"))
            changed = None
        if changed is None:
            self._write_here(text)
        else:
            self._take(changed)

    def _edit_outside(self, text: str) -> str | None:
        """In the person's own editor; None where there is none, or no terminal to give it."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not editor:
            return None
        try:
            with self.app.suspend():
                return edit_outside(text, shlex.split(editor), ".json")
        except SuspendNotSupported:
            return None

    def _write_here(self, text: str) -> None:
        self.query_one(TextArea).text = text
        self._set_mode("edit")

    def action_take(self) -> None:
        self._take(self.query_one(TextArea).text)

    def _take(self, text: str) -> None:
        """Shows what was written in place of what was asked; what is no use stays to be mended."""
        try:
            arguments = parse_arguments(text, self._schema)
        except Invalid as error:
            self._write_here(text)
            self._say(error.message)
            return
        self.edited = arguments if arguments != self.view["input"] else None
        self._set_mode("choose")
        self._look_at_call()
        self.arm()
        self.draw()


_ACTIONS = {action.name for action in ACTIONS if action.where in ("approval", "uncertain", "budget")}


def mark_lines(found: Sequence[Risk], width: int, look: Look) -> list[Strip]:
    """What was seen in the call, as many to a line as there is room for."""
    seen: dict[str, list[str]] = {}
    for risk in found:
        seen.setdefault(risk.what, []).append(one_line(expose(risk.where)))
    lines: list[list[tuple[str, Style | None]]] = []
    room = 0
    for number, (risk_name, places) in enumerate(seen.items()):
        what = f"{look.marks.waiting} {risk_name} "
        where = cut_columns(", ".join(places), max(8, min(60, width - cell_len(what))), look.marks.ellipsis)
        length = cell_len(what) + cell_len(where) + 3
        if length > room + 3:
            if len(lines) == MARK_LINES_MAX:
                lines.append([(f"  {len(seen) - number} more", look.error)])
                break
            lines.append([])
            room = width
        lines[-1] += [(what, look.error), (f"{where}   ", look.text)]
        room -= length
    return [strip_of(*line) for line in lines]


def breadth(rule: str) -> str:
    """What a person may not see in a rule."""
    tool, bracket, _ = rule.partition("(")
    if not bracket:
        return f"every call of {expose(tool)}, whatever its arguments"
    return "any content for this path" if tool in ("write_file", "edit_file") else ""


def started_text(event: Any, now_ms: int) -> str:
    attempt = f", attempt {event['attempt']}" if event["attempt"] > 1 else ""
    return f"{clock(event['at_ms'])[:8]}, {ago(event['at_ms'], now_ms)} ago{attempt}"


def ended_text(event: Any) -> str:
    return f"its process {event['pid']} {'was ended' if event['killed'] else 'had ended'} then"
