"""The recovery table, row by row: what was in flight when the daemon died, and what becomes of it."""

from __future__ import annotations

import pytest

from kheish.core.effects import CallModel, EndProcess, RunTool, WakeAt
from kheish.limits import MODEL_DEATHS_MAX
from tests.core.conversation import Conversation
from tests.core.test_machine import ASK, kinds


def test_a_model_call_is_made_again_as_the_next_attempt() -> None:
    talk = Conversation()
    talk.submit("go")
    (before,) = talk.effects()
    assert kinds(talk.die()) == ["session.recovered", "model_call.died", "model_call.started"]
    (after,) = talk.effects()
    assert isinstance(before, CallModel)
    assert isinstance(after, CallModel)
    assert (after.model_call_id, after.attempt) == (before.model_call_id, before.attempt + 1)


def test_a_model_call_that_keeps_killing_the_daemon_fails_its_run() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    for _ in range(MODEL_DEATHS_MAX):
        talk.die()
    assert talk.status(run_id) == "failed"
    assert talk.state.runs[run_id].error_code == "daemon_died"


@pytest.mark.parametrize("request_", [(), (("read_file", {"path": "a"}),)])
def test_a_daemon_that_is_told_to_stop_again_and_again_kills_no_run(
    request_: tuple[tuple[str, dict[str, str]], ...],
) -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    if request_:
        talk.reply("", *request_)
    for _ in range(2 * MODEL_DEATHS_MAX):
        talk.die(was_stopped=True)
    assert talk.status(run_id) == "running" and len(talk.effects()) == 1
    for _ in range(MODEL_DEATHS_MAX):
        assert talk.status(run_id) == "running"
        talk.die()
    assert talk.effects() == [] or not isinstance(talk.effects()[0], RunTool), "deaths count as before"


def test_a_retry_that_was_due_is_still_due() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.fail("overloaded", jitter=0.5)
    (before,) = talk.effects()
    assert talk.die() == []
    assert talk.effects() == [before]
    assert isinstance(before, WakeAt)


def test_a_started_read_runs_again() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("read_file", {"path": "a"}))
    assert kinds(talk.die()) == ["session.recovered", "tool_call.died", "tool_call.started"]
    assert talk.tool_effect().attempt == 2


def test_an_approved_process_behind_its_gate_has_not_started() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    talk.resolve()
    before = talk.tool_effect()
    assert talk.die() == []
    assert talk.tool_effect() == before


def test_a_started_process_that_a_rule_allowed_is_uncertain_and_the_model_checks() -> None:
    talk = Conversation(mode="bypass")
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    talk.start_process(talk.tool_effect())
    assert kinds(talk.die())[:3] == ["session.recovered", "tool_call.became_uncertain", "tool_call.completed"]
    assert "unknown" in talk.messages[-1].text
    (effect,) = talk.effects()
    assert isinstance(effect, EndProcess), "the orphan ends before the model goes on"
    talk.end_process(effect)
    assert isinstance(talk.effects()[0], CallModel)
    assert talk.status(run_id) == "running"


def uncertain() -> tuple[Conversation, str]:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    talk.resolve()
    talk.start_process(talk.tool_effect())
    talk.die()
    (effect,) = talk.effects()
    assert isinstance(effect, EndProcess)
    talk.end_process(effect)
    assert talk.status(run_id) == "waiting_for_approval"
    assert talk.effects() == []
    return talk, run_id


def test_uncertain_retry_runs_it_again() -> None:
    talk, _ = uncertain()
    talk.resolve("retry")
    effect = talk.tool_effect()
    assert effect.attempt == 2
    talk.start_process(effect)
    talk.finish_tool(effect)
    assert isinstance(talk.effects()[0], CallModel)


def test_uncertain_verify_lets_the_model_check() -> None:
    talk, _ = uncertain()
    talk.resolve("verify")
    assert "unknown" in talk.messages[-1].text
    assert not [x for x in talk.effects() if isinstance(x, RunTool)]


def test_uncertain_mark_done_is_a_result() -> None:
    talk, _ = uncertain()
    talk.resolve("mark_done", justification="I looked")
    assert talk.messages[-1].text.endswith("took effect: I looked")
    assert not talk.messages[-1].is_error


def test_uncertain_give_up_fails_the_run() -> None:
    talk, run_id = uncertain()
    talk.resolve("give_up")
    assert talk.status(run_id) == "failed"


def test_waits_survive_with_the_same_id() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}), ("ask_user_question", ASK))
    approvals, questions = dict(talk.state.approvals), dict(talk.state.questions)
    assert talk.die() == []
    assert (talk.state.approvals, talk.state.questions) == (approvals, questions)
    talk.answer()
    talk.resolve("deny")
    assert talk.status(run_id) == "running"
