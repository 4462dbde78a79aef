"""Format page: reports of effects. They are never refused; one that came too late changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec

from kheish.core.contracts import NewContext, Reply
from kheish.core.events import NO_USAGE, Process, Usage


class Outcome(msgspec.Struct, frozen=True, kw_only=True, tag_field="outcome", gc=False):
    pass


class ModelReplied(Outcome, tag="model_replied", frozen=True):
    """`first_ms` and `duration_ms` are how long the first piece of the reply and the whole of it took. `context` is,
    with a summary, what it makes of what models are shown."""

    run_id: str
    model_call_id: str
    attempt: int
    reply: Reply
    first_ms: int = 0
    duration_ms: int = 0
    cost_usd: float | None = None
    context: NewContext | None = None


class ModelFailed(Outcome, tag="model_failed", frozen=True):
    """`jitter` in [0, 1) spreads the retry; randomness is not the core's. `has_output`: followers saw some of a
    reply. `usage` is what the provider said that the attempt took all the same; `context` what models may be shown
    without a summary, where that would help."""

    run_id: str
    model_call_id: str
    attempt: int
    code: str
    message: str
    retry_after_ms: int | None = None
    jitter: float = 0.0
    has_output: bool = False
    request_id: str = ""
    duration_ms: int = 0
    usage: Usage = NO_USAGE
    cost_usd: float | None = None
    context: NewContext | None = None


class RetryDue(Outcome, tag="retry_due", frozen=True):
    run_id: str
    model_call_id: str
    attempt: int


class ToolProcessMade(Outcome, tag="tool_process_made", frozen=True):
    """A process exists and waits at its gate for this to be durable."""

    run_id: str
    tool_call_id: str
    process: Process


class ToolFinished(Outcome, tag="tool_finished", frozen=True):
    run_id: str
    tool_call_id: str
    output: str
    is_error: bool = False
    output_bytes: int = 0
    blob: str = ""
    metadata: dict[str, Any] = {}


class ProcessGone(Outcome, tag="process_gone", frozen=True):
    tool_call_id: str
    pid: int
    killed: bool


class BudgetMoved(Outcome, tag="budget_moved", frozen=True):
    """A budget that is waited for may have room again."""
