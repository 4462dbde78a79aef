"""`kheish status` and `kheish daemon ...`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import deque
from typing import Any

from kheish import paths
from kheish.cli.output import ago, clean, one_line, paint, print_json, say
from kheish.cli.targets import connect
from kheish.client import Kheish, launch
from kheish.errors import KheishError

STOP_TIMEOUT_S = 30.0
_POLL_S = 0.02


def status(as_json: bool) -> int:
    view = connect().daemon.status()
    if as_json:
        print_json(view)
        return 0
    runs, inbox = view["runs"], view["inbox"]
    print(f"{paint(view['status'], 'green' if view['ready'] else 'yellow')}  {_identity(view)}")
    print(f"  sessions   {view['sessions']['total']}")
    print(f"  runs       {runs['active']} active, {runs['queued']} queued")
    print(f"  inbox      {inbox['approvals']} approvals, {inbox['questions']} questions")
    for warning in view["warnings"]:
        print(paint(f"  warning    {clean(warning['session_id'])}: {one_line(warning['message'])}", "yellow"))
    return 0


def _identity(view: dict[str, Any]) -> str:
    return (
        f"kheish {view['version']}, pid {view['pid']}, generation {view['generation']}, up {ago(view['started_at_ms'])}"
    )


def daemon_status(as_json: bool) -> int:
    """Does not start a daemon to ask it."""
    client = connect(start=False)
    try:
        view = client.daemon.status()
    except KheishError as error:
        if not error.details.get("is_absent"):
            raise
        if as_json:
            print_json(
                {"status": "stopped", "state_root": str(paths.state_root()), "socket": str(client.transport.path)}
            )
        else:
            print("stopped")
        return 3
    if as_json:
        print_json(view)
        return 0
    print(f"{paint('running', 'green')}  {_identity(view)}")
    print(f"  state root {view['state_root']}")
    print(f"  socket     {view['socket']}")
    print(f"  log        {paths.log_path()}")
    return 0


def start(as_json: bool) -> int:
    client = connect()
    began = time.monotonic()
    started = launch.ensure_daemon(client.transport)
    view = client.daemon.status()
    if as_json:
        print_json({"started": started, **view})
    else:
        took = f" in {int((time.monotonic() - began) * 1000)} ms" if started else ""
        print(f"{'started' if started else 'already running'}{took}: {_identity(view)}")
    return 0


def stop(as_json: bool) -> int:
    pid = stop_daemon(connect(start=False))
    if as_json:
        print_json({"stopped": pid is not None, "pid": pid})
    else:
        print(f"stopped pid {pid}" if pid is not None else "it was not running")
    return 0


def stop_daemon(client: Kheish) -> int | None:
    """Sends SIGTERM and waits until the lock is free; the pid, or None where none ran. Raises KheishError."""
    from kheish.store.locks import is_state_root_locked, read_owner

    root = paths.state_root()
    owner = read_owner(root)
    if owner is None or not is_state_root_locked(root):
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(owner.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    told = False
    # A client that follows may have started the next one already.
    while is_state_root_locked(root) and (read_owner(root) or owner).pid == owner.pid:
        if time.monotonic() > deadline:
            raise KheishError(
                f"cannot stop the daemon: pid {owner.pid} is still there after {STOP_TIMEOUT_S:.0f} s; `kill -9 "
                f"{owner.pid}` is safe, nothing acknowledged is lost",
                code="stop_timeout",
            )
        if not told and time.monotonic() > deadline - STOP_TIMEOUT_S + 1:
            told = True
            say("waiting for tool calls to finish ...", "dim")
        time.sleep(_POLL_S)
    return owner.pid


def restart(as_json: bool) -> int:
    stop_daemon(connect(start=False))
    return start(as_json)


def run() -> int:
    from kheish.daemon.main import run_daemon

    return run_daemon()


def logs(follow: bool, lines: int, as_json: bool) -> int:
    path = paths.log_path()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=lines):
                print(clean(line.rstrip("\n")))
    except FileNotFoundError:
        say(f"there is no log yet at {path}")
        return 0
    if follow:
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-n", "0", "-F", str(path)])  # noqa: S606 - it follows rotation, we need not
    return 0


SYSTEMD_UNIT = """\
[Unit]
Description=Kheish, the daemon that keeps AI agents running
Documentation=https://github.com/kheish/kheish

[Service]
Type=notify
ExecStart={python} -m kheish daemon run
Restart=on-failure
RestartSec=1
KillMode=mixed
TimeoutStopSec=30
{environment}
[Install]
WantedBy=default.target
"""


def install(print_only: bool, as_json: bool) -> int:
    kept = {n: os.environ[n] for n in ("KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR", "KHEISH_SOCKET") if os.environ.get(n)}
    if sys.platform == "darwin":
        text = _launchd_plist(kept)
        path = os.path.expanduser("~/Library/LaunchAgents/dev.kheish.daemon.plist")
        then = f"launchctl load -w {path}"
    else:
        text = _systemd_unit(kept)
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        path = os.path.join(config, "systemd", "user", "kheish.service")
        then = "systemctl --user daemon-reload && systemctl --user enable --now kheish"
    if not print_only:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    if as_json:
        print_json({"path": path, "written": not print_only, "text": text, "then": then})
    elif print_only:
        print(text, end="")
    else:
        print(path)
        say(f"written. To have it started now and at every login: {then}")
    return 0


def _systemd_unit(environment: dict[str, str]) -> str:
    lines = [f"Environment={_systemd_quoted(f'{name}={value}')}\n" for name, value in environment.items()]
    return SYSTEMD_UNIT.format(python=_systemd_quoted(sys.executable), environment="".join(lines))


def _systemd_quoted(text: str) -> str:
    """Source: systemd.syntax(7) for the quotes, systemd.unit(5) for the specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _launchd_plist(environment: dict[str, str]) -> str:
    import plistlib

    plist: dict[str, Any] = {
        "Label": "dev.kheish.daemon",
        "ProgramArguments": [sys.executable, "-m", "kheish", "daemon", "run"],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
    }
    if environment:
        plist["EnvironmentVariables"] = environment
    return plistlib.dumps(plist, sort_keys=False).decode()
