"""Shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

# Its pytest plugin imports the rest of it after the last test, deep in the stack, where the parser of CPython 3.11 may
# fail (gh-106905); what is imported now is not imported then.
import hypothesis
import pytest

from tests.daemon_process import DaemonProcess

# How long an example takes says how busy the machine is, no more.
hypothesis.settings.register_profile("kheish", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("kheish")


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a short name: whoever runs the tests, the path of a state root's socket has to fit into an address."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A running daemon of this test alone."""
    made = DaemonProcess(tmp_path)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.fixture(scope="module")
def shared_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A running daemon for the tests of a module, which keep to sessions of their own and do not stop it."""
    made = DaemonProcess(tmp_path_factory.mktemp("shared"))
    try:
        yield made.start()
    finally:
        made.close()
