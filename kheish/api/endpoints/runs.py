"""Runs: list, look, follow, cancel; and how an input becomes one."""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from heapq import nlargest
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from kheish.api.problems import OF_SESSION
from kheish.api.router import Call, Endpoint, NoQuery, Raw
from kheish.api.streams import TAIL, parse_seq, public_record
from kheish.core import commands
from kheish.core.codec import decode_events
from kheish.core.events import Attachment
from kheish.core.state import Run, State, status_of
from kheish.core.usage import rates_of
from kheish.core.why import Inquiry
from kheish.errors import Invalid
from kheish.limits import PAGE_BYTES_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX, TOOL_RESULT_INLINE_BYTES_MAX
from kheish.runtime.actor import Applied
from kheish.wire.body import Body, Cursor, OptionalSession, StreamCursor
from kheish.wire.budgets import to_budget
from kheish.wire.runs import InputAttachment, RunView, StopRun, SubmitInput, WhyView
from kheish.wire.status import RecordPage

if TYPE_CHECKING:
    from kheish.api.app import App


class ListQuery(Body, frozen=True):
    """Newest first. `active` keeps those that are not over."""

    session_id: OptionalSession = ""
    active: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1)] = PAGE_ITEMS_DEFAULT


class EventsQuery(Body, frozen=True):
    cursor: Cursor = ""
    limit: Annotated[int, msgspec.Meta(ge=1)] = PAGE_ITEMS_DEFAULT


class StreamQuery(Body, frozen=True):
    cursor: StreamCursor = ""


SUBMITS = (
    "session_ended", "empty_input", "queue_full", "model_missing", "invalid_routes", "route_not_ready", "disk_low",
    "quota_exceeded",
)  # fmt: skip
"""What may come of an input besides what may come of any command."""


async def submit_input(app: App, session_id: str, call: Call[SubmitInput, Any]) -> Applied:
    """The run's id is the result."""
    body = call.body
    if (repeated := await find_repeated(app, session_id, call)) is not None:
        return repeated
    state, _ = await app.supervisor.reader.state(session_id)
    providers = app.supervisor.providers
    hops = await providers.with_windows(await providers.resolve(body.model, state.model))
    price_of = await providers.prices([hop.route for hop in hops])
    command = commands.SubmitRun(
        text=body.content,
        route=hops[0].route,
        model=hops[0].model,
        delivery=body.delivery,
        attachments=tuple([await _keep_attachment(app, a, i) for i, a in enumerate(body.attachments)]),
        metadata=body.metadata,
        hops=hops if len(hops) > 1 else (),
        budget=to_budget(body.budget) if body.budget else None,
        on_budget=body.on_budget,
        rates=rates_of(hops, price_of, app.supervisor.clock.now_ms()),
        window_tokens=hops[0].window_tokens,
        pinned=body.pinned,
    )
    return await app.supervisor.submit(session_id, command, call.caller, key=call.key, body_digest=call.body_digest)


async def find_repeated(app: App, session_id: str, call: Call[Any, Any]) -> Applied | None:
    """What the same request with the same key did before, whatever would stand in its way now: a route that is gone, a
    paused queue. Raises NotFound."""
    if not call.key:
        return None
    state, seq = await app.supervisor.reader.state(session_id)
    use = state.keys.get(call.key)
    return Applied(use.result, seq, state) if use is not None and use.body_digest == call.body_digest else None


async def _keep_attachment(app: App, given: InputAttachment, position: int) -> Attachment:
    """Small text stays in the journal; everything else is a blob."""
    name = os.path.basename(given.file_name) or "attachment"
    if (given.text is None) == (given.content_base64 is None):
        raise Invalid("cannot accept the attachment: give text or content_base64", path=f"$.attachments[{position}]")
    if given.text is not None:
        data = given.text.encode()
        if len(data) <= TOOL_RESULT_INLINE_BYTES_MAX:
            return Attachment(name=name, media_type=given.media_type, text=given.text, bytes=len(data))
    else:
        try:
            data = base64.b64decode(given.content_base64 or "", validate=True)
        except ValueError as error:
            raise Invalid(
                f"cannot read the attachment: {error}", path=f"$.attachments[{position}].content_base64"
            ) from error
    sha256 = await app.supervisor.put_blob(data)
    return Attachment(name=name, media_type=given.media_type, blob=sha256, bytes=len(data))


async def find_run(app: App, given: str) -> tuple[State, Run]:
    """By id or unambiguous prefix."""
    return await app.supervisor.reader.run(*await app.supervisor.reader.find_run(given))


async def view_result(app: App, applied: Applied) -> RunView:
    """The run that a command made or touched; where the command was repeated it may be long over."""
    state = applied.state
    if applied.result in state.runs:
        return app.run_view(state, state.runs[applied.result])
    return app.run_view(*await app.supervisor.reader.run(state.session_id, applied.result))


async def list_runs(app: App, call: Call[None, ListQuery]) -> list[RunView]:
    query = call.query
    limit = min(query.limit, PAGE_ITEMS_DEFAULT)
    rows = app.supervisor.index.rows
    if query.session_id:
        await app.supervisor.reader.state(query.session_id)
    chosen = [rows[query.session_id]] if query.session_id else (row for row in rows.glances() if not row.problem)
    if query.active:
        ids = [(id_, row.session_id) for row in chosen for id_ in (row.active_run_id, *row.queued_run_ids) if id_]
    else:
        among = nlargest(limit, chosen, key=lambda row: row.newest_run_id)  # the newest runs of all are among theirs
        ids = [(run_id, row.session_id) for row in among for run_id in rows[row.session_id].run_ids]
    newest = sorted(ids, reverse=True)[:limit]  # run ids begin with their time of creation
    wanted = {run_id for run_id, _ in newest}
    views: dict[str, RunView] = {}
    async for state in app.supervisor.reader.peek_each(list({session_id for _, session_id in newest})):
        views |= {run_id: app.run_view(state, state.runs[run_id]) for run_id in wanted & state.runs.keys()}
    return [views[run_id] for run_id, _ in newest if run_id in views]


async def get_run(app: App, call: Call[None, NoQuery]) -> RunView:
    return app.run_view(*await find_run(app, call.path["id"]))


async def list_run_events(app: App, call: Call[None, EventsQuery]) -> Raw:
    session_id, run_id = await app.supervisor.reader.find_run(call.path["id"])
    after, limit = parse_seq(call.query.cursor), min(call.query.limit, PAGE_ITEMS_MAX)
    items: list[bytes] = []
    size = 0
    cursor = "null"
    async with contextlib.aclosing(app.supervisor.reader.read_run(session_id, run_id, after)) as pages:
        async for record in (record async for page in pages for record in page):
            if len(items) == limit or size >= PAGE_BYTES_MAX:
                cursor = f'"{after}"'
                break
            items.append(public_record(session_id, record))
            size += len(items[-1])
            after = record.seq
    return Raw(b'{"items":[' + b",".join(items) + b'],"next_cursor":' + cursor.encode() + b"}", "application/json")


def start_of(call: Call[None, Any], parse: Callable[[str], object] = parse_seq) -> str:
    """The cursor that a stream starts at: a reader that reconnects has it in the header, and its first one in the query
    still. Raises Invalid for what is none, in either."""
    for cursor in (call.query.cursor, call.last_event_id):
        if cursor not in ("", TAIL):
            parse(cursor)
    return call.last_event_id or str(call.query.cursor)


async def stream_run(app: App, call: Call[None, StreamQuery]) -> AsyncIterator[bytes]:
    state, run = await find_run(app, call.path["id"])
    return app.streams.session(state.session_id, run.run_id, start_of(call), is_resumed=bool(call.last_event_id))


async def explain_run(app: App, call: Call[None, NoQuery]) -> WhyView:
    session_id, run_id = await app.supervisor.reader.find_run(call.path["id"])
    state, run = await app.supervisor.reader.run(session_id, run_id)
    inquiry = Inquiry(run_id, await app.supervisor.providers.prices())
    async with contextlib.aclosing(app.supervisor.reader.read_run(session_id, run_id, 0)) as pages:
        async for record in (record async for page in pages for record in page):
            for event in decode_events(record.events_json):
                inquiry.add(event, record.at)
    return WhyView(
        run_id=run_id,
        session_id=session_id,
        status=status_of(state, run),
        hops=list(inquiry.hops),
        attempts=inquiry.attempts,
        lines=inquiry.lines(),
    )


async def cancel_run(app: App, call: Call[StopRun, NoQuery]) -> RunView:
    state, run = await find_run(app, call.path["id"])
    if run.is_terminal:
        return app.run_view(state, run)
    command = commands.CancelRun(run_id=run.run_id, reason=call.body.reason)
    return await view_result(app, await app.supervisor.submit(state.session_id, command, call.caller))


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/runs", handler=list_runs, summary="List runs of all sessions, newest first",
             query=ListQuery, returns=list[RunView], codes=OF_SESSION),
    Endpoint(method="GET", path="/v1/runs/{id}", handler=get_run, summary="Get a run", returns=RunView),
    Endpoint(method="GET", path="/v1/runs/{id}/events", handler=list_run_events,
             summary="Page through the records that concern a run", query=EventsQuery, returns=RecordPage,
             codes=("invalid_cursor",)),
    Endpoint(method="GET", path="/v1/runs/{id}/stream", handler=stream_run,
             summary="Follow a run; the stream ends with it", query=StreamQuery, stream=True,
             if_empty="The run is over, and the reader that reconnects has seen all of it"),
    Endpoint(method="GET", path="/v1/runs/{id}/why", handler=explain_run,
             summary="Why a run went where it went: its model calls, attempt by attempt, and in words", returns=WhyView,
             codes=("invalid_routes",)),
    Endpoint(method="POST", path="/v1/runs/{id}/cancel", handler=cancel_run,
             summary="Cancel a run; a finished one stays as it is", body=StopRun, returns=RunView),
)  # fmt: skip
