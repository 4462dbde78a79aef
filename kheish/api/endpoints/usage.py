"""What model calls used and cost: of a run, or of all since a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec

from kheish.api.router import Call, Endpoint
from kheish.core.codec import decode_events
from kheish.core.usage import By, Meter
from kheish.errors import KheishError
from kheish.limits import USAGE_LOOK_BACK_MS, USAGE_RECORDS_MAX
from kheish.store.records import Record
from kheish.wire.body import Body
from kheish.wire.usage import UsageReport, usage_report

if TYPE_CHECKING:
    from kheish.api.app import App


class RunUsageQuery(Body, frozen=True):
    by: By = "model"


class UsageQuery(Body, frozen=True):
    """Of the model calls that were completed since then (unix milliseconds); 0: of all."""

    by: By = "model"
    since_ms: Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)] = 0


async def get_run_usage(app: App, call: Call[None, RunUsageQuery]) -> UsageReport:
    session_id, run_id = await app.supervisor.reader.find_run(call.path["id"])
    meter = Meter(call.query.by, 0, await app.supervisor.providers.prices())
    async with contextlib.aclosing(app.supervisor.reader.read_run(session_id, run_id, 0)) as pages:
        async for page in pages:
            await asyncio.to_thread(_meter, meter, session_id, page, run_id)
    budget = app.run_view(*await app.supervisor.reader.run(session_id, run_id)).budget
    return usage_report(meter, budget=budget)


async def get_usage(app: App, call: Call[None, UsageQuery]) -> UsageReport:
    """Reads journals, the sessions with the newest change first, until USAGE_RECORDS_MAX records are read. One that is
    damaged hides no other."""
    since_ms = call.query.since_ms
    meter = Meter(call.query.by, since_ms, await app.supervisor.providers.prices())
    reader = app.supervisor.reader
    rows = [row for row in app.supervisor.index.rows.glances() if row.updated_at_ms >= since_ms]
    left = USAGE_RECORDS_MAX
    is_whole = True
    for row in sorted(rows, key=lambda row: -row.updated_at_ms):
        meter.begin_session()
        look_from_ms = max(0, since_ms - USAGE_LOOK_BACK_MS)
        try:
            async with contextlib.aclosing(reader.read_since(row.session_id, look_from_ms)) as pages:
                async for page in pages:
                    await asyncio.to_thread(_meter, meter, row.session_id, page)
                    left -= len(page)
                    if left <= 0:
                        return usage_report(meter, is_whole=False)
        except (KheishError, OSError):
            is_whole = False
            async for _ in reader.peek_each([] if row.problem else [row.session_id]):
                pass  # it is looked at as a whole, and the status names it from now on
    return usage_report(meter, is_whole=is_whole)


def _meter(meter: Meter, session_id: str, records: Iterable[Record], run_id: str = "") -> None:
    """Of one run, or of all."""
    for record in records:
        if b'"model_call.' in record.events_json or b'"run.submitted"' in record.events_json:
            for event in decode_events(record.events_json):
                if not run_id or getattr(event, "run_id", "") == run_id:
                    meter.add(session_id, event)


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/usage", handler=get_usage, query=UsageQuery, waits=True,
             summary="What model calls used and cost, added up from the journals", returns=UsageReport,
             codes=("invalid_routes",)),
    Endpoint(method="GET", path="/v1/runs/{id}/usage", handler=get_run_usage, query=RunUsageQuery,
             summary="What the model calls of a run used and cost", returns=UsageReport, codes=("invalid_routes",)),
)  # fmt: skip
