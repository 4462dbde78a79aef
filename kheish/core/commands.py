"""Format page: intents, which the machine may refuse. They are not stored; the events they lead to are."""

from __future__ import annotations

from typing import Any

import msgspec

from kheish.core.events import (
    NO_BUDGET,
    NO_SPENT,
    Answer,
    Arguments,
    Attachment,
    Budget,
    Cooling,
    Delivery,
    Hop,
    Mode,
    OnBudget,
    Rate,
    Remember,
    Resolution,
    Rule,
    SessionForked,
    Spent,
    Struct,
)


class Outside(Struct, frozen=True):
    """What other sessions make of a budget that concerns one: what they `used` and reserved of it, and what they
    `raised` it by. Where the budget is not the session's own, also its `limit` and who set it."""

    account: str
    used: Spent = NO_SPENT
    raised: Budget = NO_BUDGET
    is_warned: bool = False
    limit: Budget | None = None
    by: str = ""
    raised_before: Budget = NO_BUDGET
    """Raises that count no more."""


class Context(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What surrounds every command and outcome. `id_base` seeds the ids of whatever the decision makes;
    `is_operator` says whether the caller may decide for a human: a local person's client, never a run. `cooling` are
    the ways to a model that the daemon spares now; `outside` is what there is to know of budgets beyond the session;
    `day` is the daemon's date."""

    at_ms: int
    id_base: str
    generation: int
    principal: str
    origin: str
    is_operator: bool = False
    key: str = ""
    body_digest: str = ""
    cooling: tuple[Cooling, ...] = ()
    outside: tuple[Outside, ...] = ()
    day: str = ""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="command", gc=False):
    pass


class CreateSession(Command, tag="create_session", frozen=True):
    session_id: str
    cwd: str
    mode: Mode = "default"
    title: str = ""
    forked: SessionForked | None = None
    """What its transcript begins with."""
    parent_session_id: str = ""
    parent_run_id: str = ""


class EndSession(Command, tag="end_session", frozen=True):
    reason: str = ""


class SetMode(Command, tag="set_mode", frozen=True):
    mode: Mode


class SetModel(Command, tag="set_model", frozen=True):
    model: str


class RenameSession(Command, tag="rename_session", frozen=True):
    title: str


class LabelRecord(Command, tag="label_record", frozen=True):
    """`seq` is one that the session has; without a label it loses the one that it had."""

    seq: int
    label: str


class CompactContext(Command, tag="compact_context", frozen=True):
    """Before the next model call."""


class AddRule(Command, tag="add_rule", frozen=True):
    rule: Rule


class SetBudget(Command, tag="set_budget", frozen=True):
    """Of the session; what is not named has no limit but the daemon's."""

    budget: Budget


class SubmitRun(Command, tag="submit_run", frozen=True):
    """`hops` is the whole chain, where there is more to it than the route and the model."""

    text: str
    route: str
    model: str
    delivery: Delivery = "queue"
    kind: str = "input"
    attachments: tuple[Attachment, ...] = ()
    metadata: dict[str, Any] = {}
    hops: tuple[Hop, ...] = ()
    budget: Budget | None = None
    on_budget: OnBudget = "ask"
    rates: tuple[Rate | None, ...] = ()
    window_tokens: int = 0
    pinned: bool = False


class EditRun(Command, tag="edit_run", frozen=True):
    run_id: str
    text: str


class MoveRun(Command, tag="move_run", frozen=True):
    run_id: str
    position: int


class PauseQueue(Command, tag="pause_queue", frozen=True):
    """Until `ResumeQueue`."""


class ResumeQueue(Command, tag="resume_queue", frozen=True):
    pass


class WithdrawRun(Command, tag="withdraw_run", frozen=True):
    run_id: str


class CancelRun(Command, tag="cancel_run", frozen=True):
    run_id: str
    reason: str = ""


class InterruptSession(Command, tag="interrupt_session", frozen=True):
    reason: str = ""


class ApprovalResolution(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    resolution: Resolution
    if_digest: str = ""
    remember: Remember = "once"
    rule: str = ""
    updated_input: Arguments | None = None
    justification: str = ""
    raise_by: Budget | None = None


class ResolveApprovals(Command, tag="resolve_approvals", frozen=True):
    """A batch is atomic: one that cannot be resolved refuses all."""

    resolutions: tuple[ApprovalResolution, ...]


class AnswerQuestion(Command, tag="answer_question", frozen=True):
    request_id: str
    answers: tuple[Answer, ...] = ()
    declined: bool = False
    justification: str = ""


class Recover(Command, tag="recover", frozen=True):
    """The first command of a daemon that opens a session: notes what died with the last one. `was_stopped`: that one
    did not die, and what it was at does not count as what killed it."""

    tail_bytes_dropped: int = 0
    tail_file: str = ""
    was_stopped: bool = False
