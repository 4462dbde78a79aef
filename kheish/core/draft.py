"""A decision in the making: each event is applied as it is emitted, so that the next rule sees its effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from kheish.core.commands import Context
from kheish.core.contracts import ToolSpec
from kheish.core.events import NO_BUDGET, Budget, Event, Rule, ToolLimits
from kheish.core.permissions import require_operator
from kheish.core.state import Run, State

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon's part of every decision: its tools and its rules. `policy_revision` is a digest of the rules that
    do not belong to the session; an approval is bound to it. A run takes `system_prompt` along when it is submitted and
    `tool_limits` when it starts. The budgets are those of every run and session, where they set none of their own."""

    tools: Mapping[str, ToolSpec]
    rules: tuple[Rule, ...]
    policy_revision: str
    steps_max: int = 500
    system_prompt: str = ""
    tool_limits: Mapping[str, ToolLimits] = {}
    run_budget: Budget = NO_BUDGET
    session_budget: Budget = NO_BUDGET


class Draft:
    def __init__(
        self,
        state: State,
        context: Context,
        settings: Settings,
        evolve: Callable[[State, Event, Context], None],
    ) -> None:
        self.state = state.fork()
        self.context = context
        self.at_ms = context.at_ms
        self.settings = settings
        self.events: list[Event] = []
        self._evolve = evolve
        self._ids = 0

    def emit(self, event: Event) -> None:
        self._evolve(self.state, event, self.context)
        self.events.append(event)

    def new_id(self, noun: str) -> str:
        """`id_base` with its last two digits counted on: unique within the decision, the same at every replay."""
        self._ids += 1
        suffix = _ALPHABET[self._ids >> 5 & 31] + _ALPHABET[self._ids & 31]
        return f"{noun}_{self.context.id_base[:-2]}{suffix}"

    def require_operator(self, what: str) -> None:
        """Raises Forbidden."""
        require_operator(self.context.is_operator, self.context.principal, what)

    def run(self, run_id: str) -> Run:
        return self.state.runs[run_id]
