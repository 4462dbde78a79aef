"""Rules of tool calls: the start, the result, the uncertain outcome. Whether one may run is decided in `steps`."""

from __future__ import annotations

from msgspec.structs import replace

from kheish.core import compaction, plans
from kheish.core.commands import Context
from kheish.core.draft import Draft
from kheish.core.events import (
    ProcessEnded,
    ToolCallCompleted,
    ToolCallDecided,
    ToolCallDied,
    ToolCallStarted,
    ToolCallUncertain,
    ToolMessage,
)
from kheish.core.outcomes import ProcessGone, ToolFinished, ToolProcessMade
from kheish.core.state import Run, State, ToolCall

UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: the daemon died after the call had started, and the call may have taken "
    "effect in part or in whole. It was not repeated. Check the actual state first, with tools that only read, before "
    "you decide what to do next."
)


def start(draft: Draft, run_id: str, call: ToolCall) -> None:
    draft.emit(
        ToolCallStarted(run_id=run_id, tool_call_id=call.tool_call_id, attempt=call.attempt + 1, at_ms=draft.at_ms)
    )


def complete(draft: Draft, run_id: str, call: ToolCall, output: str, *, is_error: bool = False) -> None:
    """A result that the machine itself gives."""
    draft.emit(
        ToolCallCompleted(
            run_id=run_id,
            tool_call_id=call.tool_call_id,
            attempt=call.attempt,
            at_ms=draft.at_ms,
            output=output,
            is_error=is_error,
            output_bytes=len(output.encode()),
        )
    )


def lookup(state: State, run_id: str, tool_call_id: str) -> ToolCall | None:
    run = state.runs.get(run_id)
    if run is None or run.is_terminal:
        return None
    for call in run.calls:
        if call.request.tool_call_id == tool_call_id:
            return call
    return None


def process_made(draft: Draft, outcome: ToolProcessMade) -> None:
    """The last moment before a side effect: a call that is no longer allowed does not start."""
    call = lookup(draft.state, outcome.run_id, outcome.tool_call_id)
    if call is None or call.phase != "allowed" or call.kind != "process":
        return
    draft.emit(
        ToolCallStarted(
            run_id=outcome.run_id,
            tool_call_id=call.tool_call_id,
            attempt=call.attempt + 1,
            at_ms=draft.at_ms,
            process=outcome.process,
        )
    )


def finished(draft: Draft, outcome: ToolFinished) -> None:
    call = lookup(draft.state, outcome.run_id, outcome.tool_call_id)
    if call is None or call.phase not in ("allowed", "started"):
        return
    draft.emit(
        ToolCallCompleted(
            run_id=outcome.run_id,
            tool_call_id=outcome.tool_call_id,
            attempt=call.attempt,
            at_ms=draft.at_ms,
            output=outcome.output,
            is_error=outcome.is_error,
            output_bytes=outcome.output_bytes,
            blob=outcome.blob,
            metadata=outcome.metadata,
        )
    )


def process_gone(draft: Draft, outcome: ProcessGone) -> None:
    process = draft.state.processes.get(outcome.tool_call_id)
    if process is not None and process.pid == outcome.pid:
        draft.emit(ProcessEnded(tool_call_id=outcome.tool_call_id, pid=outcome.pid, killed=outcome.killed))


# -- evolve ---------------------------------------------------------------------------------------------------------


def change(state: State, run_id: str, tool_call_id: str, **fields: object) -> None:
    run = state.runs[run_id]
    calls = tuple([replace(c, **fields) if c.request.tool_call_id == tool_call_id else c for c in run.calls])
    state.runs[run_id] = replace(run, calls=calls)


def on_decided(state: State, event: ToolCallDecided, context: Context) -> None:
    phase = {"allow": "allowed", "ask": "waiting", "deny": "requested"}[event.behavior]
    change(
        state,
        event.run_id,
        event.tool_call_id,
        phase=phase,
        digest=event.digest,
        effect=event.effect,
        kind=event.kind,
    )


def on_started(state: State, event: ToolCallStarted, context: Context) -> None:
    change(state, event.run_id, event.tool_call_id, phase="started", attempt=event.attempt)
    if event.process is not None:
        state.processes[event.tool_call_id] = event.process


def on_completed(state: State, event: ToolCallCompleted, context: Context) -> None:
    call = lookup(state, event.run_id, event.tool_call_id)
    assert call is not None
    output = event.output
    if call.arguments != call.request.arguments:
        output = f"[A human changed the arguments of this call before it ran.]\n{output}"
    change(state, event.run_id, event.tool_call_id, phase="done", output=output, is_error=event.is_error)
    if call.phase == "started":
        state.processes.pop(event.tool_call_id, None)
    run = state.runs[event.run_id]
    plan = plans.plan_of(call.arguments) if call.tool == plans.TOOL and not event.is_error else run.plan
    state.runs[event.run_id] = replace(run, updated_at_ms=event.at_ms, plan=plan)
    if all(c.phase == "done" for c in run.calls):
        _answer(state, run)


def on_died(state: State, event: ToolCallDied, context: Context) -> None:
    call = lookup(state, event.run_id, event.tool_call_id)
    assert call is not None
    deaths = call.deaths + (not event.was_stopped)
    change(state, event.run_id, event.tool_call_id, phase="allowed", deaths=deaths)


def on_uncertain(state: State, event: ToolCallUncertain, context: Context) -> None:
    change(state, event.run_id, event.tool_call_id, phase="uncertain")


def on_process_ended(state: State, event: ProcessEnded, context: Context) -> None:
    state.processes.pop(event.tool_call_id, None)


def _answer(state: State, run: Run) -> None:
    """All results of a step enter the transcript together, in the order in which the model asked."""
    for call in run.calls:
        result = ToolMessage(
            tool_call_id=call.tool_call_id,
            provider_id=call.request.provider_id,
            tool=call.tool,
            text=call.output,
            is_error=call.is_error,
        )
        compaction.enter(state, result)


def close_step(state: State, run: Run) -> None:
    """A run that ends in the middle of a step still answers every call, so that the transcript stays well formed."""
    if all(call.phase == "done" for call in run.calls):
        return
    for call in run.calls:
        if call.phase != "done":
            began = call.phase in ("started", "uncertain")
            text = "The run was stopped before this call had a result." + (
                " It had started and may have taken effect." if began else " It was not run."
            )
            change(state, run.run_id, call.tool_call_id, phase="done", output=text, is_error=True)
    _answer(state, state.runs[run.run_id])
