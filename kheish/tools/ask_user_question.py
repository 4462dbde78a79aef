"""`ask_user_question`: one to four structured questions that a human answers whenever they come to it.

The call never runs: the machine turns it into a question request, and the answer becomes its result.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from kheish.limits import QUESTION_OPTIONS_MAX, QUESTIONS_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    label: Annotated[str, msgspec.Meta(description="The choice in one to five words.", min_length=1, max_length=200)]
    description: Annotated[str, msgspec.Meta(description="What choosing it means.", max_length=1000)] = ""


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    question: Annotated[str, msgspec.Meta(description="The whole question.", min_length=1, max_length=4000)]
    header: Annotated[str, msgspec.Meta(description="A label of one or two words.", max_length=40)] = ""
    options: Annotated[
        list[Option],
        msgspec.Meta(
            description="The choices; without any it asks for free text.",
            max_length=QUESTION_OPTIONS_MAX,
        ),
    ] = []
    multi_select: Annotated[bool, msgspec.Meta(description="Whether several choices may be taken.")] = False


class Arguments(ToolArguments, frozen=True):
    questions: Annotated[
        list[Question], msgspec.Meta(description="What to ask, all at once.", min_length=1, max_length=QUESTIONS_MAX)
    ]

    def problem(self) -> str:
        for question in self.questions:
            labels = [option.label for option in question.options]
            if len(set(labels)) != len(labels):
                return f"the options of {question.question!r} are not all different"
            if question.multi_select and not labels:
                return f"{question.question!r} takes several choices but offers none"
        return ""


class AskUserQuestion:
    spec = make_spec("ask_user_question", Arguments, effect="read", kind="question")

    async def run(self, call: ToolCall) -> ToolOutput:
        return ToolOutput(data=b"A question is answered by a human; it cannot run.", is_error=True)


TOOL = AskUserQuestion()
