"""Rules of approvals. An approval is bound to content: its digest covers the tool, the arguments, the directory and
the policy. Only an operator may resolve one; it waits for ever."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from kheish.core import budgets, questions, runs, tool_calls
from kheish.core.codec import call_digest
from kheish.core.commands import ApprovalResolution, Context, ResolveApprovals
from kheish.core.contracts import ToolSpec
from kheish.core.draft import Draft
from kheish.core.events import (
    ApprovalKind,
    ApprovalRequested,
    ApprovalResolved,
    ApprovalWithdrawn,
    Arguments,
    Behavior,
    InputSteered,
    Resolution,
    Rule,
    RuleScope,
    Standing,
    ToolCallDecided,
)
from kheish.core.permissions import (
    Permission,
    evaluate,
    exact_rule,
    main_argument_of,
    matches,
    names_of,
    parse_pattern,
)
from kheish.core.state import Approval, Run, Settled, State, ToolCall, keep_newest
from kheish.errors import Conflict, Invalid, NotFound
from kheish.limits import JUSTIFICATION_CHARS_MAX, SETTLED_REQUESTS_KEPT

VERBS: dict[ApprovalKind, tuple[Resolution, ...]] = {
    "tool_call": ("allow", "deny"),
    "uncertain": ("verify", "retry", "mark_done", "give_up"),
    "budget": ("raise", "stop"),
}
"""What a human may say to each kind. `verify`: the model is told that the outcome is unknown and checks. `retry`: run
it again. `mark_done`: it took effect. `give_up`: the run fails. `raise`: the budget is more from now on. `stop`: the
run ends with a last word."""

_GOES_ON = frozenset(("allow", "retry", "verify", "raise", "stop"))
"""Of these no result carries what is said with them."""


def permission_of(draft: Draft, call: ToolCall, arguments: Arguments) -> Permission:
    """What the session's mode, its rules and the daemon's say of a call with these arguments."""
    state, settings = draft.state, draft.settings
    spec = settings.tools.get(call.tool)
    return evaluate(state.mode, [*state.rules, *settings.rules], call.tool, spec, arguments, state.cwd)


def decide(draft: Draft, run: Run, call: ToolCall, spec: ToolSpec, permission: Permission) -> str:
    """Journals the decision and answers a call that it denies. Returns the digest that it is bound to."""
    digest = call_digest(call.tool, call.arguments, draft.state.cwd, draft.settings.policy_revision)
    draft.emit(
        ToolCallDecided(
            run_id=run.run_id,
            tool_call_id=call.tool_call_id,
            tool=call.tool,
            behavior=permission.behavior,
            rule=permission.rule,
            rule_scope=permission.scope,
            mode=permission.mode,
            digest=digest,
            effect=spec.effect,
            kind=spec.kind,
            reason=permission.mode_effect,
        )
    )
    if permission.behavior == "deny":
        why = permission.mode_effect or f"the rule {permission.rule} ({permission.scope}) denies it"
        tool_calls.complete(draft, run.run_id, call, f"Permission denied: {why}.", is_error=True)
    return digest


def request(
    draft: Draft,
    run: Run,
    call: ToolCall,
    *,
    rule: str,
    digest: str,
    kind: ApprovalKind = "tool_call",
    reason: str = "",
    supersedes: str = "",
) -> None:
    draft.emit(
        ApprovalRequested(
            request_id=draft.new_id("approval"),
            run_id=run.run_id,
            tool_call_id=call.tool_call_id,
            tool=call.tool,
            arguments=call.arguments,
            cwd=draft.state.cwd,
            digest=digest,
            policy_revision=draft.settings.policy_revision,
            requested_at_ms=draft.at_ms,
            rule=rule,
            kind=kind,
            reason=reason,
            supersedes=supersedes,
        )
    )


def resolve(draft: Draft, command: ResolveApprovals) -> str:
    """All of the batch or none of it. The result is the run's id."""
    draft.require_operator("resolve an approval")
    if not command.resolutions:
        raise Invalid("cannot resolve: the list is empty", path="$.resolutions")
    pending = [find(draft.state, item.request_id) for item in command.resolutions]
    if len({approval.run_id for approval in pending}) > 1:
        raise Invalid("cannot resolve: a batch may concern one run only", path="$.resolutions")
    for item in command.resolutions:
        # Found anew: the one before it may have settled this one too.
        _resolve_one(draft, find(draft.state, item.request_id), item)
    run = draft.run(pending[0].run_id)
    if not run.is_terminal:
        _say(draft, run, zip(pending, command.resolutions, strict=True))
    return run.run_id


def find(state: State, request_id: str) -> Approval:
    approval = state.approvals.get(request_id)
    if approval is not None:
        return approval
    settled = state.settled.get(request_id)
    if settled is not None:
        raise Conflict(
            f"cannot resolve {request_id}: it was settled before ({settled.how}, by {settled.principal})",
            code="approval_state_conflict",
            how=settled.how,
            principal=settled.principal,
            at_ms=settled.at_ms,
        )
    raise NotFound(
        f"cannot find approval {request_id}: it does not wait, and is none of the last {SETTLED_REQUESTS_KEPT} that "
        "were settled",
        code="approval_not_found",
    )


def _resolve_one(draft: Draft, approval: Approval, item: ApprovalResolution) -> None:
    if item.resolution not in VERBS[approval.kind]:
        raise Invalid(
            f"cannot {item.resolution} {approval.request_id}: choose one of {', '.join(VERBS[approval.kind])}",
            code="invalid_resolution",
        )
    if len(item.justification) > JUSTIFICATION_CHARS_MAX:
        raise Invalid(f"cannot resolve: the justification has over {JUSTIFICATION_CHARS_MAX} characters")
    if item.if_digest and not approval.digest.startswith(item.if_digest):
        raise Conflict(
            f"cannot resolve {approval.request_id}: its digest is {approval.digest}, not {item.if_digest}; "
            "what would run is not what you saw",
            code="approval_digest_mismatch",
            digest=approval.digest,
        )
    if approval.policy_revision != draft.settings.policy_revision:
        raise Conflict(
            f"cannot resolve {approval.request_id}: the daemon's rules changed since it was asked; "
            "restart the daemon to have it asked again",
            code="approval_policy_changed",
        )
    if approval.standing is not None:
        _resolve_budget(draft, approval, approval.standing, item)
        return
    run = draft.run(approval.run_id)
    call = tool_calls.lookup(draft.state, approval.run_id, approval.tool_call_id)
    assert call is not None
    arguments = approval.arguments
    digest = approval.digest
    if item.updated_input is not None:
        if item.resolution not in ("allow", "retry"):
            raise Invalid("cannot edit the arguments of a call that will not run", path="$.updated_input")
        arguments = item.updated_input
        digest = _check_edit(draft, call, arguments)
    elif item.resolution in ("allow", "retry") and (denying := permission_of(draft, call, arguments)).is_rule_deny:
        raise Conflict(
            f"cannot {item.resolution} {approval.request_id}: the rule {denying.rule} ({denying.scope}) denies it",
            code="approval_denied",
        )
    rule = _remembered_rule(draft, approval, item, arguments)
    draft.emit(
        ApprovalResolved(
            request_id=approval.request_id,
            run_id=run.run_id,
            resolution=item.resolution,
            digest=digest,
            at_ms=draft.at_ms,
            principal=draft.context.principal,
            remember=item.remember,
            rule=rule,
            updated_input=item.updated_input,
            justification=item.justification,
            body_digest=draft.context.body_digest,
        )
    )
    call = tool_calls.lookup(draft.state, approval.run_id, approval.tool_call_id)
    assert call is not None
    reason = f": {item.justification}" if item.justification else "."
    match item.resolution:
        case "deny":
            tool_calls.complete(draft, run.run_id, call, f"A human denied this call{reason}", is_error=True)
        case "verify":
            tool_calls.complete(draft, run.run_id, call, tool_calls.UNKNOWN_OUTCOME, is_error=True)
        case "mark_done":
            tool_calls.complete(draft, run.run_id, call, f"A human confirmed that this call took effect{reason}")
        case "give_up":
            runs.fail(
                draft,
                run.run_id,
                "uncertain_given_up",
                f"the outcome of {call.tool} is unknown, and a human gave it up{reason}",
            )
        case "allow" if call.kind == "question":
            questions.request(draft, run, call)
        case _:
            pass


def _say(draft: Draft, run: Run, said: Iterable[tuple[Approval, ApprovalResolution]]) -> None:
    """What a human says with decisions after which the run goes on, once where it is said of several. It enters as what
    steers the run does, after the results: their word, which no tool can say, and no word of a model's in it."""
    about: dict[str, list[str]] = {}
    for approval, item in said:
        if item.resolution in _GOES_ON and item.justification.strip():
            about.setdefault(item.justification, []).append(_name_to_model(run, approval))
    for text, names in about.items():
        draft.emit(
            InputSteered(
                input_id=draft.new_id("input"),
                run_id=run.run_id,
                text=f"About {', '.join(names)}: {text}",
                at_ms=draft.at_ms,
                body_digest=draft.context.body_digest,
                is_remark=True,
            )
        )


def _name_to_model(run: Run, approval: Approval) -> str:
    """What was decided about, as the model knows it."""
    if approval.standing is not None:
        return "the budget"
    asked = [call.tool_call_id for call in run.calls]
    place = f" ({asked.index(approval.tool_call_id) + 1} of {len(asked)})" if len(asked) > 1 else ""
    return f"your call of {approval.tool}{place}"


def _resolve_budget(draft: Draft, approval: Approval, standing: Standing, item: ApprovalResolution) -> None:
    if item.updated_input is not None or item.remember != "once":
        raise Invalid("cannot edit or remember what is decided of a budget", code="invalid_resolution")
    if item.resolution == "raise":
        budgets.check_raise(approval, item)
    draft.emit(
        ApprovalResolved(
            request_id=approval.request_id,
            run_id=approval.run_id,
            resolution=item.resolution,
            digest=approval.digest,
            at_ms=draft.at_ms,
            principal=draft.context.principal,
            justification=item.justification,
            body_digest=draft.context.body_digest,
            raise_by=item.raise_by if item.resolution == "raise" else None,
        )
    )
    if item.resolution == "stop":
        budgets.stop(draft, approval.run_id, standing)


def _check_edit(draft: Draft, call: ToolCall, arguments: Arguments) -> str:
    spec = draft.settings.tools.get(call.tool)
    problem = spec.check(arguments) if spec else f"there is no tool {call.tool}"
    if problem:
        raise Invalid(f"cannot use the edited arguments: {problem}", path="$.updated_input")
    denying = permission_of(draft, call, arguments)
    if denying.is_rule_deny:
        raise Conflict(
            f"cannot use the edited arguments: the rule {denying.rule} ({denying.scope}) denies them",
            code="edit_denied",
        )
    return call_digest(call.tool, arguments, draft.state.cwd, draft.settings.policy_revision)


def _remembered_rule(draft: Draft, approval: Approval, item: ApprovalResolution, arguments: Arguments) -> Rule | None:
    if item.remember == "once":
        if item.rule:
            raise Invalid("cannot make a rule for once: say session or always", path="$.rule")
        return None
    if item.resolution not in ("allow", "deny"):
        raise Invalid(f"cannot remember {item.resolution}: it concerns this call alone", path="$.remember")
    scope: RuleScope = "session" if item.remember == "session" else "user"
    behavior: Behavior = "allow" if item.resolution == "allow" else "deny"
    spec = draft.settings.tools.get(approval.tool)
    if not item.rule:
        return exact_rule(approval.tool, main_argument_of(spec, arguments), behavior, scope)
    parse_pattern(item.rule, behavior)
    rule = Rule(pattern=item.rule, behavior=behavior, scope=scope)
    if not matches(rule, approval.tool, names_of(spec, arguments, draft.state.cwd)):
        raise Invalid(f"cannot make the rule {item.rule}: it does not match this very call", path="$.rule")
    return rule


def reissue(draft: Draft, approval: Approval) -> None:
    """Settles what was asked under other rules: a call that the new ones deny is denied, any other is asked again."""
    if approval.standing is not None:
        reason = "the daemon's rules changed; asked again where there is still no room"
        draft.emit(ApprovalWithdrawn(request_id=approval.request_id, run_id=approval.run_id, reason=reason))
        return
    run = draft.run(approval.run_id)
    call = tool_calls.lookup(draft.state, approval.run_id, approval.tool_call_id)
    if call is None:
        return
    spec = draft.settings.tools.get(call.tool)
    permission = permission_of(draft, call, call.arguments)
    is_before_start = approval.kind == "tool_call" and spec is not None
    is_denied = is_before_start and permission.is_rule_deny
    draft.emit(
        ApprovalWithdrawn(
            request_id=approval.request_id,
            run_id=run.run_id,
            reason=f"the daemon's rules changed; {'they deny it now' if is_denied else 'asked again'}",
        )
    )
    if is_denied and spec is not None:
        decide(draft, run, call, spec, permission)
        return
    is_asking = is_before_start and permission.base_behavior == "ask"
    request(
        draft,
        run,
        call,
        rule=permission.rule if is_asking else approval.rule,
        digest=call_digest(call.tool, call.arguments, draft.state.cwd, draft.settings.policy_revision),
        kind=approval.kind,
        reason=approval.reason,
        supersedes=approval.request_id,
    )


# -- evolve ---------------------------------------------------------------------------------------------------------


def on_requested(state: State, event: ApprovalRequested, context: Context) -> None:
    state.approvals[event.request_id] = Approval(
        request_id=event.request_id,
        run_id=event.run_id,
        tool_call_id=event.tool_call_id,
        tool=event.tool,
        arguments=event.arguments,
        cwd=event.cwd,
        digest=event.digest,
        policy_revision=event.policy_revision,
        requested_at_ms=event.requested_at_ms,
        rule=event.rule,
        kind=event.kind,
        reason=event.reason,
        standing=event.standing,
    )
    run = state.runs[event.run_id]
    state.runs[event.run_id] = replace(run, updated_at_ms=event.requested_at_ms)


def on_resolved(state: State, event: ApprovalResolved, context: Context) -> None:
    approval = state.approvals.pop(event.request_id)
    is_for_all = event.rule is not None and event.rule.scope == "user"
    settled = Settled(
        how=event.resolution, principal=event.principal, at_ms=event.at_ms, rule=event.rule if is_for_all else None
    )
    keep_newest(state.settled, event.request_id, settled, SETTLED_REQUESTS_KEPT)
    runs.remember_key(state, context, event.body_digest, event.run_id)
    if event.rule is not None and not is_for_all:
        state.rules.append(event.rule)
    if event.raise_by is not None and approval.standing is not None:
        budgets.on_raised(state, approval.standing.account, event.raise_by)
    fields: dict[str, object] = {"digest": event.digest}
    if event.updated_input is not None:
        fields["arguments"] = event.updated_input
    if event.resolution in ("allow", "retry"):
        fields["phase"] = "allowed"
        fields["human_approved"] = True
    tool_calls.change(state, event.run_id, approval.tool_call_id, **fields)
    state.runs[event.run_id] = replace(state.runs[event.run_id], updated_at_ms=event.at_ms)


def on_withdrawn(state: State, event: ApprovalWithdrawn, context: Context) -> None:
    state.approvals.pop(event.request_id)
    settled = Settled(how="withdrawn", principal=context.principal, at_ms=context.at_ms)
    keep_newest(state.settled, event.request_id, settled, SETTLED_REQUESTS_KEPT)
