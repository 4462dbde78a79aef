"""The session machine as a conversation: when a command or outcome, then events or a refusal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kheish.core import commands as c
from kheish.core import events as e
from kheish.core import outcomes as o
from kheish.core.contracts import Reply, ReplyToolCall
from kheish.core.effects import CallModel, EndProcess, RunTool, WakeAt
from kheish.core.state import State
from kheish.errors import Conflict, Forbidden, Invalid, NotFound
from kheish.limits import INPUT_CHARS_MAX, PASSED_ON_BYTES_MAX, QUEUED_RUNS_MAX, RECORD_LABELS_MAX
from tests.core.conversation import SETTINGS, Conversation

ASK = {"questions": [{"question": "Which?", "options": [{"label": "A"}, {"label": "B"}]}]}


def kinds(events: list[e.Event]) -> list[str]:
    return [str(event.__struct_config__.tag) for event in events]


def test_a_run_without_tools_completes() -> None:
    talk = Conversation()
    run_id = talk.submit("hello")
    assert talk.status(run_id) == "running"
    assert kinds(talk.reply("hi")) == ["model_call.completed", "run.completed"]
    assert talk.status(run_id) == "completed"
    assert talk.state.runs[run_id].output == "hi"
    assert talk.effects() == []


def test_runs_queue_in_order_and_one_is_active() -> None:
    talk = Conversation()
    first, second, third = talk.submit("1"), talk.submit("2"), talk.submit("3")
    assert [talk.status(r) for r in (first, second, third)] == ["running", "queued", "queued"]
    talk.reply("one")
    assert talk.status(second) == "running"
    assert talk.state.queue == [third]


def test_interrupting_input_takes_the_place_of_the_active_run() -> None:
    talk = Conversation()
    first, waiting = talk.submit("1"), talk.submit("2")
    urgent = talk.submit("now", delivery="interrupt")
    assert talk.status(first) == "interrupted"
    assert talk.status(urgent) == "running"
    assert talk.status(waiting) == "queued"


def test_steered_input_enters_between_results_and_the_next_model_call() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("read_file", {"path": "a"}))
    assert talk.submit("also b", delivery="steer") == run_id
    roles = [type(m).__name__ for m in talk.messages]
    assert roles == ["UserMessage", "AssistantMessage"], "never between a call and its result"
    talk.finish_tool(talk.tool_effect())
    roles = [type(m).__name__ for m in talk.messages]
    assert roles == ["UserMessage", "AssistantMessage", "ToolMessage", "UserMessage"]
    talk.reply("done")
    assert talk.status(run_id) == "completed"


def test_input_steered_during_the_last_reply_is_answered_too() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.submit("wait, also this", delivery="steer")
    assert talk.status(run_id) == "running"
    talk.reply("first")
    assert talk.status(run_id) == "running"
    talk.reply("second")
    assert talk.status(run_id) == "completed"


def test_results_enter_the_transcript_in_the_order_of_the_requests() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("read_file", {"path": "a"}), ("read_file", {"path": "b"}))
    first, second = [x for x in talk.effects() if isinstance(x, RunTool)]
    talk.finish_tool(second, "B")
    talk.finish_tool(first, "A")
    assert [m.text for m in talk.messages if hasattr(m, "tool_call_id")] == ["A", "B"]


def test_an_approved_process_starts_once_its_process_is_known() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    assert talk.status(run_id) == "waiting_for_approval"
    assert talk.effects() == []
    talk.resolve()
    effect = talk.tool_effect()
    assert talk.state.runs[run_id].calls[0].phase == "allowed"
    assert kinds(talk.start_process(effect)) == ["tool_call.started"]
    assert talk.tool_effect() == effect, "the same attempt goes on"
    talk.finish_tool(effect)
    assert isinstance(talk.effects()[0], CallModel)


def test_a_denied_call_tells_the_model_why() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "rm -rf /"}))
    talk.resolve("deny", justification="not here")
    assert talk.messages[-1].text == "A human denied this call: not here"


def test_edited_arguments_make_a_new_digest_and_run() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    before = next(iter(talk.state.approvals.values())).digest
    talk.resolve(updated_input={"command": "make -n"})
    call = talk.state.runs[run_id].calls[0]
    assert call.arguments == {"command": "make -n"}
    assert call.digest != before


def test_a_wrong_digest_resolves_nothing() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}))
    with pytest.raises(Conflict) as refusal:
        talk.resolve(if_digest="0" * 64)
    assert refusal.value.code == "approval_digest_mismatch"
    assert talk.state.approvals


def test_a_batch_with_one_stale_id_resolves_nothing() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "a"}), ("bash", {"command": "b"}))
    first, second = talk.state.approvals
    item = c.ApprovalResolution(request_id=first, resolution="allow")
    with pytest.raises(NotFound):
        talk.send(
            c.ResolveApprovals(resolutions=(item, c.ApprovalResolution(request_id="approval_x", resolution="allow")))
        )
    assert list(talk.state.approvals) == [first, second]


def test_a_second_answer_learns_of_the_first() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "a"}))
    request_id = next(iter(talk.state.approvals))
    talk.resolve()
    with pytest.raises(Conflict) as refusal:
        talk.resolve("deny", request_id=request_id)
    assert refusal.value.details["how"] == "allow"


def test_a_run_may_not_decide_for_a_human() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "a"}), ("ask_user_question", ASK))
    item = c.ApprovalResolution(request_id=next(iter(talk.state.approvals)), resolution="allow")
    for command in (
        c.ResolveApprovals(resolutions=(item,)),
        c.AnswerQuestion(request_id=next(iter(talk.state.questions)), declined=True),
        c.SetMode(mode="bypass"),
        c.AddRule(rule=e.Rule(pattern="bash", behavior="allow")),
    ):
        with pytest.raises(Forbidden):
            talk.send(command, principal="run:x", is_operator=False)


def test_allow_for_the_session_makes_the_exact_rule() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "make *"}))
    talk.resolve(remember="session")
    assert talk.state.rules == [e.Rule(pattern=r"bash(make \*)", behavior="allow", scope="session")]
    talk.start_process(talk.tool_effect())
    talk.finish_tool(talk.tool_effect())
    talk.reply("", ("bash", {"command": "make *"}), ("bash", {"command": "make all"}))
    assert [a.arguments["command"] for a in talk.state.approvals.values()] == ["make all"]


def test_where_nobody_is_to_be_asked_a_question_does_not_wait_for_ever() -> None:
    talk = Conversation(mode="dont_ask")
    run_id = talk.submit("go")
    talk.reply("", ("ask_user_question", ASK))
    assert not talk.state.questions
    assert "asks nobody" in talk.messages[-1].text
    talk.reply("I decided myself.")
    assert talk.status(run_id) == "completed"


def test_a_question_waits_and_its_answer_reaches_the_model() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("ask_user_question", ASK))
    assert talk.status(run_id) == "waiting_for_user_question"
    pending = next(iter(talk.state.questions.values()))
    talk.send(
        c.AnswerQuestion(
            request_id=pending.request_id, answers=(e.Answer(question_id="1", selected_option_ids=("2",)),)
        )
    )
    assert talk.messages[-1].text == "Which?\n-> B"
    assert talk.status(run_id) == "running"


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ((), "question_answer_missing"),
        ((e.Answer(question_id="9", freeform_answer="x"),), "question_unknown_answer"),
        ((e.Answer(question_id="1", selected_option_ids=("7",)),), "question_option_not_found"),
        ((e.Answer(question_id="1", selected_option_ids=("1", "2")),), "question_single_select_violation"),
        ((e.Answer(question_id="1", selected_option_ids=("1", "1")),), "question_duplicate_option"),
        ((e.Answer(question_id="1"),), "question_answer_empty"),
        ((e.Answer(question_id="1", freeform_answer="x"),) * 2, "question_duplicate_answer"),
    ],
)
def test_bad_answers_are_refused_with_a_code(answers: tuple[e.Answer, ...], code: str) -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("ask_user_question", ASK))
    with pytest.raises(Invalid) as refusal:
        talk.send(c.AnswerQuestion(request_id=next(iter(talk.state.questions)), answers=answers))
    assert refusal.value.code == code
    assert talk.state.questions


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('{"path": "a", "content": "' + "x" * 9_000, "they end in the middle, after 9026 characters"),
        ("{path: a}", "not a JSON object: {path: a}"),
        ("[" * 100_000 + "]" * 100_000, "not a JSON object: [[["),
    ],
)
def test_a_model_is_told_why_arguments_cannot_be_read(raw: str, told: str) -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    (effect,) = talk.effects()
    assert isinstance(effect, CallModel)
    call = ReplyToolCall(provider_id="p", tool="write_file", arguments={}, malformed=raw)
    reply = Reply(text="", stop_reason="tool_use", tool_calls=(call,))
    talk.send(o.ModelReplied(run_id=run_id, model_call_id=effect.model_call_id, attempt=1, reply=reply))
    answer = talk.messages[-1]
    assert isinstance(answer, e.ToolMessage) and answer.is_error and told in answer.text and len(answer.text) < 800


@pytest.mark.parametrize("call", [("nothing", {}), ("bash", {"bad": 1})])
def test_an_impossible_call_is_answered_not_asked(call: tuple[str, dict[str, object]]) -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", call)
    assert not talk.state.approvals
    assert talk.messages[-1].is_error


def test_retries_back_off_and_end() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    delays = []
    for _ in range(4):
        talk.fail("overloaded", jitter=0.999)
        (wake,) = talk.effects()
        assert isinstance(wake, WakeAt)
        delays.append(wake.at_ms - talk.clock)
        talk.send(o.RetryDue(run_id=wake.run_id, model_call_id=wake.model_call_id, attempt=wake.attempt))
    assert delays == sorted(delays)
    talk.fail("overloaded")
    assert talk.status(run_id) == "failed"
    assert talk.state.runs[run_id].error_code == "overloaded"


def test_retry_after_is_obeyed() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.fail("rate_limited", retry_after_ms=7_000)
    (wake,) = talk.effects()
    assert isinstance(wake, WakeAt)
    assert wake.at_ms - talk.clock == 7_000


def test_what_is_not_retryable_fails_at_once() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.fail("auth")
    assert talk.status(run_id) == "failed"


def test_cancel_withdraws_waits_and_closes_the_transcript() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", ("bash", {"command": "a"}), ("ask_user_question", ASK), ("read_file", {"path": "a"}))
    talk.send(c.CancelRun(run_id=run_id))
    assert talk.status(run_id) == "cancelled"
    assert not talk.state.approvals
    assert not talk.state.questions
    assert [type(m).__name__ for m in talk.messages[-3:]] == ["ToolMessage"] * 3
    assert talk.send(c.CancelRun(run_id=run_id)) == [], "cancelling again is no news"


def test_a_cancelled_process_is_ended_before_anything_else_begins() -> None:
    talk = Conversation(mode="bypass")
    run_id = talk.submit("go")
    talk.submit("next")
    talk.reply("", ("bash", {"command": "sleep"}))
    talk.start_process(talk.tool_effect())
    talk.send(c.CancelRun(run_id=run_id))
    (effect,) = talk.effects()
    assert isinstance(effect, EndProcess)
    talk.end_process(effect)
    assert isinstance(talk.effects()[0], CallModel)


def test_late_outcomes_change_nothing() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    (call,) = talk.effects()
    assert isinstance(call, CallModel)
    talk.send(c.CancelRun(run_id=run_id))
    late = o.ModelReplied(
        run_id=run_id, model_call_id=call.model_call_id, attempt=1, reply=Reply(text="x", stop_reason="end")
    )
    assert talk.send(late) == []


def test_the_same_key_has_the_same_answer() -> None:
    talk = Conversation()
    first = talk.submit("go", key="k", body_digest="d")
    assert talk.submit("go", key="k", body_digest="d") == first
    assert len(talk.state.runs) == 1
    with pytest.raises(Conflict) as refusal:
        talk.submit("other", key="k", body_digest="e")
    assert refusal.value.code == "idempotency_conflict"


def test_queued_input_can_be_edited_and_withdrawn() -> None:
    talk = Conversation()
    active, queued = talk.submit("1"), talk.submit("2")
    talk.send(c.EditRun(run_id=queued, text="two"))
    assert talk.state.runs[queued].text == "two"
    with pytest.raises(Conflict):
        talk.send(c.EditRun(run_id=active, text="one"))
    talk.send(c.WithdrawRun(run_id=queued))
    assert talk.state.queue == [] and talk.status(queued) == "cancelled"
    assert talk.send(c.WithdrawRun(run_id=queued)) == [], "once is enough"


def test_a_queued_input_is_edited_to_nothing_that_could_not_be_submitted() -> None:
    talk = Conversation()
    talk.submit("1")
    queued = talk.submit("2")
    attached = talk.submit("3", attachments=(e.Attachment(name="a", media_type="text/plain", text="a"),))
    for text in (" ", "x" * (INPUT_CHARS_MAX + 1)):
        with pytest.raises(Invalid, match="cannot edit"):
            talk.send(c.EditRun(run_id=queued, text=text))
    talk.send(c.EditRun(run_id=attached, text=""))
    assert (talk.state.runs[queued].text, talk.state.runs[attached].text) == ("2", "")


def test_an_input_that_has_just_started_is_not_withdrawn() -> None:
    talk = Conversation()
    talk.submit("1")
    queued = talk.submit("2")
    talk.reply("done")
    with pytest.raises(Conflict, match="it has started"):
        talk.send(c.WithdrawRun(run_id=queued))
    assert talk.status(queued) == "running"


def test_queued_inputs_change_places() -> None:
    talk = Conversation()
    active, *queued = [talk.submit(str(i)) for i in range(4)]
    talk.send(c.MoveRun(run_id=queued[2], position=1))
    assert talk.state.queue == [queued[2], queued[0], queued[1]]
    talk.send(c.MoveRun(run_id=queued[2], position=99))
    assert talk.state.queue == queued
    with pytest.raises(Conflict):
        talk.send(c.MoveRun(run_id=active, position=1))


def test_nothing_of_a_paused_queue_starts_and_the_active_run_goes_on() -> None:
    talk = Conversation()
    active, queued = talk.submit("1"), talk.submit("2")
    talk.send(c.PauseQueue())
    assert talk.send(c.PauseQueue()) == []
    talk.reply("done")
    assert (talk.status(active), talk.status(queued), talk.state.active) == ("completed", "queued", "")
    talk.send(c.Recover())
    assert talk.state.active == "", "nor after a restart"
    talk.send(c.ResumeQueue())
    assert talk.state.active == queued and talk.send(c.ResumeQueue()) == []


def test_what_a_human_interrupts_with_does_not_wait_for_the_queue_that_they_paused() -> None:
    talk = Conversation()
    active, queued = talk.submit("1"), talk.submit("2")
    talk.send(c.PauseQueue())
    now = talk.submit("now", delivery="interrupt")
    assert (talk.status(active), talk.state.active, talk.state.queue) == ("interrupted", now, [queued])
    talk.reply("done")
    assert talk.state.active == "" and talk.state.queue_paused, "the queue behind it stays as it was"
    assert talk.submit("now too", delivery="interrupt") == talk.state.active
    by_a_run = talk.submit("a child's", delivery="interrupt", principal="run:x", is_operator=False)
    assert (talk.state.active, talk.state.queue) == ("", [by_a_run, queued]), "no run goes past a human's pause"


def test_only_an_operator_pauses_a_queue_of_a_session_that_is_not_over() -> None:
    talk = Conversation()
    talk.submit("1")
    for command in (c.PauseQueue(), c.ResumeQueue()):
        with pytest.raises(Forbidden):
            talk.send(command, principal="run:x", is_operator=False)
    talk.send(c.EndSession())
    with pytest.raises(Conflict) as refusal:
        talk.send(c.PauseQueue())
    assert refusal.value.code == "session_ended"


def test_a_session_has_the_title_that_it_was_given_last() -> None:
    talk = Conversation()
    talk.send(c.RenameSession(title="The outage"))
    assert talk.state.title == "The outage"


def test_a_record_has_the_label_that_it_was_given_last_on_one_line() -> None:
    talk = Conversation()
    talk.send(c.LabelRecord(seq=1, label="the start"))
    talk.send(c.LabelRecord(seq=9, label="before\n  the outage "))
    talk.send(c.LabelRecord(seq=1, label="where it began"))
    assert talk.state.labels == {1: "where it began", 9: "before the outage"}
    assert talk.send(c.LabelRecord(seq=1, label="where it began")) == []


def test_an_empty_label_takes_away_the_one_that_a_record_has() -> None:
    talk = Conversation()
    talk.send(c.LabelRecord(seq=1, label="the start"))
    talk.send(c.LabelRecord(seq=1, label=" "))
    assert talk.state.labels == {}
    assert talk.send(c.LabelRecord(seq=1, label="")) == []


def test_labels_are_bounded_and_those_that_are_there_can_still_be_changed() -> None:
    talk = Conversation()
    for seq in range(1, RECORD_LABELS_MAX + 1):
        talk.send(c.LabelRecord(seq=seq, label="x"))
    with pytest.raises(Conflict) as refusal:
        talk.send(c.LabelRecord(seq=RECORD_LABELS_MAX + 1, label="x"))
    assert refusal.value.code == "too_many_labels"
    talk.send(c.LabelRecord(seq=1, label="y"))
    talk.send(c.LabelRecord(seq=2, label=""))
    talk.send(c.LabelRecord(seq=RECORD_LABELS_MAX + 1, label="x"))
    assert len(talk.state.labels) == RECORD_LABELS_MAX and talk.state.labels[1] == "y"


def test_a_label_is_in_the_state_that_follows_and_not_in_the_one_before() -> None:
    talk = Conversation()
    before = talk.state
    talk.send(c.LabelRecord(seq=1, label="x"))
    assert before.labels == {}


def test_an_ended_session_takes_no_input() -> None:
    talk = Conversation()
    run_id, queued = talk.submit("1"), talk.submit("2")
    talk.send(c.EndSession(reason="done"))
    assert {talk.status(run_id), talk.status(queued)} == {"interrupted"}
    with pytest.raises(Conflict) as refusal:
        talk.submit("more")
    assert refusal.value.code == "session_ended"


def test_creating_again_is_idempotent_and_another_directory_is_a_conflict() -> None:
    talk = Conversation()
    assert talk.send(c.CreateSession(session_id="s", cwd="/work")) == []
    with pytest.raises(Conflict):
        talk.send(c.CreateSession(session_id="s", cwd="/other"))


def test_a_fork_shares_no_container() -> None:
    state = State()
    fork = state.fork()
    for name in State.__struct_fields__:
        if isinstance(getattr(state, name), list | dict):
            assert getattr(fork, name) is not getattr(state, name), name


# -- what steers too late ---------------------------------------------------------------------------------------------


def test_what_steers_a_run_that_fails_before_it_takes_it_in_comes_next_in_order() -> None:
    talk = Conversation()
    run_id, queued = talk.submit("go", budget=e.Budget(steps=9), rates=(None,)), talk.submit("later")
    talk.submit("first", delivery="steer", principal="user:7", is_operator=False, pinned=True)
    talk.submit("second", delivery="steer")
    events = talk.fail("auth")
    assert talk.status(run_id) == "failed"
    first, second = talk.state.runs[talk.state.active], talk.state.runs[talk.state.queue[0]]
    assert [first.text, second.text, talk.state.queue[1:]] == ["first", "second", [queued]]
    assert (first.principal, first.origin, first.pinned) == ("user:7", "test", True)
    assert (first.route, first.model, first.budget) == ("r", "m", e.Budget(steps=9))
    assert kinds(events)[:4] == ["model_call.failed", "run.submitted", "run.submitted", "run.failed"]


@pytest.mark.parametrize(
    ("given", "default", "expected"),
    [
        (e.Budget(steps=9), e.Budget(), (e.Budget(steps=9), "user:1")),
        (e.Budget(steps=99), e.Budget(steps=9), (e.Budget(steps=9), "config.toml")),
        (e.Budget(steps=9), e.Budget(steps=99), (e.Budget(steps=9), "user:1")),
        (None, e.Budget(steps=9), (e.Budget(steps=9), "config.toml")),
        (None, e.Budget(), (e.Budget(), "")),
    ],
)
def test_who_steers_gets_no_more_than_the_run_and_the_daemon_allow(
    given: e.Budget | None, default: e.Budget, expected: tuple[e.Budget, str]
) -> None:
    talk = Conversation(settings=replace(SETTINGS, run_budget=default))
    talk.submit("go", budget=given)
    talk.submit("and then?", delivery="steer", is_operator=False)
    talk.fail("auth")
    assert talk.state.active_run is not None
    assert (talk.state.active_run.budget, talk.state.active_run.budget_by) == expected


def test_what_steers_a_last_word_comes_next() -> None:
    talk = Conversation()
    run_id = talk.submit("go", budget=e.Budget(steps=1), on_budget="stop")
    talk.reply("", ("read_file", {"path": "a"}))
    talk.finish_tool(talk.tool_effect())
    talk.submit("and then?", delivery="steer")
    talk.reply("that is how far I came")
    assert talk.status(run_id) == "failed"
    assert talk.state.active_run is not None and talk.state.active_run.text == "and then?"


def test_what_steers_the_last_step_that_a_run_may_have_comes_next() -> None:
    talk = Conversation(settings=replace(SETTINGS, steps_max=1))
    run_id = talk.submit("go")
    talk.submit("and then?", delivery="steer")
    talk.reply("done")
    assert talk.status(run_id) == "completed"
    assert talk.state.active_run is not None and talk.state.active_run.text == "and then?"


@pytest.mark.parametrize("stop", [c.InterruptSession(), c.EndSession()])
def test_what_steers_a_run_that_is_stopped_on_purpose_is_dropped(stop: c.Command) -> None:
    talk = Conversation()
    talk.submit("go")
    talk.submit("faster", delivery="steer")
    talk.send(stop)
    assert len(talk.state.runs) == 1 and not talk.state.active


def test_what_steers_a_run_without_a_language_model_is_never_taken_for_a_command() -> None:
    talk = Conversation()
    talk.submit("make", window_tokens=-1)
    talk.submit("rm -r is what I fear", delivery="steer")
    talk.fail("invalid")
    assert len(talk.state.runs) == 1


def test_nothing_comes_between_a_command_and_the_run_that_was_submitted_for_it() -> None:
    talk = Conversation(settings=replace(SETTINGS, session_budget=e.Budget(steps=1)))
    talk.submit("hello")
    talk.reply("hi")
    run_id = talk.submit("make", window_tokens=-1)
    assert talk.status(run_id) == "waiting_for_approval", "for more of the session's budget"
    talk.submit("rm -r is what I fear", delivery="steer")
    talk.resolve("raise", raise_by=e.Budget(steps=5))
    assert talk.messages[-1] == e.UserMessage(text="make")
    talk.reply("", ("read_file", {"path": "a"}))
    talk.finish_tool(talk.tool_effect())
    assert talk.messages[-1] == e.UserMessage(text="rm -r is what I fear")


def test_what_is_said_with_a_decision_is_no_input_of_another_run() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", ("bash", {"command": "make"}), ("bash", {"command": "make check"}))
    talk.resolve(justification="gently")
    talk.start_process(talk.tool_effect())
    talk.resolve()
    talk.die()
    talk.resolve("give_up")
    assert len(talk.state.runs) == 1


def test_a_key_that_steered_names_the_run_that_it_steered_also_after_that() -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.submit("faster", delivery="steer", key="k", body_digest="d")
    talk.fail("auth")
    assert talk.submit("faster", delivery="steer", key="k", body_digest="d") == run_id


def test_inputs_that_wait_for_a_run_count_with_those_that_wait_for_their_turn() -> None:
    talk = Conversation()
    talk.submit("go")
    for number in range(QUEUED_RUNS_MAX):
        talk.submit(str(number), delivery=("queue", "steer")[number % 2])
    for delivery in ("queue", "steer"):
        with pytest.raises(Conflict, match="256 inputs that wait"):
            talk.submit("one more", delivery=delivery)


def test_no_more_comes_next_than_the_record_of_the_end_can_hold() -> None:
    talk = Conversation()
    talk.submit("go")
    for _ in range(3):
        talk.submit("x" * (PASSED_ON_BYTES_MAX // 2 - 200), delivery="steer")
    talk.fail("auth")
    assert len(talk.state.runs) == 3 and len(talk.state.queue) == 1
