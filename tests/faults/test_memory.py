"""A daemon is killed for want of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import oracles, scene
from tests.faults.conftest import wait_until
from tests.faults.life import POLL_S, Life

pytestmark = pytest.mark.slow


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
