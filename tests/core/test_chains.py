"""Chains: which hop a call takes, and why; never for a failure that the next hop would meet too, never in mid-reply."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core import events as e
from kheish.core.chains import MAY_PASS
from kheish.core.codec import decode_events
from kheish.core.effects import CallModel, WakeAt
from kheish.core.model_calls import FAILURES
from kheish.core.prompt import build_request
from kheish.limits import MODEL_ATTEMPTS_MAX
from tests.core.conversation import TOOLS, Conversation
from tests.core.test_machine import kinds
from tests.core.test_properties import QUICK

HOPS = tuple(e.Hop(route=route, model=f"{route}-model") for route in ("claude", "gpt", "gemini"))
FAR_MS = 1_000_000


def cooling(*places: int, code: str = "overloaded", until_ms: int = FAR_MS) -> tuple[e.Cooling, ...]:
    return tuple(
        e.Cooling(route=HOPS[place].route, model=HOPS[place].model, code=code, until_ms=until_ms + place)
        for place in places
    )


def begin(*spared: int, hops: tuple[e.Hop, ...] = HOPS) -> Conversation:
    talk = Conversation()
    talk.cooling = cooling(*spared)
    talk.submit("go", route=hops[0].route, model=hops[0].model, hops=hops)
    return talk


def starts(talk: Conversation) -> list[e.ModelCallStarted]:
    events = [event for raw, _ in talk.journal for event in decode_events(raw)]
    return [event for event in events if isinstance(event, e.ModelCallStarted)]


def last(talk: Conversation) -> tuple[str, str]:
    started = starts(talk)[-1]
    return started.route, started.reason


def test_a_hop_is_left_for_exactly_the_failures_that_are_tried_again() -> None:
    assert set(MAY_PASS) == {code for code, failure in FAILURES.items() if failure.is_retryable}


@pytest.mark.parametrize("code", [*FAILURES, "never_heard_of"])
@pytest.mark.parametrize("has_output", [False, True])
@pytest.mark.parametrize("spared", [(), (1,), (1, 2), (0, 1, 2)])
def test_the_next_hop_is_taken_only_for_what_may_pass_and_before_there_is_output(
    code: str, has_output: bool, spared: tuple[int, ...]
) -> None:
    talk = begin()
    talk.cooling = cooling(0, *spared, code=code) if spared else ()
    events = talk.fail(code, has_output=has_output)
    run = talk.state.active_run
    if code == "too_large":
        assert kinds(events) == ["model_call.failed", "model_call.started"], "of a summary, see test_compaction"
        return
    if code not in MAY_PASS:
        assert kinds(events) == ["model_call.failed", "run.failed"]
        return
    assert run is not None and isinstance(retrying := events[0], e.ModelCallRetrying)
    assert retrying.discarded == has_output
    free = [place for place in (1, 2) if place not in spared]
    if has_output or not free:
        assert kinds(events) == ["model_call.retrying"] and retrying.retry_at_ms > talk.clock
        assert isinstance(talk.effects()[0], WakeAt)
    else:
        assert kinds(events) == ["model_call.retrying", "model_call.started"]
        assert retrying.retry_at_ms == talk.clock, "at once"
        assert last(talk) == (HOPS[free[0]].route, "failover")
        request = build_request(talk.state, run, talk.messages, TOOLS)
        assert (request.model, request.attempt) == (HOPS[free[0]].model, 2)
        assert isinstance(talk.effects()[0], CallModel)


def test_what_had_begun_to_answer_is_tried_again_where_it_was() -> None:
    talk = begin(0)
    assert last(talk) == ("gpt", "cooling")
    talk.cooling = ()
    talk.fail("connection", has_output=True)
    talk.wake()
    assert last(talk) == ("gpt", "retry")
    talk.fail("connection")
    assert last(talk) == ("claude", "failover"), "and once it failed without output the next one is free"
    talk.fail("connection")
    assert last(talk) == ("gemini", "failover"), "what was tried stays tried"


def test_what_breaks_off_twice_is_left() -> None:
    talk = begin()
    talk.fail("connection", has_output=True)
    talk.wake()
    talk.fail("connection", has_output=True)
    assert last(talk) == ("gpt", "failover")


def test_each_hop_is_tried_once_before_the_pause_and_then_it_begins_again() -> None:
    talk = begin()
    for route in ("gpt", "gemini"):
        talk.fail("server_error")
        assert last(talk) == (route, "failover")
    assert kinds(talk.fail("server_error")) == ["model_call.retrying"]
    talk.wake()
    assert last(talk) == ("claude", "returned")
    talk.fail("server_error")
    assert last(talk) == ("gpt", "failover")


def test_where_all_are_spared_it_waits_for_the_first_and_takes_that() -> None:
    talk = begin()
    talk.cooling = (*cooling(0, until_ms=9_000), *cooling(1, until_ms=4_000), *cooling(2, until_ms=7_000))
    talk.fail("rate_limited", retry_after_ms=3_600_000)
    (wake,) = talk.effects()
    assert isinstance(wake, WakeAt) and wake.at_ms == 4_001
    talk.cooling = (talk.cooling[0], talk.cooling[2])
    talk.wake()
    assert last(talk) == ("gpt", "cooling")
    assert starts(talk)[-1].cooling == talk.cooling, "with what was spared, for what and until when"


def test_a_call_that_begins_while_all_are_spared_takes_the_one_that_is_free_first() -> None:
    assert last(begin(2, 1, 0)) == ("claude", "primary")
    talk = Conversation()
    talk.cooling = (*cooling(0, until_ms=900), *cooling(1, until_ms=800), *cooling(2, until_ms=700))
    talk.submit("go", route="claude", model="claude-model", hops=HOPS)
    assert last(talk) == ("gemini", "cooling")


def test_the_primary_is_returned_to_with_the_next_call() -> None:
    talk = begin(0, 1)
    assert last(talk) == ("gemini", "cooling")
    talk.cooling = cooling(0)
    talk.reply("", ("unknown", {}))
    assert last(talk) == ("gpt", "cooling")
    talk.cooling = ()
    talk.reply("", ("unknown", {}))
    assert last(talk) == ("claude", "returned")
    talk.reply("", ("unknown", {}))
    assert last(talk) == ("claude", "primary")


def test_a_hop_is_left_only_for_what_it_may_be_left_for() -> None:
    hops = (e.Hop(route="claude", model="claude-model", on=("overloaded",)), *HOPS[1:])
    talk = begin(hops=hops)
    talk.fail("rate_limited", retry_after_ms=7_000)
    (wake,) = talk.effects()
    assert isinstance(wake, WakeAt) and wake.at_ms == talk.clock + 7_000
    talk.cooling = cooling(0, code="rate_limited")
    talk.wake()
    assert last(talk) == ("claude", "retry"), "nor is it spared for anything else"
    talk.fail("overloaded")
    assert last(talk) == ("gpt", "failover")


def test_a_death_goes_on_with_the_same_hop_and_what_was_tried_stays_tried() -> None:
    talk = begin()
    talk.fail("overloaded")
    talk.die()
    assert last(talk) == ("gpt", "resumed")
    talk.fail("overloaded")
    assert last(talk) == ("gemini", "failover")


def test_each_hop_has_the_attempts_of_a_route_alone() -> None:
    talk = begin()
    run_id = talk.state.active
    while talk.state.active:
        talk.fail("overloaded") if isinstance(talk.effects()[0], CallModel) else talk.wake()
    routes = [started.route for started in starts(talk)]
    assert {route: routes.count(route) for route in set(routes)} == {hop.route: MODEL_ATTEMPTS_MAX for hop in HOPS}
    assert talk.state.runs[run_id].error_code == "overloaded"


def test_a_run_without_a_chain_takes_its_route_whatever_is_spared() -> None:
    talk = Conversation()
    talk.cooling = (e.Cooling(route="r", model="m", code="overloaded", until_ms=FAR_MS),)
    talk.submit("go")
    talk.fail("overloaded")
    (wake,) = talk.effects()
    assert isinstance(wake, WakeAt) and wake.at_ms < FAR_MS
    talk.wake()
    assert [(s.route, s.model, s.reason, s.cooling) for s in starts(talk)] == [
        ("r", "m", "primary", ()),
        ("r", "m", "retry", ()),
    ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reply", "die", *MAY_PASS]), st.booleans(), st.sets(st.integers(0, 2)).map(sorted).map(tuple)
    ),
    max_size=30,
)


@QUICK
@given(STEPS)
def test_no_hop_follows_another_without_a_reason_that_the_journal_bears_out(steps: list[tuple[str, bool, Any]]) -> None:
    talk = begin()
    for what, has_output, spared in steps:
        talk.cooling = cooling(*spared)
        if not talk.state.active:
            break
        if isinstance(talk.effects()[0], WakeAt):
            talk.wake()
        elif what == "reply":
            talk.reply("", ("unknown", {}))
        elif what == "die":
            talk.die()
        else:
            talk.fail(what, has_output=has_output)
    events = [event for raw, _ in talk.journal for event in decode_events(raw)]
    calls = [event for event in events if isinstance(event, (e.ModelCallStarted, e.ModelCallRetrying))]
    for before, event in pairwise(calls):
        if not isinstance(event, e.ModelCallStarted):
            continue
        place = [hop.route for hop in HOPS].index(event.route)
        was = [started for started in calls[: calls.index(event)] if isinstance(started, e.ModelCallStarted)][-1]
        spared = {cool.route for cool in event.cooling}
        if event.reason == "failover":
            assert isinstance(before, e.ModelCallRetrying) and event.route != was.route
            assert event.route not in spared
        elif event.reason == "cooling":
            assert place and (all(hop.route in spared for hop in HOPS[:place]))
        elif event.reason == "returned":
            assert place == 0 and was.route != event.route
        elif event.reason == "primary":
            assert place == 0 and was.route == event.route
        else:
            assert was.route == event.route
