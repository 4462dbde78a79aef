"""What is done to all sessions is done to each, whatever is wrong with another."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from kheish.daemon import maintenance, retracing
from kheish.errors import Corrupt
from kheish.runtime import actor
from kheish.store.records import segment_name
from tests.runtime.kernel import Kernel, reply


@pytest.fixture
async def root(tmp_path: Path) -> Path:
    async with Kernel(tmp_path, []) as kernel:
        for name in "abc":
            await kernel.create(name)
    return tmp_path


def make_unreadable(directory: Path) -> None:
    path = directory / segment_name(1)
    path.unlink()
    path.mkdir()


def delete(directory: Path) -> None:
    directory.rename(directory.parent.parent / "deleted")


@pytest.mark.parametrize("happen", [make_unreadable, delete])
def test_every_session_is_verified_and_packed_where_one_cannot_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, happen: Callable[[Path], None]
) -> None:
    """Such as one that is deleted after the sessions were listed."""
    names = ["a", "b", "c"]
    happen(root / "sessions" / "b")
    assert [(item.session_id, bool(item.faults)) for item in maintenance.verify(root, names)] == [
        ("a", False),
        ("b", True),
        ("c", False),
    ]
    packed = list(maintenance.vacuum(root, names))
    assert [item.session_id for item in packed] == names
    assert [item.problem for item in packed if item.session_id != "b"] == ["", ""]


async def test_a_journal_that_lost_what_a_checkpoint_has_seen_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole in itself, and its archive might take the place of a good one."""
    monkeypatch.setattr(actor, "CHECKPOINT_AT_IDLE_RECORDS", 1)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
    path = tmp_path / "sessions" / "s" / segment_name(1)
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    archive = io.BytesIO()
    with pytest.raises(Corrupt) as caught:
        maintenance.export(tmp_path, "s", archive)
    assert (caught.value.details["file"], caught.value.details["line"]) == (str(path), whole.count(b"\n"))
    assert archive.getvalue() == b""
    path.write_bytes(whole)
    maintenance.export(tmp_path, "s", archive)


async def test_a_run_is_found_without_a_daemon_where_another_session_cannot_be_read(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        for name in "ab":
            await kernel.create(name)
        run_id = await kernel.submit(session_id="b")
    make_unreadable(tmp_path / "sessions" / "a")
    assert retracing.find_run(tmp_path, run_id) == ("b", run_id)
