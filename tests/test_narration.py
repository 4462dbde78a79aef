"""Journal records as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.cli.follower import Follower
from kheish.cli.questions import answer_hint
from kheish.client import AsyncKheish
from kheish.narration import Renderer, call_text


def lines(*events: dict[str, Any]) -> list[str]:
    renderer = Renderer()
    record = {"by": {"principal": "user:1", "origin": "cli"}, "generation": 2, "at_ms": 1000}
    return [text for event in events for text, _ in renderer.lines({**record, "events": [event]})]


REQUESTED = {
    "type": "approval.requested",
    "request_id": "approval_1",
    "tool_call_id": "toolcall_1",
    "tool": "bash",
    "arguments": {"command": "make test"},
}


def test_a_call_shows_what_matters_of_its_arguments() -> None:
    assert call_text("bash", {"command": "make test", "timeout_ms": 5}) == "bash: make test"
    assert call_text("write_file", {"path": "a.txt", "content": "x"}) == "write_file: a.txt"
    assert call_text("other", {"x": 1}) == 'other {"x": 1}'
    assert call_text("bash", {"command": "x" * 300}, 10) == "bash: xxxxxxxxx…"


def test_of_a_long_call_no_more_is_read_than_is_in_sight_and_what_is_left_out_is_marked() -> None:
    far_apart = "rm" + " " * 10_000 + "-rf /"
    assert call_text("bash", {"command": far_apart}, 20) == "bash: rm…"
    assert call_text("bash", {"command": far_apart}, 0) == "bash: rm -rf /"
    assert call_text("other", {"x": "y" * 2_000_000}, 12) == 'other {"x": "yyyy…'


def test_a_second_command_line_is_not_hidden_in_the_first() -> None:
    assert call_text("bash", {"command": "echo hello\nrm -rf ~"}) == "bash: echo hello⏎ rm -rf ~"
    assert call_text("bash", {"command": "echo \x1b[8mhidden"}) == "bash: echo \\x1b[8mhidden"
    assert call_text("bash", {"command": "make test\n"}) == "bash: make test"


def test_what_was_cancelled_in_the_queue_is_not_taken_for_the_run_at_work() -> None:
    one, two = ({"type": "run.submitted", "run_id": f"run_{text}", "text": text} for text in ("one", "two"))
    started = {"type": "run.started", "run_id": "run_one"}
    ends = [{"type": "run.cancelled", "run_id": f"run_{text}", "reason": "enough"} for text in ("two", "one")]
    assert lines(one, started, two, *ends)[2:] == [
        "queued 'two' cancelled by user:1: enough",
        "run cancelled by user:1: enough",
    ]


def test_an_edited_call_is_shown_as_what_ran() -> None:
    resolved = {
        "type": "approval.resolved",
        "request_id": "approval_1",
        "resolution": "allow",
        "principal": "user:1",
        "updated_input": {"command": "make lint"},
    }
    done = {"type": "tool_call.completed", "tool_call_id": "toolcall_1", "output": "10%\rfine"}
    assert lines(REQUESTED, resolved, done) == [
        "waits for approval approval_1: bash: make test",
        "approval_1: allow by user:1 edited to bash: make lint",
        "bash: make lint -> fine",
    ]


def test_a_budget_is_told_with_whose_it_is_and_what_became_of_it() -> None:
    standing = {"account": "run:run_1", "limit": {"steps": 2}, "used": {"steps": 2}, "by": "user:1"}
    asked = {
        "type": "approval.requested",
        "request_id": "approval_2",
        "tool_call_id": "",
        "tool": "budget",
        "arguments": {"budget": "run run_1", "used": "2 of 2 steps", "set by": "user:1"},
        "kind": "budget",
        "standing": standing,
    }
    resolved = {
        "type": "approval.resolved",
        "request_id": "approval_2",
        "resolution": "raise",
        "principal": "user:1",
        "raise_by": {"cost_usd": 0.5, "steps": 3},
    }
    told = lines(
        {"type": "session.budget_set", "budget": {"tokens": 5, "wall_ms": 90_000}},
        {"type": "session.budget_set", "budget": {}},
        {"type": "budget.warned", "run_id": "run_1", "standing": standing},
        asked,
        resolved,
        {"type": "budget.stopped", "run_id": "run_1", "standing": standing},
    )
    assert told == [
        "budget set by user:1: 1.5 minutes, 5 tokens",
        "budget set by user:1: none",
        "most of the budget of run run_1 is used",
        "waits for decision (budget used up) approval_2: budget of run run_1: 2 of 2 steps used",
        "approval_2: raise by user:1 by $0.50, 3 steps",
        "stops: the budget of run run_1 is used up",
    ]


def test_a_summary_is_nothing_that_the_model_said_and_a_compaction_is_told() -> None:
    summary = {"type": "model_call.completed", "model_call_id": "m", "purpose": "summary", "text": "the gist"}
    compacted = {"type": "context.compacted", "messages": 1, "tokens_before": 9_000, "tokens_after": 80}
    started = {"type": "model_call.started", "model_call_id": "modelcall_1", "purpose": "summary"}
    failed = {"type": "model_call.failed", "model_call_id": "modelcall_1", "code": "auth", "message": "no key"}
    assert lines(
        started,
        summary,
        failed,
        {**failed, "model_call_id": "modelcall_2"},
        {**compacted, "reason": "requested", "summary": "the gist"},
        {**compacted, "reason": "window"},
        {"type": "context.compaction_requested"},
        {"type": "model_call.failed", "code": "nothing_to_compact", "message": "it is short"},
    ) == [
        "asks for a summary of what went before",
        "no summary: auth: no key",
        "context compacted, as asked for: 1 message summed up, about 9,000 -> 80 tokens",
        "context compacted, it came near the model's window: 1 message left out, without a summary, "
        "about 9,000 -> 80 tokens",
        "user:1 asked for a compaction before the next model call",
        "no summary: it is short",
    ]


def test_an_answer_is_shown_in_the_words_of_its_options() -> None:
    question = {"id": "1", "question": "Which?", "options": [{"id": "1", "label": "Red"}, {"id": "2", "label": "Blue"}]}
    asked = {"type": "question.requested", "request_id": "question_1", "questions": [question]}
    answered = {
        "type": "question.answered",
        "request_id": "question_1",
        "principal": "user:1",
        "answers": [{"question_id": "1", "selected_option_ids": ["2"], "freeform_answer": "but light"}],
    }
    assert lines(asked, answered) == ["asks question_1: Which?", "question_1: answered by user:1: Blue, but light"]
    # A reader that came later has not seen the question.
    assert lines(answered) == ["question_1: answered by user:1: 2, but light"]


@pytest.mark.parametrize(("retry_at_ms", "said"), [(5_000, "4 s"), (1_250, "0.2 s"), (121_400, "120 s"), (900, "0 s")])
def test_a_retry_says_when_and_why(retry_at_ms: int, said: str) -> None:
    retry = {
        "type": "model_call.retrying",
        "code": "overloaded",
        "message": "529: try\nlater",
        "retry_at_ms": retry_at_ms,
    }
    assert lines(retry) == [f"retrying in {said}: overloaded: 529: try later"]


def test_another_model_of_a_session_says_which_and_by_whom() -> None:
    changed = [{"type": "session.model_changed", "model": model} for model in ("gpt/small", "")]
    assert lines(*changed) == [
        f"its runs take {taken}, set by user:1" for taken in ("gpt/small", "what the daemon does")
    ]


def test_who_pauses_a_queue_or_lets_it_go_on_is_told() -> None:
    assert lines({"type": "queue.paused"}, {"type": "queue.resumed"}) == [
        "user:1 paused the queue",
        "user:1 let the queue go on",
    ]


def test_a_label_is_told_with_its_record_and_who_gave_or_took_it() -> None:
    given = {"type": "record.labelled", "labelled_seq": 42, "label": "the\x1b[8m outage"}
    assert lines(given, {**given, "label": ""}) == [
        "user:1 labelled record 42 'the outage'",
        "user:1 took the label of record 42 away",
    ]


def test_facts_without_interest_have_no_line() -> None:
    assert lines({"type": "model_call.started", "run_id": "run_1"}, {"type": "run.started", "run_id": "run_1"}) == []


def test_the_hint_of_a_question_is_the_command_that_answers_it() -> None:
    choice, words = {"id": "1", "options": [{"id": "1", "label": "a"}]}, {"id": "2", "options": []}
    assert answer_hint({"questions": [choice]}, "q") == "kheish answer q --option N"
    assert answer_hint({"questions": [words]}, "q") == "kheish answer q TEXT"
    assert answer_hint({"questions": [choice, words]}, "q") == "kheish answer q --option 1=N TEXT"


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["pending", "pending"], "0/2 done, next: item 0"),
        (["completed", "in_progress", "pending"], "1/3 done, now: item 1"),
        (["completed", "pending", "in_progress"], "1/3 done, now: item 2"),
        (["completed", "completed"], "2/2 done"),
        ([], ""),
    ],
)
def test_a_plan_is_told_by_how_much_is_done_and_what_is_worked_at(states: list[str], said: str) -> None:
    todos = [{"content": f"item {i}", "status": state} for i, state in enumerate(states)]
    assert call_text("todo_write", {"todos": todos}) == f"todo_write: {said}"


def test_a_plan_that_was_taken_is_one_line() -> None:
    todos = [{"content": "look\x1b[8m", "status": "pending"}]
    request = {"tool_call_id": "t1", "tool": "todo_write", "arguments": {"todos": todos}}
    call = {"tool_call_id": "t1", "attempt": 1}
    assert lines(
        {"type": "model_call.completed", "text": "", "tool_requests": [request]},
        {"type": "tool_call.started", **call},
        {"type": "tool_call.completed", "output": "[ ] look", **call},
    ) == ["plan 0/1 done, next: look"]


def test_what_steered_too_late_is_told_of_where_the_run_ends() -> None:
    steered = {"type": "input.steered", "input_id": "i1", "run_id": "run_1", "text": "left!"}
    passed_on = {"type": "run.submitted", "run_id": "run_2", "text": "left!", "input_id": "i1"}
    over = {"type": "run.cancelled", "run_id": "run_1", "reason": "enough"}
    *_, lost = lines(steered, {**steered, "input_id": "i2"}, {"type": "input.entered", "input_id": "i2"}, over)
    assert lost == "run cancelled by user:1 before it took in 1 input that steered it: enough"
    *_, failed = lines(steered, {"type": "run.failed", "run_id": "run_1", "code": "auth", "message": "no"})
    assert failed == "run failed before it took in 1 input that steered it (auth): no"
    *_, next_, ended = lines(steered, passed_on, over)
    assert next_ == "the run did not take this in; it comes next, as run_2: left!"
    assert ended == "run cancelled by user:1: enough"


def test_who_follows_a_run_is_told_what_it_did_not_take_in(capsys: pytest.CaptureFixture[str]) -> None:
    mine: Any = {"run_id": "run_1", "session_id": "s", "status": "running", "pending_approvals": []}
    follower = Follower(AsyncKheish(), {**mine, "pending_questions": []}, cursor="", as_json=False)
    passed_on = {"type": "run.submitted", "run_id": "run_2", "text": "left!", "input_id": "i1"}
    another = {"type": "run.submitted", "run_id": "run_3", "text": "else"}
    record: Any = {"by": {"principal": "daemon", "origin": "daemon"}, "generation": 1, "at_ms": 1}
    follower._show_record({**record, "events": [passed_on, another]})
    assert capsys.readouterr().err == "the run did not take this in; it comes next, as run_2: left!\n"
