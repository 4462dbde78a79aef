"""What was decided with budgets and compactions is decided again in the same way, also where others used them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core.effects import CallModel, WakeAt
from kheish.core.events import Budget, Rate, Spent, Usage
from tests.core.test_budgets_and_compaction import READ, sum_up
from tests.core.test_properties import QUICK
from tests.core.test_retrace import Told

HOPS = tuple(e.Hop(route=route, model="m", window_tokens=10_000) for route in ("a", "b"))
RATES = (Rate(input_usd=1.0, output_usd=10.0), None)
ACTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["reply"] * 8
            + ["too_large", "overloaded", "auth", "die", "raise", "stop", "submit", "steer", "compact", "set"]
        ),
        st.integers(1, 9_000),
        st.integers(0, 500),
    ),
    min_size=5,
    max_size=25,
)


def act(told: Told, what: str, tokens_in: int, tokens_out: int) -> None:
    usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
    call = next((effect for effect in told.effects() if isinstance(effect, CallModel)), None)
    if what == "die":
        told.die()
    elif what == "steer":
        told.submit("by the way", delivery="steer")
    elif what == "compact" and told.state.guessed_tokens + told.state.counted_tokens:
        told.send(c.CompactContext())
    elif what == "set":
        told.send(c.SetBudget(budget=Budget(tokens=tokens_in * 20)))
    elif what in ("raise", "stop") and told.state.approvals:
        asked = next(iter(told.state.approvals.values())).standing
        assert asked is not None
        by = Budget(**dict.fromkeys(asked.reached, 1_000))
        told.resolve(what, raise_by=by if what == "raise" else None)
    elif what == "reply" and call is not None and told.purpose == "summary":
        sum_up(told, usage)
    elif what == "reply" and call is not None:
        told.reply("so", *([READ] if tokens_in % 4 else []), usage=usage)
        if told.effects() and not isinstance(told.effects()[0], CallModel):
            told.finish_tool(told.tool_effect())
    elif what in ("too_large", "overloaded", "auth") and call is not None:
        told.fail(what, usage=usage, jitter=0.5)
        if any(isinstance(effect, WakeAt) for effect in told.effects()):
            told.wake()


def used_by_others(others: str, run_id: str, tokens: int) -> tuple[c.Outside, ...]:
    used = Spent(tokens=tokens * 3, steps=2)
    return {
        "own": (
            c.Outside(account=f"run:{run_id}", used=used),
            c.Outside(account="session:s", used=used, raised=Budget(tokens=500)),
        ),
        "parent": (c.Outside(account="run:run_P", used=used, limit=Budget(tokens=50_000), by="user:1"),),
        "day": (
            c.Outside(account="day:2026-11-26", used=used, limit=Budget(steps=4), by="config.toml", is_warned=True),
        ),
    }.get(others, ())


@pytest.mark.parametrize("others", ["own", "parent", "day"])
def test_what_others_used_of_a_budget_is_told_by_the_journal(others: str) -> None:
    told = Told()
    run_id = told.submit("go", budget=Budget(steps=3))
    told.send(c.SetBudget(budget=Budget(tokens=90_000)))
    told.outside = used_by_others(others, run_id, 18_000)
    for _ in range(2):
        act(told, "reply", 5, 5)
    assert told.status(run_id) == "waiting_for_approval"
    told.send(c.SetBudget(budget=Budget(tokens=900_000)))
    made = told.retraced()
    assert (made.departures, made.unknown) == ([], 0)


@QUICK
@given(
    ACTS,
    st.sampled_from([None, 60_000]),
    st.sampled_from([None, 3]),
    st.sampled_from(["ask", "stop"]),
    st.sampled_from(["", "own", "parent", "day"]),
)
def test_a_life_with_budgets_and_compactions_departs_nowhere(
    acts: list[tuple[str, int, int]], tokens: int | None, steps: int | None, on_budget: Any, others: str
) -> None:
    told = Told()
    for what, tokens_in, tokens_out in (("submit", 1, 0), *acts):
        if what == "submit":
            budget = Budget(tokens=tokens, steps=steps, cost_usd=100.0)
            told.submit("x" * tokens_in, hops=HOPS, rates=RATES, budget=budget, on_budget=on_budget)
            told.outside = used_by_others(others, told.result, tokens_in)
        else:
            act(told, what, tokens_in, tokens_out)
    for run_id in told.state.runs:
        made = told.retraced(run_id)
        assert (made.departures, made.unknown) == ([], 0)
