"""What follows from a state by itself: the next run starts, a call is decided, the next model call is owed."""

from __future__ import annotations

import msgspec

from kheish.core import approvals, budgets, model_calls, questions, runs, tool_calls
from kheish.core.contracts import ToolSpec
from kheish.core.draft import Draft
from kheish.core.events import InputEntered
from kheish.core.state import Run, ToolCall
from kheish.limits import TOOL_CALLS_PARALLEL_MAX, TOOL_CALLS_PER_STEP_MAX


def advance(draft: Draft) -> bool:
    """Takes the next step that follows from the state alone; whether there was one."""
    state = draft.state
    run = state.active_run
    if run is None:
        if not state.queue or state.queue_paused or state.ended:
            return False
        runs.start(draft)
        return True
    if run.model_call is not None or not all(call.phase == "done" for call in run.calls):
        return _advance_calls(draft, run)
    if run.stopped is not None and (run.answered or not run.step):
        runs.fail(draft, run.run_id, *budgets.exhausted(run, run.stopped))
        return True
    is_at_limit = 0 < draft.settings.steps_max <= run.step
    # Where no language model answers, the text that comes last before the first step may be run as a command.
    if run.steered and not is_at_limit and (run.step or run.chain[0].window_tokens >= 0):
        draft.emit(InputEntered(input_id=run.steered[0].input_id, run_id=run.run_id))
        return True
    if run.answered and not run.calls:
        runs.complete(draft, run)
        return True
    if is_at_limit:
        runs.fail(
            draft,
            run.run_id,
            "step_limit",
            f"the run reached its limit of {draft.settings.steps_max} model calls",
        )
        return True
    if budgets.is_asking(state, run):
        return False
    if run.stopped is None and (standing := budgets.find_reached(draft, run)) is not None:
        budgets.hold(draft, run, standing)
        return True
    model_calls.start(draft, run)
    return True


def _advance_calls(draft: Draft, run: Run) -> bool:
    """Decides the first undecided call, or starts the first allowed one that there is room for."""
    started = 0
    for call in run.calls:
        if call.phase == "requested":
            _decide(draft, run, call)
            return True
        started += call.phase == "started"
    for call in run.calls:
        if call.phase == "allowed" and call.kind == "function" and started < TOOL_CALLS_PARALLEL_MAX:
            tool_calls.start(draft, run.run_id, call)
            return True
    return False


def _decide(draft: Draft, run: Run, call: ToolCall) -> None:
    spec = draft.settings.tools.get(call.tool)
    problem = _problem(run, call, spec)
    if problem or spec is None:
        tool_calls.complete(draft, run.run_id, call, problem, is_error=True)
        return
    permission = approvals.permission_of(draft, call, call.arguments)
    digest = approvals.decide(draft, run, call, spec, permission)
    if permission.behavior == "ask":
        approvals.request(draft, run, call, rule=permission.rule, digest=digest)
    elif permission.behavior == "allow" and spec.kind == "question":
        questions.request(draft, run, call)


def _problem(run: Run, call: ToolCall, spec: ToolSpec | None) -> str:
    if spec is None:
        return f"There is no tool named {call.tool!r}."
    if call.request.malformed:
        return f"The arguments are not a JSON object{_why_malformed(call.request.malformed)}"
    if run.calls.index(call) >= TOOL_CALLS_PER_STEP_MAX:
        return f"A reply may ask for at most {TOOL_CALLS_PER_STEP_MAX} tool calls; this one was not run."
    return spec.check(call.arguments)


def _why_malformed(text: str) -> str:
    """A model that knows that it was cut off does not ask for the same again."""
    shown = text[:500]
    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        if "truncated" in str(error):
            return (
                f"; they end in the middle, after {len(text)} characters: {shown}\n[The reply may have reached its "
                "limit. If so, ask for less at once, such as one part of a large file after another.]"
            )
    except RecursionError:
        pass
    return f": {shown}"
