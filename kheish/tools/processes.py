"""Processes of tool calls: who they are, who descends from them, and how all of them end.

A process is known by pid *and* start time *and* boot, so that a recycled pid is never taken for it. Its descendants
are found by parentage, process group and session, and by the mark that every process of a call inherits in its
environment (KHEISH_TOOL_CALL_ID): the mark still finds them when a `setsid` and a dead parent have cut every other
tie. A process that also wipes its environment escapes; only a sandbox could hold it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import msgspec

from kheish.core.events import Process
from kheish.limits import TREES_ENDED_AT_ONCE_MAX
from kheish.store.atomic import is_shortage

MARK = "KHEISH_TOOL_CALL_ID"
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|_PWD|CREDENTIAL|COOKIE", re.IGNORECASE)
_IS_LINUX = sys.platform.startswith("linux")
_ROUNDS_MAX = 50
_PARENTS_MAX = 256
_SETTLE_S = 0.01
_ENDING = ThreadPoolExecutor(TREES_ENDED_AT_ONCE_MAX, "kheish-end")


class _Row(msgspec.Struct, frozen=True):
    pid: int
    ppid: int
    pgid: int
    sid: int
    start_ticks: int
    is_zombie: bool


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """What a tool's process inherits of the daemon's environment: nothing whose name looks like a secret."""
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


@cache
def boot_id() -> str:
    """Identifies this boot of the machine; start times of another boot mean nothing."""
    if _IS_LINUX:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    return _run("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid").strip()


def identify(pid: int) -> Process:
    """The identity of a live (or not yet reaped) process. Raises ProcessLookupError."""
    row = _read_row(pid)
    if row is None:
        raise ProcessLookupError(pid)
    return Process(pid=pid, start_ticks=row.start_ticks, boot_id=boot_id())


def is_alive(process: Process) -> bool:
    row = _read_row(process.pid) if process.boot_id == boot_id() else None
    return row is not None and row.start_ticks == process.start_ticks and not row.is_zombie


def is_descendant(pid: int, ancestor: int) -> bool:
    """Whether `pid` is `ancestor` or one of its descendants now; who has more above it than one looks at is, too.

    What is older than the ancestor has it above itself nowhere, as far as start times are not those of a clock that may
    be set. A parent that cannot be read has ended, and its child has another one now; or it is another user's.
    """
    first = _read_row(ancestor) if _IS_LINUX else None
    at, child, lost = pid, 0, (0, 0)
    for _ in range(_PARENTS_MAX):
        if at == ancestor:
            return True
        row = _read_row(at) if at > 0 else None
        if row is not None:
            if first is not None and row.start_ticks < first.start_ticks:
                return False
            child, at = at, row.ppid
        elif at <= 0 or at == pid or (child, at) == lost:
            return False
        else:
            at, lost = pid, (child, at)
    return True


def kill_tree(process: Process, tool_call_id: str, grace_ms: int) -> bool:
    """Ends a process and all its descendants: SIGTERM, after the grace SIGKILL, until none is left. Blocks, also until
    it can look; returns whether there was anything to end. A leader that has exited and was not yet waited for still
    names its group."""
    if process.boot_id != boot_id():
        return False
    found = False
    for round_ in range(_ROUNDS_MAX):
        members = _await_members(process, tool_call_id)
        if not members:
            break
        found = True
        # Stragglers that were forked while the first signal went out get no second grace.
        _signal(members, signal.SIGTERM if round_ == 0 and grace_ms else signal.SIGKILL)
        _await_exit(members, grace_ms / 1000 if round_ == 0 else 1.0)
        _reap(members - {process.pid})
    return found


async def end_tree(process: Process, tool_call_id: str, grace_ms: int) -> bool:
    """`kill_tree` on threads that do nothing else: it waits for who does not listen, and nobody is to wait for that."""
    return await asyncio.get_running_loop().run_in_executor(_ENDING, kill_tree, process, tool_call_id, grace_ms)


def _await_members(process: Process, tool_call_id: str) -> set[int]:
    while True:
        try:
            return _members(process, tool_call_id)
        except OSError as error:
            if not is_shortage(error):
                raise
        time.sleep(_SETTLE_S)


def _members(process: Process, tool_call_id: str) -> set[int]:
    rows = _read_rows()
    if os.getpid() not in rows:
        raise OSError(errno.EMFILE, "the processes of this machine cannot be read")
    leader = rows.get(process.pid)
    mine: set[int] = set()
    if leader is not None and leader.start_ticks == process.start_ticks:
        mine = {process.pid}
        mine.update(r.pid for r in rows.values() if process.pid in (r.pgid, r.sid))
    if tool_call_id:
        # Who started before the leader cannot come from it.
        others = (r for r in rows.values() if r.start_ticks >= process.start_ticks and r.pid not in mine)
        mine.update(r.pid for r in others if not r.is_zombie and _is_marked(r.pid, tool_call_id))
    children: dict[int, list[int]] = {}
    for row in rows.values():
        children.setdefault(row.ppid, []).append(row.pid)
    frontier = list(mine)
    while frontier:
        for pid in children.get(frontier.pop(), ()):
            if pid not in mine:
                mine.add(pid)
                frontier.append(pid)
    mine.discard(os.getpid())
    _reap({pid for pid in mine if pid != process.pid and rows[pid].is_zombie})
    return {pid for pid in mine if not rows[pid].is_zombie}


def _is_marked(pid: int, tool_call_id: str) -> bool:
    """Whether a process carries the mark of a call. One that is becoming another program has no environment for a
    moment; it is asked again after it."""
    has_settled = not _IS_LINUX
    for _ in range(_ROUNDS_MAX):
        if environment := _read_environment(pid):
            return _find_variable(environment, MARK) == tool_call_id
        if has_settled:
            return False
        has_settled = not _is_becoming(pid)
        if not has_settled:
            time.sleep(_SETTLE_S)
    return False


def _is_becoming(pid: int) -> bool:
    """Whether the system is laying out a new program for this process: it has memory, and no environment yet."""
    fields = _read_stat(pid)
    return bool(fields) and int(fields[20]) > 0 and int(fields[48]) == 0


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _await_exit(pids: set[int], timeout_s: float) -> None:
    """Returns when all have exited, or after the timeout."""
    deadline = time.monotonic() + timeout_s
    if not hasattr(os, "pidfd_open"):
        while time.monotonic() < deadline and any((r := _read_row(p)) and not r.is_zombie for p in pids):
            time.sleep(_SETTLE_S)
        return
    poll = select.poll()
    descriptors = set()
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, OSError):
                fd = os.pidfd_open(pid)
                descriptors.add(fd)
                poll.register(fd, select.POLLIN)
        left = set(descriptors)
        while left and (remaining := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(remaining * 1000):
                poll.unregister(fd)
                left.discard(fd)
    finally:
        for fd in descriptors:
            os.close(fd)


def _reap(pids: set[int]) -> None:
    """Takes in orphans that came to this process because it is their subreaper."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def read_variable(pid: int, name: str) -> str:
    """A variable of a process's initial environment; "" where it has none or the system does not tell."""
    return _find_variable(_read_environment(pid), name)


def _find_variable(environment: bytes, name: str) -> str:
    prefix = f"{name}=".encode()
    found = (entry for entry in environment.split(b"\0") if entry.startswith(prefix))
    return next(found, prefix)[len(prefix) :].decode("utf-8", "replace")


def _read_environment(pid: int) -> bytes:
    """Empty where there is none or the system does not tell."""
    return _read(f"/proc/{pid}/environ") if _IS_LINUX else b""


def _read_rows() -> dict[int, _Row]:
    if not _IS_LINUX:
        lines = _run("/bin/ps", "-axo", "pid=,ppid=,pgid=,stat=,lstart=").splitlines()
        return {row.pid: row for line in lines if (row := _parse_ps(line)) is not None}
    rows = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (row := _read_row(int(name))) is not None:
            rows[row.pid] = row
    return rows


def _read_row(pid: int) -> _Row | None:
    if not _IS_LINUX:
        return _parse_ps(_run("/bin/ps", "-p", str(pid), "-o", "pid=,ppid=,pgid=,stat=,lstart="))
    fields = _read_stat(pid)
    if not fields:
        return None
    return _Row(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        sid=int(fields[3]),
        start_ticks=int(fields[19]),
        is_zombie=fields[0] in (b"Z", b"X"),
    )


def _read_stat(pid: int) -> list[bytes]:
    """Fields 3 and on of proc(5)'s stat; none where there is no such process."""
    text = _read(f"/proc/{pid}/stat")
    # Field 2, the name, is in parentheses and may hold anything.
    return text[text.rindex(b")") + 2 :].split() if text else []


def _read(path: str) -> bytes:
    """Empty where the system does not tell. Raises OSError where this process alone cannot read for now."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if is_shortage(error):
            raise
        return b""


def _parse_ps(line: str) -> _Row | None:
    fields = line.split(None, 4)
    if len(fields) < 5:
        return None
    pid, ppid, pgid = (int(field) for field in fields[:3])
    started = int(time.mktime(time.strptime(fields[4].strip())))
    return _Row(pid=pid, ppid=ppid, pgid=pgid, sid=pgid, start_ticks=started, is_zombie=fields[3].startswith("Z"))


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False).stdout
