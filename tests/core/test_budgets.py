"""Budgets: what is used is counted once, what is reserved bounds the next call, and at the limit a human is asked."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheish.core import budgets
from kheish.core import commands as c
from kheish.core import outcomes as o
from kheish.core.budgets import LAST_WORD, NONE, NOTHING, total_of
from kheish.core.effects import CallModel
from kheish.core.events import Budget, Rate, Spent, Standing, Usage, UserMessage
from kheish.core.prompt import build_request
from kheish.core.state import BudgetNote, State
from kheish.errors import Conflict, Forbidden, Invalid
from kheish.limits import (
    BUDGET_LAST_WORD_TOKENS_MAX,
    BUDGET_NOTES_KEPT,
    BUDGET_REPLY_TOKENS_MIN,
    MODEL_OUTPUT_TOKENS_MAX,
    PROMPT_TOKENS_DEFAULT,
)
from kheish.wire.runs import run_view
from tests.core.conversation import SETTINGS, TOOLS, Conversation
from tests.core.test_properties import QUICK

READ = ("read_file", {"path": "a"})
USAGE = Usage(input_tokens=1_000, output_tokens=100)
RATE = Rate(input_usd=1.0, output_usd=10.0)
MIN = PROMPT_TOKENS_DEFAULT + BUDGET_REPLY_TOKENS_MIN


def begin(settings: Any = SETTINGS, **fields: Any) -> tuple[Conversation, str]:
    talk = Conversation(settings=settings)
    return talk, talk.submit("go", **fields)


def step(talk: Conversation, usage: Usage = USAGE, cost_usd: float | None = None) -> None:
    """A call that asks to read, and the reading."""
    talk.reply("", READ, usage=usage, cost_usd=cost_usd)
    talk.finish_tool(talk.tool_effect())


def types(events: list[Any]) -> list[str]:
    return [str(event.__struct_config__.tag) for event in events]


# -- tables ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "used", "reached"),
    [
        (Budget(steps=2), Spent(steps=1), ()),
        (Budget(steps=2), Spent(steps=2), ("steps",)),
        (Budget(steps=0), NOTHING, ("steps",)),
        (Budget(wall_ms=100), Spent(wall_ms=99), ()),
        (Budget(wall_ms=100), Spent(wall_ms=100), ("wall_ms",)),
        (Budget(tokens=10_000), Spent(tokens=10_000 - 500 - BUDGET_REPLY_TOKENS_MIN), ()),
        (Budget(tokens=10_000), Spent(tokens=10_001 - 500 - BUDGET_REPLY_TOKENS_MIN), ("tokens",)),
        (Budget(cost_usd=1.0), Spent(cost_nanousd=10**9 - 1000 * (500 + 10 * BUDGET_REPLY_TOKENS_MIN)), ()),
        (Budget(cost_usd=1.0), Spent(cost_nanousd=10**9 + 1 - 1000 * (500 + 10 * BUDGET_REPLY_TOKENS_MIN)),
         ("cost_usd",)),
        (Budget(tokens=10_000, steps=1), Spent(tokens=10_000, steps=1), ("tokens", "steps")),
        (NONE, Spent(cost_nanousd=10**15, tokens=10**9, steps=10**6, wall_ms=10**9), ()),
    ],
)  # fmt: skip
def test_a_limit_is_reached_where_the_next_call_might_pass_it(limit: Budget, used: Spent, reached: Any) -> None:
    assert budgets.reached(Standing(account="a", limit=limit, used=used), 500, RATE) == reached


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (NONE, MODEL_OUTPUT_TOKENS_MAX),
        (Budget(tokens=1_000_000), MODEL_OUTPUT_TOKENS_MAX),
        (Budget(tokens=5_500), 5_000),
        (Budget(cost_usd=0.0505), 5_000),
        (Budget(cost_usd=0.0505, tokens=4_500), 4_000),
    ],
)
def test_a_reply_may_be_as_long_as_there_is_room_for(limit: Budget, room: int) -> None:
    assert budgets.output_room(Standing(account="a", limit=limit), 500, RATE) == room


def test_what_is_reserved_is_no_room() -> None:
    standing = Standing(account="a", limit=Budget(steps=2), used=Spent(steps=1), reserved=Spent(steps=1))
    assert budgets.reached(standing, 0, None) == ("steps",)


SPENT = st.builds(Spent, **dict.fromkeys(Spent.__struct_fields__, st.integers(0, 10**15)))


@given(SPENT, SPENT)
def test_sums_are_exact_and_can_be_taken_back(one: Spent, other: Spent) -> None:
    assert budgets.add(budgets.add(one, other), other, -1) == one
    assert budgets.add(one, other) == budgets.add(other, one)


def test_raising_adds_to_what_is_limited_alone() -> None:
    assert budgets.raised(Budget(cost_usd=0.1, steps=3), Budget(cost_usd=0.2, tokens=5)) == Budget(
        cost_usd=0.3, steps=3
    )


# -- a run and its budget -------------------------------------------------------------------------------------------


def test_at_its_limit_a_run_asks_and_goes_on_when_it_is_raised() -> None:
    talk, run_id = begin(budget=Budget(steps=2))
    step(talk)
    step(talk)
    assert talk.status(run_id) == "waiting_for_approval" and talk.effects() == []
    (approval,) = talk.state.approvals.values()
    assert approval.kind == "budget" and approval.standing is not None
    assert approval.standing.account == f"run:{run_id}" and approval.standing.reached == ("steps",)
    assert (approval.standing.used.steps, approval.standing.limit, approval.standing.by) == (
        2,
        Budget(steps=2),
        "user:1",
    )
    talk.resolve("raise", raise_by=Budget(steps=1))
    step(talk)
    assert talk.status(run_id) == "waiting_for_approval", "it was raised by one"
    assert budgets.standing_of_run(talk.state, talk.state.runs[run_id]).limit == Budget(steps=3)


@pytest.mark.parametrize(("resolution", "fields"), [("raise", {"raise_by": Budget(steps=1)}), ("stop", {})])
def test_what_a_human_says_when_deciding_about_a_budget_is_told(resolution: Any, fields: Any) -> None:
    talk, _ = begin(budget=Budget(steps=1))
    step(talk)
    talk.resolve(resolution, justification="be brief", **fields)
    assert talk.messages[-1] == UserMessage(text="About the budget: be brief")


def test_a_run_that_is_not_raised_says_what_is_left_and_fails() -> None:
    talk, run_id = begin(budget=Budget(steps=1))
    step(talk)
    assert types(talk.resolve("stop"))[:2] == ["approval.resolved", "budget.stopped"]
    run = talk.state.runs[run_id]
    request = build_request(talk.state, run, talk.messages, TOOLS)
    assert not request.may_use_tools and request.output_tokens_max == BUDGET_LAST_WORD_TOKENS_MAX
    assert talk.messages[-1] == UserMessage(text=LAST_WORD)
    talk.reply("half is done", READ, usage=USAGE)
    run = talk.state.runs[run_id]
    assert (run.phase, run.error_code, run.output) == ("failed", "budget_exhausted", "half is done")
    assert run.used.steps == 2 and run.used.tokens == 2_200, "the last word counts, too"


def test_a_headless_run_stops_unasked() -> None:
    talk, run_id = begin(budget=Budget(steps=1), on_budget="stop")
    step(talk)
    assert not talk.state.approvals
    talk.reply("half is done")
    assert talk.state.runs[run_id].error_code == "budget_exhausted"


def test_where_there_is_no_room_for_the_first_call_there_is_no_last_word_either() -> None:
    talk, run_id = begin(budget=Budget(tokens=100), on_budget="stop")
    assert talk.effects() == [] and talk.state.runs[run_id].error_code == "budget_exhausted"
    assert talk.submit("again") in talk.state.runs and talk.effects(), "the session goes on"


def test_what_a_stopped_run_is_steered_with_is_not_answered_by_it() -> None:
    talk, run_id = begin(budget=Budget(steps=1), on_budget="stop")
    step(talk)
    talk.submit("and this?", delivery="steer")
    talk.reply("half is done")
    assert talk.state.runs[run_id].phase == "failed" and talk.state.runs[run_id].step == 2


def test_the_next_reply_is_bounded_by_what_is_left() -> None:
    talk, run_id = begin(budget=Budget(tokens=MIN + 1_000))
    call = talk.state.runs[run_id].model_call
    assert call is not None and BUDGET_REPLY_TOKENS_MIN < call.output_tokens_max < BUDGET_REPLY_TOKENS_MIN + 1_001
    assert call.reserved.tokens <= MIN + 1_000
    assert build_request(talk.state, talk.state.runs[run_id], (), TOOLS).output_tokens_max == call.output_tokens_max


def test_a_cost_is_reckoned_with_the_rate_of_the_hop_and_settled_with_what_it_was() -> None:
    talk, run_id = begin(budget=Budget(cost_usd=0.10), rates=(RATE,))
    call = talk.state.runs[run_id].model_call
    assert call is not None and 0 < call.reserved.cost_nanousd <= 10**8
    step(talk, cost_usd=0.09)
    assert talk.state.runs[run_id].used.cost_nanousd == 90_000_000
    assert talk.status(run_id) == "waiting_for_approval"


def test_without_a_price_a_cost_is_not_kept_and_the_calls_are_counted() -> None:
    talk, run_id = begin(budget=Budget(cost_usd=0.01))
    step(talk)
    step(talk)
    used = talk.state.runs[run_id].used
    assert (used.cost_nanousd, used.unpriced_calls, used.tokens) == (0, 2, 2_200)
    assert talk.status(run_id) == "running"


def test_a_warning_comes_once_at_most_of_a_budget_and_again_after_a_raise() -> None:
    talk, _ = begin(budget=Budget(steps=5))
    warned = []
    for _ in range(5):
        events = talk.reply("", READ, usage=USAGE)
        warned.append("budget.warned" in types(events))
        talk.finish_tool(talk.tool_effect())
    assert warned == [False, False, False, True, False]
    talk.resolve("raise", raise_by=Budget(steps=1))
    assert "budget.warned" in types(talk.reply("", READ, usage=USAGE))


def test_a_run_shows_the_budgets_of_which_most_is_used_while_it_is_active() -> None:
    talk, run_id = begin(budget=Budget(steps=5, tokens=1_000_000))
    talk.outside = (
        c.Outside(account="session:parent", used=Spent(steps=79), limit=Budget(steps=100)),
        c.Outside(account="daemon", used=Spent(cost_nanousd=1), limit=Budget(cost_usd=1.0)),
    )

    def near(session_budget: Budget = NONE) -> list[tuple[str, int | None]]:
        views = run_view(talk.state, talk.state.runs[run_id], talk.outside, session_budget).budgets_nearly_used
        return [(view.account, view.used.steps) for view in views]

    assert near() == []
    step(talk)
    assert near() == [("session:parent", 80)]
    assert near(Budget(steps=1)) == [(f"session:{talk.state.session_id}", 1), ("session:parent", 80)]
    for _ in range(3):
        step(talk)
    assert near() == [(f"run:{run_id}", 4), ("session:parent", 83)]
    talk.reply("done", usage=USAGE)
    assert talk.status(run_id) == "completed" and near() == []


def test_a_budget_that_others_warned_of_is_warned_of_no_more() -> None:
    talk, _ = begin()
    talk.outside = (c.Outside(account="daemon", used=Spent(steps=90), limit=Budget(steps=100), is_warned=True),)
    assert "budget.warned" not in types(talk.reply("", READ))
    talk.outside = (replace(talk.outside[0], is_warned=False),)
    talk.finish_tool(talk.tool_effect())
    assert "budget.warned" in types(talk.reply("done"))


def test_failed_attempts_count_what_they_reported_and_their_step_once() -> None:
    talk, run_id = begin(budget=Budget(steps=1))
    talk.fail("overloaded", usage=Usage(input_tokens=700), cost_usd=0.5)
    run = talk.state.runs[run_id]
    assert (run.used.tokens, run.used.steps) == (700, 0) and budgets.reserved_of(run) == NOTHING
    talk.wake()
    talk.reply("done", usage=USAGE, cost_usd=0.25)
    used = talk.state.runs[run_id].used
    assert (used.tokens, used.steps, used.cost_nanousd) == (1_800, 1, 750_000_000)


def test_time_counts_while_it_works_and_not_while_it_waits_or_is_dead() -> None:
    talk, run_id = begin()
    talk.clock += 1_000
    talk.reply("", ("write_file", {"path": "x"}))
    worked = talk.state.runs[run_id].used.wall_ms
    assert worked >= 1_000
    talk.clock += 1_000_000
    talk.resolve("allow")
    assert talk.state.runs[run_id].used.wall_ms == worked, "a human was waited for"
    talk.clock += 500
    talk.finish_tool(talk.tool_effect())
    worked = talk.state.runs[run_id].used.wall_ms
    assert worked >= 1_500
    talk.clock += 1_000_000
    talk.die()
    assert talk.state.runs[run_id].used.wall_ms == worked, "nobody worked"


# -- sessions and what is above them --------------------------------------------------------------------------------


def test_the_budget_of_a_session_holds_for_all_its_runs() -> None:
    talk, _ = begin()
    talk.send(c.SetBudget(budget=Budget(steps=2)))
    step(talk)
    talk.reply("done", usage=USAGE)
    second = talk.submit("more")
    assert talk.status(second) == "waiting_for_approval"
    events = talk.send(c.SetBudget(budget=Budget(steps=3)))
    assert types(events)[:2] == ["session.budget_set", "approval.withdrawn"] and talk.status(second) == "running"


def test_the_day_and_the_daemon_are_kept_with_what_others_used() -> None:
    talk = Conversation()
    day = "day:2026-11-26"
    talk.outside = (c.Outside(account=day, used=Spent(steps=9), limit=Budget(steps=10), by="config.toml"),)
    run_id = talk.submit("go")
    step(talk)
    (approval,) = talk.state.approvals.values()
    assert approval.standing is not None and approval.standing.account == day
    assert approval.standing.used.steps == 10, "nine of others and our own"
    talk.outside = (replace(talk.outside[0], account="day:2026-11-27"),)
    talk.send(o.BudgetMoved())
    assert talk.status(run_id) == "running", "the next day has a budget of its own"


def test_room_that_others_make_is_seen() -> None:
    talk = Conversation()
    talk.outside = (c.Outside(account="daemon", used=Spent(steps=10), limit=Budget(steps=10)),)
    run_id = talk.submit("go")
    assert talk.send(o.BudgetMoved()) == [] and talk.status(run_id) == "waiting_for_approval"
    talk.outside = (replace(talk.outside[0], raised=Budget(steps=1)),)
    talk.send(o.BudgetMoved())
    assert talk.status(run_id) == "running"


def test_raises_from_before_a_budget_was_set_count_no_more() -> None:
    talk = Conversation()
    talk.outside = (c.Outside(account="session:s", raised=Budget(steps=5)),)
    talk.send(c.SetBudget(budget=Budget(steps=10)))
    assert budgets.standing_of_session(talk.state, NONE, talk.outside).limit == Budget(steps=10)
    later = (c.Outside(account="session:s", raised=Budget(steps=7)),)
    assert budgets.standing_of_session(talk.state, NONE, later).limit == Budget(steps=12)


def test_a_raise_of_the_session_outlives_the_notes_of_all_its_runs() -> None:
    talk, _ = begin()
    talk.reply()
    talk.send(c.SetBudget(budget=Budget(steps=1)))
    talk.submit("more")
    talk.resolve("raise", raise_by=Budget(steps=1_000))
    talk.reply()
    for _ in range(BUDGET_NOTES_KEPT):
        talk.submit("go", budget=Budget(steps=1))
        talk.reply()
    assert talk.effects() == [] and not talk.state.approvals, "each of them had room, and was warned of its own budget"
    assert talk.state.budget_notes["session:s"].raised == Budget(steps=1_000)


def test_what_was_decided_of_days_that_are_over_is_kept_no_longer() -> None:
    note = BudgetNote(is_warned=True)
    state = State(budget_notes=dict.fromkeys(("day:2026-11-25", "daemon", "day:2026-11-26"), note))
    budgets.begin_day(state, "2026-11-26")
    assert list(state.budget_notes) == ["daemon", "day:2026-11-26"]


def test_the_nearest_budget_is_asked_about_first_and_then_the_next() -> None:
    talk, run_id = begin(budget=Budget(steps=1))
    talk.send(c.SetBudget(budget=Budget(steps=1)))
    step(talk)
    asked = []
    for _ in range(2):
        (approval,) = talk.state.approvals.values()
        assert approval.standing is not None
        asked.append(approval.standing.account)
        talk.resolve("raise", raise_by=Budget(steps=1))
    assert asked == [f"run:{run_id}", "session:s"] and talk.status(run_id) == "running"


# -- authority ------------------------------------------------------------------------------------------------------


def test_only_an_operator_sets_and_raises_budgets() -> None:
    talk, _ = begin(budget=Budget(steps=1))
    step(talk)
    run = {"principal": "run:run_X", "is_operator": False}
    item = c.ApprovalResolution(
        request_id=next(iter(talk.state.approvals)), resolution="raise", raise_by=Budget(steps=9)
    )
    with pytest.raises(Forbidden):
        talk.send(c.ResolveApprovals(resolutions=(item,)), **run)
    with pytest.raises(Forbidden):
        talk.send(c.SetBudget(budget=Budget(steps=9)), **run)


@pytest.mark.parametrize(
    ("given", "is_operator", "budget", "by"),
    [
        (None, True, Budget(steps=5, tokens=9), "config.toml"),
        (Budget(steps=9), True, Budget(steps=9, tokens=9), "user:1"),
        (Budget(steps=9), False, Budget(steps=5, tokens=9), "user:1"),
        (Budget(steps=2), False, Budget(steps=2, tokens=9), "user:1"),
    ],
)
def test_only_an_operator_goes_beyond_the_default(
    given: Budget | None, is_operator: bool, budget: Budget, by: str
) -> None:
    talk = Conversation(settings=replace(SETTINGS, run_budget=Budget(steps=5, tokens=9)))
    run_id = talk.submit("go", budget=given, is_operator=is_operator)
    run = talk.state.runs[run_id]
    assert (run.budget, run.budget_by) == (budget, by)


@pytest.mark.parametrize("by", [None, NONE, Budget(tokens=5), Budget(steps=0)])
def test_a_raise_by_nothing_is_refused(by: Budget | None) -> None:
    talk, _ = begin(budget=Budget(steps=1))
    step(talk)
    with pytest.raises(Invalid, match="cannot raise"):
        talk.resolve("raise", raise_by=by)


def test_a_budget_is_not_allowed_edited_or_remembered() -> None:
    talk, _ = begin(budget=Budget(steps=1))
    step(talk)
    for resolution, fields in (("allow", {}), ("stop", {"remember": "always"}), ("stop", {"updated_input": {}})):
        with pytest.raises(Invalid):
            talk.resolve(resolution, **fields)
    with pytest.raises(Conflict):
        talk.resolve("stop", if_digest="0000")


def test_where_there_is_no_budget_none_is_written() -> None:
    talk, _ = begin(replace(SETTINGS, run_budget=Budget()))
    talk.outside = (c.Outside(account="session:s", raised=Budget()),)
    talk.send(c.SetBudget(budget=Budget(steps=1)))
    assert b'"budget":{}' not in talk.journal[1][0] and b"raised_before" not in talk.journal[2][0]


def test_what_steers_brings_no_budget() -> None:
    talk, _ = begin()
    with pytest.raises(Invalid, match="steers"):
        talk.submit("x", delivery="steer", budget=Budget(steps=1))


def test_a_question_about_a_budget_outlives_the_daemon_and_its_rules() -> None:
    talk, run_id = begin(budget=Budget(steps=1))
    step(talk)
    (request_id,) = talk.state.approvals
    talk.die()
    assert list(talk.state.approvals) == [request_id]
    talk.settings = replace(SETTINGS, policy_revision="p2")
    talk.die()
    assert request_id not in talk.state.approvals and talk.status(run_id) == "waiting_for_approval", "asked anew"
    talk.resolve("raise", raise_by=Budget(steps=1))
    assert talk.status(run_id) == "running"


# -- nothing lost, nothing twice ------------------------------------------------------------------------------------

ACTS = st.lists(
    st.tuples(
        st.sampled_from(["reply", "fail", "die", "stray", "interrupt"]), st.integers(1, 900), st.integers(1, 400)
    ),
    max_size=25,
)


@QUICK
@given(ACTS, st.sampled_from([None, 9_000, 40_000]))
def test_what_is_used_is_what_the_calls_reported_and_never_more_than_the_budget(
    acts: list[tuple[str, int, int]], limit: int | None
) -> None:
    """Through retries, deaths, late reports and interrupts; but for an estimate of the input that was too low."""
    talk = Conversation()
    talk.submit("go", budget=Budget(tokens=limit))
    reported = steps = 0
    for act, tokens_in, tokens_out in acts:
        call = next((effect for effect in talk.effects() if isinstance(effect, CallModel)), None)
        if act == "die":
            was_active = talk.state.active
            talk.die()
            steps += bool(was_active and not talk.state.active)  # given up after too many deaths
        elif act == "interrupt" and talk.state.active:
            talk.send(c.InterruptSession())
            talk.submit("go on", budget=Budget(tokens=limit))
        elif act == "stray" and call is not None:
            before = total_of(talk.state)
            stray = o.ModelFailed(
                run_id=call.run_id, model_call_id=call.model_call_id, attempt=call.attempt + 1, code="overloaded",
                message="", usage=USAGE,
            )  # fmt: skip
            assert talk.send(stray) == [] and total_of(talk.state) == before
        elif act == "fail" and call is not None:
            talk.fail("overloaded", usage=Usage(input_tokens=tokens_in))
            reported += tokens_in
            if talk.state.active_run and talk.state.active_run.model_call:
                talk.wake()
            else:
                steps += 1
        elif act == "reply" and call is not None:
            step(talk, Usage(input_tokens=tokens_in, output_tokens=tokens_out))
            reported += tokens_in + tokens_out
            steps += 1
        active = talk.state.active_run
        under_way = active is not None and active.model_call is not None
        assert (budgets.reserved_of(active) != NOTHING) == (under_way and not active.model_call.retry_at_ms)  # type: ignore[union-attr]
        if limit and active is not None:
            standing = budgets.standing_of_run(talk.state, active)
            assert standing.used.tokens + standing.reserved.tokens <= limit + 900
    assert (talk.state.used.tokens, talk.state.used.steps) == (reported, steps)
    assert sum(run.used.tokens for run in talk.state.runs.values()) == reported
    assert talk.state.day_used.tokens == reported
