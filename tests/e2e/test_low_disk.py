"""A disk that is almost full: new work is refused while there is room to end what runs, and taken again once there is
more. On a real file system of 16 MiB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kheish.client import ApiError
from kheish.daemon.maintenance import verify
from kheish.limits import KIB, MIB
from tests.daemon_process import EVENT_TIMEOUT_S, DaemonProcess, bash, calls, text, tool

pytestmark = pytest.mark.slow

DISK_BYTES = 16 * MIB
LEFT_BYTES = 512 * KIB
"""Less than the share of such a small disk that is kept."""


class SmallDisk(DaemonProcess):
    """A daemon whose state root is a file system of its own."""

    def mount(self) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("NOT TESTED HERE: mounting a small file system needs root on Linux")
        self.state.mkdir(mode=0o700)
        options = f"size={DISK_BYTES},mode=0700"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.state], capture_output=True)
        if done.returncode:
            pytest.skip(f"NOT TESTED HERE: cannot mount a small file system: {done.stderr.decode().strip()}")

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.state], check=False, capture_output=True)

    def fill(self) -> None:
        with (self.state / "somebody-elses.bin").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, self.free_bytes() - LEFT_BYTES)
        self.wait_until(lambda: "disk_low" in self.warnings())

    def make_room(self) -> None:
        (self.state / "somebody-elses.bin").unlink()
        self.wait_until(lambda: self.warnings() == [])

    def free_bytes(self) -> int:
        found = os.statvfs(self.state)
        return found.f_bavail * found.f_frsize

    def warnings(self) -> list[str]:
        return [warning["code"] for warning in self.client.daemon.status()["warnings"]]

    def wait_until(self, holds: Callable[[], object]) -> None:
        deadline = time.monotonic() + EVENT_TIMEOUT_S
        while not holds():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.02)


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    made = SmallDisk(tmp_path_factory.mktemp("d"))
    made.mount()
    try:
        made.start()
        yield made
    finally:
        made.close()
        made.unmount()


def refusal(call: Callable[..., Any], *arguments: Any, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments, **options)
    return caught.value


def test_new_work_is_refused_what_runs_is_ended_and_new_work_is_taken_once_there_is_room(small: SmallDisk) -> None:
    question = {"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}
    small.script(bash("echo ran >> count.log"), text("done"), text("queued done"), text("later"))
    small.script(calls(tool("ask_user_question", questions=[question])), text("answered"), name="asks.json")
    small.script(bash("true"), name="waits.json")
    asked = small.submit(small.session("s"), "first", key="first")
    approval = small.until("s", "approval.requested")["request_id"]
    queued = small.submit("s", "second")
    asking = small.submit(small.session("asks"), model="test/asks.json")
    question_id = small.until("asks", "question.requested")["request_id"]
    unwanted = small.submit(small.session("unwanted"), model="test/waits.json")
    small.until("unwanted", "approval.requested")
    generation = small.client.daemon.status()["generation"]

    small.fill()
    attachment = {"file_name": "a.bin", "media_type": "application/octet-stream", "content_base64": "AAAA"}
    for error in (
        refusal(small.client.sessions.submit, "s", "more"),
        refusal(small.client.sessions.submit, "s", "look", attachments=[attachment]),
        refusal(small.client.sessions.create, "another", cwd=str(small.work)),
    ):
        assert (error.status, error.code) == (503, "disk_low")
        assert str(small.state) in error.message and "MiB free" in error.message and "vacuum" in error.message
    assert not (small.state / "sessions" / "another").exists()
    assert list((small.state).glob("blobs/*")) == []
    done = small.cli("run", "-s", "s", "-d", "more")
    assert done.returncode == 7 and "almost full" in done.stderr
    done = small.cli("status")
    assert done.returncode == 0 and "warning" in done.stdout and "almost full" in done.stdout
    done = small.cli("doctor", "--json")
    assert done.returncode == 1
    checks = {row["check"]: row for row in json.loads(done.stdout)}
    assert checks["disk"]["verdict"] == "wrong" and "no new work is taken" in checks["disk"]["detail"]
    assert checks["sessions"]["verdict"] == "ok"

    again = small.client.sessions.submit("s", "first", key="first")
    assert again["run_id"] == asked, "what was taken before is known"
    assert small.client.sessions.create("s", cwd=str(small.work))["session_id"] == "s"
    small.client.approvals.allow(approval)
    assert small.cli("answer", question_id, "--option", "a").returncode == 0
    small.client.runs.cancel(unwanted)
    assert [small.finish(run)["status"] for run in (asked, queued, asking, unwanted)] == [
        "completed", "completed", "completed", "cancelled",
    ]  # fmt: skip
    assert (small.work / "count.log").read_text() == "ran\n"
    assert small.warnings() == ["disk_low"]

    small.make_room()
    assert small.finish(small.submit("s", "third"))["status"] == "completed"
    small.client.sessions.create("another", cwd=str(small.work))
    assert small.client.daemon.status()["generation"] == generation, "by the same daemon"
    assert [v for v in verify(small.state) if v.faults] == []


def test_where_no_daemon_could_start_the_one_that_runs_is_not_stopped(small: SmallDisk) -> None:
    with (small.state / "somebody-elses.bin").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(64 * KIB))
    pid = small.client.daemon.status()["pid"]
    for command in ("restart", "check"):
        done = small.cli("daemon", command)
        assert done.returncode == 2 and f"cannot write {small.state}: No space left on device; make room" in done.stderr
    assert small.client.daemon.status()["pid"] == pid
    (small.state / "somebody-elses.bin").unlink()
    assert small.cli("daemon", "check").returncode == 0


def test_an_almost_full_disk_does_not_keep_a_daemon_from_taking_up_what_it_owes(small: SmallDisk) -> None:
    small.script(bash("echo ran >> count.log"), text("done"))
    run_id = small.submit(small.session("s"))
    approval = small.until("s", "approval.requested")["request_id"]
    small.fill()
    small.kill()
    small.start()
    assert small.warnings() == ["disk_low"]
    small.client.approvals.allow(approval)
    assert small.finish(run_id)["status"] == "completed"


def test_vacuum_makes_room_on_an_almost_full_disk(small: SmallDisk) -> None:
    """It takes no more room than the packed form of one segment."""
    small.script({"hang": 1})
    small.session("s")
    while len(list((small.state / "sessions" / "s").glob("journal-*"))) < 2:
        small.submit("s", "a long text that a person pasted. " * 30_000)
    small.fill()
    small.kill()
    done = small.cli("sessions", "vacuum", "s")
    assert done.returncode == 0, done.stderr
    small.start()
    assert small.warnings() == []
    small.session("another")
