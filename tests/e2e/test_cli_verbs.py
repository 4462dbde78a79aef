"""The daily verbs and the noun groups against a real daemon: data on standard output, statuses, prefixes, JSON."""

from __future__ import annotations

import json
import os
import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.e2e.cli_process import CliProcess, cli_here, on_terminal

pytestmark = pytest.mark.slow

QUESTIONS = [
    {"header": "Colour", "question": "Which?", "options": [{"label": "Red"}, {"label": "Blue", "description": "calm"}]},
    {"header": "Name", "question": "What name?"},
]


@pytest.fixture
def kheish(shared_daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """The shared daemon; what is typed runs in this process, which saves hundreds of interpreters their start."""
    monkeypatch.setattr(shared_daemon, "cli", partial(cli_here, shared_daemon))
    return shared_daemon


def model_of(kheish: DaemonProcess, name: str, *replies: Any) -> str:
    return kheish.script(*replies, text("done"), name=f"{name}.json", after_last="repeat")


def waiting_approval(kheish: DaemonProcess, session_id: str, *commands: str) -> list[str]:
    """A session whose run waits with a bash call for each command; the approvals' ids."""
    model = model_of(kheish, session_id, calls(*[tool("bash", command=command) for command in commands]))
    kheish.submit(kheish.session(session_id), model=model)
    kheish.until(session_id, "approval.requested")
    return [str(a["request_id"]) for a in kheish.client.approvals.list(session_id=session_id)]


def waiting_question(kheish: DaemonProcess, session_id: str, questions: list[Any] = QUESTIONS) -> str:
    model = model_of(kheish, session_id, calls(tool("ask_user_question", questions=questions)))
    kheish.submit(kheish.session(session_id), model=model)
    return str(kheish.until(session_id, "question.requested")["request_id"])


def hanging(kheish: DaemonProcess, session_id: str) -> str:
    """A session whose run is at work for ever; the run's id."""
    model = kheish.script({"hang": 99}, name=f"{session_id}.json")
    run_id = kheish.submit(kheish.session(session_id), model=model)
    kheish.until(session_id, "model_call.started")
    return run_id


def idle(kheish: DaemonProcess, session_id: str) -> str:
    """A session whose run is over; the run's id."""
    run_id = kheish.submit(kheish.session(session_id, "bypass"), model=model_of(kheish, session_id, bash("echo hi")))
    kheish.finish(run_id)
    return run_id


# -- what is at work ------------------------------------------------------------------------------------------------


def test_ps_lists_what_is_at_work_or_waits_and_with_a_all(kheish: DaemonProcess) -> None:
    hanging(kheish, "ps-busy")
    (request_id,) = waiting_approval(kheish, "ps-waiting", "true")
    idle(kheish, "ps-idle")
    shown = kheish.cli("ps").stdout
    assert re.search(r"^ps-busy +running .* run_\w{26} +go$", shown, re.MULTILINE)
    assert re.search(r"^ps-waiting +waiting_for_approval ", shown, re.MULTILINE)
    assert "ps-idle" not in shown and "ps-idle" in kheish.cli("ps", "-a").stdout
    rows = {row["session_id"]: row for row in kheish.cli_json("ps")}
    assert rows["ps-waiting"]["pending_approval_ids"] == [request_id]
    assert rows["ps-busy"]["active_run_id"].startswith("run_")
    assert [row["session_id"] for row in kheish.cli_json("ps", "-a", "--limit", "1")] == ["ps-idle"]


def test_logs_show_what_happened_to_people_and_programs(kheish: DaemonProcess) -> None:
    run_id = idle(kheish, "logs")
    shown = kheish.cli("logs", "logs").stdout.splitlines()
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} session logs created by user:\d+ \(test\)", shown[0])
    assert "started bash: echo hi" in "\n".join(shown) and shown[-1].endswith("run completed")
    # One record holds all that one decision brought about.
    assert kheish.cli("logs", "logs", "-n", "1").stdout.splitlines() == shown[-2:]
    records = [json.loads(line) for line in kheish.cli("logs", "logs", "--json").stdout.splitlines()]
    assert records == kheish.records("logs")
    of_run = [json.loads(line) for line in kheish.cli("logs", run_id, "--json").stdout.splitlines()]
    assert of_run == records[1:]


def test_the_last_lines_still_name_the_calls_of_the_first(kheish: DaemonProcess) -> None:
    idle(kheish, "logs-tail")
    (line,) = [s for s in kheish.cli("logs", "logs-tail", "-n", "3").stdout.splitlines() if "->" in s]
    assert "bash: echo hi -> hi" in line


def test_the_directory_is_the_default_target_and_its_absence_is_explained(
    kheish: DaemonProcess, tmp_path: Path
) -> None:
    done = kheish.cli("logs", cwd=tmp_path)
    assert done.returncode == 5 and "kheish run TEXT" in done.stderr
    model = model_of(kheish, "default-target")
    assert kheish.cli("run", "--model", model, "go", cwd=tmp_path).returncode == 0
    assert "run completed" in kheish.cli("logs", cwd=tmp_path).stdout
    assert kheish.cli("wait", cwd=tmp_path).returncode == 0
    assert kheish.cli("permissions", "rules", cwd=tmp_path).returncode == 0


# -- the inbox ------------------------------------------------------------------------------------------------------


def test_the_inbox_shows_all_of_what_waits_and_the_commands_that_settle_it(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "inbox-a", "echo first\necho second")
    question_id = waiting_question(kheish, "inbox-q")
    shown = kheish.cli("inbox").stdout
    assert re.search(rf"^{request_id}  approval, \d+s ago, session inbox-a$", shown, re.MULTILINE)
    assert "  command    echo first\n             echo second\n" in shown
    assert "    2. Blue - calm\n" in shown
    (approve,) = re.findall(rf"^  (kheish approve {request_id} .*)$", shown, re.MULTILINE)
    (answer,) = re.findall(rf"^  (kheish answer {question_id} .*)$", shown, re.MULTILINE)
    assert kheish.cli(*shlex.split(approve)[1:]).returncode == 0
    assert kheish.cli(*shlex.split(answer.replace("=N", "=Blue"))[1:]).returncode == 0
    assert request_id not in kheish.cli("inbox").stdout


def test_the_inbox_counts_and_speaks_json(kheish: DaemonProcess) -> None:
    before = int(kheish.cli("inbox", "--count").stdout)
    waiting_approval(kheish, "count-a", "echo 1", "echo 2")
    question_id = waiting_question(kheish, "count-q")
    assert int(kheish.cli("inbox", "--count").stdout) == before + 3
    counts = kheish.cli_json("inbox", "--count")
    assert counts["total"] == counts["approvals"] + counts["questions"] == before + 3
    view = kheish.cli_json("inbox")
    assert {a["session_id"] for a in view["approvals"]} >= {"count-a"}
    (question,) = [q for q in view["questions"] if q["session_id"] == "count-q"]
    assert question["request_id"] == question_id and question["run_id"].startswith("run_")


# -- approvals ------------------------------------------------------------------------------------------------------


def test_approve_allows_the_call_that_was_shown_and_no_other(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "digest", "echo ran > digest.txt")
    digest = kheish.client.approvals.get(request_id)["digest"]
    wrong = kheish.cli("approve", request_id, "--if-digest", "0000" if digest[:4] != "0000" else "1111")
    assert wrong.returncode == 6 and "what would run is not what you saw" in wrong.stderr
    assert kheish.client.sessions.get("digest")["status"] == "waiting_for_approval"
    done = kheish.cli("approve", request_id, "--if-digest", digest[:6])
    assert done.returncode == 0 and done.stdout == "allowed: bash: echo ran > digest.txt\n"
    kheish.until("digest", "run.completed")
    assert (kheish.work / "digest.txt").read_text() == "ran\n"
    again = kheish.cli("approve", request_id)
    assert again.returncode == 6 and "settled before" in again.stderr


def test_approve_runs_the_arguments_as_edited(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "edited", "echo one > edited.txt")
    assert kheish.cli("approve", request_id, "--edit", "{").returncode == 2
    assert kheish.cli("approve", request_id, "--edit", '{"no": "command"}').returncode == 2
    done = kheish.cli("approve", request_id, "--edit", '{"command": "echo two > edited.txt"}')
    assert done.stdout == "allowed: bash: echo two > edited.txt\n"
    kheish.until("edited", "run.completed")
    assert (kheish.work / "edited.txt").read_text() == "two\n"
    assert "edited to bash: echo two > edited.txt" in kheish.cli("logs", "edited").stdout


def test_approve_keeps_the_exact_rule_that_it_names(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "rule-session", "echo ruled")
    done = kheish.cli("approve", request_id, "--session")
    assert "rule: allow bash(echo ruled) (this session)" in done.stderr
    kheish.until("rule-session", "run.completed")
    kheish.finish(
        kheish.submit("rule-session", model=model_of(kheish, "rule-again", *[text("")] * 2, bash("echo ruled")))
    )
    rows = kheish.cli_json("permissions", "rules", "-s", "rule-session")
    assert {"pattern": "bash(echo ruled)", "behavior": "allow", "scope": "session"} in rows


def test_always_is_for_every_session(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "rule-always", "echo everywhere 1")
    done = kheish.cli("approve", request_id, "--always", "--rule", "bash(echo everywhere *)")
    assert done.returncode == 0
    kheish.session("rule-other")
    decision = kheish.cli("permissions", "check", "--tool", "bash", "--arg", "echo everywhere 2", "-s", "rule-other")
    assert decision.stdout == "allow\n"
    assert "bash(echo everywhere *)" in kheish.cli("permissions", "rules", "--always").stdout
    assert kheish.cli("permissions", "forget", "bash(echo every*)").returncode == 5
    forgotten = kheish.cli("permissions", "forget", "bash(echo everywhere *)")
    assert forgotten.stdout == "forgot allow bash(echo everywhere *)\n"
    assert kheish.cli_json("permissions", "rules", "--always") == []
    asked = kheish.cli("permissions", "check", "--tool", "bash", "--arg", "echo everywhere 2", "-s", "rule-other")
    assert asked.stdout == "ask\n"


def test_deny_tells_the_model_why(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "denied", "echo no")
    done = kheish.cli("deny", request_id, "-m", "not on a Friday")
    assert done.stdout == "denied: bash: echo no\n"
    kheish.until("denied", "run.completed")
    transcript = kheish.cli("sessions", "transcript", "denied").stdout
    assert "A human denied this call: not on a Friday" in transcript


def test_all_approvals_of_a_session_are_settled_at_once(kheish: DaemonProcess) -> None:
    waiting_approval(kheish, "all-allowed", "echo 1", "echo 2")
    others = waiting_approval(kheish, "all-denied", "echo 3", "echo 4")
    (run,) = kheish.cli_json("approvals", "allow-all", "-s", "all-allo", "-m", "seen")
    assert run["session_id"] == "all-allowed"
    assert [a["request_id"] for a in kheish.cli_json("approvals", "list", "-s", "all-denied")] == others
    denied = kheish.cli("approvals", "deny-all", "--session-id", "all-denied")
    assert "deny: bash: echo 3" in denied.stderr
    kheish.until("all-denied", "run.completed")
    kheish.until("all-allowed", "run.completed")
    assert kheish.cli("approvals", "list", "-s", "all-none").returncode == 5


def test_an_approval_is_shown_whole(kheish: DaemonProcess) -> None:
    command = "\n".join(f"echo {n}" for n in range(40))
    (request_id,) = waiting_approval(kheish, "whole", command)
    shown = kheish.cli("approvals", "show", request_id).stdout
    assert all(f"echo {n}\n" in shown for n in range(40))
    assert re.search(r"^  digest     [0-9a-f]{64}$", shown, re.MULTILINE)
    in_the_inbox = kheish.cli("inbox").stdout
    assert f"... 32 more lines: kheish approvals show {request_id}" in in_the_inbox
    assert kheish.cli("approvals", "allow", request_id, "-m", "fine").returncode == 0


# -- questions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "arguments", "said"),
    [
        ("number", ["--option", "1=2", "it is Ada"], "Which?\n-> Blue\nWhat name?\n-> it is Ada"),
        ("label", ["--option", "colour=red", "Ada"], "Which?\n-> Red\nWhat name?\n-> Ada"),
        ("not", ["--decline", "-m", "busy"], "The user declined to answer: busy"),
    ],
)
def test_a_question_is_answered_by_number_label_or_words(
    kheish: DaemonProcess, how: str, arguments: list[str], said: str
) -> None:
    session_id = f"answer-{how}"
    question_id = waiting_question(kheish, session_id)
    assert kheish.cli("answer", question_id, *arguments).returncode == 0
    kheish.until(session_id, "run.completed")
    assert said in kheish.cli("sessions", "transcript", session_id).stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["--option", "9", "x"], ["--option", "Green"], ["--option", "1=9", "x"], ["--decline", "and words"]],
)
def test_a_wrong_answer_is_refused_and_the_question_waits(kheish: DaemonProcess, arguments: list[str]) -> None:
    if "wrong-answer" not in {q["session_id"] for q in kheish.client.questions.list()}:
        waiting_question(kheish, "wrong-answer")
    (question,) = kheish.client.questions.list(session_id="wrong-answer")
    done = kheish.cli("answer", question["request_id"], *arguments)
    assert done.returncode == 2 and "cannot" in done.stderr
    assert kheish.client.questions.list(session_id="wrong-answer") == [question]


def test_one_question_takes_its_choice_without_a_number(kheish: DaemonProcess) -> None:
    question_id = waiting_question(kheish, "one-question", [QUESTIONS[0]])
    shown = kheish.cli("questions", "show", question_id).stdout
    assert "  Which?\n    1. Red\n    2. Blue - calm\n" in shown
    assert [q["request_id"] for q in kheish.cli_json("questions", "list", "-s", "one-quest")] == [question_id]
    assert kheish.cli("questions", "answer", question_id, "--option", "blue").returncode == 0
    kheish.until("one-question", "run.completed")
    assert "-> Blue" in kheish.cli("sessions", "transcript", "one-question").stdout


def test_a_question_may_be_declined(kheish: DaemonProcess) -> None:
    question_id = waiting_question(kheish, "declined")
    assert kheish.cli("questions", "decline", question_id).stdout == "declined\n"


# -- waiting and stopping -------------------------------------------------------------------------------------------


def test_wait_says_with_its_status_how_it_ended(kheish: DaemonProcess) -> None:
    run_id = idle(kheish, "wait-done")
    assert kheish.cli("wait", run_id).returncode == 0
    assert kheish.cli_json("wait", "wait-done", "--until", "idle")["status"] == "idle"
    failing = kheish.submit("wait-done", model=kheish.script({"error": {"code": "invalid"}}, name="wait-fails.json"))
    failed = kheish.cli("wait", failing)
    assert failed.returncode == 20 and "is failed" in failed.stderr
    (request_id,) = waiting_approval(kheish, "wait-blocked", "true")
    assert kheish.cli("wait", "wait-blocked", "--until", "blocked").returncode == 22
    run = kheish.client.approvals.get(request_id)["run_id"]
    assert kheish.cli("runs", "wait", run, "--until", "blocked").returncode == 22
    hung = hanging(kheish, "wait-hung")
    for seconds in ("0", "0.2"):
        late = kheish.cli("wait", hung, "--timeout", seconds, "--json")
        assert late.returncode == 124 and json.loads(late.stdout)["status"] == "running"
    assert kheish.cli("wait", "wait-done", "--timeout", "0").returncode == 0
    kheish.client.runs.cancel(hung)
    assert kheish.cli("wait", hung).returncode == 21


def test_who_waits_for_what_waits_for_them_is_told(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "wait-told", "true")
    run_id = kheish.client.approvals.get(request_id)["run_id"]
    for target in (run_id, "wait-told"):
        late = kheish.cli("wait", target, "--timeout", "0.1")
        assert late.returncode == 124
        assert late.stderr.startswith(
            f"{target} waits for a human: see `kheish inbox`\n{target} is waiting for approval"
        )
    assert kheish.cli("wait", run_id, "--timeout", "0.1", "--json").stderr == ""
    with CliProcess(kheish, "wait", run_id) as wait:
        wait.until("waits for a human")
        kheish.client.approvals.deny(request_id)
        assert wait.finish() == 0


def test_input_may_wait_for_its_run(kheish: DaemonProcess) -> None:
    kheish.session("input-wait")
    model = model_of(kheish, "input-wait", bash("true"))
    blocked = kheish.cli("sessions", "input", "input-wait", "--model", model, "--wait", "go")
    assert blocked.returncode == 22
    queued = kheish.cli("sessions", "input", "input-wait", "--model", model, "next")
    assert re.fullmatch(r"run_\w{26}\n", queued.stdout)


def test_cancel_takes_a_run_or_the_active_run_of_a_session(kheish: DaemonProcess) -> None:
    run_id = hanging(kheish, "cancelled")
    assert kheish.cli("cancel", "cancelled", "-m", "wrong branch").stdout == f"{run_id} cancelled\n"
    assert "wrong branch" in kheish.cli("logs", run_id).stdout
    nothing = kheish.cli("cancel", "cancelled")
    assert nothing.returncode == 6 and "no run is active" in nothing.stderr
    assert kheish.cli_json("cancel", run_id)["status"] == "cancelled"


def test_interrupt_stops_the_active_run_and_the_queue_goes_on(kheish: DaemonProcess) -> None:
    run_id = hanging(kheish, "interrupted")
    following = kheish.submit("interrupted", model=model_of(kheish, "following"))
    view = kheish.cli_json("interrupt", "interrupted")
    assert (view["interrupted"], view["run_id"]) == (True, run_id)
    assert kheish.finish(following)["status"] == "completed"
    again = kheish.cli("interrupt", "interrupted")
    assert again.returncode == 0 and "no run was active" in again.stderr


# -- the queue ------------------------------------------------------------------------------------------------------


def test_queued_inputs_are_listed_edited_and_withdrawn(kheish: DaemonProcess) -> None:
    active = hanging(kheish, "queue")
    first, second = (kheish.cli("run", "-s", "queue", "-d", word).stdout.strip() for word in ("first", "second"))
    assert [r["run_id"] for r in kheish.cli_json("sessions", "queue", "queue")] == [first, second]
    assert kheish.cli("sessions", "edit", "queue", first[4:], "first,", "but better").returncode == 0
    assert "1  " + first in kheish.cli("sessions", "queue", "queue").stdout
    assert "first, but better" in kheish.cli("sessions", "queue", "queue").stdout
    assert kheish.cli("sessions", "withdraw", "queue", second).returncode == 0
    assert [r["run_id"] for r in kheish.cli_json("sessions", "queue", "queue")] == [first]
    assert kheish.cli("sessions", "withdraw", "queue", active).returncode == 6


# -- names ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def named(shared_daemon: DaemonProcess) -> dict[str, str]:
    """Something of each kind that waits, by the beginnings of its names."""
    (approval,) = waiting_approval(shared_daemon, "prefix-approval", "true")
    question = waiting_question(shared_daemon, "prefix-question")
    run_id = hanging(shared_daemon, "prefix-run-of-mine")
    return {
        "session": "prefix-run",
        "run": run_id[:20],
        "run without its noun": run_id[4:20],
        "approval": approval[:25],
        "approval without its noun": approval.partition("_")[2],
        "question": question[:25],
        "question without its noun": question.partition("_")[2],
    }


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("logs {}", "session"),
        ("logs {}", "run"),
        ("logs {}", "run without its noun"),
        ("wait {} --timeout 0", "session"),
        ("wait {} --timeout 0", "run"),
        ("runs get {}", "run"),
        ("runs get {}", "run without its noun"),
        ("runs events {}", "run without its noun"),
        ("runs wait {} --timeout 0", "run"),
        ("runs list -s {}", "session"),
        ("sessions get {}", "session"),
        ("sessions events {}", "session"),
        ("sessions transcript {}", "session"),
        ("sessions queue {}", "session"),
        ("sessions set-mode {} default", "session"),
        ("sessions verify {}", "session"),
        ("permissions rules -s {}", "session"),
        ("permissions audit -s {}", "session"),
        ("permissions check --tool bash -s {}", "session"),
        ("approvals list -s {}", "session"),
        ("approvals show {}", "approval"),
        ("approvals show {}", "approval without its noun"),
        ("questions list -s {}", "session"),
        ("questions show {}", "question"),
        ("questions show {}", "question without its noun"),
    ],
)
def test_the_beginning_of_a_name_is_enough(kheish: DaemonProcess, named: dict[str, str], line: str, kind: str) -> None:
    done = kheish.cli(*line.format(named[kind]).split())
    assert done.returncode == (124 if "wait" in line else 0), done.stderr


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("logs prefix-", 6, "prefix-approval, prefix-question, prefix-run-of-mine"),
        ("runs get run_0", 6, "cannot tell which run"),
        ("approve approval_0", 6, "cannot tell which"),
        ("logs nobody", 5, "kheish ps -a"),
        ("logs run_Z", 5, "kheish runs list"),
        ("runs get run_Z", 5, "run_Z"),
        ("sessions get nobody", 5, "kheish ps -a"),
        ("approve nothing", 5, "nothing"),
        ("answer nothing x", 5, "nothing"),
        ("sessions verify nobody", 5, "nobody"),
    ],
)
def test_a_name_of_several_or_of_none_is_said_to_be_so(
    kheish: DaemonProcess, named: dict[str, str], line: str, status: int, said: str
) -> None:
    if line.startswith("approve approval_"):
        waiting_approval(kheish, "prefix-second", "true")
    done = kheish.cli(*line.split())
    assert done.returncode == status and said in done.stderr and done.stdout == ""


def test_the_short_ids_of_a_terminal_are_taken(kheish: DaemonProcess) -> None:
    run_id = hanging(kheish, "short")
    status, shown = on_terminal(kheish, "runs", "list", "-s", "short", columns=80)
    (short,) = re.findall(r"^(run_\w+) ", shown.decode(), re.MULTILINE)
    assert status == 0 and len(short) < 20 and run_id.startswith(short)
    assert kheish.cli_json("runs", "get", short)["run_id"] == run_id


# -- one look, and JSON everywhere ----------------------------------------------------------------------------------


def test_the_groups_list_rows_that_carry_their_ids(kheish: DaemonProcess) -> None:
    (request_id,) = waiting_approval(kheish, "rows", "true")
    question_id = waiting_question(kheish, "rows-q")
    for line, wanted in {
        "sessions list": {"session_id": "rows"},
        "runs list": {"session_id": "rows", "run_id": kheish.client.approvals.get(request_id)["run_id"]},
        "runs list --active -s rows": {"session_id": "rows"},
        "approvals list": {"session_id": "rows", "request_id": request_id},
        "questions list": {"session_id": "rows-q", "request_id": question_id},
    }.items():
        rows = kheish.cli_json(*line.split())
        assert any(wanted.items() <= row.items() for row in rows), line
        assert kheish.cli(*line.split()).returncode == 0
    waiting = kheish.cli_json("sessions", "list", "--status", "waiting_for_user_question")
    assert {row["status"] for row in waiting} == {"waiting_for_user_question"}


def test_a_session_and_a_run_are_shown(kheish: DaemonProcess) -> None:
    run_id = idle(kheish, "shown")
    shown = kheish.cli("sessions", "get", "shown").stdout
    assert "shown  idle" in shown and f"  directory  {kheish.work}" in shown
    assert kheish.cli_json("sessions", "get", "shown")["runs_total"] == 1
    run = kheish.cli("runs", "get", run_id).stdout
    assert run.startswith(f"{run_id}  completed\n") and run.endswith("\ndone\n")
    assert kheish.cli_json("runs", "get", run_id)["outputs"] == ["done"]
    transcript = kheish.cli("sessions", "transcript", "shown").stdout
    assert transcript == "user:\ngo\n-> bash: echo hi\nbash:\nhi\nassistant:\ndone\n"
    assert [m["role"] for m in kheish.cli_json("sessions", "transcript", "shown")["items"]][-1] == "assistant"
    last = kheish.cli("sessions", "transcript", "shown", "--limit", "1").stdout
    assert last == "assistant:\ndone\n"


def test_the_journal_is_paged_as_json_lines(kheish: DaemonProcess) -> None:
    run_id = idle(kheish, "paged")
    records = kheish.records("paged")
    lines = kheish.cli("sessions", "events", "paged", "--limit", "2").stdout.splitlines()
    assert [json.loads(line) for line in lines] == records[:2]
    rest = kheish.cli("sessions", "events", "paged", "--cursor", "2", "--json").stdout.splitlines()
    assert [json.loads(line) for line in rest] == records[2:]
    streamed = [json.loads(line) for line in kheish.cli("runs", "stream", run_id).stdout.splitlines()]
    assert [frame["data"] for frame in streamed if frame["event"] == "record"] == records[1:]
    assert streamed[-1]["event"] == "bye"


def test_a_session_is_forked_at_a_record(kheish: DaemonProcess) -> None:
    kheish.script(text("The first."), text("The second."), name="fork.json")
    session = kheish.session("to-fork")
    for words in ("one", "two"):
        run_id = kheish.submit(session, words, model="scripted/fork.json")
        kheish.finish(run_id)
    middle = next(r["seq"] for r in kheish.records(session) if r["events"][-1]["type"] == "run.completed")
    made = kheish.cli_json("sessions", "fork", session, "--at", str(middle), "--name", "of-it", "--title", "Another")
    assert (made["session_id"], made["title"], made["cwd"]) == ("of-it", "Another", str(kheish.work))
    said = kheish.cli("sessions", "transcript", "of-it").stdout
    assert "The first." in said and "two" not in said
    assert f"forked from to-fork at record {middle}: 2 messages" in kheish.cli("logs", "of-it").stdout
    plain = kheish.cli_json("sessions", "fork", session)
    end = kheish.records(session)[-1]["seq"]
    assert (plain["title"], plain["permission_mode"]) == (f"fork of to-fork at {end}", "default")
    late = kheish.cli("sessions", "fork", session, "--at", "99")
    assert late.returncode == 6 and "it has" in late.stderr
    again = kheish.cli("sessions", "fork", session, "--name", "of-it")
    assert again.returncode == 6 and "choose another name" in again.stderr


def test_a_record_is_labelled_and_the_labels_are_listed(kheish: DaemonProcess) -> None:
    session = kheish.session("to-label")
    done = kheish.cli("sessions", "label", session, "1", "where", "it began")
    assert (done.returncode, done.stdout) == (0, "to-label at 1: where it began\n")
    assert kheish.cli("sessions", "labels", session).stdout.split("\n")[1].split(maxsplit=1) == ["1", "where it began"]
    assert kheish.cli_json("sessions", "labels", session) == [{"seq": 1, "label": "where it began"}]
    assert "labelled record 1 'where it began'" in kheish.cli("logs", session).stdout
    both = kheish.cli("sessions", "label", session, "1", "again", "--remove")
    assert both.returncode == 2 and "give the label, or --remove" in both.stderr
    assert kheish.cli("sessions", "label", session, "1").returncode == 2
    late = kheish.cli("sessions", "label", session, "99", "later")
    assert late.returncode == 5 and "has records up to 2" in late.stderr
    assert kheish.cli_json("sessions", "label", session, "1", "--remove")["labels"] == []
    assert kheish.cli("sessions", "labels", session).stdout == ""


def test_a_session_is_made_ended_and_its_mode_set(kheish: DaemonProcess) -> None:
    made = kheish.cli_json("sessions", "create", "made", "--mode", "plan", "--title", "A title", "--cwd", ".")
    assert (made["title"], made["permission_mode"], made["cwd"]) == ("A title", "plan", str(kheish.work))
    assert kheish.cli("sessions", "create", "made").stdout == "made\n"
    assert kheish.cli("sessions", "set-mode", "made", "accept_edits").stdout == "made: accept_edits\n"
    assert kheish.cli("sessions", "end", "made", "-m", "over").returncode == 0
    assert kheish.cli_json("sessions", "get", "made")["ended"] is True
    late = kheish.cli("run", "-s", "made", "go")
    assert late.returncode == 6 and "ended" in late.stderr
    assert kheish.cli("sessions", "create", "not/a/name").returncode == 2


def test_status_and_the_doctor_look_at_everything(kheish: DaemonProcess) -> None:
    status = kheish.cli_json("status")
    assert status["ready"] is True and status["pid"] == kheish.pid
    assert f"pid {kheish.pid}" in kheish.cli("status").stdout
    checks = {row["check"]: row for row in kheish.cli_json("doctor")}
    assert {"version", "state root", "disk", "daemon", "socket", "sessions", "routes", "bash"} <= set(checks)
    assert not [row for row in checks.values() if row["verdict"] == "wrong"]


def test_the_doctor_finds_what_is_wrong(kheish: DaemonProcess, tmp_path: Path) -> None:
    os.chmod(kheish.state, 0o755)
    try:
        done = kheish.cli("doctor")
    finally:
        os.chmod(kheish.state, 0o700)
    assert done.returncode == 1
    assert re.search(r"^wrong +state root +.* is open to others \(mode 755\); chmod 700 ", done.stdout, re.MULTILINE)
    (tmp_path / "file").touch()
    nowhere = kheish.cli("doctor", "--json", env={"KHEISH_STATE_ROOT": str(tmp_path / "file" / "state")})
    assert nowhere.returncode == 1
    assert json.loads(nowhere.stdout)[-1]["verdict"] == "wrong"


def test_routes_are_listed_and_their_file_is_named(kheish: DaemonProcess) -> None:
    (default,) = [row for row in kheish.cli_json("routes", "list") if row["is_default"]]
    assert default["route_id"] == "test"
    assert re.search(r"^test +\* +scripted ", kheish.cli("routes", "list").stdout, re.MULTILINE)
    assert kheish.cli("routes", "path").stdout == f"{kheish.config}/routes.toml\n"
    assert kheish.cli_json("routes", "path") == {"path": f"{kheish.config}/routes.toml"}


def test_a_run_is_explained_and_its_use_added_up(kheish: DaemonProcess) -> None:
    run_id = idle(kheish, "explained")
    told = kheish.cli("runs", "why", run_id).stdout.splitlines()
    way = "scripted/explained.json"
    assert told[:3] == [f"{run_id}  completed", f"the run takes {way}", f"step 1: {way}"]
    assert told[-1] == "the run completed"
    assert [a["step"] for a in kheish.cli_json("runs", "why", run_id)["attempts"]] == [1, 2]
    table = kheish.cli("runs", "usage", run_id, "--by", "route").stdout
    assert re.search(r"^scripted +2 +0 +0 +0 +0 +unknown$", table, re.MULTILINE), table
    rows = kheish.cli_json("usage", "--by", "session", "--since", "1h")["rows"]
    assert {row["name"]: row["calls"] for row in rows}["explained"] == 2
    assert kheish.cli_json("usage", "--since", "all")["since_ms"] == 0
    refused = kheish.cli("usage", "--since", "yesterday")
    assert refused.returncode and "write 90m, 12h, 7d, 4w or all" in refused.stderr
    assert "there are no chains" in kheish.cli("routes", "chains").stderr


def test_permissions_are_checked_listed_and_changed(kheish: DaemonProcess) -> None:
    idle(kheish, "permissions")
    assert kheish.cli("permissions", "check", "--tool", "bash", "--arg", "ls", "--mode", "plan").stdout == "deny\n"
    check = kheish.cli_json("permissions", "check", "--tool", "bash", "--input", '{"command": "ls"}')
    assert check["decision"] == "ask"
    for behavior in ("allow", "ask", "deny"):
        done = kheish.cli("permissions", behavior, f"bash({behavior} *)", "-s", "permissions")
        assert done.stdout == f"{behavior} bash({behavior} *) in permissions\n"
        assert (
            kheish.cli(
                "permissions",
                "check",
                "-s",
                "permissions",
                "--mode",
                "default",
                "--tool",
                "bash",
                "--arg",
                f"{behavior} x",
            ).stdout
            == f"{behavior}\n"
        )
    assert kheish.cli("permissions", "deny", "bash(", "-s", "permissions").returncode == 2
    assert {row["tool_name"] for row in kheish.cli_json("permissions", "matrix")} >= {"bash", "read_file"}
    assert re.search(r"^bash +unsafe +ask ", kheish.cli("permissions", "matrix").stdout, re.MULTILINE)
    (audit,) = kheish.cli_json("permissions", "audit", "-s", "permissions")
    assert (audit["tool"], audit["behavior"]) == ("bash", "allow")


# -- terminals ------------------------------------------------------------------------------------------------------


def test_colour_is_for_a_terminal_without_no_color(kheish: DaemonProcess) -> None:
    hanging(kheish, "colour")
    coloured = {k: v for k, v in kheish.env.items() if k != "NO_COLOR"}
    plain = kheish.env
    try:
        kheish.env = coloured
        assert b"\x1b[36mrunning\x1b[0m" in on_terminal(kheish, "ps")[1]
        assert "\x1b" not in kheish.cli("ps").stdout
    finally:
        kheish.env = plain
    assert b"\x1b" not in on_terminal(kheish, "ps")[1]


def test_lists_fit_a_narrow_terminal(kheish: DaemonProcess) -> None:
    run_id = kheish.submit(kheish.session("narrow-a-name-of-some-length"), "words " * 50, model=model_of(kheish, "n"))
    kheish.finish(run_id)
    (request_id,) = waiting_approval(kheish, "narrow", "echo " + "x" * 200)
    for line in (
        "ps -a",
        "runs list",
        "approvals list",
        "questions list",
        "sessions queue queue",
        "permissions matrix",
    ):
        status, shown = on_terminal(kheish, *line.split(), columns=40)
        assert status == 0
        assert max(len(line) for line in shown.decode().splitlines()) <= 40
    assert request_id[:21] in on_terminal(kheish, "approvals", "list", columns=40)[1].decode()


def test_json_is_indented_at_a_terminal_and_one_line_in_a_pipe(kheish: DaemonProcess) -> None:
    assert on_terminal(kheish, "status", "--json")[1].startswith(b'{\n  "status"')
    assert kheish.cli("status", "--json").stdout.count("\n") == 1
