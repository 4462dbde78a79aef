"""The daemon itself: probes, status, routes, the global stream, blobs, and this API's description."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

import msgspec

from kheish import __version__
from kheish.api.endpoints.approvals import ListQuery as InboxQuery
from kheish.api.endpoints.approvals import list_approvals
from kheish.api.endpoints.questions import list_questions
from kheish.api.openapi import describe
from kheish.api.router import Call, Endpoint, NoQuery, Raw
from kheish.errors import Draining
from kheish.limits import MIB
from kheish.wire.body import Body
from kheish.wire.status import (
    HealthView,
    InboxCounts,
    InboxView,
    RouteView,
    RunCounts,
    SessionCounts,
    StatusView,
    WarningView,
)

if TYPE_CHECKING:
    from kheish.api.app import App


class StreamQuery(Body, frozen=True):
    """`cursor` is `<generation>.<position>` of the last record seen, or `tail`."""

    cursor: str = ""


class BlobQuery(Body, frozen=True):
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=16 * MIB)] = MIB


async def get_health(app: App, call: Call[None, NoQuery]) -> HealthView:
    return HealthView(status="ok")


async def get_readiness(app: App, call: Call[None, NoQuery]) -> HealthView:
    if app.supervisor.is_draining:
        raise Draining("the daemon is stopping")
    return HealthView(status="ready")


async def get_status(app: App, call: Call[None, NoQuery]) -> StatusView:
    supervisor = app.supervisor
    rows = [row for row in supervisor.index.rows.values() if row.created_at_ms or row.problem]
    waiting = [row.active_status for row in rows]
    generation, position = supervisor.position
    return StatusView(
        status="draining" if supervisor.is_draining else "ready",
        ready=not supervisor.is_draining,
        version=__version__,
        pid=os.getpid(),
        generation=generation,
        started_at_ms=supervisor.started_at_ms,
        state_root=str(app.state_root),
        socket=str(app.socket_path),
        cursor=f"{generation}.{position}",
        sessions=SessionCounts(
            total=len(rows), loaded=supervisor.loaded_total, read_only=sum(1 for row in rows if row.problem)
        ),
        runs=RunCounts(
            active=sum(1 for row in rows if row.active_run_id),
            queued=sum(len(row.queued_run_ids) for row in rows),
            waiting_for_approval=waiting.count("waiting_for_approval"),
            waiting_for_user_question=waiting.count("waiting_for_user_question"),
        ),
        inbox=InboxCounts(
            approvals=sum(row.pending_approvals for row in rows), questions=sum(row.pending_questions for row in rows)
        ),
        subscribers=supervisor.hub.subscribers_total,
        warnings=[
            WarningView(code="session_read_only", message=row.problem, session_id=row.session_id)
            for row in rows
            if row.problem
        ][:100],
    )


async def get_inbox(app: App, call: Call[None, InboxQuery]) -> InboxView:
    return InboxView(approvals=list(await list_approvals(app, call)), questions=list(await list_questions(app, call)))  # type: ignore[arg-type]


async def list_routes(app: App, call: Call[None, NoQuery]) -> list[RouteView]:
    return [RouteView(**row) for row in await app.supervisor.providers.describe()]


async def stream_everything(app: App, call: Call[None, StreamQuery]) -> AsyncIterator[bytes]:
    return app.streams.everything(call.last_event_id or call.query.cursor)


async def get_blob(app: App, call: Call[None, BlobQuery]) -> Raw:
    return Raw(await app.supervisor.read_blob(call.path["sha256"], call.query.offset, call.query.limit))


async def get_openapi(app: App, call: Call[None, NoQuery]) -> Raw:
    return Raw(describe(app.router.endpoints), "application/json")


ENDPOINTS = (
    Endpoint(method="GET", path="/healthz", handler=get_health, summary="Is the process alive", returns=HealthView),
    Endpoint(method="GET", path="/readyz", handler=get_readiness, summary="Does it take work (503: it is stopping)",
             returns=HealthView),
    Endpoint(method="GET", path="/v1/status", handler=get_status, summary="The daemon at a glance",
             returns=StatusView),
    Endpoint(method="GET", path="/v1/inbox", handler=get_inbox, query=InboxQuery,
             summary="All approvals and questions that wait", returns=InboxView),
    Endpoint(method="GET", path="/v1/routes", handler=list_routes, summary="List the routes to models",
             returns=list[RouteView]),
    Endpoint(method="GET", path="/v1/events/stream", handler=stream_everything, query=StreamQuery,
             summary="Follow all sessions", stream=True),
    Endpoint(method="GET", path="/v1/blobs/{sha256}", handler=get_blob, query=BlobQuery,
             summary="Read stored bytes, such as a long tool output", returns=bytes),
    Endpoint(method="GET", path="/v1/openapi.json", handler=get_openapi, summary="This description"),
)  # fmt: skip
