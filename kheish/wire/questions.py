"""Structured questions on the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kheish.core.events import Answer, Question
from kheish.core.state import QuestionRequest, State
from kheish.limits import JUSTIFICATION_CHARS_MAX, QUESTIONS_MAX
from kheish.wire.body import Body, View


class AnswerBody(Body, frozen=True):
    question_id: str
    selected_option_ids: list[str] = []
    freeform_answer: Annotated[str, msgspec.Meta(max_length=100_000)] = ""


class AnswerQuestion(Body, frozen=True):
    """An answer for each question, or `declined`."""

    answers: Annotated[list[AnswerBody], msgspec.Meta(max_length=QUESTIONS_MAX)] = []
    declined: bool = False
    justification: Annotated[str, msgspec.Meta(max_length=JUSTIFICATION_CHARS_MAX)] = ""


class AnswerOneOfMany(AnswerQuestion, frozen=True, kw_only=True):
    request_id: str


class ResolveQuestion(Body, frozen=True):
    resolution: AnswerOneOfMany


class OptionView(View, frozen=True):
    id: str
    label: str
    description: str


class QuestionItem(View, frozen=True):
    """Without options it asks for free text; with options free text stays possible."""

    id: str
    header: str
    question: str
    options: list[OptionView]
    multi_select: bool


class QuestionView(View, frozen=True):
    request_id: str
    session_id: str
    run_id: str
    tool_call_id: str
    questions: list[QuestionItem]
    requested_at_ms: int


def question_view(state: State, request: QuestionRequest) -> QuestionView:
    return QuestionView(
        request_id=request.request_id,
        session_id=state.session_id,
        run_id=request.run_id,
        tool_call_id=request.tool_call_id,
        questions=[_item(question) for question in request.questions],
        requested_at_ms=request.requested_at_ms,
    )


def _item(question: Question) -> QuestionItem:
    return QuestionItem(
        id=question.id,
        header=question.header,
        question=question.question,
        options=[OptionView(id=o.id, label=o.label, description=o.description) for o in question.options],
        multi_select=question.multi_select,
    )


def to_answers(body: AnswerQuestion) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            question_id=item.question_id,
            selected_option_ids=tuple(item.selected_option_ids),
            freeform_answer=item.freeform_answer,
        )
        for item in body.answers
    )
