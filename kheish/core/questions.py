"""Rules of structured questions: one to four, with options, several choices or free text; they wait for ever."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from kheish.core import runs, tool_calls
from kheish.core.commands import AnswerQuestion, Context
from kheish.core.draft import Draft
from kheish.core.events import (
    Answer,
    Arguments,
    Option,
    Question,
    QuestionAnswered,
    QuestionRequested,
    QuestionWithdrawn,
)
from kheish.core.state import QuestionRequest, Run, Settled, State, ToolCall, keep_newest
from kheish.errors import Conflict, Invalid, NotFound
from kheish.limits import SETTLED_REQUESTS_KEPT


def parse_questions(arguments: Arguments) -> tuple[Question, ...]:
    """The questions of a checked tool call; ids are their positions, from 1."""
    parsed = []
    items: list[dict[str, Any]] = arguments["questions"]
    for number, item in enumerate(items, 1):
        options = tuple(
            Option(id=str(i), label=str(o["label"]), description=str(o.get("description") or ""))
            for i, o in enumerate(item.get("options") or (), 1)
        )
        parsed.append(
            Question(
                id=str(number),
                header=str(item.get("header") or ""),
                question=str(item["question"]),
                options=options,
                multi_select=bool(item.get("multi_select")),
            )
        )
    return tuple(parsed)


def request(draft: Draft, run: Run, call: ToolCall) -> None:
    draft.emit(
        QuestionRequested(
            request_id=draft.new_id("question"),
            run_id=run.run_id,
            tool_call_id=call.tool_call_id,
            questions=parse_questions(call.arguments),
            requested_at_ms=draft.at_ms,
        )
    )


def answer(draft: Draft, command: AnswerQuestion) -> str:
    """The result is the run's id."""
    draft.require_operator("answer")
    pending = find(draft.state, command.request_id)
    check_answers(pending, command)
    draft.emit(
        QuestionAnswered(
            request_id=pending.request_id,
            run_id=pending.run_id,
            at_ms=draft.at_ms,
            principal=draft.context.principal,
            answers=command.answers,
            declined=command.declined,
            justification=command.justification,
            body_digest=draft.context.body_digest,
        )
    )
    call = tool_calls.lookup(draft.state, pending.run_id, pending.tool_call_id)
    assert call is not None
    tool_calls.complete(draft, pending.run_id, call, render(pending, command))
    return pending.run_id


def find(state: State, request_id: str) -> QuestionRequest:
    pending = state.questions.get(request_id)
    if pending is not None:
        return pending
    settled = state.settled.get(request_id)
    if settled is not None:
        raise Conflict(
            f"cannot answer {request_id}: it was settled before ({settled.how}, by {settled.principal})",
            code="question_state_conflict",
            how=settled.how,
            principal=settled.principal,
            at_ms=settled.at_ms,
        )
    raise NotFound(
        f"cannot find question {request_id}: it does not wait, and is none of the last {SETTLED_REQUESTS_KEPT} that "
        "were settled",
        code="question_not_found",
    )


def check_answers(pending: QuestionRequest, command: AnswerQuestion) -> None:
    """Raises Invalid with the code that names the fault."""
    if command.declined:
        if command.answers:
            raise Invalid("cannot decline and answer at once", code="question_declined_with_answers")
        return
    questions = {q.id: q for q in pending.questions}
    seen: set[str] = set()
    for position, item in enumerate(command.answers):
        path = f"$.answers[{position}]"
        question = questions.get(item.question_id)
        if question is None:
            raise Invalid(
                f"cannot answer question {item.question_id!r}: there are {', '.join(questions)}",
                code="question_unknown_answer",
                path=path,
            )
        if item.question_id in seen:
            raise Invalid(
                f"cannot answer question {item.question_id} twice",
                code="question_duplicate_answer",
                path=path,
            )
        seen.add(item.question_id)
        _check_choice(question, item, path)
    missing = [q for q in questions if q not in seen]
    if missing:
        raise Invalid(f"cannot answer: question {', '.join(missing)} has no answer", code="question_answer_missing")


def _check_choice(question: Question, item: Answer, path: str) -> None:
    known = {o.id for o in question.options}
    for option_id in item.selected_option_ids:
        if option_id not in known:
            raise Invalid(
                f"cannot select option {option_id!r}: there are {', '.join(sorted(known)) or 'none'}",
                code="question_option_not_found",
                path=path,
            )
    if len(set(item.selected_option_ids)) != len(item.selected_option_ids):
        raise Invalid("cannot select an option twice", code="question_duplicate_option", path=path)
    if len(item.selected_option_ids) > 1 and not question.multi_select:
        raise Invalid("cannot select several options here", code="question_single_select_violation", path=path)
    if not item.selected_option_ids and not item.freeform_answer.strip():
        raise Invalid("cannot give an empty answer", code="question_answer_empty", path=path)


def render(pending: QuestionRequest, command: AnswerQuestion) -> str:
    """The answers in words, for the model."""
    if command.declined:
        return "The user declined to answer" + (f": {command.justification}" if command.justification else ".")
    answers = {a.question_id: a for a in command.answers}
    lines = []
    for question in pending.questions:
        item = answers[question.id]
        labels = [o.label for o in question.options if o.id in item.selected_option_ids]
        if item.freeform_answer:
            labels.append(item.freeform_answer)
        lines.append(f"{question.question}\n-> {'; '.join(labels)}")
    return "\n".join(lines)


# -- evolve ---------------------------------------------------------------------------------------------------------


def on_requested(state: State, event: QuestionRequested, context: Context) -> None:
    state.questions[event.request_id] = QuestionRequest(
        request_id=event.request_id,
        run_id=event.run_id,
        tool_call_id=event.tool_call_id,
        questions=event.questions,
        requested_at_ms=event.requested_at_ms,
    )
    tool_calls.change(state, event.run_id, event.tool_call_id, phase="waiting")
    state.runs[event.run_id] = replace(state.runs[event.run_id], updated_at_ms=event.requested_at_ms)


def on_answered(state: State, event: QuestionAnswered, context: Context) -> None:
    state.questions.pop(event.request_id)
    how = "declined" if event.declined else "answered"
    settled = Settled(how=how, principal=event.principal, at_ms=event.at_ms)
    keep_newest(state.settled, event.request_id, settled, SETTLED_REQUESTS_KEPT)
    runs.remember_key(state, context, event.body_digest, event.run_id)


def on_withdrawn(state: State, event: QuestionWithdrawn, context: Context) -> None:
    state.questions.pop(event.request_id)
    settled = Settled(how="withdrawn", principal=context.principal, at_ms=context.at_ms)
    keep_newest(state.settled, event.request_id, settled, SETTLED_REQUESTS_KEPT)
