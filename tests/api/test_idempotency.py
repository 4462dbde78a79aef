"""An Idempotency-Key makes a request safe to repeat: the same answer for the same body, also from the next daemon."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kheish.limits import FORK_BYTES_MAX
from tests.api.raw_http import Answer, ask, refusal
from tests.daemon_process import DaemonProcess, Json

pytestmark = pytest.mark.slow


def post(daemon: DaemonProcess, path: str, body: Any, key: str) -> Answer:
    return ask(daemon, "POST", path, body, Idempotency_Key=key)


def count(daemon: DaemonProcess, session: str, event_type: str) -> int:
    return daemon.types(session).count(event_type)


def identity(view: Json) -> tuple[str, str]:
    """What an answer is about; where the thing stands may have changed meanwhile."""
    return view["session_id"], view.get("run_id", "")


def test_an_input_is_submitted_once(api: DaemonProcess) -> None:
    session = api.session("once")
    path = f"/v1/sessions/{session}/runs"
    first = post(api, path, {"content": "go", "metadata": {"a": 1, "b": 2}}, "key")
    again = post(api, path, b'{ "metadata": {"b": 2, "a": 1}, "delivery": "queue", "content": "go" }', "key")
    assert again.status == first.status == 202, "the same body, in other words"
    assert identity(again.json) == identity(first.json)
    for body in ({"content": "go!"}, {"content": "go"}, {"content": "go", "metadata": {"a": 1, "b": "2"}}):
        assert refusal(post(api, path, body, "key")) == (409, "idempotency_conflict"), body
    assert post(api, path, {"content": "go"}, "another").json["run_id"] != first.json["run_id"]
    assert ask(api, "POST", path, {"content": "go"}).json["run_id"] != first.json["run_id"], "no key, no memory"
    api.session("once-2")
    elsewhere = post(api, "/v1/sessions/once-2/runs", {"content": "other"}, "key")
    assert elsewhere.status == 202, "a key belongs to its session"
    assert count(api, session, "run.submitted") == 3


def test_a_key_belongs_to_one_endpoint(api: DaemonProcess) -> None:
    session = api.session("endpoint")
    api.finish(post(api, f"/v1/sessions/{session}/runs", {"content": "go"}, "key").json["run_id"])
    other = post(api, f"/v1/sessions/{session}/input", {"content": "go"}, "key")
    assert refusal(other) == (409, "idempotency_conflict")


def test_waiting_for_an_input_twice_runs_it_once(api: DaemonProcess) -> None:
    session = api.session("wait-once")
    first = post(api, f"/v1/sessions/{session}/input", {"content": "go"}, "key")
    again = post(api, f"/v1/sessions/{session}/input", {"content": "go"}, "key")
    assert first.status == again.status == 200 and first.json == again.json
    assert first.json["runs_total"] == 1
    api.submit(session, "HANG")
    busy = post(api, f"/v1/sessions/{session}/input", {"content": "go"}, "key")
    assert busy.status == 200, "what was answered once is answered while another run is active"
    ask(api, "POST", f"/v1/sessions/{session}/end", {})


def test_what_was_done_once_is_answered_whatever_stands_in_its_way_now(own: DaemonProcess) -> None:
    """A paused queue, a route whose key the next daemon was not given, routes.toml that cannot be read, a source that
    has become too large for another fork."""
    routes = own.config / "routes.toml"
    readable = routes.read_text()
    routes.write_text(
        f'{readable}\n[routes.paid]\ndriver = "openai"\ndefault_model = "m"\nbase_url = "http://127.0.0.1:9"\n'
    )
    own.kill()
    own.start(env={"OPENAI_API_KEY": "sk-nothing"})
    session = own.session("done")
    requests: dict[str, tuple[str, Json]] = {
        "wait": (f"/v1/sessions/{session}/input", {"content": "go"}),
        "fork": (f"/v1/sessions/{session}/fork", {"session_id": "forked"}),
        "paid": (f"/v1/sessions/{own.session('paid')}/runs", {"content": "go", "model": "paid/m"}),
    }
    before = {key: post(own, path, body, key) for key, (path, body) in requests.items()}
    assert [answer.status for answer in before.values()] == [200, 201, 202]
    for _ in range(4):
        own.finish(own.submit(session, "x" * (FORK_BYTES_MAX // 4)))
    own.client.sessions.pause_queue(session)
    own.kill()
    own.start()
    fork = post(own, f"/v1/sessions/{session}/fork", {"session_id": "another"}, "another")
    assert refusal(fork) == (409, "fork_too_large")
    assert refusal(post(own, requests["wait"][0], {"content": "go"}, "another")) == (409, "session_busy")
    assert refusal(post(own, *requests["paid"], "another")) == (409, "route_not_ready")
    routes.write_text("neither")
    for key, (path, body) in requests.items():
        again = post(own, path, body, key)
        assert again.status == before[key].status, (key, again)
        assert identity(again.json) == identity(before[key].json), key
    routes.write_text(readable)
    conflict = post(own, requests["wait"][0], {"content": "go on"}, "wait")
    assert refusal(conflict) == (409, "idempotency_conflict"), "another request is still another"


def test_a_steered_or_interrupting_input_counts_once(api: DaemonProcess) -> None:
    session = api.session("steered")
    active = api.submit(session, "HANG")
    path = f"/v1/sessions/{session}/runs"
    for _ in range(3):
        assert post(api, path, {"content": "a hint", "delivery": "steer"}, "hint").json["run_id"] == active
    assert count(api, session, "input.steered") == 1
    runs = {post(api, path, {"content": "AFTER", "delivery": "interrupt"}, "stop").json["run_id"] for _ in range(3)}
    assert len(runs) == 1 and api.finish(runs.pop())["status"] == "completed"
    assert count(api, session, "run.interrupted") == 1


def test_a_refused_request_leaves_its_key_free(api: DaemonProcess) -> None:
    session = api.session("free")
    assert post(api, f"/v1/sessions/{session}/runs", {"content": " "}, "key").status == 400
    assert post(api, f"/v1/sessions/{session}/runs", {"content": "go"}, "key").status == 202


def test_the_same_key_at_the_same_time_makes_one_run(api: DaemonProcess) -> None:
    session = api.session("race")
    with ThreadPoolExecutor(8) as pool:
        path = f"/v1/sessions/{session}/runs"
        answers = list(pool.map(lambda _: post(api, path, {"content": "go"}, "key"), range(24)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["run_id"] for answer in answers}) == 1
    assert count(api, session, "run.submitted") == 1


def test_a_repeated_request_has_its_answer_from_the_next_daemon(own: DaemonProcess) -> None:
    """Everything keyed, repeated as it was after a SIGKILL; and with another body, which is a conflict."""
    work = str(own.work)
    made = post(own, "/v1/sessions", {"cwd": work, "title": "by key"}, "create").json
    session = made["session_id"]
    own.session("input")
    waiting = ("by-id", "batch", "approval-runs", "by-run", "answer-by-id", "answer-session", "answer-run")
    runs = {name: own.submit(own.session(name), "ASK" if "answer" in name else "SHELL") for name in waiting}
    ids = {name: own.until(name, "approval.requested", "question.requested")["request_id"] for name in runs}
    allow = {"resolution": "allow"}
    decline = {"declined": True}

    def one(name: str, **fields: Any) -> Json:
        return {"request_id": ids[name], **fields}

    requests: dict[str, tuple[str, Json, Json]] = {
        "create": ("/v1/sessions", {"cwd": work, "title": "by key"}, {"cwd": "/", "title": "by key"}),
        "submit": (f"/v1/sessions/{session}/runs", {"content": "go"}, {"content": "go on"}),
        "input": ("/v1/sessions/input/input", {"content": "go"}, {"content": "go on"}),
        "by-id": (f"/v1/approvals/{ids['by-id']}", allow, {"resolution": "deny"}),
        "answer-by-id": (f"/v1/questions/{ids['answer-by-id']}", decline, {**decline, "justification": "no"}),
        "batch": (
            "/v1/sessions/batch/approvals",
            {"resolutions": [one("batch", **allow)]},
            {"resolutions": [one("batch", resolution="deny")]},
        ),
        "approval-runs": (
            "/v1/sessions/approval-runs/approval-runs",
            {"resolutions": [one("approval-runs", **allow)]},
            {"resolutions": [one("approval-runs", resolution="deny")]},
        ),
        "by-run": (
            f"/v1/runs/{runs['by-run']}/approvals",
            {"resolutions": [one("by-run", **allow)]},
            {"resolutions": [one("by-run", resolution="deny")]},
        ),
        "answer-session": (
            "/v1/sessions/answer-session/questions",
            {"resolution": one("answer-session", **decline)},
            {"resolution": one("answer-session", **decline, justification="no")},
        ),
        "answer-run": (
            f"/v1/runs/{runs['answer-run']}/questions",
            {"resolution": one("answer-run", **decline)},
            {"resolution": one("answer-run", **decline, justification="no")},
        ),
    }
    before = {key: post(own, path, body, key) for key, (path, body, _) in requests.items()}
    assert {answer.status for answer in before.values()} <= {200, 201, 202}, before
    assert identity(before["create"].json) == identity(made)
    sessions = (session, "input", *waiting)
    for name in sessions:
        for run in own.client.sessions.runs(name):
            own.finish(run["run_id"])
    kept = {name: len(own.journal(name)) for name in sessions}
    own.kill()
    own.start()
    for key, (path, body, other) in requests.items():
        again = post(own, path, body, key)
        assert again.status == before[key].status, (key, again)
        assert identity(again.json) == identity(before[key].json), key
        conflict = post(own, path, other, key)
        assert conflict.status == 409, (key, conflict)
        if key != "create":
            assert refusal(conflict) == (409, "idempotency_conflict"), key
    assert {name: len(own.journal(name)) for name in sessions} == kept, "nothing was done twice"


def test_a_session_is_created_once_for_a_key(api: DaemonProcess) -> None:
    body = {"session_id": "keyed", "cwd": str(api.work), "title": "first"}
    assert post(api, "/v1/sessions", body, "make").status == 201
    assert post(api, "/v1/sessions", body, "make").json["title"] == "first"
    assert refusal(post(api, "/v1/sessions", {**body, "title": "second"}, "make")) == (409, "idempotency_conflict")


def test_inputs_of_one_moment_are_all_kept(api: DaemonProcess) -> None:
    """Nothing that was acknowledged is another's, however many come at once."""
    session = api.session("crowd")
    path = f"/v1/sessions/{session}/runs"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: ask(api, "POST", path, {"content": f"go {number}"}), range(200)))
    assert {answer.status for answer in answers} == {202}
    run_ids = {answer.json["run_id"] for answer in answers}
    assert len(run_ids) == 200
    api.finish(max(run_ids))
    texts = {e["text"] for r in api.records(session) for e in r["events"] if e["type"] == "run.submitted"}
    assert texts == {f"go {number}" for number in range(200)}
