"""One run, folded from its records: steps, attempts, usage, tool calls, and who decided about those. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kheish.client import AnyEvent, RecordView
from kheish.narration import compaction_text, limits_text
from kheish.tui.live import OVER, duration

if TYPE_CHECKING:
    from kheish.client.views import Usage

STEPS_KEPT = 500


@dataclass
class Attempt:
    """`outcome` is `running`, `completed`, `retried`, `failed` or `cut off`."""

    number: int
    started_ms: int
    ended_ms: int = 0
    outcome: str = "running"
    detail: str = ""
    purpose: str = "reply"


@dataclass
class ToolCall:
    """`decisions` says in order who or what decided whether it may run. `outcome` is empty until it is known. Or, as
    `is_budget`, a budget that was used up and what was decided about it."""

    tool: str
    arguments: dict[str, Any]
    decisions: list[str] = field(default_factory=list)
    attempts: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    outcome: str = ""
    asked_ms: int = 0
    is_budget: bool = False


@dataclass
class Step:
    """`compactions` says in words what became of the context before its reply."""

    number: int
    attempts: list[Attempt] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    model: str = ""
    usage: Usage | None = None
    compactions: list[str] = field(default_factory=list)


_REFUSED = {"deny": "denied", "give_up": "denied", "stop": "not raised"}


class Story:
    """The newest steps of a run; `steps_dropped` counts those before. Records come in order, as often as they like."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.seq = 0
        self.steps: deque[Step] = deque(maxlen=STEPS_KEPT)
        self.steps_dropped = 0
        self.started_ms = self.ended_ms = 0
        self.outcome = ""
        self._calls: dict[str, ToolCall] = {}
        self._requests: dict[str, ToolCall] = {}

    def apply(self, record: RecordView) -> None:
        if record["seq"] <= self.seq:
            return
        self.seq = record["seq"]
        for event in record["events"]:
            if event.get("run_id") == self.run_id:
                self._apply(event, record["at_ms"])

    def _apply(self, event: AnyEvent, at_ms: int) -> None:
        match event["type"]:
            case "run.started":
                self.started_ms = event["at_ms"]
            case "run.completed" | "run.failed" | "run.cancelled" | "run.interrupted":
                self.ended_ms, self.outcome = event["at_ms"], OVER[event["type"]]
                if self.steps and self.steps[-1].attempts[-1].outcome == "running":
                    self._end_attempt(self.outcome, at_ms)
                for asked in self._requests.values():
                    asked.outcome = self.outcome
                self._requests.clear()
            case "model_call.started":
                if not self.steps or self.steps[-1].number != event["step"]:
                    self._begin_step(event["step"])
                purpose = event.get("purpose", "reply")
                self.steps[-1].attempts.append(Attempt(event["attempt"], event["at_ms"], purpose=purpose))
            case "model_call.completed":
                self._end_attempt("completed", event["at_ms"])
                if self.steps and event.get("purpose", "reply") == "reply":
                    step = self.steps[-1]
                    step.model, step.usage = event.get("model", ""), event.get("usage")
                for request in event.get("tool_requests", ()):
                    self._call(request["tool_call_id"], request["tool"], request["arguments"])
            case "model_call.retrying":
                self._end_attempt("retried", at_ms, f"{event['code']}: {event['message']}")
            case "model_call.failed":
                self._end_attempt("failed", at_ms, f"{event['code']}: {event['message']}")
            case "model_call.died":
                self._end_attempt("cut off", at_ms, "the daemon died")
            case "context.compacted" if self.steps:
                self.steps[-1].compactions.append(compaction_text(event))
            case _:
                self._apply_to_call(event, at_ms)

    def _begin_step(self, number: int) -> None:
        if len(self.steps) == STEPS_KEPT:
            self.steps_dropped += 1
            self._calls.clear()
        self.steps.append(Step(number))

    def _end_attempt(self, outcome: str, at_ms: int, detail: str = "") -> None:
        if self.steps and self.steps[-1].attempts:
            attempt = self.steps[-1].attempts[-1]
            attempt.outcome, attempt.ended_ms, attempt.detail = outcome, at_ms, detail

    def _call(self, tool_call_id: str, tool: str, arguments: dict[str, Any]) -> ToolCall:
        call = self._calls.get(tool_call_id)
        if call is None:
            call = self._calls[tool_call_id] = ToolCall(tool, arguments)
            if self.steps:
                self.steps[-1].calls.append(call)
        return call

    def _apply_to_call(self, event: AnyEvent, at_ms: int) -> None:
        call = self._calls.get(str(event.get("tool_call_id", "")))
        match event["type"]:
            case "tool_call.decided" if call is not None:
                rule = (
                    f"{event['behavior']} by the rule {event['rule']} ({event['rule_scope']}) in {event['mode']} mode"
                )
                call.decisions.append(rule + (f": {event['reason']}" if event.get("reason") else ""))
                if event["behavior"] == "deny":
                    call.outcome = "denied"
            case "approval.requested":
                call = self._call(event["tool_call_id"] or event["request_id"], event["tool"], event["arguments"])
                call.asked_ms = event["requested_at_ms"]
                call.outcome = "waits for an approval"
                call.is_budget = event.get("kind") == "budget"
                self._requests[event["request_id"]] = call
            case "approval.resolved":
                asked = self._requests.pop(event["request_id"], None)
                if asked is not None:
                    asked.decisions.append(_resolution(event, asked, at_ms))
                    asked.outcome = _REFUSED.get(event["resolution"], "")
            case "approval.withdrawn":
                asked = self._requests.pop(event["request_id"], None)
                if asked is not None:
                    asked.decisions.append(f"no longer asked: {event['reason']}")
                    asked.outcome = "withdrawn"
            case "question.requested" if call is not None:
                call.outcome, call.asked_ms = "waits for an answer", event["requested_at_ms"]
                self._requests[event["request_id"]] = call
            case "question.answered" | "question.withdrawn":
                asked = self._requests.pop(event["request_id"], None)
                if asked is not None:
                    who = f" by {event['principal']}" if event["type"] == "question.answered" else ""
                    asked.outcome = event["type"].partition(".")[2] + who
            case "tool_call.started" if call is not None:
                call.attempts, call.outcome = event["attempt"], "running"
                call.started_ms = call.started_ms or event["at_ms"]
            case "tool_call.completed" if call is not None:
                call.ended_ms = event["at_ms"]
                if call.outcome not in ("denied",) and not call.outcome.startswith("answered"):
                    call.outcome = "failed" if event.get("is_error") else "done"
            case "tool_call.became_uncertain" if call is not None:
                call.outcome = "nobody knows whether it took effect"
            case "tool_call.died" if call is not None:
                call.outcome = "cut off; it runs again"


def _resolution(event: Any, call: ToolCall, at_ms: int) -> str:
    parts = [f"{event['resolution'].replace('_', ' ')} by {event['principal']} after {duration(at_ms - call.asked_ms)}"]
    if event.get("raise_by") is not None:
        parts.append(f"by {limits_text(event['raise_by'])}")
    if event.get("updated_input") is not None:
        call.arguments = event["updated_input"]
        parts.append("with other arguments")
    if event.get("remember", "once") != "once":
        rule = event.get("rule") or {}
        parts.append(f"and for {event['remember']}: {rule.get('behavior', '')} {rule.get('pattern', '')}".rstrip(": "))
    if event.get("justification"):
        parts.append(f"({event['justification']})")
    return " ".join(parts)
