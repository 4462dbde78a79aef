"""The daemon itself on the wire: status, routes, problems and stream frames."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kheish import limits
from kheish.core.contracts import ToolSpec
from kheish.core.events import AnyEvent, ApprovalKind, Cooling, Delivery, Effect, Hop, Mode, Resolution, ToolKind
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
    """`action` says what to do."""

    code: str
    message: str
    session_id: str = ""
    action: str = ""


RouteStatus = Literal["ok", "warning", "error"]


class RouteReadiness(View, frozen=True):
    """`error`: it cannot be used, and the default or a chain needs it; `warning`: it cannot, or is spared now."""

    route_id: str
    status: RouteStatus
    problem: str


class ProviderReadiness(View, frozen=True):
    routes: list[RouteReadiness]


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
    provider_readiness: ProviderReadiness


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
    auth_ref: str
    multimodal_input: bool
    is_default: bool
    ready: bool
    problem: str
    source: str


class ChainView(View, frozen=True):
    """A chain's id stands wherever a route's may. `cooling` are the hops that are spared now."""

    chain_id: str
    hops: list[Hop]
    is_default: bool
    cooling: list[Cooling]


class ToolView(View, frozen=True):
    """`effect`: `read` changes nothing, `idempotent` may be repeated, `unsafe` may not be repeated unasked. Rules match
    `main_argument`; `input_schema` is what an edit of its arguments has to hold."""

    name: str
    description: str
    effect: Effect
    kind: ToolKind
    main_argument: str
    timeout_ms: int
    input_schema: dict[str, Any]


class LimitsView(View, frozen=True):
    """Bounds that a client meets; each is the one of that name in the product."""

    request_body_bytes_max: int
    input_chars_max: int
    shown_attachment_bytes_max: int
    shown_attachments_bytes_max: int
    record_bytes_max: int
    queued_runs_max: int
    questions_max: int
    question_options_max: int
    justification_chars_max: int
    tool_result_inline_bytes_max: int
    page_items_default: int
    page_items_max: int
    connections_max: int
    subscribers_max: int
    subscriber_queue_bytes_max: int
    stream_heartbeat_s: float


class CapabilitiesView(View, frozen=True):
    """What this daemon can do. `operations` are the operation ids of the API's description; `resolutions` says what a
    human may answer to each kind of approval."""

    version: str
    operations: list[str]
    stream_events: list[str]
    drivers: list[str]
    tools: list[ToolView]
    permission_modes: list[Mode]
    deliveries: list[Delivery]
    resolutions: dict[ApprovalKind, list[Resolution]]
    limits: LimitsView


def tool_view(spec: ToolSpec) -> ToolView:
    return ToolView(**{name: getattr(spec, name) for name in ToolView.__struct_fields__})


def limits_view() -> LimitsView:
    return LimitsView(**{name: getattr(limits, name.upper()) for name in LimitsView.__struct_fields__})


class Problem(View, frozen=True):
    """RFC 9457. `code` is stable; `detail` is for people; other members depend on the code."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class AuthorView(View, frozen=True, omit_defaults=True):
    """Who a record is by: `principal` is `user:<uid>`, `run:<run id>` or `daemon`; `origin` is what kind of client it
    was; `command` and `key` are there where a client sent one."""

    principal: str
    origin: str
    command: str = ""
    key: str = ""


class RecordView(View, frozen=True):
    """One journal record, as streams carry and `events` lists it. `events` holds all facts of one decision."""

    session_id: str
    seq: int
    at_ms: int
    generation: int
    position: int
    by: AuthorView
    events: list[AnyEvent]


class RecordPage(View, frozen=True):
    """`next_cursor` is the seq to go on after; null where the journal ends."""

    items: list[RecordView]
    next_cursor: str | None


# -- streams --------------------------------------------------------------------------------------------------------


class SyncView(View, frozen=True):
    cursor: str


class DeltaView(View, frozen=True, omit_defaults=True):
    """`text` is of the model (`text`, `reasoning`) or of a tool that runs (`tool_output`); with `tool_call` the model
    begins to ask for `tool`. `so_far`: all of this kind that was said before one came, in the place of what one has of
    it."""

    session_id: str
    run_id: str
    kind: Literal["text", "reasoning", "tool_call", "tool_output"]
    model_call_id: str = ""
    tool_call_id: str = ""
    tool: str = ""
    text: str = ""
    so_far: bool = False


class HeartbeatView(View, frozen=True):
    type: Literal["heartbeat"]


class EndView(View, frozen=True):
    reason: str


class StreamErrorView(View, frozen=True):
    code: str
    detail: str


class StreamEvent(msgspec.Struct, frozen=True):
    """A kind of server-sent event. One with an id moves the cursor."""

    name: str
    data: type[View]
    has_id: bool
    meaning: str


STREAM_EVENTS = (
    StreamEvent("record", RecordView, True, "one journal record"),
    StreamEvent("sync", SyncView, True, "the replay has ended; what follows is live"),
    StreamEvent("delta", DeltaView, False, "live text that is not in the journal"),
    StreamEvent("heartbeat", HeartbeatView, False, "nothing happened for a while"),
    StreamEvent("gap", EndView, False, "the reader was too slow and is cut off; reconnect with the last id"),
    StreamEvent("bye", EndView, False, "the stream is over: the run is, or the daemon is stopping"),
    StreamEvent("error", StreamErrorView, False, "the stream cannot go on"),
)
