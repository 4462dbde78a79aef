"""The daemon itself on the wire: status, routes, problems and stream frames."""

from __future__ import annotations

from typing import Any, Literal

from kheish.wire.approvals import ApprovalView
from kheish.wire.body import View
from kheish.wire.questions import QuestionView


class HealthView(View, frozen=True):
    status: Literal["ok", "ready", "draining"]


class SessionCounts(View, frozen=True):
    total: int
    loaded: int
    read_only: int


class RunCounts(View, frozen=True):
    active: int
    queued: int
    waiting_for_approval: int
    waiting_for_user_question: int


class InboxCounts(View, frozen=True):
    approvals: int
    questions: int


class WarningView(View, frozen=True):
    code: str
    message: str
    session_id: str = ""


class StatusView(View, frozen=True):
    """`cursor` is where the global stream stands now."""

    status: Literal["ready", "draining"]
    ready: bool
    version: str
    pid: int
    generation: int
    started_at_ms: int
    state_root: str
    socket: str
    cursor: str
    sessions: SessionCounts
    runs: RunCounts
    inbox: InboxCounts
    subscribers: int
    warnings: list[WarningView]


class InboxView(View, frozen=True):
    """What waits for a human, oldest first."""

    approvals: list[ApprovalView]
    questions: list[QuestionView]


class RouteView(View, frozen=True):
    route_id: str
    driver: str
    default_model: str
    base_url: str
    api_key_env: str
    multimodal_input: bool
    is_default: bool
    ready: bool
    problem: str
    source: str


class Problem(View, frozen=True):
    """RFC 9457. `code` is stable; `detail` is for people; other members depend on the code."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class RecordView(View, frozen=True):
    """One journal record, as streams carry and `events` lists it. `events` holds all facts of one decision."""

    session_id: str
    seq: int
    at_ms: int
    generation: int
    position: int
    by: dict[str, Any]
    events: list[dict[str, Any]]


class RecordPage(View, frozen=True):
    """`next_cursor` is the seq to go on after; null where the journal ends."""

    items: list[RecordView]
    next_cursor: str | None
