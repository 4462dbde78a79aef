"""Sessions: create, look, feed, stop."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from heapq import nsmallest
from typing import TYPE_CHECKING, Annotated, Any, get_args

import msgspec

from kheish.api.endpoints.runs import (
    SUBMITS,
    EventsQuery,
    StreamQuery,
    find_repeated,
    start_of,
    submit_input,
    view_result,
)
from kheish.api.problems import OF_APPEND, OF_SESSION
from kheish.api.router import Call, Endpoint, NoQuery, Raw
from kheish.api.streams import parse_seq, public_record
from kheish.core import commands
from kheish.core.runs import check_not_started, check_queued
from kheish.errors import Conflict, Draining, Invalid, NotFound
from kheish.ids import is_session_name, new_id
from kheish.limits import PAGE_BYTES_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX
from kheish.runtime.supervisor import Caller
from kheish.wire.body import Body, View
from kheish.wire.runs import EditInput, MoveInput, RunView, StopRun, SubmitInput
from kheish.wire.sessions import (
    TITLE_CHARS_MAX,
    CreateSession,
    EndSession,
    ForkSession,
    InterruptView,
    LabelRecord,
    SessionStatus,
    SessionView,
    SetModel,
    SetPermissionMode,
    SetTitle,
    TranscriptView,
    session_status,
    transcript_view,
)
from kheish.wire.status import RecordPage

if TYPE_CHECKING:
    from kheish.api.app import App


_STATUS = "|".join(get_args(SessionStatus))


class ListQuery(Body, frozen=True):
    """Newest change first. `status` keeps only these; `page` or `cursor` ask for `{items, next_cursor}`."""

    status: Annotated[str, msgspec.Meta(pattern=f"^(({_STATUS})(,({_STATUS}))*)?$")] = ""
    cwd: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1)] = PAGE_ITEMS_DEFAULT
    page: bool = False
    cursor: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": "^([0-9]{1,15}:.+)?$"})] = ""


class SessionPage(View, frozen=True):
    items: list[SessionView]
    next_cursor: str | None


class TranscriptQuery(Body, frozen=True):
    """`first` counts messages from 0; without it the last `limit`."""

    first: Annotated[int, msgspec.Meta(ge=0)] | msgspec.UnsetType = msgspec.UNSET
    limit: Annotated[int, msgspec.Meta(ge=1)] = PAGE_ITEMS_DEFAULT


async def create_session(app: App, call: Call[CreateSession, NoQuery]) -> SessionView:
    body = call.body
    session_id = _new_session(body.session_id, call.key)
    is_new = session_id not in app.supervisor.index.rows
    cwd = body.cwd or (body.default_cwd if is_new else "")
    if cwd:
        cwd = await app.looking.run(_resolve_directory, cwd)
    elif is_new:
        raise Invalid("cannot create a session without a directory: give cwd", code="cwd_missing", path="$.cwd")
    # What a run makes asks, whatever an operator set for the sessions of people.
    default_mode = app.supervisor.runtime.settings.permission_mode if call.caller.is_operator else "default"
    parent_session_id, parent_run_id = await _parent_of(app, call.caller) if is_new else ("", "")
    command = commands.CreateSession(
        session_id=session_id,
        cwd=cwd,
        mode=body.permission_mode or default_mode,
        title=body.title,
        parent_session_id=parent_session_id,
        parent_run_id=parent_run_id,
    )
    applied = await app.supervisor.submit(session_id, command, call.caller, key=call.key, body_digest=call.body_digest)
    return app.session_view(applied.state, applied.seq)


async def fork_session(app: App, call: Call[ForkSession, NoQuery]) -> SessionView:
    body = call.body
    session_id = _new_session(body.session_id, call.key)
    if session_id in app.supervisor.index.rows and (made := await find_repeated(app, session_id, call)) is not None:
        return app.session_view(made.state, made.seq)
    forked, source = await app.supervisor.reader.copy_transcript(call.path["id"], body.at)
    title = body.title
    if title is None:
        title = f"fork of {source.title or source.session_id} at {forked.from_seq}"[:TITLE_CHARS_MAX]
    parent_session_id, parent_run_id = await _parent_of(app, call.caller)
    command = commands.CreateSession(
        session_id=session_id,
        cwd=source.cwd,
        title=title,
        forked=forked,
        parent_session_id=parent_session_id,
        parent_run_id=parent_run_id,
    )
    applied = await app.supervisor.submit(session_id, command, call.caller, key=call.key, body_digest=call.body_digest)
    return app.session_view(applied.state, applied.seq)


def _new_session(name: str, key: str) -> str:
    """The id of a session that is to be made. Raises Invalid."""
    session_id = name or (_session_of_key(key) if key else new_id("session"))
    if not is_session_name(session_id):
        raise Invalid(
            f"cannot use {session_id!r} as a session id: 1-128 letters, digits, `.`, `_`, `-`, a letter or digit first",
            code="invalid_session_id",
            path="$.session_id",
        )
    return session_id


async def _parent_of(app: App, caller: Caller) -> tuple[str, str]:
    """The session and the run whose process this is; nothing for a person's."""
    kind, _, run_id = caller.principal.partition(":")
    session_id = await app.supervisor.reader.session_of_run(run_id) if kind == "run" else None
    return (session_id, run_id) if session_id else ("", "")


def _session_of_key(key: str) -> str:
    """The id of the session that this key makes, so that a repeated request finds it after any restart."""
    return f"session_{hashlib.blake2b(key.encode(), digest_size=13).hexdigest()}"


def _resolve_directory(path: str) -> str:
    """The real path of an absolute, existing directory whose name is text. Raises Invalid."""
    if not os.path.isabs(path):
        raise Invalid(f"cannot use {path!r} as the directory: it must be absolute", code="invalid_cwd", path="$.cwd")
    try:
        real = os.path.realpath(path, strict=True)
        real.encode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise Invalid(f"cannot use {path} as the directory: {reason}", code="invalid_cwd", path="$.cwd") from error
    if not os.path.isdir(real):
        raise Invalid(f"cannot use {path} as the directory: it is a file", code="invalid_cwd", path="$.cwd")
    return real


async def list_sessions(app: App, call: Call[None, ListQuery]) -> list[SessionView] | SessionPage:
    query = call.query
    wanted = {status for status in query.status.split(",") if status}
    chosen = (
        row
        for row in app.supervisor.index.rows.glances()
        if row.is_shown
        and (not wanted or session_status(row.ended, row.active_status) in wanted)
        and (not query.cwd or row.cwd == query.cwd)
    )
    limit = min(query.limit, PAGE_ITEMS_MAX)
    if query.cursor:
        at_ms, _, session_id = query.cursor.partition(":")
        if not (at_ms and session_id):
            raise Invalid(
                f"cannot use the cursor {query.cursor!r}: take the next_cursor of a page", code="invalid_cursor"
            )
        after = (-parse_seq(at_ms), session_id)
        chosen = (row for row in chosen if (-row.updated_at_ms, row.session_id) > after)
    rows = nsmallest(limit + 1, chosen, key=lambda row: (-row.updated_at_ms, row.session_id))
    if not (query.page or query.cursor):
        return [row_view(app, row.session_id) for row in rows[:limit]]
    more = len(rows) > limit
    last = rows[limit - 1] if more else None
    return SessionPage(
        items=[row_view(app, row.session_id) for row in rows[:limit]],
        next_cursor=f"{last.updated_at_ms}:{last.session_id}" if last else None,
    )


def row_view(app: App, session_id: str) -> SessionView:
    row = app.supervisor.index.rows[session_id]
    return SessionView(
        session_id=row.session_id,
        status=session_status(row.ended, row.active_status),
        cwd=row.cwd,
        title=row.title,
        permission_mode=row.mode,  # type: ignore[arg-type]
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        ended=row.ended,
        seq=row.seq,
        active_run_id=row.active_run_id,
        queued_run_ids=list(row.queued_run_ids),
        pending_approval_ids=list(row.approval_ids),
        pending_question_ids=list(row.question_ids),
        runs_total=row.runs_total,
        headline=row.headline,
        last_run_status=row.last_run_status,
        problem=row.problem,
        attached=app.supervisor.hub.attached_to(row.session_id),
        parent_run_id=row.share.parent_run_id,
        queue_paused=row.queue_paused,
    )


async def get_session(app: App, call: Call[None, NoQuery]) -> SessionView:
    state, seq = await app.supervisor.reader.state(call.path["id"])
    return app.session_view(state, seq)


async def list_events(app: App, call: Call[None, EventsQuery]) -> Raw:
    after = parse_seq(call.query.cursor)
    limit = min(call.query.limit, PAGE_ITEMS_MAX)
    records = await app.supervisor.reader.read_records(call.path["id"], after, limit, bytes_max=PAGE_BYTES_MAX)
    items = [public_record(call.path["id"], record) for record in records]
    row = app.supervisor.index.rows.get(call.path["id"])
    # Where reading stopped before the end the next page goes on, or says what the fault is.
    is_more = row is not None and bool(records) and (records[-1].seq < row.seq or bool(row.problem))
    cursor = f'"{records[-1].seq}"' if is_more else "null"
    return Raw(b'{"items":[' + b",".join(items) + b'],"next_cursor":' + cursor.encode() + b"}", "application/json")


async def stream_session(app: App, call: Call[None, StreamQuery]) -> AsyncIterator[bytes]:
    await app.supervisor.reader.state(call.path["id"])
    return app.streams.session(call.path["id"], None, start_of(call))


async def get_transcript(app: App, call: Call[None, TranscriptQuery]) -> TranscriptView:
    messages = await app.supervisor.reader.messages(call.path["id"])
    limit = min(call.query.limit, PAGE_ITEMS_MAX)
    first = None if call.query.first is msgspec.UNSET else call.query.first
    return transcript_view(call.path["id"], messages, first, limit)


async def submit_run(app: App, call: Call[SubmitInput, NoQuery]) -> RunView:
    return await view_result(app, await submit_input(app, call.path["id"], call))


async def submit_and_wait(app: App, call: Call[SubmitInput, NoQuery]) -> SessionView:
    """Answers when the run is over or needs a human; the run goes on if the client leaves."""
    session_id = call.path["id"]
    state, _ = await app.supervisor.reader.state(session_id)
    is_used = bool(call.key) and call.key in state.keys
    if (state.active or state.queue) and not is_used:
        raise Conflict(
            f"cannot wait in session {session_id}: run {state.active} is active; use /runs, which queues",
            code="session_busy",
        )
    if state.queue_paused and not is_used:
        raise Conflict(
            f"cannot wait in session {session_id}: its queue is paused; resume it, or use /runs, which queues",
            code="session_busy",
        )
    subscription = app.supervisor.hub.subscribe(session_id=session_id, has_deltas=False)
    try:
        applied = await submit_input(app, session_id, call)
        run_id = applied.result
        while True:
            state, seq = await app.supervisor.reader.state(session_id)
            run = state.runs.get(run_id)
            waits = {a.run_id for a in state.approvals.values()} | {q.run_id for q in state.questions.values()}
            if run is None or run.is_terminal or run_id in waits:
                return app.session_view(state, seq)
            if not await subscription.wait():
                if not subscription.lost:
                    raise Draining("cannot wait any longer: the daemon is stopping; the run goes on with the next one")
                # Too much came at once. The state says what it was.
                subscription = app.supervisor.hub.subscribe(session_id=session_id, has_deltas=False)
    finally:
        subscription.close()


async def list_runs_of_session(app: App, call: Call[None, NoQuery]) -> list[RunView]:
    state, _ = await app.supervisor.reader.state(call.path["id"])
    newest = list(reversed(state.runs.values()))[:PAGE_ITEMS_DEFAULT]
    return [app.run_view(state, run) for run in newest]


async def interrupt_session(app: App, call: Call[StopRun, NoQuery]) -> InterruptView:
    applied = await app.supervisor.submit(
        call.path["id"], commands.InterruptSession(reason=call.body.reason), call.caller
    )
    return InterruptView(
        interrupted=bool(applied.result), run_id=applied.result, session=app.session_view(applied.state, applied.seq)
    )


async def end_session(app: App, call: Call[EndSession, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.EndSession(reason=call.body.reason), call.caller)
    return app.session_view(applied.state, applied.seq)


async def set_permission_mode(app: App, call: Call[SetPermissionMode, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.SetMode(mode=call.body.mode), call.caller)
    return app.session_view(applied.state, applied.seq)


async def set_session_model(app: App, call: Call[SetModel, NoQuery]) -> SessionView:
    given = call.body.model.strip()
    model = await app.supervisor.providers.name(given) if given else ""
    applied = await app.supervisor.submit(call.path["id"], commands.SetModel(model=model), call.caller)
    return app.session_view(applied.state, applied.seq)


async def set_title(app: App, call: Call[SetTitle, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.RenameSession(title=call.body.title), call.caller)
    return app.session_view(applied.state, applied.seq)


async def label_record(app: App, call: Call[LabelRecord, NoQuery]) -> SessionView:
    session_id, body = call.path["id"], call.body
    _, last_seq = await app.supervisor.reader.state(session_id)
    if body.seq > last_seq:
        raise NotFound(
            f"cannot label record {body.seq}: session {session_id} has records up to {last_seq}",
            code="record_not_found",
        )
    command = commands.LabelRecord(seq=body.seq, label=body.label)
    applied = await app.supervisor.submit(session_id, command, call.caller)
    return app.session_view(applied.state, applied.seq)


async def compact_context(app: App, call: Call[None, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.CompactContext(), call.caller)
    return app.session_view(applied.state, applied.seq)


async def list_queue(app: App, call: Call[None, NoQuery]) -> list[RunView]:
    state, _ = await app.supervisor.reader.state(call.path["id"])
    return [app.run_view(state, state.runs[run_id]) for run_id in state.queue]


async def pause_queue(app: App, call: Call[None, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.PauseQueue(), call.caller)
    return app.session_view(applied.state, applied.seq)


async def resume_queue(app: App, call: Call[None, NoQuery]) -> SessionView:
    applied = await app.supervisor.submit(call.path["id"], commands.ResumeQueue(), call.caller)
    return app.session_view(applied.state, applied.seq)


async def edit_queued(app: App, call: Call[EditInput, NoQuery]) -> RunView:
    session_id, run_id = call.path["id"], call.path["run_id"]
    _, run = await app.supervisor.reader.run(session_id, run_id)
    check_queued(run, "edit")
    command = commands.EditRun(run_id=run_id, text=call.body.content)
    return await view_result(app, await app.supervisor.submit(session_id, command, call.caller))


async def move_queued(app: App, call: Call[MoveInput, NoQuery]) -> RunView:
    session_id, run_id = call.path["id"], call.path["run_id"]
    _, run = await app.supervisor.reader.run(session_id, run_id)
    check_queued(run, "move")
    command = commands.MoveRun(run_id=run_id, position=int(call.body.position))
    return await view_result(app, await app.supervisor.submit(session_id, command, call.caller))


async def withdraw_queued(app: App, call: Call[None, NoQuery]) -> RunView:
    session_id, run_id = call.path["id"], call.path["run_id"]
    state, run = await app.supervisor.reader.run(session_id, run_id)
    check_not_started(run, "withdraw")
    if run.is_terminal:
        return app.run_view(state, run)
    command = commands.WithdrawRun(run_id=run_id)
    return await view_result(app, await app.supervisor.submit(session_id, command, call.caller))


_S = "/v1/sessions"


def _row(method: str, path: str, handler: Any, summary: str, **fields: Any) -> Endpoint:
    return Endpoint(method=method, path=path, handler=handler, summary=summary, **fields)


ENDPOINTS = (
    _row("POST", _S, create_session, "Create a session, or return the one of that id",
         body=CreateSession, returns=SessionView, status=201, keyed=True,
         codes=(*OF_SESSION, *OF_APPEND, "invalid_session_id", "invalid_cwd", "cwd_missing", "session_conflict",
                "operator_required", "disk_low", "quota_exceeded")),
    _row("GET", _S, list_sessions, "List sessions, newest change first",
         query=ListQuery, returns=list[SessionView] | SessionPage, codes=("invalid_cursor",)),
    _row("GET", _S + "/{id}", get_session, "Get a session", returns=SessionView),
    _row("GET", _S + "/{id}/events", list_events, "Page through the journal", query=EventsQuery, returns=RecordPage,
         codes=("invalid_cursor",)),
    _row("GET", _S + "/{id}/stream", stream_session, "Follow a session", query=StreamQuery, stream=True),
    _row("GET", _S + "/{id}/transcript", get_transcript, "Page through the conversation",
         query=TranscriptQuery, returns=TranscriptView),
    _row("POST", _S + "/{id}/input", submit_and_wait, "Submit an input and wait until it is done or needs a human",
         body=SubmitInput, returns=SessionView, keyed=True, waits=True,
         codes=(*SUBMITS, "session_busy", "too_many_subscribers")),
    _row("POST", _S + "/{id}/runs", submit_run, "Submit an input; it runs whether or not anybody follows",
         body=SubmitInput, returns=RunView, status=202, keyed=True, codes=SUBMITS),
    _row("GET", _S + "/{id}/runs", list_runs_of_session, "List the runs of a session, newest first",
         returns=list[RunView]),
    _row("POST", _S + "/{id}/fork", fork_session, "Make a session whose transcript begins with this one's",
         body=ForkSession, returns=SessionView, status=201, keyed=True,
         codes=(*OF_APPEND, "invalid_session_id", "session_conflict", "fork_boundary", "fork_too_large", "disk_low",
                "quota_exceeded")),
    _row("POST", _S + "/{id}/interrupt", interrupt_session, "Stop the active run; the queue goes on",
         body=StopRun, returns=InterruptView),
    _row("POST", _S + "/{id}/end", end_session, "End a session for good", body=EndSession, returns=SessionView),
    _row("POST", _S + "/{id}/permission-mode", set_permission_mode, "Change the permission mode",
         body=SetPermissionMode, returns=SessionView, codes=("operator_required",)),
    _row("POST", _S + "/{id}/model", set_session_model, "Choose what runs take that name no model",
         body=SetModel, returns=SessionView,
         codes=("operator_required", "invalid_routes", "model_missing", "route_not_ready")),
    _row("POST", _S + "/{id}/title", set_title, "Give the session another title", body=SetTitle, returns=SessionView),
    _row("POST", _S + "/{id}/labels", label_record, "Give a record of the session a label, or take it away",
         body=LabelRecord, returns=SessionView, codes=("record_not_found", "too_many_labels")),
    _row("POST", _S + "/{id}/compact", compact_context, "Have the next model call preceded by a compaction",
         returns=SessionView, codes=("session_ended", "nothing_to_compact")),
    _row("GET", _S + "/{id}/queue", list_queue, "List the queued inputs in order", returns=list[RunView]),
    _row("POST", _S + "/{id}/queue/pause", pause_queue, "Let no queued run start; the active one goes on",
         returns=SessionView, codes=("operator_required", "session_ended")),
    _row("POST", _S + "/{id}/queue/resume", resume_queue, "Let the queue go on", returns=SessionView,
         codes=("operator_required",)),
    _row("PATCH", _S + "/{id}/queue/{run_id}", edit_queued, "Change the text of a queued input",
         body=EditInput, returns=RunView, codes=("empty_input", "run_state_conflict")),
    _row("POST", _S + "/{id}/queue/{run_id}/move", move_queued, "Give a queued input another place in the queue",
         body=MoveInput, returns=RunView, codes=("run_state_conflict",)),
    _row("DELETE", _S + "/{id}/queue/{run_id}", withdraw_queued, "Withdraw a queued input", returns=RunView,
         codes=("run_state_conflict",)),
)  # fmt: skip
