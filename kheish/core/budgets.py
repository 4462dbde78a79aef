"""Rules of budgets: what was used, what is reserved, what there is room for, and what becomes of a run without room.

A budget is kept over an account: a run, a session, a day or the daemon. Each session adds up, from its own journal,
what its runs used; a call under way has what it may use reserved. What others added to an account that concerns a
session comes with the message (`Context.outside`), and a raise counts wherever it was granted: every fact is in one
journal, so that nothing is lost or counted twice, whoever dies.

A budget bounds the next call before it is made: it asks for no more output than there is room for, and where there is
room for too little of it, a human is asked, or the run stops with a last word.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from kheish.core import chains, compaction
from kheish.core.codec import canonical_digest
from kheish.core.commands import ApprovalResolution, Context, Outside, SetBudget
from kheish.core.draft import Draft
from kheish.core.events import (
    NO_BUDGET,
    NO_SPENT,
    ApprovalRequested,
    ApprovalWithdrawn,
    Budget,
    BudgetStopped,
    BudgetWarned,
    Dimension,
    Purpose,
    Rate,
    SessionBudgetSet,
    Spent,
    Standing,
    Struct,
    Usage,
    UserMessage,
)
from kheish.core.outcomes import BudgetMoved
from kheish.core.state import Approval, BudgetNote, Run, State, keep_newest, status_of
from kheish.errors import Invalid
from kheish.limits import (
    BUDGET_LAST_WORD_TOKENS_MAX,
    BUDGET_NOTES_KEPT,
    BUDGET_REPLY_TOKENS_MIN,
    BUDGET_WARN_SHARE_DEFAULT,
    BUDGETED_RUNS_SHARED_MAX,
    MODEL_OUTPUT_TOKENS_MAX,
    SUMMARY_OUTPUT_TOKENS_MAX,
)

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
NONE, NOTHING = NO_BUDGET, NO_SPENT
NANO = 1_000_000_000
CONFIG = "config.toml"
"""Who set what holds where nobody set anything else."""
LAST_WORD = (
    "[The budget of this run is used up, and this is its last reply. Say briefly what was done and what is left to do. "
    "No tool is run any more.]"
)

# -- arithmetic -----------------------------------------------------------------------------------------------------


def add(a: Spent, b: Spent, sign: int = 1) -> Spent:
    if b is NOTHING:
        return a
    return Spent(
        cost_nanousd=a.cost_nanousd + sign * b.cost_nanousd,
        tokens=a.tokens + sign * b.tokens,
        steps=a.steps + sign * b.steps,
        wall_ms=a.wall_ms + sign * b.wall_ms,
        unpriced_calls=a.unpriced_calls + sign * b.unpriced_calls,
    )


def whole(limit: Budget, dimension: Dimension) -> int | None:
    """A limit as it is reckoned with: a cost in billionths."""
    value: float | int | None = getattr(limit, dimension)
    return None if value is None else round(value * NANO) if dimension == "cost_usd" else int(value)


def amount(spent: Spent, dimension: Dimension) -> int:
    return spent.cost_nanousd if dimension == "cost_usd" else int(getattr(spent, dimension))


def _combine(a: Budget, b: Budget, sign: int) -> Budget:
    """The sum of two amounts, or their difference; nothing is below zero."""
    found: dict[str, Any] = {}
    for dimension in DIMENSIONS:
        one, other = whole(a, dimension), whole(b, dimension)
        if one is not None or other is not None:
            total = max(0, (one or 0) + sign * (other or 0))
            found[dimension] = total / NANO if dimension == "cost_usd" else total
    return Budget(**found)


def plus(a: Budget, b: Budget) -> Budget:
    if a == NONE or b == NONE:
        return b if a == NONE else a
    return _combine(a, b, 1)


def minus(a: Budget, b: Budget) -> Budget:
    """What there is more of in the first."""
    if a == NONE:
        return NONE
    more = _combine(a, b, -1)
    return Budget(**{d: getattr(more, d) or None for d in DIMENSIONS})


def raised(limit: Budget, by: Budget) -> Budget:
    """A limit raised by an amount; where there is none there is none to raise."""
    if NONE in (limit, by):
        return limit
    total = plus(limit, by)
    return Budget(**{d: getattr(total, d) for d in DIMENSIONS if getattr(limit, d) is not None})


def over(chosen: Budget, default: Budget) -> Budget:
    """What was chosen, and the default where nothing was."""
    if default == NONE:
        return chosen
    found = {d: getattr(chosen, d) if getattr(chosen, d) is not None else getattr(default, d) for d in DIMENSIONS}
    return Budget(**found)


def tightest(a: Budget, b: Budget) -> Budget:
    both = {d: [v for v in (getattr(a, d), getattr(b, d)) if v is not None] for d in DIMENSIONS}
    return Budget(**{d: min(values) for d, values in both.items() if values})


def tokens_of(usage: Usage) -> int:
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens + usage.output_tokens


def price(input_tokens: int, output_tokens: int, rate: Rate | None) -> int:
    """In billionths of a dollar; 0 where no price is known."""
    return round(1000 * (input_tokens * rate.input_usd + output_tokens * rate.output_usd)) if rate else 0


# -- what there is --------------------------------------------------------------------------------------------------


def reserved_of(run: Run | None) -> Spent:
    return run.model_call.reserved if run is not None and run.model_call is not None else NOTHING


def total_of(state: State) -> Spent:
    """All that a session used and has reserved."""
    return add(state.used, reserved_of(state.active_run))


def day_total_of(state: State) -> Spent:
    return add(state.day_used, reserved_of(state.active_run))


def run_account(run_id: str) -> str:
    return f"run:{run_id}"


def session_account(session_id: str) -> str:
    return f"session:{session_id}"


def standing_of_run(state: State, run: Run, outside: tuple[Outside, ...] = ()) -> Standing:
    other = _find(outside, run_account(run.run_id))
    limit = raised(run.budget, plus(_note(state, other.account).raised, other.raised))
    return Standing(
        account=other.account, limit=limit, used=add(run.used, other.used), reserved=reserved_of(run), by=run.budget_by
    )


def standing_of_session(state: State, default: Budget, outside: tuple[Outside, ...] = ()) -> Standing:
    """`default` holds where the session has no limit of its own."""
    other = _find(outside, session_account(state.session_id))
    elsewhere = minus(other.raised, state.raised_before)
    limit = raised(over(state.budget, default), plus(_note(state, other.account).raised, elsewhere))
    return Standing(
        account=other.account,
        limit=limit,
        used=add(state.used, other.used),
        reserved=reserved_of(state.active_run),
        by=state.budget_by or CONFIG,
    )


def standings(state: State, run: Run, default: Budget, outside: tuple[Outside, ...]) -> list[Standing]:
    """Of all budgets that a run is kept within, the nearest first."""
    found = []
    if run.budget != NONE:
        found.append(standing_of_run(state, run, outside))
    if state.budget != NONE or default != NONE:
        found.append(standing_of_session(state, default, outside))
    for other in outside:
        if other.limit is not None and other.limit != NONE:
            is_day = other.account.startswith("day:")
            given = plus(_note(state, other.account).raised, other.raised)
            here = state.used if not is_day else state.day_used if other.account == f"day:{state.day}" else NOTHING
            found.append(
                Standing(
                    account=other.account,
                    limit=raised(other.limit, minus(given, other.raised_before)),
                    used=add(here, other.used),
                    reserved=reserved_of(state.active_run),
                    by=other.by,
                )
            )
    return found


def _find(outside: tuple[Outside, ...], account: str) -> Outside:
    return next((other for other in outside if other.account == account), Outside(account=account))


def _note(state: State, account: str) -> BudgetNote:
    return state.budget_notes.get(account, BudgetNote())


def left_of(standing: Standing, dimension: Dimension) -> int | None:
    limit = whole(standing.limit, dimension)
    return None if limit is None else limit - amount(add(standing.used, standing.reserved), dimension)


def reached(standing: Standing, input_tokens: int, rate: Rate | None) -> tuple[Dimension, ...]:
    """The limits that leave no room for a call of so many tokens."""
    needed: dict[Dimension, int] = {
        "cost_usd": max(1, price(input_tokens, BUDGET_REPLY_TOKENS_MIN, rate)),
        "tokens": input_tokens + BUDGET_REPLY_TOKENS_MIN,
        "steps": 1,
        "wall_ms": 1,
    }
    return tuple(d for d in DIMENSIONS if (left := left_of(standing, d)) is not None and left < needed[d])


def find_time_left(state: State, run: Run, default: Budget, outside: tuple[Outside, ...]) -> int | None:
    """How long a run may still be at work, by the tightest of its budgets; None where no time is set."""
    lefts = [left_of(standing, "wall_ms") for standing in standings(state, run, default, outside)]
    return min([left for left in lefts if left is not None], default=None)


def is_nearly_used(standing: Standing) -> bool:
    limits = {d: limit for d in DIMENSIONS if (limit := whole(standing.limit, d)) is not None}
    return any(amount(standing.used, d) >= BUDGET_WARN_SHARE_DEFAULT * limit for d, limit in limits.items())


def output_room(standing: Standing, input_tokens: int, rate: Rate | None) -> int:
    """How long a reply may be."""
    room = MODEL_OUTPUT_TOKENS_MAX
    if (tokens := left_of(standing, "tokens")) is not None:
        room = min(room, tokens - input_tokens)
    if (cost := left_of(standing, "cost_usd")) is not None and rate and rate.output_usd:
        room = min(room, int((cost - price(input_tokens, 0, rate)) / (1000 * rate.output_usd)))
    return room


# -- what others see ------------------------------------------------------------------------------------------------


class RunShare(Struct, frozen=True):
    limit: Budget
    used: Spent
    by: str = ""


class Share(Struct, frozen=True):
    """What a session adds to the accounts of others, and what they need to know of its own. `waits` are the accounts
    that its runs wait for."""

    used: Spent = NO_SPENT
    day: str = ""
    day_used: Spent = NO_SPENT
    limit: Budget = NO_BUDGET
    by: str = ""
    raised_before: Budget = NO_BUDGET
    runs: dict[str, RunShare] = {}
    notes: dict[str, BudgetNote] = {}
    parent_session_id: str = ""
    parent_run_id: str = ""
    waits: tuple[str, ...] = ()


def share_of(state: State) -> Share:
    budgeted = [r for r in state.runs.values() if r.budget is not NONE and r.budget != NONE and r.started_at_ms]
    return Share(
        used=total_of(state),
        day=state.day,
        day_used=day_total_of(state),
        limit=state.budget,
        by=state.budget_by,
        raised_before=state.raised_before,
        runs={
            run.run_id: RunShare(limit=run.budget, used=add(run.used, reserved_of(run)), by=run.budget_by)
            for run in budgeted[-BUDGETED_RUNS_SHARED_MAX:]
        },
        notes=dict(state.budget_notes),
        parent_session_id=state.parent_session_id,
        parent_run_id=state.parent_run_id,
        waits=tuple(approval.standing.account for approval in state.approvals.values() if approval.standing),
    )


# -- rules ----------------------------------------------------------------------------------------------------------


def of_run(draft: Draft, given: Budget | None) -> tuple[Budget, str]:
    """The budget of a new run, and who set it. Only an operator may go beyond the daemon's default."""
    default = draft.settings.run_budget
    if given is None or given == NONE:
        return (default, CONFIG) if default != NONE else (NONE, "")
    chosen = over(given, default) if draft.context.is_operator else tightest(given, default)
    return chosen, draft.context.principal


def set_budget(draft: Draft, command: SetBudget) -> str:
    draft.require_operator("set a budget")
    state = draft.state
    elsewhere = _find(draft.context.outside, session_account(state.session_id)).raised
    # A default is left out of a journal where it is that very value.
    draft.emit(SessionBudgetSet(budget=command.budget, raised_before=elsewhere if elsewhere != NONE else NONE))
    recheck(draft)
    return state.session_id


def moved(draft: Draft, outcome: BudgetMoved) -> None:
    recheck(draft)


def recheck(draft: Draft) -> None:
    """What waits for a budget that has room again waits no more."""
    for approval in list(draft.state.approvals.values()):
        if approval.standing is not None:
            still = find_reached(draft, draft.run(approval.run_id))
            if still is None or still.account != approval.standing.account:
                draft.emit(
                    ApprovalWithdrawn(
                        request_id=approval.request_id, run_id=approval.run_id, reason="the budget has room again"
                    )
                )


def is_asking(state: State, run: Run) -> bool:
    """Whether the run waits for a human to raise a budget, or not."""
    return bool(state.approvals) and any(
        a.run_id == run.run_id and a.kind == "budget" for a in state.approvals.values()
    )


def find_reached(draft: Draft, run: Run) -> Standing | None:
    """The nearest budget that has no room for the run's next call."""
    hop, _ = chains.choose(run, draft.context.cooling)
    needs, rate = compaction.tokens_due(draft.state), _rate(run, hop)
    for standing in _standings(draft, run):
        if found := reached(standing, needs, rate):
            return replace(standing, reached=found)
    return None


def _standings(draft: Draft, run: Run) -> list[Standing]:
    return standings(draft.state, run, draft.settings.session_budget, draft.context.outside)


def _rate(run: Run, hop: int) -> Rate | None:
    return run.rates[hop] if hop < len(run.rates) else None


def reserve(draft: Draft, run: Run, hop: int, purpose: Purpose) -> tuple[int, Spent]:
    """How long the reply to an attempt may be (0: as long as usual), and what is set aside for it."""
    rate, input_tokens = _rate(run, hop), compaction.tokens_due(draft.state)
    usual = MODEL_OUTPUT_TOKENS_MAX if purpose == "reply" else SUMMARY_OUTPUT_TOKENS_MAX
    if run.stopped is not None:
        room = BUDGET_LAST_WORD_TOKENS_MAX
    else:
        rooms = [output_room(standing, input_tokens, rate) for standing in _standings(draft, run)]
        room = max(BUDGET_REPLY_TOKENS_MIN, min([usual, *rooms]))
    steps = int(purpose == "reply")
    reserved = Spent(cost_nanousd=price(input_tokens, room, rate), tokens=input_tokens + room, steps=steps)
    return room if room < usual else 0, reserved


def hold(draft: Draft, run: Run, standing: Standing) -> None:
    """What becomes of a run that has no room for its next call."""
    if run.on_budget == "stop":
        stop(draft, run.run_id, standing)
        return
    draft.emit(
        ApprovalRequested(
            request_id=draft.new_id("approval"),
            run_id=run.run_id,
            tool_call_id="",
            tool="budget",
            arguments={"budget": standing.account.replace(":", " "), "used": say(standing), "set by": standing.by},
            cwd=draft.state.cwd,
            digest=canonical_digest(msgspec.to_builtins(standing)),
            policy_revision=draft.settings.policy_revision,
            requested_at_ms=draft.at_ms,
            rule="",
            kind="budget",
            reason=f"the next model call might pass the limit of {_names(standing)}",
            standing=standing,
        )
    )


def stop(draft: Draft, run_id: str, standing: Standing) -> None:
    draft.emit(BudgetStopped(run_id=run_id, standing=standing))


def exhausted(run: Run, standing: Standing) -> tuple[str, str]:
    """The code and the message that a run without room fails with."""
    is_own = standing.account == run_account(run.run_id)
    whose = "its" if is_own else f"the {standing.account.replace(':', ' ')}'s"
    return "budget_exhausted", f"{whose} budget is used up: {say(standing)}"


def check_raise(approval: Approval, item: ApprovalResolution) -> None:
    """Raises Invalid for what raises nothing."""
    assert approval.standing is not None
    by, limit = item.raise_by or NONE, approval.standing.limit
    given = [d for d in DIMENSIONS if getattr(by, d) is not None]
    if not given:
        raise Invalid("cannot raise the budget: say by how much", code="invalid_raise", path="$.raise_by")
    for dimension in given:
        if getattr(limit, dimension) is None:
            raise Invalid(
                f"cannot raise {dimension}: {approval.standing.account} has no limit of it",
                code="invalid_raise",
                path=f"$.raise_by.{dimension}",
            )
        if getattr(by, dimension) <= 0:
            raise Invalid(
                f"cannot raise {dimension} by {getattr(by, dimension)}: it must be more than 0",
                code="invalid_raise",
                path=f"$.raise_by.{dimension}",
            )


def warn(draft: Draft, run_id: str) -> None:
    """Once of each budget, wherever it is seen first."""
    for standing in _standings(draft, draft.run(run_id)):
        is_warned = _note(draft.state, standing.account).is_warned
        if is_nearly_used(standing) and not (is_warned or _find(draft.context.outside, standing.account).is_warned):
            draft.emit(BudgetWarned(run_id=run_id, standing=standing))


# -- words ----------------------------------------------------------------------------------------------------------


def say(standing: Standing) -> str:
    """What was used of what."""
    return ", ".join(_part(standing, d) for d in DIMENSIONS if getattr(standing.limit, d) is not None)


def _part(standing: Standing, dimension: Dimension) -> str:
    used, limit = amount(standing.used, dimension), whole(standing.limit, dimension) or 0
    match dimension:
        case "cost_usd":
            unknown = standing.used.unpriced_calls
            note = f" and {unknown} call{'s' * (unknown != 1)} of unknown price" if unknown else ""
            return f"${used / NANO:.4f} of ${limit / NANO:.4f}{note}"
        case "wall_ms":
            return f"{used / 60_000:.1f} of {limit / 60_000:.1f} minutes"
        case _:
            return f"{used} of {limit} {dimension}"


def _names(standing: Standing) -> str:
    names: dict[Dimension, str] = {"cost_usd": "cost", "tokens": "tokens", "steps": "steps", "wall_ms": "time"}
    return " and ".join(names[d] for d in standing.reached)


# -- evolve ---------------------------------------------------------------------------------------------------------


def pass_time(state: State, context: Context) -> None:
    """Since the last record the active run was at work, unless it waited for a human or its daemon was dead."""
    run = state.active_run
    passed_ms = context.at_ms - state.updated_at_ms
    is_same_daemon = context.generation == state.generation
    if run is not None and is_same_daemon and status_of(state, run) == "running":
        _use(state, run.run_id, Spent(wall_ms=passed_ms))


def charge(state: State, run_id: str, usage: Usage, cost_usd: float | None, *, steps: int = 0) -> None:
    """What an attempt took: all of it, once."""
    tokens = tokens_of(usage)
    spent = Spent(
        cost_nanousd=round((cost_usd or 0) * NANO),
        tokens=tokens,
        steps=steps,
        unpriced_calls=int(tokens > 0 and cost_usd is None),
    )
    _use(state, run_id, spent)


def _use(state: State, run_id: str, spent: Spent) -> None:
    run = state.runs[run_id]
    state.runs[run_id] = replace(run, used=add(run.used, spent))
    state.used, state.day_used = add(state.used, spent), add(state.day_used, spent)


def begin_day(state: State, day: str) -> None:
    if day != state.day:
        state.day, state.day_used = day, NOTHING
        for account in [a for a in state.budget_notes if a.startswith("day:") and a < f"day:{day}"]:
            del state.budget_notes[account]


def forget_run(state: State, run_id: str) -> None:
    """A note is kept no longer than its run, so that there is room for those of budgets that last."""
    state.budget_notes.pop(run_account(run_id), None)


def on_set(state: State, event: SessionBudgetSet, context: Context) -> None:
    state.budget, state.budget_by, state.raised_before = event.budget, context.principal, event.raised_before
    state.budget_notes.pop(session_account(state.session_id), None)


def on_raised(state: State, account: str, by: Budget) -> None:
    note = state.budget_notes.pop(account, BudgetNote())
    keep_newest(state.budget_notes, account, BudgetNote(raised=plus(note.raised, by)), BUDGET_NOTES_KEPT)


def on_warned(state: State, event: BudgetWarned, context: Context) -> None:
    note = replace(_note(state, event.standing.account), is_warned=True)
    keep_newest(state.budget_notes, event.standing.account, note, BUDGET_NOTES_KEPT)


def on_stopped(state: State, event: BudgetStopped, context: Context) -> None:
    run = state.runs[event.run_id]
    if run.step:
        compaction.enter(state, UserMessage(text=LAST_WORD))
    state.runs[event.run_id] = replace(
        run, stopped=event.standing, calls=(), answered=False, updated_at_ms=context.at_ms
    )
