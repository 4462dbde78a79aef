"""Text of models, tools and people reaches the screen without what moves its cursor or turns its direction."""

from __future__ import annotations

import json
import unicodedata
from functools import partial

import pytest

from tests.daemon_process import DaemonProcess, calls, tool
from tests.e2e.cli_process import cli_here, on_terminal

pytestmark = pytest.mark.slow

EVIL = "a\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\b\x9b31m\x07\x08\x7f\u202ec\u2066d\u200fe\u061cf"
# As a shell writes it, so that the bytes come from the tool and not from its arguments.
PRINTF = r"printf 'out\033[2J\033]0;owned\007\302\233\007\010\342\200\256put\n'"
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def assert_harmless(shown: bytes, what: str) -> None:
    text = shown.decode()
    assert text.strip(), f"{what} shows nothing"
    found = {c for c in text if c in BIDI or (unicodedata.category(c) == "Cc" and c not in "\n\t")}
    assert not found, f"{what} lets {sorted(found)!r} through"


@pytest.fixture(scope="module")
def hostile(shared_daemon: DaemonProcess) -> DaemonProcess:
    """Sessions whose every text is hostile: one over, one that waits for approval, one that asks."""
    model = shared_daemon.script(
        {"text": f"model {EVIL}", "tool_calls": [tool("bash", command=PRINTF), tool("no_such_tool", x=EVIL)]},
        {"deltas": [f"one {EVIL}", f"two {EVIL[:6]}", EVIL[6:]]},
        name="over.json",
    )
    client = shared_daemon.client
    client.sessions.create("over", cwd=str(shared_daemon.work), permission_mode="bypass", title=EVIL)
    shared_daemon.finish(shared_daemon.submit("over", f"input {EVIL}", model=model))
    client.sessions.create("ended", cwd=str(shared_daemon.work))
    client.sessions.end("ended", reason=EVIL)
    question = {
        "header": "H",
        "question": f"which {EVIL}",
        "options": [{"label": f"label {EVIL}", "description": EVIL}, {"label": "other"}],
    }
    asking = {
        "approval": [tool("bash", command=f"echo {EVIL}\nsecond line"), tool("write_file", path=EVIL, content=EVIL)],
        "question": [tool("ask_user_question", questions=[question])],
    }
    for name, tool_calls in asking.items():
        model = shared_daemon.script(calls(*tool_calls, text=EVIL), name=f"{name}.json")
        shared_daemon.submit(shared_daemon.session(name), EVIL, model=model)
        shared_daemon.until(name, f"{name}.requested")
    return shared_daemon


COMMANDS = [
    "ps",
    "ps -a",
    "logs over",
    "logs ended",
    "logs approval",
    "logs question",
    "inbox",
    "approvals list",
    "approvals show {approval}",
    "questions list",
    "questions show {question}",
    "sessions list",
    "sessions get over",
    "sessions transcript over",
    "sessions transcript approval",
    "runs list",
    "runs get {run}",
    "runs why {run}",
    "runs usage {run}",
    "usage --by session",
    "permissions audit -s over",
    "approve no\x1b[2J\u202ething",
]


def fill(daemon: DaemonProcess, line: str) -> list[str]:
    ids = {
        "approval": daemon.client.approvals.list()[0]["request_id"],
        "question": daemon.client.questions.list()[0]["request_id"],
        "run": daemon.client.sessions.runs("over")[0]["run_id"],
    }
    return [word.format(**ids) for word in line.split(" ")]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_pipe_gets_no_control_characters(hostile: DaemonProcess, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "cli", partial(cli_here, hostile))
    done = hostile.cli(*fill(hostile, line))
    assert_harmless((done.stdout + done.stderr).encode(), line)


@pytest.mark.parametrize("line", ["ps -a", "logs over", "inbox", "sessions transcript over", "inbox --json"])
def test_a_terminal_gets_none_that_are_not_the_programs_own(hostile: DaemonProcess, line: str) -> None:
    _, shown = on_terminal(hostile, *fill(hostile, line), columns=200)
    assert_harmless(shown, line)


@pytest.mark.parametrize("at_terminal", [False, True])
def test_a_run_that_is_followed_shows_none(hostile: DaemonProcess, at_terminal: bool) -> None:
    session_id = f"followed-{at_terminal}"
    hostile.session(session_id, "bypass")
    line = ["run", "-s", session_id, "--model", "scripted/over.json", f"input {EVIL}"]
    if at_terminal:
        status, shown = on_terminal(hostile, *line)
    else:
        done = hostile.cli(*line)
        status, shown = done.returncode, (done.stdout + done.stderr).encode()
    assert status == 0
    assert_harmless(shown, "run")
    assert b"two a" in shown and b"output" in shown


def test_a_call_to_decide_about_is_shown_with_what_it_hides(hostile: DaemonProcess) -> None:
    (first, second) = hostile.client.approvals.list(session_id="approval")
    shown = hostile.cli("approvals", "show", first["request_id"]).stdout
    for hidden in ("\\x1b[2J", "\\x1b]0;owned\\x07", "\\x9b", "\\u202e", "\\u2066", "\\u200f", "\\u061c"):
        assert hidden in shown
    assert "\n             second line\n" in shown
    assert "\\u202e" in hostile.cli("approvals", "show", second["request_id"]).stdout


def test_json_keeps_every_character(hostile: DaemonProcess) -> None:
    for shown in (hostile.cli("inbox", "--json").stdout, on_terminal(hostile, "inbox", "--json")[1].decode()):
        assert_harmless(shown.encode(), "inbox --json")
        (first, *_) = json.loads(shown)["approvals"]
        assert first["input"]["command"] == f"echo {EVIL}\nsecond line"
