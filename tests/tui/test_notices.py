"""Notifications: of what needs the person, while they look elsewhere, once, and in a way that their terminal knows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import pytest

from kheish import config
from kheish.client import RecordView
from kheish.client.follow import Frame
from kheish.tui.live import Board
from kheish.tui.notices import (
    SAVE_TITLE,
    Notices,
    desktop_command,
    news_of,
    said_at_once,
    terminal_sequence,
)
from tests.daemon_process import DaemonProcess, bash, text

XTERM = {"TERM": "xterm-256color"}
NINE = "\x1b]9;Kheish: s asks\x1b\\"


def record(seq: int, *events: dict[str, Any], session_id: str = "s") -> RecordView:
    found: Any = {"session_id": session_id, "seq": seq, "at_ms": 0, "events": list(events)}
    return found  # type: ignore[no-any-return]


def approval(request_id: str, command: str = "make") -> dict[str, Any]:
    return {
        "type": "approval.requested", "request_id": request_id, "run_id": "r", "tool_call_id": "c", "tool": "bash",
        "arguments": {"command": command}, "requested_at_ms": 1,
    }  # fmt: skip


def question(request_id: str) -> dict[str, Any]:
    asked = [{"id": "1", "header": "", "question": "Which?"}]
    return {"type": "question.requested", "request_id": request_id, "run_id": "r", "questions": asked,
            "requested_at_ms": 1}  # fmt: skip


def resolved(request_id: str) -> dict[str, Any]:
    return {"type": "approval.resolved", "request_id": request_id, "run_id": "r"}


def failed(run_id: str) -> dict[str, Any]:
    return {"type": "run.failed", "run_id": run_id, "at_ms": 1, "code": "auth", "message": "no key"}


class Desk:
    """A person at a terminal: what is written to it and run for it, and a clock that is turned by hand."""

    def __init__(self, environment: dict[str, str] | None = None, **settings: Any) -> None:
        self.written: list[str] = []
        self.commands: list[list[str]] = []
        self.now_s = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.board = Board()
        self.seq = 0
        self.settings = config.Notices(**{"title": False, **settings})
        self.notices = Notices(
            lambda: self.settings, self.board, self.written.append, self._later, environment=environment or XTERM,
            platform="linux", clock=lambda: self.now_s, run=self.commands.append,
        )  # fmt: skip

    def _later(self, wait_s: float, call: Callable[[], None]) -> None:
        self.due.append((self.now_s + wait_s, call))

    def happens(self, *events: dict[str, Any], session_id: str = "s") -> None:
        self.seq += 1
        found = record(self.seq, *events, session_id=session_id)
        self.board.apply(found)
        self.notices.arrived([Frame("record", str(self.seq), found)])  # type: ignore[list-item]

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        due = [call for at_s, call in self.due if at_s <= self.now_s]
        self.due = [(at_s, call) for at_s, call in self.due if at_s > self.now_s]
        for call in due:
            call()

    def told(self) -> list[str]:
        """What was shown, without its wrapping."""
        found = [text.removeprefix("\x1b]9;Kheish: ").removesuffix("\x1b\\") for text in self.written]
        self.written.clear()
        return found


def test_nobody_is_told_of_what_they_look_at() -> None:
    """A terminal that never says anything about its focus counts as looked at."""
    desk = Desk()
    desk.happens(approval("a"))
    desk.notices.focus(False)
    desk.happens(approval("b"))
    assert desk.told() == ["s asks to run bash: make"]
    desk.notices.focus(True)
    desk.happens(approval("c"))
    assert desk.told() == []


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (approval("a"), ["s asks to run bash: make"]),
        (question("q"), ["s asks: Which?"]),
        (failed("r"), ["s failed: auth: no key"]),
        ({"type": "run.completed", "run_id": "r", "at_ms": 1}, []),
        ({"type": "tool_call.decided", "run_id": "r", "tool_call_id": "c", "behavior": "allow"}, []),
        ({"type": "run.cancelled", "run_id": "r", "at_ms": 1}, []),
    ],
)
def test_what_needs_the_person_is_told_and_nothing_else(event: dict[str, Any], told: list[str]) -> None:
    desk = Desk()
    desk.notices.focus(False)
    desk.happens(event)
    assert desk.told() == told


def test_each_event_is_told_as_it_is_set() -> None:
    desk = Desk({**XTERM, "DISPLAY": ":0"}, approval="off", question="bell", completed="terminal", failed="terminal")
    desk.notices.focus(False)
    desk.happens(approval("a"))
    assert desk.written == []
    desk.happens(question("q"))
    assert desk.told() == ["\x07"]
    desk.wait(2)
    desk.happens({"type": "run.completed", "run_id": "r", "at_ms": 1})
    assert desk.told() == ["s completed"]


def test_a_request_is_told_once_though_it_comes_again() -> None:
    desk = Desk()
    desk.notices.focus(False)
    desk.happens(approval("a"))
    desk.wait(2)
    desk.happens(approval("a"))
    assert desk.told() == ["s asks to run bash: make"]


def test_more_than_one_in_a_second_is_said_at_once_at_its_end() -> None:
    desk = Desk()
    desk.notices.focus(False)
    desk.happens(approval("a"))
    for i in range(4):
        desk.happens(approval(f"b{i}", f"step {i}"))
    assert desk.told() == ["s asks to run bash: make"]
    desk.wait(0.5)
    assert desk.told() == []
    desk.wait(0.6)
    assert desk.told() == ["s asks to run bash: step 0 (and 3 more)"]
    desk.wait(5)
    assert desk.told() == []


def test_what_was_answered_or_looked_at_in_the_meantime_is_not_told() -> None:
    desk = Desk()
    desk.notices.focus(False)
    desk.happens(approval("a"))
    desk.happens(approval("b"))
    desk.happens(resolved("b"))
    desk.wait(2)
    assert desk.told() == ["s asks to run bash: make"]
    desk.happens(approval("c"))
    desk.happens(approval("d"))
    desk.told()
    desk.notices.focus(True)
    desk.wait(2)
    assert desk.told() == []


def test_the_text_is_one_line_without_a_character_that_ends_or_begins_a_sequence() -> None:
    [news] = news_of(record(1, approval("a", "x\x1b\\\x07\x1b]0;owned\x07\ny")))
    assert "\x1b" not in news.text and "\x07" not in news.text and "\n" not in news.text
    [news] = news_of(record(1, {**failed("r"), "message": "a\x1b[2J\x9b31m\u202eb" + "x" * 9000}))
    assert news.text.isprintable() and len(news.text) <= 120


ASKS = "s asks"


@pytest.mark.parametrize(
    ("environment", "sequence"),
    [
        (XTERM, NINE),
        ({**XTERM, "TERM_PROGRAM": "iTerm.app"}, NINE),
        ({**XTERM, "TERM_PROGRAM": "ghostty"}, "\x1b]777;notify;Kheish;s asks\x1b\\"),
        ({**XTERM, "TERM_PROGRAM": "WezTerm"}, "\x1b]777;notify;Kheish;s asks\x1b\\"),
        ({"TERM": "foot"}, "\x1b]777;notify;Kheish;s asks\x1b\\"),
        ({"TERM": "rxvt-unicode-256color"}, "\x1b]777;notify;Kheish;s asks\x1b\\"),
        ({**XTERM, "VTE_VERSION": "7600"}, "\x1b]777;notify;Kheish;s asks\x1b\\"),
        (
            {"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"},
            "\x1b]99;i=kheish:d=0;Kheish\x1b\\\x1b]99;i=kheish:p=body;s asks\x1b\\",
        ),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x"}, "\x1bPtmux;\x1b\x1b]9;Kheish: s asks\x1b\x1b\\\x1b\\"),
        ({"TERM": "screen"}, "\x1bP\x1b]9;Kheish: s asks\x07\x1b\\"),
        ({"TERM": "linux"}, "\x07"),
        ({"TERM": "dumb"}, "\x07"),
        ({}, "\x07"),
    ],
)
def test_a_terminal_is_told_in_its_own_way(environment: dict[str, str], sequence: str) -> None:
    assert terminal_sequence(ASKS, environment) == sequence


@pytest.mark.parametrize(
    ("environment", "platform", "programs", "command"),
    [
        ({"DISPLAY": ":0"}, "linux", {"notify-send"}, "notify-send --app-name Kheish -- Kheish a &lt;b&gt; &amp; $(c)"),
        ({"WAYLAND_DISPLAY": "w"}, "linux", {"notify-send"}, "notify-send"),
        ({"DISPLAY": ":0"}, "linux", set(), ""),
        ({}, "linux", {"notify-send"}, ""),
        ({"DISPLAY": ":0", "SSH_CONNECTION": "1"}, "linux", {"notify-send"}, ""),
        ({}, "darwin", {"osascript"}, "osascript -e on run argv -e display notification"),
    ],
)
def test_a_desktop_is_told_by_a_command_whose_arguments_are_data(
    environment: dict[str, str], platform: str, programs: set[str], command: str
) -> None:
    found = desktop_command("a <b> & $(c)", environment, platform, lambda name: name if name in programs else None)
    assert " ".join(found).startswith(command) and bool(found) is bool(command)
    if platform == "darwin":
        assert found[-1] == "a <b> & $(c)" and all("$(c)" not in word for word in found[:-1])


def test_without_a_desktop_the_terminal_is_told() -> None:
    desk = Desk({"TERM": "xterm", "SSH_CONNECTION": "1"}, approval="desktop")
    desk.notices.focus(False)
    desk.happens(approval("a"))
    assert desk.told() == ["s asks to run bash: make"] and desk.commands == []


def test_what_piled_up_is_one_line() -> None:
    assert said_at_once(["a"]) == "a" and said_at_once(["a", "b", "c", "d"]) == "a (and 3 more)"


def test_the_title_counts_what_waits_and_is_given_back() -> None:
    desk = Desk(title=True)
    desk.happens(approval("a"))
    desk.happens(question("q"))
    desk.happens(resolved("a"))
    desk.happens(failed("r"))
    desk.notices.close()
    desk.notices.close()
    titles = [text.removeprefix(SAVE_TITLE) for text in desk.written]
    assert desk.written[0].startswith(SAVE_TITLE) and sum(SAVE_TITLE in text for text in desk.written) == 1
    assert titles == [
        "\x1b]0;Kheish (1 waiting)\x07", "\x1b]0;Kheish (2 waiting)\x07", "\x1b]0;Kheish (1 waiting)\x07",
        "\x1b[23;0t",
    ]  # fmt: skip


def test_a_title_that_is_not_wanted_is_left_alone() -> None:
    desk = Desk(title=False)
    desk.happens(approval("a"))
    desk.notices.close()
    assert desk.written == []


@pytest.mark.slow
def test_a_desktop_command_runs_by_itself_with_its_text_as_one_argument(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, said = tmp_path / "notify-send", tmp_path / "said"
    program.write_text(f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done > {said}.new && mv {said}.new {said}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    desk = Desk({**XTERM, "DISPLAY": ":0"}, approval="desktop")
    desk.notices = Notices(
        lambda: desk.settings, desk.board, desk.written.append, desk._later,
        environment={**XTERM, "DISPLAY": ":0"}, platform="linux",
    )  # fmt: skip
    desk.notices.focus(False)
    desk.happens(approval("a", "echo $(id) 'x'; rm"))
    while not said.exists():
        os.sched_yield()
    assert said.read_text().splitlines()[-1] == "s asks to run bash: echo $(id) 'x'; rm"
    assert desk.written == []


@pytest.mark.slow
def test_the_application_tells_a_terminal_that_lost_the_focus_and_gives_the_title_back(
    shared_daemon: DaemonProcess,
) -> None:
    """The real program on a pseudo terminal."""
    session = shared_daemon.session("told")
    model = shared_daemon.script(bash("make"), bash("make install"), text("done"), name="told.json")
    with Terminal(shared_daemon) as terminal:
        terminal.until(b"\x1b]0;Kheish")
        terminal.until(b"told")
        terminal.type(b"\x1b[O")
        shared_daemon.submit(session, model=model)
        terminal.until(b"\x1b]9;Kheish: told asks to run bash: make\x1b\\")
        terminal.until(b"\x1b]0;Kheish (1 waiting)\x07")
        terminal.type(b"\x1b[I")
        request = shared_daemon.client.approvals.list(session_id=session)[0]
        shared_daemon.client.approvals.allow(request["request_id"])
        terminal.until(b"\x1b]0;Kheish\x07")
        terminal.until(b"\x1b]0;Kheish (1 waiting)\x07")
        terminal.type(b"\x11")
        assert terminal.wait() == 0
    assert b"make install\x1b\\" not in terminal.seen, "nobody is told while they look"
    assert terminal.seen.rindex(b"\x1b[23;0t") > terminal.seen.rindex(b"\x1b]0;Kheish")


class Terminal:
    """`kheish` on a terminal of its own."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.seen = b""
        self._at = 0
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "kheish", "tui"], stdin=theirs, stdout=theirs, stderr=theirs, cwd=daemon.work,
            env={**daemon.env, "TERM": "xterm-256color", "NO_COLOR": ""}, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()
        os.close(self._ours)

    def type(self, data: bytes) -> None:
        os.write(self._ours, data)

    def until(self, wanted: bytes) -> None:
        """Reads until this comes, after what was waited for before."""
        deadline = time.monotonic() + 30
        while (found := self.seen.find(wanted, self._at)) < 0:
            assert time.monotonic() < deadline, f"{wanted!r} did not come: {self.seen[-2000:]!r}"
            self._read(0.5)
        self._at = found + len(wanted)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            return False
        self.seen += data
        return bool(data)

    def wait(self) -> int:
        while self._read(0.5) and self._popen.poll() is None:
            pass
        return self._popen.wait(20)
