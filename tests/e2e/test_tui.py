"""The terminal application at a real terminal: a person writes, approves, loses the daemon, leaves and comes back."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.tui.screens.request import DEAD_TIME_S
from tests.daemon_process import DaemonProcess, bash, text
from tests.e2e.cli_process import stop_for_good
from tests.e2e.terminal import TIMEOUT_S, Terminal, needs_tmux

pytestmark = [pytest.mark.slow, needs_tmux]


@contextlib.contextmanager
def terminal(daemon: DaemonProcess, folder: Path, columns: int, lines: int, **env: str) -> Iterator[Terminal]:
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{daemon.env['PATH']}"
    variables = {**daemon.env, "PATH": path, "COLORTERM": "truecolor", **env}
    if env.get("NO_COLOR") == "":
        del variables["NO_COLOR"]
    made = Terminal(folder, variables, daemon.work, columns=columns, lines=lines)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("columns", "lines", "no_color"), [(80, 24, ""), (200, 60, "1")], ids=["80x24 in colour", "200x60 without"]
)
def test_a_day_at_the_terminal(tmp_path: Path, columns: int, lines: int, no_color: str) -> None:
    daemon = DaemonProcess(tmp_path / "home")
    daemon.script(bash("echo deployed >> log"), text("It is deployed."), name="script.json", after_last="repeat")
    try:
        with terminal(daemon, tmp_path, columns, lines, NO_COLOR=no_color) as screen:
            # Nothing runs: it starts the daemon, and shows that there is nothing yet.
            screen.enter("kheish")
            screen.until("no session yet")
            screen.press("n")
            screen.until("name of the new session")
            screen.enter("deploy")
            screen.until("Write to the agent")
            # Writes, is asked, and approves; keys that come too early do not count.
            screen.enter("put it out")
            screen.until("allow\\? bash: echo deployed")
            screen.press("C-y")
            screen.until("Allow this\\?")
            screen.until("a Once")
            screen.press("Escape")
            screen.until("Ctrl\\+Y")
            # The daemon dies while it waits for the person; it is started again, and asks for the same thing once.
            owner = daemon.client.daemon.status()["pid"]
            os.kill(owner, 9)
            another_daemon(daemon, owner)
            screen.until("allow\\? bash: echo deployed")
            approve(screen)
            screen.until("It is deployed\\.")
            assert screen.screen.count("It is deployed.") == 1
            # Leaves, and nothing stops; comes back by name, and all is there.
            leave(screen)
            assert (daemon.work / "log").read_text() == "deployed\n"
            screen.enter("clear; kheish attach dep")
            screen.until("It is deployed\\.")
            screen.until("put it out")
            leave(screen)
            screen.enter("stty -a | grep -ow -e '-echo' -e echo | sed 's/^/it is /'")
            screen.until(r"it is echo\n")
    finally:
        stop_for_good(daemon)


def daemon_pid(daemon: DaemonProcess) -> int:
    from kheish.errors import KheishError

    try:
        return int(daemon.client.daemon.status()["pid"])
    except KheishError:
        return 0


def another_daemon(daemon: DaemonProcess, before: int) -> None:
    """Returns when one answers that is not the one before."""
    deadline = time.monotonic() + TIMEOUT_S
    while daemon_pid(daemon) in (0, before):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def leave(screen: Terminal) -> None:
    screen.press("C-q")
    screen.until(r"\$\s*\Z")
    assert screen.result() == 0


def approve(screen: Terminal) -> None:
    """Opens what waits and allows it: with one key at a time, since many at once are taken for pasted text."""
    screen.press("C-y")
    screen.until("Allow this\\?")
    for _ in range(20):
        time.sleep(DEAD_TIME_S + 0.1)  # before it no key counts
        screen.press("a")
        with contextlib.suppress(AssertionError):
            screen.until("Write to the agent", timeout_s=2)
            return
    raise AssertionError(screen.screen)


def test_a_paste_with_escape_sequences_sends_nothing(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    session = shared_daemon.session("pasted")
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter(f"kheish attach {session}")
        screen.until("Write to the agent")
        screen.paste("".join(f"\x1b[31mline {i}\x1b[0m\n" for i in range(5)))
        screen.until("line 4")
        screen.press("C-c")
        screen.until("Write to the agent")
        leave(screen)
    assert shared_daemon.client.sessions.get(session)["runs_total"] == 0


def test_it_says_what_it_needs_where_there_is_no_terminal(shared_daemon: DaemonProcess) -> None:
    done = shared_daemon.cli("tui")
    assert done.returncode == 2 and "must be a terminal" in done.stderr
    done = shared_daemon.cli("attach", "nobody")
    assert done.returncode in (2, 5)


def test_what_is_typed_while_it_starts_is_written(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    session = shared_daemon.session("early")
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter(f"kheish attach {session}")
        screen.type("typed early")
        screen.until("│ . typed early")
        screen.press("C-c")
        screen.until("Write to the agent")
        leave(screen)


def test_it_is_drawn_on_the_terminal_wherever_errors_go(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter(f"kheish 2> {tmp_path}/errors")
        screen.until("Palette")
        leave(screen)
    assert (tmp_path / "errors").read_text() == ""


def test_whoever_ends_it_by_its_pid_leaves_a_terminal_that_is_as_before(
    shared_daemon: DaemonProcess, tmp_path: Path
) -> None:
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter(f"sh -c 'echo $$ > {tmp_path}/pid; exec kheish'")
        screen.until("Palette")
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        screen.until(r"\$\s*\Z")
        assert screen.result() == 143
        screen.enter("stty -a | grep -ow -e '-echo' -e echo | sed 's/^/it is /'")
        screen.until("it is echo\n")


def test_a_dumb_terminal_is_told_what_it_can_do_instead(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter("TERM=dumb kheish")
        screen.until("dumb; try `kheish ps`")
        assert screen.result() == 2


def test_where_the_terminal_lacks_a_letter_nothing_else_is_moved(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    shared_daemon.client.sessions.create("latin", cwd=str(shared_daemon.work), title="你好 x")
    with terminal(shared_daemon, tmp_path, 60, 20) as screen:
        screen.enter("PYTHONIOENCODING=latin-1 kheish attach latin")
        screen.until(r"\?\?\?\? x")
        screen.until("Write to the agent")
        assert {len(line) for line in screen.lines if line.startswith(("+", "|"))} == {60}
        leave(screen)


def test_a_daemon_that_was_stopped_is_waited_for_and_started_by_a_key(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "home")
    try:
        with terminal(daemon, tmp_path, 100, 30) as screen:
            screen.enter("kheish")
            screen.until("no session yet")
            first = daemon.client.daemon.status()["pid"]
            assert daemon.cli("daemon", "stop").returncode == 0
            screen.until("Ctrl\\+R starts it")
            assert daemon_pid(daemon) == 0, "who stopped it meant it"
            screen.press("C-r")
            another_daemon(daemon, first)
            assert daemon.cli("sessions", "create", "after").returncode == 0
            screen.until("after")
            assert "Ctrl+R" not in screen.screen
            leave(screen)
    finally:
        stop_for_good(daemon)


def test_a_stopped_daemon_is_waited_for_in_a_session_too_and_ctrl_z_and_fg_work(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "home")
    daemon.script(text("It is said."), name="script.json", after_last="repeat")
    try:
        with terminal(daemon, tmp_path, 100, 30) as screen:
            assert daemon.cli("sessions", "create", "here").returncode == 0
            screen.enter("kheish attach here")
            screen.until("Write to the agent")
            assert daemon.cli("daemon", "stop").returncode == 0
            screen.until("the daemon was stopped")
            assert daemon_pid(daemon) == 0, "a screen that follows a session starts none either"
            screen.press("C-r")
            screen.until("idle")
            screen.press("C-z")
            screen.until("Stopped")
            screen.enter("fg")
            screen.until("Write to the agent")
            screen.enter("say it")
            screen.until("It is said")
            leave(screen)
    finally:
        stop_for_good(daemon)


def test_a_storm_of_sizes_leaves_the_screen_whole(shared_daemon: DaemonProcess, tmp_path: Path) -> None:
    session = shared_daemon.session("storm")
    model = shared_daemon.script(text("A line that is long enough to be wrapped. " * 40), name="storm.json")
    shared_daemon.finish(shared_daemon.submit(session, "talk", model=model))
    with terminal(shared_daemon, tmp_path, 100, 30) as screen:
        screen.enter("kheish attach storm")
        screen.until("Write to the agent")
        for columns, lines in ((20, 6), (200, 60), (41, 12), (10, 3), (133, 7), (80, 24)) * 3:
            screen.resize(columns, lines)
        screen.until("Write to the agent")
        screen.until("completed")
        assert all(len(line) <= 80 for line in screen.lines)
        leave(screen)
