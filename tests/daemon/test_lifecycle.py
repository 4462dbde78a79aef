"""The daemon as a process: one per state root, private, ended politely, and never in its own way after a death."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kheish import paths
from kheish.client import Kheish
from kheish.client.errors import DaemonUnreachable
from tests.daemon_process import DaemonProcess, bash, calls, text, tool

pytestmark = pytest.mark.slow


def run_daemon(daemon: DaemonProcess, **env: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to leave by itself."""
    return daemon.cli("daemon", "run", env=env)


def test_it_says_who_it_is(daemon: DaemonProcess) -> None:
    status = daemon.cli_json("daemon", "status")
    assert status["pid"] == daemon.pid
    assert status["generation"] == 1
    assert status["state_root"] == str(daemon.state)
    assert status["socket"] == str(daemon.socket)
    assert status["started_at_ms"] > 0 and status["version"]


def test_a_second_one_says_who_holds_the_state_root(daemon: DaemonProcess) -> None:
    second = run_daemon(daemon)
    assert second.returncode == 6
    assert str(daemon.pid) in second.stderr and "since" in second.stderr
    assert daemon.client.daemon.status()["pid"] == daemon.pid


def test_everything_it_makes_is_private(daemon: DaemonProcess) -> None:
    daemon.script(bash("echo hello"), text("done"))
    daemon.finish(daemon.submit(daemon.session("s", "bypass")))
    for directory, names, files in os.walk(daemon.state):
        assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700, directory
        for name in (*names, *files):
            mode = stat.S_IMODE(os.lstat(os.path.join(directory, name)).st_mode)
            assert mode in (0o600, 0o700), f"{name} {mode:o}"


def test_a_dead_one_does_not_stand_in_the_way(daemon: DaemonProcess) -> None:
    daemon.kill()
    assert daemon.socket.exists()
    daemon.start()
    assert daemon.client.daemon.status()["generation"] == 2


def test_sigterm_ends_it_politely(daemon: DaemonProcess) -> None:
    """The tool that runs may end, streams get a `bye`, the socket goes, and the next one goes on without a doubt."""
    gate = daemon.work / "gate"
    daemon.script(bash(f"while [ ! -e {gate} ]; do sleep 0.02; done; echo through"), text("done"))
    run_id = daemon.submit(daemon.session("s", "bypass"))
    stream = daemon.events(session_id="s")
    frames = []
    for frame in stream:
        frames.append(frame)
        if frame.event == "record" and any(e["type"] == "tool_call.started" for e in frame.data["events"]):
            break
    assert daemon.popen is not None
    daemon.popen.terminate()
    for frame in stream:
        if frame.event == "bye":
            assert "stopping" in frame.data["reason"]
            break
    gate.touch()
    assert daemon.popen.wait(20) == 0
    assert not daemon.socket.exists()
    daemon.start()
    assert daemon.finish(run_id)["status"] == "completed"
    assert "tool_call.became_uncertain" not in daemon.types("s")
    assert daemon.types("s").count("tool_call.started") == 1


def test_a_path_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = DaemonProcess(tmp_path / ("long" * 30))
    monkeypatch.setenv("KHEISH_STATE_ROOT", str(daemon.state))
    monkeypatch.delenv("KHEISH_SOCKET", raising=False)
    short = paths.socket_path()
    assert len(os.fsencode(short)) < 104 and not short.is_relative_to(tmp_path)
    daemon.client = Kheish(short, origin="test", start=False)
    try:
        daemon.start()
        assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
        assert daemon.cli_json("status")["socket"] == str(short)
    finally:
        if daemon.popen is not None:
            daemon.stop()
    assert not short.parent.exists(), "what it made below /tmp it removes"


def test_a_directory_that_others_use_keeps_its_modes_and_one_that_they_write_to_is_refused(tmp_path: Path) -> None:
    """Such as the home directory, or /tmp where root is at work."""
    daemon = DaemonProcess(tmp_path / "own")
    for mode in (0o1777, 0o775, 0o755):
        shared = tmp_path / f"{mode:o}"
        shared.mkdir()
        shared.chmod(mode)
        path = shared / "kheish.sock"
        if mode & 0o022:
            refused = run_daemon(daemon, KHEISH_SOCKET=str(path))
            assert refused.returncode == 1 and "others may write" in refused.stderr
        else:
            daemon.client = Kheish(path, origin="test", start=False)
            daemon.start(env={"KHEISH_SOCKET": str(path)})
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert daemon.stop() == 0
        assert stat.S_IMODE(shared.stat().st_mode) == mode


def test_a_state_root_that_was_restored_with_lax_modes_is_served_and_made_private(daemon: DaemonProcess) -> None:
    daemon.kill()
    daemon.socket.parent.chmod(0o775)
    daemon.start()
    assert stat.S_IMODE(daemon.socket.parent.stat().st_mode) == 0o700


def test_only_a_socket_that_nobody_serves_is_replaced(daemon: DaemonProcess, tmp_path: Path) -> None:
    other, file = DaemonProcess(tmp_path / "other"), tmp_path / "notes.txt"
    file.write_text("mine")
    refused = run_daemon(other, KHEISH_SOCKET=str(file))
    assert refused.returncode == 1 and f"cannot listen at {file}" in refused.stderr
    assert file.read_text() == "mine"
    refused = run_daemon(other, KHEISH_SOCKET=str(daemon.socket))
    assert refused.returncode == 1 and f"cannot listen at {daemon.socket}" in refused.stderr
    assert daemon.client.daemon.status()["pid"] == daemon.pid


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.toml", "permissions = 3", "config.toml"),
        ("config.toml", "[budgets]\nweekly_cost_usd = 5.0", "weekly_cost_usd"),
        ("config.toml", "[budgets]\nrun_steps = 0", "run_steps"),
        ("config.toml", "[budgets]\ndaily_cost_usd = inf", "daily_cost_usd"),
        ("config.toml", '[permissions]\nallow = ["bash("]', "bash("),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    daemon = DaemonProcess(tmp_path)
    (daemon.config / name).write_text(content)
    left = run_daemon(daemon)
    assert left.returncode == 1
    assert said in left.stderr and "Traceback" not in left.stderr


def test_it_starts_by_itself_and_once(tmp_path: Path) -> None:
    """Many clients at once on a fresh state root: one daemon, and each gets its answer."""
    made = DaemonProcess(tmp_path)
    command = [sys.executable, "-m", "kheish", "daemon", "status", "--json"]
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "kheish", "run", "--detach", "hello"],
            env=made.env,
            cwd=made.work,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    made.script(*[text("hi")] * 6)
    outputs = [client.communicate(timeout=60) for client in clients]
    try:
        assert [client.returncode for client in clients] == [0] * 6, outputs
        assert len({out for out, _ in outputs}) == 6
        status = made.cli_json("daemon", "status")
        assert status["generation"] == 1
        assert len(made.client.sessions.list()) == 1
    finally:
        assert made.cli("daemon", "stop").returncode == 0
    assert subprocess.run(command, env=made.env, capture_output=True).returncode == 3


def test_nothing_else_may_listen_there(daemon: DaemonProcess) -> None:
    mode = stat.S_IMODE(daemon.socket.stat().st_mode)
    assert mode == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))


def test_a_stopped_daemon_is_said_to_be_unreachable(daemon: DaemonProcess) -> None:
    assert daemon.stop() == 0
    with pytest.raises(DaemonUnreachable):
        daemon.client.daemon.status()


def test_a_full_run_leaves_no_process_behind(daemon: DaemonProcess) -> None:
    daemon.script(
        calls(tool("bash", command="sleep 300 & echo $! > pid; setsid sleep 301 & echo $! >> pid")), text("x")
    )
    daemon.finish(daemon.submit(daemon.session("s", "bypass")))
    for pid in (daemon.work / "pid").read_text().split():
        state = Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


def test_what_tools_make_has_the_modes_that_the_user_is_used_to(tmp_path: Path) -> None:
    """Only the daemon's own files are private to it; a command sees the user's umask and the usual signals."""
    made = DaemonProcess(tmp_path)
    made.script(
        calls(tool("write_file", path="folder/written", content="x"), tool("bash", command="touch made; kill -HUP $$")),
        text("done"),
    )
    before = os.umask(0o027)
    try:
        made.start()
    finally:
        os.umask(before)
    try:
        made.finish(made.submit(made.session("s", "bypass")))
        assert "signal 1" in str(made.records("s"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in made.work.rglob("*")}
        assert modes == {"folder": 0o750, "written": 0o640, "made": 0o640}
        for path in made.state.rglob("*"):
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
    finally:
        made.close()
