"""Runs and inputs on the wire."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from kheish.core.commands import Outside
from kheish.core.events import NO_BUDGET, Attachment, Budget, Delivery, Hop, OnBudget
from kheish.core.plans import PlanItem
from kheish.core.state import Run, RunStatus, State, status_of
from kheish.core.why import Attempt
from kheish.limits import INPUT_CHARS_MAX, QUEUED_RUNS_MAX
from kheish.wire.approvals import ApprovalView, approval_view
from kheish.wire.body import Body, View
from kheish.wire.budgets import BudgetBody, BudgetView, nearly_used_views, run_budget_view
from kheish.wire.questions import QuestionView, question_view

PREVIEW_CHARS = 200


_ONE_OF = [
    {"required": [given], "properties": {given: {"type": "string"}, other: {"type": "null"}}}
    for given, other in (("text", "content_base64"), ("content_base64", "text"))
]
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


class InputAttachment(Body, frozen=True):
    """A file in the input: `text`, or any bytes as `content_base64`."""

    file_name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    media_type: Annotated[str, msgspec.Meta(max_length=100)] = "text/plain"
    text: str | None = None
    content_base64: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": _BASE64})] | None = None


class SubmitInput(Body, frozen=True):
    """`model` is `[route/]model`. `delivery` says what happens while a run is active: `queue`, `steer` (it enters at
    the next safe boundary of that run) or `interrupt`. `metadata` is kept with the run and not shown to the model. At
    the limit of a `budget`, its own or one that it counts for, the run asks, or with `on_budget` `stop` it stops with a
    last word. `pinned`: the input stays in what models are shown when the context is compacted."""

    content: Annotated[str, msgspec.Meta(max_length=INPUT_CHARS_MAX)]
    model: str | None = None
    delivery: Delivery = "queue"
    attachments: Annotated[
        list[Annotated[InputAttachment, msgspec.Meta(extra_json_schema={"oneOf": _ONE_OF})]],
        msgspec.Meta(max_length=32),
    ] = []
    metadata: dict[str, Any] = {}
    budget: BudgetBody | None = None
    on_budget: OnBudget = "ask"
    pinned: bool = False


class EditInput(Body, frozen=True):
    content: Annotated[str, msgspec.Meta(min_length=1, max_length=INPUT_CHARS_MAX)]


class MoveInput(Body, frozen=True):
    """`position` counts from 1."""

    position: Annotated[float, msgspec.Meta(ge=1, le=QUEUED_RUNS_MAX, multiple_of=1)]


class StopRun(Body, frozen=True):
    reason: Annotated[str, msgspec.Meta(max_length=4000)] = ""


class RunError(View, frozen=True):
    code: str
    message: str


class UsageView(View, frozen=True):
    """Of all model calls of the run that were completed."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class WhyView(View, frozen=True):
    """`hops` is the chain of the run; `lines` tells in words what `attempts` says."""

    run_id: str
    session_id: str
    status: RunStatus
    hops: list[Hop]
    attempts: list[Attempt]
    lines: list[str]


class RequestSummary(View, frozen=True):
    text_preview: str
    provider: str
    model: str
    principal: str
    origin: str
    approval_count: int
    question_count: int


class RunView(View, frozen=True):
    """`queued_position` is 0 for the active run and counts from 1 in the queue; null once it is over. `outputs` holds
    the last text of the model. `step` counts model calls from 1; `attempt` the tries of the present one. `plan` is what
    the run's last `todo_write` said."""

    run_id: str
    session_id: str
    kind: str
    status: RunStatus
    submitted_at_ms: int
    updated_at_ms: int
    started_at_ms: int | None
    finished_at_ms: int | None
    queued_position: int | None
    step: int
    attempt: int
    plan: list[PlanItem]
    request: RequestSummary
    input_attachments: list[Attachment]
    input_metadata: dict[str, Any]
    pending_approval_ids: list[str]
    pending_approvals: list[ApprovalView]
    pending_question_ids: list[str]
    pending_questions: list[QuestionView]
    outputs: list[str]
    usage: UsageView
    error: RunError | None
    budget: BudgetView | None = None
    budgets_nearly_used: list[BudgetView] = []
    """Of all that the active run is kept within, the nearest first."""


def run_view(state: State, run: Run, outside: tuple[Outside, ...] = (), session_budget: Budget = NO_BUDGET) -> RunView:
    """`outside` is what other sessions make of its budgets, `session_budget` the daemon's default."""
    approvals = [a for a in state.approvals.values() if a.run_id == run.run_id]
    questions = [q for q in state.questions.values() if q.run_id == run.run_id]
    position = None
    if run.run_id in state.queue:
        position = state.queue.index(run.run_id) + 1
    elif run.run_id == state.active:
        position = 0
    return RunView(
        run_id=run.run_id,
        session_id=state.session_id,
        kind=run.kind,
        status=status_of(state, run),
        submitted_at_ms=run.submitted_at_ms,
        updated_at_ms=run.updated_at_ms or run.submitted_at_ms,
        started_at_ms=run.started_at_ms or None,
        finished_at_ms=run.finished_at_ms or None,
        queued_position=position,
        step=run.step,
        attempt=run.model_call.attempt if run.model_call else 0,
        plan=list(run.plan),
        request=RequestSummary(
            text_preview=run.text[:PREVIEW_CHARS],
            provider=run.route,
            model=run.model,
            principal=run.principal,
            origin=run.origin,
            approval_count=len(approvals),
            question_count=len(questions),
        ),
        input_attachments=list(run.attachments),
        input_metadata=run.metadata,
        pending_approval_ids=[a.request_id for a in approvals],
        pending_approvals=[approval_view(state, a) for a in approvals],
        pending_question_ids=[q.request_id for q in questions],
        pending_questions=[question_view(state, q) for q in questions],
        outputs=[run.output] if run.output else [],
        usage=UsageView(**msgspec.structs.asdict(run.usage)),
        error=RunError(code=run.error_code, message=run.error_message) if run.error_code else None,
        budget=run_budget_view(state, run, outside),
        budgets_nearly_used=nearly_used_views(state, run, session_budget, outside),
    )
