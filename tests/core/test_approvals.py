"""Decisions in a session: the rule in the journal, approvals bound to what would run, rules that a human makes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core.codec import call_digest
from kheish.core.effects import RunTool
from kheish.core.events import Mode, Rule
from kheish.core.permissions import (
    DEFAULT_RULES,
    exact_rule,
)
from kheish.errors import Conflict, Forbidden, Invalid, NotFound
from tests.core.conversation import SETTINGS, Conversation, rule
from tests.core.test_machine import ASK, kinds

# -- in a session ---------------------------------------------------------------------------------------------------


def asking(*calls: str, mode: Mode = "default", settings: Any = SETTINGS) -> Conversation:
    """A session whose model asked for these commands."""
    talk = Conversation(mode=mode, settings=settings)
    talk.submit("go")
    talk.reply("", *(("bash", {"command": text}) for text in calls))
    return talk


def under(*rules: Rule, revision: str = "p2") -> Any:
    return replace(SETTINGS, rules=(*rules, *DEFAULT_RULES), policy_revision=revision)


def only(events: list[e.Event], type_: type[e.Event]) -> Any:
    (found,) = [event for event in events if isinstance(event, type_)]
    return found


@pytest.mark.parametrize(
    ("rules", "mode", "behavior", "decider", "scope", "reason"),
    [
        ((), "default", "ask", "bash", "default", ""),
        ((rule("bash(make *)", "allow", "user"),), "default", "allow", "bash(make *)", "user", ""),
        ((rule("bash(make *)", "allow", "user"),), "plan", "deny", "bash(make *)", "user", "plan mode"),
        ((rule("b*", "deny", "project"),), "bypass", "deny", "b*", "project", ""),
        ((), "bypass", "allow", "bash", "default", "bypass mode"),
    ],
)
def test_the_journal_has_the_rule_that_decided(
    rules: tuple[Rule, ...], mode: Mode, behavior: str, decider: str, scope: str, reason: str
) -> None:
    talk = Conversation(mode=mode, settings=under(*rules))
    talk.submit("go")
    decided = only(talk.reply("", ("bash", {"command": "make all"})), e.ToolCallDecided)
    assert (decided.behavior, decided.rule, decided.rule_scope, decided.mode) == (behavior, decider, scope, mode)
    assert decided.reason.startswith(reason) and bool(decided.reason) == bool(reason)
    assert decided.digest == call_digest("bash", {"command": "make all"}, "/work", "p2")


def test_a_denied_call_is_answered_with_the_rule() -> None:
    talk = asking("make", settings=under(rule("bash(make*)", "deny", "user")))
    assert talk.messages[-1].text == "Permission denied: the rule bash(make*) (user) denies it."
    assert not talk.state.approvals


def test_rules_of_the_session_are_nearer_than_those_of_the_daemon() -> None:
    talk = Conversation(settings=under(rule("bash(make*)", "ask", "user")))
    talk.send(c.AddRule(rule=rule("bash", "allow", "user")))
    assert talk.state.rules == [rule("bash", "allow", "session")], "whatever scope was claimed"
    talk.submit("go")
    assert only(talk.reply("", ("bash", {"command": "make"})), e.ToolCallDecided).behavior == "allow"
    assert talk.send(c.AddRule(rule=rule("bash"))) == [], "the same rule is no news"
    with pytest.raises(Invalid):
        talk.send(c.AddRule(rule=rule("bash(")))


def test_rules_know_the_workspace_of_the_session() -> None:
    talk = Conversation(settings=under(rule("read_file(secrets/*)", "deny", "user")))
    talk.submit("go")
    talk.reply("", ("read_file", {"path": f"{talk.state.cwd}/secrets/key"}))
    assert "Permission denied" in talk.messages[-1].text


def test_only_an_operator_chooses_a_mode_at_the_beginning() -> None:
    talk = Conversation()
    talk.state = type(talk.state)()
    with pytest.raises(Forbidden):
        talk.send(c.CreateSession(session_id="s", cwd="/work", mode="bypass"), is_operator=False)
    assert talk.send(c.CreateSession(session_id="s", cwd="/work"), is_operator=False)


@pytest.mark.parametrize("resolution", ["allow", "deny"])
def test_only_an_operator_resolves_an_approval(resolution: Any) -> None:
    talk = asking("make")
    item = c.ApprovalResolution(request_id=next(iter(talk.state.approvals)), resolution=resolution)
    with pytest.raises(Forbidden) as caught:
        talk.send(c.ResolveApprovals(resolutions=(item,)), is_operator=False, principal="run:run_1")
    assert caught.value.code == "operator_required" and "run:run_1" in caught.value.message


def test_an_approval_is_bound_to_what_would_run() -> None:
    talk = asking("make")
    (approval,) = talk.state.approvals.values()
    assert approval.digest == call_digest("bash", {"command": "make"}, "/work", "p1")
    for other in (
        call_digest("bash", {"command": "make "}, "/work", "p1"),
        call_digest("bash", {"command": "make"}, "/elsewhere", "p1"),
        call_digest("bash", {"command": "make"}, "/work", "p2"),
        call_digest("sh", {"command": "make"}, "/work", "p1"),
    ):
        assert other != approval.digest
        with pytest.raises(Conflict) as caught:
            talk.resolve(if_digest=other)
        assert caught.value.code == "approval_digest_mismatch"
    talk.resolve(if_digest=approval.digest[:6])
    assert not talk.state.approvals


def test_an_edit_makes_a_new_digest_and_is_checked() -> None:
    talk = asking("make", settings=under(rule("bash(rm *)", "deny", "user"), revision="p1"))
    with pytest.raises(Invalid, match="unknown argument 'bad'"):
        talk.resolve(updated_input={"bad": 1})
    with pytest.raises(Conflict, match=r"the rule bash\(rm \*\) \(user\) denies them") as caught:
        talk.resolve(updated_input={"command": "rm x"})
    assert caught.value.code == "edit_denied"
    with pytest.raises(Invalid, match="will not run"):
        talk.resolve("deny", updated_input={"command": "ls"})
    resolved = only(talk.resolve(updated_input={"command": "ls"}), e.ApprovalResolved)
    assert resolved.updated_input == {"command": "ls"}
    assert resolved.digest == call_digest("bash", {"command": "ls"}, "/work", "p1")
    (call,) = talk.state.runs[resolved.run_id].calls
    assert (call.arguments, call.digest) == ({"command": "ls"}, resolved.digest)


def test_a_human_may_edit_in_a_mode_that_asks_nothing_of_them() -> None:
    """What a mode denies, a person may still say; what a rule denies, not."""
    talk = asking("make")
    talk.send(c.SetMode(mode="dont_ask"))
    talk.resolve(updated_input={"command": "make -n"})
    assert not talk.state.approvals


def test_a_rule_that_came_to_deny_a_call_stands_above_a_yes() -> None:
    talk = asking("make")
    talk.send(c.AddRule(rule=rule("bash(make*)", "deny")))
    with pytest.raises(Conflict, match=r"the rule bash\(make\*\) \(session\) denies it") as caught:
        talk.resolve()
    assert caught.value.code == "approval_denied"
    talk.resolve("deny")
    assert talk.messages[-1].text == "A human denied this call."


@pytest.mark.parametrize("remember", ["session", "always"])
@pytest.mark.parametrize("resolution", ["allow", "deny"])
def test_remembering_makes_exactly_the_shown_rule(remember: Any, resolution: Any) -> None:
    text = r"grep -E '(a|b)*\.c' ; x"
    talk = asking(text)
    shown = exact_rule("bash", text, resolution, "user" if remember == "always" else "session")
    assert only(talk.resolve(resolution, remember=remember), e.ApprovalResolved).rule == shown
    (settled,) = talk.state.settled.values()
    if remember == "session":
        assert (talk.state.rules, settled.rule) == ([shown], None)
    else:
        assert (talk.state.rules, settled.rule) == ([], shown), "the daemon keeps it, and may take it back"


def test_remembering_a_path_makes_a_rule_that_knows_it_again() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("write_file", {"path": "./src//../a"}))
    talk.resolve(remember="session")
    assert talk.state.rules == [rule("write_file(a)")]
    talk.finish_tool(talk.tool_effect())
    talk.reply("", ("write_file", {"path": f"{talk.state.cwd}/a"}), ("write_file", {"path": "b"}))
    assert [approval.arguments for approval in talk.state.approvals.values()] == [{"path": "b"}]


def test_a_wider_rule_must_match_the_call_that_it_is_made_for() -> None:
    talk = asking("make all")
    for wrong, said in (("bash(git *)", "does not match"), ("bash(", "cannot read"), ("read_file", "does not match")):
        with pytest.raises(Invalid, match=said):
            talk.resolve(remember="always", rule=wrong)
    with pytest.raises(Invalid, match="say session or always"):
        talk.resolve(rule="bash(make *)")
    talk.resolve(remember="always", rule="bash(make *)")
    (settled,) = talk.state.settled.values()
    assert settled.rule == rule("bash(make *)", "allow", "user")


def test_a_wider_rule_is_no_way_around_the_ban_on_chains() -> None:
    talk = asking("make; rm x")
    with pytest.raises(Invalid, match="does not match"):
        talk.resolve(remember="session", rule="bash(make*)")


def test_a_batch_may_not_name_an_approval_twice() -> None:
    talk = asking("make")
    (request_id,) = talk.state.approvals
    items = tuple(c.ApprovalResolution(request_id=request_id, resolution=r) for r in ("allow", "deny"))
    with pytest.raises(Conflict) as caught:
        talk.send(c.ResolveApprovals(resolutions=items))  # type: ignore[arg-type]
    assert caught.value.code == "approval_state_conflict"
    assert list(talk.state.approvals) == [request_id]


def test_a_batch_that_gives_up_first_settles_nothing() -> None:
    """Giving one up fails the run and withdraws the other, which can then not be allowed."""
    talk = asking("a", "b")
    for _ in range(2):
        talk.resolve()
        talk.start_process(next(x for x in talk.effects() if talk_phase(talk, x) == "allowed"))
    talk.die()
    first, second = talk.state.approvals
    items = (
        c.ApprovalResolution(request_id=first, resolution="give_up"),
        c.ApprovalResolution(request_id=second, resolution="mark_done"),
    )
    with pytest.raises(Conflict):
        talk.send(c.ResolveApprovals(resolutions=items))
    assert list(talk.state.approvals) == [first, second]
    talk.send(c.ResolveApprovals(resolutions=tuple(reversed(items))))
    assert not talk.state.approvals


def talk_phase(talk: Conversation, effect: Any) -> str:
    run = talk.state.active_run
    assert run is not None
    return next(call.phase for call in run.calls if call.tool_call_id == effect.tool_call_id)


def test_an_empty_batch_and_a_mixed_one_are_refused() -> None:
    talk = asking("make")
    with pytest.raises(Invalid):
        talk.send(c.ResolveApprovals(resolutions=()))
    with pytest.raises(Invalid, match="choose one of allow, deny"):
        talk.resolve("mark_done")
    with pytest.raises(NotFound):
        talk.resolve(request_id="approval_none")


# -- another policy -------------------------------------------------------------------------------------------------


def test_under_other_rules_a_restart_asks_again() -> None:
    talk = asking("make")
    (before,) = talk.state.approvals.values()
    talk.settings = under(rule("bash(make*)", "ask", "user"))
    assert kinds(talk.die()) == ["approval.withdrawn", "approval.requested"]
    (after,) = talk.state.approvals.values()
    assert after.request_id != before.request_id
    assert (after.tool, after.arguments, after.rule) == ("bash", {"command": "make"}, "bash(make*)")
    assert after.digest == call_digest("bash", {"command": "make"}, "/work", "p2") != before.digest
    with pytest.raises(Conflict, match="withdrawn") as caught:
        talk.resolve(request_id=before.request_id)
    assert caught.value.code == "approval_state_conflict"
    talk.resolve(if_digest=after.digest)
    (call,) = talk.state.runs[after.run_id].calls
    assert (call.phase, call.digest) == ("allowed", after.digest)


def test_under_the_same_rules_a_restart_asks_nothing_again() -> None:
    talk = asking("make")
    before = dict(talk.state.approvals)
    talk.settings = replace(under(rule("bash(ls)", "allow", "user")), policy_revision="p1")
    assert talk.die() == []
    assert talk.state.approvals == before


def test_under_rules_that_deny_it_a_restart_denies_the_call() -> None:
    talk = asking("make")
    talk.settings = under(rule("bash(make*)", "deny", "user"))
    events = talk.die()
    assert kinds(events)[:3] == ["approval.withdrawn", "tool_call.decided", "tool_call.completed"]
    decided = only(events, e.ToolCallDecided)
    assert (decided.behavior, decided.rule, decided.rule_scope) == ("deny", "bash(make*)", "user")
    assert talk.messages[-1].text == "Permission denied: the rule bash(make*) (user) denies it."
    assert talk.state.active_run is not None and talk.state.active_run.model_call is not None


def test_under_rules_that_allow_it_a_restart_still_asks() -> None:
    talk = asking("make")
    talk.settings = under(rule("bash", "allow", "user"))
    talk.die()
    (approval,) = talk.state.approvals.values()
    assert approval.rule == "bash" and approval.policy_revision == "p2"


def test_a_call_of_unknown_outcome_is_asked_about_whatever_the_rules_became() -> None:
    talk = asking("make")
    talk.resolve()
    talk.start_process(talk.tool_effect())
    talk.die()
    (before,) = talk.state.approvals.values()
    talk.settings = under(rule("bash", "deny", "user"))
    talk.die()
    (after,) = talk.state.approvals.values()
    assert (after.kind, after.reason, after.rule) == ("uncertain", before.reason, "")
    with pytest.raises(Conflict) as caught:
        talk.resolve("retry")
    assert caught.value.code == "approval_denied"
    talk.resolve("mark_done")


def test_what_was_asked_under_other_rules_cannot_be_answered() -> None:
    talk = asking("make")
    talk.settings = under(revision="p2")
    with pytest.raises(Conflict) as caught:
        talk.resolve()
    assert caught.value.code == "approval_policy_changed"


def test_a_question_that_a_rule_asks_for_is_put_after_the_approval() -> None:
    talk = Conversation(settings=under(rule("ask_user_question", "ask", "user"), revision="p1"))
    run_id = talk.submit("go")
    talk.reply("", ("ask_user_question", ASK))
    assert talk.status(run_id) == "waiting_for_approval" and not talk.state.questions
    talk.resolve()
    assert talk.status(run_id) == "waiting_for_user_question"
    talk.answer()
    assert talk.status(run_id) == "running"


# -- what a human says with it --------------------------------------------------------------------------------------


def test_what_a_human_says_when_allowing_is_told_after_the_results_as_their_own_word() -> None:
    talk = asking("make", "make install")
    events = talk.resolve(justification="use the staging host")
    said = only(events, e.InputSteered)
    assert said.text == "About your call of bash (1 of 2): use the staging host"
    talk.resolve(justification="  ")
    for effect in talk.effects():
        assert isinstance(effect, RunTool)
        talk.start_process(effect)
        talk.finish_tool(effect)
    *_, first, second, told = talk.messages
    assert all(isinstance(message, e.ToolMessage) and message.text == "ok" for message in (first, second))
    assert told == e.UserMessage(text=said.text), "and nothing of a blank"


def test_what_a_human_says_of_several_calls_is_said_once() -> None:
    talk = asking("make", "make check", "make install")
    first, *others = (c.ApprovalResolution(request_id=id_, resolution="allow") for id_ in talk.state.approvals)
    batch = [replace(first, justification="alone"), *(replace(other, justification="read them") for other in others)]
    events = talk.send(c.ResolveApprovals(resolutions=tuple(batch)))
    assert [event.text for event in events if isinstance(event, e.InputSteered)] == [
        "About your call of bash (1 of 3): alone",
        "About your call of bash (2 of 3), your call of bash (3 of 3): read them",
    ]


def test_what_a_human_says_with_a_key_is_said_once() -> None:
    talk = asking("make")
    (request_id,) = talk.state.approvals
    item = c.ApprovalResolution(request_id=request_id, resolution="allow", justification="gently")
    command = c.ResolveApprovals(resolutions=(item,))
    first = talk.send(command, key="k", body_digest="d")
    assert only(first, e.InputSteered).text == "About your call of bash: gently"
    assert talk.send(command, key="k", body_digest="d") == []


@pytest.mark.parametrize("resolution", ["retry", "verify", "mark_done", "give_up"])
def test_what_a_human_says_of_an_unknown_outcome_reaches_whoever_goes_on_with_it(resolution: Any) -> None:
    talk = asking("make")
    talk.resolve()
    talk.start_process(talk.tool_effect())
    talk.die()
    events = talk.resolve(resolution, justification="I saw it")
    assert any(isinstance(event, e.InputSteered) for event in events) == (resolution in ("retry", "verify"))
    (run,) = talk.state.runs.values()
    told = [message.text for message in talk.messages] + [run.error_message]
    assert sum("I saw it" in text for text in told) + len(run.steered) == 1
