"""Format page: the folded state of one session, as a checkpoint stores it.

Leaves are frozen values that are replaced; the containers of `State` are changed in place by `machine.evolve` alone,
on a state that the caller owns (`State.fork` makes one cheaply). What can be derived is a function, not a field. It is
bounded, however long the session: what is over leaves it when enough came after, and is in the journal alone.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Literal, TypeVar

import msgspec

from kheish.core.events import (
    NO_BUDGET,
    NO_SPENT,
    NO_USAGE,
    ApprovalKind,
    Arguments,
    Attachment,
    Budget,
    Effect,
    Hop,
    Message,
    Mode,
    OnBudget,
    Process,
    Purpose,
    Question,
    Rate,
    Rule,
    Spent,
    Standing,
    Struct,
    ToolKind,
    ToolLimits,
    ToolRequest,
    Usage,
)
from kheish.core.plans import PlanItem

T = TypeVar("T")

REDUCER_VERSION = 4
"""Raised whenever `evolve` gives another state for the same events: older checkpoints are then ignored."""

RunPhase = Literal["queued", "running", "completed", "failed", "interrupted", "cancelled"]
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
TERMINAL: frozenset[str] = frozenset(("completed", "failed", "interrupted", "cancelled"))

ToolCallPhase = Literal["requested", "waiting", "allowed", "started", "uncertain", "done"]


class ModelCall(Struct, frozen=True):
    """A model call that is not finished. `retry_at_ms` > 0: it waits for that time instead of running. `tried` are the
    hops that failed since it last began again; `stays`: the present one had begun to answer and is tried again once."""

    model_call_id: str
    step: int
    attempt: int
    failures: int = 0
    deaths: int = 0
    retry_at_ms: int = 0
    tried: tuple[int, ...] = ()
    stays: bool = False
    reserved: Spent = NO_SPENT
    output_tokens_max: int = 0
    purpose: Purpose = "reply"


class ToolCall(Struct, frozen=True):
    """A tool call of the run's current step. `arguments` are those that run: a human may have edited them."""

    request: ToolRequest
    arguments: Arguments
    phase: ToolCallPhase = "requested"
    attempt: int = 0
    deaths: int = 0
    effect: Effect = "unsafe"
    kind: ToolKind = "function"
    digest: str = ""
    human_approved: bool = False
    output: str = ""
    is_error: bool = False

    @property
    def tool_call_id(self) -> str:
        return self.request.tool_call_id

    @property
    def tool(self) -> str:
        return self.request.tool


class SteeredInput(Struct, frozen=True):
    input_id: str
    text: str
    attachments: tuple[Attachment, ...] = ()
    pinned: bool = False
    is_remark: bool = False
    principal: str = ""
    origin: str = ""


class Run(Struct, frozen=True):
    """One execution of an input. `calls` are the tool calls of the current step, in the model's order."""

    run_id: str
    text: str
    route: str
    model: str
    submitted_at_ms: int
    kind: str = "input"
    phase: RunPhase = "queued"
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, Any] = {}
    origin: str = ""
    principal: str = ""
    started_at_ms: int = 0
    finished_at_ms: int = 0
    updated_at_ms: int = 0
    step: int = 0
    model_call: ModelCall | None = None
    calls: tuple[ToolCall, ...] = ()
    answered: bool = False
    """The current step's reply is in the transcript with all its tool results."""
    steered: tuple[SteeredInput, ...] = ()
    output: str = ""
    usage: Usage = NO_USAGE
    error_code: str = ""
    error_message: str = ""
    hops: tuple[Hop, ...] = ()
    hop: int = 0
    """That of the last attempt, by its place in the chain."""
    plan: tuple[PlanItem, ...] = ()
    system_prompt: str = ""
    tool_limits: dict[str, ToolLimits] = {}
    """These two only until it is over."""
    budget: Budget = NO_BUDGET
    budget_by: str = ""
    on_budget: OnBudget = "ask"
    rates: tuple[Rate | None, ...] = ()
    used: Spent = NO_SPENT
    """By all attempts of all its calls."""
    stopped: Standing | None = None
    """The budget for want of which it ends."""
    window_tokens: int = 0
    pinned: bool = False
    overflows: int = 0
    """How often a provider found the context too large since the last reply."""
    has_room: bool = False
    """The context was compacted since the last reply, or could not be."""

    @property
    def chain(self) -> tuple[Hop, ...]:
        """The ways to a model that the run may take, the first one first."""
        return self.hops or (Hop(route=self.route, model=self.model, window_tokens=self.window_tokens),)

    @property
    def is_terminal(self) -> bool:
        return self.phase in TERMINAL


class Approval(Struct, frozen=True):
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
    standing: Standing | None = None


class QuestionRequest(Struct, frozen=True):
    request_id: str
    run_id: str
    tool_call_id: str
    questions: tuple[Question, ...]
    requested_at_ms: int


class Settled(Struct, frozen=True):
    """How an approval or question ended, kept so that a second answer learns of the first."""

    how: str
    principal: str
    at_ms: int
    rule: Rule | None = None
    """The rule for all sessions that came with it: the daemon keeps it, the session only says that it was made."""


class KeyUse(Struct, frozen=True):
    """An idempotency key of the past: the digest of its request and what it made."""

    body_digest: str
    result: str


class BudgetNote(Struct, frozen=True):
    """What was decided here of a budget, also of one that is not the session's own: what it was raised by, and whether
    a warning was given."""

    raised: Budget = NO_BUDGET
    is_warned: bool = False


class State(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    session_id: str = ""
    cwd: str = ""
    title: str = ""
    mode: Mode = "default"
    model: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    ended: bool = False
    end_reason: str = ""
    generation: int = 0
    ordinal: int = 0
    """Replies of models in the session."""
    rules: list[Rule] = []
    labels: dict[int, str] = {}
    """Of records, by their seq."""
    runs: dict[str, Run] = {}
    """As they were submitted: those that are not over, and the newest FINISHED_RUNS_KEPT that are."""
    past_runs: int = 0
    """Runs that were over and left."""
    queue: list[str] = []
    queue_paused: bool = False
    """No run of it starts."""
    active: str = ""
    entered: list[Message] = []
    """What entered the transcript since the fold or the fork began. The transcript is as long as the journal, which has
    it already: it is no part of what is stored."""
    shown: list[Message] = []
    """Once the context was compacted: what models are shown of the transcript. Before that it is all of it."""
    compactions: int = 0
    left_out: int = 0
    """Messages of the transcript that models are shown no longer."""
    counted_tokens: int = 0
    """Of the context, with the last reply, as its provider counted them; 0 where none did since the last compaction."""
    guessed_tokens: int = 0
    """An estimate of what entered the context since."""
    compacted_tokens: int = 0
    """An estimate of the context as the last compaction left it."""
    compaction_requested: bool = False
    approvals: dict[str, Approval] = {}
    questions: dict[str, QuestionRequest] = {}
    settled: dict[str, Settled] = {}
    """The newest SETTLED_REQUESTS_KEPT."""
    keys: dict[str, KeyUse] = {}
    """The newest IDEMPOTENCY_KEYS_KEPT."""
    processes: dict[str, Process] = {}
    """Processes that may live, by tool call."""
    parent_session_id: str = ""
    parent_run_id: str = ""
    budget: Budget = NO_BUDGET
    budget_by: str = ""
    raised_before: Budget = NO_BUDGET
    """Raises of the budget in other sessions that count no more."""
    budget_notes: dict[str, BudgetNote] = {}
    """By account; the newest BUDGET_NOTES_KEPT."""
    used: Spent = NO_SPENT
    """By all runs, also those that left."""
    day: str = ""
    """The newest on which a model was called, and what was used on it."""
    day_used: Spent = NO_SPENT

    def fork(self) -> State:
        """A state that may be evolved without changing this one: containers copied, leaves shared, nothing entered."""
        forked = copy(self)
        forked.rules, forked.queue, forked.entered = self.rules[:], self.queue[:], []
        forked.runs, forked.keys, forked.processes = self.runs.copy(), self.keys.copy(), self.processes.copy()
        forked.approvals, forked.questions = self.approvals.copy(), self.questions.copy()
        forked.settled, forked.budget_notes = self.settled.copy(), self.budget_notes.copy()
        forked.shown, forked.labels = self.shown[:], self.labels.copy()
        return forked

    @property
    def runs_total(self) -> int:
        return self.past_runs + len(self.runs)

    @property
    def active_run(self) -> Run | None:
        return self.runs[self.active] if self.active else None


def keep_newest(kept: dict[str, T], key: str, value: T, kept_max: int) -> None:
    """Adds to a container of the state; where it holds more than so many the oldest leaves."""
    kept[key] = value
    if len(kept) > kept_max:
        del kept[next(iter(kept))]


def last_run_status(state: State) -> str:
    """How the newest of the runs that are over ended; "" where none is."""
    return next((run.phase for run in reversed(state.runs.values()) if run.is_terminal), "")


def status_of(state: State, run: Run) -> RunStatus:
    """The public status: a running run with a pending human decision is waiting for it."""
    if run.phase == "running":
        if state.approvals and any(a.run_id == run.run_id for a in state.approvals.values()):
            return "waiting_for_approval"
        if state.questions and any(q.run_id == run.run_id for q in state.questions.values()):
            return "waiting_for_user_question"
    return run.phase
