"""Approvals: the inbox, one of them, and the human's decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheish.api.endpoints.runs import view_result
from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core import commands
from kheish.core.approvals import find
from kheish.core.permissions import exact_rule, main_argument_of
from kheish.core.state import Approval, State
from kheish.runtime.actor import Applied
from kheish.wire.approvals import (
    ApprovalView,
    ResolveApproval,
    ResolveApprovals,
    ResolveOneOfMany,
    approval_view,
    to_command,
)
from kheish.wire.body import Body
from kheish.wire.runs import RunView
from kheish.wire.sessions import SessionView

if TYPE_CHECKING:
    from kheish.api.app import App


class ListQuery(Body, frozen=True):
    session_id: str = ""


def view(app: App, state: State, approval: Approval) -> ApprovalView:
    spec = app.supervisor.policy.settings.tools.get(approval.tool)
    rule = exact_rule(approval.tool, main_argument_of(spec, approval.arguments), "allow", "session")
    return approval_view(state, approval, rule.pattern if approval.kind == "tool_call" else "")


async def list_approvals(app: App, call: Call[None, ListQuery]) -> list[ApprovalView]:
    """Oldest first: that is the order in which people work."""
    views = []
    asking = [row.session_id for row in app.supervisor.index.rows.glances() if row.approval_ids and not row.problem]
    chosen = [session_id for session_id in asking if call.query.session_id in ("", session_id)]
    async for state in app.supervisor.reader.peek_each(chosen):
        views += [view(app, state, approval) for approval in state.approvals.values()]
    return sorted(views, key=lambda v: v.request_id)


async def list_session_approvals(app: App, call: Call[None, NoQuery]) -> list[ApprovalView]:
    state, _ = await app.supervisor.reader.state(call.path["id"])
    return [view(app, state, approval) for approval in state.approvals.values()]


async def get_approval(app: App, call: Call[None, NoQuery]) -> ApprovalView:
    session_id, request_id = await app.supervisor.reader.find_request(call.path["id"])
    state, _ = await app.supervisor.reader.state(session_id)
    return view(app, state, find(state, request_id))


async def _resolve(app: App, session_id: str, items: list[ResolveOneOfMany], call: Call[Any, NoQuery]) -> Applied:
    resolutions = tuple(to_command(item.request_id, item) for item in items)
    applied = await app.supervisor.submit(
        session_id,
        commands.ResolveApprovals(resolutions=resolutions),
        call.caller,
        key=call.key,
        body_digest=call.body_digest,
    )
    # The answer leaves only after a rule for all sessions is durable too; repeating the request completes it.
    for resolution in resolutions:
        settled = applied.state.settled.get(resolution.request_id)
        if settled is not None and settled.rule is not None:
            await app.supervisor.policy.add_user_rule(settled.rule)
    return applied


async def resolve_approval(app: App, call: Call[ResolveApproval, NoQuery]) -> RunView:
    session_id, request_id = await app.supervisor.reader.find_request(call.path["id"])
    body = call.body
    item = ResolveOneOfMany(request_id=request_id, **{n: getattr(body, n) for n in body.__struct_fields__})
    applied = await _resolve(app, session_id, [item], call)
    return await view_result(app, applied)


async def resolve_in_session(app: App, call: Call[ResolveApprovals, NoQuery]) -> SessionView:
    applied = await _resolve(app, call.path["id"], call.body.resolutions, call)
    return app.session_view(applied.state, applied.seq)


async def resolve_as_run(app: App, call: Call[ResolveApprovals, NoQuery]) -> RunView:
    applied = await _resolve(app, call.path["id"], call.body.resolutions, call)
    return await view_result(app, applied)


async def resolve_in_run(app: App, call: Call[ResolveApprovals, NoQuery]) -> RunView:
    session_id, _ = await app.supervisor.reader.find_run(call.path["id"])
    applied = await _resolve(app, session_id, call.body.resolutions, call)
    return await view_result(app, applied)


_RESOLVES = (
    "operator_required", "invalid_resolution", "invalid_rule", "approval_not_found", "approval_state_conflict",
    "approval_digest_mismatch", "approval_policy_changed", "approval_denied", "edit_denied", "invalid_raise",
)  # fmt: skip

ENDPOINTS = (
    Endpoint(method="GET", path="/v1/approvals", handler=list_approvals, query=ListQuery,
             summary="List what waits for a decision, oldest first", returns=list[ApprovalView]),
    Endpoint(method="GET", path="/v1/approvals/{id}", handler=get_approval, summary="Get a pending approval",
             returns=ApprovalView),
    Endpoint(method="POST", path="/v1/approvals/{id}", handler=resolve_approval, summary="Resolve an approval",
             body=ResolveApproval, returns=RunView, keyed=True, codes=_RESOLVES),
    Endpoint(method="GET", path="/v1/sessions/{id}/approvals", handler=list_session_approvals,
             summary="List the pending approvals of a session", returns=list[ApprovalView]),
    Endpoint(method="POST", path="/v1/sessions/{id}/approvals", handler=resolve_in_session,
             summary="Resolve approvals of one run, all or none", body=ResolveApprovals, returns=SessionView,
             keyed=True, codes=_RESOLVES),
    Endpoint(method="POST", path="/v1/sessions/{id}/approval-runs", handler=resolve_as_run, status=202,
             summary="The same, answering with the run", body=ResolveApprovals, returns=RunView, keyed=True,
             codes=_RESOLVES),
    Endpoint(method="POST", path="/v1/runs/{id}/approvals", handler=resolve_in_run,
             summary="The same, by run", body=ResolveApprovals, returns=RunView, keyed=True, codes=_RESOLVES),
)  # fmt: skip
