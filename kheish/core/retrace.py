"""Decides again what a journal recorded, record by record, and says where the rules and code of today depart from it.

Each decision starts from the state that the journal had come to, so that one departure does not hide the next. What was
decided about is made again from the events that it led to: model replies, results of tools, human answers, deaths of
the daemon. Nothing acts, and nothing is written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from kheish.core import budgets, chains
from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core.commands import Command, Context, Outside
from kheish.core.contracts import NewContext, Reply, ReplyToolCall
from kheish.core.draft import Settings
from kheish.core.machine import decide, evolve
from kheish.core.outcomes import Outcome
from kheish.core.prompt import RequestDigests, build_request, digest_request
from kheish.core.state import State
from kheish.errors import KheishError

Events = Sequence[e.Event]
Plain = dict[str, Any]
"""An event as JSON."""
How = Literal["changed", "missing", "new", "refused", "request"]

_SELDOM_TELLING = frozenset(("type", "digest", "policy_revision", "cwd"))
_NOT_COMPARED = frozenset(("standing", "reserved", "output_tokens_max"))
"""What there was room for hung on other sessions, too."""
_TELL_OF_BUDGETS = (e.ApprovalRequested, e.BudgetWarned, e.BudgetStopped)
_NO_ID = "0" * 24


class Change(msgspec.Struct, frozen=True):
    field: str
    recorded: Any
    now: Any


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """One event that is decided in another way (`changed`), no more (`missing`) or only now (`new`); a message that is
    refused now (`refused`, `reason` says why); or a model call that is shown something else (`request`)."""

    seq: int
    step: int
    how: How
    event: str
    tool: str = ""
    changes: tuple[Change, ...] = ()
    reason: str = ""


class Retrace:
    """Is shown the records of a session in order, up to the end of one run. `sent` gives the digests of what an
    attempt (`ModelRequest.name`) was really shown, where they are known; `until_step` is the last step to be looked at;
    `made_at` are the records that made those of the rules that this very session made for all, and that hold after."""

    def __init__(
        self,
        run_id: str,
        settings: Settings,
        sent: Callable[[str], RequestDigests | None] = lambda name: None,
        until_step: int = 0,
        made_at: Mapping[e.Rule, int] = {},
    ) -> None:
        self.state = State()
        self.departures: list[Departure] = []
        self.decisions = 0
        self.unknown = 0
        self.requests = 0
        self.is_over = False
        self._run_id = run_id
        self._settings = settings
        self._sent = sent
        self._until_step = until_step
        self._made_at = made_at
        self._tools: dict[str, str] = {}

    def add(self, events: Events, context: Context, seq: int, command: str) -> None:
        """`command` is the tag of the one that was decided; "" for an outcome."""
        concerned = [event for event in events if getattr(event, "run_id", "") == self._run_id]
        began = [event for event in concerned if isinstance(event, e.ModelCallStarted)]
        if self._until_step and any(event.step > self._until_step for event in began):
            self.is_over = True
            return
        self._tools |= _tools_in(msgspec.to_builtins(concerned))
        if concerned:
            self._decide(events, context, seq, command)
        for event in events:
            evolve(self.state, event, context)
            if isinstance(event, e.ModelCallStarted) and event in began:
                self._compare_request(event, seq)
        run = self.state.runs.get(self._run_id)
        self.is_over = run is not None and run.is_terminal

    def _decide(self, events: Events, context: Context, seq: int, command: str) -> None:
        message = message_of(events, command, context)
        if message is None:
            self.unknown += 1
            return
        self.decisions += 1
        revision = _revision(events, self.state)
        rules = tuple(rule for rule in self._settings.rules if self._made_at.get(rule, 0) < seq)
        settings = replace(self._settings, rules=rules, policy_revision=revision, **_taken_along(events))
        outside = _outside(events, context, self.state, settings.session_budget)
        try:
            now = decide(self.state, message, _context(events, context, self.state, outside), settings).events
        except KheishError as error:
            self._depart(seq, "refused", command or _name(message), reason=error.message)
            return
        except Exception as error:  # the code of today, on a state that it does not expect
            self._depart(seq, "refused", command or _name(message), reason=f"{type(error).__name__}: {error}")
            return
        base = _id_base(events)
        unknown = _NOT_COMPARED if revision else _NOT_COMPARED | {"digest"}
        self._compare(_plain(events, base), _plain(now, base), seq, unknown)

    def _compare(self, recorded: list[Plain], now: list[Plain], seq: int, unknown: frozenset[str]) -> None:
        tools = {**self._tools, **_tools_in(recorded)}

        def depart(how: How, event: Plain, changes: Iterable[Change]) -> None:
            tool = event.get("tool") or tools.get(event.get("tool_call_id", ""), "")
            self._depart(seq, how, event["type"], tool, tuple(changes))

        for old in recorded:
            place = next((place for place, new in enumerate(now) if _subject(new) == _subject(old)), None)
            if place is None:
                depart("missing", old, (Change(field, old[field], None) for field in _telling(old)))
                continue
            for new in now[:place]:
                depart("new", new, (Change(field, None, new[field]) for field in _telling(new)))
            new, now = now[place], now[place + 1 :]
            # A part that says nothing, such as a budget without a limit, may be there or be left out.
            fields = [f for f in old | new if f not in unknown and old.get(f, {}) != new.get(f, {})]
            if fields:
                depart("changed", old, (Change(field, old.get(field), new.get(field)) for field in fields))
        for new in now:
            depart("new", new, (Change(field, None, new[field]) for field in _telling(new)))

    def _compare_request(self, event: e.ModelCallStarted, seq: int) -> None:
        if event.purpose != "reply":
            return
        run, shown = self.state.runs[self._run_id], self.state.shown or self.state.entered
        request = build_request(self.state, run, shown, self._settings.tools)
        was = self._sent(request.name)
        if was is None:
            return
        self.requests += 1
        now = digest_request(request)
        changes = [Change("system", was.system, now.system)] if was.system != now.system else []
        changes += [
            Change(f"tool {name}", was.tools.get(name), now.tools.get(name))
            for name in was.tools | now.tools
            if was.tools.get(name) != now.tools.get(name)
        ]
        if was.messages != now.messages:
            pairs = zip_longest(was.messages, now.messages)
            changes.append(
                next(Change(f"message {n}", old, new) for n, (old, new) in enumerate(pairs, 1) if old != new)
            )
        if changes:
            self._depart(seq, "request", _name(event), changes=tuple(changes))

    def _depart(
        self, seq: int, how: How, event: str, tool: str = "", changes: tuple[Change, ...] = (), reason: str = ""
    ) -> None:
        run = self.state.runs.get(self._run_id)
        step = run.step if run else 0
        self.departures.append(
            Departure(seq=seq, step=step, how=how, event=event, tool=tool, changes=changes, reason=reason)
        )


# -- what was decided about -----------------------------------------------------------------------------------------


def message_of(events: Events, command: str, context: Context) -> Command | Outcome | None:
    """None where the journal does not tell it."""
    if command:
        make = FROM_COMMANDS.get(command)
        return make(events) if make else None
    make_outcome = FROM_OUTCOMES.get(type(events[0]))
    outcome = make_outcome(events[0], context) if make_outcome else None
    compacted = _first(events, e.ContextCompacted)
    if compacted and isinstance(outcome, o.ModelReplied | o.ModelFailed):
        shown = NewContext(shown=compacted.shown, left_out=compacted.messages, summary=compacted.summary)
        return replace(outcome, context=shown)
    return outcome


def _first(events: Events, *types: type[e.Event]) -> Any:
    return next((event for event in events if isinstance(event, types)), None)


def _submit(events: Events) -> Command | None:
    match _first(events, e.RunSubmitted, e.InputSteered):
        case e.RunSubmitted() as made:
            return c.SubmitRun(
                text=made.text,
                route=made.route,
                model=made.model,
                delivery="interrupt" if made.first else "queue",
                kind=made.kind,
                attachments=made.attachments,
                metadata=made.metadata,
                hops=made.hops,
                window_tokens=made.window_tokens,
                pinned=made.pinned,
                budget=None if made.budget_by == budgets.CONFIG else made.budget,
                on_budget=made.on_budget,
                rates=made.rates,
            )
        case e.InputSteered() as made:
            return c.SubmitRun(
                text=made.text, route="", model="", delivery="steer", attachments=made.attachments, pinned=made.pinned
            )
    return None


def _resolve(events: Events) -> Command:
    return c.ResolveApprovals(
        resolutions=tuple(
            c.ApprovalResolution(
                request_id=event.request_id,
                resolution=event.resolution,
                remember=event.remember,
                rule=event.rule.pattern if event.rule else "",
                updated_input=event.updated_input,
                raise_by=event.raise_by,
                justification=event.justification,
            )
            for event in events
            if isinstance(event, e.ApprovalResolved)
        )
    )


def _answer(events: Events) -> Command:
    given = _first(events, e.QuestionAnswered)
    return c.AnswerQuestion(
        request_id=given.request_id,
        answers=given.answers,
        declined=given.declined,
        justification=given.justification,
    )


def _recover(events: Events) -> Command:
    noted = _first(events, e.SessionRecovered)
    if noted is None:
        return c.Recover()
    broken_off = _first(events, e.ModelCallDied, e.ToolCallDied)
    return c.Recover(
        tail_bytes_dropped=noted.tail_bytes_dropped,
        tail_file=noted.tail_file,
        was_stopped=broken_off is not None and broken_off.was_stopped,
    )


FROM_COMMANDS: dict[str, Callable[[Events], Command | None]] = {
    "submit_run": _submit,
    "edit_run": lambda events: c.EditRun(
        run_id=_first(events, e.RunEdited).run_id, text=_first(events, e.RunEdited).text
    ),
    "move_run": lambda events: c.MoveRun(
        run_id=_first(events, e.RunMoved).run_id, position=_first(events, e.RunMoved).position
    ),
    "withdraw_run": lambda events: c.WithdrawRun(run_id=_first(events, e.RunCancelled).run_id),
    "pause_queue": lambda events: c.PauseQueue(),
    "resume_queue": lambda events: c.ResumeQueue(),
    "cancel_run": lambda events: c.CancelRun(
        run_id=_first(events, e.RunCancelled).run_id, reason=_first(events, e.RunCancelled).reason
    ),
    "interrupt_session": lambda events: c.InterruptSession(reason=_first(events, e.RunInterrupted).reason),
    "end_session": lambda events: c.EndSession(reason=_first(events, e.SessionEnded).reason),
    "resolve_approvals": _resolve,
    "answer_question": _answer,
    "recover": _recover,
    "compact_context": lambda events: c.CompactContext(),
    "set_budget": lambda events: c.SetBudget(budget=_first(events, e.SessionBudgetSet).budget),
}


def _replied(event: e.ModelCallCompleted, context: Context) -> Outcome:
    return o.ModelReplied(
        run_id=event.run_id,
        model_call_id=event.model_call_id,
        attempt=event.attempt,
        reply=Reply(
            text=event.text,
            stop_reason=event.stop_reason,
            tool_calls=tuple(
                ReplyToolCall(
                    provider_id=request.provider_id,
                    tool=request.tool,
                    arguments=request.arguments,
                    malformed=request.malformed,
                )
                for request in event.tool_requests
            ),
            usage=event.usage,
            reasoning=event.reasoning,
            model=event.model,
            provider_state=event.provider_state,
            request_id=event.request_id,
        ),
        first_ms=event.first_ms,
        duration_ms=event.duration_ms,
        cost_usd=event.cost_usd,
    )


def _retrying(event: e.ModelCallRetrying, context: Context) -> Outcome:
    return o.ModelFailed(
        run_id=event.run_id,
        model_call_id=event.model_call_id,
        attempt=event.attempt,
        code=event.code,
        message=event.message,
        retry_after_ms=event.retry_at_ms - context.at_ms,
        has_output=event.discarded,
        request_id=event.request_id,
        duration_ms=event.duration_ms,
        usage=event.usage,
        cost_usd=event.cost_usd,
    )


def _failed(event: e.ModelCallFailed, context: Context) -> Outcome | None:
    if event.code == "invalid_reply":
        return None  # it was a reply, and is not in the journal
    return o.ModelFailed(
        run_id=event.run_id,
        model_call_id=event.model_call_id,
        attempt=event.attempt,
        code=event.code,
        message=event.message,
        request_id=event.request_id,
        duration_ms=event.duration_ms,
        usage=event.usage,
        cost_usd=event.cost_usd,
    )


def _started(event: e.ToolCallStarted, context: Context) -> Outcome | None:
    if event.process is None:
        return None
    return o.ToolProcessMade(run_id=event.run_id, tool_call_id=event.tool_call_id, process=event.process)


FROM_OUTCOMES: dict[type[e.Event], Callable[[Any, Context], Outcome | None]] = {
    e.ModelCallCompleted: _replied,
    e.ModelCallRetrying: _retrying,
    e.ModelCallFailed: _failed,
    e.ModelCallStarted: lambda event, context: o.RetryDue(
        run_id=event.run_id, model_call_id=event.model_call_id, attempt=event.attempt - 1
    ),
    e.ToolCallStarted: _started,
    e.ToolCallCompleted: lambda event, context: o.ToolFinished(
        run_id=event.run_id,
        tool_call_id=event.tool_call_id,
        output=event.output,
        is_error=event.is_error,
        output_bytes=event.output_bytes,
        blob=event.blob,
        metadata=event.metadata,
    ),
    e.ApprovalWithdrawn: lambda event, context: o.BudgetMoved(),
    e.ProcessEnded: lambda event, context: o.ProcessGone(
        tool_call_id=event.tool_call_id, pid=event.pid, killed=event.killed
    ),
}
"""By the first event that an outcome leads to."""


# -- what it was decided with ---------------------------------------------------------------------------------------


def _context(events: Events, context: Context, state: State, outside: tuple[Outside, ...]) -> Context:
    """As it was, with what the events tell of it."""
    return replace(
        context,
        id_base=f"{_id_base(events)}00",
        is_operator=context.principal.startswith("user:"),
        body_digest=next((digest for event in events if (digest := getattr(event, "body_digest", ""))), ""),
        cooling=_cooling(events, state),
        day=next((event.day for event in events if isinstance(event, e.ModelCallStarted)), ""),
        outside=outside,
    )


def _cooling(events: Events, state: State) -> tuple[e.Cooling, ...]:
    """What the call that began knew of its hops. One that waited where it could have gone on had no other to go to."""
    began = [event for event in events if isinstance(event, e.ModelCallStarted)]
    if began:
        return began[-1].cooling
    waits = _first(events, e.ModelCallRetrying)
    if waits is None:
        return ()
    return tuple(
        e.Cooling(route=hop.route, model=hop.model, code=(hop.on or chains.MAY_PASS)[0], until_ms=waits.retry_at_ms)
        for hop in state.runs[waits.run_id].chain
    )


def _outside(events: Events, context: Context, state: State, session_budget: e.Budget) -> tuple[Outside, ...]:
    """What others had used of the budgets that were told of, and raised them by: all that the session does not know."""
    told = [event for event in events if isinstance(event, _TELL_OF_BUDGETS) and event.standing]
    after = state.fork()
    for event in events if told else ():
        evolve(after, event, context)
    warned = {event.standing.account for event in told if isinstance(event, e.BudgetWarned)}
    found: dict[str, Outside] = {}
    for event in told:
        standing, run = event.standing, after.runs[event.run_id]
        assert standing is not None
        account = standing.account
        own = {
            budgets.run_account(run.run_id): e.NO_BUDGET,
            budgets.session_account(after.session_id): after.raised_before,
        }
        other = Outside(account=account, limit=None if account in own else standing.limit, by=standing.by)
        known = [s for s in budgets.standings(after, run, session_budget, (other,)) if s.account == account]
        if not known:
            continue
        limit, used = known[0].limit, known[0].used
        found[account] = replace(
            other,
            used=budgets.add(standing.used, used, -1),
            raised=budgets.plus(budgets.minus(standing.limit, limit), own.get(account, e.NO_BUDGET)),
            raised_before=budgets.minus(limit, standing.limit),
            is_warned=account not in warned,
        )
    if made := _first(events, e.SessionBudgetSet):
        account = budgets.session_account(after.session_id)
        found.setdefault(account, Outside(account=account, raised=made.raised_before))
    return tuple(found.values())


def _taken_along(events: Events) -> dict[str, Any]:
    """What a run takes along of the daemon's settings is recorded with it, and none of today's."""
    taken: dict[str, Any] = {}
    for event in events:
        if isinstance(event, e.RunSubmitted):
            taken["system_prompt"] = event.system_prompt
            taken["run_budget"] = event.budget if event.budget_by == budgets.CONFIG else e.NO_BUDGET
        elif isinstance(event, e.RunStarted):
            taken["tool_limits"] = event.tool_limits
    return taken


def _revision(events: Events, state: State) -> str:
    """The policy under which something was asked, in this decision or before; "" where nothing tells."""
    asked = _first(events, e.ApprovalRequested)
    waiting = next(iter(state.approvals.values()), None)
    return asked.policy_revision if asked else waiting.policy_revision if waiting else ""


def _id_base(events: Events) -> str:
    """The ids of a decision begin alike: with what it was given to make them of."""
    for event in events:
        match event:
            case e.RunSubmitted(run_id=made) | e.InputSteered(input_id=made):
                pass
            case e.ModelCallStarted(model_call_id=made, attempt=1):
                pass
            case e.ModelCallCompleted(tool_requests=requests) if requests:
                made = requests[0].tool_call_id
            case e.ApprovalRequested(request_id=made) | e.QuestionRequested(request_id=made):
                pass
            case _:
                continue
        return made.partition("_")[2][:-2]
    return _NO_ID


def _plain(events: Events, base: str) -> list[Plain]:
    """Events as they are compared: the ids that the decision made are numbered, each noun for itself."""
    numbered: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        noun = match[1]
        return numbered.setdefault(match[0], f"{noun} {sum(id_.startswith(noun) for id_ in numbered) + 1}")

    text = msgspec.json.encode(list(events)).decode()
    found: list[Plain] = json.loads(re.sub(rf"\b([a-z]+)_{base}..\b", number, text))
    return found


def _tools_in(events: list[Plain]) -> dict[str, str]:
    return {call["tool_call_id"]: call["tool"] for event in events for call in event.get("tool_requests", ())}


def _name(what: Command | Outcome | e.Event) -> str:
    return str(what.__struct_config__.tag)


def _subject(event: Plain) -> tuple[str, str]:
    """What two events have in common that are the same one, decided twice."""
    return event["type"], event.get("tool_call_id", "")


def _telling(event: Plain) -> list[str]:
    return [field for field in event if field not in _SELDOM_TELLING and not field.endswith(("_id", "_ms"))]
