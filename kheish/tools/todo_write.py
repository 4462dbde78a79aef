"""`todo_write`: the plan of the run, for the model to keep to and for people to follow. It is whole in each call, and
in the journal with it: nothing else is written."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kheish.limits import PLAN_ITEM_CHARS_MAX, PLAN_ITEMS_MAX
from kheish.runtime.ports import ToolCall, ToolOutput
from kheish.tools.arguments import ToolArguments, make_spec, parse

_BOX = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class Todo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    content: Annotated[
        str,
        msgspec.Meta(description="What is to be done, in a few words.", min_length=1, max_length=PLAN_ITEM_CHARS_MAX),
    ]
    status: Annotated[Literal["pending", "in_progress", "completed"], msgspec.Meta(description="How far it is.")]


class Arguments(ToolArguments, frozen=True):
    todos: Annotated[list[Todo], msgspec.Meta(description="The whole list, in order.", max_length=PLAN_ITEMS_MAX)]


class TodoWrite:
    spec = make_spec("todo_write", Arguments, effect="read")

    async def run(self, call: ToolCall) -> ToolOutput:
        todos = parse(Arguments, call.arguments).todos
        lines = [f"{_BOX[todo.status]} {' '.join(todo.content.split())}" for todo in todos]
        return ToolOutput(data="\n".join(lines or ["The plan is empty."]).encode())


TOOL = TodoWrite()
