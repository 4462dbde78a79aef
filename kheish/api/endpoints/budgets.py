"""Budgets: of a session, of the day and of the daemon. Those of runs come with the input, and are in the run's view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheish.api.router import Call, Endpoint, NoQuery
from kheish.core import commands
from kheish.wire.budgets import BudgetBody, BudgetView, budget_view, to_budget
from kheish.wire.sessions import SessionView

if TYPE_CHECKING:
    from kheish.api.app import App


async def list_budgets(app: App, call: Call[None, NoQuery]) -> list[BudgetView]:
    supervisor = app.supervisor
    views = map(budget_view, supervisor.budgets.standings())
    return [view for view in views if view is not None]


async def set_budget(app: App, call: Call[BudgetBody, NoQuery]) -> SessionView:
    command = commands.SetBudget(budget=to_budget(call.body))
    applied = await app.supervisor.submit(call.path["id"], command, call.caller)
    return app.session_view(applied.state, applied.seq)


ENDPOINTS = (
    Endpoint(method="GET", path="/v1/budgets", handler=list_budgets,
             summary="List the budgets of this day and of the daemon, where there are any", returns=list[BudgetView]),
    Endpoint(method="POST", path="/v1/sessions/{id}/budget", handler=set_budget,
             summary="Set the budget of a session, in place of the one that it had", body=BudgetBody,
             returns=SessionView, codes=("operator_required",)),
)  # fmt: skip
