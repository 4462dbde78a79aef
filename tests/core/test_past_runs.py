"""What is over leaves the state when enough came after it, so that a session does not get slower with every run."""

from __future__ import annotations

import pytest

from kheish.core import approvals, questions, runs
from kheish.core import commands as c
from kheish.errors import Conflict, NotFound
from tests.core.conversation import Conversation
from tests.core.test_machine import ASK


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of each kind are kept."""
    monkeypatch.setattr(runs, "FINISHED_RUNS_KEPT", 2)
    monkeypatch.setattr(runs, "IDEMPOTENCY_KEYS_KEPT", 2)
    monkeypatch.setattr(approvals, "SETTLED_REQUESTS_KEPT", 2)
    monkeypatch.setattr(questions, "SETTLED_REQUESTS_KEPT", 2)


def finish(talk: Conversation, text: str = "go") -> str:
    run_id = talk.submit(text)
    talk.reply("done")
    return run_id


@pytest.mark.usefixtures("few")
def test_the_newest_finished_runs_stay_in_the_state_and_all_are_counted() -> None:
    talk = Conversation()
    made = []
    for number in range(1, 6):
        made.append(finish(talk))
        assert list(talk.state.runs) == made[-2:]
        assert talk.state.runs_total == number


@pytest.mark.usefixtures("few")
def test_a_run_that_is_not_over_stays_however_old_it_is() -> None:
    talk = Conversation()
    active, queued = talk.submit("1"), talk.submit("2")
    cancelled = []
    for _ in range(5):
        cancelled.append(talk.submit("x"))
        talk.send(c.CancelRun(run_id=cancelled[-1]))
    assert list(talk.state.runs) == [active, queued, *cancelled[-2:]]
    assert talk.status(active) == "running" and talk.status(queued) == "queued"
    talk.reply("done")
    assert list(talk.state.runs) == [queued, *cancelled[-2:]], "the oldest input, though it was over last"


@pytest.mark.usefixtures("few")
def test_runs_that_end_together_leave_together() -> None:
    talk = Conversation()
    made = [talk.submit(str(number)) for number in range(6)]
    talk.send(c.EndSession())
    assert list(talk.state.runs) == made[-2:] and talk.state.past_runs == 4


@pytest.mark.usefixtures("few")
def test_a_past_run_is_not_found_in_the_state_and_not_made_anew() -> None:
    talk = Conversation()
    past, *_ = [finish(talk) for _ in range(3)]
    for command in (c.CancelRun(run_id=past), c.EditRun(run_id=past, text="x")):
        with pytest.raises(NotFound):
            talk.send(command)


@pytest.mark.usefixtures("few")
def test_the_newest_keys_are_known_also_when_their_runs_are_past() -> None:
    talk = Conversation()
    keyed = [talk.submit("go", key=f"k{number}", body_digest="d") for number in range(3)]
    talk.send(c.EndSession())
    assert keyed[0] not in talk.state.runs
    assert list(talk.state.keys) == ["k1", "k2"]
    assert [talk.submit("go", key=f"k{number}", body_digest="d") for number in (1, 2)] == keyed[1:]
    with pytest.raises(Conflict) as refusal:
        talk.submit("other", key="k1", body_digest="e")
    assert refusal.value.code == "idempotency_conflict"
    with pytest.raises(Conflict) as refusal:
        talk.submit("go", key="k0", body_digest="d")
    assert refusal.value.code == "session_ended", "a key that left is a new one"


@pytest.mark.usefixtures("few")
def test_keys_of_decisions_are_bounded_like_those_of_inputs() -> None:
    talk = Conversation()
    talk.submit("go")
    talk.reply("", *(("bash", {"command": text}) for text in "abc"), ("ask_user_question", ASK))
    for number, request_id in enumerate(list(talk.state.approvals)):
        item = c.ApprovalResolution(request_id=request_id, resolution="deny")
        talk.send(c.ResolveApprovals(resolutions=(item,)), key=f"k{number}", body_digest="d")
    assert list(talk.state.keys) == ["k1", "k2"]
    (question,) = talk.state.questions
    talk.send(c.AnswerQuestion(request_id=question, answers=(), declined=True), key="k3", body_digest="d")
    assert list(talk.state.keys) == ["k2", "k3"]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("how", ["resolved", "withdrawn"])
def test_who_answers_late_learns_of_the_newest_decisions(how: str) -> None:
    talk = Conversation()
    run_id = talk.submit("go")
    talk.reply("", *(("bash", {"command": text}) for text in "abc"), ("ask_user_question", ASK))
    ids = [*talk.state.approvals, *talk.state.questions]
    if how == "withdrawn":
        talk.send(c.CancelRun(run_id=run_id))
    else:
        for request_id in ids[:3]:
            talk.resolve("deny", request_id=request_id)
        talk.answer()
    assert list(talk.state.settled) == ids[-2:]
    for request_id, error in zip(ids[:3], (NotFound, NotFound, Conflict), strict=True):
        with pytest.raises(error):
            talk.resolve("allow", request_id=request_id)
