"""`kheish run` at a real terminal: what it asks, which keys count, what the person sees."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess, Json, bash, calls, text, tool
from tests.e2e.cli_process import stop_for_good
from tests.e2e.terminal import Terminal, needs_tmux

pytestmark = [pytest.mark.slow, needs_tmux]

PROMPT = r"\[Enter\] later>"
Open = Callable[..., Terminal]


@contextlib.contextmanager
def opened(daemon: DaemonProcess, folder: Path, columns: int = 100, **env: str) -> Iterator[Terminal]:
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{daemon.env['PATH']}"
    terminal = Terminal(folder, {**daemon.env, "PATH": path, **env}, daemon.work, columns=columns)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture
def terminal(shared_daemon: DaemonProcess, tmp_path: Path) -> Iterator[Terminal]:
    with opened(shared_daemon, tmp_path) as made:
        yield made


def start(terminal: Terminal, daemon: DaemonProcess, session_id: str, *replies: Json, mode: str = "default") -> None:
    """Types a `kheish run` of these replies, whose answer is `goodbye`."""
    model = daemon.script(*replies, text("goodbye"), name=f"{session_id}.json")
    terminal.enter(f"kheish run -s {session_id} --mode {mode} --model {model} go")


def resolutions(daemon: DaemonProcess, session_id: str) -> list[Json]:
    events = [event for record in daemon.records(session_id) for event in record["events"]]
    return [event for event in events if event["type"] == "approval.resolved"]


def assert_usable(terminal: Terminal) -> None:
    """The terminal shows what is typed, as before."""
    terminal.enter("stty -a | grep -ow -e '-echo' -e echo | sed 's/^/it is /'")
    terminal.until(r"it is -?echo\n")
    assert "it is echo\n" in terminal.screen + "\n"


def test_a_key_that_was_typed_too_early_decides_nothing(
    terminal: Terminal, shared_daemon: DaemonProcess, tmp_path: Path
) -> None:
    """Then `n` asks why, and the model is told."""
    gate = tmp_path / "gate"
    waiting = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    shared_daemon.session("early")
    shared_daemon.client.sessions.add_rule("early", f"bash({waiting})", "allow")
    start(terminal, shared_daemon, "early", bash(waiting), bash("echo no > early.txt"))
    terminal.until("started bash")
    terminal.enter("y")
    terminal.type("y")
    gate.touch()
    shown = terminal.until(PROMPT)
    assert "  command    echo no > early.txt\n" in shown and f"  directory  {shared_daemon.work}\n" in shown
    assert not re.search(r"^y|> y", shown, re.MULTILINE), "what was typed too early is on the screen"
    terminal.enter("n")
    terminal.until("why .*>")
    terminal.enter("not today")
    terminal.until("goodbye")
    assert terminal.result() == 0
    assert not (shared_daemon.work / "early.txt").exists()
    (denied,) = resolutions(shared_daemon, "early")
    assert (denied["resolution"], denied["justification"]) == ("deny", "not today")
    assert_usable(terminal)


def test_calls_are_asked_about_one_after_the_other_and_what_happens_meanwhile_is_shown_after(
    terminal: Terminal, shared_daemon: DaemonProcess
) -> None:
    asked = [tool("bash", command=f"echo ran {n}") for n in "123"]
    start(terminal, shared_daemon, "several", calls(*asked, text="I need three."))
    terminal.until(r"allow this\? \(2 more after it\)(.|\n)*" + PROMPT)
    terminal.enter("y")
    shown = terminal.until(PROMPT, times=2)
    assert "allow this? (1 more after it)" in shown
    shared_daemon.until("several", "tool_call.completed")
    assert terminal.screen.endswith("[Enter] later>"), "something was written over the prompt"
    terminal.enter("x")
    terminal.until(r"type y, s, a, n or e, then Enter(.|\n)*" + PROMPT)
    terminal.enter("Y")
    terminal.until(r"allow this\?\n")
    terminal.until(PROMPT, times=4)
    terminal.enter("y")
    shown = terminal.until("goodbye")
    assert [shown.count(f"\nran {n}\n") for n in "123"] == [1, 1, 1]
    assert shown.startswith("$ kheish run") and "\nI need three.\n" in shown
    assert "elsewhere" not in shown
    assert terminal.result() == 0


@pytest.mark.parametrize(
    ("key", "where", "remembered"), [("s", "this session", "session"), ("a", "every session", "always")]
)
def test_a_rule_is_shown_before_it_is_made(
    terminal: Terminal, shared_daemon: DaemonProcess, key: str, where: str, remembered: str
) -> None:
    session_id = f"rule-{remembered}"
    start(terminal, shared_daemon, session_id, bash(f"echo {session_id} *"), bash(f"echo {session_id} *"))
    terminal.until(PROMPT)
    terminal.enter(key)
    terminal.until(rf"rule: allow bash\(echo {session_id} \\\*\) in {where}.*\nmake it\? \[y/N\]>")
    terminal.enter("")
    terminal.until(PROMPT, times=2)
    assert not shared_daemon.client.sessions.get(session_id)["rules"]
    terminal.enter(key)
    terminal.until(r"make it\? \[y/N\]>", times=2)
    terminal.enter("y")
    # The same call again is not asked about.
    terminal.until("goodbye")
    assert terminal.result() == 0
    (resolved,) = [
        e for r in shared_daemon.records(session_id) for e in r["events"] if e["type"] == "approval.resolved"
    ]
    assert resolved["remember"] == remembered and resolved["rule"]["pattern"] == f"bash(echo {session_id} \\*)"


def test_arguments_are_edited_in_the_persons_editor(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    """What cannot be read is edited again, with nothing lost."""
    editor = tmp_path / "my editor"
    editor.write_text(
        "#!/bin/sh\n"
        'if grep -q broken "$2"; then sed -i "s/broken\\$//; s/one/two/" "$2"; else echo broken >> "$2"; fi\n'
    )
    editor.chmod(0o755)
    with opened(shared_daemon, tmp_path, EDITOR=f"'{editor}' --wait") as terminal:
        start(terminal, shared_daemon, "edit", bash("echo one > edit.txt"))
        terminal.until(PROMPT)
        terminal.enter("e")
        terminal.until(r"cannot read the JSON(.|\n)*\[e\] edit again  \[Enter\] leave it>")
        terminal.enter("e")
        terminal.until("edited|goodbye")
        terminal.until("goodbye")
        assert terminal.result() == 0
    assert (shared_daemon.work / "edit.txt").read_text() == "two\n"


def test_an_editor_that_fails_or_changes_nothing_leaves_the_choice(
    shared_daemon: DaemonProcess, tmp_path: Path
) -> None:
    with opened(shared_daemon, tmp_path, VISUAL="true", EDITOR="no-such-editor") as terminal:
        start(terminal, shared_daemon, "edit-nothing", bash("echo as it is"))
        terminal.until(PROMPT)
        terminal.enter("e")
        terminal.until("nothing was changed(.|\n)*" + PROMPT)
        terminal.enter("y")
        terminal.until("goodbye")


def test_a_question_is_answered_by_number_or_in_words(terminal: Terminal, shared_daemon: DaemonProcess) -> None:
    questions = [
        {"header": "Colour", "question": "Which colour?", "options": [{"label": "Red"}, {"label": "Blue"}]},
        {"header": "Name", "question": "What name?"},
    ]
    start(terminal, shared_daemon, "question", calls(tool("ask_user_question", questions=questions)))
    shown = terminal.until(PROMPT)
    assert "  Which colour?\n    1. Red\n    2. Blue\n" in shown and "What name?" not in shown
    terminal.enter("7")
    terminal.until("cannot choose '7': the options are 1: Red, 2: Blue")
    terminal.until(PROMPT, times=2)
    terminal.enter("2")
    terminal.until("What name[?]")
    terminal.until(PROMPT, times=3)
    terminal.enter("Casa 7")
    terminal.until("goodbye")
    assert terminal.result() == 0
    transcript = shared_daemon.cli("sessions", "transcript", "question").stdout
    assert "Which colour?\n-> Blue\nWhat name?\n-> Casa 7\n" in transcript


def test_what_is_left_for_later_waits_and_is_not_asked_twice(terminal: Terminal, shared_daemon: DaemonProcess) -> None:
    start(terminal, shared_daemon, "later", bash("echo later"))
    terminal.until(PROMPT)
    terminal.enter("")
    shown = terminal.until("left waiting: kheish approve approval_[^\\n]* --if-digest ")
    request_id = shown.rpartition("kheish approve ")[2].split()[0]
    shared_daemon.client.approvals.allow(request_id)
    shown = terminal.until("goodbye")
    assert shown.count("[Enter] later>") == 1
    assert f"{request_id}: allow by user:" in shown


def test_what_is_settled_from_elsewhere_ends_the_prompt(terminal: Terminal, shared_daemon: DaemonProcess) -> None:
    start(terminal, shared_daemon, "elsewhere", bash("echo elsewhere"))
    terminal.until(PROMPT)
    (approval,) = shared_daemon.client.approvals.list(session_id="elsewhere")
    shared_daemon.client.approvals.deny(approval["request_id"], "from the phone")
    shown = terminal.until("goodbye")
    assert "settled elsewhere\n" in shown and "deny by user:" in shown and "from the phone" in shown
    assert terminal.result() == 0
    assert_usable(terminal)


def test_a_run_that_is_cancelled_from_elsewhere_ends_the_prompt_too(
    terminal: Terminal, shared_daemon: DaemonProcess
) -> None:
    start(terminal, shared_daemon, "cancelled", bash("echo never"))
    terminal.until(PROMPT)
    (approval,) = shared_daemon.client.approvals.list(session_id="cancelled")
    shared_daemon.client.runs.cancel(approval["run_id"], reason="no longer needed")
    terminal.until("run cancelled by user:.*no longer needed")
    assert terminal.result() == 21
    assert_usable(terminal)


def test_ctrl_c_at_a_prompt_leaves_the_run_waiting(terminal: Terminal, shared_daemon: DaemonProcess) -> None:
    start(terminal, shared_daemon, "leave", bash("echo leave"))
    terminal.until(PROMPT)
    terminal.press("C-c")
    shown = terminal.until(r"\ndetached: run_\w+ goes on\. `kheish logs -f run_\w+` follows it; Ctrl-C again")
    assert "elsewhere" not in shown
    assert terminal.result() == 130
    assert shared_daemon.client.sessions.get("leave")["status"] == "waiting_for_approval"
    assert_usable(terminal)


def test_ctrl_c_twice_cancels(terminal: Terminal, shared_daemon: DaemonProcess) -> None:
    start(terminal, shared_daemon, "cancel", bash("sleep 300"), mode="bypass")
    terminal.until("started bash")
    terminal.press("C-c")
    terminal.until("Ctrl-C again cancels it")
    terminal.press("C-c")
    terminal.until(r"run_\w+ is cancelled")
    assert terminal.result() == 21
    assert_usable(terminal)


def test_an_answer_after_the_daemon_died_brings_it_back(daemon: DaemonProcess, tmp_path: Path) -> None:
    with opened(daemon, tmp_path) as terminal:
        start(terminal, daemon, "died", bash("echo alive"))
        terminal.until(PROMPT)
        daemon.kill()
        try:
            terminal.enter("y")
            shown = terminal.until("goodbye")
            assert "alive" in shown.rpartition("later> y")[2]
            assert terminal.result() == 0
        finally:
            stop_for_good(daemon)


def test_only_the_answer_goes_into_a_file_and_the_prompt_to_the_terminal(
    terminal: Terminal, shared_daemon: DaemonProcess
) -> None:
    model = shared_daemon.script(bash("echo filed"), text("goodbye"), name="file.json")
    terminal.enter(f"kheish run -s file --model {model} go > answer.txt")
    assert "  command    echo filed\n" in terminal.until(PROMPT)
    terminal.enter("y")
    assert terminal.result() == 0
    assert (shared_daemon.work / "answer.txt").read_text() == "goodbye\n"


def test_a_narrow_terminal_gets_whole_words(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    with opened(shared_daemon, tmp_path, columns=40) as terminal:
        start(terminal, shared_daemon, "narrow", bash("echo narrow"))
        terminal.until(PROMPT)
        legend = terminal.lines[-3:]
        assert legend == ["[y] once  [s] this session", "[a] always  [n] deny  [e] edit", "[Enter] later>"]
        terminal.enter("y")
        terminal.until("goodbye")


def test_what_is_streamed_is_shown_once_and_whole(
    terminal: Terminal, shared_daemon: DaemonProcess, tmp_path: Path
) -> None:
    deltas = ["The first ", "line.\n", "The second", " line."]
    command = f"while [ ! -e {tmp_path}/gate ]; do sleep 0.02; done; echo output"
    start(terminal, shared_daemon, "streamed", {"deltas": deltas, "pace_ms": 30, **bash(command)}, mode="bypass")
    # What it follows from here on, it follows live.
    terminal.until("started bash")
    (tmp_path / "gate").touch()
    shown = terminal.until("goodbye")
    assert shown.count("The first line.\nThe second line.\nstarted bash: ") == 1
    assert shown.count("The first") == 1 and shown.count("\noutput\n") == 1
    assert "-> output" not in shown


def test_who_joins_a_run_at_work_sees_what_its_command_has_written(
    terminal: Terminal, shared_daemon: DaemonProcess, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    command = f"echo written $((40 + 2)); while [ ! -e {gate} ]; do sleep 0.02; done"
    shared_daemon.session("joined")
    shared_daemon.client.sessions.add_rule("joined", f"bash({command})", "allow")
    model = shared_daemon.script(bash(command), text("goodbye"), name="joined.json")
    run_id = shared_daemon.submit("joined", model=model)
    with contextlib.closing(shared_daemon.events(run_id=run_id)) as events:
        next(event for event in events if event.event == "delta")
    terminal.enter("kheish run -s joined --steer 'and now?'")
    terminal.until("written 42")
    gate.touch()
    terminal.until("goodbye")
    assert terminal.result() == 0 and terminal.screen.count("written 42") == 1
