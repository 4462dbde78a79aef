"""What a session wrote is packed once it is put away, and goes on as before: nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kheish.config import Store
from kheish.limits import PACKING_REST_MS, PACKING_SLICE_MS
from kheish.runtime import actor, packer, residents
from kheish.store import atomic, session_dir
from kheish.store.disk_space import file_sizes
from kheish.store.verify import verify_session
from tests.runtime.kernel import Kernel, reply

STEPS = 4
"""Of a run whose records take more than is worth a file of its own, here."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 1)
    monkeypatch.setattr(actor, "PACKED_WHEN_IDLE_BYTES", 1000)


def segments(root: Path, session_id: str = "s") -> list[str]:
    return sorted(path.name for path in (root / "sessions" / session_id).glob("journal-*"))


def packed_of(root: Path) -> list[bool]:
    """Whether each segment is."""
    return [name.endswith(".gz") for name in segments(root)]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def run(kernel: Kernel, text: str = "x" * 1000, session_id: str = "s") -> None:
    subscription = kernel.supervisor.hub.subscribe(session_id=session_id)
    await kernel.submit(text, session_id)
    async for frame in subscription:
        if frame.ends:
            break
    subscription.close()


async def test_a_session_that_is_put_away_is_packed_and_goes_on_as_before(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        for number in range(3):
            await run(kernel)
            await until(lambda packed=number + 1: packed_of(tmp_path) == [True] * packed + [False])
        assert [record.seq for record in await kernel.supervisor.reader.read_records("s", 0, 100)] == list(range(1, 8))
        assert len(await kernel.supervisor.reader.messages("s")) == 6
        await until(lambda: not kernel.supervisor.loaded_total)
        row = kernel.supervisor.index.rows["s"]
        await until(lambda: row.bytes_total == sum(file_sizes(tmp_path / "sessions" / "s").values()))
    assert verify_session(tmp_path / "sessions" / "s") == []


async def test_little_is_not_worth_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "PACKED_WHEN_IDLE_BYTES", 100_000)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await run(kernel)
        await until(lambda: not kernel.supervisor.loaded_total)
    assert len(segments(tmp_path)) == 1


async def test_where_a_person_does_it_by_hand_the_daemon_does_not(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")], store=Store(vacuum="manual")) as kernel:
        await kernel.create()
        await run(kernel)
        await until(lambda: not kernel.supervisor.loaded_total)
    assert len(segments(tmp_path)) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kheish-pack")]


async def test_an_index_row_of_a_packed_session_is_used_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await run(kernel)
        await until(lambda: len(segments(tmp_path)) == 2 and not kernel.supervisor.loaded_total)
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert kernel.supervisor.index.load().stale == []
        await run(kernel)
        assert len((await kernel.state()).runs) == 2


async def test_what_an_earlier_daemon_left_is_packed_after_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 2)
    async with Kernel(tmp_path, [reply("done")], store=Store(vacuum="manual")) as kernel:
        await kernel.create()
        await run(kernel)
        await run(kernel)
    plain = segments(tmp_path)
    async with Kernel(tmp_path, []):
        await until(lambda: segments(tmp_path) == [*(f"{name}.gz" for name in plain[:-1]), plain[-1]])


async def test_one_that_is_used_meanwhile_is_not_waited_for_and_is_packed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def stuck(self: object) -> None:
        held.set()
        assert go_on.wait(10)

    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        with monkeypatch.context() as patched:
            patched.setattr(packer._Pace, "__call__", stuck)
            await run(kernel)
            await until(held.is_set)
            monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 60_000)
            await run(kernel, "y" * 1000)
            go_on.set()
            assert packed_of(tmp_path) == [False, False]
        monkeypatch.setattr(residents, "SESSION_UNLOAD_AFTER_MS", 1)
        kernel.supervisor._residents._unload_idle()
        await until(lambda: packed_of(tmp_path) == [True, True, False])
        assert len(await kernel.supervisor.reader.messages("s")) == 4


async def test_whoever_comes_while_the_disk_is_slow_to_exchange_names_finds_the_session_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, sync_dir = threading.Event(), atomic.sync_dir

    def sync_slowly(path: Path) -> None:
        if threading.current_thread().name.startswith("kheish-pack"):
            syncs.set()
            assert may_sync.wait(10)
        sync_dir(path)

    may_sync = threading.Event()
    monkeypatch.setattr(session_dir, "_LOCK_PATIENCE_S", 0.01)
    monkeypatch.setattr(atomic, "sync_dir", sync_slowly)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await run(kernel)
        await until(syncs.is_set)
        asyncio.get_running_loop().call_later(0.1, may_sync.set)
        await run(kernel, "y")
        assert len((await kernel.state()).runs) == 2


async def test_a_daemon_that_stops_does_not_wait_for_the_end_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests, rest = threading.Event(), packer._Pace.__call__

    def noting(pace: packer._Pace) -> None:
        rests.set()
        rest(pace)

    monkeypatch.setattr(packer, "PACKING_SLICE_MS", 1e-6)
    monkeypatch.setattr(packer, "PACKING_REST_MS", 1_000)
    monkeypatch.setattr(packer._Pace, "__call__", noting)
    async with asyncio.timeout(10), Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await run(kernel)
        await until(rests.is_set)
    assert not list((tmp_path / "sessions" / "s").glob(".tmp-*"))


def test_it_rests_far_longer_than_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float | None] = []

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout)
            return False

    now_s = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now_s)
    pace = packer._Pace(Stopping(), threading.Event())
    for _ in range(10):
        now_s += PACKING_SLICE_MS / 4000
        pace()
    assert rests == pytest.approx([PACKING_REST_MS / 1000] * 2)


async def test_damage_is_told_and_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 2)
    async with Kernel(tmp_path, [reply("done")], store=Store(vacuum="manual")) as kernel:
        for name in ("hurt", "sound"):
            await kernel.create(name)
            await run(kernel, session_id=name)
    path = tmp_path / "sessions" / "hurt" / segments(tmp_path, "hurt")[0]
    path.write_bytes(path.read_bytes().replace(b'"at"', b'"aT"', 1))
    async with Kernel(tmp_path, []):
        await until(lambda: segments(tmp_path, "sound")[0].endswith(".gz"))
    assert path.exists() and not path.with_name(f"{path.name}.gz").exists()
    assert f"session hurt: cannot pack its journal: cannot read hurt/{path.name} from line 2" in caplog.text
