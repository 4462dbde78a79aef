"""Format page: every fact that a session's journal can hold. `type` is `noun.verb_past`.

A change here is a change of the format on disk: fields are only added (with a default), types are never re-used, and
a new type needs a golden journal. All times are unix milliseconds; all sizes bytes. The author of a fact (principal,
origin) is on its record, not repeated here.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Arguments = dict[str, Any]
"""A tool call's arguments: a JSON object, as the model or a human wrote it."""

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
"""What becomes of a run at the limit of a budget: a human is asked, or it stops with a last word."""
Choice = Literal["primary", "failover", "cooling", "returned", "retry", "resumed"]
"""Why an attempt takes the hop that it takes: `primary`, it is the first of its chain; `failover`, the attempt before
failed on another; `cooling`, those before it in the chain cool down; `returned`, the first is to be had again; `retry`,
the same again after a pause; `resumed`, the same again because the daemon died."""
Purpose = Literal["reply", "summary"]
"""What a model call is for: the run's next reply, or a summary of what models are to be shown no longer."""
CompactionReason = Literal["window", "too_large", "requested"]
"""Why a context was compacted: it came near the model's window; a provider found it too large; somebody asked."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A value that is stored: frozen, compared by content, defaults left out of the bytes. None leads back to itself:
    the garbage collector, which stops everything, need not look at them."""


class Attachment(Struct, frozen=True):
    """A file handed in with an input: text in place, anything else as a blob."""

    name: str
    media_type: str
    text: str = ""
    blob: str = ""
    bytes: int = 0


class Rule(Struct, frozen=True):
    """`pattern` is `tool` or `tool(main argument)`, with `*` wildcards; the scope says who made it."""

    pattern: str
    behavior: Behavior
    scope: RuleScope = "session"


class ToolRequest(Struct, frozen=True):
    """What a model asked for. `tool_call_id` is ours, `provider_id` the model's own."""

    tool_call_id: str
    provider_id: str
    tool: str
    arguments: Arguments
    malformed: str = ""
    """The raw text, where it was not a JSON object: such a call is answered with an error, never run."""


class Usage(Struct, frozen=True):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the output that were reasoning, where the provider says so."""


class Hop(Struct, frozen=True):
    """One way to a model in a run's chain. `on`: the failures for which it is left for the next; none: all that may
    pass. `window_tokens`: how many tokens the model takes; 0 where nobody knows, -1 where there is no language model
    behind it."""

    route: str
    model: str
    on: tuple[str, ...] = ()
    window_tokens: int = 0


class Cooling(Struct, frozen=True):
    """A hop that failed with this and is spared until then."""

    route: str
    model: str
    code: str
    until_ms: int


class ToolLimits(Struct, frozen=True):
    """Bounds of a tool that an operator set; 0 where the tool's own holds. `timeout_ms` is how long a call may take,
    and the most that one may ask for; `output_bytes` how much of a result the model is shown whole."""

    timeout_ms: int = 0
    output_bytes: int = 0


class Budget(Struct, frozen=True):
    """What may be used, where there is a limit; or what is added to limits. `steps` are model calls, `wall_ms` is the
    time that runs are at work, not that they wait for a human."""

    cost_usd: float | None = None
    tokens: int | None = None
    steps: int | None = None
    wall_ms: int | None = None


class Spent(Struct, frozen=True):
    """What was used. Costs are whole billionths of a US dollar, so that sums are exact; those of `unpriced_calls`,
    whose price nobody knows, are not in it."""

    cost_nanousd: int = 0
    tokens: int = 0
    steps: int = 0
    wall_ms: int = 0
    unpriced_calls: int = 0


NO_USAGE, NO_BUDGET, NO_SPENT = Usage(), Budget(), Spent()
"""What is one of these is left out where it is stored: a default is known by what it is, not by what is in it."""


class Rate(Struct, frozen=True):
    """What a million tokens of a hop cost, as they are reckoned before a call."""

    input_usd: float
    output_usd: float


class Standing(Struct, frozen=True):
    """How a budget stands. `account` is whose it is: `run:ID`, `session:ID`, `day:DATE` or `daemon`; `reserved` is for
    the call under way; `by` set it; `reached` are the limits that the next call might pass."""

    account: str
    limit: Budget
    used: Spent = NO_SPENT
    reserved: Spent = NO_SPENT
    by: str = ""
    reached: tuple[Dimension, ...] = ()


class Process(Struct, frozen=True):
    """A process the daemon started. `start_ticks` and `boot_id` tell it from a later one with the same pid."""

    pid: int
    start_ticks: int
    boot_id: str = ""


class Option(Struct, frozen=True):
    id: str
    label: str
    description: str = ""


class Question(Struct, frozen=True):
    """Without options it asks for free text; with options free text stays possible."""

    id: str
    header: str
    question: str
    options: tuple[Option, ...] = ()
    multi_select: bool = False


class Answer(Struct, frozen=True):
    question_id: str
    selected_option_ids: tuple[str, ...] = ()
    freeform_answer: str = ""


class UserMessage(Struct, tag_field="role", tag="user", frozen=True):
    """An input, or with `is_summary` what stands for messages that are shown no longer. `is_pinned`: it stays."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    is_summary: bool = False
    is_pinned: bool = False


class AssistantMessage(Struct, tag_field="role", tag="assistant", frozen=True):
    text: str
    tool_requests: tuple[ToolRequest, ...] = ()
    reasoning: str = ""
    provider_state: dict[str, Any] = {}


class ToolMessage(Struct, tag_field="role", tag="tool", frozen=True):
    tool_call_id: str
    provider_id: str
    tool: str
    text: str
    is_error: bool = False


Message = UserMessage | AssistantMessage | ToolMessage


class Event(Struct, tag_field="type", frozen=True):
    """Base of all facts."""


# -- the session ----------------------------------------------------------------------------------------------------


class SessionCreated(Event, tag="session.created", frozen=True):
    session_id: str
    cwd: str
    created_at_ms: int
    mode: Mode = "default"
    title: str = ""
    body_digest: str = ""
    parent_session_id: str = ""
    parent_run_id: str = ""
    """The run whose process made it: what it uses counts for that, too."""


class SessionForked(Event, tag="session.forked", frozen=True):
    """The transcript begins with a copy of what another session's was up to a record."""

    from_session_id: str
    from_seq: int
    messages: tuple[Message, ...]


class SessionEnded(Event, tag="session.ended", frozen=True):
    reason: str = ""


class SessionModeChanged(Event, tag="session.mode_changed", frozen=True):
    mode: Mode


class SessionModelChanged(Event, tag="session.model_changed", frozen=True):
    """`model` is what a run takes that names none: a route, a route with a model, or a chain; "" for the daemon's."""

    model: str


class SessionRenamed(Event, tag="session.renamed", frozen=True):
    title: str


class RecordLabelled(Event, tag="record.labelled", frozen=True):
    """A person's bookmark in the session's timeline, in place of the one that the record had; "" takes it away."""

    labelled_seq: int
    label: str


class SessionRuleAdded(Event, tag="session.rule_added", frozen=True):
    rule: Rule


class SessionBudgetSet(Event, tag="session.budget_set", frozen=True):
    """The budget of all runs of the session and of its children. `raised_before` is what other sessions had raised it
    by: that counts no more."""

    budget: Budget
    raised_before: Budget = NO_BUDGET


class SessionRecovered(Event, tag="session.recovered", frozen=True):
    """A daemon found work in flight of one that died. `died_generation` is the dead daemon's."""

    died_generation: int
    tail_bytes_dropped: int = 0
    tail_file: str = ""


# -- runs and their input -------------------------------------------------------------------------------------------


class RunSubmitted(Event, tag="run.submitted", frozen=True):
    run_id: str
    text: str
    submitted_at_ms: int
    route: str
    model: str
    kind: str = "input"
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, Any] = {}
    first: bool = False
    """Goes to the head of the queue: it interrupted the run before it."""
    body_digest: str = ""
    """Digest of the request, kept with its idempotency key."""
    hops: tuple[Hop, ...] = ()
    """Of a run with a chain, all of it; `route` and `model` are those of the first."""
    system_prompt: str = ""
    """What the operator added to the system text then."""
    budget: Budget = NO_BUDGET
    budget_by: str = ""
    on_budget: OnBudget = "ask"
    rates: tuple[Rate | None, ...] = ()
    """Of each hop, where a price is known."""
    window_tokens: int = 0
    """Of a run without one, as a hop has it."""
    pinned: bool = False
    """The input stays in what models are shown."""
    input_id: str = ""
    principal: str = ""
    origin: str = ""
    """Of what had steered the run before it, which ended before it took that in, and of whoever had sent it."""


class RunEdited(Event, tag="run.edited", frozen=True):
    """A queued input was changed."""

    run_id: str
    text: str


class RunMoved(Event, tag="run.moved", frozen=True):
    """A queued input changed its place; `position` counts from 1."""

    run_id: str
    position: int


class QueuePaused(Event, tag="queue.paused", frozen=True):
    """No queued run starts until the queue is resumed; the active one goes on."""


class QueueResumed(Event, tag="queue.resumed", frozen=True):
    pass


class RunStarted(Event, tag="run.started", frozen=True):
    """`tool_limits` are those in force then, by tool."""

    run_id: str
    at_ms: int
    tool_limits: dict[str, ToolLimits] = {}


class InputSteered(Event, tag="input.steered", frozen=True):
    """Accepted for the active run; enters the transcript at the next safe boundary. `is_remark`: it was said with a
    decision about this run, and means nothing to another."""

    input_id: str
    run_id: str
    text: str
    at_ms: int
    attachments: tuple[Attachment, ...] = ()
    body_digest: str = ""
    pinned: bool = False
    is_remark: bool = False


class InputEntered(Event, tag="input.entered", frozen=True):
    """A steered input took its place in the transcript."""

    input_id: str
    run_id: str


class RunCompleted(Event, tag="run.completed", frozen=True):
    run_id: str
    at_ms: int


class RunFailed(Event, tag="run.failed", frozen=True):
    run_id: str
    at_ms: int
    code: str
    message: str


class RunCancelled(Event, tag="run.cancelled", frozen=True):
    """Stopped on purpose: this run alone."""

    run_id: str
    at_ms: int
    reason: str = ""


class RunInterrupted(Event, tag="run.interrupted", frozen=True):
    """Died with something broader: an interrupt or the end of its session."""

    run_id: str
    at_ms: int
    reason: str = ""


# -- model calls ----------------------------------------------------------------------------------------------------


class ModelCallStarted(Event, tag="model_call.started", frozen=True):
    """`step` counts the run's model calls from 1; `attempt` the tries of this one. `route` and `model` are what it
    takes, `reason` says why, `cooling` which hops of the chain are spared now. It counts for `day`, and may use what is
    `reserved` for it; `output_tokens_max` is there where a budget leaves room for less than usual."""

    run_id: str
    model_call_id: str
    step: int
    attempt: int
    at_ms: int
    route: str = ""
    model: str = ""
    reason: Choice = "primary"
    cooling: tuple[Cooling, ...] = ()
    day: str = ""
    reserved: Spent = NO_SPENT
    output_tokens_max: int = 0
    purpose: Purpose = "reply"


class ModelCallCompleted(Event, tag="model_call.completed", frozen=True):
    """`request_id` is the provider's; `first_ms` and `duration_ms` are how long the first piece of the reply and the
    whole of it took."""

    run_id: str
    model_call_id: str
    attempt: int
    at_ms: int
    text: str
    stop_reason: StopReason
    tool_requests: tuple[ToolRequest, ...] = ()
    usage: Usage = NO_USAGE
    reasoning: str = ""
    model: str = ""
    provider_state: dict[str, Any] = {}
    """What a provider needs back verbatim with this reply (signed reasoning blocks), keyed by driver."""
    request_id: str = ""
    first_ms: int = 0
    duration_ms: int = 0
    cost_usd: float | None = None
    """None where nobody knows the price."""
    purpose: Purpose = "reply"


class ModelCallRetrying(Event, tag="model_call.retrying", frozen=True):
    """An attempt failed and the next is due at `retry_at_ms`. `discarded`: it had begun to answer, and what followers
    saw of that does not count. `usage` is what the provider said that it took all the same."""

    run_id: str
    model_call_id: str
    attempt: int
    code: str
    message: str
    retry_at_ms: int
    discarded: bool = False
    request_id: str = ""
    duration_ms: int = 0
    usage: Usage = NO_USAGE
    cost_usd: float | None = None


class ModelCallFailed(Event, tag="model_call.failed", frozen=True):
    run_id: str
    model_call_id: str
    attempt: int
    code: str
    message: str
    request_id: str = ""
    duration_ms: int = 0
    usage: Usage = NO_USAGE
    cost_usd: float | None = None


class ModelCallDied(Event, tag="model_call.died", frozen=True):
    """The daemon died during this attempt, or was stopped; the next one is made at once."""

    run_id: str
    model_call_id: str
    attempt: int
    was_stopped: bool = False


# -- what models are shown ------------------------------------------------------------------------------------------


class ContextCompactionRequested(Event, tag="context.compaction_requested", frozen=True):
    """The next model call of the session is to be preceded by a compaction."""


class ContextCompacted(Event, tag="context.compacted", frozen=True):
    """From here on models are shown `shown` in place of all that was said before; the transcript stays as it is.
    `summary` stands for the `messages` that are shown no longer; where it is empty they were left out without one, or
    (`messages` is 0) long results were only cut. The counts of tokens are estimates. `model_call_id` is the call that
    wrote the summary, or that was too large."""

    run_id: str
    model_call_id: str
    at_ms: int
    reason: CompactionReason
    messages: int
    tokens_before: int
    tokens_after: int
    shown: tuple[Message, ...]
    summary: str = ""


# -- tool calls -----------------------------------------------------------------------------------------------------


class ToolCallDecided(Event, tag="tool_call.decided", frozen=True):
    """The permission decision, with the rule that made it and the mode that applied."""

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
    reason: str = ""


class ToolCallStarted(Event, tag="tool_call.started", frozen=True):
    """From here on the side effect may have happened. For a process it is written before the process may go."""

    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int
    process: Process | None = None


class ToolCallCompleted(Event, tag="tool_call.completed", frozen=True):
    """`output` is what the model sees; where the whole is larger, `blob` (sha256) holds it, `output_bytes` long."""

    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int
    output: str
    is_error: bool = False
    output_bytes: int = 0
    blob: str = ""
    metadata: dict[str, Any] = {}


class ToolCallDied(Event, tag="tool_call.died", frozen=True):
    """A started read or idempotent call lost its daemon, which died or was stopped; it runs again as the next
    attempt."""

    run_id: str
    tool_call_id: str
    attempt: int
    was_stopped: bool = False


class ToolCallUncertain(Event, tag="tool_call.became_uncertain", frozen=True):
    """A started unsafe call lost its daemon: nobody knows whether it took effect."""

    run_id: str
    tool_call_id: str
    attempt: int
    at_ms: int


class ProcessEnded(Event, tag="process.ended", frozen=True):
    """A process that outlived its call (cancel, dead daemon) is gone. `killed` says by whom."""

    tool_call_id: str
    pid: int
    killed: bool


# -- human decisions ------------------------------------------------------------------------------------------------


class ApprovalRequested(Event, tag="approval.requested", frozen=True):
    request_id: str
    run_id: str
    tool_call_id: str
    tool: str
    arguments: Arguments
    cwd: str
    digest: str
    policy_revision: str
    requested_at_ms: int
    rule: str
    kind: ApprovalKind = "tool_call"
    reason: str = ""
    supersedes: str = ""
    standing: Standing | None = None
    """Of the budget that is asked about; there is no tool call then."""


class ApprovalResolved(Event, tag="approval.resolved", frozen=True):
    request_id: str
    run_id: str
    resolution: Resolution
    digest: str
    at_ms: int
    principal: str
    remember: Remember = "once"
    rule: Rule | None = None
    updated_input: Arguments | None = None
    justification: str = ""
    body_digest: str = ""
    raise_by: Budget | None = None


class ApprovalWithdrawn(Event, tag="approval.withdrawn", frozen=True):
    """No longer asked: the run ended, or the policy changed and it is asked anew."""

    request_id: str
    run_id: str
    reason: str


class QuestionRequested(Event, tag="question.requested", frozen=True):
    request_id: str
    run_id: str
    tool_call_id: str
    questions: tuple[Question, ...]
    requested_at_ms: int


class QuestionAnswered(Event, tag="question.answered", frozen=True):
    request_id: str
    run_id: str
    at_ms: int
    principal: str
    answers: tuple[Answer, ...] = ()
    declined: bool = False
    justification: str = ""
    body_digest: str = ""


class QuestionWithdrawn(Event, tag="question.withdrawn", frozen=True):
    request_id: str
    run_id: str
    reason: str


# -- budgets --------------------------------------------------------------------------------------------------------


class BudgetWarned(Event, tag="budget.warned", frozen=True):
    """Most of a budget is used; said once of each."""

    run_id: str
    standing: Standing


class BudgetStopped(Event, tag="budget.stopped", frozen=True):
    """The run ends for want of this budget: its last call says what was done and what is left."""

    run_id: str
    standing: Standing


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
