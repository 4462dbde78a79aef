"""The plan of a run: what its last call of `todo_write` says."""

from __future__ import annotations

from typing import Literal

import msgspec

from kheish.core.events import Arguments, Struct

TOOL = "todo_write"


class PlanItem(Struct, frozen=True):
    content: str
    status: Literal["pending", "in_progress", "completed"]


def plan_of(arguments: Arguments) -> tuple[PlanItem, ...]:
    """The list that a call hands in; none where a tool of this name took something else."""
    try:
        return msgspec.convert(arguments.get("todos"), tuple[PlanItem, ...])
    except msgspec.ValidationError:
        return ()
