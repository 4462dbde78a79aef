"""The daemon itself: probes, status, routes, the global stream, blobs, and this API's description."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, get_args

import msgspec

from kheish import __version__
from kheish.api import readiness
from kheish.api.endpoints.approvals import ListQuery as InboxQuery
from kheish.api.endpoints.approvals import list_approvals
from kheish.api.endpoints.questions import list_questions
from kheish.api.endpoints.runs import start_of
from kheish.api.openapi import describe
from kheish.api.router import Call, Endpoint, NoQuery, Raw
from kheish.api.streams import parse_global
from kheish.core.approvals import VERBS
from kheish.core.chains import cooling_in
from kheish.core.events import Delivery
from kheish.core.permissions import MODES
from kheish.errors import Draining
from kheish.limits import MIB, WARNINGS_OF_A_KIND_MAX
from kheish.providers.routes import Driver
from kheish.wire.body import Body, GlobalCursor
from kheish.wire.status import (
    STREAM_EVENTS,
    CapabilitiesView,
    ChainView,
    HealthView,
    InboxCounts,
    InboxView,
    RouteView,
    RunCounts,
    SessionCounts,
    StatusView,
    WarningView,
    limits_view,
    tool_view,
)

if TYPE_CHECKING:
    from kheish.api.app import App
    from kheish.runtime.supervisor import Supervisor


class StreamQuery(Body, frozen=True):
    """`cursor` is the id of the last frame, `<generation>.<position>` or longer, or `tail`. Without `deltas` only
    records come."""

    cursor: GlobalCursor = ""
    deltas: bool = True


class BlobQuery(Body, frozen=True):
    offset: Annotated[int, msgspec.Meta(ge=0, le=MIB * MIB)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=16 * MIB)] = MIB


async def get_health(app: App, call: Call[None, NoQuery]) -> HealthView:
    return HealthView(status="ok")


async def get_readiness(app: App, call: Call[None, NoQuery]) -> HealthView:
    if app.supervisor.is_draining:
        raise Draining("the daemon is stopping")
    return HealthView(status="ready")


async def get_status(app: App, call: Call[None, NoQuery]) -> StatusView:
    supervisor = app.supervisor
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    damaged: list[WarningView] = []
    for row in supervisor.index.rows.glances():
        if row.is_shown:
            counts["total"] += 1
            statuses[row.active_status] += 1
            counts["active"] += bool(row.active_run_id)
            counts["queued"] += len(row.queued_run_ids)
            counts["approvals"] += len(row.approval_ids)
            counts["questions"] += len(row.question_ids)
        if row.problem:
            damaged.append(
                WarningView(
                    code="session_read_only",
                    message=row.problem,
                    session_id=row.session_id,
                    action=f"kheish sessions verify {row.session_id}",
                )
            )
    warnings = [*await _of_quotas(supervisor), *_some(damaged, "that are read-only", "kheish sessions verify --all")]
    if problem := await supervisor.disk.problem():
        action = "make room; `kheish sessions vacuum --all` may free some"
        warnings.insert(0, WarningView(code="disk_low", message=f"no new work is taken: {problem}", action=action))
    provider_readiness, of_routes = await readiness.look(app)
    return StatusView(
        status="draining" if supervisor.is_draining else "ready",
        ready=not supervisor.is_draining,
        version=__version__,
        pid=os.getpid(),
        generation=supervisor.generation,
        started_at_ms=supervisor.started_at_ms,
        state_root=str(app.state_root),
        socket=str(app.socket_path),
        cursor="{}.{}".format(*supervisor.position),
        sessions=SessionCounts(total=counts["total"], loaded=supervisor.loaded_total, read_only=len(damaged)),
        runs=RunCounts(
            active=counts["active"],
            queued=counts["queued"],
            waiting_for_approval=statuses["waiting_for_approval"],
            waiting_for_user_question=statuses["waiting_for_user_question"],
        ),
        inbox=InboxCounts(approvals=counts["approvals"], questions=counts["questions"]),
        subscribers=supervisor.hub.subscribers_total,
        warnings=[*of_routes, *warnings][:100],
        provider_readiness=provider_readiness,
    )


async def _of_quotas(supervisor: Supervisor) -> list[WarningView]:
    near = sorted(await supervisor.quotas.near(), key=lambda usage: (bool(usage.session_id), -usage.used_bytes))
    found: dict[bool, list[WarningView]] = {True: [], False: []}
    for usage in near:
        found[usage.is_over].append(
            WarningView(
                code="quota_exceeded" if usage.is_over else "quota_near",
                message=f"{'no new work is taken: ' if usage.is_over else ''}{usage}",
                session_id=usage.session_id,
                action=usage.advice,
            )
        )
    action = "`kheish sessions vacuum --all` may help"
    over = _some(found[True], "that take what quotas.session_bytes in config.toml allows, or more", action)
    return [*over, *_some(found[False], "that come near quotas.session_bytes in config.toml", action)]


def _some(warnings: list[WarningView], of_what: str, action: str) -> list[WarningView]:
    """The first of a kind, and how many more sessions there are."""
    left = warnings[WARNINGS_OF_A_KIND_MAX:]
    if not left:
        return warnings
    message = f"and {len(left)} more sessions {of_what}" if len(left) > 1 else f"and one more session {of_what}"
    return [*warnings[:WARNINGS_OF_A_KIND_MAX], WarningView(code=left[0].code, message=message, action=action)]


async def get_capabilities(app: App, call: Call[None, NoQuery]) -> CapabilitiesView:
    """Of the very tables that the daemon works by."""
    return CapabilitiesView(
        version=__version__,
        operations=[endpoint.operation for endpoint in app.router.endpoints],
        stream_events=[event.name for event in STREAM_EVENTS],
        drivers=list(get_args(Driver)),
        tools=[tool_view(spec) for spec in app.supervisor.policy.settings.tools.values()],
        permission_modes=list(MODES),
        deliveries=list(get_args(Delivery)),
        resolutions={kind: list(verbs) for kind, verbs in VERBS.items()},
        limits=limits_view(),
    )


async def get_inbox(app: App, call: Call[None, InboxQuery]) -> InboxView:
    return InboxView(approvals=list(await list_approvals(app, call)), questions=list(await list_questions(app, call)))  # type: ignore[arg-type]


async def list_routes(app: App, call: Call[None, NoQuery]) -> list[RouteView]:
    return [RouteView(**row) for row in await app.supervisor.providers.describe()]


async def list_chains(app: App, call: Call[None, NoQuery]) -> list[ChainView]:
    at_ms = app.supervisor.clock.now_ms()
    cooling = app.supervisor.circuits.cooling(at_ms)
    return [
        ChainView(**row, cooling=list(cooling_in(tuple(row["hops"]), cooling)))
        for row in await app.supervisor.providers.describe_chains()
    ]


async def stream_everything(app: App, call: Call[None, StreamQuery]) -> AsyncIterator[bytes]:
    return app.streams.everything(start_of(call, parse_global), has_deltas=call.query.deltas)


async def get_blob(app: App, call: Call[None, BlobQuery]) -> Raw:
    return Raw(await app.supervisor.read_blob(call.path["sha256"], call.query.offset, call.query.limit))


async def get_openapi(app: App, call: Call[None, NoQuery]) -> Raw:
    return Raw(describe(app.router.endpoints), "application/json")


ENDPOINTS = (
    Endpoint(method="GET", path="/healthz", handler=get_health, summary="Is the process alive", returns=HealthView),
    Endpoint(method="GET", path="/readyz", handler=get_readiness, summary="Does it take work (503: it is stopping)",
             returns=HealthView, codes=("daemon_draining",)),
    Endpoint(method="GET", path="/v1/status", handler=get_status, summary="The daemon at a glance",
             returns=StatusView),
    Endpoint(method="GET", path="/v1/capabilities", handler=get_capabilities,
             summary="What this daemon can do: operations, drivers, tools, modes, limits", returns=CapabilitiesView),
    Endpoint(method="GET", path="/v1/inbox", handler=get_inbox, query=InboxQuery,
             summary="All approvals and questions that wait", returns=InboxView),
    Endpoint(method="GET", path="/v1/routes", handler=list_routes, summary="List the routes to models",
             returns=list[RouteView], codes=("invalid_routes",)),
    Endpoint(method="GET", path="/v1/chains", handler=list_chains,
             summary="List the chains of routes, and which of their hops are spared now", returns=list[ChainView],
             codes=("invalid_routes",)),
    Endpoint(method="GET", path="/v1/events/stream", handler=stream_everything, query=StreamQuery,
             summary="Follow all sessions", stream=True),
    Endpoint(method="GET", path="/v1/blobs/{sha256}", handler=get_blob, query=BlobQuery,
             summary="Read stored bytes, such as a long tool output", returns=bytes, codes=("disk_failed",)),
    Endpoint(method="GET", path="/v1/openapi.json", handler=get_openapi, summary="This description"),
)  # fmt: skip
