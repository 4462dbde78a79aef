"""Approvals on the wire."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from kheish.core.approvals import VERBS
from kheish.core.commands import ApprovalResolution
from kheish.core.events import ApprovalKind, Remember, Resolution
from kheish.core.state import Approval, State
from kheish.limits import JUSTIFICATION_CHARS_MAX
from kheish.wire.body import Body, View
from kheish.wire.budgets import BudgetBody, BudgetView, budget_view, to_budget


class ResolveApproval(Body, frozen=True):
    """`if_digest` (or its first characters) refuses to resolve anything but what was shown. `remember` makes a rule,
    for this session or for `always`: `rule`, or one that matches this very call alone. `updated_input` edits the
    call's arguments. `raise_by` is how much more a budget is. The model is told the `justification`."""

    resolution: Resolution
    if_digest: str = ""
    remember: Remember = "once"
    rule: str = ""
    updated_input: dict[str, Any] | None = None
    raise_by: BudgetBody | None = None
    justification: Annotated[str, msgspec.Meta(max_length=JUSTIFICATION_CHARS_MAX)] = ""


class ResolveOneOfMany(ResolveApproval, frozen=True, kw_only=True):
    request_id: str


class ResolveApprovals(Body, frozen=True):
    """Of one run, all or none."""

    resolutions: Annotated[list[ResolveOneOfMany], msgspec.Meta(min_length=1, max_length=256)]


class ApprovalView(View, frozen=True):
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
    exact_rule: str = ""
    budget: BudgetView | None = None


def approval_view(state: State, approval: Approval, exact_rule: str = "") -> ApprovalView:
    return ApprovalView(
        request_id=approval.request_id,
        session_id=state.session_id,
        run_id=approval.run_id,
        tool_call_id=approval.tool_call_id,
        kind=approval.kind,
        tool=approval.tool,
        input=approval.arguments,
        cwd=approval.cwd,
        digest=approval.digest,
        policy_revision=approval.policy_revision,
        requested_at_ms=approval.requested_at_ms,
        rule=approval.rule,
        reason=approval.reason,
        choices=list(VERBS[approval.kind]),
        exact_rule=exact_rule,
        budget=budget_view(approval.standing) if approval.standing else None,
    )


def to_command(request_id: str, body: ResolveApproval) -> ApprovalResolution:
    return ApprovalResolution(
        request_id=request_id,
        resolution=body.resolution,
        if_digest=body.if_digest,
        remember=body.remember,
        rule=body.rule,
        updated_input=body.updated_input,
        justification=body.justification,
        raise_by=to_budget(body.raise_by) if body.raise_by else None,
    )
