"""Runs, and what they wait for, over HTTP: looked at by id or prefix, cancelled, approved, answered."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from kheish.api.app import App
from kheish.api.endpoints.runs import ListQuery, list_runs
from kheish.api.router import Call
from kheish.core.state import State
from kheish.daemon.wiring import build_debugging, build_secrets
from kheish.providers.registry import Routes
from kheish.store.session_dir import Fold, Loaded, SessionDir
from tests.api.raw_http import ask, refusal
from tests.daemon_process import DaemonProcess, Json
from tests.runtime.kernel import OPERATOR, Kernel, reply

pytestmark = pytest.mark.slow


def start(api: DaemonProcess, session_id: str, content: str, mode: str = "default") -> str:
    """A run in a new session."""
    return api.submit(api.session(session_id, mode), content)


def asked(api: DaemonProcess, session_id: str, content: str = "SHELL") -> tuple[str, str]:
    """(run id, approval id) of a run that waits for an approval, or a question's id."""
    run_id = start(api, session_id, content)
    event = api.until(session_id, "approval.requested", "question.requested")
    return run_id, event["request_id"]


async def test_a_list_of_runs_reads_each_session_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        made = [await kernel.submit() for _ in range(3)]
        await kernel.until_status(made[-1], "completed")
    peeked: list[str] = []
    read_only = SessionDir.read_only

    def note(root: Path, session_id: str, fold: Fold[State], *, reducer: int) -> Loaded[State]:
        peeked.append(session_id)
        return read_only(root, session_id, fold, reducer=reducer)

    monkeypatch.setattr(SessionDir, "read_only", staticmethod(note))
    async with Kernel(tmp_path, [], generation=2) as kernel:
        secrets = build_secrets(tmp_path, tmp_path)
        debugging = build_debugging(tmp_path, Routes(tmp_path), secrets, kernel.supervisor.runtime)
        app = App(kernel.supervisor, secrets, debugging, state_root=tmp_path, socket_path=tmp_path / "socket")
        views = await list_runs(app, Call(path={}, query=ListQuery(), body=None, caller=OPERATOR))
    assert [view.run_id for view in views] == made[::-1] and peeked == ["s"]


def test_runs_are_listed_newest_first_and_by_session(api: DaemonProcess) -> None:
    first, second = start(api, "runs-a", "go"), start(api, "runs-b", "HANG")
    third = api.submit("runs-a", "again")
    api.finish(third)
    ids = [run["run_id"] for run in ask(api, "GET", "/v1/runs").json]
    assert ids[:3] == [third, second, first]
    of_session = ask(api, "GET", "/v1/runs?session_id=runs-a").json
    assert [run["run_id"] for run in of_session] == [third, first]
    assert ask(api, "GET", "/v1/sessions/runs-a/runs").json == of_session
    assert [run["run_id"] for run in ask(api, "GET", "/v1/runs?limit=1").json] == [third]
    active = ask(api, "GET", "/v1/runs?active=true").json
    assert second in [run["run_id"] for run in active]
    assert not {run["status"] for run in active} & {"completed", "failed", "cancelled", "interrupted"}


def test_a_run_is_found_by_an_unambiguous_prefix(api: DaemonProcess) -> None:
    run_id = start(api, "prefix", "go")
    whole = api.finish(run_id)
    assert ask(api, "GET", f"/v1/runs/{run_id}").json == whole
    assert ask(api, "GET", f"/v1/runs/{run_id[:-2]}").json == whole
    assert ask(api, "GET", f"/v1/runs/{run_id.removeprefix('run_')[:-2]}").json == whole
    api.submit("prefix", "again")
    assert refusal(ask(api, "GET", "/v1/runs/run_0")) == (409, "ambiguous_id")
    assert refusal(ask(api, "GET", "/v1/runs/run_nope")) == (404, "run_not_found")


def test_a_finished_run_shows_what_it_took(api: DaemonProcess) -> None:
    run = api.finish(start(api, "took", "SHELL", "bypass"))
    assert (run["status"], run["outputs"], run["step"], run["error"]) == ("completed", ["done"], 2, None)
    assert set(run["usage"].values()) == {0} and len(run["usage"]) == 5, "a script takes no tokens, and says so"
    assert run["queued_position"] is None
    assert run["submitted_at_ms"] <= run["started_at_ms"] <= run["finished_at_ms"] == run["updated_at_ms"]


def test_a_failed_run_says_why(api: DaemonProcess) -> None:
    api.script(name="empty.json")
    run = api.finish(api.submit(api.session("fails"), "go", model="test/empty.json"))
    assert run["status"] == "failed" and run["error"]["code"] and "empty.json" in run["error"]["message"]


def test_cancelling_is_final_and_may_be_repeated(api: DaemonProcess) -> None:
    run_id = start(api, "cancel", "HANG")
    first = ask(api, "POST", f"/v1/runs/{run_id}/cancel", {"reason": "not needed"})
    assert first.status == 200 and first.json["status"] == "cancelled"
    assert first.json["error"] == {"code": "cancelled", "message": "not needed"}
    assert ask(api, "POST", f"/v1/runs/{run_id}/cancel").json == first.json
    done = api.finish(start(api, "cancel-late", "go"))
    assert ask(api, "POST", f"/v1/runs/{done['run_id']}/cancel").json == done, "a finished run stays as it is"


def test_the_events_of_a_run_are_its_own(api: DaemonProcess) -> None:
    other = start(api, "own", "go")
    api.finish(other)
    run_id = api.submit("own", "go", metadata={"run_id": other, "note": f'"run_id":"{other}"'})
    api.finish(run_id)
    mine = ask(api, "GET", f"/v1/runs/{run_id}/events").json
    assert mine["next_cursor"] is None
    expected = [r for r in api.records("own") if any(e.get("run_id") == run_id for e in r["events"])]
    assert mine["items"] == expected and len(expected) >= 2
    items: list[Json] = []
    cursor: str | None = ""
    while cursor is not None:
        page = ask(api, "GET", f"/v1/runs/{run_id}/events?limit=1&cursor={cursor}").json
        assert len(page["items"]) == 1
        items, cursor = items + page["items"], page["next_cursor"]
    assert items == expected
    theirs = ask(api, "GET", f"/v1/runs/{other}/events").json["items"]
    assert not [r for r in theirs if r["seq"] >= expected[0]["seq"]], (
        "metadata that names a run makes no record its own"
    )


def test_an_approval_is_listed_shown_and_resolved(api: DaemonProcess) -> None:
    run_id, request_id = asked(api, "approve")
    view = ask(api, "GET", f"/v1/approvals/{request_id}").json
    assert (view["session_id"], view["run_id"], view["kind"]) == ("approve", run_id, "tool_call")
    assert (view["tool"], view["input"]) == ("bash", {"command": "echo did it"})
    assert view["choices"] == ["allow", "deny"] and view["exact_rule"] == "bash(echo did it)"
    assert len(view["digest"]) == 64
    assert ask(api, "GET", f"/v1/approvals/{request_id[:-1]}").json == view, "by prefix"
    assert ask(api, "GET", "/v1/sessions/approve/approvals").json == [view]
    assert view in ask(api, "GET", "/v1/approvals").json
    assert ask(api, "GET", "/v1/approvals?session_id=approve").json == [view]
    assert ask(api, "GET", "/v1/inbox?session_id=approve").json == {"approvals": [view], "questions": []}
    run = ask(api, "GET", f"/v1/runs/{run_id}").json
    assert run["status"] == "waiting_for_approval" and run["pending_approval_ids"] == [request_id]
    assert run["pending_approvals"][0]["digest"] == view["digest"]
    answer = ask(api, "POST", f"/v1/approvals/{request_id}", {"resolution": "allow", "if_digest": view["digest"][:12]})
    assert answer.status == 200 and answer.json["run_id"] == run_id and answer.json["pending_approval_ids"] == []
    assert api.finish(run_id)["status"] == "completed"
    assert ask(api, "GET", "/v1/sessions/approve/approvals").json == []
    late = ask(api, "POST", f"/v1/approvals/{request_id}", {"resolution": "deny"})
    assert refusal(late) == (409, "approval_state_conflict")
    assert late.json["how"] == "allow" and late.json["principal"].startswith("user:")


def test_what_was_shown_is_what_is_approved(api: DaemonProcess) -> None:
    run_id, request_id = asked(api, "digest")
    path = f"/v1/approvals/{request_id}"
    for body, status, code in (
        ({"resolution": "allow", "if_digest": "0" * 64}, 409, "approval_digest_mismatch"),
        ({"resolution": "retry"}, 400, "invalid_resolution"),
        ({"resolution": "allow", "rule": "bash(echo *)"}, 400, "invalid_request"),
        ({"resolution": "allow", "remember": "session", "rule": "bash(ls)"}, 400, "invalid_request"),
        ({"resolution": "allow", "remember": "session", "rule": "bash("}, 400, "invalid_rule"),
        ({"resolution": "deny", "updated_input": {"command": "ls"}}, 400, "invalid_request"),
        ({"resolution": "allow", "updated_input": {"nonsense": 1}}, 400, "invalid_request"),
        ({"resolution": "allow", "updated_input": {"command": "ls", "timeout_ms": 2**70}}, 400, "invalid_request"),
    ):
        assert refusal(ask(api, "POST", path, body)) == (status, code), body
    assert ask(api, "GET", f"/v1/runs/{run_id}").json["status"] == "waiting_for_approval", "refused is unchanged"
    edited = {"resolution": "allow", "updated_input": {"command": "echo edited"}, "justification": "safer"}
    assert ask(api, "POST", path, edited).status == 200
    api.finish(run_id)
    tool = next(m for m in ask(api, "GET", "/v1/sessions/digest/transcript").json["items"] if m["role"] == "tool")
    assert tool["text"].endswith("edited\n") and "did it" not in tool["text"]


def test_a_remembered_approval_becomes_a_rule(api: DaemonProcess) -> None:
    run_id, request_id = asked(api, "remember")
    ask(
        api,
        "POST",
        f"/v1/approvals/{request_id}",
        {"resolution": "allow", "remember": "session", "rule": "bash(echo *)"},
    )
    api.finish(run_id)
    rule = {"pattern": "bash(echo *)", "behavior": "allow", "scope": "session"}
    assert ask(api, "GET", "/v1/sessions/remember").json["rules"] == [rule]
    assert ask(api, "GET", "/v1/sessions/remember/rules").json[0] == rule
    assert api.finish(api.submit("remember", "SHELL"))["status"] == "completed", "asked no more"
    other, _ = asked(api, "remember-not")
    assert ask(api, "GET", f"/v1/runs/{other}").json["status"] == "waiting_for_approval", "a session's rule is its own"


@pytest.mark.parametrize(
    ("path", "status"),
    [("sessions/{session}/approvals", 200), ("sessions/{session}/approval-runs", 202), ("runs/{run}/approvals", 200)],
)
def test_approvals_of_a_run_are_resolved_together_or_not_at_all(api: DaemonProcess, path: str, status: int) -> None:
    session = "batch-" + re.sub(r"\W+", "-", path)
    run_id, _ = asked(api, session, "TWICE")
    one, two = [a["request_id"] for a in ask(api, "GET", f"/v1/sessions/{session}/approvals").json]
    path = "/v1/" + path.format(session=session, run=run_id)
    half = [{"request_id": one, "resolution": "allow"}, {"request_id": two, "resolution": "allow", "if_digest": "0"}]
    if ask(api, "GET", f"/v1/approvals/{two}").json["digest"].startswith("0"):
        half[1]["if_digest"] = "1"
    assert refusal(ask(api, "POST", path, {"resolutions": half})) == (409, "approval_digest_mismatch")
    assert len(ask(api, "GET", f"/v1/sessions/{session}/approvals").json) == 2
    both = [{"request_id": one, "resolution": "allow"}, {"request_id": two, "resolution": "deny"}]
    answer = ask(api, "POST", path, {"resolutions": both})
    assert answer.status == status
    assert answer.json["session_id"] == session and answer.json["pending_approval_ids"] == []
    api.finish(run_id)
    tools = [m for m in ask(api, "GET", f"/v1/sessions/{session}/transcript").json["items"] if m["role"] == "tool"]
    assert [m["is_error"] for m in tools] == [False, True]


def test_a_question_is_listed_shown_and_answered(api: DaemonProcess) -> None:
    run_id, request_id = asked(api, "question", "ASK")
    view = ask(api, "GET", f"/v1/questions/{request_id}").json
    assert (view["session_id"], view["run_id"]) == ("question", run_id)
    (question,) = view["questions"]
    assert question == {
        "id": "1",
        "header": "Colour",
        "question": "Which colour?",
        "options": [
            {"id": "1", "label": "red", "description": ""},
            {"id": "2", "label": "blue", "description": "like the sea"},
        ],
        "multi_select": False,
    }
    assert ask(api, "GET", "/v1/sessions/question/questions").json == [view]
    assert view in ask(api, "GET", "/v1/questions").json
    assert ask(api, "GET", "/v1/questions?session_id=question").json == [view]
    assert ask(api, "GET", "/v1/inbox?session_id=question").json == {"approvals": [], "questions": [view]}
    assert ask(api, "GET", f"/v1/runs/{run_id}").json["pending_questions"] == [view]
    blue = next(o["id"] for o in question["options"] if o["label"] == "blue")
    body = {"answers": [{"question_id": question["id"], "selected_option_ids": [blue]}]}
    answer = ask(api, "POST", f"/v1/questions/{request_id}", body)
    assert answer.status == 200 and answer.json["run_id"] == run_id
    api.finish(run_id)
    tool = next(m for m in ask(api, "GET", "/v1/sessions/question/transcript").json["items"] if m["role"] == "tool")
    assert tool["text"] == "Which colour?\n-> blue"
    late = ask(api, "POST", f"/v1/questions/{request_id}", {"declined": True})
    assert refusal(late) == (409, "question_state_conflict") and late.json["how"] == "answered"


def test_a_wrong_answer_leaves_the_question_open(api: DaemonProcess) -> None:
    run_id, request_id = asked(api, "wrong", "ASK")
    one = {"question_id": "1"}
    for answers, code in (
        ([], "question_answer_missing"),
        ([{"question_id": "9", "freeform_answer": "x"}], "question_unknown_answer"),
        ([one], "question_answer_empty"),
        ([{**one, "selected_option_ids": ["7"]}], "question_option_not_found"),
        ([{**one, "selected_option_ids": ["1", "2"]}], "question_single_select_violation"),
        ([{**one, "selected_option_ids": ["1", "1"]}], "question_duplicate_option"),
        ([{**one, "freeform_answer": "x"}, {**one, "freeform_answer": "y"}], "question_duplicate_answer"),
    ):
        assert refusal(ask(api, "POST", f"/v1/questions/{request_id}", {"answers": answers})) == (400, code), answers
    both = {"declined": True, "answers": [{**one, "freeform_answer": "x"}]}
    assert refusal(ask(api, "POST", f"/v1/questions/{request_id}", both)) == (400, "question_declined_with_answers")
    assert ask(api, "GET", f"/v1/runs/{run_id}").json["status"] == "waiting_for_user_question"


@pytest.mark.parametrize("where", ["sessions", "runs"])
def test_a_question_is_declined_through_its_session_or_its_run(api: DaemonProcess, where: str) -> None:
    session = f"decline-{where}"
    run_id, request_id = asked(api, session, "ASK")
    path = f"/v1/sessions/{session}/questions" if where == "sessions" else f"/v1/runs/{run_id}/questions"
    body = {"resolution": {"request_id": request_id, "declined": True, "justification": "ask me later"}}
    answer = ask(api, "POST", path, body)
    assert answer.status == 200 and answer.json["pending_question_ids"] == []
    api.finish(run_id)
    tool = next(m for m in ask(api, "GET", f"/v1/sessions/{session}/transcript").json["items"] if m["role"] == "tool")
    assert tool["text"] == "The user declined to answer: ask me later"


def test_a_rule_is_added_listed_and_obeyed(api: DaemonProcess) -> None:
    api.session("rules")
    rule = {"pattern": "bash(echo*)", "behavior": "deny"}
    view = ask(api, "POST", "/v1/sessions/rules/rules", rule).json
    rule["scope"] = "session"
    assert view["rules"] == [rule]
    again = ask(api, "POST", "/v1/sessions/rules/rules", {"pattern": "bash(echo*)", "behavior": "deny"})
    assert again.json["seq"] == view["seq"], "once is enough"
    listed = ask(api, "GET", "/v1/sessions/rules/rules").json
    assert listed[0] == rule and {"pattern": "bash", "behavior": "ask", "scope": "default"} in listed
    run_id = api.submit("rules", "SHELL")
    api.finish(run_id)
    (audit,) = ask(api, "GET", "/v1/sessions/rules/permission-audits").json
    assert (audit["run_id"], audit["tool"], audit["behavior"], audit["rule"], audit["rule_scope"], audit["mode"]) == (
        run_id,
        "bash",
        "deny",
        "bash(echo*)",
        "session",
        "default",
    )
    record = next(r for r in api.records("rules") if r["seq"] == audit["seq"])
    assert record["at_ms"] == audit["at_ms"]
    assert any(e["type"] == "tool_call.decided" and e["digest"] == audit["digest"] for e in record["events"])


def test_a_permission_is_checked_without_running_anything(api: DaemonProcess) -> None:
    api.session("check", "plan")
    ask(api, "POST", "/v1/sessions/check/rules", {"pattern": "bash(rm *)", "behavior": "deny"})
    seq = ask(api, "GET", "/v1/sessions/check").json["seq"]

    def check(**body: object) -> Json:
        answer = ask(api, "POST", "/v1/runtime/permissions/check", {"tool_name": "bash", **body})
        assert answer.status == 200, answer
        view: Json = answer.json
        return view

    plain = check(input={"command": "ls"})
    assert (plain["mode"], plain["decision"], plain["approval_required"], plain["matched_rule"], plain["scope"]) == (
        "default",
        "ask",
        True,
        "bash",
        "default",
    )
    denied = check(input={"command": "rm -r ."}, session_id="check")
    assert (denied["decision"], denied["matched_rule"], denied["scope"]) == ("deny", "bash(rm *)", "session")
    planned = check(input={"command": "ls"}, session_id="check")
    assert (planned["mode"], planned["decision"], planned["base_decision"]) == ("plan", "deny", "ask")
    assert planned["mode_effect"]
    assert check(input={"command": "ls"}, session_id="check", mode_override="bypass")["decision"] == "allow"
    assert check(input={"nonsense": 1})["reason"]
    ask(api, "POST", "/v1/sessions/check/rules", {"pattern": "read_file(notes/*)", "behavior": "deny"})
    seq += 1
    for path in ("notes/a", "./x/../notes/a", f"{ask(api, 'GET', '/v1/sessions/check').json['cwd']}/notes/a"):
        inside = check(tool_name="read_file", input={"path": path}, session_id="check")
        assert inside["decision"] == "deny", "by any name in the session's workspace"
    assert ask(api, "GET", "/v1/sessions/check").json["seq"] == seq, "nothing is kept"


def test_the_matrix_shows_every_tool_in_every_mode(api: DaemonProcess) -> None:
    rows = {row["tool_name"]: row for row in ask(api, "POST", "/v1/runtime/permissions/matrix").json}
    assert {"bash", "read_file", "write_file", "ask_user_question"} <= set(rows)
    modes = {"default", "accept_edits", "plan", "dont_ask", "bypass"}
    assert all(set(row["decisions"]) == modes for row in rows.values())
    assert rows["bash"]["decisions"] == {
        "default": "ask",
        "accept_edits": "ask",
        "plan": "deny",
        "dont_ask": "deny",
        "bypass": "allow",
    }
    assert set(rows["read_file"]["decisions"].values()) == {"allow"}


def test_the_matrix_of_a_session_has_its_own_rules(api: DaemonProcess) -> None:
    def decisions(**body: str) -> dict[str, Json]:
        rows = ask(api, "POST", "/v1/runtime/permissions/matrix", body).json
        return {row["tool_name"]: row["decisions"] for row in rows}

    ask(api, "POST", f"/v1/sessions/{api.session('matrix')}/rules", {"pattern": "read_file", "behavior": "deny"})
    assert decisions()["read_file"]["default"] == "allow"
    of_session = decisions(session_id="matrix")
    assert set(of_session.pop("read_file").values()) == {"deny"}
    assert of_session == {tool: row for tool, row in decisions().items() if tool != "read_file"}


def test_a_long_output_is_read_in_parts_from_its_blob(api: DaemonProcess) -> None:
    run_id = start(api, "long", "LONG", "bypass")
    api.finish(run_id)
    done = next(e for r in api.records("long") for e in r["events"] if e["type"] == "tool_call.completed")
    whole = "".join(f"{number}\n" for number in range(1, 9001)).encode()
    assert done["output_bytes"] == len(whole) and done["blob"] == hashlib.sha256(whole).hexdigest()
    path = f"/v1/blobs/{done['blob']}"
    answer = ask(api, "GET", path)
    assert answer.headers["content-type"] == "application/octet-stream" and answer.body == whole
    assert ask(api, "GET", f"{path}?offset=4&limit=6").body == whole[4:10]
    assert ask(api, "GET", f"{path}?offset={len(whole)}").body == b""


def test_the_status_counts_what_there_is(api: DaemonProcess) -> None:
    before = ask(api, "GET", "/v1/status").json
    start(api, "status-hang", "HANG")
    api.submit("status-hang", "queued")
    asked(api, "status-approve")
    asked(api, "status-ask", "ASK")
    after = ask(api, "GET", "/v1/status").json
    assert after["status"] == "ready" and after["ready"] is True and after["warnings"] == []
    assert after["pid"] == api.pid and after["socket"] == str(api.socket) and after["state_root"] == str(api.state)
    assert after["sessions"]["total"] - before["sessions"]["total"] == 3

    def more(part: str, name: str) -> int:
        return int(after[part][name]) - int(before[part][name])

    assert [more("runs", n) for n in ("active", "queued", "waiting_for_approval", "waiting_for_user_question")] == [
        3,
        1,
        1,
        1,
    ]
    assert [more("inbox", n) for n in ("approvals", "questions")] == [1, 1]
    inbox = ask(api, "GET", "/v1/inbox").json
    assert (
        len(inbox["approvals"]) == after["inbox"]["approvals"]
        and len(inbox["questions"]) == after["inbox"]["questions"]
    )
    for noun in ("approvals", "questions"):
        times = [item["requested_at_ms"] for item in inbox[noun]]
        assert times == sorted(times), "oldest first"


def test_the_probes_and_the_routes_answer(api: DaemonProcess) -> None:
    assert ask(api, "GET", "/healthz").json == {"status": "ok"}
    assert ask(api, "GET", "/readyz").json == {"status": "ready"}
    routes = {route["route_id"]: route for route in ask(api, "GET", "/v1/routes").json}
    assert routes["test"]["is_default"] and routes["test"]["ready"] and routes["test"]["driver"] == "scripted"


def test_a_damaged_session_does_not_hide_the_others(own: DaemonProcess) -> None:
    """A bit is flipped while the daemon is away; it is found when the session is opened, which a list does."""
    for name, content in (("good", "SHELL"), ("bad", "SHELL"), ("good-asks", "ASK"), ("bad-asks", "ASK")):
        asked(own, name, content)
    assert own.stop() == 0
    for name in ("bad", "bad-asks"):
        (journal,) = (own.state / "sessions" / name).glob("journal-*.jsonl")
        data = bytearray(journal.read_bytes())
        data[data.index(b'"session.created"') + 4] ^= 1
        journal.write_bytes(data)
    own.start()
    assert [item["session_id"] for item in ask(own, "GET", "/v1/approvals").json] == ["good"]
    assert [item["session_id"] for item in ask(own, "GET", "/v1/questions").json] == ["good-asks"]
    assert {run["session_id"] for run in ask(own, "GET", "/v1/runs").json} == {"good", "good-asks"}
    answer = ask(own, "GET", "/v1/sessions/bad")
    assert (
        refusal(answer) == (503, "session_corrupt") and answer.json["line"] == 2 and "journal-" in answer.json["file"]
    )
    assert refusal(ask(own, "POST", "/v1/sessions/bad/runs", {"content": "x"})) == (503, "session_corrupt")
    assert refusal(ask(own, "GET", "/v1/sessions/bad/stream")) == (503, "session_corrupt")
    rows = {row["session_id"]: row for row in ask(own, "GET", "/v1/sessions").json}
    assert "bad" in rows and rows["bad"]["problem"] and not rows["good"]["problem"]
    status = ask(own, "GET", "/v1/status").json
    assert status["sessions"]["read_only"] == 2
    assert {(w["code"], w["session_id"]) for w in status["warnings"]} == {
        ("session_read_only", "bad"),
        ("session_read_only", "bad-asks"),
    }
