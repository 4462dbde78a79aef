"""Rules of runs: submit, queue, steer, edit, cancel; when one starts and when it is over.

A run is a loop of steps. A step is one model call and the tool calls it asked for. Between steps is the safe boundary
at which steered input enters.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec.structs import replace

from kheish.core import budgets, compaction, tool_calls
from kheish.core.commands import (
    CancelRun,
    Context,
    EditRun,
    MoveRun,
    PauseQueue,
    ResumeQueue,
    SubmitRun,
    WithdrawRun,
)
from kheish.core.draft import Draft
from kheish.core.events import (
    ApprovalWithdrawn,
    InputEntered,
    InputSteered,
    QuestionWithdrawn,
    QueuePaused,
    QueueResumed,
    RunCancelled,
    RunCompleted,
    RunEdited,
    RunFailed,
    RunInterrupted,
    RunMoved,
    RunStarted,
    RunSubmitted,
    UserMessage,
)
from kheish.core.state import KeyUse, Run, RunPhase, State, SteeredInput, keep_newest
from kheish.errors import Conflict, Invalid, NotFound
from kheish.limits import (
    FINISHED_RUNS_KEPT,
    IDEMPOTENCY_KEYS_KEPT,
    INPUT_CHARS_MAX,
    PASSED_ON_BYTES_MAX,
    QUEUED_RUNS_MAX,
)

TRANSITIONS: dict[RunPhase, frozenset[RunPhase]] = {
    "queued": frozenset(("running", "failed", "interrupted", "cancelled")),
    "running": frozenset(("completed", "failed", "interrupted", "cancelled")),
    "completed": frozenset(),
    "failed": frozenset(),
    "interrupted": frozenset(),
    "cancelled": frozenset(),
}
"""Every legal change of a run's phase. The two waiting statuses are views of `running` (`state.status_of`)."""


def find(state: State, run_id: str) -> Run:
    run = state.runs.get(run_id)
    if run is None:
        raise NotFound(f"cannot find run {run_id} in session {state.session_id}", code="run_not_found")
    return run


def submit(draft: Draft, command: SubmitRun) -> str:
    """The id of the run that carries the input: a new one, or for `steer` the active one."""
    state = draft.state
    if state.ended:
        raise Conflict(f"cannot submit: session {state.session_id} was ended; create another", code="session_ended")
    _check_text("submit", command.text, has_attachments=bool(command.attachments))
    if command.delivery == "steer" and command.budget is not None:
        raise Invalid("cannot give a budget to what steers: the active run has its own", path="$.budget")
    if (waiting := _waiting_inputs(state)) >= QUEUED_RUNS_MAX:
        raise Conflict(
            f"cannot submit: session {state.session_id} has {waiting} inputs that wait; wait or withdraw some",
            code="queue_full",
        )
    if command.delivery == "steer" and state.active:
        draft.emit(
            InputSteered(
                input_id=draft.new_id("input"),
                run_id=state.active,
                text=command.text,
                at_ms=draft.at_ms,
                attachments=command.attachments,
                body_digest=draft.context.body_digest,
                pinned=command.pinned,
            )
        )
        return state.active
    run_id = draft.new_id("run")
    budget, budget_by = budgets.of_run(draft, command.budget)
    if command.delivery == "interrupt" and state.active:
        stop(draft, state.active, "interrupted", "another input took its place")
    draft.emit(
        RunSubmitted(
            run_id=run_id,
            text=command.text,
            submitted_at_ms=draft.at_ms,
            route=command.route,
            model=command.model,
            kind=command.kind,
            attachments=command.attachments,
            metadata=command.metadata,
            first=command.delivery == "interrupt",
            body_digest=draft.context.body_digest,
            hops=command.hops,
            system_prompt=draft.settings.system_prompt,
            budget=budget,
            budget_by=budget_by,
            on_budget=command.on_budget,
            rates=command.rates,
            window_tokens=command.window_tokens,
            pinned=command.pinned,
        )
    )
    if command.delivery == "interrupt" and state.queue_paused and draft.context.is_operator:
        start(draft)  # ahead of the queue, which stays paused
    return run_id


def _waiting_inputs(state: State) -> int:
    """How many wait for their turn, or for the active run to take them in."""
    return len(state.queue) + (len(state.active_run.steered) if state.active_run else 0)


def _check_text(verb: str, text: str, *, has_attachments: bool) -> None:
    """Raises Invalid."""
    if len(text) > INPUT_CHARS_MAX:
        raise Invalid(
            f"cannot {verb}: the text has {len(text)} characters, the limit is {INPUT_CHARS_MAX}; "
            "hand it in as an attachment"
        )
    if not text.strip() and not has_attachments:
        raise Invalid(f"cannot {verb}: the text is empty", code="empty_input", path="$.content")


def start(draft: Draft) -> None:
    """The first of the queue."""
    limits = dict(draft.settings.tool_limits)
    draft.emit(RunStarted(run_id=draft.state.queue[0], at_ms=draft.at_ms, tool_limits=limits))


def edit(draft: Draft, command: EditRun) -> str:
    run = find(draft.state, command.run_id)
    check_queued(run, "edit")
    _check_text("edit", command.text, has_attachments=bool(run.attachments))
    if command.text != run.text:
        draft.emit(RunEdited(run_id=run.run_id, text=command.text))
    return run.run_id


def reorder(draft: Draft, command: MoveRun) -> str:
    """To a place in the queue, or its end where it is not that long."""
    run = find(draft.state, command.run_id)
    check_queued(run, "move")
    position = max(1, min(command.position, len(draft.state.queue)))
    if draft.state.queue[position - 1] != run.run_id:
        draft.emit(RunMoved(run_id=run.run_id, position=position))
    return run.run_id


def pause_queue(draft: Draft, command: PauseQueue) -> str:
    draft.require_operator("pause the queue")
    if draft.state.ended:
        raise Conflict(f"cannot pause: session {draft.state.session_id} was ended", code="session_ended")
    if not draft.state.queue_paused:
        draft.emit(QueuePaused())
    return draft.state.session_id


def resume_queue(draft: Draft, command: ResumeQueue) -> str:
    draft.require_operator("resume the queue")
    if draft.state.queue_paused:
        draft.emit(QueueResumed())
    return draft.state.session_id


def check_queued(run: Run, verb: str) -> None:
    """Raises Conflict."""
    if run.phase != "queued":
        raise _illegal(run, verb, "it is queued no more")


def withdraw(draft: Draft, command: WithdrawRun) -> str:
    """Out of the queue; one that was withdrawn stays as it is."""
    run = find(draft.state, command.run_id)
    check_not_started(run, "withdraw")
    if not run.is_terminal:
        stop(draft, run.run_id, "cancelled", "withdrawn from the queue")
    return run.run_id


def check_not_started(run: Run, verb: str) -> None:
    """Raises Conflict."""
    if run.started_at_ms:
        raise _illegal(run, verb, "it has started")


def cancel(draft: Draft, command: CancelRun) -> str:
    """A terminal run stays as it is."""
    run = find(draft.state, command.run_id)
    if not run.is_terminal:
        stop(draft, run.run_id, "cancelled", command.reason)
    return run.run_id


def stop(draft: Draft, run_id: str, how: Literal["cancelled", "interrupted"], reason: str) -> None:
    """Ends a run from outside; whatever it waits for is withdrawn, whatever it runs is no longer owed."""
    _withdraw_waits(draft, run_id, f"the run was {how}")
    event = RunCancelled if how == "cancelled" else RunInterrupted
    draft.emit(event(run_id=run_id, at_ms=draft.at_ms, reason=reason))


def complete(draft: Draft, run: Run) -> None:
    _pass_on(draft, run)
    draft.emit(RunCompleted(run_id=run.run_id, at_ms=draft.at_ms))


def fail(draft: Draft, run_id: str, code: str, message: str) -> None:
    _withdraw_waits(draft, run_id, "the run failed")
    _pass_on(draft, draft.run(run_id))
    draft.emit(RunFailed(run_id=run_id, at_ms=draft.at_ms, code=code, message=message))


def _pass_on(draft: Draft, run: Run) -> None:
    """What steers a run that ends by itself before it took that in comes next, as runs like it, as far as the record
    that ends the run can hold it. Where no language model answers, a text may be taken for something else."""
    if run.chain[0].window_tokens < 0:
        return
    left, passed = PASSED_ON_BYTES_MAX, []
    for steered in run.steered:
        left -= len(msgspec.json.encode(steered))
        if left < 0:
            break
        if not steered.is_remark:
            passed.append(steered)
    default = draft.settings.run_budget  # what the run was given beyond that was not given to who steers it
    budget = budgets.tightest(run.budget, default)
    budget_by = run.budget_by if budget != default else budgets.CONFIG if default != budgets.NONE else ""
    for steered in reversed(passed):
        draft.emit(
            RunSubmitted(
                run_id=draft.new_id("run"),
                text=steered.text,
                submitted_at_ms=draft.at_ms,
                route=run.route,
                model=run.model,
                attachments=steered.attachments,
                first=True,
                hops=run.hops,
                system_prompt=draft.settings.system_prompt,
                budget=budget,
                budget_by=budget_by,
                on_budget=run.on_budget,
                rates=run.rates,
                window_tokens=run.window_tokens,
                pinned=steered.pinned,
                input_id=steered.input_id,
                principal=steered.principal,
                origin=steered.origin,
            )
        )


def _withdraw_waits(draft: Draft, run_id: str, reason: str) -> None:
    for approval in list(draft.state.approvals.values()):
        if approval.run_id == run_id:
            draft.emit(ApprovalWithdrawn(request_id=approval.request_id, run_id=run_id, reason=reason))
    for question in list(draft.state.questions.values()):
        if question.run_id == run_id:
            draft.emit(QuestionWithdrawn(request_id=question.request_id, run_id=run_id, reason=reason))


def _illegal(run: Run, verb: str, why: str) -> Conflict:
    return Conflict(
        f"cannot {verb} run {run.run_id}: it is {run.phase}; {why}",
        code="run_state_conflict",
        run_status=run.phase,
    )


# -- evolve ---------------------------------------------------------------------------------------------------------


def on_submitted(state: State, event: RunSubmitted, context: Context) -> None:
    state.runs[event.run_id] = Run(
        run_id=event.run_id,
        text=event.text,
        route=event.route,
        model=event.model,
        kind=event.kind,
        attachments=event.attachments,
        metadata=event.metadata,
        submitted_at_ms=event.submitted_at_ms,
        updated_at_ms=event.submitted_at_ms,
        origin=event.origin or context.origin,
        principal=event.principal or context.principal,
        hops=event.hops,
        system_prompt=event.system_prompt,
        budget=event.budget,
        budget_by=event.budget_by,
        on_budget=event.on_budget,
        rates=event.rates,
        window_tokens=event.window_tokens,
        pinned=event.pinned,
    )
    if event.first:
        state.queue.insert(0, event.run_id)
    else:
        state.queue.append(event.run_id)
    if not event.input_id:  # its key says which run it was handed to
        remember_key(state, context, event.body_digest, event.run_id)


def on_moved(state: State, event: RunMoved, context: Context) -> None:
    state.queue.remove(event.run_id)
    state.queue.insert(event.position - 1, event.run_id)


def on_queue_paused(state: State, event: QueuePaused, context: Context) -> None:
    state.queue_paused = True


def on_queue_resumed(state: State, event: QueueResumed, context: Context) -> None:
    state.queue_paused = False


def on_edited(state: State, event: RunEdited, context: Context) -> None:
    state.runs[event.run_id] = replace(state.runs[event.run_id], text=event.text, updated_at_ms=context.at_ms)


def on_started(state: State, event: RunStarted, context: Context) -> None:
    state.runs[event.run_id] = run = replace(
        move(state, event.run_id, "running"),
        started_at_ms=event.at_ms,
        updated_at_ms=event.at_ms,
        tool_limits=event.tool_limits,
    )
    state.queue.remove(event.run_id)
    state.active = event.run_id
    compaction.enter(state, UserMessage(text=run.text, attachments=run.attachments, is_pinned=run.pinned))


def on_steered(state: State, event: InputSteered, context: Context) -> None:
    run = state.runs[event.run_id]
    steered = SteeredInput(
        input_id=event.input_id,
        text=event.text,
        attachments=event.attachments,
        pinned=event.pinned,
        is_remark=event.is_remark,
        principal=context.principal,
        origin=context.origin,
    )
    state.runs[event.run_id] = replace(run, steered=(*run.steered, steered), updated_at_ms=event.at_ms)
    remember_key(state, context, event.body_digest, event.run_id)


def on_entered(state: State, event: InputEntered, context: Context) -> None:
    run = state.runs[event.run_id]
    entered = next(s for s in run.steered if s.input_id == event.input_id)
    compaction.enter(state, UserMessage(text=entered.text, attachments=entered.attachments, is_pinned=entered.pinned))
    state.runs[event.run_id] = replace(
        run, steered=tuple(s for s in run.steered if s is not entered), calls=(), answered=False
    )


def on_completed(state: State, event: RunCompleted, context: Context) -> None:
    _finish(state, event.run_id, "completed", event.at_ms)


def on_failed(state: State, event: RunFailed, context: Context) -> None:
    _finish(state, event.run_id, "failed", event.at_ms, event.code, event.message)


def on_cancelled(state: State, event: RunCancelled, context: Context) -> None:
    _finish(state, event.run_id, "cancelled", event.at_ms, "cancelled", event.reason)


def on_interrupted(state: State, event: RunInterrupted, context: Context) -> None:
    _finish(state, event.run_id, "interrupted", event.at_ms, "interrupted", event.reason)


def move(state: State, run_id: str, phase: RunPhase) -> Run:
    run = state.runs[run_id]
    if phase not in TRANSITIONS[run.phase]:
        raise _illegal(run, f"make {phase}", "that is not a legal transition")
    return replace(run, phase=phase)


def _finish(state: State, run_id: str, phase: RunPhase, at_ms: int, code: str = "", message: str = "") -> None:
    tool_calls.close_step(state, state.runs[run_id])
    run = move(state, run_id, phase)
    state.runs[run_id] = replace(
        run,
        model_call=None,
        calls=(),
        steered=(),
        finished_at_ms=at_ms,
        updated_at_ms=at_ms,
        error_code=code,
        error_message=message,
        system_prompt="",
        tool_limits={},
    )
    if state.active == run_id:
        state.active = ""
    else:
        state.queue.remove(run_id)
    if len(state.runs) - len(state.queue) - bool(state.active) > FINISHED_RUNS_KEPT:
        oldest = next(run.run_id for run in state.runs.values() if run.is_terminal)
        del state.runs[oldest]
        state.past_runs += 1
        budgets.forget_run(state, oldest)


def remember_key(state: State, context: Context, body_digest: str, result: str) -> None:
    if context.key:
        use = KeyUse(body_digest=body_digest, result=result)
        keep_newest(state.keys, context.key, use, IDEMPOTENCY_KEYS_KEPT)
