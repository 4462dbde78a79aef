"""What journals say of use and of reasons: sums by every name, and the story of a run in words."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from kheish.core import events as e
from kheish.core.codec import decode_events
from kheish.core.contracts import Reply
from kheish.core.effects import CallModel
from kheish.core.outcomes import ModelReplied
from kheish.core.usage import Meter
from kheish.core.why import Inquiry
from tests.core.conversation import Conversation
from tests.core.test_chains import begin, cooling

USAGE = e.Usage(input_tokens=10, output_tokens=4, cache_read_tokens=5, cache_write_tokens=1, reasoning_tokens=2)


def price(route: str, model: str, usage: e.Usage, at_ms: int) -> float | None:
    return None if route == "gpt" else usage.output_tokens / 100


def answer(talk: Conversation, model: str = "") -> None:
    (call,) = talk.effects()
    assert isinstance(call, CallModel)
    talk.send(
        ModelReplied(
            run_id=call.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            reply=Reply(text="x", stop_reason="end", usage=USAGE, model=model, request_id="req_1"),
            first_ms=300,
            duration_ms=1200,
        )
    )


def two_runs() -> Conversation:
    """One answered by the fallback, one by the primary."""
    talk = begin()
    talk.cooling = cooling(0)
    talk.fail("overloaded", request_id="req_0", duration_ms=80)
    answer(talk)
    talk.cooling = ()
    talk.submit("go", route="claude", model="claude-model")
    answer(talk, "claude-model-1")
    return talk


def metered(by: Any, since_ms: int = 0) -> Meter:
    talk, meter = two_runs(), Meter(by, since_ms, price)
    for raw, _ in talk.journal:
        for event in decode_events(raw):
            meter.add("s", event)
    return meter


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("route", {"gpt": 1, "claude": 1}),
        ("model", {"gpt-model": 1, "claude-model": 1}),
        ("session", {"s": 2}),
        ("day", {date.fromtimestamp(0).isoformat(): 2}),
    ],
)
def test_every_completed_call_is_counted_once_under_its_name(by: str, names: dict[str, int]) -> None:
    meter = metered(by)
    assert {name: total.calls for name, total in meter.totals.items()} == names
    assert (meter.total.calls, meter.total.tokens.output_tokens, meter.total.tokens.reasoning_tokens) == (2, 8, 4)
    assert (meter.total.cost_usd, meter.total.unpriced_calls) == (0.04, 1), "an unknown price is no price of zero"


def test_only_what_was_completed_since_then_counts() -> None:
    assert metered("route", since_ms=5).total.calls == 1
    assert metered("route", since_ms=10**6).total.calls == 0


def test_a_journal_from_before_there_were_chains_names_the_route_with_the_run() -> None:
    meter = Meter("route", 0, price)
    call: dict[str, Any] = {"run_id": "run_1", "model_call_id": "m", "attempt": 1, "at_ms": 1}
    meter.add("s", e.RunSubmitted(run_id="run_1", text="", submitted_at_ms=1, route="old", model="m"))
    meter.add("s", e.ModelCallStarted(**call, step=1))
    meter.add("s", e.ModelCallCompleted(**call, text="", stop_reason="end", usage=USAGE))
    assert list(meter.totals) == ["old"]
    meter.begin_session()
    meter.add("t", e.ModelCallCompleted(**call, text="", stop_reason="end"))
    assert list(meter.totals) == ["old", "unknown"]


def test_why_tells_each_attempt_with_its_reason_and_what_came_of_it() -> None:
    talk = begin(2)
    run_id = talk.state.active
    talk.cooling = cooling(0, 2)
    talk.fail("overloaded", request_id="req_0", duration_ms=80)
    talk.die()
    taken = e.Usage(input_tokens=700, output_tokens=3)
    talk.fail("connection", has_output=True, duration_ms=2500, jitter=0.5, usage=taken, cost_usd=0.25)
    talk.wake()
    answer(talk)
    inquiry = Inquiry(run_id, price)
    for raw, context in talk.journal:
        for event in decode_events(raw):
            inquiry.add(event, context.at_ms)
    assert [(a.route, a.attempt, a.reason, a.result) for a in inquiry.attempts] == [
        ("claude", 1, "primary", "failed"),
        ("gpt", 2, "failover", "died"),
        ("gpt", 3, "resumed", "failed"),
        ("gpt", 4, "retry", "replied"),
    ]
    assert [a.waited_ms > 0 for a in inquiry.attempts] == [False, False, True, False]
    lines = inquiry.lines()
    assert lines[0] == "the run takes claude/claude-model, then gpt/gpt-model, then gemini/gemini-model"
    assert lines[1] == "step 1: claude/claude-model; gemini/gemini-model is spared for 17 min (overloaded)"
    assert lines[2] == "  failed after 80 ms: overloaded: overloaded [req_0]"
    assert lines[3].startswith("step 1, attempt 2: gpt/gpt-model, since claude/claude-model failed (overloaded); ")
    assert lines[4] == "  was cut off: the daemon died"
    assert lines[6] == (
        "  failed after 2.5 s: connection: connection; what it had said was discarded; "
        "it took all the same 700 tokens in, 3 out; $0.250000"
    )
    assert [a.usage.input_tokens for a in inquiry.attempts] == [0, 0, 700, 10]
    assert lines[7].startswith("  waited 251 ms")
    assert lines[9] == (
        "  answered after 1.2 s, the first piece after 300 ms: "
        "16 tokens in (5 from the cache), 4 out (2 of reasoning); price unknown [req_1]"
    )
    assert lines[10] == "the run completed"
