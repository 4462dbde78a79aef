"""A daemon whose disk fails on demand."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_process import EVENT_TIMEOUT_S, DaemonProcess
from tests.faults.life import REPOSITORY
from tests.faults.syscalls import Call, read_log


def wait_until(holds: Callable[[], object]) -> None:
    """Looks again and again, for what tells nobody when it happens."""
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class FailingDaemon(DaemonProcess):
    """Its failures are those it was started with, and act while the disk is `broken`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.log = folder / "calls.log"
        self._switch = folder / "broken"

    def begin(self, *failures: str) -> FailingDaemon:
        """Starts it; `failures` as `tests.faults.syscalls.Failure` reads them."""
        argv = [sys.executable, "-m", "tests.faults.daemon", "--log", str(self.log), "--switch", str(self._switch)]
        argv += [word for failure in failures for word in ("--fail", failure)]
        self.start({"PYTHONPATH": os.fspath(REPOSITORY)}, argv)
        return self

    def break_disk(self) -> None:
        self._switch.touch()

    def mend_disk(self) -> None:
        self._switch.unlink(missing_ok=True)

    @property
    def failed(self) -> list[str]:
        """The calls that were made to fail, as kind:path."""
        return [line[7:] for line in self.log.read_text().splitlines() if line.startswith("failed ")]

    @property
    def calls(self) -> list[Call]:
        """The calls of the last start."""
        return read_log(self.log)[-1]

    def texts(self, session_id: str) -> list[str]:
        """The inputs of a session's runs, oldest first."""
        runs = self.client.sessions.runs(session_id)
        return [run["request"]["text_preview"] for run in reversed(runs)]


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of this test, with a short name for the sake of the paths of sockets."""
    return tmp_path_factory.mktemp("f")


@pytest.fixture
def failing(short_path: Path) -> Iterator[FailingDaemon]:
    """Not started yet."""
    made = FailingDaemon(short_path)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def daemons() -> Iterator[Callable[[Path], FailingDaemon]]:
    made: list[FailingDaemon] = []

    def make(folder: Path) -> FailingDaemon:
        made.append(FailingDaemon(folder))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()
