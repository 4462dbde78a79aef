"""Budgets where contexts are compacted: summaries are paid, take no step, and never come before a last word."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import budgets
from kheish.core import events as e
from kheish.core.budgets import NOTHING
from kheish.core.compaction import divide, tokens_due
from kheish.core.contracts import Reply
from kheish.core.effects import CallModel, WakeAt
from kheish.core.events import Budget, Rate, Usage, UserMessage
from kheish.core.outcomes import ModelReplied
from kheish.core.state import Run
from kheish.limits import SUMMARY_OUTPUT_TOKENS_MAX
from tests.core.conversation import Conversation
from tests.core.test_compaction import WINDOW, filled
from tests.core.test_machine import kinds
from tests.core.test_properties import QUICK

READ = ("read_file", {"path": "a"})


def sum_up(talk: Conversation, usage: Usage, cost_usd: float | None = None) -> list[e.Event]:
    (call,) = (effect for effect in talk.effects() if isinstance(effect, CallModel))
    plan = divide(talk.shown, UserMessage(text=run_of(talk).text), 40, 160, talk.state.left_out)
    return talk.send(
        ModelReplied(
            run_id=call.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            reply=Reply(text="the gist", stop_reason="end", usage=usage),
            cost_usd=cost_usd,
            context=plan.with_summary("the gist") if plan else None,
        )
    )


def run_of(talk: Conversation) -> Run:
    return next(reversed(talk.state.runs.values()))


def test_a_summary_is_charged_and_is_no_step() -> None:
    talk = filled(WINDOW)
    before = talk.state.used
    run_id = talk.submit("go on", window_tokens=WINDOW, budget=Budget(tokens=1_000_000, steps=1))
    assert talk.purpose == "summary"
    assert talk.status(run_id) == "running", "the one step is the reply's"
    sum_up(talk, Usage(input_tokens=900, output_tokens=100), cost_usd=0.5)
    run = run_of(talk)
    assert (run.used.tokens, run.used.steps, run.used.cost_nanousd) == (1_000, 0, 500_000_000)
    assert talk.purpose == "reply"
    talk.reply("done", usage=Usage(input_tokens=50, output_tokens=5), cost_usd=0.25)
    run = run_of(talk)
    assert (run.used.tokens, run.used.steps, run.used.cost_nanousd) == (1_055, 1, 750_000_000)
    assert talk.state.used.tokens == before.tokens + 1_055 and talk.state.day_used.tokens == talk.state.used.tokens


def test_for_a_summary_no_more_is_set_aside_than_it_may_take() -> None:
    talk = filled(WINDOW)
    talk.submit("go on", window_tokens=WINDOW, budget=Budget(tokens=1_000_000))
    reserved = budgets.reserved_of(talk.state.active_run)
    assert (reserved.tokens, reserved.steps) == (tokens_due(talk.state) + SUMMARY_OUTPUT_TOKENS_MAX, 0)


def test_a_failed_summary_and_a_context_that_was_too_large_are_no_steps() -> None:
    talk = filled(100)
    talk.submit("go on", budget=Budget(steps=1))
    talk.fail("too_large")
    assert talk.purpose == "summary"
    talk.fail("auth", context=divide(talk.shown, UserMessage(text="go on"), 40, 160).cut)  # type: ignore[union-attr]
    assert talk.purpose == "reply" and run_of(talk).used.steps == 0
    talk.reply("done")
    assert (run_of(talk).phase, run_of(talk).used.steps) == ("completed", 1)


@pytest.mark.parametrize("on_budget", ["stop", "ask"])
def test_a_budget_that_is_used_up_by_a_summary_holds_the_reply(on_budget: Any) -> None:
    talk = filled(WINDOW)
    run_id = talk.submit("go on", window_tokens=WINDOW, budget=Budget(tokens=40_000), on_budget=on_budget)
    events = sum_up(talk, Usage(input_tokens=39_000, output_tokens=500))
    if on_budget == "ask":
        assert kinds(events)[-1] == "approval.requested" and talk.status(run_id) == "waiting_for_approval"
        talk.resolve("raise", raise_by=Budget(tokens=100_000))
        assert talk.purpose == "reply", "not summed up again"
        return
    assert kinds(events)[-2:] == ["budget.stopped", "run.failed"], "there was no step to say a last word of"
    assert run_of(talk).error_code == "budget_exhausted"


def stopped(tokens: int) -> Conversation:
    """A run whose context takes so many tokens, about to say its last word."""
    talk = filled(100)
    talk.submit("go on", window_tokens=WINDOW, budget=Budget(steps=1), on_budget="stop")
    talk.reply("", READ, usage=Usage(input_tokens=tokens, output_tokens=1))
    talk.finish_tool(talk.tool_effect())
    assert run_of(talk).stopped is not None
    return talk


def test_a_last_word_is_not_preceded_by_a_compaction() -> None:
    talk = stopped(WINDOW)
    assert talk.purpose == "reply"
    talk.reply("half is done")
    assert (run_of(talk).error_code, run_of(talk).output) == ("budget_exhausted", "half is done")


@pytest.mark.parametrize("code", ["too_large", "auth"])
def test_a_run_whose_last_word_fails_failed_for_its_budget(code: str) -> None:
    talk = stopped(WINDOW)
    assert kinds(talk.fail(code)) == ["model_call.failed", "run.failed"]
    assert run_of(talk).error_code == "budget_exhausted"


def test_a_call_is_kept_within_a_budget_by_the_rate_of_the_hop_that_it_takes() -> None:
    hops = (e.Hop(route="a", model="m"), e.Hop(route="b", model="m"))
    rates = (Rate(input_usd=0.0, output_usd=0.1), Rate(input_usd=0.0, output_usd=1_000.0))
    for cooling, status in (((), "running"), (("a",), "waiting_for_approval"), (("b",), "running")):
        talk = Conversation()
        talk.cooling = tuple(e.Cooling(route=r, model="m", code="overloaded", until_ms=10**9) for r in cooling)
        run_id = talk.submit("go", hops=hops, rates=rates, budget=Budget(cost_usd=1.0))
        assert talk.status(run_id) == status


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["reply", "too_large", "overloaded", "auth", "die", "raise", "stop", "submit"]),
        st.integers(1, 9_000),
        st.integers(0, 500),
    ),
    max_size=25,
)


@QUICK
@given(ACTS, st.sampled_from([None, 60_000]), st.sampled_from([None, 2]), st.sampled_from(["ask", "stop"]))
def test_lives_with_budgets_and_compactions_charge_all_that_was_reported_and_never_hang(
    acts: list[tuple[str, int, int]], tokens: int | None, steps: int | None, on_budget: Any
) -> None:
    """A run waits for a human, or for the world; what is reserved is so for a call under way alone."""
    talk = Conversation()
    reported = 0
    for act, tokens_in, tokens_out in (("submit", 1, 0), *acts):
        usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
        call = next((effect for effect in talk.effects() if isinstance(effect, CallModel)), None)
        if act == "submit":
            budget = Budget(tokens=tokens, steps=steps)
            talk.submit("x" * tokens_in, window_tokens=10_000, budget=budget, on_budget=on_budget)
        elif act == "die":
            talk.die()
        elif act in ("raise", "stop") and talk.state.approvals:
            asked = next(iter(talk.state.approvals.values())).standing
            assert asked is not None
            by = Budget(**dict.fromkeys(asked.reached, 10))
            talk.resolve(act, raise_by=by if act == "raise" else None)
        elif act == "reply" and call is not None:
            if talk.purpose == "summary":
                sum_up(talk, usage)
            else:
                talk.reply("so", *([READ] if tokens_in % 2 else []), usage=usage)
                if talk.effects() and not isinstance(talk.effects()[0], CallModel):
                    talk.finish_tool(talk.tool_effect())
            reported += tokens_in + tokens_out
        elif act in ("too_large", "overloaded", "auth") and call is not None:
            talk.fail(act, usage=usage)
            reported += tokens_in + tokens_out
            if any(isinstance(effect, WakeAt) for effect in talk.effects()):
                talk.wake()
        active = talk.state.active_run
        assert active is None or talk.effects() or talk.state.approvals
        under_way = active is not None and active.model_call is not None
        assert (budgets.reserved_of(active) != NOTHING) == under_way
        assert active is None or active.used.steps <= active.step
    assert talk.state.used.tokens == talk.state.day_used.tokens == reported
