"""What becomes of work whose daemon died. One table, and a pure walk over what was in flight.

in flight                                    becomes
a model call                                 attempt n+1; after MODEL_DEATHS_MAX deaths the run fails
a tool call that had not started             started (a process that waits at its gate has not started)
a started read or idempotent tool call       attempt n+1, bounded likewise
a started unsafe one, allowed by a rule      uncertain; the model is told and checks first
a started unsafe one, approved by a human    uncertain; a human decides again
a wait for an approval or question           as it was

The same of a daemon that was told to stop, but that it counts as no death.
"""

from __future__ import annotations

from kheish.core import approvals, budgets, model_calls, tool_calls
from kheish.core.commands import Recover
from kheish.core.draft import Draft
from kheish.core.events import (
    ModelCallDied,
    SessionRecovered,
    ToolCallDied,
    ToolCallUncertain,
)
from kheish.core.state import Run, State
from kheish.limits import MODEL_DEATHS_MAX


def in_flight(state: State) -> bool:
    """Whether the death of the daemon broke anything off."""
    run = state.active_run
    if run is None:
        return False
    calling = run.model_call is not None and not run.model_call.retry_at_ms
    return calling or any(call.phase == "started" for call in run.calls)


def recover(draft: Draft, command: Recover) -> str:
    state = draft.state
    broken = in_flight(state)
    if broken or command.tail_file:
        draft.emit(
            SessionRecovered(
                died_generation=state.generation,
                tail_bytes_dropped=command.tail_bytes_dropped,
                tail_file=command.tail_file,
            )
        )
    if broken:
        run = state.active_run
        assert run is not None
        if run.model_call is not None:
            _recover_model_call(draft, run, command.was_stopped)
        else:
            _recover_tool_calls(draft, run, command.was_stopped)
    for approval in list(draft.state.approvals.values()):
        if approval.policy_revision != draft.settings.policy_revision:
            approvals.reissue(draft, approval)
    budgets.recheck(draft)
    return state.session_id


def _recover_model_call(draft: Draft, run: Run, was_stopped: bool) -> None:
    call = run.model_call
    assert call is not None
    draft.emit(
        ModelCallDied(
            run_id=run.run_id, model_call_id=call.model_call_id, attempt=call.attempt, was_stopped=was_stopped
        )
    )
    if was_stopped or call.deaths + 1 < MODEL_DEATHS_MAX:
        model_calls.start_attempt(draft, run, call, run.hop, "resumed")
        return
    message = f"the daemon died {call.deaths + 1} times during this model call; it is not made again"
    model_calls.give_up(draft, run, "daemon_died", message)


def _recover_tool_calls(draft: Draft, run: Run, was_stopped: bool) -> None:
    for call in run.calls:
        if call.phase != "started":
            continue
        if call.effect in ("read", "idempotent"):
            if call.deaths + 1 >= MODEL_DEATHS_MAX and not was_stopped:
                tool_calls.complete(
                    draft,
                    run.run_id,
                    call,
                    f"The daemon died {call.deaths + 1} times during this call; it is not run again.",
                    is_error=True,
                )
            else:
                draft.emit(
                    ToolCallDied(
                        run_id=run.run_id,
                        tool_call_id=call.tool_call_id,
                        attempt=call.attempt,
                        was_stopped=was_stopped,
                    )
                )
            continue
        draft.emit(
            ToolCallUncertain(
                run_id=run.run_id, tool_call_id=call.tool_call_id, attempt=call.attempt, at_ms=draft.at_ms
            )
        )
        if call.human_approved:
            approvals.request(
                draft,
                run,
                call,
                rule="",
                digest=call.digest,
                kind="uncertain",
                reason="the daemon died after this call had started; it may have taken effect",
            )
        else:
            tool_calls.complete(draft, run.run_id, call, tool_calls.UNKNOWN_OUTCOME, is_error=True)
