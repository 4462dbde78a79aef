"""A process is who it is by pid, start and boot; and a tree of them ends as a whole, whatever it does to get away."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from kheish.core.events import Process
from kheish.tools import processes
from kheish.tools.processes import MARK, boot_id, identify, is_alive, is_descendant, kill_tree, read_variable

GRACE_MS = 20_000
CALL_ID = "toolcall_of_this_test"


class Started:
    """A shell in a session of its own that has said `ready`; what it writes after that can be awaited."""

    def __init__(self, script: str, env: dict[str, str] | None = None) -> None:
        self.popen = subprocess.Popen(
            ["bash", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        self.process = identify(self.popen.pid)
        self.others: list[Process] = []
        while (line := self.line()) != "ready":
            self.others.append(identify(int(line)))

    def line(self) -> str:
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().rstrip("\n")

    def let_exit(self) -> None:
        """Lets its `read` return, and takes in its status."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        self.popen.wait()

    def close(self) -> None:
        for process in (self.process, *self.others):
            if is_alive(process):
                os.kill(process.pid, signal.SIGKILL)
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream is not None
            stream.close()


class Starter:
    def __init__(self) -> None:
        self.all: list[Started] = []

    def __call__(self, script: str, env: dict[str, str] | None = None) -> Started:
        self.all.append(Started(script, env))
        return self.all[-1]


@pytest.fixture
def start() -> Iterator[Starter]:
    starter = Starter()
    try:
        yield starter
    finally:
        for started in starter.all:
            started.close()


# -- who it is --------------------------------------------------------------------------------------------------------


def test_a_process_is_known_by_pid_start_and_boot(start: Starter) -> None:
    me, other = identify(os.getpid()), start("echo ready; read").process
    assert me == identify(os.getpid())
    assert me.pid == os.getpid() and me.boot_id == boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text()[:36]
    assert other.start_ticks >= me.start_ticks > 0
    assert is_alive(me) and is_alive(other)


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "of another boot"}])
def test_another_process_with_its_pid_is_not_taken_for_it(start: Starter, change: dict[str, object]) -> None:
    started = start("sleep 1000 & echo $!; echo ready; read")
    recycled = replace(started.process, **change)
    assert not is_alive(recycled)
    assert kill_tree(recycled, CALL_ID, GRACE_MS) is False
    assert is_alive(started.process) and is_alive(started.others[0])


def test_who_is_gone_has_no_identity(start: Starter) -> None:
    started = start("echo ready; read")
    started.let_exit()
    with pytest.raises(ProcessLookupError):
        identify(started.process.pid)
    assert not is_alive(started.process)
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is False


def test_who_has_exited_and_was_not_waited_for_is_not_alive(start: Starter) -> None:
    started = start("echo ready; read")
    assert started.popen.stdin is not None
    started.popen.stdin.close()
    os.waitid(os.P_PID, started.process.pid, os.WEXITED | os.WNOWAIT)
    assert identify(started.process.pid) == started.process
    assert not is_alive(started.process)
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is False


def test_a_name_with_parentheses_does_not_confuse_it(start: Starter, tmp_path: Path) -> None:
    program = tmp_path / ") S 1 (x"
    sleep = shutil.which("sleep")
    assert sleep is not None
    shutil.copy(sleep, program)
    started = start(f"'{program}' 1000 & echo $!; while ! grep -q 'S 1' /proc/$!/comm; do :; done; echo ready; read")
    sleeping = started.others[0]
    assert is_alive(sleeping)
    assert is_descendant(sleeping.pid, os.getpid()) and not is_descendant(sleeping.pid, os.getpid() + 100_000)


def test_descent_is_told_through_every_generation(start: Starter) -> None:
    child = start("bash -c 'sleep 1000 & echo $!; wait' & echo $!; echo ready; read")
    while len(child.others) < 2:
        child.others.append(identify(int(child.line())))
    for process in (child.process, *child.others):
        assert is_descendant(process.pid, os.getpid())
        assert is_descendant(process.pid, process.pid)
        assert not is_descendant(os.getpid(), process.pid)
    other = start("echo ready; read")
    assert not is_descendant(other.process.pid, child.process.pid)


def test_everything_descends_from_the_first_process() -> None:
    pid = os.getpid()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert is_descendant(os.getpid(), 1) is (pid == 1), "a daemon that is the first process of a container has children"
    assert not is_descendant(1, os.getpid())
    assert not is_descendant(0, os.getpid())


Rows = Callable[..., dict[int, processes._Row]]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    """Makes a table of processes, `pid=(ppid, start)`, the only ones there are."""

    def make(table: dict[int, tuple[int, int]]) -> dict[int, processes._Row]:
        made = {
            pid: processes._Row(pid=pid, ppid=ppid, pgid=pid, sid=pid, start_ticks=at, is_zombie=False)
            for pid, (ppid, at) in table.items()
        }
        monkeypatch.setattr(processes, "_read_row", made.get)
        return made

    return make


def test_a_child_that_seems_older_after_the_clock_was_set_back_is_a_child_still(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system tells start times by a clock that may be set, and in local time, which an hour has twice."""
    monkeypatch.setattr(processes, "_IS_LINUX", False)
    rows({1: (0, 10), 5: (1, 5_000), 6: (5, 1_400), 7: (6, 1_401)})
    assert is_descendant(7, 5) and is_descendant(6, 5) and not is_descendant(1, 5)


def test_no_number_of_generations_hides_descent(rows: Rows) -> None:
    rows({1: (0, 1), 5: (1, 1)} | {pid: (pid - 1, 1) for pid in range(6, 3_000)})
    assert all(is_descendant(pid, 5) for pid in (5, 6, 261, 262, 2_999))
    assert not is_descendant(1, 5)


def test_who_loses_a_parent_while_one_looks_is_still_a_descendant(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orphans come to the daemon, or to one of its descendants that takes them in."""
    table = rows({1: (0, 1), 5: (1, 2), 6: (5, 3), 7: (6, 3), 8: (7, 3), 9: (8, 3)})
    dying = {7: 6, 6: 5}

    def read(pid: int) -> processes._Row | None:
        if pid in dying:
            heir = dying.pop(pid)
            table.update({row.pid: replace(row, ppid=heir) for row in table.values() if row.ppid == pid})
            del table[pid]
        return table.get(pid)

    monkeypatch.setattr(processes, "_read_row", read)
    assert is_descendant(9, 5)
    assert not dying


def test_who_has_a_parent_that_may_not_be_seen_is_no_descendant(rows: Rows) -> None:
    rows({5: (1, 2), 8: (7, 3), 9: (8, 3)})
    assert not is_descendant(9, 5)
    assert not is_descendant(6, 5), "nor who is gone"


def test_a_variable_is_read_from_another_process(start: Starter) -> None:
    started = start("echo ready; read", {"ONE": "a=b", "ONE_MORE": "no"})
    assert read_variable(started.process.pid, "ONE") == "a=b"
    assert read_variable(started.process.pid, "NE") == ""
    assert read_variable(started.process.pid, "MISSING") == ""
    started.let_exit()
    assert read_variable(started.process.pid, "ONE") == ""


# -- how a tree ends --------------------------------------------------------------------------------------------------

# Each prints the pid of what gets away.
ESCAPES = {
    "a child": "sleep 1000 & echo $!",
    "a grandchild": "bash -c 'sleep 1000 & echo $!; wait' &",
    "a group of its own": "set -m; sleep 1000 & echo $!",
    "a session of its own": "setsid bash -c 'echo $$; exec sleep 1000' &",
    "an orphan": "(sleep 1000 & echo $!)",
    "an orphan in a session of its own": "(setsid bash -c 'echo $$; exec sleep 1000' &)",
    "an orphan with nothing in its environment": "(env -i sleep 1000 & echo $!)",
    "one that is stopped": "sleep 1000 & echo $!; kill -STOP $!",
}


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_tree_ends_with_everything_that_tried_to_get_away(start: Starter, escape: str) -> None:
    started = start(f"{ESCAPES[escape]}\necho ready; read", {MARK: CALL_ID})
    while not started.others:
        started.others.append(identify(int(started.line())))
    grace_ms = 50 if escape == "one that is stopped" else GRACE_MS
    assert kill_tree(started.process, CALL_ID, grace_ms) is True
    assert not [p for p in (started.process, *started.others) if is_alive(p)]


def test_what_a_dead_daemon_left_is_found_by_its_mark(start: Starter) -> None:
    started = start("(setsid bash -c 'echo $$; exec sleep 1000' &); echo ready; read", {MARK: CALL_ID})
    while not started.others:
        started.others.append(identify(int(started.line())))
    started.let_exit()
    assert kill_tree(started.process, "toolcall_of_another", GRACE_MS) is False
    assert is_alive(started.others[0])
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is True
    assert not is_alive(started.others[0])


def test_an_orphan_that_is_just_becoming_another_program_is_looked_at_again(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within exec(2) there is a moment in which the system shows no environment, and so no mark."""
    started = start("(setsid bash -c 'echo $$; exec sleep 1000' &); echo ready; read", {MARK: CALL_ID})
    while not started.others:
        started.others.append(identify(int(started.line())))
    started.let_exit()
    orphan = started.others[0].pid
    while not read_variable(orphan, MARK) or Path(f"/proc/{orphan}/comm").read_text() != "sleep\n":
        time.sleep(0.001)
    assert not processes._is_becoming(orphan) and not processes._is_becoming(2**22 + 1)
    looks = 0

    def in_exec_at_first(pid: int) -> bytes:
        nonlocal looks
        looks += pid == orphan
        return b"" if pid == orphan and looks < 3 else read_environment(pid)

    read_environment = processes._read_environment
    monkeypatch.setattr(processes, "_read_environment", in_exec_at_first)
    monkeypatch.setattr(processes, "_is_becoming", lambda pid: pid == orphan and looks < 3)
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is True
    assert not is_alive(started.others[0])


def test_one_tree_ends_and_its_neighbour_does_not(start: Starter) -> None:
    one = start("sleep 1000 & echo $!; echo ready; read", {MARK: CALL_ID})
    other = start("sleep 1000 & echo $!; echo ready; read", {MARK: f"{CALL_ID}_2"})
    assert kill_tree(one.process, CALL_ID, GRACE_MS) is True
    assert is_alive(other.process) and is_alive(other.others[0])


def test_a_tree_may_say_goodbye_within_its_grace(start: Starter) -> None:
    started = start("trap 'echo goodbye; exit 3' TERM; echo ready; while :; do read; done")
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is True
    assert started.line() == "goodbye"
    assert started.popen.wait() == 3


def test_who_does_not_listen_is_killed_after_the_grace(start: Starter) -> None:
    started = start("trap '' TERM; echo ready; read")
    assert kill_tree(started.process, CALL_ID, 50) is True
    assert started.popen.wait() == -signal.SIGKILL


def test_without_a_grace_there_is_no_goodbye(start: Starter) -> None:
    started = start("trap 'echo goodbye; exit 3' TERM; echo ready; while :; do read; done")
    assert kill_tree(started.process, CALL_ID, 0) is True
    assert started.popen.wait() == -signal.SIGKILL


def test_who_forks_as_it_is_told_to_end_leaves_nobody(start: Starter) -> None:
    started = start("trap 'sleep 1000 & echo $!; exit' TERM; echo ready; while :; do read; done", {MARK: CALL_ID})
    assert kill_tree(started.process, CALL_ID, GRACE_MS) is True
    late = int(started.line())
    with contextlib.suppress(ProcessLookupError):
        assert not is_alive(identify(late))


ENDER = """
import ctypes, os, subprocess
from kheish.tools.processes import identify, kill_tree

ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # as the daemon: orphans come to it
leader = subprocess.Popen(
    ["bash", "-c", "(setsid sleep 1000 & echo $!); read"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
)
orphan = int(leader.stdout.readline())
assert kill_tree(identify(leader.pid), os.environ["KHEISH_TOOL_CALL_ID"], 20_000)
assert not os.path.exists(f"/proc/{orphan}"), "it stays as a zombie"
assert leader.wait() == -15
print("alive")
"""


def test_a_daemon_takes_in_the_orphans_that_it_ended_and_outlives_them() -> None:
    """Even one that runs inside a tool call of another daemon, and so carries the same mark."""
    env = {**os.environ, MARK: CALL_ID}
    done = subprocess.run([sys.executable, "-c", ENDER], capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_daemon_that_was_started_inside_a_call_outlives_the_end_of_that_call() -> None:
    code = (
        "import os\n"
        "from kheish.tools.processes import identify, kill_tree\n"
        "assert kill_tree(identify(os.getppid()), os.environ['KHEISH_TOOL_CALL_ID'], 20_000)\n"
        "print('alive')\n"
    )
    command = ["bash", "-c", '"$1" -c "$2"; sleep 1000', "leader", sys.executable, code]
    env = {**os.environ, MARK: CALL_ID}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, start_new_session=True)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "alive\n"), done.stderr


def test_where_no_descriptor_is_left_to_look_with_a_tree_ends_as_soon_as_there_is_one(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("echo ready; read -r").process
    limits, listdir = resource.getrlimit(resource.RLIMIT_NOFILE), os.listdir
    shortages = iter([3])

    def list_at_last(path: str) -> list[str]:
        names = listdir(path)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next(shortages, limits[0]), limits[1]))
        return names

    with monkeypatch.context() as patched:
        patched.setattr(os, "listdir", list_at_last)
        patched.setattr(time, "sleep", lambda _: resource.setrlimit(resource.RLIMIT_NOFILE, limits))
        try:
            assert kill_tree(process, CALL_ID, 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not is_alive(process)
