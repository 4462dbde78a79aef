"""Made from kheish/wire and kheish/core/events.py by `python -m tests.architecture.generated`; changes belong there.

The daemon's answers as types. At run time an answer is a plain dict, and an event of a stream is a `follow.Frame`. A
newer daemon may send more fields, and events of other types.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Mode = Literal["default", "accept_edits", "plan", "dont_ask", "bypass"]
Delivery = Literal["queue", "steer", "interrupt"]
Effect = Literal["read", "idempotent", "unsafe"]
ToolKind = Literal["function", "process", "question"]
Behavior = Literal["allow", "ask", "deny"]
RuleScope = Literal["session", "project", "user", "default"]
ApprovalKind = Literal["tool_call", "uncertain", "budget"]
Resolution = Literal["allow", "deny", "verify", "retry", "mark_done", "give_up", "raise", "stop"]
Remember = Literal["once", "session", "always"]
StopReason = Literal["end", "tool_use", "max_tokens", "refused"]
Dimension = Literal["cost_usd", "tokens", "steps", "wall_ms"]
OnBudget = Literal["ask", "stop"]
Choice = Literal["primary", "failover", "cooling", "returned", "retry", "resumed"]
Purpose = Literal["reply", "summary"]
CompactionReason = Literal["window", "too_large", "requested"]
RunStatus = Literal[
    "queued",
    "running",
    "waiting_for_approval",
    "waiting_for_user_question",
    "completed",
    "failed",
    "interrupted",
    "cancelled",
]
SessionStatus = Literal["idle", "running", "waiting_for_approval", "waiting_for_user_question", "ended"]
RouteDriver = Literal[
    "anthropic",
    "openai",
    "openai_compatible",
    "google",
    "openrouter",
    "xai",
    "ollama",
    "llama_cpp",
    "scripted",
    "rehearsal",
]
DebugLevel = Literal["off", "redacted", "full"]
TestKind = Literal["auth", "canary"]


class AmountsView(TypedDict):
    """Null where there is no limit."""

    cost_usd: float | None
    tokens: int | None
    steps: int | None
    wall_ms: int | None


class Answer(TypedDict):
    question_id: str
    selected_option_ids: NotRequired[list[str]]
    freeform_answer: NotRequired[str]


class AnswerBody(TypedDict):
    question_id: str
    selected_option_ids: NotRequired[list[str]]
    freeform_answer: NotRequired[str]


class ApprovalRequested(TypedDict):
    type: Literal["approval.requested"]
    request_id: str
    run_id: str
    tool_call_id: str
    tool: str
    arguments: dict[str, Any]
    cwd: str
    digest: str
    policy_revision: str
    requested_at_ms: int
    rule: str
    kind: NotRequired[ApprovalKind]
    reason: NotRequired[str]
    supersedes: NotRequired[str]
    standing: NotRequired[Standing | None]


class ApprovalResolved(TypedDict):
    type: Literal["approval.resolved"]
    request_id: str
    run_id: str
    resolution: Resolution
    digest: str
    at_ms: int
    principal: str
    remember: NotRequired[Remember]
    rule: NotRequired[Rule | None]
    updated_input: NotRequired[dict[str, Any] | None]
    justification: NotRequired[str]
    body_digest: NotRequired[str]
    raise_by: NotRequired[Budget | None]


class ApprovalView(TypedDict):
    """`choices` are the resolutions that it takes; `exact_rule` is what `remember` makes unless a rule is given.
    `kind` is `uncertain` where a daemon died during the call and nobody knows whether it took effect, and `budget`
    where there is no call, but a `budget` that has no room for the next."""

    request_id: str
    session_id: str
    run_id: str
    tool_call_id: str
    kind: ApprovalKind
    tool: str
    input: dict[str, Any]
    cwd: str
    digest: str
    policy_revision: str
    requested_at_ms: int
    rule: str
    reason: str
    choices: list[Resolution]
    exact_rule: str
    budget: BudgetView | None


class ApprovalWithdrawn(TypedDict):
    """No longer asked: the run ended, or the policy changed and it is asked anew."""

    type: Literal["approval.withdrawn"]
    request_id: str
    run_id: str
    reason: str


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    text: str
    tool_requests: NotRequired[list[ToolRequest]]
    reasoning: NotRequired[str]
    provider_state: NotRequired[dict[str, Any]]


class Attachment(TypedDict):
    """A file handed in with an input: text in place, anything else as a blob."""

    name: str
    media_type: str
    text: NotRequired[str]
    blob: NotRequired[str]
    bytes: NotRequired[int]


class Attempt(TypedDict):
    """One attempt at a model call: what it took and why (`reason`, with what was spared then), and what came of it.
    `request_id` is the provider's; `first_ms` is 0 where no piece of a reply is known of; `waited_ms` is the pause
    before the next attempt; `discarded`: it had begun to answer. `cost_usd` is null where no price is known.
    `compacted` says in words what became of the context after it."""

    model_call_id: str
    step: int
    attempt: int
    at_ms: int
    route: str
    model: str
    reason: Choice
    cooling: list[Cooling]
    result: Literal["under_way", "replied", "failed", "died"]
    code: str
    message: str
    request_id: str
    first_ms: int
    duration_ms: int
    waited_ms: int
    discarded: bool
    usage: Usage
    cost_usd: float | None
    purpose: Purpose
    compacted: str


class AuthorView(TypedDict):
    """Who a record is by: `principal` is `user:<uid>`, `run:<run id>` or `daemon`; `origin` is what kind of client it
    was; `command` and `key` are there where a client sent one."""

    principal: str
    origin: str
    command: NotRequired[str]
    key: NotRequired[str]


class Budget(TypedDict):
    """What may be used, where there is a limit; or what is added to limits. `steps` are model calls, `wall_ms` is the
    time that runs are at work, not that they wait for a human."""

    cost_usd: NotRequired[float | None]
    tokens: NotRequired[int | None]
    steps: NotRequired[int | None]
    wall_ms: NotRequired[int | None]


class BudgetBody(TypedDict):
    """What may be used, or by how much more; what is left out has no limit, or stays. `steps` are model calls,
    `wall_ms` the time at work: waiting for a human does not count."""

    cost_usd: NotRequired[float | None]
    tokens: NotRequired[float | None]
    steps: NotRequired[float | None]
    wall_ms: NotRequired[float | None]


class BudgetStopped(TypedDict):
    """The run ends for want of this budget: its last call says what was done and what is left."""

    type: Literal["budget.stopped"]
    run_id: str
    standing: Standing


class BudgetView(TypedDict):
    """`account` is `run:ID`, `session:ID`, `day:DATE` or `daemon`, with all that its runs and their children use. What
    `unpriced_calls` cost, whose price nobody knows, is no part of it, nor will be that of the models in `unpriced`.
    `reserved` is for calls under way; `reached` are the limits for which a run waits."""

    account: str
    by: str
    limit: AmountsView
    used: AmountsView
    reserved: AmountsView
    left: AmountsView
    unpriced_calls: int
    unpriced: list[str]
    reached: list[Dimension]


class BudgetWarned(TypedDict):
    """Most of a budget is used; said once of each."""

    type: Literal["budget.warned"]
    run_id: str
    standing: Standing


class CapabilitiesView(TypedDict):
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


class ChainView(TypedDict):
    """A chain's id stands wherever a route's may. `cooling` are the hops that are spared now."""

    chain_id: str
    hops: list[Hop]
    is_default: bool
    cooling: list[Cooling]


class ContextCompacted(TypedDict):
    """From here on models are shown `shown` in place of all that was said before; the transcript stays as it is.
    `summary` stands for the `messages` that are shown no longer; where it is empty they were left out without one, or
    (`messages` is 0) long results were only cut. The counts of tokens are estimates. `model_call_id` is the call that
    wrote the summary, or that was too large."""

    type: Literal["context.compacted"]
    run_id: str
    model_call_id: str
    at_ms: int
    reason: CompactionReason
    messages: int
    tokens_before: int
    tokens_after: int
    shown: list[UserMessage | AssistantMessage | ToolMessage]
    summary: NotRequired[str]


class ContextCompactionRequested(TypedDict):
    """The next model call of the session is to be preceded by a compaction."""

    type: Literal["context.compaction_requested"]


class ContextView(TypedDict):
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


class Cooling(TypedDict):
    """A hop that failed with this and is spared until then."""

    route: str
    model: str
    code: str
    until_ms: int


class DebugArtifact(TypedDict):
    artifact: str
    session_id: str
    run_id: str
    model_call_id: str
    step: int
    attempt: int
    route: str
    model: str
    level: DebugLevel
    began_at_ms: int
    duration_ms: int
    outcome: str
    message: str
    status: int
    request_bytes: int
    response_bytes: int
    digests: RequestDigests
    exchanges: list[DebugExchange]


class DebugEvent(TypedDict):
    """A piece of a response, mostly one server-sent event, and when its end came."""

    at_ms: int
    text: str


class DebugExchange(TypedDict):
    request: DebugRequest
    response: DebugResponse


class DebugRequest(TypedDict):
    """`sent_ms` counts from the beginning of the attempt, as all times here. `bytes` and `sha256` are those of the body
    as it was sent; `cut` says that not all of it is here. Where `method` is empty nothing went over a wire, and the
    body is what the driver was asked."""

    method: str
    url: str
    headers: list[HeaderView]
    sent_ms: int
    bytes: int
    sha256: str
    cut: bool
    body: str


class DebugResponse(TypedDict):
    """`bytes` and `sha256` are those of the body as it came, decompressed. `complete`: it came to its end. `status` 0:
    there was none."""

    status: int
    headers: list[HeaderView]
    answered_ms: int
    bytes: int
    sha256: str
    complete: bool
    cut: bool
    events: list[DebugEvent]


class DebugSummary(TypedDict):
    """One attempt at a model call. `artifact` is `STEP.ATTEMPT`, or `STEPs.ATTEMPT` of a summary; with a letter more,
    `STEPb` to `STEPd`, after a provider found the context too large. `outcome`: `replied`, the code of a failure,
    `cancelled`, or nothing where the attempt is at work or its daemon died. `status` is that of the last response."""

    artifact: str
    session_id: str
    run_id: str
    model_call_id: str
    step: int
    attempt: int
    route: str
    model: str
    level: DebugLevel
    began_at_ms: int
    duration_ms: int
    outcome: str
    message: str
    status: int
    request_bytes: int
    response_bytes: int


class DeltaView(TypedDict):
    """`text` is of the model (`text`, `reasoning`) or of a tool that runs (`tool_output`); with `tool_call` the model
    begins to ask for `tool`. `so_far`: all of this kind that was said before one came, in the place of what one has of
    it."""

    session_id: str
    run_id: str
    kind: Literal["text", "reasoning", "tool_call", "tool_output"]
    model_call_id: NotRequired[str]
    tool_call_id: NotRequired[str]
    tool: NotRequired[str]
    text: NotRequired[str]
    so_far: NotRequired[bool]


class EndView(TypedDict):
    reason: str


class HeaderView(TypedDict):
    name: str
    value: str


class HealthView(TypedDict):
    status: Literal["ok", "ready", "draining"]


class HeartbeatView(TypedDict):
    type: Literal["heartbeat"]


class Hop(TypedDict):
    """One way to a model in a run's chain. `on`: the failures for which it is left for the next; none: all that may
    pass. `window_tokens`: how many tokens the model takes; 0 where nobody knows, -1 where there is no language model
    behind it."""

    route: str
    model: str
    on: NotRequired[list[str]]
    window_tokens: NotRequired[int]


class InboxCounts(TypedDict):
    approvals: int
    questions: int


class InboxView(TypedDict):
    """What waits for a human, oldest first."""

    approvals: list[ApprovalView]
    questions: list[QuestionView]


class InputAttachment(TypedDict):
    """A file in the input: `text`, or any bytes as `content_base64`."""

    file_name: str
    media_type: NotRequired[str]
    text: NotRequired[str | None]
    content_base64: NotRequired[str | None]


class InputEntered(TypedDict):
    """A steered input took its place in the transcript."""

    type: Literal["input.entered"]
    input_id: str
    run_id: str


class InputSteered(TypedDict):
    """Accepted for the active run; enters the transcript at the next safe boundary. `is_remark`: it was said with a
    decision about this run, and means nothing to another."""

    type: Literal["input.steered"]
    input_id: str
    run_id: str
    text: str
    at_ms: int
    attachments: NotRequired[list[Attachment]]
    body_digest: NotRequired[str]
    pinned: NotRequired[bool]
    is_remark: NotRequired[bool]


class InterruptView(TypedDict):
    interrupted: bool
    run_id: str
    session: SessionView


class LabelView(TypedDict):
    """A bookmark in the session's timeline."""

    seq: int
    label: str


class LimitsView(TypedDict):
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


class MasterKeyView(TypedDict):
    """`place` says where it is; `key_id` tells one from another, "" where there is none yet. `is_changing`: a change
    was cut off; nothing is lost, and changing it again ends it."""

    place: str
    key_id: str
    is_changing: bool
    problem: str


class MatrixRow(TypedDict):
    tool_name: str
    effect: Effect
    decisions: dict[str, Behavior]


class MessageView(TypedDict):
    role: Literal["user", "assistant", "tool"]
    text: str
    tool: str
    tool_call_id: str
    is_error: bool
    tool_requests: list[dict[str, Any]]
    attachments: list[str]
    reasoning: str


class ModelCallCompleted(TypedDict):
    """`request_id` is the provider's; `first_ms` and `duration_ms` are how long the first piece of the reply and the
    whole of it took."""

    type: Literal["model_call.completed"]
    run_id: str
    model_call_id: str
    attempt: int
    at_ms: int
    text: str
    stop_reason: StopReason
    tool_requests: NotRequired[list[ToolRequest]]
    usage: NotRequired[Usage]
    reasoning: NotRequired[str]
    model: NotRequired[str]
    provider_state: NotRequired[dict[str, Any]]
    request_id: NotRequired[str]
    first_ms: NotRequired[int]
    duration_ms: NotRequired[int]
    cost_usd: NotRequired[float | None]
    purpose: NotRequired[Purpose]


class ModelCallDied(TypedDict):
    """The daemon died during this attempt, or was stopped; the next one is made at once."""

    type: Literal["model_call.died"]
    run_id: str
    model_call_id: str
    attempt: int
    was_stopped: NotRequired[bool]


class ModelCallFailed(TypedDict):
    type: Literal["model_call.failed"]
    run_id: str
    model_call_id: str
    attempt: int
    code: str
    message: str
    request_id: NotRequired[str]
    duration_ms: NotRequired[int]
    usage: NotRequired[Usage]
    cost_usd: NotRequired[float | None]


class ModelCallRetrying(TypedDict):
    """An attempt failed and the next is due at `retry_at_ms`. `discarded`: it had begun to answer, and what followers
    saw of that does not count. `usage` is what the provider said that it took all the same."""

    type: Literal["model_call.retrying"]
    run_id: str
    model_call_id: str
    attempt: int
    code: str
    message: str
    retry_at_ms: int
    discarded: NotRequired[bool]
    request_id: NotRequired[str]
    duration_ms: NotRequired[int]
    usage: NotRequired[Usage]
    cost_usd: NotRequired[float | None]


class ModelCallStarted(TypedDict):
    """`step` counts the run's model calls from 1; `attempt` the tries of this one. `route` and `model` are what it
    takes, `reason` says why, `cooling` which hops of the chain are spared now. It counts for `day`, and may use what is
    `reserved` for it; `output_tokens_max` is there where a budget leaves room for less than usual."""

    type: Literal["model_call.started"]
    run_id: str
    model_call_id: str
    step: int
    attempt: int
    at_ms: int
    route: NotRequired[str]
    model: NotRequired[str]
    reason: NotRequired[Choice]
    cooling: NotRequired[list[Cooling]]
    day: NotRequired[str]
    reserved: NotRequired[Spent]
    output_tokens_max: NotRequired[int]
    purpose: NotRequired[Purpose]


class Option(TypedDict):
    id: str
    label: str
    description: NotRequired[str]


class OptionView(TypedDict):
    id: str
    label: str
    description: str


class PermissionAudit(TypedDict):
    at_ms: int
    seq: int
    run_id: str
    tool_call_id: str
    tool: str
    behavior: Behavior
    rule: str
    rule_scope: RuleScope
    mode: Mode
    digest: str
    reason: str


class PermissionView(TypedDict):
    """`base_decision` is the matched rule's, before the mode applied; `mode_effect` says what that changed."""

    tool_name: str
    mode: Mode
    decision: Behavior
    base_decision: Behavior
    mode_effect: str
    matched_rule: str
    scope: RuleScope
    approval_required: bool
    reason: str


class PlanItem(TypedDict):
    content: str
    status: Literal["pending", "in_progress", "completed"]


class Price(TypedDict):
    """What a million tokens cost, in US dollars; those from the cache as any other where nothing else is said."""

    input_usd: float
    output_usd: float
    cache_read_usd: NotRequired[float | None]


class Process(TypedDict):
    """A process the daemon started. `start_ticks` and `boot_id` tell it from a later one with the same pid."""

    pid: int
    start_ticks: int
    boot_id: NotRequired[str]


class ProcessEnded(TypedDict):
    """A process that outlived its call (cancel, dead daemon) is gone. `killed` says by whom."""

    type: Literal["process.ended"]
    tool_call_id: str
    pid: int
    killed: bool


class ProviderReadiness(TypedDict):
    routes: list[RouteReadiness]


class Question(TypedDict):
    """Without options it asks for free text; with options free text stays possible."""

    id: str
    header: str
    question: str
    options: NotRequired[list[Option]]
    multi_select: NotRequired[bool]


class QuestionAnswered(TypedDict):
    type: Literal["question.answered"]
    request_id: str
    run_id: str
    at_ms: int
    principal: str
    answers: NotRequired[list[Answer]]
    declined: NotRequired[bool]
    justification: NotRequired[str]
    body_digest: NotRequired[str]


class QuestionItem(TypedDict):
    """Without options it asks for free text; with options free text stays possible."""

    id: str
    header: str
    question: str
    options: list[OptionView]
    multi_select: bool


class QuestionRequested(TypedDict):
    type: Literal["question.requested"]
    request_id: str
    run_id: str
    tool_call_id: str
    questions: list[Question]
    requested_at_ms: int


class QuestionView(TypedDict):
    request_id: str
    session_id: str
    run_id: str
    tool_call_id: str
    questions: list[QuestionItem]
    requested_at_ms: int


class QuestionWithdrawn(TypedDict):
    type: Literal["question.withdrawn"]
    request_id: str
    run_id: str
    reason: str


class QueuePaused(TypedDict):
    """No queued run starts until the queue is resumed; the active one goes on."""

    type: Literal["queue.paused"]


class QueueResumed(TypedDict):
    type: Literal["queue.resumed"]


class Rate(TypedDict):
    """What a million tokens of a hop cost, as they are reckoned before a call."""

    input_usd: float
    output_usd: float


class RecordLabelled(TypedDict):
    """A person's bookmark in the session's timeline, in place of the one that the record had; "" takes it away."""

    type: Literal["record.labelled"]
    labelled_seq: int
    label: str


class RecordPage(TypedDict):
    """`next_cursor` is the seq to go on after; null where the journal ends."""

    items: list[RecordView]
    next_cursor: str | None


class RecordView(TypedDict):
    """One journal record, as streams carry and `events` lists it. `events` holds all facts of one decision."""

    session_id: str
    seq: int
    at_ms: int
    generation: int
    position: int
    by: AuthorView
    events: list[AnyEvent]


class RequestDigests(TypedDict):
    """Of what a model is shown, part by part: 16 digits of SHA-256 each."""

    system: str
    tools: dict[str, str]
    messages: list[str]


class RequestSummary(TypedDict):
    text_preview: str
    provider: str
    model: str
    principal: str
    origin: str
    approval_count: int
    question_count: int


class ResolveOneOfMany(TypedDict):
    resolution: Resolution
    if_digest: NotRequired[str]
    remember: NotRequired[Remember]
    rule: NotRequired[str]
    updated_input: NotRequired[dict[str, Any] | None]
    raise_by: NotRequired[BudgetBody | None]
    justification: NotRequired[str]
    request_id: str


class Revision(TypedDict):
    """`change` says what made it of the one before, by whom (`by`, `origin`) and when."""

    revision: int
    at_ms: int
    by: str
    origin: str
    change: str
    settings: RuntimeSettings


class RouteFields(TypedDict):
    """A route as routes.toml writes it."""

    driver: RouteDriver
    default_model: str
    api_key_env: str
    auth_ref: str
    base_url: str
    multimodal_input: bool | None
    price: Price | None
    context_tokens: int | None


class RouteReadiness(TypedDict):
    """`error`: it cannot be used, and the default or a chain needs it; `warning`: it cannot, or is spared now."""

    route_id: str
    status: Literal["ok", "warning", "error"]
    problem: str


class RouteTestView(TypedDict):
    """`code` is that of a failed model call, "" where it went well; `latency_ms` the time until the whole answer."""

    route_id: str
    model: str
    kind: TestKind
    ok: bool
    code: str
    problem: str
    latency_ms: int


class RouteView(TypedDict):
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


class Rule(TypedDict):
    """`pattern` is `tool` or `tool(main argument)`, with `*` wildcards; the scope says who made it."""

    pattern: str
    behavior: Behavior
    scope: NotRequired[RuleScope]


class RuleView(TypedDict):
    pattern: str
    behavior: Behavior
    scope: RuleScope


class RunCancelled(TypedDict):
    """Stopped on purpose: this run alone."""

    type: Literal["run.cancelled"]
    run_id: str
    at_ms: int
    reason: NotRequired[str]


class RunCompleted(TypedDict):
    type: Literal["run.completed"]
    run_id: str
    at_ms: int


class RunCounts(TypedDict):
    active: int
    queued: int
    waiting_for_approval: int
    waiting_for_user_question: int


class RunEdited(TypedDict):
    """A queued input was changed."""

    type: Literal["run.edited"]
    run_id: str
    text: str


class RunError(TypedDict):
    code: str
    message: str


class RunFailed(TypedDict):
    type: Literal["run.failed"]
    run_id: str
    at_ms: int
    code: str
    message: str


class RunInterrupted(TypedDict):
    """Died with something broader: an interrupt or the end of its session."""

    type: Literal["run.interrupted"]
    run_id: str
    at_ms: int
    reason: NotRequired[str]


class RunMoved(TypedDict):
    """A queued input changed its place; `position` counts from 1."""

    type: Literal["run.moved"]
    run_id: str
    position: int


class RunStarted(TypedDict):
    """`tool_limits` are those in force then, by tool."""

    type: Literal["run.started"]
    run_id: str
    at_ms: int
    tool_limits: NotRequired[dict[str, ToolLimits]]


class RunSubmitted(TypedDict):
    type: Literal["run.submitted"]
    run_id: str
    text: str
    submitted_at_ms: int
    route: str
    model: str
    kind: NotRequired[str]
    attachments: NotRequired[list[Attachment]]
    metadata: NotRequired[dict[str, Any]]
    first: NotRequired[bool]
    body_digest: NotRequired[str]
    hops: NotRequired[list[Hop]]
    system_prompt: NotRequired[str]
    budget: NotRequired[Budget]
    budget_by: NotRequired[str]
    on_budget: NotRequired[OnBudget]
    rates: NotRequired[list[Rate | None]]
    window_tokens: NotRequired[int]
    pinned: NotRequired[bool]
    input_id: NotRequired[str]
    principal: NotRequired[str]
    origin: NotRequired[str]


class RunView(TypedDict):
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
    budget: BudgetView | None
    budgets_nearly_used: list[BudgetView]


class RuntimeSettings(TypedDict):
    """`model` is what a run takes where neither it nor its session names one, "" for the default of the routes;
    `permission_mode` that of a new session; `system_prompt` is added to the system text. `routes` win over those of
    routes.toml."""

    model: str
    permission_mode: Mode
    system_prompt: str
    debug_level: DebugLevel
    tool_limits: dict[str, ToolLimits]
    routes: dict[str, RouteFields]


class RuntimeView(TypedDict):
    """The newest revision, 0 where nothing was ever set, and what a run takes that says nothing: `route_id` and
    `model_id`, of a chain its first; `problem` says why it cannot."""

    revision: int
    updated_at_ms: int
    updated_by: str
    settings: RuntimeSettings
    route_id: str
    model_id: str
    problem: str


class SecretView(TypedDict):
    """`version` counts how often it was set. `referenced_by` are the routes that use it, null where routes.toml cannot
    be read. `problem` says why it cannot be used; where its document cannot be read, the numbers are 0."""

    name: str
    version: int
    created_at_ms: int
    updated_at_ms: int
    referenced_by: list[str] | None
    problem: str


class SessionBudgetSet(TypedDict):
    """The budget of all runs of the session and of its children. `raised_before` is what other sessions had raised it
    by: that counts no more."""

    type: Literal["session.budget_set"]
    budget: Budget
    raised_before: NotRequired[Budget]


class SessionCounts(TypedDict):
    total: int
    loaded: int
    read_only: int


class SessionCreated(TypedDict):
    type: Literal["session.created"]
    session_id: str
    cwd: str
    created_at_ms: int
    mode: NotRequired[Mode]
    title: NotRequired[str]
    body_digest: NotRequired[str]
    parent_session_id: NotRequired[str]
    parent_run_id: NotRequired[str]


class SessionEnded(TypedDict):
    type: Literal["session.ended"]
    reason: NotRequired[str]


class SessionForked(TypedDict):
    """The transcript begins with a copy of what another session's was up to a record."""

    type: Literal["session.forked"]
    from_session_id: str
    from_seq: int
    messages: list[UserMessage | AssistantMessage | ToolMessage]


class SessionModeChanged(TypedDict):
    type: Literal["session.mode_changed"]
    mode: Mode


class SessionModelChanged(TypedDict):
    """`model` is what a run takes that names none: a route, a route with a model, or a chain; "" for the daemon's."""

    type: Literal["session.model_changed"]
    model: str


class SessionPage(TypedDict):
    items: list[SessionView]
    next_cursor: str | None


class SessionRecovered(TypedDict):
    """A daemon found work in flight of one that died. `died_generation` is the dead daemon's."""

    type: Literal["session.recovered"]
    died_generation: int
    tail_bytes_dropped: NotRequired[int]
    tail_file: NotRequired[str]


class SessionRenamed(TypedDict):
    type: Literal["session.renamed"]
    title: str


class SessionRuleAdded(TypedDict):
    type: Literal["session.rule_added"]
    rule: Rule


class SessionView(TypedDict):
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
    headline: str
    last_run_status: str
    problem: str
    attached: int
    rules: list[RuleView] | None
    model: str
    budget: BudgetView | None
    parent_run_id: str
    context: ContextView | None
    labels: list[LabelView] | None
    used: SpentView | None
    queue_paused: bool


class Spent(TypedDict):
    """What was used. Costs are whole billionths of a US dollar, so that sums are exact; those of `unpriced_calls`,
    whose price nobody knows, are not in it."""

    cost_nanousd: NotRequired[int]
    tokens: NotRequired[int]
    steps: NotRequired[int]
    wall_ms: NotRequired[int]
    unpriced_calls: NotRequired[int]


class SpentView(TypedDict):
    """`cost_usd` leaves out `unpriced_calls`, whose price nobody knows."""

    cost_usd: float
    tokens: int
    steps: int
    wall_ms: int
    unpriced_calls: int


class Standing(TypedDict):
    """How a budget stands. `account` is whose it is: `run:ID`, `session:ID`, `day:DATE` or `daemon`; `reserved` is for
    the call under way; `by` set it; `reached` are the limits that the next call might pass."""

    account: str
    limit: Budget
    used: NotRequired[Spent]
    reserved: NotRequired[Spent]
    by: NotRequired[str]
    reached: NotRequired[list[Dimension]]


class StatusView(TypedDict):
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


class StreamErrorView(TypedDict):
    code: str
    detail: str


class SyncView(TypedDict):
    cursor: str


class ToolCallCompleted(TypedDict):
    """`output` is what the model sees; where the whole is larger, `blob` (sha256) holds it, `output_bytes` long."""

    type: Literal["tool_call.completed"]
    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int
    output: str
    is_error: NotRequired[bool]
    output_bytes: NotRequired[int]
    blob: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]


class ToolCallDecided(TypedDict):
    """The permission decision, with the rule that made it and the mode that applied."""

    type: Literal["tool_call.decided"]
    run_id: str
    tool_call_id: str
    tool: str
    behavior: Behavior
    rule: str
    rule_scope: RuleScope
    mode: Mode
    digest: str
    effect: Effect
    kind: ToolKind
    reason: NotRequired[str]


class ToolCallDied(TypedDict):
    """A started read or idempotent call lost its daemon, which died or was stopped; it runs again as the next
    attempt."""

    type: Literal["tool_call.died"]
    run_id: str
    tool_call_id: str
    attempt: int
    was_stopped: NotRequired[bool]


class ToolCallStarted(TypedDict):
    """From here on the side effect may have happened. For a process it is written before the process may go."""

    type: Literal["tool_call.started"]
    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int
    process: NotRequired[Process | None]


class ToolCallUncertain(TypedDict):
    """A started unsafe call lost its daemon: nobody knows whether it took effect."""

    type: Literal["tool_call.became_uncertain"]
    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int


class ToolLimits(TypedDict):
    """Bounds of a tool that an operator set; 0 where the tool's own holds. `timeout_ms` is how long a call may take,
    and the most that one may ask for; `output_bytes` how much of a result the model is shown whole."""

    timeout_ms: NotRequired[int]
    output_bytes: NotRequired[int]


class ToolMessage(TypedDict):
    role: Literal["tool"]
    tool_call_id: str
    provider_id: str
    tool: str
    text: str
    is_error: NotRequired[bool]


class ToolRequest(TypedDict):
    """What a model asked for. `tool_call_id` is ours, `provider_id` the model's own."""

    tool_call_id: str
    provider_id: str
    tool: str
    arguments: dict[str, Any]
    malformed: NotRequired[str]


class ToolView(TypedDict):
    """`effect`: `read` changes nothing, `idempotent` may be repeated, `unsafe` may not be repeated unasked. Rules match
    `main_argument`; `input_schema` is what an edit of its arguments has to hold."""

    name: str
    description: str
    effect: Effect
    kind: ToolKind
    main_argument: str
    timeout_ms: int
    input_schema: dict[str, Any]


class TranscriptView(TypedDict):
    """`items` are the messages from position `first` on, fewer than asked for where they are large; `total` counts them
    all."""

    session_id: str
    total: int
    first: int
    items: list[MessageView]


class Usage(TypedDict):
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    cache_read_tokens: NotRequired[int]
    cache_write_tokens: NotRequired[int]
    reasoning_tokens: NotRequired[int]


class UsageReport(TypedDict):
    """Of the model calls that were completed since then. `is_whole`: nothing was left out because there is too much, or
    because a session is damaged."""

    by: Literal["model", "route", "session", "day"]
    since_ms: int
    rows: list[UsageRow]
    total: UsageRow
    is_whole: bool
    budget: BudgetView | None


class UsageRow(TypedDict):
    """`cost_usd` is null where no price is known; what it leaves out of `calls` is `unpriced_calls`."""

    name: str
    calls: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd: float | None
    unpriced_calls: int


class UsageView(TypedDict):
    """Of all model calls of the run that were completed."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int


class UserMessage(TypedDict):
    """An input, or with `is_summary` what stands for messages that are shown no longer. `is_pinned`: it stays."""

    role: Literal["user"]
    text: str
    attachments: NotRequired[list[Attachment]]
    is_summary: NotRequired[bool]
    is_pinned: NotRequired[bool]


class WarningView(TypedDict):
    """`action` says what to do."""

    code: str
    message: str
    session_id: str
    action: str


class WhyView(TypedDict):
    """`hops` is the chain of the run; `lines` tells in words what `attempts` says."""

    run_id: str
    session_id: str
    status: RunStatus
    hops: list[Hop]
    attempts: list[Attempt]
    lines: list[str]


AnyEvent = (
    SessionCreated
    | SessionForked
    | SessionEnded
    | SessionModeChanged
    | SessionModelChanged
    | SessionRenamed
    | RecordLabelled
    | SessionRuleAdded
    | SessionBudgetSet
    | SessionRecovered
    | RunSubmitted
    | RunEdited
    | RunMoved
    | QueuePaused
    | QueueResumed
    | RunStarted
    | InputSteered
    | InputEntered
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunInterrupted
    | ModelCallStarted
    | ModelCallCompleted
    | ModelCallRetrying
    | ModelCallFailed
    | ModelCallDied
    | ContextCompactionRequested
    | ContextCompacted
    | ToolCallDecided
    | ToolCallStarted
    | ToolCallCompleted
    | ToolCallDied
    | ToolCallUncertain
    | ProcessEnded
    | ApprovalRequested
    | ApprovalResolved
    | ApprovalWithdrawn
    | QuestionRequested
    | QuestionAnswered
    | QuestionWithdrawn
    | BudgetWarned
    | BudgetStopped
)


class RecordEvent:
    """One journal record."""

    event: Literal["record"]
    id: str
    data: RecordView


class SyncEvent:
    """The replay has ended; what follows is live."""

    event: Literal["sync"]
    id: str
    data: SyncView


class DeltaEvent:
    """Live text that is not in the journal."""

    event: Literal["delta"]
    id: str
    data: DeltaView


class HeartbeatEvent:
    """Nothing happened for a while."""

    event: Literal["heartbeat"]
    id: str
    data: HeartbeatView


class GapEvent:
    """The reader was too slow and is cut off; reconnect with the last id."""

    event: Literal["gap"]
    id: str
    data: EndView


class ByeEvent:
    """The stream is over: the run is, or the daemon is stopping."""

    event: Literal["bye"]
    id: str
    data: EndView


class ErrorEvent:
    """The stream cannot go on."""

    event: Literal["error"]
    id: str
    data: StreamErrorView


StreamEvent = RecordEvent | SyncEvent | DeltaEvent | HeartbeatEvent | GapEvent | ByeEvent | ErrorEvent
