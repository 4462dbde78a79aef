"""Deaths that are wider than the daemon: its process group, or everything that it ever started."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from kheish.daemon.maintenance import verify
from tests.daemon_process import bash, calls, text, tool
from tests.faults.conftest import FailingDaemon, wait_until
from tests.faults.oracles import processes_of

pytestmark = pytest.mark.slow

ENDLESS = "echo started >> count.log; setsid sleep 300 & sleep 300"


def kill_the_group(daemon: FailingDaemon) -> None:
    os.killpg(daemon.pid, signal.SIGKILL)


def kill_everything(daemon: FailingDaemon) -> None:
    """As a container or a service manager does."""
    for pid in (daemon.pid, *processes_of(daemon.state)):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_the_group, kill_everything])
def test_killed_with_its_group_while_tools_run_each_ran_once_and_none_is_left(
    failing: FailingDaemon, kill: Callable[[FailingDaemon], None]
) -> None:
    failing.script(
        calls(tool("bash", command=ENDLESS), tool("bash", command=ENDLESS), tool("read_file", path="count.log")),
        bash("wc -l < count.log"),
        text("checked"),
    )
    in_a_group_of_its_own = ["setsid", sys.executable, "-m", "kheish", "daemon", "run"]
    failing.start(argv=in_a_group_of_its_own)
    run_id = failing.submit(failing.session("s", "bypass"))
    log = failing.work / "count.log"
    wait_until(lambda: log.exists() and log.read_text() == "started\n" * 2)
    kill(failing)
    assert failing.popen is not None
    failing.popen.wait()
    failing.start()
    assert failing.finish(run_id)["outputs"] == ["checked"]
    assert log.read_text() == "started\n" * 2
    assert failing.types("s").count("tool_call.became_uncertain") == 2
    assert processes_of(failing.state) == {}
    assert [v.faults for v in verify(failing.state)] == [[]]
