"""What the tests of a daemon's surroundings have in common."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

import pytest

from kheish.client import ApiError
from kheish.daemon.maintenance import verify
from kheish.errors import Conflict
from kheish.store import locks
from tests.daemon_process import Json
from tests.faults.conftest import FailingDaemon, wait_until
from tests.faults.life import REPOSITORY

DAY_MS = 86_400_000
GATE = "echo ran >> count.log; while [ ! -e gate ]; do sleep 0.01; done"


def watched(daemon: FailingDaemon, *options: str) -> list[str]:
    """The command of a daemon with the small bounds of these tests."""
    return [sys.executable, "-m", "tests.faults.daemon", "--log", str(daemon.log), *options]


def start(daemon: FailingDaemon, *options: str, around: tuple[str, ...] = ()) -> None:
    """`around` is a command that becomes the daemon."""
    daemon.start({"PYTHONPATH": os.fspath(REPOSITORY)}, [*around, *watched(daemon, *options)])


def run(daemon: FailingDaemon, session_id: str, content: str = "go") -> str:
    """Submits and waits; returns the status."""
    return str(daemon.finish(daemon.submit(session_id, content))["status"])


def refused(act: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        act()
    return caught.value


def until_put_away(daemon: FailingDaemon) -> None:
    wait_until(lambda: not daemon.client.daemon.status()["sessions"]["loaded"])


def until_unlocked(daemon: FailingDaemon, session_id: str) -> None:
    """Until whoever had this session open has put it away."""

    def is_free() -> bool:
        lock = locks.SessionLock(daemon.state / "sessions" / session_id)
        with contextlib.suppress(Conflict):
            lock.acquire()
            lock.release()
            return True
        return False

    wait_until(is_free)


def faults(daemon: FailingDaemon) -> dict[str, list[str]]:
    """What `verify` finds, by session; nothing where all is sound."""
    found = {v.session_id: [fault.reason for fault in v.faults] for v in verify(daemon.state)}
    return {session_id: reasons for session_id, reasons in found.items() if reasons}


def all_records(daemon: FailingDaemon) -> list[Json]:
    """As a follower of everything sees them from the start."""
    found = []
    with contextlib.closing(daemon.events(cursor="0.0")) as events:
        for event in events:
            if event.event == "sync":
                break
            found.append(event.data)
    return found
