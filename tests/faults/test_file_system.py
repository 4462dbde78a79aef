"""The file system of a state root fills up, or turns read-only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon_process import bash, text
from tests.faults.conftest import FailingDaemon, wait_until
from tests.faults.surroundings import (
    GATE,
    faults,
    refused,
    run,
    until_unlocked,
)

pytestmark = pytest.mark.slow


def mounted(arguments: list[str], place: Path, why: str) -> Iterator[Path]:
    place.mkdir()
    done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{why}: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(short_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    yield from mounted(["-t", "tmpfs", "-o", "size=2m", "tmpfs"], short_path / "m", "a full disk is not tested")


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def place_state_on(daemon: FailingDaemon, disk: Path) -> None:
    """Its workspace, its configuration and the log of its calls stay where they are."""
    (disk / "state").mkdir()
    daemon.state.symlink_to(disk / "state")


def test_a_disk_that_fills_up_under_running_sessions_takes_nothing_back_and_goes_on_when_there_is_room(
    failing: FailingDaemon, small_disk: Path
) -> None:
    """`bad` has an outcome to record while there is no room; `waits` and `idle` only wait."""
    place_state_on(failing, small_disk)
    large = "i=0; while [ $i -lt 300 ]; do echo 'a line of an output that needs some room'; i=$((i+1)); done"
    failing.script(bash(f"{GATE}; {large}"), text("checked"), text("again"), name="bad.json")
    failing.script(bash("echo asked"), text("done"), name="waits.json")
    failing.script(text("hi"), after_last="repeat")
    failing.begin()
    for name in ("bad", "waits", "idle"):
        failing.session(name, "bypass" if name == "bad" else "default")
    assert run(failing, "idle") == "completed"
    run_id = failing.submit("bad", model="test/bad.json")
    asking = failing.submit("waits", model="test/waits.json")
    request_id = failing.until("waits", "approval.requested")["request_id"]
    failing.until("bad", "tool_call.started")
    acknowledged = failing.client.sessions.get("bad")["seq"]

    fill(small_disk)
    (failing.work / "gate").touch()
    wait_until(lambda: failing.client.daemon.status()["sessions"]["read_only"] == 1)
    assert refused(lambda: failing.submit("idle")).code == "disk_low"
    assert [item["request_id"] for item in failing.client.daemon.inbox()["approvals"]] == [request_id]
    assert len(failing.records("bad")) == acknowledged

    (small_disk / "ballast").unlink()
    assert run(failing, "idle", "with room") == "completed"
    failing.client.approvals.allow(request_id)
    assert failing.finish(asking)["status"] == "completed", "who did not have to write goes on without a restart"
    assert refused(lambda: failing.submit("bad", "later")).code == "session_read_only"

    failing.kill()
    failing.begin()
    assert failing.finish(run_id)["outputs"] == ["checked"]
    assert run(failing, "bad", "again") == "completed"
    assert (failing.work / "count.log").read_text() == "ran\n"
    assert failing.types("bad").count("tool_call.became_uncertain") == 1
    assert faults(failing) == {}


@pytest.fixture
def failing_disk(short_path: Path) -> Iterator[Path]:
    """An ext4 that is read-only after its first error."""
    image = short_path / "image"
    with image.open("wb") as file:
        file.truncate(8 * 2**20)
    if not shutil.which("mkfs.ext4"):
        pytest.skip("no mkfs.ext4: a disk that becomes read-only is not tested")
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-N", "512", image], check=True)
    options = ["-o", "loop,errors=remount-ro", str(image)]
    yield from mounted(options, short_path / "m", "a disk that becomes read-only is not tested")


def make_read_only(disk: Path) -> None:
    """As the kernel does when it finds the file system damaged, whoever has files open."""
    device = os.stat(disk).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    Path(f"/sys/fs/ext4/{name}/trigger_fs_error").write_text("1")


def test_a_disk_that_becomes_read_only_under_running_sessions_acknowledges_nothing_more_and_loses_nothing(
    failing: FailingDaemon, failing_disk: Path
) -> None:
    place_state_on(failing, failing_disk)
    failing.script(bash(GATE), text("checked"), name="works.json")
    failing.script(text("hi"), after_last="repeat")
    failing.begin()
    failing.session("works", "bypass")
    assert run(failing, failing.session("idle")) == "completed"
    run_id = failing.submit("works", model="test/works.json")
    failing.until("works", "tool_call.started")
    until_unlocked(failing, "idle")

    make_read_only(failing_disk)
    (failing.work / "gate").touch()
    wait_until(lambda: failing.client.daemon.status()["sessions"]["read_only"] == 1)
    error = refused(lambda: failing.submit("works", "more"))
    assert (error.code, error.status) == ("session_read_only", 503)
    assert "Read-only file system" in error.message
    assert refused(lambda: failing.submit("idle", "more")).status == 503
    assert refused(lambda: failing.session("new")).status == 503
    assert [record["seq"] for record in failing.records("works")] == list(range(1, 5)), "it can still be read"

    failing.kill()
    subprocess.run(["umount", failing_disk], check=True)
    subprocess.run(["mount", "-o", "loop", failing_disk.parent / "image", failing_disk], check=True)
    failing.begin()
    assert failing.finish(run_id)["outputs"] == ["checked"]
    assert run(failing, "idle", "more") == "completed"
    assert (failing.texts("works"), failing.texts("idle")) == (["go"], ["go", "more"])
    assert (failing.work / "count.log").read_text() == "ran\n"
    assert faults(failing) == {}
