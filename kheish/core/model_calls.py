"""Rules of model calls: replies, failures and when another attempt is worth it."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from kheish.core import budgets, chains, compaction, runs
from kheish.core.codec import canonical_json
from kheish.core.commands import Context
from kheish.core.contracts import FailureCode, Reply
from kheish.core.draft import Draft
from kheish.core.events import (
    NO_SPENT,
    NO_USAGE,
    AssistantMessage,
    Choice,
    ModelCallCompleted,
    ModelCallDied,
    ModelCallFailed,
    ModelCallRetrying,
    ModelCallStarted,
    Purpose,
    ToolRequest,
)
from kheish.core.outcomes import ModelFailed, ModelReplied, RetryDue
from kheish.core.state import ModelCall, Run, State, ToolCall
from kheish.core.usage import add_usage
from kheish.limits import (
    CONTEXT_OVERFLOWS_MAX,
    MODEL_ATTEMPTS_MAX,
    MODEL_REPLY_BYTES_MAX,
    RETRY_AFTER_MAX_MS,
    RETRY_BASE_MS,
    RETRY_MAX_MS,
    TOOL_CALLS_PER_STEP_MAX,
)


class Failure(msgspec.Struct, frozen=True):
    is_retryable: bool
    advice: str


FAILURES: dict[FailureCode, Failure] = {
    "rate_limited": Failure(True, "the provider limits the rate"),
    "overloaded": Failure(True, "the provider is overloaded"),
    "server_error": Failure(True, "the provider failed"),
    "timeout": Failure(True, "the provider did not answer in time"),
    "connection": Failure(True, "the connection broke"),
    "too_large": Failure(False, "the request is larger than the model takes"),
    "auth": Failure(False, "the provider refused the key; check it with `kheish routes list`"),
    "invalid": Failure(False, "the provider refused the request"),
    "content_refused": Failure(False, "the provider refused the content"),
    "route_not_ready": Failure(False, "the route cannot be used; see `kheish routes list`"),
}
"""Every way a model call can fail, and whether the same call is worth another attempt."""


def current(state: State, run_id: str, model_call_id: str, attempt: int) -> Run | None:
    """The run, if this is the attempt it is in; None for a report that came too late."""
    run = state.runs.get(run_id)
    if run is None or run.is_terminal or run.model_call is None:
        return None
    call = run.model_call
    return run if (call.model_call_id, call.attempt) == (model_call_id, attempt) else None


def replied(draft: Draft, outcome: ModelReplied) -> None:
    run = current(draft.state, outcome.run_id, outcome.model_call_id, outcome.attempt)
    if run is None or run.model_call is None:
        return
    reply, purpose = outcome.reply, run.model_call.purpose
    compaction_reason = compaction.reason_of(draft.state, run)
    if problem := unfit(reply):
        lost = ModelFailed(
            run_id=run.run_id,
            model_call_id=outcome.model_call_id,
            attempt=outcome.attempt,
            code="invalid_reply",
            message=f"the reply cannot be recorded: {problem}",
            duration_ms=outcome.duration_ms,
            usage=reply.usage,
            cost_usd=outcome.cost_usd,
        )
        give_up(draft, run, lost.code, lost.message, outcome=lost)
        return
    requests = tuple(
        ToolRequest(
            tool_call_id=draft.new_id("toolcall"),
            provider_id=call.provider_id,
            tool=call.tool,
            arguments=call.arguments,
            malformed=call.malformed,
        )
        for call in (reply.tool_calls if purpose == "reply" and run.stopped is None else ())
    )
    draft.emit(
        ModelCallCompleted(
            run_id=run.run_id,
            model_call_id=outcome.model_call_id,
            attempt=outcome.attempt,
            at_ms=draft.at_ms,
            text=reply.text,
            stop_reason=reply.stop_reason,
            tool_requests=requests,
            usage=reply.usage,
            reasoning=reply.reasoning,
            model=reply.model,
            provider_state=reply.provider_state,
            request_id=reply.request_id,
            first_ms=outcome.first_ms,
            duration_ms=outcome.duration_ms,
            cost_usd=outcome.cost_usd,
            purpose=purpose,
        )
    )
    budgets.warn(draft, run.run_id)
    if purpose == "summary":
        compaction.compact(draft, run, compaction_reason, outcome.context)
    elif reply.stop_reason == "refused" and not requests:
        runs.fail(draft, run.run_id, "content_refused", FAILURES["content_refused"].advice)


def unfit(reply: Reply) -> str:
    """Why a reply, with what follows from it, would not fit into a record; or ""."""
    try:
        size = len(msgspec.json.encode(reply))
        canonical_json([call.arguments for call in reply.tool_calls])
    except (TypeError, ValueError, RecursionError) as error:
        return f"it cannot be written as JSON: {error}"
    if size > MODEL_REPLY_BYTES_MAX:
        return f"it takes {size} bytes, and a reply may take {MODEL_REPLY_BYTES_MAX}"
    if len(reply.tool_calls) > 2 * TOOL_CALLS_PER_STEP_MAX:
        return f"it asks for {len(reply.tool_calls)} tool calls, and a reply may ask for {TOOL_CALLS_PER_STEP_MAX}"
    return ""


def failed(draft: Draft, outcome: ModelFailed) -> None:
    run = current(draft.state, outcome.run_id, outcome.model_call_id, outcome.attempt)
    if run is None or run.model_call is None:
        return
    call = run.model_call
    failure = FAILURES.get(outcome.code, Failure(False, ""))  # type: ignore[call-overload]
    if failure.is_retryable and call.failures + 1 < MODEL_ATTEMPTS_MAX * len(run.chain):
        _go_on(draft, run, call, outcome)
        return
    tries = f" after {call.failures + 1} attempts" if call.failures else ""
    if outcome.code == "too_large":
        tries = f", and the conversation cannot be cut to what does; {_TOO_LARGE}"
    explained = f"{failure.advice or 'the model call failed'}{tries}: {outcome.message}"
    give_up(draft, run, outcome.code, outcome.message, explained, outcome)


_TOO_LARGE = "give a smaller input, such as a path to read from, or take a model with a larger window"


def is_overflow(run: Run, code: str) -> bool:
    """Whether a failure is one that a smaller context may mend."""
    call = run.model_call
    may_be_cut = call is not None and call.purpose == "reply" and run.stopped is None
    return may_be_cut and code == "too_large" and run.overflows < CONTEXT_OVERFLOWS_MAX


def _go_on(draft: Draft, run: Run, call: ModelCall, outcome: ModelFailed) -> None:
    """At once with the next hop that is to be had; else after a pause. What had begun to answer is tried again once
    before it is left."""
    cooling = draft.context.cooling
    is_left = (not outcome.has_output or call.stays) and chains.is_left_for(run.chain[run.hop], outcome.code)
    hop = chains.find_available(run.chain, cooling, (*call.tried, run.hop)) if is_left else None
    delay_ms = 0
    if hop is None:
        asked_ms = outcome.retry_after_ms
        if is_left and run.hops:
            asked_ms = chains.cooling_ms(run.chain, cooling, draft.at_ms)
        delay_ms = retry_delay_ms(call.failures // len(run.chain), asked_ms, outcome.jitter)
    draft.emit(
        ModelCallRetrying(
            run_id=run.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            code=outcome.code,
            message=outcome.message,
            retry_at_ms=draft.at_ms + delay_ms,
            discarded=outcome.has_output,
            request_id=outcome.request_id,
            duration_ms=outcome.duration_ms,
            usage=outcome.usage,
            cost_usd=outcome.cost_usd,
        )
    )
    if hop is not None:
        start_attempt(draft, run, call, hop, "failover")


def give_up(
    draft: Draft,
    run: Run,
    code: str,
    message: str,
    explained: str = "",
    outcome: ModelFailed | None = None,
) -> None:
    """The present model call fails for good, and its run with it; `explained` is the message for people. A run goes on
    without a summary, unless one was its last hope, and after a reply that a smaller context may make possible; where
    a last word fails it was the budget that the run failed for."""
    call = run.model_call
    assert call is not None
    compaction_reason = compaction.reason_of(draft.state, run)
    goes_on, context = is_overflow(run, code), outcome.context if outcome else None
    if call.purpose == "summary":
        goes_on = compaction_reason != "too_large" or context is not None
    draft.emit(
        ModelCallFailed(
            run_id=run.run_id,
            model_call_id=call.model_call_id,
            attempt=call.attempt,
            code=code,
            message=message,
            request_id=outcome.request_id if outcome else "",
            duration_ms=outcome.duration_ms if outcome else 0,
            usage=outcome.usage if outcome else NO_USAGE,
            cost_usd=outcome.cost_usd if outcome else None,
        )
    )
    if goes_on:
        compaction.compact(draft, run, compaction_reason, context)
    else:
        why = budgets.exhausted(run, run.stopped) if run.stopped else (code, explained or message)
        runs.fail(draft, run.run_id, *why)


def retry_delay_ms(failures: int, retry_after_ms: int | None, jitter: float) -> int:
    """Full jitter over a doubling ceiling (AWS Architecture Blog, "Exponential Backoff And Jitter"); never sooner than
    the server asked for."""
    ceiling = min(RETRY_MAX_MS, RETRY_BASE_MS << min(failures, 16))
    delay = 1 + int(jitter * ceiling)
    return max(delay, min(retry_after_ms or 0, RETRY_AFTER_MAX_MS))


def retry_due(draft: Draft, outcome: RetryDue) -> None:
    run = current(draft.state, outcome.run_id, outcome.model_call_id, outcome.attempt)
    if run is None or run.model_call is None or not run.model_call.retry_at_ms:
        return
    hop, reason = chains.choose(run, draft.context.cooling)
    if run.model_call.stays or hop == run.hop:
        hop, reason = run.hop, "retry"
    start_attempt(draft, run, run.model_call, hop, reason)


def start(draft: Draft, run: Run) -> None:
    """The run's next model call, or the one that makes room for it."""
    hop, reason = chains.choose(run, draft.context.cooling)
    purpose: Purpose = "summary" if compaction.reason_now(draft.state, run, run.chain[hop]) else "reply"
    step = run.step if run.overflows else run.step + 1
    call = ModelCall(model_call_id=draft.new_id("modelcall"), step=step, attempt=0, purpose=purpose)
    start_attempt(draft, run, call, hop, reason)


def start_attempt(draft: Draft, run: Run, call: ModelCall, hop: int, reason: Choice) -> None:
    output_tokens_max, reserved = budgets.reserve(draft, draft.run(run.run_id), hop, call.purpose)
    way = run.chain[hop]
    draft.emit(
        ModelCallStarted(
            run_id=run.run_id,
            model_call_id=call.model_call_id,
            step=call.step,
            attempt=call.attempt + 1,
            at_ms=draft.at_ms,
            route=way.route,
            model=way.model,
            reason=reason,
            cooling=chains.cooling_in(run.hops, draft.context.cooling),
            day=draft.context.day,
            reserved=reserved,
            output_tokens_max=output_tokens_max,
            purpose=call.purpose,
        )
    )


# -- evolve ---------------------------------------------------------------------------------------------------------


def on_started(state: State, event: ModelCallStarted, context: Context) -> None:
    run = state.runs[event.run_id]
    old = run.model_call
    call = (
        replace(
            old,
            attempt=event.attempt,
            retry_at_ms=0,
            tried=old.tried if old.stays or event.reason in ("failover", "resumed") else (),
            stays=old.stays and event.reason != "failover",
            reserved=event.reserved,
            output_tokens_max=event.output_tokens_max,
        )
        if old is not None and old.model_call_id == event.model_call_id
        else ModelCall(
            model_call_id=event.model_call_id,
            step=event.step,
            attempt=event.attempt,
            purpose=event.purpose,
            reserved=event.reserved,
            output_tokens_max=event.output_tokens_max,
        )
    )
    budgets.begin_day(state, event.day)
    run = replace(
        run, model_call=call, updated_at_ms=event.at_ms, hop=chains.place_of(run.hops, event.route, event.model)
    )
    # The step begins with its reply; a summary only makes room for that.
    state.runs[event.run_id] = (
        replace(run, step=event.step, calls=(), answered=False) if event.purpose == "reply" else run
    )


def on_completed(state: State, event: ModelCallCompleted, context: Context) -> None:
    is_reply = event.purpose == "reply"
    budgets.charge(state, event.run_id, event.usage, event.cost_usd, steps=int(is_reply))
    run = state.runs[event.run_id]
    usage = add_usage(run.usage, event.usage)
    if not is_reply:
        state.compaction_requested = False
        state.runs[event.run_id] = replace(run, model_call=None, has_room=True, usage=usage, updated_at_ms=event.at_ms)
        return
    state.ordinal += 1
    reply = AssistantMessage(
        text=event.text,
        tool_requests=event.tool_requests,
        reasoning=event.reasoning,
        provider_state=event.provider_state,
    )
    compaction.enter(state, reply)
    compaction.count(state, event.usage)
    state.runs[event.run_id] = replace(
        run,
        model_call=None,
        calls=tuple(ToolCall(request=r, arguments=r.arguments) for r in event.tool_requests),
        answered=True,
        output=event.text or run.output,
        usage=usage,
        updated_at_ms=event.at_ms,
        overflows=0,
        has_room=False,
    )


def on_retrying(state: State, event: ModelCallRetrying, context: Context) -> None:
    run = state.runs[event.run_id]
    assert run.model_call is not None
    old = run.model_call
    call = replace(
        old,
        failures=old.failures + 1,
        retry_at_ms=event.retry_at_ms,
        tried=(*old.tried, run.hop) if run.hops else (),
        stays=event.discarded and not old.stays,
        reserved=NO_SPENT,
    )
    state.runs[event.run_id] = replace(run, model_call=call, updated_at_ms=context.at_ms)
    budgets.charge(state, event.run_id, event.usage, event.cost_usd)


def on_failed(state: State, event: ModelCallFailed, context: Context) -> None:
    run = state.runs[event.run_id]
    failed, steps = replace(run, model_call=None, updated_at_ms=context.at_ms), 0
    if run.model_call is not None and run.model_call.purpose == "summary":
        state.compaction_requested = False
        failed = replace(failed, has_room=True)
    elif is_overflow(run, event.code):
        failed = replace(failed, overflows=run.overflows + 1, has_room=False)
    else:
        steps = 1
    state.runs[event.run_id] = failed
    budgets.charge(state, event.run_id, event.usage, event.cost_usd, steps=steps)


def on_died(state: State, event: ModelCallDied, context: Context) -> None:
    run = state.runs[event.run_id]
    assert run.model_call is not None
    deaths = run.model_call.deaths + (not event.was_stopped)
    call = replace(run.model_call, deaths=deaths, reserved=NO_SPENT)
    state.runs[event.run_id] = replace(run, model_call=call, updated_at_ms=context.at_ms)
