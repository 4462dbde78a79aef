"""Looking at the room on the disk: off the event loop, once for all who ask at a time, and never for nobody."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheish.limits import DISK_LOW_BYTES, MIB
from kheish.runtime import disk_watch
from kheish.runtime.disk_watch import DiskWatch, disk_low
from kheish.store.committer import Committer
from kheish.store.disk_space import DiskSpace, disk_space

ROOM, NO_ROOM = DiskSpace(100, 10), DiskSpace(9, 10)


def test_room_is_told_in_what_reads_best() -> None:
    assert str(DiskSpace(75_598 * MIB, 64 * MIB)) == "73.8 GiB free, 64.0 MiB kept for work that is under way"
    assert str(DiskSpace(1023 * MIB, 1024 * MIB)) == "1023.0 MiB free, 1.0 GiB kept for work that is under way"


class Disk:
    """What is seen of it, and from where."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.space: DiskSpace | OSError = ROOM
        self.looks: list[str] = []
        monkeypatch.setattr(disk_watch, "disk_space", self._look)

    def _look(self, path: Path) -> DiskSpace:
        self.looks.append(threading.current_thread().name)
        if isinstance(self.space, OSError):
            raise self.space
        return self.space


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncIterator[DiskWatch]:
    committer = Committer(asyncio.get_running_loop())
    yield DiskWatch(tmp_path, committer)
    await committer.close()


async def test_who_asks_at_a_time_is_told_by_one_look_of_a_worker(disk: Disk, watch: DiskWatch) -> None:
    disk.space = NO_ROOM
    answers = await asyncio.gather(*(watch.problem() for _ in range(50)))
    assert len(set(answers)) == 1 and "almost full" in answers[0]
    assert [name.startswith("kheish-store") for name in disk.looks] == [True]


async def test_a_look_is_stale_after_a_moment_and_nobody_looks_before_somebody_asks(
    disk: Disk, watch: DiskWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    shift_s = 0.0
    real_time = loop.time
    monkeypatch.setattr(loop, "time", lambda: real_time() + shift_s)
    assert disk.looks == []
    assert await watch.problem() == ""
    disk.space = NO_ROOM
    assert await watch.problem() == "", "still as it was a moment ago"
    shift_s = 3600.0
    await asyncio.sleep(0)
    assert len(disk.looks) == 1, "the time alone makes nobody look"
    assert await watch.problem() != ""
    disk.space = ROOM
    shift_s = 7200.0
    assert await watch.problem() == ""
    assert len(disk.looks) == 3


async def test_one_who_stops_asking_does_not_take_the_answer_from_the_others(disk: Disk, watch: DiskWatch) -> None:
    disk.space = NO_ROOM
    first, second = asyncio.ensure_future(watch.problem()), asyncio.ensure_future(watch.problem())
    await asyncio.sleep(0)
    first.cancel()
    assert "almost full" in await second


async def test_where_one_cannot_look_the_write_has_to_tell(disk: Disk, watch: DiskWatch) -> None:
    disk.space = OSError(errno.EIO, "Input/output error")
    assert await watch.problem() == ""


def test_the_refusal_may_be_tried_again() -> None:
    error = disk_low("take an input", "the disk is almost full")
    assert (error.status, error.code) == (503, "disk_low")
    assert error.message == "cannot take an input: the disk is almost full; what runs goes on"


@pytest.mark.parametrize(
    ("total_bytes", "kept_bytes"),
    [(1024 * 1024 * MIB, DISK_LOW_BYTES), (1024 * MIB, DISK_LOW_BYTES), (16 * MIB, MIB), (0, 0)],
)
def test_little_is_kept_of_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total_bytes: int, kept_bytes: int
) -> None:
    block = 4096
    for free_bytes in {max(0, kept_bytes - block), kept_bytes, total_bytes}:
        found = (1, block, total_bytes // block, free_bytes // block + 7, free_bytes // block, 0, 0, 0, 0, 255)
        monkeypatch.setattr(os, "statvfs", lambda _, found=found: os.statvfs_result(found))
        space = disk_space(tmp_path)
        assert space == (free_bytes, kept_bytes), "what only root may use does not count"
        assert space.is_low == (free_bytes < kept_bytes)
