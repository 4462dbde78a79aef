"""The session machine: its table of commands and outcomes, its table of events, and what follows from a state.

Theory of operation. A session is a fold over its journal: `evolve` applies one event. `decide` takes a command or an
outcome, and answers with the events that it leads to, *including everything that then follows by itself* (the next
run starts, a model call is owed, an approval is asked for), so that one record holds a whole decision. `pending` says
what the world owes the state; the reconciler performs it and brings the outcomes back through `decide`. Nothing here
reads a clock, draws a number or waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kheish.core import (
    approvals,
    budgets,
    compaction,
    model_calls,
    questions,
    recovery,
    runs,
    sessions,
    steps,
    tool_calls,
)
from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core.commands import Command, Context
from kheish.core.draft import Draft, Settings
from kheish.core.effects import AnyEffect, CallModel, EndProcess, RunTool, WakeAt
from kheish.core.outcomes import Outcome
from kheish.core.state import State
from kheish.errors import Conflict, NotFound
from kheish.limits import RETRY_AFTER_MAX_MS

COMMANDS: dict[type[Command], Callable[[Draft, Any], str]] = {
    c.CreateSession: sessions.create,
    c.EndSession: sessions.end,
    c.SetMode: sessions.set_mode,
    c.SetModel: sessions.set_model,
    c.RenameSession: sessions.rename,
    c.LabelRecord: sessions.label_record,
    c.SetBudget: budgets.set_budget,
    c.AddRule: sessions.add_rule,
    c.InterruptSession: sessions.interrupt,
    c.CompactContext: compaction.request,
    c.SubmitRun: runs.submit,
    c.EditRun: runs.edit,
    c.MoveRun: runs.reorder,
    c.WithdrawRun: runs.withdraw,
    c.PauseQueue: runs.pause_queue,
    c.ResumeQueue: runs.resume_queue,
    c.CancelRun: runs.cancel,
    c.ResolveApprovals: approvals.resolve,
    c.AnswerQuestion: questions.answer,
    c.Recover: recovery.recover,
}

OUTCOMES: dict[type[Outcome], Callable[[Draft, Any], None]] = {
    o.ModelReplied: model_calls.replied,
    o.ModelFailed: model_calls.failed,
    o.RetryDue: model_calls.retry_due,
    o.ToolProcessMade: tool_calls.process_made,
    o.ToolFinished: tool_calls.finished,
    o.ProcessGone: tool_calls.process_gone,
    o.BudgetMoved: budgets.moved,
}

EVENTS: dict[type[e.Event], Callable[[State, Any, Context], None]] = {
    e.SessionCreated: sessions.on_created,
    e.SessionForked: sessions.on_forked,
    e.SessionEnded: sessions.on_ended,
    e.SessionModeChanged: sessions.on_mode_changed,
    e.SessionModelChanged: sessions.on_model_changed,
    e.SessionRenamed: sessions.on_renamed,
    e.RecordLabelled: sessions.on_record_labelled,
    e.SessionRuleAdded: sessions.on_rule_added,
    e.SessionBudgetSet: budgets.on_set,
    e.SessionRecovered: sessions.on_recovered,
    e.RunSubmitted: runs.on_submitted,
    e.RunEdited: runs.on_edited,
    e.RunMoved: runs.on_moved,
    e.QueuePaused: runs.on_queue_paused,
    e.QueueResumed: runs.on_queue_resumed,
    e.RunStarted: runs.on_started,
    e.InputSteered: runs.on_steered,
    e.InputEntered: runs.on_entered,
    e.RunCompleted: runs.on_completed,
    e.RunFailed: runs.on_failed,
    e.RunCancelled: runs.on_cancelled,
    e.RunInterrupted: runs.on_interrupted,
    e.ModelCallStarted: model_calls.on_started,
    e.ModelCallCompleted: model_calls.on_completed,
    e.ModelCallRetrying: model_calls.on_retrying,
    e.ModelCallFailed: model_calls.on_failed,
    e.ModelCallDied: model_calls.on_died,
    e.ContextCompactionRequested: compaction.on_requested,
    e.ContextCompacted: compaction.on_compacted,
    e.ToolCallDecided: tool_calls.on_decided,
    e.ToolCallStarted: tool_calls.on_started,
    e.ToolCallCompleted: tool_calls.on_completed,
    e.ToolCallDied: tool_calls.on_died,
    e.ToolCallUncertain: tool_calls.on_uncertain,
    e.ProcessEnded: tool_calls.on_process_ended,
    e.ApprovalRequested: approvals.on_requested,
    e.ApprovalResolved: approvals.on_resolved,
    e.ApprovalWithdrawn: approvals.on_withdrawn,
    e.QuestionRequested: questions.on_requested,
    e.QuestionAnswered: questions.on_answered,
    e.QuestionWithdrawn: questions.on_withdrawn,
    e.BudgetWarned: budgets.on_warned,
    e.BudgetStopped: budgets.on_stopped,
}


class Decision(msgspec.Struct, frozen=True, gc=False):
    """`events` go into one record (none: nothing to write); `state` is the state after them; `result` answers the
    caller: the id of what the command made or touched."""

    events: tuple[e.Event, ...]
    state: State
    result: str


def evolve(state: State, event: e.Event, context: Context) -> None:
    """Applies one event to a state that the caller owns."""
    if context.at_ms > state.updated_at_ms:
        budgets.pass_time(state, context)
    EVENTS[type(event)](state, event, context)
    state.updated_at_ms = context.at_ms
    state.generation = context.generation


def decide(state: State, message: Command | Outcome, context: Context, settings: Settings) -> Decision:
    """Raises KheishError where a command is refused; the state given is never changed."""
    draft = Draft(state, context, settings, evolve)
    if isinstance(message, Outcome):
        OUTCOMES[type(message)](draft, message)
        result = ""
    else:
        repeated = _repeated(state, message, context)
        if repeated is not None:
            return Decision((), state, repeated)
        if not state.session_id and not isinstance(message, c.CreateSession):
            raise NotFound("cannot find the session", code="session_not_found")
        result = COMMANDS[type(message)](draft, message)
    while steps.advance(draft):
        pass
    if not draft.events:
        return Decision((), state, result)
    return Decision(tuple(draft.events), draft.state, result)


def _repeated(state: State, command: Command, context: Context) -> str | None:
    """The same key with the same request has the same answer; with another it is a conflict."""
    use = state.keys.get(context.key) if context.key else None
    if use is None:
        return None
    if use.body_digest != context.body_digest:
        raise Conflict(
            "cannot use this Idempotency-Key again: it belongs to another request",
            code="idempotency_conflict",
        )
    return use.result


def pending(state: State) -> list[AnyEffect]:
    """What the world owes this state now. Processes that outlived their calls end before anything else begins."""
    run = state.active_run
    if run is None and not state.processes:
        return []
    living = {call.tool_call_id for call in run.calls if call.phase == "started"} if run else set()
    leftovers: list[AnyEffect] = [
        EndProcess(tool_call_id=tool_call_id, process=process)
        for tool_call_id, process in state.processes.items()
        if tool_call_id not in living
    ]
    if leftovers or run is None:
        return leftovers + (_tool_effects(state) if run else [])
    if run.model_call is not None:
        call = run.model_call
        if call.retry_at_ms:
            return [
                WakeAt(
                    run_id=run.run_id,
                    model_call_id=call.model_call_id,
                    attempt=call.attempt,
                    at_ms=call.retry_at_ms,
                    # What was left when the run last changed, if need be by an input after the clock was set back.
                    wait_ms_max=min(call.retry_at_ms - run.updated_at_ms, RETRY_AFTER_MAX_MS),
                )
            ]
        return [CallModel(run_id=run.run_id, model_call_id=call.model_call_id, attempt=call.attempt)]
    return _tool_effects(state)


def _tool_effects(state: State) -> list[AnyEffect]:
    run = state.active_run
    assert run is not None
    effects: list[AnyEffect] = []
    for call in run.calls:
        if call.phase == "started":
            effects.append(RunTool(run_id=run.run_id, tool_call_id=call.tool_call_id, attempt=call.attempt))
        elif call.phase == "allowed" and call.kind == "process" and call.tool_call_id not in state.processes:
            effects.append(RunTool(run_id=run.run_id, tool_call_id=call.tool_call_id, attempt=call.attempt + 1))
    return effects


def fold(records: Iterable[tuple[Iterable[e.Event], Context]], state: State | None = None) -> State:
    """The state after these records, on top of the one given (which is changed)."""
    state = state if state is not None else State()
    for events, context in records:
        for event in events:
            evolve(state, event, context)
    return state
