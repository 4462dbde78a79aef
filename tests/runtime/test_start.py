"""What a daemon takes up when it starts: the saved index, and the work that is owed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kheish.core.contracts import ModelRequest, Reply
from kheish.errors import NotFound
from kheish.runtime.index import Index, SessionSummary
from kheish.runtime.supervisor import Supervisor
from kheish.store import session_dir
from kheish.store.locks import SessionLock
from kheish.store.session_dir import SessionInfo
from tests.runtime.kernel import Kernel, reply


async def never(_: ModelRequest) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


def row(number: int) -> SessionSummary:
    return SessionSummary(
        session_id=f"s{number}",
        title="é\n",
        run_ids=[f"run_{number}"],
        segment="journal-000000000001.jsonl",
        size=number,
    )


def info(number: int, size: int) -> SessionInfo:
    return SessionInfo(f"s{number}", "journal-000000000001.jsonl", size, 0)


def test_every_row_of_a_saved_index_is_taken_over(tmp_path: Path) -> None:
    for count in (0, 1, 100, 101, 250):
        saved, loaded = Index(tmp_path / "index.json"), Index(tmp_path / "index.json")
        saved.save([row(number) for number in range(count)])
        assert loaded.load([info(number, size=number) for number in range(count)]) == []
        assert loaded.rows == {f"s{number}": row(number) for number in range(count)}
        assert all(loaded.session_of_run(f"run_{number}") == f"s{number}" for number in range(count))


def test_a_row_whose_journal_has_grown_is_made_anew(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.json")
    index.save([row(1), row(2)])
    assert Index(tmp_path / "index.json").load([info(1, size=1), info(2, size=3)]) == [info(2, size=3)]


async def test_a_damaged_session_keeps_no_other_from_being_taken_up(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    async with Kernel(tmp_path, [never]) as kernel:
        for name in names:
            await kernel.create(name)
            await kernel.submit("go", name)
    journal = tmp_path / "sessions" / "c" / "journal-000000000001.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"session.created", b"session.dreamed"))
    async with Kernel(tmp_path, [never], generation=2) as kernel:
        while len(kernel.provider.requests) < len(names) - 1:
            await asyncio.sleep(0)
        assert sorted(request.session_id for request in kernel.provider.requests) == ["a", "b", "d", "e"]
        problems = {name: bool(kernel.supervisor.index.rows[name].problem) for name in names}
        assert problems == {name: name == "c" for name in names}


async def test_a_session_that_somebody_else_holds_for_a_moment_is_taken_up_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_dir, "_LOCK_PATIENCE_S", 0.0)
    monkeypatch.setattr(Supervisor._take_up, "__defaults__", (0.02,))
    async with Kernel(tmp_path, [never]) as kernel:
        await kernel.create()
        run_id = await kernel.submit()
    lock = SessionLock(tmp_path / "sessions" / "s").acquire()
    async with Kernel(tmp_path, [reply("done")], generation=2) as kernel:
        assert kernel.supervisor.loaded_total == 0
        assert "another process" in kernel.supervisor.index.rows["s"].problem
        lock.release()
        async with asyncio.timeout(10):
            while not kernel.supervisor.loaded_total:
                await asyncio.sleep(0.005)
        await kernel.until_status(run_id, "completed")
        assert kernel.supervisor.index.rows["s"].problem == ""


async def test_who_creates_a_session_is_not_told_that_a_reader_did_not_find_it(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [never]) as kernel:
        for number in range(20):
            name = f"s{number}"
            found, made = await asyncio.gather(kernel.state(name), kernel.create(name), return_exceptions=True)
            assert made is None
            assert isinstance(found, NotFound) or found.session_id == name
