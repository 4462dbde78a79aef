"""Permissions: rules of a session, dry runs, the matrix of modes, and what was decided."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from kheish.api.problems import OF_SESSION
from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core import commands
from kheish.core.codec import decode_events
from kheish.core.events import Rule, ToolCallDecided
from kheish.core.permissions import MODES, evaluate, require_operator
from kheish.core.state import State
from kheish.errors import Invalid
from kheish.limits import PAGE_ITEMS_MAX, STREAM_CHUNK_BYTES
from kheish.wire.body import Body
from kheish.wire.permissions import (
    AddRule,
    CheckPermission,
    ListMatrix,
    MatrixRow,
    PermissionAudit,
    PermissionView,
    RuleView,
    rule_view,
)
from kheish.wire.sessions import SessionView

if TYPE_CHECKING:
    from kheish.api.app import App


class PatternQuery(Body, frozen=True):
    pattern: str


async def list_rules(app: App, call: Call[None, NoQuery]) -> list[RuleView]:
    """All that apply to a session, nearest scope first."""
    state, _ = await app.supervisor.reader.state(call.path["id"])
    return [rule_view(rule) for rule in (*state.rules, *app.supervisor.policy.settings.rules)]


async def add_rule(app: App, call: Call[AddRule, NoQuery]) -> SessionView:
    rule = Rule(pattern=call.body.pattern, behavior=call.body.behavior)
    applied = await app.supervisor.submit(call.path["id"], commands.AddRule(rule=rule), call.caller)
    return app.session_view(applied.state, applied.seq)


async def list_user_rules(app: App, call: Call[None, NoQuery]) -> list[RuleView]:
    return [rule_view(rule) for rule in app.supervisor.policy.user_rules]


async def remove_user_rule(app: App, call: Call[None, PatternQuery]) -> list[RuleView]:
    """What was removed. A session that is being asked keeps the digest that it was asked with."""
    require_operator(call.caller.is_operator, call.caller.principal, "remove a permission rule")
    return [rule_view(rule) for rule in await app.supervisor.policy.remove_user_rule(call.query.pattern)]


async def _state(app: App, session_id: str) -> State:
    """That of the session, or of one that has nothing of its own."""
    return (await app.supervisor.reader.state(session_id))[0] if session_id else State()


async def check_permission(app: App, call: Call[CheckPermission, NoQuery]) -> PermissionView:
    body, settings = call.body, app.supervisor.policy.settings
    state = await _state(app, body.session_id)
    mode = body.mode_override or state.mode
    spec = settings.tools.get(body.tool_name)
    if spec is None:
        raise Invalid(
            f"cannot find the tool {body.tool_name}: there are {', '.join(settings.tools)}",
            code="tool_not_found",
            path="$.tool_name",
        )
    found = evaluate(mode, [*state.rules, *settings.rules], body.tool_name, spec, body.input, state.cwd)
    return PermissionView(
        tool_name=body.tool_name,
        mode=mode,
        decision=found.behavior,
        base_decision=found.base_behavior,
        mode_effect=found.mode_effect,
        matched_rule=found.rule,
        scope=found.scope,
        approval_required=found.behavior == "ask",
        reason=spec.check(body.input) if body.input else "",
    )


async def list_matrix(app: App, call: Call[ListMatrix, NoQuery]) -> list[MatrixRow]:
    settings = app.supervisor.policy.settings
    state = await _state(app, call.body.session_id)
    rules = [*state.rules, *settings.rules]
    return [
        MatrixRow(
            tool_name=name,
            effect=spec.effect,
            decisions={mode: evaluate(mode, rules, name, spec, {}, state.cwd).behavior for mode in MODES},
        )
        for name, spec in settings.tools.items()
    ]


async def list_audits(app: App, call: Call[None, NoQuery]) -> list[PermissionAudit]:
    """The last decisions of the session, oldest first."""
    audits: deque[PermissionAudit] = deque(maxlen=PAGE_ITEMS_MAX)
    after = 0
    await app.supervisor.reader.state(call.path["id"])
    while page := await app.supervisor.reader.read_records(
        call.path["id"], after, PAGE_ITEMS_MAX, bytes_max=STREAM_CHUNK_BYTES
    ):
        for record in page:
            after = record.seq
            if b'"tool_call.decided"' not in record.events_json:
                continue
            for event in decode_events(record.events_json):
                if isinstance(event, ToolCallDecided):
                    fields = {n: getattr(event, n) for n in PermissionAudit.__struct_fields__ if hasattr(event, n)}
                    audits.append(PermissionAudit(at_ms=record.at, seq=record.seq, **fields))
    return list(audits)


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/sessions/{id}/rules", handler=list_rules,
             summary="List the rules that apply to a session", returns=list[RuleView]),
    Endpoint(method="POST", path="/v1/sessions/{id}/rules", handler=add_rule, summary="Add a rule to a session",
             body=AddRule, returns=SessionView, codes=("operator_required", "invalid_rule")),
    Endpoint(method="GET", path="/v1/sessions/{id}/permission-audits", handler=list_audits,
             summary="List the last 1000 permission decisions of a session", returns=list[PermissionAudit]),
    Endpoint(method="GET", path="/v1/runtime/permissions/rules", handler=list_user_rules,
             summary="List the rules for all sessions that were made by answering always", returns=list[RuleView]),
    Endpoint(method="DELETE", path="/v1/runtime/permissions/rules", handler=remove_user_rule, query=PatternQuery,
             summary="Remove such a rule, by its pattern", returns=list[RuleView],
             codes=("operator_required", "rule_not_found", "disk_failed")),
    Endpoint(method="POST", path="/v1/runtime/permissions/check", handler=check_permission,
             summary="Ask what would be decided", body=CheckPermission, returns=PermissionView,
             codes=(*OF_SESSION, "tool_not_found")),
    Endpoint(method="POST", path="/v1/runtime/permissions/matrix", handler=list_matrix, body=ListMatrix,
             summary="What each mode does with each tool", returns=list[MatrixRow], codes=OF_SESSION),
)  # fmt: skip
