"""What surrounds a daemon and may change under it: the clock, the memory, the places of its files, the file system, and
who owns the state root."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheish.client import ApiError
from kheish.daemon.maintenance import verify
from kheish.errors import Conflict
from kheish.store import locks
from kheish.store.locks import DaemonLock
from kheish.tools.processes import identify
from tests.daemon_process import Json, bash, text
from tests.faults import oracles, scene
from tests.faults.conftest import FailingDaemon, wait_until
from tests.faults.life import POLL_S, REPOSITORY, Life

pytestmark = pytest.mark.slow

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


# -- the clock ---------------------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of a daemon."""

    def __init__(self, daemon: FailingDaemon) -> None:
        self._daemon = daemon
        self._ahead = daemon.folder / "ahead"
        self.set(0)

    def set(self, ahead_ms: int) -> None:
        new = self._ahead.with_suffix(".new")
        new.write_text(str(ahead_ms))
        new.replace(self._ahead)

    def start(self) -> None:
        start(self._daemon, "--clock", str(self._ahead))


@pytest.fixture
def clock(failing: FailingDaemon) -> Clock:
    return Clock(failing)


@pytest.mark.parametrize("ahead_ms", [-DAY_MS, DAY_MS], ids=["back", "forward"])
@pytest.mark.parametrize("is_restarted", [False, True], ids=["within a life", "between lives"])
def test_a_clock_that_jumps_a_day_changes_no_order_and_hides_nothing(
    failing: FailingDaemon, clock: Clock, ahead_ms: int, is_restarted: bool
) -> None:
    failing.script(bash("echo one"), text("done"), after_last="cycle")
    clock.start()
    runs, requests = [], []

    def ask(session_id: str) -> str:
        runs.append(failing.submit(session_id))
        requests.append(
            failing.until(session_id, "approval.requested", cursor=last_seq.get(session_id, ""))["request_id"]
        )
        return str(requests[-1])

    def allow(session_id: str, request_id: str) -> None:
        failing.client.approvals.allow(request_id)
        failing.finish(runs[-1])
        last_seq[session_id] = str(failing.client.sessions.get(session_id)["seq"])

    last_seq: dict[str, str] = {}
    for name in ("before", "over"):
        allow(failing.session(name), ask(name))
    waiting = ask("over")
    until_put_away(failing)

    clock.set(ahead_ms)
    if is_restarted:
        failing.kill()
        clock.start()
    allow("over", waiting)
    for name in ("before", "over", failing.session("after")):
        allow(name, ask(name))
    until_put_away(failing)

    assert len(set(runs + requests)) == len(runs + requests) == 12
    for run_id in runs:
        assert failing.client.runs.get(run_id)["status"] == "completed"
    for name in ("before", "over", "after"):
        listed = [run["run_id"] for run in failing.client.sessions.runs(name)]
        assert listed == [run_id for run_id in reversed(runs) if run_id in listed], "newest first, whatever their times"
        seqs = [record["seq"] for record in failing.journal(name)]
        assert seqs == list(range(1, len(seqs) + 1))
    records = all_records(failing)
    places = [(record["generation"], record["position"]) for record in records]
    assert places == sorted(set(places))
    assert len(records) == sum(len(failing.journal(name)) for name in ("before", "over", "after"))
    listed, cursor = [], ""
    while cursor is not None:
        page = failing.client.sessions.page(limit=1, cursor=cursor) if cursor else failing.client.sessions.page(limit=1)
        listed += [session["session_id"] for session in page["items"]]
        cursor = page["next_cursor"]
    assert sorted(listed) == ["after", "before", "over"]
    for command in (["ps", "--all"], ["sessions", "list"], ["runs", "list"], ["status"]):
        done = failing.cli(*command)
        assert (done.returncode, done.stderr) == (0, ""), command
        assert " -" not in done.stdout, f"no negative ages: {done.stdout}"
    assert faults(failing) == {}


@pytest.mark.parametrize("ahead_ms", [-DAY_MS, DAY_MS], ids=["back", "forward"])
def test_a_retry_is_made_once_and_in_time_though_the_clock_was_set(
    failing: FailingDaemon, clock: Clock, ahead_ms: int
) -> None:
    """Forward it is due at once; back it waits what it had to wait, and not a day."""
    wait_ms = 1_000 if ahead_ms < 0 else 3_600_000
    failing.script(text("done", error={"code": "rate_limited", "retry_after_ms": wait_ms}))
    clock.start()
    run_id = failing.submit(failing.session("s"))
    failing.until("s", "model_call.retrying")
    failing.kill()
    assert failing.types("s")[-1] == "model_call.retrying"
    clock.set(ahead_ms)
    clock.start()
    assert failing.finish(run_id)["status"] == "completed"
    assert failing.types("s").count("model_call.started") == 2


def test_a_clock_that_is_put_right_within_a_life_delays_no_retry(failing: FailingDaemon, clock: Clock) -> None:
    failing.script(text("done", error={"code": "rate_limited", "retry_after_ms": 200}))
    clock.set(DAY_MS)
    clock.start()
    failing.session("s")
    clock.set(0)
    assert run(failing, "s") == "completed"
    at_ms = [record["at"] for record in failing.journal("s")]
    assert at_ms == sorted(at_ms), "times do not run backwards within a life"


# -- the memory --------------------------------------------------------------------------------------------------------

MEMORY_BYTES = 128 * 2**20
CONTROLLERS = {
    "/sys/fs/cgroup/memory": {
        "memory.limit_in_bytes": MEMORY_BYTES,
        "memory.memsw.limit_in_bytes": MEMORY_BYTES,
    },
    "/sys/fs/cgroup": {"memory.max": MEMORY_BYTES, "memory.swap.max": 0},
}
"""Where both versions of control groups keep their limits, the first of which must be there."""
HOG = """
import os, sys, time
from kheish.tools.processes import identify, is_alive
other = identify(int(sys.argv[2]))
open(sys.argv[1], "w").write(str(os.getpid()))
taken = []
while is_alive(other):
    taken.append(b"x" * 2**20)
    time.sleep(0.001)
"""
"""Takes memory until another process is gone."""
JOIN = 'echo $$ > "$0"; echo 1000 > /proc/self/oom_score_adj; exec "$@"'


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group with MEMORY_BYTES of memory, of either version of cgroups."""
    name = f"kheish-test-{os.getpid()}"
    for folder, limits in CONTROLLERS.items():
        place = Path(folder) / name
        with contextlib.suppress(OSError):
            place.mkdir()
        if (place / next(iter(limits))).exists():
            break
        with contextlib.suppress(OSError):
            place.rmdir()
    else:
        pytest.skip("no memory controller of cgroups that may be written here: an OOM kill is not tested")
    for file, limit_bytes in limits.items():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # swap is not always counted
            (place / file).write_text(str(limit_bytes))
    try:
        yield place
    finally:
        for pid in (place / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (place / "cgroup.procs").read_text())
        place.rmdir()


class OutOfMemory(Life):
    """The scene, in which another process of the daemon's memory group takes what is left of it: while the first run is
    at work, and while a command runs that does not end."""

    group: Path

    async def play(self) -> None:
        self._first = asyncio.ensure_future(self._take_memory("one"))
        await super().play()

    async def create(self, session_id: str) -> None:
        if session_id == "side":
            await self._first
        await super().create(session_id)

    async def cancel(self, session_id: str, run_id: str) -> None:
        await self._take_memory("endless")
        await super().cancel(session_id, run_id)

    async def _take_memory(self, when_counted: str) -> None:
        while when_counted not in scene.counted(self.daemon):
            await asyncio.sleep(POLL_S)
        pid = (await self.ask(self.client.daemon.status))["pid"]
        group = str(self.group / "cgroup.procs")
        hog = await asyncio.create_subprocess_exec(sys.executable, "-c", HOG, group, str(pid))
        assert await hog.wait() in (0, -signal.SIGKILL), "it may be next when the daemon is gone"


def test_killed_for_want_of_memory_while_it_works_the_scene_ends_as_promised(
    short_path: Path, memory_group: Path
) -> None:
    life = OutOfMemory(short_path, watcher=["sh", "-c", JOIN, str(memory_group / "cgroup.procs")])
    life.group = memory_group
    asyncio.run(life.live())
    assert oracles.judge(life) == []
    assert life.deaths >= 2


# -- the places of files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["state", "folder"])
def test_a_state_root_behind_a_symbolic_link_is_the_one_that_it_leads_to(short_path: Path, link: str) -> None:
    """The root itself is a link, or its parent is: one owner, one state, by either name."""
    real = short_path / "real"
    (real / "state").mkdir(parents=True)
    if link == "state":
        named = short_path / "named"
        named.mkdir()
        (named / "state").symlink_to(real / "state")
    else:
        named = short_path / "named"
        named.symlink_to(real)
    by_link, direct = FailingDaemon(named), FailingDaemon(real)
    try:
        by_link.script(text("hi"), after_last="repeat")
        direct.script(text("hi"), after_last="repeat")
        start(by_link)
        assert run(by_link, by_link.session("s"), "by the link") == "completed"
        second = direct.cli("daemon", "run")
        assert second.returncode == 6
        assert str(by_link.pid) in second.stderr
        assert direct.texts("s") == ["by the link"], "the socket is found by either name"
        by_link.kill()
        start(direct)
        assert run(direct, "s", "directly") == "completed"
        assert direct.client.daemon.status()["generation"] == 2
        direct.kill()
        start(by_link)
        assert by_link.texts("s") == ["by the link", "directly"]
        assert faults(by_link) == faults(direct) == {}
    finally:
        by_link.close()
        direct.close()


def make_socket(path: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def make_directory(path: Path) -> None:
    path.mkdir()
    (path / "precious").write_text("kept")


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


IN_ITS_PLACE = {"a socket": make_socket, "a directory": make_directory, "a link to nowhere": make_link}


@pytest.fixture(scope="module")
def two_sessions_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a daemon that has left; its sessions `bad` and `good` have run twice."""
    daemon = FailingDaemon(tmp_path_factory.mktemp("f"))
    try:
        daemon.script(text("hi"), after_last="repeat")
        start(daemon)
        for name in (daemon.session("bad"), daemon.session("good")) * 2:
            run(daemon, name)
        until_put_away(daemon)
        assert daemon.stop() == 0
    finally:
        daemon.close()
    return daemon.folder


@pytest.fixture
def two_sessions(failing: FailingDaemon, two_sessions_made: Path) -> FailingDaemon:
    """A copy of it, not started yet."""
    shutil.copytree(two_sessions_made, failing.folder, dirs_exist_ok=True, symlinks=True)
    return failing


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
@pytest.mark.parametrize("place", ["journal-000000000001.jsonl", "session.lock"])
def test_a_session_whose_file_is_none_stands_still_and_the_others_go_on(
    two_sessions: FailingDaemon, place: str, kind: str
) -> None:
    daemon, bad = two_sessions, two_sessions.state / "sessions" / "bad"
    kept = daemon.folder / "kept"
    (bad / place).rename(kept)
    IN_ITS_PLACE[kind](bad / place)
    before = names(bad)
    daemon.begin()
    assert run(daemon, "good") == "completed"
    assert "bad" in refused(lambda: daemon.submit("bad")).message
    assert [session["session_id"] for session in daemon.client.sessions.list()] == ["good", "bad"]
    if place != "session.lock":
        (warning,) = daemon.client.daemon.status()["warnings"]
        assert warning["session_id"] == "bad"
    assert names(bad) == before, "nothing was emptied, moved or made"
    daemon.kill()

    if kind == "a directory":
        shutil.rmtree(bad / place)
    else:
        (bad / place).unlink()
    kept.rename(bad / place)
    daemon.begin()
    assert run(daemon, "bad", "again") == "completed"
    assert daemon.texts("bad") == ["go", "go", "again"]
    assert faults(daemon) == {}


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
@pytest.mark.parametrize("place", ["sessions/bad/checkpoint-000000000005.json", "daemon/index.jsonl"])
def test_a_cache_whose_file_is_none_is_done_without(two_sessions: FailingDaemon, place: str, kind: str) -> None:
    daemon = two_sessions
    (daemon.state / place).unlink(missing_ok=True)
    IN_ITS_PLACE[kind](daemon.state / place)
    daemon.begin()
    assert run(daemon, "bad") == run(daemon, "good") == "completed"
    assert daemon.texts("bad") == ["go"] * 3
    assert daemon.client.daemon.status()["warnings"] == []
    assert daemon.stop() == 0
    if kind == "a directory":
        assert (daemon.state / place / "precious").read_text() == "kept"


@pytest.mark.parametrize(
    ("place", "kind"),
    [("permissions.json", "a socket"), *(("generation.json", kind) for kind in IN_ITS_PLACE)],
)
def test_where_the_rules_or_the_generation_cannot_be_read_no_daemon_guesses_them(
    two_sessions: FailingDaemon, place: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    daemon, path = two_sessions, two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    IN_ITS_PLACE[kind](path)
    before = names(daemon.state)
    with pytest.raises(AssertionError, match="left with status 1"):
        daemon.begin()
    assert "cannot run on" in capfd.readouterr().err
    assert set(before) <= set(names(daemon.state)), "nothing was emptied"


@pytest.mark.parametrize(
    "place",
    [
        "sessions/bad/journal-000000000001.jsonl",
        "sessions/bad/checkpoint-000000000005.json",
        "daemon/index.jsonl",
    ],
)
def test_nobody_waits_for_a_fifo_in_the_place_of_a_file(two_sessions: FailingDaemon, place: str) -> None:
    daemon, path = two_sessions, two_sessions.state / place
    kept = daemon.folder / "kept"
    path.rename(kept)
    os.mkfifo(path)
    daemon.begin()
    assert run(daemon, "good") == "completed"
    if "journal" in place:
        assert "bad" in refused(lambda: daemon.submit("bad")).message
        (warning,) = daemon.client.daemon.status()["warnings"]
        assert warning["session_id"] == "bad"
        assert path.name in warning["message"] and "Not a regular file" in warning["message"]
        assert path.is_fifo()
        daemon.kill()
        path.unlink()
        kept.rename(path)
        daemon.begin()
    assert run(daemon, "bad") == "completed"
    assert daemon.texts("bad") == ["go"] * 3


@pytest.mark.parametrize("place", ["permissions.json", "generation.json", "daemon.log"])
def test_a_daemon_does_not_wait_for_a_fifo_among_its_own_files_and_names_it(
    two_sessions: FailingDaemon, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert place in capfd.readouterr().err
    assert path.is_fifo()


@pytest.mark.parametrize("place", ["permissions.json", "generation.json"])
def test_a_directory_in_the_place_of_a_document_is_named(
    two_sessions: FailingDaemon, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / place
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert str(path) in capfd.readouterr().err


def test_rules_behind_a_link_to_nowhere_are_not_taken_for_none(
    two_sessions: FailingDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    path = two_sessions.state / "daemon" / "permissions.json"
    path.symlink_to("nowhere")
    with pytest.raises(AssertionError, match="left with status 1"):
        two_sessions.begin()
    assert str(path) in capfd.readouterr().err
    assert path.is_symlink()


def without_privileges() -> tuple[str, ...]:
    """A command that runs another one which may read only what the modes of files allow, also for root."""
    if os.geteuid():
        return ()
    drop = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if not shutil.which("setpriv") or subprocess.run([*drop, "true"], check=False, capture_output=True).returncode:
        pytest.skip("root cannot give up its privileges here: an unreadable directory is not tested")
    return drop


def test_a_session_whose_directory_may_not_be_read_is_named_and_the_others_go_on(two_sessions: FailingDaemon) -> None:
    daemon, bad = two_sessions, two_sessions.state / "sessions" / "bad"
    before = names(bad)
    bad.chmod(0)
    try:
        start(daemon, around=without_privileges())
        assert run(daemon, "good") == "completed"
        assert "bad" in refused(lambda: daemon.submit("bad")).message
        (warning,) = daemon.client.daemon.status()["warnings"]
        assert warning["session_id"] == "bad" and "Permission denied" in warning["message"]
    finally:
        bad.chmod(0o700)
    assert names(bad) == before
    assert run(daemon, "bad") == "completed", "without a restart"
    assert faults(daemon) == {}


# -- the file system ---------------------------------------------------------------------------------------------------


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


@pytest.fixture
def daemons() -> Iterator[Callable[[Path], FailingDaemon]]:
    made: list[FailingDaemon] = []

    def make(folder: Path) -> FailingDaemon:
        made.append(FailingDaemon(folder))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()


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


# -- who owns it -------------------------------------------------------------------------------------------------------

RACES = 1_000
RACERS = 3


def race(root: Path, ready: Any, won: Any) -> None:
    """In a process of its own: tries for the lock once in each race, and holds it until everybody has tried."""
    locks._LOOK_S = 0.0
    for _ in range(RACES):
        lock = DaemonLock(root)
        ready.wait()
        with contextlib.suppress(Conflict):
            lock.acquire()
            won.put(lock.generation)
        ready.wait()
        lock.release()


def test_each_of_a_thousand_races_for_the_lock_has_one_winner_with_a_generation_of_its_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, won = context.Barrier(RACERS), context.SimpleQueue()
    racers = [context.Process(target=race, args=(tmp_path / "state", ready, won)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    generations = [won.get() for _ in range(RACES)]
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert won.empty()
    assert generations == list(range(1, RACES + 1))


class Connection(http.client.HTTPConnection):
    """A connection to the daemon that serves now, which stays with it when another takes its place."""

    def __init__(self, daemon: FailingDaemon) -> None:
        super().__init__("localhost", timeout=30)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(daemon.socket))
        assert self.ask("GET", "/v1/status")[0] == 200

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        data = None if body is None else json.dumps(body)
        self.request(method, path, data, {"Content-Type": "application/json", "Kheish-Origin": "test"})
        response = self.getresponse()
        return response.status, json.loads(response.read())

    def submit(self, session_id: str, content: str) -> tuple[int, Json]:
        return self.ask("POST", f"/v1/sessions/{session_id}/runs", {"content": content})


@pytest.mark.parametrize("lock_is", ["deleted", "replaced"])
def test_a_daemon_that_lost_its_lock_while_it_stood_still_writes_nothing_that_its_successor_would_not_hold(
    failing: FailingDaemon, daemons: Callable[[Path], FailingDaemon], lock_is: str
) -> None:
    """`held` is open in it and stays its own; `free` is its successor's, also after that one has put it away."""
    failing.script(bash(GATE), text("the first daemon's"), name="held.json")
    failing.script(text("hi"), after_last="repeat")
    failing.begin()
    assert run(failing, failing.session("free"), "first") == "completed"
    run_id = failing.submit(failing.session("held", "bypass"), model="test/held.json")
    failing.until("held", "tool_call.started")
    until_unlocked(failing, "free")
    stale = Connection(failing)
    os.kill(failing.pid, signal.SIGSTOP)
    lock = failing.state / "daemon.lock"
    lock.unlink()
    if lock_is == "replaced":
        lock.write_bytes(b"")
    failing.socket.unlink()  # for whoever connects to it waits for the one that stands still

    successor = daemons(failing.folder)
    successor.begin()
    assert successor.client.daemon.status()["generation"] == 2
    assert refused(lambda: successor.submit("held", "no")).code == "session_locked"
    assert run(successor, "free", "second") == "completed"
    os.kill(failing.pid, signal.SIGCONT)
    until_unlocked(failing, "free")

    status, problem = stale.submit("free", "stale")
    assert (status, problem["code"]) == (503, "not_locked")
    assert "stop this daemon" in problem["detail"]
    assert run(successor, "free", "third") == "completed", "and it did not keep the session locked"
    (failing.work / "gate").touch()
    wait_until(lambda: "run.completed" in failing.types("held"))
    failing.kill()
    assert successor.client.runs.get(run_id)["outputs"] == ["the first daemon's"]
    assert run(successor, "held", "mine now") == "completed"
    assert successor.texts("free") == ["first", "second", "third"]
    assert [record["gen"] for record in successor.journal("held")][-1] == 2
    assert locks.read_owner(failing.state).generation == 2  # type: ignore[union-attr]
    assert faults(successor) == {}


@pytest.mark.parametrize("taken", ["the lock", "the session"])
def test_a_session_that_was_taken_from_a_daemon_that_stood_still_gets_nothing_more_from_it(
    failing: FailingDaemon, daemons: Callable[[Path], FailingDaemon], taken: str
) -> None:
    """Its locks are gone, or the whole session was put back from a backup."""
    failing.script(bash(GATE), text("done"))
    failing.begin()
    run_id = failing.submit(failing.session("s", "bypass"))
    failing.until("s", "tool_call.started")
    stale = Connection(failing)
    os.kill(failing.pid, signal.SIGSTOP)
    session = failing.state / "sessions" / "s"
    for path in (failing.state / "daemon.lock", failing.socket, session / "session.lock"):
        path.unlink()
    if taken == "the session":
        shutil.copytree(session, failing.folder / "backup")
        shutil.rmtree(session)
        (failing.folder / "backup").rename(session)

    successor = daemons(failing.folder)
    successor.begin()
    assert successor.finish(run_id)["outputs"] == ["done"]
    until_unlocked(successor, "s")
    before = successor.journal("s")
    os.kill(failing.pid, signal.SIGCONT)
    status, problem = stale.submit("s", "stale")
    assert (status, problem["code"]) == (503, "session_read_only")
    assert "session.lock was deleted or replaced" in problem["detail"]
    (failing.work / "gate").touch()
    failing.kill()
    assert successor.journal("s") == before
    assert run(successor, "s", "mine") in ("completed", "failed")
    assert successor.texts("s") == ["go", "mine"]
    assert faults(successor) == {}
    wait_until(lambda: (failing.work / "count.log").read_text() == "ran\n")


def as_pid(pid: int) -> subprocess.Popen[bytes]:
    """A bystander with this pid, which must be free. Skips where it cannot be made."""
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(100):
        try:
            last_pid.write_text(str(pid - 1))
        except OSError as error:
            pytest.skip(f"a pid cannot be chosen here, so that its reuse is not tested: {error}")
        bystander = subprocess.Popen(["sleep", "300"], start_new_session=True)
        if bystander.pid == pid:
            return bystander
        bystander.kill()
        bystander.wait()
    pytest.skip("another process took the pid each time: its reuse is not tested")


@pytest.fixture
def bystanders() -> Iterator[list[subprocess.Popen[bytes]]]:
    made: list[subprocess.Popen[bytes]] = []
    yield made
    for process in made:
        process.kill()
        process.wait()


def test_who_has_the_pid_of_a_dead_command_by_now_is_left_alone(
    failing: FailingDaemon, bystanders: list[subprocess.Popen[bytes]]
) -> None:
    failing.script(bash("echo ran >> count.log; sleep 300"), text("checked"))
    failing.begin()
    run_id = failing.submit(failing.session("s", "bypass"))
    process = failing.until("s", "tool_call.started")["process"]
    wait_until((failing.work / "count.log").exists)
    failing.kill()
    os.killpg(process["pid"], signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{process['pid']}").exists())
    bystanders.append(as_pid(process["pid"]))
    assert identify(process["pid"]).start_ticks != process["start_ticks"]
    failing.begin()
    assert failing.finish(run_id)["outputs"] == ["checked"]
    wait_until(lambda: "process.ended" in failing.types("s"))
    assert bystanders[0].poll() is None
    assert (failing.work / "count.log").read_text() == "ran\n"


def test_who_has_the_pid_of_a_dead_daemon_by_now_does_not_hold_its_root(
    failing: FailingDaemon, bystanders: list[subprocess.Popen[bytes]]
) -> None:
    failing.script(text("hi"))
    failing.begin()
    pid = failing.pid
    failing.kill()
    bystanders.append(as_pid(pid))
    owner = locks.read_owner(failing.state)
    assert owner is not None and owner.pid == bystanders[0].pid
    assert failing.cli("daemon", "status").returncode != 0
    failing.begin()
    assert run(failing, failing.session("s")) == "completed"
    assert bystanders[0].poll() is None
