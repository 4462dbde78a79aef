"""Rules made by answering "always": for every session, until somebody takes them back."""

from __future__ import annotations

import pytest

from tests.api.raw_http import ask, refusal
from tests.daemon_process import DaemonProcess, Json

pytestmark = pytest.mark.slow

RULES = "/v1/runtime/permissions/rules"


def decide(daemon: DaemonProcess, session_id: str, **resolution: str) -> Json:
    """Submits a shell command, resolves its approval; returns the resolved run."""
    daemon.submit(daemon.session(session_id), "SHELL")
    request_id = daemon.until(session_id, "approval.requested")["request_id"]
    answer = ask(daemon, "POST", f"/v1/approvals/{request_id}", {"resolution": "allow", **resolution})
    assert answer.status == 200, answer.body
    return dict(answer.json)


def is_asked(daemon: DaemonProcess, session_id: str) -> bool:
    """Whether the same command asks in another session."""
    run_id = daemon.submit(daemon.session(session_id), "SHELL")
    event = daemon.until(session_id, "approval.requested", "run.completed")
    ask(daemon, "POST", f"/v1/runs/{run_id}/cancel", {})
    return event["type"] == "approval.requested"


def test_an_always_rule_holds_everywhere_and_after_a_restart_until_it_is_removed(own: DaemonProcess) -> None:
    decide(own, "first", remember="always", rule="bash(echo *)")
    assert not is_asked(own, "second")
    own.kill()
    own.start()
    assert not is_asked(own, "third")
    assert [rule["pattern"] for rule in ask(own, "GET", RULES).json] == ["bash(echo *)"]
    (removed,) = ask(own, "DELETE", RULES + "?pattern=bash(echo%20*)").json
    assert removed["pattern"] == "bash(echo *)"
    assert is_asked(own, "fourth")
    assert is_asked(own, "first"), "the session in which it was made has forgotten it too"
    decide(own, "fifth")
    assert ask(own, "GET", RULES).json == [], "another approval does not bring it back"
    own.kill()
    own.start()
    assert is_asked(own, "sixth")


def test_only_a_rule_that_is_there_can_be_removed(own: DaemonProcess) -> None:
    decide(own, "s", remember="always")
    missing = ask(own, "DELETE", RULES + "?pattern=bash(rm)")
    assert refusal(missing) == (404, "rule_not_found")
    assert "bash(echo did it)" in missing.json["detail"], "it says which there are"


def test_a_late_answer_learns_of_the_first_also_after_a_restart(own: DaemonProcess) -> None:
    session = own.session("late")
    own.submit(session, "SHELL")
    request_id = own.until(session, "approval.requested")["request_id"]
    body = {"resolution": "deny", "justification": "no"}
    first = ask(own, "POST", f"/v1/approvals/{request_id}", body, Idempotency_Key="k")
    own.until(session, "run.completed")
    own.kill()
    own.start()
    again = ask(own, "POST", f"/v1/approvals/{request_id}", body, Idempotency_Key="k")
    assert (again.status, again.json["run_id"]) == (200, first.json["run_id"])
    other = ask(own, "POST", f"/v1/approvals/{request_id}", {"resolution": "allow"})
    assert refusal(other) == (409, "approval_state_conflict")
    assert "deny" in other.json["detail"]
