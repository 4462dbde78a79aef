"""Budgets on the wire."""

from __future__ import annotations

from typing import Annotated

import msgspec

from kheish.core.budgets import DIMENSIONS, NANO, NONE, is_nearly_used, left_of, standing_of_run, standings
from kheish.core.commands import Outside
from kheish.core.events import Budget, Dimension, Spent, Standing
from kheish.core.state import Run, State
from kheish.limits import DOLLARS_MAX
from kheish.wire.body import Body, View

Dollars = Annotated[float, msgspec.Meta(ge=0, le=DOLLARS_MAX)]
Count = Annotated[float, msgspec.Meta(ge=0, lt=1 << 53, multiple_of=1)]
"""To JSON Schema 5.0 is as whole as 5 is."""


class BudgetBody(Body, frozen=True):
    """What may be used, or by how much more; what is left out has no limit, or stays. `steps` are model calls,
    `wall_ms` the time at work: waiting for a human does not count."""

    cost_usd: Dollars | None = None
    tokens: Count | None = None
    steps: Count | None = None
    wall_ms: Count | None = None


class AmountsView(View, frozen=True):
    """Null where there is no limit."""

    cost_usd: float | None = None
    tokens: int | None = None
    steps: int | None = None
    wall_ms: int | None = None


class SpentView(View, frozen=True):
    """`cost_usd` leaves out `unpriced_calls`, whose price nobody knows."""

    cost_usd: float
    tokens: int
    steps: int
    wall_ms: int
    unpriced_calls: int


class BudgetView(View, frozen=True):
    """`account` is `run:ID`, `session:ID`, `day:DATE` or `daemon`, with all that its runs and their children use. What
    `unpriced_calls` cost, whose price nobody knows, is no part of it, nor will be that of the models in `unpriced`.
    `reserved` is for calls under way; `reached` are the limits for which a run waits."""

    account: str
    by: str
    limit: AmountsView
    used: AmountsView
    reserved: AmountsView
    left: AmountsView
    unpriced_calls: int
    unpriced: list[str] = []
    reached: list[Dimension] = []


def to_budget(body: BudgetBody) -> Budget:
    given = msgspec.structs.asdict(body)
    return Budget(**{d: value if value is None or d == "cost_usd" else int(value) for d, value in given.items()})


def budget_view(standing: Standing, unpriced: list[str] | None = None) -> BudgetView | None:
    """None where there is no limit."""
    limit = standing.limit
    if limit == NONE:
        return None
    left = {d: value for d in DIMENSIONS if (value := left_of(standing, d)) is not None}
    return BudgetView(
        account=standing.account,
        by=standing.by,
        limit=AmountsView(**msgspec.structs.asdict(limit)),
        used=_amounts(standing.used),
        reserved=_amounts(standing.reserved),
        left=AmountsView(**{d: value / NANO if d == "cost_usd" else value for d, value in left.items()}),  # type: ignore[arg-type]
        unpriced_calls=standing.used.unpriced_calls,
        unpriced=unpriced or [],
        reached=list(standing.reached),
    )


def run_budget_view(state: State, run: Run, outside: tuple[Outside, ...]) -> BudgetView | None:
    unpriced = [
        f"{hop.route}/{hop.model}"
        for place, hop in enumerate(run.chain)
        if place >= len(run.rates) or run.rates[place] is None
    ]
    return budget_view(standing_of_run(state, run, outside), unpriced if run.budget.cost_usd is not None else [])


def nearly_used_views(state: State, run: Run, default: Budget, outside: tuple[Outside, ...]) -> list[BudgetView]:
    found = standings(state, run, default, outside) if run.run_id == state.active else []
    return [view for standing in found if is_nearly_used(standing) and (view := budget_view(standing))]


def spent_view(spent: Spent) -> SpentView:
    return SpentView(
        cost_usd=spent.cost_nanousd / NANO,
        tokens=spent.tokens,
        steps=spent.steps,
        wall_ms=spent.wall_ms,
        unpriced_calls=spent.unpriced_calls,
    )


def _amounts(spent: Spent) -> AmountsView:
    return AmountsView(
        cost_usd=spent.cost_nanousd / NANO, tokens=spent.tokens, steps=spent.steps, wall_ms=spent.wall_ms
    )
