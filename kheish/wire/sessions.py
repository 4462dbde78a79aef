"""Sessions on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from kheish.core.compaction import context_tokens, is_estimate
from kheish.core.events import AssistantMessage, Message, Mode, ToolMessage, UserMessage
from kheish.core.state import Run, State, last_run_status, status_of
from kheish.limits import PAGE_BYTES_MAX, RECORD_LABEL_CHARS_MAX
from kheish.wire.body import Body, OptionalSession, View
from kheish.wire.budgets import BudgetView, SpentView, spent_view
from kheish.wire.permissions import RuleView, rule_view

TITLE_CHARS_MAX = 200
SessionStatus = Literal["idle", "running", "waiting_for_approval", "waiting_for_user_question", "ended"]


class CreateSession(Body, frozen=True):
    """`session_id` may be chosen (then creating is idempotent). `cwd` is the workspace; `default_cwd` is taken only
    where the session is new and `cwd` is absent, so that a client can send where it stands without a conflict. A new
    one has the daemon's mode unless another is given."""

    session_id: OptionalSession = ""
    cwd: str = ""
    default_cwd: str = ""
    permission_mode: Mode | None = None
    title: Annotated[str, msgspec.Meta(max_length=TITLE_CHARS_MAX)] = ""


class ForkSession(Body, frozen=True):
    """`at` is the record of the other session up to which the transcript is copied; 0 is the last that can be
    forked at. Without `title` it says where it comes from."""

    session_id: OptionalSession = ""
    at: Annotated[int, msgspec.Meta(ge=0)] = 0
    title: Annotated[str, msgspec.Meta(max_length=TITLE_CHARS_MAX)] | None = None


class EndSession(Body, frozen=True):
    reason: Annotated[str, msgspec.Meta(max_length=4000)] = ""


class SetPermissionMode(Body, frozen=True):
    mode: Mode


class SetModel(Body, frozen=True):
    """A chain, `[route/]model`, or "" for the daemon's."""

    model: Annotated[str, msgspec.Meta(max_length=400)]


class SetTitle(Body, frozen=True):
    title: Annotated[str, msgspec.Meta(max_length=TITLE_CHARS_MAX)]


class LabelRecord(Body, frozen=True):
    """`seq` is a record of the session; an empty `label` takes away the one that it has."""

    seq: Annotated[int, msgspec.Meta(ge=1)]
    label: Annotated[str, msgspec.Meta(max_length=RECORD_LABEL_CHARS_MAX)]


class LabelView(View, frozen=True):
    """A bookmark in the session's timeline."""

    seq: int
    label: str


class ContextView(View, frozen=True):
    """What models are shown of the session: `tokens` as a provider counted them, and with `is_estimate` an estimate of
    what came since. `window_tokens` is what the model takes that the newest run uses, 0 where nobody knows. `left_out`
    counts messages that models are shown no longer, after so many `compactions`; `compaction_requested`: the next model
    call is preceded by one."""

    tokens: int
    window_tokens: int
    is_estimate: bool
    compactions: int
    left_out: int
    compaction_requested: bool


class SessionView(View, frozen=True):
    session_id: str
    status: SessionStatus
    cwd: str
    title: str
    permission_mode: Mode
    created_at_ms: int
    updated_at_ms: int
    ended: bool
    seq: int
    active_run_id: str
    queued_run_ids: list[str]
    pending_approval_ids: list[str]
    pending_question_ids: list[str]
    runs_total: int
    headline: str = ""
    last_run_status: str = ""
    """How the newest of the runs that are over ended."""
    problem: str = ""
    """Why the session is read-only, if it is."""
    attached: int = 0
    """Clients that follow it now."""
    rules: list[RuleView] | None = None
    """In the view of one session, not in lists."""
    model: str = ""
    """What its runs take that name none; likewise."""
    budget: BudgetView | None = None
    """Likewise; null where there is none."""
    parent_run_id: str = ""
    """The run whose process made it, and for whose budget it counts, too."""
    context: ContextView | None = None
    """Likewise."""
    labels: list[LabelView] | None = None
    """Of its records, by their seq; likewise."""
    used: SpentView | None = None
    """By all its runs; likewise."""
    queue_paused: bool = False
    """No queued run starts."""


class MessageView(View, frozen=True):
    role: Literal["user", "assistant", "tool"]
    text: str
    tool: str = ""
    tool_call_id: str = ""
    is_error: bool = False
    tool_requests: list[dict[str, Any]] = []
    attachments: list[str] = []
    reasoning: str = ""


class TranscriptView(View, frozen=True):
    """`items` are the messages from position `first` on, fewer than asked for where they are large; `total` counts them
    all."""

    session_id: str
    total: int
    first: int
    items: list[MessageView]


class InterruptView(View, frozen=True):
    interrupted: bool
    run_id: str
    session: SessionView


def session_status(ended: bool, active_status: str) -> SessionStatus:
    if ended:
        return "ended"
    return active_status or "idle"  # type: ignore[return-value]


def session_view(state: State, seq: int, attached: int = 0, budget: BudgetView | None = None) -> SessionView:
    active = state.active_run
    latest: Run | None = active or (next(reversed(state.runs.values())) if state.runs else None)
    return SessionView(
        session_id=state.session_id,
        status=session_status(state.ended, status_of(state, active) if active else ""),
        cwd=state.cwd,
        title=state.title,
        permission_mode=state.mode,
        created_at_ms=state.created_at_ms,
        updated_at_ms=state.updated_at_ms,
        ended=state.ended,
        seq=seq,
        active_run_id=state.active,
        queued_run_ids=list(state.queue),
        pending_approval_ids=list(state.approvals),
        pending_question_ids=list(state.questions),
        runs_total=state.runs_total,
        headline=latest.text[:200] if latest else "",
        last_run_status=last_run_status(state),
        attached=attached,
        rules=[rule_view(rule) for rule in state.rules],
        model=state.model,
        budget=budget,
        parent_run_id=state.parent_run_id,
        context=context_view(state, latest),
        labels=[LabelView(seq=labelled, label=label) for labelled, label in sorted(state.labels.items())],
        used=spent_view(state.used),
        queue_paused=state.queue_paused,
    )


def context_view(state: State, latest: Run | None) -> ContextView:
    return ContextView(
        tokens=context_tokens(state),
        window_tokens=max(0, latest.chain[latest.hop].window_tokens) if latest else 0,
        is_estimate=is_estimate(state),
        compactions=state.compactions,
        left_out=state.left_out,
        compaction_requested=state.compaction_requested,
    )


def message_view(message: Message) -> MessageView:
    match message:
        case UserMessage():
            return MessageView(role="user", text=message.text, attachments=[a.name for a in message.attachments])
        case AssistantMessage():
            return MessageView(
                role="assistant",
                text=message.text,
                reasoning=message.reasoning,
                tool_requests=[
                    {"tool_call_id": r.tool_call_id, "tool": r.tool, "input": r.arguments}
                    for r in message.tool_requests
                ],
            )
        case ToolMessage():
            return MessageView(
                role="tool",
                text=message.text,
                tool=message.tool,
                tool_call_id=message.tool_call_id,
                is_error=message.is_error,
            )


def transcript_view(session_id: str, messages: Sequence[Message], first: int | None, limit: int) -> TranscriptView:
    """Those from `first` on, or the last ones; fewer than `limit` where they are large."""
    chosen = messages[-limit:][::-1] if first is None else messages[first : first + limit]
    items: list[MessageView] = []
    size = 0
    for message in chosen:
        items.append(message_view(message))
        size += len(msgspec.json.encode(items[-1], enc_hook=str))
        if size >= PAGE_BYTES_MAX:
            break
    if first is None:
        items.reverse()
        first = len(messages) - len(items)
    return TranscriptView(session_id=session_id, total=len(messages), first=first, items=items)
