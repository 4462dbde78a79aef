"""Journal records as lines for people: one line a fact that matters, the rest left out."""

from __future__ import annotations

import json

from kheish.amounts import say_account
from kheish.terminal import clean, counted, cut, expose, last_written, one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from kheish.client import AnyEvent, RecordView
    from kheish.client.views import Answer, Budget, BudgetBody, ContextCompacted, PlanItem, Standing

WIDTH = 200
READ_PER_COLUMN = 8
"""Characters of a text; blanks, which become one, take more than they show."""
PLAN_TOOL = "todo_write"
BOXES = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}
CUT_REPLY = "the reply ends where it had as many tokens as it may have; it is not whole"
_WHY = {
    "failover": "the one before failed",
    "cooling": "the one before is spared",
    "returned": "the first of the chain again",
}


def call_text(tool: str, arguments: dict[str, Any], width: int = WIDTH) -> str:
    """`bash: make test`, with what matters of the arguments; a line end within them is shown as one."""
    for name in ("command", "path", "pattern"):
        if isinstance(arguments.get(name), str):
            return f"{tool}: {_visible(arguments[name], width)}"
    if tool == PLAN_TOOL:
        return f"{tool}: {one_line(plan_text(plan_of(arguments)), width)}"
    if tool == "budget" and isinstance(arguments.get("used"), str):
        return f"budget of {one_line(arguments.get('budget', ''))}: {one_line(arguments['used'], width)} used"
    if tool == "ask_user_question":
        questions = arguments.get("questions") or [{}]
        return f"{tool}: {one_line(questions[0].get('question', ''), width)}"
    return f"{tool} {_visible(json.dumps(arguments, ensure_ascii=False), width)}"


def plan_of(arguments: dict[str, Any]) -> list[PlanItem]:
    """The list that a call of `todo_write` hands in; empty where it is none."""
    todos = arguments.get("todos")
    return [
        {"content": str(todo.get("content", "")), "status": todo["status"]}
        for todo in (todos if isinstance(todos, list) else ())
        if isinstance(todo, dict) and todo.get("status") in tuple(BOXES)
    ]


def plan_text(plan: Sequence[PlanItem]) -> str:
    """`2/7 done, now: write the tests`: how far it is, and what is worked at or comes next; "" where there is none."""
    if (at := plan_place(plan)) is None:
        return plan_done(plan)
    when = "now" if plan[at]["status"] == "in_progress" else "next"
    return f"{plan_done(plan)}, {when}: {plan[at]['content']}"


def plan_done(plan: Sequence[PlanItem]) -> str:
    return f"{sum(item['status'] == 'completed' for item in plan)}/{len(plan)} done" if plan else ""


def plan_place(plan: Sequence[PlanItem]) -> int | None:
    """The item that is worked at now, or comes next; None where all is done."""
    places = {item["status"]: i for i, item in reversed([*enumerate(plan)])}
    return places.get("in_progress", places.get("pending"))


_WHY_COMPACTED = {
    "window": "it came near the model's window",
    "too_large": "the provider found it too large",
    "requested": "as asked for",
}


def compaction_text(event: ContextCompacted) -> str:
    count = event["messages"]
    how = f"{counted(count, 'message')} " + ("summed up" if event.get("summary") else "left out, without a summary")
    return (
        f"context compacted, {_WHY_COMPACTED[event['reason']]}: {how if count else 'long results cut'}, about "
        f"{event['tokens_before']:,} -> {event['tokens_after']:,} tokens"
    )


def _visible(text: str, width: int) -> str:
    """On one line; no more of the text is read than may be in sight."""
    text = text.strip()
    read = text[: READ_PER_COLUMN * width] if width else text
    line = " ".join(expose("⏎ ".join(read.splitlines())).split())
    return cut(line + "…" * (len(read) < len(text)), width)


def account_text(standing: Standing) -> str:
    """Whose budget it is."""
    return one_line(say_account(standing["account"]))


def limits_text(budget: Budget | BudgetBody) -> str:
    """`$1.00, 20 steps`."""
    cost, time = budget.get("cost_usd"), budget.get("wall_ms")
    parts = [f"${cost:.2f}" if cost is not None else "", f"{time / 60_000:g} minutes" if time is not None else ""]
    parts += [f"{budget[name]:,} {name}" for name in ("tokens", "steps") if budget.get(name) is not None]
    return ", ".join(filter(None, parts))


class Renderer:
    """Remembers what a later fact refers to: the call of an approval, the options of a question, a queued input."""

    def __init__(self) -> None:
        self._queued: dict[str, str] = {}
        self._calls: dict[str, str] = {}
        self._requests: dict[str, tuple[str, str]] = {}
        self._labels: dict[tuple[str, str, str], str] = {}
        self._steered: dict[str, str] = {}
        self._summary_call = ""

    def lines(self, record: RecordView) -> Iterator[tuple[str, str]]:
        """(text, colour) of each fact worth a line."""
        by = record["by"]
        who = str(by.get("principal", ""))
        for event in record["events"]:
            line = self._line(event, who, str(by.get("origin", "")), record)
            if line is not None:
                yield clean(line[0]), line[1]

    def call(self, tool_call_id: str) -> str:
        return self._calls.get(tool_call_id, "a tool call")

    def _line(self, event: AnyEvent, who: str, origin: str, record: RecordView) -> tuple[str, str] | None:
        if event["type"] == "model_call.started" and event.get("purpose", "reply") == "summary":
            self._summary_call = event["model_call_id"]
        match event["type"]:
            case "session.created":
                return f"session {event['session_id']} created by {who} ({origin}) in {event['cwd']}", "bold"
            case "session.forked":
                place = f"{event['from_session_id']} at record {event['from_seq']}"
                return f"forked from {place}: {counted(len(event['messages']), 'message')}", "bold"
            case "session.ended":
                return f"session ended by {who}: {one_line(event.get('reason', ''))}".rstrip(": "), "bold"
            case "session.mode_changed":
                return f"permission mode {event['mode']}, set by {who}", "yellow"
            case "session.model_changed":
                return f"its runs take {one_line(event['model']) or 'what the daemon does'}, set by {who}", "yellow"
            case "session.renamed":
                return f"{who} gave it the title {one_line(event['title'])!r}", ""
            case "record.labelled":
                which, label = f"record {event['labelled_seq']}", one_line(event["label"])
                return f"{who} labelled {which} {label!r}" if label else f"{who} took the label of {which} away", ""
            case "session.rule_added":
                rule = event["rule"]
                return f"rule added by {who}: {rule['behavior']} {rule['pattern']}", "yellow"
            case "session.budget_set":
                return f"budget set by {who}: {limits_text(event['budget']) or 'none'}", "yellow"
            case "budget.warned":
                return f"most of the budget of {account_text(event['standing'])} is used", "yellow"
            case "budget.stopped":
                return f"stops: the budget of {account_text(event['standing'])} is used up", "yellow"
            case "session.recovered":
                torn = event.get("tail_bytes_dropped", 0)
                note = f"; {counted(torn, 'torn byte')} set aside" if torn else ""
                return (
                    f"the daemon of generation {event['died_generation']} had died; "
                    f"generation {record['generation']} goes on{note}",
                    "yellow",
                )
            case "run.submitted" if event.get("input_id"):
                self._steered.pop(event["input_id"], None)
                text = one_line(event["text"], WIDTH)
                return f"the run did not take this in; it comes next, as {event['run_id']}: {text}", "yellow"
            case "run.submitted":
                self._queued[event["run_id"]] = one_line(event["text"], WIDTH)
                return f"{who} ({origin}): {self._queued[event['run_id']]}", "bold"
            case "run.started":
                self._queued.pop(event["run_id"], None)
                return None
            case "run.edited":
                self._queued[event["run_id"]] = one_line(event["text"], WIDTH)
                return f"{who} changed the queued input: {one_line(event['text'], WIDTH)}", ""
            case "run.moved":
                return f"{who} moved a queued input to place {event['position']}", ""
            case "queue.paused":
                return f"{who} paused the queue", "yellow"
            case "queue.resumed":
                return f"{who} let the queue go on", ""
            case "input.entered":
                self._steered.pop(event["input_id"], None)
                return None
            case "input.steered":
                self._steered[event["input_id"]] = event["run_id"]
                return f"{who} ({origin}) steers: {one_line(event['text'], WIDTH)}", "bold"
            case "run.completed":
                return "run completed", "green"
            case "run.failed":
                self._queued.pop(event["run_id"], None)
                why = one_line(event["message"], WIDTH)
                return f"run failed{self._lost(event['run_id'])} ({event['code']}): {why}", "red"
            case "run.cancelled" | "run.interrupted":
                how, why = event["type"].partition(".")[2], one_line(event.get("reason", ""))
                queued = self._queued.pop(event["run_id"], "")
                what = f"queued {one_line(queued, 60)!r}" if queued else "run"
                return f"{what} {how} by {who}{self._lost(event['run_id'])}: {why}".rstrip(": "), "yellow"
            case "model_call.completed" if event.get("purpose", "reply") == "reply":
                for request in event.get("tool_requests", ()):
                    self._calls[request["tool_call_id"]] = call_text(request["tool"], request["arguments"])
                text = one_line(event["text"], WIDTH)
                if event.get("stop_reason") == "max_tokens":
                    return f"model: {text} [{CUT_REPLY}]", "yellow"
                return (f"model: {text}", "") if text else None
            case "model_call.retrying":
                seconds = max(event["retry_at_ms"] - record["at_ms"], 0) / 1000
                wait = f"{seconds:.0f}" if seconds >= 10 else f"{round(seconds, 1):g}"
                return f"retrying in {wait} s: {event['code']}: {one_line(event['message'], WIDTH)}", "yellow"
            case "model_call.started" if event.get("reason", "primary") not in ("primary", "retry", "resumed"):
                return f"takes {event['route']}/{event['model']} ({_WHY[event['reason']]})", "yellow"
            case "model_call.started" if event.get("purpose", "reply") == "summary":
                return "asks for a summary of what went before", "dim"
            case "model_call.failed" if event["code"] == "nothing_to_compact":
                return f"no summary: {event['message']}", "dim"
            case "model_call.failed" if event["model_call_id"] == self._summary_call:
                return f"no summary: {event['code']}: {one_line(event['message'], WIDTH)}", "yellow"
            case "context.compaction_requested":
                return f"{who} asked for a compaction before the next model call", ""
            case "context.compacted":
                return compaction_text(event), "yellow"
            case "model_call.died":
                return "the model call was cut off; it is made again", "yellow"
            case _:
                return self._tool_line(event, who)

    def _tool_line(self, event: AnyEvent, who: str) -> tuple[str, str] | None:
        call = self.call(str(event.get("tool_call_id", "")))
        is_plan = call.startswith(f"{PLAN_TOOL}: ")
        match event["type"]:
            case "tool_call.started" if is_plan:
                return None
            case "tool_call.completed" if is_plan and not event.get("is_error"):
                return f"plan {call.removeprefix(f'{PLAN_TOOL}: ')}", "cyan"
            case "tool_call.decided" if event["behavior"] == "deny":
                return f"denied {call} (rule {event['rule']}): {one_line(event.get('reason', ''))}".rstrip(": "), "red"
            case "tool_call.started":
                again = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
                process = event.get("process")
                pid = f" [pid {process['pid']}]" if process else ""
                return f"started {call}{again}{pid}", "cyan"
            case "tool_call.completed" if event.get("is_error"):
                return f"{call} -> {one_line(last_written(event['output']), 120)}", "red"
            case "tool_call.completed":
                return f"{call} -> {one_line(last_written(event['output']), 120)}", "dim"
            case "tool_call.became_uncertain":
                return f"nobody knows whether this took effect: {call}", "yellow"
            case "tool_call.died":
                return f"cut off, runs again: {call}", "yellow"
            case "approval.requested":
                self._calls[event["tool_call_id"]] = call_text(event["tool"], event["arguments"])
                self._requests[event["request_id"]] = event["tool_call_id"], event["tool"]
                whats = {"tool_call": "approval", "budget": "decision (budget used up)"}
                what = whats.get(event.get("kind", "tool_call"), "decision (outcome unknown)")
                return f"waits for {what} {event['request_id']}: {self.call(event['tool_call_id'])}", "yellow"
            case "approval.resolved":
                why = one_line(event.get("justification", ""))
                edited = event.get("updated_input")
                if edited is not None:
                    tool_call_id, tool = self._requests.get(event["request_id"], ("", "the call"))
                    self._calls[tool_call_id] = call_text(tool, edited)
                    why = f"edited to {self._calls[tool_call_id]} {why}"
                if raised := event.get("raise_by"):
                    why = f"by {limits_text(raised)} {why}"
                return f"{event['request_id']}: {event['resolution']} by {event['principal']} {why}".rstrip(), "green"
            case "approval.withdrawn" | "question.withdrawn":
                return f"{event['request_id']} withdrawn: {one_line(event['reason'])}", "dim"
            case "question.requested":
                for q in event["questions"]:
                    for option in q.get("options", ()):
                        self._labels[event["request_id"], q["id"], option["id"]] = option["label"]
                texts = " / ".join(one_line(q["question"], 120) for q in event["questions"])
                return f"asks {event['request_id']}: {texts}", "yellow"
            case "question.answered":
                if event.get("declined"):
                    return f"{event['request_id']}: declined by {event['principal']}", "green"
                answers = " / ".join(self._answer(event["request_id"], a) for a in event.get("answers", ()))
                return f"{event['request_id']}: answered by {event['principal']}: {answers}", "green"
            case "process.ended":
                return f"process {event['pid']} {'was ended' if event.get('killed') else 'had ended'}", "dim"
        return None

    def _lost(self, run_id: str) -> str:
        """What steered a run and is dropped with its end."""
        lost = [*self._steered.values()].count(run_id)
        return f" before it took in {counted(lost, 'input')} that steered it" if lost else ""

    def _answer(self, request_id: str, answer: Answer) -> str:
        question_id = answer["question_id"]
        chosen = [self._labels.get((request_id, question_id, o), o) for o in answer.get("selected_option_ids", ())]
        return one_line(", ".join([*chosen, *filter(None, [answer.get("freeform_answer", "")])]), 120)
