"""Starts the daemon where there is none: detached, in a session of its own, its log in the state root. And stops it."""

from __future__ import annotations

import os
import sys
import time

from kheish import paths
from kheish.client.errors import DaemonUnreachable
from kheish.client.http1 import Request
from kheish.client.transport import Transport
from kheish.errors import Invalid, KheishError
from kheish.limits import DAEMON_START_TIMEOUT_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from typing import IO

EXIT_LOCKED = 6
_PRIVATE = ("KHEISH_SESSION_ID", "KHEISH_RUN_ID", "KHEISH_TOOL_CALL_ID", "NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS")
"""What is meant for the caller alone."""
_PLACES = ("KHEISH_STATE_ROOT", "KHEISH_CONFIG_DIR", "KHEISH_SOCKET")
_WAIT_FIRST_S, _WAIT_MAX_S = 0.005, 0.05
STOP_TIMEOUT_S = 30.0
_STOP_POLL_S = 0.02
_LOCKED_S = 1.0
"""How long another daemon may take to answer or to leave before one is started again."""


def ensure_daemon(transport: Transport) -> bool:
    """Returns when a daemon answers; whether it had to be started. Raises DaemonUnreachable with what it said."""
    if is_up(transport):
        return False
    start_daemon(transport)
    return True


def is_up(transport: Transport) -> bool:
    try:
        transport.connect().close()
    except DaemonUnreachable as error:
        if not error.details.get("is_absent"):
            raise
        return False
    return True


def start_daemon(transport: Transport) -> None:
    """Several callers may do this at once: the daemon's lock lets one through, and all wait for that one. Where the
    lock is held by one that is stopping, it is tried again."""
    import tempfile

    with tempfile.TemporaryFile() as said:
        child, spawned_s = _spawn(said), time.monotonic()
        deadline = spawned_s + DAEMON_START_TIMEOUT_MS / 1000
        wait_s = _WAIT_FIRST_S
        while time.monotonic() < deadline:
            if is_ready(transport):
                # The daemon outlives this process; it is not ours to wait for.
                child.returncode = child.poll() or 0
                return
            if child.poll() not in (None, EXIT_LOCKED):
                break
            time.sleep(wait_s)
            wait_s = min(wait_s * 1.5, _WAIT_MAX_S)
            if child.returncode == EXIT_LOCKED and time.monotonic() > spawned_s + _LOCKED_S and not is_up(transport):
                child, spawned_s = _spawn(said), time.monotonic()
        said.seek(0)
        words = said.read(4000).decode("utf-8", "replace").strip()
        reason = words.removeprefix("kheish: ") or "it said nothing"
    raise DaemonUnreachable(
        f"cannot start the daemon: {reason}; its log is {paths.log_name()}, and `kheish daemon run` starts it in the "
        "foreground"
    )


def _spawn(said: IO[bytes]) -> subprocess.Popen[bytes]:
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-m", "kheish", "daemon", "run"],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=said,
        cwd="/",
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """The caller's, with its places as they are seen from `/`."""
    environ = {name: value for name, value in os.environ.items() if name not in _PRIVATE}
    for name in _PLACES:
        if environ.get(name):
            environ[name] = os.path.abspath(os.path.expanduser(environ[name]))
    return environ


def stop_daemon(on_wait: Callable[[], None] = lambda: None, *, to_restart: bool = False) -> int | None:
    """Sends SIGTERM and waits until the state root's lock is free; the pid, or None where none ran. `on_wait` is called
    once where it takes longer, since tool calls are given time to finish. One that is to be started again goes on where
    that could not be. Raises KheishError."""
    import contextlib
    import signal

    from kheish.store.locks import is_state_root_locked, read_owner

    root = paths.state_root()
    owner = read_owner(root)
    if owner is None or not is_state_root_locked(root):
        return None
    if to_restart:
        _require_startable()
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
            on_wait()
        time.sleep(_STOP_POLL_S)
    return owner.pid


def _require_startable() -> None:
    """Asks what would be started, which may be of another version than the daemon that runs."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-m", "kheish", "daemon", "check"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        env=_environment(),
    )
    if done.returncode != 0:
        words = done.stderr[-4000:].decode("utf-8", "replace").strip().removeprefix("kheish: ")
        raise Invalid(
            f"cannot restart the daemon: {words}; the one that runs goes on as it was", code="invalid_configuration"
        )


def is_ready(transport: Transport) -> bool:
    try:
        transport.send(Request("GET", "/readyz"))
    except KheishError:
        return False
    return True
