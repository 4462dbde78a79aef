"""`kheish daemon ...`: starts, says who it is, restarts, stops, shows its log, and is installed."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.cli import service
from tests.daemon_process import DaemonProcess, bash, text
from tests.e2e.cli_process import CliProcess, stop_for_good

pytestmark = pytest.mark.slow


@pytest.fixture
def kheish(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A state root whose daemon only the CLI starts and stops."""
    made = DaemonProcess(tmp_path)
    made.script(text("hi"), after_last="repeat")
    try:
        yield made
    finally:
        stop_for_good(made)


def test_the_daemon_starts_restarts_and_stops(kheish: DaemonProcess) -> None:
    stopped = kheish.cli("daemon", "status")
    assert (stopped.returncode, stopped.stdout) == (3, "stopped\n")
    as_json = kheish.cli("daemon", "status", "--json")
    assert as_json.returncode == 3
    assert json.loads(as_json.stdout) == {
        "status": "stopped",
        "state_root": str(kheish.state),
        "socket": str(kheish.socket),
    }
    assert kheish.cli_json("daemon", "stop") == {"stopped": False, "pid": None}
    started = kheish.cli("daemon", "start")
    assert re.match(r"started in \d+ ms: kheish \S+, pid \d+, generation 1, up 0s\n", started.stdout)
    again = kheish.cli_json("daemon", "start")
    assert again["started"] is False and again["generation"] == 1
    shown = kheish.cli("daemon", "status").stdout
    assert f"state root {kheish.state}" in shown and f"socket     {kheish.socket}" in shown
    restarted = kheish.cli_json("daemon", "restart")
    assert restarted["generation"] == 2 and restarted["pid"] != again["pid"]
    assert kheish.cli("daemon", "stop").stdout == f"stopped pid {restarted['pid']}\n"
    assert kheish.cli("daemon", "stop").stdout == "it was not running\n"
    log = kheish.cli("daemon", "logs", "-n", "2").stdout.splitlines()
    assert len(log) == 2 and json.loads(log[-1])["message"] == "stopped"
    assert kheish.cli("daemon", "logs", "-n", "0").stdout == ""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.toml", "[permissions]\nalow = []\n", "line 2: unknown key alow in permissions"),
        ("config.toml", '[permissions]\nask = []\nallow = ["make test"]\n', "line 3: cannot read the rule 'make test'"),
        ("config.toml", "[permissions]\nallow = [\n", "(at end of document)"),
        ("routes.toml", "version = 1\n[routes.a]\ndriver = 'open'\n", "line 3: route a: driver: Invalid enum value"),
    ],
)
def test_a_restart_with_a_configuration_that_cannot_be_read_leaves_the_daemon_that_runs(
    kheish: DaemonProcess, name: str, text: str, said: str
) -> None:
    before = kheish.cli_json("daemon", "start")
    assert kheish.cli("daemon", "check").returncode == 0
    (kheish.config / name).write_text(text)
    refused, checked = kheish.cli("daemon", "restart"), kheish.cli("daemon", "check")
    for done in refused, checked:
        assert done.returncode == 2 and f"cannot read {kheish.config / name}" in done.stderr and said in done.stderr
    assert "the one that runs goes on as it was" in refused.stderr
    assert kheish.cli_json("daemon", "status")["pid"] == before["pid"]


def test_any_verb_that_needs_a_daemon_starts_it(kheish: DaemonProcess) -> None:
    assert kheish.cli("run", "hello").stdout == "hi\n"
    assert kheish.cli_json("daemon", "status")["generation"] == 1


def test_without_a_log_there_is_nothing_to_show(kheish: DaemonProcess) -> None:
    done = kheish.cli("daemon", "logs")
    assert (done.returncode, done.stdout) == (0, "") and "there is no log yet" in done.stderr


def test_the_log_is_followed(kheish: DaemonProcess) -> None:
    assert kheish.cli("daemon", "start").returncode == 0
    with CliProcess(kheish, "daemon", "logs", "-f", "-n", "1") as logs:
        logs.until('"message": "ready"')
        assert kheish.cli("daemon", "stop").returncode == 0
        logs.until('"message": "stopped"')


def test_a_stop_waits_for_what_runs_and_followers_wait_for_the_next_start(kheish: DaemonProcess) -> None:
    kheish.script(bash("while [ ! -e gate ]; do sleep 0.02; done; echo ended > ended"), text("done"))
    with CliProcess(kheish, "run", "-s", "s", "--mode", "bypass", "go") as run:
        run.until("started bash")
        with CliProcess(kheish, "logs", "-f", "s") as logs:
            logs.until("started bash")
            with CliProcess(kheish, "daemon", "stop") as stop:
                stop.until("waiting for tool calls to finish")
                (kheish.work / "gate").touch()
                assert stop.finish() == 0
            assert (kheish.work / "ended").exists()
            run.until("the daemon is stopping; waiting for it")
            assert kheish.cli("daemon", "start").returncode == 0
            logs.until("run completed")
        assert run.finish() == 0
    assert run.out == "done\n"


def test_a_daemon_of_another_kind_of_root_cannot_be_reached(kheish: DaemonProcess) -> None:
    (kheish.folder / "file").touch()
    done = kheish.cli("ps", env={"KHEISH_STATE_ROOT": str(kheish.folder / "file" / "state")})
    assert done.returncode == 3 and "kheish doctor" in done.stderr and "Traceback" not in done.stderr


def test_it_is_installed_for_the_user(kheish: DaemonProcess) -> None:
    folder = kheish.folder / "xdg" / "systemd" / "user"
    config = {"XDG_CONFIG_HOME": str(kheish.folder / "xdg")}
    printed = kheish.cli("daemon", "install", "--print", env=config)
    view = kheish.cli_json("daemon", "install", "--print", env=config)
    assert view["written"] is False and not folder.exists()
    if sys.platform == "darwin":
        plist = plistlib.loads(printed.stdout.encode())
        assert plist["ProgramArguments"] == [sys.executable, "-m", "kheish", "daemon", "run"]
        return
    done = kheish.cli("daemon", "install", env=config)
    written = {str(path): path.read_text() for path in folder.iterdir()}
    assert sorted(written) == done.stdout.splitlines() and "systemctl --user" in done.stderr
    assert written == view["files"] and all(text in printed.stdout for text in written.values())
    unit, socket = written[str(folder / "kheish.service")], written[str(folder / "kheish.socket")]
    assert f'ExecStart="{sys.executable}" "-m" "kheish" "daemon" "run"\n' in unit
    assert f'Environment="KHEISH_STATE_ROOT={kheish.state}"\n' in unit
    assert f"ListenStream={kheish.socket}\n" in socket and "SocketMode=0600\n" in socket


def test_the_units_survive_odd_paths(kheish: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """As systemd itself reads them, where it is here."""
    root = '/home/a "b" 50%\\c & <d>'
    plist = plistlib.loads(service.launchd_agent(("kheish",), {"KHEISH_STATE_ROOT": root}).encode())
    assert plist["EnvironmentVariables"] == {"KHEISH_STATE_ROOT": root}
    odd = {"KHEISH_STATE_ROOT": root, "XDG_CONFIG_HOME": str(kheish.folder)}
    files = kheish.cli_json("daemon", "install", env=odd)["files"]
    unit, socket = (files[str(kheish.folder / "systemd" / "user" / f"kheish.{kind}")] for kind in ("service", "socket"))
    assert 'Environment="KHEISH_STATE_ROOT=/home/a \\"b\\" 50%%\\\\c & <d>"\n' in unit
    assert 'ListenStream=/home/a "b" 50%%\\c & <d>/daemon/kheish.sock\n' in socket
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        run_time = {**os.environ, "XDG_RUNTIME_DIR": str(kheish.folder)}
        done = subprocess.run([analyze, "--user", "verify", *files], env=run_time, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
