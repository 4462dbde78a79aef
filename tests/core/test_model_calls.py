"""Model calls: which failures are worth another attempt, when it is due, and replies that no record could hold."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core.contracts import FailureCode, Reply, ReplyToolCall
from kheish.core.effects import CallModel, WakeAt
from kheish.core.events import Usage
from kheish.core.model_calls import FAILURES, retry_delay_ms
from kheish.core.outcomes import ModelReplied, RetryDue
from kheish.core.prompt import build_request
from kheish.limits import (
    MODEL_ATTEMPTS_MAX,
    MODEL_OUTPUT_TOKENS_MAX,
    MODEL_REPLY_BYTES_MAX,
    RETRY_AFTER_MAX_MS,
    RETRY_BASE_MS,
    RETRY_MAX_MS,
    TOOL_CALLS_PER_STEP_MAX,
)
from tests.core.conversation import TOOLS, Conversation
from tests.core.test_machine import kinds

DAY_MS = 86_400_000
RETRYABLE = {"rate_limited", "overloaded", "server_error", "timeout", "connection"}


def test_every_failure_has_a_row_and_advice() -> None:
    assert set(FAILURES) == set(get_args(FailureCode))
    assert {code for code, failure in FAILURES.items() if failure.is_retryable} == RETRYABLE
    assert all(failure.advice for failure in FAILURES.values())


@pytest.mark.parametrize("code", [*(code for code in FAILURES if code != "too_large"), "never_heard_of"])
def test_a_failure_is_tried_again_only_where_that_may_help(code: str) -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    attempts = 1
    while (talk.fail(code)) and talk.status(run_id) == "running":
        (wake,) = talk.effects()
        assert isinstance(wake, WakeAt)
        talk.send(RetryDue(run_id=wake.run_id, model_call_id=wake.model_call_id, attempt=wake.attempt))
        attempts += 1
    run = talk.state.runs[run_id]
    assert (run.phase, run.error_code) == ("failed", code)
    assert attempts == (MODEL_ATTEMPTS_MAX if code in RETRYABLE else 1)
    advice = FAILURES[code].advice if code in FAILURES else "the model call failed"  # type: ignore[index]
    tries = f" after {MODEL_ATTEMPTS_MAX} attempts" if code in RETRYABLE else ""
    assert run.error_message == f"{advice}{tries}: {code}"


def test_attempts_of_one_call_are_counted_and_those_of_the_next_anew() -> None:
    talk = Conversation()
    talk.submit("go")
    for _ in range(2):
        for _ in range(MODEL_ATTEMPTS_MAX - 1):
            talk.fail("overloaded")
            (wake,) = talk.effects()
            talk.send(RetryDue(run_id=wake.run_id, model_call_id=wake.model_call_id, attempt=wake.attempt))
        talk.reply("", ("unknown", {}))
    (call,) = talk.effects()
    assert isinstance(call, CallModel) and call.attempt == 1


@pytest.mark.parametrize("failures", range(8))
def test_a_retry_waits_at_most_a_doubling_time_and_never_less_than_it_was_asked_to(failures: int) -> None:
    ceiling = min(RETRY_MAX_MS, RETRY_BASE_MS * 2**failures)
    assert retry_delay_ms(failures, None, 0.0) == 1
    assert ceiling // 2 <= retry_delay_ms(failures, None, 0.5) <= ceiling // 2 + 1
    assert retry_delay_ms(failures, None, 0.9999999) <= ceiling
    assert retry_delay_ms(failures, 60_000, 0.0) == 60_000
    assert retry_delay_ms(failures, 2 * RETRY_AFTER_MAX_MS, 0.5) == RETRY_AFTER_MAX_MS


@pytest.mark.parametrize(
    ("set_by_ms", "is_steered", "at_most_ms"),
    [
        (0, False, 7_000),
        (DAY_MS, False, 7_000),
        (-DAY_MS, False, 7_000),
        (0, True, 7_000),
        (DAY_MS, True, 0),
        (-DAY_MS, True, RETRY_AFTER_MAX_MS),
    ],
)
def test_a_retry_waits_no_longer_than_it_had_to_also_where_the_clock_was_set_back(
    set_by_ms: int, is_steered: bool, at_most_ms: int
) -> None:
    talk = Conversation()
    talk.clock = 2 * DAY_MS
    talk.submit("go")
    talk.fail("rate_limited", retry_after_ms=7_000)
    (before,) = talk.effects()
    assert isinstance(before, WakeAt) and before.at_ms == talk.clock + 7_000
    talk.clock += set_by_ms
    talk.die()
    if is_steered:
        talk.submit("by the way", delivery="steer")
    (wake,) = talk.effects()
    assert isinstance(wake, WakeAt) and (wake.at_ms, wake.effect_id) == (before.at_ms, before.effect_id)
    assert wake.wait_ms_max <= at_most_ms
    assert set_by_ms or wake.wait_ms_max >= wake.at_ms - talk.clock, "and no shorter than is left"


def test_a_cancelled_run_is_not_retried() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.fail("overloaded")
    (wake,) = talk.effects()
    talk.send(c.CancelRun(run_id=run_id))
    assert talk.effects() == []
    assert talk.send(RetryDue(run_id=run_id, model_call_id=wake.model_call_id, attempt=wake.attempt)) == []  # type: ignore[union-attr]


def deliver(talk: Conversation, reply: Reply) -> list[e.Event]:
    (call,) = talk.effects()
    assert isinstance(call, CallModel)
    return talk.send(
        ModelReplied(run_id=call.run_id, model_call_id=call.model_call_id, attempt=call.attempt, reply=reply)
    )


def asking(**arguments: Any) -> Reply:
    return Reply(
        text="",
        stop_reason="tool_use",
        tool_calls=(ReplyToolCall(provider_id="p", tool="bash", arguments=arguments),),
    )


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(text="x" * (MODEL_REPLY_BYTES_MAX + 1), stop_reason="end"), "bytes"),
        (Reply(text="\ud800", stop_reason="end"), "surrogates"),
        (asking(command="\ud800"), "surrogates"),
        (asking(command=10**30), "64-bit"),
        (asking(command=nested(300)), "ecursion"),
        (asking(command=nested(5000)), "recursion"),
        (
            Reply(
                text="",
                stop_reason="tool_use",
                tool_calls=asking(command="ls").tool_calls * (2 * TOOL_CALLS_PER_STEP_MAX + 1),
            ),
            "tool calls",
        ),
    ],
)
def test_a_reply_that_no_record_can_hold_fails_the_run_once(reply: Reply, said: str) -> None:
    """It is not asked for again: the same call would cost the same and bring the same."""
    talk = Conversation()
    run_id = talk.submit("go")
    reply = replace(reply, usage=Usage(input_tokens=70, output_tokens=7))
    assert kinds(deliver(talk, reply)) == ["model_call.failed", "run.failed"]
    run = talk.state.runs[run_id]
    assert (run.error_code, run.used.tokens) == ("invalid_reply", 77), "what it took counts all the same"
    assert "cannot be recorded" in run.error_message and said in run.error_message
    assert talk.effects() == []


def test_as_many_tool_calls_as_a_reply_may_have_have_ids_of_their_own() -> None:
    talk = Conversation()
    talk.submit("go")
    calls = asking(command="ls").tool_calls * (2 * TOOL_CALLS_PER_STEP_MAX)
    events = deliver(talk, Reply(text="", stop_reason="tool_use", tool_calls=calls))
    run = talk.state.active_run
    assert run is not None
    assert len({call.tool_call_id for call in run.calls}) == len(calls)
    assert len(talk.state.approvals) == TOOL_CALLS_PER_STEP_MAX
    ids = [value for event in events for value in (getattr(event, "request_id", ""),) if value]
    assert len(set(ids)) == TOOL_CALLS_PER_STEP_MAX
    assert "at most 256 tool calls" in run.calls[-1].output


def test_a_refusal_without_tool_calls_fails_the_run() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("I cannot.", stop="refused")
    assert (talk.status(run_id), talk.state.runs[run_id].error_code) == ("failed", "content_refused")


def test_usage_adds_up_over_the_steps_of_a_run() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    for tokens in (3, 4):
        usage = e.Usage(input_tokens=tokens, output_tokens=1, cache_read_tokens=tokens, cache_write_tokens=2)
        calls = (ReplyToolCall(provider_id="p", tool="unknown", arguments={}),) if tokens == 3 else ()
        deliver(talk, Reply(text="x", stop_reason="end", tool_calls=calls, usage=usage))
    assert talk.state.runs[run_id].usage == e.Usage(
        input_tokens=7, output_tokens=2, cache_read_tokens=7, cache_write_tokens=4
    )


# -- what the model is shown ----------------------------------------------------------------------------------------


def test_a_request_shows_the_session_its_transcript_and_its_tools() -> None:
    talk = Conversation()
    talk.submit("first")
    talk.reply("one")
    talk.submit("second")
    run = talk.state.active_run
    assert run is not None
    request = build_request(talk.state, run, talk.messages, TOOLS)
    assert (request.session_id, request.ordinal, request.step, request.attempt, request.model) == ("s", 1, 1, 1, "m")
    assert [message.text for message in request.messages] == ["first", "one", "second"]
    assert [tool.name for tool in request.tools] == list(TOOLS)
    assert request.output_tokens_max == MODEL_OUTPUT_TOKENS_MAX
    assert "/work" in request.system and "permission mode is default" in request.system
    assert build_request(talk.state, run, talk.messages, TOOLS) == request


def test_in_plan_mode_the_model_is_told_so() -> None:
    talk = Conversation(mode="plan")
    talk.submit("go")
    run = talk.state.active_run
    assert run is not None
    assert "In plan mode nothing may be changed" in build_request(talk.state, run, talk.messages, TOOLS).system


def test_a_directory_with_braces_is_only_a_name() -> None:
    talk = Conversation()
    talk.state.cwd = "/{mode}/{0}"
    talk.submit("go")
    run = talk.state.active_run
    assert run is not None
    assert "The working directory is /{mode}/{0};" in build_request(talk.state, run, talk.messages, TOOLS).system
