"""`kheish run`: submits, follows, answers on standard output, and leaves the run with the daemon."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from kheish.limits import SUBSCRIBERS_MAX
from tests.api.raw_http import Stream
from tests.daemon_process import DaemonProcess, bash, calls, text, tool
from tests.e2e.cli_process import CliProcess, cli_here

pytestmark = pytest.mark.slow


@pytest.fixture
def kheish(shared_daemon: DaemonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DaemonProcess:
    """The shared daemon, with a directory of the test's own to stand in. What is typed runs in this process, except
    where a test says otherwise."""
    shared_daemon.work = tmp_path / "project"
    shared_daemon.work.mkdir()
    monkeypatch.setattr(shared_daemon, "cli", partial(cli_here, shared_daemon))
    return shared_daemon


def test_the_answer_is_data_and_the_rest_is_narration(kheish: DaemonProcess) -> None:
    model = kheish.script(bash("echo from the tool"), text("The answer.\nIn two lines."), name="answer.json")
    done = kheish.shell(f"kheish run --mode bypass --model {model} what is 'it?'")
    assert done.returncode == 0
    assert done.stdout == "The answer.\nIn two lines.\n"
    assert "started bash: echo from the tool" in done.stderr and "from the tool" in done.stderr
    assert "\x1b" not in done.stderr


def test_a_directory_has_one_session_of_its_own(kheish: DaemonProcess, tmp_path: Path) -> None:
    model = kheish.script(text("one"), text("two"), text("three"), name="directory.json")
    for word in ("one", "two"):
        assert kheish.cli("run", "--model", model, "go").stdout == f"{word}\n"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert kheish.cli("run", "--model", model, "go", cwd=elsewhere).stdout == "one\n"
    sessions = {s["cwd"]: s for s in kheish.client.sessions.list(limit=1000)}
    mine, other = sessions[str(kheish.work)], sessions[str(elsewhere)]
    assert mine["runs_total"] == 2 and mine["session_id"].startswith("project-")
    assert other["runs_total"] == 1 and other["session_id"].startswith("elsewhere-")


def test_a_named_session_is_taken_whole_and_made_where_it_is_new(kheish: DaemonProcess) -> None:
    model = kheish.script(text("hi"), name="named.json", after_last="repeat")
    kheish.session("named-long")
    made = kheish.cli("run", "-s", "named", "--model", model, "go")
    assert made.returncode == 0 and "new session named in" in made.stderr
    assert kheish.client.sessions.get("named")["runs_total"] == 1
    assert kheish.client.sessions.get("named-long")["runs_total"] == 0
    assert "new session" not in kheish.cli("run", "-s", "named", "--model", model, "go").stderr


def test_a_session_with_an_id_of_the_daemon_may_be_named_by_its_beginning(kheish: DaemonProcess) -> None:
    model = kheish.script(text("hi"), name="generated.json")
    session_id = kheish.client.sessions.create(cwd=str(kheish.work))["session_id"]
    assert kheish.cli("run", "-s", session_id[:24], "--model", model, "go").stdout == "hi\n"
    assert kheish.client.sessions.get(session_id)["runs_total"] == 1
    assert kheish.cli("run", "-s", "session_000", "go").returncode == 5


def test_standard_input_and_files_go_in_as_they_are(kheish: DaemonProcess) -> None:
    model = kheish.script(text("read"), name="input.json")
    (kheish.work / "notes.txt").write_text("überall\n", "utf-8")
    (kheish.work / "raw.bin").write_bytes(b"\xff\x00\xfe")
    done = kheish.cli(
        "run", "-s", "input", "--model", model, "--attach", "notes.txt", "--attach", "raw.bin", "-", input="läuft\n"
    )
    assert done.returncode == 0
    (submitted,) = [e for r in kheish.records("input") for e in r["events"] if e["type"] == "run.submitted"]
    assert submitted["text"] == "läuft\n"
    notes, raw = submitted["attachments"]
    assert (notes["name"], notes["text"]) == ("notes.txt", "überall\n")
    assert (raw["name"], raw["bytes"], raw["media_type"]) == ("raw.bin", 3, "application/octet-stream")
    blob = kheish.state / "blobs" / raw["blob"][:2] / raw["blob"]
    assert blob.read_bytes() == b"\xff\x00\xfe"


def test_words_may_say_what_standard_input_is_for(kheish: DaemonProcess) -> None:
    model = kheish.script(text("read"), name="both.json")
    assert kheish.cli("run", "-s", "both", "--model", model, "what is", "this?", "-", input="a\nb\n").returncode == 0
    (submitted,) = [e for r in kheish.records("both") for e in r["events"] if e["type"] == "run.submitted"]
    assert submitted["text"] == "what is this?\n\na\nb\n"


def test_pictures_and_documents_go_in_as_what_they_are(kheish: DaemonProcess) -> None:
    """A PDF may be all ASCII, and is no text; a drawing in SVG is one."""
    model = kheish.script(text("seen"), name="pictures.json")
    for name in ("shot.png", "paper.pdf", "drawing.svg"):
        (kheish.work / name).write_text(f"<{name}>")
    files = [part for name in ("shot.png", "paper.pdf", "drawing.svg") for part in ("--attach", name)]
    assert kheish.cli("run", "-s", "pictures", "--model", model, *files, "look").returncode == 0
    (submitted,) = [e for r in kheish.records("pictures") for e in r["events"] if e["type"] == "run.submitted"]
    shot, paper, drawing = submitted["attachments"]
    assert (shot["media_type"], paper["media_type"]) == ("image/png", "application/pdf")
    assert shot["blob"] and paper["blob"]
    assert drawing["text"] == "<drawing.svg>"


@pytest.mark.parametrize("given", [rb"", rb" \n", rb"\377\376"], ids=["nothing", "blank", "not UTF-8"])
def test_an_unusable_standard_input_is_refused(kheish: DaemonProcess, given: bytes) -> None:
    for words in ("", "what is this? "):
        done = kheish.shell(f"printf '{given.decode()}' | kheish run -s refused {words}-")
        assert done.returncode == 2 and "cannot submit" in done.stderr
    assert "refused" not in [s["session_id"] for s in kheish.client.sessions.list(limit=1000)]


def test_a_file_that_is_too_large_is_refused(kheish: DaemonProcess) -> None:
    with open(kheish.work / "large", "wb") as file:
        file.truncate(3 * 1024 * 1024)
    done = kheish.cli("run", "--attach", "large", "go")
    assert done.returncode == 2 and "cannot attach large" in done.stderr


def test_detached_it_prints_the_run_and_leaves(kheish: DaemonProcess) -> None:
    model = kheish.script(text("later"), name="detached.json", after_last="repeat")
    done = kheish.cli("run", "-s", "detached", "--model", model, "--detach", "go")
    assert re.fullmatch(r"run_[0-9A-Z]{26}\n", done.stdout)
    assert kheish.finish(done.stdout.strip())["outputs"] == ["later"]
    view = kheish.cli_json("run", "-s", "detached", "--model", model, "-d", "go")
    assert view["session_id"] == "detached" and view["run_id"].startswith("run_")
    assert kheish.finish(view["run_id"])["status"] == "completed"


def test_as_json_every_line_is_a_frame_of_the_stream(kheish: DaemonProcess) -> None:
    model = kheish.script({"deltas": ["a", "b"]}, name="json.json")
    done = kheish.cli("run", "-s", "json", "--model", model, "--json", "go")
    assert done.returncode == 0
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    types = [e["type"] for f in frames if f["event"] == "record" for e in f["data"]["events"]]
    assert types[0] == "run.submitted" and types[-1] == "run.completed"
    assert {f["event"] for f in frames} <= {"record", "delta", "sync", "heartbeat", "bye"}
    assert all(f["id"] for f in frames if f["event"] == "record")


def test_the_same_key_submits_once_and_is_followed_again(kheish: DaemonProcess) -> None:
    model = kheish.script(text("once"), name="key.json")
    for _ in range(2):
        assert kheish.cli("run", "-s", "key", "--model", model, "--key", "k1", "go").stdout == "once\n"
    assert kheish.client.sessions.get("key")["runs_total"] == 1
    other = kheish.cli("run", "-s", "key", "--model", model, "--key", "k1", "something else")
    assert other.returncode == 6


def test_a_mode_stays_with_the_session(kheish: DaemonProcess) -> None:
    model = kheish.script(text("hi"), name="mode.json")
    assert kheish.cli("run", "-s", "mode", "--mode", "plan", "--model", model, "go").returncode == 0
    assert kheish.client.sessions.get("mode")["permission_mode"] == "plan"


# -- input for a run that is active ---------------------------------------------------------------------------------


def gated(kheish: DaemonProcess) -> str:
    """A command that ends when the file `gate` comes."""
    return f"while [ ! -e {kheish.work}/gate ]; do sleep 0.02; done"


def test_a_steered_text_enters_the_active_run_and_is_followed_with_it(kheish: DaemonProcess) -> None:
    model = kheish.script(bash(gated(kheish)), text("steered"), name="steer.json")
    run_id = kheish.submit(kheish.session("steer", "bypass"), model=model)
    kheish.until("steer", "tool_call.started")
    with CliProcess(kheish, "run", "-s", "steer", "--steer", "and the tests") as steering:
        kheish.until("steer", "input.steered")
        (kheish.work / "gate").touch()
        assert steering.finish() == 0
    assert steering.out == "steered\n"
    assert [r["run_id"] for r in kheish.client.sessions.runs("steer")] == [run_id]


def test_a_session_is_called_new_where_the_run_made_it_and_not_where_it_had_none_yet(kheish: DaemonProcess) -> None:
    model = kheish.script(text("hello"), name="hello.json")
    kheish.session("made-before")
    said = [kheish.cli("run", "-s", name, "--model", model, "go").stderr for name in ("made-before", "made-now")]
    assert ["new session" in text for text in said] == [False, True]


def test_who_follows_a_run_is_told_that_a_reply_was_cut(kheish: DaemonProcess) -> None:
    model = kheish.script(text("half a", stop_reason="max_tokens"), name="cut.json")
    done = kheish.cli("run", "-s", "cut", "--model", model, "go")
    assert (done.returncode, done.stdout) == (0, "half a\n") and "it is not whole" in done.stderr
    assert "model: half a [the reply ends" in kheish.cli("logs", "cut").stdout


def test_a_steered_text_starts_a_run_where_none_is_active(kheish: DaemonProcess) -> None:
    model = kheish.script(text("fresh"), name="fresh.json")
    assert kheish.cli("run", "-s", "fresh", "--model", model, "--steer", "go").stdout == "fresh\n"


def test_a_steered_run_that_waits_for_a_human_says_so(kheish: DaemonProcess) -> None:
    model = kheish.script(bash("true"), text("never"), name="steer-waiting.json")
    kheish.submit(kheish.session("steer-waiting"), model=model)
    asked = kheish.until("steer-waiting", "approval.requested")
    done = kheish.cli("run", "-s", "steer-waiting", "--steer", "hurry")
    assert done.returncode == 22
    assert f"kheish approve {asked['request_id']} --if-digest" in done.stderr


def test_an_interrupting_text_stops_the_active_run_and_goes_first(kheish: DaemonProcess) -> None:
    model = kheish.script(bash("sleep 300"), text("urgent"), name="interrupt.json")
    run_id = kheish.submit(kheish.session("interrupt", "bypass"), model=model)
    kheish.until("interrupt", "tool_call.started")
    done = kheish.cli("run", "-s", "interrupt", "--model", model, "--interrupt", "now")
    assert done.stdout == "urgent\n"
    assert kheish.client.runs.get(run_id)["status"] == "interrupted"


def test_a_text_behind_a_paused_queue_says_so_and_holds_no_script(kheish: DaemonProcess) -> None:
    session, model = kheish.session("held"), kheish.script(text("it goes on"), name="held.json")
    assert kheish.cli("sessions", "pause", session).stdout == "held: its queue is paused\n"
    done = kheish.cli("run", "-s", session, "--model", model, "go")
    assert done.returncode == 22 and done.stdout == ""
    assert "the queue is paused: `kheish sessions resume held` lets it go on" in done.stderr
    (queued,) = kheish.client.sessions.queue(session)
    assert f"{queued['run_id']} stays queued: the queue is paused" in done.stderr
    for target in (session, queued["run_id"]):
        waited = kheish.cli("wait", target, "--until", "blocked")
        assert waited.returncode == 22 and "the queue of held is paused" in waited.stderr
    assert "queue      paused" in kheish.cli("sessions", "get", session).stdout
    assert kheish.cli("sessions", "resume", session).stdout == "held: its queue goes on\n"
    assert kheish.finish(queued["run_id"])["status"] == "completed"


def test_a_queued_text_says_what_it_waits_for(kheish: DaemonProcess) -> None:
    model = kheish.script(bash("true"), text("first"), text("second"), name="queued.json")
    run_id = kheish.submit(kheish.session("queued"), model=model)
    asked = kheish.until("queued", "approval.requested")
    done = kheish.cli("run", "-s", "queued", "--model", model, "next")
    assert done.returncode == 22 and done.stdout == "", "a script is not held for as long as nobody answers"
    assert f"queued at position 1 behind {run_id}, which waits for you" in done.stderr
    (queued,) = kheish.client.sessions.queue("queued")
    assert f"{queued['run_id']} stays queued: {run_id} waits for you" in done.stderr
    waited = kheish.cli("wait", queued["run_id"], "--until", "blocked")
    assert waited.returncode == 22 and f"{run_id}, which goes before it, waits for a human" in waited.stderr
    kheish.client.approvals.allow(asked["request_id"])
    assert kheish.cli("wait", queued["run_id"]).returncode == 0
    assert kheish.client.runs.get(queued["run_id"])["outputs"] == ["second"]


def test_a_closed_standard_input_is_no_terminal(kheish: DaemonProcess) -> None:
    model = kheish.script(text("hi"), name="closed.json")
    done = kheish.shell(f"kheish run -s closed --model {model} go <&-")
    assert (done.returncode, done.stdout) == (0, "hi\n") and "Traceback" not in done.stderr
    endless = kheish.shell("yes | kheish run -s endless -")
    assert endless.returncode == 2 and "over 1048576 characters" in endless.stderr


# -- how it ends ----------------------------------------------------------------------------------------------------


def test_a_failed_run_says_why_and_is_status_20(kheish: DaemonProcess) -> None:
    model = kheish.script({"error": {"code": "invalid", "message": "no such thing"}}, name="fails.json")
    done = kheish.cli("run", "-s", "fails", "--model", model, "go")
    assert done.returncode == 20
    assert "run failed" in done.stderr and "no such thing" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_a_run_that_is_stopped_from_elsewhere_is_status_21(kheish: DaemonProcess, how: str) -> None:
    model = kheish.script(bash("sleep 300"), name=f"stopped-{how}.json")
    session_id = f"stopped-{how}"
    with CliProcess(kheish, "run", "-s", session_id, "--mode", "bypass", "--model", model, "go") as run:
        run.until("started bash")
        assert kheish.cli(how, session_id, "-m", "enough").returncode == 0
        assert run.finish() == 21
    assert "by user:" in run.err and "enough" in run.err


def test_without_a_terminal_it_prints_what_is_needed_and_is_status_22(kheish: DaemonProcess) -> None:
    question = tool(
        "ask_user_question", questions=[{"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}]
    )
    model = kheish.script(
        calls(tool("bash", command="echo one"), tool("bash", command="echo two")),
        calls(question),
        text("done"),
        name="waits.json",
    )
    done = kheish.shell(f"kheish run -s waits --model {model} go")
    assert done.returncode == 22 and done.stdout == ""
    assert "bash: echo one" in done.stderr and "bash: echo two" in done.stderr
    commands = re.findall(r"^  (kheish approve .*)$", done.stderr, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert kheish.cli(*shlex.split(command)[1:]).returncode == 0
    (run,) = kheish.client.sessions.runs("waits")
    kheish.until("waits", "question.requested")
    blocked = kheish.cli("run", "-s", "waits", "--steer", "hurry")
    (command,) = re.findall(r"^  (kheish answer .*)$", blocked.stderr, re.MULTILINE)
    assert kheish.cli(*shlex.split(command.replace("--option N", "--option 2"))[1:]).returncode == 0
    assert kheish.finish(run["run_id"])["status"] == "completed"


def test_a_run_that_cannot_be_followed_is_named_for_it_goes_on(kheish: DaemonProcess) -> None:
    model = kheish.script(text("done"), name="crowded.json")
    with contextlib.ExitStack() as readers:
        for _ in range(SUBSCRIBERS_MAX):
            readers.enter_context(Stream(kheish, "/v1/events/stream"))
        run = kheish.cli("run", "-s", "crowded", "--model", model, "go")
    (view,) = kheish.client.sessions.runs("crowded")
    assert run.returncode == 6 and "cannot subscribe" in run.stderr
    assert f"detached: {view['run_id']} goes on" in run.stderr
    assert kheish.finish(view["run_id"])["status"] == "completed"


# -- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_the_run_at_work_and_says_how_to_come_back(kheish: DaemonProcess) -> None:
    model = kheish.script(bash(gated(kheish)), text("done"), name="ctrl-c.json")
    with CliProcess(kheish, "run", "-s", "ctrl-c", "--mode", "bypass", "--model", model, "go") as run:
        run.until("started bash")
        run.interrupt()
        assert run.finish() == 130
    (run_view,) = kheish.client.sessions.runs("ctrl-c")
    assert run_view["status"] == "running"
    assert f"kheish logs -f {run_view['run_id']}" in run.err
    (kheish.work / "gate").touch()
    assert kheish.finish(run_view["run_id"])["status"] == "completed"


def test_ctrl_c_before_it_is_listened_for_says_where_the_run_is(
    kheish: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was submitted goes on, and whoever is not told submits it once more."""

    def press(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    model = kheish.script(text("done"), name="ctrl-c-early.json")
    with monkeypatch.context() as early:
        early.setattr("kheish.cli.follower.Follower.__init__", press)
        run = kheish.cli("run", "-s", "early", "--model", model, "go")
    (view,) = kheish.client.sessions.runs("early")
    assert run.returncode == 130 and f"detached: {view['run_id']} goes on" in run.stderr
    assert kheish.finish(view["run_id"])["status"] == "completed"
    with monkeypatch.context() as earlier:
        earlier.setattr("kheish.client.nouns.Sessions.submit", press)
        run = kheish.cli("run", "-s", "early", "--model", model, "go")
    assert run.returncode == 130 and "kheish runs list" in run.stderr


def test_ctrl_c_twice_cancels_the_run(kheish: DaemonProcess) -> None:
    model = kheish.script(bash("sleep 300"), name="ctrl-c-twice.json")
    with CliProcess(kheish, "run", "-s", "twice", "--mode", "bypass", "--model", model, "go") as run:
        run.until("started bash")
        run.interrupt()
        run.until("Ctrl-C again cancels it")
        run.interrupt()
        assert run.finish() == 21
    assert kheish.client.sessions.runs("twice")[0]["status"] == "cancelled"
