"""What a daemon takes up when it starts: the saved index, and the work that is owed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kheish.core.contracts import ModelRequest, Reply
from kheish.runtime.index import Index, SessionSummary
from kheish.store.session_dir import SessionInfo
from tests.runtime.kernel import Kernel


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
