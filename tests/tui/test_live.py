"""What the screens show, folded from records."""

from __future__ import annotations

from typing import Any

import pytest

from kheish.terminal import clean
from kheish.tui.live import Asked, Board, Call, Conversation, Note, Reply, Said, Spending, duration
from kheish.tui.words import spent_text

Event = dict[str, Any]

CREATED = {"type": "session.created", "session_id": "s", "cwd": "/w", "created_at_ms": 1}
STARTED = {"type": "run.started", "run_id": "run_1", "at_ms": 10}
CALL = {"type": "model_call.started", "run_id": "run_1", "model_call_id": "m1", "step": 1, "attempt": 1, "at_ms": 11}
REQUESTED = {
    "type": "approval.requested", "request_id": "approval_1", "run_id": "run_1", "tool_call_id": "t1", "tool": "bash",
    "arguments": {"command": "make"}, "cwd": "/w", "digest": "d", "policy_revision": "p", "requested_at_ms": 30,
    "rule": "bash",
}  # fmt: skip
ASKED = {
    "type": "question.requested", "request_id": "question_1", "run_id": "run_1", "tool_call_id": "t2",
    "requested_at_ms": 40,
    "questions": [{"id": "q", "header": "h", "question": "Which?", "options": [{"id": "o1", "label": "Left"}]}],
}  # fmt: skip


def submitted(run_id: str = "run_1", text: str = "go", **more: Any) -> Event:
    return {"type": "run.submitted", "run_id": run_id, "text": text, "submitted_at_ms": 5, "route": "r", "model": "m",
            **more}  # fmt: skip


def reply(text: str = "", *requests: tuple[str, str, dict[str, Any]], **more: Any) -> Event:
    return {
        "type": "model_call.completed", "run_id": "run_1", "model_call_id": "m1", "attempt": 1, "at_ms": 20,
        "text": text, "stop_reason": "end",
        "tool_requests": [{"tool_call_id": id_, "provider_id": "x", "tool": tool, "arguments": arguments}
                          for id_, tool, arguments in requests],
        **more,
    }  # fmt: skip


def of_call(what: str, tool_call_id: str = "t1", **more: Any) -> Event:
    return {"type": f"tool_call.{what}", "run_id": "run_1", "tool_call_id": tool_call_id, "attempt": 1, "at_ms": 50,
            **more}  # fmt: skip


def over(how: str, run_id: str = "run_1", **more: Any) -> Event:
    return {"type": f"run.{how}", "run_id": run_id, "at_ms": 90, **more}


class Told:
    """A conversation and a board that are told the same."""

    def __init__(self) -> None:
        self.talk = Conversation("s")
        self.board = Board()
        self.seq = 0
        self.tell(CREATED)

    def tell(self, *events: Event, by: str = "user:0", origin: str = "cli", at_ms: int | None = None) -> None:
        self.seq += 1
        record: Any = {
            "session_id": "s", "seq": self.seq, "at_ms": self.seq * 10 if at_ms is None else at_ms, "generation": 1,
            "position": self.seq, "by": {"principal": by, "origin": origin}, "events": list(events),
        }  # fmt: skip
        self.talk.apply(record)
        self.board.apply(record)

    def hear(self, kind: str, text: str, **more: Any) -> None:
        delta: Any = {"session_id": "s", "run_id": "run_1", "kind": kind, "text": text, **more}
        self.talk.hear(delta)

    @property
    def row(self) -> Any:
        return self.board.rows["s"]

    def kinds(self) -> list[str]:
        return [type(entry).__name__ for entry in self.talk.entries]


@pytest.fixture
def told() -> Told:
    told = Told()
    told.tell(submitted(), STARTED, CALL)
    return told


def test_an_input_waits_in_the_queue_and_enters_when_its_run_starts() -> None:
    told = Told()
    told.tell(submitted("run_1", "one"), STARTED, CALL)
    told.tell(submitted("run_2", "two"))
    told.tell(submitted("run_3", "three"))
    told.tell({"type": "run.edited", "run_id": "run_3", "text": "third"})
    told.tell({"type": "run.moved", "run_id": "run_3", "position": 1})
    assert [q.text for q in told.talk.queue] == ["third", "two"]
    assert told.row.queue == ["run_3", "run_2"]
    assert [e.text for e in told.talk.entries if isinstance(e, Said)] == ["one"]
    told.tell(over("completed"), {**STARTED, "run_id": "run_3"})
    assert [e.text for e in told.talk.entries if isinstance(e, Said)] == ["one", "third"]
    assert [q.text for q in told.talk.queue] == ["two"]
    told.tell(over("cancelled", "run_2", reason="withdrawn from the queue"))
    assert told.talk.queue == [] and told.row.queue == []
    assert told.row.active == "run_3", "another run's end is not this one's"
    note = told.talk.entries[-1]
    assert isinstance(note, Note) and note.text == "queued 'two' cancelled by user:0: withdrawn from the queue"


def test_what_steers_waits_and_enters_at_the_boundary(told: Told) -> None:
    told.tell({"type": "input.steered", "input_id": "i1", "run_id": "run_1", "text": "left!", "at_ms": 1})
    assert [(q.text, q.is_steered) for q in told.talk.queue] == [("left!", True)]
    told.tell({"type": "input.entered", "input_id": "i1", "run_id": "run_1"})
    assert told.talk.queue == []
    entry = told.talk.entries[-1]
    assert isinstance(entry, Said) and (entry.text, entry.how) == ("left!", "steered")


def test_a_streamed_reply_is_one_entry_and_the_journal_has_the_last_word(told: Told) -> None:
    told.hear("reasoning", "hm", model_call_id="m1")
    told.hear("text", "Hel", model_call_id="m1")
    told.hear("text", "lo", model_call_id="m1")
    entry = told.talk.entries[-1]
    assert isinstance(entry, Reply) and (entry.text, entry.reasoning, entry.is_open) == ("Hello", "hm", True)
    told.tell(reply("Hello!", reasoning="hm."))
    assert told.talk.entries[-1] is entry
    assert (entry.text, entry.reasoning, entry.is_open) == ("Hello!", "hm.", False)
    told.hear("text", "late", model_call_id="m1")
    assert entry.text == "Hello!", "what comes after the whole is no news"


@pytest.mark.parametrize(
    "event",
    [
        {"type": "model_call.retrying", "run_id": "run_1", "model_call_id": "m1", "attempt": 1, "code": "overloaded",
         "message": "busy", "retry_at_ms": 1020},
        {"type": "model_call.died", "run_id": "run_1", "model_call_id": "m1", "attempt": 1},
    ],
)  # fmt: skip
def test_the_text_of_an_attempt_that_failed_is_taken_back(told: Told, event: Event) -> None:
    told.hear("text", "half a sen", model_call_id="m1")
    told.tell(event)
    assert [e.text for e in told.talk.entries if isinstance(e, Reply)] == [""]
    told.hear("text", "A whole one.", model_call_id="m1")
    told.tell(reply("A whole one."))
    assert [e.text for e in told.talk.entries if isinstance(e, Reply)] == ["", "A whole one."]
    assert isinstance(told.talk.entries[-2], Note), "below what is said of the failure"


def test_a_reply_that_streams_goes_on_in_another_window(told: Told) -> None:
    told.hear("text", "half a sen", model_call_id="m1")
    told.talk.show(list(told.talk.records))
    told.hear("text", "tence", model_call_id="m1")
    entry = told.talk.entries[-1]
    assert isinstance(entry, Reply) and entry.text == "half a sentence"


def test_who_comes_within_a_reply_sees_that_its_beginning_is_not_there(told: Told) -> None:
    late = Conversation("s")
    late.show(told.talk.records)
    late.hear({"session_id": "s", "run_id": "run_1", "kind": "text", "model_call_id": "m1", "text": "tence"})
    entry = late.entries[-1]
    assert isinstance(entry, Reply) and entry.text == "… tence"


def test_who_comes_before_a_reply_begins_misses_nothing_of_it(told: Told) -> None:
    early = Conversation("s")
    early.show(told.talk.records)
    early.hear_from_now()
    early.hear({"session_id": "s", "run_id": "run_1", "kind": "text", "model_call_id": "m1", "text": "Hello"})
    entry = early.entries[-1]
    assert isinstance(entry, Reply) and entry.text == "Hello"


def test_what_was_said_so_far_takes_the_place_of_what_was_heard(told: Told) -> None:
    late = Conversation("s")
    late.show(told.talk.records)
    for kind, said in (("reasoning", "hm"), ("text", "half a sen")):
        delta: Any = {"session_id": "s", "run_id": "run_1", "kind": kind, "model_call_id": "m1", "text": said}
        late.hear({**delta, "so_far": True})
        late.hear({**delta, "so_far": True})
    late.hear({**delta, "text": "tence"})
    entry = late.entries[-1]
    assert isinstance(entry, Reply) and (entry.reasoning, entry.text) == ("hm", "half a sentence")


def test_a_call_goes_from_the_request_to_its_result(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "make"})))
    call = told.talk.entries[-1]
    assert isinstance(call, Call) and call.phase == "asked"
    told.tell(REQUESTED)
    assert call.phase == "waiting" and told.talk.asks == {"approval_1": call}
    assert told.row.need == "needs you" and told.row.status == "approval"
    assert told.row.asks["approval_1"]["input"] == {"command": "make"}, "as the API shows it"
    told.tell(
        {"type": "approval.resolved", "request_id": "approval_1", "run_id": "run_1", "resolution": "allow",
         "digest": "d", "at_ms": 1, "principal": "user:7", "updated_input": {"command": "make -n"}}
    )  # fmt: skip
    assert call.arguments == {"command": "make -n"} and "user:7" in call.answer and told.talk.asks == {}
    assert told.row.need == "working"
    told.tell(of_call("started", at_ms=60))
    told.hear("tool_output", "one\ntw", tool_call_id="t1")
    told.hear("tool_output", "o\n", tool_call_id="t1")
    told.hear("tool_output", "one\ntwo\n", tool_call_id="t1", so_far=True)
    assert call.phase == "running" and call.output == "one\ntwo\n"
    told.tell(of_call("completed", output="whole", at_ms=260, metadata={"exit_code": 0}))
    assert (call.phase, call.output, call.finished_at_ms - call.started_at_ms) == ("done", "whole", 200)


def test_live_output_is_bounded(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "yes"})), of_call("started"))
    for _ in range(50):
        told.hear("tool_output", "y\n" * 1000, tool_call_id="t1")
    call = told.talk.entries[-1]
    assert isinstance(call, Call) and call.output.count("\n") < 2_001


def test_a_progress_bar_is_one_line_of_live_output(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "fetch"})), of_call("started"))
    for piece in ("fetch\n", "\r10%", "\r2", "0%\r", "100%", "\r", "\nfetched"):
        told.hear("tool_output", piece, tool_call_id="t1")
    call = told.talk.entries[-1]
    assert isinstance(call, Call) and clean(call.output) == "fetch\n100%\nfetched"


def test_a_denied_call_stays_denied_when_its_error_is_told(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "rm"})))
    told.tell(of_call("decided", tool="bash", behavior="deny", rule="bash(rm*)", reason="not here"))
    told.tell(of_call("completed", output="denied", is_error=True))
    call = told.talk.entries[-1]
    assert isinstance(call, Call) and call.phase == "denied" and "bash(rm*)" in call.reason


def test_questions_stand_in_the_transcript_with_their_answers(told: Told) -> None:
    told.tell(reply("", ("t2", "ask_user_question", {})))
    told.tell(ASKED)
    asked = told.talk.entries[-1]
    assert isinstance(asked, Asked) and not asked.answer
    assert told.row.status == "question"
    told.tell(
        {"type": "question.answered", "request_id": "question_1", "run_id": "run_1", "at_ms": 1, "principal": "user:7",
         "answers": [{"question_id": "q", "selected_option_ids": ["o1"], "freeform_answer": "and up"}]}
    )  # fmt: skip
    assert asked.answers == [("Which?", "Left, and up")] and asked.by == "user:7"
    assert told.kinds().count("Call") == 0, "the call that asks is the question itself"


def test_what_waits_when_a_run_ends_waits_no_more(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "make"})), REQUESTED)
    told.tell(
        {
            "type": "approval.withdrawn",
            "request_id": "approval_1",
            "run_id": "run_1",
            "reason": "the run was cancelled",
        },
        over("cancelled", reason="enough"),
    )
    assert told.talk.asks == {} and told.row.asks == {} and told.row.need == "done"
    note = told.talk.entries[-1]
    assert isinstance(note, Note) and "cancelled by user:0: enough" in note.text
    assert told.row.status == "cancelled"


def test_what_steered_too_late_is_said_where_the_run_ends(told: Told) -> None:
    told.tell({"type": "input.steered", "input_id": "i1", "run_id": "run_1", "text": "left!", "at_ms": 1})
    told.tell(over("cancelled", "run_9"))
    assert told.talk.queue, "another run's end is not this one's"
    told.tell(over("cancelled"))
    note = told.talk.entries[-1]
    assert told.talk.queue == [] and isinstance(note, Note) and note.text.endswith("took this in: left!")


def test_what_steered_too_late_and_comes_next_waits_in_the_queue_as_whose_it_is(told: Told) -> None:
    told.tell({"type": "input.steered", "input_id": "i1", "run_id": "run_1", "text": "left!", "at_ms": 1})
    next_run = submitted("run_2", "left!", input_id="i1", first=True, principal="user:7")
    told.tell(next_run, over("failed", code="c", message="m"), by="daemon")
    assert [(q.id, q.by, q.is_steered) for q in told.talk.queue] == [("run_2", "user:7", False)]
    note = told.talk.entries[-1]
    assert isinstance(note, Note) and note.text.startswith("failed"), "nothing is said to be lost"
    told.tell({"type": "run.started", "run_id": "run_2", "at_ms": 95})
    said = told.talk.entries[-1]
    assert isinstance(said, Said) and (said.text, said.by) == ("left!", "user:7")


def test_a_reply_that_was_cut_says_so(told: Told) -> None:
    told.tell(reply("half a", stop_reason="max_tokens"))
    assert told.kinds()[-2:] == ["Reply", "Note"] and "not whole" in told.talk.entries[-1].text  # type: ignore[attr-defined]


def test_a_restart_says_where_the_run_goes_on(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "make"})))
    told.tell({"type": "session.recovered", "died_generation": 1})
    note = told.talk.entries[-1]
    assert isinstance(note, Note) and note.text == "daemon restarted, resumed at step 1"


def test_a_record_that_was_seen_is_passed_over_and_one_that_misses_another_is_told_from_it(told: Told) -> None:
    told.seq -= 1
    told.tell(submitted("run_9", "twice"))
    assert told.talk.queue == [] and told.row.queue == []
    told.seq += 1
    with pytest.raises(LookupError):
        told.tell(submitted("run_9", "later"))


def test_a_window_that_begins_in_the_middle_of_a_run_shows_what_it_has(told: Told) -> None:
    told.tell(reply("Let me see.", ("t1", "bash", {"command": "make"})))
    told.tell(of_call("started"))
    told.tell(of_call("completed", output="done"))
    window = Conversation("s")
    window.show(told.talk.records[3:])
    assert window.entries == []
    window.show(told.talk.records[2:])
    assert [type(e).__name__ for e in window.entries] == ["Reply", "Call"]
    assert window.first_seq == 3 and window.last_seq == 5


def test_a_window_knows_the_run_at_its_end_though_it_began_before_unless_that_is_over(told: Told) -> None:
    told.tell(reply("Let me see.", ("t1", "bash", {"command": "make"})))
    window = Conversation("s")
    window.show(told.talk.records[2:], active="run_1")
    assert window.active == "run_1"
    told.tell(over("cancelled"))
    window.apply(told.talk.records[-1])
    assert window.active == ""
    window.show(told.talk.records[2:], active="run_1")
    assert window.active == "", "who said so knew less than the window"


def test_the_board_keeps_what_is_newer_than_the_daemons_list(told: Told) -> None:
    told.tell(reply("", ("t1", "bash", {"command": "make"})), REQUESTED)
    view: Any = {
        "session_id": "s", "seq": 1, "cwd": "/old", "title": "", "permission_mode": "default", "headline": "",
        "active_run_id": "", "queued_run_ids": [], "ended": False, "problem": "", "updated_at_ms": 0,
        "attached": 0, "last_run_status": "",
        "pending_approval_ids": [], "pending_question_ids": [],
    }  # fmt: skip
    told.board.load([view], {"approvals": [], "questions": []}, [])
    assert told.row.need == "needs you"
    told.board.load([{**view, "seq": 99, "cwd": "/new"}], {"approvals": [], "questions": []}, [])
    assert told.row.need == "done" and told.row.cwd == "/new"


def test_a_row_is_about_the_active_run_and_then_about_the_newest_that_is_queued() -> None:
    told = Told()
    told.tell(submitted("run_1", "one"), STARTED, CALL)
    told.tell(submitted("run_2", "two"))
    told.tell(submitted("run_3", "three"))
    assert (told.row.headline, told.row.about) == ("one", "run_1")
    told.tell({"type": "queue.paused"})
    told.tell({"type": "run.edited", "run_id": "run_3", "text": "three, mended"})
    told.tell(over("completed"))
    assert (told.row.headline, told.row.about) == ("three, mended", "run_3")
    told.tell({**STARTED, "run_id": "run_2"})
    assert (told.row.headline, told.row.about, told.row.model) == ("two", "run_2", "r/m")


def test_what_was_queued_before_is_told_of_when_it_starts(told: Told) -> None:
    told.tell({**STARTED, "run_id": "run_0"})
    assert (told.row.headline, told.row.about) == ("go", "run_1")
    run: Any = {"run_id": "run_0", "request": {"text_preview": "older"}}
    assert told.board.load_active([run]) == [told.row]
    assert (told.row.headline, told.row.about) == ("older", "run_0")
    assert told.board.load_active([run]) == []


def test_steps_and_tokens_add_up_over_a_run(told: Told) -> None:
    told.tell(reply("a", usage={"input_tokens": 100, "output_tokens": 10}))
    told.tell({**CALL, "step": 2, "model_call_id": "m2"})
    told.tell({**reply("b", usage={"input_tokens": 150, "output_tokens": 20}), "model_call_id": "m2"})
    assert (told.row.step, told.row.tokens, told.talk.context_tokens) == (2, 280, 170)
    assert told.talk.usage["input_tokens"] == 250


@pytest.mark.parametrize(
    ("ms", "shown"), [(0, "0.0s"), (440, "0.4s"), (12_300, "12s"), (185_000, "3m 5s"), (7_260_000, "2h 1m")]
)
def test_a_duration_is_short(ms: int, shown: str) -> None:
    assert duration(ms) == shown


def test_what_a_session_used_is_what_the_daemon_said_and_what_was_told_since() -> None:
    spent, usage = Spending(), {"input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 3}
    spent.load({"tokens": 1_000, "cost_usd": 0.5, "steps": 1, "wall_ms": 9, "unpriced_calls": 0}, 7)
    told = Told()
    told.tell(submitted(), STARTED, CALL)
    told.tell({**reply("x", usage=usage), "cost_usd": 0.25})
    for record in told.talk.records:
        spent.apply({**record, "seq": record["seq"] + 4})
        spent.apply({**record, "seq": record["seq"] + 4})
    assert (spent.tokens, spent.cost_usd) == (1_000, 0.5), "7 and before is counted already"
    spent.apply({**told.talk.records[-1], "seq": 8})
    assert (spent.tokens, spent.cost_usd, spent_text(spent)) == (1_123, 0.75, "1k tok · $0.75")
    retried: Any = {"type": "model_call.retrying", "usage": {"input_tokens": 7}}
    spent.apply({**told.talk.records[-1], "seq": 9, "events": [retried]})
    assert spent_text(spent) == "1k tok · $0.75+", "an attempt whose price nobody knows"
