"""A daemon whose model does what the input says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess, bash, calls, text, tool

QUESTION = {
    "question": "Which colour?",
    "header": "Colour",
    "options": [{"label": "red"}, {"label": "blue", "description": "like the sea"}],
}
# A model sees all that was said since its last reply, the input of a run that was stopped too: AFTER wins over HANG.
REPLIES = (
    text("done", when="AFTER"),
    text("never", when="HANG", hang=1_000),
    calls(tool("ask_user_question", questions=[QUESTION]), when="ASK"),
    {**bash("echo did it"), "when": "SHELL"},
    {**bash("seq 1 9000"), "when": "LONG"},
    calls(tool("bash", command="echo one"), tool("bash", command="echo two"), when="TWICE"),
    text("done"),
)


def obey(daemon: DaemonProcess) -> DaemonProcess:
    """Replies by what the input contains; everything else is answered with `done`."""
    daemon.script(*REPLIES, after_last="repeat")
    return daemon


@pytest.fixture(scope="module")
def api(shared_daemon: DaemonProcess) -> DaemonProcess:
    """The module's daemon."""
    return obey(shared_daemon)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that the test may kill."""
    made = DaemonProcess(tmp_path)
    obey(made)
    try:
        yield made.start()
    finally:
        made.close()
