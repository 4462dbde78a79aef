"""A journal that is decided again by the code that wrote it departs nowhere; every change of code and rules shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core import retrace
from kheish.core.codec import decode_events, encode_events
from kheish.core.draft import Settings
from kheish.core.machine import COMMANDS, OUTCOMES
from kheish.core.prompt import RequestDigests
from kheish.core.retrace import Change, Departure, Retrace
from kheish.errors import KheishError
from kheish.limits import MODEL_DEATHS_MAX
from tests.core.conversation import SETTINGS, Conversation, rule
from tests.core.test_machine import ASK
from tests.core.test_properties import INPUTS, MODES, QUICK, REPLIES
from tests.core.world import Reply, World


class Told(Conversation):
    """Also notes the command of each record, as the journal does."""

    def __init__(self, **fields: Any) -> None:
        self.commands: list[str] = []
        super().__init__(**fields)

    def send(self, message: c.Command | o.Outcome, **fields: Any) -> list[e.Event]:
        before = len(self.journal)
        events = super().send(message, **fields)
        is_command = isinstance(message, c.Command)
        self.commands += [str(message.__struct_config__.tag) if is_command else ""] * (len(self.journal) - before)
        return events

    def retraced(self, run_id: str = "", settings: Settings = SETTINGS, **fields: Any) -> Retrace:
        made = Retrace(run_id or next(iter(self.state.runs)), settings, **fields)
        for seq, ((raw, context), command) in enumerate(zip(self.journal, self.commands, strict=True), 1):
            if made.is_over:
                break
            stored = c.Context(
                at_ms=context.at_ms,
                id_base="",
                generation=context.generation,
                principal=context.principal,
                origin=context.origin,
                key=context.key,
            )
            made.add(decode_events(raw), stored, seq, command)
        return made

    def change(self, type_: type[e.Event], **fields: Any) -> None:
        """As if another version had written the journal."""
        for place, (raw, context) in enumerate(self.journal):
            events = [replace(event, **fields) if isinstance(event, type_) else event for event in decode_events(raw)]
            self.journal[place] = (encode_events(events), context)


def talk(*calls: tuple[str, dict[str, Any]], **fields: Any) -> tuple[Told, World]:
    """A run whose first reply asks for these calls, and whose second ends it."""
    told = Told(**fields)
    told.submit("go")
    world = World(told, [("", calls), ("done", ())] if calls else [("done", ())])
    return told, world


def departures(told: Told, **fields: Any) -> list[Departure]:
    return told.retraced(**fields).departures


@QUICK
@given(MODES, INPUTS, REPLIES, st.lists(st.integers(0, 9), max_size=25))
def test_by_the_code_that_wrote_it_a_life_departs_nowhere(
    mode: str, inputs: list[str], replies: list[Reply], choices: list[int]
) -> None:
    """Any commands, answers, failures and deaths."""
    told = Told(mode=mode)
    world = World(told, replies)
    for number, delivery in enumerate(inputs):
        told.submit(f"input {number}", delivery=delivery, key=f"k{number}", body_digest="d")
    for choice in choices:
        try:
            act(told, world, choice)
        except (KheishError, StopIteration):
            pass
    world.settle()
    for run_id in told.state.runs:
        made = told.retraced(run_id)
        assert (made.departures, made.unknown, made.is_over) == ([], 0, True)
        assert made.decisions


def test_a_budget_without_a_limit_is_none() -> None:
    told, world = talk()
    told.change(e.RunSubmitted, budget=e.Budget())  # written as `{}`; NO_BUDGET is left out
    world.settle()
    assert b'"budget":{}' in told.journal[0][0] + told.journal[1][0]
    assert departures(told) == []


def act(told: Told, world: World, choice: int) -> None:
    match choice:
        case 0:
            told.submit("more", delivery="steer")
        case 1:
            told.submit("instead", delivery="interrupt")
        case 2:
            told.send(c.InterruptSession())
        case 3 if told.state.queue:
            told.send(c.EditRun(run_id=told.state.queue[0], text="changed"))
        case 4 if told.state.queue:
            told.send(c.WithdrawRun(run_id=told.state.queue[-1]))
        case 5:
            told.die()
        case 6:
            told.fail("overloaded", jitter=0.5)
        case 7:
            told.fail("auth")
        case 8 if told.state.approvals:
            told.resolve("deny", justification="no")
        case _:
            world.step()


def test_a_chain_that_fails_over_departs_nowhere() -> None:
    hops = tuple(e.Hop(route=route, model="m") for route in ("a", "b", "c"))
    told = Told()
    told.submit("go", hops=hops, route="a")
    told.fail("overloaded")
    told.cooling = tuple(e.Cooling(route=hop.route, model="m", code="overloaded", until_ms=9_000) for hop in hops)
    told.fail("rate_limited", jitter=0.9)
    told.wake()
    told.fail("timeout", has_output=True)
    told.wake()
    told.reply("done")
    made = told.retraced()
    assert (made.departures, made.unknown, made.is_over) == ([], 0, True)


def test_an_approval_that_was_edited_and_one_that_was_remembered_depart_nowhere() -> None:
    told, world = talk(("bash", {"command": "make *"}), ("write_file", {"path": "a", "content": "x"}))
    world.step()
    told.resolve("allow", updated_input={"command": "make all"})
    told.resolve("allow", remember="session", rule="write_file(*)")
    world.settle()
    assert departures(told) == []


def test_the_rules_of_another_daemon_life_depart_nowhere() -> None:
    told, world = talk(("bash", {"command": "make"}))
    world.step()
    told.settings = replace(told.settings, policy_revision="p2")
    told.die()
    world.settle()
    assert departures(told) == []


def test_every_life_and_death_of_an_unsafe_call_departs_nowhere() -> None:
    told, world = talk(("bash", {"command": "make"}))
    for _ in range(3):
        world.step()
    told.die()
    assert any(approval.kind == "uncertain" for approval in told.state.approvals.values())
    world.settle()
    assert departures(told) == []


def test_a_model_call_whose_daemon_was_told_to_stop_many_times_departs_nowhere() -> None:
    told, world = talk()
    for _ in range(MODEL_DEATHS_MAX + 1):
        told.die(was_stopped=True)
    world.settle()
    assert departures(told) == []


# -- what departs ---------------------------------------------------------------------------------------------------


def test_another_rule_is_another_decision_and_an_approval_that_is_not_asked_for() -> None:
    told, world = talk(("bash", {"command": "make"}))
    world.settle()
    laxer = replace(SETTINGS, rules=(rule("bash", scope="user"), *SETTINGS.rules))
    decided, asked = departures(told, settings=laxer)
    assert (decided.how, decided.event, decided.tool, decided.step) == ("changed", "tool_call.decided", "bash", 1)
    assert Change("behavior", "ask", "allow") in decided.changes
    assert (asked.how, asked.event, asked.tool) == ("missing", "approval.requested", "bash")


def test_a_rule_that_the_run_itself_led_to_holds_only_after_it() -> None:
    made = rule("bash(make)", scope="user")
    told = Told()
    told.submit("go")
    world = World(told, [("", (("bash", {"command": "make"}),)), ("", (("bash", {"command": "make"}),)), ("", ())])
    world.step()
    told.resolve("allow", remember="always")
    told.settings = replace(SETTINGS, rules=(made, *SETTINGS.rules))
    seq = len(told.journal)
    world.settle()
    assert departures(told, settings=told.settings, made_at={made: seq}) == []
    assert [d.event for d in departures(told, settings=told.settings)] == ["tool_call.decided", "approval.requested"]


def test_a_call_that_is_denied_now_is_answered_at_once_and_cannot_be_allowed() -> None:
    told, world = talk(("bash", {"command": "make"}))
    world.settle()
    stricter = replace(SETTINGS, rules=(rule("bash", "deny", "user"), *SETTINGS.rules))
    found = departures(told, settings=stricter)
    assert [(departure.how, departure.event) for departure in found] == [
        ("changed", "tool_call.decided"),
        ("missing", "approval.requested"),
        ("new", "tool_call.completed"),
        ("new", "model_call.started"),
        ("refused", "resolve_approvals"),
    ]
    assert [departure.tool for departure in found] == ["bash", "bash", "bash", "", ""]
    assert "denies it" in found[-1].reason
    assert Change("is_error", None, True) in found[2].changes


def test_a_tool_that_is_gone_departs_where_it_was_asked_for() -> None:
    told, world = talk(("read_file", {"path": "a"}))
    world.settle()
    without = replace(SETTINGS, tools={name: spec for name, spec in SETTINGS.tools.items() if name != "read_file"})
    found = departures(told, settings=without)
    assert ("missing", "tool_call.decided", "read_file") in [(d.how, d.event, d.tool) for d in found]
    said = next(change.now for d in found for change in d.changes if change.field == "output")
    assert said == "There is no tool named 'read_file'."


@pytest.mark.parametrize(
    ("type_", "field", "value"),
    [
        (e.ModelCallStarted, "reason", "cooling"),
        (e.ToolCallDecided, "rule", "other"),
        (e.ApprovalRequested, "reason", "other"),
        (e.ApprovalRequested, "digest", "other"),
        (e.QuestionRequested, "questions", ()),
        (e.RunCompleted, "at_ms", 1),
    ],
)
def test_what_the_journal_tells_otherwise_is_named_by_its_field(type_: type[e.Event], field: str, value: Any) -> None:
    told, world = talk(("bash", {"command": "make"}), ("ask_user_question", ASK))
    world.settle()
    told.change(type_, **{field: value})
    name = str(type_.__struct_config__.tag)
    assert (name, field) in [(d.event, change.field) for d in departures(told) for change in d.changes]


def test_an_event_of_a_later_record_is_told_with_its_tool() -> None:
    told, world = talk(("bash", {"command": "make"}))
    world.settle()
    told.change(e.ToolCallCompleted, attempt=7)
    assert [(d.event, d.tool) for d in departures(told)] == [("tool_call.completed", "bash")]


def test_code_that_breaks_on_what_was_recorded_departs(monkeypatch: pytest.MonkeyPatch) -> None:
    told, world = talk()
    world.settle()

    def broken(*given: Any) -> None:
        raise KeyError("x")

    monkeypatch.setitem(OUTCOMES, o.ModelReplied, broken)
    (departure,) = departures(told)
    assert (departure.how, departure.event, departure.reason) == ("refused", "model_replied", "KeyError: 'x'")


def test_what_comes_only_now_is_told_where_it_comes() -> None:
    told, world = talk(("read_file", {"path": "a"}))
    world.settle()
    for place, (raw, context) in enumerate(told.journal):
        events = [event for event in decode_events(raw) if not isinstance(event, e.ToolCallDecided)]
        told.journal[place] = (encode_events(events), context)
    (departure,) = departures(told)
    assert (departure.how, departure.event, departure.tool) == ("new", "tool_call.decided", "read_file")
    assert Change("behavior", None, "allow") in departure.changes


def test_another_end_departs() -> None:
    told, world = talk()
    world.settle()
    last, context = told.journal[-1]
    run_id = next(iter(told.state.runs))
    failed = e.RunFailed(run_id=run_id, at_ms=context.at_ms, code="server_error", message="no")
    told.journal[-1] = (encode_events([*decode_events(last)[:-1], failed]), context)
    assert [(d.how, d.event) for d in departures(told)] == [("missing", "run.failed"), ("new", "run.completed")]


def test_what_the_model_is_shown_otherwise_is_named_part_by_part() -> None:
    told, world = talk(("read_file", {"path": "a"}))
    world.settle()
    shown: dict[str, RequestDigests] = {}

    class Noted(Retrace):
        def _compare_request(self, event: e.ModelCallStarted, seq: int) -> None:
            run = self.state.runs[event.run_id]
            request = retrace.build_request(self.state, run, self.state.entered, SETTINGS.tools)
            shown[request.name] = retrace.digest_request(request)

    noted = Noted(next(iter(told.state.runs)), SETTINGS)
    for seq, ((raw, context), command) in enumerate(zip(told.journal, told.commands, strict=True), 1):
        noted.add(decode_events(raw), context, seq, command)
    made = told.retraced(sent=shown.get)
    assert (made.departures, made.requests) == ([], 2)
    first = shown["1.1"]
    shown["1.1"] = replace(first, system="other", tools={**first.tools, "bash": "other"}, messages=[])
    (departure,) = departures(told, sent=shown.get)
    assert (departure.how, departure.event, departure.step) == ("request", "model_call.started", 1)
    assert [change.field for change in departure.changes] == ["system", "tool bash", "message 1"]


def test_it_goes_on_from_what_was_recorded_and_stops_after_the_last_step_that_is_asked_for() -> None:
    told, world = talk(("read_file", {"path": "a"}))
    world.settle()
    told.change(e.ModelCallStarted, reason="cooling")
    assert [d.step for d in departures(told)] == [0, 1]
    made = told.retraced(until_step=1)
    assert ([d.step for d in made.departures], made.is_over) == ([0], True)


def test_a_reply_that_is_not_in_the_journal_is_counted_and_passed_over() -> None:
    told, _ = talk()
    effect = told.effects()[0]
    reply = retrace.Reply(text="x" * 2_000_000, stop_reason="end")
    told.send(o.ModelReplied(run_id=effect.run_id, model_call_id=effect.model_call_id, attempt=1, reply=reply))  # type: ignore[union-attr]
    made = told.retraced()
    assert (made.departures, made.unknown, made.decisions) == ([], 1, 1)


def test_every_command_of_a_run_and_every_outcome_can_be_made_again() -> None:
    of_sessions = {"create_session", "set_mode", "rename_session", "label_record", "add_rule", "set_model"}
    assert {str(command.__struct_config__.tag) for command in COMMANDS} == set(retrace.FROM_COMMANDS) | of_sessions
    assert len(retrace.FROM_OUTCOMES) == len(OUTCOMES) + 1, "a failure leads to a retry or to an end"
