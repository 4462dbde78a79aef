"""Structured questions: the inbox, one of them, and the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheish.api.endpoints.runs import view_result
from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core import commands
from kheish.core.questions import find
from kheish.errors import NotFound
from kheish.runtime.actor import Applied
from kheish.wire.body import Body
from kheish.wire.questions import AnswerQuestion, QuestionView, ResolveQuestion, question_view, to_answers
from kheish.wire.runs import RunView
from kheish.wire.sessions import SessionView

if TYPE_CHECKING:
    from kheish.api.app import App


class ListQuery(Body, frozen=True):
    session_id: str = ""


async def list_questions(app: App, call: Call[None, ListQuery]) -> list[QuestionView]:
    views = []
    asking = [row.session_id for row in app.supervisor.index.rows.glances() if row.question_ids and not row.problem]
    chosen = [session_id for session_id in asking if call.query.session_id in ("", session_id)]
    async for state in app.supervisor.reader.peek_each(chosen):
        views += [question_view(state, question) for question in state.questions.values()]
    return sorted(views, key=lambda v: v.request_id)


async def list_session_questions(app: App, call: Call[None, NoQuery]) -> list[QuestionView]:
    state, _ = await app.supervisor.reader.state(call.path["id"])
    return [question_view(state, question) for question in state.questions.values()]


async def _find(app: App, given: str) -> tuple[str, str]:
    """(session id, full id), by id or unambiguous prefix."""
    try:
        return await app.supervisor.reader.find_request(given)
    except NotFound as error:
        raise NotFound(error.message, code="question_not_found") from error


async def get_question(app: App, call: Call[None, NoQuery]) -> QuestionView:
    session_id, request_id = await _find(app, call.path["id"])
    state, _ = await app.supervisor.reader.state(session_id)
    return question_view(state, find(state, request_id))


async def _answer(
    app: App, session_id: str, request_id: str, body: AnswerQuestion, call: Call[Any, NoQuery]
) -> Applied:
    command = commands.AnswerQuestion(
        request_id=request_id,
        answers=to_answers(body),
        declined=body.declined,
        justification=body.justification,
    )
    return await app.supervisor.submit(session_id, command, call.caller, key=call.key, body_digest=call.body_digest)


async def answer_question(app: App, call: Call[AnswerQuestion, NoQuery]) -> RunView:
    session_id, request_id = await _find(app, call.path["id"])
    applied = await _answer(app, session_id, request_id, call.body, call)
    return await view_result(app, applied)


async def answer_in_session(app: App, call: Call[ResolveQuestion, NoQuery]) -> SessionView:
    body = call.body.resolution
    applied = await _answer(app, call.path["id"], body.request_id, body, call)
    return app.session_view(applied.state, applied.seq)


async def answer_in_run(app: App, call: Call[ResolveQuestion, NoQuery]) -> RunView:
    session_id, _ = await app.supervisor.reader.find_run(call.path["id"])
    body = call.body.resolution
    applied = await _answer(app, session_id, body.request_id, body, call)
    return await view_result(app, applied)


_ANSWERS = (
    "operator_required", "question_not_found", "question_state_conflict", "question_unknown_answer",
    "question_duplicate_answer", "question_answer_missing", "question_answer_empty", "question_option_not_found",
    "question_duplicate_option", "question_single_select_violation", "question_declined_with_answers",
)  # fmt: skip

ENDPOINTS = (
    Endpoint(method="GET", path="/v1/questions", handler=list_questions, query=ListQuery,
             summary="List what waits for an answer, oldest first", returns=list[QuestionView]),
    Endpoint(method="GET", path="/v1/questions/{id}", handler=get_question, summary="Get a pending question",
             returns=QuestionView),
    Endpoint(method="POST", path="/v1/questions/{id}", handler=answer_question, summary="Answer or decline",
             body=AnswerQuestion, returns=RunView, keyed=True, codes=_ANSWERS),
    Endpoint(method="GET", path="/v1/sessions/{id}/questions", handler=list_session_questions,
             summary="List the pending questions of a session", returns=list[QuestionView]),
    Endpoint(method="POST", path="/v1/sessions/{id}/questions", handler=answer_in_session,
             summary="Answer a question of a session", body=ResolveQuestion, returns=SessionView, keyed=True,
             codes=_ANSWERS),
    Endpoint(method="POST", path="/v1/runs/{id}/questions", handler=answer_in_run,
             summary="The same, by run", body=ResolveQuestion, returns=RunView, keyed=True, codes=_ANSWERS),
)  # fmt: skip
