"""What sessions and the state root may take: new work is refused from there on, what runs goes on, and the figures are
those of the disk without a look at it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kheish.config import Quotas, Size, Store
from kheish.core import commands as c
from kheish.errors import StoreError
from kheish.limits import KIB
from kheish.runtime import quotas
from kheish.store.blobs import Blobs
from kheish.store.disk_space import file_sizes
from kheish.store.vacuum import vacuum_session
from tests.runtime.kernel import Kernel, reply

BY_HAND = Store(vacuum="manual")


def taken(root: Path, session_id: str = "s") -> int:
    return sum(file_sizes(root / "sessions" / session_id).values())


def limits(*, session: int = 0, state: int = 0) -> Quotas:
    return Quotas(session_bytes=Size(session), state_bytes=Size(state))


async def refusal(kernel: Kernel, command: c.Command, session_id: str, key: str = "") -> StoreError:
    with pytest.raises(StoreError) as caught:
        await kernel.send(command, session_id, key=key)
    assert (caught.value.status, caught.value.code) == (503, "quota_exceeded")
    return caught.value


MORE = c.SubmitRun(text="more", route="test", model="m")


async def test_a_session_over_its_quota_ends_what_it_has_and_takes_no_more_while_others_do(tmp_path: Path) -> None:
    asks = reply("", ("bash", {"command": "true"}))
    async with Kernel(tmp_path, [asks, reply("done")], quotas=limits(session=8 * KIB)) as kernel:
        await kernel.create()
        run_id = await kernel.submit("x" * 8 * KIB, key="first")
        state = await kernel.until(lambda s: bool(s.approvals))
        error = await refusal(kernel, MORE, "s", key="second")
        for told in (
            "session s takes 1",
            "of 8.2 KB",
            "quotas.session_bytes",
            "sessions vacuum s",
            "what runs goes on",
        ):
            assert told in error.message
        assert error.details["used_bytes"] == taken(tmp_path)
        assert await kernel.send(MORE, key="first") == run_id, "what was taken before is known"
        allow = c.ApprovalResolution(request_id=next(iter(state.approvals)), resolution="allow")
        await kernel.send(c.ResolveApprovals(resolutions=(allow,)))
        await kernel.until_status(run_id, "completed")
        await kernel.create("other")
        await kernel.submit("go", "other")


async def test_a_full_state_root_takes_no_session_no_input_and_no_attachment(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")], quotas=limits(state=64 * KIB)) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        data = b"x" * 64 * KIB
        await kernel.supervisor.put_blob(data)
        await kernel.supervisor.put_blob(data)
        for command, session_id in ((MORE, "s"), (c.CreateSession(session_id="t", cwd="/"), "t")):
            error = await refusal(kernel, command, session_id)
            assert "quotas.state_bytes" in error.message and "vacuum --all" in error.message
            assert error.details["used_bytes"] == taken(tmp_path) + len(data), "the same bytes are there once"
        with pytest.raises(StoreError, match="store an attachment"):
            await kernel.supervisor.put_blob(b"other")
        assert await kernel.supervisor.put_blob(data), "what is there already takes nothing"
        assert not (tmp_path / "sessions" / "t").exists()


async def test_one_is_warned_from_nine_tenths_on(tmp_path: Path) -> None:
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit("x" * 10_000), "completed")
    used_bytes = taken(tmp_path)
    for quota_bytes, warned in ((used_bytes * 10 // 8, []), (used_bytes * 10 // 9, ["s"]), (used_bytes, ["s"])):
        async with Kernel(tmp_path, [], quotas=limits(session=quota_bytes)) as kernel:
            near = await kernel.supervisor.quotas.near()
            assert [usage.session_id for usage in near] == warned
            assert all(usage.is_over == (quota_bytes == used_bytes) for usage in near)
        async with Kernel(tmp_path, [], quotas=limits(state=quota_bytes)) as kernel:
            assert len(await kernel.supervisor.quotas.near()) == len(warned)


async def test_what_a_session_takes_is_known_through_every_segment_and_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 4)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        for _ in range(8):
            await kernel.until_status(await kernel.submit("x" * 1000), "completed")
        index = kernel.supervisor.index
        assert len(list((tmp_path / "sessions" / "s").glob("journal-*"))) > 3
        assert index.rows["s"].bytes_total == index.bytes_total == taken(tmp_path)
    async with Kernel(tmp_path, [], store=BY_HAND) as kernel:
        index = kernel.supervisor.index
        before = index.rows["s"].bytes_total
        assert before == index.bytes_total == sum(file_sizes(tmp_path / "sessions" / "s").values())
        (tmp_path / "daemon" / "index.jsonl").unlink()
    async with Kernel(tmp_path, [], store=BY_HAND) as kernel:
        assert kernel.supervisor.index.bytes_total == before, "and from the files alone"


async def test_room_that_a_vacuum_made_is_seen_at_once_for_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheish.store.journal.SEGMENT_RECORDS_MAX", 4)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        for _ in range(8):
            await kernel.until_status(await kernel.submit("x" * 1000), "completed")
    async with Kernel(tmp_path, [reply("done")], quotas=limits(session=taken(tmp_path)), store=BY_HAND) as kernel:
        assert (await kernel.supervisor.quotas.over("s")) is not None
        vacuum_session(tmp_path / "sessions" / "s")
        await kernel.until_status(await kernel.submit(), "completed")


async def test_the_state_root_is_looked_at_once_for_all_who_ask_within_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def look(directory: Path) -> dict[str, int]:
        looks.append(directory.name)
        return file_sizes(directory)

    monkeypatch.setattr(quotas, "file_sizes", look)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        for name in ("a", "b"):
            await kernel.create(name)
    async with Kernel(tmp_path, [], quotas=limits(state=1)) as kernel:
        looks.clear()
        for _ in range(3):
            assert (await kernel.supervisor.quotas.over("a")) is not None
        assert sorted(looks) == ["a", "b"]
        loop = asyncio.get_running_loop()
        real_time = loop.time
        monkeypatch.setattr(loop, "time", lambda: real_time() + 3600)
        assert (await kernel.supervisor.quotas.over("a")) is not None
        assert sorted(looks) == ["a", "a", "b", "b"]


async def test_without_a_quota_nobody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(self: object, session_ids: object) -> None:
        raise AssertionError("somebody looked")

    monkeypatch.setattr(quotas.Quotas, "_look", never)
    monkeypatch.setattr(quotas, "file_sizes", never)
    monkeypatch.setattr(Blobs, "measure", never)
    async with Kernel(tmp_path, [reply("done")]) as kernel:
        await kernel.create()
        await kernel.until_status(await kernel.submit(), "completed")
        assert await kernel.supervisor.quotas.near() == []
